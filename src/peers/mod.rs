//! All peers of a loop, without I/O.
//!
//! [`Peers`] joins the peers with their slots, their timers and the pool of blocks, and decides who
//! may read and write. It is told what happened (`handle_*`) and asked what to do next (`poll_*`);
//! the event loop does the system calls in between. A turn goes like this: `begin_turn`, then for
//! each peer that `poll_read` names `prepare_read` and `handle_read`, then for each that
//! `poll_write` names `fill_slices` and `handle_written`, then `poll_timer` until it gives none,
//! and `poll_action` whenever something may have been closed.
//!
//! A connection on which nothing is under way is dormant: a short form of it is in the
//! [`Table`]; what asks for it to change it finds it made whole.
//!
//! Invariants:
//! - a peer whose input is ready and that is not paused is in the read list; one that has output
//!   and may write is in the write list (so no edge is lost)
//! - a connection's timer is never later than its peer's next deadline
//! - the connections that count for the limit of peers are those that were not refused

mod acknowledgement;
mod admission;
mod census;
mod connection;
mod cut;
mod deadlines;
mod doubles;
mod ended;
mod ends;
mod handlers;
mod input;
mod io;
mod links;
mod looks;
mod losses;
mod names;
mod node_registry;
mod nodes;
mod output;
mod pressure;
mod reconfigure;
mod requests;
mod rows;
mod stop;
mod table;
#[cfg(test)]
mod tests;
mod told;
mod turn_lists;
mod vectored_read;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use acknowledgement::Acknowledgement;
use admission::Admission;
pub(crate) use census::{Census, PeerLimits};
use connection::{Connection, Credit, Leaving, Pause, Report, Standing};
pub(crate) use cut::CutWalk;
pub(crate) use deadlines::Timer;
use deadlines::{DRAINED_CHECK_MS, Deadlines};
use ended::{Ended, count_closed};
pub use handlers::HandlerOptions;
pub(crate) use handlers::Handlers;
use handlers::Handling;
use input::Input;
use links::Links;
use losses::LossLog;
pub(crate) use node_registry::NodeRegistry;
use nodes::Nodes;
use output::close_slot;
use pressure::Pressure;
pub(crate) use rows::RowWalk;
pub(crate) use stop::Stop;
use table::Table;
use told::Told;
pub(crate) use turn_lists::Action;
use turn_lists::{Again, TurnLists};

use crate::{
    block::BlockPool,
    clock::Tick,
    error::{CloseReason, DialError},
    event::Event,
    id::PeerId,
    ledger::{ClosedRow, Traffic, TypeMap},
    limits::{COMMANDS_PER_TURN, DORMANT_AFTER_MS, LINGER_MS, TIMERS_PER_TURN},
    peer::{Peer, Rules, State, Verdict},
    slots::{About, OpenError, Slots},
    socket::Ready,
};

/// The table of peers.
#[derive(Debug)]
pub(crate) struct Peers {
    slots: Arc<Slots>,
    rules: Rules,
    credit: Credit,
    connections: Table,
    pub(crate) lists: TurnLists,
    pub(crate) deadlines: Deadlines,
    pub(crate) told: Told,
    pub(crate) ended: Ended,
    pub(crate) input: Input,
    pub(crate) handling: Handling,
    pressure: Pressure,
    admission: Admission,
    links: Links,
    nodes: Nodes,
    acknowledgement: Acknowledgement,
    type_map: TypeMap,
}

impl Peers {
    pub(crate) fn new(slots: Arc<Slots>, rules: Rules, limits: PeerLimits, now: Tick) -> Self {
        let (outbox, seed) = (slots.limits(), rules.seed);
        Self {
            credit: Credit {
                bytes: outbox.bytes,
                messages: outbox.messages,
            },
            connections: Table::new(Arc::clone(&slots)),
            lists: TurnLists::default(),
            deadlines: Deadlines::new(now),
            told: Told::new(Arc::clone(&slots)),
            ended: Ended::default(),
            input: Input::new(BlockPool::new(Arc::clone(&slots))),
            handling: Handling::default(),
            pressure: Pressure::default(),
            admission: Admission::new(limits),
            links: Links::new(seed),
            nodes: Nodes::default(),
            acknowledgement: Acknowledgement::default(),
            type_map: TypeMap::default(),
            slots,
            rules,
        }
    }

