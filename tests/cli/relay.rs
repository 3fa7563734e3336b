//! `serve --relay`: what one client says is heard once by all others, however services are
//! connected.

use std::net::TcpListener;

use crate::{
    harness::{Peer, Raw, frame, spawn},
    mesh::{self, Client, own_addr},
};

/// Each client says so many lines.
const LINES: usize = 100;

/// What the client with this name says, as the others have to hear it.
fn speak(client: &mut Client, name: &str) -> Vec<Raw> {
    let mut said = Vec::new();
    for line in 0..LINES {
        let payload = format!("{name} {line}").into_bytes();
        match line % 4 {
            0 => said.push(client.say_numbered(line as u64, &payload, false)),
            1 => said.push(client.say_numbered(u64::MAX - line as u64, &payload, true)),
            _ => {
                let kind = u16::try_from(line).unwrap();
                client.say(kind, &payload);
                said.push((kind, 0, payload));
            }
        }
        // The same again is another message.
        client.say(5, format!("{name} same").as_bytes());
        said.push((5, 0, format!("{name} same").into_bytes()));
    }
    said
}

/// Two clients at each of the relays: everybody hears everybody else, once and in order.
#[track_caller]
fn assert_all_hear_all(links: &[&[usize]]) {
    let relays = mesh::start(links, &[]);
    let addrs: Vec<_> = relays.iter().flat_map(|relay| [relay.addr; 2]).collect();
    let mut clients: Vec<_> = addrs.iter().map(|addr| Client::connect(*addr)).collect();
    let names: Vec<_> = (0..clients.len())
        .map(|index| format!("c{index}"))
        .collect();
    let mut said = Vec::new();
    for (client, name) in clients.iter_mut().zip(&names) {
        said.push(speak(client, name));
    }
    let expected = 2 * LINES * (clients.len() - 1);
    for client in &clients {
        client.wait_for(expected);
    }
    let ledger = mesh::stop(relays);
    let said_count = said.iter().map(Vec::len).sum();
    ledger.assert_agrees_with(said_count, expected * clients.len());
    for (index, client) in clients.into_iter().enumerate() {
        let heard = client.heard();
        assert_eq!(heard.len(), expected, "what client {index} heard");
        for (other, said) in said.iter().enumerate().filter(|(other, _)| *other != index) {
            let came = mesh::of(&names[other], &heard);
            assert!(
                came == *said,
                "client {index} heard another order of {other}"
            );
        }
    }
}

#[test]
fn clients_of_one_relay_hear_each_other() {
    assert_all_hear_all(&[&[]]);
}

#[test]
fn two_relays_are_as_one() {
    assert_all_hear_all(&[&[1], &[]]);
    assert_all_hear_all(&[&[1], &[0]]);
}

#[test]
fn a_chain_of_relays_is_as_one() {
    assert_all_hear_all(&[&[1], &[2], &[]]);
}

#[test]
fn a_circle_of_relays_brings_nothing_twice() {
    assert_all_hear_all(&[&[1, 2], &[0, 2], &[0, 1]]);
}

/// A checksum is kept on messages without a number too, on every way.
#[test]
fn checksums_travel_along() {
    let relays = mesh::start(&[&[1], &[]], &[]);
    let near = Client::connect(relays[0].addr);
    let far = Client::connect(relays[1].addr);
    let addr = relays[0].addr.to_string();
    let args = ["send", &addr, "--type", "7", "--text", "hi", "--checksum"];
    let output = crate::harness::run(&args, b"");
    assert!(output.status.success(), "{output:?}");
    for client in [&near, &far] {
        client.wait_for(1);
    }
    mesh::stop(relays).assert_agrees_with(1, 2);
    let expected = [(7, 1, b"hi\x83\xa4\xe4\x18".to_vec())];
    assert_eq!(near.heard(), expected);
    assert_eq!(far.heard(), expected);
}

/// The OK or HELLO of a service that says so of itself.
fn greeting(node_id: u8, agent: &str) -> Vec<u8> {
    let hello = nebnet::frame::Hello {
        node_id: [node_id; 16],
        payload_size_max: 1 << 20,
        agent,
        ..Default::default()
    };
    hello.to_payload()
}

/// The body of a message with a number.
fn numbered(number: u64, payload: &[u8]) -> Vec<u8> {
    [&number.to_be_bytes(), payload].concat()
}

/// A relay that was connected to takes the other side for a client until its HELLO is read. What it
/// sends meanwhile is on its way between services as well, so it has to end there.
#[test]
fn what_a_relay_sent_before_it_knew_us_is_not_passed_on() {
    for (agent, passed_on) in [("nebnet-relay/9", false), ("something", true)] {
        let listener = TcpListener::bind(own_addr()).unwrap();
        let target = listener.local_addr().unwrap();
        let other = spawn(move || {
            let mut peer = Peer::accept(&listener);
            assert_eq!(peer.recv().map(|raw| raw.0), Some(0xFF00));
            peer.send(7, b"early");
            peer.send(0xFF01, &greeting(0xEE, agent));
            peer.stream_frame(7, 2, &numbered(0x6E62 << 48, b"numbered"));
            peer
        });
        let relay = mesh::Relay::start(1, own_addr(), &[target], &["--drain", "1s"]);
        let client = Client::connect(relay.addr);
        // The link may be there before the client is; then it is told again.
        let mut other = other.join().unwrap();
        other.stream_frame(7, 2, &numbered((0x6E62 << 48) | 1, b"last"));
        client.wait_for_payload(b"last");
        mesh::stop(vec![relay]);
        let heard = client.heard();
        assert_eq!(heard.last(), Some(&(7, 0, b"last".to_vec())));
        let early = heard.iter().any(|raw| raw.2 == b"early");
        assert!(!early || passed_on, "{heard:?}");
    }
}

/// A number that came once is not passed on again, also if its sender has left meanwhile.
#[test]
fn a_copy_from_a_service_that_has_left_is_known() {
    let relay = mesh::Relay::start(1, own_addr(), &[], &[]);
    let client = Client::connect(relay.addr);
    let say = |node: u8| {
        let mut service = Peer::connect(relay.addr);
        service.send(0xFF00, &greeting(node, "test"));
        assert_eq!(service.recv().map(|raw| raw.0), Some(0xFF01));
        service.stream_frame(7, 2, &numbered(0x6E62 << 48, b"once"));
        service.stream_frame(7, 2, &numbered(7, b"own number"));
        service
    };
    let _first = say(2);
    client.wait_for(2);
    for node in 3..20 {
        let linger = Some(std::time::Duration::ZERO);
        rustix::net::sockopt::set_socket_linger(say(node).stream, linger).unwrap();
    }
    let mut last = say(20);
    last.send(7, b"last");
    client.wait_for(3);
    mesh::stop(vec![relay]);
    let expected = [
        (7, 0, b"once".to_vec()),
        (7, 2, numbered(7, b"own number")),
        (7, 0, b"last".to_vec()),
    ];
    assert_eq!(client.heard(), expected);
}

impl Peer {
    fn stream_frame(&mut self, kind: u16, flags: u8, body: &[u8]) {
        let bytes = frame(kind, flags, body);
        std::io::Write::write_all(&mut self.stream, &bytes).unwrap();
    }
}
