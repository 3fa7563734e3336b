//! What the service's threads are called, where they run, and that they sleep.
#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests may wait, and end where something is wrong"
)]

mod util;

use std::{fs, time::Duration};

use crossbeam_channel::bounded;
use nebnet::{Dispatch, NetService, StartError};
use util::{PATIENCE, config, stop, wait_until};

/// The folder of each thread of this process whose name begins with `prefix`, by its name.
fn threads(prefix: &str) -> Vec<(String, String)> {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let mut found: Vec<_> = tasks
        .filter_map(|task| {
            let folder = task.unwrap().path().to_str().unwrap().to_owned();
            // A thread of another test may have ended.
            let name = fs::read_to_string(format!("{folder}/comm")).ok()?;
            let name = name.trim_end();
            name.starts_with(prefix).then(|| (name.to_owned(), folder))
        })
        .collect();
    found.sort();
    found
}

/// A line of the thread's status.
fn status(folder: &str, name: &str) -> String {
    let text = fs::read_to_string(format!("{folder}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap().trim_start_matches(':').trim().to_owned()
}

/// The first and the last processor that this process may run on.
fn allowed() -> [usize; 2] {
    let list = status("/proc/self", "Cpus_allowed_list");
    let numbers: Vec<_> = list
        .split([',', '-'])
        .map(|number| number.parse().unwrap())
        .collect();
    [numbers[0], *numbers.last().unwrap()]
}

/// Processor time that the threads have used.
fn used(threads: &[(String, String)]) -> Duration {
    let nanoseconds = threads.iter().map(|(_, folder)| {
        let text = fs::read_to_string(format!("{folder}/schedstat")).unwrap();
        text.split(' ').next().unwrap().parse::<u64>().unwrap()
    });
    Duration::from_nanos(nanoseconds.sum())
}

/// Each loop and each dispatcher has the next of the processors, and behind the last the first.
#[test]
fn threads_have_their_names_and_places() {
    let [first, last] = allowed();
    let (first, last) = (first.to_string(), last.to_string());
    for (shards, expected) in [
        (1, &[("dispatch", &first), ("loop", &last)][..]),
        (
            3,
            &[
                ("disp-1", &last),
                ("disp-2", &first),
                ("dispatch", &first),
                ("loop", &last),
                ("loop-1", &first),
                ("loop-2", &last),
            ],
        ),
    ] {
        let config = config().shards(shards).thread_name("placed");
        let numbers = [&first, &last].map(|number| number.parse().unwrap());
        let config = config.dispatcher_cpus(numbers);
        let config = config.loop_cpus(numbers.into_iter().rev());
        let mut service = NetService::new(config).unwrap();
        service.start().unwrap();
        // Whoever starts a thread goes on before it has set itself up.
        wait_until("every thread has its name and its place", || {
            let threads = threads("placed-");
            let found = threads.iter().map(|(name, folder)| {
                let name = name.trim_start_matches("placed-");
                (name, status(folder, "Cpus_allowed_list"))
            });
            let wanted = expected.iter().map(|(name, cpu)| (*name, (*cpu).clone()));
            found.eq(wanted)
        });
        stop(&mut service);
    }
}

#[test]
fn a_processor_that_is_not_there_is_an_error_and_leaves_no_thread() {
    for dispatch in [Dispatch::Thread, Dispatch::Inline] {
        let config = config().thread_name("lost").dispatch(dispatch);
        let mut service = NetService::new(config.loop_cpus([1023])).unwrap();
        let error = service.start().unwrap_err();
        assert!(
            matches!(
                error,
                StartError::Cpu {
                    setting: "loop_cpus",
                    cpu: 1023,
                    ..
                }
            ),
            "{error}"
        );
        assert_eq!(threads("lost-"), []);
        assert_eq!(service.local_addrs(), []);
    }
}

/// Over two ticks of the metrics, in which nothing comes, the threads of the default sleep. What is
/// looked at is the time that they had a processor, which other programs make less and not more.
#[test]
fn without_traffic_the_default_uses_no_processor() {
    let config = config().thread_name("quiet");
    let mut service = NetService::new(config).unwrap();
    let (told, ticks) = bounded(8);
    service.on_metrics(move |_| {
        let _ = told.try_send(());
    });
    let _everything = service
        .handle()
        .subscribe(nebnet::TypeFilter::all())
        .unwrap();
    service.start().unwrap();
    ticks.recv_timeout(PATIENCE).unwrap();
    let threads = threads("quiet-");
    assert_eq!(threads.len(), 2 * util::shards());
    let before = used(&threads);
    for _ in 0..2 {
        ticks.recv_timeout(PATIENCE).unwrap();
    }
    let spent = used(&threads) - before;
    // A thread that looked again all the time would have used most of two seconds.
    assert!(spent < Duration::from_millis(50), "{spent:?}");
    stop(&mut service);
}
