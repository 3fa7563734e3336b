//! Subscribers that do not keep up, leave, or share their channel; and callbacks that fail.
#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests wait by the clock, and end where something is wrong"
)]

mod util;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crossbeam_channel::{after, bounded, select};
use nebnet::{
    CloseReason, Config, Dispatch, EndReason, Message, MessageType, NetService, OverflowPolicy,
    PeerId, ServiceState, SubscribeError, SubscribeOptions, SubscriberRow, Subscription,
    TypeFilter, frame::Frame,
};
use util::{
    Client, PATIENCE, Random, assert_balanced, closed_for, config, start_tap, stop, stop_tap,
    wait_until,
};

const A: MessageType = MessageType(7);
const B: MessageType = MessageType(9);
const MODES: [Dispatch; 2] = [Dispatch::Thread, Dispatch::Inline];

fn numbered(message_type: MessageType, range: std::ops::Range<u32>, size: usize) -> Vec<u8> {
    let (mut bytes, mut payload) = (Vec::new(), vec![b'n'; size.max(4)]);
    for number in range {
        payload[..4].copy_from_slice(&number.to_be_bytes());
        Frame::new(message_type, &payload)
            .encode(&mut bytes)
            .unwrap();
    }
    bytes
}

fn number(payload: &[u8]) -> u32 {
    u32::from_be_bytes(payload[..4].try_into().unwrap())
}

/// A peer on a thread of its own that writes bytes, and stays until its service has read them.
fn spawn_peer(addr: SocketAddr, bytes: Vec<u8>) -> JoinHandle<Client> {
    thread::spawn(move || {
        let mut client = Client::connect(addr);
        assert!(client.try_write(&bytes));
        client
    })
}

/// How many messages a subscriber was offered, with the offer at its end: a message matches first.
fn offered(row: &SubscriberRow) -> u64 {
    row.taken + row.dropped + row.discarded + row.queued + row.parked
}

fn options(types: impl Into<TypeFilter>, name: &str) -> SubscribeOptions {
    SubscribeOptions::new(types).name(name)
}

// ----- full --------------------------------------------------------------------------------------

/// Takes what is there, and holds it against the number of the next message: a batch says how many
/// are missing before it.
#[track_caller]
fn take_all(subscription: &mut Subscription, next: &mut u64) {
    while let Ok(batch) = subscription.try_recv_batch() {
        *next += batch.missed();
        for message in &batch {
            assert_eq!(u64::from(number(message.payload())), *next);
            *next += 1;
        }
    }
}

#[test]
fn what_a_full_subscriber_misses_is_counted_exactly_and_others_miss_nothing() {
    const COUNT: u32 = 5_000;
    for dispatch in MODES {
        let mut service = NetService::new(config().dispatch(dispatch)).unwrap();
        let small = options(A, "small").messages(10);
        let thin = options(A, "thin").bytes(1);
        let mut slow =
            [small, thin].map(|options| (service.handle().subscribe_with(options).unwrap(), 0));
        let whole = options(A, "whole").overflow(OverflowPolicy::Pause);
        let mut whole = service.handle().subscribe_with(whole).unwrap();
        service.start().unwrap();
        let mut client = Client::connect(service.local_addrs()[0]);
        for round in 0..4 {
            let (start, end) = (round * COUNT, (round + 1) * COUNT);
            assert!(client.try_write(&numbered(A, start..end, 50)));
            for expected in start..end {
                assert_eq!(
                    number(whole.recv_timeout(PATIENCE).unwrap().payload()),
                    expected
                );
            }
            for (subscription, next) in &mut slow {
                wait_until("all were offered", || {
                    offered(&subscription.row()) == u64::from(end)
                });
                take_all(subscription, next);
                let row = subscription.row();
                assert!(row.taken > u64::from(round) && row.dropped > 0, "{row:?}");
                assert_eq!(row.matched, row.taken + row.dropped, "{row:?}");
            }
        }
        // One more, behind what was dropped last: every drop was told of.
        assert!(client.try_write(&numbered(A, 4 * COUNT..4 * COUNT + 1, 50)));
        whole.recv_timeout(PATIENCE).unwrap();
        for (subscription, next) in &mut slow {
            wait_until("the last", || subscription.row().queued == 1);
            take_all(subscription, next);
            assert_eq!(*next, u64::from(4 * COUNT + 1));
        }
        assert_eq!(whole.row().dropped, 0);
        drop(client);
        stop(&mut service);
        drop((slow, whole));
        assert_eq!(service.handle().snapshot().memory_used, 0);
    }
}

