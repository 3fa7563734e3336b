//! The fan-out itself: from message types to subscribers, and what happens when one is full.
//!
//! A dense table leads from each of the 65,536 types to a list of subscribers; equal lists are
//! shared, so the table is 128 KiB whatever the number of subscribers. A block whose messages are
//! all of one type, which the parser knows, costs one look; the messages of a mixed one are counted
//! per list in one walk over their headers, and listed in an [`index`](super::index).

use std::{
    collections::{BTreeMap, HashMap},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::Arc,
};

use crossbeam_channel::TrySendError;

use super::{
    EndReason, Notice, OverflowPolicy, Registry,
    answers::Answers,
    entry::{Entry, Oldest, Parked, Standing, discard_parked},
    events,
    index::{Share, Sorter},
    queue::{Item, QueueBounds, queue_charge},
    registry::{Outlet, Subscriber},
    subscription::{BatchDelivery, Place},
    tally::Tally,
};
use crate::{
    balance::{CutMarker, DispatchCut},
    block::BlockRef,
    error::CloseReason,
    id::{MessageType, PeerId},
    ledger::{Traffic, TypeMap},
    limits::{DIRECT_BLOCK_BYTES_MAX, DIRECT_SUBSCRIBERS_MAX},
    log_limiter::{LogLimiter, Subject},
    slots::{Slots, never_waits},
};

mod extras;

/// The list of types that nobody subscribes to.
const NOBODY: u16 = 0;

/// How often a queue that others fill too is looked at for something to drop.
const REPLACE_LOOKS_MAX: usize = 100;

/// Delivers blocks to subscribers; owned by whichever thread does the dispatching.
#[derive(Debug)]
pub(crate) struct FanOut {
    registry: Arc<Registry>,
    slots: Arc<Slots>,
    /// Which of the counters of every subscriber are its own.
    shard: u8,
    bounds: QueueBounds,
    version: Option<u64>,
    entries: Vec<Entry>,
    /// Those that get events alone.
    event_subscribers: Vec<Subscriber>,
    /// Entries that get events or timers beside messages.
    mixed: Vec<u16>,
    /// For each type, the position of its list.
    routes: Vec<u16>,
    /// Positions of entries. The first list is empty.
    lists: Vec<Vec<u16>>,
    type_map: TypeMap,
    /// For a mixed block: messages per type.
    tally: Tally,
    answers: Answers,
    log_limiter: LogLimiter,
    in_hand: InHand,
    /// An entry has ended, and is not out of the list of subscribers yet.
    any_ended: bool,
    /// For mixed blocks.
    sorter: Sorter,
    /// Entries whose receivers were not told yet of what is in their queues.
    pending_wakes: Vec<u16>,
    /// Bytes of the blocks that brought it.
    bytes_without_wake: usize,
}

/// A block that is being dispatched, and not yet counted.
#[derive(Debug, Default)]
struct InHand {
    /// What it holds of the dispatch queue.
    charge: Traffic,
    /// Its messages, without answers to our requests.
    claimed: u64,
    unclaimed: u64,
}

impl FanOut {
    pub(crate) fn new(registry: Arc<Registry>, slots: Arc<Slots>, bounds: QueueBounds) -> Self {
        let requests = Arc::clone(&registry.requests);
        let shard = slots.shard();
        let poke = Arc::clone(registry.poke(shard));
        let answers = Answers::new(requests, Arc::clone(&slots), poke);
        Self {
            answers,
            shard,
            registry,
            slots,
            bounds,
            version: None,
            entries: Vec::new(),
            event_subscribers: Vec::new(),
            mixed: Vec::new(),
            routes: vec![NOBODY; 1 << 16],
            lists: vec![Vec::new()],
            type_map: TypeMap::default(),
            tally: Tally::default(),
            log_limiter: LogLimiter::default(),
            in_hand: InHand::default(),
            any_ended: false,
            sorter: Sorter::default(),
            pending_wakes: Vec::new(),
            bytes_without_wake: 0,
        }
    }

