//! What can go wrong between a client and its service.

use std::{error::Error, fmt, io, net::SocketAddr};

use crate::{
    error::{CloseReason, FrameError},
    id::MessageType,
};

/// Why a call of a [`Client`](crate::Client) failed.
///
/// Three kinds, which [`is_end`](Self::is_end) and [`is_timeout`](Self::is_timeout) tell apart:
///
/// - the connection has ended, or was not made: every later call fails, and `recv` gives out before
///   what had come;
/// - the time was over: nothing is lost, and a later call goes on where this one stopped;
/// - the call was refused: nothing was sent, and nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientError {
    /// An option is out of its range. Nothing was tried.
    BadOption {
        /// The method of [`ClientOptions`](crate::ClientOptions) that sets it.
        option: &'static str,
        /// Its value, or its size in bytes.
        value: usize,
        /// The smallest that is allowed.
        min: usize,
        /// The largest that is allowed.
        max: usize,
    },
    /// The name has no address, or could not be looked up.
    Resolve {
        /// What the system said.
        message: String,
    },
    /// The connection could not be made. Of several addresses this is the last one that was tried.
    Connect {
        /// The address.
        addr: SocketAddr,
        /// The kind of the system's error.
        kind: io::ErrorKind,
        /// Its number, if it has one.
        os_error: Option<i32>,
    },
    /// No OK came in answer to HELLO within the connect timeout.
    HelloTimeout,
    /// The service answered HELLO, or the connection itself, with a BYE.
    Refused {
        /// The reason, if this version knows it.
        reason: Option<CloseReason>,
        /// Its number.
        code: u16,
        /// What the service said besides, as it was written: to be escaped before it is shown.
        text: String,
    },
    /// The service said BYE. What it sent before was given out, or still is by `recv`.
    Closed {
        /// The reason, if this version knows it.
        reason: Option<CloseReason>,
        /// Its number.
        code: u16,
        /// What the service said besides, as it was written: to be escaped before it is shown.
        text: String,
    },
    /// The service ended its side between two messages, without a BYE.
    EndOfStream,
    /// The service ended its side within a frame.
    CutOff {
        /// Bytes of the frame that came.
        size: usize,
        /// Where the frame begins: bytes that the service had sent before it.
        at: u64,
    },
    /// The service sent bytes that are no frame; the source says why, with the value and the limit.
    Frame {
        /// The rule that the bytes break.
        error: FrameError,
        /// Where the frame begins: bytes that the service had sent before it.
        at: u64,
    },
    /// The service sent a frame that the protocol does not allow, or not at this time.
    Protocol {
        /// What came, with the value and the limit.
        what: String,
        /// Where the frame begins: bytes that the service had sent before it.
        at: u64,
    },
    /// The system refused to read or to write, or gave the connection up.
    Io {
        /// The kind of the system's error.
        kind: io::ErrorKind,
        /// Its number, if it has one.
        os_error: Option<i32>,
    },
    /// The time is over. What was to be written or read is still there for the next call.
    Timeout,
    /// The message was not taken: as much waits to be written as may, and the service took nothing
    /// for the write timeout.
    OutputFull {
        /// Bytes that wait.
        size: usize,
        /// From how many on no more is taken.
        limit: usize,
    },
    /// As many messages as may wait for `recv`, and what is asked for is behind more of them.
    InboxFull {
        /// What they cost in bytes.
        size: usize,
        /// From how many on no more is read.
        limit: usize,
    },
    /// The payload is longer than the service accepts, as its OK said.
    TooLarge {
        /// Bytes of the payload.
        size: usize,
        /// The longest payload that is accepted.
        limit: u32,
    },
    /// The type belongs to the protocol: 0xFF00 to 0xFFFF.
    ReservedType {
        /// The type.
        message_type: MessageType,
    },
    /// No such question is open: it was answered, given up, or asked by another client.
    UnknownRequest,
    /// As many questions are open as may be.
    TooManyRequests {
        /// The limit.
        limit: usize,
    },
    /// This side was ended by [`finish`](crate::Client::finish), so nothing more can be sent.
    Finished,
}

impl ClientError {
    /// Whether the time was over, so that the same call can be made again and nothing is lost.
    #[must_use]
    pub const fn is_timeout(&self) -> bool {
        matches!(self, Self::Timeout)
    }

