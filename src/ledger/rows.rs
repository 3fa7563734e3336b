//! Rows of a snapshot that are read as one: a queue, a subscriber, a handler, all requests.
//!
//! Each row that is a sum says so in its first line. Rows of the same thing on several loops are
//! added up, except for what is the same on each of them.

use std::time::Duration;

use crate::id::SubscriberId;

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
    pub(super) fn add(&mut self, other: Self) {
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
    /// that a loop read no peer, wherever their messages went. It counts once until half of the
    /// dispatch queue is free of what waits, or nothing waits for this subscriber.
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
    pub(super) fn add(&mut self, other: &Self) {
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
    /// Those that were given up.
    pub cancelled: u64,
    /// Those that wait now.
    pub outstanding: u64,
    /// Messages that came as answers to no request that waited: too late, or made up. No subscriber
    /// gets them, and they count as unclaimed.
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

    pub(super) fn add(&mut self, other: &Self) {
        self.credit += other.credit;
        self.subscriber += other.subscriber;
        self.budget += other.budget;
    }
}
