//! The client that writes as fast as its connections take it, from one thread.

use super::child::connect;
use super::wire::Ring;
use super::{Report, Spec, cpu_time};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

/// Writes between two looks at the connections that were full, so that one fast connection does not
/// starve the rest.
const WRITES_BETWEEN_POLLS: usize = 64;

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    /// Bytes written under the current command.
    written: u64,
    /// Where `written` is to end; `u64::MAX` until the time is up.
    end: u64,
    /// In the ready list, or at its end: no event is needed.
    active: bool,
}

/// All connections of the client, and what it writes.
#[derive(Debug)]
pub(super) struct Flood {
    poll: Poll,
    events: Events,
    connections: Vec<Connection>,
    ready: VecDeque<usize>,
    ring: Ring,
}

impl Flood {
    pub(super) fn connect(spec: Spec) -> Self {
        let poll = Poll::new().unwrap();
        let open = |index| {
            let stream = connect(spec.addr);
            stream.set_nonblocking(true).unwrap();
            let mut stream = TcpStream::from_std(stream);
            poll.registry()
                .register(&mut stream, Token(index), Interest::WRITABLE)
                .unwrap();
            Connection {
                stream,
                written: 0,
                end: 0,
                active: true,
            }
        };
        let connections = (0..spec.connections).map(open).collect();
        let events = Events::with_capacity(256);
        Self {
            poll,
            events,
            connections,
            ready: VecDeque::new(),
            ring: Ring::new(&spec),
        }
    }

    /// Sends that many messages, spread evenly.
    pub(super) fn send(&mut self, messages: u64) -> Report {
        let count = self.connections.len() as u64;
        for (index, connection) in (0..).zip(&mut self.connections) {
            let share = messages / count + u64::from(index < messages % count);
            connection.end = self.ring.bytes(share);
        }
        self.run(None)
    }

    /// Sends until the time is up, then finishes the messages that are half written.
    pub(super) fn send_for(&mut self, time: Duration) -> Report {
        self.connections
            .iter_mut()
            .for_each(|connection| connection.end = u64::MAX);
        self.run(Some(Instant::now() + time))
    }

    /// What of the last command had the type that many after the first.
    pub(super) fn sent_of(&self, offset: u64) -> Report {
        let mut report = Report::default();
        for connection in &self.connections {
            let sent = self.ring.messages(connection.written);
            let (messages, sum) = self.ring.part(sent, offset);
            report.messages += messages;
            report.sum += sum;
        }
        report
    }

    fn run(&mut self, mut deadline: Option<Instant>) -> Report {
        let (wall, cpu) = (Instant::now(), cpu_time());
        for (index, connection) in self.connections.iter_mut().enumerate() {
            (connection.written, connection.active) = (0, true);
            self.ready.push_back(index);
        }
        let mut open = self.connections.len();
        let mut writes = 0;
        while open > 0 {
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                deadline = None;
                self.end_at_frames();
            }
            let Some(index) = self.ready.pop_front() else {
                self.wake(deadline.map(|at| at.saturating_duration_since(Instant::now())));
                continue;
            };
            if self.write(index) {
                open -= 1;
            }
            writes += 1;
            if writes % WRITES_BETWEEN_POLLS == 0 && self.ready.len() + 1 < open {
                self.wake(Some(Duration::ZERO));
            }
        }
        let (wall, cpu) = (wall.elapsed(), cpu_time() - cpu);
        let mut report = Report {
            wall,
            cpu,
            ..Report::default()
        };
        for connection in &self.connections {
            let messages = self.ring.messages(connection.written);
            report.messages += messages;
            report.sum += self.ring.sum(messages);
        }
        report
    }

    /// Lets every connection end with the message it is in.
    fn end_at_frames(&mut self) {
        for (index, connection) in self.connections.iter_mut().enumerate() {
            let whole = self.ring.messages(connection.written);
            let end = self.ring.bytes(whole);
            connection.end = if end < connection.written {
                self.ring.bytes(whole + 1)
            } else {
                end
            };
            if !connection.active {
                // Full, perhaps on a frame boundary: it must be looked at once more, or it would be
                // waited for.
                connection.active = true;
                self.ready.push_back(index);
            }
        }
    }

    /// Writes one stretch of the ring; true when that connection is through.
    fn write(&mut self, index: usize) -> bool {
        let connection = &mut self.connections[index];
        let left = connection.end - connection.written;
        if left == 0 {
            return true;
        }
        let at = (connection.written % self.ring.size as u64) as usize;
        let size = left.min((self.ring.size - at) as u64) as usize;
        match self.ring.send(&connection.stream, at, size) {
            Ok(written) => {
                connection.written += written as u64;
                if connection.written == connection.end {
                    return true;
                }
                self.ready.push_back(index);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => connection.active = false,
            Err(error) => panic!("the server ended connection {index}: {error}"),
        }
        false
    }

    /// Waits for room, `None` without end, and lists the connections that have some.
    fn wake(&mut self, timeout: Option<Duration>) {
        match self.poll.poll(&mut self.events, timeout) {
            Err(error) if error.kind() != ErrorKind::Interrupted => panic!("poll: {error}"),
            _ => {}
        }
        for event in &self.events {
            let index = event.token().0;
            let connection = &mut self.connections[index];
            if !connection.active {
                connection.active = true;
                self.ready.push_back(index);
            }
        }
    }
}
