//! A subscriber that loses nothing, and is full when the end comes: what it takes in time is not
//! lost, and what it does not take is counted.

use std::{thread, time::Duration};

use nebnet::{
    CloseReason, ConnectOptions, Event, EventOptions, NetService, OverflowPolicy, ServiceState,
    StopReport, SubscribeOptions, Subscription, TypeFilter,
};

use crate::{
    util::{self, config, wait_until},
    world::{DRAIN, T, connected},
};

const COUNT: u64 = 5_000;

/// A server with a full subscriber, and a client service that has sent it all there is.
fn start() -> (NetService, Subscription, NetService) {
    let mut server = NetService::new(config()).unwrap();
    let options = SubscribeOptions::new(TypeFilter::all()).messages(10);
    let full = server
        .handle()
        .subscribe_with(options.overflow(OverflowPolicy::Pause))
        .unwrap();
    server.start().unwrap();
    let mut client = NetService::new(config().listen_nowhere()).unwrap();
    client.start().unwrap();
    let target = ConnectOptions::from(server.local_addrs()[0]);
    client.handle().connect(target).unwrap();
    let handle = client.handle();
    let peer = connected(&handle, 1)[0];
    for number in 0..COUNT {
        handle
            .send(peer, (T, number.to_be_bytes().to_vec()))
            .unwrap();
    }
    wait_until("messages are parked", || full.row().parked > 0);
    (server, full, client)
}

/// Stops the server on a thread of its own, and waits until that has begun.
fn begin_stop(
    mut server: NetService,
    deadline: Duration,
) -> thread::JoinHandle<(NetService, StopReport)> {
    let handle = server.handle();
    let stopping = thread::spawn(move || {
        let report = util::stop_within(&mut server, deadline);
        (server, report)
    });
    wait_until("it stops", || {
        handle.snapshot().state == ServiceState::Stopping
    });
    stopping
}

#[test]
fn a_full_subscriber_that_goes_on_in_time_loses_nothing() {
    let (server, mut full, mut client) = start();
    let stopping = begin_stop(server, DRAIN);
    for number in 0..COUNT {
        assert_eq!(full.recv().unwrap().payload(), number.to_be_bytes());
    }
    assert!(full.recv().is_err());
    let (server, report) = stopping.join().unwrap();
    assert!(report.drained, "{report}");
    assert_eq!(report.snapshot.inbound.messages, COUNT);
    assert_eq!(util::closed_for(&report.snapshot, CloseReason::Shutdown), 1);
    let client = util::stop(&mut client);
    assert_eq!(client.snapshot.outbound_written.messages, COUNT);
    assert_eq!(client.snapshot.outbound_dropped.messages, 0);
    drop((server, full));
}

/// What it has not taken at the deadline is discarded and counted, and what had not been read by
/// then is named as well.
#[test]
fn a_full_subscriber_that_goes_on_too_late_loses_what_is_named() {
    let (server, mut full, mut client) = start();
    let stopping = begin_stop(server, Duration::from_millis(300));
    let (server, report) = stopping.join().unwrap();
    assert!(!report.drained, "{report}");
    let mut taken = 0_u64;
    while let Ok(message) = full.recv() {
        assert_eq!(message.payload(), taken.to_be_bytes());
        taken += 1;
    }
    let row = full.row();
    assert!(taken <= 10 && row.discarded > 0, "{row:?}");
    assert_eq!(row.matched, taken + row.discarded, "{row:?}");
    // The harness holds both ledgers against each other.
    util::stop(&mut client);
    drop((server, full));
}

/// What a client's system holds when its FIN is out is waited for until its drain time is over, and
/// not only for as long as a peer at fault would get.
#[test]
fn what_is_taken_late_but_in_time_is_not_unconfirmed() {
    let mut server = NetService::new(config()).unwrap();
    let options = SubscribeOptions::new(TypeFilter::all()).messages(10);
    let mut full = server
        .handle()
        .subscribe_with(options.overflow(OverflowPolicy::Pause))
        .unwrap();
    server.start().unwrap();
    // Its system takes everything at once.
    let mut client = NetService::new(config().listen_nowhere().notsent_lowat(0)).unwrap();
    let events = client
        .handle()
        .subscribe_events(EventOptions::new())
        .unwrap();
    client.start().unwrap();
    let target = ConnectOptions::from(server.local_addrs()[0]);
    client.handle().connect(target).unwrap();
    let handle = client.handle();
    let peer = connected(&handle, 1)[0];
    for _ in 0..40 {
        handle.send(peer, (T, vec![7; 32 << 10])).unwrap();
    }
    wait_until("everything is written", || {
        handle.snapshot().outbound_written.messages == 40
    });
    wait_until("messages are parked", || full.row().parked > 0);
    // BYE comes after half of it.
    let stopping = begin_stop(server, Duration::from_secs(6));
    wait_until("the client has heard BYE", || {
        matches!(events.try_recv(), Ok(Event::ByeReceived { .. }))
    });
    thread::park_timeout(Duration::from_secs(1));
    let mut taken = 0;
    while full.recv().is_ok() {
        taken += 1;
    }
    let (server, report) = stopping.join().unwrap();
    let client = util::stop(&mut client);
    let shot = &client.snapshot;
    assert_eq!(taken, shot.outbound_written.messages, "{report}\n{client}");
    assert_eq!(shot.unconfirmed.bytes, 0, "{report}\n{client}");
    drop(server);
}
