//! What an embedder can set, with defaults that are valid as they stand.
//!
//! Validation happens once, in [`Config::problems`]; everything behind it relies on the ranges.

mod live;

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use crate::{
    clock::ticks_of_timeout, error::ConfigError, id::NodeId, idle::IdleStrategy, limits,
    policy::OutboxFull,
};

pub use live::Reconfigured;

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
/// Every setter replaces its value and leaves the others. Timeouts of zero are off; they are
/// rounded up to milliseconds.
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

impl Config {
    /// An address to accept peers on; port 0 picks a free one. The first call replaces the default
    /// of 127.0.0.1:8680, further calls add, up to 64.
    #[must_use]
    pub fn listen(mut self, addr: SocketAddr) -> Self {
        if std::mem::take(&mut self.listen_is_default) {
            self.listen.clear();
        }
        self.listen.push(addr);
        self
    }

    /// Listens on nothing, as a service that only connects to others.
    #[must_use]
    pub fn listen_nowhere(self) -> Self {
        Self {
            listen: Vec::new(),
            listen_is_default: false,
            ..self
        }
    }

    /// Loops that the connections are spread over, each with a thread, and a dispatcher of its own:
    /// 1 to 64, default 1. More than one pays where one thread cannot read and write all that its
    /// peers send and take; more than there are processors never does.
    ///
    /// All of them listen on the same addresses, and the kernel picks one for each connection that
    /// comes ([`PeerId::shard`](crate::PeerId::shard)); links are spread by their ids. Subscribers
    /// get messages of all, of each peer in order; sends, closes, requests and broadcasts go to
    /// whichever has the peer. The bounds of the service hold for all of them together, apart from
    /// those of the dispatch queue, of which each has one; its counters are sums
    /// ([`Snapshot::shards`](crate::Snapshot::shards) has those of each). User timers are with the
    /// first loop, and so is the metrics callback.
    ///
    /// Each costs two threads, three descriptors and one for each address, 2.5 MiB with the default
    /// bounds (24 bytes for each of [`dispatch_messages`](Self::dispatch_messages), 16 for each of
    /// [`max_peers`](Self::max_peers)), up to 24 MiB of blocks kept for the next read, and 128
    /// bytes in each subscriber.
    #[must_use]
    pub fn shards(self, count: usize) -> Self {
        Self {
            shards: count,
            ..self
        }
    }

    /// The longest payload accepted and sent, in bytes: 1 to 256 MiB, default 1 MiB. A peer can
    /// make the service hold that much for a frame that it sends slowly, until the frame timeout.
    /// HELLO and OK are messages too: they take 34 bytes, and up to 544 with agent and token.
    #[must_use]
    pub fn max_payload(self, bytes: u32) -> Self {
        Self {
            max_payload: bytes,
            ..self
        }
    }

    /// Connections at a time: 1 to 2^24 - 8,192, default 10,000. A peer beyond is told
    /// `TooManyPeers` and closed. At start the number is lowered to what the process may open.
    ///
    /// Besides what the system needs for it, and besides messages, which the
    /// [budget](Self::memory_budget) bounds, a connection takes about 0.2 KiB of memory until
    /// something happens on it, 1 to 2.5 KiB while it is used, and 0.5 KiB when nothing has moved
    /// for some seconds. About 0.25 KiB of that are kept when it has gone, for those that come
    /// later. Each possible connection takes 16 bytes from the start.
    #[must_use]
    pub fn max_peers(self, count: usize) -> Self {
        Self {
            max_peers: count,
            ..self
        }
    }

    /// Connections at a time from one IPv4 address or one IPv6 /64; 0, the default, is no limit.
    #[must_use]
    pub fn max_peers_per_addr(self, count: usize) -> Self {
        Self {
            max_peers_per_addr: count,
            ..self
        }
    }

