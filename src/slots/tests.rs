use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use bytes::Bytes;
use proptest::prelude::*;

use super::{
    segment::{SLACK_MAX, SegmentData},
    *,
};
use crate::{
    clock::Clock,
    error::{CloseReason, SendError},
    frame::{Decoder, Frame},
    id::{MessageType, NodeId, PeerId, PeerIdentity},
    ledger::{Ledger, Traffic},
    limits::{BLOCK_SIZE, BUDGET_LEASE_BYTES},
    policy::{OutboxFull, Priority},
    sync::atomic::{AtomicU64, Ordering},
};

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

const ALL: Take = Take::Beside([0; Priority::COUNT]);

fn take(slots: &Slots, peer: PeerId, before: &mut Sums) -> Taken {
    let taken = slots.take_tail(1, peer, *before, ALL, |_, _| {}).unwrap();
    before.add(taken.sums);
    taken
}

fn close(slots: &Slots, peer: PeerId) -> Sums {
    slots.close(peer, Sums::default(), |_, _| {}).unwrap().0
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
    let taken = take(&slots, peer, &mut Sums::default());
    assert_eq!(taken.sums.accepted, Traffic::new(MESSAGES, MESSAGES * 8));
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
    assert_eq!(
        slots.send_batch(peer, Priority::Normal, &mut eleven),
        Err(SendError::Full)
    );
    assert_eq!(eleven.messages, 11, "it is unchanged");
    assert_eq!(slots.send_batch(peer, Priority::Normal, &mut ten), Ok(()));
    assert_eq!((ten.messages, ten.bytes.len()), (0, 0));
    assert_eq!(
        slots.send_batch(peer, Priority::Normal, &mut ten),
        Ok(()),
        "nothing fits always"
    );
    let mut one = batch(1, 1);
    assert_eq!(
        slots.send_batch(peer, Priority::Normal, &mut one),
        Err(SendError::Full)
    );
    assert_eq!(slots.queued(peer), Traffic::new(10, 90));
}

#[test]
fn the_generation_tells_connections_of_a_slot_apart() {
    let slots = slots(1 << 30);
    let first = slots.open(0).unwrap();
    assert_eq!(send(&slots, first, 1), Ok(()));
    let mut out = Vec::new();
    let push = |_, segment| out.push(segment);
    let (late, _) = slots.close(first, Sums::default(), push).unwrap();
    assert_eq!((late.accepted, out.len()), (Traffic::new(1, 9), 1));
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
    assert!(!slots.is_parked(second));
    let elsewhere = PeerId::new(1, 0, 1);
    assert_eq!(send(&slots, elsewhere, 1), Err(SendError::NotConnected));
    let never = PeerId::new(0, 70_000, 1);
    assert_eq!(send(&slots, never, 1), Err(SendError::NotConnected));
}

#[test]
fn a_slot_that_used_its_generations_is_retired() {
    let slots = slots(1 << 30);
    let peer = slots.open(0).unwrap();
    close(&slots, peer);
    let slot = slots.slot_at(0).unwrap();
    slot.generation.store(u32::MAX - 1, Ordering::Relaxed);
    let last = slots.open(0).unwrap();
    assert_eq!(last.generation(), u32::MAX);
    close(&slots, last);
    assert_eq!(slots.open(0), Err(OpenError::Retired));
    assert_eq!(send(&slots, last, 1), Err(SendError::NotConnected));
    assert_eq!(slots.open(64), Err(OpenError::NoSuchSlot));
}

#[test]
fn a_closing_peer_takes_nothing_more() {
    let slots = slots(1 << 30);
    let peer = slots.open(0).unwrap();
    assert_eq!(slots.close_if_drained(peer), Ok(true));
    assert_eq!(send(&slots, peer, 1), Err(SendError::Closing));
    let asked = slots.open(1).unwrap();
    send(&slots, asked, 1).unwrap();
    assert_eq!(slots.close_if_drained(asked), Ok(false));
    assert!(slots.ask_close(asked) && slots.ask_close(asked));
    assert_eq!(send(&slots, asked, 1), Err(SendError::Closing));
    let taken = take(&slots, asked, &mut Sums::default());
    assert_eq!(taken.close_asked, Some(CloseReason::AppClosed));
    assert_eq!(taken.sums.accepted, Traffic::new(1, 9));
    assert!(slots.ask_close(asked));
}

