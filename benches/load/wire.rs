//! Frames of nebnet version 1 as the client writes them, without any help of the library that is
//! measured.

use rustix::fs::{MemfdFlags, memfd_create, sendfile};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;

/// Bytes before the payload: length, type, flags, version.
pub(crate) const HEADER_SIZE: usize = 8;

/// The type of every message that a client sends.
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

/// Appends one frame whose payload is the number, then filling.
pub(super) fn encode(out: &mut Vec<u8>, number: u64, payload_size: usize) {
    assert!(
        payload_size >= size_of::<u64>(),
        "a payload carries its number"
    );
    let length = HEADER_SIZE - size_of::<u32>() + payload_size;
    out.extend_from_slice(&(length as u32).to_be_bytes());
    out.extend_from_slice(&MESSAGE_TYPE.to_be_bytes());
    out.extend_from_slice(&[0, 1]);
    out.extend_from_slice(&number.to_be_bytes());
    out.resize(out.len() + payload_size - size_of::<u64>(), b'.');
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
    pub(super) frame_size: usize,
}

impl Ring {
    pub(super) fn new(payload_size: usize) -> Self {
        let frame_size = HEADER_SIZE + payload_size;
        let count = (RING_SIZE / frame_size).max(1) as u64;
        let mut bytes = Vec::with_capacity(count as usize * frame_size);
        (1..=count).for_each(|number| encode(&mut bytes, number, payload_size));
        let mut file = File::from(memfd_create("frames", MemfdFlags::CLOEXEC).unwrap());
        file.write_all(&bytes).unwrap();
        Self {
            file,
            size: bytes.len(),
            frame_size,
        }
    }

    /// Sends what lies between `at` and `at + size`, or a beginning of it.
    pub(super) fn send(&self, socket: impl AsFd, at: usize, size: usize) -> io::Result<usize> {
        let mut at = at as u64;
        Ok(sendfile(socket, &self.file, Some(&mut at), size)?)
    }

    /// The numbers of the first `messages` messages from the start of the ring on, added up.
    pub(super) fn sum(&self, messages: u64) -> u64 {
        let count = (self.size / self.frame_size) as u64;
        let up_to = |n: u64| n * (n + 1) / 2;
        messages / count * up_to(count) + up_to(messages % count)
    }
}
