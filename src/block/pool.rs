//! Where blocks come from, and where their storage goes.

use std::{collections::VecDeque, fmt, sync::Arc};

use super::{Block, BlockHead, BlockRef};
use crate::{
    limits::{
        BLOCK_CLASSES, BLOCK_SIZE, BLOCKS_KEPT, BLOCKS_WARM, CARRY_TRUSTED_MAX, LONG_KEPT_BYTES,
        LONG_LOOKS_MAX, VECTORED_BLOCKS,
    },
    slots::Slots,
    sync::atomic::{AtomicU32, Ordering},
};

/// What a vectored read goes into: buffers of one block each, all of their bytes there.
pub(crate) type VectoredBuffers = Box<[Vec<u8>; VECTORED_BLOCKS]>;

/// What a pool keeps for the next reads, beside the budget.
///
/// All of it is `BLOCKS_KEPT` and `LONG_KEPT_BYTES`, 22.5 MiB. A loop keeps at most three eighths
/// of its share of the budget, in these proportions; so what the loops keep together has a place
/// in the memory that a limit of the host leaves beside the budget, however many they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kept {
    /// Blocks, by class.
    blocks: [usize; BLOCK_CLASSES.len()],
    long_bytes: usize,
}

impl Kept {
    fn within(budget_share: usize) -> Self {
        let classes = BLOCKS_KEPT.iter().zip(BLOCK_CLASSES);
        let of_blocks: usize = classes.map(|(count, size)| count * size).sum();
        let whole = of_blocks + LONG_KEPT_BYTES;
        let part = whole.min(budget_share / 8 * 3);
        let scaled = |value: usize| {
            let scaled = value as u64 * part as u64 / whole as u64;
            usize::try_from(scaled).unwrap_or(value)
        };
        Self {
            blocks: BLOCKS_KEPT.map(scaled),
            long_bytes: scaled(LONG_KEPT_BYTES),
        }
    }
}

/// The loop's store of blocks that are not held.
///
/// The pool keeps a reference to the blocks that it gave away and finds out by looking whether they
/// came back; so giving one back costs its last holder nothing. The worst memory that it keeps in
/// use without need is [`Kept`], and 1.1 MiB to read into next.
pub(crate) struct BlockPool {
    slots: Arc<Slots>,
    /// Per class, the longest out first.
    classes: [VecDeque<Arc<Block>>; BLOCK_CLASSES.len()],
    /// Those of frames longer than a block, and their bytes in all.
    long: VecDeque<Arc<Block>>,
    long_bytes: usize,
    kept: Kept,
    /// What the next read goes into. Of those of the second kind all bytes are there.
    spare: Vec<Vec<u8>>,
    cleared: Vec<Vec<u8>>,
    /// What the next vectored read goes into, and whether one has since [`trim`](Self::trim).
    vectored: Option<VectoredBuffers>,
    used_vectored: bool,
}

impl BlockPool {
    pub(crate) fn new(slots: Arc<Slots>) -> Self {
        let kept = Kept::within(slots.ledger.budget.share());
        Self {
            slots,
            classes: Default::default(),
            long: VecDeque::new(),
            long_bytes: 0,
            kept,
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
        block.is_some_and(|block| !block.is_free())
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
            let idle = line.iter().filter(|block| block.is_free()).count();
            let mut excess = idle.div_ceil(2);
            line.retain(|block| {
                let drop = excess > 0 && block.is_free();
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
            capacity >= size && capacity - size <= size / 4 && block.is_free()
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
        while self.long_bytes + size > self.kept.long_bytes {
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
        if self.classes[class].len() < self.kept.blocks[class] {
            self.classes[class].push_back(Arc::clone(block));
        }
    }

    /// A block that came back. The one that went out [`BLOCKS_WARM`] blocks ago is asked first: the
    /// core that read it has let go of it, and the cache has not. Then the longest out; one that is
    /// kept for long goes to the end of the line, so that it does not hide the others.
    fn reclaim(&mut self, class: usize) -> Option<Arc<Block>> {
        let line = &mut self.classes[class];
        let warm = line.len().wrapping_sub(BLOCKS_WARM);
        if line.get(warm).is_some_and(|block| block.is_free()) {
            return line.remove(warm);
        }
        for _ in 0..2 {
            let block = line.pop_front()?;
            if block.is_free() {
                return Some(block);
            }
            line.push_back(block);
        }
        None
    }
}

/// The storage of a block that is not held any more.
fn storage_of(mut block: Arc<Block>) -> Option<Vec<u8>> {
    Some(std::mem::take(&mut Arc::get_mut(&mut block)?.bytes))
}

impl fmt::Debug for BlockPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept: Vec<usize> = self.classes.iter().map(VecDeque::len).collect();
        f.debug_struct("BlockPool")
            .field("kept", &kept)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::{
        clock::Clock,
        id::MessageType,
        ledger::{Ledger, Traffic},
        slots::OutboxLimits,
    };

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
        // A burst that is not taken leaves many behind.
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
    fn many_loops_keep_little_each() {
        let all = Kept {
            blocks: BLOCKS_KEPT,
            long_bytes: LONG_KEPT_BYTES,
        };
        // The default budget for one loop, and for four.
        assert_eq!(Kept::within(256 << 20), all);
        assert_eq!(Kept::within(64 << 20), all);
        let little = Kept::within(8 << 20);
        let bytes: usize = little
            .blocks
            .iter()
            .zip(BLOCK_CLASSES)
            .map(|(count, size)| count * size)
            .sum();
        assert!(bytes + little.long_bytes <= 3 << 20, "{little:?}");
        assert!(little.blocks.iter().all(|count| *count > 0));
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
