//! The wheel as a whole: edges by name, defects known from other wheels by name, and random lists
//! of operations against a sorted map.

use proptest::prelude::*;

use super::level::{EPOCH_SHIFT, LEVELS, SLOTS};
use super::model::{Op, Pair, STARTS, check_invariants};
use super::*;

const EPOCH: u64 = 1 << EPOCH_SHIFT;
/// Delays on the boundary of each level, one either side, and the ends.
fn delays() -> Vec<u64> {
    let mut delays = vec![0, 1, 2, u64::MAX / 2, u64::MAX - 1, u64::MAX];
    for level in 1..=LEVELS + 1 {
        let width = 1_u64 << (6 * level);
        delays.extend([width - 1, width, width + 1, 2 * width, 63 * width]);
    }
    delays
}

fn values<T>(wheel: &mut Wheel<T>, now: u64) -> Vec<T> {
    std::iter::from_fn(|| wheel.poll(now))
        .map(|expired| expired.value)
        .collect()
}

// ----- edges ---------------------------------------------------------------------------------

#[test]
fn each_delay_from_each_start_fires_at_its_deadline_and_not_before() {
    for start in STARTS {
        for delay in delays() {
            let deadline = start.saturating_add(delay);
            let mut wheel = Wheel::new(start);
            let key = wheel.insert(deadline, delay);
            check_invariants(&wheel);
            if deadline > start {
                assert_eq!(wheel.poll(deadline - 1), None, "early: {start} + {delay}");
                check_invariants(&wheel);
            }
            let expired = Expired {
                key,
                deadline,
                value: delay,
            };
            assert_eq!(
                wheel.poll(deadline),
                Some(expired),
                "late: {start} + {delay}"
            );
            assert_eq!((wheel.poll(deadline), wheel.len()), (None, 0));
        }
    }
}

/// All delays at once, so that levels and far list are in use together.
#[test]
fn all_delays_together_fire_in_order() {
    for start in STARTS {
        let mut wheel = Wheel::new(start);
        let mut deadlines: Vec<u64> = delays()
            .iter()
            .map(|&delay| start.saturating_add(delay))
            .collect();
        for &deadline in &deadlines {
            wheel.insert(deadline, deadline);
        }
        check_invariants(&wheel);
        deadlines.sort_unstable();
        assert_eq!(values(&mut wheel, u64::MAX), deadlines);
    }
}

/// Tick by tick over more than two turns of level 1, from each phase of level 0.
#[test]
fn every_tick_fires_what_is_due_and_nothing_else() {
    for start in (0..SLOTS as u64).chain([EPOCH - 4000, (1 << 32) - 65]) {
        let mut wheel = Wheel::new(start);
        for delay in 1..8500 {
            wheel.insert(start + delay, start + delay);
        }
        for tick in start + 1..start + 8500 {
            assert_eq!(values(&mut wheel, tick), [tick]);
        }
        assert!(wheel.is_empty());
    }
}

#[test]
fn one_tick_fires_in_the_order_of_setting_across_cascades() {
    let deadline = EPOCH + 5000;
    let mut wheel = Wheel::new(0);
    let mut set = 0;
    // Each round sets two more timers of the one deadline from nearer by: far list, high level, ...
    for now in [
        0,
        EPOCH - 1,
        EPOCH,
        EPOCH + 4095,
        EPOCH + 4097,
        deadline - 65,
        deadline - 1,
    ] {
        assert_eq!(wheel.poll(now), None);
        for _ in 0..2 {
            wheel.insert(deadline, set);
            set += 1;
        }
        check_invariants(&wheel);
    }
    assert_eq!(values(&mut wheel, u64::MAX), (0..set).collect::<Vec<_>>());
}

#[test]
fn past_deadlines_fire_behind_what_is_due() {
    let mut wheel = Wheel::new(100);
    wheel.insert(100, 'a');
    wheel.insert(3, 'b');
    wheel.insert(0, 'c');
    assert_eq!(wheel.next_expiry(), Some(100));
    assert_eq!(values(&mut wheel, 0), ['a', 'b', 'c']);
}

