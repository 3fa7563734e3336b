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
