//! The shortest way there and back: a handler on the loop's own thread answers a price request,
//! while everything else goes to a subscriber as usual.
//!
//! A handler must never wait, and is held against a budget of time for each call. What takes
//! longer belongs to a subscriber.

use std::error::Error;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use nebnet::{
    Client, Config, HandlerOptions, MessageType, NetService, OverflowPolicy, SubscribeOptions,
};

const PRICE: MessageType = MessageType(1);
const NOTE: MessageType = MessageType(2);
const ROUND_TRIPS: u64 = 1_000;

fn main() -> Result<(), Box<dyn Error>> {
    let mut service = NetService::new(Config::default().listen("127.0.0.1:0".parse()?))?;
    let options = HandlerOptions::new(PRICE)
        .name("price")
        .time_limit(Duration::from_micros(20));
    let mut requests = 0_u64;
    service.handle_inline(options, move |_, replier| {
        requests += 1;
        let price = 100 + requests % 7;
        // Refused answers are counted in the handler's row.
        let _ = replier.reply(&price.to_be_bytes());
    })?;
    let options = SubscribeOptions::new(NOTE)
        .name("notes")
        .overflow(OverflowPolicy::Pause);
    let mut notes = service.handle().subscribe_with(options)?;
    service.start()?;
    let reader = thread::Builder::new()
        .name("notes".to_owned())
        .spawn(move || {
            let mut count = 0_u64;
            while let Ok(batch) = notes.recv_batch() {
                count += batch.len() as u64;
            }
            count
        })?;

    let last = ask(service.local_addrs()[0])?;
    println!("the last of {ROUND_TRIPS} prices was {last}");
    let report = service.stop(Duration::from_secs(5));
    println!("{report}");
    let row = &report.snapshot.handlers[0];
    assert_eq!((row.calls, row.refused), (ROUND_TRIPS, 0));
    let notes = reader.join().map_err(|_| "the reader panicked")?;
    assert_eq!(notes, ROUND_TRIPS);
    Ok(())
}

/// The peer: sends a note, asks for a price, and waits for the price before it asks again.
fn ask(addr: SocketAddr) -> Result<u64, Box<dyn Error>> {
    let mut client = Client::connect(addr)?;
    let mut last = 0;
    for _ in 0..ROUND_TRIPS {
        // Goes out together with the question.
        client.push((NOTE, "asked"))?;
        let price = client.request((PRICE, "ACME"), Duration::from_secs(5))?;
        last = u64::from_be_bytes(price.payload().try_into()?);
    }
    client.close()?;
    Ok(last)
}
