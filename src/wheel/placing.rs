//! Where a timer lies: among those that are due, in a slot of a level, or among the far ones.

use super::{
    Wheel,
    level::{self, Occupied, Place},
    list::List,
};

impl<T> Wheel<T> {
    /// Puts a timer that is in no list where its deadline belongs, behind all others there.
    pub(super) fn link(&mut self, index: u32, deadline: u64) {
        match Place::of(self.position, deadline) {
            Place::Due => self.due.push_back(&mut self.timers, index),
            Place::Slot { level, slot } => {
                self.levels
                    .push_back(&mut self.timers, (level, slot), index);
            }
            Place::Far => {
                self.far.push_back(&mut self.timers, index);
                self.far_epoch = self.far_epoch.min(level::epoch(deadline));
            }
        }
    }

    /// Takes a timer out of the list in which its deadline put it.
    pub(super) fn unlink(&mut self, index: u32, deadline: u64) {
        match Place::of(self.position, deadline) {
            Place::Due => self.due.unlink(&mut self.timers, index),
            Place::Slot { level, slot } => {
                self.levels.unlink(&mut self.timers, (level, slot), index);
            }
            Place::Far => {
                self.far.unlink(&mut self.timers, index);
                if self.far.is_empty() {
                    self.far_epoch = u64::MAX;
                }
            }
        }
    }

    /// Moves the position to the start of a slot and the slot's timers to where they belong then.
    pub(super) fn enter_slot(&mut self, Occupied { level, slot, start }: Occupied) {
        debug_assert!(self.due.is_empty() && self.position < start && start <= self.now);
        let list = self.levels.take(level, slot);
        self.position = start;
        if level == 0 {
            // The slot is one tick wide, so all of it is due, in the right order already.
            self.due = list;
        } else {
            self.relink(list);
        }
    }

    /// Moves the position to the start of an epoch, and the timers of that epoch out of `far`.
    pub(super) fn enter_epoch(&mut self, epoch: u64) {
        debug_assert!(self.due.is_empty() && level::epoch(self.position) < epoch);
        let list = std::mem::replace(&mut self.far, List::EMPTY);
        self.position = level::epoch_start(epoch);
        self.far_epoch = u64::MAX;
        self.relink(list);
    }

    /// Links the timers of a list that was taken from its place, from first to last, so that those
    /// of one deadline keep their order.
    pub(super) fn relink(&mut self, list: List) {
        let mut rest = list.head();
        while let Some(index) = rest {
            rest = List::after(&self.timers, index);
            self.link(index, self.timers[index as usize].deadline);
        }
    }
}
