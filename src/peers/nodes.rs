//! Which nodes are connected: to this loop, and to all of them.
//!
//! Invariants:
//! - `here` has each node that has said who it is and has a connection to this loop, with the one
//!   that came last
//! - a claim in the `registry` is of a connection that is `listed`, and is given up as soon as that
//!   takes no more input or leaves

use std::{collections::HashMap, sync::Arc};

use super::{connection::Connection, node_registry::NodeRegistry, table::Table};
use crate::id::{NodeId, PeerId};

/// The nodes of a loop.
#[derive(Debug, Default)]
pub(super) struct Nodes {
    /// The connections here, by what their peers say of themselves.
    pub(super) here: HashMap<NodeId, PeerId>,
    /// Those of all loops, if there are others.
    pub(super) registry: Option<Arc<NodeRegistry>>,
}

impl Nodes {
    /// Gives up the claim to its node of a connection that counts no more as the node's.
    #[inline]
    pub(super) fn give_up(&self, connection: &mut Connection) {
        if let Some(registry) = &self.registry {
            let counts = connection.leaving.is_none() && connection.peer.state().takes_input();
            if connection.listed && !counts {
                connection.listed = false;
                registry.give_up(connection.peer.node_id(), connection.id());
            }
        }
    }

    /// The connection that counts as the node's. One that is on its way out does not, nor does one
    /// of which the node itself has said that it sends nothing more.
    pub(super) fn connection_of(&self, connections: &Table, node_id: NodeId) -> Option<PeerId> {
        let id = *self.here.get(&node_id)?;
        let connection = connections.look(id.index() as usize)?;
        let counts = connection.id() == id && connection.leaving.is_none();
        (counts && connection.peer.state().takes_input()).then_some(id)
    }

    /// Whether a node is connected, to this loop or to another; `shard` is this one.
    pub(super) fn is_connected(&self, connections: &Table, node_id: NodeId, shard: u8) -> bool {
        let elsewhere = self.registry.as_ref();
        self.connection_of(connections, node_id).is_some()
            || elsewhere.is_some_and(|all| all.is_elsewhere(node_id, shard))
    }
}
