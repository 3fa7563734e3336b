//! Since when a peer is waited for.

use crate::clock::Tick;

/// The starts of the deadlines about receiving, in time of receiving. They are
/// [shifted](Self::shift) by the time in which we did not read, `paused_since`.
///
/// Invariants: `ping_waits` only while there is a first PING in `pinged`, or just after it was
/// answered; no tick is later than the time of receiving.
#[derive(Debug)]
pub(super) struct InputTimes {
    /// Start of the first-frame deadline.
    pub(super) first_frame_since: Option<Tick>,
    /// When the first byte of the unfinished frame came.
    pub(super) frame_since: Option<Tick>,
    /// Start of the idle time.
    pub(super) idle_since: Tick,
    /// When the last byte came from the peer.
    pub(super) heard_since: Tick,
    /// The first and the latest PING since then.
    pub(super) pinged: Option<(Tick, Tick)>,
    /// The first of these PINGs has not been seen to leave the outbox.
    pub(super) ping_waits: bool,
    /// Since when we do not read.
    pub(super) paused_since: Option<Tick>,
}

impl InputTimes {
    pub(super) fn new(now: Tick) -> Self {
        Self {
            first_frame_since: Some(now),
            frame_since: None,
            idle_since: now,
            heard_since: now,
            pinged: None,
            ping_waits: false,
            paused_since: None,
        }
    }

    /// We did not read for so long, which counts against no peer.
    pub(super) fn shift(&mut self, shift: Tick) {
        self.first_frame_since = self.first_frame_since.map(|tick| tick + shift);
        self.frame_since = self.frame_since.map(|tick| tick + shift);
        self.idle_since += shift;
        self.heard_since += shift;
        self.pinged = self
            .pinged
            .map(|(first, last)| (first + shift, last + shift));
    }
}

/// The first tick at which `limit` ticks have certainly passed: `since` was rounded down.
pub(super) fn end_of(since: Tick, limit: u64) -> Tick {
    since.saturating_add(limit).saturating_add(1)
}
