//! One run: draws its sizes and rates, drives the loop, heals, stops, and checks all the while.

use std::{
    cell::RefCell,
    collections::HashMap,
    rc::Rc,
    sync::{Arc, Mutex, atomic::Ordering},
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, TryRecvError, bounded};

use super::{
    alarms::Alarms,
    askers::Asker,
    clients::{Client, Kind, check_received},
    random::Random,
    settings::Settings,
    subscribers::{Subscriber, note_refused},
    turns::{Turns, check_told},
    watchers::Watchers,
    world::{Rates, SimNet, System, World},
};
use crate::{
    balance::{Balance, Cut},
    block::MessageRef,
    clock::{Clock, Now},
    dispatch::{DispatchQueue, FanOut, QueueBounds, Registry, Requests, Worker},
    error::{CloseReason, SendError},
    event_loop::{EventLoop, Sink},
    frame::{Decoder, Frame, Hello},
    handle::{Command, Signals},
    id::{ListenerId, MessageType, PeerId},
    idle::IdleStrategy,
    inline::Replier,
    ledger::{Counter, Ledger, Snapshot, StopRow, Traffic},
    limits::{BLOCK_SIZE, CHECKSUM_SIZE, CLOSED_ROWS_MAX, DRAIN_MS, REFUSED_PEERS_MAX},
    peer::Rules,
    peers::{HandlerOptions, Handlers, PeerLimits, Peers, Stop, Timer},
    policy::OutboxFull,
    slots::{OutboxLimits, Slots},
    timers::TimerHub,
};

/// What happens rarely is drawn apart from the rest. Of the seeds that have a test of their own
/// none is a run in which it does.
const RARE_SALT: u64 = 0x5EED_0004;
/// And so is what systems have for a connection.
const SYSTEM_SALT: u64 = 0x5EED_0005;

pub(super) struct Run {
    world: Rc<RefCell<World>>,
    event_loop: EventLoop<SimNet>,
    commands: Sender<Command>,
    signals: Arc<Signals>,
    hub: Arc<TimerHub>,
    alarms: Option<Alarms>,
    ledger: Arc<Ledger>,
    start: Instant,
    steps: usize,
    payload_max: usize,
    inline: bool,
    /// Echoes of the handler that were refused in this turn.
    refused: Refused,
    turns: Turns,
    /// Cuts of the ledger that are under way, and how many were looked at.
    cuts: Vec<Receiver<Option<Cut>>>,
    cuts_seen: usize,
    settings: Settings,
    /// No limit of the service can end a well-behaved connection.
    calm: bool,
    size: Size,
    /// What the service says of connections that ended: messages written, and unconfirmed.
    ended: HashMap<PeerId, (u64, u64)>,
    /// All timeouts are set, everybody is healthy and in time, and the process stands still now
    /// and then.
    stops: bool,
}

/// How many peers a run has at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    /// As its seed says, up to 32.
    Drawn,
    /// The same, with many that send more at once than a read brings, and with room for that.
    Bulk,
    /// So many.
    Peers(usize),
}

impl Size {
    /// The limit of peers; one that a calm run does not meet, although connections linger.
    fn limit(self, random: &mut Random, calm: bool) -> usize {
        match self {
            Self::Drawn | Self::Bulk if calm => 100,
            Self::Drawn | Self::Bulk => random.pick(&[1, 3, 20, 40]),
            Self::Peers(count) if calm => 3 * count,
            Self::Peers(count) => random.pick(&[count / 2, 2 * count]),
        }
    }

    /// Peers that come and go.
    fn clients(self, random: &mut Random) -> usize {
        match self {
            Self::Drawn | Self::Bulk => {
                let most = random.pick(&[1, 4, 12, 32]);
                random.between(1, most)
            }
            Self::Peers(count) => count,
        }
    }

    /// Steps before faults are healed.
    fn steps(self, random: &mut Random) -> usize {
        match self {
            Self::Drawn | Self::Bulk => random.between(50, 600),
            Self::Peers(count) => random.between(count, 3 * count),
        }
    }

    /// Whether everything is looked at after this step, and not only the peers that the loop or
    /// somebody else had to do with: with many peers that is most of the work.
    fn looks_at_all(self, steps: usize) -> bool {
        match self {
            Self::Drawn | Self::Bulk => true,
            Self::Peers(count) => steps % (count / 20).max(1) == 0,
        }
    }

