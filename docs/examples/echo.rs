//! An echo server on the fast path: batches in, batches out, nothing done per message but the
//! copy.
//!
//! `recv_batch` borrows the messages where they were read. `send_batch` hands all answers over
//! under one lock. `OverflowPolicy::Pause` makes it lossless: when this thread falls behind, the
//! peers that sent to it are not read until it has caught up.

use std::error::Error;
use std::net::SocketAddr;
use std::thread;
use std::time::Duration;

use nebnet::{
    Client, ClientError, Config, MessageType, NetService, OutgoingBatch, OverflowPolicy,
    SubscribeOptions, Subscription, TypeFilter,
};

const MESSAGES: u32 = 10_000;

fn main() -> Result<(), Box<dyn Error>> {
    let mut service = NetService::new(Config::default().listen("127.0.0.1:0".parse()?))?;
    let options = SubscribeOptions::new(TypeFilter::all())
        .name("echo")
        .overflow(OverflowPolicy::Pause);
    let requests = service.handle().subscribe_with(options)?;
    let handle = service.handle();
    let echo = thread::Builder::new()
        .name("echo".to_owned())
        .spawn(move || run_echo(requests, &handle))?;
    service.start()?;

    let answers = ask(service.local_addrs()[0])?;
    let report = service.stop(Duration::from_secs(5));
    println!("{answers} of {MESSAGES} messages came back");
    println!("{report}");
    assert_eq!((answers, report.drained), (MESSAGES, true));
    let requests = echo.join().map_err(|_| "the echo thread panicked")?;
    assert_eq!(requests.row().taken, u64::from(MESSAGES));
    Ok(())
}

/// Runs until the service has stopped and everything was answered. The subscription is handed back
/// for its counters.
fn run_echo(mut requests: Subscription, handle: &nebnet::Handle) -> Subscription {
    let mut answers = OutgoingBatch::new();
    while let Ok(batch) = requests.recv_batch() {
        let pushed = batch
            .iter()
            .try_for_each(|message| answers.push_reply(message, message.payload()));
        let sent = pushed.and_then(|()| handle.send_batch(batch.peer(), &mut answers));
        if let Err(error) = sent {
            // All or none were taken. The peer may have left; its reading stops long before its
            // outbox is full.
            eprintln!(
                "peer {}: {} answers lost: {error}",
                batch.peer(),
                answers.len()
            );
            answers.clear();
        }
    }
    requests
}

/// The peer: sends everything, says that it is done, and counts what comes back.
fn ask(addr: SocketAddr) -> Result<u32, Box<dyn Error>> {
    let mut client = Client::connect(addr)?;
    for number in 0..MESSAGES {
        client.push((MessageType(7), &number.to_be_bytes()))?;
    }
    client.finish()?;

    let mut answers = 0_u32;
    loop {
        match client.recv() {
            Ok(answer) => {
                assert_eq!(answer.payload(), answers.to_be_bytes());
                answers += 1;
            }
            Err(ClientError::EndOfStream) => return Ok(answers),
            Err(error) => return Err(error.into()),
        }
    }
}
