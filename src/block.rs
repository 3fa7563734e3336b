//! Received bytes on their way to subscribers.
//!
//! A [`Block`] holds the whole frames of one read from one peer. It is shared by reference count:
//! one for the way to the dispatcher, one per delivery to a subscriber, none per message. When the
//! last reference goes, the peer gets its credit back and the service's budget the bytes; the
//! storage then waits in the loop's pool for the next read.
//!
//! Reads go into a block of 64 KiB, or several of them where a peer sends in bulk. What they bring
//! is copied into storage of the next smaller class if it fits one, so that a message of ten bytes
//! that somebody keeps does not pin 64 KiB; a larger read gives the block away as it is. There is
//! no index of all frames: a walk over headers that were judged once is as fast as reading an
//! index, and nothing has to be written for it. Where all headers are the same, a walk need not
//! read them.

use std::{collections::VecDeque, fmt, hint::black_box, sync::Arc, time::Instant};

use bytes::Bytes;

use crate::{
    frame::{Frame, WholeFrames},
    id::{MessageType, PeerId},
    ledger::Traffic,
    limits::{
        BLOCK_CLASSES, BLOCK_SIZE, BLOCKS_KEPT, BLOCKS_WARM, CARRY_TRUSTED_MAX, LONG_KEPT_BYTES,
        LONG_LOOKS_MAX, MESSAGE_COPIED_MAX, VECTORED_BLOCKS,
    },
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

/// What a vectored read goes into: buffers of one block each, all of their bytes there.
pub(crate) type VectoredBuffers = Box<[Vec<u8>; VECTORED_BLOCKS]>;

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
        // Release, so that whoever uses the storage next comes after our last look at it.
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
}

/// The loop's store of blocks that nobody holds.
///
/// The pool keeps a reference to the blocks that it gave away and finds out by looking whether they
/// came back; so giving one back costs its last holder nothing. The worst memory that it keeps in
/// use without need is the sum of `BLOCKS_KEPT * BLOCK_CLASSES`, about 6.5 MiB, 1.1 MiB to read
/// into next, and `LONG_KEPT_BYTES`, 16 MiB, of long frames.
pub(crate) struct BlockPool {
    slots: Arc<Slots>,
    /// Per class, the longest out first.
    classes: [VecDeque<Arc<Block>>; BLOCK_CLASSES.len()],
    /// Those of frames longer than a block, and their bytes in all.
    long: VecDeque<Arc<Block>>,
    long_bytes: usize,
    /// What the next read goes into. Of those of the second kind all bytes are there.
    spare: Vec<Vec<u8>>,
    cleared: Vec<Vec<u8>>,
    /// What the next vectored read goes into, and whether one has since [`trim`](Self::trim).
    vectored: Option<VectoredBuffers>,
    used_vectored: bool,
}

impl BlockPool {
    pub(crate) fn new(slots: Arc<Slots>) -> Self {
        Self {
            slots,
            classes: Default::default(),
            long: VecDeque::new(),
            long_bytes: 0,
            spare: Vec::new(),
            cleared: Vec::new(),
            vectored: None,
            used_vectored: false,
        }
    }

    /// An empty buffer of one block, to read into.
    pub(crate) fn take_buffer(&mut self) -> Vec<u8> {
        if let Some(buffer) = self.spare.pop() {
            return buffer;
        }
        let reclaimed = self.reclaim_buffer().or_else(|| self.cleared.pop());
        let mut buffer = reclaimed.unwrap_or_else(|| Vec::with_capacity(BLOCK_SIZE));
        buffer.clear();
        buffer
    }

    /// Buffers for a vectored read. Those that it fills become blocks.
    pub(crate) fn take_vectored(&mut self) -> VectoredBuffers {
        let mut buffers = self.vectored.take().unwrap_or_default();
        self.used_vectored = true;
        for buffer in buffers.iter_mut() {
            if buffer.capacity() == 0 {
                let kept = self.cleared.pop().or_else(|| self.reclaim_buffer());
                *buffer = kept.unwrap_or_else(|| vec![0; BLOCK_SIZE]);
            }
            // A block that comes back has its last bytes still, so little of it is cleared.
            buffer.resize(BLOCK_SIZE, 0);
        }
        buffers
    }

    /// Takes back what nothing was made of.
    pub(crate) fn put_vectored(&mut self, buffers: VectoredBuffers) {
        self.vectored = Some(buffers);
    }

