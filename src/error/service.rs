//! What a service as a whole refuses, or dies of.

use std::{error::Error, fmt, io, net::SocketAddr, time::Duration};

use super::MemoryError;
use crate::id::MessageType;

/// Why [`NetService::start`](crate::NetService::start) failed. Nothing is left running.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// The service was started before.
    AlreadyStarted,
    /// An address could not be listened on.
    Listen {
        /// The address.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The poller or its waker could not be made.
    Poller(io::Error),
    /// A memory limit of the host leaves too little.
    Memory(MemoryError),
    /// A thread could not be spawned.
    Thread(io::Error),
    /// A thread may not run on a processor, or there is no such one.
    Cpu {
        /// The setting that names it.
        setting: &'static str,
        /// The number of the processor.
        cpu: usize,
        /// What the system said.
        source: io::Error,
    },
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AlreadyStarted => f.write_str("the service was already started"),
            Self::Listen { addr, .. } => write!(f, "cannot listen on {addr}"),
            Self::Poller(_) => f.write_str("cannot create the poller"),
            Self::Memory(error) => error.fmt(f),
            Self::Thread(_) => f.write_str("cannot start a thread"),
            Self::Cpu { setting, cpu, .. } => {
                write!(f, "{setting}: cannot run on processor {cpu}")
            }
        }
    }
}

impl Error for StartError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::AlreadyStarted => None,
            Self::Memory(error) => error.source(),
            Self::Listen { source, .. }
            | Self::Poller(source)
            | Self::Thread(source)
            | Self::Cpu { source, .. } => Some(source),
        }
    }
}

/// Why [`NetService::handle_inline`](crate::NetService::handle_inline) failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HandlerError {
    /// The service was started before.
    AlreadyStarted,
    /// The types asked for are none, or all belong to the protocol.
    NoTypes,
    /// Another handler has this type.
    TypeTaken(MessageType),
    /// The service has several loops, and one handler cannot run on all of them: see
    /// [`NetService::handle_inline_each`](crate::NetService::handle_inline_each).
    NeedsOneEach {
        /// How many.
        shards: usize,
    },
    /// The service has as many handlers as it may have.
    TooMany {
        /// The limit.
        limit: usize,
    },
}

impl fmt::Display for HandlerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AlreadyStarted => f.write_str("the service was already started"),
            Self::NoTypes => f.write_str("no application type to handle"),
            Self::TypeTaken(message_type) => {
                write!(f, "type {:#06x} has a handler already", message_type.0)
            }
            Self::NeedsOneEach { shards } => {
                write!(f, "each of the {shards} loops needs a handler of its own")
            }
            Self::TooMany { limit } => write!(f, "all {limit} handlers are taken"),
        }
    }
}

impl Error for HandlerError {}

/// Why a question to the loops has no answer: [`Handle::peers`](crate::Handle::peers) and its like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum QueryError {
    /// The service does not run, so there is no loop to ask.
    NotRunning,
    /// This is a thread of a service (an inline handler, or a metrics callback): a loop cannot
    /// answer while it waits for an answer.
    OwnThread,
    /// A loop did not answer within 5 s: it is busy, or 1,024 other commands wait for it.
    Timeout,
}

impl fmt::Display for QueryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotRunning => "the service does not run",
            Self::OwnThread => "a thread of the service cannot wait for the loop",
            Self::Timeout => "the loop did not answer within 5 s",
        })
    }
}

impl Error for QueryError {}

/// A thread of the service ended by a defect; all connections were closed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServiceFailure {
    /// The thread that failed.
    pub thread: &'static str,
    /// What it said: the panic's message, or the system's error.
    pub message: String,
    /// When, since the service was made.
    pub after: Duration,
}

impl fmt::Display for ServiceFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "thread {} failed after {:?}: {}",
            self.thread, self.after, self.message
        )
    }
}

impl Error for ServiceFailure {}
