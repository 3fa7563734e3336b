//! A network in memory, with virtual time and edges that come once.
//!
//! An edge to read is given when bytes come after a read that found the end; an edge to write when
//! there is room after a write that found none. Nothing reminds of an edge that was lost. Only a
//! FIN, a RST and urgent bytes make an edge of their own.
//!
//! What the server writes waits in its system's buffer until the client's system, which has a
//! buffer of its own, has acknowledged it. As on Linux (6.18, looked at with a small program) a RST
//! goes out at once where a socket with unread input is closed, and destroys what its system was
//! still to send. Where it comes in, it destroys what that system was to send, and leaves what can
//! be read; one call fails then, reads find the end, and writes fail. Behind a FIN no read fails.

use std::{
    cell::RefCell,
    collections::{BTreeSet, HashMap, VecDeque},
    io::{self, IoSlice, IoSliceMut},
    net::SocketAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{
    agenda::Agenda,
    askers::{Asked, Asker},
    clients::{Client, ECHO_BELOW},
    random::Random,
    read_vectored,
    subscribers::Subscriber,
    watchers::Watchers,
};
use crate::{
    clock::Tick,
    dispatch::{Registry, Worker},
    id::{MessageType, PeerId},
    limits::{CUT_LOOKS_PER_TURN, CUT_SEGMENTS_MAX, READ_PER_TURN_BYTES},
    slots::Slots,
    socket::{AcceptFault, Event, Listener, Net, Ready, Unacknowledged},
};

/// Polls without a wait and without progress that are taken for a busy loop: more than a cut of
/// the ledger may take while everybody else waits.
#[expect(clippy::cast_possible_truncation, reason = "a few hundred")]
const IDLE_POLLS_MAX: u32 = 50 + (CUT_SEGMENTS_MAX / CUT_LOOKS_PER_TURN) as u32;

/// Lets somebody who finds nothing to do look less and less often, so that time passes quickly
/// while everybody waits.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Backoff(u32);

impl Backoff {
    /// Of many, each looks less often.
    fn next(&mut self, now: Tick, next: Tick, idle: bool, many: bool) -> Tick {
        let longest = if many { 9 } else { 6 };
        self.0 = if idle { (self.0 + 1).min(longest) } else { 0 };
        if idle {
            next.max(now + (1 << self.0))
        } else {
            next
        }
    }
}

/// How often faults happen, per thousand.
#[derive(Clone, Debug, Default)]
pub(super) struct Rates {
    pub(super) spurious: usize,
    pub(super) stale: usize,
    pub(super) split: usize,
    pub(super) short_write: usize,
    pub(super) skip: usize,
    pub(super) exhausted: usize,
    pub(super) register: usize,
    pub(super) jump: usize,
    pub(super) few_events: usize,
    /// Those of what happens rarely: the dispatcher does nothing for seconds, somebody subscribes
    /// in the middle, a peer that behaves is cut off, urgent bytes are told of and do not come.
    pub(super) stall: usize,
    pub(super) subscribe: usize,
    pub(super) reset: usize,
    pub(super) urgent: usize,
    /// New settings.
    pub(super) settings: usize,
}

/// An application frame as a client sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) message_type: MessageType,
    pub(super) correlation: Option<u64>,
    pub(super) checksum: bool,
    pub(super) payload: Vec<u8>,
}

impl Sent {
    /// Whether it is echoed: by the handler of a type, or by the subscriber of the others.
    pub(super) fn is_echoed(&self, by: Option<MessageType>, handled: bool) -> bool {
        self.message_type.0 < ECHO_BELOW && (by == Some(self.message_type)) == handled
    }
}

