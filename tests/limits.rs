//! Input that breaks a rule, and peers beyond a limit: each is told why, and nobody else notices.
#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests wait by the clock, and end where something is wrong"
)]

mod util;

use std::{
    io::Read,
    net::Shutdown,
    time::{Duration, Instant},
};

use nebnet::{
    CloseReason, Config, MessageType, NetService, OverflowPolicy, Recipients, SendError,
    SubscribeOptions, Subscription, TypeFilter,
    frame::{Bye, Frame, Hello},
};
use util::{
    Answer, BYE, Client, End, HELLO, OK, PATIENCE, PING, PONG, Random, closed_for, config, encoded,
    only_peer, start_tap, stop_tap, wait_for_closed, wait_for_row, wait_until,
};

const MAX: u32 = 1000;

/// The first eight bytes of a frame.
fn header(length: u32, message_type: u16, flags: u8, version: u8) -> Vec<u8> {
    let mut bytes = length.to_be_bytes().to_vec();
    bytes.extend_from_slice(&message_type.to_be_bytes());
    bytes.extend_from_slice(&[flags, version]);
    bytes
}

fn frame(message_type: MessageType, payload: &[u8]) -> Vec<u8> {
    encoded(&Frame::new(message_type, payload))
}

fn hello(hello: &Hello<'_>) -> Vec<u8> {
    frame(HELLO, &hello.to_payload())
}

#[track_caller]
fn expect_tapped(tap: &mut Subscription, message_type: u16, payload: &[u8]) {
    let message = tap.recv_timeout(PATIENCE).unwrap();
    assert_eq!(message.message_type(), MessageType(message_type));
    assert_eq!(message.payload(), payload);
}

/// Bytes that break a rule of the wire, and the reason that they are closed for.
fn bad_bytes() -> Vec<(&'static str, Vec<u8>, CloseReason)> {
    use CloseReason as R;
    let mut bad = vec![
        ("length 0", vec![0, 0, 0, 0], R::FrameTooShort),
        ("length 1", vec![0, 0, 0, 1], R::FrameTooShort),
        ("length 2", vec![0, 0, 0, 2], R::FrameTooShort),
        ("length 3", vec![0, 0, 0, 3], R::FrameTooShort),
        (
            "no room for the correlation",
            header(11, 7, 2, 1),
            R::FrameTooShort,
        ),
        (
            "no room for the checksum",
            header(7, 7, 1, 1),
            R::FrameTooShort,
        ),
        ("no room for both", header(15, 7, 3, 1), R::FrameTooShort),
        (
            "length above max",
            (MAX + 17).to_be_bytes().to_vec(),
            R::FrameTooLong,
        ),
        (
            "payload of max + 1",
            header(MAX + 5, 7, 0, 1),
            R::FrameTooLong,
        ),
        (
            "with a correlation",
            header(MAX + 13, 7, 2, 1),
            R::FrameTooLong,
        ),
        ("with a checksum", header(MAX + 9, 7, 1, 1), R::FrameTooLong),
        ("version 0", header(4, 7, 0, 0), R::BadVersion),
        ("version 2", header(4, 7, 0, 2), R::BadVersion),
        ("version 255", header(4, 7, 0, 255), R::BadVersion),
        (
            "correlation of a PING",
            header(12, 0xFF03, 2, 1),
            R::BadFlags,
        ),
        (
            "type 0xFF05",
            frame(MessageType(0xFF05), b""),
            R::BadProtocolMessage,
        ),
        (
            "type 0xFFFF",
            frame(MessageType(0xFFFF), b"x"),
            R::BadProtocolMessage,
        ),
        (
            "OK without our HELLO",
            frame(OK, &Hello::default().to_payload()),
            R::BadProtocolMessage,
        ),
        (
            "a PING of 65 bytes",
            frame(PING, &[0; 65]),
            R::BadProtocolMessage,
        ),
        ("an empty HELLO", frame(HELLO, b""), R::BadProtocolMessage),
        ("an empty BYE", frame(BYE, b""), R::BadProtocolMessage),
    ];
    for bit in 2..8 {
        bad.push(("an undefined flag", header(4, 7, 1 << bit, 1), R::BadFlags));
    }
    // Cut where a sign, or an addition in 32 bits, would go wrong.
    let edges = [
        0x7FFF_FFFF,
        0x8000_0000,
        0x8000_0003,
        0xFFFF_FFF0,
        0xFFFF_FFFC,
    ];
    for length in edges.into_iter().chain(0xFFFF_FFFD..=0xFFFF_FFFF) {
        bad.push((
            "a sign edge",
            u32::to_be_bytes(length).to_vec(),
            R::FrameTooLong,
        ));
    }
    let whole = encoded(&Frame::new(MessageType(7), b"sum").with_checksum(true));
    // The type, the payload and the checksum itself.
    for position in [4, 5, 8, 9, 10, 11, 12, 13, 14] {
        let mut bytes = whole.clone();
        bytes[position] ^= 0x10;
        bad.push(("a flipped bit", bytes, R::BadChecksum));
    }
    let mut ping = encoded(&Frame::new(PING, b"sum").with_checksum(true));
    ping[8] ^= 1;
    bad.push(("a PING with a bad checksum", ping, R::BadChecksum));
    bad
}

