//! A peer says who it is: the one step of a read that other connections matter to.

use super::{node_registry::Claim, state::Peers};
use crate::{
    clock::Tick,
    error::CloseReason,
    id::{NodeId, PeerId},
    peer::{Fault, Parsed, State},
};

impl Peers {
    /// Takes in what a peer said of itself in the midst of its bytes.
    pub(super) fn introduce(&mut self, now: Tick, id: PeerId, parsed: &mut Parsed) {
        if let Err(fault) = self.handle_introduction(now, id) {
            let connection = self.connections.live(id);
            // What came before the introduction is delivered only from a peer that was told of.
            if connection.is_none_or(|connection| !connection.told_connected) {
                *parsed = Parsed::default();
            }
            parsed.fault = Some(fault);
        }
    }

    /// A peer said who it is: it is welcome, or broke a rule about several connections of one node.
    fn handle_introduction(&mut self, now: Tick, id: PeerId) -> Result<(), Fault> {
        // It is about to learn that we close.
        let state = self
            .connections
            .live(id)
            .map(|connection| connection.peer.state());
        if !state.is_some_and(State::takes_input) {
            return Ok(());
        }
        match self.judge_node(now, id) {
            Ok(None) => {}
            Ok(Some(other)) => {
                log::debug!("peer {other} gives way to peer {id} of the same node");
                self.on(now, other, |common, connection| {
                    let drain_ms = common.rules.drain_ms;
                    common.limit_to_replies(connection);
                    common.begin_finish(now, connection, CloseReason::DuplicateNode, drain_ms);
                });
            }
            Err(text) => return Err(Fault::Message(CloseReason::DuplicateNode, text)),
        }
        self.on(now, id, |common, connection| {
            connection.peer.accept_introduction(now, &common.rules);
            common.admit(now, connection);
        });
        Ok(())
    }

    /// Whether a peer that just said who it is may stay beside another connection of its node: the
    /// connection that has to go for it, or the refusal of this one. Where they are with different
    /// loops, the other one is told.
    fn judge_node(&mut self, now: Tick, id: PeerId) -> Result<Option<PeerId>, &'static str> {
        const REFUSAL: &str = "another connection of the same node exists";
        let Some(claim) = self.claim_of(id) else {
            return Ok(None);
        };
        let Some(connection) = self.connections.live(id) else {
            return Ok(None);
        };
        let (node_id, own) = (connection.peer.node_id(), self.common.rules.node_id);
        if node_id.is_anonymous() {
            return Ok(None);
        }
        if node_id == own {
            self.doubt_self(now, claim);
            return Err("the peer has our own node id");
        }
        let Some(node_registry) = self.common.nodes.registry.clone() else {
            let other = self.connection_of(node_id);
            let Some(old) = other.and_then(|other| self.claim_of(other)) else {
                return Ok(other);
            };
            self.doubt_node(now, node_id, claim, old);
            return if claim.takes_over(old, own, node_id) {
                Ok(other)
            } else {
                Err(REFUSAL)
            };
        };
        let shard = self.common.slots.shard();
        let counts =
            |old: Claim| old.peer.shard() != shard || self.connection_of(node_id) == Some(old.peer);
        let mut in_the_way = None;
        let claimed = node_registry.claim(node_id, claim, |old| {
            in_the_way = Some(old).filter(|old| counts(*old));
            in_the_way.is_some() && !claim.takes_over(old, own, node_id)
        });
        if let Some(old) = in_the_way {
            self.doubt_node(now, node_id, claim, old);
        }
        let other = claimed.map_err(|()| REFUSAL)?.map(|old| old.peer);
        if let Some(connection) = self.connections.live(id) {
            connection.listed = true;
        }
        if let Some(other) = other.filter(|other| other.shard() != shard) {
            log::debug!("peer {other} gives way to peer {id} of the same node");
            node_registry.close(other);
            return Ok(None);
        }
        Ok(other.filter(|other| self.connection_of(node_id) == Some(*other)))
    }

    fn claim_of(&mut self, id: PeerId) -> Option<Claim> {
        let peer = &self.connections.live(id)?.peer;
        Some(Claim {
            peer: id,
            addr: peer.addr,
            is_ours: peer.link.is_some(),
            is_authenticated: peer.is_authenticated(),
        })
    }

    fn connection_of(&self, node_id: NodeId) -> Option<PeerId> {
        let nodes = &self.common.nodes;
        nodes.connection_of(&self.connections, node_id)
    }
}
