//! What a connection shares with other threads: its outgoing tail, its credit, its doorbell.
//!
//! The loop owns everything about a peer except for one [`Slot`]. Other threads reach the slot by
//! the peer's id: a sender appends encoded frames to its tail, whoever drops the last reference to
//! a block returns the credit, the dispatcher holds the peer back. Each of them then asks for the
//! loop's attention, at most once until the loop has looked.
//!
//! The tail stands behind a mutex that is held for a copy of at most a few kilobytes. Senders may
//! wait for each other there; the loop never does: it tries the lock and comes back in its next
//! turn. The generation is compared under the same lock, so whether a message was accepted is
//! decided at one place and cannot be wrong.
//!
//! Invariants, per connection:
//! - `written <= accepted`, in messages and in bytes; their difference is what is queued
//! - `queued <= limit`, or exactly one message is queued
//! - bytes leased from the budget `>= queued bytes` after every send
//! - a slot index is in the attention queue at most once

use std::{
    cell::Cell,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence},
    },
    thread::{self, Thread},
    time::Duration,
};

use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};

use crate::{
    clock::Clock,
    doorbell::Doorbell,
    error::SendError,
    frame::{Frame, encode_around, encode_whole},
    id::{MessageType, PeerId},
    ledger::{Ledger, Traffic},
    limits::{BLOCK_SIZE, BUDGET_LEASE_BYTES, FRAME_OVERHEAD_MAX, PAYLOAD_COPIED_MAX},
};

/// Slots are allocated in chunks when the first of their connections comes.
const CHUNK_SLOTS: usize = 64;

/// Changes that wait because the loop found a slot's lock taken.
const DEFERRED_MAX: usize = 4096;

thread_local! {
    /// Whether this is a loop's thread.
    static NEVER_WAITS: Cell<bool> = const { Cell::new(false) };
}

/// Whether the calling thread must not wait for anybody.
pub(crate) fn never_waits() -> bool {
    NEVER_WAITS.get()
}

/// A change to a slot that needs its lock.
#[derive(Clone, Copy, Debug)]
enum Deferred {
    Release(PeerId, Traffic),
    Hold(PeerId),
    Unhold(PeerId),
}

/// All slots of one loop.
pub(crate) struct Slots {
    shard: u8,
    chunks: Box<[OnceLock<Box<[Slot]>>]>,
    limits: OutboxLimits,
    attention: (Sender<u32>, Receiver<u32>),
    waiters: Mutex<Vec<(u32, Thread)>>,
    /// True while the loop does not read because the budget is short.
    budget_waited: AtomicBool,
    /// The loop has ended and will write nothing more.
    ended: AtomicBool,
    deferred: (Sender<Deferred>, Receiver<Deferred>),
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

#[derive(Debug, Default)]
struct Slot {
    /// True while the slot's index is in the attention queue.
    attention: AtomicBool,
    /// True while a sender waits for room.
    waited: AtomicBool,
    /// True while the loop does not read the peer until `released` has reached `resume`.
    paused: AtomicBool,
    /// Deliveries of this peer that wait for a full subscriber.
    held: AtomicU32,
    /// Written under the lock, read by the loop.
    accepted: TrafficCell,
    released: TrafficCell,
    /// Written by the loop, read under the lock.
    written: TrafficCell,
    resume: TrafficCell,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    generation: u32,
    state: SlotState,
    /// The longest payload that the peer takes.
    payload_size_max: u32,
    leased: usize,
    tail: Tail,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum SlotState {
    #[default]
    Free,
    Open,
    /// The application asked for a close that the loop has not seen yet.
    CloseAsked,
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
}

/// Encoded frames that the loop has not taken yet.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    sealed: Vec<Segment>,
    open: Segment,
}

/// A run of outgoing bytes. Frames may continue from one segment into the next, but a header
/// always lies in one segment as a whole.
#[derive(Debug, Default)]
pub(crate) struct Segment {
    pub(crate) data: SegmentData,
    /// Frames that end in this segment.
    pub(crate) messages: u32,
    /// The type of all bytes, if they share one.
    pub(crate) message_type: Option<MessageType>,
    mixed: bool,
    /// Bytes by which the last frame continues behind this segment.
    pub(crate) spill: usize,
    /// The type of that frame.
    pub(crate) spill_type: MessageType,
    /// Whether it is a frame of the protocol.
    pub(crate) is_control: bool,
}

#[derive(Debug)]
pub(crate) enum SegmentData {
    /// Encoded here.
    Encoded(Vec<u8>),
    /// A payload as the sender gave it.
    Shared(Bytes),
}

impl Default for SegmentData {
    fn default() -> Self {
        Self::Encoded(Vec::new())
    }
}

impl SegmentData {
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Encoded(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }
}

impl Segment {
    /// A frame of the protocol.
    pub(crate) fn control(frame: Vec<u8>) -> Self {
        Self {
            data: SegmentData::Encoded(frame),
            mixed: true,
            is_control: true,
            ..Self::default()
        }
    }

