//! Blocks of several types: everybody gets what it asked for, and nothing else, however the block
//! is shared out.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;
use crate::limits::{BLOCK_CLASSES, BLOCK_SIZE, INDEXED_FRAMES_MIN};

/// Types that are sent, the last to nobody but taps.
const TYPES: u16 = 7;

impl Bench {
    fn budget_used(&self) -> usize {
        self.slots.ledger.budget.used()
    }
}

/// A subscriber, and what it is to get.
struct Modelled {
    subscription: Subscription,
    types: Vec<u16>,
    overflow: OverflowPolicy,
    capacity: usize,
    /// Numbers of the messages that it asked for, and how many of these were taken or missed.
    matched: Vec<u64>,
    seen: usize,
    /// With `DropNewest`: places of what fits, in order.
    queued: VecDeque<usize>,
}

impl Modelled {
    fn new(bench: &Bench, mask: u8, overflow: OverflowPolicy, capacity: usize) -> Self {
        let types: Vec<u16> = (1..TYPES)
            .filter(|one| mask >> (one - 1) & 1 != 0)
            .collect();
        let asked = match mask {
            0 => TypeFilter::all(),
            _ => TypeFilter::from(types.iter().copied().map(MessageType).collect::<Vec<_>>()),
        };
        let options = SubscribeOptions::new(asked)
            .messages(capacity)
            .overflow(overflow);
        Self {
            subscription: bench.subscribe(options),
            types: if mask == 0 {
                (1..=TYPES).collect()
            } else {
                types
            },
            overflow,
            capacity,
            matched: Vec::new(),
            seen: 0,
            queued: VecDeque::new(),
        }
    }

    fn note(&mut self, first: u64, types: &[u16]) {
        let application = types.iter().filter(|number| **number <= TYPES);
        for (message, number) in (first..).zip(application) {
            if self.types.contains(number) {
                if self.queued.len() < self.capacity {
                    self.queued.push_back(self.matched.len());
                }
                self.matched.push(message);
            }
        }
    }

    /// Compares what was taken with what comes next.
    #[track_caller]
    fn check(&mut self, missed: u64, numbers: &[u64]) {
        self.seen += usize::try_from(missed).unwrap();
        let end = self.seen + numbers.len();
        assert_eq!(numbers, &self.matched[self.seen..end]);
        if self.overflow == OverflowPolicy::DropNewest {
            let expected: Vec<usize> = self.queued.drain(..numbers.len()).collect();
            assert_eq!(expected, (self.seen..end).collect::<Vec<_>>());
        }
        self.seen = end;
    }

    /// Takes a batch, after so many single messages of it. False if there was nothing.
    fn take(&mut self, singles: usize) -> bool {
        let Ok(batch) = self.subscription.try_recv_batch() else {
            return false;
        };
        let mut numbers: Vec<u64> = batch.iter().map(|one| number(one.payload())).collect();
        assert_eq!(batch.iter().len(), numbers.len());
        self.check(batch.missed(), &numbers);
        drop(batch);
        if singles > 0 && self.overflow == OverflowPolicy::Pause {
            numbers.clear();
            let next = (0..singles).map_while(|_| self.subscription.try_recv().ok());
            numbers.extend(next.map(|message| number(message.payload())));
            self.check(0, &numbers);
        }
        true
    }
}

fn any_overflow() -> impl Strategy<Value = OverflowPolicy> {
    prop_oneof![
        Just(OverflowPolicy::DropNewest),
        Just(OverflowPolicy::Pause),
        Just(OverflowPolicy::DropOldest)
    ]
}

/// Mostly of types that somebody may ask for, sometimes of the protocol.
fn any_type() -> impl Strategy<Value = u16> {
    prop_oneof![20 => 1..=TYPES, 1 => Just(0xFF03_u16)]
}

proptest! {
    #[test]
    fn everybody_gets_its_own(
        subscribers in prop::collection::vec((0..64_u8, any_overflow(), 1..80_usize), 1..7),
        steps in prop::collection::vec(
            (prop::collection::vec(any_type(), 1..60), 0..20_usize, 0..4_usize),
            1..20,
        ),
    ) {
        let mut bench = Bench::new();
        let mut all: Vec<Modelled> = subscribers
            .into_iter()
            .map(|(mask, overflow, capacity)| Modelled::new(&bench, mask, overflow, capacity))
            .collect();
        let count = all.len();
        for (types, taker, singles) in steps {
            let first = bench.sent;
            bench.dispatch(&types);
            all.iter_mut().for_each(|one| one.note(first, &types));
            if let Some(one) = all.get_mut(taker % (2 * count)) {
                one.take(singles);
                bench.fan_out.pump();
            }
            all.iter().for_each(|one| balanced(&one.subscription));
        }
        for one in &mut all {
            while one.take(0) {
                bench.fan_out.pump();
            }
            balanced(&one.subscription);
            let row = one.subscription.row();
            prop_assert_eq!(row.matched, one.matched.len() as u64);
            prop_assert_eq!(row.taken + row.dropped, row.matched);
            prop_assert!(row.dropped == 0 || one.overflow != OverflowPolicy::Pause);
        }
        prop_assert_eq!(bench.fill(), Traffic::default());
        prop_assert_eq!(bench.budget_used(), 0);
    }
}

