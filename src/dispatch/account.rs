//! The account of a subscriber: its bounds, what each shard has counted for it, and which shards
//! wait for room in its queue.
//!
//! Several shards reserve room in one sum; those that wait for it take turns. A shard that waits is
//! poked by the receiver that makes room, and looks once more itself after it has said that it
//! waits.

use std::sync::Arc;

use super::{
    EndReason, OverflowPolicy, Poke, TypeFilter,
    fill::QueueFill,
    shard_counters::{Moves, ShardCounters},
};
use crate::{
    id::{MessageType, SubscriberId},
    ledger::{EventSubscriberRow, SubscriberRow, Traffic},
    limits::{BLOCK_SIZE, PENDING_WAKE_PART},
    sync::atomic::{AtomicBool, AtomicU64, Ordering, fence},
};

/// What both sides of a subscriber's queue know and count.
#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) id: SubscriberId,
    pub(crate) name: String,
    pub(crate) types: TypeFilter,
    /// It gets events, and no messages.
    pub(crate) is_events: bool,
    pub(crate) overflow: OverflowPolicy,
    pub(crate) capacity: Traffic,
    /// What may be in the queue while the receiver sleeps.
    pub(super) untold_max: Traffic,
    /// That of the first shard. If it is the only one, its fill is the queue's.
    pub(super) first: ShardCounters,
    /// Those of the other shards.
    pub(super) others: Box<[ShardCounters]>,
    /// The queue's fill, where several shards raise it.
    pub(super) total: QueueFill,
    /// A bit for each shard whose deliveries are parked: making room pokes its dispatcher.
    pub(super) waited: AtomicU64,
    /// Of several that wait, the one that may take what room there is.
    pub(super) turn: AtomicU64,
    /// Why nothing more will come: set before the queue is disconnected.
    pub(super) stopped: AtomicBool,
    pub(super) overflowed: AtomicBool,
    /// Of an account of events: how many are missing before the one that was taken last.
    pub(super) missed_events: AtomicU64,
    pub(super) pokes: Arc<[Arc<Poke>]>,
    /// Of an account of events in a queue with messages: that of the messages, for which the
    /// dispatchers wait.
    pub(super) messages: Option<Arc<Self>>,
}

impl Account {
    pub(super) fn note_missed_events(&self, missed: u64) {
        self.missed_events.store(missed, Ordering::Relaxed);
    }

    pub(super) fn missed_events(&self) -> u64 {
        self.missed_events.load(Ordering::Relaxed)
    }

    /// An account of events, without a name.
    pub(super) fn empty(id: SubscriberId, capacity: Traffic, pokes: &Arc<[Arc<Poke>]>) -> Self {
        Self {
            id,
            name: String::new(),
            types: MessageType::HELLO.into(),
            is_events: true,
            overflow: OverflowPolicy::default(),
            capacity,
            untold_max: untold_max(capacity),
            first: ShardCounters::default(),
            others: pokes[1..]
                .iter()
                .map(|_| ShardCounters::default())
                .collect(),
            total: QueueFill::default(),
            waited: AtomicU64::new(0),
            turn: AtomicU64::new(0),
            stopped: AtomicBool::new(false),
            overflowed: AtomicBool::new(false),
            missed_events: AtomicU64::new(0),
            pokes: Arc::clone(pokes),
            messages: None,
        }
    }

    #[inline]
    pub(super) fn counters(&self, shard: u8) -> &ShardCounters {
        match usize::from(shard) {
            0 => &self.first,
            shard => &self.others[shard - 1],
        }
    }

    pub(super) fn all_counters(&self) -> impl Iterator<Item = &ShardCounters> {
        std::iter::once(&self.first).chain(&self.others)
    }

    /// Whether more than a part of the queue's bounds is taken, or so much that another read may
    /// find no room.
    #[inline]
    pub(super) fn is_part_full(&self) -> bool {
        let (fill, most) = (self.fill(), self.untold_max);
        fill.messages > most.messages || fill.bytes > most.bytes
    }

    /// Whether the queue may have no room for all of this beside what is in it.
    pub(super) fn lacks_room_for(&self, wanted: Traffic) -> bool {
        let (fill, capacity) = (self.fill(), self.capacity);
        fill.messages > 0
            && (fill.messages + wanted.messages > capacity.messages
                || fill.bytes + wanted.bytes > capacity.bytes)
    }

