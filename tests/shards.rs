//! Several loops behind one service: what holds for one holds for all of them together.
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
    io::Write,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use nebnet::{
    CloseReason, Config, ConnectOptions, Dispatch, EndReason, Event, EventOptions, HandlerError,
    HandlerOptions, MessageType, NetService, OverflowPolicy, PeerId, Recipients, SendError,
    ServiceState, StartError, SubscribeOptions, Subscription, TypeFilter,
    frame::{Frame, Hello},
};
use util::{
    BYE, Client, HELLO, PATIENCE, Random, SetAtEnd, assert_balanced, closed_for, encoded, stop,
    stop_within, wait_until,
};

const T: MessageType = MessageType(7);
const SHARDS: usize = 3;
const MODES: [Dispatch; 2] = [Dispatch::Thread, Dispatch::Inline];

/// Held for writing by who counts the threads of the process.
static THREADS: RwLock<()> = RwLock::new(());

fn config() -> Config {
    util::config().shards(SHARDS)
}

fn start(config: Config) -> NetService {
    let mut service = NetService::new(config).unwrap();
    service.start().unwrap();
    service
}

/// Connects until every loop has so many peers, or more: the kernel picks the loop.
#[track_caller]
fn spread(service: &NetService, each: usize) -> Vec<(Client, PeerId)> {
    let (addr, handle) = (service.local_addrs()[0], service.handle());
    let before = service.handle().snapshot().peers;
    let mut clients = HashMap::new();
    loop {
        let client = Client::connect(addr);
        clients.insert(client.stream.local_addr().unwrap(), client);
        let count = before + clients.len() as u64;
        wait_until("it is there", || service.handle().snapshot().peers == count);
        let rows = handle.peers().unwrap();
        assert_eq!(rows.len() as u64, count);
        let mut found = [0; SHARDS];
        for row in rows.iter().filter(|row| clients.contains_key(&row.addr)) {
            found[usize::from(row.peer.shard())] += 1;
        }
        if found.iter().all(|found| *found >= each) {
            let own = rows.into_iter();
            return own
                .filter_map(|row| Some((clients.remove(&row.addr)?, row.peer)))
                .collect();
        }
        assert!(clients.len() < 300, "all of 300 connections went {found:?}");
    }
}

/// One client of every loop.
#[track_caller]
fn one_each(service: &NetService) -> Vec<(Client, PeerId)> {
    let mut all = spread(service, 1);
    let each = (0..SHARDS).map(|shard| {
        let those = |one: &(Client, PeerId)| usize::from(one.1.shard()) == shard;
        all.swap_remove(all.iter().position(those).unwrap())
    });
    let each: Vec<_> = each.collect();
    drop(all);
    wait_until("the others are gone", || {
        service.handle().snapshot().peers == SHARDS as u64
    });
    each
}

fn numbered(count: u32, size: usize) -> Vec<u8> {
    let (mut bytes, mut payload) = (Vec::new(), vec![b'n'; size.max(4)]);
    for number in 0..count {
        payload[..4].copy_from_slice(&number.to_be_bytes());
        Frame::new(T, &payload).encode(&mut bytes).unwrap();
    }
    bytes
}

fn number(payload: &[u8]) -> u32 {
    u32::from_be_bytes(payload[..4].try_into().unwrap())
}

fn hello(id: u8, token: &[u8]) -> Vec<u8> {
    let hello = Hello {
        node_id: [id; 16],
        token,
        ..Hello::default()
    };
    encoded(&Frame::new(HELLO, &hello.to_payload()))
}

/// Has every client write all of it, each on a thread of its own.
fn write_all(clients: Vec<(Client, PeerId)>, bytes: &[u8]) -> Vec<(Client, PeerId)> {
    thread::scope(|scope| {
        let writers: Vec<_> = clients
            .into_iter()
            .map(|(mut client, peer)| {
                scope.spawn(move || {
                    client.stream.write_all(bytes).unwrap();
                    (client, peer)
                })
            })
            .collect();
        let done = writers.into_iter().map(|writer| writer.join().unwrap());
        done.collect()
    })
}

// ----- messages ----------------------------------------------------------------------------------

