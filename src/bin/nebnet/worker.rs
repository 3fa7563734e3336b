//! The threads of `serve` that take messages or events: echo, print, relay, tap, links.
//!
//! A worker runs until its subscription ends, which is after the service stopped and everything
//! queued was taken. How it ended is told on a channel, also if it panicked.

use std::{
    any::Any,
    panic::{self, AssertUnwindSafe},
    thread,
};

use crossbeam_channel::Sender;

use crate::failure::Failure;

/// How a worker ended.
#[derive(Debug)]
pub(crate) struct Ending {
    pub(crate) name: &'static str,
    pub(crate) result: Result<Summary, WorkerError>,
}

/// What a worker did, for the stop report.
pub(crate) type Summary = String;

/// Why a worker ended before the service did.
#[derive(Debug)]
pub(crate) enum WorkerError {
    /// Whoever read standard output is gone, so there is nothing left to do.
    OutputClosed,
    /// The work cannot go on.
    Failed(String),
}

/// Starts a worker on a thread of its own. `endings` has room for every worker.
pub(crate) fn start(
    name: &'static str,
    endings: &Sender<Ending>,
    work: impl FnOnce() -> Result<Summary, WorkerError> + Send + 'static,
) -> Result<(), Failure> {
    let endings = endings.clone();
    thread::Builder::new()
        .name(format!("nebnet-{name}"))
        .spawn(move || {
            // What the closure held is dropped on the way, so nothing is seen half-changed.
            let result = panic::catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
                let message = panic_message(&*panic);
                Err(WorkerError::Failed(format!(
                    "thread nebnet-{name} panicked: {message}"
                )))
            });
            // Nobody listens any more if the program is past its deadline.
            let _ = endings.try_send(Ending { name, result });
        })
        .map(drop)
        .map_err(|error| Failure::new(format!("cannot start a thread: {error}")))
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
