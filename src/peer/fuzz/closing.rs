//! How the machine is closed: by the application, by a stop, and at the end of its life.

use super::Machine;
use crate::{clock::Tick, error::CloseReason, limits::LINGER_MS, peer::State};

impl Machine {
    pub(super) fn ask_close(&mut self, reason: CloseReason) {
        if matches!(self.peer.state(), State::Connecting { .. }) {
            self.gone = true;
        } else {
            self.begin_close(reason, 300);
        }
    }

    pub(super) fn begin_close(&mut self, reason: CloseReason, drain_ms: u64) {
        if self.peer.is_closing() {
            return;
        }
        self.bye_was_first |= self.peer.ending.bye_received.is_some();
        self.peer
            .begin_drain(self.now, &self.rules, reason, drain_ms);
        self.after_output();
    }

    pub(super) fn stop(&mut self, ms: Tick) {
        self.rules.drain_ms = ms;
        match self.peer.state() {
            State::Open | State::HalfClosed { .. } => {
                let reason = CloseReason::Shutdown;
                self.peer
                    .begin_stop(self.now, &self.rules, reason, ms, true);
                self.check_drained();
            }
            State::Refused { reason, .. } => self.begin_close(reason, LINGER_MS),
            State::Connecting { .. }
            | State::Greeting { .. }
            | State::Stopping { .. }
            | State::Draining { .. }
            | State::Lingering { .. } => {}
        }
    }

    /// Whatever happened, a close ends once everything is taken or time is over.
    pub(super) fn close_and_end(&mut self) {
        if !self.gone {
            self.ask_close(CloseReason::AppClosed);
        }
        for _ in 0..10 {
            while !self.gone && self.peer.has_output() {
                self.write(usize::MAX);
            }
            if self.gone {
                return;
            }
            assert!(self.fin_sent, "what is written is followed by a FIN");
            let deadline = self.peer.next_deadline(&self.rules, self.lag);
            let deadline = deadline.expect("a closing connection has a deadline");
            self.now = self.now.max(deadline);
            self.judge();
        }
        panic!("{:?} does not end", self.peer.state());
    }
}