#[test]
fn the_lease_covers_what_is_queued_and_comes_back() {
    let slots = slots(BUDGET_LEASE_BYTES * 3);
    let budget = &slots.ledger.budget;
    let peer = slots.open(0).unwrap();
    send(&slots, peer, 16 * 1024 - 8).unwrap();
    assert_eq!(budget.used(), BUDGET_LEASE_BYTES);
    send(&slots, peer, 0).unwrap();
    assert!(budget.used() >= 2 * BUDGET_LEASE_BYTES);
    let used = budget.used();
    slots.trim_lease(peer);
    assert_eq!(budget.used(), used, "it is in use");
    let other = slots.open(1).unwrap();
    send(&slots, other, budget.limit() - used - 8).unwrap();
    let third = slots.open(2).unwrap();
    assert_eq!(send(&slots, third, 0), Err(SendError::OverBudget));
    assert_eq!(slots.queued(third), Traffic::default());
    slots.add_written(peer, slots.queued(peer));
    slots.trim_lease(peer);
    assert_eq!(budget.used(), budget.limit() - used);
    assert_eq!(send(&slots, third, 0), Ok(()));
    for peer in [peer, other, third] {
        close(&slots, peer);
    }
    assert_eq!(budget.used(), 0);
}

/// Messages for which the budget has no room, and not those for which the outbox has none.
#[test]
fn what_is_refused_for_the_budget_is_counted_in_messages() {
    let slots = slots(64 << 20);
    let (peer, other) = (slots.open(0).unwrap(), slots.open(1).unwrap());
    let refused = || slots.ledger.refused_for_budget.load(Ordering::Relaxed);
    while send(&slots, other, 0).is_ok() {}
    let held = slots.ledger.budget.limit() - slots.ledger.budget.used();
    slots.ledger.budget.charge(held);
    let small = Traffic::new(1, 8);
    for _ in 0..2 {
        assert_eq!(send(&slots, other, 0), Err(SendError::Full));
        assert!(slots.accept_inline(other, small, 0).is_err());
    }
    assert_eq!(refused(), 0);
    assert_eq!(send(&slots, peer, 0), Err(SendError::OverBudget));
    assert_eq!(refused(), 1);
    let sent = slots.send_batch(peer, Priority::Normal, &mut batch(3, 10));
    assert_eq!((sent, refused()), (Err(SendError::OverBudget), 4));
    let sent = slots.accept_inline(peer, small, 0);
    assert_eq!((sent, refused()), (Err(SendError::OverBudget), 5));
    let frame = SharedFrame::new(&Frame::new(MessageType(1), b""), Priority::Normal);
    let report = slots.broadcast(Ok(&frame), Recipients::All);
    assert_eq!((report.skipped.len(), refused()), (2, 6));
    slots.ledger.budget.release(held);
    assert_eq!(send(&slots, peer, 0), Ok(()));
    assert_eq!(refused(), 6);
}

impl Segment {
    /// Bytes that are allocated for it.
    pub(crate) fn storage(&self) -> usize {
        match &self.data {
            SegmentData::Encoded(bytes) => bytes.capacity(),
            SegmentData::Shared(bytes) => bytes.len(),
        }
    }

    /// How many of these need not be leased: a frame of the protocol, or what is left when nothing
    /// is appended any more.
    pub(crate) fn storage_free(&self) -> usize {
        if self.is_control {
            self.storage()
        } else {
            SLACK_MAX + self.len() / 16
        }
    }
}

