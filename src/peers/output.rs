//! What is sent to a peer on its way into the outbox, and what senders are told of its fill.

use std::time::Duration;

use super::Peers;
use crate::{
    clock::Tick,
    error::CloseReason,
    event::Event,
    id::PeerId,
    ledger::Traffic,
    limits::LINGER_MS,
    peer::Peer,
    slots::{Contended, Refusals, Slots, Take, Taken},
    socket::Ready,
};

/// Gives the slot of a peer back, and counts what is lost with the connection.
pub(super) fn close_slot(slots: &Slots, now: Tick, peer: &mut Peer) -> Result<Traffic, Contended> {
    let outbox = &mut peer.outbox;
    let (late, unanswered) = slots.close(peer.id, peer.sums, |priority, segment| {
        outbox.push(now, priority, segment);
    })?;
    peer.sums.add(late);
    peer.unanswered += unanswered;
    // The slot takes nothing any more, so this is all of it.
    let lost = peer.outbox.count_unwritten();
    debug_assert_eq!(lost, peer.outbox.waiting());
    let ledger = &slots.ledger;
    ledger.note_accepted(late.accepted);
    ledger.note_overflowed(late.overflowed);
    ledger.outbound_dropped.add(lost);
    ledger.outbound_queued.sub(lost);
    Ok(lost)
}

impl Peers {
    /// Takes what was sent to a peer, as far as there is room for it, and does what senders ask for
    /// besides: to close the peer, or to cut it off.
    pub(super) fn refill_output(&mut self, now: Tick, id: PeerId) -> Result<(), Contended> {
        let taken = self.take_output(now, id, false)?;
        if taken.cut_off {
            self.leave(now, id, CloseReason::SlowPeer, true);
        } else if let Some(reason) = taken.close_asked {
            if reason == CloseReason::AppClosed {
                self.end_link_of(id);
            }
            if reason.reads_on() {
                self.begin_finish(now, id, reason, self.rules.drain_ms);
            } else {
                self.begin_close(now, id, reason, LINGER_MS);
            }
        }
        Ok(())
    }

    /// Takes what was sent to a peer. With `last`, nothing is accepted after it.
    pub(super) fn take_output(
        &mut self,
        now: Tick,
        id: PeerId,
        last: bool,
    ) -> Result<Taken, Contended> {
        let (slots, index) = (&self.slots, id.index() as usize);
        let Some(connection) = self.connections.get_mut(index) else {
            return Ok(Taken::default());
        };
        let peer = &mut connection.peer;
        let take = if last {
            Take::Last
        } else if slots.may_overflow() {
            Take::Beside(peer.outbox.bytes_by_priority())
        } else {
            Take::Beside(Default::default())
        };
        let outbox = &mut peer.outbox;
        let taken = slots.take_tail(now, id, peer.sums, take, |priority, segment| {
            outbox.push(now, priority, segment);
        })?;
        peer.sums.add(taken.sums);
        // Where it is written now, that is looked at afterwards.
        if !connection.ready.has(Ready::WRITE) {
            slots.note_slack(id, peer.outbox.slack_bytes());
        }
        connection.has_more = taken.has_more;
        slots.ledger.note_accepted(taken.sums.accepted);
        if taken.sums.overflowed.messages > 0 {
            slots.ledger.note_overflowed(taken.sums.overflowed);
        }
        Ok(taken)
    }

    /// Tells when much is queued for a peer, and when senders that were told so, or were refused,
    /// may go on.
    pub(super) fn check_watermarks(&mut self, now: Tick, id: PeerId) {
        let (slots, limits) = (&self.slots, self.slots.limits());
        let Some(connection) = self.connections.get_mut(id.index() as usize) else {
            return;
        };
        if connection.id() != id || connection.leaving.is_some() {
            return;
        }
        let (queued, refusals) = slots.fill(id);
        let high = limits.is_high(queued);
        let may_tell = high != connection.congested || !refusals.is_empty();
        if !may_tell || connection.peer.is_closing() {
            return;
        }
        if self.told.has_backlog() {
            if !std::mem::replace(&mut connection.in_due_list, true) {
                self.told.watermarks_due.push(id);
            }
            return;
        }
        let congested = high && !connection.congested;
        connection.congested |= congested;
        let low = limits.is_low(queued);
        let answers = |why| {
            let answered = refusals.has(why);
            if answered {
                slots.forget_refusals(id, why);
            }
            answered
        };
        let told = (low && answers(Refusals::OUTBOX))
            | (queued.messages == 0 && answers(Refusals::NOT_EMPTY))
            | (low && std::mem::take(&mut connection.congested));
        let waits = refusals.has(Refusals::BUDGET) && !connection.in_refused_list;
        connection.in_refused_list |= waits;
        if congested {
            self.told.emit(Event::Congested { peer: id, queued });
        }
        if told {
            self.told.emit(Event::Writable { peer: id });
        }
        if waits {
            self.pressure.refused.push(id);
            self.arm_budget_timer(now);
        }
    }

    /// Looks again at those that had to wait for other events to be told.
    pub(super) fn recheck_watermarks(&mut self, now: Tick) {
        if self.told.watermarks_due.is_empty() || self.told.has_backlog() {
            return;
        }
        for id in std::mem::take(&mut self.told.watermarks_due) {
            if let Some(connection) = self.connection(id) {
                connection.in_due_list = false;
                self.check_watermarks(now, id);
            }
        }
    }

    /// Tells senders that were refused for the budget that it has room again.
    pub(super) fn tell_budget_room(&mut self) {
        let is_early = self.slots.ledger.budget.is_exhausted() || self.told.has_backlog();
        if self.pressure.refused.is_empty() || is_early {
            return;
        }
        for id in std::mem::take(&mut self.pressure.refused) {
            let Some(connection) = self.connection(id) else {
                continue;
            };
            connection.in_refused_list = false;
            self.slots.forget_refusals(id, Refusals::BUDGET);
            self.told.emit(Event::Writable { peer: id });
        }
    }

    /// How long the oldest message has waited that is queued for a peer.
    pub(super) fn oldest(&self, now: Tick, peer: &Peer) -> Option<Duration> {
        if self.slots.queued(peer.id) == Traffic::default() {
            return None;
        }
        // What the loop has not seen yet has come just now.
        let age = peer.outbox.age_of_oldest(now).unwrap_or_default();
        Some(Duration::from_millis(age.into()))
    }
}
