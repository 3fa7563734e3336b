//! Bytes that are no frame.

use std::{error::Error, fmt};

/// A way in which bytes fail to be a frame.
///
/// Each variant carries the offending value, and the limit it broke where there is one. The
/// position is the caller's to tell: a decoder reports the error of the frame it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameError {
    /// The length field is smaller than the bytes that every frame has, or than those that the
    /// frame's flags ask for.
    TooShort {
        /// The length field.
        length: u32,
        /// The smallest legal value for a frame with these flags.
        limit: u32,
    },
    /// The length field is larger than any legal frame, or than a frame with these flags.
    TooLong {
        /// The length field.
        length: u32,
        /// The largest legal value.
        limit: u32,
    },
    /// The version byte is not 1.
    BadVersion {
        /// The version byte.
        version: u8,
    },
    /// The flags byte has a bit that version 1 does not define, or the correlation bit on a
    /// protocol message.
    BadFlags {
        /// The flags byte.
        flags: u8,
        /// The bits that were allowed.
        allowed: u8,
    },
    /// The frame has no CRC-32C trailer, and the decoder
    /// [requires](crate::frame::Decoder::with_checksums_required) one.
    MissingChecksum {
        /// The flags byte.
        flags: u8,
    },
    /// The CRC-32C trailer does not match the frame.
    BadChecksum {
        /// The checksum in the trailer.
        received: u32,
        /// The checksum of the bytes that came.
        computed: u32,
    },
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort { length, limit } => {
                write!(f, "frame length {length} is below the minimum of {limit}")
            }
            Self::TooLong { length, limit } => {
                write!(f, "frame length {length} is above the limit of {limit}")
            }
            Self::BadVersion { version } => write!(f, "frame version {version} is not 1"),
            Self::BadFlags { flags, allowed } => {
                write!(
                    f,
                    "frame flags {flags:#04x} have bits outside of {allowed:#04x}"
                )
            }
            Self::MissingChecksum { flags } => {
                write!(
                    f,
                    "frame flags {flags:#04x} say no checksum, which is required"
                )
            }
            Self::BadChecksum { received, computed } => {
                write!(
                    f,
                    "frame checksum {received:#010x} is not the computed {computed:#010x}"
                )
            }
        }
    }
}

impl Error for FrameError {}
