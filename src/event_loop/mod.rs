//! The loop: joins clock, network, peers and dispatcher.
//!
//! A turn takes what the network has to say, then reads, then accepts, then lets timers fire, then
//! writes. Each of these has an allowance, and what it leaves over is remembered, so no peer and no
//! kind of work can keep the others waiting. The loop waits in `poll` and nowhere else.
//!
//! Reads come before timers, so that after a pause of the whole process the bytes that arrived
//! meanwhile are seen before anybody is judged for their absence. Writes come last, because reads
//! and timers cause them.
//!
//! This file has the turn. The others, each of which imports from earlier ones only: `sink`, where
//! blocks and events go; `state`, what the loop has; `stopping`; `hand_over`; `commands`;
//! `actions`, what the peers want done with their sockets; `acceptor`; `writing`; `reading`.
mod acceptor;
mod actions;
mod commands;
mod hand_over;
mod reading;
mod sink;
mod state;
mod stopping;
mod writing;

use std::{
    fmt, io,
    panic::{AssertUnwindSafe, catch_unwind},
    time::Duration,
};

pub(crate) use sink::Sink;
pub(crate) use state::EventLoop;
use state::{Accepting, Phase};
pub(crate) use stopping::LoopEnd;

#[cfg(test)]
use crate::{block::BlockRef, peers::Peers};
use crate::{
    clock::{Clock, Now, Tick},
    dispatch::{Item, panic_message},
    idle::Idle,
    limits::{EVENTS_PER_POLL, METRICS_TICK_MS, TIMERS_LATE_MS, TIMERS_PER_TURN},
    peers::Timer,
    slots::Slots,
    socket::{Event, Net},
};

