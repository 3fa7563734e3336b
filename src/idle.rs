//! What a thread does when it has nothing to do: sleep, or look again for a while.
//!
//! Waking a thread that sleeps costs its waker about five microseconds and itself twenty or more,
//! which is most of a round trip. A thread that looks again for as long as the next message is
//! likely to take saves both; between two looks it gives its core away (`sched_yield`), so that on
//! a machine with few cores whoever has work gets on with it.
//!
//! In bulk the same does harm: a reader that comes back too early reads small pieces, and takes the
//! core from the sender that would have made them larger. So [`Idle`] looks again only while little
//! comes: the bytes of the last two milliseconds decide.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{
    clock::Clock,
    limits::{IDLE_BULK_BYTES_PER_MS, IDLE_POLL_US},
};

/// What a thread of the service, or a subscriber, does when it has nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum IdleStrategy {
    /// Sleeps at once: the least CPU, and 20 to 30 us more for each hand-off to a sleeper.
    Block,
    /// After small, sparse work looks again for this long, giving its core away between two looks,
    /// and then sleeps. After bulk it sleeps at once; without traffic it sleeps.
    Poll {
        /// How long; 0 is the same as `Block`, and more than a millisecond is taken as one.
        duration: Duration,
    },
    /// Never sleeps: looks again all the time, giving its core away between two looks. For a
    /// machine with a core to spare for each thread.
    Spin,
}

impl Default for IdleStrategy {
    /// Polls for 50 us.
    fn default() -> Self {
        Self::Poll {
            duration: Duration::from_micros(IDLE_POLL_US),
        }
    }
}

/// Decides, for one thread, whether to look again or to sleep.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Idle {
    strategy: IdleStrategy,
    /// Start of the current millisecond of work, and the bytes that it and the one before brought.
    window: Option<Instant>,
    bytes: [usize; 2],
    /// When the last work was done, if it was a reason to look again.
    since: Option<Instant>,
}

/// A millisecond, over which work is added up.
const WINDOW: Duration = Duration::from_millis(1);

impl Idle {
    pub(crate) const fn new(strategy: IdleStrategy) -> Self {
        Self {
            strategy,
            window: None,
            bytes: [0; 2],
            since: None,
        }
    }

    /// Work of `bytes` bytes was done at `now`.
    pub(crate) fn handle_work(&mut self, now: Instant, bytes: usize) {
        let age = self
            .window
            .map_or(Duration::MAX, |start| now.saturating_duration_since(start));
        if age >= WINDOW {
            // What is older than two milliseconds says nothing about the next one.
            self.bytes = [0, if age < 2 * WINDOW { self.bytes[0] } else { 0 }];
            self.window = Some(now);
        }
        self.bytes[0] = self.bytes[0].saturating_add(bytes);
        let bulk = self.bytes[0].max(self.bytes[1]) > IDLE_BULK_BYTES_PER_MS;
        self.since = (!bulk).then_some(now);
    }

    /// Whether to look again rather than to sleep, at `now`.
    pub(crate) fn polls(&mut self, now: Instant) -> bool {
        match self.strategy {
            IdleStrategy::Block => false,
            IdleStrategy::Spin => true,
            IdleStrategy::Poll { duration } => {
                let duration = duration.min(WINDOW);
                let polls = self
                    .since
                    .is_some_and(|since| now.saturating_duration_since(since) < duration);
                if !polls {
                    self.since = None;
                }
                polls
            }
        }
    }

    /// As [`polls`](Self::polls), with a look at the clock only where the answer depends on it.
    pub(crate) fn polls_by(&mut self, clock: Clock) -> bool {
        match self.strategy {
            IdleStrategy::Block => false,
            IdleStrategy::Spin => true,
            IdleStrategy::Poll { .. } => self.since.is_some() && self.polls(clock.now().instant),
        }
    }

    /// Gives the core away between two looks.
    pub(crate) fn rest() {
        thread::yield_now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLL: IdleStrategy = IdleStrategy::Poll {
        duration: Duration::from_micros(50),
    };

    #[test]
    fn polls_after_small_work_for_its_time() {
        let start = Clock::start().now().instant;
        let at = |micros| start + Duration::from_micros(micros);
        let mut idle = Idle::new(POLL);
        assert!(!idle.polls(at(0)), "nothing was done yet");
        idle.handle_work(at(10), 72);
        assert!(idle.polls(at(10)) && idle.polls(at(59)));
        assert!(!idle.polls(at(60)) && idle.since.is_none());
    }

    #[test]
    fn sleeps_in_bulk_and_polls_again_after_it() {
        let start = Clock::start().now().instant;
        let at = |micros| start + Duration::from_micros(micros);
        let mut idle = Idle::new(POLL);
        idle.handle_work(at(0), IDLE_BULK_BYTES_PER_MS + 1);
        assert!(!idle.polls(at(1)));
        // A small piece in between does not end the bulk.
        idle.handle_work(at(1_100), 100);
        assert!(!idle.polls(at(1_101)));
        idle.handle_work(at(2_200), 100);
        assert!(idle.polls(at(2_201)));
        idle.handle_work(at(9_000), 100);
        assert!(idle.polls(at(9_001)));
    }

    #[test]
    fn block_never_polls_and_spin_always_does() {
        let now = Clock::start().now().instant;
        let mut block = Idle::new(IdleStrategy::Block);
        block.handle_work(now, 1);
        assert!(!block.polls(now));
        assert!(Idle::new(IdleStrategy::Spin).polls(now));
    }
}
