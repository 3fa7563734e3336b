//! What is written down while it goes on, and what is said of it in the end.

use std::{fs, time::Duration};

use nebnet::{CloseReason, Snapshot, StopReport};

use crate::{histogram::Histogram, service::Soaked, util};

/// Lines of the table.
const PERIODS: u32 = 15;
/// Part of the time that memory may take to settle: a third, and ten minutes at the most.
const WARM_UP_MAX: Duration = Duration::from_secs(600);
/// What the peak of memory may grow by between the two halves after that.
const GROWTH_MAX_KIB: u64 = 4 << 10;
/// What the canary's median may grow by from the first half to the second, beside being doubled:
/// others use the machine too.
const MEDIAN_GROWTH_MAX: Duration = Duration::from_millis(1);
/// The longest that the canary may have waited for one answer.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// What a service without peers holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rest {
    pub(crate) descriptors: usize,
    pub(crate) peers: u64,
    pub(crate) memory_used: u64,
}

pub(crate) struct Sample {
    time: Duration,
    resident_kib: u64,
    descriptors: usize,
    snapshot: Snapshot,
    linked: u64,
    refused: u64,
}

impl Sample {
    pub(crate) fn take(time: Duration, soaked: &Soaked) -> Self {
        Self {
            time,
            resident_kib: resident_kib(),
            descriptors: util::descriptors(),
            snapshot: soaked.handle().snapshot(),
            linked: soaked.linked(),
            refused: soaked.refused(),
        }
    }
}

pub(crate) struct Report {
    time: Duration,
    before: Rest,
    /// Time and resident memory.
    memory: Vec<(Duration, u64)>,
    memory_used_max: u64,
    periods: Vec<Histogram>,
    refused: u64,
    linked: u64,
    lost_children: Vec<String>,
    failures: Vec<String>,
}

impl Report {
    pub(crate) fn new(time: Duration, before: Rest) -> Self {
        println!(
            "{:>7} {:>8} {:>5} {:>5} {:>9} {:>9} {:>8} {:>8} {:>8} {:>8}  closed",
            "min",
            "RSS KiB",
            "fds",
            "peers",
            "memory",
            "messages",
            "p50 us",
            "p99 us",
            "p99.9",
            "max us",
        );
        Self {
            time,
            before,
            memory: Vec::new(),
            memory_used_max: 0,
            periods: Vec::new(),
            refused: 0,
            linked: 0,
            lost_children: Vec::new(),
            failures: Vec::new(),
        }
    }

    /// Takes a sample in; at the end of a period, the round trips too.
    pub(crate) fn add(&mut self, sample: Sample, latencies: impl FnOnce() -> Histogram) {
        self.memory.push((sample.time, sample.resident_kib));
        self.memory_used_max = self.memory_used_max.max(sample.snapshot.memory_used);
        (self.refused, self.linked) = (sample.refused, sample.linked);
        let period = self.time / PERIODS;
        if sample.time < period * (self.periods.len() as u32 + 1) {
            return;
        }
        let latencies = latencies();
        let micros = |time: Duration| time.as_micros();
        println!(
            "{:>7.1} {:>8} {:>5} {:>5} {:>9} {:>9} {:>8} {:>8} {:>8} {:>8}  {}",
            sample.time.as_secs_f64() / 60.0,
            sample.resident_kib,
            sample.descriptors,
            sample.snapshot.peers,
            sample.snapshot.memory_used,
            sample.snapshot.inbound.messages,
            micros(latencies.quantile(500)),
            micros(latencies.quantile(990)),
            micros(latencies.quantile(999)),
            micros(latencies.max()),
            sample.snapshot.closed_total(),
        );
        self.periods.push(latencies);
    }

    pub(crate) fn lost_children(&mut self, lost: Vec<String>) {
        self.lost_children = lost;
    }

