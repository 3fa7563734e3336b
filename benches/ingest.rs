//! Messages from 1 to 256 connections to one subscriber that misses none.
//!
//! One iteration is a fixed number of messages, about 10 ms worth; the time ends when the
//! subscriber has taken the last one.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    reason = "a measuring program: it reads the clock and may end with a panic"
)]

mod load;

use criterion::{Criterion, SamplingMode, Throughput};
use load::{HEADER_SIZE, Load, Service, Spec};
use nebnet::Config;
use std::time::{Duration, Instant};

const QUEUE_MESSAGES: usize = 65_536;
const QUEUE_BYTES: usize = 16 << 20;

/// Payload sizes, each with the messages of one iteration.
const SIZES: [(usize, u64); 3] = [(16, 1 << 20), (256, 1 << 18), (4096, 1 << 14)];

fn main() {
    if load::run_if_child() {
        return;
    }
    let mut criterion = Criterion::default().configure_from_args();
    ingest(&mut criterion);
    shards(&mut criterion);
    criterion.final_summary();
}

fn ingest(criterion: &mut Criterion) {
    for connections in [1, 16, 256] {
        for (payload, messages) in SIZES {
            let name = format!("c{connections}p{payload}");
            let config = Config::default();
            measure(criterion, &name, config, connections, payload, messages);
        }
    }
}

/// The same with one loop and with two, which is worth something where there are processors for
/// them: two threads each, the subscriber and the load generator.
fn shards(criterion: &mut Criterion) {
    for (payload, messages) in &SIZES[..2] {
        for shards in [1, 2] {
            let name = format!("c16p{payload}/shards{shards}");
            let config = Config::default().shards(shards);
            measure(criterion, &name, config, 16, *payload, *messages);
        }
    }
}

fn measure(
    criterion: &mut Criterion,
    name: &str,
    config: Config,
    connections: usize,
    payload: usize,
    messages: u64,
) {
    let mut group = criterion.benchmark_group("ingest");
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    group
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2));
    let bytes = messages * (HEADER_SIZE + payload) as u64;
    group.throughput(Throughput::ElementsAndBytes {
        elements: messages,
        bytes,
    });
    group.bench_function(name, |bencher| {
        let service = Service::start_with(config.clone(), 1, QUEUE_MESSAGES, QUEUE_BYTES);
        let mut load = Load::start(Spec::flood(service.addr, connections, payload));
        let mut sum = 0_u64;
        bencher.iter_custom(|iterations| {
            service.expect(iterations * messages);
            let start = Instant::now();
            load.go(iterations * messages);
            service.wait();
            let elapsed = start.elapsed();
            sum = sum.wrapping_add(load.report().sum);
            elapsed
        });
        assert_eq!(
            service.tallies[0].sum(),
            sum,
            "other messages than those sent"
        );
    });
}
