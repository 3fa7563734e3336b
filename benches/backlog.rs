//! What a bound on the bytes that the system takes ahead (`Config::notsent_lowat`) costs and gives:
//! throughput out and there and back, a round trip, the time that a message of high priority takes
//! past a full outbox, and when a backlog is seen. The values take turns within each round.
//!
//! `cargo bench --bench backlog -- ROUNDS VALUE...`, for example `-- 5 0 32 128`, values in KiB.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    reason = "a measuring program: it reads the clock and may end with a panic"
)]

use nebnet::{Config, Handle, MessageType, NetService, Outgoing, OutgoingBatch, PeerId, Priority};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const HEADER_SIZE: usize = 8;
const ASKED: MessageType = MessageType(1);
const TOLD: MessageType = MessageType(2);
const TIME: Duration = Duration::from_millis(400);
const WARM_UP: Duration = Duration::from_millis(100);

/// What is measured: a name, its unit, and how.
type Figure = (&'static str, fn(usize) -> f64);

const FIGURES: [Figure; 13] = [
    ("out c1p16 MB/s", |lowat| flow_out(lowat, 1, 16)),
    ("out c1p256 MB/s", |lowat| flow_out(lowat, 1, 256)),
    ("out c1p4096 MB/s", |lowat| flow_out(lowat, 1, 4096)),
    ("out c16p256 MB/s", |lowat| flow_out(lowat, 16, 256)),
    ("out c16p4096 MB/s", |lowat| flow_out(lowat, 16, 4096)),
    ("echo c1p16 MB/s", |lowat| echo(lowat, 1, 16)),
    ("echo c1p256 MB/s", |lowat| echo(lowat, 1, 256)),
    ("echo c1p4096 MB/s", |lowat| echo(lowat, 1, 4096)),
    ("echo c16p256 MB/s", |lowat| echo(lowat, 16, 256)),
    ("echo c16p4096 MB/s", |lowat| echo(lowat, 16, 4096)),
    ("round trip p50 us", round_trip),
    ("high past full ms", high_past_full),
    ("backlog seen ms", backlog_seen),
];

fn main() {
    let args: Vec<usize> = std::env::args()
        .filter_map(|arg| arg.parse().ok())
        .collect();
    let (rounds, values) = match args.split_first() {
        Some((rounds, values)) if !values.is_empty() => (*rounds, values.to_vec()),
        _ => (5, vec![0, 16, 32, 64, 128, 256]),
    };
    let only = std::env::args().skip_while(|arg| arg != "--only").nth(1);
    print!("{:<20}", "KiB");
    values.iter().for_each(|value| print!("{value:>10}"));
    println!("   medians of {rounds} rounds by turns");
    for (name, figure) in FIGURES {
        if only.as_ref().is_some_and(|only| !name.starts_with(only)) {
            continue;
        }
        let mut columns = vec![Vec::new(); values.len()];
        for _ in 0..rounds {
            for (value, column) in values.iter().zip(&mut columns) {
                column.push(figure(value << 10));
            }
        }
        print!("{name:<20}");
        for column in &mut columns {
            column.sort_by(f64::total_cmp);
            print!("{:>10.2}", column[column.len() / 2]);
        }
        println!();
    }
}

fn start(lowat: usize) -> (NetService, SocketAddr) {
    let config = Config::default()
        .listen("127.0.0.1:0".parse().unwrap())
        .notsent_lowat(lowat);
    let mut service = NetService::new(config).unwrap();
    service.start().unwrap();
    let addr = service.local_addrs()[0];
    (service, addr)
}

fn frame(message_type: MessageType, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32 + 4).to_be_bytes().to_vec();
    frame.extend(message_type.0.to_be_bytes());
    frame.extend([0, 1]);
    frame.extend(payload);
    frame
}

/// A connection whose client has introduced itself by a message, and its id.
fn join(service: &NetService, addr: SocketAddr) -> (TcpStream, PeerId) {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_nodelay(true).unwrap();
    let mut first = service.handle().subscribe(TOLD).unwrap();
    stream.write_all(&frame(TOLD, &[])).unwrap();
    let peer = first.recv().unwrap().peer();
    (stream, peer)
}

