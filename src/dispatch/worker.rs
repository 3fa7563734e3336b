//! The dispatcher thread.

use std::{
    any::Any,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use super::{FanOut, queue::Item, queue::Poke};
use crate::{
    clock::Clock,
    idle::{Idle, IdleStrategy},
    sync::channel::{Receiver, TryRecvError},
};

/// What the thread runs: takes items until the loop has let go of the queue and it is empty.
pub(crate) struct Worker {
    items: Receiver<Item>,
    fan_out: FanOut,
    poke: Arc<Poke>,
    on_tick: OnTick,
    idle: Idle,
    clock: Clock,
}

/// The embedder's metrics callback, closed over what it reports.
pub(crate) type OnTick = Box<dyn FnMut() + Send>;

impl Worker {
    pub(crate) fn new(
        items: Receiver<Item>,
        fan_out: FanOut,
        poke: Arc<Poke>,
        on_tick: OnTick,
        idle: IdleStrategy,
        clock: Clock,
    ) -> Self {
        Self {
            items,
            fan_out,
            poke,
            on_tick,
            idle: Idle::new(idle),
            clock,
        }
    }

    /// Runs to the end of the queue. The error is what a panic said; whatever happens, subscribers
    /// find the end of their queues.
    pub(crate) fn run(mut self) -> Result<(), String> {
        let result = catch_unwind(AssertUnwindSafe(|| {
            while let Some(item) = self.next_item() {
                let bytes = item.size();
                self.handle(item);
                self.idle.handle_work(self.clock.now().instant, bytes);
            }
        }));
        self.fan_out.close();
        result.map_err(|panic| panic_message(&*panic))
    }

    /// The next item; waits for it as the idle strategy says. `None` at the end of the queue.
    fn next_item(&mut self) -> Option<Item> {
        loop {
            match self.items.try_recv() {
                Ok(item) => return Some(item),
                Err(TryRecvError::Disconnected) => return None,
                Err(TryRecvError::Empty) if self.idle.polls_by(self.clock) => Idle::rest(),
                Err(TryRecvError::Empty) => return self.items.recv().ok(),
            }
        }
    }

    fn handle(&mut self, item: Item) {
        match item {
            Item::Block(block) => self.fan_out.dispatch(block),
            Item::Event(event) => self.fan_out.dispatch_event(event),
            Item::Notice(notice) => self.fan_out.handle_notice(*notice),
            Item::Cut(marker) => self.fan_out.handle_cut(*marker),
            Item::Poke => {}
        }
        if self.poke.take() {
            self.look_around();
        }
    }

    fn look_around(&mut self) {
        self.fan_out.pump();
        if self.poke.take_tick() {
            self.fan_out.trim();
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
        !self.items.is_empty()
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("fan_out", &self.fan_out)
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
