//! Parts of the core, set up for their instructions to be counted. Not a part of the API.
//!
//! `benches/instructions` runs each [`Scene`] under callgrind. They are here because what costs
//! most is not public, and in one thread because a scheduler would be counted otherwise. Nothing in
//! a scene depends on addresses or on chance, and on the time only what looking at it costs.

mod fan_out;
mod outbound;
mod tape;
mod turns;

use std::{
    fmt,
    hint::black_box,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use crate::{
    block::{BlockHead, BlockPool, BlockRef},
    clock::Clock,
    frame::{Decoder, Frame, encode_whole},
    id::{MessageType, PeerId},
    ledger::{Ledger, Traffic},
    limits::BLOCK_SIZE,
    slots::{About, OutboxLimits, Slots},
};

/// The type of messages where there is one.
const MESSAGE_TYPE: MessageType = MessageType(7);
/// The largest payload anywhere.
const PAYLOAD_SIZE_MAX: u32 = 1 << 20;

/// Something to be counted.
pub trait Scene: fmt::Debug {
    /// Makes ready for the next run; not counted.
    fn prepare(&mut self) {}

    /// What is counted.
    fn run(&mut self);
}

/// A scene by its name.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// What it is called.
    pub name: &'static str,
    /// What a run consists of, for a figure that can be read.
    pub unit: &'static str,
    /// How many of them.
    pub units: u64,
    /// Sets it up.
    pub make: fn() -> Box<dyn Scene>,
}

/// All scenes.
pub static SCENES: [Entry; 16] = [
    frames("scan-p16", 16, || Box::new(Scan::new(16))),
    frames("scan-p256", 256, || Box::new(Scan::new(256))),
    frames("scan-p4096", 4096, || Box::new(Scan::new(4096))),
    entry("dispatch-s1", "block", 1, || fan_out::dispatch(1, 1)),
    entry("dispatch-s8", "block", 1, || fan_out::dispatch(8, 1)),
    frames("dispatch-t64s8", 64, || fan_out::dispatch(8, 64)),
    frames("take-s1", 64, || fan_out::take(1, 1)),
    frames("take-t64s8", 64, || fan_out::take(8, 64)),
    entry("send", "message", outbound::MESSAGES, outbound::send),
    entry(
        "send-batch",
        "message",
        outbound::MESSAGES,
        outbound::send_batch,
    ),
    entry("write", "message", outbound::MESSAGES, outbound::write),
    entry("broadcast", "peer", outbound::PEERS, outbound::broadcast),
    entry("turn-bulk", "read", 1, turns::bulk),
    entry("turn-one", "message", 1, turns::one),
    entry("turn-answer", "message", 1, turns::answer),
    entry("turn-send", "message", 1, turns::send),
];

const fn entry(
    name: &'static str,
    unit: &'static str,
    units: u64,
    make: fn() -> Box<dyn Scene>,
) -> Entry {
    Entry {
        name,
        unit,
        units,
        make,
    }
}

const fn frames(name: &'static str, payload_size: usize, make: fn() -> Box<dyn Scene>) -> Entry {
    entry(name, "frame", frames_in_block(payload_size), make)
}

const fn frames_in_block(payload_size: usize) -> u64 {
    let frame_size = crate::limits::HEADER_SIZE + payload_size;
    (BLOCK_SIZE / frame_size) as u64
}

/// As many frames as a block holds, of so many types in turn.
fn frames_of(payload_size: usize, types: u16) -> Vec<u8> {
    let payload = vec![b'.'; payload_size];
    let mut bytes = Vec::with_capacity(BLOCK_SIZE);
    for (offset, _) in (0..types).cycle().zip(0..frames_in_block(payload_size)) {
        let message_type = MessageType(MESSAGE_TYPE.0 + offset);
        encode_whole(&Frame::new(message_type, &payload), &mut bytes);
    }
    bytes
}

/// The judging of what was read.
#[derive(Debug)]
struct Scan {
    decoder: Decoder,
    bytes: Vec<u8>,
}

impl Scan {
    fn new(payload_size: usize) -> Self {
        Self {
            decoder: Decoder::new(PAYLOAD_SIZE_MAX),
            bytes: frames_of(payload_size, 1),
        }
    }
}

impl Scene for Scan {
    fn run(&mut self) {
        let scan = self.decoder.scan(black_box(&self.bytes));
        assert_eq!(scan.bytes, self.bytes.len(), "all frames are whole");
    }
}

/// What a service shares between its parts, for `peers` connections.
fn slots_for(peers: usize) -> Arc<Slots> {
    let ledger = Arc::new(Ledger::new(256 << 20, Traffic::new(1 << 16, 16 << 20)));
    let limits = OutboxLimits {
        bytes: 4 << 20,
        messages: 1 << 16,
        payload_size: PAYLOAD_SIZE_MAX,
    };
    Arc::new(Slots::new(0, peers, limits, ledger, Clock::start()))
}

/// A connection that may be sent to.
fn open_slot(slots: &Slots, index: u32) -> PeerId {
    let about = About {
        addr: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)),
        link: None,
    };
    let peer = slots.open_for(index, about).expect("the slot is free");
    slots.admit(peer, PAYLOAD_SIZE_MAX);
    peer
}

/// Whole frames as a block, as the loop makes one of what it read.
fn block_of(pool: &mut BlockPool, peer: PeerId, bytes: &[u8], clock: Clock) -> BlockRef {
    let scan = Decoder::new(PAYLOAD_SIZE_MAX).scan(bytes);
    let head = BlockHead {
        peer,
        received: clock.now().instant,
        frames: scan.frames,
        message_type: scan.message_type,
        has_protocol: false,
        has_correlation: false,
        frame_size: scan.frame_size,
        credit: Traffic::new(u64::from(scan.frames), scan.bytes as u64),
    };
    let mut buffer = pool.take_buffer();
    buffer.extend_from_slice(bytes);
    pool.make(&mut buffer, 0, bytes.len(), head)
}