#[test]
fn pause_loses_nothing_whatever_the_bounds() {
    let mut random = Random(42);
    for dispatch in MODES {
        for messages in [1, 2, 7, 64] {
            for bytes in [1, 5_000, 100_000] {
                let queue = 1 + random.below(50);
                let config = config()
                    .dispatch(dispatch)
                    .dispatch_messages(queue)
                    .dispatch_bytes(64 << 10)
                    .outbox_bytes(64 << 10);
                pause_loses_nothing(config, messages, bytes, &mut random);
            }
        }
    }
}

/// Three peers send messages of two types, mixed, to subscribers of one, of the other and of both.
fn pause_loses_nothing(config: Config, messages: usize, bytes: usize, random: &mut Random) {
    const COUNT: u32 = 400;
    let what = format!("{messages} messages, {bytes} bytes, {config:?}");
    let mut service = NetService::new(config).unwrap();
    let all = [
        (TypeFilter::from(A), 1),
        (TypeFilter::from(B), 1),
        (TypeFilter::all(), 2),
    ];
    let subscriptions = all.map(|(types, share)| {
        let options = SubscribeOptions::new(types).messages(messages).bytes(bytes);
        let options = options.overflow(OverflowPolicy::Pause);
        (service.handle().subscribe_with(options).unwrap(), share)
    });
    service.start().unwrap();
    let consumers = subscriptions.map(|(mut subscription, share)| {
        let pause = random.below(8);
        thread::spawn(move || {
            let (mut next, mut count) = (HashMap::<(PeerId, MessageType), u32>::new(), 0);
            while count < COUNT * 3 * share {
                let batch = subscription
                    .recv_batch_timeout(PATIENCE)
                    .expect("another batch");
                assert_eq!(batch.missed(), 0);
                assert!(batch.len() <= messages);
                for message in &batch {
                    let next = next
                        .entry((message.peer(), message.message_type()))
                        .or_default();
                    assert_eq!(number(message.payload()), *next);
                    *next += 1;
                    count += 1;
                }
                (0..pause).for_each(|_| thread::yield_now());
            }
            subscription
        })
    });
    let peers = [0; 3].map(|_| {
        let mut bytes = Vec::new();
        for number in 0..COUNT {
            let size = if random.below(50) == 0 {
                20_000
            } else {
                random.below(300)
            };
            for message_type in [A, B] {
                bytes.extend(numbered(message_type, number..number + 1, size));
            }
        }
        spawn_peer(service.local_addrs()[0], bytes)
    });
    let clients = peers.map(|peer| peer.join().unwrap());
    for consumer in consumers {
        let subscription = consumer.join().unwrap_or_else(|_| panic!("{what}"));
        let row = subscription.row();
        assert_eq!(
            (row.taken, row.dropped, row.parked),
            (row.matched, 0, 0),
            "{what}"
        );
    }
    drop(clients);
    let report = stop(&mut service);
    assert_eq!(
        report.snapshot.inbound.messages,
        u64::from(COUNT * 6),
        "{what}"
    );
    assert_eq!(service.handle().snapshot().memory_used, 0, "{what}");
}

#[test]
fn pause_holds_back_only_the_peers_that_sent_to_the_full_subscriber() {
    for dispatch in MODES {
        let mut service = NetService::new(config().dispatch(dispatch)).unwrap();
        let full = options(A, "full")
            .messages(1)
            .overflow(OverflowPolicy::Pause);
        let mut full = service.handle().subscribe_with(full).unwrap();
        let mut other = service.handle().subscribe(B).unwrap();
        service.start().unwrap();
        let addr = service.local_addrs()[0];
        let mut good = Client::connect(addr);
        let sender = spawn_peer(addr, numbered(A, 0..20_000, 1000));
        wait_until("messages are parked", || full.row().parked > 0);
        let handle = service.handle();
        wait_until("its reading has stopped", || {
            handle.peers().unwrap().iter().any(|row| !row.reading)
        });
        wait_until("it is counted", || {
            service.handle().snapshot().pauses.subscriber > 0
        });
        let counts = |row: &SubscriberRow| (row.pauses, row.stalls);
        assert_eq!(
            (counts(&full.row()), counts(&other.row())),
            ((1, 0), (0, 0))
        );
        for number in 0..1000 {
            assert!(good.try_write(&numbered(B, number..number + 1, 10)));
            let message = other.recv_timeout(PATIENCE).unwrap();
            assert_eq!(self::number(message.payload()), number);
        }
        good.ping(b"still served");
        // Until the loop had seen that it is held back, its credit was the bound.
        let queue = service.handle().snapshot().dispatch_queue;
        assert!(queue.bytes < 5 << 20, "{queue:?}");
        for expected in 0..20_000 {
            assert_eq!(
                number(full.recv_timeout(PATIENCE).unwrap().payload()),
                expected
            );
        }
        drop((sender.join().unwrap(), good));
        stop(&mut service);
        drop((full, other));
        assert_eq!(service.handle().snapshot().memory_used, 0);
    }
}

