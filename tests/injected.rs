//! Errors of system calls, injected by `strace` into the loop of the program: what the kernel says
//! seldom, and never when a test would like it to.
//!
//! A row names calls, an error, and the occurrences that get it. Afterwards the service has to have
//! served everybody else completely, to have counted what happened, and to rest when there is
//! nothing to do. Where `strace` is not installed or may not trace, the tests say so and pass.
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
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use nebnet::{
    MessageType,
    frame::{Decoder, Frame, Hello},
};
use rustix::process::{Pid, Signal, kill_process};

use harness::{Service, TempFile, failure, wait_until};
use util::{Client, HELLO, OK, PING, PONG, encoded};

/// Messages of a client, sent in pieces without waiting for answers.
const MESSAGES: u32 = 300;
const MESSAGES_PER_PIECE: u32 = 20;
/// Clients of a row.
const CLIENTS: usize = 4;
/// A client that got nothing for so long sends one message more: an error that is injected, and not
/// the kernel's, is followed by no edge.
const NUDGE: Duration = Duration::from_millis(100);
const NUDGES_MAX: u32 = 200;
/// How long a service is looked at while there is nothing to do, and the calls it may make then.
const QUIET: Duration = Duration::from_millis(300);
const QUIET_CALLS_MAX: usize = 100;
/// Calls that a listener may make in the same time while none of them can succeed.
const FUTILE_CALLS_MAX: usize = 1000;

/// What is injected, and what has to hold afterwards.
struct Row {
    /// As `strace -e inject=` takes it.
    inject: &'static str,
    /// Clients out of [`CLIENTS`] that are served to their last message; the others are closed.
    served: usize,
    /// A counter of the metrics page, and what it says at the end.
    counter: (&'static str, u64),
}

const fn row(inject: &'static str, served: usize, counter: (&'static str, u64)) -> Row {
    Row {
        inject,
        served,
        counter,
    }
}

const fn accept_errors(count: u64) -> (&'static str, u64) {
    ("nebnet_accept_errors_total", count)
}

const NO_ERROR: (&str, u64) = accept_errors(0);
const ONE_RESET: (&str, u64) = ("nebnet_peers_closed_total{reason=\"reset\"}", 1);
const ONE_STALE: (&str, u64) = ("nebnet_peers_closed_total{reason=\"stale\"}", 1);
const ONE_TURNED_AWAY: (&str, u64) = ("nebnet_peers_closed_total{reason=\"too_many_peers\"}", 1);
const ONE_IO: (&str, u64) = ("nebnet_peers_closed_total{reason=\"io\"}", 1);

const ACCEPTING: &[Row] = &[
    // The spare descriptor lets the one that waits be closed, so that it knows.
    row("accept4:error=EMFILE:when=1", 3, accept_errors(1)),
    row("accept4:error=EMFILE:when=1", 3, ONE_TURNED_AWAY),
    // Not even that; whoever waits is served later, although no edge comes.
    row("accept4:error=EMFILE:when=1..2", 4, accept_errors(1)),
    row("accept4:error=ENFILE:when=1..3", 4, accept_errors(3)),
    row("accept4:error=ENOBUFS:when=1..3", 4, accept_errors(3)),
    row("accept4:error=ENOMEM:when=1..3", 4, accept_errors(3)),
    row("accept4:error=ECONNABORTED:when=1..5", 4, accept_errors(5)),
    row("accept4:error=EPERM:when=1..5", 4, accept_errors(5)),
    row("accept4:error=EPROTO:when=1..5", 4, accept_errors(5)),
    row("accept4:error=ENETDOWN:when=1..5", 4, accept_errors(5)),
    // More than a turn has.
    row("accept4:error=EPROTO:when=1..100", 4, accept_errors(100)),
];

const REGISTERING: &[Row] = &[
    row("epoll_ctl:error=ENOSPC:when=2", 3, ONE_IO),
    row("epoll_ctl:error=ENOMEM:when=3", 3, ONE_IO),
];