    fn reclaim_buffer(&mut self) -> Option<Vec<u8>> {
        self.reclaim(BLOCK_CLASSES.len() - 1).and_then(storage_of)
    }

    /// Whether so many blocks are out that the next large read goes into one that no cache holds.
    pub(crate) fn is_cold(&self) -> bool {
        let line = &self.classes[BLOCK_CLASSES.len() - 1];
        let block = line.get(line.len().wrapping_sub(BLOCKS_WARM));
        block.is_some_and(|block| !is_free(block))
    }

    /// Takes back a buffer that nothing was made of.
    pub(crate) fn put_buffer(&mut self, mut buffer: Vec<u8>) {
        if buffer.capacity() != BLOCK_SIZE {
            return;
        }
        if buffer.len() == BLOCK_SIZE && self.cleared.len() < VECTORED_BLOCKS {
            self.cleared.push(buffer);
        } else if self.spare.len() < 2 {
            buffer.clear();
            self.spare.push(buffer);
        }
    }

    /// Makes a block of `size` bytes of `buffer`, from `start` on: a copy in right-sized storage,
    /// or of the buffer itself, which is then left empty.
    pub(crate) fn make(
        &mut self,
        buffer: &mut Vec<u8>,
        start: usize,
        size: usize,
        head: BlockHead,
    ) -> BlockRef {
        let class = BLOCK_CLASSES.iter().position(|class| size <= *class);
        let block = match class {
            Some(class) if class + 1 < BLOCK_CLASSES.len() => {
                self.make_copy(class, &buffer[start..start + size], head)
            }
            Some(class) => {
                buffer.truncate(start + size);
                let bytes = std::mem::take(buffer);
                let block = self.wrap(bytes, start, head);
                if block.bytes.capacity() == BLOCK_SIZE {
                    self.keep(class, &block);
                }
                block
            }
            None => {
                buffer.truncate(start + size);
                let block = self.wrap(std::mem::take(buffer), start, head);
                self.keep_long(&block);
                block
            }
        };
        self.slots.ledger.budget.charge(block.charge());
        BlockRef::new(block)
    }

    /// Lets go of the blocks of a class that are kept for nothing, half of them at a time.
    pub(crate) fn trim(&mut self) {
        if !std::mem::take(&mut self.used_vectored) {
            self.vectored = None;
            self.cleared.clear();
        }
        for line in self.classes.iter_mut().chain([&mut self.long]) {
            let idle = line.iter().filter(|block| is_free(block)).count();
            let mut excess = idle.div_ceil(2);
            line.retain(|block| {
                let drop = excess > 0 && is_free(block);
                excess -= usize::from(drop);
                !drop
            });
        }
        let sizes = self.long.iter().map(|block| block.bytes.capacity());
        self.long_bytes = sizes.sum();
    }

    /// Storage for a long frame of so many bytes, empty.
    pub(crate) fn take_long(&mut self, size: usize) -> Vec<u8> {
        let fits = |block: &Arc<Block>| {
            let capacity = block.bytes.capacity();
            capacity >= size && capacity - size <= size / 4 && is_free(block)
        };
        let place = self.long.iter().take(LONG_LOOKS_MAX).position(fits);
        let block = place.and_then(|place| self.long.remove(place));
        let capacity = block.as_ref().map_or(0, |block| block.bytes.capacity());
        self.long_bytes -= capacity;
        let storage = block.and_then(storage_of);
        let mut storage = storage.unwrap_or_else(|| Vec::with_capacity(size));
        storage.clear();
        storage
    }

    fn keep_long(&mut self, block: &Arc<Block>) {
        let size = block.bytes.capacity();
        if size > CARRY_TRUSTED_MAX {
            return;
        }
        while self.long_bytes + size > LONG_KEPT_BYTES {
            let Some(oldest) = self.long.pop_front() else {
                return;
            };
            self.long_bytes -= oldest.bytes.capacity();
        }
        self.long_bytes += size;
        self.long.push_back(Arc::clone(block));
    }

    fn make_copy(&mut self, class: usize, bytes: &[u8], head: BlockHead) -> Arc<Block> {
        if let Some(mut shared) = self.reclaim(class) {
            if let Some(block) = Arc::get_mut(&mut shared) {
                block.charge_noted.store(0, Ordering::Relaxed);
                block.bytes.clear();
                block.bytes.extend_from_slice(bytes);
                block.start = 0;
                block.head = head;
                self.keep(class, &shared);
                return shared;
            }
        }
        let mut storage = Vec::with_capacity(BLOCK_CLASSES[class]);
        storage.extend_from_slice(bytes);
        let block = self.wrap(storage, 0, head);
        self.keep(class, &block);
        block
    }

