//! Sums that one thread writes at a time and others read, and how a connection stands by them.

use crate::{
    ledger::Traffic,
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
};

/// Messages and bytes with one writer at a time.
#[derive(Debug, Default)]
pub(super) struct TrafficCell {
    messages: AtomicU64,
    bytes: AtomicU64,
}

impl TrafficCell {
    pub(super) fn get(&self) -> Traffic {
        Traffic::new(
            self.messages.load(Ordering::Relaxed),
            self.bytes.load(Ordering::Relaxed),
        )
    }

    pub(super) fn set(&self, traffic: Traffic) {
        self.messages.store(traffic.messages, Ordering::Relaxed);
        self.bytes.store(traffic.bytes, Ordering::Relaxed);
    }

    pub(super) fn add(&self, traffic: Traffic) {
        let mut sum = self.get();
        sum.add(traffic);
        self.set(sum);
    }

    pub(super) fn add_wrapping(&self, traffic: Traffic) {
        let sum = self.get();
        self.set(Traffic::new(
            sum.messages.wrapping_add(traffic.messages),
            sum.bytes.wrapping_add(traffic.bytes),
        ));
    }

    pub(super) fn sub_wrapping(&self, traffic: Traffic) {
        let sum = self.get();
        self.set(Traffic::new(
            sum.messages.wrapping_sub(traffic.messages),
            sum.bytes.wrapping_sub(traffic.bytes),
        ));
    }
}

/// Sums of a slot, as the loop has seen them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    /// Accepted from senders.
    pub(crate) accepted: Traffic,
    /// Dropped by senders for what they sent after it.
    pub(crate) overflowed: Traffic,
}

impl Sums {
    pub(crate) fn add(&mut self, other: Self) {
        self.accepted.add(other.accepted);
        self.overflowed.add(other.overflowed);
    }
}

/// How a connection stands with regard to its credit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flow {
    /// What was read from the peer and released by all.
    pub(crate) released: Traffic,
    /// Messages and bytes accepted from senders and not yet taken by the kernel.
    pub(crate) queued: Traffic,
}

/// Raises what has one writer at a time.
pub(super) fn add(cell: &AtomicUsize, more: usize) {
    let sum = cell.load(Ordering::Relaxed).wrapping_add(more);
    cell.store(sum, Ordering::Relaxed);
}
