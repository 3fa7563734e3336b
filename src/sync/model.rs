//! What a model has in place of the standard library's parking, and of the channels between our
//! threads.

use std::{
    ops::{Deref, DerefMut},
    sync::{self, LockResult, TryLockError, TryLockResult},
};

use loom::sync::Condvar;

use atomic::{AtomicBool, Ordering};

/// Runs a model through everything, or up to so many preemptions where that is too much.
pub(crate) fn explore(preemptions: Option<usize>, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(preemptions);
    // A sum over all requests takes 64 locks, one after the other.
    builder.max_branches = 10_000;
    builder.check(model);
}

/// What a thread sleeps for: as an `eventfd`, it remembers that somebody rang, once.
#[derive(Default)]
pub(crate) struct Bell {
    rung: loom::sync::Mutex<bool>,
    heard: Condvar,
}

impl Bell {
    pub(crate) fn ring(&self) {
        *self.rung.lock().unwrap() = true;
        self.heard.notify_one();
    }

    pub(crate) fn wait(&self) {
        let mut rung = self.rung.lock().unwrap();
        while !*rung {
            rung = self.heard.wait(rung).unwrap();
        }
        *rung = false;
    }
}

/// A mutex that can be found taken: loom's own makes whoever only tries wait for its holder.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T> {
    /// No model looks in here: whoever has set `taken` finds it free.
    value: sync::Mutex<T>,
    taken: AtomicBool,
    /// Where those who wait for it do that.
    gate: loom::sync::Mutex<()>,
    freed: Condvar,
}

#[derive(Debug)]
pub(crate) struct MutexGuard<'a, T> {
    /// `None` while it is dropped.
    value: Option<sync::MutexGuard<'a, T>>,
    mutex: &'a Mutex<T>,
}

impl<T> Mutex<T> {
    pub(crate) fn new(value: T) -> Self {
        Self {
            value: sync::Mutex::new(value),
            taken: AtomicBool::new(false),
            gate: loom::sync::Mutex::default(),
            freed: Condvar::new(),
        }
    }

    pub(crate) fn lock(&self) -> LockResult<MutexGuard<'_, T>> {
        let mut gate = self.gate.lock().unwrap();
        loop {
            match self.try_lock() {
                Ok(guard) => return Ok(guard),
                Err(_) => gate = self.freed.wait(gate).unwrap(),
            }
        }
    }

    pub(crate) fn try_lock(&self) -> TryLockResult<MutexGuard<'_, T>> {
        let (from, to) = (false, true);
        self.taken
            .compare_exchange(from, to, Ordering::AcqRel, Ordering::Acquire)
            .map_err(|_| TryLockError::WouldBlock)?;
        let value = self.value.try_lock().ok();
        assert!(value.is_some(), "one thread at a time");
        let mutex = self;
        Ok(MutexGuard { value, mutex })
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.value.as_ref().expect("it is not dropped yet")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.value.as_mut().expect("it is not dropped yet")
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        self.value = None;
        self.mutex.taken.swap(false, Ordering::AcqRel);
        let _gate = self.mutex.gate.lock().unwrap();
        self.mutex.freed.notify_all();
    }
}

pub(crate) mod atomic {
    pub(crate) use loom::sync::atomic::{
        AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering, fence,
    };

    /// A flag whose stores are swaps. Loom does not know that nothing comes between what a swap
    /// read and what it wrote; where others store, it goes on to show what no machine does.
    #[derive(Debug, Default)]
    pub(crate) struct AtomicBool(loom::sync::atomic::AtomicBool);

    impl AtomicBool {
        pub(crate) fn new(value: bool) -> Self {
            Self(loom::sync::atomic::AtomicBool::new(value))
        }

        pub(crate) fn load(&self, order: Ordering) -> bool {
            self.0.load(order)
        }

        pub(crate) fn store(&self, value: bool, order: Ordering) {
            self.0.swap(value, order);
        }

        pub(crate) fn swap(&self, value: bool, order: Ordering) -> bool {
            self.0.swap(value, order)
        }

