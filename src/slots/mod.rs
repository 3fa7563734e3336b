//! What a connection shares with other threads: its outgoing tail, its credit, its doorbell.
//!
//! The loop owns everything about a peer except for one [`Slot`]. Other threads reach the slot by
//! the peer's id: a sender appends encoded frames to its tail, whoever drops the last reference to
//! a block returns the credit, the dispatcher holds the peer back. Each of them then marks the
//! slot dirty for the loop, at most once until the loop has looked.
//!
//! The tail stands behind a mutex that is held for a copy of at most a few kilobytes. Senders may
//! wait for each other there; the loop never does: it tries the lock and comes back in its next
//! turn. The generation is compared under the same lock, so whether a message was accepted is
//! decided at one place and cannot be wrong.
//!
//! A slot is small until something is sent or read: what it counts, and its tail, are made then.
//! The counts stay for the slot's next connections, because they are reached without a lock; the
//! tail is given up when the connection becomes dormant.
//!
//! Invariants, per connection:
//! - `written + overflowed <= accepted`, in messages and in bytes; the difference is what is
//!   queued. What the loop sends itself is taken off `written` rather than added to `accepted`, so
//!   that each has one writer
//! - `queued <= limit`, or exactly one message is queued
//! - bytes leased from the budget `>=` bytes of the storage of what is queued, after every send and
//!   whenever the loop has [told](Slots::note_slack) what it holds; but a sixteenth of a segment
//!   and 64 bytes, and frames of the protocol with their places
//! - the loop's own sends ([`accept_inline`](Slots::accept_inline)) take no lock: both of the above
//!   may be passed by one send of another thread that is under way at the same moment
//! - a slot index is in the dirty list at most once

mod addr;
mod broadcast;
mod segment;
mod tail;
#[cfg(test)]
mod tests;

use std::{
    cell::Cell,
    fmt,
    net::SocketAddr,
    sync::{Arc, OnceLock, PoisonError},
    time::Duration,
};

use crate::{
    clock::{Clock, Tick},
    doorbell::Doorbell,
    error::{CloseReason, SendError},
    frame::Frame,
    id::{LinkId, PeerId, PeerIdentity},
    ledger::{Ledger, Traffic},
    limits::{BUDGET_LEASE_BYTES, OUTBOX_WINDOW_BYTES},
    policy::{OutboxFull, Priority},
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
        channel::{Receiver, Sender, bounded},
        counted,
        thread::{self, Thread},
    },
};

pub(crate) use broadcast::SharedFrame;
pub use broadcast::{BroadcastReport, PeerInfo, Recipients};
pub(crate) use segment::{Run, Segment, push_behind, slack_bytes};
pub(crate) use tail::{OutFrame, OutFrames};

use addr::AddrCell;
use tail::{Tail, Tails};

/// Slots are allocated in chunks when the first of their connections comes.
const CHUNK_SLOTS: usize = if cfg!(all(test, nebnet_loom)) { 1 } else { 64 };

/// How often a lock is tried that is held for a moment.
const LOOKS_MAX: usize = 100;

/// Changes that wait because the loop found a slot's lock taken.
const DEFERRED_MAX: usize = 4096;

/// Slots up to which each has its place in the dirty list from the start, 16 bytes of it:
/// 256 KiB. Without places a send that marks a slot costs 60 instructions more, of 4,500.
const ATTENTION_PLACES_MAX: usize = 1 << 14;

#[cfg(all(test, nebnet_loom))]
loom::thread_local! {
    static NEVER_WAITS: Cell<bool> = Cell::new(false);
}
#[cfg(not(all(test, nebnet_loom)))]
thread_local! {
    /// Whether this is a loop's thread.
    static NEVER_WAITS: Cell<bool> = const { Cell::new(false) };
}

/// Whether the calling thread must not wait for anybody.
pub(crate) fn never_waits() -> bool {
    NEVER_WAITS.with(Cell::get)
}

/// A change to a slot that needs its lock.
#[derive(Clone, Copy, Debug)]
enum Deferred {
    Release(PeerId, Traffic),
    Hold(PeerId),
    Unhold(PeerId),
    Close(PeerId, CloseReason),
}

/// All slots of one loop.
pub(crate) struct Slots {
    shard: u8,
    chunks: Box<[OnceLock<Box<[Slot]>>]>,
    /// Those of an outbox may change while the service runs; who reads them meanwhile may get one
    /// of before and one of after.
    outbox_bytes_max: AtomicU64,
    outbox_messages_max: AtomicU64,
    payload_size_max: u32,
    full: OutboxFull,
    /// Whatever is sent carries a checksum.
    checksums: bool,
    dirty: (Sender<u32>, Receiver<u32>),
    waiters: Mutex<Vec<(u32, Thread)>>,
    /// True while the loop does not read because the budget is short.
    budget_waited: AtomicBool,
    /// The loop has ended and will write nothing more.
    ended: AtomicBool,
    deferred: (Sender<Deferred>, Receiver<Deferred>),
    /// Subscriptions to events that exist: without any, events need not be made. The service's.
    pub(crate) event_subscribers: Arc<AtomicUsize>,
    /// Links that exist, those that no loop has been told of included. The service's.
    pub(crate) links: Arc<AtomicUsize>,
    pub(crate) doorbell: Doorbell,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) clock: Clock,
}

/// Bounds of one outbox.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OutboxLimits {
    pub(crate) bytes: u64,
    pub(crate) messages: u64,
    pub(crate) payload_size: u32,
}

impl OutboxLimits {
    /// Above this a peer is congested: a quarter of the limits.
    pub(crate) fn is_high(self, queued: Traffic) -> bool {
        queued.bytes > self.bytes / 4 || queued.messages > (self.messages / 4).max(1)
    }

    /// At most this, and it is not any more: half of that.
    pub(crate) fn is_low(self, queued: Traffic) -> bool {
        queued.bytes <= self.bytes / 8 && queued.messages <= self.messages / 8
    }

    /// What the loop takes of each priority while the rest may still be dropped.
    fn window(self) -> Traffic {
        Traffic::new(
            (self.messages / 4).max(1),
            (self.bytes / 4).min(OUTBOX_WINDOW_BYTES),
        )
    }
}

/// What is to be accepted.
#[derive(Clone, Copy, Debug)]
struct Item {
    traffic: Traffic,
    /// The longest payload.
    payload_size: usize,
    priority: Priority,
    /// It answers what the peer sent.
    is_reply: bool,
}

impl Item {
    fn of(frame: &Frame<'_>, priority: Priority) -> Self {
        Self {
            traffic: Traffic::new(1, frame.encoded_size() as u64),
            payload_size: frame.payload.len(),
            priority,
            is_reply: false,
        }
    }
}

/// Why something was not accepted.
#[derive(Clone, Copy, Debug)]
struct Refused {
    error: SendError,
    /// The loop is to look at the slot.
    tells_loop: bool,
}

impl From<SendError> for Refused {
    fn from(error: SendError) -> Self {
        let tells_loop = false;
        Self { error, tells_loop }
    }
}

