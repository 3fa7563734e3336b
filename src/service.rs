//! The facade: start order, rollback, stop.

use std::{
    collections::hash_map::RandomState,
    fmt,
    hash::{BuildHasher as _, Hasher as _},
    io,
    net::{SocketAddr, TcpListener},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::{
    balance::Balance,
    block::Message,
    clock::{Clock, ticks_of_timeout},
    config::{Config, Dispatch},
    dial::ConnectOptions,
    dispatch::{
        ChannelSubscription, DispatchQueue, EventOptions, EventSubscription, FanOut, OnTick,
        PendingReply, QueueBounds, Registry, Replies, SubscribeOptions, Subscription, Types,
        Worker, panic_message,
    },
    error::{
        ConfigError, ConnectError, HandlerError, ListenError, RequestError, SendError,
        ServiceFailure, StartError, SubscribeError, TimerError,
    },
    frame::{Decoder, Hello},
    handle::{Command, Counting, Handle, Listening, Outgoing, Payload, ReplyTo, Shared},
    id::{LinkId, ListenerId, MessageType, PeerId},
    inline::{InlineMessage, Replier},
    ledger::{Ledger, ServiceState, Snapshot, StopReport, Traffic},
    limits::{COMMANDS_MAX, DESCRIPTORS_RESERVED, DRAIN_MS, LINKS_MAX, REFUSED_PEERS_MAX},
    node::{LoopEnd, Node, Sink},
    peer::Rules,
    peers::{HandlerOptions, Handlers, PeerLimits, Peers},
    slots::{BroadcastReport, OutboxLimits, Recipients, Slots},
    socket::{Listener, SocketOptions, Sockets, raise_descriptor_limit},
    threads::{Crew, run_on, warn_if_crowded},
    timers::Timers,
};

/// How long a service that is dropped while it runs may drain.
const DROP_DEADLINE: Duration = Duration::from_secs(1);
/// What a stop waits beyond its deadline for the threads to end.
const JOIN_MARGIN: Duration = Duration::from_secs(3);

/// A value that never exists: [`NetService::ended`] only ever disconnects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Never {}

/// The embedder's metrics callback.
type MetricsCallback = Box<dyn FnMut(&Snapshot) + Send>;

/// A networking core: one thread that owns all peers, and one that fans their messages out.
///
/// Subscribe, then start: then no message is missed. Several services in one process know nothing
/// of each other. A service installs no signal handlers and has no global state.
///
/// # Examples
///
/// An echo server:
///
/// ```no_run
/// use nebnet::{Config, NetService, Types};
///
/// let mut service = NetService::new(Config::default())?;
/// let mut requests = service.subscribe(Types::all())?;
/// service.start()?;
/// for request in &mut requests {
///     if let Err(error) = service.reply(&request, request.payload()) {
///         eprintln!("{}: {error}", request.peer());
///     }
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct NetService {
    config: Config,
    shared: Arc<Shared>,
    commands: Receiver<Command>,
    on_metrics: Mutex<Option<MetricsCallback>>,
    /// Until the start.
    handlers: Mutex<Handlers>,
    addrs: Vec<SocketAddr>,
    threads: Threads,
    ended: Receiver<Never>,
    /// Held until the start, then by the threads: when all are gone, `ended` disconnects.
    running: Option<Sender<Never>>,
    report: Option<StopReport>,
}

#[derive(Debug, Default)]
struct Threads {
    dispatcher: Option<JoinHandle<Result<(), String>>>,
    node: Option<JoinHandle<LoopEnd>>,
}

impl NetService {
    /// Makes a service. Nothing is opened and no thread runs before [`start`](Self::start).
    ///
    /// # Errors
    ///
    /// The first problem of the configuration.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        config.validate()?;
        let clock = Clock::start();
        let capacity = Traffic::new(
            config.dispatch_messages as u64,
            config.dispatch_bytes as u64,
        );
        let ledger = Arc::new(Ledger::new(config.memory_budget, capacity));
        let outbox = OutboxLimits {
            bytes: config.outbox_bytes as u64,
            messages: config.outbox_messages as u64,
            payload_size: config.max_payload,
        };
        let count = config.max_peers + REFUSED_PEERS_MAX + LINKS_MAX;
        let slots = Slots::new(0, count, outbox, Arc::clone(&ledger), clock);
        let slots = slots.outbox_full(config.outbox_full);
        let slots = Arc::new(slots.checksums(config.checksums));
        let (sender, commands) = bounded(COMMANDS_MAX);
        let registry = Arc::new(Registry::new(config.max_requests));
        let handlers = Handlers::new(Arc::clone(&ledger), Arc::clone(&registry.requests));
        let shared = Arc::new(Shared {
            slots,
            registry,
            ledger,
            clock,
            commands: sender,
            socket_options: SocketOptions {
                tcp_user_timeout_ms: u32::try_from(ticks_of_timeout(config.tcp_user_timeout))
                    .unwrap_or(u32::MAX),
                send_buffer: config.send_buffer,
                recv_buffer: config.recv_buffer,
            },
            next_listener: AtomicU64::new(config.listen.len() as u64),
            next_link: AtomicU64::new(0),
            resolver: Mutex::default(),
            timers: Arc::default(),
            failure: Arc::default(),
            threads: AtomicUsize::new(0),
        });
        let (running, ended) = bounded(0);
        Ok(Self {
            config,
            shared,
            commands,
            on_metrics: Mutex::default(),
            handlers: Mutex::new(handlers),
            addrs: Vec::new(),
            threads: Threads::default(),
            ended,
            running: Some(running),
            report: None,
        })
    }

    /// Sets a callback that gets a snapshot once a second, on the dispatcher's thread (with
    /// [`Dispatch::Inline`] on the loop's). To be set before the start; the last one set counts.
    /// While it runs, nothing is dispatched, so it should be short. [`Handle::balance`] cannot take
    /// a moment from there.
    pub fn on_metrics(&self, callback: impl FnMut(&Snapshot) + Send + 'static) {
        let mut place = self
            .on_metrics
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *place = Some(Box::new(callback));
    }

    /// Has messages of some types handled on the loop's own thread, with the answer in hand: the
    /// shortest way from a peer to the application and back. To be set before the start.
    ///
    /// The messages go to the handler *instead of* the subscribers, in the order in which the peer
    /// sent them. They run ahead of messages of other types, which are dispatched when all that
    /// came in the same read is handled. What a handler took is released at once; its answers count
    /// against the peer's credit like any that wait, so a peer that does not take them is not read
    /// on.
    ///
    /// The duties of a handler: while it runs, no peer is read or written and no timer fires, so it
    /// must be short, and must never wait for anything: not for a lock that others hold for long,
    /// not for a channel, not for I/O. Each call is measured against the
    /// [budget](HandlerOptions::budget), and what exceeds it is counted and logged; nothing ends a
    /// handler that does not return. For other peers it may use a [`Handle`]:
    /// [`Handle::send_timeout`] and [`Handle::peers`] do not wait on the loop's thread, and answer
    /// as if the time were over.
    ///
    /// A handler that panics is removed: the panic is caught, counted and logged, the message in
    /// which it happened counts as handled, and those that follow, of the same read too, go to the
    /// subscribers as if there had never been a handler. [`Snapshot::handlers`] has a row for each.
    ///
    /// All handlers together cost 200 KiB, and nothing for each message but their own time.
    ///
    /// # Errors
    ///
    /// See [`HandlerError`]. There are at most 64 handlers.
    ///
    /// # Examples
    ///
    /// ```
    /// use nebnet::{Config, HandlerOptions, MessageType, NetService};
    ///
    /// let service = NetService::new(Config::default())?;
    /// let options = HandlerOptions::new(MessageType(7)).name("echo");
    /// service.handle_inline(options, |message, replier| {
    ///     // Refused answers are counted in the handler's row.
    ///     let _ = replier.reply(message.payload());
    /// })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn handle_inline(
        &self,
        options: HandlerOptions,
        handler: impl FnMut(InlineMessage<'_>, &mut Replier<'_>) + Send + 'static,
    ) -> Result<(), HandlerError> {
        if self.running.is_none() {
            return Err(HandlerError::AlreadyStarted);
        }
        let mut handlers = self.handlers.lock().unwrap_or_else(PoisonError::into_inner);
        handlers.add(options, Box::new(handler))
    }

    /// Starts the service: first the dispatcher, then the node. If the node cannot start, the
    /// dispatcher is stopped again and no thread is left.
    ///
    /// The soft limit of descriptors is raised to the hard one, and the limit of peers is lowered
    /// to it less 64, which the log says.
    ///
    /// # Errors
    ///
    /// See [`StartError`]. A service starts once: after an error, or a stop, make a new one.
    pub fn start(&mut self) -> Result<(), StartError> {
        let running = self.running.take().ok_or(StartError::AlreadyStarted)?;
        let result = self.start_threads(&running);
        match result {
            Ok(()) => self.shared.ledger.state.set(ServiceState::Running),
            Err(_) => {
                self.shared.ledger.state.set(ServiceState::Stopped);
                self.shared.registry.close();
                self.shared.timers.close();
            }
        }
        result
    }

    /// Addresses listened on, in the order of the configuration; empty before the start.
    #[must_use]
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.addrs.clone()
    }

    /// A handle for other threads.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle::new(Arc::clone(&self.shared))
    }

    /// A channel that never yields anything, and disconnects when the threads have ended: after a
    /// failure or a stop. For `select!` together with whatever else the embedder waits for.
    #[must_use]
    pub fn ended(&self) -> &Receiver<Never> {
        &self.ended
    }

    /// The defect that ended the service, if one did.
    #[must_use]
    pub fn failure(&self) -> Option<ServiceFailure> {
        self.shared.failure.get().cloned()
    }

    /// Stops the service: accepts and reads nothing more, delivers what was parsed, lets
    /// subscribers answer it, writes what was accepted for sending, says BYE to every peer, and
    /// ends both threads. Takes no longer than `deadline` and a little; ends early when nothing is
    /// left.
    ///
    /// Subscriptions then yield what is left in their queues. A subscriber that lets nothing go for
    /// 250 ms is not waited for, unless messages are parked for it
    /// ([`Overflow::Pause`](crate::Overflow::Pause)); those wait for the deadline and are then
    /// discarded and counted.
    ///
    /// A second call returns the same report.
    pub fn stop(&mut self, deadline: Duration) -> StopReport {
        if let Some(report) = &self.report {
            return report.clone();
        }
        let started = self.shared.clock.elapsed();
        self.running = None;
        if self.threads.node.is_some() {
            let command = Command::Stop(deadline);
            // The loop takes commands in every turn, so the queue has room soon.
            if self
                .shared
                .commands
                .send_timeout(command, deadline.saturating_add(JOIN_MARGIN))
                .is_ok()
            {
                self.shared.slots.doorbell.ring();
            }
        }
        let ended = self
            .ended
            .recv_timeout(deadline.saturating_add(JOIN_MARGIN));
        let joined = match ended {
            Err(RecvTimeoutError::Disconnected) => true,
            Err(RecvTimeoutError::Timeout) => false,
            Ok(never) => match never {},
        };
        let end = if joined {
            self.join()
        } else {
            LoopEnd::default()
        };
        self.shared.registry.close();
        self.shared.timers.close();
        self.shared.ledger.state.set(ServiceState::Stopped);
        let report = self.report_of(end, joined, started);
        self.report = Some(report.clone());
        report
    }

    /// As [`Handle::subscribe`].
    ///
    /// # Errors
    ///
    /// See [`SubscribeError`].
    pub fn subscribe(&self, types: impl Into<Types>) -> Result<Subscription, SubscribeError> {
        self.handle().subscribe(types)
    }

    /// As [`Handle::subscribe_with`].
    ///
    /// # Errors
    ///
    /// See [`SubscribeError`].
    pub fn subscribe_with(
        &self,
        options: SubscribeOptions,
    ) -> Result<Subscription, SubscribeError> {
        self.handle().subscribe_with(options)
    }

    /// As [`Handle::subscribe_sender`].
    ///
    /// # Errors
    ///
    /// See [`SubscribeError`].
    pub fn subscribe_sender(
        &self,
        options: SubscribeOptions,
        sender: Sender<Message>,
    ) -> Result<ChannelSubscription, SubscribeError> {
        self.handle().subscribe_sender(options, sender)
    }

    /// As [`Handle::subscribe_events`].
    ///
    /// # Errors
    ///
    /// See [`SubscribeError`].
    pub fn subscribe_events(
        &self,
        options: EventOptions,
    ) -> Result<EventSubscription, SubscribeError> {
        self.handle().subscribe_events(options)
    }

    /// As [`Handle::timers`].
    ///
    /// # Errors
    ///
    /// See [`TimerError`].
    pub fn timers(&self, capacity: usize) -> Result<Timers, TimerError> {
        self.handle().timers(capacity)
    }

    /// As [`Handle::send`].
    ///
    /// # Errors
    ///
    /// See [`SendError`].
    pub fn send<'a>(
        &self,
        peer: PeerId,
        message_type: MessageType,
        payload: impl Into<Payload<'a>>,
    ) -> Result<(), SendError> {
        self.handle().send(peer, message_type, payload)
    }

    /// As [`Handle::reply`].
    ///
    /// # Errors
    ///
    /// See [`SendError`].
    pub fn reply<'a>(
        &self,
        to: impl Into<ReplyTo>,
        payload: impl Into<Payload<'a>>,
    ) -> Result<(), SendError> {
        self.handle().reply(to, payload)
    }

    /// As [`Handle::broadcast`].
    pub fn broadcast<'a, 'b>(
        &self,
        message_type: MessageType,
        payload: impl Into<Payload<'a>>,
        to: impl Into<Recipients<'b>>,
    ) -> BroadcastReport {
        self.handle().broadcast(message_type, payload, to)
    }

    /// As [`Handle::broadcast_message`].
    pub fn broadcast_message<'b>(
        &self,
        message: &Outgoing<'_>,
        to: impl Into<Recipients<'b>>,
    ) -> BroadcastReport {
        self.handle().broadcast_message(message, to)
    }

    /// As [`Handle::connect`].
    ///
    /// # Errors
    ///
    /// See [`ConnectError`].
    pub fn connect(&self, target: impl Into<ConnectOptions>) -> Result<LinkId, ConnectError> {
        self.handle().connect(target)
    }

    /// As [`Handle::disconnect`].
    ///
    /// # Errors
    ///
    /// See [`ConnectError`].
    pub fn disconnect(&self, link: LinkId) -> Result<(), ConnectError> {
        self.handle().disconnect(link)
    }

    /// As [`Handle::listen`].
    ///
    /// # Errors
    ///
    /// See [`ListenError`].
    pub fn listen(&self, addr: SocketAddr) -> Result<Listening, ListenError> {
        self.handle().listen(addr)
    }

    /// As [`Handle::listen_from`].
    ///
    /// # Errors
    ///
    /// See [`ListenError`].
    pub fn listen_from(&self, socket: TcpListener) -> Result<Listening, ListenError> {
        self.handle().listen_from(socket)
    }

    /// As [`Handle::request`].
    ///
    /// # Errors
    ///
    /// See [`RequestError`].
    pub fn request<'a>(
        &self,
        peer: PeerId,
        message_type: MessageType,
        payload: impl Into<Payload<'a>>,
        timeout: Duration,
    ) -> Result<PendingReply, RequestError> {
        self.handle().request(peer, message_type, payload, timeout)
    }

    /// As [`Handle::replies`].
    #[must_use]
    pub fn replies(&self, capacity: usize) -> Replies {
        self.handle().replies(capacity)
    }

    /// As [`Handle::close`].
    #[must_use = "false says that the peer was not connected"]
    pub fn close(&self, peer: PeerId) -> bool {
        self.handle().close(peer)
    }

    /// As [`Handle::balance`].
    #[must_use]
    pub fn balance(&self) -> Balance {
        self.handle().balance()
    }

    /// As [`Handle::snapshot`].
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.shared.snapshot()
    }

    // ----- start -----------------------------------------------------------------------------

    fn start_threads(&mut self, running: &Sender<Never>) -> Result<(), StartError> {
        let mut places = vec![self.loops().cpu(0)];
        self.loops().try_cpus()?;
        if self.config.dispatch == Dispatch::Thread {
            places.push(self.dispatchers().cpu(0));
            self.dispatchers().try_cpus()?;
        }
        warn_if_crowded(self.config.idle, &places);
        let sink = self.start_dispatcher(running)?;
        let node = self.make_node(sink);
        let result = node.and_then(|node| self.start_node(node, running));
        if result.is_err() {
            // The node held the queue; without it the dispatcher comes to its end.
            if let Some(dispatcher) = self.threads.dispatcher.take() {
                let _ = dispatcher.join();
            }
        }
        result
    }

    fn loops(&self) -> Crew<'_> {
        Crew {
            prefix: &self.config.thread_name,
            role: "loop",
            setting: "loop_cpus",
            cpus: &self.config.loop_cpus,
        }
    }

    fn dispatchers(&self) -> Crew<'_> {
        Crew {
            role: "dispatch",
            setting: "dispatcher_cpus",
            cpus: &self.config.dispatcher_cpus,
            ..self.loops()
        }
    }

    fn start_dispatcher(&mut self, running: &Sender<Never>) -> Result<Sink, StartError> {
        let shared = &self.shared;
        let (slots, registry) = (Arc::clone(&shared.slots), Arc::clone(&shared.registry));
        let poke = Arc::clone(&registry.poke);
        let on_tick = self.take_on_tick();
        match self.config.dispatch {
            Dispatch::Inline => {
                let bounds = QueueBounds::new(Arc::clone(&shared.ledger));
                let doorbell = Arc::clone(&slots);
                poke.set_wake(move || doorbell.doorbell.ring());
                let fan_out = Box::new(FanOut::new(registry, slots, bounds.clone()));
                Ok(Sink::Inline {
                    fan_out,
                    bounds,
                    on_tick,
                })
            }
            Dispatch::Thread => {
                let (mut queue, items) = DispatchQueue::new(Arc::clone(&shared.ledger));
                let fan_out = FanOut::new(registry, slots, queue.bounds().clone());
                let mut worker = Worker::new(
                    items,
                    queue.set_desk(fan_out),
                    Arc::clone(&poke),
                    on_tick,
                    self.config.idle,
                    shared.clock,
                );
                poke.set_wake(queue.waker());
                let (running, shared) = (running.clone(), Arc::clone(shared));
                let counting = Counting::begin(&shared);
                let thread = spawn(self.dispatchers(), move || {
                    let result = worker.run();
                    if let Err(message) = &result {
                        fail(&shared, "nebnet-dispatch", message.clone());
                        worker.abandon();
                    }
                    drop(counting);
                    drop(running);
                    result
                })?;
                self.threads.dispatcher = Some(thread);
                Ok(Sink::Queue(queue))
            }
        }
    }

    fn make_node(&mut self, sink: Sink) -> Result<Node<Sockets>, StartError> {
        let config = &self.config;
        let options = self.shared.socket_options;
        let mut listeners = Vec::new();
        for addr in &config.listen {
            let listener = Listener::bind(*addr, options).map_err(|source| StartError::Listen {
                addr: *addr,
                source,
            })?;
            listeners.push(listener);
        }
        let addrs: Vec<SocketAddr> = listeners.iter().map(|listener| listener.addr).collect();
        warn_if_public(&addrs, !config.accept_tokens.is_empty());
        let sockets = Sockets::new(listeners, options).map_err(StartError::Poller)?;
        let waker = sockets.waker().map_err(StartError::Poller)?;
        self.shared.slots.doorbell.set_bell(waker);
        let now = self.shared.clock.now().tick;
        let limits = PeerLimits {
            peers: peers_within_descriptors(config.max_peers),
            peers_per_origin: config.max_peers_per_addr,
            pending: config.max_pending,
        };
        let slots = Arc::clone(&self.shared.slots);
        let mut peers = Peers::new(Arc::clone(&slots), rules_of(config), limits, now);
        let handlers = self
            .handlers
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        peers.set_handlers(handlers.take());
        let poke = Arc::clone(&self.shared.registry.poke);
        let commands = self.commands.clone();
        let timers = Arc::clone(&self.shared.timers);
        let failed = Arc::clone(&self.shared.failure);
        let count = addrs.len() as u64;
        let node = Node::new(
            sockets,
            (0..count).map(ListenerId).collect(),
            peers,
            slots,
            sink,
            poke,
            commands,
            timers,
            failed,
            config.idle,
            now,
        );
        self.addrs = addrs;
        Ok(node)
    }

    fn start_node(
        &mut self,
        node: Node<Sockets>,
        running: &Sender<Never>,
    ) -> Result<(), StartError> {
        let (running, shared) = (running.clone(), Arc::clone(&self.shared));
        let counting = Counting::begin(&shared);
        let inline = self.config.dispatch == Dispatch::Inline;
        let thread = spawn(self.loops(), move || {
            let clock = shared.clock;
            let run = catch_unwind(AssertUnwindSafe(|| node.run(clock)));
            let end = run.unwrap_or_else(|panic| LoopEnd {
                failure: Some(panic_message(&*panic)),
                ..LoopEnd::default()
            });
            shared.slots.end();
            shared.timers.close();
            if inline {
                // Nobody is to wait for messages that cannot come any more. A dispatcher thread
                // says so itself, after it has delivered what was queued.
                shared.registry.close();
            }
            if let Some(message) = &end.failure {
                fail(&shared, "nebnet-loop", message.clone());
            }
            drop(counting);
            drop(running);
            end
        })?;
        self.threads.node = Some(thread);
        Ok(())
    }

    fn take_on_tick(&self) -> OnTick {
        let mut place = self
            .on_metrics
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(mut callback) = place.take() else {
            return Box::new(|| {});
        };
        let shared = Arc::clone(&self.shared);
        Box::new(move || callback(&shared.snapshot()))
    }

    // ----- stop ------------------------------------------------------------------------------

    fn join(&mut self) -> LoopEnd {
        // The threads caught their panics; a join fails only if reporting one failed.
        let end = self
            .threads
            .node
            .take()
            .and_then(|thread| thread.join().ok());
        if let Some(thread) = self.threads.dispatcher.take() {
            let _ = thread.join();
        }
        end.unwrap_or_default()
    }

    fn report_of(&self, end: LoopEnd, joined: bool, started: Duration) -> StopReport {
        let snapshot = self.shared.snapshot();
        let failure = self.failure();
        // A subscriber that left before has thrown its messages away itself.
        let discarded = snapshot.subscribers.iter().any(|row| row.discarded > 0);
        let drained = joined
            && failure.is_none()
            && end.stop.closed_abortive == 0
            && end.stop.lost.is_empty()
            && !discarded;
        StopReport {
            drained,
            elapsed: self.shared.clock.elapsed().saturating_sub(started),
            failure,
            closed_orderly: end.stop.closed_orderly,
            closed_abortive: end.stop.closed_abortive,
            lost: end.stop.lost,
            joined,
            snapshot,
        }
    }
}

