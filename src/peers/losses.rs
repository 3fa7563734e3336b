//! A line of the log for every connection that ended with messages lost.
//!
//! The first ten of a second have a line each, whichever loops they are of; the others of that
//! second share one, of each loop, with how many they were and what they lost together.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{
    clock::Tick,
    ledger::{ClosedRow, Traffic},
};

/// Lines of their own in a second.
const LINES_MAX: u64 = 10;
/// How long a second is.
const WINDOW_MS: u64 = 1_000;

/// What was lost with connections that have no line of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    connections: u64,
    lost: Loss,
}

/// Lines of their own in the second under way, of all loops: the second, and how many.
#[derive(Debug, Default)]
pub(crate) struct LossLines(AtomicU64);

impl LossLines {
    /// Whether there is a line left in a second.
    fn take(&self, second: u64) -> bool {
        const COUNT_BITS: u32 = 8;
        let next = |word: u64| {
            let count = if word >> COUNT_BITS == second {
                word & ((1 << COUNT_BITS) - 1)
            } else {
                0
            };
            (count < LINES_MAX).then_some((second << COUNT_BITS) | (count + 1))
        };
        let (set, fetch) = (Ordering::Relaxed, Ordering::Relaxed);
        self.0.fetch_update(set, fetch, next).is_ok()
    }
}

/// What one loop says of losses.
#[derive(Debug, Default)]
pub(super) struct LossLog {
    lines: Arc<LossLines>,
    /// The second of the losses that have no line of their own.
    second: u64,
    unsaid: Sum,
}

impl LossLog {
    /// That of a loop beside others, with which it shares the lines.
    pub(super) fn new(lines: Arc<LossLines>) -> Self {
        Self {
            lines,
            ..Self::default()
        }
    }

    /// A connection ended. Says what was lost with it, if messages were.
    pub(super) fn note(&mut self, now: Tick, row: &ClosedRow) {
        if !row.has_lost_messages() {
            return;
        }
        self.handle_tick(now);
        if self.lines.take(self.second) {
            log::warn!(
                "peer {} at {} closed with a loss: {}, {}",
                row.peer,
                row.addr,
                row.reason,
                Loss::of(row)
            );
            return;
        }
        self.unsaid.connections += 1;
        self.unsaid.lost.add(Loss::of(row));
    }

    /// Says what is left to say of a second that is over. To be called about once a second.
    pub(super) fn handle_tick(&mut self, now: Tick) {
        let second = now / WINDOW_MS;
        if second != self.second {
            self.finish_window();
            self.second = second;
        }
    }

    /// Says what is left to say.
    pub(super) fn finish_window(&mut self) {
        let Sum { connections, lost } = std::mem::take(&mut self.unsaid);
        if connections > 0 {
            log::warn!("{connections} more peers closed with a loss within a second: {lost}");
        }
    }
}

/// What was lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Loss {
    unwritten: Traffic,
    unconfirmed: Traffic,
    discarded: Traffic,
}

impl Loss {
    fn of(row: &ClosedRow) -> Self {
        Self {
            unwritten: row.lost,
            unconfirmed: row.unconfirmed.unwrap_or_default(),
            discarded: row.discarded_after_close,
        }
    }

    fn add(&mut self, other: Self) {
        self.unwritten.add(other.unwritten);
        self.unconfirmed.add(other.unconfirmed);
        self.discarded.add(other.discarded);
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Traffic { messages, bytes } = self.unwritten;
        write!(f, "{messages} messages ({bytes} bytes) not written")?;
        for (name, Traffic { messages, bytes }) in [
            ("written and unconfirmed", self.unconfirmed),
            ("of input discarded", self.discarded),
        ] {
            if bytes > 0 {
                write!(f, ", {messages} ({bytes} bytes) {name}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::PeerId;

    fn row(messages: u64) -> ClosedRow {
        ClosedRow {
            lost: Traffic::new(messages, 10 * messages),
            ..ClosedRow::of_peer(PeerId::new(0, 0, 1))
        }
    }

    #[test]
    fn ten_losses_of_a_second_are_said_one_by_one_and_the_others_in_one_line() {
        let lines = Arc::<LossLines>::default();
        let mut logs = [(); 2].map(|()| LossLog::new(Arc::clone(&lines)));
        for log in &mut logs {
            for _ in 0..7 {
                log.note(5, &row(2));
            }
            log.note(5, &row(0));
        }
        let unsaid = Sum {
            connections: 4,
            lost: Loss {
                unwritten: Traffic::new(8, 80),
                ..Loss::default()
            },
        };
        let [first, second] = &mut logs;
        assert_eq!((first.unsaid, second.unsaid), (Sum::default(), unsaid));
        second.handle_tick(WINDOW_MS - 1);
        assert_eq!(second.unsaid, unsaid);
        second.handle_tick(WINDOW_MS);
        assert_eq!(second.unsaid, Sum::default());
        for _ in 0..11 {
            first.note(WINDOW_MS, &row(1));
        }
        assert_eq!(first.unsaid.connections, 1);
    }
}
