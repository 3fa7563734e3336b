//! `serve --stats`: a status line a second.

use std::time::Duration;

use nebnet::{Snapshot, Traffic};

use crate::logger;

/// What the last line was made from.
#[derive(Debug, Default)]
pub(crate) struct Stats {
    uptime: Duration,
    inbound: Traffic,
    outbound: Traffic,
}

impl Stats {
    /// Shows a snapshot as a line. Called by the service once a second; never waits.
    pub(crate) fn show(&mut self, snapshot: &Snapshot) {
        logger::status(self.line(snapshot));
    }

    fn line(&mut self, snapshot: &Snapshot) -> String {
        let elapsed = snapshot.uptime.saturating_sub(self.uptime);
        let (inbound, inbound_bytes) = rates(self.inbound, snapshot.inbound, elapsed);
        let (outbound, outbound_bytes) = rates(self.outbound, snapshot.outbound_written, elapsed);
        self.uptime = snapshot.uptime;
        self.inbound = snapshot.inbound;
        self.outbound = snapshot.outbound_written;
        let queue = &snapshot.dispatch_queue;
        let dropped: u64 = snapshot.subscribers.iter().map(|row| row.dropped).sum();
        format!(
            "peers {} | in {inbound:.0} msg/s {inbound_bytes:.1} MB/s \
             | out {outbound:.0} msg/s {outbound_bytes:.1} MB/s \
             | queue {} max {} of {} | dropped {dropped} | memory {:.1} of {:.0} MiB",
            snapshot.peers,
            queue.messages,
            queue.messages_max,
            queue.messages_capacity,
            mebibytes(snapshot.memory_used),
            mebibytes(snapshot.memory_budget),
        )
    }
}

/// Messages and megabytes (of a million bytes) a second between two counts.
fn rates(before: Traffic, now: Traffic, elapsed: Duration) -> (f64, f64) {
    let seconds = elapsed.as_secs_f64();
    if seconds <= 0.0 {
        return (0.0, 0.0);
    }
    let messages = now.messages.saturating_sub(before.messages);
    let bytes = now.bytes.saturating_sub(before.bytes);
    (to_f64(messages) / seconds, to_f64(bytes) / 1e6 / seconds)
}

fn mebibytes(bytes: u64) -> f64 {
    to_f64(bytes) / f64::from(1 << 20)
}

/// For people: above 2^53 the last digits are not exact.
fn to_f64(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_differences_over_time() {
        let before = Traffic {
            messages: 10,
            bytes: 1_000_000,
        };
        let now = Traffic {
            messages: 30,
            bytes: 5_000_000,
        };
        assert_eq!(rates(before, now, Duration::from_secs(2)), (10.0, 2.0));
        assert_eq!(rates(before, now, Duration::ZERO), (0.0, 0.0));
        assert_eq!(rates(now, before, Duration::from_secs(1)), (0.0, 0.0));
    }
}
