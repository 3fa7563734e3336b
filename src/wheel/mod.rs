//! A hierarchical timer wheel on plain ticks.
//!
//! It holds many deadlines, most of which are cancelled or moved before they come: a timer goes in,
//! out, or elsewhere in constant time, however many there are. It fires one timer per call, so that
//! the caller can stop after any of them and look at something else.
//!
//! The wheel reads no clock, starts no thread, calls nothing back and never sleeps. A tick is a
//! `u64` without a unit; the crate counts milliseconds. The wheel bounds neither the number of
//! timers nor the work of a [`poll`](Wheel::poll) loop: both are the caller's to bound.
//!
//! # Use
//!
//! Sleep until [`next_expiry`](Wheel::next_expiry), then call [`poll`](Wheel::poll) with the time
//! until it returns `None` or an allowance is used up.
//!
//! ```
//! use nebnet::wheel::Wheel;
//!
//! let mut wheel = Wheel::new(0);
//! let idle = wheel.insert(30_000, "idle");
//! wheel.insert(5_000, "first frame");
//! wheel.insert(5_000, "write stall");
//!
//! assert!(wheel.poll(4_999).is_none());
//! let mut fired = Vec::new();
//! while let Some(expired) = wheel.poll(5_000) {
//!     fired.push(expired.value);
//! }
//! assert_eq!(fired, ["first frame", "write stall"]);
//! assert_eq!(wheel.cancel(idle), Some("idle"));
//! assert_eq!(wheel.next_expiry(), None);
//! ```
//!
//! # Levels
//!
//! | level | a slot covers | the level covers |
//! |---|---|---|
//! | 0 | 1 tick | 64 ticks (64 ms) |
//! | 1 | 64 ticks | 2^12 ticks (4.1 s) |
//! | 2 | 2^12 ticks | 2^18 ticks (4 min 22 s) |
//! | 3 | 2^18 ticks | 2^24 ticks (4 h 40 min) |
//! | 4 | 2^24 ticks | 2^30 ticks (12.4 days) |
//! | 5 | 2^30 ticks | 2^36 ticks (2.2 years), an *epoch* |
//! | far list | later epochs | every `u64` |
//!
//! A timer stands on the lowest level that can tell its deadline from the present. When time enters
//! a slot above level 0, the slot's timers move to lower levels (a *cascade*); when it enters an
//! epoch, the far list is searched for timers of that epoch.
//!
//! # Invariants
//!
//! Between any two calls, with `position` the tick up to which the wheel has worked:
//!
//! - `position <= now()`, both never decrease, and they are equal after a `poll` that gave `None`.
//! - A timer is due if and only if `deadline <= position`; it fires if and only if it is due, so
//!   `deadline <= now()` whenever a timer fires: never early.
//! - The place of a timer is a function of `position` and `deadline`, so timers of one deadline are
//!   always in one list, in the order in which they were set.
//! - A bit of occupancy is set if and only if its slot holds a timer.
//!
//! # Cost
//!
//! | operation | time |
//! |---|---|
//! | `insert` | constant; now and then the slab doubles, which copies it (see `with_capacity`) |
//! | `cancel`, `rearm`, `deadline`, `next_expiry` | constant |
//! | `poll` | constant, plus the cascades that fall due (below) |
//!
//! A poll empties at most one slot of each level, and searches the far list at most twice. A
//! cascade takes time in proportion to the timers in the slot: over its life a timer moves at most
//! 6 times, but a million timers within one slot of a high level move in one call, which then waits
//! for memory at each of them. A search takes time in proportion to the far list; there is at most
//! one for each epoch that a far timer was set for. Ticks without a timer cost nothing: a jump of
//! the clock over any number of them takes as long as one over a few.
//!
//! # Memory
//!
//! The wheel itself takes about 3 KiB. A timer takes 24 bytes and its value, rounded up to the
//! alignment; the slab doubles when it is full and keeps its largest size, so the worst case is
//! twice that for the most timers ever held at once, and three times while it doubles.
//!
//! # Source
//!
//! G. Varghese and T. Lauck, "Hashed and Hierarchical Timing Wheels: Data Structures for the
//! Efficient Implementation of a Timer Facility", SOSP 1987, scheme 7. The choice of the level by
//! the highest differing digit keeps a slot from being used for two turns at once.

