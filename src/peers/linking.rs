//! Links as the application asks for them, and what their timers say.

use super::{
    deadlines::Timer,
    links::{Link, LinkState, forget_link},
    state::Peers,
};
use crate::{
    clock::Tick,
    dial::{NewLink, Source},
    error::{CloseReason, DialError},
    id::{LinkId, PeerId},
    limits::LINGER_MS,
    peer::State,
};

/// How long an attempt waits for events to be told.
const BACKLOG_PAUSE_MS: u64 = 100;

impl Peers {
    /// A link is asked for.
    pub(crate) fn handle_connect(&mut self, now: Tick, new: NewLink) {
        let id = new.id;
        if self.common.ended.stop.is_some() {
            forget_link(id, &self.common.slots);
            return;
        }
        self.common.links.links.insert(id, Link::new(new));
        self.begin_attempt(now, id);
    }

    fn begin_attempt(&mut self, now: Tick, id: LinkId) {
        // What comes of it could not be told, and would pile up.
        let is_early = self.common.told.has_backlog();
        let Some(link) = self.common.links.links.get_mut(&id) else {
            return;
        };
        if is_early {
            let timer = self
                .common
                .deadlines
                .wheel
                .insert(now + BACKLOG_PAUSE_MS, Timer::Link(id));
            link.state = LinkState::Waiting(timer);
            return;
        }
        match &link.source {
            Source::Addrs(addrs) => {
                link.untried = addrs.iter().rev().copied().collect();
                self.dial_next(now, id);
            }
            Source::Name(..) => self.look_up(now, id),
        }
    }

    /// Gives a link up, and closes its connection in order.
    pub(crate) fn handle_disconnect(&mut self, now: Tick, id: LinkId) {
        let common = &mut self.common;
        let Some(link) = common.links.remove(id, &common.slots) else {
            return;
        };
        match link.state {
            LinkState::Covered => common.links.forget_covered(id, link.node_id),
            LinkState::Resolving(timer) | LinkState::Waiting(timer) => {
                common.deadlines.wheel.cancel(timer);
            }
            // Nothing was sent but HELLO, which needs no long time to go out.
            LinkState::Dialling(peer) => {
                self.on(now, peer, |common, connection| {
                    common.begin_close(now, connection, CloseReason::AppClosed, LINGER_MS);
                });
            }
            LinkState::Up { peer, .. } => {
                self.on(now, peer, |common, connection| {
                    let drain_ms = common.rules.drain_ms;
                    common.limit_to_replies(connection);
                    common.begin_finish(now, connection, CloseReason::AppClosed, drain_ms);
                });
            }
        }
    }

    /// The service stops: nothing is connected to any more.
    pub(super) fn end_links(&mut self, now: Tick) {
        let ids: Vec<LinkId> = self.common.links.links.keys().copied().collect();
        for id in ids {
            let link = self.common.links.links.get(&id);
            match link.map(|link| link.state) {
                Some(LinkState::Dialling(peer)) => {
                    self.common.links.end(Some(id), &self.common.slots);
                    self.on(now, peer, |common, connection| {
                        if matches!(connection.peer.state(), State::Connecting { .. }) {
                            common.leave(connection, CloseReason::Shutdown, true);
                        }
                    });
                }
                Some(LinkState::Up { .. }) => {
                    self.common.links.end(Some(id), &self.common.slots);
                }
                Some(_) => self.handle_disconnect(now, id),
                None => {}
            }
        }
    }

    /// The loop ends without a stop.
    pub(super) fn drop_links(&mut self) {
        let common = &mut self.common;
        common.links.drop_all(&common.slots, &mut common.deadlines);
    }

    pub(super) fn handle_link_timer(&mut self, now: Tick, id: LinkId) {
        let Some(link) = self.common.links.links.get(&id) else {
            self.common.slots.ledger.stale_events.add(1);
            return;
        };
        if let LinkState::Resolving(_) = link.state {
            self.fail_lookup(now, id, DialError::ResolveTimeout);
            return;
        }
        // Another connection of the same node would only be refused.
        let node_id = link.node_id;
        let shard = self.common.slots.shard();
        let nodes = &self.common.nodes;
        if nodes.is_connected(&self.connections, node_id, shard) {
            if let Some(link) = self.common.links.links.get_mut(&id) {
                link.state = LinkState::Covered;
                link.failures = 0;
                self.common
                    .links
                    .covered
                    .entry(node_id)
                    .or_default()
                    .push(id);
            }
            return;
        }
        self.begin_attempt(now, id);
    }

    /// Whether there is news of nodes of other loops, or they ask for something.
    pub(crate) fn has_news(&self) -> bool {
        let (node_registry, shard) = (
            self.common.nodes.registry.as_ref(),
            self.common.slots.shard(),
        );
        self.common.slots.ledger.budget.is_asked()
            || node_registry.is_some_and(|node_registry| node_registry.has_news(shard))
    }

    /// Connections of nodes to other loops have ended, which links may have waited for.
    pub(super) fn learn_nodes(&mut self, now: Tick) {
        let shard = self.common.slots.shard();
        let Some(node_registry) = self
            .common
            .nodes
            .registry
            .as_ref()
            .filter(|all| all.has_news(shard))
        else {
            return;
        };
        let nodes = node_registry.take_news(shard);
        let nodes = nodes.unwrap_or_else(|| self.common.links.covered.keys().copied().collect());
        for node_id in nodes {
            self.common.uncover_links(now, node_id);
        }
    }

    /// A connection that we make was not made.
    pub(crate) fn handle_dial_failed(&mut self, now: Tick, id: PeerId, error: &std::io::Error) {
        self.on(now, id, |common, connection| {
            common.give_up(connection, DialError::connect(error));
        });
    }
}
