//! Fan-out: who gets what, what is lost and what waits, and that every sum balances.

mod answers;
mod cuts;
mod direct;
mod merged;
mod mixed;
#[cfg(nebnet_loom)]
mod models;
mod overflow;
mod shards;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use crossbeam_channel::bounded;

use super::{
    queue::{QueueBounds, queue_charge},
    *,
};
use crate::{
    block::{BlockHead, BlockPool, BlockRef},
    clock::Clock,
    error::{RecvError, TryRecvError},
    frame::{Decoder, Frame, encode_whole},
    id::{MessageType, PeerId},
    idle::IdleStrategy,
    ledger::{Ledger, Traffic},
    slots::{OutboxLimits, Slots},
};

struct Bench {
    slots: Arc<Slots>,
    registry: Arc<Registry>,
    bounds: QueueBounds,
    fan_out: FanOut,
    pool: BlockPool,
    peer: PeerId,
    sent: u64,
}

impl Bench {
    fn new() -> Self {
        let ledger = Arc::new(Ledger::new(64 << 20, Traffic::new(100, 8 << 10)));
        let limits = OutboxLimits {
            bytes: 1 << 20,
            messages: 1_000,
            payload_size: 1 << 20,
        };
        let slots = Arc::new(Slots::new(
            0,
            2,
            limits,
            Arc::clone(&ledger),
            Clock::start(),
        ));
        let registry = Arc::new(Registry::new(2_000));
        let bounds = QueueBounds::new(ledger);
        let fan_out = FanOut::new(Arc::clone(&registry), Arc::clone(&slots), bounds.clone());
        let peer = slots.open(0).unwrap();
        let pool = BlockPool::new(Arc::clone(&slots));
        Self {
            slots,
            registry,
            bounds,
            fan_out,
            pool,
            peer,
            sent: 0,
        }
    }

    fn subscribe(&self, options: SubscribeOptions) -> Subscription {
        let (outlet, receiver) = Outlet::queue(&options);
        let account = self.registry.add(options, outlet).unwrap();
        let idle = IdleStrategy::Block;
        Subscription::new(
            receiver,
            account,
            Arc::clone(&self.registry),
            idle,
            self.slots.clock,
        )
    }

    /// A block with a message of each type; payloads are running numbers. A type of the protocol
    /// is a frame that nobody may see.
    fn block(&mut self, types: &[u16]) -> BlockRef {
        let frames: Vec<(u16, Option<u64>)> = types.iter().map(|number| (*number, None)).collect();
        self.block_of(&frames)
    }

    /// The same with correlation numbers.
    fn block_of(&mut self, frames: &[(u16, Option<u64>)]) -> BlockRef {
        let mut bytes = Vec::new();
        let mut application = Vec::new();
        for (number, correlation) in frames {
            let message_type = MessageType(*number);
            let payload = self.sent.to_be_bytes();
            let frame = Frame {
                correlation: *correlation,
                ..Frame::new(message_type, &payload)
            };
            encode_whole(&frame, &mut bytes);
            if !message_type.is_protocol() {
                self.sent += 1;
                application.push(message_type);
            }
        }
        let has_protocol = application.len() < frames.len();
        let has_correlation = frames.iter().any(|(_, number)| number.is_some());
        let uniform = application.windows(2).all(|pair| pair[0] == pair[1]);
        let count = u32::try_from(application.len()).unwrap();
        let size = bytes.len();
        let scan = Decoder::new(1 << 20).scan(&bytes);
        let frame_size = scan.frame_size.filter(|_| scan.bytes == size);
        let head = BlockHead {
            peer: self.peer,
            received: self.slots.clock.now().instant,
            frames: count,
            message_type: application
                .first()
                .copied()
                .filter(|_| uniform && !has_protocol),
            has_protocol,
            has_correlation,
            frame_size,
            credit: Traffic::new(u64::from(count), size as u64),
        };
        self.pool.make(&mut bytes, 0, size, head)
    }

