//! Peers that do not read, read slowly, or leave in the middle; and what sending to them says.
//!
//! SIGPIPE: the service writes with `MSG_NOSIGNAL`. That cannot be shown here, because Rust ignores
//! the signal at the start of a program, and to undo that takes `unsafe`.
#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests wait by the clock, and end where something is wrong"
)]

mod util;

use std::{
    io::{Read, Write},
    net::Shutdown,
    thread,
    time::{Duration, Instant},
};

use nebnet::{
    CloseReason, Config, Dispatch, MessageType, NetService, Outgoing, PeerId, SendError,
    frame::Frame,
};
use util::{
    BYE, Client, End, PATIENCE, closed_for, config, encoded, only_peer, start_echo, start_tap,
    stop_echo, stop_tap, wait_for_closed, wait_for_row, wait_until,
};

const T: MessageType = MessageType(7);

/// A pipeline of numbered messages.
fn pipeline(count: u32, size: usize) -> Vec<u8> {
    let (mut bytes, mut payload) = (Vec::new(), vec![b'p'; size.max(4)]);
    for number in 0..count {
        payload[..4].copy_from_slice(&number.to_be_bytes());
        Frame::new(T, &payload).encode(&mut bytes).unwrap();
    }
    bytes
}

#[track_caller]
fn expect_numbers(client: &mut Client, count: u32) {
    for number in 0..count {
        let answer = client
            .receive()
            .unwrap_or_else(|| panic!("no answer {number} of {count}"));
        assert_eq!(answer.payload[..4], number.to_be_bytes());
    }
}

/// Small bounds, so that the kernel's buffers are what takes the most to fill.
fn tight(dispatch: Dispatch) -> Config {
    config().outbox_bytes(64 << 10).dispatch(dispatch)
}

#[test]
fn a_peer_that_never_reads_is_read_no_further_and_then_cut_off() {
    for dispatch in [Dispatch::Thread, Dispatch::Inline] {
        let stall = Duration::from_millis(300);
        let (service, echo) = start_echo(tight(dispatch).write_stall_timeout(stall));
        let addr = service.local_addrs()[0];
        let mut deaf = Client::connect_small(addr);
        let peer = only_peer(&service);
        let mut canary = Client::connect(addr);
        let writer = thread::spawn(move || {
            let bytes = pipeline(1000, 1000);
            let mut written = 0_u64;
            while deaf.try_write(&bytes) {
                written += bytes.len() as u64;
                assert!(written < 1 << 30, "somebody takes it all");
            }
        });
        let mut memory_max = 0;
        while !writer.is_finished() {
            canary.send_message(1, b"canary");
            canary.expect(1, b"canary");
            memory_max = service.handle().snapshot().memory_used.max(memory_max);
        }
        writer.join().unwrap();
        let row = wait_for_row(&service, peer);
        assert_eq!(row.reason, CloseReason::SlowPeer);
        // What was taken from it and not given back is within its credit.
        let unanswered = row.inbound.bytes - row.outbound.bytes;
        assert!(unanswered <= 64 << 10, "{row:?}");
        assert!(row.lost.bytes <= 64 << 10, "{row:?}");
        assert!(memory_max < 1 << 20, "{memory_max}");
        assert!(service.handle().snapshot().pauses.credit > 0);
        canary.ping(b"still here");
        drop(canary);
        stop_echo(service, echo);
    }
}

#[test]
fn a_slow_reader_is_served_at_its_own_pace() {
    let stall = Duration::from_millis(500);
    let (service, echo) = start_echo(tight(Dispatch::Thread).write_stall_timeout(stall));
    let addr = service.local_addrs()[0];
    let mut slow = Client::connect_small(addr);
    let mut pace = Client::connect(addr);
    let bytes = pipeline(6000, 1000);
    let total = bytes.len();
    let mut stream = slow.stream.try_clone().unwrap();
    let writer = thread::spawn(move || stream.write_all(&bytes).unwrap());
    let mut received = Vec::new();
    let mut piece = [0; 4096];
    while received.len() < total {
        let count = slow.stream.read(&mut piece).unwrap();
        assert!(count > 0, "closed after {} bytes", received.len());
        received.extend_from_slice(&piece[..count]);
        pace.ping(b"");
    }
    writer.join().unwrap();
    assert_eq!(received, pipeline(6000, 1000));
    drop((slow, pace));
    let report = stop_echo(service, echo);
    assert_eq!(closed_for(&report.snapshot, CloseReason::SlowPeer), 0);
}

