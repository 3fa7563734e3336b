//! What an embedder can set, with defaults that are valid as they stand.
//!
//! Validation happens once, in [`Config::problems`]; everything behind it relies on the ranges.

mod builder;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod live;
mod problems;
mod settings;

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use crate::{id::NodeId, idle::IdleStrategy, limits, policy::OutboxFull};

pub use live::Reconfigured;
pub use settings::{Setting, SettingValue};

/// Where the fan-out to subscribers runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Dispatch {
    /// On a thread of its own, behind the dispatch queue. A burst waits there instead of in the
    /// kernel, and the loop does no work per subscriber; only what a small read brought for at most
    /// two of them it hands over itself, while that thread has nothing to do.
    #[default]
    Thread,
    /// On the loop's thread: one hand-off less. With many subscribers the loop has less time to
    /// read.
    Inline,
}

/// What proves the right to connect. Never shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Token(Vec<u8>);

impl Token {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn size(&self) -> u64 {
        self.0.len() as u64
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// The settings of a service.
///
/// Every setter replaces its value and leaves the others. A timeout that may be off takes a
/// `Duration`, or `None` for off; zero is off, too. Timeouts are rounded up to milliseconds.
///
/// [`Config::settings`] tells names, ranges and defaults to a program.
///
/// # Examples
///
/// ```
/// use nebnet::Config;
///
/// let config = Config::default()
///     .listen("127.0.0.1:0".parse()?)
///     .max_payload(64 << 10)
///     .max_peers(100);
/// assert!(config.validate().is_ok());
///
/// let error = config.max_payload(0).validate().unwrap_err();
/// assert_eq!(error.to_string(), "max_payload is 0 bytes, allowed are 1 to 268435456");
/// # Ok::<(), std::net::AddrParseError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub(crate) listen: Vec<SocketAddr>,
    listen_is_default: bool,
    pub(crate) shards: usize,
    pub(crate) max_payload: u32,
    pub(crate) max_peers: usize,
    pub(crate) max_peers_per_addr: usize,
    pub(crate) max_pending: usize,
    pub(crate) checksums: bool,
    pub(crate) require_checksums: bool,
    pub(crate) first_frame_timeout: Duration,
    pub(crate) frame_timeout: Duration,
    pub(crate) idle_timeout: Duration,
    pub(crate) write_stall_timeout: Duration,
    pub(crate) tcp_user_timeout: Duration,
    pub(crate) connect_timeout: Duration,
    pub(crate) reconnect_min: Duration,
    pub(crate) reconnect_max: Duration,
    pub(crate) heartbeat_interval: Duration,
    pub(crate) heartbeat_timeout: Duration,
    pub(crate) send_buffer: usize,
    pub(crate) recv_buffer: usize,
    pub(crate) notsent_lowat: usize,
    pub(crate) outbox_bytes: usize,
    pub(crate) outbox_messages: usize,
    pub(crate) outbox_full: OutboxFull,
    pub(crate) memory_budget: usize,
    /// Asked for, and not the default.
    pub(crate) memory_budget_is_set: bool,
    pub(crate) max_requests: usize,
    pub(crate) require_hello: bool,
    pub(crate) network_id: u32,
    pub(crate) node_id: NodeId,
    pub(crate) token: Token,
    pub(crate) accept_tokens: Vec<Token>,
    pub(crate) agent: String,
    pub(crate) dispatch: Dispatch,
    pub(crate) dispatch_messages: usize,
    pub(crate) dispatch_bytes: usize,
    pub(crate) idle: IdleStrategy,
    pub(crate) thread_name: String,
    pub(crate) loop_cpus: Vec<usize>,
    pub(crate) dispatcher_cpus: Vec<usize>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from((Ipv4Addr::LOCALHOST, 8680))],
            listen_is_default: true,
            shards: 1,
            max_payload: limits::PAYLOAD_SIZE_MAX_DEFAULT,
            max_peers: limits::PEERS_MAX_DEFAULT,
            max_peers_per_addr: 0,
            max_pending: limits::PENDING_MAX_DEFAULT,
            checksums: false,
            require_checksums: false,
            first_frame_timeout: Duration::from_millis(limits::FIRST_FRAME_TIMEOUT_MS),
            frame_timeout: Duration::from_millis(limits::FRAME_TIMEOUT_MS),
            idle_timeout: Duration::ZERO,
            write_stall_timeout: Duration::from_millis(limits::WRITE_STALL_TIMEOUT_MS),
            tcp_user_timeout: Duration::from_millis(limits::TCP_USER_TIMEOUT_MS),
            connect_timeout: Duration::from_millis(limits::CONNECT_TIMEOUT_MS),
            reconnect_min: Duration::from_millis(limits::RECONNECT_MIN_MS),
            reconnect_max: Duration::from_millis(limits::RECONNECT_MAX_MS),
            heartbeat_interval: Duration::from_millis(limits::HEARTBEAT_INTERVAL_MS),
            heartbeat_timeout: Duration::from_millis(limits::HEARTBEAT_TIMEOUT_MS),
            send_buffer: 0,
            recv_buffer: 0,
            notsent_lowat: limits::NOTSENT_LOWAT_DEFAULT,
            outbox_bytes: limits::OUTBOX_BYTES_MAX_DEFAULT,
            outbox_messages: limits::OUTBOX_MESSAGES_MAX_DEFAULT,
            outbox_full: OutboxFull::default(),
            memory_budget: limits::MEMORY_BUDGET_DEFAULT,
            memory_budget_is_set: false,
            max_requests: limits::REQUESTS_MAX_DEFAULT,
            require_hello: false,
            network_id: 0,
            node_id: NodeId::ANONYMOUS,
            token: Token::default(),
            accept_tokens: Vec::new(),
            agent: concat!("nebnet/", env!("CARGO_PKG_VERSION")).to_owned(),
            dispatch: Dispatch::Thread,
            dispatch_messages: limits::DISPATCH_MESSAGES_MAX_DEFAULT,
            dispatch_bytes: limits::DISPATCH_BYTES_MAX_DEFAULT,
            idle: IdleStrategy::default(),
            thread_name: "nebnet".to_owned(),
            loop_cpus: Vec::new(),
            dispatcher_cpus: Vec::new(),
        }
    }
}
