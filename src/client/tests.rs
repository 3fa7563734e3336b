//! Bytes and messages of a client, without a socket: `tests/client.rs` has the rest.

use std::time::Duration;

use super::{
    ClientError, ClientMessage, ClientOptions,
    inbox::Inbox,
    input::{Incoming, Input},
    output::Output,
};
use crate::{
    error::FrameError,
    frame::{Bye, Decoder, Frame, Hello},
    id::{MessageType, NodeId, PeerIdentity, RequestId},
    limits::{CLIENT_OUTPUT_KEPT, CLIENT_READ_SIZE, CLIENT_REQUESTS_MAX},
};

const MAX_PAYLOAD: u32 = 1 << 10;
const NETWORK: u32 = 5;

fn encoded(frame: &Frame<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes).unwrap();
    bytes
}

fn ok_payload() -> Vec<u8> {
    let ok = Hello {
        network_id: NETWORK,
        node_id: [7; 16],
        agent: "server/1",
        ..Hello::default()
    };
    ok.to_payload()
}

/// One of each kind of frame that a service may send.
fn session() -> Vec<Vec<u8>> {
    let ok = ok_payload();
    let bye = Bye {
        code: 1,
        text: "later",
    };
    let bye = bye.to_payload();
    let frames = [
        Frame::new(MessageType(7), b"before"),
        Frame::new(MessageType::OK, &ok),
        Frame::new(MessageType::PING, b"are you there").with_checksum(true),
        // One that was not asked for, and one of a later version.
        Frame::new(MessageType::PONG, b""),
        Frame::new(MessageType(0xFF77), b"?"),
        Frame::new(MessageType(9), b"")
            .with_correlation(3)
            .with_checksum(true),
        Frame::new(MessageType::BYE, &bye),
    ];
    frames.iter().map(encoded).collect()
}

fn input() -> Input {
    Input::new(MAX_PAYLOAD, false, Some(NETWORK))
}

/// What these bytes make whole, up to the first error.
fn feed(input: &mut Input, mut bytes: &[u8]) -> Result<Vec<Incoming>, ClientError> {
    let mut found = Vec::new();
    loop {
        while let Some(incoming) = input.next()? {
            found.push(incoming);
        }
        if bytes.is_empty() {
            return Ok(found);
        }
        let space = input.space();
        let size = bytes.len().min(space.len());
        assert!(size > 0, "there is always space once nothing is whole");
        space[..size].copy_from_slice(&bytes[..size]);
        input.came(size);
        bytes = &bytes[size..];
    }
}

#[test]
fn cuts_change_nothing() {
    let bytes = session().concat();
    let expected = feed(&mut input(), &bytes).unwrap();
    let identity = PeerIdentity {
        node_id: NodeId([7; 16]),
        agent: "server/1".to_owned(),
        payload_size_max: 1 << 20,
        authenticated: false,
    };
    assert_eq!(expected.len(), 5, "{expected:?}");
    assert_eq!(expected[1], Incoming::Ok(identity));
    let bye = Incoming::Bye {
        code: 1,
        text: "later".to_owned(),
    };
    assert_eq!(expected[4], bye);
    for cut in 0..=bytes.len() {
        let mut input = input();
        let mut found = feed(&mut input, &bytes[..cut]).unwrap();
        found.extend(feed(&mut input, &bytes[cut..]).unwrap());
        assert_eq!(found, expected, "cut at {cut}");
    }
    let mut input = input();
    let mut found = Vec::new();
    for byte in bytes.chunks(1) {
        found.extend(feed(&mut input, byte).unwrap());
    }
    assert_eq!(found, expected);
}

#[test]
fn the_end_within_a_frame_says_where() {
    let frames = session();
    let bytes = frames.concat();
    let mut starts = vec![0];
    starts.extend(frames.iter().scan(0, |at, frame| {
        *at += frame.len();
        Some(*at)
    }));
    for cut in 0..=bytes.len() {
        let mut input = input();
        feed(&mut input, &bytes[..cut]).unwrap();
        let start = *starts.iter().rfind(|start| **start <= cut).unwrap();
        let expected = match cut - start {
            0 => ClientError::EndOfStream,
            size => ClientError::CutOff {
                size,
                at: start as u64,
            },
        };
        assert_eq!(input.at_end(), expected, "cut at {cut}");
    }
}

