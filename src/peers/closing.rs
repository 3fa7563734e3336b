//! How connections close.
//!
//! There are two ways in order. A *finish* is for a peer that is not at fault: a stop, a close of
//! the application, a swap of connections of one node. Reading goes on throughout, BYE and FIN go
//! out as soon as what was read before is released and its answers are written, at half the drain
//! time at the latest, and the connection is closed at the peer's own FIN. A *close* is for an
//! error, a timeout or a refusal: what is queued is flushed, and input is discarded and counted.
//!
//! The steps call each other: what is written may drain a peer, which closes it, which takes what
//! was sent to it last. So all of them are in this file, and each takes the one connection that it
//! works on. After any of them it may be on its way out (`leaving`), where nothing else is to
//! happen to it; what is beyond this one connection is done in `ends`, when the table is at hand.

use super::{
    connection::{Connection, Leaving, Pause, Standing},
    output::recharge_carry,
    state::Common,
    turn_lists::{Action, Again},
};
use crate::{
    clock::Tick,
    error::CloseReason,
    event::Event,
    ledger::Traffic,
    limits::LINGER_MS,
    peer::{Fault, State},
    slots::{Contended, Flow},
};

impl Common {
    // ----- in order --------------------------------------------------------------------------

    /// Closes a connection in order, within the drain time, so that its peer loses nothing.
    pub(super) fn begin_finish(
        &mut self,
        now: Tick,
        connection: &mut Connection,
        reason: CloseReason,
        drain_ms: u64,
    ) {
        if connection.leaving.is_some() {
            return;
        }
        let was_half_closed = matches!(connection.peer.state(), State::HalfClosed { .. });
        match connection.peer.state() {
            State::Open if connection.told_connected => {}
            State::HalfClosed { .. } => {}
            // Nothing was delivered, so nothing has to be answered.
            State::Refused { reason, .. } => {
                return self.begin_close(now, connection, reason, LINGER_MS);
            }
            State::Open | State::Greeting { .. } => {
                return self.begin_close(now, connection, reason, LINGER_MS);
            }
            State::Connecting { .. } => return self.leave(connection, reason, true),
            State::Stopping { .. } | State::Draining { .. } | State::Lingering { .. } => return,
        }
        if let Some(reason) = connection.broken {
            return self.leave(connection, reason, true);
        }
        connection
            .peer
            .begin_stop(now, &self.rules, reason, drain_ms, true);
        recharge_carry(&self.slots, connection);
        if was_half_closed {
            self.look_before_bye(connection);
        }
        self.note_mute(connection);
        self.nodes.give_up(connection);
        self.lists.list_reading(connection);
        self.handle_dirty(now, connection);
        self.deadlines.arm(now, connection, &self.rules);
    }

    /// Closes a connection in order, as soon as its slot can be told: nothing more is accepted for
    /// it, and what is queued is flushed. Input is read on if a finish came before, and else
    /// discarded.
    pub(super) fn begin_close(
        &mut self,
        now: Tick,
        connection: &mut Connection,
        reason: CloseReason,
        drain_ms: u64,
    ) {
        if connection.leaving.is_some() || connection.peer.is_closing() {
            return;
        }
        if matches!(connection.peer.state(), State::Connecting { .. }) {
            self.leave(connection, reason, true);
            return;
        }
        if self.take_last_output(now, connection).is_err() {
            // What lies behind the reason of the close is not to be read meanwhile.
            if connection.peer.state().takes_input() {
                connection.pause = Some(Pause::Closing);
            }
            let again = Again::Close(connection.id(), reason, drain_ms);
            self.lists.again.push(again);
            return;
        }
        if connection.leaving.is_some() {
            return;
        }
        let peer = &mut connection.peer;
        if peer.state().takes_input() && peer.has_partial_frame() {
            self.slots.ledger.partial_frames.add(1);
        }
        peer.begin_drain(now, &self.rules, reason, drain_ms);
        self.after_close(now, connection);
    }

    /// Closes a connection in order without what is queued: its peer reads no more, or took it for
    /// too long.
    pub(super) fn abandon(&mut self, now: Tick, connection: &mut Connection, reason: CloseReason) {
        if connection.leaving.is_some() || connection.peer.is_closing() {
            return;
        }
        if self.take_last_output(now, connection).is_err() {
            let again = Again::Abandon(connection.id(), reason);
            self.lists.again.push(again);
            return;
        }
        if connection.leaving.is_none() {
            connection.peer.begin_abandon(now, &self.rules, reason);
            self.after_close(now, connection);
        }
    }

    /// Takes what was accepted for a peer before its close; nothing is accepted after it. The peer
    /// may be gone then, because a sender had it cut off.
    fn take_last_output(
        &mut self,
        now: Tick,
        connection: &mut Connection,
    ) -> Result<(), Contended> {
        let taken = self.take_output(now, connection, true)?;
        if taken.cut_off {
            self.leave(connection, CloseReason::SlowPeer, true);
        }
        Ok(())
    }

