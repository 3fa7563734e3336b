//! All counters at one moment, of one loop or added up over all.

use std::time::Duration;

use super::{
    rows::{
        DepartedRow, EventSubscriberRow, HandlerRow, PauseRow, QueueGauge, RequestRow,
        SubscriberRow,
    },
    state::ServiceState,
    traffic::Traffic,
    types::TypeTraffic,
};
use crate::error::CloseReason;

/// All counters of a service at one moment.
///
/// Taken live, the counters are read one after the other while others count on; when the service is
/// quiet or stopped, they balance: `inbound.messages = handled + dispatched + queued + undelivered`
/// (those queued are `dispatch_queue.messages` without `messages_parked`), `dispatched = claimed +
/// unclaimed`, each subscriber's row, and `outbound_accepted` with the sum of `outbound_written`,
/// `outbound_dropped`, `outbound_overflowed` and `outbound_queued`. [`balance`](Self::balance) says
/// so; [`Handle::balance`](crate::Handle::balance) does while the service runs.
///
/// # Examples
///
/// ```
/// # use nebnet::{Config, NetService};
/// let service = NetService::new(Config::default())?;
/// let text = service.handle().snapshot().to_string();
/// assert!(text.starts_with("New after "), "{text}");
/// assert!(text.contains("received: 0 messages, 0 dispatched, 0 unclaimed"));
/// assert!(text.contains("sent: 0 messages accepted, 0 written, 0 lost"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// Time since the service was made.
    pub uptime: Duration,
    /// Where the service is in its life.
    pub state: ServiceState,
    /// Connections now.
    pub peers: u64,
    /// Connections that are being refused now: they wait for their BYE, and are not closed yet.
    pub refused: u64,
    /// Connections accepted so far, those refused for a limit included.
    pub accepted: u64,
    /// Connections that this service made so far. `accepted + dialled = peers + refused + closed`,
    /// the closed ones summed up over the reasons.
    pub dialled: u64,
    /// Attempts of links that failed: all addresses were tried.
    pub dials_failed: u64,
    /// Attempts of links whose name was not looked up within the connect timeout.
    pub lookups_timed_out: u64,
    /// Attempts of links whose name was not even asked for: 8 were looked up and 256 waited, or no
    /// thread could be started.
    pub lookups_refused: u64,
    /// Connections that ended, by reason; every reason is listed.
    pub closed: Vec<(CloseReason, u64)>,
    /// Application messages received.
    pub inbound: Traffic,
    /// Application messages written: taken by the kernel.
    pub outbound_written: Traffic,
    /// Application messages accepted for sending, as far as the loop has seen them.
    pub outbound_accepted: Traffic,
    /// Application messages accepted for sending that were lost with their connection.
    pub outbound_dropped: Traffic,
    /// Application messages accepted for sending that were dropped for later ones; only with
    /// [`OutboxFull::DropOldest`](crate::OutboxFull::DropOldest).
    pub outbound_overflowed: Traffic,
    /// Application messages accepted for sending that wait to be written.
    pub outbound_queued: Traffic,
    /// The sum of [`ClosedRow::unconfirmed`](crate::ClosedRow::unconfirmed), as far as it is known:
    /// what was written and may not have reached the peer's system before its connection ended.
    pub unconfirmed: Traffic,
    /// Connections that ended and of which it is not known.
    pub unconfirmed_unknown: u64,
    /// The sum of [`ClosedRow::unanswered`](crate::ClosedRow::unanswered): replies refused because
    /// their connection was past answering, in messages.
    pub unanswered: u64,
    /// The sum of [`ClosedRow::discarded_after_close`](crate::ClosedRow::discarded_after_close):
    /// input that came while its connection was being closed, and that no subscriber got.
    pub discarded_after_close: Traffic,
    /// Connections that ended with a loss: messages accepted for sending that were not written, or
    /// input that no subscriber got. Each is one line of the log, ten a second at most.
    pub closed_with_loss: u64,
    /// Messages that were given to an inline handler instead.
    pub handled: u64,
    /// Messages that were offered to no subscriber, because the dispatcher had failed.
    pub undelivered: u64,
    /// Bytes of their frames.
    pub undelivered_bytes: u64,
    /// Messages that went through the fan-out.
    pub dispatched: u64,
    /// Dispatched messages that at least one subscriber's types matched.
    pub claimed: u64,
    /// Dispatched messages that no subscriber's types matched.
    pub unclaimed: u64,
    /// The queue between the loop and the dispatcher; of several loops, the sum.
    pub dispatch_queue: QueueGauge,
    /// Traffic per message type, and what became of it.
    pub types: Vec<TypeTraffic>,
    /// The subscribers.
    pub subscribers: Vec<SubscriberRow>,
    /// The subscribers of events; those that left are not listed.
    pub event_subscribers: Vec<EventSubscriberRow>,
    /// The sum of the subscribers of messages that left before the service stopped.
    pub departed: DepartedRow,
    /// The inline handlers, in the order in which they were set; summed up over the loops.
    pub handlers: Vec<HandlerRow>,
    /// What became of our requests.
    pub requests: RequestRow,
    /// Bytes that buffers hold of the budget.
    pub memory_used: u64,
    /// The byte budget: what the configuration says, or less if the host allows less.
    pub memory_budget: u64,
    /// Errors of `accept` other than "none waiting".
    pub accept_errors: u64,
    /// Events, timers and commands for connections that were gone.
    pub stale_events: u64,
    /// Times that the reading of a peer was paused for want of credit, budget or a subscriber: the
    /// sum of `pauses`.
    pub reads_paused: u64,
    /// The same by cause.
    pub pauses: PauseRow,
    /// Messages that were refused with [`SendError::OverBudget`](crate::SendError::OverBudget); all
    /// messages of a batch that was refused, and one for each peer that a broadcast left out. A
    /// second try counts again.
    pub refused_for_budget: u64,
    /// Times that all reading of a loop was paused because the dispatch queue was full, or had no
    /// place for an event.
    pub dispatch_full: u64,
    /// How long no peer was read for that; of several loops, the sum. A pause that lasts is in it
    /// up to the last second.
    pub stalled: Duration,
    /// Frames that were cut off by the end of their connection.
    pub partial_frames: u64,
    /// What each loop has of it: see [`Config::shards`](crate::Config::shards).
    pub shards: Vec<ShardRow>,
}

