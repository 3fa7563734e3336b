//! What the loop hands over: blocks, events and notices, in the order in which they came.
//!
//! One block waits at most. While it does, or while an event waits, nothing is read.

use super::state::EventLoop;
use crate::{
    block::BlockRef,
    clock::Now,
    dispatch::{Item, Notice, PushError},
    limits::BLOCK_COPIED_MAX,
    socket::Net,
};

impl<N: Net> EventLoop<N> {
    pub(super) fn hand_over(&mut self, now: Now, block: Option<BlockRef>) {
        debug_assert!(
            self.waiting.is_none(),
            "no peer is read while a block waits"
        );
        self.waiting = block;
        self.peers.common.input.note_handed_over();
        self.push_waiting(now);
        if self.pending_wakes.is_enough() {
            self.wake_receivers();
        }
    }

    /// Hands over what waits, in its order: the events that came before the block, the block, and
    /// the events behind it. If something finds no room, no peer is read, and the doorbell will
    /// ring.
    pub(super) fn push_waiting(&mut self, now: Now) {
        if !self.waits_for_dispatch() {
            return;
        }
        if self.push_in_order(now) {
            self.peers.set_stalled(now.tick, false);
            return;
        }
        if self.peers.set_stalled(now.tick, true) && !self.has_room_for_next() {
            self.slots.ledger.dispatch_full.add(1);
        }
        self.sink.bounds().wait_for_room();
        if self.push_in_order(now) {
            self.peers.set_stalled(now.tick, false);
        }
    }

    /// False if something found no room.
    fn push_in_order(&mut self, now: Now) -> bool {
        while let Some(item) = self.next_item() {
            let is_block = matches!(item, Item::Block(_));
            let size = item.size();
            match self.sink.push(item, size <= BLOCK_COPIED_MAX) {
                Ok(woken) => {
                    // What was refused, or is the dispatcher's, is not the loop's to wake for.
                    if !woken {
                        self.pending_wakes.add(now.tick, size);
                    }
                    if is_block {
                        self.note_queue();
                    }
                }
                Err(PushError::Full(item)) => {
                    self.return_item(item);
                    return false;
                }
                Err(PushError::Dead) => self.fail(now, "the dispatcher ended".to_owned()),
            }
        }
        true
    }

    /// Takes out what is to be handed over next.
    pub(super) fn next_item(&mut self) -> Option<Item> {
        if self.waiting.is_some() && !self.peers.common.told.has_events_ahead() {
            return self.waiting.take().map(Item::Block);
        }
        self.peers.common.told.poll()
    }

    fn return_item(&mut self, item: Item) {
        match item {
            Item::Block(block) => self.waiting = Some(block),
            Item::Event(_) | Item::Timer(_) => {
                self.peers
                    .common
                    .told
                    .put_back(item, self.waiting.is_some());
            }
            Item::Notice(_) | Item::Cut(_) | Item::Poke => {}
        }
    }

    /// Whether a block or an event waits to be handed over.
    pub(super) fn waits_for_dispatch(&self) -> bool {
        self.waiting.is_some() || self.peers.common.told.has_events()
    }

    /// Whether what is to be handed over next has room now.
    pub(super) fn has_room_for_next(&self) -> bool {
        let bounds = self.sink.bounds();
        match &self.waiting {
            Some(block) if !self.peers.common.told.has_events_ahead() => {
                bounds.has_room_for_block(block)
            }
            Some(_) | None => bounds.has_room_for_event(),
        }
    }

    /// Tells the dispatcher about requests. The end of a connection comes behind everything that
    /// was read of it.
    #[inline]
    pub(super) fn push_notices(&mut self) {
        if self.peers.common.told.notice_count() > 0 {
            self.push_all_notices();
        }
    }

    #[cold]
    #[inline(never)]
    fn push_all_notices(&mut self) {
        for _ in 0..self.peers.common.told.notice_count() {
            let Some(notice) = self.peers.common.told.poll_notice() else {
                return;
            };
            let waiting = self.waiting.as_ref().map(|block| block.head().peer);
            let is_early = match notice {
                Notice::Closed { peer, .. } => waiting == Some(peer),
                Notice::Expire { .. } => false,
            };
            if is_early || !self.sink.push_notice(notice) {
                let now = self.peers.common.deadlines.wheel.now();
                self.peers.common.told.put_back_notice(
                    now,
                    notice,
                    &mut self.peers.common.deadlines,
                );
            }
        }
    }

    pub(super) fn note_queue(&mut self) {
        let fill = self.slots.ledger.dispatch_queue.get();
        self.queue_max.messages = self.queue_max.messages.max(fill.messages);
        self.queue_max.bytes = self.queue_max.bytes.max(fill.bytes);
    }

    /// Wakes those who sleep and for whom the loop dispatched something.
    pub(super) fn wake_receivers(&mut self) {
        if self.pending_wakes.take() && !self.sink.wake_receivers() {
            self.poke.poke();
        }
    }
}
