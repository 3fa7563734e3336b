//! How many connections there are, and how many may be.
//!
//! Invariants, of the connections in the table:
//! - `counted` = those that stand as accepted or dialled
//! - `dialled` = those that stand as dialling or dialled; each has a place apart from `limits`
//! - the [`Census`] of the service has one place for each that stands as accepted, one pending for
//!   each that is `pending`, and counts the `counted` of all loops

use std::sync::Arc;

use super::census::{Census, PeerLimits};
use super::connection::{Connection, Standing};
use crate::{
    ledger::{ClosedRow, Ledger},
    limits::{LINKS_MAX, REFUSED_PEERS_MAX},
};

/// The connections of a loop, as its limits count them.
#[derive(Debug)]
pub(super) struct Admission {
    pub(super) limits: PeerLimits,
    /// The most peers that `limits` may ever allow.
    pub(super) places: usize,
    /// Those of the service, which its limits are held against.
    pub(super) census: Arc<Census>,
    /// Connections that were not refused, and not those that we are still making.
    pub(super) counted: usize,
    /// Connections that we make or made.
    pub(super) dialled: usize,
}

impl Admission {
    pub(super) fn new(limits: PeerLimits) -> Self {
        Self {
            limits,
            places: limits.peers,
            census: Arc::new(Census::new(limits)),
            counted: 0,
            dialled: 0,
        }
    }

    /// Whether there is no place left, not even to refuse a connection from, where so many are
    /// taken.
    pub(super) fn is_full(&self, taken: usize) -> bool {
        taken - self.dialled >= self.limits.peers + REFUSED_PEERS_MAX
    }

    /// Whether so many connections are made that no other is begun.
    pub(super) fn is_dialling_full(&self) -> bool {
        self.dialled >= LINKS_MAX
    }

    /// A connection was accepted that has a place in the census.
    pub(super) fn count_accepted(&mut self, ledger: &Ledger) {
        self.counted += 1;
        ledger.peers.set(self.counted as u64);
    }

    /// A connection that we make was made.
    pub(super) fn count_dialled(&mut self, ledger: &Ledger) {
        self.counted += 1;
        self.census.add_counted();
        ledger.dialled.add(1);
        ledger.peers.set(self.counted as u64);
    }

    /// A connection owes nothing more.
    pub(super) fn forget_pending(&self, connection: &mut Connection) {
        if std::mem::take(&mut connection.pending) {
            self.census.end_pending();
        }
    }

    /// A connection is gone: it counts no more as what it was.
    pub(super) fn forget(&mut self, standing: Standing, row: &ClosedRow, ledger: &Ledger) {
        match standing {
            Standing::Refused => {
                let refused = &ledger.refused;
                refused.set(refused.get().saturating_sub(1));
            }
            Standing::Accepted => {
                self.counted -= 1;
                self.census.give_place(row.addr);
            }
            Standing::Dialling => self.dialled -= 1,
            Standing::Dialled => {
                self.counted -= 1;
                self.census.remove_counted();
                self.dialled -= 1;
            }
        }
        ledger.peers.set(self.counted as u64);
    }
}
