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
//!
//! The files, each of which imports from earlier ones only: `queue`, what a `Timers` and the loop
//! share; `set`, the side that sets and cancels; `table`, the loop's side; `Timers` is here.

mod queue;
mod set;
mod table;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use crossbeam_channel::Receiver;

use crate::{
    error::{RecvError, RecvTimeoutError, TimerError, TryRecvError},
    slots::Slots,
    sync::counted_unmodelled,
};

pub(crate) use queue::TimerHub;
use queue::Way;
pub use queue::{TimerDelivery, TimerExpired, TimerId};
pub(crate) use set::TimerSet;
pub(crate) use table::{TimerTable, UserTimer};

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
    /// no thread would let it expire meanwhile.
    ///
    /// # Errors
    ///
    /// [`RecvError`] once the service has stopped and everything was taken.
    pub fn recv(&self) -> Result<TimerExpired, RecvError> {
        loop {
            let delivery = self.receiver.recv().map_err(|_| RecvError)?;
            if let Some(fired) = delivery.into_expired() {
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
            if let Some(fired) = delivery.into_expired() {
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
            if let Some(fired) = delivery.into_expired() {
                return Ok(fired);
            }
        }
    }

    /// The channel behind the queue, for crossbeam's `select!`. What comes out of it is taken by
    /// [`TimerDelivery::into_expired`].
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
    ///     recv(messages.receiver()) -> delivery => drop(delivery?.into_batch()),
    ///     recv(timers.receiver()) -> delivery => {
    ///         let fired = delivery?.into_expired();
    ///         assert_eq!(fired.map(|fired| fired.count), Some(1));
    ///     }
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn receiver(&self) -> &Receiver<TimerDelivery> {
        &self.receiver
    }
}

#[cfg(test)]
impl Timers {
    /// As [`TimerSet::set_at`].
    pub(crate) fn set_at(&self, due: u64, period: u64) -> Result<TimerId, TimerError> {
        self.set.set_at(due, period)
    }
}

/// `Timers` go to any thread.
const _: () = {
    const fn is_send_and_sync<T: Send + Sync>() {}
    is_send_and_sync::<Timers>();
};