    /// Connections at a time that came to us and have not sent a first whole frame or, where it is
    /// required, their HELLO: default 1,024, 0 is no limit. One beyond is told `TooManyPeers` and
    /// closed, so that a crowd that says nothing leaves room for those that do.
    ///
    /// Where nothing is due, because [`first_frame_timeout`](Self::first_frame_timeout) is zero and
    /// no HELLO is required, nobody is pending.
    #[must_use]
    pub fn max_pending(self, count: usize) -> Self {
        Self {
            max_pending: count,
            ..self
        }
    }

    /// Sends everything with a CRC-32C, the protocol's own frames included, whatever
    /// [`Outgoing::checksum`](crate::Outgoing::checksum) says of a message; off by default. What
    /// comes in is verified whenever it carries one. Costs 4 bytes and a pass over each payload.
    #[must_use]
    pub fn checksums(self, always: bool) -> Self {
        Self {
            checksums: always,
            ..self
        }
    }

    /// Takes no frame without a CRC-32C, also from peers that we connect to: one ends its
    /// connection with [`CloseReason::BadChecksum`](crate::CloseReason::BadChecksum), once what
    /// came before it is delivered. Off by default. That goes for the protocol's own frames, too; a
    /// service says those with a checksum if [`checksums`](Self::checksums) is on.
    ///
    /// What comes in is verified whenever it carries a checksum. This is for links that damage
    /// bytes: damage to the flag that says that there is one goes unseen otherwise.
    #[must_use]
    pub fn require_checksums(self, required: bool) -> Self {
        Self {
            require_checksums: required,
            ..self
        }
    }

    /// How long a peer may take for its first whole frame; default 5 s, zero is off.
    #[must_use]
    pub fn first_frame_timeout(self, timeout: Duration) -> Self {
        Self {
            first_frame_timeout: timeout,
            ..self
        }
    }

    /// How long any frame may take from its first byte; default 10 s, zero is off.
    #[must_use]
    pub fn frame_timeout(self, timeout: Duration) -> Self {
        Self {
            frame_timeout: timeout,
            ..self
        }
    }

    /// Closes a peer after this time without a byte in either direction; off by default.
    #[must_use]
    pub fn idle_timeout(self, timeout: Duration) -> Self {
        Self {
            idle_timeout: timeout,
            ..self
        }
    }

    /// Cuts off a peer for which bytes wait and whose system acknowledges none; default 10 s, zero
    /// is off. The end is between 1.0 and 1.2 of this time after the last byte acknowledged. A peer
    /// that reads less than a step of its window within it (a segment: 64 KiB on loopback, 1.4 KiB
    /// on Ethernet; more where its receive buffer has grown) counts as one that takes nothing.
    #[must_use]
    pub fn write_stall_timeout(self, timeout: Duration) -> Self {
        Self {
            write_stall_timeout: timeout,
            ..self
        }
    }

    /// `TCP_USER_TIMEOUT`: how long sent bytes may stay unacknowledged; default 30 s, zero leaves
    /// the system's default.
    #[must_use]
    pub fn tcp_user_timeout(self, timeout: Duration) -> Self {
        Self {
            tcp_user_timeout: timeout,
            ..self
        }
    }

    /// How long a connection that the service makes may take to be made, and then to be answered
    /// OK, for each address of a target: 1 ms to 365 days, default 5 s.
    #[must_use]
    pub fn connect_timeout(self, timeout: Duration) -> Self {
        Self {
            connect_timeout: timeout,
            ..self
        }
    }

    /// The pauses before a kept link connects again: the bound that they are drawn below begins
    /// with `min`, doubles with each failure in a row up to `max`, and begins anew after 10 s of
    /// being connected. 1 ms to 365 days; default 100 ms and 30 s.
    #[must_use]
    pub fn reconnect(self, min: Duration, max: Duration) -> Self {
        Self {
            reconnect_min: min,
            reconnect_max: max,
            ..self
        }
    }

