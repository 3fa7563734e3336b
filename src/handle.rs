//! What threads other than the loop hold: sends, closes, subscribes, asks.

mod asking;
mod batch;
mod connecting;
mod listening;
mod reconfigure;
mod requests;
mod sending;
mod stopped;

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicU64, AtomicUsize},
    },
    time::Duration,
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};

use crate::{
    balance::CutAnswer,
    block::Message,
    clock::Clock,
    config::Config,
    dial::NewLink,
    dispatch::{
        ChannelSubscription, EventOptions, EventSubscription, Outlet, Registry, SubscribeOptions,
        Subscription, TypeFilter,
    },
    error::{SubscribeError, TimerError},
    id::{LinkId, ListenerId, PeerId},
    ledger::{ClosedRow, DepartedRow, PeerRow, Snapshot, StateCell},
    resolve::{Resolved, Resolver},
    slots::{PeerInfo, Slots},
    socket::{Listener, SocketOptions},
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
/// A handle does not keep the service running. Before the start and after the stop no peer is
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

    /// Closes a connection in order, within the drain time of 5 s. From now on sends to it are
    /// refused as [`SendError::Closing`]; what was read before may still be answered
    /// ([`reply`](Self::reply)). Once that was released by its subscribers and everything accepted
    /// is written, after half the drain time at the latest, BYE with
    /// [`CloseReason::AppClosed`](crate::CloseReason::AppClosed) and FIN go out. What the peer
    /// sends until its own end is delivered, and no longer answered. False if there is no such
    /// connection.
    ///
    /// [`SendError::Closing`]: crate::SendError::Closing
    #[must_use = "false says that the peer was not connected"]
    pub fn close(&self, peer: PeerId) -> bool {
        let slots = self.shared.slots_of(peer);
        slots.is_some_and(|slots| slots.ask_close(peer))
    }

    /// What is known of a connection without asking the loop: the lock of its slot is taken for a
    /// moment. `None` if it is not there, or may not be sent to yet.
    #[must_use]
    pub fn peer(&self, peer: PeerId) -> Option<PeerInfo> {
        self.shared.slots_of(peer)?.info(peer)
    }

    /// All counters now. Takes the lock of the list of subscribers, and none of the hot path.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.shared.snapshot()
    }
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
