//! The deadlines of a peer: since when it is waited for, until when, and what then.
//!
//! A deadline is late by a tick at most, and never early: a start was rounded down.

use super::{greeting::HelloState, input_times::end_of, machine::Peer, rules::Rules, state::State};
use crate::{clock::Tick, error::CloseReason, frame::Frame, id::MessageType};

/// What a deadline that passed asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// To close in order.
    Close(CloseReason),
    /// To cut off.
    Abort(CloseReason),
    /// To close in order without what is queued: the peer reads no more, or not in time.
    Abandon(CloseReason),
    /// A connection that we make was not made in time.
    GiveUp,
    /// To ask what its system has acknowledged.
    Look,
    /// To ask for a sign of life.
    Ping,
    /// A closing connection has lingered long enough.
    Done,
    /// To look whether it is drained.
    CheckDrained,
}

impl Peer {
    /// The next tick at which [`judge`](Self::judge) may have something to say.
    ///
    /// `lag` is how far the time of receiving is behind: no peer was read meanwhile.
    pub(crate) fn next_deadline(&self, rules: &Rules, lag: Tick) -> Option<Tick> {
        let after = |since: Option<Tick>, limit: u64| {
            since
                .filter(|_| limit > 0)
                .map(|since| end_of(since, limit))
        };
        let stall = self.stall_deadline(rules);
        let receiving = self.times.paused_since.is_none();
        let ends = match self.state {
            State::Open | State::Greeting { .. } if !receiving => [None; 4],
            State::Open => [
                after(self.times.first_frame_since, rules.first_frame_ms),
                after(self.times.frame_since, rules.frame_ms),
                after(Some(self.times.idle_since), rules.idle_ms),
                self.heartbeat(rules).map(|(tick, _)| tick),
            ]
            .map(|deadline| deadline.map(|tick| tick.saturating_add(lag))),
            State::HalfClosed {
                drained_since,
                deadline,
                ..
            } => {
                let grace = drained_since.map(|since| end_of(since, self.grace_ms()));
                [grace, deadline, None, None]
            }
            State::Stopping { bye_due, .. } => [Some(bye_due), None, None, None],
            State::Connecting { deadline }
            | State::Greeting { deadline }
            | State::Refused { deadline, .. }
            | State::Draining { deadline, .. } => [Some(deadline), None, None, None],
            State::Lingering {
                deadline, look_at, ..
            } => [Some(deadline), look_at, None, None],
        };
        ends.into_iter().chain([stall]).flatten().min()
    }

    /// What the deadlines that passed ask for; `lag` as for [`next_deadline`](Self::next_deadline).
    pub(crate) fn judge(&self, now: Tick, rules: &Rules, lag: Tick) -> Option<Verdict> {
        let expired = |since: Option<Tick>, limit: u64, now: Tick| {
            since.is_some_and(|since| limit > 0 && now >= end_of(since, limit))
        };
        let passed = |since, limit| expired(since, limit, now.saturating_sub(lag));
        if self.stall_deadline(rules).is_some_and(|end| now >= end) {
            return Some(
                if self
                    .sent
                    .as_ref()
                    .is_some_and(|sent| sent.is_judged_by_taken())
                {
                    Verdict::Abort(CloseReason::SlowPeer)
                } else {
                    Verdict::Look
                },
            );
        }
        match self.state {
            State::Open if self.times.paused_since.is_some() => None,
            State::Open => {
                if passed(self.times.first_frame_since, rules.first_frame_ms) {
                    Some(Verdict::Close(CloseReason::FirstFrameTimeout))
                } else if passed(self.times.frame_since, rules.frame_ms) {
                    Some(Verdict::Close(CloseReason::FrameTimeout))
                } else if passed(Some(self.times.idle_since), rules.idle_ms) {
                    Some(Verdict::Close(CloseReason::IdleTimeout))
                } else {
                    let (tick, verdict) = self.heartbeat(rules)?;
                    (now.saturating_sub(lag) >= tick).then_some(verdict)
                }
            }
            State::Connecting { deadline } => (now >= deadline).then_some(Verdict::GiveUp),
            State::Greeting { .. } if self.times.paused_since.is_some() => None,
            State::Greeting { deadline } if now >= deadline => {
                Some(Verdict::Close(CloseReason::FirstFrameTimeout))
            }
            State::Greeting { .. } => None,
            State::Refused { reason, deadline } => {
                (now >= deadline).then_some(Verdict::Close(reason))
            }
            State::HalfClosed {
                reason, deadline, ..
            } if deadline.is_some_and(|deadline| now >= deadline) => Some(Verdict::Abandon(reason)),
            State::HalfClosed { .. } => Some(Verdict::CheckDrained),
            State::Stopping {
                reason, bye_due, ..
            } => (now >= bye_due).then_some(Verdict::Close(reason)),
            State::Draining {
                reason, deadline, ..
            } if now >= deadline => Some(Verdict::Abort(reason)),
            State::Draining { .. } => None,
            State::Lingering { deadline, .. } if now >= deadline => Some(Verdict::Done),
            State::Lingering { look_at, .. } => look_at
                .is_some_and(|look_at| now >= look_at)
                .then_some(Verdict::Look),
        }
    }

