//! Handlers on the loop's own thread, over real sockets.
#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests wait by the clock, and end where something is wrong"
)]

mod util;

use std::{
    io::Write,
    net::Shutdown,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use nebnet::{
    Config, Dispatch, HandlerError, HandlerOptions, MessageType, NetService, Outgoing, PeerId,
    SendError, TypeFilter, frame::Frame,
};
use util::{Client, config, encoded, only_peer, stop, wait_until};

const COUNT: u32 = 100_000;

/// Where a handler has something of its own that cannot be on several loops.
fn one_loop() -> Config {
    config().shards(1)
}

fn modes() -> [Config; 2] {
    [
        config().dispatch(Dispatch::Thread),
        config().dispatch(Dispatch::Inline),
    ]
}

/// A service that echoes everything by a handler, which panics if an answer is refused: the credit
/// is there so that this cannot be.
fn start_echo(config: Config) -> NetService {
    let mut service = NetService::new(config).unwrap();
    let options = HandlerOptions::new(TypeFilter::all()).name("echo");
    let answer = |message: nebnet::MessageRef<'_>, replier: &mut nebnet::Replier<'_>| {
        replier.reply(message.payload()).unwrap();
    };
    service.handle_inline_each(options, |_| answer).unwrap();
    service.start().unwrap();
    service
}

fn numbered(count: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    for number in 0..count {
        let payload = number.to_be_bytes();
        let frame = Frame::new(MessageType(7), &payload);
        frame.encode(&mut bytes).unwrap();
    }
    bytes
}

fn expect_numbers(client: &mut Client, count: u32) {
    for number in 0..count {
        client.expect(7, &number.to_be_bytes());
    }
}

/// Stops, and looks at the row of the only handler. Returns its calls.
fn stop_handled(mut service: NetService) -> u64 {
    let report = stop(&mut service);
    let row = &report.snapshot.handlers[0];
    assert_eq!((row.panics, row.refused, row.removed), (0, 0, false));
    assert_eq!(report.snapshot.handled, row.calls);
    assert_eq!(report.snapshot.memory_used, 0, "every byte came back");
    row.calls
}

#[test]
fn a_handler_answers_a_pipeline_of_100_000_frames() {
    for config in modes() {
        let service = start_echo(config);
        let mut client = Client::connect(service.local_addrs()[0]);
        client.stream.write_all(&numbered(COUNT)).unwrap();
        client.stream.shutdown(Shutdown::Write).unwrap();
        expect_numbers(&mut client, COUNT);
        assert_eq!(client.receive(), None);
        assert_eq!(stop_handled(service), u64::from(COUNT));
    }
}

/// The peer sends faster than it reads, through an outbox that holds little: it is paused for its
/// own unread answers, again and again, and no answer is refused.
#[test]
fn a_slow_reader_is_held_back_by_its_answers() {
    for config in modes() {
        let service = start_echo(config.outbox_bytes(64 << 10).outbox_messages(500));
        let mut client = Client::connect_small(service.local_addrs()[0]);
        let mut stream = client.stream.try_clone().unwrap();
        let writer = thread::spawn(move || stream.write_all(&numbered(COUNT)).unwrap());
        wait_until("a pause", || service.handle().snapshot().pauses.credit > 0);
        expect_numbers(&mut client, COUNT);
        writer.join().unwrap();
        assert!(service.handle().snapshot().reads_paused > 0);
        assert_eq!(stop_handled(service), u64::from(COUNT));
    }
}

#[test]
fn answers_have_the_options_of_their_questions() {
    let service = start_echo(config());
    let mut client = Client::connect(service.local_addrs()[0]);
    let long = vec![b'l'; 300_000];
    let frames = [
        Frame::new(MessageType(7), b"plain"),
        Frame::new(MessageType(0), b"").with_checksum(true),
        Frame::new(MessageType(0xFEFF), b"correlated").with_correlation(u64::MAX),
        Frame::new(MessageType(9), &long)
            .with_correlation(1)
            .with_checksum(true),
    ];
    for frame in &frames {
        client.send(frame);
    }
    for frame in &frames {
        let answer = client.receive().unwrap();
        assert_eq!(answer.message_type, frame.message_type);
        assert_eq!(answer.payload, frame.payload);
        assert_eq!(answer.correlation, frame.correlation);
        assert_eq!(answer.checksum, frame.checksum);
    }
    drop(client);
    assert_eq!(stop_handled(service), frames.len() as u64);
}

/// Frames that arrive byte by byte, with a PING between them.
#[test]
fn frames_cut_at_every_byte_are_handled() {
    let service = start_echo(config());
    let mut client = Client::connect(service.local_addrs()[0]);
    for size in [0, 7, 300] {
        let payload = vec![b'x'; size];
        for byte in encoded(&Frame::new(MessageType(7), &payload).with_checksum(true)) {
            client.stream.write_all(&[byte]).unwrap();
        }
        client.expect(7, &payload);
        client.ping(b"still there");
    }
    drop(client);
    assert_eq!(stop_handled(service), 3);
}

/// What a handler takes no subscriber sees; what it leaves by a panic they do.
#[test]
fn after_a_panic_subscribers_get_the_messages() {
    for config in modes() {
        let mut service = NetService::new(config).unwrap();
        let mut tap = service.handle().subscribe(TypeFilter::all()).unwrap();
        let options = HandlerOptions::new(MessageType(7)).name("fragile");
        let fragile = |message: nebnet::MessageRef<'_>, replier: &mut nebnet::Replier<'_>| {
            assert_ne!(message.payload(), b"bad", "a bad message");
            replier.reply(message.payload()).unwrap();
        };
        service.handle_inline_each(options, |_| fragile).unwrap();
        service.start().unwrap();
        let mut client = Client::connect(service.local_addrs()[0]);
        let mut bytes = Vec::new();
        for (number, payload) in [(7, "one"), (8, "two"), (7, "bad"), (7, "four"), (8, "five")] {
            let frame = Frame::new(MessageType(number), payload.as_bytes());
            frame.encode(&mut bytes).unwrap();
        }
        client.stream.write_all(&bytes).unwrap();
        client.expect(7, b"one");
        for payload in ["two", "four", "five"] {
            assert_eq!(tap.recv().unwrap().payload(), payload.as_bytes());
        }
        // The loop goes on.
        client.ping(b"still there");
        client.send_message(7, b"bad");
        assert_eq!(tap.recv().unwrap().payload(), b"bad");
        drop(client);
        let report = stop(&mut service);
        assert!(report.failure.is_none());
        let row = &report.snapshot.handlers[0];
        assert_eq!((&*row.name, row.calls, row.panics), ("fragile", 2, 1));
        assert!(row.removed);
        assert_eq!(report.snapshot.dispatched, 4);
        let text = report.to_string();
        assert!(
            text.contains("6 messages, 2 handled, 4 dispatched"),
            "{text}"
        );
        assert!(text.contains("removed by a panic"), "{text}");
    }
}

/// A stop writes every answer to what was handled before it says BYE.
#[test]
fn a_stop_drains_answers() {
    const PAGES: u32 = 60;
    let mut service = NetService::new(one_loop().outbox_bytes(32 << 20)).unwrap();
    let page = vec![b'p'; 200_000];
    let options = HandlerOptions::new(TypeFilter::all());
    let handler = service.handle_inline(options, move |_, replier| {
        replier.reply(&page).unwrap();
    });
    handler.unwrap();
    service.start().unwrap();
    let mut client = Client::connect_small(service.local_addrs()[0]);
    client.stream.write_all(&numbered(PAGES)).unwrap();
    // More than the buffers of the system hold, so that answers wait.
    wait_until("all questions", || {
        service.handle().snapshot().handled == u64::from(PAGES)
    });
    wait_until("answers that wait", || {
        service.handle().snapshot().outbound_queued.messages > 0
    });
    let reader = thread::spawn(move || {
        for _ in 0..PAGES {
            let answer = client.receive().expect("an answer");
            assert_eq!(answer.payload.len(), 200_000);
        }
        client.expect_bye(1);
    });
    let report = stop(&mut service);
    assert!(report.drained, "{report}");
    reader.join().unwrap();
}

/// A handler reaches other peers through a handle, and nothing that it may call there waits for the
/// loop.
#[test]
fn a_handler_may_use_a_handle() {
    let mut service = NetService::new(one_loop()).unwrap();
    let handle = service.handle();
    let seen = Arc::new(Mutex::new(Vec::<PeerId>::new()));
    let calls = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&calls);
    let relay = move |message: nebnet::MessageRef<'_>, _: &mut nebnet::Replier<'_>| {
        counted.fetch_add(1, Ordering::Relaxed);
        let mut peers = seen.lock().unwrap();
        if !peers.contains(&message.peer()) {
            peers.push(message.peer());
        }
        assert_eq!(handle.peers(), Err(nebnet::QueryError::OwnThread));
        assert_eq!(handle.recently_closed(), Err(nebnet::QueryError::OwnThread));
        assert_eq!(handle.snapshot().peers, 2);
        for peer in peers.iter().filter(|peer| **peer != message.peer()) {
            let outgoing = Outgoing::new(message.message_type(), message.payload());
            let patience = Duration::from_secs(1000);
            handle.send_timeout(*peer, outgoing, patience).unwrap();
        }
    };
    let options = HandlerOptions::new(MessageType(7));
    service.handle_inline(options, relay).unwrap();
    service.start().unwrap();
    let addr = service.local_addrs()[0];
    let (mut one, mut other) = (Client::connect(addr), Client::connect(addr));
    wait_until("two peers", || service.handle().snapshot().peers == 2);
    one.send_message(7, b"first");
    wait_until("the first call", || calls.load(Ordering::Relaxed) == 1);
    other.send_message(7, b"hello");
    one.expect(7, b"hello");
    one.send_message(7, b"hello yourself");
    other.expect(7, b"hello yourself");
    drop((one, other));
    assert_eq!(stop_handled(service), 3);
}