/// How the bytes are cut on their way.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Alone,
    BehindGood,
    BehindGoodByteByByte,
    BeforeMore,
}

#[test]
fn bad_bytes_are_answered_with_their_reason_and_nobody_else_notices() {
    let (service, mut tap) = start_tap(config().max_payload(MAX));
    let addr = service.local_addrs()[0];
    let mut canary = Client::connect(addr);
    for (name, bytes, reason) in bad_bytes() {
        for cut in [
            Cut::Alone,
            Cut::BehindGood,
            Cut::BehindGoodByteByByte,
            Cut::BeforeMore,
        ] {
            let before = closed_for(&service.handle().snapshot(), reason);
            let mut client = Client::connect(addr);
            let mut sent = Vec::new();
            if !matches!(cut, Cut::Alone) {
                sent.extend(frame(MessageType(1), b"good"));
                sent.extend(frame(MessageType(2), b""));
            }
            sent.extend(&bytes);
            match cut {
                Cut::Alone | Cut::BehindGood => assert!(client.try_write(&sent)),
                Cut::BehindGoodByteByByte => {
                    // The service may have closed before the last byte.
                    let _ = sent.chunks(1).all(|byte| client.try_write(byte));
                }
                Cut::BeforeMore => {
                    sent.extend(frame(MessageType(3), b"never delivered"));
                    assert!(client.try_write(&sent));
                }
            }
            if !matches!(cut, Cut::Alone) {
                expect_tapped(&mut tap, 1, b"good");
                expect_tapped(&mut tap, 2, b"");
            }
            let answer = client
                .receive()
                .unwrap_or_else(|| panic!("{name} {cut:?}: no BYE"));
            assert_eq!(answer.message_type, BYE, "{name} {cut:?}");
            let code = Bye::parse(&answer.payload).unwrap().code;
            assert_eq!(Some(code), reason.wire_code(), "{name} {cut:?}");
            client.expect_end(End::Fin);
            drop(client);
            wait_for_closed(&service, reason, before + 1);
            canary.send_message(9, b"alive");
            expect_tapped(&mut tap, 9, b"alive");
            canary.ping(b"alive");
        }
    }
    drop(canary);
    let report = stop_tap(service, tap);
    assert_eq!(report.snapshot.unclaimed, 0);
}

#[test]
fn frames_at_the_limits_are_delivered() {
    let (service, mut tap) = start_tap(config().max_payload(MAX));
    let mut client = Client::connect(service.local_addrs()[0]);
    for size in [0, 1, MAX as usize - 1, MAX as usize] {
        let payload = vec![b'p'; size];
        for checksum in [false, true] {
            for correlation in [None, Some(0), Some(u64::MAX)] {
                let plain = Frame::new(MessageType(7), &payload).with_checksum(checksum);
                client.send(&Frame {
                    correlation,
                    ..plain
                });
                let message = tap.recv_timeout(PATIENCE).unwrap();
                assert_eq!(message.payload(), payload);
                assert_eq!(message.correlation(), correlation);
                assert_eq!(message.checksum(), checksum);
            }
        }
    }
    drop(client);
    stop_tap(service, tap);
}

#[test]
fn a_header_may_be_cut_anywhere() {
    let (service, mut tap) = start_tap(config());
    let mut client = Client::connect(service.local_addrs()[0]);
    let bytes = encoded(
        &Frame::new(MessageType(7), b"cut")
            .with_correlation(1)
            .with_checksum(true),
    );
    for cut in 1..bytes.len() {
        assert!(client.try_write(&bytes[..cut]));
        // The PONG of another peer says that the loop has had its turn.
        Client::connect(service.local_addrs()[0]).ping(b"");
        assert!(client.try_write(&bytes[cut..]));
        expect_tapped(&mut tap, 7, b"cut");
    }
    drop(client);
    stop_tap(service, tap);
}