    /// The second half of a segment: how many frames end in it is not known, so headers tell.
    pub(crate) fn second_half(data: SegmentData, spill: usize, spill_type: MessageType) -> Self {
        Self {
            data,
            mixed: true,
            spill,
            spill_type,
            ..Self::default()
        }
    }

    /// Counts a frame that ends here.
    fn note(&mut self, message_type: MessageType) {
        match self.message_type {
            None if !self.mixed => self.message_type = Some(message_type),
            Some(other) if other == message_type => {}
            Some(_) | None => {
                self.message_type = None;
                self.mixed = true;
            }
        }
        self.messages += 1;
    }

    /// The bytes of the open segment, which is always an encoded one.
    fn buffer(&mut self) -> &mut Vec<u8> {
        match &mut self.data {
            SegmentData::Encoded(bytes) => bytes,
            SegmentData::Shared(_) => unreachable!("a shared payload is sealed when it is pushed"),
        }
    }
}

impl Tail {
    /// Appends a frame; `owned` is its payload if it may be queued without a copy.
    fn push(&mut self, frame: &Frame<'_>, owned: Option<Bytes>) {
        match owned {
            Some(payload) if payload.len() > PAYLOAD_COPIED_MAX => {
                let trailer = encode_around(frame, self.open.buffer());
                self.open.spill = payload.len() + trailer.map_or(0, |trailer| trailer.len());
                self.open.spill_type = frame.message_type;
                // The head's bytes are of another type than the frames before it, unless it is not.
                if self.open.message_type != Some(frame.message_type) {
                    self.open.message_type = None;
                }
                self.seal();
                let mut body = Segment {
                    data: SegmentData::Shared(payload),
                    ..Segment::default()
                };
                if let Some(trailer) = trailer {
                    (body.spill, body.spill_type) = (trailer.len(), frame.message_type);
                    self.sealed.push(body);
                    self.open.buffer().extend_from_slice(&trailer);
                    self.open.note(frame.message_type);
                } else {
                    body.note(frame.message_type);
                    self.sealed.push(body);
                }
            }
            Some(_) | None => {
                encode_whole(frame, self.open.buffer());
                self.open.note(frame.message_type);
                self.seal_if_long();
            }
        }
    }

    /// Long buffers are sealed, so that appending never moves more than one block.
    fn seal_if_long(&mut self) {
        if self.open.data.as_slice().len() >= BLOCK_SIZE {
            self.seal();
        }
    }

    fn seal(&mut self) {
        self.sealed.push(std::mem::take(&mut self.open));
    }

    /// Moves all segments to `out`.
    fn take(&mut self, out: &mut impl Extend<Segment>) {
        // Taken as it is: a peer that is idle again holds no memory for what it once had.
        out.extend(std::mem::take(&mut self.sealed));
        if !self.open.data.as_slice().is_empty() {
            out.extend([std::mem::take(&mut self.open)]);
        }
    }
}

/// A message on its way out: a frame, and its payload once more if it is owned.
#[derive(Debug)]
pub(crate) struct OutFrame<'a> {
    pub(crate) frame: Frame<'a>,
    pub(crate) owned: Option<Bytes>,
}

/// Several encoded frames, for one peer.
#[derive(Debug, Default)]
pub(crate) struct OutFrames {
    pub(crate) bytes: Vec<u8>,
    pub(crate) messages: u32,
    pub(crate) payload_size_max: usize,
    pub(crate) message_type: Option<MessageType>,
    pub(crate) mixed: bool,
}

