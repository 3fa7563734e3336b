//! The places of connections, found by the index of their slot.
//!
//! A connection has a [`Seat`] while it does something. When nothing is under way, what tells it
//! from others takes a tenth of that: it *rests*, and has a seat again as soon as somebody wants to
//! change anything about it. Two forms of rest are told apart, because most of those that rest in
//! great numbers never said a word.
//!
//! Places come in chunks, so that the table never copies what it has when it grows, and gives back
//! a chunk of which nobody has a place. The lowest free place is given away first, so that those
//! that are taken stay together.

use std::{fmt, ops::Deref, sync::Arc};

use super::seat::{Seat, Standing};
use crate::{
    clock::Tick,
    id::PeerId,
    peer::{HelloState, Peer, Resting, Untouched},
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
    /// Nobody can have it, because its slot cannot be used.
    Barred,
    Seated(Box<Seat>),
    Fresh(Fresh),
    Resting(Box<Rest>),
}

/// A connection that came to us and on which nothing has happened yet.
#[derive(Clone, Copy, Debug)]
struct Fresh {
    id: PeerId,
    opened: Tick,
    since: Tick,
    timer: Option<TimerPlace>,
    hello: HelloState,
    checksums: bool,
    pending: bool,
    announced: bool,
}

/// A connection on which nothing is under way.
#[derive(Debug)]
struct Rest {
    peer: Resting,
    timer: Option<TimerPlace>,
    standing: Standing,
    pending: bool,
    announced: bool,
}

/// A connection to be looked at: its seat, or one that was made to be looked at.
pub(super) enum Look<'a> {
    Seated(&'a Seat),
    AtRest(Box<Seat>),
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

    /// The place that [`seat`](Self::seat) or [`bar`](Self::bar) is to be called for next.
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
    pub(super) fn seat(&mut self, seat: Box<Seat>) {
        let index = seat.id().index() as usize;
        self.take(index, Place::Seated(seat));
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

    /// The seat at a place, which it gets if the connection was at rest.
    #[inline]
    pub(super) fn get_mut(&mut self, index: usize) -> Option<&mut Seat> {
        let places = self.chunks.get_mut(index / CHUNK_PLACES)?.places.as_mut()?;
        let place = &mut places[index % CHUNK_PLACES];
        if !matches!(place, Place::Seated(_)) {
            place.rouse(&self.slots);
        }
        match place {
            Place::Seated(seat) => Some(seat),
            Place::Free | Place::Barred | Place::Fresh(_) | Place::Resting(_) => None,
        }
    }

    /// A look at the connection at a place.
    pub(super) fn look(&self, index: usize) -> Option<Look<'_>> {
        self.place(index)?.look(&self.slots)
    }

    /// A look at all of them.
    pub(super) fn looks(&self) -> impl Iterator<Item = Look<'_>> {
        let places = self.chunks.iter().flat_map(|chunk| &chunk.places);
        let places = places.flat_map(|places| places.iter());
        places.filter_map(|place| place.look(&self.slots))
    }

    /// All who have a place, and their seats, if they have one.
    pub(super) fn ids(&self) -> impl Iterator<Item = (PeerId, Option<&Seat>)> {
        let places = self.chunks.iter().flat_map(|chunk| &chunk.places);
        places
            .flat_map(|places| places.iter())
            .filter_map(|place| match place {
                Place::Free | Place::Barred => None,
                Place::Seated(seat) => Some((seat.id(), Some(&**seat))),
                Place::Fresh(fresh) => Some((fresh.id, None)),
                Place::Resting(rest) => Some((rest.peer.id, None)),
            })
    }

    /// Whether a connection is at rest: it may be written, and there is nothing to read.
    pub(super) fn is_at_rest(&self, id: PeerId) -> bool {
        match self.place(id.index() as usize) {
            Some(Place::Fresh(fresh)) => fresh.id == id,
            Some(Place::Resting(rest)) => rest.peer.id == id,
            Some(Place::Free | Place::Barred | Place::Seated(_)) | None => false,
        }
    }

    /// Lets a connection rest on which nothing is under way. One that was ever used rests only if
    /// nothing has moved since `before`: it would soon have its seat again.
    pub(super) fn settle(&mut self, index: usize, before: Tick) {
        let places = self.chunks.get_mut(index / CHUNK_PLACES);
        if let Some(places) = places.and_then(|chunk| chunk.places.as_mut()) {
            places[index % CHUNK_PLACES].settle(&self.slots, before);
        }
    }

    /// Does so for `count` places from `from` on, and returns where to go on.
    pub(super) fn settle_some(&mut self, from: usize, count: usize, before: Tick) -> usize {
        let end = self.chunks.len() * CHUNK_PLACES;
        let to = from.saturating_add(count).min(end);
        for index in from..to {
            self.settle(index, before);
        }
        if to == end { 0 } else { to }
    }

    fn place(&self, index: usize) -> Option<&Place> {
        let places = self.chunks.get(index / CHUNK_PLACES)?.places.as_ref()?;
        Some(&places[index % CHUNK_PLACES])
    }
}

