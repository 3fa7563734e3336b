//! What can go wrong: one enum per public operation, and the reasons for which a connection ends.

use std::{error::Error, fmt, io, net::SocketAddr, time::Duration};

use crate::id::MessageType;

/// A way in which bytes fail to be a frame.
///
/// Each variant carries the offending value, and the limit it broke where there is one. The
/// position is the caller's to tell: a decoder reports the error of the frame it was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameError {
    /// The length field is smaller than the bytes that every frame has, or than those that the
    /// frame's flags ask for.
    TooShort {
        /// The length field.
        length: u32,
        /// The smallest legal value for a frame with these flags.
        limit: u32,
    },
    /// The length field is larger than any legal frame, or than a frame with these flags.
    TooLong {
        /// The length field.
        length: u32,
        /// The largest legal value.
        limit: u32,
    },
    /// The version byte is not 1.
    BadVersion {
        /// The version byte.
        version: u8,
    },
    /// The flags byte has a bit that version 1 does not define, or the correlation bit on a
    /// protocol message.
    BadFlags {
        /// The flags byte.
        flags: u8,
        /// The bits that were allowed.
        allowed: u8,
    },
    /// The frame has no CRC-32C trailer, and the decoder
    /// [requires](crate::frame::Decoder::with_checksums_required) one.
    MissingChecksum {
        /// The flags byte.
        flags: u8,
    },
    /// The CRC-32C trailer does not match the frame.
    BadChecksum {
        /// The checksum in the trailer.
        received: u32,
        /// The checksum of the bytes that came.
        computed: u32,
    },
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooShort { length, limit } => {
                write!(f, "frame length {length} is below the minimum of {limit}")
            }
            Self::TooLong { length, limit } => {
                write!(f, "frame length {length} is above the limit of {limit}")
            }
            Self::BadVersion { version } => write!(f, "frame version {version} is not 1"),
            Self::BadFlags { flags, allowed } => {
                write!(
                    f,
                    "frame flags {flags:#04x} have bits outside of {allowed:#04x}"
                )
            }
            Self::MissingChecksum { flags } => {
                write!(
                    f,
                    "frame flags {flags:#04x} say no checksum, which is required"
                )
            }
            Self::BadChecksum { received, computed } => {
                write!(
                    f,
                    "frame checksum {received:#010x} is not the computed {computed:#010x}"
                )
            }
        }
    }
}

impl Error for FrameError {}

