//! The bytes of the budget that a slot holds for what is queued: `leased >= storage of what is
//! queued`, with the exceptions that the first comment of the room names.
//!
//! A lease is raised by the thread that appends, and given back by the loop alone.

use super::{cells::add, item::Item, slot::Used, table::Slots, tail::Tails};
use crate::{
    id::PeerId,
    limits::BUDGET_LEASE_BYTES,
    sync::atomic::{AtomicUsize, Ordering},
};

impl Slots {
    /// Leases what is missing for a message that is to be appended, `queued` bytes with it.
    #[cold]
    pub(super) fn lease_for(
        &self,
        used: &Used,
        tails: &mut Tails,
        queued: u64,
        item: Item,
    ) -> bool {
        tails.measure();
        // It goes into what was taken ahead where it is appended. What is held beside other
        // segments is of no use to it.
        let room = tails.room(item.priority).min(item.traffic.bytes);
        self.lease(used, &used.leased, queued + tails.slack as u64 - room)
    }

    /// Leases what tails have taken ahead. If the budget has no room for that, they give it back.
    #[cold]
    pub(super) fn cover(&self, used: &Used, tails: &mut Tails, queued: u64) {
        tails.measure();
        if self.lease(used, &used.leased, queued + tails.slack as u64) {
            return;
        }
        tails.trim();
        // What is left is there already.
        let needed = usize::try_from(queued).unwrap_or(usize::MAX);
        let missing = (needed + tails.slack).saturating_sub(used.leased());
        self.ledger.budget.charge(missing);
        add(&used.leased, missing);
    }

    /// Makes sure that the slot's leases cover so many bytes; `own` is the caller's to raise.
    #[inline]
    pub(super) fn lease(&self, used: &Used, own: &AtomicUsize, needed: u64) -> bool {
        let needed = usize::try_from(needed).unwrap_or(usize::MAX);
        let leased = used.leased();
        needed <= leased || self.lease_more(own, needed, leased)
    }

    #[inline(never)]
    fn lease_more(&self, own: &AtomicUsize, needed: usize, leased: usize) -> bool {
        let missing = needed - leased;
        let budget = &self.ledger.budget;
        // As much as there was, so that a fill asks a few times; but little for each of many is
        // not to be much.
        let ahead = missing.max(leased.min(BUDGET_LEASE_BYTES));
        if ahead > missing && !budget.is_tight() && budget.try_charge(ahead) {
            add(own, ahead);
            return true;
        }
        let granted = budget.try_charge(missing);
        if granted {
            add(own, missing);
        }
        granted
    }

    /// Keeps how many bytes of storage the loop holds for what is queued, beside what is queued.
    /// Whether the budget has room or not, they are there, and are charged.
    pub(crate) fn note_slack(&self, peer: PeerId, bytes: usize) {
        let used = self.own(peer).used();
        let before = used.slack.load(Ordering::Relaxed);
        let queued = usize::try_from(used.queued().bytes).unwrap_or(usize::MAX);
        let left = used.leased().wrapping_add(before);
        let missing = queued.saturating_add(bytes).saturating_sub(left);
        if missing > 0 {
            self.ledger.budget.charge(missing);
        }
        used.slack.store(bytes, Ordering::Relaxed);
        let change = before.wrapping_add(missing).wrapping_sub(bytes);
        add(&used.leased_inline, change);
        self.trim_excess(peer);
    }

    /// Gives back what was leased for more than there is now, unless another thread holds the lock.
    fn trim_excess(&self, peer: PeerId) {
        let slot = self.own(peer);
        let Ok(mut inner) = slot.try_lock() else {
            return;
        };
        let used = slot.used();
        let slack = inner.tails.as_mut().map_or(0, |tails| {
            tails.measure();
            tails.slack
        });
        let queued = usize::try_from(used.queued().bytes).unwrap_or(usize::MAX);
        let excess = used.leased().saturating_sub(queued.saturating_add(slack));
        if excess > 0 {
            add(&used.leased_inline, excess.wrapping_neg());
            drop(inner);
            self.ledger.budget.release(excess);
        }
    }

    /// Bytes of the budget that are leased for a connection.
    pub(crate) fn leased(&self, peer: PeerId) -> usize {
        let used = self.own(peer).used.get();
        used.map_or(0, |used| used.all_leases())
    }

    /// Gives back what an outbox that ran empty has leased beyond need.
    ///
    /// A contended slot keeps its lease until the next time: the lock means that it is being used.
    #[inline]
    pub(crate) fn trim_lease(&self, peer: PeerId) {
        let slot = self.own(peer);
        let Ok(inner) = slot.try_lock() else {
            return;
        };
        if let Some(used) = slot.used.get().filter(|used| used.queued().messages == 0) {
            self.ledger.budget.release(used.take_leases());
        }
        drop(inner);
    }
}
