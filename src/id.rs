//! Names of things: message types, peers, subscribers.

use std::fmt;

/// The type of a message: what subscribers choose by.
///
/// 0x0000 to 0xFEFF belong to the application. 0xFF00 to 0xFFFF belong to the protocol itself:
/// they are never dispatched, and sending them is refused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct MessageType(pub u16);

impl MessageType {
    /// The last type that an application may use.
    pub const APPLICATION_MAX: Self = Self(0xFEFF);

    /// HELLO: who the sender is.
    pub(crate) const HELLO: Self = Self(0xFF00);
    /// OK: the answer to HELLO.
    pub(crate) const OK: Self = Self(0xFF01);
    /// BYE: why the sender closes.
    pub(crate) const BYE: Self = Self(0xFF02);
    /// PING: asks for a PONG with the same payload.
    pub(crate) const PING: Self = Self(0xFF03);
    /// PONG: the answer to PING.
    pub(crate) const PONG: Self = Self(0xFF04);

    /// Whether the type belongs to the protocol rather than to the application.
    #[must_use]
    pub const fn is_protocol(self) -> bool {
        self.0 > Self::APPLICATION_MAX.0
    }
}

impl From<u16> for MessageType {
    fn from(value: u16) -> Self {
        Self(value)
    }
}

impl fmt::Display for MessageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for MessageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MessageType({:#06x})", self.0)
    }
}

/// A connection of the service.
///
/// The id carries a generation: after the connection closed, the id is never valid again, although
/// the slot behind it is used for another connection. Whatever is sent to it then is refused with
/// [`SendError::NotConnected`](crate::SendError::NotConnected).
///
/// The layout is shard (8 bits), index (24 bits), generation (32 bits); it prints as
/// `shard.index.generation`, and [`to_bits`](Self::to_bits) gives the number to store it by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerId(u64);

impl PeerId {
    pub(crate) const INDEX_BITS: u32 = 24;

    /// Panics when the index does not fit its 24 bits: tables are bounded far below.
    pub(crate) fn new(shard: u8, index: u32, generation: u32) -> Self {
        assert!(
            index < 1 << Self::INDEX_BITS,
            "peer index {index} has more than 24 bits"
        );
        Self(u64::from(shard) << 56 | u64::from(index) << 32 | u64::from(generation))
    }

    /// The loop that owns the connection.
    #[must_use]
    pub const fn shard(self) -> u8 {
        (self.0 >> 56) as u8
    }

    /// The slot of the connection in its loop's table; used again after the connection closed.
    #[must_use]
    pub const fn index(self) -> u32 {
        (self.0 >> 32) as u32 & ((1 << Self::INDEX_BITS) - 1)
    }

    /// Which of the slot's connections this is.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the lower half is what is wanted"
    )]
    pub const fn generation(self) -> u32 {
        self.0 as u32
    }

    /// The id as a number.
    #[must_use]
    pub const fn to_bits(self) -> u64 {
        self.0
    }

    /// The id of a number that [`to_bits`](Self::to_bits) gave.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }
}

impl fmt::Display for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.shard(), self.index(), self.generation())
    }
}

impl fmt::Debug for PeerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PeerId({self})")
    }
}

/// Who a node is, across connections and restarts: 16 bytes that its operator chose, and that it
/// says in HELLO or OK. All zero is anonymous.
///
/// Prints as 32 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct NodeId(pub [u8; 16]);

impl NodeId {
    /// The node that does not say who it is.
    pub const ANONYMOUS: Self = Self([0; 16]);

    /// Whether the node does not say who it is.
    #[must_use]
    pub fn is_anonymous(self) -> bool {
        self == Self::ANONYMOUS
    }
}

impl From<[u8; 16]> for NodeId {
    fn from(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({self})")
    }
}

/// What a peer said of itself in HELLO or OK.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerIdentity {
    /// Who it is.
    pub node_id: NodeId,
    /// Its program and version, at most 255 bytes, as it wrote them: to be escaped before it is
    /// shown.
    pub agent: String,
    /// The longest payload in bytes that it accepts.
    pub payload_size_max: u32,
    /// Whether it showed a token that we accept; never where we ask for none.
    pub authenticated: bool,
}

/// A wish to be connected to somebody, from [`Handle::connect`](crate::Handle::connect) until it
/// is given up; never used twice. One link may have many connections, one after the other.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub(crate) u64);

impl fmt::Display for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for LinkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LinkId({self})")
    }
}

/// A socket that the service listens on; never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerId(pub(crate) u64);

impl fmt::Display for ListenerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for ListenerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ListenerId({self})")
    }
}

/// A question of a service, from [`Handle::request`](crate::Handle::request) until it is resolved,
/// or of a client ([`Client::push_request`](crate::Client::push_request)).
///
/// It travels as the message's correlation number: the upper half is the same for all questions of
/// a service or client and was drawn when that was made, the lower half counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub(crate) u64);

impl RequestId {
    /// The correlation number that the question carries, and the answer has to.
    #[must_use]
    pub const fn correlation(self) -> u64 {
        self.0
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RequestId({self})")
    }
}

/// A subscriber of the service; never used twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriberId(pub(crate) u64);

impl fmt::Display for SubscriberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for SubscriberId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SubscriberId({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peer_id_keeps_its_parts() {
        let id = PeerId::new(255, (1 << 24) - 1, u32::MAX);
        assert_eq!(
            (id.shard(), id.index(), id.generation()),
            (255, (1 << 24) - 1, u32::MAX)
        );
        let id = PeerId::new(1, 2, 3);
        assert_eq!(id.to_string(), "1.2.3");
        assert_eq!(PeerId::from_bits(id.to_bits()), id);
    }

    #[test]
    fn the_protocol_owns_the_top_of_the_types() {
        assert!(!MessageType(0xFEFF).is_protocol());
        assert!(MessageType(0xFF00).is_protocol());
        assert!(MessageType(0xFFFF).is_protocol());
    }
}