const READING: &[Row] = &[
    row("recvfrom:error=EINTR:when=1..40", 4, NO_ERROR),
    row("recvfrom:error=ECONNRESET:when=2", 3, ONE_RESET),
    row("recvfrom:error=ETIMEDOUT:when=2", 3, ONE_STALE),
    row("recvfrom:error=EHOSTUNREACH:when=2", 3, ONE_STALE),
    row("recvfrom:error=EHOSTDOWN:when=2", 3, ONE_STALE),
    row("recvfrom:error=ENOMEM:when=2", 3, ONE_IO),
    row("recvfrom:error=EAGAIN:when=2..3", 4, NO_ERROR),
];

const WRITING: &[Row] = &[
    row("sendto,sendmsg:error=EINTR:when=1..20", 4, NO_ERROR),
    row("sendto,sendmsg:error=EAGAIN:when=1..2", 4, NO_ERROR),
    row("sendto,sendmsg:retval=0:when=1..2", 4, NO_ERROR),
    row("sendto:error=EPIPE:when=2", 3, ONE_RESET),
    row("sendto:error=ECONNRESET:when=2", 3, ONE_RESET),
    row("sendto:error=ENOBUFS:when=2", 3, ONE_IO),
    row("sendto:error=ETIMEDOUT:when=2", 3, ONE_STALE),
    row("sendto:error=EHOSTUNREACH:when=2", 3, ONE_STALE),
    row("sendto:error=ENETDOWN:when=2", 3, ONE_STALE),
];

const WAITING: &[Row] = &[
    row(
        "?epoll_wait,?epoll_pwait:error=EINTR:when=1..100",
        4,
        NO_ERROR,
    ),
    row("?epoll_wait,?epoll_pwait:error=EINTR:when=2+3", 4, NO_ERROR),
];

/// What a link comes back through, and how its first attempt to do so fails.
const DIALLING: &[(&str, &str)] = &[
    ("socket:error=EMFILE:when=1..2", "open files"),
    ("socket:error=ENOBUFS:when=1", "buffer space"),
    ("connect:error=ECONNREFUSED:when=1..2", "refused"),
    ("connect:error=ENETUNREACH:when=1..2", "unreachable"),
    ("connect:error=EADDRNOTAVAIL:when=1..2", "requested address"),
    ("epoll_ctl:error=ENOSPC:when=1", "space left"),
    ("getsockopt:error=ENOBUFS:when=1", "buffer space"),
    ("setsockopt:error=ENOMEM:when=1", "memory"),
];

#[test]
fn errors_of_accept_end_nothing_and_spin_nowhere() {
    ACCEPTING.iter().for_each(check);
}

#[test]
fn a_connection_that_cannot_be_registered_is_closed() {
    REGISTERING.iter().for_each(check);
}

#[test]
fn errors_of_reading_are_one_connections_own() {
    READING.iter().for_each(check);
}

#[test]
fn errors_of_writing_are_one_connections_own() {
    WRITING.iter().for_each(check);
}

#[test]
fn interrupted_waits_are_waited_again() {
    WAITING.iter().for_each(check);
}

/// An accept that fails for as long as a rule of the system stands was tried again at once.
#[test]
fn a_rule_that_lets_nobody_in_costs_no_processor() {
    for inject in [
        "accept4:error=EPERM",
        "accept4:error=EMFILE",
        "accept4:error=ENOMEM",
    ] {
        let (service, _) = start();
        let mut early = Client::connect(service.addr);
        early.ping(b"here");
        let Some(trace) = Trace::attach(&service, inject) else {
            return;
        };
        let mut outside = Client::connect(service.addr);
        wait_until("the error", || trace.injected() > 0);
        let before = trace.calls();
        pause(QUIET);
        let calls = trace.calls() - before;
        assert!(calls < FUTILE_CALLS_MAX, "{inject}: {calls} calls");
        early.ping(b"still served");
        trace.end();
        // Those that wait are served without another that comes.
        outside.ping(b"at last");
        finish(service, inject);
    }
}

