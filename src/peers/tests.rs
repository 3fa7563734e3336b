//! What holds between turns, and the simulator's look inside.

use super::*;
use crate::{
    clock::Clock, frame::Decoder, ledger::Ledger, policy::OutboxFull, slots::OutboxLimits,
};

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
        let sums = seat.peer.sums;
        queued + seat.peer.outbound.messages + sums.overflowed.messages - sums.accepted.messages
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

/// A table with one peer that can be read, under a byte budget.
fn one_peer(clock: Clock, budget: usize) -> (Arc<Slots>, Peers, PeerId) {
    one_peer_that(OutboxFull::Refuse, clock, budget)
}

/// The same with a policy for a full outbox.
fn one_peer_that(full: OutboxFull, clock: Clock, budget: usize) -> (Arc<Slots>, Peers, PeerId) {
    let ledger = Arc::new(Ledger::new(budget, Traffic::new(100, 1 << 20)));
    let limits = OutboxLimits {
        bytes: 1 << 20,
        messages: 100,
        payload_size: 1000,
    };
    let slots = Slots::new(0, 65, limits, ledger, clock).outbox_full(full);
    let slots = Arc::new(slots);
    let rules = Rules {
        decoder: Decoder::new(1000),
        first_frame_ms: 0,
        frame_ms: 0,
        idle_ms: 0,
        write_stall_ms: 0,
        drain_ms: 100,
        hello_required: false,
        network_id: 0,
        ok_payload: Vec::new(),
    };
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

mod output {
    use std::io::IoSlice;

    use super::*;
    use crate::{
        error::SendError, frame::Frame, id::MessageType, policy::Priority, slots::OutFrame,
    };

    /// A table with one peer for which 100 messages may wait, and somebody who listens to events.
    fn listened(full: OutboxFull, budget: usize) -> (Arc<Slots>, Peers, PeerId) {
        let (slots, peers, id) = one_peer_that(full, Clock::start(), budget);
        slots.event_subscribers.store(1, Ordering::Relaxed);
        (slots, peers, id)
    }

    fn send(slots: &Slots, id: PeerId, count: u32) -> Result<(), SendError> {
        for _ in 0..count {
            let frame = Frame::new(MessageType(1), &[0; 92]);
            slots.send(id, OutFrame { frame, owned: None })?;
        }
        Ok(())
    }

    /// A turn in which the kernel takes so many bytes.
    fn turn(peers: &mut Peers, now: Tick, id: PeerId, bytes: usize) {
        peers.begin_turn(now);
        if bytes == 0 {
            return;
        }
        assert_eq!(peers.poll_write(), Some(id));
        let mut left = bytes;
        while left > 0 {
            let mut slices = [IoSlice::new(&[]); 64];
            let filled = peers.fill_slices(id, &mut slices, left);
            let offered: usize = slices[..filled].iter().map(|slice| slice.len()).sum();
            assert!(offered > 0);
            left -= peers.handle_written(now, id, offered, Ok(offered));
        }
    }

    fn events(peers: &mut Peers) -> Vec<Event> {
        std::iter::from_fn(|| peers.poll_event()).collect()
    }

    #[test]
    fn a_peer_is_congested_above_a_quarter_and_writable_below_an_eighth() {
        let (slots, mut peers, id) = listened(OutboxFull::Refuse, 64 << 20);
        send(&slots, id, 25).unwrap();
        turn(&mut peers, 1, id, 0);
        assert_eq!(events(&mut peers), []);
        send(&slots, id, 1).unwrap();
        turn(&mut peers, 2, id, 0);
        assert_eq!(events(&mut peers), [congested_at(id, 26)]);
        send(&slots, id, 10).unwrap();
        turn(&mut peers, 3, id, 2_300);
        assert_eq!(events(&mut peers), [], "13 are queued");
        turn(&mut peers, 4, id, 100);
        let writable = Event::Writable { peer: id };
        assert_eq!(events(&mut peers), [writable]);
        turn(&mut peers, 5, id, 100);
        assert_eq!(events(&mut peers), [], "it is told once");
        send(&slots, id, 20).unwrap();
        turn(&mut peers, 6, id, 3_100);
        let writable = Event::Writable { peer: id };
        assert_eq!(events(&mut peers), [congested_at(id, 31), writable]);
    }

    fn congested_at(peer: PeerId, messages: u64) -> Event {
        let queued = Traffic::new(messages, messages * 100);
        Event::Congested { peer, queued }
    }

    #[test]
    fn who_was_refused_is_told_when_there_is_room() {
        let (slots, mut peers, id) = listened(OutboxFull::Refuse, 64 << 20);
        assert_eq!(send(&slots, id, 101), Err(SendError::Full));
        turn(&mut peers, 1, id, 8_700);
        assert_eq!(events(&mut peers), [congested_at(id, 100)]);
        turn(&mut peers, 2, id, 100);
        assert_eq!(events(&mut peers), [Event::Writable { peer: id }]);
        // A refusal that is known already asks for nothing more, and is answered with it.
        turn(&mut peers, 3, id, 1_200);
        assert_eq!(send(&slots, id, 101), Err(SendError::Full));
        peers.begin_turn(4);
        peers.poll_event();
        assert_eq!(
            send(&slots, id, 1),
            Err(SendError::Full),
            "it is known already"
        );
        turn(&mut peers, 5, id, 10_000);
        assert_eq!(events(&mut peers), [Event::Writable { peer: id }]);
        send(&slots, id, 1).unwrap();
        peers.begin_turn(6);
        assert_eq!(events(&mut peers), []);
    }

    #[test]
    fn who_was_refused_for_the_budget_is_told_when_it_has_room() {
        let (slots, mut peers, id) = listened(OutboxFull::Refuse, 100_000);
        slots.ledger.budget.charge(100_000);
        assert_eq!(send(&slots, id, 1), Err(SendError::Full));
        turn(&mut peers, 1, id, 0);
        let fire = |peers: &mut Peers, now| {
            let mut budget = TIMERS_PER_TURN;
            assert_eq!(peers.poll_timer(now, &mut budget), None);
            events(peers)
        };
        assert_eq!(fire(&mut peers, 1 + BUDGET_CHECK_MS), []);
        slots.ledger.budget.release(50_000);
        let writable = [Event::Writable { peer: id }];
        assert_eq!(fire(&mut peers, 1 + 2 * BUDGET_CHECK_MS), writable);
        assert_eq!(fire(&mut peers, 1 + 5 * BUDGET_CHECK_MS), []);
        // Another refusal is another story.
        slots.ledger.budget.charge(50_000);
        assert_eq!(send(&slots, id, 1), Err(SendError::Full));
        turn(&mut peers, 600, id, 0);
        slots.ledger.budget.release(100_000);
        assert_eq!(fire(&mut peers, 600 + BUDGET_CHECK_MS), writable);
    }

    #[test]
    fn a_peer_whose_outbox_is_full_is_cut_off_by_policy() {
        let (slots, mut peers, id) = listened(OutboxFull::Close, 64 << 20);
        assert_eq!(send(&slots, id, 101), Err(SendError::Full));
        assert_eq!(send(&slots, id, 1), Err(SendError::Closing));
        turn(&mut peers, 1, id, 0);
        let close = Action::Close {
            index: id.index(),
            abort: true,
        };
        assert_eq!(peers.poll_action(), Some(close));
        let events = events(&mut peers);
        let [Event::Closed(row)] = &events[..] else {
            panic!("{events:?}");
        };
        assert_eq!(row.reason, CloseReason::SlowPeer);
        assert_eq!(row.lost, Traffic::new(100, 10_000));
        assert_eq!(slots.ledger.outbound_dropped.get(), row.lost);
        assert_eq!(slots.ledger.outbound_queued.get(), Traffic::default());
    }

    /// What waits in the tail is fetched as the kernel takes what is before it, although no sender
    /// asks for that.
    #[test]
    fn what_may_be_dropped_is_fetched_bit_by_bit() {
        let (slots, mut peers, id) = listened(OutboxFull::DropOldest, 64 << 20);
        send(&slots, id, 150).unwrap();
        turn(&mut peers, 10, id, 0);
        assert_eq!(
            peers.rows(12)[0].queued_oldest,
            Some(Duration::from_millis(2))
        );
        assert_eq!(
            peers.seat(id).unwrap().peer.outbox.bytes_by_priority()[1],
            2_500
        );
        turn(&mut peers, 20, id, 10_000);
        peers.check(20);
        let row = &peers.rows(20)[0];
        assert_eq!(row.outbound, Traffic::new(100, 10_000));
        assert_eq!(row.overflowed, Traffic::new(50, 5_000));
        assert_eq!((row.queued, row.queued_oldest), (Traffic::default(), None));
        let ledger = &slots.ledger;
        assert_eq!(ledger.outbound_accepted.get(), Traffic::new(150, 15_000));
        assert_eq!(ledger.outbound_overflowed.get(), row.overflowed);
        assert_eq!(ledger.outbound_queued.get(), Traffic::default());
    }

    /// A close counts what is lost in the outbox and in the tail, a frame that had begun included.
    #[test]
    fn what_is_lost_at_a_close_is_counted_where_it_lies() {
        let (slots, mut peers, id) = listened(OutboxFull::DropOldest, 64 << 20);
        send(&slots, id, 60).unwrap();
        let urgent = Frame::new(MessageType(2), &[0; 42]);
        let message = OutFrame {
            frame: urgent,
            owned: None,
        };
        turn(&mut peers, 10, id, 230);
        slots.send_as(id, Priority::High, message).unwrap();
        turn(&mut peers, 11, id, 0);
        peers.leave(12, id, CloseReason::Reset, true);
        let row = peers.closed_rows().remove(0);
        assert_eq!(row.outbound, Traffic::new(2, 230));
        assert_eq!(row.lost, Traffic::new(58 + 1, 5_770 + 50));
        let accepted = slots.ledger.outbound_accepted.get();
        assert_eq!(accepted, Traffic::new(61, 6_050));
    }
}
