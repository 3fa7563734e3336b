//! Promises of time, and how each of them is measured.

use std::{
    io::{Read as _, Write as _},
    net::SocketAddr,
    ops::RangeInclusive,
    thread,
    time::{Duration, Instant},
};

use nebnet::{
    CloseReason, Config, Event, EventOptions, Handle, MessageType, NetService, PeerId, frame::Frame,
};

use crate::util::{self, BYE, Client, PATIENCE, config, encoded};

const T: MessageType = MessageType(7);
/// Runs at the same time, where most of a run is waiting.
const BESIDE: usize = 10;

/// What is promised, and how it is measured: at least one figure a call, and no more than asked.
pub(crate) struct Promise {
    pub(crate) name: &'static str,
    what: &'static str,
    unit: &'static str,
    bounds: RangeInclusive<f64>,
    pub(crate) measure: fn(usize) -> Vec<f64>,
}

pub(crate) const ALL: &[Promise] = &[
    Promise {
        name: "stall",
        what: "a peer that takes nothing is closed, by its last acknowledged byte",
        unit: "of the time-out",
        bounds: 1.0..=1.2,
        measure: stall,
    },
    Promise {
        name: "stall-slowly",
        what: "the same while our system takes all of it for seconds, at 100 KB/s",
        unit: "of the time-out",
        bounds: 1.0..=1.2,
        measure: stall_slowly,
    },
    Promise {
        name: "backlog",
        what: "the outbox shows what a closed window leaves, at 10 MB/s",
        unit: "ms",
        bounds: 0.0..=100.0,
        measure: backlog,
    },
    Promise {
        name: "stop-bye",
        what: "a quiet peer reads the BYE of a stop",
        unit: "ms",
        bounds: 0.0..=20.0,
        measure: stop_bye,
    },
    Promise {
        name: "stop-answer",
        what: "a peer reads its last answer and the BYE of a stop",
        unit: "ms",
        bounds: 0.0..=50.0,
        measure: stop_answer,
    },
    Promise {
        name: "close-bye",
        what: "a quiet peer reads the BYE of a close",
        unit: "ms",
        bounds: 0.0..=20.0,
        measure: close_bye,
    },
    Promise {
        name: "stop-deadline",
        what: "a stop with a peer that takes nothing returns, by its deadline",
        unit: "of the deadline",
        bounds: 1.0..=1.2,
        measure: stop_deadline,
    },
    Promise {
        name: "first-frame",
        what: "a silent peer is closed, by its connect",
        unit: "of the time-out",
        bounds: 1.0..=1.2,
        measure: first_frame,
    },
    Promise {
        name: "frame",
        what: "a frame that does not go on is closed, by its first byte",
        unit: "of the time-out",
        bounds: 1.0..=1.2,
        measure: frame,
    },
    Promise {
        name: "idle",
        what: "an idle peer is closed, by its last byte",
        unit: "of the time-out",
        bounds: 1.0..=1.2,
        measure: idle,
    },
    Promise {
        name: "fin",
        what: "a quiet peer that has said FIN reads ours, 250 ms after its last answer",
        unit: "ms",
        bounds: 249.0..=300.0,
        measure: fin,
    },
];

