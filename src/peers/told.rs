//! What is told: events and timers to subscribers, notices about requests to the dispatcher.
//!
//! Invariants:
//! - events and timers are told in the order in which they came, and the first `events_ahead` of
//!   them before the block that was made last
//! - no peer is read and none accepted while one of them finds no room, so that there are a few for
//!   each connection at most
//! - `notices_timer` is true exactly while the wheel has a [`Timer::Notices`]

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::Ordering},
};

use super::deadlines::{DRAINED_CHECK_MS, Deadlines, Timer};
use crate::{
    clock::Tick,
    dispatch::{Item, Notice},
    event::Event,
    id::PeerId,
    limits::EVENTS_WAITING_MAX,
    slots::Slots,
};

/// What waits to be told.
#[derive(Debug)]
pub(crate) struct Told {
    slots: Arc<Slots>,
    pub(super) events: VecDeque<Item>,
    /// How many of them came before the block that was made last.
    events_ahead: usize,
    /// To be told to the dispatcher, about requests.
    notices: VecDeque<Notice>,
    notices_timer: bool,
    /// Peers to look at for watermarks when the events that wait have become fewer.
    pub(super) watermarks_due: Vec<PeerId>,
}

impl Told {
    pub(super) fn new(slots: Arc<Slots>) -> Self {
        Self {
            slots,
            events: VecDeque::new(),
            events_ahead: 0,
            notices: VecDeque::new(),
            notices_timer: false,
            watermarks_due: Vec::new(),
        }
    }

    /// Tells the subscribers of events, if there are any.
    pub(super) fn emit(&mut self, event: Event) {
        if self.is_watched() {
            self.events.push_back(Item::Event(Box::new(event)));
        }
    }

    /// Whether so many events wait that none is to be made which may come again and again. Those of
    /// connections that come and go are few for each of them, and are always made.
    pub(super) fn has_backlog(&self) -> bool {
        self.events.len() >= EVENTS_WAITING_MAX
    }

    /// Whether there are subscribers of events.
    pub(super) fn is_watched(&self) -> bool {
        self.slots.event_subscribers.load(Ordering::Relaxed) > 0
    }

    /// A block is about to be made: what waits came before it.
    #[inline]
    pub(super) fn note_block(&mut self) {
        self.events_ahead = self.events.len();
    }

    /// The next event for subscribers, or timer.
    pub(crate) fn poll(&mut self) -> Option<Item> {
        self.events_ahead = self.events_ahead.saturating_sub(1);
        self.events.pop_front()
    }

    /// Takes back an event or a timer that found no room; `ahead` if it comes before the block.
    pub(crate) fn put_back(&mut self, item: Item, ahead: bool) {
        self.events_ahead += usize::from(ahead);
        self.events.push_front(item);
    }

    /// Takes in what is to be told behind everything that was read, and behind the events.
    pub(crate) fn push(&mut self, item: Item) {
        self.events.push_back(item);
    }

    pub(crate) fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Whether an event came before the block that was made last, and is to be told before it.
    pub(crate) fn has_events_ahead(&self) -> bool {
        self.events_ahead > 0
    }

    /// Tells the dispatcher about requests.
    pub(super) fn notify(&mut self, notice: Notice) {
        self.notices.push_back(notice);
    }

    /// The next notice for the dispatcher, and how many there are.
    pub(crate) fn poll_notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    pub(crate) fn notice_count(&self) -> usize {
        self.notices.len()
    }

    /// A notice has to wait: there is no room for it, or something that was read before is to go
    /// first. The requests that it is about time out all the same.
    pub(crate) fn put_back_notice(&mut self, now: Tick, notice: Notice, deadlines: &mut Deadlines) {
        self.notices.push_back(notice);
        self.arm_notices(now, deadlines);
    }

    fn arm_notices(&mut self, now: Tick, deadlines: &mut Deadlines) {
        if !self.notices_timer {
            self.notices_timer = true;
            let wheel = &mut deadlines.wheel;
            wheel.insert(now + DRAINED_CHECK_MS, Timer::Notices);
        }
    }

    /// Requests may have timed out that notices are about which wait.
    pub(super) fn handle_notices_timer(&mut self, now: Tick, deadlines: &mut Deadlines) {
        self.notices_timer = false;
        let expires = |notice: &Notice| matches!(notice, Notice::Expire { .. });
        if self.notices.iter().any(expires) {
            // There is no room for those either.
            self.arm_notices(now, deadlines);
            return;
        }
        for index in 0..self.notices.len() {
            let peer = match self.notices[index] {
                Notice::Closed { peer, .. } | Notice::Expire { peer, .. } => peer,
            };
            self.notices.push_back(Notice::Expire { peer, tick: now });
        }
    }
}

#[cfg(test)]
impl Told {
    /// The next event, where there are no timers.
    pub(crate) fn poll_event(&mut self) -> Option<Box<Event>> {
        let told = self.poll()?;
        let Item::Event(event) = told else {
            panic!("{told:?} is no event");
        };
        Some(event)
    }
}
