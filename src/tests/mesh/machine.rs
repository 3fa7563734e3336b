//! One node with its application: the real loop, and what sends and takes its messages.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use crossbeam_channel::{Sender, bounded};

use super::{
    super::random::Random,
    net::{Fabric, MeshNet, addr_of},
    plan::{PAYLOAD_SIZE_MAX, Times, Who, Wish},
};
use crate::{
    clock::{Clock, Now, Tick},
    dial::{NewLink, Source},
    dispatch::{
        Batch, DispatchQueue, FanOut, Outlet, OverflowPolicy, QueueBounds, Registry,
        SubscribeOptions, Subscription, TypeFilter, Worker,
    },
    error::{CloseReason, SendError, TryRecvError},
    event_loop::{EventLoop, Sink},
    frame::Frame,
    handle::{Command, Signals},
    id::{LinkId, ListenerId, MessageType, NodeId, PeerId},
    idle::IdleStrategy,
    ledger::{Counter, DepartedRow, Ledger, RequestRow, Traffic},
    limits::{LINKS_MAX, REFUSED_PEERS_MAX},
    peers::{PeerLimits, Peers, Timer},
    slots::{OutFrame, OutboxLimits, Slots},
};

/// A host where nobody ever is.
pub(super) const NOBODY: usize = 99;

const TYPE: MessageType = MessageType(7);

/// The process on a host, from its start to its end.
pub(super) struct Machine {
    pub(super) host: usize,
    pub(super) epoch: u64,
    fabric: Rc<RefCell<Fabric>>,
    event_loop: EventLoop<MeshNet>,
    commands: Sender<Command>,
    signals: Arc<Signals>,
    slots: Arc<Slots>,
    pub(super) ledger: Arc<Ledger>,
    worker: Option<Worker>,
    subscription: Subscription,
    held: Vec<Batch>,
    /// How many batches the application holds on to.
    keep: usize,
    start: Instant,
    steps: u64,
    pub(super) next_act: Tick,
    act_ms: usize,
    size_max: usize,
}

fn link_id(epoch: u64, wish: usize) -> LinkId {
    LinkId(epoch * 1_000 + wish as u64)
}

impl Machine {
    pub(super) fn boot(
        fabric: &Rc<RefCell<Fabric>>,
        host: usize,
        who: &Who,
        times: Times,
        wishes: &[Wish],
    ) -> Self {
        fabric.borrow_mut().boot(host);
        let mut random = Random::new(fabric.borrow_mut().random.next());
        let (now, epoch) = {
            let fabric = fabric.borrow();
            (fabric.now, u64::from(fabric.hosts[host].epoch))
        };
        let capacity = Traffic::new(random.pick(&[30, 65_536]), 1 << 20);
        let ledger = Arc::new(Ledger::new(64 << 20, capacity));
        let clock = Clock::start();
        let limits = PeerLimits {
            peers: 100,
            peers_per_origin: 0,
            pending: 0,
        };
        let outbox = OutboxLimits {
            bytes: random.pick(&[200 << 10, 1 << 20]),
            messages: random.pick(&[40, 65_536]),
            payload_size: PAYLOAD_SIZE_MAX,
        };
        let count = limits.peers + REFUSED_PEERS_MAX + LINKS_MAX;
        let slots = Arc::new(Slots::new(0, count, outbox, Arc::clone(&ledger), clock));
        let registry = Arc::new(Registry::new(1_000));
        let subscription = subscribe(&registry, &mut random);
        let net = MeshNet {
            fabric: Rc::clone(fabric),
            host,
        };
        let (sink, worker) = make_sink(&registry, &slots, random.chance(500));
        let rules = who.rules(times, random.next());
        let peers = Peers::new(Arc::clone(&slots), rules, limits, now);
        let (commands, receiver) = bounded(64);
        let signals = Arc::<Signals>::default();
        let poke = Arc::clone(registry.poke(0));
        let event_loop = EventLoop::new(
            net,
            vec![ListenerId(0)],
            peers,
            Arc::clone(&slots),
            sink,
            poke,
            receiver,
            Arc::default(),
            Arc::clone(&signals),
            IdleStrategy::Block,
            now,
        );
        let mut machine = Self {
            host,
            epoch,
            fabric: Rc::clone(fabric),
            event_loop,
            commands,
            signals,
            slots,
            ledger,
            worker,
            subscription,
            held: Vec::new(),
            keep: 0,
            start: clock.now().instant,
            steps: 0,
            next_act: now,
            act_ms: random.pick(&[200, 600, 1_500]),
            size_max: random.pick(&[0, 100, PAYLOAD_SIZE_MAX as usize - 100]),
        };
        for (index, wish) in wishes.iter().enumerate() {
            if wish.from == host && wish.active {
                machine.connect(index, wish);
            }
        }
        machine
    }

