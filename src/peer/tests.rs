//! The rules of the protocol, one by one, and the deadlines.

use super::*;
use crate::{
    clock::Tick,
    error::CloseReason,
    frame::{Bye as ByePayload, Decoder, Frame, Hello, encode_whole},
    id::{LinkId, MessageType, PeerId},
    ledger::Traffic,
    limits::HALF_CLOSE_GRACE_MS,
};

const ADDR: &str = "10.0.0.1:1";

fn rules() -> Rules {
    let ok = Hello {
        agent: "us",
        ..Hello::default()
    };
    Rules {
        first_frame_ms: 100,
        frame_ms: 50,
        write_stall_ms: 200,
        network_id: 7,
        ok_payload: ok.to_payload(),
        ..Rules::lenient(Decoder::new(10_000))
    }
}

fn peer(rules: &Rules) -> Peer {
    Peer::new(PeerId::new(0, 0, 1), ADDR.parse().unwrap(), 0, rules)
}

impl Peer {
    pub(crate) fn describe_heartbeat(&self) -> String {
        let (heard, paused) = (self.times.heard_since, self.times.paused_since);
        format!(
            "heard {heard} pinged {:?} paused {paused:?}",
            self.times.pinged
        )
    }

    /// Parses bytes as a service does to which everybody is welcome.
    fn take(&mut self, now: Tick, receiving: Tick, rules: &Rules, bytes: &[u8]) -> Parsed {
        let (mut parsed, mut introduced) = (Parsed::default(), false);
        loop {
            self.handle_bytes(now, receiving, rules, bytes, &mut parsed);
            if !std::mem::take(&mut parsed.introduced) {
                parsed.introduced = introduced;
                return parsed;
            }
            introduced = true;
            self.accept_introduction(now, rules);
        }
    }
}

fn encoded(message_type: MessageType, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_whole(&Frame::new(message_type, payload), &mut bytes);
    bytes
}

fn hello(network_id: u32) -> Vec<u8> {
    let hello = Hello {
        network_id,
        payload_size_max: 500,
        ..Hello::default()
    };
    encoded(MessageType::HELLO, &hello.to_payload())
}

fn app(payload: &[u8]) -> Vec<u8> {
    encoded(MessageType(1), payload)
}

/// Takes what the peer has to write.
fn output(peer: &mut Peer) -> Vec<(MessageType, Vec<u8>)> {
    peer.queue_pong();
    let mut wire = Vec::new();
    loop {
        let mut slices = [std::io::IoSlice::new(&[]); 4];
        let filled = peer.outbox.fill_slices(&mut slices, usize::MAX);
        let before = wire.len();
        for slice in &slices[..filled] {
            wire.extend_from_slice(slice);
        }
        let taken = wire.len() - before;
        if taken == 0 {
            break;
        }
        peer.outbox.handle_written(taken, |_, _| {});
    }
    let frames = Decoder::new(10_000);
    frames
        .frames(&wire)
        .map(|frame| frame.unwrap())
        .map(|frame| (frame.message_type, frame.payload.to_vec()))
        .collect()
}

#[track_caller]
fn fault(rules: &Rules, bytes: &[u8], reason: CloseReason) {
    let mut peer = peer(rules);
    let parsed = peer.take(1, 1, rules, bytes);
    assert_eq!(parsed.fault.map(Fault::reason), Some(reason));
}

#[test]
fn application_frames_need_no_hello() {
    let rules = rules();
    let mut peer = peer(&rules);
    let bytes = [app(b"one"), app(b"two"), app(b"thr")[..5].to_vec()].concat();
    let parsed = peer.take(1, 1, &rules, &bytes);
    assert_eq!((parsed.frames, parsed.consumed), (2, 22));
    assert_eq!(parsed.message_type, Some(MessageType(1)));
    assert!(parsed.fault.is_none() && !parsed.has_protocol);
    assert_eq!(peer.counts.inbound, Traffic::new(2, 22));
}