    /// The same table beside those of other loops.
    pub(crate) fn shared_with(
        self,
        census: Arc<Census>,
        node_registry: Option<Arc<NodeRegistry>>,
    ) -> Self {
        let mut peers = self;
        peers.ended.losses = LossLog::new(Arc::clone(&census.loss_lines));
        peers.admission.census = census;
        peers.nodes.registry = node_registry;
        peers
    }

    // ----- connections -----------------------------------------------------------------------

    /// A connection was accepted. `None` if there is not even a place to refuse it from.
    ///
    /// A refused one gets an id too: it is told why, and closed.
    pub(crate) fn handle_accepted(&mut self, now: Tick, addr: SocketAddr) -> Option<PeerId> {
        self.slots.ledger.accepted.add(1);
        let is_due = self.rules.hello_required || self.rules.first_frame_ms > 0;
        let refusal = self.admission.census.take_place(addr, is_due).err();
        let full = self.admission.is_full(self.connections.len());
        let Some(id) = (if full {
            None
        } else {
            self.take_slot(About { addr, link: None })
        }) else {
            if refusal.is_none() {
                self.admission.census.give_place(addr);
                (0..usize::from(is_due)).for_each(|_| self.admission.census.end_pending());
            }
            count_closed(
                &self.slots.ledger,
                refusal.unwrap_or(CloseReason::TooManyPeers),
            );
            return None;
        };
        let mut peer = Peer::new(id, addr, self.deadlines.receiving(now), &self.rules);
        peer.opened = now;
        peer.moved = now;
        let standing = match refusal {
            Some(_) => Standing::Refused,
            None => Standing::Accepted,
        };
        self.slots.ledger.refused.add(u64::from(refusal.is_some()));
        self.insert_connection(id, peer, standing);
        match refusal {
            Some(reason) => {
                log::debug!("peer {id} at {addr} refused: {reason}");
                self.begin_close(now, id, reason, LINGER_MS);
            }
            None => {
                log::debug!("peer {id} at {addr} connected");
                self.admission.count_accepted(&self.slots.ledger);
                if let Some(connection) = self.connection(id) {
                    connection.pending = is_due;
                }
                if !self.rules.hello_required {
                    self.admit(now, id);
                }
                self.arm(now, id);
                self.connections.make_dormant(id.index() as usize, now);
            }
        }
        Some(id)
    }

    /// A connection was accepted for want of anything better, and closed at once.
    pub(crate) fn note_turned_away(&mut self) {
        self.slots.ledger.accepted.add(1);
        count_closed(&self.slots.ledger, CloseReason::TooManyPeers);
    }

    /// Gives a connection its place in the table, which is the one of its slot.
    fn insert_connection(&mut self, id: PeerId, peer: Peer, standing: Standing) {
        debug_assert_eq!(peer.id, id);
        self.connections.insert(Connection::new(peer, standing));
    }

    /// Looks whether a peer has sent what was due first.
    fn note_first(&mut self, id: PeerId) {
        let hello_required = self.rules.hello_required;
        let Some(connection) = self.connection(id).filter(|connection| connection.pending) else {
            return;
        };
        let came = if hello_required {
            connection.told_connected
        } else {
            connection.peer.has_spoken()
        };
        if came {
            self.forget_pending(id);
        }
    }

    /// To be called where the state of a peer changes: one that can send nothing more owes nothing.
    fn note_mute(&mut self, id: PeerId) {
        if self
            .connection(id)
            .is_some_and(|connection| !connection.peer.state().takes_input())
        {
            self.forget_pending(id);
        }
    }

    fn forget_pending(&mut self, id: PeerId) {
        if let Some(connection) = self.connections.live(id) {
            self.admission.forget_pending(connection);
        }
    }

