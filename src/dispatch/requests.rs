//! Our requests that wait for their answers.
//!
//! The table is the service's and not the slot's: an answer that still waits in the dispatch queue
//! when its connection has ended, and even when the slot belongs to another, finds its request by
//! the peer's id. It is spread over locks by that id, and no two loops share one. Whoever removes a
//! request from the table resolves it, so that each is resolved once: by its answer, its timeout,
//! the end of its connection or of the service, or by being given up.
//!
//! Apart from giving up, all of these happen where messages are dispatched. The loop says that time
//! is over or that a connection has ended by a [`Notice`], which travels behind everything that was
//! read of the peer before; so an answer that was read in time always wins.
//!
//! Invariants:
//! - `reserved` is the number of requests in the tables, of those that are about to be put there,
//!   and of those that are about to be told; it never exceeds the limit
//! - the counts of a shard balance whenever its lock is free
//! - per peer, `deadlines <= 2 * requests + HEAP_SLACK`
//! - after the end nothing is added

mod table;

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hasher, RandomState},
    sync::{Arc, PoisonError, TryLockError, Weak},
};

use super::replies::{ReplyQueue, Waiter};

use crate::{
    block::Message,
    clock::Tick,
    error::{CloseReason, RequestError},
    id::{MessageType, PeerId, RequestId},
    ledger::RequestRow,
    limits::{REQUEST_SHARDS, REQUESTS_EXPIRED_PER_LOOK},
    slots::Contended,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
};

#[cfg(test)]
use table::HEAP_SLACK;
pub(crate) use table::Request;
use table::Table;

/// What the loop tells the dispatcher about requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    /// Requests of the peer may have waited long enough.
    Expire { peer: PeerId, tick: Tick },
    /// The connection has ended, and nothing of it comes behind this.
    Closed { peer: PeerId, reason: CloseReason },
}

/// All requests of a service.
#[derive(Debug)]
pub(crate) struct Requests {
    /// Upper half of the correlation numbers of all our requests; never zero.
    tag: u32,
    sequence: AtomicU32,
    /// A request was made, ever: from then on, messages with our tag are answers.
    used: AtomicBool,
    limit: usize,
    /// Places taken of the limit.
    reserved: AtomicUsize,
    shards: Box<[Mutex<Shard>]>,
    queues: Mutex<Queues>,
    late: AtomicU64,
}

/// The requests of some peers.
#[derive(Debug, Default)]
struct Shard {
    peers: HashMap<PeerId, Table>,
    /// What became of them, counted with every change of the tables; a question that is being sent
    /// counts as sent.
    counts: RequestRow,
    /// The service has ended.
    ended: bool,
}

/// The queues that answers go to.
#[derive(Debug, Default)]
struct Queues {
    list: Vec<Weak<ReplyQueue>>,
    ended: bool,
}

/// A message that carries our tag, and the request that it answers, if there is one.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Where its frame begins in the block.
    pub(crate) at: u32,
    pub(crate) id: RequestId,
    pub(crate) message_type: MessageType,
    pub(crate) request: Option<Request>,
}

impl Requests {
    /// Those of a service with one shard.
    #[cfg(any(test, feature = "workbench"))]
    pub(crate) fn new(limit: usize) -> Self {
        Self::for_shards(limit, 1)
    }

    pub(crate) fn for_shards(limit: usize, shards: u8) -> Self {
        Self {
            tag: draw_tag(),
            sequence: AtomicU32::new(0),
            used: AtomicBool::new(false),
            limit,
            reserved: AtomicUsize::new(0),
            shards: (0..REQUEST_SHARDS * usize::from(shards))
                .map(|_| Mutex::default())
                .collect(),
            queues: Mutex::default(),
            late: AtomicU64::new(0),
        }
    }

    /// The tag of answers, once there may be any. A request sets it before its question can be
    /// sent, so the thread that dispatches the answer sees it.
    #[inline]
    pub(crate) fn answer_tag(&self) -> Option<u32> {
        self.used.load(Ordering::Relaxed).then_some(self.tag)
    }

    // ----- asking ----------------------------------------------------------------------------

    /// Lets a request wait for its answer, before its question is sent. To be followed by
    /// [`refuse`](Self::refuse) if it could not be.
    pub(crate) fn add(
        &self,
        peer: PeerId,
        message_type: MessageType,
        deadline: Tick,
        waiter: Waiter,
    ) -> Result<RequestId, RequestError> {
        let one_more = |count: usize| (count < self.limit).then_some(count + 1);
        let reserved = self
            .reserved
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        if reserved.is_err() {
            return Err(RequestError::TooMany { limit: self.limit });
        }
        self.used.store(true, Ordering::Relaxed);
        let mut shard = self.lock(peer);
        if shard.ended {
            self.reserved.fetch_sub(1, Ordering::Relaxed);
            return Err(RequestError::Stopped);
        }
        let table = shard.peers.entry(peer).or_default();
        // After 2^32 requests the numbers come again, and a request may have waited all the time.
        let id = loop {
            let number = self.sequence.fetch_add(1, Ordering::Relaxed);
            let id = RequestId(u64::from(self.tag) << 32 | u64::from(number));
            if !table.requests.contains_key(&id) {
                break id;
            }
        };
        let request = Request {
            message_type,
            deadline,
            waiter,
        };
        table.insert(id, request);
        shard.counts.sent += 1;
        shard.counts.outstanding += 1;
        Ok(id)
    }