/// With the system's own buffers, which tell of room only when a megabyte of it is there: a peer
/// that reads all the time is not taken for one that does not.
#[test]
fn a_slow_reader_makes_progress_that_the_system_does_not_tell_of() {
    const SIZE: usize = 64 << 10;
    let stall = Duration::from_millis(400);
    let (mut service, tap) = start_tap(config().write_stall_timeout(stall));
    let mut client = Client::connect(service.local_addrs()[0]);
    client.send_message(7, b"feed me");
    let peer = only_peer(&service);
    let mut sent = 0;
    let mut read = 0;
    let started = Instant::now();
    let mut buffer = vec![0; SIZE];
    while started.elapsed() < 5 * stall {
        while service.handle().send(peer, (T, vec![b'x'; SIZE])).is_ok() {
            sent += 1;
        }
        read += client.stream.read(&mut buffer).unwrap();
        thread::park_timeout(stall / 20);
    }
    // All of it, with what is left in the kernel.
    while read < sent * (SIZE + 8) {
        read += client.stream.read(&mut buffer).unwrap();
    }
    assert_eq!(service.handle().snapshot().peers, 1);
    drop(client);
    let report = util::stop(&mut service);
    assert_eq!(closed_for(&report.snapshot, CloseReason::SlowPeer), 0);
    drop(tap);
}

#[test]
fn a_peer_that_reads_again_gets_every_answer() {
    for dispatch in [Dispatch::Thread, Dispatch::Inline] {
        let (service, echo) = start_echo(tight(dispatch));
        let mut client = Client::connect_small(service.local_addrs()[0]);
        let mut stream = client.stream.try_clone().unwrap();
        let writer = thread::spawn(move || {
            stream.write_all(&pipeline(20_000, 1000)).unwrap();
            stream.shutdown(Shutdown::Write).unwrap();
        });
        wait_until("the peer is paused", || {
            service.handle().snapshot().pauses.credit > 0
        });
        expect_numbers(&mut client, 20_000);
        client.expect_end(End::Fin);
        writer.join().unwrap();
        let report = stop_echo(service, echo);
        assert_eq!(report.snapshot.outbound_written.messages, 20_000);
    }
}

#[test]
fn many_empty_frames_are_bounded_by_their_number() {
    let (service, echo) = start_echo(config().outbox_messages(100));
    let mut client = Client::connect_small(service.local_addrs()[0]);
    let mut stream = client.stream.try_clone().unwrap();
    let writer = thread::spawn(move || {
        let bytes = encoded(&Frame::new(T, b"")).repeat(200_000);
        stream.write_all(&bytes).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
    });
    let handle = service.handle();
    wait_until("the peer is paused", || {
        let rows = handle.peers().unwrap();
        assert!(
            rows.iter().all(|row| row.queued.messages <= 100),
            "{rows:?}"
        );
        service.handle().snapshot().pauses.credit > 0
    });
    for _ in 0..200_000 {
        client.expect(7, b"");
    }
    client.expect_end(End::Fin);
    writer.join().unwrap();
    stop_echo(service, echo);
}

// ----- ends --------------------------------------------------------------------------------------

#[test]
fn a_reset_with_answers_queued_is_counted() {
    let (service, echo) = start_echo(config());
    let addr = service.local_addrs()[0];
    let mut canary = Client::connect(addr);
    canary.ping(b"");
    for _ in 0..20 {
        let before = closed_for(&service.handle().snapshot(), CloseReason::Reset);
        let mut client = Client::connect_small(addr);
        client.stream.set_nonblocking(true).unwrap();
        // As much as the kernel takes; the answers stay unread.
        let _ = client.stream.write(&pipeline(4000, 1000));
        wait_until("answers", || {
            service.handle().snapshot().outbound_accepted.messages > 0
        });
        client.reset();
        wait_for_closed(&service, CloseReason::Reset, before + 1);
        canary.send_message(1, b"canary");
        canary.expect(1, b"canary");
    }
    drop(canary);
    stop_echo(service, echo);
}

