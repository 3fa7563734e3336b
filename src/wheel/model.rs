//! The wheel beside what it is to be, a sorted map, with operations as data: for the property
//! tests, and for fuzzers.

use std::collections::BTreeMap;

use super::level::{EPOCH_SHIFT, LEVELS, Place, SLOTS, epoch};
use super::list::List;
use super::{Expired, TimerKey, Wheel};
use crate::script::Script;

/// Start times at which sums, shifts or casts might go wrong.
pub(crate) const STARTS: [u64; 9] = [
    0,
    1,
    63,
    (1 << 32) - 3,
    (1 << EPOCH_SHIFT) - 2,
    (1 << 53) - 1,
    u64::MAX / 2,
    u64::MAX - (1 << 20),
    u64::MAX - 1,
];

/// Any operations, from a start of any kind: the wheel does what the map does, and keeps its
/// invariants after each.
pub(crate) fn wheel(data: &[u8]) {
    let mut script = Script::new(data);
    let start = script.pick(&STARTS);
    let offset = script.number() >> 20;
    let start = match script.flag() {
        true => start.saturating_add(offset),
        false => start.saturating_sub(offset),
    };
    let mut pair = Pair::new(start);
    for _ in 0..OPS_MAX {
        if script.is_empty() {
            break;
        }
        pair.apply(&Op::drawn(&mut script));
    }
    pair.drain();
}

/// Every timer ever set is remembered, so a script is not followed for ever.
const OPS_MAX: usize = 400;

