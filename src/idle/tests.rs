//! Habits and strategies of waiting, with waits that are made up.

use super::*;

/// The tests' waits are chosen for this time, which is not the default.
const POLL: IdleStrategy = IdleStrategy::Poll {
    duration: Duration::from_micros(50),
};

fn micros(micros: u64) -> Duration {
    Duration::from_micros(micros)
}

/// A thread whose work comes when the test says.
struct Thread {
    idle: Idle,
    now: Instant,
    /// Time spent looking again.
    looked: Duration,
    /// What a sleep is longer by than what it waits for.
    wake: Duration,
}

impl Thread {
    fn new() -> Self {
        let mut thread = Self {
            idle: Idle::new(POLL),
            now: Clock::start().now().instant,
            looked: Duration::ZERO,
            wake: micros(20),
        };
        thread.idle.handle_work(thread.now, 72);
        thread
    }

    /// Waits for work that comes after `gap`, a look each microsecond; whether it slept.
    fn wait(&mut self, gap: u64) -> bool {
        let mut slept = true;
        for passed in 0..=gap {
            let now = self.now + micros(passed);
            slept = !self.idle.polls(now);
            if slept {
                self.looked += micros(passed);
                break;
            }
        }
        let late = if slept { self.wake } else { Duration::ZERO };
        self.looked += if slept { Duration::ZERO } else { micros(gap) };
        self.now += micros(gap) + late;
        self.idle.handle_work(self.now, 72);
        slept
    }

    /// Takes bursts of five, 5 us apart, one in each `period`, with all that came while it
    /// slept.
    fn take_bursts(&mut self, count: u64, period: u64) {
        let start = self.now;
        for number in 0..count * 5 {
            let time = start + micros(number / 5 * period + number % 5 * 5);
            if time > self.now {
                let gap = time.duration_since(self.now).as_micros();
                self.wait(u64::try_from(gap).unwrap());
            }
        }
    }

    /// How many of `count` waits of `gap` it slept.
    fn sleeps(&mut self, count: usize, gap: u64) -> usize {
        (0..count).filter(|_| self.wait(gap)).count()
    }
}

#[test]
fn polls_after_small_work_for_its_time() {
    let start = Clock::start().now().instant;
    let at = |time| start + micros(time);
    let mut idle = Idle::new(POLL);
    assert!(!idle.polls(at(0)), "nothing was done yet");
    idle.handle_work(at(10), 72);
    assert!(idle.polls(at(12)) && idle.polls(at(61)));
    assert!(!idle.polls(at(62)));
    assert!(
        !idle.polls(at(63)),
        "what has slept sleeps on until there is work"
    );
}

#[test]
fn answers_that_come_soon_are_looked_for_from_the_first_on() {
    let mut thread = Thread::new();
    assert_eq!(thread.sleeps(1000, 30), 0);
    // A silence, and what is a little late, do not end that.
    assert!(thread.wait(1_000_000));
    assert_eq!(thread.sleeps(20, 30), 0);
    assert!(thread.wait(70));
    assert_eq!(thread.sleeps(100, 45), 0);
}

#[test]
fn what_comes_far_apart_is_not_looked_for() {
    let mut thread = Thread::new();
    thread.sleeps(16, 1_000);
    thread.looked = Duration::ZERO;
    assert_eq!(thread.sleeps(6400, 1_000), 6400);
    // A probe in 65 waits is all, but for some more in the beginning.
    assert!(thread.looked < micros(50) * 104, "{:?}", thread.looked);
}

#[test]
fn sleeps_without_end_are_counted_without_panic() {
    let mut thread = Thread::new();
    thread.idle = Idle::new(IdleStrategy::Poll {
        duration: Duration::ZERO,
    });
    thread.idle.handle_work(thread.now, 72);
    thread.idle.habit.sleeps = u32::MAX - 1;
    assert_eq!(thread.sleeps(3, 1_000), 3);
    assert_eq!(thread.idle.habit.sleeps, u32::MAX);
}

#[test]
fn a_hiccup_is_slept_through_and_no_more() {
    let mut thread = Thread::new();
    thread.wake = micros(200);
    assert_eq!(thread.sleeps(1000, 30), 0);
    assert!(thread.sleeps(20, 300) > 10);
    // Each sleep looks long, and the first look may be for one of these.
    let slept = thread.sleeps(1000, 30);
    assert!(slept <= 16, "slept {slept} times");
}

