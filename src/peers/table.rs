//! The places of connections, found by the index of their slot.
//!
//! A connection has a [`Connection`] while it does something. When nothing is under way, what tells
//! it from others takes a third of that: it is *dormant*, and is made whole again as soon as a
//! thread wants to change anything about it. One on which nothing has happened at all takes a
//! fifteenth, its place itself, because most of those that are dormant in great numbers never said
//! a word.
//!
//! It is dear to make whole for each message, so a connection that was used becomes dormant only
//! after a while, when a walk comes by ([`make_some_dormant`](Table::make_some_dormant)).
//!
//! Places come in chunks, so that the table never copies what it has when it grows, and gives back
//! a chunk without a connection. The lowest free place is given away first, so that those
//! that are taken stay together.

#[cfg(test)]
mod tests;

use std::{fmt, ops::Deref, sync::Arc};

use super::connection::{Connection, Standing};
use crate::{
    clock::Tick,
    id::PeerId,
    peer::{Dormant, HelloState, Peer, Tally, Untouched},
    slots::Slots,
    socket::Ready,
    wheel::TimerPlace,
};

/// Places of a chunk: as many as a word has bits.
const CHUNK_PLACES: usize = u64::BITS as usize;

/// All places of one loop.
pub(super) struct Table {
    slots: Arc<Slots>,
    chunks: Vec<Chunk>,
    /// A bit for each chunk that has a free place.
    rooms: Vec<u64>,
    /// Places that are taken, those included that cannot be used.
    taken_count: usize,
}

#[derive(Default)]
struct Chunk {
    /// A bit for each place that is taken.
    taken: u64,
    /// `None` while none is.
    places: Option<Box<[Place; CHUNK_PLACES]>>,
}

/// What is at a place.
#[derive(Debug, Default)]
enum Place {
    #[default]
    Free,
    /// Not to be given away, because its slot cannot be used.
    Barred,
    Live(Box<Connection>),
    Unused(Unused),
    Dormant(Box<DormantConnection>),
}

/// A connection that came to us and on which nothing has happened yet.
#[derive(Clone, Copy, Debug)]
struct Unused {
    id: PeerId,
    opened: Tick,
    since: Tick,
    timer: Option<TimerPlace>,
    hello: HelloState,
    checksums: bool,
    pending: bool,
    told_connected: bool,
}

/// A connection on which nothing is under way.
#[derive(Debug)]
struct DormantConnection {
    peer: Dormant,
    timer: Option<TimerPlace>,
    standing: Standing,
    pending: bool,
    told_connected: bool,
}

/// A connection to be looked at: the one in the table, or one that was made to be looked at.
#[derive(Debug)]
pub(super) enum Look<'a> {
    Live(&'a Connection),
    Dormant(Box<Connection>),
}

impl Table {
    pub(super) fn new(slots: Arc<Slots>) -> Self {
        Self {
            slots,
            chunks: Vec::new(),
            rooms: Vec::new(),
            taken_count: 0,
        }
    }

    /// The place that [`insert`](Self::insert) or [`bar`](Self::bar) is to be called for next.
    pub(super) fn vacant(&self) -> usize {
        let rooms = self.rooms.iter().zip(0..);
        let found = rooms.filter(|(room, _)| **room != 0).map(|(room, word)| {
            let chunk = word * CHUNK_PLACES + room.trailing_zeros() as usize;
            let place = self.chunks[chunk].taken.trailing_ones() as usize;
            chunk * CHUNK_PLACES + place
        });
        let mut found = found;
        found.next().unwrap_or(self.chunks.len() * CHUNK_PLACES)
    }

    /// Gives a connection the place that is vacant next.
    pub(super) fn insert(&mut self, connection: Box<Connection>) {
        let index = connection.id().index() as usize;
        self.take(index, Place::Live(connection));
    }

    /// Keeps the place that is vacant next from being given away.
    pub(super) fn bar(&mut self, index: usize) {
        self.take(index, Place::Barred);
    }

    fn take(&mut self, index: usize, place: Place) {
        debug_assert_eq!(index, self.vacant(), "the slot is the one of the place");
        let (at, bit) = (index / CHUNK_PLACES, 1 << (index % CHUNK_PLACES));
        if self.chunks.len() <= at {
            self.chunks.resize_with(at + 1, Chunk::default);
            self.rooms
                .resize(self.chunks.len().div_ceil(CHUNK_PLACES), 0);
        }
        let chunk = &mut self.chunks[at];
        chunk.taken |= bit;
        let places = chunk
            .places
            .get_or_insert_with(|| Box::new([const { Place::Free }; CHUNK_PLACES]));
        places[index % CHUNK_PLACES] = place;
        self.note_room(at);
        self.taken_count += 1;
    }

