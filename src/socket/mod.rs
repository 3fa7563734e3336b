//! The room that names mio and socket options; everything else sees [`Net`].
//!
//! What a network has to offer, and what the loop relies on:
//! - readiness is edge-triggered: an event comes once, and after it the loop reads or writes until
//!   the call would block, or remembers the peer;
//! - `read` and `write` never block and never raise a signal;
//! - a stream that was closed gives no further events in later polls; within the events in hand it
//!   may, which the generation in the peer's id catches.
//!
//! [`Sockets`] is the real one. The simulator in `src/tests` is the other.

mod accept;
mod diag;
mod kind;
mod listener;
mod poller;

use std::{
    io,
    io::{IoSlice, IoSliceMut},
    net::SocketAddr,
    ops::BitOr,
    time::Duration,
};

pub(crate) use accept::AcceptFault;
pub(crate) use listener::{Listener, SocketOptions, name_conflict};
pub(crate) use poller::{Sockets, raise_descriptor_limit};

use crate::id::PeerId;

/// What the loop asks of a network.
pub(crate) trait Net {
    /// A connection.
    type Stream;

    /// Waits for events and appends them. Returns whether there may be more at once.
    fn poll(&mut self, events: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<bool>;

    /// A connection that waits at a listener; it is not registered yet.
    fn accept(&mut self, listener: usize) -> Result<(Self::Stream, SocketAddr), AcceptFault>;

    /// Asks for the events of a connection, in both directions.
    fn register(&mut self, stream: &mut Self::Stream, peer: PeerId) -> io::Result<()>;

    /// Begins to connect, and asks for the events of the connection as `register` does. It is
    /// writable once it is made, or has failed.
    fn connect(&mut self, addr: SocketAddr, peer: PeerId) -> io::Result<Self::Stream>;

    /// Whether a connection that was begun is made; false is to be asked again after the next
    /// event. The error is the one that it failed with.
    fn is_connected(&mut self, stream: &mut Self::Stream) -> io::Result<bool>;

    /// Reads into the spare capacity of `buffer`, at most `limit` bytes. Zero is the peer's FIN.
    fn read(
        &mut self,
        stream: &mut Self::Stream,
        buffer: &mut Vec<u8>,
        limit: usize,
    ) -> io::Result<usize>;

    /// Reads into the slices, one after the other; zero as above.
    fn read_vectored(
        &mut self,
        stream: &mut Self::Stream,
        slices: &mut [IoSliceMut<'_>],
    ) -> io::Result<usize>;

    /// Writes the beginning of the slices.
    fn write(&mut self, stream: &mut Self::Stream, slices: &[IoSlice<'_>]) -> io::Result<usize>;

    /// What the peer's system has not acknowledged; `last` if nothing is read or written any more,
    /// and only then [`Unacknowledged::Ended`]. Costs several system calls, and is not to be asked
    /// for each message or each write.
    fn unacknowledged(&mut self, stream: &Self::Stream, last: bool) -> Unacknowledged;

    /// Sends a FIN; reading goes on.
    fn shutdown(&mut self, stream: &mut Self::Stream) -> io::Result<()>;

    /// The same for a connection that is about to be closed.
    fn read_last(
        &mut self,
        stream: &mut Self::Stream,
        buffer: &mut Vec<u8>,
        limit: usize,
    ) -> io::Result<usize> {
        self.read(stream, buffer, limit)
    }

    /// Bytes that came and were not read; zero where the system does not tell.
    fn unread(&mut self, stream: &mut Self::Stream) -> u64;

    /// Ends the connection; with `abort`, by a RST.
    fn close(&mut self, stream: Self::Stream, abort: bool);

    /// Accepts connections of one more listener, at the place given.
    fn add_listener(&mut self, index: usize, listener: Listener) -> io::Result<()>;

    /// Ends a listener. Connections that it has accepted stay.
    fn remove_listener(&mut self, index: usize);

    /// Ends all listeners.
    fn close_listeners(&mut self);
}

/// Something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A listener may have connections.
    Listener(usize),
    /// A peer can be read or written, or its connection changed.
    Peer(PeerId, Ready),
}

/// What the peer's system has not acknowledged of what was written; a FIN is not counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unacknowledged {
    /// So many bytes, all of which were sent.
    Bytes(u64),
    /// So many bytes, some of which were not sent, as the peer has no room.
    Unsent(u64),
    /// The connection is over: everything was acknowledged, unless it `failed`, now or at an
    /// earlier call. Then its system buffer held at most so many bytes, and they are lost.
    Ended { failed: bool, at_most: u64 },
    /// The system does not tell now.
    Unknown,
    /// The system does not tell, and never will.
    Never,
}

/// What a peer is ready for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ready(u8);

impl Ready {
    pub(crate) const READ: Self = Self(1);
    pub(crate) const WRITE: Self = Self(2);
    /// The peer's FIN is there, perhaps behind unread bytes.
    pub(crate) const READ_CLOSED: Self = Self(4);
    /// Urgent bytes came, which can end a read early.
    pub(crate) const URGENT: Self = Self(8);
    /// An error waits to be fetched, or both directions are closed.
    pub(crate) const ERROR: Self = Self(16);

    pub(crate) const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub(crate) fn set(&mut self, other: Self) {
        self.0 |= other.0;
    }

    pub(crate) fn clear(&mut self, other: Self) {
        self.0 &= !other.0;
    }
}

impl BitOr for Ready {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}
