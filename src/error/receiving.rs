//! Subscribers, timers, and queues that have nothing to give.

use std::{error::Error, fmt, time::Duration};

/// Why [`Handle::subscribe`](crate::Handle::subscribe) failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The types asked for are none, or all belong to the protocol.
    NoTypes,
    /// A bound of the queue is outside of its range.
    OutOfRange {
        /// Which bound: `messages`, `bytes`, `event_capacity` or, of events alone, `capacity`.
        setting: &'static str,
        /// The value given.
        value: usize,
        /// The largest value allowed; the smallest is 1.
        max: usize,
    },
    /// The service has as many subscribers as it may have.
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// A channel of the embedder's can neither give up its oldest messages nor let others wait
    /// behind it: [`OverflowPolicy::DropOldest`](crate::OverflowPolicy::DropOldest) and
    /// [`OverflowPolicy::Pause`](crate::OverflowPolicy::Pause) need a queue of the service's own.
    /// So do events and timers among the messages.
    NeedsOwnQueue,
    /// The timers asked for by
    /// [`SubscribeOptions::with_timers`](crate::SubscribeOptions::with_timers) are not to be had.
    Timers(TimerError),
    /// The service has stopped or failed.
    Stopped,
}

impl fmt::Display for SubscribeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTypes => f.write_str("no application type to subscribe to"),
            Self::OutOfRange {
                setting,
                value,
                max,
            } => {
                write!(
                    f,
                    "{setting} of the subscriber is {value}, allowed are 1 to {max}"
                )
            }
            Self::TooMany { limit } => write!(f, "all {limit} subscribers are taken"),
            Self::NeedsOwnQueue => f.write_str(
                "the overflow policy, events or timers need a queue of the service's own",
            ),
            Self::Timers(_) => f.write_str("the subscriber's timers cannot be made"),
            Self::Stopped => f.write_str("the service has stopped"),
        }
    }
}

impl Error for SubscribeError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Timers(error) => Some(error),
            Self::NoTypes
            | Self::OutOfRange { .. }
            | Self::TooMany { .. }
            | Self::NeedsOwnQueue
            | Self::Stopped => None,
        }
    }
}

/// Why a timer was not set, or [`Handle::timers`](crate::Handle::timers) failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TimerError {
    /// The number of timers asked for is zero or too large.
    Capacity {
        /// The value given.
        value: usize,
        /// The largest value allowed.
        max: usize,
    },
    /// All timers of the queue are set, or the service has as many queues as it may have.
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// The duration is longer than 365 days, or a period of zero.
    Duration(Duration),
    /// The service has stopped or failed.
    Stopped,
}

impl fmt::Display for TimerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Capacity { value, max } => {
                write!(f, "capacity of timers is {value}, allowed are 1 to {max}")
            }
            Self::TooMany { limit } => write!(f, "all {limit} timers are taken"),
            Self::Duration(duration) => {
                write!(f, "a timer cannot be set for {duration:?}")
            }
            Self::Stopped => f.write_str("the service has stopped"),
        }
    }
}

impl Error for TimerError {}

/// The service stopped, or removed the subscriber, and everything that it had for it was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecvError;

impl fmt::Display for RecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the subscription has ended and the queue is empty")
    }
}

impl Error for RecvError {}

/// Why nothing was taken without waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TryRecvError {
    /// Nothing is there now.
    Empty,
    /// As [`RecvError`].
    Disconnected,
}

impl fmt::Display for TryRecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the queue is empty"),
            Self::Disconnected => RecvError.fmt(f),
        }
    }
}

impl Error for TryRecvError {}

/// Why nothing was taken within the time given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecvTimeoutError {
    /// The time is over.
    Timeout,
    /// As [`RecvError`].
    Disconnected,
}

impl fmt::Display for RecvTimeoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => f.write_str("nothing came in time"),
            Self::Disconnected => RecvError.fmt(f),
        }
    }
}

impl Error for RecvTimeoutError {}
