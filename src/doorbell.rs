//! Wakes the loop, and only when it sleeps.
//!
//! A wake is a system call of about five microseconds, so it is left out while the loop is awake:
//! the loop looks at its queues before it sleeps anyway. Many rings in one sleep are one wake.
//!
//! The promise is the one of Dekker's algorithm: the ringer first puts its work into a queue and
//! then looks whether the loop sleeps; the loop first says that it is about to sleep and then looks
//! at the queues. Both put a sequentially consistent fence between the two steps, so at least one
//! of them sees the other's.

use std::{fmt, sync::OnceLock};

use crate::sync::atomic::{AtomicBool, Ordering, fence};

/// Shared by the loop, which sleeps, and by everybody who has work for it.
#[derive(Default)]
pub(crate) struct Doorbell {
    /// True from the moment the loop has declared its sleep until another thread rang or it woke.
    sleeping: AtomicBool,
    bell: OnceLock<Box<dyn Fn() + Send + Sync>>,
}

impl Doorbell {
    /// Sets what wakes the loop; until then a ring does nothing, and nobody is asleep. Only the
    /// first call counts.
    pub(crate) fn set_bell(&self, bell: impl Fn() + Send + Sync + 'static) {
        let _ = self.bell.set(Box::new(bell));
    }

    /// To be called after the work is where the loop will look for it.
    pub(crate) fn ring(&self) {
        fence(Ordering::SeqCst);
        if self.sleeping.load(Ordering::Relaxed) && self.sleeping.swap(false, Ordering::AcqRel) {
            if let Some(bell) = self.bell.get() {
                bell();
            }
        }
    }

    /// The loop declares that it will sleep. It has to look at its queues after this and before
    /// it sleeps, and to call [`awake`](Self::awake) in any case.
    pub(crate) fn prepare_sleep(&self) {
        self.sleeping.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    pub(crate) fn awake(&self) {
        self.sleeping.store(false, Ordering::Relaxed);
    }
}

impl fmt::Debug for Doorbell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Doorbell")
            .field("sleeping", &self.sleeping)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, atomic::AtomicUsize};

    use super::*;

    #[test]
    fn rings_only_who_sleeps_and_only_once() {
        let wakes = Arc::new(AtomicUsize::new(0));
        let doorbell = Doorbell::default();
        doorbell.set_bell({
            let wakes = Arc::clone(&wakes);
            move || {
                wakes.fetch_add(1, Ordering::Relaxed);
            }
        });
        doorbell.ring();
        assert_eq!(wakes.load(Ordering::Relaxed), 0);
        doorbell.prepare_sleep();
        doorbell.ring();
        doorbell.ring();
        assert_eq!(wakes.load(Ordering::Relaxed), 1);
        doorbell.prepare_sleep();
        doorbell.awake();
        doorbell.ring();
        assert_eq!(wakes.load(Ordering::Relaxed), 1);
    }
}