    /// As [`dispatch_without_wake`](Self::dispatch_without_wake), and wakes those who sleep.
    #[cfg(any(test, feature = "workbench"))]
    pub(crate) fn dispatch(&mut self, block: BlockRef) {
        self.dispatch_without_wake(block);
        self.wake_receivers();
    }

    /// Offers a block to everybody who subscribes to its messages, and gives back what it held of
    /// the dispatch queue. Wakes nobody whose queue has much room left: to be followed by
    /// [`wake_receivers`](Self::wake_receivers), before the thread waits for anything.
    pub(crate) fn dispatch_without_wake(&mut self, block: BlockRef) {
        self.refresh();
        self.bytes_without_wake += block.bytes().len();
        self.in_hand.charge = queue_charge(&block);
        // Answers are claimed or unclaimed already, or will be.
        let (answers, tag) = self.answers.take(&block).unzip();
        match block.head().message_type {
            Some(message_type) => {
                let answers = answers.unwrap_or(0);
                let others = block.head().frames - answers;
                self.dispatch_uniform(&block, message_type, [others, answers], tag);
            }
            None => self.dispatch_mixed(&block, tag),
        }
        if self.any_ended {
            self.remove_ended();
        }
        drop(block);
        self.settle();
    }

    /// Bytes of the blocks whose receivers sleep on, perhaps.
    pub(crate) fn bytes_without_wake(&self) -> usize {
        self.bytes_without_wake
    }

    /// Wakes those who sleep and have something in their queues.
    #[inline]
    pub(crate) fn wake_receivers(&mut self) {
        self.bytes_without_wake = 0;
        while let Some(position) = self.pending_wakes.pop() {
            let entry = &mut self.entries[usize::from(position)];
            entry.has_pending_wake = false;
            entry.wake();
        }
    }

    /// Counts the block in hand, and gives back what it held of the dispatch queue.
    fn settle(&mut self) {
        let InHand {
            charge,
            claimed,
            unclaimed,
        } = std::mem::take(&mut self.in_hand);
        let ledger = &self.slots.ledger;
        ledger.dispatched.add(charge.messages);
        ledger.claimed.add(claimed);
        ledger.unclaimed.add(unclaimed);
        self.bounds.lower(charge, &self.slots.doorbell);
    }

    /// Whether a block is little work: it is of one type, which few subscribe to, and it is small
    /// or takes one step for each of them. False too if that cannot be had now.
    pub(crate) fn is_cheap(&mut self, block: &BlockRef) -> bool {
        let Some(message_type) = block.head().message_type else {
            return false;
        };
        if !self.refresh() {
            return false;
        }
        let list = &self.lists[usize::from(self.routes[usize::from(message_type.0)])];
        let is_large = block.bytes().len() > DIRECT_BLOCK_BYTES_MAX;
        let has_queue = |position: &u16| {
            let entry = &self.entries[usize::from(*position)];
            // Without the other end: where the oldest is dropped, one large block may cost a
            // step for each delivery of the queue.
            matches!(entry.subscriber.outlet, Outlet::Deliveries(_, None))
        };
        list.len() <= DIRECT_SUBSCRIBERS_MAX
            && !(is_large && (block.head().has_correlation || !list.iter().all(has_queue)))
    }

    /// Whether a block that is light may find no room with somebody who was not told yet of what is
    /// in the queue, and may sleep over it.
    #[inline]
    pub(crate) fn would_overflow_sleeper(&self, block: &BlockRef) -> bool {
        if self.pending_wakes.is_empty() {
            return false;
        }
        let message_type = block.head().message_type;
        let list = message_type.map_or(NOBODY, |found| self.routes[usize::from(found.0)]);
        self.lists[usize::from(list)].iter().any(|position| {
            let entry = &self.entries[usize::from(*position)];
            let wanted = queue_charge(block);
            entry.has_pending_wake && entry.subscriber.account.lacks_room_for(wanted)
        })
    }

