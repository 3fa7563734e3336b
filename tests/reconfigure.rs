//! Settings that change while a service runs: they hold for every peer, those of before included,
//! and either all of them change or none.
#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests wait by the clock, and end where something is wrong"
)]

mod util;

use std::{net::TcpListener, sync::mpsc::sync_channel, thread, time::Duration};

use nebnet::{
    CloseReason, Config, ConfigError, ConnectOptions, Event, EventOptions, HandlerOptions,
    MessageType, NetService, ReconfigureError, Reconfigured, SendError,
    frame::{Frame, Hello},
};
use util::{
    Client, HELLO, OK, PATIENCE, config, only_peer, shards, start_echo, start_tap, stop, stop_echo,
    stop_tap, wait_for_closed, wait_until,
};

const SHORT: Duration = Duration::from_millis(50);
const LONG: Duration = Duration::from_secs(3600);

#[track_caller]
fn changed(service: &NetService, config: &Config, names: &[&str]) {
    let told = service.handle().reconfigure(config).unwrap();
    assert_eq!((&*told.changed, &*told.kept), (names, &[][..]));
}

fn hello(token: &[u8]) -> Frame<'static> {
    let hello = Hello {
        token,
        payload_size_max: 1000,
        ..Hello::default()
    };
    Frame::new(HELLO, hello.to_payload().leak())
}

/// A shorter deadline does not wait for the timer of the longer one, whether a peer was never used,
/// is in use, or rests after use; each timeout by itself.
#[test]
fn a_shorter_deadline_holds_for_peers_that_are_connected() {
    let off = config()
        .first_frame_timeout(LONG)
        .frame_timeout(LONG)
        .idle_timeout(LONG)
        .heartbeat(LONG, LONG);
    let begun = [0, 0, 0, 6, 0, 7];
    for (shorter, reason, first) in [
        (
            off.clone().first_frame_timeout(SHORT),
            CloseReason::FirstFrameTimeout,
            &b""[..],
        ),
        (
            off.clone().frame_timeout(SHORT),
            CloseReason::FrameTimeout,
            &begun,
        ),
        (
            off.clone().idle_timeout(SHORT),
            CloseReason::IdleTimeout,
            b"\0\0\0\x06\0\x07\0\x01hi",
        ),
        (
            off.clone().idle_timeout(SHORT),
            CloseReason::IdleTimeout,
            b"",
        ),
    ] {
        let (mut service, tap) = start_tap(off.clone());
        let addr = service.local_addrs()[0];
        let mut clients: Vec<_> = (0..64).map(|_| Client::connect(addr)).collect();
        for client in &mut clients {
            assert!(client.try_write(first));
        }
        wait_until("all are here", || service.handle().snapshot().peers == 64);
        service.handle().reconfigure(&shorter).unwrap();
        wait_for_closed(&service, reason, 64);
        wait_until("all have left", || service.handle().snapshot().peers == 0);
        drop(clients);
        drop(tap);
        stop(&mut service);
    }
}

/// A deadline that was off begins to count, and one that is put off is not held against a peer.
#[test]
fn a_deadline_can_be_put_on_and_off() {
    let off = config().first_frame_timeout(None).frame_timeout(None);
    let (service, tap) = start_tap(off.clone());
    let mut silent = Client::connect(service.local_addrs()[0]);
    wait_until("it is here", || service.handle().snapshot().peers == 1);
    changed(
        &service,
        &off.clone().first_frame_timeout(LONG),
        &["first_frame_timeout"],
    );
    changed(&service, &off, &["first_frame_timeout"]);
    changed(
        &service,
        &off.clone().first_frame_timeout(SHORT),
        &["first_frame_timeout"],
    );
    silent.expect_bye(12);
    stop_tap(service, tap);
}

/// Peers beyond a lower limit stay, and nobody is let in beside them; the tables have places for as
/// many as there were to be at the start.
#[test]
fn the_number_of_peers_can_fall_and_rise_again() {
    let start = config().max_peers(3).max_pending(0);
    let (service, tap) = start_tap(start.clone());
    let addr = service.local_addrs()[0];
    let mut first = [Client::connect(addr), Client::connect(addr)];
    wait_until("two are here", || service.handle().snapshot().peers == 2);
    changed(&service, &start.clone().max_peers(1), &["max_peers"]);
    Client::connect(addr).expect_bye(17);
    for client in &mut first {
        client.ping(b"here");
    }
    changed(&service, &start, &["max_peers"]);
    Client::connect(addr).ping(b"here");
    let told = service
        .handle()
        .reconfigure(&start.clone().max_peers(4))
        .unwrap();
    assert_eq!((told.changed, told.kept), (vec![], vec!["max_peers"]));
    drop(first);
    stop_tap(service, tap);
}

