//! The blocking client: against a service, and against a listener that says whatever a test wants.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests end where something is wrong, and say how long they wait"
)]

mod util;

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    thread::{self, JoinHandle},
    time::Duration,
};

use nebnet::{
    Client, ClientError, ClientMessage, ClientOptions, CloseReason, Config, FrameError,
    MessageType, NetService, SubscribeOptions, TypeFilter,
    frame::{Bye, Decoder, Frame, Hello},
};
use rustix::net::sockopt;
use util::{
    BYE, HELLO, OK, PATIENCE, PING, PONG, config, encoded, only_peer, start_echo, start_tap, stop,
    stop_echo, stop_tap, wait_for_closed, wait_until,
};

const ASK: MessageType = MessageType(7);
const NEWS: MessageType = MessageType(8);
/// Short enough to be waited for, where the test is that the time is over.
const SHORT: Duration = Duration::from_millis(50);

fn addr_of(service: &NetService) -> SocketAddr {
    service.local_addrs()[0]
}

fn without_hello() -> ClientOptions {
    ClientOptions::new().hello(false)
}

/// A service that answers `ASK` with what it was asked, and `NEWS` before each answer.
fn start_news(config: Config) -> (NetService, JoinHandle<()>) {
    let mut service = NetService::new(config).unwrap();
    let mut questions = service.handle().subscribe(ASK).unwrap();
    let handle = service.handle();
    let thread = thread::Builder::new().spawn(move || {
        while let Ok(question) = questions.recv() {
            // The peer may have left.
            let _ = handle.send(question.peer(), (NEWS, question.payload()));
            let _ = handle.reply(&question, question.payload());
        }
    });
    service.start().unwrap();
    (service, thread.unwrap())
}

/// The service's side of a connection, in the test's hand, and its client, which said no HELLO.
fn raw(options: ClientOptions) -> (TcpStream, Client) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let client = Client::connect_with(addr, options.hello(false)).unwrap();
    let (stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    (stream, client)
}

/// Reads one frame: its type and payload.
fn read_frame(stream: &mut TcpStream) -> (MessageType, Vec<u8>) {
    let mut bytes = vec![0; 8];
    stream.read_exact(&mut bytes).unwrap();
    let length = u32::from_be_bytes(bytes[..4].try_into().unwrap());
    bytes.resize(4 + length as usize, 0);
    stream.read_exact(&mut bytes[8..]).unwrap();
    let (frame, _) = Decoder::new(u32::MAX).decode(&bytes).unwrap().unwrap();
    (frame.message_type, frame.payload.to_vec())
}

#[track_caller]
fn expect_bye(stream: &mut TcpStream, reason: CloseReason) {
    let (message_type, payload) = read_frame(stream);
    assert_eq!(message_type, BYE);
    let bye = Bye::parse(&payload).unwrap();
    assert_eq!(CloseReason::from_wire_code(bye.code), Some(reason));
}

#[track_caller]
fn expect_closed(result: Result<ClientMessage, ClientError>, expected: CloseReason) {
    let error = result.unwrap_err();
    assert!(matches!(error, ClientError::Closed { .. }), "{error}");
    assert_eq!(error.reason(), Some(expected), "{error}");
}

// ----- connecting --------------------------------------------------------------------------------

#[test]
fn hello_is_answered_with_who_the_service_is() {
    let config = config().node_id([9; 16]).agent("news/3").max_payload(2048);
    let (service, mut tap) = start_tap(config);
    let options = ClientOptions::new().checksums(true).node_id([1; 16]);
    let mut client = Client::connect_with(addr_of(&service), options).unwrap();
    let identity = client.service().unwrap();
    assert_eq!(identity.node_id, [9; 16].into());
    assert_eq!(
        (&*identity.agent, identity.payload_size_max),
        ("news/3", 2048)
    );
    assert_eq!(client.peer_addr().unwrap(), addr_of(&service));
    let row = &service.handle().peers().unwrap()[0];
    assert_eq!(row.addr, client.local_addr().unwrap());
    // What the service does not accept is not sent.
    let (size, limit) = (2049, 2048);
    let refused = client.send((ASK, vec![0; size]));
    assert_eq!(refused, Err(ClientError::TooLarge { size, limit }));
    client.send((ASK, vec![0; 2048])).unwrap();
    assert_eq!(tap.recv().unwrap().payload().len(), 2048);
    let message_type = HELLO;
    let refused = client.push((HELLO, ""));
    assert_eq!(refused, Err(ClientError::ReservedType { message_type }));
    assert_eq!(client.close(), Ok(0));
    wait_for_closed(&service, CloseReason::PeerBye, 1);
    stop_tap(service, tap);
}

