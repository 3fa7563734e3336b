//! What becomes of peers, told as events, over real sockets.
#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "tests wait by the clock, and end where something is wrong"
)]

mod util;

use std::{collections::HashMap, net::Shutdown, time::Duration};

use crossbeam_channel::select;
use nebnet::{
    CloseReason, Dispatch, Event, EventOptions, EventSubscription, MessageType, NetService,
    OverflowPolicy, PauseCause, PeerId, RecvTimeoutError, SubscribeError, SubscribeOptions,
    Subscription, TryRecvError, TypeFilter, frame::Frame,
};
use util::{
    Client, HELLO, PATIENCE, closed_for, config, encoded, stop, wait_for_closed, wait_until,
};

const A: MessageType = MessageType(7);
const MODES: [Dispatch; 2] = [Dispatch::Thread, Dispatch::Inline];

#[track_caller]
fn next(events: &EventSubscription) -> Event {
    events.recv_timeout(PATIENCE).expect("another event")
}

#[track_caller]
fn connected(events: &EventSubscription) -> PeerId {
    match next(events) {
        Event::Connected { peer, link, .. } => {
            assert_eq!(link, None);
            peer
        }
        other => panic!("{other:?} instead of Connected"),
    }
}

#[track_caller]
fn closed(events: &EventSubscription, peer: PeerId, reason: CloseReason) {
    match next(events) {
        Event::Closed(row) => assert_eq!((row.peer, row.reason), (peer, reason)),
        other => panic!("{other:?} instead of Closed"),
    }
}

fn hello(agent: &str) -> Vec<u8> {
    let mut payload = b"NEBN\0\x01\0\0\0\0\0\0".to_vec();
    payload.extend_from_slice(&[0xAB; 16]);
    payload.extend_from_slice(&1_000_u32.to_be_bytes());
    payload.push(u8::try_from(agent.len()).unwrap());
    payload.extend_from_slice(agent.as_bytes());
    payload.push(0);
    encoded(&Frame::new(HELLO, &payload))
}

/// One thread takes both, in whichever order they come. When `Connected` is taken, no message of
/// the peer was taken before; when `Closed` is, all that it sent is there.
#[test]
fn messages_come_between_connected_and_closed() {
    const PEERS: usize = 40;
    const COUNT: usize = 25;
    for dispatch in MODES {
        let mut service = NetService::new(config().dispatch(dispatch)).unwrap();
        let events = service
            .handle()
            .subscribe_events(EventOptions::new())
            .unwrap();
        let mut messages = service.handle().subscribe(TypeFilter::all()).unwrap();
        service.start().unwrap();
        let addr = service.local_addrs()[0];
        let clients = std::thread::spawn(move || {
            let bytes = encoded(&Frame::new(A, b"x")).repeat(COUNT);
            let clients: Vec<Client> = (0..PEERS)
                .map(|_| {
                    let mut client = Client::connect(addr);
                    assert!(client.try_write(&bytes));
                    client.stream.shutdown(Shutdown::Write).unwrap();
                    client
                })
                .collect();
            clients
                .into_iter()
                .for_each(|mut client| client.expect_end_of_any_kind());
        });
        let (mut counts, mut ended) = (HashMap::<PeerId, usize>::new(), 0);
        while ended < PEERS {
            select! {
                recv(events.receiver()) -> delivery => match delivery.unwrap().into_event() {
                    Event::Connected { peer, .. } => assert_eq!(counts.insert(peer, 0), None),
                    Event::Closed(row) => {
                        while let Ok(batch) = messages.try_recv_batch() {
                            *counts.get_mut(&batch.peer()).unwrap() += batch.len();
                        }
                        assert_eq!(counts[&row.peer], COUNT);
                        assert_eq!(row.inbound.messages, COUNT as u64);
                        ended += 1;
                    }
                    other => panic!("{other:?}"),
                },
                recv(messages.receiver()) -> delivery => {
                    let batch = delivery.unwrap().into_batch();
                    // The event is in its queue already, and is taken first.
                    while let Some(peer) = early(&events, &counts, batch.peer()) {
                        counts.insert(peer, 0);
                    }
                    *counts.get_mut(&batch.peer()).unwrap() += batch.len();
                }
                default(PATIENCE) => panic!("nothing comes"),
            }
        }
        clients.join().unwrap();
        assert_eq!(counts.len(), PEERS);
        stop(&mut service);
    }
}