#[derive(Debug, Default)]
struct Slot {
    /// True while the slot's index is in the dirty list.
    dirty: AtomicBool,
    /// True while a sender waits for room.
    waited: AtomicBool,
    /// True while the loop does not read the peer until `released` has reached `resume`.
    paused: AtomicBool,
    /// Deliveries of this peer that wait for a full subscriber.
    parked: AtomicU32,
    /// The connection may be sent to: it is made, and what it has to say first was accepted.
    admitted: AtomicBool,
    /// A close was asked for after which nothing is accepted: what `inner` says too, for whom does
    /// not take its lock.
    close_asked: AtomicBool,
    /// The application asked for a close, in whatever state the connection was.
    given_up: AtomicBool,
    /// The longest payload that the peer takes.
    payload_size_max: AtomicU32,
    /// Which connection of the slot this is; written under the lock.
    generation: AtomicU32,
    /// Why senders were refused since `Writable` was told last: bits of [`Refusals`].
    refusals: AtomicU8,
    /// What else is to be known of the connection: [`ASKED`] and [`CHECKSUMS`].
    marks: AtomicU8,
    addr: AddrCell,
    /// What only traffic needs: made with the first of it, and kept for the slot's next
    /// connections.
    used: OnceLock<Box<Used>>,
    inner: Mutex<Inner>,
}

/// A request was sent on this connection, so that its end has to be told.
const ASKED: u8 = 1;
/// Whatever is sent on this connection carries a checksum.
const CHECKSUMS: u8 = 2;

/// What a slot counts.
#[derive(Debug)]
struct Used {
    /// Written under the lock, read by the loop.
    accepted: TrafficCell,
    overflowed: TrafficCell,
    released: TrafficCell,
    /// Bytes of the budget that senders leased, under the lock.
    leased: AtomicUsize,
    /// What the loop leased for what it sent itself, less `beside`. May wrap; the sum of both
    /// leases does not.
    leased_inline: AtomicUsize,
    /// Storage that the loop holds for what is queued, beside what is queued. Its own.
    slack: AtomicUsize,
    /// Written by the loop, read under the lock: what the kernel took, less what the loop itself
    /// sent. So `accepted - written` is all that is queued, at the price of no further term; it
    /// wraps, because it may be below zero.
    written: TrafficCell,
    resume: TrafficCell,
    /// The earliest deadline of a request that the loop has not learnt of; `NO_DEADLINE` is none.
    request_deadline: AtomicU64,
}

/// No request has a deadline that the loop does not know.
const NO_DEADLINE: Tick = Tick::MAX;

#[derive(Debug, Default)]
struct Inner {
    state: SlotState,
    /// What is known of few connections. Made for those.
    known: Option<Box<Known>>,
    /// Made with the first message that is sent, and given up when the connection becomes dormant.
    tails: Option<Box<Tails>>,
}

/// What is known of a connection besides its address.
#[derive(Debug, Default)]
struct Known {
    /// The link that makes it, if it is we who connect.
    link: Option<LinkId>,
    /// Set a moment after the slot was admitted, at the latest.
    identity: Option<Arc<PeerIdentity>>,
    /// Replies that were refused because the BYE was due.
    unanswered: u64,
}

/// What is known of a connection from its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct About {
    pub(crate) addr: SocketAddr,
    /// The link that makes it, if it is we who connect.
    pub(crate) link: Option<LinkId>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum SlotState {
    #[default]
    Free,
    Open,
    /// A close was asked for that the loop has not seen yet.
    CloseAsked(CloseReason),
    /// The connection is on its way to its end, and what was read of it may still be answered.
    Answering,
    /// A sender found no room, and the loop has not cut the peer off yet.
    CutOff,
    /// The loop is closing the connection.
    Closing,
}

/// Messages and bytes with one writer at a time.
#[derive(Debug, Default)]
struct TrafficCell {
    messages: AtomicU64,
    bytes: AtomicU64,
}

impl TrafficCell {
    fn get(&self) -> Traffic {
        Traffic::new(
            self.messages.load(Ordering::Relaxed),
            self.bytes.load(Ordering::Relaxed),
        )
    }

    fn set(&self, traffic: Traffic) {
        self.messages.store(traffic.messages, Ordering::Relaxed);
        self.bytes.store(traffic.bytes, Ordering::Relaxed);
    }

    fn add(&self, traffic: Traffic) {
        let mut sum = self.get();
        sum.add(traffic);
        self.set(sum);
    }

    fn add_wrapping(&self, traffic: Traffic) {
        let sum = self.get();
        self.set(Traffic::new(
            sum.messages.wrapping_add(traffic.messages),
            sum.bytes.wrapping_add(traffic.bytes),
        ));
    }

    fn sub_wrapping(&self, traffic: Traffic) {
        let sum = self.get();
        self.set(Traffic::new(
            sum.messages.wrapping_sub(traffic.messages),
            sum.bytes.wrapping_sub(traffic.bytes),
        ));
    }
}

/// Sums of a slot, as the loop has seen them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sums {
    /// Accepted from senders.
    pub(crate) accepted: Traffic,
    /// Dropped by senders for what they sent after it.
    pub(crate) overflowed: Traffic,
}

impl Sums {
    pub(crate) fn add(&mut self, other: Self) {
        self.accepted.add(other.accepted);
        self.overflowed.add(other.overflowed);
    }
}

/// How a connection stands with regard to its credit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flow {
    /// What was read from the peer and released by everybody.
    pub(crate) released: Traffic,
    /// Messages and bytes accepted from senders and not yet taken by the kernel.
    pub(crate) queued: Traffic,
}

/// Raises what has one writer at a time.
fn add(cell: &AtomicUsize, more: usize) {
    let sum = cell.load(Ordering::Relaxed).wrapping_add(more);
    cell.store(sum, Ordering::Relaxed);
}

/// What the loop learns of a slot that is marked dirty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    /// What the sums have grown by.
    pub(crate) sums: Sums,
    /// Somebody asked for a close, and nothing will be accepted any more.
    pub(crate) close_asked: Option<CloseReason>,
    /// A sender found no room, for which the peer is to be cut off.
    pub(crate) cut_off: bool,
    /// Something is left in the tail until there is room on the loop's side.
    pub(crate) has_more: bool,
}

/// What the loop takes from a tail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Take {
    /// Everything, and nothing is accepted after it.
    Last,
    /// Everything, unless what waits may still be dropped: then what there is room for beside these
    /// bytes of each priority.
    Beside([usize; Priority::COUNT]),
}

/// Why senders were refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Refusals(u8);

impl Refusals {
    /// The outbox had no room.
    pub(crate) const OUTBOX: Self = Self(1);
    /// It was below the low watermark and had no room all the same: only an empty one will do.
    pub(crate) const NOT_EMPTY: Self = Self(2);
    /// The byte budget of the service had no room.
    pub(crate) const BUDGET: Self = Self(4);

    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// The lock is taken by somebody else; to be tried again in the next turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Contended;

/// Why a slot was not given to a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OpenError {
    /// To be tried again in the next turn.
    Contended,
    /// It has used all its generations, and an id never comes twice.
    Retired,
    NoSuchSlot,
}

/// A queue that holds the index of every slot; a slot is in it at most once.
fn dirty_list(slots: usize) -> (Sender<u32>, Receiver<u32>) {
    if slots <= ATTENTION_PLACES_MAX {
        bounded(slots)
    } else {
        counted()
    }
}

