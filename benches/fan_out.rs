//! Messages of 64 bytes from one connection to many subscribers that miss none.
//!
//! One element is one delivery: a message that one subscriber has taken.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    reason = "a measuring program: it reads the clock and may end with a panic"
)]

mod load;

use criterion::{Criterion, SamplingMode, Throughput};
use load::{Load, Service, Spec};
use nebnet::Dispatch;
use std::time::{Duration, Instant};

const QUEUE_MESSAGES: usize = 65_536;
const QUEUE_BYTES: usize = 16 << 20;
const PAYLOAD_SIZE: usize = 64;
/// Messages of one iteration: each subscriber takes them all.
const MESSAGES: u64 = 1 << 18;

fn main() {
    if load::run_if_child() {
        return;
    }
    let mut criterion = Criterion::default().configure_from_args();
    fan_out(&mut criterion);
    criterion.final_summary();
}

fn fan_out(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("fan_out");
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    group
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2));
    for subscribers in [1, 8, 64] {
        group.throughput(Throughput::Elements(MESSAGES * subscribers as u64));
        group.bench_function(format!("s{subscribers}"), |bencher| {
            let service =
                Service::start(Dispatch::Thread, subscribers, QUEUE_MESSAGES, QUEUE_BYTES);
            let mut load = Load::start(Spec::flood(service.addr, 1, PAYLOAD_SIZE));
            let mut sum = 0_u64;
            bencher.iter_custom(|iterations| {
                service.expect(iterations * MESSAGES);
                let start = Instant::now();
                load.go(iterations * MESSAGES);
                service.wait();
                let elapsed = start.elapsed();
                sum = sum.wrapping_add(load.report().sum);
                elapsed
            });
            for tally in &service.tallies {
                assert_eq!(tally.sum(), sum, "other messages than those sent");
            }
        });
    }
}