/// A window that stays shut is the one way to TCP_USER_TIMEOUT that needs no network of its own.
#[test]
fn who_takes_nothing_until_the_system_gives_up_is_stale() {
    let config = config().write_stall_timeout(Duration::ZERO);
    let (service, tap) = start_tap(config.tcp_user_timeout(Duration::from_millis(300)));
    let handle = service.handle();
    let client = Client::connect_small(service.local_addrs()[0]);
    let peer = only_peer(&service);
    while handle.send(peer, (T, vec![0; 100_000])).is_ok() {}
    let row = wait_for_row(&service, peer);
    assert_eq!(row.reason, CloseReason::Stale);
    assert!(row.lost.messages > 0, "{row:?}");
    wait_for_closed(&service, CloseReason::Stale, 1);
    drop(client);
    stop_tap(service, tap);
}

#[test]
fn a_frame_cut_off_by_a_reset_is_not_delivered() {
    let (service, mut tap) = start_tap(config());
    let mut client = Client::connect(service.local_addrs()[0]);
    let peer = only_peer(&service);
    client.send_message(1, b"whole");
    assert_eq!(tap.recv_timeout(PATIENCE).unwrap().payload(), b"whole");
    let large = encoded(&Frame::new(T, &[0; 100_000]));
    assert!(client.try_write(&large[..60_000]));
    let handle = service.handle();
    wait_until("the part is in", || {
        handle.peers().unwrap()[0].in_flight_bytes >= 60_000
    });
    client.reset();
    let row = wait_for_row(&service, peer);
    assert_eq!((row.reason, row.inbound.messages), (CloseReason::Reset, 1));
    let report = stop_tap(service, tap);
    assert_eq!(
        (
            report.snapshot.partial_frames,
            report.snapshot.inbound.messages
        ),
        (1, 1)
    );
}

#[test]
fn a_frame_cut_off_by_a_fin_is_not_delivered() {
    let whole = encoded(&Frame::new(T, b"payload").with_checksum(true));
    let (service, mut tap) = start_tap(config());
    let mut clients = Vec::new();
    for cut in 1..whole.len() {
        let mut client = Client::connect(service.local_addrs()[0]);
        assert!(client.try_write(&[&*whole, &whole[..cut]].concat()));
        client.stream.shutdown(Shutdown::Write).unwrap();
        // Held, the batch keeps its peer open.
        let batch = tap.recv_batch_timeout(PATIENCE).unwrap();
        assert_eq!(batch.iter().next().unwrap().payload(), b"payload");
        clients.push((client, batch));
    }
    for (client, batch) in &mut clients {
        // Answers to what was whole still go out.
        service.handle().send(batch.peer(), (T, b"answer")).unwrap();
        client.expect(7, b"answer");
    }
    let count = clients.len() as u64;
    for (mut client, batch) in clients {
        let peer = batch.peer();
        drop(batch);
        client.expect_end(End::Fin);
        drop(client);
        let row = wait_for_row(&service, peer);
        assert_eq!(
            (row.reason, row.inbound.messages),
            (CloseReason::EofInFrame, 1)
        );
    }
    let report = stop_tap(service, tap);
    assert_eq!(report.snapshot.partial_frames, count);
    assert_eq!(report.snapshot.inbound.messages, count);
}

#[test]
fn data_and_fin_at_once_are_answered_and_then_closed() {
    let (service, echo) = start_echo(config());
    let addr = service.local_addrs()[0];
    let mut clients = Vec::new();
    for count in 0..200 {
        let mut client = Client::connect(addr);
        assert!(client.try_write(&pipeline(count, 100)));
        client.stream.shutdown(Shutdown::Write).unwrap();
        clients.push(client);
    }
    for (count, client) in (0..).zip(&mut clients) {
        expect_numbers(client, count);
        client.expect_end(End::Fin);
    }
    drop(clients);
    wait_for_closed(&service, CloseReason::PeerClosed, 200);
    let report = stop_echo(service, echo);
    assert_eq!(report.snapshot.outbound_dropped.messages, 0);
}

