//! Which nodes are connected: to this loop, and to all of them.
//!
//! Invariants:
//! - `here` has each node that has said who it is and has a connection to this loop, with the one
//!   that came last
//! - a claim in the `registry` is of a connection that is `listed`, and is given up as soon as that
//!   takes no more input or leaves

use std::{collections::HashMap, sync::Arc};

use super::{connection::Connection, node_registry::NodeRegistry};
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
}