    /// Says how it was.
    pub(crate) fn finish(&mut self, rest: Rest, stop: StopReport) {
        println!("\nclosed, by reason:");
        for (reason, count) in &stop.snapshot.closed {
            if *count > 0 {
                println!("  {reason:?} {count}");
            }
        }
        println!("{stop}");
        let snapshot = &stop.snapshot;
        println!(
            "accept errors {}, dialled {}, dials failed {}, over the link and back {}, \
             reading paused {}, most memory used {}",
            snapshot.accept_errors,
            snapshot.dialled,
            snapshot.dials_failed,
            self.linked,
            snapshot.reads_paused,
            self.memory_used_max,
        );
        println!("\ncriteria:");
        self.judge_memory();
        self.judge_latency();
        let (before, after) = (self.before.descriptors, rest.descriptors);
        self.criterion(
            after <= before,
            format!("descriptors came back: {before} before, {after} after"),
        );
        let held = (rest.peers, rest.memory_used);
        self.criterion(held == (0, 0), format!("peers and bytes left: {held:?}"));
        let lost = std::mem::take(&mut self.lost_children);
        self.criterion(
            lost.is_empty(),
            format!("no peer met with what it is not to: {lost:#?}"),
        );
        let refused = self.refused;
        self.criterion(refused == 0, format!("answers without room: {refused}"));
        let internal = count(snapshot, CloseReason::Internal);
        self.criterion(internal == 0, format!("closed as internal: {internal}"));
        self.criterion(stop.joined, "the service stopped".to_owned());
        // The sums were held against each other when it stopped; they end the program if wrong.
        self.criterion(true, "every sum balances".to_owned());
    }

    pub(crate) fn passed(&self) -> bool {
        self.failures.is_empty()
    }

    fn judge_memory(&mut self) {
        let warm_up = (self.time / 3).min(WARM_UP_MAX);
        let settled = self.memory.iter().filter(|(time, _)| *time >= warm_up);
        let settled: Vec<_> = settled.copied().collect();
        let halves = settled.split_at(settled.len() / 2);
        let peak = |half: &[(Duration, u64)]| half.iter().map(|one| one.1).max().unwrap_or(0);
        let (first, second) = (peak(halves.0), peak(halves.1));
        println!(
            "  after {warm_up:?} memory grew by {:.0} KiB an hour",
            slope(&settled) * 3600.0
        );
        self.criterion(
            second <= first + GROWTH_MAX_KIB,
            format!("peak of memory in the two halves behind that: {first} and {second} KiB"),
        );
    }

    fn judge_latency(&mut self) {
        let (early, late) = self.periods.split_at(self.periods.len() / 2);
        let sum = |periods: &[Histogram]| {
            let mut sum = Histogram::default();
            periods.iter().for_each(|period| sum.merge(period));
            sum
        };
        let (early, late) = (sum(early), sum(late));
        for quantile in [500, 990, 999] {
            println!(
                "  canary, {} per thousand: {:?} and {:?} in the two halves",
                quantile,
                early.quantile(quantile),
                late.quantile(quantile)
            );
        }
        let may_be = early.quantile(500) * 2 + MEDIAN_GROWTH_MAX;
        let stays = late.quantile(500) <= may_be;
        self.criterion(stays, format!("its median stays below {may_be:?}"));
        let longest = early.max().max(late.max());
        let count = early.count() + late.count();
        self.criterion(
            longest <= WAIT_MAX && count > 0,
            format!("{count} round trips, none lost, the longest of {longest:?}"),
        );
    }

    fn criterion(&mut self, holds: bool, text: String) {
        println!("  {} {text}", if holds { "pass" } else { "FAIL" });
        if !holds {
            self.failures.push(text);
        }
    }
}

fn count(snapshot: &Snapshot, reason: CloseReason) -> u64 {
    util::closed_for(snapshot, reason)
}

fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let value = line.unwrap().split_whitespace().nth(1);
    value.unwrap().parse().unwrap()
}

/// Of the straight line through the points, in KiB per second: least squares.
fn slope(points: &[(Duration, u64)]) -> f64 {
    let count = points.len() as f64;
    let mean =
        |values: &dyn Fn(&(Duration, u64)) -> f64| points.iter().map(values).sum::<f64>() / count;
    let x_mean = mean(&|one| one.0.as_secs_f64());
    let y_mean = mean(&|one| one.1 as f64);
    let (mut above, mut below) = (0.0, 0.0);
    for (time, memory) in points {
        let x = time.as_secs_f64() - x_mean;
        above += x * (*memory as f64 - y_mean);
        below += x * x;
    }
    if below > 0.0 { above / below } else { 0.0 }
}
