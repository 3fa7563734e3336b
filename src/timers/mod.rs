//! Timers of the embedder, on the loop's wheel, delivered to a queue of their own.
//!
//! A [`Timers`] has a cell for each timer that it may hold. Setting and cancelling change the cell
//! under the mutex of the `Timers` and leave its index on a list, once, until the loop has looked;
//! so neither can find a queue full. The loop tries the mutex, copies what has changed, and sets
//! the wheel accordingly; what it finds taken it puts off to its next turn.
//!
//! A timer that expires adds to the count in its cell, and goes into the channel unless it still
//! waits there. So a channel of counted items holds no more than there are cells, no expiry is lost
//! and none has to wait. Cells are made when they are first used.
//!
//! Invariants:
//! - an index is in the list of changes at most once, and in the channel at most once
//! - generation and count of a cell change together, so what expires for an old timer is never
//!   counted for the cell's next one
//! - the wheel holds at most one entry per cell

mod table;
#[cfg(test)]
mod tests;

use std::{
    fmt,
    sync::{Arc, OnceLock, PoisonError, TryLockError},
    time::Duration,
};

use crossbeam_channel::{Receiver, Sender};

use crate::{
    clock::Tick,
    error::{RecvError, RecvTimeoutError, TimerError, TryRecvError},
    limits::{TIMEOUT_MS_CEILING, TIMER_QUEUES_MAX, USER_TIMERS_MAX_CEILING},
    slots::Slots,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
        counted_unmodelled,
    },
};

pub(crate) use table::{TimerTable, UserTimer};

const NANOS_PER_TICK: u64 = 1_000_000;

/// Cells are made in chunks when the first of their timers is set.
const CHUNK_CELLS: usize = if cfg!(all(test, nebnet_loom)) { 1 } else { 64 };

/// Names a timer of the [`Timers`] that set it; never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimerId {
    queue: u32,
    index: u32,
    generation: u32,
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
    /// How often since it was taken last: 1 for a timer set by [`Timers::after`]; more for one set
    /// by [`Timers::every`] if nobody took it meanwhile, or the process was held up. Counts up to
    /// 2^32 - 1.
    pub count: u64,
}

/// Timers, and the queue that they expire into. Dropping it cancels all of them.
///
/// They run on the loop's wheel, in milliseconds of the monotonic clock: never early, and late by a
/// millisecond and what the loop's turn takes. Timers that are set before the service starts expire
/// after its start. Once the service has stopped, what has expired can still be taken, and then the
/// queue says that it is disconnected.
///
/// No expiry is lost: there is a place in the queue for every timer, and a periodic one that waits
/// there counts on.
///
/// All methods may be called from any thread. Apart from `recv` and its like none of them waits,
/// except for another thread that sets or cancels at the same moment.
///
/// # Examples
///
/// ```
/// use nebnet::{Config, NetService};
/// use std::time::Duration;
///
/// let config = Config::default().listen("127.0.0.1:0".parse()?);
/// let mut service = NetService::new(config)?;
/// service.start()?;
///
/// let timers = service.handle().timers(16)?;
/// let beat = timers.every(Duration::from_millis(5))?;
/// let once = timers.after(Duration::from_millis(20))?;
/// let mut beats = 0;
/// loop {
///     let fired = timers.recv()?;
///     if fired.timer == once {
///         break;
///     }
///     assert_eq!(fired.timer, beat);
///     beats += fired.count;
/// }
/// assert!(timers.cancel(beat) && !timers.cancel(once));
/// assert!(beats >= 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Timers {
    receiver: Receiver<TimerDelivery>,
    set: TimerSet,
}

/// Timers without a queue of their own; dropping it cancels all of them.
#[derive(Debug)]
pub(crate) struct TimerSet {
    queue: Arc<TimerQueue>,
}

impl Timers {
    pub(crate) fn new(
        hub: Arc<TimerHub>,
        slots: Arc<Slots>,
        capacity: usize,
    ) -> Result<Self, TimerError> {
        let (sender, receiver) = counted_unmodelled();
        let set = TimerSet::with(hub, slots, capacity, Way::Channel(sender))?;
        Ok(Self { receiver, set })
    }

    /// Sets a timer that expires once, when the time is over: at once for zero, at most 365 days.
    ///
    /// # Errors
    ///
    /// See [`TimerError`].
    pub fn after(&self, delay: Duration) -> Result<TimerId, TimerError> {
        self.set.after(delay)
    }

