//! The client that connects, and says nothing.

use super::child::connect;
use super::{Report, Spec, clock, cpu_time};
use std::net::TcpStream;
use std::time::Duration;

/// Open connections, when the first of them was begun, and what they have cost.
#[derive(Debug)]
pub(super) struct Idle {
    connections: Vec<TcpStream>,
    since: Duration,
    cpu: Duration,
}

impl Idle {
    pub(super) fn connect(spec: Spec) -> Self {
        let since = clock();
        let connections = (0..spec.connections).map(|_| connect(spec.addr));
        Self {
            connections: connections.collect(),
            since,
            cpu: cpu_time(),
        }
    }

    pub(super) fn report(&self) -> Report {
        Report {
            messages: self.connections.len() as u64,
            wall: self.since,
            cpu: self.cpu,
            ..Report::default()
        }
    }
}
