//! User timers in a run: set, cancelled and taken at random, never early, and none lost.

use std::{collections::BTreeMap, sync::Arc};

use super::{random::Random, world::World};
use crate::{
    clock::Tick,
    error::TryRecvError,
    slots::Slots,
    timers::{TimerHub, TimerId, Timers},
};

const NANOS_PER_MS: u64 = 1_000_000;

#[derive(Debug)]
pub(super) struct Alarms {
    timers: Timers,
    /// When each expires first, its period, and how often it was taken.
    set: BTreeMap<TimerId, (u64, u64, u64)>,
}

impl Alarms {
    pub(super) fn new(hub: &Arc<TimerHub>, slots: &Arc<Slots>, capacity: usize) -> Self {
        let timers = Timers::new(Arc::clone(hub), Arc::clone(slots), capacity).unwrap();
        Self {
            timers,
            set: BTreeMap::new(),
        }
    }

    /// Does something, once in a while.
    pub(super) fn act(&mut self, now: Tick, random: &mut Random) {
        match random.below(60) {
            0 => {
                let due = now * NANOS_PER_MS + random.below(30_000_000_000) as u64;
                let period = random.pick(&[0, 0, 700_000, 90_500_000, 3_000_000_000]);
                if let Ok(timer) = self.timers.set_at(due, period) {
                    self.set.insert(timer, (due, period, 0));
                }
            }
            1 => {
                let place = random.below(self.set.len());
                if let Some(timer) = self.set.keys().nth(place).copied() {
                    self.set.remove(&timer);
                    assert!(self.timers.cancel(timer));
                }
            }
            2..=9 => self.take(now),
            _ => {}
        }
        assert_eq!(self.timers.len(), self.set.len());
    }

    fn take(&mut self, now: Tick) {
        while let Ok(fired) = self.timers.try_recv() {
            let timer = self.set.get_mut(&fired.timer).expect("it is set");
            timer.2 += fired.count;
            assert!(fired.count > 0 && timer.2 <= due_until(now, timer.0, timer.1));
            if timer.1 == 0 {
                self.set.remove(&fired.timer);
            }
        }
    }

    /// The loop has just looked at its timers for the last time, and ended.
    pub(super) fn check_end(&mut self, world: &World) {
        self.take(world.now);
        for (timer, (due, period, taken)) in &self.set {
            let all = due_until(world.now, *due, *period);
            assert_eq!(*taken, all, "{timer} was due {due} and every {period}");
        }
        assert_eq!(self.timers.try_recv(), Err(TryRecvError::Disconnected));
    }
}

/// How often a timer has expired.
fn due_until(now: Tick, due: u64, period: u64) -> u64 {
    match (now * NANOS_PER_MS).checked_sub(due) {
        None => 0,
        Some(_) if period == 0 => 1,
        Some(over) => over / period + 1,
    }
}
