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

mod census;
mod connection;
mod cut;
mod doubles;
mod ends;
mod handlers;
mod io;
mod links;
mod looks;
mod losses;
mod names;
mod node_registry;
mod output;
mod pressure;
mod reconfigure;
mod requests;
mod rows;
mod stop;
mod table;
#[cfg(test)]
mod tests;
mod vectored_read;

use std::{
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

pub(crate) use census::Census;
use connection::{Connection, Credit, Leaving, Pause, Report, Standing};
pub(crate) use cut::CutWalk;
pub use handlers::HandlerOptions;
pub(crate) use handlers::Handlers;
use links::Links;
use losses::LossLog;
pub(crate) use node_registry::NodeRegistry;
use output::close_slot;
use pressure::HoldingsWalk;
pub(crate) use rows::RowWalk;
pub(crate) use stop::Stop;
use table::Table;
use vectored_read::VectoredRead;

use crate::{
    balance::PeerSums,
    block::BlockPool,
    clock::Tick,
    config::Config,
    dispatch::{Item, Notice},
    error::{CloseReason, DialError},
    event::Event,
    id::{LinkId, NodeId, PeerId},
    ledger::{ClosedRow, HandlerAccount, HandlerRow, Traffic, TypeMap},
    limits::{
        CLOSED_ROWS_MAX, COMMANDS_PER_TURN, DORMANT_AFTER_MS, EVENTS_WAITING_MAX, LINGER_MS,
        REFUSED_PEERS_MAX, TIMERS_PER_TURN,
    },
    log_limiter::{LogLimiter, Subject, Suppressed},
    peer::{Peer, Rules, State, Verdict},
    slots::{About, OpenError, Slots},
    socket::Ready,
    timers::UserTimer,
    wheel::Wheel,
};

/// How often a peer that is not drained is looked at, after its deadline said so.
const DRAINED_CHECK_MS: u64 = 25;

/// What a peer's table is bounded by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PeerLimits {
    pub(crate) peers: usize,
    /// Zero is no limit.
    pub(crate) peers_per_origin: usize,
    /// Connections that have not sent what is due first; zero is no limit.
    pub(crate) pending: usize,
}

impl PeerLimits {
    pub(crate) fn of(config: &Config) -> Self {
        Self {
            peers: config.max_peers,
            peers_per_origin: config.max_peers_per_addr,
            pending: config.max_pending,
        }
    }
}

/// What the wheel tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timer {
    /// A deadline of a peer may have passed.
    Peer(PeerId),
    /// A link may connect again.
    Link(LinkId),
    /// To look whether the budget is still used up.
    Budget,
    /// Requests may have waited long enough whose connection has ended.
    Notices,
    /// The event loop's: the metrics tick, and an accept that failed.
    Metrics,
    Accept(usize),
    /// A stop has waited long enough.
    StopDeadline,
    /// The embedder's.
    User(UserTimer),
}

impl From<UserTimer> for Timer {
    fn from(timer: UserTimer) -> Self {
        Self::User(timer)
    }
}

/// What the event loop has to do with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// To begin to connect.
    Connect(PeerId, SocketAddr),
    /// To look whether the connection is made.
    LookConnected(PeerId),
    /// To ask what the peer's system has not acknowledged; `last` if the connection is closed next.
    Look { id: PeerId, last: bool },
    /// To send the FIN.
    Shutdown(PeerId),
    /// To look what is left unread of a connection that is to be closed.
    Settle(PeerId),
    /// To close; with `abort`, by a RST.
    Close { index: u32, abort: bool },
}

