//! Whether everybody has a turn, and nothing that the loop was told is forgotten.
//!
//! A peer that has something to read, and may be read, is read in the next turn of the loop. Only
//! while the dispatcher takes nothing more it may have to wait for longer, and then nobody else is
//! read twice meanwhile. One that has something to write, and a socket with room, is written in the
//! next turn whatever else there is.

use super::world::{SimNet, World};
use crate::{id::PeerId, node::Node};

#[derive(Debug, Default)]
pub(super) struct Turns {
    now: u64,
    /// For each connection.
    goes: Vec<Go>,
}

/// Turns of the loop in which something was so of a connection; they are counted from one.
#[derive(Clone, Copy, Debug, Default)]
struct Go {
    /// The last in which it had its own turn, and the last before that.
    last: u64,
    before: u64,
    /// It waits to be read since the end of the first, without a turn, and still did at the end
    /// of the second.
    waits_since: u64,
    waited: u64,
    /// At the end of which it waited to be written.
    waited_to_write: u64,
}

impl Turns {
    /// To be called behind each turn of the loop.
    pub(super) fn check(&mut self, world: &World, node: &mut Node<SimNet>) {
        self.now += 1;
        self.goes.resize(world.conns.len(), Go::default());
        let served: Vec<usize> = node
            .peers()
            .take_turns()
            .map(|id| world.conn_of(id))
            .collect();
        for index in &served {
            let go = &mut self.goes[*index];
            assert!(go.last < self.now, "conn {index} has its turn twice");
            (go.before, go.last) = (go.last, self.now);
        }
        let mut order = served.iter();
        for index in &world.reads {
            let is_next = order.any(|one| one == index);
            assert!(is_next, "conn {index} is read out of its turn");
        }
        let oldest = self.check_reading(world, node);
        for index in &served {
            let go = self.goes[*index];
            assert!(
                go.before <= oldest,
                "conn {index} had turns {} and {}, and somebody waits since {oldest}",
                go.before,
                go.last
            );
        }
        self.check_writing(world, node);
    }

    /// Whoever could be read after the last turn had its own in this one. Returns since when
    /// somebody waits for it.
    fn check_reading(&mut self, world: &World, node: &mut Node<SimNet>) -> u64 {
        let (now, is_held_up) = (self.now, node.holds_back());
        let mut oldest = u64::MAX;
        for id in node.peers().due_to_read() {
            let go = &mut self.goes[world.conn_of(id)];
            if go.last == now || go.waited + 1 < now {
                go.waits_since = now;
            } else {
                assert!(is_held_up, "{id} has no turn in {now}: {go:?}");
            }
            go.waited = now;
            oldest = oldest.min(go.waits_since);
        }
        oldest
    }

    /// Whoever could be written after the last turn was.
    fn check_writing(&mut self, world: &World, node: &mut Node<SimNet>) {
        for id in node.peers().due_to_write() {
            let index = world.conn_of(id);
            let go = &mut self.goes[index];
            let waited = std::mem::replace(&mut go.waited_to_write, self.now);
            assert!(
                waited + 1 < self.now || world.is_written(index),
                "{id} could be written and was not"
            );
        }
    }
}

/// What the loop was told of a peer it knows until a call would block.
pub(super) fn check_told(world: &World, node: &mut Node<SimNet>, id: PeerId) {
    let told = world.told(world.conn_of(id));
    if let Some(known) = node.peers().ready_of(id) {
        for bit in told.into_iter().flatten() {
            assert!(
                known.has(bit),
                "{id} was said to be {bit:?}, and is {known:?}"
            );
        }
    }
}