    /// Follows up on the step to draining.
    fn after_close(&mut self, now: Tick, connection: &mut Connection) {
        if connection.pause == Some(Pause::Closing) || connection.peer.discards() {
            connection.pause = None;
        }
        recharge_carry(&self.slots, connection);
        self.note_mute(connection);
        self.nodes.give_up(connection);
        self.lists.list_reading(connection);
        self.after_output(now, connection);
        self.deadlines.arm(now, connection, &self.rules);
    }

    /// To be called where the state of a peer changes: one that can send nothing more owes nothing.
    pub(super) fn note_mute(&self, connection: &mut Connection) {
        if !connection.peer.state().takes_input() {
            self.admission.forget_pending(connection);
        }
    }

    /// The peer said BYE. What is accepted from now on are replies alone; what waits is written if
    /// the peer still reads.
    pub(super) fn handle_bye(&mut self, now: Tick, connection: &mut Connection) {
        let Some(code) = connection.peer.ending.bye_received else {
            return;
        };
        let was_told = connection.told_connected;
        let reads_on = CloseReason::from_wire_code(code).is_some_and(CloseReason::reads_on);
        // One that comes while we close changes nothing about our close.
        if let State::HalfClosed { reason, .. } = connection.peer.state() {
            if reads_on {
                connection.peer.limit_half_closed(now, self.rules.drain_ms);
                self.limit_to_replies(connection);
            } else {
                self.abandon(now, connection, reason);
            }
        }
        if was_told {
            let peer = connection.id();
            self.told.emit(Event::ByeReceived { peer, code });
        }
    }

    /// Has sends to a peer refused that are no replies.
    pub(super) fn limit_to_replies(&mut self, connection: &Connection) {
        let id = connection.id();
        if self.slots.limit_to_replies(id).is_err() {
            self.lists.again.push(Again::Answering(id));
        }
    }

    /// The peer broke the protocol. It is not read any more; what it sent before is delivered, and
    /// may be answered for as long as a flush may take.
    pub(super) fn handle_fault(&mut self, now: Tick, connection: &mut Connection, fault: Fault) {
        if connection.leaving.is_some() {
            return;
        }
        let rules = &self.rules;
        let (id, addr) = (connection.id(), connection.peer.addr);
        let reason = fault.reason();
        if !connection.peer.state().takes_input() {
            connection.peer.end_reading_on(rules);
        } else if reason == CloseReason::AuthFailed && connection.peer.link.is_none() {
            connection.peer.begin_refusal(now, rules, reason);
        } else {
            connection
                .peer
                .begin_stop(now, rules, reason, LINGER_MS, false);
        }
        connection.pause = None;
        self.lists.list_reading(connection);
        self.note_mute(connection);
        if let Some(suppressed) = self.ended.limit_log(now, reason.name(), addr) {
            // Of two services that connect to each other one is refused each time.
            let level = if reason == CloseReason::DuplicateNode {
                log::Level::Debug
            } else {
                log::Level::Warn
            };
            log::log!(level, "peer {id} at {addr}: {fault}{suppressed}");
        }
        self.lists.list_writing(connection);
        self.check_drained(now, connection);
        self.deadlines.arm(now, connection, &self.rules);
    }

    /// A peer that we dialled and that left before its OK has nothing to wait for.
    pub(super) fn end_useless(&mut self, now: Tick, connection: &mut Connection) {
        let is_unanswered = connection.standing == Standing::Dialled && !connection.told_connected;
        if let State::HalfClosed { reason, .. } = connection.peer.state() {
            if is_unanswered {
                self.begin_close(now, connection, reason, LINGER_MS);
            }
        }
    }

    // ----- output ----------------------------------------------------------------------------

    /// Looks at what other threads did to the slot of a connection.
    pub(super) fn handle_dirty(&mut self, now: Tick, connection: &mut Connection) {
        if connection.leaving.is_some() {
            return;
        }
        if !connection.peer.is_closing() && self.refill_output(now, connection).is_err() {
            let index = connection.id().index();
            self.lists.again.push(Again::Dirty(index));
            return;
        }
        if connection.leaving.is_some() {
            return;
        }
        self.learn_requests(now, connection);
        self.check_watermarks(now, connection);
        self.reconsider_reading(now, connection);
        self.lists.list_writing(connection);
        self.check_drained(now, connection);
    }

    /// Takes what was sent to a peer, as far as there is room for it, and does what senders ask for
    /// besides: to close the peer, or to cut it off.
    fn refill_output(&mut self, now: Tick, connection: &mut Connection) -> Result<(), Contended> {
        let taken = self.take_output(now, connection, false)?;
        if taken.cut_off {
            self.leave(connection, CloseReason::SlowPeer, true);
        } else if let Some(reason) = taken.close_asked {
            if reason == CloseReason::AppClosed {
                // The application closed the connection, and with it ends the wish for it.
                self.links.end(connection.peer.link, &self.slots);
            }
            if reason.reads_on() {
                self.begin_finish(now, connection, reason, self.rules.drain_ms);
            } else {
                self.begin_close(now, connection, reason, LINGER_MS);
            }
        }
        Ok(())
    }