    /// Frees a place.
    pub(super) fn remove(&mut self, index: usize) {
        let at = index / CHUNK_PLACES;
        let Some(chunk) = self.chunks.get_mut(at) else {
            return;
        };
        let bit = 1 << (index % CHUNK_PLACES);
        if chunk.taken & bit == 0 {
            return;
        }
        chunk.taken &= !bit;
        if chunk.taken == 0 {
            chunk.places = None;
        } else if let Some(places) = &mut chunk.places {
            places[index % CHUNK_PLACES] = Place::Free;
        }
        self.note_room(at);
        self.taken_count -= 1;
    }

    fn note_room(&mut self, at: usize) {
        let has_room = self.chunks[at].taken != u64::MAX;
        let bit = 1 << (at % CHUNK_PLACES);
        let rooms = &mut self.rooms[at / CHUNK_PLACES];
        *rooms = if has_room {
            *rooms | bit
        } else {
            *rooms & !bit
        };
    }

    /// Places that are taken.
    pub(super) fn len(&self) -> usize {
        self.taken_count
    }

    /// The connection at a place, which is made whole if it was dormant.
    #[inline]
    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut Connection> {
        let places = self.chunks.get_mut(index / CHUNK_PLACES)?.places.as_mut()?;
        let place = &mut places[index % CHUNK_PLACES];
        if !matches!(place, Place::Live(_)) {
            place.wake(&self.slots);
        }
        match place {
            Place::Live(connection) => Some(connection),
            Place::Free | Place::Barred | Place::Unused(_) | Place::Dormant(_) => None,
        }
    }

    /// A connection that is not on its way out.
    #[inline]
    pub(super) fn live(&mut self, id: PeerId) -> Option<&mut Connection> {
        let connection = self.get_mut(id.index() as usize)?;
        (connection.id() == id && connection.leaving.is_none()).then_some(connection)
    }

    /// A look at the connection at a place.
    pub(super) fn look(&self, index: usize) -> Option<Look<'_>> {
        self.place(index)?.look(&self.slots)
    }

    /// A look at all of them.
    #[cfg(test)]
    pub(super) fn looks(&self) -> impl Iterator<Item = Look<'_>> {
        let places = self.chunks.iter().flat_map(|chunk| &chunk.places);
        let places = places.flat_map(|places| places.iter());
        places.filter_map(|place| place.look(&self.slots))
    }

    /// All that have a place, and what is there of those that are not dormant.
    pub(super) fn ids(&self) -> impl Iterator<Item = (PeerId, Option<&Connection>)> {
        let places = self.chunks.iter().flat_map(|chunk| &chunk.places);
        places
            .flat_map(|places| places.iter())
            .filter_map(Place::owner)
    }

    /// Who has the place at an index, likewise.
    pub(super) fn id_at(&self, index: usize) -> Option<(PeerId, Option<&Connection>)> {
        self.place(index)?.owner()
    }

    /// No index of a place is as large.
    pub(super) fn index_end(&self) -> usize {
        self.chunks.len() * CHUNK_PLACES
    }

    /// What a connection has counted.
    pub(super) fn tally(&self, id: PeerId) -> Tally {
        match self.place(id.index() as usize) {
            Some(Place::Live(connection)) => connection.peer.tally(),
            Some(Place::Dormant(rest)) => rest.peer.tally(),
            Some(Place::Free | Place::Barred | Place::Unused(_)) | None => Tally::default(),
        }
    }

    /// Whether a connection is dormant: it may be written, and there is nothing to read.
    pub(super) fn is_inactive(&self, id: PeerId) -> bool {
        match self.place(id.index() as usize) {
            Some(Place::Unused(fresh)) => fresh.id == id,
            Some(Place::Dormant(rest)) => rest.peer.id == id,
            Some(Place::Free | Place::Barred | Place::Live(_)) | None => false,
        }
    }

    /// Makes a connection dormant on which nothing is under way. One that was ever used becomes so
    /// only if nothing has moved since `before`: it would soon be whole again.
    ///
    /// Returns who would, if it were known that its system has acknowledged everything.
    pub(super) fn make_dormant(&mut self, index: usize, before: Tick) -> Option<PeerId> {
        let places = self.chunks.get_mut(index / CHUNK_PLACES);
        let places = places.and_then(|chunk| chunk.places.as_mut())?;
        places[index % CHUNK_PLACES].make_dormant(&self.slots, before)
    }

    /// Does so for `count` places from `from` on, and returns where to go on.
    pub(super) fn make_some_dormant(
        &mut self,
        from: usize,
        count: usize,
        before: Tick,
        unsure: impl FnMut(PeerId),
    ) -> usize {
        let end = self.chunks.len() * CHUNK_PLACES;
        let to = from.saturating_add(count).min(end);
        let make = |index| self.make_dormant(index, before);
        (from..to).filter_map(make).for_each(unsure);
        if to == end { 0 } else { to }
    }

    fn place(&self, index: usize) -> Option<&Place> {
        let places = self.chunks.get(index / CHUNK_PLACES)?.places.as_ref()?;
        Some(&places[index % CHUNK_PLACES])
    }
}

