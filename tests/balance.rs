//! The ledger holds at every moment, whatever happens: cuts of it are taken during storms.
#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests wait by the clock, and end where something is wrong"
)]

mod util;

use std::{net::SocketAddr, thread, time::Duration};

use crossbeam_channel::{Receiver, bounded};
use nebnet::{
    Config, Dispatch, EventOptions, Handle, HandlerOptions, MessageType, NetService, OutboxFull,
    Outgoing, OutgoingBatch, OverflowPolicy, Priority, Recipients, Subject, SubscribeOptions,
    TypeFilter, frame::Frame,
};
use util::{Client, Random, assert_balanced, config, wait_until};

/// Cuts of a storm. Whoever storms does something with every one, as far as it keeps up.
const CUTS: usize = 10_000;

const POLICIES: [OverflowPolicy; 5] = [
    OverflowPolicy::DropNewest,
    OverflowPolicy::Pause,
    OverflowPolicy::DropOldest,
    OverflowPolicy::Close,
    OverflowPolicy::Unsubscribe,
];

/// A peer comes, sends a little with every go, reads nothing, and leaves in any way.
fn storm_of_peers(go: &Receiver<()>, addr: SocketAddr, seed: u64) {
    let mut random = Random(seed);
    let mut client = None;
    while go.recv().is_ok() {
        let one = client.get_or_insert_with(|| Client::connect(addr));
        let mut bytes = Vec::new();
        for _ in 0..=random.below(10) {
            let number = u16::try_from(random.below(6)).unwrap();
            let size = [0, 10, 100, 6_000][random.below(4)];
            let mut frame = Frame::new(MessageType(number), &[7; 6_000][..size]);
            frame.correlation = (random.below(3) == 0).then_some(7);
            frame.encode(&mut bytes).unwrap();
        }
        let cut = random.below(bytes.len() * 8).min(bytes.len());
        let open = one.try_write(&bytes[..cut]);
        if !open || cut < bytes.len() {
            let gone = client.take();
            if random.below(4) == 0 {
                gone.unwrap().reset();
            }
        }
    }
}

/// Subscribers of all policies come, take some, and leave with the rest in their queues.
fn storm_of_subscribers(go: &Receiver<()>, handle: &Handle, seed: u64) {
    let mut random = Random(seed);
    while go.recv().is_ok() {
        let options = SubscribeOptions::new(TypeFilter::all())
            .messages(1 + random.below(200))
            .bytes(1 + random.below(100_000))
            .overflow(POLICIES[random.below(POLICIES.len())]);
        let mut guest = handle.subscribe_with(options).unwrap();
        let events = EventOptions::new().capacity(1 + random.below(5));
        let events = handle.subscribe_events(events).unwrap();
        let mut kept = Vec::new();
        for _ in 0..random.below(60) {
            if go.recv().is_err() {
                return;
            }
            if let Ok(batch) = guest.try_recv_batch() {
                let _ = handle.reply(batch.iter().next().unwrap(), batch.len().to_string());
                kept.push(batch);
            }
            if random.below(3) == 0 {
                kept.clear();
            }
            let _ = events.try_recv();
        }
    }
}

/// Somebody sends by every way there is, asks, and closes.
fn storm_of_senders(go: &Receiver<()>, handle: &Handle, seed: u64) {
    let mut random = Random(seed);
    let payload = vec![9; 9_000];
    while go.recv().is_ok() {
        let everybody = Recipients::Matching(&|info| {
            let _ = handle.send(info.peer, (MessageType(0x77), b"you"));
            true
        });
        let message = Outgoing::new(MessageType(0x70), &payload[..random.below(9_000)]);
        let priority = [Priority::High, Priority::Normal, Priority::Low][random.below(3)];
        let report = handle.broadcast(message.priority(priority), everybody);
        for peer in report.sent {
            match random.below(40) {
                0 => drop(handle.close(peer)),
                1..=5 => {
                    let (kind, timeout) = (MessageType(0x71), Duration::from_millis(20));
                    let asked = handle.request(peer, (kind, b"?"), timeout);
                    if random.below(2) == 0 {
                        drop(asked.map(|pending| pending.recv_timeout(Duration::from_millis(1))));
                    }
                }
                6..=9 => {
                    let mut batch = OutgoingBatch::new();
                    for _ in 0..40 {
                        let message = Outgoing::new(MessageType(0x72), &payload[..100]);
                        batch.push(&message).unwrap();
                    }
                    let _ = handle.send_batch(peer, &mut batch);
                }
                10..=15 => drop(handle.send(peer, (MessageType(0x73), payload.clone()))),
                _ => {}
            }
        }
    }
}