#[test]
fn storage_is_leased_and_not_only_what_is_in_it() {
    let ledger = Arc::new(Ledger::new(1 << 30, Traffic::new(1, 1)));
    let limits = OutboxLimits {
        bytes: 1 << 20,
        messages: 1 << 20,
        payload_size: 1 << 20,
    };
    let slots = Slots::new(0, 3, limits, ledger, Clock::start());
    for size in [0, 1, 55, 200, 1_400, 3_000, 4_100, 20_000, 33_000, 70_000] {
        for count in [1, 2, 3, 10, 16, 17, 1_000] {
            let peer = slots.open(0).unwrap();
            let sent = (0..count).filter(|_| send(&slots, peer, size).is_ok());
            let bytes = sent.count() * (size + 8);
            let leased = slots.ledger.budget.used();
            let (mut held, mut segments) = (0, 0);
            let (mut sums, mut most) = (Sums::default(), 0);
            let taken = slots.take_tail(1, peer, sums, ALL, |_, segment| {
                held += segment.storage();
                most = most.max(segment.storage());
                segments += 1;
            });
            sums.add(taken.unwrap().sums);
            assert_eq!(sums.accepted.bytes, bytes as u64);
            assert!(
                held <= leased + leased / 16 + 64 * segments,
                "{count} of {size}: {segments} segments of {held} bytes, {leased} are leased"
            );
            assert!(
                held <= bytes + bytes / 8 + 64 * segments + BUDGET_LEASE_BYTES,
                "{count} of {size}: {held}"
            );
            assert!(
                most <= BLOCK_SIZE.max(size + 8),
                "{count} of {size}: {most}"
            );
            close(&slots, peer);
            assert_eq!(slots.ledger.budget.used(), 0);
        }
    }
}

#[test]
fn a_long_batch_keeps_no_more_than_its_length() {
    let slots = slots(1 << 30);
    let peer = slots.open(0).unwrap();
    let mut batch = batch(9, 7_000);
    assert!(
        batch.bytes.capacity() > batch.bytes.len() * 9 / 8,
        "it grew"
    );
    slots
        .send_batch(peer, Priority::Normal, &mut batch)
        .unwrap();
    let mut held = 0;
    let out = |_, segment: Segment| held += segment.storage();
    slots.take_tail(1, peer, Sums::default(), ALL, out).unwrap();
    assert!(held < 9 * 7_008 * 17 / 16, "{held}");
}

#[test]
fn a_segment_that_is_cut_keeps_no_more_than_its_length() {
    let mut segment = Segment::default();
    for payload in [&[0; 9_000][..], &[0; 3_000]] {
        assert!(segment.try_append(&Frame::new(MessageType(1), payload)));
    }
    assert!(segment.storage() > segment.len() * 5 / 4, "it grew");
    drop(segment.split_behind(9_008, 1));
    let SegmentData::Shared(rest) = segment.data else {
        panic!("it is cut by reference");
    };
    assert_eq!(rest.len(), 3_008);
    let held = rest.try_into_mut().unwrap().capacity();
    assert!(held <= 3_008 + SLACK_MAX + 12_016 / 16, "{held}");
}

#[test]
fn little_is_leased_as_it_is() {
    let slots = slots(1 << 30);
    let budget = &slots.ledger.budget;
    let peer = slots.open(0).unwrap();
    for count in 1..=MESSAGES {
        send(&slots, peer, 92).unwrap();
        let queued = slots.queued(peer).bytes;
        assert_eq!(queued, count * 100);
        assert!((100 * count..=300 * count).contains(&(budget.used() as u64)));
    }
    close(&slots, peer);
    // Where it is short, nothing is taken ahead.
    budget.charge((1 << 30) - 1_000);
    let peer = slots.open(0).unwrap();
    for _ in 0..9 {
        send(&slots, peer, 92).unwrap();
    }
    // What was taken ahead is given back, but for the place of a segment.
    assert!(budget.used() <= budget.limit() + 1_000);
}

