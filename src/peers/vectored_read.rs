//! Reads into several blocks at once.
//!
//! While a peer sends more than the loop takes, each read makes the kernel acknowledge what it
//! took, and send on, within the read, what the other end could not send before. One read into
//! several blocks (`readv`, a vectored read) has that done once. The read leaves headroom in each
//! block for the beginning of a frame that ended the one before, so that only this is copied; a
//! frame that has begun with more than fits there is put together in storage of its own. That is a
//! copy of it, and costs less than reading long frames one by one does; only above 1 MiB it is done
//! no more.
//!
//! What was read is parsed block by block. Where somebody behind the loop has no room, the rest
//! waits here, and nobody is read meanwhile.
//!
//! A short one of these reads does not end the turn: what came while it was copied is read too. The
//! kernel sizes the socket's buffer by what is copied out of it in a round trip, less what waits in
//! it. Over loopback the sender fills it again within the read, and a peer that is read once in a
//! turn stays at its first 64 KiB.

use std::{io::IoSliceMut, mem};

use super::{
    connection::Connection,
    read_buffer::{BufferKind, CARRY_COPIED_MAX, ReadBuffer},
};
use crate::{
    block::{BlockPool, VectoredBuffers},
    budget::Budget,
    id::PeerId,
    limits::{BLOCK_SIZE, VECTORED_BLOCKS},
    peer::Rules,
};

/// Where in each block the read begins.
const HEADROOM: usize = CARRY_COPIED_MAX;

/// Bytes that are read into each of them.
const PIECE_SIZE: usize = BLOCK_SIZE - HEADROOM;

/// Bytes that a vectored read may bring where `limit` may be read, and blocks of so much storage
/// be charged: those of some whole blocks, or zero if they would be less than two.
pub(super) fn vectored_limit(limit: usize, charge_max: usize) -> usize {
    let blocks = (limit / PIECE_SIZE).min(charge_max / BLOCK_SIZE);
    let blocks = blocks.min(VECTORED_BLOCKS);
    if blocks < 2 { 0 } else { blocks * PIECE_SIZE }
}

/// What a vectored read brought and nobody has parsed yet.
#[derive(Debug)]
pub(super) struct VectoredRead {
    pub(super) peer: PeerId,
    pub(super) buffers: VectoredBuffers,
    /// The buffer to parse next, and where in it.
    index: usize,
    at: usize,
    /// Bytes in all.
    pub(super) left: usize,
}

impl VectoredRead {
    pub(super) fn new(peer: PeerId, buffers: VectoredBuffers, size: usize) -> Self {
        Self {
            peer,
            buffers,
            index: 0,
            at: HEADROOM,
            left: size,
        }
    }

    /// Counts all of it as input that no subscriber gets.
    pub(super) fn discard(&mut self, connection: &mut Connection, rules: &Rules) {
        connection.peer.discard_carry(rules);
        while self.left > 0 {
            let (index, at, size) = (self.index, self.at, self.chunk_size());
            let bytes = &self.buffers[index][at..at + size];
            connection.peer.discard(rules, bytes);
            self.pass(size);
        }
    }

    /// What to parse next, as if it had been read by itself. All of its room is what came.
    pub(super) fn take_next(
        &mut self,
        connection: &mut Connection,
        pool: &mut BlockPool,
        budget: &Budget,
    ) -> ReadBuffer {
        let carried = connection.peer.carry.len();
        if carried <= HEADROOM {
            return self.take_behind(&connection.peer.carry);
        }
        let frame_size = connection.peer.carried_frame_size().unwrap_or(0);
        let frame_left = frame_size.saturating_sub(carried);
        let size = self.chunk_size().min(frame_left.max(1));
        connection.grow_carry(size, pool, budget.read_max());
        let mut bytes = mem::take(&mut connection.peer.carry);
        self.copy_to(&mut bytes, size);
        ReadBuffer::new(bytes, carried, size, BufferKind::Carry)
    }

    /// Bytes that are left in the buffer to parse next.
    fn chunk_size(&self) -> usize {
        self.left.min(BLOCK_SIZE - self.at)
    }

    /// All of these, behind what is left of the frame before, in the block that they were read to.
    fn take_behind(&mut self, carry: &[u8]) -> ReadBuffer {
        let size = self.chunk_size();
        let start = self.at - carry.len();
        let mut bytes = mem::take(&mut self.buffers[self.index]);
        bytes[start..self.at].copy_from_slice(carry);
        self.pass(size);
        ReadBuffer {
            start,
            ..ReadBuffer::new(bytes, carry.len(), size, BufferKind::Block)
        }
    }

    /// Copies bytes to the end of a frame that is put together.
    fn copy_to(&mut self, carry: &mut Vec<u8>, size: usize) {
        let bytes = &self.buffers[self.index][self.at..self.at + size];
        carry.extend_from_slice(bytes);
        self.pass(size);
    }

    fn pass(&mut self, size: usize) {
        self.left -= size;
        self.at += size;
        if self.at == BLOCK_SIZE {
            self.index += 1;
            self.at = HEADROOM;
        }
    }
}

impl ReadBuffer {
    /// What to read into, if it is several blocks, and how many of them.
    #[inline]
    pub(crate) fn slices(&mut self) -> Option<([IoSliceMut<'_>; VECTORED_BLOCKS], usize)> {
        let buffers = self.vectored.as_mut()?.each_mut();
        let slices = buffers.map(|buffer| IoSliceMut::new(&mut buffer[HEADROOM..]));
        Some((slices, self.limit / PIECE_SIZE))
    }

    /// Reads the beginning of `bytes`, as a socket would; returns how many.
    #[cfg(test)]
    pub(crate) fn fill(&mut self, bytes: &[u8]) -> usize {
        let size = self.room().min(bytes.len());
        match self.slices() {
            Some((mut slices, count)) => {
                crate::tests::fill(&bytes[..size], &mut slices[..count]);
            }
            None => self.bytes.extend_from_slice(&bytes[..size]),
        }
        size
    }
}
