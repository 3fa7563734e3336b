//! Looks at what a peer's system has acknowledged.
//!
//! A look costs system calls, so there is one where something depends on it: while a peer seems to
//! stall, and before its connection is closed.

use super::{Action, Peers};
use crate::{
    clock::Tick,
    error::CloseReason,
    id::PeerId,
    socket::{Ready, Unacknowledged},
};

impl Peers {
    /// Asks what the system of a peer has not acknowledged that seems to stall.
    pub(super) fn look(&mut self, now: Tick, id: PeerId) {
        let untold = self.untold;
        let rules = &self.rules;
        let seat = self.seats.get_mut(id.index() as usize);
        let Some(seat) = seat.filter(|seat| seat.id() == id && seat.leaving.is_none()) else {
            return;
        };
        if untold {
            seat.peer.handle_told(now, None, rules);
        } else {
            seat.peer.handle_asked(now);
            self.actions.push_back(Action::Look { id, last: false });
        }
    }

    /// The answer.
    pub(crate) fn handle_unacknowledged(&mut self, now: Tick, id: PeerId, told: Unacknowledged) {
        self.untold |= told == Unacknowledged::Never;
        let rules = &self.rules;
        let seat = self.seats.get_mut(id.index() as usize);
        let Some(seat) = seat.filter(|seat| seat.id() == id && seat.leaving.is_none()) else {
            return;
        };
        let bytes = match told {
            Unacknowledged::Bytes(bytes) => Some(bytes),
            Unacknowledged::Ended { .. } | Unacknowledged::Unknown | Unacknowledged::Never => None,
        };
        if seat.peer.handle_told(now, bytes, rules) {
            self.leave(now, id, CloseReason::SlowPeer, true);
            return;
        }
        if bytes == Some(0) {
            // There has to be room, and what waits is not to depend on an edge.
            seat.ready.set(Ready::WRITE);
            self.list_writing(id);
        }
        self.arm(now, id);
    }
}