    fn wrap(&self, bytes: Vec<u8>, start: usize, head: BlockHead) -> Arc<Block> {
        let slots = Arc::clone(&self.slots);
        Arc::new(Block {
            holders: AtomicU32::new(0),
            charge_noted: AtomicU32::new(0),
            bytes,
            start,
            head,
            slots,
        })
    }

    fn keep(&mut self, class: usize, block: &Arc<Block>) {
        if self.classes[class].len() < BLOCKS_KEPT[class] {
            self.classes[class].push_back(Arc::clone(block));
        }
    }

    /// A block that came back. The one that went out [`BLOCKS_WARM`] blocks ago is asked first: the
    /// core that read it has let go of it, and the cache has not. Then the longest out; one that is
    /// kept for long goes to the end of the line, so that it does not hide the others.
    fn reclaim(&mut self, class: usize) -> Option<Arc<Block>> {
        let line = &mut self.classes[class];
        let warm = line.len().wrapping_sub(BLOCKS_WARM);
        if line.get(warm).is_some_and(is_free) {
            return line.remove(warm);
        }
        for _ in 0..2 {
            let block = line.pop_front()?;
            if is_free(&block) {
                return Some(block);
            }
            line.push_back(block);
        }
        None
    }
}

/// The storage of a block that nobody holds any more.
fn storage_of(mut block: Arc<Block>) -> Option<Vec<u8>> {
    Some(std::mem::take(&mut Arc::get_mut(&mut block)?.bytes))
}

fn is_free(block: &Arc<Block>) -> bool {
    block.holders.load(Ordering::Acquire) == 0
}

impl fmt::Debug for BlockPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept: Vec<usize> = self.classes.iter().map(VecDeque::len).collect();
        f.debug_struct("BlockPool")
            .field("kept", &kept)
            .finish_non_exhaustive()
    }
}

/// A message, borrowed from the batch it came in.
#[derive(Clone, Copy)]
pub struct MessageRef<'a> {
    block: &'a BlockRef,
    frame: Frame<'a>,
}

impl<'a> MessageRef<'a> {
    pub(crate) fn new(block: &'a BlockRef, frame: Frame<'a>) -> Self {
        Self { block, frame }
    }

    /// Who sent it.
    #[must_use]
    pub fn peer(&self) -> PeerId {
        self.block.head().peer
    }

    /// Its type.
    #[must_use]
    pub fn message_type(&self) -> MessageType {
        self.frame.message_type
    }

    /// What the sender wrote into it.
    #[must_use]
    pub fn payload(&self) -> &'a [u8] {
        self.frame.payload
    }

    /// The correlation number, if the sender gave one.
    #[must_use]
    pub fn correlation(&self) -> Option<u64> {
        self.frame.correlation
    }

    /// Whether it came with a checksum, which was verified.
    #[must_use]
    pub fn checksum(&self) -> bool {
        self.frame.checksum
    }

    /// When its last byte was read.
    #[must_use]
    pub fn received(&self) -> Instant {
        self.block.head().received
    }

    /// The message to keep: a copy up to 1 KiB of payload; a larger payload shares the storage of
    /// the read that it came in, up to 64 KiB or the frame's own size, and with it the peer's
    /// credit.
    #[must_use]
    pub fn to_message(&self) -> Message {
        if self.frame.payload.len() <= MESSAGE_COPIED_MAX {
            return Message::copy_of(self.peer(), &self.frame, self.received());
        }
        let block = self.block.clone();
        let start = self.frame.payload.as_ptr().addr() - block.bytes().as_ptr().addr();
        let payload = Stored::Shared {
            block,
            start,
            size: self.frame.payload.len(),
        };
        Message {
            peer: self.peer(),
            message_type: self.frame.message_type,
            correlation: self.frame.correlation,
            checksum: self.frame.checksum,
            received: self.received(),
            payload,
        }
    }
}

impl fmt::Debug for MessageRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageRef")
            .field("peer", &self.peer())
            .field("frame", &self.frame)
            .finish()
    }
}

