//! The end of the loop: in order, until all is drained or the deadline has passed, or at once.

use std::time::Duration;

use super::{
    sink::{Sink, dispatch_inline},
    state::{Accepting, EventLoop, Phase},
};
use crate::{
    clock::{Now, ticks_of_timeout},
    error::CloseReason,
    ledger::ServiceState,
    peers::Stop,
    socket::Net,
};

/// How often the end of the loop tries a lock that another thread holds: at first it gives way,
/// then it sleeps in between. That thread may have to wait for a processor itself.
const LAST_TRIES_MAX: usize = 1000;

const LAST_YIELDS_MAX: usize = 100;

const LAST_SLEEP: Duration = Duration::from_millis(1);

/// How the loop ended.
#[derive(Debug, Default)]
pub(crate) struct LoopEnd {
    pub(crate) stop: Stop,
    /// What ended it, if it was not a stop.
    pub(crate) failure: Option<String>,
}

impl LoopEnd {
    /// Adds the end of another loop of the same service.
    pub(crate) fn add(&mut self, other: Self) {
        self.stop.add(other.stop);
        self.failure = self.failure.take().or(other.failure);
    }
}

impl<N: Net> EventLoop<N> {
    /// Whether a stop was asked for that has not begun.
    pub(super) fn is_to_stop(&self) -> bool {
        self.phase == Phase::Running && self.signals.stop.get().is_some()
    }

    pub(super) fn begin_stop(&mut self, now: Now) {
        let order = self.signals.stop.get();
        let timeout = order.map_or(Duration::ZERO, |order| order.drain);
        self.phase = Phase::Stopping;
        self.slots.ledger.state.set(ServiceState::Stopping);
        self.listeners.fill(Accepting::Closed);
        self.net.close_listeners();
        let deadline = now.tick.saturating_add(ticks_of_timeout(timeout));
        self.peers.begin_stop(now.tick, deadline);
        self.run_actions(now);
    }

    /// Whether a stop has nothing left to do. Connections may end before what they brought has
    /// found room with its subscribers, for which there is time until the deadline.
    pub(super) fn may_end(&self) -> bool {
        if self.phase != Phase::Stopping || !self.peers.is_empty() || self.waits_for_dispatch() {
            return false;
        }
        let bounds = self.sink.bounds();
        if !self.drain_is_over && !bounds.is_empty() {
            bounds.wait_for_end();
        }
        self.drain_is_over || bounds.is_empty()
    }

    /// Ends everything at once; subscribers get what was dispatched.
    pub(super) fn fail(&mut self, now: Now, message: String) {
        if self.phase == Phase::Ended {
            return;
        }
        log::error!("the loop ends: {message}");
        self.failure = Some(message);
        self.phase = Phase::Ended;
        self.listeners.fill(Accepting::Closed);
        self.net.close_listeners();
        self.peers.abort_all(now.tick, CloseReason::Internal);
        self.run_actions(now);
    }

    /// Nothing that was parsed or told is lost here, even at the deadline of a stop.
    pub(super) fn push_last(&mut self) {
        if let Sink::Inline { fan_out, .. } = &mut self.sink {
            for tries in 0..LAST_TRIES_MAX {
                if fan_out.refresh() {
                    break;
                }
                give_way(tries);
            }
        }
        while let Some(item) = self.next_item() {
            match &mut self.sink {
                Sink::Queue(queue) => {
                    queue.push_last(item);
                }
                Sink::Inline {
                    fan_out, bounds, ..
                } => {
                    dispatch_inline(fan_out, bounds, item);
                    fan_out.wake_receivers();
                }
            }
        }
    }

    pub(super) fn end(mut self, now: Now) -> LoopEnd {
        // There may be something to wait for below.
        self.wake_receivers();
        self.run_actions(now);
        // A slot that a connection has to give back is held for a moment only.
        for tries in 0..LAST_TRIES_MAX {
            if self.peers.is_empty() {
                break;
            }
            give_way(tries);
            self.peers.begin_turn(now.tick);
        }
        self.run_actions(now);
        self.push_last();
        self.push_notices();
        if let Sink::Inline { fan_out, .. } = &mut self.sink {
            fan_out.close();
        }
        LoopEnd {
            stop: self.peers.common.ended.take_stop().unwrap_or_default(),
            failure: self.failure,
        }
    }
}

/// The loop is over, and other threads may have the processor.
fn give_way(tries: usize) {
    if tries < LAST_YIELDS_MAX {
        std::thread::yield_now();
    } else {
        std::thread::park_timeout(LAST_SLEEP);
    }
}
