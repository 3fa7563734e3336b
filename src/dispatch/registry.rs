//! Who subscribes: the list that every thread may change and the fan-out reads.
//!
//! The fan-out keeps a table of its own and makes it anew when the list's version has changed,
//! which it looks at once per block. So subscribing takes effect from the next block on, and a
//! subscriber sees a contiguous run of what is dispatched.

use std::{
    fmt,
    sync::{Arc, PoisonError, TryLockError},
};

use super::{
    Delivery, EndReason, EventDelivery, EventOptions, OverflowPolicy, Poke, Requests,
    SubscribeOptions, TypeFilter,
    channel::{Receiver, Sender, queue},
    fill::{BYTES_MAX, QueueFill},
    mixed::Ahead,
    shard_counters::{Moves, ShardCounters},
};
use crate::{
    balance::SubscribersCut,
    block::Message,
    error::SubscribeError,
    id::{MessageType, SubscriberId},
    ledger::{DepartedRow, EventSubscriberRow, SubscriberRow, Traffic},
    limits::{BLOCK_SIZE, PENDING_WAKE_PART, SUBSCRIBERS_MAX},
    slots::never_waits,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering, fence},
        channel,
    },
};

/// All subscribers of a service.
#[derive(Debug)]
pub(crate) struct Registry {
    version: AtomicU64,
    list: Mutex<List>,
    /// Those who wait for answers, beside those who subscribe.
    pub(crate) requests: Arc<Requests>,
    /// By shard.
    pokes: Arc<[Arc<Poke>]>,
    /// A bit for each shard whose fan-out has not ended.
    open: AtomicU64,
}

#[derive(Debug, Default)]
struct List {
    next_id: u64,
    subscribers: Vec<Subscriber>,
    /// Those that left and whose deliveries may still be counted somewhere.
    leaving: Vec<Arc<Account>>,
    /// By shard.
    departed: Vec<DepartedRow>,
    /// The fan-out has ended: nothing will ever be delivered again.
    closed: bool,
}

impl List {
    /// Adds the rows of those that left to the sum once nobody can count in them any more.
    fn settle(&mut self) {
        let departed = &mut self.departed;
        self.leaving.retain(|account| {
            let settled = Arc::strong_count(account) == 1;
            if settled {
                // Pairs with the release of those who let go of it: what they counted is seen.
                fence(Ordering::Acquire);
                for (sum, counters) in departed.iter_mut().zip(account.all_counters()) {
                    sum.add(&account.row_of(counters));
                }
            }
            !settled
        });
    }
}

/// One subscriber, as the fan-out sees it.
#[derive(Clone, Debug)]
pub(crate) struct Subscriber {
    pub(crate) account: Arc<Account>,
    pub(crate) outlet: Outlet,
    /// Counts the events that its queue holds beside its messages.
    pub(crate) events: Option<Arc<Account>>,
    /// The set of timers that expire into its queue.
    pub(crate) timers: Option<u32>,
}

impl Subscriber {
    /// Whether its queue holds anything besides messages.
    pub(super) fn is_mixed(&self) -> bool {
        self.events.is_some() || self.timers.is_some()
    }
}

/// Where the messages of a subscriber go.
#[derive(Clone)]
pub(crate) enum Outlet {
    /// Its [`Subscription`](super::Subscription); the other end too if the oldest may be dropped.
    Deliveries(Sender<Delivery>, Option<Oldest>),
    /// A channel of its own, one message at a time.
    Messages(crossbeam_channel::Sender<Message>),
    /// Its [`EventSubscription`](super::EventSubscription).
    Events(crossbeam_channel::Sender<EventDelivery>),
    /// Nowhere: the service has stopped.
    Closed,
}

/// The end of a queue at which the oldest are.
#[derive(Clone, Debug)]
pub(crate) struct Oldest {
    pub(super) items: channel::Receiver<Delivery>,
    /// Where events go that stand before batches which give way.
    pub(super) ahead: Option<Arc<Ahead>>,
}

