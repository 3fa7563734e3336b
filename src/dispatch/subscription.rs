//! A subscriber's end of its queue.

mod any;

use std::{
    fmt, slice,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{
    Delivery, EndReason, OverflowPolicy, SubscribeOptions,
    account::Account,
    channel::Receiver,
    index::{Index, Share},
    mixed::MixedEnd,
    outlet::Outlet,
    registry::Registry,
    requests::is_answer,
};
use crate::{
    block::{BlockFrames, BlockRef, Message, MessageRef},
    clock::Clock,
    error::{RecvError, RecvTimeoutError, SubscribeError, TryRecvError},
    id::{PeerId, SubscriberId},
    idle::{Idle, IdleStrategy},
    ledger::{SubscriberRow, Traffic},
    slots::Slots,
    sync::channel,
    timers::TimerHub,
};

/// Messages on their way to one subscriber: a part of a block. Dropped before they are taken, they
/// count as discarded.
pub(crate) struct BatchDelivery {
    block: BlockRef,
    /// Where its first message begins: in the block, or among the offsets of the index.
    start: u32,
    /// Messages from there on that are the subscriber's.
    count: u32,
    /// Whether all of them are, so that none need be tested.
    is_all: bool,
    /// The tag of answers to requests, if there are any among them: those are not delivered.
    answers: Option<u32>,
    /// Where the subscriber's messages begin, if that was written down.
    index: Option<Arc<Index>>,
    /// Bytes of memory that block and index keep in use.
    pinned: u32,
    place: Place,
    /// Running number of the first message.
    number: u64,
    account: Arc<Account>,
}

/// Where a delivery is, which says who counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// With the dispatcher, not in any sum yet.
    Offered,
    /// With the dispatcher, waiting for room.
    Parked,
    /// In the subscriber's queue.
    Queued,
    /// With the subscriber.
    Taken,
}

impl BatchDelivery {
    #[inline]
    pub(crate) fn new(block: BlockRef, share: &Share, number: u64, account: Arc<Account>) -> Self {
        Self {
            block,
            start: share.first,
            count: share.count,
            is_all: share.is_all,
            answers: share.answers,
            index: share.index.clone(),
            pinned: share.pinned,
            place: Place::Offered,
            number,
            account,
        }
    }

    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    pub(crate) fn block(&self) -> &BlockRef {
        &self.block
    }

    /// What the delivery counts for in the subscriber's queue: its messages, and the storage that
    /// it pins.
    #[inline]
    pub(crate) fn charge(&self) -> Traffic {
        Traffic::new(u64::from(self.count), u64::from(self.pinned))
    }

    /// Splits off everything behind the first `count` messages.
    pub(crate) fn split_off(&mut self, count: u32) -> Self {
        let mut messages = self.messages();
        messages.by_ref().take(count as usize).for_each(drop);
        let rest = Self {
            block: self.block.clone(),
            start: messages.start(),
            count: self.count - count,
            is_all: self.is_all,
            answers: self.answers,
            index: self.index.clone(),
            pinned: self.pinned,
            place: self.place,
            number: self.number + u64::from(count),
            account: Arc::clone(&self.account),
        };
        self.count = count;
        rest
    }