    /// Whether there is no connection any more, or never was one.
    #[must_use]
    pub const fn is_end(&self) -> bool {
        match self {
            Self::BadOption { .. }
            | Self::Resolve { .. }
            | Self::Connect { .. }
            | Self::HelloTimeout
            | Self::Refused { .. }
            | Self::Closed { .. }
            | Self::EndOfStream
            | Self::CutOff { .. }
            | Self::Frame { .. }
            | Self::Protocol { .. }
            | Self::Io { .. } => true,
            Self::Timeout
            | Self::OutputFull { .. }
            | Self::InboxFull { .. }
            | Self::TooLarge { .. }
            | Self::ReservedType { .. }
            | Self::UnknownRequest
            | Self::TooManyRequests { .. }
            | Self::Finished => false,
        }
    }

    /// The reason of a BYE that the service sent, if one ended the connection and this version
    /// knows its number.
    #[must_use]
    pub const fn reason(&self) -> Option<CloseReason> {
        if let Self::Refused { reason, .. } | Self::Closed { reason, .. } = self {
            *reason
        } else {
            None
        }
    }

    pub(super) fn connect(addr: SocketAddr, error: &io::Error) -> Self {
        Self::Connect {
            addr,
            kind: error.kind(),
            os_error: error.raw_os_error(),
        }
    }

    pub(super) fn io(error: &io::Error) -> Self {
        Self::Io {
            kind: error.kind(),
            os_error: error.raw_os_error(),
        }
    }

    pub(super) fn closed(code: u16, text: String) -> Self {
        Self::Closed {
            reason: CloseReason::from_wire_code(code),
            code,
            text,
        }
    }

    /// The same while the client waits for the OK.
    pub(super) fn while_greeting(self) -> Self {
        if let Self::Closed { reason, code, text } = self {
            return Self::Refused { reason, code, text };
        }
        if self == Self::Timeout {
            return Self::HelloTimeout;
        }
        self
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadOption {
                option,
                value,
                min,
                max,
            } => write!(f, "option {option} is {value}, allowed are {min} to {max}"),
            Self::Resolve { message } => write!(f, "cannot resolve the name: {message}"),
            Self::Connect {
                addr,
                kind,
                os_error,
            } => write!(f, "cannot connect to {addr}: {}", io_text(*kind, *os_error)),
            Self::HelloTimeout => f.write_str("no OK came in answer to HELLO in time"),
            Self::Refused { reason, code, text } => {
                f.write_str("the service refused the connection: ")?;
                write_bye(f, *reason, *code, text)
            }
            Self::Closed { reason, code, text } => {
                f.write_str("the service closed the connection: ")?;
                write_bye(f, *reason, *code, text)
            }
            Self::EndOfStream => f.write_str("the service ended its side of the connection"),
            Self::CutOff { size, at } => {
                write!(
                    f,
                    "the service ended its side {size} bytes into the frame at byte {at}"
                )
            }
            Self::Frame { at, .. } => write!(f, "the service sent no frame at byte {at}"),
            Self::Protocol { what, at } => {
                write!(f, "the service broke the protocol at byte {at}: {what}")
            }
            Self::Io { kind, os_error } => {
                write!(f, "the connection failed: {}", io_text(*kind, *os_error))
            }
            Self::Timeout => f.write_str("the time is over"),
            Self::OutputFull { size, limit } => {
                write!(f, "{size} bytes wait for the service, the limit is {limit}")
            }
            Self::InboxFull { size, limit } => {
                write!(f, "{size} bytes wait to be received, the limit is {limit}")
            }
            Self::TooLarge { size, limit } => {
                write!(
                    f,
                    "the payload has {size} bytes, the service accepts {limit}"
                )
            }
            Self::ReservedType { message_type } => {
                write!(f, "type {message_type} belongs to the protocol")
            }
            Self::UnknownRequest => f.write_str("no such question is open"),
            Self::TooManyRequests { limit } => write!(f, "{limit} questions are open"),
            Self::Finished => f.write_str("this side of the connection was ended"),
        }
    }
}

fn io_text(kind: io::ErrorKind, os_error: Option<i32>) -> String {
    os_error.map_or_else(
        || kind.to_string(),
        |number| io::Error::from_raw_os_error(number).to_string(),
    )
}

/// The text comes from the network, so it is escaped; most services have nothing to add to the
/// reason.
fn write_bye(
    f: &mut fmt::Formatter<'_>,
    reason: Option<CloseReason>,
    code: u16,
    text: &str,
) -> fmt::Result {
    let name = reason.map_or("unknown reason", CloseReason::name);
    write!(f, "{name} ({code})")?;
    if text.is_empty() || text == name {
        return Ok(());
    }
    write!(f, ": {}", text.escape_debug())
}

impl Error for ClientError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        if let Self::Frame { error, .. } = self {
            Some(error)
        } else {
            None
        }
    }
}