#[test]
fn messages_of_all_loops_reach_one_subscriber_complete_and_in_order() {
    const COUNT: u32 = 3_000;
    let _threads = THREADS.read();
    for dispatch in MODES {
        let mut service = NetService::new(config().dispatch(dispatch)).unwrap();
        // So small that it is full all the time.
        let options = SubscribeOptions::new(T)
            .messages(100)
            .overflow(OverflowPolicy::Pause);
        let mut all = service.handle().subscribe_with(options).unwrap();
        let events = EventOptions::new().capacity(1_000);
        let events = service.handle().subscribe_events(events).unwrap();
        service.start().unwrap();
        let clients = spread(&service, 2);
        let (count, over) = (clients.len(), AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| {
                // Also while all loops and the subscriber are at work.
                let mut cuts = 0_u32;
                while !over.load(Ordering::Relaxed) || cuts < 20 {
                    let balance = service.handle().balance();
                    assert!(balance.is_exact(), "{balance}");
                    cuts += 1;
                }
            });
            scope.spawn(|| write_all(clients, &numbered(COUNT, 40)));
            let mut next: HashMap<PeerId, u32> = HashMap::new();
            let mut left = count * COUNT as usize;
            while left > 0 {
                let batch = all.recv_batch_timeout(PATIENCE).unwrap();
                assert_eq!(batch.missed(), 0);
                let next = next.entry(batch.peer()).or_default();
                for message in &batch {
                    assert_eq!(number(message.payload()), *next, "{}", batch.peer());
                    *next += 1;
                }
                left -= batch.len();
            }
            assert_eq!(next.len(), count);
            over.store(true, Ordering::Relaxed);
        });
        let report = stop(&mut service);
        assert!(report.drained, "{report}");
        let shot = &report.snapshot;
        assert_eq!(shot.subscribers[0].taken, (count as u64) * u64::from(COUNT));
        assert_eq!(shot.shards.len(), SHARDS);
        let inbound: u64 = shot.shards.iter().map(|row| row.inbound.messages).sum();
        assert_eq!(inbound, shot.inbound.messages);
        assert!(shot.shards.iter().all(|row| row.inbound.messages > 0));
        let mut open = Vec::new();
        while let Ok(event) = events.recv() {
            match event {
                Event::Connected { peer, .. } => open.push(peer),
                Event::Closed(row) => open.retain(|peer| *peer != row.peer),
                _ => assert!(!open.is_empty()),
            }
        }
        assert!(open.is_empty(), "every end is told: {open:?}");
        assert_eq!(service.handle().snapshot().memory_used, 0);
    }
}

#[test]
fn ids_name_the_loop() {
    let _threads = THREADS.read();
    let mut service = start(config());
    let clients = spread(&service, 1);
    let shot = service.handle().snapshot();
    for (number, row) in (0..).zip(&shot.shards) {
        let those = clients.iter().filter(|(_, peer)| peer.shard() == number);
        assert_eq!((row.shard, row.peers), (number, those.count() as u64));
    }
    assert_eq!(shot.peers, clients.len() as u64);
    assert!(shot.dispatch_queue.messages_capacity == 3 * 65_536);
    stop(&mut service);
}

