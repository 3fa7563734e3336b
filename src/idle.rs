//! What a thread does when it has nothing to do: sleep, or look again for a while.
//!
//! Waking a thread that sleeps costs its waker about five microseconds and itself twenty or more,
//! which is most of a round trip. A thread that looks again for as long as the next message is
//! likely to take saves both; between two looks it gives its core away (`sched_yield`), so that on
//! a machine with few cores a thread that has work gets on with it.
//!
//! It does harm in two cases. In bulk a reader that comes back too early reads small pieces, and
//! takes the core from the sender that would have made them larger: so the loop looks again only
//! while little comes; the bytes of the last two milliseconds decide. A thread that takes from a
//! queue looks a few times in bulk too, as long as that finds something ([`Linger`]). And where
//! the next message takes longer than a thread looks, it has looked in vain each time: so
//! [`Habit`] reckons what looking would have cost in the waits of late, and a thread looks again
//! for as long as pays.

#[cfg(test)]
mod tests;

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{
    clock::Clock,
    limits::{
        IDLE_BULK_BYTES_PER_MS, IDLE_BULK_LOOKS, IDLE_BULK_WAITS_MAX, IDLE_POLL_US,
        IDLE_PROBE_WAITS_MAX, IDLE_PROBE_WAITS_MIN, IDLE_WAKE_US,
    },
};

/// What a thread of the service, or a subscriber, does when it has nothing to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum IdleStrategy {
    /// Sleeps at once: the least CPU, and 20 to 30 us more for each hand-off to a sleeper.
    Block,
    /// After small, sparse work looks again for up to this long, giving its core away between two
    /// looks, and then sleeps. Where messages come so far apart that this was in vain of late, it
    /// looks for a shorter time or not at all, but for a wait now and then, one in 65 in the long
    /// run, in which it finds out whether they come faster. In bulk the loop sleeps at once, and
    /// others after a few looks, if those found something of late; without traffic it sleeps.
    Poll {
        /// How long at most; 0 is the same as `Block`, more than a millisecond is taken as one.
        duration: Duration,
    },
    /// Never sleeps: looks again all the time, giving its core away between two looks. For a
    /// machine with a core to spare for each thread.
    Spin,
}

impl Default for IdleStrategy {
    /// Polls for 75 us.
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
    /// Whether work comes in bulk; true until there was some, so that no thread looks before it.
    bulk: bool,
    /// The wait that began with a look that found nothing, until there is work again. None in bulk.
    wait: Option<Wait>,
    habit: Habit,
    /// Of a thread that takes from a queue; the loop does not linger.
    linger: Linger,
}

/// A wait for work.
#[derive(Clone, Copy, Debug)]
struct Wait {
    start: Instant,
    /// How long to look again before sleeping.
    limit: Duration,
    /// Whether the time for looking has passed.
    slept: bool,
}

/// A millisecond, over which work is added up.
const WINDOW: Duration = Duration::from_millis(1);

impl Idle {
    pub(crate) fn new(strategy: IdleStrategy) -> Self {
        let longest = match strategy {
            IdleStrategy::Poll { duration } => duration.min(WINDOW),
            IdleStrategy::Block | IdleStrategy::Spin => Duration::ZERO,
        };
        Self {
            strategy,
            window: None,
            bytes: [0; 2],
            bulk: true,
            wait: None,
            habit: Habit::new(longest),
            linger: Linger::default(),
        }
    }

    /// Work of `bytes` bytes was found at `now`.
    pub(crate) fn handle_work(&mut self, now: Instant, bytes: usize) {
        if let (Some(wait), IdleStrategy::Poll { duration }) = (self.wait.take(), self.strategy) {
            self.habit.handle_wait(wait, now, duration.min(WINDOW));
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
            self.linger.handle_work();
            self.handle_work(clock.now().instant, bytes);
        }
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
            slept: false,
        });
        wait.slept |= now.saturating_duration_since(wait.start) >= wait.limit;
        !wait.slept
    }

    /// As [`polls`](Self::polls), with a look at the clock only where the answer depends on it.
    pub(crate) fn polls_by(&mut self, clock: Clock) -> bool {
        match self.strategy {
            IdleStrategy::Block => false,
            IdleStrategy::Spin => true,
            IdleStrategy::Poll { .. } => {
                if self.bulk {
                    return self.linger.polls();
                }
                let known = self.wait.is_some_and(|wait| wait.slept);
                !known && self.polls(clock.now().instant)
            }
        }
    }

    /// Gives the core away between two looks.
    pub(crate) fn yield_now() {
        thread::yield_now();
    }
}

/// In bulk, a few looks before a sleep, with the core given away in between: where others run on it
/// who will bring work, that is cheaper for both sides than to sleep and to be woken.
#[derive(Clone, Copy, Debug, Default)]
struct Linger {
    /// Looks made in this wait.
    looks: u32,
    /// Waits to sleep through at once, and how many there were last time.
    waits_left: u32,
    waits: u32,
}