/// The table of peers.
#[derive(Debug)]
pub(crate) struct Peers {
    slots: Arc<Slots>,
    rules: Rules,
    limits: PeerLimits,
    /// The most peers that `limits` may ever allow.
    places: usize,
    /// Where a walk goes on that moves timers, see `reconfigure`.
    unmoved: Option<usize>,
    credit: Credit,
    pool: BlockPool,
    vectored: Option<VectoredRead>,
    /// `None` if nobody handles anything here.
    handlers: Option<Box<Handlers>>,
    /// What all of them count, those included that were removed.
    handler_accounts: Box<[Arc<HandlerAccount>]>,
    /// A handler has answered since this was last looked at.
    answered: bool,
    pub(crate) wheel: Wheel<Timer>,
    connections: Table,
    /// The place at which to look next for a connection that may become dormant.
    dormancy_cursor: usize,
    /// Connections that were not refused, and not those that we are still making.
    counted: usize,
    /// Those of the service, which its limits are held against.
    census: Arc<Census>,
    /// Seats of connections that we make or made.
    dialled: usize,
    links: Links,
    /// Who is connected, by who they say they are.
    nodes: HashMap<NodeId, PeerId>,
    /// And to all loops, if there are others.
    node_registry: Option<Arc<NodeRegistry>>,
    /// Peers with ready input, and with output that may be written: of this turn, and of the next.
    reading: VecDeque<PeerId>,
    read_list: VecDeque<PeerId>,
    writing: VecDeque<PeerId>,
    write_list: VecDeque<PeerId>,
    /// Who had a turn to read, for whoever looks after that.
    #[cfg(test)]
    turns: Vec<PeerId>,
    actions: VecDeque<Action>,
    /// Events and timers to be told, in this order: a few for each connection, because nobody is
    /// read or accepted while one of them finds no room.
    events: VecDeque<Item>,
    /// How many of them came before the block that was made last.
    events_ahead: usize,
    /// To be told to the dispatcher, about requests.
    notices: VecDeque<Notice>,
    notices_timer: bool,
    /// To be done again in the next turn, because somebody held a slot's lock.
    again: Vec<Again>,
    /// Peers that wait for the budget.
    budget_paused: Vec<PeerId>,
    budget_timer: bool,
    /// A walk over all peers for the one that is to make room.
    holdings_walk: Option<HoldingsWalk>,
    /// Peers of which senders wait for the budget.
    budget_refused: Vec<PeerId>,
    /// Peers whose watermarks are to be looked at when the events that wait have become fewer.
    watermarks_due: Vec<PeerId>,
    type_map: TypeMap,
    closed: VecDeque<ClosedRow>,
    /// Sums over all connections that have ended.
    gone: PeerSums,
    /// What was counted as received and the event loop does not have yet.
    in_hand: Traffic,
    /// How long nobody was read, in all, and since when nobody is.
    lag: Tick,
    stalled_since: Option<Tick>,
    /// The system does not tell what a peer's system has acknowledged.
    untold: bool,
    /// Connections that may become dormant once their systems have acknowledged everything.
    unsure: VecDeque<PeerId>,
    stop: Option<Stop>,
    log_limiter: LogLimiter,
    losses: LossLog,
}

/// Work that a contended slot put off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Again {
    Dirty(u32),
    NotifyRoom(u32),
    Close(PeerId, CloseReason, u64),
    Abandon(PeerId, CloseReason),
    Answering(PeerId),
    Leave(PeerId),
    Identity(PeerId),
    FreePlace(u32),
}

impl Peers {
    pub(crate) fn new(slots: Arc<Slots>, rules: Rules, limits: PeerLimits, now: Tick) -> Self {
        let (outbox, seed) = (slots.limits(), rules.seed);
        Self {
            pool: BlockPool::new(Arc::clone(&slots)),
            vectored: None,
            connections: Table::new(Arc::clone(&slots)),
            dormancy_cursor: 0,
            slots,
            rules,
            limits,
            places: limits.peers,
            unmoved: None,
            credit: Credit {
                bytes: outbox.bytes,
                messages: outbox.messages,
            },
            handlers: None,
            handler_accounts: Box::default(),
            answered: false,
            wheel: Wheel::new(now),
            counted: 0,
            census: Arc::new(Census::new(limits)),
            dialled: 0,
            links: Links::new(seed),
            nodes: HashMap::new(),
            node_registry: None,
            reading: VecDeque::new(),
            read_list: VecDeque::new(),
            writing: VecDeque::new(),
            write_list: VecDeque::new(),
            #[cfg(test)]
            turns: Vec::new(),
            actions: VecDeque::new(),
            events: VecDeque::new(),
            events_ahead: 0,
            notices: VecDeque::new(),
            notices_timer: false,
            again: Vec::new(),
            budget_paused: Vec::new(),
            budget_timer: false,
            holdings_walk: None,
            budget_refused: Vec::new(),
            watermarks_due: Vec::new(),
            type_map: TypeMap::default(),
            closed: VecDeque::new(),
            gone: PeerSums::default(),
            in_hand: Traffic::default(),
            lag: 0,
            stalled_since: None,
            untold: false,
            unsure: VecDeque::new(),
            stop: None,
            log_limiter: LogLimiter::default(),
            losses: LossLog::default(),
        }
    }

