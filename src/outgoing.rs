//! Messages to send, before they have a peer.

use std::{error::Error, fmt};

use bytes::Bytes;

use crate::{
    error::{RequestError, SendError},
    frame::Frame,
    id::MessageType,
    policy::Priority,
};

/// Bytes to send.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Payload<'a> {
    /// To be copied.
    Borrowed(&'a [u8]),
    /// To be queued as they are, if they are more than 4 KiB.
    Owned(Bytes),
}

impl Payload<'_> {
    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        match self {
            Self::Borrowed(bytes) => bytes,
            Self::Owned(bytes) => bytes,
        }
    }
}

impl<'a> From<&'a [u8]> for Payload<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::Borrowed(bytes)
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for Payload<'a> {
    fn from(bytes: &'a [u8; N]) -> Self {
        Self::Borrowed(bytes)
    }
}

impl<'a> From<&'a Vec<u8>> for Payload<'a> {
    fn from(bytes: &'a Vec<u8>) -> Self {
        Self::Borrowed(bytes)
    }
}

impl<'a> From<&'a str> for Payload<'a> {
    fn from(text: &'a str) -> Self {
        Self::Borrowed(text.as_bytes())
    }
}

impl<'a> From<&'a String> for Payload<'a> {
    fn from(text: &'a String) -> Self {
        Self::Borrowed(text.as_bytes())
    }
}

impl From<Vec<u8>> for Payload<'_> {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Owned(bytes.into())
    }
}

impl From<String> for Payload<'_> {
    fn from(text: String) -> Self {
        Self::Owned(text.into())
    }
}

impl From<Bytes> for Payload<'_> {
    fn from(bytes: Bytes) -> Self {
        Self::Owned(bytes)
    }
}

/// A message to send.
///
/// Whatever sends takes `impl Into<Outgoing>`: a pair of type and payload is enough where no option
/// is needed. A reference to one is one too, so that the same message can be sent again: what it
/// borrows is borrowed again, and an owned payload is shared.
///
/// # Examples
///
/// ```
/// use nebnet::{MessageType, Outgoing, Priority};
///
/// let plain: Outgoing<'_> = (MessageType(7), "hi").into();
/// let urgent = Outgoing::new(MessageType(7), "hi").priority(Priority::High);
/// assert_eq!(plain.payload(), urgent.payload());
/// ```
#[derive(Clone, Debug)]
pub struct Outgoing<'a> {
    pub(crate) message_type: MessageType,
    pub(crate) payload: Payload<'a>,
    pub(crate) correlation: Option<u64>,
    pub(crate) checksum: bool,
    pub(crate) priority: Priority,
}

impl<'a> Outgoing<'a> {
    /// A message of normal priority, without correlation and checksum.
    #[must_use]
    pub fn new(message_type: MessageType, payload: impl Into<Payload<'a>>) -> Self {
        Self {
            message_type,
            payload: payload.into(),
            correlation: None,
            checksum: false,
            priority: Priority::Normal,
        }
    }

    /// Adds a correlation number.
    #[must_use]
    pub fn correlation(self, correlation: u64) -> Self {
        Self {
            correlation: Some(correlation),
            ..self
        }
    }

    /// Adds a CRC-32C, or not; [`Config::checksums`](crate::Config::checksums) adds one in any
    /// case.
    #[must_use]
    pub fn checksum(self, checksum: bool) -> Self {
        Self { checksum, ..self }
    }

    /// Says how urgent it is; only among messages of one priority is order kept.
    #[must_use]
    pub fn priority(self, priority: Priority) -> Self {
        Self { priority, ..self }
    }

    /// Its type.
    #[must_use]
    pub fn message_type(&self) -> MessageType {
        self.message_type
    }

    /// What is to be sent.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        self.payload.as_slice()
    }

    #[inline]
    pub(crate) fn frame(&self) -> Frame<'_> {
        Frame {
            message_type: self.message_type,
            correlation: self.correlation,
            checksum: self.checksum,
            payload: self.payload.as_slice(),
        }
    }
}

impl<'a, P: Into<Payload<'a>>> From<(MessageType, P)> for Outgoing<'a> {
    #[inline]
    fn from((message_type, payload): (MessageType, P)) -> Self {
        Self::new(message_type, payload)
    }
}

impl<'a> From<&'a Outgoing<'_>> for Outgoing<'a> {
    fn from(message: &'a Outgoing<'_>) -> Self {
        let payload = match &message.payload {
            Payload::Borrowed(bytes) => Payload::Borrowed(bytes),
            Payload::Owned(bytes) => Payload::Owned(bytes.clone()),
        };
        Self {
            payload,
            ..*message
        }
    }
}

/// A message that was not accepted, and why. Nothing of it was queued.
///
/// It borrows what the message does, so where an error has to outlive that,
/// [`into_error`](Self::into_error) or `?` into an `E` leave the message behind. As an error it
/// says what [`error`](Self::error) says.
///
/// # Examples
///
/// ```no_run
/// # use nebnet::{Handle, MessageType, PeerId, SendError};
/// # fn example(handle: Handle, peer: PeerId, quote: &[u8]) -> Result<(), SendError> {
/// if let Err(rejected) = handle.send(peer, (MessageType(7), quote)) {
///     // Only then can trying again help.
///     if rejected.error.is_full() {
///         handle.send_timeout(peer, rejected.message, std::time::Duration::from_secs(1))?;
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Rejected<'a, E = SendError> {
    /// Why.
    pub error: E,
    /// The message, as it was given.
    pub message: Outgoing<'a>,
}

impl<E> Rejected<'_, E> {
    /// Why, without the message.
    #[must_use]
    pub fn into_error(self) -> E {
        self.error
    }
}

impl<E: fmt::Display> fmt::Display for Rejected<'_, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl<E: Error> Error for Rejected<'_, E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.error.source()
    }
}

impl From<Rejected<'_>> for SendError {
    fn from(rejected: Rejected<'_>) -> Self {
        rejected.error
    }
}

impl From<Rejected<'_, Self>> for RequestError {
    fn from(rejected: Rejected<'_, Self>) -> Self {
        rejected.error
    }
}
