//! A message and its answer, by a client that waits for it.

use super::meter::Meter;
use super::{Workload, less, start, wait_for_connections};
use crate::cell::{Cell, PLAIN};
use crate::load::{HEADER_SIZE, Load, Spec};
use crate::sample::{Absent, Sample, Times};
use crate::servers::{Kind, Order, Role};
use std::time::Duration;

pub(super) const ROUND_TRIP: Workload = Workload {
    name: "round-trip",
    about: "64 bytes, answered by the subscriber's thread, beside i idle connections",
    cells: &["i0", "i256", "i5000"],
    letters: "i",
    base: PLAIN,
    columns: &[
        less("p50 us"),
        less("p99 us"),
        less("p99.9 us"),
        less("CPU us"),
    ],
    order,
    measure,
};

/// Before anything is measured.
const WARM_UP_TRIPS: u64 = 1_000;
/// Of these, one in a thousand is five.
const TRIPS_MIN: u64 = 5_000;
/// But no longer than this.
const TIME_MAX: Duration = Duration::from_secs(5);

fn order(cell: &Cell) -> Order {
    Order {
        idle_connections: cell.idle,
        ..Order::new(Role::Echo, HEADER_SIZE + cell.payload)
    }
}

fn measure(kind: &Kind, cell: &Cell, times: Times) -> Result<Sample, Absent> {
    let server = start(kind, &order(cell))?;
    let _idle = (cell.idle > 0).then(|| Load::start(Spec::idle(server.addr, cell.idle)));
    if !wait_for_connections(&server, cell.idle) {
        return Err(Absent::Failed(
            "it did not accept all connections".to_owned(),
        ));
    }
    let spec = Spec::round_trip(server.addr, cell.payload).framing(kind.framing);
    let mut load = Load::start(spec);
    load.go(WARM_UP_TRIPS);
    let each = load.report().wall / WARM_UP_TRIPS as u32;
    load.clear();
    let fit = |time: Duration| (time.as_nanos() / each.as_nanos()) as u64;
    let trips = fit(times.time).max(TRIPS_MIN.min(fit(TIME_MAX)));

    let meter = Meter::start();
    load.go(trips);
    let report = load.report();
    let spent = meter.stop();

    let stats = load.stats();
    let micros = |nanoseconds: u64| nanoseconds as f64 / 1e3;
    let values = vec![
        micros(stats.p50),
        micros(stats.p99),
        micros(stats.p999),
        spent.server_cores * spent.seconds * 1e6 / trips as f64,
    ];
    // The client has compared the number in every answer.
    Ok(spent.sample(values, report.cores(), report.messages == trips))
}