    fn dispatch(&mut self, types: &[u16]) {
        let block = self.block(types);
        self.dispatch_block(block);
    }

    fn dispatch_block(&mut self, block: BlockRef) {
        self.bounds.raise(&Item::Block(block.clone()));
        self.fan_out.dispatch(block);
    }

    fn fill(&self) -> Traffic {
        self.slots.ledger.dispatch_queue.get()
    }
}

fn number(payload: &[u8]) -> u64 {
    u64::from_be_bytes(payload.try_into().unwrap())
}

/// Takes what is there: running numbers of the messages, and how many were missed in all.
fn take(subscription: &mut Subscription) -> (Vec<u64>, u64) {
    let (mut numbers, mut missed) = (Vec::new(), 0);
    while let Ok(batch) = subscription.try_recv_batch() {
        missed += batch.missed();
        assert_eq!(batch.iter().count(), batch.len());
        numbers.extend(batch.iter().map(|message| number(message.payload())));
    }
    (numbers, missed)
}

#[track_caller]
fn balanced(subscription: &Subscription) {
    let row = subscription.row();
    let sum = row.taken + row.dropped + row.discarded + row.queued + row.parked;
    assert_eq!(row.matched, sum, "{row:?}");
}

#[test]
fn types_choose_the_subscribers() {
    let mut bench = Bench::new();
    let mut one = bench.subscribe(SubscribeOptions::new(MessageType(1)));
    let mut range = bench.subscribe(SubscribeOptions::new(MessageType(1)..=MessageType(3)));
    let some = [MessageType(2), MessageType(9)];
    let mut some = bench.subscribe(SubscribeOptions::new(some.as_slice()));
    let mut tap = bench.subscribe(SubscribeOptions::new(TypeFilter::all()));
    bench.dispatch(&[1, 1]);
    bench.dispatch(&[1, 2, 0xFF03, 3, 9]);
    bench.dispatch(&[9]);
    assert_eq!(take(&mut one).0, [0, 1, 2]);
    assert_eq!(take(&mut range).0, [0, 1, 2, 3, 4]);
    assert_eq!(take(&mut some).0, [3, 5, 6]);
    assert_eq!(take(&mut tap).0, [0, 1, 2, 3, 4, 5, 6]);
    let ledger = &bench.slots.ledger;
    assert_eq!((ledger.dispatched.get(), ledger.claimed.get()), (7, 7));
    drop(tap);
    bench.dispatch(&[5, 1]);
    bench.dispatch(&[0xFEFF]);
    assert_eq!(bench.slots.ledger.unclaimed.get(), 2);
    assert_eq!(bench.slots.ledger.claimed.get(), 8);
    assert_eq!(bench.fill(), Traffic::default());
}

#[test]
fn the_newest_that_do_not_fit_are_dropped_and_missed() {
    let mut bench = Bench::new();
    let options = SubscribeOptions::new(MessageType(1)).messages(3);
    let mut full = bench.subscribe(options);
    bench.dispatch(&[1, 2, 1]);
    // One more fits.
    bench.dispatch(&[2, 1, 1, 2, 1]);
    bench.dispatch(&[1]);
    balanced(&full);
    assert_eq!(full.row().dropped, 3);
    assert_eq!(take(&mut full), (vec![0, 2, 4], 0));
    bench.dispatch(&[1]);
    assert_eq!(take(&mut full), (vec![9], 3));
    balanced(&full);
}

#[test]
fn a_subscriber_is_bounded_in_bytes_but_an_empty_one_takes_something() {
    let mut bench = Bench::new();
    let options = SubscribeOptions::new(MessageType(1)).bytes(1);
    let mut small = bench.subscribe(options);
    bench.dispatch(&[1, 1]);
    bench.dispatch(&[1]);
    assert_eq!(small.row().dropped, 1);
    assert_eq!(take(&mut small), (vec![0, 1], 0));
    bench.dispatch(&[1]);
    assert_eq!(take(&mut small), (vec![3], 1));
}