#[test]
fn an_optional_hello_may_come_late_and_is_answered() {
    let rules = rules();
    let mut peer = peer(&rules);
    let bytes = [app(b"one"), hello(7), app(b"two")].concat();
    let parsed = peer.take(1, 1, &rules, &bytes);
    assert_eq!((parsed.frames, parsed.consumed), (2, bytes.len()));
    assert!(parsed.has_protocol && parsed.fault.is_none());
    assert!(parsed.introduced);
    assert_eq!(
        peer.greeting.identity.as_ref().unwrap().payload_size_max,
        500
    );
    let ok = (MessageType::OK, rules.ok_payload.clone());
    assert_eq!(output(&mut peer), [ok]);
}

#[test]
fn a_hello_may_come_once() {
    let bytes = [hello(7), app(b"one"), hello(7)].concat();
    let rules = rules();
    let mut peer = peer(&rules);
    let parsed = peer.take(1, 1, &rules, &bytes);
    let reason = parsed.fault.map(Fault::reason);
    assert_eq!(reason, Some(CloseReason::BadProtocolMessage));
    assert_eq!(parsed.frames, 1, "the frame in front of it is delivered");
}

#[test]
fn a_hello_of_others_is_refused() {
    let rules = rules();
    fault(&rules, &hello(8), CloseReason::HelloMismatch);
    let mut other = hello(7);
    other[HELLO_VERSION] = 2;
    fault(&rules, &other, CloseReason::HelloMismatch);
    let short = encoded(MessageType::HELLO, b"NEBN");
    fault(&rules, &short, CloseReason::BadProtocolMessage);
}

/// Where the second byte of the protocol's version lies in a frame with HELLO.
const HELLO_VERSION: usize = 8 + 5;

#[test]
fn a_required_hello_comes_first() {
    let rules = Rules {
        hello_required: true,
        ..rules()
    };
    fault(&rules, &app(b"one"), CloseReason::HelloRequired);
    let ping = encoded(MessageType::PING, b"");
    fault(&rules, &ping, CloseReason::HelloRequired);
    let bye = ByePayload { code: 2, text: "" }.to_payload();
    let bye = encoded(MessageType::BYE, &bye);
    fault(&rules, &bye, CloseReason::HelloRequired);
    fault(&rules, &4097_u32.to_be_bytes(), CloseReason::FrameTooLong);
    let mut peer = peer(&rules);
    assert!(
        peer.take(1, 1, &rules, &4096_u32.to_be_bytes())
            .fault
            .is_none()
    );

    let mut peer = self::peer(&rules);
    let bytes = [hello(7), app(&[0; 5_000])].concat();
    let parsed = peer.take(1, 1, &rules, &bytes);
    assert!(parsed.fault.is_none());
    assert_eq!((parsed.frames, parsed.consumed), (1, bytes.len()));
}

#[test]
fn a_ping_is_answered_and_the_newest_wins() {
    let rules = rules();
    let mut peer = peer(&rules);
    let bytes = [
        encoded(MessageType::PING, b"old"),
        encoded(MessageType::PING, &[7; 64]),
    ]
    .concat();
    let parsed = peer.take(1, 1, &rules, &bytes);
    assert!(parsed.fault.is_none() && parsed.frames == 0);
    assert!(peer.has_output());
    assert_eq!(output(&mut peer), [(MessageType::PONG, vec![7; 64])]);
    assert!(!peer.has_output());
    let long = encoded(MessageType::PING, &[0; 65]);
    fault(&rules, &long, CloseReason::BadProtocolMessage);
}

#[test]
fn ok_goes_out_before_pong() {
    let rules = rules();
    let mut peer = peer(&rules);
    let bytes = [hello(7), encoded(MessageType::PING, b"x")].concat();
    peer.take(1, 1, &rules, &bytes);
    // The PONG waits until the OK is written: one frame of ours at a time.
    for expected in [MessageType::OK, MessageType::PONG] {
        let types: Vec<MessageType> = output(&mut peer).iter().map(|frame| frame.0).collect();
        assert_eq!(types, [expected]);
    }
    assert!(!peer.has_output());
}

