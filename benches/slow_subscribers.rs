//! What subscribers that take badly cost one that takes everything: its share of a flood, and its
//! answers to round trips, alone and beside each kind of them, by turns in one run.
//!
//! `cargo bench --bench slow_subscribers`; words behind `--` choose rows. The healthy subscriber
//! misses nothing (`Pause`) and answers the round trips; the others subscribe to the same messages
//! with short queues. A row is the median of the rounds; each round of a kind comes right behind
//! one without it, and the two ratios are the medians of what the pairs say.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    reason = "a measuring program: it reads the clock and may end with a panic"
)]

mod load;

use load::{Load, MESSAGE_TYPE, Report, Spec};
use nebnet::{Config, Handle, MessageType, NetService, Overflow, SubscribeOptions};
use std::hint::black_box;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const PAYLOAD: usize = 64;
const ROUNDS: usize = 5;
const ROUND_TRIPS_FOR: Duration = Duration::from_millis(700);
/// Messages of one flood.
const FLOOD: u64 = 1 << 22;
/// Places in the queue of a bad subscriber.
const SHORT_QUEUE: usize = 256;
const NAP: Duration = Duration::from_millis(5);

/// How a subscriber takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// As fast as it can: what any second subscriber costs.
    Healthy,
    /// A batch every 5 ms.
    Slow(Overflow),
    Never,
    /// Subscribes, takes a batch, and drops the subscription 5 ms later.
    Leaves,
    /// Likewise, by a panic in its thread.
    Panics,
}

const KINDS: [(&str, Kind); 7] = [
    ("another that takes all", Kind::Healthy),
    ("slow, drops the newest", Kind::Slow(Overflow::DropNewest)),
    ("slow, drops the oldest", Kind::Slow(Overflow::DropOldest)),
    ("slow, is unsubscribed", Kind::Slow(Overflow::Unsubscribe)),
    ("takes nothing", Kind::Never),
    ("dropped again and again", Kind::Leaves),
    ("panics again and again", Kind::Panics),
];

/// The healthy subscriber, as others see it.
#[derive(Debug, Default)]
struct Healthy {
    taken: AtomicU64,
    answers: AtomicBool,
}

/// One round.
#[derive(Clone, Copy, Debug)]
struct Sample {
    per_second: f64,
    p50: f64,
    p99: f64,
}

fn main() {
    if load::run_if_child() {
        return;
    }
    // Those that panic on purpose say nothing.
    std::panic::set_hook(Box::new(|_| {}));
    let config = Config::default().listen("127.0.0.1:0".parse().unwrap());
    let mut service = NetService::new(config).unwrap();
    let healthy = Arc::new(Healthy::default());
    let taking = start_healthy(&service, &healthy);
    service.start().unwrap();
    let addr = service.local_addrs()[0];
    let mut canary = Load::start(Spec::round_trip(addr, PAYLOAD));
    let mut flood = Load::start(Spec::flood(addr, 1, PAYLOAD));
    // Everybody warms up.
    round(&healthy, &mut canary, &mut flood);
    println!(
        "{:<26} {:>10} {:>9} {:>9}  {:>7} {:>7}  its own messages",
        "beside", "messages/s", "p50 us", "p99 us", "rate", "p50"
    );
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let is_wanted = |name: &str| wanted.iter().any(|word| name.contains(word.as_str()));
    let some = wanted.iter().any(|word| word != "--bench");
    for (name, kind) in KINDS {
        if some && !is_wanted(name) {
            continue;
        }
        let (mut alone, mut beside) = (Vec::new(), Vec::new());
        let mut lost = (0, 0);
        for _ in 0..ROUNDS {
            alone.push(round(&healthy, &mut canary, &mut flood));
            let neighbour = Neighbour::start(kind, service.handle());
            beside.push(round(&healthy, &mut canary, &mut flood));
            let (matched, taken) = neighbour.stop();
            lost = (lost.0 + matched, lost.1 + taken);
        }
        print_row("alone", &alone, &alone, (0, 0));
        print_row(name, &beside, &alone, lost);
    }
    drop((canary, flood));
    let report = service.stop(Duration::from_secs(5));
    assert!(report.snapshot.balance().is_exact(), "{report}");
    let row = &report.snapshot.subscribers[0];
    assert_eq!((row.matched, row.dropped), (row.taken, 0), "{report}");
    println!("the healthy one took all of {} messages", row.taken);
    taking.join().unwrap();
}

