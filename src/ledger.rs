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

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{
    budget::Budget,
    error::{CloseReason, ServiceFailure},
    id::{LinkId, MessageType, NodeId, PeerId, PeerIdentity, SubscriberId},
    limits::{STOP_ROWS_SHOWN_MAX, TYPE_COUNTERS_MAX},
    sync::atomic::AtomicU64 as SharedSum,
};

/// A number that one thread counts and every thread reads.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    /// To be called by the counter's one writer only: another's addition could be lost.
    #[inline]
    pub(crate) fn add(&self, count: u64) {
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_add(count),
            Ordering::Relaxed,
        );
    }

    pub(crate) fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Messages and bytes that one thread counts.
#[derive(Debug, Default)]
pub(crate) struct TrafficCounter {
    pub(crate) messages: Counter,
    pub(crate) bytes: Counter,
}

impl TrafficCounter {
    #[inline]
    pub(crate) fn add(&self, traffic: Traffic) {
        self.messages.add(traffic.messages);
        self.bytes.add(traffic.bytes);
    }

    /// Takes away what was added before; for what waits.
    pub(crate) fn sub(&self, traffic: Traffic) {
        let before = self.get();
        debug_assert!(before.messages >= traffic.messages && before.bytes >= traffic.bytes);
        self.messages
            .set(before.messages.saturating_sub(traffic.messages));
        self.bytes.set(before.bytes.saturating_sub(traffic.bytes));
    }

    pub(crate) fn set(&self, traffic: Traffic) {
        self.messages.set(traffic.messages);
        self.bytes.set(traffic.bytes);
    }

    pub(crate) fn get(&self) -> Traffic {
        Traffic {
            messages: self.messages.get(),
            bytes: self.bytes.get(),
        }
    }
}

/// A queue's fill, which one side raises and the other lowers.
#[derive(Debug, Default)]
pub(crate) struct Fill {
    messages: SharedSum,
    bytes: SharedSum,
}