    /// The same table beside those of other loops.
    pub(crate) fn shared_with(
        self,
        census: Arc<Census>,
        node_registry: Option<Arc<NodeRegistry>>,
    ) -> Self {
        Self {
            losses: LossLog::new(Arc::clone(&census.loss_lines)),
            census,
            node_registry,
            ..self
        }
    }

    // ----- connections -----------------------------------------------------------------------

    /// A connection was accepted. `None` if there is not even a place to refuse it from.
    ///
    /// A refused one gets an id too: it is told why, and closed.
    pub(crate) fn handle_accepted(&mut self, now: Tick, addr: SocketAddr) -> Option<PeerId> {
        self.slots.ledger.accepted.add(1);
        let is_due = self.rules.hello_required || self.rules.first_frame_ms > 0;
        let refusal = self.census.take_place(addr, is_due).err();
        let full = self.connections.len() - self.dialled >= self.limits.peers + REFUSED_PEERS_MAX;
        let Some(id) = (if full {
            None
        } else {
            self.take_slot(About { addr, link: None })
        }) else {
            if refusal.is_none() {
                self.census.give_place(addr);
                (0..usize::from(is_due)).for_each(|_| self.census.end_pending());
            }
            self.count_closed(refusal.unwrap_or(CloseReason::TooManyPeers));
            return None;
        };
        let mut peer = Peer::new(id, addr, self.receiving(now), &self.rules);
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
                self.counted += 1;
                if let Some(connection) = self.connection(id) {
                    connection.pending = is_due;
                }
                self.slots.ledger.peers.set(self.counted as u64);
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
        self.count_closed(CloseReason::TooManyPeers);
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
        if let Some(connection) = self.connection(id) {
            if std::mem::take(&mut connection.pending) {
                self.census.end_pending();
            }
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
                Err(OpenError::Contended) => self.again.push(Again::FreePlace(index)),
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
            self.actions.push_back(Action::LookConnected(id));
            return;
        }
        self.list_reading(id);
        self.list_writing(id);
    }

    /// A connection is gone: it counts no more as what it was.
    fn forget_standing(&mut self, now: Tick, standing: Standing, row: &ClosedRow) {
        if self.nodes.get(&row.node_id) == Some(&row.peer) {
            self.nodes.remove(&row.node_id);
            self.uncover_links(now, row.node_id);
            if let Some(node_registry) = &self.node_registry {
                node_registry.tell_gone(row.node_id, self.slots.shard());
            }
        }
        match standing {
            Standing::Refused => {
                let refused = &self.slots.ledger.refused;
                refused.set(refused.get().saturating_sub(1));
            }
            Standing::Accepted => {
                self.counted -= 1;
                self.census.give_place(row.addr);
            }
            Standing::Dialling => self.dialled -= 1,
            Standing::Dialled => {
                self.counted -= 1;
                self.census.remove_counted();
                self.dialled -= 1;
            }
        }
        self.slots.ledger.peers.set(self.counted as u64);
        self.doubt_end(now, row);
    }

    fn keep_row(&mut self, row: ClosedRow, held: u64, abort: bool) {
        self.count_closed(row.reason);
        let has_loss = row.has_loss();
        self.slots.ledger.closed_with_loss.add(u64::from(has_loss));
        log::debug!(
            "peer {} at {} closed: {}, {} messages lost",
            row.peer,
            row.addr,
            row.reason,
            row.lost.messages
        );
        if let Some(stop) = &mut self.stop {
            stop.note_closed(&row, held, abort);
        }
        if self.closed.len() == CLOSED_ROWS_MAX {
            self.closed.pop_front();
        }
        self.closed.push_back(row);
    }

