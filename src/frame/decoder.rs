//! Bytes to frames.

use byteorder::{ByteOrder, NetworkEndian};

use super::{
    Frame,
    header::{
        FLAGS_APPLICATION, FLAGS_PROTOCOL, Header, VERSION, length_overhead, read_flags,
        read_length, read_type, read_version,
    },
};
use crate::{
    error::FrameError,
    id::MessageType,
    limits::{
        CHECKSUM_SIZE, CORRELATION_SIZE, HEADER_SIZE, LENGTH_MIN, LENGTH_OVERHEAD_MAX, LENGTH_SIZE,
        PAYLOAD_SIZE_MAX_CEILING,
    },
};

/// Judges and walks received bytes; holds its rules and no state.
///
/// # Examples
///
/// ```
/// use nebnet::{FrameError, frame::Decoder};
///
/// // "GET " read as a length: refused on its four bytes.
/// let error = Decoder::new(1 << 20).decode(b"GET ").unwrap_err();
/// assert_eq!(error, FrameError::TooLong { length: 0x4745_5420, limit: (1 << 20) + 16 });
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Decoder {
    payload_size_max: u32,
    length_max: u32,
    /// How many lengths a frame without flags may have, from the smallest on: none where it breaks
    /// a rule whatever its length.
    plain_lengths: u32,
}

impl Decoder {
    /// A decoder for payloads of at most `payload_size_max` bytes, itself at most 256 MiB
    /// (a larger value is taken as 256 MiB).
    #[must_use]
    pub const fn new(payload_size_max: u32) -> Self {
        let payload_size_max = if payload_size_max > PAYLOAD_SIZE_MAX_CEILING {
            PAYLOAD_SIZE_MAX_CEILING
        } else {
            payload_size_max
        };
        Self {
            payload_size_max,
            length_max: payload_size_max + LENGTH_OVERHEAD_MAX,
            plain_lengths: payload_size_max + 1,
        }
    }

    /// The same decoder that refuses a frame without a checksum, of the protocol's as well, or
    /// takes it.
    #[must_use]
    pub const fn with_checksums_required(self, required: bool) -> Self {
        let plain_lengths = if required {
            0
        } else {
            count_plain_lengths(self.payload_size_max, self.length_max)
        };
        Self {
            plain_lengths,
            ..self
        }
    }

    /// The highest length field that is not refused.
    pub(crate) const fn length_max(&self) -> u32 {
        self.length_max
    }

    /// The same decoder that also refuses a length field above `length_max`.
    #[must_use]
    pub(crate) const fn with_length_max(self, length_max: u32) -> Self {
        let checksums_required = self.requires_checksums();
        let length_max = if length_max < self.length_max {
            length_max
        } else {
            self.length_max
        };
        Self { length_max, ..self }.with_checksums_required(checksums_required)
    }

    const fn requires_checksums(&self) -> bool {
        self.plain_lengths == 0
    }

