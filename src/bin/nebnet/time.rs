//! The clocks of the command line: the only place in it that reads one, or sleeps.

use std::{
    fmt, thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

const SECONDS_PER_DAY: u64 = 24 * 3600;

/// The monotonic clock.
#[expect(clippy::disallowed_methods, reason = "the clock of the command line")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Waits. For threads that have nothing else to wait for.
#[expect(
    clippy::disallowed_methods,
    reason = "paces the messages of `send` on its own thread"
)]
pub(crate) fn sleep(duration: Duration) {
    thread::sleep(duration);
}

/// The wall clock, for people who read logs; no deadline uses it.
#[expect(clippy::disallowed_methods, reason = "log lines carry the time of day")]
pub(crate) fn timestamp() -> Timestamp {
    // A clock set before 1970 is shown as 1970 rather than refused.
    Timestamp(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default(),
    )
}

/// A time of day in UTC, shown as RFC 3339 with milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timestamp(Duration);

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (year, month, day) = civil_date(seconds / SECONDS_PER_DAY);
        let second = seconds % SECONDS_PER_DAY;
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
            second / 3600,
            second / 60 % 60,
            second % 60,
            self.0.subsec_millis()
        )
    }
}

/// Year, month and day of a number of days since 1970.
///
/// Howard Hinnant's `civil_from_days` for days that are not negative: years begin in March, so
/// that the leap day is the last of its year, and 400 years have 146,097 days.
fn civil_date(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(civil_date(0), (1970, 1, 1));
        assert_eq!(civil_date(59), (1970, 3, 1));
        assert_eq!(civil_date(11_016), (2000, 2, 29));
        assert_eq!(civil_date(11_017), (2000, 3, 1));
        assert_eq!(civil_date(20_453), (2025, 12, 31));
    }

    #[test]
    fn timestamps_are_rfc_3339() {
        let time = Timestamp(Duration::from_millis(1_764_321_075_042));
        assert_eq!(time.to_string(), "2025-11-28T09:11:15.042Z");
    }
}
