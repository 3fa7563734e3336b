//! What reads go through: the pool of blocks, and what a read brought that is not handed on yet.
//!
//! Invariants:
//! - while `vectored` holds bytes, no other connection is read
//! - `in_hand` is what the ledger counts as received and the event loop does not have yet

use super::vectored_read::VectoredRead;
use crate::{
    block::BlockPool,
    ledger::{Ledger, Traffic},
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
}