    /// Sets a timer that expires again and again, the first time when one period is over: at most
    /// 365 days. Its n-th expiry is due n periods from now, whenever those before it were taken.
    ///
    /// # Errors
    ///
    /// See [`TimerError`]. A period of zero is refused.
    pub fn every(&self, period: Duration) -> Result<TimerId, TimerError> {
        self.set.every(period)
    }

    /// Ends a timer. True if it was there: then it comes out of the queue no more, even if it has
    /// expired already. False if it has ended before: was taken, if it was to expire once, or was
    /// cancelled.
    #[must_use = "false says that the timer had ended before"]
    pub fn cancel(&self, timer: TimerId) -> bool {
        self.set.cancel(timer)
    }

    /// How many timers there are: set and not cancelled, and not taken if they expire once.
    #[must_use]
    pub fn len(&self) -> usize {
        self.set.len()
    }

    /// Whether there is no timer.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The next timer that has expired; waits for it. On the loop's own thread (an inline handler)
    /// nobody would let it expire meanwhile.
    ///
    /// # Errors
    ///
    /// [`RecvError`] once the service has stopped and everything was taken.
    pub fn recv(&self) -> Result<TimerExpired, RecvError> {
        loop {
            let delivery = self.receiver.recv().map_err(|_| RecvError)?;
            if let Some(fired) = self.take(delivery) {
                return Ok(fired);
            }
        }
    }

    /// The next timer that has expired, if there is one.
    ///
    /// # Errors
    ///
    /// [`TryRecvError::Empty`] if there is none now, [`TryRecvError::Disconnected`] as for
    /// [`recv`](Self::recv).
    pub fn try_recv(&self) -> Result<TimerExpired, TryRecvError> {
        loop {
            let delivery = self.receiver.try_recv().map_err(|error| match error {
                crossbeam_channel::TryRecvError::Empty => TryRecvError::Empty,
                crossbeam_channel::TryRecvError::Disconnected => TryRecvError::Disconnected,
            })?;
            if let Some(fired) = self.take(delivery) {
                return Ok(fired);
            }
        }
    }

    /// The next timer that has expired; waits for it no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// [`RecvTimeoutError::Timeout`] if none did, [`RecvTimeoutError::Disconnected`] as for
    /// [`recv`](Self::recv).
    pub fn recv_timeout(&self, timeout: Duration) -> Result<TimerExpired, RecvTimeoutError> {
        let clock = self.set.queue.slots.clock;
        let started = clock.elapsed();
        loop {
            let waited = clock.elapsed().saturating_sub(started);
            let left = timeout.saturating_sub(waited);
            let delivery = self
                .receiver
                .recv_timeout(left)
                .map_err(|error| match error {
                    crossbeam_channel::RecvTimeoutError::Timeout => RecvTimeoutError::Timeout,
                    crossbeam_channel::RecvTimeoutError::Disconnected => {
                        RecvTimeoutError::Disconnected
                    }
                })?;
            if let Some(fired) = self.take(delivery) {
                return Ok(fired);
            }
        }
    }

    /// The channel behind the queue, for crossbeam's `select!`. What comes out of it is to be given
    /// to [`take`](Self::take).
    ///
    /// # Examples
    ///
    /// ```
    /// # use nebnet::{Config, NetService};
    /// # use std::time::Duration;
    /// use crossbeam_channel::select;
    ///
    /// # let config = Config::default().listen("127.0.0.1:0".parse()?);
    /// # let mut service = NetService::new(config)?;
    /// # let messages = service.handle().subscribe(nebnet::TypeFilter::all())?;
    /// # service.start()?;
    /// let timers = service.handle().timers(1)?;
    /// timers.after(Duration::from_millis(10))?;
    /// select! {
    ///     recv(messages.receiver()) -> delivery => drop(messages.take(delivery?)),
    ///     recv(timers.receiver()) -> delivery => {
    ///         let fired = timers.take(delivery?);
    ///         assert_eq!(fired.map(|fired| fired.count), Some(1));
    ///     }
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn receiver(&self) -> &Receiver<TimerDelivery> {
        &self.receiver
    }

    /// Opens a delivery that came out of [`receiver`](Self::receiver). `None` if the timer was
    /// cancelled meanwhile.
    ///
    /// # Panics
    ///
    /// If the delivery is of other timers.
    pub fn take(&self, delivery: TimerDelivery) -> Option<TimerExpired> {
        self.set.take(delivery)
    }
}

