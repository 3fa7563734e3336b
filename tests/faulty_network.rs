//! Services and clients over a bad network: what arrives arrived once and whole, what was damaged
//! is found, sums balance on both sides, and when the network is well again everything is served.
#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "tests wait by the clock, and end where something is wrong"
)]

mod util;

use std::{
    collections::HashMap,
    io::Write as _,
    net::SocketAddr,
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

use nebnet::{
    CloseReason, Config, ConnectOptions, Event, EventOptions, EventSubscription, MessageType,
    NetService, Outgoing, OverflowPolicy, PeerId, SendError, SubscribeOptions, Subscription,
    TypeFilter, frame::Frame,
};
use util::{
    BYE, Client, PATIENCE, Random, closed_for, config, encoded,
    proxy::{Faults, Proxy},
    start_echo, stop, stop_echo, wait_until,
};

const T: MessageType = MessageType(7);

/// Reasons of a peer whose bytes were damaged, or whose frame never became whole.
const DAMAGED: [CloseReason; 6] = [
    CloseReason::BadChecksum,
    CloseReason::BadVersion,
    CloseReason::BadFlags,
    CloseReason::FrameTooShort,
    CloseReason::FrameTooLong,
    CloseReason::FrameTimeout,
];

/// Slow, in pieces, and everything arrives.
fn nasty() -> Faults {
    Faults {
        delay: Duration::from_millis(2),
        split: 100,
        coalesce: 20,
        stop: 10,
        stop_time: Duration::from_millis(50),
        ..Faults::default()
    }
}

/// A message that tells by itself where it belongs and whether it is whole.
fn payload(stream: u32, number: u32) -> Vec<u8> {
    let mut bytes = [stream.to_be_bytes(), number.to_be_bytes()].concat();
    let mut random = Random(u64::from(stream) << 32 | u64::from(number) | 1 << 63);
    let size = random.below(700);
    bytes.extend((0..size).map(|_| u8::try_from(random.below(256)).unwrap()));
    bytes
}

/// The stream and number of a message, which has to be as it was made.
#[track_caller]
fn place_of(bytes: &[u8]) -> (u32, u32) {
    let word = |at: usize| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap());
    let (stream, number) = (word(0), word(4));
    assert!(bytes == payload(stream, number), "torn: {stream} {number}");
    (stream, number)
}

/// A pipeline of messages with checksums through a network; gives how many answers came before the
/// end, which have to be the first ones, each once.
fn exchange(addr: SocketAddr, stream: u32, count: u32) -> u32 {
    let mut client = Client::connect(addr);
    let mut writing = client.stream.try_clone().unwrap();
    let writer = thread::spawn(move || {
        for number in 0..count {
            let payload = payload(stream, number);
            let frame = encoded(&Frame::new(T, &payload).with_checksum(true));
            if writing.write_all(&frame).is_err() {
                return;
            }
        }
    });
    let mut answered = 0;
    while answered < count {
        match client.receive() {
            Some(answer) if answer.message_type == BYE => {}
            Some(answer) => {
                assert_eq!(place_of(&answer.payload), (stream, answered));
                answered += 1;
            }
            None => break,
        }
    }
    drop(client);
    writer.join().unwrap();
    answered
}

#[test]
fn a_slow_network_in_pieces_loses_nothing() {
    for seed in 1..4 {
        let (service, echo) = start_echo(config());
        let throttled = Faults {
            throttle: 200_000,
            ..nasty()
        };
        let proxies =
            [nasty(), throttled].map(|faults| Proxy::start(service.local_addrs()[0], seed, faults));
        let clients: Vec<_> = (0..8)
            .map(|number| {
                let addr = proxies[number as usize % 2].addr;
                thread::spawn(move || exchange(addr, number, 300))
            })
            .collect();
        for client in clients {
            assert_eq!(client.join().unwrap(), 300, "seed {seed}");
        }
        wait_until("all are gone", || service.handle().snapshot().peers == 0);
        let report = stop_echo(service, echo);
        assert_eq!(report.snapshot.inbound.messages, 8 * 300);
        assert_eq!(closed_for(&report.snapshot, CloseReason::PeerClosed), 8);
    }
}