impl Slots {
    pub(crate) fn new(
        shard: u8,
        count: usize,
        limits: OutboxLimits,
        ledger: Arc<Ledger>,
        clock: Clock,
    ) -> Self {
        Self {
            shard,
            chunks: (0..count.div_ceil(CHUNK_SLOTS))
                .map(|_| OnceLock::new())
                .collect(),
            outbox_bytes_max: limits.bytes.into(),
            outbox_messages_max: limits.messages.into(),
            payload_size_max: limits.payload_size,
            full: OutboxFull::Refuse,
            checksums: false,
            dirty: dirty_list(count.div_ceil(CHUNK_SLOTS) * CHUNK_SLOTS),
            waiters: Mutex::default(),
            budget_waited: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            deferred: counted(),
            event_subscribers: Arc::default(),
            links: Arc::default(),
            doorbell: Doorbell::default(),
            ledger,
            clock,
        }
    }

    /// The same slots with a policy of what to do when an outbox is full.
    pub(crate) fn outbox_full(self, full: OutboxFull) -> Self {
        Self { full, ..self }
    }

    /// The same slots, whose messages carry a checksum or not, whatever they were made with.
    pub(crate) fn checksums(self, checksums: bool) -> Self {
        Self { checksums, ..self }
    }

    /// The same slots as those of one more shard of a service.
    pub(crate) fn shared_with(self, first: &Self) -> Self {
        Self {
            event_subscribers: Arc::clone(&first.event_subscribers),
            links: Arc::clone(&first.links),
            ..self
        }
    }

    /// Which of the service's loops they belong to.
    pub(crate) fn shard(&self) -> u8 {
        self.shard
    }

