//! Time as the crate sees it: milliseconds since the service started.
//!
//! [`Clock`] is the only reader of the system clock. Everything else takes the time as an argument,
//! so that a test owns it. Elapsed time is rounded down and deadlines are rounded up: a timer may
//! be late by a tick, never early. The clock is monotonic; time in which the machine is suspended
//! is not counted.

use std::time::{Duration, Instant};

/// A point in time: milliseconds since the clock's start.
pub(crate) type Tick = u64;

/// What one look at the clock gave.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    /// Milliseconds since the start, rounded down.
    pub(crate) tick: Tick,
    /// The same moment, for the receive time of messages.
    pub(crate) instant: Instant,
}

/// The only reader of the system clock.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock whose tick 0 is now.
    #[expect(
        clippy::disallowed_methods,
        reason = "this file is where the clock is read"
    )]
    pub(crate) fn start() -> Self {
        Self {
            start: Instant::now(),
        }
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "this file is where the clock is read"
    )]
    pub(crate) fn now(&self) -> Now {
        let instant = Instant::now();
        Now {
            tick: ticks_elapsed(instant.saturating_duration_since(self.start)),
            instant,
        }
    }

    /// The moment alone, for the measuring of what takes microseconds.
    #[expect(
        clippy::disallowed_methods,
        reason = "this file is where the clock is read"
    )]
    #[inline]
    pub(crate) fn instant() -> Instant {
        Instant::now()
    }

    /// Time since the start.
    pub(crate) fn elapsed(&self) -> Duration {
        self.now().instant.saturating_duration_since(self.start)
    }
}

/// Whole milliseconds of a duration, rounded down, at most `u64::MAX`.
pub(crate) fn ticks_elapsed(duration: Duration) -> Tick {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Milliseconds of a timeout, rounded up, at most `u64::MAX`.
pub(crate) fn ticks_of_timeout(duration: Duration) -> Tick {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_round_up_and_elapsed_time_down() {
        assert_eq!(ticks_of_timeout(Duration::ZERO), 0);
        assert_eq!(ticks_of_timeout(Duration::from_nanos(1)), 1);
        assert_eq!(ticks_of_timeout(Duration::from_micros(1000)), 1);
        assert_eq!(ticks_of_timeout(Duration::from_micros(1001)), 2);
        assert_eq!(ticks_of_timeout(Duration::MAX), u64::MAX);
        assert_eq!(ticks_elapsed(Duration::from_micros(1999)), 1);
        assert_eq!(ticks_elapsed(Duration::MAX), u64::MAX);
    }
}
