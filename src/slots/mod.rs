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
//! - `written <= accepted`, in messages and in bytes; their difference is what is queued. What the
//!   loop sends itself is taken off `written` rather than added to `accepted`, so that each has one
//!   writer
//! - `queued <= limit`, or exactly one message is queued
//! - bytes leased from the budget `>= queued bytes` after every send
//! - the loop's own sends ([`accept_inline`](Slots::accept_inline)) take no lock: both of the above
//!   may be passed by one send of another thread that is under way at the same moment
//! - a slot index is in the attention queue at most once

mod tail;
#[cfg(test)]
mod tests;

use std::{
    cell::Cell,
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence},
    },
    thread::{self, Thread},
    time::Duration,
};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::{
    clock::{Clock, Tick},
    doorbell::Doorbell,
    error::SendError,
    id::{LinkId, PeerId, PeerIdentity},
    ledger::{Ledger, Traffic},
    limits::BUDGET_LEASE_BYTES,
};

pub(crate) use tail::{OutFrame, OutFrames, Segment, SegmentData};

use tail::Tail;

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
    /// Subscriptions to events that exist: without any, events need not be made.
    pub(crate) event_subscribers: AtomicUsize,
    /// Links that exist, those that the loop has not been told of included.
    pub(crate) links: AtomicUsize,
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
    /// The connection may be sent to: it is made, and what it has to say first was accepted.
    admitted: AtomicBool,
    /// The application asked for a close: what `inner` says too, for whom does not take its lock.
    close_asked: AtomicBool,
    /// The longest payload that the peer takes.
    payload_size_max: AtomicU32,
    /// Written under the lock, read by the loop.
    accepted: TrafficCell,
    released: TrafficCell,
    /// Bytes of the budget that senders leased, under the lock.
    leased: AtomicUsize,
    /// What the loop leased for what it sent itself.
    leased_inline: AtomicUsize,
    /// Written by the loop, read under the lock: what the kernel took, less what the loop itself
    /// sent. So `accepted - written` is all that is queued, at the price of no further term; it
    /// wraps, because it may be below zero.
    written: TrafficCell,
    resume: TrafficCell,
    /// A request was sent on this connection, so that its end has to be told.
    asked: AtomicBool,
    /// The earliest deadline of a request that the loop has not learnt of; `NO_DEADLINE` is none.
    request_deadline: AtomicU64,
    inner: Mutex<Inner>,
}

/// No request has a deadline that the loop does not know.
const NO_DEADLINE: Tick = Tick::MAX;

#[derive(Debug, Default)]
struct Inner {
    generation: u32,
    state: SlotState,
    about: Option<About>,
    /// Set a moment after the slot was admitted, at the latest.
    identity: Option<Arc<PeerIdentity>>,
    tail: Tail,
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
            event_subscribers: AtomicUsize::new(0),
            links: AtomicUsize::new(0),
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

    /// Accepts the question of a request, or says why not. Whoever ends the connection afterwards
    /// learns that there was one, and the loop learns its deadline.
    pub(crate) fn send_question(
        &self,
        peer: PeerId,
        message: OutFrame<'_>,
        deadline: Tick,
    ) -> Result<(), SendError> {
        let slot = self.slot(peer).ok_or(SendError::NotConnected)?;
        let frame = message.frame;
        let traffic = Traffic::new(1, frame.encoded_size() as u64);
        self.accept(peer, traffic, frame.payload.len(), |tail| {
            slot.asked.store(true, Ordering::Relaxed);
            slot.request_deadline.fetch_min(deadline, Ordering::Relaxed);
            tail.push(&frame, message.owned);
        })
    }

