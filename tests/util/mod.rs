//! What the tests over real sockets share: a client on the standard library alone, and waiting
//! for a condition without sleeping for a fixed time.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test file uses its part, and a test may unwrap"
)]

pub mod ledgers;
pub mod proxy;
pub mod wire;

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Once,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use nebnet::{
    CloseReason, ClosedRow, Config, Handle, MessageType, NetService, OutgoingBatch, OverflowPolicy,
    PeerId, SendError, Snapshot, StopReport, StopRow, SubscribeOptions, Subscription, TypeFilter,
    frame::{Bye, Decoder, Frame},
};

use ledgers::{arrived, check_stopped};
use wire::{Listens, Wire};

/// How long anything may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A configuration on a free port, with a deadline of the first frame that no test reaches: a
/// client that has nothing to say would meet the default on a busy machine.
///
/// `NEBNET_SHARDS` in the environment makes it one of several loops, so that what holds for one is
/// seen to hold for them.
pub fn config() -> Config {
    Config::default()
        .first_frame_timeout(4 * PATIENCE)
        .listen("127.0.0.1:0".parse().unwrap())
        .shards(shards())
}

/// Loops of a service of these tests, unless a test says otherwise.
pub fn shards() -> usize {
    let asked = std::env::var("NEBNET_SHARDS");
    asked.map_or(1, |number| number.parse().unwrap())
}

/// A service with a tap: a subscriber of everything.
pub fn start_tap(config: Config) -> (NetService, Subscription) {
    let mut service = NetService::new(config).unwrap();
    let tap = service.handle().subscribe(TypeFilter::all()).unwrap();
    service.start().unwrap();
    (service, tap)
}

/// A service that echoes everything, losslessly, on a thread of its own.
///
/// The thread panics if an answer finds no room: the credit is there so that this cannot be.
pub fn start_echo(config: Config) -> (NetService, JoinHandle<u64>) {
    let mut service = NetService::new(config).unwrap();
    let options = SubscribeOptions::new(TypeFilter::all())
        .name("echo")
        .overflow(OverflowPolicy::Pause);
    let mut requests = service.handle().subscribe_with(options).unwrap();
    let handle = service.handle();
    let echo = std::thread::Builder::new()
        .name("echo".to_owned())
        .spawn(move || {
            let mut answers = OutgoingBatch::new();
            let mut count = 0;
            while let Ok(batch) = requests.recv_batch() {
                for message in &batch {
                    answers.push_reply(message, message.payload()).unwrap();
                    count += 1;
                }
                match handle.send_batch(batch.peer(), &mut answers) {
                    Ok(()) => {}
                    Err(SendError::NotConnected | SendError::Closing) => answers.clear(),
                    Err(error) => panic!("an answer for {} was refused: {error}", batch.peer()),
                }
            }
            count
        });
    service.start().unwrap();
    (service, echo.unwrap())
}

/// A peer.
pub struct Client {
    pub stream: Wire,
    /// What was received and not yet looked at begins at `start`.
    buffer: Vec<u8>,
    start: usize,
    end: Option<End>,
}

/// How a connection ended, as its peer sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By a FIN: everything that was sent has arrived.
    Fin,
    /// By a RST: something may be lost.
    Reset,
}

/// A frame that came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub message_type: MessageType,
    pub correlation: Option<u64>,
    pub checksum: bool,
    pub payload: Vec<u8>,
}

impl Client {
    #[track_caller]
    pub fn connect(addr: SocketAddr) -> Self {
        Self::of(TcpStream::connect(addr).unwrap())
    }

    /// Connects with a small receive buffer, so that the kernel holds little of what is not read.
    #[track_caller]
    pub fn connect_small(addr: SocketAddr) -> Self {
        use rustix::net::{AddressFamily, SocketType, connect, socket, sockopt};
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        sockopt::set_socket_recv_buffer_size(&socket, 16 << 10).unwrap();
        connect(&socket, &addr).unwrap();
        Self::of(socket.into())
    }

    /// Connects from a loopback address other than 127.0.0.1.
    #[track_caller]
    pub fn connect_from(local: &str, addr: SocketAddr) -> Self {
        use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        bind(&socket, &SocketAddr::new(local.parse().unwrap(), 0)).unwrap();
        connect(&socket, &addr).unwrap();
        Self::of(socket.into())
    }

    pub fn of(stream: TcpStream) -> Self {
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self {
            stream: Wire::new(stream),
            buffer: Vec::new(),
            start: 0,
            end: None,
        }
    }

