//! What a thread does when it has nothing to do: sleep, or look again for a while.
//!
//! Waking a thread that sleeps costs its waker about five microseconds and itself twenty or more,
//! which is most of a round trip. A thread that looks again for as long as the next message is
//! likely to take saves both; between two looks it gives its core away (`sched_yield`), so that on
//! a machine with few cores whoever has work gets on with it.
//!
//! It does harm in two cases. In bulk a reader that comes back too early reads small pieces, and
//! takes the core from the sender that would have made them larger: so [`Idle`] looks again only
//! while little comes; the bytes of the last two milliseconds decide. And where the next message
//! takes longer than a thread looks, it has looked in vain each time: so [`Habit`] remembers how
//! long the waits of late were, and a thread looks again for as long as that has paid.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{
    clock::Clock,
    limits::{IDLE_BULK_BYTES_PER_MS, IDLE_POLL_US, IDLE_PROBE_WAITS, IDLE_WAKE_US},
};

/// What a thread of the service, or a subscriber, does when it has nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum IdleStrategy {
    /// Sleeps at once: the least CPU, and 20 to 30 us more for each hand-off to a sleeper.
    Block,
    /// After small, sparse work looks again for up to this long, giving its core away between two
    /// looks, and then sleeps. Where messages come so far apart that this was in vain of late, it
    /// looks for a shorter time or not at all, but for one wait in 64, in which it finds out
    /// whether they come faster. After bulk it sleeps at once; without traffic it sleeps.
    Poll {
        /// How long at most; 0 is the same as `Block`, more than a millisecond is taken as one.
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
    /// Whether work comes in bulk; true until there was some, so that nobody looks before it.
    bulk: bool,
    /// The wait that began with a look that found nothing, until there is work again. None in bulk.
    wait: Option<Wait>,
    habit: Habit,
}

/// A wait for work.
#[derive(Clone, Copy, Debug)]
struct Wait {
    start: Instant,
    /// How long to look again before sleeping.
    limit: Duration,
    /// The last look so far.
    looked: Instant,
    /// Whether the time for looking has passed.
    slept: bool,
}

/// A millisecond, over which work is added up.
const WINDOW: Duration = Duration::from_millis(1);

impl Idle {
    pub(crate) const fn new(strategy: IdleStrategy) -> Self {
        Self {
            strategy,
            window: None,
            bytes: [0; 2],
            bulk: true,
            wait: None,
            habit: Habit::new(),
        }
    }

    /// Work of `bytes` bytes was found at `now`.
    pub(crate) fn handle_work(&mut self, now: Instant, bytes: usize) {
        if let (Some(wait), IdleStrategy::Poll { duration }) = (self.wait.take(), self.strategy) {
            // What came while it looked was there at the latest after the last vain look.
            let end = if wait.slept { now } else { wait.looked };
            let time = end.saturating_duration_since(wait.start);
            self.habit
                .handle_wait(time, wait.slept, wait.limit, duration.min(WINDOW));
        }
        let age = self
            .window
            .map_or(Duration::MAX, |start| now.saturating_duration_since(start));
        if age >= WINDOW {
            // What is older than two milliseconds says nothing about the next one.
            self.bytes = [0, if age < 2 * WINDOW { self.bytes[0] } else { 0 }];
            self.window = Some(now);
        }
        self.bytes[0] = self.bytes[0].saturating_add(bytes);
        self.bulk = self.bytes[0].max(self.bytes[1]) > IDLE_BULK_BYTES_PER_MS;
    }

    /// As [`handle_work`](Self::handle_work), by a thread that asks for nothing else, and with a
    /// look at the clock only where the strategy depends on it.
    pub(crate) fn note_work(&mut self, clock: Clock, bytes: usize) {
        if let IdleStrategy::Poll { .. } = self.strategy {
            self.handle_work(clock.now().instant, bytes);
        }
    }

    /// Whether work comes in bulk, or none has come yet.
    pub(crate) fn is_bulk(&self) -> bool {
        self.bulk
    }

    /// Whether to look again rather than to sleep, at `now`.
    pub(crate) fn polls(&mut self, now: Instant) -> bool {
        let duration = match self.strategy {
            IdleStrategy::Block => return false,
            IdleStrategy::Spin => return true,
            IdleStrategy::Poll { duration } => duration.min(WINDOW),
        };
        if self.bulk {
            return false;
        }
        let wait = self.wait.get_or_insert_with(|| Wait {
            start: now,
            limit: self.habit.limit(duration),
            looked: now,
            slept: false,
        });
        wait.looked = now;
        wait.slept |= now.saturating_duration_since(wait.start) >= wait.limit;
        !wait.slept
    }