    /// The messages, borrowed where they lie.
    #[inline]
    pub(crate) fn messages(&self) -> Messages<'_> {
        let (start, size) = (self.start as usize, self.block.bytes().len());
        let (start, offsets) = match &self.index {
            Some(index) => (size, index.from(start)),
            None => (start, [].as_slice()),
        };
        Messages {
            frames: BlockFrames::new(&self.block, start, size),
            offsets: offsets.iter(),
            size: self.alike(),
            delivery: self,
            left: self.count as usize,
        }
    }

    /// The size of all messages, if it is the same; 0 otherwise.
    #[inline]
    fn alike(&self) -> usize {
        let size = self.block.head().frame_size;
        size.filter(|_| self.is_all).unwrap_or(0)
    }

    /// Whether a message of the block is the subscriber's.
    fn takes(&self, message: &MessageRef<'_>) -> bool {
        let tag = self.answers;
        let answers = tag.is_some_and(|tag| is_answer(message.correlation(), tag));
        !answers && self.account.types.contains(message.message_type())
    }

    /// Running number of the first message.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// The shard that the delivery comes from.
    #[inline]
    pub(super) fn shard(&self) -> u8 {
        self.block.head().peer.shard()
    }

    /// Makes the delivery one of the queue, where its room was [reserved](Account::reserve).
    #[inline]
    pub(crate) fn enter_queue(&mut self) {
        if self.place == Place::Parked {
            let counters = self.account.counters(self.shard());
            counters
                .parked
                .fetch_sub(u64::from(self.count), Ordering::Relaxed);
        }
        self.place = Place::Queued;
    }

    /// Moves the delivery on; the place it leaves gives up its count, the new one takes it.
    #[inline]
    pub(crate) fn set_place(&mut self, place: Place) {
        let (count, shard) = (u64::from(self.count), self.shard());
        let counters = self.account.counters(shard);
        if place == Place::Taken {
            counters.begin_move(count);
        }
        match self.place {
            Place::Offered | Place::Taken => {}
            Place::Parked => {
                counters.parked.fetch_sub(count, Ordering::Relaxed);
            }
            Place::Queued => self.account.lower(shard, self.charge()),
        }
        match place {
            Place::Offered | Place::Queued => {}
            Place::Parked => {
                counters.parked.fetch_add(count, Ordering::Relaxed);
            }
            Place::Taken => counters.end_taken(count),
        }
        self.place = place;
    }

    /// Gives it to the subscriber.
    #[inline]
    pub(super) fn into_batch(mut self) -> Batch {
        self.set_place(Place::Taken);
        let next = self.number + u64::from(self.count);
        let expected = &self.account.counters(self.shard()).expected;
        let expected = expected.swap(next, Ordering::Relaxed);
        self.account.note_room();
        Batch {
            missed: self.number.saturating_sub(expected),
            delivery: self,
        }
    }

    /// Drops the delivery out of the queue, for others that come later.
    pub(crate) fn displace(mut self) {
        let (count, shard) = (u64::from(self.count), self.shard());
        self.account.counters(shard).begin_move(count);
        self.set_place(Place::Offered);
        self.account.counters(shard).end_displaced(count);
    }
}

impl Drop for BatchDelivery {
    fn drop(&mut self) {
        match self.place {
            Place::Taken | Place::Offered => {}
            place @ (Place::Parked | Place::Queued) => {
                let (count, shard) = (u64::from(self.count), self.shard());
                self.account.counters(shard).begin_move(count);
                self.set_place(Place::Offered);
                self.account.counters(shard).end_discarded(count);
                if place == Place::Queued {
                    self.account.note_room();
                }
            }
        }
    }
}

impl fmt::Debug for BatchDelivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Delivery")
            .field("peer", &self.block.head().peer)
            .field("count", &self.count)
            .field("number", &self.number)
            .field("place", &self.place)
            .finish_non_exhaustive()
    }
}

/// The messages that one read brought for a subscriber, borrowed where they lie. All are from
/// one peer, in the order in which it sent them.
///
/// A batch keeps its storage in use (512 bytes to 64 KiB, or one long frame) and counts
/// against the credit of its peer until it is dropped: a subscriber that keeps batches
/// stops being sent more.
#[derive(Debug)]
pub struct Batch {
    delivery: BatchDelivery,
    missed: u64,
}

impl Batch {
    /// Who sent the messages.
    #[must_use]
    pub fn peer(&self) -> PeerId {
        self.delivery.block.head().peer
    }

    /// Number of messages; at least one.
    #[must_use]
    pub fn len(&self) -> usize {
        self.delivery.count as usize
    }