    /// Does what the loop says of requests, behind everything that was dispatched before.
    pub(crate) fn handle_notice(&mut self, notice: Notice) {
        self.answers.handle_notice(notice);
        // The place in the queue is free, which the loop may wait for.
        self.bounds.lower(Traffic::default(), &self.slots.doorbell);
    }

    /// A cut of the ledger has come here: everything that the loop had handed over before is
    /// dispatched. Its answer is ours to complete.
    pub(crate) fn handle_cut(&mut self, marker: CutMarker) {
        let behind = self.cut();
        marker.finish(behind);
    }

    /// What the fan-out counts, with the subscribers' counters of the same moment; `None` if that
    /// cannot be had now.
    pub(super) fn cut(&mut self) -> Option<DispatchCut> {
        if !self.refresh() {
            return None;
        }
        let subscribers = self.registry.cut(self.shard)?;
        let ledger = &self.slots.ledger;
        Some(DispatchCut {
            dispatched: ledger.dispatched.get(),
            claimed: ledger.claimed.get(),
            unclaimed: ledger.unclaimed.get(),
            put_off: self.answers.count_put_off(),
            types: ledger.types_in.dispatched().collect(),
            requests: self.registry.requests.row_if(!never_waits()).ok()?,
            subscribers,
        })
    }

    /// Delivers what waits and fits now, and lets go of what belonged to subscribers that left.
    pub(crate) fn pump(&mut self) {
        if !self.refresh() {
            // Whoever left is still in the table, and would not poke again.
            self.registry.poke(self.shard).poke();
        }
        for position in 0..self.entries.len() {
            self.unpark(position);
        }
        if self.any_ended {
            self.remove_ended();
        }
        self.wake_receivers();
        self.answers.finish_put_off(!never_waits());
    }

    /// Lets go of storage that is kept for nothing; to be called once a second.
    pub(crate) fn trim(&mut self) {
        self.sorter.trim();
    }

    /// Ends the fan-out: what waits is discarded and counted, subscribers find their end. That they
    /// do whatever panics meanwhile, which comes out when all is done.
    pub(crate) fn close(&mut self) {
        // While the positions are those of the table.
        self.wake_receivers();
        self.routes.fill(NOBODY);
        self.mixed.clear();
        let mut entries = std::mem::take(&mut self.entries);
        let event_subscribers = std::mem::take(&mut self.event_subscribers);
        let settled = catch_unwind(AssertUnwindSafe(|| {
            // If a panic has left a block in hand, it counts as dispatched: those who were not
            // offered it have not counted it either.
            self.settle();
            // There is nobody left to keep waiting.
            self.answers.finish_put_off(true);
        }));
        // Before the queues are disconnected: it says why they are.
        let ended = catch_unwind(AssertUnwindSafe(|| self.registry.end_fan_out(self.shard)));
        let discarded = entries.iter_mut().map(|entry| {
            let discard = || discard_parked(entry, &self.slots, &self.bounds);
            catch_unwind(AssertUnwindSafe(discard))
        });
        let discarded = discarded.fold(Ok(()), Result::and);
        drop((entries, event_subscribers));
        if let Err(panic) = settled.and(ended).and(discarded) {
            resume_unwind(panic);
        }
    }

    /// Gives back what an item holds of the dispatch queue, after a panic. Nobody is offered it.
    pub(crate) fn abandon(&self, item: Item) {
        match item {
            Item::Block(block) => {
                let charge = queue_charge(&block);
                self.slots.ledger.abandoned.add(block.traffic());
                drop(block);
                self.bounds.lower(charge, &self.slots.doorbell);
            }
            Item::Event(_) | Item::Timer(_) => self.bounds.lower_event(&self.slots.doorbell),
            Item::Notice(_) => self.bounds.lower(Traffic::default(), &self.slots.doorbell),
            Item::Cut(marker) => marker.finish(None),
            Item::Poke => {}
        }
    }

