//! One subscriber as the fan-out sees it, and where its messages go.

use std::{fmt, sync::Arc};

use super::{
    Delivery, EventDelivery, OverflowPolicy, SubscribeOptions,
    account::Account,
    channel::{Receiver, Sender, queue},
    mixed::Ahead,
};
use crate::{block::Message, sync::channel};

/// One subscriber, as the fan-out sees it.
#[derive(Clone, Debug)]
pub(crate) struct Subscriber {
    pub(crate) account: Arc<Account>,
    pub(crate) outlet: Outlet,
    /// Counts the events that its queue holds beside its messages.
    pub(crate) events: Option<Arc<Account>>,
    /// The set of timers that expire into its queue.
    pub(crate) timers: Option<u32>,
}

impl Subscriber {
    /// Whether its queue holds anything besides messages.
    pub(super) fn is_mixed(&self) -> bool {
        self.events.is_some() || self.timers.is_some()
    }
}

/// Where the messages of a subscriber go.
#[derive(Clone)]
pub(crate) enum Outlet {
    /// Its [`Subscription`](super::Subscription); the other end too if the oldest may be dropped.
    Deliveries(Sender<Delivery>, Option<Oldest>),
    /// A channel of its own, one message at a time.
    Messages(crossbeam_channel::Sender<Message>),
    /// Its [`EventSubscription`](super::EventSubscription).
    Events(crossbeam_channel::Sender<EventDelivery>),
    /// Nowhere: the service has stopped.
    Closed,
}

/// The end of a queue at which the oldest are.
#[derive(Clone, Debug)]
pub(crate) struct Oldest {
    pub(super) items: channel::Receiver<Delivery>,
    /// Where events go that stand before batches which give way.
    pub(super) ahead: Option<Arc<Ahead>>,
}

impl Outlet {
    /// A queue as the options ask for, and the subscriber's end of it.
    pub(crate) fn queue(options: &SubscribeOptions) -> (Self, Receiver<Delivery>) {
        let (sender, receiver) = queue();
        let gives_up = options.overflow == OverflowPolicy::DropOldest;
        let oldest = gives_up.then(|| Oldest {
            items: receiver.items().clone(),
            ahead: options.is_mixed().then(Arc::default),
        });
        (Self::Deliveries(sender, oldest), receiver)
    }

    /// What is ahead of the queue, if anything may be.
    pub(super) fn ahead(&self) -> Option<Arc<Ahead>> {
        match self {
            Self::Deliveries(_, oldest) => oldest.as_ref()?.ahead.clone(),
            Self::Messages(_) | Self::Events(_) | Self::Closed => None,
        }
    }
}

impl fmt::Debug for Outlet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Deliveries(..) => "Deliveries",
            Self::Messages(_) => "Messages",
            Self::Events(_) => "Events",
            Self::Closed => "Closed",
        })
    }
}