    /// A frame as it is sent.
    #[inline]
    pub(crate) fn dress<'a>(&self, frame: Frame<'a>) -> Frame<'a> {
        let checksum = frame.checksum || self.checksums;
        Frame { checksum, ..frame }
    }

    #[inline]
    pub(crate) fn limits(&self) -> OutboxLimits {
        OutboxLimits {
            bytes: self.outbox_bytes_max.load(Ordering::Relaxed),
            messages: self.outbox_messages_max.load(Ordering::Relaxed),
            payload_size: self.payload_size_max,
        }
    }

    /// Changes the bounds of outboxes; what waits beyond them stays. That of a payload cannot
    /// change: peers were told.
    pub(crate) fn set_outbox_limits(&self, bytes: u64, messages: u64) {
        self.outbox_bytes_max.store(bytes, Ordering::Relaxed);
        self.outbox_messages_max.store(messages, Ordering::Relaxed);
    }

    /// Whether what waits in a tail may be dropped, so that the loop leaves it there.
    pub(crate) fn may_overflow(&self) -> bool {
        self.full == OutboxFull::DropOldest
    }

    // ----- any thread ------------------------------------------------------------------------

    /// Accepts a message of normal priority for a peer, or says why not.
    #[cfg(test)]
    pub(crate) fn send(&self, peer: PeerId, message: OutFrame<'_>) -> Result<(), SendError> {
        self.send_as(peer, Priority::Normal, message)
    }

    /// Accepts a message for a peer, or says why not.
    pub(crate) fn send_as(
        &self,
        peer: PeerId,
        priority: Priority,
        message: OutFrame<'_>,
    ) -> Result<(), SendError> {
        self.send_item(peer, priority, message, false)
    }

    /// Accepts an answer to what a peer sent, or says why not.
    pub(crate) fn send_reply(&self, peer: PeerId, message: OutFrame<'_>) -> Result<(), SendError> {
        self.send_item(peer, Priority::Normal, message, true)
    }

    #[inline]
    fn send_item(
        &self,
        peer: PeerId,
        priority: Priority,
        message: OutFrame<'_>,
        is_reply: bool,
    ) -> Result<(), SendError> {
        let slot = self.slot(peer).ok_or(SendError::NotConnected)?;
        let frame = slot.dress(message.frame);
        let item = Item {
            is_reply,
            ..Item::of(&frame, priority)
        };
        self.accept(slot, peer, item, |tail| {
            tail.push(&frame, message.owned);
        })
    }

    /// Accepts the question of a request, or says why not. Whoever ends the connection afterwards
    /// learns that there was one, and the loop learns its deadline.
    pub(crate) fn send_question(
        &self,
        peer: PeerId,
        priority: Priority,
        message: OutFrame<'_>,
        deadline: Tick,
    ) -> Result<(), SendError> {
        let slot = self.slot(peer).ok_or(SendError::NotConnected)?;
        let frame = slot.dress(message.frame);
        self.accept(slot, peer, Item::of(&frame, priority), |tail| {
            slot.marks.fetch_or(ASKED, Ordering::Relaxed);
            let request_deadline = &slot.used().request_deadline;
            request_deadline.fetch_min(deadline, Ordering::Relaxed);
            tail.push(&frame, message.owned);
        })
    }

    /// Has the loop look for requests of a peer at this time. If the slot is another's by now, that
    /// one is looked at in vain.
    pub(crate) fn note_request(&self, peer: PeerId, deadline: Tick) {
        if let Some(slot) = self.slot(peer) {
            let request_deadline = &slot.used().request_deadline;
            request_deadline.fetch_min(deadline, Ordering::Relaxed);
            self.mark_dirty(slot, peer.index());
        }
    }

    /// Accepts all messages of a batch for a peer, or none.
    pub(crate) fn send_batch(
        &self,
        peer: PeerId,
        priority: Priority,
        batch: &mut OutFrames,
    ) -> Result<(), SendError> {
        if batch.messages == 0 {
            return Ok(());
        }
        let slot = self.slot(peer).ok_or(SendError::NotConnected)?;
        if self.checksums || slot.has(CHECKSUMS) {
            batch.add_checksums();
        }
        let item = Item {
            traffic: Traffic::new(u64::from(batch.messages), batch.bytes.len() as u64),
            payload_size: batch.payload_size_max,
            priority,
            is_reply: batch.replies == batch.messages,
        };
        let replies = batch.replies;
        let result = self.accept(slot, peer, item, |tail| tail.append(batch));
        // A batch of replies alone is counted where it is refused.
        if result == Err(SendError::Closing) && !item.is_reply {
            self.note_unanswered(slot, peer, u64::from(replies));
        }
        result
    }

    fn accept(
        &self,
        slot: &Slot,
        peer: PeerId,
        item: Item,
        push: impl FnOnce(&mut Tail),
    ) -> Result<(), SendError> {
        let mut inner = slot.lock();
        if slot.generation() != peer.generation() {
            return Err(SendError::NotConnected);
        }
        let result = self.accept_locked(slot, &mut inner, item, push);
        drop(inner);
        match result {
            Ok(()) => self.mark_dirty(slot, peer.index()),
            Err(refused) if refused.tells_loop => self.mark_dirty(slot, peer.index()),
            Err(_) => {}
        }
        result.map_err(|refused| refused.error)
    }

    /// Decides about a message under the lock. Unless this fails, or if it says so, the loop is to
    /// be told of it.
    fn accept_locked(
        &self,
        slot: &Slot,
        inner: &mut Inner,
        item: Item,
        push: impl FnOnce(&mut Tail),
    ) -> Result<(), Refused> {
        if self.ended.load(Ordering::Relaxed) {
            return Err(SendError::NotConnected.into());
        }
        match inner.state {
            SlotState::Open if slot.admitted.load(Ordering::Acquire) => {}
            SlotState::Free | SlotState::Open => return Err(SendError::NotConnected.into()),
            SlotState::Answering if item.is_reply => {}
            SlotState::CloseAsked(reason) if item.is_reply && reason.reads_on() => {}
            SlotState::Closing if item.is_reply => {
                let known = inner.known.get_or_insert_default();
                known.unanswered += item.traffic.messages;
                return Err(SendError::Closing.into());
            }
            SlotState::CloseAsked(_)
            | SlotState::Answering
            | SlotState::CutOff
            | SlotState::Closing => return Err(SendError::Closing.into()),
        }
        let limit = slot.payload_size_max.load(Ordering::Relaxed) as usize;
        if item.payload_size > limit {
            let size = item.payload_size;
            return Err(SendError::TooLarge { size, limit }.into());
        }
        let used = slot.used();
        let mut queued = used.queued();
        if !self.fits(queued, item.traffic) {
            if !self.make_room(used, inner, queued, item) {
                return Err(self.refuse(slot, inner, queued, item));
            }
            queued = used.queued();
        }
        queued.add(item.traffic);
        let tails = match &mut inner.tails {
            Some(tails) => tails,
            none => begin_tails(none),
        };
        let needed = queued.bytes + tails.slack as u64;
        if needed > used.leased() as u64 && !self.lease_for(used, tails, queued.bytes, item) {
            self.count_refused_for_budget(item.traffic);
            return Err(self.note_refusal(slot, Refusals::BUDGET));
        }
        let tail = tails.appending(item.priority, item.traffic);
        push(tail);
        let has_grown = tail.take_grown();
        used.accepted.add(item.traffic);
        if has_grown {
            self.cover(used, tails, queued.bytes);
        }
        Ok(())
    }

    /// Counts replies that were refused among others.
    #[cold]
    fn note_unanswered(&self, slot: &Slot, peer: PeerId, replies: u64) {
        let mut inner = slot.lock();
        let is_closing = inner.state == SlotState::Closing;
        if replies > 0 && is_closing && slot.generation() == peer.generation() {
            inner.known.get_or_insert_default().unanswered += replies;
        }
    }

    /// Leases what is missing for a message that is to be appended, `queued` bytes with it.
    #[cold]
    fn lease_for(&self, used: &Used, tails: &mut Tails, queued: u64, item: Item) -> bool {
        tails.measure();
        // It goes into what was taken ahead where it is appended. What is held beside other
        // segments is of no use to it.
        let room = tails.room(item.priority).min(item.traffic.bytes);
        self.lease(used, &used.leased, queued + tails.slack as u64 - room)
    }

    /// Leases what tails have taken ahead. If the budget has no room for that, they give it back.
    #[cold]
    fn cover(&self, used: &Used, tails: &mut Tails, queued: u64) {
        tails.measure();
        if self.lease(used, &used.leased, queued + tails.slack as u64) {
            return;
        }
        tails.trim();
        // What is left is there already.
        let needed = usize::try_from(queued).unwrap_or(usize::MAX);
        let missing = (needed + tails.slack).saturating_sub(used.leased());
        self.ledger.budget.charge(missing);
        add(&used.leased, missing);
    }

    /// Whether a message or batch may be queued behind what is.
    fn fits(&self, queued: Traffic, traffic: Traffic) -> bool {
        let alone = queued.messages == 0 && traffic.messages == 1;
        let bytes = queued.bytes.saturating_add(traffic.bytes);
        alone
            || (bytes <= self.outbox_bytes_max.load(Ordering::Relaxed)
                && queued.messages + traffic.messages
                    <= self.outbox_messages_max.load(Ordering::Relaxed))
    }

    /// Drops what the policy allows to drop, if that makes the message fit.
    fn make_room(&self, used: &Used, inner: &mut Inner, mut queued: Traffic, item: Item) -> bool {
        if !self.may_overflow() {
            return false;
        }
        let Some(tails) = &mut inner.tails else {
            return false;
        };
        let mut least = queued;
        least.sub(tails.waiting(item.priority));
        if !self.fits(least, item.traffic) {
            return false;
        }
        while !self.fits(queued, item.traffic) {
            let Some(dropped) = tails.drop_oldest(item.priority) else {
                return false;
            };
            used.overflowed.add(dropped);
            queued.sub(dropped);
        }
        true
    }

    /// Refuses a message for which the outbox has no room.
    fn refuse(&self, slot: &Slot, inner: &mut Inner, queued: Traffic, item: Item) -> Refused {
        if !self.fits(Traffic::default(), item.traffic) {
            // It never will, so nobody is to be told when to try again.
            return SendError::Full.into();
        }
        let within = item.traffic.bytes <= self.outbox_bytes_max.load(Ordering::Relaxed);
        if self.full == OutboxFull::Close && within {
            inner.state = SlotState::CutOff;
            slot.close_asked.store(true, Ordering::Relaxed);
            return Refused {
                error: SendError::Full,
                tells_loop: true,
            };
        }
        if self.limits().is_low(queued) {
            self.note_refusal(slot, Refusals::NOT_EMPTY)
        } else {
            self.note_refusal(slot, Refusals::OUTBOX)
        }
    }

    /// Keeps in mind that somebody was refused and may want to know when to try again. The loop is
    /// told: it may have written everything meanwhile, and would not look.
    fn note_refusal(&self, slot: &Slot, why: Refusals) -> Refused {
        let listened = self.event_subscribers.load(Ordering::Relaxed) > 0;
        let tells_loop = listened && {
            let before = Refusals(slot.refusals.fetch_or(why.0, Ordering::AcqRel));
            !before.has(why)
        };
        let error = match why {
            Refusals::BUDGET => SendError::OverBudget,
            _ => SendError::Full,
        };
        Refused { error, tells_loop }
    }

    #[cold]
    fn count_refused_for_budget(&self, traffic: Traffic) {
        let refused = &self.ledger.refused_for_budget;
        refused.fetch_add(traffic.messages, Ordering::Relaxed);
    }

    /// Makes sure that the slot's leases cover so many bytes; `own` is the caller's to raise.
    #[inline]
    fn lease(&self, used: &Used, own: &AtomicUsize, needed: u64) -> bool {
        let needed = usize::try_from(needed).unwrap_or(usize::MAX);
        let leased = used.leased();
        needed <= leased || self.lease_more(own, needed, leased)
    }

    #[inline(never)]
    fn lease_more(&self, own: &AtomicUsize, needed: usize, leased: usize) -> bool {
        let missing = needed - leased;
        let budget = &self.ledger.budget;
        // As much as there was, so that a fill asks a few times; but little for each of many is
        // not to be much.
        let ahead = missing.max(leased.min(BUDGET_LEASE_BYTES));
        if ahead > missing && !budget.is_tight() && budget.try_charge(ahead) {
            add(own, ahead);
            return true;
        }
        let granted = budget.try_charge(missing);
        if granted {
            add(own, missing);
        }
        granted
    }

    /// Asks the loop to close a connection in order. False if there is no such connection.
    pub(crate) fn ask_close(&self, peer: PeerId) -> bool {
        let Some(slot) = self.slot(peer) else {
            return false;
        };
        let mut inner = slot.lock();
        if slot.generation() != peer.generation() {
            return false;
        }
        match inner.state {
            SlotState::Free => return false,
            SlotState::CloseAsked(_)
            | SlotState::Answering
            | SlotState::CutOff
            | SlotState::Closing => {
                slot.given_up.store(true, Ordering::Relaxed);
                return true;
            }
            SlotState::Open => inner.state = SlotState::CloseAsked(CloseReason::AppClosed),
        }
        slot.given_up.store(true, Ordering::Relaxed);
        drop(inner);
        self.mark_dirty(slot, peer.index());
        true
    }

    /// Whether a message of this size could be accepted now; for waiting senders.
    ///
    /// Registers the calling thread to be unparked when there may be room. Senders on the loop's
    /// own thread must not wait: nobody else could make the room.
    pub(crate) fn wait_for_room(&self, peer: PeerId) -> bool {
        let Some(slot) = self.slot(peer) else {
            return false;
        };
        if never_waits() {
            return false;
        }
        let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        let me = thread::current();
        if !waiters
            .iter()
            .any(|(index, thread)| *index == peer.index() && thread.id() == me.id())
        {
            waiters.push((peer.index(), me));
        }
        drop(waiters);
        slot.waited.store(true, Ordering::Relaxed);
        // Pairs with the fence in `add_written`: the caller looks at the queue after this.
        fence(Ordering::SeqCst);
        true
    }

    /// Takes the calling thread off the list of those that wait for room.
    pub(crate) fn forget_waiter(&self, peer: PeerId) {
        let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        let me = thread::current().id();
        waiters.retain(|(index, thread)| *index != peer.index() || thread.id() != me);
    }

    /// Waits until somebody unparks this thread, or the time is over.
    pub(crate) fn park(timeout: Duration) {
        thread::park_timeout(timeout);
    }

    /// Returns credit for what was read from a peer, if it is still connected, and the bytes to the
    /// budget in any case.
    pub(crate) fn release(&self, peer: PeerId, traffic: Traffic, charge: usize) {
        self.ledger.budget.release(charge);
        self.apply(Deferred::Release(peer, traffic), !never_waits());
        // Pairs with the fence in `wait_for_budget`.
        fence(Ordering::SeqCst);
        if self.budget_waited.load(Ordering::Relaxed) && !self.ledger.budget.is_tight() {
            self.budget_waited.store(false, Ordering::Relaxed);
            self.doorbell.ring();
        }
    }

    /// Keeps the loop from reading a peer until [`unhold`](Self::unhold) was called as often.
    pub(crate) fn hold(&self, peer: PeerId) {
        self.apply(Deferred::Hold(peer), !never_waits());
    }

    pub(crate) fn unhold(&self, peer: PeerId) {
        self.apply(Deferred::Unhold(peer), !never_waits());
    }

    /// Has the loop close a peer in order, for a reason of the dispatcher's. Nothing happens if it
    /// is on its way already.
    pub(crate) fn close_for(&self, peer: PeerId, reason: CloseReason) {
        self.apply(Deferred::Close(peer, reason), !never_waits());
    }

    /// Changes what the slot of a peer counts, if the peer is still connected. A thread that must
    /// not wait for the lock leaves it to the loop's next turn.
    fn apply(&self, change: Deferred, may_wait: bool) {
        let (Deferred::Release(peer, _)
        | Deferred::Hold(peer)
        | Deferred::Unhold(peer)
        | Deferred::Close(peer, _)) = change;
        let Some(slot) = self.slot(peer) else { return };
        let mut inner = match slot.try_lock() {
            Ok(inner) => inner,
            // The order of changes to one slot does not matter: they are sums. Should there be more
            // of them than the queue holds, waiting is the smaller evil.
            Err(Contended) if !may_wait && self.deferred.1.len() < DEFERRED_MAX => {
                let sent = self.deferred.0.try_send(change);
                debug_assert!(sent.is_ok(), "both ends are here");
                self.doorbell.ring();
                return;
            }
            Err(Contended) => slot.lock(),
        };
        if slot.generation() != peer.generation() {
            return;
        }
        let mut wanted = false;
        match change {
            Deferred::Release(_, traffic) => slot.used().released.add(traffic),
            // A hold that was put off may come behind its unhold, and is then the end of it.
            Deferred::Hold(_) => wanted = slot.parked.fetch_add(1, Ordering::Relaxed) == u32::MAX,
            Deferred::Unhold(_) => wanted = slot.parked.fetch_sub(1, Ordering::Relaxed) == 1,
            Deferred::Close(_, reason) => {
                wanted = inner.state == SlotState::Open;
                if wanted {
                    inner.state = SlotState::CloseAsked(reason);
                    let ends = !reason.reads_on();
                    slot.close_asked.store(ends, Ordering::Relaxed);
                }
            }
        }
        drop(inner);
        // Pairs with the fence in `pause`.
        fence(Ordering::SeqCst);
        if slot.paused.load(Ordering::Relaxed) && slot.may_resume() {
            slot.paused.store(false, Ordering::Relaxed);
            wanted = true;
        }
        if wanted {
            self.mark_dirty(slot, peer.index());
        }
    }

    fn mark_dirty(&self, slot: &Slot, index: u32) {
        if self.list_dirty(slot, index) {
            self.doorbell.ring();
        }
    }

    /// Puts a slot on the loop's list. True if that is news, so that the loop is to be woken.
    #[inline]
    fn list_dirty(&self, slot: &Slot, index: u32) -> bool {
        let is_new = !slot.dirty.swap(true, Ordering::AcqRel);
        if is_new {
            let sent = self.dirty.0.try_send(index);
            debug_assert!(sent.is_ok(), "the queue has a place for every slot");
        }
        is_new
    }

    fn slot(&self, peer: PeerId) -> Option<&Slot> {
        if peer.shard() != self.shard {
            return None;
        }
        self.slot_at(peer.index())
    }

    /// The most connections that there may be at a time.
    fn slots_max(&self) -> usize {
        self.chunks.len() * CHUNK_SLOTS
    }

    fn slot_at(&self, index: u32) -> Option<&Slot> {
        let index = index as usize;
        self.chunks
            .get(index / CHUNK_SLOTS)?
            .get()?
            .get(index % CHUNK_SLOTS)
    }

    // ----- the loop --------------------------------------------------------------------------

    /// The loop has ended, perhaps without closing its connections: nobody is connected any more.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    /// Whether the loop has ended, so that nobody will answer for it.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    /// Says that the calling thread must never wait.
    pub(crate) fn set_loop_thread() {
        NEVER_WAITS.with(|flag| flag.set(true));
    }

    /// Does what was put off because a slot's lock was taken.
    pub(crate) fn finish_deferred(&self) {
        // What is put off again waits for the next turn.
        for _ in 0..self.deferred.1.len() {
            let Ok(change) = self.deferred.1.try_recv() else {
                return;
            };
            self.apply(change, false);
        }
    }

    pub(crate) fn has_deferred(&self) -> bool {
        !self.deferred.1.is_empty()
    }

    /// Gives the slot to a new connection, which may be sent to at once.
    #[cfg(test)]
    pub(crate) fn open(&self, index: u32) -> Result<PeerId, OpenError> {
        let addr = SocketAddr::from(([127, 0, 0, 1], 1));
        let id = self.open_for(index, About { addr, link: None })?;
        self.admit(id, self.payload_size_max);
        Ok(id)
    }

    /// Gives the slot to a new connection. Until it is [admitted](Self::admit), nothing can be sent
    /// to it.
    pub(crate) fn open_for(&self, index: u32, about: About) -> Result<PeerId, OpenError> {
        let chunk = self
            .chunks
            .get(index as usize / CHUNK_SLOTS)
            .ok_or(OpenError::NoSuchSlot)?;
        let chunk = chunk.get_or_init(|| (0..CHUNK_SLOTS).map(|_| Slot::default()).collect());
        let slot = &chunk[index as usize % CHUNK_SLOTS];
        let mut inner = slot.try_lock().map_err(|Contended| OpenError::Contended)?;
        assert_eq!(
            inner.state,
            SlotState::Free,
            "slot {index} is given away once"
        );
        let generation = slot.generation().checked_add(1).ok_or(OpenError::Retired)?;
        slot.generation.store(generation, Ordering::Relaxed);
        inner.state = SlotState::Open;
        let About { addr, link } = about;
        slot.addr.set(addr);
        inner.known = link.map(|link| {
            let link = Some(link);
            Box::new(Known {
                link,
                ..Known::default()
            })
        });
        slot.admitted.store(false, Ordering::Relaxed);
        slot.close_asked.store(false, Ordering::Relaxed);
        slot.given_up.store(false, Ordering::Relaxed);
        slot.marks.store(0, Ordering::Relaxed);
        slot.payload_size_max
            .store(self.payload_size_max, Ordering::Relaxed);
        if let Some(used) = slot.used.get() {
            used.reset();
        } else if cfg!(all(test, nebnet_loom)) {
            // Loom does not see how a `OnceLock` hands over what it holds.
            slot.used();
        }
        slot.refusals.store(0, Ordering::Relaxed);
        slot.parked.store(0, Ordering::Relaxed);
        slot.paused.store(false, Ordering::Relaxed);
        Ok(PeerId::new(self.shard, index, generation))
    }

    /// Lets the peer be sent to, payloads up to `payload_size_max` bytes. Needs no lock, so that
    /// whoever learns of the connection can send to it at once.
    pub(crate) fn admit(&self, peer: PeerId, payload_size_max: u32) {
        let slot = self.own(peer);
        let limit = payload_size_max.min(self.payload_size_max);
        slot.payload_size_max.store(limit, Ordering::Relaxed);
        slot.admitted.store(true, Ordering::Release);
    }

    /// Whatever is sent to the peer from now on carries a checksum. To be called before it is
    /// [admitted](Self::admit), so that nothing goes out without.
    pub(crate) fn set_checksums(&self, peer: PeerId) {
        self.own(peer).marks.fetch_or(CHECKSUMS, Ordering::Relaxed);
    }

    /// A frame as the loop itself sends it to a peer.
    pub(crate) fn dress_for<'a>(&self, peer: PeerId, frame: Frame<'a>) -> Frame<'a> {
        self.own(peer).dress(self.dress(frame))
    }

    /// Keeps what the peer said of itself where other threads can look it up.
    pub(crate) fn set_identity(
        &self,
        peer: PeerId,
        identity: &Arc<PeerIdentity>,
    ) -> Result<(), Contended> {
        let mut inner = self.own(peer).try_lock()?;
        let known = inner.known.get_or_insert_default();
        known.identity = Some(Arc::clone(identity));
        Ok(())
    }

    /// The next slot that is marked dirty. Whatever happens to it from now on marks it again.
    pub(crate) fn poll_dirty(&self) -> Option<u32> {
        let index = self.dirty.1.try_recv().ok()?;
        if let Some(slot) = self.slot_at(index) {
            slot.dirty.swap(false, Ordering::AcqRel);
        }
        Some(index)
    }

    pub(crate) fn dirty_count(&self) -> usize {
        self.dirty.1.len()
    }

    pub(crate) fn has_dirty(&self) -> bool {
        !self.dirty.1.is_empty()
    }

    /// Takes what senders have appended for an open connection, and gives it to `out`; `before` is
    /// what was seen so far.
    #[inline]
    pub(crate) fn take_tail(
        &self,
        now: Tick,
        peer: PeerId,
        before: Sums,
        take: Take,
        out: impl FnMut(Priority, Segment),
    ) -> Result<Taken, Contended> {
        let slot = self.own(peer);
        let mut inner = slot.try_lock()?;
        let mut taken = Taken {
            sums: slot.sums_since(before),
            close_asked: match inner.state {
                SlotState::CloseAsked(reason) => Some(reason),
                SlotState::Free
                | SlotState::Open
                | SlotState::Answering
                | SlotState::CutOff
                | SlotState::Closing => None,
            },
            cut_off: inner.state == SlotState::CutOff,
            has_more: false,
        };
        let is_finished = taken.close_asked.is_some_and(CloseReason::reads_on);
        let is_closed = taken.close_asked.is_some() && !is_finished;
        let last = is_closed || taken.cut_off || take == Take::Last;
        if last {
            inner.state = SlotState::Closing;
        } else if is_finished {
            inner.state = SlotState::Answering;
        }
        let Some(tails) = &mut inner.tails else {
            return Ok(taken);
        };
        match take {
            Take::Beside(bytes_ahead) if self.may_overflow() && !last => {
                let mut ahead = slot.queued();
                ahead.sub(tails.waiting(Priority::High));
                let window = self.limits().window();
                let messages = ahead.messages;
                taken.has_more = tails.take_some(now, window, messages, bytes_ahead, out);
            }
            Take::Beside(_) | Take::Last => tails.take(out),
        }
        Ok(taken)
    }

    /// Accepts a message that the loop itself sends to an open connection, or says why not. On `Ok`
    /// the caller puts it into the outbox.
    ///
    /// Takes no lock, so that a send of another thread that is under way is not seen, nor this one
    /// there: together they may pass a bound by that one send. Whatever the policy for a full
    /// outbox, it is refused: to drop what others sent takes the lock.
    pub(crate) fn accept_inline(
        &self,
        peer: PeerId,
        traffic: Traffic,
        payload_size: usize,
    ) -> Result<(), SendError> {
        let slot = self.own(peer);
        if !slot.admitted.load(Ordering::Relaxed) {
            return Err(SendError::NotConnected);
        }
        if slot.close_asked.load(Ordering::Relaxed) {
            return Err(SendError::Closing);
        }
        let limit = slot.payload_size_max.load(Ordering::Relaxed) as usize;
        if payload_size > limit {
            return Err(SendError::TooLarge {
                size: payload_size,
                limit,
            });
        }
        let used = slot.used();
        let mut queued = used.queued();
        let fits = self.fits(queued, traffic);
        queued.add(traffic);
        if !(fits && self.lease(used, &used.leased_inline, queued.bytes)) {
            if fits {
                self.count_refused_for_budget(traffic);
                return Err(SendError::OverBudget);
            }
            return Err(SendError::Full);
        }
        used.written.sub_wrapping(traffic);
        Ok(())
    }

    /// Whether the application asked for the close of the slot's last connection.
    pub(crate) fn was_given_up(&self, peer: PeerId) -> bool {
        self.own(peer).given_up.load(Ordering::Relaxed)
    }

    /// Has everything refused that is no reply: the connection is on its way to its end.
    pub(crate) fn limit_to_replies(&self, peer: PeerId) -> Result<(), Contended> {
        let mut inner = self.own(peer).try_lock()?;
        if inner.state == SlotState::Open {
            inner.state = SlotState::Answering;
        }
        Ok(())
    }

    /// Refuses further messages if none is queued; false if there is one.
    pub(crate) fn close_if_drained(&self, peer: PeerId) -> Result<bool, Contended> {
        let slot = self.own(peer);
        let mut inner = slot.try_lock()?;
        let drained = slot.queued().messages == 0 && inner.state != SlotState::CutOff;
        if drained {
            inner.state = SlotState::Closing;
        }
        Ok(drained)
    }

    /// Keeps how many bytes of storage the loop holds for what is queued, beside what is queued.
    /// Whether the budget has room or not, they are there, and are charged.
    pub(crate) fn note_slack(&self, peer: PeerId, bytes: usize) {
        let used = self.own(peer).used();
        let before = used.slack.load(Ordering::Relaxed);
        let queued = usize::try_from(used.queued().bytes).unwrap_or(usize::MAX);
        let left = used.leased().wrapping_add(before);
        let missing = queued.saturating_add(bytes).saturating_sub(left);
        if missing > 0 {
            self.ledger.budget.charge(missing);
        }
        used.slack.store(bytes, Ordering::Relaxed);
        let change = before.wrapping_add(missing).wrapping_sub(bytes);
        add(&used.leased_inline, change);
        self.trim_excess(peer);
    }

    /// Gives back what was leased for more than there is now, unless somebody holds the lock.
    fn trim_excess(&self, peer: PeerId) {
        let slot = self.own(peer);
        let Ok(mut inner) = slot.try_lock() else {
            return;
        };
        let used = slot.used();
        let slack = inner.tails.as_mut().map_or(0, |tails| {
            tails.measure();
            tails.slack
        });
        let queued = usize::try_from(used.queued().bytes).unwrap_or(usize::MAX);
        let excess = used.leased().saturating_sub(queued.saturating_add(slack));
        if excess > 0 {
            add(&used.leased_inline, excess.wrapping_neg());
            drop(inner);
            self.ledger.budget.release(excess);
        }
    }

    /// Bytes of the budget that are leased for a connection.
    pub(crate) fn leased(&self, peer: PeerId) -> usize {
        let used = self.own(peer).used.get();
        used.map_or(0, |used| used.all_leases())
    }

    /// Gives back what an outbox that ran empty has leased beyond need.
    ///
    /// A contended slot keeps its lease until the next time: the lock means that it is being used.
    #[inline]
    pub(crate) fn trim_lease(&self, peer: PeerId) {
        let slot = self.own(peer);
        let Ok(inner) = slot.try_lock() else {
            return;
        };
        if let Some(used) = slot.used.get().filter(|used| used.queued().messages == 0) {
            self.ledger.budget.release(used.take_leases());
        }
        drop(inner);
    }

    /// Gives up what a dormant connection does not need. Nothing happens if somebody holds the
    /// lock: then it is being used.
    pub(crate) fn shrink(&self, peer: PeerId) {
        if let Ok(mut inner) = self.own(peer).try_lock() {
            inner.tails.take_if(|tails| tails.is_empty());
        }
    }

    /// Who is at the other end of a connection that the loop knows to be open.
    pub(crate) fn addr(&self, peer: PeerId) -> SocketAddr {
        self.own(peer).addr.get()
    }

    /// Ends the connection's use of the slot. What senders had appended goes to `out`; returned are
    /// what the sums have grown by since `before`, and how many replies were refused because the
    /// BYE was due.
    pub(crate) fn close(
        &self,
        peer: PeerId,
        before: Sums,
        out: impl FnMut(Priority, Segment),
    ) -> Result<(Sums, u64), Contended> {
        let slot = self.own(peer);
        let mut inner = slot.try_lock()?;
        if let Some(mut tails) = inner.tails.take() {
            tails.take(out);
        }
        inner.state = SlotState::Free;
        let unanswered = inner.known.take().map_or(0, |known| known.unanswered);
        slot.admitted.store(false, Ordering::Relaxed);
        if let Some(used) = slot.used.get() {
            self.ledger.budget.release(used.take_leases());
        }
        Ok((slot.sums_since(before), unanswered))
    }

    /// Counts what the kernel took. Returns whether somebody waits for the room.
    pub(crate) fn add_written(&self, peer: PeerId, traffic: Traffic) -> bool {
        let slot = self.own(peer);
        if traffic != Traffic::default() {
            slot.used().written.add_wrapping(traffic);
        }
        // Pairs with the fence in `wait_for_room`.
        fence(Ordering::SeqCst);
        slot.waited.load(Ordering::Relaxed)
    }

    /// Unparks the senders that wait for room with a peer. False if it has to be tried again.
    #[must_use]
    pub(crate) fn notify_room(&self, index: u32) -> bool {
        let Some(slot) = self.slot_at(index) else {
            return true;
        };
        let Ok(mut waiters) = self.waiters.try_lock() else {
            return false;
        };
        slot.waited.store(false, Ordering::Relaxed);
        waiters.retain(|(waiting, thread)| {
            if *waiting == index {
                thread.unpark();
            }
            *waiting != index
        });
        true
    }

    /// The earliest deadline of a request that came since the last call.
    pub(crate) fn take_request_deadline(&self, peer: PeerId) -> Option<Tick> {
        let deadline = &self.own(peer).used.get()?.request_deadline;
        let unknown = deadline.load(Ordering::Relaxed) != NO_DEADLINE;
        unknown.then(|| deadline.swap(NO_DEADLINE, Ordering::Relaxed))
    }

    /// Whether a request was ever sent on a connection; final once it was [closed](Self::close).
    pub(crate) fn was_asked(&self, peer: PeerId) -> bool {
        self.own(peer).has(ASKED)
    }

    /// Messages and bytes accepted from senders and not yet taken by the kernel.
    pub(crate) fn queued(&self, peer: PeerId) -> Traffic {
        self.own(peer).queued()
    }

    /// What was read from the peer and released by everybody, and what is queued for it.
    #[inline]
    pub(crate) fn flow(&self, peer: PeerId) -> Flow {
        match self.own(peer).used.get() {
            Some(used) => Flow {
                released: used.released.get(),
                queued: used.queued(),
            },
            None => Flow::default(),
        }
    }

    /// What is queued, and why senders were refused since it was
    /// [forgotten](Self::forget_refusals).
    pub(crate) fn fill(&self, peer: PeerId) -> (Traffic, Refusals) {
        let slot = self.own(peer);
        let refusals = slot.refusals.load(Ordering::Acquire);
        (slot.queued(), Refusals(refusals))
    }

    /// To be called before the event that answers the refusals: one that comes later asks for
    /// another.
    pub(crate) fn forget_refusals(&self, peer: PeerId, why: Refusals) {
        let slot = self.own(peer);
        slot.refusals.fetch_and(!why.0, Ordering::AcqRel);
    }

    /// All that was accepted for a connection, what of it was dropped for later ones, and what
    /// waits here; of one moment.
    pub(crate) fn look(&self, peer: PeerId) -> Result<(Sums, Traffic), Contended> {
        let slot = self.own(peer);
        let inner = (0..LOOKS_MAX).find_map(|_| {
            std::hint::spin_loop();
            slot.try_lock().ok()
        });
        let inner = inner.ok_or(Contended)?;
        let sums = slot.sums_since(Sums::default());
        let tails = inner.tails.as_ref();
        Ok((
            sums,
            tails.map_or_else(Traffic::default, |tails| tails.waiting(Priority::High)),
        ))
    }

    /// What was read from the peer and released by everybody.
    pub(crate) fn released(&self, peer: PeerId) -> Traffic {
        let used = self.own(peer).used.get();
        used.map_or_else(Traffic::default, |used| used.released.get())
    }

    /// Whether the dispatcher keeps the peer from being read.
    #[inline]
    pub(crate) fn is_parked(&self, peer: PeerId) -> bool {
        self.own(peer).parked.load(Ordering::Relaxed) > 0
    }

    /// Marks the slot dirty once everything up to `resume` was released. False if it already was,
    /// so that no other thread would.
    #[must_use]
    pub(crate) fn pause(&self, peer: PeerId, resume: Traffic) -> bool {
        let slot = self.own(peer);
        slot.used().resume.set(resume);
        slot.paused.store(true, Ordering::Relaxed);
        // Pairs with the fence in `release`.
        fence(Ordering::SeqCst);
        let pausing = !slot.may_resume();
        if !pausing {
            slot.paused.store(false, Ordering::Relaxed);
        }
        pausing
    }

    /// Rings the doorbell once the budget is no longer tight. False if it is not.
    #[must_use]
    pub(crate) fn wait_for_budget(&self) -> bool {
        self.budget_waited.store(true, Ordering::Relaxed);
        self.ledger.budget.declare_wait();
        // Pairs with those of whoever gives bytes back, here or in another shard.
        fence(Ordering::SeqCst);
        let tight = self.ledger.budget.is_tight();
        if !tight {
            self.budget_waited.store(false, Ordering::Relaxed);
        }
        tight
    }

    /// The slot of a connection that the loop knows to be open.
    #[inline]
    fn own(&self, peer: PeerId) -> &Slot {
        self.slot_at(peer.index())
            .expect("the slot of a connection was opened with it")
    }
}

