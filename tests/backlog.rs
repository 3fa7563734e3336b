//! Where what a peer does not take waits: with the service, which tells of it, and not in the
//! system's buffer, which may have megabytes of room.
#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests wait by the clock, and end where something is wrong"
)]

mod util;

use std::time::Duration;

use nebnet::{Config, Event, EventOptions, MessageType, PeerRow};
use util::{Client, config, only_peer, start_tap, stop_tap, wait_until};

const FEED: MessageType = MessageType(8);
const PAYLOAD: [u8; 480] = [7; 480];
/// The largest segment, which the system takes although its bound is reached.
const SEGMENT: u64 = 64 << 10;
/// More than the system's buffers take without a bound.
const ENOUGH: u64 = 16 << 20;

/// Sends to a client that does not read until half of what may wait for it does. Returns what was
/// written to it then, and what its system had.
fn feed_one_that_never_reads(config: Config) -> (u64, u64) {
    // However long it takes to fill, nobody is closed for it.
    let config = config
        .write_stall_timeout(Duration::ZERO)
        .tcp_user_timeout(Duration::ZERO);
    let (service, tap) = start_tap(config.outbox_bytes(256 << 10));
    let mut client = Client::connect_small(service.local_addrs()[0]);
    client.send_message(1, b"here");
    let events = service
        .handle()
        .subscribe_events(EventOptions::default())
        .unwrap();
    let (peer, handle) = (only_peer(&service), service.handle());
    let row = || -> PeerRow { handle.peers().unwrap().into_iter().next().unwrap() };
    let mut sent = 0;
    while row().queued.bytes < 128 << 10 && sent < ENOUGH {
        for _ in 0..64 {
            handle.send(peer, (FEED, &PAYLOAD)).unwrap();
            sent += PAYLOAD.len() as u64 + 8;
        }
        // What the system takes it takes soon; what it does not take stays.
        let mut looks = 0;
        wait_until("a look at what waits", || {
            looks += 1;
            looks > 20 || row().queued.bytes == 0
        });
    }
    let row = row();
    assert_eq!(row.outbound.bytes + row.queued.bytes, sent);
    if row.queued.bytes > 0 {
        assert!(row.queued_oldest.is_some());
        let congested =
            |event: &Event| matches!(event, Event::Congested { peer: one, .. } if *one == peer);
        wait_until("the event", || {
            events.try_recv().is_ok_and(|event| congested(&event))
        });
    }
    let mut unread = vec![0; 8 << 20];
    let unread = client.stream.peek(&mut unread).unwrap() as u64;
    drop(client);
    stop_tap(service, tap);
    (row.outbound.bytes, unread)
}

#[test]
fn a_backlog_is_seen_before_the_systems_buffer_is_full() {
    for lowat in [16 << 10, 128 << 10] {
        let (written, unread) = feed_one_that_never_reads(config().notsent_lowat(lowat));
        // What was on its way when the window closed is the system's to send again.
        let bound = unread + lowat as u64 + 2 * SEGMENT;
        assert!(written <= bound, "{written} of {bound}, {unread} unread");
    }
    let (written, unread) = feed_one_that_never_reads(config());
    assert!(
        written <= unread + (256 << 10),
        "{written}, {unread} unread"
    );
}

/// What the option is for.
#[test]
fn without_a_bound_the_system_takes_megabytes() {
    let (written, _) = feed_one_that_never_reads(config().notsent_lowat(0));
    assert!(written > 1 << 20, "{written}");
}
