//! A set of timers on the side that sets and cancels them.

use std::{sync::Arc, time::Duration};

use super::queue::{TimerHub, TimerId, TimerQueue, Way, nanos};
use crate::{
    error::TimerError,
    limits::{TIMEOUT_MS_CEILING, USER_TIMERS_MAX_CEILING},
    slots::Slots,
};

/// Timers without a queue of their own; dropping it cancels all of them.
#[derive(Debug)]
pub(crate) struct TimerSet {
    pub(super) queue: Arc<TimerQueue>,
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

    pub(super) fn with(
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

    pub(super) fn len(&self) -> usize {
        let inner = self.queue.lock();
        inner.plans.iter().filter(|plan| plan.is_set).count()
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