/// `count` messages of the types in turn.
fn in_turn(types: u16, count: usize) -> Vec<u16> {
    (1..=types).cycle().take(count).collect()
}

#[test]
fn an_index_is_charged_until_its_block_is_released() {
    let mut bench = Bench::new();
    let mut one = bench.subscribe(SubscribeOptions::new(MessageType(1)));
    let tap = bench.subscribe(SubscribeOptions::new(TypeFilter::all()));
    let few = INDEXED_FRAMES_MIN as usize - 1;
    bench.dispatch(&in_turn(2, few));
    let walked = bench.budget_used();
    assert_eq!(walked, BLOCK_CLASSES[0]);
    bench.dispatch(&in_turn(2, few + 1));
    assert_eq!(bench.budget_used(), walked + 2 * BLOCK_CLASSES[0]);
    assert_eq!(take(&mut one).0.len(), few.div_ceil(2) + few.div_ceil(2));
    // The queue of the one that has an index is charged with it.
    bench.dispatch(&in_turn(2, few + 1));
    assert_eq!(one.row().queued_bytes, 2 * BLOCK_CLASSES[0] as u64);
    drop((one, tap));
    bench.fan_out.pump();
    assert_eq!(bench.budget_used(), 0);
}

/// Storage is used again: neither blocks nor indexes need more of it.
#[test]
fn indexes_are_used_again() {
    let mut bench = Bench::new();
    let mut odd = bench.subscribe(SubscribeOptions::new(MessageType(1)));
    let mut even = bench.subscribe(SubscribeOptions::new(MessageType(2)));
    for round in 0..100 {
        // Indexes of both small classes in turn.
        let count = if round % 2 == 0 { 20 } else { 300 };
        let first = bench.sent;
        bench.dispatch(&in_turn(2, count));
        let numbers = |offset| (first + offset..first + count as u64).step_by(2);
        assert_eq!(take(&mut odd).0, numbers(0).collect::<Vec<_>>());
        assert_eq!(take(&mut even).0, numbers(1).collect::<Vec<_>>());
        if round % 10 == 9 {
            bench.fan_out.trim();
        }
    }
    assert_eq!(bench.budget_used(), 0);
}

/// Subscribers whose messages together are more than an index holds, and blocks that are longer
/// than an offset reaches.
#[test]
fn what_fits_no_index_is_walked() {
    for count in [4000, BLOCK_SIZE / 16 + 1] {
        let mut bench = Bench::new();
        let mut all: Vec<(u16, Subscription)> = (1..=12)
            .map(|left_out| {
                let types: Vec<_> = (1..=12).filter(|one| *one != left_out).collect();
                let types: Vec<_> = types.into_iter().map(MessageType).collect();
                (left_out, bench.subscribe(SubscribeOptions::new(types)))
            })
            .collect();
        let types = in_turn(12, count);
        bench.dispatch(&types);
        for (left_out, subscription) in &mut all {
            let numbers = (0..).zip(&types).filter(|(_, number)| *number != left_out);
            let numbers: Vec<u64> = numbers.map(|(number, _)| number).collect();
            assert_eq!(take(subscription).0, numbers);
        }
        assert_eq!(bench.budget_used(), 0);
    }
}

#[test]
fn without_room_in_the_budget_there_is_no_index() {
    let mut bench = Bench::new();
    let mut one = bench.subscribe(SubscribeOptions::new(MessageType(1)));
    let budget = &bench.slots.ledger.budget;
    let rest = budget.limit() - BLOCK_CLASSES[0];
    budget.charge(rest);
    bench.dispatch(&in_turn(2, 20));
    assert_eq!(bench.budget_used(), bench.slots.ledger.budget.limit());
    assert_eq!(take(&mut one).0, (0..20).step_by(2).collect::<Vec<_>>());
    bench.slots.ledger.budget.release(rest);
    assert_eq!(bench.budget_used(), 0);
}
