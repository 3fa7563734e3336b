//! What is kept of connections that have ended, and said of them.
//!
//! Invariants:
//! - `gone` is the sum over all connections that were counted and have ended, so that `gone` and
//!   the live ones add up to the ledger
//! - `closed` holds the last `CLOSED_ROWS_MAX` of them, the newest last
//! - while a stop is under way, it knows of each connection that ends

use std::{collections::VecDeque, net::SocketAddr};

use super::{losses::LossLog, stop::Stop};
use crate::{
    balance::PeerSums,
    clock::Tick,
    error::CloseReason,
    ledger::{ClosedRow, Ledger, Traffic},
    limits::CLOSED_ROWS_MAX,
    log_limiter::{LogLimiter, Subject, Suppressed},
    peer::Peer,
};

/// Connections that have ended.
#[derive(Debug, Default)]
pub(crate) struct Ended {
    closed: VecDeque<ClosedRow>,
    /// Sums over all of them.
    pub(super) gone: PeerSums,
    pub(super) losses: LossLog,
    /// A stop under way.
    pub(super) stop: Option<Stop>,
    pub(super) log_limiter: LogLimiter,
}

impl Ended {
    /// Counts what a connection did in all, and what was lost with it.
    pub(super) fn count(&mut self, peer: &Peer, lost: Traffic, ledger: &Ledger) {
        ledger.unanswered.add(peer.counts.unanswered);
        ledger.discarded_after_close.add(peer.discarded());
        self.gone.inbound.add(peer.counts.inbound);
        self.gone.written.add(peer.counts.outbound);
        self.gone.lost.add(lost);
        self.gone.accepted.add(peer.counts.sums.accepted);
        self.gone.accepted.add(peer.counts.answered);
    }

    /// Keeps the row of a connection, of whose messages `held` are still somewhere.
    pub(super) fn keep_row(&mut self, row: ClosedRow, held: u64, abort: bool, ledger: &Ledger) {
        count_closed(ledger, row.reason);
        let has_loss = row.has_loss();
        ledger.closed_with_loss.add(u64::from(has_loss));
        log::debug!(
            "peer {} at {} closed: {}, {} messages lost",
            row.peer,
            row.addr,
            row.reason,
            row.lost.messages
        );
        if let Some(stop) = &mut self.stop {
            stop.note_closed(&row, held, abort);
        }
        if self.closed.len() == CLOSED_ROWS_MAX {
            self.closed.pop_front();
        }
        self.closed.push_back(row);
    }

    /// Whether to say what a connection from this address is to blame for.
    pub(super) fn limit_log(
        &mut self,
        now: Tick,
        cause: &'static str,
        addr: SocketAddr,
    ) -> Option<Suppressed> {
        self.log_limiter
            .allow(now, cause, Subject::Address(addr.ip()))
    }

    /// What the stop did so far, if there is one.
    pub(crate) fn take_stop(&mut self) -> Option<Stop> {
        self.losses.finish_window();
        self.stop.take()
    }

    pub(crate) fn rows(&self) -> Vec<ClosedRow> {
        self.closed.iter().cloned().collect()
    }

    /// The same, the newest first.
    #[cfg(test)]
    pub(super) fn newest(&self) -> impl Iterator<Item = &ClosedRow> {
        self.closed.iter().rev()
    }
}

pub(super) fn count_closed(ledger: &Ledger, reason: CloseReason) {
    ledger.closed[reason.ordinal()].add(1);
}
