//! The connections of a service, as far as its limits count them, whichever loop they are with.
//!
//! Looked at when a connection comes and when it ends. The numbers are atomics; origins stand
//! behind a mutex that only loops take, each for one step in the map. It is one of the two locks
//! that a loop waits for; the other is the [registry](super::node_registry) of nodes.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use super::{connection::Origin, losses::LossLines};
use crate::{config::Config, error::CloseReason};

/// What a peer's table is bounded by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PeerLimits {
    pub(crate) peers: usize,
    /// Zero is no limit.
    pub(crate) peers_per_origin: usize,
    /// Connections that have not sent what is due first; zero is no limit.
    pub(crate) pending: usize,
}

impl PeerLimits {
    pub(crate) fn of(config: &Config) -> Self {
        Self {
            peers: config.max_peers,
            peers_per_origin: config.max_peers_per_addr,
            pending: config.max_pending,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Census {
    peers_max: AtomicUsize,
    /// Zero is no limit, of this and of the next.
    per_origin_max: AtomicUsize,
    pending_max: AtomicUsize,
    /// Connections: those that were not refused, and not those that we are still making.
    counted: AtomicUsize,
    /// Those among them that came to us.
    accepted: AtomicUsize,
    /// Those among them that owe us their first frame, or HELLO.
    pending: AtomicUsize,
    /// Those that came to us, by where they came from. Limited or not, since a limit may come while
    /// they are there.
    origins: Mutex<HashMap<Origin, usize>>,
    /// Lines of the log about losses.
    pub(super) loss_lines: Arc<LossLines>,
}

impl Census {
    pub(crate) fn new(limits: PeerLimits) -> Self {
        let PeerLimits {
            peers,
            peers_per_origin,
            pending,
        } = limits;
        Self {
            peers_max: peers.into(),
            per_origin_max: peers_per_origin.into(),
            pending_max: pending.into(),
            counted: AtomicUsize::new(0),
            accepted: AtomicUsize::new(0),
            pending: AtomicUsize::new(0),
            origins: Mutex::default(),
            loss_lines: Arc::default(),
        }
    }

    /// Connections that are there beyond the new limits stay.
    pub(super) fn set_limits(&self, limits: PeerLimits) {
        self.peers_max.store(limits.peers, Ordering::Relaxed);
        let per_origin = limits.peers_per_origin;
        self.per_origin_max.store(per_origin, Ordering::Relaxed);
        self.pending_max.store(limits.pending, Ordering::Relaxed);
    }

    /// Takes a place for a connection that came to us, or says why there is none. With `is_due` it
    /// is pending.
    pub(super) fn take_place(&self, addr: SocketAddr, is_due: bool) -> Result<(), CloseReason> {
        let [peers, per_origin, pending] =
            [&self.peers_max, &self.per_origin_max, &self.pending_max]
                .map(|limit| limit.load(Ordering::Relaxed));
        // Nobody is let in while there are too many that say nothing, whether it is due or not.
        let pending_max = if pending > 0 { pending } else { usize::MAX };
        let crowded = if is_due {
            !take_below(&self.pending, pending_max)
        } else {
            self.pending.load(Ordering::Relaxed) >= pending_max
        };
        if crowded {
            return Err(CloseReason::TooManyPeers);
        }
        let taken = if !take_below(&self.accepted, peers) {
            Err(CloseReason::TooManyPeers)
        } else if !self.take_origin(addr, per_origin) {
            self.accepted.fetch_sub(1, Ordering::Relaxed);
            Err(CloseReason::TooManyPerAddress)
        } else {
            self.add_counted();
            Ok(())
        };
        if taken.is_err() && is_due {
            self.end_pending();
        }
        taken
    }

    fn take_origin(&self, addr: SocketAddr, limit: usize) -> bool {
        let mut origins = self.lock();
        let count = origins.entry(Origin::of(addr)).or_default();
        let has_room = limit == 0 || *count < limit;
        *count += usize::from(has_room);
        has_room
    }

    /// A connection that had a place has ended.
    pub(super) fn give_place(&self, addr: SocketAddr) {
        self.remove_counted();
        self.accepted.fetch_sub(1, Ordering::Relaxed);
        let origin = Origin::of(addr);
        let mut origins = self.lock();
        if let Some(count) = origins.get_mut(&origin) {
            *count -= 1;
            if *count == 0 {
                origins.remove(&origin);
            }
        }
    }

    /// A connection is not pending any more.
    pub(super) fn end_pending(&self) {
        self.pending.fetch_sub(1, Ordering::Relaxed);
    }

    /// A connection that we make was made.
    pub(super) fn add_counted(&self) {
        self.counted.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection that we made has ended.
    pub(super) fn remove_counted(&self) {
        self.counted.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn counted(&self) -> usize {
        self.counted.load(Ordering::Relaxed)
    }

    /// The one change under the lock that can fail in between is an allocation, which aborts.
    fn lock(&self) -> MutexGuard<'_, HashMap<Origin, usize>> {
        self.origins.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds one if that does not pass the limit.
fn take_below(count: &AtomicUsize, limit: usize) -> bool {
    let one_more = |count: usize| (count < limit).then_some(count + 1);
    count
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more)
        .is_ok()
}

#[cfg(test)]
impl Census {
    pub(super) fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    pub(super) fn pending(&self) -> usize {
        self.pending.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_share_the_limits() {
        let limits = PeerLimits {
            peers: 50,
            peers_per_origin: 20,
            pending: 30,
        };
        let census = Census::new(limits);
        let from = |last: u8| SocketAddr::from(([10, 0, 0, last], 1));
        let come = |is_due| {
            let come = || {
                let mut held = Vec::new();
                for last in (0..4).cycle().take(100) {
                    if census.take_place(from(last), is_due).is_ok() {
                        held.push(last);
                    }
                }
                held
            };
            std::thread::scope(|scope| {
                let threads = [(); 4].map(|()| scope.spawn(come));
                threads.map(|thread| thread.join().unwrap()).concat()
            })
        };
        let held = come(true);
        assert_eq!((held.len(), census.counted()), (30, 30));
        assert_eq!(
            census.take_place(from(9), false),
            Err(CloseReason::TooManyPeers),
            "it is crowded"
        );
        (0..30).for_each(|_| census.end_pending());
        let more = come(false);
        assert_eq!((more.len(), census.counted()), (20, 50));
        for last in 0..4 {
            let all = held.iter().chain(&more);
            assert!(all.filter(|one| **one == last).count() <= 20);
        }
        for last in held.into_iter().chain(more) {
            census.give_place(from(last));
        }
        assert_eq!((census.counted(), census.lock().len()), (0, 0));
        for _ in 0..20 {
            assert_eq!(census.take_place(from(1), false), Ok(()));
        }
        let refused = census.take_place(from(1), false);
        assert_eq!(refused, Err(CloseReason::TooManyPerAddress));
    }
}
