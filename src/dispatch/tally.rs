//! How many messages of which types a block holds.
//!
//! Whoever walks a mixed block adds each message here, which is one look and two additions, and
//! asks the table and counts in the ledger once for each type that it found.

use crate::{id::MessageType, ledger::Traffic, limits::TYPE_COUNTERS_MAX};

/// Messages of a block by type. Empty between two blocks; kept for its memory, at most 32 bytes
/// for each frame that a block can hold.
#[derive(Debug)]
pub(super) struct Tally {
    /// By the type's row in the ledger.
    sums: Box<[Traffic]>,
    /// Rows that are not zero, with their types.
    found: Vec<(u16, MessageType)>,
    /// Messages whose types share a row, one by one.
    sharing: Vec<(u16, MessageType, Traffic)>,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            sums: vec![Traffic::default(); TYPE_COUNTERS_MAX].into(),
            found: Vec::new(),
            sharing: Vec::new(),
        }
    }
}

impl Tally {
    /// Adds one message.
    #[inline]
    pub(super) fn add(&mut self, row: u16, message_type: MessageType, traffic: Traffic) {
        let Some(sum) = self.sums.get_mut(usize::from(row)) else {
            self.sharing.push((row, message_type, traffic));
            return;
        };
        if sum.messages == 0 {
            self.found.push((row, message_type));
        }
        sum.add(traffic);
    }

    /// Takes everything out: rows, their types, and what was added up. A type that shares a row
    /// comes once for each message.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = (u16, MessageType, Traffic)> + '_ {
        let Self {
            sums,
            found,
            sharing,
        } = self;
        let sums = found.drain(..).map(|(row, message_type)| {
            let sum = std::mem::take(&mut sums[usize::from(row)]);
            (row, message_type, sum)
        });
        sums.chain(sharing.drain(..))
    }
}