    fn count_closed(&self, reason: CloseReason) {
        self.slots.ledger.closed[reason.ordinal()].add(1);
    }

    // ----- turns -----------------------------------------------------------------------------

    /// Takes the lists of the turn; whoever is listed from now on waits for the next one.
    pub(crate) fn begin_turn(&mut self, now: Tick) {
        self.slots.finish_deferred();
        append(&mut self.reading, &mut self.read_list);
        self.handle_dirty(now);
        self.retry(now);
        self.learn_nodes(now);
        if self.unmoved.is_some() {
            self.continue_reconfigure(now);
        }
        self.continue_holdings_walk(now);
        self.answer_budget(now);
        if self.has_budget_again() {
            self.resume_budget(now);
        }
        self.recheck_watermarks(now);
        self.look_at_unsure(now);
        append(&mut self.writing, &mut self.write_list);
    }

    /// The next peer to read.
    pub(crate) fn poll_read(&mut self) -> Option<PeerId> {
        loop {
            let id = self.reading.pop_front()?;
            if let Some(connection) = self.connection(id) {
                connection.in_read_list = false;
                #[cfg(test)]
                self.turns.push(id);
                return Some(id);
            }
        }
    }

    /// The next peer to write.
    pub(crate) fn poll_write(&mut self) -> Option<PeerId> {
        loop {
            let id = self.writing.pop_front()?;
            if let Some(connection) = self.connection(id) {
                connection.in_write_list = false;
                return Some(id);
            }
        }
    }

    /// The next event for whoever subscribed to them, or timer.
    pub(crate) fn poll_told(&mut self) -> Option<Item> {
        self.events_ahead = self.events_ahead.saturating_sub(1);
        self.events.pop_front()
    }

    /// The next event, where there are no timers.
    #[cfg(test)]
    pub(crate) fn poll_event(&mut self) -> Option<Box<Event>> {
        let told = self.poll_told()?;
        let Item::Event(event) = told else {
            panic!("{told:?} is no event");
        };
        Some(event)
    }

    /// Takes back an event or a timer that found no room; `ahead` if it comes before the block.
    pub(crate) fn return_told(&mut self, item: Item, ahead: bool) {
        self.events_ahead += usize::from(ahead);
        self.events.push_front(item);
    }

    /// Takes in what is to be told behind everything that was read, and behind the events.
    pub(crate) fn tell(&mut self, item: Item) {
        self.events.push_back(item);
    }

    pub(crate) fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Whether an event came before the block that was made last, and is to be told before it.
    pub(crate) fn has_events_ahead(&self) -> bool {
        self.events_ahead > 0
    }

    pub(crate) fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// Peers with output from commands that came in since the turn began.
    pub(crate) fn poll_late_output(&mut self, now: Tick) {
        self.handle_dirty(now);
        append(&mut self.writing, &mut self.write_list);
    }

