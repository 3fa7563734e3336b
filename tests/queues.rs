//! What queues cost before anything is in them, and what while something comes and goes.
//!
//! One test for all of it, because the allocator counts for the whole process.
#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests wait by the clock, and end where something is wrong"
)]

mod util;

use std::{alloc::System, time::Duration};

use nebnet::{
    Config, Event, EventOptions, MessageType, NetService, OverflowPolicy, SubscribeOptions,
    TypeFilter,
};
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use util::{Client, PATIENCE, config, stop, wait_until};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const A: MessageType = MessageType(7);
/// The most that a subscriber takes from the start, whatever its bounds are.
const START_MAX: usize = 64 << 10;
/// What the allocator may show besides: what other threads of the service do meanwhile.
const NOISE_MAX: usize = 256 << 10;

/// Bytes of the heap in use.
fn heap() -> usize {
    let stats = ALLOCATOR.stats();
    stats
        .bytes_allocated
        .saturating_sub(stats.bytes_deallocated)
}

/// What `make` makes, and what it has allocated and kept.
fn cost<T>(make: impl FnOnce() -> T) -> (T, usize) {
    let before = heap();
    let made = make();
    (made, heap().saturating_sub(before))
}

#[test]
fn a_queue_costs_what_is_in_it() {
    a_bound_costs_nothing_at_the_start();
    bounds_of_a_service_cost_nothing_at_the_start();
    what_comes_and_goes_leaves_nothing();
    bounds_hold_beyond_a_piece();
}

fn a_bound_costs_nothing_at_the_start() {
    const MANY: usize = 64;
    let mut service = NetService::new(config()).unwrap();
    service.start().unwrap();
    let options = SubscribeOptions::new(A).messages(1 << 20);
    for overflow in [
        OverflowPolicy::DropNewest,
        OverflowPolicy::DropOldest,
        OverflowPolicy::Pause,
    ] {
        let options = options.clone().overflow(overflow);
        let (subscription, bytes) = cost(|| service.handle().subscribe_with(options).unwrap());
        assert!(bytes < START_MAX, "{overflow:?}: {bytes}");
        drop(subscription);
    }
    let (subscribers, bytes) = cost(|| {
        let subscribe = |_| service.handle().subscribe_with(options.clone()).unwrap();
        (0..MANY).map(subscribe).collect::<Vec<_>>()
    });
    assert!(bytes < MANY * START_MAX, "{bytes} for {MANY}");
    let options = EventOptions::new().capacity(1 << 22);
    let (events, bytes) = cost(|| service.handle().subscribe_events(options).unwrap());
    assert!(bytes < START_MAX, "events: {bytes}");
    // A table of 16,384 chunks is what a million timers begin with.
    let (timers, bytes) = cost(|| service.handle().timers(1 << 20).unwrap());
    assert!(bytes < 1 << 20, "timers: {bytes}");
    let (replies, bytes) = cost(|| service.handle().replies(1 << 22));
    assert!(bytes < START_MAX, "replies: {bytes}");
    stop(&mut service);
    drop((subscribers, events, timers, replies));
}

fn bounds_of_a_service_cost_nothing_at_the_start() {
    let start = |config: Config| cost(|| NetService::new(config).unwrap()).1;
    // What is made once for the process is made.
    start(config());
    let usual = start(config());
    let large = start(config().dispatch_messages(1 << 22));
    assert!(large < usual + NOISE_MAX, "{large} beside {usual}");
    // A word for each chunk of slots, and no place in a queue for any of them.
    let many = start(config().max_peers(1 << 20));
    assert!(many < usual + (2 << 20), "{many} beside {usual}");
}

/// Messages one by one, so that each is a batch, through a queue that is drained.
fn what_comes_and_goes_leaves_nothing() {
    const ROUNDS: usize = 2_000;
    let mut service = NetService::new(config()).unwrap();
    let options = SubscribeOptions::new(A).messages(1 << 20);
    let mut messages = service.handle().subscribe_with(options).unwrap();
    service.start().unwrap();
    let mut client = Client::connect(service.local_addrs()[0]);
    let mut go = |rounds| {
        for _ in 0..rounds {
            client.send_message(A.0, b"x");
            messages.recv_batch_timeout(PATIENCE).unwrap();
        }
    };
    go(100);
    let ((), bytes) = cost(|| go(ROUNDS));
    // Of each batch 10 bytes would be too many.
    assert!(bytes < NOISE_MAX.min(ROUNDS * 10), "{bytes}");
    drop(client);
    stop(&mut service);
}

/// The channel behind has no bound of its own: the count has to hold, in messages and in events.
fn bounds_hold_beyond_a_piece() {
    const BOUND: usize = 100;
    const MORE: usize = 37;
    let mut service = NetService::new(config().shards(1)).unwrap();
    let options = SubscribeOptions::new(A).messages(BOUND);
    let mut newest = service.handle().subscribe_with(options.clone()).unwrap();
    let oldest = options.overflow(OverflowPolicy::DropOldest);
    let mut oldest = service.handle().subscribe_with(oldest).unwrap();
    let mut witness = service.handle().subscribe(TypeFilter::all()).unwrap();
    let few = EventOptions::new().capacity(BOUND);
    let few = service.handle().subscribe_events(few).unwrap();
    service.start().unwrap();
    let addr = service.local_addrs()[0];
    let mut client = Client::connect(addr);
    for number in 0..BOUND + MORE {
        client.send_message(A.0, &(number as u64).to_be_bytes());
        witness.recv_batch_timeout(PATIENCE).unwrap();
    }
    let rows = [&newest, &oldest].map(|one| one.row());
    for row in &rows {
        assert_eq!((row.queued, row.dropped), (BOUND as u64, MORE as u64));
    }
    let first = |batch: nebnet::Batch| {
        let payload = batch.iter().next().unwrap().payload().to_vec();
        u64::from_be_bytes(payload.try_into().unwrap())
    };
    assert_eq!(first(newest.recv_batch().unwrap()), 0);
    assert_eq!(first(oldest.recv_batch().unwrap()), MORE as u64);
    // Two events of each connection, and the first of this one.
    for _ in 0..BOUND {
        drop(Client::connect(addr));
    }
    wait_until("every event", || {
        let row = few.row();
        row.queued + row.dropped == 2 * BOUND as u64 + 1
    });
    let row = few.row();
    assert_eq!((row.queued, row.dropped), (BOUND as u64, BOUND as u64 + 1));
    assert!(matches!(few.recv(), Ok(Event::Connected { .. })));
    drop(client);
    assert!(few.recv_timeout(Duration::ZERO).is_ok());
    stop(&mut service);
}
