//! What a subscriber has taken, readable while it goes on.

use super::number;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

/// Messages and the sum of their numbers. One thread adds, the one that made the tally reads and
/// waits.
///
/// A cache line pair of its own, so that reading does not slow down a neighbour.
#[derive(Debug)]
#[repr(align(128))]
pub(crate) struct Tally {
    messages: AtomicU64,
    sum: AtomicU64,
    target: AtomicU64,
    waiter: Thread,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            messages: AtomicU64::new(0),
            sum: AtomicU64::new(0),
            target: AtomicU64::new(u64::MAX),
            waiter: thread::current(),
        }
    }
}

impl Tally {
    /// Adds what was just taken. Only the subscriber's thread calls this.
    #[inline]
    pub(crate) fn add(&self, messages: u64, sum: u64) {
        let messages = self.messages.load(Ordering::Relaxed) + messages;
        let sum = self.sum.load(Ordering::Relaxed).wrapping_add(sum);
        self.sum.store(sum, Ordering::Relaxed);
        self.messages.store(messages, Ordering::Release);
        if messages >= self.target.load(Ordering::Relaxed) {
            self.waiter.unpark();
        }
    }

    /// Reads what a subscriber was given, the number in each payload, and adds it.
    #[inline]
    pub(crate) fn take<'a>(&self, payloads: impl Iterator<Item = &'a [u8]>) {
        let (mut messages, mut sum) = (0, 0_u64);
        for payload in payloads {
            messages += 1;
            sum = sum.wrapping_add(number(payload));
        }
        self.add(messages, sum);
    }

    pub(crate) fn messages(&self) -> u64 {
        self.messages.load(Ordering::Acquire)
    }

    pub(crate) fn sum(&self) -> u64 {
        self.sum.load(Ordering::Relaxed)
    }

    /// Says what [`Self::wait`] is going to wait for; before the messages are sent, so that the
    /// last one wakes us.
    pub(crate) fn expect(&self, messages: u64) {
        self.target.store(messages, Ordering::Relaxed);
    }

    /// Waits until the expected messages are there, for as long as some still arrive; false when
    /// that stopped early.
    pub(crate) fn wait(&self) -> bool {
        let target = self.target.load(Ordering::Relaxed);
        let (mut seen, mut since) = (self.messages(), Instant::now());
        while seen < target {
            thread::park_timeout(Duration::from_millis(1));
            let now = self.messages();
            if now != seen {
                (seen, since) = (now, Instant::now());
            } else if since.elapsed() > Duration::from_secs(10) {
                return false;
            }
        }
        self.target.store(u64::MAX, Ordering::Relaxed);
        seen == target
    }
}
