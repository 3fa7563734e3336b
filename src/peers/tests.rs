//! What holds between turns, and the simulator's look inside.

mod links;
mod looks;

use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use rustix::io::Errno;

use super::{
    connection::{Connection, Pause, Standing},
    deadlines::DRAINED_CHECK_MS,
    pressure::BUDGET_CHECK_MS,
    table::Look,
    *,
};
use crate::{
    balance::PeerCut,
    clock::{Clock, Tick},
    error::CloseReason,
    event::Event,
    frame::{Decoder, Frame, encode_whole},
    id::{LinkId, MessageType, NodeId, PeerId},
    inline::Replier,
    ledger::{ClosedRow, DepartedRow, Ledger, RequestRow, Traffic},
    limits::{
        CUT_LOOKS_PER_TURN, CUT_SEGMENTS_MAX, CUT_TRIES_MAX, EVENTS_WAITING_MAX,
        FRAME_OVERHEAD_MAX, TIMERS_PER_TURN,
    },
    peer::{Rules, State},
    policy::{OutboxFull, Priority},
    slots::{Contended, Flow, OutFrame, OutboxLimits, Recipients, SharedFrame, Slots, Taken},
    socket::{Ready, Unacknowledged},
};

/// What tests do to one connection.
impl Peers {
    fn begin_finish(&mut self, now: Tick, id: PeerId, reason: CloseReason, drain_ms: u64) {
        self.on(now, id, |common, connection| {
            common.begin_finish(now, connection, reason, drain_ms);
        });
    }

    fn pause(&mut self, now: Tick, id: PeerId, pause: Pause) {
        self.on(now, id, |common, connection| {
            common.pause(now, connection, pause);
        });
    }

    fn watch_credit(&mut self, id: PeerId) {
        self.on(0, id, |common, connection| common.watch_credit(connection));
    }

    fn take_output(&mut self, now: Tick, id: PeerId, last: bool) -> Result<Taken, Contended> {
        let taken = self.on(now, id, |common, connection| {
            common.take_output(now, connection, last)
        });
        taken.unwrap()
    }

    fn leave(&mut self, now: Tick, id: PeerId, reason: CloseReason, abort: bool) {
        self.on(now, id, |common, connection| {
            common.leave(connection, reason, abort);
        });
    }
}

impl Peers {
    /// Panics unless the invariants of the module hold: to be called between turns.
    pub(crate) fn check(&self, now: Tick) {
        let reading = count_listed([&self.common.lists.reading, &self.common.lists.read_list]);
        let writing = count_listed([&self.common.lists.writing, &self.common.lists.write_list]);
        let (mut counted, mut pending) = (0, 0);
        for connection in self.connections.looks() {
            let id = connection.id();
            let found = self.connections.look(id.index() as usize);
            assert_eq!(found.map(|connection| connection.id()), Some(id));
            counted += usize::from(matches!(
                connection.standing,
                Standing::Accepted | Standing::Dialled
            ));
            pending += usize::from(connection.pending);
            let listed = |lists: &HashMap<PeerId, usize>| lists.get(&id).copied().unwrap_or(0);
            assert_eq!(
                listed(&reading),
                usize::from(connection.in_read_list),
                "{id}"
            );
            assert_eq!(
                listed(&writing),
                usize::from(connection.in_write_list),
                "{id}"
            );
            self.check_connection(now, &connection);
        }
        assert_eq!(counted, self.common.admission.counted);
        assert_eq!(pending, self.common.admission.census.pending());
        assert_eq!(self.common.slots.ledger.peers.get(), counted as u64);
        self.check_standings();
        self.check_nodes();
        self.check_links();
    }

    /// What of it holds of one peer, if it is still there.
    pub(crate) fn check_peer(&self, now: Tick, id: PeerId) {
        let connection = self.connections.look(id.index() as usize);
        if let Some(connection) = connection.filter(|connection| connection.id() == id) {
            self.check_connection(now, &connection);
        }
    }

    fn check_connection(&self, now: Tick, connection: &Connection) {
        let (id, peer) = (connection.id(), &connection.peer);
        let spoke = peer.has_spoken() && !self.common.rules.hello_required;
        assert!(!(connection.pending && spoke), "{id} has spoken");
        assert!(
            !connection.pending || peer.state().takes_input(),
            "{id} can say nothing more: {connection:?}"
        );
        assert!(connection.leaving.is_none(), "{id} leaves without end");
        assert!(
            connection.in_read_list || !wants_to_read(connection),
            "{id} has input and is forgotten: {connection:?}"
        );
        assert!(
            connection.in_write_list || !wants_to_write(connection),
            "{id} has output and is forgotten: {connection:?}"
        );
        self.check_timer(now, connection);
        assert_eq!(connection.carry_charge, peer.carry.capacity(), "{id}");
        if peer.outbox.is_empty() && peer.state().takes_input() {
            let untaken = self.untaken(connection);
            assert_eq!(
                self.common.slots.queued(id).messages,
                untaken,
                "{id} {connection:?}"
            );
        }
        self.check_lease(connection);
        self.check_credit(connection);
    }

    /// What was read of a peer and is not released, its unfinished frame included, is within its
    /// credit, or is one frame that is longer; what is queued for it is within the outbox's limits,
    /// or one message that is larger.
    fn check_credit(&self, connection: &Connection) {
        let (id, limits) = (connection.id(), self.common.slots.limits());
        let Flow { released, queued } = self.common.slots.flow(id);
        let mut held = connection.peer.in_flight(released);
        held.bytes += connection.peer.carry.len() as u64;
        let is_within = held.bytes <= limits.bytes.max(frame_size_max(limits))
            && held.messages <= limits.messages;
        assert!(is_within, "{id} has {held:?} of {limits:?} in flight");
        let is_within = queued.bytes <= limits.bytes && queued.messages <= limits.messages;
        let is_alone = queued.messages == 1 && queued.bytes <= frame_size_max(limits);
        assert!(is_within || is_alone, "{queued:?} of {limits:?} for {id}");
    }

    /// What counts against the credit of a peer that was just read: that was its limit. Answers of
    /// a handler may be longer by `longer` bytes each than what they answer.
    pub(crate) fn check_read(&self, id: PeerId, longer: u64) {
        let connection = self.connections.look(id.index() as usize);
        // What is discarded is not counted against anything.
        let Some(connection) =
            connection.filter(|connection| connection.id() == id && !connection.peer.discards())
        else {
            return;
        };
        let (limits, flow) = (self.common.slots.limits(), self.common.slots.flow(id));
        let used = connection.used(flow);
        let bytes = limits.bytes.max(frame_size_max(limits));
        assert!(
            used.messages <= limits.messages && used.bytes <= bytes + longer * flow.queued.messages,
            "{id} was read and has {used:?} of {limits:?}: {flow:?}"
        );
    }

    /// The connections that ended, the newest first.
    pub(crate) fn newest_closed(&self) -> impl Iterator<Item = &ClosedRow> {
        self.common.ended.newest()
    }

    /// How much was read of a peer and not released.
    pub(crate) fn in_flight(&self, id: PeerId) -> Option<Traffic> {
        let connection = self.connections.look(id.index() as usize);
        let connection = connection.filter(|connection| connection.id() == id)?;
        Some(connection.peer.in_flight(self.common.slots.released(id)))
    }

    /// Who had a turn to read since this was called last.
    pub(crate) fn take_turns(&mut self) -> impl Iterator<Item = PeerId> {
        std::mem::take(&mut self.common.lists.turns).into_iter()
    }

    /// Closes what is to be closed, with nothing left unread.
    pub(crate) fn settle_all(&mut self, now: Tick) {
        for action in std::mem::take(&mut self.common.lists.actions) {
            match action {
                Action::Settle(id) => self.handle_settled(now, id, 0),
                Action::Connect(..)
                | Action::LookConnected(_)
                | Action::Look { .. }
                | Action::Shutdown(_)
                | Action::Close { .. } => self.common.lists.actions.push_back(action),
            }
        }
    }

    /// Who has something to read, and may be read.
    pub(crate) fn due_to_read(&self) -> impl Iterator<Item = PeerId> {
        let listed = self
            .common
            .lists
            .reading
            .iter()
            .chain(&self.common.lists.read_list);
        self.filter_listed(listed, wants_to_read)
    }

    /// Who has something to write, and a socket with room.
    pub(crate) fn due_to_write(&self) -> impl Iterator<Item = PeerId> {
        let listed = self
            .common
            .lists
            .writing
            .iter()
            .chain(&self.common.lists.write_list);
        self.filter_listed(listed, wants_to_write)
    }

