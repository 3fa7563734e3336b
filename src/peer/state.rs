//! The life of a connection.

use crate::{clock::Tick, error::CloseReason, ledger::Traffic};

/// Where a connection is in its life.
///
/// ```text
///   Connecting --> Greeting --+
///        |          | made    | OK
///        |          v         v          we dial: from Connecting, or
///        +--------> failed   Open        without HELLO straight to Open
///
///            FIN or BYE of the peer
///   Open ------------------------------> HalfClosed
///    | \                                   / | drained for 250 ms
///    |  \  stop, close,       +-----------+  v
///    |   \ bad frame          v
///    |    +-----------> Stopping ------> Draining -------> Lingering ------> closed
///    |           released, or half the   ^   |   BYE, FIN      |  FIN, or the deadline
///    |           drain time              |   |                 |
///    +-----------------------------------+   |                 |
///    | deadline, refusal                     | deadline        |
///    |                                       v                 v
///    +-------------------------------> closed by RST <---------+
///      write stall, reset, I/O error                 I/O error
/// ```
///
/// A peer with a wrong token goes from `Open` to `Refused`, where it is not read, and after a delay
/// to `Draining`. A `Greeting` that goes wrong ends as `Open` does. A BYE that says that the peer
/// reads no more takes `Open` to `Draining`, where only the frame that has begun is finished.
///
/// *Drained* means: everything read from the peer was released by its subscribers, and
/// everything that was accepted for it was written. *Released* is said of what was read before the
/// stop or close began. `Draining` is skipped by no close in order: it finishes the outbox, says
/// BYE unless the peer closed first, and sends the FIN.
///
/// What becomes of input in the last three states does not follow from the state: after a stop, a
/// close or a swap of connections of one node it is delivered until the peer's own end, after an
/// error, a timeout or a refusal it is discarded and counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// We dial, and the connection is not made yet.
    Connecting { deadline: Tick },
    /// We dialled and said HELLO; nothing but the protocol's own frames is sent before the OK.
    Greeting { deadline: Tick },
    /// Reads and writes.
    Open,
    /// The peer's token is wrong, which it learns after a delay.
    Refused { reason: CloseReason, deadline: Tick },
    /// The peer sends nothing more; answers still go out, and senders may still send.
    HalfClosed {
        reason: CloseReason,
        /// Since when nothing is in flight and nothing is queued.
        drained_since: Option<Tick>,
        /// When what is queued then is given up; only after a BYE.
        deadline: Option<Tick>,
    },
    /// The service stops, the application closes, or the peer broke the protocol: answers to what
    /// was read before that still go out.
    Stopping {
        /// The stop, what had half-closed the connection before it, or what the peer did.
        reason: CloseReason,
        /// What had been read when it began, and is to be released before the BYE.
        mark: Traffic,
        /// How many messages were written once all is that was accepted when the mark was released:
        /// the answers to what had been read are among them.
        answers: Option<u64>,
        /// When the BYE goes out at the latest.
        bye_due: Tick,
        /// When all is over.
        deadline: Tick,
    },
    /// Nothing more is accepted for the peer; what is queued goes out until the deadline.
    Draining {
        reason: CloseReason,
        deadline: Tick,
        bye: Bye,
    },
    /// Our FIN is out. Input is read until the peer's, so that it does not turn into a RST which
    /// destroys what the peer has not read yet.
    Lingering {
        reason: CloseReason,
        deadline: Tick,
        /// When to look again whether the peer's system has everything, whose FIN came.
        look_at: Option<Tick>,
    },
}

/// Whether the peer is told why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bye {
    /// It closed first, or the reason is not one of the wire.
    Never,
    /// Once everything else is written.
    Due,
    /// It is in the outbox.
    Queued,
}

impl State {
    /// Whether the connection is one of those that take frames of the peer in.
    pub(crate) const fn takes_input(self) -> bool {
        matches!(self, Self::Open | Self::Greeting { .. })
    }

    /// Whether the connection is closed as soon as it is drained.
    pub(crate) const fn waits_to_drain(self) -> bool {
        matches!(self, Self::HalfClosed { .. } | Self::Stopping { .. })
    }

    /// Whether a step may follow another; the diagram above, as a table.
    pub(crate) fn may_become(self, next: Self) -> bool {
        match (self, next) {
            (Self::Connecting { .. }, Self::Greeting { .. } | Self::Open) => true,
            (
                Self::Greeting { .. },
                Self::Open
                | Self::HalfClosed { .. }
                | Self::Stopping { .. }
                | Self::Draining { .. },
            ) => true,
            (Self::Open, Self::Connecting { .. } | Self::Greeting { .. }) => false,
            (Self::Open, _) | (Self::Refused { .. }, Self::Draining { .. }) => true,
            (
                Self::HalfClosed { .. },
                Self::HalfClosed { .. } | Self::Stopping { .. } | Self::Draining { .. },
            ) => true,
            (Self::Stopping { .. }, Self::Stopping { .. } | Self::Draining { .. }) => true,
            (Self::Draining { .. }, Self::Draining { .. } | Self::Lingering { .. }) => true,
            (Self::Lingering { .. }, Self::Lingering { .. }) => true,
            (
                Self::Connecting { .. }
                | Self::Greeting { .. }
                | Self::Refused { .. }
                | Self::HalfClosed { .. }
                | Self::Stopping { .. }
                | Self::Draining { .. }
                | Self::Lingering { .. },
                _,
            ) => false,
        }
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Connecting { .. } => "connecting",
            Self::Greeting { .. } => "greeting",
            Self::Open => "open",
            Self::Refused { .. } => "refused",
            Self::HalfClosed { .. } => "half-closed",
            Self::Stopping { .. } => "stopping",
            Self::Draining { .. } => "draining",
            Self::Lingering { .. } => "lingering",
        }
    }
}
