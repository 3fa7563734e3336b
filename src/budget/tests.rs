#[cfg(nebnet_loom)]
mod models;

use std::thread;

use proptest::prelude::*;

use super::*;

/// What the shards have leased has to be what is taken of the pool.
#[track_caller]
fn check(shares: &[Budget]) -> usize {
    let pool = &shares[0].share.as_ref().unwrap().pool;
    let taken = pool.taken.load(Ordering::Relaxed);
    let leased = |budget: &Budget| budget.leased.load(Ordering::Relaxed);
    assert_eq!(shares.iter().map(leased).sum::<usize>(), taken);
    for budget in shares {
        let (used, leased) = (budget.used(), leased(budget));
        let free = budget.free.load(Ordering::Relaxed);
        assert_eq!(used + free, leased, "{budget:?}");
    }
    taken
}

#[test]
fn the_budget_refuses_what_it_does_not_have() {
    let budget = Budget::new(100);
    assert!(budget.try_charge(75) && !budget.is_tight());
    assert!(!budget.try_charge(26));
    assert!(budget.try_charge(25) && budget.is_exhausted() && budget.is_tight());
    budget.release(100);
    assert_eq!(budget.used(), 0);
    budget.charge(150);
    assert!(budget.used() == 150 && budget.is_exhausted() && !budget.try_charge(1));
    budget.release(150);
    assert!(budget.used() == 0 && budget.try_charge(100));
}

#[test]
fn one_shard_may_have_nearly_all() {
    let shares = Budget::shares(64_000, 2);
    assert!(shares[0].try_charge(64_000) && shares[0].is_exhausted());
    assert!(!shares[1].try_charge(1), "it is one budget");
    shares[0].release(64_000);
    assert!(!shares[1].is_tight());
    // But for the step that the first one keeps.
    assert!(shares[1].try_charge(63_500) && !shares[1].try_charge(1));
    check(&shares);
}

#[test]
fn what_is_taken_beyond_the_limit_is_no_room_for_anybody() {
    // Steps of 500.
    let shares = Budget::shares(64_000, 2);
    assert!(shares[0].try_charge(30_000) && shares[1].try_charge(34_000));
    for round in 1..=1_000 {
        // Storage that is there whether there is room or not, and is used up by what was accepted.
        shares[round % 2].charge(15);
        assert_eq!(shares[0].excess(), 15);
        assert!(!shares[0].try_charge(1) && !shares[1].try_charge(1));
        shares[round % 2].release(15);
        assert_eq!(shares[0].excess(), 0);
        assert!(!shares[0].try_charge(1) && !shares[1].try_charge(1));
    }
    // The shard that gives back is another one than the one that took.
    shares[0].charge(400);
    shares[1].release(1_200);
    assert_eq!(shares[0].excess(), 0);
    shares[0].release(700);
    // It kept 700 of what it released, and the other one's step left 100 in the pool.
    assert!(shares[0].try_charge(800) && !shares[0].try_charge(1));
    shares[0].release(30_500);
    shares[1].release(32_800);
    assert!(check(&shares) <= 2_000);
}

#[test]
fn whoever_waits_is_rung_by_others() {
    let shares = Budget::shares(64_000, 3);
    let rings: Arc<[AtomicUsize; 3]> = Arc::default();
    let bell = |shard: usize| -> Bell {
        let rings = Arc::clone(&rings);
        Box::new(move || {
            rings[shard].fetch_add(1, Ordering::Relaxed);
        })
    };
    shares[0].set_bells((0..3).map(bell).collect());
    let heard = || [0, 1, 2].map(|shard| rings[shard].load(Ordering::Relaxed));
    assert!(shares[0].try_charge(60_000));
    shares[1].declare_wait();
    shares[0].release(10_000);
    assert_eq!(heard(), [0, 0, 0], "it is still tight");
    shares[0].release(10_000);
    assert_eq!(heard(), [0, 1, 0]);
    shares[0].release(40_000);
    assert_eq!(heard(), [0, 1, 0], "nobody waits");
}

#[test]
fn shards_find_out_who_holds_most() {
    let shares = Budget::shares(64_000, 3);
    let held = |all, largest| Holdings {
        all,
        largest,
        coming: 0,
    };
    let own = held(100, 50);
    for now in [1, 1_000] {
        assert_eq!(
            shares[0].compare_holdings(now, own),
            None,
            "nobody has told"
        );
    }
    assert!(shares[1].is_asked() && shares[2].is_asked() && !shares[0].is_asked());
    for (budget, held) in shares[1..].iter().zip([held(300, 90), held(200, 91)]) {
        assert_eq!(budget.take_request(), Some(Request::Tell));
        assert_eq!(budget.take_request(), None);
        budget.tell_holdings(1_050, held);
    }
    let found = shares[0].compare_holdings(1_100, own);
    assert_eq!(found, Some((held(600, 91), Some(2))));
    shares[0].ask_to_evict(2);
    assert_eq!(shares[0].compare_holdings(1_100, own), found);
    assert_eq!(shares[2].take_request(), Some(Request::Evict));
    let found = shares[2].compare_holdings(1_200, held(10, 10));
    assert_eq!(found, Some((held(410, 90), Some(1))));
    let found = shares[1].compare_holdings(1_200, held(300, 300));
    assert_eq!(found, Some((held(410, 300), None)));
    assert_eq!(
        shares[0].compare_holdings(1_500, own),
        None,
        "that was long ago"
    );
    let alone = Budget::new(1);
    assert_eq!(alone.compare_holdings(0, own), Some((own, None)));
    assert!(alone.claim_eviction(0) && alone.claim_eviction(0));
    assert!(alone.take_request().is_none() && !alone.is_asked());
}