/// Answers go past the slot's lock, and sends of other threads through it: both are counted.
#[test]
fn answers_and_sends_of_other_threads_add_up() {
    // Together less than an outbox holds, so that nothing is refused.
    const EACH: u32 = 30_000;
    let mut service = start_echo(config());
    let mut client = Client::connect(service.local_addrs()[0]);
    let (peer, handle) = (only_peer(&service), service.handle());
    let sender = thread::spawn(move || {
        for number in 0..EACH {
            let payload = number.to_be_bytes();
            let message = Outgoing::new(MessageType(9), &payload);
            let patience = Duration::from_secs(30);
            handle.send_timeout(peer, message, patience).unwrap();
        }
    });
    let mut stream = client.stream.try_clone().unwrap();
    let writer = thread::spawn(move || stream.write_all(&numbered(EACH)).unwrap());
    let mut next = [0_u32; 2];
    while next != [EACH; 2] {
        let message = client.receive().expect("a message");
        let number = &mut next[usize::from(message.message_type == MessageType(9))];
        assert_eq!(message.payload, number.to_be_bytes());
        *number += 1;
    }
    sender.join().unwrap();
    writer.join().unwrap();
    drop(client);
    let report = stop(&mut service);
    assert_eq!(
        report.snapshot.outbound_written.messages,
        2 * u64::from(EACH)
    );
    assert_eq!(report.snapshot.memory_used, 0);
}