impl Fill {
    #[inline]
    pub(crate) fn raise(&self, traffic: Traffic) {
        self.messages.fetch_add(traffic.messages, Ordering::Relaxed);
        self.bytes.fetch_add(traffic.bytes, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn lower(&self, traffic: Traffic) {
        // Release: whoever sees it sees what its thread did before, see `Account::steady`.
        self.messages.fetch_sub(traffic.messages, Ordering::Release);
        self.bytes.fetch_sub(traffic.bytes, Ordering::Release);
    }

    #[inline]
    pub(crate) fn get(&self) -> Traffic {
        Traffic {
            messages: self.messages.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }
}

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
    /// Milliseconds in which nobody was read.
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

/// Why single peers were not read; the loop counts.
#[derive(Debug, Default)]
pub(crate) struct PauseCounters {
    pub(crate) credit: Counter,
    pub(crate) subscriber: Counter,
    pub(crate) budget: Counter,
}

impl PauseCounters {
    fn row(&self) -> PauseRow {
        PauseRow {
            credit: self.credit.get(),
            subscriber: self.subscriber.get(),
            budget: self.budget.get(),
        }
    }
}

/// What an inline handler did; the loop counts.
#[derive(Debug, Default)]
pub(crate) struct HandlerAccount {
    pub(crate) name: String,
    pub(crate) calls: Counter,
    pub(crate) over_time_limit: Counter,
    pub(crate) longest_ns: Counter,
    pub(crate) refused: Counter,
    pub(crate) panics: Counter,
}

impl HandlerAccount {
    pub(crate) fn row(&self) -> HandlerRow {
        let panics = self.panics.get();
        HandlerRow {
            name: self.name.clone(),
            calls: self.calls.get(),
            over_time_limit: self.over_time_limit.get(),
            longest: Duration::from_nanos(self.longest_ns.get()),
            refused: self.refused.get(),
            panics,
            removed: panics > 0,
        }
    }
}

/// Where a service is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServiceState {
    /// Made, not started.
    New,
    /// Accepts, reads and writes.
    Running,
    /// Drains what it has.
    Stopping,
    /// Stopped; nothing runs.
    Stopped,
    /// A thread ended by a defect; see [`ServiceFailure`].
    Failed,
}

#[derive(Debug, Default)]
pub(crate) struct StateCell(AtomicU8);

impl StateCell {
    pub(crate) fn get(&self) -> ServiceState {
        match self.0.load(Ordering::Acquire) {
            0 => ServiceState::New,
            1 => ServiceState::Running,
            2 => ServiceState::Stopping,
            3 => ServiceState::Stopped,
            _ => ServiceState::Failed,
        }
    }

    /// A life goes one way: a later state stays, and a failed service failed.
    pub(crate) fn set(&self, state: ServiceState) {
        let value = match state {
            ServiceState::New => 0,
            ServiceState::Running => 1,
            ServiceState::Stopping => 2,
            ServiceState::Stopped => 3,
            ServiceState::Failed => 4,
        };
        self.0.fetch_max(value, Ordering::AcqRel);
    }
}

/// Traffic per message type, for the first types that are seen; the others share the last row.
///
/// The rows are shared, the map from type to row is its writer's alone: [`TypeMap`].
#[derive(Debug)]
pub(crate) struct TypeRows {
    used: Counter,
    rows: Box<[TypeCell]>,
}

#[derive(Debug, Default)]
struct TypeCell {
    message_type: Counter,
    traffic: TrafficCounter,
    /// What became of messages that were dispatched.
    claimed: Counter,
    unclaimed: Counter,
    answers: Counter,
}

impl Default for TypeRows {
    fn default() -> Self {
        Self {
            used: Counter::default(),
            rows: (0..=TYPE_COUNTERS_MAX)
                .map(|_| TypeCell::default())
                .collect(),
        }
    }
}

impl TypeRows {
    #[inline]
    pub(crate) fn add(&self, row: u16, traffic: Traffic) {
        self.rows[usize::from(row)].traffic.add(traffic);
    }

    /// Messages that were dispatched, and whether anybody's types matched them.
    #[inline]
    pub(crate) fn add_offered(&self, row: u16, traffic: Traffic, is_claimed: bool) {
        let cell = &self.rows[usize::from(row)];
        cell.traffic.add(traffic);
        if is_claimed {
            cell.claimed.add(traffic.messages);
        } else {
            cell.unclaimed.add(traffic.messages);
        }
    }

    /// Messages that were dispatched, and are answers to our requests.
    pub(crate) fn add_answers(&self, row: u16, traffic: Traffic) {
        let cell = &self.rows[usize::from(row)];
        cell.traffic.add(traffic);
        cell.answers.add(traffic.messages);
    }

    /// The rows, of what the dispatcher counts.
    pub(crate) fn dispatched(&self) -> impl Iterator<Item = TypeTraffic> + '_ {
        self.each().map(|(message_type, cell)| TypeTraffic {
            inbound: cell.traffic.get(),
            claimed: cell.claimed.get(),
            unclaimed: cell.unclaimed.get(),
            answers: cell.answers.get(),
            ..TypeTraffic::new(message_type)
        })
    }

    /// The rows, of what the loop gives to handlers.
    fn handled(&self) -> impl Iterator<Item = TypeTraffic> + '_ {
        self.each().map(|(message_type, cell)| TypeTraffic {
            inbound: cell.traffic.get(),
            handled: cell.traffic.messages.get(),
            ..TypeTraffic::new(message_type)
        })
    }

    /// The rows, of what is written.
    fn written(&self) -> impl Iterator<Item = TypeTraffic> + '_ {
        self.each().map(|(message_type, cell)| TypeTraffic {
            outbound: cell.traffic.get(),
            ..TypeTraffic::new(message_type)
        })
    }

    fn each(&self) -> impl Iterator<Item = (Option<MessageType>, &TypeCell)> + '_ {
        let used = usize::try_from(self.used.get())
            .unwrap_or(0)
            .min(TYPE_COUNTERS_MAX);
        let named = self.rows[..used].iter().map(|row| {
            let number = u16::try_from(row.message_type.get()).unwrap_or(u16::MAX);
            (Some(MessageType(number)), row)
        });
        named.chain([(None, &self.rows[TYPE_COUNTERS_MAX])])
    }
}