#[test]
fn a_token_is_shown_and_a_wrong_one_is_refused() {
    let (service, tap) = start_tap(config().accept_tokens(["right"]));
    let addr = addr_of(&service);
    let right = ClientOptions::new().token("right");
    let client = Client::connect_with(addr, right).unwrap();
    drop(client);
    for options in [ClientOptions::new(), ClientOptions::new().token("wrong")] {
        let error = Client::connect_with(addr, options).unwrap_err();
        assert!(matches!(error, ClientError::Refused { .. }), "{error}");
        assert_eq!(error.reason(), Some(CloseReason::AuthFailed));
        let said = "the service refused the connection: auth_failed (11)";
        assert_eq!(error.to_string(), said);
    }
    stop_tap(service, tap);
}

#[test]
fn another_network_is_refused() {
    let (service, tap) = start_tap(config().network_id(3));
    let options = ClientOptions::new().network_id(4);
    let error = Client::connect_with(addr_of(&service), options).unwrap_err();
    assert_eq!(error.reason(), Some(CloseReason::HelloMismatch), "{error}");
    let options = ClientOptions::new().network_id(3);
    drop(Client::connect_with(addr_of(&service), options).unwrap());
    stop_tap(service, tap);
}

#[test]
fn a_service_that_is_full_says_so() {
    let (service, tap) = start_tap(config().max_peers(1));
    let client = Client::connect(addr_of(&service)).unwrap();
    let error = Client::connect(addr_of(&service)).unwrap_err();
    assert_eq!(error.reason(), Some(CloseReason::TooManyPeers), "{error}");
    drop(client);
    stop_tap(service, tap);
}

#[test]
fn without_hello_a_service_that_requires_it_says_bye() {
    let (service, tap) = start_tap(config().require_hello(true));
    let mut client = Client::connect_with(addr_of(&service), without_hello()).unwrap();
    assert_eq!(client.service(), None);
    client.send((ASK, "?")).unwrap();
    expect_closed(client.recv(), CloseReason::HelloRequired);
    stop_tap(service, tap);
}

#[test]
fn what_cannot_be_connected_to_is_named() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    // Accepted by the system, and never answered.
    let options = ClientOptions::new().connect_timeout(Some(SHORT));
    let error = Client::connect_with(addr, options).unwrap_err();
    assert_eq!(error, ClientError::HelloTimeout);
    drop(listener);
    let error = Client::connect(addr).unwrap_err();
    let refused = error.to_string();
    assert!(
        matches!(error, ClientError::Connect { addr: named, .. } if named == addr),
        "{error}"
    );
    assert!(refused.contains(&addr.to_string()), "{refused}");
    let none: &[SocketAddr] = &[];
    let error = Client::connect(none).unwrap_err();
    assert!(matches!(error, ClientError::Resolve { .. }), "{error}");
    let bad = ClientOptions::new().token([0; 256]);
    let error = Client::connect_with(addr, bad).unwrap_err();
    assert!(matches!(
        error,
        ClientError::BadOption {
            option: "token",
            ..
        }
    ));
}

/// A service may send before its OK, and no more than a block of it.
#[test]
fn messages_before_the_ok_are_received_and_bounded() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let connect = move || {
        let thread = thread::Builder::new().spawn(move || Client::connect(addr));
        thread.unwrap()
    };
    let ok = Hello::default().to_payload();

    let connecting = connect();
    let (mut stream, _) = listener.accept().unwrap();
    let mut bytes = encoded(&Frame::new(NEWS, b"early"));
    bytes.extend(encoded(&Frame::new(OK, &ok)));
    bytes.extend(encoded(&Frame::new(NEWS, b"late")));
    stream.write_all(&bytes).unwrap();
    let mut client = connecting.join().unwrap().unwrap();
    assert_eq!(client.recv().unwrap().payload(), b"early");
    assert_eq!(client.recv().unwrap().payload(), b"late");
    assert_eq!(read_frame(&mut stream).0, HELLO);

    let connecting = connect();
    let (mut stream, _) = listener.accept().unwrap();
    let bytes = encoded(&Frame::new(NEWS, &[0; 1 << 10])).repeat(65);
    stream.write_all(&bytes).unwrap();
    let error = connecting.join().unwrap().unwrap_err();
    let ClientError::Protocol { what, .. } = &error else {
        panic!("{error}");
    };
    assert!(what.contains("above the limit of 65536"), "{what}");
    assert_eq!(read_frame(&mut stream).0, HELLO);
    expect_bye(&mut stream, CloseReason::BadProtocolMessage);
}

