//! Who subscribes: the list that every thread may change and the fan-out reads.
//!
//! The fan-out keeps a table of its own and makes it anew when the list's version has changed,
//! which it looks at once per block. So subscribing takes effect from the next block on, and a
//! subscriber sees a contiguous run of what is dispatched.

use std::sync::{Arc, PoisonError, TryLockError};

use super::{
    EndReason, EventDelivery, EventOptions, OverflowPolicy, Poke, Requests, SubscribeOptions,
    account::Account,
    fill::BYTES_MAX,
    outlet::{Outlet, Subscriber},
};
use crate::{
    balance::SubscribersCut,
    error::SubscribeError,
    id::{MessageType, SubscriberId},
    ledger::{DepartedRow, EventSubscriberRow, SubscriberRow, Traffic},
    limits::SUBSCRIBERS_MAX,
    slots::never_waits,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering, fence},
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
    /// Adds the rows of those that left to the sum once no thread can count in them any more.
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
    /// for by its fan-out, between two blocks. `None` if a subscriber moved messages whenever this
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

#[cfg(test)]
mod tests {
    use std::{thread::Builder, time::Duration};

    use super::*;

    /// A thread that panics while it holds the list has done what it began, or nothing.
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
