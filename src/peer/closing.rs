//! The way of a connection to its end, and the input that is discarded on it.
//!
//! Each step is asked for from outside: half-closed or stopping until it is
//! [drained](Peer::judge_drained), draining until BYE and FIN are out, lingering until the other
//! side has ended too. [`State`] has the diagram.

use super::{
    machine::Peer,
    rules::Rules,
    state::{Bye, State},
};
use crate::{
    clock::Tick,
    error::CloseReason,
    frame,
    ledger::Traffic,
    limits::{AUTH_DELAY_MS, CONFIRM_LOOK_MS, HALF_CLOSE_GRACE_MS, LINGER_MS},
};

impl Peer {
    /// The peer sends nothing more.
    pub(super) fn handle_end(&mut self, now: Tick, reason: CloseReason) {
        self.times.frame_since = None;
        self.times.first_frame_since = None;
        self.set_state(
            now,
            State::HalfClosed {
                reason,
                drained_since: None,
                deadline: None,
            },
        );
    }

    /// Bounds how long what is queued for a peer that said BYE may take.
    pub(crate) fn limit_half_closed(&mut self, now: Tick, drain_ms: u64) {
        if let State::HalfClosed {
            reason,
            drained_since,
            deadline: None,
        } = self.state
        {
            let deadline = Some(now.saturating_add(drain_ms));
            self.set_state(
                now,
                State::HalfClosed {
                    reason,
                    drained_since,
                    deadline,
                },
            );
        }
    }

    /// The peer's token is wrong: it is not read any more, and learns of it a little later.
    pub(crate) fn begin_refusal(&mut self, now: Tick, rules: &Rules, reason: CloseReason) {
        self.discard_carry(rules);
        self.times.frame_since = None;
        self.times.first_frame_since = None;
        // `now` was rounded down, and who guesses is not to be answered early.
        let deadline = now.saturating_add(AUTH_DELAY_MS + 1);
        self.set_state(now, State::Refused { reason, deadline });
    }

    /// Begins to close as soon as what was read until now is released, after half of the time given
    /// at the latest. What had half-closed the connection stays the reason. What still comes is
    /// taken in if it `reads_on`, and else discarded.
    pub(crate) fn begin_stop(
        &mut self,
        now: Tick,
        rules: &Rules,
        reason: CloseReason,
        drain_ms: u64,
        reads_on: bool,
    ) {
        let reason = match self.state {
            State::HalfClosed { reason, .. } => reason,
            State::Connecting { .. }
            | State::Greeting { .. }
            | State::Open
            | State::Refused { .. }
            | State::Stopping { .. }
            | State::Draining { .. }
            | State::Lingering { .. } => reason,
        };
        self.times.frame_since = None;
        self.times.first_frame_since = None;
        self.ending.reads_on = reads_on && !self.ending.eof && self.ending.bye_received.is_none();
        if !self.ending.reads_on {
            self.discard_carry(rules);
        }
        self.set_state(
            now,
            State::Stopping {
                reason,
                mark: self.counts.read,
                answers: None,
                bye_due: now.saturating_add(drain_ms / 2),
                deadline: now.saturating_add(drain_ms),
            },
        );
    }

    /// What is still to be released before a stop goes on.
    pub(crate) fn unreleased_mark(&self, released: Traffic) -> Option<Traffic> {
        match self.state {
            State::Stopping { mark, .. } => {
                let is_missing = released.bytes < mark.bytes || released.messages < mark.messages;
                is_missing.then_some(mark)
            }
            State::Connecting { .. }
            | State::Greeting { .. }
            | State::Open
            | State::Refused { .. }
            | State::HalfClosed { .. }
            | State::Draining { .. }
            | State::Lingering { .. } => None,
        }
    }

    /// What was read and not yet released by all.
    pub(crate) fn in_flight(&self, released: Traffic) -> Traffic {
        debug_assert!(
            released.bytes <= self.counts.read.bytes
                && released.messages <= self.counts.read.messages
        );
        Traffic::new(
            self.counts.read.messages.saturating_sub(released.messages),
            self.counts.read.bytes.saturating_sub(released.bytes),
        )
    }

    /// Whether it is drained: nothing is in flight and nothing waits; called when that may have
    /// changed. `None`: not yet; `Some` is the reason to drain for, now that it is.
    pub(crate) fn judge_drained(
        &mut self,
        now: Tick,
        released: Traffic,
        queued: Traffic,
    ) -> Option<CloseReason> {
        match self.state {
            State::HalfClosed {
                reason,
                drained_since,
                deadline,
            } => {
                let in_flight = self.in_flight(released).bytes > 0;
                let queued = queued.messages > 0 || self.has_output();
                let drained_since = (!in_flight && !queued).then_some(drained_since.unwrap_or(now));
                self.set_state(
                    now,
                    State::HalfClosed {
                        reason,
                        drained_since,
                        deadline,
                    },
                );
                drained_since
                    .filter(|since| now - since >= self.grace_ms())
                    .map(|_| reason)
            }
            State::Stopping {
                reason,
                mark,
                answers,
                bye_due,
                deadline,
            } => {
                if self.unreleased_mark(released).is_some() {
                    return None;
                }
                let written = self.counts.outbound.messages;
                let answers = answers.unwrap_or(written + queued.messages);
                self.set_state(
                    now,
                    State::Stopping {
                        reason,
                        mark,
                        answers: Some(answers),
                        bye_due,
                        deadline,
                    },
                );
                (written >= answers || queued.messages == 0).then_some(reason)
            }
            State::Connecting { .. }
            | State::Greeting { .. }
            | State::Open
            | State::Refused { .. }
            | State::Draining { .. }
            | State::Lingering { .. } => None,
        }
    }