// ----- asking ------------------------------------------------------------------------------------

#[test]
fn requests_are_answered_and_what_comes_before_waits_in_order() {
    let (mut service, news) = start_news(config());
    let mut client = Client::connect(addr_of(&service)).unwrap();
    for number in 0..10_u32 {
        let answer = client
            .request((ASK, &number.to_be_bytes()), PATIENCE)
            .unwrap();
        assert_eq!(answer.payload(), number.to_be_bytes());
        assert_eq!(answer.message_type(), ASK);
    }
    for number in 0..10_u32 {
        let message = client.recv().unwrap();
        assert_eq!(
            (message.message_type(), message.correlation()),
            (NEWS, None)
        );
        assert_eq!(message.into_payload(), number.to_be_bytes());
    }
    assert_eq!(client.recv_timeout(SHORT), Err(ClientError::Timeout));
    assert_eq!((client.close(), client_count(&service)), (Ok(0), 0));
    stop(&mut service);
    news.join().unwrap();
}

/// Connections that are open, once the ones that ended are closed.
fn client_count(service: &NetService) -> u64 {
    wait_until("no peers", || service.handle().snapshot().peers == 0);
    service.handle().snapshot().peers
}

#[test]
fn questions_are_asked_ahead_and_their_answers_taken_in_any_order() {
    const QUESTIONS: u32 = 1000;
    let (service, echo) = start_echo(config());
    let options = ClientOptions::new().checksums(true);
    let mut client = Client::connect_with(addr_of(&service), options).unwrap();
    let ids: Vec<_> = (0..QUESTIONS)
        .map(|number| client.push_request((ASK, &number.to_be_bytes())).unwrap())
        .collect();
    assert!(client.unwritten() > 0, "they are written together");
    for (number, id) in (0..QUESTIONS).zip(&ids).rev() {
        let answer = client.recv_reply(*id, PATIENCE).unwrap();
        assert_eq!(answer.payload(), number.to_be_bytes());
        assert!(
            answer.checksum(),
            "and the answer has one if the question did"
        );
    }
    let again = client.recv_reply(ids[0], SHORT);
    assert_eq!(again, Err(ClientError::UnknownRequest));
    // Or as messages that come.
    let id = client.push_request((ASK, "any")).unwrap();
    assert_eq!(client.recv().unwrap().correlation(), Some(id.correlation()));
    drop(client);
    stop_echo(service, echo);
}

#[test]
fn a_late_answer_is_counted_and_no_message() {
    let (mut stream, mut client) = raw(ClientOptions::new());
    let late = client.request((ASK, "slow?"), SHORT);
    assert_eq!(late, Err(ClientError::Timeout));
    let mut question = [0; 21];
    stream.read_exact(&mut question).unwrap();
    stream.write_all(&question).unwrap();
    stream.write_all(&encoded(&Frame::new(NEWS, b"!"))).unwrap();
    assert_eq!(client.recv().unwrap().payload(), b"!");
    assert_eq!(client.late_replies(), 1);

    // One that is waited for again is not late.
    let id = client.push_request((ASK, "slow?")).unwrap();
    assert_eq!(client.recv_reply(id, SHORT), Err(ClientError::Timeout));
    stream.read_exact(&mut question).unwrap();
    stream.write_all(&question).unwrap();
    let answer = client.recv_reply(id, PATIENCE).unwrap();
    assert_eq!(answer.payload(), b"slow?");
    assert_eq!(client.late_replies(), 1);
}

#[test]
fn questions_of_the_service_are_answered() {
    let (mut service, _) = start_news(config());
    let mut client = Client::connect(addr_of(&service)).unwrap();
    let peer = only_peer(&service);
    let pending = service
        .handle()
        .request(peer, (ASK, "2+2"), PATIENCE)
        .unwrap();
    let question = client.recv().unwrap();
    assert_eq!(question.payload(), b"2+2");
    client.reply(&question, "4").unwrap();
    assert_eq!(pending.recv().unwrap().payload(), b"4");
    drop(client);
    stop(&mut service);
}

