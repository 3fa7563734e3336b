//! Timers of the embedder, on a service that runs.
#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests look at the clock, and end where something is wrong"
)]

mod util;

use std::{
    collections::HashMap,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use nebnet::{
    Dispatch, NetService, RecvError, RecvTimeoutError, TimerError, TimerId, TryRecvError,
};
use util::{Client, PATIENCE, Random, config, stop};

fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn start() -> NetService {
    let mut service = NetService::new(config()).unwrap();
    service.start().unwrap();
    service
}

#[test]
fn timers_are_never_early() {
    const COUNT: usize = 500;
    let mut service = start();
    let timers = service.handle().timers(COUNT).unwrap();
    let mut random = Random(42);
    let mut due = HashMap::new();
    for _ in 0..COUNT {
        let delay = Duration::from_micros(random.below(300_000) as u64);
        let set = Instant::now();
        let timer = timers.after(delay).unwrap();
        assert!(due.insert(timer, set + delay).is_none());
    }
    for _ in 0..COUNT {
        let fired = timers.recv_timeout(PATIENCE).unwrap();
        assert_eq!(fired.count, 1);
        let due = due.remove(&fired.timer).expect("each once");
        assert!(Instant::now() >= due);
    }
    assert!(timers.is_empty());
    assert_eq!(timers.try_recv(), Err(TryRecvError::Empty));
    stop(&mut service);
}

/// However late somebody takes, the count says how many periods are over, and never one too many.
#[test]
fn periods_are_counted_whoever_takes_them() {
    let mut service = start();
    let timers = service.handle().timers(3).unwrap();
    let set = Instant::now();
    let periods: HashMap<TimerId, Duration> = [ms(1), Duration::from_micros(2_500), ms(7)]
        .into_iter()
        .map(|period| (timers.every(period).unwrap(), period))
        .collect();
    let mut counts = HashMap::new();
    while counts.values().sum::<u64>() < 200 {
        let fired = timers.recv_timeout(PATIENCE).unwrap();
        *counts.entry(fired.timer).or_insert(0) += fired.count;
        let most = set.elapsed().as_nanos() / periods[&fired.timer].as_nanos();
        assert!(u128::from(counts[&fired.timer]) <= most);
    }
    for timer in periods.keys() {
        assert!(timers.cancel(*timer) && !timers.cancel(*timer));
    }
    assert_eq!(timers.try_recv(), Err(TryRecvError::Empty));
    stop(&mut service);
}

#[test]
fn timers_set_before_the_start_expire_after_it() {
    let mut service = NetService::new(config().dispatch(Dispatch::Inline)).unwrap();
    let timers = service.handle().timers(2).unwrap();
    let (first, second) = (
        timers.after(Duration::ZERO).unwrap(),
        timers.after(ms(20)).unwrap(),
    );
    assert_eq!(timers.recv_timeout(ms(1)), Err(RecvTimeoutError::Timeout));
    service.start().unwrap();
    assert_eq!(timers.recv_timeout(PATIENCE).unwrap().timer, first);
    assert_eq!(timers.recv_timeout(PATIENCE).unwrap().timer, second);
    stop(&mut service);
}

/// While peers are served, many threads set, cancel and take from one queue.
#[test]
fn many_threads_share_timers() {
    let mut service = start();
    let timers = service.handle().timers(64).unwrap();
    let mut client = Client::connect(service.local_addrs()[0]);
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let setters = [1, 2, 3].map(|seed| {
            let timers = &timers;
            scope.spawn(move || {
                let (mut random, mut kept) = (Random(seed), 0_u64);
                for _ in 0..2_000 {
                    match timers.after(Duration::from_micros(random.below(3_000) as u64)) {
                        Ok(timer) if random.below(2) == 0 && timers.cancel(timer) => {}
                        Ok(_) => kept += 1,
                        Err(error) => {
                            assert_eq!(error, TimerError::TooMany { limit: 64 });
                            thread::yield_now();
                        }
                    }
                }
                kept
            })
        });
        let (done, timers) = (&done, &timers);
        let taker = scope.spawn(move || {
            let mut taken = 0_u64;
            loop {
                match timers.recv_timeout(ms(1)) {
                    Ok(fired) => taken += fired.count,
                    Err(_) if done.load(Ordering::Acquire) && timers.is_empty() => return taken,
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        });
        (0..100).for_each(|_| client.ping(b"1"));
        let kept: u64 = setters.map(|setter| setter.join().unwrap()).iter().sum();
        done.store(true, Ordering::Release);
        assert_eq!(taker.join().unwrap(), kept);
    });
    stop(&mut service);
}

#[test]
fn the_stop_ends_the_queue() {
    let mut service = start();
    let timers = service.handle().timers(2).unwrap();
    let idle = service.handle().timers(1).unwrap();
    let once = timers.after(Duration::ZERO).unwrap();
    timers.after(ms(3_600_000)).unwrap();
    while timers.receiver().is_empty() {
        thread::yield_now();
    }
    stop(&mut service);
    assert_eq!(timers.recv().unwrap().timer, once);
    assert_eq!(timers.recv(), Err(RecvError));
    assert_eq!(idle.recv(), Err(RecvError));
    assert_eq!(idle.after(Duration::ZERO), Err(TimerError::Stopped));
    assert_eq!(service.handle().timers(1).err(), Some(TimerError::Stopped));
}

#[test]
fn a_stop_before_the_start_ends_the_queue() {
    let mut service = NetService::new(config()).unwrap();
    let timers = service.handle().timers(1).unwrap();
    timers.after(Duration::ZERO).unwrap();
    stop(&mut service);
    assert_eq!(timers.recv(), Err(RecvError));
}
