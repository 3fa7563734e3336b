//! The loop: joins clock, network, peers and dispatcher.
//!
//! A turn takes what the network has to say, then reads, then accepts, then lets timers fire, then
//! writes. Each of these has an allowance, and what it leaves over is remembered, so no peer and no
//! kind of work can keep the others waiting. The loop waits in `poll` and nowhere else.
//!
//! Reads come before timers, so that after a pause of the whole process the bytes that arrived
//! meanwhile are seen before anybody is judged for their absence. Writes come last, because reads
//! and timers cause them.

use std::{
    collections::VecDeque,
    fmt, io,
    io::IoSlice,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use crossbeam_channel::{Receiver, Sender};

use crate::{
    balance::{CutAnswer, CutMarker, LoopCut},
    block::BlockRef,
    clock::{Clock, Now, Tick, ticks_of_timeout},
    dispatch::{
        DispatchQueue, FanOut, Item, Notice, OnTick, PendingWakes, Poke, PushError, QueueBounds,
        panic_message,
    },
    error::CloseReason,
    handle::{Command, Signals},
    id::{ListenerId, PeerId},
    idle::{Idle, IdleStrategy},
    ledger::{PeerRow, ServiceState, Traffic},
    limits::{
        ACCEPT_BACKOFF_MAX_MS, ACCEPT_BACKOFF_MIN_MS, ACCEPTS_PER_TURN, BLOCK_COPIED_MAX,
        COMMANDS_PER_TURN, CUTS_WAITING_MAX, EVENTS_PER_POLL, METRICS_TICK_MS, READ_PER_TURN_BYTES,
        ROW_WALKS_MAX, SLICES_FEW, SLICES_PER_WRITE, TIMERS_LATE_MS, TIMERS_PER_TURN,
        WRITE_PER_TURN_BYTES,
    },
    log_limiter::{LogLimiter, Subject},
    peers::{Action, CutWalk, Peers, RowWalk, Stop, Timer},
    read_ahead::ReadAhead,
    slots::Slots,
    socket::{AcceptFault, Event, Listener, Net},
    timers::{TimerHub, TimerTable},
};

/// How often the end of the loop tries a lock that somebody else holds: at first it gives way, then
/// it sleeps in between. Whoever holds the lock may have to wait for a processor itself.
const LAST_TRIES_MAX: usize = 1000;
const LAST_YIELDS_MAX: usize = 100;
const LAST_SLEEP: Duration = Duration::from_millis(1);

/// Where blocks and events go.
pub(crate) enum Sink {
    /// To the dispatcher thread.
    Queue(DispatchQueue),
    /// To subscribers, right here.
    Inline {
        fan_out: Box<FanOut>,
        bounds: QueueBounds,
        on_tick: OnTick,
    },
}

/// The loop thread's state.
pub(crate) struct EventLoop<N: Net> {
    net: N,
    /// By the index of the peer.
    streams: Vec<Option<N::Stream>>,
    listeners: Vec<Accepting>,
    /// Their names; `None` is a place for another one.
    listener_ids: Vec<Option<ListenerId>>,
    /// For each listener the next pause in milliseconds, should the system run out of something.
    backoffs: Vec<u64>,
    peers: Peers,
    slots: Arc<Slots>,
    sink: Sink,
    poke: Arc<Poke>,
    commands: Receiver<Command>,
    /// Cuts of the ledger: the one that is under way, and those that wait for its end.
    cuts: VecDeque<(CutWalk, CutAnswer)>,
    /// Lists of connections that are being made, likewise.
    row_walks: VecDeque<(RowWalk, Sender<Vec<PeerRow>>)>,
    timers: TimerTable,
    events: Vec<Event>,
    /// Whether the last poll may have left events behind.
    more_events: bool,
    /// Turns in which timers waited for events that were left behind.
    timers_waited: usize,
    /// The block that the dispatcher has no room for, or that waits for the events before it.
    /// Nothing is read while there is one, or while an event waits.
    waiting: Option<BlockRef>,
    /// Maxima of the dispatch queue since the last metrics tick.
    queue_max: Traffic,
    metrics_next: Tick,
    phase: Phase,
    /// A stop was asked for before the last poll, so all that had come by then is known.
    stop_is_due: bool,
    /// The deadline of the stop has passed.
    drain_is_over: bool,
    /// Whether another thread of the service has failed, or a stop was asked for.
    signals: Arc<Signals>,
    /// What ended the loop itself.
    failure: Option<String>,
    log_limiter: LogLimiter,
    idle: Idle,
    read_ahead: ReadAhead,
    pending_wakes: PendingWakes,
    /// Bytes moved in this turn, if any were.
    moved: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Running,
    Stopping,
    Ended,
}

/// How a listener fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Accepting {
    /// An edge will tell.
    Idle,
    /// Connections wait, or may.
    Ready,
    /// The system ran out of something; a timer will tell.
    Paused,
    /// It will never work again, or the service stops.
    Closed,
}

/// How the loop ended.
#[derive(Debug, Default)]
pub(crate) struct LoopEnd {
    pub(crate) stop: Stop,
    /// What ended it, if it was not a stop.
    pub(crate) failure: Option<String>,
}

