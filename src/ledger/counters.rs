//! The cells that counts are written to while others read them.
//!
//! A [`Counter`] has one writer, which needs no locked instruction; a [`Fill`] has two sides, one
//! that raises it and one that lowers it.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use super::{
    rows::{HandlerRow, PauseRow},
    traffic::Traffic,
};
use crate::sync::atomic::AtomicU64 as SharedSum;

/// A number that one thread counts and every thread reads.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// To be called by the counter's one writer only: another's addition could be lost.
    #[inline]
    pub(crate) fn add(&self, count: u64) {
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_add(count),
            Ordering::Relaxed,
        );
    }

    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Messages and bytes that one thread counts.
#[derive(Debug, Default)]
pub(crate) struct TrafficCounter {
    pub(crate) messages: Counter,
    pub(crate) bytes: Counter,
}

impl TrafficCounter {
    #[inline]
    pub(crate) fn add(&self, traffic: Traffic) {
        self.messages.add(traffic.messages);
        self.bytes.add(traffic.bytes);
    }

    /// Takes away what was added before; for what waits.
    pub(crate) fn sub(&self, traffic: Traffic) {
        let before = self.get();
        debug_assert!(before.messages >= traffic.messages && before.bytes >= traffic.bytes);
        self.messages
            .set(before.messages.saturating_sub(traffic.messages));
        self.bytes.set(before.bytes.saturating_sub(traffic.bytes));
    }

    pub(crate) fn set(&self, traffic: Traffic) {
        self.messages.set(traffic.messages);
        self.bytes.set(traffic.bytes);
    }

    pub(crate) fn get(&self) -> Traffic {
        Traffic {
            messages: self.messages.get(),
            bytes: self.bytes.get(),
        }
    }
}

/// A queue's fill, which one side raises and the other lowers.
#[derive(Debug, Default)]
pub(crate) struct Fill {
    messages: SharedSum,
    bytes: SharedSum,
}

impl Fill {
    #[inline]
    pub(crate) fn raise(&self, traffic: Traffic) {
        self.messages.fetch_add(traffic.messages, Ordering::Relaxed);
        self.bytes.fetch_add(traffic.bytes, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn lower(&self, traffic: Traffic) {
        // Release: a reader that sees it sees what its thread did before, see `Account::steady`.
        self.messages.fetch_sub(traffic.messages, Ordering::Release);
        self.bytes.fetch_sub(traffic.bytes, Ordering::Release);
    }

    #[inline]
    pub(crate) fn get(&self) -> Traffic {
        Traffic {
            messages: self.messages.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }
}

/// Why single peers were not read; the loop counts.
#[derive(Debug, Default)]
pub(crate) struct PauseCounters {
    pub(crate) credit: Counter,
    pub(crate) subscriber: Counter,
    pub(crate) budget: Counter,
}

impl PauseCounters {
    pub(super) fn row(&self) -> PauseRow {
        PauseRow {
            credit: self.credit.get(),
            subscriber: self.subscriber.get(),
            budget: self.budget.get(),
        }
    }
}

/// What an inline handler did; the loop counts.
#[derive(Debug, Default)]
pub(crate) struct HandlerAccount {
    pub(crate) name: String,
    pub(crate) calls: Counter,
    pub(crate) over_time_limit: Counter,
    pub(crate) longest_ns: Counter,
    pub(crate) refused: Counter,
    pub(crate) panics: Counter,
}

impl HandlerAccount {
    pub(crate) fn row(&self) -> HandlerRow {
        let panics = self.panics.get();
        HandlerRow {
            name: self.name.clone(),
            calls: self.calls.get(),
            over_time_limit: self.over_time_limit.get(),
            longest: Duration::from_nanos(self.longest_ns.get()),
            refused: self.refused.get(),
            panics,
            removed: panics > 0,
        }
    }
}
