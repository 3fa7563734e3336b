//! What a subscriber asks for.

use std::{
    fmt,
    ops::{Range, RangeInclusive},
};

use crate::{
    error::SubscribeError,
    id::MessageType,
    idle::IdleStrategy,
    limits::{
        QUEUE_MESSAGES_MAX_CEILING, SUBSCRIBER_BYTES_MAX_DEFAULT, SUBSCRIBER_EVENTS_MAX_DEFAULT,
        SUBSCRIBER_MESSAGES_MAX_DEFAULT,
    },
};

/// The message types of a subscriber.
///
/// # Examples
///
/// ```
/// use nebnet::{MessageType, TypeFilter};
///
/// let one = TypeFilter::from(MessageType(7));
/// let some = TypeFilter::from([MessageType(7), MessageType(9)]);
/// let range = TypeFilter::from(MessageType(0x100)..=MessageType(0x1FF));
/// assert!(range.contains(MessageType(0x180)) && !range.contains(MessageType(7)));
/// assert!(TypeFilter::all().contains(MessageType(0xFEFF)));
/// // The protocol's own messages are never dispatched.
/// assert!(!TypeFilter::all().contains(MessageType(0xFF00)));
/// # let _ = (one, some);
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct TypeFilter(Set);

#[derive(Clone, PartialEq, Eq)]
enum Set {
    All,
    One(MessageType),
    /// A bit per type.
    Several(Box<[u64]>),
}

const WORDS: usize = (1 << 16) / 64;

impl TypeFilter {
    /// Every type of the application: a tap.
    #[must_use]
    pub const fn all() -> Self {
        Self(Set::All)
    }

    /// Whether messages of the type are asked for.
    #[must_use]
    #[inline]
    pub fn contains(&self, message_type: MessageType) -> bool {
        match &self.0 {
            _ if message_type.is_protocol() => false,
            Set::All => true,
            Set::One(one) => *one == message_type,
            Set::Several(bits) => {
                let number = usize::from(message_type.0);
                bits[number / 64] >> (number % 64) & 1 != 0
            }
        }
    }

    /// The types one by one; `None` for all of the application's.
    pub(crate) fn each(&self) -> Option<impl Iterator<Item = MessageType> + '_> {
        let (one, bits) = match &self.0 {
            Set::All => return None,
            Set::One(one) => (Some(*one).filter(|one| !one.is_protocol()), [].as_slice()),
            Set::Several(bits) => (None, &**bits),
        };
        let several = bits.iter().zip(0_u16..).flat_map(|(word, index)| {
            (0..64_u16)
                .filter(move |bit| word >> bit & 1 != 0)
                .map(move |bit| MessageType(index * 64 + bit))
        });
        Some(one.into_iter().chain(several))
    }

    fn several(types: impl Iterator<Item = MessageType>) -> Self {
        let mut bits = vec![0; WORDS].into_boxed_slice();
        for message_type in types.filter(|message_type| !message_type.is_protocol()) {
            let number = usize::from(message_type.0);
            bits[number / 64] |= 1 << (number % 64);
        }
        Self(Set::Several(bits))
    }

    pub(crate) fn is_empty(&self) -> bool {
        match &self.0 {
            Set::All => false,
            Set::One(one) => one.is_protocol(),
            Set::Several(bits) => bits.iter().all(|word| *word == 0),
        }
    }
}

impl From<MessageType> for TypeFilter {
    fn from(message_type: MessageType) -> Self {
        Self(Set::One(message_type))
    }
}

impl From<&[MessageType]> for TypeFilter {
    fn from(types: &[MessageType]) -> Self {
        match types {
            [one] => (*one).into(),
            _ => Self::several(types.iter().copied()),
        }
    }
}

impl<const N: usize> From<[MessageType; N]> for TypeFilter {
    fn from(types: [MessageType; N]) -> Self {
        types.as_slice().into()
    }
}

impl<const N: usize> From<&[MessageType; N]> for TypeFilter {
    fn from(types: &[MessageType; N]) -> Self {
        types.as_slice().into()
    }
}

