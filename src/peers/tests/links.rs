//! What holds of links between turns.

use super::*;
use crate::peers::links::LinkState;

impl Peers {
    /// Panics unless links and connections agree about each other.
    pub(super) fn check_links(&self) {
        let known = self.common.links.links.len();
        let asked = self.common.slots.links.load(Ordering::Relaxed);
        assert!(known <= asked, "{known} links of {asked}");
        let mut covered = 0;
        for (id, link) in &self.common.links.links {
            match link.state {
                LinkState::Resolving(timer) => {
                    assert!(self.common.deadlines.wheel.deadline(timer).is_some())
                }
                LinkState::Dialling(peer) | LinkState::Up { peer, .. } => {
                    let connection = self.connections.look(peer.index() as usize).unwrap();
                    assert_eq!((connection.id(), connection.peer.link), (peer, Some(*id)));
                    let up = matches!(link.state, LinkState::Up { .. });
                    assert_eq!(connection.told_connected, up, "{id} {link:?}");
                }
                LinkState::Waiting(timer) => {
                    assert!(self.common.deadlines.wheel.deadline(timer).is_some())
                }
                LinkState::Covered => {
                    assert!(
                        self.common.nodes.here.contains_key(&link.node_id),
                        "{id} waits for ever"
                    );
                    assert!(self.common.links.covered[&link.node_id].contains(id));
                    covered += 1;
                }
            }
        }
        let listed: usize = self.common.links.covered.values().map(Vec::len).sum();
        assert_eq!(listed, covered);
        for connection in self.connections.looks() {
            let open = matches!(
                connection.peer.state(),
                State::Connecting { .. } | State::Greeting { .. } | State::Open
            );
            if let Some(id) = connection
                .peer
                .link
                .filter(|_| open && connection.leaving.is_none())
            {
                let state = self.common.links.links.get(&id).map(|link| link.state);
                let peer = connection.id();
                let agrees = match state {
                    Some(LinkState::Dialling(own) | LinkState::Up { peer: own, .. }) => own == peer,
                    Some(LinkState::Resolving(_) | LinkState::Waiting(_) | LinkState::Covered) => {
                        false
                    }
                    // The stop has ended it, or its close waits for a lock.
                    None => self.common.ended.stop.is_some() || connection.pause.is_some(),
                };
                assert!(agrees, "{peer} is of link {id}, which is {state:?}");
            }
        }
    }

    /// Whether a connection of the node is up.
    pub(crate) fn is_node_up(&self, node_id: NodeId) -> bool {
        self.common
            .nodes
            .connection_of(&self.connections, node_id)
            .is_some()
    }

    /// Whether the link waits to dial, and knows that it is this node that it would find.
    pub(crate) fn waits_for_node(&self, id: LinkId, node_id: NodeId) -> bool {
        let link = self.common.links.links.get(&id);
        link.is_some_and(|link| {
            let waits = matches!(link.state, LinkState::Waiting(_) | LinkState::Covered);
            waits && link.node_id == node_id
        })
    }

    /// Whether an attempt of the link waits for the addresses of its name.
    pub(crate) fn is_resolving(&self, id: LinkId) -> bool {
        let link = self.common.links.links.get(&id);
        link.is_some_and(|link| matches!(link.state, LinkState::Resolving(_)))
    }

    pub(crate) fn describe_links(&self) -> String {
        format!("{:?} {:?}", self.common.links, self.common.nodes.here)
    }
}
