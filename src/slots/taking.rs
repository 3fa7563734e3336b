//! The loop's side of a slot: it takes what senders have appended, and looks at what is queued.
//!
//! The loop tries the lock and never waits for it: what is [`Contended`] it tries again in its next
//! turn.

use super::{
    cells::Sums,
    segment::Segment,
    slot::{ASKED, Contended, NO_DEADLINE, Refusals, SlotState},
    table::Slots,
};
use crate::{
    clock::Tick, error::CloseReason, id::PeerId, ledger::Traffic, policy::Priority,
    sync::atomic::Ordering,
};

/// How often a lock is tried that is held for a moment.
const LOOKS_MAX: usize = 100;

/// What the loop learns of a slot that is marked dirty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Taken {
    /// What the sums have grown by.
    pub(crate) sums: Sums,
    /// A close was asked for, and nothing will be accepted any more.
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

impl Slots {
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

    /// Messages and bytes accepted from senders and not yet taken by the kernel.
    pub(crate) fn queued(&self, peer: PeerId) -> Traffic {
        self.own(peer).queued()
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
}