    /// Whether no message is left; only after all were taken by [`Subscription::recv`].
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.delivery.count == 0
    }

    /// How many messages of this subscriber were dropped between the batch before and this one.
    /// [`Subscription::missed`] is for those who take messages one by one.
    /// With several [`shards`](crate::Config::shards) this counts among the messages of one loop,
    /// that of [`peer`](Self::peer).
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.missed
    }

    /// Iterates over the messages; no allocation and no reference count for any of them.
    pub fn iter(&self) -> Messages<'_> {
        self.delivery.messages()
    }

    /// The first message, taken out.
    fn pop(&mut self) -> Option<Message> {
        let mut messages = self.iter();
        let message = messages.next()?.to_message();
        self.delivery.start = messages.start();
        self.delivery.count -= 1;
        Some(message)
    }
}

impl<'a> IntoIterator for &'a Batch {
    type Item = MessageRef<'a>;
    type IntoIter = Messages<'a>;

    fn into_iter(self) -> Messages<'a> {
        self.iter()
    }
}

/// So many frames ahead the memory is asked for the beginning of one, so that it comes while those
/// before it are looked at: another core has written it, and only the one before says where it is.
const FRAMES_AHEAD: usize = 8;

/// Iterator over the messages of a [`Batch`].
#[derive(Clone, Debug)]
pub struct Messages<'a> {
    /// What is not walked yet.
    frames: BlockFrames<'a>,
    /// What is left of the index, if there is one.
    offsets: slice::Iter<'a, u16>,
    /// The size of every frame, if it need not be read in the headers; 0 otherwise.
    size: usize,
    delivery: &'a BatchDelivery,
    left: usize,
}

impl<'a> Messages<'a> {
    /// Where the messages that are left begin, as the delivery knows it.
    fn start(&self) -> u32 {
        let start = match &self.delivery.index {
            Some(index) => index.len() - self.offsets.len(),
            None => self.delivery.block.bytes().len() - self.frames.rest_size(),
        };
        u32::try_from(start).unwrap_or(u32::MAX)
    }
}

/// The next message that is the subscriber's, in a block that holds others too. The frames come
/// and go by value, so that a walk of a block without others keeps them in registers.
#[inline(never)]
fn next_tested<'a>(
    delivery: &BatchDelivery,
    mut frames: BlockFrames<'a>,
) -> (Option<MessageRef<'a>>, BlockFrames<'a>) {
    let message = frames.find(|message| delivery.takes(message));
    (message, frames)
}

impl<'a> Iterator for Messages<'a> {
    type Item = MessageRef<'a>;

    #[expect(
        clippy::inline_always,
        reason = "the call would cost three times what it does for messages that are alike"
    )]
    #[inline(always)]
    fn next(&mut self) -> Option<MessageRef<'a>> {
        self.left = self.left.checked_sub(1)?;
        if self.size > 0 {
            return self.frames.next_alike(self.size, FRAMES_AHEAD);
        }
        if self.delivery.is_all {
            self.frames.fetch_ahead(FRAMES_AHEAD);
        } else {
            match self.offsets.next() {
                Some(offset) => {
                    if let Some(ahead) = self.offsets.as_slice().get(FRAMES_AHEAD) {
                        self.frames.fetch(usize::from(*ahead));
                    }
                    self.frames.seek(usize::from(*offset));
                }
                None => {
                    let (message, frames) = next_tested(self.delivery, self.frames.clone());
                    self.frames = frames;
                    return message;
                }
            }
        }
        self.frames.next()
    }

    #[inline]
    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left, Some(self.left))
    }
}

impl ExactSizeIterator for Messages<'_> {}