    /// The frame at the start of `bytes` and its size, or `None` while it is not whole.
    ///
    /// Bytes after the frame are not looked at.
    ///
    /// # Errors
    ///
    /// The first rule that the bytes break, in the order length, flags, length under these flags,
    /// a checksum that is required, version, checksum. Each is judged as soon as its bytes are
    /// there, so the error does not depend on how the bytes were cut.
    pub fn decode<'a>(&self, bytes: &'a [u8]) -> Result<Option<(Frame<'a>, usize)>, FrameError> {
        work::look_at(HEADER_SIZE.min(bytes.len()));
        self.judge_length(bytes)?;
        self.judge_flags(bytes)?;
        judge_version(bytes)?;
        let Some(header) = Header::read(bytes) else {
            return Ok(None);
        };
        let size = header.frame_size();
        let Some(body) = bytes.get(LENGTH_SIZE..size) else {
            return Ok(None);
        };
        judge_checksum(header, body)?;
        Ok(split(header, body).map(|frame| (frame, size)))
    }

    /// Iterates over the whole frames at the start of `bytes`.
    pub fn frames<'a>(&self, bytes: &'a [u8]) -> Frames<'a> {
        Frames {
            decoder: *self,
            bytes,
            consumed: 0,
            failed: false,
        }
    }

    /// Walks the whole application frames at the start of `bytes`, counting them.
    ///
    /// This is the loop that every received byte passes: for a plain frame it costs one load of
    /// the header and four comparisons. It stops at the first frame that is not whole, breaks a
    /// rule, or belongs to the protocol.
    pub(crate) fn scan(&self, bytes: &[u8]) -> Scan {
        let first = Header::read_word(bytes).unwrap_or(0);
        let in_range = |length: u32| length.wrapping_sub(LENGTH_MIN) < self.plain_lengths;
        let (mut rest, mut frames, mut differing) = (bytes, 0_u32, 0);
        if in_range(Header::of_word(first).length) && Header::is_plain(first) {
            let size = Header::of_word(first).frame_size();
            let (alike, behind) = count_alike(bytes, first, size);
            (rest, frames) = (behind, alike);
        }
        let end = loop {
            let Some(word) = Header::read_word(rest) else {
                break match self.decode(rest) {
                    Err(error) => ScanEnd::Error(error),
                    Ok(_) => ScanEnd::Incomplete,
                };
            };
            work::look_at(HEADER_SIZE);
            let header = Header::of_word(word);
            let behind = rest.get(header.frame_size()..);
            rest = match behind {
                Some(behind) if in_range(header.length) && Header::is_plain(word) => behind,
                Some(_) | None => match self.decode(rest) {
                    Err(error) => break ScanEnd::Error(error),
                    Ok(None) => break ScanEnd::Incomplete,
                    Ok(Some(_)) if header.message_type.is_protocol() => break ScanEnd::Protocol,
                    Ok(Some((_, size))) => &rest[size..],
                },
            };
            differing |= word ^ first;
            // Cannot wrap: a frame has eight bytes, and no buffer has 32 GiB.
            frames = frames.wrapping_add(1);
        };
        let alike = frames > 0 && differing == 0 && Header::is_plain(first);
        let (first, differing) = (Header::of_word(first), Header::of_word(differing));
        let same_type = differing.message_type == MessageType(0);
        Scan {
            frames,
            bytes: bytes.len() - rest.len(),
            message_type: Some(first.message_type).filter(|_| frames > 0 && same_type),
            // A flag of any frame is one of the first, or differs from it.
            has_correlation: frames > 0 && (first.has_correlation() || differing.has_correlation()),
            frame_size: alike.then(|| first.frame_size()),
            end,
        }
    }

    fn judge_length(&self, bytes: &[u8]) -> Result<(), FrameError> {
        match read_length(bytes) {
            Some(length) if length < LENGTH_MIN => Err(FrameError::TooShort {
                length,
                limit: LENGTH_MIN,
            }),
            Some(length) if length > self.length_max => Err(FrameError::TooLong {
                length,
                limit: self.length_max,
            }),
            Some(_) | None => Ok(()),
        }
    }

    fn judge_flags(&self, bytes: &[u8]) -> Result<(), FrameError> {
        let (Some(length), Some(message_type), Some(flags)) =
            (read_length(bytes), read_type(bytes), read_flags(bytes))
        else {
            return Ok(());
        };
        let allowed = if message_type.is_protocol() {
            FLAGS_PROTOCOL
        } else {
            FLAGS_APPLICATION
        };
        if flags & !allowed != 0 {
            return Err(FrameError::BadFlags { flags, allowed });
        }
        let header = Header {
            length,
            message_type,
            flags,
            version: VERSION,
        };
        let overhead = length_overhead(header.has_correlation(), header.has_checksum());
        let limit = overhead + self.payload_size_max;
        if length < overhead {
            return Err(FrameError::TooShort {
                length,
                limit: overhead,
            });
        }
        if length > limit {
            return Err(FrameError::TooLong { length, limit });
        }
        if self.requires_checksums() && !header.has_checksum() {
            return Err(FrameError::MissingChecksum { flags });
        }
        Ok(())
    }
}