    /// Turns of the loop after which it is looked who has had none.
    fn turns_between_looks(self) -> u64 {
        match self {
            Self::Drawn | Self::Bulk => 1,
            Self::Peers(count) => (count as u64 / 200).max(1),
        }
    }

    /// Acts of others in each of them, at most.
    fn acts(self) -> usize {
        match self {
            Self::Drawn | Self::Bulk => 6,
            Self::Peers(count) => 6.max(count / 50),
        }
    }
}

impl Run {
    pub(super) fn new(seed: u64, size: Size) -> Self {
        Self::with(seed, size, false)
    }

    /// A run of healthy peers, in which nothing goes wrong but that the process stands still.
    pub(super) fn with_stops(seed: u64) -> Self {
        Self::with(seed, Size::Drawn, true)
    }

    fn with(seed: u64, size: Size, stops: bool) -> Self {
        let mut random = Random::new(seed);
        let calm = stops || random.chance(400);
        let payload_max = random.pick(&[100, 3_000, 70_000, 200_000]);
        let budget = if calm {
            256 << 20
        } else {
            random.pick(&[1 << 20, 4 << 20, 256 << 20])
        };
        let capacity = Traffic::new(
            random.pick(&[1, 10, 1_000, 65_536]),
            random.pick(&[64 << 10, 200 << 10, 1 << 20]),
        );
        let ledger = Arc::new(Ledger::new(budget, capacity));
        let clock = Clock::start();
        let limits = PeerLimits {
            peers: size.limit(&mut random, calm),
            peers_per_origin: if calm { 0 } else { random.pick(&[0, 0, 2]) },
            pending: if calm { 0 } else { random.pick(&[0, 0, 1, 4]) },
        };
        let mut outbox = OutboxLimits {
            bytes: random.pick(&[64 << 10, 300 << 10, 4 << 20]),
            messages: random.pick(&[1, 5, 200, 65_536]),
            payload_size: u32::try_from(payload_max).unwrap(),
        };
        if size == Size::Bulk {
            outbox.bytes = outbox.bytes.max(300 << 10);
            outbox.messages = 65_536;
        }
        let count = limits.peers + REFUSED_PEERS_MAX;
        let slots = Slots::new(0, count, outbox, Arc::clone(&ledger), clock);
        let full = [
            OutboxFull::Refuse,
            OutboxFull::Close,
            OutboxFull::DropOldest,
        ];
        let slots = slots.outbox_full(random.pick(&full));
        let slots = Arc::new(slots.checksums(random.chance(250)));
        let registry = Arc::new(Registry::new(1_000));
        let hub = Arc::new(TimerHub::default());
        let mut rules = rules(&mut random, calm, outbox.payload_size);
        if stops {
            set_timeouts(&mut rules, &mut random);
        }

        let mut world = World::new(random, Arc::clone(&slots), Arc::clone(&registry));
        world.many = matches!(size, Size::Peers(_));
        world.hello_required = rules.hello_required;
        world.payload_max = payload_max;
        world.rare = Random::new(seed ^ RARE_SALT);
        world.system = System::new(seed ^ SYSTEM_SALT);
        draw_rates(&mut world, calm);
        if stops {
            draw_healthy_people(&mut world);
        } else {
            draw_people(&mut world, size, payload_max, calm);
            draw_what_is_rare(&mut world, size == Size::Bulk, calm);
        }
        let bell = Arc::clone(&world.bell);
        slots
            .doorbell
            .set_bell(move || bell.store(true, Ordering::Relaxed));

        let inline = world.random.chance(500);
        let poke = Arc::clone(registry.poke(0));
        let sink = if inline {
            let bounds = QueueBounds::new(Arc::clone(&ledger));
            let ring = Arc::clone(&slots);
            poke.set_wake(move || ring.doorbell.ring());
            let fan_out = FanOut::new(registry, Arc::clone(&slots), bounds.clone());
            Sink::Inline {
                fan_out: Box::new(fan_out),
                bounds,
                on_tick: Box::new(|| {}),
            }
        } else {
            let (mut queue, items) = DispatchQueue::new(Arc::clone(&ledger));
            queue = queue.with_events_max(world.random.pick(&[1, 2, 5, 4096]));
            let fan_out = FanOut::new(registry, Arc::clone(&slots), queue.bounds().clone());
            world.worker = Some(Worker::new(
                items,
                queue.make_direct(fan_out),
                Arc::clone(&poke),
                Box::new(|| {}),
                IdleStrategy::Block,
                clock,
            ));
            poke.set_wake(queue.waker());
            Sink::Queue(queue)
        };
        let alarms = world.random.chance(500).then(|| {
            let capacity = world.random.pick(&[1, 4, 30]);
            Alarms::new(&hub, &slots, capacity)
        });
        let world = Rc::new(RefCell::new(world));
        let net = SimNet(Rc::clone(&world));
        let settings = Settings::new(&rules, limits, outbox, budget, capacity);
        let mut peers = Peers::new(Arc::clone(&slots), rules, limits, 0);
        let refused = Refused::default();
        let handled = world.borrow().handled;
        if let Some(message_type) = handled {
            let requests = &world.borrow().registry.requests;
            peers.common.handling.set_handlers(echo_handler(
                message_type,
                &ledger,
                requests,
                &refused,
            ));
        }
        let (commands, receiver) = bounded(8);
        let signals = Arc::<Signals>::default();
        let idle = IdleStrategy::Block;
        let timers = Arc::clone(&hub);
        let event_loop = EventLoop::new(
            net,
            vec![ListenerId(0)],
            peers,
            slots,
            sink,
            poke,
            receiver,
            timers,
            Arc::clone(&signals),
            idle,
            0,
        );
        Self {
            world,
            event_loop,
            commands,
            signals,
            hub,
            alarms,
            ledger,
            start: clock.now().instant,
            steps: 0,
            payload_max,
            inline,
            refused,
            turns: Turns::default(),
            cuts: Vec::new(),
            cuts_seen: 0,
            settings,
            calm,
            size,
            ended: HashMap::new(),
            stops,
        }
    }

