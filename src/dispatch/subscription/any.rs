//! A subscriber's end of a queue that holds events and timers too.

use std::time::Duration;

use super::Subscription;
use crate::{
    dispatch::{Delivery, Received, mixed::Opened},
    error::{RecvError, RecvTimeoutError, TimerError, TryRecvError},
    ledger::EventSubscriberRow,
    timers::TimerId,
};

impl Subscription {
    /// The next batch, event or timer, in the order in which they came about; waits for it. Of a
    /// queue without events and timers this is the next batch.
    ///
    /// Of one peer, `Connected` comes before all of its messages in this queue, and `Closed` behind
    /// all of them, exactly once each; of a peer that was connected before the subscription, what
    /// comes from then on. With several [`shards`](crate::Config::shards) this is the order of each
    /// peer; timers are in order with what the first loop reads.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv).
    ///
    /// # Examples
    ///
    /// ```
    /// use nebnet::{Config, Event, MessageType, NetService, Received, SubscribeOptions};
    ///
    /// # let config = Config::default().listen("127.0.0.1:0".parse()?);
    /// # let mut service = NetService::new(config)?;
    /// let options = SubscribeOptions::new(MessageType(7)).with_events();
    /// let mut inbox = service.handle().subscribe_with(options)?;
    /// # service.start()?;
    /// # nebnet::Client::connect(service.local_addrs()[0])?.send((MessageType(7), "hi"))?;
    /// loop {
    ///     match inbox.recv_any()? {
    ///         Received::Event(Event::Connected { peer, .. }) => println!("{peer} is here"),
    ///         Received::Batch(batch) => println!("{} of {}", batch.len(), batch.peer()),
    ///         Received::Event(Event::Closed(row)) => {
    ///             println!("that was all of {}: {}", row.peer, row.reason);
    ///             break;
    ///         }
    ///         _ => {}
    ///     }
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn recv_any(&mut self) -> Result<Received, RecvError> {
        loop {
            let next = match self.pop_ahead() {
                Some(held) => held,
                None => match self.next_delivery() {
                    Ok(delivery) => self.sort_in(delivery),
                    Err(end) => self.pop_ahead().ok_or(end)?,
                },
            };
            if let Some(received) = next.open() {
                return Ok(received);
            }
        }
    }

    /// The next batch, event or timer, if there is one.
    ///
    /// # Errors
    ///
    /// As [`try_recv`](Self::try_recv).
    pub fn try_recv_any(&mut self) -> Result<Received, TryRecvError> {
        loop {
            let next = match self.pop_ahead() {
                Some(held) => held,
                None => match self.try_next_delivery() {
                    Ok(delivery) => self.sort_in(delivery),
                    Err(none) => self.pop_ahead().ok_or(none)?,
                },
            };
            if let Some(received) = next.open() {
                return Ok(received);
            }
        }
    }

    /// The next batch, event or timer; waits for it no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// As [`recv_timeout`](Self::recv_timeout).
    pub fn recv_any_timeout(&mut self, timeout: Duration) -> Result<Received, RecvTimeoutError> {
        let started = self.clock.elapsed();
        loop {
            let next = match self.pop_ahead() {
                Some(held) => held,
                None => {
                    let waited = self.clock.elapsed().saturating_sub(started);
                    match self.next_delivery_timeout(timeout.saturating_sub(waited)) {
                        Ok(delivery) => self.sort_in(delivery),
                        Err(none) => self.pop_ahead().ok_or(none)?,
                    }
                }
            };
            if let Some(received) = next.open() {
                return Ok(received);
            }
        }
    }

    /// Opens a delivery that came out of [`receiver`](Self::receiver), of a queue with events or
    /// timers. This is usually one item; none, if it is a timer that was cancelled meanwhile; more,
    /// with [`OverflowPolicy::DropOldest`](crate::OverflowPolicy::DropOldest), if events stood
    /// before batches that were dropped.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # fn example(inbox: nebnet::Subscription) -> Result<(), Box<dyn std::error::Error>> {
    /// use crossbeam_channel::{select, tick};
    /// use nebnet::Received;
    /// use std::time::Duration;
    ///
    /// let ticks = tick(Duration::from_secs(1));
    /// loop {
    ///     select! {
    ///         recv(inbox.receiver()) -> delivery => for received in inbox.open(delivery?) {
    ///             match received {
    ///                 Received::Batch(batch) => println!("{} messages", batch.len()),
    ///                 Received::Event(event) => println!("{event:?}"),
    ///                 _ => {}
    ///             }
    ///         },
    ///         recv(ticks) -> _ => println!("a second"),
    ///     }
    /// }
    /// # }
    /// ```
    pub fn open(&self, delivery: Delivery) -> Opened {
        Opened::new(self.mixed.as_deref(), delivery)
    }

    /// How many events were dropped between the one that was taken last and the one before it,
    /// because the room for events was used up; none ever with
    /// [`OverflowPolicy::Pause`](crate::OverflowPolicy::Pause). With several
    /// [`shards`](crate::Config::shards) this counts among the events of one loop.
    #[must_use]
    pub fn missed_events(&self) -> u64 {
        self.mixed.as_ref().map_or(0, |mixed| mixed.missed())
    }

    /// What became of the events of a queue that has them; `None` for others. A
    /// [`Snapshot`](crate::Snapshot) lists it under the subscriber's id.
    #[must_use]
    pub fn event_row(&self) -> Option<EventSubscriberRow> {
        let events = self.mixed.as_ref()?.events.as_ref()?;
        Some(events.event_row())
    }

    /// Sets a timer that expires once into this queue, as [`Timers::after`](crate::Timers::after).
    ///
    /// # Errors
    ///
    /// See [`TimerError`]: [`TimerError::TooMany`] if there are as many as
    /// [`SubscribeOptions::with_timers`](crate::SubscribeOptions::with_timers) has asked for, which
    /// is none if it was not called.
    pub fn after(&self, delay: Duration) -> Result<TimerId, TimerError> {
        match self.mixed.as_ref().and_then(|mixed| mixed.timers.as_ref()) {
            Some(timers) => timers.after(delay),
            None => Err(TimerError::TooMany { limit: 0 }),
        }
    }

    /// Sets a timer that expires again and again into this queue, as
    /// [`Timers::every`](crate::Timers::every).
    ///
    /// # Errors
    ///
    /// As [`after`](Self::after); a period of zero is refused.
    pub fn every(&self, period: Duration) -> Result<TimerId, TimerError> {
        match self.mixed.as_ref().and_then(|mixed| mixed.timers.as_ref()) {
            Some(timers) => timers.every(period),
            None => Err(TimerError::TooMany { limit: 0 }),
        }
    }

    /// Ends a timer of this queue, as [`Timers::cancel`](crate::Timers::cancel).
    #[must_use = "false says that the timer had ended before"]
    pub fn cancel(&self, timer: TimerId) -> bool {
        let timers = self.mixed.as_ref().and_then(|mixed| mixed.timers.as_ref());
        timers.is_some_and(|timers| timers.cancel(timer))
    }

    /// What stands ahead of the queue.
    fn pop_ahead(&self) -> Option<Delivery> {
        self.mixed.as_ref()?.pop()
    }

    /// What comes first: what came out of the queue, or what stood ahead of it.
    fn sort_in(&self, delivery: Delivery) -> Delivery {
        match &self.mixed {
            Some(mixed) => mixed.sort_in(delivery),
            None => delivery,
        }
    }
}