#[test]
fn a_full_dispatch_queue_stops_all_reading_until_there_is_room() {
    for dispatch in MODES {
        let config = config().dispatch(dispatch).dispatch_bytes(64 << 10);
        let mut service = NetService::new(config).unwrap();
        let full = options(A, "full").bytes(1).overflow(OverflowPolicy::Pause);
        let mut full = service.handle().subscribe_with(full).unwrap();
        let mut other = service.handle().subscribe(B).unwrap();
        service.start().unwrap();
        let addr = service.local_addrs()[0];
        let mut good = Client::connect(addr);
        good.ping(b"");
        let peers = [0; 4].map(|_| spawn_peer(addr, numbered(A, 0..500, 1000)));
        wait_until("the queue is full", || {
            service.handle().snapshot().dispatch_full > 0
        });
        // What makes it full may be on its way to the subscriber still.
        wait_until("it holds all", || full.row().stalls > 0);
        let rows = service.handle().snapshot().subscribers;
        assert!(rows[0].name == "full" && rows[0].stalls > 0, "{rows:?}");
        assert!(other.row().pauses == 0 && other.row().stalls == 0);
        assert!(good.try_write(&numbered(B, 0..1, 10)));
        // One read beyond the bound for each peer that had its turn, and no more.
        let queue = service.handle().snapshot().dispatch_queue;
        assert!(queue.bytes <= 6 * (64 << 10), "{queue:?}");
        let mut next = HashMap::<PeerId, u32>::new();
        for _ in 0..2000 {
            let message = full.recv_timeout(PATIENCE).unwrap();
            let next = next.entry(message.peer()).or_default();
            assert_eq!(number(message.payload()), *next);
            *next += 1;
        }
        assert_eq!(number(other.recv_timeout(PATIENCE).unwrap().payload()), 0);
        good.ping(b"read again");
        drop((peers.map(|peer| peer.join().unwrap()), good));
        stop(&mut service);
        drop((full, other));
        assert_eq!(service.handle().snapshot().memory_used, 0);
    }
}

#[test]
fn an_empty_queue_takes_one_message_of_any_size() {
    for dispatch in MODES {
        let config = config()
            .dispatch(dispatch)
            .memory_budget(4 << 20)
            .dispatch_bytes(64 << 10)
            .dispatch_messages(1)
            .outbox_bytes(64 << 10)
            .outbox_messages(1)
            .max_payload(1 << 20);
        let mut service = NetService::new(config).unwrap();
        let tiny = options(A, "tiny")
            .messages(1)
            .bytes(1)
            .overflow(OverflowPolicy::Pause);
        let mut tiny = service.handle().subscribe_with(tiny).unwrap();
        service.start().unwrap();
        let mut bytes = numbered(A, 0..1, 1 << 20);
        bytes.extend(numbered(A, 1..2, 1 << 20));
        bytes.extend(numbered(A, 2..50, 10));
        bytes.extend(numbered(A, 50..51, 1 << 20));
        let peer = spawn_peer(service.local_addrs()[0], bytes);
        for expected in 0..51 {
            assert_eq!(
                number(tiny.recv_timeout(PATIENCE).unwrap().payload()),
                expected
            );
        }
        drop(peer.join().unwrap());
        stop(&mut service);
        drop(tiny);
        assert_eq!(service.handle().snapshot().memory_used, 0);
    }
}

