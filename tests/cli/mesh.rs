//! Services that are connected to each other, and clients that say everything they hear.

use std::{
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread::JoinHandle,
};

use nebnet::{MessageType, frame::Frame};
use rustix::process::Signal;
use serde_json::Value;

use crate::{
    harness::{Peer, Raw, Service, spawn, wait_until},
    ledgers::Ledger,
    metrics,
};

/// An address that nobody else is given: neither this process again, nor another that runs the same
/// tests, nor the system to whoever asks for a free port of 127.0.0.1.
pub(crate) fn own_addr() -> SocketAddr {
    static COUNT: AtomicU32 = AtomicU32::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let count = u8::try_from(count).expect("few addresses are used");
    let ip = Ipv4Addr::new(127, high | 1, low, count);
    let listener = TcpListener::bind((ip, 0)).expect("all of 127/8 is this machine");
    listener.local_addr().expect("it is bound")
}

/// A relay with its place in a mesh.
pub(crate) struct Relay {
    pub(crate) service: Service,
    pub(crate) addr: SocketAddr,
    pub(crate) metrics: SocketAddr,
    pub(crate) node_id: String,
}

impl Relay {
    /// Starts the relay with this number, which connects to these addresses.
    #[track_caller]
    pub(crate) fn start(
        number: u8,
        addr: SocketAddr,
        targets: &[SocketAddr],
        more: &[&str],
    ) -> Self {
        let (listen, node_id) = (addr.to_string(), format!("{number:032x}"));
        let mut args = vec!["--relay", "--listen", &listen, "--node-id", &node_id];
        args.extend(["--metrics", "127.0.0.1:0"]);
        let targets: Vec<_> = targets.iter().map(SocketAddr::to_string).collect();
        for target in &targets {
            args.extend(["--connect", target]);
        }
        args.extend(more);
        let mut service = Service::start_with(&args);
        let metrics = service.announced("metrics on ");
        Self {
            service,
            addr,
            metrics,
            node_id,
        }
    }

    /// The services that are connected, in the order of their ids: the id, who connected (true:
    /// this one), the connection. `None` while something is under way.
    pub(crate) fn services(&self) -> Option<Vec<(String, bool, String)>> {
        let rows = metrics::json(self.metrics, "/peers");
        let rows = rows.as_array().expect("a list of peers");
        if rows.iter().any(|row| row["closing"] == true) {
            return None;
        }
        let nodes = rows.iter().filter_map(|row| {
            let id = row["node_id"].as_str()?;
            let peer = row["peer"].as_str()?;
            Some((id.to_owned(), row["link"].is_string(), peer.to_owned()))
        });
        let mut nodes: Vec<_> = nodes.collect();
        nodes.sort();
        Some(nodes)
    }

    /// Waits until exactly these are connected.
    #[track_caller]
    pub(crate) fn wait_for(&self, others: &[&Self]) {
        let mut expected: Vec<_> = others.iter().map(|other| other.node_id.clone()).collect();
        expected.sort();
        let what = format!("{expected:?} at {}", self.node_id);
        wait_until(&what, || {
            let found = self.services().unwrap_or_default();
            found.iter().map(|(id, ..)| id).eq(&expected)
        });
    }

    /// The rows of connections to a service that ended.
    pub(crate) fn closed(&self, node_id: &str) -> Vec<Value> {
        let rows = metrics::json(self.metrics, "/closed");
        let rows = rows.as_array().expect("a list of closed peers");
        let of_node = rows.iter().filter(|row| row["node_id"] == node_id);
        of_node.cloned().collect()
    }

    /// The rows of connections that ended, but not for another one of the same node.
    pub(crate) fn closed_for_good(&self) -> Vec<Value> {
        let rows = metrics::json(self.metrics, "/closed");
        let rows = rows.as_array().expect("a list of closed peers");
        let is_duplicate =
            |row: &Value| row["reason"] == "duplicate_node" || row["bye_received"] == 21;
        let others = rows.iter().filter(|row| !is_duplicate(row));
        others.cloned().collect()
    }

    /// What waits for a service.
    pub(crate) fn queued(&self, node_id: &str) -> u64 {
        let rows = metrics::json(self.metrics, "/peers");
        let rows = rows.as_array().expect("a list of peers");
        let row = rows.iter().find(|row| row["node_id"] == node_id);
        row.and_then(|row| row["queued"]["messages"].as_u64())
            .unwrap_or(0)
    }
}