#[cfg(test)]
impl Timers {
    /// As [`TimerSet::set_at`].
    pub(crate) fn set_at(&self, due: u64, period: u64) -> Result<TimerId, TimerError> {
        self.set.set_at(due, period)
    }
}

impl TimerSet {
    /// Timers that the loop hands over in their order to what it reads.
    pub(crate) fn new(
        hub: Arc<TimerHub>,
        slots: Arc<Slots>,
        capacity: usize,
    ) -> Result<Self, TimerError> {
        Self::with(hub, slots, capacity, Way::InOrder)
    }

    fn with(
        hub: Arc<TimerHub>,
        slots: Arc<Slots>,
        capacity: usize,
        way: Way,
    ) -> Result<Self, TimerError> {
        if capacity == 0 || capacity > USER_TIMERS_MAX_CEILING {
            return Err(TimerError::Capacity {
                value: capacity,
                max: USER_TIMERS_MAX_CEILING,
            });
        }
        let queue = hub.add(slots, capacity, way)?;
        Ok(Self { queue })
    }

    /// Tells the timers of this set from those of others.
    pub(crate) fn id(&self) -> u32 {
        self.queue.id
    }

    pub(crate) fn after(&self, delay: Duration) -> Result<TimerId, TimerError> {
        self.set(delay, Duration::ZERO)
    }

    pub(crate) fn every(&self, period: Duration) -> Result<TimerId, TimerError> {
        if period.is_zero() {
            return Err(TimerError::Duration(period));
        }
        self.set(period, period)
    }

    pub(crate) fn cancel(&self, timer: TimerId) -> bool {
        let queue = &*self.queue;
        let mut inner = queue.lock();
        let known = timer.queue == queue.id && inner.is_current(timer.index, timer.generation);
        if known {
            queue.free(&mut inner, timer.index);
            drop(inner);
            queue.ask();
        }
        known
    }

    fn len(&self) -> usize {
        let inner = self.queue.lock();
        inner.plans.iter().filter(|plan| plan.is_set).count()
    }

    /// Opens a delivery; `None` if the timer was cancelled meanwhile.
    ///
    /// # Panics
    ///
    /// If the delivery is of other timers.
    pub(crate) fn take(&self, mut delivery: TimerDelivery) -> Option<TimerExpired> {
        assert!(
            Arc::ptr_eq(&self.queue, &delivery.queue),
            "the delivery is of queue {}, not of {}",
            delivery.queue.id,
            self.queue.id
        );
        delivery.opened = true;
        self.queue.take(delivery.index)
    }

    fn set(&self, delay: Duration, period: Duration) -> Result<TimerId, TimerError> {
        let longest = Duration::from_millis(TIMEOUT_MS_CEILING);
        if delay > longest {
            return Err(TimerError::Duration(delay));
        }
        let now = self.queue.slots.clock.elapsed();
        self.set_at(nanos(now.saturating_add(delay)), nanos(period))
    }

    /// Sets a timer by the time of its first expiry and its period, zero for once, in nanoseconds.
    pub(crate) fn set_at(&self, due: u64, period: u64) -> Result<TimerId, TimerError> {
        let queue = &*self.queue;
        let mut inner = queue.lock();
        if inner.way.is_none() {
            return Err(TimerError::Stopped);
        }
        let index = inner.take_free(queue.capacity)?;
        let plan = &mut inner.plans[index as usize];
        plan.is_set = true;
        (plan.due, plan.period) = (due, period);
        let generation = plan.generation;
        inner.note_changed(index);
        drop(inner);
        queue.ask();
        Ok(TimerId {
            queue: queue.id,
            index,
            generation,
        })
    }
}

impl Drop for TimerSet {
    fn drop(&mut self) {
        self.queue.hub.remove(&self.queue);
    }
}

/// An expired timer on its way.
///
/// It comes out of [`Timers::receiver`], for use in `select!`; [`Timers::take`] opens it. Dropped
/// before that, its expiries are thrown away, as if they had been taken.
pub struct TimerDelivery {
    queue: Arc<TimerQueue>,
    index: u32,
    opened: bool,
}

