//! Messages, as subscribers get them.

use std::{fmt, time::Instant};

use bytes::Bytes;

use super::{BlockHead, BlockRef};
use crate::{
    frame::Frame,
    id::{MessageType, PeerId},
    limits::MESSAGE_COPIED_MAX,
};

/// A message, borrowed from the batch that it came in, or, in an inline handler, from the read that
/// brought it.
///
/// What is to outlive the borrow is kept as a [`Message`] ([`to_message`](Self::to_message)); to
/// answer later, a [`ReplyTo`](crate::ReplyTo) is enough.
#[derive(Clone, Copy)]
pub struct MessageRef<'a> {
    head: &'a BlockHead,
    /// `None` where the bytes are the loop's still.
    block: Option<&'a BlockRef>,
    frame: Frame<'a>,
}

impl<'a> MessageRef<'a> {
    #[inline]
    pub(crate) fn new(block: &'a BlockRef, frame: Frame<'a>) -> Self {
        Self {
            head: block.head(),
            block: Some(block),
            frame,
        }
    }

    /// A message whose bytes no block has yet.
    #[inline]
    pub(crate) fn of_read(head: &'a BlockHead, frame: Frame<'a>) -> Self {
        Self {
            head,
            block: None,
            frame,
        }
    }

    /// Who sent it.
    #[must_use]
    pub fn peer(&self) -> PeerId {
        self.head.peer
    }

    /// Its type.
    #[must_use]
    pub fn message_type(&self) -> MessageType {
        self.frame.message_type
    }

    /// What the sender wrote into it.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.frame.payload
    }

    /// The correlation number, if the sender gave one.
    #[must_use]
    pub fn correlation(&self) -> Option<u64> {
        self.frame.correlation
    }

    /// Whether it came with a checksum, which was verified.
    #[must_use]
    pub fn checksum(&self) -> bool {
        self.frame.checksum
    }

    /// When its last byte was read; the clock is looked at once for all reads of a turn.
    #[must_use]
    pub fn received(&self) -> Instant {
        self.head.received
    }

    /// The message to keep: a copy up to 1 KiB of payload; a larger payload shares the storage of
    /// the read that it came in, up to 64 KiB or the frame's own size, and with it the peer's
    /// credit. In an inline handler it is a copy, whatever its size.
    #[must_use]
    pub fn to_message(&self) -> Message {
        let is_long = self.frame.payload.len() > MESSAGE_COPIED_MAX;
        let Some(block) = self.block.filter(|_| is_long) else {
            return Message::copy_of(self.peer(), &self.frame, self.received());
        };
        let block = block.clone();
        let start = self.frame.payload.as_ptr().addr() - block.bytes().as_ptr().addr();
        let payload = Stored::Shared {
            block,
            start,
            size: self.frame.payload.len(),
        };
        Message {
            peer: self.peer(),
            message_type: self.frame.message_type,
            correlation: self.frame.correlation,
            checksum: self.frame.checksum,
            received: self.received(),
            payload,
        }
    }
}

impl fmt::Debug for MessageRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageRef")
            .field("peer", &self.peer())
            .field("frame", &self.frame)
            .finish()
    }
}

/// A message that stands for itself.
///
/// A payload above 1 KiB shares the storage of the read that it came in, as long as the message
/// exists; [`into_owned`](Self::into_owned) ends that.
#[derive(Clone)]
pub struct Message {
    peer: PeerId,
    message_type: MessageType,
    correlation: Option<u64>,
    checksum: bool,
    received: Instant,
    payload: Stored,
}

#[derive(Clone)]
enum Stored {
    Copied(Box<[u8]>),
    Shared {
        block: BlockRef,
        start: usize,
        size: usize,
    },
}

impl Message {
    /// A copy of a message.
    pub(crate) fn copy_of(peer: PeerId, frame: &Frame<'_>, received: Instant) -> Self {
        Self {
            peer,
            message_type: frame.message_type,
            correlation: frame.correlation,
            checksum: frame.checksum,
            received,
            payload: Stored::Copied(frame.payload.into()),
        }
    }

    /// Who sent it.
    #[must_use]
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// Its type.
    #[must_use]
    pub fn message_type(&self) -> MessageType {
        self.message_type
    }

    /// What the sender wrote into it.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        match &self.payload {
            Stored::Copied(bytes) => bytes,
            Stored::Shared { block, start, size } => &block.bytes()[*start..*start + *size],
        }
    }

    /// The correlation number, if the sender gave one.
    #[must_use]
    pub fn correlation(&self) -> Option<u64> {
        self.correlation
    }

    /// Whether it came with a checksum, which was verified.
    #[must_use]
    pub fn checksum(&self) -> bool {
        self.checksum
    }

    /// When its last byte was read.
    #[must_use]
    pub fn received(&self) -> Instant {
        self.received
    }

    /// The same message with a payload of its own, which pins nothing.
    #[must_use]
    pub fn into_owned(self) -> Self {
        let payload = match &self.payload {
            Stored::Copied(_) => return self,
            Stored::Shared { .. } => Stored::Copied(self.payload().into()),
        };
        Self { payload, ..self }
    }

    /// Bytes of memory that the message keeps in use, besides itself.
    #[must_use]
    pub fn pinned_bytes(&self) -> usize {
        match &self.payload {
            Stored::Copied(bytes) => bytes.len(),
            Stored::Shared { block, .. } => block.charge(),
        }
    }
}

impl AsRef<[u8]> for Message {
    fn as_ref(&self) -> &[u8] {
        self.payload()
    }
}

impl From<Message> for Bytes {
    /// The payload, without a copy.
    fn from(message: Message) -> Self {
        match message.payload {
            Stored::Copied(bytes) => Self::from(bytes),
            Stored::Shared { .. } => Self::from_owner(message),
        }
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("peer", &self.peer)
            .field("message_type", &self.message_type)
            .field("correlation", &self.correlation)
            .field("checksum", &self.checksum)
            .field("payload", &self.payload())
            .finish_non_exhaustive()
    }
}