#[test]
fn what_is_sent_finds_its_peer() {
    let _threads = THREADS.read();
    for dispatch in MODES {
        let mut service = NetService::new(config().dispatch(dispatch)).unwrap();
        let mut questions = service.handle().subscribe(T).unwrap();
        service.start().unwrap();
        let mut clients = one_each(&service);
        let ids: Vec<PeerId> = clients.iter().map(|(_, peer)| *peer).collect();
        for (client, peer) in &mut clients {
            service.handle().send(*peer, (T, b"one")).unwrap();
            client.expect(7, b"one");
            client.send_message(7, b"question");
            let question = questions.recv_timeout(PATIENCE).unwrap();
            assert_eq!(question.peer(), *peer);
            service.handle().reply(&question, b"answer").unwrap();
            client.expect(7, b"answer");
            assert_eq!(service.handle().peer(*peer).unwrap().peer, *peer);
        }
        let all = service.handle().broadcast((T, b"all"), Recipients::All);
        assert_eq!((all.sent.len(), all.skipped.len()), (SHARDS, 0));
        let others = service
            .handle()
            .broadcast((T, b"others"), Recipients::AllBut(ids[1]));
        assert_eq!(others.sent, [ids[0], ids[2]]);
        let nowhere = PeerId::from_bits(63 << 56 | 1);
        let some = service
            .handle()
            .broadcast((T, b"some"), &[ids[2], nowhere, ids[0]]);
        assert_eq!(some.sent, [ids[2], ids[0]], "in the order of the list");
        assert_eq!(some.skipped, [(nowhere, SendError::NotConnected)]);
        let last = |info: &nebnet::PeerInfo| info.peer.shard() == 2;
        let one = service
            .handle()
            .broadcast((T, b"last"), Recipients::Matching(&last));
        assert_eq!(one.sent, [ids[2]]);
        for (number, (client, _)) in clients.iter_mut().enumerate() {
            client.expect(7, b"all");
            if number != 1 {
                client.expect(7, b"others");
                client.expect(7, b"some");
            }
            if number == 2 {
                client.expect(7, b"last");
            }
        }
        let sent = service.handle().send(nowhere, (T, b""));
        assert_eq!(
            sent.map_err(nebnet::Rejected::into_error),
            Err(SendError::NotConnected)
        );
        assert!(!service.handle().close(nowhere) && service.handle().peer(nowhere).is_none());
        let patience = Duration::from_secs(60);
        for (client, peer) in &mut clients {
            let pending = service
                .handle()
                .request(*peer, (T, b"?"), patience)
                .unwrap();
            let question = client.receive().unwrap();
            let frame = Frame {
                correlation: question.correlation,
                ..Frame::new(T, b"!")
            };
            client.send(&frame);
            assert_eq!(pending.recv().unwrap().payload(), b"!");
            assert!(service.handle().close(*peer));
            client.expect_bye(2);
        }
        drop(clients);
        wait_until("all are gone", || service.handle().snapshot().peers == 0);
        let closed = service.handle().recently_closed().unwrap();
        assert!(closed.is_sorted_by_key(|row| row.closed_at));
        let ours = closed.iter().filter(|row| ids.contains(&row.peer));
        assert_eq!(ours.count(), SHARDS);
        let report = stop(&mut service);
        assert_eq!(report.snapshot.requests.answered, SHARDS as u64);
    }
}

