//! Requests over real sockets: every one is resolved once, and no subscriber sees an answer.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests end where something is wrong, and say how long they wait"
)]

mod util;

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crossbeam_channel::bounded;
use nebnet::{
    CloseReason, Config, Dispatch, MessageType, NetService, Outgoing, OverflowPolicy, PeerId,
    PendingReply, RequestError, RequestRow, SendError, SubscribeOptions, TypeFilter,
    frame::{Bye, Frame},
};
use util::{
    Answer, BYE, Client, PATIENCE, config, encoded, only_peer, start_tap, stop, stop_tap,
    wait_until,
};

const ASK: MessageType = MessageType(7);
/// Longer than any test runs.
const LONG: Duration = Duration::from_secs(3600);

fn both(test: impl Fn(Config)) {
    test(config());
    test(config().dispatch(Dispatch::Inline));
}

fn connect(service: &NetService) -> (Client, PeerId) {
    let client = Client::connect(service.local_addrs()[0]);
    (client, only_peer(service))
}

fn ask(service: &NetService, peer: PeerId, payload: &[u8]) -> PendingReply {
    service
        .handle()
        .request(peer, (ASK, payload), LONG)
        .unwrap()
}

/// The frame that answers a question.
fn reply_to(question: &Answer, payload: &[u8]) -> Vec<u8> {
    let frame = Frame {
        message_type: question.message_type,
        correlation: question.correlation,
        checksum: question.checksum,
        payload,
    };
    encoded(&frame)
}

#[track_caller]
fn questions(client: &mut Client, count: usize) -> Vec<Answer> {
    let all: Vec<Answer> = (0..count)
        .map(|_| client.receive().expect("a question"))
        .collect();
    assert!(all.iter().all(|one| one.message_type == ASK));
    all
}

/// Every request that was sent ended in one way.
#[track_caller]
fn check(row: RequestRow) {
    let ended = row.answered + row.timed_out + row.closed + row.cancelled;
    assert_eq!(row.sent, ended + row.outstanding, "{row:?}");
}

#[test]
fn answers_find_their_requests_in_any_order() {
    both(|config| {
        let (service, mut tap) = start_tap(config);
        let (mut client, peer) = connect(&service);
        let pending: Vec<PendingReply> = (0..10_u8)
            .map(|number| ask(&service, peer, &[number]))
            .collect();
        let mut bytes = Vec::new();
        for question in questions(&mut client, 10).iter().rev() {
            bytes.extend(reply_to(question, &[question.payload[0], 1]));
            bytes.extend(encoded(&Frame::new(ASK, &question.payload)));
        }
        client.stream.write_all(&bytes).unwrap();
        for (number, pending) in (0..10_u8).zip(pending) {
            let id = pending.id();
            let answer = pending.recv().unwrap();
            assert_eq!((answer.peer(), answer.payload()), (peer, &[number, 1][..]));
            assert_eq!(answer.correlation(), Some(id.correlation()));
        }
        // Questions of the peer are not answers, whatever their type.
        for number in (0..10_u8).rev() {
            assert_eq!(tap.recv().unwrap().payload(), [number]);
        }
        drop(client);
        let report = stop_tap(service, tap);
        let row = report.snapshot.requests;
        assert_eq!((row.sent, row.answered, row.late), (10, 10, 0));
        assert_eq!(
            (report.snapshot.claimed, report.snapshot.unclaimed),
            (20, 0)
        );
        check(row);
    });
}

#[test]
fn an_answer_may_be_long_and_have_a_checksum() {
    let (service, tap) = start_tap(config());
    let (mut client, peer) = connect(&service);
    let message = Outgoing::new(ASK, vec![1; 100_000])
        .checksum(true)
        .correlation(5);
    let handle = service.handle();
    let pending = handle.request(peer, &message, LONG).unwrap();
    let question = client.receive().unwrap();
    assert_eq!(question.correlation, Some(pending.id().correlation()));
    assert!(question.checksum && question.payload == [1; 100_000]);
    let answer = reply_to(&question, &[2; 200_000]);
    client.stream.write_all(&answer).unwrap();
    let result = pending.recv_timeout(PATIENCE).unwrap().unwrap();
    assert!(result.checksum() && result.payload() == [2; 200_000]);
    drop((result, pending, client));
    stop_tap(service, tap);
}

