//! The end of a service: the last of its threads leaves the final report behind, whether the
//! service was stopped, dropped, or failed, and whether anything waits for it.

use std::{
    mem,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
};

use crossbeam_channel::Sender;

use super::Never;
use crate::{
    event_loop::LoopEnd,
    handle::Shared,
    ledger::{ServiceState, StopReport},
};

/// What the threads of a service add up while they end.
#[derive(Debug)]
pub(super) struct Ending {
    shared: Arc<Shared>,
    loops: Mutex<LoopEnd>,
}

impl Ending {
    pub(super) fn new(shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Self {
            shared,
            loops: Mutex::default(),
        })
    }

    /// A loop has ended.
    pub(super) fn add(&self, end: LoopEnd) {
        let mut loops = self.loops.lock().unwrap_or_else(PoisonError::into_inner);
        loops.add(end);
    }

    /// No thread runs: everything that waits for the service finds its end.
    pub(super) fn finish(&self) {
        let shared = &self.shared;
        shared.registry.close();
        shared.timers.close();
        shared.state.set(ServiceState::Stopped);
        let mut loops = self.loops.lock().unwrap_or_else(PoisonError::into_inner);
        let end = mem::take(&mut *loops);
        drop(loops);
        shared.final_report.set(self.report_of(end));
    }

    fn report_of(&self, end: LoopEnd) -> StopReport {
        let report = self.shared.unfinished_report();
        // A subscriber that left before has thrown its messages away itself.
        let mut rows = report.snapshot.subscribers.iter();
        let discarded = rows.any(|row| row.discarded > 0);
        let (closed_orderly, closed_abortive) = (end.stop.closed_orderly, end.stop.closed_abortive);
        let (peers, peers_unlisted) = end.stop.into_rows();
        let drained = report.failure.is_none()
            && closed_abortive == 0
            && peers.iter().all(|row| row.closed.lost.messages == 0)
            && !discarded;
        StopReport {
            drained,
            closed_orderly,
            closed_abortive,
            peers,
            peers_unlisted,
            joined: true,
            ..report
        }
    }
}

/// A thread of the service, from before it is spawned to when it counts nothing more; or the start,
/// which is one of them until all threads run. The last to go finishes the service, and only then
/// lets `ended` disconnect.
#[derive(Debug)]
pub(super) struct Running {
    ending: Arc<Ending>,
    /// Dropped after `drop` has run.
    ended: Sender<Never>,
}

impl Running {
    pub(super) fn begin(ending: &Arc<Ending>, ended: Sender<Never>) -> Self {
        ending.shared.threads.fetch_add(1, Ordering::Relaxed);
        Self {
            ending: Arc::clone(ending),
            ended,
        }
    }

    /// One more.
    pub(super) fn for_thread(&self) -> Self {
        Self::begin(&self.ending, self.ended.clone())
    }

    pub(super) fn ending(&self) -> &Ending {
        &self.ending
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Release: what this thread counted is seen by whatever sees the number. Acquire: the last
        // one reports what all others counted.
        if self.ending.shared.threads.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.ending.finish();
        }
    }
}