    /// Sends a PING to a peer that said HELLO or OK and then nothing for `interval`, and takes it
    /// for dead after `timeout` of silence. Any byte is a sign of life. Default 15 s and 45 s; an
    /// interval of zero is off, a timeout of zero asks and never judges.
    #[must_use]
    pub fn heartbeat(self, interval: Duration, timeout: Duration) -> Self {
        Self {
            heartbeat_interval: interval,
            heartbeat_timeout: timeout,
            ..self
        }
    }

    /// Sizes in bytes of the kernel's buffers of each connection, to send and to receive, below
    /// 1 GiB; zero, the default, leaves one to the system, which adapts it. Linux doubles what is
    /// asked for, bounds it by `net.core.wmem_max` and `rmem_max`, and no longer adapts it. Not
    /// part of the budget.
    #[must_use]
    pub fn socket_buffers(self, send: usize, recv: usize) -> Self {
        Self {
            send_buffer: send,
            recv_buffer: recv,
            ..self
        }
    }

    /// `TCP_NOTSENT_LOWAT`: bytes that the system takes for a connection before it sends them,
    /// below 1 GiB; default 128 KiB, zero is no bound. What is beyond waits in the outbox, where it
    /// is counted as queued, where priorities and [`OutboxFull::DropOldest`] reach it, and where it
    /// is within the budget. The system may pass the bound by one segment, 64 KiB at most.
    ///
    /// What the peer's system has taken, and its program not read, is beyond this bound.
    #[must_use]
    pub fn notsent_lowat(self, bytes: usize) -> Self {
        Self {
            notsent_lowat: bytes,
            ..self
        }
    }

    /// Bytes that may wait for one peer, and bytes read from it that may be in flight before its
    /// reading pauses: 64 KiB to the memory budget, default 4 MiB. An empty outbox takes one
    /// message of any legal size.
    #[must_use]
    pub fn outbox_bytes(self, bytes: usize) -> Self {
        Self {
            outbox_bytes: bytes,
            ..self
        }
    }

    /// The same bound in messages: 1 to 2^22, default 65,536.
    #[must_use]
    pub fn outbox_messages(self, count: usize) -> Self {
        Self {
            outbox_messages: count,
            ..self
        }
    }

    /// What becomes of a message for which these bounds leave no room; default
    /// [`OutboxFull::Refuse`].
    #[must_use]
    pub fn outbox_full(self, policy: OutboxFull) -> Self {
        Self {
            outbox_full: policy,
            ..self
        }
    }

    /// Bytes that all buffers of the service may hold: from 1 MiB, default 256 MiB. Kernel socket
    /// buffers, and up to 24 MiB of blocks that each of the [`shards`](Self::shards) keeps for the
    /// next read, are outside. What the system has handed over has to be kept, so one read and the
    /// growth of one frame on each shard may pass it; then nobody is read, and nothing is accepted
    /// for sending, before there is room.
    ///
    /// A memory limit of the host lowers it, when the service is made, to half of what the limit
    /// leaves. Limits are `RLIMIT_AS`, `RLIMIT_DATA`, and `memory.max` (version 1:
    /// `memory.limit_in_bytes`) of the process's control group and all above it; what is used is
    /// taken off first, and for `RLIMIT_AS` the stacks of the service's threads and 64 MiB for each
    /// thread but one, which the C library reserves (fewer with `MALLOC_ARENA_MAX` in the
    /// environment).
    /// The bound of the dispatch queue is lowered to a quarter of it. The start then logs one
    /// warning, and [`Snapshot::memory_budget`](crate::Snapshot::memory_budget) is what it is. It
    /// fails with [`StartError::Memory`](crate::StartError::Memory) if less than 16 MiB would
    /// remain, if the value set here is above a whole limit, or if another setting does not fit any
    /// more.
    #[must_use]
    pub fn memory_budget(self, bytes: usize) -> Self {
        Self {
            memory_budget: bytes,
            memory_budget_is_set: true,
            ..self
        }
    }

    /// Requests that may be outstanding at a time: 1 to 2^22, default 65,536. One beyond is refused
    /// with [`RequestError::TooMany`](crate::RequestError::TooMany). Each takes about 1 KiB outside
    /// of the memory budget, or 200 bytes if it is answered to a queue.
    #[must_use]
    pub fn max_requests(self, count: usize) -> Self {
        Self {
            max_requests: count,
            ..self
        }
    }

