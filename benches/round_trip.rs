//! One message of 64 bytes there and back, by a client that waits for each answer, on four roads:
//! an inline handler; a subscriber thread behind `Dispatch::Inline`; the same behind the dispatcher
//! thread; and, as the floor, a thread without a service that reads and writes back.
//!
//! The client measures, in its own process. Criterion sees the mean of one road after the other.
//! What compares them is the table behind that: the roads take turns, each time with a service and
//! a client of their own, so that what disturbs the machine disturbs all of them. The percentiles
//! are medians over the turns.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    reason = "a measuring program: it reads the clock and may end with a panic"
)]

mod load;

use criterion::Criterion;
use load::{Floor, Load, Report, Service, Spec};
use nebnet::Dispatch;
use std::net::SocketAddr;
use std::time::Duration;

const PAYLOAD_SIZE: usize = 64;
/// Turns of each road, and round trips in each: those that warm up, and those that are measured.
const TURNS: usize = 15;
const WARM_UP: u64 = 2_000;
const ROUND_TRIPS: u64 = 10_000;

#[derive(Clone, Copy, Debug)]
enum Road {
    Handler,
    Inline,
    Thread,
    Floor,
}

const ROADS: [(&str, Road); 4] = [
    ("handler", Road::Handler),
    ("inline", Road::Inline),
    ("thread", Road::Thread),
    ("floor", Road::Floor),
];

/// Whoever answers; to be dropped behind the client.
enum Server {
    Service(Box<Service>),
    Floor(Floor),
}

impl Server {
    fn start(road: Road) -> Self {
        match road {
            Road::Handler => Self::service(Service::start_handler()),
            Road::Inline => Self::service(Service::start_echo(Dispatch::Inline)),
            Road::Thread => Self::service(Service::start_echo(Dispatch::Thread)),
            Road::Floor => Self::Floor(Floor::start()),
        }
    }

    fn service(service: Service) -> Self {
        Self::Service(Box::new(service))
    }

    fn addr(&self) -> SocketAddr {
        match self {
            Self::Service(service) => service.addr,
            Self::Floor(floor) => floor.addr,
        }
    }
}

fn main() {
    if load::run_if_child() {
        return;
    }
    let mut criterion = Criterion::default().configure_from_args();
    round_trip(&mut criterion);
    criterion.final_summary();
    let is_test = std::env::args().any(|argument| argument == "--test");
    side_by_side(if is_test { 1 } else { TURNS });
}

fn round_trip(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("round_trip");
    group.sample_size(20);
    group
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(4));
    for (name, road) in ROADS {
        group.bench_function(name, |bencher| {
            let server = Server::start(road);
            let mut load = Load::start(Spec::round_trip(server.addr(), PAYLOAD_SIZE));
            bencher.iter_custom(|round_trips| {
                load.go(round_trips);
                load.report().wall
            });
        });
    }
}

fn side_by_side(turns: usize) {
    let mut all: [Vec<Report>; ROADS.len()] = Default::default();
    for _ in 0..turns {
        for ((_, road), reports) in ROADS.iter().zip(&mut all) {
            reports.push(measure(*road));
        }
    }
    println!("round trips of {PAYLOAD_SIZE} bytes in us, medians of {turns} turns:");
    println!("  road      p50    (from     to)     p99    p99.9");
    for ((name, _), reports) in ROADS.iter().zip(&all) {
        let sorted = |pick: fn(&Report) -> u64| {
            let mut values: Vec<u64> = reports.iter().map(pick).collect();
            values.sort_unstable();
            values
        };
        let micros = |nanoseconds: u64| nanoseconds as f64 / 1e3;
        let median = |pick| micros(sorted(pick)[reports.len() / 2]);
        let p50 = sorted(|report| report.p50);
        println!(
            "  {name:<8} {:>5.1}   ({:>5.1}  {:>5.1})  {:>6.1}   {:>6.1}",
            median(|report| report.p50),
            micros(p50[0]),
            micros(p50[reports.len() - 1]),
            median(|report| report.p99),
            median(|report| report.p999),
        );
    }
}

fn measure(road: Road) -> Report {
    let server = Server::start(road);
    let mut load = Load::start(Spec::round_trip(server.addr(), PAYLOAD_SIZE));
    load.go(WARM_UP);
    load.report();
    load.clear();
    load.go(ROUND_TRIPS);
    load.report();
    load.stats()
}
