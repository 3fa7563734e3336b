//! What the peers do, each kind in a process of its own, until it is killed.
//!
//! Whoever behaves has to be served without a gap and never to be closed; its process ends with a
//! panic if that is not so. Those that misbehave take what comes, but no answer that is wrong.

use std::{
    env,
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use nebnet::{
    ConnectOptions, Event, EventOptions, MessageType, NetService, Outgoing, OverflowPolicy,
    SubscribeOptions, TypeFilter,
    frame::{Frame, Hello},
};

use rustix::process::Signal;

use crate::{
    service::config,
    util::{
        BYE, Client, HELLO, OK, Random, encoded,
        proxy::{Faults, Proxy},
    },
};

/// Set in the environment of a child: its kind, the service's address, the far one, and a seed.
pub(crate) const VARIABLE: &str = "NEBNET_SOAK";
/// A type that the service answers on its loop.
pub(crate) const HANDLED: u16 = 0x1000;

/// What a child does until it is killed.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    run: fn(Task),
    /// The longest time that it may be stopped in milliseconds: who behaves keeps its connection.
    pub(crate) stop_max_ms: usize,
}

/// Whom to talk to, and how it comes out.
struct Task {
    addr: SocketAddr,
    far: SocketAddr,
    random: Random,
}

pub(crate) const CANARY: &str = "canary";
pub(crate) const FAR: &str = "far";

pub(crate) const KINDS: &[Kind] = &[
    kind(CANARY, canary, 0),
    kind("good", good, 500),
    kind("hello", hello, 500),
    kind("churn", churn, 1000),
    kind("slow reader", slow_reader, 4000),
    kind("never reads", never_reads, 4000),
    kind("garbage", garbage, 4000),
    kind("half-closes", half_closes, 1000),
    kind("length bomb", length_bomb, 4000),
    kind("bad checksum", bad_checksum, 4000),
    kind("bad network", bad_network, 4000),
    kind(FAR, far, 4000),
];

const fn kind(name: &'static str, run: fn(Task), stop_max_ms: usize) -> Kind {
    Kind {
        name,
        run,
        stop_max_ms,
    }
}

/// Becomes a peer if this process was started as one.
pub(crate) fn run_if_child() -> bool {
    let Ok(text) = env::var(VARIABLE) else {
        return false;
    };
    // Nobody is left behind, however the one ends that started this.
    let _ = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    let words: Vec<&str> = text.split(';').collect();
    let kind = KINDS.iter().find(|kind| kind.name == words[0]).unwrap();
    let task = Task {
        addr: words[1].parse().unwrap(),
        far: words[2].parse().unwrap(),
        random: Random(words[3].parse::<u64>().unwrap() << 8 | 1),
    };
    (kind.run)(task);
    true
}

fn pause(milliseconds: u64) {
    thread::sleep(Duration::from_millis(milliseconds));
}

// ----- those that behave -------------------------------------------------------------------------

/// Makes round trips, alternately by the dispatcher and by the handler, and prints each one.
fn canary(task: Task) {
    let mut client = Client::connect(task.addr);
    let mut out = std::io::stdout().lock();
    for number in 0_u64.. {
        let message_type = if number % 2 == 0 { 1 } else { HANDLED };
        let payload = number.to_be_bytes().repeat(8);
        let started = Instant::now();
        client.send_message(message_type, &payload);
        client.expect(message_type, &payload);
        let micros = started.elapsed().as_micros();
        if writeln!(out, "{micros}").is_err() {
            return;
        }
        pause(3);
    }
}

