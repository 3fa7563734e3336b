//! Messages from a number of connections to one subscriber that misses none.

use crate::load::{HEADER_SIZE, Load, Spec, cpu_time, machine_time};
use crate::options::Options;
use crate::servers::{Kind, Order};
use std::thread;
use std::time::{Duration, Instant};

/// A sample is taken again if other programs had more of the processors than this.
const OTHERS_MAX: f64 = 0.2;
const OTHERS_RETRIES: usize = 1;

/// One field of the table: how many connections, how large a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) connections: usize,
    pub(crate) payload: usize,
}

impl Cell {
    pub(crate) fn all() -> Vec<Self> {
        let sizes = |connections| {
            [16, 256, 4096].map(|payload| Self {
                connections,
                payload,
            })
        };
        [1, 16, 256].into_iter().flat_map(sizes).collect()
    }

    /// From `c16p4096`.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        let (connections, payload) = name.strip_prefix('c')?.split_once('p')?;
        let cell = Self {
            connections: connections.parse().ok()?,
            payload: payload.parse().ok()?,
        };
        (cell.connections > 0 && cell.payload >= 8).then_some(cell)
    }

    pub(crate) fn name(&self) -> String {
        format!("c{}p{}", self.connections, self.payload)
    }

    pub(crate) fn frame_size(&self) -> usize {
        HEADER_SIZE + self.payload
    }
}

/// One measurement of one server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Messages a second that the subscriber took while the client was sending.
    pub(crate) rate: f64,
    /// Processor seconds per second: at 1.0 the client, which has one thread, is the limit.
    pub(crate) client_cores: f64,
    pub(crate) server_cores: f64,
    /// What neither of the two spent: other programs on this machine, and other machines on its
    /// host.
    pub(crate) other_cores: f64,
    /// Every message sent was taken, none twice.
    pub(crate) verified: bool,
}

impl Sample {
    /// Whether other programs took part of the machine.
    pub(crate) fn is_disturbed(&self) -> bool {
        self.other_cores > OTHERS_MAX
    }
}

/// Measures until nothing else was running, at most `1 + OTHERS_RETRIES` times.
pub(crate) fn measure_quietly(kind: &Kind, cell: &Cell, options: &Options) -> Sample {
    for _ in 0..OTHERS_RETRIES {
        let sample = measure(kind, cell, options);
        if !sample.is_disturbed() || !sample.verified {
            return sample;
        }
    }
    measure(kind, cell, options)
}

fn measure(kind: &Kind, cell: &Cell, options: &Options) -> Sample {
    let server = (kind.start)(&Order::new(cell.frame_size()));
    let mut load = Load::start(Spec::flood(server.addr, cell.connections, cell.payload));
    let tally = &server.tally;
    let read = || (Instant::now(), tally.messages(), cpu_time(), machine_time());

    let tail = Duration::from_millis(20);
    load.go_for(options.warm_up + options.time + tail);
    thread::sleep(options.warm_up);
    let (start, messages_start, cpu_start, machine_start) = read();
    thread::sleep(options.time);
    let (end, messages_end, cpu_end, machine_end) = read();

    let sent = load.report();
    tally.expect(sent.messages);
    let complete = tally.wait();
    let agrees = !kind.reads_numbers || tally.sum() == sent.sum;
    if !(complete && agrees) {
        eprintln!(
            "{} {}: sent {} with sum {}, took {} with sum {}",
            cell.name(),
            kind.name,
            sent.messages,
            sent.sum,
            tally.messages(),
            tally.sum(),
        );
    }
    let seconds = (end - start).as_secs_f64();
    let client_cores = sent.cpu.as_secs_f64() / sent.wall.as_secs_f64();
    let server_cores = (cpu_end - cpu_start).as_secs_f64() / seconds;
    let all_cores = (machine_end - machine_start).as_secs_f64() / seconds;
    Sample {
        rate: (messages_end - messages_start) as f64 / seconds,
        client_cores,
        server_cores,
        other_cores: (all_cores - client_cores - server_cores).max(0.0),
        verified: complete && agrees,
    }
}
