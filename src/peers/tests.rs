//! What holds between turns, and the simulator's look inside.

use super::*;

impl Peers {
    /// Panics unless the invariants of the module hold: to be called between turns.
    pub(crate) fn check(&self, now: Tick) {
        let mut counted = 0;
        for (index, seat) in &self.seats {
            let Some(seat) = seat else { continue };
            let (id, peer) = (seat.id(), &seat.peer);
            assert_eq!(id.index() as usize, index);
            counted += usize::from(!seat.refused);
            assert!(seat.leaving.is_none(), "{id} leaves without end");
            let lingering = matches!(peer.state(), State::Lingering { .. });
            let open = peer.state().takes_input() && seat.pause.is_none();
            if seat.ready.has(Ready::READ) && (open || lingering) {
                assert!(
                    seat.in_read_list,
                    "{id} has input and is forgotten: {seat:?}"
                );
            }
            if seat.ready.has(Ready::WRITE) && peer.has_output() {
                assert!(
                    seat.in_write_list,
                    "{id} has output and is forgotten: {seat:?}"
                );
            }
            let listed = |lists: [&VecDeque<PeerId>; 2]| {
                lists
                    .iter()
                    .map(|list| list.iter().filter(|one| **one == id).count())
                    .sum()
            };
            let reading: usize = listed([&self.reading, &self.read_list]);
            let writing: usize = listed([&self.writing, &self.write_list]);
            assert_eq!(reading, usize::from(seat.in_read_list), "{id}");
            assert_eq!(writing, usize::from(seat.in_write_list), "{id}");
            if let Some(deadline) = self.deadline_of(now, id) {
                let armed = seat.timer.and_then(|timer| self.wheel.deadline(timer));
                // What a deadline that passed asked for may have to wait, but is looked at soon.
                let latest = deadline.max(now + QUIET_CHECK_MS);
                assert!(
                    armed.is_some_and(|armed| armed <= latest),
                    "{id} has deadline {deadline} and a timer at {armed:?}, now {now}: {seat:?}"
                );
            }
            assert_eq!(seat.carry_charge, peer.carry.capacity(), "{id}");
            if peer.outbox.is_empty() && peer.state().takes_input() {
                let untaken = self.untaken(seat);
                assert_eq!(self.slots.queued(id).messages, untaken, "{id} {seat:?}");
            }
        }
        assert_eq!(counted, self.counted);
        assert_eq!(self.slots.ledger.peers.get(), counted as u64);
    }

    /// Messages accepted for a peer that are still in its slot.
    fn untaken(&self, seat: &Seat) -> u64 {
        let queued = self.slots.queued(seat.id()).messages;
        queued + seat.peer.outbound.messages - seat.peer.taken.messages
    }

    /// Connections, those included that were refused and are not closed yet.
    pub(crate) fn len_all(&self) -> u64 {
        self.seats.iter().filter(|(_, seat)| seat.is_some()).count() as u64
    }

    pub(crate) fn describe(&self, id: PeerId) -> String {
        let seat = self.seats.get(id.index() as usize).and_then(Option::as_ref);
        seat.map_or(String::new(), |seat| {
            let peer = &seat.peer;
            let (queued, released) = (self.slots.queued(id), self.slots.released(id));
            format!(
                "{:?} ready {:?} pause {:?} broken {:?} lists {} {} carry {} of {:?} \
                 in flight {:?} queued {queued:?} held {} stalled {:?}",
                peer.state(),
                seat.ready,
                seat.pause,
                seat.broken,
                seat.in_read_list,
                seat.in_write_list,
                peer.carry.len(),
                peer.carried_frame_size(),
                peer.in_flight(released),
                self.slots.is_held(id),
                self.stalled_since,
            )
        })
    }
}
