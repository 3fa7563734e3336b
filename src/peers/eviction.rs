//! What a loop does about a byte budget that is short.
//!
//! Reading pauses first, see `pausing`. Where the budget is used up, the peer that holds most of
//! what is not with subscribers makes room, whichever loop it is with. To find it, all peers are
//! looked at: so many in a turn, so that a turn costs no more with 100,000 connections than with
//! 10,000.

use super::{
    connection::{Connection, Pause},
    pressure::{Holding, HoldingsWalk, Purpose},
    state::Peers,
};
use crate::{
    budget::{Holdings, Request},
    clock::Tick,
    error::CloseReason,
    event::Event,
    id::PeerId,
    limits::{HELD_LOOKS_PER_TURN, LINGER_MS},
    slots::Refusals,
};

/// The part of the budget that has to come back from connections that are closing, if no other is
/// to be closed.
const BUDGET_ROOM_PART: usize = 16;

impl Peers {
    /// Reads all again that waited for the budget, if it has room.
    pub(super) fn resume_budget(&mut self, now: Tick) {
        if !self.has_budget_again() {
            return;
        }
        for id in std::mem::take(&mut self.common.pressure.paused) {
            if let Some(connection) = self.connections.live(id) {
                if connection.pause == Some(Pause::Budget) {
                    self.common.resume(now, connection);
                }
            }
        }
    }

    /// The budget is short, and not used up any more: those that hold little are read again.
    fn resume_light(&mut self, now: Tick) {
        for id in std::mem::take(&mut self.common.pressure.paused) {
            if let Some(connection) = self.connections.live(id) {
                if !self.common.resume_light(now, connection) {
                    self.common.pressure.paused.push(id);
                }
            }
        }
    }

    /// Whether peers that wait for the budget can be read again. The loop's own writes give bytes
    /// back without a ring, so this is to be looked at before it sleeps.
    pub(crate) fn has_budget_again(&self) -> bool {
        !self.common.pressure.paused.is_empty() && !self.common.slots.ledger.budget.is_tight()
    }

    /// Tells senders that were refused for the budget that it has room again.
    fn tell_budget_room(&mut self) {
        let common = &mut self.common;
        let is_early = common.slots.ledger.budget.is_exhausted() || common.told.has_backlog();
        if common.pressure.refused.is_empty() || is_early {
            return;
        }
        for id in std::mem::take(&mut common.pressure.refused) {
            let Some(connection) = self.connections.live(id) else {
                continue;
            };
            connection.in_refused_list = false;
            common.slots.forget_refusals(id, Refusals::BUDGET);
            common.told.emit(Event::Writable { peer: id });
        }
    }

    pub(super) fn handle_budget_timer(&mut self, now: Tick) {
        self.common.pressure.timer = false;
        self.tell_budget_room();
        if self.common.pressure.paused.is_empty() {
            if !self.common.pressure.refused.is_empty() {
                let common = &mut self.common;
                common.pressure.arm(now, &mut common.deadlines);
            }
            return;
        }
        if self.common.slots.ledger.budget.is_exhausted() {
            self.evict_largest(now);
        } else {
            self.resume_light(now);
        }
        if !self.common.pressure.paused.is_empty() || !self.common.pressure.refused.is_empty() {
            let common = &mut self.common;
            common.pressure.arm(now, &mut common.deadlines);
        }
    }

    /// The budget is used up and no peer may be read. Where subscribers hold so much that no peer's
    /// end would let any be read again, none is closed; and neither where those make room that are
    /// closing already.
    fn evict_largest(&mut self, now: Tick) {
        if self.common.pressure.walk.is_none() {
            self.common.pressure.walk = Some(HoldingsWalk::new(Purpose::Decide));
            self.continue_holdings_walk(now);
        }
    }

    /// Looks at some more peers, and does what the walk was for when it is at its end.
    #[inline]
    pub(super) fn continue_holdings_walk(&mut self, now: Tick) {
        if self.common.pressure.walk.is_some() {
            self.walk_holdings(now);
        }
    }