    fn filter_listed<'a>(
        &'a self,
        listed: impl Iterator<Item = &'a PeerId>,
        wants: fn(&Connection) -> bool,
    ) -> impl Iterator<Item = PeerId> {
        listed.copied().filter(move |id| {
            let connection = self.connections.look(id.index() as usize);
            connection.is_some_and(|connection| connection.id() == *id && wants(&connection))
        })
    }

    /// What the kernel is known to have said of a peer.
    pub(crate) fn ready_of(&self, id: PeerId) -> Option<Ready> {
        let connection = self.connections.look(id.index() as usize);
        Some(connection.filter(|connection| connection.id() == id)?.ready)
    }

    /// A peer's timer is never later than its deadline.
    fn check_timer(&self, now: Tick, connection: &Connection) {
        let id = connection.id();
        let common = &self.common;
        let lag = common.deadlines.lag(now);
        if let Some(deadline) = connection
            .own_deadline(&common.rules, lag)
            .into_iter()
            .chain(connection.request_deadline_from(now))
            .min()
        {
            let armed = connection
                .timer
                .and_then(|timer| self.common.deadlines.wheel.deadline_at(timer));
            // What a deadline that passed asked for may have to wait, but is looked at soon.
            let latest = deadline.max(now + DRAINED_CHECK_MS);
            assert!(
                armed.is_some_and(|armed| armed <= latest),
                "{id} has deadline {deadline} and a timer at {armed:?}, now {now}: {:?}",
                connection
            );
        }
    }

    /// What an outbox allocates is leased, but for what it may hold for nothing.
    fn check_lease(&self, connection: &Connection) {
        let (id, outbox) = (connection.id(), &connection.peer.outbox);
        let (held, leased) = (outbox.storage(), self.common.slots.leased(id));
        let free = outbox.storage_free();
        assert!(
            held <= leased + free,
            "{id} holds {held} bytes, leased {leased}, and {free} are free"
        );
    }

    fn check_standings(&self) {
        let count = |standings: &[Standing]| {
            let connections = self.connections.looks();
            let those = connections.filter(|connection| standings.contains(&connection.standing));
            those.count()
        };
        assert_eq!(
            count(&[Standing::Accepted]),
            self.common.admission.census.accepted()
        );
        let refused = self.common.slots.ledger.refused.get();
        assert_eq!(count(&[Standing::Refused]) as u64, refused);
        let dialled = [Standing::Dialling, Standing::Dialled];
        assert_eq!(count(&dialled), self.common.admission.dialled);
    }

    /// Every node that is connected is listed by one of its connections, and no other connection of
    /// it is open, unless its close waits for a lock.
    fn check_nodes(&self) {
        for (node_id, id) in &self.common.nodes.here {
            let connection = self.connections.look(id.index() as usize).unwrap();
            assert_eq!(
                (connection.id(), connection.peer.node_id()),
                (*id, *node_id)
            );
            assert!(
                connection.told_connected,
                "{id} is listed and was not told of"
            );
        }
        for connection in self.connections_up() {
            let closes = connection.pause == Some(Pause::Closing);
            let node_id = connection.peer.node_id();
            if !node_id.is_anonymous() && !closes {
                assert_eq!(self.common.nodes.here.get(&node_id), Some(&connection.id()));
            }
        }
    }

    /// Messages accepted for a peer that are still in its slot.
    fn untaken(&self, connection: &Connection) -> u64 {
        let queued = self.common.slots.queued(connection.id()).messages;
        let sums = connection.peer.counts.sums;
        let given = sums.accepted.messages + connection.peer.counts.answered.messages;
        queued + connection.peer.counts.outbound.messages + sums.overflowed.messages - given
    }

    /// Connections, those included that were refused and are not closed yet, and those not that are
    /// still being made; as they are counted, which [`check`](Self::check) holds against the table.
    pub(crate) fn len_all(&self) -> u64 {
        self.common.admission.counted as u64 + self.common.slots.ledger.refused.get()
    }

    fn connections_up(&self) -> impl Iterator<Item = Look<'_>> {
        let connections = self.connections.looks();
        connections.filter(|connection| {
            connection.told_connected
                && connection.leaving.is_none()
                && connection.peer.state().takes_input()
        })
    }

    /// Connections that are up.
    pub(crate) fn open(&self) -> Vec<PeerId> {
        self.connections_up()
            .map(|connection| connection.id())
            .collect()
    }

    /// Connections that are up and said who they are.
    pub(crate) fn introduced(&self) -> Vec<(PeerId, NodeId)> {
        let said = self
            .connections_up()
            .filter(|connection| connection.peer.greeting.identity.is_some());
        said.map(|connection| (connection.id(), connection.peer.node_id()))
            .collect()
    }

    pub(crate) fn describe(&self, id: PeerId) -> String {
        let connection = self.connections.look(id.index() as usize);
        connection.map_or(String::new(), |connection| {
            let peer = &connection.peer;
            let (queued, released) = (self.common.slots.queued(id), self.common.slots.released(id));
            format!(
                "{:?} {} ready {:?} pause {:?} broken {:?} lists {} {} carry {} of {:?} \
                 in flight {:?} queued {queued:?} held {} stalled {:?}",
                peer.state(),
                peer.describe_heartbeat(),
                connection.ready,
                connection.pause,
                connection.broken,
                connection.in_read_list,
                connection.in_write_list,
                peer.carry.len(),
                peer.carried_frame_size(),
                peer.in_flight(released),
                self.common.slots.is_parked(id),
                self.common.deadlines.is_stalled(),
            )
        })
    }
}

/// Whether a peer is to be read as soon as its turn comes.
fn wants_to_read(connection: &Connection) -> bool {
    let is_open = connection.peer.takes_messages() && connection.pause.is_none();
    let discards = connection.peer.discards() && connection.pause != Some(Pause::Closing);
    connection.ready.has(Ready::READ) && (is_open || discards)
}

/// Whether a peer is to be written as soon as its turn comes.
fn wants_to_write(connection: &Connection) -> bool {
    connection.ready.has(Ready::WRITE) && connection.peer.has_output()
}

fn frame_size_max(limits: OutboxLimits) -> u64 {
    u64::from(limits.payload_size) + FRAME_OVERHEAD_MAX as u64
}

fn count_listed(lists: [&VecDeque<PeerId>; 2]) -> HashMap<PeerId, usize> {
    let mut counts = HashMap::new();
    for id in lists.into_iter().flatten() {
        *counts.entry(*id).or_default() += 1;
    }
    counts
}

/// A table with one peer that can be read, under a byte budget.
fn one_peer(clock: Clock, budget: usize) -> (Arc<Slots>, Peers, PeerId) {
    one_peer_of(OutboxFull::Refuse, clock, budget, 1000)
}

/// The same with a policy for a full outbox.
fn one_peer_that(full: OutboxFull, clock: Clock, budget: usize) -> (Arc<Slots>, Peers, PeerId) {
    one_peer_of(full, clock, budget, 1000)
}

/// The same with payloads up to `payload_size` bytes.
fn one_peer_of(
    full: OutboxFull,
    clock: Clock,
    budget: usize,
    payload_size: u32,
) -> (Arc<Slots>, Peers, PeerId) {
    let limits = OutboxLimits {
        bytes: 1 << 20,
        messages: 100,
        payload_size,
    };
    one_peer_within(full, clock, budget, limits)
}

/// The same with other limits of what may be in flight or queued.
fn one_peer_within(
    full: OutboxFull,
    clock: Clock,
    budget: usize,
    limits: OutboxLimits,
) -> (Arc<Slots>, Peers, PeerId) {
    let ledger = Arc::new(Ledger::new(budget, Traffic::new(100, 1 << 20)));
    let payload_size = limits.payload_size;
    let slots = Slots::new(0, 65, limits, ledger, clock).outbox_full(full);
    let slots = Arc::new(slots);
    let rules = Rules::lenient(Decoder::new(payload_size));
    let limits = PeerLimits {
        peers: 1,
        peers_per_origin: 0,
        pending: 0,
    };
    let mut peers = Peers::new(Arc::clone(&slots), rules, limits, 0);
    let addr = "10.0.0.1:1".parse().unwrap();
    let id = peers.handle_accepted(0, addr).unwrap();
    peers.handle_ready(id, Ready::READ);
    (slots, peers, id)
}

/// Who is being refused is neither open nor closed, and counted all the same.
#[test]
fn a_connection_that_is_being_refused_is_in_the_sums() {
    let clock = Clock::start();
    let (slots, mut peers, _) = one_peer(clock, 1 << 20);
    let balance = |refused| {
        let (rows, departed) = (Vec::new(), DepartedRow::default());
        let shot = slots
            .ledger
            .snapshot(clock.elapsed(), rows, departed, RequestRow::default());
        assert_eq!(shot.refused, refused);
        shot.balance()
    };
    let other = peers.handle_accepted(0, "10.0.0.2:1".parse().unwrap());
    assert!(balance(1).is_exact(), "{}", balance(1));
    peers.check(0);
    peers.handle_failed(0, other.unwrap(), CloseReason::Io);
    peers.settle_all(0);
    assert!(balance(0).is_exact(), "{}", balance(0));
    peers.check(0);
}

