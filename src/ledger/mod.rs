//! Counters, and what they add up to.
//!
//! Every term is counted on its own, none is derived from the others by subtraction, so that the
//! sums can be held against each other:
//!
//! - inbound: `received = handled + dispatched + queued for dispatch + undelivered`,
//!   `dispatched = claimed + unclaimed`; their bytes are those of all types and of what waits
//! - per type: `handled and dispatched = handled + claimed + unclaimed + answers`
//! - per subscriber: `matched = taken + dropped + discarded + queued + parked`
//! - outbound: `accepted = written + dropped + overflowed + queued`
//! - between two processes, for each connection: `received + discarded <= written <= received +
//!   discarded + unconfirmed`, of which the first two are the other side's (what its subscribers
//!   and handlers were given, and what came to it while it closed); without `unconfirmed` they are
//!   equal
//! - requests: `sent = answered + timed_out + closed + cancelled + outstanding`; their answers are
//!   among the claimed messages, late ones among the unclaimed
//!
//! They balance exactly when the service is stopped or quiet; [`Balance`](crate::Balance) holds
//! them against each other, also while it runs.
//!
//! Most counters have one writer, the loop or the dispatcher, and are written without a locked
//! instruction: see [`Counter`].
//!
//! The files, each of which imports from earlier ones only: `traffic`; `state`; `rows`, of
//! subscribers, handlers and requests; `peer_rows`, of connections; `counters`; `types`, the
//! counts of each message type; `snapshot`; `stop_report`; the ledger itself is above them.

mod counters;
mod peer_rows;
mod rows;
mod snapshot;
mod state;
mod stop_report;
mod traffic;
mod types;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{budget::Budget, error::CloseReason, sync::atomic::AtomicU64 as SharedSum};

pub(crate) use counters::{Counter, Fill, HandlerAccount, PauseCounters, TrafficCounter};
pub use peer_rows::{ClosedRow, PeerRow};
pub use rows::{
    DepartedRow, EventSubscriberRow, HandlerRow, PauseRow, QueueGauge, RequestRow, SubscriberRow,
};
pub use snapshot::{ShardRow, Snapshot};
pub use state::ServiceState;
pub(crate) use state::StateCell;
pub use stop_report::{StopReport, StopRow};
pub use traffic::Traffic;
pub use types::TypeTraffic;
pub(crate) use types::{TypeMap, TypeRows};

/// Everything that a shard counts, apart from its subscribers, which carry their own rows. A
/// service has one shard or several.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// The service's.
    pub(crate) state: Arc<StateCell>,
    pub(crate) budget: Budget,
    pub(crate) peers: Counter,
    /// Connections that are being refused now.
    pub(crate) refused: Counter,
    pub(crate) accepted: Counter,
    pub(crate) dialled: Counter,
    pub(crate) dials_failed: Counter,
    pub(crate) lookups_timed_out: Counter,
    pub(crate) lookups_refused: Counter,
    pub(crate) closed: [Counter; CloseReason::COUNT],
    pub(crate) accept_errors: Counter,
    pub(crate) stale_events: Counter,
    /// Times that a peer's reading stopped, by what for.
    pub(crate) pauses: PauseCounters,
    /// Messages refused for want of budget; senders count, on whatever thread.
    pub(crate) refused_for_budget: SharedSum,
    /// Times that all reading stopped because the dispatch queue was full.
    pub(crate) dispatch_full: Counter,
    /// Milliseconds in which no peer was read.
    pub(crate) stalled_ms: Counter,
    pub(crate) partial_frames: Counter,
    pub(crate) inbound: TrafficCounter,
    pub(crate) outbound_accepted: TrafficCounter,
    pub(crate) outbound_written: TrafficCounter,
    pub(crate) outbound_dropped: TrafficCounter,
    pub(crate) outbound_overflowed: TrafficCounter,
    /// Of what is accepted, what waits; the loop adds and takes away.
    pub(crate) outbound_queued: TrafficCounter,
    /// Of what was written, what was not acknowledged when its connection ended; and connections of
    /// which that is not known.
    pub(crate) unconfirmed: TrafficCounter,
    pub(crate) unconfirmed_unknown: Counter,
    /// Replies that were refused because our BYE was out.
    pub(crate) unanswered: Counter,
    /// Input that came while a connection was being closed, and went to no subscriber.
    pub(crate) discarded_after_close: TrafficCounter,
    /// Connections that ended with a loss.
    pub(crate) closed_with_loss: Counter,
    /// Given to an inline handler; the loop's.
    pub(crate) handled: Counter,
    /// Received, and lost because the dispatcher had ended or hung; the loop's.
    pub(crate) undelivered: TrafficCounter,
    /// Likewise, taken from the queue by a dispatcher that has panicked before; the dispatcher's.
    pub(crate) abandoned: TrafficCounter,
    /// Dispatched, matched by at least one subscriber, and matched by none: the dispatcher's.
    pub(crate) dispatched: Counter,
    pub(crate) claimed: Counter,
    pub(crate) unclaimed: Counter,
    pub(crate) types_in: TypeRows,
    /// The types of what was handled, which the loop counts and not the dispatcher.
    pub(crate) types_handled: TypeRows,
    pub(crate) types_out: TypeRows,
    /// Inline handlers, those included that were removed. The loop does not take this lock, and
    /// keeps a list of its own.
    pub(crate) handlers: Mutex<Vec<Arc<HandlerAccount>>>,
    pub(crate) dispatch_queue: Fill,
    /// Of this, what is parked for full subscribers.
    pub(crate) dispatch_parked: Fill,
    dispatch_messages_max: u64,
    dispatch_bytes_max: AtomicU64,
    /// Maxima of the dispatch queue during the interval before the last metrics tick.
    pub(crate) dispatch_max: TrafficCounter,
}