#[test]
fn after_its_fin_a_peer_gets_answers_until_its_messages_are_released() {
    let (service, mut tap) = start_tap(config());
    let mut client = Client::connect(service.local_addrs()[0]);
    client.send_message(7, b"question");
    client.stream.shutdown(Shutdown::Write).unwrap();
    let batch = tap.recv_batch_timeout(PATIENCE).unwrap();
    // Longer than the quiet time that a peer without a question gets.
    let mut other = Client::connect(service.local_addrs()[0]);
    other.stream.shutdown(Shutdown::Write).unwrap();
    other.expect_end(End::Fin);
    service.handle().send(batch.peer(), (T, b"first")).unwrap();
    client.expect(7, b"first");
    service.handle().send(batch.peer(), (T, b"second")).unwrap();
    let released = Instant::now();
    drop(batch);
    client.expect(7, b"second");
    client.expect_end(End::Fin);
    let quiet = released.elapsed();
    // 250 ms from the beginning of the turn in which the loop saw it.
    assert!(
        quiet >= Duration::from_millis(200),
        "closed {quiet:?} after the last batch"
    );
    drop(client);
    stop_tap(service, tap);
}

#[test]
fn urgent_bytes_disturb_nobody_else() {
    let (service, echo) = start_echo(config());
    let addr = service.local_addrs()[0];
    let mut canary = Client::connect(addr);
    for round in 0..6 {
        let mut client = Client::connect(addr);
        client.send_message(1, b"before");
        client.expect(1, b"before");
        let flags = rustix::net::SendFlags::OOB;
        rustix::net::send(&client.stream, b"!", flags).unwrap();
        if round % 2 == 0 {
            rustix::net::send(&client.stream, b"!", flags).unwrap();
        }
        let _ = client.try_write(&encoded(&Frame::new(MessageType(2), b"behind")));
        let _ = client.stream.shutdown(Shutdown::Write);
        // The byte is skipped, or it has cut a frame; then the peer is told.
        while let Some(answer) = client.receive() {
            assert!(
                [MessageType(2), BYE].contains(&answer.message_type),
                "{answer:?}"
            );
        }
        canary.send_message(3, b"canary");
        canary.expect(3, b"canary");
    }
    drop(canary);
    stop_echo(service, echo);
}

// ----- results of sending ------------------------------------------------------------------------

/// Sends until there is no room for a while, and gives the number of messages accepted.
///
/// The kernel's buffers are filled first, and it may make them larger once or twice.
fn fill(service: &NetService, peer: PeerId, payload: &[u8]) -> u64 {
    let handle = service.handle();
    let patience = Duration::from_millis(100);
    let mut count = 0;
    loop {
        let started = Instant::now();
        match handle.send_timeout(peer, Outgoing::new(T, payload), patience) {
            Ok(()) => count += 1,
            Err(rejected) => {
                assert_eq!(rejected.error, SendError::Full);
                assert!(started.elapsed() >= patience);
                return count;
            }
        }
    }
}

#[test]
fn each_result_of_a_send_means_one_thing() {
    let config = config().outbox_bytes(64 << 10).max_payload(100 << 10);
    let (mut service, tap) = start_tap(config);
    let mut client = Client::connect_small(service.local_addrs()[0]);
    let peer = only_peer(&service);
    let size = (100 << 10) + 1;
    let too_large = SendError::TooLarge {
        size,
        limit: size - 1,
    };
    assert_eq!(
        service
            .handle()
            .send(peer, (T, vec![0; size]))
            .map_err(nebnet::Rejected::into_error),
        Err(too_large)
    );
    for reserved in [0xFF00, 0xFF03, 0xFFFF] {
        let reserved = MessageType(reserved);
        let error = SendError::ReservedType(reserved);
        assert_eq!(
            service
                .handle()
                .send(peer, (reserved, b"x"))
                .map_err(nebnet::Rejected::into_error),
            Err(error)
        );
    }
    let nobody = PeerId::from_bits(peer.to_bits() + 1);
    assert_eq!(
        service
            .handle()
            .send(nobody, (T, b"x"))
            .map_err(nebnet::Rejected::into_error),
        Err(SendError::NotConnected)
    );
    let nobody = PeerId::from_bits(u64::MAX);
    assert_eq!(
        service
            .handle()
            .send(nobody, (T, b"x"))
            .map_err(nebnet::Rejected::into_error),
        Err(SendError::NotConnected)
    );
    // An empty outbox takes one message of any legal size, and then it is full.
    let largest = vec![b'l'; size - 1];
    let accepted = fill(&service, peer, &largest);
    assert!(accepted > 0);
    let rejected = service.handle().send(peer, Outgoing::new(T, &largest));
    assert_eq!(rejected.unwrap_err().error, SendError::Full);
    // A close lets what was accepted go out, and takes nothing more.
    assert!(service.handle().close(peer));
    assert_eq!(
        service
            .handle()
            .send(peer, (T, b"late"))
            .map_err(nebnet::Rejected::into_error),
        Err(SendError::Closing)
    );
    for _ in 0..accepted {
        client.expect(7, &largest);
    }
    client.expect_bye(2);
    wait_until("it is gone", || service.handle().snapshot().peers == 0);
    assert_eq!(
        service
            .handle()
            .send(peer, (T, b"late"))
            .map_err(nebnet::Rejected::into_error),
        Err(SendError::NotConnected)
    );
    assert!(!service.handle().close(peer));
    let report = util::stop(&mut service);
    assert_eq!(report.snapshot.outbound_written.messages, accepted);
    assert_eq!(
        service
            .handle()
            .send(peer, (T, b"late"))
            .map_err(nebnet::Rejected::into_error),
        Err(SendError::NotConnected)
    );
    stop_tap(service, tap);
}