#[test]
fn a_clock_that_steps_back_is_clamped() {
    let mut wheel = Wheel::new(1000);
    wheel.insert(1500, 'a');
    wheel.insert(1600, 'b');
    assert_eq!(wheel.poll(5), None);
    assert_eq!(wheel.now(), 1000);
    assert_eq!(wheel.poll(2000).map(|expired| expired.value), Some('a'));
    // What was due at 2000 stays due, although the caller now says 1550.
    assert_eq!(wheel.poll(1550).map(|expired| expired.value), Some('b'));
    assert_eq!(wheel.now(), 2000);
}

#[test]
fn a_long_stall_fires_each_timer_once() {
    let mut wheel = Wheel::new(0);
    for deadline in 0..3000 {
        wheel.insert(deadline * 7, deadline);
    }
    assert_eq!(values(&mut wheel, 1 << 40), (0..3000).collect::<Vec<_>>());
    assert_eq!((wheel.poll(1 << 41), wheel.next_expiry()), (None, None));
}

/// A jump costs by timers, not by ticks: 2^63 ticks would not end within a test.
#[test]
fn a_jump_of_the_clock_is_not_walked_tick_by_tick() {
    let mut wheel = Wheel::new(0);
    for bit in 0..64 {
        wheel.insert(1 << bit, bit);
    }
    assert_eq!(values(&mut wheel, u64::MAX), (0..64).collect::<Vec<_>>());
}

#[test]
fn a_timer_set_while_polling_takes_its_place_in_the_order() {
    let mut wheel = Wheel::new(0);
    wheel.insert(10, "10");
    wheel.insert(5000, "5000");
    assert_eq!(wheel.poll(9000).map(|expired| expired.value), Some("10"));
    wheel.insert(4999, "4999");
    wheel.insert(20, "20");
    wheel.insert(9, "9, passed");
    wheel.insert(9001, "9001");
    check_invariants(&wheel);
    assert_eq!(
        values(&mut wheel, 9000),
        ["9, passed", "20", "4999", "5000"]
    );
    assert_eq!(wheel.next_expiry(), Some(9001));
}

#[test]
fn a_periodic_timer_rearmed_while_polling_keeps_its_period() {
    for period in [1, 63, 64, 65, 4096, 4097] {
        let mut wheel = Wheel::new(0);
        wheel.insert(period, ());
        let mut count = 0;
        while let Some(expired) = wheel.poll(period * 100) {
            count += 1;
            assert_eq!(expired.deadline, period * count);
            wheel.insert(expired.deadline + period, ());
        }
        assert_eq!((count, wheel.next_expiry()), (100, Some(period * 101)));
    }
}

#[test]
fn cancel_while_polling_reaches_due_timers() {
    let mut wheel = Wheel::new(0);
    let keys: Vec<TimerKey> = (0..5).map(|value| wheel.insert(70, value)).collect();
    assert_eq!(wheel.poll(70).map(|expired| expired.value), Some(0));
    assert_eq!(wheel.cancel(keys[0]), None);
    assert_eq!(wheel.cancel(keys[2]), Some(2));
    assert_eq!(wheel.cancel(keys[4]), Some(4));
    assert!(wheel.rearm(keys[1], 71));
    check_invariants(&wheel);
    assert_eq!(values(&mut wheel, 71), [3, 1]);
}

#[test]
fn stale_keys_find_nothing_in_a_reused_slot() {
    let mut wheel = Wheel::new(0);
    let old: Vec<TimerKey> = (0..100).map(|value| wheel.insert(value, value)).collect();
    assert_eq!(values(&mut wheel, 99).len(), 100);
    let new: Vec<TimerKey> = (0..100).map(|value| wheel.insert(200, value)).collect();
    for &key in &old {
        assert!(!wheel.rearm(key, 150));
        assert_eq!((wheel.deadline(key), wheel.cancel(key)), (None, None));
    }
    wheel.clear();
    check_invariants(&wheel);
    for &key in &new {
        assert_eq!(wheel.cancel(key), None);
    }
    wheel.insert(200, 7);
    assert_eq!(wheel.cancel(new[0]), None);
    assert_eq!(values(&mut wheel, 200), [7]);
}