/// Those that came before there was a limit count, once they are limited, and count no more when
/// they have gone.
#[test]
fn peers_of_one_address_can_be_limited_while_they_are_there() {
    let start = config();
    let (service, tap) = start_tap(start.clone());
    let addr = service.local_addrs()[0];
    let first = [Client::connect(addr), Client::connect(addr)];
    wait_until("two are here", || service.handle().snapshot().peers == 2);
    let limited = start.clone().max_peers_per_addr(2);
    changed(&service, &limited, &["max_peers_per_addr"]);
    Client::connect(addr).expect_bye(18);
    let mut other = Client::connect_from("127.0.0.2", addr);
    other.ping(b"another address");
    drop(first);
    wait_until("two are gone", || service.handle().snapshot().peers == 1);
    let mut next = Client::connect(addr);
    next.ping(b"there is room");
    changed(&service, &start, &["max_peers_per_addr"]);
    let mut more = [(); 3].map(|()| Client::connect(addr));
    for client in &mut more {
        client.ping(b"no limit");
    }
    drop((other, next, more));
    stop_tap(service, tap);
}

#[test]
fn a_hello_is_judged_by_the_tokens_of_its_time() {
    let open = config();
    let (service, tap) = start_tap(open.clone());
    let addr = service.local_addrs()[0];
    let mut before = Client::connect(addr);
    before.ping(b"here");
    let old = open.clone().accept_tokens(["old"]).require_hello(true);
    changed(&service, &old, &["require_hello", "accept_tokens"]);
    let mut with_old = Client::connect(addr);
    with_old.send(&hello(b"old"));
    assert_eq!(with_old.receive().unwrap().message_type, OK);
    changed(
        &service,
        &old.clone().accept_tokens(["new"]),
        &["accept_tokens"],
    );
    let mut refused = Client::connect(addr);
    refused.send(&hello(b"old"));
    refused.expect_bye(11);
    let mut with_new = Client::connect(addr);
    with_new.send(&hello(b"new"));
    assert_eq!(with_new.receive().unwrap().message_type, OK);
    let mut without = Client::connect(addr);
    without.send_message(7, b"hi");
    without.expect_bye(9);
    // Who was let in stays.
    before.ping(b"still here");
    with_old.ping(b"still here");
    drop((before, with_old, with_new));
    stop_tap(service, tap);
}

#[test]
fn a_link_shows_its_new_token_and_connects_within_the_new_time() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let start = config().connect_timeout(LONG);
    let (service, tap) = start_tap(start.clone());
    let events = service
        .handle()
        .subscribe_events(EventOptions::new())
        .unwrap();
    let next = start.connect_timeout(SHORT).token("new");
    changed(&service, &next, &["connect_timeout", "token"]);
    let target = silent.local_addr().unwrap();
    service
        .handle()
        .connect(ConnectOptions::from(target))
        .unwrap();
    let mut peer = Client::of(silent.accept().unwrap().0);
    let payload = peer.receive().unwrap().payload;
    assert_eq!(Hello::parse(&payload).unwrap().token, b"new");
    let event = events.recv_timeout(PATIENCE).unwrap();
    assert!(matches!(event, Event::DialFailed { .. }), "{event:?}");
    drop((peer, events));
    stop_tap(service, tap);
}

#[test]
fn an_outbox_and_the_budget_can_grow_and_shrink() {
    let start = config()
        .outbox_bytes(64 << 10)
        .memory_budget(64 << 20)
        .dispatch_bytes(1 << 20);
    let (service, tap) = start_tap(start.clone());
    let mut client = Client::connect_small(service.local_addrs()[0]);
    client.ping(b"here");
    let peer = only_peer(&service);
    let payload = vec![0; 60_000];
    let send = || service.handle().send(peer, (MessageType(7), &payload[..]));
    let mut sent = 0;
    while send().is_ok() {
        sent += 1;
    }
    let wide = start.clone().outbox_bytes(4 << 20).memory_budget(128 << 20);
    changed(&service, &wide, &["outbox_bytes", "memory_budget"]);
    assert_eq!(service.handle().snapshot().memory_budget, 128 << 20);
    for _ in 0..8 {
        send().unwrap();
        sent += 1;
    }
    changed(&service, &start, &["outbox_bytes", "memory_budget"]);
    assert_eq!(service.handle().snapshot().memory_budget, 64 << 20);
    assert_eq!(
        send().map_err(nebnet::Rejected::into_error),
        Err(SendError::Full)
    );
    // What waits beyond the bound is not lost.
    for _ in 0..sent {
        client.expect(7, &payload);
    }
    drop(client);
    stop_tap(service, tap);
}

