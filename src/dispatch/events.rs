//! Subscribers of events: how to become one, and their end of the queue.
//!
//! An event goes through the dispatch queue like a block, so its order to the messages of its peer
//! is the one in which the loop saw them. It is offered to every event subscriber by one
//! `try_send`; the newest that does not fit is dropped and counted.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use crossbeam_channel::Receiver;

use super::{
    account::Account,
    outlet::{Outlet, Subscriber},
    registry::Registry,
};
use crate::{
    error::{RecvError, RecvTimeoutError, SubscribeError, TryRecvError},
    event::Event,
    id::SubscriberId,
    ledger::{EventSubscriberRow, Traffic},
    limits::{QUEUE_MESSAGES_MAX_CEILING, SUBSCRIBER_EVENTS_MAX_DEFAULT},
    slots::Slots,
    sync::counted_unmodelled,
};

/// What an event counts for in its subscriber's queue.
pub(super) const ONE: Traffic = Traffic::new(1, 0);

/// How to subscribe to events.
///
/// # Examples
///
/// ```
/// use nebnet::EventOptions;
///
/// let options = EventOptions::new().name("watcher").capacity(100_000);
/// # let _ = options;
/// ```
#[derive(Clone, Debug)]
pub struct EventOptions {
    pub(crate) name: Option<String>,
    pub(crate) capacity: usize,
}

impl EventOptions {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self {
            name: None,
            capacity: SUBSCRIBER_EVENTS_MAX_DEFAULT,
        }
    }

    /// The name that reports and logs show; default `subscriber-N`.
    #[must_use]
    pub fn name(self, name: impl Into<String>) -> Self {
        Self {
            name: Some(name.into()),
            ..self
        }
    }

    /// Events that the queue holds: 1 to 2^22, default 8,192. Each costs up to 330 bytes while it
    /// is there, and nothing before.
    ///
    /// When a service with many peers stops, each of them gives an event in a moment.
    #[must_use]
    pub fn capacity(self, capacity: usize) -> Self {
        Self { capacity, ..self }
    }

    pub(crate) fn validate(&self) -> Result<(), SubscribeError> {
        let (value, max) = (self.capacity, QUEUE_MESSAGES_MAX_CEILING);
        if value == 0 || value > max {
            return Err(SubscribeError::OutOfRange {
                setting: "capacity",
                value,
                max,
            });
        }
        Ok(())
    }
}

impl Default for EventOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// An event on its way to one subscriber.
///
/// It comes out of [`EventSubscription::receiver`], for use in `select!`. Dropped before it is
/// [taken](Self::into_event), it counts as discarded.
pub struct EventDelivery {
    /// `None` once it was taken or dropped, and counted as such.
    event: Option<Box<Event>>,
    /// Running number of the event, among those of its shard; that is in the highest byte.
    number: u64,
    account: Arc<Account>,
}

impl EventDelivery {
    /// An event of a shard, with its running number there; a place was taken for it.
    pub(super) fn new(event: Box<Event>, shard: u8, number: u64, account: &Arc<Account>) -> Self {
        Self {
            event: Some(event),
            number: u64::from(shard) << 56 | number,
            account: Arc::clone(account),
        }
    }

    /// The shard that the event comes from.
    pub(super) fn shard(&self) -> u8 {
        self.number.to_be_bytes()[0]
    }

    /// The event, taken. How many are missing before it is then told by
    /// [`EventSubscription::missed`].
    #[must_use = "an event that is dropped has been taken"]
    #[expect(
        clippy::missing_panics_doc,
        reason = "the event is there until this call, which uses the delivery up"
    )]
    pub fn into_event(mut self) -> Event {
        let event = self.event.take().expect("a delivery is opened once");
        let shard = self.shard();
        let counters = self.account.counters(shard);
        counters.begin_move(1);
        self.account.lower(shard, ONE);
        counters.end_taken(1);
        let number = self.number & (u64::MAX >> 8);
        let expected = counters.expected.swap(number + 1, Ordering::Relaxed);
        let missed = number.saturating_sub(expected);
        self.account.note_missed_events(missed);
        self.account.note_event_room();
        *event
    }
}

impl Drop for EventDelivery {
    fn drop(&mut self) {
        if self.event.is_some() {
            let shard = self.shard();
            let counters = self.account.counters(shard);
            counters.begin_move(1);
            self.account.lower(shard, ONE);
            counters.end_discarded(1);
            self.account.note_event_room();
        }
    }
}

impl fmt::Debug for EventDelivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventDelivery")
            .field("event", &self.event)
            .field("number", &self.number)
            .finish_non_exhaustive()
    }
}

/// Offers an event of a shard to a subscriber; false if its queue was full, which is counted.
pub(super) fn offer(subscriber: &Subscriber, event: Box<Event>, shard: u8) -> bool {
    let account = &subscriber.account;
    let counters = account.counters(shard);
    let number = counters.matched.get();
    counters.matched.add(1);
    let Outlet::Events(sender) = &subscriber.outlet else {
        // The service has failed meanwhile.
        counters.discard(1);
        return true;
    };
    // Raised first, so that the subscriber never lowers what was not raised.
    if account.reserve(shard, ONE, 1) == 0 {
        counters.dropped.add(1);
        return false;
    }
    let delivery = EventDelivery::new(event, shard, number, account);
    // If the subscription was dropped, its removal is on the way. The delivery counts itself.
    drop(sender.try_send(delivery));
    true
}

