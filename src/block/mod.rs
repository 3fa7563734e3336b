//! Received bytes on their way to subscribers.
//!
//! A [`Block`] holds the whole frames of one read from one peer. It is shared by reference count:
//! one for the way to the dispatcher, one per delivery to a subscriber, none per message. When the
//! last reference goes, the peer gets its credit back and the service's budget the bytes; the
//! storage then waits in the loop's pool for the next read.
//!
//! Reads go into a block of 64 KiB, or several of them where a peer sends in bulk. What they bring
//! is copied into storage of the next smaller class if it fits one, so that a message of ten bytes
//! that a subscriber keeps does not pin 64 KiB; a larger read gives the block away as it is. There
//! is no index of all frames: a walk over headers that were judged once is as fast as reading an
//! index, and nothing has to be written for it. Where all headers are the same, a walk need not
//! read them.

mod frames;
mod message;
mod pool;

use std::{fmt, sync::Arc, time::Instant};

pub use self::message::{Message, MessageRef};
pub(crate) use self::{
    frames::BlockFrames,
    pool::{BlockPool, VectoredBuffers},
};
use crate::{
    frame::WholeFrames,
    id::{MessageType, PeerId},
    ledger::Traffic,
    slots::Slots,
    sync::atomic::{AtomicU32, Ordering},
};

/// The whole frames of one read.
pub(crate) struct Block {
    /// [`BlockRef`]s that exist; the pool's own reference is not among them.
    holders: AtomicU32,
    /// Bytes besides its own that are charged to the budget as long as it is held.
    charge_noted: AtomicU32,
    bytes: Vec<u8>,
    /// Where in it the frames begin.
    start: usize,
    head: BlockHead,
    slots: Arc<Slots>,
}

/// What is known of a block's frames without looking at them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BlockHead {
    pub(crate) peer: PeerId,
    pub(crate) received: Instant,
    /// Application frames.
    pub(crate) frames: u32,
    /// The type of all application frames, if they share one.
    pub(crate) message_type: Option<MessageType>,
    /// Whether frames of the protocol lie between them.
    pub(crate) has_protocol: bool,
    /// Whether any application frame has a correlation number.
    pub(crate) has_correlation: bool,
    /// The size of all frames, if they are of one type, as long as each other, and plain: with
    /// neither correlation number nor checksum. A walk then need not look at their headers.
    pub(crate) frame_size: Option<usize>,
    /// What the peer's credit gets back.
    pub(crate) credit: Traffic,
}

impl BlockHead {
    /// What messages know of a read whose bytes are not in a block yet.
    pub(crate) fn of_read(peer: PeerId, received: Instant) -> Self {
        Self {
            peer,
            received,
            frames: 0,
            message_type: None,
            has_protocol: false,
            has_correlation: false,
            frame_size: None,
            credit: Traffic::default(),
        }
    }
}

/// One of the references that keep a block from being used again.
pub(crate) struct BlockRef(Arc<Block>);

impl BlockRef {
    fn new(block: Arc<Block>) -> Self {
        block.holders.fetch_add(1, Ordering::Relaxed);
        Self(block)
    }

    pub(crate) fn head(&self) -> &BlockHead {
        &self.0.head
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0.bytes[self.0.start..]
    }

    /// Bytes of memory that the block keeps in use.
    pub(crate) fn charge(&self) -> usize {
        self.0.charge()
    }

    /// Has bytes that were charged to the budget given back together with the block's own. To be
    /// called by the dispatcher alone, once for a block.
    pub(crate) fn note_charge(&self, bytes: u32) {
        self.0.charge_noted.store(bytes, Ordering::Relaxed);
    }

    /// The application's messages and their bytes; where frames of the protocol lie between them,
    /// at the price of a walk.
    pub(crate) fn traffic(&self) -> Traffic {
        let mut bytes = self.bytes().len();
        if self.head().has_protocol {
            let mut frames = WholeFrames::new(self.bytes());
            let sizes = std::iter::from_fn(|| frames.next_header());
            let own = sizes.filter(|(header, _)| !header.message_type.is_protocol());
            bytes = own.map(|(_, size)| size).sum();
        }
        Traffic::new(u64::from(self.head().frames), bytes as u64)
    }
}

impl Clone for BlockRef {
    fn clone(&self) -> Self {
        Self::new(Arc::clone(&self.0))
    }
}

impl Drop for BlockRef {
    fn drop(&mut self) {
        // Release, so that the next use of the storage comes after our last look at it.
        if self.0.holders.fetch_sub(1, Ordering::AcqRel) == 1 {
            let block = &*self.0;
            let charge = block.charge() + block.charge_noted.load(Ordering::Relaxed) as usize;
            block
                .slots
                .release(block.head.peer, block.head.credit, charge);
        }
    }
}

impl fmt::Debug for BlockRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockRef")
            .field("head", &self.0.head)
            .field("bytes", &self.bytes().len())
            .finish_non_exhaustive()
    }
}

impl Block {
    fn charge(&self) -> usize {
        self.bytes.capacity()
    }

    fn is_free(&self) -> bool {
        self.holders.load(Ordering::Acquire) == 0
    }
}
