//! The service that is soaked: it echoes, has a slow subscriber beside that, a handler, and a link.

use std::{
    net::SocketAddr,
    ops::RangeInclusive,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nebnet::{
    Config, ConnectOptions, Event, EventOptions, Handle, HandlerOptions, MessageType, NetService,
    OutgoingBatch, OverflowPolicy, SendError, SubscribeOptions, TypeFilter,
};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{kinds::HANDLED, report::Rest, util};

/// Types of the echo.
const ECHOED: RangeInclusive<MessageType> = MessageType(0)..=MessageType(0x0FFF);
/// Of what is sent over the link, and comes back.
pub(crate) const LINKED: u16 = 0x2000;
/// How long everything may take to come back at the end.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Soaked {
    service: NetService,
    pub(crate) addr: SocketAddr,
    /// Where the linked service is to listen.
    pub(crate) far_addr: SocketAddr,
    threads: Vec<JoinHandle<()>>,
    /// Answers of the echo that had no room, which is never to happen.
    refused: Arc<AtomicU64>,
    /// Messages that came back over the link.
    linked: Arc<AtomicU64>,
    limit: Rlimit,
}

impl Soaked {
    pub(crate) fn start() -> Self {
        let second = Duration::from_secs(1);
        let config = config()
            .listen(SocketAddr::from(([127, 0, 0, 1], 0)))
            .first_frame_timeout(second * 3)
            .frame_timeout(second * 3)
            .write_stall_timeout(second * 3)
            .outbox_bytes(256 << 10)
            .memory_budget(64 << 20)
            .socket_buffers(64 << 10, 0);
        let mut service = NetService::new(config).unwrap();
        let (refused, linked) = (Arc::default(), Arc::default());
        let mut threads = vec![start_echo(&service, Arc::clone(&refused))];
        threads.push(start_slow(&service));
        threads.push(start_linked(&service, Arc::clone(&linked)));
        let options = HandlerOptions::new(MessageType(HANDLED));
        let handler = service.handle_inline(options, |message, replier| {
            let _ = replier.reply(message.payload());
        });
        handler.unwrap();
        service.start().unwrap();
        let far_addr = free_addr();
        let kept = ConnectOptions::from(far_addr).keep_connected(true);
        service.handle().connect(kept).unwrap();
        Self {
            addr: service.local_addrs()[0],
            service,
            far_addr,
            threads,
            refused,
            linked,
            limit: getrlimit(Resource::Nofile),
        }
    }

    pub(crate) fn handle(&self) -> Handle {
        self.service.handle()
    }

    pub(crate) fn linked(&self) -> u64 {
        self.linked.load(Ordering::Relaxed)
    }

    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// What a service without peers holds.
    pub(crate) fn rest(&self) -> Rest {
        let snapshot = self.service.handle().snapshot();
        Rest {
            descriptors: util::descriptors(),
            peers: snapshot.peers,
            memory_used: snapshot.memory_used,
        }
    }

    /// Waits until everybody is gone, but for a connection that is just being dialled.
    pub(crate) fn wait_for_rest(&self, descriptors: usize) -> Rest {
        let started = Instant::now();
        loop {
            let rest = self.rest();
            let done = rest.descriptors <= descriptors && rest.peers == 0 && rest.memory_used == 0;
            if done || started.elapsed() > PATIENCE {
                return rest;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Lets no descriptor be opened until a few are closed.
    pub(crate) fn squeeze(&self) {
        let current = util::descriptors() as u64;
        self.set_limit(Some(current.saturating_sub(10)));
    }

    pub(crate) fn release(&self) {
        self.set_limit(self.limit.current);
    }

    fn set_limit(&self, current: Option<u64>) {
        let maximum = self.limit.maximum;
        setrlimit(Resource::Nofile, Rlimit { current, maximum }).unwrap();
    }

    /// Stops, and gives what the sums say of it.
    pub(crate) fn stop(mut self) -> nebnet::StopReport {
        let report = self.service.stop(Duration::from_secs(5));
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
        util::assert_balanced(&report.snapshot);
        report
    }
}

/// What both ends of links have in common.
pub(crate) fn config() -> Config {
    let second = Duration::from_secs(1);
    Config::default()
        .heartbeat(second, second * 4)
        .reconnect(second / 20, second)
        .connect_timeout(second * 2)
}

fn free_addr() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

fn start_echo(service: &NetService, refused: Arc<AtomicU64>) -> JoinHandle<()> {
    let options = SubscribeOptions::new(ECHOED)
        .name("echo")
        .overflow(OverflowPolicy::Pause);
    let mut requests = service.handle().subscribe_with(options).unwrap();
    let handle = service.handle();
    thread::spawn(move || {
        let mut answers = OutgoingBatch::new();
        while let Ok(batch) = requests.recv_batch() {
            for message in &batch {
                answers.push_reply(message, message.payload()).unwrap();
            }
            match handle.send_batch(batch.peer(), &mut answers) {
                Ok(()) => {}
                Err(SendError::NotConnected | SendError::Closing) => answers.clear(),
                Err(_) => {
                    refused.fetch_add(answers.len() as u64, Ordering::Relaxed);
                    answers.clear();
                }
            }
        }
    })
}

/// A subscriber of everything that sleeps much, and so misses much.
fn start_slow(service: &NetService) -> JoinHandle<()> {
    let options = SubscribeOptions::new(TypeFilter::all())
        .name("slow")
        .messages(1000)
        .overflow(OverflowPolicy::DropNewest);
    let mut messages = service.handle().subscribe_with(options).unwrap();
    thread::spawn(move || {
        while messages.recv_batch().is_ok() {
            thread::sleep(Duration::from_millis(10));
        }
    })
}

/// Sends over each connection of the link, and takes what comes back.
fn start_linked(service: &NetService, linked: Arc<AtomicU64>) -> JoinHandle<()> {
    let mut answers = service.handle().subscribe(MessageType(LINKED)).unwrap();
    let events = service
        .handle()
        .subscribe_events(EventOptions::new().name("links"))
        .unwrap();
    let handle = service.handle();
    thread::spawn(move || {
        while let Ok(event) = events.recv() {
            linked.fetch_add(answers.try_iter().count() as u64, Ordering::Relaxed);
            let Event::Connected {
                peer,
                link: Some(_),
                ..
            } = event
            else {
                continue;
            };
            for number in 0..1000_u32 {
                let payload = number.to_be_bytes();
                if handle
                    .send(peer, (MessageType(LINKED), &payload[..]))
                    .is_err()
                {
                    break;
                }
            }
        }
    })
}