#[test]
fn thousands_of_frames_cut_at_random_arrive_in_order() {
    let mut service = NetService::new(config()).unwrap();
    let options = SubscribeOptions::new(TypeFilter::all()).overflow(OverflowPolicy::Pause);
    let mut tap = service.handle().subscribe_with(options).unwrap();
    service.start().unwrap();
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let (mut bytes, mut sizes) = (Vec::new(), Vec::new());
    for number in 0..20_000_u32 {
        let size = 4 + match random.below(100) {
            0 => random.below(20_000),
            1..10 => random.below(600),
            _ => random.below(20),
        };
        let mut payload = vec![b'r'; size];
        payload[..4].copy_from_slice(&number.to_be_bytes());
        let frame = Frame::new(MessageType(7), &payload).with_checksum(random.below(2) == 0);
        frame.encode(&mut bytes).unwrap();
        sizes.push(size);
    }
    let mut client = Client::connect(service.local_addrs()[0]);
    let writer = std::thread::spawn(move || {
        let mut rest = &*bytes;
        while !rest.is_empty() {
            let scale = [3, 50, 5_000, 100_000][random.below(4)];
            let (now, later) = rest.split_at((1 + random.below(scale)).min(rest.len()));
            assert!(client.try_write(now));
            rest = later;
        }
        client
    });
    for (number, size) in (0_u32..).zip(sizes) {
        let message = tap.recv_timeout(PATIENCE).unwrap();
        assert_eq!(message.payload().len(), size);
        assert_eq!(message.payload()[..4], number.to_be_bytes());
    }
    drop(writer.join().unwrap());
    stop_tap(service, tap);
}

#[test]
fn other_protocols_are_told_that_their_frame_is_too_long() {
    let (service, tap) = start_tap(config());
    let addr = service.local_addrs()[0];
    let mut canary = Client::connect(addr);
    let openings: [&[u8]; 8] = [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x15\x03\x03\x00\x02\x02\x28",
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"EHLO localhost\r\n",
        b"*1\r\n$4\r\nPING\r\n",
        b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n",
    ];
    for opening in openings {
        let mut client = Client::connect(addr);
        assert!(client.try_write(opening));
        client.expect_bye(4);
        canary.ping(b"alive");
        assert!(
            service.handle().snapshot().memory_used < 256 << 10,
            "nothing was reserved"
        );
    }
    wait_for_closed(&service, CloseReason::FrameTooLong, openings.len() as u64);
    drop(canary);
    stop_tap(service, tap);
}

#[test]
fn garbage_closes_its_sender_only() {
    let (service, mut tap) = start_tap(config());
    let addr = service.local_addrs()[0];
    let mut canary = Client::connect(addr);
    let mut random = Random(0xDEAD_BEEF);
    let mut clients = Vec::new();
    for round in 0..200 {
        let mut client = Client::connect(addr);
        let mut bytes: Vec<u8> = if round % 2 == 0 {
            (0..random.below(4000))
                .map(|_| random.next().to_le_bytes()[3])
                .collect()
        } else {
            // A good stream with some bits flipped.
            let one = Frame::new(MessageType(7), b"good bytes").with_checksum(round % 4 == 1);
            encoded(&one).repeat(50)
        };
        if round % 2 == 1 {
            for _ in 0..1 + random.below(3) {
                let position = random.below(bytes.len());
                bytes[position] ^= 1 << random.below(8);
            }
        }
        let _ = client.try_write(&bytes) && client.stream.shutdown(Shutdown::Write).is_ok();
        if round % 10 == 0 {
            canary.ping(b"alive");
        }
        clients.push(client);
        // A connection stays while its messages are not taken.
        while tap.try_recv_batch().is_ok() {}
    }
    wait_until("all closed but one", || {
        while tap.try_recv_batch().is_ok() {}
        service.handle().snapshot().peers == 1
    });
    for mut client in clients {
        // A BYE, an OK or nothing, and then the end.
        while client.receive().is_some() {}
    }
    canary.ping(b"alive");
    drop(canary);
    wait_until("all closed", || service.handle().snapshot().peers == 0);
    let report = stop_tap(service, tap);
    assert_eq!(closed_for(&report.snapshot, CloseReason::Internal), 0);
}

#[test]
fn a_claimed_length_costs_no_memory() {
    let config = config().frame_timeout(Duration::from_secs(1));
    let (service, tap) = start_tap(config);
    let addr = service.local_addrs()[0];
    let started = Instant::now();
    let mut clients: Vec<Client> = (0..200).map(|_| Client::connect(addr)).collect();
    for client in &mut clients {
        // A whole frame, then the largest legal length and a byte of what it announces.
        client.send_message(1, b"");
        let mut bytes = header((1 << 20) + 4, 7, 0, 1);
        bytes.push(b'x');
        assert!(client.try_write(&bytes));
    }
    let mut memory_max = 0;
    wait_until("all said what they wanted", || {
        let snapshot = service.handle().snapshot();
        memory_max = snapshot.memory_used.max(memory_max);
        snapshot.inbound.messages == 200
    });
    for client in &mut clients {
        client.expect_bye(13);
        memory_max = service.handle().snapshot().memory_used.max(memory_max);
    }
    assert!(
        started.elapsed() >= Duration::from_secs(1),
        "a deadline is never early"
    );
    assert!(
        memory_max < 1 << 20,
        "{memory_max} bytes for 200 bytes that came"
    );
    wait_for_closed(&service, CloseReason::FrameTimeout, 200);
    let report = stop_tap(service, tap);
    assert_eq!(report.snapshot.partial_frames, 200);
}