#[test]
fn a_handler_closes_and_is_told_so() {
    let mut service = NetService::new(one_loop()).unwrap();
    let handle = service.handle();
    let options = HandlerOptions::new(MessageType(7));
    let handler = service.handle_inline(options, move |message, replier| {
        replier.reply("last words").unwrap();
        assert!(handle.close(message.peer()));
        let sent = handle.send(message.peer(), (MessageType(8), b"late"));
        assert_eq!(
            sent.map_err(nebnet::Rejected::into_error),
            Err(SendError::Closing)
        );
        // What was read before the close may be answered until the BYE is due.
        replier.reply("and these").unwrap();
    });
    handler.unwrap();
    service.start().unwrap();
    let mut client = Client::connect(service.local_addrs()[0]);
    client.send_message(7, b"bye");
    client.expect(7, b"last words");
    client.expect(7, b"and these");
    client.expect_bye(2);
    drop(client);
    let report = stop(&mut service);
    let row = &report.snapshot.handlers[0];
    assert_eq!((row.calls, row.refused, row.panics), (1, 0, 0));
}

#[test]
fn handlers_are_set_before_the_start() {
    let mut service = NetService::new(one_loop()).unwrap();
    let options = || HandlerOptions::new(MessageType(7));
    service.handle_inline(options(), |_, _| {}).unwrap();
    let taken = service.handle_inline(options(), |_, _| {});
    assert_eq!(taken, Err(HandlerError::TypeTaken(MessageType(7))));
    service.start().unwrap();
    let other = HandlerOptions::new(MessageType(8));
    let late = service.handle_inline(other, |_, _| {});
    assert_eq!(late, Err(HandlerError::AlreadyStarted));
    assert_eq!(service.handle().snapshot().handlers[0].name, "handler-1");
    stop(&mut service);
}
