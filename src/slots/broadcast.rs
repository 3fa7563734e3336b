//! One frame for many peers: encoded once, shared by reference count.

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;

use super::{
    credit::never_waits,
    item::{Item, Refused},
    slot::{CHECKSUMS, Inner, Slot, SlotState},
    table::Slots,
};
use crate::{
    doorbell::Doorbell,
    error::SendError,
    frame::{Frame, WholeFrames, encode_whole},
    id::{LinkId, MessageType, PeerId, PeerIdentity},
    ledger::Traffic,
    policy::Priority,
    sync::{MutexGuard, atomic::Ordering},
};

/// The peers that a broadcast goes to.
///
/// Only peers that may be sent to are chosen from: those whose `Connected` event was or will be
/// told.
#[derive(Clone, Copy, Default)]
#[non_exhaustive]
pub enum Recipients<'a> {
    /// All peers.
    #[default]
    All,
    /// All but one: the peer that a relayed message came from.
    AllBut(PeerId),
    /// Those of the list, in its order, and as often as they are in it.
    List(&'a [PeerId]),
    /// Those for whom the function says true. It runs on the calling thread, once per peer, and no
    /// lock of the service is held meanwhile, so it may send as well.
    Matching(&'a dyn Fn(&PeerInfo) -> bool),
}

impl fmt::Debug for Recipients<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("All"),
            Self::AllBut(peer) => f.debug_tuple("AllBut").field(peer).finish(),
            Self::List(peers) => f.debug_tuple("List").field(peers).finish(),
            Self::Matching(_) => f.write_str("Matching(..)"),
        }
    }
}

impl<'a> From<&'a [PeerId]> for Recipients<'a> {
    fn from(peers: &'a [PeerId]) -> Self {
        Self::List(peers)
    }
}

impl<'a, const N: usize> From<&'a [PeerId; N]> for Recipients<'a> {
    fn from(peers: &'a [PeerId; N]) -> Self {
        Self::List(peers)
    }
}

impl<'a> From<&'a Vec<PeerId>> for Recipients<'a> {
    fn from(peers: &'a Vec<PeerId>) -> Self {
        Self::List(peers)
    }
}

/// What [`Recipients::Matching`] decides by.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerInfo {
    /// The connection.
    pub peer: PeerId,
    /// The remote address.
    pub addr: SocketAddr,
    /// The link that made it; `None` if the peer connected to us.
    pub link: Option<LinkId>,
    /// Who the peer is and what it runs, if it said so. May be missing here for a moment after it
    /// has: the `Hello` event and [`PeerRow`](crate::PeerRow) know at once.
    pub identity: Option<Arc<PeerIdentity>>,
    /// Messages accepted for sending and not yet written.
    pub queued: Traffic,
}

/// Who was sent a broadcast, and who was not.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BroadcastReport {
    /// Peers that it was accepted for: written, or counted as lost with the reason of the close.
    pub sent: Vec<PeerId>,
    /// Peers that were chosen and refused, each with what [`Handle::send`](crate::Handle::send)
    /// would have said.
    pub skipped: Vec<(PeerId, SendError)>,
}

/// A frame that every peer gets as it is.
#[derive(Clone, Debug)]
pub(crate) struct SharedFrame {
    bytes: Bytes,
    message_type: MessageType,
    checksum: bool,
    item: Item,
}

impl SharedFrame {
    /// Encodes a frame whose payload the caller has found to be within the limits.
    pub(crate) fn new(frame: &Frame<'_>, priority: Priority) -> Self {
        let mut bytes = Vec::with_capacity(frame.encoded_size());
        encode_whole(frame, &mut bytes);
        let item = Item {
            is_reply: false,
            traffic: Traffic::new(1, bytes.len() as u64),
            payload_size: frame.payload.len(),
            priority,
        };
        Self {
            bytes: bytes.into(),
            message_type: frame.message_type,
            checksum: frame.checksum,
            item,
        }
    }
}

impl Slots {
    /// Accepts a frame for many peers. Where it cannot be sent at all, those who would have got it
    /// are refused for that.
    ///
    /// The loop is woken once, at the end. On the loop's own thread a slot that another thread
    /// holds is not waited for: its peer is refused as if its outbox were full.
    pub(crate) fn broadcast(
        &self,
        frame: Result<&SharedFrame, SendError>,
        to: Recipients<'_>,
    ) -> BroadcastReport {
        let mut call = Call {
            slots: self,
            frame,
            report: BroadcastReport::default(),
            expected: 0,
            ring: Ring {
                doorbell: &self.doorbell,
                due: false,
            },
        };
        match to {
            Recipients::List(peers) => {
                call.expect(peers.len());
                for peer in peers {
                    match self.slot(*peer) {
                        Some(slot) => call.offer(slot, *peer),
                        None => call.skip(*peer, SendError::NotConnected),
                    }
                }
            }
            Recipients::All | Recipients::AllBut(_) | Recipients::Matching(_) => {
                let peers = usize::try_from(self.ledger.peers.get()).unwrap_or(usize::MAX);
                call.expect(peers.min(self.slots_max()));
                for (index, slot) in (0..).zip(self.each_slot()) {
                    // Looked at without the lock: most of the free slots are passed over by it.
                    if !slot.admitted.load(Ordering::Acquire) {
                        continue;
                    }
                    let peer = PeerId::new(self.shard, index, slot.generation());
                    if call.wants(slot, peer, to) {
                        call.offer(slot, peer);
                    }
                }
            }
        }
        call.report
    }