/// Whether a read meets the error, or a write before a last read finds nothing or a FIN.
#[test]
fn what_the_system_says_of_a_broken_connection_is_its_reason() {
    let blocked = || io::ErrorKind::WouldBlock.into();
    for (errno, reason) in [
        (Errno::CONNRESET, CloseReason::Reset),
        (Errno::CONNABORTED, CloseReason::Reset),
        (Errno::PIPE, CloseReason::Reset),
        (Errno::TIMEDOUT, CloseReason::Stale),
        (Errno::HOSTUNREACH, CloseReason::Stale),
        (Errno::NETUNREACH, CloseReason::Stale),
        (Errno::HOSTDOWN, CloseReason::Stale),
        (Errno::NETDOWN, CloseReason::Stale),
        (Errno::NOBUFS, CloseReason::Io),
        (Errno::NOMEM, CloseReason::Io),
        (Errno::PROTO, CloseReason::Io),
    ] {
        let meets: [(_, io::Result<usize>); 3] = [
            (false, Err(errno.into())),
            (true, Err(blocked())),
            (true, Ok(0)),
        ];
        for (in_a_write, read) in meets {
            let clock = Clock::start();
            let (slots, mut peers, id) = one_peer(clock, 1 << 20);
            let now = clock.now();
            peers.begin_turn(now.tick);
            if in_a_write {
                peers.handle_written(now.tick, id, 100, Err(errno.into()));
            }
            let said = format!("{errno:?}, then {read:?}");
            let buffer = peers.prepare_read(now.tick, id).unwrap();
            assert!(peers.handle_read(now, id, buffer, read).is_none());
            peers.settle_all(now.tick);
            let rows: Vec<_> = peers
                .common
                .ended
                .rows()
                .iter()
                .map(|row| row.reason)
                .collect();
            assert_eq!(rows, [reason], "{said}");
            let counted = slots.ledger.closed[reason.ordinal()].get();
            assert_eq!(counted, 1, "{said}");
        }
    }
}

/// What was to be written at once waits for the last reads where that write meets the error, and
/// is charged then.
#[test]
fn what_waits_behind_a_write_that_failed_is_leased() {
    let clock = Clock::start();
    // Where the budget is tight, nothing is leased ahead.
    let (slots, mut peers, id) = one_peer_of(OutboxFull::Refuse, clock, 90_000, 70_000);
    let now = clock.now().tick;
    peers.begin_turn(now);
    let connection = peers.connections.get_mut(0).unwrap();
    let mut replier = Replier::new(&slots, &mut connection.peer.outbox, now, id);
    for size in [70_000, 9_000, 3_000] {
        replier.send((MessageType(1), vec![0; size])).unwrap();
    }
    let answered = replier.accepted();
    connection.peer.counts.answered.add(answered);
    slots.ledger.note_accepted(answered);
    peers.handle_written(now, id, 82_024, Err(Errno::CONNRESET.into()));
    assert_eq!(slots.queued(id).messages, 3, "it is still there");
    peers.check_peer(0, id);
    peers.handle_failed(now, id, CloseReason::Io);
    peers.settle_all(now);
    assert_eq!(slots.ledger.budget.used(), 0);
}

/// A cut looks at so many peers in a turn, goes on behind them in the next, and finds all of them,
/// each with what waits for it.
#[test]
fn a_cut_is_spread_over_turns() {
    let peers_max = 2 * CUT_LOOKS_PER_TURN;
    let (slots, mut peers) = many_peers(peers_max, 1 << 18);
    let ids: Vec<PeerId> = (0..peers_max)
        .map(|_| {
            peers
                .handle_accepted(0, "10.0.0.1:1".parse().unwrap())
                .unwrap()
        })
        .collect();
    send_apart(&slots, &mut peers, ids[0], 3);
    send_apart(&slots, &mut peers, ids[peers_max - 1], CUT_LOOKS_PER_TURN);
    let (mut walk, mut turns) = (CutWalk::default(), 1);
    while !peers.continue_cut(&mut walk).unwrap() {
        turns += 1;
        // What comes meanwhile is in no row that is written, and all of it in the sums.
        send_apart(&slots, &mut peers, ids[0], 1);
    }
    assert!((3..=5).contains(&turns), "{turns} turns");
    let cut = peers.finish_cut(walk);
    assert_eq!((cut.peers.len(), cut.left_out), (peers_max, 0));
    let messages = |row: &PeerCut| (row.accepted.messages, row.outbox.messages);
    assert_eq!(messages(&cut.peers[0]), (3, 3));
    let last = CUT_LOOKS_PER_TURN as u64;
    assert_eq!(messages(&cut.peers[peers_max - 1]), (last, last));
    let sums = cut.sums.unwrap();
    assert_eq!(sums.live.accepted.messages, last + 3 + turns - 1);
    let (rows, departed) = (Vec::new(), DepartedRow::default());
    let requests = RequestRow::default();
    let shot = slots
        .ledger
        .snapshot(Duration::ZERO, rows, departed, requests);
    assert_eq!(shot.outbound_accepted, sums.live.accepted);
}

/// Who has more waiting than one turn may look at is left out, and that is said.
#[test]
fn a_cut_leaves_out_who_has_too_many_segments() {
    let (slots, mut peers) = many_peers(2, 1 << 20);
    let addr = "10.0.0.1:1".parse().unwrap();
    let [much, little] = [(); 2].map(|()| peers.handle_accepted(0, addr).unwrap());
    // Long ones are not copied behind each other, and all peers share the bytes.
    let frame = Frame::new(MessageType(1), &[0; 5_000]);
    let frame = SharedFrame::new(&frame, Priority::Normal);
    for _ in 0..=CUT_SEGMENTS_MAX {
        slots.broadcast(Ok(&frame), Recipients::List(&[much]));
    }
    peers.take_output(1, much, false).unwrap();
    send_apart(&slots, &mut peers, little, 1);
    let mut walk = CutWalk::default();
    assert_eq!(peers.continue_cut(&mut walk), Ok(true));
    let cut = peers.finish_cut(walk);
    assert_eq!((cut.peers.len(), cut.left_out), (1, 1));
    assert_eq!(cut.peers[0].id, little);
    assert!(cut.sums.is_some());
}

/// A slot that somebody holds is tried again in the next turn, so many times.
#[test]
fn a_cut_waits_for_no_slot() {
    let (slots, peers, id) = one_peer(Clock::start(), 1 << 20);
    let mut walk = CutWalk::default();
    slots.with_lock(id, || {
        for _ in 1..CUT_TRIES_MAX {
            assert_eq!(peers.continue_cut(&mut walk), Ok(false));
        }
        assert_eq!(peers.continue_cut(&mut walk), Err(Contended));
    });
    assert_eq!(peers.continue_cut(&mut walk), Ok(true));
    assert_eq!(peers.finish_cut(walk).peers.len(), 1);
}

fn many_peers(peers_max: usize, messages_max: u64) -> (Arc<Slots>, Peers) {
    let ledger = Arc::new(Ledger::new(1 << 30, Traffic::new(1, 1)));
    let limits = OutboxLimits {
        bytes: 1 << 30,
        messages: messages_max,
        payload_size: 10_000,
    };
    let slots = Slots::new(0, peers_max, limits, ledger, Clock::start());
    let slots = Arc::new(slots);
    let limits = PeerLimits {
        peers: peers_max,
        peers_per_origin: 0,
        pending: 0,
    };
    let rules = Rules::lenient(Decoder::new(100));
    let peers = Peers::new(Arc::clone(&slots), rules, limits, 0);
    (slots, peers)
}

/// Sends messages that the loop sees one by one, so that each is a segment.
fn send_apart(slots: &Slots, peers: &mut Peers, id: PeerId, count: usize) {
    for _ in 0..count {
        let frame = Frame::new(MessageType(1), b"");
        slots.send(id, OutFrame { frame, owned: None }).unwrap();
        peers.take_output(1, id, false).unwrap();
    }
}

mod contended {
    use super::{super::read_buffer::BufferKind, *};
    use crate::clock::Now;

    /// A bad frame, while a sender holds the slot's lock: the close has to wait, and what lies
    /// behind the bad frame is discarded all the same.
    #[test]
    fn nothing_is_taken_in_behind_a_bad_frame() {
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
            let next = peers.prepare_read(1, id).unwrap();
            (block.unwrap(), next.kind)
        });
        let (block, next) = block;
        assert_eq!(block.head().frames, 1);
        assert_eq!(next, BufferKind::Discard);
        // The frame before the bad one may be answered as long as somebody holds it.
        peers.begin_turn(2);
        assert!(!peers.connections.live(id).unwrap().peer.is_closing());
        drop(block);
        peers.begin_turn(3);
        let connection = peers.connections.live(id).unwrap();
        assert_eq!(connection.closing_reason(), CloseReason::BadVersion);
        assert!(connection.peer.is_closing());
    }
}

