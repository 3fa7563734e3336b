//! A relay in a few lines: what one peer says goes to all others, with its type, its correlation
//! and its checksum, and so does the news that it is gone.
//!
//! Events come through the queue of the messages, so that the news is behind the last message.
//! `OverflowPolicy::Pause` lets neither be lost between the peers and this thread. On the way out
//! nobody is waited for: a peer that does not read is left out once its outbox is full. For relays
//! that are connected to each other see `nebnet serve --relay`, which also ends what goes in
//! circles.

use std::error::Error;
use std::thread;
use std::time::Duration;

use nebnet::{
    Client, Config, Event, Handle, MessageType, NetService, Outgoing, OverflowPolicy, PeerId,
    Received, Recipients, SubscribeOptions, Subscription, TypeFilter,
};

const CHAT: MessageType = MessageType(7);
const GONE: MessageType = MessageType(8);
const PEERS: usize = 3;

fn main() -> Result<(), Box<dyn Error>> {
    let mut service = NetService::new(Config::default().listen("127.0.0.1:0".parse()?))?;
    let options = SubscribeOptions::new(TypeFilter::all())
        .name("relay")
        .overflow(OverflowPolicy::Pause)
        .with_events();
    let inbox = service.handle().subscribe_with(options)?;
    let handle = service.handle();
    let relay = thread::Builder::new()
        .name("relay".to_owned())
        .spawn(move || relay(inbox, &handle))?;
    service.start()?;

    let addr = service.local_addrs()[0];
    let peers = (0..PEERS).map(|_| Client::connect(addr));
    let mut peers = peers.collect::<Result<Vec<_>, _>>()?;
    for (index, peer) in peers.iter_mut().enumerate() {
        peer.send((CHAT, format!("this is peer {index}")))?;
    }
    for (index, peer) in peers.iter_mut().enumerate() {
        let mut heard = hear(peer, PEERS - 1)?;
        heard.sort();
        println!("peer {index} heard {heard:?}");
        let others = (0..PEERS).filter(|other| *other != index);
        let others: Vec<_> = others
            .map(|other| format!("this is peer {other}"))
            .collect();
        assert_eq!(heard, others);
    }

    // One leaves, and the others hear of it.
    drop(peers.remove(0));
    for peer in &mut peers {
        let heard = hear(peer, 1)?;
        println!("{}", heard[0]);
        assert!(heard[0].ends_with("is gone"));
    }

    drop(peers);
    println!("{}", service.stop(Duration::from_secs(5)));
    let skipped = relay.join().map_err(|_| "the relay panicked")?;
    assert_eq!(skipped, 0);
    Ok(())
}

/// Runs until the service has stopped. Gives how often a peer was left out.
fn relay(mut inbox: Subscription, handle: &Handle) -> usize {
    let mut skipped = 0;
    let mut tell = |from: PeerId, said: &Outgoing<'_>| {
        let report = handle.broadcast(said, Recipients::AllBut(from));
        // Others may be on their way out too.
        let full = report.skipped.iter().filter(|(_, why)| why.is_full());
        skipped += full.count();
    };
    while let Ok(received) = inbox.recv_any() {
        if let Received::Batch(batch) = &received {
            for message in batch {
                let mut copy = Outgoing::new(message.message_type(), message.payload())
                    .checksum(message.checksum());
                if let Some(number) = message.correlation() {
                    copy = copy.correlation(number);
                }
                tell(batch.peer(), &copy);
            }
        }
        // Its last message was relayed before.
        if let Received::Event(Event::Closed(row)) = &received {
            let news = format!("peer {} is gone", row.peer);
            tell(row.peer, &Outgoing::new(GONE, news.as_bytes()));
        }
    }
    skipped
}

/// Reads so many messages.
fn hear(peer: &mut Client, count: usize) -> Result<Vec<String>, Box<dyn Error>> {
    let mut heard = Vec::new();
    while heard.len() < count {
        heard.push(String::from_utf8(peer.recv()?.into_payload())?);
    }
    Ok(heard)
}
