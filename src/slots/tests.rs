use super::*;
use crate::{frame::Frame, id::MessageType};

const MESSAGES: u64 = 10;
const BYTES: u64 = 64 << 10;

fn slots(budget: usize) -> Slots {
    let ledger = Arc::new(Ledger::new(budget, Traffic::new(1, 1)));
    let limits = OutboxLimits {
        bytes: BYTES,
        messages: MESSAGES,
        payload_size: 1 << 20,
    };
    Slots::new(0, 3, limits, ledger, Clock::start())
}

fn send(slots: &Slots, peer: PeerId, size: usize) -> Result<(), SendError> {
    let payload = vec![0; size];
    let frame = Frame::new(MessageType(1), &payload);
    slots.send(peer, OutFrame { frame, owned: None })
}

fn batch(count: u32, size: usize) -> OutFrames {
    let payload = vec![0; size];
    let mut batch = OutFrames::default();
    for _ in 0..count {
        batch.push(&Frame::new(MessageType(1), &payload));
    }
    batch
}

fn take(slots: &Slots, peer: PeerId, before: &mut Traffic) -> Taken {
    let mut out = Vec::new();
    let taken = slots.take_tail(peer, &mut out, *before, false).unwrap();
    before.add(taken.traffic);
    taken
}

#[test]
fn messages_are_bounded() {
    let slots = slots(1 << 30);
    let peer = slots.open(0).unwrap();
    for _ in 0..MESSAGES {
        assert_eq!(send(&slots, peer, 0), Ok(()));
    }
    assert_eq!(send(&slots, peer, 0), Err(SendError::Full));
    // What the loop took still counts, what the kernel took does not.
    let taken = take(&slots, peer, &mut Traffic::default());
    assert_eq!(taken.traffic, Traffic::new(MESSAGES, MESSAGES * 8));
    assert_eq!(send(&slots, peer, 0), Err(SendError::Full));
    assert!(!slots.add_written(peer, Traffic::new(1, 8)));
    assert_eq!(send(&slots, peer, 0), Ok(()));
    assert_eq!(send(&slots, peer, 0), Err(SendError::Full));
}

#[test]
fn bytes_are_bounded_to_the_byte() {
    let slots = slots(1 << 30);
    let peer = slots.open(0).unwrap();
    assert_eq!(send(&slots, peer, 1_000), Ok(()));
    let left = usize::try_from(BYTES).unwrap() - 1_008 - 8;
    assert_eq!(send(&slots, peer, left + 1), Err(SendError::Full));
    assert_eq!(send(&slots, peer, left), Ok(()));
    assert_eq!(send(&slots, peer, 0), Err(SendError::Full));
    assert_eq!(slots.queued(peer), Traffic::new(2, BYTES));
}

#[test]
fn an_empty_outbox_takes_one_message_of_any_legal_size() {
    let slots = slots(1 << 30);
    let peer = slots.open(0).unwrap();
    assert_eq!(send(&slots, peer, 1 << 20), Ok(()));
    assert_eq!(send(&slots, peer, 0), Err(SendError::Full));
    let (size, limit) = ((1 << 20) + 1, 1 << 20);
    let too_large = Err(SendError::TooLarge { size, limit });
    assert_eq!(send(&slots, peer, size), too_large);
    let other = slots.open(1).unwrap();
    slots.admit(other, 5);
    let too_large = Err(SendError::TooLarge { size: 6, limit: 5 });
    assert_eq!(send(&slots, other, 6), too_large);
    assert_eq!(send(&slots, other, 5), Ok(()));
}

#[test]
fn a_batch_is_accepted_as_a_whole_or_not() {
    let slots = slots(1 << 30);
    let peer = slots.open(0).unwrap();
    let mut ten = batch(10, 1);
    let mut eleven = batch(11, 1);
    assert_eq!(slots.send_batch(peer, &mut eleven), Err(SendError::Full));
    assert_eq!(eleven.messages, 11, "it is unchanged");
    assert_eq!(slots.send_batch(peer, &mut ten), Ok(()));
    assert_eq!((ten.messages, ten.bytes.len()), (0, 0));
    assert_eq!(
        slots.send_batch(peer, &mut ten),
        Ok(()),
        "nothing fits always"
    );
    let mut one = batch(1, 1);
    assert_eq!(slots.send_batch(peer, &mut one), Err(SendError::Full));
    assert_eq!(slots.queued(peer), Traffic::new(10, 90));
}

