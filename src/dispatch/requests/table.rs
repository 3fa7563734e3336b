//! The requests of one peer that wait, by id and by deadline.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap},
};

use crate::{
    clock::Tick,
    dispatch::replies::Waiter,
    id::{MessageType, RequestId},
};

/// Stale deadlines that are kept before it pays to throw them away.
pub(super) const HEAP_SLACK: usize = 64;

/// An empty table of a peer gives memory for more requests than this back.
const TABLE_KEPT: usize = 1024;

/// A request that waits.
#[derive(Debug)]
pub(crate) struct Request {
    pub(super) message_type: MessageType,
    pub(super) deadline: Tick,
    pub(super) waiter: Waiter,
}

/// The requests of one peer, by id and by deadline. A deadline stays behind when its request is
/// taken out; while most are such, they are thrown away.
#[derive(Debug, Default)]
pub(super) struct Table {
    pub(super) requests: HashMap<RequestId, Request>,
    pub(super) deadlines: BinaryHeap<Reverse<(Tick, RequestId)>>,
}

impl Table {
    pub(super) fn insert(&mut self, id: RequestId, request: Request) {
        self.deadlines.push(Reverse((request.deadline, id)));
        self.requests.insert(id, request);
    }

    /// The request that a message answers: it has to be of the same type.
    pub(super) fn answer(&mut self, id: RequestId, message_type: MessageType) -> Option<Request> {
        let waits = self.requests.get(&id)?.message_type == message_type;
        waits.then(|| self.take(id)).flatten()
    }

    pub(super) fn take(&mut self, id: RequestId) -> Option<Request> {
        let request = self.requests.remove(&id)?;
        self.compact();
        Some(request)
    }

    /// A request whose deadline is not after `tick`.
    pub(super) fn pop_expired(&mut self, tick: Tick) -> Option<(RequestId, Request)> {
        let deadline = self.next_deadline()?;
        if deadline > tick {
            return None;
        }
        let Reverse((_, id)) = self.deadlines.pop()?;
        let request = self.requests.remove(&id)?;
        Some((id, request))
    }

    pub(super) fn next_deadline(&mut self) -> Option<Tick> {
        loop {
            let Reverse((deadline, id)) = *self.deadlines.peek()?;
            if self.is_current(deadline, id) {
                return Some(deadline);
            }
            self.deadlines.pop();
        }
    }

    fn is_current(&self, deadline: Tick, id: RequestId) -> bool {
        let request = self.requests.get(&id);
        request.is_some_and(|request| request.deadline == deadline)
    }

    fn compact(&mut self) {
        if self.deadlines.len() > 2 * self.requests.len() + HEAP_SLACK {
            let mut deadlines = std::mem::take(&mut self.deadlines).into_vec();
            deadlines.retain(|Reverse((deadline, id))| self.is_current(*deadline, *id));
            self.deadlines = deadlines.into();
        }
        if self.requests.is_empty() && self.requests.capacity() > TABLE_KEPT {
            *self = Self::default();
        }
    }
}
