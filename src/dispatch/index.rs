//! Which frames of a mixed block are whose.
//!
//! The fan-out walks a block of several types once. So that no subscriber has to walk it again and
//! pass over what is not its own, that walk also writes down where each subscriber's frames begin:
//! an [`Index`], two bytes for a frame and group. A *group* is the subscribers that ask for the
//! same types; they share their part of the index, as the block's deliveries share the whole.
//!
//! An index is charged to the block's part of the budget, and at most as large as a block. What
//! does not fit is walked and tested instead, and so is a block with few frames, where writing
//! would cost more than it saves, and one longer than [`BLOCK_SIZE`], which a long frame fills.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use super::requests::is_answer;
use crate::{
    block::BlockRef,
    budget::Budget,
    frame::WholeFrames,
    id::MessageType,
    limits::{BLOCK_CLASSES, BLOCK_SIZE, INDEXED_FRAMES_MIN, INDEXES_KEPT},
};

const OFFSET_SIZE: usize = size_of::<u16>();
/// Offsets in an index at most.
const INDEX_OFFSETS_MAX: usize = BLOCK_SIZE / OFFSET_SIZE;

/// Where frames of a block begin.
#[derive(Debug, Default)]
pub(crate) struct Index {
    offsets: Vec<u16>,
}

impl Index {
    fn with_class(class: usize) -> Self {
        let offsets = Vec::with_capacity(BLOCK_CLASSES[class] / OFFSET_SIZE);
        Self { offsets }
    }

    /// The offsets from a place on.
    pub(crate) fn from(&self, start: usize) -> &[u16] {
        self.offsets.get(start..).unwrap_or_default()
    }

    /// Number of offsets, those of all groups.
    pub(crate) fn len(&self) -> usize {
        self.offsets.len()
    }

    /// Bytes of memory that the index keeps in use.
    pub(crate) fn charge(&self) -> u32 {
        // No class is larger than a block.
        u32::try_from(self.offsets.capacity() * OFFSET_SIZE).unwrap_or(u32::MAX)
    }
}

/// What a block has for one subscriber.
#[derive(Clone, Debug)]
pub(crate) struct Share {
    /// Messages.
    pub(crate) count: u32,
    /// Whether they are all that lies there, so that none need be tested.
    pub(crate) is_all: bool,
    /// The tag of answers to requests, if there are any between them: nobody gets those here.
    pub(crate) answers: Option<u32>,
    /// Where they begin, and the place of the first among the offsets there.
    pub(crate) index: Option<Arc<Index>>,
    pub(crate) first: u32,
    /// Bytes of memory that are kept in use for them: block and index.
    pub(crate) pinned: u32,
}

impl Share {
    /// So many of the messages of a block; answers with the tag are not among them.
    #[inline]
    pub(crate) fn of_block(block: &BlockRef, count: u32, answers: Option<u32>) -> Self {
        Self {
            count,
            is_all: count == block.head().frames && !block.head().has_protocol,
            answers,
            index: None,
            first: 0,
            pinned: u32::try_from(block.charge()).unwrap_or(u32::MAX),
        }
    }
}

/// Sorts the frames of mixed blocks by who gets them: [`walk`](Self::walk), then
/// [`write`](Self::write), then [`share`](Self::share) for each subscriber.
#[derive(Debug, Default)]
pub(crate) struct Sorter {
    /// For each list of subscribers, the groups in it.
    list_groups: Vec<Box<[u16]>>,
    /// For each subscriber, its group.
    entry_groups: Vec<u16>,
    groups: Vec<Group>,
    /// Frames of the block per list.
    list_counts: Vec<u32>,
    /// Frames of the block that are no answers, in their order.
    spots: Vec<Spot>,
    /// That of the block, once it is written.
    index: Option<Arc<Index>>,
    pool: IndexPool,
}

