//! Who subscribes: the list that every thread may change and the fan-out reads.
//!
//! The fan-out keeps a table of its own and makes it anew when the list's version has changed,
//! which it looks at once per block. So subscribing takes effect from the next block on, and a
//! subscriber sees a contiguous run of what is dispatched.

use std::{
    fmt,
    sync::{Arc, PoisonError, TryLockError},
};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::{
    Delivery, Ended, EventDelivery, EventOptions, Overflow, Poke, Requests, SubscribeOptions, Types,
};
use crate::{
    balance::SubscribersCut,
    block::Message,
    error::SubscribeError,
    id::{MessageType, SubscriberId},
    ledger::{Counter, DepartedRow, EventSubscriberRow, Fill, SubscriberRow, Traffic},
    limits::SUBSCRIBERS_MAX,
    slots::never_waits,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering, fence},
    },
};

/// All subscribers of a service.
#[derive(Debug)]
pub(crate) struct Registry {
    version: AtomicU64,
    list: Mutex<List>,
    /// Those who wait for answers, beside those who subscribe.
    pub(crate) requests: Arc<Requests>,
    pub(crate) poke: Arc<Poke>,
}

#[derive(Debug, Default)]
struct List {
    next_id: u64,
    subscribers: Vec<Subscriber>,
    /// Those that left and whose deliveries may still be counted somewhere.
    leaving: Vec<Arc<Account>>,
    departed: DepartedRow,
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
                departed.add(&account.row());
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
}

/// Where the messages of a subscriber go.
#[derive(Clone)]
pub(crate) enum Outlet {
    /// Its [`Subscription`](super::Subscription); the other end too if the oldest may be dropped.
    Deliveries(Sender<Delivery>, Option<Receiver<Delivery>>),
    /// A channel of its own, one message at a time.
    Messages(Sender<Message>),
    /// Its [`EventSubscription`](super::EventSubscription).
    Events(Sender<EventDelivery>),
    /// Nowhere: the service has stopped.
    Closed,
}

impl Outlet {
    /// A queue as the options ask for, and the subscriber's end of it.
    pub(crate) fn queue(options: &SubscribeOptions) -> (Self, Receiver<Delivery>) {
        let (sender, receiver) = bounded(options.messages);
        let gives_up = options.overflow == Overflow::DropOldest;
        let oldest = gives_up.then(|| receiver.clone());
        (Self::Deliveries(sender, oldest), receiver)
    }
}

/// How often a row is read until nobody moves messages meanwhile.
const STEADY_TRIES: usize = 100;

/// What left a queue, and what is in it.
#[derive(Clone, Copy, Debug)]
struct Moves {
    taken: u64,
    discarded: u64,
    fill: Traffic,
}

/// What both sides of a subscriber's queue know and count.
#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) id: SubscriberId,
    pub(crate) name: String,
    pub(crate) types: Types,
    /// It gets events, and no messages.
    pub(crate) is_events: bool,
    pub(crate) overflow: Overflow,
    pub(crate) capacity: Traffic,
    pub(crate) fill: Fill,
    /// The dispatcher's.
    pub(crate) matched: Counter,
    pub(crate) dropped: Counter,
    /// Of what was dropped, that for which the bound in bytes had no room.
    pub(crate) dropped_for_bytes: Counter,
    pub(crate) parked: AtomicU64,
    /// Counted by whoever takes or discards: first that it begins, then the queue's fill is
    /// lowered, then what became of the messages. While the first is the sum of the others, nobody
    /// is in between.
    begun: AtomicU64,
    taken: AtomicU64,
    discarded: AtomicU64,
    /// The number of the message that the subscriber would take next if none was dropped.
    pub(crate) expected: AtomicU64,
    /// True while deliveries are parked: whoever makes room pokes the dispatcher.
    pub(crate) waited: AtomicBool,
    /// Why nothing more will come: set before the queue is disconnected.
    stopped: AtomicBool,
    overflowed: AtomicBool,
    pub(crate) poke: Arc<Poke>,
}

