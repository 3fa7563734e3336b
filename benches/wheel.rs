//! The timer wheel: one operation at a time among 10,000 others, and the worst moments.
//!
//! Deadlines come from a fixed pseudo-random sequence, so every run does the same work. Elements
//! are timers; a figure per element is the inverse of the throughput.

#![allow(missing_docs, reason = "criterion's macros make public functions")]
#![allow(
    clippy::cast_possible_truncation,
    reason = "positions among a million timers"
)]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use nebnet::wheel::{TimerKey, Wheel};

/// Timers that are set while one operation is measured: one per peer at the default limit.
const PEERS: usize = 10_000;
/// The longest timeout among the defaults of the crate, in ticks.
const TIMEOUT: u64 = 45_000;
const MILLION: usize = 1_000_000;

/// Xorshift: cheap enough not to show beside what is measured.
struct Random(u64);

impl Random {
    fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

fn peers(random: &mut Random, now: u64) -> (Wheel<u32>, Vec<TimerKey>) {
    let mut wheel = Wheel::with_capacity(now, PEERS + 1);
    let keys = (0..PEERS)
        .map(|_| wheel.insert(now + 1 + random.below(TIMEOUT), 7))
        .collect();
    (wheel, keys)
}

fn fill(wheel: &mut Wheel<u32>, mut deadline: impl FnMut() -> u64) {
    for _ in 0..MILLION {
        black_box(wheel.insert(deadline(), 7));
    }
}

fn drain(wheel: &mut Wheel<u32>, now: u64) -> usize {
    let mut count = 0;
    while let Some(expired) = wheel.poll(now) {
        black_box(expired);
        count += 1;
    }
    count
}

fn single(c: &mut Criterion) {
    let mut group = c.benchmark_group("wheel/single");
    group.throughput(Throughput::Elements(1));
    let mut random = Random::new();

    let (mut wheel, _) = peers(&mut random, 0);
    group.bench_function("insert_cancel", |b| {
        b.iter(|| {
            let key = wheel.insert(1 + random.below(TIMEOUT), 7);
            wheel.cancel(black_box(key))
        });
    });

    // Each timer that fires is set again, so that the wheel turns and stays as full: the whole life
    // of a timer, cascades included.
    let (mut wheel, _) = peers(&mut random, 0);
    let mut now = 0;
    group.bench_function("insert_fire", |b| {
        b.iter(|| {
            loop {
                if let Some(expired) = wheel.poll(now) {
                    break wheel.insert(now + 1 + random.below(TIMEOUT), expired.value);
                }
                now += 1;
            }
        });
    });

    let (wheel, _) = peers(&mut random, 0);
    group.bench_function("next_expiry", |b| {
        b.iter(|| black_box(&wheel).next_expiry())
    });

    let mut wheel = Wheel::<u32>::new(0);
    wheel.insert(u64::MAX, 7);
    let mut now = 0;
    group.bench_function("poll_nothing_due", |b| {
        b.iter(|| {
            now += 1;
            black_box(&mut wheel).poll(now)
        });
    });
    group.finish();
}

/// All peers were heard of: each timer moves.
fn rearm(c: &mut Criterion) {
    let mut group = c.benchmark_group("wheel/rearm_10k");
    group.throughput(Throughput::Elements(PEERS as u64));
    let mut random = Random::new();

    let (mut wheel, keys) = peers(&mut random, 0);
    group.bench_function("rearm", |b| {
        b.iter(|| {
            for &key in &keys {
                black_box(wheel.rearm(key, 1 + random.below(TIMEOUT)));
            }
        });
    });

    let (mut wheel, mut keys) = peers(&mut random, 0);
    group.bench_function("cancel_insert", |b| {
        b.iter(|| {
            for key in &mut keys {
                black_box(wheel.cancel(*key));
                *key = wheel.insert(1 + random.below(TIMEOUT), 7);
            }
        });
    });
    group.finish();
}

fn million(c: &mut Criterion) {
    let mut group = c.benchmark_group("wheel/million");
    group.throughput(Throughput::Elements(MILLION as u64));
    group.sample_size(10);

    // The storage is laid out in the order of setting, which is the order of firing.
    group.bench_function("insert_one_tick", |b| {
        b.iter_batched_ref(
            || Wheel::with_capacity(0, MILLION),
            |wheel| fill(wheel, || 50),
            BatchSize::PerIteration,
        );
    });
    let one_slot = |deadline: u64| {
        let mut wheel = Wheel::with_capacity(0, MILLION);
        fill(&mut wheel, || deadline);
        wheel
    };
    group.bench_function("poll_one_tick", |b| {
        b.iter_batched_ref(
            || one_slot(50),
            |wheel| assert_eq!(drain(wheel, 50), MILLION),
            BatchSize::PerIteration,
        );
    });
    // One call that moves all timers: they stand in one slot, and the time enters it.
    let slot_start = TIMEOUT / 4096 * 4096;
    group.bench_function("cascade_one_slot", |b| {
        b.iter_batched_ref(
            || one_slot(TIMEOUT),
            |wheel| assert!(wheel.poll(slot_start).is_none()),
            BatchSize::PerIteration,
        );
    });
    // The longest single call: the same, with the list in no order of memory.
    group.bench_function("cascade_one_slot_scattered", |b| {
        b.iter_batched_ref(
            || {
                let mut random = Random::new();
                let mut wheel = Wheel::with_capacity(0, MILLION);
                let mut keys: Vec<_> = (0..MILLION).map(|_| wheel.insert(1, 7_u32)).collect();
                for last in (1..MILLION as u64).rev() {
                    keys.swap(last as usize, random.below(last + 1) as usize);
                }
                for key in keys {
                    wheel.rearm(key, slot_start + 1 + random.below(4095));
                }
                wheel
            },
            |wheel| assert!(wheel.poll(slot_start).is_none()),
            BatchSize::PerIteration,
        );
    });
    // Deadlines spread, so that neighbours in a list are far apart in memory.
    group.bench_function("poll_spread", |b| {
        b.iter_batched_ref(
            || {
                let mut random = Random::new();
                let mut wheel = Wheel::with_capacity(0, MILLION);
                fill(&mut wheel, || random.below(TIMEOUT));
                wheel
            },
            |wheel| assert_eq!(drain(wheel, TIMEOUT), MILLION),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, single, rearm, million);
criterion_main!(benches);
