//! A part of a block is offered to a subscriber: delivered, parked, or dropped and counted.

use std::sync::Arc;

use crossbeam_channel::TrySendError;

use super::FanOut;
use crate::{
    block::BlockRef,
    dispatch::{
        OverflowPolicy,
        entry::{Oldest, Standing},
        index::Share,
        outlet::Outlet,
        subscription::BatchDelivery,
    },
    error::CloseReason,
    id::PeerId,
    log_limiter::Subject,
};

/// How often a queue that others fill too is looked at for something to drop.
const REPLACE_LOOKS_MAX: usize = 100;

impl FanOut {
    /// Offers a subscriber its share of a block.
    pub(super) fn offer(&mut self, position: usize, block: &BlockRef, share: &Share) {
        let entry = &mut self.entries[position];
        let account = &entry.subscriber.account;
        let count = share.count;
        let counters = account.counters(self.shard);
        counters.matched.add(u64::from(count));
        match entry.standing {
            Standing::Open => {}
            Standing::Hides if !entry.hidden.contains(&block.head().peer) => {}
            Standing::Gone => {
                counters.discard(u64::from(count));
                return;
            }
            Standing::Hides | Standing::Overflow => {
                // What is not told as missing now is with the next batch.
                entry.number += u64::from(count);
                counters.dropped.add(u64::from(count));
                return;
            }
        }
        if let Outlet::Messages(_) = entry.subscriber.outlet {
            self.offer_messages(position, block, share);
            return;
        }
        let number = entry.number;
        entry.number += u64::from(count);
        let mut delivery = BatchDelivery::new(block.clone(), share, number, Arc::clone(account));
        let room = if entry.parked.is_empty() {
            entry.reserve(self.shard, &delivery, 1)
        } else {
            0
        };
        if room >= u64::from(count) {
            let was_dropping = entry.dropping;
            self.deliver(position, delivery);
            if was_dropping {
                self.end_of_dropping(position);
            }
            return;
        }
        // No queue is full, and misses what follows, for want of being told.
        entry.wake();
        if entry.subscriber.account.overflow == OverflowPolicy::DropOldest {
            entry.give_back(self.shard, room, &delivery);
            self.replace_oldest(position, delivery);
            return;
        }
        let for_bytes = room == 0 && entry.lacks_bytes(&delivery);
        let rest = if room == 0 {
            delivery
        } else {
            let rest = delivery.split_off(u32::try_from(room).unwrap_or(u32::MAX));
            self.deliver(position, delivery);
            rest
        };
        let overflow = self.entries[position].subscriber.account.overflow;
        if overflow == OverflowPolicy::Pause {
            self.park(position, rest);
            return;
        }
        let (peer, count) = (rest.block().head().peer, rest.count());
        self.note_dropped(position, count, 0, if for_bytes { count } else { 0 });
        self.follow_up(position, overflow, peer);
    }

    /// Does what a subscriber asked for besides the drop.
    pub(super) fn follow_up(&mut self, position: usize, overflow: OverflowPolicy, peer: PeerId) {
        match overflow {
            OverflowPolicy::DropNewest | OverflowPolicy::DropOldest | OverflowPolicy::Pause => {}
            OverflowPolicy::Close => self.slots.close_for(peer, CloseReason::Flood),
            OverflowPolicy::Unsubscribe => self.end(position, Standing::Overflow),
        }
    }

    /// Puts a delivery into a queue that has no room for it, in place of the oldest there.
    pub(super) fn replace_oldest(&mut self, position: usize, mut delivery: BatchDelivery) {
        let entry = &mut self.entries[position];
        let capacity = entry.subscriber.account.capacity.messages;
        let capacity = u32::try_from(capacity).unwrap_or(u32::MAX);
        let (mut dropped, mut displaced, mut for_bytes) = (0, 0, 0);
        if delivery.count() > capacity {
            dropped = delivery.count() - capacity;
            delivery = delivery.split_off(dropped);
        }
        let mut looks_left = REPLACE_LOOKS_MAX;
        let mut moved = false;
        while entry.reserve(self.shard, &delivery, u64::from(delivery.count())) == 0 {
            let lacks_bytes = entry.lacks_bytes(&delivery);
            let oldest = entry.drop_oldest(&mut moved);
            if let Oldest::Dropped(count) = oldest {
                displaced += count;
                for_bytes += if lacks_bytes { count } else { 0 };
                continue;
            }
            // Without one, all that the queue counts is being taken at this moment. Or another
            // shard is about to put into it what is no older than this.
            looks_left -= 1;
            let is_alone = !entry.subscriber.account.has_several_shards();
            if (is_alone && oldest == Oldest::None) || (moved && looks_left == 0) {
                entry.reserve_anyway(self.shard, &delivery);
                break;
            }
            if looks_left == 0 {
                dropped += delivery.count();
                self.note_dropped(position, dropped, displaced, for_bytes);
                return;
            }
            std::hint::spin_loop();
        }
        self.deliver(position, delivery);
        if dropped + displaced > 0 {
            self.note_dropped(position, dropped, displaced, for_bytes);
        }
    }