#[test]
fn what_waits_is_delivered_in_order_and_holds_its_peer() {
    let mut bench = Bench::new();
    let options = SubscribeOptions::new(TypeFilter::all())
        .messages(2)
        .overflow(OverflowPolicy::Pause);
    let mut slow = bench.subscribe(options);
    let mut other = bench.subscribe(SubscribeOptions::new(TypeFilter::all()));
    for _ in 0..3 {
        bench.dispatch(&[1, 2, 3]);
    }
    let row = slow.row();
    assert_eq!((row.queued, row.parked), (2, 7));
    assert!(bench.slots.is_parked(bench.peer));
    let charge = bench.fill();
    assert!(charge.bytes > 0, "what waits is charged to the queue");
    assert_eq!(take(&mut other).0.len(), 9);
    let mut numbers = Vec::new();
    while slow.row().queued > 0 {
        balanced(&slow);
        numbers.extend(take(&mut slow).0);
        assert!(bench.registry.poke(0).take() || slow.row().parked == 0);
        bench.fan_out.pump();
    }
    assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6, 7, 8]);
    assert!(!bench.slots.is_parked(bench.peer));
    assert_eq!(bench.fill(), Traffic::default());
    balanced(&slow);
}

#[test]
fn who_takes_messages_one_by_one_learns_what_is_missing_before_each() {
    let mut bench = Bench::new();
    let mut full = bench.subscribe(SubscribeOptions::new(MessageType(1)).messages(3));
    let take = |full: &mut Subscription| {
        let message = full.try_recv().ok()?;
        Some((number(message.payload()), full.missed()))
    };
    bench.dispatch(&[1, 1, 1, 1, 1]);
    assert_eq!(take(&mut full), Some((0, 0)));
    bench.dispatch(&[1]);
    bench.dispatch(&[1, 1, 1]);
    let came: Vec<_> = std::iter::from_fn(|| take(&mut full)).collect();
    assert_eq!(came, [(1, 0), (2, 0), (5, 2), (6, 0), (7, 0)]);
    bench.dispatch(&[1, 1, 1]);
    assert_eq!(take(&mut full), Some((9, 1)));
    // What was told of a batch it does not tell again.
    let rest = full.try_recv_batch().unwrap();
    assert_eq!((rest.len(), rest.missed()), (2, 0));
    bench.dispatch(&[1]);
    let message = full.iter().next().unwrap();
    assert_eq!((number(message.payload()), full.missed()), (12, 0));
    assert_eq!(full.row().dropped, 3);
}

/// Once each time that it begins, however much waits then.
#[test]
fn what_a_full_subscriber_holds_back_is_counted_when_it_begins() {
    let mut bench = Bench::new();
    let options = SubscribeOptions::new(TypeFilter::all())
        .name("slow")
        .messages(2)
        .overflow(OverflowPolicy::Pause);
    let mut slow = bench.subscribe(options);
    let _other = bench.subscribe(SubscribeOptions::new(TypeFilter::all()));
    bench.dispatch(&[1, 1]);
    assert_eq!((slow.row().pauses, slow.row().stalls), (0, 0));
    let charge = queue_charge(&bench.block(&[1])).bytes;
    let places = bench.slots.ledger.dispatch_capacity().bytes / charge;
    for round in 1..=3 {
        // With room for one more, others are read.
        for _ in 0..places - 1 {
            bench.dispatch(&[1]);
            assert_eq!((slow.row().pauses, slow.row().stalls), (round, round - 1));
        }
        for _ in 0..3 {
            bench.dispatch(&[1]);
            assert_eq!((slow.row().pauses, slow.row().stalls), (round, round));
        }
        // As long as more than half of the dispatch queue waits, it is the same stall.
        take(&mut slow);
        bench.fan_out.pump();
        (0..2).for_each(|_| bench.dispatch(&[1]));
        assert_eq!((slow.row().pauses, slow.row().stalls), (round, round));
        while slow.row().parked > 0 {
            take(&mut slow);
            bench.fan_out.pump();
        }
    }
    // A read that is longer than what is left waits, too. That is seen when it is over.
    (0..5).for_each(|_| bench.dispatch(&[1]));
    bench.bounds.wait_for_room();
    assert_eq!((slow.row().pauses, slow.row().stalls), (4, 3));
    take(&mut slow);
    bench.fan_out.pump();
    assert_eq!((slow.row().pauses, slow.row().stalls), (4, 4));
    let rows = bench.registry.rows();
    let counts: Vec<_> = rows.iter().map(|row| (row.pauses, row.stalls)).collect();
    assert_eq!(
        (rows[0].name.as_str(), counts),
        ("slow", vec![(4, 4), (0, 0)])
    );
}

