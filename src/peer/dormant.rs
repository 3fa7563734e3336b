//! What is kept of a peer that does nothing.
//!
//! Most of what a [`Peer`] has is for bytes that are under way. While there are none, much less
//! tells it from others: two ticks for one from which nothing ever came and to which nothing went,
//! and the sums besides for any other. Every field is named below, so that a new one cannot be
//! forgotten.

use std::{net::SocketAddr, sync::Arc};

use super::{HelloState, Peer, State};
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
        Tally {
            inbound: self.inbound,
            outbound: self.outbound,
            accepted: self.sums.accepted,
            answered: self.answered,
        }
    }

    /// What is to be kept of a connection on which nothing has happened yet; `None` if something
    /// has.
    pub(crate) fn untouched(&self) -> Option<Untouched> {
        let since = self.idle_since;
        let sums = [
            self.read,
            self.inbound,
            self.outbound,
            self.sums.accepted,
            self.sums.overflowed,
            self.answered,
        ];
        let nothing = self.is_inactive()
            && self.link.is_none()
            && self.identity.is_none()
            && self.moved == self.opened
            && self.heard_since == since
            && self.first_frame_since == Some(since)
            && sums.iter().all(|sum| *sum == Traffic::default());
        nothing.then_some(Untouched {
            opened: self.opened,
            since,
            hello: self.hello,
            checksums: self.checksums,
        })
    }

    /// Whether nothing is under way, so that [`into_dormant`](Self::into_dormant) forgets nothing.
    pub(crate) fn is_inactive(&self) -> bool {
        let Self {
            id: _,
            addr: _,
            link: _,
            identity: _,
            state,
            opened: _,
            moved: _,
            first_frame_since: _,
            frame_since,
            idle_since: _,
            paused_since,
            sent,
            heard_since: _,
            pinged,
            ping_waits,
            hello: _,
            checksums: _,
            before_ok,
            eof,
            reads_on,
            abandoned,
            discarded,
            unanswered,
            bye_received,
            carry,
            outbox,
            pong,
            read: _,
            inbound: _,
            outbound: _,
            sums: _,
            answered: _,
        } = self;
        let marks = [frame_since, paused_since];
        *state == State::Open
            && !sent.as_ref().is_some_and(|sent| sent.is_blocked())
            && marks.iter().all(|mark| mark.is_none())
            && pinged.is_none()
            && !(*ping_waits || *eof || *reads_on || *abandoned)
            && discarded.is_none()
            && *unanswered == 0
            && before_ok.is_none()
            && bye_received.is_none()
            && carry.capacity() == 0
            && outbox.is_inactive()
            && pong.is_none()
    }

    /// What is to be kept of a connection that [is inactive](Self::is_inactive), but for its
    /// address.
    pub(crate) fn into_dormant(self) -> Dormant {
        debug_assert!(self.is_inactive(), "{self:?}");
        Dormant {
            id: self.id,
            link: self.link,
            identity: self.identity,
            opened: self.opened,
            moved: self.moved,
            first_frame_since: self.first_frame_since,
            idle_since: self.idle_since,
            heard_since: self.heard_since,
            hello: self.hello,
            checksums: self.checksums,
            read: self.read,
            inbound: self.inbound,
            outbound: self.outbound,
            sums: self.sums,
            answered: self.answered,
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
        Self {
            opened,
            moved: opened,
            checksums,
            ..Self::with_hello(id, addr, since, hello)
        }
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
        Self {
            link,
            identity,
            opened,
            moved,
            first_frame_since,
            idle_since,
            heard_since,
            checksums,
            read,
            inbound,
            outbound,
            sums,
            answered,
            ..Self::with_hello(id, addr, opened, hello)
        }
    }
}
