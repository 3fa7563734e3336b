//! The time of requests: when the dispatcher has to look for those that waited long enough, and
//! what it has to be told of connections that ended.
//!
//! A connection knows the earliest deadline only, and the peer's one timer covers it. Whether a
//! request still waits then, the dispatcher finds out, behind everything that was read of the peer
//! before; it says what the next deadline is.

use super::{DRAINED_CHECK_MS, Peers, Timer};
use crate::{clock::Tick, dispatch::Notice, id::PeerId};

impl Peers {
    /// The next notice for the dispatcher, and how many there are.
    pub(crate) fn poll_notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    pub(crate) fn notice_count(&self) -> usize {
        self.notices.len()
    }

    /// A notice has to wait: there is no room for it, or something that was read before is to go
    /// first. The requests that it is about time out all the same.
    pub(crate) fn put_back_notice(&mut self, now: Tick, notice: Notice) {
        self.notices.push_back(notice);
        if !self.notices_timer {
            self.notices_timer = true;
            self.wheel.insert(now + DRAINED_CHECK_MS, Timer::Notices);
        }
    }

    pub(super) fn handle_notices_timer(&mut self, now: Tick) {
        self.notices_timer = false;
        let expires = |notice: &Notice| matches!(notice, Notice::Expire { .. });
        if self.notices.iter().any(expires) {
            // There is no room for those either.
            self.notices_timer = true;
            self.wheel.insert(now + DRAINED_CHECK_MS, Timer::Notices);
            return;
        }
        for index in 0..self.notices.len() {
            let peer = match self.notices[index] {
                Notice::Closed { peer, .. } | Notice::Expire { peer, .. } => peer,
            };
            self.notices.push_back(Notice::Expire { peer, tick: now });
        }
    }

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
        let reads = self.stalled_since.is_none();
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
        self.notices.push_back(Notice::Expire {
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
