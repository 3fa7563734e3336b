//! What an embedder chooses about sending: which message goes first, and what a full outbox means.

/// How urgent a message is, compared with others for the same peer.
///
/// What waits for a peer goes out highest first. Messages of one priority keep their order; those
/// of different priorities have none. A lower one is passed over by at most 128 KiB of higher ones
/// before 16 KiB of it, or one message if that is longer, get their turn: it never starves.
///
/// Up to 16 KiB of whole frames are offered to the kernel at a time while several priorities wait,
/// and what the kernel has taken cannot be overtaken any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Priority {
    /// For what may wait: bulk transfers, history.
    Low,
    /// What a message has unless it is said otherwise.
    #[default]
    Normal,
    /// For what is short and must not wait behind the rest: votes, cancellations, heartbeats of the
    /// application.
    High,
}

impl Priority {
    pub(crate) const COUNT: usize = 3;
    /// In the order in which they go out.
    pub(crate) const ALL: [Self; Self::COUNT] = [Self::High, Self::Normal, Self::Low];

    /// The position in [`ALL`](Self::ALL).
    pub(crate) const fn ordinal(self) -> usize {
        match self {
            Self::High => 0,
            Self::Normal => 1,
            Self::Low => 2,
        }
    }
}

/// What becomes of a message for which the outbox of its peer has no room.
///
/// This is about the bounds of one outbox. Where the byte budget of the whole service has no room,
/// sending says [`OverBudget`](crate::SendError::OverBudget) whatever the policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OutboxFull {
    /// It is refused with [`SendError::Full`](crate::SendError::Full), and nothing else happens: a
    /// peer that takes nothing at all is closed by the write stall.
    #[default]
    Refuse,
    /// It is refused with `Full` and the peer is cut off with
    /// [`CloseReason::SlowPeer`](crate::CloseReason::SlowPeer); later sends say `Closing`. What
    /// waited for the peer is lost and counted. A sender that is willing to wait
    /// ([`send_timeout`](crate::Handle::send_timeout)) is no exception. A message or batch that is
    /// above the limits by itself cuts nobody off.
    Close,
    /// The oldest messages that wait for the peer are dropped, those of the lowest priority first,
    /// until it fits; none is dropped for one of a lower priority. They are counted:
    /// [`Snapshot::outbound_overflowed`](crate::Snapshot::outbound_overflowed). Of each priority up
    /// to 256 KiB, or a quarter of the limits if that is less, are on their way to the kernel and
    /// cannot be dropped any more; if it does not fit beside those, it is refused with `Full`.
    DropOldest,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_higher_is_greater_and_goes_out_first() {
        assert!(Priority::High > Priority::Normal && Priority::Normal > Priority::Low);
        for (index, priority) in Priority::ALL.into_iter().enumerate() {
            assert_eq!(priority.ordinal(), index);
        }
    }
}
