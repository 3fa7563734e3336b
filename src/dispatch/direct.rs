//! Direct dispatch: the fan-out of a service with a dispatcher thread, which the loop may use.
//!
//! It is the dispatcher's. But a hand-off to a thread that sleeps costs more than the fan-out of a
//! read to one or two subscribers, which is one step for each of them, however many messages it
//! brought: so the loop does that itself ("directly"), while the dispatcher has nothing to do. It
//! does so only when everything that it ever handed over was handled, and so nothing can overtake;
//! and it never waits, for the dispatcher may be looking around.

use std::sync::PoisonError;

use super::FanOut;
use crate::{
    block::BlockRef,
    clock::Tick,
    limits::{LOOP_PENDING_WAKE_BYTES_MAX, LOOP_PENDING_WAKE_MS},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
};

/// Shared by the loop and the dispatcher.
#[derive(Debug)]
pub(crate) struct DirectDispatch {
    fan_out: Mutex<FanOut>,
    hand_overs: HandOvers,
}

/// What the loop has dispatched itself since those who sleep were last woken to take it. To wake
/// a thread costs the loop five microseconds and more, as much as to read half a block: so large
/// reads share a wake, as long as more of them come.
#[derive(Debug, Default)]
pub(crate) struct PendingWakes {
    bytes: usize,
    /// When the first of them was dispatched.
    since: Tick,
    /// Whether any was in this turn.
    grows: bool,
}

impl PendingWakes {
    pub(crate) fn begin_turn(&mut self) {
        self.grows = false;
    }

    /// A large block was dispatched.
    pub(crate) fn add(&mut self, now: Tick, bytes: usize) {
        if self.bytes == 0 {
            self.since = now;
        }
        self.bytes = self.bytes.saturating_add(bytes);
        self.grows = true;
    }

    /// Whether those who sleep are to be woken whatever comes.
    pub(crate) fn is_enough(&self) -> bool {
        self.bytes >= LOOP_PENDING_WAKE_BYTES_MAX
    }

    /// Whether they are to be woken at the end of a turn: nothing came in it to share the wake
    /// with, or they have slept long enough.
    pub(crate) fn is_due(&self, now: Tick) -> bool {
        !self.grows || now >= self.since.saturating_add(LOOP_PENDING_WAKE_MS)
    }

    /// Whether there is anything; nothing is afterwards.
    pub(crate) fn take(&mut self) -> bool {
        std::mem::take(&mut self.bytes) > 0
    }
}

/// What the loop handed over, and what of it is done.
#[derive(Debug, Default)]
struct HandOvers {
    /// Items that the loop has put into the dispatch queue; written by the loop.
    handed: AtomicU64,
    /// How many of them the dispatcher has handled; written by it, while it holds the fan-out.
    handled: AtomicU64,
}

/// More than was ever handed over: the dispatcher has ended.
const ENDED: u64 = u64::MAX;

impl HandOvers {
    fn note(count: &AtomicU64) {
        let next = count.load(Ordering::Relaxed).wrapping_add(1);
        count.store(next, Ordering::Release);
    }

    /// To be asked by the loop, which alone hands over: then a yes stays true.
    fn is_done(&self) -> bool {
        self.handed.load(Ordering::Relaxed) == self.handled.load(Ordering::Acquire)
    }
}

impl DirectDispatch {
    pub(crate) fn new(fan_out: FanOut) -> Self {
        Self {
            fan_out: Mutex::new(fan_out),
            hand_overs: HandOvers::default(),
        }
    }

    /// The loop has handed an item to the dispatcher.
    pub(crate) fn note_handed(&self) {
        HandOvers::note(&self.hand_overs.handed);
    }

    /// The dispatcher handles an item that the loop has handed over.
    pub(crate) fn handle(&self, item: impl FnOnce(&mut FanOut)) {
        self.visit(|fan_out| {
            item(fan_out);
            HandOvers::note(&self.hand_overs.handled);
        });
    }

    /// The dispatcher does something else with the fan-out.
    pub(crate) fn visit<T>(&self, work: impl FnOnce(&mut FanOut) -> T) -> T {
        // Where the loop had a panic in here, the service ends, and what is left is delivered.
        let mut fan_out = self.fan_out.lock().unwrap_or_else(PoisonError::into_inner);
        work(&mut fan_out)
    }

    /// The dispatcher ends, and with it the fan-out.
    pub(crate) fn close(&self) {
        self.visit(|fan_out| {
            self.hand_overs.handled.store(ENDED, Ordering::Release);
            fan_out.close();
        });
    }

    /// The loop wakes those who sleep and have something in their queues. False if the dispatcher
    /// has to be asked for that.
    pub(crate) fn wake_receivers(&self) -> bool {
        match self.fan_out.try_lock() {
            Ok(mut fan_out) => fan_out.wake_receivers(),
            Err(_) => return false,
        }
        true
    }

    /// The loop has a block with room for it in the dispatch queue's bounds, and dispatches it
    /// here if it may; `raise` takes its place in the bounds. Otherwise the block comes back.
    /// Unless it `wakes`, [`wake_receivers`](Self::wake_receivers) has to follow.
    pub(crate) fn dispatch(
        &self,
        block: BlockRef,
        wakes: bool,
        raise: impl FnOnce(&BlockRef),
    ) -> Result<(), BlockRef> {
        if !self.hand_overs.is_done() {
            return Err(block);
        }
        let Ok(mut fan_out) = self.fan_out.try_lock() else {
            return Err(block);
        };
        if !fan_out.is_cheap(&block) {
            return Err(block);
        }
        if fan_out.would_overflow_sleeper(&block) {
            // It takes what it has while the block goes to the dispatcher.
            fan_out.wake_receivers();
            return Err(block);
        }
        raise(&block);
        fan_out.dispatch_without_wake(block);
        if wakes {
            fan_out.wake_receivers();
        }
        Ok(())
    }
}