    /// Returns what tells one run from another.
    pub(super) fn run(mut self) -> (u64, u64, Traffic, Traffic, usize) {
        let steps = self.size.steps(&mut self.world.borrow_mut().random);
        for _ in 0..steps {
            self.step();
        }
        let stop_early = self.world.borrow_mut().random.chance(250);
        if !stop_early || self.stops {
            self.heal();
        }
        if self.stops {
            self.check_only_goodbyes();
        }
        self.stop(stop_early)
    }

    fn step(&mut self) {
        self.steps += 1;
        {
            let world = &mut *self.world.borrow_mut();
            world.begin_step();
            for _ in 0..world.random.below(self.size.acts()) {
                if !world.act() {
                    break;
                }
            }
            if world.random.chance(world.rates.jump) {
                world.now += world.random.between(1, 20_000) as u64;
            }
            if world.rare.chance(world.rates.subscribe) && world.subscribers.len() < 8 {
                let registry = Arc::clone(&world.registry);
                let one = Subscriber::new(&registry, &mut world.rare, false);
                world.subscribers.push(one);
                world.say(|| "somebody subscribes".to_owned());
            }
        }
        self.stand_still();
        let now = self.now();
        if let Err(error) = self.event_loop.poll(now) {
            panic!("{error}: {:?}", self.event_loop);
        }
        self.stand_still();
        {
            let world = &mut *self.world.borrow_mut();
            if world.random.chance(200) {
                world.act();
            }
            if let Some(alarms) = &mut self.alarms {
                alarms.act(world.now, &mut world.random);
            }
            if let Some(mut asker) = world.asker.take() {
                asker.act(world);
                world.asker = Some(asker);
            }
        }
        let now = self.now();
        self.begin_cut();
        self.change_settings();
        self.event_loop.turn(now);
        for (peer, error) in self.refused.lock().unwrap().drain(..) {
            note_refused(&mut self.world.borrow_mut(), peer, error);
        }
        self.check();
    }

    /// The process is stopped, once in a while, before a poll or behind it; its peers go on.
    fn stand_still(&mut self) {
        let world = &mut *self.world.borrow_mut();
        if self.stops && !world.healed && world.random.chance(15) {
            let until = world.now + world.random.between(1, 30_000) as u64;
            world.say(|| format!("the process stands still until {until}"));
            world.act_outside(until);
        }
    }

    /// Nobody was closed but by its own FIN. To be called when everybody has finished.
    fn check_only_goodbyes(&self) {
        for (counter, reason) in self.ledger.closed.iter().zip(CloseReason::ALL) {
            let counted = counter.get();
            // Without descriptors one that is kept for that turns connections away.
            let is_due = [CloseReason::PeerClosed, CloseReason::TooManyPeers].contains(reason);
            assert!(counted == 0 || is_due, "{counted} {reason}");
        }
    }

