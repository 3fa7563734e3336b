//! Models of what shards lease of one budget; see `src/tests/models.rs`.

use loom::thread;

use super::*;
use crate::sync::{
    atomic::fence,
    model::{Bell as Sleep, explore},
};

/// Of 128 steps.
const LIMIT: usize = 12_800;

fn two() -> (Arc<Budget>, Arc<Budget>) {
    let mut shares = Budget::shares(LIMIT, 2);
    let (one, other) = (shares.pop().unwrap(), shares.pop().unwrap());
    (Arc::new(one), Arc::new(other))
}

fn spawn(
    budget: &Arc<Budget>,
    act: impl FnOnce(&Budget) + Send + 'static,
) -> thread::JoinHandle<()> {
    let budget = Arc::clone(budget);
    thread::spawn(move || act(&budget))
}

/// A shard that waits for another one.
struct Waiting {
    waits: Arc<Budget>,
    gives: Arc<Budget>,
    sleep: Arc<Sleep>,
}

impl Waiting {
    fn new() -> Self {
        // The shards are in the order in which they were popped.
        let (waits, gives) = two();
        assert_eq!(waits.share.as_ref().unwrap().shard, 1);
        let sleep = Arc::new(Sleep::default());
        let ring = Arc::clone(&sleep);
        waits.set_bells(vec![Box::new(|| {}), Box::new(move || ring.ring())]);
        Self {
            waits,
            gives,
            sleep,
        }
    }

    /// As `Slots::wait_for_budget` does it.
    fn wait(&self) {
        loop {
            self.waits.declare_wait();
            fence(Ordering::SeqCst);
            if !self.waits.is_tight() {
                return;
            }
            self.sleep.wait();
        }
    }

    #[track_caller]
    fn expect_all_back(self) {
        expect_all_back([self.waits, self.gives]);
    }
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
        let reader = spawn(&one, |one| {
            one.charge(330);
            one.release(330);
        });
        let sender = spawn(&one, |one| {
            if one.try_charge(170) {
                one.release(170);
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
        let reader = spawn(&one, |one| {
            one.charge(15);
            one.release(15);
        });
        let sender = spawn(&one, |one| {
            one.release(10);
            if one.try_charge(10) {
                one.release(10);
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
        let waiting = Waiting::new();
        assert!(waiting.gives.try_charge(LIMIT));
        let giver = spawn(&waiting.gives, |gives| {
            gives.release(LIMIT / 2);
            gives.release(LIMIT / 2);
        });
        waiting.wait();
        giver.join().unwrap();
        waiting.expect_all_back();
    });
}

/// It also goes on when what made the budget look short was taken back as not needed after all.
#[test]
fn whoever_waits_is_rung_when_a_lease_is_taken_back() {
    explore(Some(3), || {
        let waiting = Waiting::new();
        // Two steps more are tight, and one is not. Nothing of it is free.
        let held = LIMIT / 4 * 3 - 100;
        assert!(waiting.gives.try_charge(held));
        let reader = spawn(&waiting.gives, |gives| gives.charge(150));
        let releaser = spawn(&waiting.gives, |gives| gives.release(150));
        waiting.wait();
        reader.join().unwrap();
        releaser.join().unwrap();
        waiting.gives.release(held);
        waiting.expect_all_back();
    });
}
