//! Outgoing bytes of one peer on the loop's side: what to write next, and how far it got.
//!
//! The outbox offers slices and is told how many bytes the kernel took; whatever that number is,
//! what was taken is a prefix of whole frames in the order of sending. Frames of the protocol go in
//! between, at the next frame boundary.
//!
//! Frames are counted when their last byte is taken, bytes as they are taken. A segment of one type
//! that is taken as a whole knows how many frames it ends; only where the kernel stopped inside, or
//! types are mixed, are frame headers looked at.
//!
//! As long as one priority waits, everything is on offer as it came. When another comes, what has
//! not begun is taken back, and waits in a lane for each priority; from there a small window of
//! whole frames is offered at a time, so that what comes later and is more urgent has little before
//! it. Nothing is copied for that: segments are cut by reference.
//!
//! Invariants: `offset < len(front)` unless nothing is on offer; nothing is behind an empty front;
//! the next byte to write begins a frame exactly if `frame_left == 0`; a lane begins with a frame;
//! there are lanes only while one of them is not empty, or several priorities are on offer.

mod boundary;
mod lanes;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, io::IoSlice};

use lanes::Lanes;

use crate::{
    clock::Tick,
    frame::{Frame, Header},
    id::MessageType,
    ledger::Traffic,
    limits::PRIORITY_WINDOW_BYTES,
    policy::Priority,
    slots::{Segment, push_behind, slack_bytes},
};

/// Places for segments that an empty outbox keeps: a peer that is idle again holds little memory.
const SEGMENTS_KEPT: usize = 16;

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// What is written next; empty if there is nothing on offer.
    front: Segment,
    /// What comes behind it. Made when something does.
    behind: Option<Box<Behind>>,
    /// Bytes of the first segment that the kernel has taken.
    offset: usize,
    /// Bytes of the frame in writing that the kernel has not taken.
    frame_left: usize,
    /// Type of the frame in writing.
    frame_type: MessageType,
    /// The priority of all frames on offer that have not begun, if they share one.
    priority: Option<Priority>,
    /// Segments on offer that are frames of the protocol.
    controls: u8,
    /// Frames of the first segment that are counted already.
    counted: u32,
}

#[derive(Debug, Default)]
struct Behind {
    /// On offer, behind the front.
    segments: VecDeque<Segment>,
    /// What waits to be offered, while there are several priorities.
    lanes: Option<Box<Lanes>>,
}

impl Outbox {
    /// Queues a segment behind others of its priority. The segments of one frame come one directly
    /// after the other.
    pub(crate) fn push(&mut self, now: Tick, priority: Priority, mut segment: Segment) {
        if segment.is_empty() {
            return;
        }
        segment.stamp(now);
        if let Some(lanes) = self.lanes_mut() {
            lanes.push(priority, segment);
        } else if self.front.is_empty() || self.priority == Some(priority) {
            self.priority = Some(priority);
            self.offer(segment);
        } else {
            self.part(priority, segment);
        }
    }

    /// Queues a frame of the loop's own. Frames that come one after the other
    /// share a segment, so that they are one slice to write.
    pub(crate) fn push_inline(&mut self, now: Tick, priority: Priority, frame: &Frame<'_>) {
        let last = match &mut self.behind {
            Some(behind) => match &mut behind.lanes {
                Some(lanes) => lanes.lanes[priority.ordinal()].run.back_mut(),
                None if self.priority == Some(priority) => {
                    let front = (!self.front.is_empty()).then_some(&mut self.front);
                    behind.segments.back_mut().or(front)
                }
                None => None,
            },
            None if self.priority == Some(priority) => {
                (!self.front.is_empty()).then_some(&mut self.front)
            }
            None => None,
        };
        if !last.is_some_and(|last| last.try_append(frame)) {
            let mut segment = Segment::default();
            segment.try_append(frame);
            self.push(now, priority, segment);
        }
    }

