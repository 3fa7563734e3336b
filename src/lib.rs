//! A TCP message core for low-latency servers: typed messages from TCP peers into your threads,
//! and every message accounted for.
//!
//! # Threads
//!
//! | thread | owns | waits in |
//! |---|---|---|
//! | `nebnet-loop` | sockets, peers, timers, outgoing bytes | `poll`, nothing else |
//! | `nebnet-dispatch` | who subscribes to what | the dispatch queue |
//! | yours | your subscriptions | your queues |
//!
//! There is no async runtime, no global state and no signal handler. [`Dispatch::Inline`] does
//! without the second thread. With [`Config::shards`] there are several of the first two, on one
//! port and behind one service.
//!
//! # Path of a message
//!
//! A peer writes a frame: eight bytes and a payload (module [`frame`]). The loop reads as much as
//! is there into one block, judges the headers, and hands the block to the dispatcher: one channel
//! operation per read. The dispatcher offers it to the [`Subscription`]s of its message types, one
//! `try_send` each. A subscriber takes a [`Batch`] and borrows the messages where they were read,
//! or takes owned [`Message`]s one by one. When all have let go of the block, the peer may send
//! more.
//!
//! Answers go through a [`Handle`] from any thread: [`reply`](Handle::reply),
//! [`send`](Handle::send), or many at once with [`send_batch`](Handle::send_batch). None of them
//! waits for the peer, and `Ok` means: written, or counted as lost with the reason.
//!
//! Where a hand-off to another thread is too much, a handler answers on the loop itself
//! ([`NetService::handle_inline`]): it must be short, and is held against a time limit.
//!
//! # What is full, and what then
//!
//! A subscriber that falls behind loses messages alone and is told how many ([`Batch::missed`]), or
//! holds back or closes the peers that sent them, as its [`OverflowPolicy`] says. A peer that does
//! not take its answers is not read any more, and cut off after a while. A dispatcher that falls
//! behind stops the reading; nothing is dropped for it. [`Snapshot`] and [`StopReport`] have the
//! counters, and they add up: [`Handle::balance`] holds them against each other, also while the
//! service runs.
//!
//! # Example
//!
//! ```
//! use std::time::Duration;
//!
//! use nebnet::{Client, Config, MessageType, NetService, OverflowPolicy, SubscribeOptions};
//!
//! let config = Config::default().listen("127.0.0.1:0".parse()?).max_peers(100);
//! let mut service = NetService::new(config)?;
//! let handle = service.handle();
//! // Subscribe, then start: then no message is missed.
//! let options = SubscribeOptions::new(MessageType(7))
//!     .name("greetings")
//!     .overflow(OverflowPolicy::Pause);
//! let mut greetings = handle.subscribe_with(options)?;
//! service.start()?;
//!
//! let mut client = Client::connect(service.local_addrs()[0])?;
//! client.send((MessageType(7), "hi"))?;
//!
//! let batch = greetings.recv_batch()?;
//! for greeting in &batch {
//!     assert_eq!((greeting.peer(), greeting.payload()), (batch.peer(), &b"hi"[..]));
//!     handle.reply(greeting, "hello")?;
//! }
//! drop(batch);
//!
//! assert_eq!(client.recv()?.payload(), b"hello");
//! client.close()?;
//!
//! let report = service.stop(Duration::from_secs(5));
//! assert!(report.drained);
//! let row = &report.snapshot.subscribers[0];
//! assert_eq!((row.matched, row.taken, row.dropped), (1, 1, 0));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Both ways
//!
//! A service also sends of its own accord, and connects to others.
//!
//! ```no_run
//! use std::time::Duration;
//!
//! use nebnet::{
//!     ConnectOptions, Event, HandlerOptions, MessageType, NetService, Outgoing, PeerId, Priority,
//!     Received, Recipients, SubscribeOptions,
//! };
//!
//! # fn both_ways(
//! #     service: &NetService,
//! #     sender: PeerId,
//! #     peer: PeerId,
//! # ) -> Result<(), Box<dyn std::error::Error>> {
//! let handle = service.handle();
//! // What becomes of peers and what they say: through one queue, in its true order.
//! let options = SubscribeOptions::new(MessageType(7)).with_events();
//! let mut inbox = handle.subscribe_with(options)?;
//! match inbox.recv_any()? {
//!     Received::Event(Event::Connected { peer, addr, .. }) => println!("{peer} is {addr}"),
//!     Received::Batch(batch) => println!("{} messages of {}", batch.len(), batch.peer()),
//!     Received::Event(Event::Closed(row)) => println!("that was all of {}", row.peer),
//!     _ => {}
//! }
//! // Stays connected: back-off with full jitter, HELLO, heartbeats; one connection for each node.
//! let link = handle.connect(ConnectOptions::from("gateway:8680").keep_connected(true))?;
//! // Encoded once for all; a peer that is full is left out and named.
//! let report = handle.broadcast((MessageType(7), "101.5"), Recipients::AllBut(sender));
//! // High goes first, low never starves.
//! let urgent = Outgoing::new(MessageType(8), "cancel").priority(Priority::High);
//! let sent = handle.send(peer, urgent);
//! // One result for each request: an answer, a timeout, or the reason of the connection's end.
//! let answer = handle.request(peer, (MessageType(9), "?"), Duration::from_secs(1))?.recv()?;
//! // On the loop itself, one hand-off less; to be set before the start.
//! service.handle_inline(HandlerOptions::new(MessageType(10)), |message, replier| {
//!     let _ = replier.reply(message.payload());
//! })?;
//! # let _ = (link, report, sent, answer);
//! # Ok(())
//! # }
//! ```
//!
//! # Layers
//!
//! - **A first program**: [`Config`], [`NetService`], [`Handle`], [`MessageType`],
//!   [`Subscription`], [`Batch`], [`MessageRef`], [`PeerId`], [`StopReport`], [`Client`].
//! - **A server that receives**: [`SubscribeOptions`], [`OverflowPolicy`], [`TypeFilter`],
//!   [`Received`], [`Message`], [`Delivery`], [`HandlerOptions`], [`Replier`], [`Timers`].
//! - **A server that sends**: [`Outgoing`], [`Priority`], [`Rejected`], [`SendError`],
//!   [`OutgoingBatch`], [`Recipients`], [`PendingReply`], [`Replies`], [`OutboxFull`].
//! - **Its peers**: [`Event`], [`CloseReason`], [`ConnectOptions`], [`PeerInfo`], [`ReplyTo`],
//!   [`NodeId`], [`LinkId`], [`ListenerInfo`].
//! - **Its operator**: [`Snapshot`], [`Balance`], [`PeerRow`], [`ClosedRow`], [`SubscriberRow`],
//!   [`QueueGauge`], [`Setting`], [`Reconfigured`], [`ServiceFailure`].
//! - **Used alone**: [`frame`] and [`wheel`], the parser and the timer wheel.
//!
//! # Where to read on
//!
//! [`NetService`] begins and ends everything, [`Config`] has the bounds, [`SubscribeOptions`]
//! those of a subscriber, [`CloseReason`] the ways in which a connection ends. [`Client`] is a peer
//! without a service of its own. The repository's `docs` folder has the architecture, every byte of
//! the wire format, and the reasons for both; `docs/examples` has programs.

