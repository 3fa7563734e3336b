//! Encoded frames on their way to the loop: what senders append, and the loop takes as it is.

use bytes::Bytes;

use crate::{
    frame::{Frame, encode_around, encode_whole},
    id::MessageType,
    limits::{BLOCK_SIZE, FRAME_OVERHEAD_MAX, PAYLOAD_COPIED_MAX},
};

/// Encoded frames that the loop has not taken yet.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    sealed: Vec<Segment>,
    open: Segment,
}

/// A run of outgoing bytes. Frames may continue from one segment into the next, but a header
/// always lies in one segment as a whole.
#[derive(Debug, Default)]
pub(crate) struct Segment {
    pub(crate) data: SegmentData,
    /// Frames that end in this segment.
    pub(crate) messages: u32,
    /// The type of all bytes, if they share one.
    pub(crate) message_type: Option<MessageType>,
    mixed: bool,
    /// Bytes by which the last frame continues behind this segment.
    pub(crate) spill: usize,
    /// The type of that frame.
    pub(crate) spill_type: MessageType,
    /// Whether it is a frame of the protocol.
    pub(crate) is_control: bool,
}

#[derive(Debug)]
pub(crate) enum SegmentData {
    /// Encoded here.
    Encoded(Vec<u8>),
    /// A payload as the sender gave it.
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

    /// The second half of a segment: how many frames end in it is not known, so headers tell.
    pub(crate) fn second_half(data: SegmentData, spill: usize, spill_type: MessageType) -> Self {
        Self {
            data,
            mixed: true,
            spill,
            spill_type,
            ..Self::default()
        }
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
                encode_whole(frame, bytes);
                self.note(frame.message_type);
                true
            }
            SegmentData::Encoded(_) | SegmentData::Shared(_) => false,
        }
    }

    /// Counts a frame that ends here.
    fn note(&mut self, message_type: MessageType) {
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

    /// The bytes of the open segment, which is always an encoded one.
    fn buffer(&mut self) -> &mut Vec<u8> {
        match &mut self.data {
            SegmentData::Encoded(bytes) => bytes,
            SegmentData::Shared(_) => unreachable!("a shared payload is sealed when it is pushed"),
        }
    }
}

impl Tail {
    /// Appends a frame; `owned` is its payload if it may be queued without a copy.
    pub(super) fn push(&mut self, frame: &Frame<'_>, owned: Option<Bytes>) {
        match owned {
            Some(payload) if payload.len() > PAYLOAD_COPIED_MAX => {
                let trailer = encode_around(frame, self.open.buffer());
                self.open.spill = payload.len() + trailer.map_or(0, |trailer| trailer.len());
                self.open.spill_type = frame.message_type;
                // The head's bytes are of another type than the frames before it, unless it is not.
                if self.open.message_type != Some(frame.message_type) {
                    self.open.message_type = None;
                }
                self.seal();
                let mut body = Segment {
                    data: SegmentData::Shared(payload),
                    ..Segment::default()
                };
                if let Some(trailer) = trailer {
                    (body.spill, body.spill_type) = (trailer.len(), frame.message_type);
                    self.sealed.push(body);
                    self.open.buffer().extend_from_slice(&trailer);
                    self.open.note(frame.message_type);
                } else {
                    body.note(frame.message_type);
                    self.sealed.push(body);
                }
            }
            Some(_) | None => {
                encode_whole(frame, self.open.buffer());
                self.open.note(frame.message_type);
                self.seal_if_long();
            }
        }
    }

    /// Long buffers are sealed, so that appending never moves more than one block.
    fn seal_if_long(&mut self) {
        if self.open.data.as_slice().len() >= BLOCK_SIZE {
            self.seal();
        }
    }

    fn seal(&mut self) {
        self.sealed.push(std::mem::take(&mut self.open));
    }

    /// Moves all segments to `out`.
    pub(super) fn take(&mut self, out: &mut impl Extend<Segment>) {
        // Taken as it is: a peer that is idle again holds no memory for what it once had.
        out.extend(std::mem::take(&mut self.sealed));
        if !self.open.data.as_slice().is_empty() {
            out.extend([std::mem::take(&mut self.open)]);
        }
    }

    /// Moves the frames of a batch here. A long batch becomes a segment of its own, without a copy.
    pub(super) fn append(&mut self, batch: &mut OutFrames) {
        if batch.bytes.len() >= BLOCK_SIZE / 2 {
            if !self.open.data.as_slice().is_empty() {
                self.seal();
            }
            let bytes = std::mem::take(&mut batch.bytes);
            self.open.data = SegmentData::Encoded(bytes);
        } else {
            self.open.buffer().extend_from_slice(&batch.bytes);
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
    pub(crate) payload_size_max: usize,
    pub(crate) message_type: Option<MessageType>,
    pub(crate) mixed: bool,
}

impl OutFrames {
    pub(crate) fn push(&mut self, frame: &Frame<'_>) {
        encode_whole(frame, &mut self.bytes);
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

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.messages = 0;
        self.payload_size_max = 0;
        self.message_type = None;
        self.mixed = false;
    }
}

const _: () = assert!(PAYLOAD_COPIED_MAX + FRAME_OVERHEAD_MAX < BLOCK_SIZE);