    /// A slot for a new connection. One that is retired, or whose lock is held by somebody who
    /// still knows an old id, is passed over; its place in the table stays taken, for ever or for
    /// this turn.
    fn take_slot(&mut self, about: About) -> Option<PeerId> {
        loop {
            let index = u32::try_from(self.connections.vacant()).ok()?;
            match self.slots.open_for(index, about) {
                Ok(id) => return Some(id),
                Err(OpenError::NoSuchSlot) => return None,
                Err(OpenError::Retired) => {}
                Err(OpenError::Contended) => self.lists.again.push(Again::FreePlace(index)),
            }
            self.connections.bar(index as usize);
        }
    }

    /// The connection could not be registered, or the like.
    pub(crate) fn handle_failed(&mut self, now: Tick, id: PeerId, reason: CloseReason) {
        self.leave(now, id, reason, true);
    }

    /// Readiness of a peer. A stale id is counted.
    pub(crate) fn handle_ready(&mut self, id: PeerId, ready: Ready) {
        // The first event of a connection says that it may be written, which was known.
        if ready == Ready::WRITE && self.connections.is_inactive(id) {
            return;
        }
        let Some(connection) = self.connection(id) else {
            self.slots.ledger.stale_events.add(1);
            return;
        };
        connection.ready.set(ready);
        if connection.standing == Standing::Dialling {
            connection.ready = Ready::default();
            self.lists.actions.push_back(Action::LookConnected(id));
            return;
        }
        self.list_reading(id);
        self.list_writing(id);
    }

    /// A connection is gone: it counts no more as what it was.
    fn forget_standing(&mut self, now: Tick, standing: Standing, row: &ClosedRow) {
        if self.nodes.here.get(&row.node_id) == Some(&row.peer) {
            self.nodes.here.remove(&row.node_id);
            self.uncover_links(now, row.node_id);
            if let Some(node_registry) = &self.nodes.registry {
                node_registry.tell_gone(row.node_id, self.slots.shard());
            }
        }
        self.admission.forget(standing, row, &self.slots.ledger);
        self.doubt_end(now, row);
    }

    // ----- turns -----------------------------------------------------------------------------

    /// Takes the lists of the turn; whoever is listed from now on waits for the next one.
    pub(crate) fn begin_turn(&mut self, now: Tick) {
        self.slots.finish_deferred();
        self.lists.begin_reading();
        self.handle_dirty(now);
        self.retry(now);
        self.learn_nodes(now);
        if self.deadlines.unmoved.is_some() {
            self.continue_reconfigure(now);
        }
        self.continue_holdings_walk(now);
        self.answer_budget(now);
        if self.has_budget_again() {
            self.resume_budget(now);
        }
        self.recheck_watermarks(now);
        self.look_at_unsure(now);
        self.lists.begin_writing();
    }

    /// The next peer to read.
    pub(crate) fn poll_read(&mut self) -> Option<PeerId> {
        loop {
            let id = self.lists.reading.pop_front()?;
            if let Some(connection) = self.connection(id) {
                connection.in_read_list = false;
                #[cfg(test)]
                self.lists.turns.push(id);
                return Some(id);
            }
        }
    }

    /// The next peer to write.
    pub(crate) fn poll_write(&mut self) -> Option<PeerId> {
        loop {
            let id = self.lists.writing.pop_front()?;
            if let Some(connection) = self.connection(id) {
                connection.in_write_list = false;
                return Some(id);
            }
        }
    }

    /// Peers with output from commands that came in since the turn began.
    pub(crate) fn poll_late_output(&mut self, now: Tick) {
        self.handle_dirty(now);
        self.lists.begin_writing();
    }

