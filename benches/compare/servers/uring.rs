//! io_uring by way of monoio: one thread, a batch for each read, whose messages share its buffer.
//!
//! The subscriber's thread writes answers itself, as it would have to wake the ring's thread
//! otherwise.

use super::subscribers::{Message, Queues, answering};
use super::{Accepted, BUFFER_SIZE, Class, Kind, Order, Role, Server, listener};
use crate::load::{Framing, Tally};
use bytes::{Buf, BytesMut};
use monoio::buf::IoBufMut;
use monoio::io::AsyncReadRent;
use monoio::net::{TcpListener, TcpStream};
use monoio::{IoUringDriver, RuntimeBuilder};
use rustix::fd::OwnedFd;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
use std::io::Write;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::{net, thread};

pub(super) const KIND: Kind = Kind {
    name: "io_uring",
    class: Class::Beside,
    framing: Framing::Fixed,
    reads_numbers: true,
    does: |order| order.role != Role::Broadcast,
    start,
};

/// Places in the ring.
const ENTRIES: u32 = 4096;

fn start(order: &Order) -> Result<Server, String> {
    // Asked for here, so that a kernel without it says so; the thread makes its own.
    build().map_err(|error| format!("no io_uring here: {error}"))?;
    let accepted = Accepted::default();
    if order.role == Role::Echo {
        let queue = answering(|(stream, question): (Arc<net::TcpStream>, Message)| {
            let _ = (&*stream).write_all(&encode(question.frame()));
        });
        let addr = serve(accepted.clone(), move |stream| {
            let (writer, queue) = (writer_of(&stream), queue.clone());
            monoio::spawn(read(stream, move |messages| {
                for message in messages {
                    queue.send((Arc::clone(&writer), message)).unwrap();
                }
            }));
        });
        return Ok(Server::new(addr, &accepted, Vec::new()));
    }
    let (queues, tallies): (_, Vec<Arc<Tally>>) = Queues::of_batches(order);
    let queues = Arc::new(queues);
    let addr = serve(accepted.clone(), move |stream| {
        let queues = Arc::clone(&queues);
        monoio::spawn(read(stream, move |messages| queues.send(messages)));
    });
    Ok(Server::new(addr, &accepted, tallies))
}

fn build() -> std::io::Result<monoio::Runtime<IoUringDriver>> {
    RuntimeBuilder::<IoUringDriver>::new()
        .with_entries(ENTRIES)
        .build()
}

fn serve(accepted: Accepted, connect: impl Fn(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = listener();
    let addr = listener.local_addr().unwrap();
    thread::spawn(move || {
        build().unwrap().block_on(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                connect(stream);
                accepted.add();
            }
        });
    });
    addr
}

async fn read(mut stream: TcpStream, take: impl Fn(Vec<Message>)) {
    let mut buffer = BytesMut::new();
    loop {
        let filled = buffer.len();
        if buffer.capacity() - filled < BUFFER_SIZE / 2 {
            buffer.reserve(BUFFER_SIZE);
        }
        let capacity = buffer.capacity();
        let (result, slice) = stream.read(buffer.slice_mut(filled..capacity)).await;
        buffer = slice.into_inner();
        let Ok(1..) = result else { return };
        let messages = split(&mut buffer);
        if !messages.is_empty() {
            take(messages);
        }
    }
}

/// Takes the whole frames off.
fn split(buffer: &mut BytesMut) -> Vec<Message> {
    let mut messages = Vec::new();
    while let Some((length, rest)) = buffer.split_first_chunk() {
        let length = u32::from_be_bytes(*length) as usize;
        if rest.len() < length {
            break;
        }
        buffer.advance(size_of::<u32>());
        messages.push(Message::new(buffer.split_to(length).freeze()));
    }
    messages
}

/// The same socket for another thread. monoio hands out only its number, so the kernel is asked.
fn writer_of(stream: &TcpStream) -> Arc<net::TcpStream> {
    let process = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
    let socket: OwnedFd =
        pidfd_getfd(&process, stream.as_raw_fd(), PidfdGetfdFlags::empty()).unwrap();
    Arc::new(socket.into())
}

fn encode(frame: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(size_of::<u32>() + frame.len());
    bytes.extend_from_slice(&(frame.len() as u32).to_be_bytes());
    bytes.extend_from_slice(frame);
    bytes
}