#[cfg(test)]
impl Slots {
    /// Does something while a sender holds the lock of a slot.
    pub(crate) fn with_lock<T>(&self, peer: PeerId, act: impl FnOnce() -> T) -> T {
        let locked = self.own(peer).lock();
        let result = act();
        drop(locked);
        result
    }
}

impl fmt::Debug for Slots {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slots")
            .field("shard", &self.shard)
            .finish_non_exhaustive()
    }
}

impl Slot {
    /// A thread that panicked while it held the lock had finished or not begun its change: pushing
    /// to a vector is the only thing in between that can fail.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_lock(&self) -> Result<MutexGuard<'_, Inner>, Contended> {
        match self.inner.try_lock() {
            Ok(inner) => Ok(inner),
            Err(std::sync::TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
            Err(std::sync::TryLockError::WouldBlock) => Err(Contended),
        }
    }

    #[inline]
    fn used(&self) -> &Used {
        match self.used.get() {
            Some(used) => used,
            None => self.begin_use(),
        }
    }

    #[cold]
    #[inline(never)]
    fn begin_use(&self) -> &Used {
        self.used.get_or_init(Box::default)
    }

    #[inline]
    fn queued(&self) -> Traffic {
        let used = self.used.get();
        used.map_or_else(Traffic::default, |used| used.queued())
    }