#[test]
fn without_an_answer_time_is_over_and_a_late_one_is_counted() {
    both(|config| {
        let (service, tap) = start_tap(config);
        let (mut client, peer) = connect(&service);
        let timeout = Duration::from_millis(20);
        let started = Instant::now();
        let pending = service
            .handle()
            .request(peer, (ASK, b"?"), timeout)
            .unwrap();
        let other = ask(&service, peer, b"??");
        assert_eq!(pending.recv().unwrap_err(), RequestError::Timeout);
        assert!(started.elapsed() >= timeout, "never early");
        for question in questions(&mut client, 2) {
            client.stream.write_all(&reply_to(&question, b"!")).unwrap();
        }
        assert_eq!(other.recv().unwrap().payload(), b"!");
        drop(client);
        let row = stop_tap(service, tap).snapshot.requests;
        assert_eq!((row.answered, row.timed_out, row.late), (1, 1, 1));
        check(row);
    });
}

/// A peer that is not read, because a subscriber holds it back, does not stop the time.
#[test]
fn time_is_over_while_the_peer_is_not_read() {
    let mut service = NetService::new(config()).unwrap();
    let options = SubscribeOptions::new(TypeFilter::all())
        .messages(1)
        .overflow(OverflowPolicy::Pause);
    let full = service.handle().subscribe_with(options).unwrap();
    service.start().unwrap();
    let (mut client, peer) = connect(&service);
    for _ in 0..3 {
        client.send_message(1, b"x");
    }
    wait_until("a pause", || full.row().parked > 0);
    let timeout = Duration::from_millis(20);
    let pending = service
        .handle()
        .request(peer, (ASK, b"?"), timeout)
        .unwrap();
    assert_eq!(pending.recv().unwrap_err(), RequestError::Timeout);
    drop((full, client));
    stop(&mut service);
}

/// The dispatcher is held up until long after the deadline. What was read before it wins.
#[test]
fn an_answer_that_was_read_in_time_wins_over_its_deadline() {
    let mut service = NetService::new(config()).unwrap();
    let (entered, wait_for_entry) = bounded(1);
    let (leave, wait_for_leave) = bounded::<()>(1);
    let mut first = true;
    service.on_metrics(move |_| {
        if std::mem::take(&mut first) {
            entered.send(()).unwrap();
            let _ = wait_for_leave.recv();
        }
    });
    service.start().unwrap();
    let (mut client, peer) = connect(&service);
    wait_for_entry.recv_timeout(PATIENCE).unwrap();
    let timeout = Duration::from_millis(500);
    let started = Instant::now();
    let answered = service
        .handle()
        .request(peer, (ASK, b"1"), timeout)
        .unwrap();
    let ignored = service
        .handle()
        .request(peer, (ASK, b"2"), timeout)
        .unwrap();
    let question = &questions(&mut client, 2)[0];
    client.stream.write_all(&reply_to(question, b"!")).unwrap();
    wait_until("the answer", || {
        service.handle().snapshot().inbound.messages == 1
    });
    let in_time = started.elapsed() < timeout;
    wait_until("the deadline", || started.elapsed() > timeout * 2);
    leave.send(()).unwrap();
    assert_eq!(ignored.recv().unwrap_err(), RequestError::Timeout);
    if in_time {
        assert_eq!(answered.recv().unwrap().payload(), b"!");
    }
    drop(client);
    check(stop(&mut service).snapshot.requests);
}

#[test]
fn the_end_of_a_connection_is_told_with_its_reason() {
    both(|config| {
        let (mut service, _tap) = start_tap(config);
        let (mut client, peer) = connect(&service);
        let pending = ask(&service, peer, b"?");
        questions(&mut client, 1);
        let bye = Bye { code: 1, text: "" };
        client.send(&Frame::new(BYE, &bye.to_payload()));
        let closed = RequestError::Closed(CloseReason::PeerBye);
        assert_eq!(pending.recv().unwrap_err(), closed);
        drop(client);
        wait_until("the end", || service.handle().snapshot().peers == 0);

        let (client, peer) = connect(&service);
        let pending = ask(&service, peer, b"?");
        drop(client.stream.shutdown(std::net::Shutdown::Write));
        let closed = RequestError::Closed(CloseReason::PeerClosed);
        assert_eq!(pending.recv().unwrap_err(), closed);
        drop(client);
        wait_until("the end", || service.handle().snapshot().peers == 0);

        let (client, peer) = connect(&service);
        let pending = ask(&service, peer, b"?");
        assert!(service.handle().close(peer));
        let closed = RequestError::Closed(CloseReason::AppClosed);
        assert_eq!(pending.recv().unwrap_err(), closed);
        let error = service
            .handle()
            .request(peer, (ASK, b"?"), LONG)
            .unwrap_err()
            .error;
        let gone = [SendError::NotConnected, SendError::Closing].map(RequestError::Send);
        assert!(gone.contains(&error), "{error}");
        drop(client);
        let row = stop(&mut service).snapshot.requests;
        assert_eq!((row.sent, row.closed), (3, 3));
    });
}

