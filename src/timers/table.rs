//! The loop's side of user timers: which are on the wheel, and what happens when they expire.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, atomic::Ordering},
};

use super::queue::{NANOS_PER_TICK, Plan, TimerDelivery, TimerHub, TimerQueue, Way, note, tick_of};
use crate::{
    clock::Tick,
    limits::COMMANDS_PER_TURN,
    wheel::{TimerKey, Wheel},
};

/// What the wheel tells of a user timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct UserTimer {
    queue: u32,
    index: u32,
    generation: u32,
}

/// All user timers on the wheel.
pub(crate) struct TimerTable {
    hub: Arc<TimerHub>,
    /// By the id of the queue.
    queues: HashMap<u32, Entry>,
    /// Changes that are copied from a queue, kept for its storage.
    plans: Vec<(u32, Plan)>,
}

struct Entry {
    queue: Arc<TimerQueue>,
    way: Way,
    /// By the index of the cell.
    armed: Vec<Option<Armed>>,
}

#[derive(Clone, Copy, Debug)]
struct Armed {
    key: TimerKey,
    generation: u32,
    /// The next expiry and the period, in nanoseconds.
    due: u64,
    period: u64,
}

/// What became of a look at a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Look {
    Done,
    /// Its mutex was taken, or there is more to see.
    Again,
    /// It is taken from no more.
    Gone,
}

impl TimerTable {
    pub(crate) fn new(hub: Arc<TimerHub>) -> Self {
        Self {
            hub,
            queues: HashMap::new(),
            plans: Vec::new(),
        }
    }

    pub(crate) fn has_changes(&self) -> bool {
        self.hub.has_changes()
    }

    /// Sets the wheel to what was set and cancelled since the last turn.
    pub(crate) fn handle_changes<T: From<UserTimer>>(&mut self, wheel: &mut Wheel<T>) {
        if !self.hub.changed.swap(false, Ordering::AcqRel) {
            return;
        }
        let mut again = !self.adopt();
        let plans = &mut self.plans;
        self.queues.retain(|_, entry| {
            if !entry.queue.changed.swap(false, Ordering::AcqRel) {
                return true;
            }
            let look = entry.look(wheel, plans);
            if look == Look::Again {
                note(&entry.queue.changed);
                again = true;
            }
            look != Look::Gone
        });
        if again {
            note(&self.hub.changed);
        }
    }

    /// A timer of the wheel has expired. What comes back is to be handed over behind what was read.
    pub(crate) fn fire<T: From<UserTimer>>(
        &mut self,
        now: Tick,
        timer: UserTimer,
        wheel: &mut Wheel<T>,
    ) -> Option<TimerDelivery> {
        let entry = self.queues.get_mut(&timer.queue)?;
        let place = entry.armed.get_mut(timer.index as usize)?;
        let Some(mut armed) = place
            .take()
            .filter(|one| one.generation == timer.generation)
        else {
            debug_assert!(false, "{timer:?} is on the wheel and not armed");
            return None;
        };
        let now = now.saturating_mul(NANOS_PER_TICK);
        // Those that a pause of the process has swallowed are counted.
        let count = 1 + match armed.period {
            0 => 0,
            period => now.saturating_sub(armed.due) / period,
        };
        if !entry.queue.cell(timer.index).count(timer.generation, count) {
            // It was cancelled, and the change is still to be seen.
            return None;
        }
        if armed.period > 0 {
            let passed = count.saturating_mul(armed.period);
            armed.due = armed.due.saturating_add(passed);
            armed.key = wheel.insert(tick_of(armed.due), timer.into());
            *place = Some(armed);
        }
        entry.deliver(timer.index)
    }

    /// Takes in the queues that have come. False if a thread holds what is needed for it.
    fn adopt(&mut self) -> bool {
        let Some(list) = self.hub.try_lock() else {
            return false;
        };
        let mut all = true;
        for queue in &*list {
            if self.queues.contains_key(&queue.id) || !queue.changed.load(Ordering::Acquire) {
                continue;
            }
            let Some(inner) = queue.try_lock() else {
                all = false;
                continue;
            };
            let Some(way) = inner.way.clone() else {
                continue;
            };
            drop(inner);
            let entry = Entry {
                queue: Arc::clone(queue),
                way,
                armed: Vec::new(),
            };
            self.queues.insert(queue.id, entry);
        }
        all
    }
}

impl Entry {
    fn look<T: From<UserTimer>>(
        &mut self,
        wheel: &mut Wheel<T>,
        plans: &mut Vec<(u32, Plan)>,
    ) -> Look {
        let Some(mut inner) = self.queue.try_lock() else {
            return Look::Again;
        };
        if inner.gone {
            drop(inner);
            for armed in self.armed.drain(..).flatten() {
                wheel.cancel(armed.key);
            }
            return Look::Gone;
        }
        let first = inner.changes.len().saturating_sub(COMMANDS_PER_TURN);
        let mut changes = std::mem::take(&mut inner.changes);
        for index in changes.drain(first..) {
            let plan = &mut inner.plans[index as usize];
            plan.is_changed = false;
            plans.push((index, *plan));
        }
        let look = if changes.is_empty() {
            Look::Done
        } else {
            Look::Again
        };
        inner.changes = changes;
        drop(inner);
        for (index, plan) in plans.drain(..) {
            self.set(index, plan, wheel);
        }
        look
    }

    fn set<T: From<UserTimer>>(&mut self, index: u32, plan: Plan, wheel: &mut Wheel<T>) {
        let place = index as usize;
        if self.armed.len() <= place {
            self.armed.resize(place + 1, None);
        }
        if let Some(old) = self.armed[place].take() {
            wheel.cancel(old.key);
        }
        if plan.is_set {
            let timer = UserTimer {
                queue: self.queue.id,
                index,
                generation: plan.generation,
            };
            self.armed[place] = Some(Armed {
                key: wheel.insert(tick_of(plan.due), timer.into()),
                generation: plan.generation,
                due: plan.due,
                period: plan.period,
            });
        }
    }

    /// Sends the index of a cell on its way, unless it is under way: into the channel, or back.
    fn deliver(&self, index: u32) -> Option<TimerDelivery> {
        if self.queue.cell(index).queued.swap(true, Ordering::AcqRel) {
            return None;
        }
        let delivery = TimerDelivery {
            queue: Arc::clone(&self.queue),
            index,
            opened: false,
        };
        match &self.way {
            Way::InOrder => return Some(delivery),
            Way::Channel(sender) => {
                if let Err(error) = sender.try_send(delivery) {
                    // The queue was dropped; that is still to be seen. What was in it is not
                    // counted.
                    error.into_inner().opened = true;
                }
            }
        }
        None
    }
}

impl fmt::Debug for TimerTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TimerTable")
            .field("queues", &self.queues.len())
            .finish_non_exhaustive()
    }
}