impl TimerDelivery {
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

/// What a [`Timers`] and the loop share.
struct TimerQueue {
    id: u32,
    capacity: usize,
    chunks: Box<[OnceLock<Box<[Cell]>>]>,
    inner: Mutex<Inner>,
    /// True while there may be changes that the loop has not seen.
    changed: AtomicBool,
    hub: Arc<TimerHub>,
    slots: Arc<Slots>,
}

/// The part of a timer that the loop writes.
#[derive(Debug, Default)]
struct Cell {
    /// The generation, and in the lower half how often the timer has expired since it was taken.
    state: AtomicU64,
    /// True while the cell's index is in the channel.
    queued: AtomicBool,
}

impl Cell {
    /// Counts expiries of a generation. False if the cell is another's now.
    fn count(&self, generation: u32, count: u64) -> bool {
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
struct Inner {
    /// One for each cell that was ever used.
    plans: Vec<Plan>,
    /// Of these, the ones without a timer.
    free: Vec<u32>,
    /// Cells whose plan the loop has not seen, each once.
    changes: Vec<u32>,
    /// Where what has expired goes; `None` once the service has stopped.
    way: Option<Way>,
    /// The [`Timers`] was dropped.
    gone: bool,
}

/// Where what has expired goes.
#[derive(Clone, Debug)]
enum Way {
    /// Into a channel of its own, at once.
    Channel(Sender<TimerDelivery>),
    /// Behind what the loop has read before.
    InOrder,
}

/// What a cell's timer is to do. Times are in nanoseconds since the start of the clock.
#[derive(Clone, Copy, Debug, Default)]
struct Plan {
    is_set: bool,
    is_changed: bool,
    generation: u32,
    /// The first expiry.
    due: u64,
    /// Zero for a timer that expires once.
    period: u64,
}

impl Inner {
    /// The index of a cell without a timer: one that was used before, if there is one.
    fn take_free(&mut self, capacity: usize) -> Result<u32, TimerError> {
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

    fn is_current(&self, index: u32, generation: u32) -> bool {
        let plan = self.plans.get(index as usize);
        plan.is_some_and(|plan| plan.is_set && plan.generation == generation)
    }

    fn note_changed(&mut self, index: u32) {
        let plan = &mut self.plans[index as usize];
        if !std::mem::replace(&mut plan.is_changed, true) {
            self.changes.push(index);
        }
    }
}

impl TimerQueue {
    fn cell(&self, index: u32) -> &Cell {
        let (chunk, place) = (index as usize / CHUNK_CELLS, index as usize % CHUNK_CELLS);
        let make = || (0..CHUNK_CELLS).map(|_| Cell::default()).collect();
        &self.chunks[chunk].get_or_init(make)[place]
    }

    /// Ends a cell's timer. What it has counted goes with its generation.
    fn free(&self, inner: &mut Inner, index: u32) {
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
    fn take(&self, index: u32) -> Option<TimerExpired> {
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
    fn ask(&self) {
        note(&self.changed);
        note(&self.hub.changed);
        self.slots.doorbell.ring();
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For the loop, which does not wait.
    fn try_lock(&self) -> Option<MutexGuard<'_, Inner>> {
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

/// All [`Timers`] of a service.
#[derive(Debug, Default)]
pub(crate) struct TimerHub {
    list: Mutex<Vec<Arc<TimerQueue>>>,
    /// True while a queue in the list may have changes that the loop has not seen.
    changed: AtomicBool,
    /// The loop has ended, or will never begin.
    closed: AtomicBool,
    next_id: AtomicU32,
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

    fn add(
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
    fn remove(&self, queue: &Arc<TimerQueue>) {
        self.lock().retain(|other| !Arc::ptr_eq(other, queue));
        let way = {
            let mut inner = queue.lock();
            inner.gone = true;
            inner.way.take()
        };
        drop(way);
        queue.ask();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<TimerQueue>>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// For the loop, which does not wait.
    fn try_lock(&self) -> Option<MutexGuard<'_, Vec<Arc<TimerQueue>>>> {
        match self.list.try_lock() {
            Ok(list) => Some(list),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}

/// Says that there are changes. Not by a plain store: one that takes the place of another's would
/// not pass on what that one was about.
fn note(changed: &AtomicBool) {
    changed.swap(true, Ordering::AcqRel);
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// The first tick at which a point in time has certainly come.
fn tick_of(nanos: u64) -> Tick {
    nanos.div_ceil(NANOS_PER_TICK)
}

fn joined(high: u32, low: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the halves are what is wanted"
)]
fn halves(state: u64) -> (u32, u32) {
    ((state >> 32) as u32, state as u32)
}

/// `Timers` go to any thread.
const _: () = {
    const fn is_send_and_sync<T: Send + Sync>() {}
    is_send_and_sync::<Timers>();
};