/// The writer's map from a message type to its row: 128 KiB once a type was counted.
#[derive(Debug, Default)]
pub(crate) struct TypeMap {
    /// Row plus one; zero is not yet seen.
    rows: Vec<u16>,
    used: u16,
}

impl TypeMap {
    /// The row of a type, which is given one if there are any left.
    #[inline]
    pub(crate) fn row(&mut self, message_type: MessageType, shared: &TypeRows) -> u16 {
        match self.rows.get(usize::from(message_type.0)) {
            Some(&row) if row != 0 => row - 1,
            Some(_) | None => self.assign(message_type, shared),
        }
    }

    #[cold]
    fn assign(&mut self, message_type: MessageType, shared: &TypeRows) -> u16 {
        if self.rows.is_empty() {
            self.rows = vec![0; 1 << 16];
        }
        let row = self.used;
        if usize::from(row) < TYPE_COUNTERS_MAX {
            shared.rows[usize::from(row)]
                .message_type
                .set(u64::from(message_type.0));
            shared.used.add(1);
            self.used += 1;
        }
        self.rows[usize::from(message_type.0)] = row + 1;
        row
    }
}

/// Messages and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Number of messages.
    pub messages: u64,
    /// Bytes of their frames, headers included.
    pub bytes: u64,
}

impl Traffic {
    pub(crate) const fn new(messages: u64, bytes: u64) -> Self {
        Self { messages, bytes }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.messages += other.messages;
        self.bytes += other.bytes;
    }

    /// Takes away what was added before.
    pub(crate) fn sub(&mut self, other: Self) {
        *self = self.since(other);
    }

    /// What was added to a sum since it was `before`.
    pub(crate) fn since(self, before: Self) -> Self {
        debug_assert!(self.messages >= before.messages && self.bytes >= before.bytes);
        Self::new(
            self.messages.saturating_sub(before.messages),
            self.bytes.saturating_sub(before.bytes),
        )
    }
}

/// Traffic of one message type: `inbound.messages = handled + claimed + unclaimed + answers`.
///
/// A message counts here once it is handled or dispatched. What waits for the dispatcher or was
/// lost on the way there is counted for all types together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TypeTraffic {
    /// The type; `None` stands for all types beyond the first 1,024 that were seen. The loop and
    /// the dispatcher each see types in their own order, so with more of them the messages of one
    /// type may be in two rows.
    pub message_type: Option<MessageType>,
    /// Dispatched, or given to an inline handler.
    pub inbound: Traffic,
    /// Given to an inline handler.
    pub handled: u64,
    /// Dispatched, and matched by at least one subscriber's types.
    pub claimed: u64,
    /// Dispatched, and matched by nobody's types.
    pub unclaimed: u64,
    /// Dispatched as answers to our requests, late ones included. Nobody is offered them.
    pub answers: u64,
    /// Written.
    pub outbound: Traffic,
}

