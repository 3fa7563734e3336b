//! Messages and requests that are not accepted, or not answered.

use std::{error::Error, fmt, time::Duration};

use super::CloseReason;
use crate::id::MessageType;

/// Why a message was not accepted for sending. Nothing of it was queued.
///
/// The variants never overlap: only where [`is_full`](Self::is_full) can trying again help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError {
    /// The peer's outbox has no room for the message now, by its messages or its bytes.
    Full,
    /// The service's byte budget ([`Config::memory_budget`](crate::Config::memory_budget)) has no
    /// room for the message now.
    OverBudget,
    /// The payload is longer than the peer may be sent.
    TooLarge {
        /// Bytes of the payload.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The type belongs to the protocol itself.
    ReservedType(MessageType),
    /// No such connection: it closed, or it never was.
    NotConnected,
    /// The connection is about to close and takes no further messages.
    Closing,
}

impl SendError {
    /// Whether there may be room later: [`Full`](Self::Full) or [`OverBudget`](Self::OverBudget).
    #[must_use]
    pub const fn is_full(self) -> bool {
        matches!(self, Self::Full | Self::OverBudget)
    }
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("no room in the outbox of the peer"),
            Self::OverBudget => f.write_str("no room in the memory budget of the service"),
            Self::TooLarge { size, limit } => {
                write!(f, "payload of {size} bytes is above the limit of {limit}")
            }
            Self::ReservedType(message_type) => {
                write!(f, "type {:#06x} belongs to the protocol", message_type.0)
            }
            Self::NotConnected => f.write_str("peer is not connected"),
            Self::Closing => f.write_str("connection is closing"),
        }
    }
}

impl Error for SendError {}

/// Why a request was refused, or ended without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestError {
    /// Refused: the question was not accepted for sending.
    Send(SendError),
    /// Refused: as many requests are outstanding as may be, in the service or on the queue.
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// Refused: the timeout is zero, or above 365 days.
    BadTimeout {
        /// The timeout given.
        timeout: Duration,
    },
    /// No answer in time.
    Timeout,
    /// The connection ended before the answer, for this reason.
    Closed(CloseReason),
    /// The service has stopped or failed.
    Stopped,
    /// The result was taken before.
    Taken,
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Send(error) => error.fmt(f),
            Self::TooMany { limit } => write!(f, "{limit} requests are outstanding already"),
            Self::BadTimeout { timeout } => {
                write!(f, "timeout is {timeout:?}, allowed are 1 ms to 365 days")
            }
            Self::Timeout => f.write_str("no answer in time"),
            Self::Closed(reason) => write!(f, "the connection ended before the answer: {reason}"),
            Self::Stopped => f.write_str("the service has stopped"),
            Self::Taken => f.write_str("the result was taken before"),
        }
    }
}

impl Error for RequestError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Send(error) => error.source(),
            Self::TooMany { .. }
            | Self::BadTimeout { .. }
            | Self::Timeout
            | Self::Closed(_)
            | Self::Stopped
            | Self::Taken => None,
        }
    }
}

impl From<SendError> for RequestError {
    fn from(error: SendError) -> Self {
        Self::Send(error)
    }
}
