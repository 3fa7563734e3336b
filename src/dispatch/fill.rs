//! How full a subscriber's queue is: messages and bytes in one word, so that whoever fills it takes
//! its room in one step, also beside others who do.

use crate::{
    ledger::Traffic,
    limits::QUEUE_MESSAGES_MAX_CEILING,
    sync::atomic::{AtomicU64, Ordering},
};

/// Bits of the word that count bytes; messages have the rest.
const BYTES_BITS: u32 = 41;
/// More than any machine has, so a bound above it is none.
pub(super) const BYTES_MAX: u64 = (1 << BYTES_BITS) - 1;

/// A queue's fill, which fan-outs raise and the subscriber lowers.
#[derive(Debug, Default)]
pub(super) struct QueueFill(AtomicU64);

fn pack(traffic: Traffic) -> u64 {
    traffic.messages << BYTES_BITS | traffic.bytes
}

impl QueueFill {
    #[inline]
    pub(super) fn get(&self) -> Traffic {
        let word = self.0.load(Ordering::Relaxed);
        Traffic::new(word >> BYTES_BITS, word & BYTES_MAX)
    }

    /// Takes room for as many of `wanted.messages` as there is, and none if that is less than
    /// `least`; their bytes are counted whole. An empty queue has room for any bytes. The capacity
    /// is at most [`BYTES_MAX`].
    #[inline]
    pub(super) fn reserve(&self, wanted: Traffic, least: u64, capacity: Traffic) -> u64 {
        let mut word = self.0.load(Ordering::Relaxed);
        loop {
            let (messages, bytes) = (word >> BYTES_BITS, word & BYTES_MAX);
            // Two numbers below 2^41 do not overflow.
            if messages > 0 && bytes.wrapping_add(wanted.bytes) > capacity.bytes {
                return 0;
            }
            let room = capacity.messages.saturating_sub(messages);
            let room = room.min(wanted.messages);
            if room < least {
                return 0;
            }
            let raised = word.wrapping_add(pack(Traffic::new(room, wanted.bytes)));
            let (success, failure) = (Ordering::Relaxed, Ordering::Relaxed);
            match self.0.compare_exchange(word, raised, success, failure) {
                Ok(_) => return room,
                Err(other) => word = other,
            }
        }
    }

    /// Counts what the bounds were not asked for.
    pub(super) fn raise(&self, traffic: Traffic) {
        self.0.fetch_add(pack(traffic), Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn lower(&self, traffic: Traffic) {
        // Release: a thread that sees it sees what this thread did before, see
        // `ShardCounters::steady`.
        self.0.fetch_sub(pack(traffic), Ordering::Release);
    }
}

/// Twice the most messages fit, but for one.
const _: () = assert!(2 * QUEUE_MESSAGES_MAX_CEILING as u64 <= 1 << (64 - BYTES_BITS));