    fn stir(&self) {
        self.fabric.borrow_mut().hosts[self.host].stirred = true;
    }

    fn command(&self, command: Command) {
        self.commands.send(command).unwrap();
        self.stir();
    }

    fn connect(&mut self, index: usize, wish: &Wish) {
        let mut addrs = vec![addr_of(wish.to, index)];
        if wish.detour {
            addrs.insert(0, addr_of(NOBODY, index));
        }
        let link = NewLink {
            id: link_id(self.epoch, index),
            source: Source::Addrs(addrs),
            keep: wish.keep,
            hello: wish.hello,
            checksums: false,
            timeout_ms: None,
        };
        let links = &self.slots.links;
        links.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.command(Command::Connect(Box::new(link)));
    }

    pub(super) fn disconnect(&mut self, wish: usize) {
        self.command(Command::Disconnect(link_id(self.epoch, wish)));
    }

    pub(super) fn stop(&self, timeout: Duration) {
        self.signals.order_stop(Duration::ZERO, timeout);
        self.stir();
    }

    pub(super) fn has_ended(&self) -> bool {
        self.event_loop.has_ended()
    }

    // ----- the loop --------------------------------------------------------------------------

    /// When the loop goes on if nothing happens.
    pub(super) fn sleeps_until(&self) -> Tick {
        let fabric = self.fabric.borrow();
        let host = &fabric.hosts[self.host];
        if host.stirred || self.has_items() {
            return fabric.now;
        }
        host.sleeps_until.unwrap_or(fabric.now)
    }

    fn has_items(&self) -> bool {
        self.worker.as_ref().is_some_and(Worker::has_items)
    }

    /// Lets the loop take a turn, if it would. True if it did.
    pub(super) fn step(&mut self, wishes: &[Wish], people: &[Who]) -> bool {
        let lazy = self.fabric.borrow_mut().random.chance(300);
        if !lazy || self.event_loop.has_ended() {
            self.run_worker();
            // Whoever takes nothing is not read from, and then seems to be dead.
            self.drain(self.keep);
        }
        let now = self.now();
        if self.event_loop.has_ended() || self.sleeps_until() > now.tick {
            return false;
        }
        if let Err(error) = self.event_loop.poll(now) {
            panic!("host {}: {error}: {:?}", self.host, self.event_loop);
        }
        if self.fabric.borrow().hosts[self.host].sleeps_until.is_some() {
            return self.has_items();
        }
        let attempts = self.fabric.borrow().attempts.len();
        let rows = self.ledger.closed.iter().map(Counter::get).sum::<u64>();
        let needless = self.needless(wishes, people);
        self.event_loop.turn(now);
        for attempt in &self.fabric.borrow().attempts[attempts..] {
            let needed = !needless.contains(&attempt.wish);
            let target = people.get(wishes[attempt.wish].to);
            let still = target.is_some_and(|who| self.event_loop.peers().is_node_up(who.node_id));
            assert!(
                needed || !still,
                "host {} dials for wish {} although it is connected",
                self.host,
                attempt.wish
            );
        }
        if self.ledger.closed.iter().map(Counter::get).sum::<u64>() > rows {
            self.fabric.borrow().say(|| {
                format!(
                    "host {} {:?}",
                    self.host,
                    self.event_loop.peers().common.ended.rows().last()
                )
            });
        }
        self.check(now.tick);
        if self.fabric.borrow_mut().random.chance(100) {
            self.greet();
        }
        true
    }

    /// Sends over connections that have carried nothing yet: some are about to give way.
    fn greet(&self) {
        let ends = self.open_ends();
        let is_new = |(index, side): &(usize, usize)| {
            let end = &self.fabric.borrow().conns[*index].ends[*side];
            end.accepted == 0
        };
        for end in ends.into_iter().filter(is_new) {
            self.send(end);
        }
    }

