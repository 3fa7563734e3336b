//! What is compared: one file for each family, one [`Kind`] for each way to use it.
//!
//! Every kind accepts nebnet frames, hands each message to one subscriber thread over bounded
//! queues without loss, and the subscriber reads the number in each. The two limits have no
//! subscriber: the reading thread itself counts.

mod limit;
mod nebnet;
mod tokio;

use crate::load::Tally;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

/// Messages that wait for a subscriber at most, in every kind.
const QUEUE_MESSAGES: usize = 65_536;
/// Bytes that wait for a subscriber at most, in every kind.
const QUEUE_BYTES: usize = 16 << 20;

/// One way to serve.
#[derive(Debug)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    /// False where only bytes are counted.
    pub(crate) reads_numbers: bool,
    pub(crate) start: fn(&Order) -> Server,
}

pub(crate) static KINDS: [Kind; 6] = [
    nebnet::THREAD,
    nebnet::INLINE,
    tokio::BATCH,
    tokio::MESSAGE,
    limit::WALK,
    limit::READ,
];

pub(crate) fn find(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}

/// What a server is told before it starts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    pub(crate) frame_size: usize,
    pub(crate) queue_messages: usize,
    pub(crate) queue_bytes: usize,
}

impl Order {
    pub(crate) fn new(frame_size: usize) -> Self {
        let queue_messages = QUEUE_MESSAGES.min(QUEUE_BYTES / frame_size);
        Self {
            frame_size,
            queue_messages,
            queue_bytes: QUEUE_BYTES,
        }
    }
}

/// A running server; dropping it stops it and joins its threads.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    pub(crate) tally: Arc<Tally>,
    stop: Option<Box<dyn FnOnce()>>,
}

impl Server {
    fn new(addr: SocketAddr, tally: Arc<Tally>, stop: impl FnOnce() + 'static) -> Self {
        Self {
            addr,
            tally,
            stop: Some(Box::new(stop)),
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("addr", &self.addr)
            .finish_non_exhaustive()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            stop();
        }
    }
}
