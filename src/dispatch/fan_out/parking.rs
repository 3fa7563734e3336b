//! Deliveries that wait for room with a subscriber, in their order.
//!
//! What is parked keeps its place in the dispatch queue, and holds back the peer that it came from,
//! so that what waits is bounded by that queue.

use super::FanOut;
use crate::{
    dispatch::{
        entry::Parked,
        queue::queue_charge,
        subscription::{BatchDelivery, Place},
    },
    ledger::Traffic,
    log_limiter::Subject,
};

impl FanOut {
    /// Lets a delivery wait for room, and holds back the peer that it came from.
    pub(super) fn park(&mut self, position: usize, mut delivery: BatchDelivery) {
        let messages = queue_charge(delivery.block()).messages;
        let charge = Traffic::new(messages, delivery.charge().bytes);
        self.slots.ledger.dispatch_queue.raise(charge);
        self.slots.ledger.dispatch_parked.raise(charge);
        self.slots.hold(delivery.block().head().peer);
        delivery.set_place(Place::Parked);
        let entry = &mut self.entries[position];
        let account = &entry.subscriber.account;
        if entry.parked.is_empty() {
            account.counters(self.shard).pauses.add(1);
        }
        entry.parked.push_back(Parked::Batch { delivery, charge });
        account.begin_wait(self.shard);
        let ledger = &self.slots.ledger;
        let (parked, capacity) = (ledger.dispatch_parked.get(), ledger.dispatch_capacity());
        // With no room for another block like this one, it is sure that no peer is read. A longer
        // one may be held up before; see `unpark`.
        if parked.bytes + charge.bytes > capacity.bytes
            || parked.messages + charge.messages > capacity.messages
        {
            self.note_stall(position);
        }
        // Room that was made before we said that we wait: no ring will tell of it.
        self.unpark(position);
    }

    /// Counts that what waits for a subscriber stops all reading, and says so once in a while.
    pub(super) fn note_stall(&mut self, position: usize) {
        let entry = &mut self.entries[position];
        let account = &entry.subscriber.account;
        if !std::mem::replace(&mut entry.stalling, true) {
            account.counters(self.shard).stalls.add(1);
        }
        let now = self.slots.clock.now().tick;
        let subject = Subject::Subscriber(account.id.0);
        if let Some(suppressed) = self.log_limiter.allow(now, "subscriber holds all", subject) {
            log::warn!(
                "subscriber {:?} holds back all reading: what waits for it fills the dispatch \
                 queue{suppressed}",
                account.name
            );
        }
    }

    /// Looks whether a subscriber has let go of so much that reading goes on.
    fn note_unparked(&mut self, position: usize) {
        let entry = &mut self.entries[position];
        let ledger = &self.slots.ledger;
        let (parked, capacity) = (ledger.dispatch_parked.get(), ledger.dispatch_capacity());
        let is_half =
            parked.bytes <= capacity.bytes / 2 && parked.messages <= capacity.messages / 2;
        if (is_half && !self.bounds.is_waited_for()) || entry.parked.is_empty() {
            entry.stalling = false;
        }
    }

    /// Delivers what waits for a subscriber, as far as there is room and it is our turn.
    pub(super) fn unpark(&mut self, position: usize) {
        let entry = &self.entries[position];
        if entry.parked.is_empty() {
            entry.subscriber.account.end_wait(self.shard);
        } else if entry.subscriber.account.may_unpark(self.shard) {
            if self.bounds.is_waited_for_parked() {
                self.note_stall(position);
            }
            self.deliver_parked(position);
            self.note_unparked(position);
            let entry = &self.entries[position];
            if entry.parked.is_empty() {
                entry.subscriber.account.end_wait(self.shard);
            }
            entry.subscriber.account.end_turn(self.shard);
        }
    }

    fn deliver_parked(&mut self, position: usize) {
        while let Some(first) = self.entries[position].parked.pop_front() {
            let back = match first {
                Parked::Batch { delivery, charge } => {
                    self.deliver_parked_batch(position, delivery, charge)
                }
                extra @ (Parked::Event { .. } | Parked::Timer { .. }) => {
                    self.deliver_parked_extra(position, extra)
                }
            };
            if let Some(back) = back {
                self.entries[position].parked.push_front(back);
                return;
            }
        }
    }

    /// What is left of it comes back.
    fn deliver_parked_batch(
        &mut self,
        position: usize,
        mut delivery: BatchDelivery,
        charge: Traffic,
    ) -> Option<Parked> {
        let account = &self.entries[position].subscriber.account;
        let room = account.reserve_in_turn(self.shard, delivery.charge());
        let room = u32::try_from(room).unwrap_or(u32::MAX);
        if room == 0 {
            return Some(Parked::Batch { delivery, charge });
        }
        if room < delivery.count() {
            let rest = delivery.split_off(room);
            self.deliver(position, delivery);
            return Some(Parked::Batch {
                delivery: rest,
                charge,
            });
        }
        let peer = delivery.block().head().peer;
        self.deliver(position, delivery);
        self.slots.unhold(peer);
        self.slots.ledger.dispatch_parked.lower(charge);
        self.bounds.lower(charge, &self.slots.doorbell);
        None
    }
}
