//! Links: whom we connect to, and when again.
//!
//! A link stands for a wish to be connected. It makes one attempt after the other, each of which
//! tries the addresses of its target in turn; every try is a connection of the table like any other
//! connection. A link that is not kept ends with its first failure or with its connection.
//!
//! ```text
//!             name              addresses            OK, or made without HELLO
//!   (asked) -------> Resolving ----------> Dialling ---------------------------> Up
//!      |                 ^  |                |  ^ |                              |
//!      |                 |  | no address     |  +-+ next address                 | it ended
//!      +---- addresses --|--|----------------+    |                              |
//!                        |  v                     | none left                    v
//!                        +--------- Waiting <-----+------------------------------+
//!                          pause                   (not kept, or given up: the link ends)
//! ```
//!
//! A lookup that takes longer than the connect timeout has failed (`names`). Where it fails, the
//! addresses that the link knew last are dialled, if there are any.
//!
//! A link whose pause ends while another connection of the same node is up is `Covered` until that
//! one ends, and then pauses again: its own connection would only be refused.
//!
//! The pause is drawn between nothing and a bound that doubles with every failure in a row (full
//! jitter), so that many who lost the same service do not come back at once.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    time::Duration,
};

use super::{Action, Peers, Timer, connection::Standing, doubles::Doubt, node_registry::Claim};
use crate::{
    clock::Tick,
    dial::{NewLink, Source},
    error::{CloseReason, DialError},
    event::Event,
    id::{LinkId, NodeId, PeerId},
    ledger::ClosedRow,
    limits::{LINGER_MS, LINK_HEALTHY_MS},
    peer::{Dial, Peer, State},
    slots::About,
    socket::Ready,
    wheel::TimerKey,
};

/// How long an attempt waits for events to be told.
const BACKLOG_PAUSE_MS: u64 = 100;

/// All links of a loop.
#[derive(Debug, Default)]
pub(super) struct Links {
    pub(super) links: BTreeMap<LinkId, Link>,
    /// Those that are covered, by the node that covers them.
    covered: HashMap<NodeId, Vec<LinkId>>,
    /// State of the generator that pauses are drawn from; never zero.
    random: u64,
    /// What the last warning of a copied node id was about.
    pub(super) doubt: Option<Doubt>,
}

#[derive(Debug)]
pub(super) struct Link {
    pub(super) source: Source,
    keep: bool,
    hello: bool,
    checksums: bool,
    /// `None`: that of the service.
    pub(super) timeout_ms: Option<Tick>,
    pub(super) state: LinkState,
    /// Addresses of this attempt that were not tried yet, the next one last.
    pub(super) untried: Vec<SocketAddr>,
    /// The last that is known of the name.
    pub(super) known: Known,
    /// Failures in a row.
    failures: u32,
    /// The address tried last, and what went wrong there.
    pub(super) last: (Option<SocketAddr>, DialError),
    /// Who answered the last time.
    node_id: NodeId,
    /// The other side refused the last attempt, because it is connected to us already. It did not
    /// say who it is, so this link is not covered by that connection, and only tries rarely.
    is_double: bool,
}

/// What is known of a name.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) addrs: Vec<SocketAddr>,
    /// They came when their attempt did not wait for them any more, and none has begun since.
    pub(super) is_news: bool,
}

/// Whether the other side has another connection of ours, and keeps that.
fn is_double(error: &DialError) -> bool {
    let code = CloseReason::DuplicateNode.wire_code();
    match error {
        DialError::Handshake { bye_received, .. } => *bye_received == code,
        DialError::NodeIdTaken => true,
        DialError::Resolve { .. }
        | DialError::Connect { .. }
        | DialError::Timeout
        | DialError::ResolveTimeout
        | DialError::NoPlace => false,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkState {
    /// Until the timer, for the addresses of the name.
    Resolving(TimerKey),
    Dialling(PeerId),
    Up {
        peer: PeerId,
        since: Tick,
    },
    Waiting(TimerKey),
    /// Another connection of the node is up.
    Covered,
}

impl Links {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            links: BTreeMap::new(),
            covered: HashMap::new(),
            random: seed | 1,
            doubt: None,
        }
    }

    pub(super) fn count(&self) -> usize {
        self.links.len()
    }

    /// Whether any connection but this one is on its way to an OK.
    pub(super) fn is_another_dialling(&self, peer: PeerId) -> bool {
        let mut links = self.links.values();
        links.any(|link| matches!(link.state, LinkState::Dialling(other) if other != peer))
    }

    /// A number from 0 to `max`. The generator is Marsaglia's xorshift64.
    fn draw(&mut self, max: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % max.saturating_add(1).max(1)
    }
}

