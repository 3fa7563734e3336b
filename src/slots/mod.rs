//! What a connection shares with other threads: its outgoing tail, its credit, its doorbell.
//!
//! The loop owns everything about a peer except for one [`Slot`]. Other threads reach the slot by
//! the peer's id: a sender appends encoded frames to its tail, whoever drops the last reference to
//! a block returns the credit, the dispatcher holds the peer back. Each of them then marks the
//! slot dirty for the loop, at most once until the loop has looked.
//!
//! The tail stands behind a mutex that is held for a copy of at most a few kilobytes. Senders may
//! wait for each other there; the loop never does: it tries the lock and comes back in its next
//! turn. The generation is compared under the same lock, so whether a message was accepted is
//! decided at one place and cannot be wrong.
//!
//! A slot is small until something is sent or read: what it counts, and its tail, are made then.
//! The counts stay for the slot's next connections, because they are reached without a lock; the
//! tail is given up when the connection becomes dormant.
//!
//! Invariants, per connection:
//! - `written + overflowed <= accepted`, in messages and in bytes; the difference is what is
//!   queued. What the loop sends itself is taken off `written` rather than added to `accepted`, so
//!   that each has one writer
//! - `queued <= limit`, or exactly one message is queued
//! - bytes leased from the budget `>=` bytes of the storage of what is queued, after every send and
//!   whenever the loop has [told](Slots::note_slack) what it holds; but a sixteenth of a segment
//!   and 64 bytes, and frames of the protocol with their places
//! - the loop's own sends ([`accept_inline`](Slots::accept_inline)) take no lock: both of the above
//!   may be passed by one send of another thread that is under way at the same moment
//! - a slot index is in the dirty list at most once
//!
//! The files, each of which imports from earlier ones only: `addr`, `segment` and `tail`; `cells`,
//! what is counted on one side and read on the other; `slot`, the state of one; `item`, what is to
//! be accepted; `table`, all of them, and the dirty list; `leases` of the budget; `credit`; `room`,
//! which senders wait for; `sending`; `taking`, the loop's side of the same; `lifecycle`;
//! `broadcast`.

mod addr;
mod broadcast;
mod cells;
mod credit;
mod item;
mod leases;
mod lifecycle;
mod room;
mod segment;
mod sending;
mod slot;
mod table;
mod tail;
mod taking;
#[cfg(test)]
mod tests;

pub(crate) use broadcast::SharedFrame;
pub use broadcast::{BroadcastReport, PeerInfo, Recipients};
pub(crate) use cells::{Flow, Sums};
pub(crate) use credit::never_waits;
pub(crate) use lifecycle::{About, OpenError};
pub(crate) use segment::{Run, Segment, push_behind, slack_bytes};
pub(crate) use slot::{Contended, Refusals};
pub(crate) use table::{OutboxLimits, Slots};
pub(crate) use tail::{OutFrame, OutFrames};
pub(crate) use taking::{Take, Taken};
