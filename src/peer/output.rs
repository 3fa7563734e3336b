//! What a peer has to write, what was written, and what its system has acknowledged of that.

use super::{machine::Peer, rules::Rules, stall::Told, state::State};
use crate::{clock::Tick, frame::Frame, id::MessageType, ledger::Traffic};

impl Peer {
    /// Whether a write could make progress.
    pub(crate) fn has_output(&self) -> bool {
        !self.is_written_out() || self.pong.is_some()
    }

    /// Whether all of the outbox was written that is to be.
    pub(crate) fn is_written_out(&self) -> bool {
        self.outbox.is_empty() || (self.ending.abandoned && self.outbox.frame_left() == 0)
    }

    /// Bytes to offer to the socket at most.
    pub(crate) fn offered_max(&self) -> usize {
        if self.ending.abandoned {
            self.outbox.frame_left()
        } else {
            usize::MAX
        }
    }

    /// Moves the PONG that waits into the outbox.
    ///
    /// Not behind another frame of the protocol that waits there: a peer that reads little and asks
    /// much must not make us queue an answer for every write.
    pub(crate) fn queue_pong(&mut self) {
        if self.outbox.has_control() {
            return;
        }
        if let Some(payload) = self.pong.take() {
            self.insert_control(&Frame::new(MessageType::PONG, &payload));
        }
    }

    /// The outbox waits for the socket.
    pub(crate) fn handle_write_blocked(&mut self, now: Tick) {
        self.sent.get_or_insert_default().handle_blocked(now);
    }

    /// Our system took so many bytes, of which `written` are the application's.
    pub(crate) fn handle_written(&mut self, now: Tick, bytes: usize, written: Traffic) {
        self.counts.outbound.add(written);
        let sent = self.sent.get_or_insert_default();
        sent.handle_taken(now, bytes, written);
    }

    /// Nothing waits for the socket any more.
    pub(crate) fn handle_all_written(&mut self) {
        if let Some(sent) = &mut self.sent {
            sent.handle_all_written();
        }
    }

    /// The peer's system is asked what it has not acknowledged.
    pub(crate) fn handle_asked(&mut self, now: Tick) {
        if let Some(sent) = &mut self.sent {
            sent.handle_asked(now);
        }
    }

    /// What it has not acknowledged, if that is told. True if it has stalled for too long.
    pub(crate) fn handle_told(&mut self, now: Tick, told: Option<Told>, rules: &Rules) -> bool {
        let may_stall = self.may_stall();
        let sent = self.sent.as_mut();
        sent.is_some_and(|sent| sent.handle_told(now, told, rules.write_stall_ms)) && may_stall
    }

    /// The system will not tell what is acknowledged.
    pub(crate) fn handle_untold(&mut self, now: Tick) {
        if let Some(sent) = &mut self.sent {
            sent.handle_untold(now);
        }
    }

    /// Whether the outbox waits for the socket.
    pub(crate) fn is_blocked(&self) -> bool {
        self.sent.as_ref().is_some_and(|sent| sent.is_blocked())
    }

    /// Whether a stall may end it. Once the other side has ended its own, or ours has been told to
    /// end, what our system has taken has the time that the state gives.
    pub(super) fn may_stall(&self) -> bool {
        match self.state {
            State::Open | State::Stopping { .. } => true,
            State::Connecting { .. }
            | State::Greeting { .. }
            | State::Refused { .. }
            | State::HalfClosed { .. }
            | State::Draining { .. }
            | State::Lingering { .. } => self.is_blocked(),
        }
    }

    /// Whether bytes were written that may not be acknowledged, and with `of_messages` the
    /// application's among them.
    pub(crate) fn is_unsure(&self, of_messages: bool) -> bool {
        let sent = self.sent.as_ref();
        sent.is_some_and(|sent| {
            !sent.writes.is_empty() && (!of_messages || sent.writes.has_messages())
        })
    }

    /// What is not acknowledged at the end, at most, if that is told.
    pub(crate) fn handle_last_told(&mut self, told: Option<u64>) {
        let all = self.counts.outbound;
        if let Some(sent) = &mut self.sent {
            sent.unconfirmed = told.map(|bytes| sent.writes.unconfirmed(bytes, all));
        }
    }

    /// What of the application's may not have reached the peer, once the last is told; `None` if
    /// that is not known.
    pub(crate) fn unconfirmed(&self) -> Option<Traffic> {
        let sent = self.sent.as_ref();
        sent.map_or_else(|| Some(Traffic::default()), |sent| sent.unconfirmed)
    }
}
