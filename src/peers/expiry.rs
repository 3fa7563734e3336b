//! What the deadlines of connections ask for when they have passed.

use super::{
    connection::Connection,
    deadlines::DRAINED_CHECK_MS,
    state::{Common, Peers},
    turn_lists::Action,
};
use crate::{
    clock::Tick,
    error::{CloseReason, DialError},
    id::PeerId,
    limits::{DORMANT_AFTER_MS, LINGER_MS},
    peer::Verdict,
    socket::Ready,
};

impl Peers {
    pub(super) fn handle_deadline(&mut self, now: Tick, id: PeerId) {
        let step = |common: &mut Common, connection: &mut Connection| {
            common.handle_deadline(now, connection)
        };
        match self.on(now, id, step) {
            Some(true) => {
                let before = now.saturating_sub(DORMANT_AFTER_MS);
                self.connections.make_dormant(id.index() as usize, before);
            }
            Some(false) => {}
            None => self.common.slots.ledger.stale_events.add(1),
        }
    }
}

impl Common {
    /// True if that is all of it, so that the connection may become dormant.
    fn handle_deadline(&mut self, now: Tick, connection: &mut Connection) -> bool {
        let lag = self.deadlines.lag(now);
        connection.timer = None;
        self.report_pause(now, connection);
        // Bytes that wait to be read prove life, and may be the rest of a frame.
        let unread = connection.in_read_list
            && connection.ready.has(Ready::READ)
            && connection.peer.state().takes_input();
        // The system tells of room only when there is much of it again: a peer that takes little by
        // little makes no edge for a long time. So a peer that seems to stall is written to once
        // more.
        let untried =
            !connection.peer.outbox.is_empty() && !std::mem::take(&mut connection.write_tried);
        self.expire_requests(now, connection, unread);
        match connection.peer.judge(now, &self.rules, lag) {
            Some(Verdict::Close(_) | Verdict::Ping) if unread => {
                self.deadlines.arm_at(now + 1, connection);
                return false;
            }
            Some(Verdict::Abort(_)) if untried => {
                connection.write_tried = true;
                connection.ready.set(Ready::WRITE);
                self.deadlines.arm_at(now + 1, connection);
                self.lists.list_writing(connection);
                return false;
            }
            Some(Verdict::Look) => self.look(now, connection),
            Some(Verdict::Ping) => {
                connection.peer.ping(now.saturating_sub(lag));
                self.lists.list_writing(connection);
            }
            Some(Verdict::GiveUp) => self.give_up(connection, DialError::Timeout),
            Some(Verdict::Close(reason)) => {
                let drain_ms = connection.drain_ms(now).unwrap_or(LINGER_MS);
                self.begin_close(now, connection, reason, drain_ms);
            }
            Some(Verdict::Abandon(reason)) => self.abandon(now, connection, reason),
            Some(Verdict::Abort(reason)) => self.leave(connection, reason, true),
            Some(Verdict::Done) => {
                let reason = connection.closing_reason();
                self.leave(connection, reason, false);
            }
            Some(Verdict::CheckDrained) => {
                self.recheck_drained(now, connection);
                return false;
            }
            None => {}
        }
        self.arm(now, connection);
        true
    }

    /// Asks what the system of a peer has not acknowledged that seems to stall.
    fn look(&mut self, now: Tick, connection: &mut Connection) {
        if self.acknowledgement.untold {
            connection.peer.handle_untold(now);
            if connection.peer.is_ended() {
                let reason = connection.closing_reason();
                self.leave(connection, reason, false);
            }
            return;
        }
        let id = connection.id();
        connection.peer.handle_asked(now);
        if connection.peer.is_blocked() || connection.peer.is_closing() {
            let look = Action::Look { id, last: false };
            self.lists.actions.push_back(look);
        } else {
            // It seems to be well, and so may be thousands.
            self.acknowledgement.unsure.push_back(id);
        }
    }

    /// Looks whether a peer is drained, whose deadline says so. One that is not is looked at again,
    /// whatever its deadline says.
    fn recheck_drained(&mut self, now: Tick, connection: &mut Connection) {
        self.check_drained(now, connection);
        if connection.leaving.is_some()
            || connection.timer.is_some()
            || connection.peer.is_closing()
        {
            return;
        }
        let next = now + DRAINED_CHECK_MS;
        let own = connection.own_deadline(&self.rules, self.deadlines.lag(now));
        let next = own.map_or(next, |tick| tick.max(next));
        let request = connection.request_deadline_from(now);
        let next = request.map_or(next, |tick| tick.min(next));
        self.deadlines.arm_at(next, connection);
    }

    /// A connection that we make cannot be made.
    pub(super) fn give_up(&mut self, connection: &mut Connection, error: DialError) {
        if connection.leaving.is_none() {
            connection.dial_error = Some(error);
            self.leave(connection, CloseReason::Io, true);
        }
    }
}