    /// What the bounds are held against.
    #[inline]
    pub(super) fn fill(&self) -> Traffic {
        if self.has_several_shards() {
            self.total.get()
        } else {
            self.first.fill.get()
        }
    }

    /// Takes room in the queue for what comes from a shard; see [`QueueFill::reserve`]. While other
    /// shards wait for room there is none: the shard that found it would leave them none.
    #[inline]
    pub(super) fn reserve(&self, shard: u8, wanted: Traffic, least: u64) -> u64 {
        if !self.has_several_shards() {
            self.first.fill.reserve(wanted, least, self.capacity)
        } else if self.is_waited_elsewhere(shard) {
            0
        } else {
            self.reserve_beside_others(shard, wanted, least)
        }
    }

    /// Does so for what was parked and has its turn.
    pub(super) fn reserve_in_turn(&self, shard: u8, wanted: Traffic) -> u64 {
        if self.has_several_shards() {
            self.reserve_beside_others(shard, wanted, 1)
        } else {
            self.first.fill.reserve(wanted, 1, self.capacity)
        }
    }

    #[inline(never)]
    fn reserve_beside_others(&self, shard: u8, wanted: Traffic, least: u64) -> u64 {
        let room = self.total.reserve(wanted, least, self.capacity);
        if room > 0 {
            let taken = Traffic::new(room, wanted.bytes);
            self.counters(shard).fill.raise(taken);
        }
        room
    }

    /// Takes room that there is not.
    pub(super) fn raise(&self, shard: u8, traffic: Traffic) {
        self.counters(shard).fill.raise(traffic);
        if self.has_several_shards() {
            self.total.raise(traffic);
        }
    }

    /// Gives room back.
    #[inline]
    pub(super) fn lower(&self, shard: u8, traffic: Traffic) {
        self.counters(shard).fill.lower(traffic);
        if self.has_several_shards() {
            self.total.lower(traffic);
        }
    }

    #[inline]
    pub(super) fn has_several_shards(&self) -> bool {
        !self.others.is_empty()
    }

    /// Messages dropped so far, whichever shard they came through.
    pub(super) fn dropped(&self) -> u64 {
        self.all_counters()
            .map(|counters| counters.dropped.get() + counters.moves().displaced)
            .sum()
    }

    /// Why nothing more will come, if that is so.
    pub(crate) fn ended(&self) -> Option<EndReason> {
        if self.overflowed.load(Ordering::Acquire) {
            return Some(EndReason::Overflow);
        }
        let stopped = self.stopped.load(Ordering::Acquire);
        stopped.then_some(EndReason::Stopped)
    }

    pub(super) fn set_ended(&self, why: EndReason) {
        let flag = match why {
            EndReason::Stopped => &self.stopped,
            EndReason::Overflow => &self.overflowed,
        };
        flag.store(true, Ordering::Release);
    }

    /// Deliveries of a shard wait for room. It has to look once more after this.
    pub(super) fn begin_wait(&self, shard: u8) {
        self.waited.fetch_or(1 << shard, Ordering::Relaxed);
        // Pairs with the fence in `note_room`.
        fence(Ordering::SeqCst);
    }

    pub(super) fn end_wait(&self, shard: u8) {
        if self.waited.load(Ordering::Relaxed) & 1 << shard != 0 {
            self.waited.fetch_and(!(1 << shard), Ordering::Relaxed);
        }
    }

    /// Whether deliveries of other shards wait for room.
    #[inline]
    pub(super) fn is_waited_elsewhere(&self, shard: u8) -> bool {
        self.waited.load(Ordering::Relaxed) & !(1 << shard) != 0
    }

    /// Whether a shard may deliver what it has parked: those that wait take turns, so that none is
    /// always too late. No turn is waited for when the queue has run empty.
    pub(super) fn may_unpark(&self, shard: u8) -> bool {
        !self.has_several_shards()
            || !self.is_waited_elsewhere(shard)
            || self.turn.load(Ordering::Relaxed) == u64::from(shard)
            || self.fill().messages == 0
    }

    /// A shard had its turn.
    pub(super) fn end_turn(&self, shard: u8) {
        if self.has_several_shards() {
            self.give_turn(shard);
        }
    }

