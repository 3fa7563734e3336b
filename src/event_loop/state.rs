//! What the loop has: the network, its connections, listeners and timers, and what waits.

use std::{collections::VecDeque, sync::Arc};

use crossbeam_channel::{Receiver, Sender};

use super::sink::Sink;
use crate::{
    balance::CutAnswer,
    block::BlockRef,
    clock::Tick,
    dispatch::{PendingWakes, Poke},
    handle::{Command, Signals},
    id::{ListenerId, PeerId},
    idle::{Idle, IdleStrategy},
    ledger::{PeerRow, Traffic},
    limits::{ACCEPT_BACKOFF_MIN_MS, METRICS_TICK_MS},
    log_limiter::LogLimiter,
    peers::{CutWalk, Peers, RowWalk, Timer},
    read_ahead::ReadAhead,
    slots::Slots,
    socket::{Event, Net},
    timers::{TimerHub, TimerTable},
};

/// The loop thread's state.
pub(crate) struct EventLoop<N: Net> {
    pub(super) net: N,
    /// By the index of the peer.
    pub(super) streams: Vec<Option<N::Stream>>,
    pub(super) listeners: Vec<Accepting>,
    /// Their names; `None` is a place for another one.
    pub(super) listener_ids: Vec<Option<ListenerId>>,
    /// For each listener the next pause in milliseconds, should the system run out of something.
    pub(super) backoffs: Vec<u64>,
    pub(super) peers: Peers,
    pub(super) slots: Arc<Slots>,
    pub(super) sink: Sink,
    pub(super) poke: Arc<Poke>,
    pub(super) commands: Receiver<Command>,
    /// Cuts of the ledger: the one that is under way, and those that wait for its end.
    pub(super) cuts: VecDeque<(CutWalk, CutAnswer)>,
    /// Lists of connections that are being made, likewise.
    pub(super) row_walks: VecDeque<(RowWalk, Sender<Vec<PeerRow>>)>,
    pub(super) timers: TimerTable,
    pub(super) events: Vec<Event>,
    /// Whether the last poll may have left events behind.
    pub(super) more_events: bool,
    /// Turns in which timers waited for events that were left behind.
    pub(super) timers_waited: usize,
    /// The block that the dispatcher has no room for, or that waits for the events before it.
    /// Nothing is read while there is one, or while an event waits.
    pub(super) waiting: Option<BlockRef>,
    /// Maxima of the dispatch queue since the last metrics tick.
    pub(super) queue_max: Traffic,
    pub(super) metrics_next: Tick,
    pub(super) phase: Phase,
    /// A stop was asked for before the last poll, so all that had come by then is known.
    pub(super) stop_is_due: bool,
    /// The deadline of the stop has passed.
    pub(super) drain_is_over: bool,
    /// Whether another thread of the service has failed, or a stop was asked for.
    pub(super) signals: Arc<Signals>,
    /// What ended the loop itself.
    pub(super) failure: Option<String>,
    pub(super) log_limiter: LogLimiter,
    pub(super) idle: Idle,
    pub(super) read_ahead: ReadAhead,
    pub(super) pending_wakes: PendingWakes,
    /// Bytes moved in this turn, if any were.
    pub(super) moved: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Running,
    Stopping,
    Ended,
}

/// How a listener fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Accepting {
    /// An edge will tell.
    Idle,
    /// Connections wait, or may.
    Ready,
    /// The system ran out of something; a timer will tell.
    Paused,
    /// It will never work again, or the service stops.
    Closed,
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
}

pub(super) fn stream_of<S>(streams: &mut [Option<S>], id: PeerId) -> Option<&mut S> {
    streams.get_mut(id.index() as usize)?.as_mut()
}
