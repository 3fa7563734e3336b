//! The counts of each message type: the rows that threads share, the map from a type to its row,
//! and what a row says when it is read.
//!
//! The number of rows is bounded by `TYPE_COUNTERS_MAX`; later types share the last one, so that
//! the rows add up to the sums of all types.

use super::{
    counters::{Counter, TrafficCounter},
    traffic::Traffic,
};
use crate::{id::MessageType, limits::TYPE_COUNTERS_MAX};

/// Traffic per message type, for the first types that are seen; the others share the last row.
///
/// The rows are shared, the map from type to row is its writer's alone: [`TypeMap`].
#[derive(Debug)]
pub(crate) struct TypeRows {
    used: Counter,
    rows: Box<[TypeCell]>,
}

#[derive(Debug, Default)]
struct TypeCell {
    message_type: Counter,
    traffic: TrafficCounter,
    /// What became of messages that were dispatched.
    claimed: Counter,
    unclaimed: Counter,
    answers: Counter,
}

impl Default for TypeRows {
    fn default() -> Self {
        Self {
            used: Counter::default(),
            rows: (0..=TYPE_COUNTERS_MAX)
                .map(|_| TypeCell::default())
                .collect(),
        }
    }
}

impl TypeRows {
    #[inline]
    pub(crate) fn add(&self, row: u16, traffic: Traffic) {
        self.rows[usize::from(row)].traffic.add(traffic);
    }

    /// Messages that were dispatched, and whether anybody's types matched them.
    #[inline]
    pub(crate) fn add_offered(&self, row: u16, traffic: Traffic, is_claimed: bool) {
        let cell = &self.rows[usize::from(row)];
        cell.traffic.add(traffic);
        if is_claimed {
            cell.claimed.add(traffic.messages);
        } else {
            cell.unclaimed.add(traffic.messages);
        }
    }

    /// Messages that were dispatched, and are answers to our requests.
    pub(crate) fn add_answers(&self, row: u16, traffic: Traffic) {
        let cell = &self.rows[usize::from(row)];
        cell.traffic.add(traffic);
        cell.answers.add(traffic.messages);
    }

    /// The rows, of what the dispatcher counts.
    pub(crate) fn dispatched(&self) -> impl Iterator<Item = TypeTraffic> + '_ {
        self.each().map(|(message_type, cell)| TypeTraffic {
            inbound: cell.traffic.get(),
            claimed: cell.claimed.get(),
            unclaimed: cell.unclaimed.get(),
            answers: cell.answers.get(),
            ..TypeTraffic::new(message_type)
        })
    }

    /// The rows, of what the loop gives to handlers.
    pub(super) fn handled(&self) -> impl Iterator<Item = TypeTraffic> + '_ {
        self.each().map(|(message_type, cell)| TypeTraffic {
            inbound: cell.traffic.get(),
            handled: cell.traffic.messages.get(),
            ..TypeTraffic::new(message_type)
        })
    }

    /// The rows, of what is written.
    pub(super) fn written(&self) -> impl Iterator<Item = TypeTraffic> + '_ {
        self.each().map(|(message_type, cell)| TypeTraffic {
            outbound: cell.traffic.get(),
            ..TypeTraffic::new(message_type)
        })
    }

    fn each(&self) -> impl Iterator<Item = (Option<MessageType>, &TypeCell)> + '_ {
        let used = usize::try_from(self.used.get())
            .unwrap_or(0)
            .min(TYPE_COUNTERS_MAX);
        let named = self.rows[..used].iter().map(|row| {
            let number = u16::try_from(row.message_type.get()).unwrap_or(u16::MAX);
            (Some(MessageType(number)), row)
        });
        named.chain([(None, &self.rows[TYPE_COUNTERS_MAX])])
    }
}

/// The writer's map from a message type to its row: 128 KiB once a type was counted.
#[derive(Debug, Default)]
pub(crate) struct TypeMap {
    /// Row plus one; zero is not yet seen.
    rows: Vec<u16>,
    used: u16,
}