fn storm(config: Config, cuts: usize) {
    let mut service = NetService::new(config).unwrap();
    let echo = HandlerOptions::new(MessageType(5)).name("echo");
    let answer = |message: nebnet::MessageRef<'_>, replier: &mut nebnet::Replier<'_>| {
        let _ = replier.reply(message.payload());
    };
    service.handle_inline_each(echo, |_| answer).unwrap();
    service.start().unwrap();
    let (addr, handle) = (service.local_addrs()[0], service.handle());
    thread::scope(|scope| {
        let handle = &handle;
        let mut goes = Vec::new();
        for seed in 1..=6 {
            let (sender, go) = bounded(1);
            goes.push(sender);
            scope.spawn(move || match seed {
                1..=3 => storm_of_peers(&go, addr, seed),
                4 | 5 => storm_of_subscribers(&go, handle, seed),
                _ => storm_of_senders(&go, handle, seed),
            });
        }
        let (mut peers, mut subscribers) = (0, 0);
        for _ in 0..cuts {
            for go in &goes {
                let _ = go.try_send(());
            }
            let balance = handle.balance();
            assert!(balance.is_exact(), "{balance}");
            for equation in &balance.equations {
                peers += usize::from(matches!(equation.subject, Subject::Peer(_)));
                subscribers += usize::from(matches!(equation.subject, Subject::Subscriber(_)));
            }
        }
        assert!(peers > 0 && subscribers > 0, "{peers}, {subscribers}");
    });
    let closed = service.handle().snapshot();
    assert!(closed.inbound.messages > 0 && closed.outbound_written.messages > 0);
    let report = util::stop_within(&mut service, Duration::from_secs(10));
    assert!(report.joined, "{report}");
    assert_balanced(&report.snapshot);
    assert_balanced(&service.handle().snapshot());
    assert!(service.handle().balance().is_exact());
    assert_eq!(service.handle().snapshot().memory_used, 0);
}

#[test]
fn every_cut_of_a_storm_balances() {
    storm(config(), CUTS);
}

#[test]
fn every_cut_of_a_storm_balances_on_one_thread() {
    storm(config().dispatch(Dispatch::Inline), CUTS / 5);
}

#[test]
fn every_cut_of_a_storm_with_small_bounds_balances() {
    let config = config()
        .memory_budget(2 << 20)
        .dispatch_bytes(128 << 10)
        .dispatch_messages(50)
        .outbox_bytes(64 << 10)
        .outbox_messages(20)
        .outbox_full(OutboxFull::DropOldest)
        .max_requests(5);
    storm(config, CUTS / 5);
}

#[test]
fn a_balance_names_what_it_sums_up() {
    let mut service = NetService::new(config()).unwrap();
    let mut tap = service.handle().subscribe(TypeFilter::all()).unwrap();
    assert!(service.handle().balance().is_exact(), "before the start");
    service.start().unwrap();
    let mut client = Client::connect(service.local_addrs()[0]);
    client.send_message(7, b"hi");
    let message = tap.recv().unwrap();
    service.handle().reply(&message, "hello").unwrap();
    client.expect(7, b"hello");
    let balance = service.handle().balance();
    assert!(balance.is_exact() && balance.is_cut, "{balance}");
    assert_eq!(balance.peers_left_out, 0);
    let find = |subject, name| {
        let mut found = balance.equations.iter();
        let found = found.find(|one| one.subject == subject && one.name == name);
        found.unwrap_or_else(|| panic!("{balance:?}")).to_string()
    };
    let received = find(Subject::Service, "received");
    assert!(
        received.starts_with("service: 1 received = 0 handled + 1 dispatched"),
        "{received}"
    );
    let sent = find(Subject::Peer(message.peer()), "accepted for sending");
    assert!(
        sent.contains("1 accepted for sending = 1 written"),
        "{sent}"
    );
    let matched = find(Subject::Subscriber(tap.id()), "matched");
    assert!(matched.contains("1 matched = 1 taken"), "{matched}");
    drop(client);
    wait_until("it is gone", || service.handle().snapshot().peers == 0);
    assert!(service.handle().balance().is_exact());
    util::stop_tap(service, tap);
}