/// Every timer is in the one list that its deadline names, links run both ways, bits and bounds
/// say what is there.
#[track_caller]
pub(crate) fn check_invariants<T>(wheel: &Wheel<T>) {
    let walk = |list: List, place: Place| {
        let (mut count, mut at) = (0, list.head());
        while let Some(index) = at {
            let timer = &wheel.timers[index as usize];
            assert_eq!(Place::of(wheel.position, timer.deadline), place);
            assert!(timer.generation < wheel.generation);
            if place == Place::Far {
                assert!(wheel.far_epoch <= epoch(timer.deadline));
            }
            at = List::after(&wheel.timers, index);
            count += 1;
            assert!(count <= wheel.len(), "a list has a cycle");
        }
        assert_eq!(list.only().is_some(), count == 1);
        count
    };
    let mut count = walk(wheel.due, Place::Due) + walk(wheel.far, Place::Far);
    for level in 0..LEVELS {
        for slot in 0..SLOTS {
            let list = wheel.levels.list(level, slot);
            assert_eq!(wheel.levels.is_marked(level, slot), !list.is_empty());
            count += walk(list, Place::Slot { level, slot });
        }
    }
    assert_eq!(count, wheel.len());
    assert!(wheel.position <= wheel.now);
    if wheel.far.is_empty() {
        assert_eq!(wheel.far_epoch, u64::MAX);
    } else {
        assert!(wheel.far_epoch > epoch(wheel.position));
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Op {
    /// Sets a timer this long after now.
    Insert(u64),
    /// Sets a timer this long before now.
    InsertPassed(u64),
    /// Cancels one of the keys ever given out, so stale ones too.
    Cancel(usize),
    /// Moves one of the keys ever given out to this long after now.
    Rearm(usize, u64),
    /// Moves the time this far and polls until nothing is left.
    Advance(u64),
    /// Moves the time this far and polls so often at most: a turn that ran out of its allowance.
    AdvanceAtMost(u64, usize),
    /// As `Advance`, but the first timers to fire are set again this long after their deadline.
    AdvanceRearming(u64, u64),
    /// Polls at the next expiry, as a loop would that sleeps until then.
    AdvanceToNext,
    /// Polls with a time that lies back.
    StepBack(u64),
    Clear,
}

impl Op {
    /// The next operation of a script.
    fn drawn(script: &mut Script<'_>) -> Self {
        match script.below(16) {
            0..=3 => Self::Insert(delay(script)),
            4 => Self::InsertPassed(delay(script)),
            5 => Self::Cancel(usize::from(script.byte())),
            6 => Self::Rearm(usize::from(script.byte()), delay(script)),
            7..=8 => Self::Advance(delay(script)),
            9 => Self::AdvanceAtMost(delay(script), script.below(4)),
            10..=11 => Self::AdvanceRearming(delay(script), delay(script)),
            12..=13 => Self::AdvanceToNext,
            14 => Self::StepBack(delay(script)),
            _ if script.below(8) == 0 => Self::Clear,
            _ => Self::Advance(1),
        }
    }
}

/// Any number, or one on the boundary of a level or beside it.
fn delay(script: &mut Script<'_>) -> u64 {
    match script.byte() {
        small @ 0..128 => u64::from(small),
        level @ 128..192 => {
            let width = 1_u64 << (6 * (usize::from(level) % (LEVELS + 2)));
            (width - 1).saturating_add(u64::from(level) / 8 % 3)
        }
        _ => script.number(),
    }
}

/// What the model knows of a timer.
struct Known {
    key: TimerKey,
    deadline: u64,
    /// Its place among the pending ones, if it is one.
    place: Option<(u64, u64)>,
}

/// The wheel beside what it is to be: a map sorted by the tick at which a timer falls due and the
/// order of setting.
pub(crate) struct Pair {
    wheel: Wheel<usize>,
    pending: BTreeMap<(u64, u64), usize>,
    /// By id, all that were ever inserted.
    timers: Vec<Known>,
    sequence: u64,
    /// The tick at which the last timer to fire fell due, or of the last `None`.
    position: u64,
    now: u64,
}

impl Pair {
    pub(crate) fn new(start: u64) -> Self {
        Self {
            wheel: Wheel::new(start),
            pending: BTreeMap::new(),
            timers: Vec::new(),
            sequence: 0,
            position: start,
            now: start,
        }
    }

    fn set(&mut self, deadline: u64, id: usize) -> (u64, u64) {
        let place = (deadline.max(self.position), self.sequence);
        self.sequence += 1;
        self.pending.insert(place, id);
        place
    }

    fn insert(&mut self, deadline: u64) {
        let id = self.timers.len();
        let key = self.wheel.insert(deadline, id);
        assert!(
            self.timers.iter().all(|known| known.key != key),
            "a key came twice"
        );
        let place = self.set(deadline, id);
        self.timers.push(Known {
            key,
            deadline,
            place: Some(place),
        });
    }

    fn cancel(&mut self, id: usize) {
        let Known {
            key,
            deadline,
            place,
        } = self.timers[id];
        assert_eq!(self.wheel.deadline(key), place.map(|_| deadline));
        assert_eq!(self.wheel.cancel(key), place.map(|_| id));
        if let Some(place) = place {
            self.pending.remove(&place);
            self.timers[id].place = None;
        }
    }

    fn rearm(&mut self, id: usize, deadline: u64) {
        let Known { key, place, .. } = self.timers[id];
        assert_eq!(self.wheel.rearm(key, deadline), place.is_some());
        if let Some(place) = place {
            self.pending.remove(&place);
            let place = self.set(deadline, id);
            self.timers[id] = Known {
                key,
                deadline,
                place: Some(place),
            };
        }
    }

    /// Polls both once; returns the id of the timer that fired.
    fn poll(&mut self, now: u64) -> Option<usize> {
        self.now = self.now.max(now);
        let expected = self
            .pending
            .first_entry()
            .filter(|first| first.key().0 <= self.now)
            .map(|first| first.remove_entry());
        let expired = self.wheel.poll(now);
        assert_eq!(self.wheel.now(), self.now);
        let Some(((due, _), id)) = expected else {
            assert_eq!(expired, None);
            self.position = self.now;
            assert!(
                self.wheel.next_expiry().is_none_or(|tick| tick > self.now),
                "no progress"
            );
            return None;
        };
        let Known { key, deadline, .. } = self.timers[id];
        assert_eq!(
            expired,
            Some(Expired {
                key,
                deadline,
                value: id
            })
        );
        assert!(deadline <= self.now, "early");
        self.position = due;
        self.timers[id].place = None;
        Some(id)
    }

    pub(crate) fn apply(&mut self, op: &Op) {
        match *op {
            Op::Insert(delay) => self.insert(self.now.saturating_add(delay)),
            Op::InsertPassed(ago) => self.insert(self.now.saturating_sub(ago)),
            Op::Cancel(pick) if !self.timers.is_empty() => self.cancel(pick % self.timers.len()),
            Op::Rearm(pick, delay) if !self.timers.is_empty() => {
                self.rearm(pick % self.timers.len(), self.now.saturating_add(delay));
            }
            Op::Cancel(_) | Op::Rearm(..) => {}
            Op::Advance(jump) => {
                let now = self.now.saturating_add(jump);
                while self.poll(now).is_some() {}
            }
            Op::AdvanceAtMost(jump, polls) => {
                let now = self.now.saturating_add(jump);
                for _ in 0..polls {
                    self.poll(now);
                }
            }
            Op::AdvanceRearming(jump, delay) => {
                let now = self.now.saturating_add(jump);
                let mut again = 8;
                while let Some(id) = self.poll(now) {
                    if again > 0 {
                        again -= 1;
                        self.insert(self.timers[id].deadline.saturating_add(delay));
                    }
                }
            }
            Op::AdvanceToNext => {
                if let Some(tick) = self.wheel.next_expiry() {
                    self.poll(tick);
                }
            }
            Op::StepBack(ago) => {
                self.poll(self.now.saturating_sub(ago));
            }
            Op::Clear => {
                self.wheel.clear();
                self.pending.clear();
                self.timers.iter_mut().for_each(|known| known.place = None);
            }
        }
        self.check();
    }

    fn check(&self) {
        check_invariants(&self.wheel);
        assert_eq!(self.wheel.len(), self.pending.len());
        assert_eq!(self.wheel.is_empty(), self.pending.is_empty());
        let next = self.wheel.next_expiry();
        assert_eq!(next.is_some(), !self.pending.is_empty());
        if let (Some(next), Some((&(due, _), _))) = (next, self.pending.first_key_value()) {
            assert!(next <= due, "the next expiry is late");
            assert!(next >= self.position);
        }
    }

    /// Polls only at the next expiry until the wheel is empty: no timer early, none late, and few
    /// polls in between.
    pub(crate) fn drain(&mut self) {
        let mut polls_empty = 0;
        while let Some(next) = self.wheel.next_expiry() {
            let now = self.now;
            if let Some(id) = self.poll(next) {
                assert_eq!(self.now, now.max(self.timers[id].deadline), "woken late");
                polls_empty = 0;
            } else {
                polls_empty += 1;
                assert!(polls_empty <= LEVELS + 1, "a busy loop");
            }
        }
        self.check();
    }
}