impl LoopEnd {
    /// Adds the end of another loop of the same service.
    pub(crate) fn add(&mut self, other: Self) {
        self.stop.add(other.stop);
        self.failure = self.failure.take().or(other.failure);
    }
}

impl<N: Net> EventLoop<N> {
    #[expect(
        clippy::too_many_arguments,
        reason = "called once, where all its parts are made"
    )]
    pub(crate) fn new(
        net: N,
        listeners: Vec<ListenerId>,
        mut peers: Peers,
        slots: Arc<Slots>,
        sink: Sink,
        poke: Arc<Poke>,
        commands: Receiver<Command>,
        timers: Arc<TimerHub>,
        signals: Arc<Signals>,
        idle: IdleStrategy,
        now: Tick,
    ) -> Self {
        let metrics_next = now + METRICS_TICK_MS;
        peers
            .common
            .deadlines
            .wheel
            .insert(metrics_next, Timer::Metrics);
        Self {
            net,
            streams: Vec::new(),
            // Connections may wait from before the listener was registered.
            listeners: vec![Accepting::Ready; listeners.len()],
            backoffs: vec![ACCEPT_BACKOFF_MIN_MS; listeners.len()],
            listener_ids: listeners.into_iter().map(Some).collect(),
            peers,
            slots,
            sink,
            poke,
            commands,
            cuts: VecDeque::new(),
            row_walks: VecDeque::new(),
            timers: TimerTable::new(timers),
            events: Vec::new(),
            more_events: false,
            timers_waited: 0,
            waiting: None,
            queue_max: Traffic::default(),
            metrics_next,
            phase: Phase::Running,
            stop_is_due: false,
            drain_is_over: false,
            signals,
            failure: None,
            log_limiter: LogLimiter::default(),
            idle: Idle::new(idle),
            read_ahead: ReadAhead::default(),
            pending_wakes: PendingWakes::default(),
            moved: 0,
        }
    }

    /// Runs until a stop is done or something fails.
    pub(crate) fn run(mut self, clock: Clock) -> LoopEnd {
        Slots::set_loop_thread();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| self.run_turns(clock))) {
            let message = panic_message(&*panic);
            self.failure = Some(message.clone());
            self.peers.common.input.note_lost(&self.slots.ledger);
            // As far as the defect lets it, every connection is closed and counted, and what was
            // parsed is delivered.
            let closed = catch_unwind(AssertUnwindSafe(|| self.fail(clock.now(), message)));
            if closed.is_err() {
                return LoopEnd {
                    failure: self.failure,
                    ..LoopEnd::default()
                };
            }
        }
        self.end(clock.now())
    }

    fn run_turns(&mut self, clock: Clock) {
        while self.phase != Phase::Ended {
            if let Err(error) = self.poll(clock.now()) {
                self.fail(clock.now(), format!("poll failed: {error}"));
            }
            self.turn(clock.now());
        }
    }

    /// Waits for events, or until the next timer.
    pub(crate) fn poll(&mut self, now: Now) -> io::Result<()> {
        let mut timeout = self.timeout(now.tick);
        if timeout != Some(Duration::ZERO) {
            self.wake_receivers();
        }
        let polls = timeout != Some(Duration::ZERO) && self.idle.polls(now.instant);
        if polls {
            timeout = Some(Duration::ZERO);
        }
        if timeout != Some(Duration::ZERO) {
            self.slots.doorbell.prepare_sleep();
            // Whoever looked before this and saw us awake has put its work where we look now.
            if self.has_commands() {
                timeout = Some(Duration::ZERO);
            }
        }
        self.stop_is_due = self.is_to_stop();
        let result = self.net.poll(&mut self.events, timeout);
        self.slots.doorbell.awake();
        self.more_events = result?;
        if polls && self.events.is_empty() && !self.has_commands() {
            Idle::yield_now();
        }
        Ok(())
    }

    /// Does what there is to do, within the budgets of a turn.
    pub(crate) fn turn(&mut self, now: Now) {
        self.pending_wakes.begin_turn();
        if self.signals.failure.get().is_some() {
            self.fail(now, "another thread failed".to_owned());
        }
        self.handle_events();
        self.handle_commands(now);
        if self.stop_is_due && self.is_to_stop() {
            self.begin_stop(now);
        }
        if self.has_walks() {
            self.continue_rows(now);
            self.continue_cut(now);
        }
        self.timers
            .handle_changes(&mut self.peers.common.deadlines.wheel);
        self.push_waiting(now);
        self.look_around(now);
        self.peers.begin_turn(now.tick);
        self.run_actions(now);
        self.read_peers(now);
        self.accept_all(now);
        // With events left behind, some bytes that arrived in time are not read yet. The kernel
        // gives events in turn, so after as many polls as all connections need, everybody had one.
        self.timers_waited += 1;
        let waits = if self.more_events {
            self.timers_waited * EVENTS_PER_POLL <= self.streams.len()
        } else {
            self.timers_waited == 1 && self.is_late(now.tick)
        };
        if !waits {
            self.timers_waited = 0;
            self.fire_timers(now);
        }
        self.write_peers(now);
        self.run_actions(now);
        if self.pending_wakes.is_due(now.tick) {
            self.wake_receivers();
        }
        if self.moved > 0 {
            self.idle
                .handle_work(now.instant, std::mem::take(&mut self.moved));
        }
        if self.may_end() {
            self.phase = Phase::Ended;
        }
    }

    /// Whether a stop has nothing left to do. Connections may end before what they brought has
    /// found room with its subscribers, for which there is time until the deadline.
    fn may_end(&self) -> bool {
        if self.phase != Phase::Stopping || !self.peers.is_empty() || self.waits_for_dispatch() {
            return false;
        }
        let bounds = self.sink.bounds();
        if !self.drain_is_over && !bounds.is_empty() {
            bounds.wait_for_end();
        }
        self.drain_is_over || bounds.is_empty()
    }

    /// Whether timers are so late that the loop, or all of the process, stood still. That may have
    /// been after the poll, so the network is asked once more before anybody is judged.
    fn is_late(&self, now: Tick) -> bool {
        let next = self.peers.common.deadlines.wheel.next_expiry();
        next.is_some_and(|next| next.saturating_add(TIMERS_LATE_MS) < now)
    }

    fn timeout(&self, now: Tick) -> Option<Duration> {
        let accepts =
            !self.peers.common.told.has_events() && self.listeners.contains(&Accepting::Ready);
        let busy = self.peers.has_work() || accepts || self.more_events || self.has_walks();
        if busy || self.phase == Phase::Ended {
            return Some(Duration::ZERO);
        }
        let next = self.peers.common.deadlines.wheel.next_expiry()?;
        Some(Duration::from_millis(next.saturating_sub(now)))
    }

    /// Whether something is being made bit by bit, a bit in each turn.
    fn has_walks(&self) -> bool {
        !(self.cuts.is_empty() && self.row_walks.is_empty())
    }

    fn has_commands(&self) -> bool {
        self.slots.has_dirty()
            || self.slots.has_deferred()
            || self.peers.has_budget_again()
            || self.peers.has_news()
            || !self.commands.is_empty()
            || self.timers.has_changes()
            || (matches!(self.sink, Sink::Inline { .. }) && self.poke.is_set())
            || self.signals.failure.get().is_some()
            || self.is_to_stop()
            || (self.waits_for_dispatch() && self.has_room_for_next())
            || self.may_end()
    }

    fn handle_events(&mut self) {
        for event in self.events.drain(..) {
            match event {
                Event::Listener(index) => {
                    if let Some(listener @ Accepting::Idle) = self.listeners.get_mut(index) {
                        *listener = Accepting::Ready;
                    }
                }
                Event::Peer(peer, ready) => self.peers.handle_ready(peer, ready),
            }
        }
    }

    fn handle_commands(&mut self, now: Now) {
        for _ in 0..COMMANDS_PER_TURN.min(self.commands.len()) {
            let Ok(command) = self.commands.try_recv() else {
                return;
            };
            match command {
                // The caller may have given up waiting.
                Command::Peers(answer) if self.row_walks.len() < ROW_WALKS_MAX => {
                    self.row_walks.push_back((RowWalk::default(), answer));
                }
                Command::Peers(answer) => drop(answer),
                Command::Connect(link) => self.peers.handle_connect(now.tick, *link),
                Command::Disconnect(link) => self.peers.handle_disconnect(now.tick, link),
                Command::Resolved(link, addrs) => {
                    self.peers.handle_resolved(now.tick, link, addrs);
                }
                Command::Listen(id, listener, answer) => {
                    let result = self.add_listener(id, *listener);
                    if let Err(error) = &result {
                        log::warn!("listener {id} cannot be added: {error}");
                    }
                    drop(answer.try_send(result));
                }
                Command::Unlisten(id, answer) => drop(answer.try_send(self.remove_listener(id))),
                Command::Closed(answer) => drop(answer.try_send(self.peers.common.ended.rows())),
                Command::Cut(answer) if self.cuts.len() < CUTS_WAITING_MAX => {
                    self.cuts.push_back((CutWalk::default(), answer));
                }
                Command::Cut(answer) => drop(answer.try_send(None)),
                Command::Reconfigure(config, answer) => {
                    self.peers.reconfigure(now.tick, &config);
                    let _ = answer.try_send(());
                }
            }
        }
    }

    /// Makes some more rows of a list of connections, and hands it over after the last.
    fn continue_rows(&mut self, now: Now) {
        let Some((walk, _)) = self.row_walks.front_mut() else {
            return;
        };
        if self.peers.continue_rows(now.tick, walk) {
            if let Some((walk, answer)) = self.row_walks.pop_front() {
                // The caller may have given up waiting.
                drop(answer.try_send(walk.into_rows()));
            }
        }
    }

    /// Looks at some more peers. After the last, reads what the loop counts, and sends it on behind
    /// everything that was handed over.
    fn continue_cut(&mut self, now: Now) {
        let walked = self.cuts.front_mut();
        let walked = walked.map(|(walk, _)| self.peers.continue_cut(walk));
        let Some(Ok(true) | Err(_)) = walked else {
            return;
        };
        let Some((walk, answer)) = self.cuts.pop_front() else {
            return;
        };
        if walked.is_some_and(|walked| walked.is_err()) {
            // Whoever asked may have given up waiting.
            drop(answer.try_send(None));
            return;
        }
        let uptime = Duration::from_millis(now.tick);
        let handlers = self.peers.common.handling.rows();
        let waiting = self.waiting.as_ref().map(BlockRef::traffic);
        let at_loop = Box::new(LoopCut {
            shot: self.slots.ledger.snapshot_of_loop(uptime, handlers),
            waiting: waiting.unwrap_or_default(),
            peers: self.peers.finish_cut(walk),
        });
        self.sink.push_cut(CutMarker { at_loop, answer });
    }

    // ----- reading ---------------------------------------------------------------------------

    fn read_peers(&mut self, now: Now) {
        while !self.waits_for_dispatch() {
            let unparsed = self.peers.common.input.has_pieces_of();
            let Some(id) = unparsed.or_else(|| self.peers.poll_read()) else {
                break;
            };
            if unparsed.is_some() {
                self.parse_pieces(now);
            } else {
                self.read_peer(now, id);
            }
            if self.peers.common.handling.take_answered() {
                // Answers of a handler need not wait for the other peers' turn.
                self.write_peer(now, id);
            }
            self.run_actions(now);
        }
    }

    /// Wakes those who sleep and for whom the loop dispatched something.
    fn wake_receivers(&mut self) {
        if self.pending_wakes.take() && !self.sink.wake_receivers() {
            self.poke.poke();
        }
    }

    fn read_peer(&mut self, now: Now, id: PeerId) {
        let mut left = READ_PER_TURN_BYTES;
        while left > 0 && !self.waits_for_dispatch() {
            let Some(mut buffer) = self.peers.prepare_read(now.tick, id) else {
                return;
            };
            let Some(stream) = stream_of(&mut self.streams, id) else {
                return;
            };
            // The allowance is looked at between reads: one that it cut short would be taken for
            // the end of the input.
            let result = match buffer.slices() {
                Some((mut slices, count)) => self.net.read_vectored(stream, &mut slices[..count]),
                None => self.net.read(stream, &mut buffer.bytes, buffer.limit),
            };
            let count = *result.as_ref().unwrap_or(&0);
            self.moved += count;
            left = left.saturating_sub(count);
            let block = self.peers.handle_read(now, id, buffer, result);
            self.hand_over(now, block);
            self.parse_pieces(now);
            if count > BLOCK_COPIED_MAX {
                self.read_ahead.limit(|| self.peers.common.input.is_ahead());
            }
            if count == 0 {
                break;
            }
        }
        self.peers.continue_reading(id);
    }

    /// Parses what a vectored read brought, as far as it can be handed over.
    fn parse_pieces(&mut self, now: Now) {
        while self.peers.common.input.has_pieces_of().is_some() && !self.waits_for_dispatch() {
            let block = self.peers.handle_piece(now);
            self.hand_over(now, block);
        }
    }

    fn hand_over(&mut self, now: Now, block: Option<BlockRef>) {
        debug_assert!(self.waiting.is_none(), "nobody is read while a block waits");
        self.waiting = block;
        self.peers.common.input.note_handed_over();
        self.push_waiting(now);
        if self.pending_wakes.is_enough() {
            self.wake_receivers();
        }
    }

    /// Hands over what waits, in its order: the events that came before the block, the block, and
    /// the events behind it. If something finds no room, nobody is read, and somebody will ring.
    fn push_waiting(&mut self, now: Now) {
        if !self.waits_for_dispatch() {
            return;
        }
        if self.push_in_order(now) {
            self.peers.set_stalled(now.tick, false);
            return;
        }
        if self.peers.set_stalled(now.tick, true) && !self.has_room_for_next() {
            self.slots.ledger.dispatch_full.add(1);
        }
        self.sink.bounds().wait_for_room();
        if self.push_in_order(now) {
            self.peers.set_stalled(now.tick, false);
        }
    }

    /// False if something found no room.
    fn push_in_order(&mut self, now: Now) -> bool {
        while let Some(item) = self.next_item() {
            let is_block = matches!(item, Item::Block(_));
            let size = item.size();
            match self.sink.push(item, size <= BLOCK_COPIED_MAX) {
                Ok(woken) => {
                    // What was refused, or is the dispatcher's, is not the loop's to wake for.
                    if !woken {
                        self.pending_wakes.add(now.tick, size);
                    }
                    if is_block {
                        self.note_queue();
                    }
                }
                Err(PushError::Full(item)) => {
                    self.return_item(item);
                    return false;
                }
                Err(PushError::Dead) => self.fail(now, "the dispatcher ended".to_owned()),
            }
        }
        true
    }

    /// Takes out what is to be handed over next.
    fn next_item(&mut self) -> Option<Item> {
        if self.waiting.is_some() && !self.peers.common.told.has_events_ahead() {
            return self.waiting.take().map(Item::Block);
        }
        self.peers.common.told.poll()
    }

    fn return_item(&mut self, item: Item) {
        match item {
            Item::Block(block) => self.waiting = Some(block),
            Item::Event(_) | Item::Timer(_) => {
                self.peers
                    .common
                    .told
                    .put_back(item, self.waiting.is_some());
            }
            Item::Notice(_) | Item::Cut(_) | Item::Poke => {}
        }
    }

    /// Whether a block or an event waits to be handed over.
    fn waits_for_dispatch(&self) -> bool {
        self.waiting.is_some() || self.peers.common.told.has_events()
    }

    /// Whether what is to be handed over next has room now.
    fn has_room_for_next(&self) -> bool {
        let bounds = self.sink.bounds();
        match &self.waiting {
            Some(block) if !self.peers.common.told.has_events_ahead() => {
                bounds.has_room_for_block(block)
            }
            Some(_) | None => bounds.has_room_for_event(),
        }
    }

    /// Tells the dispatcher about requests. The end of a connection comes behind everything that
    /// was read of it.
    #[inline]
    fn push_notices(&mut self) {
        if self.peers.common.told.notice_count() > 0 {
            self.push_all_notices();
        }
    }

    #[cold]
    #[inline(never)]
    fn push_all_notices(&mut self) {
        for _ in 0..self.peers.common.told.notice_count() {
            let Some(notice) = self.peers.common.told.poll_notice() else {
                return;
            };
            let waiting = self.waiting.as_ref().map(|block| block.head().peer);
            let is_early = match notice {
                Notice::Closed { peer, .. } => waiting == Some(peer),
                Notice::Expire { .. } => false,
            };
            if is_early || !self.sink.push_notice(notice) {
                let now = self.peers.common.deadlines.wheel.now();
                self.peers.common.told.put_back_notice(
                    now,
                    notice,
                    &mut self.peers.common.deadlines,
                );
            }
        }
    }

    fn note_queue(&mut self) {
        let fill = self.slots.ledger.dispatch_queue.get();
        self.queue_max.messages = self.queue_max.messages.max(fill.messages);
        self.queue_max.bytes = self.queue_max.bytes.max(fill.bytes);
    }

    // ----- accepting -------------------------------------------------------------------------

    fn accept_all(&mut self, now: Now) {
        for index in 0..self.listeners.len() {
            if self.listeners[index] != Accepting::Ready {
                continue;
            }
            let mut skipped = 0;
            for _ in 0..ACCEPTS_PER_TURN {
                // Whoever comes is told of, so nobody comes while that finds no room.
                if self.peers.common.told.has_events() {
                    return;
                }
                match self.net.accept(index) {
                    Ok((stream, addr)) => {
                        self.backoffs[index] = ACCEPT_BACKOFF_MIN_MS;
                        self.handle_accepted(now, stream, addr);
                    }
                    Err(mut fault) => {
                        if let AcceptFault::Skip(error) = fault {
                            skipped += 1;
                            // A rule that lets nobody in is not one connection's fault: nothing
                            // gets better by trying again at once.
                            fault = if skipped < ACCEPTS_PER_TURN {
                                AcceptFault::Skip(error)
                            } else {
                                AcceptFault::Exhausted(error)
                            };
                        }
                        self.handle_accept_fault(now, index, fault);
                        if self.listeners[index] != Accepting::Ready {
                            break;
                        }
                    }
                }
            }
        }
    }

    fn handle_accepted(&mut self, now: Now, mut stream: N::Stream, addr: SocketAddr) {
        let Some(id) = self.peers.handle_accepted(now.tick, addr) else {
            self.net.close(stream, false);
            return;
        };
        let registered = self.net.register(&mut stream, id);
        self.keep_stream(id, stream);
        if let Err(error) = registered {
            let subject = Subject::Address(addr.ip());
            if let Some(suppressed) = self.log_limiter.allow(now.tick, "cannot register", subject) {
                log::warn!("peer {id} at {addr} cannot be registered: {error}{suppressed}");
            }
            self.peers.handle_failed(now.tick, id, CloseReason::Io);
        }
        self.run_actions(now);
    }

    fn handle_accept_fault(&mut self, now: Now, index: usize, fault: AcceptFault) {
        let ledger = &self.slots.ledger;
        match fault {
            AcceptFault::WouldBlock => self.listeners[index] = Accepting::Idle,
            AcceptFault::Skip(_) => ledger.accept_errors.add(1),
            AcceptFault::TurnedAway(error) => {
                self.peers.note_turned_away();
                self.handle_accept_fault(now, index, AcceptFault::Exhausted(error));
            }
            AcceptFault::Exhausted(error) => {
                ledger.accept_errors.add(1);
                let pause = self.backoffs[index];
                self.backoffs[index] = (pause * 2).min(ACCEPT_BACKOFF_MAX_MS);
                let subject = Subject::Listener(index);
                if let Some(suppressed) = self.log_limiter.allow(now.tick, "cannot accept", subject)
                {
                    log::warn!("cannot accept for {pause} ms: {error}{suppressed}");
                }
                self.listeners[index] = Accepting::Paused;
                self.peers
                    .common
                    .deadlines
                    .wheel
                    .insert(now.tick + pause, Timer::Accept(index));
            }
            AcceptFault::Dead(error) => {
                ledger.accept_errors.add(1);
                log::error!("listener {index} is dead: {error}");
                self.listeners[index] = Accepting::Closed;
            }
        }
    }

    // ----- writing ---------------------------------------------------------------------------

    fn write_peers(&mut self, now: Now) {
        // What was sent while this turn read goes out with it.
        self.peers.poll_late_output(now.tick);
        while let Some(id) = self.peers.poll_write() {
            self.write_peer(now, id);
            self.run_actions(now);
        }
    }

    fn write_peer(&mut self, now: Now, id: PeerId) {
        let mut left = WRITE_PER_TURN_BYTES;
        while left > 0 {
            let taken = if self.peers.offers_few(id) {
                self.write_slices::<SLICES_FEW>(now, id, left)
            } else {
                self.write_slices::<SLICES_PER_WRITE>(now, id, left)
            };
            let Some(taken) = taken else {
                return;
            };
            left = left.saturating_sub(taken);
        }
    }

    /// Offers up to `SLICES` slices to the kernel. `None` if there is nothing to offer, or not all
    /// of it was taken.
    fn write_slices<const SLICES: usize>(
        &mut self,
        now: Now,
        id: PeerId,
        left: usize,
    ) -> Option<usize> {
        let stream = stream_of(&mut self.streams, id)?;
        let mut slices = [IoSlice::new(&[]); SLICES];
        let filled = self.peers.fill_slices(id, &mut slices, left);
        if filled == 0 {
            return None;
        }
        let slices = &slices[..filled];
        let offered = slices.iter().map(|slice| slice.len()).sum();
        let result = self.net.write(stream, slices);
        let taken = self.peers.handle_written(now.tick, id, offered, result);
        self.moved += taken;
        (taken == offered).then_some(taken)
    }

    fn run_actions(&mut self, now: Now) {
        self.push_waiting(now);
        self.push_notices();
        while let Some(action) = self.peers.common.lists.poll_action() {
            match action {
                Action::Connect(id, addr) => self.connect(now, id, addr),
                Action::LookConnected(id) => self.look_connected(now, id),
                Action::Look { id, last } => {
                    if let Some(stream) = stream_of(&mut self.streams, id) {
                        let told = self.net.unacknowledged(stream, last);
                        self.peers.handle_unacknowledged(now.tick, id, last, told);
                    }
                    // Of an end it is told now: nothing is read while an event waits.
                    self.push_waiting(now);
                    self.push_notices();
                }
                Action::Shutdown(id) => {
                    if let Some(stream) = stream_of(&mut self.streams, id) {
                        // The peer may have reset the connection; reading will tell.
                        let _ = self.net.shutdown(stream);
                    }
                }
                Action::Settle(id) => {
                    self.settle(now, id);
                    // Its end is told now: nothing is read while an event waits.
                    self.push_waiting(now);
                    self.push_notices();
                }
                Action::Close { index, abort } => {
                    let place = self.streams.get_mut(index as usize);
                    if let Some(stream) = place.and_then(Option::take) {
                        self.net.close(stream, abort);
                    }
                }
            }
        }
    }

    /// Looks what is left unread of a connection before it is closed.
    fn settle(&mut self, now: Now, id: PeerId) {
        let mut unread = 0;
        if let Some(stream) = stream_of(&mut self.streams, id) {
            let net = &mut self.net;
            self.peers
                .handle_last_input(id, |buffer, limit| net.read_last(stream, buffer, limit));
            unread = net.unread(stream);
        }
        self.peers.handle_settled(now.tick, id, unread);
    }

    fn connect(&mut self, now: Now, id: PeerId, addr: SocketAddr) {
        match self.net.connect(addr, id) {
            Ok(stream) => self.keep_stream(id, stream),
            Err(error) => self.peers.handle_dial_failed(now.tick, id, &error),
        }
    }

    fn look_connected(&mut self, now: Now, id: PeerId) {
        let Some(stream) = stream_of(&mut self.streams, id) else {
            return;
        };
        match self.net.is_connected(stream) {
            Ok(true) => self.peers.handle_connected(now.tick, id),
            Ok(false) => {}
            Err(error) => self.peers.handle_dial_failed(now.tick, id, &error),
        }
    }

    fn keep_stream(&mut self, id: PeerId, stream: N::Stream) {
        let index = id.index() as usize;
        if self.streams.len() <= index {
            self.streams.resize_with(index + 1, || None);
        }
        debug_assert!(
            self.streams[index].is_none(),
            "the slot's last connection was closed"
        );
        self.streams[index] = Some(stream);
    }

    // ----- listeners that come and go --------------------------------------------------------

    /// Finds the listener a place, and says whether it was taken in.
    fn add_listener(&mut self, id: ListenerId, listener: Listener) -> io::Result<()> {
        if self.phase != Phase::Running {
            return Err(io::Error::other("the service stops"));
        }
        let vacant = self.listener_ids.iter().position(Option::is_none);
        let index = vacant.unwrap_or(self.listeners.len());
        self.net.add_listener(index, listener)?;
        if index == self.listeners.len() {
            self.listeners.push(Accepting::Closed);
            self.listener_ids.push(None);
            self.backoffs.push(ACCEPT_BACKOFF_MIN_MS);
        }
        self.listeners[index] = Accepting::Ready;
        self.listener_ids[index] = Some(id);
        self.backoffs[index] = ACCEPT_BACKOFF_MIN_MS;
        Ok(())
    }

    fn remove_listener(&mut self, id: ListenerId) -> bool {
        let place = self.listener_ids.iter().position(|one| *one == Some(id));
        let Some(index) = place else { return false };
        self.listener_ids[index] = None;
        self.listeners[index] = Accepting::Closed;
        self.net.remove_listener(index);
        true
    }

    // ----- timers, metrics, stop -------------------------------------------------------------

    fn fire_timers(&mut self, now: Now) {
        let mut allowance = TIMERS_PER_TURN;
        while let Some(timer) = self.peers.poll_timer(now.tick, &mut allowance) {
            match timer {
                Timer::Metrics => self.handle_metrics_tick(now.tick),
                Timer::User(timer) => {
                    let fired =
                        self.timers
                            .fire(now.tick, timer, &mut self.peers.common.deadlines.wheel);
                    if let Some(fired) = fired {
                        self.peers.common.told.push(Item::Timer(fired));
                    }
                }
                Timer::Accept(index) => {
                    if let Some(listener @ Accepting::Paused) = self.listeners.get_mut(index) {
                        *listener = Accepting::Ready;
                    }
                }
                Timer::StopDeadline => {
                    self.drain_is_over = true;
                    self.peers.end_stop(now.tick);
                    self.run_actions(now);
                    self.push_last();
                }
                Timer::Peer(_) | Timer::Link(_) | Timer::Budget | Timer::Notices => {}
            }
        }
    }

    fn handle_metrics_tick(&mut self, now: Tick) {
        self.note_queue();
        let max = std::mem::take(&mut self.queue_max);
        self.slots.ledger.dispatch_max.set(max);
        self.peers.handle_metrics_tick(now);
        self.poke.poke_tick();
        // Ticks that a pause of the process has swallowed are not made up for.
        self.metrics_next = (self.metrics_next + METRICS_TICK_MS).max(now + 1);
        self.peers
            .common
            .deadlines
            .wheel
            .insert(self.metrics_next, Timer::Metrics);
    }

    /// Does the dispatcher's looking around, where the loop is the dispatcher.
    fn look_around(&mut self, now: Now) {
        if let Sink::Inline {
            fan_out, on_tick, ..
        } = &mut self.sink
        {
            if self.poke.take() {
                fan_out.pump();
                if self.poke.take_tick() {
                    fan_out.trim();
                    // Caught here, where the connections can still be closed and counted.
                    if let Err(panic) = catch_unwind(AssertUnwindSafe(on_tick)) {
                        self.fail(now, panic_message(&*panic));
                    }
                }
            }
        }
    }

    /// Whether a stop was asked for that has not begun.
    fn is_to_stop(&self) -> bool {
        self.phase == Phase::Running && self.signals.stop.get().is_some()
    }

    fn begin_stop(&mut self, now: Now) {
        let order = self.signals.stop.get();
        let timeout = order.map_or(Duration::ZERO, |order| order.drain);
        self.phase = Phase::Stopping;
        self.slots.ledger.state.set(ServiceState::Stopping);
        self.listeners.fill(Accepting::Closed);
        self.net.close_listeners();
        let deadline = now.tick.saturating_add(ticks_of_timeout(timeout));
        self.peers.begin_stop(now.tick, deadline);
        self.run_actions(now);
    }

    /// Ends everything at once; subscribers get what was dispatched.
    fn fail(&mut self, now: Now, message: String) {
        if self.phase == Phase::Ended {
            return;
        }
        log::error!("the loop ends: {message}");
        self.failure = Some(message);
        self.phase = Phase::Ended;
        self.listeners.fill(Accepting::Closed);
        self.net.close_listeners();
        self.peers.abort_all(now.tick, CloseReason::Internal);
        self.run_actions(now);
    }

    /// Nothing that was parsed or told is lost here, even at the deadline of a stop.
    fn push_last(&mut self) {
        if let Sink::Inline { fan_out, .. } = &mut self.sink {
            for tries in 0..LAST_TRIES_MAX {
                if fan_out.refresh() {
                    break;
                }
                give_way(tries);
            }
        }
        while let Some(item) = self.next_item() {
            match &mut self.sink {
                Sink::Queue(queue) => {
                    queue.push_last(item);
                }
                Sink::Inline {
                    fan_out, bounds, ..
                } => {
                    dispatch_inline(fan_out, bounds, item);
                    fan_out.wake_receivers();
                }
            }
        }
    }

    fn end(mut self, now: Now) -> LoopEnd {
        // There may be something to wait for below.
        self.wake_receivers();
        self.run_actions(now);
        // Whoever holds a slot that a connection has to give back does so for a moment.
        for tries in 0..LAST_TRIES_MAX {
            if self.peers.is_empty() {
                break;
            }
            give_way(tries);
            self.peers.begin_turn(now.tick);
        }
        self.run_actions(now);
        self.push_last();
        self.push_notices();
        if let Sink::Inline { fan_out, .. } = &mut self.sink {
            fan_out.close();
        }
        LoopEnd {
            stop: self.peers.common.ended.take_stop().unwrap_or_default(),
            failure: self.failure,
        }
    }
}

