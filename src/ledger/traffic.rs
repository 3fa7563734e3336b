//! A number of messages and their bytes, which most counts are made of.

/// Messages and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Number of messages.
    pub messages: u64,
    /// Bytes of their frames, headers included.
    pub bytes: u64,
}

impl Traffic {
    pub(crate) const fn new(messages: u64, bytes: u64) -> Self {
        Self { messages, bytes }
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.messages += other.messages;
        self.bytes += other.bytes;
    }

    /// Takes away what was added before.
    pub(crate) fn sub(&mut self, other: Self) {
        *self = self.since(other);
    }

    /// What was added to a sum since it was `before`.
    pub(crate) fn since(self, before: Self) -> Self {
        debug_assert!(self.messages >= before.messages && self.bytes >= before.bytes);
        Self::new(
            self.messages.saturating_sub(before.messages),
            self.bytes.saturating_sub(before.bytes),
        )
    }
}
