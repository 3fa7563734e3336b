//! The connections of a slot, one after the other: opened, admitted, asked to close, closed.
//!
//! Each of them has a generation of its own, which is compared under the lock, so that an id of an
//! earlier one finds nothing.

use std::{net::SocketAddr, sync::Arc};

use super::{
    cells::Sums,
    segment::Segment,
    slot::{CHECKSUMS, Contended, Known, Slot, SlotState},
    table::{CHUNK_SLOTS, Slots},
};
use crate::{
    error::CloseReason,
    frame::Frame,
    id::{LinkId, PeerId, PeerIdentity},
    policy::Priority,
    sync::atomic::Ordering,
};

/// What is known of a connection from its beginning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct About {
    pub(crate) addr: SocketAddr,
    /// The link that makes it, if it is we who connect.
    pub(crate) link: Option<LinkId>,
}

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
    /// a thread that learns of the connection can send to it at once.
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

    /// Who is at the other end of a connection that the loop knows to be open.
    pub(crate) fn addr(&self, peer: PeerId) -> SocketAddr {
        self.own(peer).addr.get()
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

    /// Gives up what a dormant connection does not need. Nothing happens if somebody holds the
    /// lock: then it is being used.
    pub(crate) fn shrink(&self, peer: PeerId) {
        if let Ok(mut inner) = self.own(peer).try_lock() {
            inner.tails.take_if(|tails| tails.is_empty());
        }
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
}
