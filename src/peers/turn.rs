//! A turn: what is done for all connections, and in which order.

use super::{deadlines::Timer, state::Peers, turn_lists::Again};
use crate::{
    clock::Tick,
    id::PeerId,
    limits::{COMMANDS_PER_TURN, TIMERS_PER_TURN},
};

impl Peers {
    /// Takes the lists of the turn; what is listed from now on waits for the next one.
    pub(crate) fn begin_turn(&mut self, now: Tick) {
        self.common.slots.finish_deferred();
        self.common.lists.begin_reading();
        self.handle_all_dirty(now);
        self.retry(now);
        self.learn_nodes(now);
        if self.common.deadlines.unmoved.is_some() {
            self.continue_reconfigure(now);
        }
        self.continue_holdings_walk(now);
        self.answer_budget(now);
        self.resume_budget(now);
        self.recheck_watermarks(now);
        self.look_at_unsure(now);
        self.common.lists.begin_writing();
    }

    /// The next peer to read.
    pub(crate) fn poll_read(&mut self) -> Option<PeerId> {
        loop {
            let id = self.common.lists.reading.pop_front()?;
            if let Some(connection) = self.connections.live(id) {
                connection.in_read_list = false;
                #[cfg(test)]
                self.common.lists.turns.push(id);
                return Some(id);
            }
        }
    }

    /// The next peer to write.
    pub(crate) fn poll_write(&mut self) -> Option<PeerId> {
        loop {
            let id = self.common.lists.writing.pop_front()?;
            if let Some(connection) = self.connections.live(id) {
                connection.in_write_list = false;
                return Some(id);
            }
        }
    }

    /// Peers with output from commands that came in since the turn began.
    pub(crate) fn poll_late_output(&mut self, now: Tick) {
        self.handle_all_dirty(now);
        self.common.lists.begin_writing();
    }

    /// Fires the timers that are due, `TIMERS_PER_TURN` at most, and returns the first that is not
    /// a peer's.
    pub(crate) fn poll_timer(&mut self, now: Tick, allowance: &mut usize) -> Option<Timer> {
        debug_assert!(*allowance <= TIMERS_PER_TURN);
        while *allowance > 0 {
            let expired = self.common.deadlines.wheel.poll(now)?;
            *allowance -= 1;
            match expired.value {
                Timer::Peer(id) => self.handle_deadline(now, id),
                Timer::Link(id) => self.handle_link_timer(now, id),
                Timer::Budget => self.handle_budget_timer(now),
                Timer::Notices => {
                    let common = &mut self.common;
                    common.told.handle_notices_timer(now, &mut common.deadlines);
                }
                timer @ (Timer::Metrics
                | Timer::Accept(_)
                | Timer::StopDeadline
                | Timer::User(_)) => return Some(timer),
            }
        }
        None
    }

    /// Whether there is work that does not wait for an event.
    pub(crate) fn has_work(&self) -> bool {
        let common = &self.common;
        // What was read already is on no list: its peer may be closing, or have no more to read.
        let has_input = common.lists.has_readers() || common.input.has_pieces_of().is_some();
        (has_input && !common.deadlines.is_stalled())
            || common.lists.has_other_work()
            || !common.acknowledgement.unsure.is_empty()
            || common.deadlines.unmoved.is_some()
            || common.pressure.walk.is_some()
    }

    /// No peer is read from now on, or all are again: the dispatch queue is full, or has room. What
    /// is listed for reading stays so. Returns whether that is new.
    pub(crate) fn set_stalled(&mut self, now: Tick, stalled: bool) -> bool {
        let is_new = self.common.deadlines.set_stalled(now, stalled);
        if is_new && !stalled {
            let lag = self.common.deadlines.lag(now);
            self.common.slots.ledger.stalled_ms.set(lag);
        }
        is_new
    }

    /// Once a second: lets go of memory that is kept for nothing.
    pub(crate) fn handle_metrics_tick(&mut self, now: Tick) {
        let lag = self.common.deadlines.lag(now);
        self.common.slots.ledger.stalled_ms.set(lag);
        self.common.input.pool.trim();
        self.common.ended.losses.handle_tick(now);
        self.make_some_dormant(now);
    }

    fn handle_all_dirty(&mut self, now: Tick) {
        // None is dirty in most turns, and to count costs less than to try in vain.
        for _ in 0..COMMANDS_PER_TURN.min(self.common.slots.dirty_count()) {
            let Some(index) = self.common.slots.poll_dirty() else {
                return;
            };
            self.handle_dirty(now, index);
        }
    }

    /// Looks at what other threads did to a slot.
    fn handle_dirty(&mut self, now: Tick, index: u32) {
        let connection = self.connections.get_mut(index as usize);
        if let Some(id) = connection.map(|connection| connection.id()) {
            self.on(now, id, |common, connection| {
                common.handle_dirty(now, connection);
            });
        }
    }

    fn retry(&mut self, now: Tick) {
        if self.common.lists.again.is_empty() {
            return;
        }
        for again in std::mem::take(&mut self.common.lists.again) {
            match again {
                Again::Dirty(index) => self.handle_dirty(now, index),
                Again::NotifyRoom(index) => {
                    if !self.common.slots.notify_room(index) {
                        self.common.lists.again.push(again);
                    }
                }
                Again::Close(id, reason, drain_ms) => {
                    self.on(now, id, |common, connection| {
                        common.begin_close(now, connection, reason, drain_ms);
                    });
                }
                Again::Answering(id) => {
                    self.on(now, id, |common, connection| {
                        common.limit_to_replies(connection);
                    });
                }
                Again::Abandon(id, reason) => {
                    self.on(now, id, |common, connection| {
                        common.abandon(now, connection, reason);
                    });
                }
                Again::Leave(id) => self.finish_leaving(now, id),
                Again::Identity(id) => {
                    self.on(now, id, |common, connection| {
                        common.keep_identity(connection);
                    });
                }
                Again::FreePlace(index) => self.connections.remove(index as usize),
            }
        }
    }

    /// Looks again at those that had to wait for other events to be told.
    fn recheck_watermarks(&mut self, now: Tick) {
        let common = &mut self.common;
        if common.told.watermarks_due.is_empty() || common.told.has_backlog() {
            return;
        }
        for id in std::mem::take(&mut common.told.watermarks_due) {
            if let Some(connection) = self.connections.live(id) {
                connection.in_due_list = false;
                common.check_watermarks(now, connection);
            }
        }
    }
}