impl TypeMap {
    /// The row of a type, which is given one if there are any left.
    #[inline]
    pub(crate) fn row(&mut self, message_type: MessageType, shared: &TypeRows) -> u16 {
        match self.rows.get(usize::from(message_type.0)) {
            Some(&row) if row != 0 => row - 1,
            Some(_) | None => self.assign(message_type, shared),
        }
    }

    #[cold]
    fn assign(&mut self, message_type: MessageType, shared: &TypeRows) -> u16 {
        if self.rows.is_empty() {
            self.rows = vec![0; 1 << 16];
        }
        let row = self.used;
        if usize::from(row) < TYPE_COUNTERS_MAX {
            shared.rows[usize::from(row)]
                .message_type
                .set(u64::from(message_type.0));
            shared.used.add(1);
            self.used += 1;
        }
        self.rows[usize::from(message_type.0)] = row + 1;
        row
    }
}

/// Traffic of one message type: `inbound.messages = handled + claimed + unclaimed + answers`.
///
/// A message counts here once it is handled or dispatched. What waits for the dispatcher or was
/// lost on the way there is counted for all types together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TypeTraffic {
    /// The type; `None` stands for all types beyond the first 1,024 that were seen. The loop and
    /// the dispatcher each see types in their own order, so with more of them the messages of one
    /// type may be in two rows.
    pub message_type: Option<MessageType>,
    /// Dispatched, or given to an inline handler.
    pub inbound: Traffic,
    /// Given to an inline handler.
    pub handled: u64,
    /// Dispatched, and matched by at least one subscriber's types.
    pub claimed: u64,
    /// Dispatched, and matched by no subscriber's types.
    pub unclaimed: u64,
    /// Dispatched as answers to our requests, late ones included. No subscriber is offered them.
    pub answers: u64,
    /// Written.
    pub outbound: Traffic,
}

impl TypeTraffic {
    fn new(message_type: Option<MessageType>) -> Self {
        Self {
            message_type,
            ..Self::default()
        }
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.inbound.add(other.inbound);
        self.handled += other.handled;
        self.claimed += other.claimed;
        self.unclaimed += other.unclaimed;
        self.answers += other.answers;
        self.outbound.add(other.outbound);
    }

    /// A row for each type, of rows of several counts; without those of which there is nothing.
    pub(crate) fn merge(parts: impl IntoIterator<Item = Self>) -> Vec<Self> {
        let mut rows: Vec<Self> = parts.into_iter().collect();
        // `None`, the shared row, sorts last.
        rows.sort_by_key(|row| (row.message_type.is_none(), row.message_type));
        rows.dedup_by(|row, kept| {
            let is_same = row.message_type == kept.message_type;
            if is_same {
                kept.add(row);
            }
            is_same
        });
        // Of a message that is partly written, there are bytes.
        rows.retain(|row| row.inbound.bytes + row.outbound.bytes > 0);
        rows
    }

    /// Adds the rows of another shard.
    pub(super) fn add_all(sums: &mut Vec<Self>, rows: Vec<Self>) {
        *sums = Self::merge(std::mem::take(sums).into_iter().chain(rows));
    }
}
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_beyond_the_table_share_a_row() {
        let (rows, mut map) = (TypeRows::default(), TypeMap::default());
        for number in 0..2_000 {
            let row = map.row(MessageType(number), &rows);
            rows.add_offered(row, Traffic::new(1, 10), number % 2 == 0);
        }
        let merged = TypeTraffic::merge(rows.dispatched().chain(TypeRows::default().written()));
        assert_eq!(merged.len(), TYPE_COUNTERS_MAX + 1);
        let last = merged.last().unwrap();
        assert_eq!(
            (last.message_type, last.inbound),
            (None, Traffic::new(976, 9_760))
        );
        assert_eq!((last.claimed, last.unclaimed), (488, 488));
        assert_eq!(merged[0].inbound, Traffic::new(1, 10));
        assert_eq!((merged[0].claimed, merged[1].unclaimed), (1, 1));
    }
}