// In rising order: `key` and `list`, `level`, the wheel, `placing`, `model`.
mod key;
mod level;
mod list;
#[cfg(any(test, fuzzing))]
pub(crate) mod model;
mod placing;
#[cfg(test)]
mod tests;

use std::fmt;
use std::num::NonZeroU64;

use slab::Slab;

pub(crate) use key::TimerPlace;
pub use key::{Expired, TimerKey};
use level::Levels;
use list::{List, TIMERS_MAX, Timer};

/// Timers in the order of their deadlines; see the [module](self) for invariants and cost.
///
/// The calls come in this order: [`poll`](Self::poll) until `None` (or until enough was done), then
/// [`next_expiry`](Self::next_expiry) to learn how long to sleep. [`insert`](Self::insert),
/// [`cancel`](Self::cancel) and [`rearm`](Self::rearm) may come at any time, also between two polls
/// of one moment.
///
/// # Examples
///
/// ```
/// let mut wheel = nebnet::wheel::Wheel::new(100);
/// wheel.insert(107, "ping");
/// assert_eq!(wheel.next_expiry(), Some(107));
/// ```
pub struct Wheel<T> {
    timers: Slab<Timer<T>>,
    levels: Levels,
    /// Timers with `deadline <= position`, in the order in which they fire.
    due: List,
    /// Timers of later epochs than the position's.
    far: List,
    /// At most the epoch of every timer in `far`, and later than the position's. It is exact until
    /// a timer leaves `far` by request; `u64::MAX` if `far` is empty.
    far_epoch: u64,
    /// The tick up to which slots have been emptied.
    position: u64,
    /// The latest tick that a poll was given.
    now: u64,
    /// Generation of the next timer.
    generation: NonZeroU64,
}

impl<T> Wheel<T> {
    /// An empty wheel whose time is `now`. It allocates with the first timer.
    ///
    /// # Examples
    ///
    /// ```
    /// let wheel = nebnet::wheel::Wheel::<u32>::new(7);
    /// assert_eq!((wheel.now(), wheel.len()), (7, 0));
    /// ```
    pub fn new(now: u64) -> Self {
        Self::with_capacity(now, 0)
    }

    /// An empty wheel with storage for `timer_count` timers, so that an insert copies nothing until
    /// there are more.
    ///
    /// # Panics
    ///
    /// Panics if the storage would exceed `isize::MAX` bytes.
    ///
    /// # Examples
    ///
    /// ```
    /// let mut wheel = nebnet::wheel::Wheel::with_capacity(0, 10_000);
    /// wheel.insert(5, "allocates nothing");
    /// ```
    pub fn with_capacity(now: u64, timer_count: usize) -> Self {
        Self {
            timers: Slab::with_capacity(timer_count),
            levels: Levels::EMPTY,
            due: List::EMPTY,
            far: List::EMPTY,
            far_epoch: u64::MAX,
            position: now,
            now,
            generation: NonZeroU64::MIN,
        }
    }

    /// Sets a timer. Every `deadline` is legal; one at or before [`now`](Self::now) fires without
    /// waiting for time to pass, behind the timers that are due already.
    ///
    /// A loop that polls one moment until `None` and sets a timer at or before that moment for each
    /// one that fires does not end by itself; such a caller needs an allowance.
    ///
    /// # Panics
    ///
    /// Panics if the wheel holds 2^32 - 1 timers.
    ///
    /// # Examples
    ///
    /// ```
    /// let mut wheel = nebnet::wheel::Wheel::new(1_000);
    /// wheel.insert(u64::MAX, "at the end of time");
    /// wheel.insert(0, "long ago");
    /// assert_eq!(wheel.poll(1_000).map(|expired| expired.value), Some("long ago"));
    /// assert_eq!(wheel.poll(1_000), None);
    /// ```
    pub fn insert(&mut self, deadline: u64, value: T) -> TimerKey {
        assert!(
            self.timers.len() < TIMERS_MAX,
            "a wheel holds at most 2^32 - 1 timers"
        );
        let generation = self.generation;
        // At a billion timers a second the last generation is 584 years away.
        self.generation = generation.saturating_add(1);
        let slab_index = self.timers.insert(Timer::new(generation, deadline, value));
        let index = u32::try_from(slab_index).expect("a slab reuses indices, so index < len");
        self.link(index, deadline);
        TimerKey { index, generation }
    }

