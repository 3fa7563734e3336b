//! The client that reads what it is sent, from one thread.

use super::child::connect;
use super::wire::encode;
use super::{Report, Spec, clock, cpu_time};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use std::io::{ErrorKind, Read};
use std::time::{Duration, Instant};

/// Nothing more comes after a silence of this length: what is missing is lost.
const SILENCE_MAX: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    /// What came and was not compared yet.
    received: Vec<u8>,
    /// All that came so far was what was due, in order, each once.
    is_right: bool,
}

/// All connections of the client, and what each has received.
#[derive(Debug)]
pub(super) struct Receive {
    poll: Poll,
    events: Events,
    connections: Vec<Connection>,
    spec: Spec,
    /// Of the last message that was due.
    number: u64,
}

impl Receive {
    pub(super) fn connect(spec: Spec) -> Self {
        let poll = Poll::new().unwrap();
        let open = |index| {
            let stream = connect(spec.addr);
            stream.set_nonblocking(true).unwrap();
            let mut stream = TcpStream::from_std(stream);
            poll.registry()
                .register(&mut stream, Token(index), Interest::READABLE)
                .unwrap();
            Connection {
                stream,
                received: Vec::new(),
                is_right: true,
            }
        };
        let connections = (0..spec.connections).map(open).collect();
        Self {
            poll,
            events: Events::with_capacity(4096),
            connections,
            spec,
            number: 0,
        }
    }

    /// Reads until every connection has so many messages more, which are numbered on from those
    /// before; of none it reads what is there and should not be.
    ///
    /// The wall time of the report is the time at which the last one had them, on the machine's
    /// monotonic clock. What came is compared after that, byte by byte, and the report counts the
    /// messages of the connections that have received exactly what was due, and adds up their
    /// numbers.
    pub(super) fn run(&mut self, messages: u64) -> Report {
        let cpu = cpu_time();
        let (first, mut due, mut sum) = (self.number + 1, Vec::new(), 0);
        self.number += messages;
        for number in first..=self.number {
            encode(&mut due, number, &self.spec);
            sum += number;
        }
        self.read(due.len());
        let (wall, cpu) = (clock(), cpu_time() - cpu);
        for one in &mut self.connections {
            one.is_right &= one.received == due;
            one.received.clear();
        }
        let right = self.connections.iter().filter(|one| one.is_right).count() as u64;
        Report {
            messages: right * messages,
            sum: right * sum,
            connections: right,
            wall,
            cpu,
            ..Report::default()
        }
    }

    /// Until every connection has so many bytes, or until nothing comes any more.
    fn read(&mut self, size: usize) {
        let mut left = self.connections.len();
        let patience = if size == 0 {
            Duration::ZERO
        } else {
            SILENCE_MAX
        };
        let mut since = Instant::now();
        while left > 0 {
            let rest = patience.saturating_sub(since.elapsed());
            match self.poll.poll(&mut self.events, Some(rest)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => panic!("poll: {error}"),
                Ok(()) if self.events.is_empty() => return,
                Ok(()) => since = Instant::now(),
            }
            for event in &self.events {
                let one = &mut self.connections[event.token().0];
                let before = one.received.len();
                read_all(&mut one.stream, &mut one.received);
                left -= usize::from(before < size && one.received.len() >= size);
            }
        }
    }
}

fn read_all(stream: &mut TcpStream, received: &mut Vec<u8>) {
    let mut bytes = [0; 4096];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => panic!("the server closed a connection"),
            Ok(count) => {
                received.extend_from_slice(&bytes[..count]);
                // A short read has emptied the socket, and an edge will tell of more.
                if count < bytes.len() {
                    return;
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) => panic!("read: {error}"),
        }
    }
}
