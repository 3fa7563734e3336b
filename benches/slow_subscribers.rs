//! What subscribers that take badly cost one that takes everything: its share of a flood, and its
//! answers to round trips, alone and beside each kind of them, by turns in one run.
//!
//! `cargo bench --bench slow_subscribers`; words behind `--` choose rows. The healthy subscriber
//! misses nothing (`Pause`) and answers the round trips; the others subscribe to the same messages
//! with short queues, or, where their rule is about the peer, to messages that a peer of their own
//! sends. A row is the median of the rounds; each round of a kind comes right behind one without
//! it, and the two ratios are the medians of what the pairs say.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    reason = "a measuring program: it reads the clock and may end with a panic"
)]

mod load;

use load::{Load, MESSAGE_TYPE, Report, Spec};
use nebnet::frame::Frame;
use nebnet::{
    Config, Handle, HandlerOptions, MessageType, NetService, OverflowPolicy, SubscribeOptions,
};
use std::hint::black_box;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
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
/// The same where somebody holds the flood back.
const FLOOD_HELD: u64 = 1 << 16;
/// What a peer of a bad subscriber's own sends.
const OWN_TYPE: u16 = 0x0210;
/// The first of the types whose handlers panic, each at its first message.
const PANIC_TYPE: u16 = 0x0300;
const PANICS_PER_ROUND: u16 = 12;
const PANIC_EVERY: Duration = Duration::from_millis(60);
/// Places in the queue of a bad subscriber.
const SHORT_QUEUE: usize = 256;
const NAP: Duration = Duration::from_millis(5);

/// How a subscriber takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// As fast as it can: what any second subscriber costs.
    Healthy,
    /// A batch every 5 ms.
    Slow(OverflowPolicy),
    Never,
    /// Subscribes, takes a batch, and drops the subscription 5 ms later.
    Leaves,
    /// Likewise, by a panic in its thread.
    Panics,
    /// A batch every 5 ms of what a peer of its own sends as fast as it may.
    OwnPeer(OverflowPolicy),
    /// No subscriber, but inline handlers for messages of a peer of their own.
    HandlersPanic,
}

impl Kind {
    /// Whether its messages are those of a peer of its own.
    fn has_own_peer(self) -> bool {
        matches!(self, Self::OwnPeer(_) | Self::HandlersPanic)
    }

    fn flood(self) -> u64 {
        if self == Self::Slow(OverflowPolicy::Pause) {
            FLOOD_HELD
        } else {
            FLOOD
        }
    }
}