impl TypeTraffic {
    fn new(message_type: Option<MessageType>) -> Self {
        Self {
            message_type,
            ..Self::default()
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.inbound.add(other.inbound);
        self.handled += other.handled;
        self.claimed += other.claimed;
        self.unclaimed += other.unclaimed;
        self.answers += other.answers;
        self.outbound.add(other.outbound);
    }

    /// A row for each type, of rows of several counts; without those of which there is nothing.
    pub(crate) fn merge(parts: impl IntoIterator<Item = Self>) -> Vec<Self> {
        let mut rows: Vec<Self> = parts.into_iter().collect();
        // `None`, the shared row, sorts last.
        rows.sort_by_key(|row| (row.message_type.is_none(), row.message_type));
        rows.dedup_by(|row, kept| {
            let is_same = row.message_type == kept.message_type;
            if is_same {
                kept.add(row);
            }
            is_same
        });
        // Of a message that is partly written, there are bytes.
        rows.retain(|row| row.inbound.bytes + row.outbound.bytes > 0);
        rows
    }

    /// Adds the rows of another shard.
    fn add_all(sums: &mut Vec<Self>, rows: Vec<Self>) {
        *sums = Self::merge(std::mem::take(sums).into_iter().chain(rows));
    }
}

/// How full a queue is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueGauge {
    /// Messages now.
    pub messages: u64,
    /// Bytes of storage that they hold now.
    pub bytes: u64,
    /// Of the messages, those that are dispatched and keep their place because a subscriber with
    /// [`OverflowPolicy::Pause`](crate::OverflowPolicy::Pause) has no room for them, or for others
    /// that came with them: once for each such subscriber.
    pub messages_parked: u64,
    /// The most messages since the last metrics tick but one.
    pub messages_max: u64,
    /// The most bytes in the same time.
    pub bytes_max: u64,
    /// The bound in messages.
    pub messages_capacity: u64,
    /// The bound in bytes.
    pub bytes_capacity: u64,
}

impl QueueGauge {
    /// Adds the queue of another shard. The maxima need not be of one moment.
    fn add(&mut self, other: Self) {
        self.messages += other.messages;
        self.bytes += other.bytes;
        self.messages_parked += other.messages_parked;
        self.messages_max += other.messages_max;
        self.bytes_max += other.bytes_max;
        self.messages_capacity += other.messages_capacity;
        self.bytes_capacity += other.bytes_capacity;
    }
}

/// What became of the messages that a subscriber's types matched:
/// `matched = taken + dropped + discarded + queued + parked`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SubscriberRow {
    /// The subscriber.
    pub id: SubscriberId,
    /// Its name, for people.
    pub name: String,
    /// Messages dispatched since it subscribed that are of its types.
    pub matched: u64,
    /// Messages that it took.
    pub taken: u64,
    /// Messages dropped because its queue was full: the new ones, or, with
    /// [`OverflowPolicy::DropOldest`](crate::OverflowPolicy::DropOldest), the oldest.
    pub dropped: u64,
    /// Of these, those for which the bound in bytes had no room, though that in messages had.
    pub dropped_for_bytes: u64,
    /// Messages thrown away because it unsubscribed with them in its queue, or the service stopped.
    pub discarded: u64,
    /// Messages in its queue.
    pub queued: u64,
    /// Bytes of storage that its queue holds.
    pub queued_bytes: u64,
    /// Messages that wait for room in its queue; only with
    /// [`OverflowPolicy::Pause`](crate::OverflowPolicy::Pause).
    pub parked: u64,
    /// Times that its queue was full and its messages began to wait for room in it, so that the
    /// peers that sent them were not read; of each loop on its own. Only with
    /// [`OverflowPolicy::Pause`](crate::OverflowPolicy::Pause).
    pub pauses: u64,
    /// Times that what waited for room in its queue began to leave none in the dispatch queue, so
    /// that a loop read nobody, whoever they sent to. It counts once until half of the dispatch
    /// queue is free of what waits, or nothing waits for this subscriber.
    pub stalls: u64,
    /// Whether it was removed because its queue was full; only with
    /// [`OverflowPolicy::Unsubscribe`](crate::OverflowPolicy::Unsubscribe).
    pub overflowed: bool,
}

impl SubscriberRow {
    pub(crate) fn empty(id: SubscriberId, name: String, overflowed: bool) -> Self {
        Self {
            id,
            name,
            matched: 0,
            taken: 0,
            dropped: 0,
            dropped_for_bytes: 0,
            discarded: 0,
            queued: 0,
            queued_bytes: 0,
            parked: 0,
            pauses: 0,
            stalls: 0,
            overflowed,
        }
    }

