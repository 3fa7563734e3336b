//! A rolling restart under load: clients that keep their links send on and on while their server
//! is stopped and started again. Between each client and all that its servers were, the ledgers
//! have to agree, and with both sides heeding BYE nothing is left open.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use nebnet::{
    ClosedRow, Config, ConnectOptions, Event, EventOptions, EventSubscription, Handle, MessageType,
    NetService, NodeId, Outgoing, OutgoingBatch, OverflowPolicy, PeerId, SendError, StopReport,
    SubscribeOptions, TypeFilter,
};

use crate::util::{self, PATIENCE, SetAtEnd, ledgers::Ledger};

/// How often a client sends, if it sends at a rate.
const PERIOD: Duration = Duration::from_millis(1);

/// What is done.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) clients: u8,
    /// Messages a second, of each.
    pub(crate) rate: u32,
    pub(crate) restarts: u32,
    /// How long each server runs.
    pub(crate) runs_for: Duration,
}

/// What a client and all its servers say of the same messages.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) client: Ledger,
    pub(crate) servers: Ledger,
    /// Messages that the client's sends were accepted for, and of those the ones that it lost.
    pub(crate) accepted: u64,
    pub(crate) lost: u64,
    pub(crate) connections: u64,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) rows: Vec<Row>,
    /// How long each stop of a server took.
    pub(crate) stops: Vec<Duration>,
}

/// Runs it, and gives one row for each client.
pub(crate) fn run(plan: Plan) -> Outcome {
    let addr = free_addr();
    let over = AtomicBool::new(false);
    let mut servers = Servers::default();
    let clients: Vec<_> = (1..=plan.clients).map(|id| connect(id, addr)).collect();
    let reports: Vec<(NodeId, StopReport)> = thread::scope(|scope| {
        let guard = SetAtEnd(&over);
        let sending: Vec<_> = clients
            .into_iter()
            .map(|(id, mut client, events)| {
                let over = &over;
                scope.spawn(move || {
                    send_on(&client.handle(), &events, plan.rate, over);
                    (id, util::stop_within(&mut client, PATIENCE))
                })
            })
            .collect();
        for restart in 0..=plan.restarts {
            let (mut server, taking) = start(addr);
            let all = u64::from(plan.clients);
            util::wait_until("all have found it", || {
                server.handle().snapshot().peers == all
            });
            let wanted = u64::from(plan.rate) / 100 * all;
            let started = Instant::now();
            util::wait_until("messages flow", || {
                started.elapsed() >= plan.runs_for
                    && server.handle().snapshot().inbound.messages >= wanted
            });
            if restart == plan.restarts {
                // At the end it is the clients that leave.
                over.store(true, Ordering::Relaxed);
                util::wait_until("all have left", || server.handle().snapshot().peers == 0);
            }
            servers.end(&mut server);
            taking.join().unwrap();
        }
        drop(guard);
        let reports = sending.into_iter().map(|one| one.join().unwrap());
        reports.collect()
    });
    let row = |(id, report): (NodeId, StopReport)| Row {
        client: Ledger::of(&report.snapshot),
        servers: servers.ledgers.get(&id).copied().unwrap_or_default(),
        accepted: report.snapshot.outbound_accepted.messages,
        lost: report.snapshot.outbound_dropped.messages,
        connections: report.snapshot.dialled,
    };
    Outcome {
        rows: reports.into_iter().map(row).collect(),
        stops: servers.stops,
    }
}

/// A port that nobody listens on, and that no connection takes meanwhile.
fn free_addr() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

fn start(addr: SocketAddr) -> (NetService, thread::JoinHandle<()>) {
    let config = Config::default().listen(addr).shards(util::shards());
    let mut server = NetService::new(config).unwrap();
    let options = SubscribeOptions::new(TypeFilter::all()).overflow(OverflowPolicy::Pause);
    let mut messages = server.handle().subscribe_with(options).unwrap();
    server.start().unwrap();
    let taking = thread::spawn(move || while messages.recv_batch().is_ok() {});
    (server, taking)
}

/// A client with a link that comes back soon.
fn connect(id: u8, addr: SocketAddr) -> (NodeId, NetService, EventSubscription) {
    let id = NodeId([id; 16]);
    let config = Config::default()
        .listen_nowhere()
        .node_id(id.0)
        .reconnect(PERIOD, 20 * PERIOD);
    let mut client = NetService::new(config).unwrap();
    let events = client
        .handle()
        .subscribe_events(EventOptions::new())
        .unwrap();
    client.start().unwrap();
    let link = ConnectOptions::from(addr).keep_connected(true);
    client.handle().connect(link).unwrap();
    (id, client, events)
}

/// Sends at a rate on whatever connection there is. What is refused is sent again later, so that
/// what counts is what was accepted.
fn send_on(handle: &Handle, events: &EventSubscription, rate: u32, over: &AtomicBool) {
    let mut open: Option<PeerId> = None;
    let per_period = rate.div_ceil(1_000);
    let mut batch = OutgoingBatch::new();
    let mut next = Instant::now();
    while !over.load(Ordering::Relaxed) {
        while let Ok(event) = events.try_recv() {
            match event {
                Event::Connected { peer, .. } => open = Some(peer),
                Event::Closed(row) if open == Some(row.peer) => open = None,
                _ => {}
            }
        }
        if let Some(peer) = open {
            while batch.len() < per_period as usize {
                let message = Outgoing::new(MessageType(7), b"on and on");
                batch.push(&message).unwrap();
            }
            match handle.send_batch(peer, &mut batch) {
                Ok(()) => {}
                Err(error) if error.is_full() => {}
                Err(SendError::Closing | SendError::NotConnected) => open = None,
                Err(error) => panic!("{peer}: {error}"),
            }
        }
        next += PERIOD;
        thread::park_timeout(next.saturating_duration_since(Instant::now()));
    }
}

/// What all servers said, by client.
#[derive(Default)]
struct Servers {
    ledgers: HashMap<NodeId, Ledger>,
    stops: Vec<Duration>,
}

impl Servers {
    fn end(&mut self, server: &mut NetService) {
        let mut rows: Vec<ClosedRow> = server.handle().recently_closed().unwrap();
        let report = util::stop_within(server, PATIENCE);
        rows.extend(report.peers.iter().map(|row| row.closed.clone()));
        for row in rows {
            let sum = self.ledgers.entry(row.node_id).or_default();
            *sum = sum.and(Ledger::of_row(&row));
        }
        self.stops.push(report.elapsed);
    }
}
