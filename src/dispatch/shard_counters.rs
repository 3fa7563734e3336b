//! What one fan-out and the subscriber count of a subscriber's messages.
//!
//! Every shard has counters of its own for every subscriber, and what comes from it is counted
//! there to its end, on whichever thread that is. So their sum holds without the other shards, and
//! the fan-out of the shard can read them at one moment without a word to the others.

use std::sync::atomic::{AtomicU64 as Sum, Ordering};

use super::fill::QueueFill;
use crate::{
    ledger::{Counter, Traffic},
    sync::atomic::{AtomicU64, fence},
};

/// How often a row is read until nobody moves messages meanwhile.
const STEADY_TRIES: usize = 100;

/// What one shard has for one subscriber. Two of them share no cache line.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct ShardCounters {
    /// The fan-out's.
    pub(super) matched: Counter,
    pub(super) dropped: Counter,
    /// Of what this fan-out dropped, that for which the bound in bytes had no room.
    pub(super) dropped_for_bytes: Counter,
    pub(super) parked: Sum,
    /// Times that it began to park, and that what is parked began to fill the dispatch queue.
    pub(super) pauses: Counter,
    pub(super) stalls: Counter,
    /// In the queue.
    pub(super) fill: QueueFill,
    /// Counted by the thread that takes, discards or displaces: first that it begins, then the
    /// queue's fill is lowered, then what became of the messages. While the first is the sum of the
    /// others, nobody is in between.
    begun: AtomicU64,
    taken: AtomicU64,
    discarded: AtomicU64,
    /// Dropped out of the queue for later ones, perhaps another shard's.
    displaced: AtomicU64,
    /// The number of the message that the subscriber would take next if none was dropped.
    pub(super) expected: Sum,
}

/// What left a queue, and what is in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Moves {
    pub(super) taken: u64,
    pub(super) discarded: u64,
    pub(super) displaced: u64,
    pub(super) fill: Traffic,
}

impl ShardCounters {
    /// Messages are about to leave the queue, or were never in it.
    #[inline]
    pub(super) fn begin_move(&self, count: u64) {
        self.begun.fetch_add(count, Ordering::Relaxed);
    }

    #[inline]
    pub(super) fn end_taken(&self, count: u64) {
        self.taken.fetch_add(count, Ordering::Release);
    }

    pub(super) fn end_discarded(&self, count: u64) {
        self.discarded.fetch_add(count, Ordering::Release);
    }

    pub(super) fn end_displaced(&self, count: u64) {
        self.displaced.fetch_add(count, Ordering::Release);
    }

    /// Messages or events wait for room, or no more.
    pub(super) fn park(&self, count: u64) {
        self.parked.fetch_add(count, Ordering::Relaxed);
    }

    pub(super) fn unpark(&self, count: u64) {
        self.parked.fetch_sub(count, Ordering::Relaxed);
    }

    /// Messages that came to their end without being in the queue.
    pub(super) fn discard(&self, count: u64) {
        self.begin_move(count);
        self.end_discarded(count);
    }

    /// What left the queue and is in it at one moment, unless somebody was in the middle of a move
    /// whenever this looked.
    ///
    /// What the first three say has lowered the fill before; what has lowered the fill has begun
    /// before. So if all that has begun is in the first three, the fill shows these moves and no
    /// other.
    pub(super) fn steady(&self) -> Option<Moves> {
        (0..STEADY_TRIES).find_map(|_| {
            let moves = self.read();
            fence(Ordering::Acquire);
            let begun = self.begun.load(Ordering::Relaxed);
            std::hint::spin_loop();
            let ended = moves.taken + moves.discarded + moves.displaced;
            (begun == ended).then_some(moves)
        })
    }

    /// The moves as they can be read, however little they fit together.
    pub(super) fn moves(&self) -> Moves {
        self.steady().unwrap_or_else(|| self.read())
    }

    fn read(&self) -> Moves {
        Moves {
            taken: self.taken.load(Ordering::Acquire),
            discarded: self.discarded.load(Ordering::Acquire),
            displaced: self.displaced.load(Ordering::Acquire),
            fill: self.fill.get(),
        }
    }
}