/// What [`Decoder::scan`] found.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Scan {
    /// Whole application frames.
    pub(crate) frames: u32,
    /// Their bytes; the frame that ended the scan starts here.
    pub(crate) bytes: usize,
    /// The type of all of them, if they share one.
    pub(crate) message_type: Option<MessageType>,
    /// Whether any of them has a correlation number.
    pub(crate) has_correlation: bool,
    /// The size of all of them, if their headers are the same and they are nothing but payload
    /// behind it.
    pub(crate) frame_size: Option<usize>,
    pub(crate) end: ScanEnd,
}

/// Why a scan ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ScanEnd {
    /// The rest is the beginning of a frame, or nothing.
    #[default]
    Incomplete,
    /// A whole frame of the protocol comes next.
    Protocol,
    /// What comes next is not a frame.
    Error(FrameError),
}

/// Iterator over the whole frames in a slice; see [`Decoder::frames`].
///
/// It ends at the first frame that is not whole, and after the first error.
#[derive(Clone, Debug)]
pub struct Frames<'a> {
    decoder: Decoder,
    bytes: &'a [u8],
    consumed: usize,
    failed: bool,
}

impl Frames<'_> {
    /// Bytes of the frames yielded so far: where the next frame, or the error, begins.
    #[must_use]
    pub const fn consumed(&self) -> usize {
        self.consumed
    }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<Frame<'a>, FrameError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let rest = self.bytes.get(self.consumed..)?;
        match self.decoder.decode(rest) {
            Ok(Some((frame, size))) => {
                self.consumed += size;
                Some(Ok(frame))
            }
            Ok(None) => None,
            Err(error) => {
                self.failed = true;
                Some(Err(error))
            }
        }
    }
}

/// Walks bytes that a scan has found to be whole frames, without judging them again.
///
/// Bytes that are not whole frames end the walk early; they cannot make it panic.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WholeFrames<'a> {
    bytes: &'a [u8],
}

impl<'a> WholeFrames<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    /// The first byte of a later frame, if those before it are as long as the next one.
    #[inline]
    pub(crate) fn ahead(&self, frames: usize) -> Option<u8> {
        let header = Header::read(self.bytes)?;
        self.bytes.get(frames * header.frame_size()).copied()
    }

    /// The payload of the next frame, which is passed over: one of those that are so long each,
    /// and have one behind their headers and nothing else.
    #[inline]
    pub(crate) fn next_alike(&mut self, size: usize) -> Option<&'a [u8]> {
        let (frame, rest) = self.bytes.split_at_checked(size)?;
        self.bytes = rest;
        frame.get(HEADER_SIZE..)
    }

    /// The byte so far behind the next frame's beginning.
    #[inline]
    pub(crate) fn byte_at(&self, offset: usize) -> Option<u8> {
        self.bytes.get(offset).copied()
    }

    /// Bytes that are not walked yet.
    pub(crate) const fn rest_size(&self) -> usize {
        self.bytes.len()
    }

    /// The correlation number of the next frame, which is not passed over.
    #[inline]
    pub(crate) fn peek_correlation(&self) -> Option<u64> {
        let header = Header::read(self.bytes)?;
        if !header.has_correlation() {
            return None;
        }
        let field = self.bytes.get(HEADER_SIZE..)?;
        let field = field.get(..CORRELATION_SIZE as usize)?;
        Some(NetworkEndian::read_u64(field))
    }

    /// The header and the size of the next frame, which is passed over.
    #[inline]
    pub(crate) fn next_header(&mut self) -> Option<(Header, usize)> {
        let header = Header::read(self.bytes)?;
        let size = header.frame_size();
        self.bytes = self.bytes.get(size..)?;
        Some((header, size))
    }
}

