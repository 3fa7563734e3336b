//! Vectors of the wire format, every limit and one past it, and properties over arbitrary cuts.

use proptest::prelude::*;

use super::{decoder::WholeFrames, *};
use crate::error::FrameError;

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits
        .chunks(2)
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

fn encoded(frame: &Frame<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    frame.encode(&mut out).unwrap();
    out
}

#[test]
fn vectors_of_the_contract() {
    let hi = Frame::new(MessageType(7), b"hi");
    assert_eq!(encoded(&hi), hex("00000006 0007 00 01 6869"));
    assert_eq!(
        encoded(&hi.with_checksum(true)),
        hex("0000000a 0007 01 01 6869 83a4e418")
    );
    let both = hi
        .with_checksum(true)
        .with_correlation(0x0102_0304_0506_0708);
    assert_eq!(
        encoded(&both),
        hex("00000012 0007 03 01 0102030405060708 6869 90dae3be")
    );
    assert_eq!(crc32c::crc32c(b"123456789"), 0xE306_9283);
}

/// A frame without one, of whatever kind, is refused on its flags, and those before it are taken.
#[test]
fn a_checksum_may_be_required() {
    let decoder = Decoder::new(100).with_checksums_required(true);
    let hi = Frame::new(MessageType(7), b"hi");
    let numbered = hi.with_correlation(7);
    let ping = Frame::new(MessageType::PING, b"");
    let dressed = [hi, numbered, hi].map(|frame| encoded(&frame.with_checksum(true)));
    let dressed = dressed.concat();
    for plain in [hi, numbered, ping, Frame::new(MessageType(0), b"")] {
        let mut bytes = dressed.clone();
        encode_whole(&plain, &mut bytes);
        let flags = u8::from(plain.correlation.is_some()) << 1;
        for end in 0..=bytes.len() {
            let cut = &bytes[..end];
            let judged = end >= dressed.len() + 7;
            let scan = decoder.scan(cut);
            let expected = if judged {
                ScanEnd::Error(FrameError::MissingChecksum { flags })
            } else {
                ScanEnd::Incomplete
            };
            assert_eq!((scan.end, scan.frame_size), (expected, None));
            assert_eq!(
                scan.bytes,
                decoder
                    .frames(cut)
                    .filter_map(Result::ok)
                    .map(|one| one.encoded_size())
                    .sum::<usize>()
            );
            assert_eq!(decoder.frames(cut).any(|found| found.is_err()), judged);
            assert!(Decoder::new(100).frames(cut).all(|found| found.is_ok()));
        }
    }
    let ping = encoded(&ping.with_checksum(true));
    assert_eq!(decoder.scan(&ping).end, ScanEnd::Protocol);
    assert!(decoder.scan(&encoded(&hi)).end != ScanEnd::Incomplete);
}

/// Case 1 to 7 of the catalogue: the length alone decides, on its four bytes.
#[test]
fn a_length_is_judged_on_its_four_bytes() {
    let decoder = Decoder::new(100);
    for length in [0_u32, 1, 2, 3] {
        assert_eq!(
            decoder.decode(&length.to_be_bytes()),
            Err(FrameError::TooShort { length, limit: 4 })
        );
    }
    for length in [117, 0x7FFF_FFFF, 0x8000_0000, u32::MAX - 3, u32::MAX] {
        assert_eq!(
            decoder.decode(&length.to_be_bytes()),
            Err(FrameError::TooLong { length, limit: 116 })
        );
    }
    for length in [4_u32, 116] {
        assert_eq!(decoder.decode(&length.to_be_bytes()), Ok(None));
    }
}