#[test]
fn an_unasked_pong_is_ignored_and_the_unknown_is_not() {
    let rules = rules();
    let mut peer = peer(&rules);
    let pong = encoded(MessageType::PONG, b"what");
    let parsed = peer.take(1, 1, &rules, &pong);
    assert!(parsed.fault.is_none());
    assert_eq!(output(&mut peer), []);
    for number in [0xFF05, 0xFFFF] {
        let unknown = encoded(MessageType(number), b"");
        fault(&rules, &unknown, CloseReason::BadProtocolMessage);
    }
    let ok = encoded(MessageType::OK, &rules.ok_payload);
    fault(&rules, &ok, CloseReason::BadProtocolMessage);
    let mut with_correlation = encoded(MessageType::PING, &[0; 8]);
    with_correlation[6] = 2;
    fault(&rules, &with_correlation, CloseReason::BadFlags);
}

#[test]
fn after_bye_nothing_is_taken() {
    let rules = rules();
    let mut peer = peer(&rules);
    let bye = ByePayload { code: 1, text: "x" }.to_payload();
    let bytes = [app(b"one"), encoded(MessageType::BYE, &bye), app(b"two")].concat();
    let parsed = peer.take(1, 1, &rules, &bytes);
    assert_eq!((parsed.frames, parsed.consumed), (1, bytes.len() - 11));
    assert_eq!(peer.ending.bye_received, Some(1));
    let half =
        matches!(peer.state(), State::HalfClosed { reason, .. } if reason == CloseReason::PeerBye);
    assert!(half, "{:?}", peer.state());
    // A BYE is never the answer to a BYE.
    peer.begin_drain(2, &rules, CloseReason::AppClosed, 10);
    assert!(peer.finish_drain(2, "x"));
    assert_eq!(output(&mut peer), []);
    fault(
        &rules,
        &encoded(MessageType::BYE, b"\0"),
        CloseReason::BadProtocolMessage,
    );
}

#[test]
fn a_close_of_ours_says_bye_once() {
    let rules = rules();
    let mut peer = peer(&rules);
    peer.begin_drain(5, &rules, CloseReason::AppClosed, 10);
    assert!(
        !peer.finish_drain(5, "why"),
        "the BYE is to be written first"
    );
    let payload = ByePayload {
        code: 2,
        text: "why",
    }
    .to_payload();
    assert_eq!(output(&mut peer), [(MessageType::BYE, payload)]);
    assert!(peer.finish_drain(5, "why"));
    assert!(!peer.begin_linger(5));
    assert_eq!(peer.judge(504, &rules, 0), None);
    assert_eq!(peer.judge(505, &rules, 0), Some(Verdict::Done));
}

#[test]
fn a_drain_ends_at_its_deadline() {
    let rules = rules();
    let mut peer = peer(&rules);
    peer.begin_drain(5, &rules, CloseReason::BadVersion, 10);
    assert_eq!(peer.next_deadline(&rules, 0), Some(15));
    assert_eq!(peer.judge(14, &rules, 0), None);
    let abort = Verdict::Abort(CloseReason::BadVersion);
    assert_eq!(peer.judge(15, &rules, 0), Some(abort));
}

#[test]
fn eof_inside_a_frame_is_told_from_eof_between_frames() {
    let rules = rules();
    let mut whole = peer(&rules);
    whole.take(1, 1, &rules, &app(b"one"));
    assert!(!whole.handle_eof(2, &rules));
    let mut cut = peer(&rules);
    cut.carry = app(b"one")[..6].to_vec();
    assert!(cut.handle_eof(2, &rules) && cut.carry.is_empty());
    let reason = |peer: &Peer| {
        let State::HalfClosed { reason, .. } = peer.state() else {
            panic!("{:?}", peer.state());
        };
        reason
    };
    assert_eq!(reason(&whole), CloseReason::PeerClosed);
    assert_eq!(reason(&cut), CloseReason::EofInFrame);
}

