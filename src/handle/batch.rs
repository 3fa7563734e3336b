//! Many messages for one peer, and answers.

use crate::{
    block::{Message, MessageRef},
    error::SendError,
    frame::Frame,
    id::{MessageType, PeerId},
    limits::PAYLOAD_SIZE_MAX_CEILING,
    outgoing::{Outgoing, Payload},
    policy::Priority,
    slots::OutFrames,
};

/// Where an answer goes, and what it repeats of the question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyTo {
    peer: PeerId,
    message_type: MessageType,
    correlation: Option<u64>,
    checksum: bool,
}

impl ReplyTo {
    /// The answer.
    #[inline]
    pub(crate) fn answer<'a>(&self, payload: impl Into<Payload<'a>>) -> Outgoing<'a> {
        Outgoing {
            message_type: self.message_type,
            payload: payload.into(),
            correlation: self.correlation,
            checksum: self.checksum,
            priority: Priority::Normal,
        }
    }

    /// The peer that asked.
    #[must_use]
    pub const fn peer(&self) -> PeerId {
        self.peer
    }
}

impl From<&Message> for ReplyTo {
    fn from(message: &Message) -> Self {
        Self {
            peer: message.peer(),
            message_type: message.message_type(),
            correlation: message.correlation(),
            checksum: message.checksum(),
        }
    }
}

impl From<MessageRef<'_>> for ReplyTo {
    #[inline]
    fn from(message: MessageRef<'_>) -> Self {
        Self {
            peer: message.peer(),
            message_type: message.message_type(),
            correlation: message.correlation(),
            checksum: message.checksum(),
        }
    }
}

impl From<&MessageRef<'_>> for ReplyTo {
    fn from(message: &MessageRef<'_>) -> Self {
        (*message).into()
    }
}

/// Messages for one peer, encoded one behind the other, to be sent at once.
///
/// # Examples
///
/// ```no_run
/// use nebnet::OutgoingBatch;
///
/// # fn example(mut questions: nebnet::Subscription, handle: nebnet::Handle)
/// # -> Result<(), Box<dyn std::error::Error>> {
/// let mut answers = OutgoingBatch::new();
/// while let Ok(batch) = questions.recv_batch() {
///     for question in &batch {
///         answers.push_reply(question, question.payload())?;
///     }
///     handle.send_batch(batch.peer(), &mut answers)?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Default)]
pub struct OutgoingBatch {
    pub(super) frames: OutFrames,
    pub(super) priority: Priority,
}

impl OutgoingBatch {
    /// An empty batch of normal priority.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Says how urgent all of its messages are, those to come included. What each of them was
    /// given when it was made does not count.
    #[must_use]
    pub fn priority(self, priority: Priority) -> Self {
        Self { priority, ..self }
    }

    /// Appends a copy of a message.
    ///
    /// # Errors
    ///
    /// [`SendError::ReservedType`], or [`SendError::TooLarge`] above 256 MiB; a smaller limit of
    /// the peer is looked at when the batch is sent.
    pub fn push<'a>(&mut self, message: impl Into<Outgoing<'a>>) -> Result<(), SendError> {
        self.push_frame(&message.into().frame())
    }

    /// Appends the answer to a message: the same type and correlation, and a checksum if it had
    /// one.
    ///
    /// # Errors
    ///
    /// As [`push`](Self::push).
    #[inline]
    pub fn push_reply<'a>(
        &mut self,
        to: impl Into<ReplyTo>,
        payload: impl Into<Payload<'a>>,
    ) -> Result<(), SendError> {
        self.push_frame(&to.into().answer(payload).frame())?;
        self.frames.replies += 1;
        Ok(())
    }

    /// Number of messages.
    #[must_use]
    pub fn len(&self) -> usize {
        self.frames.messages as usize
    }

    /// Whether there is no message.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames.messages == 0
    }

    /// Removes all messages and keeps the memory.
    pub fn clear(&mut self) {
        self.frames.clear();
    }

    fn push_frame(&mut self, frame: &Frame<'_>) -> Result<(), SendError> {
        if frame.message_type.is_protocol() {
            return Err(SendError::ReservedType(frame.message_type));
        }
        let (size, limit) = (frame.payload.len(), PAYLOAD_SIZE_MAX_CEILING as usize);
        if size > limit {
            return Err(SendError::TooLarge { size, limit });
        }
        self.frames.push(frame);
        Ok(())
    }
}