#[test]
fn answers_right_before_the_end_all_arrive() {
    both(|config| {
        let (service, tap) = start_tap(config);
        for _ in 0..2 {
            let (mut client, peer) = connect(&service);
            let pending: Vec<PendingReply> =
                (0..1_000).map(|_| ask(&service, peer, b"?")).collect();
            let mut bytes = Vec::new();
            for question in questions(&mut client, 1_000).iter().take(999) {
                bytes.extend(reply_to(question, b"!"));
            }
            client.stream.write_all(&bytes).unwrap();
            drop(client);
            let mut results: Vec<_> = pending.into_iter().map(PendingReply::recv).collect();
            let closed = RequestError::Closed(CloseReason::PeerClosed);
            assert_eq!(results.pop().unwrap().unwrap_err(), closed);
            assert!(results.iter().all(Result::is_ok));
            wait_until("the end", || service.handle().snapshot().peers == 0);
        }
        let row = stop_tap(service, tap).snapshot.requests;
        assert_eq!((row.answered, row.closed, row.late), (1_998, 2, 0));
    });
}

/// An answer waits for room in the dispatch queue while its connection ends. It wins over the end,
/// and the time of the others does not stand still meanwhile.
#[test]
fn the_end_waits_for_what_was_read_and_time_does_not() {
    both(|config| {
        // The bound is that of each loop.
        let mut service = NetService::new(config.shards(1).dispatch_messages(2)).unwrap();
        let options = SubscribeOptions::new(TypeFilter::all())
            .messages(1)
            .overflow(OverflowPolicy::Pause);
        let mut full = service.handle().subscribe_with(options).unwrap();
        service.start().unwrap();
        let (mut client, peer) = connect(&service);
        let [answered, ended] = [b"1", b"2"].map(|payload| ask(&service, peer, payload));
        let timeout = Duration::from_millis(1_500);
        let timed = service
            .handle()
            .request(peer, (ASK, b"3"), timeout)
            .unwrap();
        let question = questions(&mut client, 3).remove(0);
        let mut others = Vec::new();
        for count in 1..=3 {
            let mut other = Client::connect(service.local_addrs()[0]);
            other.send_message(1, b"x");
            wait_until("a message", || full.row().matched == count);
            others.push(other);
        }
        let mut bytes = encoded(&Frame::new(MessageType(1), b"y"));
        bytes.extend(reply_to(&question, b"!"));
        client.stream.write_all(&bytes).unwrap();
        wait_until("a full queue", || {
            service.handle().snapshot().dispatch_full == 1
        });
        assert!(service.handle().close(peer));
        wait_until("the end", || service.handle().snapshot().peers == 3);
        assert_eq!(timed.recv().unwrap_err(), RequestError::Timeout);
        assert!(answered.try_recv().unwrap().is_none() && ended.try_recv().unwrap().is_none());
        for _ in 0..4 {
            full.recv().unwrap();
        }
        assert_eq!(answered.recv().unwrap().payload(), b"!");
        let closed = RequestError::Closed(CloseReason::AppClosed);
        assert_eq!(ended.recv().unwrap_err(), closed);
        drop((client, others));
        check(stop(&mut service).snapshot.requests);
    });
}

