//! One test per defect that was found, named for it.
#![allow(
    missing_docs,
    clippy::disallowed_methods,
    reason = "tests wait by the clock"
)]

mod util;

use std::time::{Duration, Instant};

use nebnet::{MessageType, NetService, Overflow, SubscribeOptions, Types, frame::Frame};
use util::{Client, PATIENCE, config, start_tap, stop_tap};

/// A read that the turn's budget cut short was taken for one that had emptied the socket, and the
/// rest was read only when still more came.
#[test]
fn a_burst_above_the_read_budget_is_read_to_its_end() {
    for size in [4, 5, 61, 1021] {
        let mut service = NetService::new(config()).unwrap();
        let options = SubscribeOptions::new(Types::all()).overflow(Overflow::Pause);
        let mut tap = service.subscribe_with(options).unwrap();
        service.start().unwrap();
        let mut client = Client::connect(service.local_addrs()[0]);
        let payload = vec![b'b'; size];
        let mut bytes = Vec::new();
        let mut sent = 0;
        while bytes.len() < 2 << 20 {
            Frame::new(MessageType(7), &payload)
                .encode(&mut bytes)
                .unwrap();
            sent += 1;
        }
        assert!(client.try_write(&bytes));
        // The client now says nothing more, and does not close.
        let mut received = 0;
        while received < sent {
            received += tap
                .recv_batch_timeout(PATIENCE)
                .expect("the rest of the burst")
                .len();
        }
        drop(client);
        stop_tap(service, tap);
    }
}

/// Times begin at the last whole millisecond, so a deadline counted from there came up to one
/// early.
#[test]
fn a_deadline_is_never_early() {
    let timeout = Duration::from_millis(20);
    let (service, tap) = start_tap(config().frame_timeout(timeout));
    for _ in 0..50 {
        let mut client = Client::connect(service.local_addrs()[0]);
        client.ping(b"");
        let started = Instant::now();
        assert!(client.try_write(b"\0"));
        client.expect_bye(13);
        assert!(
            started.elapsed() >= timeout,
            "after {:?}",
            started.elapsed()
        );
    }
    stop_tap(service, tap);
}

/// A frame that a timeout or a close cut off was not counted among the partial ones.
#[test]
fn a_frame_cut_off_by_our_close_is_counted() {
    let (service, mut tap) = start_tap(config().frame_timeout(Duration::from_millis(20)));
    let mut client = Client::connect(service.local_addrs()[0]);
    assert!(client.try_write(b"\0\0\0\x06\0\x07\0\x01hi\0\0\0\x06"));
    assert_eq!(tap.recv_timeout(PATIENCE).unwrap().payload(), b"hi");
    client.expect_bye(13);
    let report = stop_tap(service, tap);
    assert_eq!(report.snapshot.partial_frames, 1);
}