#[test]
fn cut_streams_are_prefixes_and_the_next_ones_are_served() {
    for seed in 1..4 {
        let (service, echo) = start_echo(config().frame_timeout(Duration::from_millis(500)));
        let faults = Faults {
            cut: 30,
            half_close: 30,
            ..nasty()
        };
        let proxy = Proxy::start(service.local_addrs()[0], seed, faults);
        let mut streams = 0;
        while proxy.struck().cut.load(Ordering::Relaxed) < 5
            || proxy.struck().half_closed.load(Ordering::Relaxed) < 5
        {
            exchange(proxy.addr, streams, 300);
            streams += 1;
        }
        proxy.heal();
        assert_eq!(exchange(proxy.addr, streams, 300), 300, "seed {seed}");
        stop_echo(service, echo);
    }
}

/// Each flipped bit ends its connection as broken protocol, and nothing of its frame is delivered.
#[test]
fn every_damaged_frame_is_found() {
    for seed in 1..4 {
        let (service, echo) = start_echo(config().frame_timeout(Duration::from_millis(300)));
        let faults = Faults {
            corrupt: [200, 0],
            split: 100,
            ..Faults::default()
        };
        let proxy = Proxy::start(service.local_addrs()[0], seed, faults);
        let struck = || proxy.struck().corrupted.load(Ordering::Relaxed);
        let mut stream = 0;
        while struck() < 30 {
            let before = struck();
            let answered = exchange(proxy.addr, stream, 50);
            assert_eq!(answered == 50, struck() == before, "seed {seed} {stream}");
            stream += 1;
        }
        wait_until("all are gone", || service.handle().snapshot().peers == 0);
        let report = stop_echo(service, echo);
        let found = DAMAGED.map(|reason| closed_for(&report.snapshot, reason));
        assert_eq!(
            found.iter().sum::<u64>(),
            struck(),
            "seed {seed}: {found:?}"
        );
    }
}

// ----- services among themselves -----------------------------------------------------------------

/// A service that is linked with another, and what it saw of it.
struct Linked {
    service: NetService,
    events: EventSubscription,
    messages: Subscription,
    /// By the peer of a connection: its stream, and how many of its messages came.
    received: HashMap<PeerId, (u32, u32)>,
    /// Streams sent, each on a connection of its own, and how much of each was accepted.
    sent: HashMap<u32, u32>,
    /// The connection that is there, and the stream that goes over it.
    current: Option<(PeerId, u32)>,
}

/// Messages of a stream.
const STREAM: u32 = 400;

impl Linked {
    fn start(config: Config) -> Self {
        let fast = Duration::from_millis(5);
        let config = config
            .heartbeat(Duration::from_millis(100), Duration::from_millis(500))
            .connect_timeout(Duration::from_millis(500))
            .frame_timeout(Duration::from_millis(500))
            .write_stall_timeout(Duration::from_millis(800))
            .reconnect(fast, fast * 8);
        let mut service = NetService::new(config).unwrap();
        let options = SubscribeOptions::new(TypeFilter::all()).overflow(OverflowPolicy::Pause);
        let messages = service.handle().subscribe_with(options).unwrap();
        let events = service
            .handle()
            .subscribe_events(EventOptions::new())
            .unwrap();
        service.start().unwrap();
        Self {
            service,
            events,
            messages,
            received: HashMap::new(),
            sent: HashMap::new(),
            current: None,
        }
    }

