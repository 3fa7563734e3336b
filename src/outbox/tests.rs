//! Whole frames, in order per priority, whatever the kernel takes.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::{
    clock::Clock,
    frame::{Decoder, Frame, encode_whole},
    id::PeerId,
    ledger::Ledger,
    limits::{PAYLOAD_COPIED_MAX, PAYLOAD_SIZE_MAX_DEFAULT, PRIORITY_BIAS_BYTES},
    policy::OutboxFull,
    slots::{OutFrame, OutFrames, OutboxLimits, Recipients, SharedFrame, Slots, Sums, Take},
};

impl Outbox {
    /// Bytes that are allocated for what waits here.
    pub(crate) fn storage(&self) -> usize {
        let waiting = self.lanes().into_iter().flat_map(|lanes| &lanes.lanes);
        let runs: usize = waiting.map(|lane| lane.run.storage()).sum();
        let rest = self.behind.as_ref().map(|rest| {
            let segments = rest.segments.iter().map(Segment::storage);
            segments.sum::<usize>() + rest.segments.capacity() * size_of::<Segment>()
        });
        self.front.storage() + rest.unwrap_or_default() + runs
    }

    /// How many of these need not be leased: what segments keep for nothing, frames of the
    /// protocol, and the places of segments that are made for those or stay when it ran empty.
    pub(crate) fn storage_free(&self) -> usize {
        let waiting = self.lanes().into_iter().flat_map(|lanes| &lanes.lanes);
        let waiting = waiting.flat_map(|lane| lane.run.segments());
        let segments = self.offered().chain(waiting).map(Segment::storage_free);
        let places = if self.is_empty() {
            SEGMENTS_KEPT
        } else {
            let grown = self.behind.as_ref().filter(|_| self.has_control());
            grown.map_or(0, |rest| rest.segments.capacity())
        };
        segments.sum::<usize>() + places * size_of::<Segment>()
    }
}

/// What the types of a priority begin with in these tests.
const TYPES_PER_PRIORITY: u16 = 16;

fn type_of(priority: Priority, number: u16) -> MessageType {
    let ordinal = u16::try_from(priority.ordinal()).unwrap();
    MessageType(ordinal * TYPES_PER_PRIORITY + number)
}

fn priority_of(message_type: MessageType) -> Priority {
    Priority::ALL[usize::from(message_type.0 / TYPES_PER_PRIORITY)]
}

/// A slot to send through, the outbox behind it, and what the kernel was given.
struct Pipe {
    slots: Slots,
    id: PeerId,
    outbox: Outbox,
    before: Sums,
    /// Application frames accepted, encoded in one piece, by priority.
    sent: [Vec<Vec<u8>>; Priority::COUNT],
    /// Payloads of protocol frames, in the order of insertion.
    controls: Vec<Vec<u8>>,
    /// What the loop sent itself.
    answered: Traffic,
    wire: Vec<u8>,
    counted: BTreeMap<MessageType, Traffic>,
}

impl Pipe {
    fn new() -> Self {
        Self::with(1 << 29, 1 << 20, OutboxFull::Refuse)
    }

    fn with(bytes: u64, messages: u64, full: OutboxFull) -> Self {
        let ledger = Arc::new(Ledger::new(1 << 30, Traffic::new(1, 1)));
        let limits = OutboxLimits {
            bytes,
            messages,
            payload_size: PAYLOAD_SIZE_MAX_DEFAULT,
        };
        let slots = Slots::new(0, 1, limits, ledger, Clock::start()).outbox_full(full);
        let id = slots.open(0).unwrap();
        Self {
            slots,
            id,
            outbox: Outbox::default(),
            before: Sums::default(),
            sent: Default::default(),
            controls: Vec::new(),
            answered: Traffic::default(),
            wire: Vec::new(),
            counted: BTreeMap::new(),
        }
    }