impl Drop for NetService {
    fn drop(&mut self) {
        if self.threads.node.is_some() && self.report.is_none() {
            let _ = self.stop(DROP_DEADLINE);
        }
    }
}

impl fmt::Debug for NetService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetService")
            .field("state", &self.shared.ledger.state.get())
            .field("addrs", &self.addrs)
            .finish_non_exhaustive()
    }
}

/// Keeps the first failure, and has the loop end if it was not its own.
fn fail(shared: &Shared, thread: &'static str, message: String) {
    // It may be the logger that panicked.
    let _ = catch_unwind(|| log::error!("thread {thread} failed: {message}"));
    let after = shared.clock.elapsed();
    let _ = shared.failure.set(ServiceFailure {
        thread,
        message,
        after,
    });
    shared.ledger.state.set(ServiceState::Failed);
    shared.slots.doorbell.ring();
}

fn spawn<T: Send + 'static>(
    crew: Crew<'_>,
    run: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>, StartError> {
    let (name, cpu) = (crew.name(0), crew.cpu(0));
    let place = move || {
        // It was tried before; whoever took it away meanwhile wants the service to run all the
        // same.
        if let Some((cpu, Err(error))) = cpu.map(|cpu| (cpu, run_on(cpu))) {
            log::warn!("cannot run on processor {cpu} any more: {error}");
        }
        run()
    };
    thread::Builder::new()
        .name(name)
        .spawn(place)
        .map_err(StartError::Thread)
}

