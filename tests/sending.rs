//! Priorities, full outboxes and broadcasts, over real sockets.
#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests wait by the clock, and end where something is wrong"
)]

mod util;

use std::time::Duration;

use nebnet::{
    CloseReason, ConnectOptions, Dispatch, HandlerOptions, MessageRef, MessageType, NetService,
    OutboxFull, Outgoing, OutgoingBatch, PeerId, Priority, Recipients, Replier, SendError,
    TypeFilter,
    frame::{Frame, Hello},
};
use util::{
    Client, End, HELLO, OK, PATIENCE, closed_for, config, only_peer, start_tap, stop, stop_tap,
    wait_for_row, wait_until,
};

const LOW: MessageType = MessageType(1);
const NORMAL: MessageType = MessageType(2);
const HIGH: MessageType = MessageType(3);

fn priority_of(message_type: MessageType) -> Priority {
    match message_type {
        LOW => Priority::Low,
        NORMAL => Priority::Normal,
        _ => Priority::High,
    }
}

/// A numbered message whose type says its priority.
fn numbered(message_type: MessageType, number: u32, size: usize) -> Outgoing<'static> {
    let mut payload = number.to_be_bytes().to_vec();
    payload.resize(size.max(4), b'.');
    Outgoing::new(message_type, payload).priority(priority_of(message_type))
}

fn number(payload: &[u8]) -> u32 {
    let (number, _) = payload.split_first_chunk().unwrap();
    u32::from_be_bytes(*number)
}

/// What a client gets until the end, or until `last` has come: types and numbers.
fn receive_until(client: &mut Client, last: Option<u32>) -> Vec<(MessageType, u32)> {
    let mut got = Vec::new();
    while let Some(answer) = client.receive() {
        if answer.message_type.is_protocol() {
            continue;
        }
        got.push((answer.message_type, number(&answer.payload)));
        if last == Some(number(&answer.payload)) {
            break;
        }
    }
    got
}

/// Numbers of one type, which have to rise.
#[track_caller]
fn rising(got: &[(MessageType, u32)], message_type: MessageType) -> usize {
    let numbers: Vec<u32> = got
        .iter()
        .filter(|one| one.0 == message_type)
        .map(|one| one.1)
        .collect();
    assert!(
        numbers.is_sorted_by(|a, b| a < b),
        "{message_type} is out of order"
    );
    numbers.len()
}

/// Clients that are connected and introduced by a PING, with their peers, in order.
fn crowd(service: &NetService, count: usize) -> Vec<(PeerId, Client)> {
    let addr = service.local_addrs()[0];
    let handle = service.handle();
    (0..count)
        .map(|_| {
            let mut client = Client::connect(addr);
            client.ping(b"");
            let local = client.stream.local_addr().unwrap();
            let rows = handle.peers().unwrap();
            let row = rows.iter().find(|row| row.addr == local).unwrap();
            (row.peer, client)
        })
        .collect()
}

#[test]
fn the_urgent_comes_before_what_waits_for_a_slow_reader() {
    for dispatch in [Dispatch::Thread, Dispatch::Inline] {
        let config = config().dispatch(dispatch).outbox_bytes(64 << 20);
        let (service, tap) = start_tap(config);
        let mut client = Client::connect_small(service.local_addrs()[0]);
        let (handle, peer) = (service.handle(), only_peer(&service));
        // More than the kernel takes, so that the rest waits with us.
        let mut count = 0;
        while handle.peers().unwrap()[0].queued.bytes < 4 << 20 {
            for _ in 0..100 {
                for message_type in [LOW, NORMAL] {
                    let message = numbered(message_type, count, 1_000);
                    handle.send(peer, message).unwrap();
                }
                count += 1;
            }
        }
        for number in 0..10 {
            handle.send(peer, numbered(HIGH, number, 10)).unwrap();
        }
        handle.send(peer, numbered(LOW, u32::MAX, 10)).unwrap();
        let got = receive_until(&mut client, Some(u32::MAX));
        assert_eq!(rising(&got, LOW), count as usize + 1);
        assert_eq!(rising(&got, NORMAL), count as usize);
        assert_eq!(rising(&got, HIGH), 10);
        let last_high = got.iter().rposition(|one| one.0 == HIGH).unwrap();
        let behind = got.len() - last_high;
        assert!(
            behind > 2_000,
            "only {behind} messages are behind the urgent ones"
        );
        drop(client);
        let report = stop_tap(service, tap);
        assert_eq!(report.snapshot.outbound_dropped.messages, 0);
    }
}