/// What one of a service's loops does.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShardRow {
    /// Which one: what [`PeerId::shard`](crate::PeerId::shard) says.
    pub shard: u8,
    /// Its connections now.
    pub peers: u64,
    /// Application messages that it received.
    pub inbound: Traffic,
    /// Application messages that it wrote.
    pub outbound: Traffic,
    /// The queue between it and its dispatcher.
    pub dispatch_queue: QueueGauge,
}

impl Snapshot {
    /// The row of the shard whose ledger this was taken of.
    pub(crate) fn shard_row(&self, shard: u8) -> ShardRow {
        ShardRow {
            shard,
            peers: self.peers,
            inbound: self.inbound,
            outbound: self.outbound_written,
            dispatch_queue: self.dispatch_queue,
        }
    }

    /// Adds what another shard counted. What is the service's as a whole is left as it is: state,
    /// requests, uptime and the budget's size.
    pub(crate) fn add(&mut self, other: Self) {
        self.peers += other.peers;
        self.refused += other.refused;
        self.accepted += other.accepted;
        self.dialled += other.dialled;
        self.dials_failed += other.dials_failed;
        self.lookups_timed_out += other.lookups_timed_out;
        self.lookups_refused += other.lookups_refused;
        for (sum, other) in self.closed.iter_mut().zip(other.closed) {
            sum.1 += other.1;
        }
        for (sum, other) in [
            (&mut self.inbound, other.inbound),
            (&mut self.outbound_written, other.outbound_written),
            (&mut self.outbound_accepted, other.outbound_accepted),
            (&mut self.outbound_dropped, other.outbound_dropped),
            (&mut self.outbound_overflowed, other.outbound_overflowed),
            (&mut self.outbound_queued, other.outbound_queued),
            (&mut self.unconfirmed, other.unconfirmed),
            (&mut self.discarded_after_close, other.discarded_after_close),
        ] {
            sum.add(other);
        }
        self.unconfirmed_unknown += other.unconfirmed_unknown;
        self.unanswered += other.unanswered;
        self.closed_with_loss += other.closed_with_loss;
        self.handled += other.handled;
        self.undelivered += other.undelivered;
        self.undelivered_bytes += other.undelivered_bytes;
        self.dispatched += other.dispatched;
        self.claimed += other.claimed;
        self.unclaimed += other.unclaimed;
        self.dispatch_queue.add(other.dispatch_queue);
        TypeTraffic::add_all(&mut self.types, other.types);
        self.add_rows(other.subscribers, other.event_subscribers);
        self.departed.merge(&other.departed);
        for (sum, other) in self.handlers.iter_mut().zip(&other.handlers) {
            sum.add(other);
        }
        self.memory_used += other.memory_used;
        self.accept_errors += other.accept_errors;
        self.stale_events += other.stale_events;
        self.reads_paused += other.reads_paused;
        self.pauses.add(&other.pauses);
        self.refused_for_budget += other.refused_for_budget;
        self.dispatch_full += other.dispatch_full;
        self.stalled += other.stalled;
        self.partial_frames += other.partial_frames;
        self.shards.extend(other.shards);
    }