    /// `count` messages are not answers, which `tag` tells apart.
    fn dispatch_uniform(
        &mut self,
        block: &BlockRef,
        message_type: MessageType,
        [count, answers]: [u32; 2],
        tag: Option<u32>,
    ) {
        let ledger = &self.slots.ledger;
        let row = self.type_map.row(message_type, &ledger.types_in);
        let list = self.routes[usize::from(message_type.0)];
        let traffic = Traffic::new(u64::from(count), block.bytes().len() as u64);
        ledger.types_in.add_offered(row, traffic, list != NOBODY);
        if answers > 0 {
            // Their bytes are counted already.
            let answers = Traffic::new(u64::from(answers), 0);
            ledger.types_in.add_answers(row, answers);
        }
        // Said before anybody is offered anything, where the embedder's logger may panic.
        if list == NOBODY {
            self.in_hand.unclaimed = traffic.messages;
            return;
        }
        self.in_hand.claimed = traffic.messages;
        if count > 0 {
            let share = Share::of_block(block, count, tag);
            for index in 0..self.lists[usize::from(list)].len() {
                let entry = self.lists[usize::from(list)][index];
                self.offer(usize::from(entry), block, &share);
            }
        }
    }

    /// The same for a block of several types; a call of its own, so that others have less to save.
    #[inline(never)]
    fn dispatch_mixed(&mut self, block: &BlockRef, tag: Option<u32>) {
        let Self {
            routes,
            type_map,
            tally,
            sorter,
            slots,
            in_hand,
            ..
        } = self;
        let types_in = &slots.ledger.types_in;
        sorter.walk(block, tag, |message_type, size, is_answer| {
            let row = type_map.row(message_type, types_in);
            let traffic = Traffic::new(1, size as u64);
            if is_answer {
                types_in.add_answers(row, traffic);
            } else {
                tally.add(row, message_type, traffic);
            }
            routes[usize::from(message_type.0)]
        });
        for (row, message_type, traffic) in tally.drain() {
            let is_claimed = routes[usize::from(message_type.0)] != NOBODY;
            types_in.add_offered(row, traffic, is_claimed);
            if is_claimed {
                in_hand.claimed += traffic.messages;
            } else {
                in_hand.unclaimed += traffic.messages;
            }
        }
        sorter.write(block, &slots.ledger.budget);
        for position in 0..self.entries.len() {
            let share = self.sorter.share(block, position, tag);
            if share.count > 0 {
                self.offer(position, block, &share);
            }
        }
        self.sorter.finish();
    }

