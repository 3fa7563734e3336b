//! What is sent to a peer on its way into the outbox, and what senders are told of its fill.

use super::{connection::Connection, state::Common};
use crate::{
    clock::Tick,
    event::Event,
    ledger::Traffic,
    peer::Peer,
    slots::{Contended, Refusals, Slots, Take, Taken},
    socket::Ready,
};

/// Gives the slot of a peer back, and counts what is lost with the connection.
pub(super) fn close_slot(slots: &Slots, now: Tick, peer: &mut Peer) -> Result<Traffic, Contended> {
    let outbox = &mut peer.outbox;
    let (late, unanswered) = slots.close(peer.id, peer.counts.sums, |priority, segment| {
        outbox.push(now, priority, segment);
    })?;
    peer.counts.sums.add(late);
    peer.counts.unanswered += unanswered;
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

/// Charges or returns what the unfinished frame's storage changed by.
pub(super) fn recharge_carry(slots: &Slots, connection: &mut Connection) {
    let charge = connection.peer.carry.capacity();
    let budget = &slots.ledger.budget;
    if charge > connection.carry_charge {
        budget.charge(charge - connection.carry_charge);
    } else if charge < connection.carry_charge {
        budget.release(connection.carry_charge - charge);
    }
    connection.carry_charge = charge;
}

impl Common {
    /// Takes what was sent to a peer. With `last`, nothing is accepted after it.
    pub(super) fn take_output(
        &mut self,
        now: Tick,
        connection: &mut Connection,
        last: bool,
    ) -> Result<Taken, Contended> {
        let slots = &self.slots;
        let id = connection.id();
        let peer = &mut connection.peer;
        let take = if last {
            Take::Last
        } else if slots.may_overflow() {
            Take::Beside(peer.outbox.bytes_by_priority())
        } else {
            Take::Beside(Default::default())
        };
        let outbox = &mut peer.outbox;
        let taken = slots.take_tail(now, id, peer.counts.sums, take, |priority, segment| {
            outbox.push(now, priority, segment);
        })?;
        peer.counts.sums.add(taken.sums);
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
    pub(super) fn check_watermarks(&mut self, now: Tick, connection: &mut Connection) {
        if connection.leaving.is_some() {
            return;
        }
        let (slots, limits) = (&self.slots, self.slots.limits());
        let id = connection.id();
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
            self.pressure.arm(now, &mut self.deadlines);
        }
    }
}