#[test]
fn giving_up_drops_the_answer() {
    let (service, mut tap) = start_tap(config());
    let (mut client, peer) = connect(&service);
    drop(ask(&service, peer, b"?"));
    let replies = service.handle().replies(1);
    let handle = service.handle();
    let message = Outgoing::new(ASK, b"?");
    let id = handle.request_to(&replies, peer, &message, LONG).unwrap();
    assert!(handle.cancel(peer, id) && !handle.cancel(peer, id));
    for question in questions(&mut client, 2) {
        client.stream.write_all(&reply_to(&question, b"!")).unwrap();
    }
    client.send_message(7, b"a question");
    assert_eq!(tap.recv().unwrap().payload(), b"a question");
    assert!(replies.try_recv().is_err());
    drop(client);
    let snapshot = stop_tap(service, tap).snapshot;
    let row = snapshot.requests;
    assert_eq!((row.cancelled, row.late, row.outstanding), (2, 2, 0));
    assert_eq!((snapshot.claimed, snapshot.unclaimed), (1, 2));
}

#[test]
fn only_the_one_who_was_asked_can_answer_and_only_in_kind() {
    both(|config| {
        let (service, tap) = start_tap(config);
        let (mut client, peer) = connect(&service);
        let pending = ask(&service, peer, b"?");
        let question = questions(&mut client, 1).remove(0);
        let mut stranger = Client::connect(service.local_addrs()[0]);
        stranger
            .stream
            .write_all(&reply_to(&question, b"mine"))
            .unwrap();
        wait_until("the stranger", || {
            service.handle().snapshot().requests.late == 1
        });
        let other_type = Answer {
            message_type: MessageType(8),
            ..question.clone()
        };
        client
            .stream
            .write_all(&reply_to(&other_type, b"not so"))
            .unwrap();
        wait_until("the wrong type", || {
            service.handle().snapshot().requests.late == 2
        });
        assert!(pending.try_recv().unwrap().is_none());
        client.stream.write_all(&reply_to(&question, b"!")).unwrap();
        assert_eq!(pending.recv().unwrap().payload(), b"!");
        drop((client, stranger));
        check(stop_tap(service, tap).snapshot.requests);
    });
}

#[test]
fn what_cannot_be_asked_is_refused() {
    let (mut service, _tap) = start_tap(config().max_requests(2));
    let (client, peer) = connect(&service);
    let ask = |timeout| {
        service
            .handle()
            .request(peer, (ASK, b"?"), timeout)
            .map(drop)
    };
    let timeout = Duration::ZERO;
    assert_eq!(
        ask(timeout).map_err(nebnet::Rejected::into_error),
        Err(RequestError::BadTimeout { timeout })
    );
    let timeout = Duration::from_secs(366 * 24 * 3600);
    assert_eq!(
        ask(timeout).map_err(nebnet::Rejected::into_error),
        Err(RequestError::BadTimeout { timeout })
    );
    let reserved = MessageType(0xFF00);
    let refused = service
        .handle()
        .request(peer, (reserved, b""), LONG)
        .map(drop);
    assert_eq!(
        refused.map_err(nebnet::Rejected::into_error),
        Err(SendError::ReservedType(reserved).into())
    );
    let pending = [LONG, LONG].map(|timeout| {
        service
            .handle()
            .request(peer, (ASK, b"?"), timeout)
            .unwrap()
    });
    assert_eq!(
        ask(LONG).map_err(nebnet::Rejected::into_error),
        Err(RequestError::TooMany { limit: 2 })
    );
    drop(pending);
    let nobody = PeerId::from_bits(77 << 32 | 1);
    let refused = service
        .handle()
        .request(nobody, (ASK, b"?"), LONG)
        .map(drop);
    assert_eq!(
        refused.map_err(nebnet::Rejected::into_error),
        Err(SendError::NotConnected.into())
    );
    assert_eq!(ask(LONG).map_err(nebnet::Rejected::into_error), Ok(()));
    drop(client);
    let row = stop(&mut service).snapshot.requests;
    assert_eq!((row.sent, row.cancelled), (3, 3));
    let stopped = service.handle().request(peer, (ASK, b"?"), LONG).map(drop);
    assert_eq!(
        stopped.map_err(nebnet::Rejected::into_error),
        Err(RequestError::Stopped)
    );
}

