//! The byte budget of a service, held against what the process really allocates.
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
    io::{ErrorKind, Write},
    net::{SocketAddr, TcpStream},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use nebnet::{
    CloseReason, Config, MessageType, NetService, Outgoing, OutgoingBatch, OverflowPolicy,
    Priority, Recipients, SubscribeOptions, TypeFilter,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use util::{Client, PATIENCE, config, only_peer, wait_for_closed, wait_until};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const BUDGET: usize = 24 << 20;
const PAYLOAD_MAX: usize = 1 << 20;
/// What may be allocated besides: blocks kept for the next read (7 MiB), the read and the doubling
/// of one frame that may pass the budget, and what a message costs beside its bytes: tables, slots,
/// rows, and the embedder's own copies.
const SLACK: usize = (7 << 20) + 2 * PAYLOAD_MAX + (2 << 20);
/// The same where nobody is read.
const BUDGET_UNREAD: usize = 8 << 20;
const SLACK_UNREAD: usize = 1 << 20;

const _: () = assert!(SLACK * 2 < BUDGET && SLACK_UNREAD * 8 <= BUDGET_UNREAD);

/// Bytes of the heap in use.
fn heap() -> usize {
    let stats = ALLOCATOR.stats();
    stats
        .bytes_allocated
        .saturating_sub(stats.bytes_deallocated)
}

/// Nobody is closed for being slow, as everybody is on a machine that has much else to do.
fn budgeted() -> Config {
    config()
        .first_frame_timeout(Duration::ZERO)
        .frame_timeout(Duration::ZERO)
        .write_stall_timeout(Duration::ZERO)
        .tcp_user_timeout(Duration::ZERO)
        .memory_budget(BUDGET)
        .dispatch_bytes(BUDGET / 4)
        .outbox_bytes(BUDGET / 4)
        .max_payload(u32::try_from(PAYLOAD_MAX).unwrap())
        .socket_buffers(16 << 10, 64 << 10)
}

/// Writes bytes that exist already over and over, whatever becomes of the connection.
fn flood(done: &AtomicBool, addr: SocketAddr, bytes: &[u8]) {
    while !done.load(Ordering::Relaxed) {
        let mut stream = TcpStream::connect(addr).unwrap();
        let timeout = Some(Duration::from_millis(50));
        stream.set_write_timeout(timeout).unwrap();
        let mut at = 0;
        while !done.load(Ordering::Relaxed) {
            match stream.write(&bytes[at..]) {
                Ok(count) => at = (at + count) % bytes.len(),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
        }
    }
}

fn frames(message_type: u16, size: usize, count: usize) -> Vec<u8> {
    let payload = vec![7; size];
    let frame = nebnet::frame::Frame::new(MessageType(message_type), &payload);
    util::encoded(&frame).repeat(count)
}

#[test]
fn the_heap_stays_within_the_budget_and_its_end_is_told() {
    many_small_messages_stay_within_the_budget();
    little_for_each_of_many_is_little();
    one_of_several_is_closed_where_one_suffices();
    a_mix_stays_within_the_budget();
    at_the_end_sends_are_refused_and_the_largest_outbox_goes();
    at_the_end_the_largest_partial_frame_goes();
    where_subscribers_hold_the_bytes_only_reading_pauses();
}

/// Messages of any size, one at a time and by batches, to peers that read nothing: until the budget
/// refuses them, and not the bound of any outbox.
fn many_small_messages_stay_within_the_budget() {
    for size in [20, 55, 200, 1_400, 5_000, 40_000] {
        let config = budgeted().outbox_messages(1 << 22);
        let config = config.memory_budget(BUDGET_UNREAD).dispatch_bytes(1 << 20);
        let config = config.outbox_bytes(BUDGET_UNREAD);
        let mut service = NetService::new(config).unwrap();
        service.start().unwrap();
        let (addr, handle) = (service.local_addrs()[0], service.handle());
        let silent: Vec<_> = (0..6).map(|_| Client::connect_small(addr)).collect();
        wait_until("all are there", || service.handle().snapshot().peers == 6);
        let peers: Vec<_> = handle.peers().unwrap().iter().map(|row| row.peer).collect();
        let payload = vec![7; size];
        let (before, mut peak) = (heap(), 0);
        let mut batch = OutgoingBatch::new();
        'all: loop {
            for (number, peer) in peers.iter().enumerate() {
                for count in [1, 2, 30] {
                    let result = if count < 30 || number % 2 == 0 {
                        (0..count)
                            .try_for_each(|_| handle.send(*peer, (MessageType(9), &payload)))
                            .map_err(nebnet::Rejected::into_error)
                    } else {
                        for _ in 0..count {
                            let message = Outgoing::new(MessageType(9), &payload);
                            batch.push(&message).unwrap();
                        }
                        let result = handle.send_batch(*peer, &mut batch);
                        batch = OutgoingBatch::new();
                        result
                    };
                    // A batch is refused as a whole, with much room left for one message.
                    if result.is_err() && count == 1 {
                        break 'all;
                    }
                }
            }
            peak = peak.max(heap().saturating_sub(before));
        }
        // What the loop has not seen yet is soon seen.
        let shot = || (handle.peers().unwrap(), service.handle().snapshot()).1;
        let (held, shot) = (heap().saturating_sub(before), shot());
        peak = peak.max(held);
        let used = usize::try_from(shot.memory_used).unwrap();
        assert!(
            used > BUDGET_UNREAD / 10 * 9,
            "{size}: the budget was the bound: {shot:?}"
        );
        assert!(
            peak <= BUDGET_UNREAD + SLACK_UNREAD && held <= used + SLACK_UNREAD,
            "{held} bytes after {peak} with messages of {size} and {used} charged"
        );
        assert!(
            used <= held + held / 4 + SLACK_UNREAD,
            "{used} charged for {held} of {size}"
        );
        drop((batch, silent));
        util::stop(&mut service);
        assert_eq!(service.handle().snapshot().memory_used, 0);
    }
}

/// A message or two wait for each of many.
fn little_for_each_of_many_is_little() {
    let config = budgeted().memory_budget(2 << 20).outbox_bytes(1 << 20);
    let config = config.dispatch_bytes(1 << 20);
    let mut service = NetService::new(config.max_peers(300)).unwrap();
    let mut tap = service.handle().subscribe(TypeFilter::all()).unwrap();
    service.start().unwrap();
    let (addr, handle) = (service.local_addrs()[0], service.handle());
    let silent: Vec<_> = (0..200).map(|_| Client::connect_small(addr)).collect();
    wait_until("all are there", || service.handle().snapshot().peers == 200);
    // Until the kernel takes nothing more for anybody.
    loop {
        let rows = handle.peers().unwrap();
        let idle = rows.iter().filter(|row| row.queued.messages == 0);
        let idle: Vec<_> = idle.map(|row| row.peer).collect();
        if idle.is_empty() {
            break;
        }
        handle.broadcast((MessageType(9), &[0; 1_400]), &idle);
    }
    let mut reader = Client::connect(addr);
    reader.send_message(7, b"room?");
    assert_eq!(tap.recv_timeout(PATIENCE).unwrap().payload(), b"room?");
    let shot = service.handle().snapshot();
    assert!(shot.memory_used < shot.memory_budget / 2, "{shot:?}");
    assert_eq!((shot.peers, shot.closed_total()), (201, 0), "{shot:?}");
    drop((silent, reader));
    util::stop_tap(service, tap);
}

/// Four peers hold all of the budget, one of them half of it.
fn one_of_several_is_closed_where_one_suffices() {
    let config = budgeted().memory_budget(8 << 20).outbox_bytes(8 << 20);
    let mut service = NetService::new(config).unwrap();
    let mut tap = service.handle().subscribe(TypeFilter::all()).unwrap();
    service.start().unwrap();
    let (addr, handle) = (service.local_addrs()[0], service.handle());
    let silent: Vec<_> = (0..4).map(|_| Client::connect_small(addr)).collect();
    let mut reader = Client::connect(addr);
    reader.ping(b"");
    wait_until("all are there", || service.handle().snapshot().peers == 5);
    let rows = handle.peers().unwrap();
    let taken = reader.stream.local_addr().unwrap();
    let peers = rows.iter().filter(|row| row.addr != taken);
    let peers: Vec<_> = peers.map(|row| row.peer).collect();
    let queued = |peer| {
        let rows = handle.peers().unwrap();
        let row = rows.iter().find(|row| row.peer == peer).unwrap();
        usize::try_from(row.queued.bytes).unwrap()
    };
    for (peer, size) in peers.iter().zip([1_260_000, 1_260_000, 1_510_000, 8 << 20]) {
        while queued(*peer) < size
            && handle
                .send(*peer, (MessageType(9), vec![0; 10_000]))
                .is_ok()
        {}
    }
    // Until nothing fits any more, whatever the loop gives back; the reader is not read then.
    wait_until("somebody is closed", || {
        for size in [1_000, 100, 0] {
            while handle
                .send(peers[3], (MessageType(9), vec![0; size]))
                .is_ok()
            {}
        }
        reader.send_message(7, b"room?");
        util::closed_for(&service.handle().snapshot(), CloseReason::Budget) > 0
    });
    assert_eq!(tap.recv_timeout(PATIENCE).unwrap().payload(), b"room?");
    // By now the others would have been looked at as well.
    let shot = service.handle().snapshot();
    assert_eq!(util::closed_for(&shot, CloseReason::Budget), 1, "{shot:?}");
    let rows = handle.peers().unwrap();
    assert!(
        rows.len() == 4 && rows.iter().all(|row| !row.closing),
        "{rows:?}"
    );
    reader.ping(b"still served");
    drop((silent, reader));
    util::stop_tap(service, tap);
}

/// Small frames, long ones, half ones, subscribers of all policies that take little or keep what
/// they took, and broadcasts to peers that read nothing.
fn a_mix_stays_within_the_budget() {
    let floods = [
        frames(1, 20, 2_000),
        frames(2, 5_000, 40),
        frames(3, PAYLOAD_MAX, 1),
    ];
    let half = &frames(4, PAYLOAD_MAX, 1)[..PAYLOAD_MAX - 10];
    let news = vec![9; 40_000];
    let mut service = NetService::new(budgeted()).unwrap();
    let policies = [
        OverflowPolicy::DropNewest,
        OverflowPolicy::DropOldest,
        OverflowPolicy::Pause,
        OverflowPolicy::Close,
        OverflowPolicy::Unsubscribe,
    ];
    let slow = policies.map(|overflow| {
        let options = SubscribeOptions::new(TypeFilter::all()).overflow(overflow);
        service.handle().subscribe_with(options).unwrap()
    });
    service.start().unwrap();
    let (addr, handle) = (service.local_addrs()[0], service.handle());
    // What is allocated once, for the first message of each kind, is not growth.
    let mut first = Client::connect(addr);
    first.send_message(1, b"");
    wait_until("the first", || service.handle().snapshot().dispatched == 1);
    let id = only_peer(&service);
    handle.send(id, (MessageType(9), b"")).unwrap();
    first.expect(9, b"");
    drop(first);
    let (done, before) = (AtomicBool::new(false), heap());
    let mut peak = 0;
    thread::scope(|scope| {
        let done = &done;
        for bytes in floods.iter().chain(&floods) {
            scope.spawn(move || flood(done, addr, bytes));
        }
        let mut silent = Vec::new();
        for number in 0..6 {
            let mut stream = TcpStream::connect(addr).unwrap();
            stream
                .set_write_timeout(Some(Duration::from_millis(20)))
                .unwrap();
            if number < 3 {
                let _ = stream.write_all(half);
            }
            silent.push(stream);
        }
        for mut slow in slow {
            scope.spawn(move || {
                let mut kept = Vec::new();
                while !done.load(Ordering::Relaxed) {
                    match slow.recv_batch_timeout(Duration::from_millis(5)) {
                        Ok(batch) => kept.push(batch),
                        Err(nebnet::RecvTimeoutError::Timeout) => {}
                        Err(nebnet::RecvTimeoutError::Disconnected) => break,
                    }
                    if kept.len() > 20 {
                        kept.clear();
                    }
                }
            });
        }
        let mut refused = 0;
        for round in 0..2_000 {
            let message = Outgoing::new(MessageType(9), &news[..[100, 5_000, 40_000][round % 3]]);
            let message = message.priority([Priority::High, Priority::Low][round % 2]);
            let report = handle.broadcast(&message, Recipients::All);
            let full = report.skipped.iter().filter(|one| one.1.is_full());
            refused += full.count();
            peak = peak.max(heap().saturating_sub(before));
            thread::yield_now();
        }
        assert!(refused > 0, "the budget was the bound");
        done.store(true, Ordering::Relaxed);
    });
    assert!(
        peak <= BUDGET + SLACK,
        "{peak} bytes with a budget of {BUDGET} and a slack of {SLACK}"
    );
    let report = util::stop(&mut service);
    assert!(report.snapshot.inbound.bytes > 1 << 20, "{report}");
    assert_eq!(service.handle().snapshot().memory_used, 0);
}

/// Fills the outbox of a peer that reads nothing until nothing more fits anywhere, and the kernel
/// takes nothing more.
fn fill(service: &NetService, peer: nebnet::PeerId) {
    let handle = service.handle();
    let send = |size| handle.send(peer, (MessageType(9), vec![0; size]));
    while !send(0).is_err_and(|rejected| rejected.error.is_full()) {
        for size in [60_000, 8_000, 100, 0] {
            while send(size).is_ok() {}
        }
        // The loop has had its turn when it answers.
        assert_eq!(handle.peers().unwrap().len(), 2);
    }
}

fn at_the_end_sends_are_refused_and_the_largest_outbox_goes() {
    let config = budgeted().outbox_bytes(BUDGET);
    let mut service = NetService::new(config).unwrap();
    let mut tap = service.handle().subscribe(TypeFilter::all()).unwrap();
    service.start().unwrap();
    let addr = service.local_addrs()[0];
    let silent = Client::connect_small(addr);
    let largest = only_peer(&service);
    let mut reader = Client::connect(addr);
    reader.ping(b"");
    fill(&service, largest);
    let shot = service.handle().snapshot();
    assert!(shot.memory_used >= shot.memory_budget * 9 / 10, "{shot:?}");
    assert!(shot.refused_for_budget > 0, "{shot:?}");
    // Somebody wants to be read, which the outbox of another leaves no room for.
    reader.send_message(7, b"room?");
    wait_for_closed(&service, CloseReason::Budget, 1);
    assert_eq!(
        util::wait_for_row(&service, largest).reason,
        CloseReason::Budget
    );
    assert_eq!(tap.recv_timeout(PATIENCE).unwrap().payload(), b"room?");
    reader.ping(b"still served");
    drop((silent, reader));
    util::stop_tap(service, tap);
}

fn at_the_end_the_largest_partial_frame_goes() {
    let config = budgeted().memory_budget(8 << 20).outbox_bytes(8 << 20);
    let config = config.max_payload(7 << 20);
    let mut service = NetService::new(config).unwrap();
    let tap = service.handle().subscribe(TypeFilter::all()).unwrap();
    service.start().unwrap();
    let addr = service.local_addrs()[0];
    let bytes = frames(4, 7 << 20, 1);
    let mut clients = Vec::new();
    let mut writers = Vec::new();
    for part in [6 << 20, 4 << 20] {
        let mut client = Client::connect(addr);
        let bytes = bytes[..part].to_vec();
        writers.push(thread::spawn(move || {
            let _ = client.stream.write_all(&bytes);
            client
        }));
    }
    wait_for_closed(&service, CloseReason::Budget, 1);
    clients.extend(writers.into_iter().map(|writer| writer.join().unwrap()));
    wait_until("its place is free", || {
        service.handle().snapshot().peers == 1
    });
    drop(clients);
    util::stop_tap(service, tap);
}

fn where_subscribers_hold_the_bytes_only_reading_pauses() {
    let config = budgeted().memory_budget(8 << 20).outbox_bytes(8 << 20);
    let config = config.dispatch_bytes(8 << 20);
    let mut service = NetService::new(config).unwrap();
    let options = SubscribeOptions::new(TypeFilter::all()).bytes(usize::MAX);
    let mut hoarder = service.handle().subscribe_with(options).unwrap();
    service.start().unwrap();
    let addr = service.local_addrs()[0];
    let writers: Vec<_> = (0..3)
        .map(|_| {
            thread::spawn(move || {
                let mut client = Client::connect(addr);
                assert!(client.try_write(&frames(7, 50_000, 150)));
                client
            })
        })
        .collect();
    let mut held = Vec::new();
    let mut count = 0;
    let deadline = Instant::now() + PATIENCE;
    while count < 450 {
        match hoarder.recv_batch_timeout(Duration::from_millis(300)) {
            Ok(batch) => {
                count += batch.len();
                held.push(batch);
            }
            Err(_) => {
                let shot = service.handle().snapshot();
                // What several loops lease of the budget is up to a 32nd more than they use.
                if shot.memory_used * 32 <= shot.memory_budget * 23 {
                    // A writer had no processor for so long.
                    assert!(Instant::now() < deadline, "nobody is read: {shot:?}");
                    continue;
                }
                // Everything stands still, and nobody was closed for it.
                assert_eq!((shot.peers, shot.closed_total()), (3, 0), "{shot:?}");
                assert!(shot.pauses.budget > 0, "{shot:?}");
                assert_eq!(shot.reads_paused, shot.pauses.total());
                assert_eq!(shot.refused_for_budget, 0);
                held.clear();
            }
        }
    }
    assert_eq!(hoarder.row().dropped, 0);
    let clients: Vec<_> = writers.into_iter().map(|one| one.join().unwrap()).collect();
    drop((held, clients));
    util::stop_tap(service, hoarder);
}
