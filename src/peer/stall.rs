//! Whether a peer takes what waits for it, judged by what its system has acknowledged.
//!
//! What our own system takes is no progress of the peer: its buffer grows, and goes on taking long
//! after the peer has stopped. So while something waits for a peer, its system is asked at every
//! tenth of the time that it has, and at the end of it, how much was not acknowledged; less than
//! before together with what was taken since is progress. A look that finds progress says only that
//! it came since the look before, so the end is between 1.0 and 1.1 of the time after the last
//! acknowledged byte, and a tick later.
//!
//! Where nothing tells what was acknowledged, what our system takes has to do.

use super::end_of;
use crate::{clock::Tick, limits::STALL_LOOKS};

/// Since when something waits for a peer, and how far its system is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stall {
    /// The last progress came at this tick at the latest.
    since: Tick,
    /// When its system was asked last.
    looked: Tick,
    /// What it had not acknowledged then, as far as `source` says that it is known.
    unacknowledged: u64,
    /// What our system has taken since then.
    taken: u64,
    source: Source,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// Nothing was told yet: the first answer may hide progress.
    Unasked,
    Acknowledged,
    /// Nothing is told, and what our system takes counts.
    Taken,
}

impl Stall {
    /// Something begins to wait.
    pub(super) fn begin(now: Tick) -> Self {
        Self {
            since: now,
            looked: now,
            unacknowledged: 0,
            taken: 0,
            source: Source::Unasked,
        }
    }

    /// Our system took bytes.
    pub(super) fn handle_taken(&mut self, now: Tick, bytes: usize) {
        self.taken = self.taken.saturating_add(bytes as u64);
        if self.source == Source::Taken {
            self.since = now;
        }
    }

    /// What the peer's system has not acknowledged, if that is told. True if the peer has had its
    /// time without progress.
    pub(super) fn handle_told(&mut self, now: Tick, told: Option<u64>, limit_ms: u64) -> bool {
        let before = self.unacknowledged.saturating_add(self.taken);
        let progress = match (told, self.source) {
            // A system that has acknowledged everything waits for us.
            (Some(0), _) => true,
            (Some(unacknowledged), Source::Acknowledged) => unacknowledged < before,
            (Some(_), Source::Unasked | Source::Taken) => true,
            (None, _) => self.taken > 0,
        };
        if progress {
            self.since = now;
        }
        self.looked = now;
        self.taken = 0;
        self.unacknowledged = told.unwrap_or(0);
        self.source = match told {
            Some(_) => Source::Acknowledged,
            None => Source::Taken,
        };
        told.is_some() && now >= end_of(self.since, limit_ms)
    }

    /// The peer's system is being asked: the answer is there within the turn.
    pub(super) fn handle_asked(&mut self, now: Tick) {
        self.looked = now;
    }

    /// When to ask it, or to judge without, if there is a limit.
    pub(super) fn next_deadline(&self, limit_ms: u64) -> Option<Tick> {
        let end = end_of(self.since, limit_ms);
        let look = end_of(self.looked, limit_ms / STALL_LOOKS);
        (limit_ms > 0).then_some(match self.source {
            Source::Unasked | Source::Acknowledged => end.min(look),
            Source::Taken => end,
        })
    }

    /// What it asks for at that tick.
    pub(super) fn is_judged_by_taken(&self) -> bool {
        self.source == Source::Taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT_MS: u64 = 1_000;

    /// A peer's system that acknowledges at the ticks given, in virtual time: when it is cut off,
    /// unless it is served for `served_ms`.
    fn cut_off_at(acknowledges: impl Fn(Tick) -> u64, takes: u64, served_ms: u64) -> Option<Tick> {
        let mut stall = Stall::begin(0);
        let mut unacknowledged = 1_u64 << 40;
        for now in 1..served_ms {
            if takes > 0 && now % 7 == 0 {
                stall.handle_taken(now, usize::try_from(takes).unwrap());
                unacknowledged += takes;
            }
            unacknowledged -= acknowledges(now);
            let due = stall.next_deadline(LIMIT_MS).is_some_and(|due| due <= now);
            if due && stall.handle_told(now, Some(unacknowledged), LIMIT_MS) {
                return Some(now);
            }
        }
        None
    }

    #[test]
    fn a_byte_within_each_timeout_is_enough_whatever_our_system_takes() {
        for takes in [0, 1, 1 << 20] {
            for period in [1, 99, 500, LIMIT_MS] {
                let acknowledges = |now| u64::from(now % period == 0);
                assert_eq!(cut_off_at(acknowledges, takes, 20_000), None, "{period}");
            }
        }
    }

    #[test]
    fn the_end_is_between_one_and_one_fifth_more_after_the_last_byte() {
        for takes in [0, 1, 1 << 20] {
            for last in 0..3 * LIMIT_MS {
                let acknowledges = |now| u64::from(now <= last && (now % 10 == 0 || now == last));
                let end = cut_off_at(acknowledges, takes, 20_000).unwrap();
                let after = last + LIMIT_MS..=last + LIMIT_MS * 12 / 10;
                assert!(after.contains(&end), "{last}: {end}");
            }
        }
    }

    /// As after a pause of the whole process, in which its socket got room again.
    #[test]
    fn a_peer_that_owes_nothing_does_not_stall() {
        let mut stall = Stall::begin(0);
        assert!(!stall.handle_told(101, Some(0), LIMIT_MS));
        assert!(!stall.handle_told(60_000, Some(0), LIMIT_MS));
    }

    #[test]
    fn where_nothing_is_told_what_our_system_takes_counts() {
        let mut stall = Stall::begin(0);
        assert_eq!(stall.next_deadline(LIMIT_MS), Some(101));
        stall.handle_taken(90, 1);
        assert!(!stall.handle_told(101, None, LIMIT_MS));
        assert!(stall.is_judged_by_taken());
        assert_eq!(stall.next_deadline(LIMIT_MS), Some(1_102));
        stall.handle_taken(1_000, 1);
        assert_eq!(stall.next_deadline(LIMIT_MS), Some(2_001));
        assert_eq!(stall.next_deadline(0), None);
    }
}