#[test]
fn a_stop_resolves_everything() {
    both(|config| {
        let (mut service, _tap) = start_tap(config);
        let (client, peer) = connect(&service);
        let pending: Vec<PendingReply> = (0..100).map(|_| ask(&service, peer, b"?")).collect();
        let replies = service.handle().replies(100);
        let message = Outgoing::new(ASK, b"?");
        for _ in 0..100 {
            let handle = service.handle();
            handle.request_to(&replies, peer, &message, LONG).unwrap();
        }
        let waiter = thread::Builder::new().spawn(move || {
            let mut results = Vec::new();
            while let Ok(reply) = replies.recv() {
                results.push(reply.result.map(drop));
            }
            results
        });
        let row = stop(&mut service).snapshot.requests;
        assert_eq!((row.sent, row.closed, row.outstanding), (200, 200, 0));
        let shutdown = RequestError::Closed(CloseReason::Shutdown);
        for pending in pending {
            assert_eq!(pending.recv().unwrap_err(), shutdown);
        }
        assert_eq!(waiter.unwrap().join().unwrap(), vec![Err(shutdown); 100]);
        drop(client);
    });
}

#[test]
fn one_queue_takes_the_answers_of_many_peers() {
    const PEERS: usize = 20;
    both(|config| {
        let (service, tap) = start_tap(config);
        let mut clients: Vec<Client> = (0..PEERS)
            .map(|_| Client::connect(service.local_addrs()[0]))
            .collect();
        wait_until("all peers", || {
            service.handle().snapshot().peers == PEERS as u64
        });
        let (handle, replies) = (service.handle(), service.handle().replies(PEERS));
        let mut asked = HashMap::new();
        for row in handle.peers().unwrap() {
            let payload = row.peer.to_string();
            let message = Outgoing::new(ASK, &*payload);
            let id = handle.request_to(&replies, row.peer, &message, LONG);
            asked.insert(id.unwrap(), row.peer);
        }
        let message = Outgoing::new(ASK, b"?");
        let first = handle.peers().unwrap()[0].peer;
        let refused = handle.request_to(&replies, first, &message, LONG);
        assert_eq!(
            refused.map_err(nebnet::Rejected::into_error),
            Err(RequestError::TooMany { limit: PEERS })
        );
        for client in &mut clients {
            let question = questions(client, 1).remove(0);
            let answer = reply_to(&question, &question.payload);
            client.stream.write_all(&answer).unwrap();
        }
        for _ in 0..PEERS {
            let reply = replies.recv_timeout(PATIENCE).unwrap();
            assert_eq!(asked.remove(&reply.request), Some(reply.peer));
            let answer = reply.result.unwrap();
            assert_eq!(answer.payload(), reply.peer.to_string().as_bytes());
        }
        assert_eq!(replies.outstanding(), 0);
        drop((clients, replies));
        check(stop_tap(service, tap).snapshot.requests);
    });
}

/// Both subscribe to the type that both ask: neither takes the other's answer for a question, or
/// they would answer each other for ever.
#[test]
fn two_services_ask_each_other() {
    const COUNT: u32 = 2_000;
    let serve = || {
        let mut service = NetService::new(config()).unwrap();
        let options = SubscribeOptions::new(ASK).overflow(OverflowPolicy::Pause);
        let mut asked = service.handle().subscribe_with(options).unwrap();
        let handle = service.handle();
        let replier = thread::Builder::new().spawn(move || {
            for question in &mut asked {
                handle.reply(&question, question.payload()).unwrap();
            }
            asked.row().taken
        });
        service.start().unwrap();
        (service, replier.unwrap())
    };
    let (mut one, one_replier) = serve();
    let (mut other, other_replier) = serve();
    let ends = [&one, &other].map(|service| TcpStream::connect(service.local_addrs()[0]).unwrap());
    let wires = [(0, 1), (1, 0)].map(|(from, to)| {
        let (mut from, mut to) = (
            ends[from].try_clone().unwrap(),
            ends[to].try_clone().unwrap(),
        );
        thread::Builder::new().spawn(move || {
            let mut bytes = [0; 64 << 10];
            while let Ok(count @ 1..) = from.read(&mut bytes) {
                if to.write_all(&bytes[..count]).is_err() {
                    return;
                }
            }
            drop(to.shutdown(std::net::Shutdown::Write));
        })
    });
    let peers = [&one, &other].map(only_peer);
    thread::scope(|scope| {
        for (service, peer) in [(&one, peers[0]), (&other, peers[1])] {
            scope.spawn(move || {
                let replies = service.handle().replies(64);
                let handle = service.handle();
                let (mut sent, mut got) = (0_u32, 0);
                while got < COUNT {
                    let payload = sent.to_be_bytes();
                    let message = Outgoing::new(ASK, &payload);
                    match (sent < COUNT).then(|| {
                        let asked = handle.request_to(&replies, peer, &message, LONG);
                        asked.map_err(nebnet::Rejected::into_error)
                    }) {
                        Some(Ok(_)) => sent += 1,
                        None | Some(Err(RequestError::TooMany { .. })) => {
                            replies.recv_timeout(PATIENCE).unwrap().result.unwrap();
                            got += 1;
                        }
                        Some(Err(error)) => panic!("{error}"),
                    }
                }
            });
        }
    });
    for (service, replier) in [(&mut one, one_replier), (&mut other, other_replier)] {
        let row = stop(service).snapshot.requests;
        let count = u64::from(COUNT);
        assert_eq!((row.sent, row.answered, row.late), (count, count, 0));
        assert_eq!(replier.join().unwrap(), count);
    }
    drop(ends);
    for wire in wires {
        wire.unwrap().join().unwrap();
    }
}