#[test]
fn a_batch_has_one_priority() {
    let (service, tap) = start_tap(config());
    let mut client = Client::connect(service.local_addrs()[0]);
    let peer = only_peer(&service);
    let mut batch = OutgoingBatch::new().priority(Priority::High);
    batch.push(numbered(HIGH, 0, 4)).unwrap();
    batch.push(numbered(LOW, 1, 4)).unwrap();
    service.handle().send_batch(peer, &mut batch).unwrap();
    let got = receive_until(&mut client, Some(1));
    assert_eq!(got, [(HIGH, 0), (LOW, 1)]);
    drop(client);
    stop_tap(service, tap);
}

#[test]
fn a_full_outbox_costs_the_peer_its_connection_by_policy() {
    let config = config()
        .outbox_bytes(64 << 10)
        .outbox_full(OutboxFull::Close);
    let (service, tap) = start_tap(config);
    let mut client = Client::connect_small(service.local_addrs()[0]);
    let (handle, peer) = (service.handle(), only_peer(&service));
    let mut accepted = 0;
    let error = loop {
        match handle.send(peer, numbered(NORMAL, accepted, 10_000)) {
            Ok(()) => accepted += 1,
            Err(rejected) => break rejected.error,
        }
        // The loop has had its turn when it answers: what is queued then, the kernel did not take.
        let _ = handle.peers().unwrap();
        assert!(accepted < 1_000_000, "somebody takes it all");
    };
    assert_eq!(error, SendError::Full);
    let after = handle.send(peer, (NORMAL, b"after"));
    assert!(matches!(
        after.map_err(nebnet::Rejected::into_error),
        Err(SendError::Closing | SendError::NotConnected)
    ));
    let row = wait_for_row(&service, peer);
    assert_eq!(row.reason, CloseReason::SlowPeer);
    assert_eq!(
        row.outbound.messages + row.lost.messages,
        u64::from(accepted)
    );
    assert!(row.lost.messages > 0 && row.overflowed.messages == 0);
    client.stream.set_nonblocking(false).unwrap();
    while client.receive().is_some() {}
    assert_eq!(client.end(), Some(End::Reset));
    let report = stop_tap(service, tap);
    assert_eq!(report.snapshot.outbound_dropped, row.lost);
}

#[test]
fn what_is_oldest_is_dropped_by_policy_and_counted() {
    // It reads nothing while the messages are sent, however long that takes.
    let config = config()
        .outbox_bytes(64 << 10)
        .outbox_full(OutboxFull::DropOldest)
        .write_stall_timeout(Duration::ZERO);
    let (service, tap) = start_tap(config);
    let mut client = Client::connect_small(service.local_addrs()[0]);
    let (handle, peer) = (service.handle(), only_peer(&service));
    let count = 30_000;
    for number in 0..count {
        let message_type = [LOW, NORMAL, HIGH][number as usize % 3];
        // Never full for the highest: there is always something older that may go.
        let size = if message_type == HIGH { 10 } else { 2_000 };
        let sent = handle.send(peer, numbered(message_type, number, size));
        if let Err(rejected) = sent {
            // But nothing goes for what is below it.
            assert_eq!(rejected.error, SendError::Full);
            assert_ne!(message_type, HIGH);
        }
    }
    let row = handle.peers().unwrap().remove(0);
    assert!(row.overflowed.messages > 1_000, "{row:?}");
    assert!(row.queued.bytes <= 64 << 10, "{row:?}");
    handle.send(peer, numbered(HIGH, count, 4)).unwrap();
    assert!(handle.close(peer));
    let got = receive_until(&mut client, None);
    for message_type in [LOW, NORMAL, HIGH] {
        rising(&got, message_type);
    }
    assert!(got.contains(&(HIGH, count)), "the latest is there");
    drop(client);
    let row = wait_for_row(&service, peer);
    assert_eq!(row.reason, CloseReason::AppClosed);
    assert_eq!(row.outbound.messages, got.len() as u64);
    assert_eq!(row.lost.messages, 0);
    let report = stop_tap(service, tap);
    let snapshot = &report.snapshot;
    assert_eq!(snapshot.outbound_overflowed, row.overflowed);
    assert_eq!(
        snapshot.outbound_accepted.messages,
        got.len() as u64 + row.overflowed.messages
    );
    assert!(
        report.to_string().contains("dropped for later ones"),
        "{report}"
    );
}

/// Sends until there is no room for a while: the kernel may take a little more now and then.
fn fill(service: &NetService, peer: PeerId, payload: &[u8]) {
    let (handle, patience) = (service.handle(), Duration::from_millis(100));
    let send = || handle.send_timeout(peer, Outgoing::new(NORMAL, payload), patience);
    while send().is_ok() {}
}

