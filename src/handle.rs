//! What threads other than the loop hold: sends, closes, subscribes, asks.

mod batch;
mod reconfigure;
mod requests;
mod stopped;

use std::{
    fmt, io,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::{
    balance::{Balance, Cut, CutAnswer},
    block::Message,
    clock::Clock,
    config::Config,
    dial::{ConnectOptions, NewLink},
    dispatch::{
        ChannelSubscription, EventOptions, EventSubscription, Outlet, Registry, SubscribeOptions,
        Subscription, TypeFilter,
    },
    error::{ConnectError, ListenError, QueryError, SendError, SubscribeError, TimerError},
    frame::Frame,
    id::{LinkId, ListenerId, PeerId},
    ledger::{ClosedRow, DepartedRow, PeerRow, ServiceState, Snapshot, StateCell},
    limits::{CLOSED_ROWS_MAX, CUT_PAUSE_MAX_US, CUT_PAUSE_MIN_US, LINKS_MAX, PAYLOAD_COPIED_MAX},
    outgoing::{Outgoing, Payload, Rejected},
    resolve::{Resolved, Resolver},
    slots::{BroadcastReport, OutFrame, PeerInfo, Recipients, SharedFrame, Slots, never_waits},
    socket::{Listener, SocketOptions},
    threads::is_dispatcher,
    timers::{TimerHub, Timers},
};

pub use batch::{OutgoingBatch, ReplyTo};
pub(crate) use reconfigure::Settings;
pub(crate) use stopped::{FinalReport, Signals, is_of_a_service};

/// How long a question to the loop waits for the answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How often it is looked whether the loop has ended meanwhile.
const ANSWER_LOOK: Duration = Duration::from_millis(20);

/// What the loop is asked for, besides looking at slots.
#[derive(Debug)]
pub(crate) enum Command {
    Connect(Box<NewLink>),
    Disconnect(LinkId),
    Resolved(LinkId, Resolved),
    Listen(ListenerId, Box<Listener>, Sender<io::Result<()>>),
    Unlisten(ListenerId, Sender<bool>),
    Peers(Sender<Vec<PeerRow>>),
    Closed(Sender<Vec<ClosedRow>>),
    /// To begin a cut of the ledger.
    Cut(CutAnswer),
    Reconfigure(Arc<Config>, Sender<()>),
}

/// One loop with its dispatcher, as other threads reach it.
#[derive(Debug)]
pub(crate) struct Shard {
    pub(crate) slots: Arc<Slots>,
    pub(crate) commands: Sender<Command>,
}

/// What handles, service and threads share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// At least one.
    pub(crate) shards: Box<[Shard]>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) state: Arc<StateCell>,
    pub(crate) clock: Clock,
    pub(crate) socket_options: SocketOptions,
    pub(crate) next_listener: AtomicU64,
    pub(crate) next_link: AtomicU64,
    /// Made for the first link to a name.
    pub(crate) resolver: OnceLock<Resolver>,
    pub(crate) timers: Arc<TimerHub>,
    pub(crate) signals: Arc<Signals>,
    /// Threads of the service that run: while there are any, they count.
    pub(crate) threads: AtomicUsize,
    pub(crate) final_report: FinalReport,
    pub(crate) settings: Mutex<Settings>,
}

impl Shared {
    pub(crate) fn snapshot(&self) -> Snapshot {
        let (rows, departed) = (self.registry.rows(), self.registry.departed());
        let requests = self.registry.requests.row();
        let uptime = self.clock.elapsed();
        let first = self
            .first()
            .ledger
            .snapshot(uptime, rows, departed, requests);
        let mut sum = Snapshot {
            event_subscribers: self.registry.event_rows(),
            shards: vec![first.shard_row(0)],
            ..first
        };
        for shard in &self.shards[1..] {
            let (ledger, departed) = (&shard.slots.ledger, DepartedRow::default());
            let mut shot = ledger.snapshot(uptime, Vec::new(), departed, requests);
            shot.shards = vec![shot.shard_row(shard.slots.shard())];
            sum.add(shot);
        }
        sum
    }

    /// The first shard's: what all have in common can be asked of it.
    pub(crate) fn first(&self) -> &Arc<Slots> {
        &self.shards[0].slots
    }

    /// Where a connection is, if it is of any loop of ours.
    #[inline]
    fn slots_of(&self, peer: PeerId) -> Option<&Slots> {
        let shard = self.shards.get(usize::from(peer.shard()))?;
        Some(&shard.slots)
    }

    /// The loop that has a link.
    fn shard_of(&self, link: LinkId) -> &Shard {
        &self.shards[shard_of_link(link, self.shards.len())]
    }