/// What storage is held beside what is queued is of use to the next message only where that is
/// appended: sends end at the budget although the loop takes nothing meanwhile.
#[test]
fn nothing_is_accepted_beyond_the_budget_while_the_loop_is_away() {
    const BUDGET: usize = 1 << 20;
    for size in [0, 100, 1_000, 20_000] {
        let ledger = Arc::new(Ledger::new(BUDGET, Traffic::new(1, 1)));
        let limits = OutboxLimits {
            bytes: 1 << 30,
            messages: 1 << 30,
            payload_size: 1 << 20,
        };
        let slots = Slots::new(0, 3, limits, ledger, Clock::start());
        let budget = &slots.ledger.budget;
        let peer = slots.open(0).unwrap();
        while send(&slots, peer, 10_000).is_ok() {}
        let mut count = 0;
        while send(&slots, peer, size).is_ok() {
            count += 1;
            assert!(
                budget.used() <= BUDGET + BLOCK_SIZE,
                "{count} of {size} more, and {} bytes are charged",
                budget.used()
            );
        }
        let excess = budget.used().saturating_sub(BUDGET);
        assert!(excess <= BLOCK_SIZE, "{excess}, {count} of {size} more");
        close(&slots, peer);
        assert_eq!(budget.used(), 0);
    }
}

#[test]
fn a_slot_is_marked_dirty_once() {
    let slots = slots(1 << 30);
    let peer = slots.open(2).unwrap();
    assert!(!slots.has_dirty());
    for _ in 0..3 {
        send(&slots, peer, 1).unwrap();
    }
    slots.ask_close(peer);
    assert_eq!(slots.poll_dirty(), Some(2));
    assert_eq!(slots.poll_dirty(), None);
    slots.hold(peer);
    slots.hold(peer);
    slots.unhold(peer);
    assert!(!slots.has_dirty() && slots.is_parked(peer));
    slots.unhold(peer);
    assert_eq!(slots.poll_dirty(), Some(2));
}

#[test]
fn a_paused_peer_asks_when_enough_was_released() {
    let slots = slots(1 << 30);
    let peer = slots.open(0).unwrap();
    slots.ledger.budget.charge(100);
    assert!(slots.pause(peer, Traffic::new(2, 50)));
    slots.release(peer, Traffic::new(3, 49), 10);
    assert!(!slots.has_dirty());
    slots.release(peer, Traffic::new(0, 1), 10);
    assert_eq!(slots.poll_dirty(), Some(0));
    // It is told once, and not at all if nobody would tell.
    slots.release(peer, Traffic::new(1, 1), 10);
    assert!(!slots.has_dirty());
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
    while slots.close(peer, Sums::default(), |_, _| {}).is_err() {}
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
            slots.is_parked(peer)
        });
        on_loop.join().unwrap()
    });
    assert!(never, "between the two the peer counts as held");
    slots.poll_dirty();
    slots.finish_deferred();
    assert!(!slots.is_parked(peer));
    assert_eq!(slots.poll_dirty(), Some(0));
}

mod full {
    use super::*;

    fn slots_that(full: OutboxFull) -> Slots {
        slots(1 << 30).outbox_full(full)
    }

    fn send_as(slots: &Slots, peer: PeerId, priority: Priority, size: usize) -> bool {
        let payload = vec![0; size];
        let frame = Frame::new(MessageType(1), &payload);
        let message = OutFrame { frame, owned: None };
        slots.send_as(peer, priority, message).is_ok()
    }

    #[test]
    fn a_peer_that_is_to_be_cut_off_takes_nothing_more() {
        let slots = slots_that(OutboxFull::Close);
        let peer = slots.open(0).unwrap();
        // What never fits is not the peer's fault.
        assert_eq!(
            slots.send_batch(peer, Priority::Normal, &mut batch(11, 1)),
            Err(SendError::Full)
        );
        assert_eq!(send(&slots, peer, 1), Ok(()));
        assert_eq!(send(&slots, peer, 1 << 20), Err(SendError::Full));
        for _ in 1..MESSAGES {
            assert_eq!(send(&slots, peer, 1), Ok(()));
        }
        assert_eq!(send(&slots, peer, 1), Err(SendError::Full));
        assert_eq!(send(&slots, peer, 1), Err(SendError::Closing));
        assert!(slots.ask_close(peer), "it is connected still");
        let mut sums = Sums::default();
        let taken = take(&slots, peer, &mut sums);
        assert!(taken.cut_off && taken.close_asked.is_none());
        assert_eq!(sums.accepted, Traffic::new(MESSAGES, MESSAGES * 9));
        assert_eq!(send(&slots, peer, 1), Err(SendError::Closing));
        assert!(!take(&slots, peer, &mut sums).cut_off, "it is told once");
    }