#[test]
fn the_generation_tells_connections_of_a_slot_apart() {
    let slots = slots(1 << 30);
    let first = slots.open(0).unwrap();
    assert_eq!(send(&slots, first, 1), Ok(()));
    let mut out = Vec::new();
    let late = slots.close(first, &mut out, Traffic::default()).unwrap();
    assert_eq!((late, out.len()), (Traffic::new(1, 9), 1));
    assert_eq!(send(&slots, first, 1), Err(SendError::NotConnected));
    let second = slots.open(0).unwrap();
    assert_eq!(second.generation(), first.generation() + 1);
    assert_eq!(slots.queued(second), Traffic::default());
    assert_eq!(send(&slots, first, 1), Err(SendError::NotConnected));
    assert!(!slots.ask_close(first));
    // What belongs to the first does nothing to the second.
    slots.ledger.budget.charge(100);
    slots.release(first, Traffic::new(1, 100), 100);
    slots.hold(first);
    slots.unhold(first);
    assert_eq!(slots.released(second), Traffic::default());
    assert!(!slots.is_held(second));
    let elsewhere = PeerId::new(1, 0, 1);
    assert_eq!(send(&slots, elsewhere, 1), Err(SendError::NotConnected));
    let never = PeerId::new(0, 70_000, 1);
    assert_eq!(send(&slots, never, 1), Err(SendError::NotConnected));
}

#[test]
fn a_slot_that_used_its_generations_is_retired() {
    let slots = slots(1 << 30);
    let peer = slots.open(0).unwrap();
    slots
        .close(peer, &mut Vec::new(), Traffic::default())
        .unwrap();
    slots.slot_at(0).unwrap().lock().generation = u32::MAX - 1;
    let last = slots.open(0).unwrap();
    assert_eq!(last.generation(), u32::MAX);
    slots
        .close(last, &mut Vec::new(), Traffic::default())
        .unwrap();
    assert_eq!(slots.open(0), Err(OpenError::Retired));
    assert_eq!(send(&slots, last, 1), Err(SendError::NotConnected));
    assert_eq!(slots.open(64), Err(OpenError::NoSuchSlot));
}

#[test]
fn a_closing_peer_takes_nothing_more() {
    let slots = slots(1 << 30);
    let peer = slots.open(0).unwrap();
    assert_eq!(slots.close_if_quiet(peer), Ok(true));
    assert_eq!(send(&slots, peer, 1), Err(SendError::Closing));
    let asked = slots.open(1).unwrap();
    send(&slots, asked, 1).unwrap();
    assert_eq!(slots.close_if_quiet(asked), Ok(false));
    assert!(slots.ask_close(asked) && slots.ask_close(asked));
    assert_eq!(send(&slots, asked, 1), Err(SendError::Closing));
    let taken = take(&slots, asked, &mut Traffic::default());
    assert!(taken.close_asked);
    assert_eq!(taken.traffic, Traffic::new(1, 9));
    assert!(slots.ask_close(asked));
}

#[test]
fn the_lease_covers_what_is_queued_and_comes_back() {
    let slots = slots(BUDGET_LEASE_BYTES * 3);
    let budget = &slots.ledger.budget;
    let peer = slots.open(0).unwrap();
    send(&slots, peer, 100).unwrap();
    assert_eq!(budget.used(), BUDGET_LEASE_BYTES);
    send(&slots, peer, BUDGET_LEASE_BYTES - 108 - 8).unwrap();
    assert_eq!(budget.used(), BUDGET_LEASE_BYTES);
    send(&slots, peer, 0).unwrap();
    assert_eq!(budget.used(), 2 * BUDGET_LEASE_BYTES);
    slots.trim_lease(peer);
    assert_eq!(budget.used(), 2 * BUDGET_LEASE_BYTES, "it is in use");
    let other = slots.open(1).unwrap();
    send(&slots, other, 0).unwrap();
    let third = slots.open(2).unwrap();
    assert_eq!(send(&slots, third, 0), Err(SendError::Full));
    assert_eq!(slots.queued(third), Traffic::default());
    slots.add_written(peer, slots.queued(peer));
    slots.trim_lease(peer);
    assert_eq!(budget.used(), BUDGET_LEASE_BYTES);
    assert_eq!(send(&slots, third, 0), Ok(()));
    for peer in [peer, other, third] {
        slots
            .close(peer, &mut Vec::new(), Traffic::default())
            .unwrap();
    }
    assert_eq!(budget.used(), 0);
}