/// A subscriber's queue of events, and the right to take from it. Dropping it unsubscribes.
///
/// The events of a peer come in the order in which they came about, and in order with its messages:
/// `Connected` is in the queue before any message of the peer is in any queue; when `Closed` is in
/// it, every message of the peer is in the queues of its subscribers, or was taken already, or
/// waits for room there. But two queues have no order: a thread that takes from both sees messages
/// before their `Connected`, or behind their `Closed`. Who wants both asks for events among the
/// messages, with [`SubscribeOptions::with_events`](crate::SubscribeOptions::with_events); this
/// queue is for those who want events alone.
///
/// When the queue is full, the newest events are dropped and counted: [`missed`](Self::missed) says
/// how many, between which events. After the service stopped, the subscription yields what is left,
/// the `Closed` of every peer included, and then says that it is disconnected.
///
/// # Examples
///
/// ```
/// # use nebnet::{Config, NetService};
/// # use std::net::TcpStream;
/// use nebnet::{Event, EventOptions};
///
/// # let config = Config::default().listen("127.0.0.1:0".parse()?);
/// # let mut service = NetService::new(config)?;
/// let events = service.handle().subscribe_events(EventOptions::new())?;
/// # service.start()?;
/// # drop(TcpStream::connect(service.local_addrs()[0])?);
/// for event in &events {
///     match event {
///         Event::Connected { peer, addr, .. } => println!("{peer} is {addr}"),
///         Event::Closed(row) => {
///             println!("{} closed: {}", row.peer, row.reason);
///             break;
///         }
///         _ => {}
///     }
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct EventSubscription {
    receiver: Receiver<EventDelivery>,
    account: Arc<Account>,
    registry: Arc<Registry>,
    slots: Arc<Slots>,
}

impl EventSubscription {
    pub(crate) fn new(
        options: EventOptions,
        registry: Arc<Registry>,
        slots: Arc<Slots>,
    ) -> Result<Self, SubscribeError> {
        options.validate()?;
        let (sender, receiver) = counted_unmodelled();
        // Counted first, so that nothing that the fan-out could deliver is left unmade.
        slots.event_subscribers.fetch_add(1, Ordering::SeqCst);
        match registry.add_events(options, sender) {
            Ok(account) => Ok(Self {
                receiver,
                account,
                registry,
                slots,
            }),
            Err(error) => {
                slots.event_subscribers.fetch_sub(1, Ordering::SeqCst);
                Err(error)
            }
        }
    }

    /// The next event; waits for it.
    ///
    /// # Errors
    ///
    /// [`RecvError`] once the service has stopped and everything was taken.
    pub fn recv(&self) -> Result<Event, RecvError> {
        let delivery = self.receiver.recv().map_err(|_| RecvError)?;
        Ok(delivery.into_event())
    }

    /// The next event, if there is one.
    ///
    /// # Errors
    ///
    /// [`TryRecvError::Empty`] if there is none now, [`TryRecvError::Disconnected`] as for
    /// [`recv`](Self::recv).
    pub fn try_recv(&self) -> Result<Event, TryRecvError> {
        match self.receiver.try_recv() {
            Ok(delivery) => Ok(delivery.into_event()),
            Err(crossbeam_channel::TryRecvError::Empty) => Err(TryRecvError::Empty),
            Err(crossbeam_channel::TryRecvError::Disconnected) => Err(TryRecvError::Disconnected),
        }
    }

    /// The next event; waits for it no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// [`RecvTimeoutError::Timeout`] if none came, [`RecvTimeoutError::Disconnected`] as for
    /// [`recv`](Self::recv).
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Event, RecvTimeoutError> {
        match self.receiver.recv_timeout(timeout) {
            Ok(delivery) => Ok(delivery.into_event()),
            Err(crossbeam_channel::RecvTimeoutError::Timeout) => Err(RecvTimeoutError::Timeout),
            Err(crossbeam_channel::RecvTimeoutError::Disconnected) => {
                Err(RecvTimeoutError::Disconnected)
            }
        }
    }

    /// Iterates over events and waits for each; ends when the service has stopped and everything
    /// was taken.
    pub fn iter(&self) -> EventIter<'_> {
        EventIter { subscription: self }
    }

    /// How many events were dropped between the one that was taken last and the one before it,
    /// because the queue was full. Those that were dropped at the very end only show in
    /// [`row`](Self::row). With several [`shards`](crate::Config::shards) this counts among the
    /// events of one loop.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.account.missed_events()
    }

    /// The channel behind the subscription, for crossbeam's `select!`. What comes out of it becomes
    /// an event by [`EventDelivery::into_event`].
    #[must_use]
    pub fn receiver(&self) -> &Receiver<EventDelivery> {
        &self.receiver
    }

    /// The subscriber's id.
    #[must_use]
    pub fn id(&self) -> SubscriberId {
        self.account.id
    }

    /// The subscriber's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.account.name
    }

    /// What became of the subscriber's events so far.
    #[must_use]
    pub fn row(&self) -> EventSubscriberRow {
        self.account.event_row()
    }
}

impl Drop for EventSubscription {
    fn drop(&mut self) {
        self.slots.event_subscribers.fetch_sub(1, Ordering::SeqCst);
        self.registry.remove(self.account.id);
    }
}

/// Iterator of [`EventSubscription::iter`].
#[derive(Debug)]
pub struct EventIter<'a> {
    subscription: &'a EventSubscription,
}

impl Iterator for EventIter<'_> {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        self.subscription.recv().ok()
    }
}

impl<'a> IntoIterator for &'a EventSubscription {
    type Item = Event;
    type IntoIter = EventIter<'a>;

    fn into_iter(self) -> EventIter<'a> {
        self.iter()
    }
}

/// Deliveries come in numbers up to what the queue holds, so their size is memory.
const _: () = assert!(size_of::<EventDelivery>() <= 24);
