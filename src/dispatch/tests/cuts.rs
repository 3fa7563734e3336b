//! Rows that are read while their subscribers take and discard.

use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

/// The dispatcher stands still and reads, as at the marker of a cut; a subscriber takes and throws
/// away as fast as it can.
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
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let (busy, done) = (&busy, &done);
            scope.spawn(move || {
                let deliveries = busy.receiver().try_iter();
                for (number, delivery) in deliveries.enumerate() {
                    if number % 3 == 0 {
                        drop(delivery);
                    } else {
                        drop(busy.take(delivery));
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
            }
        });
    }
    assert!(seen >= 100, "{seen} rows were read, {given_up} were not");
    // Whether any of them was read in the midst of it is for the scheduler to say.
    println!("{seen} rows were read, {middles} of them in the midst, {given_up} given up");
}

/// What the dispatcher does not take any more is not forgotten.
#[test]
fn blocks_that_nobody_takes_are_counted() {
    let mut bench = Bench::new();
    let ledger = Arc::clone(&bench.slots.ledger);
    let (queue, items) = DispatchQueue::new(Arc::clone(&ledger));
    while queue.push_item(Item::Poke).is_ok() {}
    let stuck = Item::Block(bench.block(&[1, 1, 1]));
    assert!(!queue.push_last(stuck, std::time::Duration::ZERO));
    assert_eq!(ledger.undelivered.get(), 3);
    drop(items);
    let dead = queue.push(Item::Block(bench.block(&[1, 1])));
    assert!(matches!(dead, Err(PushError::Dead)));
    assert_eq!(ledger.undelivered.get(), 5);
    assert_eq!(bench.fill(), Traffic::default());
    assert_eq!(ledger.budget.used(), 0);
}