#[test]
fn looks_again_as_soon_as_messages_come_faster() {
    let mut thread = Thread::new();
    thread.sleeps(100, 1_000);
    // What a sleep shows of a wait of 30 us is believed, but for its wake-up.
    let slept = thread.sleeps(1000, 30);
    assert!(slept < 32, "slept {slept} times");
}

#[test]
fn a_probe_finds_out_that_sleeps_took_long_to_wake_up() {
    let mut thread = Thread::new();
    thread.wake = micros(200);
    thread.sleeps(100, 1_000);
    let slept = thread.sleeps(1000, 30);
    assert!(slept <= 64, "slept {slept} times");
}

#[test]
fn bursts_far_apart_are_slept_through() {
    let mut thread = Thread::new();
    thread.take_bursts(100, 100);
    thread.looked = Duration::ZERO;
    thread.take_bursts(1_000, 100);
    // Probes take up to 70 us, and there is nothing else.
    assert!(
        thread.looked < micros(70) * 1_000 / 50,
        "{:?}",
        thread.looked
    );
}

#[test]
fn answers_that_come_very_soon_are_no_burst() {
    let mut thread = Thread::new();
    for gap in 5..45 {
        assert_eq!(thread.sleeps(100, gap), 0, "{gap} us");
    }
    // As the loop has them: the answer of another thread, and the next message.
    for gap in 15..35 {
        let slept = (0..100).map(|_| thread.sleeps(1, 4) + thread.sleeps(1, gap));
        assert_eq!(slept.sum::<usize>(), 0, "{gap} us");
    }
}

#[test]
fn a_wait_just_beyond_the_window_is_not_looked_for_for_long() {
    let mut thread = Thread::new();
    thread.sleeps(100, 60);
    thread.looked = Duration::ZERO;
    thread.sleeps(1000, 60);
    // A third of the waits at the most, each for 50 us.
    assert!(thread.looked < micros(50) * 333, "{:?}", thread.looked);
}

#[test]
fn sleeps_in_bulk_and_polls_again_after_it() {
    let start = Clock::start().now().instant;
    let at = |time| start + micros(time);
    let mut idle = Idle::new(POLL);
    idle.handle_work(at(0), IDLE_BULK_BYTES_PER_MS + 1);
    assert!(!idle.polls(at(1)));
    // A small piece in between does not end the bulk.
    idle.handle_work(at(1_100), 100);
    assert!(!idle.polls(at(1_101)));
    assert!(idle.wait.is_none(), "no wait is measured in bulk");
    idle.handle_work(at(2_200), 100);
    assert!(idle.polls(at(2_201)));
    idle.handle_work(at(9_000), 100);
    assert!(idle.polls(at(9_001)));
}

#[test]
fn a_thread_in_bulk_looks_a_few_times_as_long_as_that_finds_something() {
    let clock = Clock::start();
    let mut idle = Idle::new(POLL);
    let mut looks = |found_after: u32| {
        let mut looks = 0;
        while looks < found_after && idle.polls_by(clock) {
            looks += 1;
        }
        idle.note_work(clock, 1 << 30);
        looks
    };
    assert_eq!(looks(100), IDLE_BULK_LOOKS);
    // In vain: one wait is slept through, then two, and so on.
    let in_vain: Vec<u32> = (0..11).map(|_| looks(100)).collect();
    assert_eq!(in_vain, [0, 8, 0, 0, 8, 0, 0, 0, 0, 8, 0]);
    for _ in 0..7 {
        looks(100);
    }
    assert_eq!(looks(3), 3);
    assert_eq!([looks(100), looks(100), looks(100)], [8, 0, 8]);
    let mut block = Idle::new(IdleStrategy::Block);
    block.note_work(clock, 1 << 30);
    assert!(!block.polls_by(clock));
}

#[test]
fn block_never_polls_and_spin_always_does() {
    let now = Clock::start().now().instant;
    let mut block = Idle::new(IdleStrategy::Block);
    block.handle_work(now, 1);
    assert!(!block.polls(now));
    assert!(Idle::new(IdleStrategy::Spin).polls(now));
    let none = IdleStrategy::Poll {
        duration: Duration::ZERO,
    };
    let mut none = Idle::new(none);
    none.handle_work(now, 1);
    assert!(!none.polls(now));
}
