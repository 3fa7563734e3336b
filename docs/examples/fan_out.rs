//! Several subscribers of one stream, each with its own idea of what to do when it is full.
//!
//! `quotes` looks away: its queue fills, the rest is dropped and counted. `orders` must not lose
//! anything and has the smallest queue: its peers wait for it. `tap` sees everything. None of them
//! is slowed by another's losses, and the ledger at the end adds up.

use std::error::Error;
use std::thread;
use std::time::Duration;

use nebnet::{
    Client, Config, MessageType, NetService, OverflowPolicy, SubscribeOptions, Subscription,
    TypeFilter,
};

const QUOTE: MessageType = MessageType(1);
const ORDER: MessageType = MessageType(2);
/// Of each type.
const MESSAGES: u64 = 5_000;

fn main() -> Result<(), Box<dyn Error>> {
    let mut service = NetService::new(Config::default().listen("127.0.0.1:0".parse()?))?;
    let options = SubscribeOptions::new(QUOTE).name("quotes").messages(1_000);
    let mut quotes = service.handle().subscribe_with(options)?;
    let options = SubscribeOptions::new(ORDER).name("orders").messages(100);
    let orders = service
        .handle()
        .subscribe_with(options.overflow(OverflowPolicy::Pause))?;
    let options = SubscribeOptions::new(TypeFilter::all()).name("tap");
    let tap = service.handle().subscribe_with(options.messages(20_000))?;
    let orders = thread::Builder::new().spawn(move || take_all(orders))?;
    let tap = thread::Builder::new().spawn(move || take_all(tap))?;
    service.start()?;

    let mut client = Client::connect(service.local_addrs()[0])?;
    for number in 0..MESSAGES {
        for message_type in [QUOTE, ORDER] {
            client.push((message_type, &number.to_be_bytes()))?;
        }
    }
    client.flush()?;
    // What a peer has sent before it leaves is read.
    drop(client);

    // Takes half of its time, because what is in the queue of `quotes` is not taken and might be
    // answered.
    let report = service.stop(Duration::from_secs(5));
    println!("{report}");
    for row in &report.snapshot.subscribers {
        let sum = row.taken + row.dropped + row.discarded + row.queued + row.parked;
        assert_eq!(row.matched, sum, "the ledger of {} adds up", row.name);
    }
    let orders = orders.join().map_err(|_| "the orders thread panicked")?;
    assert_eq!(orders.row().taken, MESSAGES, "a paused peer loses nothing");
    let tap = tap.join().map_err(|_| "the tap thread panicked")?;
    assert_eq!(tap.row().taken, 2 * MESSAGES);

    // What the queue held is still there, and it was the oldest: new messages are dropped.
    let mut kept = 0;
    while let Ok(batch) = quotes.recv_batch() {
        kept += batch.len() as u64;
    }
    let dropped = quotes.row().dropped;
    println!("quotes: {kept} kept, {dropped} dropped");
    assert_eq!(kept + dropped, MESSAGES);
    Ok(())
}

/// Takes until the service has stopped. The subscription is handed back for its counters.
fn take_all(mut subscription: Subscription) -> Subscription {
    let mut count = 0;
    while let Ok(batch) = subscription.recv_batch() {
        count += batch.len() as u64;
    }
    assert_eq!(subscription.row().taken, count);
    subscription
}
