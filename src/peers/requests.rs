//! The time of requests: when the dispatcher has to look for those that waited long enough, and
//! what it has to be told of connections that ended.
//!
//! A connection knows the earliest deadline only, and the peer's one timer covers it. Whether a
//! request still waits then, the dispatcher finds out, behind everything that was read of the peer
//! before; it says what the next deadline is.

use super::Peers;
use crate::{clock::Tick, dispatch::Notice, id::PeerId};

impl Peers {
    /// Learns of a request that was sent, or of what is left of them.
    pub(super) fn learn_requests(&mut self, now: Tick, id: PeerId) {
        let Some(deadline) = self.slots.take_request_deadline(id) else {
            return;
        };
        let Some(connection) = self.connection(id) else {
            return;
        };
        let known = connection.request_deadline;
        if known.is_none_or(|known| deadline < known) {
            connection.request_deadline = Some(deadline);
            self.arm(now, id);
        }
    }

    /// Has the dispatcher look for requests whose time is over, if there may be any. Bytes that
    /// wait to be read are read first, once: a peer that always has some must not stop the time.
    pub(super) fn expire_requests(&mut self, now: Tick, id: PeerId, unread: bool) {
        let reads = !self.deadlines.is_stalled();
        let Some(connection) = self.connection(id) else {
            return;
        };
        if connection
            .request_deadline
            .is_none_or(|deadline| deadline > now)
        {
            return;
        }
        if unread && reads && connection.pause.is_none() && !connection.request_put_off {
            connection.request_put_off = true;
            return;
        }
        connection.request_put_off = false;
        connection.request_deadline = None;
        self.told.notify(Notice::Expire {
            peer: id,
            tick: now,
        });
    }

    /// When to look at the requests of a peer.
    pub(super) fn request_deadline_of(&self, now: Tick, id: PeerId) -> Option<Tick> {
        let connection = self.connections.look(id.index() as usize)?;
        connection.request_deadline_from(now)
    }
}
