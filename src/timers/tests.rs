//! Timers in virtual time: when they expire, what cancelling does at every stage, and a model.

use std::collections::BTreeMap;

use super::{queue::NANOS_PER_TICK, *};
use crate::{
    clock::{Clock, Tick},
    ledger::{Ledger, Traffic},
    limits::{TIMER_QUEUES_MAX, USER_TIMERS_MAX_CEILING},
    slots::OutboxLimits,
    wheel::Wheel,
};

const MS: u64 = NANOS_PER_TICK;

struct Bench {
    hub: Arc<TimerHub>,
    slots: Arc<Slots>,
    timers: Timers,
    table: TimerTable,
    wheel: Wheel<UserTimer>,
}

impl Bench {
    fn new(capacity: usize) -> Self {
        let ledger = Arc::new(Ledger::new(1 << 20, Traffic::new(1, 1)));
        let limits = OutboxLimits {
            bytes: 1,
            messages: 1,
            payload_size: 1,
        };
        let slots = Arc::new(Slots::new(0, 1, limits, ledger, Clock::start()));
        let hub = Arc::new(TimerHub::default());
        let timers = Timers::new(Arc::clone(&hub), Arc::clone(&slots), capacity).unwrap();
        Self {
            table: TimerTable::new(Arc::clone(&hub)),
            hub,
            slots,
            timers,
            wheel: Wheel::new(0),
        }
    }

    /// A turn of the loop.
    fn turn(&mut self, now: Tick) {
        self.table.handle_changes(&mut self.wheel);
        while let Some(expired) = self.wheel.poll(now) {
            self.table.fire(now, expired.value, &mut self.wheel);
        }
    }

    fn after(&self, due: u64) -> TimerId {
        self.timers.set_at(due, 0).unwrap()
    }

    fn every(&self, period: u64) -> TimerId {
        self.timers.set_at(period, period).unwrap()
    }

    fn fired(&self) -> Vec<(TimerId, u64)> {
        let fired = std::iter::from_fn(|| self.timers.try_recv().ok());
        fired.map(|fired| (fired.timer, fired.count)).collect()
    }
}

#[test]
fn a_timer_expires_once_and_not_early() {
    let mut bench = Bench::new(2);
    // Due within the tenth millisecond, so not before its end.
    let timer = bench.after(9 * MS + 1);
    bench.turn(9);
    assert_eq!(bench.fired(), []);
    bench.turn(10);
    assert_eq!(bench.timers.len(), 1);
    assert_eq!(bench.fired(), [(timer, 1)]);
    bench.turn(1000);
    assert_eq!(bench.fired(), []);
    assert!(!bench.timers.cancel(timer));
    assert!(bench.timers.is_empty() && bench.wheel.is_empty());
}

#[test]
fn a_period_does_not_drift_and_counts_what_was_not_taken() {
    let mut bench = Bench::new(1);
    let timer = bench.every(3 * MS / 2);
    let mut count = 0;
    for now in 1..=3000 {
        bench.turn(now);
        count += bench.fired().iter().map(|fired| fired.1).sum::<u64>();
        assert_eq!(count, now * 2 / 3);
    }
    // The process was held up.
    bench.turn(6000);
    assert_eq!(bench.fired(), [(timer, 2000)]);
    // Nobody takes for a while; it waits in the channel once.
    for now in 6001..=9000 {
        bench.turn(now);
    }
    assert_eq!(bench.timers.receiver.len(), 1);
    assert_eq!(bench.fired(), [(timer, 2000)]);
    assert!(bench.timers.cancel(timer));
    bench.turn(9001);
    assert!(bench.wheel.is_empty());
}