/// One connection, both ends.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) addr: SocketAddr,
    /// Arrived at the server and not read; what was read.
    pub(super) arrived: VecDeque<u8>,
    read: u64,
    urgent_at: Option<u64>,
    pub(super) fin: bool,
    pub(super) rst: bool,
    /// The error that the next read or write gets, of a connection that is reset or given up.
    rst_error: Option<io::ErrorKind>,
    /// The system gave it up.
    pub(super) given_up: bool,
    /// Written by the server and not acknowledged: with its system.
    pub(super) queue: VecDeque<u8>,
    /// Acknowledged by the client's system, and not taken by the client.
    pub(super) sent: VecDeque<u8>,
    /// Application messages that the client's system has.
    pub(super) received: u64,
    pub(super) server_fin: bool,
    pub(super) closed: u32,
    pub(super) aborted: bool,
    pub(super) refused: bool,
    pub(super) id: Option<PeerId>,
    pending: Ready,
    read_armed: bool,
    /// The end of the input was read.
    end_read: bool,
    /// Whether it was written since that was cleared.
    written: bool,
    write_blocked: Option<Tick>,
    pub(super) arrived_max: usize,
    queue_max: usize,
    sent_max: usize,
    /// How long bytes are under way to the client, and when the next of them are there.
    latency: Tick,
    flows_at: Tick,
    /// Application frames in the order in which the client sent them.
    pub(super) log: Vec<Sent>,
    /// For each subscriber, which of them comes next.
    pub(super) subscribers_at: Vec<usize>,
    /// An echo was refused or came to somebody who loses messages.
    pub(super) echo_lossy: bool,
    /// Bytes that the client took, and its place in the echoes of subscribers and of the handler,
    /// which keep no order among each other.
    pub(super) got: Vec<u8>,
    pub(super) echo_at: [usize; 2],
    pub(super) echoes: usize,
    pub(super) bye: Option<u16>,
    /// PINGs that the client has not answered.
    pub(super) pings: usize,
    /// Questions that the client has not answered.
    pub(super) questions: Vec<Asked>,
    pub(super) hostile: bool,
}

/// What systems have for a connection to a client, drawn apart from the rest.
pub(super) struct System(Option<Random>);

impl System {
    /// In some runs a client's system acknowledges just what its program takes.
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        Self(random.chance(700).then_some(random))
    }

    fn sent_max(&mut self) -> usize {
        let random = self.0.as_mut();
        random.map_or(0, |random| random.pick(&[0, 50, 3_000, 60_000]))
    }

    fn latency(&mut self) -> Tick {
        let random = self.0.as_mut();
        random.map_or(0, |random| random.pick(&[0, 0, 1, 20]))
    }
}

pub(super) struct World {
    pub(super) random: Random,
    pub(super) system: System,
    /// For what happens in some runs only, so that the others are what they were.
    pub(super) rare: Random,
    pub(super) now: Tick,
    pub(super) rates: Rates,
    pub(super) conns: Vec<Conn>,
    /// Those that were registered, in that order, which is the one of `conns` too.
    pub(super) registered: Vec<PeerId>,
    by_id: HashMap<PeerId, usize>,
    /// Those that are registered and not closed.
    pub(super) live: BTreeSet<usize>,
    /// Those of them that have an edge to be told of, or whose writing is blocked.
    busy: BTreeSet<usize>,
    /// Those that the loop was told of, or read, wrote or closed, since this was cleared.
    pub(super) touched: BTreeSet<usize>,
    /// Those that were read in this turn, in order, and written.
    pub(super) reads: Vec<usize>,
    /// Bytes that the last of them gave.
    read_in_turn: usize,
    writes: Vec<usize>,
    /// When writing may go on that is blocked.
    blocked: BTreeSet<(Tick, usize)>,
    backlog: VecDeque<usize>,
    listener_armed: bool,
    listener_pending: bool,
    listening: bool,
    exhausted_until: Tick,
    /// Connections that a spare descriptor was used for.
    pub(super) turned_away: u64,
    pub(super) bell: Arc<AtomicBool>,
    /// Whatever was done, counted.
    pub(super) work: u64,
    work_before: u64,
    idle_polls: u32,
    stale: Vec<PeerId>,
    pub(super) clients: Vec<Client>,
    /// When each client acts next.
    pub(super) agenda: Agenda,
    pub(super) subscribers: Vec<Subscriber>,
    pub(super) watchers: Option<Watchers>,
    pub(super) asker: Option<Asker>,
    pub(super) worker: Option<Worker>,
    pub(super) worker_at: Tick,
    pub(super) worker_slow: usize,
    pub(super) slots: Arc<Slots>,
    pub(super) registry: Arc<Registry>,
    pub(super) healed: bool,
    /// There are so many clients that each does little.
    pub(super) many: bool,
    /// Clients never stay when they have nothing more to say.
    pub(super) punctual: bool,
    /// The application sends of its own accord, per thousand acts of a subscriber.
    pub(super) unasked: usize,
    pub(super) hello_required: bool,
    /// The type that a handler echoes on the loop, if there is one.
    pub(super) handled: Option<MessageType>,
    pub(super) payload_max: usize,
    pub(super) trace: bool,
    /// Connections whose clients have read everything and left without a FIN.
    pub(super) silent: Vec<usize>,
}

