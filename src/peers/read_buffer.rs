//! Space for one read.

use crate::{
    block::{BlockPool, VectoredBuffers},
    limits::BLOCK_SIZE,
};

/// The beginning of a frame up to this size is copied in front of the next read; a longer one is
/// read on to where it lies. So a byte is copied a bounded number of times however the peer cuts
/// its frames.
pub(super) const CARRY_COPIED_MAX: usize = 4096;

/// A read of so many bytes is as good as one that fills a block.
pub(super) const BULK_BYTES: usize = BLOCK_SIZE - CARRY_COPIED_MAX;

/// Space to read into, and back.
#[derive(Debug)]
pub(crate) struct ReadBuffer {
    pub(crate) bytes: Vec<u8>,
    /// Several blocks to read into, in place of `bytes`.
    pub(super) vectored: Option<VectoredBuffers>,
    /// Where the bytes begin that are meant; those before are of nobody.
    pub(super) start: usize,
    /// Bytes that were there before the read.
    pub(super) carried: usize,
    /// Bytes to read at most.
    pub(crate) limit: usize,
    pub(super) kind: BufferKind,
}

impl ReadBuffer {
    pub(super) fn new(bytes: Vec<u8>, carried: usize, limit: usize, kind: BufferKind) -> Self {
        Self {
            bytes,
            vectored: None,
            start: 0,
            carried,
            limit,
            kind,
        }
    }

    /// How many bytes may be read into it.
    pub(super) fn room(&self) -> usize {
        match self.kind {
            BufferKind::Vectored => self.limit,
            BufferKind::Block | BufferKind::Carry | BufferKind::Discard => {
                self.limit.min(self.bytes.capacity() - self.carried)
            }
        }
    }

    /// Whether a read of so many bytes is as good as one that fills a block.
    pub(super) fn is_filled_by(&self, count: usize) -> bool {
        let is_of_blocks = matches!(self.kind, BufferKind::Block | BufferKind::Vectored);
        is_of_blocks && self.carried + count >= BULK_BYTES
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BufferKind {
    /// A block of the pool, with the carried bytes copied in front.
    Block,
    /// Several of them, to be parsed one by one.
    Vectored,
    /// The storage of the unfinished frame itself.
    Carry,
    /// What is read is thrown away.
    Discard,
}

/// A block to read into, with the beginning of a frame copied in front.
pub(super) fn block_space(pool: &mut BlockPool, carry: &[u8], limit: usize) -> ReadBuffer {
    let mut bytes = pool.take_buffer();
    bytes.extend_from_slice(carry);
    ReadBuffer::new(bytes, carry.len(), limit, BufferKind::Block)
}
