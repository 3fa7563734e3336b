//! Where threads that asked wait for the answer.

use std::{
    fmt,
    sync::{Arc, PoisonError},
    time::Duration,
};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::requests::Requests;
use crate::{
    block::Message,
    error::{RecvError, RecvTimeoutError, RequestError, TryRecvError},
    id::{PeerId, RequestId},
    limits::REQUESTS_MAX_CEILING,
    slots::never_waits,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
        counted_unmodelled,
    },
    threads::is_dispatcher,
};

/// Where the result of a request goes.
#[derive(Debug)]
pub(crate) enum Waiter {
    /// To its [`PendingReply`], which has a place for it.
    One(Sender<Result<Message, RequestError>>),
    /// To a [`Replies`], which has a place for it.
    Queue(Sender<Reply>, QueuePlace),
}

impl Waiter {
    pub(crate) fn tell(
        self,
        request: RequestId,
        peer: PeerId,
        result: Result<Message, RequestError>,
    ) {
        // A receiver that is gone does not want to know; none is ever full.
        match self {
            Self::One(sender) => drop(sender.try_send(result)),
            Self::Queue(sender, place) => {
                let sent = sender.try_send(Reply {
                    request,
                    peer,
                    result,
                });
                debug_assert!(
                    !sent.is_err_and(|error| error.is_full()),
                    "the queue has a place for every request"
                );
                drop(place);
            }
        }
    }
}

/// A request that was sent, and the right to its answer. Dropping it gives the request up: an
/// answer that comes all the same is dropped and counted.
///
/// The request is resolved once: by the answer, its timeout, the end of the connection, or the end
/// of the service. It takes about 1 KiB until it is dropped. An answer above 1 KiB pins the storage
/// of the read that it came in, and with it credit of its peer, as every [`Message`] does.
///
/// # Examples
///
/// ```no_run
/// # fn example(handle: nebnet::Handle, peer: nebnet::PeerId) -> Result<(), nebnet::RequestError> {
/// use nebnet::MessageType;
/// use std::time::Duration;
///
/// let pending = handle.request(peer, (MessageType(7), b"what?"), Duration::from_secs(1))?;
/// // Do something else meanwhile.
/// let answer = pending.recv()?;
/// println!("{:?}", answer.payload());
/// # Ok(())
/// # }
/// ```
pub struct PendingReply {
    peer: PeerId,
    id: RequestId,
    receiver: Receiver<Result<Message, RequestError>>,
    requests: Arc<Requests>,
    /// Nothing is left to give up.
    resolved: bool,
}

impl PendingReply {
    /// The waiter of a request, and the channel that it tells the result through.
    pub(crate) fn channel() -> (Waiter, Receiver<Result<Message, RequestError>>) {
        let (sender, receiver) = bounded(1);
        (Waiter::One(sender), receiver)
    }

    pub(crate) fn new(
        peer: PeerId,
        id: RequestId,
        receiver: Receiver<Result<Message, RequestError>>,
        requests: Arc<Requests>,
    ) -> Self {
        Self {
            peer,
            id,
            receiver,
            requests,
            resolved: false,
        }
    }

    /// The answer; waits for it, never longer than the request's timeout and a little.
    ///
    /// On a thread of a service (in an inline handler or a metrics callback) it does not wait,
    /// because that thread may be the one that brings the answer: what is not there counts as
    /// [`RequestError::Timeout`].
    ///
    /// # Errors
    ///
    /// [`RequestError::Timeout`], [`RequestError::Closed`] or [`RequestError::Stopped`], for which
    /// there will be no answer; [`RequestError::Taken`] if the result was taken before, or if the
    /// request was given up with [`Handle::cancel`](crate::Handle::cancel).
    pub fn recv(mut self) -> Result<Message, RequestError> {
        if never_waits() || is_dispatcher() {
            return self.try_recv()?.ok_or(RequestError::Timeout);
        }
        let result = self.receiver.recv();
        self.resolved = true;
        result.unwrap_or(Err(RequestError::Taken))
    }

