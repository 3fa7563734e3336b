//! Encoded frames on their way to the loop: what senders append, and the loop takes as it is.

use bytes::Bytes;

use super::segment::{FRAME_COPIED_MAX, Run, Segment, SegmentData, grow};
use crate::{
    clock::Tick,
    frame::{Frame, WholeFrames, encode_around, encode_whole},
    id::MessageType,
    ledger::Traffic,
    limits::{BLOCK_SIZE, CHECKSUM_SIZE, FRAME_OVERHEAD_MAX, PAYLOAD_COPIED_MAX},
    policy::Priority,
};

/// Encoded frames of all priorities that the loop has not taken yet.
#[derive(Debug, Default)]
pub(super) struct Tails {
    normal: Tail,
    /// Those of high and of low priority, once there were any.
    others: Option<Box<[Tail; 2]>>,
    /// Storage beside what is in it, as it was [measured](Self::measure) last: what was appended
    /// since has only made it less, unless a tail has grown.
    pub(super) slack: usize,
}

impl Tails {
    /// What waits here of the given priority and below.
    pub(super) fn waiting(&self, highest: Priority) -> Traffic {
        let mut sum = Traffic::default();
        for priority in Priority::ALL {
            if priority <= highest {
                sum.add(
                    self.get(priority)
                        .map(|tail| tail.waiting)
                        .unwrap_or_default(),
                );
            }
        }
        sum
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting(Priority::High).messages == 0
    }

    /// The tail to append to; what will be appended is `traffic`.
    pub(super) fn appending(&mut self, priority: Priority, traffic: Traffic) -> &mut Tail {
        let tail = match priority {
            Priority::Normal => &mut self.normal,
            Priority::High => &mut self.others.get_or_insert_default()[0],
            Priority::Low => &mut self.others.get_or_insert_default()[1],
        };
        tail.waiting.add(traffic);
        tail
    }

    /// Looks how much storage is held for nothing yet.
    pub(super) fn measure(&mut self) {
        let tails = Priority::ALL.into_iter().filter_map(|one| self.get(one));
        self.slack = tails.map(Tail::slack_bytes).sum();
    }

    /// Bytes that may be appended to the tail of a priority before it takes storage. As of the
    /// last [`measure`](Self::measure) they are a part of [`beside`](Self::beside).
    pub(super) fn room(&self, priority: Priority) -> u64 {
        let tail = self.get(priority);
        tail.map_or(0, |tail| tail.open.slack_bytes() as u64)
    }

    /// Gives back what was taken ahead.
    pub(super) fn trim(&mut self) {
        for priority in Priority::ALL {
            if let Some(tail) = self.get_mut(priority).filter(|tail| !tail.open.is_empty()) {
                tail.seal();
            }
        }
        self.measure();
    }

    fn get(&self, priority: Priority) -> Option<&Tail> {
        match priority {
            Priority::Normal => Some(&self.normal),
            Priority::High => self.others.as_ref().map(|tails| &tails[0]),
            Priority::Low => self.others.as_ref().map(|tails| &tails[1]),
        }
    }

    fn get_mut(&mut self, priority: Priority) -> Option<&mut Tail> {
        match priority {
            Priority::Normal => Some(&mut self.normal),
            Priority::High => self.others.as_mut().map(|tails| &mut tails[0]),
            Priority::Low => self.others.as_mut().map(|tails| &mut tails[1]),
        }
    }

    /// Gives everything away.
    pub(super) fn take(&mut self, mut out: impl FnMut(Priority, Segment)) {
        for priority in Priority::ALL {
            if let Some(tail) = self.get_mut(priority) {
                tail.take(|segment| out(priority, segment));
            }
        }
        self.slack = 0;
    }

    /// Gives away of each priority what fits beside the bytes that the loop has of it, and one
    /// frame at least if it has none. Returns whether something is left.
    pub(super) fn take_some(
        &mut self,
        now: Tick,
        window: Traffic,
        messages_ahead: u64,
        bytes_ahead: [usize; Priority::COUNT],
        mut out: impl FnMut(Priority, Segment),
    ) -> bool {
        let mut messages_left = window.messages.saturating_sub(messages_ahead);
        for (priority, ahead) in Priority::ALL.into_iter().zip(bytes_ahead) {
            let room = Traffic::new(messages_left, window.bytes.saturating_sub(ahead as u64));
            let fits = room.messages > 0 && room.bytes > window.bytes / 2;
            let Some(tail) = self.get_mut(priority).filter(|_| fits || ahead == 0) else {
                continue;
            };
            let taken = tail.take_frames(room, |segment| out(priority, segment));
            tail.stamp(now);
            messages_left = messages_left.saturating_sub(taken.messages);
        }
        self.forget_empty();
        self.measure();
        self.waiting(Priority::High).messages > 0
    }

