//! Two services with one node id.
//!
//! That a node has two connections is mostly in order: two services dialled each other, a link has
//! two addresses of one service, a node is back before its old connection was found dead. A node id
//! that was copied to a second service looks much the same, from every side: one of the two is
//! refused, for ever and quietly. So each side warns where what it sees has no better explanation,
//! once for each connection that is in the way.

use std::{net::SocketAddr, sync::atomic::Ordering};

use super::{links::Doubt, node_registry::Claim, state::Peers};
use crate::{
    clock::Tick,
    error::CloseReason,
    id::{NodeId, PeerId},
    ledger::ClosedRow,
};

impl Peers {
    /// A peer said that it is the node of another connection, and one of the two has to go.
    pub(super) fn doubt_node(&mut self, now: Tick, node_id: NodeId, new: Claim, old: Claim) {
        let own = self.common.rules.node_id;
        let stays = !new.takes_over(old, own, node_id);
        let is_odd = match (new.is_ours, old.is_ours) {
            // Each side dialled one.
            (true, false) | (false, true) => false,
            // The other side judges, and took both for the only one.
            (true, true) => !own.is_anonymous() && new.addr != old.addr,
            // With a token the node itself says that it is back, but from where it was.
            (false, false) => stays || new.addr.ip() != old.addr.ip(),
        };
        if !is_odd {
            return;
        }
        let verb = if stays { "stays" } else { "goes" };
        let text = format!(
            "peer {} at {} has the node id of peer {} at {}, which {verb}: two services with the \
             node id {node_id}, or one that is back before its old connection was found dead",
            new.peer, new.addr, old.peer, old.addr,
        );
        self.warn_once(
            now,
            ("two of a node", node_id, Some(old.peer)),
            new.addr,
            &text,
        );
    }

    /// A peer said that it is this service.
    pub(super) fn doubt_self(&mut self, now: Tick, new: Claim) {
        let own = self.common.rules.node_id;
        let text = format!(
            "peer {} at {} has our own node id {own}: another service with this id, or a link to \
             this service itself",
            new.peer, new.addr,
        );
        self.warn_once(now, ("our own node", own, None), new.addr, &text);
    }

    /// A connection of a node has ended. If the node keeps another one of this service, and there
    /// is none here, it is another service's.
    pub(super) fn doubt_end(&mut self, now: Tick, row: &ClosedRow) {
        let code = CloseReason::DuplicateNode.wire_code();
        let own = self.common.rules.node_id;
        let is_named = !(own.is_anonymous() || row.node_id.is_anonymous());
        if row.bye_received != code || !is_named || self.has_double(row.peer, row.node_id) {
            return;
        }
        let text = format!(
            "peer {} at {} keeps another connection of our node id {own}, which is none of this \
             service: another service has the same id",
            row.peer, row.addr,
        );
        self.warn_once(
            now,
            ("another of our node", row.node_id, None),
            row.addr,
            &text,
        );
    }

    /// Whether a peer that keeps another connection of this service to itself can mean one that is
    /// here: of its node, if that is known, or of one that is not known yet.
    pub(super) fn has_double(&self, peer: PeerId, node_id: NodeId) -> bool {
        let nodes = &self.common.nodes;
        let here = if node_id.is_anonymous() {
            !self.common.nodes.here.is_empty()
        } else {
            nodes
                .connection_of(&self.connections, node_id)
                .is_some_and(|other| other != peer)
        };
        let elsewhere = self.common.nodes.registry.as_ref().is_some_and(|all| {
            let shard = self.common.slots.shard();
            // Another loop's link may be about to learn who is there.
            let links = self.common.slots.links.load(Ordering::Relaxed);
            links > self.common.links.count()
                || all.is_elsewhere(node_id, shard)
                || (node_id.is_anonymous() && all.is_any_elsewhere(shard))
        });
        here || elsewhere || self.common.links.is_another_dialling(peer)
    }

    /// Warns, unless it was of the same connection just before.
    fn warn_once(&mut self, now: Tick, doubt: Doubt, addr: SocketAddr, text: &str) {
        if self.common.links.doubt == Some(doubt) {
            return;
        }
        if let Some(suppressed) = self.common.ended.limit_log(now, doubt.0, addr) {
            self.common.links.doubt = Some(doubt);
            log::warn!("{text}{suppressed}");
        }
    }
}