    fn add_rows(&mut self, messages: Vec<SubscriberRow>, events: Vec<EventSubscriberRow>) {
        for row in messages {
            match self.subscribers.iter_mut().find(|one| one.id == row.id) {
                Some(sum) => sum.add(&row),
                None => self.subscribers.push(row),
            }
        }
        for row in events {
            let mut known = self.event_subscribers.iter_mut();
            match known.find(|one| one.id == row.id) {
                Some(sum) => sum.add(&row),
                None => self.event_subscribers.push(row),
            }
        }
    }

    /// Connections that ended, whatever the reason.
    #[must_use]
    pub fn closed_total(&self) -> u64 {
        self.closed.iter().map(|(_, count)| count).sum()
    }

    /// What the ends of connections left open, where they did.
    pub(super) fn write_ends(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Traffic { messages, bytes } = self.unconfirmed;
        if bytes > 0 {
            write!(f, "\n  unconfirmed: {messages} messages, {bytes} bytes")?;
        }
        if self.unconfirmed_unknown > 0 {
            let connections = self.unconfirmed_unknown;
            write!(f, "\n  unconfirmed: unknown of {connections} connections")?;
        }
        if self.unanswered > 0 {
            write!(f, "\n  unanswered: {} messages", self.unanswered)?;
        }
        let Traffic { messages, bytes } = self.discarded_after_close;
        if bytes > 0 {
            write!(
                f,
                "\n  discarded after the close: {messages} messages, {bytes} bytes"
            )?;
        }
        Ok(())
    }

    /// What came in, and what handlers did with it; of handlers only where there are any.
    pub(super) fn write_received(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "  received: {} messages, ", self.inbound.messages)?;
        if !self.handlers.is_empty() {
            write!(f, "{} handled, ", self.handled)?;
        }
        writeln!(
            f,
            "{} dispatched, {} unclaimed",
            self.dispatched, self.unclaimed
        )?;
        for row in &self.handlers {
            writeln!(
                f,
                "  handler {}: {} calls, {} over the limit, longest {:?}, {} answers refused{}",
                row.name,
                row.calls,
                row.over_time_limit,
                row.longest,
                row.refused,
                if row.removed {
                    ", removed by a panic"
                } else {
                    ""
                }
            )?;
        }
        Ok(())
    }
}
