//! The end of a service, as all threads see it: who asked for it, and what became of everything.

use std::{
    sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use super::{Handle, Shared};
use crate::{
    error::ServiceFailure,
    ledger::{ServiceState, StopReport},
    slots::never_waits,
    threads::is_dispatcher,
};

/// Whether the calling thread is a loop's or a dispatcher's. Such a thread waits for no end of a
/// service: the service may be its own.
pub(crate) fn is_of_a_service() -> bool {
    never_waits() || is_dispatcher()
}

/// What ends the loops from outside. Neither is a command: a queue may be full, and a thread of the
/// service cannot wait for room in it.
#[derive(Debug, Default)]
pub(crate) struct Signals {
    /// The first thread of the service that failed.
    pub(crate) failure: OnceLock<ServiceFailure>,
    /// The first stop that was asked for.
    pub(crate) stop: OnceLock<StopOrder>,
}

impl Signals {
    /// Asks for a stop; the first to ask says how long the drain may take.
    pub(crate) fn order_stop(&self, asked_at: Duration, drain: Duration) {
        let _ = self.stop.set(StopOrder { asked_at, drain });
    }
}

/// A stop that was asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StopOrder {
    /// On the service's clock.
    pub(crate) asked_at: Duration,
    /// How long the drain may take.
    pub(crate) drain: Duration,
}

/// The report that the last thread of a service leaves behind.
#[derive(Debug, Default)]
pub(crate) struct FinalReport {
    report: Mutex<Option<StopReport>>,
    told: Condvar,
}

impl FinalReport {
    /// The first one counts.
    pub(crate) fn set(&self, report: StopReport) {
        self.lock().get_or_insert(report);
        self.told.notify_all();
    }

    /// The report; waits for it no longer than `timeout`.
    pub(crate) fn wait(&self, timeout: Duration) -> Option<StopReport> {
        let report = self.lock();
        if timeout.is_zero() {
            return report.clone();
        }
        let waited = self
            .told
            .wait_timeout_while(report, timeout, |report| report.is_none());
        let (report, _) = waited.unwrap_or_else(PoisonError::into_inner);
        report.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<StopReport>> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Asks all loops to stop, and waits for nothing.
    pub(crate) fn order_stop(&self, drain: Duration) {
        self.signals.order_stop(self.clock.elapsed(), drain);
        self.end_lookups();
        self.ring_all();
    }

    /// No name is looked up any more.
    pub(crate) fn end_lookups(&self) {
        if let Some(resolver) = self.resolver.get() {
            resolver.end();
        }
    }

    /// How long ago the end began: a stop was asked for, or a thread failed.
    pub(crate) fn ending_for(&self) -> Duration {
        let stop = self.signals.stop.get().map(|order| order.asked_at);
        let failure = self.signals.failure.get().map(|failure| failure.after);
        let began = stop.into_iter().chain(failure).min();
        began.map_or(Duration::ZERO, |began| {
            self.clock.elapsed().saturating_sub(began)
        })
    }

    /// What can be said of a service of which threads run.
    pub(crate) fn unfinished_report(&self) -> StopReport {
        StopReport {
            drained: false,
            elapsed: self.ending_for(),
            failure: self.signals.failure.get().cloned(),
            closed_orderly: 0,
            closed_abortive: 0,
            peers: Vec::new(),
            peers_unlisted: 0,
            joined: false,
            snapshot: self.snapshot(),
        }
    }
}

impl Handle {
    /// Waits until the service has ended, by [`NetService::stop`](crate::NetService::stop), by a
    /// drop or by a failure, and gives its final report: every waiter the same one, also later.
    /// Asks for no stop.
    ///
    /// Waits no longer than `timeout`. What it gives then is a report for which
    /// [`StopReport::is_final`] is false, with the counters of that moment. On a thread of a
    /// service (in an inline handler or a metrics callback) it does not wait at all, because the
    /// service may be the thread's own.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    /// use nebnet::{Config, NetService};
    ///
    /// let config = Config::default().listen("127.0.0.1:0".parse()?);
    /// let mut service = NetService::new(config)?;
    /// service.start()?;
    /// let handle = service.handle();
    /// // It ends wherever it is dropped or stopped; here on another thread.
    /// let elsewhere = std::thread::spawn(move || drop(service));
    /// let report = handle.wait_stopped(Duration::from_secs(10));
    /// assert!(report.is_final() && report.drained);
    /// # elsewhere.join().unwrap();
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn wait_stopped(&self, timeout: Duration) -> StopReport {
        let timeout = if is_of_a_service() {
            Duration::ZERO
        } else {
            timeout
        };
        let report = self.shared.final_report.wait(timeout);
        report.unwrap_or_else(|| self.shared.unfinished_report())
    }

    pub(super) fn has_ended(&self) -> bool {
        let shared = &self.shared;
        match shared.state.get() {
            ServiceState::New | ServiceState::Running => shared.signals.stop.get().is_some(),
            ServiceState::Stopping | ServiceState::Stopped | ServiceState::Failed => true,
        }
    }
}
