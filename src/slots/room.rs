//! Room in an outbox: senders that wait for it, and the loop that makes it by writing.

use std::{sync::PoisonError, time::Duration};

use super::{credit::never_waits, table::Slots};
use crate::{
    id::PeerId,
    ledger::Traffic,
    sync::{
        atomic::{Ordering, fence},
        thread,
    },
};

impl Slots {
    /// Whether a message of this size could be accepted now; for waiting senders.
    ///
    /// Registers the calling thread to be unparked when there may be room. Senders on the loop's
    /// own thread must not wait: no other could make the room.
    pub(crate) fn wait_for_room(&self, peer: PeerId) -> bool {
        let Some(slot) = self.slot(peer) else {
            return false;
        };
        if never_waits() {
            return false;
        }
        let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        let me = thread::current();
        if !waiters
            .iter()
            .any(|(index, thread)| *index == peer.index() && thread.id() == me.id())
        {
            waiters.push((peer.index(), me));
        }
        drop(waiters);
        slot.waited.store(true, Ordering::Relaxed);
        // Pairs with the fence in `add_written`: the caller looks at the queue after this.
        fence(Ordering::SeqCst);
        true
    }

    /// Takes the calling thread off the list of those that wait for room.
    pub(crate) fn forget_waiter(&self, peer: PeerId) {
        let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        let me = thread::current().id();
        waiters.retain(|(index, thread)| *index != peer.index() || thread.id() != me);
    }

    /// Waits until this thread is unparked, or the time is over.
    pub(crate) fn park(timeout: Duration) {
        thread::park_timeout(timeout);
    }

    /// Counts what the kernel took. Returns whether a sender waits for the room.
    pub(crate) fn add_written(&self, peer: PeerId, traffic: Traffic) -> bool {
        let slot = self.own(peer);
        if traffic != Traffic::default() {
            slot.used().written.add_wrapping(traffic);
        }
        // Pairs with the fence in `wait_for_room`.
        fence(Ordering::SeqCst);
        slot.waited.load(Ordering::Relaxed)
    }

    /// Unparks the senders that wait for room with a peer. False if it has to be tried again.
    #[must_use]
    pub(crate) fn notify_room(&self, index: u32) -> bool {
        let Some(slot) = self.slot_at(index) else {
            return true;
        };
        let Ok(mut waiters) = self.waiters.try_lock() else {
            return false;
        };
        slot.waited.store(false, Ordering::Relaxed);
        waiters.retain(|(waiting, thread)| {
            if *waiting == index {
                thread.unpark();
            }
            *waiting != index
        });
        true
    }
}