#[test]
fn limits_that_make_no_sense_are_refused_when_the_service_is_made() {
    for max in [0, (256 << 20) + 1, u32::MAX] {
        assert!(NetService::new(config().max_payload(max)).is_err());
    }
}

// ----- HELLO, PING, BYE --------------------------------------------------------------------------

fn expect_ok(client: &mut Client, expected: &Hello<'_>) {
    let answer = client.receive().expect("an OK");
    assert_eq!(answer.message_type, OK);
    assert_eq!(Hello::parse(&answer.payload).as_ref(), Ok(expected));
}

#[test]
fn hello_is_answered_with_ok() {
    let config = config()
        .network_id(77)
        .node_id([9; 16])
        .agent("limits/1")
        .max_payload(MAX);
    let (service, mut tap) = start_tap(config);
    let addr = service.local_addrs()[0];
    let ours = Hello {
        network_id: 77,
        node_id: [9; 16],
        payload_size_max: MAX,
        agent: "limits/1",
        ..Hello::default()
    };
    let theirs = Hello {
        network_id: 77,
        token: b"ignored where none is asked for",
        agent: "client",
        ..Hello::default()
    };
    // As the first frame, with bytes behind the token, and with a checksum.
    let mut client = Client::connect(addr);
    let mut payload = theirs.to_payload();
    payload.extend_from_slice(b"of a later version");
    client.send(&Frame::new(HELLO, &payload).with_checksum(true));
    expect_ok(&mut client, &ours);
    client.send_message(1, b"after");
    expect_tapped(&mut tap, 1, b"after");
    drop(client);
    // After application frames, with more in the same write.
    let mut client = Client::connect(addr);
    let mut bytes = frame(MessageType(1), b"before");
    bytes.extend(hello(&theirs));
    bytes.extend(frame(MessageType(1), b"behind"));
    assert!(client.try_write(&bytes));
    expect_ok(&mut client, &ours);
    expect_tapped(&mut tap, 1, b"before");
    expect_tapped(&mut tap, 1, b"behind");
    // Once only.
    assert!(client.try_write(&hello(&theirs)));
    client.expect_bye(8);
    stop_tap(service, tap);
}

#[test]
fn a_hello_that_does_not_fit_is_refused() {
    let (service, tap) = start_tap(config().network_id(77));
    let good = Hello {
        network_id: 77,
        ..Hello::default()
    };
    let cases = [
        (Hello::default().to_payload(), 10),
        (
            Hello {
                protocol_version: 2,
                ..good.clone()
            }
            .to_payload(),
            10,
        ),
        (good.to_payload()[..33].to_vec(), 8),
        ([b"NEBX", &good.to_payload()[4..]].concat(), 8),
        ([&good.to_payload()[..32], &[1, 0xFF, 0]].concat(), 8),
    ];
    for (payload, code) in cases {
        let mut client = Client::connect(service.local_addrs()[0]);
        assert!(client.try_write(&frame(HELLO, &payload)));
        client.expect_bye(code);
    }
    stop_tap(service, tap);
}

#[test]
fn a_required_hello_comes_first() {
    let (service, mut tap) = start_tap(config().require_hello(true));
    let addr = service.local_addrs()[0];
    let firsts = [
        (frame(MessageType(7), b"hi"), 9),
        (frame(MessageType(7), &[0; 4092]), 9),
        (frame(PING, b"hi"), 9),
        (frame(PONG, b"hi"), 9),
        // Until then, a length is at most 4,096.
        (4097_u32.to_be_bytes().to_vec(), 4),
        (frame(HELLO, &[0; 4093]), 4),
        (frame(HELLO, &[0; 4092]), 8),
    ];
    for (bytes, code) in firsts {
        let mut client = Client::connect(addr);
        assert!(client.try_write(&bytes));
        client.expect_bye(code);
    }
    let mut client = Client::connect(addr);
    let large = vec![b'l'; 5000];
    let bytes = [hello(&Hello::default()), frame(MessageType(7), &large)].concat();
    assert!(client.try_write(&bytes));
    assert_eq!(client.receive().unwrap().message_type, OK);
    expect_tapped(&mut tap, 7, &large);
    client.ping(b"now allowed");
    drop(client);
    let report = stop_tap(service, tap);
    assert_eq!(report.snapshot.inbound.messages, 1);
    assert_eq!(closed_for(&report.snapshot, CloseReason::HelloRequired), 4);
}

