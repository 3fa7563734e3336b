//! What `serve` does without `--echo` and `--print`: takes every message and discards it.

use nebnet::Subscription;

use crate::worker::{Summary, WorkerError};

pub(crate) fn run(mut messages: Subscription) -> Result<Summary, WorkerError> {
    let mut count: u64 = 0;
    while let Ok(batch) = messages.recv_batch() {
        count += batch.len() as u64;
    }
    Ok(format!("{count} messages discarded"))
}
