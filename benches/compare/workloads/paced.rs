//! So many messages a second, which everybody can take: what that costs.

use super::flow::verify;
use super::meter::Meter;
use super::{Workload, less, more, start};
use crate::cell::{Cell, PLAIN};
use crate::load::{HEADER_SIZE, Load, Spec};
use crate::sample::{Absent, Sample, Times};
use crate::servers::{Kind, Order, Role};
use std::thread;
use std::time::Duration;

pub(super) const PACED: Workload = Workload {
    name: "paced",
    about: "16 connections, 64 bytes, r messages a second in all, one subscriber",
    cells: &["r1000", "r10000", "r50000"],
    letters: "r",
    base: Cell {
        connections: 16,
        ..PLAIN
    },
    columns: &[less("CPU % of a core"), more("k msg/s")],
    order,
    measure,
};

fn order(cell: &Cell) -> Order {
    Order::new(Role::Count, HEADER_SIZE + cell.payload)
}

fn measure(kind: &Kind, cell: &Cell, times: Times) -> Result<Sample, Absent> {
    let server = start(kind, &order(cell))?;
    let rate = cell.rate as u64;
    let spec = Spec::paced(server.addr, cell.connections, cell.payload, rate);
    let mut load = Load::start(spec.framing(kind.framing));
    let tally = &server.tallies[0];

    let tail = Duration::from_millis(20);
    load.go_for(times.warm_up + times.time + tail);
    thread::sleep(times.warm_up);
    let (meter, before) = (Meter::start(), tally.messages());
    thread::sleep(times.time);
    let (spent, after) = (meter.stop(), tally.messages());

    let sent = load.report();
    let kilorate = (after - before) as f64 / 1e3 / spent.seconds;
    // Where the machine is too busy for the pace, what it would have cost.
    let pace = cell.rate as f64 / 1e3;
    let values = vec![spent.server_cores * 100.0 / kilorate * pace, kilorate];
    let verified = verify(kind, cell, &server, &mut load, &sent);
    Ok(spent.sample(values, sent.cores(), verified))
}
