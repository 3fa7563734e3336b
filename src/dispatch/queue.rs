//! The queue between the loop and the dispatcher, and the dispatcher's doorbell.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use super::{
    DirectDispatch, FanOut, Notice,
    channel::{self, Receiver, Sender},
};
use crate::{
    balance::CutMarker,
    block::BlockRef,
    doorbell::Doorbell,
    event::Event,
    ledger::{Ledger, Traffic},
    limits::EVENTS_QUEUED_MAX,
    sync::{
        atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering, fence},
        channel::TrySendError,
    },
    timers::TimerDelivery,
};

/// What travels through the queue.
#[derive(Debug)]
pub(crate) enum Item {
    Block(BlockRef),
    Event(Box<Event>),
    /// A timer of a subscriber that gets it among its messages.
    Timer(TimerDelivery),
    Notice(Box<Notice>),
    /// A cut of the ledger has come this far.
    Cut(Box<CutMarker>),
    /// Nothing: somebody wants the dispatcher to look around.
    Poke,
}

impl Item {
    /// Bytes of messages.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Block(block) => block.bytes().len(),
            Self::Event(_) | Self::Timer(_) | Self::Notice(_) | Self::Cut(_) | Self::Poke => 0,
        }
    }
}

/// The loop's end of the queue; bounded in messages, in bytes, and in events, which are none of
/// both.
#[derive(Debug)]
pub(crate) struct DispatchQueue {
    items: Arc<Sender<Item>>,
    bounds: QueueBounds,
    /// So many items, and nothing that neither bound counts is put in: as many as there are if each
    /// message comes in a block of its own.
    items_max: usize,
    /// Where the dispatcher works, once there is one.
    direct: Option<Arc<DirectDispatch>>,
}

const NOTHING: u8 = 0;
/// The loop has something to hand over, and is to be woken once the queue is half empty.
const ROOM: u8 = 1;
/// The loop is about to end, and is to be woken once everything is with its subscribers.
const EMPTY: u8 = 2;

/// What both ends know of the queue.
#[derive(Clone, Debug)]
pub(crate) struct QueueBounds {
    ledger: Arc<Ledger>,
    /// What the loop waits for: [`NOTHING`], [`ROOM`] or [`EMPTY`].
    loop_waits: Arc<AtomicU8>,
    /// Events and timers in the queue, or parked.
    events: Arc<AtomicUsize>,
    /// Those that are parked.
    events_parked: Arc<AtomicUsize>,
    events_max: usize,
}

/// Why something was not taken.
#[derive(Debug)]
pub(crate) enum PushError {
    Full(Item),
    /// The dispatcher has ended.
    Dead,
}

impl DispatchQueue {
    pub(crate) fn new(ledger: Arc<Ledger>) -> (Self, Receiver<Item>) {
        let capacity = usize::try_from(ledger.dispatch_capacity().messages).unwrap_or(usize::MAX);
        let (items, receiver) = channel::queue();
        (
            Self {
                items: Arc::new(items),
                bounds: QueueBounds::new(ledger),
                items_max: capacity.saturating_add(EVENTS_QUEUED_MAX),
                direct: None,
            },
            receiver,
        )
    }

    /// Has the loop dispatch directly what the dispatcher need not.
    pub(crate) fn make_direct(&mut self, fan_out: FanOut) -> Arc<DirectDispatch> {
        let direct = Arc::new(DirectDispatch::new(fan_out));
        self.direct = Some(Arc::clone(&direct));
        direct
    }

    pub(crate) fn bounds(&self) -> &QueueBounds {
        &self.bounds
    }

