//! Queues that hold events and timers beside messages, in the order in which they came about.
//!
//! Two queues have no order that is right: a thread that looks at events first sees `Closed` before
//! the messages that came before it, and one that looks at messages first sees those before their
//! `Connected`. So a subscriber that asks for it gets all of them through one channel: the fan-out,
//! which has events and blocks in their order, puts them into it in that order.
//!
//! Events have room of their own ([`SubscribeOptions::event_capacity`]), because messages that are
//! dropped leave a gap and an event that is dropped leaves a contradiction. The invariant is: of a
//! peer, a queue has all of `Connected`, messages, `Closed` in this order, or nothing at all.
//!
//! What makes room in a queue of [`OverflowPolicy::DropOldest`](super::OverflowPolicy::DropOldest)
//! drops batches, and no events: those that it meets before them go into a list that is [`Ahead`]
//! of the queue.

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, PoisonError, TryLockError, atomic::Ordering},
};

use super::{
    EventDelivery, SubscribeOptions,
    account::Account,
    outlet::Outlet,
    subscription::{Batch, BatchDelivery},
};
use crate::{
    error::SubscribeError,
    event::Event,
    slots::Slots,
    sync::{Mutex, MutexGuard},
    timers::{TimerDelivery, TimerExpired, TimerHub, TimerSet},
};

/// What a subscriber's queue holds; see [`Subscription::recv_any`].
///
/// [`Subscription::recv_any`]: crate::Subscription::recv_any
#[derive(Debug)]
#[non_exhaustive]
pub enum Received {
    /// Messages of one peer.
    Batch(Batch),
    /// Something became of a peer; only with [`SubscribeOptions::with_events`].
    Event(Event),
    /// A timer has expired; only with [`SubscribeOptions::with_timers`].
    Timer(TimerExpired),
}

/// Something on its way to one subscriber: messages, which are a part of a block, or an event or an
/// expired timer, if it asked for them.
///
/// It comes out of [`Subscription::receiver`], for use in `select!`;
/// [`into_batch`](Self::into_batch) makes a [`Batch`] of it, and [`Subscription::open`] whatever it
/// is. Dropped before that, messages and events count as discarded.
///
/// [`Subscription::receiver`]: crate::Subscription::receiver
/// [`Subscription::open`]: crate::Subscription::open
pub struct Delivery(pub(super) Content);

#[derive(Debug)]
pub(super) enum Content {
    Batch(BatchDelivery),
    Extra(Extra),
}

/// An event or a timer in a queue.
#[derive(Debug)]
pub(super) struct Extra {
    pub(super) what: What,
    /// Running number of the message of its shard that comes next behind it.
    pub(super) behind: u64,
    /// Its own running number, among what its shard has put into the queue besides messages.
    pub(super) number: u64,
}

#[derive(Debug)]
pub(super) enum What {
    Event(EventDelivery),
    Timer(TimerDelivery),
}

impl Delivery {
    /// The messages, taken.
    ///
    /// # Panics
    ///
    /// If it is an event or a timer: what comes out of a queue that has those is to be given to
    /// [`Subscription::open`](crate::Subscription::open).
    #[inline]
    #[must_use = "a batch that is dropped has been taken"]
    pub fn into_batch(self) -> Batch {
        match self.0 {
            Content::Batch(batch) => batch.into_batch(),
            Content::Extra(_) => panic!("an event or a timer is no batch: Subscription::open"),
        }
    }

    /// Whatever it is, taken; `None` for a timer that was cancelled meanwhile.
    #[inline]
    pub(super) fn open(self) -> Option<Received> {
        match self.0 {
            Content::Batch(batch) => Some(Received::Batch(batch.into_batch())),
            Content::Extra(extra) => match extra.what {
                What::Event(event) => Some(Received::Event(event.into_event())),
                What::Timer(timer) => timer.into_expired().map(Received::Timer),
            },
        }
    }

    /// Bytes of messages.
    pub(super) fn size(&self) -> usize {
        match &self.0 {
            Content::Batch(batch) => batch.block().bytes().len(),
            Content::Extra(_) => 0,
        }
    }

    fn shard(&self) -> u8 {
        match &self.0 {
            Content::Batch(batch) => batch.shard(),
            Content::Extra(extra) => extra.shard(),
        }
    }

    /// Whether it came before another. What comes from another shard is ordered by nothing, and
    /// may.
    fn is_before(&self, other: &Self) -> bool {
        self.shard() != other.shard()
            || match (&self.0, &other.0) {
                (Content::Batch(one), Content::Batch(other)) => one.number() < other.number(),
                (Content::Batch(batch), Content::Extra(extra)) => batch.number() < extra.behind,
                (Content::Extra(extra), Content::Batch(batch)) => extra.behind <= batch.number(),
                (Content::Extra(one), Content::Extra(other)) => one.number < other.number,
            }
    }
}

impl From<BatchDelivery> for Delivery {
    #[inline]
    fn from(batch: BatchDelivery) -> Self {
        Self(Content::Batch(batch))
    }
}

impl fmt::Debug for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Content::Batch(batch) => batch.fmt(f),
            Content::Extra(extra) => extra.what.fmt(f),
        }
    }
}

impl Extra {
    fn shard(&self) -> u8 {
        match &self.what {
            What::Event(event) => event.shard(),
            // Timers are with the first loop.
            What::Timer(_) => 0,
        }
    }
}