#[test]
fn a_broadcast_reaches_those_it_is_for() {
    let (service, tap) = start_tap(config());
    let mut crowd = crowd(&service, 5);
    let peers: Vec<PeerId> = crowd.iter().map(|(peer, _)| *peer).collect();
    let payload = [b'b'; 256];
    let sorted = |mut peers: Vec<PeerId>| {
        peers.sort_unstable();
        peers
    };
    let all = service
        .handle()
        .broadcast((MessageType(10), &payload), Recipients::All);
    assert_eq!(sorted(all.sent), sorted(peers.clone()));
    let but = Recipients::AllBut(peers[0]);
    let but = service.handle().broadcast((MessageType(11), &payload), but);
    assert_eq!(sorted(but.sent), sorted(peers[1..].to_vec()));
    let list = service
        .handle()
        .broadcast((MessageType(12), vec![7; 100_000]), &[peers[3], peers[1]]);
    assert_eq!(list.sent, [peers[3], peers[1]]);
    let ports: Vec<u16> = crowd[..2]
        .iter()
        .map(|(_, client)| client.stream.local_addr().unwrap().port())
        .collect();
    let matches = |peer: &nebnet::PeerInfo| ports.contains(&peer.addr.port());
    let last = Outgoing::new(MessageType(13), b"last")
        .correlation(9)
        .checksum(true);
    let matching = service
        .handle()
        .broadcast(&last, Recipients::Matching(&matches));
    assert_eq!(sorted(matching.sent), sorted(peers[..2].to_vec()));
    for report in [all.skipped, but.skipped, list.skipped, matching.skipped] {
        assert_eq!(report, []);
    }
    for (index, (_, client)) in crowd.iter_mut().enumerate() {
        client.expect(10, &payload);
        if index > 0 {
            client.expect(11, &payload);
        }
        if [1, 3].contains(&index) {
            client.expect(12, &[7; 100_000]);
        }
        if index < 2 {
            let answer = client.receive().unwrap();
            assert_eq!((answer.correlation, answer.checksum), (Some(9), true));
        }
    }
    let reserved = service
        .handle()
        .broadcast((MessageType(0xFF00), b""), Recipients::All);
    assert_eq!((reserved.sent.len(), reserved.skipped.len()), (0, 5));
    drop(crowd);
    let report = stop_tap(service, tap);
    assert_eq!(report.snapshot.outbound_written.messages, 5 + 4 + 2 + 2);
}

#[test]
fn who_is_full_or_takes_less_is_left_out_of_a_broadcast_and_named() {
    let (service, tap) = start_tap(config().outbox_bytes(64 << 10));
    let addr = service.local_addrs()[0];
    let full = Client::connect_small(addr);
    let full_peer = only_peer(&service);
    let payload = [b'f'; 10_000];
    fill(&service, full_peer, &payload);
    // It takes payloads up to 100 bytes.
    let mut small = Client::connect(addr);
    let hello = Hello {
        payload_size_max: 100,
        ..Hello::default()
    };
    small.send(&Frame::new(HELLO, &hello.to_payload()));
    assert_eq!(small.receive().unwrap().message_type, OK);
    let mut others = Vec::new();
    for _ in 0..3 {
        let mut client = Client::connect(addr);
        client.ping(b"");
        others.push(client);
    }
    let payload = [b'b'; 60_000];
    let report = service
        .handle()
        .broadcast((NORMAL, &payload), Recipients::All);
    assert_eq!(report.sent.len(), 3);
    assert_eq!(report.skipped.len(), 2);
    for (peer, error) in report.skipped {
        if peer == full_peer {
            assert_eq!(error, SendError::Full);
        } else {
            let (size, limit) = (payload.len(), 100);
            assert_eq!(error, SendError::TooLarge { size, limit });
        }
    }
    for client in &mut others {
        client.expect(NORMAL.0, &payload);
    }
    let report = service.handle().broadcast(
        (NORMAL, b"short"),
        Recipients::Matching(&|peer| peer.identity.is_some() && peer.link.is_none()),
    );
    assert_eq!(report.sent.len(), 1);
    small.expect(NORMAL.0, b"short");
    full.reset();
    drop((small, others));
    stop_tap(service, tap);
}

