//! New rules and limits for connections that are there.
//!
//! The rules change at once. A timer on the wheel that is later than its peer's new deadline is
//! moved by a walk over all peers, so many each turn; until it has passed a peer, that one may be
//! judged late, as after any long turn, and never early.

use super::{census::PeerLimits, connection::Credit, state::Peers};
use crate::{
    clock::Tick,
    config::Config,
    id::PeerId,
    limits::{DORMANT_AFTER_MS, LIVE_LOOKS_PER_TURN},
};

impl Peers {
    #[cold]
    pub(crate) fn reconfigure(&mut self, now: Tick, config: &Config) {
        self.common.rules.change_to(config);
        let limits = PeerLimits {
            // Descriptors may allow less than the settings.
            peers: config.max_peers.min(self.common.admission.places),
            ..PeerLimits::of(config)
        };
        self.common.admission.limits = limits;
        self.common.admission.census.set_limits(limits);
        let (bytes, messages) = (config.outbox_bytes as u64, config.outbox_messages as u64);
        self.common.slots.set_outbox_limits(bytes, messages);
        self.common.credit = Credit { bytes, messages };
        let ledger = &self.common.slots.ledger;
        ledger.budget.set_limit(config.memory_budget);
        ledger.set_dispatch_bytes(config.dispatch_bytes as u64);
        self.common.deadlines.unmoved = Some(0);
        self.continue_reconfigure(now);
    }

    /// Goes on with the walk, if there is one.
    #[cold]
    #[inline]
    pub(super) fn continue_reconfigure(&mut self, now: Tick) {
        if let Some(start) = self.common.deadlines.unmoved {
            self.move_timers(now, start);
        }
    }

    #[cold]
    #[inline(never)]
    fn move_timers(&mut self, now: Tick, start: usize) {
        let end = self
            .connections
            .index_end()
            .min(start + LIVE_LOOKS_PER_TURN);
        for index in start..end {
            let id = self.connections.id_at(index).map(|(id, _)| id);
            if let Some(id) = id {
                self.move_timer(now, id);
                if let Some(connection) = self.connections.live(id) {
                    self.common.reconsider_reading(now, connection);
                }
            }
        }
        self.common.deadlines.unmoved = Some(end).filter(|end| *end < self.connections.index_end());
    }

    /// A dormant peer that need not be looked at stays dormant.
    fn move_timer(&mut self, now: Tick, id: PeerId) {
        let (common, index) = (&mut self.common, id.index() as usize);
        let lag = common.deadlines.lag(now);
        let Some(connection) = self.connections.look(index) else {
            return;
        };
        let Some(deadline) = connection.own_deadline(&common.rules, lag) else {
            return;
        };
        let wheel = &common.deadlines.wheel;
        let armed = connection.timer.and_then(|timer| wheel.deadline_at(timer));
        if armed.is_none_or(|armed| armed > deadline) {
            if let Some(connection) = self.connections.get_mut(index) {
                common.arm(now, connection);
            }
            let before = now.saturating_sub(DORMANT_AFTER_MS);
            self.connections.make_dormant(index, before);
        }
    }
}
