//! Each setting's method, with its range, its default and what it costs.

use std::{net::SocketAddr, time::Duration};

use super::{Config, Dispatch, Token};
use crate::{id::NodeId, idle::IdleStrategy, policy::OutboxFull};

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
    /// Where nothing is due, because [`first_frame_timeout`](Self::first_frame_timeout) is off and
    /// no HELLO is required, nothing is pending.
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

    /// How long a peer may take for its first whole frame; default 5 s, `None` is off.
    #[must_use]
    pub fn first_frame_timeout(self, timeout: impl Into<Option<Duration>>) -> Self {
        Self {
            first_frame_timeout: or_off(timeout),
            ..self
        }
    }

    /// How long any frame may take from its first byte; default 10 s, `None` is off.
    #[must_use]
    pub fn frame_timeout(self, timeout: impl Into<Option<Duration>>) -> Self {
        Self {
            frame_timeout: or_off(timeout),
            ..self
        }
    }

    /// Closes a peer after this time without a byte in either direction; `None`, the default,
    /// is off.
    #[must_use]
    pub fn idle_timeout(self, timeout: impl Into<Option<Duration>>) -> Self {
        Self {
            idle_timeout: or_off(timeout),
            ..self
        }
    }

    /// Cuts off a peer for which bytes wait and whose system acknowledges none; default 10 s,
    /// `None` is off. The end is between 1.0 and 1.2 of this time after the last byte acknowledged.
    /// A peer that reads less than a step of its window within it (a segment: 64 KiB on loopback,
    /// 1.4 KiB on Ethernet; more where its receive buffer has grown) counts as one that takes
    /// nothing.
    #[must_use]
    pub fn write_stall_timeout(self, timeout: impl Into<Option<Duration>>) -> Self {
        Self {
            write_stall_timeout: or_off(timeout),
            ..self
        }
    }

    /// `TCP_USER_TIMEOUT`: how long sent bytes may stay unacknowledged; default 30 s, `None`
    /// leaves the system's default.
    #[must_use]
    pub fn tcp_user_timeout(self, timeout: impl Into<Option<Duration>>) -> Self {
        Self {
            tcp_user_timeout: or_off(timeout),
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
    /// for dead after `timeout` of silence. Any byte is a sign of life. Default 15 s and 45 s; no
    /// interval is off, no timeout asks and never judges.
    #[must_use]
    pub fn heartbeat(
        self,
        interval: impl Into<Option<Duration>>,
        timeout: impl Into<Option<Duration>>,
    ) -> Self {
        Self {
            heartbeat_interval: or_off(interval),
            heartbeat_timeout: or_off(timeout),
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
    /// growth of one frame on each shard may pass it; then no peer is read, and nothing is accepted
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
}

/// Zero is what the rest of the crate knows for off.
fn or_off(timeout: impl Into<Option<Duration>>) -> Duration {
    timeout.into().unwrap_or(Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_listen_replaces_the_default() {
        let (a, b) = ("127.0.0.1:1".parse().unwrap(), "[::1]:2".parse().unwrap());
        assert_eq!(Config::default().listen(a).listen(b).listen, [a, b]);
    }
    #[test]
    fn no_timeout_is_off_and_so_is_zero() {
        let off = Config::default().idle_timeout(None).heartbeat(None, None);
        let zero = Duration::ZERO;
        assert_eq!(off, off.clone().idle_timeout(zero).heartbeat(zero, zero));
        assert_eq!(off.problems(), []);
        let second = Duration::from_secs(1);
        assert_eq!(
            off.clone().frame_timeout(second),
            off.frame_timeout(Some(second))
        );
    }
}
