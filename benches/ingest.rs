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
use nebnet::Dispatch;
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
    criterion.final_summary();
}

fn ingest(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ingest");
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    group
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2));
    for connections in [1, 16, 256] {
        for (payload, messages) in SIZES {
            let bytes = messages * (HEADER_SIZE + payload) as u64;
            group.throughput(Throughput::ElementsAndBytes {
                elements: messages,
                bytes,
            });
            group.bench_function(format!("c{connections}p{payload}"), |bencher| {
                let service = Service::start(Dispatch::Thread, 1, QUEUE_MESSAGES, QUEUE_BYTES);
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
    }
}