fn start_healthy(service: &NetService, healthy: &Arc<Healthy>) -> thread::JoinHandle<()> {
    let options = SubscribeOptions::new(MessageType(MESSAGE_TYPE))
        .messages(65_536)
        .overflow(Overflow::Pause);
    let mut all = service.subscribe_with(options).unwrap();
    let (handle, healthy) = (service.handle(), Arc::clone(healthy));
    thread::spawn(move || {
        while let Ok(batch) = all.recv_batch() {
            if healthy.answers.load(Ordering::Relaxed) {
                for message in &batch {
                    handle.reply(message, message.payload()).unwrap();
                }
            }
            for message in &batch {
                black_box(message.payload().first());
            }
            let count = batch.len() as u64;
            healthy.taken.fetch_add(count, Ordering::Relaxed);
        }
    })
}

fn round(healthy: &Healthy, canary: &mut Load, flood: &mut Load) -> Sample {
    healthy.answers.store(true, Ordering::Relaxed);
    canary.clear();
    let start = Instant::now();
    while start.elapsed() < ROUND_TRIPS_FOR {
        canary.go(200);
        canary.report();
    }
    let Report { p50, p99, .. } = canary.stats();
    healthy.answers.store(false, Ordering::Relaxed);
    let goal = healthy.taken.load(Ordering::Relaxed) + FLOOD;
    let start = Instant::now();
    flood.go(FLOOD);
    flood.report();
    while healthy.taken.load(Ordering::Relaxed) < goal {
        thread::yield_now();
    }
    Sample {
        per_second: FLOOD as f64 / start.elapsed().as_secs_f64(),
        p50: p50 as f64 / 1e3,
        p99: p99 as f64 / 1e3,
    }
}

/// A subscriber that takes badly, on a thread of its own.
struct Neighbour {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<(u64, u64)>,
}

impl Neighbour {
    fn start(kind: Kind, handle: Handle) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut sum = (0, 0);
            while !until.load(Ordering::Relaxed) {
                let (matched, taken) = subscribe_once(kind, &handle, &until);
                sum = (sum.0 + matched, sum.1 + taken);
            }
            sum
        });
        Self { stop, thread }
    }

    /// What matched its types, and what it took of that.
    fn stop(self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// Subscribes, and takes as its kind does until it leaves.
fn subscribe_once(kind: Kind, handle: &Handle, stop: &AtomicBool) -> (u64, u64) {
    let options = SubscribeOptions::new(MessageType(MESSAGE_TYPE)).messages(match kind {
        Kind::Healthy => 65_536,
        Kind::Slow(_) | Kind::Never | Kind::Leaves | Kind::Panics => SHORT_QUEUE,
    });
    let mut own = handle
        .subscribe_with(match kind {
            Kind::Slow(overflow) => options.overflow(overflow),
            Kind::Healthy | Kind::Never | Kind::Leaves | Kind::Panics => options,
        })
        .unwrap();
    while !stop.load(Ordering::Relaxed) {
        match kind {
            Kind::Healthy => drop(own.recv_batch_timeout(NAP)),
            Kind::Slow(_) => {
                drop(own.try_recv_batch());
                thread::sleep(NAP);
            }
            Kind::Never => thread::sleep(NAP),
            Kind::Leaves | Kind::Panics => {
                drop(own.recv_batch_timeout(NAP));
                thread::sleep(NAP);
                break;
            }
        }
        if own.row().overflowed {
            break;
        }
    }
    let row = own.row();
    if kind == Kind::Panics {
        let unwound = catch_unwind(AssertUnwindSafe(move || {
            let _own = own;
            resume_unwind(Box::new("on purpose"));
        }));
        assert!(unwound.is_err());
    }
    (row.matched, row.taken)
}

fn print_row(name: &str, samples: &[Sample], alone: &[Sample], (matched, taken): (u64, u64)) {
    let of = |part: fn(&Sample) -> f64| median(samples.iter().map(part).collect());
    let ratio = |part: fn(&Sample) -> f64| {
        let pairs = samples.iter().zip(alone);
        median(pairs.map(|(one, other)| part(one) / part(other)).collect())
    };
    println!(
        "{name:<26} {:>10.0} {:>9.1} {:>9.1}  {:>7.2} {:>7.2}  {}",
        of(|one| one.per_second),
        of(|one| one.p50),
        of(|one| one.p99),
        ratio(|one| one.per_second),
        ratio(|one| one.p50),
        if matched == 0 {
            String::new()
        } else {
            format!("{taken} taken of {matched}")
        }
    );
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
