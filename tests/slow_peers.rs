//! Peers that take badly what a service sends them, beside one that behaves: each is cut off alone
//! or served completely, memory stays within its bounds, and the one that behaves gets all answers.
#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests wait by the clock, and end where something is wrong"
)]

mod util;

use std::{
    io::Read,
    thread::{self, JoinHandle},
    time::Duration,
};

use nebnet::{
    CloseReason, Config, Handle, MessageType, NetService, Outgoing, PeerId, SendError,
    frame::Decoder,
};
use util::{Client, PATIENCE, closed_for, config, start_echo, stop_echo, wait_for_row, wait_until};

const FEED: MessageType = MessageType(8);
/// What a peer's outbox may hold.
const OUTBOX: usize = 64 << 10;
/// Blocks that the loop reads into, and what the canary has under way.
const OTHER_MEMORY: usize = 512 << 10;
/// What an outbox may take ahead of what is queued, at the sender's side and at the loop's.
const AHEAD: usize = 2 * (16 << 10);
/// What the kernel has taken of the segment in front, whose storage goes as one.
const TAKEN: usize = 64 << 10;

/// The kernel keeps little for a peer, so that what it does not take soon waits here.
fn tight() -> Config {
    config()
        .outbox_bytes(OUTBOX)
        .socket_buffers(16 << 10, 0)
        .memory_budget(8 << 20)
        .dispatch_bytes(1 << 20)
}

/// Connects peers that are about to behave badly.
fn connect(service: &NetService, count: usize) -> Vec<(Client, PeerId)> {
    let addr = service.local_addrs()[0];
    let clients = (0..count).map(|_| {
        let mut client = Client::connect_small(addr);
        client.ping(b"here");
        let local = client.stream.local_addr().unwrap();
        let rows = service.handle().peers().unwrap();
        let row = rows.iter().find(|row| row.addr == local).unwrap();
        (client, row.peer)
    });
    clients.collect()
}

/// A peer that behaves: asks, and waits for the answer, until the condition holds. Gives the most
/// memory that was in use meanwhile.
#[track_caller]
fn canary_until(service: &NetService, mut condition: impl FnMut() -> bool) -> u64 {
    let mut canary = Client::connect(service.local_addrs()[0]);
    let (mut memory_max, mut round_trips) = (0, 0_u64);
    wait_until("the end of the others", || {
        for _ in 0..10 {
            let question = round_trips.to_be_bytes();
            canary.send_message(7, &question);
            canary.expect(7, &question);
            round_trips += 1;
        }
        memory_max = memory_max.max(service.handle().snapshot().memory_used);
        condition()
    });
    memory_max
}

/// Sends numbered messages to all of them, as many as each takes, until all have left. Gives how
/// many were accepted for each.
fn feed_until_gone(handle: Handle, peers: Vec<PeerId>) -> JoinHandle<Vec<(PeerId, u64)>> {
    let work = move || {
        let mut fed: Vec<_> = peers.into_iter().map(|peer| (peer, 0_u64)).collect();
        let mut open = true;
        while open {
            open = false;
            for (peer, accepted) in &mut fed {
                let mut payload = [7; 256];
                payload[..8].copy_from_slice(&accepted.to_be_bytes());
                match handle
                    .send(*peer, (FEED, &payload))
                    .map_err(nebnet::Rejected::into_error)
                {
                    Ok(()) => *accepted += 1,
                    Err(error) if error.is_full() => {}
                    Err(SendError::Closing | SendError::NotConnected) => continue,
                    Err(error) => panic!("{peer}: {error}"),
                }
                open = true;
            }
            thread::yield_now();
        }
        fed
    };
    thread::Builder::new().spawn(work).unwrap()
}

/// Sends numbered messages until there is no room for a while. Gives how many were accepted.
fn fill(handle: &Handle, peer: PeerId) -> u64 {
    let mut accepted = 0_u64;
    loop {
        let mut payload = [7; 256];
        payload[..8].copy_from_slice(&accepted.to_be_bytes());
        let message = Outgoing::new(FEED, &payload);
        match handle.send_timeout(peer, message, Duration::from_millis(200)) {
            Ok(()) => accepted += 1,
            Err(rejected) => {
                assert_eq!(rejected.error, SendError::Full);
                return accepted;
            }
        }
    }
}