#[test]
fn a_half_closed_peer_is_closed_when_it_was_quiet_for_long_enough() {
    let rules = rules();
    let mut peer = peer(&rules);
    peer.counts.read = Traffic::new(1, 11);
    peer.handle_eof(10, &rules);
    let none = Traffic::default();
    let one = Traffic::new(1, 11);
    assert_eq!(peer.judge_drained(20, none, none), None);
    assert_eq!(peer.next_deadline(&rules, 0), None, "a subscriber has it");
    let all = Traffic::new(1, 11);
    assert_eq!(peer.judge_drained(30, all, one), None);
    assert_eq!(peer.judge_drained(40, all, none), None);
    assert_eq!(
        peer.next_deadline(&rules, 0),
        Some(40 + HALF_CLOSE_GRACE_MS + 1)
    );
    // An answer that comes late begins the time anew.
    assert_eq!(peer.judge_drained(100, all, one), None);
    assert_eq!(peer.judge_drained(110, all, none), None);
    assert_eq!(peer.judge_drained(359, all, none), None);
    assert_eq!(
        peer.judge_drained(360, all, none),
        Some(CloseReason::PeerClosed)
    );
}

#[test]
fn the_first_frame_is_due_and_any_whole_frame_will_do() {
    let rules = rules();
    let close = Some(Verdict::Close(CloseReason::FirstFrameTimeout));
    let mut silent = peer(&rules);
    assert_eq!(silent.next_deadline(&rules, 0), Some(101));
    assert_eq!(silent.judge(100, &rules, 0), None);
    assert_eq!(silent.judge(101, &rules, 0), close);
    // A part of a frame does not count.
    silent.take(99, 99, &rules, b"\0\0");
    assert_eq!(silent.judge(101, &rules, 0), close);
    let mut pings = peer(&rules);
    pings.take(99, 99, &rules, &encoded(MessageType::PING, b""));
    assert_eq!(pings.judge(10_000, &rules, 0), None);
    assert_eq!(pings.next_deadline(&rules, 0), None);
}

#[test]
fn a_frame_is_due_from_its_first_byte() {
    let rules = rules();
    let mut peer = peer(&rules);
    let frame = app(b"hello");
    peer.take(1, 1, &rules, &app(b"one"));
    peer.take(10, 10, &rules, &frame[..1]);
    peer.take(55, 55, &rules, &frame[..9]);
    assert_eq!(peer.next_deadline(&rules, 0), Some(61));
    assert_eq!(peer.judge(60, &rules, 0), None);
    let close = Verdict::Close(CloseReason::FrameTimeout);
    assert_eq!(peer.judge(61, &rules, 0), Some(close));
    // The next frame has its own time.
    let both = [&frame[..], &frame[..3]].concat();
    peer.take(59, 59, &rules, &both);
    assert_eq!(peer.next_deadline(&rules, 0), Some(110));
}

#[test]
fn deadlines_of_receiving_stand_still_while_we_do_not_read() {
    let rules = Rules {
        idle_ms: 80,
        ..rules()
    };
    let mut peer = peer(&rules);
    peer.handle_moved(10, 10);
    peer.take(10, 10, &rules, &[app(b"x"), vec![0]].concat());
    peer.set_reading(20, false);
    peer.set_reading(25, false);
    assert_eq!(peer.judge(10_000, &rules, 0), None);
    assert_eq!(peer.next_deadline(&rules, 0), None);
    peer.set_reading(1_020, true);
    peer.set_reading(1_030, true);
    assert_eq!(peer.next_deadline(&rules, 0), Some(1_061));
    assert_eq!(peer.judge(1_060, &rules, 0), None);
    let close = Verdict::Close(CloseReason::FrameTimeout);
    assert_eq!(peer.judge(1_061, &rules, 0), Some(close));
    peer.take(1_030, 1_030, &rules, &app(b"x"));
    let idle = Verdict::Close(CloseReason::IdleTimeout);
    assert_eq!(peer.judge(1_090, &rules, 0), None);
    assert_eq!(peer.judge(1_091, &rules, 0), Some(idle));
}

#[test]
fn deadlines_of_receiving_wait_as_long_as_nobody_was_read() {
    let rules = rules();
    let peer = peer(&rules);
    assert_eq!(peer.next_deadline(&rules, 500), Some(601));
    assert_eq!(peer.judge(600, &rules, 500), None);
    let close = Verdict::Close(CloseReason::FirstFrameTimeout);
    assert_eq!(peer.judge(601, &rules, 500), Some(close));
}

/// Of 500 bytes at first, none of which the peer has room for.
fn told(unacknowledged: u64) -> Option<Told> {
    Some(Told {
        unacknowledged,
        unsent: true,
    })
}