    /// Has the loop cut the ledger, once in a while.
    fn begin_cut(&mut self) {
        // Of many peers a cut takes many turns, in which nobody does anything else.
        let (most, rate) = match self.size {
            Size::Drawn | Size::Bulk => (4, 200),
            Size::Peers(count) => (1, (6_000 / count).clamp(10, 200)),
        };
        if self.world.borrow_mut().random.chance(rate) && self.cuts.len() < most {
            let (sender, receiver) = bounded(1);
            if self.commands.try_send(Command::Cut(sender)).is_ok() {
                self.cuts.push(receiver);
            }
        }
    }

    fn change_settings(&mut self) {
        let world = &mut *self.world.borrow_mut();
        if world.rare.chance(world.rates.settings) {
            world.say(|| "new settings".to_owned());
            self.settings.change(&mut world.rare, &self.commands);
        }
    }

    /// Every cut that came through balances, whatever happened since.
    fn check_cuts(&mut self) {
        let (seen, mut work) = (&mut self.cuts_seen, 0);
        self.cuts.retain(|cut| match cut.try_recv() {
            Ok(cut) => {
                work += 1;
                if let Some(cut) = cut {
                    let balance = Balance::of(vec![cut]);
                    assert!(balance.is_exact(), "{balance}");
                    *seen += 1;
                }
                false
            }
            Err(error) => error == TryRecvError::Empty,
        });
        self.world.borrow_mut().work += work;
    }

    fn now(&self) -> Now {
        let tick = self.world.borrow().now;
        let instant = self.start + Duration::from_millis(tick);
        Now { tick, instant }
    }

    fn check(&mut self) {
        self.check_cuts();
        let looks_at_all = self.size.looks_at_all(self.steps);
        if looks_at_all {
            self.check_ring();
        }
        self.note_ended();
        {
            let world = &mut *self.world.borrow_mut();
            Watchers::look(world);
            if world.random.chance(100) {
                let count = world.random.between(1, 9);
                Watchers::take_some(world, count);
            }
        }
        let world = self.world.borrow();
        if looks_at_all {
            self.event_loop.peers().check(world.now);
        }
        let touched = if looks_at_all {
            &world.live
        } else {
            &world.touched
        };
        for index in touched {
            if let Some(id) = world.conns[*index].id.filter(|_| !looks_at_all) {
                self.event_loop.peers().check_peer(world.now, id);
            }
            check_told(&world, &mut self.event_loop, *index);
        }
        // An echo may be longer than its question by a checksum.
        let dressed = world.slots.dress(Frame::new(MessageType(0), b"")).checksum;
        for id in world
            .reads
            .iter()
            .filter_map(|index| world.conns[*index].id)
        {
            let longer = if dressed { CHECKSUM_SIZE.into() } else { 0 };
            self.event_loop.peers().check_read(id, longer);
        }
        for (peer, count) in world.subscribers.iter().flat_map(Subscriber::held) {
            let in_flight = self.event_loop.peers().in_flight(peer);
            assert!(
                in_flight.is_none_or(|all| all.messages >= count),
                "{count} messages of {peer} are held, and {in_flight:?} in flight"
            );
        }
        let every = self.size.turns_between_looks();
        self.turns.check(&world, &mut self.event_loop, every);
        for subscriber in &world.subscribers {
            subscriber.check();
        }
        if let Some(asker) = &world.asker {
            asker.check(world.registry.requests.row());
        }
        let ledger = &self.ledger;
        let dispatched = ledger.dispatched.get();
        assert_eq!(dispatched, ledger.claimed.get() + ledger.unclaimed.get());
        let waiting = self.event_loop.waiting_messages();
        let undispatched = ledger.inbound.messages.get() - ledger.handled.get() - dispatched;
        if self.inline {
            assert_eq!(undispatched, waiting);
        } else {
            assert!(undispatched <= waiting + ledger.dispatch_queue.get().messages);
        }
        let mut out = ledger.outbound_written.get();
        out.add(ledger.outbound_dropped.get());
        out.add(ledger.outbound_overflowed.get());
        out.add(ledger.outbound_queued.get());
        assert_eq!(ledger.outbound_accepted.get(), out);
        let closed: u64 = ledger.closed.iter().map(Counter::get).sum();
        assert_eq!(
            ledger.accepted.get(),
            closed + self.event_loop.peers().len_all()
        );
        // What is read last may pass the limit by itself.
        let slack = 2 * (self.payload_max + 64).max(BLOCK_SIZE) + BLOCK_SIZE;
        let used = ledger.budget.used();
        assert!(
            used <= ledger.budget.limit() + slack,
            "{used} bytes are in use"
        );
    }

