//! What keeps a connection or a listener from coming about.

use std::{error::Error, fmt, io};

use super::CloseReason;

/// Why [`parse_address`](crate::parse_address) could not read an address.
#[derive(Debug)]
#[non_exhaustive]
pub enum AddressError {
    /// The text is no IP address with a port; a name, perhaps.
    Malformed,
    /// A link-local address that names no interface.
    NoInterface,
    /// The system does not know the interface.
    Interface {
        /// The name or number given.
        interface: String,
        /// What the system said.
        source: io::Error,
    },
}

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed => f.write_str("not an IP address with a port"),
            Self::NoInterface => {
                f.write_str("a link-local address needs its interface, as in [fe80::1%eth0]:8680")
            }
            Self::Interface { interface, .. } => {
                write!(f, "interface `{interface}` cannot be used")
            }
        }
    }
}

impl Error for AddressError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Malformed | Self::NoInterface => None,
            Self::Interface { source, .. } => Some(source),
        }
    }
}

/// Why [`Handle::connect`](crate::Handle::connect) did not even try.
#[derive(Debug)]
#[non_exhaustive]
pub enum ConnectError {
    /// The text is not `host:port` with a host of at most 255 bytes and a port from 1 on, or the
    /// list of addresses is empty.
    BadTarget,
    /// The text is an address whose interface is missing or unknown.
    BadAddress(AddressError),
    /// The timeout is zero, or above 365 days.
    BadTimeout,
    /// There are as many links as a service may have.
    TooManyLinks {
        /// The limit.
        limit: usize,
    },
    /// The loop has more commands waiting than it takes in a turn; trying again later helps.
    Busy,
    /// The service has stopped or failed.
    Stopped,
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadTarget => f.write_str("the target is not an address or host:port"),
            Self::BadAddress(error) => error.fmt(f),
            Self::BadTimeout => f.write_str("the timeout is zero or above 365 days"),
            Self::TooManyLinks { limit } => write!(f, "there are {limit} links already"),
            Self::Busy => f.write_str("too many commands wait for the loop"),
            Self::Stopped => f.write_str("the service has stopped"),
        }
    }
}

impl Error for ConnectError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::BadAddress(error) => error.source(),
            Self::BadTarget
            | Self::BadTimeout
            | Self::TooManyLinks { .. }
            | Self::Busy
            | Self::Stopped => None,
        }
    }
}

/// Why an attempt to connect failed; see [`Event::DialFailed`](crate::Event::DialFailed).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DialError {
    /// The name has no address, or could not be looked up.
    Resolve {
        /// What the system said, or that too many names wait to be looked up.
        message: String,
    },
    /// The name was not looked up within the connect timeout. An answer that comes later is used
    /// for the next attempt.
    ResolveTimeout,
    /// The system refused or lost the connection before it was made.
    Connect {
        /// The kind of the system's error.
        kind: io::ErrorKind,
        /// Its number, if it has one.
        os_error: Option<i32>,
    },
    /// No connection within the connect timeout.
    Timeout,
    /// The connection was made, and ended before the peer's OK: it refused us, or broke the
    /// protocol, or took too long.
    Handshake {
        /// Why it ended, seen from here.
        reason: CloseReason,
        /// The code of the BYE that the peer sent, if it did; see
        /// [`CloseReason::from_wire_code`].
        bye_received: Option<u16>,
    },
    /// The peer refused us, as [`DuplicateNode`](CloseReason::DuplicateNode), for another
    /// connection of our node id, and this service has none: another one has the same id.
    NodeIdTaken,
    /// There is no place for another connection.
    NoPlace,
}

impl DialError {
    pub(crate) fn connect(error: &io::Error) -> Self {
        Self::Connect {
            kind: error.kind(),
            os_error: error.raw_os_error(),
        }
    }
}

impl fmt::Display for DialError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resolve { message } => write!(f, "cannot resolve the name: {message}"),
            Self::ResolveTimeout => {
                f.write_str("the name was not resolved within the connect timeout")
            }
            Self::Connect {
                os_error: Some(number),
                ..
            } => write!(
                f,
                "cannot connect: {}",
                io::Error::from_raw_os_error(*number)
            ),
            Self::Connect { kind, .. } => write!(f, "cannot connect: {kind}"),
            Self::Timeout => f.write_str("no connection within the connect timeout"),
            Self::Handshake {
                reason,
                bye_received: None,
            } => write!(f, "no OK to our HELLO: {reason}"),
            Self::Handshake {
                bye_received: Some(code),
                ..
            } => match CloseReason::from_wire_code(*code) {
                Some(reason) => write!(f, "the peer refused our HELLO: {reason}"),
                None => write!(f, "the peer refused our HELLO: reason {code}"),
            },
            Self::NodeIdTaken => {
                f.write_str("our node id is taken there: another service has the same")
            }
            Self::NoPlace => f.write_str("there is no place for another connection"),
        }
    }
}

impl Error for DialError {}

/// Why [`Handle::listen`](crate::Handle::listen) failed.
#[derive(Debug)]
#[non_exhaustive]
pub enum ListenError {
    /// The system refused.
    Io(io::Error),
    /// What [`Handle::listen_from`](crate::Handle::listen_from) was given is no TCP socket that
    /// listens.
    NotListening {
        /// The number of the descriptor.
        descriptor: i32,
        /// What it is, such as `a UDP socket`.
        found: String,
    },
    /// The loop has more commands waiting than it takes in a turn, or did not answer in time.
    Busy,
    /// The service has stopped or failed.
    Stopped,
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(_) => f.write_str("cannot listen"),
            Self::NotListening { descriptor, found } => write!(
                f,
                "cannot listen: descriptor {descriptor} is {found}, not a TCP socket that listens"
            ),
            Self::Busy => f.write_str("the loop did not answer"),
            Self::Stopped => f.write_str("the service has stopped"),
        }
    }
}

impl Error for ListenError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Io(source) => Some(source),
            Self::NotListening { .. } | Self::Busy | Self::Stopped => None,
        }
    }
}