mod budget {
    use super::*;
    use crate::{
        budget::{Budget, Holdings},
        clock::Now,
        frame::Frame,
        id::MessageType,
        limits::HELD_LOOKS_PER_TURN,
        slots::OutFrame,
    };

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
        let mut allowance = TIMERS_PER_TURN;
        assert_eq!(peers.poll_timer(now, &mut allowance), None);
        assert!(allowance < TIMERS_PER_TURN, "the budget was looked at");
    }

    /// Subscribers hold everything: to close a peer that holds two bytes helps nobody.
    #[test]
    fn nobody_is_closed_for_what_subscribers_hold() {
        let (mut peers, id, now) = paused(0, BUDGET);
        for round in 0..10 {
            fire(&mut peers, now + round * BUDGET_CHECK_MS);
        }
        let connection = peers.connections.live(id).unwrap();
        assert!(!connection.peer.is_closing() && connection.pause == Some(Pause::Budget));
        // The loop may not sleep over it, whoever gave the bytes back.
        assert!(!peers.has_budget_again());
        peers.common.slots.ledger.budget.release(BUDGET);
        assert!(peers.has_budget_again());
        peers.begin_turn(now + 10 * BUDGET_CHECK_MS);
        assert!(!peers.has_budget_again());
        assert_eq!(peers.connections.live(id).unwrap().pause, None);
    }

    /// A table of peers that take nothing, for each of which so many bytes are queued, and one that
    /// has something to say.
    fn silent(budget: usize, queued: &[usize]) -> (Arc<Slots>, Peers, Vec<PeerId>, PeerId) {
        silent_of(Ledger::new(budget, Traffic::new(100, 1 << 20)), queued)
    }

    fn silent_of(ledger: Ledger, queued: &[usize]) -> (Arc<Slots>, Peers, Vec<PeerId>, PeerId) {
        let limits = OutboxLimits {
            bytes: 8 << 20,
            messages: 100,
            payload_size: 8 << 20,
        };
        let peers = queued.len() + 1;
        let slots = Arc::new(Slots::new(
            0,
            peers,
            limits,
            Arc::new(ledger),
            Clock::start(),
        ));
        let rules = Rules::lenient(Decoder::new(limits.payload_size));
        let limits = PeerLimits {
            peers,
            peers_per_origin: 0,
            pending: 0,
        };
        let mut peers = Peers::new(Arc::clone(&slots), rules, limits, 0);
        let addr = "10.0.0.1:1".parse().unwrap();
        let silent = queued.iter().map(|size| {
            let id = peers.handle_accepted(0, addr).unwrap();
            peers.connections.live(id).unwrap().ready = Ready::default();
            let payload = vec![0; size - 8];
            let frame = Frame::new(MessageType(1), &payload);
            slots.send(id, OutFrame { frame, owned: None }).unwrap();
            id
        });
        let silent = silent.collect();
        let talker = peers.handle_accepted(0, addr).unwrap();
        peers.handle_ready(talker, Ready::READ);
        peers.begin_turn(1);
        assert_eq!(peers.poll_read(), Some(talker));
        (slots, peers, silent, talker)
    }

    impl Peers {
        fn is_ending(&self, id: PeerId) -> bool {
            let connection = self.connections.look(id.index() as usize);
            connection.is_none_or(|connection| connection.peer.is_closing())
        }
    }

    fn closed(slots: &Slots) -> u64 {
        slots.ledger.closed[CloseReason::Budget.ordinal()].get()
    }

    #[test]
    fn little_for_each_of_many_is_little() {
        let (slots, mut peers, ..) = silent(4 << 20, &[1_400; 256]);
        let talker = *peers.open().last().unwrap();
        assert!(slots.ledger.budget.used() < 1 << 20);
        assert!(peers.prepare_read(1, talker).is_some());
    }

    /// What is leased counts, and not only what is still queued of it.
    #[test]
    fn who_leased_much_is_closed_though_little_of_it_is_left() {
        let (slots, mut peers, silent, talker) = silent(4 << 20, &[1_000_000; 4]);
        let budget = &slots.ledger.budget;
        budget.charge(budget.limit() - budget.used());
        for id in &silent {
            slots.add_written(*id, Traffic::new(0, 950_000));
        }
        assert!(peers.prepare_read(1, talker).is_none());
        fire(&mut peers, 1 + BUDGET_CHECK_MS);
        let closing = silent.iter().filter(|id| peers.is_ending(**id));
        assert_eq!(closing.count(), 1);
    }

    /// A victim gives back what it holds at the end of its drain, so nobody else has to go.
    #[test]
    fn one_is_closed_where_one_suffices() {
        let queued = [4_360_000, 1_260_000, 1_260_000, 1_450_000];
        let (slots, mut peers, silent, talker) = silent(8 << 20, &queued);
        let budget = &slots.ledger.budget;
        budget.charge(budget.limit() - budget.used());
        assert!(peers.prepare_read(1, talker).is_none());
        let mut closing = 0;
        for now in (2..2_000).step_by(10) {
            peers.begin_turn(now);
            let mut timers = TIMERS_PER_TURN;
            while peers.poll_timer(now, &mut timers).is_some() {}
            peers.settle_all(now);
            closing = silent.iter().filter(|id| peers.is_ending(**id)).count();
        }
        assert_eq!((closing, closed(&slots)), (1, 1));
        assert_eq!(peers.connections.live(talker).unwrap().pause, None);
    }

    /// All peers are looked at for the one that makes room, and so many of them in one turn.
    #[test]
    fn a_turn_looks_at_so_many_peers_for_the_one_that_makes_room() {
        let mut queued = vec![100; HELD_LOOKS_PER_TURN];
        queued.push(4_000_000);
        let (slots, mut peers, silent, talker) = silent(6 << 20, &queued);
        let budget = &slots.ledger.budget;
        budget.charge(budget.limit() - budget.used());
        assert!(peers.prepare_read(1, talker).is_none());
        let mut timers = TIMERS_PER_TURN;
        let now = 1 + BUDGET_CHECK_MS;
        while peers.poll_timer(now, &mut timers).is_some() {}
        let largest = *silent.last().unwrap();
        assert!(!peers.is_ending(largest), "it was not looked at yet");
        assert!(peers.has_work(), "the walk goes on without an event");
        peers.begin_turn(now);
        assert!(peers.is_ending(largest));
        assert_eq!(silent.iter().filter(|id| peers.is_ending(**id)).count(), 1);
    }

    /// What another loop is told counts a victim whose slot somebody has locked: it would have the
    /// next one closed as well.
    #[test]
    fn a_victim_whose_close_is_put_off_is_told_to_make_room() {
        let mut shares = Budget::shares(8 << 20, 2).into_iter();
        let (own, other) = (shares.next().unwrap(), shares.next().unwrap());
        let ledger = Ledger::of_shard(own, Arc::default(), Traffic::new(100, 1 << 20));
        let (slots, mut peers, silent, _) = silent_of(ledger, &[4_000_000, 1_500_000]);
        let ask = |now| other.compare_holdings(now, Holdings::default()).unwrap().0;
        other.ask_to_evict(0);
        peers.begin_turn(999);
        assert!(!peers.is_ending(silent[0]), "there is room again");
        other.charge(3 << 20);
        other.ask_to_evict(0);
        slots.with_lock(silent[0], || peers.begin_turn(1_000));
        assert!(!peers.is_ending(silent[0]));
        let held = ask(1_000);
        assert!(held.coming >= 4_000_000, "{held:?}");
        assert!((1_500_000..2_000_000).contains(&held.largest), "{held:?}");
        for now in [1_001, 1_002] {
            peers.begin_turn(now);
        }
        let ending: Vec<_> = silent.iter().map(|id| peers.is_ending(*id)).collect();
        assert_eq!(ending, [true, false]);
        assert_eq!(ask(1_002).largest, held.largest);
    }

    #[test]
    fn who_holds_much_is_closed_if_that_helps() {
        let (mut peers, id, now) = paused(40, BUDGET - 40_000);
        fire(&mut peers, now);
        let connection = peers.connections.live(id).unwrap();
        assert_eq!(connection.closing_reason(), CloseReason::Budget);
        assert!(connection.peer.is_closing());
    }
}

mod inline {
    use std::{
        io::IoSlice,
        sync::{Mutex, MutexGuard},
    };

    use proptest::prelude::*;

    use super::*;
    use crate::{
        block::BlockRef,
        block::MessageRef,
        clock::Now,
        dispatch::Requests,
        error::{HandlerError, SendError},
        frame::{Frame, WholeFrames, encode_whole},
        id::MessageType,
        inline::Replier,
        peers::handlers::Call,
        slots::OutFrame,
    };

    const PAYLOAD_MAX: u32 = 100_000;
    const LONG: std::ops::RangeInclusive<MessageType> = MessageType(1)..=MessageType(2);
    const SHORT: MessageType = MessageType(3);