impl Peers {
    /// A link is asked for.
    pub(crate) fn handle_connect(&mut self, now: Tick, new: NewLink) {
        if self.ended.stop.is_some() {
            self.forget_link(new.id);
            return;
        }
        let link = Link {
            source: new.source,
            keep: new.keep,
            hello: new.hello,
            checksums: new.checksums,
            timeout_ms: new.timeout_ms,
            // A placeholder until the attempt begins, right below.
            state: LinkState::Covered,
            untried: Vec::new(),
            known: Known::default(),
            failures: 0,
            last: (None, DialError::NoPlace),
            node_id: NodeId::ANONYMOUS,
            is_double: false,
        };
        self.links.links.insert(new.id, link);
        self.begin_attempt(now, new.id);
    }

    /// Gives a link up, and closes its connection in order.
    pub(crate) fn handle_disconnect(&mut self, now: Tick, id: LinkId) {
        let Some(link) = self.remove_link(id) else {
            return;
        };
        match link.state {
            LinkState::Covered => self.forget_covered(id, link.node_id),
            LinkState::Resolving(timer) | LinkState::Waiting(timer) => {
                self.deadlines.wheel.cancel(timer);
            }
            // Nothing was sent but HELLO, which needs no long time to go out.
            LinkState::Dialling(peer) => {
                self.begin_close(now, peer, CloseReason::AppClosed, LINGER_MS);
            }
            LinkState::Up { peer, .. } => {
                let drain_ms = self.rules.drain_ms;
                self.limit_to_replies(peer);
                self.begin_finish(now, peer, CloseReason::AppClosed, drain_ms);
            }
        }
    }

    /// The service stops: nobody is connected to any more.
    pub(super) fn end_links(&mut self, now: Tick) {
        let ids: Vec<LinkId> = self.links.links.keys().copied().collect();
        for id in ids {
            match self.links.links.get(&id).map(|link| link.state) {
                Some(LinkState::Dialling(peer)) => {
                    self.end_link(Some(id));
                    let state = self
                        .connection(peer)
                        .map(|connection| connection.peer.state());
                    if matches!(state, Some(State::Connecting { .. })) {
                        self.leave(now, peer, CloseReason::Shutdown, true);
                    }
                }
                Some(LinkState::Up { .. }) => self.end_link(Some(id)),
                Some(_) => self.handle_disconnect(now, id),
                None => {}
            }
        }
    }

    /// The application closed the connection, and with it ends the wish for it.
    pub(super) fn end_link_of(&mut self, peer: PeerId) {
        let link = self
            .connection(peer)
            .and_then(|connection| connection.peer.link);
        self.end_link(link);
    }

    /// Ends a link that has a connection, which stays for whoever asks to close.
    pub(super) fn end_link(&mut self, id: Option<LinkId>) {
        if let Some(id) = id {
            self.remove_link(id);
        }
    }

    /// The loop ends without a stop: whoever is cut off is not connected to again.
    pub(super) fn drop_links(&mut self) {
        self.links.covered.clear();
        while let Some(id) = self.links.links.keys().next().copied() {
            let state = self.remove_link(id).map(|link| link.state);
            if let Some(LinkState::Waiting(timer) | LinkState::Resolving(timer)) = state {
                self.deadlines.wheel.cancel(timer);
            }
        }
    }

    fn forget_covered(&mut self, id: LinkId, node_id: NodeId) {
        if let Some(covered) = self.links.covered.get_mut(&node_id) {
            covered.retain(|one| *one != id);
            if covered.is_empty() {
                self.links.covered.remove(&node_id);
            }
        }
    }

    /// The last connection of a node has ended: the links that it covered try again.
    pub(super) fn uncover_links(&mut self, now: Tick, node_id: NodeId) {
        for id in self.links.covered.remove(&node_id).unwrap_or_default() {
            self.wait_to_reconnect(now, id);
        }
        // Perhaps it was the one that another link was refused for.
        let links = self.links.links.iter_mut();
        let doubles: Vec<(LinkId, TimerKey)> = links
            .filter(|(_, link)| link.is_double)
            .filter_map(|(id, link)| match link.state {
                LinkState::Waiting(timer) => {
                    (link.is_double, link.failures) = (false, 0);
                    Some((*id, timer))
                }
                LinkState::Resolving(_)
                | LinkState::Dialling(_)
                | LinkState::Up { .. }
                | LinkState::Covered => None,
            })
            .collect();
        for (id, timer) in doubles {
            self.deadlines.wheel.cancel(timer);
            self.wait_to_reconnect(now, id);
        }
    }

