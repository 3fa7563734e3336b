//! Whether a peer takes what waits for it, judged by what its system has acknowledged.
//!
//! What our own system takes is no progress of the peer: its buffer grows, and goes on taking long
//! after the peer has stopped. So while something is not acknowledged, the system is asked at every
//! tenth of the time that the peer has, and at the end of it, how much that is; less than before
//! together with what was taken since is progress. A look that finds progress says only that it
//! came since the look before, so the end is between 1.0 and 1.1 of the time after the last
//! acknowledged byte, and a tick later.
//!
//! A peer stalls only if something waits for it: in its outbox, or in our system, unsent because
//! the peer has no room. What was sent and is not acknowledged waits for the network, which has a
//! time-out of its own.
//!
//! Where nothing tells what was acknowledged, what our system takes has to do.

use super::input_times::end_of;
use crate::{clock::Tick, limits::STALL_LOOKS};

/// Since when something is due to a peer, and how far its system is. At first nothing is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stall {
    /// The last progress came at this tick at the latest.
    since: Tick,
    /// When the system was asked last.
    looked: Tick,
    /// What was not acknowledged then, and what our system has taken since.
    unacknowledged: u64,
    taken: u64,
    /// The outbox waits for the socket.
    is_blocked: bool,
    source: Source,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Source {
    #[default]
    Acknowledged,
    /// Nothing is told, and what our system takes counts.
    Taken,
}

/// What the system tells of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    /// Bytes that the peer's system has not acknowledged.
    pub(crate) unacknowledged: u64,
    /// Some of them were not even sent, as the peer has no room.
    pub(crate) unsent: bool,
}

impl Stall {
    pub(super) fn handle_blocked(&mut self, now: Tick) {
        if !self.is_due() {
            (self.since, self.looked) = (now, now);
        }
        self.is_blocked = true;
    }

    /// Nothing waits for the socket any more.
    pub(super) fn handle_all_written(&mut self) {
        self.is_blocked = false;
    }

    /// Our system took bytes.
    pub(super) fn handle_taken(&mut self, now: Tick, bytes: usize) {
        match self.source {
            Source::Taken => self.since = now,
            Source::Acknowledged => {
                if !self.is_due() {
                    (self.since, self.looked) = (now, now);
                }
                self.taken = self.taken.saturating_add(bytes as u64);
            }
        }
    }

    /// True if the peer has had its time without progress. One look that is not answered changes
    /// nothing before that time is over.
    pub(super) fn handle_told(&mut self, now: Tick, told: Option<Told>, limit_ms: u64) -> bool {
        self.looked = now;
        let is_late = limit_ms > 0 && now >= end_of(self.since, limit_ms);
        let Some(told) = told else {
            if is_late {
                self.handle_untold(now);
            }
            return false;
        };
        let before = self.unacknowledged.saturating_add(self.taken);
        // A system that has acknowledged everything waits for us.
        let is_progress = told.unacknowledged == 0
            || told.unacknowledged < before
            || self.source == Source::Taken;
        if is_progress {
            self.since = now;
        }
        self.unacknowledged = told.unacknowledged;
        self.taken = 0;
        self.source = Source::Acknowledged;
        !is_progress && is_late && (self.is_blocked || told.unsent)
    }

    /// The system does not tell what is acknowledged.
    pub(super) fn handle_untold(&mut self, now: Tick) {
        if self.source == Source::Acknowledged {
            if self.taken > 0 {
                self.since = now;
            }
            (self.unacknowledged, self.taken) = (0, 0);
            self.source = Source::Taken;
        }
    }

    /// The system is being asked: the answer is there within the turn, or a few turns later.
    pub(super) fn handle_asked(&mut self, now: Tick) {
        self.looked = now;
    }

    /// When to ask it, or to judge without, if there is a limit.
    pub(super) fn next_deadline(&self, limit_ms: u64) -> Option<Tick> {
        let end = end_of(self.since, limit_ms);
        let look = end_of(self.looked, limit_ms / STALL_LOOKS);
        (limit_ms > 0 && self.is_due()).then_some(match self.source {
            // Where the end has passed and nothing waits, the next look is due as all others are.
            Source::Acknowledged if end > self.looked => end.min(look),
            Source::Acknowledged => look,
            Source::Taken => end,
        })
    }

    /// What it asks for at that tick.
    pub(super) fn is_judged_by_taken(&self) -> bool {
        self.source == Source::Taken
    }

    pub(super) fn is_blocked(&self) -> bool {
        self.is_blocked
    }