    /// Wishes that are fulfilled by a connection to the same node, as far as the loop can know.
    fn needless(&mut self, wishes: &[Wish], people: &[Who]) -> Vec<usize> {
        let mut found = Vec::new();
        for (index, wish) in wishes.iter().enumerate() {
            let Some(who) = people.get(wish.to).filter(|_| wish.from == self.host) else {
                continue;
            };
            let link = link_id(self.epoch, index);
            let peers = self.event_loop.peers();
            if peers.waits_for_node(link, who.node_id) && peers.is_node_up(who.node_id) {
                found.push(index);
            }
        }
        found
    }

    fn run_worker(&mut self) {
        let Some(worker) = &mut self.worker else {
            return;
        };
        for _ in 0..4 {
            if !worker.step() {
                return;
            }
            let host = &mut self.fabric.borrow_mut().hosts[self.host];
            host.stirred = true;
            host.work += 1;
        }
    }

    fn now(&self) -> Now {
        let tick = self.fabric.borrow().now;
        let instant = self.start + Duration::from_millis(tick);
        Now { tick, instant }
    }

    fn check(&mut self, now: Tick) {
        self.steps += 1;
        let inside = self.event_loop.peers().len_all();
        let ledger = &self.ledger;
        let closed: u64 = ledger.closed.iter().map(Counter::get).sum();
        let made = ledger.accepted.get() + ledger.dialled.get();
        assert_eq!(made, closed + inside, "host {}", self.host);
        let mut out = ledger.outbound_written.get();
        out.add(ledger.outbound_dropped.get());
        out.add(ledger.outbound_queued.get());
        assert_eq!(ledger.outbound_accepted.get(), out);
        self.event_loop.peers().check(now);
        if self.steps % 8 == 0 {
            let fabric = self.fabric.borrow();
            for row in self.event_loop.peers().rows(now) {
                let (index, side) = fabric.hosts[self.host].ids[&row.peer];
                let sum = row.outbound.messages + row.queued.messages;
                let accepted = fabric.conns[index].ends[side].accepted;
                assert!(
                    row.closing || sum == accepted,
                    "{row:?}: {accepted} accepted"
                );
            }
        }
    }

    // ----- the application -------------------------------------------------------------------

    /// Takes what came, and sends to somebody; with `all`, to everybody.
    pub(super) fn act(&mut self, all: bool) {
        let (mut keep, count) = {
            let fabric = &mut *self.fabric.borrow_mut();
            self.next_act = fabric.now + fabric.random.between(1, self.act_ms) as u64;
            fabric.hosts[self.host].work += 1;
            (
                fabric.random.pick(&[0, 0, 1, 3]),
                fabric.random.between(0, 3),
            )
        };
        if all {
            keep = 0;
        }
        self.keep = keep;
        self.drain(keep);
        let ends = self.open_ends();
        if all {
            for end in &ends {
                self.send(*end);
            }
        } else if !ends.is_empty() {
            for _ in 0..count {
                let place = self.fabric.borrow_mut().random.below(ends.len());
                self.send(ends[place]);
            }
        }
        self.stir();
    }

    fn open_ends(&self) -> Vec<(usize, usize)> {
        let fabric = self.fabric.borrow();
        let ids = fabric.hosts[self.host].ids.values();
        ids.copied()
            .filter(|(index, side)| !fabric.conns[*index].ends[*side].closed)
            .collect()
    }

    fn send(&self, (index, side): (usize, usize)) {
        let (peer, number, size) = {
            let fabric = &mut *self.fabric.borrow_mut();
            let end = &fabric.conns[index].ends[side];
            let (peer, number) = (end.peer.unwrap(), end.accepted);
            (peer, number, fabric.random.below(self.size_max + 1))
        };
        // Two who both send more than the other takes would both stop reading for it.
        let (queued, limits) = (self.slots.queued(peer), self.slots.limits());
        if queued.bytes * 4 >= limits.bytes || queued.messages * 4 >= limits.messages {
            return;
        }
        let mut payload = Vec::with_capacity(24 + size);
        payload.extend_from_slice(&(index as u64).to_be_bytes());
        payload.extend_from_slice(&(side as u64).to_be_bytes());
        payload.extend_from_slice(&number.to_be_bytes());
        payload.resize(24 + size, 7);
        let frame = Frame::new(TYPE, &payload);
        match self.slots.send(peer, OutFrame { frame, owned: None }) {
            Ok(()) => self.fabric.borrow_mut().conns[index].ends[side].accepted += 1,
            Err(SendError::Full | SendError::NotConnected | SendError::Closing) => {}
            Err(error) => panic!("{error}"),
        }
    }

