//! Events, timers and messages of one subscriber, in their true order, over real sockets.
#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "tests wait by the clock, and end where something is wrong"
)]

mod util;

use std::{
    collections::HashMap,
    net::{Shutdown, SocketAddr},
    thread,
    time::Duration,
};

use crossbeam_channel::select;
use nebnet::{
    Config, Dispatch, Event, MessageType, NetService, OverflowPolicy, PeerId, Received,
    RecvTimeoutError, SubscribeError, SubscribeOptions, Subscription, TimerError, TypeFilter,
    frame::Frame,
};
use util::{Client, HELLO, PATIENCE, config, encoded, stop, wait_until};

const A: MessageType = MessageType(7);

/// One loop with a dispatcher, one that is its own dispatcher, and three of each.
fn kinds() -> Vec<Config> {
    [Dispatch::Thread, Dispatch::Inline]
        .into_iter()
        .flat_map(|dispatch| [1, 3].map(|shards| config().dispatch(dispatch).shards(shards)))
        .collect()
}

fn start(config: Config, options: SubscribeOptions) -> (NetService, Subscription, SocketAddr) {
    let mut service = NetService::new(config).unwrap();
    let inbox = service.handle().subscribe_with(options).unwrap();
    service.start().unwrap();
    let addr = service.local_addrs()[0];
    (service, inbox, addr)
}

#[track_caller]
fn next(inbox: &mut Subscription) -> Received {
    inbox.recv_any_timeout(PATIENCE).expect("something more")
}

/// What is known of a peer.
#[derive(Debug, Default)]
struct Life {
    messages: u64,
    is_closed: bool,
}

/// Takes what comes until so many peers are closed; each of them has to come in its order.
#[derive(Debug, Default)]
struct Lives(HashMap<PeerId, Life>);

impl Lives {
    #[track_caller]
    fn note(&mut self, received: Received) {
        match received {
            Received::Event(Event::Connected { peer, .. }) => {
                assert!(
                    self.0.insert(peer, Life::default()).is_none(),
                    "{peer} came twice"
                );
            }
            Received::Event(Event::Closed(row)) => {
                let life = self.0.get_mut(&row.peer).expect("it came");
                assert!(
                    !std::mem::replace(&mut life.is_closed, true),
                    "closed twice"
                );
                assert_eq!(life.messages, row.inbound.messages, "of {}", row.peer);
            }
            Received::Event(event) => {
                let peer = event.peer().expect("nobody is dialled");
                assert!(!self.0[&peer].is_closed, "{event:?} of one that is closed");
            }
            Received::Batch(batch) => {
                assert_eq!(batch.missed(), 0);
                let life = self
                    .0
                    .get_mut(&batch.peer())
                    .expect("its Connected came before");
                assert!(!life.is_closed, "messages of one that is closed");
                for message in &batch {
                    let number = u64::from_be_bytes(message.payload().try_into().unwrap());
                    assert_eq!(number, life.messages);
                    life.messages += 1;
                }
            }
            other => panic!("{other:?}"),
        }
    }

    fn closed(&self) -> usize {
        self.0.values().filter(|life| life.is_closed).count()
    }
}

fn numbers(count: u64) -> Vec<u8> {
    (0..count)
        .flat_map(|number| encoded(&Frame::new(A, &number.to_be_bytes())))
        .collect()
}

/// Each connection sends its first message at once, before anything is known of it.
#[test]
fn connected_comes_before_the_first_message() {
    const PEERS: usize = 500;
    for config in kinds() {
        let options = SubscribeOptions::new(A)
            .overflow(OverflowPolicy::Pause)
            .with_events();
        let (mut service, mut inbox, addr) = start(config, options);
        let clients = thread::spawn(move || {
            let first = numbers(1);
            let connect = |_| {
                let mut client = Client::connect(addr);
                assert!(client.try_write(&first));
                client
            };
            // All end at once: each lingers for a quarter of a second.
            let clients: Vec<Client> = (0..PEERS).map(connect).collect();
            drop(clients);
        });
        let mut lives = Lives::default();
        while lives.closed() < PEERS {
            lives.note(next(&mut inbox));
        }
        clients.join().unwrap();
        assert_eq!(lives.0.len(), PEERS);
        assert!(lives.0.values().all(|life| life.messages == 1));
        check_rows(&service, &inbox);
        stop(&mut service);
        assert!(inbox.recv_any().is_err());
    }
}

