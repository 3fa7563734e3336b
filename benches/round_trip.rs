//! One message of 64 bytes there and back: a client that waits for each answer, and a subscriber
//! thread that answers through the handle.
//!
//! The client measures, in its own process; criterion sees the mean, the percentiles are printed
//! after it.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    reason = "a measuring program: it reads the clock and may end with a panic"
)]

mod load;

use criterion::Criterion;
use load::{Load, Service, Spec};
use nebnet::Dispatch;
use std::time::Duration;

const PAYLOAD_SIZE: usize = 64;
const PERCENTILE_ROUND_TRIPS: u64 = 20_000;

fn main() {
    if load::run_if_child() {
        return;
    }
    let mut criterion = Criterion::default().configure_from_args();
    round_trip(&mut criterion);
    criterion.final_summary();
}

fn round_trip(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("round_trip");
    group.sample_size(20);
    group
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(4));
    for (name, dispatch) in [("thread", Dispatch::Thread), ("inline", Dispatch::Inline)] {
        let mut stats = None;
        group.bench_function(name, |bencher| {
            let service = Service::start_echo(dispatch);
            let mut load = Load::start(Spec::round_trip(service.addr, PAYLOAD_SIZE));
            bencher.iter_custom(|round_trips| {
                load.go(round_trips);
                load.report().wall
            });
            // Criterion decides how often it asks; percentiles want a number that does not vary.
            load.clear();
            load.go(PERCENTILE_ROUND_TRIPS);
            load.report();
            stats = Some(load.stats());
        });
        if let Some(stats) = stats {
            let micros = |nanoseconds: u64| nanoseconds as f64 / 1e3;
            println!(
                "round_trip/{name}: p50 {:.1} us, p99 {:.1} us, p99.9 {:.1} us of {}",
                micros(stats.p50),
                micros(stats.p99),
                micros(stats.p999),
                stats.messages,
            );
        }
    }
}
