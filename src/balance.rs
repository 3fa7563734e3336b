//! The sums of the ledger, held against each other.
//!
//! A service counts every term of a sum where it comes about, on the thread that does it. A
//! [`Balance`] takes all of them at one moment, as far as the sums can tell, and says which do not
//! add up. While the service runs, that moment is a **consistent cut**:
//!
//! 1. the loop looks at one peer after the other, and what senders have left in its slot, a number
//!    of them in each turn; then it reads its own counters between two pieces of work;
//! 2. it sends a marker behind all blocks that it has handed over; the dispatcher reads its own
//!    counters when it comes to the marker, so it has dispatched just what the loop had received;
//! 3. subscribers go on meanwhile. Each says when it begins to take or to discard and when it has
//!    done so, so that the dispatcher can tell that it read a row while no thread was in between.
//!
//! If one was, or held a lock, the cut is given up and taken anew: no thread waits for another.
//!
//! Where there are several loops, each has its own cut, and they are added up. They need not be of
//! one moment: what a loop received is dispatched by its own dispatcher and counted in counters of
//! its own at every subscriber, so the sums of each shard hold without the others.

mod cut;

use std::fmt;

use crate::{
    id::{MessageType, PeerId, SubscriberId},
    ledger::{RequestRow, Snapshot, Traffic, TypeTraffic},
};

pub(crate) use cut::{
    Cut, CutAnswer, CutMarker, DispatchCut, LoopCut, PeerCut, PeerSums, PeersCut, SubscribersCut,
    SumsOverPeers,
};

/// The sums of a service, and whether they add up; see [`Handle::balance`](crate::Handle::balance)
/// and [`Snapshot::balance`].
///
/// # Examples
///
/// ```
/// use nebnet::{Config, NetService};
///
/// let mut service = NetService::new(Config::default().listen("127.0.0.1:0".parse()?))?;
/// service.start()?;
/// let balance = service.handle().balance();
/// assert!(balance.is_exact(), "{balance}");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Balance {
    /// Whether the terms are of one moment. False if no cut could be taken: then the counters were
    /// read one after the other while others counted on.
    pub is_cut: bool,
    /// Every sum.
    pub equations: Vec<Equation>,
    /// Connections that were not looked at one by one: those with more than 2^17 pieces of output
    /// waiting, which is more than the default limits let come about; all of them, if they are
    /// more than 65,536, whose sums are left out too.
    pub peers_left_out: u64,
}

/// What a sum is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Subject {
    /// The service as a whole.
    Service,
    /// A subscriber of messages.
    Subscriber(SubscriberId),
    /// A subscriber of events.
    EventSubscriber(SubscriberId),
    /// The subscribers of messages that have left.
    Departed,
    /// A message type; `None` stands for all types beyond the first 1,024 that were seen.
    Type(Option<MessageType>),
    /// A connection.
    Peer(PeerId),
}

/// A sum, and the terms that it has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Equation {
    /// What it belongs to.
    pub subject: Subject,
    /// What is summed up.
    pub name: &'static str,
    /// The sum, counted on its own.
    pub sum: u64,
    /// Its terms, each counted on its own.
    pub terms: Vec<(&'static str, u64)>,
}