fn rules_of(config: &Config) -> Rules {
    let hello = Hello {
        network_id: config.network_id,
        node_id: config.node_id.0,
        payload_size_max: config.max_payload,
        agent: &config.agent,
        token: config.token.bytes(),
        ..Hello::default()
    };
    // Whoever need not show a token is not shown ours.
    let checks_tokens = !config.accept_tokens.is_empty();
    let ok = Hello {
        token: if checks_tokens { hello.token } else { &[] },
        ..hello.clone()
    };
    Rules {
        decoder: Decoder::new(config.max_payload),
        first_frame_ms: ticks_of_timeout(config.first_frame_timeout),
        frame_ms: ticks_of_timeout(config.frame_timeout),
        idle_ms: ticks_of_timeout(config.idle_timeout),
        write_stall_ms: ticks_of_timeout(config.write_stall_timeout),
        drain_ms: DRAIN_MS,
        connect_ms: ticks_of_timeout(config.connect_timeout),
        heartbeat_ms: ticks_of_timeout(config.heartbeat_interval),
        heartbeat_timeout_ms: ticks_of_timeout(config.heartbeat_timeout),
        hello_required: config.require_hello || checks_tokens,
        checksums: config.checksums,
        network_id: config.network_id,
        node_id: config.node_id,
        tokens: config
            .accept_tokens
            .iter()
            .map(|token| token.bytes().to_vec())
            .collect(),
        hello_payload: hello.to_payload(),
        ok_payload: ok.to_payload(),
        reconnect_min_ms: ticks_of_timeout(config.reconnect_min),
        reconnect_max_ms: ticks_of_timeout(config.reconnect_max),
        // The standard library seeds its hashers from the system.
        seed: RandomState::new().build_hasher().finish(),
    }
}

/// The limit of peers, lowered to what the process may open.
fn peers_within_descriptors(peers: usize) -> usize {
    let Some(limit) = raise_descriptor_limit() else {
        return peers;
    };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let room = limit.saturating_sub(DESCRIPTORS_RESERVED).max(1);
    if peers > room {
        log::warn!("max_peers is lowered from {peers} to {room}: {limit} descriptors are allowed");
    }
    peers.min(room)
}

fn warn_if_public(addrs: &[SocketAddr], checks_tokens: bool) {
    if let Some(addr) = addrs.iter().find(|addr| !addr.ip().is_loopback()) {
        let lack = if checks_tokens {
            "not encrypted, and tokens are sent in clear"
        } else {
            "neither encrypted nor authenticated"
        };
        log::warn!("listening on {addr}: the link is {lack}");
    }
}

impl From<StartError> for io::Error {
    fn from(error: StartError) -> Self {
        Self::other(error)
    }
}