/// Whatever one subscriber does with what it cannot hold, the others get everything.
#[test]
fn every_policy_costs_nobody_but_its_subscriber_and_the_peers_that_it_names() {
    const COUNT: u32 = 3_000;
    for dispatch in MODES {
        let mut service = NetService::new(config().dispatch(dispatch)).unwrap();
        let subscribe = |name: &str, types, overflow| {
            let options = options(types, name).messages(10).overflow(overflow);
            service.handle().subscribe_with(options).unwrap()
        };
        let mut oldest = subscribe("oldest", A, OverflowPolicy::DropOldest);
        let newest = subscribe("newest", A, OverflowPolicy::DropNewest);
        let mut leaves = subscribe("leaves", A, OverflowPolicy::Unsubscribe);
        let mut closes = subscribe("closes", B, OverflowPolicy::Close);
        // Panics with a message in its hands.
        let mut panics = subscribe("panics", A, OverflowPolicy::Pause);
        let panicking = thread::spawn(move || {
            let batch = panics.recv_batch().unwrap();
            panic!("a subscriber's own fault, with {} messages", batch.len());
        });
        let mut whole = subscribe("whole", A, OverflowPolicy::Pause);
        service.start().unwrap();
        let addr = service.local_addrs()[0];
        let mut client = Client::connect(addr);
        let sender = thread::spawn(move || {
            assert!(client.try_write(&numbered(A, 0..COUNT, 100)));
            client
        });
        for expected in 0..COUNT {
            assert_eq!(
                number(whole.recv_timeout(PATIENCE).unwrap().payload()),
                expected
            );
        }
        assert!(panicking.join().is_err());
        let mut client = sender.join().unwrap();
        wait_until("all were offered", || {
            offered(&oldest.row()) == COUNT.into() && offered(&newest.row()) == COUNT.into()
        });
        // The oldest gave way, so that these are the last.
        let mut next = 0;
        take_all(&mut oldest, &mut next);
        assert_eq!(next, u64::from(COUNT));
        let row = oldest.row();
        assert_eq!((row.taken, row.dropped), (10, u64::from(COUNT) - 10));
        // This one has the first, and then its end.
        for expected in 0..10 {
            assert_eq!(number(leaves.recv().unwrap().payload()), expected);
        }
        assert!(leaves.recv().is_err());
        assert_eq!(leaves.end_reason(), Some(EndReason::Overflow));
        assert!(leaves.row().overflowed);

        // Two peers send too much to the strict one, and a third does not.
        for _ in 0..2 {
            let mut flooding = Client::connect(addr);
            assert!(flooding.try_write(&numbered(B, 0..1_000, 100)));
            flooding.expect_bye(22);
        }
        util::wait_for_closed(&service, CloseReason::Flood, 2);
        // What they had sent before is offered to its end.
        wait_until("nothing waits", || {
            service.handle().snapshot().dispatch_queue.messages == 0
        });
        take_all(&mut closes, &mut 0);
        assert!(client.try_write(&numbered(B, 0..5, 100)));
        wait_until("five more", || closes.row().queued == 5);
        client.ping(b"still served");
        assert!(closes.row().dropped > 0);
        assert_eq!(closes.end_reason(), None);
        let balance = service.handle().balance();
        assert!(balance.is_exact(), "{balance}");
        drop(client);
        stop(&mut service);
        assert_eq!(closes.end_reason(), Some(EndReason::Stopped));
        drop((oldest, newest, leaves, closes, whole));
        assert_eq!(service.handle().snapshot().memory_used, 0);
    }
}

#[test]
fn a_channel_of_the_embedder_keeps_no_policy_that_it_cannot() {
    let service = NetService::new(config()).unwrap();
    for overflow in [OverflowPolicy::Pause, OverflowPolicy::DropOldest] {
        let (sender, _receiver) = bounded::<Message>(5);
        let options = options(A, "own").overflow(overflow);
        let refused = service
            .handle()
            .subscribe_sender(options, sender)
            .unwrap_err();
        assert_eq!(refused, SubscribeError::NeedsOwnQueue);
    }
}

// ----- coming and going --------------------------------------------------------------------------

