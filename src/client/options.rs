//! How a client connects, and what bounds it.

use std::{fmt, time::Duration};

use super::error::ClientError;
use crate::{
    frame::Hello,
    id::NodeId,
    limits::{
        CLIENT_CLOSE_TIMEOUT_MS, CLIENT_INBOX_BYTES_DEFAULT, CLIENT_PAYLOAD_SIZE_MAX_MIN,
        CONNECT_TIMEOUT_MS, HELLO_FIELD_SIZE_MAX, PAYLOAD_SIZE_MAX_CEILING,
        PAYLOAD_SIZE_MAX_DEFAULT, WRITE_STALL_TIMEOUT_MS,
    },
};

/// How a [`Client`](crate::Client) connects, and what bounds it.
///
/// Every method replaces its value and leaves the others. They are judged when the client connects.
///
/// A timeout of `None` waits for as long as it takes; one of zero does not wait: what can be done
/// at once is done, and [`Timeout`](ClientError::Timeout) is what remains.
///
/// # Examples
///
/// ```
/// use nebnet::ClientOptions;
/// use std::time::Duration;
///
/// let options = ClientOptions::new()
///     .token("s3cret")
///     .agent("feed/2")
///     .checksums(true)
///     .read_timeout(Some(Duration::from_secs(30)));
/// # let _ = options;
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct ClientOptions {
    pub(super) hello: bool,
    pub(super) network_id: u32,
    node_id: NodeId,
    agent: String,
    token: Vec<u8>,
    pub(super) max_payload: u32,
    pub(super) checksums: bool,
    pub(super) require_checksums: bool,
    pub(super) connect_timeout: Option<Duration>,
    pub(super) read_timeout: Option<Duration>,
    pub(super) write_timeout: Option<Duration>,
    pub(super) close_timeout: Option<Duration>,
    pub(super) inbox_bytes: usize,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            hello: true,
            network_id: 0,
            node_id: NodeId::ANONYMOUS,
            agent: concat!("nebnet-client/", env!("CARGO_PKG_VERSION")).to_owned(),
            token: Vec::new(),
            max_payload: PAYLOAD_SIZE_MAX_DEFAULT,
            checksums: false,
            require_checksums: false,
            connect_timeout: Some(Duration::from_millis(CONNECT_TIMEOUT_MS)),
            read_timeout: None,
            write_timeout: Some(Duration::from_millis(WRITE_STALL_TIMEOUT_MS)),
            close_timeout: Some(Duration::from_millis(CLIENT_CLOSE_TIMEOUT_MS)),
            inbox_bytes: CLIENT_INBOX_BYTES_DEFAULT,
        }
    }
}

impl ClientOptions {
    /// The defaults: HELLO of an anonymous node of network 0.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether to say HELLO while connecting, and to wait for the OK; on by default. A service that
    /// was told HELLO asks for a sign of life after 15 s without a byte, and closes after 45 s
    /// without one (its [`Config::heartbeat`](crate::Config::heartbeat)): a client answers whenever
    /// it reads, so one that is left alone for longer is to be made without HELLO.
    ///
    /// Off for a service that speaks frames and no HELLO. Then nothing of network, node, agent and
    /// token is said, and the first message is to be sent within the service's
    /// [`Config::first_frame_timeout`](crate::Config::first_frame_timeout), 5 s.
    #[must_use]
    pub fn hello(self, hello: bool) -> Self {
        Self { hello, ..self }
    }

    /// The network, which has to be the service's; default 0.
    #[must_use]
    pub fn network_id(self, id: u32) -> Self {
        Self {
            network_id: id,
            ..self
        }
    }

    /// Who the client is, across connections and restarts; default zero, which is anonymous. A
    /// service keeps one connection of a node that is not anonymous.
    #[must_use]
    pub fn node_id(self, id: impl Into<NodeId>) -> Self {
        Self {
            node_id: id.into(),
            ..self
        }
    }

    /// Name and version of the program, at most 255 bytes. Default: this crate's client and its
    /// version.
    #[must_use]
    pub fn agent(self, agent: impl Into<String>) -> Self {
        Self {
            agent: agent.into(),
            ..self
        }
    }

    /// What proves the right to connect, at most 255 bytes; empty by default. It travels in clear:
    /// for trusted networks, or behind something that encrypts.
    #[must_use]
    pub fn token(self, token: impl Into<Vec<u8>>) -> Self {
        Self {
            token: token.into(),
            ..self
        }
    }

