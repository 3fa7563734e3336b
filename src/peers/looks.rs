//! Looks at what a peer's system has acknowledged.
//!
//! A look costs system calls, so there is one where something depends on it: while a peer seems to
//! stall, and before its connection is closed.

use super::{Action, Peers, closing_reason};
use crate::{
    clock::Tick,
    error::CloseReason,
    id::PeerId,
    ledger::{Ledger, Traffic},
    limits::{DORMANT_AFTER_MS, DORMANT_PER_TICK, LOOKS_PER_TURN},
    peer::{Peer, State, Told},
    socket::{Ready, Unacknowledged},
};

impl Peers {
    /// Asks what the system of a peer has not acknowledged that seems to stall.
    pub(super) fn look(&mut self, now: Tick, id: PeerId) {
        let untold = self.acknowledgement.untold;
        let connection = self.connections.get_mut(id.index() as usize);
        let Some(connection) =
            connection.filter(|connection| connection.id() == id && connection.leaving.is_none())
        else {
            return;
        };
        if untold {
            connection.peer.handle_untold(now);
            if connection.peer.is_ended() {
                let reason = closing_reason(&connection.peer);
                self.leave(now, id, reason, false);
            }
            return;
        }
        connection.peer.handle_asked(now);
        if connection.peer.is_blocked() || connection.peer.is_closing() {
            self.lists
                .actions
                .push_back(Action::Look { id, last: false });
        } else {
            // It seems to be well, and so may be thousands.
            self.acknowledgement.unsure.push_back(id);
        }
    }

    /// Whether the end of a connection has to wait for a look: the application's bytes may not be
    /// acknowledged.
    pub(super) fn is_to_be_confirmed(&self, id: PeerId) -> bool {
        let connection = self.connections.look(id.index() as usize);
        !self.acknowledgement.untold
            && connection.is_some_and(|connection| connection.peer.is_unsure(true))
    }

    /// Asks about a peer that has said FIN and is about to be told BYE. It may have closed its
    /// socket for good, and then answers the BYE with a RST, after which its system tells nothing
    /// more.
    pub(super) fn look_before_bye(&mut self, id: PeerId) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        let says_bye = match connection.peer.state() {
            State::Stopping { .. } | State::Draining { .. } => true,
            State::Connecting { .. }
            | State::Greeting { .. }
            | State::Open
            | State::Refused { .. }
            | State::HalfClosed { .. }
            | State::Lingering { .. } => false,
        };
        if says_bye && self.is_to_be_confirmed(id) {
            self.lists
                .actions
                .push_back(Action::Look { id, last: false });
        }
    }

    /// The answer, to the `last` look at a connection or to one before.
    pub(crate) fn handle_unacknowledged(
        &mut self,
        now: Tick,
        id: PeerId,
        last: bool,
        told: Unacknowledged,
    ) {
        self.acknowledgement.untold |= told == Unacknowledged::Never;
        let rules = &self.rules;
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
        let told = told_of(told);
        let is_missing = told.is_some_and(|told| told.unacknowledged > 0);
        if connection.peer.is_ended() && !(is_missing && connection.peer.await_confirmation(now)) {
            connection.peer.handle_told(now, told, rules);
            let reason = closing_reason(&connection.peer);
            self.leave(now, id, reason, false);
            return;
        }
        if self.acknowledgement.untold {
            connection.peer.handle_untold(now);
        }
        if connection.peer.handle_told(now, told, rules) {
            self.leave(now, id, CloseReason::SlowPeer, true);
            return;
        }
        if !is_missing && told.is_some() && connection.peer.is_blocked() {
            // There has to be room, and what waits is not to depend on an edge.
            connection.ready.set(Ready::WRITE);
            self.list_writing(id);
        }
        self.arm(now, id);
        self.make_dormant(now, id);
    }

    /// Makes a connection dormant, if nothing has moved for a while.
    pub(super) fn make_dormant(&mut self, now: Tick, id: PeerId) {
        let before = now.saturating_sub(DORMANT_AFTER_MS);
        let untold = self.acknowledgement.untold;
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
        let unsure = &mut self.acknowledgement.unsure;
        self.acknowledgement.dormancy_cursor = self.connections.make_some_dormant(
            self.acknowledgement.dormancy_cursor,
            DORMANT_PER_TICK,
            before,
            |id| unsure.push_back(id),
        );
    }

    /// Asks for some of those that would become dormant.
    #[inline]
    pub(super) fn look_at_unsure(&mut self, now: Tick) {
        if !self.acknowledgement.unsure.is_empty() {
            self.look_at_some(now);
        }
    }

    #[cold]
    #[inline(never)]
    fn look_at_some(&mut self, now: Tick) {
        for _ in 0..LOOKS_PER_TURN.min(self.acknowledgement.unsure.len()) {
            let Some(id) = self.acknowledgement.unsure.pop_front() else {
                return;
            };
            if self.acknowledgement.untold {
                self.make_dormant(now, id);
            } else if self.connection(id).is_some() {
                self.lists
                    .actions
                    .push_back(Action::Look { id, last: false });
            }
        }
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

/// Counts what may not have reached a peer whose connection ends, and gives it; `None` if that is
/// not known.
pub(super) fn count_unconfirmed(ledger: &Ledger, peer: &Peer, untold: bool) -> Option<Traffic> {
    let known = !untold || peer.outbound == Traffic::default();
    let unconfirmed = peer.unconfirmed().filter(|_| known);
    match unconfirmed {
        Some(sum) => ledger.unconfirmed.add(sum),
        None => ledger.unconfirmed_unknown.add(1),
    }
    unconfirmed
}
