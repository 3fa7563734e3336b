//! What a connection costs that does nothing, held against what the process really allocates.
//!
//! One test, because the allocator counts for the whole process.
#![allow(missing_docs, clippy::unwrap_used, reason = "a test may unwrap")]

mod util;

use std::{
    alloc::System,
    io::{Read, Write},
    net::TcpStream,
};

use nebnet::{CloseReason, MessageType, frame::Frame};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use util::{config, start_echo, stop_echo, wait_for_closed, wait_until};

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
/// What does not grow with the number of connections: blocks and queues that are kept, the rows of
/// those that closed last.
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
    let (service, echo) = start_echo(config().max_pending(0));
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
    let grown = || heap().saturating_sub(before) as isize;
    let each = |bytes: usize| isize::try_from(COUNT * bytes).unwrap();

    clients.extend((0..COUNT).map(|_| TcpStream::connect(addr).unwrap()));
    wait_until("all are connected", || {
        service.snapshot().peers == COUNT as u64
    });
    let fresh = grown();
    assert!(fresh <= each(FRESH_MAX), "{fresh} bytes of all");

    clients.iter_mut().for_each(talk);
    let fixed = isize::try_from(FIXED_MAX).unwrap();
    let limit = each(RESTING_MAX) + fixed;
    wait_until("all rest", || grown() <= limit);

    clients.iter_mut().for_each(talk);
    drop(clients);
    wait_for_closed(&service, CloseReason::PeerClosed, COUNT as u64 + 1);
    let limit = each(GONE_MAX) + fixed;
    wait_until("all is given back", || grown() <= limit);
    let report = stop_echo(service, echo);
    assert_eq!(report.snapshot.inbound.messages, 2 * COUNT as u64 + 1);
}