#[test]
fn cancelled_timers_come_out_no_more() {
    let mut bench = Bench::new(1);
    // Before the loop has seen it.
    let timer = bench.after(MS);
    assert!(bench.timers.cancel(timer) && !bench.timers.cancel(timer));
    bench.turn(1);
    assert!(bench.wheel.is_empty());
    // On the wheel.
    let timer = bench.after(5 * MS);
    bench.turn(2);
    assert!(bench.timers.cancel(timer));
    // Expired before the loop has seen the change.
    while let Some(expired) = bench.wheel.poll(5) {
        bench.table.fire(5, expired.value, &mut bench.wheel);
    }
    assert_eq!(bench.fired(), []);
    // Expired and in the channel; its place there serves the next one of the cell.
    let timer = bench.after(6 * MS);
    bench.turn(6);
    assert_eq!(bench.timers.receiver.len(), 1);
    assert!(bench.timers.cancel(timer));
    let next = bench.after(8 * MS);
    bench.turn(7);
    bench.turn(8);
    assert_eq!(bench.timers.receiver.len(), 1);
    assert_eq!(bench.fired(), [(next, 1)]);
    // Out of the channel and not opened yet.
    let timer = bench.after(9 * MS);
    bench.turn(9);
    let delivery = bench.timers.receiver.try_recv().unwrap();
    assert!(bench.timers.cancel(timer));
    assert_eq!(delivery.into_expired(), None);
}

/// What comes out of the channel and is not opened frees its place as if it had been taken.
#[test]
fn a_dropped_delivery_counts_as_taken() {
    let mut bench = Bench::new(1);
    bench.after(MS);
    bench.turn(1);
    drop(bench.timers.receiver.try_recv().unwrap());
    assert!(bench.timers.is_empty());
    let beat = bench.every(MS);
    bench.turn(2);
    drop(bench.timers.receiver.try_recv().unwrap());
    bench.turn(4);
    assert_eq!(bench.fired(), [(beat, 2)]);
}

#[test]
fn timers_are_bounded() {
    let mut bench = Bench::new(2);
    let first = bench.after(MS);
    bench.every(MS);
    let full = Err(TimerError::TooMany { limit: 2 });
    assert_eq!(bench.timers.after(Duration::ZERO), full);
    bench.turn(1);
    // It has expired, and is not taken.
    assert_eq!(bench.timers.after(Duration::ZERO), full);
    assert!(bench.fired().contains(&(first, 1)));
    assert!(bench.timers.after(Duration::ZERO).is_ok());
    assert_eq!(
        bench.timers.every(Duration::ZERO),
        Err(TimerError::Duration(Duration::ZERO))
    );
    assert!(bench.timers.after(Duration::MAX).is_err());
    for capacity in [0, USER_TIMERS_MAX_CEILING + 1] {
        let (hub, slots) = (Arc::clone(&bench.hub), Arc::clone(&bench.slots));
        assert!(Timers::new(hub, slots, capacity).is_err());
    }
    let more: Vec<Timers> = (1..TIMER_QUEUES_MAX)
        .map(|_| Timers::new(Arc::clone(&bench.hub), Arc::clone(&bench.slots), 1).unwrap())
        .collect();
    let (hub, slots) = (Arc::clone(&bench.hub), Arc::clone(&bench.slots));
    assert!(Timers::new(hub, slots, 1).is_err());
    drop(more);
    let (hub, slots) = (Arc::clone(&bench.hub), Arc::clone(&bench.slots));
    assert!(Timers::new(hub, slots, 1).is_ok());
}

#[test]
fn dropped_timers_leave_the_wheel() {
    let mut bench = Bench::new(10);
    let other = Timers::new(Arc::clone(&bench.hub), Arc::clone(&bench.slots), 10).unwrap();
    other.set_at(10 * MS, 0).unwrap();
    other.set_at(MS, MS).unwrap();
    let kept = bench.after(20 * MS);
    bench.turn(5);
    assert_eq!(bench.wheel.len(), 3);
    drop(other);
    // Some expire before the loop has seen it.
    while let Some(expired) = bench.wheel.poll(10) {
        bench.table.fire(10, expired.value, &mut bench.wheel);
    }
    bench.turn(11);
    assert_eq!(bench.wheel.len(), 1);
    assert!(bench.timers.cancel(kept));
}

