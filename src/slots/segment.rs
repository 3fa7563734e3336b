//! Runs of outgoing bytes, and how they are cut between frames.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::{
    clock::Tick,
    frame::{Frame, Header, encode_whole},
    id::MessageType,
    ledger::Traffic,
    limits::{BLOCK_SIZE, BUDGET_LEASE_BYTES, FRAME_OVERHEAD_MAX, PAYLOAD_COPIED_MAX},
};

/// A frame up to this size is rather copied than given a segment of its own.
pub(super) const FRAME_COPIED_MAX: usize = PAYLOAD_COPIED_MAX + FRAME_OVERHEAD_MAX;
/// Segments behind each other of which none is joined with the next, however short they are.
const SEGMENTS_APART: usize = 16;
/// Storage that a segment may keep for nothing, besides a sixteenth of it.
pub(super) const SLACK_MAX: usize = 64;

/// A run of outgoing bytes. Frames may continue from one segment into the next, but a header
/// always lies in one segment as a whole.
#[derive(Debug, Default)]
pub(crate) struct Segment {
    pub(crate) data: SegmentData,
    /// Frames that end in this segment.
    pub(crate) messages: u32,
    /// The type of all bytes, if they share one.
    pub(crate) message_type: Option<MessageType>,
    pub(super) mixed: bool,
    /// Bytes by which the last frame continues behind this segment.
    pub(crate) spill: u32,
    /// The type of that frame.
    pub(crate) spill_type: MessageType,
    /// Whether it is a frame of the protocol.
    pub(crate) is_control: bool,
    /// When the loop saw it first, see [`stamp_of`]; zero before that.
    stamp: u32,
    /// Bytes cut off in front, whose storage goes when this goes.
    cut: u32,
}

#[derive(Debug)]
pub(crate) enum SegmentData {
    /// Encoded here.
    Encoded(Vec<u8>),
    /// A payload as the sender gave it, a frame that many peers share, or a part of a segment that
    /// was cut.
    Shared(Bytes),
}

impl Default for SegmentData {
    fn default() -> Self {
        Self::Encoded(Vec::new())
    }
}

