//! What an inline handler has in hand: a message where it was read, and the way back to its peer.
//!
//! Nothing here is copied, counted by reference or locked per message. The message is borrowed from
//! the read that brought it; an answer is encoded straight into the peer's outbox, and the loop
//! writes it before it turns to the next peer.

use std::fmt;

use crate::{
    clock::Tick,
    error::SendError,
    frame::Frame,
    id::{MessageType, PeerId},
    ledger::Traffic,
    outbox::Outbox,
    outgoing::{Outgoing, Payload, Rejected},
    policy::Priority,
    slots::Slots,
};

/// The way back to the peer whose message is being handled.
///
/// What it takes is written as soon as the read is handled, in the order of the calls. Messages
/// that other threads send to the same peer, or the handler itself through a
/// [`Handle`](crate::Handle), come before or behind it.
pub struct Replier<'a> {
    slots: &'a Slots,
    outbox: &'a mut Outbox,
    now: Tick,
    peer: PeerId,
    /// What the message in hand has for its answer.
    message_type: MessageType,
    correlation: Option<u64>,
    checksum: bool,
    accepted: Traffic,
    refused: u64,
    /// The BYE is due, and nothing is accepted any more.
    is_closing: bool,
    /// Answers refused for that.
    unanswered: u64,
}

impl<'a> Replier<'a> {
    pub(crate) fn new(slots: &'a Slots, outbox: &'a mut Outbox, now: Tick, peer: PeerId) -> Self {
        Self {
            is_closing: false,
            unanswered: 0,
            slots,
            outbox,
            now,
            peer,
            message_type: MessageType::default(),
            correlation: None,
            checksum: false,
            accepted: Traffic::default(),
            refused: 0,
        }
    }

    /// Who is answered.
    #[must_use]
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// Answers the message in hand: the same type and correlation, and a checksum if it had one.
    ///
    /// May be called several times, or not at all. The payload is copied. `Ok` means that it will
    /// be written, or counted as lost with the reason of the close.
    ///
    /// # Errors
    ///
    /// [`Rejected`] gives the answer back as a message, with one of these:
    ///
    /// - [`SendError::Full`], [`SendError::OverBudget`]: no room in the outbox or in the budget,
    ///   whatever the policy for a full outbox. An answer that is no longer than its question meets
    ///   this only if others send to the peer too, or the budget is short.
    /// - [`SendError::TooLarge`]: the payload is longer than the peer takes.
    /// - [`SendError::Closing`], [`SendError::NotConnected`]: our BYE is due, or the peer may not
    ///   be sent to yet.
    pub fn reply<'m>(&mut self, payload: impl Into<Payload<'m>>) -> Result<(), Rejected<'m>> {
        let message = Outgoing {
            message_type: self.message_type,
            payload: payload.into(),
            correlation: self.correlation,
            checksum: self.checksum,
            priority: Priority::Normal,
        };
        self.push(&message)
            .map_err(|error| Rejected { error, message })
    }

    /// Sends the same peer another message.
    ///
    /// # Errors
    ///
    /// As for [`reply`](Self::reply), and [`SendError::ReservedType`].
    pub fn send<'m>(&mut self, message: impl Into<Outgoing<'m>>) -> Result<(), Rejected<'m>> {
        let message = message.into();
        let pushed = if message.message_type.is_protocol() {
            self.refused += 1;
            Err(SendError::ReservedType(message.message_type))
        } else {
            self.push(&message)
        };
        pushed.map_err(|error| Rejected { error, message })
    }

    fn push(&mut self, message: &Outgoing<'_>) -> Result<(), SendError> {
        let frame = &self.slots.dress_for(self.peer, message.frame());
        let traffic = Traffic::new(1, frame.encoded_size() as u64);
        let size = frame.payload.len();
        if self.is_closing {
            self.refused += 1;
            self.unanswered += 1;
            return Err(SendError::Closing);
        }
        if let Err(error) = self.slots.accept_inline(self.peer, traffic, size) {
            self.refused += 1;
            return Err(error);
        }
        self.outbox.push_inline(self.now, message.priority, frame);
        self.accepted.add(traffic);
        Ok(())
    }

    /// The same for a peer to which nothing more is sent.
    pub(crate) fn closing(self, is_closing: bool) -> Self {
        Self { is_closing, ..self }
    }

    /// Answers that were refused because the BYE is due.
    pub(crate) fn unanswered(&self) -> u64 {
        self.unanswered
    }

    /// Turns to the next message.
    #[inline]
    pub(crate) fn turn_to(&mut self, message: &Frame<'_>) {
        self.message_type = message.message_type;
        self.correlation = message.correlation;
        self.checksum = message.checksum;
    }

    /// Answers refused since this was last asked.
    #[inline]
    pub(crate) fn take_refused(&mut self) -> u64 {
        std::mem::take(&mut self.refused)
    }

    /// All that was accepted.
    pub(crate) fn accepted(&self) -> Traffic {
        self.accepted
    }
}

impl fmt::Debug for Replier<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replier")
            .field("peer", &self.peer)
            .field("accepted", &self.accepted)
            .finish_non_exhaustive()
    }
}
