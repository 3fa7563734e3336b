//! Which messages went with which bytes, so that bytes without an acknowledgement name messages.
//!
//! There is one mark for each call that wrote something, and no work for each message. As there may
//! be calls without end, marks are few: where they become too many, neighbours share one, and the
//! more so the longer ago they were, because what is not acknowledged is what was written last. So
//! a sum over the last marks is never too small, and too large by one mark at the most, which is
//! one call for what is recent and up to two thirds of what came after it otherwise.

use crate::ledger::Traffic;

/// Marks kept at most, after the oldest were joined, and those of the latest calls among them.
const MARKS_MAX: usize = 128;
const MARKS_LEFT_MAX: usize = 48;
const MARKS_APART: usize = 8;
/// The system has no larger buffer, so nothing before that can be without an acknowledgement. What
/// is beyond its usual bounds shares one mark.
const REACH_BYTES: u64 = 1 << 31;
const USUAL_BYTES: u64 = 16 << 20;

/// What calls wrote of late, oldest first.
#[derive(Debug, Default)]
pub(super) struct Writes {
    marks: Vec<Mark>,
}

/// What one call wrote, or several that follow each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Mark {
    /// All bytes, those of the protocol included.
    size: u32,
    /// The application's, and the messages that ended in them.
    bytes: u32,
    messages: u32,
}

impl Mark {
    fn join(&mut self, other: Self) {
        self.size += other.size;
        self.bytes += other.bytes;
        self.messages += other.messages;
    }
}

impl Writes {
    /// A call wrote so many bytes, and with them what is the application's.
    #[inline]
    pub(super) fn note(&mut self, size: usize, written: Traffic) {
        if self.marks.len() == MARKS_MAX {
            self.thin();
        }
        // A call writes far less than 4 GiB; if it did not, nothing would be within reach.
        let part = |number: u64| u32::try_from(number).unwrap_or(u32::MAX / 2);
        self.marks.push(Mark {
            size: part(size as u64),
            bytes: part(written.bytes),
            messages: part(written.messages),
        });
    }

    /// All but so many bytes are acknowledged.
    pub(super) fn forget_acknowledged(&mut self, unacknowledged: u64) {
        let (mut first, mut reach) = (self.marks.len(), 0);
        while first > 0 && reach < unacknowledged {
            first -= 1;
            reach += u64::from(self.marks[first].size);
        }
        self.marks.drain(..first);
    }

    pub(super) fn forget_all(&mut self) {
        self.marks = Vec::new();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }

    /// Whether any of it is the application's.
    pub(super) fn has_messages(&self) -> bool {
        self.marks.iter().any(|mark| mark.bytes > 0)
    }

    /// What of the application's is not acknowledged, if so many bytes are not: at most that. `all`
    /// is everything that was ever written.
    pub(super) fn unconfirmed(&self, unacknowledged: u64, all: Traffic) -> Traffic {
        let (mut sum, mut reach) = (Traffic::default(), 0);
        for mark in self.marks.iter().rev() {
            if reach >= unacknowledged {
                break;
            }
            reach += u64::from(mark.size);
            sum.add(Traffic::new(mark.messages.into(), mark.bytes.into()));
        }
        sum.bytes = sum.bytes.min(unacknowledged).min(all.bytes);
        sum
    }

    /// Joins marks until few are left.
    #[cold]
    fn thin(&mut self) {
        let mut quarters = 1;
        while self.marks.len() > MARKS_LEFT_MAX {
            self.join(quarters);
            quarters *= 2;
        }
    }

    /// Joins marks up to so many quarters of what came after them, from the newest on.
    fn join(&mut self, quarters: u64) {
        // Those from `first` on are done with: what all of them wrote, and all but the first.
        let (mut first, mut reach, mut after) = (self.marks.len(), 0, 0);
        for index in (0..self.marks.len()).rev() {
            if reach >= REACH_BYTES {
                break;
            }
            let mark = self.marks[index];
            let is_recent = self.marks.len() - first <= MARKS_APART;
            let last = self.marks.get_mut(first).filter(|_| !is_recent);
            let joined = last.filter(|last| {
                let size = u64::from(last.size) + u64::from(mark.size);
                let is_old = size <= after / 4 * quarters || after >= USUAL_BYTES;
                is_old && size <= REACH_BYTES
            });
            if let Some(last) = joined {
                last.join(mark);
            } else {
                after = reach;
                first -= 1;
                self.marks[first] = mark;
            }
            reach += u64::from(mark.size);
        }
        self.marks.drain(..first);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Bytes and messages of one call, and the protocol's bytes besides.
    fn call() -> impl Strategy<Value = (u32, u32, u32)> {
        let bytes = prop_oneof![0..200_u32, 0..300_000_u32];
        (bytes, 0..3_000_u32, prop_oneof![Just(0), 0..90_u32])
    }

    proptest! {
        /// Against a list of all calls.
        #[test]
        fn no_sum_is_too_small_and_what_is_recent_is_exact(
            calls in prop::collection::vec(call(), 0..900),
            waits in any::<prop::sample::Index>(),
        ) {
            let mut writes = Writes::default();
            let mut all = Traffic::default();
            for (bytes, messages, control) in &calls {
                let written = Traffic::new((*messages).into(), (*bytes).into());
                writes.note((bytes + control) as usize, written);
                all.add(written);
                prop_assert!(writes.marks.len() <= MARKS_MAX);
            }
            let sizes = || calls.iter().rev().map(|(bytes, _, control)| u64::from(bytes + control));
            let size: u64 = sizes().sum();
            let unacknowledged = waits.index(usize::try_from(size).unwrap() + 1) as u64;
            // The calls that it reaches into, and what they wrote.
            let (mut exact, mut reach, mut deep) = (Traffic::default(), 0, 0);
            for (bytes, messages, control) in calls.iter().rev() {
                if reach >= unacknowledged {
                    break;
                }
                reach += u64::from(bytes + control);
                exact.add(Traffic::new((*messages).into(), (*bytes).into()));
                deep += 1;
            }
            let told = writes.unconfirmed(unacknowledged, all);
            prop_assert!(told.messages >= exact.messages && told.messages <= all.messages);
            prop_assert!(told.bytes >= exact.bytes.min(unacknowledged));
            prop_assert!(told.bytes <= unacknowledged.min(all.bytes));
            if deep <= MARKS_APART {
                prop_assert_eq!(told.messages, exact.messages);
            }
            writes.forget_acknowledged(unacknowledged);
            prop_assert_eq!(writes.unconfirmed(unacknowledged, all), told);
            writes.forget_acknowledged(0);
            prop_assert!(writes.is_empty());
        }
    }

    /// 256 MiB in calls of all sizes, of which half a megabyte waits.
    #[test]
    fn what_was_joined_is_too_large_by_a_part() {
        for size in [64, 1_000, 65_536, 262_144] {
            let mut writes = Writes::default();
            let mut all = Traffic::default();
            for _ in 0..(1 << 28) / size {
                let written = Traffic::new(1, size as u64);
                writes.note(size, written);
                all.add(written);
            }
            for waits in [1, 10_000, 500_000, 5_000_000] {
                let exact = (waits as u64).div_ceil(size as u64);
                let told = writes.unconfirmed(waits as u64, all).messages;
                let most = exact + exact * 2 / 3 + 1;
                assert!((exact..=most).contains(&told), "{size}: {told} for {exact}");
            }
        }
    }
}