    fn drain(&mut self, keep: usize) -> bool {
        let ended = loop {
            match self.subscription.try_recv_batch() {
                Ok(batch) => {
                    self.check_batch(&batch);
                    self.held.push(batch);
                }
                Err(TryRecvError::Empty) => break false,
                Err(TryRecvError::Disconnected) => break true,
            }
        };
        while self.held.len() > keep {
            self.held.remove(0);
        }
        ended
    }

    /// The messages of each connection come in order, none twice, and none is missing between them.
    fn check_batch(&self, batch: &Batch) {
        assert_eq!(batch.missed(), 0);
        let fabric = &mut *self.fabric.borrow_mut();
        let (index, side) = fabric.hosts[self.host].ids[&batch.peer()];
        for message in batch {
            let number = |at: usize| {
                let bytes = message.payload()[at..at + 8].try_into().unwrap();
                u64::from_be_bytes(bytes)
            };
            let end = &mut fabric.conns[index].ends[side];
            let expected = (index as u64, 1 - side as u64, end.received);
            assert_eq!((number(0), number(8), number(16)), expected);
            end.received += 1;
        }
    }

    /// Closes one of the connections that others made.
    pub(super) fn close_one(&self) {
        let ends: Vec<_> = self.open_ends();
        let accepted: Vec<_> = ends.iter().filter(|(_, side)| *side == 1).collect();
        if accepted.is_empty() {
            return;
        }
        let place = self.fabric.borrow_mut().random.below(accepted.len());
        let (index, side) = *accepted[place];
        let peer = self.fabric.borrow().conns[index].ends[side].peer;
        self.slots.ask_close(peer.unwrap());
        self.stir();
    }

    // ----- looking on ------------------------------------------------------------------------

    /// Connections that are up and said who they are: their number, and who they say they are.
    pub(super) fn introduced(&mut self) -> Vec<(usize, NodeId)> {
        let open = self.event_loop.peers().introduced();
        let ids = &self.fabric.borrow().hosts[self.host].ids;
        open.iter().map(|(peer, id)| (ids[peer].0, *id)).collect()
    }

    /// Connections that are up, by number.
    pub(super) fn open(&mut self) -> Vec<usize> {
        let open = self.event_loop.peers().open();
        let ids = &self.fabric.borrow().hosts[self.host].ids;
        open.iter().map(|peer| ids[peer].0).collect()
    }

    pub(super) fn describe_links(&mut self) -> String {
        self.event_loop.peers().describe_links()
    }

    pub(super) fn describe(&mut self, conn: usize) -> Vec<String> {
        let fabric = Rc::clone(&self.fabric);
        let fabric = fabric.borrow();
        let ends = fabric.conns[conn].ends.iter();
        let own = ends.filter(|end| end.host == self.host);
        let peers: Vec<PeerId> = own.filter_map(|end| end.peer).collect();
        let rows = self.event_loop.peers().common.ended.rows();
        let rows = rows.iter().filter(|row| peers.contains(&row.peer));
        let mut told: Vec<String> = rows.map(|row| format!("{row:?}")).collect();
        let inside = peers
            .iter()
            .map(|peer| self.event_loop.peers().describe(*peer));
        told.extend(inside);
        told
    }

    /// What was counted for the connections that ended. `excused` says of which it is known that a
    /// fault may have ended it; `settled` that everything has been taken since.
    pub(super) fn check_closed(&mut self, excused: &dyn Fn(usize) -> bool, settled: bool) {
        let rows = self.event_loop.peers().common.ended.rows();
        let fabric = &mut *self.fabric.borrow_mut();
        for row in rows {
            let (index, side) = fabric.hosts[self.host].ids[&row.peer];
            fabric.conns[index].ends[side].row = Some(row.clone());
            let ends = &fabric.conns[index].ends;
            let (own, other) = (&ends[side], &ends[1 - side]);
            assert_eq!(own.accepted, row.outbound.messages + row.lost.messages);
            assert!(other.received <= row.outbound.messages, "{row:?} {other:?}");
            assert!(own.received <= row.inbound.messages);
            // Whoever kept another connection of ours has taken what we had written before we knew;
            // unless it had dialled, and never took our OK.
            let gave_way = row.bye_received == CloseReason::DuplicateNode.wire_code();
            if settled && gave_way && side == 0 && !excused(index) {
                assert_eq!(other.received, row.outbound.messages, "{row:?} {other:?}");
            }
            let silence = matches!(
                row.reason,
                CloseReason::HeartbeatTimeout | CloseReason::FrameTimeout | CloseReason::SlowPeer
            );
            assert!(
                !silence || excused(index),
                "host {} lost healthy conn {index}: {row:?}",
                self.host
            );
        }
    }