    /// Takes a timer out before it fires and returns its value. `None` means that it has fired or
    /// was cancelled already, and that nothing changed.
    ///
    /// # Examples
    ///
    /// ```
    /// let mut wheel = nebnet::wheel::Wheel::new(0);
    /// let key = wheel.insert(10, "gone");
    /// assert_eq!(wheel.cancel(key), Some("gone"));
    /// assert_eq!(wheel.cancel(key), None);
    /// assert_eq!(wheel.poll(10), None);
    /// ```
    pub fn cancel(&mut self, key: TimerKey) -> Option<T> {
        let deadline = self.deadline(key)?;
        self.unlink(key.index, deadline);
        Some(self.timers.remove(key.index as usize).value)
    }

    /// Moves a timer to another deadline, as if it had been cancelled and inserted again, but its
    /// key stays valid. `false` means that it has fired or was cancelled already, and that nothing
    /// changed.
    ///
    /// # Examples
    ///
    /// ```
    /// let mut wheel = nebnet::wheel::Wheel::new(0);
    /// let key = wheel.insert(10, "heartbeat");
    /// assert!(wheel.rearm(key, 20));
    /// assert_eq!(wheel.poll(19), None);
    /// assert_eq!(wheel.poll(20).map(|expired| expired.deadline), Some(20));
    /// assert!(!wheel.rearm(key, 30));
    /// ```
    pub fn rearm(&mut self, key: TimerKey, deadline: u64) -> bool {
        let Some(deadline_old) = self.deadline(key) else {
            return false;
        };
        self.unlink(key.index, deadline_old);
        self.timers[key.index as usize].deadline = deadline;
        self.link(key.index, deadline);
        true
    }

    /// Moves the time to `now` and returns one timer whose deadline has come. `None` means that
    /// none is left at this time; then [`now`](Self::now)` >= now` and every timer's deadline is
    /// later than that.
    ///
    /// A `now` before the latest one counts as the latest: time never runs back. Timers fire in the
    /// order of their deadlines, those of one tick in the order in which they were set. A timer set
    /// for a moment that the wheel had worked through already counts as one for the tick of the
    /// last timer that fired, or for the time of the last `None` if that came later.
    ///
    /// # Examples
    ///
    /// ```
    /// let mut wheel = nebnet::wheel::Wheel::new(0);
    /// wheel.insert(2_000, 'b');
    /// wheel.insert(1_000, 'a');
    /// let mut fired = String::new();
    /// while let Some(expired) = wheel.poll(1 << 40) {
    ///     fired.push(expired.value);
    /// }
    /// assert_eq!(fired, "ab");
    /// assert_eq!(wheel.poll(0), None);
    /// assert_eq!(wheel.now(), 1 << 40);
    /// ```
    #[inline]
    pub fn poll(&mut self, now: u64) -> Option<Expired<T>> {
        self.now = self.now.max(now);
        // Each turn moves the earliest timer to a lower level, so few turns find it due or find it
        // later than now. The one turn that may move nothing makes `far_epoch` exact.
        loop {
            if let Some(index) = self.due.head() {
                self.due.unlink(&mut self.timers, index);
                let Timer {
                    generation,
                    deadline,
                    value,
                    ..
                } = self.timers.remove(index as usize);
                return Some(Expired {
                    key: TimerKey { index, generation },
                    deadline,
                    value,
                });
            }
            if let Some(first) = self.levels.first(self.position) {
                // All epochs in `far` are later than the one that the slots belong to.
                if first.start <= self.now {
                    self.enter_slot(first);
                    continue;
                }
            } else if !self.far.is_empty() && self.far_epoch <= level::epoch(self.now) {
                self.enter_epoch(self.far_epoch);
                continue;
            }
            self.position = self.now;
            return None;
        }
    }

    /// Drops all timers. Their keys name nothing any more; time and storage stay.
    ///
    /// # Examples
    ///
    /// ```
    /// let mut wheel = nebnet::wheel::Wheel::new(0);
    /// let key = wheel.insert(10, ());
    /// wheel.clear();
    /// assert!(wheel.is_empty() && wheel.cancel(key).is_none());
    /// ```
    pub fn clear(&mut self) {
        self.levels = Levels::EMPTY;
        self.due = List::EMPTY;
        self.far = List::EMPTY;
        self.far_epoch = u64::MAX;
        self.timers.clear();
    }

