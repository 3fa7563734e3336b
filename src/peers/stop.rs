//! What a stop did with the connections that were there.

use std::collections::HashMap;

use crate::{
    id::PeerId,
    ledger::{ClosedRow, StopRow, Traffic},
    limits::CLOSED_ROWS_MAX,
};

/// A stop under way, and what it did.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stop {
    pub(crate) closed_orderly: u64,
    pub(crate) closed_abortive: u64,
    /// At most twice as many as are kept, so that they need not be sorted for each.
    rows: Vec<StopRow>,
    /// How far the connections were at its beginning that had anything to do or had done it.
    before: HashMap<PeerId, Before>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Before {
    written: Traffic,
    held: u64,
}

impl Stop {
    /// Adds what another loop did at the same stop.
    pub(crate) fn add(&mut self, other: Self) {
        self.closed_orderly += other.closed_orderly;
        self.closed_abortive += other.closed_abortive;
        self.rows.extend(other.rows);
        self.choose_rows();
    }

    /// The connections, as far as they are listed, and how many are not.
    pub(crate) fn into_rows(mut self) -> (Vec<StopRow>, u64) {
        self.choose_rows();
        let closed = self.closed_orderly + self.closed_abortive;
        let unlisted = closed.saturating_sub(self.rows.len() as u64);
        (self.rows, unlisted)
    }

    /// A connection ended, of whose messages `held` are still somewhere.
    pub(super) fn note_closed(&mut self, row: &ClosedRow, held: u64, abort: bool) {
        if abort || row.has_loss() {
            self.closed_abortive += 1;
        } else {
            self.closed_orderly += 1;
        }
        let before = self.before.remove(&row.peer).unwrap_or_default();
        self.rows.push(StopRow {
            closed: row.clone(),
            delivered: before.held.saturating_sub(held),
            flushed: row.outbound.since(before.written),
            held,
        });
        if self.rows.len() >= 2 * CLOSED_ROWS_MAX {
            self.choose_rows();
        }
    }

    fn choose_rows(&mut self) {
        let key = |row: &StopRow| (row.rank(), row.closed.closed_at);
        self.rows.sort_by_key(key);
        self.rows.truncate(CLOSED_ROWS_MAX);
    }
}

impl Stop {
    /// A connection at its beginning: what was written of it, and how much it holds.
    pub(super) fn note_before(&mut self, id: PeerId, written: Traffic, held: u64) {
        let before = Before { written, held };
        if before != Before::default() {
            self.before.insert(id, before);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn closed(number: u32, outbound: u64, lost: u64) -> ClosedRow {
        ClosedRow {
            closed_at: Duration::from_millis(number.into()),
            outbound: Traffic::new(outbound, outbound * 10),
            lost: Traffic::new(lost, lost * 10),
            ..ClosedRow::of_peer(PeerId::new(0, number, 1))
        }
    }

    /// Of two loops, each with more than a report has room for: whoever lost something is there,
    /// however late, and in all as many as were closed.
    #[test]
    fn whoever_lost_something_is_listed_and_the_others_as_far_as_there_is_room() {
        let max = u32::try_from(CLOSED_ROWS_MAX).unwrap();
        let mut sum = Stop::default();
        for _ in 0..2 {
            let mut stop = Stop::default();
            for number in 0..5 * max {
                let kind = number / max;
                // Nothing to do, flushed, held, lost, and nothing to do again.
                let row = closed(number, u64::from(kind == 1), u64::from(number == 3 * max));
                let held = u64::from(kind == 2 && number % 8 == 0);
                stop.note_closed(&row, held, kind == 3);
                assert!(stop.rows.len() < 2 * CLOSED_ROWS_MAX);
            }
            sum.add(stop);
        }
        assert_eq!(sum.closed_orderly, 8 * u64::from(max));
        assert_eq!(sum.closed_abortive, 2 * u64::from(max));
        let (rows, unlisted) = sum.into_rows();
        assert_eq!(rows.len(), CLOSED_ROWS_MAX);
        assert_eq!(unlisted, 9 * u64::from(max));
        let count = |rank| rows.iter().filter(|row| row.rank() == rank).count();
        let counts = [count(0), count(1), count(2), count(3)];
        assert_eq!(counts, [2, 256, CLOSED_ROWS_MAX - 258, 0]);
        assert!(rows.is_sorted_by_key(StopRow::rank));
    }

    #[test]
    fn what_was_written_and_delivered_before_is_not_the_stops() {
        let mut stop = Stop::default();
        let before = Before {
            written: Traffic::new(5, 50),
            held: 4,
        };
        stop.before.insert(PeerId::new(0, 1, 1), before);
        stop.note_closed(&closed(1, 7, 0), 1, false);
        let (rows, _) = stop.into_rows();
        assert_eq!((rows[0].delivered, rows[0].held), (3, 1));
        assert_eq!(rows[0].flushed, Traffic::new(2, 20));
    }
}