/// What is legal as a length may be too long or too short once the flags are known.
#[test]
fn a_length_is_judged_again_under_the_flags() {
    let decoder = Decoder::new(100);
    let judge = |length: u32, flags: u8| {
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.extend([0, 7, flags]);
        decoder.decode(&bytes).map(|found| found.is_some())
    };
    for (flags, overhead) in [(0, 4), (1, 8), (2, 12), (3, 16)] {
        assert_eq!(judge(overhead + 100, flags), Ok(false));
        if overhead + 101 <= 116 {
            assert_eq!(
                judge(overhead + 101, flags),
                Err(FrameError::TooLong {
                    length: overhead + 101,
                    limit: overhead + 100
                })
            );
        }
        if overhead > 4 {
            assert_eq!(
                judge(overhead - 1, flags),
                Err(FrameError::TooShort {
                    length: overhead - 1,
                    limit: overhead
                })
            );
        }
    }
}

#[test]
fn flags_and_version_are_judged_on_their_byte() {
    let decoder = Decoder::new(100);
    assert_eq!(
        decoder.decode(&hex("00000004 0007 04")),
        Err(FrameError::BadFlags {
            flags: 4,
            allowed: 3
        })
    );
    // A protocol message has no correlation.
    assert_eq!(
        decoder.decode(&hex("00000010 ff03 02")),
        Err(FrameError::BadFlags {
            flags: 2,
            allowed: 1
        })
    );
    for version in [0, 2, 255] {
        let mut bytes = hex("00000004 0007 00");
        bytes.push(version);
        assert_eq!(
            decoder.decode(&bytes),
            Err(FrameError::BadVersion { version })
        );
    }
}

#[test]
fn a_flipped_bit_under_a_checksum_is_found() {
    let whole = encoded(&Frame::new(MessageType(7), b"payload").with_checksum(true));
    let decoder = Decoder::new(100);
    for position in 8..whole.len() {
        for bit in 0..8 {
            let mut bytes = whole.clone();
            bytes[position] ^= 1 << bit;
            assert!(matches!(
                decoder.decode(&bytes),
                Err(FrameError::BadChecksum { .. })
            ));
        }
    }
}

#[test]
fn the_limit_of_the_first_frame_is_the_smaller_one() {
    let decoder = Decoder::new(1 << 20).with_length_max(4096);
    assert_eq!(decoder.decode(&4096_u32.to_be_bytes()), Ok(None));
    assert_eq!(
        decoder.decode(&4097_u32.to_be_bytes()),
        Err(FrameError::TooLong {
            length: 4097,
            limit: 4096
        })
    );
    let scan = decoder.scan(&encoded(&Frame::new(MessageType(1), &[0; 5000])));
    assert_eq!(
        scan.end,
        ScanEnd::Error(FrameError::TooLong {
            length: 5004,
            limit: 4096
        })
    );
}

#[test]
fn encode_refuses_more_than_any_peer_accepts() {
    let payload = vec![0; limits::PAYLOAD_SIZE_MAX_CEILING as usize + 1];
    let mut out = vec![1];
    let error = Frame::new(MessageType(1), &payload)
        .encode(&mut out)
        .unwrap_err();
    assert!(matches!(error, FrameError::TooLong { .. }));
    assert_eq!(out, [1]);
}

#[test]
fn encode_around_equals_encode_whole() {
    let frame = Frame::new(MessageType(9), b"a payload")
        .with_correlation(5)
        .with_checksum(true);
    let mut around = Vec::new();
    let trailer = encode_around(&frame, &mut around);
    around.extend_from_slice(frame.payload);
    around.extend(trailer.into_iter().flatten());
    assert_eq!(around, encoded(&frame));
}

#[test]
fn hello_and_bye_round_trip() {
    let hello = Hello {
        network_id: 9,
        node_id: [3; 16],
        agent: "test/1",
        token: b"t",
        ..Hello::default()
    };
    let mut payload = hello.to_payload();
    assert_eq!(Hello::parse(&payload), Ok(hello.clone()));
    payload.extend_from_slice(b"later fields");
    assert_eq!(Hello::parse(&payload), Ok(hello));
    for end in 0..payload.len() - 12 {
        assert!(
            Hello::parse(&payload[..end]).is_err(),
            "prefix of {end} bytes"
        );
    }
    let bye = Bye {
        code: 4,
        text: "frame too long",
    };
    assert_eq!(Bye::parse(&bye.to_payload()), Ok(bye));
    assert!(Bye::parse(b"\0\x04").is_err());
    let long = "x\u{e9}".repeat(200);
    assert_eq!(
        Bye::parse(
            &Bye {
                code: 1,
                text: &long
            }
            .to_payload()
        )
        .unwrap()
        .text
        .len(),
        255
    );
}