    /// Keeps what the service says of connections that ended since this was called last.
    fn note_ended(&mut self) {
        let ended = &mut self.ended;
        for row in self.event_loop.peers().newest_closed() {
            let unconfirmed = row.unconfirmed.expect("the network tells").messages;
            let told = (row.outbound.messages, unconfirmed);
            if ended.insert(row.peer, told).is_some() {
                break;
            }
        }
    }

    /// What was written to a client has reached its system, or is unconfirmed.
    fn check_sums(world: &mut World, ended: &HashMap<PeerId, (u64, u64)>) {
        let dressed = world.slots.dress(Frame::new(MessageType(0), b"")).checksum;
        for index in 0..world.conns.len() {
            let (handled, conn) = (world.handled, &mut world.conns[index]);
            // What the client did not take is with its system.
            conn.got.extend(conn.sent.drain(..));
            check_received(conn, index, handled, dressed);
            let Some((written, unconfirmed)) = conn.id.and_then(|id| ended.get(&id)) else {
                continue;
            };
            let received = conn.received;
            assert!(
                received <= *written && *written <= received + unconfirmed,
                "conn {index}: {received} received, {written} written, {unconfirmed} unconfirmed"
            );
        }
    }

    /// The list of closed connections has the last ones, and of each reason as many as were counted
    /// if it has them all.
    fn check_ring(&mut self) {
        let rows = self.event_loop.peers().common.ended.rows();
        assert!(rows.len() <= CLOSED_ROWS_MAX);
        assert!(rows.is_sorted_by_key(|row| row.closed_at));
        for (counter, reason) in self.ledger.closed.iter().zip(CloseReason::ALL) {
            let listed = rows.iter().filter(|row| row.reason == *reason).count() as u64;
            // Those for whom there was no place to be told have no id, and no row.
            let placeless =
                *reason == CloseReason::TooManyPeers || *reason == CloseReason::TooManyPerAddress;
            let all = rows.len() < CLOSED_ROWS_MAX && !placeless;
            let counted = counter.get();
            assert!(listed == counted || (listed < counted && !all), "{reason}");
        }
    }

    /// Ends all faults, lets everybody finish, and looks whether everything arrived.
    fn heal(&mut self) {
        {
            let world = &mut *self.world.borrow_mut();
            world.say(|| "heal".to_owned());
            world.heal();
            world.rates = Rates::default();
            let now = world.now;
            let most = if world.many { 2 } else { 20 };
            for (index, client) in world.clients.iter_mut().enumerate() {
                client.next_at = client.next_at.min(now);
                client.frames_left = client.frames_left.min(most);
                world.agenda.set(index, client.next_at);
            }
            for subscriber in &mut world.subscribers {
                subscriber.next_at = now;
            }
            world.worker_at = now;
        }
        self.settings.restore(&self.commands);
        // A narrow pipe takes its time, so what counts is that something moves.
        let (mut work, mut moved) = (0, self.world.borrow().now);
        while !self.is_quiet() {
            let (now, done) = (self.world.borrow().now, self.world.borrow().work);
            if done != work {
                (work, moved) = (done, now);
            } else if now > moved + 60_000 {
                break;
            }
            self.step();
            assert!(self.steps < 2_000_000, "no end of steps");
        }
        let world = self.world.borrow();
        for subscriber in &world.subscribers {
            assert!(subscriber.is_drained(), "{subscriber:?}");
        }
        for client in &world.clients {
            let Some(index) = client.conn else { continue };
            let conn = &world.conns[index];
            let inside = conn.id.map(|id| self.event_loop.peers().describe(id));
            panic!(
                "{:?} client is not served on conn {index}: arrived {} sent {} and {} fin {} \
                 server fin {} closed {} waiting {} dispatch queue {:?} budget {}: {inside:?}",
                client.kind,
                conn.arrived.len(),
                conn.queue.len(),
                conn.sent.len(),
                conn.fin,
                conn.server_fin,
                conn.closed,
                self.event_loop.waiting_messages(),
                self.ledger.dispatch_queue.get(),
                self.ledger.budget.used()
            );
        }
        let echoes = world.subscribers.iter().any(|one| one.echo);
        for (index, conn) in world.conns.iter().enumerate() {
            let clean =
                conn.fin && !conn.rst && !conn.aborted && !conn.refused && conn.id.is_some();
            if clean && conn.bye.is_none() && conn.arrived.is_empty() && !conn.echo_lossy {
                let mut missing = world.echoes_due(conn, true);
                if echoes {
                    missing += world.echoes_due(conn, false);
                }
                let partial = conn.hostile;
                assert!(
                    partial || missing == 0,
                    "conn {index}: {missing} echoes are missing"
                );
            }
            let floods = world.subscribers.iter().any(|one| one.closes);
            // Echoes longer than their questions may fill an outbox, for which a policy cuts off.
            let dressed = world.slots.dress(Frame::new(MessageType(0), b"")).checksum;
            let gentle = !world.sends_more() && !floods && !dressed;
            if self.calm && gentle && !conn.hostile && !conn.refused {
                assert!(
                    !conn.aborted && conn.bye.is_none(),
                    "conn {index} was closed: {:?}",
                    conn.bye
                );
            }
        }
    }

