//! Where blocks and events go: to the dispatcher, or to subscribers right here.

use crate::{
    balance::CutMarker,
    dispatch::{DispatchQueue, FanOut, Item, Notice, OnTick, PushError, QueueBounds},
};

/// Where blocks and events go.
pub(crate) enum Sink {
    /// To the dispatcher thread.
    Queue(DispatchQueue),
    /// To subscribers, right here.
    Inline {
        fan_out: Box<FanOut>,
        bounds: QueueBounds,
        on_tick: OnTick,
    },
}

impl Sink {
    pub(super) fn bounds(&self) -> &QueueBounds {
        match self {
            Self::Queue(queue) => queue.bounds(),
            Self::Inline { bounds, .. } => bounds,
        }
    }

    /// False if there is no room for the notice now; the doorbell will ring.
    pub(super) fn push_notice(&mut self, notice: Notice) -> bool {
        match self {
            Self::Queue(queue) => {
                let pushed = queue.push_item(Item::Notice(Box::new(notice)));
                let pushed = pushed.or_else(|item| {
                    queue.bounds().wait_for_room();
                    queue.push_item(item)
                });
                pushed.is_ok()
            }
            Self::Inline { fan_out, .. } => {
                fan_out.handle_notice(notice);
                true
            }
        }
    }

    /// A marker for which there is no place is given up.
    pub(super) fn push_cut(&mut self, marker: CutMarker) {
        match self {
            Self::Queue(queue) => {
                if let Err(Item::Cut(marker)) = queue.push_item(Item::Cut(Box::new(marker))) {
                    marker.finish(None);
                }
            }
            Self::Inline { fan_out, .. } => fan_out.handle_cut(marker),
        }
    }

    /// As [`DispatchQueue::wake_receivers`].
    pub(super) fn wake_receivers(&mut self) -> bool {
        match self {
            Self::Queue(queue) => queue.wake_receivers(),
            Self::Inline { fan_out, .. } => {
                fan_out.wake_receivers();
                true
            }
        }
    }

    /// Hands an item over, or dispatches it here; says whether its receivers were woken, which they
    /// are if it `wakes` or is the dispatcher's.
    pub(super) fn push(&mut self, item: Item, wakes: bool) -> Result<bool, PushError> {
        match self {
            Self::Queue(queue) => {
                let item = match item {
                    Item::Block(block) => match queue.dispatch(block, wakes) {
                        Ok(()) => return Ok(wakes),
                        Err(block) => Item::Block(block),
                    },
                    Item::Event(_)
                    | Item::Timer(_)
                    | Item::Notice(_)
                    | Item::Cut(_)
                    | Item::Poke => item,
                };
                queue.push(item).map(|()| true)
            }
            Self::Inline {
                fan_out, bounds, ..
            } => {
                // With an outdated table a subscriber would miss what it may rely on: the item
                // waits for the next turn instead.
                if !bounds.has_room_for(&item) || !fan_out.refresh() {
                    return Err(PushError::Full(item));
                }
                dispatch_inline(fan_out, bounds, item);
                if wakes {
                    fan_out.wake_receivers();
                }
                Ok(wakes)
            }
        }
    }
}

pub(super) fn dispatch_inline(fan_out: &mut FanOut, bounds: &QueueBounds, item: Item) {
    bounds.raise(&item);
    match item {
        Item::Block(block) => fan_out.dispatch_without_wake(block),
        Item::Event(event) => fan_out.dispatch_event(event),
        Item::Timer(timer) => fan_out.dispatch_timer(timer),
        Item::Notice(notice) => fan_out.handle_notice(*notice),
        Item::Cut(marker) => fan_out.handle_cut(*marker),
        Item::Poke => {}
    }
}
