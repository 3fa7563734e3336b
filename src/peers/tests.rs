//! What holds between turns, and the simulator's look inside.

use super::*;
use crate::{clock::Clock, frame::Decoder, ledger::Ledger, slots::OutboxLimits};

impl Peers {
    /// Panics unless the invariants of the module hold: to be called between turns.
    pub(crate) fn check(&self, now: Tick) {
        let mut counted = 0;
        for (index, seat) in &self.seats {
            let Some(seat) = seat else { continue };
            let (id, peer) = (seat.id(), &seat.peer);
            assert_eq!(id.index() as usize, index);
            counted += usize::from(matches!(
                seat.standing,
                Standing::Accepted | Standing::Dialled
            ));
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
        self.check_standings();
        self.check_nodes();
        self.check_links();
    }

    fn check_standings(&self) {
        let count = |standings: &[Standing]| {
            let seats = self.seats.iter().filter_map(|(_, seat)| seat.as_deref());
            let those = seats.filter(|seat| standings.contains(&seat.standing));
            those.count()
        };
        assert_eq!(count(&[Standing::Accepted]), self.accepted);
        let dialled = [Standing::Dialling, Standing::Dialled];
        assert_eq!(count(&dialled), self.dialled);
    }

    /// Every node that is connected is listed by one of its connections, and no other connection of
    /// it is open, unless its close waits for a lock.
    fn check_nodes(&self) {
        for (node_id, id) in &self.nodes {
            let seat = self.seats[id.index() as usize].as_deref().unwrap();
            assert_eq!((seat.id(), seat.peer.node_id()), (*id, *node_id));
            assert!(seat.announced, "{id} is listed and was not told of");
        }
        for seat in self.seats_up() {
            let closes = seat.pause == Some(Pause::Closing);
            let node_id = seat.peer.node_id();
            if !node_id.is_anonymous() && !closes {
                assert_eq!(self.nodes.get(&node_id), Some(&seat.id()));
            }
        }
    }

    /// Messages accepted for a peer that are still in its slot.
    fn untaken(&self, seat: &Seat) -> u64 {
        let queued = self.slots.queued(seat.id()).messages;
        queued + seat.peer.outbound.messages - seat.peer.taken.messages
    }

    /// Connections, those included that were refused and are not closed yet, and those not that are
    /// still being made.
    pub(crate) fn len_all(&self) -> u64 {
        let seats = self.seats.iter().filter_map(|(_, seat)| seat.as_deref());
        let made = seats.filter(|seat| seat.standing != Standing::Dialling);
        made.count() as u64
    }

    fn seats_up(&self) -> impl Iterator<Item = &Seat> {
        let seats = self.seats.iter().filter_map(|(_, seat)| seat.as_deref());
        seats.filter(|seat| {
            seat.announced && seat.leaving.is_none() && seat.peer.state().takes_input()
        })
    }

    /// Connections that are up.
    pub(crate) fn open(&self) -> Vec<PeerId> {
        self.seats_up().map(Seat::id).collect()
    }

    /// Connections that are up and said who they are.
    pub(crate) fn introduced(&self) -> Vec<(PeerId, NodeId)> {
        let said = self.seats_up().filter(|seat| seat.peer.identity.is_some());
        said.map(|seat| (seat.id(), seat.peer.node_id())).collect()
    }

    pub(crate) fn describe(&self, id: PeerId) -> String {
        let seat = self.seats.get(id.index() as usize).and_then(Option::as_ref);
        seat.map_or(String::new(), |seat| {
            let peer = &seat.peer;
            let (queued, released) = (self.slots.queued(id), self.slots.released(id));
            format!(
                "{:?} {} ready {:?} pause {:?} broken {:?} lists {} {} carry {} of {:?} \
                 in flight {:?} queued {queued:?} held {} stalled {:?}",
                peer.state(),
                peer.describe_heartbeat(),
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

/// A table with one peer that can be read, under a byte budget.
fn one_peer(clock: Clock, budget: usize) -> (Arc<Slots>, Peers, PeerId) {
    let ledger = Arc::new(Ledger::new(budget, Traffic::new(100, 1 << 20)));
    let limits = OutboxLimits {
        bytes: 1 << 20,
        messages: 100,
        payload_size: 1000,
    };
    let slots = Arc::new(Slots::new(0, 65, limits, ledger, clock));
    let rules = Rules::lenient(Decoder::new(1000));
    let limits = PeerLimits {
        peers: 1,
        peers_per_origin: 0,
    };
    let mut peers = Peers::new(Arc::clone(&slots), rules, limits, 0);
    let addr = "10.0.0.1:1".parse().unwrap();
    let id = peers.handle_accepted(0, addr).unwrap();
    peers.handle_ready(id, Ready::READ);
    (slots, peers, id)
}

mod contended {
    use super::*;
    use crate::clock::Now;

    /// A bad frame, while a sender holds the slot's lock: the close has to wait, and nothing that
    /// lies behind the bad frame is read until then.
    #[test]
    fn nothing_is_read_behind_a_bad_frame() {
        let clock = Clock::start();
        let (slots, mut peers, id) = one_peer(clock, 64 << 20);
        let instant = clock.now().instant;
        // Whoever lets go of a block takes the lock, so this one outlives it.
        let block = slots.with_lock(id, || {
            peers.begin_turn(1);
            assert_eq!(peers.poll_read(), Some(id));
            let mut buffer = peers.prepare_read(1, id).unwrap();
            // The second frame is of version 2, and the third would be fine.
            let bytes = b"\0\0\0\x04\0\x01\0\x01\0\0\0\x04\0\x01\0\x02";
            buffer.limit = bytes.len();
            buffer.bytes.extend_from_slice(bytes);
            let now = Now { tick: 1, instant };
            let block = peers.handle_read(now, id, buffer, Ok(bytes.len()));
            let read_on = peers.prepare_read(1, id).is_some();
            peers.continue_reading(id);
            let read_list = std::mem::take(&mut peers.read_list);
            (block.unwrap(), read_on, read_list)
        });
        let (block, read_on, read_list) = block;
        assert_eq!(block.head().frames, 1);
        assert!(
            !read_on && read_list.is_empty(),
            "read on behind the bad frame"
        );
        // The frame before the bad one may be answered as long as somebody holds it.
        peers.begin_turn(2);
        assert!(!peers.seat(id).unwrap().peer.is_closing());
        drop(block);
        peers.begin_turn(3);
        let seat = peers.seat(id).unwrap();
        assert_eq!(closing_reason(&seat.peer), CloseReason::BadVersion);
        assert!(seat.peer.is_closing());
    }
}

mod budget {
    use super::*;
    use crate::{clock::Now, frame::Frame, id::MessageType, slots::OutFrame};

    const BUDGET: usize = 100_000;

    /// A table with one peer, and the time of the next look at the budget. The peer has sent the
    /// first two bytes of a frame, `queued` messages of 1,000 bytes wait for it, and it is not read
    /// further, because subscribers hold `held` bytes.
    fn paused(queued: usize, held: usize) -> (Peers, PeerId, Tick) {
        let clock = Clock::start();
        let (slots, mut peers, id) = one_peer(clock, BUDGET);
        peers.begin_turn(1);
        assert_eq!(peers.poll_read(), Some(id));
        let mut buffer = peers.prepare_read(1, id).unwrap();
        buffer.bytes.extend_from_slice(b"\0\0");
        let instant = clock.now().instant;
        let now = Now { tick: 1, instant };
        assert!(peers.handle_read(now, id, buffer, Ok(2)).is_none());
        for _ in 0..queued {
            let frame = Frame::new(MessageType(1), &[0; 992]);
            slots.send(id, OutFrame { frame, owned: None }).unwrap();
        }
        slots.ledger.budget.charge(held);
        peers.handle_ready(id, Ready::READ);
        peers.begin_turn(2);
        assert_eq!(peers.poll_read(), Some(id));
        assert!(peers.prepare_read(2, id).is_none());
        (peers, id, 2 + BUDGET_CHECK_MS)
    }

    fn fire(peers: &mut Peers, now: Tick) {
        let mut budget = TIMERS_PER_TURN;
        assert_eq!(peers.poll_timer(now, &mut budget), None);
        assert!(budget < TIMERS_PER_TURN, "the budget was looked at");
    }

    /// Subscribers hold everything: to close a peer that holds two bytes helps nobody.
    #[test]
    fn nobody_is_closed_for_what_subscribers_hold() {
        let (mut peers, id, now) = paused(0, BUDGET);
        for round in 0..10 {
            fire(&mut peers, now + round * BUDGET_CHECK_MS);
        }
        let seat = peers.seat(id).unwrap();
        assert!(!seat.peer.is_closing() && seat.pause == Some(Pause::Budget));
        // The loop may not sleep over it, whoever gave the bytes back.
        assert!(!peers.has_budget_again());
        peers.slots.ledger.budget.release(BUDGET);
        assert!(peers.has_budget_again());
        peers.begin_turn(now + 10 * BUDGET_CHECK_MS);
        assert!(!peers.has_budget_again());
        assert_eq!(peers.seat(id).unwrap().pause, None);
    }

    #[test]
    fn who_holds_much_is_closed_if_that_helps() {
        let (mut peers, id, now) = paused(40, BUDGET - 40_000);
        fire(&mut peers, now);
        let seat = peers.seat(id).unwrap();
        assert_eq!(closing_reason(&seat.peer), CloseReason::Budget);
        assert!(seat.peer.is_closing());
    }
}