    /// A tick at which to call [`poll`](Self::poll) next; `None` if there is no timer.
    ///
    /// For the tick `t` returned, and every timer's `deadline`:
    ///
    /// - `t <= max(deadline, now())`: who polls at `t` is never late. `t <= now()` means at once.
    /// - `t` is the earliest deadline itself, unless that deadline stands on a level above 0 (or on
    ///   the far list) together with others; then `t` may be earlier, namely the tick at which they
    ///   move to lower levels. A `poll` at that tick moves them.
    /// - After `poll(t)` gave `None`, the next answer is later than `t`: a loop that sleeps until
    ///   `t` and polls makes progress each time. With no other calls in between, at most 6 such
    ///   polls come before the one that fires a timer, or 7 if a timer had left the far list by
    ///   `cancel` or `rearm`.
    ///
    /// # Examples
    ///
    /// ```
    /// let mut wheel = nebnet::wheel::Wheel::new(0);
    /// wheel.insert(100, ());
    /// assert_eq!(wheel.next_expiry(), Some(100));
    /// wheel.insert(101, ());
    /// assert_eq!(wheel.next_expiry(), Some(64)); // both are on level 1, in the slot from 64
    /// assert_eq!(wheel.poll(64), None);
    /// assert_eq!(wheel.next_expiry(), Some(100));
    /// ```
    pub fn next_expiry(&self) -> Option<u64> {
        if !self.due.is_empty() {
            return Some(self.position);
        }
        let (list, start) = if let Some(first) = self.levels.first(self.position) {
            (self.levels.list(first.level, first.slot), first.start)
        } else if !self.far.is_empty() {
            (self.far, level::epoch_start(self.far_epoch))
        } else {
            return None;
        };
        // Nothing else stands before the end of this slot, so a lone timer is the earliest of all.
        Some(
            list.only()
                .map_or(start, |index| self.timers[index as usize].deadline),
        )
    }

    /// The deadline of a timer, in ticks, as it was asked for. `None` means that it has fired or
    /// was cancelled.
    ///
    /// # Examples
    ///
    /// ```
    /// let mut wheel = nebnet::wheel::Wheel::new(50);
    /// let key = wheel.insert(10, ());
    /// assert_eq!(wheel.deadline(key), Some(10));
    /// wheel.poll(50);
    /// assert_eq!(wheel.deadline(key), None);
    /// ```
    pub fn deadline(&self, key: TimerKey) -> Option<u64> {
        let timer = self.timers.get(key.index as usize)?;
        (timer.generation == key.generation).then_some(timer.deadline)
    }

    /// The key of the timer that is stored at a place.
    fn key_at(&self, place: TimerPlace) -> Option<TimerKey> {
        let index = place.0.get() - 1;
        let generation = self.timers.get(index as usize)?.generation;
        Some(TimerKey { index, generation })
    }

    /// The deadline of the timer that is stored at a place.
    pub(crate) fn deadline_at(&self, place: TimerPlace) -> Option<u64> {
        let index = place.0.get() - 1;
        Some(self.timers.get(index as usize)?.deadline)
    }

    /// Takes out the timer that is stored at a place.
    pub(crate) fn cancel_at(&mut self, place: TimerPlace) -> Option<T> {
        self.cancel(self.key_at(place)?)
    }

    /// Number of timers that have neither fired nor been cancelled.
    ///
    /// # Examples
    ///
    /// ```
    /// let mut wheel = nebnet::wheel::Wheel::new(0);
    /// wheel.insert(1, ());
    /// wheel.insert(2, ());
    /// wheel.poll(1);
    /// assert_eq!(wheel.len(), 1);
    /// ```
    pub fn len(&self) -> usize {
        self.timers.len()
    }

    /// Whether there is no timer.
    ///
    /// # Examples
    ///
    /// ```
    /// assert!(nebnet::wheel::Wheel::<()>::new(0).is_empty());
    /// ```
    pub fn is_empty(&self) -> bool {
        self.timers.is_empty()
    }

    /// The latest tick that the wheel was given, by [`new`](Self::new) or by [`poll`](Self::poll).
    ///
    /// # Examples
    ///
    /// ```
    /// let mut wheel = nebnet::wheel::Wheel::<()>::new(5);
    /// wheel.poll(9);
    /// wheel.poll(8);
    /// assert_eq!(wheel.now(), 9);
    /// ```
    pub fn now(&self) -> u64 {
        self.now
    }
}

impl<T> fmt::Debug for Wheel<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wheel")
            .field("now", &self.now)
            .field("len", &self.len())
            .field("next_expiry", &self.next_expiry())
            .finish_non_exhaustive()
    }
}