/// Takes an event because a message came of a peer that is not known yet.
fn early(
    events: &EventSubscription,
    counts: &HashMap<PeerId, usize>,
    peer: PeerId,
) -> Option<PeerId> {
    if counts.contains_key(&peer) {
        return None;
    }
    match events
        .try_recv()
        .expect("Connected comes before the message")
    {
        Event::Connected { peer, .. } => Some(peer),
        other => panic!("{other:?}"),
    }
}

#[test]
fn hello_comes_before_the_messages_behind_it() {
    for (dispatch, required) in MODES.into_iter().zip([true, false]) {
        let config = config().dispatch(dispatch).require_hello(required);
        let mut service = NetService::new(config).unwrap();
        let events = service
            .handle()
            .subscribe_events(EventOptions::new())
            .unwrap();
        let mut messages = service.handle().subscribe(A).unwrap();
        service.start().unwrap();
        let mut client = Client::connect(service.local_addrs()[0]);
        let mut bytes = hello("events/1");
        bytes.extend(encoded(&Frame::new(A, b"x")));
        assert!(client.try_write(&bytes));
        let message = messages.recv_timeout(PATIENCE).unwrap();
        let peer = connected(&events);
        assert_eq!(message.peer(), peer);
        match events.try_recv().unwrap() {
            Event::Hello {
                peer: same,
                identity,
            } => {
                assert_eq!((same, &*identity.agent), (peer, "events/1"));
                assert_eq!(identity.node_id.0, [0xAB; 16]);
            }
            other => panic!("{other:?}"),
        }
        stop(&mut service);
        closed(&events, peer, CloseReason::Shutdown);
        assert_eq!(events.try_recv(), Err(TryRecvError::Disconnected));
    }
}

/// Whoever is refused was never connected; nor was who does not say the HELLO that is required.
#[test]
fn refused_peers_give_no_events() {
    let mut service = NetService::new(config().max_peers(1)).unwrap();
    let events = service
        .handle()
        .subscribe_events(EventOptions::new())
        .unwrap();
    service.start().unwrap();
    let mut first = Client::connect(service.local_addrs()[0]);
    first.ping(b"1");
    let mut second = Client::connect(service.local_addrs()[0]);
    second.expect_bye(17);
    drop(second);
    wait_for_closed(&service, CloseReason::TooManyPeers, 1);
    drop(first);
    let peer = connected(&events);
    closed(&events, peer, CloseReason::PeerClosed);
    stop(&mut service);
    assert_eq!(
        events.recv_timeout(PATIENCE),
        Err(RecvTimeoutError::Disconnected)
    );

    let mut service = NetService::new(config().require_hello(true)).unwrap();
    let events = service
        .handle()
        .subscribe_events(EventOptions::new())
        .unwrap();
    service.start().unwrap();
    let mut rude = Client::connect(service.local_addrs()[0]);
    rude.send_message(7, b"x");
    rude.expect_bye(9);
    wait_for_closed(&service, CloseReason::HelloRequired, 1);
    stop(&mut service);
    assert_eq!(events.iter().count(), 0);
}

