//! What a stop does with a peer that takes its answers and with one that does not, and how it says
//! so.

use std::error::Error;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use nebnet::{
    Client, ClientError, CloseReason, Config, MessageType, NetService, Outgoing, PeerId, Rejected,
    Subscription,
};

const GREETING: MessageType = MessageType(7);
const PAGE: MessageType = MessageType(8);

fn main() -> Result<(), Box<dyn Error>> {
    let mut service = NetService::new(Config::default().listen("127.0.0.1:0".parse()?))?;
    let mut greetings = service.handle().subscribe(GREETING)?;
    service.start()?;
    let addr = service.local_addrs()[0];
    let (reader, reading) = connect(addr, &mut greetings)?;
    let (_stuck, stuck) = connect(addr, &mut greetings)?;

    // One peer reads to the end, as peers do.
    let reader = thread::Builder::new().spawn(move || read_all(reader))?;
    // The other never reads. Its pages fill the buffers of the system, then its outbox.
    let handle = service.handle();
    let page = vec![0; 1 << 20];
    let patience = Duration::from_millis(300);
    let mut sent = 0;
    let refused = loop {
        match handle.send_timeout(stuck, Outgoing::new(PAGE, &page), patience) {
            Ok(()) => sent += 1,
            Err(rejected) => break rejected.error,
        }
    };
    println!("{sent} pages accepted for the peer that does not read, then: {refused}");
    // The error would give the page back, which does not outlive this function.
    let sent = service.handle().send(reading, (PAGE, &page));
    sent.map_err(Rejected::into_error)?;

    let report = service.stop(Duration::from_millis(500));
    println!("{report}");
    assert_eq!((report.closed_orderly, report.closed_abortive), (1, 1));
    let stuck_row = report.lost().next().ok_or("one peer lost messages")?;
    let lost = &stuck_row.closed;
    assert_eq!((lost.peer, lost.reason), (stuck, CloseReason::Shutdown));
    let reader_row = report.peers.iter().find(|row| row.closed.peer == reading);
    let flushed = reader_row.ok_or("all peers are listed")?.flushed;
    assert!(flushed.messages <= 1, "or its page was written before");
    let (accepted, dropped) = (
        report.snapshot.outbound_accepted,
        report.snapshot.outbound_dropped,
    );
    assert_eq!(
        accepted.messages,
        report.snapshot.outbound_written.messages + dropped.messages
    );
    assert_eq!(dropped.messages, lost.lost.messages);

    let (pages, end) = reader.join().map_err(|_| "the reader panicked")?;
    println!("the peer that read got {pages} page, and then: {end}");
    assert_eq!((pages, end.reason()), (1, Some(CloseReason::Shutdown)));
    Ok(())
}

/// A peer that says hello, and who it is to the service.
fn connect(
    addr: SocketAddr,
    greetings: &mut Subscription,
) -> Result<(Client, PeerId), Box<dyn Error>> {
    let mut client = Client::connect(addr)?;
    client.send((GREETING, "hi"))?;
    let peer = greetings.recv()?.peer();
    Ok((client, peer))
}

/// Counts messages until the connection ends, and says how it did.
fn read_all(mut client: Client) -> (usize, ClientError) {
    let mut messages = 0;
    loop {
        match client.recv() {
            Ok(_) => messages += 1,
            Err(end) => return (messages, end),
        }
    }
}
