//! Good and bad peers together, for as long as asked: does anything grow, leak, wait or go wrong?
//!
//! The service runs in this process, so that its memory and descriptors are its own; each kind of
//! peer is a process of its own, of which random ones are stopped and continued. Now and then this
//! process has no descriptors left, a linked service is killed, and a bad network lies between.
//!
//!     cargo bench --bench soak -- --minutes 30 --seed 1
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::wildcard_enum_match_arm,
    clippy::cast_possible_truncation,
    reason = "a measuring program: it reads the clock and may end with a panic"
)]

mod histogram;
mod kinds;
mod report;
mod service;
mod troop;

#[path = "../../tests/util/mod.rs"]
mod util;

use std::{
    env, process, thread,
    time::{Duration, Instant},
};

use report::{Report, Sample};
use service::Soaked;
use troop::Troop;
use util::Random;

const USAGE: &str = "arguments: --minutes N --seed N";
/// How often this looks at everything.
const LOOK: Duration = Duration::from_millis(500);
/// How often a random child is stopped, a link is cut, and descriptors run out; for how long.
const STOP_EVERY: Duration = Duration::from_secs(2);
const CUT_EVERY: Duration = Duration::from_secs(17);
const SQUEEZE_EVERY: Duration = Duration::from_secs(41);
const SQUEEZE_TIME: Duration = Duration::from_secs(2);

fn main() {
    if kinds::run_if_child() {
        return;
    }
    let Some((time, seed)) = arguments() else {
        eprintln!("{USAGE}");
        process::exit(2);
    };
    println!("soak for {time:?}, seed {seed}, process {}", process::id());
    let mut soaked = Soaked::start();
    let before = soaked.rest();
    let mut report = Report::new(time, before);
    let mut troop = Troop::start(soaked.addr, soaked.far_addr, seed);
    soak(&mut soaked, &mut troop, &mut report, time, seed);
    report.lost_children(troop.end());
    let rest = soaked.wait_for_rest(before.descriptors);
    report.finish(rest, soaked.stop());
    if !report.passed() {
        process::exit(1);
    }
}

fn soak(soaked: &mut Soaked, troop: &mut Troop, report: &mut Report, time: Duration, seed: u64) {
    let mut random = Random(seed << 8 | 1);
    let started = Instant::now();
    let (mut stop_next, mut cut_next, mut squeeze_next) = (STOP_EVERY, CUT_EVERY, SQUEEZE_EVERY);
    let mut squeezed_until = None;
    while started.elapsed() < time {
        thread::sleep(LOOK);
        let now = started.elapsed();
        if squeezed_until.is_some_and(|until| now >= until) {
            soaked.release();
            squeezed_until = None;
        }
        if squeezed_until.is_some() {
            // Nothing can be looked at without a descriptor.
            continue;
        }
        if now >= stop_next {
            troop.stop_one(&mut random);
            stop_next = now + random.time(STOP_EVERY * 2);
        }
        troop.look();
        report.add(Sample::take(now, soaked), || troop.take_latencies());
        if now >= cut_next {
            troop.restart_far();
            cut_next = now + CUT_EVERY;
        }
        if now >= squeeze_next {
            soaked.squeeze();
            squeezed_until = Some(now + SQUEEZE_TIME);
            squeeze_next = now + SQUEEZE_EVERY;
        }
    }
    soaked.release();
}

/// How long, and the seed. Without `--bench`, which `cargo bench` adds, this is a quick trial.
fn arguments() -> Option<(Duration, u64)> {
    let mut args: Vec<String> = env::args().skip(1).collect();
    let mut minutes = 1.0;
    if let Some(at) = args.iter().position(|arg| arg == "--bench") {
        args.remove(at);
    } else {
        minutes = 0.05;
    }
    let mut seed = 1;
    for pair in args.chunks(2) {
        match pair {
            [name, value] if name == "--minutes" => minutes = value.parse().ok()?,
            [name, value] if name == "--seed" => seed = value.parse().ok()?,
            _ => return None,
        }
    }
    let time = Duration::try_from_secs_f64(minutes * 60.0).ok()?;
    Some((time, seed))
}