    /// Whether the peer's system owes an acknowledgement, or will.
    fn is_due(&self) -> bool {
        self.is_blocked || self.unacknowledged > 0 || self.taken > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT_MS: u64 = 1_000;

    fn told(unacknowledged: u64, unsent: bool) -> Option<Told> {
        Some(Told {
            unacknowledged,
            unsent,
        })
    }

    /// A peer's system that acknowledges at the ticks given, in virtual time: when it is cut off,
    /// unless it is served for `served_ms`. The outbox waits from `blocked_at` on.
    fn cut_off_at(
        acknowledges: impl Fn(Tick) -> u64,
        takes: u64,
        blocked_at: Tick,
        served_ms: u64,
    ) -> Option<Tick> {
        let mut stall = Stall::default();
        let mut unacknowledged = 1_u64 << 40;
        stall.handle_taken(0, 1 << 40);
        for now in 1..served_ms {
            if takes > 0 && now % 7 == 0 {
                stall.handle_taken(now, usize::try_from(takes).unwrap());
                unacknowledged += takes;
            }
            if now >= blocked_at {
                stall.handle_blocked(now);
            }
            unacknowledged -= acknowledges(now);
            let due = stall.next_deadline(LIMIT_MS).is_some_and(|due| due <= now);
            if due && stall.handle_told(now, told(unacknowledged, true), LIMIT_MS) {
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
                let end = cut_off_at(acknowledges, takes, 0, 20_000);
                assert_eq!(end, None, "{period}");
            }
        }
    }

    /// Whether our system still takes all of it for a while, or the outbox waits at once.
    #[test]
    fn the_end_is_between_one_and_one_fifth_more_after_the_last_byte() {
        for blocked_at in [0, 1_500, Tick::MAX] {
            for takes in [0, 1, 1 << 20] {
                for last in 0..3 * LIMIT_MS {
                    let acknowledges =
                        |now| u64::from(now <= last && (now % 10 == 0 || now == last));
                    let end = cut_off_at(acknowledges, takes, blocked_at, 20_000).unwrap();
                    let after = last + LIMIT_MS..=last + LIMIT_MS * 12 / 10;
                    assert!(after.contains(&end), "{last}: {end}");
                }
            }
        }
    }

    /// As after a pause of the whole process, in which its socket got room again.
    #[test]
    fn a_peer_that_owes_nothing_does_not_stall() {
        let mut stall = Stall::default();
        stall.handle_blocked(0);
        assert!(!stall.handle_told(101, told(0, false), LIMIT_MS));
        assert!(!stall.handle_told(60_000, told(0, false), LIMIT_MS));
        stall.handle_all_written();
        assert_eq!(stall.next_deadline(LIMIT_MS), None);
        // The time begins with the first byte that is due.
        stall.handle_taken(70_000, 9);
        assert_eq!(stall.next_deadline(LIMIT_MS), Some(70_101));
        assert!(!stall.handle_told(71_000, told(9, true), LIMIT_MS));
        assert!(stall.handle_told(71_001, told(9, true), LIMIT_MS));
    }

    /// The network has them, and a time-out of its own.
    #[test]
    fn what_was_sent_and_is_not_acknowledged_does_not_stall() {
        let mut stall = Stall::default();
        stall.handle_taken(0, 9);
        let mut looked = 0;
        while looked < 5_000 {
            let now = stall.next_deadline(LIMIT_MS).unwrap();
            assert!(looked < now && now <= looked + 101, "{now}");
            assert!(!stall.handle_told(now, told(9, false), LIMIT_MS), "{now}");
            looked = now;
        }
        assert!(stall.handle_told(5_051, told(9, true), LIMIT_MS));
    }

    #[test]
    fn where_nothing_is_told_what_our_system_takes_counts() {
        let mut stall = Stall::default();
        stall.handle_blocked(0);
        assert_eq!(stall.next_deadline(LIMIT_MS), Some(101));
        stall.handle_untold(101);
        assert!(stall.is_judged_by_taken());
        stall.handle_taken(102, 1);
        assert_eq!(stall.next_deadline(LIMIT_MS), Some(1_103));
        stall.handle_taken(1_000, 1);
        assert_eq!(stall.next_deadline(LIMIT_MS), Some(2_001));
        assert_eq!(stall.next_deadline(0), None);
        stall.handle_all_written();
        assert_eq!(stall.next_deadline(LIMIT_MS), None);
    }

    /// A question that gets no answer costs the peer no time, and wins it none.
    #[test]
    fn a_look_without_an_answer_changes_nothing_before_the_time_is_over() {
        let mut stall = Stall::default();
        stall.handle_taken(0, 9);
        stall.handle_blocked(0);
        for now in (101..=909).step_by(101) {
            assert!(!stall.handle_told(now, None, LIMIT_MS));
            assert!(!stall.is_judged_by_taken());
        }
        assert_eq!(stall.next_deadline(LIMIT_MS), Some(1_001));
        assert!(stall.handle_told(1_001, told(9, false), LIMIT_MS));
        let mut stall = Stall::default();
        stall.handle_blocked(0);
        assert!(!stall.handle_told(1_001, None, LIMIT_MS));
        assert!(stall.is_judged_by_taken());
        assert_eq!(stall.next_deadline(LIMIT_MS), Some(1_001));
    }
}