#[test]
fn one_shard_at_a_time_decides_who_makes_room() {
    let shares = Budget::shares(64_000, 3);
    assert!(shares[1].claim_eviction(0));
    for budget in &shares {
        assert!(!budget.claim_eviction(0) && !budget.claim_eviction(TOLD_FOR_MS));
    }
    // By now whoever told, and is believed, told after it.
    assert!(shares[0].claim_eviction(TOLD_FOR_MS + 1));
    assert!(!shares[1].claim_eviction(TOLD_FOR_MS + 2));
}

#[test]
fn threads_never_lease_beyond_the_limit() {
    const LIMIT: usize = 100_000;
    let shares = Budget::shares(LIMIT, 3);
    thread::scope(|scope| {
        for (seed, budget) in (1_u64..).zip(shares.iter().chain(&shares)) {
            let pool = &budget.share.as_ref().unwrap().pool;
            scope.spawn(move || {
                let (mut state, mut held) = (seed, Vec::new());
                for _ in 0..20_000 {
                    // Marsaglia's xorshift64.
                    state ^= state << 13;
                    state ^= state >> 7;
                    state ^= state << 17;
                    let bytes = usize::try_from(state % 30_000).unwrap();
                    if held.len() < 4 && budget.try_charge(bytes) {
                        held.push(bytes);
                    } else if let Some(bytes) = held.pop() {
                        budget.release(bytes);
                    }
                    assert!(pool.taken.load(Ordering::Relaxed) <= LIMIT);
                }
                held.into_iter().for_each(|bytes| budget.release(bytes));
            });
        }
    });
    assert!(
        check(&shares) <= LIMIT / 32,
        "all but a little was given back"
    );
    assert!(shares.iter().all(|budget| budget.used() == 0));
}

proptest! {
    #[test]
    fn shares_add_up(
        shards in 1_u8..=5,
        limit in 1_000_usize..1_000_000,
        steps in prop::collection::vec((0_usize..5, 0_usize..400_000, 0_u8..4), 0..200),
    ) {
        let shares = Budget::shares(limit, shards);
        let mut held = vec![Vec::new(); shares.len()];
        let mut used = 0;
        for (shard, bytes, kind) in steps {
            let shard = shard % shares.len();
            let budget = &shares[shard];
            let before = budget.taken();
            match kind {
                0 | 1 => {
                    if budget.try_charge(bytes) {
                        held[shard].push(bytes);
                        used += bytes;
                    }
                    prop_assert!(budget.taken() <= before.max(limit));
                }
                2 => {
                    budget.charge(bytes);
                    held[shard].push(bytes);
                    used += bytes;
                }
                _ => {
                    if let Some(bytes) = held[shard].pop() {
                        budget.release(bytes);
                        used -= bytes;
                    }
                }
            }
            prop_assert_eq!(shares.iter().map(Budget::used).sum::<usize>(), used);
            if shares.len() > 1 {
                prop_assert!(check(&shares) >= used);
                prop_assert!(used < limit || shares[0].is_exhausted());
            }
        }
        for (budget, held) in shares.iter().zip(held) {
            held.into_iter().for_each(|bytes| budget.release(bytes));
            prop_assert_eq!(budget.used(), 0);
        }
        if shares.len() > 1 {
            prop_assert!(check(&shares) <= limit / 32 + 2 * shares.len());
        }
    }
}

/// A limit that changes while bytes are used: none is lost, what is beyond a lower one is excess
/// until it is released, and a higher one is there, but for what shards keep.
#[test]
fn a_limit_can_fall_and_rise() {
    for shards in [1, 3] {
        let all = Budget::shares(1 << 20, shards);
        let set = |limit| all.iter().for_each(|one| one.set_limit(limit));
        let used = || all.iter().map(Budget::used).sum::<usize>();
        let kept = if shards == 1 {
            0
        } else {
            4 * all[0].share.as_ref().unwrap().pool.step
        };
        let (one, last) = (&all[0], &all[usize::from(shards) - 1]);
        let is_full = || all.iter().all(|one| !one.try_charge(kept + 1));
        one.charge(900_000);
        set(500_000);
        assert_eq!((one.limit(), used()), (500_000, 900_000));
        assert!((400_000..=400_000 + kept).contains(&one.excess()));
        assert!(is_full() && one.is_exhausted() && last.is_exhausted());
        one.release(450_000);
        assert_eq!((used(), one.excess()), (450_000, 0));
        assert!(last.try_charge(50_000 - kept));
        assert!(is_full());
        set(3 << 20);
        assert!(!one.is_tight() && !last.is_tight());
        let more = (3 << 20) - 500_000;
        assert!(last.try_charge(more));
        assert!(is_full());
        last.release(more + 50_000 - kept);
        one.release(450_000);
        assert_eq!((used(), one.excess()), (0, 0));
        set(1 << 20);
        assert!(one.try_charge((1 << 20) - kept));
        assert!(is_full());
        one.release((1 << 20) - kept);
        if shards > 1 {
            check(&all);
        }
    }
}
