//! What a set of timers and the loop share: cells, plans, changes, and what has expired.
//!
//! A cell is written by the loop without the lock, a plan under the lock by the threads that set,
//! cancel and take. The hub has the queues of all sets of a service.

use std::{
    fmt,
    sync::{Arc, OnceLock, PoisonError, TryLockError},
    time::Duration,
};

use crossbeam_channel::Sender;

use crate::{
    clock::Tick,
    error::TimerError,
    limits::TIMER_QUEUES_MAX,
    slots::Slots,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
};

pub(super) const NANOS_PER_TICK: u64 = 1_000_000;

/// Cells are made in chunks when the first of their timers is set.
pub(super) const CHUNK_CELLS: usize = if cfg!(all(test, nebnet_loom)) { 1 } else { 64 };

/// Names a timer of the [`Timers`](super::Timers) that set it; never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimerId {
    pub(super) queue: u32,
    pub(super) index: u32,
    pub(super) generation: u32,
}

impl fmt::Display for TimerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.queue, self.index, self.generation)
    }
}

impl fmt::Debug for TimerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TimerId({self})")
    }
}

/// A timer has expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TimerExpired {
    /// Which one.
    pub timer: TimerId,
    /// How often since it was taken last: 1 for a timer set by
    /// [`Timers::after`](super::Timers::after); more for one set by
    /// [`Timers::every`](super::Timers::every) if it was not taken meanwhile, or the process was
    /// held up. Counts up to 2^32 - 1.
    pub count: u64,
}

/// An expired timer on its way.
///
/// It comes out of [`Timers::receiver`](super::Timers::receiver), for use in `select!`.
/// Dropped before it is [taken](Self::into_expired), its expiries are thrown away.
pub struct TimerDelivery {
    pub(super) queue: Arc<TimerQueue>,
    pub(super) index: u32,
    pub(super) opened: bool,
}

impl TimerDelivery {
    /// The timer, taken. `None` if it was cancelled meanwhile.
    #[must_use = "what expired is thrown away"]
    pub fn into_expired(mut self) -> Option<TimerExpired> {
        self.opened = true;
        self.queue.take(self.index)
    }

    /// The set that the timer belongs to.
    pub(crate) fn set_id(&self) -> u32 {
        self.queue.id
    }
}

impl Drop for TimerDelivery {
    fn drop(&mut self) {
        if !self.opened {
            let _ = self.queue.take(self.index);
        }
    }
}

impl fmt::Debug for TimerDelivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimerDelivery")
            .field("queue", &self.queue.id)
            .field("index", &self.index)
            .finish_non_exhaustive()
    }
}

/// What a [`Timers`](super::Timers) and the loop share.
pub(super) struct TimerQueue {
    pub(super) id: u32,
    pub(super) capacity: usize,
    pub(super) chunks: Box<[OnceLock<Box<[Cell]>>]>,
    pub(super) inner: Mutex<Inner>,
    /// True while there may be changes that the loop has not seen.
    pub(super) changed: AtomicBool,
    pub(super) hub: Arc<TimerHub>,
    pub(super) slots: Arc<Slots>,
}

/// The part of a timer that the loop writes.
#[derive(Debug, Default)]
pub(super) struct Cell {
    /// The generation, and in the lower half how often the timer has expired since it was taken.
    pub(super) state: AtomicU64,
    /// True while the cell's index is in the channel.
    pub(super) queued: AtomicBool,
}

impl Cell {
    /// Counts expiries of a generation. False if the cell is another's now.
    pub(super) fn count(&self, generation: u32, count: u64) -> bool {
        let add = |state: u64| {
            let (current, before) = halves(state);
            let after = u64::from(before).saturating_add(count);
            let after = u32::try_from(after).unwrap_or(u32::MAX);
            (current == generation).then(|| joined(generation, after))
        };
        let result = self
            .state
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, add);
        result.is_ok()
    }
}

