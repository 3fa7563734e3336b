//! Lookups that begin and end when a test says so.

use crossbeam_channel::{Receiver, Sender, bounded};

use super::*;

/// A resolver whose lookups tell that they begin, and wait for a word to end.
struct Stage {
    resolver: Resolver,
    begun: Receiver<String>,
    go_on: Sender<Resolved>,
    answers: Receiver<(LinkId, Resolved)>,
}

impl Stage {
    fn new() -> Self {
        let (begins, begun) = bounded(1000);
        let (go_on, word) = bounded::<Resolved>(0);
        let (answer, answers) = bounded(1000);
        let find = move |host: &str| {
            let _ = begins.send(host.to_owned());
            word.recv().unwrap_or_else(|_| Err("over".to_owned()))
        };
        let answer = move |link, found| drop(answer.send((link, found)));
        Self {
            resolver: Resolver::by(find, answer),
            begun,
            go_on,
            answers,
        }
    }

    fn ask(&self, link: u64, name: &str) {
        self.resolver.ask(LinkId(link), name).unwrap();
    }

    /// Waits until so many lookups have begun.
    fn begun(&self, count: usize) -> Vec<String> {
        let mut hosts: Vec<_> = self.begun.iter().take(count).collect();
        hosts.sort();
        hosts
    }

    fn waiting(&self) -> usize {
        self.resolver.pool.lock().waiting.len()
    }

    fn wait_for_no_threads(&self) {
        while self.resolver.pool.lock().threads > 0 {
            thread::yield_now();
        }
    }
}

fn addr(number: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, number], port))
}

#[test]
fn so_many_names_are_looked_up_at_a_time_and_so_many_wait() {
    let stage = Stage::new();
    let names: Vec<String> = (0..LOOKUPS_MAX + LOOKUPS_WAITING_MAX)
        .map(|number| format!("host{number:03}:1"))
        .collect();
    let (first, rest) = names.split_at(LOOKUPS_MAX);
    for (link, name) in (0..).zip(first) {
        stage.ask(link, name);
    }
    // One that hangs holds up none of the others.
    assert_eq!(stage.begun(LOOKUPS_MAX).len(), LOOKUPS_MAX);
    for (link, name) in (100..).zip(rest) {
        stage.ask(link, name);
    }
    assert_eq!(stage.waiting(), LOOKUPS_WAITING_MAX);
    assert!(stage.begun.is_empty());
    let refused = stage.resolver.ask(LinkId(999), "more:1");
    assert!(matches!(refused, Err(Refused::Full)), "{refused:?}");
    // What is asked for already needs no place.
    stage.ask(999, "host000:2");
    stage.ask(998, "host100:1");
    // Where one ends, the next begins.
    stage.go_on.send(Ok(vec![addr(1, 0)])).unwrap();
    assert_eq!(stage.begun(1), ["host008"]);
    stage.ask(999, "more:1");
    stage.resolver.end();
}

#[test]
fn who_asks_for_one_name_shares_its_lookup() {
    let stage = Stage::new();
    stage.ask(1, "host:1");
    stage.ask(2, "host:2");
    stage.ask(2, "host:2");
    stage.ask(3, "host:3");
    stage.resolver.forget(LinkId(3), "host:3");
    assert_eq!(stage.begun(1), ["host"]);
    stage.go_on.send(Ok(vec![addr(1, 0), addr(2, 0)])).unwrap();
    let mut answers: Vec<_> = stage.answers.iter().take(2).collect();
    answers.sort_by_key(|(link, _)| *link);
    let both = |port| Ok(vec![addr(1, port), addr(2, port)]);
    assert_eq!(answers, [(LinkId(1), both(1)), (LinkId(2), both(2))]);
    // The thread ends, and the next name begins another one.
    stage.wait_for_no_threads();
    stage.ask(1, "host:1");
    assert_eq!(stage.begun(1), ["host"]);
    stage.go_on.send(Err("no".to_owned())).unwrap();
    assert_eq!(stage.answers.recv().unwrap().1, Err("no".to_owned()));
    stage.wait_for_no_threads();
    assert!(stage.answers.is_empty() && stage.begun.is_empty());
    assert!(stage.resolver.pool.lock().askers.is_empty());
}

#[test]
fn a_name_that_is_not_wanted_any_more_is_not_looked_up() {
    let stage = Stage::new();
    for link in 0..8 {
        stage.ask(link, &format!("busy{link}:1"));
    }
    stage.begun(LOOKUPS_MAX);
    stage.ask(10, "one:1");
    stage.ask(11, "two:1");
    stage.ask(12, "two:2");
    stage.resolver.forget(LinkId(10), "one:1");
    stage.resolver.forget(LinkId(11), "two:1");
    stage.resolver.forget(LinkId(11), "unknown:1");
    assert_eq!(stage.waiting(), 1);
    stage.go_on.send(Ok(Vec::new())).unwrap();
    assert_eq!(stage.begun(1), ["two"]);
}

#[test]
fn after_the_end_no_lookup_begins_and_none_is_answered() {
    let stage = Stage::new();
    for link in 0..20 {
        stage.ask(link, &format!("host{link}:1"));
    }
    stage.begun(LOOKUPS_MAX);
    // Does not wait for those that have begun.
    stage.resolver.end();
    let refused = stage.resolver.ask(LinkId(1), "late:1");
    assert!(matches!(refused, Err(Refused::Ended)), "{refused:?}");
    for _ in 0..LOOKUPS_MAX {
        stage.go_on.send(Ok(vec![addr(1, 0)])).unwrap();
    }
    stage.wait_for_no_threads();
    assert!(stage.begun.is_empty());
    assert!(stage.answers.is_empty());
}

#[test]
fn without_a_thread_the_question_is_taken_back() {
    let stage = Stage::new();
    let pool = &stage.resolver.pool;
    assert!(pool.enqueue(LinkId(1), "host", 1).unwrap());
    assert_eq!(pool.do_without("host"), Err(()));
    assert!(pool.lock().askers.is_empty() && pool.lock().waiting.is_empty());
    // With another thread there it waits for that.
    stage.ask(1, "host:1");
    stage.begun(1);
    assert!(pool.enqueue(LinkId(2), "other", 1).unwrap());
    assert_eq!(pool.do_without("other"), Ok(()));
    stage.go_on.send(Ok(Vec::new())).unwrap();
    assert_eq!(stage.begun(1), ["other"]);
}

#[test]
fn a_name_that_is_none_is_said_to_be() {
    assert!(ask_system("name.invalid").is_err());
    assert!(ask_system("localhost").is_ok_and(|addrs| !addrs.is_empty()));
}
