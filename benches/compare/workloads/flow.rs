//! Messages as fast as they are taken, to subscribers that miss none.

use super::meter::Meter;
use super::{Column, Workload, less, more};
use crate::cell::{Cell, PLAIN};
use crate::load::{HEADER_SIZE, Load, Report, Spec};
use crate::sample::{Sample, Times};
use crate::servers::{Kind, Order, Role, Server};
use std::thread;
use std::time::{Duration, Instant};

/// A number of connections to one subscriber.
pub(super) const INGEST: Workload = Workload {
    name: "ingest",
    about: "c connections, p bytes of payload, one subscriber",
    cells: &[
        "c1p16",
        "c1p256",
        "c1p4096",
        "c16p16",
        "c16p256",
        "c16p4096",
        "c256p16",
        "c256p256",
        "c256p4096",
    ],
    letters: "cp",
    base: PLAIN,
    columns: &[more("M msg/s"), less("CPU s/M"), more("MB/s")],
    order,
    measure,
};

/// One connection, to subscribers that each get everything.
pub(super) const FAN_OUT: Workload = Workload {
    name: "fan-out",
    about: "one connection, 64 bytes, every message to s subscribers; deliveries",
    cells: &["s1", "s8", "s64"],
    letters: "s",
    columns: &DELIVERIES,
    ..INGEST
};

/// 16 connections, to subscribers that each get their share of the types.
pub(super) const MIXED: Workload = Workload {
    name: "mixed",
    about: "16 connections, 64 bytes, t types in turn, each to one of s subscribers",
    cells: &["t64s8"],
    letters: "ts",
    base: Cell {
        connections: 16,
        ..PLAIN
    },
    ..INGEST
};

const DELIVERIES: [Column; 2] = [more("M msg/s"), less("CPU s/M")];

fn order(cell: &Cell) -> Order {
    Order {
        subscribers: cell.subscribers,
        types: cell.types,
        ..Order::new(Role::Count, HEADER_SIZE + cell.payload)
    }
}

fn measure(kind: &Kind, cell: &Cell, times: Times) -> Result<Sample, String> {
    let server = (kind.start)(&order(cell))?;
    let spec = Spec::flood(server.addr, cell.connections, cell.payload);
    let mut load = Load::start(spec.framing(kind.framing).types(cell.types));
    let taken = || -> u64 { server.tallies.iter().map(|tally| tally.messages()).sum() };

    let tail = Duration::from_millis(20);
    load.go_for(times.warm_up + times.time + tail);
    thread::sleep(times.warm_up);
    let (meter, before) = (Meter::start(), taken());
    thread::sleep(times.time);
    let (spent, after) = (meter.stop(), taken());

    let sent = load.report();
    let megarate = (after - before) as f64 / 1e6 / spent.seconds;
    let megabytes = megarate * (HEADER_SIZE + cell.payload) as f64;
    let values = vec![megarate, spent.server_cores / megarate.max(1e-6), megabytes];
    let verified = verify(kind, cell, &server, &sent);
    Ok(spent.sample(values, sent.cores(), verified))
}

/// Waits for what is on the way, and compares counts and numbers with what was sent.
pub(super) fn verify(kind: &Kind, cell: &Cell, server: &Server, sent: &Report) -> bool {
    let copies = if cell.types == 1 { cell.subscribers } else { 1 } as u64;
    let taken = || -> u64 { server.tallies.iter().map(|tally| tally.messages()).sum() };
    let (mut seen, mut since) = (taken(), Instant::now());
    while seen < sent.messages * copies && since.elapsed() < Duration::from_secs(10) {
        thread::sleep(Duration::from_millis(1));
        let now = taken();
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
    }
    let sums = server.tallies.iter().map(|tally| tally.sum());
    let sum = sums.clone().fold(0, u64::wrapping_add);
    let agrees = if cell.types == 1 {
        let mut counts = server.tallies.iter().map(|tally| tally.messages());
        counts.all(|count| count == sent.messages) && sums.clone().all(|sum| sum == sent.sum)
    } else {
        seen == sent.messages && sum == sent.sum
    };
    let verified = if kind.reads_numbers {
        agrees
    } else {
        seen == sent.messages
    };
    if !verified {
        eprintln!(
            "{}: sent {} with sum {}, {copies} times; took {seen} with sum {sum}",
            kind.name, sent.messages, sent.sum,
        );
    }
    verified
}
