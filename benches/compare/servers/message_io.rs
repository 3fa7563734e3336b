//! message-io with its framed TCP: a callback for each message on its network thread.
//!
//! The callback borrows the message, so what goes to another thread is copied.

use super::subscribers::{Message, Queues, answering};
use super::{Accepted, Class, Kind, Order, Role, Server};
use crate::load::{Framing, MESSAGE_TYPE, Tally};
use bytes::Bytes;
use message_io::network::{Endpoint, NetEvent, Transport};
use message_io::node::{self, NodeHandler};
use std::mem;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

pub(super) const KIND: Kind = Kind {
    name: "message-io",
    class: Class::Peer,
    framing: Framing::Varint,
    reads_numbers: true,
    does: |_| true,
    start: |order| Ok(start(order)),
};

fn start(order: &Order) -> Server {
    let accepted = Accepted::default();
    let server = |addr, tallies: Vec<Arc<Tally>>| Server::new(addr, &accepted, tallies);
    match order.role {
        Role::Count => {
            let (queues, tallies) = Queues::of_messages(order);
            let (addr, _) = serve(
                accepted.clone(),
                |_| {},
                move |_, _, message| {
                    queues.send(message);
                },
            );
            server(addr, tallies)
        }
        Role::Echo => {
            let queue = answering(|(node, from, question): (NodeHandler<()>, _, Message)| {
                node.network().send(from, question.frame());
            });
            let (addr, _) = serve(
                accepted.clone(),
                |_| {},
                move |node, from, message| {
                    queue.send((node.clone(), from, message)).unwrap();
                },
            );
            server(addr, Vec::new())
        }
        Role::Broadcast => {
            let all: Arc<Mutex<Vec<Endpoint>>> = Arc::default();
            let endpoints = Arc::clone(&all);
            let connect = move |endpoint| endpoints.lock().unwrap().push(endpoint);
            let (addr, node) = serve(accepted.clone(), connect, |_, _, _| {});
            server(addr, Vec::new()).with_broadcast(move |payload| {
                let mut frame = MESSAGE_TYPE.to_be_bytes().to_vec();
                frame.extend_from_slice(&[0, 1]);
                frame.extend_from_slice(payload);
                for endpoint in &*all.lock().unwrap() {
                    node.network().send(*endpoint, &frame);
                }
            })
        }
    }
}

fn serve(
    accepted: Accepted,
    connect: impl Fn(Endpoint) + Send + 'static,
    take: impl Fn(&NodeHandler<()>, Endpoint, Message) + Send + 'static,
) -> (SocketAddr, NodeHandler<()>) {
    let (node, events) = node::split::<()>();
    let (_, addr) = node
        .network()
        .listen(Transport::FramedTcp, "127.0.0.1:0")
        .unwrap();
    let own = node.clone();
    let task = events.for_each_async(move |event| match event.network() {
        NetEvent::Message(from, bytes) => {
            take(&own, from, Message::new(Bytes::copy_from_slice(bytes)));
        }
        NetEvent::Accepted(endpoint, _) => {
            connect(endpoint);
            accepted.add();
        }
        NetEvent::Connected(..) | NetEvent::Disconnected(_) => {}
    });
    // Dropping it would wait for its end.
    mem::forget(task);
    (addr, node)
}
