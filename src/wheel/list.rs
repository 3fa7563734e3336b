//! Lists of timers, linked through the slab by index: a list is two numbers, and a timer leaves
//! the middle of one in constant time. Nothing here allocates.

use std::num::NonZeroU64;

use slab::Slab;

/// The index that stands for "no timer".
const NIL: u32 = u32::MAX;

/// A timer in the slab, with its place in exactly one list.
pub(super) struct Timer<T> {
    /// Differs from that of every other timer the wheel ever held. It is never zero, so that the
    /// slab can mark a vacant entry without a word of its own.
    pub(super) generation: NonZeroU64,
    pub(super) deadline: u64,
    prev: u32,
    next: u32,
    pub(super) value: T,
}

impl<T> Timer<T> {
    /// A timer that is in no list yet.
    pub(super) fn new(generation: NonZeroU64, deadline: u64, value: T) -> Self {
        Self {
            generation,
            deadline,
            prev: NIL,
            next: NIL,
            value,
        }
    }
}

/// First in, first out. `head == NIL` if and only if `tail == NIL`.
#[derive(Clone, Copy, Debug)]
pub(super) struct List {
    head: u32,
    tail: u32,
}

impl List {
    pub(super) const EMPTY: Self = Self {
        head: NIL,
        tail: NIL,
    };

    /// Appends a timer. Its old links are overwritten: it must be in no list, or in one that was
    /// taken apart.
    pub(super) fn push_back<T>(&mut self, timers: &mut Slab<Timer<T>>, index: u32) {
        let timer = &mut timers[index as usize];
        timer.prev = self.tail;
        timer.next = NIL;
        if self.tail == NIL {
            self.head = index;
        } else {
            timers[self.tail as usize].next = index;
        }
        self.tail = index;
    }

    /// Takes a timer of this list out of it.
    pub(super) fn unlink<T>(&mut self, timers: &mut Slab<Timer<T>>, index: u32) {
        let Timer { prev, next, .. } = timers[index as usize];
        if prev == NIL {
            self.head = next;
        } else {
            timers[prev as usize].next = next;
        }
        if next == NIL {
            self.tail = prev;
        } else {
            timers[next as usize].prev = prev;
        }
    }

    pub(super) fn is_empty(self) -> bool {
        self.head == NIL
    }

    pub(super) fn head(self) -> Option<u32> {
        (self.head != NIL).then_some(self.head)
    }

    /// The timer behind this one. Read it before the timer moves to another list.
    pub(super) fn after<T>(timers: &Slab<Timer<T>>, index: u32) -> Option<u32> {
        let next = timers[index as usize].next;
        (next != NIL).then_some(next)
    }

    /// The only timer of the list, if it holds exactly one.
    pub(super) fn only(self) -> Option<u32> {
        (self.head == self.tail)
            .then_some(self.head)
            .filter(|&index| index != NIL)
    }
}

/// Indices that a list can link; one value is [`NIL`].
pub(super) const TIMERS_MAX: usize = NIL as usize;

#[cfg(test)]
mod tests {
    use super::*;

    fn slab(count: u32) -> Slab<Timer<u32>> {
        (0..count)
            .map(|i| (i as usize, Timer::new(NonZeroU64::MIN, 0, i)))
            .collect()
    }

    /// The list from head to tail, after a check that the way back gives the same.
    #[track_caller]
    fn walk(list: List, timers: &Slab<Timer<u32>>) -> Vec<u32> {
        let (mut forth, mut back) = (Vec::new(), Vec::new());
        let mut at = list.head;
        while at != NIL {
            forth.push(at);
            at = timers[at as usize].next;
        }
        at = list.tail;
        while at != NIL {
            back.push(at);
            at = timers[at as usize].prev;
        }
        back.reverse();
        assert_eq!(forth, back);
        forth
    }

    #[test]
    fn a_timer_leaves_head_middle_and_tail() {
        for gone in 0..3 {
            let mut timers = slab(3);
            let mut list = List::EMPTY;
            for index in 0..3 {
                list.push_back(&mut timers, index);
            }
            list.unlink(&mut timers, gone);
            let rest: Vec<u32> = (0..3).filter(|&index| index != gone).collect();
            assert_eq!(walk(list, &timers), rest);
            list.push_back(&mut timers, gone);
            assert_eq!(walk(list, &timers), [rest, vec![gone]].concat());
        }
    }

    #[test]
    fn only_names_a_lone_timer() {
        let mut timers = slab(2);
        let mut list = List::EMPTY;
        assert_eq!((list.only(), list.head()), (None, None));
        list.push_back(&mut timers, 1);
        assert_eq!((list.only(), list.head()), (Some(1), Some(1)));
        list.push_back(&mut timers, 0);
        assert_eq!((list.only(), list.head()), (None, Some(1)));
        list.unlink(&mut timers, 1);
        assert_eq!(list.only(), Some(0));
        list.unlink(&mut timers, 0);
        assert!(list.is_empty() && list.only().is_none());
    }
}