/// One that will never work again is said to be so once, and not asked again.
#[test]
fn a_dead_listener_is_told_and_everything_else_goes_on() {
    for (error, said) in [
        ("EBADF", "Bad file descriptor"),
        ("EINVAL", "Invalid argument"),
        ("ENOTSOCK", "Socket operation on non-socket"),
    ] {
        let args = ["--echo", "--metrics", "127.0.0.1:0", "--shards", "1"];
        let mut service = Service::start(&[&["--listen", "127.0.0.1:0"], &args[..]].concat());
        let (dead, alive) = (service.addr, service.announced("listening on "));
        let metrics = service.announced("metrics on ");
        let mut early = Client::connect(dead);
        early.ping(b"here");
        let inject = format!("accept4:error={error}:when=1");
        let Some(trace) = Trace::attach(&service, &inject) else {
            return;
        };
        let _unheard = [(); 3].map(|()| Client::connect(dead));
        let line = format!("listener 0 is dead: {said}");
        wait_until("it to be said", || service.stderr().contains(&line));
        assert_eq!(counter(metrics, "nebnet_accept_errors_total"), 1, "{error}");
        early.ping(b"still served");
        assert!(served(connect(alive)).is_some(), "{error}");
        drop(early);
        trace.expect_rest(&inject);
        trace.end();
        let text = service.stderr();
        assert_eq!(text.matches("is dead").count(), 1, "{text}");
        finish(service, &inject);
    }
}

/// Without its poll, a service can do nothing but say so and end.
#[test]
fn a_poll_that_fails_ends_the_service_with_a_line() {
    let (service, _) = start();
    let mut client = Client::connect(service.addr);
    client.ping(b"");
    let inject = "?epoll_wait,?epoll_pwait:error=EBADF:when=3";
    let Some(trace) = Trace::attach(&service, inject) else {
        return;
    };
    // Each needs a poll.
    while client.try_write(&encoded(&Frame::new(PING, b"")))
        && client
            .receive()
            .is_some_and(|answer| answer.message_type == PONG)
    {}
    let (code, text) = service.wait();
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("poll failed: Bad file descriptor"), "{text}");
    drop(trace);
}

#[test]
fn a_start_that_fails_says_why_in_a_line() {
    for (inject, said) in [
        ("socket:error=EMFILE", "open files"),
        ("bind:error=EACCES", "denied"),
        ("listen:error=EADDRINUSE", "in use"),
        ("setsockopt:error=ENOMEM", "memory"),
        ("epoll_create1:error=EMFILE", "open files"),
        ("epoll_ctl:error=ENOSPC", "space left"),
        ("eventfd2:error=ENFILE", "open files"),
    ] {
        let (calls, _) = inject.split_once(':').unwrap();
        let output = Command::new("strace")
            .args([
                "-f",
                "-qq",
                "-o",
                "/dev/null",
                "-e",
                &format!("trace={calls}"),
            ])
            .args([
                "-e",
                &format!("inject={inject}"),
                env!("CARGO_BIN_EXE_nebnet"),
            ])
            .args(["serve", "--listen", "127.0.0.1:0"])
            .stdin(Stdio::null())
            .output();
        let Ok(output) = output else {
            eprintln!("skipped: strace is not installed");
            return;
        };
        let text = String::from_utf8_lossy(&output.stderr);
        if text.contains("not permitted") || text.contains("not implemented") {
            eprintln!("skipped: strace may not trace: {text}");
            return;
        }
        let (code, line) = failure(&output);
        assert_eq!(code, 1, "{inject}: {line}");
        assert!(line.contains(said), "{inject}: {line}");
    }
}

/// Nothing is injected here but looked at: what is written to a connection that was reset fails
/// with an error, and raises no signal that would end a program that does not ignore it.
#[test]
fn a_write_to_a_reset_connection_raises_no_signal() {
    let (service, metrics) = start();
    let nothing = "sendto,sendmsg:error=EINTR:when=65535";
    let Some(trace) = Trace::attach(&service, nothing) else {
        return;
    };
    for _ in 0..100 {
        let mut client = Client::connect(service.addr);
        let bytes = encoded(&Frame::new(MessageType(7), &[0; 2000])).repeat(20);
        client.try_write(&bytes);
        // After a FIN, a RST makes it EPIPE.
        client.stream.shutdown(Shutdown::Write).unwrap();
        client.reset();
    }
    wait_until("all to be gone", || {
        counter(metrics, "nebnet_peers_accepted_total") == 100
            && counter(metrics, "nebnet_peers") == 0
    });
    assert!(trace.lines("EPIPE") > 0);
    assert_eq!(trace.lines("SIGPIPE"), 0);
    trace.end();
    finish(service, nothing);
}

#[test]
fn links_come_back_through_errors_of_dialling() {
    // Side by side, since most of the time is pauses between attempts.
    thread::scope(|scope| {
        for (inject, said) in DIALLING {
            scope.spawn(|| check_dialling(inject, said));
        }
    });
}