impl SegmentData {
    pub(crate) fn as_slice(&self) -> &[u8] {
        match self {
            Self::Encoded(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }

    /// Gives the first `size` bytes away, without a copy.
    fn split_to(&mut self, size: usize) -> Self {
        if let Self::Encoded(bytes) = self {
            *self = Self::Shared(std::mem::take(bytes).into());
        }
        match self {
            Self::Shared(bytes) => Self::Shared(bytes.split_to(size)),
            Self::Encoded(_) => unreachable!("it is shared by now"),
        }
    }
}

impl Segment {
    /// A frame of the protocol.
    pub(crate) fn control(frame: Vec<u8>) -> Self {
        Self {
            data: SegmentData::Encoded(frame),
            mixed: true,
            is_control: true,
            ..Self::default()
        }
    }

    /// A payload as its sender gave it; where its frame ends is for the caller to say.
    pub(super) fn payload(bytes: Bytes) -> Self {
        Self {
            data: SegmentData::Shared(bytes),
            ..Self::default()
        }
    }

    /// A whole frame that others hold as well.
    pub(super) fn shared(frame: Bytes, message_type: MessageType) -> Self {
        Self {
            data: SegmentData::Shared(frame),
            messages: 1,
            message_type: Some(message_type),
            ..Self::default()
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.data.as_slice().len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.data.as_slice().is_empty()
    }

    /// Cuts the segment between two frames and gives what is in front, in which `messages` frames
    /// end.
    fn split_to(&mut self, size: usize, messages: u32) -> Self {
        // Of what is shared nobody can tell any more what was taken ahead.
        self.trim();
        let front = Self {
            data: self.data.split_to(size),
            messages,
            message_type: self.message_type,
            mixed: self.mixed,
            stamp: self.stamp,
            cut: self.cut,
            ..Self::default()
        };
        let cut = u32::try_from(size).unwrap_or(u32::MAX);
        self.cut = self.cut.saturating_add(cut);
        self.messages = self.messages.saturating_sub(messages);
        front
    }

    /// As [`split_to`](Self::split_to) behind a frame that began in front of the segment, whose
    /// type may be another than the segment's: headers tell.
    pub(crate) fn split_behind(&mut self, size: usize, messages: u32) -> Self {
        self.message_type = None;
        self.mixed = true;
        self.split_to(size, messages)
    }

    /// Appends a frame, if this is an encoded segment of the application's with room for it.
    pub(crate) fn try_append(&mut self, frame: &Frame<'_>) -> bool {
        let room = BLOCK_SIZE.saturating_sub(frame.encoded_size());
        match &mut self.data {
            // A new segment takes a frame of any size.
            SegmentData::Encoded(bytes)
                if !self.is_control
                    && self.spill == 0
                    && (bytes.is_empty() || bytes.len() <= room) =>
            {
                grow(bytes, frame.encoded_size());
                encode_whole(frame, bytes);
                self.note(frame.message_type);
                true
            }
            SegmentData::Encoded(_) | SegmentData::Shared(_) => false,
        }
    }

    /// Storage that is held for this segment, and in which nothing of it is.
    pub(crate) fn slack_bytes(&self) -> usize {
        self.cut as usize + self.slack()
    }

    fn slack(&self) -> usize {
        match &self.data {
            SegmentData::Encoded(bytes) => bytes.capacity() - bytes.len(),
            SegmentData::Shared(_) => 0,
        }
    }

    /// Gives storage back that was taken ahead. To be called when nothing more is appended.
    #[inline]
    pub(super) fn trim(&mut self) {
        if let SegmentData::Encoded(bytes) = &mut self.data {
            if bytes.capacity() - bytes.len() > SLACK_MAX + bytes.len() / 16 {
                shrink(bytes);
            }
        }
    }

    /// Copies a short segment behind this one, if whole frames meet there and a block has room.
    fn join(&mut self, next: &Self) -> bool {
        let whole = self.spill == 0 && next.spill == 0;
        let size = self.len() + next.len();
        let fits = next.len() <= FRAME_COPIED_MAX && size <= BLOCK_SIZE;
        if !(whole && fits) || self.is_control || next.is_control {
            return false;
        }
        if let SegmentData::Shared(bytes) = &self.data {
            if bytes.len() > FRAME_COPIED_MAX {
                return false;
            }
            let mut copy = Vec::with_capacity(size);
            copy.extend_from_slice(bytes);
            self.data = SegmentData::Encoded(copy);
            self.cut = 0;
        }
        if let SegmentData::Encoded(bytes) = &mut self.data {
            grow(bytes, next.len());
            bytes.extend_from_slice(next.data.as_slice());
        }
        if self.message_type != next.message_type {
            self.message_type = None;
            self.mixed = true;
        }
        self.messages += next.messages;
        true
    }

    /// Counts a frame that ends here.
    pub(super) fn note(&mut self, message_type: MessageType) {
        match self.message_type {
            None if !self.mixed => self.message_type = Some(message_type),
            Some(other) if other == message_type => {}
            Some(_) | None => {
                self.message_type = None;
                self.mixed = true;
            }
        }
        self.messages += 1;
    }

    /// Keeps the time at which it was seen first. True if that was now.
    pub(crate) fn stamp(&mut self, now: Tick) -> bool {
        let is_new = self.stamp == 0;
        if is_new {
            self.stamp = stamp_of(now);
        }
        is_new
    }

    /// Milliseconds since the loop saw it first.
    pub(crate) fn age(&self, now: Tick) -> u32 {
        stamp_of(now).saturating_sub(self.stamp)
    }
}

#[cold]
fn shrink(bytes: &mut Vec<u8>) {
    bytes.shrink_to_fit();
}

/// Makes room for so many bytes more: twice of what there was, or 16 KiB more than that, but within
/// a block if they fit there. Returns whether that was more than what was asked for.
pub(super) fn grow(bytes: &mut Vec<u8>, more: usize) -> bool {
    let needed = bytes.len() + more;
    if needed <= bytes.capacity() {
        return false;
    }
    let ahead = bytes.capacity().min(BUDGET_LEASE_BYTES);
    let target = (bytes.capacity() + ahead).min(BLOCK_SIZE);
    bytes.reserve_exact(needed.max(target) - bytes.len());
    target > needed
}

/// Puts a segment behind others. Where they have become many, a short one is copied: a segment
/// costs more than its bytes.
pub(crate) fn push_behind(segments: &mut VecDeque<Segment>, segment: Segment) {
    let are_many = segments.len() >= SEGMENTS_APART;
    if let Some(last) = segments.back_mut() {
        if are_many && last.join(&segment) {
            return;
        }
        last.trim();
    }
    segments.push_back(segment);
}

/// Storage that is held for segments behind each other, beside what is in them. With
/// `behind_control` a frame of the protocol goes before them.
pub(crate) fn slack_bytes(segments: &VecDeque<Segment>, behind_control: bool) -> usize {
    // Frames of the protocol may have put one back that took bytes ahead, or was cut for them.
    let put_back = segments
        .iter()
        .position(|segment| !(behind_control && segment.is_control));
    let front = put_back.map_or(0, |place| {
        let (front, is_back) = (&segments[place], place + 1 == segments.len());
        front.cut as usize + if is_back { 0 } else { front.slack() }
    });
    let back = segments.back().map_or(0, Segment::slack);
    segments.capacity() * size_of::<Segment>() + front + back
}

/// A tick in half the space, and never zero: ages of 49 days and more are told as less.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the lower half is what is wanted"
)]
fn stamp_of(now: Tick) -> u32 {
    (now as u32).max(1)
}

/// Segments one behind the other, from the beginning of a frame to the end of one.
#[derive(Debug, Default)]
pub(crate) struct Run {
    segments: VecDeque<Segment>,
}

impl Run {
    pub(crate) fn push(&mut self, segment: Segment) {
        push_behind(&mut self.segments, segment);
    }