    #[test]
    fn a_quiet_close_does_not_forget_that_the_peer_is_to_be_cut_off() {
        let slots = slots_that(OutboxFull::Close);
        let peer = slots.open(0).unwrap();
        while send(&slots, peer, 1).is_ok() {}
        slots.add_written(peer, slots.queued(peer));
        assert_eq!(slots.close_if_drained(peer), Ok(false));
        assert!(take(&slots, peer, &mut Sums::default()).cut_off);
    }

    #[test]
    fn the_oldest_of_the_lowest_priority_goes_first() {
        let slots = slots_that(OutboxFull::DropOldest);
        let peer = slots.open(0).unwrap();
        let order = [Priority::Low, Priority::Normal, Priority::High];
        for (index, priority) in order.into_iter().cycle().take(9).enumerate() {
            assert!(send_as(&slots, peer, priority, index));
        }
        assert!(send_as(&slots, peer, Priority::Low, 9));
        // The bytes tell which: 0, 3, 6 and 9 are low, 1, 4 and 7 normal.
        let overflowed = |expected: &[u64]| {
            let bytes = expected.iter().map(|size| size + 8).sum();
            let sum = Traffic::new(expected.len() as u64, bytes);
            assert_eq!(slots.slot_at(0).unwrap().used().overflowed.get(), sum);
        };
        assert!(send_as(&slots, peer, Priority::Normal, 10));
        overflowed(&[0]);
        assert!(send_as(&slots, peer, Priority::High, 11));
        overflowed(&[0, 3]);
        assert!(send_as(&slots, peer, Priority::Low, 12));
        overflowed(&[0, 3, 6]);
        for size in [13, 14, 15] {
            assert!(send_as(&slots, peer, Priority::Normal, size));
        }
        overflowed(&[0, 3, 6, 9, 12, 1]);
        // Nothing low is left, and nothing normal goes for it.
        assert!(!send_as(&slots, peer, Priority::Low, 1));
        overflowed(&[0, 3, 6, 9, 12, 1]);
        assert_eq!(slots.queued(peer).messages, MESSAGES);
    }

    #[test]
    fn nothing_is_dropped_for_what_does_not_fit_all_the_same() {
        let slots = slots_that(OutboxFull::DropOldest);
        let peer = slots.open(0).unwrap();
        for _ in 0..MESSAGES {
            assert!(send_as(&slots, peer, Priority::Normal, 100));
        }
        let mut sums = Sums::default();
        let taken = take(&slots, peer, &mut sums);
        // A quarter of the messages is on its way.
        assert!(taken.has_more);
        assert_eq!(taken.sums.accepted, Traffic::new(10, 1080));
        let mut nine = batch(9, 100);
        let full = Err(SendError::Full);
        assert_eq!(slots.send_batch(peer, Priority::Normal, &mut nine), full);
        let mut eight = batch(8, 100);
        assert_eq!(slots.send_batch(peer, Priority::Normal, &mut eight), Ok(()));
        let taken = take(&slots, peer, &mut sums);
        assert_eq!(taken.sums.overflowed, Traffic::new(8, 8 * 108));
        assert_eq!(slots.queued(peer), Traffic::new(10, 1080));
    }

    #[test]
    fn what_is_long_is_dropped_with_all_its_parts() {
        let slots = slots_that(OutboxFull::DropOldest);
        let peer = slots.open(0).unwrap();
        let payload = vec![7; 10_000];
        let frame = Frame::new(MessageType(1), &payload).with_checksum(true);
        for _ in 0..20 {
            let owned = Some(Bytes::copy_from_slice(&payload));
            slots.send(peer, OutFrame { frame, owned }).unwrap();
        }
        let size = frame.encoded_size() as u64;
        assert_eq!(slots.queued(peer), Traffic::new(6, 6 * size));
        let mut bytes = Vec::new();
        let out = |_, segment: Segment| bytes.extend_from_slice(segment.data.as_slice());
        slots
            .take_tail(1, peer, Sums::default(), Take::Last, out)
            .unwrap();
        let decoder = Decoder::new(10_000);
        assert_eq!(decoder.frames(&bytes).filter(Result::is_ok).count(), 6);
    }