impl Balance {
    /// Whether the terms are of one moment, none was left out, and every sum adds up.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        self.is_cut && self.peers_left_out == 0 && self.problems().is_empty()
    }

    /// The sums that do not add up.
    #[must_use]
    pub fn problems(&self) -> Vec<&Equation> {
        let equations = self.equations.iter();
        equations.filter(|equation| !equation.holds()).collect()
    }

    fn push(&mut self, subject: Subject, name: &'static str, sum: u64, terms: &[Term]) {
        self.equations.push(Equation {
            subject,
            name,
            sum,
            terms: terms.to_vec(),
        });
    }

    fn push_traffic(
        &mut self,
        subject: Subject,
        names: [&'static str; 2],
        sum: Traffic,
        terms: &[(&'static str, Traffic)],
    ) {
        let terms_of = |part: fn(&Traffic) -> u64| -> Vec<Term> {
            let terms = terms.iter();
            terms
                .map(|(name, traffic)| (*name, part(traffic)))
                .collect()
        };
        let messages = terms_of(|traffic| traffic.messages);
        let bytes = terms_of(|traffic| traffic.bytes);
        self.push(subject, names[0], sum.messages, &messages);
        self.push(subject, names[1], sum.bytes, &bytes);
    }

    /// The sums of the service, which a snapshot has all terms of.
    fn push_service(&mut self, shot: &Snapshot, waiting: Traffic, put_off: u64) {
        let service = Subject::Service;
        self.push(
            service,
            "received",
            shot.inbound.messages,
            &[
                ("handled", shot.handled),
                ("dispatched", shot.dispatched),
                ("queued for dispatch", waiting.messages),
                ("undelivered", shot.undelivered),
            ],
        );
        self.push(
            service,
            "dispatched",
            shot.dispatched,
            &[
                ("claimed", shot.claimed),
                ("unclaimed", shot.unclaimed),
                ("answers put off", put_off),
            ],
        );
        let calls = shot.handlers.iter().map(|row| row.calls).sum();
        self.push(service, "handled", shot.handled, &[("calls", calls)]);
        self.push_types(shot, waiting, put_off);
        self.push_traffic(
            service,
            ["accepted for sending", "bytes accepted for sending"],
            shot.outbound_accepted,
            &[
                ("written", shot.outbound_written),
                ("lost with their connection", shot.outbound_dropped),
                ("dropped for later ones", shot.outbound_overflowed),
                ("queued", shot.outbound_queued),
            ],
        );
        self.push(
            service,
            "connections made",
            shot.accepted + shot.dialled,
            &[
                ("open", shot.peers),
                ("being refused", shot.refused),
                ("closed, by reason", shot.closed_total()),
            ],
        );
        self.push_requests(&shot.requests);
        self.push_subscribers(shot);
    }

    /// What the types add up to, and what each of them does.
    fn push_types(&mut self, shot: &Snapshot, waiting: Traffic, put_off: u64) {
        let mut all = TypeTraffic::default();
        for row in &shot.types {
            all.add(row);
        }
        let service = Subject::Service;
        let names = ["written", "bytes written"];
        self.push_traffic(
            service,
            names,
            shot.outbound_written,
            &[("of all types", all.outbound)],
        );
        let (answered, late) = (shot.requests.answered, shot.requests.late);
        let mut push = |name, sum, terms: &[Term]| self.push(service, name, sum, terms);
        let passed = shot.handled + shot.dispatched;
        push(
            "handled and dispatched",
            passed,
            &[("of all types", all.inbound.messages)],
        );
        push("handled", shot.handled, &[("of all types", all.handled)]);
        let terms = [("of all types", all.claimed), ("answers", answered)];
        push("claimed", shot.claimed, &terms);
        let terms = [("of all types", all.unclaimed), ("late answers", late)];
        push("unclaimed", shot.unclaimed, &terms);
        // The queue's own fill is in bytes of storage.
        if waiting == Traffic::default() || waiting.bytes > 0 {
            let terms = [
                ("of all types", all.inbound.bytes),
                ("queued for dispatch", waiting.bytes),
                ("undelivered", shot.undelivered_bytes),
            ];
            push("bytes received", shot.inbound.bytes, &terms);
        }
        let terms = [("in time", answered), ("late", late), ("put off", put_off)];
        push("answers of all types", all.answers, &terms);
        for row in &shot.types {
            let terms = [
                ("handled", row.handled),
                ("claimed", row.claimed),
                ("unclaimed", row.unclaimed),
                ("answers", row.answers),
            ];
            let subject = Subject::Type(row.message_type);
            self.push(
                subject,
                "handled and dispatched",
                row.inbound.messages,
                &terms,
            );
        }
    }

    fn push_requests(&mut self, row: &RequestRow) {
        let terms = [
            ("answered", row.answered),
            ("timed out", row.timed_out),
            ("closed", row.closed),
            ("cancelled", row.cancelled),
            ("outstanding", row.outstanding),
        ];
        self.push(Subject::Service, "requests", row.sent, &terms);
    }

    fn push_subscribers(&mut self, shot: &Snapshot) {
        for row in &shot.subscribers {
            let terms = [
                ("taken", row.taken),
                ("dropped", row.dropped),
                ("discarded", row.discarded),
                ("queued", row.queued),
                ("parked", row.parked),
            ];
            self.push(Subject::Subscriber(row.id), "matched", row.matched, &terms);
        }
        for row in &shot.event_subscribers {
            let terms = [
                ("taken", row.taken),
                ("dropped", row.dropped),
                ("discarded", row.discarded),
                ("queued", row.queued),
            ];
            let subject = Subject::EventSubscriber(row.id);
            self.push(subject, "events", row.matched, &terms);
        }
        let row = &shot.departed;
        let terms = [
            ("taken", row.taken),
            ("dropped", row.dropped),
            ("discarded", row.discarded),
            ("queued", row.queued),
        ];
        self.push(Subject::Departed, "matched", row.matched, &terms);
    }

    fn push_peers(&mut self, shot: &Snapshot, cut: &PeersCut) {
        for peer in &cut.peers {
            self.push_traffic(
                Subject::Peer(peer.id),
                ["accepted for sending", "bytes accepted for sending"],
                peer.accepted,
                &[
                    ("written", peer.written),
                    ("dropped for later ones", peer.overflowed),
                    ("not seen by the loop", peer.unseen),
                    ("in the outbox", peer.outbox),
                ],
            );
        }
        let service = Subject::Service;
        let Some(SumsOverPeers { live, gone }) = &cut.sums else {
            return;
        };
        let by_peer = |live, gone| [("of open connections", live), ("of closed ones", gone)];
        self.push_traffic(
            service,
            ["received of peers", "bytes received of peers"],
            shot.inbound,
            &by_peer(live.inbound, gone.inbound),
        );
        self.push_traffic(
            service,
            ["written to peers", "bytes written to peers"],
            shot.outbound_written,
            &by_peer(live.written, gone.written),
        );
        self.push_traffic(
            service,
            ["accepted for peers", "bytes accepted for peers"],
            shot.outbound_accepted,
            &by_peer(live.accepted, gone.accepted),
        );
        self.push_traffic(
            service,
            ["lost with peers", "bytes lost with peers"],
            shot.outbound_dropped,
            &[("of closed connections", gone.lost)],
        );
    }
}

type Term = (&'static str, u64);

impl Equation {
    /// Whether the terms are the sum.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.terms.iter().map(|(_, term)| term).sum::<u64>() == self.sum
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service => f.write_str("service"),
            Self::Subscriber(id) => write!(f, "subscriber {id}"),
            Self::EventSubscriber(id) => write!(f, "event subscriber {id}"),
            Self::Departed => f.write_str("subscribers that left"),
            Self::Type(Some(message_type)) => write!(f, "type {message_type}"),
            Self::Type(None) => f.write_str("other types"),
            Self::Peer(id) => write!(f, "peer {id}"),
        }
    }
}

impl fmt::Display for Equation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.holds() { "=" } else { "is not" };
        write!(f, "{}: {} {} {sign} ", self.subject, self.sum, self.name)?;
        for (position, (name, term)) in self.terms.iter().enumerate() {
            let plus = if position > 0 { " + " } else { "" };
            write!(f, "{plus}{term} {name}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Balance {
    /// What does not add up, a line each.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (problems, count) = (self.problems(), self.equations.len());
        write!(f, "{} of {count} sums do not add up", problems.len())?;
        if !self.is_cut {
            f.write_str("; no cut could be taken")?;
        }
        if self.peers_left_out > 0 {
            write!(f, "; {} connections were left out", self.peers_left_out)?;
        }
        for problem in problems {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

impl Snapshot {
    /// Holds the sums against each other. They are exact if the service was quiet or stopped when
    /// the snapshot was taken; while it runs, [`Handle::balance`](crate::Handle::balance) takes a
    /// moment at which they are. Those of each peer are not in a snapshot.
    #[must_use]
    pub fn balance(&self) -> Balance {
        let mut balance = Balance::new(true);
        let queue = &self.dispatch_queue;
        // What is parked is dispatched, and only keeps its place.
        let waiting = queue.messages.saturating_sub(queue.messages_parked);
        balance.push_service(self, Traffic::new(waiting, 0), 0);
        balance
    }
}

impl Balance {
    fn new(is_cut: bool) -> Self {
        Self {
            is_cut,
            equations: Vec::new(),
            peers_left_out: 0,
        }
    }

    /// The sums of counters that were read one after the other.
    pub(crate) fn torn(shot: &Snapshot) -> Self {
        Self {
            is_cut: false,
            ..shot.balance()
        }
    }

    /// The sums of a cut, which has a part of each shard; there is one at least. The sums of every
    /// part hold on their own, so those of all do, although each is of its own moment.
    pub(crate) fn of(cuts: Vec<Cut>) -> Self {
        let mut whole: Option<(Snapshot, PeersCut)> = None;
        let (mut waiting, mut put_off) = (Traffic::default(), 0);
        for cut in cuts {
            waiting.add(cut.at_loop.waiting);
            put_off += cut.behind.put_off;
            let (shot, peers) = cut.into_parts();
            whole = match whole {
                None => Some((shot, peers)),
                Some((mut shots, mut all)) => {
                    // They are the service's, and were looked at anew.
                    shots.requests = shot.requests;
                    shots.add(shot);
                    all.add(peers);
                    Some((shots, all))
                }
            };
        }
        let mut balance = Self::new(true);
        let Some((shot, peers)) = whole else {
            return balance;
        };
        balance.peers_left_out = peers.left_out;
        balance.push_service(&shot, waiting, put_off);
        balance.push_peers(&shot, &peers);
        balance
    }
}
