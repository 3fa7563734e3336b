//! Events and timers among the messages of a subscriber: what is dispatched by chance is taken in
//! the order of each peer, under every policy, and every sum holds.

use std::{collections::HashMap, sync::atomic::Ordering};

use proptest::prelude::*;

use super::*;
use crate::{
    dispatch::Received,
    error::TryRecvError,
    event::Event,
    id::{NodeId, PeerIdentity},
    ledger::ClosedRow,
    timers::{TimerHub, TimerId, TimerTable, UserTimer},
    wheel::Wheel,
};

const POLICIES: [OverflowPolicy; 5] = [
    OverflowPolicy::DropNewest,
    OverflowPolicy::DropOldest,
    OverflowPolicy::Pause,
    OverflowPolicy::Close,
    OverflowPolicy::Unsubscribe,
];
const T: MessageType = MessageType(1);

/// What may happen; a peer is one of a few places.
#[derive(Clone, Debug)]
enum Op {
    /// A peer comes, or goes if it is there.
    Turn(u32),
    Hello(u32),
    /// Something that may come again and again.
    Pause(u32),
    Send(u32, usize),
    Take(usize),
    /// As `select!` does it: the queue first, and then the rest.
    Open(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let place = 0..4_u32;
    prop_oneof![
        3 => place.clone().prop_map(Op::Turn),
        1 => place.clone().prop_map(Op::Hello),
        2 => place.clone().prop_map(Op::Pause),
        4 => (place, 1..6_usize).prop_map(|(place, count)| Op::Send(place, count)),
        2 => (1..6_usize).prop_map(Op::Take),
        1 => (1..6_usize).prop_map(Op::Open),
    ]
}

/// One thing that a peer gave, as it was dispatched and as it was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Connected,
    Hello,
    Paused,
    Message(u64),
    Closed,
}

#[derive(Debug, Default)]
struct Lives {
    dispatched: HashMap<PeerId, Vec<Step>>,
    taken: HashMap<PeerId, Vec<Step>>,
    events: u64,
    messages: u64,
    missed: u64,
}

impl Lives {
    fn note(&mut self, received: Received) {
        match received {
            Received::Batch(batch) => {
                self.missed += batch.missed();
                let steps = batch.iter().map(|one| Step::Message(number(one.payload())));
                let steps: Vec<Step> = steps.collect();
                self.taken.entry(batch.peer()).or_default().extend(steps);
            }
            Received::Event(event) => {
                let step = match &event {
                    Event::Connected { .. } => Step::Connected,
                    Event::Hello { .. } => Step::Hello,
                    Event::Paused { .. } => Step::Paused,
                    Event::Closed(_) => Step::Closed,
                    Event::Resumed { .. }
                    | Event::Congested { .. }
                    | Event::Writable { .. }
                    | Event::ByeReceived { .. }
                    | Event::DialFailed { .. } => panic!("{event:?}"),
                };
                let peer = event.peer().unwrap();
                self.taken.entry(peer).or_default().push(step);
            }
            Received::Timer(fired) => panic!("{fired:?}"),
        }
    }

    /// What was taken of each peer is what it gave, in that order, and `Connected` and `Closed` are
    /// at their ends, once; or it is nothing.
    fn check(&self, subscription: &Subscription, overflow: OverflowPolicy, is_end: bool) {
        for (peer, taken) in &self.taken {
            let given = &self.dispatched[peer];
            let mut rest = given.iter();
            let in_order = taken.iter().all(|step| rest.any(|one| one == step));
            assert!(in_order, "{peer}: {taken:?} of {given:?}");
            assert_eq!(taken.first(), Some(&Step::Connected), "{peer}: {taken:?}");
        }
        let removed = subscription.end_reason().is_some();
        for (peer, given) in self.dispatched.iter().filter(|_| is_end && !removed) {
            let taken = self.taken.get(peer).map_or(&[][..], Vec::as_slice);
            if overflow == OverflowPolicy::Pause {
                assert_eq!(taken, given, "{peer}");
            }
            if !taken.is_empty() {
                for step in [Step::Connected, Step::Hello, Step::Closed] {
                    let count = |steps: &[Step]| steps.iter().filter(|one| **one == step).count();
                    assert_eq!(count(taken), count(given), "{peer}: {step:?} in {taken:?}");
                }
            }
        }
        balanced(subscription);
        let (row, events) = (subscription.row(), subscription.event_row().unwrap());
        let sum = events.taken + events.dropped + events.discarded + events.queued;
        assert_eq!(events.matched, sum, "{events:?}");
        if !removed {
            assert_eq!((row.matched, events.matched), (self.messages, self.events));
        }
        if overflow == OverflowPolicy::Pause {
            assert_eq!((row.dropped, events.dropped, self.missed), (0, 0, 0));
        }
    }
}