    /// Who was refused is told to the loop once, and why decides when it may go on.
    #[test]
    fn a_refusal_marks_a_slot_dirty_once() {
        let slots = slots(BUDGET_LEASE_BYTES * 4);
        let peer = slots.open(0).unwrap();
        slots.ledger.budget.charge(BUDGET_LEASE_BYTES * 4);
        let over_budget = || assert_eq!(send(&slots, peer, 1), Err(SendError::OverBudget));
        let refuse = |size| assert_eq!(send(&slots, peer, size), Err(SendError::Full));
        over_budget();
        assert!(!slots.has_dirty(), "nobody listens");
        slots.event_subscribers.store(1, Ordering::Relaxed);
        over_budget();
        over_budget();
        assert_eq!(slots.poll_dirty(), Some(0));
        assert_eq!(slots.poll_dirty(), None);
        assert_eq!(slots.fill(peer).1, Refusals::BUDGET);
        slots.ledger.budget.release(BUDGET_LEASE_BYTES * 4);
        slots.forget_refusals(peer, Refusals::BUDGET);
        send(&slots, peer, 1).unwrap();
        slots.poll_dirty();
        refuse(1 << 20);
        assert_eq!(slots.fill(peer).1, Refusals::NOT_EMPTY);
        slots.forget_refusals(peer, Refusals::NOT_EMPTY);
        for _ in 1..MESSAGES {
            send(&slots, peer, 1).unwrap();
        }
        refuse(1);
        assert_eq!(slots.fill(peer).1, Refusals::OUTBOX);
        slots.forget_refusals(peer, Refusals::OUTBOX);
        let mut never = batch(11, 1);
        let full = Err(SendError::Full);
        assert_eq!(slots.send_batch(peer, Priority::Normal, &mut never), full);
        assert_eq!(slots.fill(peer).1, Refusals::default());
    }
}

mod broadcast {
    use super::*;

    fn frame(size: usize) -> SharedFrame {
        let payload = vec![0; size];
        SharedFrame::new(&Frame::new(MessageType(1), &payload), Priority::Normal)
    }

    /// Slots in two chunks, of which some are open.
    fn many(open: &[u32]) -> (Slots, Vec<PeerId>) {
        let ledger = Arc::new(Ledger::new(1 << 30, Traffic::new(1, 1)));
        let limits = OutboxLimits {
            bytes: BYTES,
            messages: MESSAGES,
            payload_size: 1 << 20,
        };
        let slots = Slots::new(0, 300, limits, ledger, Clock::start());
        let peers = open.iter().map(|index| slots.open(*index).unwrap());
        let peers = peers.collect();
        (slots, peers)
    }

    #[test]
    fn everybody_gets_it_or_is_named() {
        let (slots, peers) = many(&[0, 1, 2, 63, 64, 65, 127]);
        let (addr, link) = (slots.addr(peers[0]), None);
        // Not admitted, gone, closing, full, and not taking as much.
        slots.open_for(3, About { addr, link }).unwrap();
        close(&slots, peers[1]);
        slots.close_if_drained(peers[2]).unwrap();
        while send(&slots, peers[3], 1).is_ok() {}
        slots.admit(peers[4], 5);
        let report = slots.broadcast(Ok(&frame(6)), Recipients::All);
        assert_eq!(report.sent, [peers[0], peers[5], peers[6]]);
        let too_large = SendError::TooLarge { size: 6, limit: 5 };
        let skipped = [
            (peers[2], SendError::Closing),
            (peers[3], SendError::Full),
            (peers[4], too_large),
        ];
        assert_eq!(report.skipped, skipped);
        assert_eq!(slots.queued(peers[6]), Traffic::new(1, 14));
        let but = Recipients::AllBut(peers[0]);
        let report = slots.broadcast(Ok(&frame(5)), but);
        assert_eq!(report.sent, [peers[4], peers[5], peers[6]]);
        let list = [peers[6], peers[1], peers[6]];
        let report = slots.broadcast(Ok(&frame(5)), Recipients::from(&list));
        assert_eq!(report.sent, [peers[6], peers[6]]);
        assert_eq!(report.skipped, [(peers[1], SendError::NotConnected)]);
        let reserved = SendError::ReservedType(MessageType::BYE);
        let report = slots.broadcast(Err(reserved), Recipients::from(&[peers[0]]));
        assert_eq!(report.skipped, [(peers[0], reserved)]);
    }

