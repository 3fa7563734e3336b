//! Looks at what a peer's system has acknowledged.
//!
//! A look costs system calls, so there is one where something depends on it: while a peer seems to
//! stall, and before its connection is closed.

use super::{
    connection::Connection,
    state::{Common, Peers},
    turn_lists::Action,
};
use crate::{
    clock::Tick,
    error::CloseReason,
    id::PeerId,
    limits::{DORMANT_AFTER_MS, DORMANT_PER_TICK, LOOKS_PER_TURN},
    peer::Told,
    socket::{Ready, Unacknowledged},
};

impl Peers {
    /// The answer, to the `last` look at a connection or to one before.
    pub(crate) fn handle_unacknowledged(
        &mut self,
        now: Tick,
        id: PeerId,
        last: bool,
        told: Unacknowledged,
    ) {
        self.common.acknowledgement.untold |= told == Unacknowledged::Never;
        let connection = self.connections.get_mut(id.index() as usize);
        let Some(connection) = connection.filter(|connection| connection.id() == id) else {
            return;
        };
        if connection.leaving.is_some() {
            if !last {
                // It was asked for before the end, and the last look knows more.
                return;
            }
            let most = match told {
                Unacknowledged::Bytes(bytes) | Unacknowledged::Unsent(bytes) => Some(bytes),
                Unacknowledged::Ended { failed, at_most } if failed || connection.failed => {
                    Some(at_most)
                }
                Unacknowledged::Ended { .. } => Some(0),
                Unacknowledged::Unknown | Unacknowledged::Never => None,
            };
            connection.peer.handle_last_told(most);
            self.finish_leaving(now, id);
            return;
        }
        self.common.handle_told(now, connection, told_of(told));
        if connection.leaving.is_none() {
            self.make_dormant(now, id);
        }
    }

    /// Makes a connection dormant, if nothing has moved for a while.
    fn make_dormant(&mut self, now: Tick, id: PeerId) {
        let before = now.saturating_sub(DORMANT_AFTER_MS);
        let untold = self.common.acknowledgement.untold;
        let connection = self.connections.get_mut(id.index() as usize);
        if let Some(connection) = connection.filter(|connection| untold && connection.id() == id) {
            connection.peer.handle_untold(now);
        }
        self.connections.make_dormant(id.index() as usize, before);
    }

    /// Looks at some more connections whether they may become dormant. Before one does on which
    /// something was written, its system is asked whether it has everything: a few of them in each
    /// turn.
    pub(super) fn make_some_dormant(&mut self, now: Tick) {
        let before = now.saturating_sub(DORMANT_AFTER_MS);
        let acknowledgement = &mut self.common.acknowledgement;
        let unsure = &mut acknowledgement.unsure;
        acknowledgement.dormancy_cursor = self.connections.make_some_dormant(
            acknowledgement.dormancy_cursor,
            DORMANT_PER_TICK,
            before,
            |id| unsure.push_back(id),
        );
    }

    /// Asks for some of those that would become dormant.
    #[inline]
    pub(super) fn look_at_unsure(&mut self, now: Tick) {
        if !self.common.acknowledgement.unsure.is_empty() {
            self.look_at_some(now);
        }
    }

    #[cold]
    #[inline(never)]
    fn look_at_some(&mut self, now: Tick) {
        for _ in 0..LOOKS_PER_TURN.min(self.common.acknowledgement.unsure.len()) {
            let Some(id) = self.common.acknowledgement.unsure.pop_front() else {
                return;
            };
            if self.common.acknowledgement.untold {
                self.make_dormant(now, id);
            } else if self.connections.live(id).is_some() {
                let look = Action::Look { id, last: false };
                self.common.lists.actions.push_back(look);
            }
        }
    }
}

impl Common {
    /// What the system of a peer has not acknowledged whose connection is not over.
    fn handle_told(&mut self, now: Tick, connection: &mut Connection, told: Option<Told>) {
        let peer = &mut connection.peer;
        let is_missing = told.is_some_and(|told| told.unacknowledged > 0);
        if peer.is_ended() && !(is_missing && peer.await_confirmation(now)) {
            peer.handle_told(now, told, &self.rules);
            let reason = connection.closing_reason();
            self.leave(connection, reason, false);
            return;
        }
        if self.acknowledgement.untold {
            peer.handle_untold(now);
        }
        if peer.handle_told(now, told, &self.rules) {
            self.leave(connection, CloseReason::SlowPeer, true);
            return;
        }
        if !is_missing && told.is_some() && connection.peer.is_blocked() {
            // There has to be room, and what waits is not to depend on an edge.
            connection.ready.set(Ready::WRITE);
            self.lists.list_writing(connection);
        }
        self.arm(now, connection);
    }
}

/// What a connection that is not over is judged by.
fn told_of(told: Unacknowledged) -> Option<Told> {
    let (unacknowledged, unsent) = match told {
        Unacknowledged::Bytes(bytes) => (bytes, false),
        Unacknowledged::Unsent(bytes) => (bytes, true),
        Unacknowledged::Ended { .. } | Unacknowledged::Unknown | Unacknowledged::Never => {
            return None;
        }
    };
    Some(Told {
        unacknowledged,
        unsent,
    })
}
