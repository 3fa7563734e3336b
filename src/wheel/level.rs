//! Where a timer stands: the arithmetic of levels and slots, the slots, and their occupancy bits.
//!
//! A tick is read as a number in base [`SLOTS`]: one digit per level, the rest is its *epoch*. A
//! timer stands on the level of the highest digit in which its deadline differs from the wheel's
//! position, in the slot that this digit of the deadline names. Position and deadline agree above
//! that digit, and the deadline is later, so with `digit` taken on the timer's level:
//!
//! `digit(position) < slot == digit(deadline)`
//!
//! No slot at or before the position's own is ever occupied, so none is used for two turns at once:
//! the first occupied slot is the lowest set bit.

use slab::Slab;

use super::list::{List, Timer};

/// Bits of a tick that choose a slot on one level.
const SLOT_BITS: usize = 6;
/// Slots of a level: as many as a word of occupancy has bits.
pub(super) const SLOTS: usize = 1 << SLOT_BITS;
/// Levels. Each is [`SLOTS`] times as coarse as the one below.
pub(super) const LEVELS: usize = 6;
/// Bits of a tick that all levels together tell apart.
pub(super) const EPOCH_SHIFT: usize = shift(LEVELS);

const _: () = {
    assert!(SLOTS == u64::BITS as usize);
    // An epoch is shorter than the range of a tick, or the shifts below would overflow.
    assert!(EPOCH_SHIFT < u64::BITS as usize);
};

/// Where a timer belongs. It follows from position and deadline alone, so it is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// `deadline <= position`.
    Due,
    /// In the position's epoch, and later than the position.
    Slot { level: usize, slot: usize },
    /// `epoch(deadline) > epoch(position)`.
    Far,
}

impl Place {
    pub(super) fn of(position: u64, deadline: u64) -> Self {
        if deadline <= position {
            return Self::Due;
        }
        let level = (position ^ deadline).ilog2() as usize / SLOT_BITS;
        if level >= LEVELS {
            return Self::Far;
        }
        Self::Slot {
            level,
            slot: digit(deadline, level),
        }
    }
}

/// Number of whole turns of the top level before a tick.
pub(super) fn epoch(tick: u64) -> u64 {
    tick >> EPOCH_SHIFT
}

/// First tick of an epoch that some `u64` tick lies in.
pub(super) fn epoch_start(epoch: u64) -> u64 {
    epoch << EPOCH_SHIFT
}

/// Bits of a tick below the digit of a level.
const fn shift(level: usize) -> usize {
    SLOT_BITS * level
}

/// The slot that a tick names on a level.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the remainder is below SLOTS"
)]
fn digit(tick: u64, level: usize) -> usize {
    ((tick >> shift(level)) % SLOTS as u64) as usize
}

/// An occupied slot and the first tick that belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Occupied {
    pub(super) level: usize,
    pub(super) slot: usize,
    pub(super) start: u64,
}

/// The slots of all levels.
pub(super) struct Levels {
    /// Bit `s` of word `l` is set if and only if `slots[l][s]` is not empty. The words stand
    /// together so that a look for the next timer stays within one cache line.
    occupied: [u64; LEVELS],
    slots: [[List; SLOTS]; LEVELS],
}

impl Levels {
    pub(super) const EMPTY: Self = Self {
        occupied: [0; LEVELS],
        slots: [[List::EMPTY; SLOTS]; LEVELS],
    };

    pub(super) fn push_back<T>(
        &mut self,
        timers: &mut Slab<Timer<T>>,
        (level, slot): (usize, usize),
        index: u32,
    ) {
        self.slots[level][slot].push_back(timers, index);
        self.occupied[level] |= 1 << slot;
    }

    pub(super) fn unlink<T>(
        &mut self,
        timers: &mut Slab<Timer<T>>,
        (level, slot): (usize, usize),
        index: u32,
    ) {
        let list = &mut self.slots[level][slot];
        list.unlink(timers, index);
        if list.is_empty() {
            self.occupied[level] &= !(1 << slot);
        }
    }

    /// Empties a slot and returns what was in it.
    pub(super) fn take(&mut self, level: usize, slot: usize) -> List {
        self.occupied[level] &= !(1 << slot);
        std::mem::replace(&mut self.slots[level][slot], List::EMPTY)
    }

    /// The occupied slot that starts first. All of a level lies before the next slot of the level
    /// above, so the lowest level that holds anything holds it.
    pub(super) fn first(&self, position: u64) -> Option<Occupied> {
        let level = self.occupied.iter().position(|&slots| slots != 0)?;
        let slot = self.occupied[level].trailing_zeros();
        let above = shift(level + 1);
        let start = (position >> above << above) | (u64::from(slot) << shift(level));
        Some(Occupied {
            level,
            slot: slot as usize,
            start,
        })
    }

    pub(super) fn list(&self, level: usize, slot: usize) -> List {
        self.slots[level][slot]
    }

    #[cfg(any(test, fuzzing))]
    pub(super) fn is_marked(&self, level: usize, slot: usize) -> bool {
        self.occupied[level] & (1 << slot) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_level_begins_where_the_one_below_ends() {
        for level in 0..LEVELS {
            let width = 1_u64 << shift(level);
            for slot in 1..SLOTS {
                let first = width * slot as u64;
                for deadline in [first, first + 1, first + width - 1] {
                    if level == 0 && deadline != first {
                        continue;
                    }
                    assert_eq!(
                        Place::of(0, deadline),
                        Place::Slot { level, slot },
                        "{deadline}"
                    );
                }
            }
        }
        let end = 1_u64 << EPOCH_SHIFT;
        assert_eq!(
            Place::of(0, end - 1),
            Place::Slot {
                level: LEVELS - 1,
                slot: SLOTS - 1
            }
        );
        assert_eq!(Place::of(0, end), Place::Far);
        assert_eq!(Place::of(0, u64::MAX), Place::Far);
        assert_eq!(Place::of(end - 1, end), Place::Far);
    }

    #[test]
    fn what_is_not_later_is_due() {
        for position in [0, 1, 63, 64, 1 << EPOCH_SHIFT, u64::MAX - 1, u64::MAX] {
            for deadline in [0, position / 2, position.saturating_sub(1), position] {
                assert_eq!(Place::of(position, deadline), Place::Due);
            }
        }
        assert_eq!(
            Place::of(u64::MAX - 1, u64::MAX),
            Place::Slot {
                level: 0,
                slot: SLOTS - 1
            }
        );
    }

    #[test]
    fn an_epoch_starts_at_its_own_start() {
        for tick in [0, 1, (1 << EPOCH_SHIFT) - 1, 1 << EPOCH_SHIFT, u64::MAX] {
            assert!(epoch_start(epoch(tick)) <= tick);
            assert_eq!(epoch(epoch_start(epoch(tick))), epoch(tick));
        }
    }

    #[test]
    fn the_table_in_the_docs_is_this_geometry() {
        assert_eq!((SLOTS, LEVELS, EPOCH_SHIFT), (64, 6, 36));
    }
}