    #[cold]
    #[inline(never)]
    fn walk_holdings(&mut self, now: Tick) {
        let Some(mut walk) = self.common.pressure.walk.take() else {
            return;
        };
        let index_end = self.connections.index_end();
        let end = index_end.min(walk.next + HELD_LOOKS_PER_TURN);
        for index in walk.next..end {
            if let Some((id, connection)) = self.connections.id_at(index) {
                let carried = connection.map_or(0, |connection| connection.carry_charge);
                let bytes = self.common.slots.leased(id).saturating_add(carried);
                walk.add(
                    id,
                    bytes,
                    connection.map_or(Holding::Held, |connection| holding(now, connection)),
                );
            }
        }
        walk.next = end;
        if end < index_end {
            self.common.pressure.walk = Some(walk);
            return;
        }
        match walk.purpose {
            Purpose::Decide => self.decide_who_makes_room(now, &walk),
            Purpose::Tell { evicts } => self.tell_holdings(now, walk, evicts),
        }
    }

    fn decide_who_makes_room(&mut self, now: Tick, walk: &HoldingsWalk) {
        let own = walk.holdings;
        let budget = &self.common.slots.ledger.budget;
        let Some((sum, elsewhere)) = budget.compare_holdings(now, own) else {
            return;
        };
        let all = sum.all.saturating_add(sum.coming);
        if self.comes_soon(sum) || budget.is_tight_without(all) {
            return;
        }
        // Subscribers may just have given back what they held, and no peer has to go for that.
        if !budget.is_exhausted() || !budget.claim_eviction(now) {
            return;
        }
        match (elsewhere, walk.largest) {
            (Some(shard), _) => budget.ask_to_evict(shard),
            (None, Some((_, id))) => self.close_for_budget(now, id, own.largest),
            (None, None) => {}
        }
    }

    fn tell_holdings(&mut self, now: Tick, mut walk: HoldingsWalk, evicts: bool) {
        if evicts && self.common.slots.ledger.budget.is_exhausted() {
            // This loop may have decided by itself meanwhile.
            if let Some((bytes, id)) = walk.largest.filter(|_| !self.comes_soon(walk.holdings)) {
                self.close_for_budget(now, id, bytes);
                walk.evict();
            }
        }
        self.common
            .slots
            .ledger
            .budget
            .tell_holdings(now, walk.holdings);
    }

    /// Whether those that are closing already make enough room.
    fn comes_soon(&self, holdings: Holdings) -> bool {
        let budget = &self.common.slots.ledger.budget;
        let room = holdings.coming.saturating_sub(budget.excess());
        room > budget.limit() / BUDGET_ROOM_PART
    }

    fn close_for_budget(&mut self, now: Tick, id: PeerId, bytes: usize) {
        self.on(now, id, |common, connection| {
            let (cause, addr) = (CloseReason::Budget, connection.peer.addr);
            if let Some(suppressed) = common.ended.limit_log(now, cause.name(), addr) {
                log::warn!(
                    "peer {id} is closed: the budget is used up and it holds {bytes} bytes\
                     {suppressed}"
                );
            }
            common.begin_close(now, connection, cause, LINGER_MS);
        });
    }

    /// Does what another loop asks for, which finds the budget used up.
    #[inline]
    pub(super) fn answer_budget(&mut self, now: Tick) {
        if self.common.slots.ledger.budget.is_asked() {
            self.answer_budget_request(now);
        }
    }

    fn answer_budget_request(&mut self, now: Tick) {
        // What is asked for during a walk is answered by the next one.
        if self.common.pressure.walk.is_some() {
            return;
        }
        let evicts = self.common.slots.ledger.budget.take_request() == Some(Request::Evict);
        self.common.pressure.walk = Some(HoldingsWalk::new(Purpose::Tell { evicts }));
        self.continue_holdings_walk(now);
    }
}

/// How the bytes of a connection count at this time.
fn holding(now: Tick, connection: &Connection) -> Holding {
    // Its close waits for a slot that another thread has locked.
    let is_put_off = connection.pause == Some(Pause::Closing);
    if is_put_off || connection.leaving.is_some() || connection.peer.ends_until(now + LINGER_MS) {
        Holding::Coming
    } else if connection.peer.is_closing() {
        Holding::Leaving
    } else {
        Holding::Held
    }
}