/// Somebody holds the mutex: the loop comes back in its next turn, and is told to.
#[test]
fn the_loop_does_not_wait() {
    let mut bench = Bench::new(2);
    let timer = bench.after(MS);
    let queue = Arc::clone(&bench.timers.set.queue);
    let locked = queue.lock();
    bench.turn(1);
    drop(locked);
    assert!(bench.table.has_changes() && bench.wheel.is_empty());
    let hub = Arc::clone(&bench.hub);
    let locked = hub.lock();
    bench.turn(1);
    drop(locked);
    assert!(bench.table.has_changes());
    bench.turn(1);
    assert_eq!(bench.fired(), [(timer, 1)]);
}

#[test]
fn the_end_leaves_what_has_expired() {
    let mut bench = Bench::new(2);
    let timer = bench.after(MS);
    bench.every(2 * MS);
    bench.turn(1);
    let Bench {
        hub,
        slots,
        timers,
        table,
        ..
    } = bench;
    drop(table);
    hub.close();
    assert_eq!(timers.recv(), Ok(TimerExpired { timer, count: 1 }));
    assert_eq!(timers.recv(), Err(RecvError));
    assert_eq!(timers.try_recv(), Err(TryRecvError::Disconnected));
    assert_eq!(timers.after(Duration::ZERO), Err(TimerError::Stopped));
    assert_eq!(Timers::new(hub, slots, 1).err(), Some(TimerError::Stopped));
}

/// Many timers at once are taken in over several turns.
#[test]
fn changes_have_a_budget() {
    let count = crate::limits::COMMANDS_PER_TURN + 10;
    let mut bench = Bench::new(count);
    for _ in 0..count {
        bench.after(MS);
    }
    bench.turn(0);
    assert!(bench.wheel.len() < count && bench.table.has_changes());
    bench.turn(0);
    assert_eq!(bench.wheel.len(), count);
    bench.turn(1);
    assert_eq!(bench.fired().len(), count);
}

/// Random operations against a table of what every timer is to do.
#[test]
fn timers_do_what_a_list_does() {
    let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
    let mut random = move |bound: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % bound
    };
    let mut bench = Bench::new(8);
    // Due, period, and how many expiries were taken.
    let mut model: BTreeMap<TimerId, (u64, u64, u64)> = BTreeMap::new();
    let mut now = 0;
    for _ in 0..50_000 {
        match random(10) {
            0..=2 => {
                let due = now * MS + random(20 * MS);
                let period = random(2) * (1 + random(7 * MS));
                match bench.timers.set_at(due, period) {
                    Ok(timer) => assert!(model.insert(timer, (due, period, 0)).is_none()),
                    Err(_) => assert_eq!(model.len(), 8),
                }
            }
            3 => {
                let place = usize::try_from(random(8)).unwrap();
                if let Some(timer) = model.keys().nth(place).copied() {
                    model.remove(&timer);
                    assert!(bench.timers.cancel(timer));
                }
            }
            4..=6 => {
                now += random(10);
                bench.turn(now);
            }
            _ => {
                bench.turn(now);
                let mut fired: BTreeMap<TimerId, u64> = bench.fired().into_iter().collect();
                model.retain(|timer, (due, period, taken)| {
                    let all = match (now * MS).checked_sub(*due) {
                        None => 0,
                        Some(_) if *period == 0 => 1,
                        Some(over) => over / *period + 1,
                    };
                    let count = fired.remove(timer).unwrap_or(0);
                    assert_eq!(count, all - *taken, "{timer} at {now}");
                    *taken = all;
                    *period > 0 || all == 0
                });
                assert!(fired.is_empty(), "{fired:?} of no timer");
            }
        }
        assert_eq!(bench.timers.len(), model.len());
        assert!(bench.wheel.len() <= 8);
    }
}
