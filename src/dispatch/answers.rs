//! Answers to our requests, taken out of what is dispatched.
//!
//! A message whose correlation number carries our tag is an answer and nothing else: it resolves
//! the request that waits for it, or is dropped and counted as late. A subscriber never sees it,
//! not even one of its type: two services that ask each other with one type would otherwise answer
//! each other's answers for ever.
//!
//! On the loop's own thread the lock of the requests is tried, and what finds it taken is put off,
//! in order, until the next look around.

use std::{collections::VecDeque, sync::Arc};

use super::{
    queue::Poke,
    requests::{Answer, Notice, Requests, is_answer},
};
use crate::{
    block::{BlockFrames, BlockRef},
    id::RequestId,
    limits::REQUESTS_PUT_OFF_MAX,
    slots::{Slots, never_waits},
};

/// The part of the fan-out that resolves requests.
#[derive(Debug)]
pub(crate) struct Answers {
    requests: Arc<Requests>,
    slots: Arc<Slots>,
    poke: Arc<Poke>,
    put_off: VecDeque<Work>,
    /// The answers of a block; kept for its memory.
    found: Vec<Answer>,
}

#[derive(Debug)]
enum Work {
    Answers(BlockRef, Vec<Answer>),
    Notice(Notice),
}

impl Answers {
    pub(crate) fn new(requests: Arc<Requests>, slots: Arc<Slots>, poke: Arc<Poke>) -> Self {
        Self {
            requests,
            slots,
            poke,
            put_off: VecDeque::new(),
            found: Vec::new(),
        }
    }

    /// Resolves what a block answers, and counts its answers as claimed or unclaimed. Returns how
    /// many there are, and the tag that tells them from other messages.
    #[inline]
    pub(crate) fn take(&mut self, block: &BlockRef) -> Option<(u32, u32)> {
        if !block.head().has_correlation {
            return None;
        }
        let tag = self.requests.answer_tag()?;
        let count = self.take_tagged(block, tag);
        (count > 0).then_some((count, tag))
    }

    fn take_tagged(&mut self, block: &BlockRef, tag: u32) -> u32 {
        let mut found = std::mem::take(&mut self.found);
        let mut frames = BlockFrames::new(block, 0, block.bytes().len());
        loop {
            let at = block.bytes().len() - frames.rest_size();
            let Some(message) = frames.next() else { break };
            let Some(number) = message.correlation() else {
                continue;
            };
            if is_answer(Some(number), tag) && !message.message_type().is_protocol() {
                found.push(Answer {
                    at: u32::try_from(at).unwrap_or(u32::MAX),
                    id: RequestId(number),
                    message_type: message.message_type(),
                    request: None,
                });
            }
        }
        let count = u32::try_from(found.len()).unwrap_or(u32::MAX);
        if count == 0 {
            self.found = found;
        } else {
            self.settle(Work::Answers(block.clone(), found));
        }
        count
    }

    /// Does what the loop asks for, behind all answers that came before.
    pub(crate) fn handle_notice(&mut self, notice: Notice) {
        self.settle(Work::Notice(notice));
    }

    /// Does what was put off.
    pub(crate) fn finish_put_off(&mut self, may_wait: bool) {
        while let Some(work) = self.put_off.pop_front() {
            if let Err(work) = self.try_settle(work, may_wait) {
                self.put_off.push_front(work);
                // Somebody has to look again, and nobody else will say so.
                self.poke.poke();
                return;
            }
        }
    }

    /// Answers that were put off.
    pub(crate) fn count_put_off(&self) -> u64 {
        let count = |work: &Work| match work {
            Work::Answers(_, found) => found.len() as u64,
            Work::Notice(_) => 0,
        };
        self.put_off.iter().map(count).sum()
    }

    fn settle(&mut self, work: Work) {
        let may_wait = !never_waits() || self.put_off.len() >= REQUESTS_PUT_OFF_MAX;
        self.put_off.push_back(work);
        self.finish_put_off(may_wait);
    }

    fn try_settle(&mut self, work: Work, may_wait: bool) -> Result<(), Work> {
        match work {
            Work::Answers(block, mut found) => {
                let peer = block.head().peer;
                if self.requests.claim(peer, &mut found, may_wait).is_err() {
                    return Err(Work::Answers(block, found));
                }
                self.resolve(&block, &mut found);
                self.found = found;
            }
            Work::Notice(Notice::Closed { peer, reason }) => {
                let closed = self.requests.close_peer(peer, reason, may_wait);
                closed.map_err(|_| work)?;
            }
            Work::Notice(Notice::Expire { peer, tick }) => {
                let next = self.requests.expire(peer, tick, may_wait);
                if let Some(next) = next.map_err(|_| work)? {
                    self.slots.note_request(peer, next);
                }
            }
        }
        Ok(())
    }

    fn resolve(&self, block: &BlockRef, found: &mut Vec<Answer>) {
        let (mut answered, mut late) = (0, 0);
        for answer in found.drain(..) {
            let at = answer.at as usize;
            let message = BlockFrames::new(block, at, block.bytes().len()).next();
            match (answer.request, message) {
                (Some(request), Some(message)) => {
                    let (peer, id) = (message.peer(), answer.id);
                    answered += 1;
                    self.requests
                        .resolve(peer, id, request, Ok(message.to_message()));
                }
                (_, _) => late += 1,
            }
        }
        self.requests.note_late(late);
        let ledger = &self.slots.ledger;
        ledger.claimed.add(answered);
        ledger.unclaimed.add(late);
    }
}