/// Wrong settings, and some that contradict what cannot change, change nothing.
#[test]
fn either_all_changes_or_nothing() {
    let start = config().max_payload(8 << 20);
    let (service, tap) = start_tap(start.clone());
    let handle = service.handle();
    let wrong = start.clone().idle_timeout(SHORT).max_peers(0);
    let error = handle.reconfigure(&wrong).unwrap_err();
    assert_eq!(
        error.to_string(),
        "max_peers is 0, allowed are 1 to 16769024"
    );
    let narrow = start
        .clone()
        .idle_timeout(SHORT)
        .max_payload(1000)
        .memory_budget(4 << 20)
        .dispatch_bytes(1 << 20)
        .outbox_bytes(1 << 20);
    let error = handle.reconfigure(&narrow).unwrap_err();
    let ReconfigureError::Config(ConfigError::Exceeds { setting, .. }) = error else {
        panic!("{error}");
    };
    assert_eq!(setting, "max_payload");
    // The idle timeout would have closed it.
    assert_eq!(handle.reconfigure(&start).unwrap(), Reconfigured::default());
    let fixed = start
        .clone()
        .shards(shards() + 1)
        .network_id(9)
        .checksums(true);
    let told = handle.reconfigure(&fixed.idle_timeout(LONG)).unwrap();
    assert_eq!(told.changed, ["idle_timeout"]);
    assert_eq!(told.kept, ["shards", "checksums", "network_id"]);
    stop_tap(service, tap);
    let error = handle.reconfigure(&start).unwrap_err();
    assert!(matches!(error, ReconfigureError::Stopped), "{error}");
}

#[test]
fn before_the_start_it_comes_with_the_start() {
    let start = config();
    let mut service = NetService::new(start.clone()).unwrap();
    changed(&service, &start.idle_timeout(SHORT), &["idle_timeout"]);
    service.start().unwrap();
    let mut client = Client::connect(service.local_addrs()[0]);
    client.expect_bye(14);
    stop(&mut service);
}

/// The loop does not wait for itself.
#[test]
fn a_handler_may_change_settings() {
    let start = config().shards(1);
    let mut service = NetService::new(start.clone()).unwrap();
    let (sender, told) = sync_channel(1);
    let handle = service.handle();
    let shorter = start.idle_timeout(SHORT);
    let options = HandlerOptions::new(MessageType(7));
    service
        .handle_inline(options, move |_, _| {
            sender.send(handle.reconfigure(&shorter).unwrap()).unwrap();
        })
        .unwrap();
    service.start().unwrap();
    let mut client = Client::connect(service.local_addrs()[0]);
    client.send_message(7, b"hi");
    assert_eq!(
        told.recv_timeout(PATIENCE).unwrap().changed,
        ["idle_timeout"]
    );
    client.expect_bye(14);
    stop(&mut service);
}

/// Threads that change settings back and forth disturb no message, and all loops end with the same.
#[test]
fn changes_from_several_threads_disturb_no_message() {
    let start = config().memory_budget(64 << 20);
    let (service, echo) = start_echo(start.clone());
    let other = start
        .clone()
        .memory_budget(96 << 20)
        .outbox_messages(1000)
        .idle_timeout(LONG)
        .max_peers_per_addr(100)
        .accept_tokens(["a", "b"]);
    let mut client = Client::connect(service.local_addrs()[0]);
    client.ping(b"here");
    let (handle, sides) = (service.handle(), [start.clone(), other]);
    thread::scope(|scope| {
        for side in 0..4 {
            let (handle, sides) = (&handle, &sides);
            thread::Builder::new()
                .spawn_scoped(scope, move || {
                    for round in 0..50 {
                        handle.reconfigure(&sides[(side + round) % 2]).unwrap();
                    }
                })
                .unwrap();
        }
        for number in 0..2_000_u32 {
            client.send_message(7, &number.to_be_bytes());
            client.expect(7, &number.to_be_bytes());
        }
    });
    handle.reconfigure(&start).unwrap();
    assert_eq!(service.handle().snapshot().memory_budget, 64 << 20);
    drop(client);
    stop_echo(service, echo);
}
