//! A slot for a new connection, and letting its peer be sent to: once it is known who it is, or
//! that this does not matter.

use super::{connection::Connection, state::Common, table::Table, turn_lists::Again};
use crate::{
    clock::Tick,
    event::Event,
    id::PeerId,
    slots::{About, OpenError},
};

impl Common {
    /// A slot for a new connection. One that is retired, or of which another thread has the lock
    /// that still knows an old id, is passed over; its place in the table stays taken, for ever or
    /// for this turn.
    pub(super) fn take_slot(&mut self, connections: &mut Table, about: About) -> Option<PeerId> {
        loop {
            let index = u32::try_from(connections.vacant()).ok()?;
            match self.slots.open_for(index, about) {
                Ok(id) => return Some(id),
                Err(OpenError::NoSuchSlot) => return None,
                Err(OpenError::Retired) => {}
                Err(OpenError::Contended) => self.lists.again.push(Again::FreePlace(index)),
            }
            connections.bar(index as usize);
        }
    }

    /// Lets a peer be sent to, and tells of it: it connected, or said who it is.
    ///
    /// To be called before the block that brought a HELLO is made, so that the events come before
    /// its messages.
    pub(super) fn admit(&mut self, now: Tick, connection: &mut Connection) {
        let peer = connection.id();
        let (addr, link) = (connection.peer.addr, connection.peer.link);
        let identity = connection.peer.greeting.identity.clone();
        let is_new = !std::mem::replace(&mut connection.told_connected, true);
        let limit = identity.as_ref().map(|said| said.payload_size_max);
        self.slots.admit(peer, limit.unwrap_or(u32::MAX));
        if is_new {
            self.told.emit(Event::Connected { peer, addr, link });
        }
        self.links.handle_up(now, connection);
        if let Some(identity) = identity {
            if !identity.node_id.is_anonymous() {
                self.nodes.here.insert(identity.node_id, peer);
            }
            self.keep_identity(connection);
            self.told.emit(Event::Hello { peer, identity });
        }
    }

    /// Has the slot know who its peer is.
    pub(super) fn keep_identity(&mut self, connection: &Connection) {
        let id = connection.id();
        if let Some(identity) = &connection.peer.greeting.identity {
            if self.slots.set_identity(id, identity).is_err() {
                self.lists.again.push(Again::Identity(id));
            }
        }
    }
}
