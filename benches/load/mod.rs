//! The load generator of the benchmarks: a process of its own.
//!
//! A benchmark binary starts itself again with [`SPEC_VARIABLE`] set; the copy becomes the client,
//! takes commands on its standard input and answers on its standard output, one line each. So the
//! client's work never shares an address space, an allocator or a scheduler entity with what is
//! measured, and its CPU time can be told apart.
//!
//! | command | what the client does | answer |
//! |---|---|---|
//! | `go N` | sends exactly N messages over all connections, or makes N round trips | `done ...` |
//! | `go N` | of one that reads: receives and compares N on every connection | `done ...` |
//! | `for MS` | sends whole messages for that many milliseconds | `done ...` |
//! | `of T` | of one that floods: nothing | `done ...` with the messages sent of that type |
//! | `since` | of one that is idle: nothing | `done ...` with when it began to connect |
//! | `clear` | forgets the round trips measured so far | `done ...` |
//! | `stats` | nothing | `done ...` with the percentiles since `clear` |
//!
//! The end of its input ends the client.
#![allow(
    dead_code,
    unused_imports,
    reason = "every benchmark uses a part of this"
)]

mod child;
mod flood;
mod floor;
mod idle;
mod paced;
mod receive;
mod report;
mod round_trip;
mod service;
mod spec;
mod taker;
mod tally;
mod wire;

pub(crate) use child::{Load, run_if_child};
pub(crate) use floor::Floor;
pub(crate) use report::Report;
pub(crate) use service::Service;
pub(crate) use spec::{Framing, Mode, Spec};
pub(crate) use tally::Tally;
pub(crate) use wire::{HEADER_SIZE, MESSAGE_TYPE, frame_size, number, payload};

use std::fs;
use std::time::Duration;

/// A client that wants to be fed sends a message of this type.
pub(crate) const FEED_TYPE: u16 = 0x0200;

/// Set in the environment of the client, and only there.
const SPEC_VARIABLE: &str = "NEBNET_LOAD";

/// User and system time of this process so far, all threads, the ended ones included.
pub(crate) fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The machine's monotonic clock, the same in every process.
pub(crate) fn clock() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Lets this process, and its children, open as many descriptors as it may; returns how many.
pub(crate) fn raise_descriptor_limit() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let maximum = getrlimit(Resource::Nofile).maximum;
    let current = maximum;
    setrlimit(Resource::Nofile, Rlimit { current, maximum }).unwrap();
    maximum.unwrap_or(u64::MAX)
}

/// Processor time that the whole machine has spent so far on programs, ours included, and lost to
/// other machines; without the interrupts, which are nobody's. In steps of 10 ms.
pub(crate) fn machine_time() -> Duration {
    let stat = fs::read_to_string("/proc/stat").unwrap();
    let fields = stat.lines().next().unwrap().split_whitespace().skip(1);
    let ticks: Vec<u64> = fields.map(|field| field.parse().unwrap()).collect();
    // user, nice, system, idle, iowait, irq, softirq, steal
    Duration::from_millis(10 * (ticks[0] + ticks[1] + ticks[2] + ticks[7]))
}