    /// What of a frame is compared.
    #[derive(Clone, Debug, PartialEq, Eq)]
    struct Seen {
        message_type: u16,
        correlation: Option<u64>,
        checksum: bool,
        payload: Vec<u8>,
    }

    impl Seen {
        fn frame(&self) -> Frame<'_> {
            Frame {
                message_type: MessageType(self.message_type),
                correlation: self.correlation,
                checksum: self.checksum,
                payload: &self.payload,
            }
        }

        fn of(frame: &Frame<'_>) -> Self {
            Self {
                message_type: frame.message_type.0,
                correlation: frame.correlation,
                checksum: frame.checksum,
                payload: frame.payload.to_vec(),
            }
        }
    }

    type Log = Arc<Mutex<Vec<Seen>>>;

    fn log(log: &Log) -> MutexGuard<'_, Vec<Seen>> {
        log.lock().unwrap()
    }

    /// A handler that keeps what it sees and echoes it; it panics when it has seen `calls_max`.
    fn echo(seen: &Log, calls_max: usize) -> Call {
        let (seen, mut calls) = (Arc::clone(seen), 0);
        Box::new(move |message, replier| {
            assert_eq!(message.peer(), replier.peer());
            log(&seen).push(Seen {
                message_type: message.message_type().0,
                correlation: message.correlation(),
                checksum: message.checksum(),
                payload: message.payload().to_vec(),
            });
            calls += 1;
            assert!(calls < calls_max, "enough");
            replier.reply(message.payload()).unwrap();
        })
    }

    /// One peer with handlers, what they saw, and what was left for the dispatcher.
    struct Bench {
        slots: Arc<Slots>,
        peers: Peers,
        id: PeerId,
        now: Now,
        long: Log,
        short: Log,
        dispatched: Vec<Seen>,
        written: Vec<u8>,
    }

    impl Bench {
        fn new(long_calls_max: usize) -> Self {
            let clock = Clock::start();
            let (slots, mut peers, id) =
                one_peer_of(OutboxFull::Refuse, clock, 64 << 20, PAYLOAD_MAX);
            let (long, short) = (Log::default(), Log::default());
            let mut handlers = Handlers::new(Arc::clone(&slots.ledger), Arc::new(Requests::new(1)));
            let options = HandlerOptions::new(LONG).time_limit(Duration::from_secs(1000));
            handlers.add(options, echo(&long, long_calls_max)).unwrap();
            let options = HandlerOptions::new(SHORT).time_limit(Duration::ZERO);
            handlers.add(options, echo(&short, usize::MAX)).unwrap();
            peers.common.handling.set_handlers(handlers);
            let instant = clock.now().instant;
            Self {
                slots,
                peers,
                id,
                now: Now { tick: 1, instant },
                long,
                short,
                dispatched: Vec::new(),
                written: Vec::new(),
            }
        }

        /// One read that brings the beginning of `bytes`. Returns how many of them.
        fn read(&mut self, bytes: &[u8]) -> usize {
            self.peers.handle_ready(self.id, Ready::READ);
            let Some(mut buffer) = self.peers.prepare_read(1, self.id) else {
                self.write();
                return 0;
            };
            let count = buffer.fill(bytes);
            let mut block = self.peers.handle_read(self.now, self.id, buffer, Ok(count));
            block.iter().for_each(|block| self.dispatch(block));
            while self.peers.common.input.has_pieces_of().is_some() {
                block = self.peers.handle_piece(self.now);
                block.iter().for_each(|block| self.dispatch(block));
            }
            count
        }

        /// Looks at a block as the fan-out does.
        fn dispatch(&mut self, block: &BlockRef) {
            let head = block.head();
            let mut frames = Vec::new();
            for frame in WholeFrames::new(block.bytes()) {
                let is_protocol = frame.message_type.is_protocol();
                assert!(!is_protocol || head.has_protocol);
                if !is_protocol {
                    frames.push(Seen::of(&frame));
                }
            }
            assert_eq!(frames.len(), head.frames as usize);
            assert!(!frames.is_empty(), "a block of nothing");
            if let Some(message_type) = head.message_type {
                assert!(frames.iter().all(|one| one.message_type == message_type.0));
            }
            let size = block.bytes().len() as u64;
            assert_eq!(head.credit, Traffic::new(frames.len() as u64, size));
            self.dispatched.append(&mut frames);
        }

        /// Has the kernel take everything.
        fn write(&mut self) {
            loop {
                let mut slices = [IoSlice::new(&[]); 4];
                let filled = self.peers.fill_slices(self.id, &mut slices, usize::MAX);
                let before = self.written.len();
                for slice in &slices[..filled] {
                    self.written.extend_from_slice(slice);
                }
                let taken = self.written.len() - before;
                if taken == 0 {
                    return;
                }
                self.peers.handle_written(1, self.id, taken, Ok(taken));
            }
        }

        /// Everything that was written of the application's types.
        fn answers(&self) -> Vec<Seen> {
            let frames = WholeFrames::new(&self.written);
            frames
                .filter(|frame| !frame.message_type.is_protocol())
                .map(|frame| Seen::of(&frame))
                .collect()
        }

        /// The sums at rest.
        fn check(&mut self, sent: usize) {
            let ledger = &self.slots.ledger;
            let handled = log(&self.long).len() + log(&self.short).len();
            assert_eq!(ledger.handled.get(), handled as u64);
            assert_eq!(ledger.inbound.messages.get(), sent as u64);
            assert_eq!(handled + self.dispatched.len(), sent);
            let snapshot = ledger.snapshot(
                Duration::ZERO,
                Vec::new(),
                DepartedRow::default(),
                RequestRow::default(),
            );
            let typed = snapshot.types.iter().map(|row| row.inbound.messages);
            assert_eq!(typed.sum::<u64>(), handled as u64);
            assert_eq!(snapshot.outbound_queued, Traffic::default());
            assert_eq!(snapshot.outbound_accepted, snapshot.outbound_written);
            let (released, queued) = (self.slots.released(self.id), self.slots.queued(self.id));
            let peer = &self.peers.connections.live(self.id).unwrap().peer;
            assert_eq!(peer.in_flight(released), Traffic::default());
            assert_eq!((queued, peer.outbox.count_unwritten()), Default::default());
            assert!(peer.outbox.is_empty());
            assert_eq!(snapshot.memory_used, 0, "every lease came back");
        }
    }

    fn sent() -> impl Strategy<Value = Seen> {
        let size = prop_oneof![
            20 => 0_usize..50,
            2 => 3_000_usize..9_000,
            1 => 60_000_usize..=PAYLOAD_MAX as usize,
        ];
        // 5 stands for a PING.
        let parts = (1_u16..=5, size, any::<bool>(), any::<bool>(), any::<u8>());
        parts.prop_map(|(number, size, checksum, correlation, fill)| {
            let is_ping = number == 5;
            Seen {
                message_type: if is_ping { 0xFF03 } else { number },
                correlation: (correlation && !is_ping).then_some(u64::from(fill)),
                checksum,
                payload: vec![fill; if is_ping { size.min(60) } else { size }],
            }
        })
    }

    proptest! {
        /// However frames are mixed and cut: handlers see exactly their messages in order, the
        /// dispatcher the others, a panic hands the rest of its types over, and the sums hold.
        #[test]
        fn messages_go_to_handlers_or_to_the_dispatcher(
            sent in prop::collection::vec(sent(), 1..60),
            cuts in prop::collection::vec(1_usize..5_000, 1..40),
            calls_max in prop_oneof![3 => Just(usize::MAX), 1 => 1_usize..10],
        ) {
            let mut bench = Bench::new(calls_max);
            let mut bytes = Vec::new();
            for one in &sent {
                encode_whole(&one.frame(), &mut bytes);
            }
            let (mut at, mut cuts) = (0, cuts.iter().cycle());
            while at < bytes.len() {
                // Sometimes as much as there is.
                let cut = *cuts.next().unwrap();
                let cut = if cut > 4_000 { usize::MAX } else { cut };
                let end = at.saturating_add(cut).min(bytes.len());
                at += bench.read(&bytes[at..end]);
            }
            bench.write();
            let (mut long, mut short, mut rest) = (Vec::new(), Vec::new(), Vec::new());
            for one in sent {
                let number = MessageType(one.message_type);
                match number {
                    _ if number.is_protocol() => {}
                    _ if LONG.contains(&number) && long.len() < calls_max => long.push(one),
                    SHORT => short.push(one),
                    _ => rest.push(one),
                }
            }
            prop_assert_eq!(&*log(&bench.long), &long);
            prop_assert_eq!(&*log(&bench.short), &short);
            prop_assert_eq!(&bench.dispatched, &rest);
            // The message that panicked has no answer.
            long.truncate(calls_max - 1);
            let mine = |one: &Seen| one.message_type == SHORT.0;
            let (to_short, to_long): (Vec<_>, Vec<_>) =
                bench.answers().into_iter().partition(mine);
            prop_assert_eq!((to_long, to_short), (long, short.clone()));
            let count = log(&bench.long).len() + short.len() + rest.len();
            bench.check(count);
        }
    }

    fn encoded(numbers: &[u16]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for number in numbers {
            encode_whole(&Frame::new(MessageType(*number), b"x"), &mut bytes);
        }
        bytes
    }

    /// The rest of the very read in which a handler panicked is dispatched.
    #[test]
    fn a_panic_removes_the_handler_and_nothing_else() {
        let mut bench = Bench::new(2);
        let bytes = encoded(&[1, 3, 2, 1, 3, 2]);
        assert_eq!(bench.read(&bytes), bytes.len());
        let types = |seen: &[Seen]| seen.iter().map(|one| one.message_type).collect::<Vec<_>>();
        assert_eq!(types(&log(&bench.long)), [1, 2]);
        assert_eq!(types(&log(&bench.short)), [3, 3]);
        assert_eq!(types(&bench.dispatched), [1, 2]);
        bench.write();
        assert_eq!(types(&bench.answers()), [1, 3, 3]);
        bench.check(6);
        let ledger = &bench.slots.ledger;
        let rows: Vec<_> = ledger.handlers.lock().unwrap().clone();
        assert_eq!((rows[0].panics.get(), rows[0].calls.get()), (1, 2));
        assert_eq!((rows[1].panics.get(), rows[1].calls.get()), (0, 2));
        assert_eq!(rows[0].name, "handler-1");
    }

    /// Without a handler left, reads are what they were.
    #[test]
    fn the_last_handler_takes_the_table_with_it() {
        let clock = Clock::start();
        let (slots, mut peers, _) = one_peer_of(OutboxFull::Refuse, clock, 64 << 20, PAYLOAD_MAX);
        let mut handlers = Handlers::new(Arc::clone(&slots.ledger), Arc::new(Requests::new(1)));
        let seen = Log::default();
        let options = HandlerOptions::new(crate::dispatch::TypeFilter::all());
        handlers.add(options, echo(&seen, 1)).unwrap();
        peers.common.handling.set_handlers(handlers);
        assert!(peers.common.handling.handlers.is_some());
        let mut bench = Bench::new(1);
        (bench.slots, bench.peers, bench.long) = (slots, peers, seen);
        let bytes = encoded(&[9, 9]);
        assert_eq!(bench.read(&bytes), bytes.len());
        assert!(bench.peers.common.handling.handlers.is_none());
        bench.check(2);
    }

    #[test]
    fn calls_are_held_against_the_time_limit() {
        let clock = Clock::start();
        let (slots, mut peers, _) = one_peer_of(OutboxFull::Refuse, clock, 64 << 20, PAYLOAD_MAX);
        let mut handlers = Handlers::new(Arc::clone(&slots.ledger), Arc::new(Requests::new(1)));
        let budget = Duration::from_nanos(1);
        let options = HandlerOptions::new(SHORT).time_limit(budget).name("slow");
        let call = move |_: MessageRef<'_>, _: &mut Replier<'_>| {
            let start = clock.elapsed();
            while clock.elapsed() < start + 10 * budget {}
        };
        handlers.add(options, Box::new(call)).unwrap();
        peers.common.handling.set_handlers(handlers);
        let mut bench = Bench::new(1);
        (bench.slots, bench.peers) = (slots, peers);
        bench.read(&encoded(&[3, 3, 4, 3]));
        let rows: Vec<_> = bench.slots.ledger.handlers.lock().unwrap().clone();
        assert_eq!((rows[0].calls.get(), rows[0].over_time_limit.get()), (3, 3));
        assert!(rows[0].longest_ns.get() >= 10);
    }

    /// Answers are bounded as what is sent from elsewhere, and share the bounds with it.
    #[test]
    fn answers_are_refused_as_other_messages_are() {
        let clock = Clock::start();
        let (slots, mut peers, id) = one_peer_of(OutboxFull::Refuse, clock, 64 << 20, PAYLOAD_MAX);
        let mut handlers = Handlers::new(Arc::clone(&slots.ledger), Arc::new(Requests::new(1)));
        let inside = Arc::clone(&slots);
        let call = move |message: MessageRef<'_>, replier: &mut Replier<'_>| {
            let long = vec![0; PAYLOAD_MAX as usize + 1];
            let limit = PAYLOAD_MAX as usize;
            let size = limit + 1;
            assert_eq!(
                replier
                    .reply(&long)
                    .map_err(crate::outgoing::Rejected::into_error),
                Err(SendError::TooLarge { size, limit })
            );
            let reserved = MessageType(0xFF00);
            let refused = Err(SendError::ReservedType(reserved));
            assert_eq!(
                replier
                    .send((reserved, ""))
                    .map_err(crate::outgoing::Rejected::into_error),
                refused
            );
            // The bound is 100 messages, whoever they come from.
            let frame = Frame::new(SHORT, message.payload());
            for _ in 0..50 {
                replier.send((SHORT, "answer")).unwrap();
                inside.send(id, OutFrame { frame, owned: None }).unwrap();
            }
            assert_eq!(
                replier
                    .reply("one more")
                    .map_err(crate::outgoing::Rejected::into_error),
                Err(SendError::Full)
            );
            let sent = inside.send(id, OutFrame { frame, owned: None });
            assert_eq!(sent, Err(SendError::Full));
            assert!(inside.ask_close(id));
            // What was read before may be answered, if there is room.
            assert_eq!(
                replier
                    .reply("late")
                    .map_err(crate::outgoing::Rejected::into_error),
                Err(SendError::Full)
            );
            let sent = inside.send(id, OutFrame { frame, owned: None });
            assert_eq!(sent, Err(SendError::Closing));
        };
        handlers
            .add(HandlerOptions::new(SHORT), Box::new(call))
            .unwrap();
        peers.common.handling.set_handlers(handlers);
        let mut bench = Bench::new(1);
        (bench.slots, bench.peers) = (slots, peers);
        bench.read(&encoded(&[3]));
        let rows: Vec<_> = bench.slots.ledger.handlers.lock().unwrap().clone();
        assert_eq!((rows[0].panics.get(), rows[0].refused.get()), (0, 4));
        assert!(bench.slots.ledger.budget.used() > 0);
        bench.peers.begin_turn(2);
        bench.write();
        assert_eq!(bench.answers().len(), 100);
        assert_eq!(bench.slots.ledger.budget.used(), 0);
    }

    #[test]
    fn handlers_are_set_once_for_each_type_and_bounded() {
        let ledger = Arc::new(Ledger::new(1, Traffic::new(1, 1)));
        let mut handlers = Handlers::new(ledger, Arc::new(Requests::new(1)));
        let mut add = |types: crate::dispatch::TypeFilter| {
            handlers.add(HandlerOptions::new(types), Box::new(|_, _| {}))
        };
        assert_eq!(add(MessageType(0xFF01).into()), Err(HandlerError::NoTypes));
        assert_eq!(add((MessageType(64)..=MessageType(99)).into()), Ok(()));
        let taken = Err(HandlerError::TypeTaken(MessageType(64)));
        assert_eq!(add(crate::dispatch::TypeFilter::all()), taken);
        for number in 1..64 {
            assert_eq!(add(MessageType(number).into()), Ok(()));
        }
        let limit = crate::limits::HANDLERS_MAX;
        assert_eq!(
            add(MessageType(0).into()),
            Err(HandlerError::TooMany { limit })
        );
    }
}