/// Starts a relay for each list, which names those that it connects to; waits for all links.
#[track_caller]
pub(crate) fn start(links: &[&[usize]], more: &[&str]) -> Vec<Relay> {
    let addrs: Vec<_> = links.iter().map(|_| own_addr()).collect();
    let relays: Vec<_> = (1..)
        .zip(&addrs)
        .zip(links)
        .map(|((number, addr), targets)| {
            let targets: Vec<_> = targets.iter().map(|target| addrs[*target]).collect();
            Relay::start(number, *addr, &targets, more)
        })
        .collect();
    for (index, relay) in relays.iter().enumerate() {
        // Of two that connect to each other the one with the smaller id stays connected, and its
        // connection may come last.
        let expected: Vec<_> = (0..links.len())
            .filter_map(|other| {
                let (to, from) = (links[index].contains(&other), links[other].contains(&index));
                let dials = to && (!from || index < other);
                (to || from).then(|| (relays[other].node_id.clone(), dials))
            })
            .collect();
        let what = format!("{expected:?} at {}", relay.node_id);
        wait_until(&what, || {
            let found = relay.services().unwrap_or_default();
            let found = found.into_iter().map(|(id, dials, _)| (id, dials));
            found.eq(expected.iter().cloned())
        });
    }
    relays
}

/// Ends all relays in order; nothing that they passed on is lost. Gives what they say of it.
#[track_caller]
pub(crate) fn stop(relays: Vec<Relay>) -> Ledger {
    let ends = relays.into_iter().map(|relay| {
        relay.service.signal(Signal::TERM);
        let (code, report) = relay.service.wait();
        assert_eq!(code, Some(0), "{report}");
        Ledger::of_report(&report)
    });
    ends.reduce(Ledger::and).unwrap_or_default()
}

/// A client without a name, and a thread that takes whatever comes.
pub(crate) struct Client {
    peer: Peer,
    heard: Arc<Mutex<Vec<Raw>>>,
    listener: Option<JoinHandle<()>>,
}

impl Client {
    /// Connects and waits until the service has noticed. Messages may come before it says so.
    #[track_caller]
    pub(crate) fn connect(addr: SocketAddr) -> Self {
        let mut peer = Peer::connect(addr);
        peer.send(0xFF03, b"");
        let mut early = Vec::new();
        loop {
            match peer.recv().expect("a PONG") {
                (0xFF04, flags, body) => break assert_eq!((flags, body), (0, Vec::new())),
                raw => early.push(raw),
            }
        }
        let heard = Arc::new(Mutex::new(early));
        let stream = peer.stream.try_clone().expect("sockets can be cloned");
        let list = Arc::clone(&heard);
        let listener = spawn(move || {
            let mut peer = Peer { stream };
            while let Some(raw) = peer.recv() {
                if raw.0 < 0xFF00 {
                    list.lock().expect("no panic").push(raw);
                }
            }
        });
        Self {
            peer,
            heard,
            listener: Some(listener),
        }
    }

    pub(crate) fn say(&mut self, message_type: u16, payload: &[u8]) {
        self.peer.send(message_type, payload);
    }

    /// Sends a message with a number of its own, and gives what others have to hear.
    pub(crate) fn say_numbered(&mut self, number: u64, payload: &[u8], checksum: bool) -> Raw {
        let mut frame = Frame::new(MessageType(9), payload).with_checksum(checksum);
        frame.correlation = Some(number);
        let mut bytes = Vec::new();
        frame.encode(&mut bytes).expect("it is short");
        std::io::Write::write_all(&mut self.peer.stream, &bytes).expect("the service reads");
        (9, bytes[6], bytes[8..].to_vec())
    }

    pub(crate) fn count(&self) -> usize {
        self.heard.lock().expect("no panic").len()
    }

    #[track_caller]
    pub(crate) fn wait_for(&self, count: usize) {
        let mut heard = 0;
        wait_until(&format!("{count} messages"), || {
            heard = self.count();
            heard >= count
        });
    }

    #[track_caller]
    pub(crate) fn wait_for_payload(&self, payload: &[u8]) {
        wait_until("a payload", || {
            let heard = self.heard.lock().expect("no panic");
            heard.iter().any(|raw| raw.2 == payload)
        });
    }

    /// What it heard until the end of the connection, which has to come.
    pub(crate) fn heard(mut self) -> Vec<Raw> {
        let listener = self.listener.take().expect("taken once");
        listener.join().expect("no panic");
        std::mem::take(&mut *self.heard.lock().expect("no panic"))
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Ends the thread, if a test fails.
        let _ = self.peer.stream.shutdown(Shutdown::Both);
    }
}

/// The messages of one sender, which begin with its name, in the order in which they came.
pub(crate) fn of(name: &str, heard: &[Raw]) -> Vec<Raw> {
    let prefix = format!("{name} ");
    let of_sender = |raw: &&Raw| {
        let number_size = if raw.1 & 2 == 0 { 0 } else { 8 };
        raw.2[number_size..].starts_with(prefix.as_bytes())
    };
    heard.iter().filter(of_sender).cloned().collect()
}