    /// Takes a link out. Its name may be looked up still, also long after the attempt that waited
    /// for the addresses: no answer is wanted any more.
    fn remove_link(&mut self, id: LinkId) -> Option<Link> {
        let link = self.links.links.remove(&id)?;
        link.source.forget(id);
        self.forget_link(id);
        Some(link)
    }

    fn forget_link(&mut self, id: LinkId) {
        log::debug!("link {id} ends");
        self.slots
            .links
            .fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
    }

    fn begin_attempt(&mut self, now: Tick, id: LinkId) {
        // What comes of it could not be told, and would pile up.
        let is_early = self.told.has_backlog();
        let Some(link) = self.links.links.get_mut(&id) else {
            return;
        };
        if is_early {
            let timer = self
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

    /// Tries the next address of a link, if there is one.
    pub(super) fn dial_next(&mut self, now: Tick, id: LinkId) {
        let Some(link) = self.links.links.get_mut(&id) else {
            return;
        };
        let Some(addr) = link.untried.pop() else {
            self.fail_attempt(now, id);
            return;
        };
        let dial = Dial {
            link: id,
            timeout_ms: link.timeout_ms.unwrap_or(self.rules.connect_ms),
            hello: link.hello,
            checksums: link.checksums,
        };
        let about = About {
            addr,
            link: Some(id),
        };
        let full = self.admission.is_dialling_full();
        let peer = (!full).then(|| self.take_slot(about)).flatten();
        let Some(peer_id) = peer else {
            self.set_failed(now, id, Some(addr), DialError::NoPlace);
            return;
        };
        if dial.checksums {
            self.slots.set_checksums(peer_id);
        }
        self.admission.dialled += 1;
        let peer = Peer::dialling(peer_id, addr, dial, now);
        self.insert_connection(peer_id, peer, Standing::Dialling);
        if let Some(link) = self.links.links.get_mut(&id) {
            link.state = LinkState::Dialling(peer_id);
        }
        self.lists.actions.push_back(Action::Connect(peer_id, addr));
        self.arm(now, peer_id);
    }

    /// A connection that we make was made.
    pub(crate) fn handle_connected(&mut self, now: Tick, id: PeerId) {
        let Some(link) = self
            .connection(id)
            .and_then(|connection| connection.peer.link)
        else {
            return;
        };
        let timeout_ms = self.links.links.get(&link).and_then(|link| link.timeout_ms);
        let timeout_ms = timeout_ms.unwrap_or(self.rules.connect_ms);
        let (receiving, rules) = (self.deadlines.receiving(now), &self.rules);
        let place = self.connections.get_mut(id.index() as usize);
        let Some(connection) = place else {
            return;
        };
        if !matches!(connection.peer.state(), State::Connecting { .. }) {
            return;
        }
        connection.standing = Standing::Dialled;
        // The edge that brought us here may have been one to read as well.
        connection.ready = Ready::READ | Ready::WRITE;
        let may_send = connection
            .peer
            .handle_connected(now, receiving, rules, timeout_ms);
        log::debug!(
            "peer {id} at {} connected by link {link}",
            connection.peer.addr
        );
        self.admission.count_dialled(&self.slots.ledger);
        if may_send {
            self.admit(now, id);
        }
        self.list_reading(id);
        self.list_writing(id);
        self.arm(now, id);
    }

    /// A connection that we make was not made.
    pub(crate) fn handle_dial_failed(&mut self, now: Tick, id: PeerId, error: &std::io::Error) {
        self.give_up(now, id, DialError::connect(error));
    }

    /// The peer of a link may be sent to: the attempt was a success.
    pub(super) fn handle_link_up(&mut self, now: Tick, id: PeerId) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        let (link, node_id) = (connection.peer.link, connection.peer.node_id());
        let link = link.and_then(|link| self.links.links.get_mut(&link));
        if let Some(link) = link {
            let peer = id;
            link.state = LinkState::Up { peer, since: now };
            link.node_id = node_id;
            link.is_double = false;
            link.untried = Vec::new();
            link.known.is_news = false;
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
        let Some(link) = self.links.links.get_mut(&id) else {
            return;
        };
        // Who was refused after its OK is known all the same.
        if !row.node_id.is_anonymous() {
            link.node_id = row.node_id;
        }
        let error = error.map(|error| self.explain(row, error));
        let Some(link) = self.links.links.get_mut(&id) else {
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
                self.wait_to_reconnect(now, id);
            }
            (None, _) => {
                self.remove_link(id);
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
        let Some(link) = self.links.links.get_mut(&id) else {
            return;
        };
        if let Some(addr) = addr {
            log::debug!("link {id} cannot reach {addr}: {error}");
        }
        link.last = (addr, error);
        self.dial_next(now, id);
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
            self.remove_link(id);
        }
        self.told.emit(Event::DialFailed {
            link: id,
            addr,
            error,
            attempts,
            retry_in,
        });
    }

    /// Draws the pause before the next attempt.
    fn wait_to_reconnect(&mut self, now: Tick, id: LinkId) -> Duration {
        let (min, max) = (self.rules.reconnect_min_ms, self.rules.reconnect_max_ms);
        let failures = self.links.links.get(&id).map_or(0, |link| link.failures);
        let is_double = self.links.links.get(&id).is_some_and(|link| link.is_double);
        let doublings = if is_double {
            u32::MAX
        } else {
            failures.saturating_sub(1)
        };
        let bound = min.saturating_mul(1 << doublings.min(20)).min(max).max(1);
        // Not at once: whoever just refused us would only do so again.
        let pause = 1 + self.links.draw(bound - 1);
        let timer = self.deadlines.wheel.insert(now + pause, Timer::Link(id));
        if let Some(link) = self.links.links.get_mut(&id) {
            link.state = LinkState::Waiting(timer);
        }
        Duration::from_millis(pause)
    }

    pub(super) fn handle_link_timer(&mut self, now: Tick, id: LinkId) {
        let Some(link) = self.links.links.get(&id) else {
            self.slots.ledger.stale_events.add(1);
            return;
        };
        if let LinkState::Resolving(_) = link.state {
            self.fail_lookup(now, id, DialError::ResolveTimeout);
            return;
        }
        // Another connection of the same node would only be refused.
        let node_id = link.node_id;
        if self.is_connected(node_id) {
            if let Some(link) = self.links.links.get_mut(&id) {
                link.state = LinkState::Covered;
                link.failures = 0;
                self.links.covered.entry(node_id).or_default().push(id);
            }
            return;
        }
        self.begin_attempt(now, id);
    }

    pub(super) fn give_up(&mut self, now: Tick, id: PeerId, error: DialError) {
        if let Some(connection) = self.connection(id) {
            connection.dial_error = Some(error);
        }
        self.leave(now, id, CloseReason::Io, true);
    }

    // ----- nodes -----------------------------------------------------------------------------

    /// The connection that counts as the node's. One that is on its way out does not, nor does one
    /// of which the node itself has said that it sends nothing more.
    pub(super) fn connection_of(&self, node_id: NodeId) -> Option<PeerId> {
        let id = *self.nodes.here.get(&node_id)?;
        let connection = self.connections.look(id.index() as usize)?;
        let counts = connection.id() == id && connection.leaving.is_none();
        (counts && connection.peer.state().takes_input()).then_some(id)
    }

    /// Whether a node is connected, to this loop or to another.
    fn is_connected(&self, node_id: NodeId) -> bool {
        let elsewhere = self.nodes.registry.as_ref();
        self.connection_of(node_id).is_some()
            || elsewhere.is_some_and(|all| all.is_elsewhere(node_id, self.slots.shard()))
    }

    /// Whether a peer that just said who it is may stay beside another connection of its node: the
    /// connection that has to go for it, or the refusal of this one. Where they are with different
    /// loops, the other one is told.
    pub(super) fn judge_node(
        &mut self,
        now: Tick,
        id: PeerId,
    ) -> Result<Option<PeerId>, &'static str> {
        const REFUSAL: &str = "another connection of the same node exists";
        let Some(claim) = self.claim_of(id) else {
            return Ok(None);
        };
        let Some(connection) = self.connection(id) else {
            return Ok(None);
        };
        let (node_id, own) = (connection.peer.node_id(), self.rules.node_id);
        if node_id.is_anonymous() {
            return Ok(None);
        }
        if node_id == own {
            self.doubt_self(now, claim);
            return Err("the peer has our own node id");
        }
        let Some(node_registry) = self.nodes.registry.clone() else {
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
        let shard = self.slots.shard();
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
        if let Some(connection) = self.connection(id) {
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
        let peer = &self.connection(id)?.peer;
        Some(Claim {
            peer: id,
            addr: peer.addr,
            is_ours: peer.link.is_some(),
            is_authenticated: peer.is_authenticated(),
        })
    }

    /// Gives up the claim to its node of a connection that counts no more as the node's.
    #[inline]
    pub(super) fn give_up_node(&mut self, id: PeerId) {
        if self.nodes.registry.is_some() {
            if let Some(connection) = self.connections.get_mut(id.index() as usize) {
                self.nodes.give_up(connection);
            }
        }
    }

    /// Whether there is news of nodes of other loops, or they ask for something.
    pub(crate) fn has_news(&self) -> bool {
        let (node_registry, shard) = (self.nodes.registry.as_ref(), self.slots.shard());
        self.slots.ledger.budget.is_asked()
            || node_registry.is_some_and(|node_registry| node_registry.has_news(shard))
    }

    /// Connections of nodes to other loops have ended, which links may have waited for.
    pub(super) fn learn_nodes(&mut self, now: Tick) {
        let shard = self.slots.shard();
        let Some(node_registry) = self
            .nodes
            .registry
            .as_ref()
            .filter(|all| all.has_news(shard))
        else {
            return;
        };
        let nodes = node_registry.take_news(shard);
        let nodes = nodes.unwrap_or_else(|| self.links.covered.keys().copied().collect());
        for node_id in nodes {
            self.uncover_links(now, node_id);
        }
    }
}

/// What tests look at.
#[cfg(test)]
impl Peers {
    /// Panics unless links and connections agree about each other.
    pub(super) fn check_links(&self) {
        let known = self.links.links.len();
        let asked = self.slots.links.load(std::sync::atomic::Ordering::Relaxed);
        assert!(known <= asked, "{known} links of {asked}");
        let mut covered = 0;
        for (id, link) in &self.links.links {
            match link.state {
                LinkState::Resolving(timer) => {
                    assert!(self.deadlines.wheel.deadline(timer).is_some())
                }
                LinkState::Dialling(peer) | LinkState::Up { peer, .. } => {
                    let connection = self.connections.look(peer.index() as usize).unwrap();
                    assert_eq!((connection.id(), connection.peer.link), (peer, Some(*id)));
                    let up = matches!(link.state, LinkState::Up { .. });
                    assert_eq!(connection.told_connected, up, "{id} {link:?}");
                }
                LinkState::Waiting(timer) => {
                    assert!(self.deadlines.wheel.deadline(timer).is_some())
                }
                LinkState::Covered => {
                    assert!(
                        self.nodes.here.contains_key(&link.node_id),
                        "{id} waits for ever"
                    );
                    assert!(self.links.covered[&link.node_id].contains(id));
                    covered += 1;
                }
            }
        }
        let listed: usize = self.links.covered.values().map(Vec::len).sum();
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
                let state = self.links.links.get(&id).map(|link| link.state);
                let peer = connection.id();
                let agrees = match state {
                    Some(LinkState::Dialling(own) | LinkState::Up { peer: own, .. }) => own == peer,
                    Some(LinkState::Resolving(_) | LinkState::Waiting(_) | LinkState::Covered) => {
                        false
                    }
                    // The stop has ended it, or its close waits for a lock.
                    None => self.ended.stop.is_some() || connection.pause.is_some(),
                };
                assert!(agrees, "{peer} is of link {id}, which is {state:?}");
            }
        }
    }

    /// Whether a connection of the node is up.
    pub(crate) fn is_node_up(&self, node_id: NodeId) -> bool {
        self.connection_of(node_id).is_some()
    }

    /// Whether the link waits to dial, and knows that it is this node that it would find.
    pub(crate) fn waits_for_node(&self, id: LinkId, node_id: NodeId) -> bool {
        let link = self.links.links.get(&id);
        link.is_some_and(|link| {
            let waits = matches!(link.state, LinkState::Waiting(_) | LinkState::Covered);
            waits && link.node_id == node_id
        })
    }

    /// Whether an attempt of the link waits for the addresses of its name.
    pub(crate) fn is_resolving(&self, id: LinkId) -> bool {
        let link = self.links.links.get(&id);
        link.is_some_and(|link| matches!(link.state, LinkState::Resolving(_)))
    }

    pub(crate) fn describe_links(&self) -> String {
        format!("{:?} {:?}", self.links, self.nodes.here)
    }
}