/// Fifteen lines that are obviously right, to compare the decoder with.
fn reference<'a>(mut bytes: &'a [u8], max: u32) -> (Vec<Frame<'a>>, usize, Option<FrameError>) {
    let decoder = Decoder::new(max);
    let (mut frames, mut consumed) = (Vec::new(), 0);
    loop {
        match decoder.decode(bytes) {
            Err(error) => return (frames, consumed, Some(error)),
            Ok(None) => return (frames, consumed, None),
            Ok(Some((frame, size))) => {
                frames.push(frame);
                consumed += size;
                bytes = &bytes[size..];
            }
        }
    }
}

/// Owned parts of a frame, to compare across buffers.
type Parts = (MessageType, Option<u64>, bool, Vec<u8>);

fn parts(frame: &Frame<'_>) -> Parts {
    (
        frame.message_type,
        frame.correlation,
        frame.checksum,
        frame.payload.to_vec(),
    )
}

/// Feeds `bytes` in pieces, as a connection would: what is not consumed is offered again.
fn fed_in_pieces(
    bytes: &[u8],
    cuts: &[usize],
    max: u32,
) -> (Vec<Parts>, usize, Option<FrameError>) {
    let (mut buffer, mut frames, mut consumed) = (Vec::new(), Vec::new(), 0);
    let mut fed = 0;
    let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    ends.push(bytes.len());
    ends.sort_unstable();
    for end in ends {
        buffer.extend_from_slice(&bytes[fed..end]);
        fed = end;
        let (whole, used, error) = reference(&buffer, max);
        frames.extend(whole.iter().map(parts));
        consumed += used;
        if error.is_some() {
            return (frames, consumed, error);
        }
        buffer.drain(..used);
    }
    (frames, consumed, None)
}

prop_compose! {
    fn any_parts()(
        message_type in prop_oneof![0_u16..3, any::<u16>()],
        correlation in any::<Option<u64>>(),
        checksum in any::<bool>(),
        payload in prop::collection::vec(any::<u8>(), 0..40),
    ) -> Parts {
        let message_type = MessageType(message_type);
        (message_type, correlation.filter(|_| !message_type.is_protocol()), checksum, payload)
    }
}

fn encode_all(all: &[Parts]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (message_type, correlation, checksum, payload) in all {
        let frame = Frame {
            message_type: *message_type,
            correlation: *correlation,
            checksum: *checksum,
            payload,
        };
        let before = bytes.len();
        frame.encode(&mut bytes).unwrap();
        assert_eq!(bytes.len() - before, frame.encoded_size());
    }
    bytes
}

