//! Writing of one connection: slices out, and how far the write got.

use std::io::{self, IoSlice};

use super::{
    connection::Connection,
    state::{Common, Peers, io_reason},
    turn_lists::Again,
};
use crate::{clock::Tick, id::PeerId, ledger::Traffic, limits::SLICES_FEW, socket::Ready};

impl Peers {
    /// Slices to write to a peer; the number filled is returned, zero if there is nothing to do.
    pub(crate) fn fill_slices<'a>(
        &'a mut self,
        id: PeerId,
        slices: &mut [IoSlice<'a>],
        bytes_max: usize,
    ) -> usize {
        let Some(connection) = self.connections.live(id) else {
            return 0;
        };
        if !connection.ready.has(Ready::WRITE) {
            return 0;
        }
        connection.peer.queue_pong();
        let bytes_max = bytes_max.min(connection.peer.offered_max());
        connection.peer.outbox.fill_slices(slices, bytes_max)
    }

    /// Whether so little waits for the peer that a few slices are enough.
    pub(crate) fn offers_few(&mut self, id: PeerId) -> bool {
        let connection = self.connections.live(id);
        connection
            .is_none_or(|connection| connection.peer.outbox.count_segments() <= SLICES_FEW / 2)
    }

    /// How far the write got. Returns how many bytes were taken.
    pub(crate) fn handle_written(
        &mut self,
        now: Tick,
        id: PeerId,
        offered: usize,
        result: io::Result<usize>,
    ) -> usize {
        let Some(connection) = self.connections.get_mut(id.index() as usize) else {
            return 0;
        };
        let taken = match result {
            Ok(taken) => taken,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => {
                self.common.handle_write_error(connection, &error);
                return 0;
            }
        };
        self.common.handle_taken(now, connection, offered, taken);
        taken
    }
}

impl Common {
    /// Our system took `taken` of the `offered` bytes.
    fn handle_taken(
        &mut self,
        now: Tick,
        connection: &mut Connection,
        offered: usize,
        taken: usize,
    ) {
        let id = connection.id();
        let mut written = Traffic::default();
        let (types_out, type_map) = (&self.slots.ledger.types_out, &mut self.type_map);
        connection
            .peer
            .outbox
            .handle_written(taken, |message_type, traffic| {
                written.add(traffic);
                types_out.add(type_map.row(message_type, types_out), traffic);
            });
        if taken > 0 {
            let receiving = self.deadlines.receiving(now);
            connection.peer.handle_moved(now, receiving);
            connection.peer.handle_written(now, taken, written);
            connection.write_tried = false;
            connection.peer.handle_taken(receiving);
        }
        if taken < offered {
            connection.ready.clear(Ready::WRITE);
            connection.peer.handle_write_blocked(now);
        }
        self.slots.ledger.outbound_written.add(written);
        self.slots.ledger.outbound_queued.sub(written);
        if self.slots.add_written(id, written) && !self.slots.notify_room(id.index()) {
            self.lists.again.push(Again::NotifyRoom(id.index()));
        }
        self.check_watermarks(now, connection);
        self.after_output(now, connection);
    }

    /// The connection broke. What it has left to read is read first, if there is anything.
    fn handle_write_error(&mut self, connection: &mut Connection, error: &io::Error) {
        if connection.leaving.is_some() {
            return;
        }
        // The system does not tell of it again.
        connection.failed = true;
        connection.ready.clear(Ready::WRITE);
        // What waits was to be written now, and may have to wait for long instead.
        let slack = connection.peer.outbox.slack_bytes();
        self.slots.note_slack(connection.id(), slack);
        let reason = io_reason(error);
        if connection.ready.has(Ready::READ)
            && connection.peer.takes_messages()
            && connection.pause.is_none()
        {
            connection.broken = Some(reason);
            self.lists.list_reading(connection);
        } else {
            self.leave(connection, reason, true);
        }
    }
}
