//! Requests in a run: peers answer rightly, late, twice, wrongly, or never, and leave; whoever asks
//! gives up at times. Each request ends once, as its peer and the clock allow, and the sums of the
//! requests are those of whoever asks, after every step.

use std::{collections::BTreeMap, sync::Arc};

use super::{random::Random, world::World};
use crate::{
    clock::Tick,
    dispatch::{Registry, Replies, Reply},
    error::{RequestError, TryRecvError},
    frame::{Frame, encode_whole},
    id::{MessageType, PeerId, RequestId},
    ledger::RequestRow,
    policy::Priority,
    slots::OutFrame,
};

/// The type of questions.
pub(super) const QUESTION: MessageType = MessageType(0x7100);

/// A question as its peer received it.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    pub(super) correlation: u64,
    pub(super) payload: Vec<u8>,
}

/// Somebody who asks peers.
#[derive(Debug)]
pub(super) struct Asker {
    replies: Replies,
    capacity: usize,
    open: BTreeMap<RequestId, Question>,
    sent: u64,
    answered: u64,
    timed_out: u64,
    closed: u64,
    cancelled: u64,
}

#[derive(Debug)]
struct Question {
    peer: PeerId,
    conn: usize,
    deadline: Tick,
    payload: Vec<u8>,
}

impl Asker {
    pub(super) fn new(registry: &Registry, capacity: usize) -> Self {
        Self {
            replies: Replies::new(capacity, Arc::clone(&registry.requests)),
            capacity,
            open: BTreeMap::new(),
            sent: 0,
            answered: 0,
            timed_out: 0,
            closed: 0,
            cancelled: 0,
        }
    }

    /// Asks, takes results, or gives up, once in a while.
    pub(super) fn act(&mut self, world: &mut World) {
        match world.random.below(20) {
            0..=3 if !world.healed => self.ask(world),
            4 if world.random.chance(300) => self.cancel(world),
            5..=9 => {
                let count = world.random.between(1, 9);
                self.take(world, count);
            }
            _ => {}
        }
    }

    fn ask(&mut self, world: &mut World) {
        let gone_too = world.random.chance(50);
        let peer = if gone_too {
            let at = world.random.below(world.registered.len());
            world.registered.get(at).copied()
        } else {
            let at = world.random.below(world.live.len());
            let conn = world.live.iter().nth(at);
            conn.and_then(|conn| world.conns[*conn].id)
        };
        let Some(peer) = peer else { return };
        let conn = world.conn_of(peer);
        let waiter = match self.replies.reserve() {
            Ok(waiter) => waiter,
            Err(error) => {
                let limit = self.capacity;
                assert_eq!(error, RequestError::TooMany { limit });
                assert_eq!(self.open.len(), limit, "a place is free");
                return;
            }
        };
        let deadline = world.now + world.random.pick(&[1, 50, 3_000, 100_000, 100_000]) + 1;
        let size = world.random.pick(&[0, 10, 300]).min(world.payload_max);
        let payload = vec![world.random.byte(); size];
        let requests = &world.registry.requests;
        let id = match requests.add(peer, QUESTION, deadline, waiter) {
            Ok(id) => id,
            Err(error) => {
                assert!(matches!(error, RequestError::TooMany { .. }), "{error}");
                return;
            }
        };
        let frame = Frame::new(QUESTION, &payload).with_correlation(id.correlation());
        let priority = world.random.pick(&Priority::ALL);
        let message = OutFrame { frame, owned: None };
        let slots = &world.slots;
        let sent = slots.send_question(peer, priority, message, deadline);
        if sent.is_err() && requests.refuse(peer, id) {
            return;
        }
        self.sent += 1;
        let question = Question {
            peer,
            conn,
            deadline,
            payload,
        };
        assert!(self.open.insert(id, question).is_none(), "a number again");
    }

