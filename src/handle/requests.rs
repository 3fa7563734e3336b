//! Questions to peers, and where their answers go.

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use super::Handle;
use crate::{
    clock::{Tick, ticks_of_timeout},
    dispatch::{PendingReply, Replies, Waiter},
    error::{RequestError, SendError},
    id::{PeerId, RequestId},
    limits::TIMEOUT_MS_CEILING,
    outgoing::{Outgoing, Rejected},
    slots::{OutFrame, never_waits},
};

impl Handle {
    /// Sends a message and gives the right to its answer: a message of the same peer and type that
    /// repeats the correlation number, as [`reply`](Self::reply) makes it. Never waits for the
    /// peer.
    ///
    /// Subscribers do not get the answer, and neither does anybody if it comes too late. From the
    /// first request on, that is so for every message whose correlation number has the upper half
    /// that this service has drawn for its requests: it is an answer, and never a question.
    ///
    /// A peer that half-closes, or is being closed, may be asked until its connection ends; its
    /// answers count as long as they are read.
    ///
    /// A correlation number of the message's own gives way to the request's.
    ///
    /// # Errors
    ///
    /// [`Rejected`] gives the message back, with [`RequestError::Send`], [`RequestError::TooMany`],
    /// [`RequestError::BadTimeout`] if `timeout` is zero or above 365 days, or
    /// [`RequestError::Stopped`]. Nothing was sent.
    ///
    /// # Examples
    ///
    /// ```
    /// use nebnet::{Client, Config, MessageType, NetService};
    /// use std::time::Duration;
    ///
    /// let mut service = NetService::new(Config::default().listen("127.0.0.1:0".parse()?))?;
    /// service.start()?;
    /// let mut client = Client::connect(service.local_addrs()[0])?;
    /// let peer = service.handle().peers()?[0].peer;
    ///
    /// let handle = service.handle();
    /// let pending = handle.request(peer, (MessageType(7), "2 + 2"), Duration::from_secs(5))?;
    /// // The answer has the question's correlation number.
    /// let question = client.recv()?;
    /// client.reply(&question, "4")?;
    /// assert_eq!(pending.recv()?.payload(), b"4");
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn request<'a>(
        &self,
        peer: PeerId,
        message: impl Into<Outgoing<'a>>,
        timeout: Duration,
    ) -> Result<PendingReply, Rejected<'a, RequestError>> {
        let message = message.into();
        let (waiter, receiver) = PendingReply::channel();
        match self.ask_peer(peer, &message, timeout, || Ok(waiter)) {
            Ok(id) => {
                let requests = Arc::clone(&self.shared.registry.requests);
                Ok(PendingReply::new(peer, id, receiver, requests))
            }
            Err(error) => Err(Rejected { error, message }),
        }
    }

    /// A queue that takes the answers to at most `capacity` requests at a time: 1 to 2^22, another
    /// number is taken as the nearest of these.
    #[must_use]
    pub fn replies(&self, capacity: usize) -> Replies {
        Replies::new(capacity, Arc::clone(&self.shared.registry.requests))
    }

    /// As [`request`](Self::request), but the answer goes to a queue, with the id
    /// that is returned.
    ///
    /// # Errors
    ///
    /// As [`request`](Self::request); [`RequestError::TooMany`] also when the queue has no free
    /// place.
    pub fn request_to<'a>(
        &self,
        replies: &Replies,
        peer: PeerId,
        message: impl Into<Outgoing<'a>>,
        timeout: Duration,
    ) -> Result<RequestId, Rejected<'a, RequestError>> {
        let message = message.into();
        self.ask_peer(peer, &message, timeout, || replies.reserve())
            .map_err(|error| Rejected { error, message })
    }

    /// Gives up a request that [`request_to`](Self::request_to) made: its queue will hear nothing
    /// of it. False if it was resolved already.
    #[must_use = "false says that the request was resolved"]
    pub fn cancel(&self, peer: PeerId, request: RequestId) -> bool {
        let requests = &self.shared.registry.requests;
        requests.cancel(peer, request, !never_waits())
    }

    fn ask_peer(
        &self,
        peer: PeerId,
        message: &Outgoing<'_>,
        timeout: Duration,
        waiter: impl FnOnce() -> Result<Waiter, RequestError>,
    ) -> Result<RequestId, RequestError> {
        let deadline = self.deadline(timeout)?;
        let waiter = waiter()?;
        let requests = &self.shared.registry.requests;
        let (owned, priority) = (self.payload_of(message)?, message.priority);
        // First added, then sent: the answer may be here before the send returns.
        let id = requests.add(peer, message.message_type, deadline, waiter)?;
        let frame = self.frame_of(message).with_correlation(id.correlation());
        let message = OutFrame { frame, owned };
        let slots = self.shared.slots_of(peer);
        let sent = slots
            .ok_or(SendError::NotConnected)
            .and_then(|slots| slots.send_question(peer, priority, message, deadline));
        match sent {
            // The end of the connection may have resolved it in between; then that is its result.
            Err(error) if requests.refuse(peer, id) => Err(error.into()),
            Ok(()) | Err(_) => Ok(id),
        }
    }

    /// The first tick at which `timeout` has certainly passed.
    fn deadline(&self, timeout: Duration) -> Result<Tick, RequestError> {
        let ticks = ticks_of_timeout(timeout);
        if ticks == 0 || ticks > TIMEOUT_MS_CEILING {
            return Err(RequestError::BadTimeout { timeout });
        }
        Ok(self.shared.clock.now().tick + ticks + 1)
    }
}