    /// The question was not accepted. False if the request was resolved already, by the end of its
    /// connection or of the service: then it counts as sent.
    #[must_use]
    pub(crate) fn refuse(&self, peer: PeerId, id: RequestId) -> bool {
        let mut shard = self.lock(peer);
        let Some(table) = shard.peers.get_mut(&peer) else {
            return false;
        };
        let request = table.take(id);
        // Nothing may ever tell of the end of this connection: perhaps it never was.
        if table.requests.is_empty() {
            shard.peers.remove(&peer);
        }
        if request.is_some() {
            shard.counts.sent -= 1;
            shard.counts.outstanding -= 1;
            self.reserved.fetch_sub(1, Ordering::Relaxed);
        }
        request.is_some()
    }

    /// Gives a request up. False if it was resolved already. The loop's own thread leaves a
    /// request whose lock is taken to its timeout.
    pub(crate) fn cancel(&self, peer: PeerId, id: RequestId, may_wait: bool) -> bool {
        let Ok(mut shard) = self.lock_if(peer, may_wait) else {
            return false;
        };
        let table = shard.peers.get_mut(&peer);
        let request = table.and_then(|table| table.take(id));
        if request.is_some() {
            shard.counts.resolve(1).cancelled += 1;
            self.reserved.fetch_sub(1, Ordering::Relaxed);
        }
        // What it holds is not to be dropped under the lock.
        drop(shard);
        request.is_some()
    }

    /// Makes a queue find its end when the service ends.
    pub(crate) fn add_queue(&self, queue: &Arc<ReplyQueue>) {
        let mut queues = lock(&self.queues);
        if queues.ended {
            drop(queue.take_sender());
        } else {
            queues.list.push(Arc::downgrade(queue));
        }
    }

    pub(crate) fn remove_queue(&self, queue: &Arc<ReplyQueue>) {
        let gone = Arc::as_ptr(queue);
        let mut queues = lock(&self.queues);
        queues.list.retain(|one| !std::ptr::eq(one.as_ptr(), gone));
    }

    /// The sum over all locks, each of which is taken for a moment. It balances at any time,
    /// because every part of it does.
    pub(crate) fn row(&self) -> RequestRow {
        let mut row = self.late_row();
        for shard in &self.shards {
            row.add(&lock(shard).counts);
        }
        row
    }

    fn late_row(&self) -> RequestRow {
        RequestRow {
            late: self.late.load(Ordering::Relaxed),
            ..RequestRow::default()
        }
    }

    // ----- dispatching -----------------------------------------------------------------------

    /// As [`row`](Self::row), where a lock may be taken that must not be waited for.
    pub(crate) fn row_if(&self, may_wait: bool) -> Result<RequestRow, Contended> {
        let mut row = self.late_row();
        for shard in &self.shards {
            row.add(&lock_if(shard, may_wait)?.counts);
        }
        Ok(row)
    }

    /// Takes the requests that are answered out of the table, under one lock for all of a block.
    pub(crate) fn claim(
        &self,
        peer: PeerId,
        answers: &mut [Answer],
        may_wait: bool,
    ) -> Result<(), Contended> {
        let mut shard = self.lock_if(peer, may_wait)?;
        if let Some(table) = shard.peers.get_mut(&peer) {
            let mut answered = 0;
            for answer in answers {
                answer.request = table.answer(answer.id, answer.message_type);
                answered += u64::from(answer.request.is_some());
            }
            shard.counts.resolve(answered).answered += answered;
        }
        Ok(())
    }

    /// Resolves the requests of a peer whose time is over, a bounded number of them. Returns the
    /// next deadline, which may have passed.
    pub(crate) fn expire(
        &self,
        peer: PeerId,
        tick: Tick,
        may_wait: bool,
    ) -> Result<Option<Tick>, Contended> {
        let mut shard = self.lock_if(peer, may_wait)?;
        let Some(table) = shard.peers.get_mut(&peer) else {
            return Ok(None);
        };
        let expired: Vec<(RequestId, Request)> = std::iter::from_fn(|| table.pop_expired(tick))
            .take(REQUESTS_EXPIRED_PER_LOOK)
            .collect();
        let next = table.next_deadline();
        let count = expired.len() as u64;
        shard.counts.resolve(count).timed_out += count;
        drop(shard);
        for (id, request) in expired {
            self.resolve(peer, id, request, Err(RequestError::Timeout));
        }
        Ok(next)
    }