/// Handled, claimed, unclaimed, and answers in time and late, alone in their reads and mixed.
#[test]
fn each_type_has_its_own_sum() {
    for (dispatch, mixed) in [
        (Dispatch::Thread, false),
        (Dispatch::Inline, false),
        (Dispatch::Thread, true),
        (Dispatch::Inline, true),
    ] {
        let mut service = NetService::new(config().dispatch(dispatch)).unwrap();
        let some = service
            .handle()
            .subscribe(MessageType(1)..=MessageType(2))
            .unwrap();
        let options = HandlerOptions::new(MessageType(3));
        service.handle_inline_each(options, |_| |_, _| {}).unwrap();
        service.start().unwrap();
        let mut client = Client::connect(service.local_addrs()[0]);
        let peer = util::only_peer(&service);
        let long = Duration::from_secs(3600);
        let asked = service
            .handle()
            .request(peer, (MessageType(1), b"?"), long)
            .unwrap();
        let question = client.receive().unwrap();
        let mut parts = Vec::new();
        for number in [1, 2, 2, 3, 3, 3, 4, 4, 4, 4] {
            parts.push(util::encoded(&Frame::new(MessageType(number), b"some")));
        }
        for answered in [MessageType(1), MessageType(4)] {
            let mut answer = Frame::new(answered, b"!");
            answer.correlation = question.correlation;
            parts.push(util::encoded(&answer));
        }
        if mixed {
            assert!(client.try_write(&parts.concat()));
        } else {
            for (part, sent) in parts.iter().zip(1..) {
                assert!(client.try_write(part));
                wait_until("it came", || {
                    service.handle().snapshot().inbound.messages == sent
                });
            }
        }
        assert!(asked.recv().is_ok());
        wait_until("all came", || {
            service.handle().snapshot().dispatched + service.handle().snapshot().handled == 12
        });
        let balance = service.handle().balance();
        assert!(balance.is_exact() && balance.is_cut, "{balance}");
        let of_type = |number| Subject::Type(Some(MessageType(number)));
        let find = |number| {
            let mut found = balance.equations.iter();
            let found = found.find(|one| one.subject == of_type(number)).unwrap();
            (found.sum, found.terms.iter().map(|term| term.1).collect())
        };
        let expected: [(u64, Vec<u64>); 4] = [
            (2, vec![0, 1, 0, 1]),
            (2, vec![0, 2, 0, 0]),
            (3, vec![3, 0, 0, 0]),
            (5, vec![0, 0, 4, 1]),
        ];
        assert_eq!([1, 2, 3, 4].map(find), expected);
        drop(client);
        let report = util::stop_tap(service, some);
        let row = report.snapshot.types[0];
        assert_eq!((row.message_type, row.answers), (Some(MessageType(1)), 1));
        assert_eq!((row.inbound.bytes, row.outbound.messages), (12 + 17, 1));
        assert!(report.snapshot.requests.late == 1 && report.snapshot.requests.answered == 1);
    }
}

#[test]
fn nobody_is_asked_on_the_loops_own_thread() {
    let mut service = NetService::new(config().shards(1)).unwrap();
    let handle = service.handle();
    let (sender, receiver) = std::sync::mpsc::channel();
    let ask = move |_: nebnet::MessageRef<'_>, _: &mut nebnet::Replier<'_>| {
        let _ = sender.send(handle.balance());
    };
    let options = HandlerOptions::new(MessageType(7)).time_limit(Duration::ZERO);
    service.handle_inline(options, ask).unwrap();
    service.start().unwrap();
    let mut client = Client::connect(service.local_addrs()[0]);
    client.send_message(7, b"");
    let balance = receiver.recv().unwrap();
    assert!(!balance.is_cut && !balance.is_exact());
    drop(client);
    util::stop(&mut service);
}

