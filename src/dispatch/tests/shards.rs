//! Several fan-outs fill one queue.

use std::thread;

use super::*;
use crate::{
    dispatch::{account::Account, shard_counters::ShardCounters},
    ledger::SubscriberRow,
};

const SHARDS: u8 = 3;

/// A subscriber of everything that came through several shards.
fn account(messages: usize, bytes: usize) -> (Arc<Registry>, Arc<Account>) {
    let registry = Arc::new(Registry::for_shards(1, SHARDS));
    let options = SubscribeOptions::new(TypeFilter::all())
        .messages(messages)
        .bytes(bytes);
    let (outlet, _) = Outlet::queue(&options);
    let account = registry.add(options, outlet).unwrap();
    (registry, account)
}

fn poked(registry: &Registry) -> Vec<u8> {
    (0..SHARDS)
        .filter(|shard| registry.poke(*shard).take())
        .collect()
}

#[test]
fn room_is_given_away_once() {
    let (_registry, account) = account(100, 5_000);
    let fill = |seed: u64| {
        let shard = u8::try_from(seed % 3).unwrap();
        let (mut state, mut held) = (seed, Vec::new());
        for _ in 0..20_000 {
            // Marsaglia's xorshift64.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let wanted = Traffic::new(1 + state % 40, state >> 32 & 1023);
            match account.reserve(shard, wanted, 1) {
                0 => held.drain(..).for_each(|one| account.lower(shard, one)),
                room => held.push(Traffic::new(room, wanted.bytes)),
            }
            let fill = account.fill();
            assert!(fill.messages <= 100 && fill.bytes <= 5_000, "{fill:?}");
        }
        held.drain(..).for_each(|one| account.lower(shard, one));
    };
    thread::scope(|scope| {
        for seed in 1..=5 {
            scope.spawn(move || fill(seed));
        }
    });
    assert_eq!(account.fill(), Traffic::default());
    assert_eq!(account.row().queued, 0);
}

#[test]
fn an_empty_queue_has_room_for_any_bytes() {
    let (_registry, account) = account(10, 100);
    let large = Traffic::new(2, 1 << 28);
    assert_eq!(account.reserve(1, large, 1), 2);
    assert_eq!(account.reserve(0, Traffic::new(1, 1), 1), 0);
    account.lower(1, large);
    assert_eq!(account.reserve(0, Traffic::new(20, 100), 1), 10);
    account.lower(0, Traffic::new(10, 100));
    assert_eq!(account.reserve(0, Traffic::new(20, 100), 20), 0);
    assert_eq!(account.fill(), Traffic::default());
}

#[test]
fn those_that_wait_take_turns() {
    let (registry, account) = account(10, 1_000);
    let one = |shard| account.reserve(shard, Traffic::new(1, 1), 1) == 1;
    let full = Traffic::new(10, 10);
    assert_eq!(account.reserve(0, full, 1), 10);
    account.begin_wait(1);
    account.begin_wait(2);
    poked(&registry);
    account.lower(0, Traffic::new(4, 4));
    account.note_room();
    assert!(poked(&registry).is_empty(), "not half of it is free");
    assert!(!one(0), "others wait");
    account.lower(0, Traffic::new(1, 1));
    account.note_room();
    assert_eq!(poked(&registry), [1]);
    assert!(account.may_unpark(1) && !account.may_unpark(2) && !account.may_unpark(0));
    assert_eq!(account.reserve_in_turn(1, Traffic::new(20, 20)), 5);
    account.end_turn(1);
    assert!(!account.may_unpark(1) && account.may_unpark(2));
    account.lower(1, Traffic::new(5, 20));
    account.note_room();
    assert_eq!(poked(&registry), [2]);
    account.end_wait(2);
    account.end_turn(2);
    assert!(account.may_unpark(1));
    account.begin_wait(0);
    account.lower(0, Traffic::new(5, 5));
    account.note_room();
    assert_eq!(poked(&registry), [0, 1], "it is empty");
    assert!(account.may_unpark(0) && account.may_unpark(1));
    account.end_wait(0);
    account.end_wait(1);
    assert!(one(2));
}

/// What one shard reads of its counters balances, whatever the others do meanwhile.
#[test]
fn a_shard_balances_without_the_others() {
    let (registry, account) = account(1_000, 1 << 20);
    let counters: &ShardCounters = account.counters(1);
    counters.matched.add(10);
    counters.dropped.add(2);
    assert_eq!(account.reserve(1, Traffic::new(8, 80), 1), 8);
    account.counters(0).matched.add(5);
    let row = |shard| registry.cut(shard).unwrap().rows.remove(0);
    let balances = |row: &SubscriberRow| {
        row.matched == row.taken + row.dropped + row.discarded + row.queued + row.parked
    };
    assert!(balances(&row(1)) && !balances(&row(0)) && balances(&row(2)));
    // Somebody is in the middle of a move.
    counters.begin_move(3);
    assert!(registry.cut(1).is_none() && registry.cut(2).is_some());
    account.lower(1, Traffic::new(3, 30));
    assert!(registry.cut(1).is_none());
    counters.end_taken(3);
    assert!(balances(&row(1)));
    assert_eq!(account.row().matched, 15);
}

#[test]
fn the_end_comes_with_the_last_fan_out() {
    let (registry, account) = account(10, 10);
    registry.end_fan_out(1);
    registry.end_fan_out(1);
    registry.end_fan_out(2);
    assert_eq!(account.ended(), None);
    registry.end_fan_out(0);
    assert_eq!(account.ended(), Some(EndReason::Stopped));
    let late = SubscribeOptions::new(TypeFilter::all());
    assert!(registry.add(late, Outlet::Closed).is_err());
}