    /// Fires the timers that are due, `TIMERS_PER_TURN` at most, and returns the first that is not
    /// a peer's.
    pub(crate) fn poll_timer(&mut self, now: Tick, allowance: &mut usize) -> Option<Timer> {
        debug_assert!(*allowance <= TIMERS_PER_TURN);
        while *allowance > 0 {
            let expired = self.wheel.poll(now)?;
            *allowance -= 1;
            match expired.value {
                Timer::Peer(id) => self.handle_deadline(now, id),
                Timer::Link(id) => self.handle_link_timer(now, id),
                Timer::Budget => self.handle_budget_timer(now),
                Timer::Notices => self.handle_notices_timer(now),
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
        let is_listed = !(self.read_list.is_empty() && self.reading.is_empty());
        // What was read already is on no list: its peer may be closing, or have no more to read.
        let reads = self.stalled_since.is_none() && (is_listed || self.has_pieces_of().is_some());
        reads
            || !self.write_list.is_empty()
            || !self.writing.is_empty()
            || !self.again.is_empty()
            || !self.unsure.is_empty()
            || !self.actions.is_empty()
            || self.unmoved.is_some()
            || self.holdings_walk.is_some()
    }

    /// Whether peers that wait for the budget can be read again. The loop's own writes give bytes
    /// back without a ring, so this is to be looked at before it sleeps.
    pub(crate) fn has_budget_again(&self) -> bool {
        !self.budget_paused.is_empty() && !self.slots.ledger.budget.is_tight()
    }

    /// Nobody is read from now on, or everybody again: the dispatch queue is full, or has room.
    /// What is listed for reading stays so. Returns whether that is new.
    pub(crate) fn set_stalled(&mut self, now: Tick, stalled: bool) -> bool {
        match (stalled, self.stalled_since) {
            (true, None) => self.stalled_since = Some(now),
            (false, Some(since)) => {
                self.lag += now.saturating_sub(since);
                self.stalled_since = None;
                self.slots.ledger.stalled_ms.set(self.lag);
            }
            (true, Some(_)) | (false, None) => return false,
        }
        true
    }

    /// Once a second: lets go of memory that is kept for nothing.
    pub(crate) fn handle_metrics_tick(&mut self, now: Tick) {
        self.slots.ledger.stalled_ms.set(self.lag(now));
        self.pool.trim();
        self.losses.handle_tick(now);
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
            self.again.push(Again::Dirty(index));
            return;
        }
        self.learn_requests(now, id);
        self.check_watermarks(now, id);
        self.reconsider_reading(now, id);
        self.list_writing(id);
        self.check_drained(now, id);
    }

    fn retry(&mut self, now: Tick) {
        if self.again.is_empty() {
            return;
        }
        for again in std::mem::take(&mut self.again) {
            match again {
                Again::Dirty(index) => self.handle_slot(now, index),
                Again::NotifyRoom(index) => {
                    if !self.slots.notify_room(index) {
                        self.again.push(again);
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
            self.emit(Event::Connected { peer, addr, link });
        }
        self.handle_link_up(now, id);
        if let Some(identity) = identity {
            if !identity.node_id.is_anonymous() {
                self.nodes.insert(identity.node_id, id);
            }
            self.keep_identity(id);
            self.emit(Event::Hello { peer: id, identity });
        }
    }

    fn keep_identity(&mut self, id: PeerId) {
        let identity = self
            .connection(id)
            .and_then(|connection| connection.peer.identity.clone());
        let Some(identity) = identity else { return };
        if self.slots.set_identity(id, &identity).is_err() {
            self.again.push(Again::Identity(id));
        }
    }

    /// Tells whoever subscribed to events.
    fn emit(&mut self, event: Event) {
        if self.is_watched() {
            self.events.push_back(Item::Event(Box::new(event)));
        }
    }

    /// Whether so many events wait that none is to be made which may come again and again. Those of
    /// connections that come and go are few for each of them, and are always made.
    fn has_backlog(&self) -> bool {
        self.events.len() >= EVENTS_WAITING_MAX
    }

    /// Whether anybody subscribed to events.
    fn is_watched(&self) -> bool {
        self.slots.event_subscribers.load(Ordering::Relaxed) > 0
    }

    fn handle_deadline(&mut self, now: Tick, id: PeerId) {
        let lag = self.lag(now);
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
                connection.timer = Some(self.wheel.insert(now + 1, Timer::Peer(id)).place());
                return;
            }
            Some(Verdict::Abort(_)) if untried => {
                connection.write_tried = true;
                connection.ready.set(Ready::WRITE);
                connection.timer = Some(self.wheel.insert(now + 1, Timer::Peer(id)).place());
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
        connection.own_deadline(&self.rules, self.lag(now))
    }

    /// Makes sure that the peer's timer is not later than its next deadline. An earlier one stays:
    /// it is cheaper to look once in vain than to move the timer with every byte.
    ///
    /// What a deadline that passed asks for may have to wait. It is looked at again a little later,
    /// because a timer that is due would keep the loop busy.
    fn arm(&mut self, now: Tick, id: PeerId) {
        let lag = self.lag(now);
        let Some(connection) = self.connections.get_mut(id.index() as usize) else {
            return;
        };
        let deadline = connection.own_deadline(&self.rules, lag);
        let request = connection.request_deadline_from(now);
        let deadline = deadline.map(|deadline| match connection.peer.state() {
            State::HalfClosed { .. } | State::Stopping { .. } if deadline <= now => {
                now + DRAINED_CHECK_MS
            }
            State::HalfClosed { .. } | State::Stopping { .. } => deadline,
            State::Connecting { .. }
            | State::Greeting { .. }
            | State::Open
            | State::Refused { .. }
            | State::Draining { .. }
            | State::Lingering { .. } => deadline.max(now + 1),
        });
        let Some(deadline) = deadline.into_iter().chain(request).min() else {
            return;
        };
        if let Some(timer) = connection.timer {
            if self
                .wheel
                .deadline_at(timer)
                .is_some_and(|armed| armed <= deadline)
            {
                return;
            }
            self.wheel.cancel_at(timer);
        }
        connection.timer = Some(self.wheel.insert(deadline, Timer::Peer(id)).place());
    }

    // ----- stop, rows ------------------------------------------------------------------------

    /// Closes every peer in order once what was read until now is released and its answers are
    /// written. Reading goes on until the peer's own end, or the deadline.
    pub(crate) fn begin_stop(&mut self, now: Tick, deadline: Tick) {
        self.stop = Some(self.start_stop());
        self.wheel.insert(deadline, Timer::StopDeadline);
        self.rules.drain_ms = deadline.saturating_sub(now);
        self.end_links(now);
        let ids: Vec<PeerId> = self.connections.ids().map(|(id, _)| id).collect();
        for id in ids {
            self.begin_finish(now, id, CloseReason::Shutdown, self.rules.drain_ms);
        }
    }

    pub(crate) fn handler_rows(&self) -> Vec<HandlerRow> {
        let accounts = self.handler_accounts.iter();
        accounts.map(|account| account.row()).collect()
    }

    /// The event loop has what the last read brought.
    #[inline]
    pub(crate) fn note_handed_over(&mut self) {
        self.in_hand = Traffic::default();
    }

    /// A panic has lost what the event loop did not have yet.
    pub(crate) fn note_lost(&mut self) {
        let lost = std::mem::take(&mut self.in_hand);
        self.slots.ledger.undelivered.add(lost);
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

    /// What the stop did so far, if there is one.
    pub(crate) fn take_stop(&mut self) -> Option<Stop> {
        self.losses.finish_window();
        self.stop.take()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.connections.ids().next().is_none()
    }

    pub(crate) fn closed_rows(&self) -> Vec<ClosedRow> {
        self.closed.iter().cloned().collect()
    }

    // ----- helpers ---------------------------------------------------------------------------

    /// A connection that is not on its way out.
    fn connection(&mut self, id: PeerId) -> Option<&mut Connection> {
        let connection = self.connections.get_mut(id.index() as usize)?;
        (connection.id() == id && connection.leaving.is_none()).then_some(connection)
    }

    /// The time of receiving: it stands still while nobody is read.
    fn receiving(&self, now: Tick) -> Tick {
        now.saturating_sub(self.lag(now))
    }

    fn lag(&self, now: Tick) -> Tick {
        self.lag
            + self
                .stalled_since
                .map_or(0, |since| now.saturating_sub(since))
    }

    fn list_reading(&mut self, id: PeerId) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        let may = connection.pause.is_none()
            || connection.peer.discards()
            || connection.ready.has(Ready::ERROR);
        if may && connection.ready.has(Ready::READ) && !connection.in_read_list {
            connection.in_read_list = true;
            self.read_list.push_back(id);
        }
    }

    fn list_writing(&mut self, id: PeerId) {
        let Some(connection) = self.connection(id) else {
            return;
        };
        let may = connection.ready.has(Ready::WRITE) && connection.peer.has_output();
        if may && !connection.in_write_list {
            connection.in_write_list = true;
            self.write_list.push_back(id);
        }
    }

    fn limit_log(
        &mut self,
        now: Tick,
        cause: &'static str,
        addr: SocketAddr,
    ) -> Option<Suppressed> {
        self.log_limiter
            .allow(now, cause, Subject::Address(addr.ip()))
    }
}

/// Adds a list to another. In most turns it is empty, and the deque's own way costs all the same.
fn append(list: &mut VecDeque<PeerId>, more: &mut VecDeque<PeerId>) {
    if !more.is_empty() {
        list.append(more);
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