    /// Adds what came to the same subscriber through another shard.
    pub(crate) fn add(&mut self, other: &Self) {
        self.matched += other.matched;
        self.taken += other.taken;
        self.dropped += other.dropped;
        self.dropped_for_bytes += other.dropped_for_bytes;
        self.discarded += other.discarded;
        self.queued += other.queued;
        self.queued_bytes += other.queued_bytes;
        self.parked += other.parked;
        self.pauses += other.pauses;
        self.stalls += other.stalls;
        self.overflowed |= other.overflowed;
    }
}

/// What became of the events that an event subscriber was offered:
/// `matched = taken + dropped + discarded + queued`. A subscriber with
/// [`with_events`](crate::SubscribeOptions::with_events) has such a row beside the one of its
/// messages, under the same id.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct EventSubscriberRow {
    /// The subscriber.
    pub id: SubscriberId,
    /// Its name, for people.
    pub name: String,
    /// Events dispatched since it subscribed.
    pub matched: u64,
    /// Events that it took.
    pub taken: u64,
    /// Events dropped because its queue was full, and those of peers whose `Connected` was.
    pub dropped: u64,
    /// Events thrown away untaken.
    pub discarded: u64,
    /// Events in its queue, and those that wait for room there.
    pub queued: u64,
}

impl EventSubscriberRow {
    /// The counters of events are those of messages.
    pub(crate) fn of(row: SubscriberRow) -> Self {
        Self {
            id: row.id,
            name: row.name,
            matched: row.matched,
            taken: row.taken,
            dropped: row.dropped,
            discarded: row.discarded,
            queued: row.queued + row.parked,
        }
    }

    /// Adds what came to the same subscriber through another shard.
    pub(crate) fn add(&mut self, other: &Self) {
        self.matched += other.matched;
        self.taken += other.taken;
        self.dropped += other.dropped;
        self.discarded += other.discarded;
        self.queued += other.queued;
    }
}

/// The sum of the rows of subscribers that left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DepartedRow {
    /// How many left.
    pub subscribers: u64,
    /// Those that were removed because their queues were full.
    pub overflowed: u64,
    /// As in [`SubscriberRow`], and so are the others.
    pub matched: u64,
    /// Taken before they left.
    pub taken: u64,
    /// Dropped because their queues were full.
    pub dropped: u64,
    /// Thrown away because they left.
    pub discarded: u64,
    /// Not yet thrown away.
    pub queued: u64,
}

impl DepartedRow {
    pub(crate) fn add(&mut self, row: &SubscriberRow) {
        self.subscribers += 1;
        self.overflowed += u64::from(row.overflowed);
        self.matched += row.matched;
        self.taken += row.taken;
        self.dropped += row.dropped;
        self.discarded += row.discarded;
        self.queued += row.queued + row.parked;
    }

    /// Adds what came to the same subscribers through another shard.
    pub(crate) fn merge(&mut self, other: &Self) {
        // The same ones left everywhere.
        self.subscribers = self.subscribers.max(other.subscribers);
        self.overflowed = self.overflowed.max(other.overflowed);
        self.matched += other.matched;
        self.taken += other.taken;
        self.dropped += other.dropped;
        self.discarded += other.discarded;
        self.queued += other.queued;
    }
}

/// What an inline handler did; see [`NetService::handle_inline`](crate::NetService::handle_inline).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HandlerRow {
    /// Its name, for people.
    pub name: String,
    /// Messages that it was given, the one included in which it panicked.
    pub calls: u64,
    /// Calls that took longer than its time limit; zero if it has none.
    pub over_time_limit: u64,
    /// The longest call; zero if it has no time limit, because then no call is measured.
    pub longest: Duration,
    /// Answers that were refused, most often for want of room.
    pub refused: u64,
    /// Calls that panicked: at most one on each loop.
    pub panics: u64,
    /// Whether it was removed, because it panicked; of several loops, from one at least. The
    /// messages of its types are dispatched there since.
    pub removed: bool,
}

impl HandlerRow {
    /// Adds what the same handler did on another loop.
    fn add(&mut self, other: &Self) {
        self.calls += other.calls;
        self.over_time_limit += other.over_time_limit;
        self.longest = self.longest.max(other.longest);
        self.refused += other.refused;
        self.panics += other.panics;
        self.removed |= other.removed;
    }
}