#[test]
fn what_breaks_a_rule_is_named_with_place_value_and_limit() {
    let good = encoded(&Frame::new(MessageType(7), b"good"));
    let at = good.len() as u64;
    let long = vec![0; MAX_PAYLOAD as usize + 1];
    let limit = MAX_PAYLOAD + 4;
    let frame = |error| ClientError::Frame { error, at };
    let length = limit + 1;
    let table = [
        (
            encoded(&Frame::new(MessageType(7), &long)),
            frame(FrameError::TooLong { length, limit }),
        ),
        (
            b"GET ".to_vec(),
            frame(FrameError::TooLong {
                length: 0x4745_5420,
                limit: MAX_PAYLOAD + 16,
            }),
        ),
        (
            b"\0\0\0\x03".to_vec(),
            frame(FrameError::TooShort {
                length: 3,
                limit: 4,
            }),
        ),
        (
            b"\0\0\0\x04\0\x07\x04\x01".to_vec(),
            frame(FrameError::BadFlags {
                flags: 4,
                allowed: 3,
            }),
        ),
        (
            b"\0\0\0\x04\0\x07\0\x02".to_vec(),
            frame(FrameError::BadVersion { version: 2 }),
        ),
    ];
    for (bytes, expected) in table {
        // However the bytes are cut, the message before is given out and the error is the same.
        for cut in 0..=good.len() + bytes.len() {
            let all = [good.clone(), bytes.clone()].concat();
            let mut input = input();
            let first = feed(&mut input, &all[..cut]);
            let error = match first {
                Err(error) => error,
                Ok(_) => feed(&mut input, &all[cut..]).unwrap_err(),
            };
            assert_eq!(error, expected, "cut at {cut}");
        }
    }
}

#[test]
fn a_checksum_that_is_wrong_or_missing_is_named() {
    let good = encoded(&Frame::new(MessageType(7), b"good"));
    let at = good.len() as u64;
    let mut wrong_checksum = encoded(&Frame::new(MessageType(7), b"hi").with_checksum(true));
    wrong_checksum[8] ^= 1;
    let error = feed(&mut input(), &[good, wrong_checksum].concat()).unwrap_err();
    let ClientError::Frame { error, at: place } = error else {
        panic!("{error:?}");
    };
    assert_eq!(place, at);
    assert!(matches!(error, FrameError::BadChecksum { .. }), "{error:?}");
    let mut strict = Input::new(MAX_PAYLOAD, true, None);
    let plain = encoded(&Frame::new(MessageType(7), b""));
    let error = feed(&mut strict, &plain).unwrap_err();
    let expected = FrameError::MissingChecksum { flags: 0 };
    let at = 0;
    assert_eq!(
        error,
        ClientError::Frame {
            error: expected,
            at
        }
    );
    assert_eq!(error.to_string(), "the service sent no frame at byte 0");
}