    /// Drops the oldest frame of the lowest priority, but none above `highest`.
    pub(super) fn drop_oldest(&mut self, highest: Priority) -> Option<Traffic> {
        for priority in Priority::ALL.into_iter().rev() {
            if priority > highest {
                break;
            }
            let Some(tail) = self.get_mut(priority) else {
                continue;
            };
            let dropped = tail.take_frames(Traffic::default(), drop);
            if dropped.messages > 0 {
                self.forget_empty();
                self.measure();
                return Some(dropped);
            }
        }
        None
    }

    fn forget_empty(&mut self) {
        if let Some(others) = &self.others {
            if others.iter().all(|tail| tail.waiting.messages == 0) {
                self.others = None;
            }
        }
    }
}

/// Encoded frames of one priority.
#[derive(Debug, Default)]
pub(super) struct Tail {
    sealed: Run,
    /// What the next frame may be appended to.
    open: Segment,
    /// What both hold.
    waiting: Traffic,
    /// Storage was taken ahead since this was last asked.
    has_grown: bool,
}

impl Tail {
    /// Whether more storage is held than what was appended needs.
    pub(super) fn take_grown(&mut self) -> bool {
        self.has_grown && std::mem::take(&mut self.has_grown)
    }

    fn slack_bytes(&self) -> usize {
        self.open.slack_bytes() + self.sealed.slack_bytes()
    }

    /// Appends a frame; `owned` is its payload if it may be queued without a copy.
    pub(super) fn push(&mut self, frame: &Frame<'_>, owned: Option<Bytes>) {
        match owned {
            Some(payload) if payload.len() > PAYLOAD_COPIED_MAX => {
                let trailer = encode_around(frame, self.buffer(FRAME_OVERHEAD_MAX));
                let spill = payload.len() + trailer.map_or(0, |trailer| trailer.len());
                self.open.spill = spill_of(spill);
                self.open.spill_type = frame.message_type;
                // The head's bytes are of another type than the frames before it, unless it is not.
                if self.open.message_type != Some(frame.message_type) {
                    self.open.message_type = None;
                }
                self.seal();
                let mut body = Segment::payload(payload);
                if let Some(trailer) = trailer {
                    body.spill = spill_of(trailer.len());
                    body.spill_type = frame.message_type;
                    self.sealed.push(body);
                    self.buffer(trailer.len()).extend_from_slice(&trailer);
                    self.open.note(frame.message_type);
                } else {
                    body.note(frame.message_type);
                    self.sealed.push(body);
                }
            }
            Some(_) | None => {
                let size = frame.encoded_size();
                match &mut self.open.data {
                    SegmentData::Encoded(bytes) if bytes.capacity() - bytes.len() >= size => {
                        encode_whole(frame, bytes);
                    }
                    SegmentData::Encoded(_) | SegmentData::Shared(_) => {
                        encode_whole(frame, self.buffer(size));
                    }
                }
                self.open.note(frame.message_type);
            }
        }
    }

    /// Appends a whole frame that others hold as well. It is shared if nothing waits, or if it is
    /// long; a short one behind others is copied, because a segment costs more than its bytes.
    pub(super) fn push_shared(&mut self, frame: &Bytes, message_type: MessageType) {
        if self.open.is_empty() {
            self.open = Segment::shared(frame.clone(), message_type);
        } else if frame.len() <= FRAME_COPIED_MAX {
            self.buffer(frame.len()).extend_from_slice(frame);
            self.open.note(message_type);
        } else {
            self.seal();
            self.open = Segment::shared(frame.clone(), message_type);
        }
        self.seal_if_long();
    }

    /// The bytes of the open segment, to append `more` to them. One in whose block they have no
    /// room is sealed. A shared one is copied if it is short, and sealed otherwise.
    #[cold]
    fn buffer(&mut self, more: usize) -> &mut Vec<u8> {
        if self.open.len() + more > BLOCK_SIZE && !self.open.is_empty() {
            self.seal();
        }
        if let SegmentData::Shared(bytes) = &self.open.data {
            if bytes.len() <= FRAME_COPIED_MAX {
                let mut copy = Vec::with_capacity(bytes.len() + more);
                copy.extend_from_slice(bytes);
                self.open.data = SegmentData::Encoded(copy);
            } else {
                self.seal();
            }
        }
        match &mut self.open.data {
            SegmentData::Encoded(bytes) => {
                self.has_grown |= grow(bytes, more);
                bytes
            }
            SegmentData::Shared(_) => unreachable!("it was copied or sealed"),
        }
    }