#[test]
fn a_hello_bounds_what_its_sender_is_sent() {
    let (service, tap) = start_tap(config());
    let mut client = Client::connect(service.local_addrs()[0]);
    let theirs = Hello {
        payload_size_max: 10,
        ..Hello::default()
    };
    let peer = only_peer(&service);
    assert!(client.try_write(&hello(&theirs)));
    assert_eq!(client.receive().unwrap().message_type, OK);
    let too_large = Err(SendError::TooLarge {
        size: 11,
        limit: 10,
    });
    wait_until("the limit holds", || {
        let sent = service.handle().send(peer, (MessageType(1), &[0; 11]));
        sent.map_err(nebnet::Rejected::into_error) == too_large
    });
    service
        .handle()
        .send(peer, (MessageType(2), b"0123456789"))
        .unwrap();
    // What was sent before the limit was known may have come.
    let mut answer = client.receive().unwrap();
    while answer.message_type == MessageType(1) {
        answer = client.receive().unwrap();
    }
    assert_eq!(
        (answer.message_type, &*answer.payload),
        (MessageType(2), &b"0123456789"[..])
    );
    drop(client);
    stop_tap(service, tap);
}

#[test]
fn a_ping_is_answered_with_its_payload() {
    let (service, tap) = start_tap(config());
    let mut client = Client::connect(service.local_addrs()[0]);
    for size in [0, 1, 63, 64] {
        client.ping(&vec![b'p'; size]);
    }
    client.send(&Frame::new(PING, b"summed").with_checksum(true));
    assert_eq!(client.receive().unwrap().payload, b"summed");
    // A PONG that nobody asked for is ignored.
    client.send(&Frame::new(PONG, &[0; 65]));
    client.ping(b"still here");
    drop(client);
    let report = stop_tap(service, tap);
    assert_eq!(
        report.snapshot.inbound.messages, 0,
        "the protocol's own are not counted"
    );
}

#[test]
fn a_newer_ping_replaces_the_pong_that_waits() {
    const COUNT: u32 = 300_000;
    let (service, tap) = start_tap(config());
    let mut client = Client::connect_small(service.local_addrs()[0]);
    let mut stream = client.stream.try_clone().unwrap();
    let writer = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        for number in 0..COUNT {
            Frame::new(PING, &number.to_be_bytes())
                .encode(&mut bytes)
                .unwrap();
        }
        // Never stopped by answers that are not read: they do not pile up.
        std::io::Write::write_all(&mut stream, &bytes).unwrap();
    });
    let mut memory_max = 0;
    while !writer.is_finished() {
        memory_max = service.handle().snapshot().memory_used.max(memory_max);
        std::thread::yield_now();
    }
    writer.join().unwrap();
    let (mut last, mut count) = (None, 0);
    while last != Some(COUNT - 1) {
        let Answer {
            message_type,
            payload,
            ..
        } = client.receive().unwrap();
        assert_eq!(message_type, PONG, "{:?}", Bye::parse(&payload));
        let number = u32::from_be_bytes(payload.try_into().unwrap());
        assert!(
            last.is_none_or(|last| last < number),
            "PONGs keep the order"
        );
        last = Some(number);
        count += 1;
    }
    assert!(count < COUNT, "none was replaced");
    assert!(memory_max < 512 << 10, "{memory_max} bytes for PONGs");
    drop(client);
    stop_tap(service, tap);
}

#[test]
fn a_bye_is_not_answered_with_a_bye() {
    let (service, mut tap) = start_tap(config());
    let codes = [1_u16, 16, 999];
    for code in codes {
        let mut client = Client::connect(service.local_addrs()[0]);
        let peer = only_peer(&service);
        let bye = Bye {
            code,
            text: "so long",
        };
        let bytes = [
            frame(MessageType(1), b"last"),
            frame(BYE, &bye.to_payload()),
        ]
        .concat();
        assert!(client.try_write(&bytes));
        expect_tapped(&mut tap, 1, b"last");
        client.expect_end(End::Fin);
        drop(client);
        let row = wait_for_row(&service, peer);
        assert_eq!(
            (row.reason, row.bye_received),
            (CloseReason::PeerBye, Some(code))
        );
        wait_until("nobody", || service.handle().snapshot().peers == 0);
    }
    stop_tap(service, tap);
}

// ----- time --------------------------------------------------------------------------------------

const SHORT: Duration = Duration::from_millis(100);

/// A deadline counts from the beginning of the turn in which the loop saw its cause, which may be a
/// little before it, if the loop had to wait for a processor in that turn.
const TURN_MAX: Duration = Duration::from_millis(50);

#[track_caller]
fn expect_bye_not_before(client: &mut Client, code: u16, started: Instant, timeout: Duration) {
    client.expect_bye(code);
    let elapsed = started.elapsed();
    assert!(
        elapsed + TURN_MAX >= timeout,
        "closed after {elapsed:?} already"
    );
}