/// A subscriber's queue, and the right to take from it. Dropping it unsubscribes.
///
/// With [`SubscribeOptions::with_events`] it holds what becomes of peers as well, and with
/// [`SubscribeOptions::with_timers`] timers of its own, all in their true order:
/// [`recv_any`](Self::recv_any) and its like take from such a queue, and the methods that give
/// messages alone panic, because they would have to throw something away.
///
/// [`SubscribeOptions::with_events`]: crate::SubscribeOptions::with_events
/// [`SubscribeOptions::with_timers`]: crate::SubscribeOptions::with_timers
///
/// After the service stopped, it yields what is left and then says that it is disconnected.
///
/// [`recv_batch`](Self::recv_batch) is the fast way: it borrows. [`recv`](Self::recv) makes an
/// owned [`Message`] of each.
///
/// # Examples
///
/// ```
/// use nebnet::{Client, Config, MessageType, NetService};
///
/// let config = Config::default().listen("127.0.0.1:0".parse()?);
/// let mut service = NetService::new(config)?;
/// let mut greetings = service.handle().subscribe(MessageType(7))?;
/// service.start()?;
///
/// let mut client = Client::connect(service.local_addrs()[0])?;
/// client.send((MessageType(7), "hi"))?;
///
/// let batch = greetings.recv_batch()?;
/// for message in &batch {
///     assert_eq!(message.payload(), b"hi");
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Subscription {
    receiver: Receiver<Delivery>,
    /// What a queue with events or timers has besides.
    mixed: Option<Box<MixedEnd>>,
    /// The batch that `recv` takes messages from.
    current: Option<Batch>,
    /// Messages that are missing before the one that `recv` gave last.
    missed: u64,
    account: Arc<Account>,
    registry: Arc<Registry>,
    idle: Idle,
    clock: Clock,
}

impl Subscription {
    pub(crate) fn new(
        receiver: Receiver<Delivery>,
        account: Arc<Account>,
        registry: Arc<Registry>,
        idle: IdleStrategy,
        clock: Clock,
    ) -> Self {
        Self {
            receiver,
            mixed: None,
            current: None,
            missed: 0,
            account,
            registry,
            idle: Idle::new(idle),
            clock,
        }
    }

    /// Subscribes as the options say; `slots` are those of the first loop.
    pub(crate) fn subscribe(
        options: SubscribeOptions,
        registry: &Arc<Registry>,
        slots: &Arc<Slots>,
        hub: &Arc<TimerHub>,
    ) -> Result<Self, SubscribeError> {
        options.validate()?;
        let (outlet, receiver) = Outlet::queue(&options);
        let (registry, idle) = (Arc::clone(registry), options.idle);
        if !options.is_mixed() {
            let account = registry.add(options, outlet)?;
            return Ok(Self::new(receiver, account, registry, idle, slots.clock));
        }
        let mixed = MixedEnd::new(&options, &outlet, slots, hub)?;
        let subscriber = registry.add_mixed(options, outlet, mixed.timer_set())?;
        let account = subscriber.account;
        let mut new = Self::new(receiver, account, registry, idle, slots.clock);
        new.mixed = Some(Box::new(mixed.counting(subscriber.events)));
        Ok(new)
    }

    /// The next message; waits for it.
    ///
    /// # Errors
    ///
    /// [`RecvError`] once the service has stopped, or has removed the subscriber
    /// ([`end_reason`](Self::end_reason)), and everything was taken.
    ///
    /// # Panics
    ///
    /// If the queue has events or timers too: then [`recv_any`](Self::recv_any) takes from it.
    pub fn recv(&mut self) -> Result<Message, RecvError> {
        loop {
            if let Some(message) = self.pop() {
                return Ok(message);
            }
            self.current = Some(self.next_batch()?);
        }
    }

    /// The next message, if there is one.
    ///
    /// # Errors
    ///
    /// [`TryRecvError::Empty`] if there is none now, [`TryRecvError::Disconnected`] as for
    /// [`recv`](Self::recv).
    ///
    /// # Panics
    ///
    /// If the queue has events or timers too: then [`recv_any`](Self::recv_any) takes from it.
    pub fn try_recv(&mut self) -> Result<Message, TryRecvError> {
        loop {
            if let Some(message) = self.pop() {
                return Ok(message);
            }
            self.current = Some(self.try_next_batch()?);
        }
    }

