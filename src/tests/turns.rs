//! Whether everybody has a turn, and nothing that the loop was told is forgotten.
//!
//! A peer that has something to read, and may be read, is read in the next turn of the loop. Only
//! while the dispatcher takes nothing more it may have to wait for longer, and then nobody else is
//! read twice meanwhile. One that has something to write, and a socket with room, is written in the
//! next turn whatever else there is.

use super::world::{SimNet, World};
use crate::{event_loop::EventLoop, id::PeerId};

#[derive(Debug, Default)]
pub(super) struct Turns {
    /// Turns of the loop, counted from one.
    now: u64,
    /// The turn at whose end it was looked last who waits to be read.
    looked: u64,
    /// Who had a turn of its own since then.
    served: Vec<PeerId>,
    /// By the index of the slot.
    goes: Vec<Go>,
}

/// Turns of the loop in which something was so of a peer.
#[derive(Clone, Copy, Debug, Default)]
struct Go {
    peer: Option<PeerId>,
    /// The last in which it had its own, and the last before that.
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
    /// To be called behind each turn of the loop. With `every` above one, who waits to be read is
    /// looked at in so many turns once; what holds from each turn to the next holds then too.
    pub(super) fn check(&mut self, world: &World, event_loop: &mut EventLoop<SimNet>, every: u64) {
        self.now += 1;
        let turns: Vec<PeerId> = event_loop.peers().take_turns().collect();
        for id in &turns {
            let now = self.now;
            let go = self.go(*id);
            assert!(go.last < now, "{id} has its turn twice");
            (go.before, go.last) = (go.last, now);
        }
        let mut order = turns.iter();
        for index in &world.reads {
            let id = world.conns[*index].id;
            let is_next = order.any(|one| Some(*one) == id);
            assert!(is_next, "conn {index} is read out of its turn");
        }
        self.served.extend(turns);
        self.check_writing(world, event_loop);
        if self.now % every == 0 {
            self.check_reading(event_loop);
        }
    }

    fn go(&mut self, id: PeerId) -> &mut Go {
        let index = id.index() as usize;
        if self.goes.len() <= index {
            self.goes.resize(index + 1, Go::default());
        }
        let go = &mut self.goes[index];
        if go.peer != Some(id) {
            *go = Go::default();
            go.peer = Some(id);
        }
        go
    }

    /// Whoever could be read when it was looked last had its turn, or the loop is held up, and
    /// nobody had two meanwhile.
    fn check_reading(&mut self, event_loop: &mut EventLoop<SimNet>) {
        let (now, holds_back) = (self.now, event_loop.holds_back());
        let looked = std::mem::replace(&mut self.looked, now);
        let mut oldest = u64::MAX;
        for id in event_loop.peers().due_to_read() {
            let go = self.go(id);
            if go.last > looked || go.waited < looked || looked == 0 {
                go.waits_since = now;
            } else {
                assert!(holds_back, "{id} has no turn in {now}: {go:?}");
            }
            go.waited = now;
            oldest = oldest.min(go.waits_since);
        }
        for id in std::mem::take(&mut self.served) {
            let go = *self.go(id);
            assert!(
                go.before <= oldest,
                "{id} had turns {} and {}, and somebody waits since {oldest}",
                go.before,
                go.last
            );
        }
    }

    /// Whoever could be written after the last turn was.
    fn check_writing(&mut self, world: &World, event_loop: &mut EventLoop<SimNet>) {
        let now = self.now;
        for id in event_loop.peers().due_to_write() {
            let waited = std::mem::replace(&mut self.go(id).waited_to_write, now);
            assert!(
                waited + 1 < now || world.is_written(world.conn_of(id)),
                "{id} could be written and was not"
            );
        }
    }
}

/// What the loop was told of a peer it knows until a call would block.
pub(super) fn check_told(world: &World, event_loop: &mut EventLoop<SimNet>, index: usize) {
    let Some(id) = world.conns[index].id else {
        return;
    };
    let Some(known) = event_loop.peers().ready_of(id) else {
        return;
    };
    for bit in world.told(index).into_iter().flatten() {
        assert!(
            known.has(bit),
            "{id} was said to be {bit:?}, and is {known:?}"
        );
    }
}