    /// Long buffers are sealed, so that appending never moves more than one block.
    fn seal_if_long(&mut self) {
        if self.open.len() >= BLOCK_SIZE {
            self.seal();
        }
    }

    fn seal(&mut self) {
        self.open.trim();
        self.sealed.push(std::mem::take(&mut self.open));
        self.has_grown = true;
    }

    /// Gives all segments away.
    fn take(&mut self, mut out: impl FnMut(Segment)) {
        // Taken as it is: a peer that is idle again holds no memory for what it once had.
        let sealed = std::mem::take(&mut self.sealed).into_segments();
        sealed.into_iter().for_each(&mut out);
        if !self.open.is_empty() {
            // Most is written at once: what it took ahead is given back where it has to wait.
            out(std::mem::take(&mut self.open));
        }
        self.waiting = Traffic::default();
    }

    /// Gives away the first frame, and those behind it that fit into `most` with it.
    fn take_frames(&mut self, most: Traffic, out: impl FnMut(Segment)) -> Traffic {
        if !self.open.is_empty() && (self.sealed.is_empty() || self.sealed.is_open()) {
            self.seal();
        }
        let taken = self.sealed.take_frames(most, out);
        self.waiting.sub(taken);
        taken
    }

    fn stamp(&mut self, now: Tick) {
        self.sealed.stamp(now);
        if !self.open.is_empty() {
            self.open.stamp(now);
        }
    }

    /// Moves the frames of a batch here. A long batch becomes a segment of its own, without a copy.
    pub(super) fn append(&mut self, batch: &mut OutFrames) {
        if batch.bytes.len() >= BLOCK_SIZE / 2 {
            if !self.open.is_empty() {
                self.seal();
            }
            let bytes = std::mem::take(&mut batch.bytes);
            self.open.data = SegmentData::Encoded(bytes);
            self.open.trim();
        } else {
            self.buffer(batch.bytes.len())
                .extend_from_slice(&batch.bytes);
        }
        self.open.messages += batch.messages;
        match (self.open.message_type, batch.message_type) {
            (None, Some(message_type)) if self.open.messages == batch.messages => {
                self.open.message_type = Some(message_type);
            }
            (Some(own), Some(other)) if own == other => {}
            _ => {
                self.open.message_type = None;
                self.open.mixed = true;
            }
        }
        self.seal_if_long();
        batch.clear();
    }
}

/// Bytes of a frame behind its segment.
fn spill_of(size: usize) -> u32 {
    u32::try_from(size).expect("a payload is of 256 MiB at the most")
}

/// A message on its way out: a frame, and its payload once more if it is owned.
#[derive(Debug)]
pub(crate) struct OutFrame<'a> {
    pub(crate) frame: Frame<'a>,
    pub(crate) owned: Option<Bytes>,
}

/// Several encoded frames, for one peer.
#[derive(Debug, Default)]
pub(crate) struct OutFrames {
    pub(crate) bytes: Vec<u8>,
    pub(crate) messages: u32,
    /// How many of them answer what the peer sent.
    pub(crate) replies: u32,
    pub(crate) payload_size_max: usize,
    pub(crate) message_type: Option<MessageType>,
    pub(crate) mixed: bool,
    /// A frame has no checksum.
    plain: bool,
}

impl OutFrames {
    pub(crate) fn push(&mut self, frame: &Frame<'_>) {
        encode_whole(frame, &mut self.bytes);
        self.plain |= !frame.checksum;
        match self.message_type {
            None if !self.mixed => self.message_type = Some(frame.message_type),
            Some(other) if other == frame.message_type => {}
            Some(_) | None => {
                self.message_type = None;
                self.mixed = true;
            }
        }
        self.messages += 1;
        self.payload_size_max = self.payload_size_max.max(frame.payload.len());
    }

    /// Encodes anew what has no checksum yet.
    pub(crate) fn add_checksums(&mut self) {
        if !std::mem::take(&mut self.plain) {
            return;
        }
        let more = self.messages as usize * CHECKSUM_SIZE as usize;
        let mut bytes = Vec::with_capacity(self.bytes.len() + more);
        for frame in WholeFrames::new(&self.bytes) {
            let checksum = true;
            encode_whole(&Frame { checksum, ..frame }, &mut bytes);
        }
        self.bytes = bytes;
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.messages = 0;
        self.replies = 0;
        self.payload_size_max = 0;
        self.message_type = None;
        self.mixed = false;
        self.plain = false;
    }
}