    /// Everything is given back.
    pub(super) fn finish(mut self) -> Ended {
        while let Some(timer) = self
            .event_loop
            .peers()
            .common
            .deadlines
            .wheel
            .poll(u64::MAX)
        {
            assert!(
                !matches!(timer.value, Timer::Peer(_) | Timer::Link(_)),
                "{timer:?} is left"
            );
        }
        let Self {
            ref slots,
            ref ledger,
            ..
        } = self;
        assert_eq!(slots.links.load(std::sync::atomic::Ordering::Relaxed), 0);
        let ledger = Arc::clone(ledger);
        assert!(self.event_loop.peers().is_empty());
        if let Some(mut worker) = self.worker.take() {
            while worker.step() {
                self.drain(0);
            }
            self.worker = Some(worker);
        }
        self.drain(0);
        let now = self.now();
        let Self {
            event_loop,
            worker,
            subscription,
            held,
            ..
        } = self;
        assert!(event_loop.finish(now).failure.is_none());
        drop((subscription, held));
        if let Some(mut worker) = worker {
            worker.run().unwrap();
        }
        let snapshot = ledger.snapshot(
            Duration::ZERO,
            Vec::new(),
            DepartedRow::default(),
            RequestRow::default(),
        );
        assert_eq!(snapshot.memory_used, 0, "bytes are not given back");
        assert_eq!(snapshot.peers, 0);
        assert_eq!(
            snapshot.accepted + snapshot.dialled,
            snapshot.closed_total()
        );
        assert_eq!(snapshot.inbound.messages, snapshot.dispatched);
        let mut out = snapshot.outbound_written;
        out.add(snapshot.outbound_dropped);
        assert_eq!(snapshot.outbound_accepted, out);
        let internal = ledger.closed[CloseReason::Internal.ordinal()].get();
        assert_eq!(internal, 0);
        Ended {
            dialled: snapshot.dialled,
            inbound: snapshot.inbound.messages,
        }
    }

    /// All that the loop knows of a connection.
    pub(super) fn inside(&mut self, peer: PeerId) -> String {
        self.event_loop.peers().describe(peer)
    }

    /// The peer of a connection that is up here.
    pub(super) fn is_open(&mut self, peer: PeerId) -> bool {
        self.event_loop.peers().open().contains(&peer)
    }
}

/// What a node has done in its life.
pub(super) struct Ended {
    pub(super) dialled: u64,
    pub(super) inbound: u64,
}

fn subscribe(registry: &Arc<Registry>, random: &mut Random) -> Subscription {
    let messages = random.pick(&[100, 1_000]);
    let options = SubscribeOptions::new(TypeFilter::all())
        .messages(messages)
        .overflow(OverflowPolicy::Pause);
    let (outlet, receiver) = Outlet::queue(&options);
    let account = registry.add(options, outlet).unwrap();
    let idle = IdleStrategy::Block;
    Subscription::new(
        receiver,
        account,
        Arc::clone(registry),
        idle,
        Clock::start(),
    )
}

fn make_sink(registry: &Arc<Registry>, slots: &Arc<Slots>, inline: bool) -> (Sink, Option<Worker>) {
    let poke = Arc::clone(registry.poke(0));
    let ledger = Arc::clone(&slots.ledger);
    if inline {
        let bounds = QueueBounds::new(ledger);
        let fan_out = FanOut::new(Arc::clone(registry), Arc::clone(slots), bounds.clone());
        let sink = Sink::Inline {
            fan_out: Box::new(fan_out),
            bounds,
            on_tick: Box::new(|| {}),
        };
        return (sink, None);
    }
    let (mut queue, items) = DispatchQueue::new(ledger);
    let fan_out = FanOut::new(
        Arc::clone(registry),
        Arc::clone(slots),
        queue.bounds().clone(),
    );
    poke.set_wake(queue.waker());
    let worker = Worker::new(
        items,
        queue.make_direct(fan_out),
        poke,
        Box::new(|| {}),
        IdleStrategy::Block,
        slots.clock,
    );
    (Sink::Queue(queue), Some(worker))
}
