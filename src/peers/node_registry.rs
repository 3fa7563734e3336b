//! Which nodes are connected, where several loops share them.
//!
//! A loop knows the nodes that are connected to it. That a node has one connection has to hold
//! across all of them, so each loop claims a node here when the node has said who it is, and gives
//! the claim up when its connection counts no more. The loser of two claims is closed by its own
//! loop, which is told through its slot.
//!
//! The mutex is taken by loops alone, for one step in the map each time, when a node introduces
//! itself, when its connection ends, and when a link is about to dial.

use std::{
    collections::HashMap,
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use crate::{
    error::CloseReason,
    id::{NodeId, PeerId},
    limits::NODES_GONE_MAX,
    slots::Slots,
};

/// A connection of a node, as far as it matters which of two may stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) peer: PeerId,
    pub(super) addr: SocketAddr,
    /// We made the connection.
    pub(super) is_ours: bool,
    /// The node showed a token that we accept.
    pub(super) is_authenticated: bool,
}

impl Claim {
    /// Whether this connection stays, and the one that was there before has to go.
    ///
    /// Two services that dial each other at the same time meet here on both sides, with one answer:
    /// the connection that was dialled by the smaller id stays. Of two that the same side dialled,
    /// the newer one is refused, unless both showed a token that we accept: then the node itself
    /// says that it is back. That is for the side that was dialled to judge: its OK says that the
    /// newer one stays, and the other side keeps to it. Only who is anonymous there has to judge
    /// for himself.
    pub(super) fn takes_over(self, old: Self, own: NodeId, node_id: NodeId) -> bool {
        if self.is_ours != old.is_ours {
            return self.is_ours == (own < node_id);
        }
        let both = self.is_authenticated && old.is_authenticated;
        both || (self.is_ours && !own.is_anonymous())
    }
}

/// All nodes that are connected to a service.
pub(crate) struct NodeRegistry {
    nodes: Mutex<HashMap<NodeId, Claim>>,
    /// By shard.
    slots: Box<[Arc<Slots>]>,
    gone: Box<[Gone]>,
}

/// What a shard has not heard of the others yet.
#[derive(Debug, Default)]
struct Gone {
    /// Whether there is anything.
    any: AtomicBool,
    /// Nodes whose connections have ended; when there are too many, `None`: any may have.
    nodes: Mutex<Option<Vec<NodeId>>>,
}

impl NodeRegistry {
    pub(crate) fn new(slots: Box<[Arc<Slots>]>) -> Self {
        let gone = || Gone {
            nodes: Mutex::new(Some(Vec::new())),
            ..Gone::default()
        };
        Self {
            nodes: Mutex::default(),
            gone: slots.iter().map(|_| gone()).collect(),
            slots,
        }
    }

    /// Claims a node for a connection. The claim that is there is asked for by `stays`, unless it
    /// is of a connection that counts no more; the answer is the connection that has to go, or that
    /// this one has to.
    pub(super) fn claim(
        &self,
        node_id: NodeId,
        claim: Claim,
        stays: impl FnOnce(Claim) -> bool,
    ) -> Result<Option<Claim>, ()> {
        let mut nodes = lock(&self.nodes);
        let old = nodes.get(&node_id).copied();
        let old = old.filter(|old| old.peer != claim.peer);
        if old.is_some_and(stays) {
            return Err(());
        }
        nodes.insert(node_id, claim);
        Ok(old)
    }

    /// Has another shard close its connection of a node.
    pub(super) fn close(&self, peer: PeerId) {
        if let Some(slots) = self.slots.get(usize::from(peer.shard())) {
            slots.close_for(peer, CloseReason::DuplicateNode);
        }
    }

    /// Whether a node is connected to a shard other than this one.
    pub(super) fn is_elsewhere(&self, node_id: NodeId, shard: u8) -> bool {
        let claim = lock(&self.nodes).get(&node_id).copied();
        claim.is_some_and(|claim| claim.peer.shard() != shard)
    }

    /// Whether any node is connected to a shard other than this one.
    pub(super) fn is_any_elsewhere(&self, shard: u8) -> bool {
        let nodes = lock(&self.nodes);
        nodes.values().any(|claim| claim.peer.shard() != shard)
    }

    /// A connection counts no more.
    pub(super) fn give_up(&self, node_id: NodeId, peer: PeerId) {
        let mut nodes = lock(&self.nodes);
        if nodes.get(&node_id).is_some_and(|claim| claim.peer == peer) {
            nodes.remove(&node_id);
        }
    }

    /// The connection of a node to this shard has ended. The others learn of it if there are links,
    /// which may wait for that.
    pub(super) fn tell_gone(&self, node_id: NodeId, shard: u8) {
        let others = self.slots.iter().zip(&self.gone);
        for (slots, gone) in others.filter(|(slots, _)| slots.shard() != shard) {
            if slots.links.load(Ordering::Relaxed) > 0 {
                gone.push(node_id);
                slots.doorbell.ring();
            }
        }
    }

    /// Whether there is news of other shards.
    pub(super) fn has_news(&self, shard: u8) -> bool {
        self.gone[usize::from(shard)].any.load(Ordering::Acquire)
    }

    /// The nodes whose connections to other shards have ended; `None` if it may be any.
    pub(super) fn take_news(&self, shard: u8) -> Option<Vec<NodeId>> {
        let gone = &self.gone[usize::from(shard)];
        let mut nodes = lock(&gone.nodes);
        gone.any.store(false, Ordering::Release);
        nodes.replace(Vec::new())
    }
}

impl Gone {
    fn push(&self, node_id: NodeId) {
        let mut nodes = lock(&self.nodes);
        if let Some(list) = nodes.as_mut() {
            list.push(node_id);
            if list.len() > NODES_GONE_MAX {
                *nodes = None;
            }
        }
        self.any.store(true, Ordering::Release);
    }
}

impl fmt::Debug for NodeRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeRegistry")
            .field("nodes", &self.nodes)
            .finish_non_exhaustive()
    }
}

/// The one change under a lock that can fail in between is an allocation, which aborts.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
