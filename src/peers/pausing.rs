//! When a connection is not read: for its credit, for a subscriber that is full, for the budget.
//!
//! | paused for | read again when |
//! |---|---|
//! | credit | half of it is free, or nothing is held but the frame that has begun |
//! | a subscriber | none that it sent to is full |
//! | the budget | it is not tight; while it is short and not used up, those that hold little |
//! | its close, put off | the close is done |
//!
//! How much may be read otherwise, [`Common::allowance`] says.

use super::{
    connection::{Connection, Pause, Report},
    state::Common,
    turn_lists::Again,
};
use crate::{
    clock::Tick,
    event::Event,
    ledger::Traffic,
    limits::{BLOCK_SIZE, PAUSE_REPORTED_MS},
    slots::Flow,
};

impl Common {
    /// How many bytes may be read from a peer now; if none, it is paused.
    pub(super) fn allowance(&mut self, now: Tick, connection: &mut Connection) -> Option<usize> {
        let id = connection.id();
        if self.slots.is_parked(id) {
            self.pause(now, connection, Pause::Parked);
            // The dispatcher may have let go of it just now.
            if self.slots.is_parked(id) {
                return None;
            }
            self.reconsider_reading(now, connection);
        }
        let (credit, flow) = (self.credit, self.slots.flow(id));
        let used = connection.used(flow);
        if self.is_over_budget(connection, used) {
            self.pause(now, connection, Pause::Budget);
            return None;
        }
        let Flow { released, queued } = flow;
        let carried = connection.peer.carry.len() as u64;
        let frame_size = connection.peer.carried_frame_size().unwrap_or(0) as u64;
        let frame_left = frame_size.saturating_sub(carried);
        let allowance = credit.allowance(used, frame_left);
        if allowance >= credit.allowance_min() {
            return Some(usize::try_from(allowance).unwrap_or(usize::MAX));
        }
        let in_flight = connection.peer.in_flight(released);
        if in_flight == Traffic::default() && queued == Traffic::default() {
            // Nothing is in flight but the frame itself, which is of a legal size.
            // It is read to its end and no further, so that its answer finds the outbox empty and
            // nothing comes behind that.
            let one = if frame_left > 0 {
                frame_left
            } else {
                credit.allowance_min()
            };
            return Some(usize::try_from(one).unwrap_or(usize::MAX));
        }
        self.pause(now, connection, Pause::Credit);
        self.watch_credit(connection);
        None
    }

    /// Has the slot marked dirty when half of the credit is free again. What is queued for the
    /// peer, and its unfinished frame, have their part of it.
    pub(super) fn watch_credit(&mut self, connection: &Connection) {
        let id = connection.id();
        let (credit, Flow { released, queued }) = (self.credit, self.slots.flow(id));
        if connection.peer.in_flight(released) == Traffic::default() {
            // Only writing can make room, and each write looks at this again. If nothing is to be
            // written either, the last of it was released just now, before this asked to be told.
            if queued == Traffic::default() {
                self.lists.again.push(Again::Dirty(id.index()));
            }
            return;
        }
        let (read, carried) = (
            connection.peer.counts.read,
            connection.peer.carry.len() as u64,
        );
        let resume =
            |all: u64, kept: u64, read: u64| read - (all / 2).saturating_sub(kept).min(read);
        let resume = Traffic::new(
            resume(credit.messages, queued.messages, read.messages),
            resume(credit.bytes, queued.bytes + carried, read.bytes),
        );
        // A slot tells of one sum only, and what a stop waits for may come first.
        let resume = match connection.peer.unreleased_mark(released) {
            Some(mark) if mark.messages < resume.messages || mark.bytes < resume.bytes => mark,
            Some(_) | None => resume,
        };
        if !self.slots.pause(id, resume) {
            self.lists.again.push(Again::Dirty(id.index()));
        }
    }

