//! What a loop does about a byte budget that is short.
//!
//! Reading pauses first, see `io`. Where the budget is used up, the peer that holds most of what is
//! not with subscribers makes room, whichever loop it is with. To find it, all peers are looked at:
//! so many in a turn, so that a turn costs no more with 100,000 connections than with 10,000.

use super::{Connection, Pause, Peers, Timer};
use crate::{
    budget::{Holdings, Request},
    clock::Tick,
    error::CloseReason,
    id::PeerId,
    limits::{HELD_LOOKS_PER_TURN, LINGER_MS},
};

/// How often the budget is looked at while it is short.
pub(super) const BUDGET_CHECK_MS: u64 = 100;

/// The part of the budget that has to come back from connections that are closing, if no other is
/// to be closed.
const BUDGET_ROOM_PART: usize = 16;

/// What a walk over all peers is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Purpose {
    /// To decide which peer makes room.
    Decide,
    /// To tell another loop, and to have the largest make room if that loop has so decided.
    Tell { evicts: bool },
}

/// A walk over all peers, and what those hold that it came by.
#[derive(Debug)]
pub(super) struct HoldingsWalk {
    purpose: Purpose,
    /// The index to go on with.
    next: usize,
    holdings: Holdings,
    /// Who holds most, and what the next of them does.
    largest: Option<(usize, PeerId)>,
    second: usize,
}

impl HoldingsWalk {
    fn new(purpose: Purpose) -> Self {
        Self {
            purpose,
            next: 0,
            holdings: Holdings::default(),
            largest: None,
            second: 0,
        }
    }

    fn add(&mut self, id: PeerId, bytes: usize, place: Holding) {
        match place {
            Holding::Coming => self.holdings.coming = self.holdings.coming.saturating_add(bytes),
            Holding::Held => {
                self.holdings.all = self.holdings.all.saturating_add(bytes);
                if Some((bytes, id)) > self.largest {
                    let before = self.largest.replace((bytes, id));
                    self.second = before.map_or(0, |(bytes, _)| bytes);
                    self.holdings.largest = bytes;
                } else {
                    self.second = self.second.max(bytes);
                }
            }
            Holding::Leaving => {}
        }
    }

    /// The largest makes room.
    fn evict(&mut self) {
        let bytes = self.holdings.largest;
        self.holdings.all -= bytes;
        self.holdings.coming = self.holdings.coming.saturating_add(bytes);
        self.holdings.largest = self.second;
        self.largest = None;
    }
}

/// How bytes of a peer count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holding {
    Held,
    /// They come back soon, because the connection is closing.
    Coming,
    /// They come back, and nothing is known of when.
    Leaving,
}

/// Who waits for the budget, and what is done about it.
///
/// Invariants:
/// - a connection that pauses for the budget is in `paused`; one that is `in_refused_list` is in
///   `refused`
/// - while either has any, the `timer` is on the wheel; it is true exactly while that is so
#[derive(Debug, Default)]
pub(super) struct Pressure {
    /// Peers that are not read until the budget has room.
    pub(super) paused: Vec<PeerId>,
    pub(super) timer: bool,
    /// A walk over all peers for the one that is to make room.
    pub(super) walk: Option<HoldingsWalk>,
    /// Peers whose senders were refused for the budget.
    pub(super) refused: Vec<PeerId>,
}

impl Peers {
    pub(super) fn handle_budget_timer(&mut self, now: Tick) {
        self.pressure.timer = false;
        self.tell_budget_room();
        if self.pressure.paused.is_empty() {
            if !self.pressure.refused.is_empty() {
                self.arm_budget_timer(now);
            }
            return;
        }
        if self.slots.ledger.budget.is_exhausted() {
            self.evict_largest(now);
        } else {
            self.resume_light(now);
        }
        if !self.pressure.paused.is_empty() || !self.pressure.refused.is_empty() {
            self.arm_budget_timer(now);
        }
    }