macro_rules! close_reasons {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $text:literal;)*) => {
        /// Why a connection ended.
        ///
        /// The reasons up to 0xFF are those of the wire, which a BYE carries in either direction;
        /// from 0x100 on are those that only this side knows. Each has a counter of its own, and
        /// the sum of the counters is the number of connections that closed.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        #[repr(u16)]
        pub enum CloseReason {
            $($(#[$doc])* $name = $code,)*
        }

        impl CloseReason {
            /// Every reason, in the order of their codes.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The reason as one lower-case word, as metrics and reports show it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

close_reasons! {
    /// The service stops.
    Shutdown = 1, "shutdown";
    /// The application closed the connection.
    AppClosed = 2, "app_closed";
    /// A length field below its minimum.
    FrameTooShort = 3, "frame_too_short";
    /// A length field above its limit.
    FrameTooLong = 4, "frame_too_long";
    /// A version byte other than 1.
    BadVersion = 5, "bad_version";
    /// Undefined flags.
    BadFlags = 6, "bad_flags";
    /// A checksum that does not match.
    BadChecksum = 7, "bad_checksum";
    /// An unknown or malformed protocol message, or one that may not come now.
    BadProtocolMessage = 8, "bad_protocol_message";
    /// HELLO is required and another frame came first.
    HelloRequired = 9, "hello_required";
    /// The HELLO names another network or protocol version.
    HelloMismatch = 10, "hello_mismatch";
    /// The token is wrong.
    AuthFailed = 11, "auth_failed";
    /// No whole frame in time after connecting.
    FirstFrameTimeout = 12, "first_frame_timeout";
    /// A frame did not become whole in time.
    FrameTimeout = 13, "frame_timeout";
    /// No byte in either direction for the configured time.
    IdleTimeout = 14, "idle_timeout";
    /// No answer to heartbeats.
    HeartbeatTimeout = 15, "heartbeat_timeout";
    /// The peer did not take its data: its system acknowledged none of it for the write stall time,
    /// or its outbox was full and the policy says so.
    SlowPeer = 16, "slow_peer";
    /// The service has all the peers it may have.
    TooManyPeers = 17, "too_many_peers";
    /// The peer's address has all the connections it may have.
    TooManyPerAddress = 18, "too_many_per_address";
    /// The application refused the connection.
    Denied = 19, "denied";
    /// The service's byte budget is used up.
    Budget = 20, "budget";
    /// Another connection of the same node exists.
    DuplicateNode = 21, "duplicate_node";
    /// A subscriber with [`OverflowPolicy::Close`](crate::OverflowPolicy::Close) had no room for
    /// its messages.
    Flood = 22, "flood";
    /// A defect on this side.
    Internal = 23, "internal";
    /// The peer closed in order: its FIN came at a frame boundary, and its answers were flushed.
    PeerClosed = 0x100, "peer_closed";
    /// The peer said BYE.
    PeerBye = 0x101, "peer_bye";
    /// The peer's FIN came inside a frame; the part of it was counted and not delivered.
    EofInFrame = 0x102, "eof_in_frame";
    /// The connection was reset.
    Reset = 0x103, "reset";
    /// Another error of the operating system.
    Io = 0x104, "io";
    /// The operating system gave the connection up, because the peer's host no longer answers,
    /// takes nothing for `TCP_USER_TIMEOUT`, or cannot be reached.
    Stale = 0x105, "stale";
}

impl CloseReason {
    /// Number of reasons.
    pub(crate) const COUNT: usize = Self::ALL.len();

    /// The code that a BYE carries for this reason; `None` for those that only this side knows.
    #[must_use]
    pub const fn wire_code(self) -> Option<u16> {
        let code = self as u16;
        if code < 0x100 { Some(code) } else { None }
    }

    /// The reason of a code that came in a BYE; `None` for a code that this version does not know.
    #[must_use]
    pub fn from_wire_code(code: u16) -> Option<Self> {
        Self::ALL
            .iter()
            .copied()
            .find(|reason| reason.wire_code() == Some(code))
    }

    /// Whether the side that closes for it reads on until the other side's end: it stops, was asked
    /// to close, or keeps another connection of the same node.
    pub(crate) const fn reads_on(self) -> bool {
        matches!(self, Self::Shutdown | Self::AppClosed | Self::DuplicateNode)
    }

    /// Position in [`ALL`](Self::ALL), for tables of counters.
    pub(crate) fn ordinal(self) -> usize {
        // The list is sorted by code, which the tests check.
        Self::ALL.partition_point(|reason| *reason < self)
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl From<FrameError> for CloseReason {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::TooShort { .. } => Self::FrameTooShort,
            FrameError::TooLong { .. } => Self::FrameTooLong,
            FrameError::BadVersion { .. } => Self::BadVersion,
            FrameError::BadFlags { .. } => Self::BadFlags,
            FrameError::MissingChecksum { .. } | FrameError::BadChecksum { .. } => {
                Self::BadChecksum
            }
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
            Self::Interface { interface, source } => {
                write!(f, "interface `{interface}`: {source}")
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
            Self::BadAddress(source) => write!(f, "{source}"),
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
            Self::BadAddress(source) => Some(source),
            Self::BadTarget
            | Self::BadTimeout
            | Self::TooManyLinks { .. }
            | Self::Busy
            | Self::Stopped => None,
        }
    }
}

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
            Self::Io(source) => write!(f, "cannot listen: {source}"),
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

/// A value of a [`Config`](crate::Config) that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// A number is outside of its range.
    OutOfRange {
        /// The setting, as the configuration file spells it.
        setting: &'static str,
        /// The value given, in the setting's unit.
        value: u64,
        /// The smallest value allowed.
        min: u64,
        /// The largest value allowed.
        max: u64,
        /// The unit of all three; empty where the setting is named for what it counts.
        unit: &'static str,
    },
    /// One of a setting's values is outside of its range.
    ElementOutOfRange {
        /// The setting, which takes several values.
        setting: &'static str,
        /// The one that is wrong, or its size.
        value: u64,
        /// The smallest value allowed.
        min: u64,
        /// The largest value allowed.
        max: u64,
        /// The unit of all three; empty where they are plain numbers.
        unit: &'static str,
    },
    /// Two settings contradict each other: the first has to be at most the second.
    Exceeds {
        /// The setting that is too large.
        setting: &'static str,
        /// Its value.
        value: u64,
        /// The setting that bounds it.
        bound: &'static str,
        /// The bound's value.
        limit: u64,
        /// The unit of both.
        unit: &'static str,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::OutOfRange {
                setting,
                value,
                min,
                max,
                unit,
            } => {
                let value = Amount { value, unit };
                // What a size or a time is, a list has.
                let verb = match unit {
                    "" | "bytes" | "ms" => "is",
                    _ => "has",
                };
                write!(f, "{setting} {verb} {value}, {}", Allowed { min, max })
            }
            Self::ElementOutOfRange {
                setting,
                value,
                min,
                max,
                unit,
            } => {
                let value = Amount { value, unit };
                let allowed = Allowed { min, max };
                write!(f, "one of {setting} is {value}, {allowed}")
            }
            Self::Exceeds {
                setting,
                value,
                bound,
                limit,
                unit,
            } => {
                let value = Amount { value, unit };
                let limit = Amount { value: limit, unit };
                write!(f, "{setting} is {value}, above {bound} of {limit}")
            }
        }
    }
}

/// A number with its unit.
struct Amount {
    value: u64,
    unit: &'static str,
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.value, self.unit) {
            (value, "") => write!(f, "{value}"),
            (1, "bytes") => f.write_str("1 byte"),
            (value, unit) => write!(f, "{value} {unit}"),
        }
    }
}

