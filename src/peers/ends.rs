//! The end of a connection, after whatever closed it.
//!
//! Its last step is to be *settled*: the event loop looks what is left unread, which is counted,
//! before the socket is closed. Then its slot is given back, its place in the table is free, and
//! what depended on it goes on: the link that made it, the links that it covered.

use std::{io, time::Duration};

use super::{
    asking::count_unconfirmed,
    connection::{Connection, Leaving, Standing},
    output::close_slot,
    state::{Common, Peers},
    turn_lists::{Action, Again},
};
use crate::{
    clock::Tick,
    dispatch::Notice,
    error::{CloseReason, DialError},
    event::Event,
    id::PeerId,
    ledger::{ClosedRow, Traffic},
    limits::LAST_READ_BYTES,
    peer::Peer,
};

impl Peers {
    /// Does something with a connection, unless it is on its way out. If that ends one that was not
    /// made yet, nothing is left of it afterwards.
    pub(super) fn on<R>(
        &mut self,
        now: Tick,
        id: PeerId,
        step: impl FnOnce(&mut Common, &mut Connection) -> R,
    ) -> Option<R> {
        let connection = self.connections.live(id)?;
        let done = step(&mut self.common, connection);
        if connection.leaving.is_some() && connection.standing == Standing::Dialling {
            self.finish_leaving(now, id);
        }
        Some(done)
    }

    /// Counts what a last read of a connection brings, which nothing more is to come of.
    pub(crate) fn handle_last_input(
        &mut self,
        id: PeerId,
        mut read: impl FnMut(&mut Vec<u8>, usize) -> io::Result<usize>,
    ) {
        let rules = &self.common.rules;
        let connection = self.connections.get_mut(id.index() as usize);
        let Some(connection) =
            connection.filter(|connection| connection.id() == id && connection.leaving.is_some())
        else {
            return;
        };
        let peer = &mut connection.peer;
        if peer.ending.eof {
            return;
        }
        let mut left = LAST_READ_BYTES;
        let mut buffer = self.common.input.pool.take_buffer();
        while left > 0 {
            buffer.clear();
            let count = match read(&mut buffer, left) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) => {
                    // One that has ended the connection is not told again.
                    connection.failed |= error.kind() != io::ErrorKind::WouldBlock;
                    break;
                }
            };
            let is_partial = peer.has_partial_frame();
            self.common
                .slots
                .ledger
                .partial_frames
                .add(is_partial.into());
            peer.discard_carry(rules);
            peer.discard(rules, &buffer[..count]);
            left = left.saturating_sub(count);
        }
        self.common.input.pool.put_buffer(buffer);
    }

    /// A connection that is to be closed has so many bytes unread.
    pub(crate) fn handle_settled(&mut self, now: Tick, id: PeerId, unread: u64) {
        let connection = self.connections.get_mut(id.index() as usize);
        let Some(connection) =
            connection.filter(|connection| connection.id() == id && connection.leaving.is_some())
        else {
            return;
        };
        connection.peer.discard_unseen(unread);
        if self.common.is_to_be_confirmed(connection) {
            let look = Action::Look { id, last: true };
            self.common.lists.actions.push_front(look);
        } else {
            self.finish_leaving(now, id);
        }
    }

    /// Gives the slot of a connection back, counts it, and has the event loop close it.
    pub(super) fn finish_leaving(&mut self, now: Tick, id: PeerId) {
        let index = id.index() as usize;
        let connection = self.connections.get_mut(index);
        let Some(connection) = connection.filter(|connection| connection.id() == id) else {
            return;
        };
        let Some(leaving) = connection.leaving else {
            return;
        };
        let Some((row, held)) = self.common.close(now, connection, leaving) else {
            self.common.lists.again.push(Again::Leave(id));
            return;
        };
        let (standing, told_connected) = (connection.standing, connection.told_connected);
        let dial_error = connection.dial_error.take();
        self.connections.remove(index);
        self.forget_standing(now, standing, &row);
        let common = &mut self.common;
        let Leaving { reason, abort } = leaving;
        if common.slots.was_asked(id) {
            common.told.notify(Notice::Closed { peer: id, reason });
        }
        let left = row.clone();
        if common.slots.was_given_up(id) {
            common.links.end(left.link, &common.slots);
        }
        let error = (!told_connected).then(|| {
            dial_error.unwrap_or(DialError::Handshake {
                reason,
                bye_received: row.bye_received,
            })
        });
        if standing != Standing::Dialling {
            if told_connected {
                common.tell_end(now, &row);
            }
            let ledger = &common.slots.ledger;
            common.ended.keep_row(row, held, abort, ledger);
        }
        // Senders that wait for room learn that there will never be any.
        if !common.slots.notify_room(id.index()) {
            common.lists.again.push(Again::NotifyRoom(id.index()));
        }
        common.lists.actions.push_back(Action::Close {
            index: id.index(),
            abort,
        });
        if let Some(link) = left.link {
            self.handle_link_down(now, link, &left, error);
        }
    }

    /// A connection is gone: it counts no more as what it was.
    fn forget_standing(&mut self, now: Tick, standing: Standing, row: &ClosedRow) {
        let common = &mut self.common;
        if common.nodes.here.get(&row.node_id) == Some(&row.peer) {
            common.nodes.here.remove(&row.node_id);
            common.uncover_links(now, row.node_id);
            if let Some(registry) = &common.nodes.registry {
                registry.tell_gone(row.node_id, common.slots.shard());
            }
        }
        common.admission.forget(standing, row, &common.slots.ledger);
        self.doubt_end(now, row);
    }
}