    /// The kernel took `taken` bytes of those offered. `count` is told every run of the
    /// application's bytes: their type, how many frames they made whole, and how many bytes they
    /// are.
    ///
    /// Panics if more was taken than offered.
    pub(crate) fn handle_written(
        &mut self,
        mut taken: usize,
        mut count: impl FnMut(MessageType, Traffic),
    ) {
        while taken > 0 {
            assert!(!self.front.is_empty(), "no more is taken than was offered");
            let left = self.front.len() - self.offset;
            if taken < left {
                self.walk(taken, &mut count);
                return;
            }
            taken -= left;
            match self.front.message_type {
                Some(message_type) => {
                    let messages = u64::from(self.front.messages - self.counted);
                    report(
                        message_type,
                        Traffic::new(messages, left as u64),
                        &mut count,
                    );
                    self.frame_left = self.front.spill as usize;
                    self.frame_type = self.front.spill_type;
                }
                None => self.walk(left, &mut count),
            }
            self.pop_front();
        }
        if self.front.is_empty() {
            if let Some(behind) = &mut self.behind {
                behind.lanes.take_if(|lanes| lanes.is_empty());
            }
        }
        if self.is_empty() {
            self.behind
                .take_if(|behind| behind.segments.capacity() > SEGMENTS_KEPT);
        }
    }

    /// Puts a frame of the protocol at the next frame boundary. Only a few may wait: more than 255
    /// are taken for a defect of the caller's.
    pub(crate) fn insert_control(&mut self, frame: Vec<u8>) {
        let position = self.cut_at_boundary();
        self.insert(position, Segment::control(frame));
        self.controls += 1;
        self.pop_if_taken();
    }

    /// Slices to write next, `bytes_max` bytes at most; the number filled is returned.
    pub(crate) fn fill_slices<'a>(
        &'a mut self,
        slices: &mut [IoSlice<'a>],
        bytes_max: usize,
    ) -> usize {
        self.choose();
        let (mut filled, mut left, mut offset) = (0, bytes_max, self.offset);
        for (segment, place) in self.offered().zip(slices) {
            let bytes = &segment.data.as_slice()[offset..];
            let bytes = &bytes[..bytes.len().min(left)];
            if bytes.is_empty() {
                break;
            }
            *place = IoSlice::new(bytes);
            left -= bytes.len();
            offset = 0;
            filled += 1;
        }
        filled
    }

    /// Segments on offer, as far as they were chosen.
    pub(crate) fn count_segments(&self) -> usize {
        let behind = self
            .behind
            .as_ref()
            .map_or(0, |behind| behind.segments.len());
        usize::from(!self.front.is_empty()) + behind
    }

    /// Whether a frame of the protocol waits.
    pub(crate) fn has_control(&self) -> bool {
        self.controls > 0
    }

    /// Whether a frame of the protocol waits behind bytes of the application.
    pub(crate) fn has_control_behind(&self) -> bool {
        !self.front.is_empty() && !self.front.is_control && self.has_control()
    }

    /// Bytes that are left of the frame in writing.
    pub(crate) fn frame_left(&self) -> usize {
        self.frame_left
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.front.is_empty() && self.lanes().is_none()
    }

    /// Whether a new one would do as well: it is empty, at the end of a frame.
    pub(crate) fn is_inactive(&self) -> bool {
        self.is_empty() && self.frame_left == 0
    }

    /// Storage that is held beside the bytes that wait here.
    pub(crate) fn slack_bytes(&self) -> usize {
        let waiting = self.lanes().into_iter().flat_map(|lanes| &lanes.lanes);
        let behind = self.behind.as_ref();
        let behind = behind.map_or(0, |behind| {
            slack_bytes(&behind.segments, self.front.is_control)
        });
        let lanes: usize = waiting.map(|lane| lane.run.slack_bytes()).sum();
        self.offset + self.front.slack_bytes() + behind + lanes
    }