    pub(crate) fn ring_all(&self) {
        let shards = self.shards.iter();
        shards.for_each(|shard| shard.slots.doorbell.ring());
    }
}

fn shard_of_link(link: LinkId, shards: usize) -> usize {
    usize::try_from(link.0 % shards as u64).unwrap_or(0)
}

impl Shard {
    /// Gives the loop a command, unless it has too many.
    fn try_command(&self, command: Command) -> Result<(), ()> {
        self.commands.try_send(command).map_err(|_| ())?;
        self.slots.doorbell.ring();
        Ok(())
    }

    /// The answer to a question that the loop was asked, if it comes before the time is over and
    /// the loop has not ended.
    fn answer<T>(&self, answer: &Receiver<T>, clock: Clock, deadline: Duration) -> Option<T> {
        loop {
            let left = deadline.saturating_sub(clock.elapsed());
            match answer.recv_timeout(left.min(ANSWER_LOOK)) {
                Ok(answer) => return Some(answer),
                Err(RecvTimeoutError::Disconnected) => return None,
                // An answer that was given before the end is there by now.
                Err(RecvTimeoutError::Timeout) if left.is_zero() || self.slots.has_ended() => {
                    return answer.try_recv().ok();
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

/// A service, for any thread: cheap to clone, `Send` and `Sync`.
///
/// A handle does not keep the service running. Before the start and after the stop nobody is
/// connected, and sending says so.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Subscribes to messages with the default options.
    ///
    /// Messages dispatched from now on are delivered; a subscriber sees a contiguous run of them.
    ///
    /// # Errors
    ///
    /// See [`SubscribeError`].
    pub fn subscribe(&self, types: impl Into<TypeFilter>) -> Result<Subscription, SubscribeError> {
        self.subscribe_with(SubscribeOptions::new(types))
    }

    /// Subscribes to messages, and, as the options say, to what becomes of peers and to timers, all
    /// through one queue.
    ///
    /// # Errors
    ///
    /// See [`SubscribeError`].
    pub fn subscribe_with(
        &self,
        options: SubscribeOptions,
    ) -> Result<Subscription, SubscribeError> {
        let (registry, slots) = (&self.shared.registry, self.shared.first());
        Subscription::subscribe(options, registry, slots, &self.shared.timers)
    }

    /// Subscribes a channel of the caller's, which gets the messages one by one, each by a
    /// `try_send`. The bounds in the options do not count; the channel's do. What it does not take
    /// is dropped and counted; with [`OverflowPolicy::Close`](crate::OverflowPolicy::Close) and
    /// [`OverflowPolicy::Unsubscribe`](crate::OverflowPolicy::Unsubscribe) so is the rest of what
    /// came with it.
    ///
    /// # Errors
    ///
    /// See [`SubscribeError`]; [`SubscribeError::NeedsOwnQueue`] for the other policies, which a
    /// channel that is not the service's cannot keep.
    ///
    /// # Examples
    ///
    /// ```
    /// use nebnet::{Config, MessageType, NetService, SubscribeOptions};
    ///
    /// let service = NetService::new(Config::default())?;
    /// let (sender, receiver) = crossbeam_channel::bounded(1024);
    /// let options = SubscribeOptions::new(MessageType(7));
    /// let first = service.handle().subscribe_sender(options, sender.clone())?;
    /// let options = SubscribeOptions::new(MessageType(9));
    /// let second = service.handle().subscribe_sender(options, sender)?;
    /// # let _ = (first, second, receiver);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn subscribe_sender(
        &self,
        options: SubscribeOptions,
        sender: Sender<Message>,
    ) -> Result<ChannelSubscription, SubscribeError> {
        let registry = Arc::clone(&self.shared.registry);
        let account = registry.add(options, Outlet::Messages(sender))?;
        Ok(ChannelSubscription::new(account, registry))
    }

    /// Subscribes to what becomes of peers, in order with their messages: see [`Event`].
    ///
    /// Events that come about from now on are delivered. Subscribed before the start, that is all
    /// of them; later, the first event of a peer may be any.
    ///
    /// # Errors
    ///
    /// See [`SubscribeError`].
    ///
    /// # Examples
    ///
    /// ```
    /// use nebnet::{Config, Event, EventOptions, NetService};
    /// use std::net::TcpStream;
    ///
    /// let config = Config::default().listen("127.0.0.1:0".parse()?);
    /// let mut service = NetService::new(config)?;
    /// let events = service.handle().subscribe_events(EventOptions::new())?;
    /// service.start()?;
    ///
    /// let client = TcpStream::connect(service.local_addrs()[0])?;
    /// let Event::Connected { peer, addr, .. } = events.recv()? else { panic!() };
    /// assert_eq!(addr, client.local_addr()?);
    /// drop(client);
    /// let Event::Closed(row) = events.recv()? else { panic!() };
    /// assert_eq!(row.peer, peer);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// [`Event`]: crate::Event
    pub fn subscribe_events(
        &self,
        options: EventOptions,
    ) -> Result<EventSubscription, SubscribeError> {
        let (registry, slots) = (&self.shared.registry, self.shared.first());
        EventSubscription::new(options, Arc::clone(registry), Arc::clone(slots))
    }

    /// Timers on the loop's wheel (of several loops, the first one's), and the queue that they
    /// expire into. `capacity` is how many there may be at a time: 1 to 2^20. A place that was used
    /// takes 150 bytes from then on, the others a quarter of a byte. A service has up to 256 such
    /// queues.
    ///
    /// # Errors
    ///
    /// See [`TimerError`].
    pub fn timers(&self, capacity: usize) -> Result<Timers, TimerError> {
        let (hub, slots) = (&self.shared.timers, self.shared.first());
        Timers::new(Arc::clone(hub), Arc::clone(slots), capacity)
    }

    /// Sends a message. Never waits for the peer.
    ///
    /// `Ok` means that it will be written, or counted as lost: with the reason of the close, or as
    /// dropped for a later message ([`OutboxFull::DropOldest`](crate::OutboxFull::DropOldest)).
    /// What is sent to a peer by one thread with one [`Priority`](crate::Priority) is written in
    /// that order. A borrowed payload is copied; an owned one above 4 KiB is not.
    ///
    /// # Errors
    ///
    /// [`Rejected`] gives the message back, with the [`SendError`].
    ///
    /// # Examples
    ///
    /// ```no_run
    /// use nebnet::{MessageType, Outgoing, Priority};
    ///
    /// # use nebnet::{Handle, PeerId, SendError};
    /// # fn example(handle: Handle, peer: PeerId) -> Result<(), SendError> {
    /// handle.send(peer, (MessageType(7), "101.5"))?;
    /// let urgent = Outgoing::new(MessageType(8), "cancel").priority(Priority::High);
    /// handle.send(peer, urgent)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn send<'a>(
        &self,
        peer: PeerId,
        message: impl Into<Outgoing<'a>>,
    ) -> Result<(), Rejected<'a>> {
        let message = message.into();
        self.try_send(peer, &message)
            .map_err(|error| Rejected { error, message })
    }

    /// Sends a message, and waits for room in the outbox no longer than `timeout`. On the loop's
    /// own thread it does not wait, because no other thread could make the room.
    ///
    /// # Errors
    ///
    /// [`Rejected`] with [`SendError::Full`] or [`SendError::OverBudget`] if there was no room in
    /// time, or with another [`SendError`] at once.
    pub fn send_timeout<'a>(
        &self,
        peer: PeerId,
        message: impl Into<Outgoing<'a>>,
        timeout: Duration,
    ) -> Result<(), Rejected<'a>> {
        let message = message.into();
        let slots = self.shared.slots_of(peer);
        let started = self.shared.clock.elapsed();
        let mut waiting = false;
        let mut full;
        let error = loop {
            match self.try_send(peer, &message) {
                Ok(()) => break None,
                Err(error) if error.is_full() => full = error,
                Err(error) => break Some(error),
            }
            let waited = self.shared.clock.elapsed().saturating_sub(started);
            let Some(left) = timeout.checked_sub(waited).filter(|left| !left.is_zero()) else {
                break Some(full);
            };
            if waiting {
                // The budget may have room without a word from the peer's slot.
                Slots::park(left.min(Duration::from_millis(10)));
            }
            // First registered, then tried again, so that no notice is missed.
            waiting = slots.is_some_and(|slots| slots.wait_for_room(peer));
            if !waiting {
                break Some(full);
            }
        };
        if let Some(slots) = slots.filter(|_| waiting) {
            slots.forget_waiter(peer);
        }
        error.map_or(Ok(()), |error| Err(Rejected { error, message }))
    }

    /// Answers a message: the same peer, type and correlation, and a checksum if it had one.
    ///
    /// A peer that said BYE and still reads, and one that is being closed, are answered until our
    /// own BYE is due, when sends of other messages are refused as [`SendError::Closing`] already.
    /// Behind that an answer is refused as `Closing` too, and counted in
    /// [`ClosedRow::unanswered`](crate::ClosedRow::unanswered).
    ///
    /// # Errors
    ///
    /// [`Rejected`] gives the answer back as a message, with the [`SendError`].
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # fn example(mut questions: nebnet::Subscription, handle: nebnet::Handle) {
    /// for question in &mut questions {
    ///     if let Err(error) = handle.reply(&question, b"yes") {
    ///         eprintln!("no answer for {}: {error}", question.peer());
    ///     }
    /// }
    /// # }
    /// ```
    pub fn reply<'a>(
        &self,
        to: impl Into<ReplyTo>,
        payload: impl Into<Payload<'a>>,
    ) -> Result<(), Rejected<'a>> {
        let to = to.into();
        let message = to.answer(payload);
        self.try_reply(to.peer(), &message)
            .map_err(|error| Rejected { error, message })
    }

    /// Sends a message to many peers. Never waits for any of them.
    ///
    /// It is encoded once and shared by all that wait for nothing else: 10,000 peers cost one copy
    /// of the payload. Each peer is decided about as [`send`](Self::send) would; for who gets it,
    /// the same holds. The call takes the lock of one peer at a time.
    ///
    /// The report's lists are allocated once each, for as many peers as there are to choose from;
    /// with several [`shards`](crate::Config::shards), once more for each of them. A type that
    /// cannot be sent, or a payload above the service's own limit, is refused for each peer.
    ///
    /// # Examples
    ///
    /// What one peer says goes to all others:
    ///
    /// ```no_run
    /// use nebnet::Recipients;
    ///
    /// # fn example(mut messages: nebnet::Subscription, handle: nebnet::Handle) {
    /// for message in &mut messages {
    ///     let others = Recipients::AllBut(message.peer());
    ///     let report = handle.broadcast((message.message_type(), message.payload()), others);
    ///     for (peer, error) in report.skipped {
    ///         eprintln!("{peer} is left out: {error}");
    ///     }
    /// }
    /// # }
    /// ```
    ///
    /// To those who have little to read yet:
    ///
    /// ```no_run
    /// use nebnet::{MessageType, Outgoing, Priority, Recipients};
    ///
    /// # fn example(handle: nebnet::Handle) {
    /// let quote = Outgoing::new(MessageType(7), b"101.5").priority(Priority::Low);
    /// let idle = Recipients::Matching(&|peer| peer.queued.messages < 10);
    /// let report = handle.broadcast(quote, idle);
    /// println!("{} peers got it", report.sent.len());
    /// # }
    /// ```
    pub fn broadcast<'a, 'b>(
        &self,
        message: impl Into<Outgoing<'a>>,
        to: impl Into<Recipients<'b>>,
    ) -> BroadcastReport {
        let message = &message.into();
        let frame = self
            .check(message)
            .map(|()| SharedFrame::new(&self.frame_of(message), message.priority));
        let frame = frame.as_ref().map_err(|error| *error);
        let to = to.into();
        match &*self.shared.shards {
            [only] => only.slots.broadcast(frame, to),
            shards => broadcast_to_all(shards, frame, to),
        }
    }

    /// Sends all messages of a batch to one peer, or none: one lock for all of them. On success the
    /// batch is empty and can be filled again.
    ///
    /// With [`Config::checksums`](crate::Config::checksums) or [`ConnectOptions::checksums`],
    /// messages of the batch that have none are encoded anew, also if the batch is refused then; to
    /// spare that, make them with their checksums.
    ///
    /// # Errors
    ///
    /// See [`SendError`]; the batch has the same messages as before. A batch above the outbox's
    /// limits never fits. A batch of replies alone is refused as `Closing` when a
    /// [`reply`](Self::reply) would be, any other one when a [`send`](Self::send) would be.
    pub fn send_batch(&self, peer: PeerId, batch: &mut OutgoingBatch) -> Result<(), SendError> {
        let slots = self.shared.slots_of(peer);
        let slots = slots.ok_or(SendError::NotConnected)?;
        slots.send_batch(peer, batch.priority, &mut batch.frames)
    }

    /// Closes a connection in order, within the drain time of 5 s. From now on sends to it are
    /// refused as [`SendError::Closing`]; what was read before may still be answered
    /// ([`reply`](Self::reply)). Once that was released by its subscribers and everything accepted
    /// is written, after half the drain time at the latest, BYE with
    /// [`CloseReason::AppClosed`](crate::CloseReason::AppClosed) and FIN go out. What the peer
    /// sends until its own end is delivered, and no longer answered. False if there is no such
    /// connection.
    #[must_use = "false says that the peer was not connected"]
    pub fn close(&self, peer: PeerId) -> bool {
        let slots = self.shared.slots_of(peer);
        slots.is_some_and(|slots| slots.ask_close(peer))
    }

    /// Connects to a service. Returns at once: what becomes of it is told by events
    /// ([`Event::Connected`](crate::Event::Connected) with this link, or
    /// [`Event::DialFailed`](crate::Event::DialFailed)), so
    /// subscribe to events first.
    ///
    /// The link ends with its first failure or with its connection, unless it is
    /// [kept](ConnectOptions::keep_connected). [`disconnect`](Self::disconnect) gives it up, and so
    /// does [`close`](Self::close) of its connection. Before the start of the service it waits for
    /// it.
    ///
    /// A name is looked up anew for each attempt: 8 names at a time, each by a thread that ends
    /// when none waits, and up to 256 that wait. An attempt waits for it as long as the connect
    /// timeout says; then, and where the lookup fails, the addresses that the link knew last are
    /// tried, or the attempt has failed. What is answered later is used for the next one. No lookup
    /// begins once a stop was asked for; one that hangs in the system is not waited for.
    ///
    /// A service may have 4,096 links, besides the peers that it accepts, and their descriptors are
    /// not among those that the limit of peers is lowered for.
    ///
    /// # Errors
    ///
    /// See [`ConnectError`]; no event follows.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # fn example(handle: nebnet::Handle) -> Result<(), Box<dyn std::error::Error>> {
    /// use nebnet::ConnectOptions;
    ///
    /// let link = handle.connect(ConnectOptions::from("gateway:8680").keep_connected(true))?;
    /// // Later, for good:
    /// handle.disconnect(link)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn connect(&self, target: impl Into<ConnectOptions>) -> Result<LinkId, ConnectError> {
        let mut options = target.into();
        let is_name = options.check()?;
        if self.has_ended() {
            return Err(ConnectError::Stopped);
        }
        let resolver = is_name.then(|| self.resolver());
        let links = &self.shared.first().links;
        let taken = links.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| {
            (count < LINKS_MAX).then_some(count + 1)
        });
        if taken.is_err() {
            return Err(ConnectError::TooManyLinks { limit: LINKS_MAX });
        }
        let id = LinkId(self.shared.next_link.fetch_add(1, Ordering::Relaxed));
        let link = Box::new(NewLink::new(id, options, resolver));
        let asked = self.shared.shard_of(id).try_command(Command::Connect(link));
        if asked.is_err() {
            links.fetch_sub(1, Ordering::Relaxed);
            return Err(ConnectError::Busy);
        }
        Ok(id)
    }

    /// Gives a link up: nothing connects any more, and a connection that it has is closed in order
    /// with [`CloseReason::AppClosed`](crate::CloseReason::AppClosed). Nothing happens if the link
    /// has ended.
    ///
    /// # Errors
    ///
    /// [`ConnectError::Busy`] or [`ConnectError::Stopped`].
    pub fn disconnect(&self, link: LinkId) -> Result<(), ConnectError> {
        if self.has_ended() {
            return Err(ConnectError::Stopped);
        }
        let shard = self.shared.shard_of(link);
        let asked = shard.try_command(Command::Disconnect(link));
        asked.map_err(|()| ConnectError::Busy)
    }

    /// Listens on one more address; port 0 picks a free one, which the answer names. Before the
    /// start of the service connections wait for it.
    ///
    /// # Errors
    ///
    /// See [`ListenError`]; there may be 64 listeners.
    pub fn listen(&self, addr: SocketAddr) -> Result<ListenerInfo, ListenError> {
        let (options, shards) = (self.shared.socket_options, self.shared.shards.len());
        let listeners = Listener::bind_each(addr, options, shards);
        self.add_listeners(listeners.map_err(ListenError::Io)?)
    }

    /// Takes over a socket that listens already: one that a supervisor has opened, or that survived
    /// a restart. Its options are set as for the others; its backlog stays what it is.
    ///
    /// With several [`shards`](crate::Config::shards) all of them accept from this one socket, and
    /// its connections go to whichever loop comes first rather than evenly to all. The descriptor
    /// is duplicated for each.
    ///
    /// # Errors
    ///
    /// [`ListenError::NotListening`] if the descriptor is anything but a TCP socket that listens,
    /// and the others of [`ListenError`]. The descriptor is closed then.
    pub fn listen_from(&self, socket: TcpListener) -> Result<ListenerInfo, ListenError> {
        let (options, shards) = (self.shared.socket_options, self.shared.shards.len());
        let listeners = Listener::adopt_each(socket, options, shards);
        self.add_listeners(listeners?)
    }

    /// Closes a listener; connections that it has accepted stay. `Ok(false)` if there is none of
    /// this id.
    ///
    /// # Errors
    ///
    /// See [`QueryError`]. After [`QueryError::Timeout`] it is closed as soon as the loop comes to
    /// it.
    pub fn unlisten(&self, listener: ListenerId) -> Result<bool, QueryError> {
        let closed = self.ask_all(|answer| Command::Unlisten(listener, answer))?;
        Ok(closed.into_iter().any(|closed| closed))
    }

    /// Gives each loop its listener; there is one for each.
    fn add_listeners(&self, listeners: Vec<Listener>) -> Result<ListenerInfo, ListenError> {
        let shared = &self.shared;
        let id = ListenerId(shared.next_listener.fetch_add(1, Ordering::Relaxed));
        if self.has_ended() {
            return Err(ListenError::Stopped);
        }
        let addr = listeners.first().ok_or(ListenError::Busy)?.addr;
        // There is no answer before the start, nor one of the loop to itself.
        let waits = shared.state.get() != ServiceState::New && !never_waits();
        let deadline = shared.clock.elapsed() + ANSWER_TIMEOUT;
        let mut answers = Vec::new();
        let mut result = Ok(ListenerInfo { id, addr });
        for (shard, listener) in shared.shards.iter().zip(listeners) {
            let (answer, answered) = bounded(1);
            let command = Command::Listen(id, Box::new(listener), answer);
            match shard.try_command(command) {
                Ok(()) => answers.push((shard, answered)),
                Err(()) => result = Err(ListenError::Busy),
            }
        }
        for (shard, answered) in answers.into_iter().filter(|_| waits) {
            let answer = shard.answer(&answered, shared.clock, deadline);
            match answer {
                Some(Ok(())) => {}
                Some(Err(error)) => result = Err(ListenError::Io(error)),
                None => result = Err(ListenError::Busy),
            }
        }
        if result.is_err() {
            // The loops that took a listener give it up again.
            for shard in &shared.shards {
                let _ = shard.try_command(Command::Unlisten(id, bounded(1).0));
            }
        }
        result
    }

    fn resolver(&self) -> Resolver {
        let make = || Resolver::new(self.answer_lookups());
        self.shared.resolver.get_or_init(make).clone()
    }

    /// Tells a link's loop what was found.
    fn answer_lookups(&self) -> impl Fn(LinkId, Resolved) + Send + Sync + 'static {
        let shards = self.shared.shards.iter();
        let shards: Vec<(Sender<Command>, Arc<Slots>)> = shards
            .map(|shard| (shard.commands.clone(), Arc::clone(&shard.slots)))
            .collect();
        move |link, resolved| {
            let (commands, slots) = &shards[shard_of_link(link, shards.len())];
            // The loop takes commands in every turn; one that has ended takes none, and needs none.
            let command = Command::Resolved(link, resolved);
            if commands.send_timeout(command, ANSWER_TIMEOUT).is_ok() {
                slots.doorbell.ring();
            }
        }
    }

    /// Has names looked up by a function, before the first link to a name.
    #[cfg(test)]
    pub(crate) fn resolve_by(&self, find: impl Fn(&str) -> Resolved + Send + Sync + 'static) {
        let resolver = Resolver::by(find, self.answer_lookups());
        let set = self.shared.resolver.set(resolver);
        set.expect("no link has a name yet");
    }

    /// What is known of a connection without asking the loop: the lock of its slot is taken for a
    /// moment. `None` if it is not there, or may not be sent to yet.
    #[must_use]
    pub fn peer(&self, peer: PeerId) -> Option<PeerInfo> {
        self.shared.slots_of(peer)?.info(peer)
    }

    /// The connections now; none before the start and after the stop. Asks the loops, and waits up
    /// to 5 s for their answers. A loop makes 512 rows in a turn, so the rows of more connections
    /// are not of one moment.
    ///
    /// # Errors
    ///
    /// [`QueryError::Timeout`]; [`QueryError::OwnThread`] in an inline handler and in a metrics
    /// callback with [`Dispatch::Inline`](crate::Dispatch::Inline).
    pub fn peers(&self) -> Result<Vec<PeerRow>, QueryError> {
        self.rows(Command::Peers)
    }

    /// The last 1,024 connections that ended, the latest last; those that different loops ended in
    /// the same millisecond are in no order. None before the start and after the stop: a
    /// [`StopReport`](crate::StopReport) has what the stop ended. Connections that were turned away
    /// without a place (64 beyond the limit of peers have one, to be told why) are counted and have
    /// no row.
    ///
    /// # Errors
    ///
    /// As [`peers`](Self::peers).
    pub fn recently_closed(&self) -> Result<Vec<ClosedRow>, QueryError> {
        let mut rows = self.rows(Command::Closed)?;
        if self.shared.shards.len() > 1 {
            rows.sort_by_key(|row: &ClosedRow| row.closed_at);
            rows.drain(..rows.len().saturating_sub(CLOSED_ROWS_MAX));
        }
        Ok(rows)
    }

    /// What all loops list; nothing, if they do not run.
    fn rows<T>(&self, question: impl Fn(Sender<Vec<T>>) -> Command) -> Result<Vec<T>, QueryError> {
        match self.ask_all(question) {
            Ok(rows) => Ok(rows.into_iter().flatten().collect()),
            Err(QueryError::NotRunning) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Holds the sums of the ledger against each other, also while the service runs: the terms are
    /// those of a **consistent cut**, and have to add up exactly.
    ///
    /// What is promised: for every sum, all terms are read as if at one moment. Different sums may
    /// be of moments that lie a little apart, but no message is seen in one that has not come about
    /// in another: what the dispatcher has dispatched is just what the loop had received. What has
    /// not arrived (in a socket, in a send that has not returned) is in none of them.
    ///
    /// What it costs while it is not asked: one atomic addition for each batch that a subscriber
    /// takes, and nothing for a message. A call costs the loop a lock and 200 bytes for each
    /// connection, and a look at each piece of output that waits for it: of up to 1,024 of these in
    /// one turn, whatever waits; a connection of many small pieces may pass that, up to 2^17. Then,
    /// in one turn, four additions for each connection, of up to 65,536
    /// ([`Balance::peers_left_out`] says who was not looked at). One cut ends in a turn, so others
    /// that ask wait for theirs. The marker waits its turn behind what is queued for dispatch.
    ///
    /// On a machine of two shared cores a call took 12 to 40 us (the first up to 150) with eight
    /// connections, whether nothing waited for them or 196,608 messages did, and 1.4 to 12 ms with
    /// 9,000.
    ///
    /// Waits up to 5 s for the answers, and tries again while somebody is in the middle of
    /// something, after pauses that grow from 50 us to 20 ms. If there is no answer, or this is a
    /// thread of a service, which would wait for itself (the loop's in an inline handler, the
    /// dispatcher's in a metrics callback), the counters are read one after the other:
    /// [`Balance::is_cut`] is then false, and so is [`Balance::is_exact`]. That is also so after a
    /// failure, until the threads have ended ([`NetService::ended`](crate::NetService::ended)).
    /// Before the start and after the stop, the counters stand still.
    #[must_use]
    pub fn balance(&self) -> Balance {
        let started = self.shared.clock.elapsed();
        let mut pause = Duration::from_micros(CUT_PAUSE_MIN_US);
        while !is_dispatcher() {
            let Ok(cuts) = self.ask_all(Command::Cut) else {
                break;
            };
            if let Some(cuts) = cuts.into_iter().collect::<Option<Vec<Cut>>>() {
                return Balance::of(cuts);
            }
            if self.shared.clock.elapsed().saturating_sub(started) > ANSWER_TIMEOUT {
                break;
            }
            // Another thread was in the middle of something.
            rest(pause);
            pause = (2 * pause).min(Duration::from_micros(CUT_PAUSE_MAX_US));
        }
        let is_still = || self.shared.threads.load(Ordering::Acquire) == 0;
        let was_still = is_still();
        let shot = self.shared.snapshot();
        // A service that failed is not over before its threads are.
        if was_still && is_still() {
            shot.balance()
        } else {
            Balance::torn(&shot)
        }
    }

    /// All counters now. Takes the lock of the list of subscribers, and none of the hot path.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.shared.snapshot()
    }

    fn try_reply(&self, peer: PeerId, message: &Outgoing<'_>) -> Result<(), SendError> {
        let owned = self.payload_of(message)?;
        let frame = self.frame_of(message);
        let slots = self.shared.slots_of(peer);
        let slots = slots.ok_or(SendError::NotConnected)?;
        slots.send_reply(peer, OutFrame { frame, owned })
    }

    fn try_send(&self, peer: PeerId, message: &Outgoing<'_>) -> Result<(), SendError> {
        let owned = self.payload_of(message)?;
        let frame = self.frame_of(message);
        let slots = self.shared.slots_of(peer);
        let slots = slots.ok_or(SendError::NotConnected)?;
        let priority = message.priority;
        slots.send_as(peer, priority, OutFrame { frame, owned })
    }

    /// The frame of a message, as this service sends it.
    fn frame_of<'a>(&self, message: &'a Outgoing<'_>) -> Frame<'a> {
        self.shared.first().dress(message.frame())
    }

    /// Whether a message may be sent to anybody.
    fn check(&self, message: &Outgoing<'_>) -> Result<(), SendError> {
        if message.message_type.is_protocol() {
            return Err(SendError::ReservedType(message.message_type));
        }
        let size = message.payload.as_slice().len();
        let limit = self.shared.first().limits().payload_size as usize;
        if size > limit {
            return Err(SendError::TooLarge { size, limit });
        }
        Ok(())
    }

    /// The payload of a message that may be sent, if it is to be queued without another copy.
    fn payload_of(&self, message: &Outgoing<'_>) -> Result<Option<Bytes>, SendError> {
        self.check(message)?;
        Ok(match &message.payload {
            Payload::Owned(bytes) if bytes.len() > PAYLOAD_COPIED_MAX => Some(bytes.clone()),
            // Copied here rather than under the lock that other senders wait for.
            Payload::Borrowed(bytes) if bytes.len() > PAYLOAD_COPIED_MAX => {
                Some(Bytes::copy_from_slice(bytes))
            }
            // Short ones are copied behind their headers: no reference count for them.
            Payload::Owned(_) | Payload::Borrowed(_) => None,
        })
    }

    /// The answers of all loops to a question.
    fn ask_all<T>(&self, question: impl Fn(Sender<T>) -> Command) -> Result<Vec<T>, QueryError> {
        let shared = &self.shared;
        match shared.state.get() {
            ServiceState::Running | ServiceState::Stopping => {}
            ServiceState::New | ServiceState::Stopped | ServiceState::Failed => {
                return Err(QueryError::NotRunning);
            }
        }
        if never_waits() {
            return Err(QueryError::OwnThread);
        }
        let deadline = shared.clock.elapsed() + ANSWER_TIMEOUT;
        let ask = |shard: &'_ Shard| {
            let (sender, receiver) = bounded(1);
            // A full queue is empty after the loop's next turn.
            let sent = shard
                .commands
                .send_timeout(question(sender), ANSWER_TIMEOUT);
            sent.ok()?;
            shard.slots.doorbell.ring();
            Some(receiver)
        };
        let asked: Vec<Option<Receiver<T>>> = shared.shards.iter().map(ask).collect();
        let answers = shared.shards.iter().zip(asked);
        let answers = answers.map(|(shard, asked)| {
            let (slots, asked) = (&shard.slots, asked.ok_or(QueryError::Timeout)?);
            let answer = shard.answer(&asked, shared.clock, deadline);
            answer.ok_or_else(|| match slots.has_ended() {
                true => QueryError::NotRunning,
                false => QueryError::Timeout,
            })
        });
        answers.collect()
    }
}