#[test]
fn every_loop_has_a_handler_of_its_own() {
    let _threads = THREADS.read();
    let mut service = NetService::new(config()).unwrap();
    let options = || HandlerOptions::new(T).name("count");
    let one = service.handle_inline(options(), |_, _| {});
    assert_eq!(one, Err(HandlerError::NeedsOneEach { shards: SHARDS }));
    let each = service.handle_inline_each(options(), |shard| {
        let mut count = 0;
        move |message: nebnet::MessageRef<'_>, replier: &mut nebnet::Replier<'_>| {
            assert_eq!(message.peer().shard(), shard);
            count += 1;
            replier.reply(format!("{shard} {count}")).unwrap();
        }
    });
    each.unwrap();
    let again =
        service.handle_inline_each(options(), |_| |_: nebnet::MessageRef<'_>, _: &mut _| {});
    assert_eq!(again, Err(HandlerError::TypeTaken(T)));
    service.start().unwrap();
    let mut clients = one_each(&service);
    for count in 1..=3 {
        for (shard, (client, _)) in clients.iter_mut().enumerate() {
            client.send_message(7, b"");
            client.expect(7, format!("{shard} {count}").as_bytes());
        }
    }
    assert!(service.handle().balance().is_exact());
    drop(clients);
    let report = stop(&mut service);
    let rows = &report.snapshot.handlers;
    assert_eq!((rows.len(), rows[0].calls, rows[0].removed), (1, 9, false));
}

// ----- limits ------------------------------------------------------------------------------------

#[test]
fn limits_are_those_of_the_service() {
    let _threads = THREADS.read();
    let mut service = start(config().max_peers(10));
    let addr = service.local_addrs()[0];
    let mut clients: Vec<Client> = (0..10).map(|_| Client::connect(addr)).collect();
    wait_until("all are there", || service.handle().snapshot().peers == 10);
    for _ in 0..10 {
        Client::connect(addr).expect_bye(17);
    }
    clients.pop();
    wait_until("one has left", || service.handle().snapshot().peers == 9);
    Client::connect(addr).ping(b"in");
    drop(clients);
    stop(&mut service);

    let mut service = start(config().max_peers_per_addr(4));
    let addr = service.local_addrs()[0];
    let clients: Vec<Client> = (0..4).map(|_| Client::connect(addr)).collect();
    wait_until("all are there", || service.handle().snapshot().peers == 4);
    for _ in 0..10 {
        Client::connect(addr).expect_bye(18);
    }
    Client::connect_from("127.0.0.2", addr).ping(b"");
    drop(clients);
    stop(&mut service);

    let mut service = start(config().max_pending(4));
    let addr = service.local_addrs()[0];
    let mut clients: Vec<Client> = (0..4).map(|_| Client::connect(addr)).collect();
    wait_until("all are there", || service.handle().snapshot().peers == 4);
    for _ in 0..10 {
        Client::connect(addr).expect_bye(17);
    }
    clients[0].ping(b"I do say something");
    let mut next = Client::connect(addr);
    next.ping(b"");
    stop(&mut service);
}

#[test]
fn the_loops_have_one_budget() {
    const BUDGET: usize = 4 << 20;
    let _threads = THREADS.read();
    let config = config()
        .memory_budget(BUDGET)
        .dispatch_bytes(BUDGET)
        .outbox_bytes(BUDGET);
    let mut service = NetService::new(config).unwrap();
    let options = SubscribeOptions::new(T)
        .messages(1 << 20)
        .bytes(usize::MAX)
        .overflow(OverflowPolicy::Pause);
    let mut tap = service.handle().subscribe_with(options).unwrap();
    service.start().unwrap();
    let clients = spread(&service, 1);
    let count = clients.len();
    // More than the budget and all buffers of the system hold.
    let bytes = numbered(40_000, 1_000);
    thread::scope(|scope| {
        scope.spawn(|| write_all(clients, &bytes));
        wait_until("it is short", || {
            let snapshot = service.handle().snapshot();
            snapshot.pauses.budget > 0 && snapshot.memory_used >= (BUDGET / 100 * 70) as u64
        });
        let mut left = count * 40_000;
        let mut most = 0;
        while left > 0 {
            most = most.max(service.handle().snapshot().memory_used);
            let batch = tap.recv_batch_timeout(PATIENCE).unwrap();
            left -= batch.len();
        }
        // One read of each loop may pass it, and what it makes of that.
        let slack = SHARDS * (3 << 16) + BUDGET / 32;
        assert!(most <= (BUDGET + slack) as u64, "{most}");
    });
    let report = stop(&mut service);
    assert!(report.snapshot.pauses.budget > 0);
    drop(tap);
    assert_eq!(service.handle().snapshot().memory_used, 0);
}

// ----- full subscribers --------------------------------------------------------------------------

/// Takes all that is there; how many, and how many are missing.
fn take_all(subscription: &mut Subscription) -> (u64, u64) {
    let (mut taken, mut missed) = (0, 0);
    let mut last: HashMap<PeerId, u32> = HashMap::new();
    while let Ok(batch) = subscription.try_recv_batch() {
        missed += batch.missed();
        for message in &batch {
            let number = number(message.payload());
            let before = last.insert(batch.peer(), number);
            assert!(before.is_none_or(|before| before < number), "in order");
            taken += 1;
        }
    }
    (taken, missed)
}

#[test]
fn a_queue_keeps_its_bounds_whoever_fills_it() {
    const COUNT: u32 = 5_000;
    let _threads = THREADS.read();
    for (round, dispatch) in (0..6).zip(MODES.into_iter().cycle()) {
        let mut service = NetService::new(config().dispatch(dispatch)).unwrap();
        let bound = [1, 10, 777][round % 3];
        let options = |overflow| {
            SubscribeOptions::new(T)
                .messages(bound)
                .bytes(100 << 10)
                .overflow(overflow)
        };
        let newest = options(OverflowPolicy::DropNewest);
        let mut newest = service.handle().subscribe_with(newest).unwrap();
        let oldest = options(OverflowPolicy::DropOldest);
        let mut oldest = service.handle().subscribe_with(oldest).unwrap();
        let tap = SubscribeOptions::new(T).overflow(OverflowPolicy::Pause);
        let mut tap = service.handle().subscribe_with(tap).unwrap();
        service.start().unwrap();
        let clients = spread(&service, 2);
        let all = clients.len() as u64 * u64::from(COUNT);
        thread::scope(|scope| {
            scope.spawn(|| write_all(clients, &numbered(COUNT, 20)));
            let mut left = all;
            while left > 0 {
                left -= tap.recv_batch_timeout(PATIENCE).unwrap().len() as u64;
                for row in [newest.row(), oldest.row()] {
                    assert!(row.queued <= bound as u64, "{row:?}");
                }
                if left % 7 == 0 {
                    let _ = oldest.try_recv();
                }
            }
        });
        wait_until("all is dispatched", || {
            [newest.row(), oldest.row()]
                .iter()
                .all(|row| row.matched == all)
        });
        assert!(service.handle().balance().is_exact());
        let row = newest.row();
        assert_eq!((row.queued + row.dropped, row.parked), (all, 0), "{row:?}");
        assert!(
            row.queued == bound as u64 || row.dropped_for_bytes > 0,
            "{row:?}"
        );
        assert_eq!(take_all(&mut newest).0, row.queued);
        let row = oldest.row();
        assert!(row.queued <= bound as u64, "{row:?}");
        let (taken, missed) = take_all(&mut oldest);
        assert!(taken >= row.queued && missed <= row.dropped, "{row:?}");
        let report = stop(&mut service);
        assert_eq!(report.snapshot.subscribers.len(), 3);
        drop((newest, oldest, tap));
        assert_eq!(service.handle().snapshot().memory_used, 0);
    }
}

#[test]
fn full_subscribers_close_peers_of_all_loops_or_leave() {
    let _threads = THREADS.read();
    let mut service = NetService::new(config()).unwrap();
    let closes = SubscribeOptions::new(T)
        .messages(1)
        .overflow(OverflowPolicy::Close);
    let closes = service.handle().subscribe_with(closes).unwrap();
    let leaves = SubscribeOptions::new(T)
        .messages(1)
        .overflow(OverflowPolicy::Unsubscribe);
    let mut leaves = service.handle().subscribe_with(leaves).unwrap();
    service.start().unwrap();
    let mut clients = one_each(&service);
    for (client, _) in &mut clients {
        assert!(client.try_write(&numbered(10, 4)));
    }
    for (client, _) in &mut clients {
        client.expect_bye(22);
    }
    assert_eq!(leaves.recv().unwrap().payload(), 0_u32.to_be_bytes());
    assert!(leaves.recv().is_err());
    assert_eq!(leaves.end_reason(), Some(EndReason::Overflow));
    let report = stop(&mut service);
    let departed = report.snapshot.departed;
    assert_eq!((departed.subscribers, departed.overflowed), (1, 1));
    assert_eq!(closes.row().matched, 30);
    assert_eq!(closed_for(&report.snapshot, CloseReason::Flood), 3);
}

/// While one peer floods, what another loop has parked gets its turn too.
#[test]
fn nobody_starves_who_waits_for_a_full_subscriber() {
    let _threads = THREADS.read();
    let mut service = NetService::new(config()).unwrap();
    let options = SubscribeOptions::new(T)
        .messages(64)
        .overflow(OverflowPolicy::Pause);
    let mut slow = service.handle().subscribe_with(options).unwrap();
    service.start().unwrap();
    let mut clients = one_each(&service);
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let (mut last, _) = clients.pop().unwrap();
        for (mut client, _) in clients {
            let over = &over;
            scope.spawn(move || {
                let bytes = numbered(100, 4);
                while !over.load(Ordering::Relaxed) && client.try_write(&bytes) {}
            });
        }
        last.stream.write_all(&numbered(500, 4)).unwrap();
        let _end = SetAtEnd(&over);
        let (mut next, mut others) = (0, 0);
        while next < 500 || others == 0 {
            let batch = slow.recv_batch_timeout(PATIENCE).unwrap();
            if batch.peer().shard() == 2 {
                for message in &batch {
                    assert_eq!(number(message.payload()), next);
                    next += 1;
                }
            } else {
                others += batch.len();
            }
        }
        drop(slow);
    });
    stop(&mut service);
}

