//! Why a connection ended.

use std::fmt;

use super::FrameError;

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