impl Place {
    /// Gives a connection at rest its seat.
    #[cold]
    fn rouse(&mut self, slots: &Slots) {
        *self = match std::mem::take(self) {
            Self::Fresh(fresh) => Self::Seated(fresh.seat(slots)),
            Self::Resting(rest) => Self::Seated(rest.seat(slots)),
            other @ (Self::Free | Self::Barred | Self::Seated(_)) => other,
        };
    }

    fn settle(&mut self, slots: &Slots, before: Tick) {
        let Self::Seated(seat) = self else { return };
        if !seat.is_at_rest() {
            return;
        }
        if let Some(fresh) = Fresh::of(seat) {
            *self = Self::Fresh(fresh);
        } else if seat.peer.moved < before {
            slots.rest(seat.id());
            if let Self::Seated(seat) = std::mem::take(self) {
                *self = Self::Resting(Box::new(Rest::of(*seat)));
            }
        }
    }

    fn look(&self, slots: &Slots) -> Option<Look<'_>> {
        match self {
            Self::Free | Self::Barred => None,
            Self::Seated(seat) => Some(Look::Seated(seat)),
            Self::Fresh(fresh) => Some(Look::AtRest(fresh.seat(slots))),
            Self::Resting(rest) => Some(Look::AtRest(rest.seat(slots))),
        }
    }
}

impl Fresh {
    /// `None` unless nothing has happened on a connection that is at rest and came to us.
    fn of(seat: &Seat) -> Option<Self> {
        let Untouched {
            opened,
            since,
            hello,
            checksums,
        } = seat.peer.untouched()?;
        (seat.standing == Standing::Accepted).then_some(Self {
            id: seat.id(),
            opened,
            since,
            timer: seat.timer,
            hello,
            checksums,
            pending: seat.pending,
            announced: seat.announced,
        })
    }

    fn seat(self, slots: &Slots) -> Box<Seat> {
        let kept = Untouched {
            opened: self.opened,
            since: self.since,
            hello: self.hello,
            checksums: self.checksums,
        };
        let peer = Peer::from_untouched(self.id, slots.addr(self.id), kept);
        let mut seat = Seat::new(peer, Standing::Accepted);
        seat.timer = self.timer;
        seat.pending = self.pending;
        seat.announced = self.announced;
        seat
    }
}

impl Rest {
    fn of(seat: Seat) -> Self {
        Self {
            timer: seat.timer,
            standing: seat.standing,
            pending: seat.pending,
            announced: seat.announced,
            peer: seat.peer.rest(),
        }
    }

    fn seat(&self, slots: &Slots) -> Box<Seat> {
        let peer = Peer::from_resting(slots.addr(self.peer.id), self.peer.clone());
        let mut seat = Seat::new(peer, self.standing);
        seat.ready = Ready::WRITE;
        seat.timer = self.timer;
        seat.pending = self.pending;
        seat.announced = self.announced;
        seat
    }
}

impl Deref for Look<'_> {
    type Target = Seat;

    fn deref(&self) -> &Seat {
        match self {
            Self::Seated(seat) => seat,
            Self::AtRest(seat) => seat,
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
    // A connection that never said a word costs one place here; see `limits::IDLE_SIZE_MAX`.
    assert!(size_of::<Place>() <= 32);
    assert!(size_of::<Rest>() <= 192);
};
