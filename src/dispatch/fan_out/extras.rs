//! Events and timers on their way to subscribers: to those of events alone, and into the queues
//! that hold them beside messages.

use super::FanOut;
use crate::{
    dispatch::{
        OverflowPolicy,
        account::Account,
        entry::{Entry, Parked, Standing},
        events::{self, ONE},
        mixed::What,
    },
    error::CloseReason,
    event::Event,
    id::PeerId,
    limits::EVENTS_MIXED_MAX,
    log_limiter::Subject,
    timers::TimerDelivery,
};

impl FanOut {
    /// Offers an event to all that subscribe to them, and gives back its place in the
    /// dispatch queue.
    pub(crate) fn dispatch_event(&mut self, event: Box<Event>) {
        self.refresh();
        let mut event = Some(event);
        let (alone, count) = (self.event_subscribers.len(), self.mixed.len());
        for place in 0..alone + count {
            // The last one needs no copy.
            let own = if place + 1 == alone + count {
                event.take()
            } else {
                event.clone()
            };
            let Some(own) = own else { break };
            match place.checked_sub(alone) {
                None => {
                    let subscriber = &self.event_subscribers[place];
                    if !events::offer(subscriber, own, self.shard) {
                        self.note_event_dropped(None, place);
                    }
                }
                Some(place) => self.offer_event(usize::from(self.mixed[place]), own),
            }
        }
        if self.any_ended {
            self.remove_ended();
        }
        self.bounds.lower_event(&self.slots.doorbell);
    }

    /// Puts a timer that has expired into the queue that it belongs to, behind everything that came
    /// before it, and gives back its place in the dispatch queue.
    pub(crate) fn dispatch_timer(&mut self, timer: TimerDelivery) {
        self.refresh();
        let set = Some(timer.set_id());
        let mut positions = self.mixed.iter().map(|position| usize::from(*position));
        let found = positions.find(|place| self.entries[*place].subscriber.timers == set);
        // Without one the subscriber has left.
        if let Some(position) = found {
            let entry = &mut self.entries[position];
            let behind = entry.number;
            if entry.parked.is_empty() {
                entry.deliver_extra(What::Timer(timer), behind);
            } else {
                self.park_extra(position, Parked::Timer { timer, behind });
            }
        }
        self.bounds.lower_event(&self.slots.doorbell);
    }

    /// Offers an event to a subscriber of messages and events. Of a peer it gets `Connected`, its
    /// messages and `Closed`, or nothing.
    fn offer_event(&mut self, position: usize, event: Box<Event>) {
        let entry = &mut self.entries[position];
        let Some(account) = entry.subscriber.events.clone() else {
            return;
        };
        let counters = account.counters(self.shard);
        let number = counters.matched.get();
        counters.matched.add(1);
        let standing = entry.standing;
        match standing {
            Standing::Open => {}
            Standing::Hides if !entry.hides(&event) => {}
            Standing::Gone => {
                counters.discard(1);
                return;
            }
            Standing::Hides | Standing::Overflow => {
                counters.dropped.add(1);
                return;
            }
        }
        let behind = entry.number;
        let has_room = entry.parked.is_empty() && account.reserve(self.shard, ONE, 1) > 0;
        if has_room || enters_anyway(&account, entry, &event, self.shard) {
            entry.deliver_event(self.shard, event, number, behind);
            return;
        }
        let overflow = entry.subscriber.account.overflow;
        if overflow == OverflowPolicy::Pause {
            counters.park(1);
            let parked = Parked::Event {
                event,
                number,
                behind,
            };
            self.park_extra(position, parked);
            return;
        }
        counters.dropped.add(1);
        let peer = event.peer();
        if let (Event::Connected { .. }, Some(peer)) = (&*event, peer) {
            entry.hidden.insert(peer);
            entry.standing = Standing::Hides;
        }
        self.note_event_dropped(Some(position), position);
        self.follow_up_event(position, overflow, peer);
    }