    /// Refuses peers whose first frame is not HELLO; off by default. Until it came, frames are
    /// limited to 4 KiB.
    #[must_use]
    pub fn require_hello(self, required: bool) -> Self {
        Self {
            require_hello: required,
            ..self
        }
    }

    /// The network of the service: a HELLO of another one is refused; default 0.
    #[must_use]
    pub fn network_id(self, id: u32) -> Self {
        Self {
            network_id: id,
            ..self
        }
    }

    /// Who the service is, as its HELLO and OK say; default zero, which is anonymous. Of several
    /// connections to one node that is not anonymous, one stays.
    #[must_use]
    pub fn node_id(self, id: impl Into<NodeId>) -> Self {
        Self {
            node_id: id.into(),
            ..self
        }
    }

    /// What the service shows to those that it connects to: up to 255 bytes, empty by default. It
    /// travels in clear: for trusted networks, or behind something that encrypts. Where tokens are
    /// asked for ([`accept_tokens`](Self::accept_tokens)), an OK shows it too.
    #[must_use]
    pub fn token(self, token: impl Into<Vec<u8>>) -> Self {
        Self {
            token: Token(token.into()),
            ..self
        }
    }

    /// Requires every peer to show one of these tokens in its HELLO or OK: 1 to 255 bytes each, up
    /// to 16, so that one can take over from another. Implies
    /// [`require_hello`](Self::require_hello). A peer with another is not read, and refused after
    /// half a second. None by default, and then nothing is asked for.
    #[must_use]
    pub fn accept_tokens<T: Into<Vec<u8>>>(self, tokens: impl IntoIterator<Item = T>) -> Self {
        Self {
            accept_tokens: tokens.into_iter().map(|one| Token(one.into())).collect(),
            ..self
        }
    }

    /// The program, as HELLO and OK say it; cut to 255 bytes. Default: this crate and its version.
    #[must_use]
    pub fn agent(self, agent: impl Into<String>) -> Self {
        Self {
            agent: agent.into(),
            ..self
        }
    }

    /// Where the fan-out runs; default [`Dispatch::Thread`].
    #[must_use]
    pub fn dispatch(self, dispatch: Dispatch) -> Self {
        Self { dispatch, ..self }
    }

    /// Messages that may wait for a dispatcher: 1 to 2^22, default 65,536. The queue takes 24
    /// bytes for each read in it, and nothing before. With several [`shards`](Self::shards) each
    /// has such a queue.
    #[must_use]
    pub fn dispatch_messages(self, count: usize) -> Self {
        Self {
            dispatch_messages: count,
            ..self
        }
    }

    /// Bytes that may wait for a dispatcher, those parked for a full subscriber included: 64 KiB
    /// to the memory budget, default 64 MiB.
    #[must_use]
    pub fn dispatch_bytes(self, bytes: usize) -> Self {
        Self {
            dispatch_bytes: bytes,
            ..self
        }
    }

    /// What the loop and the dispatcher do while there is nothing to do; default
    /// [`IdleStrategy::default`]. A subscriber has its own: [`SubscribeOptions::idle`].
    ///
    /// [`SubscribeOptions::idle`]: crate::SubscribeOptions::idle
    #[must_use]
    pub fn idle(self, idle: IdleStrategy) -> Self {
        Self { idle, ..self }
    }

    /// What the names of the service's threads begin with: 1 to 10 bytes, default `nebnet`, which
    /// makes `nebnet-loop` and `nebnet-dispatch`. Zero bytes are left out. Linux shows the first 15
    /// bytes of a name.
    #[must_use]
    pub fn thread_name(self, prefix: impl Into<String>) -> Self {
        let mut thread_name = prefix.into();
        thread_name.retain(|letter| letter != '\0');
        Self {
            thread_name,
            ..self
        }
    }