    fn note(&mut self, priority: Priority, frame: &Frame<'_>) {
        let mut whole = Vec::new();
        encode_whole(frame, &mut whole);
        self.sent[priority.ordinal()].push(whole);
    }

    /// Sends a frame in one of the ways there are. False if there was no room.
    fn send(&mut self, priority: Priority, frame: &Frame<'_>, way: Way) -> bool {
        let payload = Bytes::copy_from_slice(frame.payload);
        let accepted = match way {
            Way::Copied | Way::Owned => {
                let message = OutFrame {
                    frame: *frame,
                    owned: (way == Way::Owned).then_some(payload),
                };
                self.slots.send_as(self.id, priority, message).is_ok()
            }
            // What the loop sends goes past the slot's tail, so the tail is taken before. Where
            // some of that may be left there, the two have no order.
            Way::Inline if priority == Priority::Normal && !self.slots.may_overflow() => {
                self.take();
                let traffic = Traffic::new(1, frame.encoded_size() as u64);
                let size = frame.payload.len();
                let accepted = self.slots.accept_inline(self.id, traffic, size).is_ok();
                if accepted {
                    self.outbox.push_inline(1, Priority::Normal, frame);
                    self.answered.add(traffic);
                }
                accepted
            }
            Way::Shared | Way::Inline => {
                let shared = SharedFrame::new(frame, priority);
                let report = self.slots.broadcast(Ok(&shared), Recipients::All);
                report.sent == [self.id]
            }
        };
        if accepted {
            self.note(priority, frame);
        }
        accepted
    }

