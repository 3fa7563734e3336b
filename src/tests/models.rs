//! Models of what the loop and other threads agree on without waiting for each other: each is run
//! through every order of steps, and of what a thread may see of the other's, that the memory model
//! allows. Whoever is not woken is a deadlock, which the model reports.
//!
//! `RUSTFLAGS="--cfg nebnet_loom" cargo test --release --lib models::` runs them.

use std::sync::Arc;

use loom::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use crate::{
    block::{BlockHead, BlockPool},
    clock::Clock,
    dispatch::{DispatchQueue, Item, Poke, PushError, channel::Receiver},
    doorbell::Doorbell,
    event::Event,
    frame::{Frame, encode_whole},
    id::{MessageType, PeerId},
    ledger::{Ledger, Traffic},
    slots::{OutFrame, OutboxLimits, Refusals, Slots, Sums, Take},
    sync::model::{Bell, explore},
    timers::{TimerHub, TimerTable, Timers, UserTimer},
    wheel::Wheel,
};

/// A bell that a sleeping loop hears.
fn hang_bell(doorbell: &Doorbell) -> Arc<Bell> {
    let bell = Arc::new(Bell::default());
    let rings = Arc::clone(&bell);
    doorbell.set_bell(move || rings.ring());
    bell
}

/// As `EventLoop::poll` does it.
fn sleep_unless(doorbell: &Doorbell, bell: &Bell, has_work: impl Fn() -> bool) {
    doorbell.prepare_sleep();
    if !has_work() {
        bell.wait();
    }
    doorbell.awake();
}

/// One connection with a budget of 100 bytes and an outbox of one message.
fn slots() -> (Arc<Slots>, PeerId, Arc<Bell>) {
    let ledger = Arc::new(Ledger::new(100 << 10, Traffic::new(1, 1)));
    let limits = OutboxLimits {
        bytes: 1 << 10,
        messages: 1,
        payload_size: 1 << 10,
    };
    let slots = Arc::new(Slots::new(0, 1, limits, ledger, Clock::start()));
    let bell = hang_bell(&slots.doorbell);
    let peer = slots.open(0).unwrap();
    (slots, peer, bell)
}

fn send(slots: &Slots, peer: PeerId) -> bool {
    let frame = Frame::new(MessageType(1), b"");
    slots.send(peer, OutFrame { frame, owned: None }).is_ok()
}

/// What the loop does with a slot that is marked dirty: true unless its lock was taken.
fn take_tail(slots: &Slots, peer: PeerId, seen: &mut Sums) -> bool {
    let Ok(taken) = slots.take_tail(0, peer, *seen, Take::Last, |_, _| {}) else {
        return false;
    };
    seen.add(taken.sums);
    true
}

#[test]
fn whoever_rings_after_leaving_work_is_heard() {
    explore(Some(3), || {
        let doorbell = Arc::new(Doorbell::default());
        let bell = hang_bell(&doorbell);
        let work = Arc::new(AtomicUsize::new(0));
        let ringers = [(); 2].map(|()| {
            let (doorbell, work) = (Arc::clone(&doorbell), Arc::clone(&work));
            thread::spawn(move || {
                work.fetch_add(1, Ordering::Relaxed);
                doorbell.ring();
            })
        });
        let done = || work.load(Ordering::Relaxed) == 2;
        while !done() {
            sleep_unless(&doorbell, &bell, done);
        }
        for ringer in ringers {
            ringer.join().unwrap();
        }
    });
}

#[test]
fn a_send_during_the_look_at_a_slot_asks_again() {
    explore(Some(3), || {
        let (slots, peer, bell) = slots();
        let sender = thread::spawn({
            let slots = Arc::clone(&slots);
            move || assert!(send(&slots, peer))
        });
        let mut seen = Sums::default();
        let mut again = false;
        while seen.accepted.messages == 0 {
            while slots.poll_dirty().is_some() || std::mem::take(&mut again) {
                let taken = slots.take_tail(0, peer, seen, Take::Beside([0; 3]), |_, _| {});
                match taken {
                    Ok(taken) => seen.add(taken.sums),
                    Err(_) => again = true,
                }
                thread::yield_now();
            }
            if seen.accepted.messages == 0 {
                sleep_unless(&slots.doorbell, &bell, || slots.has_dirty());
            }
        }
        sender.join().unwrap();
    });
}