// ----- nodes and links ---------------------------------------------------------------------------

#[test]
fn a_node_has_one_connection_among_all_loops() {
    let _threads = THREADS.read();
    let mut service = NetService::new(config().node_id([1; 16])).unwrap();
    let events = service
        .handle()
        .subscribe_events(EventOptions::new())
        .unwrap();
    service.start().unwrap();
    let mut clients = one_each(&service);
    let (first, second) = (clients.remove(0), clients.remove(0));
    let (mut first, mut second) = (first.0, second.0);
    assert!(first.try_write(&hello(5, b"")));
    assert_eq!(first.receive().unwrap().message_type, util::OK);
    assert!(second.try_write(&hello(5, b"")));
    second.expect_bye(21);
    assert!(clients[0].0.try_write(&hello(6, b"")));
    assert_eq!(clients[0].0.receive().unwrap().message_type, util::OK);
    // Its FIN is enough: it may come again, with any loop.
    first.stream.shutdown(std::net::Shutdown::Write).unwrap();
    wait_until("it may come again", || {
        let mut again = Client::connect(service.local_addrs()[0]);
        assert!(again.try_write(&hello(5, b"")));
        again.receive().unwrap().message_type == util::OK
    });
    drop((first, second, clients));
    stop(&mut service);
    assert!(events.iter().count() > 0);
}