        pub(crate) fn compare_exchange(
            &self,
            from: bool,
            to: bool,
            success: Ordering,
            failure: Ordering,
        ) -> Result<bool, bool> {
            self.0.compare_exchange(from, to, success, failure)
        }
    }
}

/// Parking without a timeout: whoever is not unparked never wakes, and the model says so.
pub(crate) mod thread {
    use std::time::Duration;

    pub(crate) use loom::thread::{Thread, ThreadId, current, park};

    pub(crate) fn park_timeout(_timeout: Duration) {
        park();
    }
}

/// Channels that order no more than they have to: an item is ordered behind its sending, and a look
/// at whether there is one may see what was.
pub(crate) mod channel {
    use std::{
        collections::VecDeque,
        fmt,
        sync::{self, Arc, PoisonError},
    };

    pub(crate) use crossbeam_channel::{RecvError, RecvTimeoutError, TryRecvError, TrySendError};
    use loom::sync::atomic::{AtomicUsize, Ordering, fence};

    struct Shared<T> {
        /// No model looks in here: what is in it is what `len` says.
        items: sync::Mutex<VecDeque<T>>,
        len: AtomicUsize,
        capacity: usize,
    }

    pub(crate) struct Sender<T>(Arc<Shared<T>>);

    pub(crate) struct Receiver<T>(Arc<Shared<T>>);

    pub(crate) fn bounded<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
        let shared = Arc::new(Shared {
            items: sync::Mutex::default(),
            len: AtomicUsize::new(0),
            capacity,
        });
        (Sender(Arc::clone(&shared)), Receiver(shared))
    }

    /// As many places as anybody asks for.
    pub(crate) fn counted<T>() -> (Sender<T>, Receiver<T>) {
        bounded(usize::MAX)
    }

    impl<T> Shared<T> {
        fn items(&self) -> sync::MutexGuard<'_, VecDeque<T>> {
            self.items.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    impl<T> Sender<T> {
        pub(crate) fn try_send(&self, item: T) -> Result<(), TrySendError<T>> {
            let one_more = |len: usize| (len < self.0.capacity).then_some(len + 1);
            let order = (Ordering::AcqRel, Ordering::Acquire);
            let len = &self.0.len;
            let raised = len.fetch_update(order.0, order.1, one_more).or_else(|_| {
                // As crossbeam's, which looks again behind a fence before it says that it is full.
                fence(Ordering::SeqCst);
                len.fetch_update(order.0, order.1, one_more)
            });
            match raised {
                Ok(_) => self.0.items().push_back(item),
                Err(_) => return Err(TrySendError::Full(item)),
            }
            Ok(())
        }

        pub(crate) fn is_empty(&self) -> bool {
            self.len() == 0
        }

        pub(crate) fn len(&self) -> usize {
            self.0.len.load(Ordering::Acquire)
        }
    }

    impl<T> Receiver<T> {
        pub(crate) fn try_recv(&self) -> Result<T, TryRecvError> {
            let one_less = |len: usize| len.checked_sub(1);
            let order = (Ordering::AcqRel, Ordering::Acquire);
            match self.0.len.fetch_update(order.0, order.1, one_less) {
                Ok(_) => Ok(self.0.items().pop_front().expect("it was counted")),
                Err(_) => Err(TryRecvError::Empty),
            }
        }

        pub(crate) fn try_iter(&self) -> impl Iterator<Item = T> + '_ {
            std::iter::from_fn(|| self.try_recv().ok())
        }

        pub(crate) fn is_empty(&self) -> bool {
            self.len() == 0
        }

        pub(crate) fn len(&self) -> usize {
            self.0.len.load(Ordering::Acquire)
        }
    }

    impl<T> Clone for Sender<T> {
        fn clone(&self) -> Self {
            Self(Arc::clone(&self.0))
        }
    }

    impl<T> Clone for Receiver<T> {
        fn clone(&self) -> Self {
            Self(Arc::clone(&self.0))
        }
    }

    impl<T> fmt::Debug for Sender<T> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Sender")
        }
    }

    impl<T> fmt::Debug for Receiver<T> {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("Receiver")
        }
    }
}