    /// A frame as it is sent on this connection. Whoever means an earlier one is refused, so it
    /// does not matter if this is said of another.
    #[inline]
    fn dress<'a>(&self, frame: Frame<'a>) -> Frame<'a> {
        let checksum = frame.checksum | self.has(CHECKSUMS);
        Frame { checksum, ..frame }
    }

    #[inline]
    fn has(&self, mark: u8) -> bool {
        self.marks.load(Ordering::Relaxed) & mark != 0
    }

    /// Only the holder of the lock gets what is not out of date.
    fn generation(&self) -> u32 {
        self.generation.load(Ordering::Relaxed)
    }

    /// What the sums have grown by; to be called under the lock.
    fn sums_since(&self, before: Sums) -> Sums {
        let sums = self
            .used
            .get()
            .map_or_else(Sums::default, |used| used.sums());
        Sums {
            accepted: sums.accepted.since(before.accepted),
            overflowed: sums.overflowed.since(before.overflowed),
        }
    }

    fn may_resume(&self) -> bool {
        let (released, resume) = (self.used().released.get(), self.used().resume.get());
        released.messages >= resume.messages && released.bytes >= resume.bytes
    }
}

#[cold]
#[inline(never)]
fn begin_tails(tails: &mut Option<Box<Tails>>) -> &mut Tails {
    tails.get_or_insert_default()
}

