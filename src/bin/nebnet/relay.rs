//! `serve --relay`: what one peer sends goes to all others.
//!
//! No peer is waited for: one for which a quarter of its outbox waits is left out, and counted.
//! That leaves room to read it: two services that fed each other up to the limit would both stop.
//!
//! Whom we connect to, and peers that say a node id, are services, which may relay too and be
//! connected in a circle; all others are clients. So that no message goes round for ever, each that
//! goes to a service carries a number, as its correlation, and one that comes from a service with a
//! number seen before goes no further. Clients get it as it was sent. A message that a client gave
//! a correlation of its own keeps it; between services it is then known by all that it says, and
//! what comes from another service than the first time is a copy.
//!
//! A service that connects is a client until its HELLO is here, and may be sent what is for
//! clients. It knows a relay by its [`AGENT`], and that a relay numbers all that is for services:
//! what comes from one without a number was not for it, and has to end there, since another way may
//! bring it as well.

use std::{
    cell::Cell,
    collections::{HashMap, VecDeque, hash_map::RandomState},
    hash::{BuildHasher as _, Hasher as _},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
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
    /// Of which a quarter may wait for a peer.
    outbox_bytes: &'a AtomicUsize,
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

pub(crate) fn run(
    mut messages: Subscription,
    handle: &Handle,
    outbox_bytes: &AtomicUsize,
) -> Result<Summary, WorkerError> {
    let hasher = RandomState::new();
    let mut relay = Relay {
        handle,
        seen: Seen::default(),
        // Drawn, so that numbers of different services and runs do not meet.
        next: hasher.build_hasher().finish() & !MARK_MASK,
        hasher,
        outbox_bytes,
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
        let from_client = origin == Origin::Client;
        for message in batch {
            if origin == Origin::Relay && message.correlation().is_none() {
                self.early += 1;
                continue;
            }
            let number = self.number_of(message);
            let is_marked = message.correlation().is_some_and(is_mark);
            if self.is_copy(number, sender, is_marked) && (is_marked || !from_client) {
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
            // Who has left already may have been either: what was seen before is a copy.
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
        let rows = self.handle.peers().ok()?;
        rows.into_iter().find(|row| row.peer == peer)?.identity
    }

    /// Whether a message went through here before. One that is marked has a number of its own; of
    /// those that are not, equal ones can come from one peer.
    fn is_copy(&mut self, number: u64, sender: PeerId, is_marked: bool) -> bool {
        match self.seen.insert(number, sender) {
            None => false,
            Some(first) if is_marked || first != sender => {
                // If the first way is gone, this is the one.
                let is_here = is_marked || self.handle.peer(first).is_some();
                if !is_here {
                    self.seen.turn_to(number, sender);
                }
                is_here
            }
            Some(_) => false,
        }
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
        let full = Cell::new(0);
        let queued_max = self.outbox_bytes.load(Ordering::Relaxed) as u64 / 4;
        let chosen = |info: &PeerInfo| {
            let wanted = info.peer != sender && is_service(info) == services;
            let has_room = info.queued.bytes <= queued_max;
            full.set(full.get() + u64::from(wanted && !has_room));
            wanted && has_room
        };
        let report = self
            .handle
            .broadcast(&outgoing, Recipients::Matching(&chosen));
        self.skipped += full.get() + report.skipped.len() as u64;
    }
}

fn is_mark(number: u64) -> bool {
    number & MARK_MASK == MARK
}

fn is_service(info: &PeerInfo) -> bool {
    let identity = info.identity.as_ref();
    info.link.is_some() || identity.is_some_and(|identity| !identity.node_id.is_anonymous())
}

/// The latest numbers, and who came with each first.
#[derive(Debug, Default)]
struct Seen {
    numbers: HashMap<u64, PeerId>,
    order: VecDeque<u64>,
}

impl Seen {
    /// Who came with the number first, if it was there.
    fn insert(&mut self, number: u64, sender: PeerId) -> Option<PeerId> {
        if let Some(first) = self.numbers.get(&number) {
            return Some(*first);
        }
        self.numbers.insert(number, sender);
        self.order.push_back(number);
        if self.order.len() > SEEN_MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.numbers.remove(&oldest);
            }
        }
        None
    }

    fn turn_to(&mut self, number: u64, sender: PeerId) {
        self.numbers.insert(number, sender);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_numbers_are_forgotten() {
        let (mut seen, one, other) = (Seen::default(), PeerId::from_bits(1), PeerId::from_bits(2));
        assert_eq!(seen.insert(0, one), None);
        assert_eq!(seen.insert(0, other), Some(one));
        for number in 1..=SEEN_MAX as u64 {
            assert_eq!(seen.insert(number, one), None);
        }
        assert_eq!(seen.insert(0, other), None);
        assert_eq!(seen.insert(SEEN_MAX as u64, other), Some(one));
        assert_eq!(seen.numbers.len(), SEEN_MAX);
    }

    #[test]
    fn marks_are_told_from_numbers_of_clients() {
        assert!(is_mark(MARK) && is_mark(MARK | 1) && is_mark(MARK | !MARK_MASK));
        assert!(!is_mark(0) && !is_mark(u64::MAX) && !is_mark(7));
    }
}