#[test]
fn an_answer_behind_more_than_may_wait_is_not_reached() {
    let options = ClientOptions::new().inbox_bytes(4096);
    let (mut stream, mut client) = raw(options);
    let news = |number: u32| encoded(&Frame::new(NEWS, &number.to_be_bytes()));
    let bytes: Vec<u8> = (0..1000).flat_map(news).collect();
    stream.write_all(&bytes).unwrap();
    let id = client.push_request((ASK, "?")).unwrap();
    let error = client.recv_reply(id, PATIENCE).unwrap_err();
    let ClientError::InboxFull { size, limit: 4096 } = error else {
        panic!("{error}");
    };
    assert!((4096..4096 + 128).contains(&size), "{size}");
    // Nothing was thrown away, and the question is still open.
    let mut question = [0; 17];
    stream.read_exact(&mut question).unwrap();
    stream.write_all(&question).unwrap();
    for number in 0..1000_u32 {
        assert_eq!(client.recv().unwrap().payload(), number.to_be_bytes());
    }
    let answer = client.recv_reply(id, PATIENCE).unwrap();
    assert_eq!(answer.payload(), b"?");
}

// ----- time --------------------------------------------------------------------------------------

/// Without its PONGs the client would be taken for dead several times in this time.
#[test]
fn pings_are_answered_while_a_message_is_waited_for() {
    let heartbeat = (Duration::from_millis(100), Duration::from_millis(1000));
    let (service, echo) = start_echo(config().heartbeat(heartbeat.0, heartbeat.1));
    let mut client = Client::connect(addr_of(&service)).unwrap();
    let nothing = client.recv_timeout(3 * heartbeat.1);
    assert_eq!(nothing, Err(ClientError::Timeout));
    let answer = client.request((ASK, "still there"), PATIENCE).unwrap();
    assert_eq!(answer.payload(), b"still there");
    drop(client);
    stop_echo(service, echo);
}

#[test]
fn a_ping_is_answered_with_its_payload_and_checksum() {
    let (mut stream, mut client) = raw(ClientOptions::new());
    let ping = Frame::new(PING, b"ping").with_checksum(true);
    stream.write_all(&encoded(&ping)).unwrap();
    stream
        .write_all(&encoded(&Frame::new(NEWS, b"news")))
        .unwrap();
    assert_eq!(client.recv().unwrap().payload(), b"news");
    assert!(client.unwritten() > 0, "it goes out with the next call");
    assert_eq!(client.recv_timeout(SHORT), Err(ClientError::Timeout));
    let pong = encoded(&Frame::new(PONG, b"ping").with_checksum(true));
    let mut bytes = vec![0; pong.len()];
    stream.read_exact(&mut bytes).unwrap();
    assert_eq!(bytes, pong);
}

#[test]
fn a_timeout_within_a_frame_loses_nothing() {
    let (mut stream, mut client) = raw(ClientOptions::new().read_timeout(Some(SHORT)));
    let payload: Vec<u8> = (0..200_000_u32).flat_map(u32::to_be_bytes).collect();
    let bytes = encoded(&Frame::new(NEWS, &payload).with_checksum(true));
    let mut rest = &bytes[..];
    // Within the length, the header, the payload, the checksum.
    for size in [2, 4, 100_000, bytes.len() - 100_000 - 8] {
        let (piece, behind) = rest.split_at(size);
        stream.write_all(piece).unwrap();
        rest = behind;
        assert_eq!(client.recv(), Err(ClientError::Timeout));
    }
    stream.write_all(rest).unwrap();
    let message = client.recv_timeout(PATIENCE).unwrap();
    assert!(message.checksum() && message.payload() == payload);
    assert_eq!(
        client.recv_timeout(Duration::ZERO),
        Err(ClientError::Timeout)
    );
}

#[test]
fn a_write_that_takes_too_long_is_gone_on_with() {
    let options = ClientOptions::new().write_timeout(Some(SHORT));
    let (mut stream, mut client) = raw(options);
    let payload = vec![b'x'; 16 << 20];
    let error = client.send((ASK, &payload)).unwrap_err();
    assert!(error.is_timeout() && client.unwritten() > 0);
    // No more is taken, and what was taken is still there.
    let error = client.push((ASK, "more")).unwrap_err();
    assert!(matches!(error, ClientError::OutputFull { .. }), "{error}");

    let size = 8 + payload.len() + 12;
    let reader = thread::Builder::new().spawn(move || {
        let mut bytes = vec![0; size];
        stream.read_exact(&mut bytes).unwrap();
        (stream, bytes)
    });
    while let Err(error) = client.flush() {
        assert_eq!(error, ClientError::Timeout);
    }
    client.send((ASK, "more")).unwrap();
    let (_stream, bytes) = reader.unwrap().join().unwrap();
    let frames: Vec<_> = Decoder::new(u32::MAX)
        .frames(&bytes)
        .map(Result::unwrap)
        .collect();
    let expected = [Frame::new(ASK, &payload), Frame::new(ASK, b"more")];
    assert!(frames == expected, "each once, and whole");
}

