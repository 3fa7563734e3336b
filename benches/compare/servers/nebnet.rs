//! nebnet, with its dispatcher on a thread of its own and inline.

use super::{Kind, Order, Server};
use crate::load::Service;
use nebnet::Dispatch;
use std::sync::Arc;

/// The default.
pub(super) const THREAD: Kind = Kind {
    name: "nebnet",
    reads_numbers: true,
    start: |order| start(order, Dispatch::Thread),
};

/// One hand-off less.
pub(super) const INLINE: Kind = Kind {
    name: "nebnet-inline",
    reads_numbers: true,
    start: |order| start(order, Dispatch::Inline),
};

fn start(order: &Order, dispatch: Dispatch) -> Server {
    let service = Service::start(dispatch, 1, order.queue_messages, order.queue_bytes);
    let tally = Arc::clone(&service.tallies[0]);
    Server::new(service.addr, tally, move || drop(service))
}