#[test]
fn who_comes_and_goes_during_a_storm_sees_a_contiguous_run() {
    for dispatch in MODES {
        let mut service = NetService::new(config().dispatch(dispatch)).unwrap();
        service.start().unwrap();
        let addr = service.local_addrs()[0];
        let done = Arc::new(AtomicBool::new(false));
        let storm = thread::spawn({
            let done = Arc::clone(&done);
            move || {
                let mut client = Client::connect(addr);
                let mut start = 0;
                while !done.load(Ordering::Relaxed) {
                    assert!(client.try_write(&numbered(A, start..start + 500, 20)));
                    start += 500;
                }
                client
            }
        });
        let mut last = 0;
        for round in 0..100 {
            let small = options(A, "guest")
                .messages(1 + round % 40)
                .overflow(OverflowPolicy::Pause);
            let mut guest = service.handle().subscribe_with(small).unwrap();
            let mut next = None;
            for _ in 0..200 {
                let message = guest.recv_timeout(PATIENCE).unwrap();
                let number = number(message.payload());
                assert_eq!(next.unwrap_or(number), number, "a gap");
                next = Some(number + 1);
            }
            assert!(next > Some(last), "the storm goes on");
            last = next.unwrap();
            // With messages in its queue, and some parked.
            drop(guest);
        }
        done.store(true, Ordering::Relaxed);
        drop(storm.join().unwrap());
        wait_until("the last was read", || {
            service.handle().snapshot().peers == 0
        });
        let report = stop(&mut service);
        assert!(report.snapshot.subscribers.is_empty());
        assert_eq!(service.handle().snapshot().memory_used, 0);
    }
}

#[test]
fn messages_for_a_dropped_subscription_are_unclaimed() {
    for dispatch in MODES {
        let (mut service, mut tap) = start_tap(config().dispatch(dispatch));
        let mut client = Client::connect(service.local_addrs()[0]);
        assert!(client.try_write(&numbered(A, 0..10, 10)));
        wait_until("some came", || tap.row().matched == 10);
        tap.recv_timeout(PATIENCE).unwrap();
        drop(tap);
        assert!(client.try_write(&numbered(A, 0..10, 10)));
        wait_until("nobody wants them", || {
            service.handle().snapshot().unclaimed == 10
        });
        drop(client);
        // Nobody holds what was in the queue.
        wait_until("the peer is gone", || {
            service.handle().snapshot().peers == 0
        });
        let report = stop(&mut service);
        assert_eq!(report.snapshot.claimed, 10);
        // The row has left with its subscriber, and what it counted has not.
        let departed = report.snapshot.departed;
        assert_eq!(
            (departed.subscribers, departed.matched),
            (1, 10),
            "{departed:?}"
        );
        let settled = departed.taken + departed.dropped + departed.discarded;
        assert_eq!((settled, departed.queued), (10, 0), "{departed:?}");
        assert!(
            report.to_string().contains("1 subscribers that left"),
            "{report}"
        );
        assert_eq!(service.handle().snapshot().memory_used, 0);
    }
}

#[test]
fn a_channel_of_the_embedder_serves_several_subscriptions() {
    for dispatch in MODES {
        let mut service = NetService::new(config().dispatch(dispatch)).unwrap();
        let (sender, receiver) = bounded::<Message>(5);
        let first = service
            .handle()
            .subscribe_sender(options(A, "first"), sender.clone())
            .unwrap();
        let second = service
            .handle()
            .subscribe_sender(options(B, "second"), sender)
            .unwrap();
        service.start().unwrap();
        let mut client = Client::connect(service.local_addrs()[0]);
        assert!(client.try_write(&numbered(A, 0..3, 2000)));
        wait_until("three", || offered(&first.row()) == 3);
        assert!(client.try_write(&numbered(B, 0..20, 10)));
        wait_until("all", || offered(&second.row()) == 20);
        let mut row = second.row();
        assert_eq!((row.taken, row.dropped, first.row().taken), (2, 18, 3));
        let messages: Vec<Message> = receiver.try_iter().collect();
        let seen: Vec<_> = messages
            .iter()
            .map(|m| (m.message_type(), number(m.payload())))
            .collect();
        assert_eq!(seen, [(A, 0), (A, 1), (A, 2), (B, 0), (B, 1)]);
        assert_eq!(messages[0].payload().len(), 2000);
        drop(messages);
        // Once nobody receives, both leave.
        drop(receiver);
        assert!(client.try_write(&numbered(A, 0..1, 10)));
        assert!(client.try_write(&numbered(B, 0..1, 10)));
        assert!(client.try_write(&numbered(B, 1..2, 10)));
        wait_until("both left", || {
            service.handle().snapshot().subscribers.is_empty()
        });
        row = first.row();
        assert_eq!(
            row.matched,
            row.taken + row.dropped + row.discarded,
            "{row:?}"
        );
        client.ping(b"still served");
        drop(client);
        stop(&mut service);
        drop((first, second));
        assert_eq!(service.handle().snapshot().memory_used, 0);
    }
}

