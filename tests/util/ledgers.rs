//! Two ledgers held against each other: what one side wrote and what the other received.
//!
//! For each direction of whatever connects them:
//!
//! - received + discarded <= written, in messages: nothing comes that was not sent;
//! - written <= received + discarded + unconfirmed, in bytes, and in messages where nothing was
//!   discarded, which may be left unparsed: nothing is lost that the sender's side does not name.
//!
//! Both together are an equation where nothing is unconfirmed.

use std::{cell::RefCell, net::SocketAddr};

use nebnet::{ClosedRow, Snapshot, StopReport, Traffic};

use super::wire::{Listens, check_row, is_client};

/// What one side, or several, say of all that went through their connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    pub written: Traffic,
    /// Of what was written, what the other system may not have got. `None`: it is not known.
    pub unconfirmed: Option<Traffic>,
    pub received: Traffic,
    /// What came and went to no subscriber.
    pub discarded: Traffic,
}

impl Ledger {
    /// Of all connections of a service.
    pub fn of(snapshot: &Snapshot) -> Self {
        Self {
            written: snapshot.outbound_written,
            unconfirmed: (snapshot.unconfirmed_unknown == 0).then_some(snapshot.unconfirmed),
            received: snapshot.inbound,
            discarded: snapshot.discarded_after_close,
        }
    }

    /// Of one connection.
    pub fn of_row(row: &ClosedRow) -> Self {
        Self {
            written: row.outbound,
            unconfirmed: row.unconfirmed,
            received: row.inbound,
            discarded: row.discarded_after_close,
        }
    }

    /// Of a client, which knows what it wrote and read, and nothing of what became of it.
    pub fn of_client(client: &super::Client) -> Self {
        let (written, read) = client.stream.messages();
        Self {
            written: traffic(written, 0),
            unconfirmed: None,
            received: traffic(read, 0),
            discarded: Traffic::default(),
        }
    }

    /// Of two sides as if they were one.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        let sum = |a: Traffic, b: Traffic| traffic(a.messages + b.messages, a.bytes + b.bytes);
        Self {
            written: sum(self.written, other.written),
            unconfirmed: self
                .unconfirmed
                .zip(other.unconfirmed)
                .map(|(a, b)| sum(a, b)),
            received: sum(self.received, other.received),
            discarded: sum(self.discarded, other.discarded),
        }
    }
}

fn traffic(messages: u64, bytes: u64) -> Traffic {
    let mut traffic = Traffic::default();
    (traffic.messages, traffic.bytes) = (messages, bytes);
    traffic
}

/// Holds one direction of a connection against each other: what one side wrote, and what the other
/// one got.
#[track_caller]
pub fn assert_one_way(from: &Ledger, to: &Ledger) {
    let got = to.received.messages + to.discarded.messages;
    let what = format!("from {from:?} to {to:?}");
    assert!(got <= from.written.messages, "more came than went: {what}");
    let Some(unconfirmed) = from.unconfirmed else {
        return;
    };
    let bytes = to.received.bytes + to.discarded.bytes + unconfirmed.bytes;
    assert!(from.written.bytes <= bytes, "bytes are missing: {what}");
    if to.discarded.bytes == 0 {
        let known = got + unconfirmed.messages;
        assert!(
            from.written.messages <= known,
            "messages are missing: {what}"
        );
    }
}

/// Holds the ledgers of two sides that speak with each other alone against each other.
#[track_caller]
pub fn assert_agree(one: &Ledger, other: &Ledger) {
    assert_one_way(one, other);
    assert_one_way(other, one);
}

/// What came of a connection, delivered or not.
pub fn arrived(row: &ClosedRow) -> Traffic {
    let (received, discarded) = (row.inbound, row.discarded_after_close);
    traffic(
        received.messages + discarded.messages,
        received.bytes + discarded.bytes,
    )
}

/// A service that has stopped.
struct Stopped {
    listens: Listens,
    snapshot: Snapshot,
    rows: Vec<ClosedRow>,
}

thread_local! {
    /// Services that this thread has stopped, which is one test.
    static STOPPED: RefCell<Vec<Stopped>> = const { RefCell::new(Vec::new()) };
}

/// Holds what a service that was stopped says of its connections against what the other sides say:
/// clients of this process one by one, and services that the same test has stopped in sum, once all
/// connections among them are known. `before` are its closed connections before the stop.
#[track_caller]
pub fn check_stopped(listens: Listens, mut before: Vec<ClosedRow>, report: &StopReport) {
    before.extend(report.peers.iter().map(|row| row.closed.clone()));
    for row in &before {
        check_row(row, &listens);
    }
    let stopped = Stopped {
        listens,
        snapshot: report.snapshot.clone(),
        rows: before,
    };
    STOPPED.with_borrow_mut(|all| {
        // A second stop says the same again.
        if all.iter().all(|one| one.snapshot != stopped.snapshot) {
            all.push(stopped);
            check_world(all);
        }
    });
}

#[track_caller]
fn check_world(services: &[Stopped]) {
    let count = |is_one: &dyn Fn(&Stopped, &ClosedRow) -> bool| {
        let rows = services.iter().map(|one| {
            let rows = one.rows.iter();
            rows.filter(|row| is_one(one, row)).count() as u64
        });
        rows.sum::<u64>()
    };
    let is_ours = |addr: &SocketAddr| services.iter().any(|one| one.listens.addrs.contains(addr));
    let dialled = count(&|_, row| row.link.is_some() && is_ours(&row.addr));
    let accepted = count(&|one, row| row.link.is_none() && !is_client(row.addr, &one.listens));
    let sum = |of: fn(&Snapshot) -> u64| services.iter().map(|one| of(&one.snapshot)).sum();
    let all = (sum(|shot| shot.dialled), sum(|shot| shot.accepted));
    if dialled == accepted && (dialled, accepted) == all {
        let ledgers = services.iter().map(|one| Ledger::of(&one.snapshot));
        let sum = ledgers.reduce(Ledger::and).unwrap_or_default();
        assert_one_way(&sum, &sum);
    }
}
