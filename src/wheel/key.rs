//! What names a timer, and what comes of one that fired.

use std::num::{NonZeroU32, NonZeroU64};

/// Names a timer of the [`Wheel`](super::Wheel) that returned it.
///
/// A key is never reused: once its timer fired or was cancelled, it names nothing, whatever is
/// inserted later. A key given to another wheel than its own may name any timer there.
///
/// # Examples
///
/// ```
/// use nebnet::wheel::Wheel;
///
/// let mut wheel = Wheel::new(0);
/// let old = wheel.insert(10, 'a');
/// wheel.cancel(old);
/// let new = wheel.insert(10, 'b'); // takes the storage of the first
/// assert_ne!(old, new);
/// assert_eq!(wheel.cancel(old), None);
/// assert_eq!(wheel.cancel(new), Some('b'));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimerKey {
    pub(super) index: u32,
    pub(super) generation: NonZeroU64,
}

/// Where a timer is stored: names it for as long as it has neither fired nor been cancelled, in a
/// quarter of the space of its key. A key that is kept is to be forgotten then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimerPlace(pub(super) NonZeroU32);

impl TimerKey {
    pub(crate) fn place(self) -> TimerPlace {
        // No index is that large: it is the one that stands for no timer.
        TimerPlace(NonZeroU32::MIN.saturating_add(self.index))
    }
}

/// A timer that fired. Its key names nothing any more.
///
/// # Examples
///
/// ```
/// use nebnet::wheel::Wheel;
///
/// let mut wheel = Wheel::new(0);
/// let key = wheel.insert(10, 'a');
/// let expired = wheel.poll(25).unwrap();
/// assert_eq!((expired.key, expired.deadline, expired.value), (key, 10, 'a'));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Expired<T> {
    /// The key under which the timer was known.
    pub key: TimerKey,
    /// The deadline as it was asked for, in ticks; how late the timer is, the caller can tell.
    pub deadline: u64,
    /// What was inserted.
    pub value: T,
}
