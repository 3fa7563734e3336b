//! One message of 256 bytes to 1,000 and to 10,000 connections: a broadcast against a loop that
//! sends one by one, alternately in one run.
//!
//! Three figures for each round: what the call costs the caller per peer, how often the process
//! allocates meanwhile and until the end, and the time from the beginning of the call until the
//! last peer has the message. The receiving side is a process of its own; both read one clock.
//!
//! `--rounds N` and `--connections A,B` change the defaults, `--json FILE` keeps every round. Each
//! process needs a descriptor per connection and some more.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    reason = "a measuring program: it reads the clock and may end with a panic"
)]

mod load;

use load::{Load, Spec, clock, payload};
use nebnet::{Config, Handle, MessageType, NetService, PeerId, Recipients};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use std::alloc::System;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use std::{env, fs, thread};

/// Counts what all threads of this process allocate.
#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const MESSAGE_TYPE: MessageType = MessageType(7);
const PAYLOAD_SIZE: usize = 256;
const WARM_UP_ROUNDS: usize = 3;
/// For the loop and the client to have gone to sleep between two rounds.
const PAUSE: Duration = Duration::from_millis(20);

/// One message to everybody.
#[derive(Clone, Copy, Debug, Default)]
struct Round {
    call: Duration,
    allocations_in_call: usize,
    allocations: usize,
    /// From the beginning of the call until the last peer had it.
    last: Duration,
}

struct Options {
    connections: Vec<usize>,
    rounds: usize,
    json: Option<PathBuf>,
}

fn main() {
    load::raise_descriptor_limit();
    if load::run_if_child() {
        return;
    }
    let options = options();
    let mut json = String::new();
    for connections in &options.connections {
        measure(*connections, options.rounds, &mut json);
    }
    if let Some(path) = options.json {
        fs::write(path, json).unwrap();
    }
}

/// Without `--bench`, which cargo adds for `cargo bench` alone, this is a quick trial.
fn options() -> Options {
    let mut options = Options {
        connections: vec![50],
        rounds: 2,
        json: None,
    };
    // Cargo appends its own argument to those that are given.
    if env::args().any(|arg| arg == "--bench") {
        (options.connections, options.rounds) = (vec![1_000, 10_000], 30);
    }
    let mut args = env::args().skip(1).filter(|arg| arg != "--bench");
    while let Some(arg) = args.next() {
        match &*arg {
            "--rounds" => options.rounds = args.next().unwrap().parse().unwrap(),
            "--connections" => {
                let counts = args.next().unwrap();
                options.connections = counts.split(',').map(|one| one.parse().unwrap()).collect();
            }
            "--json" => options.json = Some(args.next().unwrap().into()),
            other => panic!("what is {other}?"),
        }
    }
    options
}

fn measure(connections: usize, rounds: usize, json: &mut String) {
    let config = Config::default()
        .listen(SocketAddr::from(([127, 0, 0, 1], 0)))
        .max_peers(connections)
        .first_frame_timeout(Duration::ZERO);
    let mut service = NetService::new(config).unwrap();
    service.start().unwrap();
    let spec = Spec::receive(service.local_addrs()[0], connections, PAYLOAD_SIZE);
    let mut load = Load::start(spec);
    let handle = service.handle();
    while service.handle().snapshot().peers < connections as u64 {
        thread::sleep(PAUSE);
    }
    let peers: Vec<PeerId> = handle.peers().unwrap().iter().map(|row| row.peer).collect();
    assert_eq!(peers.len(), connections);
    let (mut broadcasts, mut loops) = (Vec::new(), Vec::new());
    for round in 0..WARM_UP_ROUNDS + rounds {
        // Every other number is of one sent one by one; the client compares what comes.
        let payloads = [1, 2].map(|one| payload(2 * round as u64 + one, PAYLOAD_SIZE));
        let broadcast = run(&mut load, connections, || {
            broadcast(&handle, &payloads[0], connections);
        });
        let one_by_one = run(&mut load, connections, || {
            one_by_one(&handle, &payloads[1], &peers);
        });
        if round < WARM_UP_ROUNDS {
            continue;
        }
        broadcasts.push(broadcast);
        loops.push(one_by_one);
    }
    println!("{PAYLOAD_SIZE} bytes to {connections} connections, {rounds} rounds of each:");
    report("broadcast", connections, &broadcasts, json);
    report("one by one", connections, &loops, json);
    drop(load);
    let stopped = service.stop(Duration::from_secs(5));
    assert_eq!(stopped.snapshot.outbound_dropped.messages, 0, "{stopped}");
}

fn broadcast(handle: &Handle, payload: &[u8], connections: usize) {
    let report = handle.broadcast((MESSAGE_TYPE, payload), Recipients::All);
    assert_eq!(report.sent.len(), connections);
}

fn one_by_one(handle: &Handle, payload: &[u8], peers: &[PeerId]) {
    for peer in peers {
        handle.send(*peer, (MESSAGE_TYPE, payload)).unwrap();
    }
}

fn run(load: &mut Load, connections: usize, send: impl FnOnce()) -> Round {
    load.go(1);
    thread::sleep(PAUSE);
    let region = Region::new(ALLOCATOR);
    let (start, begin) = (clock(), Instant::now());
    send();
    let call = begin.elapsed();
    let in_call = region.change();
    let received = load.report();
    let right = received.connections;
    assert_eq!(right, connections as u64, "received once and in order");
    let all = region.change();
    Round {
        call,
        allocations_in_call: in_call.allocations + in_call.reallocations,
        allocations: all.allocations + all.reallocations,
        last: received.wall - start,
    }
}

fn report(name: &str, connections: usize, rounds: &[Round], json: &mut String) {
    let line = |what: &str, unit: &str, value: &dyn Fn(&Round) -> f64| {
        let mut values: Vec<f64> = rounds.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        let (least, most) = (values[0], values[values.len() - 1]);
        let median = values[values.len() / 2];
        println!("  {name:<10}  {what:<28} {median:>10.1} {unit:<2}  ({least:.1} to {most:.1})");
    };
    line("call, per peer", "ns", &|round| {
        round.call.as_nanos() as f64 / connections as f64
    });
    line("until the last has it", "us", &|round| {
        round.last.as_nanos() as f64 / 1e3
    });
    line("allocations during the call", "", &|round| {
        round.allocations_in_call as f64
    });
    line("allocations until the end", "", &|round| {
        round.allocations as f64
    });
    for round in rounds {
        let (call, last) = (round.call.as_nanos(), round.last.as_nanos());
        writeln!(
            json,
            "{{\"way\":\"{name}\",\"connections\":{connections},\"call_ns\":{call},\
             \"last_ns\":{last},\"allocations_in_call\":{},\"allocations\":{}}}",
            round.allocations_in_call, round.allocations
        )
        .unwrap();
    }
}
