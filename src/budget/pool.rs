//! The pool that the shards of a service lease from, and what they tell each other in it.

use std::sync::OnceLock;

use crate::sync::atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering, fence};

/// Wakes a shard.
pub(super) type Bell = Box<dyn Fn() + Send + Sync>;

/// What a shard told last, and what it is asked for.
#[derive(Debug, Default)]
pub(super) struct Cell {
    pub(super) all: AtomicUsize,
    pub(super) largest: AtomicUsize,
    pub(super) coming: AtomicUsize,
    /// The millisecond after which it was told; zero is never.
    pub(super) told_at: AtomicU64,
    /// A [`Request`](super::Request) plus one.
    pub(super) asked: AtomicU8,
}

/// What the shards of a service lease from.
pub(super) struct Pool {
    pub(super) taken: AtomicUsize,
    pub(super) limit: AtomicUsize,
    pub(super) step: usize,
    /// A bit for each shard that does not read because the budget is short.
    pub(super) waiting: AtomicU64,
    /// The millisecond after which a peer was last to make room; zero is never.
    pub(super) evicted_at: AtomicU64,
    /// By shard.
    pub(super) bells: OnceLock<Vec<Bell>>,
    pub(super) cells: Vec<Cell>,
}

impl Pool {
    pub(super) fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    pub(super) fn in_steps(&self, bytes: usize) -> usize {
        bytes.div_ceil(self.step).saturating_mul(self.step)
    }

    /// Takes at least `bytes`, in whole steps if they are there.
    pub(super) fn take(&self, bytes: usize) -> Option<usize> {
        let mut grant = 0;
        let taken = self
            .taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
                let room = self.limit().saturating_sub(taken);
                grant = self.in_steps(bytes).min(room);
                (room >= bytes).then_some(taken + grant)
            });
        taken.is_ok().then_some(grant)
    }

    /// Takes `bytes` even beyond the limit, in whole steps only as far as those are within it.
    /// Returns how many it took, and whether that is beyond.
    pub(super) fn take_anyway(&self, bytes: usize) -> (usize, bool) {
        let mut grant = (0, false);
        // Never refused.
        let _ = self
            .taken
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| {
                let room = self.limit().saturating_sub(taken);
                grant = (self.in_steps(bytes).min(room).max(bytes), bytes > room);
                Some(taken + grant.0)
            });
        grant
    }

    /// Bytes taken beyond the limit.
    pub(super) fn excess(&self) -> usize {
        self.taken
            .load(Ordering::Relaxed)
            .saturating_sub(self.limit())
    }

    /// Wakes the shards that wait, if they need not any more.
    pub(super) fn ring_waiting(&self) {
        // Pairs with the fence of the thread that declares that it waits: either it sees the step,
        // or we see that it waits.
        fence(Ordering::SeqCst);
        let tight = self.taken.load(Ordering::Relaxed) > self.limit() / 4 * 3;
        if tight || self.waiting.load(Ordering::Relaxed) == 0 {
            return;
        }
        let waiting = self.waiting.swap(0, Ordering::Relaxed);
        for (shard, _) in (0..).zip(&self.cells) {
            if waiting >> shard & 1 != 0 {
                self.ring(shard);
            }
        }
    }

    pub(super) fn ring(&self, shard: u8) {
        let bells = self.bells.get();
        if let Some(bell) = bells.and_then(|bells| bells.get(usize::from(shard))) {
            bell();
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool")
            .field("taken", &self.taken)
            .field("limit", &self.limit)
            .field("step", &self.step)
            .finish_non_exhaustive()
    }
}
