//! A line of the log for every connection that ended with messages lost.
//!
//! The first ten of a second have a line each; the others of that second share one, with how many
//! they were and what they lost together.

use std::fmt;

use crate::{
    clock::Tick,
    ledger::{ClosedRow, Traffic},
};

/// Lines of their own in a second.
const LINES_MAX: u32 = 10;
/// How long a second is.
const WINDOW_MS: u64 = 1_000;

/// What was lost with connections that have no line of their own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    connections: u64,
    lost: Loss,
}

/// What was said of losses in the second under way.
#[derive(Debug, Default)]
pub(super) struct LossLog {
    since: Tick,
    lines: u32,
    unsaid: Sum,
}

impl LossLog {
    /// A connection ended. Says what was lost with it, if messages were.
    pub(super) fn note(&mut self, now: Tick, row: &ClosedRow) {
        if !row.has_lost_messages() {
            return;
        }
        if now.saturating_sub(self.since) >= WINDOW_MS {
            self.finish_window();
            self.since = now;
        }
        if self.lines < LINES_MAX {
            self.lines += 1;
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
        if now.saturating_sub(self.since) >= WINDOW_MS {
            self.finish_window();
        }
    }

    /// Says what is left to say.
    pub(super) fn finish_window(&mut self) {
        self.lines = 0;
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
        let mut log = LossLog::default();
        for _ in 0..25 {
            log.note(5, &row(2));
        }
        log.note(5, &row(0));
        let unsaid = Sum {
            connections: 15,
            lost: Loss {
                unwritten: Traffic::new(30, 300),
                ..Loss::default()
            },
        };
        assert_eq!((log.lines, log.unsaid), (LINES_MAX, unsaid));
        log.handle_tick(WINDOW_MS - 1);
        assert_eq!(log.unsaid, unsaid);
        log.handle_tick(WINDOW_MS);
        assert_eq!((log.lines, log.unsaid), (0, Sum::default()));
        log.note(WINDOW_MS, &row(1));
        assert_eq!((log.since, log.lines), (WINDOW_MS, 1));
    }
}
