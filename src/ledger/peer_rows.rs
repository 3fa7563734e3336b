//! Rows of connections: those that are open, and those that ended, with what they left open.

use std::{sync::Arc, time::Duration};

use super::traffic::Traffic;
use crate::{
    error::CloseReason,
    id::{LinkId, NodeId, PeerId, PeerIdentity},
};

/// A connection, as [`Handle::peers`](crate::Handle::peers) lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerRow {
    /// The connection.
    pub peer: PeerId,
    /// The remote address.
    pub addr: std::net::SocketAddr,
    /// The link that made it; `None` if the peer connected to us.
    pub link: Option<LinkId>,
    /// Who the peer is and what it runs, if it said so.
    pub identity: Option<Arc<PeerIdentity>>,
    /// Time since it was accepted or made.
    pub age: Duration,
    /// Time since the last byte in either direction.
    pub idle: Duration,
    /// Application messages received.
    pub inbound: Traffic,
    /// Application messages written.
    pub outbound: Traffic,
    /// Application messages accepted for sending and not yet written.
    pub queued: Traffic,
    /// How long the oldest of them has waited, in milliseconds, since the loop saw it first; `None`
    /// if nothing is queued.
    pub queued_oldest: Option<Duration>,
    /// Application messages accepted for sending that were dropped for later ones; only with
    /// [`OutboxFull::DropOldest`](crate::OutboxFull::DropOldest).
    pub overflowed: Traffic,
    /// Bytes read from it that a subscriber, the dispatcher or an unfinished frame still holds.
    pub in_flight_bytes: u64,
    /// Whether it is being read; false while its credit is used up or a subscriber holds it back.
    pub reading: bool,
    /// Whether it is on its way to be closed.
    pub closing: bool,
}

/// A connection that ended, as [`Handle::recently_closed`](crate::Handle::recently_closed) lists
/// it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClosedRow {
    /// The connection.
    pub peer: PeerId,
    /// The remote address.
    pub addr: std::net::SocketAddr,
    /// The link that had made it; `None` if the peer had connected to us.
    pub link: Option<LinkId>,
    /// Who the peer was, if it said so.
    pub node_id: NodeId,
    /// Why it ended.
    pub reason: CloseReason,
    /// The code of the BYE that the peer sent, if it did.
    pub bye_received: Option<u16>,
    /// When it ended: time since the service was made.
    pub closed_at: Duration,
    /// How long it lasted.
    pub age: Duration,
    /// Application messages received.
    pub inbound: Traffic,
    /// Application messages written.
    pub outbound: Traffic,
    /// Application messages accepted for sending that were lost with the connection.
    pub lost: Traffic,
    /// Application messages accepted for sending that were dropped for later ones; only with
    /// [`OutboxFull::DropOldest`](crate::OutboxFull::DropOldest).
    pub overflowed: Traffic,
    /// Of `outbound`, what the peer's system had not acknowledged immediately before the close: at
    /// most that much may not have reached it. An upper bound, in messages rounded up to whole
    /// calls that wrote them; where the connection broke, its last bytes are bounded by what the
    /// system's buffer holds. `None` if the system does not tell.
    ///
    /// What was acknowledged has reached the peer's system, and not always its program.
    pub unconfirmed: Option<Traffic>,
    /// Replies refused as [`SendError::Closing`](crate::SendError::Closing) because our BYE was
    /// due, or the peer's said that it reads no more, in messages: what they would have answered
    /// was delivered. Replies that come after the
    /// end of the connection are refused as `NotConnected`, and are not among them.
    pub unanswered: u64,
    /// Input that came while the connection was being closed, and that no subscriber got: bytes of
    /// application messages, and of what could not be parsed; messages as far as the stream could
    /// be parsed, so none behind a framing error.
    pub discarded_after_close: Traffic,
}

impl ClosedRow {
    /// Whether it is certain that everything written has reached the peer's system.
    #[must_use]
    pub fn is_confirmed(&self) -> bool {
        self.unconfirmed == Some(Traffic::default())
    }

    /// Whether something may not have.
    pub(crate) fn has_unconfirmed(&self) -> bool {
        self.unconfirmed
            .is_some_and(|sum| sum != Traffic::default())
    }

    /// Whether something was lost with the connection: messages accepted for sending, or input.
    #[must_use]
    pub fn has_loss(&self) -> bool {
        let is_lost = self.lost.messages > 0 || self.discarded_after_close.bytes > 0;
        is_lost || self.has_unconfirmed()
    }

    /// Whether whole messages were, as far as they could be parsed.
    pub(crate) fn has_lost_messages(&self) -> bool {
        let is_lost = self.lost.messages > 0 || self.discarded_after_close.messages > 0;
        is_lost || self.has_unconfirmed()
    }
}

#[cfg(test)]
impl ClosedRow {
    /// Of a peer that did nothing.
    pub(crate) fn of_peer(peer: PeerId) -> Self {
        Self {
            peer,
            addr: std::net::SocketAddr::from(([127, 0, 0, 1], 1)),
            link: None,
            node_id: NodeId::default(),
            reason: CloseReason::PeerClosed,
            bye_received: None,
            closed_at: Duration::ZERO,
            age: Duration::ZERO,
            inbound: Traffic::default(),
            outbound: Traffic::default(),
            lost: Traffic::default(),
            overflowed: Traffic::default(),
            unconfirmed: Some(Traffic::default()),
            unanswered: 0,
            discarded_after_close: Traffic::default(),
        }
    }
}