proptest! {
    /// Bytes of any kind: whatever they are and however they are cut, the decoder finds what a
    /// reference of a few lines finds, the error and its position included.
    #[test]
    fn any_bytes_are_what_the_reference_says(
        script in prop::collection::vec(prop_oneof![2 => 0_u8..9, 1 => any::<u8>()], 0..400),
    ) {
        fuzz::decode(&script);
    }

    /// As a service would send it, with checksums: whatever is cut, mended or broken.
    #[test]
    fn frames_broken_anywhere_are_what_the_reference_says(
        head in prop::collection::vec(any::<u8>(), 4),
        all in prop::collection::vec(any_parts(), 0..12),
        flip in any::<Option<(usize, u8)>>(),
        end in any::<usize>(),
    ) {
        let mut script = [&[2, 1, 4][..], &head, &encode_all(&all)].concat();
        if let Some((position, mask)) = flip {
            let position = position % script.len();
            script[position] ^= mask;
        }
        script.truncate(7 + end % (script.len() - 6));
        fuzz::decode(&script);
    }

    #[test]
    fn decode_of_encode_is_identity_however_it_is_cut(
        all in prop::collection::vec(any_parts(), 0..12),
        cuts in prop::collection::vec(any::<usize>(), 0..20),
    ) {
        let bytes = encode_all(&all);
        let (frames, consumed, error) = fed_in_pieces(&bytes, &cuts, 64);
        prop_assert_eq!(frames, all);
        prop_assert_eq!((consumed, error), (bytes.len(), None));
    }

    /// Arbitrary bytes: frames, position and error do not depend on the cuts.
    #[test]
    fn cuts_change_nothing(
        good in prop::collection::vec(any_parts(), 0..4),
        junk in prop::collection::vec(prop_oneof![3 => 0_u8..8, 1 => any::<u8>()], 0..60),
        flip in any::<Option<(usize, u8)>>(),
        cuts in prop::collection::vec(any::<usize>(), 0..20),
    ) {
        let mut bytes = encode_all(&good);
        bytes.extend(junk);
        if let (Some((position, mask)), false) = (flip, bytes.is_empty()) {
            let position = position % bytes.len();
            bytes[position] ^= mask;
        }
        let (whole, consumed, error) = reference(&bytes, 64);
        let whole: Vec<Parts> = whole.iter().map(parts).collect();
        prop_assert_eq!(fed_in_pieces(&bytes, &cuts, 64), (whole, consumed, error));
    }

    /// The scan, which takes short cuts, agrees with the decoder, which takes none.
    #[test]
    fn scan_agrees_with_decode(
        runs in prop::collection::vec((any_parts(), 1_usize..4), 0..6),
        junk in prop::collection::vec(prop_oneof![3 => 0_u8..8, 1 => any::<u8>()], 0..40),
    ) {
        let good: Vec<_> = runs
            .into_iter()
            .flat_map(|(parts, count)| std::iter::repeat_n(parts, count))
            .collect();
        let mut bytes = encode_all(&good);
        bytes.extend(junk);
        let (frames, consumed, error) = reference(&bytes, 64);
        let mut at = 0;
        let mut seen = Vec::new();
        let end = loop {
            let scan = Decoder::new(64).scan(&bytes[at..]);
            let run: Vec<Frame<'_>> = WholeFrames::new(&bytes[at..at + scan.bytes]).collect();
            prop_assert_eq!(run.len(), scan.frames as usize);
            let same = run.windows(2).all(|pair| pair[0].message_type == pair[1].message_type);
            let expected = run.first().map(|frame| frame.message_type).filter(|_| same);
            prop_assert_eq!(scan.message_type, expected);
            let correlated = run.iter().any(|frame| frame.correlation.is_some());
            prop_assert_eq!(scan.has_correlation, correlated);
            if let Some(size) = scan.frame_size {
                let mut alike = WholeFrames::new(&bytes[at..at + scan.bytes]);
                for frame in &run {
                    let payload = alike.next_alike(size).unwrap();
                    prop_assert_eq!(Frame::new(run[0].message_type, payload), *frame);
                }
                prop_assert_eq!(alike.rest_size(), 0);
            }
            seen.extend(run);
            at += scan.bytes;
            if scan.end != ScanEnd::Protocol {
                break scan.end;
            }
            let (frame, size) = Decoder::new(64).decode(&bytes[at..]).unwrap().unwrap();
            prop_assert!(frame.message_type.is_protocol());
            seen.push(frame);
            at += size;
        };
        prop_assert_eq!(at, consumed);
        prop_assert_eq!(seen, frames);
        match error {
            Some(error) => prop_assert_eq!(end, ScanEnd::Error(error)),
            None => prop_assert_eq!(end, ScanEnd::Incomplete),
        }
    }

    /// Bytes that no scan has judged cannot make the walk panic.
    #[test]
    fn walking_anything_is_harmless(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(WholeFrames::new(&bytes).count() <= bytes.len() / 4);
    }
}