    /// The answer, if the request is resolved; `Ok(None)` while it is not.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv), once the request is resolved.
    pub fn try_recv(&self) -> Result<Option<Message>, RequestError> {
        match self.receiver.try_recv() {
            Ok(result) => result.map(Some),
            Err(crossbeam_channel::TryRecvError::Empty) => Ok(None),
            Err(crossbeam_channel::TryRecvError::Disconnected) => Err(RequestError::Taken),
        }
    }

    /// The answer; waits for it no longer than `timeout`, and not at all on a thread of a service.
    /// `Ok(None)` if the request is not resolved by then.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv), once the request is resolved.
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Option<Message>, RequestError> {
        if never_waits() || is_dispatcher() {
            return self.try_recv();
        }
        match self.receiver.recv_timeout(timeout) {
            Ok(result) => result.map(Some),
            Err(crossbeam_channel::RecvTimeoutError::Timeout) => Ok(None),
            Err(crossbeam_channel::RecvTimeoutError::Disconnected) => Err(RequestError::Taken),
        }
    }

    /// The channel behind it, for crossbeam's `select!`: yields the result once, and is then
    /// disconnected.
    #[must_use]
    pub fn receiver(&self) -> &Receiver<Result<Message, RequestError>> {
        &self.receiver
    }

    /// The request.
    #[must_use]
    pub fn id(&self) -> RequestId {
        self.id
    }

    /// The peer that was asked.
    #[must_use]
    pub fn peer(&self) -> PeerId {
        self.peer
    }
}

impl Drop for PendingReply {
    fn drop(&mut self) {
        if !self.resolved && self.receiver.is_empty() {
            self.requests.cancel(self.peer, self.id, !never_waits());
        }
    }
}

impl fmt::Debug for PendingReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingReply")
            .field("peer", &self.peer)
            .field("id", &self.id)
            .field("resolved", &!self.receiver.is_empty())
            .finish_non_exhaustive()
    }
}

/// What became of a request of a [`Replies`] queue.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The request.
    pub request: RequestId,
    /// The peer that was asked.
    pub peer: PeerId,
    /// The answer, or why there will be none: [`RequestError::Timeout`], [`RequestError::Closed`]
    /// or [`RequestError::Stopped`].
    pub result: Result<Message, RequestError>,
}

/// A queue for the answers to many requests, made by [`Handle::replies`](crate::Handle::replies).
///
/// It has a place for each request from the moment it is sent until its result is taken; without
/// a free place a request is refused. So it is never full, and nothing is lost in it. Each result
/// takes about 150 bytes while it is there. Dropping it lets the requests that are outstanding run
/// to their ends unseen; [`Handle::cancel`](crate::Handle::cancel) gives one up.
///
/// # Examples
///
/// ```no_run
/// # fn example(handle: nebnet::Handle, peers: &[nebnet::PeerId])
/// # -> Result<(), Box<dyn std::error::Error>> {
/// use nebnet::MessageType;
/// use std::time::Duration;
///
/// let replies = handle.replies(1_000);
/// for peer in peers {
///     let question = (MessageType(7), "what?");
///     handle.request_to(&replies, *peer, question, Duration::from_secs(1))?;
/// }
/// for _ in peers {
///     let reply = replies.recv()?;
///     match reply.result {
///         Ok(answer) => println!("{}: {:?}", reply.peer, answer.payload()),
///         Err(error) => println!("{}: {error}", reply.peer),
///     }
/// }
/// # Ok(())
/// # }
/// ```
pub struct Replies {
    queue: Arc<ReplyQueue>,
    receiver: Receiver<Reply>,
    requests: Arc<Requests>,
}

/// What a queue shares with the requests that are outstanding on it.
#[derive(Debug)]
pub(crate) struct ReplyQueue {
    /// Gone when the service has ended, so that the queue finds its end.
    sender: Mutex<Option<Sender<Reply>>>,
    capacity: usize,
    /// Requests that are not resolved.
    outstanding: Arc<AtomicUsize>,
}

