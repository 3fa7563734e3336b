//! Models of what threads that ask, look up and end agree on; see `src/tests/models.rs`.

use loom::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use super::*;
use crate::sync::model::explore;

/// A pool that counts what it looks up and answers.
struct Counted {
    pool: Arc<Pool>,
    found: Arc<AtomicUsize>,
    answered: Arc<AtomicUsize>,
}

impl Counted {
    fn new() -> Self {
        let (found, answered) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let (finds, answers) = (Arc::clone(&found), Arc::clone(&answered));
        let pool = Pool {
            queue: Mutex::new(Queue::default()),
            find: Box::new(move |_| {
                finds.fetch_add(1, Ordering::Relaxed);
                Ok(Vec::new())
            }),
            answer: Box::new(move |_, _| {
                answers.fetch_add(1, Ordering::Relaxed);
            }),
        };
        Self {
            pool: Arc::new(pool),
            found,
            answered,
        }
    }

    /// A thread that asks, and does what a thread of lookups does if one is needed.
    fn asks(&self, link: u64, host: &'static str) -> thread::JoinHandle<()> {
        let pool = Arc::clone(&self.pool);
        thread::spawn(move || {
            if let Ok(true) = pool.enqueue(LinkId(link), host, 1) {
                pool.work();
            }
        })
    }

    fn check_idle(&self) {
        let queue = self.pool.lock();
        assert_eq!(queue.threads, 0);
        assert!(queue.waiting.is_empty() && queue.askers.is_empty());
    }
}

#[test]
fn every_question_is_answered_once() {
    explore(Some(3), || {
        let counted = Counted::new();
        let other = counted.asks(1, "one");
        for (link, host) in [(2, "one"), (3, "two")] {
            if counted.pool.enqueue(LinkId(link), host, 1).unwrap() {
                counted.pool.work();
            }
        }
        other.join().unwrap();
        assert_eq!(counted.answered.load(Ordering::Relaxed), 3);
        assert!(counted.found.load(Ordering::Relaxed) <= 3);
        counted.check_idle();
    });
}

#[test]
fn after_the_end_nothing_begins() {
    explore(Some(3), || {
        let counted = Counted::new();
        let one = counted.asks(1, "one");
        let resolver = Resolver {
            pool: Arc::clone(&counted.pool),
        };
        resolver.end();
        assert!(counted.pool.lock().waiting.is_empty());
        assert!(counted.pool.enqueue(LinkId(3), "late", 1).is_err());
        one.join().unwrap();
        counted.check_idle();
    });
}
