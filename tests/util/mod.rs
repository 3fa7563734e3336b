//! What the tests over real sockets share: a client on the standard library alone, and waiting
//! for a condition without sleeping for a fixed time.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    reason = "each test file uses its part, and a test may unwrap"
)]

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use nebnet::{
    Config, MessageType, NetService, Snapshot,
    frame::{Bye, Decoder, Frame},
};

/// How long anything may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A configuration on a free port.
pub fn config() -> Config {
    Config::default().listen("127.0.0.1:0".parse().unwrap())
}

/// A service that echoes everything, losslessly, on a thread of its own.
pub fn start_echo(config: Config) -> (NetService, std::thread::JoinHandle<u64>) {
    let mut service = NetService::new(config).unwrap();
    let options = nebnet::SubscribeOptions::new(nebnet::Types::all())
        .name("echo")
        .overflow(nebnet::Overflow::Pause);
    let mut requests = service.subscribe_with(options).unwrap();
    let handle = service.handle();
    let echo = std::thread::Builder::new()
        .name("echo".to_owned())
        .spawn(move || {
            let mut answers = nebnet::OutgoingBatch::new();
            let mut count = 0;
            while let Ok(batch) = requests.recv_batch() {
                for message in &batch {
                    answers.push_reply(message, message.payload()).unwrap();
                    count += 1;
                }
                if handle.send_batch(batch.peer(), &mut answers).is_err() {
                    answers.clear();
                }
            }
            count
        });
    service.start().unwrap();
    (service, echo.unwrap())
}

/// A peer.
pub struct Client {
    pub stream: TcpStream,
    buffer: Vec<u8>,
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
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self {
            stream,
            buffer: Vec::new(),
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

    /// The next frame, or `None` at the end of the stream, in order or by a reset.
    #[track_caller]
    pub fn receive(&mut self) -> Option<Answer> {
        loop {
            let decoded = Decoder::new(u32::MAX).decode(&self.buffer).unwrap();
            if let Some((frame, size)) = decoded {
                let answer = Answer {
                    message_type: frame.message_type,
                    correlation: frame.correlation,
                    checksum: frame.checksum,
                    payload: frame.payload.to_vec(),
                };
                self.buffer.drain(..size);
                return Some(answer);
            }
            let mut bytes = [0; 64 << 10];
            match self.stream.read(&mut bytes) {
                Ok(0) => return None,
                Ok(count) => self.buffer.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("no answer: {error}"),
            }
        }
    }

    /// Expects the next frame to be an application message.
    #[track_caller]
    pub fn expect(&mut self, message_type: u16, payload: &[u8]) {
        let answer = self.receive().expect("an answer");
        assert_eq!(answer.message_type, MessageType(message_type));
        assert_eq!(answer.payload, payload);
    }

    /// Expects a BYE with this code, and then the end.
    #[track_caller]
    pub fn expect_bye(&mut self, code: u16) {
        let answer = self.receive().expect("a BYE");
        assert_eq!(answer.message_type, MessageType(0xFF02), "{answer:?}");
        assert_eq!(Bye::parse(&answer.payload).unwrap().code, code);
        assert_eq!(self.receive(), None);
    }

    /// Bytes of a partial frame that are left, after the end.
    pub fn leftover(&self) -> usize {
        self.buffer.len()
    }
}

pub fn encoded(frame: &Frame<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame.encode(&mut bytes).unwrap();
    bytes
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

/// Descriptors of this process.
pub fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

/// The conservation laws, for a service that has stopped.
#[track_caller]
pub fn assert_balanced(snapshot: &Snapshot) {
    assert_eq!(
        snapshot.inbound.messages, snapshot.dispatched,
        "{snapshot:?}"
    );
    assert_eq!(
        snapshot.dispatched,
        snapshot.claimed + snapshot.unclaimed,
        "{snapshot:?}"
    );
    assert_eq!(snapshot.dispatch_queue.messages, 0, "{snapshot:?}");
    assert_eq!(snapshot.dispatch_queue.bytes, 0, "{snapshot:?}");
    for row in &snapshot.subscribers {
        let sum = row.taken + row.dropped + row.discarded + row.queued + row.parked;
        assert_eq!(row.matched, sum, "{row:?}");
    }
    let (accepted, written) = (snapshot.outbound_accepted, snapshot.outbound);
    let dropped = snapshot.outbound_dropped;
    assert_eq!(
        accepted.messages,
        written.messages + dropped.messages,
        "{snapshot:?}"
    );
    assert_eq!(
        accepted.bytes,
        written.bytes + dropped.bytes,
        "{snapshot:?}"
    );
    assert_eq!(snapshot.peers, 0);
    assert_eq!(snapshot.accepted, snapshot.closed_total(), "{snapshot:?}");
}