fn good(mut task: Task) {
    let mut clients: Vec<_> = (0..8).map(|_| Client::connect(task.addr)).collect();
    loop {
        let mut sent = Vec::new();
        for client in &mut clients {
            let messages: Vec<_> = (0..task.random.below(30))
                .map(|_| {
                    let size = task.random.below(1000) * task.random.below(4);
                    let message_type = task.random.below(0x1001) as u16;
                    (message_type, vec![task.random.next() as u8; size])
                })
                .collect();
            let mut bytes = Vec::new();
            for (message_type, payload) in &messages {
                let frame = Frame::new(MessageType(*message_type), payload);
                let frame = frame.with_checksum(*message_type % 2 == 1);
                bytes.extend_from_slice(&encoded(&frame));
            }
            client.stream.write_all(&bytes).unwrap();
            sent.push(messages);
        }
        for (client, messages) in clients.iter_mut().zip(sent) {
            // What the handler answers may pass what the dispatcher has.
            let (handled, echoed): (Vec<_>, Vec<_>) =
                messages.into_iter().partition(|one| one.0 == HANDLED);
            let (mut handled, mut echoed) = (handled.into_iter(), echoed.into_iter());
            for _ in 0..handled.len() + echoed.len() {
                let answer = client.receive().expect("an answer");
                let next = match answer.message_type.0 {
                    HANDLED => handled.next(),
                    _ => echoed.next(),
                };
                assert_eq!(Some((answer.message_type.0, answer.payload)), next);
            }
        }
        pause(20);
    }
}

/// Comes with a HELLO, stays for a while, answers what it is asked.
fn hello(mut task: Task) {
    loop {
        let mut client = Client::connect(task.addr);
        let mut node_id = [0; 16];
        node_id.fill_with(|| task.random.next() as u8);
        let hello = Hello {
            node_id,
            agent: "soak",
            ..Hello::default()
        };
        client.try_write(&encoded(&Frame::new(HELLO, &hello.to_payload())));
        // Without descriptors, the service closes whoever comes.
        let Some(answer) = client.receive() else {
            pause(50);
            continue;
        };
        assert_eq!(answer.message_type, OK);
        for number in 0..100_u64 {
            client.send_message(2, &number.to_be_bytes());
            loop {
                let answer = client.receive().expect("an answer");
                if answer.message_type == MessageType(2) {
                    assert_eq!(answer.payload, number.to_be_bytes());
                    break;
                }
                client.send(&Frame::new(MessageType(0xFF04), &answer.payload));
            }
            pause(20);
        }
    }
}

fn half_closes(mut task: Task) {
    loop {
        let mut client = Client::connect(task.addr);
        let count = 1 + task.random.below(200) as u64;
        let bytes: Vec<u8> = (0..count).flat_map(message).collect();
        let whole = client.try_write(&bytes);
        let _ = client.stream.shutdown(Shutdown::Write);
        let answers = count_answers(&mut client);
        // All, or it was not let in.
        assert!(
            answers == 0 || (whole && answers == count),
            "{answers} of {count}"
        );
        pause(30);
    }
}

// ----- those that do not -------------------------------------------------------------------------

fn message(number: u64) -> Vec<u8> {
    encoded(&Frame::new(MessageType(3), &number.to_be_bytes()))
}

/// Answers until the end of the connection, which have to be the first ones.
fn count_answers(client: &mut Client) -> u64 {
    let mut count = 0_u64;
    while let Some(answer) = client.receive() {
        if answer.message_type != BYE {
            assert_eq!(answer.payload, count.to_be_bytes());
            count += 1;
        }
    }
    count
}

fn churn(mut task: Task) {
    loop {
        let mut client = Client::connect(task.addr);
        match task.random.below(4) {
            0 => client.reset(),
            1 => {
                client.try_write(b"\0\0\0\x06\0\x07");
                client.reset();
            }
            2 => {
                client.try_write(&message(0));
                drop(client.receive());
                client.reset();
            }
            _ => {
                client.try_write(b"\0\0\0\x04");
                drop(client);
            }
        }
        pause(5);
    }
}

fn slow_reader(task: Task) {
    loop {
        let client = Client::connect_small(task.addr);
        let mut writing = client.stream.try_clone().unwrap();
        let writer = thread::spawn(move || {
            let piece: Vec<u8> = (0..100).flat_map(message).collect();
            while writing.write_all(&piece).is_ok() {}
        });
        let mut reading = &*client.stream;
        let started = Instant::now();
        let mut buffer = [0; 1024];
        while started.elapsed() < Duration::from_secs(20) {
            match reading.read(&mut buffer) {
                Ok(1..) => pause(20),
                Ok(0) | Err(_) => break,
            }
        }
        client.reset();
        writer.join().unwrap();
    }
}

