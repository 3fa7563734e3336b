//! A loop or a dispatcher that panics, for which the embedder's logger is good: everything is told,
//! closed and counted all the same.
#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests wait by the clock, and end where something is wrong"
)]

mod util;

use std::time::Duration;

use crossbeam_channel::bounded;
use log::{LevelFilter, Log, Metadata, Record};
use nebnet::{
    CloseReason, Dispatch, HandlerOptions, MessageRef, MessageType, NetService, Replier,
    ServiceState, StopReport, SubscribeOptions, TypeFilter, frame::Frame,
};
use util::{Client, PATIENCE, closed_for, config, wait_until};

/// Panics on the loop's thread when a peer breaks the protocol, and wherever a subscriber of its
/// own name is full.
struct Fragile;

impl Log for Fragile {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let text = record.args().to_string();
        let breaks = text.contains("frame length") || text.contains("\"fragile\" is full");
        assert!(!breaks, "the logger's own fault");
    }

    fn flush(&self) {}
}

fn set_logger() {
    util::expect_panics();
    // Another test may have.
    let _ = log::set_logger(&Fragile);
    log::set_max_level(LevelFilter::Warn);
}

/// Waits for the end by the failure, stops, and holds the sums against each other.
#[track_caller]
fn stop_failed(service: &mut NetService, thread: &str) -> StopReport {
    let ended = service.ended().recv_timeout(PATIENCE);
    assert!(ended.is_err_and(|end| end.is_disconnected()));
    let failure = service.failure().expect("the failure is told");
    assert_eq!(failure.thread, thread, "{failure}");
    let report = util::stop_within(service, Duration::from_secs(5));
    assert!(report.joined && !report.drained, "{report}");
    let snapshot = &report.snapshot;
    assert_eq!(snapshot.state, ServiceState::Failed);
    assert_eq!((snapshot.dispatch_queue.messages, snapshot.peers), (0, 0));
    report
}

#[test]
fn a_loop_that_panics_closes_and_counts_its_connections() {
    set_logger();
    for dispatch in [Dispatch::Thread, Dispatch::Inline] {
        let mut service = NetService::new(config().dispatch(dispatch)).unwrap();
        let mut tap = service.handle().subscribe(TypeFilter::all()).unwrap();
        service.start().unwrap();
        let addr = service.local_addrs()[0];
        let mut clients: Vec<Client> = (0..10).map(|_| Client::connect(addr)).collect();
        for client in &mut clients {
            client.ping(b"");
            client.send_message(7, b"before");
        }
        wait_until("all came", || tap.row().matched == 10);
        let mut bad = Client::connect(addr);
        // In one write, which is one read.
        let mut bytes = b"\0\0\0\x0a\0\x07\0\x01before".to_vec();
        bytes.extend([0xFF; 8]);
        assert!(bad.try_write(&bytes));
        let report = stop_failed(&mut service, "nebnet-loop");
        let failure = report.failure.as_ref().expect("it is in the report");
        assert_eq!(&*failure.message, "the logger's own fault");
        for client in &mut clients {
            client.expect_end_of_any_kind();
        }
        let snapshot = &report.snapshot;
        assert_eq!(closed_for(snapshot, CloseReason::Internal), 11);
        // The read in which it happened is lost, and counted.
        assert_eq!((snapshot.dispatched, snapshot.undelivered), (10, 1));
        assert_eq!(tap.iter().count(), 10);
        drop(tap);
        assert_eq!(service.handle().snapshot().memory_used, 0);
    }
}

