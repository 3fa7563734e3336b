//! A subscriber as the fan-out has it: its queue, and what waits for room there.

use std::collections::{HashSet, VecDeque};

use crossbeam_channel::TrySendError;

use super::{
    Delivery, EventDelivery,
    mixed::{Content, Extra, What},
    outlet::{Outlet, Subscriber},
    queue::QueueBounds,
    subscription::BatchDelivery,
};
use crate::{event::Event, id::PeerId, ledger::Traffic, slots::Slots, timers::TimerDelivery};

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
    pub(super) standing: Standing,
    /// What it has put into its queue besides messages.
    pub(super) extras: u64,
    /// Peers of which it gets nothing, because there was no room for their `Connected`; until they
    /// are closed.
    pub(super) hidden: HashSet<PeerId>,
    /// It is listed as one whose receiver was not told yet.
    pub(super) has_pending_wake: bool,
}

/// What a subscriber gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// Everything that is of its types.
    Open,
    /// Nothing of the peers that are hidden from it, of which there is one at least.
    Hides,
    /// Nothing more, because its receiver is gone. It is about to be removed.
    Gone,
    /// Nothing more, because its queue was full, for which it asked to be removed.
    Overflow,
}

/// What waits for room in a queue.
#[derive(Debug)]
pub(super) enum Parked {
    Batch {
        delivery: BatchDelivery,
        /// What the delivery keeps of the dispatch queue's bounds.
        charge: Traffic,
    },
    /// With its place in the bound of events of the dispatch queue.
    Event {
        event: Box<Event>,
        number: u64,
        behind: u64,
    },
    /// Waits for what is before it, and for no room; with such a place too.
    Timer { timer: TimerDelivery, behind: u64 },
}

/// What became of a try to drop the oldest batch of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Oldest {
    /// It had so many messages.
    Dropped(u32),
    /// There is no batch: all that the queue counts is being taken, or about to be put in.
    None,
    /// The subscriber or another shard is at it.
    Busy,
}

impl Entry {
    pub(super) fn new(subscriber: Subscriber) -> Self {
        Self {
            subscriber,
            number: 0,
            parked: VecDeque::new(),
            dropping: false,
            stalling: false,
            standing: Standing::Open,
            extras: 0,
            hidden: HashSet::new(),
            has_pending_wake: false,
        }
    }

    /// Takes room in the subscriber's queue for as many messages of a delivery as it can take, and
    /// none if that is less than `least`. An empty queue takes something of every delivery.
    #[inline]
    pub(super) fn reserve(&self, shard: u8, delivery: &BatchDelivery, least: u64) -> u64 {
        let account = &self.subscriber.account;
        account.reserve(shard, delivery.charge(), least)
    }

    /// Gives room back that was reserved for a part of a delivery.
    pub(super) fn give_back(&self, shard: u8, room: u64, delivery: &BatchDelivery) {
        if room > 0 {
            let taken = Traffic::new(room, delivery.charge().bytes);
            self.subscriber.account.lower(shard, taken);
        }
    }

    /// Takes room that is about to be there.
    pub(super) fn reserve_anyway(&self, shard: u8, delivery: &BatchDelivery) {
        self.subscriber.account.raise(shard, delivery.charge());
    }

    /// Whether the bound in bytes has no room for a delivery.
    pub(super) fn lacks_bytes(&self, delivery: &BatchDelivery) -> bool {
        let account = &self.subscriber.account;
        let fill = account.fill();
        fill.messages > 0 && fill.bytes + delivery.charge().bytes > account.capacity.bytes
    }

    /// Drops the oldest batch of the queue. Events before it go ahead of the queue, which `moved`
    /// then says; something has to be put into the queue after that, or no receiver looks for them.
    pub(super) fn drop_oldest(&self, moved: &mut bool) -> Oldest {
        let Outlet::Deliveries(_, Some(oldest)) = &self.subscriber.outlet else {
            return Oldest::None;
        };
        let mut ahead = match &oldest.ahead {
            None => None,
            Some(ahead) => match ahead.try_lock() {
                Some(list) => Some(list),
                None => return Oldest::Busy,
            },
        };
        while let Ok(delivery) = oldest.items.try_recv() {
            match (delivery, &mut ahead) {
                (Delivery(Content::Batch(batch)), _) => {
                    let count = batch.count();
                    batch.displace();
                    return Oldest::Dropped(count);
                }
                (extra, Some(list)) => {
                    list.push_back(extra);
                    *moved = true;
                }
                (extra, None) => debug_assert!(false, "{extra:?} among messages alone"),
            }
        }
        Oldest::None
    }

    /// Puts an event into the queue, where its room was reserved.
    pub(super) fn deliver_event(&mut self, shard: u8, event: Box<Event>, number: u64, behind: u64) {
        if let Some(account) = &self.subscriber.events {
            let event = EventDelivery::new(event, shard, number, account);
            self.deliver_extra(What::Event(event), behind);
        }
    }

    /// Puts an event or a timer into the queue, which counts itself if it is not taken any more.
    pub(super) fn deliver_extra(&mut self, what: What, behind: u64) {
        let Outlet::Deliveries(sender, _) = &self.subscriber.outlet else {
            return;
        };
        let number = self.extras;
        self.extras += 1;
        let extra = Extra {
            what,
            behind,
            number,
        };
        drop(sender.put(Delivery(Content::Extra(extra))));
        sender.wake();
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
    pub(super) fn deliver(&mut self, mut delivery: BatchDelivery) {
        delivery.enter_queue();
        let Outlet::Deliveries(sender, _) = &self.subscriber.outlet else {
            // The service has failed meanwhile. The delivery counts itself, as below.
            return;
        };
        match sender.put(delivery.into()) {
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
    let events = entry.subscriber.events.as_ref();
    for parked in entry.parked.drain(..) {
        match parked {
            Parked::Batch { delivery, charge } => {
                let peer = delivery.block().head().peer;
                drop(delivery);
                slots.unhold(peer);
                slots.ledger.dispatch_parked.lower(charge);
                bounds.lower(charge, &slots.doorbell);
            }
            Parked::Event { .. } => {
                if let Some(account) = events {
                    let counters = account.counters(slots.shard());
                    counters.unpark(1);
                    counters.discard(1);
                }
                bounds.lower_parked_event(&slots.doorbell);
            }
            Parked::Timer { timer, .. } => {
                drop(timer);
                bounds.lower_parked_event(&slots.doorbell);
            }
        }
    }
}