    /// Does what a subscriber asked for besides the drop of an event.
    fn follow_up_event(&mut self, position: usize, overflow: OverflowPolicy, peer: Option<PeerId>) {
        match (overflow, peer) {
            (OverflowPolicy::Close, Some(peer)) => self.slots.close_for(peer, CloseReason::Flood),
            (OverflowPolicy::Unsubscribe, _) => self.end(position, Standing::Overflow),
            (
                OverflowPolicy::Close
                | OverflowPolicy::DropNewest
                | OverflowPolicy::DropOldest
                | OverflowPolicy::Pause,
                _,
            ) => {}
        }
    }

    /// Lets an event or a timer wait behind what waits already, or for room.
    fn park_extra(&mut self, position: usize, parked: Parked) {
        self.bounds.raise_parked_event();
        let entry = &mut self.entries[position];
        if entry.parked.is_empty() {
            entry.subscriber.account.counters(self.shard).pauses.add(1);
        }
        entry.parked.push_back(parked);
        entry.subscriber.account.begin_wait(self.shard);
        if !self.bounds.has_room_for_event() {
            self.note_stall(position);
        }
        // Room that was made before we said that we wait: no ring will tell of it.
        self.unpark(position);
    }

    /// Delivers an event or a timer that waited; it comes back if there is no room.
    pub(super) fn deliver_parked_extra(
        &mut self,
        position: usize,
        parked: Parked,
    ) -> Option<Parked> {
        let entry = &mut self.entries[position];
        match parked {
            Parked::Batch { .. } => return Some(parked),
            Parked::Event {
                event,
                number,
                behind,
            } => {
                if let Some(account) = &entry.subscriber.events {
                    if account.reserve_in_turn(self.shard, ONE) == 0 {
                        return Some(Parked::Event {
                            event,
                            number,
                            behind,
                        });
                    }
                    account.counters(self.shard).unpark(1);
                }
                entry.deliver_event(self.shard, event, number, behind);
            }
            Parked::Timer { timer, behind } => entry.deliver_extra(What::Timer(timer), behind),
        }
        self.bounds.lower_parked_event(&self.slots.doorbell);
        None
    }

    /// Says once in a while that a subscriber of events is full: one of messages too, or of events
    /// alone.
    fn note_event_dropped(&mut self, mixed: Option<usize>, place: usize) {
        let account = match mixed {
            Some(position) => self.entries[position].subscriber.events.as_ref(),
            None => Some(&self.event_subscribers[place].account),
        };
        let Some(account) = account else { return };
        let now = self.slots.clock.now().tick;
        let subject = Subject::Subscriber(account.id.0);
        if let Some(suppressed) = self
            .log_limiter
            .allow(now, "event subscriber full", subject)
        {
            let (name, dropped) = (&account.name, account.dropped());
            log::warn!(
                "event subscriber {name:?} is full: {dropped} events dropped so far{suppressed}"
            );
        }
    }
}

/// Takes room for an event without which its peer would contradict itself, whatever the capacity
/// says: these are two for each connection.
fn enters_anyway(account: &Account, entry: &Entry, event: &Event, shard: u8) -> bool {
    let is_due = matches!(event, Event::Hello { .. } | Event::Closed(_))
        && entry.subscriber.account.overflow != OverflowPolicy::Pause
        && account.fill().messages < EVENTS_MIXED_MAX;
    if is_due {
        account.raise(shard, ONE);
    }
    is_due
}

impl Entry {
    /// Whether the event is of a peer that is hidden. One that closes is hidden no more.
    fn hides(&mut self, event: &Event) -> bool {
        let Some(peer) = event.peer().filter(|peer| self.hidden.contains(peer)) else {
            return false;
        };
        if matches!(event, Event::Closed(_)) {
            self.hidden.remove(&peer);
            if self.hidden.is_empty() {
                self.standing = Standing::Open;
            }
        }
        true
    }
}
