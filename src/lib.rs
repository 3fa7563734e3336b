//! A TCP message core for low-latency servers.
//!
//! One thread owns every peer, parses length-prefixed frames and keeps the timers; a dispatcher
//! thread fans the messages out, by their type, to the queues of subscribers, and waits for none of
//! them. There is no async runtime.

// Ranks: a module imports only from lower ranks. `tests/tidy.rs` holds the table.

// 0
mod clock;
mod error;
mod id;
mod limits;
// 1
mod doorbell;
pub mod frame;
mod ledger;
mod quiet;
pub mod wheel;
// 2
mod config;
mod slots;
mod socket;
// 3
mod block;
mod outbox;
// 4
mod dispatch;
mod peer;
// 5
mod handle;
mod peers;
// 6
mod node;
// 7
mod service;
#[cfg(test)]
mod tests;

pub use block::{Message, MessageRef};
pub use config::{Config, Dispatch};
pub use dispatch::{
    Batch, ChannelSubscription, Delivery, Iter, Messages, Overflow, SubscribeOptions, Subscription,
    TryIter, Types,
};
pub use error::{
    CloseReason, ConfigError, FrameError, RecvError, RecvTimeoutError, SendError, ServiceFailure,
    StartError, SubscribeError, TryRecvError,
};
pub use handle::{Handle, Outgoing, OutgoingBatch, Payload, Rejected, ReplyTo};
pub use id::{MessageType, PeerId, SubscriberId};
pub use ledger::{
    ClosedRow, PeerRow, QueueGauge, ServiceState, Snapshot, StopReport, SubscriberRow, Traffic,
    TypeTraffic,
};
pub use service::{NetService, Never};