    /// The next message; waits for it no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// [`RecvTimeoutError::Timeout`] if none came, [`RecvTimeoutError::Disconnected`] as for
    /// [`recv`](Self::recv).
    ///
    /// # Panics
    ///
    /// If the queue has events or timers too: then [`recv_any`](Self::recv_any) takes from it.
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<Message, RecvTimeoutError> {
        loop {
            if let Some(message) = self.pop() {
                return Ok(message);
            }
            self.current = Some(self.next_batch_timeout(timeout)?);
        }
    }

    /// Iterates over messages and waits for each; ends when the service has stopped and everything
    /// was taken.
    ///
    /// # Panics
    ///
    /// Its steps do as [`recv`](Self::recv) does.
    pub fn iter(&mut self) -> Iter<'_> {
        Iter { subscription: self }
    }

    /// Iterates over the messages that are there, without waiting.
    ///
    /// # Panics
    ///
    /// Its steps do as [`recv`](Self::recv) does.
    pub fn try_iter(&mut self) -> TryIter<'_> {
        TryIter { subscription: self }
    }

    /// The next batch; waits for it. Messages that [`recv`](Self::recv) has left of a batch come
    /// first.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv).
    ///
    /// # Panics
    ///
    /// If the queue has events or timers too: then [`recv_any`](Self::recv_any) takes from it.
    pub fn recv_batch(&mut self) -> Result<Batch, RecvError> {
        match self.take_current() {
            Some(batch) => Ok(batch),
            None => self.next_batch(),
        }
    }

    /// The next batch, if there is one.
    ///
    /// # Errors
    ///
    /// As [`try_recv`](Self::try_recv).
    ///
    /// # Panics
    ///
    /// If the queue has events or timers too: then [`recv_any`](Self::recv_any) takes from it.
    pub fn try_recv_batch(&mut self) -> Result<Batch, TryRecvError> {
        match self.take_current() {
            Some(batch) => Ok(batch),
            None => self.try_next_batch(),
        }
    }

    /// The next batch; waits for it no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// As [`recv_timeout`](Self::recv_timeout).
    ///
    /// # Panics
    ///
    /// If the queue has events or timers too: then [`recv_any`](Self::recv_any) takes from it.
    pub fn recv_batch_timeout(&mut self, timeout: Duration) -> Result<Batch, RecvTimeoutError> {
        match self.take_current() {
            Some(batch) => Ok(batch),
            None => self.next_batch_timeout(timeout),
        }
    }

    /// The channel behind the subscription, for crossbeam's `select!`. What comes out of it becomes
    /// a batch by [`Delivery::into_batch`]; if the queue has events or timers, it is to be given to
    /// [`open`](Self::open).
    /// It has no capacity of its own: the bounds of the subscriber are held before anything is put
    /// into it, and what has come out of it counts against them until it is taken or dropped.
    ///
    /// # Examples
    ///
    /// ```
    /// # use nebnet::{Config, MessageType, NetService};
    /// # use std::time::Duration;
    /// use crossbeam_channel::{after, select};
    ///
    /// # let config = Config::default().listen("127.0.0.1:0".parse()?);
    /// # let mut service = NetService::new(config)?;
    /// # let greetings = service.handle().subscribe(MessageType(7))?;
    /// # service.start()?;
    /// # let mut client = nebnet::Client::connect(service.local_addrs()[0])?;
    /// # client.send((MessageType(7), "hi"))?;
    /// select! {
    ///     recv(greetings.receiver()) -> delivery => {
    ///         let batch = delivery?.into_batch();
    ///         assert_eq!(batch.iter().next().unwrap().payload(), b"hi");
    ///     }
    ///     recv(after(Duration::from_secs(10))) -> _ => panic!("nothing came"),
    /// }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    #[cfg_attr(
        all(test, nebnet_loom),
        expect(private_interfaces, reason = "a model has a channel of its own")
    )]
    pub fn receiver(&self) -> &channel::Receiver<Delivery> {
        self.receiver.items()
    }

    /// For those who take messages one by one: how many were dropped between the message that
    /// [`recv`](Self::recv), [`try_recv`](Self::try_recv), [`recv_timeout`](Self::recv_timeout) or
    /// an iterator gave last and the one before it, because the queue was full. Who takes batches
    /// asks [`Batch::missed`]; a batch of which messages were taken one by one says no more what
    /// was told here.
    ///
    /// Those that were dropped at the very end only show in [`row`](Self::row). With several
    /// [`shards`](crate::Config::shards) this counts among the messages of one loop.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # fn example(mut quotes: nebnet::Subscription) -> Result<(), nebnet::RecvError> {
    /// loop {
    ///     let quote = quotes.recv()?;
    ///     if quotes.missed() > 0 {
    ///         eprintln!("{} quotes are missing before {quote:?}", quotes.missed());
    ///     }
    /// }
    /// # }
    /// ```
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.missed
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

    /// What became of the subscriber's messages so far.
    #[must_use]
    pub fn row(&self) -> SubscriberRow {
        self.account.row()
    }

    /// Why nothing more will come. `None` while something may; once the queue is found at its end,
    /// this says why.
    #[must_use]
    pub fn end_reason(&self) -> Option<EndReason> {
        self.account.ended()
    }

    fn pop(&mut self) -> Option<Message> {
        let batch = self.current.as_mut()?;
        let message = batch.pop();
        if message.is_some() {
            // It is told with the first message of the batch.
            self.missed = std::mem::take(&mut batch.missed);
        }
        if batch.is_empty() || message.is_none() {
            self.current = None;
        }
        message
    }

    fn take_current(&mut self) -> Option<Batch> {
        self.current.take().filter(|batch| !batch.is_empty())
    }

    #[inline]
    fn expect_messages_alone(&self) {
        assert!(
            self.mixed.is_none(),
            "the queue of subscriber {} has events or timers: take them with recv_any or open",
            self.account.id
        );
    }

    fn next_batch(&mut self) -> Result<Batch, RecvError> {
        self.expect_messages_alone();
        let delivery = self.next_delivery()?;
        Ok(delivery.into_batch())
    }

    /// A call of its own: how the messages are walked depends on what is around it.
    #[inline(never)]
    fn try_next_batch(&mut self) -> Result<Batch, TryRecvError> {
        self.expect_messages_alone();
        match self.receiver.try_recv() {
            Ok(delivery) => {
                self.idle.note_work(self.clock, delivery.size());
                Ok(delivery.into_batch())
            }
            Err(crossbeam_channel::TryRecvError::Empty) => Err(TryRecvError::Empty),
            Err(crossbeam_channel::TryRecvError::Disconnected) => Err(TryRecvError::Disconnected),
        }
    }

    fn next_batch_timeout(&mut self, timeout: Duration) -> Result<Batch, RecvTimeoutError> {
        self.expect_messages_alone();
        let delivery = self.next_delivery_timeout(timeout)?;
        Ok(delivery.into_batch())
    }

    fn next_delivery(&mut self) -> Result<Delivery, RecvError> {
        if let Some(result) = self.poll_delivery(None) {
            return result;
        }
        let delivery = self.receiver.recv().map_err(|_| RecvError)?;
        Ok(self.note(delivery))
    }

    fn try_next_delivery(&mut self) -> Result<Delivery, TryRecvError> {
        match self.receiver.try_recv() {
            Ok(delivery) => Ok(self.note(delivery)),
            Err(crossbeam_channel::TryRecvError::Empty) => Err(TryRecvError::Empty),
            Err(crossbeam_channel::TryRecvError::Disconnected) => Err(TryRecvError::Disconnected),
        }
    }

    fn next_delivery_timeout(&mut self, timeout: Duration) -> Result<Delivery, RecvTimeoutError> {
        let started = self.clock.now().instant;
        if let Some(result) = self.poll_delivery(Some(timeout)) {
            return result.map_err(|_| RecvTimeoutError::Disconnected);
        }
        let waited = self.clock.now().instant.saturating_duration_since(started);
        match self
            .receiver
            .recv_timeout(self.clock, timeout.saturating_sub(waited))
        {
            Ok(delivery) => Ok(self.note(delivery)),
            Err(crossbeam_channel::RecvTimeoutError::Timeout) => Err(RecvTimeoutError::Timeout),
            Err(crossbeam_channel::RecvTimeoutError::Disconnected) => {
                Err(RecvTimeoutError::Disconnected)
            }
        }
    }

    /// Looks for something for as long as the idle strategy says, and no longer than `limit`.
    /// `None` if nothing came; an error is the end of the queue.
    fn poll_delivery(&mut self, limit: Option<Duration>) -> Option<Result<Delivery, RecvError>> {
        let mut started = None;
        loop {
            match self.try_next_delivery() {
                Ok(delivery) => return Some(Ok(delivery)),
                Err(TryRecvError::Disconnected) => return Some(Err(RecvError)),
                Err(TryRecvError::Empty) => {}
            }
            if !self.idle.polls_by(self.clock) {
                return None;
            }
            if let Some(limit) = limit {
                let now = self.clock.now().instant;
                let waited = now.saturating_duration_since(*started.get_or_insert(now));
                if waited >= limit {
                    return None;
                }
            }
            Idle::yield_now();
        }
    }

    /// Remembers how much work a delivery is.
    #[inline]
    fn note(&mut self, delivery: Delivery) -> Delivery {
        self.idle.note_work(self.clock, delivery.size());
        delivery
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.registry.remove(self.account.id);
        if self.account.overflow == OverflowPolicy::DropOldest {
            // The dispatcher holds this end too, and is not to be left with the work.
            while self.receiver.try_recv().is_ok() {}
            if let Some(mixed) = &self.mixed {
                mixed.clear();
            }
        }
    }
}

