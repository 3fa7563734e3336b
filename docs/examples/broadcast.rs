//! One message for many peers: to all, to a list, to those that a function chooses; and what the
//! report says of those that were left out.
//!
//! The message is encoded once and shared by everybody. Nobody is waited for: a peer whose outbox
//! is full is skipped and named, and the others get theirs.

use std::error::Error;
use std::net::SocketAddr;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nebnet::{
    Client, ClientError, CloseReason, Config, MessageType, NetService, Outgoing, PeerId, PeerInfo,
    Priority, Recipients, SendError,
};

const JOIN: MessageType = MessageType(1);
const QUOTE: MessageType = MessageType(7);
const PEERS: usize = 5;
const OUTBOX_BYTES: usize = 64 << 10;

fn main() -> Result<(), Box<dyn Error>> {
    let config = Config::default()
        .listen("127.0.0.1:0".parse()?)
        .outbox_bytes(OUTBOX_BYTES)
        // So that the kernel keeps little for a peer that does not read.
        .socket_buffers(16 << 10, 0);
    let mut service = NetService::new(config)?;
    let mut joins = service.handle().subscribe(JOIN)?;
    service.start()?;
    let addr = service.local_addrs()[0];
    let readers = (0..PEERS).map(|_| spawn_reader(addr));
    let readers = readers.collect::<Result<Vec<_>, _>>()?;
    let mut peers = Vec::new();
    for _ in 0..PEERS {
        peers.push(joins.recv()?.peer());
    }
    let handle = service.handle();

    // To everybody.
    let report = handle.broadcast((QUOTE, b"101.5"), Recipients::All);
    println!("all: {} sent", report.sent.len());
    assert_eq!((report.sent.len(), report.skipped.len()), (PEERS, 0));

    // To a list. A peer that is not there is skipped, with the reason.
    let gone = PeerId::from_bits(u64::MAX);
    let report = handle.broadcast((QUOTE, b"101.6"), &[peers[0], gone]);
    println!(
        "list: {} sent, {:?} skipped",
        report.sent.len(),
        report.skipped
    );
    assert_eq!(report.skipped, [(gone, SendError::NotConnected)]);

    // To those that a function chooses by what is known of them; it runs on this thread.
    let quote = Outgoing::new(QUOTE, b"101.7").priority(Priority::High);
    let chosen = |peer: &PeerInfo| peer.queued.messages < 10 && peer.peer != peers[0];
    let report = handle.broadcast(&quote, Recipients::Matching(&chosen));
    println!("chosen: {} sent", report.sent.len());
    assert_eq!(report.sent.len(), PEERS - 1);

    // One that never reads is left out as soon as its outbox is full. The others are not.
    let mut deaf = Client::connect(addr)?;
    deaf.send((JOIN, ""))?;
    let deaf_peer = joins.recv()?.peer();
    let large = vec![b'x'; 16 << 10];
    let skipped = loop {
        let report = handle.broadcast((QUOTE, &large), Recipients::All);
        if let Some(skipped) = report.skipped.first() {
            break *skipped;
        }
        // Those who read are given time to: 64 KiB are little for messages of 16 KiB.
        while handle
            .peers()?
            .iter()
            .any(|row| row.peer != deaf_peer && row.queued.messages > 0)
        {
            thread::yield_now();
        }
    };
    println!("{} is left out: {}", skipped.0, skipped.1);
    assert_eq!(skipped, (deaf_peer, SendError::Full));

    drop(deaf);
    let report = service.stop(Duration::from_secs(5));
    println!("{report}");
    for reader in readers {
        let quotes = reader.join().map_err(|_| "a reader panicked")??;
        assert!(quotes >= 2, "everybody got the first one and a large one");
    }
    // What was queued for the one that never read is lost, and said to be.
    assert!(report.snapshot.outbound_dropped.messages > 0);
    Ok(())
}

/// A peer on a thread of its own: says that it is there, and counts what comes until the BYE.
fn spawn_reader(addr: SocketAddr) -> Result<JoinHandle<Result<u64, ClientError>>, Box<dyn Error>> {
    let mut client = Client::connect(addr)?;
    client.send((JOIN, ""))?;
    let thread = thread::Builder::new().name("reader".to_owned());
    let reading = thread.spawn(move || {
        let mut quotes = 0;
        loop {
            match client.recv() {
                Ok(message) => quotes += u64::from(message.message_type() == QUOTE),
                Err(error) if error.reason() == Some(CloseReason::Shutdown) => return Ok(quotes),
                Err(error) => return Err(error),
            }
        }
    })?;
    Ok(reading)
}