#[test]
fn a_write_stall_counts_from_the_last_progress_even_while_paused() {
    let rules = rules();
    let mut peer = peer(&rules);
    peer.set_reading(0, false);
    peer.handle_written(10, 500, Traffic::default());
    assert_eq!(peer.next_deadline(&rules, 1_000), Some(31));
    peer.handle_write_blocked(150);
    peer.handle_all_written();
    peer.handle_write_blocked(160);
    assert_eq!(peer.judge(180, &rules, 1_000), Some(Verdict::Look));
    assert!(!peer.handle_told(181, told(499), &rules));
    peer.handle_written(200, 7, Traffic::default());
    // What was written since hides no progress, and is none.
    assert!(!peer.handle_told(361, told(505), &rules));
    for now in (382..=541).step_by(21) {
        assert!(!peer.handle_told(now, told(505), &rules));
    }
    assert_eq!(peer.judge(562, &rules, 1_000), Some(Verdict::Look));
    assert!(peer.handle_told(562, told(505), &rules));
}

/// Our system takes everything for a while: the outbox never waits.
#[test]
fn a_write_stall_counts_what_our_system_took_and_the_peer_has_no_room_for() {
    let rules = rules();
    let mut peer = peer(&rules);
    assert_eq!(peer.next_deadline(&rules, 0), Some(101), "the first frame");
    peer.take(1, 1, &rules, &encoded(MessageType(1), b""));
    assert_eq!(peer.next_deadline(&rules, 0), None);
    peer.handle_written(10, 500, Traffic::default());
    for now in (31..=199).step_by(21) {
        assert_eq!(peer.judge(now, &rules, 0), Some(Verdict::Look), "{now}");
        assert!(!peer.handle_told(now, told(500), &rules));
    }
    assert!(peer.handle_told(211, told(500), &rules));
    // It is over: its system has the time of the end for that.
    peer.begin_drain(212, &rules, CloseReason::Shutdown, 50);
    assert!(!peer.handle_told(300, told(500), &rules));
}

/// Where the system does not tell, what it takes has to do.
#[test]
fn a_write_stall_counts_from_the_last_byte_taken_where_nothing_is_told() {
    let rules = rules();
    let mut peer = peer(&rules);
    peer.handle_write_blocked(160);
    peer.handle_untold(181);
    assert_eq!(peer.judge(360, &rules, 1_000), None);
    let abort = Verdict::Abort(CloseReason::SlowPeer);
    assert_eq!(peer.judge(361, &rules, 1_000), Some(abort));
    peer.handle_written(361, 1, Traffic::default());
    assert_eq!(peer.judge(561, &rules, 1_000), None);
    assert_eq!(peer.judge(562, &rules, 1_000), Some(abort));
}

#[test]
fn zero_is_off() {
    let rules = Rules {
        first_frame_ms: 0,
        frame_ms: 0,
        write_stall_ms: 0,
        ..rules()
    };
    let mut peer = peer(&rules);
    peer.take(1, 1, &rules, b"\0");
    peer.handle_written(1, 9, Traffic::default());
    peer.handle_write_blocked(1);
    assert_eq!(peer.next_deadline(&rules, 0), None);
    assert!(!peer.handle_told(u64::MAX, told(9), &rules));
    assert_eq!(peer.judge(u64::MAX, &rules, 0), None);
}

/// Making the connection is no idle time: that ends it by itself.
#[test]
fn the_idle_time_of_a_connection_that_we_make_begins_when_it_is_made() {
    let rules = Rules {
        idle_ms: 80,
        ..rules()
    };
    let dial = Dial {
        link: LinkId(1),
        timeout_ms: 1_000,
        hello: false,
        checksums: false,
    };
    let mut peer = Peer::dialling(PeerId::new(0, 0, 1), ADDR.parse().unwrap(), dial, 0);
    assert!(peer.handle_connected(500, 490, &rules, 1_000));
    assert_eq!(peer.judge(580, &rules, 10), None);
    let idle = Verdict::Close(CloseReason::IdleTimeout);
    assert_eq!(peer.judge(581, &rules, 10), Some(idle));
}