/// What became of the requests that were accepted:
/// `sent = answered + timed_out + closed + cancelled + outstanding`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RequestRow {
    /// Requests accepted for sending.
    pub sent: u64,
    /// Those that got their answer. Their answers count as claimed messages.
    pub answered: u64,
    /// Those whose time was over.
    pub timed_out: u64,
    /// Those whose connection, or the service, ended first.
    pub closed: u64,
    /// Those that whoever asked gave up.
    pub cancelled: u64,
    /// Those that wait now.
    pub outstanding: u64,
    /// Messages that came as answers to no request that waited: too late, or made up. Nobody gets
    /// them, and they count as unclaimed.
    pub late: u64,
}

impl RequestRow {
    /// Takes requests out of those that wait; the caller counts what became of them.
    pub(crate) fn resolve(&mut self, count: u64) -> &mut Self {
        debug_assert!(self.outstanding >= count);
        self.outstanding = self.outstanding.saturating_sub(count);
        self
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.sent += other.sent;
        self.answered += other.answered;
        self.timed_out += other.timed_out;
        self.closed += other.closed;
        self.cancelled += other.cancelled;
        self.outstanding += other.outstanding;
        self.late += other.late;
    }
}

/// How often the reading of single peers was paused, by what it was paused for.
///
/// A pause counts once, when it begins, for the cause that was found first. A peer for which that
/// is over and that cannot be read for another cause is paused anew, which counts for the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PauseRow {
    /// What was read from the peer and not released yet, with what waits to be written to it, left
    /// no room within the outbox limits.
    pub credit: u64,
    /// A subscriber with [`OverflowPolicy::Pause`](crate::OverflowPolicy::Pause) had no room for
    /// its messages.
    pub subscriber: u64,
    /// More than three quarters of the byte budget were used, and the peer held more than its
    /// share; or all of it was.
    pub budget: u64,
}

impl PauseRow {
    /// Pauses of any cause.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.credit + self.subscriber + self.budget
    }

    fn add(&mut self, other: &Self) {
        self.credit += other.credit;
        self.subscriber += other.subscriber;
        self.budget += other.budget;
    }
}