/// A delivery that was taken from the channel and thrown away makes room, as one that was opened.
#[test]
fn a_dropped_delivery_wakes_what_waits() {
    let mut bench = Bench::new();
    let options = SubscribeOptions::new(TypeFilter::all())
        .messages(1)
        .overflow(OverflowPolicy::Pause);
    let mut slow = bench.subscribe(options);
    bench.dispatch(&[1, 1]);
    bench.registry.poke(0).take();
    drop(slow.receiver().try_recv().unwrap());
    assert!(bench.registry.poke(0).take());
    bench.fan_out.pump();
    assert_eq!(take(&mut slow).0, [1]);
    assert_eq!(slow.row().discarded, 1);
    balanced(&slow);
}

#[test]
fn whoever_leaves_frees_what_waited_for_it() {
    let mut bench = Bench::new();
    let options = SubscribeOptions::new(TypeFilter::all())
        .messages(1)
        .overflow(OverflowPolicy::Pause);
    let slow = bench.subscribe(options);
    bench.dispatch(&[1, 1, 1]);
    assert!(bench.slots.is_parked(bench.peer));
    drop(slow);
    assert!(bench.registry.poke(0).take());
    bench.fan_out.pump();
    assert!(!bench.slots.is_parked(bench.peer));
    assert_eq!(bench.fill(), Traffic::default());
    assert_eq!(bench.slots.ledger.budget.used(), 0);
}

#[test]
fn a_subscriber_sees_a_contiguous_run() {
    let mut bench = Bench::new();
    let mut first = bench.subscribe(SubscribeOptions::new(TypeFilter::all()));
    bench.dispatch(&[1, 2]);
    let mut second = bench.subscribe(SubscribeOptions::new(TypeFilter::all()));
    bench.dispatch(&[1, 2]);
    let taken = take(&mut first);
    drop(first);
    bench.dispatch(&[1, 2]);
    assert_eq!(taken, (vec![0, 1, 2, 3], 0));
    assert_eq!(take(&mut second), (vec![2, 3, 4, 5], 0));
}

#[test]
fn a_channel_of_ones_own_takes_message_by_message() {
    let mut bench = Bench::new();
    let (sender, receiver) = bounded(3);
    let options = SubscribeOptions::new(MessageType(1));
    let account = bench
        .registry
        .add(options, Outlet::Messages(sender))
        .unwrap();
    let own = ChannelSubscription::new(account, Arc::clone(&bench.registry));
    bench.dispatch(&[1, 2, 1]);
    bench.dispatch(&[1, 1]);
    let row = own.row();
    assert_eq!((row.matched, row.taken, row.dropped), (4, 3, 1));
    let numbers: Vec<u64> = receiver
        .try_iter()
        .map(|message| number(message.payload()))
        .collect();
    assert_eq!(numbers, [0, 2, 3]);
    drop(receiver);
    bench.dispatch(&[1, 1]);
    let row = own.row();
    assert_eq!((row.matched, row.discarded), (6, 2));
    // It was removed, so nothing is counted for it any more.
    bench.dispatch(&[1]);
    assert_eq!(own.row().matched, 6);
    assert_eq!(bench.slots.ledger.unclaimed.get(), 2);
}