impl Ledger {
    /// That of a service with one shard.
    #[cfg(any(test, feature = "workbench"))]
    pub(crate) fn new(budget: usize, dispatch_capacity: Traffic) -> Self {
        Self::of_shard(Budget::new(budget), Arc::default(), dispatch_capacity)
    }

    pub(crate) fn of_shard(
        budget: Budget,
        state: Arc<StateCell>,
        dispatch_capacity: Traffic,
    ) -> Self {
        Self {
            state,
            budget,
            peers: Counter::default(),
            refused: Counter::default(),
            accepted: Counter::default(),
            dialled: Counter::default(),
            dials_failed: Counter::default(),
            lookups_timed_out: Counter::default(),
            lookups_refused: Counter::default(),
            closed: Default::default(),
            accept_errors: Counter::default(),
            stale_events: Counter::default(),
            pauses: PauseCounters::default(),
            refused_for_budget: SharedSum::default(),
            dispatch_full: Counter::default(),
            stalled_ms: Counter::default(),
            partial_frames: Counter::default(),
            inbound: TrafficCounter::default(),
            outbound_accepted: TrafficCounter::default(),
            outbound_written: TrafficCounter::default(),
            outbound_dropped: TrafficCounter::default(),
            outbound_overflowed: TrafficCounter::default(),
            outbound_queued: TrafficCounter::default(),
            unconfirmed: TrafficCounter::default(),
            unconfirmed_unknown: Counter::default(),
            unanswered: Counter::default(),
            discarded_after_close: TrafficCounter::default(),
            closed_with_loss: Counter::default(),
            handled: Counter::default(),
            undelivered: TrafficCounter::default(),
            abandoned: TrafficCounter::default(),
            dispatched: Counter::default(),
            claimed: Counter::default(),
            unclaimed: Counter::default(),
            types_in: TypeRows::default(),
            types_handled: TypeRows::default(),
            types_out: TypeRows::default(),
            handlers: Mutex::default(),
            dispatch_queue: Fill::default(),
            dispatch_parked: Fill::default(),
            dispatch_messages_max: dispatch_capacity.messages,
            dispatch_bytes_max: dispatch_capacity.bytes.into(),
            dispatch_max: TrafficCounter::default(),
        }
    }

    /// What may wait for a dispatcher.
    #[inline]
    pub(crate) fn dispatch_capacity(&self) -> Traffic {
        let bytes = self.dispatch_bytes_max.load(Ordering::Relaxed);
        Traffic::new(self.dispatch_messages_max, bytes)
    }

    /// The queue has been made with places for its messages; the bound in bytes can change.
    pub(crate) fn set_dispatch_bytes(&self, bytes: u64) {
        self.dispatch_bytes_max.store(bytes, Ordering::Relaxed);
    }

    /// The loop has taken messages that were accepted for sending.
    pub(crate) fn note_accepted(&self, traffic: Traffic) {
        self.outbound_accepted.add(traffic);
        self.outbound_queued.add(traffic);
    }