/// More peers than the dispatch queue has places for events.
#[test]
fn a_stop_tells_the_end_of_every_peer() {
    for dispatch in MODES {
        for deadline in [Duration::ZERO, Duration::from_secs(5)] {
            let mut service = NetService::new(config().dispatch(dispatch)).unwrap();
            let events = service
                .handle()
                .subscribe_events(EventOptions::new())
                .unwrap();
            service.start().unwrap();
            let addr = service.local_addrs()[0];
            let clients: Vec<Client> = (0..200).map(|_| Client::connect(addr)).collect();
            wait_until("all peers", || service.handle().snapshot().peers == 200);
            let report = util::stop_within(&mut service, deadline);
            assert!(report.joined);
            drop(clients);
            let row = &report.snapshot.event_subscribers[0];
            assert_eq!((row.matched, row.queued, row.dropped), (400, 400, 0));
            let all: Vec<Event> = events.iter().collect();
            let ends = all.iter().filter(|event| matches!(event, Event::Closed(_)));
            assert_eq!((all.len(), ends.count()), (400, 200));
            let in_order = all.windows(2).all(|two| {
                let closed = |event: &Event| matches!(event, Event::Closed(_));
                closed(&two[1]) || !closed(&two[0])
            });
            // Loops do not stop in one moment.
            assert!(in_order || util::shards() > 1);
        }
    }
}

#[test]
fn a_full_subscriber_knows_what_it_missed() {
    // Each loop counts what is missing of its own.
    let mut service = NetService::new(config().shards(1)).unwrap();
    let options = EventOptions::new().name("small").capacity(3);
    let small = service.handle().subscribe_events(options).unwrap();
    let all = service
        .handle()
        .subscribe_events(EventOptions::new())
        .unwrap();
    service.start().unwrap();
    let addr = service.local_addrs()[0];
    let come_and_go = |count| {
        for _ in 0..count {
            drop(Client::connect(addr));
            assert!(matches!(next(&all), Event::Connected { .. }));
            assert!(matches!(next(&all), Event::Closed(_)));
        }
    };
    come_and_go(10);
    let row = small.row();
    assert_eq!((row.matched, row.queued, row.dropped), (20, 3, 17));
    for _ in 0..3 {
        next(&small);
        assert_eq!(small.missed(), 0);
    }
    come_and_go(1);
    next(&small);
    assert_eq!(small.missed(), 17);
    next(&small);
    assert_eq!(small.missed(), 0);
    let rows = service.handle().snapshot().event_subscribers;
    assert_eq!((rows.len(), &*rows[0].name), (2, "small"));
    let (row, other) = (&rows[0], &rows[1]);
    assert_eq!((row.matched, row.taken, row.dropped), (22, 5, 17));
    assert_eq!((other.matched, other.taken, other.dropped), (22, 22, 0));
    drop(all);
    assert_eq!(service.handle().snapshot().event_subscribers.len(), 1);
    let report = stop(&mut service);
    assert!(
        report
            .to_string()
            .contains("event subscriber small: 22 events")
    );
    let late = service.handle().subscribe_events(EventOptions::new());
    assert_eq!(late.err(), Some(SubscribeError::Stopped));
}

#[test]
fn capacities_are_checked() {
    let service = NetService::new(config()).unwrap();
    for capacity in [0, (1 << 22) + 1] {
        let error = service
            .handle()
            .subscribe_events(EventOptions::new().capacity(capacity));
        assert!(matches!(
            error,
            Err(SubscribeError::OutOfRange {
                setting: "capacity",
                ..
            })
        ));
    }
}

/// A subscriber that does not take holds back the peer that sends to it, which is told, and so is
/// its end. Another peer is not held back.
#[test]
fn a_peer_that_is_held_back_is_told_as_paused() {
    for dispatch in MODES {
        let mut service = NetService::new(config().dispatch(dispatch)).unwrap();
        let events = service
            .handle()
            .subscribe_events(EventOptions::new())
            .unwrap();
        let options = SubscribeOptions::new(A)
            .messages(1)
            .overflow(OverflowPolicy::Pause);
        let slow = service.handle().subscribe_with(options).unwrap();
        service.start().unwrap();
        let mut client = Client::connect(service.local_addrs()[0]);
        let peer = connected(&events);
        let mut other = Client::connect(service.local_addrs()[0]);
        connected(&events);
        for _ in 0..2 {
            send_until_paused(&mut client, &events, peer);
            other.ping(b"1");
            take_all(&slow);
            assert_eq!(next(&events), Event::Resumed { peer });
        }
        // Whoever closes while it is paused is not told as resumed.
        send_until_paused(&mut client, &events, peer);
        client.reset();
        let report = util::stop_within(&mut service, Duration::ZERO);
        assert!(report.joined);
        let rest: Vec<Event> = events.iter().collect();
        let ends = rest.iter().rev().take(2);
        assert!(ends.clone().count() == 2, "{rest:?}");
        assert!(
            ends.clone().all(|event| matches!(event, Event::Closed(_))),
            "{rest:?}"
        );
    }
}