/// Events and timers that stood before batches which gave way to newer ones, and what the
/// subscriber took out of the queue before it knew of those. They are older than whatever is in the
/// queue; only what was just taken out of it may be older still.
///
/// The fan-out, which never waits, tries the lock; the subscriber holds it for a few moves.
#[derive(Debug, Default)]
pub(crate) struct Ahead(Mutex<VecDeque<Delivery>>);

impl Ahead {
    pub(super) fn try_lock(&self) -> Option<MutexGuard<'_, VecDeque<Delivery>>> {
        match self.0.try_lock() {
            Ok(list) => Some(list),
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Delivery>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes out what came before a delivery that was just taken out of the queue.
    ///
    /// What moves from the queue to this list does so under the lock. So if it left the queue
    /// before the delivery did, it is here once the lock is to be had.
    fn take_before(&self, delivery: &Delivery) -> VecDeque<Delivery> {
        let mut list = self.lock();
        let first_behind = list.iter().position(|one| !one.is_before(delivery));
        let count = first_behind.unwrap_or(list.len());
        let behind = list.split_off(count);
        std::mem::replace(&mut *list, behind)
    }

    /// Puts what was just taken out of the queue behind what came before it, and takes the first.
    fn sort_in(&self, delivery: Delivery) -> Delivery {
        let mut list = self.lock();
        let first_behind = list.iter().position(|one| !one.is_before(&delivery));
        let place = first_behind.unwrap_or(list.len());
        match list.pop_front() {
            Some(first) if place > 0 => {
                list.insert(place - 1, delivery);
                first
            }
            Some(first) => {
                list.push_front(first);
                delivery
            }
            None => delivery,
        }
    }

    fn pop(&self) -> Option<Delivery> {
        self.lock().pop_front()
    }
}

/// What the subscription of such a queue has besides.
pub(super) struct MixedEnd {
    /// Counts the events.
    pub(super) events: Option<Arc<Account>>,
    pub(super) timers: Option<TimerSet>,
    /// Where it is counted as one that gets events.
    _watched: Option<Watched>,
    ahead: Option<Arc<Ahead>>,
}

impl MixedEnd {
    /// Of a subscriber that is about to be added, so that nothing which could be delivered to it is
    /// left unmade.
    pub(super) fn new(
        options: &SubscribeOptions,
        outlet: &Outlet,
        slots: &Arc<Slots>,
        hub: &Arc<TimerHub>,
    ) -> Result<Self, SubscribeError> {
        let make = || TimerSet::new(Arc::clone(hub), Arc::clone(slots), options.timers);
        let timers = (options.timers > 0).then(make).transpose();
        Ok(Self {
            events: None,
            timers: timers.map_err(SubscribeError::Timers)?,
            _watched: options.events.then(|| Watched::new(slots)),
            ahead: outlet.ahead(),
        })
    }

    /// The same of one that was added.
    pub(super) fn counting(self, events: Option<Arc<Account>>) -> Self {
        Self { events, ..self }
    }

    pub(super) fn timer_set(&self) -> Option<u32> {
        self.timers.as_ref().map(TimerSet::id)
    }

    pub(super) fn missed(&self) -> u64 {
        self.events
            .as_ref()
            .map_or(0, |events| events.missed_events())
    }

    /// What is ahead of the queue.
    pub(super) fn pop(&self) -> Option<Delivery> {
        self.ahead.as_ref()?.pop()
    }

    /// Takes in what came out of the queue, and says what comes first now.
    pub(super) fn sort_in(&self, delivery: Delivery) -> Delivery {
        match &self.ahead {
            Some(ahead) => ahead.sort_in(delivery),
            None => delivery,
        }
    }

    /// Throws away what is ahead of the queue, because the subscription ends.
    pub(super) fn clear(&self) {
        while self.pop().is_some() {}
    }
}

/// Has the loops make events while it lives.
struct Watched(Arc<Slots>);

impl Watched {
    fn new(slots: &Arc<Slots>) -> Self {
        slots.event_subscribers.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(slots))
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.event_subscribers.fetch_sub(1, Ordering::SeqCst);
    }
}

impl fmt::Debug for MixedEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MixedEnd")
            .field("events", &self.events.is_some())
            .field("timers", &self.timers)
            .finish_non_exhaustive()
    }
}

/// What a delivery is, and what came before it; see [`Subscription::open`]. What is not taken out
/// of it counts as discarded.
///
/// [`Subscription::open`]: crate::Subscription::open
#[derive(Debug)]
pub struct Opened {
    before: VecDeque<Delivery>,
    delivery: Option<Delivery>,
}

impl Opened {
    pub(super) fn new(mixed: Option<&MixedEnd>, delivery: Delivery) -> Self {
        let ahead = mixed.and_then(|mixed| mixed.ahead.as_ref());
        let before = ahead.map(|ahead| ahead.take_before(&delivery));
        Self {
            before: before.unwrap_or_default(),
            delivery: Some(delivery),
        }
    }
}

impl Iterator for Opened {
    type Item = Received;

    fn next(&mut self) -> Option<Received> {
        loop {
            let next = self.before.pop_front().or_else(|| self.delivery.take())?;
            if let Some(received) = next.open() {
                return Some(received);
            }
        }
    }
}

/// Deliveries come in numbers up to what the queue holds, so their size is memory.
const _: () = assert!(size_of::<Delivery>() <= 56);
