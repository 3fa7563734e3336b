//! The client that reads what it is sent, from one thread.

use super::child::connect;
use super::wire::frame_size;
use super::{Report, Spec, clock, cpu_time};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use std::io::{ErrorKind, Read};

/// All connections of the client, and what each has received.
#[derive(Debug)]
pub(super) struct Receive {
    poll: Poll,
    events: Events,
    connections: Vec<(TcpStream, u64)>,
    frame_size: u64,
    /// Bytes that every connection is to have received.
    target: u64,
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
            (stream, 0)
        };
        let connections = (0..spec.connections).map(open).collect();
        Self {
            poll,
            events: Events::with_capacity(4096),
            connections,
            frame_size: frame_size(spec.framing, spec.payload) as u64,
            target: 0,
        }
    }

    /// Reads until every connection has so many messages more. The wall time of the report is the
    /// time at which the last one had them, on the machine's monotonic clock.
    pub(super) fn run(&mut self, messages: u64) -> Report {
        let cpu = cpu_time();
        self.target += messages * self.frame_size;
        let behind = |one: &&(TcpStream, u64)| one.1 < self.target;
        let mut left = self.connections.iter().filter(behind).count();
        while left > 0 {
            match self.poll.poll(&mut self.events, None) {
                Err(error) if error.kind() != ErrorKind::Interrupted => panic!("poll: {error}"),
                _ => {}
            }
            for event in &self.events {
                let (stream, received) = &mut self.connections[event.token().0];
                let before = *received;
                read_all(stream, received);
                left -= usize::from(before < self.target && *received >= self.target);
            }
        }
        Report {
            messages: messages * self.connections.len() as u64,
            wall: clock(),
            cpu: cpu_time() - cpu,
            ..Report::default()
        }
    }
}

fn read_all(stream: &mut TcpStream, received: &mut u64) {
    let mut bytes = [0; 4096];
    loop {
        match stream.read(&mut bytes) {
            Ok(0) => panic!("the server closed a connection"),
            Ok(count) => {
                *received += count as u64;
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