    /// As [`polls`](Self::polls), with a look at the clock only where the answer depends on it.
    pub(crate) fn polls_by(&mut self, clock: Clock) -> bool {
        match self.strategy {
            IdleStrategy::Block => false,
            IdleStrategy::Spin => true,
            IdleStrategy::Poll { .. } => {
                let known = self.bulk || self.wait.is_some_and(|wait| wait.slept);
                !known && self.polls(clock.now().instant)
            }
        }
    }

    /// Gives the core away between two looks.
    pub(crate) fn rest() {
        thread::yield_now();
    }
}

/// How long the waits of late were, and so how long to look again in the next one.
///
/// A wait is of one of four classes: up to a quarter, a half, or all of the longest time to look,
/// or longer. What looking costs is the time it takes; a sleep is held to cost as much as the
/// longest time to look, which is what that setting means. Of looking for none, a quarter, a half
/// and all of it, that is chosen which would have been the cheapest in the waits of late.
///
/// A sleep shows a wait only together with the time it took to wake up. Where that is long, or
/// where two threads wait for each other and both sleep, all waits look long that would be short
/// if one looked. So after [`IDLE_PROBE_WAITS`] sleeps the next wait is looked through; as long as
/// that finds something, so are those that follow.
#[derive(Clone, Copy, Debug)]
struct Habit {
    /// Of each class how many waits there were: the older, the less one counts.
    waits: [u32; 4],
    /// Waits slept through at once since one was not.
    sleeps: u32,
}

/// What one wait counts for; all together count for at most 16 times as much.
const WAIT_WEIGHT: u32 = 1 << 12;

impl Habit {
    /// At first it is worth looking.
    const fn new() -> Self {
        Self {
            waits: [0, 0, 15 * WAIT_WEIGHT, 0],
            sleeps: 0,
        }
    }

    /// A wait took `time`, or, if it ended in a sleep, that and the time to wake up; looking
    /// was done for `limit` of at most `longest`.
    fn handle_wait(&mut self, time: Duration, slept: bool, limit: Duration, longest: Duration) {
        let wake = Duration::from_micros(if slept { IDLE_WAKE_US } else { 0 });
        // It was longer than what was looked for in vain.
        let least = if slept { limit } else { Duration::ZERO };
        let time = time.saturating_sub(wake).max(least);
        let class = match time {
            time if time < longest / 4 => 0,
            time if time < longest / 2 => 1,
            time if time < longest => 2,
            _ => 3,
        };
        for (index, count) in self.waits.iter_mut().enumerate() {
            *count -= *count / 16;
            *count += if index == class { WAIT_WEIGHT } else { 0 };
        }
        self.sleeps = match (slept, limit.is_zero()) {
            // A probe that found something is followed by another.
            (false, _) => self.sleeps,
            (true, true) => self.sleeps + 1,
            (true, false) => 0,
        };
    }

