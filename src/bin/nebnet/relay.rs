//! `serve --relay`: what one peer sends goes to all others.
//!
//! Nobody is waited for: a peer without room is left out, and counted. Whom we connect to, and
//! peers that say a node id, are services, which may relay too and be connected in a circle; all
//! others are clients. So that no message goes round for ever, each that goes to a service carries
//! a number, as its correlation, and one with a number seen before goes no further. Clients get it
//! as it was sent. A message that a client gave a correlation of its own keeps it; between services
//! it is then known by all that it says, so the same again goes no further than its own service.
//!
//! A service that connects is a client until its HELLO is here, and may be sent what is for
//! clients. It knows a relay by its [`AGENT`], and that a relay numbers all that is for services:
//! what comes from one without a number was not for it, and has to end there, since another way may
//! bring it as well.

use std::{
    collections::{HashSet, VecDeque, hash_map::RandomState},
    hash::{BuildHasher as _, Hasher as _},
    sync::Arc,
};

use nebnet::{
    Batch, Handle, MessageRef, Outgoing, PeerId, PeerIdentity, PeerInfo, Recipients, Subscription,
};

use crate::worker::{Summary, WorkerError};

/// What a relay says that it is.
pub(crate) const AGENT: &str = concat!("nebnet-relay/", env!("CARGO_PKG_VERSION"));
const AGENT_NAME: &str = "nebnet-relay/";
/// Messages remembered; a copy that comes after so many others is passed on again.
const SEEN_MAX: usize = 1 << 16;
/// The first two bytes of the numbers that relays give.
const MARK: u64 = 0x6E62 << 48;
const MARK_MASK: u64 = 0xFFFF << 48;

struct Relay<'a> {
    handle: &'a Handle,
    seen: Seen,
    next: u64,
    hasher: RandomState,
    relayed: u64,
    suppressed: u64,
    /// From relays that did not know yet that we are a service.
    early: u64,
    skipped: u64,
}

/// What a message comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Client,
    Service,
    Relay,
}

pub(crate) fn run(mut messages: Subscription, handle: &Handle) -> Result<Summary, WorkerError> {
    let hasher = RandomState::new();
    let mut relay = Relay {
        handle,
        seen: Seen::default(),
        // Drawn, so that numbers of different services and runs do not meet.
        next: hasher.build_hasher().finish() & !MARK_MASK,
        hasher,
        relayed: 0,
        suppressed: 0,
        early: 0,
        skipped: 0,
    };
    while let Ok(batch) = messages.recv_batch() {
        relay.pass_on(&batch);
    }
    let Relay {
        relayed,
        suppressed,
        early,
        skipped,
        ..
    } = relay;
    let early = match early {
        0 => String::new(),
        count => format!("{count} from relays that did not know us yet, "),
    };
    Ok(format!(
        "{relayed} messages relayed, {suppressed} seen before, {early}{skipped} times no room"
    ))
}

impl Relay<'_> {
    fn pass_on(&mut self, batch: &Batch) {
        let sender = batch.peer();
        let origin = self.origin_of(sender);
        for message in batch {
            if origin == Origin::Relay && message.correlation().is_none() {
                self.early += 1;
                continue;
            }
            let number = self.number_of(message);
            // A client may say the same twice, but a number of ours is given once.
            let may_repeat = origin == Origin::Client && !is_mark(number);
            if !self.seen.insert(number) && !may_repeat {
                self.suppressed += 1;
                continue;
            }
            self.relayed += 1;
            let own = message.correlation().filter(|number| !is_mark(*number));
            self.send(message, sender, own, false);
            self.send(message, sender, own.or(Some(number)), true);
        }
    }

    fn origin_of(&self, sender: PeerId) -> Origin {
        match self.handle.peer(sender) {
            // It has left. What it sent may be copies, if it was a service.
            None => Origin::Service,
            Some(info) if !is_service(&info) => Origin::Client,
            Some(info) => {
                let identity = info.identity.or_else(|| self.identity_of(sender));
                let relay = identity.is_some_and(|said| said.agent.starts_with(AGENT_NAME));
                if relay {
                    Origin::Relay
                } else {
                    Origin::Service
                }
            }
        }
    }

    /// What the loop knows: whom we connected to has answered our HELLO, but that may be noted down
    /// for other threads a moment later.
    fn identity_of(&self, peer: PeerId) -> Option<Arc<PeerIdentity>> {
        let rows = self.handle.peers();
        rows.into_iter().find(|row| row.peer == peer)?.identity
    }

    /// What the message is known by between services.
    fn number_of(&mut self, message: MessageRef<'_>) -> u64 {
        match message.correlation() {
            Some(number) if is_mark(number) => number,
            Some(number) => {
                let mut hasher = self.hasher.build_hasher();
                hasher.write_u16(message.message_type().0);
                hasher.write_u64(number);
                hasher.write(message.payload());
                hasher.finish()
            }
            None => {
                self.next = (self.next + 1) & !MARK_MASK;
                MARK | self.next
            }
        }
    }

    /// Sends to all services, or to all clients, but the sender.
    fn send(
        &mut self,
        message: MessageRef<'_>,
        sender: PeerId,
        correlation: Option<u64>,
        services: bool,
    ) {
        let mut outgoing =
            Outgoing::new(message.message_type(), message.payload()).checksum(message.checksum());
        if let Some(number) = correlation {
            outgoing = outgoing.correlation(number);
        }
        let chosen = |info: &PeerInfo| info.peer != sender && is_service(info) == services;
        let report = self
            .handle
            .broadcast_message(&outgoing, Recipients::Matching(&chosen));
        self.skipped += report.skipped.len() as u64;
    }
}

fn is_mark(number: u64) -> bool {
    number & MARK_MASK == MARK
}

fn is_service(info: &PeerInfo) -> bool {
    let identity = info.identity.as_ref();
    info.link.is_some() || identity.is_some_and(|identity| !identity.node_id.is_anonymous())
}

/// The latest numbers.
#[derive(Debug, Default)]
struct Seen {
    numbers: HashSet<u64>,
    order: VecDeque<u64>,
}

impl Seen {
    /// False if the number was there.
    fn insert(&mut self, number: u64) -> bool {
        if !self.numbers.insert(number) {
            return false;
        }
        self.order.push_back(number);
        if self.order.len() > SEEN_MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.numbers.remove(&oldest);
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_numbers_are_forgotten() {
        let mut seen = Seen::default();
        assert!(seen.insert(0) && !seen.insert(0));
        for number in 1..=SEEN_MAX as u64 {
            assert!(seen.insert(number));
        }
        assert!(seen.insert(0));
        assert!(!seen.insert(SEEN_MAX as u64));
        assert_eq!(seen.numbers.len(), SEEN_MAX);
    }

    #[test]
    fn marks_are_told_from_numbers_of_clients() {
        assert!(is_mark(MARK) && is_mark(MARK | 1) && is_mark(MARK | !MARK_MASK));
        assert!(!is_mark(0) && !is_mark(u64::MAX) && !is_mark(7));
    }
}