#[test]
fn attention_is_asked_for_once() {
    let slots = slots(1 << 30);
    let peer = slots.open(2).unwrap();
    assert!(!slots.has_attention());
    for _ in 0..3 {
        send(&slots, peer, 1).unwrap();
    }
    slots.ask_close(peer);
    assert_eq!(slots.poll_attention(), Some(2));
    assert_eq!(slots.poll_attention(), None);
    slots.hold(peer);
    slots.hold(peer);
    slots.unhold(peer);
    assert!(!slots.has_attention() && slots.is_held(peer));
    slots.unhold(peer);
    assert_eq!(slots.poll_attention(), Some(2));
}

#[test]
fn a_paused_peer_asks_when_enough_was_released() {
    let slots = slots(1 << 30);
    let peer = slots.open(0).unwrap();
    slots.ledger.budget.charge(100);
    assert!(slots.pause(peer, Traffic::new(2, 50)));
    slots.release(peer, Traffic::new(3, 49), 10);
    assert!(!slots.has_attention());
    slots.release(peer, Traffic::new(0, 1), 10);
    assert_eq!(slots.poll_attention(), Some(0));
    // It is told once, and not at all if nobody would tell.
    slots.release(peer, Traffic::new(1, 1), 10);
    assert!(!slots.has_attention());
    assert!(!slots.pause(peer, Traffic::new(4, 51)));
    assert!(slots.pause(peer, Traffic::new(4, 52)));
}

#[test]
fn a_waiting_sender_is_woken_by_room_and_by_the_end() {
    let slots = Arc::new(slots(1 << 30));
    let peer = slots.open(0).unwrap();
    send(&slots, peer, 1 << 20).unwrap();
    let sender = thread::Builder::new().spawn({
        let slots = Arc::clone(&slots);
        move || {
            let mut results = Vec::new();
            loop {
                assert!(slots.wait_for_room(peer));
                match send(&slots, peer, 1 << 20) {
                    Err(SendError::Full) => Slots::park(Duration::from_secs(60)),
                    result => results.push(result),
                }
                if results.len() == 2 {
                    slots.forget_waiter(peer);
                    return results;
                }
            }
        }
    });
    let size = (1 << 20) + 8;
    let wait = |slots: &Slots| {
        while !slots.add_written(peer, Traffic::default()) {
            thread::yield_now();
        }
    };
    wait(&slots);
    slots.add_written(peer, Traffic::new(1, size));
    while !slots.notify_room(0) {}
    // It may be registered once more before it sends; only what it sends is told by the queue.
    while slots.queued(peer).messages == 0 {
        thread::yield_now();
    }
    wait(&slots);
    while slots
        .close(peer, &mut Vec::new(), Traffic::default())
        .is_err()
    {}
    while !slots.notify_room(0) {}
    let results = sender.unwrap().join().unwrap();
    assert_eq!(results, [Ok(()), Err(SendError::NotConnected)]);
    assert!(slots.waiters.lock().unwrap().is_empty());
}

/// The loop found the lock taken when it held a peer, and free when it let go: what was put off
/// has to wake the peer, since nobody else will.
#[test]
fn a_hold_that_was_put_off_wakes_the_peer() {
    let slots = slots(1 << 30);
    let peer = slots.open(0).unwrap();
    let never = thread::scope(|scope| {
        let on_loop = scope.spawn(|| {
            Slots::set_loop_thread();
            let locked = slots.slot_at(0).unwrap().lock();
            slots.hold(peer);
            drop(locked);
            assert!(slots.has_deferred());
            slots.unhold(peer);
            slots.is_held(peer)
        });
        on_loop.join().unwrap()
    });
    assert!(never, "between the two the peer counts as held");
    slots.poll_attention();
    slots.finish_deferred();
    assert!(!slots.is_held(peer));
    assert_eq!(slots.poll_attention(), Some(0));
}