struct Run {
    bench: Bench,
    subscription: Subscription,
    overflow: OverflowPolicy,
    lives: Lives,
    /// Who is there, and how many were at each place.
    places: [(Option<PeerId>, u32); 4],
}

impl Run {
    fn new(overflow: OverflowPolicy, messages: usize, events: usize) -> Self {
        let bench = Bench::new();
        let options = SubscribeOptions::new(T)
            .messages(messages)
            .overflow(overflow)
            .with_events()
            .event_capacity(events);
        let hub = Arc::default();
        let subscription =
            Subscription::subscribe(options, &bench.registry, &bench.slots, &hub).unwrap();
        Self {
            bench,
            subscription,
            overflow,
            lives: Lives::default(),
            places: [(None, 0); 4],
        }
    }

    fn tell(&mut self, peer: PeerId, step: Step, event: Event) {
        self.lives.dispatched.entry(peer).or_default().push(step);
        self.lives.events += 1;
        let item = Item::Event(Box::new(event));
        self.bench.bounds.raise(&item);
        let Item::Event(event) = item else { return };
        self.bench.fan_out.dispatch_event(event);
    }

    fn turn(&mut self, place: u32) {
        let (there, count) = &mut self.places[place as usize];
        if let Some(peer) = there.take() {
            let row = ClosedRow::of_peer(peer);
            self.tell(peer, Step::Closed, Event::Closed(Box::new(row)));
            return;
        }
        *count += 1;
        // Places that the slots do not know, but for their holds.
        let peer = PeerId::new(0, 100 + place, *count);
        *there = Some(peer);
        let connected = Event::Connected {
            peer,
            addr: "127.0.0.1:1".parse().unwrap(),
            link: None,
        };
        self.tell(peer, Step::Connected, connected);
    }

    fn act(&mut self, op: &Op) {
        let at = |place: &u32| self.places[*place as usize].0;
        match op {
            Op::Turn(place) => self.turn(*place),
            Op::Hello(place) => {
                let Some(peer) = at(place) else { return };
                if !self.lives.dispatched[&peer].contains(&Step::Hello) {
                    let identity = Arc::new(PeerIdentity {
                        node_id: NodeId::default(),
                        agent: String::new(),
                        payload_size_max: 1,
                        authenticated: false,
                    });
                    self.tell(peer, Step::Hello, Event::Hello { peer, identity });
                }
            }
            Op::Pause(place) => {
                let Some(peer) = at(place) else { return };
                let cause = crate::event::PauseCause::Credit;
                self.tell(peer, Step::Paused, Event::Paused { peer, cause });
            }
            Op::Send(place, count) => {
                let Some(peer) = at(place) else { return };
                let numbers = self.bench.sent..self.bench.sent + *count as u64;
                let life = self.lives.dispatched.entry(peer).or_default();
                life.extend(numbers.map(Step::Message));
                self.lives.messages += *count as u64;
                self.bench.peer = peer;
                self.bench.dispatch(&vec![T.0; *count]);
            }
            Op::Take(count) => drop(self.take(*count)),
            Op::Open(count) => self.open(*count),
        }
    }

