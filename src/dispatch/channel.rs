//! A channel whose receiver sleeps at once when it is to sleep, and that costs what is in it.
//!
//! The channels of crossbeam look again for about ten microseconds, and give their core away eight
//! times meanwhile, before a receiver sleeps. Whether that pays is for
//! [`Idle`](crate::idle::Idle) to decide; where it had decided against it, that was up to a quarter
//! of the machine's time for nothing. So a receiver here parks its thread itself: it declares that
//! it sleeps, looks once more, and parks; a sender leaves its item and then looks whether somebody
//! sleeps, as with [`Doorbell`](crate::doorbell::Doorbell).
//!
//! The channel inside is crossbeam's, and a wait for it there (`select!`) is woken by it. It
//! has no places of its own: an array of them would cost its whole bound at the start, and all of
//! it would go through the cache, however little is in it. The bound is a count that the owner of
//! the channel keeps ([`QueueFill`](super::fill::QueueFill), `QueueBounds`), so every item that is
//! put in has room.

use std::{
    fmt,
    sync::{Arc, PoisonError},
    time::Duration,
};

use crate::{
    clock::Clock,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering, fence},
        channel::{self, RecvError, RecvTimeoutError, TryRecvError, TrySendError},
        counted,
        thread::{self, Thread},
    },
};

/// A channel of items that were counted against a bound before they are put in.
pub(crate) fn queue<T>() -> (Sender<T>, Receiver<T>) {
    let (sender, receiver) = counted();
    let sleeper = Arc::new(Sleeper::default());
    let sender = Sender {
        items: sender,
        waker: Waker::new(Arc::clone(&sleeper)),
    };
    let receiver = Receiver {
        items: receiver,
        sleeper,
        thread: None,
    };
    (sender, receiver)
}

/// The end that items are put into. The receiver is woken when the last one is dropped.
pub(crate) struct Sender<T> {
    items: channel::Sender<T>,
    /// Behind the items, and so dropped after them: whoever the last one wakes finds the end.
    waker: Waker,
}

/// The end that items are taken from.
pub(crate) struct Receiver<T> {
    items: channel::Receiver<T>,
    sleeper: Arc<Sleeper>,
    /// Who was registered last as the one to wake.
    thread: Option<thread::ThreadId>,
}

/// A thread that may be asleep.
#[derive(Default)]
struct Sleeper {
    /// True from the moment it has declared its sleep until somebody woke it or it did itself.
    sleeping: AtomicBool,
    thread: Mutex<Option<Thread>>,
    wakers: AtomicUsize,
}

/// Wakes the receiver, also when the last one is dropped. The others are dropped in silence: the
/// fan-out makes and drops one for each subscriber whenever the list of them changes.
struct Waker(Arc<Sleeper>);

impl Sleeper {
    /// To be called after an item is where the sleeper will look for it.
    #[inline]
    fn wake(&self) {
        // Pairs with the fence in `declare_sleep`: either we see that it sleeps, or it sees the
        // item.
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) {
            self.unpark();
        }
    }

    #[cold]
    fn unpark(&self) {
        if self.sleeping.swap(false, Ordering::AcqRel) {
            // Not under the lock: whoever is woken may take this core at once, sleep again, and
            // leave the next one who wakes it waiting for the lock.
            let thread = self.thread().clone();
            if let Some(thread) = thread {
                thread.unpark();
            }
        }
    }

    fn register(&self, new: Thread) {
        let old = self.thread().replace(new);
        drop(old);
    }

    fn thread(&self) -> MutexGuard<'_, Option<Thread>> {
        self.thread.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn declare_sleep(&self) {
        self.sleeping.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
    }

    fn awake(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }
}

impl Waker {
    fn new(sleeper: Arc<Sleeper>) -> Self {
        sleeper.wakers.fetch_add(1, Ordering::Relaxed);
        Self(sleeper)
    }
}

impl Drop for Waker {
    fn drop(&mut self) {
        // The items of all others were dropped before this, and whoever is woken sees that.
        if self.0.wakers.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.wake();
        }
    }
}

impl<T> Sender<T> {
    /// Puts an item in; the receiver may sleep on until [`wake`](Self::wake) is called.
    #[inline]
    pub(crate) fn put(&self, item: T) -> Result<(), TrySendError<T>> {
        self.items.try_send(item)
    }

    /// Wakes the receiver, if it sleeps.
    #[inline]
    pub(crate) fn wake(&self) {
        self.waker.0.wake();
    }

    #[inline]
    pub(crate) fn try_send(&self, item: T) -> Result<(), TrySendError<T>> {
        self.put(item)?;
        self.wake();
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }
}

impl<T> Receiver<T> {
    /// The channel inside.
    pub(crate) fn items(&self) -> &channel::Receiver<T> {
        &self.items
    }

    #[inline]
    pub(crate) fn try_recv(&self) -> Result<T, TryRecvError> {
        self.items.try_recv()
    }

    /// Sleeps until there is an item, or none will come.
    pub(crate) fn recv(&mut self) -> Result<T, RecvError> {
        loop {
            match self.recv_or_park(thread::park) {
                Ok(item) => return Ok(item),
                Err(TryRecvError::Disconnected) => return Err(RecvError),
                Err(TryRecvError::Empty) => {}
            }
        }
    }

