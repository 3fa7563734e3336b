//! The walk over a block's frames.

use std::hint::black_box;

use super::{BlockRef, MessageRef};
use crate::{
    frame::{Frame, WholeFrames},
    id::MessageType,
};

/// Walks the frames in a part of a block.
#[derive(Clone, Debug)]
pub(crate) struct BlockFrames<'a> {
    block: &'a BlockRef,
    /// All of the block's.
    bytes: &'a [u8],
    frames: WholeFrames<'a>,
}

impl<'a> BlockFrames<'a> {
    /// Frames between two frame boundaries.
    pub(crate) fn new(block: &'a BlockRef, start: usize, end: usize) -> Self {
        let bytes = block.bytes();
        Self {
            block,
            bytes,
            frames: WholeFrames::new(bytes.get(start..end).unwrap_or_default()),
        }
    }

    /// Goes on with the frame that begins at an offset of the block.
    #[inline]
    pub(crate) fn seek(&mut self, offset: usize) {
        self.frames = WholeFrames::new(self.bytes.get(offset..).unwrap_or_default());
    }

    /// Has the beginning of a later frame brought near, if those before it are as long as the next.
    /// The walk looks again when it is there; nothing waits for this look.
    #[inline]
    pub(crate) fn fetch_ahead(&self, frames: usize) {
        if let Some(byte) = self.frames.ahead(frames) {
            black_box(byte);
        }
    }

    /// The next message of a block whose frames are all so long and of this type; see
    /// [`BlockHead::frame_size`]. Has the beginning of a later one brought near.
    #[inline]
    pub(crate) fn next_alike(
        &mut self,
        size: usize,
        frames_ahead: usize,
    ) -> Option<MessageRef<'a>> {
        if let Some(byte) = self.frames.byte_at(frames_ahead * size) {
            black_box(byte);
        }
        let payload = self.frames.next_alike(size)?;
        let frame = Frame::new(
            self.block.head().message_type.unwrap_or(MessageType(0)),
            payload,
        );
        Some(MessageRef::new(self.block, frame))
    }

    /// Has the beginning of a frame brought near, likewise.
    #[inline]
    pub(crate) fn fetch(&self, offset: usize) {
        if let Some(byte) = self.bytes.get(offset) {
            black_box(*byte);
        }
    }

    /// Bytes that are not walked yet.
    pub(crate) fn rest_size(&self) -> usize {
        self.frames.rest_size()
    }
}

impl<'a> Iterator for BlockFrames<'a> {
    type Item = MessageRef<'a>;

    #[inline]
    fn next(&mut self) -> Option<MessageRef<'a>> {
        self.frames
            .next()
            .map(|frame| MessageRef::new(self.block, frame))
    }
}