/// A link is lost, and comes back although the first attempts fail as injected.
fn check_dialling(inject: &str, said: &str) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap().to_string();
    let service = Service::start(&["--echo", "--connect", &target, "--shards", "1"]);
    let first = accept_link(&listener);
    let Some(trace) = Trace::attach(&service, inject) else {
        return;
    };
    drop(first);
    let mut second = accept_link(&listener);
    // The log is written by a thread of its own.
    wait_until(said, || service.stderr().contains(said));
    for number in 0..MESSAGES {
        second.send_message(7, &number.to_be_bytes());
    }
    for number in 0..MESSAGES {
        second.expect(7, &number.to_be_bytes());
    }
    trace.expect_rest(inject);
    trace.end();
    finish(service, inject);
}

/// Accepts what the service dials, and lets it in.
fn accept_link(listener: &TcpListener) -> Client {
    loop {
        let mut client = Client::of(listener.accept().unwrap().0);
        // An attempt that was given up leaves a connection behind that says nothing.
        let Some(hello) = client.receive() else {
            continue;
        };
        assert_eq!(hello.message_type, HELLO);
        let answer = Hello::default().to_payload();
        client.send(&Frame::new(OK, &answer));
        client.ping(b"");
        return client;
    }
}

/// Runs a row: injects, has clients served, and looks at what is left.
fn check(row: &Row) {
    let (service, metrics) = start();
    let Some(trace) = Trace::attach(&service, row.inject) else {
        return;
    };
    let clients: Vec<_> = (0..CLIENTS).map(|_| connect(service.addr)).collect();
    let clients = clients.into_iter();
    let threads: Vec<_> = clients.map(|one| thread::spawn(|| served(one))).collect();
    // All stay until the last is served: an error that comes instead of a FIN would not be told.
    let results: Vec<_> = threads.into_iter().map(|one| one.join().unwrap()).collect();
    let served = results.iter().flatten().count();
    assert_eq!(served, row.served, "{}: {}", row.inject, service.stderr());
    assert!(trace.injected() > 0, "{} happened", row.inject);
    drop(results);
    wait_until(&format!("everybody to be gone: {}", row.inject), || {
        counter(metrics, "nebnet_peers") == 0
    });
    let (name, expected) = row.counter;
    assert_eq!(counter(metrics, name), expected, "{}: {name}", row.inject);
    let sum = |names: [&str; 3]| names.map(|name| counter(metrics, name)).iter().sum::<u64>();
    let accepted = counter(metrics, "nebnet_outbound_accepted_messages_total");
    let ends = sum([
        "nebnet_outbound_messages_total",
        "nebnet_outbound_dropped_messages_total",
        "nebnet_outbound_overflowed_messages_total",
    ]);
    assert_eq!(accepted, ends, "{}", row.inject);
    trace.expect_rest(row.inject);
    trace.end();
    finish(service, row.inject);
}

/// A service that echoes, and where its metrics are.
fn start() -> (Service, SocketAddr) {
    let mut service = Service::start(&["--echo", "--metrics", "127.0.0.1:0", "--shards", "1"]);
    let metrics = service.announced("metrics on ");
    (service, metrics)
}

/// It stops as usual.
fn finish(service: Service, inject: &str) {
    service.signal(Signal::TERM);
    let (code, text) = service.wait();
    assert_eq!(code, Some(0), "{inject}: {text}");
    assert!(text.contains(": drained"), "{inject}: {text}");
}

fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(NUDGE)).unwrap();
    stream
}