    /// Has the loop look for requests of a peer at this time. If the slot is another's by now, that
    /// one is looked at in vain.
    pub(crate) fn note_request(&self, peer: PeerId, deadline: Tick) {
        if let Some(slot) = self.slot(peer) {
            slot.request_deadline.fetch_min(deadline, Ordering::Relaxed);
            self.ask_attention(slot, peer.index());
        }
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
            SlotState::Open if !slot.admitted.load(Ordering::Acquire) => {
                return Err(SendError::NotConnected);
            }
            SlotState::CloseAsked | SlotState::Closing => return Err(SendError::Closing),
            SlotState::Open => {}
        }
        let queued = self.find_room(slot, traffic, payload_size)?;
        self.lease(slot, &slot.leased, queued)?;
        push(&mut inner.tail);
        slot.accepted.add(traffic);
        drop(inner);
        self.ask_attention(slot, peer.index());
        Ok(())
    }

    /// Bytes that will be queued with these, if there is room for them.
    fn find_room(
        &self,
        slot: &Slot,
        traffic: Traffic,
        payload_size: usize,
    ) -> Result<u64, SendError> {
        let limit = slot.payload_size_max.load(Ordering::Relaxed) as usize;
        if payload_size > limit {
            return Err(SendError::TooLarge {
                size: payload_size,
                limit,
            });
        }
        let mut queued = slot.queued();
        let was_empty = queued.messages == 0;
        queued.add(traffic);
        let fits = queued.bytes <= self.limits.bytes && queued.messages <= self.limits.messages;
        if fits || (was_empty && traffic.messages == 1) {
            Ok(queued.bytes)
        } else {
            Err(SendError::Full)
        }
    }

    /// Makes sure that the slot's leases cover what it has queued; `own` is the caller's to raise.
    fn lease(&self, slot: &Slot, own: &AtomicUsize, queued: u64) -> Result<(), SendError> {
        let queued = usize::try_from(queued).unwrap_or(usize::MAX);
        let leased = slot.leased();
        if queued <= leased {
            return Ok(());
        }
        let step = (queued - leased).next_multiple_of(BUDGET_LEASE_BYTES);
        if !self.ledger.budget.try_charge(step) {
            return Err(SendError::Full);
        }
        own.store(own.load(Ordering::Relaxed) + step, Ordering::Relaxed);
        Ok(())
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
        slot.close_asked.store(true, Ordering::Relaxed);
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

    /// Gives the slot to a new connection, which may be sent to at once.
    #[cfg(test)]
    pub(crate) fn open(&self, index: u32) -> Result<PeerId, OpenError> {
        let addr = SocketAddr::from(([127, 0, 0, 1], 1));
        let id = self.open_for(index, About { addr, link: None })?;
        self.admit(id, self.limits.payload_size);
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
        inner.generation = inner.generation.checked_add(1).ok_or(OpenError::Retired)?;
        inner.state = SlotState::Open;
        inner.about = Some(about);
        inner.identity = None;
        slot.admitted.store(false, Ordering::Relaxed);
        slot.close_asked.store(false, Ordering::Relaxed);
        slot.asked.store(false, Ordering::Relaxed);
        slot.request_deadline.store(NO_DEADLINE, Ordering::Relaxed);
        slot.payload_size_max
            .store(self.limits.payload_size, Ordering::Relaxed);
        for cell in [&slot.accepted, &slot.released, &slot.written, &slot.resume] {
            cell.set(Traffic::default());
        }
        slot.held.store(0, Ordering::Relaxed);
        slot.paused.store(false, Ordering::Relaxed);
        Ok(PeerId::new(self.shard, index, inner.generation))
    }

    /// Lets the peer be sent to, payloads up to `payload_size_max` bytes. Needs no lock, so that
    /// whoever learns of the connection can send to it at once.
    pub(crate) fn admit(&self, peer: PeerId, payload_size_max: u32) {
        let slot = self.own(peer);
        let limit = payload_size_max.min(self.limits.payload_size);
        slot.payload_size_max.store(limit, Ordering::Relaxed);
        slot.admitted.store(true, Ordering::Release);
    }

    /// Keeps what the peer said of itself where other threads can look it up.
    pub(crate) fn set_identity(
        &self,
        peer: PeerId,
        identity: &Arc<PeerIdentity>,
    ) -> Result<(), Contended> {
        let mut inner = self.own(peer).try_lock()?;
        inner.identity = Some(Arc::clone(identity));
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

    /// Accepts a message that the loop itself sends to an open connection, or says why not. On `Ok`
    /// the caller puts it into the outbox.
    ///
    /// Takes no lock, so that a send of another thread that is under way is not seen, nor this one
    /// there: together they may pass a bound by that one send.
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
        let queued = self.find_room(slot, traffic, payload_size)?;
        self.lease(slot, &slot.leased_inline, queued)?;
        slot.written.sub_wrapping(traffic);
        Ok(())
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
        let Ok(inner) = slot.try_lock() else {
            return;
        };
        if slot.queued().messages == 0 {
            self.ledger.budget.release(slot.take_leases());
        }
        drop(inner);
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
        inner.identity = None;
        self.ledger.budget.release(slot.take_leases());
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
        slot.written.add_wrapping(traffic);
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
        let deadline = &self.own(peer).request_deadline;
        let unknown = deadline.load(Ordering::Relaxed) != NO_DEADLINE;
        unknown.then(|| deadline.swap(NO_DEADLINE, Ordering::Relaxed))
    }

    /// Whether a request was ever sent on a connection; final once it was [closed](Self::close).
    pub(crate) fn was_asked(&self, peer: PeerId) -> bool {
        self.own(peer).asked.load(Ordering::Relaxed)
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
        let queued = |accepted: u64, written: u64| {
            let left = accepted.wrapping_sub(written);
            // More written than accepted is none.
            if left > u64::MAX / 2 { 0 } else { left }
        };
        Traffic::new(
            queued(accepted.messages, written.messages),
            queued(accepted.bytes, written.bytes),
        )
    }

    /// Bytes of the budget that are leased for what is queued.
    fn leased(&self) -> usize {
        self.leased.load(Ordering::Relaxed) + self.leased_inline.load(Ordering::Relaxed)
    }

    /// Takes both leases. To be called by the loop, under the lock.
    fn take_leases(&self) -> usize {
        let leased = self.leased();
        self.leased.store(0, Ordering::Relaxed);
        self.leased_inline.store(0, Ordering::Relaxed);
        leased
    }

    fn may_resume(&self) -> bool {
        let (released, resume) = (self.released.get(), self.resume.get());
        released.messages >= resume.messages && released.bytes >= resume.bytes
    }
}
