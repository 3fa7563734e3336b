//! Peers that send as fast as they can: one read goes into several blocks, and whoever is behind
//! stops it in the middle.
#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests wait by the clock, and end where something is wrong"
)]

mod util;

use std::{io::Write, net::SocketAddr, thread, time::Duration};

use nebnet::{
    CloseReason, Config, Dispatch, MessageType, NetService, OverflowPolicy, SubscribeOptions,
    Subscription, TypeFilter, frame::Frame,
};
use util::{Client, Random, config, stop_within, wait_for_closed, wait_until};

const MESSAGES: u64 = 40_000;

/// Frames with their numbers in front, of sizes that fit blocks badly; and what comes behind them.
fn stream(seed: u64) -> Vec<u8> {
    let mut random = Random(seed);
    let mut bytes = Vec::new();
    for number in 0..MESSAGES {
        let size = match random.below(400) {
            0 => random.below(150_000),
            1..40 => random.below(9_000),
            _ => random.below(300),
        };
        let mut payload = number.to_be_bytes().to_vec();
        payload.resize(8 + size, number.to_be_bytes()[7]);
        let frame = Frame::new(MessageType((number % 3) as u16), &payload);
        frame.encode(&mut bytes).unwrap();
    }
    bytes
}

/// Takes messages until `count` of them came, in order and undamaged, and rests at times.
fn take(mut messages: Subscription, count: u64) -> u64 {
    let mut next = 0;
    while next < count {
        let Ok(batch) = messages.recv_batch() else {
            break;
        };
        assert_eq!(batch.missed(), 0);
        for message in &batch {
            let (number, rest) = message.payload().split_first_chunk().unwrap();
            assert_eq!(u64::from_be_bytes(*number), next);
            assert!(
                rest.iter().all(|byte| *byte == number[7]),
                "{next} is damaged"
            );
            next += 1;
        }
        if next % 64 == 0 {
            thread::yield_now();
        }
    }
    next
}

fn send(addr: SocketAddr, mut bytes: Vec<u8>, tail: &[u8]) -> Client {
    bytes.extend_from_slice(tail);
    let mut client = Client::connect(addr);
    client.stream.write_all(&bytes).unwrap();
    client
}

fn lossless(config: Config) -> (NetService, Subscription) {
    let mut service = NetService::new(config).unwrap();
    let options = SubscribeOptions::new(TypeFilter::all())
        .messages(100)
        .overflow(OverflowPolicy::Pause);
    let messages = service.handle().subscribe_with(options).unwrap();
    service.start().unwrap();
    (service, messages)
}

/// Queues of all sizes: the smallest have room for less than a read brings.
#[test]
fn all_of_it_comes_in_order_whatever_has_room() {
    for (seed, config) in [
        (1, config()),
        (2, config().dispatch_bytes(64 << 10)),
        (3, config().dispatch_messages(7)),
        (
            4,
            config().dispatch(Dispatch::Inline).dispatch_messages(300),
        ),
    ] {
        let (mut service, messages) = lossless(config);
        let addr = service.local_addrs()[0];
        let taker = thread::spawn(move || take(messages, MESSAGES));
        let client = send(addr, stream(seed), b"");
        assert_eq!(taker.join().unwrap(), MESSAGES);
        drop(client);
        wait_for_closed(&service, CloseReason::PeerClosed, 1);
        let report = stop_within(&mut service, Duration::from_secs(10));
        assert_eq!(report.snapshot.inbound.messages, MESSAGES);
        assert_eq!(
            service.handle().snapshot().memory_used,
            0,
            "every byte came back"
        );
    }
}

/// What follows a bad frame in the same read is nobody's, and what came before it is delivered.
#[test]
fn what_lies_behind_a_bad_frame_is_not_read() {
    let (mut service, messages) = lossless(config().dispatch_bytes(64 << 10));
    let addr = service.local_addrs()[0];
    let taker = thread::spawn(move || take(messages, u64::MAX));
    let tail = [&b"GET / HTTP/1.1\r\n"[..], &stream(9)[..200_000]].concat();
    let mut client = send(addr, stream(5), &tail);
    client.expect_bye(4);
    wait_for_closed(&service, CloseReason::FrameTooLong, 1);
    let report = stop_within(&mut service, Duration::from_secs(10));
    assert_eq!(report.snapshot.inbound.messages, MESSAGES);
    assert_eq!(taker.join().unwrap(), MESSAGES);
}

/// The service stops, or closes the peer, while a read is only parsed in part: what was counted
/// as received is accounted for.
#[test]
fn an_end_in_the_middle_of_a_read_loses_nothing_that_was_counted() {
    for closes in [false, true] {
        let (mut service, messages) = lossless(config().dispatch_bytes(64 << 10));
        let addr = service.local_addrs()[0];
        // Each writes until the service ends it.
        let start = || {
            let mut client = Client::connect(addr);
            thread::spawn(move || while client.try_write(&stream(6)) {})
        };
        let mut senders = vec![start()];
        wait_until("the dispatch queue is full", || {
            let snapshot = service.handle().snapshot();
            // Short reads may hold back a peer before they fill the queue.
            if snapshot.pauses.subscriber >= senders.len() as u64 {
                senders.push(start());
            }
            snapshot.dispatch_full > 0
        });
        if closes {
            let peer = service.handle().peers().unwrap().remove(0).peer;
            assert!(service.handle().close(peer));
        }
        let report = stop_within(&mut service, Duration::from_millis(200));
        drop(messages);
        senders.into_iter().for_each(|one| one.join().unwrap());
        assert!(report.snapshot.inbound.messages > 0);
        assert_eq!(
            service.handle().snapshot().memory_used,
            0,
            "every byte came back"
        );
    }
}