/// What is written under the mutex: by who sets, cancels and takes.
#[derive(Debug)]
pub(super) struct Inner {
    /// One for each cell that was ever used.
    pub(super) plans: Vec<Plan>,
    /// Of these, the ones without a timer.
    pub(super) free: Vec<u32>,
    /// Cells whose plan the loop has not seen, each once.
    pub(super) changes: Vec<u32>,
    /// Where what has expired goes; `None` once the service has stopped.
    pub(super) way: Option<Way>,
    /// The [`Timers`](super::Timers) was dropped.
    pub(super) gone: bool,
}

/// Where what has expired goes.
#[derive(Clone, Debug)]
pub(super) enum Way {
    /// Into a channel of its own, at once.
    Channel(Sender<TimerDelivery>),
    /// Behind what the loop has read before.
    InOrder,
}

/// What a cell's timer is to do. Times are in nanoseconds since the start of the clock.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Plan {
    pub(super) is_set: bool,
    pub(super) is_changed: bool,
    pub(super) generation: u32,
    /// The first expiry.
    pub(super) due: u64,
    /// Zero for a timer that expires once.
    pub(super) period: u64,
}

impl Inner {
    /// The index of a cell without a timer: one that was used before, if there is one.
    pub(super) fn take_free(&mut self, capacity: usize) -> Result<u32, TimerError> {
        if let Some(index) = self.free.pop() {
            return Ok(index);
        }
        let fresh = u32::try_from(self.plans.len()).unwrap_or(u32::MAX);
        if self.plans.len() >= capacity {
            return Err(TimerError::TooMany { limit: capacity });
        }
        self.plans.push(Plan::default());
        Ok(fresh)
    }

    pub(super) fn is_current(&self, index: u32, generation: u32) -> bool {
        let plan = self.plans.get(index as usize);
        plan.is_some_and(|plan| plan.is_set && plan.generation == generation)
    }

    pub(super) fn note_changed(&mut self, index: u32) {
        let plan = &mut self.plans[index as usize];
        if !std::mem::replace(&mut plan.is_changed, true) {
            self.changes.push(index);
        }
    }
}

impl TimerQueue {
    pub(super) fn cell(&self, index: u32) -> &Cell {
        let (chunk, place) = (index as usize / CHUNK_CELLS, index as usize % CHUNK_CELLS);
        let make = || (0..CHUNK_CELLS).map(|_| Cell::default()).collect();
        &self.chunks[chunk].get_or_init(make)[place]
    }

    /// Ends a cell's timer. What it has counted goes with its generation.
    pub(super) fn free(&self, inner: &mut Inner, index: u32) {
        let plan = &mut inner.plans[index as usize];
        plan.is_set = false;
        // An id never comes twice, so a cell that has used up its generations is not used again.
        if let Some(next) = plan.generation.checked_add(1) {
            plan.generation = next;
            inner.free.push(index);
        }
        let state = joined(inner.plans[index as usize].generation, 0);
        self.cell(index).state.store(state, Ordering::Release);
        inner.note_changed(index);
    }

    /// The cell's index came out of the channel. `None` if its timer was cancelled.
    pub(super) fn take(&self, index: u32) -> Option<TimerExpired> {
        let mut inner = self.lock();
        let cell = self.cell(index);
        // First this, then the count: what is counted in between goes into the channel again.
        cell.queued.swap(false, Ordering::AcqRel);
        let clear = |state: u64| Some(joined(halves(state).0, 0));
        let state = cell
            .state
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, clear);
        let (generation, count) = halves(state.unwrap_or_else(|state| state));
        let plan = inner.plans[index as usize];
        if !plan.is_set || count == 0 {
            return None;
        }
        if plan.period == 0 {
            self.free(&mut inner, index);
        }
        let timer = TimerId {
            queue: self.id,
            index,
            generation,
        };
        Some(TimerExpired {
            timer,
            count: u64::from(count),
        })
    }

    /// Has the loop look at the changes.
    pub(super) fn ask(&self) {
        note(&self.changed);
        note(&self.hub.changed);
        self.slots.doorbell.ring();
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For the loop, which does not wait.
    pub(super) fn try_lock(&self) -> Option<MutexGuard<'_, Inner>> {
        match self.inner.try_lock() {
            Ok(inner) => Some(inner),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

impl fmt::Debug for TimerQueue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimerQueue")
            .field("id", &self.id)
            .field("capacity", &self.capacity)
            .finish_non_exhaustive()
    }
}