    #[test]
    fn a_predicate_knows_the_peer_and_may_send() {
        let (slots, peers) = many(&[0, 1, 70]);
        let identity = Arc::new(PeerIdentity {
            node_id: NodeId([7; 16]),
            agent: "x".to_owned(),
            payload_size_max: 100,
            authenticated: false,
        });
        slots.set_identity(peers[2], &identity).unwrap();
        send(&slots, peers[1], 12).unwrap();
        let seen = Mutex::new(Vec::new());
        let matches = |info: &PeerInfo| {
            seen.lock().unwrap().push(info.clone());
            send(&slots, info.peer, 3).unwrap();
            info.queued.messages == 0
        };
        let report = slots.broadcast(Ok(&frame(1)), Recipients::Matching(&matches));
        assert_eq!(report.sent, [peers[0], peers[2]]);
        let seen = seen.into_inner().unwrap();
        assert_eq!(seen[1].queued, Traffic::new(1, 20));
        assert_eq!(seen[2].identity, Some(identity));
        assert_eq!(seen[0].addr, SocketAddr::from(([127, 0, 0, 1], 1)));
        assert_eq!(slots.queued(peers[2]), Traffic::new(2, 11 + 9));
    }

    /// The loop is rung once for all, and also if the predicate panics in the middle.
    #[test]
    fn the_loop_is_woken_once() {
        let (slots, peers) = many(&[0, 1, 2, 3]);
        let rings = Arc::new(AtomicU64::new(0));
        slots.doorbell.set_bell({
            let rings = Arc::clone(&rings);
            move || {
                rings.fetch_add(1, Ordering::Relaxed);
            }
        });
        slots.doorbell.prepare_sleep();
        slots.broadcast(Ok(&frame(1)), Recipients::All);
        assert_eq!(rings.load(Ordering::Relaxed), 1);
        while slots.poll_dirty().is_some() {}
        slots.doorbell.prepare_sleep();
        let last = peers[3];
        let matches = |info: &PeerInfo| info.peer != last || panic!("a defect of the embedder");
        let call = || slots.broadcast(Ok(&frame(1)), Recipients::Matching(&matches));
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(call)).is_err());
        assert_eq!(rings.load(Ordering::Relaxed), 2);
        assert_eq!(slots.poll_dirty(), Some(0));
    }

    #[test]
    fn the_loop_waits_for_no_slot() {
        let (slots, peers) = many(&[0, 1]);
        let report = thread::scope(|scope| {
            let on_loop = scope.spawn(|| {
                Slots::set_loop_thread();
                let locked = slots.slot_at(0).unwrap().lock();
                let report = slots.broadcast(Ok(&frame(1)), Recipients::All);
                drop(locked);
                report
            });
            on_loop.join().unwrap()
        });
        assert_eq!(report.sent, [peers[1]]);
        assert_eq!(report.skipped, [(peers[0], SendError::Full)]);
    }

    /// Where nothing waits the frame is shared; short ones behind others are copied into one piece.
    #[test]
    fn an_idle_peer_shares_the_frame() {
        let (slots, peers) = many(&[0, 1]);
        let (short, long) = (frame(256), frame(9_000));
        let segments = |frames: &[&SharedFrame], peer: PeerId| {
            for frame in frames {
                slots.broadcast(Ok(frame), Recipients::from(&[peer]));
            }
            let mut sizes = Vec::new();
            let out = |_, segment: Segment| {
                let start = segment.data.as_slice().as_ptr();
                sizes.push((start, segment.len(), segment.messages));
            };
            slots.take_tail(1, peer, Sums::default(), ALL, out).unwrap();
            sizes
        };
        let one = segments(&[&short], peers[0]);
        let other = segments(&[&short], peers[1]);
        assert_eq!(one, other, "the same bytes");
        let copied = segments(&[&short, &short, &short], peers[0]);
        assert_eq!(copied.iter().map(|one| one.2).collect::<Vec<_>>(), [3]);
        let mixed = segments(&[&short, &long, &short], peers[1]);
        assert_eq!(
            mixed.iter().map(|one| one.1).collect::<Vec<_>>(),
            [264, 9_008, 264]
        );
    }
}

