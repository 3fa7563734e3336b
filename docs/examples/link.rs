//! Two services with a link between them that is kept: one is stopped and started again, and the
//! other one finds it by itself.
//!
//! Everything about links comes as events, in order with the messages of the peer. A link is up
//! with `Connected`; a connection that ends says why and what was lost with it; attempts that fail
//! say when the next one is made.

use std::error::Error;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use nebnet::{
    Config, ConnectOptions, Event, EventOptions, EventSubscription, MessageType, NetService,
    PeerId, Subscription,
};

const NEWS: MessageType = MessageType(7);
const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> Result<(), Box<dyn Error>> {
    // A port that is free, for a server that comes back to the same address.
    let addr = TcpListener::bind("127.0.0.1:0")?.local_addr()?;

    let config = Config::default()
        .listen_nowhere()
        .node_id([2; 16])
        .agent("client/1")
        .reconnect(Duration::from_millis(10), Duration::from_millis(100));
    let mut client = NetService::new(config)?;
    // Before the start, so that no event is missed.
    let events = client.handle().subscribe_events(EventOptions::new())?;
    client.start()?;
    let link = client
        .handle()
        .connect(ConnectOptions::from(addr).keep_connected(true))?;
    println!("link {link} is wanted, and nobody is there");
    let failed = wait_for(&events, |event| matches!(event, Event::DialFailed { .. }))?;
    assert_eq!(failed.peer(), None);

    for round in ["first", "second"] {
        let (mut server, mut news) = start_server(addr)?;
        let peer = connected(&events)?;
        client.handle().send(peer, (NEWS, round))?;
        let message = news.recv_timeout(PATIENCE)?;
        println!(
            "the server got {:?}",
            String::from_utf8_lossy(message.payload())
        );
        assert_eq!(message.payload(), round.as_bytes());
        drop(message);
        println!("{}", server.stop(Duration::from_secs(5)));
        let closed = wait_for(&events, |event| matches!(event, Event::Closed(_)))?;
        assert_eq!(closed.peer(), Some(peer));
    }

    client.handle().disconnect(link)?;
    println!("{}", client.stop(Duration::from_secs(5)));
    Ok(())
}

fn start_server(addr: SocketAddr) -> Result<(NetService, Subscription), Box<dyn Error>> {
    let config = Config::default()
        .listen(addr)
        .node_id([1; 16])
        .agent("server/1");
    let mut server = NetService::new(config)?;
    let news = server.handle().subscribe(NEWS)?;
    server.start()?;
    Ok((server, news))
}

/// Waits until the link is up and the server has said who it is.
fn connected(events: &EventSubscription) -> Result<PeerId, Box<dyn Error>> {
    let hello = wait_for(events, |event| matches!(event, Event::Hello { .. }))?;
    let Event::Hello { peer, identity } = hello else {
        return Err("not a HELLO".into());
    };
    assert_eq!(identity.agent, "server/1");
    Ok(peer)
}

/// Prints what happens, until the event that is waited for.
fn wait_for(
    events: &EventSubscription,
    wanted: impl Fn(&Event) -> bool,
) -> Result<Event, Box<dyn Error>> {
    loop {
        let event = events.recv_timeout(PATIENCE)?;
        match &event {
            Event::Connected { peer, addr, .. } => println!("  connected to {addr} as {peer}"),
            Event::Hello { identity, .. } => println!("  it is {}", identity.agent),
            Event::Closed(row) => {
                println!(
                    "  closed: {}, {} messages lost",
                    row.reason, row.lost.messages
                );
            }
            Event::DialFailed {
                error, retry_in, ..
            } => println!("  {error}; again in {retry_in:?}"),
            // What is told of a peer while it is connected, and whatever a later version tells.
            Event::Paused { .. }
            | Event::Resumed { .. }
            | Event::Congested { .. }
            | Event::Writable { .. }
            | _ => println!("  {event:?}"),
        }
        if wanted(&event) {
            return Ok(event);
        }
    }
}