    /// Bytes of each priority that wait here.
    pub(crate) fn bytes_by_priority(&self) -> [usize; Priority::COUNT] {
        if let Some(lanes) = self.lanes() {
            return std::array::from_fn(|index| lanes.lanes[index].run.size());
        }
        let mut sizes = [0; Priority::COUNT];
        if let Some(priority) = self.priority {
            sizes[priority.ordinal()] = self.bytes_on_offer();
        }
        sizes
    }

    /// Milliseconds since the loop saw the oldest message that waits here.
    pub(crate) fn age_of_oldest(&self, now: Tick) -> Option<u32> {
        let waiting = self.lanes().into_iter().flat_map(|lanes| &lanes.lanes);
        let fronts = waiting.filter_map(|lane| lane.run.front());
        let offered = self.offered().filter(|segment| !segment.is_control);
        offered.chain(fronts).map(|segment| segment.age(now)).max()
    }

    /// What was not written, as far as that is known without a look at headers: messages of which
    /// bytes are left, and those bytes. The protocol's own are left out.
    pub(crate) fn waiting(&self) -> Traffic {
        let waiting = self.lanes().into_iter().flat_map(|lanes| &lanes.lanes);
        let waiting = waiting.flat_map(|lane| lane.run.segments());
        let mut sum = Traffic::default();
        for segment in self.offered().chain(waiting).filter(|one| !one.is_control) {
            sum.add(Traffic::new(segment.messages.into(), segment.len() as u64));
        }
        if !self.front.is_control {
            sum.sub(Traffic::new(self.counted.into(), self.offset as u64));
        }
        sum
    }

    /// What a call of [`waiting`](Self::waiting) looks at.
    pub(crate) fn segment_count(&self) -> usize {
        let waiting = self.lanes().into_iter().flat_map(|lanes| &lanes.lanes);
        let waiting: usize = waiting.map(|lane| lane.run.segments().len()).sum();
        let behind = self
            .behind
            .as_ref()
            .map_or(0, |behind| behind.segments.len());
        usize::from(!self.front.is_empty()) + behind + waiting
    }

    /// Counts what was not written, frame by frame: messages of which bytes are left, and those
    /// bytes. The protocol's own are left out.
    pub(crate) fn count_unwritten(&self) -> Traffic {
        let mut sum = Traffic::default();
        let (mut left, mut at) = (self.frame_left, self.offset);
        if left > 0 && !self.frame_type.is_protocol() {
            sum.add(Traffic::new(1, left as u64));
        }
        let waiting = self.lanes().into_iter().flat_map(|lanes| &lanes.lanes);
        let waiting = waiting.flat_map(|lane| lane.run.segments());
        for segment in self.offered().chain(waiting) {
            let bytes = segment.data.as_slice();
            at += left;
            while at < bytes.len() {
                let header =
                    Header::read(&bytes[at..]).expect("a header lies in one segment as a whole");
                let size = header.frame_size();
                if !header.message_type.is_protocol() {
                    sum.add(Traffic::new(1, size as u64));
                }
                at += size;
            }
            left = at - bytes.len();
            at = 0;
        }
        sum
    }

    /// A segment of another priority than what is on offer: what of that has not begun waits with
    /// it from now on, in a lane for each.
    fn part(&mut self, priority: Priority, segment: Segment) {
        let position = self.cut_at_boundary();
        let behind = self.split_off(position);
        self.pop_if_taken();
        let before = self.priority.replace(priority).unwrap_or_default();
        if behind.is_empty() {
            // The other one has begun, or there was none.
            self.offer(segment);
            return;
        }
        // The frame that has begun, and those of the protocol, are of no priority here.
        self.priority = None;
        let mut lanes = Box::<Lanes>::default();
        lanes.lanes[before.ordinal()].run = behind.into();
        lanes.push(priority, segment);
        self.behind.get_or_insert_default().lanes = Some(lanes);
    }

