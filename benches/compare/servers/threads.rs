//! A blocking thread for each connection, a channel operation for each message.

use super::subscribers::{Message, Queues, answering};
use super::{Accepted, BUFFER_SIZE, Class, Kind, Order, Role, Server, listener};
use crate::load::{Framing, MESSAGE_TYPE};
use bytes::Bytes;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

pub(super) const KIND: Kind = Kind {
    name: "threads",
    class: Class::Peer,
    framing: Framing::Fixed,
    reads_numbers: true,
    does: |_| true,
    start: |order| Ok(start(order)),
};

/// Enough for a reader, whose buffer is on the heap.
const STACK_SIZE: usize = 64 * 1024;

fn start(order: &Order) -> Server {
    let accepted = Accepted::default();
    match order.role {
        Role::Count => {
            let (queues, tallies) = Queues::of_messages(order);
            let queues = Arc::new(queues);
            let addr = serve(
                accepted.clone(),
                |_| {},
                move |_, message| {
                    queues.send(message);
                },
            );
            Server::new(addr, &accepted, tallies)
        }
        Role::Echo => {
            let queue = answering(|(stream, question): (Arc<TcpStream>, Message)| {
                write(&stream, &encode(question.frame()));
            });
            let addr = serve(
                accepted.clone(),
                |_| {},
                move |stream, message| {
                    queue.send((Arc::clone(stream), message)).unwrap();
                },
            );
            Server::new(addr, &accepted, Vec::new())
        }
        Role::Broadcast => {
            let all: Arc<Mutex<Vec<Arc<TcpStream>>>> = Arc::default();
            let streams = Arc::clone(&all);
            let connect = move |stream: &Arc<TcpStream>| {
                streams.lock().unwrap().push(Arc::clone(stream));
            };
            let addr = serve(accepted.clone(), connect, |_, _| {});
            Server::new(addr, &accepted, Vec::new()).with_broadcast(move |payload| {
                let mut frame = MESSAGE_TYPE.to_be_bytes().to_vec();
                frame.extend_from_slice(&[0, 1]);
                frame.extend_from_slice(payload);
                let bytes = encode(&frame);
                for stream in &*all.lock().unwrap() {
                    write(stream, &bytes);
                }
            })
        }
    }
}

fn serve(
    accepted: Accepted,
    connect: impl Fn(&Arc<TcpStream>) + Send + 'static,
    take: impl Fn(&Arc<TcpStream>, Message) + Clone + Send + 'static,
) -> SocketAddr {
    let listener = listener();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = Arc::new(stream.unwrap());
            stream.set_nodelay(true).unwrap();
            connect(&stream);
            let take = take.clone();
            thread::Builder::new()
                .stack_size(STACK_SIZE)
                .spawn(move || read(&stream, take))
                .unwrap();
            accepted.add();
        }
    });
    addr
}

fn read(stream: &Arc<TcpStream>, take: impl Fn(&Arc<TcpStream>, Message)) {
    let mut buffer = vec![0; BUFFER_SIZE];
    let mut filled = 0;
    while let Ok(size @ 1..) = (&**stream).read(&mut buffer[filled..]) {
        filled += size;
        let mut bytes = &buffer[..filled];
        while let Some(frame) = next_frame(&mut bytes) {
            take(stream, Message::new(Bytes::copy_from_slice(frame)));
        }
        let rest = bytes.len();
        buffer.copy_within(filled - rest..filled, 0);
        filled = rest;
    }
}

/// Splits the first frame off, without its length, if it is whole.
fn next_frame<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, rest) = bytes.split_first_chunk()?;
    let (frame, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
    *bytes = rest;
    Some(frame)
}

fn encode(frame: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size_of::<u32>() + frame.len());
    bytes.extend_from_slice(&(frame.len() as u32).to_be_bytes());
    bytes.extend_from_slice(frame);
    bytes
}

/// A client that was ended takes nothing more.
fn write(mut stream: &TcpStream, bytes: &[u8]) {
    let _ = stream.write_all(bytes);
}
