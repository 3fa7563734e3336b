//! Subscribers of events, and the check that those of a peer come in their order and around its
//! messages.

use std::{collections::HashMap, ops::Range, sync::Arc};

use super::world::World;
use crate::{
    dispatch::{EventOptions, EventSubscription, Registry},
    error::TryRecvError,
    event::Event,
    id::PeerId,
    slots::Slots,
};

/// Room for all events of a run.
const ALL: usize = 1 << 14;

#[derive(Debug)]
pub(super) struct Watchers {
    /// Misses nothing, and is asked after every item of the dispatcher (inline: once a turn).
    observer: EventSubscription,
    /// Has little room, and takes when it likes.
    careless: EventSubscription,
    /// Events that were taken by the careless one or are missing before them.
    careless_at: usize,
    /// What the observer saw.
    log: Vec<Event>,
    lives: HashMap<PeerId, Life>,
    /// Who had each slot last.
    places: HashMap<u32, PeerId>,
}

#[derive(Debug, Default)]
struct Life {
    said_hello: bool,
    said_bye: bool,
    paused: bool,
    /// How many messages each subscriber had been offered when the peer was told as connected. Not
    /// known inline, where several things happen between two looks.
    opened: Option<Vec<u64>>,
    /// How many messages each subscriber had been offered when the peer was told as closed.
    closed: Option<Vec<u64>>,
}

impl Watchers {
    /// Subscribes, before anything happened.
    pub(super) fn new(registry: &Arc<Registry>, slots: &Arc<Slots>, capacity: usize) -> Self {
        let subscribe = |capacity| {
            let options = EventOptions::new().capacity(capacity);
            EventSubscription::new(options, Arc::clone(registry), Arc::clone(slots)).unwrap()
        };
        Self {
            observer: subscribe(ALL),
            careless: subscribe(capacity),
            careless_at: 0,
            log: Vec::new(),
            lives: HashMap::new(),
            places: HashMap::new(),
        }
    }

    /// Looks at the events that were dispatched since the last time.
    pub(super) fn look(world: &mut World) {
        let Some(mut watchers) = world.watchers.take() else {
            return;
        };
        while let Ok(event) = watchers.observer.try_recv() {
            assert_eq!(watchers.observer.missed(), 0);
            watchers.check(world, &event);
            watchers.log.push(event);
        }
        world.watchers = Some(watchers);
    }

    fn check(&mut self, world: &World, event: &Event) {
        world.say(|| format!("event {event:?}"));
        let peer = event.peer().expect("nobody dials here");
        if let Event::Connected { addr, link, .. } = event {
            let other = self.places.insert(peer.index(), peer);
            let open = other.filter(|other| self.lives[other].closed.is_none());
            assert!(open.is_none(), "{peer} came while there is {open:?}");
            assert!(!self.lives.contains_key(&peer), "{peer} came again");
            let conn = &world.conns[world.conn_of(peer)];
            assert_eq!((conn.addr, *link), (*addr, None));
            let opened = world.worker.is_some().then(|| offered(world));
            let life = Life {
                opened,
                ..Life::default()
            };
            self.lives.insert(peer, life);
            return;
        }
        let life = self
            .lives
            .get_mut(&peer)
            .expect("first a peer is connected");
        assert!(life.closed.is_none(), "{event:?} after the end");
        match event {
            Event::Hello { .. } => {
                assert!(!life.said_hello, "a second {event:?}");
                life.said_hello = true;
            }
            Event::Paused { .. } => {
                assert!(!life.paused, "a second {event:?}");
                life.paused = true;
            }
            Event::Resumed { .. } => {
                assert!(life.paused, "{event:?} without a pause");
                life.paused = false;
            }
            Event::ByeReceived { .. } => {
                assert!(!life.said_bye, "a second {event:?}");
                life.said_bye = true;
            }
            Event::Closed(_) => life.closed = Some(offered(world)),
            Event::Connected { .. }
            | Event::Congested { .. }
            | Event::Writable { .. }
            | Event::DialFailed { .. } => {}
        }
    }

    /// Messages of these numbers were just taken by a subscriber.
    pub(super) fn check_batch(
        world: &mut World,
        peer: PeerId,
        subscriber: usize,
        numbers: Range<u64>,
    ) {
        Self::look(world);
        let Some(watchers) = &world.watchers else {
            return;
        };
        let life = watchers.lives.get(&peer);
        let life = life.unwrap_or_else(|| panic!("a message of {peer}, who is not connected"));
        // Whoever was not there yet had been offered nothing.
        let of = |offered: &Vec<u64>| offered.get(subscriber).copied().unwrap_or(0);
        let opened = life.opened.as_ref().map_or(0, of);
        let closed = life.closed.as_ref().map_or(u64::MAX, of);
        assert!(
            opened <= numbers.start && numbers.end <= closed,
            "messages {numbers:?} of {peer}, who was there from {opened} to {closed}"
        );
    }

    /// The careless one takes a few, and what it misses is what it is told.
    pub(super) fn take_some(world: &mut World, count: usize) {
        Self::look(world);
        let Some(watchers) = &mut world.watchers else {
            return;
        };
        for _ in 0..count {
            let Ok(event) = watchers.careless.try_recv() else {
                break;
            };
            watchers.careless_at += usize::try_from(watchers.careless.missed()).unwrap();
            assert_eq!(event, watchers.log[watchers.careless_at]);
            watchers.careless_at += 1;
        }
        for subscription in [&watchers.observer, &watchers.careless] {
            let row = subscription.row();
            assert_eq!(
                row.matched,
                row.taken + row.dropped + row.discarded + row.queued
            );
            assert_eq!((row.matched, row.discarded), (watchers.log.len() as u64, 0));
        }
    }

    /// Every connection that was told of is told as closed.
    pub(super) fn check_end(world: &mut World) {
        Self::take_some(world, usize::MAX);
        let Some(watchers) = world.watchers.take() else {
            return;
        };
        for (peer, life) in &watchers.lives {
            assert!(life.closed.is_some(), "the end of {peer} was not told");
        }
        for subscription in [&watchers.observer, &watchers.careless] {
            let end = subscription.try_recv();
            assert_eq!(end, Err(TryRecvError::Disconnected));
        }
        let row = watchers.careless.row();
        assert_eq!(row.taken + row.dropped, watchers.log.len() as u64);
    }
}

/// How many messages each subscriber was offered.
fn offered(world: &World) -> Vec<u64> {
    let subscribers = world.subscribers.iter();
    subscribers.map(|one| one.matched()).collect()
}
