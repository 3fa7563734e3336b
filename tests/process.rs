//! What happens to whole processes: stopped and continued, without descriptors, with descriptors
//! that a child could inherit, with a log that a peer would like to fill.
#![cfg(feature = "cli")]
#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests wait by the clock, and end where something is wrong"
)]

#[path = "cli/harness.rs"]
#[allow(dead_code, reason = "this file uses a part of it")]
mod harness;
mod util;

use std::{
    fs,
    io::Write as _,
    net::TcpStream,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use nebnet::{
    CloseReason, ConnectOptions, MessageType,
    frame::{Bye, Frame, Hello},
};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};

use harness::{Service, nebnet, wait_until};
use util::{
    BYE, Client, End, HELLO, OK, PING, PONG, closed_for, config, encoded, start_echo, start_tap,
    stop_tap,
};

/// How long a process is stopped: longer than the timeouts that are not to strike.
const STOPPED: Duration = Duration::from_millis(1200);

/// Continues a process that was stopped, also when a test ends early.
struct Stopped(Pid);

impl Stopped {
    fn stop(id: u32) -> Self {
        let pid = Pid::from_raw(i32::try_from(id).unwrap()).unwrap();
        kill_process(pid, Signal::STOP).unwrap();
        let status = format!("/proc/{id}/status");
        wait_until("it to stand still", || {
            fs::read_to_string(&status).unwrap().contains("State:\tT")
        });
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill_process(self.0, Signal::CONT);
    }
}

