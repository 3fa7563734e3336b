//! What the processors do while a sample is taken.

use crate::load::{cpu_time, machine_time};
use crate::sample::Sample;
use std::time::{Duration, Instant};

/// A sample is disturbed if other programs had more of the processors than this.
const OTHERS_CORES_MAX: f64 = 0.2;
/// But not for so little, in seconds, which is within the steps in which the machine's time is
/// counted: of user and system, each at both ends of a sample.
const OTHERS_MIN: f64 = 0.03;

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
        let other_cores = (self.machine_cores - known).max(0.0);
        let is_disturbed =
            other_cores > OTHERS_CORES_MAX && other_cores * self.seconds > OTHERS_MIN;
        Sample {
            values,
            client_cores,
            server_cores: self.server_cores,
            other_cores,
            is_disturbed,
            verified,
        }
    }
}