    /// Closes by a RST.
    pub fn reset(self) {
        rustix::net::sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO)).unwrap();
    }

    /// Writes bytes to a service that may close meanwhile. False if it did.
    pub fn try_write(&mut self, bytes: &[u8]) -> bool {
        match self.stream.write_all(bytes) {
            Ok(()) => true,
            Err(error) => {
                let closed = [ErrorKind::BrokenPipe, ErrorKind::ConnectionReset];
                assert!(closed.contains(&error.kind()), "write failed: {error}");
                false
            }
        }
    }

    #[track_caller]
    pub fn send(&mut self, frame: &Frame<'_>) {
        self.stream.write_all(&encoded(frame)).unwrap();
    }

    #[track_caller]
    pub fn send_message(&mut self, message_type: u16, payload: &[u8]) {
        self.send(&Frame::new(MessageType(message_type), payload));
    }

    /// The next frame, or `None` at the end of the stream; [`end`](Self::end) tells which end.
    #[track_caller]
    pub fn receive(&mut self) -> Option<Answer> {
        loop {
            let bytes = &self.buffer[self.start..];
            if let Some((frame, size)) = Decoder::new(u32::MAX).decode(bytes).unwrap() {
                let answer = Answer {
                    message_type: frame.message_type,
                    correlation: frame.correlation,
                    checksum: frame.checksum,
                    payload: frame.payload.to_vec(),
                };
                self.start += size;
                return Some(answer);
            }
            self.buffer.drain(..self.start);
            self.start = 0;
            let mut bytes = [0; 64 << 10];
            match self.stream.read(&mut bytes) {
                Ok(0) => {
                    self.end = Some(End::Fin);
                    return None;
                }
                Ok(count) => self.buffer.extend_from_slice(&bytes[..count]),
                // This process was stopped and continued.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                    self.end = Some(End::Reset);
                    return None;
                }
                Err(error) => panic!("no answer: {error}"),
            }
        }
    }

    /// Expects the next frame to be an application message.
    #[track_caller]
    pub fn expect(&mut self, message_type: u16, payload: &[u8]) {
        let answer = self.receive().expect("an answer");
        assert_eq!(answer.message_type, MessageType(message_type), "{answer:?}");
        assert_eq!(answer.payload, payload);
    }

    /// Expects a BYE with this code, and then a FIN.
    #[track_caller]
    pub fn expect_bye(&mut self, code: u16) {
        let answer = self.receive().expect("a BYE");
        assert_eq!(answer.message_type, BYE, "{answer:?}");
        assert_eq!(Bye::parse(&answer.payload).unwrap().code, code);
        self.expect_end(End::Fin);
    }

    /// Expects nothing but the end.
    #[track_caller]
    pub fn expect_end(&mut self, end: End) {
        assert_eq!(self.receive(), None);
        assert_eq!(self.end, Some(end));
        assert_eq!(self.leftover(), 0, "the last frame was cut off");
    }

    /// Expects nothing but the end, in whichever way.
    #[track_caller]
    pub fn expect_end_of_any_kind(&mut self) {
        assert_eq!(self.receive(), None);
    }

    /// How the connection ended, once [`receive`](Self::receive) has given `None`.
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// Sends a PING and expects its PONG: the loop serves this peer.
    #[track_caller]
    pub fn ping(&mut self, payload: &[u8]) {
        self.send(&Frame::new(PING, payload));
        let answer = self.receive().expect("a PONG");
        assert_eq!((answer.message_type, &*answer.payload), (PONG, payload));
    }

    /// Bytes of a partial frame that are left, after the end.
    pub fn leftover(&self) -> usize {
        self.buffer.len() - self.start
    }
}

/// The protocol's own types.
pub const HELLO: MessageType = MessageType(0xFF00);
pub const OK: MessageType = MessageType(0xFF01);
pub const BYE: MessageType = MessageType(0xFF02);
pub const PING: MessageType = MessageType(0xFF03);
pub const PONG: MessageType = MessageType(0xFF04);

pub fn encoded(frame: &Frame<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes).unwrap();
    bytes
}

/// Lets threads of services panic without a backtrace, because a test means them to: to find the
/// names of its frames takes long on a machine that has much else to do, and everybody waits.
pub fn expect_panics() {
    static SET: Once = Once::new();
    SET.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let thread = std::thread::current();
            match thread.name().filter(|name| name.starts_with("nebnet-")) {
                Some(name) => eprintln!("{name}: {info}"),
                None => usual(info),
            }
        }));
    });
}

/// Waits until the condition holds.
#[track_caller]
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited in vain: {what}");
        std::thread::yield_now();
    }
}

/// How many connections closed for a reason.
pub fn closed_for(snapshot: &Snapshot, reason: CloseReason) -> u64 {
    let rows = snapshot.closed.iter();
    rows.filter(|(name, _)| *name == reason)
        .map(|(_, count)| count)
        .sum()
}

/// Waits until so many connections closed for a reason.
#[track_caller]
pub fn wait_for_closed(service: &NetService, reason: CloseReason, count: u64) {
    let what = format!("{count} closed for {reason}");
    wait_until(&what, || {
        closed_for(&service.handle().snapshot(), reason) >= count
    });
    assert_eq!(closed_for(&service.handle().snapshot(), reason), count);
}

/// Waits until one connection is listed as closed, and gives its row.
#[track_caller]
pub fn wait_for_row(service: &NetService, peer: PeerId) -> ClosedRow {
    let handle = service.handle();
    let mut found = None;
    wait_until("the row of a closed connection", || {
        found = handle
            .recently_closed()
            .unwrap()
            .into_iter()
            .find(|row| row.peer == peer);
        found.is_some()
    });
    found.unwrap()
}

