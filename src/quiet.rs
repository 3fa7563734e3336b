//! Keeps the log short: one line per cause and subject in ten seconds.
//!
//! A peer can cause as many errors as it can send frames, and a full subscriber one per batch. The
//! first is logged, the others of the interval are counted, and the next line that is logged for the
//! same cause and subject says how many there were. The table is bounded: causes and subjects beyond
//! it share one entry.

use std::{collections::HashMap, net::IpAddr};

use crate::{
    clock::Tick,
    limits::{LOG_INTERVAL_MS, LOG_SUBJECTS_MAX},
};

/// Whom a line is about. A remote address goes without its port, which the peer can choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Subject {
    Address(IpAddr),
    Subscriber(u64),
    /// Stands for all that the table has no room for.
    Others,
}

/// Decides which lines are written; owned by the thread that writes them.
#[derive(Debug, Default)]
pub(crate) struct Quiet {
    entries: HashMap<(&'static str, Subject), Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    logged: Tick,
    suppressed: u64,
}

impl Quiet {
    /// Whether to write a line now; if so, how many were left out since the last one.
    pub(crate) fn allow(
        &mut self,
        now: Tick,
        cause: &'static str,
        subject: Subject,
    ) -> Option<u64> {
        let mut key = (cause, subject);
        if !self.entries.contains_key(&key) && self.entries.len() >= LOG_SUBJECTS_MAX {
            self.entries.retain(|_, entry| {
                entry.suppressed > 0 || now.saturating_sub(entry.logged) < LOG_INTERVAL_MS
            });
            if self.entries.len() >= LOG_SUBJECTS_MAX {
                key = ("several causes", Subject::Others);
            }
        }
        let Some(entry) = self.entries.get_mut(&key) else {
            self.entries.insert(
                key,
                Entry {
                    logged: now,
                    suppressed: 0,
                },
            );
            return Some(0);
        };
        if now.saturating_sub(entry.logged) < LOG_INTERVAL_MS {
            entry.suppressed += 1;
            return None;
        }
        let suppressed = entry.suppressed;
        *entry = Entry {
            logged: now,
            suppressed: 0,
        };
        Some(suppressed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_per_cause_subject_and_interval() {
        let mut quiet = Quiet::default();
        let peer = Subject::Address([127, 0, 0, 1].into());
        assert_eq!(quiet.allow(0, "a", peer), Some(0));
        assert_eq!(quiet.allow(1, "a", peer), None);
        assert_eq!(quiet.allow(1, "b", peer), Some(0));
        assert_eq!(quiet.allow(LOG_INTERVAL_MS - 1, "a", peer), None);
        assert_eq!(quiet.allow(LOG_INTERVAL_MS, "a", peer), Some(2));
        assert_eq!(quiet.allow(LOG_INTERVAL_MS * 2, "a", peer), Some(0));
    }

    #[test]
    fn the_table_is_bounded_and_forgets_the_quiet() {
        let mut quiet = Quiet::default();
        for subscriber in 0..5_000 {
            quiet.allow(0, "full", Subject::Subscriber(subscriber));
        }
        assert!(quiet.entries.len() <= LOG_SUBJECTS_MAX + 1);
        assert_eq!(
            quiet.allow(LOG_INTERVAL_MS, "full", Subject::Subscriber(9_999)),
            Some(0)
        );
        assert!(quiet.entries.len() < 10);
    }
}
