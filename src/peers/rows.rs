//! The list of connections, made bit by bit: a service with many of them goes on while it is asked.

use std::time::Duration;

use super::{
    connection::{Connection, Standing},
    state::Peers,
};
use crate::{
    clock::Tick,
    ledger::{PeerRow, Traffic},
    limits::ROWS_PER_TURN,
    peer::Peer,
};

/// A walk over all connections, which begins with the first.
#[derive(Debug, Default)]
pub(crate) struct RowWalk {
    /// The index to go on with.
    next: usize,
    rows: Vec<PeerRow>,
}

impl RowWalk {
    /// The rows of those that were there when the walk came by.
    pub(crate) fn into_rows(self) -> Vec<PeerRow> {
        self.rows
    }
}

impl Peers {
    /// Goes on with a walk, as far as it may go in one turn. Returns whether that was all of it.
    pub(crate) fn continue_rows(&self, now: Tick, walk: &mut RowWalk) -> bool {
        let index_end = self.connections.index_end();
        let end = index_end.min(walk.next + ROWS_PER_TURN);
        for index in walk.next..end {
            if let Some(connection) = self.connections.look(index) {
                if connection.standing != Standing::Dialling {
                    walk.rows.push(self.row(now, &connection));
                }
            }
        }
        walk.next = end;
        end == index_end
    }

    #[cfg(test)]
    pub(crate) fn rows(&self, now: Tick) -> Vec<PeerRow> {
        let mut walk = RowWalk::default();
        while !self.continue_rows(now, &mut walk) {}
        walk.into_rows()
    }

    fn row(&self, now: Tick, connection: &Connection) -> PeerRow {
        let peer = &connection.peer;
        PeerRow {
            peer: peer.id,
            addr: peer.addr,
            link: peer.link,
            identity: peer.greeting.identity.clone(),
            age: Duration::from_millis(now.saturating_sub(peer.opened)),
            idle: Duration::from_millis(now.saturating_sub(peer.moved)),
            inbound: peer.counts.inbound,
            outbound: peer.counts.outbound,
            queued: self.common.slots.queued(peer.id),
            queued_oldest: self.oldest(now, peer),
            overflowed: peer.counts.sums.overflowed,
            in_flight_bytes: peer.in_flight(self.common.slots.released(peer.id)).bytes
                + peer.carry.len() as u64,
            reading: connection.pause.is_none(),
            closing: peer.is_closing(),
        }
    }

    /// How long the oldest message has waited that is queued for a peer.
    fn oldest(&self, now: Tick, peer: &Peer) -> Option<Duration> {
        if self.common.slots.queued(peer.id) == Traffic::default() {
            return None;
        }
        // What the loop has not seen yet has come just now.
        let age = peer.outbox.age_of_oldest(now).unwrap_or_default();
        Some(Duration::from_millis(age.into()))
    }
}