/// The only connection that there is, once it is there.
#[track_caller]
pub fn only_peer(service: &NetService) -> PeerId {
    let handle = service.handle();
    wait_until("one peer", || service.handle().snapshot().peers == 1);
    handle.peers().unwrap()[0].peer
}

/// Stops, however that may end, and holds the sums against each other. Tests stop services by this,
/// or by what is built on it.
#[track_caller]
pub fn stop_within(service: &mut NetService, deadline: Duration) -> StopReport {
    let handle = service.handle();
    // First the clock, so that this is not later than it was.
    let made = Instant::now().checked_sub(handle.snapshot().uptime);
    let before = handle.recently_closed().unwrap();
    let report = service.stop(deadline);
    let listens = Listens {
        addrs: service.local_addrs(),
        since: made.expect("the machine is older"),
    };
    check_stopped(listens, before, &report);
    for balance in [report.snapshot.balance(), service.handle().balance()] {
        assert!(balance.is_exact(), "{balance}\n{report}");
    }
    check_stop_rows(&report);
    report
}

/// Stops from a thread of the service, which cannot wait for the end: the final report, and the
/// sums with it, come from [`wait_stopped`].
pub fn stop_from_inside(service: &mut NetService) -> StopReport {
    // Far beyond the patience of a test: if it were waited for, the test would fail.
    service.stop(100 * PATIENCE)
}

/// Waits for the end of a service, and holds the sums against each other.
#[track_caller]
pub fn wait_stopped(handle: &Handle) -> StopReport {
    let report = handle.wait_stopped(PATIENCE);
    assert!(report.is_final(), "{report}");
    for balance in [report.snapshot.balance(), handle.balance()] {
        assert!(balance.is_exact(), "{balance}\n{report}");
    }
    check_stop_rows(&report);
    report
}

/// Holds what a stop says of each peer against what it says of all.
#[track_caller]
fn check_stop_rows(report: &StopReport) {
    let listed = report.peers.len() as u64;
    let closed = report.closed_orderly + report.closed_abortive;
    assert_eq!(listed + report.peers_unlisted, closed, "{report}");
    let loses = |row: &StopRow| row.closed.lost.messages > 0;
    assert!(report.peers.is_sorted_by_key(|row| !loses(row)), "{report}");
    for row in &report.peers {
        let closed = &row.closed;
        assert!(row.flushed.messages <= closed.outbound.messages, "{row}");
        assert!(row.delivered + row.held <= closed.inbound.messages, "{row}");
    }
}

/// Stops in peace: everything came to its end.
#[track_caller]
pub fn stop(service: &mut NetService) -> StopReport {
    let report = stop_within(service, Duration::from_secs(10));
    assert!(report.joined, "{report}");
    assert_balanced(&report.snapshot);
    report
}

/// Stops a service that echoes.
#[track_caller]
pub fn stop_echo(mut service: NetService, echo: JoinHandle<u64>) -> StopReport {
    let report = stop(&mut service);
    echo.join().expect("no answer was refused");
    assert_eq!(
        service.handle().snapshot().memory_used,
        0,
        "every byte came back"
    );
    report
}

/// Stops a service with a tap.
#[track_caller]
pub fn stop_tap(mut service: NetService, tap: Subscription) -> StopReport {
    let report = stop(&mut service);
    drop(tap);
    assert_eq!(
        service.handle().snapshot().memory_used,
        0,
        "every byte came back"
    );
    report
}

/// Sets a flag when it is dropped: threads that go on until then end with a test that fails, too.
#[derive(Debug)]
pub struct SetAtEnd<'a>(pub &'a AtomicBool);

impl Drop for SetAtEnd<'_> {
    fn drop(&mut self) {
        let Self(flag) = self;
        flag.store(true, Ordering::Relaxed);
    }
}

/// Numbers that look random, the same in every run.
#[derive(Clone, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        // Marsaglia's xorshift64; the state must not be zero.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    /// A time of at most `max`.
    pub fn time(&mut self, max: Duration) -> Duration {
        let micros = self.below(usize::try_from(max.as_micros()).unwrap() + 1);
        Duration::from_micros(micros as u64)
    }
}

/// Descriptors of this process.
pub fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// The conservation laws, for a service that has stopped.
#[track_caller]
pub fn assert_balanced(snapshot: &Snapshot) {
    let balance = snapshot.balance();
    assert!(balance.is_exact(), "{balance}\n{snapshot:?}");
    // What is zero once everything has come to its end.
    assert_eq!(snapshot.dispatch_queue.messages, 0, "{snapshot:?}");
    assert_eq!(snapshot.dispatch_queue.bytes, 0, "{snapshot:?}");
    assert_eq!(snapshot.undelivered, 0, "{snapshot:?}");
    assert_eq!(snapshot.outbound_queued.messages, 0, "{snapshot:?}");
    assert_eq!(snapshot.outbound_queued.bytes, 0, "{snapshot:?}");
    assert_eq!(snapshot.peers, 0);
}
