//! A loop that panics, for which the embedder's logger is good: everything is told, closed and
//! counted all the same.
#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests wait by the clock, and end where something is wrong"
)]

mod util;

use std::time::Duration;

use log::{LevelFilter, Log, Metadata, Record};
use nebnet::{CloseReason, Dispatch, NetService, ServiceState, Types};
use util::{Client, PATIENCE, closed_for, config, wait_until};

/// Panics on the loop's thread when a peer breaks the protocol.
struct Fragile;

impl Log for Fragile {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let text = record.args().to_string();
        assert!(!text.contains("frame length"), "the logger's own fault");
    }

    fn flush(&self) {}
}

#[test]
fn a_loop_that_panics_closes_and_counts_its_connections() {
    log::set_logger(&Fragile).unwrap();
    log::set_max_level(LevelFilter::Warn);
    for dispatch in [Dispatch::Thread, Dispatch::Inline] {
        let mut service = NetService::new(config().dispatch(dispatch)).unwrap();
        let mut tap = service.subscribe(Types::all()).unwrap();
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
        let ended = service.ended().recv_timeout(PATIENCE);
        assert!(ended.is_err_and(|end| end.is_disconnected()));
        let failure = service.failure().expect("the failure is told");
        let told = (failure.thread, &*failure.message);
        assert_eq!(told, ("nebnet-loop", "the logger's own fault"));
        for client in &mut clients {
            client.expect_end_of_any_kind();
        }
        let report = service.stop(Duration::from_secs(5));
        assert!(report.joined && !report.drained, "{report}");
        let snapshot = &report.snapshot;
        assert_eq!(snapshot.state, ServiceState::Failed);
        assert_eq!(closed_for(snapshot, CloseReason::Internal), 11);
        // The read in which it happened is lost, and counted.
        assert_eq!((snapshot.dispatched, snapshot.undelivered), (10, 1));
        let balance = snapshot.balance();
        assert!(balance.is_exact(), "{balance}");
        assert!(service.balance().is_exact());
        assert_eq!(tap.iter().count(), 10);
        drop(tap);
        assert_eq!(service.snapshot().memory_used, 0);
    }
}