#[test]
fn a_peer_that_sends_no_whole_frame_is_closed() {
    let (service, tap) = start_tap(config().first_frame_timeout(SHORT));
    let addr = service.local_addrs()[0];
    let beginnings: [&[u8]; 4] = [b"", b"\0", b"\0\0\0\x06", b"\0\0\0\x06\0\x07\0\x01h"];
    let mut clients = Vec::new();
    for beginning in beginnings {
        let started = Instant::now();
        let mut client = Client::connect(addr);
        assert!(client.try_write(beginning));
        clients.push((client, started));
    }
    for (client, started) in &mut clients {
        expect_bye_not_before(client, 12, *started, SHORT);
    }
    wait_for_closed(&service, CloseReason::FirstFrameTimeout, 4);
    // Any whole frame ends the deadline, the protocol's own included.
    let mut client = Client::connect(addr);
    client.ping(b"");
    let mut said = Client::connect(addr);
    assert!(said.try_write(&hello(&Hello::default())));
    assert_eq!(said.receive().unwrap().message_type, OK);
    let mut late = Client::connect(addr);
    late.expect_bye(12);
    client.ping(b"still here");
    said.ping(b"still here");
    drop((client, said));
    stop_tap(service, tap);
}

#[test]
fn a_frame_that_takes_too_long_is_closed_although_bytes_keep_coming() {
    let (service, mut tap) = start_tap(config().frame_timeout(SHORT * 2));
    let mut client = Client::connect(service.local_addrs()[0]);
    // The first frame is whole, and after it the peer may be silent as long as it likes.
    client.send_message(1, b"good");
    expect_tapped(&mut tap, 1, b"good");
    let mut bystander = Client::connect(service.local_addrs()[0]);
    bystander.ping(b"");
    let started = Instant::now();
    assert!(client.try_write(&header(4 + 100_000, 7, 0, 1)));
    client
        .stream
        .set_read_timeout(Some(Duration::from_millis(2)))
        .unwrap();
    let mut drops = 0;
    let mut first = [0];
    // One byte now and then, until something is there to read.
    while client.stream.peek(&mut first).is_err() && client.try_write(b"x") {
        drops += 1;
    }
    client.stream.set_read_timeout(Some(PATIENCE)).unwrap();
    expect_bye_not_before(&mut client, 13, started, SHORT * 2);
    assert!(drops > 1);
    bystander.ping(b"silence is allowed");
    drop(bystander);
    let report = stop_tap(service, tap);
    assert_eq!(closed_for(&report.snapshot, CloseReason::FrameTimeout), 1);
    assert_eq!(report.snapshot.inbound.messages, 1);
}

#[test]
fn a_silent_peer_is_closed_when_it_was_idle_too_long() {
    let idle = Duration::from_millis(400);
    let (service, tap) = start_tap(
        config()
            .idle_timeout(idle)
            .first_frame_timeout(Duration::ZERO),
    );
    let addr = service.local_addrs()[0];
    let started = Instant::now();
    let mut silent = Client::connect(addr);
    let mut busy = Client::connect(addr);
    let mut told = Client::connect(addr);
    told.ping(b"");
    while closed_for(&service.handle().snapshot(), CloseReason::IdleTimeout) < 2 {
        busy.ping(b"any byte proves life");
        assert!(started.elapsed() < PATIENCE);
        std::thread::yield_now();
    }
    expect_bye_not_before(&mut silent, 14, started, idle);
    expect_bye_not_before(&mut told, 14, started, idle);
    busy.ping(b"still here");
    drop(busy);
    stop_tap(service, tap);
}

#[test]
fn bytes_that_we_send_keep_a_peer_from_being_idle() {
    let idle = Duration::from_millis(400);
    let (service, tap) = start_tap(
        config()
            .idle_timeout(idle)
            .first_frame_timeout(Duration::ZERO),
    );
    let mut client = Client::connect(service.local_addrs()[0]);
    let peer = only_peer(&service);
    let started = Instant::now();
    while started.elapsed() < idle * 2 {
        service
            .handle()
            .send(peer, (MessageType(1), b"tick"))
            .unwrap();
        client.expect(1, b"tick");
    }
    client.expect_bye(14);
    stop_tap(service, tap);
}

// ----- number of peers ---------------------------------------------------------------------------

