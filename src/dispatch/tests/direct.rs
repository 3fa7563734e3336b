//! Whether the loop may dispatch a block itself.

use super::*;
use crate::{
    dispatch::{channel::Receiver, direct::DirectDispatch},
    limits::{
        BLOCK_SIZE, LOOP_PENDING_WAKE_BYTES_MAX, LOOP_PENDING_WAKE_MS, PENDING_WAKE_BYTES_MAX,
        PENDING_WAKE_ITEMS_MAX,
    },
};

/// A subscriber's end of its queue, and nothing that takes from it.
fn queue(registry: &Registry, messages: usize) -> Receiver<Delivery> {
    let options = SubscribeOptions::new(MessageType(7)).messages(messages);
    let (outlet, receiver) = Outlet::queue(&options);
    registry.add(options, outlet).unwrap();
    receiver.fall_asleep();
    receiver
}

/// A bench whose fan-out dispatches directly, and a subscription to some types.
struct Place {
    bench: Bench,
    direct: DirectDispatch,
    subscriptions: Vec<Subscription>,
}

impl Place {
    fn new(subscribers: usize) -> Self {
        let bench = Bench::new();
        let subscribe = |_| bench.subscribe(SubscribeOptions::new(MessageType(7)));
        let subscriptions = (0..subscribers).map(subscribe).collect();
        let (registry, slots) = (Arc::clone(&bench.registry), Arc::clone(&bench.slots));
        let direct = DirectDispatch::new(FanOut::new(registry, slots, bench.bounds.clone()));
        Self {
            bench,
            direct,
            subscriptions,
        }
    }

    /// What the loop does with a block; false if the block is the dispatcher's.
    fn try_dispatch(&mut self, types: &[u16]) -> bool {
        let block = self.bench.block(types);
        let bounds = &self.bench.bounds;
        let raise = |block: &BlockRef| bounds.raise_block(block);
        self.direct.dispatch(block, true, raise).is_ok()
    }

    fn has_message(&mut self, subscription: usize) -> bool {
        self.subscriptions[subscription].try_recv().is_ok()
    }
}

#[test]
fn a_small_block_is_dispatched_at_once_while_the_dispatcher_has_nothing() {
    let mut place = Place::new(2);
    assert!(place.try_dispatch(&[7]) && place.try_dispatch(&[7, 7]));
    for subscription in 0..2 {
        let came = (0..4).filter(|_| place.has_message(subscription));
        assert_eq!(came.count(), 3);
    }
    assert_eq!(place.bench.fill(), Traffic::default());
    assert_eq!(place.bench.slots.ledger.dispatched.get(), 3);
}

#[test]
fn what_was_handed_over_is_not_overtaken() {
    let mut place = Place::new(1);
    place.direct.note_handed();
    place.direct.note_handed();
    assert!(!place.try_dispatch(&[7]));
    place.direct.handle(|_| {});
    assert!(!place.try_dispatch(&[7]), "one of the two is left");
    place.direct.handle(|_| {});
    assert!(place.try_dispatch(&[7]));
    assert!(place.has_message(0) && !place.has_message(0));
}

#[test]
fn the_loop_does_not_wait_for_a_dispatcher_that_looks_around() {
    let mut place = Place::new(1);
    let block = place.bench.block(&[7]);
    let refused = place
        .direct
        .visit(|_| place.direct.dispatch(block, true, |_| {}));
    assert!(refused.is_err());
}

#[test]
fn what_is_mixed_or_for_many_is_the_dispatchers() {
    let mut place = Place::new(2);
    assert!(!place.try_dispatch(&[7, 8]));
    assert!(place.try_dispatch(&[8]), "nobody is few");
    let mut place = Place::new(3);
    assert!(!place.try_dispatch(&[7]));
}

#[test]
fn a_large_block_is_dispatched_at_once_if_that_is_one_step_for_each() {
    let mut place = Place::new(2);
    assert!(place.try_dispatch(&[7; 300]), "{} bytes", 300 * 16);
    let block = place.bench.block_of(&[(7, Some(1)); 300]);
    assert!(place.direct.dispatch(block, true, |_| {}).is_err());
    let (sender, _receiver) = bounded(1_000);
    let options = SubscribeOptions::new(MessageType(9));
    let registry = &place.bench.registry;
    registry.add(options, Outlet::Messages(sender)).unwrap();
    assert!(place.try_dispatch(&[9]));
    assert!(!place.try_dispatch(&[9; 300]), "a message at a time");
    let options = SubscribeOptions::new(MessageType(10)).overflow(OverflowPolicy::DropOldest);
    let _subscription = place.bench.subscribe(options);
    assert!(place.try_dispatch(&[10]));
    assert!(!place.try_dispatch(&[10; 300]), "a delivery at a time");
}