impl Outlet {
    /// A queue as the options ask for, and the subscriber's end of it.
    pub(crate) fn queue(options: &SubscribeOptions) -> (Self, Receiver<Delivery>) {
        let (sender, receiver) = queue();
        let gives_up = options.overflow == OverflowPolicy::DropOldest;
        let oldest = gives_up.then(|| Oldest {
            items: receiver.items().clone(),
            ahead: options.is_mixed().then(Arc::default),
        });
        (Self::Deliveries(sender, oldest), receiver)
    }

    /// What is ahead of the queue, if anything may be.
    pub(super) fn ahead(&self) -> Option<Arc<Ahead>> {
        match self {
            Self::Deliveries(_, oldest) => oldest.as_ref()?.ahead.clone(),
            Self::Messages(_) | Self::Events(_) | Self::Closed => None,
        }
    }
}

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
    untold_max: Traffic,
    /// That of the first shard. If it is the only one, its fill is the queue's.
    first: ShardCounters,
    /// Those of the other shards.
    others: Box<[ShardCounters]>,
    /// The queue's fill, where several shards raise it.
    total: QueueFill,
    /// A bit for each shard whose deliveries are parked: whoever makes room pokes its dispatcher.
    waited: AtomicU64,
    /// Of several that wait, the one that may take what room there is.
    turn: AtomicU64,
    /// Why nothing more will come: set before the queue is disconnected.
    stopped: AtomicBool,
    overflowed: AtomicBool,
    pokes: Arc<[Arc<Poke>]>,
    /// Of an account of events in a queue with messages: that of the messages, for which the
    /// dispatchers wait.
    messages: Option<Arc<Self>>,
}

