//! What becomes of messages that do not fit, by the policy of the subscriber.

use super::*;
use crate::{
    error::{CloseReason, RecvError, SubscribeError},
    slots::{Sums, Take},
};

fn subscribe(
    bench: &Bench,
    overflow: OverflowPolicy,
    messages: usize,
    bytes: usize,
) -> Subscription {
    let options = SubscribeOptions::new(MessageType(1))
        .messages(messages)
        .bytes(bytes)
        .overflow(overflow);
    bench.subscribe(options)
}

/// Why the loop is asked to close the peer, if it is.
fn close_asked(bench: &Bench) -> Option<CloseReason> {
    let take = Take::Beside(Default::default());
    let (slots, peer) = (&bench.slots, bench.peer);
    let taken = slots.take_tail(0, peer, Sums::default(), take, |_, _| {});
    taken.unwrap().close_asked
}

#[test]
fn the_oldest_give_way_in_whole_batches() {
    let mut bench = Bench::new();
    let mut latest = subscribe(&bench, OverflowPolicy::DropOldest, 5, 1 << 20);
    bench.dispatch(&[1, 1]);
    bench.dispatch(&[1, 2, 1]);
    // Two do not fit beside four: the first batch goes.
    bench.dispatch(&[1, 1]);
    balanced(&latest);
    assert_eq!(latest.row().dropped, 2);
    assert_eq!(take(&mut latest), (vec![2, 4, 5, 6], 2));
    // What is longer than the queue leaves its end, and nothing of what was there.
    bench.dispatch(&[1]);
    bench.dispatch(&[1, 1, 2, 1, 1, 1, 1]);
    balanced(&latest);
    assert_eq!(latest.row().dropped, 4);
    assert_eq!(take(&mut latest), (vec![9, 11, 12, 13, 14], 2));
    assert_eq!(latest.row().dropped_for_bytes, 0);
    assert!(!latest.row().overflowed);
}

#[test]
fn the_oldest_give_way_to_the_bound_in_bytes() {
    let mut bench = Bench::new();
    // Each batch pins a block of 512 bytes.
    let mut latest = subscribe(&bench, OverflowPolicy::DropOldest, 100, 1_100);
    for _ in 0..5 {
        bench.dispatch(&[1, 1]);
    }
    balanced(&latest);
    let row = latest.row();
    assert_eq!((row.dropped, row.dropped_for_bytes), (6, 6));
    assert_eq!(take(&mut latest), (vec![6, 7, 8, 9], 6));
    // An empty queue takes a batch of any size.
    let mut thin = subscribe(&bench, OverflowPolicy::DropOldest, 100, 1);
    bench.dispatch(&[1]);
    bench.dispatch(&[1]);
    assert_eq!(take(&mut thin), (vec![11], 1));
}

#[test]
fn a_delivery_that_is_being_taken_is_not_waited_for() {
    let mut bench = Bench::new();
    let latest = subscribe(&bench, OverflowPolicy::DropOldest, 1, 1 << 20);
    bench.dispatch(&[1]);
    // Out of the channel, and not counted as taken yet.
    let first = latest.receiver().try_recv().unwrap();
    bench.dispatch(&[1]);
    let second = latest.receiver().try_recv().unwrap();
    assert_eq!(latest.row().dropped, 0);
    assert_eq!(first.into_batch().missed(), 0);
    assert_eq!(second.into_batch().missed(), 0);
    balanced(&latest);
}

#[test]
fn a_subscription_that_leaves_discards_what_the_dispatcher_could_have_dropped() {
    let mut bench = Bench::new();
    let latest = subscribe(&bench, OverflowPolicy::DropOldest, 3, 1 << 20);
    bench.dispatch(&[1, 1, 1]);
    bench.dispatch(&[1]);
    drop(latest);
    // The table is out of date until the next block.
    bench.dispatch(&[1]);
    bench.fan_out.pump();
    let departed = bench.registry.departed();
    assert_eq!(
        (departed.matched, departed.dropped, departed.discarded),
        (4, 3, 1)
    );
    assert_eq!(bench.slots.ledger.unclaimed.get(), 1);
    assert_eq!(bench.slots.ledger.budget.used(), 0);
}

