//! Rows that are read while their subscribers take and discard.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::*;

/// The dispatcher stands still and reads, as at the marker of a cut; a subscriber takes and throws
/// away as fast as it can. In the middle of its queue it waits until it was read there.
#[test]
fn a_row_is_read_while_nobody_is_in_between() {
    let mut bench = Bench::new();
    let options = SubscribeOptions::new(MessageType(1)).messages(1 << 12);
    let busy = bench.subscribe(options);
    let registry = Arc::clone(&bench.registry);
    let (mut seen, mut given_up, mut middles) = (0_u64, 0_u64, 0_u64);
    for _ in 0..100 {
        for _ in 0..500 {
            bench.dispatch(&[1, 2, 1]);
        }
        let (done, reads) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            let (busy, done, reads) = (&busy, &done, &reads);
            scope.spawn(move || {
                let deliveries = busy.receiver().try_iter();
                for (number, delivery) in deliveries.enumerate() {
                    if number == 250 {
                        // The first that ends from here on may have begun before.
                        let before = reads.load(Ordering::Acquire);
                        while reads.load(Ordering::Acquire) < before + 2 {
                            std::thread::yield_now();
                        }
                    }
                    if number % 3 == 0 {
                        drop(delivery);
                    } else {
                        drop(delivery.into_batch());
                    }
                }
                done.store(true, Ordering::Release);
            });
            let mut last = false;
            while !std::mem::replace(&mut last, done.load(Ordering::Acquire)) {
                let Some(cut) = registry.cut(0) else {
                    given_up += 1;
                    continue;
                };
                let row = &cut.rows[0];
                let sum = row.taken + row.dropped + row.discarded + row.queued + row.parked;
                assert_eq!(row.matched, sum, "{row:?}");
                middles += u64::from(row.queued > 0 && row.queued < 1_000);
                seen += 1;
                reads.fetch_add(1, Ordering::Release);
            }
        });
    }
    assert!(
        middles >= 100,
        "{middles} of {seen} rows were read in the midst"
    );
    println!("{seen} rows were read, {middles} of them in the midst, {given_up} given up");
}

/// Between the beginning and the end of a move there is no row to be had.
#[test]
fn a_row_in_the_middle_of_a_move_is_given_up() {
    let mut bench = Bench::new();
    let slow = bench.subscribe(SubscribeOptions::new(MessageType(1)));
    bench.dispatch(&[1, 1]);
    let (_, list) = bench.registry.subscribers().unwrap();
    let counters = list[0].account.counters(0);
    counters.begin_move(2);
    assert!(bench.registry.cut(0).is_none());
    let fill = counters.fill.get();
    counters.fill.lower(fill);
    assert!(bench.registry.cut(0).is_none());
    counters.end_taken(1);
    assert!(bench.registry.cut(0).is_none());
    counters.end_discarded(1);
    let cut = bench.registry.cut(0).unwrap();
    let row = &cut.rows[0];
    assert_eq!((row.matched, row.taken, row.discarded), (2, 1, 1));
    // What lies there is taken off once more.
    counters.fill.raise(fill);
    drop(slow);
}

/// What the dispatcher does not take any more is not forgotten.
#[test]
fn blocks_that_nobody_takes_are_counted() {
    let mut bench = Bench::new();
    let ledger = Arc::clone(&bench.slots.ledger);
    let (queue, items) = DispatchQueue::new(Arc::clone(&ledger));
    drop(items);
    let dead = queue.push(Item::Block(bench.block(&[1, 1])));
    assert!(matches!(dead, Err(PushError::Dead)));
    assert_eq!(ledger.undelivered.get(), Traffic::new(2, 32));
    queue.push_last(Item::Block(bench.block(&[1, 1, 1])));
    assert_eq!(ledger.undelivered.get(), Traffic::new(5, 80));
    assert_eq!(bench.fill(), Traffic::default());
    assert_eq!(ledger.budget.used(), 0);
}

/// On the loop's own thread a lock that somebody holds gives the cut up.
#[test]
fn a_cut_waits_for_no_lock_of_requests() {
    let mut bench = Bench::new();
    let requests = Arc::clone(&bench.registry.requests);
    let (peer, fan_out) = (bench.peer, &mut bench.fan_out);
    std::thread::scope(|scope| {
        let (ask, asked) = bounded(1);
        let (answer, answered) = bounded(1);
        scope.spawn(move || {
            Slots::set_loop_thread();
            for () in asked {
                answer.send(fan_out.cut().is_some()).unwrap();
            }
        });
        let cut = || {
            ask.send(()).unwrap();
            answered.recv_timeout(std::time::Duration::from_secs(10))
        };
        assert_eq!(requests.with_lock(peer, cut), Ok(false));
        assert_eq!(cut(), Ok(true));
        drop(ask);
    });
}

/// What the loop reads for a cut is its own: whoever looks at the handlers does not hold it up.
#[test]
fn the_loops_part_of_a_cut_takes_no_lock() {
    let ledger = Ledger::new(1, Traffic::new(1, 1));
    let held = ledger.handlers.lock().unwrap();
    let shot = ledger.snapshot_of_loop(std::time::Duration::ZERO, Vec::new());
    assert!(shot.balance().is_exact());
    drop(held);
}
