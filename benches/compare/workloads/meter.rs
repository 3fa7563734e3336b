//! What the processors do while a sample is taken.

use crate::load::{cpu_time, machine_time};
use crate::sample::Sample;
use std::time::{Duration, Instant};

/// Begins to count when it is made.
#[derive(Debug)]
pub(super) struct Meter {
    start: Instant,
    cpu: Duration,
    machine: Duration,
}

/// What it has counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Spent {
    pub(super) seconds: f64,
    /// Of this process, which is the server.
    pub(super) server_cores: f64,
    machine_cores: f64,
}

impl Meter {
    pub(super) fn start() -> Self {
        Self {
            start: Instant::now(),
            cpu: cpu_time(),
            machine: machine_time(),
        }
    }

    pub(super) fn stop(&self) -> Spent {
        let seconds = self.start.elapsed().as_secs_f64();
        Spent {
            seconds,
            server_cores: (cpu_time() - self.cpu).as_secs_f64() / seconds,
            machine_cores: (machine_time() - self.machine).as_secs_f64() / seconds,
        }
    }
}

impl Spent {
    pub(super) fn sample(&self, values: Vec<f64>, client_cores: f64, verified: bool) -> Sample {
        let known = client_cores + self.server_cores;
        Sample {
            values,
            client_cores,
            server_cores: self.server_cores,
            other_cores: (self.machine_cores - known).max(0.0),
            verified,
        }
    }
}
