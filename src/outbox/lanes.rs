//! What waits while several priorities do, and whose turn it is.

use crate::{
    ledger::Traffic,
    limits::{PRIORITY_BIAS_BYTES, PRIORITY_WINDOW_BYTES},
    policy::Priority,
    slots::{Run, Segment},
};

/// Frames of several priorities that wait to be offered.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    pub(super) lanes: [Lane; Priority::COUNT],
    /// The lane whose turn it is because it was passed over for long, and the bytes left of that.
    turn: Option<(Priority, usize)>,
}

#[derive(Debug, Default)]
pub(super) struct Lane {
    pub(super) run: Run,
    /// Bytes of higher lanes that were offered since something of this one was.
    passed: usize,
}

impl Lanes {
    pub(super) fn push(&mut self, priority: Priority, segment: Segment) {
        self.lanes[priority.ordinal()].run.push(segment);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.lanes.iter().all(|lane| lane.run.is_empty())
    }

    /// The lane to take from next, and whether it is the only one that waits.
    ///
    /// The highest, unless another was passed over for long: then the longest of those has a turn
    /// of one window.
    pub(super) fn next(&mut self) -> Option<(Priority, bool)> {
        let waits = |priority: &Priority| !self.lanes[priority.ordinal()].run.is_empty();
        let mut waiting = Priority::ALL.into_iter().filter(waits);
        let highest = waiting.next()?;
        let passed = |priority: &Priority| self.lanes[priority.ordinal()].passed;
        let Some(longest) = waiting.max_by_key(passed) else {
            return Some((highest, true));
        };
        self.turn = self.turn.filter(|(priority, _)| waits(priority));
        if self.turn.is_none() && passed(&longest) >= PRIORITY_BIAS_BYTES {
            self.turn = Some((longest, PRIORITY_WINDOW_BYTES));
        }
        let priority = self.turn.map_or(highest, |(priority, _)| priority);
        Some((priority, false))
    }

    /// Takes frames that make up to `room` bytes, or one if that is longer. Returns their bytes.
    pub(super) fn take(
        &mut self,
        priority: Priority,
        room: usize,
        out: impl FnMut(Segment),
    ) -> usize {
        let most = Traffic::new(u64::MAX, room as u64);
        let lane = &mut self.lanes[priority.ordinal()];
        let taken = lane.run.take_frames(most, out).bytes;
        let taken = usize::try_from(taken).unwrap_or(usize::MAX);
        lane.passed = 0;
        for lower in &mut self.lanes[priority.ordinal() + 1..] {
            if lower.run.is_empty() {
                lower.passed = 0;
            } else {
                lower.passed = lower.passed.saturating_add(taken);
            }
        }
        self.turn = self.turn.and_then(|(turn, left)| {
            let used = if turn == priority { taken } else { 0 };
            Some((turn, left.checked_sub(used).filter(|left| *left > 0)?))
        });
        taken
    }
}
