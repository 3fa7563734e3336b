//! What a service says of the last bytes that it wrote: what the other system had not acknowledged
//! when the connection ended, which is never less than what did not arrive.
#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests wait by the clock, and end where something is wrong"
)]

mod util;

use std::{
    io::Read,
    net::{Shutdown, TcpStream},
    time::Duration,
};

use nebnet::{CloseReason, ClosedRow, MessageType, NetService, Outgoing, PeerId, frame::Decoder};
use util::{Client, config, only_peer, start_tap, stop_tap, wait_for_row, wait_until};

const FEED: MessageType = MessageType(8);

/// Messages that come until the end, whatever kind of end it is.
fn read_to_the_end(mut stream: &TcpStream) -> u64 {
    let (mut bytes, mut piece) = (Vec::new(), vec![0; 64 << 10]);
    while let Ok(count @ 1..) = stream.read(&mut piece) {
        bytes.extend_from_slice(&piece[..count]);
    }
    let frames = Decoder::new(1 << 20).frames(&bytes);
    let frames = frames.map_while(Result::ok);
    frames.filter(|frame| frame.message_type == FEED).count() as u64
}

/// A client that has said something, and its id.
fn connect(service: &NetService) -> (Client, PeerId) {
    let mut client = Client::connect_small(service.local_addrs()[0]);
    client.send_message(1, b"here");
    let peer = only_peer(service);
    (client, peer)
}

/// Sends until nothing more is taken.
fn fill(service: &NetService, peer: PeerId) {
    let handle = service.handle();
    loop {
        let message = Outgoing::new(FEED, &[7; 1000]);
        if handle
            .send_timeout(peer, message, Duration::from_millis(100))
            .is_err()
        {
            return;
        }
    }
}

#[track_caller]
fn assert_the_sum_holds(row: &ClosedRow, received: u64) {
    let unconfirmed = row.unconfirmed.expect("this system tells");
    let written = row.outbound.messages;
    assert!(received <= written, "{received} received, {row:?}");
    let named = received + unconfirmed.messages;
    assert!(written <= named, "{received} received, {row:?}");
}

#[test]
fn what_a_cut_off_peer_did_not_get_is_unconfirmed() {
    let stall = Duration::from_millis(300);
    for lowat in [0, 64 << 10] {
        let config = config().outbox_bytes(64 << 10).notsent_lowat(lowat);
        let (service, tap) = start_tap(config.write_stall_timeout(stall));
        let (client, peer) = connect(&service);
        fill(&service, peer);
        let row = wait_for_row(&service, peer);
        assert_eq!(row.reason, CloseReason::SlowPeer);
        let received = read_to_the_end(&client.stream);
        assert_the_sum_holds(&row, received);
        let unconfirmed = row.unconfirmed.unwrap();
        assert!(unconfirmed.bytes > 0 && unconfirmed.messages > 0, "{row:?}");
        assert!(unconfirmed.messages <= row.outbound.messages, "{row:?}");
        let report = stop_tap(service, tap);
        assert_eq!(report.snapshot.unconfirmed, unconfirmed);
        assert_eq!(report.snapshot.unconfirmed_unknown, 0);
    }
}

/// The system has purged what it had of the connection by the time that the service learns of it.
#[test]
fn what_a_reset_destroyed_is_unconfirmed() {
    let (service, tap) = start_tap(config().outbox_bytes(64 << 10));
    let (client, peer) = connect(&service);
    fill(&service, peer);
    // Nothing of it was read.
    drop(client);
    let row = wait_for_row(&service, peer);
    assert_eq!(row.reason, CloseReason::Reset);
    assert_the_sum_holds(&row, 0);
    stop_tap(service, tap);
}

#[test]
fn an_end_in_order_leaves_nothing_unconfirmed() {
    let (service, mut tap) = start_tap(config());
    let (client, peer) = connect(&service);
    drop(tap.recv().unwrap());
    let handle = service.handle();
    for _ in 0..100 {
        handle.send(peer, (FEED, &[7; 1000])).unwrap();
    }
    wait_until("the messages are written", || {
        handle.peers().unwrap()[0].queued.messages == 0
    });
    client.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(read_to_the_end(&client.stream), 100);
    drop(client);
    let row = wait_for_row(&service, peer);
    assert_eq!(row.reason, CloseReason::PeerClosed);
    assert!(row.is_confirmed(), "{row:?}");
    assert_the_sum_holds(&row, 100);
    stop_tap(service, tap);
}

/// What the peer's system has not acknowledged at the deadline of a stop is no end in order.
#[test]
fn a_stop_says_what_is_unconfirmed() {
    let config = config().outbox_bytes(64 << 10);
    let (mut service, tap) = start_tap(config.write_stall_timeout(Duration::ZERO));
    let (client, peer) = connect(&service);
    fill(&service, peer);
    let report = util::stop_within(&mut service, Duration::from_millis(100));
    drop(tap);
    assert_eq!((report.closed_orderly, report.closed_abortive), (0, 1));
    let row = &report.peers[0].closed;
    assert_eq!(row.peer, peer);
    assert_the_sum_holds(row, read_to_the_end(&client.stream));
    let text = report.to_string();
    let Some(unconfirmed) = row.unconfirmed.filter(|sum| sum.messages > 0) else {
        panic!("{row:?}");
    };
    let told = format!(
        "{} unconfirmed ({} bytes)",
        unconfirmed.messages, unconfirmed.bytes
    );
    assert!(text.contains(&told), "{text}");
}
