//! What reads go through: the pool of blocks, and what a read brought that is not handed on yet.
//!
//! Invariants:
//! - while `vectored` holds bytes, no other connection is read
//! - `in_hand` is what the ledger counts as received and the event loop does not have yet

use super::{connection::Connection, read_buffer::ReadBuffer, vectored_read::VectoredRead};
use crate::{
    block::BlockPool,
    budget::Budget,
    id::PeerId,
    ledger::{Ledger, Traffic},
    peer::Rules,
};

/// Storage for reads, and reads that are not parsed yet.
#[derive(Debug)]
pub(crate) struct Input {
    pub(super) pool: BlockPool,
    pub(super) vectored: Option<VectoredRead>,
    pub(super) in_hand: Traffic,
}

impl Input {
    pub(super) fn new(pool: BlockPool) -> Self {
        Self {
            pool,
            vectored: None,
            in_hand: Traffic::default(),
        }
    }

    /// Whether large reads are far ahead of those that take what they brought.
    pub(crate) fn is_ahead(&self) -> bool {
        self.pool.is_cold()
    }

    /// The event loop has what the last read brought.
    #[inline]
    pub(crate) fn note_handed_over(&mut self) {
        self.in_hand = Traffic::default();
    }

    /// A panic has lost what the event loop did not have yet.
    pub(crate) fn note_lost(&mut self, ledger: &Ledger) {
        let lost = std::mem::take(&mut self.in_hand);
        ledger.undelivered.add(lost);
    }

    /// The peer of which a vectored read brought bytes that are not parsed yet. That is to be done
    /// before anything else is read.
    pub(crate) fn has_pieces_of(&self) -> Option<PeerId> {
        self.vectored.as_ref().map(|vectored| vectored.peer)
    }

    /// Counts what a vectored read brought of a connection that ends, and that is not parsed yet.
    pub(super) fn discard_pieces(&mut self, connection: &mut Connection, rules: &Rules) {
        let is_of_it = |vectored: &mut VectoredRead| vectored.peer == connection.id();
        if let Some(mut vectored) = self.vectored.take_if(is_of_it) {
            vectored.discard(connection, rules);
            self.pool.put_vectored(vectored.buffers);
        }
    }

    /// What to parse next of a vectored read; `None` if the connection is gone.
    pub(super) fn take_piece(
        &mut self,
        connection: Option<&mut Connection>,
        budget: &Budget,
    ) -> Option<ReadBuffer> {
        let mut vectored = self.vectored.take()?;
        let buffer =
            connection.map(|connection| vectored.take_next(connection, &mut self.pool, budget));
        if buffer.is_some() && vectored.left > 0 {
            self.vectored = Some(vectored);
        } else {
            self.pool.put_vectored(vectored.buffers);
        }
        buffer
    }
}