// Ranks: a module imports only from lower ranks. `tests/tidy.rs` reads them here.

// 0
mod clock;
mod id;
mod limits;
mod policy;
#[cfg(any(test, fuzzing))]
mod script;
mod sync;
// 1
mod budget;
mod error;
// 2
mod address;
mod doorbell;
pub mod frame;
mod idle;
mod ledger;
mod log_limiter;
mod resolve;
pub mod wheel;
// 3
mod balance;
mod config;
mod dial;
mod event;
mod outgoing;
mod read_ahead;
mod slots;
mod socket;
mod threads;
// 4
mod block;
mod client;
mod host;
mod outbox;
mod timers;
// 5
mod dispatch;
mod inline;
mod peer;
// 6
mod handle;
mod peers;
// 7
mod event_loop;
// 8
mod service;
#[cfg(test)]
mod tests;
#[cfg(feature = "workbench")]
#[doc(hidden)]
pub mod workbench;

pub use address::parse_address;
pub use balance::{Balance, Equation, Subject};
/// What `tests/fuzz` calls.
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzz {
    pub fn config(data: &[u8]) {
        crate::config::fuzz::config(data);
    }

    pub fn decode(data: &[u8]) {
        crate::frame::fuzz::decode(data);
    }

    pub fn peer(data: &[u8]) {
        crate::peer::fuzz::peer(data);
    }

    pub fn protocol(data: &[u8]) {
        crate::frame::fuzz::protocol(data);
    }

    pub fn wheel(data: &[u8]) {
        crate::wheel::model::wheel(data);
    }
}

pub use block::{Message, MessageRef};
pub use client::{Client, ClientError, ClientMessage, ClientOptions};
pub use config::{Config, Dispatch, Reconfigured, Setting, SettingValue};
/// The version whose channels and `select!` this API works with.
pub use crossbeam_channel;
pub use dial::ConnectOptions;
pub use dispatch::{
    Batch, ChannelSubscription, Delivery, EndReason, EventDelivery, EventIter, EventOptions,
    EventSubscription, Iter, Messages, Opened, OverflowPolicy, PendingReply, Received, Replies,
    Reply, SubscribeOptions, Subscription, TryIter, TypeFilter,
};
pub use error::{
    AddressError, CloseReason, ConfigError, ConnectError, DialError, FrameError, HandlerError,
    ListenError, MemoryError, QueryError, ReconfigureError, RecvError, RecvTimeoutError,
    RequestError, SendError, ServiceFailure, StartError, SubscribeError, TimerError, TryRecvError,
};
pub use event::{Event, PauseCause};
pub use handle::{Handle, ListenerInfo, OutgoingBatch, ReplyTo};
pub use id::{
    LinkId, ListenerId, MessageType, NodeId, PeerId, PeerIdentity, RequestId, SubscriberId,
};
pub use idle::IdleStrategy;
pub use inline::Replier;
pub use ledger::{
    ClosedRow, DepartedRow, EventSubscriberRow, HandlerRow, PauseRow, PeerRow, QueueGauge,
    RequestRow, ServiceState, ShardRow, Snapshot, StopReport, StopRow, SubscriberRow, Traffic,
    TypeTraffic,
};
pub use outgoing::{Outgoing, Payload, Rejected};
pub use peers::HandlerOptions;
pub use policy::{OutboxFull, Priority};
pub use service::{NetService, Never};
pub use slots::{BroadcastReport, PeerInfo, Recipients};
pub use timers::{TimerDelivery, TimerExpired, TimerId, Timers};