impl From<Vec<MessageType>> for TypeFilter {
    fn from(types: Vec<MessageType>) -> Self {
        types.as_slice().into()
    }
}

impl From<RangeInclusive<MessageType>> for TypeFilter {
    fn from(range: RangeInclusive<MessageType>) -> Self {
        Self::several((range.start().0..=range.end().0).map(MessageType))
    }
}

impl From<Range<MessageType>> for TypeFilter {
    fn from(range: Range<MessageType>) -> Self {
        Self::several((range.start.0..range.end.0).map(MessageType))
    }
}

impl fmt::Debug for TypeFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Set::All => f.write_str("TypeFilter::all()"),
            Set::One(one) => write!(f, "TypeFilter({one})"),
            Set::Several(_) => {
                let types = (0..u16::MAX)
                    .map(MessageType)
                    .filter(|one| self.contains(*one));
                f.debug_set()
                    .entries(types.take(16))
                    .finish_non_exhaustive()
            }
        }
    }
}

/// What happens to messages that do not fit a subscriber's queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OverflowPolicy {
    /// They are dropped and counted; the next batch says how many are missing before it.
    #[default]
    DropNewest,
    /// They wait, and the peers that sent them are not read until there is room: nothing is lost.
    ///
    /// What waits is charged to the dispatch queue's byte bound. While that holds, only those peers
    /// stop; when it is used up, all reading stops.
    Pause,
    /// The oldest in the queue make room: whole batches of it are dropped and counted until the new
    /// messages fit, so what is in the queue is always the latest. The next batch says how many are
    /// missing before it.
    ///
    /// Of a batch that is longer than the whole queue, the last messages are kept. What the
    /// subscriber has taken out of the queue is out of reach. Only for a queue of the service's
    /// own.
    DropOldest,
    /// They are dropped and counted, and the peer that sent them is closed in order, with
    /// [`CloseReason::Flood`](crate::CloseReason::Flood): once, however many of its messages still
    /// come. What is on its way to the peer may take 500 ms to be written.
    Close,
    /// They are dropped and counted, and the subscriber is removed: it gets what is in its queue
    /// and then finds the end, and
    /// [`Subscription::end_reason`](crate::Subscription::end_reason) says why.
    Unsubscribe,
}

/// Why there will be nothing more for a subscriber; see
/// [`Subscription::end_reason`](crate::Subscription::end_reason).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndReason {
    /// The service has stopped or failed.
    Stopped,
    /// Its queue was full, and it had asked for [`OverflowPolicy::Unsubscribe`].
    Overflow,
}

/// How to subscribe.
///
/// # Examples
///
/// ```
/// use nebnet::{MessageType, OverflowPolicy, SubscribeOptions};
///
/// let options = SubscribeOptions::new(MessageType(7))
///     .name("orders")
///     .messages(1_000_000)
///     .bytes(64 << 20)
///     .overflow(OverflowPolicy::Pause);
/// # let _ = options;
/// ```
#[derive(Clone, Debug)]
pub struct SubscribeOptions {
    pub(crate) types: TypeFilter,
    pub(crate) name: Option<String>,
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
    pub(crate) overflow: OverflowPolicy,
    pub(crate) idle: IdleStrategy,
    pub(crate) events: bool,
    pub(crate) event_capacity: usize,
    /// Timers of its own; zero for none.
    pub(crate) timers: usize,
}

impl SubscribeOptions {
    /// A subscriber of the types, with the defaults.
    #[must_use]
    pub fn new(types: impl Into<TypeFilter>) -> Self {
        Self {
            types: types.into(),
            name: None,
            messages: SUBSCRIBER_MESSAGES_MAX_DEFAULT,
            bytes: SUBSCRIBER_BYTES_MAX_DEFAULT,
            overflow: OverflowPolicy::default(),
            idle: IdleStrategy::default(),
            events: false,
            event_capacity: SUBSCRIBER_EVENTS_MAX_DEFAULT,
            timers: 0,
        }
    }

    /// The name that reports and logs show; default `subscriber-N`.
    #[must_use]
    pub fn name(self, name: impl Into<String>) -> Self {
        Self {
            name: Some(name.into()),
            ..self
        }
    }