#[test]
fn what_may_not_come_is_named() {
    let ok = ok_payload();
    let other = Hello::default().to_payload();
    let future = Hello {
        protocol_version: 2,
        network_id: NETWORK,
        ..Hello::default()
    };
    let future = future.to_payload();
    let table: [(MessageType, &[u8], &str); 7] = [
        (MessageType::HELLO, &ok, "HELLO came from"),
        (MessageType::OK, &other, "network 0 and not 5"),
        (MessageType::OK, &future, "protocol version 2 and not 1"),
        (MessageType::OK, b"", "HELLO is shorter than 32 bytes"),
        (MessageType::BYE, b"\0", "BYE is shorter than 3 bytes"),
        (
            MessageType::BYE,
            b"\0\x01\x01\xff",
            "text of BYE is not UTF-8",
        ),
        (
            MessageType::PING,
            &[0; 65],
            "PING of 65 bytes is above the limit of 64",
        ),
    ];
    for (message_type, payload, expected) in table {
        let bytes = encoded(&Frame::new(message_type, payload));
        let error = feed(&mut input(), &bytes).unwrap_err();
        let ClientError::Protocol { what, at: 0 } = &error else {
            panic!("{error:?}");
        };
        assert!(what.contains(expected), "{what}");
        assert!(error.is_end() && error.to_string().contains(expected));
    }
    // A second OK, and one that answers nothing.
    let bytes = encoded(&Frame::new(MessageType::OK, &ok));
    let twice = feed(&mut input(), &[bytes.clone(), bytes.clone()].concat());
    assert!(matches!(twice, Err(ClientError::Protocol { .. })));
    let unasked = feed(&mut Input::new(MAX_PAYLOAD, false, None), &bytes);
    assert!(matches!(unasked, Err(ClientError::Protocol { .. })));
}

/// Whatever comes, it is judged: no byte of a session may be replaced so that something panics.
#[test]
fn damaged_bytes_are_survived() {
    let bytes = session().concat();
    for position in 0..bytes.len() {
        for value in [0, 1, 0x7F, 0xFF, bytes[position] ^ 1] {
            let mut damaged = bytes.clone();
            damaged[position] = value;
            let mut input = input();
            let _ = feed(&mut input, &damaged);
            let _ = input.at_end();
        }
    }
}

#[test]
fn memory_follows_the_bytes_that_came() {
    let max_payload = 1 << 20;
    let mut input = Input::new(max_payload, false, None);
    let payload = vec![1; max_payload as usize];
    let bytes = encoded(&Frame::new(MessageType(7), &payload));
    let mut came = 0;
    for piece in bytes.chunks(4096) {
        came += piece.len();
        let found = feed(&mut input, piece).unwrap();
        assert_eq!(found.len(), usize::from(came == bytes.len()));
        let held = input.space().len() + came;
        assert!(came == bytes.len() || held <= CLIENT_READ_SIZE.max(2 * came));
    }
    // And the next one finds its space.
    assert_eq!(feed(&mut input, &bytes).unwrap().len(), 1);
}

#[test]
fn output_goes_out_in_whatever_pieces() {
    let frames = [
        Frame::new(MessageType(7), b"one"),
        Frame::new(MessageType(8), b"two").with_checksum(true),
    ];
    for piece in 1..40 {
        let mut output = Output::default();
        let mut wire = Vec::new();
        for frame in &frames {
            output.push(frame);
        }
        output.set_pong(b"old", false);
        output.set_pong(b"new", true);
        while output.size() > 0 {
            let size = piece.min(output.unwritten().len());
            wire.extend_from_slice(&output.unwritten()[..size]);
            output.wrote(size);
        }
        assert!(output.unwritten().is_empty());
        let all: Vec<_> = Decoder::new(64).frames(&wire).map(Result::unwrap).collect();
        let pong = Frame::new(MessageType::PONG, b"new").with_checksum(true);
        assert_eq!(all, [frames[0], frames[1], pong]);
    }
}

#[test]
fn output_gives_the_memory_of_a_long_message_back() {
    let mut output = Output::default();
    output.push(&Frame::new(
        MessageType(7),
        &vec![0; 4 * CLIENT_OUTPUT_KEPT],
    ));
    output.wrote(output.size());
    assert!(output.unwritten().is_empty());
    assert!(output.capacity() <= CLIENT_OUTPUT_KEPT);
}

/// A message with this number.
fn message(correlation: Option<u64>, payload: &[u8]) -> ClientMessage {
    let mut frame = Frame::new(MessageType(7), payload);
    frame.correlation = correlation;
    let found = feed(&mut input(), &encoded(&frame)).unwrap();
    match found.into_iter().next() {
        Some(Incoming::Message(message)) => message,
        other => panic!("{other:?}"),
    }
}

