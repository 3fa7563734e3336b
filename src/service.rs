//! The facade: start order, rollback, stop.

mod ending;

use std::{
    fmt, io,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, AtomicUsize},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::{
    block::MessageRef,
    budget::Budget,
    clock::{Clock, ticks_of_timeout},
    config::{Config, Dispatch},
    dispatch::{DispatchQueue, FanOut, OnTick, QueueBounds, Registry, Worker, panic_message},
    error::{ConfigError, HandlerError, MemoryError, ServiceFailure, StartError},
    event_loop::{EventLoop, LoopEnd, Sink},
    handle::{Command, FinalReport, Handle, Settings, Shard, Shared, is_of_a_service},
    host::{Host, Lowered},
    id::ListenerId,
    inline::Replier,
    ledger::{Ledger, ServiceState, Snapshot, StateCell, StopReport, Traffic},
    limits::{
        COMMANDS_MAX, DESCRIPTORS_PER_SHARD, DESCRIPTORS_RESERVED, LINKS_MAX, REFUSED_PEERS_MAX,
    },
    peer::Rules,
    peers::{Census, HandlerOptions, Handlers, NodeRegistry, PeerLimits, Peers},
    slots::{OutboxLimits, Slots},
    socket::{Listener, SocketOptions, Sockets, name_conflict, raise_descriptor_limit},
    threads::{Crew, run_on, warn_if_crowded},
};

use ending::{Ending, Running};

/// How long a service that is dropped while it runs may drain.
const DROP_DEADLINE: Duration = Duration::from_secs(1);
/// What a stop waits beyond its deadline for the threads to end.
const JOIN_MARGIN: Duration = Duration::from_secs(3);

/// A value that never exists: [`NetService::ended`] only ever disconnects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Never {}

/// The embedder's metrics callback.
type MetricsCallback = Box<dyn FnMut(&Snapshot) + Send>;

/// A networking core: one thread that owns all peers, and one that fans their messages out; or
/// several such pairs ([`Config::shards`]).
///
/// The service is begun and ended here; what happens in between goes through its
/// [`handle`](Self::handle). Subscribe, then start: then no message is missed. Several services in
/// one process know nothing of each other. A service installs no signal handlers and has no global
/// state.
///
/// # Examples
///
/// An echo server:
///
/// ```no_run
/// use nebnet::{Config, NetService, TypeFilter};
///
/// let mut service = NetService::new(Config::default())?;
/// let handle = service.handle();
/// let mut requests = handle.subscribe(TypeFilter::all())?;
/// service.start()?;
/// for request in &mut requests {
///     if let Err(error) = handle.reply(&request, request.payload()) {
///         eprintln!("{}: {error}", request.peer());
///     }
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct NetService {
    config: Config,
    /// What the host's limits on memory made of the budget.
    memory: Result<Option<Lowered>, MemoryError>,
    shared: Arc<Shared>,
    /// By shard.
    commands: Vec<Receiver<Command>>,
    on_metrics: Mutex<Option<MetricsCallback>>,
    /// By shard, until the start.
    handlers: Mutex<Vec<Handlers>>,
    addrs: Vec<SocketAddr>,
    threads: Threads,
    ended: Receiver<Never>,
    /// Held until the start, then by the threads: when all are gone, `ended` disconnects.
    running: Option<Sender<Never>>,
    ending: Arc<Ending>,
    /// A stop has waited for the threads in vain; a drop does not wait again.
    gave_up: bool,
}

#[derive(Debug, Default)]
struct Threads {
    dispatchers: Vec<JoinHandle<()>>,
    loops: Vec<JoinHandle<()>>,
}

