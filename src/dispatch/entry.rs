//! A subscriber as the fan-out has it: its queue, and what waits for room there.

use std::collections::VecDeque;

use crossbeam_channel::TrySendError;

use super::{
    queue::QueueBounds,
    registry::{Outlet, Subscriber},
    subscription::Delivery,
};
use crate::{ledger::Traffic, slots::Slots};

/// A subscriber, with what only the fan-out knows of it.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) subscriber: Subscriber,
    /// Running number of the next message that matches.
    pub(super) number: u64,
    /// Waits for room, the oldest first. While anything does, all that follows waits behind it.
    pub(super) parked: VecDeque<Parked>,
    /// True from a drop until a block fits again.
    pub(super) dropping: bool,
    /// What waits here has left no room in the dispatch queue. False again once half of that is
    /// free of what waits, or nothing waits here.
    pub(super) stalling: bool,
    /// It gets nothing more, and is about to be removed.
    pub(super) end: Option<End>,
    /// It is listed as one whose receiver was not told yet.
    pub(super) is_unannounced: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The receiver is gone.
    Gone,
    /// Its queue was full, for which it asked to be removed.
    Overflow,
}

#[derive(Debug)]
pub(super) struct Parked {
    pub(super) delivery: Delivery,
    /// What the delivery keeps of the dispatch queue's bounds.
    pub(super) charge: Traffic,
}

impl Entry {
    pub(super) fn new(subscriber: Subscriber) -> Self {
        Self {
            subscriber,
            number: 0,
            parked: VecDeque::new(),
            dropping: false,
            stalling: false,
            end: None,
            is_unannounced: false,
        }
    }

    /// Takes room in the subscriber's queue for as many messages of a delivery as it can take, and
    /// none if that is less than `least`. An empty queue takes something of every delivery.
    #[inline]
    pub(super) fn reserve(&self, shard: u8, delivery: &Delivery, least: u64) -> u64 {
        let account = &self.subscriber.account;
        account.reserve(shard, delivery.charge(), least)
    }

    /// Gives room back that was reserved for a part of a delivery.
    pub(super) fn give_back(&self, shard: u8, room: u64, delivery: &Delivery) {
        if room > 0 {
            let taken = Traffic::new(room, delivery.charge().bytes);
            self.subscriber.account.lower(shard, taken);
        }
    }

    /// Takes room that is about to be there.
    pub(super) fn reserve_anyway(&self, shard: u8, delivery: &Delivery) {
        self.subscriber.account.raise(shard, delivery.charge());
    }

    /// Whether the bound in bytes has no room for a delivery.
    pub(super) fn lacks_bytes(&self, delivery: &Delivery) -> bool {
        let account = &self.subscriber.account;
        let fill = account.fill();
        fill.messages > 0 && fill.bytes + delivery.charge().bytes > account.capacity.bytes
    }

    /// Drops the oldest delivery of the queue, and says how many messages that were.
    pub(super) fn drop_oldest(&self) -> Option<u32> {
        let Outlet::Deliveries(_, Some(oldest)) = &self.subscriber.outlet else {
            return None;
        };
        let delivery = oldest.try_recv().ok()?;
        let count = delivery.count();
        delivery.displace();
        Some(count)
    }

    /// Wakes the receiver, if it sleeps.
    #[inline]
    pub(super) fn wake(&self) {
        if let Outlet::Deliveries(sender, _) = &self.subscriber.outlet {
            sender.wake();
        }
    }

    /// Puts a delivery into the queue, where its room was reserved.
    #[inline]
    pub(super) fn deliver(&mut self, mut delivery: Delivery) {
        delivery.enter_queue();
        let Outlet::Deliveries(sender, _) = &self.subscriber.outlet else {
            // The service has failed meanwhile. The delivery counts itself, as below.
            return;
        };
        match sender.put(delivery) {
            // What is woken late must not be full by then.
            Ok(()) if self.subscriber.account.is_part_full() => sender.wake(),
            Ok(()) => {}
            // The subscription was dropped; its removal is on the way. The delivery counts itself.
            Err(TrySendError::Disconnected(delivery) | TrySendError::Full(delivery)) => {
                drop(delivery);
            }
        }
    }
}

/// Discards what waits for a subscriber that left.
pub(super) fn discard_parked(entry: &mut Entry, slots: &Slots, bounds: &QueueBounds) {
    for Parked { delivery, charge } in entry.parked.drain(..) {
        let peer = delivery.block().head().peer;
        drop(delivery);
        slots.unhold(peer);
        slots.ledger.dispatch_parked.lower(charge);
        bounds.lower(charge, &slots.doorbell);
    }
}
