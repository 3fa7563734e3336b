//! What threads meet in: the standard library's atomics, fences, mutexes and parking, and channels.
//!
//! Under `cfg(nebnet_loom)` tests get other ones of the same names, which go through every order
//! of steps that the memory model allows (`src/tests/models.rs`). Only modules whose protocol has a
//! model take them from here; what merely counts takes the standard library's.

#[cfg(all(test, nebnet_loom))]
pub(crate) mod model;

#[cfg(not(all(test, nebnet_loom)))]
pub(crate) use std::{
    sync::{Mutex, MutexGuard, atomic},
    thread,
};

#[cfg(not(all(test, nebnet_loom)))]
pub(crate) use crossbeam_channel as channel;

#[cfg(all(test, nebnet_loom))]
pub(crate) use model::{Mutex, MutexGuard, atomic, channel, thread};

#[cfg(all(test, nebnet_loom))]
pub(crate) use model::channel::counted;

/// A channel that costs what is in it, in pieces of 31 items. It has no bound of its own: the
/// thread that puts an item in has taken room for it in a count, which is what bounds it, and
/// whoever takes the item out gives that room back.
#[cfg(not(all(test, nebnet_loom)))]
pub(crate) fn counted<T>() -> (channel::Sender<T>, channel::Receiver<T>) {
    counted_unmodelled()
}

/// The same, which models do not look into.
#[expect(
    clippy::disallowed_methods,
    reason = "bounded by a count that its users keep; a bound of its own would cost memory and \
              cache misses from the start, for places that are hardly ever used"
)]
pub(crate) fn counted_unmodelled<T>()
-> (crossbeam_channel::Sender<T>, crossbeam_channel::Receiver<T>) {
    crossbeam_channel::unbounded()
}