/// Iterator of [`Subscription::iter`].
#[derive(Debug)]
pub struct Iter<'a> {
    subscription: &'a mut Subscription,
}

impl Iterator for Iter<'_> {
    type Item = Message;

    fn next(&mut self) -> Option<Message> {
        self.subscription.recv().ok()
    }
}

impl<'a> IntoIterator for &'a mut Subscription {
    type Item = Message;
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

/// Iterator of [`Subscription::try_iter`].
#[derive(Debug)]
pub struct TryIter<'a> {
    subscription: &'a mut Subscription,
}

impl Iterator for TryIter<'_> {
    type Item = Message;

    fn next(&mut self) -> Option<Message> {
        self.subscription.try_recv().ok()
    }
}

/// A subscription whose messages go to a channel of the embedder. Dropping it unsubscribes.
///
/// Each message costs a channel operation and, above 1 KiB, a reference count; in exchange the
/// embedder's channel may serve several subscriptions, or several threads.
#[derive(Debug)]
pub struct ChannelSubscription {
    account: Arc<Account>,
    registry: Arc<Registry>,
}

impl ChannelSubscription {
    pub(crate) fn new(account: Arc<Account>, registry: Arc<Registry>) -> Self {
        Self { account, registry }
    }

    /// The subscriber's id.
    #[must_use]
    pub fn id(&self) -> SubscriberId {
        self.account.id
    }

    /// What became of the subscriber's messages so far. What the channel has accepted counts as
    /// taken. Where messages are missing the channel does not say: how many were dropped in all,
    /// the row does.
    #[must_use]
    pub fn row(&self) -> SubscriberRow {
        self.account.row()
    }

    /// As [`Subscription::end_reason`].
    #[must_use]
    pub fn end_reason(&self) -> Option<EndReason> {
        self.account.ended()
    }
}

impl Drop for ChannelSubscription {
    fn drop(&mut self) {
        self.registry.remove(self.account.id);
    }
}

/// Deliveries come in numbers up to what the queue holds, so their size is memory.
const _: () = assert!(size_of::<BatchDelivery>() <= 56);