#[test]
fn the_far_list_takes_back_its_bound_when_its_first_timer_leaves() {
    let mut wheel = Wheel::new(0);
    let first = wheel.insert(3 * EPOCH, 'a');
    wheel.insert(9 * EPOCH + 1, 'b');
    wheel.insert(9 * EPOCH + 2, 'c');
    assert_eq!(wheel.next_expiry(), Some(3 * EPOCH));
    wheel.cancel(first);
    // One poll for nothing is the price of a cancel in constant time.
    assert_eq!(wheel.next_expiry(), Some(3 * EPOCH));
    assert_eq!(wheel.poll(3 * EPOCH), None);
    assert_eq!(wheel.next_expiry(), Some(9 * EPOCH));
    assert_eq!(values(&mut wheel, 9 * EPOCH + 1), ['b']);
    assert_eq!(wheel.next_expiry(), Some(9 * EPOCH + 2));
}

/// The stated worst case of polls that only move timers: one search of the far list, then one
/// cascade from each level above 0.
#[test]
fn few_polls_come_before_the_one_that_fires() {
    let deadline = EPOCH + (0..LEVELS).map(|level| 1 << (6 * level)).sum::<u64>();
    for stale in [false, true] {
        let mut wheel = Wheel::new(0);
        let far = wheel.insert(deadline + 5 * EPOCH, ());
        let first = if stale { wheel.insert(EPOCH, ()) } else { far };
        for _ in 0..2 {
            wheel.insert(deadline + EPOCH, ());
        }
        assert!(wheel.cancel(first).is_some());
        let mut polls_empty = 0;
        let expired = loop {
            let at = wheel.next_expiry().expect("timers are left");
            match wheel.poll(at) {
                Some(expired) => break expired,
                None => polls_empty += 1,
            }
            assert!(wheel.next_expiry() > Some(at));
        };
        assert_eq!(
            (expired.deadline, wheel.now()),
            (deadline + EPOCH, deadline + EPOCH)
        );
        assert_eq!(polls_empty, LEVELS + usize::from(stale));
    }
}

#[test]
fn a_timer_costs_24_bytes_and_its_value() {
    /// What a slab keeps for each entry.
    #[expect(dead_code, reason = "only its size matters")]
    enum Entry<T> {
        Vacant(usize),
        Occupied(T),
    }
    assert_eq!(size_of::<Entry<Timer<()>>>(), 24);
    assert_eq!(size_of::<Entry<Timer<u32>>>(), 32);
    assert_eq!(size_of::<Entry<Timer<u64>>>(), 32);
    assert_eq!(size_of::<Entry<Timer<[u64; 3]>>>(), 48);
    assert_eq!(size_of::<Option<TimerKey>>(), 16);
    assert!(size_of::<Wheel<u64>>() < 3328);
}

#[test]
fn debug_shows_the_state_and_no_values() {
    struct Opaque;
    let mut wheel = Wheel::new(3);
    wheel.insert(9, Opaque);
    assert_eq!(
        format!("{wheel:?}"),
        "Wheel { now: 3, len: 1, next_expiry: Some(9), .. }"
    );
}

// ----- defects known from other wheels -------------------------------------------------------

/// rpc-perf#180: a timer too long for the wheel was put where it fired within one turn.
#[test]
fn a_long_timer_does_not_fire_a_turn_early() {
    for turns in [1, 2, 63, 64, 1000] {
        let deadline = turns * EPOCH + 17;
        let mut wheel = Wheel::new(0);
        wheel.insert(deadline, ());
        for turn in 0..turns {
            assert_eq!(wheel.poll(turn * EPOCH + 17), None);
            assert_eq!(wheel.poll(turn * EPOCH + 18), None);
        }
        assert_eq!(wheel.poll(deadline - 1), None);
        assert!(wheel.poll(deadline).is_some());
    }
}

