//! The program of the README: one peer, one subscriber, one answer.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use nebnet::{Config, MessageType, NetService};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut service = NetService::new(Config::default().listen("127.0.0.1:0".parse()?))?;
    let handle = service.handle();
    let mut greetings = handle.subscribe(MessageType(7))?;
    service.start()?;

    // A peer is whoever can write eight bytes and a payload.
    let mut peer = TcpStream::connect(service.local_addrs()[0])?;
    peer.write_all(b"\x00\x00\x00\x06\x00\x07\x00\x01hi")?;

    let greeting = greetings.recv()?;
    let text = String::from_utf8_lossy(greeting.payload());
    println!("{} said {text:?}", greeting.peer());
    handle.reply(&greeting, "hello")?;

    let mut answer = [0; 13];
    peer.read_exact(&mut answer)?;
    assert_eq!(&answer, b"\x00\x00\x00\x09\x00\x07\x00\x01hello");
    // A peer that stays connected is given all of the time to read its BYE and leave.
    drop(peer);
    println!("{}", service.stop(Duration::from_secs(5)));
    Ok(())
}