/// The dispatcher is asked to wake the receivers if it has the fan-out.
#[test]
fn the_loop_does_not_wait_to_wake_anybody() {
    let place = Place::new(1);
    assert!(place.direct.wake_receivers());
    assert!(!place.direct.visit(|_| place.direct.wake_receivers()));
}

#[test]
fn nothing_is_dispatched_after_the_end() {
    let mut place = Place::new(1);
    place.direct.close();
    assert!(!place.try_dispatch(&[7]));
    place.direct.note_handed();
    assert!(!place.try_dispatch(&[7]));
    assert!(!place.has_message(0));
}

#[test]
fn a_sleeper_is_woken_at_the_end_or_before_its_queue_is_full() {
    let mut bench = Bench::new();
    let receiver = queue(&bench.registry, 100);
    let offer = |bench: &mut Bench, types: &[u16]| {
        let block = bench.block(types);
        bench.bounds.raise_block(&block);
        bench.fan_out.dispatch_without_wake(block);
    };
    offer(&mut bench, &[7; 25]);
    assert!(receiver.is_asleep());
    offer(&mut bench, &[7]);
    assert!(!receiver.is_asleep(), "more than a quarter");
    while receiver.try_recv().is_ok() {}
    receiver.fall_asleep();
    offer(&mut bench, &[7]);
    assert!(receiver.is_asleep());
    bench.fan_out.wake_receivers();
    assert!(!receiver.is_asleep());
    receiver.fall_asleep();
    bench.fan_out.wake_receivers();
    assert!(receiver.is_asleep(), "it knows of that one");
}

/// A read may bring as much as the bound in bytes has left, though little of it is taken.
#[test]
fn who_sleeps_is_woken_if_another_read_may_find_no_room() {
    let mut bench = Bench::new();
    let charge = bench.block(&[7]).charge();
    for (bytes, sleeps) in [
        (BLOCK_SIZE + charge, true),
        (BLOCK_SIZE + charge - 1, false),
    ] {
        let options = SubscribeOptions::new(MessageType(7)).bytes(bytes);
        let (outlet, receiver) = Outlet::queue(&options);
        bench.registry.add(options, outlet).unwrap();
        receiver.fall_asleep();
        let block = bench.block(&[7]);
        bench.bounds.raise_block(&block);
        bench.fan_out.dispatch_without_wake(block);
        assert_eq!(receiver.is_asleep(), sleeps, "{bytes}");
    }
}

/// What the loop reads next may be more than is left of a queue whose subscriber sleeps: that is
/// woken, and the dispatcher gets the block, so that it finds what was there taken.
#[test]
fn nobody_is_full_for_want_of_being_told() {
    for overflow in [OverflowPolicy::DropNewest, OverflowPolicy::DropOldest] {
        let mut place = Place::new(0);
        let options = SubscribeOptions::new(MessageType(7)).messages(100);
        let options = options.overflow(overflow);
        let (outlet, receiver) = Outlet::queue(&options);
        let account = place.bench.registry.add(options, outlet).unwrap();
        receiver.fall_asleep();
        let offer = |place: &mut Place, count| {
            let block = place.bench.block(&vec![7; count]);
            let bounds = &place.bench.bounds;
            place
                .direct
                .dispatch(block, false, |block| bounds.raise_block(block))
        };
        assert!(offer(&mut place, 20).is_ok() && receiver.is_asleep());
        let block = offer(&mut place, 81).unwrap_err();
        assert!(!receiver.is_asleep());
        assert!(receiver.try_recv().is_ok());
        place.direct.note_handed();
        place.bench.bounds.raise_block(&block);
        place
            .direct
            .handle(|fan_out| fan_out.dispatch_without_wake(block));
        assert_eq!((account.row().dropped, account.row().queued), (0, 81));
        // Who knows of what is there is full all the same, and the loop says so itself.
        place.direct.wake_receivers();
        assert!(offer(&mut place, 81).is_ok());
        assert!(account.row().dropped > 0);
    }
}

/// Whoever dispatches, the block after one that was refused finds a subscriber that is awake.
#[test]
fn who_is_refused_is_woken() {
    let mut bench = Bench::new();
    let options = SubscribeOptions::new(MessageType(7)).messages(10_000);
    let options = options.bytes(BLOCK_SIZE + 1_000);
    let (outlet, receiver) = Outlet::queue(&options);
    bench.registry.add(options, outlet).unwrap();
    receiver.fall_asleep();
    let offer = |bench: &mut Bench, count| {
        let block = bench.block(&vec![7; count]);
        bench.bounds.raise_block(&block);
        bench.fan_out.dispatch_without_wake(block);
    };
    offer(&mut bench, 1);
    assert!(receiver.is_asleep());
    // Longer than a read: one frame may be.
    offer(&mut bench, 5_000);
    assert!(!receiver.is_asleep());
    assert_eq!(bench.registry.rows()[0].dropped, 5_000);
}