impl World {
    pub(super) fn new(random: Random, slots: Arc<Slots>, registry: Arc<Registry>) -> Self {
        Self {
            random,
            system: System(None),
            rare: Random::new(0),
            now: 0,
            rates: Rates::default(),
            conns: Vec::new(),
            registered: Vec::new(),
            by_id: HashMap::new(),
            live: BTreeSet::new(),
            busy: BTreeSet::new(),
            touched: BTreeSet::new(),
            reads: Vec::new(),
            read_in_turn: 0,
            writes: Vec::new(),
            blocked: BTreeSet::new(),
            backlog: VecDeque::new(),
            listener_armed: true,
            listener_pending: false,
            listening: true,
            exhausted_until: 0,
            turned_away: 0,
            bell: Arc::default(),
            work: 0,
            work_before: 0,
            idle_polls: 0,
            stale: Vec::new(),
            clients: Vec::new(),
            agenda: Agenda::default(),
            subscribers: Vec::new(),
            watchers: None,
            asker: None,
            worker: None,
            worker_at: 0,
            worker_slow: 0,
            slots,
            registry,
            healed: false,
            many: false,
            punctual: false,
            unasked: 0,
            hello_required: false,
            handled: None,
            payload_max: 0,
            trace: std::env::var_os("NEBNET_TRACE").is_some(),
            silent: Vec::new(),
        }
    }

    pub(super) fn say(&self, text: impl FnOnce() -> String) {
        if self.trace {
            eprintln!("{:>8} {}", self.now, text());
        }
    }

    /// Whether the application sends what is no echo.
    pub(super) fn sends_more(&self) -> bool {
        self.unasked > 0 || self.asker.is_some()
    }

    /// Messages of the type that an echo is still to come of, behind those that it came of.
    pub(super) fn echoes_due(&self, conn: &Conn, handled: bool) -> usize {
        let rest = &conn.log[conn.echo_at[usize::from(handled)]..];
        rest.iter()
            .filter(|sent| sent.is_echoed(self.handled, handled))
            .count()
    }

    /// The connection of a peer, be it closed or not.
    pub(super) fn conn_of(&self, peer: PeerId) -> usize {
        self.by_id[&peer]
    }

    pub(super) fn add_client(&mut self, client: Client) {
        self.agenda.push(client.next_at);
        self.clients.push(client);
    }

    fn act_client(&mut self, index: usize) {
        let work = self.work;
        Client::act(self, index);
        let (now, idle) = (self.now, self.work == work);
        let many = self.many;
        let client = &mut self.clients[index];
        client.next_at = client.backoff.next(now, client.next_at, idle, many);
        self.agenda.set(index, client.next_at);
    }

    fn act_subscriber(&mut self, index: usize) {
        let work = self.work;
        Subscriber::act(self, index);
        let (now, idle) = (self.now, self.work == work);
        let one = &mut self.subscribers[index];
        one.next_at = one.backoff.next(now, one.next_at, idle, false);
    }

    /// The loop is to be told of something.
    fn tell(&mut self, index: usize, ready: Ready) {
        self.conns[index].pending.set(ready);
        if self.live.contains(&index) {
            self.busy.insert(index);
        }
    }

    /// Since this tick nothing more can be written, or it can.
    fn set_blocked(&mut self, index: usize, since: Option<Tick>) {
        let before = std::mem::replace(&mut self.conns[index].write_blocked, since);
        if let Some(tick) = before {
            self.blocked.remove(&(tick, index));
        }
        if let Some(tick) = since {
            self.blocked.insert((tick, index));
            self.busy.insert(index);
        }
    }

    /// A step begins: nobody was touched in it.
    pub(super) fn begin_step(&mut self) {
        self.touched.clear();
        self.reads.clear();
        for index in self.writes.drain(..) {
            self.conns[index].written = false;
        }
    }

    /// Whether the connection was written in this step.
    pub(super) fn is_written(&self, index: usize) -> bool {
        self.conns[index].written
    }

    /// What the loop was told of a connection and has to keep in mind: no call has blocked since.
    pub(super) fn told(&self, index: usize) -> [Option<Ready>; 2] {
        let conn = &self.conns[index];
        let has_input = !conn.read_armed || conn.fin || conn.rst_error.is_some();
        let reads = has_input && !conn.end_read && !conn.pending.has(Ready::READ);
        let ends = conn.rst || conn.server_fin;
        let writes = conn.write_blocked.is_none() && !conn.pending.has(Ready::WRITE);
        [
            reads.then_some(Ready::READ),
            (writes && !ends).then_some(Ready::WRITE),
        ]
    }