    fn is_quiet(&self) -> bool {
        let world = self.world.borrow();
        world
            .clients
            .iter()
            .all(|one| one.conn.is_none() && one.connects_left == 0)
            // What a reset connection had sent may still be on its way.
            && world.conns.iter().all(|conn| conn.id.is_none() || conn.closed > 0)
            && self.ledger.dispatch_queue.get() == Traffic::default()
            && world.subscribers.iter().all(Subscriber::is_drained)
    }

    fn stop(mut self, early: bool) -> (u64, u64, Traffic, Traffic, usize) {
        self.world.borrow().say(|| "stop".to_owned());
        let timeout = if early {
            self.world.borrow_mut().random.pick(&[0, 300, 5_000])
        } else {
            5_000
        };
        let stopped = self.world.borrow().now;
        self.signals
            .order_stop(Duration::ZERO, Duration::from_millis(timeout));
        self.world.borrow_mut().rates.jump = 0;
        self.world.borrow_mut().rates.subscribe = 0;
        while !self.event_loop.has_ended() {
            // The loop counts on a dispatcher that runs beside it.
            self.world.borrow_mut().drain_worker();
            self.step();
            assert!(
                self.world.borrow().now <= stopped + timeout + 1_000,
                "the stop takes too long"
            );
        }
        self.note_ended();
        let took = self.world.borrow().now - stopped;
        assert!(
            early || took < 600,
            "a quiet service stopped after {took} ms"
        );
        while let Some(timer) = self
            .event_loop
            .peers()
            .common
            .deadlines
            .wheel
            .poll(u64::MAX)
        {
            assert!(!matches!(timer.value, Timer::Peer(_)), "{timer:?} is left");
        }
        let now = self.now();
        let Self {
            world,
            event_loop,
            hub,
            mut alarms,
            ledger,
            ended,
            ..
        } = self;
        let stop = event_loop.finish(now).stop;
        hub.close();
        let world = &mut *world.borrow_mut();
        if let Some(alarms) = &mut alarms {
            alarms.check_end(world);
        }
        world.drain_worker();
        if let Some(mut worker) = world.worker.take() {
            worker.run().unwrap();
        }
        Watchers::check_end(world);
        if let Some(mut asker) = world.asker.take() {
            asker.check_end(world, world.registry.requests.row());
        }
        for index in 0..world.subscribers.len() {
            while !Subscriber::drain(world, index, 1000, 0) {}
            world.subscribers[index].check_end();
            world.subscribers[index].leave();
        }
        for (index, conn) in world.conns.iter().enumerate() {
            let expected = u32::from(!conn.refused);
            assert_eq!(
                conn.closed, expected,
                "conn {index} is closed once: {conn:?}"
            );
        }
        Self::check_sums(world, &ended);
        let made = world.conns.iter().filter(|conn| !conn.refused).count() as u64;
        let made = made + world.turned_away;
        let given_up = world.conns.iter().filter(|conn| conn.given_up).count() as u64;
        let registry = &world.registry;
        let snapshot = ledger.snapshot(
            Duration::ZERO,
            registry.rows(),
            registry.departed(),
            registry.requests.row(),
        );
        let balance = snapshot.balance();
        assert!(balance.is_exact(), "{balance}");
        assert_eq!(snapshot.undelivered, 0);
        assert_eq!(snapshot.memory_used, 0, "bytes are not given back");
        assert_eq!(ledger.dispatch_queue.get(), Traffic::default());
        let gone = snapshot.handled + snapshot.dispatched;
        assert_eq!(snapshot.inbound.messages, gone);
        assert_eq!(snapshot.accepted, snapshot.closed_total());
        assert_eq!(snapshot.accepted, made);
        assert_eq!(snapshot.peers, 0);
        let mut out = snapshot.outbound_written;
        out.add(snapshot.outbound_dropped);
        out.add(snapshot.outbound_overflowed);
        assert_eq!(snapshot.outbound_accepted, out);
        let internal = snapshot
            .closed
            .iter()
            .find(|one| one.0 == CloseReason::Internal);
        assert_eq!(internal.map(|one| one.1), Some(0));
        check_stop(stop, &snapshot);
        let stale = CloseReason::Stale.ordinal();
        assert!(ledger.closed[stale].get() <= given_up);
        (
            world.now,
            snapshot.accepted,
            snapshot.inbound,
            snapshot.outbound_written,
            self.cuts_seen,
        )
    }
}

