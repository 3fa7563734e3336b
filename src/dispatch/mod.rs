//! Fan-out: who gets which messages, and what happens when one of them is full.
//!
//! The dispatcher takes blocks from the dispatch queue, looks up the subscribers of their message
//! types in a dense table and offers each of them the part it asked for: one channel operation per
//! block and subscriber, none per message. It never waits for a subscriber. What does not fit is
//! dropped and counted, or parked, as the subscriber chose.
//!
//! The same code runs on a thread of its own ([`worker`]) or on the loop.

mod account;
mod answers;
pub(crate) mod channel;
mod direct;
mod entry;
mod events;
mod fan_out;
mod fill;
mod index;
mod mixed;
mod options;
mod outlet;
mod queue;
mod registry;
mod replies;
mod requests;
mod shard_counters;
mod subscription;
mod tally;
#[cfg(test)]
mod tests;
mod worker;

pub use events::{EventDelivery, EventIter, EventOptions, EventSubscription};
pub use mixed::{Delivery, Opened, Received};
pub use options::{EndReason, OverflowPolicy, SubscribeOptions, TypeFilter};
pub use replies::{PendingReply, Replies, Reply};
pub use subscription::{Batch, ChannelSubscription, Iter, Messages, Subscription, TryIter};

pub(crate) use direct::{DirectDispatch, PendingWakes};
pub(crate) use fan_out::FanOut;
pub(crate) use outlet::Outlet;
pub(crate) use queue::{DispatchQueue, Item, Poke, PushError, QueueBounds};
pub(crate) use registry::Registry;
pub(crate) use replies::Waiter;
pub(crate) use requests::{Notice, Requests, is_answer};
pub(crate) use worker::{OnTick, Worker, panic_message};