    fn stall_deadline(&self, rules: &Rules) -> Option<Tick> {
        let sent = self.sent.as_ref().filter(|_| self.may_stall())?;
        sent.next_deadline(rules.write_stall_ms)
    }

    /// When the peer is to be asked for a sign of life, or is dead; and which of the two.
    ///
    /// A peer is dead after the whole time of silence, and not before a PING had its part of that
    /// to be answered in: after a pause of the whole process, the peer is asked first.
    fn heartbeat(&self, rules: &Rules) -> Option<(Tick, Verdict)> {
        if self.greeting.hello != HelloState::Said || rules.heartbeat_ms == 0 {
            return None;
        }
        let last = self
            .times
            .pinged
            .map_or(self.times.heard_since, |(_, last)| last);
        let ping = end_of(last, rules.heartbeat_ms);
        let dead = self.times.pinged.filter(|_| rules.heartbeat_timeout_ms > 0);
        let dead = dead.map(|(first, _)| {
            let answer_ms = rules
                .heartbeat_timeout_ms
                .saturating_sub(rules.heartbeat_ms);
            let silence = end_of(self.times.heard_since, rules.heartbeat_timeout_ms);
            silence.max(end_of(first, answer_ms))
        });
        match dead {
            Some(dead) if dead <= ping => {
                Some((dead, Verdict::Close(CloseReason::HeartbeatTimeout)))
            }
            Some(_) | None => Some((ping, Verdict::Ping)),
        }
    }

    /// Bytes came, which prove life.
    pub(crate) fn handle_heard(&mut self, receiving: Tick) {
        self.times.heard_since = receiving;
        self.times.pinged = None;
    }

    /// Bytes moved, in either direction.
    pub(crate) fn handle_moved(&mut self, now: Tick, receiving: Tick) {
        self.moved = now;
        self.times.idle_since = receiving;
    }

    /// Asks the peer for a sign of life.
    pub(crate) fn ping(&mut self, receiving: Tick) {
        let first = self.times.pinged.map_or(receiving, |(first, _)| first);
        self.times.ping_waits |= self.times.pinged.is_none();
        self.times.pinged = Some((first, receiving));
        // What waits there is as good as a second PING: the peer takes neither.
        if !self.outbox.has_control() {
            self.insert_control(&Frame::new(MessageType::PING, &[]));
        }
    }

    /// The peer took bytes. If its PING waits behind them, it cannot have answered, but is alive.
    pub(crate) fn handle_taken(&mut self, receiving: Tick) {
        if !self.times.ping_waits {
            return;
        }
        self.times.ping_waits = self.outbox.has_control_behind();
        if self.times.ping_waits {
            self.handle_heard(receiving);
        }
    }

    /// Says whether we read, which the deadlines about receiving depend on.
    pub(crate) fn set_reading(&mut self, receiving: Tick, reading: bool) {
        match (reading, self.times.paused_since) {
            (false, None) => self.times.paused_since = Some(receiving),
            (true, Some(since)) => {
                let shift = receiving.saturating_sub(since);
                self.times.paused_since = None;
                self.times.shift(shift);
                if let State::Greeting { deadline } = &mut self.state {
                    *deadline = deadline.saturating_add(shift);
                }
            }
            (true, None) | (false, Some(_)) => {}
        }
    }
}
