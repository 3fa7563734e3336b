//! What fuzzers call: the decoder beside one that is obviously right, and the payloads of the
//! protocol's own messages.
#![expect(
    clippy::cast_possible_truncation,
    reason = "fields are read as u64 and are as wide as their place in the frame"
)]

use std::ops::Range;

use super::{Bye, Decoder, Frame, Hello, ScanEnd, WholeFrames, encode_whole};
use crate::{
    error::{CloseReason, FrameError},
    id::MessageType,
    script::Script,
};

/// Frames, where the last one ends, and what is wrong behind it.
type Found<'a> = (Vec<Frame<'a>>, usize, Option<FrameError>);

/// A frame that owns its payload, to be compared across buffers.
type Parts = (MessageType, Option<u64>, bool, Vec<u8>);

/// Bytes cut anywhere: every way to decode them gives the frames, the position and the error of
/// [`reference`], and a frame encoded again is the bytes that it came from.
///
/// The script has the limit, whether checksums are put right first, and the sizes of the pieces;
/// the rest of it are the bytes.
pub(crate) fn decode(data: &[u8]) {
    let mut script = Script::new(data);
    let max = script.pick(&[0, 1, 40, 5000]);
    let mended = script.flag();
    let pieces: Vec<usize> = (0..script.below(6))
        .map(|_| script.below(256) + 1)
        .collect();
    let mut bytes = script.rest().to_vec();
    if mended {
        mend_checksums(&mut bytes);
    }
    let expected = walk(&bytes, |rest| reference(rest, max));
    let decoder = Decoder::new(max);
    assert_eq!(walk(&bytes, |rest| decoder.decode(rest)), expected);
    assert_eq!(iterated(decoder, &bytes), expected);
    assert_eq!(scanned(decoder, &bytes), expected);
    let (frames, consumed, error) = expected;
    let parts = frames.iter().map(parts).collect();
    assert_eq!(
        fed_in_pieces(decoder, &bytes, &pieces),
        (parts, consumed, error)
    );
    let mut again = Vec::new();
    for frame in &frames {
        encode_whole(frame, &mut again);
    }
    assert_eq!(again, bytes[..consumed]);
}

/// A payload of HELLO, OK or BYE: what is read is written as it was, and every prefix of it is
/// refused or says the same.
pub(crate) fn protocol(payload: &[u8]) {
    if let Ok(hello) = Hello::parse(payload) {
        let mut again = hello.to_payload();
        assert_eq!(Hello::parse(&again), Ok(hello.clone()));
        // The flags are ignored, and so is what lies behind the token.
        again[6..8].copy_from_slice(&payload[6..8]);
        assert!(payload.starts_with(&again));
        for end in 0..payload.len().min(700) {
            let prefix = Hello::parse(&payload[..end]);
            assert_eq!(prefix.is_ok(), end >= again.len());
        }
    }
    if let Ok(bye) = Bye::parse(payload) {
        let again = bye.to_payload();
        assert!(payload.starts_with(&again));
        for end in 0..payload.len().min(300) {
            assert_eq!(Bye::parse(&payload[..end]).is_ok(), end >= again.len());
        }
        if let Some(reason) = CloseReason::from_wire_code(bye.code) {
            assert_eq!(reason.wire_code(), Some(bye.code));
        }
    }
}

/// The first frame and its size: the rules of `docs/wire.md` one after the other, each as soon as
/// its bytes are there. It holds no state and takes no short cut.
fn reference(bytes: &[u8], max: u32) -> Result<Option<(Frame<'_>, usize)>, FrameError> {
    let field = |at: Range<usize>| bytes.get(at).map(big_endian);
    let Some(length) = field(0..4) else {
        return Ok(None);
    };
    in_range(length, 4, u64::from(max) + 16)?;
    let (Some(kind), Some(flags)) = (field(4..6), field(6..7)) else {
        return Ok(None);
    };
    let allowed = if kind < 0xFF00 { 3 } else { 1 };
    if bytes[6] & !allowed != 0 {
        let flags = bytes[6];
        return Err(FrameError::BadFlags { flags, allowed });
    }
    let (crc, correlation) = (4 * (flags & 1), 4 * (flags & 2));
    let overhead = 4 + crc + correlation;
    in_range(length, overhead, overhead + u64::from(max))?;
    match bytes.get(7) {
        None => return Ok(None),
        Some(&version) if version != 1 => return Err(FrameError::BadVersion { version }),
        Some(_) => {}
    }
    let Some(frame) = bytes.get(..4 + length as usize) else {
        return Ok(None);
    };
    let (covered, trailer) = frame.split_at(frame.len() - crc as usize);
    let (received, computed) = (big_endian(trailer) as u32, crc32c::crc32c(&covered[4..]));
    if crc > 0 && received != computed {
        return Err(FrameError::BadChecksum { received, computed });
    }
    let (correlation, payload) = covered[8..].split_at(correlation as usize);
    let frame = Frame {
        message_type: MessageType(kind as u16),
        correlation: (!correlation.is_empty()).then(|| big_endian(correlation)),
        checksum: crc > 0,
        payload,
    };
    Ok(Some((frame, 4 + length as usize)))
}

