//! Many connections, at once and one after the other: all are served, and everything comes back.
#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests wait by the clock, and end where something is wrong"
)]

mod util;

use std::{
    sync::{Mutex, PoisonError},
    thread,
};

use nebnet::CloseReason;
use util::{
    Client, config, descriptors, start_echo, start_tap, stop_echo, stop_tap, wait_for_closed,
    wait_until,
};

/// Who counts descriptors and memory of the process has it alone.
static ALONE: Mutex<()> = Mutex::new(());

/// Resident memory of this process in KiB.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
fn a_thousand_connections_echo_at_once() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let before = descriptors();
    let (service, echo) = start_echo(config());
    let addr = service.local_addrs()[0];
    let mut clients: Vec<Client> = (0..1000).map(|_| Client::connect(addr)).collect();
    for round in 0..5_u16 {
        for (number, client) in clients.iter_mut().enumerate() {
            client.send_message(round, &number.to_be_bytes());
            client.send_message(round, &[b'x'; 300]);
        }
        for (number, client) in clients.iter_mut().enumerate() {
            client.expect(round, &number.to_be_bytes());
            client.expect(round, &[b'x'; 300]);
        }
    }
    let snapshot = service.handle().snapshot();
    assert_eq!((snapshot.peers, snapshot.accepted), (1000, 1000));
    // Those that are silent hold nothing.
    wait_until("idle connections hold nothing", || {
        service.handle().snapshot().memory_used == 0
    });
    drop(clients);
    wait_for_closed(&service, CloseReason::PeerClosed, 1000);
    let report = stop_echo(service, echo);
    assert_eq!(report.snapshot.outbound_written.messages, 10_000);
    wait_until("descriptors come back", || descriptors() <= before);
}

#[test]
fn ten_thousand_connections_one_after_the_other_leave_nothing() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (service, tap) = start_tap(config());
    let addr = service.local_addrs()[0];
    let churn = |count: u64| {
        for number in 0..count {
            let mut client = Client::connect(addr);
            match number % 4 {
                // Without a word, with half a frame, with an answer, and by a FIN.
                0 => client.reset(),
                1 => {
                    assert!(client.try_write(b"\0\0\0\x06\0\x07"));
                    client.reset();
                }
                2 => {
                    client.ping(b"x");
                    client.reset();
                }
                _ => {
                    assert!(client.try_write(b"\0\0\0\x04"));
                    drop(client);
                }
            }
        }
        wait_until("all are gone", || service.handle().snapshot().peers == 0);
    };
    churn(2000);
    wait_until("all were accepted", || {
        service.handle().snapshot().accepted == 2000
    });
    let (files, memory) = (descriptors(), resident_kib());
    churn(8000);
    wait_until("all were accepted", || {
        service.handle().snapshot().accepted == 10_000
    });
    wait_until("all are gone", || service.handle().snapshot().peers == 0);
    wait_until("descriptors come back", || descriptors() <= files);
    let grown = resident_kib().saturating_sub(memory);
    assert!(grown < 6 << 10, "{grown} KiB more than before");
    let report = stop_tap(service, tap);
    assert_eq!(report.snapshot.accepted, 10_000);
    assert_eq!(report.snapshot.accept_errors, 0);
}

#[test]
fn a_burst_of_connections_is_accepted() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let before = descriptors();
    // All of them may be there before any has said something.
    let (service, echo) = start_echo(config().max_pending(1200));
    let addr = service.local_addrs()[0];
    // More than one turn accepts, from several threads at once.
    let bursts: Vec<_> = (0..4)
        .map(|_| {
            thread::spawn(move || {
                let mut clients: Vec<Client> = (0..300).map(|_| Client::connect(addr)).collect();
                for client in &mut clients {
                    client.send_message(7, b"burst");
                }
                for client in &mut clients {
                    client.expect(7, b"burst");
                }
                clients
            })
        })
        .collect();
    let clients: Vec<_> = bursts
        .into_iter()
        .map(|burst| burst.join().unwrap())
        .collect();
    assert_eq!(service.handle().snapshot().peers, 1200);
    drop(clients);
    stop_echo(service, echo);
    wait_until("descriptors come back", || descriptors() <= before);
}