#[test]
fn a_node_that_is_known_takes_over_from_another_loop() {
    let _threads = THREADS.read();
    let mut service = start(config().node_id([1; 16]).accept_tokens(["known"]));
    let addr = service.local_addrs()[0];
    let (mut old, mut replaced) = (None::<Client>, 0);
    for _ in 0..30 {
        let mut new = Client::connect(addr);
        assert!(new.try_write(&hello(5, b"known")));
        assert_eq!(new.receive().unwrap().message_type, util::OK);
        if let Some(mut old) = old.replace(new) {
            old.expect_bye(21);
            replaced += 1;
        }
    }
    assert_eq!(replaced, 29);
    old.unwrap().ping(b"the last one stays");
    util::wait_for_closed(&service, CloseReason::DuplicateNode, 29);
    stop(&mut service);
}

#[test]
fn links_are_spread_and_stand_in_for_each_other() {
    let _threads = THREADS.read();
    let mut there = start(util::config().shards(1).node_id([2; 16]));
    let config = config().node_id([1; 16]);
    // A link that was refused as a double would not try again in our time, unless it is told.
    let hour = Duration::from_secs(3600);
    let config = config.reconnect(Duration::from_millis(1), hour);
    let mut service = NetService::new(config).unwrap();
    let events = service
        .handle()
        .subscribe_events(EventOptions::new())
        .unwrap();
    service.start().unwrap();
    let to = || ConnectOptions::from(there.local_addrs()[0]).keep_connected(true);
    let wait = |known: &dyn Fn(&Event) -> bool| loop {
        let event = events.recv_timeout(PATIENCE).unwrap();
        if known(&event) {
            return event;
        }
    };
    let up = |event: &Event| matches!(event, Event::Connected { link: Some(_), .. });
    let first = service.handle().connect(to()).unwrap();
    let Event::Connected { peer, link, .. } = wait(&up) else {
        unreachable!()
    };
    assert_eq!((peer.shard(), link), (0, Some(first)));
    let second = service.handle().connect(to()).unwrap();
    wait(&|event| matches!(event, Event::DialFailed { link, .. } if *link == second));
    // The other side sees the end of what was refused a moment later.
    wait_until("one peer there", || there.handle().snapshot().peers == 1);
    service.handle().disconnect(first).unwrap();
    let Event::Connected { peer, link, .. } = wait(&up) else {
        unreachable!()
    };
    assert_eq!((peer.shard(), link), (1, Some(second)));
    service.handle().disconnect(second).unwrap();
    // Another loop dials next, and would be refused as a double as well if it were the first.
    wait_until("nobody there", || there.handle().snapshot().peers == 0);
    let third = service.handle().connect(to()).unwrap();
    let Event::Connected { peer, link, .. } = wait(&up) else {
        unreachable!()
    };
    assert_eq!((peer.shard(), link), (2, Some(third)));
    service.handle().disconnect(third).unwrap();
    let report = stop(&mut service);
    assert_eq!(report.snapshot.dialled, report.snapshot.closed_total());
    stop(&mut there);
}

// ----- start and stop ----------------------------------------------------------------------------

#[test]
fn a_port_is_shared_with_nobody_else() {
    let _threads = THREADS.write();
    let threads = || {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap();
        let names = tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")));
        let ours = names.filter(|name| name.as_ref().is_ok_and(|name| name.starts_with("nebnet")));
        ours.count()
    };
    assert_eq!(threads(), 0);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let other = start(config());
    // A thread gives itself its name.
    wait_until("its threads", || threads() == 2 * SHARDS);
    for addr in [taken.local_addr().unwrap(), other.local_addrs()[0]] {
        for config in [config().listen(addr), util::config().shards(1).listen(addr)] {
            let mut service = NetService::new(config).unwrap();
            let error = service.start().unwrap_err();
            assert!(
                matches!(error, StartError::Listen { addr: there, .. } if there == addr),
                "{error}"
            );
            assert_eq!(threads(), 2 * SHARDS, "none is left");
            assert_eq!(service.handle().snapshot().state, ServiceState::Stopped);
            assert!(service.handle().subscribe(T).is_err() && service.local_addrs().is_empty());
            assert!(stop_within(&mut service, Duration::ZERO).joined);
        }
    }
    Client::connect(other.local_addrs()[0]).ping(b"it is still there");
    drop(other);
    assert_eq!(threads(), 0);
}