impl Linger {
    fn polls(&mut self) -> bool {
        let looks = self.waits_left == 0 && self.looks < IDLE_BULK_LOOKS;
        self.looks += u32::from(looks);
        looks
    }

    fn handle_work(&mut self) {
        if self.waits_left > 0 {
            self.waits_left -= 1;
        } else if self.looks == IDLE_BULK_LOOKS {
            self.waits = (2 * self.waits).clamp(1, IDLE_BULK_WAITS_MAX);
            self.waits_left = self.waits;
        } else if self.looks > 0 {
            self.waits = 0;
        }
        self.looks = 0;
    }
}

/// What it would have cost of late to look again for none, an eighth, a quarter, a half or all of
/// the longest time, and so how long to look in the next wait.
///
/// Looking costs the time that it takes. A sleep is held to cost as much as the longest time to
/// look, which is what that setting means. What comes in a burst, in which several messages come in
/// the time that a sleeper takes to wake up, costs that sleeper nothing more, so it pays to sleep
/// through it; a single one may be an answer to what the thread did, which would not have come yet.
/// Whatever was chosen, all are reckoned.
///
/// A sleep shows a wait only together with the time it took to wake up. Where that is long, or
/// where two threads wait for each other and both sleep, all waits look long that would be short
/// if one looked. So after [`IDLE_PROBE_WAITS_MIN`] sleeps the next wait is looked through; as long
/// as that finds something, so are those that follow, and otherwise the next after twice as many,
/// [`IDLE_PROBE_WAITS_MAX`] at the most. A hiccup is soon over that way, and little is lost where
/// messages come far apart for good.
#[derive(Clone, Copy, Debug)]
struct Habit {
    choices: [Choice; 5],
    /// Waits slept through at once since one was looked through in vain.
    sleeps: u32,
    /// So many of them before the next is looked through.
    sleeps_max: u32,
}

/// One of the times to look again.
#[derive(Clone, Copy, Debug)]
struct Choice {
    /// In eighths of the longest.
    eighths: u32,
    /// Nanoseconds: a sum in which a wait counts for less the older it is.
    cost: u64,
    /// Until when its last sleeper would have been waking up.
    wakes: Option<Instant>,
}

impl Habit {
    /// As if waits had taken half of the longest time so far: at first it is worth looking.
    fn new(longest: Duration) -> Self {
        let choice = |eighths| {
            let cost = if eighths == 8 { longest / 2 } else { longest };
            Choice {
                eighths,
                cost: 8 * nanoseconds(cost),
                wakes: None,
            }
        };
        Self {
            choices: [8, 4, 2, 1, 0].map(choice),
            sleeps: 0,
            sleeps_max: IDLE_PROBE_WAITS_MIN,
        }
    }

    /// A wait ended at `end`, of which at most `longest` could have been spent looking.
    fn handle_wait(&mut self, wait: Wait, end: Instant, longest: Duration) {
        let wake = Duration::from_micros(IDLE_WAKE_US);
        let is_probe = self.cheapest() == 0;
        let mut time = end.saturating_duration_since(wait.start);
        if wait.slept {
            // It was longer than what was looked for in vain.
            time = time.saturating_sub(wake).max(wait.limit);
        }
        for choice in &mut self.choices {
            let limit = longest * choice.eighths / 8;
            let sleeps = choice.wakes.is_some_and(|wakes| end < wakes);
            let cost = if sleeps && time < wake / 2 {
                Duration::ZERO
            } else if time < limit {
                time
            } else {
                choice.wakes = Some(end + wake);
                limit + longest
            };
            choice.cost -= choice.cost / 16;
            choice.cost += nanoseconds(cost);
        }
        match (wait.slept, wait.limit.is_zero()) {
            // Without a time to look there is no probe that ends the count.
            (true, true) => self.sleeps = self.sleeps.saturating_add(1),
            (true, false) => {
                self.sleeps = 0;
                self.sleeps_max = if is_probe {
                    (2 * self.sleeps_max).min(IDLE_PROBE_WAITS_MAX)
                } else {
                    IDLE_PROBE_WAITS_MIN
                };
            }
            // A probe that found something is followed by another.
            (false, _) => self.sleeps_max = IDLE_PROBE_WAITS_MIN,
        }
    }

    /// How long to look again, of at most `longest`.
    fn limit(&self, longest: Duration) -> Duration {
        match self.cheapest() {
            0 if self.sleeps >= self.sleeps_max => longest,
            eighths => longest * eighths / 8,
        }
    }

    /// In eighths of the longest.
    fn cheapest(&self) -> u32 {
        let cheapest = self.choices.iter().min_by_key(|choice| choice.cost);
        cheapest.map_or(0, |choice| choice.eighths)
    }
}

/// Of a time of which a few millions would fit.
fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX >> 16)
}