/// A range. An end that no machine reaches is left out.
struct Allowed {
    min: u64,
    max: u64,
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { min, max } = self;
        if *max >= u64::MAX / 4 {
            write!(f, "allowed are {min} and more")
        } else {
            write!(f, "allowed are {min} to {max}")
        }
    }
}

impl Error for ConfigError {}

/// How a memory limit of the host leaves too little for the settings; see
/// [`Config::memory_budget`](crate::Config::memory_budget). All numbers are bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MemoryError {
    /// A budget was asked for that is above a whole limit.
    AboveLimit {
        /// The budget.
        budget: u64,
        /// The limit.
        limit: u64,
        /// Where it was read.
        origin: String,
    },
    /// The budget would be lowered to less than a service can do with.
    TooLittle {
        /// The budget that there would be.
        budget: u64,
        /// The least that it may be lowered to.
        min: u64,
        /// The limit.
        limit: u64,
        /// What is used of it.
        used: u64,
        /// Where it was read.
        origin: String,
    },
    /// A setting that has to lie within the budget is above the lowered one.
    DoesNotFit {
        /// The setting, as the configuration file spells it.
        setting: &'static str,
        /// Its value.
        value: u64,
        /// The lowered budget.
        budget: u64,
        /// The limit.
        limit: u64,
        /// What is used of it.
        used: u64,
        /// Where it was read.
        origin: String,
    },
}

impl fmt::Display for MemoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (limit, used, origin) = match self {
            Self::AboveLimit {
                budget,
                limit,
                origin,
            } => {
                return write!(
                    f,
                    "memory_budget is {budget} bytes, above the whole limit of {limit} bytes in \
                     {origin}"
                );
            }
            Self::TooLittle {
                budget,
                min,
                limit,
                used,
                origin,
            } => {
                let text = "the memory budget would be";
                write!(f, "{text} {budget} bytes, below {min}: it")?;
                (limit, used, origin)
            }
            Self::DoesNotFit {
                setting,
                value,
                budget,
                limit,
                used,
                origin,
            } => {
                let text = "above the memory budget of";
                write!(
                    f,
                    "{setting} is {value} bytes, {text} {budget} bytes, which"
                )?;
                (limit, used, origin)
            }
        };
        let text = "is half of what";
        write!(
            f,
            " {text} {origin} leaves: {limit} bytes, {used} of them in use"
        )
    }
}

impl Error for MemoryError {}

/// Why [`Handle::reconfigure`](crate::Handle::reconfigure) changed nothing.
#[derive(Debug)]
#[non_exhaustive]
pub enum ReconfigureError {
    /// The settings are wrong, or contradict one that cannot change while the service runs.
    Config(ConfigError),
    /// The host's limits on memory leave too little for the budget.
    Memory(MemoryError),
    /// Another change is under way, or a loop takes no commands. It may be tried again.
    Busy,
    /// The service has stopped or failed.
    Stopped,
}

impl fmt::Display for ReconfigureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(source) => write!(f, "{source}"),
            Self::Memory(source) => write!(f, "{source}"),
            Self::Busy => f.write_str("the service is busy with another change"),
            Self::Stopped => f.write_str("the service has stopped"),
        }
    }
}

