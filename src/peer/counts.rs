//! What a connection has counted.

use crate::{ledger::Traffic, slots::Sums};

/// The sums of one connection. They only grow.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    /// Everything read, for the credit: messages delivered, bytes of any kind.
    pub(crate) read: Traffic,
    /// Application messages delivered and written.
    pub(crate) inbound: Traffic,
    pub(crate) outbound: Traffic,
    /// The sums of its slot, as far as they were seen, and what handlers answered, which never went
    /// through it.
    pub(crate) sums: Sums,
    pub(crate) answered: Traffic,
    /// Replies of inline handlers that were refused because our BYE was due.
    pub(crate) unanswered: u64,
}
