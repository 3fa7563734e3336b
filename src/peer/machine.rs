//! The peer: its parts, how it begins, and its state.
//!
//! The state is written by `set_state` alone, but for the deadline of a greeting, which moves by
//! the time in which the peer is not read.

use std::net::SocketAddr;

use super::{
    counts::Counts,
    ending::Ending,
    greeting::{Greeting, HelloState},
    input_times::InputTimes,
    rules::Rules,
    sent::Sent,
    state::State,
};
use crate::{
    clock::Tick,
    frame::{self, Frame},
    id::{LinkId, NodeId, PeerId},
    outbox::Outbox,
};

/// One connection.
///
/// It has more methods than others because it is the only writer of its [`State`], by which most of
/// them branch; what does not depend on the state is with the parts that it is made of.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) id: PeerId,
    pub(crate) addr: SocketAddr,
    /// The link that made the connection, if it was we who connected.
    pub(crate) link: Option<LinkId>,
    pub(super) state: State,
    pub(crate) opened: Tick,
    /// When the last byte moved, in either direction.
    pub(crate) moved: Tick,
    pub(super) times: InputTimes,
    /// What became of what was written, since the connection was dormant.
    pub(super) sent: Option<Box<Sent>>,
    pub(crate) greeting: Greeting,
    pub(crate) ending: Ending,
    /// The beginning of an unfinished frame.
    pub(crate) carry: Vec<u8>,
    pub(crate) outbox: Outbox,
    /// The PONG that waits; a newer PING replaces it.
    pub(super) pong: Option<Box<[u8]>>,
    pub(crate) counts: Counts,
}

/// How a connection is to be made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dial {
    pub(crate) link: LinkId,
    pub(crate) timeout_ms: u64,
    pub(crate) hello: bool,
    pub(crate) checksums: bool,
}

impl Peer {
    /// A connection that was accepted.
    pub(crate) fn new(id: PeerId, addr: SocketAddr, now: Tick, rules: &Rules) -> Self {
        let hello = if rules.hello_required {
            HelloState::Required
        } else {
            HelloState::Optional
        };
        let mut peer = Self::with_hello(id, addr, now, hello);
        peer.greeting.checksums = rules.checksums;
        peer
    }

    pub(super) fn with_hello(id: PeerId, addr: SocketAddr, now: Tick, hello: HelloState) -> Self {
        Self {
            id,
            addr,
            link: None,
            state: State::Open,
            opened: now,
            moved: now,
            times: InputTimes::new(now),
            sent: None,
            greeting: Greeting::new(hello),
            ending: Ending::default(),
            carry: Vec::new(),
            outbox: Outbox::default(),
            pong: None,
            counts: Counts::default(),
        }
    }

    /// A connection that we make.
    pub(crate) fn dialling(id: PeerId, addr: SocketAddr, dial: Dial, now: Tick) -> Self {
        let hello = if dial.hello {
            HelloState::Awaited
        } else {
            HelloState::Never
        };
        let mut peer = Self::with_hello(id, addr, now, hello);
        peer.link = Some(dial.link);
        peer.state = State::Connecting {
            deadline: now.saturating_add(dial.timeout_ms),
        };
        peer.times.first_frame_since = None;
        peer.greeting.checksums = dial.checksums;
        peer
    }

    /// Who the peer says it is.
    pub(crate) fn node_id(&self) -> NodeId {
        self.greeting
            .identity
            .as_ref()
            .map_or(NodeId::ANONYMOUS, |identity| identity.node_id)
    }

    /// Whether it showed a token that we accept.
    pub(crate) fn is_authenticated(&self) -> bool {
        let identity = self.greeting.identity.as_ref();
        identity.is_some_and(|identity| identity.authenticated)
    }

    pub(crate) fn state(&self) -> State {
        self.state
    }

    /// Whether a first whole frame came, or none is waited for.
    pub(crate) fn has_spoken(&self) -> bool {
        self.times.first_frame_since.is_none()
    }

    /// Whether frames of the peer are taken in.
    pub(crate) fn takes_messages(&self) -> bool {
        self.state.takes_input() || self.ending.reads_on
    }

    /// Whether bytes of the peer are read only to be counted.
    pub(crate) fn discards(&self) -> bool {
        let closes = match self.state {
            State::Connecting { .. }
            | State::Greeting { .. }
            | State::Open
            | State::Refused { .. }
            | State::HalfClosed { .. } => false,
            State::Stopping { .. } | State::Draining { .. } | State::Lingering { .. } => true,
        };
        closes && !self.ending.reads_on
    }

    /// Whether the connection is on its way to be closed.
    pub(crate) fn is_closing(&self) -> bool {
        match self.state {
            State::Connecting { .. }
            | State::Greeting { .. }
            | State::Open
            | State::Refused { .. }
            | State::HalfClosed { .. }
            | State::Stopping { .. } => false,
            State::Draining { .. } | State::Lingering { .. } => true,
        }
    }

    /// Whether it is over but for what the peer's system may not have.
    pub(crate) fn is_ended(&self) -> bool {
        self.ending.eof && matches!(self.state, State::Lingering { .. })
    }

    /// Whether it is closing, and over at this tick at the latest.
    pub(crate) fn ends_until(&self, tick: Tick) -> bool {
        match self.state {
            State::Draining { deadline, .. } | State::Lingering { deadline, .. } => {
                deadline <= tick
            }
            State::Connecting { .. }
            | State::Greeting { .. }
            | State::Open
            | State::Refused { .. }
            | State::HalfClosed { .. }
            | State::Stopping { .. } => false,
        }
    }

    pub(super) fn insert_control(&mut self, frame: &Frame<'_>) {
        let frame = &Frame {
            checksum: self.greeting.checksums,
            ..*frame
        };
        let mut bytes = Vec::with_capacity(frame.encoded_size());
        frame::encode_whole(frame, &mut bytes);
        self.outbox.insert_control(bytes);
    }

    /// The only writer of the state.
    pub(super) fn set_state(&mut self, now: Tick, next: State) {
        assert!(
            self.state.may_become(next),
            "{:?} cannot become {next:?}",
            self.state
        );
        if self.state.name() != next.name() {
            log::trace!(
                "peer {}: {} => {} at {now}",
                self.id,
                self.state.name(),
                next.name()
            );
        }
        self.state = next;
    }
}