/// More than the queue holds, at once, and then the end: that comes last.
#[test]
fn closed_comes_behind_the_last_message() {
    const COUNT: u64 = 130_875;
    for config in kinds() {
        let options = SubscribeOptions::new(A)
            .overflow(OverflowPolicy::Pause)
            .with_events();
        let (mut service, inbox, addr) = start(config, options);
        let client = thread::spawn(move || {
            let mut client = Client::connect(addr);
            assert!(client.try_write(&numbers(COUNT)));
            client.stream.shutdown(Shutdown::Write).unwrap();
            client.expect_end_of_any_kind();
        });
        let mut lives = Lives::default();
        // By `select!`, as a thread does that waits for something else too.
        let never = crossbeam_channel::never::<()>();
        while lives.closed() == 0 {
            select! {
                recv(inbox.receiver()) -> delivery => {
                    inbox.open(delivery.unwrap()).for_each(|one| lives.note(one));
                }
                recv(never) -> _ => unreachable!(),
                default(PATIENCE) => panic!("nothing comes"),
            }
        }
        client.join().unwrap();
        assert_eq!(lives.0.values().next().unwrap().messages, COUNT);
        check_rows(&service, &inbox);
        stop(&mut service);
    }
}

/// The row of the messages and that of the events are listed under one id, and both hold.
fn check_rows(service: &NetService, inbox: &Subscription) {
    let snapshot = service.handle().snapshot();
    let (row, events) = (inbox.row(), inbox.event_row().unwrap());
    assert_eq!((row.id, &row.name), (events.id, &events.name));
    assert!(snapshot.event_subscribers.contains(&events));
    assert_eq!(row.matched, row.taken);
    assert_eq!(events.matched, events.taken);
}

/// Nothing is taken until all is over: what did not fit left no peer in halves.
#[test]
fn a_full_queue_has_a_peer_whole_or_not_at_all() {
    const PEERS: usize = 60;
    for overflow in [OverflowPolicy::DropNewest, OverflowPolicy::DropOldest] {
        for config in kinds() {
            let options = SubscribeOptions::new(A).messages(50).overflow(overflow);
            let options = options.with_events().event_capacity(40);
            let (mut service, mut inbox, addr) = start(config, options);
            let connect = |_| {
                let mut client = Client::connect(addr);
                assert!(client.try_write(&numbers(3)));
                client
            };
            let clients: Vec<Client> = (0..PEERS).map(connect).collect();
            wait_until("every message", || inbox.row().matched == 3 * PEERS as u64);
            // An end that does not wait for what is queued.
            clients.into_iter().for_each(Client::reset);
            let matched = || inbox.event_row().unwrap().matched;
            wait_until("every event", || matched() == 2 * PEERS as u64);
            let (row, events) = (inbox.row(), inbox.event_row().unwrap());
            assert!(row.queued <= 50 && row.dropped > 0, "{row:?}");
            assert!(events.dropped > 0, "{events:?}");
            let mut open = HashMap::new();
            while let Ok(received) = inbox.try_recv_any() {
                match received {
                    Received::Event(Event::Connected { peer, .. }) => {
                        assert_eq!(open.insert(peer, true), None);
                    }
                    Received::Event(Event::Closed(row)) => {
                        assert_eq!(open.insert(row.peer, false), Some(true));
                    }
                    Received::Batch(batch) => assert!(open[&batch.peer()]),
                    other => panic!("{other:?}"),
                }
            }
            assert!(open.values().all(|is_open| !is_open));
            let taken = inbox.event_row().unwrap().taken;
            assert_eq!(taken, 2 * open.len() as u64);
            // Who comes now is seen.
            Client::connect(addr).reset();
            assert!(matches!(
                next(&mut inbox),
                Received::Event(Event::Connected { .. })
            ));
            assert!(matches!(
                next(&mut inbox),
                Received::Event(Event::Closed(_))
            ));
            stop(&mut service);
        }
    }
}

/// A subscriber that holds back its peers holds back what is told of them too, and loses nothing.
#[test]
fn events_wait_behind_the_messages_that_wait() {
    for config in kinds() {
        let options = SubscribeOptions::new(A)
            .messages(1)
            .overflow(OverflowPolicy::Pause);
        let options = options.with_events().event_capacity(1);
        let (mut service, mut inbox, addr) = start(config, options);
        let mut clients: Vec<Client> = (0..5).map(|_| Client::connect(addr)).collect();
        for client in &mut clients {
            assert!(client.try_write(&numbers(9)));
            client.stream.shutdown(Shutdown::Write).unwrap();
        }
        wait_until("something waits", || inbox.row().parked > 0);
        let mut lives = Lives::default();
        while lives.closed() < clients.len() {
            lives.note(next(&mut inbox));
        }
        assert!(lives.0.values().all(|life| life.messages == 9));
        check_rows(&service, &inbox);
        stop(&mut service);
    }
}

