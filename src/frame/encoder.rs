//! Frames to bytes.

use byteorder::{ByteOrder, NetworkEndian};

use super::{
    Frame,
    header::{FLAG_CHECKSUM, FLAG_CORRELATION, Header, VERSION, length_overhead},
};
use crate::{
    error::FrameError,
    limits::{
        CORRELATION_SIZE, HEADER_SIZE, LENGTH_OVERHEAD_MAX, LENGTH_SIZE, PAYLOAD_SIZE_MAX_CEILING,
    },
};

impl Frame<'_> {
    /// Appends the frame to `out`.
    ///
    /// # Errors
    ///
    /// [`FrameError::TooLong`] if the payload is above 256 MiB, the most that any peer may accept;
    /// `out` is unchanged.
    pub fn encode(&self, out: &mut Vec<u8>) -> Result<(), FrameError> {
        match u32::try_from(self.payload.len()) {
            Ok(size) if size <= PAYLOAD_SIZE_MAX_CEILING => {
                encode_whole(self, out);
                Ok(())
            }
            Ok(_) | Err(_) => {
                let size = u32::try_from(self.payload.len()).unwrap_or(u32::MAX);
                Err(FrameError::TooLong {
                    length: size
                        .saturating_add(length_overhead(self.correlation.is_some(), self.checksum)),
                    limit: PAYLOAD_SIZE_MAX_CEILING + LENGTH_OVERHEAD_MAX,
                })
            }
        }
    }
}

/// Appends a frame whose payload the caller has found to be within the limits.
pub(crate) fn encode_whole(frame: &Frame<'_>, out: &mut Vec<u8>) {
    let start = out.len();
    out.reserve(frame.encoded_size());
    push_head(frame, out);
    out.extend_from_slice(frame.payload);
    if frame.checksum {
        let checksum = crc32c::crc32c(&out[start + LENGTH_SIZE..]);
        out.extend_from_slice(&checksum.to_be_bytes());
    }
    debug_assert_eq!(out.len() - start, frame.encoded_size(), "size was promised");
}

/// Appends what precedes the payload to `out` and returns what follows it, if anything does.
///
/// For a payload that is queued as it is. The caller has found it to be within the limits.
pub(crate) fn encode_around(frame: &Frame<'_>, out: &mut Vec<u8>) -> Option<[u8; 4]> {
    let start = out.len();
    push_head(frame, out);
    frame.checksum.then(|| {
        let head = crc32c::crc32c(&out[start + LENGTH_SIZE..]);
        crc32c::crc32c_append(head, frame.payload).to_be_bytes()
    })
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "callers bound the payload by 256 MiB"
)]
fn push_head(frame: &Frame<'_>, out: &mut Vec<u8>) {
    debug_assert!(frame.payload.len() <= PAYLOAD_SIZE_MAX_CEILING as usize);
    let overhead = length_overhead(frame.correlation.is_some(), frame.checksum);
    let flags = if frame.checksum { FLAG_CHECKSUM } else { 0 }
        | if frame.correlation.is_some() {
            FLAG_CORRELATION
        } else {
            0
        };
    let header = Header {
        length: overhead + frame.payload.len() as u32,
        message_type: frame.message_type,
        flags,
        version: VERSION,
    };
    let mut bytes = [0; HEADER_SIZE];
    header.emit(&mut bytes);
    out.extend_from_slice(&bytes);
    if let Some(correlation) = frame.correlation {
        let mut bytes = [0; CORRELATION_SIZE as usize];
        NetworkEndian::write_u64(&mut bytes, correlation);
        out.extend_from_slice(&bytes);
    }
}
