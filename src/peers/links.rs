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
    sync::atomic::Ordering,
    time::Duration,
};

use super::{
    connection::Connection,
    deadlines::{Deadlines, Timer},
};
use crate::{
    clock::Tick,
    dial::{NewLink, Source},
    error::{CloseReason, DialError},
    id::{LinkId, NodeId, PeerId},
    peer::Rules,
    slots::Slots,
    wheel::TimerKey,
};

/// What the last warning of a copied node id was about: what is wrong, the node, and the connection
/// of it that is in the way, if there is one here.
pub(super) type Doubt = (&'static str, NodeId, Option<PeerId>);

/// All links of a loop.
///
/// Invariants:
/// - a link that dials or is up has one connection, which is of this link; one that resolves or
///   waits has one timer
/// - `covered` has exactly the links in the state `Covered`, by the node of a connection that is up
#[derive(Debug, Default)]
pub(super) struct Links {
    pub(super) links: BTreeMap<LinkId, Link>,
    /// Those that are covered, by the node that covers them.
    pub(super) covered: HashMap<NodeId, Vec<LinkId>>,
    /// State of the generator that pauses are drawn from; never zero.
    random: u64,
    /// What the last warning of a copied node id was about.
    pub(super) doubt: Option<Doubt>,
}

#[derive(Debug)]
pub(super) struct Link {
    pub(super) source: Source,
    pub(super) keep: bool,
    pub(super) hello: bool,
    pub(super) checksums: bool,
    /// `None`: that of the service.
    pub(super) timeout_ms: Option<Tick>,
    pub(super) state: LinkState,
    /// Addresses of this attempt that were not tried yet, the next one last.
    pub(super) untried: Vec<SocketAddr>,
    /// The last that is known of the name.
    pub(super) known: Known,
    /// Failures in a row.
    pub(super) failures: u32,
    /// The address tried last, and what went wrong there.
    pub(super) last: (Option<SocketAddr>, DialError),
    /// Who answered the last time.
    pub(super) node_id: NodeId,
    /// The other side refused the last attempt, because it is connected to us already. It did not
    /// say who it is, so this link is not covered by that connection, and only tries rarely.
    pub(super) is_double: bool,
}

/// What is known of a name.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) addrs: Vec<SocketAddr>,
    /// They came when their attempt did not wait for them any more, and none has begun since.
    pub(super) is_news: bool,
}

impl Link {
    /// The link as it was asked for, on which nothing has happened yet.
    pub(super) fn new(new: NewLink) -> Self {
        Self {
            source: new.source,
            keep: new.keep,
            hello: new.hello,
            checksums: new.checksums,
            timeout_ms: new.timeout_ms,
            // A placeholder until the attempt begins.
            state: LinkState::Covered,
            untried: Vec::new(),
            known: Known::default(),
            failures: 0,
            last: (None, DialError::NoPlace),
            node_id: NodeId::ANONYMOUS,
            is_double: false,
        }
    }
}

/// Whether the other side has another connection of ours, and keeps that.
pub(super) fn is_double(error: &DialError) -> bool {
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

    /// Takes a link out. Its name may be looked up still, also long after the attempt that waited
    /// for the addresses: no answer is wanted any more.
    pub(super) fn remove(&mut self, id: LinkId, slots: &Slots) -> Option<Link> {
        let link = self.links.remove(&id)?;
        link.source.forget(id);
        forget_link(id, slots);
        Some(link)
    }

    /// Ends the wish for a connection that is there, and stays for the one that asks to close it.
    pub(super) fn end(&mut self, id: Option<LinkId>, slots: &Slots) {
        if let Some(id) = id {
            self.remove(id, slots);
        }
    }

    /// The loop ends without a stop: nothing that is cut off is connected to again.
    pub(super) fn drop_all(&mut self, slots: &Slots, deadlines: &mut Deadlines) {
        self.covered.clear();
        while let Some(id) = self.links.keys().next().copied() {
            let state = self.remove(id, slots).map(|link| link.state);
            if let Some(LinkState::Waiting(timer) | LinkState::Resolving(timer)) = state {
                deadlines.wheel.cancel(timer);
            }
        }
    }

    pub(super) fn forget_covered(&mut self, id: LinkId, node_id: NodeId) {
        if let Some(covered) = self.covered.get_mut(&node_id) {
            covered.retain(|one| *one != id);
            if covered.is_empty() {
                self.covered.remove(&node_id);
            }
        }
    }

    /// The peer of a link may be sent to: the attempt was a success.
    pub(super) fn handle_up(&mut self, now: Tick, connection: &Connection) {
        let link = connection.peer.link;
        let link = link.and_then(|link| self.links.get_mut(&link));
        if let Some(link) = link {
            let peer = connection.id();
            link.state = LinkState::Up { peer, since: now };
            link.node_id = connection.peer.node_id();
            link.is_double = false;
            link.untried = Vec::new();
            link.known.is_news = false;
        }
    }

    /// Draws the pause before the next attempt.
    pub(super) fn wait_to_reconnect(
        &mut self,
        now: Tick,
        id: LinkId,
        rules: &Rules,
        deadlines: &mut Deadlines,
    ) -> Duration {
        let (min, max) = (rules.reconnect_min_ms, rules.reconnect_max_ms);
        let failures = self.links.get(&id).map_or(0, |link| link.failures);
        let is_double = self.links.get(&id).is_some_and(|link| link.is_double);
        let doublings = if is_double {
            u32::MAX
        } else {
            failures.saturating_sub(1)
        };
        let bound = min.saturating_mul(1 << doublings.min(20)).min(max).max(1);
        // Not at once: a service that just refused us would only do so again.
        let pause = 1 + self.draw(bound - 1);
        let timer = deadlines.wheel.insert(now + pause, Timer::Link(id));
        if let Some(link) = self.links.get_mut(&id) {
            link.state = LinkState::Waiting(timer);
        }
        Duration::from_millis(pause)
    }

    /// The links that were refused for another connection, which may have been the one that has
    /// just ended: none of them is a double any more. They wait, each for its timer.
    pub(super) fn take_doubles(&mut self) -> Vec<(LinkId, TimerKey)> {
        let links = self.links.iter_mut();
        links
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
            .collect()
    }
}

/// A link is gone.
pub(super) fn forget_link(id: LinkId, slots: &Slots) {
    log::debug!("link {id} ends");
    slots.links.fetch_sub(1, Ordering::Relaxed);
}