/// All counters of a service at one moment.
///
/// Taken live, the counters are read one after the other while others count on; when the service is
/// quiet or stopped, they balance: `inbound.messages = handled + dispatched + queued + undelivered`
/// (those queued are `dispatch_queue.messages` without `messages_parked`), `dispatched = claimed +
/// unclaimed`, each subscriber's row, and `outbound_accepted` with the sum of `outbound_written`,
/// `outbound_dropped`, `outbound_overflowed` and `outbound_queued`. [`balance`](Self::balance) says
/// so; [`Handle::balance`](crate::Handle::balance) does while the service runs.
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
    /// The sum of [`ClosedRow::unconfirmed`], as far as it is known: what was written and may not
    /// have reached the peer's system before its connection ended.
    pub unconfirmed: Traffic,
    /// Connections that ended and of which it is not known.
    pub unconfirmed_unknown: u64,
    /// The sum of [`ClosedRow::unanswered`]: replies refused because their connection was past
    /// answering, in messages.
    pub unanswered: u64,
    /// The sum of [`ClosedRow::discarded_after_close`]: input that came while its connection was
    /// being closed, and that no subscriber got.
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
    /// Messages that were refused with [`SendError::Full`](crate::SendError::Full) because the byte
    /// budget had no room for them, and not the outbox of their peer; all messages of a batch that
    /// was refused, and one for each peer that a broadcast left out. Who tries again is counted
    /// again.
    pub refused_for_budget: u64,
    /// Times that all reading of a loop was paused because the dispatch queue was full, or had no
    /// place for an event.
    pub dispatch_full: u64,
    /// How long nobody was read for that; of several loops, the sum. A pause that lasts is in it up
    /// to the last second.
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
    /// Which one: what [`PeerId::shard`] says.
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
    fn write_ends(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
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
    fn write_received(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
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

/// A connection, as [`Handle::peers`](crate::Handle::peers) lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerRow {
    /// The connection.
    pub peer: PeerId,
    /// The remote address.
    pub addr: std::net::SocketAddr,
    /// The link that made it; `None` if the peer connected to us.
    pub link: Option<LinkId>,
    /// Who the peer is and what it runs, if it said so.
    pub identity: Option<Arc<PeerIdentity>>,
    /// Time since it was accepted or made.
    pub age: Duration,
    /// Time since the last byte in either direction.
    pub idle: Duration,
    /// Application messages received.
    pub inbound: Traffic,
    /// Application messages written.
    pub outbound: Traffic,
    /// Application messages accepted for sending and not yet written.
    pub queued: Traffic,
    /// How long the oldest of them has waited, in milliseconds, since the loop saw it first; `None`
    /// if nothing is queued.
    pub queued_oldest: Option<Duration>,
    /// Application messages accepted for sending that were dropped for later ones; only with
    /// [`OutboxFull::DropOldest`](crate::OutboxFull::DropOldest).
    pub overflowed: Traffic,
    /// Bytes read from it that a subscriber, the dispatcher or an unfinished frame still holds.
    pub in_flight_bytes: u64,
    /// Whether it is being read; false while its credit is used up or a subscriber holds it back.
    pub reading: bool,
    /// Whether it is on its way to be closed.
    pub closing: bool,
}

/// A connection that ended, as [`Handle::recently_closed`](crate::Handle::recently_closed) lists
/// it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClosedRow {
    /// The connection.
    pub peer: PeerId,
    /// The remote address.
    pub addr: std::net::SocketAddr,
    /// The link that had made it; `None` if the peer had connected to us.
    pub link: Option<LinkId>,
    /// Who the peer was, if it said so.
    pub node_id: NodeId,
    /// Why it ended.
    pub reason: CloseReason,
    /// The code of the BYE that the peer sent, if it did.
    pub bye_received: Option<u16>,
    /// When it ended: time since the service was made.
    pub closed_at: Duration,
    /// How long it lasted.
    pub age: Duration,
    /// Application messages received.
    pub inbound: Traffic,
    /// Application messages written.
    pub outbound: Traffic,
    /// Application messages accepted for sending that were lost with the connection.
    pub lost: Traffic,
    /// Application messages accepted for sending that were dropped for later ones; only with
    /// [`OutboxFull::DropOldest`](crate::OutboxFull::DropOldest).
    pub overflowed: Traffic,
    /// Of `outbound`, what the peer's system had not acknowledged immediately before the close: at
    /// most that much may not have reached it. An upper bound, in messages rounded up to whole
    /// calls that wrote them; where the connection broke, its last bytes are bounded by what the
    /// system's buffer holds. `None` if the system does not tell.
    ///
    /// What was acknowledged has reached the peer's system, and not always its program.
    pub unconfirmed: Option<Traffic>,
    /// Replies refused as [`SendError::Closing`](crate::SendError::Closing) because our BYE was
    /// due, or the peer's said that it reads no more, in messages: what they would have answered
    /// was delivered. Replies that come after the
    /// end of the connection are refused as `NotConnected`, and are not among them.
    pub unanswered: u64,
    /// Input that came while the connection was being closed, and that no subscriber got: bytes of
    /// application messages, and of what could not be parsed; messages as far as the stream could
    /// be parsed, so none behind a framing error.
    pub discarded_after_close: Traffic,
}

impl ClosedRow {
    /// Whether it is certain that everything written has reached the peer's system.
    #[must_use]
    pub fn is_confirmed(&self) -> bool {
        self.unconfirmed == Some(Traffic::default())
    }

    /// Whether something may not have.
    pub(crate) fn has_unconfirmed(&self) -> bool {
        self.unconfirmed
            .is_some_and(|sum| sum != Traffic::default())
    }

    /// Whether something was lost with the connection: messages accepted for sending, or input.
    #[must_use]
    pub fn has_loss(&self) -> bool {
        let is_lost = self.lost.messages > 0 || self.discarded_after_close.bytes > 0;
        is_lost || self.has_unconfirmed()
    }