/// What a block has for a group.
#[derive(Clone, Copy, Debug, Default)]
struct Group {
    count: u32,
    /// Whether its frames are in the index.
    is_listed: bool,
    /// Behind its frames there; where the next one goes while they are written.
    end: u32,
}

/// A frame of the block.
#[derive(Clone, Copy, Debug, Default)]
struct Spot {
    offset: u16,
    list: u16,
}

impl Spot {
    #[inline]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "what is behind 64 KiB is in no index"
    )]
    fn new(offset: usize, list: u16) -> Self {
        let offset = offset as u16;
        Self { offset, list }
    }
}

impl Sorter {
    /// Makes groups of so many subscribers, who are named by their positions in the lists.
    pub(crate) fn set_lists(&mut self, lists: &[Vec<u16>], subscribers: usize) {
        let mut lists_of = vec![Vec::new(); subscribers];
        for (list, position) in lists.iter().zip(0_u16..) {
            for subscriber in list {
                lists_of[usize::from(*subscriber)].push(position);
            }
        }
        let mut known = HashMap::new();
        let mut list_groups = vec![Vec::new(); lists.len()];
        self.entry_groups.clear();
        for its_lists in lists_of {
            // There are fewer than subscribers, so the number fits.
            let fresh = u16::try_from(known.len()).unwrap_or(u16::MAX);
            let group = *known.entry(its_lists).or_insert_with_key(|its_lists| {
                for list in its_lists {
                    list_groups[usize::from(*list)].push(fresh);
                }
                fresh
            });
            self.entry_groups.push(group);
        }
        self.groups = vec![Group::default(); known.len()];
        self.list_groups = list_groups.into_iter().map(Vec::into).collect();
        self.list_counts = vec![0; lists.len()];
    }

    /// Walks a block; `route` is told the type and the size of each frame, and whether it is an
    /// answer with the tag, and says which list gets it. Answers are left out behind that.
    #[inline]
    pub(crate) fn walk(
        &mut self,
        block: &BlockRef,
        tag: Option<u32>,
        mut route: impl FnMut(MessageType, usize, bool) -> u16,
    ) {
        let list_counts = &mut *self.list_counts;
        list_counts.fill(0);
        self.spots.clear();
        self.spots
            .resize(block.head().frames as usize, Spot::default());
        let mut spots = self.spots.iter_mut();
        let bytes = block.bytes();
        let mut frames = WholeFrames::new(bytes);
        loop {
            let offset = bytes.len() - frames.rest_size();
            let is_answer = tag.is_some_and(|tag| is_answer(frames.peek_correlation(), tag));
            let Some((header, size)) = frames.next_header() else {
                break;
            };
            if header.message_type.is_protocol() {
                continue;
            }
            let list = route(header.message_type, size, is_answer);
            if !is_answer {
                let count = &mut list_counts[usize::from(list)];
                *count = count.wrapping_add(1);
                if let Some(spot) = spots.next() {
                    *spot = Spot::new(offset, list);
                }
            }
        }
        let unused = spots.len();
        self.spots.truncate(self.spots.len() - unused);
    }

    /// Writes the index of the block that was walked, if it is to have one.
    pub(crate) fn write(&mut self, block: &BlockRef, budget: &Budget) {
        let size = self.plan(block);
        if size == 0 {
            return;
        }
        // The bytes were received, and have to be charged; an index can be done without.
        let index = self.pool.take(size);
        self.index = index.filter(|index| budget.try_charge(index.charge() as usize));
        let Some(index) = &mut self.index else {
            self.groups.iter_mut().for_each(Group::do_without);
            return;
        };
        block.note_charge(index.charge());
        if let Some(index) = Arc::get_mut(index) {
            index.offsets.resize(size, 0);
            let (offsets, groups) = (&mut *index.offsets, &mut *self.groups);
            let list_groups = &*self.list_groups;
            for spot in &self.spots {
                for group in &list_groups[usize::from(spot.list)] {
                    groups[usize::from(*group)].write(offsets, spot.offset);
                }
            }
        }
        self.pool.keep(index);
    }