#[test]
fn the_end_discards_what_waits_and_leaves_what_is_queued() {
    let mut bench = Bench::new();
    let options = SubscribeOptions::new(TypeFilter::all())
        .messages(2)
        .overflow(OverflowPolicy::Pause);
    let mut slow = bench.subscribe(options);
    bench.dispatch(&[1, 1, 1]);
    bench.fan_out.close();
    let row = slow.row();
    assert_eq!((row.queued, row.discarded, row.parked), (2, 1, 0));
    assert_eq!(take(&mut slow).0, [0, 1]);
    assert_eq!(slow.try_recv().unwrap_err(), TryRecvError::Disconnected);
    balanced(&slow);
    assert!(!bench.slots.is_parked(bench.peer));
    assert_eq!(bench.slots.ledger.budget.used(), 0);
    let late = SubscribeOptions::new(TypeFilter::all());
    assert!(bench.registry.add(late, Outlet::Closed).is_err());
}

/// Whatever fails in it, nobody waits for messages that cannot come.
#[test]
fn an_end_that_panics_is_an_end_all_the_same() {
    for waits in [true, false] {
        let mut bench = Bench::new();
        let options = SubscribeOptions::new(TypeFilter::all()).messages(1);
        let options = options.overflow(OverflowPolicy::Pause);
        let mut slow = [0; 2].map(|_| bench.subscribe(options.clone()));
        let (sender, receiver) = bounded(10);
        let own = SubscribeOptions::new(TypeFilter::all());
        bench.registry.add(own, Outlet::Messages(sender)).unwrap();
        bench.dispatch(&[1, 1]);
        // The bell rings for the room that the end makes, or for the peer that is let go.
        let doorbell = &bench.slots.doorbell;
        doorbell.set_bell(|| panic!("as the test wants it"));
        if waits {
            bench.bounds.wait_for_room();
        }
        while bench.slots.poll_dirty().is_some() {}
        doorbell.prepare_sleep();
        let closed = catch_unwind(AssertUnwindSafe(|| bench.fan_out.close()));
        assert!(closed.is_err());
        for subscription in &mut slow {
            assert_eq!(subscription.end_reason(), Some(EndReason::Stopped));
            assert!(subscription.recv().is_ok());
            assert_eq!(subscription.recv().unwrap_err(), RecvError);
            balanced(subscription);
            assert_eq!(subscription.row().discarded, 1);
        }
        assert_eq!(receiver.iter().count(), 2);
        drop(slow);
        assert_eq!(bench.slots.ledger.budget.used(), 0);
    }
}

#[test]
fn messages_can_be_taken_one_by_one_and_kept() {
    let mut bench = Bench::new();
    let mut one = bench.subscribe(SubscribeOptions::new(MessageType(1)));
    bench.dispatch(&[2, 1, 0xFF04, 1, 1]);
    assert_eq!(number(one.try_recv().unwrap().payload()), 1);
    let batch = one.try_recv_batch().unwrap();
    let rest: Vec<u64> = batch
        .iter()
        .map(|message| number(message.payload()))
        .collect();
    assert_eq!((batch.len(), rest), (2, vec![2, 3]));
    let kept = batch.iter().next().unwrap().to_message();
    assert_eq!(bench.slots.released(bench.peer), Traffic::default());
    drop(batch);
    assert_eq!(bench.slots.released(bench.peer).messages, 4);
    assert_eq!(bench.slots.ledger.budget.used(), 0);
    assert_eq!(number(kept.payload()), 2);
}