impl Error for ReconfigureError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Config(source) => Some(source),
            Self::Memory(source) => Some(source),
            Self::Busy | Self::Stopped => None,
        }
    }
}

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
            Self::Listen { addr, source } => write!(f, "cannot listen on {addr}: {source}"),
            Self::Poller(source) => write!(f, "cannot create the poller: {source}"),
            Self::Memory(source) => write!(f, "{source}"),
            Self::Thread(source) => write!(f, "cannot start a thread: {source}"),
            Self::Cpu {
                setting,
                cpu,
                source,
            } => write!(f, "{setting}: cannot run on processor {cpu}: {source}"),
        }
    }
}

impl Error for StartError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::AlreadyStarted => None,
            Self::Memory(source) => Some(source),
            Self::Listen { source, .. }
            | Self::Poller(source)
            | Self::Thread(source)
            | Self::Cpu { source, .. } => Some(source),
        }
    }
}

/// Why a message was not accepted for sending. Nothing of it was queued.
///
/// The variants never overlap: only where [`is_full`](Self::is_full) can trying again help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SendError {
    /// The peer's outbox has no room for the message now, by its messages or its bytes.
    Full,
    /// The service's byte budget ([`Config::memory_budget`](crate::Config::memory_budget)) has no
    /// room for the message now.
    OverBudget,
    /// The payload is longer than the peer may be sent.
    TooLarge {
        /// Bytes of the payload.
        size: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// The type belongs to the protocol itself.
    ReservedType(MessageType),
    /// No such connection: it closed, or it never was.
    NotConnected,
    /// The connection is about to close and takes no further messages.
    Closing,
}

impl SendError {
    /// Whether there may be room later: [`Full`](Self::Full) or [`OverBudget`](Self::OverBudget).
    #[must_use]
    pub const fn is_full(self) -> bool {
        matches!(self, Self::Full | Self::OverBudget)
    }
}

impl fmt::Display for SendError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("no room in the outbox of the peer"),
            Self::OverBudget => f.write_str("no room in the memory budget of the service"),
            Self::TooLarge { size, limit } => {
                write!(f, "payload of {size} bytes is above the limit of {limit}")
            }
            Self::ReservedType(message_type) => {
                write!(f, "type {:#06x} belongs to the protocol", message_type.0)
            }
            Self::NotConnected => f.write_str("peer is not connected"),
            Self::Closing => f.write_str("connection is closing"),
        }
    }
}

impl Error for SendError {}

/// Why a request was refused, or ended without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestError {
    /// Refused: the question was not accepted for sending.
    Send(SendError),
    /// Refused: as many requests are outstanding as may be, in the service or on the queue.
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// Refused: the timeout is zero, or above 365 days.
    BadTimeout {
        /// The timeout given.
        timeout: Duration,
    },
    /// No answer in time.
    Timeout,
    /// The connection ended before the answer, for this reason.
    Closed(CloseReason),
    /// The service has stopped or failed.
    Stopped,
    /// The result was taken before.
    Taken,
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Send(error) => error.fmt(f),
            Self::TooMany { limit } => write!(f, "{limit} requests are outstanding already"),
            Self::BadTimeout { timeout } => {
                write!(f, "timeout is {timeout:?}, allowed are 1 ms to 365 days")
            }
            Self::Timeout => f.write_str("no answer in time"),
            Self::Closed(reason) => write!(f, "the connection ended before the answer: {reason}"),
            Self::Stopped => f.write_str("the service has stopped"),
            Self::Taken => f.write_str("the result was taken before"),
        }
    }
}

impl Error for RequestError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Send(error) => Some(error),
            Self::TooMany { .. }
            | Self::BadTimeout { .. }
            | Self::Timeout
            | Self::Closed(_)
            | Self::Stopped
            | Self::Taken => None,
        }
    }
}

impl From<SendError> for RequestError {
    fn from(error: SendError) -> Self {
        Self::Send(error)
    }
}

/// Why [`Handle::subscribe`](crate::Handle::subscribe) failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SubscribeError {
    /// The types asked for are none, or all belong to the protocol.
    NoTypes,
    /// A bound of the queue is outside of its range.
    OutOfRange {
        /// Which bound: `messages`, `bytes`, `event_capacity` or, of events alone, `capacity`.
        setting: &'static str,
        /// The value given.
        value: usize,
        /// The largest value allowed; the smallest is 1.
        max: usize,
    },
    /// The service has as many subscribers as it may have.
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// A channel of the embedder's can neither give up its oldest messages nor let others wait
    /// behind it: [`OverflowPolicy::DropOldest`](crate::OverflowPolicy::DropOldest) and
    /// [`OverflowPolicy::Pause`](crate::OverflowPolicy::Pause) need a queue of the service's own.
    /// So do events and timers among the messages.
    NeedsOwnQueue,
    /// The timers asked for by
    /// [`SubscribeOptions::with_timers`](crate::SubscribeOptions::with_timers) are not to be had.
    Timers(TimerError),
    /// The service has stopped or failed.
    Stopped,
}

