//! The fan-out itself: from message types to subscribers, and what happens when one is full.
//!
//! A dense table leads from each of the 65,536 types to a list of subscribers; equal lists are
//! shared, so the table is 128 KiB whatever the number of subscribers. A block whose messages are
//! all of one type, which the parser knows, costs one look; the messages of a mixed one are counted
//! per list in one walk over their headers, and listed in an [`index`](super::index).

//!
//! This file takes a block to the lists of its types. `fan_out/routes.rs` makes these lists,
//! `fan_out/offering.rs` offers a subscriber its part and does what its policy says when there is
//! no room, `fan_out/parking.rs` keeps what waits for room, `fan_out/extras.rs` has the events and
//! timers. None of the four imports from another.

mod extras;
mod offering;
mod parking;
mod routes;

use std::{
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::Arc,
};

use super::{
    Notice, Registry,
    answers::Answers,
    entry::{Entry, discard_parked},
    index::{Share, Sorter},
    outlet::{Outlet, Subscriber},
    queue::{Item, QueueBounds, queue_charge},
    subscription::BatchDelivery,
    tally::Tally,
};
use crate::{
    balance::{CutMarker, DispatchCut},
    block::BlockRef,
    id::MessageType,
    ledger::{Traffic, TypeMap},
    limits::{DIRECT_BLOCK_BYTES_MAX, DIRECT_SUBSCRIBERS_MAX},
    log_limiter::LogLimiter,
    slots::{Slots, never_waits},
};

/// The list of types without a subscriber.
const NOBODY: u16 = 0;

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

    /// Offers a block to all that subscribe to its messages, and gives back what it held of
    /// the dispatch queue. Wakes no receiver while its queue has much room left: to be followed by
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

    /// Whether a block that is light may find no room with a receiver that was not told yet of what
    /// is in the queue, and may sleep over it.
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
            // A subscriber that left is still in the table, and would not poke again.
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
            // There is none left to keep waiting.
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

    /// Gives back what an item holds of the dispatch queue, after a panic. No subscriber is offered
    /// it.
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
}