/// A crowd of peers is reached by one call from each of several threads at once, while peers come
/// and go; nobody gets a broken stream, and all sums add up.
#[test]
fn broadcasts_at_once_keep_every_stream_whole() {
    let (service, tap) = start_tap(config());
    let mut crowd = crowd(&service, 100);
    let stay: Vec<_> = crowd.iter().map(|(peer, _)| *peer).collect();
    let rounds = 50;
    std::thread::scope(|scope| {
        for (message_type, size) in [(LOW, 10), (NORMAL, 300), (HIGH, 6_000)] {
            let (handle, stay) = (service.handle(), &stay);
            scope.spawn(move || {
                for number in 0..rounds {
                    let message = numbered(message_type, number, size);
                    let report = handle.broadcast(&message, Recipients::All);
                    // One that goes may have gone since it was looked for.
                    for (peer, error) in report.skipped {
                        let ends = [SendError::NotConnected, SendError::Closing];
                        assert!(ends.contains(&error) && !stay.contains(&peer), "{error}");
                    }
                    assert!(report.sent.len() >= 100);
                }
            });
        }
        let addr = service.local_addrs()[0];
        scope.spawn(move || {
            for _ in 0..50 {
                let mut client = Client::connect(addr);
                client.send(&Frame::new(util::PING, b""));
                // What is sent to all may be before it.
                while client.receive().unwrap().message_type != util::PONG {}
            }
        });
    });
    for (_, client) in &mut crowd {
        let mut got = Vec::new();
        while got.len() < 3 * rounds as usize {
            let answer = client.receive().unwrap();
            got.push((answer.message_type, number(&answer.payload)));
        }
        for message_type in [LOW, NORMAL, HIGH] {
            assert_eq!(rising(&got, message_type), rounds as usize);
        }
    }
    drop(crowd);
    stop_tap(service, tap);
}

// ----- checksums ---------------------------------------------------------------------------------

/// Of two services that require them, each sends them; of a client, what is without is refused.
#[test]
fn a_service_may_require_checksums_of_whoever_speaks_to_it() {
    let strict = || config().checksums(true).require_checksums(true);
    let mut service = NetService::new(strict()).unwrap();
    let mut tap = service.handle().subscribe(TypeFilter::all()).unwrap();
    service.start().unwrap();
    let addr = service.local_addrs()[0];
    let mut other = NetService::new(strict()).unwrap();
    other.start().unwrap();
    other.handle().connect(addr).unwrap();
    let peer = only_peer(&other);
    wait_until("it may be sent to", || {
        other.handle().send(peer, (MessageType(7), "x")).is_ok()
    });
    assert_eq!(tap.recv_timeout(PATIENCE).unwrap().payload(), b"x");
    for plain in [
        Frame::new(MessageType(7), b"2"),
        Frame::new(util::PING, b""),
    ] {
        let mut client = Client::connect(addr);
        for message_type in [util::PING, MessageType(7)] {
            client.send(&Frame::new(message_type, b"1").with_checksum(true));
        }
        client.expect(util::PONG.0, b"1");
        client.send(&plain);
        assert_eq!(tap.recv_timeout(PATIENCE).unwrap().payload(), b"1");
        client.expect_bye(7);
    }
    assert!(tap.try_recv().is_err());
    let report = stop(&mut other);
    assert_eq!(closed_for(&report.snapshot, CloseReason::Shutdown), 1);
    let report = stop(&mut service);
    assert_eq!(closed_for(&report.snapshot, CloseReason::BadChecksum), 2);
}