    /// What wakes a dispatcher that waits for an item. If there is one, it does not wait, and looks
    /// around after it. The waker does not keep the queue open.
    pub(crate) fn waker(&self) -> impl Fn() + Send + Sync + 'static {
        let items = Arc::downgrade(&self.items);
        move || {
            if let Some(items) = items.upgrade() {
                // Pairs with the fence in `Poke::take`: either we see that the item was taken, or
                // whoever took it sees the flag.
                fence(Ordering::SeqCst);
                if items.is_empty() {
                    let _ = items.try_send(Item::Poke);
                }
            }
        }
    }

    /// Hands over what is left at a stop, whatever the bounds say: it is held as it is, and costs
    /// no more here.
    pub(crate) fn push_last(&self, item: Item) {
        self.bounds.raise(&item);
        // A dispatcher that has ended takes nothing more, which is counted.
        let _ = self.send(item);
    }

    /// Counts what nobody will be offered.
    pub(crate) fn lose(&self, item: &Item) {
        if let Item::Block(block) = item {
            self.bounds.ledger.undelivered.add(block.traffic());
        }
    }

    /// Hands over something that the bounds do not count, behind everything that was handed over
    /// before. It comes back if too much is there; a dispatcher that has ended wants nothing.
    pub(crate) fn push_item(&self, item: Item) -> Result<(), Item> {
        if self.items.len() >= self.items_max {
            return Err(item);
        }
        if self.items.try_send(item).is_ok() {
            self.note_handed();
        }
        Ok(())
    }

    /// Wakes those who sleep and for whom this thread dispatched something. False if it is the
    /// dispatcher that has to do so.
    pub(crate) fn wake_receivers(&self) -> bool {
        self.direct
            .as_ref()
            .is_none_or(|direct| direct.wake_receivers())
    }

    fn note_handed(&self) {
        if let Some(direct) = &self.direct {
            direct.note_handed();
        }
    }

    /// Dispatches a block on this thread, if there is room for it, it is [little
    /// work](FanOut::is_cheap), and the dispatcher has nothing to do; otherwise it comes back.
    /// Unless it `wakes`, [`wake_receivers`](Self::wake_receivers) has to follow.
    pub(crate) fn dispatch(&self, block: BlockRef, wakes: bool) -> Result<(), BlockRef> {
        match &self.direct {
            Some(direct) if self.bounds.has_room_for_block(&block) => {
                direct.dispatch(block, wakes, |block| self.bounds.raise_block(block))
            }
            Some(_) | None => Err(block),
        }
    }

    /// Hands a block or an event over.
    pub(crate) fn push(&self, item: Item) -> Result<(), PushError> {
        if !self.bounds.has_room_for(&item) {
            return Err(PushError::Full(item));
        }
        // Raised first, so that the dispatcher never lowers what was not raised.
        self.bounds.raise(&item);
        self.send(item)
    }

    /// Puts an item in that the bounds count. One that a dispatcher does not take any more is lost.
    fn send(&self, item: Item) -> Result<(), PushError> {
        match self.items.try_send(item) {
            Ok(()) => {
                self.note_handed();
                Ok(())
            }
            Err(TrySendError::Full(item) | TrySendError::Disconnected(item)) => {
                self.bounds.take_back(&item);
                self.lose(&item);
                Err(PushError::Dead)
            }
        }
    }
}

impl QueueBounds {
    pub(crate) fn new(ledger: Arc<Ledger>) -> Self {
        Self {
            ledger,
            loop_waits: Arc::default(),
            events: Arc::default(),
            events_parked: Arc::default(),
            events_max: EVENTS_QUEUED_MAX,
        }
    }

    /// Whether the queue can take the item.
    pub(crate) fn has_room_for(&self, item: &Item) -> bool {
        match item {
            Item::Block(block) => self.has_room_for_block(block),
            Item::Event(_) | Item::Timer(_) => self.has_room_for_event(),
            Item::Notice(_) | Item::Cut(_) | Item::Poke => true,
        }
    }

    pub(crate) fn has_room_for_event(&self) -> bool {
        self.events.load(Ordering::Relaxed) < self.events_max
    }

    /// Whether the queue can take the block. An empty queue takes any.
    pub(crate) fn has_room_for_block(&self, block: &BlockRef) -> bool {
        let charge = queue_charge(block);
        let (fill, capacity) = (
            self.ledger.dispatch_queue.get(),
            self.ledger.dispatch_capacity(),
        );
        let fits = fill.messages + charge.messages <= capacity.messages
            && fill.bytes + charge.bytes <= capacity.bytes;
        fits || (fill.messages == 0 && fill.bytes == 0)
    }

    /// Takes the item's place in the queue's bounds.
    pub(crate) fn raise(&self, item: &Item) {
        match item {
            Item::Block(block) => self.raise_block(block),
            Item::Event(_) | Item::Timer(_) => {
                self.events.fetch_add(1, Ordering::Relaxed);
            }
            Item::Notice(_) | Item::Cut(_) | Item::Poke => {}
        }
    }

    pub(crate) fn raise_block(&self, block: &BlockRef) {
        self.ledger.dispatch_queue.raise(queue_charge(block));
    }

    /// Undoes [`raise`](Self::raise), because the item was not taken.
    fn take_back(&self, item: &Item) {
        match item {
            Item::Block(block) => self.ledger.dispatch_queue.lower(queue_charge(block)),
            Item::Event(_) | Item::Timer(_) => {
                self.events.fetch_sub(1, Ordering::Relaxed);
            }
            Item::Notice(_) | Item::Cut(_) | Item::Poke => {}
        }
    }