#[test]
fn who_waits_for_room_is_told_of_it() {
    explore(Some(3), || {
        let (slots, peer, _bell) = slots();
        assert!(send(&slots, peer));
        let sender = thread::spawn({
            let slots = Arc::clone(&slots);
            // As `Handle::send_timeout` does it.
            move || {
                let mut waiting = false;
                while !send(&slots, peer) {
                    if waiting {
                        Slots::park(std::time::Duration::ZERO);
                    }
                    waiting = slots.wait_for_room(peer);
                }
                if waiting {
                    slots.forget_waiter(peer);
                }
            }
        });
        let one = Traffic::new(1, 8);
        if slots.add_written(peer, one) {
            while !slots.notify_room(peer.index()) {
                thread::yield_now();
            }
        }
        sender.join().unwrap();
    });
}

#[test]
fn who_was_refused_is_seen_behind_the_write_or_asks() {
    explore(Some(3), || {
        let (slots, peer, bell) = slots();
        slots.event_subscribers.fetch_add(1, Ordering::SeqCst);
        assert!(send(&slots, peer));
        assert_eq!(slots.poll_dirty(), Some(0));
        let sender = thread::spawn({
            let slots = Arc::clone(&slots);
            move || !send(&slots, peer)
        });
        slots.add_written(peer, Traffic::new(1, 8));
        let mut told = false;
        let look = || {
            let (queued, why) = slots.fill(peer);
            if why.is_empty() || !slots.limits().is_low(queued) {
                return false;
            }
            slots.forget_refusals(peer, Refusals::OUTBOX);
            slots.forget_refusals(peer, Refusals::NOT_EMPTY);
            true
        };
        told |= look();
        // Whether it was accepted or refused, the loop hears of it.
        while !told && slots.poll_dirty().is_none() {
            sleep_unless(&slots.doorbell, &bell, || slots.has_dirty());
        }
        told |= look();
        let refused = sender.join().unwrap();
        assert!(
            told || !refused,
            "a refused sender was not told of the room"
        );
    });
}

#[test]
fn a_paused_peer_is_read_again_when_its_credit_is_back() {
    explore(Some(3), || {
        let (slots, peer, bell) = slots();
        let all = Traffic::new(2, 20);
        let subscribers = [(); 2].map(|()| {
            let slots = Arc::clone(&slots);
            thread::spawn(move || slots.release(peer, Traffic::new(1, 10), 0))
        });
        // As `Common::reconsider_reading` does it: it may see too little, and then pauses anew.
        while slots.released(peer) != all {
            let pauses = slots.pause(peer, all);
            while pauses && slots.poll_dirty().is_none() {
                sleep_unless(&slots.doorbell, &bell, || slots.has_dirty());
            }
        }
        for subscriber in subscribers {
            subscriber.join().unwrap();
        }
    });
}

#[test]
fn a_held_peer_is_read_again_when_it_is_let_go() {
    explore(None, || {
        let (slots, peer, bell) = slots();
        slots.hold(peer);
        let dispatcher = thread::spawn({
            let slots = Arc::clone(&slots);
            move || slots.unhold(peer)
        });
        while slots.is_parked(peer) {
            sleep_unless(&slots.doorbell, &bell, || slots.has_dirty());
            slots.poll_dirty();
        }
        dispatcher.join().unwrap();
    });
}

/// The last to let a block go gives its credit back, once, and nobody before.
#[test]
fn a_block_is_given_back_once_by_the_last() {
    explore(Some(3), || {
        let (slots, peer, _bell) = slots();
        let mut bytes = Vec::new();
        encode_whole(&Frame::new(MessageType(1), b""), &mut bytes);
        let credit = Traffic::new(1, bytes.len() as u64);
        let head = BlockHead {
            peer,
            received: slots.clock.now().instant,
            frames: 1,
            message_type: None,
            has_protocol: false,
            has_correlation: false,
            frame_size: None,
            credit,
        };
        let mut pool = BlockPool::new(Arc::clone(&slots));
        let block = pool.make(&mut bytes, 0, 8, head);
        let holder = thread::spawn({
            let block = block.clone();
            move || drop(block.clone())
        });
        assert_eq!(slots.released(peer), Traffic::default());
        drop(block);
        holder.join().unwrap();
        assert_eq!(slots.released(peer), credit);
        assert_eq!(slots.ledger.budget.used(), 0);
    });
}

