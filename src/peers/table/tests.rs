//! The table: places that are taken and given back, and the three forms of a connection.

use super::*;
use crate::{
    clock::Clock,
    frame::{Decoder, Frame, Hello, encode_whole},
    id::MessageType,
    ledger::{Ledger, Traffic},
    peer::{Parsed, Rules},
    slots::{About, OutboxLimits},
};

fn slots() -> Arc<Slots> {
    let ledger = Arc::new(Ledger::new(1 << 30, Traffic::new(1, 1)));
    let limits = OutboxLimits {
        bytes: 1 << 20,
        messages: 1 << 10,
        payload_size: 1 << 20,
    };
    Arc::new(Slots::new(0, 300, limits, ledger, Clock::start()))
}

fn rules() -> Rules {
    Rules {
        first_frame_ms: 100,
        ..Rules::lenient(Decoder::new(1 << 20))
    }
}

/// A connection that takes the place that is vacant next.
fn accept(table: &mut Table, now: Tick) -> PeerId {
    let index = u32::try_from(table.vacant()).unwrap();
    let addr = format!("[2001:db8::{index}]:{index}").parse().unwrap();
    let id = table.slots.open_for(index, About { addr, link: None });
    let id = id.unwrap();
    let peer = Peer::new(id, addr, now, &rules());
    let mut connection = Connection::new(peer, Standing::Accepted);
    connection.pending = true;
    connection.told_connected = true;
    table.insert(connection);
    id
}

fn take(connection: &mut Connection, now: Tick, message_type: MessageType, payload: &[u8]) {
    let mut bytes = Vec::new();
    encode_whole(&Frame::new(message_type, payload), &mut bytes);
    let peer = &mut connection.peer;
    peer.handle_moved(now, now);
    peer.handle_heard(now);
    peer.handle_bytes(now, now, &rules(), &bytes, &mut Parsed::default());
}

fn told(table: &Table, id: PeerId) -> String {
    format!("{:?}", &*table.look(id.index() as usize).unwrap())
}

/// Being dormant changes nothing about a connection.
#[track_caller]
fn becomes_dormant(table: &mut Table, id: PeerId, before: Tick) {
    let index = id.index() as usize;
    let connection = told(table, id);
    assert!(!table.is_inactive(id));
    table.make_dormant(index, before);
    assert!(table.is_inactive(id), "{connection}");
    assert_eq!(told(table, id), connection);
    assert_eq!(format!("{:?}", table.get_mut(index).unwrap()), connection);
    assert!(!table.is_inactive(id));
}

#[test]
fn a_dormant_connection_is_the_same_afterwards() {
    let mut table = Table::new(slots());
    let id = accept(&mut table, 7);
    becomes_dormant(&mut table, id, 0);
    take(table.get_mut(0).unwrap(), 20, MessageType(1), b"one");
    table.get_mut(0).unwrap().pending = false;
    table.make_dormant(0, 20);
    assert!(!table.is_inactive(id), "it has just been used");
    becomes_dormant(&mut table, id, 21);
    let hello = Hello {
        node_id: [7; 16],
        agent: "somebody",
        ..Hello::default()
    };
    let connection = table.get_mut(0).unwrap();
    take(connection, 30, MessageType::HELLO, &hello.to_payload());
    becomes_dormant(&mut table, id, 31);
    let node_id = table.get_mut(0).unwrap().peer.node_id();
    assert_eq!(node_id.0, [7; 16]);
}

#[test]
fn nobody_rests_whom_something_waits_for() {
    let ways: [fn(&mut Connection); 8] = [
        |connection| connection.ready.set(Ready::READ),
        |connection| connection.ready.clear(Ready::WRITE),
        |connection| connection.in_due_list = true,
        |connection| connection.request_deadline = Some(5),
        |connection| connection.standing = Standing::Refused,
        |connection| connection.peer.carry.push(0),
        |connection| connection.peer.set_reading(3, false),
        |connection| {
            let frame = Frame::new(MessageType(1), b"x");
            connection
                .peer
                .outbox
                .push_inline(1, crate::policy::Priority::Normal, &frame);
        },
    ];
    let mut table = Table::new(slots());
    for way in ways {
        let id = accept(&mut table, 1);
        let index = id.index() as usize;
        way(table.get_mut(index).unwrap());
        table.make_dormant(index, Tick::MAX);
        assert!(!table.is_inactive(id), "{}", told(&table, id));
    }
    assert_eq!(table.make_some_dormant(0, 7, Tick::MAX, |_| ()), 7);
    assert_eq!(table.make_some_dormant(7, usize::MAX, Tick::MAX, |_| ()), 0);
}

#[test]
fn the_lowest_place_is_given_away_and_empty_chunks_are_given_back() {
    let mut table = Table::new(slots());
    let ids: Vec<_> = (0..150).map(|_| accept(&mut table, 0)).collect();
    assert_eq!(table.ids().map(|(id, _)| id).collect::<Vec<_>>(), ids);
    for index in [140, 70, 3, 3] {
        table.remove(index);
    }
    assert_eq!((table.vacant(), table.len()), (3, 147));
    table.bar(3);
    assert!(table.get_mut(3).is_none() && table.look(3).is_none());
    assert_eq!((table.vacant(), table.len()), (70, 148));
    for index in 64..128 {
        table.remove(index);
    }
    assert!(table.chunks[1].places.is_none());
    assert_eq!((table.vacant(), table.len()), (64, 85));
    assert!(table.get_mut(64).is_none() && table.get_mut(9_999).is_none());
    assert_eq!(table.ids().count(), 84);
    table.remove(9_999);
    table.bar(64);
    assert_eq!((table.vacant(), table.len()), (65, 86));
}
