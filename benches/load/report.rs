//! What a client says after a command.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// The client's answer. The counts and the CPU time cover its last command; the percentiles, in
/// nanoseconds, cover all round trips since `clear` and are zero where there are none.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Report {
    pub(crate) messages: u64,
    /// The numbers of the messages, added up.
    pub(crate) sum: u64,
    /// Of a client that reads: those that have received exactly what they were due.
    pub(crate) connections: u64,
    pub(crate) wall: Duration,
    pub(crate) cpu: Duration,
    pub(crate) p50: u64,
    pub(crate) p99: u64,
    pub(crate) p999: u64,
}

impl Report {
    /// Processor seconds per second of the last command.
    pub(crate) fn cores(&self) -> f64 {
        self.cpu.as_secs_f64() / self.wall.as_secs_f64()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            messages,
            sum,
            connections,
            p50,
            p99,
            p999,
            ..
        } = self;
        let (wall, cpu) = (self.wall.as_nanos(), self.cpu.as_nanos());
        write!(
            f,
            "done {messages} {sum} {connections} {wall} {cpu} {p50} {p99} {p999}"
        )
    }
}

impl FromStr for Report {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let mut words = line.split_whitespace();
        let wrong = || format!("the client answered {line:?}");
        if words.next() != Some("done") {
            return Err(wrong());
        }
        let mut next = || {
            words
                .next()
                .and_then(|word| word.parse().ok())
                .ok_or_else(wrong)
        };
        Ok(Self {
            messages: next()?,
            sum: next()?,
            connections: next()?,
            wall: Duration::from_nanos(next()?),
            cpu: Duration::from_nanos(next()?),
            p50: next()?,
            p99: next()?,
            p999: next()?,
        })
    }
}