/// The marker of a cut would wait behind the callback that waits for it.
#[test]
fn nobody_is_asked_on_the_dispatchers_own_thread() {
    for dispatch in [Dispatch::Thread, Dispatch::Inline] {
        let mut service = NetService::new(config().dispatch(dispatch)).unwrap();
        let mut tap = service.handle().subscribe(TypeFilter::all()).unwrap();
        let handle = service.handle();
        let (sender, receiver) = bounded(1);
        service.on_metrics(move |_| {
            // As many as would take minutes, if each were to wait for its answer.
            let balances = (0..100).map(|_| handle.balance());
            let _ = sender.try_send(balances.filter(|balance| balance.is_cut).count());
        });
        service.start().unwrap();
        assert_eq!(receiver.recv_timeout(util::PATIENCE), Ok(0));
        let mut client = Client::connect(service.local_addrs()[0]);
        client.send_message(7, b"behind");
        assert_eq!(tap.recv().unwrap().payload(), b"behind");
        // Whoever is not asked from there is answered.
        assert!(service.handle().balance().is_exact());
        drop(client);
        util::stop_tap(service, tap);
    }
}

/// What is parked for a full subscriber is dispatched: it waits there, and nowhere else.
#[test]
fn a_snapshot_of_a_quiet_service_is_exact_while_messages_are_parked() {
    let mut service = NetService::new(config()).unwrap();
    let options = || SubscribeOptions::new(TypeFilter::all()).messages(1);
    let subscribers: Vec<_> = [
        OverflowPolicy::Pause,
        OverflowPolicy::Pause,
        OverflowPolicy::DropNewest,
    ]
    .map(|overflow| {
        service
            .handle()
            .subscribe_with(options().overflow(overflow))
            .unwrap()
    })
    .into();
    service.start().unwrap();
    let mut client = Client::connect(service.local_addrs()[0]);
    let message = util::encoded(&Frame::new(MessageType(7), b"x"));
    // In one write, which is one read.
    assert!(client.try_write(&message.repeat(5)));
    wait_until("all are dispatched", || {
        service.handle().snapshot().dispatched == 5
    });
    // The dispatcher counts step by step; when it is done, nothing moves any more.
    wait_until("they are where they stay", || {
        let snapshot = service.handle().snapshot();
        let queue = snapshot.dispatch_queue;
        subscribers.iter().map(|one| one.row().parked).sum::<u64>() == 8
            && (queue.messages, queue.messages_parked) == (10, 10)
            && snapshot.balance().is_exact()
    });
    let balance = service.handle().balance();
    assert!(balance.is_exact(), "{balance}");
    drop(client);
    util::stop_within(&mut service, Duration::ZERO);
}

/// What the protocol says for itself is none of the application's traffic, in either direction.
#[test]
fn bytes_received_are_the_applications_alone() {
    for dispatch in [Dispatch::Thread, Dispatch::Inline] {
        let mut service = NetService::new(config().dispatch(dispatch)).unwrap();
        let tap = service.handle().subscribe(MessageType(7)).unwrap();
        let options = HandlerOptions::new(MessageType(8));
        service.handle_inline_each(options, |_| |_, _| {}).unwrap();
        service.start().unwrap();
        let mut client = Client::connect(service.local_addrs()[0]);
        client.ping(b"12345678");
        let [ping, own, handled] =
            [0xFF03, 7, 8].map(|number| util::encoded(&Frame::new(MessageType(number), b"xy")));
        // Around a message, alone, between handled ones, and at the end.
        for parts in [
            vec![&ping, &own, &ping],
            vec![&own],
            vec![&ping, &handled, &ping, &own, &handled],
            vec![&handled, &ping],
        ] {
            let bytes: Vec<u8> = parts.into_iter().flatten().copied().collect();
            assert!(client.try_write(&bytes));
        }
        let done = |snapshot: nebnet::Snapshot| snapshot.handled + snapshot.dispatched == 6;
        wait_until("all came", || done(service.handle().snapshot()));
        wait_until("all is counted", || {
            service.handle().snapshot().balance().is_exact()
        });
        let snapshot = service.handle().snapshot();
        assert_eq!(snapshot.inbound.bytes, 60);
        assert_eq!(
            service.handle().peers().unwrap()[0].inbound,
            snapshot.inbound
        );
        for balance in [snapshot.balance(), service.handle().balance()] {
            assert!(balance.is_exact(), "{balance}");
            let mut found = balance.equations.iter();
            assert!(found.any(|one| one.name == "bytes received" && one.sum == 60));
        }
        drop(client);
        util::stop_tap(service, tap);
    }
}