    /// All slots that were ever used, and the rest of their chunks.
    fn each_slot(&self) -> impl Iterator<Item = &Slot> {
        self.chunks.iter().map_while(OnceLock::get).flatten()
    }
}

/// A broadcast under way.
struct Call<'a> {
    slots: &'a Slots,
    frame: Result<&'a SharedFrame, SendError>,
    report: BroadcastReport,
    /// Peers that there are to choose from.
    expected: usize,
    ring: Ring<'a>,
}

/// Wakes the loop when it is dropped, also by a predicate that panics.
struct Ring<'a> {
    doorbell: &'a Doorbell,
    due: bool,
}

impl Drop for Ring<'_> {
    fn drop(&mut self) {
        if self.due {
            self.doorbell.ring();
        }
    }
}

impl Call<'_> {
    fn expect(&mut self, count: usize) {
        self.expected = count;
        if self.frame.is_ok() {
            self.report.sent.reserve_exact(count);
        }
    }

    fn skip(&mut self, peer: PeerId, error: SendError) {
        if self.report.skipped.capacity() == 0 {
            let rest = self.expected.saturating_sub(self.report.sent.len());
            self.report.skipped.reserve_exact(rest.max(1));
        }
        self.report.skipped.push((peer, error));
    }

    /// Whether a peer is one of the recipients.
    fn wants(&mut self, slot: &Slot, peer: PeerId, to: Recipients<'_>) -> bool {
        match to {
            Recipients::All | Recipients::List(_) => true,
            Recipients::AllBut(other) => peer != other,
            Recipients::Matching(matches) => match lock(slot) {
                Some(inner) => {
                    let info = info(slot, &inner, peer);
                    drop(inner);
                    info.is_some_and(|info| matches(&info))
                }
                None => {
                    self.skip(peer, SendError::Full);
                    false
                }
            },
        }
    }

    fn offer(&mut self, slot: &Slot, peer: PeerId) {
        let result = match lock(slot) {
            None => Err(SendError::Full),
            Some(inner) if slot.generation() != peer.generation() => {
                drop(inner);
                Err(SendError::NotConnected)
            }
            Some(inner) => self.accept(slot, inner, peer),
        };
        match result {
            Ok(()) => self.report.sent.push(peer),
            Err(error) => self.skip(peer, error),
        }
    }

    fn accept(
        &mut self,
        slot: &Slot,
        mut inner: MutexGuard<'_, Inner>,
        peer: PeerId,
    ) -> Result<(), SendError> {
        let frame = self.frame?;
        let slots = self.slots;
        let result = if !frame.checksum && slot.has(CHECKSUMS) {
            slots.accept_dressed(slot, &mut inner, frame)
        } else {
            slots.accept_locked(slot, &mut inner, frame.item, |tail| {
                tail.push_shared(&frame.bytes, frame.message_type);
            })
        };
        drop(inner);
        if result.is_ok() || result.is_err_and(|refused| refused.tells_loop) {
            self.ring.due |= slots.list_dirty(slot, peer.index());
        }
        result.map_err(|refused| refused.error)
    }
}

impl Slots {
    /// Accepts the frame of a broadcast for a peer that gets nothing without a checksum. It is
    /// encoded for each of those.
    #[cold]
    #[inline(never)]
    fn accept_dressed(
        &self,
        slot: &Slot,
        inner: &mut Inner,
        shared: &SharedFrame,
    ) -> Result<(), Refused> {
        // The bytes are a frame.
        let Some(frame) = WholeFrames::new(&shared.bytes).next() else {
            return Err(SendError::NotConnected.into());
        };
        let frame = frame.with_checksum(true);
        let item = Item::of(&frame, shared.item.priority);
        self.accept_locked(slot, inner, item, |tail| tail.push(&frame, None))
    }
}

/// The lock of a slot; `None` if this thread must not wait for it.
fn lock(slot: &Slot) -> Option<MutexGuard<'_, Inner>> {
    if never_waits() {
        slot.try_lock().ok()
    } else {
        Some(slot.lock())
    }
}

impl Slots {
    /// What is known of a connection; `None` if it is not there, or may not be sent to yet.
    pub(crate) fn info(&self, peer: PeerId) -> Option<PeerInfo> {
        let slot = self.slot(peer)?;
        let inner = slot.lock();
        info(slot, &inner, peer).filter(|_| slot.admitted.load(Ordering::Acquire))
    }
}

fn info(slot: &Slot, inner: &Inner, peer: PeerId) -> Option<PeerInfo> {
    if inner.state == SlotState::Free || slot.generation() != peer.generation() {
        return None;
    }
    let known = inner.known.as_ref();
    Some(PeerInfo {
        peer,
        addr: slot.addr.get(),
        link: known.and_then(|known| known.link),
        identity: known.and_then(|known| known.identity.clone()),
        queued: slot.queued(),
    })
}