/// What the loop learns of a slot that asked for attention.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    /// Frames that came out of the tail.
    pub(crate) traffic: Traffic,
    /// The application asked for a close, and nothing will be accepted any more.
    pub(crate) close_asked: bool,
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
            limits,
            attention: bounded(count.div_ceil(CHUNK_SLOTS) * CHUNK_SLOTS),
            waiters: Mutex::default(),
            budget_waited: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            deferred: bounded(DEFERRED_MAX),
            doorbell: Doorbell::default(),
            ledger,
            clock,
        }
    }

    pub(crate) fn limits(&self) -> OutboxLimits {
        self.limits
    }

    // ----- any thread ------------------------------------------------------------------------

    /// Accepts a message for a peer, or says why not.
    pub(crate) fn send(&self, peer: PeerId, message: OutFrame<'_>) -> Result<(), SendError> {
        let frame = message.frame;
        let traffic = Traffic::new(1, frame.encoded_size() as u64);
        self.accept(peer, traffic, frame.payload.len(), |tail| {
            tail.push(&frame, message.owned)
        })
    }

    /// Accepts all messages of a batch for a peer, or none.
    pub(crate) fn send_batch(&self, peer: PeerId, batch: &mut OutFrames) -> Result<(), SendError> {
        if batch.messages == 0 {
            return Ok(());
        }
        let traffic = Traffic::new(u64::from(batch.messages), batch.bytes.len() as u64);
        self.accept(peer, traffic, batch.payload_size_max, |tail| {
            tail.append(batch)
        })
    }

    fn accept(
        &self,
        peer: PeerId,
        traffic: Traffic,
        payload_size: usize,
        push: impl FnOnce(&mut Tail),
    ) -> Result<(), SendError> {
        let slot = self.slot(peer).ok_or(SendError::NotConnected)?;
        let mut inner = slot.lock();
        if inner.generation != peer.generation() || self.ended.load(Ordering::Relaxed) {
            return Err(SendError::NotConnected);
        }
        match inner.state {
            SlotState::Free => return Err(SendError::NotConnected),
            SlotState::CloseAsked | SlotState::Closing => return Err(SendError::Closing),
            SlotState::Open => {}
        }
        if payload_size > inner.payload_size_max as usize {
            let limit = inner.payload_size_max as usize;
            return Err(SendError::TooLarge {
                size: payload_size,
                limit,
            });
        }
        let mut queued = slot.queued();
        let was_empty = queued.messages == 0;
        queued.add(traffic);
        let fits = queued.bytes <= self.limits.bytes && queued.messages <= self.limits.messages;
        if !(fits || (was_empty && traffic.messages == 1)) {
            return Err(SendError::Full);
        }
        if !self.lease(&mut inner, queued.bytes) {
            return Err(SendError::Full);
        }
        push(&mut inner.tail);
        slot.accepted.add(traffic);
        drop(inner);
        self.ask_attention(slot, peer.index());
        Ok(())
    }

    /// Makes sure that the slot's lease covers what it has queued.
    fn lease(&self, inner: &mut Inner, queued: u64) -> bool {
        let queued = usize::try_from(queued).unwrap_or(usize::MAX);
        if queued <= inner.leased {
            return true;
        }
        let step = (queued - inner.leased).next_multiple_of(BUDGET_LEASE_BYTES);
        let granted = self.ledger.budget.try_charge(step);
        if granted {
            inner.leased += step;
        }
        granted
    }

    /// Asks the loop to close a connection in order. False if there is no such connection.
    pub(crate) fn ask_close(&self, peer: PeerId) -> bool {
        let Some(slot) = self.slot(peer) else {
            return false;
        };
        let mut inner = slot.lock();
        if inner.generation != peer.generation() {
            return false;
        }
        match inner.state {
            SlotState::Free => return false,
            SlotState::CloseAsked | SlotState::Closing => return true,
            SlotState::Open => inner.state = SlotState::CloseAsked,
        }
        drop(inner);
        self.ask_attention(slot, peer.index());
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

    /// Changes what the slot of a peer counts, if the peer is still connected. A thread that must
    /// not wait for the lock leaves it to the loop's next turn.
    fn apply(&self, change: Deferred, may_wait: bool) {
        let (Deferred::Release(peer, _) | Deferred::Hold(peer) | Deferred::Unhold(peer)) = change;
        let Some(slot) = self.slot(peer) else { return };
        let inner = match slot.try_lock() {
            Ok(inner) => inner,
            // The order of changes to one slot does not matter: they are sums. Should there be more
            // of them than the queue holds, waiting is the smaller evil.
            Err(Contended) if !may_wait && self.deferred.0.try_send(change).is_ok() => {
                self.doorbell.ring();
                return;
            }
            Err(Contended) => slot.lock(),
        };
        if inner.generation != peer.generation() {
            return;
        }
        let mut wanted = false;
        match change {
            Deferred::Release(_, traffic) => slot.released.add(traffic),
            // A hold that was put off may come behind its unhold, and is then the end of it.
            Deferred::Hold(_) => wanted = slot.held.fetch_add(1, Ordering::Relaxed) == u32::MAX,
            Deferred::Unhold(_) => wanted = slot.held.fetch_sub(1, Ordering::Relaxed) == 1,
        }
        drop(inner);
        // Pairs with the fence in `pause`.
        fence(Ordering::SeqCst);
        if slot.paused.load(Ordering::Relaxed) && slot.may_resume() {
            slot.paused.store(false, Ordering::Relaxed);
            wanted = true;
        }
        if wanted {
            self.ask_attention(slot, peer.index());
        }
    }

    fn ask_attention(&self, slot: &Slot, index: u32) {
        if !slot.attention.swap(true, Ordering::AcqRel) {
            let sent = self.attention.0.try_send(index);
            debug_assert!(sent.is_ok(), "the queue has a place for every slot");
            self.doorbell.ring();
        }
    }

    fn slot(&self, peer: PeerId) -> Option<&Slot> {
        if peer.shard() != self.shard {
            return None;
        }
        self.slot_at(peer.index())
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

    /// Says that the calling thread must never wait.
    pub(crate) fn set_loop_thread() {
        NEVER_WAITS.set(true);
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

    /// Gives the slot to a new connection.
    pub(crate) fn open(&self, index: u32) -> Result<PeerId, OpenError> {
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
        inner.generation = inner.generation.checked_add(1).ok_or(OpenError::Retired)?;
        inner.state = SlotState::Open;
        inner.payload_size_max = self.limits.payload_size;
        for cell in [&slot.accepted, &slot.released, &slot.written, &slot.resume] {
            cell.set(Traffic::default());
        }
        slot.held.store(0, Ordering::Relaxed);
        slot.paused.store(false, Ordering::Relaxed);
        Ok(PeerId::new(self.shard, index, inner.generation))
    }

    /// Lowers the longest payload that may be sent to the peer: what it said in its HELLO.
    pub(crate) fn set_payload_size_max(&self, peer: PeerId, limit: u32) -> Result<(), Contended> {
        let mut inner = self.own(peer).try_lock()?;
        inner.payload_size_max = limit.min(self.limits.payload_size);
        Ok(())
    }

    /// The next slot that asked for attention. Whatever happens to it from now on asks again.
    pub(crate) fn poll_attention(&self) -> Option<u32> {
        let index = self.attention.1.try_recv().ok()?;
        if let Some(slot) = self.slot_at(index) {
            slot.attention.swap(false, Ordering::AcqRel);
        }
        Some(index)
    }

    pub(crate) fn has_attention(&self) -> bool {
        !self.attention.1.is_empty()
    }

    /// Takes what senders have appended for an open connection; with `closing`, nothing is accepted
    /// after it.
    pub(crate) fn take_tail(
        &self,
        peer: PeerId,
        out: &mut impl Extend<Segment>,
        taken_before: Traffic,
        closing: bool,
    ) -> Result<Taken, Contended> {
        let slot = self.own(peer);
        let mut inner = slot.try_lock()?;
        inner.tail.take(out);
        let accepted = slot.accepted.get();
        let close_asked = inner.state == SlotState::CloseAsked;
        if close_asked || closing {
            inner.state = SlotState::Closing;
        }
        let traffic = Traffic::new(
            accepted.messages - taken_before.messages,
            accepted.bytes - taken_before.bytes,
        );
        Ok(Taken {
            traffic,
            close_asked,
        })
    }

    /// Refuses further messages if none is queued; false if there is one.
    pub(crate) fn close_if_quiet(&self, peer: PeerId) -> Result<bool, Contended> {
        let slot = self.own(peer);
        let mut inner = slot.try_lock()?;
        let quiet = slot.queued().messages == 0;
        if quiet {
            inner.state = SlotState::Closing;
        }
        Ok(quiet)
    }

    /// Gives back what an outbox that ran empty has leased beyond need.
    ///
    /// A contended slot keeps its lease until the next time: the lock means that it is being used.
    pub(crate) fn trim_lease(&self, peer: PeerId) {
        let slot = self.own(peer);
        let Ok(mut inner) = slot.try_lock() else {
            return;
        };
        if slot.queued().messages == 0 && inner.leased > 0 {
            self.ledger
                .budget
                .release(std::mem::take(&mut inner.leased));
        }
    }

    /// Ends the connection's use of the slot. What senders had appended goes to `out`.
    pub(crate) fn close(
        &self,
        peer: PeerId,
        out: &mut impl Extend<Segment>,
        taken_before: Traffic,
    ) -> Result<Traffic, Contended> {
        let slot = self.own(peer);
        let mut inner = slot.try_lock()?;
        inner.tail.take(out);
        inner.tail = Tail::default();
        inner.state = SlotState::Free;
        self.ledger
            .budget
            .release(std::mem::take(&mut inner.leased));
        let accepted = slot.accepted.get();
        drop(inner);
        Ok(Traffic::new(
            accepted.messages - taken_before.messages,
            accepted.bytes - taken_before.bytes,
        ))
    }

    /// Counts what the kernel took. Returns whether somebody waits for the room.
    pub(crate) fn add_written(&self, peer: PeerId, traffic: Traffic) -> bool {
        let slot = self.own(peer);
        slot.written.add(traffic);
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

    /// Messages and bytes accepted from senders and not yet taken by the kernel.
    pub(crate) fn queued(&self, peer: PeerId) -> Traffic {
        self.own(peer).queued()
    }

    /// What was read from the peer and released by everybody.
    pub(crate) fn released(&self, peer: PeerId) -> Traffic {
        self.own(peer).released.get()
    }

    /// Whether the dispatcher keeps the peer from being read.
    pub(crate) fn is_held(&self, peer: PeerId) -> bool {
        self.own(peer).held.load(Ordering::Relaxed) > 0
    }

    /// Asks for attention once everything up to `resume` was released. False if it already was, so
    /// that nobody would.
    #[must_use]
    pub(crate) fn pause(&self, peer: PeerId, resume: Traffic) -> bool {
        let slot = self.own(peer);
        slot.resume.set(resume);
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
        fence(Ordering::SeqCst);
        let tight = self.ledger.budget.is_tight();
        if !tight {
            self.budget_waited.store(false, Ordering::Relaxed);
        }
        tight
    }

    /// The slot of a connection that the loop knows to be open.
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

    fn queued(&self) -> Traffic {
        let (accepted, written) = (self.accepted.get(), self.written.get());
        // The loop reads without the lock, so the two may be a moment apart.
        Traffic::new(
            accepted.messages.saturating_sub(written.messages),
            accepted.bytes.saturating_sub(written.bytes),
        )
    }

    fn may_resume(&self) -> bool {
        let (released, resume) = (self.released.get(), self.resume.get());
        released.messages >= resume.messages && released.bytes >= resume.bytes
    }
}

impl Tail {
    /// Moves the frames of a batch here. A long batch becomes a segment of its own, without a copy.
    fn append(&mut self, batch: &mut OutFrames) {
        if batch.bytes.len() >= BLOCK_SIZE / 2 {
            if !self.open.data.as_slice().is_empty() {
                self.seal();
            }
            let bytes = std::mem::take(&mut batch.bytes);
            self.open.data = SegmentData::Encoded(bytes);
        } else {
            self.open.buffer().extend_from_slice(&batch.bytes);
        }
        self.open.messages += batch.messages;
        match (self.open.message_type, batch.message_type) {
            (None, Some(message_type)) if self.open.messages == batch.messages => {
                self.open.message_type = Some(message_type);
            }
            (Some(own), Some(other)) if own == other => {}
            _ => {
                self.open.message_type = None;
                self.open.mixed = true;
            }
        }
        self.seal_if_long();
        batch.clear();
    }
}

impl OutFrames {
    pub(crate) fn push(&mut self, frame: &Frame<'_>) {
        encode_whole(frame, &mut self.bytes);
        match self.message_type {
            None if !self.mixed => self.message_type = Some(frame.message_type),
            Some(other) if other == frame.message_type => {}
            Some(_) | None => {
                self.message_type = None;
                self.mixed = true;
            }
        }
        self.messages += 1;
        self.payload_size_max = self.payload_size_max.max(frame.payload.len());
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.messages = 0;
        self.payload_size_max = 0;
        self.message_type = None;
        self.mixed = false;
    }
}

const _: () = assert!(PAYLOAD_COPIED_MAX + FRAME_OVERHEAD_MAX < BLOCK_SIZE);

#[cfg(test)]
mod tests {
    use super::*;

    const MESSAGES: u64 = 10;
    const BYTES: u64 = 64 << 10;

    fn slots(budget: usize) -> Slots {
        let ledger = Arc::new(Ledger::new(budget, Traffic::new(1, 1)));
        let limits = OutboxLimits {
            bytes: BYTES,
            messages: MESSAGES,
            payload_size: 1 << 20,
        };
        Slots::new(0, 3, limits, ledger, Clock::start())
    }

    fn send(slots: &Slots, peer: PeerId, size: usize) -> Result<(), SendError> {
        let payload = vec![0; size];
        let frame = Frame::new(MessageType(1), &payload);
        slots.send(peer, OutFrame { frame, owned: None })
    }

    fn batch(count: u32, size: usize) -> OutFrames {
        let payload = vec![0; size];
        let mut batch = OutFrames::default();
        for _ in 0..count {
            batch.push(&Frame::new(MessageType(1), &payload));
        }
        batch
    }

    fn take(slots: &Slots, peer: PeerId, before: &mut Traffic) -> Taken {
        let mut out = Vec::new();
        let taken = slots.take_tail(peer, &mut out, *before, false).unwrap();
        before.add(taken.traffic);
        taken
    }

    #[test]
    fn messages_are_bounded() {
        let slots = slots(1 << 30);
        let peer = slots.open(0).unwrap();
        for _ in 0..MESSAGES {
            assert_eq!(send(&slots, peer, 0), Ok(()));
        }
        assert_eq!(send(&slots, peer, 0), Err(SendError::Full));
        // What the loop took still counts, what the kernel took does not.
        let taken = take(&slots, peer, &mut Traffic::default());
        assert_eq!(taken.traffic, Traffic::new(MESSAGES, MESSAGES * 8));
        assert_eq!(send(&slots, peer, 0), Err(SendError::Full));
        assert!(!slots.add_written(peer, Traffic::new(1, 8)));
        assert_eq!(send(&slots, peer, 0), Ok(()));
        assert_eq!(send(&slots, peer, 0), Err(SendError::Full));
    }

    #[test]
    fn bytes_are_bounded_to_the_byte() {
        let slots = slots(1 << 30);
        let peer = slots.open(0).unwrap();
        assert_eq!(send(&slots, peer, 1_000), Ok(()));
        let left = usize::try_from(BYTES).unwrap() - 1_008 - 8;
        assert_eq!(send(&slots, peer, left + 1), Err(SendError::Full));
        assert_eq!(send(&slots, peer, left), Ok(()));
        assert_eq!(send(&slots, peer, 0), Err(SendError::Full));
        assert_eq!(slots.queued(peer), Traffic::new(2, BYTES));
    }

    #[test]
    fn an_empty_outbox_takes_one_message_of_any_legal_size() {
        let slots = slots(1 << 30);
        let peer = slots.open(0).unwrap();
        assert_eq!(send(&slots, peer, 1 << 20), Ok(()));
        assert_eq!(send(&slots, peer, 0), Err(SendError::Full));
        let (size, limit) = ((1 << 20) + 1, 1 << 20);
        let too_large = Err(SendError::TooLarge { size, limit });
        assert_eq!(send(&slots, peer, size), too_large);
        let other = slots.open(1).unwrap();
        slots.set_payload_size_max(other, 5).unwrap();
        let too_large = Err(SendError::TooLarge { size: 6, limit: 5 });
        assert_eq!(send(&slots, other, 6), too_large);
        assert_eq!(send(&slots, other, 5), Ok(()));
    }

    #[test]
    fn a_batch_is_accepted_as_a_whole_or_not() {
        let slots = slots(1 << 30);
        let peer = slots.open(0).unwrap();
        let mut ten = batch(10, 1);
        let mut eleven = batch(11, 1);
        assert_eq!(slots.send_batch(peer, &mut eleven), Err(SendError::Full));
        assert_eq!(eleven.messages, 11, "it is unchanged");
        assert_eq!(slots.send_batch(peer, &mut ten), Ok(()));
        assert_eq!((ten.messages, ten.bytes.len()), (0, 0));
        assert_eq!(
            slots.send_batch(peer, &mut ten),
            Ok(()),
            "nothing fits always"
        );
        let mut one = batch(1, 1);
        assert_eq!(slots.send_batch(peer, &mut one), Err(SendError::Full));
        assert_eq!(slots.queued(peer), Traffic::new(10, 90));
    }

    #[test]
    fn the_generation_tells_connections_of_a_slot_apart() {
        let slots = slots(1 << 30);
        let first = slots.open(0).unwrap();
        assert_eq!(send(&slots, first, 1), Ok(()));
        let mut out = Vec::new();
        let late = slots.close(first, &mut out, Traffic::default()).unwrap();
        assert_eq!((late, out.len()), (Traffic::new(1, 9), 1));
        assert_eq!(send(&slots, first, 1), Err(SendError::NotConnected));
        let second = slots.open(0).unwrap();
        assert_eq!(second.generation(), first.generation() + 1);
        assert_eq!(slots.queued(second), Traffic::default());
        assert_eq!(send(&slots, first, 1), Err(SendError::NotConnected));
        assert!(!slots.ask_close(first));
        // What belongs to the first does nothing to the second.
        slots.ledger.budget.charge(100);
        slots.release(first, Traffic::new(1, 100), 100);
        slots.hold(first);
        slots.unhold(first);
        assert_eq!(slots.released(second), Traffic::default());
        assert!(!slots.is_held(second));
        let elsewhere = PeerId::new(1, 0, 1);
        assert_eq!(send(&slots, elsewhere, 1), Err(SendError::NotConnected));
        let never = PeerId::new(0, 70_000, 1);
        assert_eq!(send(&slots, never, 1), Err(SendError::NotConnected));
    }

    #[test]
    fn a_slot_that_used_its_generations_is_retired() {
        let slots = slots(1 << 30);
        let peer = slots.open(0).unwrap();
        slots
            .close(peer, &mut Vec::new(), Traffic::default())
            .unwrap();
        slots.slot_at(0).unwrap().lock().generation = u32::MAX - 1;
        let last = slots.open(0).unwrap();
        assert_eq!(last.generation(), u32::MAX);
        slots
            .close(last, &mut Vec::new(), Traffic::default())
            .unwrap();
        assert_eq!(slots.open(0), Err(OpenError::Retired));
        assert_eq!(send(&slots, last, 1), Err(SendError::NotConnected));
        assert_eq!(slots.open(64), Err(OpenError::NoSuchSlot));
    }

    #[test]
    fn a_closing_peer_takes_nothing_more() {
        let slots = slots(1 << 30);
        let peer = slots.open(0).unwrap();
        assert_eq!(slots.close_if_quiet(peer), Ok(true));
        assert_eq!(send(&slots, peer, 1), Err(SendError::Closing));
        let asked = slots.open(1).unwrap();
        send(&slots, asked, 1).unwrap();
        assert_eq!(slots.close_if_quiet(asked), Ok(false));
        assert!(slots.ask_close(asked) && slots.ask_close(asked));
        assert_eq!(send(&slots, asked, 1), Err(SendError::Closing));
        let taken = take(&slots, asked, &mut Traffic::default());
        assert!(taken.close_asked);
        assert_eq!(taken.traffic, Traffic::new(1, 9));
        assert!(slots.ask_close(asked));
    }

    #[test]
    fn the_lease_covers_what_is_queued_and_comes_back() {
        let slots = slots(BUDGET_LEASE_BYTES * 3);
        let budget = &slots.ledger.budget;
        let peer = slots.open(0).unwrap();
        send(&slots, peer, 100).unwrap();
        assert_eq!(budget.used(), BUDGET_LEASE_BYTES);
        send(&slots, peer, BUDGET_LEASE_BYTES - 108 - 8).unwrap();
        assert_eq!(budget.used(), BUDGET_LEASE_BYTES);
        send(&slots, peer, 0).unwrap();
        assert_eq!(budget.used(), 2 * BUDGET_LEASE_BYTES);
        slots.trim_lease(peer);
        assert_eq!(budget.used(), 2 * BUDGET_LEASE_BYTES, "it is in use");
        let other = slots.open(1).unwrap();
        send(&slots, other, 0).unwrap();
        let third = slots.open(2).unwrap();
        assert_eq!(send(&slots, third, 0), Err(SendError::Full));
        assert_eq!(slots.queued(third), Traffic::default());
        slots.add_written(peer, slots.queued(peer));
        slots.trim_lease(peer);
        assert_eq!(budget.used(), BUDGET_LEASE_BYTES);
        assert_eq!(send(&slots, third, 0), Ok(()));
        for peer in [peer, other, third] {
            slots
                .close(peer, &mut Vec::new(), Traffic::default())
                .unwrap();
        }
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn attention_is_asked_for_once() {
        let slots = slots(1 << 30);
        let peer = slots.open(2).unwrap();
        assert!(!slots.has_attention());
        for _ in 0..3 {
            send(&slots, peer, 1).unwrap();
        }
        slots.ask_close(peer);
        assert_eq!(slots.poll_attention(), Some(2));
        assert_eq!(slots.poll_attention(), None);
        slots.hold(peer);
        slots.hold(peer);
        slots.unhold(peer);
        assert!(!slots.has_attention() && slots.is_held(peer));
        slots.unhold(peer);
        assert_eq!(slots.poll_attention(), Some(2));
    }

    #[test]
    fn a_paused_peer_asks_when_enough_was_released() {
        let slots = slots(1 << 30);
        let peer = slots.open(0).unwrap();
        slots.ledger.budget.charge(100);
        assert!(slots.pause(peer, Traffic::new(2, 50)));
        slots.release(peer, Traffic::new(3, 49), 10);
        assert!(!slots.has_attention());
        slots.release(peer, Traffic::new(0, 1), 10);
        assert_eq!(slots.poll_attention(), Some(0));
        // It is told once, and not at all if nobody would tell.
        slots.release(peer, Traffic::new(1, 1), 10);
        assert!(!slots.has_attention());
        assert!(!slots.pause(peer, Traffic::new(4, 51)));
        assert!(slots.pause(peer, Traffic::new(4, 52)));
    }

    #[test]
    fn a_waiting_sender_is_woken_by_room_and_by_the_end() {
        let slots = Arc::new(slots(1 << 30));
        let peer = slots.open(0).unwrap();
        send(&slots, peer, 1 << 20).unwrap();
        let sender = thread::Builder::new().spawn({
            let slots = Arc::clone(&slots);
            move || {
                let mut results = Vec::new();
                loop {
                    assert!(slots.wait_for_room(peer));
                    match send(&slots, peer, 1 << 20) {
                        Err(SendError::Full) => Slots::park(Duration::from_secs(60)),
                        result => results.push(result),
                    }
                    if results.len() == 2 {
                        slots.forget_waiter(peer);
                        return results;
                    }
                }
            }
        });
        let size = (1 << 20) + 8;
        let wait = |slots: &Slots| {
            while !slots.add_written(peer, Traffic::default()) {
                thread::yield_now();
            }
        };
        wait(&slots);
        slots.add_written(peer, Traffic::new(1, size));
        while !slots.notify_room(0) {}
        // It may be registered once more before it sends; only what it sends is told by the queue.
        while slots.queued(peer).messages == 0 {
            thread::yield_now();
        }
        wait(&slots);
        while slots
            .close(peer, &mut Vec::new(), Traffic::default())
            .is_err()
        {}
        while !slots.notify_room(0) {}
        let results = sender.unwrap().join().unwrap();
        assert_eq!(results, [Ok(()), Err(SendError::NotConnected)]);
        assert!(slots.waiters.lock().unwrap().is_empty());
    }

    /// The loop found the lock taken when it held a peer, and free when it let go: what was put off
    /// has to wake the peer, since nobody else will.
    #[test]
    fn a_hold_that_was_put_off_wakes_the_peer() {
        let slots = slots(1 << 30);
        let peer = slots.open(0).unwrap();
        let never = thread::scope(|scope| {
            let on_loop = scope.spawn(|| {
                Slots::set_loop_thread();
                let locked = slots.slot_at(0).unwrap().lock();
                slots.hold(peer);
                drop(locked);
                assert!(slots.has_deferred());
                slots.unhold(peer);
                slots.is_held(peer)
            });
            on_loop.join().unwrap()
        });
        assert!(never, "between the two the peer counts as held");
        slots.poll_attention();
        slots.finish_deferred();
        assert!(!slots.is_held(peer));
        assert_eq!(slots.poll_attention(), Some(0));
    }
}