/// Threads ask while connections come and go. Each request is refused, or resolved once.
#[test]
fn requests_race_with_closes() {
    both(|config| {
        let (service, tap) = start_tap(config);
        let addr = service.local_addrs()[0];
        let racing = AtomicUsize::new(2);
        let results: Vec<HashMap<String, u64>> = thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for round in 0..30 {
                        let mut client = Client::connect(addr);
                        for _ in 0..round % 7 * 10 {
                            let Some(question) = client.receive() else {
                                break;
                            };
                            if !client.try_write(&reply_to(&question, b"!")) {
                                break;
                            }
                        }
                        if round % 3 == 0 {
                            client.reset();
                        }
                    }
                    // Whoever is left still waits for questions.
                    racing.fetch_sub(1, Ordering::Relaxed);
                });
            }
            let askers = [(); 2].map(|()| {
                scope.spawn(|| {
                    let handle = service.handle();
                    let mut results = HashMap::new();
                    while racing.load(Ordering::Relaxed) > 0 {
                        let peers = handle.peers().unwrap();
                        let mut pending = Vec::new();
                        for _ in 0..50 {
                            for row in &peers {
                                let timeout = Duration::from_millis(50);
                                pending.extend(handle.request(row.peer, (ASK, b"?"), timeout));
                            }
                        }
                        for one in pending {
                            let name = match one.recv() {
                                Ok(_) => "answered",
                                Err(RequestError::Timeout) => "timed out",
                                Err(RequestError::Closed(_)) => "closed",
                                Err(error) => panic!("{error}"),
                            };
                            *results.entry(name.to_owned()).or_default() += 1;
                        }
                    }
                    results
                })
            });
            askers.map(|asker| asker.join().unwrap()).into()
        });
        let sum = |name: &str| -> u64 { results.iter().filter_map(|one| one.get(name)).sum() };
        let row = stop_tap(service, tap).snapshot.requests;
        assert_eq!(sum("answered"), row.answered);
        assert_eq!(sum("timed out"), row.timed_out);
        assert_eq!(sum("closed"), row.closed);
        assert!(row.outstanding == 0 && row.cancelled == 0, "{row:?}");
        check(row);
    });
}

/// A panic of the dispatcher leaves nobody waiting.
#[test]
fn a_failed_service_resolves_everything() {
    util::expect_panics();
    both(|config| {
        let mut service = NetService::new(config).unwrap();
        let fails = Arc::new(AtomicBool::new(false));
        service.on_metrics({
            let fails = Arc::clone(&fails);
            move |_| assert!(!fails.load(Ordering::Relaxed), "as asked")
        });
        service.start().unwrap();
        let (client, peer) = connect(&service);
        let pending = ask(&service, peer, b"?");
        let replies = service.handle().replies(1);
        fails.store(true, Ordering::Relaxed);
        let error = pending.recv().unwrap_err();
        let ends = [
            RequestError::Stopped,
            RequestError::Closed(CloseReason::Internal),
        ];
        assert!(ends.contains(&error), "{error}");
        assert!(replies.recv().is_err());
        drop(client);
        let row = util::stop_within(&mut service, PATIENCE).snapshot.requests;
        assert_eq!((row.sent, row.closed), (1, 1));
    });
}