impl fmt::Display for SubscribeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoTypes => f.write_str("no application type to subscribe to"),
            Self::OutOfRange {
                setting,
                value,
                max,
            } => {
                write!(
                    f,
                    "{setting} of the subscriber is {value}, allowed are 1 to {max}"
                )
            }
            Self::TooMany { limit } => write!(f, "all {limit} subscribers are taken"),
            Self::NeedsOwnQueue => f.write_str(
                "the overflow policy, events or timers need a queue of the service's own",
            ),
            Self::Timers(error) => write!(f, "timers of the subscriber: {error}"),
            Self::Stopped => f.write_str("the service has stopped"),
        }
    }
}

impl Error for SubscribeError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Timers(error) => Some(error),
            Self::NoTypes
            | Self::OutOfRange { .. }
            | Self::TooMany { .. }
            | Self::NeedsOwnQueue
            | Self::Stopped => None,
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

/// Why a timer was not set, or [`Handle::timers`](crate::Handle::timers) failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum TimerError {
    /// The number of timers asked for is zero or too large.
    Capacity {
        /// The value given.
        value: usize,
        /// The largest value allowed.
        max: usize,
    },
    /// All timers of the queue are set, or the service has as many queues as it may have.
    TooMany {
        /// The limit.
        limit: usize,
    },
    /// The duration is longer than 365 days, or a period of zero.
    Duration(Duration),
    /// The service has stopped or failed.
    Stopped,
}

impl fmt::Display for TimerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Capacity { value, max } => {
                write!(f, "capacity of timers is {value}, allowed are 1 to {max}")
            }
            Self::TooMany { limit } => write!(f, "all {limit} timers are taken"),
            Self::Duration(duration) => {
                write!(f, "a timer cannot be set for {duration:?}")
            }
            Self::Stopped => f.write_str("the service has stopped"),
        }
    }
}

impl Error for TimerError {}

/// The service stopped, or removed the subscriber, and everything that it had for it was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecvError;

impl fmt::Display for RecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the subscription has ended and the queue is empty")
    }
}

impl Error for RecvError {}

/// Why nothing was taken without waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TryRecvError {
    /// Nothing is there now.
    Empty,
    /// As [`RecvError`].
    Disconnected,
}

impl fmt::Display for TryRecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the queue is empty"),
            Self::Disconnected => RecvError.fmt(f),
        }
    }
}

impl Error for TryRecvError {}

/// Why nothing was taken within the time given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecvTimeoutError {
    /// The time is over.
    Timeout,
    /// As [`RecvError`].
    Disconnected,
}

impl fmt::Display for RecvTimeoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Timeout => f.write_str("nothing came in time"),
            Self::Disconnected => RecvError.fmt(f),
        }
    }
}

impl Error for RecvTimeoutError {}

/// A thread of the service ended by a defect; all connections were closed.
#[derive(Clone, Debug, PartialEq, Eq)]
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn close_reasons_are_sorted_and_round_trip() {
        assert!(CloseReason::ALL.windows(2).all(|pair| pair[0] < pair[1]));
        for (position, reason) in CloseReason::ALL.iter().enumerate() {
            assert_eq!(reason.ordinal(), position);
            if let Some(code) = reason.wire_code() {
                assert_eq!(CloseReason::from_wire_code(code), Some(*reason));
            }
        }
        assert_eq!(CloseReason::Internal.wire_code(), Some(23));
        assert_eq!(CloseReason::Reset.wire_code(), None);
        assert_eq!(CloseReason::Stale as u16, 0x105);
        assert_eq!(CloseReason::Stale.wire_code(), None);
        assert_eq!(CloseReason::from_wire_code(0), None);
        assert_eq!(CloseReason::from_wire_code(24), None);
    }

    #[test]
    fn errors_name_value_and_limit() {
        let error = FrameError::TooLong {
            length: 0x4745_5420,
            limit: 1_048_592,
        };
        assert_eq!(
            error.to_string(),
            "frame length 1195725856 is above the limit of 1048592"
        );
    }
}