    /// The longest payload that is received, in bytes: 1 KiB to 256 MiB, default 1 MiB. The service
    /// is told in HELLO and keeps to it; a longer one is refused on its header. What may be sent is
    /// the service's to say, in its OK; without HELLO it is 256 MiB.
    #[must_use]
    pub fn max_payload(self, bytes: u32) -> Self {
        Self {
            max_payload: bytes,
            ..self
        }
    }

    /// Sends everything with a CRC-32C, the protocol's own frames included; off by default. One
    /// that comes is verified in any case.
    #[must_use]
    pub fn checksums(self, always: bool) -> Self {
        Self {
            checksums: always,
            ..self
        }
    }

    /// Refuses a frame of the service that has no CRC-32C; off by default.
    #[must_use]
    pub fn require_checksums(self, required: bool) -> Self {
        Self {
            require_checksums: required,
            ..self
        }
    }

    /// How long one address may take to connect, and then to answer HELLO; default 5 s. The lookup
    /// of a name is the system's, and takes what it takes.
    #[must_use]
    pub fn connect_timeout(self, timeout: Option<Duration>) -> Self {
        Self {
            connect_timeout: timeout,
            ..self
        }
    }

    /// How long [`recv`](crate::Client::recv) waits for a message; default `None`.
    #[must_use]
    pub fn read_timeout(self, timeout: Option<Duration>) -> Self {
        Self {
            read_timeout: timeout,
            ..self
        }
    }

    /// For how long the service may take no byte of what is written; default 10 s.
    #[must_use]
    pub fn write_timeout(self, timeout: Option<Duration>) -> Self {
        Self {
            write_timeout: timeout,
            ..self
        }
    }

    /// How long [`close`](crate::Client::close) waits for the service to end its side; default 10
    /// s.
    #[must_use]
    pub fn close_timeout(self, timeout: Option<Duration>) -> Self {
        Self {
            close_timeout: timeout,
            ..self
        }
    }

    /// From how many bytes on no more messages are read ahead while the client sends, or waits for
    /// the answer to a question; default 16 MiB. A message costs its payload and 64 bytes at most.
    /// The bound is passed by one message at most, and one is always taken.
    ///
    /// At the bound a question fails with [`InboxFull`](ClientError::InboxFull), and sending goes
    /// on without reading; the service then holds the rest back. [`recv`](crate::Client::recv)
    /// makes room. Nothing is thrown away.
    #[must_use]
    pub fn inbox_bytes(self, bytes: usize) -> Self {
        Self {
            inbox_bytes: bytes,
            ..self
        }
    }

    /// The first option that is out of its range.
    pub(super) fn check(&self) -> Result<(), ClientError> {
        let payload = CLIENT_PAYLOAD_SIZE_MAX_MIN as usize..=PAYLOAD_SIZE_MAX_CEILING as usize;
        let field = 0..=HELLO_FIELD_SIZE_MAX;
        let options = [
            ("max_payload", self.max_payload as usize, payload),
            ("agent", self.agent.len(), field.clone()),
            ("token", self.token.len(), field),
        ];
        for (option, value, range) in options {
            if !range.contains(&value) {
                let (min, max) = range.into_inner();
                return Err(ClientError::BadOption {
                    option,
                    value,
                    min,
                    max,
                });
            }
        }
        Ok(())
    }

    /// The payload of HELLO.
    pub(super) fn hello_payload(&self) -> Vec<u8> {
        let hello = Hello {
            network_id: self.network_id,
            node_id: self.node_id.0,
            payload_size_max: self.max_payload,
            agent: &self.agent,
            token: &self.token,
            ..Hello::default()
        };
        hello.to_payload()
    }
}

impl fmt::Debug for ClientOptions {
    /// Without the token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientOptions")
            .field("hello", &self.hello)
            .field("network_id", &self.network_id)
            .field("node_id", &self.node_id)
            .field("agent", &self.agent)
            .field("token", &format_args!("{} bytes", self.token.len()))
            .field("max_payload", &self.max_payload)
            .field("checksums", &self.checksums)
            .field("require_checksums", &self.require_checksums)
            .field("connect_timeout", &self.connect_timeout)
            .field("read_timeout", &self.read_timeout)
            .field("write_timeout", &self.write_timeout)
            .field("close_timeout", &self.close_timeout)
            .field("inbox_bytes", &self.inbox_bytes)
            .finish()
    }
}