#[test]
fn a_peer_whose_messages_do_not_fit_is_closed_once() {
    let mut bench = Bench::new();
    let mut strict = subscribe(&bench, OverflowPolicy::Close, 2, 1 << 20);
    bench.dispatch(&[1]);
    assert_eq!(close_asked(&bench), None);
    bench.dispatch(&[1, 1, 1]);
    assert!(bench.slots.has_dirty());
    assert_eq!(bench.slots.poll_dirty(), Some(0));
    assert_eq!(close_asked(&bench), Some(CloseReason::Flood));
    // What still comes of it is dropped, and asks for nothing.
    bench.dispatch(&[1]);
    assert!(!bench.slots.has_dirty());
    assert_eq!(close_asked(&bench), None);
    balanced(&strict);
    assert_eq!(strict.row().dropped, 3);
    assert_eq!(take(&mut strict), (vec![0, 1], 0));
    assert_eq!(strict.end_reason(), None);
}

#[test]
fn a_full_subscriber_is_removed_and_finds_its_end() {
    let mut bench = Bench::new();
    let mut strict = subscribe(&bench, OverflowPolicy::Unsubscribe, 2, 1 << 20);
    let mut other = subscribe(&bench, OverflowPolicy::DropNewest, 100, 1 << 20);
    bench.dispatch(&[1]);
    bench.dispatch(&[1, 1, 1]);
    bench.dispatch(&[1]);
    balanced(&strict);
    let row = strict.row();
    assert_eq!((row.matched, row.dropped, row.queued), (4, 2, 2));
    assert!(row.overflowed);
    assert_eq!(strict.end_reason(), Some(EndReason::Overflow));
    assert_eq!(take(&mut strict), (vec![0, 1], 0));
    assert_eq!(strict.recv().unwrap_err(), RecvError);
    assert_eq!(take(&mut other), (vec![0, 1, 2, 3, 4], 0));
    assert_eq!(bench.registry.rows().len(), 1);
    drop(strict);
    let departed = bench.registry.departed();
    assert_eq!((departed.subscribers, departed.overflowed), (1, 1));
    assert_eq!((departed.taken, departed.dropped), (2, 2));
    // A stop ends the other one.
    bench.fan_out.close();
    assert_eq!(other.end_reason(), Some(EndReason::Stopped));
    assert_eq!(other.try_recv().unwrap_err(), TryRecvError::Disconnected);
}

#[test]
fn channels_of_others_close_and_leave_and_do_no_more() {
    let mut bench = Bench::new();
    let add = |bench: &Bench, overflow| {
        let (sender, receiver) = bounded(2);
        let options = SubscribeOptions::new(MessageType(1)).overflow(overflow);
        let account = bench.registry.add(options, Outlet::Messages(sender));
        account.map(|account| (account, receiver))
    };
    for overflow in [OverflowPolicy::Pause, OverflowPolicy::DropOldest] {
        let refused = add(&bench, overflow).unwrap_err();
        assert_eq!(refused, SubscribeError::NeedsOwnQueue);
    }
    let (closes, closes_end) = add(&bench, OverflowPolicy::Close).unwrap();
    let (leaves, leaves_end) = add(&bench, OverflowPolicy::Unsubscribe).unwrap();
    bench.dispatch(&[1, 1, 1, 1]);
    bench.dispatch(&[1]);
    assert_eq!(close_asked(&bench), Some(CloseReason::Flood));
    let (closes, leaves) = (closes.row(), leaves.row());
    assert_eq!((closes.matched, closes.taken, closes.dropped), (5, 2, 3));
    assert_eq!((leaves.matched, leaves.taken, leaves.dropped), (4, 2, 2));
    assert!(leaves.overflowed);
    assert_eq!(closes_end.iter().take(2).count(), 2);
    // The channel of the one that left is disconnected.
    assert_eq!(leaves_end.iter().count(), 2);
}

#[test]
fn a_slot_that_somebody_holds_is_closed_in_the_next_turn() {
    let mut bench = Bench::new();
    let _strict = subscribe(&bench, OverflowPolicy::Close, 1, 1 << 20);
    let slots = Arc::clone(&bench.slots);
    std::thread::scope(|scope| {
        let (slots, bench) = (&slots, &mut bench);
        let peer = bench.peer;
        // The lock is held by this thread, and the other one must not wait.
        slots.with_lock(peer, || {
            let loop_thread = scope.spawn(move || {
                Slots::set_loop_thread();
                bench.dispatch(&[1, 1]);
                bench
            });
            loop_thread.join().unwrap();
        });
        assert!(slots.has_deferred());
        slots.finish_deferred();
    });
    assert_eq!(close_asked(&bench), Some(CloseReason::Flood));
}