/// A client whose window stays closed is cut off by the write stall; nobody else waits for it.
#[test]
fn a_client_that_stands_still_is_cut_off_and_delays_nobody() {
    let config = config()
        .write_stall_timeout(Duration::from_millis(500))
        .outbox_bytes(256 << 10);
    let (service, echo) = start_echo(config);
    let addr = service.local_addrs()[0];
    let mut client = nebnet()
        .args(["send", &addr.to_string(), "--type", "7", "--size", "10K"])
        .args(["--count", "100000000", "--replies"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("echoes", || {
        service.handle().snapshot().outbound_written.messages > 100
    });
    let peer = util::only_peer(&service);
    let stopped = Stopped::stop(client.id());
    let mut other = Client::connect(addr);
    wait_until("the write stall", || {
        // More than what it sent itself, of which the kernel may have taken every answer.
        let _ = service
            .handle()
            .send(peer, (MessageType(7), vec![0; 10 << 10]));
        other.send_message(1, b"not stopped");
        other.expect(1, b"not stopped");
        closed_for(&service.handle().snapshot(), CloseReason::SlowPeer) == 1
    });
    drop(stopped);
    client.wait().unwrap();
    drop(other);
    util::stop_echo(service, echo);
}

/// Everybody who was there and said what was due is still there when the service goes on: a poll
/// that the stop had interrupted gave no events, and time was judged before they were looked at.
#[test]
fn a_service_that_stood_still_closes_nobody_for_it() {
    let service = Service::start(&[
        "--echo",
        "--first-frame-timeout",
        "400ms",
        "--frame-timeout",
        "400ms",
        "--idle-timeout",
        "400ms",
        "--write-stall-timeout",
        "400ms",
        "--heartbeat-interval",
        "200ms",
        "--heartbeat-timeout",
        "400ms",
    ]);
    let mut begun = Client::connect(service.addr);
    begun.ping(b"");
    let mut greeted = Client::connect(service.addr);
    greeted.send(&Frame::new(HELLO, &Hello::default().to_payload()));
    assert_eq!(greeted.receive().unwrap().message_type, OK);
    let frame = encoded(&Frame::new(MessageType(7), b"begun before"));
    assert!(begun.try_write(&frame[..9]));
    let stopped = Stopped::stop(service.id());
    // These wait in the backlog.
    let mut new = Client::connect(service.addr);
    let mut silent = Client::connect(service.addr);
    new.send_message(7, b"new");
    assert!(begun.try_write(&frame[9..]));
    greeted.send_message(7, b"alive");
    thread::sleep(STOPPED);
    drop(stopped);
    new.expect(7, b"new");
    begun.expect(7, b"begun before");
    loop {
        // It may have been asked for a sign of life meanwhile.
        let answer = greeted.receive().unwrap();
        if answer.message_type == MessageType(7) {
            assert_eq!(answer.payload, b"alive");
            break;
        }
        assert_eq!(answer.message_type, PING);
        greeted.send(&Frame::new(PONG, &answer.payload));
    }
    // Time runs again for who has said nothing.
    silent.expect_bye(12);
    service.stop();
}

/// Those that were reset while they waited in the backlog cost those behind them nothing.
#[test]
fn connections_that_were_reset_before_they_were_accepted_are_passed_over() {
    let service = Service::start(&["--echo"]);
    let stopped = Stopped::stop(service.id());
    let mut kept = Vec::new();
    for number in 0..200 {
        let mut client = Client::connect(service.addr);
        match number % 4 {
            0 => client.reset(),
            1 => {
                client.send_message(7, b"and gone");
                client.reset();
            }
            2 => drop(client),
            _ => {
                client.send_message(7, b"kept");
                kept.push(client);
            }
        }
    }
    drop(stopped);
    for client in &mut kept {
        client.expect(7, b"kept");
    }
    service.stop();
}

/// Without descriptors the loop waits for better times, and not by looking all the time.
#[test]
fn without_descriptors_who_is_there_is_served_and_who_waits_is_served_later() {
    let service = Service::start(&["--echo"]);
    let mut there: Vec<_> = (0..5).map(|_| Client::connect(service.addr)).collect();
    for client in &mut there {
        client.ping(b"there");
    }
    let id = service.id();
    let pid = Pid::from_raw(i32::try_from(id).unwrap());
    let open = fs::read_dir(format!("/proc/{id}/fd")).unwrap().count() as u64;
    let limit = |current| {
        let old = prlimit(pid, Resource::Nofile, current).unwrap();
        Rlimit {
            current: old.current,
            maximum: old.maximum,
        }
    };
    // No descriptor above those that are open, whose numbers have no gaps.
    let before = limit(Rlimit {
        current: Some(open),
        maximum: rustix::process::getrlimit(Resource::Nofile).maximum,
    });
    // At each of its pauses every loop closes one of those that wait for it.
    let count = 20 * util::shards();
    let waiting: Vec<_> = (0..count).map(|_| Client::connect(service.addr)).collect();
    wait_until("a line that says so", || {
        service.stderr().contains("cannot accept")
    });
    let used = processor_ticks(id);
    for round in 0..50_u8 {
        for client in &mut there {
            client.ping(&[round]);
        }
        thread::sleep(Duration::from_millis(10));
    }
    let used = processor_ticks(id) - used;
    assert!(
        used < 25,
        "{used} ticks of 10 ms while nobody can be accepted"
    );
    limit(before);
    // Some were told by a close; the others are served although nobody else comes.
    let served = waiting.into_iter().filter_map(|mut client| {
        client.try_write(&encoded(&Frame::new(PING, b"late")));
        let answer = client.receive()?;
        assert_eq!(answer.message_type, PONG);
        Some(client)
    });
    let served: Vec<_> = served.collect();
    assert!(served.len() >= 5, "{} of {count}", served.len());
    service.stop();
}

/// User and system time of a process so far.
fn processor_ticks(id: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
    // The name may have blanks; it ends with the last parenthesis.
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let fields = fields.split_whitespace().skip(11).take(2);
    fields.map(|field| field.parse::<u64>().unwrap()).sum()
}

/// What a service opens is closed in every program that the embedder starts.
#[test]
fn no_descriptor_of_a_service_reaches_a_child() {
    let (server, mut server_tap) = start_tap(config());
    let (service, tap) = start_tap(config());
    service
        .handle()
        .listen("127.0.0.1:0".parse().unwrap())
        .unwrap();
    let adopted = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    service.handle().listen_from(adopted).unwrap();
    let mut client = Client::connect(service.local_addrs()[0]);
    client.ping(b"");
    let to = ConnectOptions::from(server.local_addrs()[0]).hello(false);
    service.handle().connect(to).unwrap();
    wait_until("the link", || service.handle().snapshot().dialled == 1);
    server_tap.try_iter().for_each(drop);
    let list = Command::new("ls")
        .args(["-l", "/proc/self/fd"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let list = String::from_utf8(list.stdout).unwrap();
    assert!(list.contains("pipe:"), "its own output: {list}");
    for kind in ["socket:", "eventpoll", "eventfd"] {
        assert!(!list.contains(kind), "{list}");
    }
    drop(client);
    stop_tap(service, tap);
    stop_tap(server, server_tap);
}

/// However many peers say however bad things: a few lines, and no byte of them as it was.
#[test]
fn bad_peers_cannot_fill_or_forge_the_log() {
    let service = Service::start(&["--echo", "--log-level", "info"]);
    let evil = "\u{1b}[2J\r\n2026-01-01T00:00:00.000Z ERROR forged\u{7}";
    let hello = Hello {
        agent: evil,
        ..Hello::default()
    };
    let bye = Bye {
        code: 999,
        text: evil,
    };
    let mut clients = Vec::new();
    for number in 0..300 {
        let mut client = Client::connect(service.addr);
        let mut bytes = encoded(&Frame::new(HELLO, &hello.to_payload()));
        match number % 3 {
            // A second HELLO, a frame of version 27, and words of leave.
            0 => bytes.extend(encoded(&Frame::new(HELLO, &hello.to_payload()))),
            1 => bytes.extend(b"\0\0\0\x04\x1b[2\x1b"),
            _ => bytes.extend(encoded(&Frame::new(BYE, &bye.to_payload()))),
        }
        client.try_write(&bytes);
        clients.push(client);
    }
    for client in &mut clients {
        while client.receive().is_some() {}
    }
    service.signal(Signal::TERM);
    let (code, text) = service.wait();
    assert_eq!(code, Some(0));
    let control = |one: char| one.is_control() && one != '\n';
    assert!(!text.contains(control), "{text:?}");
    assert!(!text.lines().any(|line| line.starts_with("2026-01-01")));
    assert!(text.lines().count() < 30, "{text}");
}

/// One peer that sends as fast as it can, and another that wants little.
#[test]
fn a_firehose_leaves_the_others_their_turn() {
    let (service, mut tap) = start_tap(config());
    let addr = service.local_addrs()[0];
    let mut hose = TcpStream::connect(addr).unwrap();
    let closing = hose.try_clone().unwrap();
    let bytes = encoded(&Frame::new(MessageType(7), &[0; 100])).repeat(1000);
    let pouring = thread::spawn(move || while hose.write_all(&bytes).is_ok() {});
    wait_until("the flood", || {
        service.handle().snapshot().inbound.messages > 10_000
    });
    let mut other = Client::connect(addr);
    for number in 0..200_u16 {
        other.ping(&number.to_be_bytes());
    }
    let _ = closing.shutdown(std::net::Shutdown::Both);
    pouring.join().unwrap();
    other.stream.shutdown(std::net::Shutdown::Write).unwrap();
    other.expect_end(End::Fin);
    wait_until("both are gone", || {
        // Who has left is waited for until its messages are released.
        tap.try_iter().for_each(drop);
        service.handle().snapshot().peers == 0
    });
    stop_tap(service, tap);
}
