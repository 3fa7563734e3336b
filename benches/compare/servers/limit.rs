//! What no server can be faster than here: one thread that does less than a server must.
//!
//! `limit-read` throws the bytes away. `limit-walk` finds each frame and reads its number, and
//! hands nothing over. `floor` writes back what it reads, and polls for it.

use super::{Accepted, BUFFER_SIZE, Class, Kind, Order, Role, Server, listener};
use crate::load::{Floor, Framing, HEADER_SIZE, Tally};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Registry, Token};
use std::io::{ErrorKind, Read};
use std::mem;
use std::sync::Arc;
use std::thread;

pub(super) const READ: Kind = Kind {
    name: "limit-read",
    class: Class::Limit,
    framing: Framing::Fixed,
    reads_numbers: false,
    // It knows of messages only how long they are.
    does: |order| counts_for_one(order) && order.idle_connections == 0 && !order.varied,
    start: |order| Ok(start(order, Work::Read)),
};

pub(super) const WALK: Kind = Kind {
    name: "limit-walk",
    reads_numbers: true,
    does: counts_for_one,
    start: |order| Ok(start(order, Work::Walk)),
    ..READ
};

/// Takes one connection.
pub(super) const FLOOR: Kind = Kind {
    name: "floor",
    does: |order| order.role == Role::Echo && order.idle_connections == 0,
    start: |_| {
        let floor = Floor::start();
        let server = Server::new(floor.addr, &Accepted::default(), Vec::new());
        // Dropping it would wait for its thread.
        mem::forget(floor);
        Ok(server)
    },
    ..READ
};

fn counts_for_one(order: &Order) -> bool {
    order.role == Role::Count && order.subscribers == 1
}

const LISTENER: Token = Token(usize::MAX);

#[derive(Clone, Copy, Debug)]
enum Work {
    Read,
    Walk,
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    /// The beginning of a frame whose end has not come yet.
    rest: Vec<u8>,
    bytes: u64,
}

fn start(order: &Order, work: Work) -> Server {
    let mut poll = Poll::new().unwrap();
    let listener = listener();
    listener.set_nonblocking(true).unwrap();
    let mut listener = TcpListener::from_std(listener);
    poll.registry()
        .register(&mut listener, LISTENER, Interest::READABLE)
        .unwrap();
    let addr = listener.local_addr().unwrap();
    let (tally, accepted) = (Arc::new(Tally::default()), Accepted::default());
    let server = Server::new(addr, &accepted, vec![Arc::clone(&tally)]);
    let frame_size = order.frame_size;
    thread::spawn(move || {
        let mut connections = Vec::new();
        let mut events = Events::with_capacity(256);
        let mut buffer = vec![0; BUFFER_SIZE];
        loop {
            poll.poll(&mut events, None).unwrap();
            for event in &events {
                let Token(index) = event.token();
                if event.token() == LISTENER {
                    accept(&listener, poll.registry(), &mut connections, &accepted);
                    continue;
                }
                let connection = &mut connections[index];
                match work {
                    Work::Read => discard(connection, &mut buffer, frame_size, &tally),
                    Work::Walk => walk(connection, &mut buffer, &tally),
                }
            }
        }
    });
    server
}

fn accept(
    listener: &TcpListener,
    registry: &Registry,
    connections: &mut Vec<Connection>,
    accepted: &Accepted,
) {
    while let Ok((mut stream, _)) = listener.accept() {
        registry
            .register(&mut stream, Token(connections.len()), Interest::READABLE)
            .unwrap();
        connections.push(Connection {
            stream,
            rest: Vec::new(),
            bytes: 0,
        });
        accepted.add();
    }
}

/// `None` where nothing is left to read.
fn read(stream: &mut TcpStream, buffer: &mut [u8]) -> Option<usize> {
    match stream.read(buffer) {
        Ok(0) => None,
        Ok(size) => Some(size),
        Err(error) if error.kind() == ErrorKind::WouldBlock => None,
        // The client was ended, after a failed cell.
        Err(error) if error.kind() == ErrorKind::ConnectionReset => None,
        Err(error) => panic!("read: {error}"),
    }
}

fn discard(connection: &mut Connection, buffer: &mut [u8], frame_size: usize, tally: &Tally) {
    while let Some(size) = read(&mut connection.stream, buffer) {
        let frames = connection.bytes / frame_size as u64;
        connection.bytes += size as u64;
        tally.add(connection.bytes / frame_size as u64 - frames, 0);
    }
}

fn walk(connection: &mut Connection, buffer: &mut [u8], tally: &Tally) {
    loop {
        let kept = connection.rest.len();
        buffer[..kept].copy_from_slice(&connection.rest);
        let Some(size) = read(&mut connection.stream, &mut buffer[kept..]) else {
            return;
        };
        let mut bytes = &buffer[..kept + size];
        tally.take(std::iter::from_fn(|| next_frame(&mut bytes)));
        connection.rest.clear();
        connection.rest.extend_from_slice(bytes);
    }
}

/// Splits the payload of the first frame off, if that frame is whole.
fn next_frame<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, _) = bytes.split_first_chunk()?;
    let end = size_of::<u32>() + u32::from_be_bytes(*length) as usize;
    let (frame, rest) = bytes.split_at_checked(end)?;
    // Type, flags and version, as every server looks at them.
    assert!(frame[6] == 0 && frame[7] == 1, "a frame of another kind");
    *bytes = rest;
    Some(&frame[HEADER_SIZE..])
}