    /// Gives the turn to the next shard that waits, if one does, and says which.
    fn give_turn(&self, after: u8) -> Option<u8> {
        let waited = self.waited.load(Ordering::Relaxed);
        // Those behind it come first, then those from the beginning.
        let behind = waited & !(u64::MAX >> (63 - after));
        let next = if behind != 0 { behind } else { waited };
        let next = u8::try_from(next.trailing_zeros()).ok();
        let next = next.filter(|_| waited != 0)?;
        self.turn.store(u64::from(next), Ordering::Relaxed);
        Some(next)
    }

    /// Whether the queue is empty enough for those that wait to be poked.
    pub(super) fn is_half_free(&self) -> bool {
        let (fill, capacity) = (self.fill(), self.capacity);
        fill.messages <= capacity.messages / 2 && fill.bytes <= capacity.bytes / 2
    }

    /// The queue got emptier: pokes the dispatchers whose deliveries wait if half of it is free.
    #[inline]
    pub(crate) fn note_room(&self) {
        // Pairs with the fence in the fan-out: either it sees the room, or we see that it waits.
        fence(Ordering::SeqCst);
        let waited = self.waited.load(Ordering::Relaxed);
        if waited != 0 && self.is_half_free() {
            self.poke_waiting(waited);
        }
    }

    /// An event left a queue. Where messages wait behind events, the dispatchers are poked once
    /// half of the room for those is free.
    #[inline]
    pub(super) fn note_event_room(&self) {
        if let Some(messages) = &self.messages {
            if self.fill().messages <= self.capacity.messages / 2 {
                messages.note_room();
            }
        }
    }

    /// Pokes the dispatcher whose turn it is; all that wait, when the queue is empty.
    fn poke_waiting(&self, waited: u64) {
        let turn = u8::try_from(self.turn.load(Ordering::Relaxed)).unwrap_or(0);
        let chosen = if self.fill().messages == 0 {
            waited
        } else if waited >> turn & 1 != 0 {
            1 << turn
        } else {
            self.give_turn(turn).map_or(0, |next| 1 << next)
        };
        let pokes = self.pokes.iter().enumerate();
        for (_, poke) in pokes.filter(|(shard, _)| chosen >> shard & 1 != 0) {
            poke.poke();
        }
    }

    pub(crate) fn row(&self) -> SubscriberRow {
        let mut sum = self.empty_row();
        for counters in self.all_counters() {
            self.add_counters(&mut sum, counters, counters.moves());
        }
        sum
    }

    /// The row of a shard at one moment, if that can be had; to be asked for by its dispatcher,
    /// whose own counters then stand still.
    pub(super) fn steady_row(&self, shard: u8) -> Option<SubscriberRow> {
        let counters = self.counters(shard);
        let mut row = self.empty_row();
        self.add_counters(&mut row, counters, counters.steady()?);
        Some(row)
    }

    pub(super) fn row_of(&self, counters: &ShardCounters) -> SubscriberRow {
        let mut row = self.empty_row();
        self.add_counters(&mut row, counters, counters.moves());
        row
    }

    fn empty_row(&self) -> SubscriberRow {
        let overflowed = self.overflowed.load(Ordering::Relaxed);
        SubscriberRow::empty(self.id, self.name.clone(), overflowed)
    }

    fn add_counters(&self, row: &mut SubscriberRow, counters: &ShardCounters, moves: Moves) {
        row.matched += counters.matched.get();
        row.taken += moves.taken;
        row.dropped += counters.dropped.get() + moves.displaced;
        row.dropped_for_bytes += counters.dropped_for_bytes.get();
        row.discarded += moves.discarded;
        row.queued += moves.fill.messages;
        row.queued_bytes += moves.fill.bytes;
        row.parked += counters.parked.load(Ordering::Relaxed);
        row.pauses += counters.pauses.get();
        row.stalls += counters.stalls.get();
    }

    pub(crate) fn event_row(&self) -> EventSubscriberRow {
        EventSubscriberRow::of(self.row())
    }
}

/// What may be in a queue of this capacity while its receiver sleeps: a part, and so much that one
/// more read finds room.
fn untold_max(capacity: Traffic) -> Traffic {
    let bytes = capacity.bytes.saturating_sub(BLOCK_SIZE as u64);
    Traffic::new(
        capacity.messages / PENDING_WAKE_PART,
        bytes.min(capacity.bytes / PENDING_WAKE_PART),
    )
}