impl Account {
    /// Why nothing more will come, if that is so.
    pub(crate) fn ended(&self) -> Option<Ended> {
        if self.overflowed.load(Ordering::Acquire) {
            return Some(Ended::Overflow);
        }
        let stopped = self.stopped.load(Ordering::Acquire);
        stopped.then_some(Ended::Stopped)
    }

    fn set_ended(&self, why: Ended) {
        let flag = match why {
            Ended::Stopped => &self.stopped,
            Ended::Overflow => &self.overflowed,
        };
        flag.store(true, Ordering::Release);
    }

    /// The queue got emptier: pokes the dispatcher if deliveries wait and half of it is free.
    pub(crate) fn note_room(&self) {
        // Pairs with the fence in the fan-out: either it sees the room, or we see that it waits.
        fence(Ordering::SeqCst);
        if self.waited.load(Ordering::Relaxed) {
            let (fill, capacity) = (self.fill.get(), self.capacity);
            if fill.messages <= capacity.messages / 2 && fill.bytes <= capacity.bytes / 2 {
                self.poke.poke();
            }
        }
    }

    /// Messages are about to leave the queue, or were never in it.
    pub(crate) fn begin_move(&self, count: u64) {
        self.begun.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn end_taken(&self, count: u64) {
        self.taken.fetch_add(count, Ordering::Release);
    }

    pub(crate) fn end_discarded(&self, count: u64) {
        self.discarded.fetch_add(count, Ordering::Release);
    }

    /// Messages that came to their end without being in the queue.
    pub(crate) fn discard(&self, count: u64) {
        self.begin_move(count);
        self.end_discarded(count);
    }

    /// What was taken and discarded and is in the queue at one moment, unless somebody was in the
    /// middle of a move whenever this looked.
    ///
    /// What the first two say has lowered the fill before; what has lowered the fill has begun
    /// before. So if all that has begun is in the first two, the fill shows these moves and no
    /// other.
    fn steady(&self) -> Option<Moves> {
        (0..STEADY_TRIES).find_map(|_| {
            let taken = self.taken.load(Ordering::Acquire);
            let discarded = self.discarded.load(Ordering::Acquire);
            let fill = self.fill.get();
            fence(Ordering::Acquire);
            let begun = self.begun.load(Ordering::Relaxed);
            std::hint::spin_loop();
            let moves = Moves {
                taken,
                discarded,
                fill,
            };
            (begun == taken + discarded).then_some(moves)
        })
    }

    /// The moves as they can be read, however little they fit together.
    fn moves(&self) -> Moves {
        self.steady().unwrap_or_else(|| Moves {
            taken: self.taken.load(Ordering::Relaxed),
            discarded: self.discarded.load(Ordering::Relaxed),
            fill: self.fill.get(),
        })
    }

    pub(crate) fn row(&self) -> SubscriberRow {
        self.row_of(self.moves())
    }

    /// The row at one moment, if that can be had; to be asked for by the dispatcher, whose own
    /// counters then stand still.
    fn steady_row(&self) -> Option<SubscriberRow> {
        self.steady().map(|moves| self.row_of(moves))
    }

    fn row_of(&self, moves: Moves) -> SubscriberRow {
        let Moves {
            taken,
            discarded,
            fill,
        } = moves;
        SubscriberRow {
            id: self.id,
            name: self.name.clone(),
            matched: self.matched.get(),
            taken,
            dropped: self.dropped.get(),
            dropped_for_bytes: self.dropped_for_bytes.get(),
            discarded,
            queued: fill.messages,
            queued_bytes: fill.bytes,
            parked: self.parked.load(Ordering::Relaxed),
            overflowed: self.overflowed.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn event_row(&self) -> EventSubscriberRow {
        self.event_row_of(self.moves())
    }

    fn event_row_of(&self, moves: Moves) -> EventSubscriberRow {
        EventSubscriberRow {
            id: self.id,
            name: self.name.clone(),
            matched: self.matched.get(),
            taken: moves.taken,
            dropped: self.dropped.get(),
            discarded: moves.discarded,
            queued: moves.fill.messages,
        }
    }
}

impl Registry {
    pub(crate) fn new(requests_max: usize) -> Self {
        Self {
            version: AtomicU64::new(0),
            list: Mutex::default(),
            requests: Arc::new(Requests::new(requests_max)),
            poke: Arc::default(),
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
        if own && matches!(options.overflow, Overflow::Pause | Overflow::DropOldest) {
            return Err(SubscribeError::NeedsOwnQueue);
        }
        self.insert(options, false, outlet)
    }

    /// Adds a subscriber of events. Events dispatched from now on reach it.
    pub(crate) fn add_events(
        &self,
        options: EventOptions,
        sender: Sender<EventDelivery>,
    ) -> Result<Arc<Account>, SubscribeError> {
        options.validate()?;
        let options = SubscribeOptions {
            name: options.name,
            // No message is of this type.
            ..SubscribeOptions::new(MessageType::HELLO).messages(options.capacity)
        };
        self.insert(options, true, Outlet::Events(sender))
    }

    fn insert(
        &self,
        options: SubscribeOptions,
        is_events: bool,
        outlet: Outlet,
    ) -> Result<Arc<Account>, SubscribeError> {
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
        let account = Arc::new(Account {
            id,
            name: options.name.unwrap_or_else(|| format!("subscriber-{id}")),
            types: options.types,
            is_events,
            overflow: options.overflow,
            capacity: Traffic::new(options.messages as u64, options.bytes as u64),
            fill: Fill::default(),
            matched: Counter::default(),
            dropped: Counter::default(),
            dropped_for_bytes: Counter::default(),
            parked: AtomicU64::new(0),
            begun: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            discarded: AtomicU64::new(0),
            expected: AtomicU64::new(0),
            waited: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            overflowed: AtomicBool::new(false),
            poke: Arc::clone(&self.poke),
        });
        list.subscribers.push(Subscriber {
            account: Arc::clone(&account),
            outlet,
        });
        self.version.fetch_add(1, Ordering::Release);
        Ok(account)
    }

    /// Removes a subscriber, and makes the fan-out let go of what it holds for it. Once the fan-out
    /// has ended, its row stays, for the report of the stop.
    pub(crate) fn remove(&self, id: SubscriberId) {
        self.remove_from(self.lock(), id, None);
    }

    /// Does that for the fan-out, which has found that the subscriber is gone, or is to go. False
    /// on a thread that would have to wait for the list; to be tried again.
    pub(crate) fn try_remove(&self, id: SubscriberId, why: Option<Ended>) -> bool {
        let Some(list) = self.lock_or_pass() else {
            return false;
        };
        self.remove_from(list, id, why);
        true
    }

    fn remove_from(&self, mut list: MutexGuard<'_, List>, id: SubscriberId, why: Option<Ended>) {
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
        self.poke.poke();
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
                one.account.set_ended(Ended::Stopped);
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
        let mut sum = list.departed;
        for account in &list.leaving {
            sum.add(&account.row());
        }
        sum
    }

    /// The rows of all subscribers at one moment; to be asked for by the fan-out, between two
    /// blocks. `None` if somebody moved messages whenever this looked, or the list is not to be
    /// had.
    pub(crate) fn cut(&self) -> Option<SubscribersCut> {
        let mut list = self.lock_or_pass()?;
        list.settle();
        let mut cut = SubscribersCut {
            departed: list.departed,
            ..SubscribersCut::default()
        };
        for account in &list.leaving {
            cut.departed.add(&account.steady_row()?);
        }
        for one in &list.subscribers {
            let account = &one.account;
            if account.is_events {
                let moves = account.steady()?;
                cut.events.push(account.event_row_of(moves));
            } else {
                cut.rows.push(account.steady_row()?);
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
        let mut accounts: Vec<Arc<Account>> = self
            .lock()
            .subscribers
            .iter()
            .filter(|one| one.account.is_events == is_events)
            .map(|one| Arc::clone(&one.account))
            .collect();
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
        let (sender, found) = bounded(1);
        let look = Builder::new().spawn(move || {
            let _ = sender.send(registry.subscribers().map(|(_, list)| list.len()));
        });
        let found = found.recv_timeout(Duration::from_secs(10));
        assert_eq!(found, Ok(Some(1)), "it waited for itself");
        look.unwrap().join().unwrap();
        drop(receiver);
    }
}