/// The queue between the threads: bounded in messages and bytes, and an empty one takes anything.
#[test]
fn the_queue_is_bounded_and_rings_when_it_is_half_empty() {
    let mut bench = Bench::new();
    let ledger = Arc::clone(&bench.slots.ledger);
    let (queue, mut items) = DispatchQueue::new(ledger);
    let large = bench.block(&[1; 500]);
    assert!(queue.push(Item::Block(large.clone())).is_ok());
    let small = bench.block(&[1]);
    assert!(matches!(
        queue.push(Item::Block(small.clone())),
        Err(PushError::Full(_))
    ));
    queue.bounds().wait_for_room();
    drop(items.recv().unwrap());
    let charge = queue_charge(&large);
    queue.bounds().lower(charge, &bench.slots.doorbell);
    assert!(queue.push(Item::Block(small.clone())).is_ok());
    drop(items);
    assert!(matches!(
        queue.push(Item::Block(small)),
        Err(PushError::Dead)
    ));
    assert_eq!(
        bench.fill().messages,
        1,
        "what was not taken is not charged"
    );
}

mod events {
    use super::*;
    use crate::event::Event;

    impl Bench {
        fn subscribe_events(&self, capacity: usize) -> EventSubscription {
            let options = EventOptions::new().capacity(capacity);
            let (registry, slots) = (Arc::clone(&self.registry), Arc::clone(&self.slots));
            EventSubscription::new(options, registry, slots).unwrap()
        }

        fn tell(&mut self, event: Event) {
            let item = Item::Event(Box::new(event));
            self.bounds.raise(&item);
            let Item::Event(event) = item else { return };
            self.fan_out.dispatch_event(event);
        }
    }

    /// An event that can be told from others by its number.
    fn event(number: u32) -> Event {
        Event::Resumed {
            peer: PeerId::new(0, 1, number),
        }
    }

    /// Numbers of the events that are there, and how many are missing before each.
    fn take(events: &EventSubscription) -> Vec<(u32, u64)> {
        let mut taken = Vec::new();
        while let Ok(event) = events.try_recv() {
            taken.push((event.peer().unwrap().generation(), events.missed()));
        }
        taken
    }

    #[track_caller]
    fn balanced(events: &EventSubscription) {
        let row = events.row();
        let sum = row.taken + row.dropped + row.discarded + row.queued;
        assert_eq!(row.matched, sum, "{row:?}");
    }

    #[test]
    fn every_subscriber_gets_every_event_and_no_message() {
        let mut bench = Bench::new();
        let (one, other) = (bench.subscribe_events(10), bench.subscribe_events(10));
        let mut tap = bench.subscribe(SubscribeOptions::new(TypeFilter::all()));
        bench.tell(event(0));
        bench.dispatch(&[1, 2]);
        bench.tell(event(1));
        assert_eq!(take(&one), [(0, 0), (1, 0)]);
        assert_eq!(take(&other), [(0, 0), (1, 0)]);
        assert_eq!(super::take(&mut tap).0, [0, 1]);
        assert!(bench.registry.rows().len() == 1 && bench.registry.event_rows().len() == 2);
        let departed = bench.registry.departed();
        assert_eq!(
            (departed.subscribers, bench.fill()),
            (0, Traffic::default())
        );
        assert!(
            bench.bounds.has_room_for_event(),
            "every place was given back"
        );
    }

    #[test]
    fn the_newest_that_do_not_fit_are_dropped_and_missed() {
        let mut bench = Bench::new();
        let events = bench.subscribe_events(2);
        for number in 0..5 {
            bench.tell(event(number));
        }
        balanced(&events);
        assert_eq!(take(&events), [(0, 0), (1, 0)]);
        bench.tell(event(5));
        bench.tell(event(6));
        bench.tell(event(7));
        assert_eq!(take(&events), [(5, 3), (6, 0)]);
        let row = events.row();
        assert_eq!((row.matched, row.taken, row.dropped), (8, 4, 4));
        balanced(&events);
    }

