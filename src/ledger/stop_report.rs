//! What a stop did: for each connection that was there when it began, and with the last counters.

use std::time::Duration;

use super::{peer_rows::ClosedRow, snapshot::Snapshot, traffic::Traffic};
use crate::{error::ServiceFailure, limits::STOP_ROWS_SHOWN_MAX};

/// What a stop did for a connection that was there when it began.
///
/// Of the messages that ever came from it, `closed.inbound`, all but `held` were delivered: every
/// subscriber to them has let go of them or has counted them as dropped. Of those accepted for
/// sending to it, `closed.outbound` were written, `closed.lost` and `closed.overflowed` were not.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StopRow {
    /// The connection, all it did, and why it ended. Most end for
    /// [`Shutdown`](crate::CloseReason::Shutdown); one that was on its way out, or that the peer or
    /// the system ended first, has that reason.
    pub closed: ClosedRow,
    /// Messages received before the stop that were delivered in the stop.
    pub delivered: u64,
    /// Messages received before the stop that were not delivered when the connection ended. They
    /// are not lost with it: a subscriber still has them or finds them in its queue, and those that
    /// it never takes are among its [`discarded`](crate::SubscriberRow::discarded).
    pub held: u64,
    /// Application messages written in the stop.
    pub flushed: Traffic,
}

const _: () = assert!(size_of::<StopRow>() <= 320, "as StopReport::peers says");

impl StopRow {
    /// Who lost something comes first in a report, and last who had nothing to do.
    pub(crate) fn rank(&self) -> u8 {
        if self.closed.has_lost_messages() {
            0
        } else if self.held > 0 {
            1
        } else if self.delivered > 0 || self.flushed.messages > 0 {
            2
        } else {
            3
        }
    }
}

impl std::fmt::Display for StopRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let closed = &self.closed;
        write!(
            f,
            "peer {} at {}: {} messages delivered, {} flushed, {} lost ({} bytes)",
            closed.peer,
            closed.addr,
            self.delivered,
            self.flushed.messages,
            closed.lost.messages,
            closed.lost.bytes
        )?;
        if self.held > 0 {
            write!(f, ", {} still with subscribers", self.held)?;
        }
        match closed.unconfirmed {
            Some(Traffic { messages, bytes }) if bytes > 0 => {
                write!(f, ", {messages} unconfirmed ({bytes} bytes)")?;
            }
            Some(_) => {}
            None => write!(f, ", unconfirmed unknown")?,
        }
        if closed.unanswered > 0 {
            write!(f, ", {} unanswered", closed.unanswered)?;
        }
        let discarded = closed.discarded_after_close;
        if discarded.bytes > 0 {
            let Traffic { messages, bytes } = discarded;
            write!(f, ", {messages} discarded after the close ({bytes} bytes)")?;
        }
        write!(f, ": {}", closed.reason)
    }
}

/// What a stop did.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StopReport {
    /// Whether everything accepted was delivered and flushed before the deadline.
    pub drained: bool,
    /// How long the end took so far: since a stop was asked for, or since a thread failed,
    /// whichever was first. Zero if neither was.
    pub elapsed: Duration,
    /// The defect that ended the service before, if one did.
    pub failure: Option<ServiceFailure>,
    /// Connections that the stop closed in order, everything that was written being acknowledged by
    /// the peer's system, as far as that is told.
    pub closed_orderly: u64,
    /// The others: the stop cut them off, or something is [unconfirmed](ClosedRow::unconfirmed).
    pub closed_abortive: u64,
    /// What became of each connection that was there when the stop began; none if the service had
    /// failed before. At most 1,024, in 320 KiB: first those that lost messages, then those
    /// whose messages subscribers still had, then those for which the stop delivered or wrote
    /// anything, then the others. While it lasts, a stop needs twice as much for each loop, and 80
    /// bytes for each connection to which a message was ever written or of which one is not
    /// delivered.
    pub peers: Vec<StopRow>,
    /// How many more there were.
    pub peers_unlisted: u64,
    /// Whether all threads ended, as [`is_final`](Self::is_final) says. Where the stop waited for
    /// them, only a callback of the embedder that does not return prevents it.
    pub joined: bool,
    /// The counters at the end, or now.
    pub snapshot: Snapshot,
}