#[test]
fn reading_goes_on_when_the_budget_has_room() {
    explore(Some(3), || {
        let (slots, peer, bell) = slots();
        slots.ledger.budget.charge(100 << 10);
        // One of them held something of a connection that has ended.
        let ended = PeerId::new(0, 0, u32::MAX);
        let holders = [(peer, 10 << 10), (ended, 40 << 10)].map(|(peer, bytes)| {
            let slots = Arc::clone(&slots);
            thread::spawn(move || slots.release(peer, Traffic::default(), bytes))
        });
        while slots.wait_for_budget() {
            let budget = &slots.ledger.budget;
            sleep_unless(&slots.doorbell, &bell, || !budget.is_tight());
        }
        for holder in holders {
            holder.join().unwrap();
        }
    });
}

fn queue(events_max: usize) -> (DispatchQueue, Receiver<Item>) {
    let ledger = Arc::new(Ledger::new(1 << 20, Traffic::new(1, 1)));
    let (queue, items) = DispatchQueue::new(ledger);
    (queue.with_events_max(events_max), items)
}

fn event() -> Item {
    let peer = PeerId::new(0, 0, 1);
    Item::Event(Box::new(Event::Resumed { peer }))
}

#[test]
fn a_loop_that_found_the_queue_full_learns_of_room() {
    explore(Some(3), || {
        let (queue, mut items) = queue(1);
        let doorbell = Arc::new(Doorbell::default());
        let bell = hang_bell(&doorbell);
        let dispatcher = thread::spawn({
            let (bounds, doorbell) = (queue.bounds().clone(), Arc::clone(&doorbell));
            move || {
                for _ in 0..2 {
                    items.recv().unwrap();
                    bounds.lower_event(&doorbell);
                }
            }
        });
        for _ in 0..2 {
            // As `EventLoop::push_waiting` does it, and then `EventLoop::poll`.
            let mut waiting = event();
            loop {
                let Err(PushError::Full(item)) = queue.push(waiting) else {
                    break;
                };
                queue.bounds().wait_for_room();
                let Err(PushError::Full(item)) = queue.push(item) else {
                    break;
                };
                waiting = item;
                let has_room = || queue.bounds().has_room_for_event();
                sleep_unless(&doorbell, &bell, has_room);
            }
        }
        dispatcher.join().unwrap();
    });
}

#[test]
fn a_loop_that_waits_for_its_end_learns_of_the_last_block() {
    explore(Some(3), || {
        let ledger = Arc::new(Ledger::new(1 << 20, Traffic::new(9, 9)));
        let (queue, _items) = DispatchQueue::new(Arc::clone(&ledger));
        let doorbell = Arc::new(Doorbell::default());
        let bell = hang_bell(&doorbell);
        let block = Traffic::new(1, 1);
        ledger.dispatch_queue.raise(Traffic::new(2, 2));
        let dispatcher = thread::spawn({
            let (bounds, doorbell) = (queue.bounds().clone(), Arc::clone(&doorbell));
            move || {
                for _ in 0..2 {
                    bounds.lower(block, &doorbell);
                }
            }
        });
        // As `EventLoop::may_end` does it, and then `EventLoop::poll`.
        while !queue.bounds().is_empty() {
            queue.bounds().wait_for_end();
            sleep_unless(&doorbell, &bell, || queue.bounds().is_empty());
        }
        dispatcher.join().unwrap();
    });
}

#[test]
fn a_poke_reaches_a_dispatcher_that_waits_or_works() {
    explore(None, || {
        let (queue, mut items) = queue(4);
        let poke = Arc::new(Poke::default());
        poke.set_wake(queue.waker());
        queue.push(event()).unwrap();
        let poker = thread::spawn({
            let poke = Arc::clone(&poke);
            move || poke.poke()
        });
        // As `Worker::run` does it.
        loop {
            items.recv().unwrap();
            if poke.take() {
                break;
            }
        }
        poker.join().unwrap();
    });
}

struct Alarms {
    slots: Arc<Slots>,
    bell: Arc<Bell>,
    timers: Timers,
    table: TimerTable,
    wheel: Wheel<UserTimer>,
}

