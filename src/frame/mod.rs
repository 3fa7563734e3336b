//! Wire format, version 1: bytes to frames and back, without I/O.
//!
//! ```text
//!  0               4       6       7       8
//! +---------------+-------+-------+-------+------------------------------+
//! | length  u32   | type  | flags | vers. | correlation?  payload  crc?  |
//! |               | u16   | u8    | u8 =1 |     u64                u32   |
//! +---------------+-------+-------+-------+------------------------------+
//! ```
//!
//! All integers are big-endian. `length` counts the bytes after itself, so a frame is also what a
//! length-delimited codec with a four-byte prefix produces. Flag bit 0 says that a CRC-32C over
//! everything from the type to the end of the payload follows the payload; bit 1 says that a
//! correlation number precedes it. `docs/wire.md` describes every byte.
//!
//! A [`Decoder`] judges the length as soon as its four bytes are there, before anything is reserved
//! for the rest, and walks frames where they lie: it copies nothing and keeps no state, so bytes
//! may be cut anywhere as long as the cut-off part is offered again with what follows it. The work
//! is linear in the bytes: per frame it reads the header, and the payload only to verify a
//! checksum.
//!
//! What this module refuses to do: buffering, and judging who may send what; a frame with a
//! protocol type is a frame here.
//!
//! ```
//! use nebnet::{MessageType, frame::{Decoder, Frame}};
//!
//! let mut bytes = Vec::new();
//! Frame::new(MessageType(7), b"hi").encode(&mut bytes)?;
//! assert_eq!(bytes, b"\0\0\0\x06\0\x07\0\x01hi");
//!
//! let decoder = Decoder::new(1024);
//! let (frame, size) = decoder.decode(&bytes)?.expect("the frame is whole");
//! assert_eq!((frame.payload, size), (&b"hi"[..], bytes.len()));
//! assert_eq!(decoder.decode(&bytes[..9])?, None);
//! # Ok::<(), nebnet::FrameError>(())
//! ```

mod decoder;
mod encoder;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod header;
mod protocol;
#[cfg(test)]
mod tests;

pub use decoder::{Decoder, Frames};
pub use protocol::{Bye, Hello, MalformedPayload};

#[cfg(test)]
pub(crate) use decoder::work;
pub(crate) use decoder::{Scan, ScanEnd, WholeFrames};
pub(crate) use encoder::{encode_around, encode_whole};
pub(crate) use header::{Header, frame_size_at};
pub(crate) use protocol::bye_frame;

use crate::{id::MessageType, limits};

/// Bytes of a frame before its correlation and payload.
pub const HEADER_SIZE: usize = limits::HEADER_SIZE;

/// A whole frame; the payload is borrowed from the bytes it was decoded from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The message's type.
    pub message_type: MessageType,
    /// The correlation number, if the frame has one.
    pub correlation: Option<u64>,
    /// Whether the frame carries a CRC-32C.
    pub checksum: bool,
    /// What the application sent.
    pub payload: &'a [u8],
}

impl<'a> Frame<'a> {
    /// A frame without correlation and checksum.
    #[must_use]
    pub const fn new(message_type: MessageType, payload: &'a [u8]) -> Self {
        Self {
            message_type,
            correlation: None,
            checksum: false,
            payload,
        }
    }

    /// The same frame with a correlation number.
    #[must_use]
    pub const fn with_correlation(self, correlation: u64) -> Self {
        Self {
            correlation: Some(correlation),
            ..self
        }
    }

    /// The same frame with or without a checksum.
    #[must_use]
    pub const fn with_checksum(self, checksum: bool) -> Self {
        Self { checksum, ..self }
    }

    /// Bytes of the frame on the wire.
    #[must_use]
    pub const fn encoded_size(&self) -> usize {
        header::encoded_size(
            self.payload.len(),
            self.correlation.is_some(),
            self.checksum,
        )
    }
}