#[test]
fn all_loops_listen_where_one_is_asked_to() {
    let _threads = THREADS.read();
    let config = config().listen("127.0.0.1:0".parse().unwrap());
    let mut service = NetService::new(config).unwrap();
    let early = service
        .handle()
        .listen("127.0.0.1:0".parse().unwrap())
        .unwrap();
    service.start().unwrap();
    let late = service
        .handle()
        .listen("127.0.0.1:0".parse().unwrap())
        .unwrap();
    let taken = service.handle().listen(late.addr);
    assert!(taken.is_err(), "{taken:?}");
    let own = TcpListener::bind("127.0.0.1:0").unwrap();
    let given = service.handle().listen_from(own).unwrap();
    let mut clients = Vec::new();
    let configured = service.local_addrs();
    assert_eq!(configured.len(), 2);
    let all: Vec<SocketAddr> = configured
        .into_iter()
        .chain([early.addr, late.addr, given.addr])
        .collect();
    for addr in all.iter().cycle().take(100) {
        let mut client = Client::connect(*addr);
        client.ping(b"");
        clients.push(client);
    }
    assert!(
        service
            .handle()
            .snapshot()
            .shards
            .iter()
            .all(|row| row.peers > 0)
    );
    for listening in [early, late, given] {
        assert_eq!(service.handle().unlisten(listening.id), Ok(true));
        assert_eq!(service.handle().unlisten(listening.id), Ok(false));
    }
    for client in &mut clients {
        client.ping(b"still here");
    }
    let closed = std::net::TcpStream::connect(late.addr);
    assert!(closed.is_err(), "{closed:?}");
    stop(&mut service);
}

#[test]
fn a_stop_drains_all_loops() {
    let _threads = THREADS.read();
    for dispatch in MODES {
        let (mut service, echo) = util::start_echo(config().dispatch(dispatch));
        let clients = write_all(spread(&service, 1), &numbered(500, 1_000));
        let count = clients.len() as u64;
        wait_until("all were read", || {
            service.handle().snapshot().inbound.messages == 500 * count
        });
        let readers: Vec<_> = clients
            .into_iter()
            .map(|(mut client, _)| {
                thread::spawn(move || {
                    for next in 0..500 {
                        let answer = client.receive().expect("an answer");
                        assert_eq!(number(&answer.payload), next);
                    }
                    client.expect_bye(1);
                })
            })
            .collect();
        let report = stop(&mut service);
        readers.into_iter().for_each(|one| one.join().unwrap());
        assert!(report.drained, "{report}");
        assert_eq!(report.closed_orderly, count);
        assert_eq!(report, stop_within(&mut service, Duration::ZERO));
        assert_eq!(echo.join().unwrap(), 500 * count);
        assert_eq!(service.handle().snapshot().memory_used, 0);
    }
}

/// One loop drains until the deadline, the others have long ended.
#[test]
fn a_loop_that_has_ended_keeps_nobody_waiting() {
    let _threads = THREADS.read();
    let mut service = start(config());
    let mut clients = one_each(&service);
    let (deaf, peer) = clients.pop().unwrap();
    while service
        .handle()
        .send(peer, (T, vec![b'd'; 100_000]))
        .is_ok()
    {}
    drop(clients);
    let handle = service.handle();
    thread::scope(|scope| {
        let stopping = scope.spawn(|| stop_within(&mut service, Duration::from_secs(2)));
        wait_until("it stops", || {
            handle.snapshot().state == ServiceState::Stopping
        });
        // Each that waited for a loop that has ended would take longer than all of the stop.
        let mut asked = 0;
        while handle.snapshot().state == ServiceState::Stopping {
            let _ = (
                handle.peers().unwrap(),
                handle.recently_closed().unwrap(),
                handle.balance(),
            );
            asked += 1;
        }
        let report = stopping.join().unwrap();
        assert!(report.joined && !report.drained, "{report}");
        assert!(asked > 3, "{asked}: {report}");
        assert_eq!((report.closed_abortive, report.lost().count()), (1, 1));
        assert_eq!(report.peers[0].closed.peer, peer);
        assert_balanced(&report.snapshot);
    });
    drop(deaf);
}

