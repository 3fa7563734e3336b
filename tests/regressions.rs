//! One test per defect that was found, named for it.
#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests wait by the clock, and end where something is wrong"
)]

mod util;

use std::{
    net::Shutdown,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use nebnet::{
    CloseReason, Dispatch, Handle, MessageType, NetService, OverflowPolicy, SubscribeOptions,
    TypeFilter,
    frame::{Frame, Hello},
};
use util::{
    Client, End, HELLO, PATIENCE, assert_balanced, closed_for, config, encoded, start_echo,
    start_tap, stop_tap, wait_until,
};

/// A read that the turn's budget cut short was taken for one that had emptied the socket, and the
/// rest was read only when still more came.
#[test]
fn a_burst_above_the_read_budget_is_read_to_its_end() {
    for size in [4, 5, 61, 1021] {
        let mut service = NetService::new(config()).unwrap();
        let options = SubscribeOptions::new(TypeFilter::all()).overflow(OverflowPolicy::Pause);
        let mut tap = service.handle().subscribe_with(options).unwrap();
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

/// Holds how long many deadlines took against what was set. Each counts from the beginning of the
/// turn in which the loop saw its cause: where the loop had to wait for a processor in that turn,
/// one of them may seem early. A rule that is wrong makes most of them early.
#[track_caller]
fn assert_not_early(mut waited: Vec<Duration>, timeout: Duration) {
    waited.sort_unstable();
    let quarter = waited[waited.len() / 4];
    assert!(quarter >= timeout, "{waited:?}");
}

/// Times begin at the last whole millisecond, so a deadline counted from there came up to one
/// early.
#[test]
fn a_deadline_is_never_early() {
    let timeout = Duration::from_millis(20);
    let (service, tap) = start_tap(config().frame_timeout(timeout));
    let mut waited = Vec::new();
    for _ in 0..50 {
        let mut client = Client::connect(service.local_addrs()[0]);
        client.ping(b"");
        let started = Instant::now();
        assert!(client.try_write(b"\0"));
        client.expect_bye(13);
        waited.push(started.elapsed());
    }
    assert_not_early(waited, timeout);
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

/// A stop waited until its deadline, and cut off then, a half-closed peer whose messages a
/// subscriber keeps. It is closed in order at half of the time.
#[test]
fn a_half_closed_peer_whose_messages_are_not_released_is_stopped_in_order() {
    let (mut service, tap) = start_tap(config());
    let mut client = Client::connect(service.local_addrs()[0]);
    client.send_message(7, b"kept");
    client.stream.shutdown(Shutdown::Write).unwrap();
    wait_until("it is in the queue", || tap.row().queued == 1);
    let report = util::stop_within(&mut service, Duration::from_secs(2));
    assert_eq!((report.closed_orderly, report.closed_abortive), (1, 0));
    client.expect_end(End::Fin);
    stop_tap(service, tap);
}

/// A panic in the metrics callback of an inline service left its connections uncounted.
#[test]
fn connections_that_a_callback_ends_are_counted() {
    let mut service = NetService::new(config().dispatch(Dispatch::Inline)).unwrap();
    util::expect_panics();
    service.on_metrics(|_| panic!("the callback's own fault"));
    service.start().unwrap();
    let mut client = Client::connect(service.local_addrs()[0]);
    client.ping(b"");
    assert!(
        service
            .ended()
            .recv_timeout(PATIENCE)
            .is_err_and(|end| end.is_disconnected())
    );
    let report = util::stop_within(&mut service, PATIENCE);
    assert_eq!(closed_for(&report.snapshot, CloseReason::Internal), 1);
    assert_balanced(&report.snapshot);
}

/// Asks a hundred times: a question that waits for its answer takes five seconds, and one that does
/// not far less than a hundredth of the patience.
#[track_caller]
fn assert_answers_at_once(
    handle: &Handle,
    peers: &Result<Vec<nebnet::PeerRow>, nebnet::QueryError>,
) {
    let started = Instant::now();
    for _ in 0..100 {
        assert_eq!(handle.peers(), *peers);
        assert_eq!(handle.recently_closed().is_ok(), peers.is_ok());
        assert!(started.elapsed() < PATIENCE);
    }
}

/// A question to a service that does not run waited five seconds for its answer.
#[test]
fn a_service_that_does_not_run_answers_at_once() {
    let mut service = NetService::new(config()).unwrap();
    let handle = service.handle();
    assert_answers_at_once(&handle, &Ok(Vec::new()));
    service.start().unwrap();
    let mut client = Client::connect(service.local_addrs()[0]);
    client.ping(b"");
    assert_eq!(handle.peers().unwrap().len(), 1);
    drop(client);
    let report = util::stop_within(&mut service, PATIENCE);
    assert_balanced(&report.snapshot);
    assert_answers_at_once(&handle, &Ok(Vec::new()));
}

/// With inline dispatch, a snapshot taken at the wrong moment kept the loop from the list of
/// subscribers, and what came then went past those who had just subscribed.
#[test]
fn who_has_subscribed_misses_nothing_while_others_look_at_the_list() {
    let mut service = NetService::new(config().dispatch(Dispatch::Inline)).unwrap();
    service.start().unwrap();
    let mut client = Client::connect(service.local_addrs()[0]);
    client.ping(b"");
    let handle = service.handle();
    let done = Arc::new(AtomicBool::new(false));
    let looking = thread::spawn({
        let done = Arc::clone(&done);
        move || {
            while !done.load(Ordering::Relaxed) {
                drop(handle.snapshot());
            }
        }
    });
    // Makes the list long to look at.
    let _many: Vec<_> = (0..200)
        .map(|_| service.handle().subscribe(MessageType(1)).unwrap())
        .collect();
    for number in 0..500_u32 {
        let mut subscription = service.handle().subscribe(MessageType(7)).unwrap();
        client.send_message(7, &number.to_be_bytes());
        let message = subscription
            .recv_timeout(PATIENCE)
            .expect("it was sent after subscribing");
        assert_eq!(message.payload(), number.to_be_bytes());
    }
    done.store(true, Ordering::Relaxed);
    looking.join().unwrap();
    drop(client);
    let report = util::stop_within(&mut service, PATIENCE);
    assert_balanced(&report.snapshot);
    assert_eq!(report.snapshot.unclaimed, 0);
}

/// The time that a stop may take was added to a margin, which overflowed.
#[test]
fn a_stop_may_have_all_the_time_there_is() {
    let (mut service, tap) = start_tap(config());
    let client = Client::connect(service.local_addrs()[0]);
    wait_until("the client is there", || {
        service.handle().snapshot().peers == 1
    });
    drop(client);
    let report = util::stop_within(&mut service, Duration::MAX);
    assert!(report.joined && report.drained, "{report}");
    drop(tap);
}

/// A metrics callback on the loop asked the loop for its connections, and both waited five seconds.
#[test]
fn a_callback_on_the_loop_is_answered_at_once() {
    let mut service = NetService::new(config().dispatch(Dispatch::Inline)).unwrap();
    let handle = service.handle();
    let (sender, receiver) = crossbeam_channel::bounded(1);
    service.on_metrics(move |_| {
        assert_answers_at_once(&handle, &Err(nebnet::QueryError::OwnThread));
        let _ = sender.try_send(());
    });
    service.start().unwrap();
    receiver.recv_timeout(PATIENCE).unwrap();
    util::stop_within(&mut service, PATIENCE);
}

/// What a peer sent before it broke the protocol is delivered; its answers were refused all the
/// same, because the connection was closed to senders at once.
#[test]
fn answers_to_the_frames_before_a_bad_one_are_written() {
    let (mut service, echo) = start_echo(config());
    for _ in 0..20 {
        let mut client = Client::connect(service.local_addrs()[0]);
        let mut bytes = Vec::new();
        for number in 0..50_u8 {
            let payload = [number];
            bytes.extend(encoded(&Frame::new(MessageType(7), &payload)));
        }
        // A frame of version 2.
        bytes.extend(b"\0\0\0\x04\0\x07\0\x02");
        assert!(client.try_write(&bytes));
        for number in 0..50_u8 {
            client.expect(7, &[number]);
        }
        client.expect_bye(5);
    }
    let report = util::stop_within(&mut service, Duration::from_secs(5));
    assert_balanced(&report.snapshot);
    echo.join().unwrap();
}

/// The pause of a peer with a wrong token was counted from the last whole millisecond, so its BYE
/// could come before the time was over.
#[test]
fn a_refusal_is_never_early() {
    let (service, tap) = start_tap(config().accept_tokens(["right"]));
    let hello = Hello {
        token: b"wrong",
        ..Hello::default()
    };
    let hello = encoded(&Frame::new(HELLO, &hello.to_payload()));
    let addr = service.local_addrs()[0];
    // One after the other, in all parts of a millisecond, and read in the same order.
    let guesses: Vec<_> = (0..100)
        .map(|_| {
            let mut client = Client::connect(addr);
            let started = Instant::now();
            assert!(client.try_write(&hello));
            thread::sleep(Duration::from_micros(1_300));
            (client, started)
        })
        .collect();
    let waited = guesses.into_iter().map(|(mut client, started)| {
        client.expect_bye(11);
        started.elapsed()
    });
    assert_not_early(waited.collect(), Duration::from_millis(500));
    stop_tap(service, tap);
}