impl<N: Net> EventLoop<N> {
    /// Runs until a stop is done or something fails.
    pub(crate) fn run(mut self, clock: Clock) -> LoopEnd {
        Slots::set_loop_thread();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.run_turns(clock))) {
            let message = panic_message(&*panic);
            self.failure = Some(message.clone());
            self.peers.common.input.note_lost(&self.slots.ledger);
            // As far as the defect lets it, every connection is closed and counted, and what was
            // parsed is delivered.
            let closed = catch_unwind(AssertUnwindSafe(|| self.fail(clock.now(), message)));
            if closed.is_err() {
                return LoopEnd {
                    failure: self.failure,
                    ..LoopEnd::default()
                };
            }
        }
        self.end(clock.now())
    }

    fn run_turns(&mut self, clock: Clock) {
        while self.phase != Phase::Ended {
            if let Err(error) = self.poll(clock.now()) {
                self.fail(clock.now(), format!("poll failed: {error}"));
            }
            self.turn(clock.now());
        }
    }

    /// Waits for events, or until the next timer.
    pub(crate) fn poll(&mut self, now: Now) -> io::Result<()> {
        let mut timeout = self.timeout(now.tick);
        if timeout != Some(Duration::ZERO) {
            self.wake_receivers();
        }
        let polls = timeout != Some(Duration::ZERO) && self.idle.polls(now.instant);
        if polls {
            timeout = Some(Duration::ZERO);
        }
        if timeout != Some(Duration::ZERO) {
            self.slots.doorbell.prepare_sleep();
            // A thread that looked before this and saw us awake has put its work where we look now.
            if self.has_commands() {
                timeout = Some(Duration::ZERO);
            }
        }
        self.stop_is_due = self.is_to_stop();
        let result = self.net.poll(&mut self.events, timeout);
        self.slots.doorbell.awake();
        self.more_events = result?;
        if polls && self.events.is_empty() && !self.has_commands() {
            Idle::yield_now();
        }
        Ok(())
    }

    /// Does what there is to do, within the budgets of a turn.
    pub(crate) fn turn(&mut self, now: Now) {
        self.pending_wakes.begin_turn();
        if self.signals.failure.get().is_some() {
            self.fail(now, "another thread failed".to_owned());
        }
        self.handle_events();
        self.handle_commands(now);
        if self.stop_is_due && self.is_to_stop() {
            self.begin_stop(now);
        }
        if self.has_walks() {
            self.continue_rows(now);
            self.continue_cut(now);
        }
        self.timers
            .handle_changes(&mut self.peers.common.deadlines.wheel);
        self.push_waiting(now);
        self.look_around(now);
        self.peers.begin_turn(now.tick);
        self.run_actions(now);
        self.read_peers(now);
        self.accept_all(now);
        // With events left behind, some bytes that arrived in time are not read yet. The kernel
        // gives events in turn, so after as many polls as all connections need, each had one.
        self.timers_waited += 1;
        let waits = if self.more_events {
            self.timers_waited * EVENTS_PER_POLL <= self.streams.len()
        } else {
            self.timers_waited == 1 && self.is_late(now.tick)
        };
        if !waits {
            self.timers_waited = 0;
            self.fire_timers(now);
        }
        self.write_peers(now);
        self.run_actions(now);
        if self.pending_wakes.is_due(now.tick) {
            self.wake_receivers();
        }
        if self.moved > 0 {
            self.idle
                .handle_work(now.instant, std::mem::take(&mut self.moved));
        }
        if self.may_end() {
            self.phase = Phase::Ended;
        }
    }

    /// Whether timers are so late that the loop, or all of the process, stood still. That may have
    /// been after the poll, so the network is asked once more before anybody is judged.
    fn is_late(&self, now: Tick) -> bool {
        let next = self.peers.common.deadlines.wheel.next_expiry();
        next.is_some_and(|next| next.saturating_add(TIMERS_LATE_MS) < now)
    }

    fn timeout(&self, now: Tick) -> Option<Duration> {
        let accepts =
            !self.peers.common.told.has_events() && self.listeners.contains(&Accepting::Ready);
        let busy = self.peers.has_work() || accepts || self.more_events || self.has_walks();
        if busy || self.phase == Phase::Ended {
            return Some(Duration::ZERO);
        }
        let next = self.peers.common.deadlines.wheel.next_expiry()?;
        Some(Duration::from_millis(next.saturating_sub(now)))
    }

    fn has_commands(&self) -> bool {
        self.slots.has_dirty()
            || self.slots.has_deferred()
            || self.peers.has_budget_again()
            || self.peers.has_news()
            || !self.commands.is_empty()
            || self.timers.has_changes()
            || (matches!(self.sink, Sink::Inline { .. }) && self.poke.is_set())
            || self.signals.failure.get().is_some()
            || self.is_to_stop()
            || (self.waits_for_dispatch() && self.has_room_for_next())
            || self.may_end()
    }

    fn handle_events(&mut self) {
        for event in self.events.drain(..) {
            match event {
                Event::Listener(index) => {
                    if let Some(listener @ Accepting::Idle) = self.listeners.get_mut(index) {
                        *listener = Accepting::Ready;
                    }
                }
                Event::Peer(peer, ready) => self.peers.handle_ready(peer, ready),
            }
        }
    }

    fn fire_timers(&mut self, now: Now) {
        let mut allowance = TIMERS_PER_TURN;
        while let Some(timer) = self.peers.poll_timer(now.tick, &mut allowance) {
            match timer {
                Timer::Metrics => self.handle_metrics_tick(now.tick),
                Timer::User(timer) => {
                    let fired =
                        self.timers
                            .fire(now.tick, timer, &mut self.peers.common.deadlines.wheel);
                    if let Some(fired) = fired {
                        self.peers.common.told.push(Item::Timer(fired));
                    }
                }
                Timer::Accept(index) => {
                    if let Some(listener @ Accepting::Paused) = self.listeners.get_mut(index) {
                        *listener = Accepting::Ready;
                    }
                }
                Timer::StopDeadline => {
                    self.drain_is_over = true;
                    self.peers.end_stop(now.tick);
                    self.run_actions(now);
                    self.push_last();
                }
                Timer::Peer(_) | Timer::Link(_) | Timer::Budget | Timer::Notices => {}
            }
        }
    }

    fn handle_metrics_tick(&mut self, now: Tick) {
        self.note_queue();
        let max = std::mem::take(&mut self.queue_max);
        self.slots.ledger.dispatch_max.set(max);
        self.peers.handle_metrics_tick(now);
        self.poke.poke_tick();
        // Ticks that a pause of the process has swallowed are not made up for.
        self.metrics_next = (self.metrics_next + METRICS_TICK_MS).max(now + 1);
        self.peers
            .common
            .deadlines
            .wheel
            .insert(self.metrics_next, Timer::Metrics);
    }

    /// Does the dispatcher's looking around, where the loop is the dispatcher.
    fn look_around(&mut self, now: Now) {
        if let Sink::Inline {
            fan_out, on_tick, ..
        } = &mut self.sink
        {
            if self.poke.take() {
                fan_out.pump();
                if self.poke.take_tick() {
                    fan_out.trim();
                    // Caught here, where the connections can still be closed and counted.
                    if let Err(panic) = catch_unwind(AssertUnwindSafe(on_tick)) {
                        self.fail(now, panic_message(&*panic));
                    }
                }
            }
        }
    }
}

/// What the simulator looks at.
#[cfg(test)]
impl<N: Net> EventLoop<N> {
    pub(crate) fn has_ended(&self) -> bool {
        self.phase == Phase::Ended
    }

    /// Messages parsed and not yet given to the dispatcher.
    pub(crate) fn waiting_messages(&self) -> u64 {
        let head = self.waiting.as_ref().map(BlockRef::head);
        head.map_or(0, |head| u64::from(head.frames))
    }

    /// Whether no peer is read, because something found no room.
    pub(crate) fn holds_back(&self) -> bool {
        self.waits_for_dispatch()
    }

    pub(crate) fn peers(&mut self) -> &mut Peers {
        &mut self.peers
    }

    pub(crate) fn finish(self, now: Now) -> LoopEnd {
        self.end(now)
    }
}

impl<N: Net> fmt::Debug for EventLoop<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventLoop")
            .field("phase", &self.phase)
            .field("listeners", &self.listeners)
            .field("waiting", &self.waiting)
            .field("has_work", &self.peers.has_work())
            .field("has_commands", &self.has_commands())
            .field("more_events", &self.more_events)
            .field("timers", &self.peers.common.deadlines.wheel)
            .finish_non_exhaustive()
    }
}