impl Place {
    fn owner(&self) -> Option<(PeerId, Option<&Connection>)> {
        match self {
            Self::Free | Self::Barred => None,
            Self::Live(connection) => Some((connection.id(), Some(connection))),
            Self::Unused(fresh) => Some((fresh.id, None)),
            Self::Dormant(rest) => Some((rest.peer.id, None)),
        }
    }

    /// Makes a dormant connection whole.
    #[cold]
    fn wake(&mut self, slots: &Slots) {
        *self = match std::mem::take(self) {
            Self::Unused(fresh) => Self::Live(fresh.to_connection(slots)),
            Self::Dormant(rest) => Self::Live(rest.to_connection(slots)),
            other @ (Self::Free | Self::Barred | Self::Live(_)) => other,
        };
    }

    fn make_dormant(&mut self, slots: &Slots, before: Tick) -> Option<PeerId> {
        let Self::Live(connection) = self else {
            return None;
        };
        if !connection.is_inactive() {
            return None;
        }
        if let Some(fresh) = Unused::of(connection) {
            *self = Self::Unused(fresh);
        } else if connection.peer.moved < before {
            if connection.peer.is_unsure(false) {
                return Some(connection.id());
            }
            slots.shrink(connection.id());
            if let Self::Live(connection) = std::mem::take(self) {
                *self = Self::Dormant(Box::new(DormantConnection::of(*connection)));
            }
        }
        None
    }

    fn look(&self, slots: &Slots) -> Option<Look<'_>> {
        match self {
            Self::Free | Self::Barred => None,
            Self::Live(connection) => Some(Look::Live(connection)),
            Self::Unused(fresh) => Some(Look::Dormant(fresh.to_connection(slots))),
            Self::Dormant(rest) => Some(Look::Dormant(rest.to_connection(slots))),
        }
    }
}

impl Unused {
    /// `None` unless nothing has happened on a connection that is dormant and came to us.
    fn of(connection: &Connection) -> Option<Self> {
        let Untouched {
            opened,
            since,
            hello,
            checksums,
        } = connection.peer.untouched()?;
        (connection.standing == Standing::Accepted).then_some(Self {
            id: connection.id(),
            opened,
            since,
            timer: connection.timer,
            hello,
            checksums,
            pending: connection.pending,
            told_connected: connection.told_connected,
        })
    }

    fn to_connection(self, slots: &Slots) -> Box<Connection> {
        let kept = Untouched {
            opened: self.opened,
            since: self.since,
            hello: self.hello,
            checksums: self.checksums,
        };
        let peer = Peer::from_untouched(self.id, slots.addr(self.id), kept);
        let mut connection = Connection::new(peer, Standing::Accepted);
        connection.timer = self.timer;
        connection.pending = self.pending;
        connection.told_connected = self.told_connected;
        connection
    }
}

impl DormantConnection {
    fn of(connection: Connection) -> Self {
        Self {
            timer: connection.timer,
            standing: connection.standing,
            pending: connection.pending,
            told_connected: connection.told_connected,
            peer: connection.peer.into_dormant(),
        }
    }

    fn to_connection(&self, slots: &Slots) -> Box<Connection> {
        let peer = Peer::from_dormant(slots.addr(self.peer.id), self.peer.clone());
        let mut connection = Connection::new(peer, self.standing);
        connection.ready = Ready::WRITE;
        connection.timer = self.timer;
        connection.pending = self.pending;
        connection.told_connected = self.told_connected;
        connection
    }
}

impl Deref for Look<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        match self {
            Self::Live(connection) => connection,
            Self::Dormant(connection) => connection,
        }
    }
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = self.chunks.iter().flat_map(|chunk| &chunk.places);
        let taken = places.flat_map(|places| places.iter());
        let taken = taken.filter(|place| !matches!(place, Place::Free));
        f.debug_list().entries(taken).finish()
    }
}

const _: () = {
    // What a connection has here: on which nothing has happened, and which is dormant. The other
    // half is its slot, see there.
    assert!(size_of::<Place>() <= 32);
    assert!(size_of::<DormantConnection>() <= 192);
    assert!(size_of::<Connection>() <= 640);
};