#[test]
fn a_send_that_waits_goes_on_when_the_peer_reads() {
    let (service, tap) = start_tap(config().outbox_bytes(64 << 10));
    let mut client = Client::connect_small(service.local_addrs()[0]);
    let peer = only_peer(&service);
    let payload = vec![b'w'; 60 << 10];
    let accepted = fill(&service, peer, &payload);
    let handle = service.handle();
    // The message comes back as it was given, and can be sent again.
    let message = Outgoing::new(T, payload.clone()).correlation(5);
    let rejected = handle.send(peer, message).unwrap_err();
    assert_eq!(rejected.error, SendError::Full);
    let message = rejected.message;
    let sender = thread::spawn(move || handle.send_timeout(peer, message, PATIENCE).is_ok());
    for _ in 0..accepted {
        client.expect(7, &payload);
    }
    let last = client.receive().unwrap();
    assert_eq!((last.correlation, last.payload), (Some(5), payload));
    assert!(sender.join().unwrap());
    drop(client);
    stop_tap(service, tap);
}

#[test]
fn a_send_that_waits_ends_with_the_connection() {
    let (service, tap) = start_tap(config().outbox_bytes(64 << 10));
    let client = Client::connect_small(service.local_addrs()[0]);
    let peer = only_peer(&service);
    let payload = vec![b'w'; 60 << 10];
    fill(&service, peer, &payload);
    let handle = service.handle();
    let sender = thread::spawn(move || {
        let result = handle.send_timeout(peer, Outgoing::new(T, payload), PATIENCE * 2);
        result.unwrap_err().error
    });
    client.reset();
    let started = Instant::now();
    let error = sender.join().unwrap();
    assert!(
        [SendError::NotConnected, SendError::Closing].contains(&error),
        "{error}"
    );
    assert!(started.elapsed() < PATIENCE, "the end woke nobody");
    let report = stop_tap(service, tap);
    assert!(report.snapshot.outbound_dropped.messages > 0);
}

#[test]
fn an_id_is_never_valid_again() {
    let (service, tap) = start_tap(config());
    let mut old: Vec<PeerId> = Vec::new();
    for round in 0..30 {
        let mut client = Client::connect(service.local_addrs()[0]);
        client.ping(b"");
        let peer = only_peer(&service);
        assert!(!old.contains(&peer));
        for old in &old {
            assert_eq!(
                service
                    .handle()
                    .send(*old, (T, b"lost"))
                    .map_err(nebnet::Rejected::into_error),
                Err(SendError::NotConnected)
            );
            assert!(!service.handle().close(*old));
        }
        service.handle().send(peer, (T, b"mine")).unwrap();
        client.expect(7, b"mine");
        match round % 6 {
            0 => drop(client),
            1 | 2 => client.reset(),
            _ => {
                assert!(service.handle().close(peer));
                client.expect_bye(2);
                drop(client);
            }
        }
        wait_until("it is gone", || service.handle().snapshot().peers == 0);
        old.push(peer);
    }
    // The slot was used again; only the generation kept them apart.
    assert!(
        old.iter()
            .any(|peer| *peer != old[0] && peer.index() == old[0].index())
    );
    let report = stop_tap(service, tap);
    assert_eq!(report.snapshot.outbound_written.messages, 30);
}
