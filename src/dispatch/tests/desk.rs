//! Whether the loop may dispatch a block itself.

use super::*;
use crate::dispatch::desk::Desk;

/// A bench whose fan-out is on a desk, and a subscription to some types.
struct Place {
    bench: Bench,
    desk: Desk,
    subscriptions: Vec<Subscription>,
}

impl Place {
    fn new(subscribers: usize) -> Self {
        let bench = Bench::new();
        let subscribe = |_| bench.subscribe(SubscribeOptions::new(MessageType(7)));
        let subscriptions = (0..subscribers).map(subscribe).collect();
        let (registry, slots) = (Arc::clone(&bench.registry), Arc::clone(&bench.slots));
        let desk = Desk::new(FanOut::new(registry, slots, bench.bounds.clone()));
        Self {
            bench,
            desk,
            subscriptions,
        }
    }

    /// What the loop does with a block; false if the block is the dispatcher's.
    fn try_dispatch(&mut self, types: &[u16]) -> bool {
        let block = self.bench.block(types);
        let bounds = &self.bench.bounds;
        let raise = |block: &BlockRef| bounds.raise_block(block);
        self.desk.dispatch(block, true, raise).is_ok()
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
    place.desk.note_handed();
    place.desk.note_handed();
    assert!(!place.try_dispatch(&[7]));
    place.desk.handle(|_| {});
    assert!(!place.try_dispatch(&[7]), "one of the two is left");
    place.desk.handle(|_| {});
    assert!(place.try_dispatch(&[7]));
    assert!(place.has_message(0) && !place.has_message(0));
}

#[test]
fn the_loop_does_not_wait_for_a_dispatcher_that_looks_around() {
    let mut place = Place::new(1);
    let block = place.bench.block(&[7]);
    let refused = place
        .desk
        .visit(|_| place.desk.dispatch(block, true, |_| {}));
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
    assert!(place.desk.dispatch(block, true, |_| {}).is_err());
    let (sender, _receiver) = bounded(1_000);
    let options = SubscribeOptions::new(MessageType(9));
    let registry = &place.bench.registry;
    registry.add(options, Outlet::Messages(sender)).unwrap();
    assert!(place.try_dispatch(&[9]));
    assert!(!place.try_dispatch(&[9; 300]), "a message at a time");
}

/// The dispatcher is asked to wake the receivers if it is at the desk.
#[test]
fn the_loop_does_not_wait_to_wake_anybody() {
    let place = Place::new(1);
    assert!(place.desk.announce());
    assert!(!place.desk.visit(|_| place.desk.announce()));
}

#[test]
fn nothing_is_dispatched_after_the_end() {
    let mut place = Place::new(1);
    place.desk.close();
    assert!(!place.try_dispatch(&[7]));
    place.desk.note_handed();
    assert!(!place.try_dispatch(&[7]));
    assert!(!place.has_message(0));
}