    /// Offers messages one by one to a channel of the embedder.
    fn offer_messages(&mut self, position: usize, block: &BlockRef, share: &Share) {
        let entry = &mut self.entries[position];
        let Outlet::Messages(sender) = &entry.subscriber.outlet else {
            return;
        };
        let account = &entry.subscriber.account;
        let counters = account.counters(self.shard);
        // A subscriber that cannot live with a gap gets nothing behind it in this block, as of a
        // block in a queue of our own. What was read of a peer before its close comes all the same.
        let stops = matches!(
            account.overflow,
            OverflowPolicy::Close | OverflowPolicy::Unsubscribe
        );
        let mut dropped = 0;
        let mut gone = false;
        let delivery = BatchDelivery::new(block.clone(), share, 0, Arc::clone(account));
        for message in delivery.messages() {
            if stops && dropped > 0 {
                dropped += 1;
                continue;
            }
            match sender.try_send(message.to_message()) {
                Ok(()) => {
                    counters.begin_move(1);
                    counters.end_taken(1);
                }
                Err(TrySendError::Full(_)) => dropped += 1,
                Err(TrySendError::Disconnected(_)) => {
                    counters.discard(1);
                    gone = true;
                }
            }
        }
        let overflow = account.overflow;
        if gone {
            counters.dropped.add(u64::from(dropped));
            log::debug!("subscriber {:?} is gone", account.name);
            self.end(position, Standing::Gone);
        } else if dropped > 0 {
            self.note_dropped(position, dropped, 0, 0);
            self.follow_up(position, overflow, block.head().peer);
        } else {
            self.end_of_dropping(position);
        }
    }

    /// Counts messages that were dropped for want of room, and says so once in a while; `for_bytes`
    /// of them, or of those displaced in the queue, fell to the bound in bytes.
    pub(super) fn note_dropped(
        &mut self,
        position: usize,
        count: u32,
        displaced: u32,
        for_bytes: u32,
    ) {
        debug_assert!(for_bytes <= count + displaced);
        let entry = &mut self.entries[position];
        let account = &entry.subscriber.account;
        let counters = account.counters(self.shard);
        counters.dropped.add(u64::from(count));
        counters.dropped_for_bytes.add(u64::from(for_bytes));
        entry.dropping = true;
        let now = self.slots.clock.now().tick;
        let subject = Subject::Subscriber(account.id.0);
        if let Some(suppressed) = self.log_limiter.allow(now, "subscriber full", subject) {
            let (name, dropped) = (&account.name, account.dropped());
            log::warn!(
                "subscriber {name:?} is full: {dropped} messages dropped so far{suppressed}"
            );
        }
    }

    #[inline]
    pub(super) fn end_of_dropping(&mut self, position: usize) {
        if std::mem::take(&mut self.entries[position].dropping) {
            self.tell_recovered(position);
        }
    }

    #[cold]
    fn tell_recovered(&mut self, position: usize) {
        let entry = &mut self.entries[position];
        let account = &entry.subscriber.account;
        let now = self.slots.clock.now().tick;
        let subject = Subject::Subscriber(account.id.0);
        if let Some(suppressed) = self.log_limiter.allow(now, "subscriber recovered", subject) {
            let (name, dropped) = (&account.name, account.dropped());
            log::info!(
                "subscriber {name:?} takes again: {dropped} messages dropped so far{suppressed}"
            );
        }
    }
}
