//! What is kept of a peer that does nothing.
//!
//! Most of what a [`Peer`] has is for bytes that are under way. While there are none, much less
//! tells it from others: two ticks for one from which nothing ever came and to which nothing went,
//! and the sums besides for any other. Every field is named below, so that a new one cannot be
//! forgotten.

use std::{net::SocketAddr, sync::Arc};

use super::{
    counts::Counts,
    greeting::{Greeting, HelloState},
    input_times::InputTimes,
    machine::Peer,
    state::State,
};
use crate::{
    clock::Tick,
    id::{LinkId, PeerId, PeerIdentity},
    ledger::Traffic,
    slots::Sums,
};

/// A connection that was accepted and on which nothing has happened since.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Untouched {
    pub(crate) opened: Tick,
    /// The start of all its deadlines.
    pub(crate) since: Tick,
    pub(crate) hello: HelloState,
    pub(crate) checksums: bool,
}

/// A connection on which nothing is under way.
#[derive(Clone, Debug)]
pub(crate) struct Dormant {
    pub(crate) id: PeerId,
    link: Option<LinkId>,
    identity: Option<Arc<PeerIdentity>>,
    opened: Tick,
    moved: Tick,
    first_frame_since: Option<Tick>,
    idle_since: Tick,
    heard_since: Tick,
    hello: HelloState,
    checksums: bool,
    read: Traffic,
    inbound: Traffic,
    outbound: Traffic,
    sums: Sums,
    answered: Traffic,
}

/// What a connection has counted, whether it is dormant or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) inbound: Traffic,
    pub(crate) outbound: Traffic,
    /// From senders, as far as the loop has seen it, and what handlers answered.
    pub(crate) accepted: Traffic,
    pub(crate) answered: Traffic,
}

impl Dormant {
    pub(crate) fn tally(&self) -> Tally {
        Tally {
            inbound: self.inbound,
            outbound: self.outbound,
            accepted: self.sums.accepted,
            answered: self.answered,
        }
    }
}

impl Peer {
    pub(crate) fn tally(&self) -> Tally {
        self.counts.tally()
    }

    /// What is to be kept of a connection on which nothing has happened yet; `None` if something
    /// has.
    pub(crate) fn untouched(&self) -> Option<Untouched> {
        let (times, greeting) = (&self.times, &self.greeting);
        let since = times.idle_since;
        let nothing = self.is_inactive()
            && self.link.is_none()
            && greeting.identity.is_none()
            && self.moved == self.opened
            && times.heard_since == since
            && times.first_frame_since == Some(since)
            && self.counts.are_zero();
        nothing.then_some(Untouched {
            opened: self.opened,
            since,
            hello: greeting.hello,
            checksums: greeting.checksums,
        })
    }

    /// Whether nothing is under way, so that [`into_dormant`](Self::into_dormant) forgets nothing.
    pub(crate) fn is_inactive(&self) -> bool {
        let Self {
            id: _,
            addr: _,
            link: _,
            state,
            opened: _,
            moved: _,
            times:
                InputTimes {
                    first_frame_since: _,
                    frame_since,
                    idle_since: _,
                    heard_since: _,
                    pinged,
                    ping_waits,
                    paused_since,
                },
            sent,
            greeting:
                Greeting {
                    hello: _,
                    identity: _,
                    checksums: _,
                    before_ok,
                },
            ending,
            carry,
            outbox,
            pong,
            counts:
                Counts {
                    read: _,
                    inbound: _,
                    outbound: _,
                    sums: _,
                    answered: _,
                    unanswered,
                },
        } = self;
        let marks = [frame_since, paused_since];
        *state == State::Open
            && !sent.as_ref().is_some_and(|sent| sent.is_blocked())
            && marks.iter().all(|mark| mark.is_none())
            && pinged.is_none()
            && !*ping_waits
            && ending.is_untouched()
            && *unanswered == 0
            && before_ok.is_none()
            && carry.capacity() == 0
            && outbox.is_inactive()
            && pong.is_none()
    }

    /// What is to be kept of a connection that [is inactive](Self::is_inactive), but for its
    /// address.
    pub(crate) fn into_dormant(self) -> Dormant {
        debug_assert!(self.is_inactive(), "{self:?}");
        let (times, greeting, counts) = (self.times, self.greeting, self.counts);
        Dormant {
            id: self.id,
            link: self.link,
            identity: greeting.identity,
            opened: self.opened,
            moved: self.moved,
            first_frame_since: times.first_frame_since,
            idle_since: times.idle_since,
            heard_since: times.heard_since,
            hello: greeting.hello,
            checksums: greeting.checksums,
            read: counts.read,
            inbound: counts.inbound,
            outbound: counts.outbound,
            sums: counts.sums,
            answered: counts.answered,
        }
    }

    /// The connection that [`untouched`](Self::untouched) has told of.
    pub(crate) fn from_untouched(id: PeerId, addr: SocketAddr, kept: Untouched) -> Self {
        let Untouched {
            opened,
            since,
            hello,
            checksums,
        } = kept;
        let mut peer = Self::with_hello(id, addr, since, hello);
        (peer.opened, peer.moved) = (opened, opened);
        peer.greeting.checksums = checksums;
        peer
    }

    /// The connection that [`into_dormant`](Self::into_dormant) was made of.
    pub(crate) fn from_dormant(addr: SocketAddr, kept: Dormant) -> Self {
        let Dormant {
            id,
            link,
            identity,
            opened,
            moved,
            first_frame_since,
            idle_since,
            heard_since,
            hello,
            checksums,
            read,
            inbound,
            outbound,
            sums,
            answered,
        } = kept;
        let mut peer = Self::with_hello(id, addr, opened, hello);
        (peer.link, peer.moved) = (link, moved);
        peer.times.first_frame_since = first_frame_since;
        peer.times.idle_since = idle_since;
        peer.times.heard_since = heard_since;
        peer.greeting.identity = identity;
        peer.greeting.checksums = checksums;
        peer.counts = Counts {
            read,
            inbound,
            outbound,
            sums,
            answered,
            unanswered: 0,
        };
        peer
    }
}

impl Counts {
    fn tally(&self) -> Tally {
        Tally {
            inbound: self.inbound,
            outbound: self.outbound,
            accepted: self.sums.accepted,
            answered: self.answered,
        }
    }

    /// Whether nothing has been counted that a connection is kept by.
    fn are_zero(&self) -> bool {
        let sums = [
            self.read,
            self.inbound,
            self.outbound,
            self.sums.accepted,
            self.sums.overflowed,
            self.answered,
        ];
        sums.iter().all(|sum| *sum == Traffic::default())
    }
}
