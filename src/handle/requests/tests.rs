//! Threads that ask while the loop closes connections.

use std::{
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
};

use crossbeam_channel::bounded;

use super::*;
use crate::{
    clock::Clock,
    config::Config,
    dispatch::{FanOut, Notice, QueueBounds, Registry},
    error::CloseReason,
    handle::{Settings, Shard, Shared},
    id::MessageType,
    ledger::{Ledger, Traffic},
    slots::{OutboxLimits, Slots, Sums},
    socket::SocketOptions,
};

fn shared() -> Arc<Shared> {
    let ledger = Arc::new(Ledger::new(1 << 30, Traffic::new(100, 1 << 20)));
    let limits = OutboxLimits {
        bytes: 1 << 30,
        messages: 1 << 30,
        payload_size: 1 << 20,
    };
    let clock = Clock::start();
    let slots = Arc::new(Slots::new(0, 1, limits, Arc::clone(&ledger), clock));
    let (commands, _) = bounded(1);
    Arc::new(Shared {
        shards: Box::new([Shard { slots, commands }]),
        registry: Arc::new(Registry::new(1 << 20)),
        state: Arc::clone(&ledger.state),
        clock,
        socket_options: SocketOptions::default(),
        next_listener: AtomicU64::default(),
        next_link: AtomicU64::default(),
        resolver: OnceLock::new(),
        timers: Arc::default(),
        signals: Arc::default(),
        threads: std::sync::atomic::AtomicUsize::default(),
        final_report: crate::handle::FinalReport::default(),
        settings: Mutex::new(Settings::new(Config::default(), Config::default(), None)),
    })
}

const ASKED: MessageType = MessageType(7);
const LONG: Duration = Duration::from_secs(3600);

/// A request is refused, or resolved by the end of its connection: none is left behind, and none
/// of a connection that has ended, however its end falls between the steps of a request.
#[test]
fn no_request_slips_past_the_end_of_its_connection() {
    const CONNECTIONS: u64 = 300;
    let shared = shared();
    let handle = Handle::new(Arc::clone(&shared));
    let (current, over) = (AtomicU64::new(0), AtomicBool::new(false));
    let requests = &shared.registry.requests;
    let bounds = QueueBounds::new(Arc::clone(&shared.first().ledger));
    let slots = shared.first();
    let mut fan_out = FanOut::new(Arc::clone(&shared.registry), Arc::clone(slots), bounds);
    let refused = AtomicU64::new(0);
    let ask = || {
        let mut closed = 0;
        let mut all = Vec::new();
        let mut wait = |all: &mut Vec<PendingReply>| {
            for pending in all.drain(..) {
                let error = RequestError::Closed(CloseReason::Reset);
                assert_eq!(pending.recv().unwrap_err(), error);
                closed += 1;
            }
        };
        while !over.load(Ordering::Relaxed) {
            let peer = PeerId::from_bits(current.load(Ordering::Relaxed));
            let asked = handle.request(peer, (ASKED, b"?"), LONG);
            match asked.map_err(Rejected::into_error) {
                Ok(pending) if all.len() < 200 => all.push(pending),
                Ok(pending) => {
                    all.push(pending);
                    wait(&mut all);
                }
                Err(RequestError::Send(SendError::NotConnected)) => {
                    refused.fetch_add(1, Ordering::Relaxed);
                    wait(&mut all);
                }
                Err(error) => panic!("{error}"),
            }
        }
        wait(&mut all);
        closed
    };
    let closed = thread::scope(|scope| {
        let askers = [(); 3].map(|()| scope.spawn(ask));
        for _ in 0..CONNECTIONS {
            let peer = loop {
                if let Ok(peer) = slots.open(0) {
                    break peer;
                }
            };
            current.store(peer.to_bits(), Ordering::Relaxed);
            while !slots.was_asked(peer) {
                thread::yield_now();
            }
            let close = || slots.close(peer, Sums::default(), |_, _| {});
            while close().is_err() {}
            assert!(slots.was_asked(peer));
            let reason = CloseReason::Reset;
            fan_out.handle_notice(Notice::Closed { peer, reason });
        }
        // The last connection is closed, so a call that comes now is refused.
        while refused.load(Ordering::Relaxed) == 0 {
            thread::yield_now();
        }
        over.store(true, Ordering::Relaxed);
        let results = askers.map(|asker| asker.join().unwrap());
        results.into_iter().sum::<u64>()
    });
    requests.check();
    let row = requests.row();
    assert_eq!((row.sent, row.closed), (closed, closed));
    assert!(closed >= CONNECTIONS, "{closed}");
}