    /// The processors that loops run on, by their numbers from 0 to 1,023: the first loop on the
    /// first of them, and so on. Up to 256; with fewer than there are loops they are used again
    /// from the first on. Without any, the default, the system decides.
    ///
    /// Whether a thread may run there is found out at the start
    /// ([`StartError::Cpu`](crate::StartError::Cpu)).
    #[must_use]
    pub fn loop_cpus(self, cpus: impl IntoIterator<Item = usize>) -> Self {
        Self {
            loop_cpus: cpus.into_iter().collect(),
            ..self
        }
    }

    /// The processors that dispatchers run on, as [`loop_cpus`](Self::loop_cpus). Not used with
    /// [`Dispatch::Inline`].
    #[must_use]
    pub fn dispatcher_cpus(self, cpus: impl IntoIterator<Item = usize>) -> Self {
        Self {
            dispatcher_cpus: cpus.into_iter().collect(),
            ..self
        }
    }

    /// Whether a service can be made of the settings.
    ///
    /// # Errors
    ///
    /// The first of the [`problems`](Self::problems).
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.problems().into_iter().next().map_or(Ok(()), Err)
    }

    /// Everything that is wrong with the settings.
    #[must_use]
    pub fn problems(&self) -> Vec<ConfigError> {
        let mut problems = Vec::new();
        let block = limits::BLOCK_SIZE as u64;
        let budget = self.memory_budget as u64;
        let queue = limits::QUEUE_MESSAGES_MAX_CEILING as u64;
        let token_size = limits::TOKEN_SIZE_MAX as u64;
        let tokens = self.accept_tokens.len() as u64;
        let buffer = u64::from(i32::MAX.unsigned_abs()) / 2;
        let ranges = [
            (
                "listen",
                self.listen.len() as u64,
                0,
                limits::LISTENERS_MAX as u64,
                "addresses",
            ),
            (
                "shards",
                self.shards as u64,
                1,
                limits::SHARDS_MAX as u64,
                "",
            ),
            (
                "max_payload",
                u64::from(self.max_payload),
                1,
                u64::from(limits::PAYLOAD_SIZE_MAX_CEILING),
                "bytes",
            ),
            (
                "max_peers",
                self.max_peers as u64,
                1,
                limits::PEERS_MAX_CEILING as u64,
                "",
            ),
            (
                "max_pending",
                self.max_pending as u64,
                0,
                limits::PEERS_MAX_CEILING as u64,
                "",
            ),
            (
                "outbox_bytes",
                self.outbox_bytes as u64,
                block,
                u64::MAX,
                "bytes",
            ),
            ("outbox_messages", self.outbox_messages as u64, 1, queue, ""),
            (
                "memory_budget",
                budget,
                limits::MEMORY_BUDGET_MIN as u64,
                u64::MAX / 4,
                "bytes",
            ),
            (
                "max_requests",
                self.max_requests as u64,
                1,
                limits::REQUESTS_MAX_CEILING as u64,
                "",
            ),
            (
                "dispatch_messages",
                self.dispatch_messages as u64,
                1,
                queue,
                "",
            ),
            (
                "dispatch_bytes",
                self.dispatch_bytes as u64,
                block,
                u64::MAX,
                "bytes",
            ),
            ("token", self.token.size(), 0, token_size, "bytes"),
            (
                "accept_tokens",
                tokens,
                0,
                limits::TOKENS_MAX as u64,
                "tokens",
            ),
            (
                "thread_name",
                self.thread_name.len() as u64,
                1,
                limits::THREAD_NAME_SIZE_MAX as u64,
                "bytes",
            ),
            ("send_buffer", self.send_buffer as u64, 0, buffer, "bytes"),
            ("recv_buffer", self.recv_buffer as u64, 0, buffer, "bytes"),
            (
                "notsent_lowat",
                self.notsent_lowat as u64,
                0,
                buffer,
                "bytes",
            ),
        ];
        for (setting, value, min, max, unit) in ranges {
            if !(min..=max).contains(&value) {
                problems.push(ConfigError::OutOfRange {
                    setting,
                    value,
                    min,
                    max,
                    unit,
                });
            }
        }
        self.note_cpus(&mut problems);
        for token in &self.accept_tokens {
            let (value, setting) = (token.size(), "accept_tokens");
            if !(1..=token_size).contains(&value) {
                problems.push(ConfigError::ElementOutOfRange {
                    setting,
                    value,
                    min: 1,
                    max: token_size,
                    unit: "bytes",
                });
            }
        }
        let timeouts = [
            ("first_frame_timeout", self.first_frame_timeout, 0),
            ("frame_timeout", self.frame_timeout, 0),
            ("idle_timeout", self.idle_timeout, 0),
            ("write_stall_timeout", self.write_stall_timeout, 0),
            ("tcp_user_timeout", self.tcp_user_timeout, 0),
            ("connect_timeout", self.connect_timeout, 1),
            ("reconnect_min", self.reconnect_min, 1),
            ("reconnect_max", self.reconnect_max, 1),
            ("heartbeat_interval", self.heartbeat_interval, 0),
            ("heartbeat_timeout", self.heartbeat_timeout, 0),
        ];
        for (setting, timeout, min) in timeouts {
            let (value, max) = (ticks_of_timeout(timeout), limits::TIMEOUT_MS_CEILING);
            if !(min..=max).contains(&value) {
                let unit = "ms";
                problems.push(ConfigError::OutOfRange {
                    setting,
                    value,
                    min,
                    max,
                    unit,
                });
            }
        }
        let ms = ticks_of_timeout;
        let mut orders = vec![("reconnect_min", ms(self.reconnect_min), "reconnect_max")];
        if !self.heartbeat_timeout.is_zero() {
            let interval = ms(self.heartbeat_interval);
            orders.push(("heartbeat_interval", interval, "heartbeat_timeout"));
        }
        for (setting, value, bound) in orders {
            let limit = match bound {
                "reconnect_max" => ms(self.reconnect_max),
                _ => ms(self.heartbeat_timeout),
            };
            if value > limit {
                let unit = "ms";
                problems.push(ConfigError::Exceeds {
                    setting,
                    value,
                    bound,
                    limit,
                    unit,
                });
            }
        }
        let bounds = [
            ("max_payload", u64::from(self.max_payload)),
            ("outbox_bytes", self.outbox_bytes as u64),
            ("dispatch_bytes", self.dispatch_bytes as u64),
        ];
        for (setting, value) in bounds {
            if value > budget {
                let (bound, limit, unit) = ("memory_budget", budget, "bytes");
                problems.push(ConfigError::Exceeds {
                    setting,
                    value,
                    bound,
                    limit,
                    unit,
                });
            }
        }
        problems
    }

    fn note_cpus(&self, problems: &mut Vec<ConfigError>) {
        let lists = [
            ("loop_cpus", &self.loop_cpus),
            ("dispatcher_cpus", &self.dispatcher_cpus),
        ];
        for (setting, cpus) in lists {
            let (value, max) = (cpus.len() as u64, limits::CPUS_MAX as u64);
            if value > max {
                problems.push(ConfigError::OutOfRange {
                    setting,
                    value,
                    min: 0,
                    max,
                    unit: "processors",
                });
            }
            let highest = cpus.iter().max().copied().unwrap_or(0) as u64;
            if highest > limits::CPU_MAX as u64 {
                problems.push(ConfigError::ElementOutOfRange {
                    setting,
                    value: highest,
                    min: 0,
                    max: limits::CPU_MAX as u64,
                    unit: "",
                });
            }
        }
    }
}

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_valid() {
        assert_eq!(Config::default().problems(), []);
    }

    #[test]
    fn the_first_listen_replaces_the_default() {
        let (a, b) = ("127.0.0.1:1".parse().unwrap(), "[::1]:2".parse().unwrap());
        assert_eq!(Config::default().listen(a).listen(b).listen, [a, b]);
    }

    #[test]
    fn every_limit_and_one_past_it() {
        let ok = |config: Config| assert_eq!(config.problems(), [], "{config:?}");
        let bad = |config: Config| assert_eq!(config.problems().len(), 1, "{config:?}");
        let base = Config::default;
        ok(base().max_payload(1));
        bad(base().max_payload(0));
        ok(base().max_payload(256 << 20));
        assert!(
            base().max_payload((256 << 20) + 1).problems().len() == 2,
            "range and budget"
        );
        ok(base().shards(64));
        bad(base().shards(65));
        bad(base().shards(0));
        ok(base().max_peers((1 << 24) - 8192));
        bad(base().max_peers((1 << 24) - 8191));
        bad(base().max_peers(0));
        ok(base().max_pending(0));
        bad(base().max_pending(1 << 24));
        bad(base().outbox_bytes((64 << 10) - 1));
        ok(base().outbox_bytes(64 << 10));
        bad(base().outbox_messages(0));
        ok(base().max_requests(1 << 22));
        bad(base().max_requests((1 << 22) + 1));
        bad(base().max_requests(0));
        ok(base().notsent_lowat(0));
        ok(base().notsent_lowat((1 << 30) - 1));
        bad(base().notsent_lowat(1 << 30));
        bad(base().idle_timeout(Duration::MAX));
        ok(base().thread_name("ten letter"));
        bad(base().thread_name("ten letters"));
        bad(base().thread_name("\0"));
        ok(base().loop_cpus([0, 1023]).dispatcher_cpus([1023; 256]));
        bad(base().loop_cpus([0, 1024]));
        bad(base().dispatcher_cpus([0; 257]));
        bad(base()
            .memory_budget(4 << 20)
            .dispatch_bytes(4 << 20)
            .outbox_bytes((4 << 20) + 1));
        ok(base().memory_budget(4 << 20).dispatch_bytes(4 << 20));
    }

    #[test]
    fn a_problem_reads_as_a_sentence() {
        let token = vec![0; 256];
        let base = Config::default;
        for (config, said) in [
            (base().shards(65), "shards is 65, allowed are 1 to 64"),
            (
                base().max_peers(0),
                "max_peers is 0, allowed are 1 to 16769024",
            ),
            (
                base().outbox_messages(0),
                "outbox_messages is 0, allowed are 1 to 4194304",
            ),
            (
                base().outbox_bytes(1),
                "outbox_bytes is 1 byte, allowed are 65536 and more",
            ),
            (
                base().thread_name("ten letters"),
                "thread_name is 11 bytes, allowed are 1 to 10",
            ),
            (
                base().accept_tokens(vec!["x"; 17]),
                "accept_tokens has 17 tokens, allowed are 0 to 16",
            ),
            (
                base().accept_tokens([token.clone()]),
                "one of accept_tokens is 256 bytes, allowed are 1 to 255",
            ),
            (
                base().token(token),
                "token is 256 bytes, allowed are 0 to 255",
            ),
            (
                base().loop_cpus([0; 257]),
                "loop_cpus has 257 processors, allowed are 0 to 256",
            ),
            (
                base().loop_cpus([0, 1024]),
                "one of loop_cpus is 1024, allowed are 0 to 1023",
            ),
            (
                base().heartbeat(Duration::from_secs(2), Duration::from_secs(1)),
                "heartbeat_interval is 2000 ms, above heartbeat_timeout of 1000 ms",
            ),
        ] {
            assert_eq!(config.problems()[0].to_string(), said);
        }
        let addr = "127.0.0.1:1".parse().unwrap();
        let config = (0..65).fold(base(), |config, _| config.listen(addr));
        let said = "listen has 65 addresses, allowed are 0 to 64";
        assert_eq!(config.problems()[0].to_string(), said);
    }

    #[test]
    fn every_problem_is_told() {
        let config = Config::default()
            .max_payload(0)
            .max_peers(0)
            .outbox_messages(0);
        assert_eq!(config.problems().len(), 3);
    }
}