/// tokio#684, tokio#2473: a deadline equal to the present was lost or put a turn away.
#[test]
fn a_deadline_equal_to_now_fires_at_the_next_poll() {
    for now in STARTS {
        let mut wheel = Wheel::new(0);
        wheel.insert(now, 'a');
        assert_eq!(values(&mut wheel, now), ['a']);
        wheel.insert(now, 'b');
        assert_eq!(wheel.next_expiry(), Some(now));
        assert_eq!(values(&mut wheel, now), ['b']);
    }
}

/// tokio#2473, tokio#3270: a timer that had expired and was not taken yet was moved or cancelled as
/// if it stood in its slot.
#[test]
fn a_timer_that_is_due_can_be_moved_and_cancelled() {
    for deadline in [64, 4096, 1 << 18, EPOCH] {
        let mut wheel = Wheel::new(0);
        let keys = [0, 1, 2, 3].map(|value| wheel.insert(deadline, value));
        assert_eq!(wheel.poll(deadline).map(|expired| expired.value), Some(0));
        assert!(wheel.rearm(keys[1], deadline + 64));
        assert_eq!(wheel.cancel(keys[2]), Some(2));
        assert!(wheel.rearm(keys[3], deadline));
        assert!(wheel.rearm(keys[1], deadline + 1));
        check_invariants(&wheel);
        assert_eq!(values(&mut wheel, deadline), [3]);
        assert_eq!(values(&mut wheel, deadline + 1), [1]);
        assert!(!wheel.rearm(keys[0], deadline) && wheel.is_empty());
    }
}

/// tokio#5536: a wheel that was older than its levels reach refused every timer.
#[test]
fn a_wheel_older_than_its_levels_takes_timers() {
    for now in [EPOCH - 1, EPOCH, EPOCH + 10_000, 70 * EPOCH] {
        let mut wheel = Wheel::new(0);
        assert_eq!(wheel.poll(now), None);
        wheel.insert(now + 10_000, 'a');
        wheel.insert(now + 1, 'b');
        check_invariants(&wheel);
        assert_eq!(values(&mut wheel, now + 9_999), ['b']);
        assert_eq!(values(&mut wheel, now + 10_000), ['a']);
    }
}

/// mio, and others that count in 31 bits of milliseconds: beyond 24.8 days a timeout wrapped.
#[test]
fn a_deadline_beyond_31_bits_of_milliseconds_is_neither_early_nor_lost() {
    for delay in [
        (1 << 31) - 1,
        1 << 31,
        (1 << 31) + 1,
        (1 << 32) - 1,
        1 << 32,
    ] {
        let mut wheel = Wheel::new(5);
        wheel.insert(5 + delay, ());
        assert_eq!(wheel.next_expiry(), Some(5 + delay));
        assert_eq!(wheel.poll(4 + delay), None);
        assert!(wheel.poll(5 + delay).is_some());
    }
}

/// tokio#8334: once the time stood in a late slot of the top level, a timer more than a turn ahead
/// shared the present's slot, and the look for the next expiry went wrong after 12 days.
#[test]
fn the_top_level_may_wrap_into_the_present_slot() {
    let width = EPOCH / SLOTS as u64;
    for slot in 0..SLOTS as u64 {
        let now = slot * width + width / 2;
        let mut wheel = Wheel::new(0);
        assert_eq!(wheel.poll(now), None);
        // Nearly a whole turn, exactly one, and a little more: all in or beside the present slot.
        let long = [
            now + EPOCH - width,
            now + EPOCH - 1,
            now + EPOCH,
            now + EPOCH + width,
        ];
        for deadline in long {
            wheel.insert(deadline, deadline);
        }
        for short in [1, 20, 1000, 60_000] {
            let at = wheel.now() + short;
            let key = wheel.insert(at, at);
            assert!(wheel.next_expiry().is_some_and(|tick| tick <= at));
            assert_eq!(wheel.poll(at - 1), None);
            assert_eq!(values(&mut wheel, at), [at]);
            assert_eq!(wheel.cancel(key), None);
        }
        check_invariants(&wheel);
        for deadline in long {
            assert_eq!(wheel.poll(deadline - 1), None);
            assert_eq!(values(&mut wheel, deadline), [deadline]);
        }
    }
}

