//! The byte budget that all buffers of a service draw on.
//!
//! A service with one loop has all of it in one number. Where several loops share it, there is a
//! pool that each of them leases steps of: what a shard charges and releases moves its own number,
//! and the pool is touched only when a step is taken or given back. Whether the budget is short is
//! judged by what is leased in sum, so a shard that holds a lease without need makes it look
//! fuller: by two steps at the most, which for all shards together is a 32nd of the budget.
//!
//! What has to be taken beyond the limit is taken to the byte, and a shard that did so gives back
//! whatever becomes free until the pool is within its limit again. If it kept a step of that, what
//! it has to take every now and then would be room for what it may refuse, and the sum would creep.
//!
//! Invariants:
//! - `leased = free + used`, per shard
//! - what the shards have leased is what is taken of the pool
//! - [`Budget::try_charge`] never makes the pool be taken beyond its limit, nor uses what was
//!   taken beyond it, but for what comes back in the moment before it is given back

mod pool;
#[cfg(test)]
mod tests;

use std::sync::{Arc, OnceLock};

use crate::{
    limits::{BUDGET_LEASE_BYTES, BUDGET_STEPS_PER_SHARD},
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
};

use pool::{Bell, Cell, Pool};

/// A shard's part of the budget.
#[derive(Debug)]
pub(crate) struct Budget {
    /// What is leased and not used. While more had to be taken than was there, it is below zero,
    /// and wraps.
    free: AtomicUsize,
    /// With so much free, some is given back: two steps, or one byte after more was taken than
    /// the pool had.
    give_at: AtomicUsize,
    leased: AtomicUsize,
    limit: AtomicUsize,
    /// `None` if no other shard draws on the budget: then all of it is leased.
    share: Option<Share>,
}

#[derive(Debug)]
struct Share {
    pool: Arc<Pool>,
    shard: u8,
}

/// What the peers of a shard hold that is not with subscribers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Holdings {
    /// Bytes of all together.
    pub(crate) all: usize,
    /// Bytes of the one that holds most.
    pub(crate) largest: usize,
    /// Bytes beside these of those who are closing, and give them back soon.
    pub(crate) coming: usize,
}

/// What a shard is asked for by another one, which finds the budget used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// To tell what its peers hold.
    Tell,
    /// To close the peer that holds most, too.
    Evict,
}

/// How old may be what a shard told, in milliseconds.
const TOLD_FOR_MS: u64 = 250;

/// Whether a number of free bytes has wrapped.
fn is_negative(free: usize) -> bool {
    free > usize::MAX / 2
}