#[test]
fn peers_beyond_the_limit_are_told_and_closed() {
    let (service, tap) = start_tap(config().max_peers(2));
    let addr = service.local_addrs()[0];
    let mut first = Client::connect(addr);
    let mut second = Client::connect(addr);
    first.ping(b"");
    second.ping(b"");
    // More than there are places to refuse from.
    let mut refused: Vec<Client> = (0..300).map(|_| Client::connect(addr)).collect();
    let mut told = 0;
    for client in &mut refused {
        match client.receive() {
            Some(answer) => {
                assert_eq!(Bye::parse(&answer.payload).unwrap().code, 17);
                client.expect_end(End::Fin);
                told += 1;
            }
            // Without a place to tell from, it is closed at once.
            None => assert_eq!(client.end(), Some(End::Fin)),
        }
    }
    assert!(told >= 64, "only {told} were told why");
    first.ping(b"still");
    second.ping(b"here");
    drop(refused);
    wait_for_closed(&service, CloseReason::TooManyPeers, 300);
    wait_until("their places are free", || {
        service.handle().snapshot().peers == 2
    });
    // A place that is free again is given away again.
    drop(first);
    wait_until("a free place", || service.handle().snapshot().peers == 1);
    let mut third = Client::connect(addr);
    third.ping(b"");
    let mut fourth = Client::connect(addr);
    fourth.expect_bye(17);
    drop((second, third));
    let report = stop_tap(service, tap);
    assert_eq!(report.snapshot.accepted, 304);
    assert_eq!(closed_for(&report.snapshot, CloseReason::TooManyPeers), 301);
}

#[test]
fn connections_of_one_address_are_limited() {
    let (service, tap) = start_tap(config().max_peers(5).max_peers_per_addr(2));
    let addr = service.local_addrs()[0];
    let mut clients = Vec::new();
    for local in ["127.0.0.1", "127.0.0.2"] {
        for _ in 0..2 {
            let mut client = Client::connect_from(local, addr);
            client.ping(b"");
            clients.push(client);
        }
        Client::connect_from(local, addr).expect_bye(18);
    }
    wait_for_closed(&service, CloseReason::TooManyPerAddress, 2);
    let mut fifth = Client::connect_from("127.0.0.3", addr);
    fifth.ping(b"");
    Client::connect_from("127.0.0.3", addr).expect_bye(17);
    // The count goes down with the connection.
    drop(clients.remove(0));
    wait_until("a free place", || service.handle().snapshot().peers == 4);
    let mut again = Client::connect_from("127.0.0.1", addr);
    again.ping(b"");
    for client in &mut clients {
        client.ping(b"still here");
    }
    drop((clients, fifth, again));
    stop_tap(service, tap);
}

#[test]
fn peers_that_say_nothing_leave_room_for_those_that_do() {
    for required in [false, true] {
        let config = config().max_pending(2).require_hello(required);
        let (service, tap) = start_tap(config);
        let addr = service.local_addrs()[0];
        let speak = |client: &mut Client| {
            if required {
                client.send(&Frame::new(HELLO, &Hello::default().to_payload()));
                assert_eq!(client.receive().unwrap().message_type, OK);
            } else {
                client.ping(b"");
            }
        };
        let mut silent = [Client::connect(addr), Client::connect(addr)];
        wait_until("two are there", || service.handle().snapshot().peers == 2);
        // Half a frame is none.
        assert!(silent[0].try_write(&[0, 0, 0]));
        Client::connect(addr).expect_bye(17);
        wait_for_closed(&service, CloseReason::TooManyPeers, 1);
        // Whoever spoke counts no more, and neither does who has left.
        speak(&mut silent[1]);
        let mut third = Client::connect(addr);
        speak(&mut third);
        let fourth = Client::connect(addr);
        wait_until("four are there", || service.handle().snapshot().peers == 4);
        Client::connect(addr).expect_bye(17);
        drop(fourth);
        wait_until("one has left", || service.handle().snapshot().peers == 3);
        let mut fifth = Client::connect(addr);
        speak(&mut fifth);
        drop((silent, third, fifth));
        stop_tap(service, tap);
    }
}

/// It has lost its turn to speak, so its place is free before its connection is.
#[test]
fn who_can_send_nothing_more_is_not_pending() {
    for required in [false, true] {
        let config = config().max_pending(1).require_hello(required);
        let (service, tap) = start_tap(config.first_frame_timeout(Duration::from_millis(300)));
        let addr = service.local_addrs()[0];
        let welcome = || {
            let mut next = Client::connect(addr);
            if required {
                next.send(&Frame::new(HELLO, &Hello::default().to_payload()));
                assert_eq!(next.receive().unwrap().message_type, OK);
            } else {
                next.ping(b"");
            }
            next
        };
        let mut garbage = Client::connect(addr);
        assert!(garbage.try_write(b"GET / HTTP/1.1\r\n\r\n"));
        assert!(garbage.receive().is_some(), "it is told why");
        let first = welcome();
        let mut silent = Client::connect(addr);
        assert!(silent.receive().is_some(), "it is told why");
        let second = welcome();
        assert_eq!(
            closed_for(&service.handle().snapshot(), CloseReason::TooManyPeers),
            0
        );
        drop((garbage, silent, first, second));
        stop_tap(service, tap);
    }
}