/// All that goes to its peer, by every way there is, and nothing that goes to others.
#[test]
fn a_link_may_be_made_with_checksums() {
    let mut strict = NetService::new(config().require_checksums(true)).unwrap();
    let mut tap = strict.handle().subscribe(TypeFilter::all()).unwrap();
    strict.start().unwrap();
    let mut service = NetService::new(config()).unwrap();
    let answer = |message: MessageRef<'_>, replier: &mut Replier<'_>| {
        replier.reply(message.payload()).unwrap();
        replier.send((MessageType(6), b"and more")).unwrap();
    };
    let options = HandlerOptions::new(MessageType(5));
    service.handle_inline_each(options, |_| answer).unwrap();
    service.start().unwrap();
    let mut client = Client::connect(service.local_addrs()[0]);
    client.ping(b"");
    let (handle, plain) = (service.handle(), only_peer(&service));
    let options = ConnectOptions::from(strict.local_addrs()[0]).checksums(true);
    handle.connect(options).unwrap();
    let find = || {
        handle
            .peers()
            .unwrap()
            .into_iter()
            .find(|row| row.link.is_some())
    };
    wait_until("it connects", || find().is_some());
    let peer = find().unwrap().peer;
    let first = || handle.send(peer, (MessageType(7), "first")).is_ok();
    wait_until("it may be sent to", first);
    let mut expect = |message_type| {
        let message = tap.recv_timeout(PATIENCE).unwrap();
        assert_eq!(message.message_type(), MessageType(message_type));
        assert!(message.checksum(), "{message:?}");
        message
    };
    let back = expect(7).peer();
    strict
        .handle()
        .send(back, (MessageType(5), "inline"))
        .unwrap();
    expect(5);
    expect(6);
    for size in [0, 10, 5_000, 100_000] {
        handle.send(peer, (MessageType(8), vec![1; size])).unwrap();
        assert_eq!(expect(8).payload().len(), size);
        let payload = &vec![2; size];
        let report = handle.broadcast((MessageType(9), payload), Recipients::All);
        assert_eq!((report.sent.len(), report.skipped.len()), (2, 0));
        assert_eq!(expect(9).payload(), *payload);
        let frame = client.receive().unwrap();
        assert!(!frame.checksum && frame.payload == *payload);
    }
    for peer in [peer, plain] {
        let mut batch = OutgoingBatch::new();
        batch.push(Outgoing::new(MessageType(10), b"1")).unwrap();
        batch.push(Outgoing::new(MessageType(10), b"2")).unwrap();
        handle.send_batch(peer, &mut batch).unwrap();
    }
    assert_eq!([expect(10).payload(), expect(10).payload()], [b"1", b"2"]);
    assert!(!client.receive().unwrap().checksum && !client.receive().unwrap().checksum);
    let pending = handle
        .request(peer, (MessageType(11), b"?"), PATIENCE)
        .unwrap();
    strict.handle().reply(&expect(11), "!").unwrap();
    assert_eq!(pending.recv().unwrap().payload(), b"!");
    drop(client);
    stop(&mut service);
    let report = stop(&mut strict);
    assert_eq!(closed_for(&report.snapshot, CloseReason::BadChecksum), 0);
}

/// Everything that the service sends, by every way there is.
#[test]
fn a_service_that_sends_checksums_sends_nothing_without() {
    let config = config().checksums(true).require_hello(true);
    let mut service = NetService::new(config).unwrap();
    let options = HandlerOptions::new(MessageType(5));
    let answer = |message: MessageRef<'_>, replier: &mut Replier<'_>| {
        replier.reply(message.payload()).unwrap();
        replier.send((MessageType(6), b"and more")).unwrap();
    };
    service.handle_inline_each(options, |_| answer).unwrap();
    let mut tap = service.handle().subscribe(TypeFilter::all()).unwrap();
    service.start().unwrap();
    let mut client = Client::connect(service.local_addrs()[0]);
    client.send(&Frame::new(HELLO, &Hello::default().to_payload()));
    let expect = |client: &mut Client, message_type: MessageType| {
        let answer = client.receive().expect("a frame");
        assert_eq!(answer.message_type, message_type);
        assert!(answer.checksum, "{answer:?}");
        answer
    };
    expect(&mut client, OK);
    client.send(&Frame::new(util::PING, b"ping"));
    expect(&mut client, util::PONG);
    client.send_message(5, b"inline");
    expect(&mut client, MessageType(5));
    expect(&mut client, MessageType(6));
    client.send_message(7, b"question");
    let question = tap.recv_timeout(PATIENCE).unwrap();
    let (peer, handle) = (question.peer(), service.handle());
    service.handle().reply(&question, "answer").unwrap();
    expect(&mut client, MessageType(7));
    for size in [0, 10, 5_000, 100_000] {
        handle.send(peer, (MessageType(8), vec![1; size])).unwrap();
        let sent = expect(&mut client, MessageType(8));
        assert_eq!(sent.payload, vec![1; size]);
        let payload = &vec![2; size];
        let report = handle.broadcast((MessageType(9), payload), Recipients::All);
        assert_eq!(report.sent, [peer]);
        assert_eq!(expect(&mut client, MessageType(9)).payload, *payload);
    }
    let mut batch = OutgoingBatch::new();
    for number in 0..10 {
        let payload = [number; 3];
        let message = Outgoing::new(MessageType(10), &payload);
        batch.push(message.checksum(number % 2 == 0)).unwrap();
    }
    handle.send_batch(peer, &mut batch).unwrap();
    assert!(batch.is_empty());
    for number in 0..10 {
        assert_eq!(expect(&mut client, MessageType(10)).payload, [number; 3]);
    }
    let pending = handle
        .request(peer, (MessageType(11), b"?"), PATIENCE)
        .unwrap();
    let asked = expect(&mut client, MessageType(11));
    client.send(&Frame {
        correlation: asked.correlation,
        ..Frame::new(MessageType(11), b"!")
    });
    assert_eq!(pending.recv().unwrap().payload(), b"!");
    assert!(service.handle().close(peer));
    expect(&mut client, util::BYE);
    stop(&mut service);
}
