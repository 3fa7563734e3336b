//! Where the service is in its life, which goes one way only.

use std::sync::atomic::{AtomicU8, Ordering};

/// Where a service is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServiceState {
    /// Made, not started.
    New,
    /// Accepts, reads and writes.
    Running,
    /// Drains what it has.
    Stopping,
    /// Stopped; nothing runs.
    Stopped,
    /// A thread ended by a defect; see [`ServiceFailure`](crate::ServiceFailure).
    Failed,
}

#[derive(Debug, Default)]
pub(crate) struct StateCell(AtomicU8);

impl StateCell {
    pub(crate) fn get(&self) -> ServiceState {
        match self.0.load(Ordering::Acquire) {
            0 => ServiceState::New,
            1 => ServiceState::Running,
            2 => ServiceState::Stopping,
            3 => ServiceState::Stopped,
            _ => ServiceState::Failed,
        }
    }

    /// A life goes one way: a later state stays, and a failed service failed.
    pub(crate) fn set(&self, state: ServiceState) {
        let value = match state {
            ServiceState::New => 0,
            ServiceState::Running => 1,
            ServiceState::Stopping => 2,
            ServiceState::Stopped => 3,
            ServiceState::Failed => 4,
        };
        self.0.fetch_max(value, Ordering::AcqRel);
    }
}
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_service_stays_failed() {
        let state = StateCell::default();
        state.set(ServiceState::Running);
        state.set(ServiceState::Failed);
        state.set(ServiceState::Stopped);
        assert_eq!(state.get(), ServiceState::Failed);
    }
}