    fn take(&mut self, count: usize) -> bool {
        for _ in 0..count {
            match self.subscription.try_recv_any() {
                Ok(received) => self.lives.note(received),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => {
                    self.bench.fan_out.pump();
                    return false;
                }
            }
        }
        self.bench.fan_out.pump();
        true
    }

    /// Half of it with something dispatched between the look at the queue and the opening.
    fn open(&mut self, count: usize) {
        for index in 0..count {
            let Ok(delivery) = self.subscription.receiver().try_recv() else {
                break;
            };
            if index % 2 == 0 {
                self.act(&Op::Send(0, 3));
                self.act(&Op::Pause(1));
                self.act(&Op::Send(1, 3));
            }
            let opened: Vec<Received> = self.subscription.open(delivery).collect();
            opened.into_iter().for_each(|one| self.lives.note(one));
        }
        self.bench.fan_out.pump();
    }

    fn check(&self, is_end: bool) {
        self.lives.check(&self.subscription, self.overflow, is_end);
    }

    fn finish(mut self) {
        for place in 0..4 {
            if self.places[place as usize].0.is_some() {
                self.turn(place);
            }
        }
        // What waits for room comes when there is some.
        let waits = |one: &Subscription| {
            let (row, events) = (one.row(), one.event_row().unwrap());
            row.queued + row.parked + events.queued > 0
        };
        for _ in 0..10_000 {
            if !self.take(10) && !waits(&self.subscription) {
                break;
            }
        }
        self.check(true);
        let (row, events) = (self.subscription.row(), self.subscription.event_row());
        assert_eq!((row.queued, row.parked, events.unwrap().queued), (0, 0, 0));
        assert_eq!(self.bench.fill(), Traffic::default());
        assert!(self.bench.bounds.has_room_for_event());
        let (slots, registry) = (Arc::clone(&self.bench.slots), &self.bench.registry);
        drop(self.subscription);
        self.bench.fan_out.pump();
        assert_eq!(slots.event_subscribers.load(Ordering::Relaxed), 0);
        assert!(registry.rows().is_empty() && registry.event_rows().is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_peer_is_told_in_order_or_not_at_all(
        ops in prop::collection::vec(op(), 1..120),
        policy in 0..POLICIES.len(),
        messages in 1..12_usize,
        events in 1..8_usize,
    ) {
        // What `open` finds open may have taken from the same queue in between.
        let mut run = Run::new(POLICIES[policy], messages, events);
        for op in &ops {
            run.act(op);
            run.check(false);
        }
        run.finish();
    }
}

/// With a subscriber that takes nothing, what is over says so in its row.
#[test]
fn a_peer_for_whom_there_is_no_room_is_hidden_with_all_it_sends() {
    let mut run = Run::new(OverflowPolicy::DropNewest, 100, 1);
    run.turn(0);
    run.turn(1);
    run.act(&Op::Send(0, 2));
    run.act(&Op::Send(1, 3));
    // One that is there is closed, whatever the room; so is one that was never told of, unseen.
    run.turn(0);
    run.turn(1);
    let (row, events) = (
        run.subscription.row(),
        run.subscription.event_row().unwrap(),
    );
    assert_eq!((row.queued, row.dropped), (2, 3));
    assert_eq!((events.queued, events.dropped), (2, 2));
    while run.take(1) {}
    // With room again, the next at that place is seen, and the gap is told.
    run.turn(1);
    run.act(&Op::Send(1, 1));
    while run.take(1) {}
    assert_eq!((run.lives.missed, run.subscription.missed_events()), (3, 1));
    run.finish();
}

#[test]
fn what_does_not_fit_in_the_room_for_events_is_a_flood_or_the_end() {
    let mut run = Run::new(OverflowPolicy::Unsubscribe, 100, 1);
    run.turn(0);
    run.act(&Op::Pause(0));
    assert_eq!(run.subscription.end_reason(), Some(EndReason::Overflow));
    run.bench.fan_out.pump();
    while run.take(1) {}
    assert_eq!(
        run.lives.taken.values().next(),
        Some(&vec![Step::Connected])
    );

    let mut run = Run::new(OverflowPolicy::Close, 100, 1);
    let peer = run.bench.peer;
    for number in 0..2 {
        let addr = "127.0.0.1:1".parse().unwrap();
        let peer = if number == 0 {
            PeerId::new(0, 100, 1)
        } else {
            peer
        };
        run.tell(
            peer,
            Step::Connected,
            Event::Connected {
                peer,
                addr,
                link: None,
            },
        );
    }
    let take = crate::slots::Take::Beside(Default::default());
    let taken = run
        .bench
        .slots
        .take_tail(0, peer, Default::default(), take, |_, _| {});
    assert_eq!(
        taken.unwrap().close_asked,
        Some(crate::error::CloseReason::Flood)
    );
}

/// A timer comes behind what was dispatched before it, also if that waits for room.
#[test]
fn a_timer_waits_behind_what_came_before_it() {
    for overflow in [
        OverflowPolicy::Pause,
        OverflowPolicy::DropOldest,
        OverflowPolicy::DropNewest,
    ] {
        let mut bench = Bench::new();
        let hub = Arc::new(TimerHub::default());
        let options = SubscribeOptions::new(T).messages(2).overflow(overflow);
        let options = options.with_timers(2);
        let mut inbox =
            Subscription::subscribe(options, &bench.registry, &bench.slots, &hub).unwrap();
        let (mut table, mut wheel) = (TimerTable::new(Arc::clone(&hub)), Wheel::new(0));
        let first = inbox.after(std::time::Duration::ZERO).unwrap();
        let second = inbox.after(std::time::Duration::ZERO).unwrap();
        assert!(inbox.after(std::time::Duration::ZERO).is_err(), "two fit");
        table.handle_changes::<UserTimer>(&mut wheel);
        bench.dispatch(&[T.0, T.0]);
        bench.dispatch(&[T.0, T.0]);
        let mut now = 0;
        while wheel.next_expiry().is_some() {
            now += 1;
            while let Some(expired) = wheel.poll(now) {
                let timer = table.fire(now, expired.value, &mut wheel).unwrap();
                let item = Item::Timer(timer);
                bench.bounds.raise(&item);
                let Item::Timer(timer) = item else { continue };
                bench.fan_out.dispatch_timer(timer);
            }
        }
        bench.dispatch(&[T.0]);
        assert!(inbox.cancel(second));
        let mut seen: Vec<Result<u64, TimerId>> = Vec::new();
        loop {
            match inbox.try_recv_any() {
                Ok(Received::Batch(batch)) => {
                    seen.extend(batch.iter().map(|one| Ok(number(one.payload()))));
                }
                Ok(Received::Timer(fired)) => seen.push(Err(fired.timer)),
                Ok(Received::Event(event)) => panic!("{event:?}"),
                Err(_) if inbox.row().parked > 0 => {}
                Err(_) => break,
            }
            bench.fan_out.pump();
        }
        let expected = match overflow {
            OverflowPolicy::Pause => vec![Ok(0), Ok(1), Ok(2), Ok(3), Err(first), Ok(4)],
            OverflowPolicy::DropOldest => vec![Err(first), Ok(4)],
            OverflowPolicy::DropNewest | OverflowPolicy::Close | OverflowPolicy::Unsubscribe => {
                vec![Ok(0), Ok(1), Err(first)]
            }
        };
        assert_eq!(seen, expected, "{overflow:?}");
        balanced(&inbox);
        assert!(bench.bounds.has_room_for_event());
    }
}

#[test]
#[should_panic(expected = "take them with recv_any")]
fn a_method_for_messages_alone_throws_no_event_away() {
    let mut run = Run::new(OverflowPolicy::DropNewest, 1, 1);
    let _ = run.subscription.try_recv_batch();
}