impl ReplyQueue {
    pub(crate) fn take_sender(&self) -> Option<Sender<Reply>> {
        let mut sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        sender.take()
    }
}

/// A request's place in a queue, until it is resolved.
#[derive(Debug)]
pub(crate) struct QueuePlace(Arc<AtomicUsize>);

impl Drop for QueuePlace {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Replies {
    pub(crate) fn new(capacity: usize, requests: Arc<Requests>) -> Self {
        let capacity = capacity.clamp(1, REQUESTS_MAX_CEILING);
        let (sender, receiver) = counted_unmodelled();
        let queue = Arc::new(ReplyQueue {
            sender: Mutex::new(Some(sender)),
            capacity,
            outstanding: Arc::default(),
        });
        requests.add_queue(&queue);
        Self {
            queue,
            receiver,
            requests,
        }
    }

    /// A place for a request.
    ///
    /// A result goes into the channel before its request gives up being outstanding, so what is
    /// counted here is never too little: outstanding first, then what waits in the channel.
    pub(crate) fn reserve(&self) -> Result<Waiter, RequestError> {
        let queue = &self.queue;
        let outstanding = queue.outstanding.fetch_add(1, Ordering::SeqCst) + 1;
        let place = QueuePlace(Arc::clone(&queue.outstanding));
        if outstanding + self.receiver.len() > queue.capacity {
            return Err(RequestError::TooMany {
                limit: queue.capacity,
            });
        }
        let sender = queue.sender.lock().unwrap_or_else(PoisonError::into_inner);
        let sender = sender.clone().ok_or(RequestError::Stopped)?;
        Ok(Waiter::Queue(sender, place))
    }

    /// The next result; waits for it, for ever if nothing is outstanding. Not on the loop's own
    /// thread, please: no other could bring an answer.
    ///
    /// # Errors
    ///
    /// [`RecvError`] once the service has stopped and everything was taken.
    pub fn recv(&self) -> Result<Reply, RecvError> {
        self.receiver.recv().map_err(|_| RecvError)
    }

    /// The next result, if there is one.
    ///
    /// # Errors
    ///
    /// [`TryRecvError::Empty`] if there is none now, [`TryRecvError::Disconnected`] as for
    /// [`recv`](Self::recv).
    pub fn try_recv(&self) -> Result<Reply, TryRecvError> {
        self.receiver.try_recv().map_err(|error| match error {
            crossbeam_channel::TryRecvError::Empty => TryRecvError::Empty,
            crossbeam_channel::TryRecvError::Disconnected => TryRecvError::Disconnected,
        })
    }

    /// The next result; waits for it no longer than `timeout`.
    ///
    /// # Errors
    ///
    /// [`RecvTimeoutError::Timeout`] if none came, [`RecvTimeoutError::Disconnected`] as for
    /// [`recv`](Self::recv).
    pub fn recv_timeout(&self, timeout: Duration) -> Result<Reply, RecvTimeoutError> {
        self.receiver
            .recv_timeout(timeout)
            .map_err(|error| match error {
                crossbeam_channel::RecvTimeoutError::Timeout => RecvTimeoutError::Timeout,
                crossbeam_channel::RecvTimeoutError::Disconnected => RecvTimeoutError::Disconnected,
            })
    }

    /// The channel behind the queue, for crossbeam's `select!`.
    #[must_use]
    pub fn receiver(&self) -> &Receiver<Reply> {
        &self.receiver
    }

    /// Requests that are not resolved yet.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.queue.outstanding.load(Ordering::SeqCst)
    }
}

impl Drop for Replies {
    fn drop(&mut self) {
        self.requests.remove_queue(&self.queue);
    }
}

impl fmt::Debug for Replies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replies")
            .field("capacity", &self.queue.capacity)
            .field("outstanding", &self.outstanding())
            .field("waiting", &self.receiver.len())
            .finish_non_exhaustive()
    }
}

/// Both go to any thread.
const _: () = {
    const fn is_send_and_sync<T: Send + Sync>() {}
    is_send_and_sync::<PendingReply>();
    is_send_and_sync::<Replies>();
};
