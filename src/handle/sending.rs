//! How a message gets from a caller to the outbox of a peer, or of many.

use std::time::Duration;

use bytes::Bytes;

use super::{Handle, OutgoingBatch, ReplyTo, Shard};
use crate::{
    error::SendError,
    frame::Frame,
    id::PeerId,
    limits::PAYLOAD_COPIED_MAX,
    outgoing::{Outgoing, Payload, Rejected},
    slots::{BroadcastReport, OutFrame, Recipients, SharedFrame, Slots},
};

impl Handle {
    /// Sends a message. Never waits for the peer.
    ///
    /// `Ok` means that it will be written, or counted as lost: with the reason of the close, or as
    /// dropped for a later message ([`OutboxFull::DropOldest`](crate::OutboxFull::DropOldest)).
    /// What is sent to a peer by one thread with one [`Priority`](crate::Priority) is written in
    /// that order. A borrowed payload is copied; an owned one above 4 KiB is not.
    ///
    /// # Errors
    ///
    /// [`Rejected`] gives the message back, with the [`SendError`].
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use nebnet::{MessageType, Outgoing, Priority};
    ///
    /// # use nebnet::{Handle, PeerId, SendError};
    /// # fn example(handle: Handle, peer: PeerId) -> Result<(), SendError> {
    /// handle.send(peer, (MessageType(7), "101.5"))?;
    /// let urgent = Outgoing::new(MessageType(8), "cancel").priority(Priority::High);
    /// handle.send(peer, urgent)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn send<'a>(
        &self,
        peer: PeerId,
        message: impl Into<Outgoing<'a>>,
    ) -> Result<(), Rejected<'a>> {
        let message = message.into();
        self.try_send(peer, &message)
            .map_err(|error| Rejected { error, message })
    }

    /// Sends a message, and waits for room in the outbox no longer than `timeout`. On the loop's
    /// own thread it does not wait, because no other thread could make the room.
    ///
    /// # Errors
    ///
    /// [`Rejected`] with [`SendError::Full`] or [`SendError::OverBudget`] if there was no room in
    /// time, or with another [`SendError`] at once.
    pub fn send_timeout<'a>(
        &self,
        peer: PeerId,
        message: impl Into<Outgoing<'a>>,
        timeout: Duration,
    ) -> Result<(), Rejected<'a>> {
        let message = message.into();
        let slots = self.shared.slots_of(peer);
        let started = self.shared.clock.elapsed();
        let mut waiting = false;
        let mut full;
        let error = loop {
            match self.try_send(peer, &message) {
                Ok(()) => break None,
                Err(error) if error.is_full() => full = error,
                Err(error) => break Some(error),
            }
            let waited = self.shared.clock.elapsed().saturating_sub(started);
            let Some(left) = timeout.checked_sub(waited).filter(|left| !left.is_zero()) else {
                break Some(full);
            };
            if waiting {
                // The budget may have room without a word from the peer's slot.
                Slots::park(left.min(Duration::from_millis(10)));
            }
            // First registered, then tried again, so that no notice is missed.
            waiting = slots.is_some_and(|slots| slots.wait_for_room(peer));
            if !waiting {
                break Some(full);
            }
        };
        if let Some(slots) = slots.filter(|_| waiting) {
            slots.forget_waiter(peer);
        }
        error.map_or(Ok(()), |error| Err(Rejected { error, message }))
    }

    /// Answers a message: the same peer, type and correlation, and a checksum if it had one.
    ///
    /// A peer that said BYE and still reads, and one that is being closed, are answered until our
    /// own BYE is due, when sends of other messages are refused as [`SendError::Closing`] already.
    /// Behind that an answer is refused as `Closing` too, and counted in
    /// [`ClosedRow::unanswered`](crate::ClosedRow::unanswered).
    ///
    /// # Errors
    ///
    /// [`Rejected`] gives the answer back as a message, with the [`SendError`].
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # fn example(mut questions: nebnet::Subscription, handle: nebnet::Handle) {
    /// for question in &mut questions {
    ///     if let Err(error) = handle.reply(&question, b"yes") {
    ///         eprintln!("no answer for {}: {error}", question.peer());
    ///     }
    /// }
    /// # }
    /// ```
    pub fn reply<'a>(
        &self,
        to: impl Into<ReplyTo>,
        payload: impl Into<Payload<'a>>,
    ) -> Result<(), Rejected<'a>> {
        let to = to.into();
        let message = to.answer(payload);
        self.try_reply(to.peer(), &message)
            .map_err(|error| Rejected { error, message })
    }

    /// Sends a message to many peers. Never waits for any of them.
    ///
    /// It is encoded once and shared by all that wait for nothing else: 10,000 peers cost one copy
    /// of the payload. Each peer is decided about as [`send`](Self::send) would; for who gets it,
    /// the same holds. The call takes the lock of one peer at a time.
    ///
    /// The report's lists are allocated once each, for as many peers as there are to choose from;
    /// with several [`shards`](crate::Config::shards), once more for each of them. A type that
    /// cannot be sent, or a payload above the service's own limit, is refused for each peer.
    ///
    /// # Examples
    ///
    /// What one peer says goes to all others:
    ///
    /// ```no_run
    /// use nebnet::Recipients;
    ///
    /// # fn example(mut messages: nebnet::Subscription, handle: nebnet::Handle) {
    /// for message in &mut messages {
    ///     let others = Recipients::AllBut(message.peer());
    ///     let report = handle.broadcast((message.message_type(), message.payload()), others);
    ///     for (peer, error) in report.skipped {
    ///         eprintln!("{peer} is left out: {error}");
    ///     }
    /// }
    /// # }
    /// ```
    ///
    /// To those who have little to read yet:
    ///
    /// ```no_run
    /// use nebnet::{MessageType, Outgoing, Priority, Recipients};
    ///
    /// # fn example(handle: nebnet::Handle) {
    /// let quote = Outgoing::new(MessageType(7), b"101.5").priority(Priority::Low);
    /// let idle = Recipients::Matching(&|peer| peer.queued.messages < 10);
    /// let report = handle.broadcast(quote, idle);
    /// println!("{} peers got it", report.sent.len());
    /// # }
    /// ```
    pub fn broadcast<'a, 'b>(
        &self,
        message: impl Into<Outgoing<'a>>,
        to: impl Into<Recipients<'b>>,
    ) -> BroadcastReport {
        let message = &message.into();
        let frame = self
            .check(message)
            .map(|()| SharedFrame::new(&self.frame_of(message), message.priority));
        let frame = frame.as_ref().map_err(|error| *error);
        let to = to.into();
        match &*self.shared.shards {
            [only] => only.slots.broadcast(frame, to),
            shards => broadcast_to_all(shards, frame, to),
        }
    }

    /// Sends all messages of a batch to one peer, or none: one lock for all of them. On success the
    /// batch is empty and can be filled again.
    ///
    /// With [`Config::checksums`](crate::Config::checksums) or [`ConnectOptions::checksums`],
    /// messages of the batch that have none are encoded anew, also if the batch is refused then; to
    /// spare that, make them with their checksums.
    ///
    /// # Errors
    ///
    /// See [`SendError`]; the batch has the same messages as before. A batch above the outbox's
    /// limits never fits. A batch of replies alone is refused as `Closing` when a
    /// [`reply`](Self::reply) would be, any other one when a [`send`](Self::send) would be.
    ///
    /// [`ConnectOptions::checksums`]: crate::ConnectOptions::checksums
    pub fn send_batch(&self, peer: PeerId, batch: &mut OutgoingBatch) -> Result<(), SendError> {
        let slots = self.shared.slots_of(peer);
        let slots = slots.ok_or(SendError::NotConnected)?;
        slots.send_batch(peer, batch.priority, &mut batch.frames)
    }

    pub(super) fn try_reply(&self, peer: PeerId, message: &Outgoing<'_>) -> Result<(), SendError> {
        let owned = self.payload_of(message)?;
        let frame = self.frame_of(message);
        let slots = self.shared.slots_of(peer);
        let slots = slots.ok_or(SendError::NotConnected)?;
        slots.send_reply(peer, OutFrame { frame, owned })
    }

    pub(super) fn try_send(&self, peer: PeerId, message: &Outgoing<'_>) -> Result<(), SendError> {
        let owned = self.payload_of(message)?;
        let frame = self.frame_of(message);
        let slots = self.shared.slots_of(peer);
        let slots = slots.ok_or(SendError::NotConnected)?;
        let priority = message.priority;
        slots.send_as(peer, priority, OutFrame { frame, owned })
    }

    /// The frame of a message, as this service sends it.
    pub(super) fn frame_of<'a>(&self, message: &'a Outgoing<'_>) -> Frame<'a> {
        self.shared.first().dress(message.frame())
    }

    /// Whether a message may be sent to anybody.
    pub(super) fn check(&self, message: &Outgoing<'_>) -> Result<(), SendError> {
        if message.message_type.is_protocol() {
            return Err(SendError::ReservedType(message.message_type));
        }
        let size = message.payload.as_slice().len();
        let limit = self.shared.first().limits().payload_size as usize;
        if size > limit {
            return Err(SendError::TooLarge { size, limit });
        }
        Ok(())
    }

    /// The payload of a message that may be sent, if it is to be queued without another copy.
    pub(super) fn payload_of(&self, message: &Outgoing<'_>) -> Result<Option<Bytes>, SendError> {
        self.check(message)?;
        Ok(match &message.payload {
            Payload::Owned(bytes) if bytes.len() > PAYLOAD_COPIED_MAX => Some(bytes.clone()),
            // Copied here rather than under the lock that other senders wait for.
            Payload::Borrowed(bytes) if bytes.len() > PAYLOAD_COPIED_MAX => {
                Some(Bytes::copy_from_slice(bytes))
            }
            // Short ones are copied behind their headers: no reference count for them.
            Payload::Owned(_) | Payload::Borrowed(_) => None,
        })
    }
}

/// Sends a frame to peers of all loops: of one after the other, or as a list has them.
fn broadcast_to_all(
    shards: &[Shard],
    frame: Result<&SharedFrame, SendError>,
    to: Recipients<'_>,
) -> BroadcastReport {
    let mut sum = BroadcastReport::default();
    let mut send = |slots: &Slots, to| {
        let report = slots.broadcast(frame, to);
        sum.sent.extend(report.sent);
        sum.skipped.extend(report.skipped);
    };
    match to {
        Recipients::List(peers) => {
            for run in peers.chunk_by(|one, next| one.shard() == next.shard()) {
                let shard = run.first().map_or(0, |peer| usize::from(peer.shard()));
                // Who is of no loop of ours is told so by the first.
                let shard = shards.get(shard).unwrap_or(&shards[0]);
                send(&shard.slots, Recipients::List(run));
            }
        }
        Recipients::All | Recipients::AllBut(_) | Recipients::Matching(_) => {
            for shard in shards {
                send(&shard.slots, to);
            }
        }
    }
    sum
}