    /// Fires the timers that are due, `TIMERS_PER_TURN` at most, and returns the first that is not
    /// a peer's.
    pub(crate) fn poll_timer(&mut self, now: Tick, allowance: &mut usize) -> Option<Timer> {
        debug_assert!(*allowance <= TIMERS_PER_TURN);
        while *allowance > 0 {
            let expired = self.deadlines.wheel.poll(now)?;
            *allowance -= 1;
            match expired.value {
                Timer::Peer(id) => self.handle_deadline(now, id),
                Timer::Link(id) => self.handle_link_timer(now, id),
                Timer::Budget => self.handle_budget_timer(now),
                Timer::Notices => self.told.handle_notices_timer(now, &mut self.deadlines),
                timer @ (Timer::Metrics
                | Timer::Accept(_)
                | Timer::StopDeadline
                | Timer::User(_)) => return Some(timer),
            }
        }
        None
    }

    /// Whether there is work that does not wait for an event.
    pub(crate) fn has_work(&self) -> bool {
        // What was read already is on no list: its peer may be closing, or have no more to read.
        let has_input = self.lists.has_readers() || self.has_pieces_of().is_some();
        (has_input && !self.deadlines.is_stalled())
            || self.lists.has_other_work()
            || !self.acknowledgement.unsure.is_empty()
            || self.deadlines.unmoved.is_some()
            || self.pressure.walk.is_some()
    }

    /// Whether peers that wait for the budget can be read again. The loop's own writes give bytes
    /// back without a ring, so this is to be looked at before it sleeps.
    pub(crate) fn has_budget_again(&self) -> bool {
        !self.pressure.paused.is_empty() && !self.slots.ledger.budget.is_tight()
    }

    /// Nobody is read from now on, or everybody again: the dispatch queue is full, or has room.
    /// What is listed for reading stays so. Returns whether that is new.
    pub(crate) fn set_stalled(&mut self, now: Tick, stalled: bool) -> bool {
        let is_new = self.deadlines.set_stalled(now, stalled);
        if is_new && !stalled {
            let lag = self.deadlines.lag(now);
            self.slots.ledger.stalled_ms.set(lag);
        }
        is_new
    }

    /// Once a second: lets go of memory that is kept for nothing.
    pub(crate) fn handle_metrics_tick(&mut self, now: Tick) {
        self.slots.ledger.stalled_ms.set(self.deadlines.lag(now));
        self.input.pool.trim();
        self.ended.losses.handle_tick(now);
        self.make_some_dormant(now);
    }

    // ----- dirty slots, timers, budget ---------------------------------------------------------

    fn handle_dirty(&mut self, now: Tick) {
        // Nobody asks in most turns, and to count costs less than to try in vain.
        for _ in 0..COMMANDS_PER_TURN.min(self.slots.dirty_count()) {
            let Some(index) = self.slots.poll_dirty() else {
                return;
            };
            self.handle_slot(now, index);
        }
    }

    /// Looks at what other threads did to a slot.
    fn handle_slot(&mut self, now: Tick, index: u32) {
        let connection = self.connections.get_mut(index as usize);
        let Some(connection) = connection.filter(|connection| connection.leaving.is_none()) else {
            return;
        };
        let id = connection.id();
        if !connection.peer.is_closing() && self.refill_output(now, id).is_err() {
            self.lists.again.push(Again::Dirty(index));
            return;
        }
        self.learn_requests(now, id);
        self.check_watermarks(now, id);
        self.reconsider_reading(now, id);
        self.list_writing(id);
        self.check_drained(now, id);
    }

    fn retry(&mut self, now: Tick) {
        if self.lists.again.is_empty() {
            return;
        }
        for again in std::mem::take(&mut self.lists.again) {
            match again {
                Again::Dirty(index) => self.handle_slot(now, index),
                Again::NotifyRoom(index) => {
                    if !self.slots.notify_room(index) {
                        self.lists.again.push(again);
                    }
                }
                Again::Close(id, reason, drain_ms) => self.begin_close(now, id, reason, drain_ms),
                Again::Answering(id) => self.limit_to_replies(id),
                Again::Abandon(id, reason) => self.abandon(now, id, reason),
                Again::Leave(id) => self.finish_leaving(now, id),
                Again::Identity(id) => self.keep_identity(id),
                Again::FreePlace(index) => {
                    self.connections.remove(index as usize);
                }
            }
        }
    }

