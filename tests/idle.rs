//! What a connection costs that does nothing, held against what the process really allocates.
//!
//! One test, because the allocator counts for the whole process.
#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests wait by the clock, and end where something is wrong"
)]

mod util;

use std::{
    alloc::System,
    io::{Read, Write},
    net::TcpStream,
};

use nebnet::{CloseReason, MessageType, frame::Frame};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use util::{PATIENCE, config, start_echo, stop_echo, wait_for_closed, wait_until};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Connections. Tables that double have room for 2,048 of them then, which is part of the cost.
const COUNT: usize = 1_500;
/// Bytes of a connection on which nothing has happened.
const FRESH_MAX: usize = 256;
/// Bytes of one that had its traffic, and rests.
const RESTING_MAX: usize = 512;
/// Bytes that are left of one that has gone: of its slot, and of tables that keep their size.
const GONE_MAX: usize = 320;
/// What does not grow with the number of connections: blocks and queues that each loop keeps, the
/// rows of those that closed last.
const FIXED_MAX: usize = 384 << 10;

/// Bytes of the heap in use.
fn heap() -> usize {
    let stats = ALLOCATOR.stats();
    stats
        .bytes_allocated
        .saturating_sub(stats.bytes_deallocated)
}

#[test]
fn an_idle_connection_costs_little() {
    // However slow the machine is, nobody is closed for saying nothing, but has a deadline for it.
    let patient = config().max_pending(0).first_frame_timeout(20 * PATIENCE);
    let (service, echo) = start_echo(patient);
    let addr = service.local_addrs()[0];
    let message = util::encoded(&Frame::new(MessageType(1), &[7; 100]));
    let talk = |stream: &mut TcpStream| {
        let mut answer = vec![0; message.len()];
        stream.write_all(&message).unwrap();
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, message);
    };
    // What is allocated once is no part of what a connection costs.
    talk(&mut TcpStream::connect(addr).unwrap());
    wait_for_closed(&service, CloseReason::PeerClosed, 1);
    let mut clients = Vec::with_capacity(COUNT);
    let before = heap();
    let grown = || heap().saturating_sub(before);
    let fixed = FIXED_MAX * util::shards();

    clients.extend((0..COUNT).map(|_| TcpStream::connect(addr).unwrap()));
    wait_until("all are connected", || {
        service.handle().snapshot().peers == COUNT as u64
    });
    wait_until("all are at rest from the beginning", || {
        grown() <= COUNT * FRESH_MAX
    });

    clients.iter_mut().for_each(talk);
    wait_until("all rest", || grown() <= COUNT * RESTING_MAX + fixed);

    clients.iter_mut().for_each(talk);
    drop(clients);
    wait_for_closed(&service, CloseReason::PeerClosed, COUNT as u64 + 1);
    wait_until("all is given back", || grown() <= COUNT * GONE_MAX + fixed);
    let report = stop_echo(service, echo);
    assert_eq!(report.snapshot.inbound.messages, 2 * COUNT as u64 + 1);
}
