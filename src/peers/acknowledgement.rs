//! Which connections their systems are to be asked about: whether what was written is acknowledged.
//!
//! Invariants:
//! - `unsure` are asked about a few in each turn, and each at most once for each time it was listed
//! - once a system does not tell, none is asked any more: `untold` is never false again

use std::collections::VecDeque;

use crate::id::PeerId;

/// What is asked of the system, and where the walk is that makes connections dormant.
#[derive(Debug, Default)]
pub(super) struct Acknowledgement {
    /// The system does not tell what a peer's system has acknowledged.
    pub(super) untold: bool,
    /// Connections that may become dormant once their systems have acknowledged everything.
    pub(super) unsure: VecDeque<PeerId>,
    /// The place at which to look next for a connection that may become dormant.
    pub(super) dormancy_cursor: usize,
}