/// Sends one message after the other until the service says that it does not read them.
#[track_caller]
fn send_until_paused(client: &mut Client, events: &EventSubscription, peer: PeerId) {
    let bytes = encoded(&Frame::new(A, b"x"));
    let event = loop {
        assert!(client.try_write(&bytes));
        match events.recv_timeout(Duration::from_millis(10)) {
            Ok(event) => break event,
            Err(RecvTimeoutError::Timeout) => {}
            Err(error) => panic!("{error}"),
        }
    };
    let cause = PauseCause::Subscriber;
    assert_eq!(event, Event::Paused { peer, cause });
}

fn take_all(slow: &Subscription) {
    while slow.row().queued + slow.row().parked > 0 {
        if let Ok(delivery) = slow.receiver().try_recv() {
            drop(delivery.into_batch());
        }
    }
}

/// Messages that nobody lets go of use up the credit.
#[test]
fn a_peer_without_credit_is_told_as_paused() {
    let config = config().outbox_messages(4);
    let mut service = NetService::new(config).unwrap();
    let events = service
        .handle()
        .subscribe_events(EventOptions::new())
        .unwrap();
    let mut messages = service.handle().subscribe(A).unwrap();
    service.start().unwrap();
    let mut client = Client::connect(service.local_addrs()[0]);
    let peer = connected(&events);
    let mut kept = Vec::new();
    for _ in 0..4 {
        client.send_message(7, b"x");
        kept.push(messages.recv_batch_timeout(PATIENCE).unwrap());
    }
    client.send_message(7, b"x");
    let cause = PauseCause::Credit;
    assert_eq!(next(&events), Event::Paused { peer, cause });
    kept.clear();
    assert_eq!(next(&events), Event::Resumed { peer });
    assert_eq!(messages.recv_batch_timeout(PATIENCE).unwrap().len(), 1);
    stop(&mut service);
    closed(&events, peer, CloseReason::Shutdown);
}

/// Somebody who comes later sees what comes after that; without a subscriber nothing is made.
#[test]
fn subscribers_may_come_and_go() {
    let mut service = NetService::new(config()).unwrap();
    service.start().unwrap();
    let mut client = Client::connect(service.local_addrs()[0]);
    client.ping(b"1");
    let events = service
        .handle()
        .subscribe_events(EventOptions::new())
        .unwrap();
    drop(client);
    let Event::Closed(row) = next(&events) else {
        panic!("the peer closed");
    };
    assert_eq!(row.reason, CloseReason::PeerClosed);
    drop(events);
    drop(Client::connect(service.local_addrs()[0]));
    wait_until("the second peer to close", || {
        closed_for(&service.handle().snapshot(), CloseReason::PeerClosed) == 2
    });
    stop(&mut service);
}

/// A metrics callback that panics ends the service; the ends of its peers are told if the loop can.
#[test]
fn a_failure_tells_the_end_of_every_peer() {
    let mut service = NetService::new(config().dispatch(Dispatch::Inline)).unwrap();
    util::expect_panics();
    service.on_metrics(|_| panic!("a defect of the test"));
    let events = service
        .handle()
        .subscribe_events(EventOptions::new())
        .unwrap();
    service.start().unwrap();
    let client = Client::connect(service.local_addrs()[0]);
    let peer = connected(&events);
    closed(&events, peer, CloseReason::Internal);
    assert_eq!(
        events.recv_timeout(PATIENCE),
        Err(RecvTimeoutError::Disconnected)
    );
    drop(client);
    assert!(
        util::stop_within(&mut service, Duration::ZERO)
            .failure
            .is_some()
    );
}