    /// The loop declares that it waits for room; it has to try once more after this.
    pub(crate) fn wait_for_room(&self) {
        self.loop_waits.store(ROOM, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// The loop declares that it ends once the queue is empty, and nothing parked; it has to look
    /// at [`is_empty`](Self::is_empty) after this.
    pub(crate) fn wait_for_end(&self) {
        self.loop_waits.store(EMPTY, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Whether everything that was handed over is with its subscribers.
    pub(crate) fn is_empty(&self) -> bool {
        self.ledger.dispatch_queue.get() == Traffic::default()
            && self.events.load(Ordering::Relaxed) == 0
    }

    /// Whether the loop waits for room.
    pub(super) fn is_waited_for(&self) -> bool {
        self.loop_waits.load(Ordering::Relaxed) == ROOM
    }

    /// Whether it does so for what is parked and nothing else.
    pub(super) fn is_waited_for_parked(&self) -> bool {
        if !self.is_waited_for() {
            return false;
        }
        if !self.has_room_for_event() {
            let (all, parked) = (&self.events, &self.events_parked);
            return all.load(Ordering::Relaxed) == parked.load(Ordering::Relaxed);
        }
        let (fill, parked) = (&self.ledger.dispatch_queue, &self.ledger.dispatch_parked);
        fill.get() == parked.get()
    }

    /// An event or a timer is parked, and keeps a place.
    pub(super) fn raise_parked_event(&self) {
        self.events.fetch_add(1, Ordering::Relaxed);
        self.events_parked.fetch_add(1, Ordering::Relaxed);
    }

    /// It gives that place back.
    pub(super) fn lower_parked_event(&self, doorbell: &Doorbell) {
        self.events_parked.fetch_sub(1, Ordering::Relaxed);
        self.lower_event(doorbell);
    }

    /// Gives back what a block held; wakes a loop that waits once the queue is half empty.
    pub(crate) fn lower(&self, charge: Traffic, doorbell: &Doorbell) {
        self.ledger.dispatch_queue.lower(charge);
        self.wake_loop(doorbell);
    }

    /// Gives back the place of an event, likewise.
    pub(crate) fn lower_event(&self, doorbell: &Doorbell) {
        self.events.fetch_sub(1, Ordering::Relaxed);
        self.wake_loop(doorbell);
    }

    /// Whether half of what is not parked is free, as with messages.
    fn has_half_for_events(&self) -> bool {
        let parked = self.events_parked.load(Ordering::Relaxed);
        let fill = self.events.load(Ordering::Relaxed).saturating_sub(parked);
        let room = self.events_max.saturating_sub(parked);
        room > 0 && fill <= room / 2
    }

    fn wake_loop(&self, doorbell: &Doorbell) {
        // Pairs with the fences in `wait_for_room` and `wait_for_end`.
        fence(Ordering::SeqCst);
        let waits = self.loop_waits.load(Ordering::Relaxed);
        if waits == NOTHING {
            return;
        }
        if waits == EMPTY {
            if self.is_empty() {
                doorbell.ring();
            }
        } else {
            let (fill, capacity) = (
                self.ledger.dispatch_queue.get(),
                self.ledger.dispatch_capacity(),
            );
            // What is parked gives way when its subscriber takes, not when the dispatcher works on,
            // so half is half of the rest.
            let parked = self.ledger.dispatch_parked.get();
            let is_half = |fill: u64, parked: u64, capacity: u64| {
                fill.saturating_sub(parked) <= capacity.saturating_sub(parked) / 2
            };
            if is_half(fill.messages, parked.messages, capacity.messages)
                && is_half(fill.bytes, parked.bytes, capacity.bytes)
                && self.has_half_for_events()
            {
                self.loop_waits.store(NOTHING, Ordering::Relaxed);
                doorbell.ring();
            }
        }
    }
}

#[cfg(test)]
impl DispatchQueue {
    pub(crate) fn with_events_max(self, events_max: usize) -> Self {
        Self {
            bounds: self.bounds.with_events_max(events_max),
            ..self
        }
    }
}

#[cfg(test)]
impl QueueBounds {
    /// With a smaller bound of events than there are places for.
    pub(crate) fn with_events_max(self, events_max: usize) -> Self {
        Self { events_max, ..self }
    }
}

/// What a block counts for in the queue: its messages, and the storage that it pins.
pub(crate) fn queue_charge(block: &BlockRef) -> Traffic {
    Traffic::new(u64::from(block.head().frames), block.charge() as u64)
}

/// Makes the dispatcher look around, wherever it runs: at most once until it did.
#[derive(Default)]
pub(crate) struct Poke {
    flag: AtomicBool,
    /// The metrics tick asks for the callback.
    tick: AtomicBool,
    wake: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl Poke {
    /// Sets what wakes the dispatcher. Only the first call counts.
    pub(crate) fn set_wake(&self, wake: impl Fn() + Send + Sync + 'static) {
        let _ = self.wake.set(Box::new(wake));
    }

    pub(crate) fn poke(&self) {
        if !self.flag.swap(true, Ordering::AcqRel) {
            if let Some(wake) = self.wake.get() {
                wake();
            }
        }
    }

    pub(crate) fn poke_tick(&self) {
        self.tick.store(true, Ordering::Release);
        self.poke();
    }

    /// Whether somebody poked since the last call.
    #[inline]
    pub(crate) fn take(&self) -> bool {
        fence(Ordering::SeqCst);
        self.flag.load(Ordering::Relaxed) && self.flag.swap(false, Ordering::AcqRel)
    }

    /// Whether somebody poked and nobody has looked yet.
    pub(crate) fn is_set(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
    }

    pub(crate) fn take_tick(&self) -> bool {
        self.tick.swap(false, Ordering::AcqRel)
    }
}

impl fmt::Debug for Poke {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poke")
            .field("flag", &self.flag)
            .finish_non_exhaustive()
    }
}

/// Items come in numbers up to what the queue holds, so their size is memory.
const _: () = assert!(size_of::<Item>() <= 16);