    /// Offers a subscriber its share of a block.
    fn offer(&mut self, position: usize, block: &BlockRef, share: &Share) {
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
        // Nobody is full, and misses what follows, for want of being told.
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
    fn follow_up(&mut self, position: usize, overflow: OverflowPolicy, peer: PeerId) {
        match overflow {
            OverflowPolicy::DropNewest | OverflowPolicy::DropOldest | OverflowPolicy::Pause => {}
            OverflowPolicy::Close => self.slots.close_for(peer, CloseReason::Flood),
            OverflowPolicy::Unsubscribe => self.end(position, Standing::Overflow),
        }
    }

    /// Puts a delivery into a queue that has no room for it, in place of the oldest there.
    fn replace_oldest(&mut self, position: usize, mut delivery: BatchDelivery) {
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
        // Whoever cannot live with a gap gets nothing behind it in this block, as of a block in a
        // queue of our own. What was read of a peer before its close comes all the same.
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
    fn note_dropped(&mut self, position: usize, count: u32, displaced: u32, for_bytes: u32) {
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
    fn end_of_dropping(&mut self, position: usize) {
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

    /// Lets a delivery wait for room, and holds back the peer that it came from.
    fn park(&mut self, position: usize, mut delivery: BatchDelivery) {
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
        // With no room for another block like this one, it is sure that nobody is read. A longer
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
    fn note_stall(&mut self, position: usize) {
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
    fn unpark(&mut self, position: usize) {
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

    /// Puts a delivery into the queue of an entry, where its room was reserved, and wakes the
    /// receiver, or lists it as one to wake.
    #[inline]
    fn deliver(&mut self, position: usize, delivery: BatchDelivery) {
        let entry = &mut self.entries[position];
        entry.deliver(delivery);
        if !entry.has_pending_wake {
            entry.has_pending_wake = true;
            // Lists hold positions of this size too.
            self.pending_wakes
                .push(u16::try_from(position).unwrap_or(u16::MAX));
        }
    }

    /// Gives a subscriber nothing more. It leaves the list behind this block or event.
    fn end(&mut self, position: usize, standing: Standing) {
        self.entries[position].standing = standing;
        self.any_ended = true;
    }

    #[cold]
    fn remove_ended(&mut self) {
        self.any_ended = false;
        for entry in &self.entries {
            let why = match entry.standing {
                Standing::Open | Standing::Hides => continue,
                Standing::Overflow => Some(EndReason::Overflow),
                Standing::Gone => None,
            };
            let id = entry.subscriber.account.id;
            if !self.registry.try_remove(id, why) {
                self.any_ended = true;
                // Nobody else would say that it is to be tried again.
                self.registry.poke(self.shard).poke();
            }
        }
    }

    /// Makes the table anew if the list of subscribers has changed. False on a thread that would
    /// have to wait for the list; what is dispatched then misses whoever has come since.
    #[inline]
    pub(crate) fn refresh(&mut self) -> bool {
        self.version == Some(self.registry.version()) || self.rebuild()
    }

    #[cold]
    fn rebuild(&mut self) -> bool {
        let Some((version, subscribers)) = self.registry.subscribers() else {
            return false;
        };
        // While the positions are those of the list.
        self.wake_receivers();
        self.version = Some(version);
        let (event_subscribers, subscribers): (Vec<_>, Vec<_>) = subscribers
            .into_iter()
            .partition(|one| one.account.is_events);
        self.event_subscribers = event_subscribers;
        let mut old = std::mem::take(&mut self.entries);
        for subscriber in subscribers {
            let id = subscriber.account.id;
            let kept = old
                .iter()
                .position(|entry| entry.subscriber.account.id == id);
            self.entries.push(kept.map_or_else(
                || Entry::new(subscriber),
                |position| old.swap_remove(position),
            ));
        }
        for mut left in old {
            discard_parked(&mut left, &self.slots, &self.bounds);
        }
        let positions = self.entries.iter().zip(0_u16..);
        let positions = positions.filter(|(entry, _)| entry.subscriber.is_mixed());
        self.mixed = positions.map(|(_, position)| position).collect();
        self.rebuild_routes();
        true
    }

    /// Costs a step per type and subscriber that names it; taps cost nothing per type.
    fn rebuild_routes(&mut self) {
        let (mut taps, mut named) = (Vec::new(), BTreeMap::<u16, Vec<u16>>::new());
        for (entry, position) in self.entries.iter().zip(0_u16..) {
            match entry.subscriber.account.types.each() {
                None => taps.push(position),
                Some(types) => {
                    for message_type in types {
                        named.entry(message_type.0).or_default().push(position);
                    }
                }
            }
        }
        self.lists.truncate(1);
        self.routes.fill(NOBODY);
        let mut known: HashMap<Vec<u16>, u16> = HashMap::from([(Vec::new(), NOBODY)]);
        let tap_list = self.list_of(&mut known, taps.clone());
        self.routes[..=usize::from(MessageType::APPLICATION_MAX.0)].fill(tap_list);
        for (message_type, mut list) in named {
            list.extend_from_slice(&taps);
            list.sort_unstable();
            self.routes[usize::from(message_type)] = self.list_of(&mut known, list);
        }
        self.sorter.set_lists(&self.lists, self.entries.len());
    }

    /// The position of a list, which is added if it is new. There are at most as many lists as
    /// types of the application, so the position fits.
    fn list_of(&mut self, known: &mut HashMap<Vec<u16>, u16>, list: Vec<u16>) -> u16 {
        if let Some(position) = known.get(&list) {
            return *position;
        }
        let position = u16::try_from(self.lists.len()).unwrap_or(NOBODY);
        self.lists.push(list.clone());
        known.insert(list, position);
        position
    }
}