    /// Does what there is to do without waiting.
    fn turn(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            match event {
                // Accepted connections introduce themselves later; both sides talk at once.
                Event::Connected { peer, .. } => {
                    let stream = u32::try_from(self.sent.len()).unwrap();
                    self.sent.insert(stream, 0);
                    self.current = Some((peer, stream));
                }
                Event::Closed(row) if self.current.is_some_and(|(peer, _)| peer == row.peer) => {
                    self.current = None;
                }
                _ => {}
            }
        }
        while let Ok(message) = self.messages.try_recv() {
            let place = place_of(message.payload());
            let seen = self.received.entry(message.peer()).or_insert((place.0, 0));
            // Nothing twice, nothing left out, nothing of another connection.
            assert_eq!(place, *seen);
            seen.1 += 1;
        }
        let Some((peer, stream)) = self.current else {
            return;
        };
        let number = self.sent.get_mut(&stream).unwrap();
        for _ in 0..20 {
            if *number == STREAM {
                return;
            }
            let payload = payload(stream, *number);
            let message = Outgoing::new(T, &payload).checksum(true);
            match self.service.handle().send(peer, message) {
                Ok(()) => *number += 1,
                Err(rejected) => {
                    let has_ended = [SendError::NotConnected, SendError::Closing];
                    let expected = rejected.error.is_full() || has_ended.contains(&rejected.error);
                    assert!(expected, "{}", rejected.error);
                    return;
                }
            }
        }
    }

    /// Whether everything that goes over the present connection has been sent.
    fn has_sent_all(&self) -> bool {
        let sent = self.current.map(|(_, stream)| self.sent[&stream]);
        sent == Some(STREAM)
    }

    fn has_received_all(&self) -> bool {
        let (Some((peer, _)), received) = (self.current, &self.received) else {
            return false;
        };
        received.get(&peer).is_some_and(|seen| seen.1 == STREAM)
    }

    /// The streams that came in are beginnings of those that the other sent.
    fn expect_prefixes_of(&self, other: &Self) {
        for (stream, count) in self.received.values() {
            assert!(*count <= other.sent[stream], "stream {stream}");
        }
    }
}

#[test]
fn linked_services_stand_a_network_that_breaks_them_apart() {
    for seed in 1..3 {
        let mut near = Linked::start(config().node_id([1; 16]).listen_nowhere());
        let mut far = Linked::start(config().node_id([2; 16]));
        let faults = Faults {
            cut: 30,
            half_close: 30,
            corrupt: [30, 30],
            silence: 30,
            ..nasty()
        };
        let proxy = Proxy::start(far.service.local_addrs()[0], seed, faults);
        let kept = ConnectOptions::from(proxy.addr).keep_connected(true);
        near.service.handle().connect(kept).unwrap();
        let started = Instant::now();
        while proxy.struck().least() < 3 {
            near.turn();
            far.turn();
            let late = started.elapsed() > PATIENCE;
            assert!(
                !late,
                "seed {seed}: {:?} {:?}",
                proxy.struck(),
                near.service.handle().snapshot()
            );
            thread::yield_now();
        }
        proxy.heal();
        wait_until("everything is served", || {
            near.turn();
            far.turn();
            near.has_sent_all()
                && far.has_sent_all()
                && near.has_received_all()
                && far.has_received_all()
        });
        near.expect_prefixes_of(&far);
        far.expect_prefixes_of(&near);
        let reports = [&mut near, &mut far].map(|side| stop(&mut side.service));
        let [here, there] = reports.map(|report| report.snapshot);
        let damaged = DAMAGED.map(|reason| closed_for(&here, reason) + closed_for(&there, reason));
        let damaged = damaged.iter().sum::<u64>();
        assert!(damaged > 0, "seed {seed}: nothing was found damaged");
        for (from, to) in [(&here, &there), (&there, &here)] {
            // Every connection ended for a reason that is counted, and what arrived was sent.
            let written = from.outbound_written.messages;
            assert!(to.inbound.messages <= written, "seed {seed}");
        }
    }
}
