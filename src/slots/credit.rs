//! What was read from a peer and given back, and what else keeps the loop from reading it.
//!
//! Any thread gives credit back, and holds a peer and lets go of it again. Each change takes the
//! lock of the slot; a loop's thread, which must not wait, leaves a change to the loop's next turn
//! where it finds the lock taken.

use std::cell::Cell;

use super::{
    cells::Flow,
    slot::{Contended, SlotState},
    table::{Deferred, Slots},
};
use crate::{
    error::CloseReason,
    id::PeerId,
    ledger::Traffic,
    sync::atomic::{Ordering, fence},
};

/// Changes that wait because the loop found a slot's lock taken.
const DEFERRED_MAX: usize = 4096;

#[cfg(all(test, nebnet_loom))]
loom::thread_local! {
    static NEVER_WAITS: Cell<bool> = Cell::new(false);
}

#[cfg(not(all(test, nebnet_loom)))]
thread_local! {
    /// Whether this is a loop's thread.
    static NEVER_WAITS: Cell<bool> = const { Cell::new(false) };
}

/// Whether the calling thread must not wait for anybody.
pub(crate) fn never_waits() -> bool {
    NEVER_WAITS.with(Cell::get)
}

impl Slots {
    /// Says that the calling thread must never wait.
    pub(crate) fn set_loop_thread() {
        NEVER_WAITS.with(|flag| flag.set(true));
    }

    /// Returns credit for what was read from a peer, if it is still connected, and the bytes to the
    /// budget in any case.
    pub(crate) fn release(&self, peer: PeerId, traffic: Traffic, charge: usize) {
        self.ledger.budget.release(charge);
        self.apply(Deferred::Release(peer, traffic), !never_waits());
        // Pairs with the fence in `wait_for_budget`.
        fence(Ordering::SeqCst);
        if self.budget_waited.load(Ordering::Relaxed) && !self.ledger.budget.is_tight() {
            self.budget_waited.store(false, Ordering::Relaxed);
            self.doorbell.ring();
        }
    }

    /// Keeps the loop from reading a peer until [`unhold`](Self::unhold) was called as often.
    pub(crate) fn hold(&self, peer: PeerId) {
        self.apply(Deferred::Hold(peer), !never_waits());
    }

    pub(crate) fn unhold(&self, peer: PeerId) {
        self.apply(Deferred::Unhold(peer), !never_waits());
    }

    /// Has the loop close a peer in order, for a reason of the dispatcher's. Nothing happens if it
    /// is on its way already.
    pub(crate) fn close_for(&self, peer: PeerId, reason: CloseReason) {
        self.apply(Deferred::Close(peer, reason), !never_waits());
    }

    /// Changes what the slot of a peer counts, if the peer is still connected. A thread that must
    /// not wait for the lock leaves it to the loop's next turn.
    fn apply(&self, change: Deferred, may_wait: bool) {
        let (Deferred::Release(peer, _)
        | Deferred::Hold(peer)
        | Deferred::Unhold(peer)
        | Deferred::Close(peer, _)) = change;
        let Some(slot) = self.slot(peer) else { return };
        let mut inner = match slot.try_lock() {
            Ok(inner) => inner,
            // The order of changes to one slot does not matter: they are sums. Should there be more
            // of them than the queue holds, waiting is the smaller evil.
            Err(Contended) if !may_wait && self.deferred.1.len() < DEFERRED_MAX => {
                let sent = self.deferred.0.try_send(change);
                debug_assert!(sent.is_ok(), "both ends are here");
                self.doorbell.ring();
                return;
            }
            Err(Contended) => slot.lock(),
        };
        if slot.generation() != peer.generation() {
            return;
        }
        let mut wanted = false;
        match change {
            Deferred::Release(_, traffic) => slot.used().released.add(traffic),
            // A hold that was put off may come behind its unhold, and is then the end of it.
            Deferred::Hold(_) => wanted = slot.parked.fetch_add(1, Ordering::Relaxed) == u32::MAX,
            Deferred::Unhold(_) => wanted = slot.parked.fetch_sub(1, Ordering::Relaxed) == 1,
            Deferred::Close(_, reason) => {
                wanted = inner.state == SlotState::Open;
                if wanted {
                    inner.state = SlotState::CloseAsked(reason);
                    let ends = !reason.reads_on();
                    slot.close_asked.store(ends, Ordering::Relaxed);
                }
            }
        }
        drop(inner);
        // Pairs with the fence in `pause`.
        fence(Ordering::SeqCst);
        if slot.paused.load(Ordering::Relaxed) && slot.may_resume() {
            slot.paused.store(false, Ordering::Relaxed);
            wanted = true;
        }
        if wanted {
            self.mark_dirty(slot, peer.index());
        }
    }

    /// Does what was put off because a slot's lock was taken.
    pub(crate) fn finish_deferred(&self) {
        // What is put off again waits for the next turn.
        for _ in 0..self.deferred.1.len() {
            let Ok(change) = self.deferred.1.try_recv() else {
                return;
            };
            self.apply(change, false);
        }
    }

    pub(crate) fn has_deferred(&self) -> bool {
        !self.deferred.1.is_empty()
    }

    /// What was read from the peer and released by all, and what is queued for it.
    #[inline]
    pub(crate) fn flow(&self, peer: PeerId) -> Flow {
        match self.own(peer).used.get() {
            Some(used) => Flow {
                released: used.released.get(),
                queued: used.queued(),
            },
            None => Flow::default(),
        }
    }

    /// What was read from the peer and released by all.
    pub(crate) fn released(&self, peer: PeerId) -> Traffic {
        let used = self.own(peer).used.get();
        used.map_or_else(Traffic::default, |used| used.released.get())
    }

    /// Whether the dispatcher keeps the peer from being read.
    #[inline]
    pub(crate) fn is_parked(&self, peer: PeerId) -> bool {
        self.own(peer).parked.load(Ordering::Relaxed) > 0
    }

    /// Marks the slot dirty once everything up to `resume` was released. False if it already was,
    /// so that no other thread would.
    #[must_use]
    pub(crate) fn pause(&self, peer: PeerId, resume: Traffic) -> bool {
        let slot = self.own(peer);
        slot.used().resume.set(resume);
        slot.paused.store(true, Ordering::Relaxed);
        // Pairs with the fence in `release`.
        fence(Ordering::SeqCst);
        let pausing = !slot.may_resume();
        if !pausing {
            slot.paused.store(false, Ordering::Relaxed);
        }
        pausing
    }

    /// Rings the doorbell once the budget is no longer tight. False if it is not.
    #[must_use]
    pub(crate) fn wait_for_budget(&self) -> bool {
        self.budget_waited.store(true, Ordering::Relaxed);
        self.ledger.budget.declare_wait();
        // Pairs with those of threads that give bytes back, here or in another shard.
        fence(Ordering::SeqCst);
        let tight = self.ledger.budget.is_tight();
        if !tight {
            self.budget_waited.store(false, Ordering::Relaxed);
        }
        tight
    }
}