impl Promise {
    /// Prints a row; false if the promise was not kept.
    pub(crate) fn tell(&self, measured: &mut [f64]) -> bool {
        measured.sort_by(f64::total_cmp);
        let at =
            |percent: usize| measured[(measured.len() * percent / 100).min(measured.len() - 1)];
        let (min, max) = (measured[0], measured[measured.len() - 1]);
        let (from, to) = (self.bounds.start(), self.bounds.end());
        let kept = self.bounds.contains(&min) && self.bounds.contains(&max);
        let mark = if kept { "" } else { "  NOT KEPT" };
        println!(
            "{:<14} {min:>9.3} {:>9.3} {:>9.3} {max:>9.3}  {from} to {to} {}: {}{mark}",
            self.name,
            at(50),
            at(99),
            self.unit,
            self.what
        );
        kept
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn start(config: Config) -> NetService {
    let mut service = NetService::new(config).unwrap();
    service.start().unwrap();
    service
}

/// The connection of a client.
fn peer_of(handle: &Handle, client: &Client) -> PeerId {
    let addr = client.stream.local_addr().unwrap();
    let mut found = None;
    util::wait_until("it is there", || {
        let rows = handle.peers().unwrap();
        found = rows.iter().find(|row| row.addr == addr).map(|row| row.peer);
        found.is_some()
    });
    found.unwrap()
}

/// Measures so often, as many at a time as may be, each on a thread of its own.
fn beside(runs: usize, one: impl Fn() -> f64 + Sync) -> Vec<f64> {
    thread::scope(|scope| {
        let one = &one;
        let running: Vec<_> = (0..runs.min(BESIDE)).map(|_| scope.spawn(one)).collect();
        running.into_iter().map(|run| run.join().unwrap()).collect()
    })
}

/// Bytes that the client's system has, and that nothing has read.
fn unread(client: &Client) -> u64 {
    rustix::io::ioctl_fionread(&client.stream).unwrap()
}

// ----- peers that take nothing ---------------------------------------------------------------

fn stall(runs: usize) -> Vec<f64> {
    let payload = vec![0; 100_000];
    stall_of(runs, Client::connect, |handle, peer| {
        while handle.send(peer, (T, &payload)).is_ok() {}
    })
}

fn stall_slowly(runs: usize) -> Vec<f64> {
    let payload = vec![0; 100];
    stall_of(runs, Client::connect_small, |handle, peer| {
        let _ = handle.send(peer, (T, &payload));
    })
}

/// With what is sent each millisecond. The last byte that was acknowledged is the last that reached
/// the client's system.
fn stall_of(
    runs: usize,
    connect: impl Fn(SocketAddr) -> Client,
    send: impl Fn(&Handle, PeerId),
) -> Vec<f64> {
    const TIMEOUT: Duration = Duration::from_millis(500);
    let mut service = NetService::new(config().write_stall_timeout(TIMEOUT)).unwrap();
    let events = service
        .handle()
        .subscribe_events(EventOptions::new())
        .unwrap();
    service.start().unwrap();
    let (addr, handle) = (service.local_addrs()[0], service.handle());
    let clients: Vec<Client> = (0..runs.min(BESIDE)).map(|_| connect(addr)).collect();
    let mut watched: Vec<_> = clients
        .iter()
        .map(|client| (peer_of(&handle, client), client, Instant::now(), 0))
        .collect();
    let mut measured = Vec::new();
    while measured.len() < watched.len() {
        for (peer, client, last, before) in &mut watched {
            send(&handle, *peer);
            let now = unread(client);
            if now != *before {
                (*last, *before) = (Instant::now(), now);
            }
        }
        while let Ok(event) = events.try_recv() {
            let Event::Closed(row) = event else { continue };
            assert_eq!(row.reason, CloseReason::SlowPeer);
            let (.., last, _) = watched.iter().find(|one| one.0 == row.peer).unwrap();
            measured.push(last.elapsed().as_secs_f64() / TIMEOUT.as_secs_f64());
        }
        thread::sleep(Duration::from_millis(1));
    }
    util::stop_within(&mut service, Duration::ZERO);
    measured
}

/// From the last byte that the client's system took until something is queued, and stays so.
fn backlog(_: usize) -> Vec<f64> {
    let mut service = start(config());
    let handle = service.handle();
    let mut client = Client::connect(service.local_addrs()[0]);
    let peer = peer_of(&handle, &client);
    let payload = [0; 1_000];
    // Its buffers grow while it reads.
    let mut buffer = vec![0; 1 << 20];
    let reading = Instant::now();
    while reading.elapsed() < Duration::from_millis(50) {
        let _ = handle.send(peer, (T, &payload));
        if unread(&client) > 0 {
            let _ = client.stream.read(&mut buffer).unwrap();
        }
    }
    let (mut last, mut before, mut queued) = (Instant::now(), 0, None);
    let mut next = Instant::now();
    // Until it has been full for so long that nothing moves any more.
    let started = Instant::now();
    while queued.is_none() || last.elapsed() < Duration::from_millis(200) {
        assert!(started.elapsed() < PATIENCE, "nothing is queued");
        if Instant::now() >= next {
            let _ = handle.send(peer, (T, &payload));
            next += Duration::from_micros(100);
        }
        let now = unread(&client);
        if now != before {
            (last, before) = (Instant::now(), now);
        }
        let waits = handle.peer(peer).is_some_and(|info| info.queued.bytes > 0);
        queued = if waits {
            queued.or_else(|| Some(Instant::now()))
        } else {
            None
        };
    }
    util::stop_within(&mut service, Duration::ZERO);
    let shown = queued.map_or(f64::INFINITY, |at| ms(at.saturating_duration_since(last)));
    vec![shown]
}

fn stop_deadline(_: usize) -> Vec<f64> {
    const DEADLINE: Duration = Duration::from_millis(300);
    let mut service = start(config());
    let handle = service.handle();
    let client = Client::connect_small(service.local_addrs()[0]);
    let peer = peer_of(&handle, &client);
    while handle.send(peer, (T, vec![0; 100_000])).is_ok() {}
    let started = Instant::now();
    util::stop_within(&mut service, DEADLINE);
    vec![started.elapsed().as_secs_f64() / DEADLINE.as_secs_f64()]
}

// ----- BYE -----------------------------------------------------------------------------------

/// The time from now until a BYE is read.
fn time_to_bye(mut client: Client, since: Instant) -> f64 {
    while client.receive().expect("a BYE").message_type != BYE {}
    let waited = since.elapsed();
    client.expect_end_of_any_kind();
    ms(waited)
}

fn stop_bye(_: usize) -> Vec<f64> {
    let mut service = start(config());
    let mut client = Client::connect(service.local_addrs()[0]);
    client.ping(b"");
    let since = Instant::now();
    let reader = thread::spawn(move || time_to_bye(client, since));
    util::stop_within(&mut service, PATIENCE);
    vec![reader.join().unwrap()]
}

fn stop_answer(_: usize) -> Vec<f64> {
    let (mut service, echo) = util::start_echo(config());
    let mut client = Client::connect(service.local_addrs()[0]);
    client.ping(b"");
    let questions = encoded(&Frame::new(T, &[0; 64])).repeat(1_000);
    client.stream.write_all(&questions).unwrap();
    let since = Instant::now();
    let reader = thread::spawn(move || time_to_bye(client, since));
    util::stop_within(&mut service, PATIENCE);
    echo.join().unwrap();
    vec![reader.join().unwrap()]
}

fn close_bye(runs: usize) -> Vec<f64> {
    let mut service = start(config());
    let handle = service.handle();
    let one = |_| {
        let mut client = Client::connect(service.local_addrs()[0]);
        client.ping(b"");
        let peer = peer_of(&handle, &client);
        let since = Instant::now();
        assert!(handle.close(peer));
        time_to_bye(client, since)
    };
    let measured = (0..runs).map(one).collect();
    util::stop_within(&mut service, PATIENCE);
    measured
}

// ----- silence -------------------------------------------------------------------------------

/// The ratio of the time until a BYE with this code to the time that was set, of clients that do
/// something first.
fn silence(
    runs: usize,
    config: Config,
    timeout: Duration,
    code: u16,
    act: fn(&mut Client),
) -> Vec<f64> {
    let mut service = start(config);
    let addr = service.local_addrs()[0];
    let measured = beside(runs, || {
        // What is early would be seen, so each time begins before what sets it off.
        let connecting = Instant::now();
        let mut client = Client::connect(addr);
        let acting = Instant::now();
        act(&mut client);
        client.expect_bye(code);
        let since = if code == 12 { connecting } else { acting };
        since.elapsed().as_secs_f64() / timeout.as_secs_f64()
    });
    util::stop_within(&mut service, PATIENCE);
    measured
}

const SILENCE: Duration = Duration::from_millis(300);

fn first_frame(runs: usize) -> Vec<f64> {
    silence(
        runs,
        config().first_frame_timeout(SILENCE),
        SILENCE,
        12,
        |_| {},
    )
}

fn frame(runs: usize) -> Vec<f64> {
    let begin = |client: &mut Client| {
        client.ping(b"");
        client.stream.write_all(&[0]).unwrap();
    };
    silence(runs, config().frame_timeout(SILENCE), SILENCE, 13, begin)
}

fn idle(runs: usize) -> Vec<f64> {
    let config = config().idle_timeout(SILENCE);
    silence(runs, config, SILENCE, 14, |client| client.ping(b""))
}

fn fin(runs: usize) -> Vec<f64> {
    let (service, echo) = util::start_echo(config());
    let addr = service.local_addrs()[0];
    let measured = beside(runs, || {
        let mut client = Client::connect(addr);
        client.send_message(7, b"last");
        client.stream.shutdown(std::net::Shutdown::Write).unwrap();
        client.expect(7, b"last");
        let answered = Instant::now();
        client.expect_end(util::End::Fin);
        ms(answered.elapsed())
    });
    util::stop_echo(service, echo);
    measured
}