/// Megabytes a second to clients that read all.
fn flow_out(lowat: usize, connections: usize, payload: usize) -> f64 {
    let (mut service, addr) = start(lowat);
    let joined = (0..connections).map(|_| join(&service, addr));
    let (streams, peers): (Vec<_>, Vec<_>) = joined.unzip();
    let stop = Arc::new(AtomicBool::new(false));
    let sender = thread::spawn({
        let (handle, stop) = (service.handle(), Arc::clone(&stop));
        move || send_all(&handle, &peers, payload, &stop)
    });
    let taken = take(streams, Vec::new());
    stop.store(true, Ordering::Relaxed);
    sender.join().unwrap();
    service.stop(Duration::ZERO);
    taken
}

fn send_all(handle: &Handle, peers: &[PeerId], payload: usize, stop: &AtomicBool) {
    let payload = vec![7; payload];
    while !stop.load(Ordering::Relaxed) {
        let mut full = 0;
        for peer in peers {
            let mut batch = OutgoingBatch::new();
            for _ in 0..(32 << 10) / (payload.len() + HEADER_SIZE) {
                batch.push(Outgoing::new(ASKED, &*payload)).unwrap();
            }
            full += usize::from(handle.send_batch(*peer, &mut batch).is_err());
        }
        if full == peers.len() {
            thread::sleep(Duration::from_micros(200));
        }
    }
}

/// Megabytes a second that come back to clients that write and read at the same time.
fn echo(lowat: usize, connections: usize, payload: usize) -> f64 {
    let (mut service, addr) = start(lowat);
    let mut questions = service.handle().subscribe(ASKED).unwrap();
    let handle = service.handle();
    let answers = thread::spawn(move || {
        while let Ok(batch) = questions.recv_batch() {
            for message in &batch {
                // At the end the clients go.
                let _ = handle.reply(message, message.payload());
            }
        }
    });
    let streams = (0..connections).map(|_| TcpStream::connect(addr).unwrap());
    let one = frame(ASKED, &vec![7; payload]);
    let frames = one.repeat((64 << 10) / one.len());
    let taken = take(streams.collect(), frames);
    service.stop(Duration::ZERO);
    answers.join().unwrap();
    taken
}

/// Reads all connections, and writes what there is to write to them, for a time; megabytes a second
/// that were read.
fn take(mut streams: Vec<TcpStream>, frames: Vec<u8>) -> f64 {
    let mut buffer = vec![0; 256 << 10];
    let mut at = vec![0; streams.len()];
    for stream in &streams {
        stream.set_nonblocking(true).unwrap();
    }
    let (mut taken, mut since, mut warm) = (0, Instant::now(), false);
    loop {
        let mut moved = false;
        for (stream, at) in streams.iter_mut().zip(&mut at) {
            if let Some(count) = unless_blocked(stream.read(&mut buffer)) {
                taken += count;
                moved = true;
            }
            if frames.is_empty() {
                continue;
            }
            if let Some(count) = unless_blocked(stream.write(&frames[*at..])) {
                *at = (*at + count) % frames.len();
                moved = true;
            }
        }
        if !moved {
            thread::yield_now();
        }
        if !warm && since.elapsed() >= WARM_UP {
            (taken, since, warm) = (0, Instant::now(), true);
        } else if warm && since.elapsed() >= TIME {
            return taken as f64 / since.elapsed().as_secs_f64() / 1e6;
        }
    }
}

fn unless_blocked(result: std::io::Result<usize>) -> Option<usize> {
    match result {
        Ok(count) => Some(count),
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        Err(error) => panic!("{error}"),
    }
}