    // ----- the clients' side -----------------------------------------------------------------

    pub(super) fn connect(&mut self, addr: SocketAddr) -> usize {
        let conn = Conn {
            addr,
            arrived: VecDeque::new(),
            read: 0,
            urgent_at: None,
            fin: false,
            rst: false,
            rst_error: None,
            given_up: false,
            queue: VecDeque::new(),
            sent: VecDeque::new(),
            received: 0,
            server_fin: false,
            closed: 0,
            aborted: false,
            refused: !self.listening,
            id: None,
            pending: Ready::default(),
            read_armed: true,
            end_read: false,
            written: false,
            write_blocked: None,
            arrived_max: self.random.pick(&[100, 5_000, 100_000, 400_000]),
            queue_max: self.random.pick(&[60, 3_000, 100_000]),
            sent_max: self.system.sent_max(),
            latency: self.system.latency(),
            flows_at: 0,
            log: Vec::new(),
            subscribers_at: vec![0; self.subscribers.len()],
            echo_lossy: false,
            got: Vec::new(),
            echo_at: [0; 2],
            echoes: 0,
            bye: None,
            pings: 0,
            questions: Vec::new(),
            hostile: false,
        };
        self.conns.push(conn);
        let index = self.conns.len() - 1;
        if self.punctual {
            // A frame fits, so that it can be there while nobody reads.
            let conn = &mut self.conns[index];
            conn.arrived_max = conn.arrived_max.max(5_000);
        }
        if self.listening {
            self.backlog.push_back(index);
            self.listener_pending |= std::mem::take(&mut self.listener_armed);
        }
        index
    }

    /// Bytes of a client arrive.
    pub(super) fn arrive(&mut self, index: usize, bytes: &[u8]) {
        let conn = &mut self.conns[index];
        if conn.rst || conn.closed > 0 {
            return;
        }
        conn.arrived.extend(bytes);
        if std::mem::take(&mut conn.read_armed) {
            self.tell(index, Ready::READ);
        }
    }

    /// The byte that arrived last is an urgent one.
    pub(super) fn urge(&mut self, index: usize) {
        let conn = &mut self.conns[index];
        conn.urgent_at = Some(conn.read + conn.arrived.len() as u64);
        self.tell(index, Ready::READ | Ready::URGENT);
    }

    pub(super) fn finish(&mut self, index: usize) {
        let conn = &mut self.conns[index];
        if !conn.fin {
            self.work += 1;
            conn.fin = true;
            let both = conn.server_fin;
            self.tell(index, Ready::READ | Ready::READ_CLOSED);
            if both {
                self.tell(index, Ready::WRITE | Ready::ERROR);
            }
        }
    }

    /// The connection breaks: the client resets it, or the system gives it up, as it does with
    /// a host that is gone.
    pub(super) fn reset(&mut self, index: usize) {
        self.work += 1;
        let drawn = self.random.below(1000);
        let given_up = drawn % 4 == 0;
        let conn = &mut self.conns[index];
        if !conn.rst {
            conn.rst = true;
            conn.end_read = false;
            conn.given_up = given_up;
            conn.rst_error = Some(match drawn % 12 {
                0 => io::ErrorKind::HostUnreachable,
                4 | 8 => io::ErrorKind::TimedOut,
                _ if conn.fin => io::ErrorKind::BrokenPipe,
                _ => io::ErrorKind::ConnectionReset,
            });
            conn.queue.clear();
            let all = Ready::READ | Ready::WRITE | Ready::READ_CLOSED | Ready::ERROR;
            self.tell(index, all);
        }
    }

    /// The client takes up to `size` bytes.
    pub(super) fn take(&mut self, index: usize, size: usize) -> usize {
        self.flow(index, size);
        let conn = &mut self.conns[index];
        let size = size.min(conn.sent.len());
        move_bytes(&mut conn.sent, size, &mut conn.got);
        self.flow(index, 0);
        size
    }

    /// What is under way to a client gets there, as far as its system has room, or the client takes
    /// it at once.
    fn flow(&mut self, index: usize, taking: usize) {
        let now = self.now;
        let conn = &mut self.conns[index];
        let room = conn.sent_max.max(taking).saturating_sub(conn.sent.len());
        let count = room.min(conn.queue.len());
        if conn.flows_at > now || count == 0 {
            return;
        }
        conn.sent.extend(conn.queue.drain(..count));
        conn.flows_at = now + conn.latency;
        self.work += 1;
    }