/// What waits for a dispatcher when it panics nobody is offered: it is undelivered, not queued for
/// ever, whether it was in the queue or still at the loop.
#[test]
fn what_waits_for_a_dispatcher_that_panics_is_undelivered() {
    set_logger();
    for queue in [1_000, 4] {
        // The callback is with the first loop, and has to stop the dispatcher of all messages.
        let config = config().shards(1).dispatch_messages(queue);
        let mut service = NetService::new(config).unwrap();
        let mut tap = service.handle().subscribe(TypeFilter::all()).unwrap();
        // For one or two the loop would spare the dispatcher.
        let others = [(); 2].map(|()| service.handle().subscribe(TypeFilter::all()).unwrap());
        let (enter, entered) = bounded(1);
        let (go, gone) = bounded::<()>(0);
        service.on_metrics(move |_| {
            enter.send(()).unwrap();
            let _ = gone.recv();
            panic!("the callback's own fault");
        });
        service.start().unwrap();
        let mut client = Client::connect(service.local_addrs()[0]);
        client.send_message(7, b"before");
        assert_eq!(tap.recv().unwrap().payload(), b"before");
        entered.recv_timeout(PATIENCE).unwrap();
        for number in 1..=5 {
            client.send_message(7, &[0; 5_000]);
            wait_until("it came", || {
                service.handle().snapshot().inbound.messages == 1 + number
            });
        }
        // The loop counts what it reads before it finds no room for it.
        let full = u64::from(queue < 5);
        wait_until("the queue is as full as it gets", || {
            service.handle().snapshot().dispatch_full == full
        });
        let waiting = service.handle().snapshot();
        assert_eq!((waiting.dispatched, waiting.undelivered), (1, 0));
        drop(go);
        let report = stop_failed(&mut service, "nebnet-dispatch");
        client.expect_end_of_any_kind();
        let snapshot = &report.snapshot;
        assert_eq!((snapshot.dispatched, snapshot.undelivered), (1, 5));
        assert_eq!(closed_for(snapshot, CloseReason::Internal), 1);
        assert_eq!(tap.iter().count(), 0, "nothing came behind the panic");
        drop((tap, others));
        assert_eq!(service.handle().snapshot().memory_used, 0);
    }
}

/// A block in the middle of which the panic comes is dispatched: some have it, and the others have
/// not counted it.
#[test]
fn a_panic_within_a_block_leaves_every_sum_exact() {
    set_logger();
    for (dispatch, thread) in [
        (Dispatch::Thread, "nebnet-dispatch"),
        (Dispatch::Inline, "nebnet-loop"),
    ] {
        for types in [[7, 7, 7, 7], [7, 8, 9, 7]] {
            let mut service = NetService::new(config().dispatch(dispatch)).unwrap();
            let mut first = service.handle().subscribe(TypeFilter::all()).unwrap();
            let options = SubscribeOptions::new(TypeFilter::all()).name("fragile");
            let fragile = service
                .handle()
                .subscribe_with(options.messages(1))
                .unwrap();
            let last = service.handle().subscribe(TypeFilter::all()).unwrap();
            service.start().unwrap();
            let mut client = Client::connect(service.local_addrs()[0]);
            let frames = types.map(|kind| util::encoded(&Frame::new(MessageType(kind), b"x")));
            // In one write, which is one read.
            assert!(client.try_write(&frames.concat()));
            let report = stop_failed(&mut service, thread);
            client.expect_end_of_any_kind();
            let snapshot = &report.snapshot;
            assert_eq!((snapshot.dispatched, snapshot.claimed), (4, 4));
            assert_eq!(snapshot.undelivered, 0);
            assert_eq!((first.row().matched, first.iter().count()), (4, 4));
            let row = fragile.row();
            assert_eq!((row.matched, row.queued, row.dropped), (4, 1, 3));
            assert_eq!(last.row().matched, 0);
            drop((first, fragile, last));
            assert_eq!(service.handle().snapshot().memory_used, 0);
        }
    }
}

/// After the failure of one thread the other still counts: the terms are of one moment once both
/// have ended.
#[test]
fn a_service_that_fails_is_cut_when_its_threads_have_ended() {
    set_logger();
    // Two threads fail or hold, which have to be the only ones.
    let mut service = NetService::new(config().shards(1)).unwrap();
    let handle = service.handle();
    let (enter, entered) = bounded(2);
    let (go, gone) = bounded::<()>(0);
    let (fail, failed) = bounded::<()>(0);
    let inside = enter.clone();
    service.on_metrics(move |_| {
        let _ = (inside.send(()), failed.recv());
        panic!("the callback's own fault");
    });
    let options = HandlerOptions::new(MessageType(7)).time_limit(Duration::ZERO);
    let holds = move |_: MessageRef<'_>, _: &mut Replier<'_>| {
        let _ = (enter.send(()), gone.recv());
    };
    service.handle_inline(options, holds).unwrap();
    service.start().unwrap();
    let mut client = Client::connect(service.local_addrs()[0]);
    entered.recv_timeout(PATIENCE).unwrap();
    client.send_message(7, b"");
    entered.recv_timeout(PATIENCE).unwrap();
    drop(fail);
    wait_until("it failed", || {
        service.handle().snapshot().state == ServiceState::Failed
    });
    // The loop is in the handler, and has not closed the connection.
    assert!(!handle.balance().is_cut);
    drop(go);
    stop_failed(&mut service, "nebnet-dispatch");
    assert!(handle.balance().is_exact());
    client.expect_end_of_any_kind();
}