/// Sends a frame to peers of all loops: of one after the other, or as a list has them.
fn broadcast_to_all(
    shards: &[Shard],
    frame: Result<&SharedFrame, SendError>,
    to: Recipients<'_>,
) -> BroadcastReport {
    let mut sum = BroadcastReport::default();
    let mut send = |slots: &Slots, to| {
        let report = slots.broadcast(frame, to);
        sum.sent.extend(report.sent);
        sum.skipped.extend(report.skipped);
    };
    match to {
        Recipients::List(peers) => {
            for run in peers.chunk_by(|one, next| one.shard() == next.shard()) {
                let shard = run.first().map_or(0, |peer| usize::from(peer.shard()));
                // Who is of no loop of ours is told so by the first.
                let shard = shards.get(shard).unwrap_or(&shards[0]);
                send(&shard.slots, Recipients::List(run));
            }
        }
        Recipients::All | Recipients::AllBut(_) | Recipients::Matching(_) => {
            for shard in shards {
                send(&shard.slots, to);
            }
        }
    }
    sum
}

/// Lets a thread of the embedder wait that has to ask again.
#[expect(
    clippy::disallowed_methods,
    reason = "no thread of the service comes here"
)]
fn rest(pause: Duration) {
    std::thread::sleep(pause);
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle")
            .field("state", &self.shared.state.get())
            .finish_non_exhaustive()
    }
}

/// A socket that the service listens on; see [`Handle::listen`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ListenerInfo {
    /// Names it for [`Handle::unlisten`].
    pub id: ListenerId,
    /// The address, with the port that was picked.
    pub addr: SocketAddr,
}

/// Handles go to any thread.
const _: () = {
    const fn is_send_and_sync<T: Send + Sync>() {}
    const fn is_send<T: Send>() {}
    is_send_and_sync::<Handle>();
    is_send::<Subscription>();
    is_send_and_sync::<Message>();
};
