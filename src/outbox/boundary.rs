//! Where the next frame begins in what is on offer, and segments that are cut or put in there.

use std::collections::VecDeque;

use super::Outbox;
use crate::slots::Segment;

impl Outbox {
    pub(super) fn insert(&mut self, position: usize, segment: Segment) {
        let Some(behind_front) = position.checked_sub(1) else {
            let second = std::mem::replace(&mut self.front, segment);
            if !second.is_empty() {
                self.behind
                    .get_or_insert_default()
                    .segments
                    .push_front(second);
            }
            return;
        };
        let behind = self.behind.get_or_insert_default();
        behind.segments.insert(behind_front, segment);
    }

    /// Takes away the segments from a position on.
    pub(super) fn split_off(&mut self, position: usize) -> VecDeque<Segment> {
        let behind = self.behind.as_mut().map(|behind| &mut behind.segments);
        match position.checked_sub(1) {
            Some(behind_front) => behind
                .map(|segments| segments.split_off(behind_front))
                .unwrap_or_default(),
            None => {
                let mut all = behind.map(std::mem::take).unwrap_or_default();
                if !self.front.is_empty() {
                    all.push_front(std::mem::take(&mut self.front));
                }
                all
            }
        }
    }

    /// Makes the next frame begin with a segment, and returns the position of that: the number of
    /// segments if there is none.
    pub(super) fn cut_at_boundary(&mut self) -> usize {
        let (position, cut) = self.next_boundary();
        let Some(cut) = cut else { return position };
        // The frame in writing ends there, and before it those of the front that are counted.
        let messages = match position {
            0 => self.counted + u32::from(self.frame_left > 0),
            _ => 1,
        };
        let segment = match position.checked_sub(1) {
            None => &mut self.front,
            Some(behind_front) => self
                .behind
                .as_mut()
                .and_then(|behind| behind.segments.get_mut(behind_front))
                .expect("the boundary lies in a segment"),
        };
        let first = segment.split_behind(cut, messages);
        self.insert(position, first);
        position + 1
    }

    /// The position of the segment in which the next frame begins, and where in it; without the
    /// latter the frame begins with the segment, or there is none.
    fn next_boundary(&self) -> (usize, Option<usize>) {
        let mut left = self.frame_left;
        let mut offset = self.offset;
        let mut count = 0;
        for (position, segment) in self.offered().enumerate() {
            let size = segment.len() - offset;
            let cut = offset + left;
            count = position + 1;
            if left < size {
                // What was put at the boundary before keeps its place.
                if cut == 0 && segment.is_control {
                    continue;
                }
                return (position, (cut > 0).then_some(cut));
            }
            left -= size;
            offset = 0;
        }
        (count, None)
    }
}