impl<'a> Iterator for WholeFrames<'a> {
    type Item = Frame<'a>;

    #[inline]
    fn next(&mut self) -> Option<Frame<'a>> {
        let header = Header::read(self.bytes)?;
        let size = header.frame_size();
        let body = self.bytes.get(LENGTH_SIZE..size)?;
        self.bytes = &self.bytes[size..];
        if header.flags == 0 {
            // The length counts the header's second half, so this cannot be out of range.
            let payload = body.get(HEADER_SIZE - LENGTH_SIZE..)?;
            return Some(Frame::new(header.message_type, payload));
        }
        split(header, body)
    }
}

/// Those from the smallest length to the largest that a payload without trailer may give; one at
/// least.
const fn count_plain_lengths(payload_size_max: u32, length_max: u32) -> u32 {
    let payloads = length_max.saturating_sub(LENGTH_MIN);
    let fewer = if payloads < payload_size_max {
        payloads
    } else {
        payload_size_max
    };
    fewer + 1
}

/// How many frames at the start of `bytes` have this header and size, and what is behind them.
/// Where the next one begins does not depend on what is read in the one before, so this is several
/// times as fast as a walk from length to length.
fn count_alike(bytes: &[u8], word: u64, size: usize) -> (u32, &[u8]) {
    let frames = bytes.chunks_exact(size);
    let alike = frames.take_while(|frame| Header::read_word(frame) == Some(word));
    let mut count = 0_u32;
    for _ in alike {
        work::look_at(HEADER_SIZE);
        count = count.wrapping_add(1);
    }
    let behind = bytes.get(count as usize * size..).unwrap_or_default();
    (count, behind)
}

fn judge_version(bytes: &[u8]) -> Result<(), FrameError> {
    match read_version(bytes) {
        Some(version) if version != VERSION => Err(FrameError::BadVersion { version }),
        Some(_) | None => Ok(()),
    }
}

/// `body` is what the length field counts.
fn judge_checksum(header: Header, body: &[u8]) -> Result<(), FrameError> {
    if !header.has_checksum() {
        return Ok(());
    }
    let Some((covered, trailer)) = body.split_last_chunk::<4>() else {
        return Ok(());
    };
    work::look_at(body.len());
    let received = u32::from_be_bytes(*trailer);
    let computed = crc32c::crc32c(covered);
    if received == computed {
        Ok(())
    } else {
        Err(FrameError::BadChecksum { received, computed })
    }
}

/// Takes the parts of a frame apart; `None` if the body is shorter than its flags say.
fn split(header: Header, body: &[u8]) -> Option<Frame<'_>> {
    let mut rest = body.get(HEADER_SIZE - LENGTH_SIZE..)?;
    let mut correlation = None;
    if header.has_correlation() {
        let (field, behind) = rest.split_at_checked(CORRELATION_SIZE as usize)?;
        correlation = Some(NetworkEndian::read_u64(field));
        rest = behind;
    }
    if header.has_checksum() {
        rest = rest.get(..rest.len().checked_sub(CHECKSUM_SIZE as usize)?)?;
    }
    Some(Frame {
        message_type: header.message_type,
        correlation,
        checksum: header.has_checksum(),
        payload: rest,
    })
}

/// How many bytes were judged, for the test which says that the work is linear.
pub(crate) mod work {
    #[cfg(test)]
    thread_local! {
        static LOOKED_AT: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
    }

    #[inline]
    pub(crate) fn look_at(bytes: usize) {
        #[cfg(test)]
        LOOKED_AT.set(LOOKED_AT.get() + bytes);
        let _ = bytes;
    }

    /// Those since the last call, on this thread.
    #[cfg(test)]
    pub(crate) fn take() -> usize {
        LOOKED_AT.take()
    }
}
