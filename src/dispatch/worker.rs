//! The dispatcher thread.

use std::{
    any::Any,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use super::{DirectDispatch, FanOut, channel::Receiver, queue::Item, queue::Poke};
use crate::{
    clock::Clock,
    idle::{Idle, IdleStrategy},
    limits::{PENDING_WAKE_BYTES_MAX, PENDING_WAKE_ITEMS_MAX},
    sync::channel::TryRecvError,
    threads::set_dispatcher,
};

/// What the thread runs: takes items until the loop has let go of the queue and it is empty.
pub(crate) struct Worker {
    items: Receiver<Item>,
    direct: Arc<DirectDispatch>,
    poke: Arc<Poke>,
    on_tick: OnTick,
    idle: Idle,
    clock: Clock,
    /// Items handled since receivers were last woken, from a block on.
    pending_wakes: u32,
}

/// The embedder's metrics callback, closed over what it reports.
pub(crate) type OnTick = Box<dyn FnMut() + Send>;

impl Worker {
    pub(crate) fn new(
        items: Receiver<Item>,
        direct: Arc<DirectDispatch>,
        poke: Arc<Poke>,
        on_tick: OnTick,
        idle: IdleStrategy,
        clock: Clock,
    ) -> Self {
        Self {
            items,
            direct,
            poke,
            on_tick,
            idle: Idle::new(idle),
            clock,
            pending_wakes: 0,
        }
    }

    /// Runs to the end of the queue. The error is what a panic said; whatever happens, subscribers
    /// find the end of their queues.
    pub(crate) fn run(&mut self) -> Result<(), String> {
        set_dispatcher();
        let result = catch_unwind(AssertUnwindSafe(|| {
            while let Some(item) = self.next_item() {
                self.idle.note_work(self.clock, item.size());
                self.handle(item);
            }
        }));
        let closed = catch_unwind(AssertUnwindSafe(|| self.direct.close()));
        result.and(closed).map_err(|panic| panic_message(&*panic))
    }

    /// After a panic, which the loop was told of: counts what is in the queue, and what comes until
    /// the loop has let go of it, as undelivered.
    pub(crate) fn abandon(&mut self) {
        while let Ok(item) = self.items.recv() {
            self.direct.visit(|fan_out| fan_out.abandon(item));
        }
    }

    /// The next item; waits for it as the idle strategy says. `None` at the end of the queue.
    fn next_item(&mut self) -> Option<Item> {
        loop {
            match self.items.try_recv() {
                Ok(item) => return Some(item),
                Err(TryRecvError::Disconnected) => return None,
                Err(TryRecvError::Empty) if self.idle.polls_by(self.clock) => Idle::yield_now(),
                Err(TryRecvError::Empty) => return self.items.recv().ok(),
            }
        }
    }

    fn handle(&mut self, item: Item) {
        let is_last = self.items.items().is_empty();
        let counts = self.pending_wakes > 0 || matches!(item, Item::Block(_));
        self.pending_wakes += u32::from(counts);
        let wakes = is_last || self.pending_wakes >= PENDING_WAKE_ITEMS_MAX;
        match item {
            Item::Block(block) => {
                let pending_wakes = &mut self.pending_wakes;
                self.direct.handle(|fan_out| {
                    fan_out.dispatch_without_wake(block);
                    if wakes || fan_out.bytes_without_wake() >= PENDING_WAKE_BYTES_MAX {
                        fan_out.wake_receivers();
                        *pending_wakes = 0;
                    }
                });
            }
            Item::Event(event) => self.direct.handle(|fan_out| fan_out.dispatch_event(event)),
            Item::Timer(timer) => self.direct.handle(|fan_out| fan_out.dispatch_timer(timer)),
            Item::Notice(notice) => self.direct.handle(|fan_out| fan_out.handle_notice(*notice)),
            Item::Cut(marker) => self.direct.handle(|fan_out| fan_out.handle_cut(*marker)),
            Item::Poke => {}
        }
        if wakes && std::mem::take(&mut self.pending_wakes) > 0 {
            self.direct.visit(FanOut::wake_receivers);
        }
        if self.poke.take() {
            self.look_around();
        }
    }

    fn look_around(&mut self) {
        self.direct.visit(FanOut::pump);
        if self.poke.take_tick() {
            self.direct.visit(FanOut::trim);
            (self.on_tick)();
        }
    }
}

/// The simulator calls for each item, in place of the thread.
#[cfg(test)]
impl Worker {
    /// Handles the next item; false if there is none.
    pub(crate) fn step(&mut self) -> bool {
        let item = self.items.try_recv();
        item.map(|item| self.handle(item)).is_ok()
    }

    /// Messages in the queue.
    pub(crate) fn has_items(&self) -> bool {
        !self.items.items().is_empty()
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("direct", &self.direct)
            .finish_non_exhaustive()
    }
}

/// What a panic said.
pub(crate) fn panic_message(panic: &(dyn Any + Send)) -> String {
    if let Some(text) = panic.downcast_ref::<&str>() {
        (*text).to_owned()
    } else if let Some(text) = panic.downcast_ref::<String>() {
        text.clone()
    } else {
        "panic without a message".to_owned()
    }
}