fn in_range(length: u64, min: u64, max: u64) -> Result<(), FrameError> {
    let (short, long) = (length < min, length > max);
    let (length, min, max) = (length as u32, min as u32, max as u32);
    match (short, long) {
        (true, _) => Err(FrameError::TooShort { length, limit: min }),
        (_, true) => Err(FrameError::TooLong { length, limit: max }),
        (false, false) => Ok(()),
    }
}

fn big_endian(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0, |number, byte| number << 8 | u64::from(*byte))
}

/// Takes frame after frame.
fn walk<'a>(
    bytes: &'a [u8],
    first: impl Fn(&'a [u8]) -> Result<Option<(Frame<'a>, usize)>, FrameError>,
) -> Found<'a> {
    let (mut frames, mut consumed) = (Vec::new(), 0);
    loop {
        match first(&bytes[consumed..]) {
            Err(error) => return (frames, consumed, Some(error)),
            Ok(None) => return (frames, consumed, None),
            Ok(Some((frame, size))) => {
                frames.push(frame);
                consumed += size;
            }
        }
    }
}

fn iterated(decoder: Decoder, bytes: &[u8]) -> Found<'_> {
    let mut walk = decoder.frames(bytes);
    let (mut frames, mut error) = (Vec::new(), None);
    for found in walk.by_ref() {
        match found {
            Ok(frame) => frames.push(frame),
            Err(first) => error = Some(first),
        }
    }
    (frames, walk.consumed(), error)
}

/// As the loop does it: runs of application frames without a look at each, and frames of the
/// protocol one by one.
fn scanned(decoder: Decoder, bytes: &[u8]) -> Found<'_> {
    let (mut frames, mut consumed) = (Vec::new(), 0);
    loop {
        let scan = decoder.scan(&bytes[consumed..]);
        let run: Vec<Frame<'_>> = WholeFrames::new(&bytes[consumed..][..scan.bytes]).collect();
        assert_eq!(run.len(), scan.frames as usize);
        let same = run
            .windows(2)
            .all(|pair| pair[0].message_type == pair[1].message_type);
        let message_type = run.first().map(|frame| frame.message_type);
        assert_eq!(scan.message_type, message_type.filter(|_| same));
        let correlated = run.iter().any(|frame| frame.correlation.is_some());
        assert_eq!(scan.has_correlation, correlated);
        assert!(run.iter().all(|frame| !frame.message_type.is_protocol()));
        frames.extend(run);
        consumed += scan.bytes;
        match scan.end {
            ScanEnd::Incomplete => return (frames, consumed, None),
            ScanEnd::Error(error) => return (frames, consumed, Some(error)),
            ScanEnd::Protocol => {
                let decoded = decoder.decode(&bytes[consumed..]);
                let Ok(Some((frame, size))) = decoded else {
                    panic!("the scan has found a whole frame, not {decoded:?}");
                };
                assert!(frame.message_type.is_protocol());
                frames.push(frame);
                consumed += size;
            }
        }
    }
}

/// As a connection does it: what is not consumed is offered again with what follows it. The sizes
/// of the pieces come round again; without any, all bytes are one.
fn fed_in_pieces(
    decoder: Decoder,
    bytes: &[u8],
    pieces: &[usize],
) -> (Vec<Parts>, usize, Option<FrameError>) {
    let whole = [bytes.len()];
    let pieces = if pieces.is_empty() { &whole } else { pieces };
    let (mut buffer, mut found, mut consumed) = (Vec::new(), Vec::new(), 0);
    let mut rest = bytes;
    for &size in pieces.iter().cycle() {
        let (piece, behind) = rest.split_at(size.min(rest.len()));
        buffer.extend_from_slice(piece);
        rest = behind;
        let (frames, size, error) = walk(&buffer, |rest| decoder.decode(rest));
        found.extend(frames.iter().map(parts));
        consumed += size;
        if error.is_some() || rest.is_empty() {
            return (found, consumed, error);
        }
        buffer.drain(..size);
    }
    (found, consumed, None)
}

fn parts(frame: &Frame<'_>) -> Parts {
    (
        frame.message_type,
        frame.correlation,
        frame.checksum,
        frame.payload.to_vec(),
    )
}

/// Gives every frame that asks for a checksum the right one, which no fuzzer would guess.
fn mend_checksums(bytes: &mut [u8]) {
    let mut at = 0;
    while let Some(header) = bytes.get(at..at + 8) {
        let (size, checked) = (4 + big_endian(&header[..4]) as usize, header[6] & 1 != 0);
        let Some(frame) = bytes.get_mut(at..at + size) else {
            return;
        };
        if checked && size >= 12 {
            let checksum = crc32c::crc32c(&frame[4..size - 4]);
            frame[size - 4..].copy_from_slice(&checksum.to_be_bytes());
        }
        at += size;
    }
}