/// What may happen to connections; the number picks one of the ids ever given out.
#[derive(Clone, Debug)]
enum Op {
    Open(u32),
    Close(usize),
    Send(usize),
    AskClose(usize),
    /// Credit and holds that come late.
    Late(usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (0_u32..3).prop_map(Op::Open),
        any::<usize>().prop_map(Op::Close),
        any::<usize>().prop_map(Op::Send),
        any::<usize>().prop_map(Op::AskClose),
        any::<usize>().prop_map(Op::Late),
    ]
}

proptest! {
    /// An id names its connection from its opening to its end, and never another one.
    #[test]
    fn ids_name_what_a_map_says(ops in prop::collection::vec(op(), 1..120)) {
        let slots = slots(1 << 30);
        let mut ids: Vec<PeerId> = Vec::new();
        // By index: the id of the connection, how many messages it was sent, and whether it may be.
        let mut open: BTreeMap<u32, (PeerId, u64, bool)> = BTreeMap::new();
        for op in ops {
            let picked = match op {
                Op::Open(index) if !open.contains_key(&index) => {
                    let id = slots.open(index).unwrap();
                    prop_assert!(!ids.contains(&id), "an id came twice");
                    ids.push(id);
                    open.insert(index, (id, 0, true));
                    continue;
                }
                Op::Open(_) => continue,
                Op::Close(pick) | Op::Send(pick) | Op::AskClose(pick) | Op::Late(pick) => pick,
            };
            let Some(id) = ids.get(picked % ids.len().max(1)).copied() else {
                continue;
            };
            let current = open.get_mut(&id.index()).filter(|(current, ..)| *current == id);
            match (op, current) {
                (Op::Close(_), Some((_, sent, _))) => {
                    prop_assert_eq!(close(&slots, id).accepted.messages, *sent);
                    open.remove(&id.index());
                }
                (Op::Send(_), Some((_, sent, true))) => {
                    let expected = if *sent < MESSAGES { Ok(()) } else { Err(SendError::Full) };
                    prop_assert_eq!(send(&slots, id, 1), expected);
                    *sent += u64::from(expected.is_ok());
                }
                (Op::Send(_), Some(_)) => {
                    prop_assert_eq!(send(&slots, id, 1), Err(SendError::Closing));
                }
                (Op::Send(_), None) => {
                    prop_assert_eq!(send(&slots, id, 1), Err(SendError::NotConnected));
                }
                (Op::AskClose(_), Some((_, _, may_send))) => {
                    prop_assert!(slots.ask_close(id));
                    *may_send = false;
                }
                (Op::AskClose(_), None) => prop_assert!(!slots.ask_close(id)),
                (Op::Late(_), None) => {
                    slots.release(id, Traffic::new(1, 1), 0);
                    slots.hold(id);
                }
                (Op::Close(_), None) | (Op::Late(_), Some(_)) | (Op::Open(_), _) => {}
            }
            for (current, sent, _) in open.values() {
                prop_assert_eq!(slots.queued(*current).messages, *sent);
                prop_assert_eq!(slots.released(*current), Traffic::default());
                prop_assert!(!slots.is_parked(*current));
            }
        }
    }
}
