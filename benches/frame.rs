//! Encoding and decoding alone, without sockets and threads.
//!
//! One iteration is about 64 KiB of whole frames. `pieces` gets them cut at every
//! [`PIECE_SIZE`] bytes, as a receiver does that keeps an incomplete frame for the next piece.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    reason = "a measuring program: it reads the clock and may end with a panic"
)]

use criterion::{BatchSize, Criterion, Throughput};
use nebnet::MessageType;
use nebnet::frame::{Decoder, Frame};
use std::hint::black_box;
use std::time::Duration;

const TOTAL_SIZE: usize = 64 * 1024;
/// The payload of a full TCP segment on Ethernet: never a multiple of the frame sizes used here.
const PIECE_SIZE: usize = 1448;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    frame(&mut criterion);
    criterion.final_summary();
}

fn frame(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frame");
    group.sample_size(30);
    group
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    for payload_size in [16, 256, 4096] {
        for checksum in [false, true] {
            let payload = vec![b'.'; payload_size];
            let frame = Frame::new(MessageType(7), &payload).with_checksum(checksum);
            let count = TOTAL_SIZE / frame.encoded_size();
            let name = |what| {
                let suffix = if checksum { "-crc" } else { "" };
                format!("{what}/p{payload_size}{suffix}")
            };
            let bytes = (count * frame.encoded_size()) as u64;
            group.throughput(Throughput::ElementsAndBytes {
                elements: count as u64,
                bytes,
            });

            let mut wire = Vec::new();
            group.bench_function(name("encode"), |bencher| {
                bencher.iter(|| encode(&mut wire, black_box(&frame), count));
            });
            encode(&mut wire, &frame, count);
            let decoder = Decoder::new(1 << 20);
            group.bench_function(name("decode"), |bencher| {
                bencher.iter(|| decode(decoder, black_box(&wire)));
            });
            group.bench_function(name("pieces"), |bencher| {
                let setup = || Vec::with_capacity(PIECE_SIZE + frame.encoded_size());
                bencher.iter_batched_ref(
                    setup,
                    |kept| {
                        let pieces = black_box(&wire).chunks(PIECE_SIZE);
                        pieces
                            .map(|piece| decode_piece(decoder, kept, piece))
                            .sum::<usize>()
                    },
                    BatchSize::SmallInput,
                );
            });
        }
    }
}

fn encode(out: &mut Vec<u8>, frame: &Frame<'_>, count: usize) {
    out.clear();
    for _ in 0..count {
        frame.encode(out).unwrap();
    }
}

/// The bytes of all payloads; reads every header, and a payload only for its checksum.
fn decode(decoder: Decoder, bytes: &[u8]) -> usize {
    decoder
        .frames(bytes)
        .map(|frame| frame.unwrap().payload.len())
        .sum()
}

/// The same for what is whole now; `kept` is the beginning of the next frame.
fn decode_piece(decoder: Decoder, kept: &mut Vec<u8>, piece: &[u8]) -> usize {
    kept.extend_from_slice(piece);
    let mut frames = decoder.frames(kept);
    let payload_bytes = frames
        .by_ref()
        .map(|frame| frame.unwrap().payload.len())
        .sum();
    let consumed = frames.consumed();
    kept.drain(..consumed);
    payload_bytes
}