const KINDS: [(&str, Kind); 11] = [
    ("another that takes all", Kind::Healthy),
    (
        "slow, drops the newest",
        Kind::Slow(OverflowPolicy::DropNewest),
    ),
    (
        "slow, drops the oldest",
        Kind::Slow(OverflowPolicy::DropOldest),
    ),
    (
        "slow, is unsubscribed",
        Kind::Slow(OverflowPolicy::Unsubscribe),
    ),
    (
        "slow, pauses its own peer",
        Kind::OwnPeer(OverflowPolicy::Pause),
    ),
    (
        "slow, closes its own peer",
        Kind::OwnPeer(OverflowPolicy::Close),
    ),
    ("takes nothing", Kind::Never),
    ("dropped again and again", Kind::Leaves),
    ("panics again and again", Kind::Panics),
    ("handlers that panic", Kind::HandlersPanic),
    // Last, since it is by its rule that it is in the way.
    ("slow, pauses all peers", Kind::Slow(OverflowPolicy::Pause)),
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

/// A service with a healthy subscriber, and its clients.
struct Bench {
    service: NetService,
    healthy: Arc<Healthy>,
    taking: thread::JoinHandle<()>,
    canary: Load,
    flood: Load,
}

fn main() {
    if load::run_if_child() {
        return;
    }
    // Those that panic on purpose say nothing.
    std::panic::set_hook(Box::new(|_| {}));
    println!(
        "{:<26} {:>10} {:>9} {:>9}  {:>7} {:>7}  its own messages",
        "beside", "messages/s", "p50 us", "p99 us", "rate", "p50"
    );
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let is_wanted = |name: &str| wanted.iter().any(|word| name.contains(word.as_str()));
    let some = wanted.iter().any(|word| word != "--bench");
    let mut taken = 0;
    // Handlers have to be there before the start, and not beside the other kinds.
    for handlers in [false, true] {
        let kinds = KINDS.iter().filter(|(name, kind)| {
            (*kind == Kind::HandlersPanic) == handlers && (!some || is_wanted(name))
        });
        let mut kinds = kinds.peekable();
        if kinds.peek().is_some() {
            let mut bench = Bench::start(handlers);
            kinds.for_each(|(name, kind)| bench.run(name, *kind));
            taken += bench.stop();
        }
    }
    println!("the healthy one took all of {taken} messages");
}

impl Bench {
    fn start(handlers: bool) -> Self {
        let config = Config::default().listen("127.0.0.1:0".parse().unwrap());
        let mut service = NetService::new(config).unwrap();
        let healthy = Arc::new(Healthy::default());
        let taking = start_healthy(&service, &healthy);
        let panics = PANICS_PER_ROUND * ROUNDS as u16;
        for kind in (PANIC_TYPE..PANIC_TYPE + panics).filter(|_| handlers) {
            let options = HandlerOptions::new(MessageType(kind));
            let panics = |_: nebnet::MessageRef<'_>, _: &mut nebnet::Replier<'_>| {
                resume_unwind(Box::new("on purpose"));
            };
            service.handle_inline(options, panics).unwrap();
        }
        service.start().unwrap();
        let addr = service.local_addrs()[0];
        let mut bench = Self {
            canary: Load::start(Spec::round_trip(addr, PAYLOAD)),
            flood: Load::start(Spec::flood(addr, 1, PAYLOAD)),
            service,
            healthy,
            taking,
        };
        // Everybody warms up.
        bench.round(FLOOD);
        bench
    }

    /// Measures beside subscribers of a kind, and without them by turns.
    fn run(&mut self, name: &str, kind: Kind) {
        let (mut alone, mut beside) = (Vec::new(), Vec::new());
        let mut sum = (0, 0);
        for round in 0..ROUNDS {
            alone.push(self.round(FLOOD));
            let neighbour = Neighbour::start(kind, &self.service, round);
            beside.push(self.round(kind.flood()));
            let (matched, taken) = neighbour.stop();
            sum = (sum.0 + matched, sum.1 + taken);
        }
        let own = if kind == Kind::HandlersPanic {
            let rows = self.service.handle().snapshot().handlers;
            let panics: u64 = rows.iter().map(|row| row.panics).sum();
            format!("{panics} panics of {} handlers", rows.len())
        } else {
            format!("{} taken of {}", sum.1, sum.0)
        };
        print_row("alone", &alone, &alone, "");
        print_row(name, &beside, &alone, &own);
    }

    fn round(&mut self, messages: u64) -> Sample {
        let healthy = &self.healthy;
        healthy.answers.store(true, Ordering::Relaxed);
        self.canary.clear();
        let start = Instant::now();
        while start.elapsed() < ROUND_TRIPS_FOR {
            self.canary.go(200);
            self.canary.report();
        }
        let Report { p50, p99, .. } = self.canary.stats();
        healthy.answers.store(false, Ordering::Relaxed);
        let goal = healthy.taken.load(Ordering::Relaxed) + messages;
        let start = Instant::now();
        self.flood.go(messages);
        self.flood.report();
        while healthy.taken.load(Ordering::Relaxed) < goal {
            thread::yield_now();
        }
        Sample {
            per_second: messages as f64 / start.elapsed().as_secs_f64(),
            p50: p50 as f64 / 1e3,
            p99: p99 as f64 / 1e3,
        }
    }

    /// What the healthy subscriber took, which has to be everything.
    fn stop(mut self) -> u64 {
        drop((self.canary, self.flood));
        let report = self.service.stop(Duration::from_secs(5));
        assert!(report.snapshot.balance().is_exact(), "{report}");
        let row = &report.snapshot.subscribers[0];
        assert_eq!((row.matched, row.dropped), (row.taken, 0), "{report}");
        self.taking.join().unwrap();
        row.taken
    }
}

fn start_healthy(service: &NetService, healthy: &Arc<Healthy>) -> thread::JoinHandle<()> {
    let options = SubscribeOptions::new(MessageType(MESSAGE_TYPE))
        .messages(65_536)
        .overflow(OverflowPolicy::Pause);
    let mut all = service.handle().subscribe_with(options).unwrap();
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

/// A subscriber that takes badly, on a thread of its own, and the peer that it has for itself.
struct Neighbour {
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<(u64, u64)>,
    peer: Option<thread::JoinHandle<()>>,
}

impl Neighbour {
    fn start(kind: Kind, service: &NetService, round: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (handle, addr) = (service.handle(), service.local_addrs()[0]);
        let until = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut sum = (0, 0);
            while !until.load(Ordering::Relaxed) && kind != Kind::HandlersPanic {
                let (matched, taken) = subscribe_once(kind, &handle, &until);
                sum = (sum.0 + matched, sum.1 + taken);
            }
            sum
        });
        let until = Arc::clone(&stop);
        let peer = kind.has_own_peer().then(|| {
            thread::spawn(move || {
                if kind == Kind::HandlersPanic {
                    return have_handlers_panic(addr, round as u16, &until);
                }
                while !until.load(Ordering::Relaxed) {
                    write_own(addr, &until);
                    thread::sleep(NAP);
                }
            })
        });
        Self { stop, thread, peer }
    }

    /// What matched its types, and what it took of that.
    fn stop(self) -> (u64, u64) {
        self.stop.store(true, Ordering::Relaxed);
        let sum = self.thread.join().unwrap();
        if let Some(peer) = self.peer {
            peer.join().unwrap();
        }
        sum
    }
}