    /// How long to look again, of at most `longest`.
    fn limit(&self, longest: Duration) -> Duration {
        let [quarter, half, all, more] = self.waits;
        // In eighths of the longest time; a wait that looking saw the end of took about the middle
        // of its class.
        let costs = [
            (0, 8 * (quarter + half + all + more)),
            (1, quarter + 10 * (half + all + more)),
            (2, quarter + 3 * half + 12 * (all + more)),
            (4, quarter + 3 * half + 6 * all + 16 * more),
        ];
        let cheapest = costs.iter().min_by_key(|(_, cost)| *cost);
        match cheapest {
            Some((0, _)) | None if self.sleeps >= IDLE_PROBE_WAITS => longest,
            Some((quarters, _)) => longest * *quarters / 4,
            None => Duration::ZERO,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLL: IdleStrategy = IdleStrategy::Poll {
        duration: Duration::from_micros(50),
    };

    fn micros(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }

    /// A thread whose work comes when the test says.
    struct Thread {
        idle: Idle,
        now: Instant,
        /// Time spent looking again.
        looked: Duration,
        /// What a sleep is longer by than what it waits for.
        wake: Duration,
    }

    impl Thread {
        fn new() -> Self {
            let mut thread = Self {
                idle: Idle::new(POLL),
                now: Clock::start().now().instant,
                looked: Duration::ZERO,
                wake: micros(20),
            };
            thread.idle.handle_work(thread.now, 72);
            thread
        }

        /// Waits for work that comes after `gap`, a look each microsecond; whether it slept.
        fn wait(&mut self, gap: u64) -> bool {
            let mut slept = true;
            for passed in 0..=gap {
                let now = self.now + micros(passed);
                slept = !self.idle.polls(now);
                if slept {
                    self.looked += micros(passed);
                    break;
                }
            }
            let late = if slept { self.wake } else { Duration::ZERO };
            self.looked += if slept { Duration::ZERO } else { micros(gap) };
            self.now += micros(gap) + late;
            self.idle.handle_work(self.now, 72);
            slept
        }

        /// How many of `count` waits of `gap` it slept.
        fn sleeps(&mut self, count: usize, gap: u64) -> usize {
            (0..count).filter(|_| self.wait(gap)).count()
        }
    }

    #[test]
    fn polls_after_small_work_for_its_time() {
        let start = Clock::start().now().instant;
        let at = |time| start + micros(time);
        let mut idle = Idle::new(POLL);
        assert!(!idle.polls(at(0)), "nothing was done yet");
        idle.handle_work(at(10), 72);
        assert!(idle.polls(at(12)) && idle.polls(at(61)));
        assert!(!idle.polls(at(62)));
        assert!(
            !idle.polls(at(63)),
            "what has slept sleeps on until there is work"
        );
    }

    #[test]
    fn answers_that_come_soon_are_looked_for_from_the_first_on() {
        let mut thread = Thread::new();
        assert_eq!(thread.sleeps(1000, 30), 0);
        // A silence, and what is a little late, do not end that.
        assert!(thread.wait(1_000_000));
        assert_eq!(thread.sleeps(20, 30), 0);
        assert!(thread.wait(70));
        assert_eq!(thread.sleeps(100, 45), 0);
    }

    #[test]
    fn what_comes_far_apart_is_not_looked_for() {
        let mut thread = Thread::new();
        thread.sleeps(16, 1_000);
        thread.looked = Duration::ZERO;
        assert_eq!(thread.sleeps(6400, 1_000), 6400);
        // A probe in 64 waits is all.
        assert_eq!(thread.looked, micros(50) * 100);
    }

    #[test]
    fn looks_again_as_soon_as_messages_come_faster() {
        let mut thread = Thread::new();
        thread.sleeps(100, 1_000);
        // What a sleep shows of a wait of 30 us is believed, but for its wake-up.
        let slept = thread.sleeps(1000, 30);
        assert!(slept < 32, "slept {slept} times");
    }

    #[test]
    fn a_probe_finds_out_that_sleeps_took_long_to_wake_up() {
        let mut thread = Thread::new();
        thread.wake = micros(200);
        thread.sleeps(100, 1_000);
        let slept = thread.sleeps(1000, 30);
        assert!(slept <= 64, "slept {slept} times");
    }

    #[test]
    fn bursts_far_apart_are_looked_for_no_longer_than_they_take() {
        let mut thread = Thread::new();
        let mut slept = 0;
        for round in 0..200 {
            if round == 100 {
                (thread.looked, slept) = (Duration::ZERO, 0);
            }
            slept += thread.sleeps(4, 5) + thread.sleeps(1, 150);
        }
        assert_eq!(slept, 100, "of each burst the last");
        // 20 us in finding, and a quarter of the longest time in vain.
        assert!(thread.looked <= micros(33) * 100, "{:?}", thread.looked);
    }

    #[test]
    fn a_wait_just_beyond_the_window_is_not_looked_for_for_long() {
        let mut thread = Thread::new();
        thread.sleeps(100, 60);
        thread.looked = Duration::ZERO;
        thread.sleeps(1000, 60);
        // A third of the waits at the most, each for 50 us.
        assert!(thread.looked < micros(50) * 333, "{:?}", thread.looked);
    }

    #[test]
    fn sleeps_in_bulk_and_polls_again_after_it() {
        let start = Clock::start().now().instant;
        let at = |time| start + micros(time);
        let mut idle = Idle::new(POLL);
        idle.handle_work(at(0), IDLE_BULK_BYTES_PER_MS + 1);
        assert!(!idle.polls(at(1)));
        // A small piece in between does not end the bulk.
        idle.handle_work(at(1_100), 100);
        assert!(!idle.polls(at(1_101)));
        assert!(idle.wait.is_none(), "no wait is measured in bulk");
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
        let none = IdleStrategy::Poll {
            duration: Duration::ZERO,
        };
        let mut none = Idle::new(none);
        none.handle_work(now, 1);
        assert!(!none.polls(now));
    }
}
