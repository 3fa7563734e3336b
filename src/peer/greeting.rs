//! What the two sides say of themselves at the beginning.

use std::sync::Arc;

use super::parsed::Parsed;
use crate::id::PeerIdentity;

/// How far the greeting is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HelloState {
    /// It may come, and need not.
    Optional,
    /// Nothing else may come before it.
    Required,
    /// Ours is out, and its OK has not come.
    Awaited,
    /// We connected and said none.
    Never,
    /// It came, or the OK to ours.
    Said,
}

/// The greeting of a connection.
///
/// Invariants: there is an `identity` exactly once HELLO or its OK came, which is `Said`; there is
/// something `before_ok` only while OK is `Awaited`.
#[derive(Debug)]
pub(crate) struct Greeting {
    pub(super) hello: HelloState,
    /// What the peer said of itself.
    pub(crate) identity: Option<Arc<PeerIdentity>>,
    /// What we send of the protocol carries a checksum.
    pub(super) checksums: bool,
    /// What the carried bytes hold in front of the OK that has not come.
    pub(super) before_ok: Option<Box<Parsed>>,
}

impl Greeting {
    pub(super) fn new(hello: HelloState) -> Self {
        Self {
            hello,
            identity: None,
            checksums: false,
            before_ok: None,
        }
    }
}
