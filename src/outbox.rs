//! Outgoing bytes of one peer on the loop's side: what to write next, and how far it got.
//!
//! The outbox offers slices and is told how many bytes the kernel took; whatever that number is,
//! what was taken is a prefix of whole frames in the order of sending. Frames of the protocol go in
//! between, at the next frame boundary.
//!
//! Frames are counted when their last byte is taken, bytes as they are taken. A segment of one type
//! that is taken as a whole knows how many frames it ends; only where the kernel stopped inside, or
//! types are mixed, are frame headers looked at.
//!
//! Invariants: `offset < len(front)` unless the outbox is empty; the next byte to write begins a
//! frame exactly if `frame_left == 0`.

use std::{collections::VecDeque, io::IoSlice};

use crate::{
    frame::Header,
    id::MessageType,
    ledger::Traffic,
    slots::{Segment, SegmentData},
};

/// Places for segments that an empty outbox keeps: a peer that is idle again holds little memory.
const SEGMENTS_KEPT: usize = 16;

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    segments: VecDeque<Segment>,
    /// Bytes of the first segment that the kernel has taken.
    offset: usize,
    /// Bytes of the frame in writing that the kernel has not taken.
    frame_left: usize,
    /// Type of the frame in writing.
    frame_type: MessageType,
    /// Frames of the first segment that are counted already.
    counted: u32,
}

impl Extend<Segment> for Outbox {
    fn extend<T: IntoIterator<Item = Segment>>(&mut self, segments: T) {
        self.segments.extend(
            segments
                .into_iter()
                .filter(|segment| !segment.data.as_slice().is_empty()),
        );
    }
}

impl Outbox {
    /// The kernel took `taken` bytes of those offered. `count` is told every run of the
    /// application's bytes: their type, how many frames they made whole, and how many bytes they
    /// are.
    ///
    /// Panics if more was taken than offered.
    pub(crate) fn handle_written(
        &mut self,
        mut taken: usize,
        mut count: impl FnMut(MessageType, Traffic),
    ) {
        while taken > 0 {
            let front = self
                .segments
                .front()
                .expect("no more is taken than was offered");
            let left = front.data.as_slice().len() - self.offset;
            if taken < left {
                self.walk(taken, &mut count);
                return;
            }
            taken -= left;
            match front.message_type {
                Some(message_type) => {
                    let messages = u64::from(front.messages - self.counted);
                    report(
                        message_type,
                        Traffic::new(messages, left as u64),
                        &mut count,
                    );
                    (self.frame_left, self.frame_type) = (front.spill, front.spill_type);
                }
                None => self.walk(left, &mut count),
            }
            self.segments.pop_front();
            self.offset = 0;
            self.counted = 0;
        }
        if self.segments.is_empty() && self.segments.capacity() > SEGMENTS_KEPT {
            self.segments = VecDeque::new();
        }
    }

    /// Puts a frame of the protocol at the next frame boundary.
    pub(crate) fn insert_control(&mut self, frame: Vec<u8>) {
        let control = Segment::control(frame);
        let (position, cut) = self.next_boundary();
        let Some(cut) = cut else {
            self.segments.insert(position, control);
            return;
        };
        // The boundary lies inside a segment, which the frame splits.
        let segment = &mut self.segments[position];
        let rest = match &mut segment.data {
            SegmentData::Encoded(bytes) => SegmentData::Encoded(bytes.split_off(cut)),
            SegmentData::Shared(bytes) => SegmentData::Shared(bytes.split_off(cut)),
        };
        let spill = std::mem::take(&mut segment.spill);
        let behind = Segment::second_half(rest, spill, segment.spill_type);
        segment.messages = 0;
        segment.message_type = None;
        self.segments.insert(position + 1, behind);
        self.segments.insert(position + 1, control);
        if position == 0 && cut == self.offset {
            // The kernel has taken all of the first half.
            self.segments.pop_front();
            self.offset = 0;
            self.counted = 0;
        }
    }

