//! What is compared: one file for each family, one [`Kind`] for each way to use it.
//!
//! Every kind hands each message to subscriber threads over bounded queues without loss, and the
//! subscribers read the number in each. The limits have no subscriber: the reading thread itself
//! counts. A server is never stopped: it ends with the process that took the sample.

mod limit;
mod message_io;
mod nebnet;
mod subscribers;
mod threads;
mod tokio;
mod uring;

use crate::load::{Framing, Tally};
use rustix::net::{AddressFamily, SocketType, bind, listen, socket};
use std::fmt;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Messages that wait for a subscriber at most, in every kind.
const QUEUE_MESSAGES: usize = 65_536;
/// Bytes that wait for a subscriber at most, in every kind.
const QUEUE_BYTES: usize = 16 << 20;
/// Bytes asked for by one read, in every kind where that can be chosen.
const BUFFER_SIZE: usize = 64 * 1024;
/// Connections that wait to be accepted, in every kind where that can be chosen.
const BACKLOG: i32 = 4096;

/// One way to serve.
#[derive(Debug)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) class: Class,
    /// What its client is to speak.
    pub(crate) framing: Framing,
    /// False where only bytes are counted.
    pub(crate) reads_numbers: bool,
    /// Whether it takes part.
    pub(crate) does: fn(&Order) -> bool,
    /// The error says why it cannot run on this machine.
    pub(crate) start: fn(&Order) -> Result<Server, String>,
}

/// Who is compared with whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Ours,
    Peer,
    /// Shown beside the peers, and one of them where the stretch is judged.
    Beside,
    /// What the machine does without the work that makes a server.
    Limit,
}

pub(crate) static KINDS: [Kind; 12] = [
    nebnet::THREAD,
    nebnet::INLINE,
    nebnet::LOOPS,
    nebnet::HANDLER,
    tokio::BATCH,
    tokio::MESSAGE,
    message_io::KIND,
    threads::KIND,
    uring::KIND,
    limit::WALK,
    limit::READ,
    limit::FLOOR,
];

pub(crate) fn find(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}

/// What a server does with its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Subscribers count them.
    Count,
    /// A subscriber's thread sends each back.
    Echo,
    /// There are none; it sends to all connections when it is told to.
    Broadcast,
}

/// What a server is told before it starts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Order {
    pub(crate) role: Role,
    /// Each gets everything if there is one type, and otherwise its share of the types.
    pub(crate) subscribers: usize,
    pub(crate) types: usize,
    /// Whether frames are so long on average only.
    pub(crate) varied: bool,
    /// With nebnet's framing.
    pub(crate) frame_size: usize,
    /// How many there will be that send nothing.
    pub(crate) idle_connections: usize,
    pub(crate) queue_messages: usize,
    pub(crate) queue_bytes: usize,
}

impl Order {
    /// For one subscriber to one type.
    pub(crate) fn new(role: Role, frame_size: usize) -> Self {
        Self {
            role,
            subscribers: 1,
            types: 1,
            varied: false,
            frame_size,
            idle_connections: 0,
            queue_messages: QUEUE_MESSAGES.min(QUEUE_BYTES / frame_size),
            queue_bytes: QUEUE_BYTES,
        }
    }
}

/// Sends a payload to all connections.
type Broadcast = Box<dyn FnMut(&[u8])>;

/// A running server.
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    /// One for each subscriber.
    pub(crate) tallies: Vec<Arc<Tally>>,
    /// Connections accepted so far.
    pub(crate) connections: Box<dyn Fn() -> u64>,
    pub(crate) broadcast: Option<Broadcast>,
}

impl Server {
    fn new(addr: SocketAddr, accepted: &Accepted, tallies: Vec<Arc<Tally>>) -> Self {
        let accepted = accepted.clone();
        Self {
            addr,
            tallies,
            connections: Box::new(move || accepted.0.load(Ordering::Relaxed)),
            broadcast: None,
        }
    }

    fn with_broadcast(self, broadcast: impl FnMut(&[u8]) + 'static) -> Self {
        Self {
            broadcast: Some(Box::new(broadcast)),
            ..self
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("addr", &self.addr)
            .finish_non_exhaustive()
    }
}

/// How many connections were accepted.
#[derive(Clone, Debug, Default)]
struct Accepted(Arc<AtomicU64>);

impl Accepted {
    fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A listener with [`BACKLOG`], which the standard library does not let one choose.
fn listener() -> TcpListener {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    listen(&socket, BACKLOG).unwrap();
    TcpListener::from(socket)
}