/// All [`Timers`](super::Timers) of a service.
#[derive(Debug, Default)]
pub(crate) struct TimerHub {
    pub(super) list: Mutex<Vec<Arc<TimerQueue>>>,
    /// True while a queue in the list may have changes that the loop has not seen.
    pub(super) changed: AtomicBool,
    /// The loop has ended, or will never begin.
    pub(super) closed: AtomicBool,
    pub(super) next_id: AtomicU32,
}

impl TimerHub {
    /// Whether the loop has something to look at.
    pub(crate) fn has_changes(&self) -> bool {
        self.changed.load(Ordering::Acquire)
    }

    /// The loop has ended: nothing will ever expire again.
    pub(crate) fn close(&self) {
        let list = {
            let mut list = self.lock();
            self.closed.store(true, Ordering::Release);
            std::mem::take(&mut *list)
        };
        for queue in list {
            let way = queue.lock().way.take();
            drop(way);
        }
    }

    pub(super) fn add(
        self: Arc<Self>,
        slots: Arc<Slots>,
        capacity: usize,
        way: Way,
    ) -> Result<Arc<TimerQueue>, TimerError> {
        let hub = Arc::clone(&self);
        let mut list = self.lock();
        if self.closed.load(Ordering::Acquire) {
            return Err(TimerError::Stopped);
        }
        if list.len() >= TIMER_QUEUES_MAX {
            return Err(TimerError::TooMany {
                limit: TIMER_QUEUES_MAX,
            });
        }
        let inner = Inner {
            plans: Vec::new(),
            free: Vec::new(),
            changes: Vec::new(),
            way: Some(way),
            gone: false,
        };
        let queue = Arc::new(TimerQueue {
            id: self.next_id.fetch_add(1, Ordering::Relaxed),
            capacity,
            chunks: (0..capacity.div_ceil(CHUNK_CELLS))
                .map(|_| OnceLock::new())
                .collect(),
            inner: Mutex::new(inner),
            changed: AtomicBool::new(false),
            hub,
            slots,
        });
        list.push(Arc::clone(&queue));
        Ok(queue)
    }

    /// Takes a queue off the list, and has the loop forget it.
    pub(super) fn remove(&self, queue: &Arc<TimerQueue>) {
        self.lock().retain(|other| !Arc::ptr_eq(other, queue));
        let way = {
            let mut inner = queue.lock();
            inner.gone = true;
            inner.way.take()
        };
        drop(way);
        queue.ask();
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Vec<Arc<TimerQueue>>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For the loop, which does not wait.
    pub(super) fn try_lock(&self) -> Option<MutexGuard<'_, Vec<Arc<TimerQueue>>>> {
        match self.list.try_lock() {
            Ok(list) => Some(list),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

/// Says that there are changes. Not by a plain store: one that takes the place of another's would
/// not pass on what that one was about.
pub(super) fn note(changed: &AtomicBool) {
    changed.swap(true, Ordering::AcqRel);
}

pub(super) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The first tick at which a point in time has certainly come.
pub(super) fn tick_of(nanos: u64) -> Tick {
    nanos.div_ceil(NANOS_PER_TICK)
}

pub(super) fn joined(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the halves are what is wanted"
)]
pub(super) fn halves(state: u64) -> (u32, u32) {
    ((state >> 32) as u32, state as u32)
}