    /// What the block has for a subscriber; answers with the tag are not its.
    pub(crate) fn share(&self, block: &BlockRef, subscriber: usize, tag: Option<u32>) -> Share {
        let group = self.groups[usize::from(self.entry_groups[subscriber])];
        let share = Share::of_block(block, group.count, tag);
        let Some(index) = self.index.as_ref().filter(|_| group.is_listed) else {
            return share;
        };
        Share {
            index: Some(Arc::clone(index)),
            first: group.end - group.count,
            pinned: share.pinned + index.charge(),
            ..share
        }
    }

    /// Lets go of the block.
    pub(crate) fn finish(&mut self) {
        self.index = None;
    }

    /// Lets go of storage that is kept for nothing.
    pub(crate) fn trim(&mut self) {
        self.pool.trim();
    }

    /// Counts what each group gets, and gives those that are to be listed their places. Returns how
    /// many places there are.
    fn plan(&mut self, block: &BlockRef) -> usize {
        self.groups.fill(Group::default());
        for (groups, count) in self.list_groups.iter().zip(&self.list_counts) {
            for group in groups {
                self.groups[usize::from(*group)].count += count;
            }
        }
        let frames = block.head().frames;
        if frames < INDEXED_FRAMES_MIN || block.bytes().len() > BLOCK_SIZE {
            return 0;
        }
        let mut used = 0;
        for group in &mut self.groups {
            let fits = (used + group.count) as usize <= INDEX_OFFSETS_MAX;
            if group.count > 0 && group.count < frames && fits {
                (group.is_listed, group.end) = (true, used);
                used += group.count;
            }
        }
        used as usize
    }
}

impl Group {
    fn do_without(&mut self) {
        self.is_listed = false;
    }

    #[inline]
    fn write(&mut self, offsets: &mut [u16], offset: u16) {
        if self.is_listed {
            if let Some(place) = offsets.get_mut(self.end as usize) {
                *place = offset;
            }
            self.end = self.end.wrapping_add(1);
        }
    }
}

/// The store of indexes that nobody holds, like that of blocks: it keeps a reference to those that
/// it gave away, and looks whether they came back. The worst memory that it keeps in use without
/// need is the sum of `INDEXES_KEPT * BLOCK_CLASSES`, about 3.5 MiB.
#[derive(Debug, Default)]
struct IndexPool {
    /// Per class, the longest out first.
    classes: [VecDeque<Arc<Index>>; BLOCK_CLASSES.len()],
}

impl IndexPool {
    /// One for so many offsets, which nobody else holds; `None` if there are too many.
    fn take(&mut self, size: usize) -> Option<Arc<Index>> {
        let class = class_of(size * OFFSET_SIZE)?;
        let line = &mut self.classes[class];
        for _ in 0..2 {
            let Some(mut index) = line.pop_front() else {
                break;
            };
            if let Some(own) = Arc::get_mut(&mut index) {
                own.offsets.clear();
                return Some(index);
            }
            line.push_back(index);
        }
        Some(Arc::new(Index::with_class(class)))
    }

    fn keep(&mut self, index: &Arc<Index>) {
        let class = class_of(index.charge() as usize);
        if let Some(class) = class.filter(|class| self.classes[*class].len() < INDEXES_KEPT[*class])
        {
            self.classes[class].push_back(Arc::clone(index));
        }
    }

    /// Lets go of half of the free ones in each class.
    fn trim(&mut self) {
        let is_free = |index: &Arc<Index>| Arc::strong_count(index) == 1;
        for class in &mut self.classes {
            let mut excess = class.iter().filter(|index| is_free(index)).count() / 2;
            class.retain(|index| {
                let drop = excess > 0 && is_free(index);
                excess -= usize::from(drop);
                !drop
            });
        }
    }
}

fn class_of(size: usize) -> Option<usize> {
    BLOCK_CLASSES.iter().position(|class| size <= *class)
}