    // ----- time and events -------------------------------------------------------------------

    /// Lets one of those who are due act. False if nobody is.
    pub(super) fn act(&mut self) -> bool {
        let clients = self.clients.len();
        let count = clients + self.subscribers.len() + 1;
        let start = self.random.below(count);
        self.agenda.advance(self.now);
        // Whoever is due next, from there on and round again.
        if let Some(index) = self.agenda.due_from(start) {
            self.act_client(index);
            return true;
        }
        let others = |index: &usize| *index >= clients;
        let (behind, before) = (start.max(clients)..count, clients..start);
        for index in behind.filter(others) {
            if self.act_other(index - clients) {
                return true;
            }
        }
        if let Some(index) = self.agenda.due_from(0) {
            self.act_client(index);
            return true;
        }
        before
            .into_iter()
            .any(|index| self.act_other(index - clients))
    }

    /// Lets a subscriber act, or the dispatcher, which comes behind them. False if it is not due.
    fn act_other(&mut self, index: usize) -> bool {
        if let Some(subscriber) = self.subscribers.get(index) {
            let due = subscriber.next_at <= self.now;
            if due {
                self.act_subscriber(index);
            }
            return due;
        }
        let due = self.worker_is_due();
        if due {
            self.run_worker();
        }
        due
    }

    /// What peers do until then, while nothing happens in our own process.
    pub(super) fn act_outside(&mut self, until: Tick) {
        loop {
            for index in 0..self.clients.len() {
                if self.clients[index].next_at <= self.now {
                    Client::act(self, index);
                    self.agenda.set(index, self.clients[index].next_at);
                }
            }
            let next = self.agenda.next();
            let next = next.unwrap_or(until).max(self.now + 1);
            if next >= until {
                break;
            }
            self.now = next;
        }
        self.now = until.max(self.now);
    }

    fn worker_is_due(&self) -> bool {
        self.worker_at <= self.now && self.worker.as_ref().is_some_and(Worker::has_items)
    }

    fn run_worker(&mut self) {
        for _ in 0..self.random.between(1, 4) {
            if !self.step_worker() {
                break;
            }
        }
        if !self.healed && self.random.chance(self.worker_slow) {
            self.worker_at = self.now + self.random.between(1, 500) as u64;
        }
        if self.rare.chance(self.rates.stall) {
            self.worker_at = self.now + self.rare.between(1_000, 20_000) as u64;
            self.say(|| "the dispatcher does nothing for long".to_owned());
        }
    }

    /// Ends all faults, and makes room for what is still to come.
    pub(super) fn heal(&mut self) {
        self.healed = true;
        for conn in &mut self.conns {
            conn.queue_max = conn.queue_max.max(100_000);
            conn.latency = 0;
            conn.arrived_max = conn.arrived_max.max(100_000);
        }
        // Otherwise each of them is waited for as long as a drain may take.
        for index in std::mem::take(&mut self.silent) {
            self.finish(index);
        }
    }

    pub(super) fn drain_worker(&mut self) {
        while self.step_worker() {}
    }

    fn step_worker(&mut self) -> bool {
        let stepped = self.worker.as_mut().is_some_and(Worker::step);
        if stepped {
            self.work += 1;
            Watchers::look(self);
        }
        stepped
    }

    /// When somebody acts next.
    fn next_act(&self) -> Tick {
        let subscribers = self.subscribers.iter().map(|one| one.next_at);
        let worker = self.worker.as_ref().filter(|worker| worker.has_items());
        let blocked = self.blocked.range((self.now + 1, 0)..).next();
        let clients = self.agenda.next();
        clients
            .into_iter()
            .chain(subscribers)
            .chain(worker.map(|_| self.worker_at))
            .chain(blocked.map(|(tick, _)| *tick))
            .min()
            .unwrap_or(Tick::MAX)
    }

