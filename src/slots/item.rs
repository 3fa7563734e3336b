//! What a sender wants to have accepted, and the answer if it is not.

use crate::{error::SendError, frame::Frame, ledger::Traffic, policy::Priority};

/// What is to be accepted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Item {
    pub(super) traffic: Traffic,
    /// The longest payload.
    pub(super) payload_size: usize,
    pub(super) priority: Priority,
    /// It answers what the peer sent.
    pub(super) is_reply: bool,
}

impl Item {
    pub(super) fn of(frame: &Frame<'_>, priority: Priority) -> Self {
        Self {
            traffic: Traffic::new(1, frame.encoded_size() as u64),
            payload_size: frame.payload.len(),
            priority,
            is_reply: false,
        }
    }
}

/// Why something was not accepted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Refused {
    pub(super) error: SendError,
    /// The loop is to look at the slot.
    pub(super) tells_loop: bool,
}

impl From<SendError> for Refused {
    fn from(error: SendError) -> Self {
        let tells_loop = false;
        Self { error, tells_loop }
    }
}