    /// Messages that the queue holds: 1 to 2^22, default 8,192. The bound costs nothing: a batch in
    /// the queue takes 64 bytes beside its storage, and an empty queue takes 3 KiB.
    #[must_use]
    pub fn messages(self, count: usize) -> Self {
        Self {
            messages: count,
            ..self
        }
    }

    /// Bytes of storage that the queue may hold, default 16 MiB. An empty queue takes one batch of
    /// any size.
    #[must_use]
    pub fn bytes(self, bytes: usize) -> Self {
        Self { bytes, ..self }
    }

    /// What happens to messages that do not fit; default [`OverflowPolicy::DropNewest`].
    #[must_use]
    pub fn overflow(self, overflow: OverflowPolicy) -> Self {
        Self { overflow, ..self }
    }

    /// What the subscriber's thread does in [`recv`](crate::Subscription::recv) and the like while
    /// nothing is there; default [`IdleStrategy::default`]. `select!` does not look at it.
    #[must_use]
    pub fn idle(self, idle: IdleStrategy) -> Self {
        Self { idle, ..self }
    }

    /// What becomes of peers comes through the same queue as the messages, in its true order: see
    /// [`Subscription::recv_any`](crate::Subscription::recv_any).
    ///
    /// Of a peer the queue has all of this or nothing: `Connected`, then messages, then `Closed`.
    /// [`event_capacity`](Self::event_capacity) says how many events may be in the queue beside the
    /// messages. When they are as many:
    ///
    /// - with [`OverflowPolicy::Pause`] every event waits, as messages do and behind those that
    ///   wait already; when 4,096 events wait, the loop reads and accepts nothing more
    /// - else `Hello` and `Closed` enter all the same: at most two for each connection
    /// - `Connected` is dropped, and everything of the peer with it, its messages too
    /// - the others are dropped, alone
    /// - what is dropped closes the peer with [`OverflowPolicy::Close`], and ends the subscription
    ///   with [`OverflowPolicy::Unsubscribe`]
    ///
    /// What is dropped is counted, in the row of the subscriber's events and, of messages, in its
    /// own; [`missed_events`](crate::Subscription::missed_events) says where events are missing.
    /// Messages that are dropped for want of room take no event with them.
    #[must_use]
    pub fn with_events(self) -> Self {
        Self {
            events: true,
            ..self
        }
    }

    /// Events that the queue holds beside its messages: 1 to 2^22, default 8,192. Each costs up to
    /// 370 bytes while it is there, and nothing before. Only with
    /// [`with_events`](Self::with_events).
    #[must_use]
    pub fn event_capacity(self, capacity: usize) -> Self {
        Self {
            event_capacity: capacity,
            ..self
        }
    }

    /// So many timers, 1 to 2^20, may be set by [`Subscription::after`](crate::Subscription::after)
    /// and [`every`](crate::Subscription::every) and expire into the same queue as the messages,
    /// behind everything that the loop (of several, the first) had read when their time was over:
    /// an answer that came in time is in front of its timeout. They take no room from messages and
    /// events, and none is lost. A service has up to 256 such subscribers and
    /// [`Timers`](crate::Timers).
    #[must_use]
    pub fn with_timers(self, capacity: usize) -> Self {
        Self {
            timers: capacity,
            ..self
        }
    }

    /// Whether the queue holds anything besides messages.
    pub(crate) fn is_mixed(&self) -> bool {
        self.events || self.timers > 0
    }

    pub(crate) fn validate(&self) -> Result<(), SubscribeError> {
        if self.types.is_empty() {
            return Err(SubscribeError::NoTypes);
        }
        let ranges = [
            ("messages", self.messages, QUEUE_MESSAGES_MAX_CEILING),
            ("bytes", self.bytes, usize::MAX),
            (
                "event_capacity",
                self.event_capacity,
                QUEUE_MESSAGES_MAX_CEILING,
            ),
        ];
        for (setting, value, max) in ranges {
            if value == 0 || value > max {
                return Err(SubscribeError::OutOfRange {
                    setting,
                    value,
                    max,
                });
            }
        }
        Ok(())
    }
}