    /// Above three quarters of the budget the heaviest readers pause, at the end of it all of them.
    ///
    /// A peer that holds nothing but the frame that it has begun is not one of the heaviest: while
    /// it is not read, it can never give anything back. It goes on until its frame is whole, or to
    /// the end of the budget, where the largest of them is closed.
    fn is_over_budget(&self, connection: &Connection, used: Traffic) -> bool {
        let budget = &self.slots.ledger.budget;
        if !budget.is_tight() {
            return false;
        }
        let share = (budget.limit() / 4 * 3 / self.admission.census.counted().max(1)) as u64;
        let is_heavy = used.bytes >= share.max(BLOCK_SIZE as u64);
        budget.is_exhausted()
            || (is_heavy && !connection.holds_one_frame(self.slots.flow(connection.id())))
    }

    pub(super) fn pause(&mut self, now: Tick, connection: &mut Connection, pause: Pause) {
        if connection.pause.is_none() {
            connection.pause = Some(pause);
            let receiving = self.deadlines.receiving(now);
            connection.peer.set_reading(receiving, false);
            pause.count(&self.slots.ledger.pauses);
            self.watch_pause(now, connection);
        }
        if pause == Pause::Budget {
            self.pressure.paused.push(connection.id());
            self.pressure.arm(now, &mut self.deadlines);
            if !self.slots.wait_for_budget() {
                self.lists.again.push(Again::Dirty(connection.id().index()));
            }
        }
    }

    /// Has the pause told if it lasts: `now` was rounded down.
    fn watch_pause(&mut self, now: Tick, connection: &mut Connection) {
        if self.told.is_watched() && connection.told_connected {
            connection.report = Report::Due(now + PAUSE_REPORTED_MS + 1);
            self.deadlines.arm(now, connection, &self.rules);
        }
    }

    /// Tells that a peer is not being read, if it is not and the time for that has come.
    pub(super) fn report_pause(&mut self, now: Tick, connection: &mut Connection) {
        let due = connection.report_due().filter(|due| *due <= now);
        let cause = connection
            .pause
            .and_then(Pause::cause)
            .filter(|_| due.is_some());
        if let Some(cause) = cause {
            connection.report = Report::Told;
            let peer = connection.id();
            self.told.emit(Event::Paused { peer, cause });
        }
    }

    /// Reads a paused peer again if what it was paused for is over.
    pub(super) fn reconsider_reading(&mut self, now: Tick, connection: &mut Connection) {
        let Some(pause) = connection.pause.filter(|_| connection.leaving.is_none()) else {
            return;
        };
        let id = connection.id();
        let over = match pause {
            Pause::Credit => {
                let flow = self.slots.flow(id);
                let over = self.credit.is_half_free(connection.used(flow))
                    || connection.holds_one_frame(flow);
                // What is written since has moved the point at which to read again.
                if !over {
                    self.watch_credit(connection);
                }
                over
            }
            Pause::Parked => !self.slots.is_parked(id),
            Pause::Budget => !self.slots.ledger.budget.is_tight(),
            Pause::Closing => false,
        };
        if over {
            self.resume(now, connection);
        }
    }

    pub(super) fn resume(&mut self, now: Tick, connection: &mut Connection) {
        connection.pause = None;
        let receiving = self.deadlines.receiving(now);
        connection.peer.set_reading(receiving, true);
        if std::mem::replace(&mut connection.report, Report::Nothing) == Report::Told {
            let peer = connection.id();
            self.told.emit(Event::Resumed { peer });
        }
        self.lists.list_reading(connection);
        self.deadlines.arm(now, connection, &self.rules);
    }

    /// The budget is short, and not used up any more: a peer that waits for it and holds little is
    /// read again. False if it goes on to wait.
    pub(super) fn resume_light(&mut self, now: Tick, connection: &mut Connection) -> bool {
        let used = connection.used(self.slots.flow(connection.id()));
        let waits = connection.pause == Some(Pause::Budget);
        if waits && self.is_over_budget(connection, used) {
            return false;
        }
        if waits {
            self.resume(now, connection);
        }
        true
    }
}
