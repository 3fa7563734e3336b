//! Messages as fast as they are taken, to subscribers that miss none.

use super::meter::Meter;
use super::{Column, Workload, less, more, start};
use crate::cell::{Cell, PLAIN};
use crate::load::{HEADER_SIZE, Load, Report, Spec};
use crate::sample::{Absent, Sample, Times};
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

/// The same with payloads of all lengths.
pub(super) const VARIED: Workload = Workload {
    name: "varied",
    about: "as ingest, with payloads of 8 bytes and more, p on average",
    cells: &["c16p64", "c16p256"],
    base: Cell {
        varied: true,
        ..PLAIN
    },
    ..INGEST
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

/// How much longer the load flows before it is measured, for each connection.
const WARM_UP_OF_CONNECTION: Duration = Duration::from_millis(3);

const DELIVERIES: [Column; 2] = [more("M msg/s"), less("CPU s/M")];

fn order(cell: &Cell) -> Order {
    Order {
        subscribers: cell.subscribers,
        types: cell.types,
        varied: cell.varied,
        ..Order::new(Role::Count, HEADER_SIZE + cell.payload)
    }
}

fn measure(kind: &Kind, cell: &Cell, times: Times) -> Result<Sample, Absent> {
    let server = start(kind, &order(cell))?;
    let spec = Spec::flood(server.addr, cell.connections, cell.payload);
    let spec = spec.framing(kind.framing).types(cell.types);
    let mut load = Load::start(spec.varied(cell.varied));
    let taken = || -> u64 { server.tallies.iter().map(|tally| tally.messages()).sum() };

    let tail = Duration::from_millis(20);
    // The kernel sizes a receive buffer while data flows, one connection after the other.
    let warm_up = times.warm_up + WARM_UP_OF_CONNECTION * u32::try_from(cell.connections).unwrap();
    load.go_for(warm_up + times.time + tail);
    thread::sleep(warm_up);
    let (meter, before) = (Meter::start(), taken());
    thread::sleep(times.time);
    let (spent, after) = (meter.stop(), taken());

    let sent = load.report();
    let megarate = (after - before) as f64 / 1e6 / spent.seconds;
    let megabytes = megarate * (HEADER_SIZE + cell.payload) as f64;
    let values = vec![megarate, spent.server_cores / megarate.max(1e-6), megabytes];
    let verified = verify(kind, cell, &server, &mut load, &sent);
    Ok(spent.sample(values, sent.cores(), verified))
}

/// What each subscriber is to have taken: how many messages, and the sum of their numbers.
fn due(cell: &Cell, load: &mut Load, sent: &Report) -> Vec<(u64, u64)> {
    if cell.types == 1 {
        return vec![(sent.messages, sent.sum); cell.subscribers];
    }
    let mut due = vec![(0, 0); cell.subscribers];
    for offset in 0..cell.types {
        let part = load.sent_of(offset);
        let (messages, sum) = &mut due[offset % cell.subscribers];
        *messages += part.messages;
        *sum += part.sum;
    }
    let all = due.iter().map(|(messages, _)| messages).sum::<u64>();
    assert_eq!(
        all, sent.messages,
        "the client knows of another number of messages"
    );
    due
}

/// Waits for what is on the way, and compares counts and numbers of every subscriber with what was
/// sent to it.
pub(super) fn verify(
    kind: &Kind,
    cell: &Cell,
    server: &Server,
    load: &mut Load,
    sent: &Report,
) -> bool {
    let due = due(cell, load, sent);
    let all: u64 = due.iter().map(|(messages, _)| messages).sum();
    let taken = || -> u64 { server.tallies.iter().map(|tally| tally.messages()).sum() };
    let (mut seen, mut since) = (taken(), Instant::now());
    while seen < all && since.elapsed() < Duration::from_secs(10) {
        thread::sleep(Duration::from_millis(1));
        let now = taken();
        if now != seen {
            (seen, since) = (now, Instant::now());
        }
    }
    let mut verified = server.tallies.len() == due.len();
    for (index, (tally, (messages, sum))) in server.tallies.iter().zip(due).enumerate() {
        let (taken, sum_taken) = (tally.messages(), tally.sum());
        if taken != messages || (kind.reads_numbers && sum_taken != sum) {
            verified = false;
            eprintln!(
                "{}: subscriber {index} was due {messages} with sum {sum}; \
                 took {taken} with sum {sum_taken}",
                kind.name,
            );
        }
    }
    verified
}
