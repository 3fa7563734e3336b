//! The time of a loop: its timers, and how far the time of receiving is behind.
//!
//! Invariants:
//! - the one timer of a connection is never later than the earliest deadline of its peer, but for
//!   those that `unmoved` says are still to be moved
//! - `now - lag(now)`, the time of receiving, never runs back, and stands still while no peer is
//!   read

use super::connection::Connection;
use crate::{
    clock::Tick,
    id::{LinkId, PeerId},
    peer::{Rules, State},
    timers::UserTimer,
    wheel::Wheel,
};

/// How often a peer that is not drained is looked at, after its deadline said so.
pub(super) const DRAINED_CHECK_MS: u64 = 25;

/// What the wheel tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timer {
    /// A deadline of a peer may have passed.
    Peer(PeerId),
    /// A link may connect again.
    Link(LinkId),
    /// To look whether the budget is still used up.
    Budget,
    /// Requests may have waited long enough whose connection has ended.
    Notices,
    /// The event loop's: the metrics tick, and an accept that failed.
    Metrics,
    Accept(usize),
    /// A stop has waited long enough.
    StopDeadline,
    /// The embedder's.
    User(UserTimer),
}

impl From<UserTimer> for Timer {
    fn from(timer: UserTimer) -> Self {
        Self::User(timer)
    }
}

/// The timers of a loop, and the time that its deadlines about receiving go by.
#[derive(Debug)]
pub(crate) struct Deadlines {
    pub(crate) wheel: Wheel<Timer>,
    /// How long no peer was read, in all, and since when none is.
    lag: Tick,
    stalled_since: Option<Tick>,
    /// Where the walk goes on that moves timers to new rules, see `reconfigure`.
    pub(super) unmoved: Option<usize>,
}

impl Deadlines {
    pub(super) fn new(now: Tick) -> Self {
        Self {
            wheel: Wheel::new(now),
            lag: 0,
            stalled_since: None,
            unmoved: None,
        }
    }

    /// The time of receiving: it stands still while no peer is read.
    pub(super) fn receiving(&self, now: Tick) -> Tick {
        now.saturating_sub(self.lag(now))
    }

    /// How far the time of receiving is behind.
    pub(super) fn lag(&self, now: Tick) -> Tick {
        self.lag
            + self
                .stalled_since
                .map_or(0, |since| now.saturating_sub(since))
    }

    /// Whether no peer is read, because what waits for the dispatcher has no room.
    pub(super) fn is_stalled(&self) -> bool {
        self.stalled_since.is_some()
    }

    /// No peer is read from now on, or all are again. Returns whether that is new.
    pub(super) fn set_stalled(&mut self, now: Tick, stalled: bool) -> bool {
        match (stalled, self.stalled_since) {
            (true, None) => self.stalled_since = Some(now),
            (false, Some(since)) => {
                self.lag += now.saturating_sub(since);
                self.stalled_since = None;
            }
            (true, Some(_)) | (false, None) => return false,
        }
        true
    }

    /// Makes sure that the peer's timer is not later than its next deadline. An earlier one stays:
    /// it is cheaper to look once in vain than to move the timer with every byte.
    ///
    /// What a deadline that passed asks for may have to wait. It is looked at again a little later,
    /// because a timer that is due would keep the loop busy.
    pub(super) fn arm(&mut self, now: Tick, connection: &mut Connection, rules: &Rules) {
        let deadline = connection.own_deadline(rules, self.lag(now));
        let request = connection.request_deadline_from(now);
        let deadline = deadline.map(|deadline| match connection.peer.state() {
            State::HalfClosed { .. } | State::Stopping { .. } if deadline <= now => {
                now + DRAINED_CHECK_MS
            }
            State::HalfClosed { .. } | State::Stopping { .. } => deadline,
            State::Connecting { .. }
            | State::Greeting { .. }
            | State::Open
            | State::Refused { .. }
            | State::Draining { .. }
            | State::Lingering { .. } => deadline.max(now + 1),
        });
        let Some(deadline) = deadline.into_iter().chain(request).min() else {
            return;
        };
        if let Some(timer) = connection.timer {
            if self
                .wheel
                .deadline_at(timer)
                .is_some_and(|armed| armed <= deadline)
            {
                return;
            }
            self.wheel.cancel_at(timer);
        }
        self.arm_at(deadline, connection);
    }

    /// Gives a connection that has no timer one at a time that is known to be right.
    pub(super) fn arm_at(&mut self, deadline: Tick, connection: &mut Connection) {
        let timer = self.wheel.insert(deadline, Timer::Peer(connection.id()));
        connection.timer = Some(timer.place());
    }
}