/// Writes two queues full of messages, again and again for as long as it is let. A BYE ends it.
fn write_own(addr: SocketAddr, stop: &AtomicBool) {
    let mut bytes = Vec::new();
    let frame = Frame::new(MessageType(OWN_TYPE), &[7; PAYLOAD]);
    for _ in 0..2 * SHORT_QUEUE {
        frame.encode(&mut bytes).unwrap();
    }
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_write_timeout(Some(NAP)).unwrap();
    stream.set_read_timeout(Some(NAP)).unwrap();
    let mut at = 0;
    while !stop.load(Ordering::Relaxed) {
        match stream.write(&bytes[at..]) {
            Ok(count) => at = (at + count) % bytes.len(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => break,
        }
        // There is nothing to read but a BYE, so this is a pause as well.
        if at == 0 && stream.read(&mut [0; 1024]).is_ok() {
            break;
        }
    }
}

/// Sends one message for each of the handlers of a round.
fn have_handlers_panic(addr: SocketAddr, round: u16, stop: &AtomicBool) {
    let mut stream = TcpStream::connect(addr).unwrap();
    for number in 0..PANICS_PER_ROUND {
        let kind = PANIC_TYPE + round * PANICS_PER_ROUND + number;
        let mut bytes = Vec::new();
        let frame = Frame::new(MessageType(kind), &[7; PAYLOAD]);
        frame.encode(&mut bytes).unwrap();
        stream.write_all(&bytes).unwrap();
        if stop.load(Ordering::Relaxed) {
            break;
        }
        thread::sleep(PANIC_EVERY);
    }
}

/// Subscribes, and takes as its kind does until it leaves.
fn subscribe_once(kind: Kind, handle: &Handle, stop: &AtomicBool) -> (u64, u64) {
    let message_type = if kind.has_own_peer() {
        OWN_TYPE
    } else {
        MESSAGE_TYPE
    };
    let messages = if kind == Kind::Healthy {
        65_536
    } else {
        SHORT_QUEUE
    };
    let mut options = SubscribeOptions::new(MessageType(message_type)).messages(messages);
    if let Kind::Slow(overflow) | Kind::OwnPeer(overflow) = kind {
        options = options.overflow(overflow);
    }
    let mut own = handle.subscribe_with(options).unwrap();
    while !stop.load(Ordering::Relaxed) {
        match kind {
            Kind::Healthy => drop(own.recv_batch_timeout(NAP)),
            Kind::Slow(_) | Kind::OwnPeer(_) => {
                drop(own.try_recv_batch());
                thread::sleep(NAP);
            }
            Kind::Never | Kind::HandlersPanic => thread::sleep(NAP),
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

fn print_row(name: &str, samples: &[Sample], alone: &[Sample], own: &str) {
    let of = |part: fn(&Sample) -> f64| median(samples.iter().map(part).collect());
    let ratio = |part: fn(&Sample) -> f64| {
        let pairs = samples.iter().zip(alone);
        median(pairs.map(|(one, other)| part(one) / part(other)).collect())
    };
    println!(
        "{name:<26} {:>10.0} {:>9.1} {:>9.1}  {:>7.2} {:>7.2}  {own}",
        of(|one| one.per_second),
        of(|one| one.p50),
        of(|one| one.p99),
        ratio(|one| one.per_second),
        ratio(|one| one.p50),
    );
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
