//! What peers that take badly cost one that behaves: its round trips before, while and after others
//! are fed faster than they read, all in one run.
//!
//! A publisher sends each fed peer 256-byte messages, 10 MB/s in all, and skips who is full. The
//! canary makes round trips of 64 bytes through the dispatcher thread. Each row is one phase; the
//! quiet phases between are what it is to be compared with.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    reason = "a measuring program: it reads the clock and may end with a panic"
)]

mod load;

use load::{FEED_TYPE, Load, MESSAGE_TYPE, Mode, Report, Spec};
use nebnet::{CloseReason, Config, Handle, MessageType, NetService, PeerId};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const CANARY_PAYLOAD: usize = 64;
const FED_PAYLOAD: usize = 256;
const FED_BYTES_PER_SECOND: usize = 10 << 20;
const FEED_PERIOD: Duration = Duration::from_millis(5);
const PHASE: Duration = Duration::from_secs(6);
const WRITE_STALL: Duration = Duration::from_secs(3);
const OUTBOX_BYTES: usize = 4 << 20;

struct Feeder {
    sent: AtomicU64,
    full: AtomicU64,
    memory_max: AtomicU64,
    stop: AtomicBool,
}

fn main() {
    if load::run_if_child() {
        return;
    }
    let config = Config::default()
        .listen("127.0.0.1:0".parse().unwrap())
        .outbox_bytes(OUTBOX_BYTES)
        // Otherwise the kernel keeps several megabytes for each before anything waits here.
        .socket_buffers(128 << 10, 0)
        .write_stall_timeout(WRITE_STALL);
    let mut service = NetService::new(config).unwrap();
    let mut questions = service
        .handle()
        .subscribe(MessageType(MESSAGE_TYPE))
        .unwrap();
    let mut hungry = service.handle().subscribe(MessageType(FEED_TYPE)).unwrap();
    let handle = service.handle();
    let echo = thread::spawn(move || {
        while let Ok(batch) = questions.recv_batch() {
            for message in &batch {
                handle.reply(message, message.payload()).unwrap();
            }
        }
    });
    let feeder = Arc::new(Feeder {
        sent: AtomicU64::new(0),
        full: AtomicU64::new(0),
        memory_max: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    });
    let feeding = thread::spawn({
        let (feeder, handle) = (Arc::clone(&feeder), service.handle());
        move || {
            let mut fed: Vec<PeerId> = Vec::new();
            while !feeder.stop.load(Ordering::Relaxed) {
                fed.extend(hungry.try_iter().map(|message| message.peer()));
                feed(&feeder, &handle, &mut fed);
                thread::sleep(FEED_PERIOD);
            }
        }
    });
    service.start().unwrap();
    let addr = service.local_addrs()[0];
    let mut canary = Load::start(Spec::round_trip(addr, CANARY_PAYLOAD));
    canary.go(5_000);
    canary.report();

    println!(
        "{:<28} {:>9} {:>9} {:>9}  {:>9} {:>9}  outcome",
        "phase", "p50 us", "p99 us", "p99.9 us", "full", "memory"
    );
    phase("quiet", &mut canary, &feeder, &service, None);
    let attacks = [
        ("1 that never reads", Mode::Never, 1),
        ("20 that never read", Mode::Never, 20),
        ("1 KiB each 50 ms", Mode::Trickle, 1),
        ("stops, then reads all", Mode::Pausing, 1),
    ];
    for (name, mode, count) in attacks {
        let takers = Spec::taking(mode, addr, count);
        phase(name, &mut canary, &feeder, &service, Some(takers));
        phase("quiet", &mut canary, &feeder, &service, None);
    }
    feeder.stop.store(true, Ordering::Relaxed);
    feeding.join().unwrap();
    drop(canary);
    println!("{}", service.stop(Duration::from_secs(2)));
    echo.join().unwrap();
}

/// Gives everybody who is fed its share, and notes how much memory that takes.
fn feed(feeder: &Feeder, handle: &Handle, fed: &mut Vec<PeerId>) {
    let payload = [7; FED_PAYLOAD];
    let per_period = FED_BYTES_PER_SECOND / 1000 * FEED_PERIOD.as_millis() as usize;
    let messages = per_period / FED_PAYLOAD / fed.len().max(1);
    fed.retain(|peer| {
        for _ in 0..messages.max(1) {
            match handle.send(*peer, (MessageType(FEED_TYPE), &payload)) {
                Ok(()) => feeder.sent.fetch_add(1, Ordering::Relaxed),
                Err(rejected) if rejected.error.is_full() => {
                    feeder.full.fetch_add(1, Ordering::Relaxed);
                    return true;
                }
                Err(_) => return false,
            };
        }
        true
    });
    let used = handle.snapshot().memory_used;
    feeder.memory_max.fetch_max(used, Ordering::Relaxed);
}

fn phase(
    name: &str,
    canary: &mut Load,
    feeder: &Feeder,
    service: &NetService,
    takers: Option<Spec>,
) {
    let before = closed(service);
    feeder.full.store(0, Ordering::Relaxed);
    feeder.memory_max.store(0, Ordering::Relaxed);
    let attackers = takers.map(Load::start);
    canary.clear();
    let started = Instant::now();
    while started.elapsed() < PHASE {
        canary.go(500);
        canary.report();
    }
    let Report { p50, p99, p999, .. } = canary.stats();
    let outcome: Vec<String> = closed(service)
        .into_iter()
        .zip(before)
        .filter(|((_, now), (_, before))| now > before)
        .map(|((reason, now), (_, before))| format!("{} {reason}", now - before))
        .collect();
    let outcome = match (attackers.is_some(), outcome.is_empty()) {
        (true, true) => "served".to_owned(),
        _ => outcome.join(", "),
    };
    drop(attackers);
    let micros = |nanoseconds: u64| nanoseconds as f64 / 1e3;
    println!(
        "{name:<28} {:>9.1} {:>9.1} {:>9.1}  {:>9} {:>7.1} M  {outcome}",
        micros(p50),
        micros(p99),
        micros(p999),
        feeder.full.load(Ordering::Relaxed),
        feeder.memory_max.load(Ordering::Relaxed) as f64 / f64::from(1 << 20),
    );
}

fn closed(service: &NetService) -> Vec<(CloseReason, u64)> {
    service.handle().snapshot().closed
}