/// A service does not read a peer that does not take its answers. So a client that only wrote would
/// wait for the service, and that for the client.
#[test]
fn a_client_that_sends_more_than_fits_reads_meanwhile() {
    const MESSAGES: usize = 10_000;
    let config = config()
        .outbox_bytes(64 << 10)
        .socket_buffers(16 << 10, 16 << 10);
    let (service, echo) = start_echo(config);
    let mut client = Client::connect(addr_of(&service)).unwrap();
    for number in 0..MESSAGES {
        let mut payload = [0; 1000];
        payload[..8].copy_from_slice(&number.to_be_bytes());
        client.push((ASK, &payload)).unwrap();
    }
    client.finish().unwrap();
    assert_eq!(client.send((ASK, "")), Err(ClientError::Finished));
    for number in 0..MESSAGES {
        let message = client.recv().unwrap();
        assert_eq!(message.payload()[..8], number.to_be_bytes());
    }
    assert_eq!(client.recv(), Err(ClientError::EndOfStream));
    assert_eq!(client.recv(), Err(ClientError::EndOfStream));
    stop_echo(service, echo);
}

// ----- the end -----------------------------------------------------------------------------------

#[test]
fn a_stop_is_told_after_what_came_before() {
    let (mut service, tap) = start_tap(config());
    let mut client = Client::connect(addr_of(&service)).unwrap();
    client.send((ASK, "?")).unwrap();
    let peer = only_peer(&service);
    for number in 0..100_u32 {
        service
            .handle()
            .send(peer, (NEWS, &number.to_be_bytes()))
            .unwrap();
    }
    let reader = thread::Builder::new().spawn(move || {
        for number in 0..100_u32 {
            assert_eq!(client.recv().unwrap().payload(), number.to_be_bytes());
        }
        expect_closed(client.recv(), CloseReason::Shutdown);
        expect_closed(client.recv(), CloseReason::Shutdown);
        let error = client.send((ASK, "?")).unwrap_err();
        assert_eq!(error.reason(), Some(CloseReason::Shutdown), "{error}");
        client.close()
    });
    drop(tap);
    let report = stop(&mut service);
    // The client heeds the BYE by ending its side, so the stop does not wait for the deadline.
    assert_eq!(report.closed_orderly, 1, "{report}");
    assert_eq!(reader.unwrap().join().unwrap(), Ok(0));
}

/// A client that does not read learns why a write failed.
#[test]
fn a_write_that_fails_says_what_the_service_said() {
    let (mut stream, mut client) = raw(ClientOptions::new());
    stream
        .write_all(&encoded(&Frame::new(NEWS, b"last")))
        .unwrap();
    let bye = Bye {
        code: 20,
        text: "too much",
    };
    let bye = encoded(&Frame::new(BYE, &bye.to_payload()));
    stream.write_all(&bye).unwrap();
    // Unread bytes make a RST of it.
    client.send((ASK, "unread")).unwrap();
    stream.peek(&mut [0]).unwrap();
    drop(stream);
    let error = loop {
        if let Err(error) = client.send((ASK, "?")) {
            break error;
        }
    };
    assert_eq!(error.reason(), Some(CloseReason::Budget), "{error}");
    // What came before it is still there.
    assert_eq!(client.recv().unwrap().payload(), b"last");
    expect_closed(client.recv(), CloseReason::Budget);
}

#[test]
fn a_close_counts_what_was_not_received() {
    let (service, echo) = start_echo(config());
    let mut client = Client::connect(addr_of(&service)).unwrap();
    for _ in 0..20 {
        client.push((ASK, "echo")).unwrap();
    }
    for _ in 0..5 {
        client.recv().unwrap();
    }
    assert_eq!(client.close(), Ok(15));
    wait_for_closed(&service, CloseReason::PeerBye, 1);
    let report = stop_echo(service, echo);
    assert_eq!(report.snapshot.inbound.messages, 20);
}

