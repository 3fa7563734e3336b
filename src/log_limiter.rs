//! Keeps the log short: one line per cause and subject in ten seconds.
//!
//! A peer can cause as many errors as it can send frames, and a full subscriber one per batch. The
//! first is logged, the others of the interval are counted, and the next line that is logged for
//! the same cause and subject says how many there were. The table is bounded: causes and subjects
//! beyond it share one entry.

use std::{collections::HashMap, fmt, net::IpAddr};

use crate::{
    clock::Tick,
    limits::{LOG_INTERVAL_MS, LOG_SUBJECTS_MAX},
};

/// Whom a line is about. A remote address goes without its port, which the peer can choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Subject {
    Address(IpAddr),
    Listener(usize),
    Subscriber(u64),
    Handler(usize),
    Link(u64),
    /// Stands for all that the table has no room for.
    Others,
}

/// Decides which lines are written; owned by the thread that writes them.
#[derive(Debug, Default)]
pub(crate) struct LogLimiter {
    entries: HashMap<(&'static str, Subject), Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    logged: Tick,
    suppressed: u64,
}

impl LogLimiter {
    /// Whether to write a line now; if so, a note for its end on how many were left out before it.
    pub(crate) fn allow(
        &mut self,
        now: Tick,
        cause: &'static str,
        subject: Subject,
    ) -> Option<Suppressed> {
        let mut key = (cause, subject);
        if !self.entries.contains_key(&key) && self.entries.len() >= LOG_SUBJECTS_MAX {
            // Those of the last interval stay: forgetting them would let them write again.
            self.entries
                .retain(|_, entry| now.saturating_sub(entry.logged) < LOG_INTERVAL_MS);
            if self.entries.len() >= LOG_SUBJECTS_MAX {
                key = ("several causes", Subject::Others);
            }
        }
        let fresh = Entry {
            logged: now,
            suppressed: 0,
        };
        let Some(entry) = self.entries.get_mut(&key) else {
            self.entries.insert(key, fresh);
            return Some(Suppressed(0));
        };
        if now.saturating_sub(entry.logged) < LOG_INTERVAL_MS {
            entry.suppressed += 1;
            return None;
        }
        Some(Suppressed(std::mem::replace(entry, fresh).suppressed))
    }
}

/// The end of a line that stands for others too; empty if it stands for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Suppressed(u64);

impl fmt::Display for Suppressed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            count => write!(f, " ({count} more of these were not logged)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_per_cause_subject_and_interval() {
        let mut limiter = LogLimiter::default();
        let peer = Subject::Address([127, 0, 0, 1].into());
        assert_eq!(limiter.allow(0, "a", peer), Some(Suppressed(0)));
        assert_eq!(limiter.allow(1, "a", peer), None);
        assert_eq!(limiter.allow(1, "b", peer), Some(Suppressed(0)));
        assert_eq!(limiter.allow(LOG_INTERVAL_MS - 1, "a", peer), None);
        assert_eq!(
            limiter.allow(LOG_INTERVAL_MS, "a", peer),
            Some(Suppressed(2))
        );
        assert_eq!(
            limiter.allow(LOG_INTERVAL_MS * 2, "a", peer),
            Some(Suppressed(0))
        );
    }

    #[test]
    fn the_table_is_bounded_and_forgets_old_entries() {
        let mut limiter = LogLimiter::default();
        for subscriber in 0..5_000 {
            limiter.allow(0, "full", Subject::Subscriber(subscriber));
        }
        assert!(limiter.entries.len() <= LOG_SUBJECTS_MAX + 1);
        assert_eq!(
            limiter.allow(LOG_INTERVAL_MS, "full", Subject::Subscriber(9_999)),
            Some(Suppressed(0))
        );
        assert!(limiter.entries.len() < 10);
    }
}