    /// Slices to write next, `bytes_max` bytes at most; the number filled is returned.
    pub(crate) fn fill_slices<'a>(&'a self, slices: &mut [IoSlice<'a>], bytes_max: usize) -> usize {
        let (mut filled, mut left, mut offset) = (0, bytes_max, self.offset);
        for (segment, place) in self.segments.iter().zip(slices) {
            let bytes = &segment.data.as_slice()[offset..];
            let bytes = &bytes[..bytes.len().min(left)];
            if bytes.is_empty() {
                break;
            }
            *place = IoSlice::new(bytes);
            left -= bytes.len();
            offset = 0;
            filled += 1;
        }
        filled
    }

    /// Whether a frame of the protocol waits.
    pub(crate) fn has_control(&self) -> bool {
        self.segments.iter().any(|segment| segment.is_control)
    }

    /// Whether a frame of the protocol waits behind bytes of the application.
    pub(crate) fn has_control_behind(&self) -> bool {
        let front = self.segments.front();
        front.is_some_and(|segment| !segment.is_control) && self.has_control()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Walks `taken` bytes of the first segment, header by header.
    fn walk(&mut self, taken: usize, count: &mut impl FnMut(MessageType, Traffic)) {
        let bytes = self.segments[0].data.as_slice();
        let end = self.offset + taken;
        let mut run = Traffic::default();
        let mut run_type = self.frame_type;
        while self.offset < end {
            if self.frame_left == 0 {
                let header = Header::read(&bytes[self.offset..])
                    .expect("a header lies in one segment as a whole");
                self.frame_left = header.frame_size();
                self.frame_type = header.message_type;
                if run_type != self.frame_type {
                    report(run_type, std::mem::take(&mut run), count);
                    run_type = self.frame_type;
                }
            }
            let step = self.frame_left.min(end - self.offset);
            self.frame_left -= step;
            self.offset += step;
            run.bytes += step as u64;
            if self.frame_left == 0 {
                run.messages += 1;
                self.counted += 1;
            }
        }
        report(run_type, run, count);
    }

    /// The position of the segment in which the next frame begins, and where in it; without the
    /// latter the frame begins with the segment, or there is none.
    fn next_boundary(&self) -> (usize, Option<usize>) {
        let mut left = self.frame_left;
        let mut offset = self.offset;
        for (position, segment) in self.segments.iter().enumerate() {
            let size = segment.data.as_slice().len() - offset;
            let cut = offset + left;
            if left < size {
                // What was put at the boundary before keeps its place.
                if cut == 0 && segment.is_control {
                    continue;
                }
                return (position, (cut > 0).then_some(cut));
            }
            left -= size;
            offset = 0;
        }
        (self.segments.len(), None)
    }
}

/// The protocol's own frames are not the application's traffic.
fn report(message_type: MessageType, run: Traffic, count: &mut impl FnMut(MessageType, Traffic)) {
    if run.bytes > 0 && !message_type.is_protocol() {
        count(message_type, run);
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, sync::Arc};

    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::{
        clock::Clock,
        frame::{Decoder, Frame, encode_whole},
        id::PeerId,
        ledger::Ledger,
        limits::{PAYLOAD_COPIED_MAX, PAYLOAD_SIZE_MAX_DEFAULT},
        slots::{OutFrame, OutFrames, OutboxLimits, Slots},
    };

    /// A slot to send through, the outbox behind it, and what the kernel was given.
    struct Pipe {
        slots: Slots,
        id: PeerId,
        outbox: Outbox,
        before: Traffic,
        /// Application frames, encoded in one piece.
        sent: Vec<Vec<u8>>,
        /// Payloads of protocol frames, in the order of insertion.
        controls: Vec<Vec<u8>>,
        wire: Vec<u8>,
        counted: BTreeMap<MessageType, Traffic>,
    }

    impl Pipe {
        fn new() -> Self {
            let ledger = Arc::new(Ledger::new(1 << 30, Traffic::new(1, 1)));
            let limits = OutboxLimits {
                bytes: 1 << 29,
                messages: 1 << 20,
                payload_size: PAYLOAD_SIZE_MAX_DEFAULT,
            };
            let slots = Slots::new(0, 1, limits, ledger, Clock::start());
            let id = slots.open(0).unwrap();
            Self {
                slots,
                id,
                outbox: Outbox::default(),
                before: Traffic::default(),
                sent: Vec::new(),
                controls: Vec::new(),
                wire: Vec::new(),
                counted: BTreeMap::new(),
            }
        }

        fn note(&mut self, frame: &Frame<'_>) {
            let mut whole = Vec::new();
            encode_whole(frame, &mut whole);
            self.sent.push(whole);
        }

        fn send(&mut self, frame: &Frame<'_>, owned: bool) {
            let payload = Bytes::copy_from_slice(frame.payload);
            let message = OutFrame {
                frame: *frame,
                owned: owned.then_some(payload),
            };
            self.slots.send(self.id, message).unwrap();
            self.note(frame);
        }

        fn send_batch(&mut self, frames: &[Frame<'_>]) {
            let mut batch = OutFrames::default();
            for frame in frames {
                batch.push(frame);
                self.note(frame);
            }
            self.slots.send_batch(self.id, &mut batch).unwrap();
        }

        fn take(&mut self) {
            let taken = self
                .slots
                .take_tail(self.id, &mut self.outbox, self.before, false)
                .unwrap();
            self.before.add(taken.traffic);
        }

        fn insert_control(&mut self, payload: Vec<u8>) {
            let mut frame = Vec::new();
            encode_whole(&Frame::new(MessageType::PONG, &payload), &mut frame);
            self.outbox.insert_control(frame);
            self.controls.push(payload);
        }

        /// Offers and lets the kernel take up to `size` bytes. Returns how many it took.
        fn write(&mut self, size: usize) -> usize {
            let mut slices = [IoSlice::new(&[]); 5];
            let filled = self.outbox.fill_slices(&mut slices, size);
            let before = self.wire.len();
            for slice in &slices[..filled] {
                assert!(!slice.is_empty(), "an empty slice is offered");
                self.wire.extend_from_slice(slice);
            }
            let taken = self.wire.len() - before;
            assert!(taken <= size);
            assert!(size == 0 || taken > 0 || self.outbox.is_empty(), "stuck");
            let counted = &mut self.counted;
            self.outbox.handle_written(taken, |message_type, traffic| {
                counted.entry(message_type).or_default().add(traffic);
            });
            taken
        }

        fn finish(mut self) {
            self.take();
            while self.write(4096) > 0 {}
            assert!(self.outbox.is_empty());
            let mut expected = BTreeMap::<MessageType, Traffic>::new();
            let (mut sent, mut controls) = (self.sent.iter(), self.controls.iter());
            let decoder = Decoder::new(PAYLOAD_SIZE_MAX_DEFAULT);
            let mut at = 0;
            while at < self.wire.len() {
                let (frame, size) = decoder.decode(&self.wire[at..]).unwrap().unwrap();
                if frame.message_type.is_protocol() {
                    assert_eq!(controls.next().map(|one| &one[..]), Some(frame.payload));
                } else {
                    let whole = &self.wire[at..at + size];
                    assert_eq!(sent.next().map(|one| &one[..]), Some(whole));
                    let traffic = Traffic::new(1, size as u64);
                    expected.entry(frame.message_type).or_default().add(traffic);
                }
                at += size;
            }
            assert_eq!((sent.next(), controls.next()), (None, None));
            assert_eq!(self.counted, expected);
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Send {
            message_type: u16,
            size: usize,
            checksum: bool,
            correlation: bool,
            owned: bool,
        },
        Batch {
            count: usize,
            size: usize,
            message_type: u16,
            mixed: bool,
        },
        Take,
        Write(usize),
        Control(usize),
    }

    fn size() -> impl Strategy<Value = usize> {
        prop_oneof![
            6 => 0_usize..64,
            1 => 0_usize..PAYLOAD_COPIED_MAX + 2,
            2 => PAYLOAD_COPIED_MAX + 1..3 * PAYLOAD_COPIED_MAX,
        ]
    }

    fn step() -> impl Strategy<Value = Step> {
        let send = (
            0_u16..3,
            size(),
            any::<bool>(),
            any::<bool>(),
            any::<bool>(),
        )
            .prop_map(
                |(message_type, size, checksum, correlation, owned)| Step::Send {
                    message_type,
                    size,
                    checksum,
                    correlation,
                    owned,
                },
            );
        let batch = (1_usize..6, 0_usize..64, 0_u16..3, any::<bool>()).prop_map(
            |(count, size, message_type, mixed)| Step::Batch {
                count,
                size,
                message_type,
                mixed,
            },
        );
        prop_oneof![
            6 => send,
            1 => batch,
            3 => Just(Step::Take),
            4 => (0_usize..40).prop_map(Step::Write),
            2 => (0_usize..20_000).prop_map(Step::Write),
            2 => (0_usize..64).prop_map(Step::Control),
        ]
    }

    proptest! {
        /// Whatever the lengths of writes: whole frames in order, the protocol's own only between
        /// them, and every byte counted with its type.
        #[test]
        fn what_is_taken_is_whole_frames_in_order(steps in prop::collection::vec(step(), 1..80)) {
            let mut pipe = Pipe::new();
            let payload: Vec<u8> = (0..=255).cycle().take(4 * PAYLOAD_COPIED_MAX).collect();
            for step in steps {
                match step {
                    Step::Send { message_type, size, checksum, correlation, owned } => {
                        let frame = Frame {
                            message_type: MessageType(message_type),
                            correlation: correlation.then_some(7),
                            checksum,
                            payload: &payload[..size],
                        };
                        pipe.send(&frame, owned);
                    }
                    Step::Batch { count, size, message_type, mixed } => {
                        let frames: Vec<Frame<'_>> = (0..count)
                            .map(|index| {
                                let other = u16::from(mixed && index % 2 == 1);
                                let number = MessageType(message_type + other);
                                Frame::new(number, &payload[..size])
                            })
                            .collect();
                        pipe.send_batch(&frames);
                    }
                    Step::Take => pipe.take(),
                    Step::Write(size) => {
                        pipe.write(size);
                    }
                    Step::Control(size) => pipe.insert_control(payload[..size].to_vec()),
                }
            }
            pipe.finish();
        }
    }

    #[test]
    fn a_long_batch_becomes_a_segment_of_its_own() {
        let payload = vec![1; 10_000];
        let mut pipe = Pipe::new();
        pipe.send(&Frame::new(MessageType(1), b"before"), false);
        let frames = [Frame::new(MessageType(2), &payload); 9];
        pipe.send_batch(&frames);
        pipe.send(&Frame::new(MessageType(2), b"behind"), false);
        pipe.take();
        pipe.write(5);
        pipe.insert_control(vec![1]);
        pipe.write(70_000);
        pipe.insert_control(vec![2]);
        pipe.finish();
    }

    /// The kernel stopped between two frames of a segment: what it has taken is not offered again,
    /// and not left as an empty segment that would hide the others.
    #[test]
    fn a_control_frame_fits_where_a_write_ended() {
        let mut pipe = Pipe::new();
        pipe.send(&Frame::new(MessageType(1), b"one"), false);
        pipe.send(&Frame::new(MessageType(1), b"two"), false);
        pipe.take();
        pipe.write(11);
        pipe.insert_control(b"pong".to_vec());
        pipe.finish();
    }

    /// OK and PONG that wait for the end of the same frame go out as they were caused.
    #[test]
    fn control_frames_keep_their_order() {
        let mut pipe = Pipe::new();
        pipe.insert_control(b"first".to_vec());
        pipe.insert_control(b"second".to_vec());
        pipe.send(&Frame::new(MessageType(1), b"one"), false);
        pipe.take();
        pipe.write(3);
        pipe.insert_control(b"third".to_vec());
        pipe.finish();
    }
}
