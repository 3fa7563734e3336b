//! What became of what was written to a peer, as far as its system tells.

use super::{
    stall::{Stall, Told},
    writes::Writes,
};
use crate::{clock::Tick, ledger::Traffic};

/// Made with the first write, and gone when the connection becomes dormant.
#[derive(Debug)]
pub(super) struct Sent {
    /// What may not be acknowledged.
    pub(super) writes: Writes,
    stall: Stall,
    /// What may not have reached the peer when the connection ends. Nothing, unless it was asked.
    pub(super) unconfirmed: Option<Traffic>,
}

impl Default for Sent {
    fn default() -> Self {
        Self {
            writes: Writes::default(),
            stall: Stall::default(),
            unconfirmed: Some(Traffic::default()),
        }
    }
}

impl Sent {
    pub(super) fn handle_blocked(&mut self, now: Tick) {
        self.stall.handle_blocked(now);
    }

    pub(super) fn handle_all_written(&mut self) {
        self.stall.handle_all_written();
    }

    /// Our system took so many bytes, of which `written` are the application's.
    pub(super) fn handle_taken(&mut self, now: Tick, bytes: usize, written: Traffic) {
        self.writes.note(bytes, written);
        self.stall.handle_taken(now, bytes);
    }

    pub(super) fn handle_asked(&mut self, now: Tick) {
        self.stall.handle_asked(now);
    }

    /// As [`Stall::handle_told`].
    pub(super) fn handle_told(&mut self, now: Tick, told: Option<Told>, limit_ms: u64) -> bool {
        if let Some(told) = told {
            self.writes.forget_acknowledged(told.unacknowledged);
        }
        self.stall.handle_told(now, told, limit_ms)
    }

    /// The system does not tell what is acknowledged.
    pub(super) fn handle_untold(&mut self, now: Tick) {
        self.writes.forget_all();
        self.stall.handle_untold(now);
    }

    pub(super) fn next_deadline(&self, limit_ms: u64) -> Option<Tick> {
        self.stall.next_deadline(limit_ms)
    }

    pub(super) fn is_judged_by_taken(&self) -> bool {
        self.stall.is_judged_by_taken()
    }

    /// Whether the outbox waits for the socket.
    pub(super) fn is_blocked(&self) -> bool {
        self.stall.is_blocked()
    }
}