    /// As [`recv`](Self::recv), for no longer than `timeout`.
    pub(crate) fn recv_timeout(
        &mut self,
        clock: Clock,
        timeout: Duration,
    ) -> Result<T, RecvTimeoutError> {
        let start = clock.now().instant;
        let mut left = timeout;
        loop {
            let park = || {
                if !left.is_zero() {
                    thread::park_timeout(left);
                }
            };
            match self.recv_or_park(park) {
                Ok(item) => return Ok(item),
                Err(TryRecvError::Disconnected) => return Err(RecvTimeoutError::Disconnected),
                Err(TryRecvError::Empty) if left.is_zero() => {
                    return Err(RecvTimeoutError::Timeout);
                }
                Err(TryRecvError::Empty) => {}
            }
            let waited = clock.now().instant.saturating_duration_since(start);
            left = timeout.saturating_sub(waited);
        }
    }

    /// The next item; if there is none, parks once, and says so.
    fn recv_or_park(&mut self, park: impl FnOnce()) -> Result<T, TryRecvError> {
        let current = thread::current();
        if self.thread != Some(current.id()) {
            self.thread = Some(current.id());
            self.sleeper.register(current);
        }
        self.sleeper.declare_sleep();
        let found = self.items.try_recv();
        if let Err(TryRecvError::Empty) = found {
            park();
        }
        self.sleeper.awake();
        found
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self {
            items: self.items.clone(),
            waker: Waker::new(Arc::clone(&self.waker.0)),
        }
    }
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.items.fmt(f)
    }
}

impl<T> fmt::Debug for Receiver<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.items.fmt(f)
    }
}

/// For tests of who is woken when.
#[cfg(test)]
impl<T> Receiver<T> {
    /// Announces a sleep, as a thread that is about to park.
    pub(crate) fn fall_asleep(&self) {
        self.sleeper.declare_sleep();
    }

    pub(crate) fn is_asleep(&self) -> bool {
        self.sleeper.sleeping.load(Ordering::Relaxed)
    }
}

#[cfg(all(test, not(nebnet_loom)))]
mod tests {
    use super::*;

    fn spawn<T: Send + 'static>(
        work: impl FnOnce() -> T + Send + 'static,
    ) -> thread::JoinHandle<T> {
        let builder = thread::Builder::new().name("sleeper".to_owned());
        builder.spawn(work).expect("a thread starts")
    }

    #[test]
    fn a_receiver_that_sleeps_is_woken_by_every_item() {
        let (sender, mut receiver) = queue();
        let (answer, answers) = channel::bounded(1);
        let sleeper = spawn(move || {
            while let Ok(number) = receiver.recv() {
                answer.send(number).unwrap();
            }
        });
        for number in 0..2_000 {
            sender.try_send(number).unwrap();
            assert_eq!(answers.recv(), Ok(number));
        }
        drop(sender);
        sleeper.join().unwrap();
    }

    #[test]
    fn what_was_put_is_there_for_whoever_looks() {
        let (sender, mut receiver) = queue();
        assert_eq!(sender.put(1), Ok(()));
        assert_eq!(receiver.recv(), Ok(1));
        assert_eq!(sender.put(2), Ok(()));
        assert_eq!(receiver.try_recv(), Ok(2));
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
    }

    #[test]
    fn the_last_sender_wakes_and_what_was_left_is_taken() {
        let (sender, mut receiver) = queue();
        let other = sender.clone();
        let sleeper = spawn(move || (receiver.recv(), receiver.recv()));
        other.put(7).unwrap();
        drop(other);
        drop(sender);
        assert_eq!(sleeper.join().unwrap(), (Ok(7), Err(RecvError)));
    }

    #[test]
    fn a_sender_among_others_is_dropped_in_silence() {
        let (sender, receiver) = queue::<u8>();
        let other = sender.clone();
        receiver.fall_asleep();
        drop(sender);
        assert!(receiver.is_asleep());
        drop(other.clone());
        assert!(receiver.is_asleep());
        drop(other);
        assert!(!receiver.is_asleep());
    }

    #[test]
    fn a_timeout_is_never_early() {
        let clock = Clock::start();
        let (sender, mut receiver) = queue();
        let timeout = Duration::from_millis(20);
        let start = clock.now().instant;
        // What is left of an older wake must not end the wait.
        thread::current().unpark();
        let result = receiver.recv_timeout(clock, timeout);
        assert_eq!(result, Err(RecvTimeoutError::Timeout));
        assert!(clock.now().instant.duration_since(start) >= timeout);
        sender.put(1).unwrap();
        assert_eq!(receiver.recv_timeout(clock, Duration::ZERO), Ok(1));
        assert_eq!(
            receiver.recv_timeout(clock, Duration::ZERO),
            Err(RecvTimeoutError::Timeout)
        );
        drop(sender);
        let result = receiver.recv_timeout(clock, Duration::MAX);
        assert_eq!(result, Err(RecvTimeoutError::Disconnected));
    }
}