#[test]
fn subscriptions_are_selected_from() {
    let mut service = NetService::new(config()).unwrap();
    let first = service.handle().subscribe(A).unwrap();
    let second = service.handle().subscribe(B).unwrap();
    service.start().unwrap();
    let mut client = Client::connect(service.local_addrs()[0]);
    let mut bytes = Vec::new();
    for number in 0..100 {
        bytes.extend(numbered(A, number..number + 1, 10));
        bytes.extend(numbered(B, number..number + 1, 10));
    }
    assert!(client.try_write(&bytes));
    let mut counts = [0; 2];
    while counts != [100, 100] {
        select! {
            recv(first.receiver()) -> delivery => {
                for message in &delivery.unwrap().into_batch() {
                    assert_eq!((message.message_type(), number(message.payload())), (A, counts[0]));
                    counts[0] += 1;
                }
            }
            recv(second.receiver()) -> delivery => {
                for message in &delivery.unwrap().into_batch() {
                    assert_eq!((message.message_type(), number(message.payload())), (B, counts[1]));
                    counts[1] += 1;
                }
            }
            recv(service.ended()) -> _ => panic!("the service runs"),
            recv(after(PATIENCE)) -> _ => panic!("nothing came"),
        }
    }
    // A delivery that is thrown away unopened is counted.
    assert!(client.try_write(&numbered(A, 0..1, 10)));
    drop(first.receiver().recv_timeout(PATIENCE).unwrap());
    let row = first.row();
    assert_eq!((row.taken, row.discarded, row.queued), (100, 1, 0));
    drop(client);
    stop(&mut service);
    assert!(first.receiver().recv().is_err(), "the end of the channel");
    drop((first, second));
    assert_eq!(service.handle().snapshot().memory_used, 0);
}

// ----- failure -----------------------------------------------------------------------------------

#[test]
fn a_panic_in_a_callback_fails_the_service_loudly() {
    for (dispatch, thread) in [
        (Dispatch::Thread, "nebnet-dispatch"),
        (Dispatch::Inline, "nebnet-loop"),
    ] {
        let mut service = NetService::new(config().dispatch(dispatch)).unwrap();
        let mut tap = service.handle().subscribe(TypeFilter::all()).unwrap();
        util::expect_panics();
        service.on_metrics(|_| panic!("the callback's own fault"));
        service.start().unwrap();
        let mut client = Client::connect(service.local_addrs()[0]);
        client.send_message(7, b"before");
        assert_eq!(tap.recv_timeout(PATIENCE).unwrap().payload(), b"before");
        // Whoever waits for it learns of it.
        assert!(
            service
                .ended()
                .recv_timeout(PATIENCE)
                .is_err_and(|end| end.is_disconnected())
        );
        let failure = service.failure().expect("the failure is told");
        assert_eq!(
            (failure.thread, &*failure.message),
            (thread, "the callback's own fault")
        );
        assert_eq!(service.handle().snapshot().state, ServiceState::Failed);
        while client.receive().is_some() {}
        assert!(tap.recv().is_err());
        assert_eq!(
            service.handle().subscribe(A).unwrap_err(),
            SubscribeError::Stopped
        );
        let report = util::stop_within(&mut service, Duration::from_secs(5));
        assert!(report.joined && !report.drained, "{report}");
        assert_eq!(report.failure, Some(failure));
        assert_eq!(report.snapshot.state, ServiceState::Failed);
        assert_eq!(closed_for(&report.snapshot, CloseReason::Internal), 1);
        assert_balanced(&report.snapshot);
        drop(tap);
        assert_eq!(service.handle().snapshot().memory_used, 0);
    }
}

#[test]
fn a_tap_that_takes_nothing_harms_nobody_but_itself() {
    let (service, tap) = start_tap(config());
    let mut other = service
        .handle()
        .subscribe_with(options(A, "other").overflow(OverflowPolicy::Pause))
        .unwrap();
    let peer = spawn_peer(service.local_addrs()[0], numbered(A, 0..50_000, 4));
    for expected in 0..50_000 {
        assert_eq!(
            number(other.recv_timeout(PATIENCE).unwrap().payload()),
            expected
        );
    }
    let row = tap.row();
    assert_eq!((row.matched, row.taken), (50_000, 0));
    assert_eq!(row.queued, 8192, "its bound in messages");
    drop((peer.join().unwrap(), other));
    stop_tap(service, tap);
}
