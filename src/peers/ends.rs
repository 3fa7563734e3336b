//! How connections end.
//!
//! There are two ways in order. A *finish* is for a peer that is not at fault: a stop, a close of
//! the application, a swap of connections of one node. Reading goes on throughout, BYE and FIN go
//! out as soon as what was read before is released and its answers are written, at half the drain
//! time at the latest, and the connection is closed at the peer's own FIN. A *close* is for an
//! error, a timeout or a refusal: what is queued is flushed, and input is discarded and counted.
//!
//! Whatever ends a connection, its last step is to be *settled*: the event loop looks what is left
//! unread, which is counted, before the socket is closed.

use std::io;

use super::{
    Action, Again, DRAINED_CHECK_MS, Leaving, Pause, Peers, Standing, close_slot, closed_row,
    closing_reason, looks::count_unconfirmed, recharge_carry,
};
use crate::{
    clock::Tick,
    dispatch::Notice,
    error::{CloseReason, DialError},
    event::Event,
    id::PeerId,
    ledger::{ClosedRow, Traffic},
    limits::{LAST_READ_BYTES, LINGER_MS},
    peer::State,
    slots::{Contended, Flow},
};

impl Peers {
    // ----- in order --------------------------------------------------------------------------

    /// Closes a connection in order, within the drain time, so that its peer loses nothing.
    pub(super) fn begin_finish(
        &mut self,
        now: Tick,
        id: PeerId,
        reason: CloseReason,
        drain_ms: u64,
    ) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        let was_half_closed = matches!(connection.peer.state(), State::HalfClosed { .. });
        match connection.peer.state() {
            State::Open if connection.told_connected => {}
            State::HalfClosed { .. } => {}
            // Nothing was delivered, so nothing has to be answered.
            State::Refused { reason, .. } => {
                return self.begin_close(now, id, reason, LINGER_MS);
            }
            State::Open | State::Greeting { .. } => {
                return self.begin_close(now, id, reason, LINGER_MS);
            }
            State::Connecting { .. } => return self.leave(now, id, reason, true),
            State::Stopping { .. } | State::Draining { .. } | State::Lingering { .. } => return,
        }
        if let Some(reason) = connection.broken {
            return self.leave(now, id, reason, true);
        }
        let rules = &self.rules;
        let connection = self.connections.get_mut(id.index() as usize);
        let connection = connection.expect("looked up above");
        connection
            .peer
            .begin_stop(now, rules, reason, drain_ms, true);
        recharge_carry(&self.slots, connection);
        if was_half_closed {
            self.look_before_bye(id);
        }
        self.note_mute(id);
        self.give_up_node(id);
        self.list_reading(id);
        self.handle_slot(now, id.index());
        self.arm(now, id);
    }

    /// Closes a connection in order, as soon as its slot can be told: nothing more is accepted for
    /// it, and what is queued is flushed. Input is read on if a finish came before, and else
    /// discarded.
    pub(crate) fn begin_close(
        &mut self,
        now: Tick,
        id: PeerId,
        reason: CloseReason,
        drain_ms: u64,
    ) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        if connection.peer.is_closing() {
            return;
        }
        if matches!(connection.peer.state(), State::Connecting { .. }) {
            self.leave(now, id, reason, true);
            return;
        }
        if self.take_last_output(now, id).is_err() {
            self.put_close_off(id, Again::Close(id, reason, drain_ms));
            return;
        }
        let rules = &self.rules;
        let connection = self.connections.get_mut(id.index() as usize);
        let Some(connection) =
            connection.filter(|connection| connection.id() == id && connection.leaving.is_none())
        else {
            return;
        };
        let peer = &mut connection.peer;
        if peer.state().takes_input() && peer.has_partial_frame() {
            self.slots.ledger.partial_frames.add(1);
        }
        peer.begin_drain(now, rules, reason, drain_ms);
        self.after_close(now, id);
    }

    /// Closes a connection in order without what is queued: its peer reads no more, or took it for
    /// too long.
    pub(super) fn abandon(&mut self, now: Tick, id: PeerId, reason: CloseReason) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        if connection.peer.is_closing() {
            return;
        }
        if self.take_last_output(now, id).is_err() {
            self.lists.again.push(Again::Abandon(id, reason));
            return;
        }
        let rules = &self.rules;
        let connection = self.connections.get_mut(id.index() as usize);
        let Some(connection) =
            connection.filter(|connection| connection.id() == id && connection.leaving.is_none())
        else {
            return;
        };
        connection.peer.begin_abandon(now, rules, reason);
        self.after_close(now, id);
    }

    /// Takes what was accepted for a peer before its close; nothing is accepted after it. The peer
    /// may be gone then, because a sender had it cut off.
    fn take_last_output(&mut self, now: Tick, id: PeerId) -> Result<(), Contended> {
        let taken = self.take_output(now, id, true)?;
        if taken.cut_off {
            self.leave(now, id, CloseReason::SlowPeer, true);
        }
        Ok(())
    }

    /// Has a close done in the next turn, because the slot is contended. What lies behind the
    /// reason of the close is not to be read meanwhile.
    fn put_close_off(&mut self, id: PeerId, again: Again) {
        if let Some(connection) = self.connection(id) {
            if connection.peer.state().takes_input() {
                connection.pause = Some(Pause::Closing);
            }
        }
        self.lists.again.push(again);
    }

    /// Follows up on the step to draining.
    fn after_close(&mut self, now: Tick, id: PeerId) {
        let connection = self.connections.get_mut(id.index() as usize);
        if let Some(connection) = connection {
            if connection.pause == Some(Pause::Closing) || connection.peer.discards() {
                connection.pause = None;
            }
            recharge_carry(&self.slots, connection);
        }
        self.note_mute(id);
        self.give_up_node(id);
        self.list_reading(id);
        self.after_output(now, id);
        self.arm(now, id);
    }

    /// The peer said BYE. What is accepted from now on are replies alone; what waits is written if
    /// the peer still reads.
    pub(super) fn handle_bye(&mut self, now: Tick, id: PeerId) {
        let drain_ms = self.rules.drain_ms;
        let Some(connection) = self.connection(id) else {
            return;
        };
        let Some(code) = connection.peer.bye_received else {
            return;
        };
        let was_told = connection.told_connected;
        let reads_on = CloseReason::from_wire_code(code).is_some_and(CloseReason::reads_on);
        // One that comes while we close changes nothing about our close.
        if let State::HalfClosed { reason, .. } = connection.peer.state() {
            if reads_on {
                connection.peer.limit_half_closed(now, drain_ms);
                self.limit_to_replies(id);
            } else {
                self.abandon(now, id, reason);
            }
        }
        if was_told {
            self.told.emit(Event::ByeReceived { peer: id, code });
        }
    }

    /// Has sends to a peer refused that are no replies.
    pub(super) fn limit_to_replies(&mut self, id: PeerId) {
        if self.connection(id).is_some() && self.slots.limit_to_replies(id).is_err() {
            self.lists.again.push(Again::Answering(id));
        }
    }

    // ----- drained ---------------------------------------------------------------------------

    /// Closes a peer that waited to be drained, if it is.
    pub(super) fn check_drained(&mut self, now: Tick, id: PeerId) {
        let state = self
            .connection(id)
            .map(|connection| connection.peer.state());
        let Some(state) = state.filter(|state| state.waits_to_drain()) else {
            return;
        };
        let Flow { released, queued } = self.slots.flow(id);
        let Some(connection) = self.connection(id) else {
            return;
        };
        let Some(reason) = connection.peer.judge_drained(now, released, queued) else {
            self.watch_release(now, id, released);
            return;
        };
        let drain_ms = self.drain_ms_of(now, id).unwrap_or(self.rules.drain_ms);
        if matches!(state, State::Stopping { .. }) {
            // The answers are written, and BYE comes behind what was accepted since.
            self.begin_close(now, id, reason, drain_ms);
            return;
        }
        match self.slots.close_if_drained(id) {
            Ok(true) => self.begin_close(now, id, reason, drain_ms),
            Ok(false) => {}
            Err(_) => self.lists.again.push(Again::Dirty(id.index())),
        }
    }

    /// How much of its drain time a connection has left that is being finished, by us or by a BYE
    /// of its peer.
    pub(super) fn drain_ms_of(&mut self, now: Tick, id: PeerId) -> Option<u64> {
        match self
            .connection(id)
            .map(|connection| connection.peer.state())?
        {
            State::Stopping { deadline, .. }
            | State::HalfClosed {
                deadline: Some(deadline),
                ..
            } => Some(deadline.saturating_sub(now)),
            State::Connecting { .. }
            | State::Greeting { .. }
            | State::Open
            | State::Refused { .. }
            | State::HalfClosed { deadline: None, .. }
            | State::Draining { .. }
            | State::Lingering { .. } => None,
        }
    }

    /// Has the slot marked dirty when everything is released that is waited for.
    fn watch_release(&mut self, now: Tick, id: PeerId, released: Traffic) {
        let Some(connection) = self.connection(id) else {
            return;
        };
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
                is_missing.then_some(connection.peer.read)
            }
        };
        let waits_for_credit = connection.pause == Some(Pause::Credit) && !connection.peer.eof;
        if let Some(awaited) = awaited {
            if waits_for_credit && matches!(connection.peer.state(), State::Stopping { .. }) {
                // Whichever comes first.
                self.watch_credit(id);
            } else if !self.slots.pause(id, awaited) {
                self.lists.again.push(Again::Dirty(id.index()));
            }
        }
        self.arm(now, id);
    }

    /// Looks whether a peer is drained, whose deadline says so. One that is not is looked at again,
    /// whatever its deadline says.
    pub(super) fn recheck_drained(&mut self, now: Tick, id: PeerId) {
        self.check_drained(now, id);
        let Some(connection) = self.connection(id) else {
            return;
        };
        if connection.timer.is_some() || connection.peer.is_closing() {
            return;
        }
        let next = now + DRAINED_CHECK_MS;
        let own = self.own_deadline_of(now, id);
        let next = own.map_or(next, |tick| tick.max(next));
        let request = self.request_deadline_of(now, id);
        let next = request.map_or(next, |tick| tick.min(next));
        if let Some(connection) = self.connections.live(id) {
            self.deadlines.arm_at(next, connection);
        }
    }

    // ----- the last step ---------------------------------------------------------------------

    /// Ends a connection: has the event loop look what is left of it, gives its slot back, counts
    /// it, and has the event loop close it.
    pub(super) fn leave(&mut self, now: Tick, id: PeerId, reason: CloseReason, abort: bool) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        connection.leaving = Some(Leaving { reason, abort });
        let is_made = connection.standing != Standing::Dialling;
        self.give_up_node(id);
        self.discard_pieces(id);
        if is_made {
            self.lists.actions.push_back(Action::Settle(id));
        } else {
            self.finish_leaving(now, id);
        }
    }

    /// Counts what a last read of a connection brings, which nothing more is to come of.
    pub(crate) fn handle_last_input(
        &mut self,
        id: PeerId,
        mut read: impl FnMut(&mut Vec<u8>, usize) -> io::Result<usize>,
    ) {
        let rules = &self.rules;
        let connection = self.connections.get_mut(id.index() as usize);
        let Some(connection) =
            connection.filter(|connection| connection.id() == id && connection.leaving.is_some())
        else {
            return;
        };
        let peer = &mut connection.peer;
        if peer.eof {
            return;
        }
        let mut left = LAST_READ_BYTES;
        let mut buffer = self.input.pool.take_buffer();
        while left > 0 {
            buffer.clear();
            let count = match read(&mut buffer, left) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) => {
                    // One that has ended the connection is not told again.
                    connection.failed |= error.kind() != io::ErrorKind::WouldBlock;
                    break;
                }
            };
            let is_partial = peer.has_partial_frame();
            self.slots.ledger.partial_frames.add(is_partial.into());
            peer.discard_carry(rules);
            peer.discard(rules, &buffer[..count]);
            left = left.saturating_sub(count);
        }
        self.input.pool.put_buffer(buffer);
    }

    /// A connection that is to be closed has so many bytes unread.
    pub(crate) fn handle_settled(&mut self, now: Tick, id: PeerId, unread: u64) {
        let connection = self.connections.get_mut(id.index() as usize);
        let Some(connection) =
            connection.filter(|connection| connection.id() == id && connection.leaving.is_some())
        else {
            return;
        };
        connection.peer.discard_unseen(unread);
        if self.is_to_be_confirmed(id) {
            self.lists
                .actions
                .push_front(Action::Look { id, last: true });
        } else {
            self.finish_leaving(now, id);
        }
    }

    pub(super) fn finish_leaving(&mut self, now: Tick, id: PeerId) {
        let index = id.index() as usize;
        let rules = &self.rules;
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        let Some(Leaving { reason, abort }) =
            connection.leaving.filter(|_| connection.peer.id == id)
        else {
            return;
        };
        let peer = &mut connection.peer;
        let held = peer.in_flight(self.slots.released(id)).messages;
        let Ok(lost) = close_slot(&self.slots, now, peer) else {
            self.lists.again.push(Again::Leave(id));
            return;
        };
        let is_partial = peer.has_partial_frame();
        self.slots.ledger.partial_frames.add(is_partial.into());
        if !peer.state().takes_input() || peer.waits_for_ok() {
            peer.discard_carry(rules);
        }
        if connection.carry_charge > 0 {
            self.slots.ledger.budget.release(connection.carry_charge);
        }
        if let Some(timer) = connection.timer {
            self.deadlines.wheel.cancel_at(timer);
        }
        self.ended.count(peer, lost, &self.slots.ledger);
        let (standing, told_connected) = (connection.standing, connection.told_connected);
        if connection.pending {
            self.admission.census.end_pending();
        }
        let dial_error = connection.dial_error.take();
        let unconfirmed = count_unconfirmed(&self.slots.ledger, peer, self.acknowledgement.untold);
        let row = closed_row(now, peer, reason, lost, unconfirmed);
        self.connections.remove(index);
        self.forget_standing(now, standing, &row);
        if self.slots.was_asked(id) {
            self.told.notify(Notice::Closed { peer: id, reason });
        }
        let left = row.clone();
        if self.slots.was_given_up(id) {
            self.end_link(left.link);
        }
        let error = (!told_connected).then(|| {
            dial_error.unwrap_or(DialError::Handshake {
                reason,
                bye_received: row.bye_received,
            })
        });
        if standing != Standing::Dialling {
            if told_connected {
                self.tell_end(now, &row);
            }
            self.ended.keep_row(row, held, abort, &self.slots.ledger);
        }
        // Senders that wait for room learn that there will never be any.
        if !self.slots.notify_room(id.index()) {
            self.lists.again.push(Again::NotifyRoom(id.index()));
        }
        self.lists.actions.push_back(Action::Close {
            index: id.index(),
            abort,
        });
        if let Some(link) = left.link {
            self.handle_link_down(now, link, &left, error);
        }
    }

    /// Tells of the end of a connection that was let in. One that was not has the line of its
    /// refusal.
    fn tell_end(&mut self, now: Tick, row: &ClosedRow) {
        if self.told.is_watched() {
            self.told.emit(Event::Closed(Box::new(row.clone())));
        }
        self.ended.losses.note(now, row);
    }

    /// Sends the FIN once everything is written and said.
    pub(super) fn finish_drain(&mut self, now: Tick, id: PeerId) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        let text = closing_reason(&connection.peer).name();
        if !connection.peer.finish_drain(now, text) {
            return;
        }
        self.lists.actions.push_back(Action::Shutdown(id));
        let Some(connection) = self.connection(id) else {
            return;
        };
        let reason = closing_reason(&connection.peer);
        if connection.peer.begin_linger(now) {
            self.end_linger(now, id, reason);
        } else {
            self.list_reading(id);
        }
    }

    /// Both sides have ended. What the peer's system does not have yet it will get, unless the
    /// connection breaks, so it is waited for.
    pub(super) fn end_linger(&mut self, now: Tick, id: PeerId, reason: CloseReason) {
        let is_unsure = self.is_to_be_confirmed(id);
        let Some(connection) = self.connection(id) else {
            return;
        };
        if is_unsure && connection.peer.await_confirmation(now) {
            self.lists
                .actions
                .push_back(Action::Look { id, last: false });
            self.arm(now, id);
        } else {
            self.leave(now, id, reason, false);
        }
    }
}
