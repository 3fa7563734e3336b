//! The eight bytes in front of every frame.

use byteorder::{ByteOrder, NetworkEndian};

use crate::{
    id::MessageType,
    limits::{CHECKSUM_SIZE, CORRELATION_SIZE, HEADER_SIZE, LENGTH_MIN, LENGTH_SIZE},
};

/// Where the fields lie.
mod field {
    use std::ops::Range;

    pub(super) const LENGTH: Range<usize> = 0..4;
    pub(super) const TYPE: Range<usize> = 4..6;
    pub(super) const FLAGS: usize = 6;
    pub(super) const VERSION: usize = 7;
}

pub(crate) const VERSION: u8 = 1;
pub(crate) const FLAG_CHECKSUM: u8 = 1;
pub(crate) const FLAG_CORRELATION: u8 = 2;
pub(crate) const FLAGS_APPLICATION: u8 = FLAG_CHECKSUM | FLAG_CORRELATION;
pub(crate) const FLAGS_PROTOCOL: u8 = FLAG_CHECKSUM;

/// A frame's header, as it was read: nothing about it is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) length: u32,
    pub(crate) message_type: MessageType,
    pub(crate) flags: u8,
    pub(crate) version: u8,
}

impl Header {
    /// The header at the start of `bytes`, if all of it is there.
    #[inline]
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        Self::read_word(bytes).map(Self::of_word)
    }

    /// The same as one number: the load that every walk over frames waits for.
    #[inline]
    pub(crate) fn read_word(bytes: &[u8]) -> Option<u64> {
        bytes.get(..HEADER_SIZE).map(NetworkEndian::read_u64)
    }

    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the shifts take the word apart"
    )]
    pub(crate) const fn of_word(word: u64) -> Self {
        Self {
            length: (word >> 32) as u32,
            message_type: MessageType((word >> 16) as u16),
            flags: (word >> 8) as u8,
            version: word as u8,
        }
    }

    /// Whether the header is that of an application message of this version, without flags; the
    /// length is not looked at.
    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the lower half is what is wanted"
    )]
    pub(crate) const fn is_plain(word: u64) -> bool {
        let protocol = (MessageType::APPLICATION_MAX.0 as u32 + 1) << 16;
        word as u16 == VERSION as u16 && (word as u32) < protocol
    }

    pub(crate) fn emit(self, out: &mut [u8; HEADER_SIZE]) {
        NetworkEndian::write_u32(&mut out[field::LENGTH], self.length);
        NetworkEndian::write_u16(&mut out[field::TYPE], self.message_type.0);
        out[field::FLAGS] = self.flags;
        out[field::VERSION] = self.version;
    }

    pub(crate) const fn has_checksum(self) -> bool {
        self.flags & FLAG_CHECKSUM != 0
    }

    pub(crate) const fn has_correlation(self) -> bool {
        self.flags & FLAG_CORRELATION != 0
    }

    /// Whether a frame may begin like this whose length is at most `length_max`. Whether its flags
    /// fit its type, and its payload the limit, is not looked at.
    pub(crate) const fn is_plausible(self, length_max: u32) -> bool {
        let length_min = length_overhead(self.has_correlation(), self.has_checksum());
        self.version == VERSION
            && self.flags & !FLAGS_APPLICATION == 0
            && length_min <= self.length
            && self.length <= length_max
    }

    /// Bytes of the frame on the wire.
    pub(crate) const fn frame_size(self) -> usize {
        LENGTH_SIZE + self.length as usize
    }
}

/// The length field at the start of `bytes`, if it is there.
pub(crate) fn read_length(bytes: &[u8]) -> Option<u32> {
    bytes.get(field::LENGTH).map(NetworkEndian::read_u32)
}

/// Size of the frame that starts `bytes`, as its length field says; unchecked.
pub(crate) fn frame_size_at(bytes: &[u8]) -> Option<usize> {
    read_length(bytes).map(|length| LENGTH_SIZE + length as usize)
}

/// The type at the start of a frame, if it is there.
pub(crate) fn read_type(bytes: &[u8]) -> Option<MessageType> {
    bytes
        .get(field::TYPE)
        .map(|field| MessageType(NetworkEndian::read_u16(field)))
}

/// The flags at the start of a frame, if they are there.
pub(crate) fn read_flags(bytes: &[u8]) -> Option<u8> {
    bytes.get(field::FLAGS).copied()
}

/// The version at the start of a frame, if it is there.
pub(crate) fn read_version(bytes: &[u8]) -> Option<u8> {
    bytes.get(field::VERSION).copied()
}

/// What the length field counts besides the payload.
pub(crate) const fn length_overhead(correlation: bool, checksum: bool) -> u32 {
    let mut overhead = LENGTH_MIN;
    if correlation {
        overhead += CORRELATION_SIZE;
    }
    if checksum {
        overhead += CHECKSUM_SIZE;
    }
    overhead
}

/// Bytes of a frame on the wire.
pub(crate) const fn encoded_size(payload: usize, correlation: bool, checksum: bool) -> usize {
    LENGTH_SIZE + length_overhead(correlation, checksum) as usize + payload
}