    #[test]
    fn subscriptions_are_counted_while_they_exist() {
        let mut bench = Bench::new();
        let count = |bench: &Bench| {
            let count = &bench.slots.event_subscribers;
            count.load(std::sync::atomic::Ordering::Relaxed)
        };
        let first = bench.subscribe_events(1);
        let second = bench.subscribe_events(1);
        assert_eq!(count(&bench), 2);
        let options = EventOptions::new().capacity(0);
        let slots = Arc::clone(&bench.slots);
        assert!(EventSubscription::new(options, Arc::clone(&bench.registry), slots).is_err());
        drop(first);
        assert_eq!(count(&bench), 1);
        bench.tell(event(0));
        // What comes out of the channel and is not opened counts as discarded.
        drop(second.receiver().try_recv().unwrap());
        assert_eq!((second.row().discarded, second.row().queued), (1, 0));
        balanced(&second);
        bench.fan_out.close();
        let slots = Arc::clone(&bench.slots);
        let late = EventSubscription::new(EventOptions::new(), Arc::clone(&bench.registry), slots);
        assert!(late.is_err());
        assert_eq!(count(&bench), 1);
    }

    #[test]
    fn the_end_leaves_what_is_queued() {
        let mut bench = Bench::new();
        let events = bench.subscribe_events(3);
        bench.tell(event(0));
        bench.tell(event(1));
        bench.fan_out.close();
        assert_eq!(take(&events), [(0, 0), (1, 0)]);
        assert_eq!(events.try_recv().unwrap_err(), TryRecvError::Disconnected);
        balanced(&events);
    }

    /// Blocks and events have places of their own, and come out in the order in which they went in.
    #[test]
    fn the_queue_keeps_the_order_and_bounds_events_apart() {
        let mut bench = Bench::new();
        let ledger = Arc::clone(&bench.slots.ledger);
        let (queue, items) = DispatchQueue::new(ledger);
        let queue = queue.with_events_max(2);
        let told = |number| Item::Event(Box::new(event(number)));
        let large = bench.block(&[1; 500]);
        assert!(queue.push(told(0)).is_ok());
        assert!(queue.push(Item::Block(large.clone())).is_ok());
        assert!(queue.push(told(1)).is_ok());
        // The queue is full of both, and neither counts for the other.
        assert!(matches!(
            queue.push(told(2)),
            Err(PushError::Full(Item::Event(_)))
        ));
        let small = Item::Block(bench.block(&[1]));
        assert!(matches!(queue.push(small), Err(PushError::Full(_))));
        assert_eq!(bench.fill().messages, 500);
        let kinds: Vec<bool> = items
            .items()
            .try_iter()
            .map(|item| matches!(item, Item::Block(_)))
            .collect();
        assert_eq!(kinds, [false, true, false]);
    }

    /// A loop that waits for room is woken once both bounds are half free.
    #[test]
    fn a_loop_that_waits_for_events_is_woken() {
        use std::sync::atomic::{AtomicUsize, Ordering};

        let bench = Bench::new();
        let rings = Arc::new(AtomicUsize::new(0));
        let bell = Arc::clone(&rings);
        bench.slots.doorbell.set_bell(move || {
            bell.fetch_add(1, Ordering::Relaxed);
        });
        let bounds = bench.bounds.clone().with_events_max(4);
        for number in 0..4 {
            bounds.raise(&Item::Event(Box::new(event(number))));
        }
        assert!(!bounds.has_room_for_event());
        bounds.wait_for_room();
        bench.slots.doorbell.prepare_sleep();
        bounds.lower_event(&bench.slots.doorbell);
        assert_eq!(rings.load(Ordering::Relaxed), 0);
        bounds.lower_event(&bench.slots.doorbell);
        assert_eq!(rings.load(Ordering::Relaxed), 1);
        assert!(bounds.has_room_for_event());
    }
}