#[test]
fn a_close_does_not_wait_for_ever() {
    let options = ClientOptions::new().close_timeout(Some(SHORT));
    let (mut stream, mut client) = raw(options);
    client.push((ASK, "before")).unwrap();
    assert_eq!(client.close(), Err(ClientError::Timeout));
    assert_eq!(read_frame(&mut stream), (ASK, b"before".to_vec()));
    expect_bye(&mut stream, CloseReason::AppClosed);
    assert_eq!(stream.read(&mut [0]).unwrap(), 0);
}

#[test]
fn an_end_without_bye_is_told_apart() {
    let (stream, mut client) = raw(ClientOptions::new());
    drop(stream);
    assert_eq!(client.recv(), Err(ClientError::EndOfStream));

    let (mut stream, mut client) = raw(ClientOptions::new());
    let bytes = encoded(&Frame::new(NEWS, b"whole"));
    stream.write_all(&bytes).unwrap();
    stream.write_all(&bytes[..7]).unwrap();
    drop(stream);
    assert_eq!(client.recv().unwrap().payload(), b"whole");
    let (size, at) = (7, bytes.len() as u64);
    assert_eq!(client.recv(), Err(ClientError::CutOff { size, at }));

    let (stream, mut client) = raw(ClientOptions::new());
    sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    drop(stream);
    let error = client.recv().unwrap_err();
    assert!(matches!(error, ClientError::Io { .. }), "{error}");
    assert!(client.close().is_err());
}

#[test]
fn a_service_that_breaks_the_protocol_is_told_so() {
    let good = encoded(&Frame::new(NEWS, b"good"));
    let mut wrong = encoded(&Frame::new(NEWS, b"bad").with_checksum(true));
    wrong[9] ^= 0x10;
    let long = encoded(&Frame::new(NEWS, &[0; 1025]));
    let table = [
        (wrong, CloseReason::BadChecksum),
        (long, CloseReason::FrameTooLong),
        (b"GET / HTTP/1.1".to_vec(), CloseReason::FrameTooLong),
        (
            encoded(&Frame::new(PING, &[0; 65])),
            CloseReason::BadProtocolMessage,
        ),
    ];
    for (bytes, reason) in table {
        let (mut stream, mut client) = raw(ClientOptions::new().max_payload(1024));
        stream.write_all(&good).unwrap();
        stream.write_all(&bytes).unwrap();
        assert_eq!(client.recv().unwrap().payload(), b"good");
        let error = client.recv().unwrap_err();
        if let ClientError::Frame { error, .. } = &error {
            assert_eq!(CloseReason::from(*error), reason);
        }
        let (ClientError::Frame { at: place, .. } | ClientError::Protocol { at: place, .. }) =
            error
        else {
            panic!("{error}");
        };
        assert_eq!(place, good.len() as u64);
        assert_eq!(client.recv(), Err(error.clone()));
        assert_eq!(client.send((ASK, "")), Err(error));
        expect_bye(&mut stream, reason);
        assert_eq!(stream.read(&mut [0]).unwrap(), 0);
    }
}

#[test]
fn a_checksum_can_be_required() {
    let (mut stream, mut client) = raw(ClientOptions::new().require_checksums(true));
    let frame = Frame::new(NEWS, b"good").with_checksum(true);
    stream.write_all(&encoded(&frame)).unwrap();
    stream
        .write_all(&encoded(&Frame::new(NEWS, b"bad")))
        .unwrap();
    assert_eq!(client.recv().unwrap().payload(), b"good");
    let error = FrameError::MissingChecksum { flags: 0 };
    let at = frame.encoded_size() as u64;
    assert_eq!(client.recv(), Err(ClientError::Frame { error, at }));
}

#[test]
fn batches_go_out_in_few_writes() {
    let mut service = NetService::new(config()).unwrap();
    let options = SubscribeOptions::new(TypeFilter::all()).messages(100_000);
    let mut all = service.handle().subscribe_with(options).unwrap();
    service.start().unwrap();
    let mut client = Client::connect(addr_of(&service)).unwrap();
    for number in 0..50_000_u32 {
        client.push((ASK, &number.to_be_bytes())).unwrap();
        assert!(client.unwritten() < (64 << 10) + 12);
    }
    client.flush().unwrap();
    assert_eq!(client.unwritten(), 0);
    for number in 0..50_000_u32 {
        assert_eq!(all.recv().unwrap().payload(), number.to_be_bytes());
    }
    drop(client);
    stop_tap(service, all);
}
