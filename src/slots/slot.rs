//! One slot: what senders, holders of blocks and the loop know of one connection together.
//!
//! A [`Slot`] is small; what it counts ([`Used`]), what is known of few connections ([`Known`]) and
//! its tails are made when they are needed. What is in [`Inner`] needs the lock, the rest does not.
//! [`SlotState`] says what is still accepted.

use std::sync::{Arc, OnceLock, PoisonError};

use super::{
    addr::AddrCell,
    cells::{Sums, TrafficCell},
    tail::Tails,
};
use crate::{
    clock::Tick,
    error::CloseReason,
    frame::Frame,
    id::{LinkId, PeerIdentity},
    ledger::Traffic,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
};

#[derive(Debug, Default)]
pub(super) struct Slot {
    /// True while the slot's index is in the dirty list.
    pub(super) dirty: AtomicBool,
    /// True while a sender waits for room.
    pub(super) waited: AtomicBool,
    /// True while the loop does not read the peer until `released` has reached `resume`.
    pub(super) paused: AtomicBool,
    /// Deliveries of this peer that wait for a full subscriber.
    pub(super) parked: AtomicU32,
    /// The connection may be sent to: it is made, and what it has to say first was accepted.
    pub(super) admitted: AtomicBool,
    /// A close was asked for after which nothing is accepted: what `inner` says too, for whom does
    /// not take its lock.
    pub(super) close_asked: AtomicBool,
    /// The application asked for a close, in whatever state the connection was.
    pub(super) given_up: AtomicBool,
    /// The longest payload that the peer takes.
    pub(super) payload_size_max: AtomicU32,
    /// Which connection of the slot this is; written under the lock.
    pub(super) generation: AtomicU32,
    /// Why senders were refused since `Writable` was told last: bits of [`Refusals`].
    pub(super) refusals: AtomicU8,
    /// What else is to be known of the connection: [`ASKED`] and [`CHECKSUMS`].
    pub(super) marks: AtomicU8,
    pub(super) addr: AddrCell,
    /// What only traffic needs: made with the first of it, and kept for the slot's next
    /// connections.
    pub(super) used: OnceLock<Box<Used>>,
    pub(super) inner: Mutex<Inner>,
}

/// A request was sent on this connection, so that its end has to be told.
pub(super) const ASKED: u8 = 1;

/// Whatever is sent on this connection carries a checksum.
pub(super) const CHECKSUMS: u8 = 2;

/// What a slot counts.
#[derive(Debug)]
pub(super) struct Used {
    /// Written under the lock, read by the loop.
    pub(super) accepted: TrafficCell,
    pub(super) overflowed: TrafficCell,
    pub(super) released: TrafficCell,
    /// Bytes of the budget that senders leased, under the lock.
    pub(super) leased: AtomicUsize,
    /// What the loop leased for what it sent itself, less `beside`. May wrap; the sum of both
    /// leases does not.
    pub(super) leased_inline: AtomicUsize,
    /// Storage that the loop holds for what is queued, beside what is queued. Its own.
    pub(super) slack: AtomicUsize,
    /// Written by the loop, read under the lock: what the kernel took, less what the loop itself
    /// sent. So `accepted - written` is all that is queued, at the price of no further term; it
    /// wraps, because it may be below zero.
    pub(super) written: TrafficCell,
    pub(super) resume: TrafficCell,
    /// The earliest deadline of a request that the loop has not learnt of; `NO_DEADLINE` is none.
    pub(super) request_deadline: AtomicU64,
}

/// No request has a deadline that the loop does not know.
pub(super) const NO_DEADLINE: Tick = Tick::MAX;

#[derive(Debug, Default)]
pub(super) struct Inner {
    pub(super) state: SlotState,
    /// What is known of few connections. Made for those.
    pub(super) known: Option<Box<Known>>,
    /// Made with the first message that is sent, and given up when the connection becomes dormant.
    pub(super) tails: Option<Box<Tails>>,
}

/// What is known of a connection besides its address.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// The link that makes it, if it is we who connect.
    pub(super) link: Option<LinkId>,
    /// Set a moment after the slot was admitted, at the latest.
    pub(super) identity: Option<Arc<PeerIdentity>>,
    /// Replies that were refused because the BYE was due.
    pub(super) unanswered: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum SlotState {
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

/// Why senders were refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Refusals(pub(super) u8);

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

/// The lock is taken by another thread; to be tried again in the next turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Contended;

impl Slot {
    /// A thread that panicked while it held the lock had finished or not begun its change: pushing
    /// to a vector is the only thing in between that can fail.
    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn try_lock(&self) -> Result<MutexGuard<'_, Inner>, Contended> {
        match self.inner.try_lock() {
            Ok(inner) => Ok(inner),
            Err(std::sync::TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
            Err(std::sync::TryLockError::WouldBlock) => Err(Contended),
        }
    }

    #[inline]
    pub(super) fn used(&self) -> &Used {
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
    pub(super) fn queued(&self) -> Traffic {
        let used = self.used.get();
        used.map_or_else(Traffic::default, |used| used.queued())
    }

    /// A frame as it is sent on this connection. Whoever means an earlier one is refused, so it
    /// does not matter if this is said of another.
    #[inline]
    pub(super) fn dress<'a>(&self, frame: Frame<'a>) -> Frame<'a> {
        let checksum = frame.checksum | self.has(CHECKSUMS);
        Frame { checksum, ..frame }
    }

    #[inline]
    pub(super) fn has(&self, mark: u8) -> bool {
        self.marks.load(Ordering::Relaxed) & mark != 0
    }

    /// Only the holder of the lock gets what is not out of date.
    pub(super) fn generation(&self) -> u32 {
        self.generation.load(Ordering::Relaxed)
    }

    /// What the sums have grown by; to be called under the lock.
    pub(super) fn sums_since(&self, before: Sums) -> Sums {
        let sums = self
            .used
            .get()
            .map_or_else(Sums::default, |used| used.sums());
        Sums {
            accepted: sums.accepted.since(before.accepted),
            overflowed: sums.overflowed.since(before.overflowed),
        }
    }

    pub(super) fn may_resume(&self) -> bool {
        let (released, resume) = (self.used().released.get(), self.used().resume.get());
        released.messages >= resume.messages && released.bytes >= resume.bytes
    }
}

#[cold]
#[inline(never)]
pub(super) fn begin_tails(tails: &mut Option<Box<Tails>>) -> &mut Tails {
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
    pub(super) fn reset(&self) {
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
    pub(super) fn queued(&self) -> Traffic {
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
    pub(super) fn leased(&self) -> usize {
        let inline = self.leased_inline.load(Ordering::Relaxed);
        self.leased.load(Ordering::Relaxed).wrapping_add(inline)
    }

    /// The same with what is leased beside it.
    pub(super) fn all_leases(&self) -> usize {
        let slack = self.slack.load(Ordering::Relaxed);
        self.leased().wrapping_add(slack)
    }

    /// Takes all leases. To be called by the loop, under the lock.
    pub(super) fn take_leases(&self) -> usize {
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
