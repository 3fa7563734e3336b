//! What is kept of connections while the byte budget is short.

use super::deadlines::{Deadlines, Timer};
use crate::{budget::Holdings, clock::Tick, id::PeerId};

/// How often the budget is looked at while it is short.
pub(super) const BUDGET_CHECK_MS: u64 = 100;

/// What a walk over all peers is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To decide which peer makes room.
    Decide,
    /// To tell another loop, and to have the largest make room if that loop has so decided.
    Tell { evicts: bool },
}

/// A walk over all peers, and what those hold that it came by.
#[derive(Debug)]
pub(super) struct HoldingsWalk {
    pub(super) purpose: Purpose,
    /// The index to go on with.
    pub(super) next: usize,
    pub(super) holdings: Holdings,
    /// Who holds most, and what the next of them does.
    pub(super) largest: Option<(usize, PeerId)>,
    second: usize,
}

impl HoldingsWalk {
    pub(super) fn new(purpose: Purpose) -> Self {
        Self {
            purpose,
            next: 0,
            holdings: Holdings::default(),
            largest: None,
            second: 0,
        }
    }

    pub(super) fn add(&mut self, id: PeerId, bytes: usize, place: Holding) {
        match place {
            Holding::Coming => self.holdings.coming = self.holdings.coming.saturating_add(bytes),
            Holding::Held => {
                self.holdings.all = self.holdings.all.saturating_add(bytes);
                if Some((bytes, id)) > self.largest {
                    let before = self.largest.replace((bytes, id));
                    self.second = before.map_or(0, |(bytes, _)| bytes);
                    self.holdings.largest = bytes;
                } else {
                    self.second = self.second.max(bytes);
                }
            }
            Holding::Leaving => {}
        }
    }

    /// The largest makes room.
    pub(super) fn evict(&mut self) {
        let bytes = self.holdings.largest;
        self.holdings.all -= bytes;
        self.holdings.coming = self.holdings.coming.saturating_add(bytes);
        self.holdings.largest = self.second;
        self.largest = None;
    }
}

/// How bytes of a peer count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holding {
    Held,
    /// They come back soon, because the connection is closing.
    Coming,
    /// They come back, and nothing is known of when.
    Leaving,
}

/// Who waits for the budget, and what is done about it.
///
/// Invariants:
/// - a connection that pauses for the budget is in `paused`; one that is `in_refused_list` is in
///   `refused`
/// - while either has any, the `timer` is on the wheel; it is true exactly while that is so
#[derive(Debug, Default)]
pub(super) struct Pressure {
    /// Peers that are not read until the budget has room.
    pub(super) paused: Vec<PeerId>,
    pub(super) timer: bool,
    /// A walk over all peers for the one that is to make room.
    pub(super) walk: Option<HoldingsWalk>,
    /// Peers whose senders were refused for the budget.
    pub(super) refused: Vec<PeerId>,
}

impl Pressure {
    /// Has the budget looked at a little later.
    pub(super) fn arm(&mut self, now: Tick, deadlines: &mut Deadlines) {
        if !self.timer {
            self.timer = true;
            let wheel = &mut deadlines.wheel;
            wheel.insert(now + BUDGET_CHECK_MS, Timer::Budget);
        }
    }
}
