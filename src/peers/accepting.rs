//! Connections that come to us, and what is first heard of any.

use std::net::SocketAddr;

use super::{
    connection::{Connection, Standing},
    ended::count_closed,
    state::Peers,
    turn_lists::Action,
};
use crate::{
    clock::Tick, error::CloseReason, id::PeerId, limits::LINGER_MS, peer::Peer, slots::About,
    socket::Ready,
};

impl Peers {
    /// A connection was accepted. `None` if there is not even a place to refuse it from.
    ///
    /// A refused one gets an id too: it is told why, and closed.
    pub(crate) fn handle_accepted(&mut self, now: Tick, addr: SocketAddr) -> Option<PeerId> {
        let common = &mut self.common;
        common.slots.ledger.accepted.add(1);
        let is_due = common.rules.hello_required || common.rules.first_frame_ms > 0;
        let refusal = common.admission.census.take_place(addr, is_due).err();
        let full = common.admission.is_full(self.connections.len());
        let Some(id) = (if full {
            None
        } else {
            common.take_slot(&mut self.connections, About { addr, link: None })
        }) else {
            if refusal.is_none() {
                let census = &common.admission.census;
                census.give_place(addr);
                (0..usize::from(is_due)).for_each(|_| census.end_pending());
            }
            let reason = refusal.unwrap_or(CloseReason::TooManyPeers);
            count_closed(&common.slots.ledger, reason);
            return None;
        };
        let receiving = common.deadlines.receiving(now);
        let mut peer = Peer::new(id, addr, receiving, &common.rules);
        peer.opened = now;
        peer.moved = now;
        let standing = match refusal {
            Some(_) => Standing::Refused,
            None => Standing::Accepted,
        };
        let ledger = &common.slots.ledger;
        ledger.refused.add(u64::from(refusal.is_some()));
        let mut connection = Connection::new(peer, standing);
        match refusal {
            Some(reason) => {
                log::debug!("peer {id} at {addr} refused: {reason}");
                common.begin_close(now, &mut connection, reason, LINGER_MS);
                self.connections.insert(connection);
            }
            None => {
                log::debug!("peer {id} at {addr} connected");
                common.admission.count_accepted(ledger);
                connection.pending = is_due;
                if !common.rules.hello_required {
                    common.admit(now, &mut connection);
                }
                common.arm(now, &mut connection);
                self.connections.insert(connection);
                self.connections.make_dormant(id.index() as usize, now);
            }
        }
        Some(id)
    }

    /// A connection was accepted for want of anything better, and closed at once.
    pub(crate) fn note_turned_away(&mut self) {
        let ledger = &self.common.slots.ledger;
        ledger.accepted.add(1);
        count_closed(ledger, CloseReason::TooManyPeers);
    }

    /// The connection could not be registered, or the like.
    pub(crate) fn handle_failed(&mut self, now: Tick, id: PeerId, reason: CloseReason) {
        self.on(now, id, |common, connection| {
            common.leave(connection, reason, true);
        });
    }

    /// Readiness of a peer. A stale id is counted.
    pub(crate) fn handle_ready(&mut self, id: PeerId, ready: Ready) {
        // The first event of a connection says that it may be written, which was known.
        if ready == Ready::WRITE && self.connections.is_inactive(id) {
            return;
        }
        let lists = &mut self.common.lists;
        let Some(connection) = self.connections.live(id) else {
            self.common.slots.ledger.stale_events.add(1);
            return;
        };
        connection.ready.set(ready);
        if connection.standing == Standing::Dialling {
            connection.ready = Ready::default();
            lists.actions.push_back(Action::LookConnected(id));
            return;
        }
        lists.list_reading(connection);
        lists.list_writing(connection);
    }
}