impl Default for Used {
    fn default() -> Self {
        Self {
            accepted: TrafficCell::default(),
            overflowed: TrafficCell::default(),
            released: TrafficCell::default(),
            leased: AtomicUsize::default(),
            leased_inline: AtomicUsize::default(),
            slack: AtomicUsize::default(),
            written: TrafficCell::default(),
            resume: TrafficCell::default(),
            request_deadline: AtomicU64::new(NO_DEADLINE),
        }
    }
}

impl Used {
    /// For the slot's next connection.
    fn reset(&self) {
        for cell in [
            &self.accepted,
            &self.overflowed,
            &self.released,
            &self.written,
            &self.resume,
        ] {
            cell.set(Traffic::default());
        }
        self.request_deadline.store(NO_DEADLINE, Ordering::Relaxed);
    }

    #[inline]
    fn queued(&self) -> Traffic {
        let (accepted, written) = (self.accepted.get(), self.written.get());
        let overflowed = self.overflowed.get();
        // The loop reads without the lock, so they may be a moment apart.
        let queued = |accepted: u64, written: u64, overflowed: u64| {
            let left = accepted.wrapping_sub(written).wrapping_sub(overflowed);
            // More written than accepted is none.
            if left > u64::MAX / 2 { 0 } else { left }
        };
        Traffic::new(
            queued(accepted.messages, written.messages, overflowed.messages),
            queued(accepted.bytes, written.bytes, overflowed.bytes),
        )
    }

    /// Bytes of the budget that are leased for what is queued.
    fn leased(&self) -> usize {
        let inline = self.leased_inline.load(Ordering::Relaxed);
        self.leased.load(Ordering::Relaxed).wrapping_add(inline)
    }

    /// The same with what is leased beside it.
    fn all_leases(&self) -> usize {
        let slack = self.slack.load(Ordering::Relaxed);
        self.leased().wrapping_add(slack)
    }

    /// Takes all leases. To be called by the loop, under the lock.
    fn take_leases(&self) -> usize {
        let leased = self.all_leases();
        for lease in [&self.leased, &self.leased_inline, &self.slack] {
            lease.store(0, Ordering::Relaxed);
        }
        leased
    }

    fn sums(&self) -> Sums {
        Sums {
            accepted: self.accepted.get(),
            overflowed: self.overflowed.get(),
        }
    }
}

const _: () = {
    // What every connection has of these; see `Place` in `peers::table` for its other half.
    assert!(cfg!(nebnet_loom) || size_of::<Slot>() <= 96);
    assert!(cfg!(nebnet_loom) || size_of::<Used>() <= 112);
};
