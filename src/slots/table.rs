//! All slots of one loop: where they lie, what bounds hold for them, and which of them are dirty.

use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use super::slot::Slot;
use crate::{
    clock::Clock,
    doorbell::Doorbell,
    error::CloseReason,
    frame::Frame,
    id::PeerId,
    ledger::{Ledger, Traffic},
    limits::OUTBOX_WINDOW_BYTES,
    policy::OutboxFull,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        channel::{Receiver, Sender, bounded},
        counted,
        thread::Thread,
    },
};

/// Slots are allocated in chunks when the first of their connections comes.
pub(super) const CHUNK_SLOTS: usize = if cfg!(all(test, nebnet_loom)) { 1 } else { 64 };

/// Slots up to which each has its place in the dirty list from the start, 16 bytes of it:
/// 256 KiB. Without places a send that marks a slot costs 60 instructions more, of 4,500.
const ATTENTION_PLACES_MAX: usize = 1 << 14;

/// A change to a slot that needs its lock.
#[derive(Clone, Copy, Debug)]
pub(super) enum Deferred {
    Release(PeerId, Traffic),
    Hold(PeerId),
    Unhold(PeerId),
    Close(PeerId, CloseReason),
}

/// All slots of one loop.
pub(crate) struct Slots {
    pub(super) shard: u8,
    pub(super) chunks: Box<[OnceLock<Box<[Slot]>>]>,
    /// Those of an outbox may change while the service runs; who reads them meanwhile may get one
    /// of before and one of after.
    pub(super) outbox_bytes_max: AtomicU64,
    pub(super) outbox_messages_max: AtomicU64,
    pub(super) payload_size_max: u32,
    pub(super) full: OutboxFull,
    /// Whatever is sent carries a checksum.
    pub(super) checksums: bool,
    pub(super) dirty: (Sender<u32>, Receiver<u32>),
    pub(super) waiters: Mutex<Vec<(u32, Thread)>>,
    /// True while the loop does not read because the budget is short.
    pub(super) budget_waited: AtomicBool,
    /// The loop has ended and will write nothing more.
    pub(super) ended: AtomicBool,
    pub(super) deferred: (Sender<Deferred>, Receiver<Deferred>),
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
    pub(super) fn window(self) -> Traffic {
        Traffic::new(
            (self.messages / 4).max(1),
            (self.bytes / 4).min(OUTBOX_WINDOW_BYTES),
        )
    }
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

    pub(super) fn slot(&self, peer: PeerId) -> Option<&Slot> {
        if peer.shard() != self.shard {
            return None;
        }
        self.slot_at(peer.index())
    }

    /// The most connections that there may be at a time.
    pub(super) fn slots_max(&self) -> usize {
        self.chunks.len() * CHUNK_SLOTS
    }

    pub(super) fn slot_at(&self, index: u32) -> Option<&Slot> {
        let index = index as usize;
        self.chunks
            .get(index / CHUNK_SLOTS)?
            .get()?
            .get(index % CHUNK_SLOTS)
    }

    /// The slot of a connection that the loop knows to be open.
    #[inline]
    pub(super) fn own(&self, peer: PeerId) -> &Slot {
        self.slot_at(peer.index())
            .expect("the slot of a connection was opened with it")
    }

    /// The loop has ended, perhaps without closing its connections: no peer is connected any more.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }

    /// Whether the loop has ended, so that nothing will answer for it.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }

    pub(super) fn mark_dirty(&self, slot: &Slot, index: u32) {
        if self.list_dirty(slot, index) {
            self.doorbell.ring();
        }
    }

    /// Puts a slot on the loop's list. True if that is news, so that the loop is to be woken.
    #[inline]
    pub(super) fn list_dirty(&self, slot: &Slot, index: u32) -> bool {
        let is_new = !slot.dirty.swap(true, Ordering::AcqRel);
        if is_new {
            let sent = self.dirty.0.try_send(index);
            debug_assert!(sent.is_ok(), "the queue has a place for every slot");
        }
        is_new
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