fn never_reads(task: Task) {
    loop {
        let mut clients: Vec<_> = (0..10).map(|_| Client::connect_small(task.addr)).collect();
        let piece: Vec<u8> = (0..100).flat_map(message).collect();
        for client in &clients {
            client.stream.set_nonblocking(true).unwrap();
        }
        // Until it has been closed, by the write stall.
        while !clients.is_empty() {
            clients.retain_mut(|client| match client.stream.write(&piece) {
                Ok(_) => true,
                Err(error) => error.kind() == ErrorKind::WouldBlock,
            });
            pause(20);
        }
    }
}

fn garbage(mut task: Task) {
    loop {
        let mut client = Client::connect(task.addr);
        let size = 1 + task.random.below(3000);
        let bytes: Vec<u8> = (0..size).map(|_| task.random.next() as u8).collect();
        client.try_write(&bytes);
        let mut buffer = [0; 1024];
        while let Ok(1..) = client.stream.read(&mut buffer) {}
        pause(30);
    }
}

/// Announces much and sends little; some send nearly all of it.
fn length_bomb(mut task: Task) {
    loop {
        let mut clients: Vec<_> = (0..20).map(|_| Client::connect(task.addr)).collect();
        for (number, client) in clients.iter_mut().enumerate() {
            let (length, sent) = match number % 4 {
                0 => (u32::MAX, 0),
                1 => (0x8000_0000, 0),
                2 => (1 << 20, 1),
                _ => (1 << 20, task.random.below(1 << 20)),
            };
            // A frame that comes first has another deadline than those behind it.
            let mut bytes = if number % 8 < 4 {
                message(0)
            } else {
                Vec::new()
            };
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend_from_slice(b"\0\x07\0\x01");
            bytes.resize(bytes.len() + sent, 0);
            client.try_write(&bytes);
        }
        for client in &mut clients {
            while client.receive().is_some() {}
        }
    }
}

fn bad_checksum(task: Task) {
    loop {
        let mut client = Client::connect(task.addr);
        let mut bytes = message(0);
        bytes.extend(encoded(
            &Frame::new(MessageType(3), b"damaged").with_checksum(true),
        ));
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        client.try_write(&bytes);
        let answers = count_answers(&mut client);
        assert!(answers <= 1, "a damaged message came back");
        pause(30);
    }
}

// ----- services ----------------------------------------------------------------------------------

/// A service that stays linked with ours through a network that breaks.
fn bad_network(mut task: Task) {
    let faults = Faults {
        delay: Duration::from_millis(3),
        split: 50,
        stop: 20,
        stop_time: Duration::from_millis(300),
        cut: 5,
        half_close: 5,
        corrupt: [5, 5],
        silence: 5,
        ..Faults::default()
    };
    let proxy = Proxy::start(task.addr, task.random.next() >> 32, faults);
    let mut service = NetService::new(config().listen_nowhere().node_id([7; 16])).unwrap();
    let mut answers = service.handle().subscribe(TypeFilter::all()).unwrap();
    let events = service
        .handle()
        .subscribe_events(EventOptions::new())
        .unwrap();
    service.start().unwrap();
    let kept = ConnectOptions::from(proxy.addr).keep_connected(true);
    service.handle().connect(kept).unwrap();
    let (mut current, mut sent, mut answered) = (None, 0_u64, 0_u64);
    loop {
        while let Ok(event) = events.try_recv() {
            match event {
                Event::Connected { peer, .. } => (current, sent, answered) = (Some(peer), 0, 0),
                Event::Closed(_) => current = None,
                _ => {}
            }
        }
        while let Ok(answer) = answers.try_recv() {
            // Those of an older connection have nothing to be compared with any more.
            if Some(answer.peer()) == current {
                assert_eq!(answer.payload(), answered.to_be_bytes());
                answered += 1;
            }
        }
        if let Some(peer) = current {
            let payload = sent.to_be_bytes();
            let message = Outgoing::new(MessageType(4), &payload).checksum(true);
            sent += u64::from(service.handle().send(peer, message).is_ok());
        }
        pause(2);
    }
}

/// What our service is linked with; it gives everything back.
fn far(task: Task) {
    let mut service = NetService::new(config().listen(task.far)).unwrap();
    let options = SubscribeOptions::new(TypeFilter::all()).overflow(OverflowPolicy::Pause);
    let mut messages = service.handle().subscribe_with(options).unwrap();
    service.start().unwrap();
    while let Ok(message) = messages.recv() {
        // The other end may have gone.
        let _ = service.handle().reply(&message, message.payload());
    }
}