    /// How long a half-closed connection waits for late answers. There are none for a peer that
    /// said BYE and never asked.
    pub(super) fn grace_ms(&self) -> u64 {
        let may_be_answered =
            self.ending.bye_received.is_none() || self.counts.inbound.messages > 0;
        if may_be_answered {
            HALF_CLOSE_GRACE_MS
        } else {
            0
        }
    }

    /// Begins an orderly close: what is queued goes out, then BYE and FIN. Input goes on to be
    /// taken in if it was meant to be in spite of the close, and is discarded otherwise.
    pub(crate) fn begin_drain(
        &mut self,
        now: Tick,
        rules: &Rules,
        reason: CloseReason,
        drain_ms: u64,
    ) {
        let says = reason.wire_code().is_some() && self.ending.bye_received.is_none();
        let bye = if says { Bye::Due } else { Bye::Never };
        self.pong = None;
        self.times.frame_since = None;
        self.times.first_frame_since = None;
        if !self.ending.reads_on {
            self.discard_carry(rules);
        }
        let deadline = now.saturating_add(drain_ms);
        self.set_state(
            now,
            State::Draining {
                reason,
                deadline,
                bye,
            },
        );
    }

    /// Begins to close without what is queued: the peer reads no more. The frame that has begun is
    /// finished, so that what it got are whole frames, and FIN follows.
    pub(crate) fn begin_abandon(&mut self, now: Tick, rules: &Rules, reason: CloseReason) {
        debug_assert!(
            self.ending.bye_received.is_some(),
            "it said that it reads no more"
        );
        self.ending.abandoned = true;
        self.begin_drain(now, rules, reason, LINGER_MS);
    }

    /// To be called when the outbox is empty: queues the BYE that is due. True when there is
    /// nothing left to write and the FIN is due.
    pub(crate) fn finish_drain(&mut self, now: Tick, text: &str) -> bool {
        let State::Draining {
            reason,
            deadline,
            bye,
        } = self.state
        else {
            return false;
        };
        match bye {
            Bye::Due => {
                if let Some(frame) = frame::bye_frame(reason, text, self.greeting.checksums) {
                    self.outbox.insert_control(frame);
                }
                self.set_state(
                    now,
                    State::Draining {
                        reason,
                        deadline,
                        bye: Bye::Queued,
                    },
                );
                false
            }
            Bye::Never | Bye::Queued => true,
        }
    }

    /// The FIN is out. True if the peer's was there before, so that nothing is left to wait for.
    pub(crate) fn begin_linger(&mut self, now: Tick) -> bool {
        let State::Draining {
            reason, deadline, ..
        } = self.state
        else {
            unreachable!(
                "a FIN is sent at the end of draining, not in {:?}",
                self.state
            );
        };
        let briefly = now.saturating_add(LINGER_MS);
        // A peer that is not at fault has the rest of the drain time to end its side, and its
        // system to take what was written. The FIN behind a BYE is read only after ours.
        let is_not_at_fault =
            reason.reads_on() || reason == CloseReason::PeerBye || self.ending.eof;
        let deadline = if is_not_at_fault {
            deadline.max(briefly)
        } else {
            briefly
        };
        let look_at = None;
        self.set_state(
            now,
            State::Lingering {
                reason,
                deadline,
                look_at,
            },
        );
        self.ending.eof
    }

    /// Both FINs are there, and the peer's system may not have everything. False if that is not to
    /// be waited for any longer.
    pub(crate) fn await_confirmation(&mut self, now: Tick) -> bool {
        match self.state {
            State::Lingering {
                reason, deadline, ..
            } if self.ending.eof && now < deadline => {
                let look_at = Some(now.saturating_add(CONFIRM_LOOK_MS));
                self.set_state(
                    now,
                    State::Lingering {
                        reason,
                        deadline,
                        look_at,
                    },
                );
                true
            }
            State::Connecting { .. }
            | State::Greeting { .. }
            | State::Open
            | State::Refused { .. }
            | State::HalfClosed { .. }
            | State::Stopping { .. }
            | State::Draining { .. }
            | State::Lingering { .. } => false,
        }
    }

    /// Nothing that still comes is wanted.
    pub(crate) fn end_reading_on(&mut self, rules: &Rules) {
        self.ending.reads_on = false;
        self.discard_carry(rules);
    }

    /// Counts bytes that came and that no subscriber gets.
    pub(crate) fn discard(&mut self, rules: &Rules, bytes: &[u8]) {
        if !bytes.is_empty() {
            let discarded = self.ending.discarded.get_or_insert_default();
            discarded.add(bytes, rules.decoder.length_max());
        }
    }

    /// Counts the beginning of a frame that was to be kept.
    pub(crate) fn discard_carry(&mut self, rules: &Rules) {
        self.greeting.before_ok = None;
        let carry = std::mem::take(&mut self.carry);
        self.discard(rules, &carry);
    }

    /// Counts bytes that came and were not looked at.
    pub(crate) fn discard_unseen(&mut self, bytes: u64) {
        if bytes > 0 {
            self.ending
                .discarded
                .get_or_insert_default()
                .add_unseen(bytes);
        }
    }

    /// What comes from now on cannot be parsed.
    pub(crate) fn lose_framing(&mut self) {
        self.ending.discarded.get_or_insert_default().lose_framing();
    }

    /// Input that came while we closed and that no subscriber got.
    pub(crate) fn discarded(&self) -> Traffic {
        let discarded = self.ending.discarded.as_ref();
        discarded.map_or_else(Traffic::default, |discarded| discarded.sum())
    }
}
