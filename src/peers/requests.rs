//! The time of requests: when the dispatcher has to look for those that waited long enough, and
//! what it has to be told of connections that ended.
//!
//! A connection knows the earliest deadline only, and the peer's one timer covers it. Whether a
//! request still waits then, the dispatcher finds out, behind everything that was read of the peer
//! before; it says what the next deadline is.

use super::{connection::Connection, state::Common};
use crate::{clock::Tick, dispatch::Notice};

impl Common {
    /// Learns of a request that was sent, or of what is left of them.
    pub(super) fn learn_requests(&mut self, now: Tick, connection: &mut Connection) {
        let Some(deadline) = self.slots.take_request_deadline(connection.id()) else {
            return;
        };
        let known = connection.request_deadline;
        if known.is_none_or(|known| deadline < known) {
            connection.request_deadline = Some(deadline);
            self.arm(now, connection);
        }
    }

    /// Has the dispatcher look for requests whose time is over, if there may be any. Bytes that
    /// wait to be read are read first, once: a peer that always has some must not stop the time.
    pub(super) fn expire_requests(&mut self, now: Tick, connection: &mut Connection, unread: bool) {
        if connection
            .request_deadline
            .is_none_or(|deadline| deadline > now)
        {
            return;
        }
        let reads = unread && !self.deadlines.is_stalled() && connection.pause.is_none();
        if reads && !connection.request_put_off {
            connection.request_put_off = true;
            return;
        }
        connection.request_put_off = false;
        connection.request_deadline = None;
        let peer = connection.id();
        self.told.notify(Notice::Expire { peer, tick: now });
    }
}