/// Positions are those of a list that changes.
#[test]
fn a_change_of_the_list_wakes_who_has_something_and_nobody_else() {
    let mut bench = Bench::new();
    let idle = bench.subscribe(SubscribeOptions::new(MessageType(8)));
    let asleep = queue(&bench.registry, 100);
    let block = bench.block(&[7]);
    bench.bounds.raise_block(&block);
    bench.fan_out.dispatch_without_wake(block);
    // It goes, and the last one takes its place.
    drop(idle);
    let other = queue(&bench.registry, 100);
    assert!(bench.fan_out.refresh());
    assert!(!asleep.is_asleep());
    assert!(other.is_asleep());
    asleep.fall_asleep();
    let third = queue(&bench.registry, 100);
    assert!(bench.fan_out.refresh());
    assert!(asleep.is_asleep() && other.is_asleep() && third.is_asleep());
    bench.fan_out.wake_receivers();
    assert!(other.is_asleep() && third.is_asleep());
}

#[test]
fn the_end_of_the_fan_out_wakes_everybody() {
    let mut bench = Bench::new();
    let (some, none) = (queue(&bench.registry, 100), queue(&bench.registry, 100));
    let block = bench.block(&[7]);
    bench.bounds.raise_block(&block);
    bench.fan_out.dispatch_without_wake(block);
    some.fall_asleep();
    none.fall_asleep();
    bench.fan_out.close();
    assert!(!some.is_asleep() && !none.is_asleep());
}

fn worker(bench: &Bench) -> (DispatchQueue, Worker) {
    let (registry, slots) = (Arc::clone(&bench.registry), Arc::clone(&bench.slots));
    let (mut queue, items) = DispatchQueue::new(Arc::clone(&slots.ledger));
    let fan_out = FanOut::new(registry, Arc::clone(&slots), queue.bounds().clone());
    let direct = queue.make_direct(fan_out);
    let poke = Arc::clone(bench.registry.poke(0));
    let (idle, clock) = (IdleStrategy::Block, slots.clock);
    let worker = Worker::new(items, direct, poke, Box::new(|| {}), idle, clock);
    (queue, worker)
}

/// Also where what follows brings few bytes, or none.
#[test]
fn a_dispatcher_that_is_busy_wakes_who_sleeps_after_so_many_items() {
    let mut bench = Bench::new();
    let receiver = queue(&bench.registry, 1_000);
    let (queue, mut worker) = worker(&bench);
    queue.push(Item::Block(bench.block(&[7]))).unwrap();
    for _ in 0..PENDING_WAKE_ITEMS_MAX + 1 {
        let peer = bench.peer;
        let event = Box::new(crate::event::Event::Resumed { peer });
        assert!(queue.push(Item::Event(event)).is_ok());
    }
    assert!(worker.step());
    assert!(receiver.is_asleep());
    for _ in 1..PENDING_WAKE_ITEMS_MAX {
        assert!(receiver.is_asleep() && worker.step());
    }
    assert!(!receiver.is_asleep() && worker.has_items());
}

#[test]
fn the_last_item_of_the_dispatcher_wakes_who_sleeps() {
    let mut bench = Bench::new();
    let receiver = queue(&bench.registry, 1_000);
    let (queue, mut worker) = worker(&bench);
    queue.push(Item::Block(bench.block(&[7]))).unwrap();
    assert!(queue.push_item(Item::Poke).is_ok());
    assert!(worker.step() && receiver.is_asleep());
    assert!(worker.step() && !receiver.is_asleep());
    assert!(PENDING_WAKE_BYTES_MAX > bench.block(&[7]).bytes().len());
}

#[test]
fn the_loop_wakes_after_so_many_bytes_so_long_or_a_turn_without() {
    let mut pending_wakes = PendingWakes::default();
    pending_wakes.begin_turn();
    assert!(!pending_wakes.take());
    pending_wakes.add(5, LOOP_PENDING_WAKE_BYTES_MAX - 1);
    assert!(!pending_wakes.is_enough() && !pending_wakes.is_due(5));
    pending_wakes.begin_turn();
    assert!(pending_wakes.is_due(5));
    pending_wakes.add(6, 1);
    assert!(pending_wakes.is_enough() && !pending_wakes.is_due(6));
    assert!(pending_wakes.is_due(5 + LOOP_PENDING_WAKE_MS));
    assert!(pending_wakes.take() && !pending_wakes.take());
    assert!(!pending_wakes.is_enough());
    pending_wakes.add(20, 1);
    assert!(!pending_wakes.is_due(21), "the time begins anew");
}
