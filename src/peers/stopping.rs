//! The stop of a loop, and its end.

use super::deadlines::Timer;
use super::{connection::Connection, state::Peers, stop::Stop};
use crate::{clock::Tick, error::CloseReason, id::PeerId, peer::State};

impl Peers {
    /// Closes every peer in order once what was read until now is released and its answers are
    /// written. Reading goes on until the peer's own end, or the deadline.
    pub(crate) fn begin_stop(&mut self, now: Tick, deadline: Tick) {
        self.common.ended.stop = Some(self.start_stop());
        self.common
            .deadlines
            .wheel
            .insert(deadline, Timer::StopDeadline);
        let drain_ms = deadline.saturating_sub(now);
        self.common.rules.drain_ms = drain_ms;
        self.end_links(now);
        for id in self.all() {
            self.on(now, id, |common, connection| {
                common.begin_finish(now, connection, CloseReason::Shutdown, drain_ms);
            });
        }
    }

    /// How far all connections are.
    fn start_stop(&self) -> Stop {
        let mut stop = Stop::default();
        for (id, connection) in self.connections.ids() {
            let held = |connection: &Connection| {
                let released = self.common.slots.released(id);
                connection.peer.in_flight(released).messages
            };
            let written = self.connections.tally(id).outbound;
            stop.note_before(id, written, connection.map_or(0, held));
        }
        stop
    }

    /// Cuts off all connections that are left.
    pub(crate) fn abort_all(&mut self, now: Tick, reason: CloseReason) {
        self.drop_links();
        for id in self.all() {
            self.on(now, id, |common, connection| {
                common.leave(connection, reason, true);
            });
        }
    }

    /// The time of the stop is over: all connections that are left are closed. What is written is
    /// out of our hands; only what is not written yet is cut off.
    pub(crate) fn end_stop(&mut self, now: Tick) {
        self.drop_links();
        for id in self.all() {
            self.on(now, id, |common, connection| {
                let (reason, abort) = match connection.peer.state() {
                    State::Lingering { reason, .. } => (reason, false),
                    State::Connecting { .. }
                    | State::Greeting { .. }
                    | State::Open
                    | State::Refused { .. }
                    | State::HalfClosed { .. }
                    | State::Stopping { .. }
                    | State::Draining { .. } => (CloseReason::Shutdown, true),
                };
                common.leave(connection, reason, abort);
            });
        }
    }

    fn all(&self) -> Vec<PeerId> {
        self.connections.ids().map(|(id, _)| id).collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.connections.ids().next().is_none()
    }
}
