//! What no server can be faster than here: one thread that reads, and does less than a server must.
//!
//! `limit-read` throws the bytes away. `limit-walk` finds each frame and reads its number, and
//! hands nothing over.

use super::{Kind, Order, Server};
use crate::load::{HEADER_SIZE, Tally};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Registry, Token, Waker};
use std::io::{ErrorKind, Read};
use std::sync::Arc;
use std::thread;

pub(super) const READ: Kind = Kind {
    name: "limit-read",
    reads_numbers: false,
    start: |order| start(order, Work::Read),
};

pub(super) const WALK: Kind = Kind {
    name: "limit-walk",
    reads_numbers: true,
    start: |order| start(order, Work::Walk),
};

const LISTENER: Token = Token(usize::MAX);
const STOP: Token = Token(usize::MAX - 1);
/// Bytes asked for by one `read`.
const BUFFER_SIZE: usize = 64 * 1024;

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
    let mut listener = TcpListener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
    poll.registry()
        .register(&mut listener, LISTENER, Interest::READABLE)
        .unwrap();
    let waker = Waker::new(poll.registry(), STOP).unwrap();
    let addr = listener.local_addr().unwrap();
    let tally = Arc::new(Tally::default());
    let frame_size = order.frame_size;
    let thread = thread::spawn({
        let tally = Arc::clone(&tally);
        move || {
            let mut connections = Vec::new();
            let mut events = Events::with_capacity(256);
            let mut buffer = vec![0; BUFFER_SIZE];
            loop {
                poll.poll(&mut events, None).unwrap();
                for event in &events {
                    match event.token() {
                        STOP => return,
                        LISTENER => accept(&listener, poll.registry(), &mut connections),
                        Token(index) => {
                            let connection = &mut connections[index];
                            match work {
                                Work::Read => discard(connection, &mut buffer, frame_size, &tally),
                                Work::Walk => walk(connection, &mut buffer, &tally),
                            }
                        }
                    }
                }
            }
        }
    });
    Server::new(addr, tally, move || {
        waker.wake().unwrap();
        thread.join().unwrap();
    })
}

fn accept(listener: &TcpListener, registry: &Registry, connections: &mut Vec<Connection>) {
    while let Ok((mut stream, _)) = listener.accept() {
        registry
            .register(&mut stream, Token(connections.len()), Interest::READABLE)
            .unwrap();
        connections.push(Connection {
            stream,
            rest: Vec::new(),
            bytes: 0,
        });
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