    /// Storage that is held beside what is in it.
    pub(crate) fn slack_bytes(&self) -> usize {
        slack_bytes(&self.segments, false)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Bytes of all segments.
    pub(crate) fn size(&self) -> usize {
        self.segments.iter().map(Segment::len).sum()
    }

    pub(crate) fn front(&self) -> Option<&Segment> {
        self.segments.front()
    }

    pub(crate) fn back_mut(&mut self) -> Option<&mut Segment> {
        self.segments.back_mut()
    }

    pub(crate) fn segments(&self) -> impl ExactSizeIterator<Item = &Segment> {
        self.segments.iter()
    }

    pub(crate) fn into_segments(self) -> VecDeque<Segment> {
        self.segments
    }

    /// Whether the last frame continues behind the last segment.
    pub(super) fn is_open(&self) -> bool {
        self.segments.back().is_some_and(|last| last.spill > 0)
    }

    /// Stamps what came since it was done last.
    pub(super) fn stamp(&mut self, now: Tick) {
        for segment in self.segments.iter_mut().rev() {
            if !segment.stamp(now) {
                return;
            }
        }
    }

    /// Takes whole frames from the front: the first, and those behind it that fit into `most` with
    /// it. Returns what they are; messages only if all segments know how many they end.
    pub(crate) fn take_frames(&mut self, most: Traffic, mut out: impl FnMut(Segment)) -> Traffic {
        let mut taken = Traffic::default();
        // Bytes of the last frame taken that lie in segments to come.
        let mut left = 0;
        while let Some(front) = self.segments.front_mut() {
            let part = FramesOf::new(front, left, most, &mut taken);
            left = part.left;
            if part.size == front.len() {
                out(self.segments.pop_front().unwrap_or_default());
                continue;
            }
            if part.size > 0 {
                out(front.split_to(part.size, part.messages));
            }
            break;
        }
        debug_assert!(left == 0 || !self.is_empty(), "a run ends with a frame");
        taken
    }
}

const _: () = assert!(FRAME_COPIED_MAX < BLOCK_SIZE);

#[cfg(test)]
impl Run {
    /// Bytes that are allocated for it.
    pub(crate) fn storage(&self) -> usize {
        let segments: usize = self.segments().map(Segment::storage).sum();
        segments + self.segments.capacity() * size_of::<Segment>()
    }
}

impl From<VecDeque<Segment>> for Run {
    fn from(segments: VecDeque<Segment>) -> Self {
        Self { segments }
    }
}

/// The beginning of a segment that is to be taken.
struct FramesOf {
    /// Its bytes, and the frames that end there.
    size: usize,
    messages: u32,
    /// Bytes of its last frame that lie in segments to come.
    left: usize,
}

impl FramesOf {
    /// Finds what fits; `left` bytes at the front belong to a frame that is taken already. What
    /// begins here is added to `taken`.
    fn new(segment: &Segment, left: usize, most: Traffic, taken: &mut Traffic) -> Self {
        let len = segment.len();
        if left > len {
            return Self::whole(segment, left - len);
        }
        let fits = |sum: &Traffic, bytes: usize, messages: u64| {
            sum.messages + messages <= most.messages && sum.bytes + bytes as u64 <= most.bytes
        };
        // All of it, without a look at headers.
        let begins = u64::from(segment.messages) + u64::from(segment.spill > 0);
        let begins = begins.saturating_sub(u64::from(left > 0));
        let bytes = len - left + segment.spill as usize;
        if fits(taken, bytes, begins) {
            taken.add(Traffic::new(begins, bytes as u64));
            return Self::whole(segment, segment.spill as usize);
        }
        let (mut at, mut messages) = (left, u32::from(left > 0));
        while at < len {
            let header = Header::read(&segment.data.as_slice()[at..])
                .expect("a header lies in one segment as a whole");
            let size = header.frame_size();
            if taken.bytes > 0 && !fits(taken, size, 1) {
                let left = 0;
                return Self {
                    size: at,
                    messages,
                    left,
                };
            }
            taken.add(Traffic::new(1, size as u64));
            at += size;
            messages += 1;
        }
        Self::whole(segment, at - len)
    }

    fn whole(segment: &Segment, left: usize) -> Self {
        Self {
            size: segment.len(),
            messages: segment.messages,
            left,
        }
    }
}
