//! What the script draws: rules, and frames that come.

use crate::{
    frame::{self, Decoder, Frame, Hello, encode_whole},
    id::MessageType,
    peer::Rules,
    script::Script,
};

const NETWORK: u32 = 7;

const TOKEN: &[u8] = b"token";

pub(super) fn rules(script: &mut Script<'_>) -> Rules {
    let (heartbeat_ms, heartbeat_timeout_ms) = script.pick(&[(0, 0), (30, 0), (30, 90)]);
    let tokens = if script.below(4) == 0 {
        vec![b"other".to_vec(), TOKEN.to_vec()]
    } else {
        Vec::new()
    };
    Rules {
        first_frame_ms: script.pick(&[0, 100]),
        frame_ms: script.pick(&[0, 50]),
        idle_ms: script.pick(&[0, 80]),
        write_stall_ms: script.pick(&[0, 200]),
        heartbeat_ms,
        heartbeat_timeout_ms,
        hello_required: script.flag() || !tokens.is_empty(),
        network_id: NETWORK,
        tokens,
        ..Rules::lenient(Decoder::new(script.pick(&[40, 5_000])))
    }
}

pub(super) fn encoded(frame: &Frame<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_whole(frame, &mut bytes);
    bytes
}

pub(super) fn message(script: &mut Script<'_>) -> Vec<u8> {
    let payload = vec![script.byte(); script.below(60)];
    let frame = Frame::new(MessageType(script.pick(&[1, 1, 2])), &payload);
    let frame = frame.with_checksum(script.flag());
    if script.flag() {
        encoded(&frame.with_correlation(script.number()))
    } else {
        encoded(&frame)
    }
}

pub(super) fn introduction(script: &mut Script<'_>) -> Vec<u8> {
    let hello = Hello {
        protocol_version: script.pick(&[1, 1, 1, 2]),
        network_id: script.pick(&[NETWORK, NETWORK, NETWORK, 8]),
        node_id: [script.byte(); 16],
        agent: script.pick(&["", "fuzz/1"]),
        token: script.pick(&[TOKEN, TOKEN, b"wrong"]),
        ..Hello::default()
    };
    let message_type = script.pick(&[MessageType::HELLO, MessageType::OK]);
    encoded(&Frame::new(message_type, &hello.to_payload()))
}

pub(super) fn protocol_message(script: &mut Script<'_>) -> Vec<u8> {
    let size = script.below(70);
    let payload = script.take(size);
    match script.below(5) {
        0 | 1 => encoded(&Frame::new(MessageType::PING, payload)),
        2 => encoded(&Frame::new(MessageType::PONG, payload)),
        3 => {
            let (code, text) = (u16::from(script.byte()), "");
            let payload = frame::Bye { code, text }.to_payload();
            encoded(&Frame::new(MessageType::BYE, &payload))
        }
        _ => encoded(&Frame::new(
            MessageType(0xFF00 | u16::from(script.byte())),
            payload,
        )),
    }
}