/// The stream again once every message is answered, in order; `None` if the service closes before.
fn served(mut stream: TcpStream) -> Option<TcpStream> {
    let message = |number: u32| encoded(&Frame::new(MessageType(7), &number.to_be_bytes()));
    let mut sent = 0;
    while sent < MESSAGES {
        let piece: Vec<u8> = (sent..sent + MESSAGES_PER_PIECE)
            .flat_map(message)
            .collect();
        if stream.write_all(&piece).is_err() {
            return None;
        }
        sent += MESSAGES_PER_PIECE;
    }
    let (mut bytes, mut answered) = (Vec::new(), 0_u32);
    while answered < sent {
        let mut piece = [0; 4096];
        match stream.read(&mut piece) {
            Ok(0) => return None,
            Ok(count) => bytes.extend_from_slice(&piece[..count]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                assert!(sent < MESSAGES + NUDGES_MAX, "{answered} of {sent} answers");
                if stream.write_all(&message(sent)).is_err() {
                    return None;
                }
                sent += 1;
            }
            Err(_) => return None,
        }
        while let Some((frame, size)) = Decoder::new(100).decode(&bytes).unwrap() {
            assert_eq!(frame.message_type, MessageType(7));
            assert_eq!(frame.payload, answered.to_be_bytes());
            answered += 1;
            bytes.drain(..size);
        }
    }
    Some(stream)
}

/// What a line of the metrics page says.
fn counter(metrics: SocketAddr, name: &str) -> u64 {
    let mut stream = TcpStream::connect(metrics).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    let value = page.lines().find_map(|line| {
        let rest = line.strip_prefix(name)?;
        rest.strip_prefix(' ')?.parse().ok()
    });
    value.unwrap_or_else(|| panic!("no {name}: {page}"))
}

/// Not to be right about anything: how long something is looked at that should not happen.
fn pause(time: Duration) {
    thread::sleep(time);
}

/// A `strace` that looks at the loop's thread, and nothing else.
struct Trace {
    strace: Child,
    log: TempFile,
}

impl Trace {
    /// Injects into the loop of a service. `None` where that cannot be done.
    fn attach(service: &Service, inject: &str) -> Option<Self> {
        let log = TempFile::new("");
        let thread = loop_thread(service);
        let (calls, _) = inject.split_once(':').unwrap();
        let strace = Command::new("strace")
            .args(["-qq", "-o", log.name(), "-p", &thread.to_string()])
            .args(["-e", &format!("trace={calls},?epoll_wait,?epoll_pwait")])
            .args(["-e", &format!("inject={inject}")])
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut strace) = strace else {
            eprintln!("skipped: strace is not installed");
            return None;
        };
        let status = format!("/proc/{thread}/status");
        let mut ended = false;
        wait_until("strace to attach", || {
            ended = strace.try_wait().unwrap().is_some();
            let text = fs::read_to_string(&status).unwrap();
            ended || !text.contains("TracerPid:\t0\n")
        });
        if ended {
            let mut why = String::new();
            let mut pipe = strace.stderr.take().unwrap();
            pipe.read_to_string(&mut why).unwrap();
            let may_not = why.contains("not permitted") || why.contains("not implemented");
            assert!(may_not, "{inject}: {why}");
            eprintln!("skipped: strace may not trace: {why}");
            return None;
        }
        Some(Self { strace, log })
    }

    fn lines(&self, wanted: &str) -> usize {
        let text = fs::read_to_string(&self.log.path).unwrap();
        text.lines().filter(|line| line.contains(wanted)).count()
    }

    /// Calls so far that failed, or returned, as injected.
    fn injected(&self) -> usize {
        self.lines("(INJECTED)")
    }

    fn calls(&self) -> usize {
        self.lines("")
    }

    /// The service has nothing to do, and does nothing.
    #[track_caller]
    fn expect_rest(&self, inject: &str) {
        let before = self.calls();
        pause(QUIET);
        let calls = self.calls() - before;
        assert!(calls <= QUIET_CALLS_MAX, "{inject}: {calls} calls at rest");
    }

    /// Lets go of the loop.
    fn end(mut self) {
        kill_process(Pid::from_child(&self.strace), Signal::TERM).unwrap();
        self.strace.wait().unwrap();
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // Both fail if it has ended already.
        let _ = self.strace.kill();
        let _ = self.strace.wait();
    }
}

/// The id of the loop's thread, once it has its name.
fn loop_thread(service: &Service) -> u32 {
    let tasks = format!("/proc/{}/task", service.id());
    let mut found = None;
    wait_until("the loop", || {
        let mut threads = fs::read_dir(&tasks).unwrap().map(Result::unwrap);
        found = threads.find(|task| {
            let name = fs::read_to_string(task.path().join("comm"));
            name.is_ok_and(|name| name == "nebnet-loop\n")
        });
        found.is_some()
    });
    let name = found.unwrap().file_name();
    name.to_str().unwrap().parse().unwrap()
}