/// Each of them is cut off for what it did, with what it had not taken; nobody else is.
#[track_caller]
fn assert_those_that_never_read_are_cut_off(count: usize) {
    let stall = Duration::from_millis(500);
    let (service, echo) = start_echo(tight().write_stall_timeout(stall));
    let deaf = connect(&service, count);
    let peers: Vec<_> = deaf.iter().map(|(_, peer)| *peer).collect();
    let feeder = feed_until_gone(service.handle(), peers);
    let memory_max = canary_until(&service, || feeder.is_finished());
    let bound = count * (OUTBOX + AHEAD + TAKEN) + OTHER_MEMORY;
    assert!(memory_max <= bound as u64, "{memory_max} of {bound}");
    for (peer, accepted) in feeder.join().unwrap() {
        let row = wait_for_row(&service, peer);
        assert_eq!(row.reason, CloseReason::SlowPeer);
        let known = row.outbound.messages + row.lost.messages;
        assert_eq!(known, accepted, "{row:?}");
        // Where senders get little time, our system still has room for everything at the end.
        let unconfirmed = row.unconfirmed.unwrap_or(row.outbound);
        assert!(row.lost.messages + unconfirmed.messages > 0, "{row:?}");
        assert!(row.lost.bytes <= OUTBOX as u64, "{row:?}");
    }
    drop(deaf);
    let report = stop_echo(service, echo);
    let cut_off = closed_for(&report.snapshot, CloseReason::SlowPeer);
    assert_eq!(cut_off, count as u64);
    let canary = closed_for(&report.snapshot, CloseReason::PeerClosed);
    assert_eq!(canary, 1);
}

#[test]
fn one_that_never_reads_is_cut_off_alone() {
    assert_those_that_never_read_are_cut_off(1);
}

#[test]
fn twenty_that_never_read_are_cut_off_alone() {
    assert_those_that_never_read_are_cut_off(20);
}

/// Reads what comes until so many messages are there, in order.
fn read_all(mut client: Client, count: u64, mut piece: Vec<u8>, pause: Duration) {
    let mut bytes = Vec::new();
    let mut next = 0_u64;
    while next < count {
        let size = client.stream.read(&mut piece).unwrap();
        assert!(size > 0, "closed after {next} of {count}");
        bytes.extend_from_slice(&piece[..size]);
        let mut frames = Decoder::new(1 << 20).frames(&bytes);
        for frame in &mut frames {
            let frame = frame.unwrap();
            assert_eq!(frame.payload[..8], next.to_be_bytes());
            next += 1;
        }
        let consumed = frames.consumed();
        bytes.drain(..consumed);
        thread::park_timeout(pause);
    }
    assert!(bytes.is_empty());
}

/// Much waits for a peer, which then takes it in pieces of this size: all of it arrives.
#[track_caller]
fn assert_served(piece_size: usize, pause: Duration) {
    let (service, echo) = start_echo(tight().write_stall_timeout(PATIENCE));
    let (client, peer) = connect(&service, 1).pop().unwrap();
    let handle = service.handle();
    let filler = thread::Builder::new().spawn(move || fill(&handle, peer));
    let filler = filler.unwrap();
    let memory_max = canary_until(&service, || filler.is_finished());
    let bound = OUTBOX + AHEAD + TAKEN + OTHER_MEMORY;
    assert!(memory_max <= bound as u64, "{memory_max} of {bound}");
    let accepted = filler.join().unwrap();
    let reader = thread::Builder::new()
        .spawn(move || read_all(client, accepted, vec![0; piece_size], pause));
    let reader = reader.unwrap();
    canary_until(&service, || reader.is_finished());
    reader.join().unwrap();
    let row = wait_for_row(&service, peer);
    assert_eq!(row.reason, CloseReason::PeerClosed);
    assert_eq!((row.outbound.messages, row.lost.messages), (accepted, 0));
    let report = stop_echo(service, echo);
    assert_eq!(closed_for(&report.snapshot, CloseReason::SlowPeer), 0);
}

#[test]
fn one_that_reads_a_little_now_and_then_is_served() {
    assert_served(1 << 10, Duration::from_millis(50));
}

#[test]
fn one_that_stops_and_then_reads_all_is_served() {
    assert_served(64 << 10, Duration::ZERO);
}