/// A message that stands for itself.
///
/// A payload above 1 KiB shares the storage of the read that it came in, as long as the message
/// exists; [`into_owned`](Self::into_owned) ends that.
#[derive(Clone)]
pub struct Message {
    peer: PeerId,
    message_type: MessageType,
    correlation: Option<u64>,
    checksum: bool,
    received: Instant,
    payload: Stored,
}

#[derive(Clone)]
enum Stored {
    Copied(Box<[u8]>),
    Shared {
        block: BlockRef,
        start: usize,
        size: usize,
    },
}

impl Message {
    /// A copy of a message.
    pub(crate) fn copy_of(peer: PeerId, frame: &Frame<'_>, received: Instant) -> Self {
        Self {
            peer,
            message_type: frame.message_type,
            correlation: frame.correlation,
            checksum: frame.checksum,
            received,
            payload: Stored::Copied(frame.payload.into()),
        }
    }

    /// Who sent it.
    #[must_use]
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// Its type.
    #[must_use]
    pub fn message_type(&self) -> MessageType {
        self.message_type
    }

    /// What the sender wrote into it.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        match &self.payload {
            Stored::Copied(bytes) => bytes,
            Stored::Shared { block, start, size } => &block.bytes()[*start..*start + *size],
        }
    }

    /// The correlation number, if the sender gave one.
    #[must_use]
    pub fn correlation(&self) -> Option<u64> {
        self.correlation
    }

    /// Whether it came with a checksum, which was verified.
    #[must_use]
    pub fn checksum(&self) -> bool {
        self.checksum
    }

    /// When its last byte was read.
    #[must_use]
    pub fn received(&self) -> Instant {
        self.received
    }

    /// The same message with a payload of its own, which pins nothing.
    #[must_use]
    pub fn into_owned(self) -> Self {
        let payload = match &self.payload {
            Stored::Copied(_) => return self,
            Stored::Shared { .. } => Stored::Copied(self.payload().into()),
        };
        Self { payload, ..self }
    }

    /// Bytes of memory that the message keeps in use, besides itself.
    #[must_use]
    pub fn pinned_bytes(&self) -> usize {
        match &self.payload {
            Stored::Copied(bytes) => bytes.len(),
            Stored::Shared { block, .. } => block.charge(),
        }
    }
}

impl AsRef<[u8]> for Message {
    fn as_ref(&self) -> &[u8] {
        self.payload()
    }
}

impl From<Message> for Bytes {
    /// The payload, without a copy.
    fn from(message: Message) -> Self {
        match message.payload {
            Stored::Copied(bytes) => Self::from(bytes),
            Stored::Shared { .. } => Self::from_owner(message),
        }
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("peer", &self.peer)
            .field("message_type", &self.message_type)
            .field("correlation", &self.correlation)
            .field("checksum", &self.checksum)
            .field("payload", &self.payload())
            .finish_non_exhaustive()
    }
}

/// Walks the frames in a part of a block.
#[derive(Clone, Debug)]
pub(crate) struct BlockFrames<'a> {
    block: &'a BlockRef,
    /// All of the block's.
    bytes: &'a [u8],
    frames: WholeFrames<'a>,
}

impl<'a> BlockFrames<'a> {
    /// Frames between two frame boundaries.
    pub(crate) fn new(block: &'a BlockRef, start: usize, end: usize) -> Self {
        let bytes = block.bytes();
        Self {
            block,
            bytes,
            frames: WholeFrames::new(bytes.get(start..end).unwrap_or_default()),
        }
    }

    /// Goes on with the frame that begins at an offset of the block.
    #[inline]
    pub(crate) fn seek(&mut self, offset: usize) {
        self.frames = WholeFrames::new(self.bytes.get(offset..).unwrap_or_default());
    }

    /// Has the beginning of a later frame brought near, if those before it are as long as the next.
    /// Whoever needs it looks again; nobody waits for this look.
    #[inline]
    pub(crate) fn fetch_ahead(&self, frames: usize) {
        if let Some(byte) = self.frames.ahead(frames) {
            black_box(byte);
        }
    }