impl Account {
    /// An account of events, without a name.
    fn empty(id: SubscriberId, capacity: Traffic, pokes: &Arc<[Arc<Poke>]>) -> Self {
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

    fn all_counters(&self) -> impl Iterator<Item = &ShardCounters> {
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

    fn set_ended(&self, why: EndReason) {
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
    /// always too late. Nobody's turn is waited for when the queue has run empty.
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
    fn steady_row(&self, shard: u8) -> Option<SubscriberRow> {
        let counters = self.counters(shard);
        let mut row = self.empty_row();
        self.add_counters(&mut row, counters, counters.steady()?);
        Some(row)
    }

    fn row_of(&self, counters: &ShardCounters) -> SubscriberRow {
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

impl Registry {
    /// For one fan-out.
    #[cfg(any(test, feature = "workbench"))]
    pub(crate) fn new(requests_max: usize) -> Self {
        Self::for_shards(requests_max, 1)
    }

    /// For so many fan-outs.
    pub(crate) fn for_shards(requests_max: usize, shards: u8) -> Self {
        let departed = vec![DepartedRow::default(); usize::from(shards)];
        Self {
            version: AtomicU64::new(0),
            list: Mutex::new(List {
                departed,
                ..List::default()
            }),
            requests: Arc::new(Requests::for_shards(requests_max, shards)),
            pokes: (0..shards).map(|_| Arc::default()).collect(),
            open: AtomicU64::new(u64::MAX >> (64 - u32::from(shards))),
        }
    }

    /// What makes a shard's dispatcher look around.
    pub(crate) fn poke(&self, shard: u8) -> &Arc<Poke> {
        &self.pokes[usize::from(shard)]
    }

    /// A shard has no fan-out any more. With the last one the registry is closed.
    pub(crate) fn end_fan_out(&self, shard: u8) {
        let bit = 1 << shard;
        if self.open.fetch_and(!bit, Ordering::AcqRel) == bit {
            self.close();
        }
    }

    /// Adds a subscriber. Blocks dispatched from now on reach it.
    pub(crate) fn add(
        &self,
        options: SubscribeOptions,
        outlet: Outlet,
    ) -> Result<Arc<Account>, SubscribeError> {
        options.validate()?;
        let own = matches!(outlet, Outlet::Messages(_));
        let needs_queue = matches!(
            options.overflow,
            OverflowPolicy::Pause | OverflowPolicy::DropOldest
        );
        if own && (needs_queue || options.is_mixed()) {
            return Err(SubscribeError::NeedsOwnQueue);
        }
        Ok(self.insert(options, false, outlet, None)?.account)
    }

    /// The same for a queue that holds events or timers of a set too.
    pub(super) fn add_mixed(
        &self,
        options: SubscribeOptions,
        outlet: Outlet,
        timers: Option<u32>,
    ) -> Result<Subscriber, SubscribeError> {
        options.validate()?;
        self.insert(options, false, outlet, timers)
    }

    /// Adds a subscriber of events. Events dispatched from now on reach it.
    pub(crate) fn add_events(
        &self,
        options: EventOptions,
        sender: crossbeam_channel::Sender<EventDelivery>,
    ) -> Result<Arc<Account>, SubscribeError> {
        options.validate()?;
        let options = SubscribeOptions {
            name: options.name,
            // No message is of this type.
            ..SubscribeOptions::new(MessageType::HELLO).messages(options.capacity)
        };
        Ok(self
            .insert(options, true, Outlet::Events(sender), None)?
            .account)
    }

    fn insert(
        &self,
        options: SubscribeOptions,
        is_events: bool,
        outlet: Outlet,
        timers: Option<u32>,
    ) -> Result<Subscriber, SubscribeError> {
        let mut list = self.lock();
        if list.closed {
            return Err(SubscribeError::Stopped);
        }
        if list.subscribers.len() >= SUBSCRIBERS_MAX {
            return Err(SubscribeError::TooMany {
                limit: SUBSCRIBERS_MAX,
            });
        }
        let id = SubscriberId(list.next_id);
        list.next_id += 1;
        let capacity = Traffic::new(
            options.messages as u64,
            (options.bytes as u64).min(BYTES_MAX),
        );
        let account = Arc::new(Account {
            id,
            name: options.name.unwrap_or_else(|| format!("subscriber-{id}")),
            types: options.types,
            is_events,
            overflow: options.overflow,
            ..Account::empty(id, capacity, &self.pokes)
        });
        let events = options.events.then(|| {
            let capacity = Traffic::new(options.event_capacity as u64, BYTES_MAX);
            Arc::new(Account {
                name: account.name.clone(),
                messages: Some(Arc::clone(&account)),
                ..Account::empty(id, capacity, &self.pokes)
            })
        });
        let subscriber = Subscriber {
            account,
            outlet,
            events,
            timers,
        };
        list.subscribers.push(subscriber.clone());
        self.version.fetch_add(1, Ordering::Release);
        Ok(subscriber)
    }

    /// Removes a subscriber, and makes the fan-out let go of what it holds for it. Once the fan-out
    /// has ended, its row stays, for the report of the stop.
    pub(crate) fn remove(&self, id: SubscriberId) {
        self.remove_from(self.lock(), id, None);
    }

    /// Does that for the fan-out, which has found that the subscriber is gone, or is to go. False
    /// on a thread that would have to wait for the list; to be tried again.
    pub(crate) fn try_remove(&self, id: SubscriberId, why: Option<EndReason>) -> bool {
        let Some(list) = self.lock_or_pass() else {
            return false;
        };
        self.remove_from(list, id, why);
        true
    }

    fn remove_from(
        &self,
        mut list: MutexGuard<'_, List>,
        id: SubscriberId,
        why: Option<EndReason>,
    ) {
        if list.closed {
            return;
        }
        let removed = list.subscribers.iter().position(|one| one.account.id == id);
        let removed = removed.map(|position| list.subscribers.swap_remove(position));
        if let Some(removed) = removed.as_ref().filter(|one| !one.account.is_events) {
            if let Some(why) = why {
                removed.account.set_ended(why);
            }
            list.settle();
            list.leaving.push(Arc::clone(&removed.account));
        }
        self.version.fetch_add(1, Ordering::Release);
        drop(list);
        // Its sender may be the last; what that discards is not to be discarded under the lock.
        drop(removed);
        self.pokes.iter().for_each(|poke| poke.poke());
    }

    /// The fan-out has ended: subscribers find their queues disconnected once they are empty, and
    /// requests are resolved without an answer.
    pub(crate) fn close(&self) {
        let mut list = self.lock();
        list.closed = true;
        let outlets: Vec<Outlet> = list
            .subscribers
            .iter_mut()
            .map(|one| {
                one.account.set_ended(EndReason::Stopped);
                std::mem::replace(&mut one.outlet, Outlet::Closed)
            })
            .collect();
        self.version.fetch_add(1, Ordering::Release);
        drop(list);
        drop(outlets);
        self.requests.end();
    }

    /// Changes when the list does.
    #[inline]
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The list and its version. `None` on a thread that must not wait for the lock and would have
    /// to; to be asked again for the next block.
    pub(crate) fn subscribers(&self) -> Option<(u64, Vec<Subscriber>)> {
        let list = self.lock_or_pass()?;
        Some((self.version(), list.subscribers.clone()))
    }

    /// What became of the messages of those that left.
    pub(crate) fn departed(&self) -> DepartedRow {
        let mut list = self.lock();
        list.settle();
        let mut sum = DepartedRow::default();
        for row in &list.departed {
            sum.merge(row);
        }
        for account in &list.leaving {
            sum.add(&account.row());
        }
        sum
    }

    /// The rows of all subscribers at one moment, as far as they came through a shard; to be asked
    /// for by its fan-out, between two blocks. `None` if somebody moved messages whenever this
    /// looked, or the list is not to be had.
    pub(crate) fn cut(&self, shard: u8) -> Option<SubscribersCut> {
        let mut list = self.lock_or_pass()?;
        list.settle();
        let mut cut = SubscribersCut {
            departed: list.departed[usize::from(shard)],
            ..SubscribersCut::default()
        };
        for account in &list.leaving {
            cut.departed.add(&account.steady_row(shard)?);
        }
        for one in &list.subscribers {
            let row = one.account.steady_row(shard)?;
            if one.account.is_events {
                cut.events.push(EventSubscriberRow::of(row));
            } else {
                cut.rows.push(row);
            }
            if let Some(events) = &one.events {
                let row = events.steady_row(shard)?;
                cut.events.push(EventSubscriberRow::of(row));
            }
        }
        Some(cut)
    }

    pub(crate) fn rows(&self) -> Vec<SubscriberRow> {
        let accounts = self.accounts(false);
        accounts.iter().map(|account| account.row()).collect()
    }

    pub(crate) fn event_rows(&self) -> Vec<EventSubscriberRow> {
        let accounts = self.accounts(true);
        accounts.iter().map(|account| account.event_row()).collect()
    }

    /// Those of messages, or those of events, in the order of their ids.
    fn accounts(&self, is_events: bool) -> Vec<Arc<Account>> {
        let list = self.lock();
        let each = list.subscribers.iter();
        let each = each.flat_map(|one| [Some(&one.account), one.events.as_ref()]);
        let mut accounts: Vec<Arc<Account>> = each
            .flatten()
            .filter(|account| account.is_events == is_events)
            .map(Arc::clone)
            .collect();
        drop(list);
        accounts.sort_by_key(|account| account.id);
        accounts
    }

    /// The lock; `None` on a thread that must not wait for it and would have to.
    fn lock_or_pass(&self) -> Option<MutexGuard<'_, List>> {
        match self.list.try_lock() {
            Ok(list) => Some(list),
            // Locked already: the error holds the lock.
            Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
            Err(TryLockError::WouldBlock) if never_waits() => None,
            Err(TryLockError::WouldBlock) => Some(self.lock()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
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

impl fmt::Debug for Outlet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deliveries(..) => "Deliveries",
            Self::Messages(_) => "Messages",
            Self::Events(_) => "Events",
            Self::Closed => "Closed",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::{thread::Builder, time::Duration};

    use super::*;

    /// Whoever panics while it holds the list has done what it began, or nothing.
    #[test]
    fn a_list_whose_holder_panicked_is_to_be_had() {
        let registry = Arc::new(Registry::new(1));
        let options = SubscribeOptions::new(MessageType(1));
        let (outlet, receiver) = Outlet::queue(&options);
        registry.add(options, outlet).unwrap();
        let held = Arc::clone(&registry);
        let holder = Builder::new().spawn(move || {
            let _list = held.lock();
            panic!("as the test wants it");
        });
        assert!(holder.unwrap().join().is_err());
        let (sender, found) = crossbeam_channel::bounded(1);
        let look = Builder::new().spawn(move || {
            let _ = sender.send(registry.subscribers().map(|(_, list)| list.len()));
        });
        let found = found.recv_timeout(Duration::from_secs(10));
        assert_eq!(found, Ok(Some(1)), "it waited for itself");
        look.unwrap().join().unwrap();
        drop(receiver);
    }
}