impl Common {
    /// Gives the slot of a connection back and counts what it did. Returns its row, and how many of
    /// its messages are still somewhere; `None` if another thread has the slot's lock.
    fn close(
        &mut self,
        now: Tick,
        connection: &mut Connection,
        leaving: Leaving,
    ) -> Option<(ClosedRow, u64)> {
        let ledger = &self.slots.ledger;
        let peer = &mut connection.peer;
        let held = peer.in_flight(self.slots.released(peer.id)).messages;
        let lost = close_slot(&self.slots, now, peer).ok()?;
        let is_partial = peer.has_partial_frame();
        ledger.partial_frames.add(is_partial.into());
        if !peer.state().takes_input() || peer.waits_for_ok() {
            peer.discard_carry(&self.rules);
        }
        if connection.carry_charge > 0 {
            ledger.budget.release(connection.carry_charge);
        }
        if let Some(timer) = connection.timer {
            self.deadlines.wheel.cancel_at(timer);
        }
        self.ended.count(peer, lost, ledger);
        if connection.pending {
            self.admission.census.end_pending();
        }
        let untold = self.acknowledgement.untold;
        let unconfirmed = count_unconfirmed(ledger, peer, untold);
        let row = closed_row(now, peer, leaving.reason, lost, unconfirmed);
        Some((row, held))
    }

    /// Tells of the end of a connection that was let in. One that was not has the line of its
    /// refusal.
    fn tell_end(&mut self, now: Tick, row: &ClosedRow) {
        if self.told.is_watched() {
            let event = Event::Closed(Box::new(row.clone()));
            self.told.emit(event);
        }
        self.ended.losses.note(now, row);
    }
}

fn closed_row(
    now: Tick,
    peer: &Peer,
    reason: CloseReason,
    lost: Traffic,
    unconfirmed: Option<Traffic>,
) -> ClosedRow {
    ClosedRow {
        peer: peer.id,
        addr: peer.addr,
        link: peer.link,
        node_id: peer.node_id(),
        reason,
        bye_received: peer.ending.bye_received,
        closed_at: Duration::from_millis(now),
        age: Duration::from_millis(now.saturating_sub(peer.opened)),
        inbound: peer.counts.inbound,
        outbound: peer.counts.outbound,
        lost,
        overflowed: peer.counts.sums.overflowed,
        unconfirmed,
        unanswered: peer.counts.unanswered,
        discarded_after_close: peer.discarded(),
    }
}