/// What waits for room when a stop begins is waited for, the ends of the peers included.
#[test]
fn a_stop_waits_for_the_ends_that_wait() {
    const PEERS: usize = 5;
    for config in kinds() {
        let options = SubscribeOptions::new(A)
            .messages(1)
            .overflow(OverflowPolicy::Pause);
        let options = options.with_events().event_capacity(1);
        let (mut service, mut inbox, addr) = start(config, options);
        let mut clients: Vec<Client> = (0..PEERS).map(|_| Client::connect(addr)).collect();
        for client in &mut clients {
            assert!(client.try_write(&numbers(9)));
        }
        wait_until("something waits", || inbox.row().parked > 0);
        let taker = thread::spawn(move || {
            let mut lives = Lives::default();
            while let Ok(received) = inbox.recv_any() {
                lives.note(received);
            }
            (lives, inbox.event_row().unwrap())
        });
        drop(clients);
        stop(&mut service);
        let (lives, events) = taker.join().unwrap();
        assert_eq!((lives.0.len(), lives.closed()), (PEERS, PEERS));
        assert_eq!((events.matched, events.discarded), (events.taken, 0));
    }
}

/// After a stop the queue gives what is left, the end of every peer included.
#[test]
fn what_is_left_at_a_stop_comes_in_order() {
    for config in kinds() {
        let (mut service, mut inbox, addr) = start(config, SubscribeOptions::new(A).with_events());
        let mut client = Client::connect(addr);
        let agent = b"NEBN\0\x01\0\0\0\0\0\0\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\x01\
                      \x01\x01\x01\0\0\x10\0\0\0";
        client.send(&Frame::new(HELLO, agent));
        client.send_message(A.0, &0_u64.to_be_bytes());
        let kind_of = |received: Received| match received {
            Received::Event(Event::Connected { .. }) => "connected",
            Received::Event(Event::Hello { .. }) => "hello",
            Received::Event(Event::Closed(_)) => "closed",
            Received::Batch(_) => "batch",
            other => panic!("{other:?}"),
        };
        // A stop would wait for the message to be taken.
        let mut kinds: Vec<&str> = (0..3).map(|_| kind_of(next(&mut inbox))).collect();
        drop(client);
        stop(&mut service);
        kinds.extend(std::iter::from_fn(|| inbox.recv_any().ok()).map(kind_of));
        assert_eq!(kinds, ["connected", "hello", "batch", "closed"]);
    }
}

/// What was read before a timer expired is in front of it, though nobody was awake to take it.
#[test]
fn a_timer_comes_behind_what_was_read_before_it() {
    for config in kinds() {
        // Of several loops, timers are in order with the first one's peers.
        let options = SubscribeOptions::new(TypeFilter::all()).with_timers(2);
        let (mut service, mut inbox, addr) = start(config.shards(1), options);
        let mut client = Client::connect(addr);
        client.send_message(A.0, b"in time");
        wait_until("it is there", || inbox.row().queued == 1);
        let timer = inbox.after(Duration::from_millis(1)).unwrap();
        let beat = inbox.every(Duration::from_millis(1)).unwrap();
        let more = inbox.after(Duration::ZERO);
        assert_eq!(more, Err(TimerError::TooMany { limit: 2 }));
        assert!(matches!(next(&mut inbox), Received::Batch(_)));
        let (mut beats, mut once) = (0, 0);
        while beats < 5 || once == 0 {
            match next(&mut inbox) {
                Received::Timer(fired) if fired.timer == timer => once += fired.count,
                Received::Timer(fired) if fired.timer == beat => beats += fired.count,
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(once, 1);
        assert!(inbox.cancel(beat) && !inbox.cancel(timer));
        assert!(inbox.event_row().is_none());
        let nothing = inbox.recv_any_timeout(Duration::ZERO);
        assert_eq!(nothing.unwrap_err(), RecvTimeoutError::Timeout);
        drop(client);
        stop(&mut service);
        assert_eq!(inbox.after(Duration::ZERO), Err(TimerError::Stopped));
    }
}

/// Without events a queue is one of messages, which has no timers.
#[test]
fn what_was_not_asked_for_is_not_there() {
    let (mut service, mut inbox, addr) = start(config(), SubscribeOptions::new(A));
    let mut client = Client::connect(addr);
    client.send_message(A.0, b"x");
    assert!(matches!(next(&mut inbox), Received::Batch(_)));
    let none = inbox.after(Duration::ZERO);
    assert_eq!(none, Err(TimerError::TooMany { limit: 0 }));
    assert!(
        inbox.event_row().is_none() && service.handle().snapshot().event_subscribers.is_empty()
    );
    let (sender, _receiver) = crossbeam_channel::bounded(1);
    let own = service
        .handle()
        .subscribe_sender(SubscribeOptions::new(A).with_events(), sender);
    assert_eq!(own.unwrap_err(), SubscribeError::NeedsOwnQueue);
    let options = SubscribeOptions::new(A).with_timers(usize::MAX);
    let timers = service.handle().subscribe_with(options).unwrap_err();
    assert!(matches!(
        timers,
        SubscribeError::Timers(TimerError::Capacity { .. })
    ));
    drop(client);
    stop(&mut service);
}