    /// The next message of a block whose frames are all so long and of this type; see
    /// [`BlockHead::frame_size`]. Has the beginning of a later one brought near.
    #[inline]
    pub(crate) fn next_alike(
        &mut self,
        size: usize,
        frames_ahead: usize,
    ) -> Option<MessageRef<'a>> {
        if let Some(byte) = self.frames.byte_at(frames_ahead * size) {
            black_box(byte);
        }
        let payload = self.frames.next_alike(size)?;
        let frame = Frame::new(
            self.block.head().message_type.unwrap_or(MessageType(0)),
            payload,
        );
        Some(MessageRef::new(self.block, frame))
    }

    /// Has the beginning of a frame brought near, likewise.
    #[inline]
    pub(crate) fn fetch(&self, offset: usize) {
        if let Some(byte) = self.bytes.get(offset) {
            black_box(*byte);
        }
    }

    /// Bytes that are not walked yet.
    pub(crate) fn rest_size(&self) -> usize {
        self.frames.rest_size()
    }
}

impl<'a> Iterator for BlockFrames<'a> {
    type Item = MessageRef<'a>;

    #[inline]
    fn next(&mut self) -> Option<MessageRef<'a>> {
        self.frames
            .next()
            .map(|frame| MessageRef::new(self.block, frame))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::{clock::Clock, ledger::Ledger, slots::OutboxLimits};

    struct Bench {
        pool: BlockPool,
        head: BlockHead,
    }

    impl Bench {
        fn new() -> Self {
            let limits = OutboxLimits {
                bytes: 1 << 20,
                messages: 1_000,
                payload_size: 1 << 20,
            };
            let ledger = Arc::new(Ledger::new(64 << 20, Traffic::new(1_000, 64 << 20)));
            let slots = Arc::new(Slots::new(0, 1, limits, ledger, Clock::start()));
            let head = BlockHead {
                peer: slots.open(0).unwrap(),
                received: slots.clock.now().instant,
                frames: 1,
                message_type: Some(MessageType(1)),
                has_protocol: false,
                has_correlation: false,
                frame_size: None,
                credit: Traffic::default(),
            };
            let pool = BlockPool::new(slots);
            Self { pool, head }
        }

        /// A block of a large read, and where it lies.
        fn make(&mut self) -> (BlockRef, usize) {
            let mut buffer = self.pool.take_buffer();
            buffer.resize(BLOCK_SIZE, 0);
            let at = buffer.as_ptr().addr();
            (self.pool.make(&mut buffer, 0, BLOCK_SIZE, self.head), at)
        }
    }

    #[test]
    fn the_same_few_blocks_are_used_in_turn() {
        let mut bench = Bench::new();
        // A burst that nobody takes leaves many behind.
        let burst: Vec<_> = (0..2 * BLOCKS_WARM).map(|_| bench.make()).collect();
        drop(burst);
        let places: HashSet<usize> = (0..10 * BLOCKS_WARM).map(|_| bench.make().1).collect();
        assert_eq!(places.len(), BLOCKS_WARM);
    }

    /// Storage of long frames comes back, if it fits well, and is bounded, also while it is held.
    #[test]
    fn long_storage_is_used_again() {
        let mut bench = Bench::new();
        let long = |bench: &mut Bench, size: usize| {
            let mut buffer = bench.pool.take_long(size);
            buffer.resize(size, 0);
            let at = buffer.as_ptr().addr();
            (bench.pool.make(&mut buffer, 0, size, bench.head), at)
        };
        let (block, at) = long(&mut bench, 200_000);
        assert_ne!(long(&mut bench, 200_000).1, at, "it is held");
        drop(block);
        let shorter = bench.pool.take_long(150_000);
        assert_ne!(shorter.as_ptr().addr(), at, "too large");
        let fitting = bench.pool.take_long(190_000);
        assert_eq!(fitting.as_ptr().addr(), at);
        let held: Vec<_> = (0..100).map(|_| long(&mut bench, 1 << 20)).collect();
        assert!(bench.pool.long_bytes <= LONG_KEPT_BYTES);
        drop(held);
        (0..10).for_each(|_| bench.pool.trim());
        assert_eq!((bench.pool.long_bytes, bench.pool.long.len()), (0, 0));
        // One that is longer than those that are trusted is not kept.
        drop(long(&mut bench, (1 << 20) + 1));
        assert_eq!(bench.pool.long_bytes, 0);
    }

    #[test]
    fn the_next_block_is_cold_while_many_are_out() {
        let mut bench = Bench::new();
        let mut out = Vec::new();
        for _ in 0..BLOCKS_WARM {
            assert!(!bench.pool.is_cold());
            out.push(bench.make());
        }
        assert!(bench.pool.is_cold());
        out.clear();
        assert!(!bench.pool.is_cold());
        assert_eq!(bench.pool.slots.ledger.budget.used(), 0);
    }
}