impl Budget {
    /// The budget of a service with one loop.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            free: AtomicUsize::new(limit),
            give_at: AtomicUsize::new(usize::MAX),
            leased: AtomicUsize::new(limit),
            limit: AtomicUsize::new(limit),
            share: None,
        }
    }

    /// What this shard would have of the budget if all had the same.
    pub(crate) fn share(&self) -> usize {
        let shards = self
            .share
            .as_ref()
            .map_or(1, |share| share.pool.cells.len());
        self.limit.load(Ordering::Relaxed) / shards
    }

    /// The parts of so many shards.
    pub(crate) fn shares(limit: usize, shards: u8) -> Vec<Self> {
        if shards == 1 {
            return vec![Self::new(limit)];
        }
        let step = (limit / (BUDGET_STEPS_PER_SHARD * usize::from(shards))).max(1);
        let pool = Arc::new(Pool {
            taken: AtomicUsize::new(0),
            limit: AtomicUsize::new(limit),
            step,
            waiting: AtomicU64::new(0),
            evicted_at: AtomicU64::new(0),
            bells: OnceLock::new(),
            cells: (0..shards).map(|_| Cell::default()).collect(),
        });
        let share = |shard| Self {
            free: AtomicUsize::new(0),
            give_at: AtomicUsize::new(2 * step),
            leased: AtomicUsize::new(0),
            limit: AtomicUsize::new(limit),
            share: Some(Share {
                pool: Arc::clone(&pool),
                shard,
            }),
        };
        (0..shards).map(share).collect()
    }

    /// Sets what wakes each shard when another one has something for it. Only the first call
    /// counts.
    pub(crate) fn set_bells(&self, bells: Vec<Bell>) {
        if let Some(share) = &self.share {
            let _ = share.pool.bells.set(bells);
        }
    }

    /// Takes bytes that have to be taken: what the kernel already gave us.
    #[inline]
    pub(crate) fn charge(&self, bytes: usize) {
        let before = self.free.fetch_sub(bytes, Ordering::Relaxed);
        if is_negative(before.wrapping_sub(bytes)) {
            self.cover();
        }
    }

    /// Takes bytes if they are left.
    #[must_use]
    pub(crate) fn try_charge(&self, bytes: usize) -> bool {
        loop {
            let taken = self
                .free
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| {
                    (!is_negative(free) && free >= bytes).then(|| free - bytes)
                });
            if taken.is_ok() {
                return true;
            }
            if !self.lease(bytes) {
                return false;
            }
        }
    }

    #[inline]
    pub(crate) fn release(&self, bytes: usize) {
        // Pairs with `replace_free`: what adds to what that left sees when to give back.
        let before = self.free.fetch_add(bytes, Ordering::Acquire);
        debug_assert!(
            self.share.is_some() || self.limit().wrapping_sub(before) >= bytes,
            "released {bytes} bytes of too few"
        );
        let free = before.wrapping_add(bytes);
        if free >= self.give_at.load(Ordering::Relaxed) && !is_negative(free) {
            self.give_back();
        }
    }

    /// Bytes that this shard uses. While a thread leases, it may be off by a grant for a moment.
    pub(crate) fn used(&self) -> usize {
        let leased = self.leased.load(Ordering::Relaxed);
        let used = leased.wrapping_sub(self.free.load(Ordering::Relaxed));
        if is_negative(used) { 0 } else { used }
    }

    /// That of the service.
    pub(crate) fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// Changes the limit, as this shard sees it and for all that it leases from. Nothing is taken
    /// back: what is used beyond a lower one counts as excess until it is released.
    pub(crate) fn set_limit(&self, limit: usize) {
        let old = self.limit();
        let (more, less) = (limit.saturating_sub(old), old.saturating_sub(limit));
        if let Some(Share { pool, .. }) = &self.share {
            self.limit.store(limit, Ordering::Relaxed);
            pool.limit.store(limit, Ordering::Relaxed);
            if less > 0 {
                // As if this had been taken beyond it, so that what is free goes back.
                self.give_at.store(1, Ordering::Release);
                self.give_back();
            }
            pool.ring_waiting();
            return;
        }
        // In an order in which no more is free than the limit at any moment.
        if more > 0 {
            self.limit.store(limit, Ordering::Relaxed);
            self.leased.fetch_add(more, Ordering::Relaxed);
            self.free.fetch_add(more, Ordering::Relaxed);
        } else {
            self.free.fetch_sub(less, Ordering::Relaxed);
            self.leased.fetch_sub(less, Ordering::Relaxed);
            self.limit.store(limit, Ordering::Relaxed);
        }
    }

    /// What is leased in sum; of a service with one loop, what is used.
    fn taken(&self) -> usize {
        match &self.share {
            Some(share) => share.pool.taken.load(Ordering::Relaxed),
            None => self.used(),
        }
    }

    /// Bytes that had to be taken beyond the limit.
    pub(crate) fn excess(&self) -> usize {
        self.taken().saturating_sub(self.limit())
    }

    /// Bytes that one read may be given storage of ahead of what it brings: none while the budget
    /// is short. All loops together fill up the quarter that is left before, and no more.
    pub(crate) fn read_max(&self) -> usize {
        if self.is_tight() {
            return 0;
        }
        let shards = self
            .share
            .as_ref()
            .map_or(1, |share| share.pool.cells.len());
        self.limit() / 4 / shards.max(4)
    }

    /// Whether the heaviest readers have to pause: above 75 percent.
    pub(crate) fn is_tight(&self) -> bool {
        self.is_tight_without(0)
    }

    /// Whether they would have to even if so many bytes came back.
    pub(crate) fn is_tight_without(&self, bytes: usize) -> bool {
        self.taken().saturating_sub(bytes) > self.limit() / 4 * 3
    }

    /// Whether no peer may be read: what is left is not enough for an answer of any length.
    pub(crate) fn is_exhausted(&self) -> bool {
        let limit = self.limit();
        self.taken() >= limit - (limit / 64).min(BUDGET_LEASE_BYTES)
    }

    /// The shard waits until the budget is no longer tight. It has to look once more after this.
    pub(crate) fn declare_wait(&self) {
        if let Some(Share { pool, shard }) = &self.share {
            pool.waiting.fetch_or(1 << shard, Ordering::Relaxed);
        }
    }

    // ----- making room ------------------------------------------------------------------------

    /// What all shards hold, and the shard whose peer holds most. The others are asked to tell
    /// anew; `None` if one of them has not done so for a while. To be asked again later.
    pub(crate) fn compare_holdings(
        &self,
        now: u64,
        own: Holdings,
    ) -> Option<(Holdings, Option<u8>)> {
        let Some(Share { pool, shard }) = &self.share else {
            return Some((own, None));
        };
        self.tell_holdings(now, own);
        let (mut sum, mut elsewhere, mut is_known) = (own, None, true);
        let cells = (0..).zip(&pool.cells);
        for (other, cell) in cells.filter(|(other, _)| other != shard) {
            cell.asked.fetch_max(1, Ordering::AcqRel);
            pool.ring(other);
            let told_at = cell.told_at.load(Ordering::Acquire);
            is_known &= told_at > 0 && told_at + TOLD_FOR_MS > now;
            sum.all = sum.all.saturating_add(cell.all.load(Ordering::Relaxed));
            let coming = cell.coming.load(Ordering::Relaxed);
            sum.coming = sum.coming.saturating_add(coming);
            let largest = cell.largest.load(Ordering::Relaxed);
            if largest > sum.largest {
                (sum.largest, elsewhere) = (largest, Some(other));
            }
        }
        is_known.then_some((sum, elsewhere))
    }

    /// Whether this shard may decide which peer makes room. Only one of them does at a time, and
    /// the next when all have told anew: what they know of each other is a little old, so two might
    /// each find that it is a peer of theirs.
    pub(crate) fn claim_eviction(&self, now: u64) -> bool {
        let Some(Share { pool, .. }) = &self.share else {
            return true;
        };
        let before = pool.evicted_at.load(Ordering::Relaxed);
        let is_over = before == 0 || before + TOLD_FOR_MS <= now;
        is_over
            && pool
                .evicted_at
                .compare_exchange(before, now + 1, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
    }

    /// Has another shard close the peer that holds most there.
    pub(crate) fn ask_to_evict(&self, shard: u8) {
        if let Some(Share { pool, .. }) = &self.share {
            if let Some(cell) = pool.cells.get(usize::from(shard)) {
                cell.asked.store(2, Ordering::Release);
                pool.ring(shard);
            }
        }
    }

    /// Whether another shard asks for something.
    pub(crate) fn is_asked(&self) -> bool {
        let cell = self.cell();
        cell.is_some_and(|cell| cell.asked.load(Ordering::Relaxed) != 0)
    }

    pub(crate) fn take_request(&self) -> Option<Request> {
        match self.cell()?.asked.swap(0, Ordering::AcqRel) {
            0 => None,
            1 => Some(Request::Tell),
            _ => Some(Request::Evict),
        }
    }

    /// Tells the other shards what the peers of this one hold.
    pub(crate) fn tell_holdings(&self, now: u64, holdings: Holdings) {
        if let Some(cell) = self.cell() {
            cell.all.store(holdings.all, Ordering::Relaxed);
            cell.coming.store(holdings.coming, Ordering::Relaxed);
            cell.largest.store(holdings.largest, Ordering::Relaxed);
            cell.told_at.store(now + 1, Ordering::Release);
        }
    }

    fn cell(&self) -> Option<&Cell> {
        let Share { pool, shard } = self.share.as_ref()?;
        pool.cells.get(usize::from(*shard))
    }

    // ----- steps -----------------------------------------------------------------------------

    /// Leases what is missing, whatever the pool's limit says.
    #[cold]
    fn cover(&self) {
        let Some(Share { pool, .. }) = &self.share else {
            return;
        };
        loop {
            let free = self.free.load(Ordering::Relaxed);
            if !is_negative(free) {
                return;
            }
            // Taken first, so that no shard is granted these bytes meanwhile.
            let (grant, is_beyond) = pool.take_anyway(free.wrapping_neg());
            if is_beyond {
                // Pairs with the swap in `settle_give_at`: what undoes this sees what was taken.
                self.give_at.store(1, Ordering::Release);
            }
            if self.replace_free(free, free.wrapping_add(grant)) {
                self.leased.fetch_add(grant, Ordering::Relaxed);
                return;
            }
            // A shard that looked meanwhile found the budget fuller than it is.
            pool.taken.fetch_sub(grant, Ordering::Relaxed);
            pool.ring_waiting();
        }
    }

    /// Leases enough for `bytes` to be charged, if the pool has that. True if it is worth to try.
    #[cold]
    fn lease(&self, bytes: usize) -> bool {
        let Some(Share { pool, .. }) = &self.share else {
            return false;
        };
        let missing = bytes.wrapping_sub(self.free.load(Ordering::Relaxed));
        if missing == 0 || is_negative(missing) {
            return true;
        }
        let Some(grant) = pool.take(missing) else {
            return false;
        };
        self.leased.fetch_add(grant, Ordering::Relaxed);
        self.free.fetch_add(grant, Ordering::Relaxed);
        true
    }

    /// Gives back what is free: all but a step, or all that is beyond the pool's limit. Wakes those
    /// who wait for it.
    #[cold]
    fn give_back(&self) {
        let Some(Share { pool, .. }) = &self.share else {
            return;
        };
        loop {
            // Not only read, so that a later release sees what was done before it.
            let free = self.free.fetch_add(0, Ordering::AcqRel);
            if is_negative(free) || free == 0 {
                return;
            }
            let excess = self.settle_give_at(pool);
            let spare = if free < 2 * pool.step {
                0
            } else {
                (free - pool.step) / pool.step * pool.step
            };
            let returned = spare.max(excess.min(free));
            if returned == 0 {
                return;
            }
            if self.replace_free(free, free - returned) {
                self.leased.fetch_sub(returned, Ordering::Relaxed);
                pool.taken.fetch_sub(returned, Ordering::Relaxed);
                pool.ring_waiting();
                return;
            }
        }
    }

    /// Lets a step be kept again if nothing is taken beyond the pool's limit. Returns what is.
    fn settle_give_at(&self, pool: &Pool) -> usize {
        let excess = pool.excess();
        if excess > 0 || self.give_at.load(Ordering::Relaxed) > 1 {
            return excess;
        }
        self.give_at.swap(2 * pool.step, Ordering::AcqRel);
        let excess = pool.excess();
        if excess > 0 {
            self.give_at.store(1, Ordering::Release);
        }
        excess
    }

    fn replace_free(&self, old: usize, new: usize) -> bool {
        self.free
            .compare_exchange(old, new, Ordering::Release, Ordering::Relaxed)
            .is_ok()
    }
}