    /// Offers whole frames of what waits, highest first, until a window of them is on offer.
    fn choose(&mut self) {
        if self.lanes().is_none() {
            return;
        }
        let mut offered = self.bytes_on_offer();
        while offered < PRIORITY_WINDOW_BYTES {
            let Some(mut lanes) = self.behind.as_mut().and_then(|behind| behind.lanes.take())
            else {
                return;
            };
            let Some((priority, alone)) = lanes.next() else {
                self.behind.get_or_insert_default().lanes = Some(lanes);
                return;
            };
            let fresh = self.front.is_empty();
            let same = fresh || self.priority == Some(priority);
            self.priority = same.then_some(priority);
            if alone && same {
                // None is to be passed any more.
                let run = std::mem::take(&mut lanes.lanes[priority.ordinal()].run);
                run.into_segments()
                    .into_iter()
                    .for_each(|segment| self.offer(segment));
                return;
            }
            let room = PRIORITY_WINDOW_BYTES - offered;
            offered += lanes.take(priority, room, |segment| self.offer(segment));
            // Frames of several priorities are on offer: what comes goes behind them.
            if !lanes.is_empty() || self.priority.is_none() {
                self.behind.get_or_insert_default().lanes = Some(lanes);
            }
        }
    }

    fn lanes(&self) -> Option<&Lanes> {
        self.behind.as_ref()?.lanes.as_deref()
    }

    fn lanes_mut(&mut self) -> Option<&mut Lanes> {
        self.behind.as_mut()?.lanes.as_deref_mut()
    }

    fn offered(&self) -> impl Iterator<Item = &Segment> {
        let front = Some(&self.front).filter(|front| !front.is_empty());
        let behind = self.behind.iter().flat_map(|behind| &behind.segments);
        front.into_iter().chain(behind)
    }

    fn bytes_on_offer(&self) -> usize {
        self.offered().map(Segment::len).sum::<usize>() - self.offset
    }

    fn offer(&mut self, segment: Segment) {
        if self.front.is_empty() {
            self.front = segment;
        } else {
            let behind = self.behind.get_or_insert_default();
            push_behind(&mut behind.segments, segment);
        }
    }

    fn pop_front(&mut self) {
        self.controls -= u8::from(self.front.is_control);
        let next = self
            .behind
            .as_mut()
            .and_then(|behind| behind.segments.pop_front());
        self.front = next.unwrap_or_default();
        self.offset = 0;
        self.counted = 0;
    }

    /// Lets the first segment go after a cut, if the kernel has taken all of it.
    fn pop_if_taken(&mut self) {
        if self.offset > 0 && self.offset == self.front.len() {
            self.pop_front();
        }
    }

    /// Walks `taken` bytes of the first segment, header by header.
    fn walk(&mut self, taken: usize, count: &mut impl FnMut(MessageType, Traffic)) {
        let bytes = self.front.data.as_slice();
        let end = self.offset + taken;
        let mut run = Traffic::default();
        let mut run_type = self.frame_type;
        while self.offset < end {
            if self.frame_left == 0 {
                let header = Header::read(&bytes[self.offset..])
                    .expect("a header lies in one segment as a whole");
                self.frame_left = header.frame_size();
                self.frame_type = header.message_type;
                if run_type != self.frame_type {
                    report(run_type, std::mem::take(&mut run), count);
                    run_type = self.frame_type;
                }
            }
            let step = self.frame_left.min(end - self.offset);
            self.frame_left -= step;
            self.offset += step;
            run.bytes += step as u64;
            if self.frame_left == 0 {
                run.messages += 1;
                self.counted += 1;
            }
        }
        report(run_type, run, count);
    }
}

/// The protocol's own frames are not the application's traffic.
fn report(message_type: MessageType, run: Traffic, count: &mut impl FnMut(MessageType, Traffic)) {
    if run.bytes > 0 && !message_type.is_protocol() {
        count(message_type, run);
    }
}