impl Alarms {
    fn new() -> Self {
        let (slots, _, bell) = slots();
        let hub = Arc::new(TimerHub::default());
        Self {
            timers: Timers::new(Arc::clone(&hub), Arc::clone(&slots), 2).unwrap(),
            table: TimerTable::new(hub),
            slots,
            bell,
            wheel: Wheel::new(0),
        }
    }
}

#[test]
fn a_timer_set_while_the_loop_looks_is_on_the_wheel() {
    explore(Some(3), || {
        let Alarms {
            slots,
            bell,
            timers,
            mut table,
            mut wheel,
        } = Alarms::new();
        let setter = thread::spawn(move || {
            let timer = timers.set_at(1_000_000, 0).unwrap();
            timers.set_at(2_000_000, 0).unwrap();
            assert!(timers.cancel(timer));
            timers
        });
        // The second timer alone is left in the end.
        loop {
            table.handle_changes(&mut wheel);
            if wheel.next_expiry() == Some(2) && wheel.len() == 1 {
                break;
            }
            if table.has_changes() {
                thread::yield_now();
            } else {
                sleep_unless(&slots.doorbell, &bell, || table.has_changes());
            }
        }
        drop(setter.join().unwrap());
    });
}

/// The loop finds the mutex taken by somebody who asks for nothing behind that.
#[test]
fn a_timer_set_before_another_is_taken_is_on_the_wheel() {
    explore(None, || {
        let Alarms {
            slots,
            bell,
            timers,
            mut table,
            mut wheel,
        } = Alarms::new();
        timers.set_at(1_000_000, 0).unwrap();
        table.handle_changes(&mut wheel);
        let expired = wheel.poll(1).unwrap();
        table.fire(1, expired.value, &mut wheel);
        let setter = thread::spawn(move || {
            timers.set_at(2_000_000, 0).unwrap();
            assert!(timers.try_recv().is_ok());
            timers
        });
        loop {
            table.handle_changes(&mut wheel);
            if wheel.next_expiry() == Some(2) {
                break;
            }
            if table.has_changes() {
                thread::yield_now();
            } else {
                sleep_unless(&slots.doorbell, &bell, || table.has_changes());
            }
        }
        drop(setter.join().unwrap());
    });
}

/// An expiry that is counted while the one before is being taken is in that count, or in the
/// channel again.
#[test]
fn an_expiry_during_a_take_is_not_lost() {
    explore(None, || {
        let Alarms {
            timers,
            mut table,
            mut wheel,
            ..
        } = Alarms::new();
        timers.set_at(1_000_000, 1_000_000).unwrap();
        table.handle_changes(&mut wheel);
        let mut turn = |now| {
            while let Some(expired) = wheel.poll(now) {
                table.fire(now, expired.value, &mut wheel);
            }
        };
        turn(1);
        let timers = Arc::new(timers);
        let taker = thread::spawn({
            let timers = Arc::clone(&timers);
            move || timers.try_recv().map_or(0, |fired| fired.count)
        });
        turn(2);
        let taken = taker.join().unwrap();
        let left: u64 = std::iter::from_fn(|| timers.try_recv().ok())
            .map(|fired| fired.count)
            .sum();
        assert_eq!(taken + left, 2);
    });
}

/// What is closed between the two looks is not sent to, and what is accepted is taken.
#[test]
fn a_send_beside_a_close_is_taken_or_refused() {
    explore(Some(3), || {
        let (slots, peer, _bell) = slots();
        let sender = thread::spawn({
            let slots = Arc::clone(&slots);
            move || u64::from(send(&slots, peer))
        });
        let mut seen = Sums::default();
        while !take_tail(&slots, peer, &mut seen) {
            thread::yield_now();
        }
        let mut bytes = 0;
        let closed = loop {
            let closed = slots.close(peer, seen, |_, segment| bytes += segment.len());
            match closed {
                Ok(sums) => break sums,
                Err(_) => thread::yield_now(),
            }
        };
        assert_eq!(
            (closed, bytes),
            ((Sums::default(), 0), 0),
            "nothing comes behind the last look"
        );
        assert_eq!(sender.join().unwrap(), seen.accepted.messages);
        assert_eq!(slots.ledger.budget.used(), 0);
    });
}