impl NetService {
    /// Makes a service. Nothing is opened and no thread runs before [`start`](Self::start).
    ///
    /// # Errors
    ///
    /// The first problem of the configuration.
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        config.validate()?;
        let asked = config.clone();
        let mut config = config;
        let host = Host::this();
        let budget_max = host.budget_max(&config);
        let memory = host.fit(&mut config);
        let clock = Clock::start();
        let capacity = Traffic::new(
            config.dispatch_messages as u64,
            config.dispatch_bytes as u64,
        );
        let state = Arc::<StateCell>::default();
        let (slots, registry) = (
            make_slots(&config, capacity, &state, clock),
            Arc::new(Registry::for_shards(
                config.max_requests,
                shards_of(&config),
            )),
        );
        let handlers_of = |slots: &Arc<Slots>| {
            Handlers::new(Arc::clone(&slots.ledger), Arc::clone(&registry.requests))
        };
        let handlers = slots.iter().map(handlers_of).collect();
        let (shards, commands): (Vec<Shard>, Vec<Receiver<Command>>) = slots
            .into_iter()
            .map(|slots| {
                let (commands, receiver) = bounded(COMMANDS_MAX);
                (Shard { slots, commands }, receiver)
            })
            .unzip();
        let shared = Arc::new(Shared {
            shards: shards.into(),
            registry,
            state,
            clock,
            socket_options: SocketOptions {
                tcp_user_timeout_ms: u32::try_from(ticks_of_timeout(config.tcp_user_timeout))
                    .unwrap_or(u32::MAX),
                send_buffer: config.send_buffer,
                recv_buffer: config.recv_buffer,
                notsent_lowat: u32::try_from(config.notsent_lowat).unwrap_or(u32::MAX),
            },
            next_listener: AtomicU64::new(config.listen.len() as u64),
            next_link: AtomicU64::new(0),
            resolver: OnceLock::new(),
            timers: Arc::default(),
            signals: Arc::default(),
            threads: AtomicUsize::new(0),
            final_report: FinalReport::default(),
            settings: Mutex::new(Settings::new(asked, config.clone(), budget_max)),
        });
        let (running, ended) = bounded(0);
        Ok(Self {
            config,
            ending: Ending::new(Arc::clone(&shared)),
            memory,
            shared,
            commands,
            on_metrics: Mutex::default(),
            handlers: Mutex::new(handlers),
            addrs: Vec::new(),
            threads: Threads::default(),
            ended,
            running: Some(running),
            gave_up: false,
        })
    }

    /// Sets a callback that gets a snapshot once a second, on the dispatcher's thread (with
    /// [`Dispatch::Inline`] on the loop's; of several, the first one's). To be set before the
    /// start; the last one set counts. While it runs, nothing but small reads is dispatched there,
    /// so it should be short. [`Handle::balance`] cannot take a moment from there.
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
    /// [time limit](HandlerOptions::time_limit), and what exceeds it is counted and logged; nothing
    /// ends a handler that does not return. For other peers it may use a [`Handle`]:
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
    /// See [`HandlerError`]. There are at most 64 handlers. With several
    /// [`shards`](Config::shards) one handler would have to run on several threads at once, so each
    /// needs one of its own: [`handle_inline_each`](Self::handle_inline_each).
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
        handler: impl FnMut(MessageRef<'_>, &mut Replier<'_>) + Send + 'static,
    ) -> Result<(), HandlerError> {
        if self.running.is_none() {
            return Err(HandlerError::AlreadyStarted);
        }
        let mut handlers = self.handlers.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut **handlers {
            [only] => only.add(options, Box::new(handler)),
            several => Err(HandlerError::NeedsOneEach {
                shards: several.len(),
            }),
        }
    }

    /// As [`handle_inline`](Self::handle_inline), with a handler for each loop: `make` is called
    /// once for each of the [`shards`](Config::shards), with its number, and makes the handler that
    /// gets the messages of that loop's peers. To be set before the start.
    ///
    /// Handlers of different loops run at the same time, so what they share is to be shared
    /// without waiting. [`Snapshot::handlers`] has one row for all of them together. One that
    /// panics is removed from its own loop.
    ///
    /// # Errors
    ///
    /// See [`HandlerError`].
    ///
    /// # Examples
    ///
    /// ```
    /// use nebnet::{Config, HandlerOptions, MessageType, NetService};
    ///
    /// let service = NetService::new(Config::default().shards(2))?;
    /// let options = HandlerOptions::new(MessageType(7)).name("count");
    /// service.handle_inline_each(options, |shard| {
    ///     let mut count = 0_u64;
    ///     move |_, replier| {
    ///         count += 1;
    ///         let _ = replier.reply(format!("number {count} of loop {shard}"));
    ///     }
    /// })?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn handle_inline_each<H>(
        &self,
        options: HandlerOptions,
        mut make: impl FnMut(u8) -> H,
    ) -> Result<(), HandlerError>
    where
        H: FnMut(MessageRef<'_>, &mut Replier<'_>) + Send + 'static,
    {
        if self.running.is_none() {
            return Err(HandlerError::AlreadyStarted);
        }
        let mut handlers = self.handlers.lock().unwrap_or_else(PoisonError::into_inner);
        // What is wrong with it is so for every loop, and shows with the first.
        for (shard, handlers) in (0..).zip(handlers.iter_mut()) {
            handlers.add(options.clone(), Box::new(make(shard)))?;
        }
        Ok(())
    }

    /// Starts the service: first the dispatcher, then the event loops. If one cannot start, the
    /// dispatcher is stopped again and no thread is left.
    ///
    /// The soft limit of descriptors is raised to the hard one, and the limit of peers is lowered
    /// to it less 64, which the log says. So is a memory budget that was lowered for a limit of the
    /// host ([`Config::memory_budget`]).
    ///
    /// # Errors
    ///
    /// See [`StartError`]. A service starts once: after an error, or a stop, make a new one.
    pub fn start(&mut self) -> Result<(), StartError> {
        let ended = self.running.take().ok_or(StartError::AlreadyStarted)?;
        // Where nothing is left running, this is the last to go, and finishes the service.
        let running = Running::begin(&self.ending, ended);
        self.start_threads(&running)?;
        self.shared.state.set(ServiceState::Running);
        Ok(())
    }

    /// Addresses listened on, in the order of the configuration; empty before the start.
    #[must_use]
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.addrs.clone()
    }

    /// A handle: it subscribes, sends, connects, listens and asks, here and on other threads.
    ///
    /// There is one from the beginning. What it is told before the start takes effect then: a
    /// subscription that is made before misses no message. Cheap to make and to clone.
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
        self.shared.signals.failure.get().cloned()
    }

    /// Stops the service: accepts no more connections, delivers what was read, lets subscribers
    /// answer it, writes what was accepted for sending, says BYE to every peer, delivers what each
    /// still sends until it ends its side, and ends its threads. Takes no longer than `deadline`
    /// and a little; ends early when every peer has left. What the deadline cuts off is counted in
    /// the report.
    ///
    /// Subscriptions then yield what is left in their queues. While messages of a peer are there,
    /// or in batches that a subscriber keeps, its BYE is held back, for half of `deadline` at most:
    /// they might be answered. Those that are parked for a full subscriber
    /// ([`OverflowPolicy::Pause`](crate::OverflowPolicy::Pause)) wait for the deadline and are then
    /// discarded and counted.
    ///
    /// On a thread of a service (in an inline handler or a metrics callback), which may be this
    /// service's own, it asks for the stop and returns at once, with a report for which
    /// [`StopReport::is_final`] is false. So it does where a callback of the embedder has not
    /// returned 3 s after the deadline; subscribers have then found their end all the same.
    /// [`Handle::wait_stopped`] gives the final report.
    ///
    /// A second call returns the same report once there is a final one; until then it waits as the
    /// first one did, whose deadline stays. A drop stops with a deadline of 1 s.
    pub fn stop(&mut self, deadline: Duration) -> StopReport {
        if self.running.take().is_some() {
            // It never started.
            self.ending.finish();
        }
        self.shared.order_stop(deadline);
        let is_inside = is_of_a_service();
        let wait = if is_inside {
            Duration::ZERO
        } else {
            deadline.saturating_add(JOIN_MARGIN)
        };
        if let Some(report) = self.shared.final_report.wait(wait) {
            self.join();
            return report;
        }
        if !is_inside {
            self.gave_up = true;
            self.shared.state.set(ServiceState::Stopping);
            self.shared.registry.close();
            self.shared.timers.close();
        }
        self.shared.unfinished_report()
    }

    // ----- start -----------------------------------------------------------------------------

    fn start_threads(&mut self, running: &Running) -> Result<(), StartError> {
        if let Some(lowered) = self.memory.as_ref().map_err(Clone::clone)? {
            log::warn!("{lowered}");
        }
        let shards = shards_of(&self.config);
        self.look_at_places(shards)?;
        let mut sinks = Vec::new();
        let mut result = Ok(());
        for shard in 0..shards {
            match self.start_dispatcher(shard, running) {
                Ok(sink) => sinks.push(sink),
                Err(error) => {
                    result = Err(error);
                    break;
                }
            }
        }
        let loops = result.and_then(|()| self.make_loops(sinks));
        let result = loops.and_then(|loops| self.start_loops(loops, running));
        if result.is_err() {
            // The loops held the queues; without them the dispatchers come to their ends.
            self.shared.order_stop(Duration::ZERO);
            self.join();
        }
        result
    }

    /// Tries whether the threads can run where they are to.
    fn look_at_places(&self, shards: u8) -> Result<(), StartError> {
        let mut crews = vec![self.crew(Role::Loop)];
        if self.config.dispatch == Dispatch::Thread {
            crews.push(self.crew(Role::Dispatcher));
        }
        let mut places = Vec::new();
        for crew in crews {
            crew.try_cpus()?;
            places.extend((0..shards).map(|shard| crew.cpu(shard.into())));
        }
        warn_if_crowded(self.config.idle, &places);
        Ok(())
    }

    fn crew(&self, role: Role) -> Crew<'_> {
        let config = &self.config;
        let (role, setting, cpus) = match role {
            Role::Loop => ("loop", "loop_cpus", &config.loop_cpus),
            Role::Dispatcher => ("dispatch", "dispatcher_cpus", &config.dispatcher_cpus),
        };
        Crew {
            prefix: &config.thread_name,
            role,
            setting,
            cpus,
        }
    }

    fn start_dispatcher(&mut self, shard: u8, running: &Running) -> Result<Sink, StartError> {
        let shared = &self.shared;
        let slots = Arc::clone(&shared.shards[usize::from(shard)].slots);
        let registry = Arc::clone(&shared.registry);
        let poke = Arc::clone(registry.poke(shard));
        let on_tick = if shard == 0 {
            self.take_on_tick()
        } else {
            Box::new(|| {})
        };
        match self.config.dispatch {
            Dispatch::Inline => {
                let bounds = QueueBounds::new(Arc::clone(&slots.ledger));
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
                let (mut queue, items) = DispatchQueue::new(Arc::clone(&slots.ledger));
                let fan_out = FanOut::new(registry, slots, queue.bounds().clone());
                let mut worker = Worker::new(
                    items,
                    queue.make_direct(fan_out),
                    Arc::clone(&poke),
                    on_tick,
                    self.config.idle,
                    shared.clock,
                );
                poke.set_wake(queue.waker());
                let (running, shared) = (running.for_thread(), Arc::clone(shared));
                let thread = self.spawn(Role::Dispatcher, shard, move || {
                    if let Err(message) = &worker.run() {
                        fail(&shared, Role::Dispatcher, shard, message);
                        worker.abandon();
                    }
                    // With the callback, which may own anything.
                    let _ = catch_unwind(AssertUnwindSafe(|| drop(worker)));
                    drop(running);
                })?;
                self.threads.dispatchers.push(thread);
                Ok(Sink::Queue(queue))
            }
        }
    }

    /// Opens everything; whatever fails, nothing is left of it.
    fn make_loops(&mut self, sinks: Vec<Sink>) -> Result<Vec<EventLoop<Sockets>>, StartError> {
        let config = &self.config;
        let (options, shards) = (self.shared.socket_options, config.shards);
        let mut addrs = Vec::new();
        let mut by_shard: Vec<Vec<Listener>> = (0..shards).map(|_| Vec::new()).collect();
        for addr in &config.listen {
            let listeners = Listener::bind_each(*addr, options, shards);
            let listeners = listeners.map_err(|source| StartError::Listen {
                addr: *addr,
                source: name_conflict(source, *addr, &addrs),
            })?;
            addrs.extend(listeners.first().map(|listener| listener.addr));
            for (all, listener) in by_shard.iter_mut().zip(listeners) {
                all.push(listener);
            }
        }
        warn_if_public(&addrs, !config.accept_tokens.is_empty());
        let limits = PeerLimits {
            peers: peers_within_descriptors(config),
            ..PeerLimits::of(config)
        };
        let census = Arc::new(Census::new(limits));
        let all_slots = self.shared.shards.iter();
        let all_slots = all_slots.map(|shard| Arc::clone(&shard.slots)).collect();
        let node_registry = (shards > 1).then(|| Arc::new(NodeRegistry::new(all_slots)));
        let mut loops = Vec::new();
        for ((shard, sink), listeners) in (0..).zip(sinks).zip(by_shard) {
            let sockets = Sockets::new(listeners, options).map_err(StartError::Poller)?;
            let peers = self.make_peers(shard, limits);
            let peers = peers.shared_with(Arc::clone(&census), node_registry.clone());
            loops.push(self.make_loop(shard, sink, sockets, peers)?);
        }
        self.addrs = addrs;
        Ok(loops)
    }

    fn make_peers(&self, shard: u8, limits: PeerLimits) -> Peers {
        let slots = Arc::clone(&self.shared.shards[usize::from(shard)].slots);
        let now = self.shared.clock.now().tick;
        let mut peers = Peers::new(slots, Rules::of(&self.config), limits, now);
        let mut handlers = self.handlers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(handlers) = handlers.get_mut(usize::from(shard)) {
            peers.common.handling.set_handlers(handlers.take());
        }
        peers
    }

    fn make_loop(
        &self,
        shard: u8,
        sink: Sink,
        sockets: Sockets,
        peers: Peers,
    ) -> Result<EventLoop<Sockets>, StartError> {
        let shared = &self.shared;
        let slots = Arc::clone(&shared.shards[usize::from(shard)].slots);
        let waker = sockets.waker().map_err(StartError::Poller)?;
        slots.doorbell.set_bell(waker);
        // The embedder's timers are with the first loop.
        let timers = if shard == 0 {
            Arc::clone(&shared.timers)
        } else {
            Arc::default()
        };
        let count = self.config.listen.len() as u64;
        Ok(EventLoop::new(
            sockets,
            (0..count).map(ListenerId).collect(),
            peers,
            slots,
            sink,
            Arc::clone(shared.registry.poke(shard)),
            self.commands[usize::from(shard)].clone(),
            timers,
            Arc::clone(&shared.signals),
            self.config.idle,
            shared.clock.now().tick,
        ))
    }

    fn start_loops(
        &mut self,
        loops: Vec<EventLoop<Sockets>>,
        running: &Running,
    ) -> Result<(), StartError> {
        for (shard, event_loop) in (0..).zip(loops) {
            self.start_loop(shard, event_loop, running)?;
        }
        Ok(())
    }

    fn start_loop(
        &mut self,
        shard: u8,
        event_loop: EventLoop<Sockets>,
        running: &Running,
    ) -> Result<(), StartError> {
        let (running, shared) = (running.for_thread(), Arc::clone(&self.shared));
        let inline = self.config.dispatch == Dispatch::Inline;
        let thread = self.spawn(Role::Loop, shard, move || {
            let clock = shared.clock;
            let run = catch_unwind(AssertUnwindSafe(|| event_loop.run(clock)));
            let end = run.unwrap_or_else(|panic| LoopEnd {
                failure: Some(panic_message(&*panic)),
                ..LoopEnd::default()
            });
            shared.shards[usize::from(shard)].slots.end();
            if shard == 0 {
                shared.timers.close();
            }
            if inline {
                // No subscriber is to wait for messages that cannot come any more. A dispatcher
                // thread says so itself, after it has delivered what was queued.
                shared.registry.end_fan_out(shard);
            }
            if let Some(message) = &end.failure {
                fail(&shared, Role::Loop, shard, message);
            }
            running.ending().add(end);
            drop(running);
        })?;
        self.threads.loops.push(thread);
        Ok(())
    }

    /// Begins a thread of the service, where it is to run.
    fn spawn<T: Send + 'static>(
        &self,
        role: Role,
        shard: u8,
        run: impl FnOnce() -> T + Send + 'static,
    ) -> Result<JoinHandle<T>, StartError> {
        let (crew, index) = (self.crew(role), usize::from(shard));
        let (name, cpu) = (crew.name(index), crew.cpu(index));
        let place = move || {
            // It was tried before; where it was taken away meanwhile, the service is to run all the
            // same.
            if let Some((cpu, Err(error))) = cpu.map(|cpu| (cpu, run_on(cpu))) {
                log::warn!("cannot run on processor {cpu} any more: {error}");
            }
            run()
        };
        let thread = thread::Builder::new().name(name).spawn(place);
        thread.map_err(StartError::Thread)
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

    /// Waits until the threads are gone, which have done all they had to.
    fn join(&mut self) {
        let Threads { dispatchers, loops } = std::mem::take(&mut self.threads);
        if is_of_a_service() {
            // One of them may be this one, at its very end.
            return;
        }
        // The threads caught their panics; a join fails only if reporting one failed.
        for thread in loops.into_iter().chain(dispatchers) {
            let _ = thread.join();
        }
    }
}