    pub(super) fn arm_budget_timer(&mut self, now: Tick) {
        if !self.pressure.timer {
            self.pressure.timer = true;
            self.deadlines
                .wheel
                .insert(now + BUDGET_CHECK_MS, Timer::Budget);
        }
    }

    /// The budget is used up and no peer may be read. Where subscribers hold so much that no peer's
    /// end would let any be read again, none is closed; and neither where those make room that are
    /// closing already.
    fn evict_largest(&mut self, now: Tick) {
        if self.pressure.walk.is_none() {
            self.pressure.walk = Some(HoldingsWalk::new(Purpose::Decide));
            self.continue_holdings_walk(now);
        }
    }

    /// Looks at some more peers, and does what the walk was for when it is at its end.
    #[inline]
    pub(super) fn continue_holdings_walk(&mut self, now: Tick) {
        if self.pressure.walk.is_some() {
            self.walk_holdings(now);
        }
    }

    #[cold]
    #[inline(never)]
    fn walk_holdings(&mut self, now: Tick) {
        let Some(mut walk) = self.pressure.walk.take() else {
            return;
        };
        let index_end = self.connections.index_end();
        let end = index_end.min(walk.next + HELD_LOOKS_PER_TURN);
        for index in walk.next..end {
            if let Some((id, connection)) = self.connections.id_at(index) {
                let carried = connection.map_or(0, |connection| connection.carry_charge);
                let bytes = self.slots.leased(id).saturating_add(carried);
                walk.add(
                    id,
                    bytes,
                    connection.map_or(Holding::Held, |connection| holding(now, connection)),
                );
            }
        }
        walk.next = end;
        if end < index_end {
            self.pressure.walk = Some(walk);
            return;
        }
        match walk.purpose {
            Purpose::Decide => self.decide_who_makes_room(now, &walk),
            Purpose::Tell { evicts } => self.tell_holdings(now, walk, evicts),
        }
    }

    fn decide_who_makes_room(&mut self, now: Tick, walk: &HoldingsWalk) {
        let own = walk.holdings;
        let budget = &self.slots.ledger.budget;
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
        if evicts && self.slots.ledger.budget.is_exhausted() {
            // This loop may have decided by itself meanwhile.
            if let Some((bytes, id)) = walk.largest.filter(|_| !self.comes_soon(walk.holdings)) {
                self.close_for_budget(now, id, bytes);
                walk.evict();
            }
        }
        self.slots.ledger.budget.tell_holdings(now, walk.holdings);
    }

    /// Whether those that are closing already make enough room.
    fn comes_soon(&self, holdings: Holdings) -> bool {
        let budget = &self.slots.ledger.budget;
        let room = holdings.coming.saturating_sub(budget.excess());
        room > budget.limit() / BUDGET_ROOM_PART
    }

    fn close_for_budget(&mut self, now: Tick, id: PeerId, bytes: usize) {
        let addr = self.connection(id).map(|connection| connection.peer.addr);
        let said =
            addr.and_then(|addr| self.ended.limit_log(now, CloseReason::Budget.name(), addr));
        if let Some(suppressed) = said {
            log::warn!(
                "peer {id} is closed: the budget is used up and it holds {bytes} bytes{suppressed}"
            );
        }
        self.begin_close(now, id, CloseReason::Budget, LINGER_MS);
    }

    /// Does what another loop asks for, which finds the budget used up.
    #[inline]
    pub(super) fn answer_budget(&mut self, now: Tick) {
        if self.slots.ledger.budget.is_asked() {
            self.answer_budget_request(now);
        }
    }

    fn answer_budget_request(&mut self, now: Tick) {
        // What is asked for during a walk is answered by the next one.
        if self.pressure.walk.is_some() {
            return;
        }
        let evicts = self.slots.ledger.budget.take_request() == Some(Request::Evict);
        self.pressure.walk = Some(HoldingsWalk::new(Purpose::Tell { evicts }));
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