/// What was in flight is released between the look that finds too much of it and the pause: nobody
/// else will tell, so the loop looks once more by itself.
#[test]
fn a_peer_that_is_paused_too_late_is_read_again() {
    let clock = Clock::start();
    let (_, mut peers, id) = one_peer(clock, 64 << 20);
    peers.begin_turn(1);
    assert_eq!(peers.poll_read(), Some(id));
    peers.pause(1, id, Pause::Credit);
    peers.watch_credit(id);
    assert!(peers.has_work());
    peers.begin_turn(2);
    assert_eq!(peers.connections.live(id).unwrap().pause, None);
}

/// A peer that uses its credit up while it is being closed is told BYE as soon as what was read
/// before is released: not when half of its credit is free, which takes what came since as well.
#[test]
fn what_a_stop_waits_for_is_told_though_the_peer_waits_for_credit() {
    let clock = Clock::start();
    let (_, mut peers, id) = one_peer(clock, 64 << 20);
    let read = |peers: &mut Peers, messages: usize| {
        let mut buffer = peers.prepare_read(1, id)?;
        let start = buffer.bytes.len();
        for _ in 0..messages {
            encode_whole(&Frame::new(MessageType(1), b"x"), &mut buffer.bytes);
        }
        let count = buffer.bytes.len() - start;
        let block = peers.handle_read(clock.now(), id, buffer, Ok(count));
        peers.handle_ready(id, Ready::READ);
        block
    };
    peers.begin_turn(1);
    let before = read(&mut peers, 10).unwrap();
    peers.begin_finish(1, id, CloseReason::AppClosed, 10_000);
    let since = read(&mut peers, 85).unwrap();
    assert!(read(&mut peers, 1).is_none());
    assert_eq!(
        peers.connections.live(id).unwrap().pause,
        Some(Pause::Credit)
    );
    let is_draining = |peers: &mut Peers| {
        peers.begin_turn(2);
        peers.connections.live(id).unwrap().peer.is_closing()
    };
    assert!(!is_draining(&mut peers));
    drop(before);
    assert!(is_draining(&mut peers));
    peers.check(2);
    drop(since);
    peers.begin_turn(3);
    assert_eq!(peers.connections.live(id).unwrap().pause, None);
}