#[test]
fn answers_are_found_among_what_waits() {
    let mut inbox = Inbox::new(1 << 20);
    let [first, second] = [inbox.ask().unwrap(), inbox.ask().unwrap()];
    let answer = |id: RequestId| message(Some(id.0), b"answer");
    for one in [message(None, b"a"), answer(second), message(Some(1), b"b")] {
        assert!(inbox.accepts(&one));
        inbox.keep(one);
    }
    assert_eq!(inbox.take(first), Ok(None));
    assert_eq!(inbox.take(second).unwrap(), Some(answer(second)));
    assert_eq!(inbox.take(second), Err(ClientError::UnknownRequest));
    // The answer to a question that is not open any more.
    assert!(!inbox.accepts(&answer(second)));
    inbox.give_up(first);
    assert!(!inbox.accepts(&answer(first)));
    assert_eq!(inbox.late_replies(), 2);
    assert_eq!(inbox.pop().unwrap().payload(), b"a");
    assert_eq!(inbox.pop().unwrap().correlation(), Some(1));
    assert_eq!((inbox.pop(), inbox.size()), (None, 0));
}

#[test]
fn an_answer_that_was_received_as_a_message_is_no_longer_open() {
    let mut inbox = Inbox::new(1 << 20);
    let id = inbox.ask().unwrap();
    inbox.keep(message(Some(id.0), b""));
    assert_eq!(inbox.pop().unwrap().correlation(), Some(id.0));
    assert_eq!(inbox.take(id), Err(ClientError::UnknownRequest));
}

#[test]
fn what_waits_is_bounded_and_one_always_may() {
    let mut inbox = Inbox::new(0);
    assert!(!inbox.is_full());
    inbox.keep(message(None, b""));
    assert!(inbox.is_full());
    let full = inbox.full();
    assert!(matches!(full, ClientError::InboxFull { limit: 0, .. }));
    inbox.pop();
    assert!(!inbox.is_full());

    let mut inbox = Inbox::new(0);
    for _ in 0..CLIENT_REQUESTS_MAX {
        inbox.ask().unwrap();
    }
    let limit = CLIENT_REQUESTS_MAX;
    assert_eq!(inbox.ask(), Err(ClientError::TooManyRequests { limit }));
}

/// A message costs its payload and as much as the documents say.
#[test]
fn a_message_costs_little_more_than_its_payload() {
    let cost = message(None, &[0; 100]).cost();
    assert!((100..=164).contains(&cost), "{cost}");
}

#[test]
fn options_are_judged() {
    let bad = [
        ClientOptions::new().max_payload(1023),
        ClientOptions::new().max_payload((256 << 20) + 1),
        ClientOptions::new().agent("a".repeat(256)),
        ClientOptions::new().token([0; 256]),
    ];
    for options in bad {
        let error = options.check().unwrap_err();
        assert!(matches!(error, ClientError::BadOption { .. }), "{error}");
    }
    let good = ClientOptions::new()
        .max_payload(1024)
        .token([b'x'; 255])
        .read_timeout(Some(Duration::ZERO));
    assert_eq!(good.check(), Ok(()));
    assert!(!format!("{good:?}").contains("xx"), "tokens are not shown");
    let payload = good.hello_payload();
    let hello = Hello::parse(&payload).unwrap();
    assert_eq!(
        (hello.token, hello.payload_size_max),
        (&[b'x'; 255][..], 1024)
    );
    assert!(hello.agent.starts_with("nebnet-client/"));
}

#[test]
fn errors_say_what_the_service_said() {
    let closed = ClientError::closed(1, "shutdown".to_owned());
    let expected = "the service closed the connection: shutdown (1)";
    assert_eq!(closed.to_string(), expected);
    let refused = ClientError::closed(11, "go\naway".to_owned()).while_greeting();
    let expected = "the service refused the connection: auth_failed (11): go\\naway";
    assert_eq!(refused.to_string(), expected);
    let unknown = ClientError::closed(999, String::new());
    assert_eq!(unknown.reason(), None);
    let expected = "the service closed the connection: unknown reason (999)";
    assert_eq!(unknown.to_string(), expected);
}