impl StopReport {
    /// Whether the service has ended, so that nothing in here changes any more. A report that is
    /// not final has the counters of the moment, and says of no connection what became of it:
    /// [`Handle::wait_stopped`](crate::Handle::wait_stopped) gives the final one.
    #[must_use]
    pub fn is_final(&self) -> bool {
        self.joined
    }

    /// The connections that lost messages, as far as they are listed: accepted for sending and not
    /// written, or of the peer and got by no subscriber.
    pub fn lost(&self) -> impl Iterator<Item = &StopRow> {
        self.peers
            .iter()
            .filter(|row| row.closed.has_lost_messages())
    }

    /// Names all that lost something, some of those that had anything to do, and no others.
    fn write_peers(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [mut moved, mut unnamed] = [0_usize, 0];
        for row in &self.peers {
            let rank = row.rank();
            moved += usize::from(rank == 2);
            if rank < 2 || (rank == 2 && moved <= STOP_ROWS_SHOWN_MAX) {
                write!(f, "\n  {row}")?;
            } else {
                unnamed += usize::from(rank == 2);
            }
        }
        if unnamed > 0 {
            write!(
                f,
                "\n  {unnamed} more peers were delivered from or flushed to, and lost nothing"
            )?;
        }
        Ok(())
    }
}

impl std::fmt::Display for StopReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (state, verdict) = match (self.joined, self.drained) {
            (false, _) => ("not stopped", "threads of the service run"),
            (true, true) => ("stopped", "drained"),
            (true, false) => ("stopped", "not drained"),
        };
        writeln!(f, "{state} after {:?}: {verdict}", self.elapsed)?;
        if let Some(failure) = &self.failure {
            writeln!(f, "  failure: {failure}")?;
        }
        let snapshot = &self.snapshot;
        writeln!(
            f,
            "  peers: {} closed in order, {} cut off",
            self.closed_orderly, self.closed_abortive
        )?;
        snapshot.write_sums(f)?;
        self.write_peers(f)
    }
}

/// What a person at a terminal wants to see first, over several lines; the fields have more.
impl std::fmt::Display for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let queue = &self.dispatch_queue;
        writeln!(
            f,
            "{:?} after {:?}: {} peers, {} of {} bytes of memory, {} messages wait for dispatch",
            self.state,
            self.uptime,
            self.peers,
            self.memory_used,
            self.memory_budget,
            queue.messages
        )?;
        self.write_sums(f)
    }
}

impl Snapshot {
    /// What was received, what became of it at each subscriber, and what was sent.
    fn write_sums(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.write_received(f)?;
        for row in &self.subscribers {
            writeln!(
                f,
                "  subscriber {}: {} matched, {} taken, {} dropped, {} discarded, {} queued",
                row.name,
                row.matched,
                row.taken,
                row.dropped,
                row.discarded,
                row.queued + row.parked
            )?;
        }
        for row in &self.event_subscribers {
            writeln!(
                f,
                "  event subscriber {}: {} events, {} taken, {} dropped, {} discarded, {} queued",
                row.name, row.matched, row.taken, row.dropped, row.discarded, row.queued
            )?;
        }
        let departed = &self.departed;
        if departed.subscribers > 0 {
            writeln!(
                f,
                "  {} subscribers that left: {} matched, {} taken, {} dropped, {} discarded",
                departed.subscribers,
                departed.matched,
                departed.taken,
                departed.dropped,
                departed.discarded
            )?;
        }
        write!(
            f,
            "  sent: {} messages accepted, {} written, {} lost",
            self.outbound_accepted.messages,
            self.outbound_written.messages,
            self.outbound_dropped.messages
        )?;
        if self.outbound_overflowed.messages > 0 {
            let overflowed = self.outbound_overflowed.messages;
            write!(f, ", {overflowed} dropped for later ones")?;
        }
        self.write_ends(f)
    }
}
