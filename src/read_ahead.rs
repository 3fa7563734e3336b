//! How far the loop may read ahead of those who take the messages.
//!
//! A block that is read into while a cache still holds it costs half of one that comes from far
//! away. So while few blocks are out, the pool uses the same few again and again; a loop that reads
//! on while its subscribers do not run would use ever new ones, all of them cold. [`ReadAhead`] has
//! it give its core away first, so that whoever is behind can catch up. That is an offer and no
//! wait: it is made a few times for a large read, less and less often while it is of no use, and a
//! subscriber that is slow for other reasons costs the loop next to nothing.

use crate::{
    idle::Idle,
    limits::{READ_AHEAD_READS_MAX, READ_AHEAD_READS_MIN, READ_AHEAD_YIELDS_MAX},
};

/// Limits how far the loop reads ahead.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ReadAhead {
    /// Large reads to pass over before the next offer, and how many there were last time.
    reads_left: u32,
    reads: u32,
}

impl ReadAhead {
    /// To be called behind each large read; `is_long` looks whether it is too far ahead.
    #[inline]
    pub(crate) fn limit(&mut self, is_long: impl Fn() -> bool) {
        if is_long() {
            self.shorten(is_long);
        } else {
            *self = Self::default();
        }
    }

    fn shorten(&mut self, is_long: impl Fn() -> bool) {
        if self.reads_left > 0 {
            self.reads_left -= 1;
            return;
        }
        for _ in 0..READ_AHEAD_YIELDS_MAX {
            Idle::yield_now();
            if !is_long() {
                *self = Self::default();
                return;
            }
        }
        self.reads = (2 * self.reads).clamp(READ_AHEAD_READS_MIN, READ_AHEAD_READS_MAX);
        self.reads_left = self.reads;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Behind so many reads, how often it was looked whether it is too far ahead.
    fn looks(ahead: &mut ReadAhead, reads: u32, is_long: bool) -> u32 {
        let looks = Cell::new(0);
        for _ in 0..reads {
            ahead.limit(|| {
                looks.set(looks.get() + 1);
                is_long
            });
        }
        looks.get()
    }

    #[test]
    fn a_short_lead_is_looked_at_once() {
        assert_eq!(looks(&mut ReadAhead::default(), 1000, false), 1000);
    }

    #[test]
    fn offers_in_vain_become_rare() {
        let mut ahead = ReadAhead::default();
        let mut spans = (0..14).map(|doublings| READ_AHEAD_READS_MIN << doublings);
        let mut expected = spans.next();
        while let Some(reads) = expected {
            assert_eq!(looks(&mut ahead, 1, true), 1 + READ_AHEAD_YIELDS_MAX);
            let reads = reads.min(READ_AHEAD_READS_MAX);
            assert_eq!(looks(&mut ahead, reads, true), reads);
            expected = spans.next();
        }
        // Once somebody has caught up, it is as in the beginning.
        assert_eq!(looks(&mut ahead, 1, false), 1);
        assert_eq!(looks(&mut ahead, 1, true), 1 + READ_AHEAD_YIELDS_MAX);
        assert_eq!(
            looks(&mut ahead, READ_AHEAD_READS_MIN, true),
            READ_AHEAD_READS_MIN
        );
    }

    #[test]
    fn an_offer_ends_when_it_was_taken() {
        let looks = Cell::new(0);
        ReadAhead::default().limit(|| {
            looks.set(looks.get() + 1);
            looks.get() < 3
        });
        assert_eq!(looks.get(), 3);
    }
}