/// theine-go#64: a deadline on the boundary of a turn stayed for one turn more.
#[test]
fn a_deadline_on_a_turn_boundary_does_not_wait_another_turn() {
    for level in 1..=LEVELS {
        let turn = 1_u64 << (6 * level);
        for start in [0, 1, turn - 1, turn, turn + 1] {
            let deadline = start.next_multiple_of(turn) + turn;
            let mut wheel = Wheel::new(start);
            wheel.insert(deadline, ());
            assert_eq!(wheel.poll(deadline - 1), None);
            assert!(
                wheel.poll(deadline).is_some(),
                "level {level}, start {start}"
            );
        }
    }
}

/// msquic#3206: the wake-up stayed at the old deadline after the first timer had moved later.
#[test]
fn the_next_expiry_follows_the_first_timer_when_it_moves() {
    let mut wheel = Wheel::new(0);
    let first = wheel.insert(10, 'a');
    wheel.insert(50, 'b');
    assert_eq!(wheel.next_expiry(), Some(10));
    assert!(wheel.rearm(first, 60));
    assert_eq!(wheel.next_expiry(), Some(50));
    assert!(wheel.rearm(first, 5));
    assert_eq!(wheel.next_expiry(), Some(5));
    wheel.cancel(first);
    assert_eq!(wheel.next_expiry(), Some(50));
    assert_eq!(wheel.poll(49), None);
    assert_eq!(values(&mut wheel, 50), ['b']);
}

// ----- random operations against a sorted map ------------------------------------------------

fn delay() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => 0_u64..200,
        4 => proptest::sample::select(delays()),
        // Any order of magnitude with equal weight.
        4 => (any::<u64>(), 0_u32..64).prop_map(|(bits, shift)| bits >> shift),
        1 => Just(u64::MAX),
    ]
}

fn jump() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => Just(1_u64),
        4 => 0_u64..130,
        4 => (1_u64..=1 << 40, 0_u32..40).prop_map(|(bits, shift)| bits >> shift),
        1 => Just(1_u64 << 40),
        1 => proptest::sample::select(delays()).prop_map(|delay| delay.min(1 << 40)),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        12 => delay().prop_map(Op::Insert),
        1 => (0_u64..5000).prop_map(Op::InsertPassed),
        4 => any::<usize>().prop_map(Op::Cancel),
        4 => (any::<usize>(), delay()).prop_map(|(pick, delay)| Op::Rearm(pick, delay)),
        3 => jump().prop_map(Op::Advance),
        2 => (jump(), 1_usize..4).prop_map(|(jump, polls)| Op::AdvanceAtMost(jump, polls)),
        2 => (jump(), delay()).prop_map(|(jump, delay)| Op::AdvanceRearming(jump, delay)),
        3 => Just(Op::AdvanceToNext),
        1 => (0_u64..1 << 40).prop_map(Op::StepBack),
        1 => prop_oneof![9 => Just(Op::StepBack(1)), 1 => Just(Op::Clear)],
    ]
}

/// Near each of the starts that the wheel must survive, a little before or after it.
fn start() -> impl Strategy<Value = u64> {
    (
        proptest::sample::select(STARTS.to_vec()),
        0_u64..5000,
        any::<bool>(),
    )
        .prop_map(|(start, offset, later)| match later {
            true => start.saturating_add(offset),
            false => start.saturating_sub(offset),
        })
}

proptest! {
    // What a seed finds becomes a test with a name, so no file of seeds is kept.
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_wheel_does_what_a_sorted_map_does(
        start in start(),
        ops in proptest::collection::vec(op(), 1..120),
    ) {
        let mut pair = Pair::new(start);
        for op in &ops {
            pair.apply(op);
        }
        pair.drain();
    }
}
