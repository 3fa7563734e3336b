//! Attempts to connect: one address after the other, and what becomes of the connection.

use std::{net::SocketAddr, time::Duration};

use super::{
    connection::{Connection, Standing},
    links::{LinkState, is_double},
    state::{Common, Peers},
    turn_lists::Action,
};
use crate::{
    clock::Tick,
    error::DialError,
    event::Event,
    id::{LinkId, NodeId, PeerId},
    ledger::ClosedRow,
    limits::LINK_HEALTHY_MS,
    peer::{Dial, Peer, State},
    slots::About,
    socket::Ready,
};

impl Peers {
    /// Tries the next address of a link, if there is one.
    pub(super) fn dial_next(&mut self, now: Tick, id: LinkId) {
        let Some(link) = self.common.links.links.get_mut(&id) else {
            return;
        };
        let Some(addr) = link.untried.pop() else {
            self.common.fail_attempt(now, id);
            return;
        };
        let dial = Dial {
            link: id,
            timeout_ms: link.timeout_ms.unwrap_or(self.common.rules.connect_ms),
            hello: link.hello,
            checksums: link.checksums,
        };
        let about = About {
            addr,
            link: Some(id),
        };
        let full = self.common.admission.is_dialling_full();
        let peer = (!full)
            .then(|| self.common.take_slot(&mut self.connections, about))
            .flatten();
        let Some(peer_id) = peer else {
            self.set_failed(now, id, Some(addr), DialError::NoPlace);
            return;
        };
        if dial.checksums {
            self.common.slots.set_checksums(peer_id);
        }
        self.common.admission.dialled += 1;
        let peer = Peer::dialling(peer_id, addr, dial, now);
        let mut connection = Connection::new(peer, Standing::Dialling);
        self.common.arm(now, &mut connection);
        self.connections.insert(connection);
        if let Some(link) = self.common.links.links.get_mut(&id) {
            link.state = LinkState::Dialling(peer_id);
        }
        self.common
            .lists
            .actions
            .push_back(Action::Connect(peer_id, addr));
    }

    /// A connection that we make was made.
    pub(crate) fn handle_connected(&mut self, now: Tick, id: PeerId) {
        if let Some(connection) = self.connections.live(id) {
            self.common.handle_connected(now, connection);
        }
    }

    /// The connection of a link ended; `error` if it had not been up.
    pub(super) fn handle_link_down(
        &mut self,
        now: Tick,
        id: LinkId,
        row: &ClosedRow,
        error: Option<DialError>,
    ) {
        let Some(link) = self.common.links.links.get_mut(&id) else {
            return;
        };
        // Who was refused after its OK is known all the same.
        if !row.node_id.is_anonymous() {
            link.node_id = row.node_id;
        }
        let error = error.map(|error| self.explain(row, error));
        let Some(link) = self.common.links.links.get_mut(&id) else {
            return;
        };
        match (error, link.state) {
            (Some(error), _) => self.set_failed(now, id, Some(row.addr), error),
            (None, LinkState::Up { since, .. }) if link.keep => {
                if now.saturating_sub(since) >= LINK_HEALTHY_MS {
                    link.failures = 0;
                } else {
                    link.failures = link.failures.saturating_add(1);
                }
                self.common.wait_to_reconnect(now, id);
            }
            (None, _) => {
                self.common.links.remove(id, &self.common.slots);
            }
        }
    }

    /// Who was refused for a connection that is not there shares the node id with another service.
    fn explain(&self, row: &ClosedRow, error: DialError) -> DialError {
        if is_double(&error) && !self.has_double(row.peer, row.node_id) {
            DialError::NodeIdTaken
        } else {
            error
        }
    }

    /// An address did not work: the next one is tried.
    fn set_failed(&mut self, now: Tick, id: LinkId, addr: Option<SocketAddr>, error: DialError) {
        let Some(link) = self.common.links.links.get_mut(&id) else {
            return;
        };
        if let Some(addr) = addr {
            log::debug!("link {id} cannot reach {addr}: {error}");
        }
        link.last = (addr, error);
        self.dial_next(now, id);
    }
}

impl Common {
    fn handle_connected(&mut self, now: Tick, connection: &mut Connection) {
        let (id, peer) = (connection.id(), &mut connection.peer);
        let Some(link) = peer.link else {
            return;
        };
        if !matches!(peer.state(), State::Connecting { .. }) {
            return;
        }
        let timeout_ms = self.links.links.get(&link).and_then(|link| link.timeout_ms);
        let timeout_ms = timeout_ms.unwrap_or(self.rules.connect_ms);
        let receiving = self.deadlines.receiving(now);
        let may_send = peer.handle_connected(now, receiving, &self.rules, timeout_ms);
        log::debug!("peer {id} at {} connected by link {link}", peer.addr);
        connection.standing = Standing::Dialled;
        // The edge that brought us here may have been one to read as well.
        connection.ready = Ready::READ | Ready::WRITE;
        self.admission.count_dialled(&self.slots.ledger);
        if may_send {
            self.admit(now, connection);
        }
        self.lists.list_reading(connection);
        self.lists.list_writing(connection);
        self.arm(now, connection);
    }

    /// All addresses were tried.
    pub(super) fn fail_attempt(&mut self, now: Tick, id: LinkId) {
        let Some(link) = self.links.links.get_mut(&id) else {
            return;
        };
        link.failures = link.failures.saturating_add(1);
        let (attempts, keep) = (link.failures, link.keep);
        let (addr, error) = link.last.clone();
        let is_double = is_double(&error);
        let again = std::mem::replace(&mut link.is_double, is_double) && is_double && keep;
        self.slots.ledger.dials_failed.add(1);
        let retry_in = keep.then(|| self.wait_to_reconnect(now, id));
        if again {
            // Nothing is new: the node has a connection it likes better, and says so each time.
            return;
        }
        if !keep {
            self.links.remove(id, &self.slots);
        }
        self.told.emit(Event::DialFailed {
            link: id,
            addr,
            error,
            attempts,
            retry_in,
        });
    }

    fn wait_to_reconnect(&mut self, now: Tick, id: LinkId) -> Duration {
        let deadlines = &mut self.deadlines;
        self.links
            .wait_to_reconnect(now, id, &self.rules, deadlines)
    }

    /// The last connection of a node has ended: the links that it covered try again.
    pub(super) fn uncover_links(&mut self, now: Tick, node_id: NodeId) {
        for id in self.links.covered.remove(&node_id).unwrap_or_default() {
            self.wait_to_reconnect(now, id);
        }
        // Perhaps it was the one that another link was refused for.
        for (id, timer) in self.links.take_doubles() {
            self.deadlines.wheel.cancel(timer);
            self.wait_to_reconnect(now, id);
        }
    }
}
