//! A channel of the embedder's that serves two types, beside other channels in one `select!`.
//!
//! Each message costs a channel operation here, where a `Subscription` costs one per read. In
//! exchange the thread waits for messages, for its own work and for the end of the service at
//! once.

use std::error::Error;
use std::time::Duration;

use crossbeam_channel::{bounded, select, tick};
use nebnet::{Client, Config, MessageType, NetService, SubscribeOptions};

const JOB: MessageType = MessageType(7);
const CANCEL: MessageType = MessageType(9);

fn main() -> Result<(), Box<dyn Error>> {
    let mut service = NetService::new(Config::default().listen("127.0.0.1:0".parse()?))?;
    let (sender, messages) = bounded(1024);
    // Dropping one of the two unsubscribes it.
    let jobs = service
        .handle()
        .subscribe_sender(SubscribeOptions::new(JOB), sender.clone())?;
    let cancels = service
        .handle()
        .subscribe_sender(SubscribeOptions::new(CANCEL), sender)?;
    service.start()?;

    let mut client = Client::connect(service.local_addrs()[0])?;
    for message_type in [JOB, JOB, CANCEL] {
        client.push((message_type, "42"))?;
    }
    client.flush()?;

    let ticks = tick(Duration::from_millis(100));
    let mut seen = 0;
    while seen < 3 {
        select! {
            recv(messages) -> message => {
                let message = message?;
                println!("type {} from {}", message.message_type(), message.peer());
                seen += 1;
            }
            recv(ticks) -> _ => println!("time for other work"),
            recv(service.ended()) -> _ => return Err("the service ended".into()),
        }
    }

    // A peer that stays connected is given all of the time to read its BYE and leave.
    drop(client);
    println!("{}", service.stop(Duration::from_secs(5)));
    // What was handed over is counted a moment later, and all of it once the service has stopped.
    println!(
        "jobs: {} taken, {} dropped",
        jobs.row().taken,
        jobs.row().dropped
    );
    println!("cancels: {} taken", cancels.row().taken);
    assert_eq!((jobs.row().taken, cancels.row().taken), (2, 1));
    // The service held the only senders, so the channel has come to its end.
    assert!(messages.recv().is_err());
    Ok(())
}