    fn send_batch(&mut self, priority: Priority, frames: &[Frame<'_>]) -> bool {
        let mut batch = OutFrames::default();
        frames.iter().for_each(|frame| batch.push(frame));
        let result = self.slots.send_batch(self.id, priority, &mut batch);
        if result.is_ok() {
            frames.iter().for_each(|frame| self.note(priority, frame));
        }
        result.is_ok()
    }

    fn take(&mut self) {
        let take = Take::Beside(self.outbox.bytes_by_priority());
        let outbox = &mut self.outbox;
        let push = |priority, segment| outbox.push(1, priority, segment);
        let taken = self.slots.take_tail(1, self.id, self.before, take, push);
        self.before.add(taken.unwrap().sums);
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
        let mut written = Traffic::default();
        self.outbox.handle_written(taken, |message_type, traffic| {
            counted.entry(message_type).or_default().add(traffic);
            written.add(traffic);
        });
        self.slots.add_written(self.id, written);
        taken
    }

    /// What is counted of the outbox frame by frame is what the sums say of it.
    fn check(&self) {
        let mut written = Traffic::default();
        self.counted.values().for_each(|one| written.add(*one));
        let unwritten = self.outbox.count_unwritten();
        assert_eq!(
            self.outbox.waiting(),
            unwritten,
            "of segments and of headers"
        );
        let queued = self.slots.queued(self.id);
        assert!(unwritten.messages <= queued.messages && unwritten.bytes <= queued.bytes);
        let (mut accepted, overflowed) = (self.before.accepted, self.before.overflowed);
        accepted.add(self.answered);
        if !self.slots.may_overflow() {
            let mut sum = written;
            sum.add(unwritten);
            assert_eq!((accepted, Traffic::default()), (sum, overflowed));
        }
    }

    /// Lets the kernel take everything, and returns the frames that it was given, and where each
    /// began. Protocol frames are compared and left out.
    fn finish(mut self) -> Vec<(usize, Vec<u8>)> {
        let mut rounds = 0;
        while self.slots.queued(self.id) != Traffic::default() || !self.outbox.is_empty() {
            self.take();
            self.write(4096);
            rounds += 1;
            assert!(rounds < 1_000_000, "something is never offered");
        }
        self.check();
        assert_eq!(self.outbox.age_of_oldest(1), None);
        let mut expected = BTreeMap::<MessageType, Traffic>::new();
        let (mut frames, mut controls) = (Vec::new(), self.controls.iter());
        let decoder = Decoder::new(PAYLOAD_SIZE_MAX_DEFAULT);
        let mut at = 0;
        while at < self.wire.len() {
            let (frame, size) = decoder.decode(&self.wire[at..]).unwrap().unwrap();
            if frame.message_type.is_protocol() {
                assert_eq!(controls.next().map(|one| &one[..]), Some(frame.payload));
            } else {
                frames.push((at, self.wire[at..at + size].to_vec()));
                let traffic = Traffic::new(1, size as u64);
                expected.entry(frame.message_type).or_default().add(traffic);
            }
            at += size;
        }
        assert_eq!(controls.next(), None);
        assert_eq!(self.counted, expected);
        let mut written = Traffic::default();
        expected.values().for_each(|one| written.add(*one));
        // Nothing is lost without being counted.
        let mut sum = self.before.overflowed;
        sum.add(written);
        let mut accepted = self.before.accepted;
        accepted.add(self.answered);
        assert_eq!(accepted, sum);
        self.check_order(&frames);
        frames
    }

    /// Frames of one priority come in their order; some are missing only where they were dropped.
    fn check_order(&self, frames: &[(usize, Vec<u8>)]) {
        let mut sent = self.sent.each_ref().map(|list| list.iter());
        for (_, frame) in frames {
            let header = Header::read(frame).unwrap();
            let priority = priority_of(header.message_type);
            let list = &mut sent[priority.ordinal()];
            if self.slots.may_overflow() {
                assert!(list.any(|one| one == frame), "{priority:?} is out of order");
            } else {
                assert_eq!(list.next(), Some(frame));
            }
        }
        let left = sent.iter_mut().any(|list| list.next().is_some());
        assert!(self.slots.may_overflow() || !left, "something is missing");
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Copied,
    Owned,
    Shared,
    Inline,
}

#[derive(Clone, Debug)]
enum Step {
    Send {
        priority: Priority,
        message_type: u16,
        size: usize,
        checksum: bool,
        correlation: bool,
        way: Way,
    },
    Batch {
        priority: Priority,
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

fn priority() -> impl Strategy<Value = Priority> {
    prop_oneof![
        3 => Just(Priority::Normal),
        1 => Just(Priority::High),
        1 => Just(Priority::Low),
    ]
}

fn way() -> impl Strategy<Value = Way> {
    prop_oneof![
        Just(Way::Copied),
        Just(Way::Owned),
        Just(Way::Shared),
        Just(Way::Inline)
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let send = (
        priority(),
        0_u16..3,
        size(),
        any::<bool>(),
        any::<bool>(),
        way(),
    )
        .prop_map(
            |(priority, message_type, size, checksum, correlation, way)| Step::Send {
                priority,
                message_type,
                size,
                checksum,
                correlation,
                way,
            },
        );
    let batch = (priority(), 1_usize..6, 0_usize..64, 0_u16..3, any::<bool>()).prop_map(
        |(priority, count, size, message_type, mixed)| Step::Batch {
            priority,
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

fn run(pipe: &mut Pipe, steps: Vec<Step>) {
    // Every frame is another one, so that none is taken for its neighbour.
    let mut payload: Vec<u8> = (0..=255).cycle().take(4 * PAYLOAD_COPIED_MAX).collect();
    for (number, step) in (0_u32..).zip(steps) {
        payload[..4].copy_from_slice(&number.to_be_bytes());
        match step {
            Step::Send {
                priority,
                message_type,
                size,
                checksum,
                correlation,
                way,
            } => {
                let frame = Frame {
                    message_type: type_of(priority, message_type),
                    correlation: correlation.then_some(u64::from(number)),
                    checksum,
                    payload: &payload[..size],
                };
                pipe.send(priority, &frame, way);
            }
            Step::Batch {
                priority,
                count,
                size,
                message_type,
                mixed,
            } => {
                let frames: Vec<Frame<'_>> = (0..count)
                    .map(|index| {
                        let other = u16::from(mixed && index % 2 == 1);
                        let number = type_of(priority, message_type + other);
                        Frame::new(number, &payload[..size])
                    })
                    .collect();
                pipe.send_batch(priority, &frames);
            }
            Step::Take => pipe.take(),
            Step::Write(size) => {
                pipe.write(size);
            }
            Step::Control(size) => pipe.insert_control(payload[..size].to_vec()),
        }
        pipe.check();
    }
}

proptest! {
    /// Whatever the lengths of writes: whole frames, in order per priority, the protocol's own only
    /// between them, and every byte counted with its type.
    #[test]
    fn what_is_taken_is_whole_frames_in_order(steps in prop::collection::vec(step(), 1..120)) {
        let mut pipe = Pipe::new();
        run(&mut pipe, steps);
        pipe.finish();
    }

    /// The same where senders drop what is old: what is missing was counted where it was dropped.
    #[test]
    fn what_is_dropped_is_whole_frames_and_counted(
        steps in prop::collection::vec(step(), 1..120),
        bytes in prop_oneof![Just(64_u64), 200_u64..40_000],
        messages in prop_oneof![Just(1_u64), 2_u64..30],
    ) {
        let mut pipe = Pipe::with(bytes, messages, OutboxFull::DropOldest);
        run(&mut pipe, steps);
        pipe.finish();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// However much of a higher priority comes: what waits below it is passed by no more than the
    /// bias, the turn of another, and what was on offer.
    #[test]
    fn nobody_starves(
        sizes in prop::collection::vec((0_usize..3, 1_usize..9_000), 40..80),
        writes in prop::collection::vec(1_usize..40_000, 40..80),
    ) {
        let payload = vec![b'x'; 9_000];
        let mut pipe = Pipe::new();
        let (mut sizes, mut writes) = (sizes.iter().cycle(), writes.iter().cycle());
        let low = Frame::new(type_of(Priority::Low, 0), &payload[..3_000]);
        let normal = Frame::new(type_of(Priority::Normal, 0), &payload[..2_000]);
        for _ in 0..400 {
            pipe.send(Priority::Low, &low, Way::Copied);
            pipe.send(Priority::Normal, &normal, Way::Copied);
        }
        let mut rounds = 0;
        // As long as all of them have something: more of the highest comes than the kernel takes.
        while pipe.wire.len() < 800_000 {
            for _ in 0..20 {
                let (_, size) = sizes.next().unwrap();
                let high = Frame::new(type_of(Priority::High, 0), &payload[..*size]);
                pipe.send(Priority::High, &high, Way::Owned);
            }
            pipe.take();
            pipe.write(*writes.next().unwrap());
            rounds += 1;
        }
        prop_assert!(rounds > 10);
        let long = pipe.wire.len();
        let frames = pipe.finish();
        let most = PRIORITY_BIAS_BYTES + 3 * (PRIORITY_WINDOW_BYTES + 9_020);
        for priority in [Priority::Normal, Priority::Low] {
            let mut last = 0;
            for (at, frame) in frames.iter().filter(|(at, _)| *at < long) {
                let other = priority_of(Header::read(frame).unwrap().message_type);
                if other == priority {
                    prop_assert!(at - last <= most, "{priority:?} waited {} bytes", at - last);
                    last = *at;
                }
            }
            prop_assert!(last > 0, "{priority:?} was never written");
        }
    }
}

/// A message of high priority that comes behind much has at most a window and a frame before it.
#[test]
fn the_urgent_overtakes_what_is_not_on_offer() {
    let payload = [0; 1_000];
    let mut pipe = Pipe::new();
    let slow = Frame::new(type_of(Priority::Normal, 0), &payload);
    let frames = vec![slow; 500];
    pipe.send_batch(Priority::Normal, &frames);
    pipe.take();
    pipe.write(100_000);
    let first = pipe.wire.len();
    for round in 0..3 {
        let urgent = Frame::new(type_of(Priority::High, round), b"now");
        pipe.send(Priority::High, &urgent, Way::Copied);
        pipe.take();
        pipe.write(3_000);
    }
    let frames = pipe.finish();
    let urgent = |(_, frame): &&(usize, Vec<u8>)| {
        priority_of(Header::read(frame).unwrap().message_type) == Priority::High
    };
    let places: Vec<usize> = frames.iter().filter(urgent).map(|(at, _)| *at).collect();
    assert_eq!(places.len(), 3);
    assert!(places[0] - first <= 1_008, "only the frame that had begun");
    assert!(places[2] - first <= 6_000 + PRIORITY_WINDOW_BYTES + 1_008);
}

/// Lanes go when nobody waits in them, and an idle outbox holds nothing.
#[test]
fn an_idle_outbox_holds_no_lanes() {
    let mut pipe = Pipe::new();
    for priority in [Priority::Low, Priority::High, Priority::Normal] {
        let frame = Frame::new(type_of(priority, 0), b"x");
        pipe.send(priority, &frame, Way::Copied);
    }
    pipe.take();
    assert!(pipe.outbox.lanes().is_some());
    while pipe.write(5) > 0 {}
    assert!(pipe.outbox.is_empty() && pipe.outbox.lanes().is_none());
    // One message after the other needs no place behind the front.
    let mut pipe = Pipe::new();
    for _ in 0..3 {
        let frame = Frame::new(type_of(Priority::High, 0), b"x");
        pipe.send(Priority::High, &frame, Way::Shared);
        pipe.take();
        while pipe.write(5) > 0 {}
    }
    assert!(pipe.outbox.behind.is_none());
}

fn send(pipe: &mut Pipe, number: u16, payload: &[u8]) {
    let frame = Frame::new(type_of(Priority::Normal, number), payload);
    assert!(pipe.send(Priority::Normal, &frame, Way::Copied));
}

#[test]
fn a_long_batch_becomes_a_segment_of_its_own() {
    let payload = vec![1; 10_000];
    let mut pipe = Pipe::new();
    send(&mut pipe, 1, b"before");
    let frames = [Frame::new(type_of(Priority::Normal, 2), &payload); 9];
    pipe.send_batch(Priority::Normal, &frames);
    send(&mut pipe, 2, b"behind");
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
    send(&mut pipe, 1, b"one");
    send(&mut pipe, 1, b"two");
    pipe.take();
    pipe.write(11);
    pipe.insert_control(b"pong".to_vec());
    pipe.finish();
}

/// Several frames of the protocol went before what was cut for them: all its storage is held.
#[test]
fn what_was_cut_is_counted_behind_frames_of_the_protocol() {
    let payload = vec![1; 10_000];
    let mut pipe = Pipe::new();
    let frames = [Frame::new(type_of(Priority::Normal, 1), &payload); 9];
    pipe.send_batch(Priority::Normal, &frames);
    pipe.take();
    pipe.write(5);
    pipe.insert_control(vec![1]);
    pipe.insert_control(vec![2]);
    assert!(
        pipe.outbox.slack_bytes() < 1_000,
        "nothing of it is gone yet"
    );
    pipe.write(10_003);
    assert_eq!(pipe.outbox.count_segments(), 3);
    assert!(
        pipe.outbox.slack_bytes() >= 10_008,
        "{}",
        pipe.outbox.slack_bytes()
    );
    pipe.finish();
}

/// OK and PONG that wait for the end of the same frame go out as they were caused.
#[test]
fn control_frames_keep_their_order() {
    let mut pipe = Pipe::new();
    pipe.insert_control(b"first".to_vec());
    pipe.insert_control(b"second".to_vec());
    send(&mut pipe, 1, b"one");
    pipe.take();
    pipe.write(3);
    pipe.insert_control(b"third".to_vec());
    pipe.finish();
}