    fn cancel(&mut self, world: &mut World) {
        let at = world.random.below(self.open.len());
        let Some((id, question)) = self.open.iter().nth(at) else {
            return;
        };
        let (id, peer) = (*id, question.peer);
        let waiting = self.replies.receiver().len();
        let requests = &world.registry.requests;
        if requests.cancel(peer, id, true) {
            self.cancelled += 1;
            self.open.remove(&id);
            assert!(!requests.cancel(peer, id, true));
        } else {
            assert!(waiting > 0, "{id:?} is resolved, and its result is here");
        }
    }

    fn take(&mut self, world: &World, count: usize) {
        for _ in 0..count {
            let Ok(reply) = self.replies.try_recv() else {
                return;
            };
            self.take_one(world, reply);
        }
    }

    fn take_one(&mut self, world: &World, reply: Reply) {
        let id = reply.request;
        let question = self.open.remove(&id).expect("it was asked, and once");
        assert_eq!(reply.peer, question.peer);
        let conn = &world.conns[question.conn];
        match reply.result {
            Ok(answer) => {
                assert_eq!(answer.peer(), question.peer);
                assert_eq!(answer.message_type(), QUESTION);
                assert_eq!(answer.correlation(), Some(id.correlation()));
                assert_eq!(answer.payload(), question.payload);
                self.answered += 1;
            }
            Err(RequestError::Timeout) => {
                assert!(world.now >= question.deadline, "{question:?}");
                self.timed_out += 1;
            }
            Err(RequestError::Closed(_)) => {
                assert!(conn.closed > 0, "{question:?}");
                self.closed += 1;
            }
            Err(RequestError::Stopped) => self.closed += 1,
            Err(error) => panic!("{error}"),
        }
    }

    /// The sums, which are exact at any time.
    pub(super) fn check(&self, row: RequestRow) {
        let waiting = self.replies.receiver().len() as u64;
        let told = self.answered + self.timed_out + self.closed + waiting;
        assert_eq!(row.sent, self.sent, "{row:?}");
        assert_eq!(row.cancelled, self.cancelled, "{row:?}");
        assert_eq!(row.answered + row.timed_out + row.closed, told, "{row:?}");
        assert_eq!(row.outstanding, self.replies.outstanding() as u64);
        assert_eq!(row.outstanding + waiting, self.open.len() as u64);
        assert!(row.answered >= self.answered && row.timed_out >= self.timed_out);
    }

    /// The service has stopped: every request has ended, and was told.
    pub(super) fn check_end(&mut self, world: &World, row: RequestRow) {
        self.take(world, usize::MAX);
        self.check(row);
        assert!(self.open.is_empty(), "{:?}", self.open);
        let ends = (row.answered, row.timed_out, row.closed, row.outstanding);
        assert_eq!(ends, (self.answered, self.timed_out, self.closed, 0));
        assert_eq!(
            self.replies.try_recv().err(),
            Some(TryRecvError::Disconnected)
        );
    }
}

/// What a peer makes of the questions that it has, in any order: some wait on, some are forgotten.
pub(super) fn answer(random: &mut Random, questions: &mut Vec<Asked>, out: &mut Vec<u8>) {
    while !questions.is_empty() && random.chance(600) {
        let asked = questions.swap_remove(random.below(questions.len()));
        let mut frame = Frame::new(QUESTION, &asked.payload).with_correlation(asked.correlation);
        match random.below(10) {
            // Never.
            0 => continue,
            // Wrongly: as another type, which a handler or a subscriber would take; and made up.
            1 => frame.message_type = MessageType(u16::from(random.chance(500))),
            2 => frame.correlation = Some(asked.correlation + 1_000_000),
            // Twice, now or later.
            3 => encode_whole(&frame, out),
            4 => questions.push(asked.clone()),
            _ => {}
        }
        frame.checksum = random.chance(200);
        encode_whole(&frame, out);
        if random.chance(300) {
            return;
        }
    }
}
