//! Lengths that are announced by many, held against what the process really allocates.
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
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use nebnet::{CloseReason, NetService};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use util::{PATIENCE, closed_for, config, start_tap, stop_tap, wait_for_closed, wait_until};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const MANY: usize = 500;
const PAYLOAD_MAX: u32 = 1 << 20;
/// What the service may charge for each connection.
const CHARGED_MAX: u64 = 1 << 10;
/// What may be allocated for each connection, charged or not.
const ALLOCATED_MAX: usize = 4 << 10;

/// Bytes of the heap in use.
fn heap() -> usize {
    let stats = ALLOCATOR.stats();
    stats
        .bytes_allocated
        .saturating_sub(stats.bytes_deallocated)
}

/// The most that was in use at once, of what is looked at.
#[derive(Debug)]
struct Peak {
    heap_before: usize,
    heap: usize,
    charged: u64,
}

impl Peak {
    fn new() -> Self {
        Self {
            heap_before: heap(),
            heap: 0,
            charged: 0,
        }
    }

    fn look(&mut self, service: &NetService) {
        self.heap = self.heap.max(heap().saturating_sub(self.heap_before));
        self.charged = self.charged.max(service.handle().snapshot().memory_used);
    }

    #[track_caller]
    fn expect_little(&self) {
        println!("{self:?}");
        assert!(self.charged <= MANY as u64 * CHARGED_MAX, "{self:?}");
        assert!(self.heap <= MANY * ALLOCATED_MAX, "{self:?}");
    }
}

fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// What 2,000 GiB that no frame may have cost, and what 500 MiB cost that a frame may well have.
#[test]
fn lengths_that_many_announce_are_not_allocated() {
    let config = config().max_payload(PAYLOAD_MAX);
    let config = config.first_frame_timeout(Duration::ZERO);
    let (service, mut tap) = start_tap(config.frame_timeout(Duration::ZERO));
    let addr = service.local_addrs()[0];
    // What is allocated once, for the first connection, is not growth.
    let mut first = connect(addr);
    first.write_all(b"\0\0\0\x06\0\x07\0\x01hi").unwrap();
    assert_eq!(tap.recv_timeout(PATIENCE).unwrap().payload(), b"hi");

    let mut peak = Peak::new();
    let mut streams = Vec::with_capacity(MANY);
    for number in 0..MANY {
        let mut stream = connect(addr);
        // Also behind a good frame, and with some of what is announced.
        let bytes: &[u8] = match number % 3 {
            0 => b"\xFF\xFF\xFF\xFF",
            1 => b"\0\0\0\x04\0\x07\0\x01\xFF\xFF\xFF\xFF",
            _ => b"\xFF\xFF\xFF\xFF\0\x07\0\x01some of it",
        };
        stream.write_all(bytes).unwrap();
        streams.push(stream);
        peak.look(&service);
    }
    // They stay, and are closed all the same.
    for stream in &mut streams {
        let mut head = [0; 10];
        stream.read_exact(&mut head).unwrap();
        assert_eq!(head[4..6], [0xFF, 2], "a BYE");
        assert_eq!(head[8..], [0, 4], "FrameTooLong");
        peak.look(&service);
    }
    wait_for_closed(&service, CloseReason::FrameTooLong, MANY as u64);
    peak.look(&service);
    peak.expect_little();
    drop(streams);

    let mut peak = Peak::new();
    let mut streams = Vec::with_capacity(MANY);
    for number in 0..MANY {
        let mut stream = connect(addr);
        stream.write_all(&(4 + PAYLOAD_MAX).to_be_bytes()).unwrap();
        stream
            .write_all(&b"\0\x07\0\x01and a byte"[..number % 14])
            .unwrap();
        streams.push(stream);
        peak.look(&service);
    }
    wait_until("all are there", || {
        service.handle().snapshot().peers == MANY as u64 + 1
    });
    // Whatever they sent was read when the loop has answered behind it.
    let held = || {
        let rows = service.handle().peers().unwrap();
        rows.iter().filter(|row| row.in_flight_bytes >= 4).count()
    };
    wait_until("all was read", || held() == MANY);
    peak.look(&service);
    peak.expect_little();
    assert_eq!(
        closed_for(&service.handle().snapshot(), CloseReason::FrameTooLong),
        MANY as u64
    );
    assert_eq!(service.handle().snapshot().closed_total(), MANY as u64);
    drop(streams);
    wait_for_closed(&service, CloseReason::EofInFrame, MANY as u64);
    drop(first);
    stop_tap(service, tap);
}
