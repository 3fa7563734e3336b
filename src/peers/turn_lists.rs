//! What is to be done next: who is read and written in this turn and in the next, what a lock put
//! off, and what the event loop has to do with sockets.
//!
//! Invariants:
//! - `in_read_list` of a connection is true exactly while its id is in `reading` or `read_list`,
//!   `in_write_list` exactly while it is in `writing` or `write_list`; none is in twice
//! - a connection that may be read and whose socket has input is in a list, and so is one that has
//!   output and whose socket has room: no edge is lost
//! - what is listed during a turn waits for the next one, so that a turn ends

use std::{collections::VecDeque, net::SocketAddr};

use super::connection::Connection;
use crate::{error::CloseReason, id::PeerId, socket::Ready};

/// What the event loop has to do with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// To begin to connect.
    Connect(PeerId, SocketAddr),
    /// To look whether the connection is made.
    LookConnected(PeerId),
    /// To ask what the peer's system has not acknowledged; `last` if the connection is closed next.
    Look { id: PeerId, last: bool },
    /// To send the FIN.
    Shutdown(PeerId),
    /// To look what is left unread of a connection that is to be closed.
    Settle(PeerId),
    /// To close; with `abort`, by a RST.
    Close { index: u32, abort: bool },
}

/// Work that a contended slot put off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Again {
    Dirty(u32),
    NotifyRoom(u32),
    Close(PeerId, CloseReason, u64),
    Abandon(PeerId, CloseReason),
    Answering(PeerId),
    Leave(PeerId),
    Identity(PeerId),
    FreePlace(u32),
}

/// The lists of a loop.
#[derive(Debug, Default)]
pub(crate) struct TurnLists {
    /// Peers with ready input, of this turn and of the next.
    pub(super) reading: VecDeque<PeerId>,
    pub(super) read_list: VecDeque<PeerId>,
    /// Peers with output that may be written, likewise.
    pub(super) writing: VecDeque<PeerId>,
    pub(super) write_list: VecDeque<PeerId>,
    /// To be done again in the next turn, because another thread had a slot's lock.
    pub(super) again: Vec<Again>,
    pub(super) actions: VecDeque<Action>,
    /// The peers that had a turn to read, in their order, for tests.
    #[cfg(test)]
    pub(super) turns: Vec<PeerId>,
}

impl TurnLists {
    /// Lists a peer if it has input and may be read.
    pub(super) fn list_reading(&mut self, connection: &mut Connection) {
        let may = connection.pause.is_none()
            || connection.peer.discards()
            || connection.ready.has(Ready::ERROR);
        let is_listed = connection.in_read_list || connection.leaving.is_some();
        if may && connection.ready.has(Ready::READ) && !is_listed {
            connection.in_read_list = true;
            self.read_list.push_back(connection.id());
        }
    }

    /// Lists a peer if it has output and its socket has room.
    pub(super) fn list_writing(&mut self, connection: &mut Connection) {
        let may = connection.ready.has(Ready::WRITE) && connection.peer.has_output();
        if may && !connection.in_write_list && connection.leaving.is_none() {
            connection.in_write_list = true;
            self.write_list.push_back(connection.id());
        }
    }

    /// Takes the list of those to read in this turn.
    pub(super) fn begin_reading(&mut self) {
        append(&mut self.reading, &mut self.read_list);
    }

    /// Takes the list of those to write in this turn, or adds those that came since.
    pub(super) fn begin_writing(&mut self) {
        append(&mut self.writing, &mut self.write_list);
    }

    /// Whether any peer is listed to be read.
    pub(super) fn has_readers(&self) -> bool {
        !(self.read_list.is_empty() && self.reading.is_empty())
    }

    /// Whether there is work besides reading.
    pub(super) fn has_other_work(&self) -> bool {
        !self.write_list.is_empty()
            || !self.writing.is_empty()
            || !self.again.is_empty()
            || !self.actions.is_empty()
    }

    /// What the event loop has to do next.
    pub(crate) fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }
}

/// Adds a list to another. In most turns it is empty, and the deque's own way costs all the same.
fn append(list: &mut VecDeque<PeerId>, more: &mut VecDeque<PeerId>) {
    if !more.is_empty() {
        list.append(more);
    }
}
