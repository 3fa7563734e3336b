//! A block on its way to subscribers, and what they do with it.

use std::{fmt, hint::black_box, sync::Arc};

use super::{MESSAGE_TYPE, Scene, block_of, frames_of, open_slot, slots_for};
use crate::{
    block::{BlockPool, BlockRef},
    dispatch::{FanOut, Item, Outlet, QueueBounds, Registry, SubscribeOptions, Subscription},
    id::{MessageType, PeerId},
    idle::IdleStrategy,
    slots::Slots,
};

/// The dispatching of one block of 64-byte payloads.
pub(super) fn dispatch(subscribers: u16, types: u16) -> Box<dyn Scene> {
    Box::new(Dispatch(Stage::new(subscribers, types)))
}

/// What all subscribers together do with it.
pub(super) fn take(subscribers: u16, types: u16) -> Box<dyn Scene> {
    Box::new(Take(Stage::new(subscribers, types)))
}

#[derive(Debug)]
struct Dispatch(Stage);

impl Scene for Dispatch {
    fn prepare(&mut self) {
        self.0.take();
        self.0.make_block();
    }

    fn run(&mut self) {
        self.0.dispatch();
    }
}

#[derive(Debug)]
struct Take(Stage);

impl Scene for Take {
    fn prepare(&mut self) {
        self.0.make_block();
        self.0.dispatch();
    }

    fn run(&mut self) {
        self.0.take();
    }
}

/// A fan-out with its subscribers.
struct Stage {
    slots: Arc<Slots>,
    bounds: QueueBounds,
    fan_out: FanOut,
    subscriptions: Vec<Subscription>,
    pool: BlockPool,
    peer: PeerId,
    bytes: Vec<u8>,
    block: Option<BlockRef>,
}

impl Stage {
    /// Every subscriber has all of one type, or its share of several.
    fn new(subscribers: u16, types: u16) -> Self {
        let slots = slots_for(1);
        let registry = Arc::new(Registry::new(16));
        let bounds = QueueBounds::new(Arc::clone(&slots.ledger));
        let fan_out = FanOut::new(Arc::clone(&registry), Arc::clone(&slots), bounds.clone());
        let subscriptions = (0..subscribers)
            .map(|index| {
                let first = if types == 1 { 0 } else { index };
                let offsets = (first..types).step_by(usize::from(subscribers));
                let types: Vec<_> = offsets
                    .map(|offset| MessageType(MESSAGE_TYPE.0 + offset))
                    .collect();
                subscribe(&registry, &slots, SubscribeOptions::new(types.as_slice()))
            })
            .collect();
        Self {
            peer: open_slot(&slots, 0),
            pool: BlockPool::new(Arc::clone(&slots)),
            slots,
            bounds,
            fan_out,
            subscriptions,
            bytes: frames_of(64, types),
            block: None,
        }
    }

    fn make_block(&mut self) {
        let block = block_of(&mut self.pool, self.peer, &self.bytes, self.slots.clock);
        self.bounds.raise(&Item::Block(block.clone()));
        self.block = Some(block);
    }

    fn dispatch(&mut self) {
        let block = self.block.take().expect("it was made before");
        self.fan_out.dispatch(block);
    }

    fn take(&mut self) {
        for subscription in &mut self.subscriptions {
            take_all(subscription);
        }
    }
}

impl fmt::Debug for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stage").finish_non_exhaustive()
    }
}

pub(super) fn subscribe(
    registry: &Arc<Registry>,
    slots: &Slots,
    options: SubscribeOptions,
) -> Subscription {
    let (outlet, receiver) = Outlet::queue(&options);
    let account = registry
        .add(options, outlet)
        .expect("there are few subscribers");
    let registry = Arc::clone(registry);
    Subscription::new(
        receiver,
        account,
        registry,
        IdleStrategy::Block,
        slots.clock,
    )
}

/// Takes what is there, and looks at the first byte of each message.
pub(super) fn take_all(subscription: &mut Subscription) {
    while let Ok(batch) = subscription.try_recv_batch() {
        for message in &batch {
            black_box(message.payload().first());
        }
    }
}