    /// Follows up on progress of writing: an outbox that ran empty may be the end of a close, and
    /// room in it may let the peer be read again.
    pub(super) fn after_output(&mut self, now: Tick, connection: &mut Connection) {
        if connection.leaving.is_some() {
            return;
        }
        let id = connection.id();
        if connection.has_more
            && !connection.peer.is_closing()
            && self.refill_output(now, connection).is_err()
        {
            self.lists.again.push(Again::Dirty(id.index()));
        }
        if connection.leaving.is_some() {
            return;
        }
        if connection.peer.is_written_out() {
            connection.peer.handle_all_written();
            self.slots.trim_lease(id);
            self.finish_drain(now, connection);
        } else {
            let slack = connection.peer.outbox.slack_bytes();
            self.slots.note_slack(id, slack);
        }
        self.lists.list_writing(connection);
        self.reconsider_reading(now, connection);
        self.check_drained(now, connection);
        self.deadlines.arm(now, connection, &self.rules);
    }

    // ----- drained ---------------------------------------------------------------------------

    /// Closes a peer that waited to be drained, if it is.
    pub(super) fn check_drained(&mut self, now: Tick, connection: &mut Connection) {
        let state = connection.peer.state();
        if connection.leaving.is_some() || !state.waits_to_drain() {
            return;
        }
        let id = connection.id();
        let Flow { released, queued } = self.slots.flow(id);
        let Some(reason) = connection.peer.judge_drained(now, released, queued) else {
            self.watch_release(now, connection, released);
            return;
        };
        let drain_ms = connection.drain_ms(now).unwrap_or(self.rules.drain_ms);
        if matches!(state, State::Stopping { .. }) {
            // The answers are written, and BYE comes behind what was accepted since.
            self.begin_close(now, connection, reason, drain_ms);
            return;
        }
        match self.slots.close_if_drained(id) {
            Ok(true) => self.begin_close(now, connection, reason, drain_ms),
            Ok(false) => {}
            Err(_) => self.lists.again.push(Again::Dirty(id.index())),
        }
    }

    /// Has the slot marked dirty when everything is released that is waited for.
    fn watch_release(&mut self, now: Tick, connection: &mut Connection, released: Traffic) {
        let awaited = match connection.peer.state() {
            State::Stopping { .. } => connection.peer.unreleased_mark(released),
            State::Connecting { .. }
            | State::Greeting { .. }
            | State::Open
            | State::Refused { .. }
            | State::HalfClosed { .. }
            | State::Draining { .. }
            | State::Lingering { .. } => {
                let is_missing = connection.peer.in_flight(released) != Traffic::default();
                is_missing.then_some(connection.peer.counts.read)
            }
        };
        let waits_for_credit =
            connection.pause == Some(Pause::Credit) && !connection.peer.ending.eof;
        if let Some(awaited) = awaited {
            let id = connection.id();
            if waits_for_credit && matches!(connection.peer.state(), State::Stopping { .. }) {
                // The credit or the release, as they come.
                self.watch_credit(connection);
            } else if !self.slots.pause(id, awaited) {
                self.lists.again.push(Again::Dirty(id.index()));
            }
        }
        self.deadlines.arm(now, connection, &self.rules);
    }

    // ----- the end ---------------------------------------------------------------------------

    /// Sends the FIN once everything is written and said.
    pub(super) fn finish_drain(&mut self, now: Tick, connection: &mut Connection) {
        let reason = connection.closing_reason();
        if !connection.peer.finish_drain(now, reason.name()) {
            return;
        }
        let id = connection.id();
        self.lists.actions.push_back(Action::Shutdown(id));
        let reason = connection.closing_reason();
        if connection.peer.begin_linger(now) {
            self.end_linger(now, connection, reason);
        } else {
            self.lists.list_reading(connection);
        }
    }

    /// Both sides have ended. What the peer's system does not have yet it will get, unless the
    /// connection breaks, so it is waited for.
    pub(super) fn end_linger(
        &mut self,
        now: Tick,
        connection: &mut Connection,
        reason: CloseReason,
    ) {
        if connection.leaving.is_some() {
            return;
        }
        if self.is_to_be_confirmed(connection) && connection.peer.await_confirmation(now) {
            let id = connection.id();
            let look = Action::Look { id, last: false };
            self.lists.actions.push_back(look);
            self.deadlines.arm(now, connection, &self.rules);
        } else {
            self.leave(connection, reason, false);
        }
    }

    /// Ends a connection: has the event loop look what is left of it. Its slot is given back, it is
    /// counted and closed after that, see `ends`; one that was not made yet has nothing left, and
    /// [`Peers::on`](super::Peers::on) does that at once.
    pub(super) fn leave(&mut self, connection: &mut Connection, reason: CloseReason, abort: bool) {
        if connection.leaving.is_some() {
            return;
        }
        connection.leaving = Some(Leaving { reason, abort });
        self.nodes.give_up(connection);
        self.input.discard_pieces(connection, &self.rules);
        if connection.standing != Standing::Dialling {
            let id = connection.id();
            self.lists.actions.push_back(Action::Settle(id));
        }
    }
}
