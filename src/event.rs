//! What becomes of peers, as events: connected, introduced, paused, closed.
//!
//! Events travel through the dispatch queue, so that they keep their order with the messages of
//! the peer: what a peer sent comes after its [`Event::Connected`] and before its
//! [`Event::Closed`]. A subscriber sees that order if it has both in one queue.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use crate::{
    error::DialError,
    id::{LinkId, PeerId, PeerIdentity},
    ledger::{ClosedRow, Traffic},
};

/// Something became of a peer, or of an attempt to reach one.
///
/// For one peer: first `Connected`; then any of the others; last `Closed`, and nothing after it.
/// A connection that was refused, or that ended before its HELLO was accepted where one is
/// required, gives no events: it is counted under its reason, and listed by
/// [`Handle::recently_closed`](crate::Handle::recently_closed).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// The peer may be sent to. It connected to us; or we connected to it, and if we said HELLO it
    /// answered OK. Where we require HELLO, it was accepted. Comes before every message of the
    /// peer, and once.
    Connected {
        /// The connection.
        peer: PeerId,
        /// The remote address.
        addr: SocketAddr,
        /// The link that made it; `None` if the peer connected to us.
        link: Option<LinkId>,
    },
    /// The peer said who it is, by HELLO or by OK. Comes after `Connected`, at most once, and
    /// before the messages that were read behind the HELLO. Never comes for a peer that says
    /// neither.
    Hello {
        /// The connection.
        peer: PeerId,
        /// What it said.
        identity: Arc<PeerIdentity>,
    },
    /// The peer has not been read for 100 ms, for the cause given. May come again after `Resumed`.
    Paused {
        /// The connection.
        peer: PeerId,
        /// Why.
        cause: PauseCause,
    },
    /// A peer that was `Paused` is being read again.
    Resumed {
        /// The connection.
        peer: PeerId,
    },
    /// More is queued for the peer than the high watermark, a quarter of the outbox's limits.
    /// Sending still works, up to the limits; but what is queued counts against the peer's credit,
    /// so whoever sends of its own accord should stop here, or the peer will be read less and less.
    /// `Writable` or `Closed` follows.
    Congested {
        /// The connection.
        peer: PeerId,
        /// What is queued for it.
        queued: Traffic,
    },
    /// What is queued for the peer fell to the low watermark, half of the high one: after
    /// `Congested`, or after a send was refused as `Full`. If that was below the low watermark, it
    /// comes when nothing is queued; if it was for want of the byte budget, when that has room, up
    /// to 100 ms late. Never for a batch above the outbox's limits, which can never be sent.
    Writable {
        /// The connection.
        peer: PeerId,
    },
    /// The peer said BYE: it closes, and sends nothing more. Sends to it are refused as
    /// [`SendError::Closing`](crate::SendError::Closing) by now. If the code is that of
    /// [`Shutdown`](crate::CloseReason::Shutdown), [`AppClosed`](crate::CloseReason::AppClosed) or
    /// [`DuplicateNode`](crate::CloseReason::DuplicateNode), it still reads: what was accepted
    /// before is written, and what it had sent may be answered. With any other code all of that is
    /// lost. Comes behind the peer's last message, at most once, and `Closed` follows.
    ByeReceived {
        /// The connection.
        peer: PeerId,
        /// The code of the BYE; [`CloseReason::from_wire_code`](crate::CloseReason::from_wire_code)
        /// has its meaning.
        code: u16,
    },
    /// The connection ended. Comes once for each `Connected`, after every message of the peer, and
    /// nothing of the peer comes after it.
    Closed(Box<ClosedRow>),
    /// An attempt to connect failed: every address of the target was tried. With `retry_in` the
    /// link tries again after that time; without it the link has ended, and nothing of it comes
    /// after this. Of two services that connect to each other one is told this as well, with
    /// [`CloseReason::DuplicateNode`](crate::CloseReason::DuplicateNode) as the reason or as the
    /// code of the BYE: the connection that the other made is the one that stays.
    DialFailed {
        /// The link.
        link: LinkId,
        /// The address that was tried last, if the target had any.
        addr: Option<SocketAddr>,
        /// What went wrong there.
        error: DialError,
        /// Attempts that failed in a row, this one included. Counts anew when a connection of a
        /// node ends for whose sake the link was refused.
        attempts: u32,
        /// Time until the next attempt.
        retry_in: Option<Duration>,
    },
}

impl Event {
    /// The connection that the event is about; `None` for `DialFailed`.
    #[must_use]
    pub fn peer(&self) -> Option<PeerId> {
        match self {
            Self::Connected { peer, .. }
            | Self::Hello { peer, .. }
            | Self::Paused { peer, .. }
            | Self::Resumed { peer }
            | Self::Congested { peer, .. }
            | Self::Writable { peer }
            | Self::ByeReceived { peer, .. } => Some(*peer),
            Self::Closed(row) => Some(row.peer),
            Self::DialFailed { .. } => None,
        }
    }
}

/// Why a peer is not being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum PauseCause {
    /// Its credit is used up: too much of what it sent is still with subscribers, or it does not
    /// take its answers.
    Credit,
    /// A subscriber with [`OverflowPolicy::Pause`](crate::OverflowPolicy::Pause) that it sends to
    /// is full.
    Subscriber,
    /// The service's byte budget is short.
    Budget,
}