    /// Takes the edges that are due.
    fn collect(&mut self, events: &mut Vec<Event>) -> bool {
        let before = events.len();
        if std::mem::take(&mut self.listener_pending) && self.listening {
            events.push(Event::Listener(0));
        }
        let few = self.random.chance(self.rates.few_events);
        let mut left = false;
        let now = self.now;
        // Of many there is always one of which something is said for no reason, and no poll would
        // ever wait.
        let rate = if self.many { 0 } else { self.rates.spurious };
        let looked_at = if rate == 0 { &self.busy } else { &self.live };
        let most = if self.many { looked_at.len() / 20 } else { 0 };
        let most = before + most.max(2);
        for index in looked_at.iter().copied().collect::<Vec<_>>() {
            let split = self.random.chance(self.rates.split);
            let spurious = self.random.chance(rate);
            self.flow(index, 0);
            let conn = &self.conns[index];
            let room = conn.queue_max.saturating_sub(conn.queue.len());
            if conn.write_blocked.is_some_and(|tick| tick <= now) && room * 3 >= conn.queue_max {
                self.set_blocked(index, None);
                self.tell(index, Ready::WRITE);
            }
            let conn = &mut self.conns[index];
            let id = conn.id.expect("registered");
            if spurious || conn.pending != Ready::default() {
                self.touched.insert(index);
            }
            if spurious {
                events.push(Event::Peer(
                    id,
                    self.random.pick(&[Ready::READ, Ready::WRITE]),
                ));
            }
            if conn.pending == Ready::default() {
                if conn.write_blocked.is_none() {
                    self.busy.remove(&index);
                }
                continue;
            }
            if few && events.len() >= most {
                left = true;
                continue;
            }
            let ready = std::mem::take(&mut conn.pending);
            if conn.write_blocked.is_none() {
                self.busy.remove(&index);
            }
            if split {
                let all = [
                    Ready::READ,
                    Ready::WRITE,
                    Ready::READ_CLOSED,
                    Ready::URGENT,
                    Ready::ERROR,
                ];
                for bit in all.into_iter().filter(|bit| ready.has(*bit)) {
                    // The kernel never says one without the other.
                    let bit = match bit {
                        Ready::READ_CLOSED | Ready::URGENT | Ready::ERROR => bit | Ready::READ,
                        bit => bit,
                    };
                    events.push(Event::Peer(id, bit));
                }
            } else {
                events.push(Event::Peer(id, ready));
            }
        }
        if self.many && self.random.chance(10 * self.rates.spurious) {
            let at = self.random.below(self.conns.len());
            if let Some(index) = self.live.range(at..).next() {
                let id = self.conns[*index].id.expect("registered");
                let ready = self.random.pick(&[Ready::READ, Ready::WRITE]);
                events.push(Event::Peer(id, ready));
            }
        }
        if self.rare.chance(self.rates.urgent) {
            let at = self.rare.below(self.conns.len());
            if let Some(index) = self.live.range(at..).next() {
                let id = self.conns[*index].id.expect("registered");
                events.push(Event::Peer(id, Ready::READ | Ready::URGENT));
            }
        }
        if !self.stale.is_empty() && self.random.chance(self.rates.stale) {
            let id = self.stale[self.random.below(self.stale.len())];
            events.push(Event::Peer(id, Ready::READ | Ready::WRITE | Ready::ERROR));
        }
        self.random.shuffle(&mut events[before..]);
        left
    }
}

/// The loop's network.
pub(super) struct SimNet(pub(super) Rc<RefCell<World>>);

/// A connection, by its index.
#[derive(Debug)]
pub(super) struct SimStream(usize);

/// Moves bytes as the two pieces that they lie in.
fn move_bytes(from: &mut VecDeque<u8>, count: usize, to: &mut Vec<u8>) {
    let (first, second) = from.as_slices();
    let in_first = count.min(first.len());
    to.extend_from_slice(&first[..in_first]);
    to.extend_from_slice(&second[..count - in_first]);
    drop(from.drain(..count));
}

impl Net for SimNet {
    type Stream = SimStream;