    /// Resolves all requests of a peer whose connection has ended.
    pub(crate) fn close_peer(
        &self,
        peer: PeerId,
        reason: CloseReason,
        may_wait: bool,
    ) -> Result<(), Contended> {
        let mut shard = self.lock_if(peer, may_wait)?;
        let table = shard.peers.remove(&peer);
        if let Some(table) = table {
            let count = table.requests.len() as u64;
            shard.counts.resolve(count).closed += count;
            drop(shard);
            self.resolve_all(peer, table, RequestError::Closed(reason));
        }
        Ok(())
    }

    /// The service has ended: nothing waits any more, and nothing will.
    pub(crate) fn end(&self) {
        for shard in &self.shards {
            let mut shard = lock(shard);
            shard.ended = true;
            let peers = std::mem::take(&mut shard.peers);
            let tables = peers.values();
            let count = tables.map(|table| table.requests.len() as u64).sum();
            shard.counts.resolve(count).closed += count;
            drop(shard);
            for (peer, table) in peers {
                self.resolve_all(peer, table, RequestError::Stopped);
            }
        }
        let mut queues = lock(&self.queues);
        queues.ended = true;
        let list = std::mem::take(&mut queues.list);
        drop(queues);
        for queue in list.iter().filter_map(Weak::upgrade) {
            drop(queue.take_sender());
        }
    }

    /// Tells the thread that asked. It was counted when it was taken out of the table, so they see
    /// that.
    pub(crate) fn resolve(
        &self,
        peer: PeerId,
        id: RequestId,
        request: Request,
        result: Result<Message, RequestError>,
    ) {
        self.reserved.fetch_sub(1, Ordering::Relaxed);
        request.waiter.tell(id, peer, result);
    }

    pub(crate) fn note_late(&self, count: u64) {
        self.late.fetch_add(count, Ordering::Relaxed);
    }

    /// In the order in which they were asked.
    fn resolve_all(&self, peer: PeerId, table: Table, error: RequestError) {
        let mut requests: Vec<_> = table.requests.into_iter().collect();
        requests.sort_unstable_by_key(|(id, _)| *id);
        for (id, request) in requests {
            self.resolve(peer, id, request, Err(error));
        }
    }

    fn shard(&self, peer: PeerId) -> &Mutex<Shard> {
        let own = peer.index() as usize % REQUEST_SHARDS;
        // No id of ours has a loop that we have not.
        &self.shards[(usize::from(peer.shard()) * REQUEST_SHARDS + own) % self.shards.len()]
    }

    fn lock(&self, peer: PeerId) -> MutexGuard<'_, Shard> {
        lock(self.shard(peer))
    }

    fn lock_if(&self, peer: PeerId, may_wait: bool) -> Result<MutexGuard<'_, Shard>, Contended> {
        lock_if(self.shard(peer), may_wait)
    }
}

#[cfg(test)]
impl Requests {
    /// Does something while a thread holds the lock of a peer's requests.
    pub(crate) fn with_lock<T>(&self, peer: PeerId, act: impl FnOnce() -> T) -> T {
        let locked = self.lock(peer);
        let result = act();
        drop(locked);
        result
    }

    pub(crate) fn set_sequence(&self, number: u32) {
        self.sequence.store(number, Ordering::Relaxed);
    }

    /// Panics unless the invariants hold while no other thread does anything.
    #[track_caller]
    pub(crate) fn check(&self) {
        let mut outstanding = 0;
        for shard in &self.shards {
            for table in lock(shard).peers.values() {
                let (requests, deadlines) = (table.requests.len(), table.deadlines.len());
                assert!(deadlines <= 2 * requests + HEAP_SLACK);
                outstanding += requests as u64;
            }
        }
        let row = self.row();
        assert_eq!(row.outstanding, outstanding, "{row:?}");
        let sum = row.answered + row.timed_out + row.closed + row.cancelled + outstanding;
        assert_eq!(row.sent, sum, "{row:?}");
    }
}

/// Whether a message with this correlation number is an answer to a request of this tag.
#[inline]
pub(crate) fn is_answer(correlation: Option<u64>, tag: u32) -> bool {
    correlation.is_some_and(|number| number >> 32 == u64::from(tag))
}

/// The one change under the lock that can fail in between is an allocation, which aborts.
fn lock_if<T>(mutex: &Mutex<T>, may_wait: bool) -> Result<MutexGuard<'_, T>, Contended> {
    match mutex.try_lock() {
        Ok(guard) => Ok(guard),
        Err(TryLockError::Poisoned(poisoned)) => Ok(poisoned.into_inner()),
        Err(TryLockError::WouldBlock) if may_wait => Ok(lock(mutex)),
        Err(TryLockError::WouldBlock) => Err(Contended),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A number that two services hardly share, so that one cannot take the other's questions for
/// answers. It is no secret.
fn draw_tag() -> u32 {
    let drawn = RandomState::new().build_hasher().finish();
    let [a, b, c, d, ..] = drawn.to_ne_bytes();
    u32::from_ne_bytes([a, b, c, d]).max(1)
}