/// The loop is over, and somebody else may have the processor.
fn give_way(tries: usize) {
    if tries < LAST_YIELDS_MAX {
        std::thread::yield_now();
    } else {
        std::thread::park_timeout(LAST_SLEEP);
    }
}

/// What the simulator looks at.
#[cfg(test)]
impl<N: Net> EventLoop<N> {
    pub(crate) fn has_ended(&self) -> bool {
        self.phase == Phase::Ended
    }

    /// Messages parsed and not yet given to the dispatcher.
    pub(crate) fn waiting_messages(&self) -> u64 {
        let head = self.waiting.as_ref().map(BlockRef::head);
        head.map_or(0, |head| u64::from(head.frames))
    }

    /// Whether nobody is read, because something found no room.
    pub(crate) fn holds_back(&self) -> bool {
        self.waits_for_dispatch()
    }

    pub(crate) fn peers(&mut self) -> &mut Peers {
        &mut self.peers
    }

    pub(crate) fn finish(self, now: Now) -> LoopEnd {
        self.end(now)
    }
}

impl Sink {
    fn bounds(&self) -> &QueueBounds {
        match self {
            Self::Queue(queue) => queue.bounds(),
            Self::Inline { bounds, .. } => bounds,
        }
    }

    /// False if there is no room for the notice now; somebody will ring.
    fn push_notice(&mut self, notice: Notice) -> bool {
        match self {
            Self::Queue(queue) => {
                let pushed = queue.push_item(Item::Notice(Box::new(notice)));
                let pushed = pushed.or_else(|item| {
                    queue.bounds().wait_for_room();
                    queue.push_item(item)
                });
                pushed.is_ok()
            }
            Self::Inline { fan_out, .. } => {
                fan_out.handle_notice(notice);
                true
            }
        }
    }