    fn poll(&mut self, events: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<bool> {
        let mut world = self.0.borrow_mut();
        let world = &mut *world;
        let wait = timeout.map_or(Tick::MAX, |time| u64::try_from(time.as_millis()).unwrap());
        let deadline = world.now.saturating_add(wait);
        if wait == 0 {
            let progress = world.work != std::mem::replace(&mut world.work_before, world.work);
            world.idle_polls = if progress { 0 } else { world.idle_polls + 1 };
            if world.idle_polls >= IDLE_POLLS_MAX {
                return Err(io::Error::other("the loop is busy with nothing"));
            }
        } else {
            world.idle_polls = 0;
        }
        world.bell.store(false, Ordering::Relaxed);
        let mut seen = None;
        loop {
            // Nothing is new as long as nobody did anything.
            let state = Some((world.work, world.now));
            if state != std::mem::replace(&mut seen, state) {
                let left = world.collect(events);
                if !events.is_empty() {
                    world.work += 1;
                    return Ok(left);
                }
            }
            if world.now >= deadline || world.bell.swap(false, Ordering::Relaxed) {
                return Ok(false);
            }
            if !world.act() {
                let next = world.next_act().max(world.now + 1).min(deadline);
                assert_ne!(next, Tick::MAX, "the loop sleeps for ever");
                world.now = next;
            } else if world.random.chance(100) {
                world.now += 1;
            }
        }
    }

    fn accept(&mut self, _: usize) -> Result<(SimStream, SocketAddr), AcceptFault> {
        let world = &mut *self.0.borrow_mut();
        if world.now < world.exhausted_until {
            return Err(AcceptFault::Exhausted(io::Error::other("no descriptors")));
        }
        if world.backlog.is_empty() {
            world.listener_armed = true;
            return Err(AcceptFault::WouldBlock);
        }
        world.work += 1;
        if world.random.chance(world.rates.exhausted) {
            world.exhausted_until = world.now + world.random.between(1, 3_000) as u64;
            let error = io::Error::other("no descriptors");
            if world.random.chance(500) {
                return Err(AcceptFault::Exhausted(error));
            }
            let index = world.backlog.pop_front().unwrap();
            world.conns[index].refused = true;
            world.turned_away += 1;
            return Err(AcceptFault::TurnedAway(error));
        }
        if world.random.chance(world.rates.skip) {
            if let Some(index) = world.backlog.pop_front() {
                world.conns[index].refused = true;
            }
            return Err(AcceptFault::Skip(io::Error::other("it is gone")));
        }
        let index = world.backlog.pop_front().unwrap();
        Ok((SimStream(index), world.conns[index].addr))
    }

    fn register(&mut self, stream: &mut SimStream, peer: PeerId) -> io::Result<()> {
        let world = &mut *self.0.borrow_mut();
        let fails = world.random.chance(world.rates.register);
        let (index, conn) = (stream.0, &mut world.conns[stream.0]);
        assert!(conn.id.is_none(), "registered once");
        conn.id = Some(peer);
        world.by_id.insert(peer, index);
        assert!(world.live.last().is_none_or(|last| *last < index));
        world.registered.push(peer);
        world.touched.insert(index);
        world.live.insert(index);
        if conn.pending != Ready::default() {
            world.busy.insert(index);
        }
        if fails {
            return Err(io::Error::other("no memory"));
        }
        // What is there already is told, as epoll does.
        world.tell(index, Ready::WRITE);
        let conn = &mut world.conns[index];
        if !conn.arrived.is_empty() {
            conn.read_armed = false;
            world.tell(index, Ready::READ);
        }
        Ok(())
    }

    fn connect(&mut self, _: SocketAddr, _: PeerId) -> io::Result<SimStream> {
        Err(io::ErrorKind::ConnectionRefused.into())
    }

    fn is_connected(&mut self, _: &mut SimStream) -> io::Result<bool> {
        Ok(true)
    }

    fn add_listener(&mut self, _: usize, _: Listener) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn remove_listener(&mut self, _: usize) {}

    fn read(
        &mut self,
        stream: &mut SimStream,
        buffer: &mut Vec<u8>,
        limit: usize,
    ) -> io::Result<usize> {
        let space = (buffer.capacity() - buffer.len()).min(limit);
        self.receive(stream, space, buffer)
    }

    fn read_vectored(
        &mut self,
        stream: &mut SimStream,
        slices: &mut [IoSliceMut<'_>],
    ) -> io::Result<usize> {
        read_vectored(slices, |space, bytes| self.receive(stream, space, bytes))
    }

    fn write(&mut self, stream: &mut SimStream, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let world = &mut *self.0.borrow_mut();
        let short = world.random.chance(world.rates.short_write);
        let conn = &mut world.conns[stream.0];
        assert!(
            conn.closed == 0 && !conn.server_fin,
            "a write after the end"
        );
        let offered: usize = slices.iter().map(|slice| slice.len()).sum();
        assert!(offered > 0, "a write of nothing");
        if !std::mem::replace(&mut conn.written, true) {
            world.writes.push(stream.0);
        }
        world.touched.insert(stream.0);
        if conn.rst {
            let error = conn.rst_error.take();
            return Err(error.unwrap_or(io::ErrorKind::BrokenPipe).into());
        }
        let mut count = offered.min(conn.queue_max - conn.queue.len().min(conn.queue_max));
        if short {
            count = world.random.below(count + 1);
        }
        if count < offered {
            let since = world.now + u64::from(short) * 3;
            world.set_blocked(stream.0, Some(since));
        }
        let conn = &mut world.conns[stream.0];
        if count == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if conn.queue.is_empty() {
            conn.flows_at = world.now + conn.latency;
        }
        let mut left = count;
        for slice in slices {
            let part = left.min(slice.len());
            conn.queue.extend(&slice[..part]);
            left -= part;
        }
        world.work += 1;
        Ok(count)
    }

    fn unacknowledged(&mut self, stream: &SimStream, last: bool) -> Unacknowledged {
        let world = &mut *self.0.borrow_mut();
        world.flow(stream.0, 0);
        let conn = &world.conns[stream.0];
        match (conn.rst, last) {
            (true, true) => Unacknowledged::Ended {
                failed: conn.rst_error.is_some(),
                at_most: conn.queue_max as u64,
            },
            (true, false) => Unacknowledged::Unknown,
            // What the client's system has room for is under way.
            (false, _) if conn.queue.len() > conn.sent_max.saturating_sub(conn.sent.len()) => {
                Unacknowledged::Unsent(conn.queue.len() as u64)
            }
            (false, _) => Unacknowledged::Bytes(conn.queue.len() as u64),
        }
    }

    fn shutdown(&mut self, stream: &mut SimStream) -> io::Result<()> {
        let world = &mut *self.0.borrow_mut();
        let conn = &mut world.conns[stream.0];
        assert!(conn.closed == 0 && !conn.server_fin, "a second FIN");
        conn.server_fin = true;
        Ok(())
    }

    fn read_last(
        &mut self,
        stream: &mut SimStream,
        buffer: &mut Vec<u8>,
        limit: usize,
    ) -> io::Result<usize> {
        // It is no peer's turn, and counts for none.
        let (reads, read_in_turn) = {
            let world = &mut *self.0.borrow_mut();
            (world.reads.len(), std::mem::take(&mut world.read_in_turn))
        };
        let result = self.read(stream, buffer, limit);
        let world = &mut *self.0.borrow_mut();
        world.reads.truncate(reads);
        world.read_in_turn = read_in_turn;
        result
    }

    fn unread(&mut self, stream: &mut SimStream) -> u64 {
        self.0.borrow().conns[stream.0].arrived.len() as u64
    }

    fn close(&mut self, stream: SimStream, abort: bool) {
        let world = &mut *self.0.borrow_mut();
        let conn = &mut world.conns[stream.0];
        conn.closed += 1;
        conn.server_fin = true;
        world.live.remove(&stream.0);
        world.busy.remove(&stream.0);
        // Unread input turns the FIN into a RST.
        if abort || !conn.arrived.is_empty() {
            conn.aborted = true;
            conn.queue.clear();
        }
        world.stale.extend(conn.id);
        world.work += 1;
        let (id, index) = (conn.id, stream.0);
        world.say(|| format!("close conn {index} {id:?} abort {abort}"));
    }

    fn close_listeners(&mut self) {
        let world = &mut *self.0.borrow_mut();
        world.listening = false;
        for index in world.backlog.drain(..) {
            world.conns[index].refused = true;
        }
    }
}

impl SimNet {
    /// Moves what has arrived behind `buffer`, at most `space` bytes.
    fn receive(
        &mut self,
        stream: &SimStream,
        space: usize,
        buffer: &mut Vec<u8>,
    ) -> io::Result<usize> {
        let world = &mut *self.0.borrow_mut();
        let conn = &mut world.conns[stream.0];
        assert_eq!(conn.closed, 0);
        assert!(space > 0, "a read without space");
        if world.reads.last() != Some(&stream.0) {
            world.reads.push(stream.0);
            world.read_in_turn = 0;
        }
        assert!(world.read_in_turn < READ_PER_TURN_BYTES, "others wait");
        world.touched.insert(stream.0);
        if conn.arrived.is_empty() {
            if let Some(error) = conn.rst_error.take_if(|_| !conn.fin) {
                return Err(error.into());
            }
            if conn.fin || conn.rst {
                conn.end_read = true;
                return Ok(0);
            }
            conn.read_armed = true;
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut count = space.min(conn.arrived.len());
        if let Some(mark) = conn.urgent_at.filter(|mark| *mark > conn.read) {
            count = count.min(usize::try_from(mark - conn.read).unwrap());
        }
        move_bytes(&mut conn.arrived, count, buffer);
        conn.read += count as u64;
        world.read_in_turn += count;
        if count < space && conn.arrived.is_empty() {
            conn.read_armed = true;
        }
        world.work += 1;
        Ok(count)
    }
}
