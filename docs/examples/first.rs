//! The program of the README: a service, a client, one question and its answer.

use std::time::Duration;

use nebnet::{Client, Config, MessageType, NetService};

const GREETING: MessageType = MessageType(7);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut service = NetService::new(Config::default().listen("127.0.0.1:0".parse()?))?;
    let handle = service.handle();
    let mut greetings = handle.subscribe(GREETING)?;
    service.start()?;

    let mut client = Client::connect(service.local_addrs()[0])?;
    client.send((GREETING, "hi"))?;

    let greeting = greetings.recv()?;
    let text = String::from_utf8_lossy(greeting.payload());
    println!("{} said {text:?}", greeting.peer());
    handle.reply(&greeting, "hello")?;

    let answer = client.recv()?;
    assert_eq!(answer.payload(), b"hello");
    client.close()?;
    println!("{}", service.stop(Duration::from_secs(5)));
    Ok(())
}