#[test]
fn where_nothing_is_due_nobody_is_pending() {
    let config = config().max_pending(1).first_frame_timeout(Duration::ZERO);
    let (service, tap) = start_tap(config);
    let addr = service.local_addrs()[0];
    let mut listeners: Vec<Client> = (0..10).map(|_| Client::connect(addr)).collect();
    wait_until("all are there", || service.handle().snapshot().peers == 10);
    service
        .handle()
        .broadcast((MessageType(7), b"news"), Recipients::All);
    for client in &mut listeners {
        client.expect(7, b"news");
    }
    drop(listeners);
    stop_tap(service, tap);
}

#[test]
fn a_refused_peer_that_talks_reads_its_bye() {
    let (service, tap) = start_tap(config().max_peers(1));
    let addr = service.local_addrs()[0];
    let mut first = Client::connect(addr);
    first.ping(b"");
    for _ in 0..20 {
        let mut client = Client::connect(addr);
        // Input that nobody reads must not turn into a RST which destroys the BYE.
        let _ = client.try_write(&frame(MessageType(7), &[0; 4096]));
        client.expect_bye(17);
    }
    let mut nothing = [0];
    first.stream.set_nonblocking(true).unwrap();
    assert!(
        first.stream.read(&mut nothing).is_err(),
        "nothing came for the first"
    );
    drop(first);
    let report = stop_tap(service, tap);
    assert_eq!(report.snapshot.inbound.messages, 0);
}

#[test]
fn the_same_limits_hold_with_inline_dispatch() {
    let config = Config::dispatch(config(), nebnet::Dispatch::Inline).max_payload(MAX);
    let (service, mut tap) = start_tap(config);
    for (_, bytes, reason) in bad_bytes() {
        let mut client = Client::connect(service.local_addrs()[0]);
        let bytes = [frame(MessageType(1), b"good"), bytes].concat();
        assert!(client.try_write(&bytes));
        expect_tapped(&mut tap, 1, b"good");
        client.expect_bye(reason.wire_code().unwrap());
    }
    stop_tap(service, tap);
}

// ----- the list of closed connections ------------------------------------------------------------

/// With more closes than the list has room for, it has the latest, in their order; of each reason
/// as many were counted as there were, all in all as many as there were connections.
#[test]
fn the_list_of_closed_connections_keeps_the_latest() {
    const LISTED_MAX: usize = 1_024;
    use CloseReason as R;
    // Several loops have one order for different milliseconds only.
    let (service, mut tap) = start_tap(config().shards(1));
    let (addr, handle) = (service.local_addrs()[0], service.handle());
    let reasons = [
        R::PeerClosed,
        R::EofInFrame,
        R::PeerBye,
        R::Reset,
        R::BadVersion,
    ];
    let end = |kind, mut client: Client| match kind {
        0 => {}
        1 => assert!(client.try_write(&[0, 0, 0])),
        2 => client.send(&Frame::new(BYE, &[0, 1, 0])),
        3 => client.reset(),
        _ => {
            assert!(client.try_write(&header(4, 7, 0, 2)));
            assert!(client.receive().is_some());
        }
    };
    let mut expected = Vec::new();
    let (mut counts, mut random) = ([0_u64; 5], Random(7));
    for number in 1..=LISTED_MAX as u64 + 100 {
        let mut client = Client::connect(addr);
        let local = client.stream.local_addr().unwrap();
        client.send_message(7, b"one");
        // Whole, so that nothing of it is waited for at the end.
        assert_eq!(tap.recv_batch().unwrap().len(), 1);
        // Whoever says goodbye is given a quarter of a second.
        let kind = match number % 100 {
            0 => random.below(3),
            _ => 3 + random.below(2),
        };
        end(kind, client);
        counts[kind] += 1;
        expected.push((local, reasons[kind]));
        wait_until("it is closed", || {
            service.handle().snapshot().closed_total() == number
        });
    }
    let latest = &expected[expected.len() - LISTED_MAX..];
    let rows = handle.recently_closed().unwrap();
    let listed: Vec<_> = rows.iter().map(|row| (row.addr, row.reason)).collect();
    assert_eq!(listed, latest);
    assert!(rows.is_sorted_by_key(|row| row.closed_at));
    assert!(rows.iter().all(|row| row.inbound.messages == 1));
    let snapshot = service.handle().snapshot();
    for (reason, count) in reasons.into_iter().zip(counts) {
        assert!(count > 0);
        assert_eq!(closed_for(&snapshot, reason), count, "{reason}");
    }
    assert_eq!(snapshot.closed_total(), expected.len() as u64);
    assert_eq!(snapshot.accepted, expected.len() as u64);
    stop_tap(service, tap);
}