/// Everybody that a stop has closed is listed, or counted where there are too many.
fn check_stop(stop: Stop, snapshot: &Snapshot) {
    let closed = stop.closed_orderly + stop.closed_abortive;
    let (rows, unlisted) = stop.into_rows();
    assert!(rows.len() <= CLOSED_ROWS_MAX);
    assert_eq!(rows.len() as u64 + unlisted, closed);
    assert!(rows.is_sorted_by_key(StopRow::rank));
    let (mut inbound, mut outbound, mut lost) = (0, 0, 0);
    for row in &rows {
        let closed = &row.closed;
        assert!(row.delivered + row.held <= closed.inbound.messages, "{row}");
        assert!(row.flushed.messages <= closed.outbound.messages, "{row}");
        inbound += closed.inbound.messages;
        outbound += closed.outbound.messages;
        lost += closed.lost.messages;
    }
    assert!(inbound <= snapshot.inbound.messages && outbound <= snapshot.outbound_written.messages);
    assert!(lost <= snapshot.outbound_dropped.messages);
}

/// Echoes that a handler could not send: to whom, and why.
type Refused = Arc<Mutex<Vec<(PeerId, SendError)>>>;

fn echo_handler(
    message_type: MessageType,
    ledger: &Arc<Ledger>,
    requests: &Arc<Requests>,
    refused: &Refused,
) -> Handlers {
    let mut handlers = Handlers::new(Arc::clone(ledger), Arc::clone(requests));
    let refused = Arc::clone(refused);
    let echo = Box::new(move |message: MessageRef<'_>, replier: &mut Replier<'_>| {
        if let Err(rejected) = replier.reply(message.payload()) {
            let refusal = (message.peer(), rejected.error);
            refused.lock().unwrap().push(refusal);
        }
    });
    handlers
        .add(HandlerOptions::new(message_type), echo)
        .unwrap();
    handlers
}

fn rules(random: &mut Random, calm: bool, payload_size: u32) -> Rules {
    let mut timeout = |values: &[u64]| if calm { 0 } else { random.pick(values) };
    let (first_frame_ms, frame_ms) = (timeout(&[0, 50, 5_000]), timeout(&[0, 50, 10_000]));
    let (idle_ms, write_stall_ms) = (timeout(&[0, 0, 3_000]), timeout(&[0, 100, 10_000]));
    let hello = Hello {
        payload_size_max: payload_size,
        ..Hello::default()
    };
    Rules {
        first_frame_ms,
        frame_ms,
        idle_ms,
        write_stall_ms,
        drain_ms: DRAIN_MS,
        hello_required: random.chance(250),
        ok_payload: hello.to_payload(),
        ..Rules::lenient(Decoder::new(payload_size))
    }
}

/// All timeouts, as long as no healthy peer needs for anything.
fn set_timeouts(rules: &mut Rules, random: &mut Random) {
    rules.first_frame_ms = 2_000;
    rules.frame_ms = 5_000;
    rules.idle_ms = random.pick(&[0, 2_000]);
    rules.write_stall_ms = 2_000;
    rules.heartbeat_ms = random.pick(&[0, 500]);
    rules.heartbeat_timeout_ms = 1_500;
}

