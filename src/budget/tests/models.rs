//! Models of what shards lease of one budget; see `src/tests/models.rs`.

use loom::thread;

use super::*;
use crate::sync::model::{Bell as Sleep, explore};

/// Of 128 steps.
const LIMIT: usize = 12_800;

fn two() -> (Arc<Budget>, Arc<Budget>) {
    let mut shares = Budget::shares(LIMIT, 2);
    let (one, other) = (shares.pop().unwrap(), shares.pop().unwrap());
    (Arc::new(one), Arc::new(other))
}

#[track_caller]
fn expect_within(budget: &Budget) {
    let taken = budget.taken();
    assert!(taken <= LIMIT, "{taken} of {LIMIT} bytes are leased");
}

/// What was leased is what the pool gave, and all but what a shard may keep came back.
#[track_caller]
fn expect_all_back(shares: [Arc<Budget>; 2]) {
    let shares = shares.map(|budget| Arc::into_inner(budget).unwrap());
    assert!(check(&shares) <= LIMIT / 32);
    assert!(shares.iter().all(|budget| budget.used() == 0));
}

/// Two shards ask for more than there is, one of them from two threads.
#[test]
fn leases_are_never_more_than_there_is() {
    explore(Some(2), || {
        let (one, other) = two();
        let uses = |budget: &Arc<Budget>, bytes| {
            let budget = Arc::clone(budget);
            move || {
                if budget.try_charge(bytes) {
                    expect_within(&budget);
                    budget.release(bytes);
                }
                expect_within(&budget);
            }
        };
        let threads = [
            thread::spawn(uses(&one, LIMIT / 2 + 1)),
            thread::spawn(uses(&one, 150)),
        ];
        uses(&other, LIMIT / 2 + 1)();
        for thread in threads {
            thread.join().unwrap();
        }
        expect_all_back([one, other]);
    });
}

/// What has to be charged is leased, whoever charges and releases beside it.
#[test]
fn what_had_to_be_taken_is_leased_and_given_back() {
    explore(Some(2), || {
        let (one, other) = two();
        let reader = thread::spawn({
            let one = Arc::clone(&one);
            move || {
                one.charge(330);
                one.release(330);
            }
        });
        let sender = thread::spawn({
            let one = Arc::clone(&one);
            move || {
                if one.try_charge(170) {
                    one.release(170);
                }
            }
        });
        other.charge(LIMIT);
        assert!(other.is_exhausted());
        other.release(LIMIT);
        reader.join().unwrap();
        sender.join().unwrap();
        expect_all_back([one, other]);
    });
}

/// What was taken beyond the limit goes back when it is released, whoever takes or releases beside
/// it.
#[test]
fn what_was_taken_beyond_the_limit_goes_back() {
    explore(Some(3), || {
        let (one, other) = two();
        assert!(other.try_charge(LIMIT - 100) && one.try_charge(100));
        let reader = thread::spawn({
            let one = Arc::clone(&one);
            move || {
                one.charge(15);
                one.release(15);
            }
        });
        let sender = thread::spawn({
            let one = Arc::clone(&one);
            move || {
                one.release(10);
                if one.try_charge(10) {
                    one.release(10);
                }
            }
        });
        other.charge(20);
        other.release(20);
        reader.join().unwrap();
        sender.join().unwrap();
        expect_within(&one);
        // What is used now is less than the limit.
        one.release(90);
        other.release(LIMIT - 100);
        expect_all_back([one, other]);
    });
}

/// A shard that found the budget short goes on when another one has given back.
#[test]
fn whoever_waits_for_another_shard_is_rung() {
    explore(Some(3), || {
        let (one, other) = two();
        let sleep = Arc::new(Sleep::default());
        let ring = Arc::clone(&sleep);
        one.set_bells(vec![Box::new(|| {}), Box::new(move || ring.ring())]);
        // The shards are in the order in which they were popped.
        let (waits, gives) = (one, other);
        assert_eq!(waits.share.as_ref().unwrap().shard, 1);
        assert!(gives.try_charge(LIMIT));
        let giver = thread::spawn({
            let gives = Arc::clone(&gives);
            move || {
                gives.release(LIMIT / 2);
                gives.release(LIMIT / 2);
            }
        });
        // As `Slots::wait_for_budget` does it.
        loop {
            waits.announce_wait();
            fence(Ordering::SeqCst);
            if !waits.is_tight() {
                break;
            }
            sleep.wait();
        }
        giver.join().unwrap();
        expect_all_back([waits, gives]);
    });
}

/// It also goes on when what made the budget look short was taken back as not needed after all.
#[test]
fn whoever_waits_is_rung_when_a_lease_is_taken_back() {
    explore(Some(3), || {
        let (one, other) = two();
        let sleep = Arc::new(Sleep::default());
        let ring = Arc::clone(&sleep);
        one.set_bells(vec![Box::new(|| {}), Box::new(move || ring.ring())]);
        let (waits, gives) = (one, other);
        // Two steps more are tight, and one is not. Nothing of it is free.
        let held = LIMIT / 4 * 3 - 100;
        assert!(gives.try_charge(held));
        let reader = thread::spawn({
            let gives = Arc::clone(&gives);
            move || gives.charge(150)
        });
        let releaser = thread::spawn({
            let gives = Arc::clone(&gives);
            move || gives.release(150)
        });
        // As `Slots::wait_for_budget` does it.
        loop {
            waits.announce_wait();
            fence(Ordering::SeqCst);
            if !waits.is_tight() {
                break;
            }
            sleep.wait();
        }
        reader.join().unwrap();
        releaser.join().unwrap();
        gives.release(held);
        expect_all_back([waits, gives]);
    });
}