impl Drop for NetService {
    fn drop(&mut self) {
        if !self.gave_up {
            let _ = self.stop(DROP_DEADLINE);
        }
    }
}

impl fmt::Debug for NetService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NetService")
            .field("state", &self.shared.state.get())
            .field("addrs", &self.addrs)
            .finish_non_exhaustive()
    }
}

/// What a thread of the service does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Loop,
    Dispatcher,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Loop => "nebnet-loop",
            Self::Dispatcher => "nebnet-dispatch",
        }
    }
}

/// Keeps the first failure, and has all loops end but the one that failed.
fn fail(shared: &Shared, role: Role, shard: u8, message: &str) {
    let (thread, message) = (role.name(), message.to_owned());
    // It may be the logger that panicked.
    let _ = catch_unwind(|| log::error!("thread {thread} of shard {shard} failed: {message}"));
    let after = shared.clock.elapsed();
    let _ = shared.signals.failure.set(ServiceFailure {
        thread,
        message,
        after,
    });
    shared.state.set(ServiceState::Failed);
    shared.end_lookups();
    shared.ring_all();
}

/// The number of loops, which was validated.
fn shards_of(config: &Config) -> u8 {
    u8::try_from(config.shards).unwrap_or(1)
}

/// The slots of each loop, on one budget.
fn make_slots(
    config: &Config,
    capacity: Traffic,
    state: &Arc<StateCell>,
    clock: Clock,
) -> Vec<Arc<Slots>> {
    let outbox = OutboxLimits {
        bytes: config.outbox_bytes as u64,
        messages: config.outbox_messages as u64,
        payload_size: config.max_payload,
    };
    // All connections may be with one loop.
    let count = config.max_peers + REFUSED_PEERS_MAX + LINKS_MAX;
    let mut all: Vec<Arc<Slots>> = Vec::new();
    let budgets = Budget::shares(config.memory_budget, shards_of(config));
    for (shard, budget) in (0..).zip(budgets) {
        let ledger = Arc::new(Ledger::of_shard(budget, Arc::clone(state), capacity));
        let slots = Slots::new(shard, count, outbox, ledger, clock)
            .outbox_full(config.outbox_full)
            .checksums(config.checksums);
        let slots = match all.first() {
            Some(first) => slots.shared_with(first),
            None => slots,
        };
        all.push(Arc::new(slots));
    }
    let bells = all.iter().map(|slots| {
        // The budget belongs to the slots, and is not to keep them.
        let slots = Arc::downgrade(slots);
        let ring = move || {
            if let Some(slots) = slots.upgrade() {
                slots.doorbell.ring();
            }
        };
        Box::new(ring) as Box<dyn Fn() + Send + Sync>
    });
    if let Some(first) = all.first() {
        first.ledger.budget.set_bells(bells.collect());
    }
    all
}

/// The limit of peers, lowered to what the process may open.
fn peers_within_descriptors(config: &Config) -> usize {
    let peers = config.max_peers;
    let more = (config.shards - 1) * (DESCRIPTORS_PER_SHARD + config.listen.len());
    let Some(limit) = raise_descriptor_limit() else {
        return peers;
    };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let room = limit.saturating_sub(DESCRIPTORS_RESERVED + more).max(1);
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