/// Once for each cause that it is found to be paused for, however often it is looked at.
#[test]
fn a_pause_counts_once_for_its_cause() {
    let clock = Clock::start();
    let (slots, mut peers, id) = one_peer(clock, 64 << 20);
    let counted = |slots: &Slots| {
        let pauses = &slots.ledger.pauses;
        let [credit, subscriber, budget] =
            [&pauses.credit, &pauses.subscriber, &pauses.budget].map(|one| one.get());
        (credit, subscriber, budget)
    };
    let look = |peers: &mut Peers, now: Tick| {
        peers.handle_ready(id, Ready::READ);
        peers.begin_turn(now);
        let Some(buffer) = peers.prepare_read(now, id) else {
            return false;
        };
        let (tick, instant) = (now, clock.now().instant);
        let nothing = Err(io::ErrorKind::WouldBlock.into());
        let now = crate::clock::Now { tick, instant };
        assert!(peers.handle_read(now, id, buffer, nothing).is_none());
        true
    };
    slots.hold(id);
    assert!(!look(&mut peers, 1) && !look(&mut peers, 2));
    assert_eq!(counted(&slots), (0, 1, 0));
    slots.ledger.budget.charge(64 << 20);
    // What it was held for is over, and there is another cause.
    slots.unhold(id);
    assert!(!look(&mut peers, 3) && !look(&mut peers, 4));
    assert_eq!(counted(&slots), (0, 1, 1));
    slots.ledger.budget.release(64 << 20);
    assert!(look(&mut peers, 5));
    peers.pause(6, id, Pause::Credit);
    peers.pause(7, id, Pause::Credit);
    assert_eq!(counted(&slots), (1, 1, 1));
}

#[test]
fn the_time_in_which_nobody_is_read_is_counted() {
    let (slots, mut peers, _) = one_peer(Clock::start(), 64 << 20);
    let stalled = || slots.ledger.stalled_ms.get();
    assert!(peers.set_stalled(10, true) && !peers.set_stalled(20, true));
    peers.handle_metrics_tick(1_000);
    assert_eq!(stalled(), 990);
    assert!(peers.set_stalled(1_200, false));
    assert_eq!(stalled(), 1_190);
    peers.handle_metrics_tick(2_000);
    assert_eq!(stalled(), 1_190);
    assert!(peers.set_stalled(3_000, true) && peers.set_stalled(3_005, false));
    assert_eq!(stalled(), 1_195);
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
        std::iter::from_fn(|| peers.common.told.poll_event().map(|event| *event)).collect()
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

    /// A dispatcher that takes nothing must not have events pile up that come again and again; what
    /// they would have said is told when there is room.
    #[test]
    fn watermarks_wait_while_many_events_do() {
        let (slots, mut peers, id) = listened(OutboxFull::Refuse, 64 << 20);
        for _ in 0..EVENTS_WAITING_MAX {
            peers.common.told.emit(Event::Resumed { peer: id });
        }
        let waiting = peers.common.told.events.len();
        for round in 0..5 {
            send(&slots, id, 60).unwrap();
            turn(&mut peers, round, id, 6_000);
        }
        send(&slots, id, 60).unwrap();
        turn(&mut peers, 6, id, 0);
        assert_eq!(peers.common.told.events.len(), waiting);
        assert_eq!(events(&mut peers).len(), waiting);
        turn(&mut peers, 7, id, 0);
        assert_eq!(events(&mut peers), [congested_at(id, 60)]);
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
        peers.common.told.poll_event();
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
        assert_eq!(send(&slots, id, 1), Err(SendError::OverBudget));
        turn(&mut peers, 1, id, 0);
        let fire = |peers: &mut Peers, now| {
            let mut allowance = TIMERS_PER_TURN;
            assert_eq!(peers.poll_timer(now, &mut allowance), None);
            events(peers)
        };
        assert_eq!(fire(&mut peers, 1 + BUDGET_CHECK_MS), []);
        slots.ledger.budget.release(50_000);
        let writable = [Event::Writable { peer: id }];
        assert_eq!(fire(&mut peers, 1 + 2 * BUDGET_CHECK_MS), writable);
        assert_eq!(fire(&mut peers, 1 + 5 * BUDGET_CHECK_MS), []);
        // Another refusal is another story.
        slots.ledger.budget.charge(50_000);
        assert_eq!(send(&slots, id, 1), Err(SendError::OverBudget));
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
        peers.settle_all(1);
        assert_eq!(peers.common.lists.poll_action(), Some(close));
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
            peers
                .connections
                .live(id)
                .unwrap()
                .peer
                .outbox
                .bytes_by_priority()[1],
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
        assert_eq!(peers.common.lists.poll_action(), Some(Action::Settle(id)));
        peers.handle_settled(12, id, 0);
        assert_eq!(
            peers.common.lists.poll_action(),
            Some(Action::Look { id, last: true })
        );
        peers.handle_unacknowledged(12, id, true, Unacknowledged::Bytes(30));
        let row = peers.common.ended.rows().remove(0);
        assert_eq!(row.outbound, Traffic::new(2, 230));
        // One call wrote both messages.
        assert_eq!(row.unconfirmed, Some(Traffic::new(2, 30)));
        assert_eq!(row.lost, Traffic::new(58 + 1, 5_770 + 50));
        let accepted = slots.ledger.outbound_accepted.get();
        assert_eq!(accepted, Traffic::new(61, 6_050));
    }
}