    /// A marker for which there is no place is given up.
    fn push_cut(&mut self, marker: CutMarker) {
        match self {
            Self::Queue(queue) => {
                if let Err(Item::Cut(marker)) = queue.push_item(Item::Cut(Box::new(marker))) {
                    marker.finish(None);
                }
            }
            Self::Inline { fan_out, .. } => fan_out.handle_cut(marker),
        }
    }

    /// As [`DispatchQueue::wake_receivers`].
    fn wake_receivers(&mut self) -> bool {
        match self {
            Self::Queue(queue) => queue.wake_receivers(),
            Self::Inline { fan_out, .. } => {
                fan_out.wake_receivers();
                true
            }
        }
    }

    /// Hands an item over, or dispatches it here; says whether its receivers were woken, which they
    /// are if it `wakes` or is the dispatcher's.
    fn push(&mut self, item: Item, wakes: bool) -> Result<bool, PushError> {
        match self {
            Self::Queue(queue) => {
                let item = match item {
                    Item::Block(block) => match queue.dispatch(block, wakes) {
                        Ok(()) => return Ok(wakes),
                        Err(block) => Item::Block(block),
                    },
                    Item::Event(_)
                    | Item::Timer(_)
                    | Item::Notice(_)
                    | Item::Cut(_)
                    | Item::Poke => item,
                };
                queue.push(item).map(|()| true)
            }
            Self::Inline {
                fan_out, bounds, ..
            } => {
                // With an outdated table a subscriber would miss what it may rely on: the item
                // waits for the next turn instead.
                if !bounds.has_room_for(&item) || !fan_out.refresh() {
                    return Err(PushError::Full(item));
                }
                dispatch_inline(fan_out, bounds, item);
                if wakes {
                    fan_out.wake_receivers();
                }
                Ok(wakes)
            }
        }
    }
}

fn dispatch_inline(fan_out: &mut FanOut, bounds: &QueueBounds, item: Item) {
    bounds.raise(&item);
    match item {
        Item::Block(block) => fan_out.dispatch_without_wake(block),
        Item::Event(event) => fan_out.dispatch_event(event),
        Item::Timer(timer) => fan_out.dispatch_timer(timer),
        Item::Notice(notice) => fan_out.handle_notice(*notice),
        Item::Cut(marker) => fan_out.handle_cut(*marker),
        Item::Poke => {}
    }
}

impl<N: Net> fmt::Debug for EventLoop<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventLoop")
            .field("phase", &self.phase)
            .field("listeners", &self.listeners)
            .field("waiting", &self.waiting)
            .field("has_work", &self.peers.has_work())
            .field("has_commands", &self.has_commands())
            .field("more_events", &self.more_events)
            .field("timers", &self.peers.common.deadlines.wheel)
            .finish_non_exhaustive()
    }
}

fn stream_of<S>(streams: &mut [Option<S>], id: PeerId) -> Option<&mut S> {
    streams.get_mut(id.index() as usize)?.as_mut()
}

const _: () = assert!(ACCEPT_BACKOFF_MIN_MS <= ACCEPT_BACKOFF_MAX_MS);
