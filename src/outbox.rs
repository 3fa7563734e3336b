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
//! Invariants: `offset < len(front)` unless the outbox is empty; the next byte to write begins a frame
//! exactly if `frame_left == 0`.

use std::{collections::VecDeque, io::IoSlice};

use crate::{
    frame::Header,
    id::MessageType,
    ledger::Traffic,
    slots::{Segment, SegmentData},
};

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    segments: VecDeque<Segment>,
    /// Bytes of the first segment that the kernel has taken.
    offset: usize,
    /// Bytes of the frame in writing that the kernel has not taken.
    frame_left: usize,
    /// Type of the frame in writing.
    frame_type: MessageType,
    /// Frames of the first segment that are counted already.
    counted: u32,
}

impl Extend<Segment> for Outbox {
    fn extend<T: IntoIterator<Item = Segment>>(&mut self, segments: T) {
        self.segments.extend(
            segments
                .into_iter()
                .filter(|segment| !segment.data.as_slice().is_empty()),
        );
    }
}

impl Outbox {
    /// The kernel took `taken` bytes of those offered. `count` is told every run of the application's
    /// bytes: their type, how many frames they made whole, and how many bytes they are.
    ///
    /// Panics if more was taken than offered.
    pub(crate) fn handle_written(
        &mut self,
        mut taken: usize,
        mut count: impl FnMut(MessageType, Traffic),
    ) {
        while taken > 0 {
            let front = self
                .segments
                .front()
                .expect("no more is taken than was offered");
            let left = front.data.as_slice().len() - self.offset;
            if taken < left {
                self.walk(taken, &mut count);
                return;
            }
            taken -= left;
            match front.message_type {
                Some(message_type) => {
                    let messages = u64::from(front.messages - self.counted);
                    report(
                        message_type,
                        Traffic::new(messages, left as u64),
                        &mut count,
                    );
                    (self.frame_left, self.frame_type) = (front.spill, front.spill_type);
                }
                None => self.walk(left, &mut count),
            }
            self.segments.pop_front();
            self.offset = 0;
            self.counted = 0;
        }
    }

    /// Puts a frame of the protocol at the next frame boundary.
    pub(crate) fn insert_control(&mut self, frame: Vec<u8>) {
        let control = Segment::whole(frame, 0);
        let (position, cut) = self.next_boundary();
        let Some(cut) = cut else {
            self.segments.insert(position, control);
            return;
        };
        // The boundary lies inside a segment, which the frame splits.
        let segment = &mut self.segments[position];
        let rest = match &mut segment.data {
            SegmentData::Encoded(bytes) => SegmentData::Encoded(bytes.split_off(cut)),
            SegmentData::Shared(bytes) => SegmentData::Shared(bytes.split_off(cut)),
        };
        // How the counted frames spread over the halves is not known, so headers tell.
        let mut behind = Segment::whole(Vec::new(), 0);
        behind.data = rest;
        behind.spill = std::mem::take(&mut segment.spill);
        behind.spill_type = segment.spill_type;
        segment.messages = 0;
        segment.message_type = None;
        self.segments.insert(position + 1, behind);
        self.segments.insert(position + 1, control);
    }

    /// Slices to write next, `bytes_max` bytes at most; the number filled is returned.
    pub(crate) fn fill_slices<'a>(&'a self, slices: &mut [IoSlice<'a>], bytes_max: usize) -> usize {
        let (mut filled, mut left, mut offset) = (0, bytes_max, self.offset);
        for (segment, place) in self.segments.iter().zip(slices) {
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

    pub(crate) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// Walks `taken` bytes of the first segment, header by header.
    fn walk(&mut self, taken: usize, count: &mut impl FnMut(MessageType, Traffic)) {
        let bytes = self.segments[0].data.as_slice();
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

    /// The position of the segment in which the next frame begins, and where in it; without the
    /// latter the frame begins with the segment, or there is none.
    fn next_boundary(&self) -> (usize, Option<usize>) {
        let mut left = self.frame_left;
        let mut offset = self.offset;
        for (position, segment) in self.segments.iter().enumerate() {
            let size = segment.data.as_slice().len() - offset;
            if left < size {
                let cut = offset + left;
                return (position, (cut > 0).then_some(cut));
            }
            left -= size;
            offset = 0;
        }
        (self.segments.len(), None)
    }
}

/// The protocol's own frames are not the application's traffic.
fn report(message_type: MessageType, run: Traffic, count: &mut impl FnMut(MessageType, Traffic)) {
    if run.bytes > 0 && !message_type.is_protocol() {
        count(message_type, run);
    }
}