    /// Lets a peer be sent to, and tells of it: it connected, or said who it is.
    ///
    /// To be called before the block that brought a HELLO is made, so that the events come before
    /// its messages.
    fn admit(&mut self, now: Tick, id: PeerId) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        let (addr, link) = (connection.peer.addr, connection.peer.link);
        let identity = connection.peer.identity.clone();
        let is_new = !std::mem::replace(&mut connection.told_connected, true);
        let limit = identity.as_ref().map(|said| said.payload_size_max);
        self.slots.admit(id, limit.unwrap_or(u32::MAX));
        if is_new {
            let peer = id;
            self.told.emit(Event::Connected { peer, addr, link });
        }
        self.handle_link_up(now, id);
        if let Some(identity) = identity {
            if !identity.node_id.is_anonymous() {
                self.nodes.here.insert(identity.node_id, id);
            }
            self.keep_identity(id);
            self.told.emit(Event::Hello { peer: id, identity });
        }
    }

    fn keep_identity(&mut self, id: PeerId) {
        let identity = self
            .connection(id)
            .and_then(|connection| connection.peer.identity.clone());
        let Some(identity) = identity else { return };
        if self.slots.set_identity(id, &identity).is_err() {
            self.lists.again.push(Again::Identity(id));
        }
    }

    fn handle_deadline(&mut self, now: Tick, id: PeerId) {
        let lag = self.deadlines.lag(now);
        let Some(connection) = self.connection(id) else {
            self.slots.ledger.stale_events.add(1);
            return;
        };
        connection.timer = None;
        self.report_pause(now, id);
        let Some(connection) = self.connection(id) else {
            return;
        };
        // Bytes that wait to be read prove life, and may be the rest of a frame.
        let unread = connection.in_read_list
            && connection.ready.has(Ready::READ)
            && connection.peer.state().takes_input();
        // The system tells of room only when there is much of it again: a peer that takes little by
        // little makes no edge for a long time. So whoever seems to stall is written to once more.
        let untried =
            !connection.peer.outbox.is_empty() && !std::mem::take(&mut connection.write_tried);
        self.expire_requests(now, id, unread);
        let rules = &self.rules;
        let connection = self.connections.get_mut(id.index() as usize);
        let connection = connection.expect("looked up above");
        let verdict = connection.peer.judge(now, rules, lag);
        match verdict {
            Some(Verdict::Close(_) | Verdict::Ping) if unread => {
                self.deadlines.arm_at(now + 1, connection);
                return;
            }
            Some(Verdict::Abort(_)) if untried => {
                connection.write_tried = true;
                connection.ready.set(Ready::WRITE);
                self.deadlines.arm_at(now + 1, connection);
                self.list_writing(id);
                return;
            }
            Some(Verdict::Look) => self.look(now, id),
            Some(Verdict::Ping) => {
                connection.peer.ping(now.saturating_sub(lag));
                self.list_writing(id);
            }
            Some(Verdict::GiveUp) => self.give_up(now, id, DialError::Timeout),
            Some(Verdict::Close(reason)) => {
                let drain_ms = self.drain_ms_of(now, id).unwrap_or(LINGER_MS);
                self.begin_close(now, id, reason, drain_ms);
            }
            Some(Verdict::Abandon(reason)) => self.abandon(now, id, reason),
            Some(Verdict::Abort(reason)) => self.leave(now, id, reason, true),
            Some(Verdict::Done) => {
                let reason = closing_reason(&connection.peer);
                self.leave(now, id, reason, false);
            }
            Some(Verdict::CheckDrained) => {
                self.recheck_drained(now, id);
                return;
            }
            None => {}
        }
        self.arm(now, id);
        let before = now.saturating_sub(DORMANT_AFTER_MS);
        self.connections.make_dormant(id.index() as usize, before);
    }

    fn own_deadline_of(&self, now: Tick, id: PeerId) -> Option<Tick> {
        let connection = self.connections.look(id.index() as usize)?;
        connection.own_deadline(&self.rules, self.deadlines.lag(now))
    }

    fn arm(&mut self, now: Tick, id: PeerId) {
        if let Some(connection) = self.connections.get_mut(id.index() as usize) {
            self.deadlines.arm(now, connection, &self.rules);
        }
    }

    // ----- stop, rows ------------------------------------------------------------------------

    /// Closes every peer in order once what was read until now is released and its answers are
    /// written. Reading goes on until the peer's own end, or the deadline.
    pub(crate) fn begin_stop(&mut self, now: Tick, deadline: Tick) {
        self.ended.stop = Some(self.start_stop());
        self.deadlines.wheel.insert(deadline, Timer::StopDeadline);
        self.rules.drain_ms = deadline.saturating_sub(now);
        self.end_links(now);
        let ids: Vec<PeerId> = self.connections.ids().map(|(id, _)| id).collect();
        for id in ids {
            self.begin_finish(now, id, CloseReason::Shutdown, self.rules.drain_ms);
        }
    }

    /// Cuts off all connections that are left.
    pub(crate) fn abort_all(&mut self, now: Tick, reason: CloseReason) {
        self.drop_links();
        let ids: Vec<PeerId> = self.connections.ids().map(|(id, _)| id).collect();
        for id in ids {
            self.leave(now, id, reason, true);
        }
    }

    /// The time of the stop is over: all connections that are left are closed. What is written is
    /// out of our hands; only what is not written yet is cut off.
    pub(crate) fn end_stop(&mut self, now: Tick) {
        self.drop_links();
        let ids: Vec<PeerId> = self.connections.ids().map(|(id, _)| id).collect();
        for id in ids {
            let state = self
                .connection(id)
                .map(|connection| connection.peer.state());
            match state {
                Some(State::Lingering { reason, .. }) => self.leave(now, id, reason, false),
                Some(
                    State::Connecting { .. }
                    | State::Greeting { .. }
                    | State::Open
                    | State::Refused { .. }
                    | State::HalfClosed { .. }
                    | State::Stopping { .. }
                    | State::Draining { .. },
                )
                | None => self.leave(now, id, CloseReason::Shutdown, true),
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.connections.ids().next().is_none()
    }

    // ----- helpers ---------------------------------------------------------------------------

    fn connection(&mut self, id: PeerId) -> Option<&mut Connection> {
        self.connections.live(id)
    }

    fn list_reading(&mut self, id: PeerId) {
        if let Some(connection) = self.connections.live(id) {
            self.lists.list_reading(connection);
        }
    }

    fn list_writing(&mut self, id: PeerId) {
        if let Some(connection) = self.connections.live(id) {
            self.lists.list_writing(connection);
        }
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
        bye_received: peer.bye_received,
        closed_at: Duration::from_millis(now),
        age: Duration::from_millis(now.saturating_sub(peer.opened)),
        inbound: peer.inbound,
        outbound: peer.outbound,
        lost,
        overflowed: peer.sums.overflowed,
        unconfirmed,
        unanswered: peer.unanswered,
        discarded_after_close: peer.discarded(),
    }
}

/// Charges or returns what the unfinished frame's storage changed by.
fn recharge_carry(slots: &Slots, connection: &mut Connection) {
    let charge = connection.peer.carry.capacity();
    let budget = &slots.ledger.budget;
    if charge > connection.carry_charge {
        budget.charge(charge - connection.carry_charge);
    } else if charge < connection.carry_charge {
        budget.release(connection.carry_charge - charge);
    }
    connection.carry_charge = charge;
}

fn closing_reason(peer: &Peer) -> CloseReason {
    match peer.state() {
        State::Draining { reason, .. }
        | State::Lingering { reason, .. }
        | State::Stopping { reason, .. }
        | State::Refused { reason, .. }
        | State::HalfClosed { reason, .. } => reason,
        State::Connecting { .. } | State::Greeting { .. } | State::Open => CloseReason::Internal,
    }
}