fn round_trip(lowat: usize) -> f64 {
    let (mut service, addr) = start(lowat);
    let mut questions = service.handle().subscribe(ASKED).unwrap();
    let handle = service.handle();
    let answers = thread::spawn(move || {
        while let Ok(batch) = questions.recv_batch() {
            for message in &batch {
                let _ = handle.reply(message, message.payload());
            }
        }
    });
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_nodelay(true).unwrap();
    let one = frame(ASKED, &[7; 64]);
    let mut answer = vec![0; one.len()];
    let mut times = Vec::new();
    for _ in 0..20_000 {
        let since = Instant::now();
        stream.write_all(&one).unwrap();
        stream.read_exact(&mut answer).unwrap();
        times.push(since.elapsed().as_nanos() as f64 / 1e3);
    }
    service.stop(Duration::ZERO);
    answers.join().unwrap();
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// The median time of a message of high priority to a client that reads 50 MB/s, while more than
/// that is sent to it.
fn high_past_full(lowat: usize) -> f64 {
    let (mut service, addr) = start(lowat);
    let (stream, peer) = join(&service, addr);
    let stop = Arc::new(AtomicBool::new(false));
    let sender = thread::spawn({
        let (handle, stop) = (service.handle(), Arc::clone(&stop));
        move || send_all(&handle, &[peer], 256, &stop)
    });
    let origin = Instant::now();
    let urgent = thread::spawn({
        let (handle, stop) = (service.handle(), Arc::clone(&stop));
        move || {
            while !stop.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(20));
                let sent = origin.elapsed().as_nanos() as u64;
                let bytes = sent.to_be_bytes();
                let message = Outgoing::new(TOLD, &bytes[..]).priority(Priority::High);
                // One that finds no room is not timed.
                drop(handle.send(peer, message));
            }
        }
    });
    let mut times = read_slowly(stream, origin);
    stop.store(true, Ordering::Relaxed);
    sender.join().unwrap();
    urgent.join().unwrap();
    service.stop(Duration::ZERO);
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn read_slowly(mut stream: TcpStream, origin: Instant) -> Vec<f64> {
    let (mut bytes, mut times) = (Vec::new(), Vec::new());
    let mut buffer = vec![0; 64 << 10];
    let mut taken = 0_u64;
    while origin.elapsed() < 3 * TIME {
        let due = (origin.elapsed().as_secs_f64() * 50e6) as u64;
        if taken >= due {
            thread::sleep(Duration::from_millis(1));
            continue;
        }
        let count = stream.read(&mut buffer).unwrap();
        taken += count as u64;
        bytes.extend(&buffer[..count]);
        let mut at = 0;
        while let Some(header) = bytes.get(at..at + HEADER_SIZE) {
            let size = 4 + u32::from_be_bytes(header[..4].try_into().unwrap()) as usize;
            let Some(frame) = bytes.get(at..at + size) else {
                break;
            };
            if frame[4..6] == TOLD.0.to_be_bytes() && origin.elapsed() > WARM_UP {
                let sent = u64::from_be_bytes(frame[HEADER_SIZE..].try_into().unwrap());
                let now = origin.elapsed().as_nanos() as u64;
                times.push((now - sent) as f64 / 1e6);
            }
            at += size;
        }
        bytes.drain(..at);
    }
    times
}

/// How long after the window of a client that does not read has closed something is queued for it
/// and stays so, while 480 KB/s are sent to it. At most ten seconds are waited for.
fn backlog_seen(lowat: usize) -> f64 {
    let (mut service, addr) = start(lowat);
    let (stream, peer) = join(&service, addr);
    let handle = service.handle();
    let begun = Instant::now();
    let (mut sent, mut unread, mut closed) = (0.0, 0, begun);
    let payload = vec![7; 480 - HEADER_SIZE];
    let mut buffer = vec![0; 16 << 20];
    stream.set_nonblocking(true).unwrap();
    let mut seen = None;
    while seen.is_none() || closed.elapsed() < Duration::from_secs(1) {
        if begun.elapsed() > Duration::from_secs(10) {
            break;
        }
        while sent < begun.elapsed().as_secs_f64() * 480e3 {
            handle.send(peer, (ASKED, &*payload)).unwrap();
            sent += 480.0;
        }
        let taken = unless_blocked(stream.peek(&mut buffer)).unwrap_or(0);
        if taken != unread {
            (unread, closed) = (taken, Instant::now());
        }
        let rows = handle.peers().unwrap();
        let queued = rows.iter().find(|row| row.peer == peer).unwrap().queued;
        // A message that is on its way to the loop is no backlog.
        let waits = queued.messages > 1;
        seen = seen.filter(|_| waits).or_else(|| waits.then(Instant::now));
        thread::sleep(Duration::from_millis(1));
    }
    service.stop(Duration::ZERO);
    let seen = seen.unwrap_or_else(Instant::now);
    seen.saturating_duration_since(closed).as_secs_f64() * 1e3
}