    /// Whether whole messages were, as far as they could be parsed.
    pub(crate) fn has_lost_messages(&self) -> bool {
        let is_lost = self.lost.messages > 0 || self.discarded_after_close.messages > 0;
        is_lost || self.has_unconfirmed()
    }
}

#[cfg(test)]
impl ClosedRow {
    /// Of a peer that did nothing.
    pub(crate) fn of_peer(peer: PeerId) -> Self {
        Self {
            peer,
            addr: std::net::SocketAddr::from(([127, 0, 0, 1], 1)),
            link: None,
            node_id: NodeId::default(),
            reason: CloseReason::PeerClosed,
            bye_received: None,
            closed_at: Duration::ZERO,
            age: Duration::ZERO,
            inbound: Traffic::default(),
            outbound: Traffic::default(),
            lost: Traffic::default(),
            overflowed: Traffic::default(),
            unconfirmed: Some(Traffic::default()),
            unanswered: 0,
            discarded_after_close: Traffic::default(),
        }
    }
}

/// What a stop did for a connection that was there when it began.
///
/// Of the messages that ever came from it, `closed.inbound`, all but `held` were delivered: every
/// subscriber to them has let go of them or has counted them as dropped. Of those accepted for
/// sending to it, `closed.outbound` were written, `closed.lost` and `closed.overflowed` were not.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StopRow {
    /// The connection, all it did, and why it ended. Most end for
    /// [`Shutdown`](CloseReason::Shutdown); one that was on its way out, or that the peer or the
    /// system ended first, has that reason.
    pub closed: ClosedRow,
    /// Messages received before the stop that were delivered in the stop.
    pub delivered: u64,
    /// Messages received before the stop that were not delivered when the connection ended. They
    /// are not lost with it: a subscriber still has them or finds them in its queue, and those that
    /// it never takes are among its [`discarded`](SubscriberRow::discarded).
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

    /// Names all that lost something, some of those that had anything to do, and nobody else.
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
        snapshot.write_received(f)?;
        for row in &snapshot.subscribers {
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
        for row in &snapshot.event_subscribers {
            writeln!(
                f,
                "  event subscriber {}: {} events, {} taken, {} dropped, {} discarded, {} queued",
                row.name, row.matched, row.taken, row.dropped, row.discarded, row.queued
            )?;
        }
        let departed = &snapshot.departed;
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
            snapshot.outbound_accepted.messages,
            snapshot.outbound_written.messages,
            snapshot.outbound_dropped.messages
        )?;
        if snapshot.outbound_overflowed.messages > 0 {
            let overflowed = snapshot.outbound_overflowed.messages;
            write!(f, ", {overflowed} dropped for later ones")?;
        }
        snapshot.write_ends(f)?;
        self.write_peers(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_beyond_the_table_share_a_row() {
        let (rows, mut map) = (TypeRows::default(), TypeMap::default());
        for number in 0..2_000 {
            let row = map.row(MessageType(number), &rows);
            rows.add_offered(row, Traffic::new(1, 10), number % 2 == 0);
        }
        let merged = TypeTraffic::merge(rows.dispatched().chain(TypeRows::default().written()));
        assert_eq!(merged.len(), TYPE_COUNTERS_MAX + 1);
        let last = merged.last().unwrap();
        assert_eq!(
            (last.message_type, last.inbound),
            (None, Traffic::new(976, 9_760))
        );
        assert_eq!((last.claimed, last.unclaimed), (488, 488));
        assert_eq!(merged[0].inbound, Traffic::new(1, 10));
        assert_eq!((merged[0].claimed, merged[1].unclaimed), (1, 1));
    }

    #[test]
    fn a_failed_service_stays_failed() {
        let state = StateCell::default();
        state.set(ServiceState::Running);
        state.set(ServiceState::Failed);
        state.set(ServiceState::Stopped);
        assert_eq!(state.get(), ServiceState::Failed);
    }
}