fn draw_healthy_people(world: &mut World) {
    world.unasked = 0;
    // A poll leaves events behind only where there are more connections than it has places.
    world.rates.few_events = 0;
    // And a socket with room takes something.
    world.rates.short_write = 0;
    world.punctual = true;
    for number in 0..world.random.between(1, 8) {
        let random = &mut world.random;
        let mut client = Client::new(Kind::Healthy, u8::try_from(number).unwrap());
        client.connects_left = random.between(1, 3);
        client.frames_left = random.pick(&[20, 300]);
        client.types = 6;
        client.size_max = random.pick(&[30, 3_000]);
        client.patience = random.pick(&[3, 100, 300]);
        client.next_at = random.below(5_000) as u64;
        world.add_client(client);
    }
    let registry = Arc::clone(&world.registry);
    let echo = Subscriber::echo(&registry, &mut world.random);
    world.subscribers.push(echo);
}

fn draw_rates(world: &mut World, calm: bool) {
    let random = &mut world.random;
    let mut rate = |values: &[usize]| random.pick(values);
    world.rates = Rates {
        spurious: rate(&[0, 0, 30]),
        stale: rate(&[0, 0, 100]),
        split: rate(&[0, 300]),
        short_write: rate(&[0, 100, 600]),
        skip: if calm { 0 } else { rate(&[0, 50]) },
        exhausted: rate(&[0, 50]),
        register: if calm { 0 } else { rate(&[0, 0, 50]) },
        jump: if calm { 0 } else { rate(&[0, 0, 10]) },
        few_events: rate(&[0, 0, 500]),
        ..Rates::default()
    };
    world.worker_slow = rate(&[0, 50, 500]);
    world.unasked = rate(&[0, 0, 50]);
    let handled = rate(&[usize::MAX, usize::MAX, 0, 1]);
    world.handled = u16::try_from(handled).ok().map(MessageType);
}

/// In half of the runs.
fn draw_what_is_rare(world: &mut World, bulk: bool, calm: bool) {
    let random = &mut world.rare;
    if !bulk && !random.chance(500) {
        return;
    }
    world.rates.stall = random.pick(&[0, 0, 2, 20]);
    world.rates.subscribe = random.pick(&[0, 5, 20]);
    world.rates.reset = random.pick(&[0, 0, 2, 20]);
    world.rates.urgent = random.pick(&[0, 0, 20]);
    if !calm {
        world.rates.settings = random.pick(&[0, 0, 5, 30]);
    }
    let floods = if bulk { 700 } else { random.pick(&[0, 0, 200]) };
    for client in &mut world.clients {
        if random.chance(floods) {
            (client.flood, client.size_max) = random.pick(&[(100, 0), (1_000, 30), (100, 9_000)]);
            client.frames_left = 3 * client.flood;
        }
    }
}

fn draw_people(world: &mut World, size: Size, payload_max: usize, calm: bool) {
    let hostile = world.random.chance(600);
    let kinds: &[Kind] = if hostile {
        &[
            Kind::Healthy,
            Kind::SlowReader,
            Kind::NeverReads,
            Kind::Hostile,
        ]
    } else if calm {
        &[Kind::Healthy, Kind::SlowReader]
    } else {
        &[Kind::Healthy, Kind::SlowReader, Kind::NeverReads]
    };
    for number in 0..size.clients(&mut world.random) {
        let random = &mut world.random;
        let mut client = Client::new(random.pick(kinds), u8::try_from(number % 3).unwrap());
        client.connects_left = random.between(1, 3);
        client.frames_left = random.pick(&[1, 20, 300]);
        client.types = u16::try_from(random.pick(&[1, 2, 6])).unwrap();
        client.size_max = random.pick(&[0, 30, 5_000, payload_max]);
        client.patience = random.pick(&[0, 3, 100]);
        client.next_at = random.below(50) as u64;
        world.add_client(client);
    }
    let registry = Arc::clone(&world.registry);
    if world.random.chance(800) {
        let echo = Subscriber::echo(&registry, &mut world.random);
        world.subscribers.push(echo);
    }
    for _ in 0..world.random.below(4) {
        let one = Subscriber::new(&registry, &mut world.random, true);
        world.subscribers.push(one);
    }
    if world.random.chance(300) {
        let capacity = world.random.pick(&[1, 5, 200]);
        world.asker = Some(Asker::new(&registry, capacity));
    }
    if world.random.chance(700) {
        let capacity = world.random.pick(&[1, 3, 50]);
        world.watchers = Some(Watchers::new(&registry, &world.slots, capacity));
    }
}
