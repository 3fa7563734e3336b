//! When the system of a peer is asked what is not acknowledged.

use super::{connection::Connection, state::Common, turn_lists::Action};
use crate::{
    ledger::{Ledger, Traffic},
    peer::{Peer, State},
};

impl Common {
    /// Whether the end of a connection has to wait for a look: the application's bytes may not be
    /// acknowledged.
    pub(super) fn is_to_be_confirmed(&self, connection: &Connection) -> bool {
        !self.acknowledgement.untold && connection.peer.is_unsure(true)
    }

    /// Asks about a peer that has said FIN and is about to be told BYE. It may have closed its
    /// socket for good, and then answers the BYE with a RST, after which its system tells nothing
    /// more.
    pub(super) fn look_before_bye(&mut self, connection: &Connection) {
        let says_bye = match connection.peer.state() {
            State::Stopping { .. } | State::Draining { .. } => true,
            State::Connecting { .. }
            | State::Greeting { .. }
            | State::Open
            | State::Refused { .. }
            | State::HalfClosed { .. }
            | State::Lingering { .. } => false,
        };
        if says_bye && self.is_to_be_confirmed(connection) {
            let id = connection.id();
            let look = Action::Look { id, last: false };
            self.lists.actions.push_back(look);
        }
    }
}

/// Counts what may not have reached a peer whose connection ends, and gives it; `None` if that is
/// not known.
pub(super) fn count_unconfirmed(ledger: &Ledger, peer: &Peer, untold: bool) -> Option<Traffic> {
    let known = !untold || peer.counts.outbound == Traffic::default();
    let unconfirmed = peer.unconfirmed().filter(|_| known);
    match unconfirmed {
        Some(sum) => ledger.unconfirmed.add(sum),
        None => ledger.unconfirmed_unknown.add(1),
    }
    unconfirmed
}
