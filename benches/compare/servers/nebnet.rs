//! nebnet with its default settings, with its dispatcher inline, with two loops, and with a handler
//! on the loop.

use super::{Accepted, Class, Kind, Order, Role, Server};
use crate::load::{Framing, MESSAGE_TYPE, Tally};
use nebnet::{
    Config, Dispatch, HandlerOptions, MessageType, NetService, OverflowPolicy, Recipients,
    SubscribeOptions,
};
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;

/// The default.
pub(super) const THREAD: Kind = Kind {
    name: "nebnet",
    class: Class::Ours,
    framing: Framing::Fixed,
    reads_numbers: true,
    does: |_| true,
    start: |order| Ok(start(order, Dispatch::Thread)),
};

/// One hand-off less.
pub(super) const INLINE: Kind = Kind {
    name: "nebnet-inline",
    does: |order| match order.role {
        Role::Count => order.idle_connections == 0,
        Role::Echo => true,
        Role::Broadcast => false,
    },
    start: |order| Ok(start(order, Dispatch::Inline)),
    ..THREAD
};

/// As many loops as the runtimes beside it have workers.
pub(super) const LOOPS: Kind = Kind {
    name: "nebnet-loops",
    does: |order| order.role != Role::Echo && order.idle_connections == 0,
    start: |order| {
        let config = config(order, Dispatch::Thread).shards(2);
        Ok(start_with(order, config))
    },
    ..THREAD
};

/// No hand-off: the loop answers.
pub(super) const HANDLER: Kind = Kind {
    name: "nebnet-handler",
    does: |order| order.role == Role::Echo,
    start: |order| {
        let service = NetService::new(config(order, Dispatch::Thread)).unwrap();
        let options = HandlerOptions::new(MessageType(MESSAGE_TYPE));
        let handler = service.handle_inline(options, |message, replier| {
            replier.reply(message.payload()).unwrap();
        });
        handler.unwrap();
        Ok(run(service, Vec::new()))
    },
    ..THREAD
};

fn config(order: &Order, dispatch: Dispatch) -> Config {
    Config::default()
        .listen(SocketAddr::from(([127, 0, 0, 1], 0)))
        .max_peers(order.idle_connections + 1024)
        .max_pending(0)
        .dispatch(dispatch)
}

fn start(order: &Order, dispatch: Dispatch) -> Server {
    start_with(order, config(order, dispatch))
}

fn start_with(order: &Order, config: Config) -> Server {
    let service = NetService::new(config).unwrap();
    let tallies = match order.role {
        Role::Count => (0..order.subscribers)
            .map(|index| count(&service, order, index))
            .collect(),
        Role::Echo => {
            answer(&service);
            Vec::new()
        }
        Role::Broadcast => Vec::new(),
    };
    run(service, tallies)
}

fn run(mut service: NetService, tallies: Vec<Arc<Tally>>) -> Server {
    service.start().unwrap();
    let addr = service.local_addrs()[0];
    let handle = service.handle();
    let connections = move || service.handle().snapshot().peers;
    let server = Server::new(addr, &Accepted::default(), tallies).with_broadcast(move |payload| {
        handle.broadcast((MessageType(MESSAGE_TYPE), payload), Recipients::All);
    });
    Server {
        connections: Box::new(connections),
        ..server
    }
}

/// A lossless subscriber to everything, or to its share of the types.
fn count(service: &NetService, order: &Order, index: usize) -> Arc<Tally> {
    let first = if order.types == 1 { 0 } else { index };
    let types: Vec<_> = (first..order.types)
        .step_by(order.subscribers)
        .map(|offset| MessageType(MESSAGE_TYPE + offset as u16))
        .collect();
    let options = SubscribeOptions::new(types.as_slice())
        .name(format!("subscriber {index}"))
        .messages(order.queue_messages)
        .bytes(order.queue_bytes)
        .overflow(OverflowPolicy::Pause);
    let mut subscription = service.handle().subscribe_with(options).unwrap();
    let tally = Arc::new(Tally::default());
    let counts = Arc::clone(&tally);
    thread::spawn(move || {
        while let Ok(batch) = subscription.recv_batch() {
            counts.take(batch.iter().map(|message| message.payload()));
        }
    });
    tally
}

fn answer(service: &NetService) {
    let mut subscription = service
        .handle()
        .subscribe(MessageType(MESSAGE_TYPE))
        .unwrap();
    let handle = service.handle();
    thread::spawn(move || {
        while let Ok(batch) = subscription.recv_batch() {
            for message in &batch {
                handle.reply(message, message.payload()).unwrap();
            }
        }
    });
}