#[test]
fn a_defect_of_one_thread_ends_all() {
    let _threads = THREADS.read();
    util::expect_panics();
    for dispatch in MODES {
        let mut service = NetService::new(config().dispatch(dispatch)).unwrap();
        let mut tap = service.handle().subscribe(TypeFilter::all()).unwrap();
        let (told, hears) = mpsc::channel();
        service.on_metrics(move |_| {
            let name = thread::current().name().map(str::to_owned);
            told.send(name).unwrap();
            panic!("the callback's own fault");
        });
        service.start().unwrap();
        let mut clients = spread(&service, 1);
        for (client, _) in &mut clients {
            client.send_message(7, b"before");
        }
        let ended = service.ended().recv_timeout(PATIENCE);
        assert!(ended.is_err_and(|end| end.is_disconnected()));
        let name = hears.recv().unwrap().unwrap();
        let expected = match dispatch {
            Dispatch::Thread => "nebnet-dispatch",
            Dispatch::Inline => "nebnet-loop",
            _ => "a mode that this test does not know",
        };
        assert_eq!(name, expected);
        assert_eq!(hears.iter().count(), 0, "nobody else calls it");
        assert!(service.failure().is_some());
        for (client, _) in &mut clients {
            while let Some(answer) = client.receive() {
                assert_eq!(answer.message_type, BYE);
            }
        }
        assert_eq!(tap.iter().count(), clients.len());
        let report = stop_within(&mut service, Duration::from_secs(5));
        assert!(report.joined && !report.drained, "{report}");
        let internal = closed_for(&report.snapshot, CloseReason::Internal);
        assert_eq!(internal, clients.len() as u64);
        assert_balanced(&report.snapshot);
        drop(tap);
        assert_eq!(service.handle().snapshot().memory_used, 0);
    }
}

// ----- all at once -------------------------------------------------------------------------------

/// Subscribers of all policies come and go while peers of all loops send.
#[test]
fn the_sums_hold_while_subscribers_come_and_go() {
    let _threads = THREADS.read();
    for (seed, dispatch) in (1..).zip(MODES) {
        let mut service = NetService::new(config().dispatch(dispatch)).unwrap();
        let _tap = service.handle().subscribe(T).unwrap();
        service.start().unwrap();
        let clients = spread(&service, 2);
        let (over, total) = (Arc::new(AtomicBool::new(false)), AtomicU64::new(0));
        let bytes = numbered(200, 30);
        thread::scope(|scope| {
            for (mut client, _) in clients {
                let (over, bytes, total) = (Arc::clone(&over), &bytes, &total);
                scope.spawn(move || {
                    while !over.load(Ordering::Relaxed) && client.try_write(bytes) {
                        total.fetch_add(200, Ordering::Relaxed);
                    }
                });
            }
            let policies = [
                OverflowPolicy::DropNewest,
                OverflowPolicy::Pause,
                OverflowPolicy::DropOldest,
                OverflowPolicy::Unsubscribe,
            ];
            let handle = service.handle();
            let guest_over = Arc::clone(&over);
            scope.spawn(move || {
                let mut random = Random(seed);
                while !guest_over.load(Ordering::Relaxed) {
                    let options = SubscribeOptions::new(T)
                        .messages(1 + random.below(300))
                        .bytes(1 + random.below(50_000))
                        .overflow(policies[random.below(policies.len())]);
                    let mut guest = handle.subscribe_with(options).unwrap();
                    for _ in 0..random.below(100) {
                        let _ = guest.try_recv_batch();
                    }
                }
            });
            let _end = SetAtEnd(&over);
            for _ in 0..100 {
                let balance = service.handle().balance();
                assert!(balance.is_exact(), "{balance}");
            }
            wait_until("ten thousand messages", || {
                total.load(Ordering::Relaxed) >= 10_000
            });
        });
        let report = stop(&mut service);
        assert!(report.snapshot.departed.subscribers > 0);
        assert!(report.snapshot.inbound.messages >= 10_000);
    }
}
