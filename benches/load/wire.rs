//! Frames as the client writes them, without any help of the library that is measured.

use super::{Framing, Spec};
use rustix::fs::{MemfdFlags, memfd_create, sendfile};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;

/// Bytes before the payload: length, type, flags, version.
pub(crate) const HEADER_SIZE: usize = 8;

/// Of these, what follows the length.
const HEAD_SIZE: usize = 4;

/// The type of every message that a client sends; if it sends several, the first of them.
pub(crate) const MESSAGE_TYPE: u16 = 7;

/// Bytes that one call offers to the kernel at most. Of 64, 128 and 256 KiB this was the fastest
/// against a server that only reads; it still fits a second-level cache.
const RING_SIZE: usize = 256 * 1024;

/// The number of a message: the first eight bytes of its payload.
#[inline]
pub(crate) fn number(payload: &[u8]) -> u64 {
    let (bytes, _) = payload.split_first_chunk().unwrap();
    u64::from_be_bytes(*bytes)
}

/// Bytes of every frame of a client.
pub(crate) fn frame_size(framing: Framing, payload_size: usize) -> usize {
    let length = HEAD_SIZE + payload_size;
    match framing {
        Framing::Fixed => size_of::<u32>() + length,
        Framing::Varint => varint_size(length) + length,
    }
}

fn varint_size(value: usize) -> usize {
    (value.max(1).ilog2() / 7) as usize + 1
}

/// Bytes of payload of a message: those of the order, or anything between 8 and as much above the
/// order as 8 is below it, as the number's bits fall (Fibonacci hashing).
fn payload_size(number: u64, spec: &Spec) -> usize {
    if !spec.varied {
        return spec.payload;
    }
    let bits = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    let sizes = 2 * (spec.payload as u64 - 8) + 1;
    8 + ((bits * sizes) >> 32) as usize
}

/// Appends one frame whose payload is the number, then filling. The type goes round with the
/// number.
pub(super) fn encode(out: &mut Vec<u8>, number: u64, spec: &Spec) {
    let payload_size = payload_size(number, spec);
    assert!(
        payload_size >= size_of::<u64>(),
        "a payload carries its number"
    );
    let length = HEAD_SIZE + payload_size;
    match spec.framing {
        Framing::Fixed => out.extend_from_slice(&(length as u32).to_be_bytes()),
        Framing::Varint => {
            let mut rest = length;
            while rest >= 0x80 {
                out.push(rest as u8 | 0x80);
                rest >>= 7;
            }
            out.push(rest as u8);
        }
    }
    let message_type = MESSAGE_TYPE + (number % spec.types as u64) as u16;
    out.extend_from_slice(&message_type.to_be_bytes());
    out.extend_from_slice(&[0, 1]);
    out.extend_from_slice(&payload(number, payload_size));
}

/// The number, then filling.
pub(crate) fn payload(number: u64, size: usize) -> Vec<u8> {
    let mut payload = number.to_be_bytes().to_vec();
    payload.resize(size, b'.');
    payload
}

/// Whole frames, encoded once and numbered from 1, that a client sends round and round.
///
/// They lie in a file in memory, so that the kernel sends its pages as they are (`sendfile`). A
/// `write` copies them, which took a third of the client's time and made it the limit where
/// payloads are large.
#[derive(Debug)]
pub(super) struct Ring {
    file: File,
    pub(super) size: usize,
    /// Where each frame ends.
    ends: Vec<usize>,
    types: u64,
}

impl Ring {
    pub(super) fn new(spec: &Spec) -> Self {
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        for number in 1.. {
            encode(&mut bytes, number, spec);
            if bytes.len() > RING_SIZE && !ends.is_empty() {
                bytes.truncate(ends[ends.len() - 1]);
                break;
            }
            ends.push(bytes.len());
        }
        let mut file = File::from(memfd_create("frames", MemfdFlags::CLOEXEC).unwrap());
        file.write_all(&bytes).unwrap();
        Self {
            file,
            size: bytes.len(),
            ends,
            types: spec.types as u64,
        }
    }

    /// Sends what lies between `at` and `at + size`, or a beginning of it.
    pub(super) fn send(&self, socket: impl AsFd, at: usize, size: usize) -> io::Result<usize> {
        let mut at = at as u64;
        Ok(sendfile(socket, &self.file, Some(&mut at), size)?)
    }

    /// The whole messages in the first `bytes` bytes, round and round.
    pub(super) fn messages(&self, bytes: u64) -> u64 {
        let (rounds, rest) = (bytes / self.size as u64, bytes % self.size as u64);
        let whole = self.ends.partition_point(|end| *end as u64 <= rest);
        rounds * self.ends.len() as u64 + whole as u64
    }

    /// The bytes of the first `messages` messages.
    pub(super) fn bytes(&self, messages: u64) -> u64 {
        let count = self.ends.len() as u64;
        let (rounds, rest) = (messages / count, (messages % count) as usize);
        let part = rest.checked_sub(1).map_or(0, |last| self.ends[last]);
        rounds * self.size as u64 + part as u64
    }

    /// The numbers of the first `messages` messages from the start of the ring on, added up.
    pub(super) fn sum(&self, messages: u64) -> u64 {
        sum_round(self.ends.len() as u64, messages)
    }

    /// How many of the first `messages` messages have one of the types, and their sum.
    pub(super) fn part(&self, messages: u64, offset: u64) -> (u64, u64) {
        let frames = self.ends.len() as u64;
        let (rounds, rest) = (messages / frames, messages % frames);
        let numbers = (1..=frames).filter(|number| number % self.types == offset);
        numbers.fold((0, 0), |(count, sum), number| {
            let times = rounds + u64::from(number <= rest);
            (count + times, sum + times * number)
        })
    }
}

/// `count` frames, at least one, numbered from 1.
pub(super) fn whole_frames(spec: &Spec, count: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    (1..=count.max(1) as u64).for_each(|number| encode(&mut bytes, number, spec));
    bytes
}

/// The first `messages` of the numbers 1 to `count`, taken round and round, added up.
pub(super) fn sum_round(count: u64, messages: u64) -> u64 {
    let up_to = |n: u64| n * (n + 1) / 2;
    messages / count * up_to(count) + up_to(messages % count)
}