    /// Senders have dropped messages that were accepted before them.
    pub(crate) fn note_overflowed(&self, traffic: Traffic) {
        self.outbound_overflowed.add(traffic);
        self.outbound_queued.sub(traffic);
    }

    /// The counters as they stand; exact when the service is quiet or stopped.
    pub(crate) fn snapshot(
        &self,
        uptime: Duration,
        subscribers: Vec<SubscriberRow>,
        departed: DepartedRow,
        requests: RequestRow,
    ) -> Snapshot {
        let handlers = self.handlers.lock().unwrap_or_else(PoisonError::into_inner);
        Snapshot {
            types: TypeTraffic::merge(self.types_of_loop().chain(self.types_in.dispatched())),
            subscribers,
            departed,
            handlers: handlers.iter().map(|account| account.row()).collect(),
            requests,
            ..self.counters(uptime)
        }
    }

    /// What the loop counts, for a cut: the rest is read elsewhere. The rows of types are those of
    /// what it handled and wrote, as they lie.
    pub(crate) fn snapshot_of_loop(&self, uptime: Duration, handlers: Vec<HandlerRow>) -> Snapshot {
        Snapshot {
            types: self.types_of_loop().collect(),
            handlers,
            ..self.counters(uptime)
        }
    }

    /// A snapshot without any rows.
    fn counters(&self, uptime: Duration) -> Snapshot {
        let fill = self.dispatch_queue.get();
        let max = self.dispatch_max.get();
        let mut undelivered = self.undelivered.get();
        undelivered.add(self.abandoned.get());
        let accepted = self.outbound_accepted.get();
        let written = self.outbound_written.get();
        let dropped = self.outbound_dropped.get();
        let overflowed = self.outbound_overflowed.get();
        let pauses = self.pauses.row();
        Snapshot {
            uptime,
            state: self.state.get(),
            peers: self.peers.get(),
            refused: self.refused.get(),
            accepted: self.accepted.get(),
            dialled: self.dialled.get(),
            dials_failed: self.dials_failed.get(),
            lookups_timed_out: self.lookups_timed_out.get(),
            lookups_refused: self.lookups_refused.get(),
            closed: CloseReason::ALL
                .iter()
                .map(|reason| (*reason, self.closed[reason.ordinal()].get()))
                .collect(),
            inbound: self.inbound.get(),
            outbound_written: written,
            outbound_accepted: accepted,
            outbound_dropped: dropped,
            outbound_overflowed: overflowed,
            outbound_queued: self.outbound_queued.get(),
            unconfirmed: self.unconfirmed.get(),
            unconfirmed_unknown: self.unconfirmed_unknown.get(),
            unanswered: self.unanswered.get(),
            discarded_after_close: self.discarded_after_close.get(),
            closed_with_loss: self.closed_with_loss.get(),
            handled: self.handled.get(),
            undelivered: undelivered.messages,
            undelivered_bytes: undelivered.bytes,
            dispatched: self.dispatched.get(),
            claimed: self.claimed.get(),
            unclaimed: self.unclaimed.get(),
            dispatch_queue: QueueGauge {
                messages: fill.messages,
                bytes: fill.bytes,
                messages_parked: self.dispatch_parked.get().messages,
                messages_max: max.messages.max(fill.messages),
                bytes_max: max.bytes.max(fill.bytes),
                messages_capacity: self.dispatch_capacity().messages,
                bytes_capacity: self.dispatch_capacity().bytes,
            },
            types: Vec::new(),
            subscribers: Vec::new(),
            event_subscribers: Vec::new(),
            departed: DepartedRow::default(),
            handlers: Vec::new(),
            requests: RequestRow::default(),
            memory_used: self.budget.used() as u64,
            memory_budget: self.budget.limit() as u64,
            accept_errors: self.accept_errors.get(),
            stale_events: self.stale_events.get(),
            reads_paused: pauses.total(),
            pauses,
            refused_for_budget: self.refused_for_budget.load(Ordering::Relaxed),
            dispatch_full: self.dispatch_full.get(),
            stalled: Duration::from_millis(self.stalled_ms.get()),
            partial_frames: self.partial_frames.get(),
            // The caller's to fill in.
            shards: Vec::new(),
        }
    }
}

impl Ledger {
    fn types_of_loop(&self) -> impl Iterator<Item = TypeTraffic> + '_ {
        self.types_handled.handled().chain(self.types_out.written())
    }
}