mod reading {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        block::BlockRef,
        clock::Now,
        frame::{Frame, WholeFrames, encode_whole, work},
        id::MessageType,
        limits::{BLOCK_SIZE, CARRY_TRUSTED_MAX, PAYLOAD_SIZE_MAX_CEILING},
    };

    /// A peer whose frames may be as long as frames can be.
    struct Reader {
        peers: Peers,
        id: PeerId,
        now: Now,
        /// Messages that were delivered, and their frames if somebody wants them.
        messages: u64,
        frames: Option<Vec<u8>>,
        /// Reads into several blocks.
        large_reads: usize,
    }

    impl Reader {
        fn new() -> Self {
            Self::within(1 << 40)
        }

        /// Under a byte budget, with room for large reads in flight.
        fn within(budget: usize) -> Self {
            let clock = Clock::start();
            let limits = OutboxLimits {
                bytes: 1 << 20,
                messages: 1 << 20,
                payload_size: PAYLOAD_SIZE_MAX_CEILING,
            };
            let (_, peers, id) = one_peer_within(OutboxFull::Refuse, clock, budget, limits);
            Self {
                peers,
                id,
                now: clock.now(),
                messages: 0,
                large_reads: 0,
                frames: None,
            }
        }

        fn dispatch(&mut self, block: Option<BlockRef>) {
            let Some(block) = block else { return };
            self.messages += u64::from(block.head().frames);
            assert!(WholeFrames::new(block.bytes()).count() == block.head().frames as usize);
            if let Some(frames) = &mut self.frames {
                frames.extend_from_slice(block.bytes());
            }
        }

        /// Reads so much that the next read is a large one.
        fn read_in_bulk(&mut self) {
            let mut bytes = Vec::new();
            encode_whole(
                &Frame::new(MessageType(1), &[7; BLOCK_SIZE - 100]),
                &mut bytes,
            );
            assert_eq!(self.read(&bytes), 1);
            assert!(self.peers.connections.live(self.id).unwrap().in_bulk);
        }

        /// Reads `bytes` in as many reads as their space asks for; returns how many that were.
        fn read(&mut self, mut bytes: &[u8]) -> usize {
            let mut reads = 0;
            while !bytes.is_empty() {
                self.peers.handle_ready(self.id, Ready::READ);
                let mut buffer = self.peers.prepare_read(self.now.tick, self.id).unwrap();
                self.large_reads += usize::from(buffer.slices().is_some());
                let count = buffer.fill(bytes);
                let mut block = self.peers.handle_read(self.now, self.id, buffer, Ok(count));
                self.dispatch(block);
                while self.peers.common.input.has_pieces_of().is_some() {
                    block = self.peers.handle_piece(self.now);
                    self.dispatch(block);
                }
                bytes = &bytes[count..];
                reads += 1;
            }
            reads
        }

        /// Bytes kept of an unfinished frame, and the storage for them.
        fn carry(&mut self) -> (usize, usize) {
            let carry = &self.peers.connections.live(self.id).unwrap().peer.carry;
            (carry.len(), carry.capacity())
        }
    }

    /// What a read brought and nobody has parsed keeps the loop awake; its peer is on no list.
    #[test]
    fn the_loop_does_not_sleep_on_what_a_large_read_left() {
        let mut reader = Reader::new();
        reader.read_in_bulk();
        let mut frame = Vec::new();
        encode_whole(&Frame::new(MessageType(1), b"short"), &mut frame);
        reader.peers.begin_turn(0);
        while reader.peers.poll_read().is_some() {}
        reader.peers.handle_ready(reader.id, Ready::READ);
        reader.peers.begin_turn(0);
        assert_eq!(reader.peers.poll_read(), Some(reader.id));
        let (now, id) = (reader.now, reader.id);
        let mut buffer = reader.peers.prepare_read(now.tick, id).unwrap();
        assert!(buffer.slices().is_some(), "a large read");
        let count = buffer.fill(&frame);
        assert!(
            reader
                .peers
                .handle_read(now, id, buffer, Ok(count))
                .is_none()
        );
        reader.peers.continue_reading(id);
        assert!(reader.peers.has_work());
        reader.peers.set_stalled(0, true);
        assert!(!reader.peers.has_work(), "somebody rings");
        reader.peers.set_stalled(0, false);
        let block = reader.peers.handle_piece(now);
        reader.dispatch(block);
        assert!(!reader.peers.has_work());
        assert_eq!(reader.messages, 2);
    }

    /// However little of the budget is left while it is not short, one read does not pass it.
    #[test]
    fn a_large_read_does_not_pass_the_budget() {
        let mut frames = Vec::new();
        while frames.len() < 600_000 {
            encode_whole(&Frame::new(MessageType(1), &[7; 20_000]), &mut frames);
        }
        for budget in [300_000, 1 << 20, 2 << 20, 3 << 20, 8 << 20] {
            let mut reader = Reader::within(budget);
            reader.read_in_bulk();
            let ledger = Arc::clone(&reader.peers.common.slots.ledger);
            let left = budget - budget / 4 * 3;
            ledger.budget.charge(budget - left - 1);
            assert!(!ledger.budget.is_tight());
            let (now, id) = (reader.now, reader.id);
            let mut buffer = reader.peers.prepare_read(now.tick, id).unwrap();
            let count = buffer.fill(&frames);
            let mut blocks = Vec::new();
            blocks.extend(reader.peers.handle_read(now, id, buffer, Ok(count)));
            while reader.peers.common.input.has_pieces_of().is_some() {
                blocks.extend(reader.peers.handle_piece(now));
            }
            let used = ledger.budget.used();
            assert!(used <= budget, "{used} of {budget}");
            drop(blocks);
        }
    }

    /// Nor does storage for a frame of which little came.
    #[test]
    fn a_trusted_frame_takes_no_more_of_a_small_budget_than_is_left() {
        let mut bytes = Vec::new();
        encode_whole(&Frame::new(MessageType(1), &[7; 900_000]), &mut bytes);
        for (budget, is_trusted) in [(4 << 20, false), (32 << 20, true)] {
            let mut reader = Reader::within(budget);
            reader.read(&bytes);
            reader.read(&bytes[..5_000]);
            reader.read(&bytes[5_000..10_000]);
            let (len, capacity) = reader.carry();
            assert_eq!(len, 10_000);
            assert_eq!(capacity >= bytes.len(), is_trusted, "{budget}: {capacity}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        /// What a peer claims costs nothing: storage follows what it has sent.
        #[test]
        fn storage_follows_the_bytes_received(
            claimed in prop_oneof![0_u32..200_000, 0_u32..PAYLOAD_SIZE_MAX_CEILING],
            pieces in prop::collection::vec(prop_oneof![1_usize..20, 1_usize..100_000], 1..30),
        ) {
            let mut reader = Reader::new();
            let length = 4 + claimed;
            let head = [&length.to_be_bytes()[..], &[0, 1, 0, 1]].concat();
            reader.read(&head);
            let mut left = claimed as usize;
            for piece in pieces {
                let size = piece.min(left.saturating_sub(1));
                reader.read(&vec![0; size]);
                left -= size;
                let (len, capacity) = reader.carry();
                prop_assert_eq!(len, 8 + claimed as usize - left);
                prop_assert!(capacity <= 2 * len + 4096, "{} for {}", capacity, len);
            }
            // The rest of it makes it whole, and nothing is kept.
            if claimed < 4 << 20 {
                reader.read(&vec![0; left]);
                prop_assert_eq!((reader.messages, reader.carry()), (1, (0, 0)));
            }
        }

        /// Whoever has sent a long frame is given as much for the next one, and no more than a
        /// bound; whatever it claims beyond that costs nothing.
        #[test]
        fn a_peer_is_trusted_with_as_much_as_it_has_sent(
            sizes in prop::collection::vec(1_usize..3_000_000, 1..6),
            begun in prop::collection::vec(5_000_usize..200_000, 6),
        ) {
            let mut reader = Reader::new();
            let mut proven = 0;
            for (size, begun) in sizes.iter().zip(begun) {
                let mut bytes = Vec::new();
                encode_whole(&Frame::new(MessageType(1), &vec![7; *size]), &mut bytes);
                let (beginning, rest) = bytes.split_at(begun.min(bytes.len() - 1));
                reader.read(beginning);
                let (len, capacity) = reader.carry();
                prop_assert_eq!(len, beginning.len());
                let trusted = if bytes.len() <= proven { bytes.len() * 5 / 4 } else { 0 };
                let bound = (2 * len + 4096).max(trusted);
                prop_assert!(capacity <= bound, "{} for {} of {}", capacity, len, bytes.len());
                reader.read(rest);
                prop_assert_eq!(reader.carry(), (0, 0));
                if bytes.len() > BLOCK_SIZE {
                    proven = bytes.len().min(CARRY_TRUSTED_MAX);
                }
            }
            prop_assert_eq!(reader.messages, sizes.len() as u64);
        }

        /// However a stream is cut and spread over blocks, all of it is delivered as it came.
        #[test]
        fn large_reads_bring_what_small_ones_do(
            sizes in prop::collection::vec(
                prop_oneof![
                    4 => 0_usize..300,
                    4 => 3_000_usize..9_000,
                    1 => 50_000_usize..300_000,
                ],
                1..200,
            ),
            pieces in prop::collection::vec(
                prop_oneof![1 => 1_usize..70_000, 4 => 100_000_usize..600_000],
                1..9,
            ),
        ) {
            let mut bytes = Vec::new();
            for (number, size) in sizes.iter().enumerate() {
                let payload = vec![number.to_be_bytes()[7]; *size];
                encode_whole(&Frame::new(MessageType(1), &payload), &mut bytes);
            }
            let mut reader = Reader::new();
            reader.read_in_bulk();
            reader.messages = 0;
            reader.frames = Some(Vec::new());
            let mut rest = &bytes[..];
            for piece in pieces.iter().cycle() {
                let (piece, behind) = rest.split_at(rest.len().min(*piece));
                reader.read(piece);
                rest = behind;
                if rest.is_empty() {
                    break;
                }
            }
            prop_assert_eq!(reader.messages, sizes.len() as u64);
            prop_assert!(reader.large_reads > 0, "no large read");
            prop_assert!(reader.frames == Some(bytes), "not what was sent");
            prop_assert_eq!(reader.carry(), (0, 0));
        }

        /// However a stream is cut, a byte is judged once or twice, and a read costs no more than
        /// a look at a header.
        #[test]
        fn the_work_is_linear_in_the_bytes_and_the_reads(
            sizes in prop::collection::vec(prop_oneof![0_usize..30, 0_usize..20_000], 1..20),
            checksum in any::<bool>(),
            pieces in prop::collection::vec(prop_oneof![Just(1), 1_usize..3_000], 1..9),
        ) {
            let mut bytes = Vec::new();
            for size in &sizes {
                let payload = vec![7; *size];
                let frame = Frame::new(MessageType(1), &payload).with_checksum(checksum);
                encode_whole(&frame, &mut bytes);
            }
            let mut reader = Reader::new();
            work::take();
            let (mut rest, mut reads) = (&bytes[..], 0);
            for piece in pieces.iter().cycle() {
                let (piece, behind) = rest.split_at(rest.len().min(*piece));
                reads += reader.read(piece);
                rest = behind;
                if rest.is_empty() {
                    break;
                }
            }
            let looked_at = work::take();
            prop_assert_eq!(reader.messages, sizes.len() as u64);
            let bound = 2 * bytes.len() + 16 * sizes.len() + 24 * reads;
            let size = bytes.len();
            prop_assert!(looked_at <= bound, "{} at {} bytes in {} reads", looked_at, size, reads);
        }
    }
}
