//! Requests and their answers: each is resolved once, and no subscriber sees an answer.

use proptest::prelude::*;

use super::*;
use crate::{
    clock::Tick,
    error::{CloseReason, RequestError},
    id::RequestId,
};

impl Bench {
    /// A request as the handle makes it, without the question.
    fn ask(&self, peer: PeerId, message_type: u16, deadline: Tick) -> PendingReply {
        let requests = &self.registry.requests;
        let (waiter, receiver) = PendingReply::channel();
        let id = requests.add(peer, MessageType(message_type), deadline, waiter);
        requests.note_sent();
        PendingReply::new(peer, id.unwrap(), receiver, Arc::clone(requests))
    }

    /// Has a peer answer with these types and numbers.
    fn answer(&mut self, peer: PeerId, answers: &[(u16, RequestId)]) {
        let frames: Vec<(u16, Option<u64>)> = answers
            .iter()
            .map(|(number, id)| (*number, Some(id.correlation())))
            .collect();
        let us = std::mem::replace(&mut self.peer, peer);
        let block = self.block_of(&frames);
        self.peer = us;
        self.dispatch_block(block);
    }

    fn notice(&mut self, notice: Notice) {
        self.fan_out.handle_notice(notice);
    }

    #[track_caller]
    fn check_ledger(&self) {
        let ledger = &self.slots.ledger;
        let sum = ledger.claimed.get() + ledger.unclaimed.get();
        assert_eq!(ledger.dispatched.get(), sum);
        self.registry.requests.check();
    }
}

fn error_of(pending: &PendingReply) -> Option<RequestError> {
    pending
        .try_recv()
        .map(|result| result.expect_err("no answer"))
}

#[test]
fn an_answer_resolves_its_request_and_no_other() {
    let mut bench = Bench::new();
    let (peer, other) = (bench.peer, bench.slots.open(1).unwrap());
    let mut tap = bench.subscribe(SubscribeOptions::new(Types::all()));
    let (first, second) = (bench.ask(peer, 7, 100), bench.ask(peer, 7, 100));
    // Of another peer, and of another type.
    bench.answer(other, &[(7, first.id())]);
    bench.answer(peer, &[(8, first.id())]);
    assert!(first.try_recv().is_none());
    bench.answer(peer, &[(7, second.id()), (7, first.id()), (7, first.id())]);
    let answers = [&second, &first].map(|pending| pending.try_recv().unwrap().unwrap());
    let numbers = [2, 3].map(u64::to_be_bytes);
    assert_eq!(answers.each_ref().map(|answer| answer.payload()), numbers.each_ref());
    assert!(first.try_recv().is_none(), "it is taken once");
    assert_eq!(first.recv().unwrap_err(), RequestError::Taken);
    assert_eq!(take(&mut tap), (vec![], 0));
    let row = bench.registry.requests.row();
    assert_eq!((row.answered, row.late, row.outstanding), (2, 3, 0));
    bench.check_ledger();
}

/// Before the first request nobody can be waiting for an answer, and nothing is taken for one.
#[test]
fn without_requests_every_message_is_delivered() {
    let mut bench = Bench::new();
    let mut tap = bench.subscribe(SubscribeOptions::new(Types::all()));
    let number = {
        let other = Bench::new();
        other.ask(other.peer, 7, 1).id()
    };
    bench.answer(bench.peer, &[(7, number)]);
    let _pending = bench.ask(bench.peer, 7, 100);
    bench.answer(bench.peer, &[(7, number)]);
    assert_eq!(take(&mut tap).0, [0, 1], "the tag is another service's");
    bench.check_ledger();
}

#[test]
fn time_and_closes_come_behind_what_was_read_before() {
    let mut bench = Bench::new();
    let peer = bench.peer;
    let pending: Vec<PendingReply> = [50, 60, 70, 80]
        .map(|deadline| bench.ask(peer, 7, deadline))
        .into();
    bench.notice(Notice::Expire { peer, tick: 49 });
    bench.answer(peer, &[(7, pending[0].id())]);
    bench.notice(Notice::Expire { peer, tick: 60 });
    assert!(pending[0].try_recv().unwrap().is_ok());
    assert_eq!(error_of(&pending[1]), Some(RequestError::Timeout));
    assert!(pending[2].try_recv().is_none());
    // The loop is told when to look again.
    assert_eq!(bench.slots.take_request_deadline(peer), Some(50));
    assert_eq!(bench.slots.take_request_deadline(peer), None);
    bench.answer(peer, &[(7, pending[3].id()), (7, pending[1].id())]);
    let reason = CloseReason::PeerClosed;
    bench.notice(Notice::Closed { peer, reason });
    assert!(pending[3].try_recv().unwrap().is_ok());
    assert_eq!(error_of(&pending[2]), Some(RequestError::Closed(reason)));
    assert_eq!(bench.registry.requests.row().late, 1);
    bench.check_ledger();
}

#[test]
fn giving_up_makes_an_answer_late() {
    let mut bench = Bench::new();
    let pending = bench.ask(bench.peer, 7, 100);
    let id = pending.id();
    drop(pending);
    bench.answer(bench.peer, &[(7, id)]);
    let answered = bench.ask(bench.peer, 7, 100);
    bench.answer(bench.peer, &[(7, answered.id())]);
    drop(answered);
    let row = bench.registry.requests.row();
    assert_eq!((row.cancelled, row.answered, row.late), (1, 1, 1));
    bench.check_ledger();
}

/// What outlives 2^32 others keeps its number to itself.
#[test]
fn a_number_in_use_is_passed_over() {
    let bench = Bench::new();
    bench.registry.requests.set_sequence(u32::MAX);
    let old: Vec<PendingReply> = (0..3).map(|_| bench.ask(bench.peer, 7, 100)).collect();
    bench.registry.requests.set_sequence(u32::MAX);
    let new = bench.ask(bench.peer, 7, 100);
    assert!(old.iter().all(|pending| pending.id() != new.id()));
    bench.check_ledger();
}

#[test]
fn requests_are_bounded_and_a_refused_one_leaves_nothing() {
    let bench = Bench::new();
    let requests = &bench.registry.requests;
    let mut pending: Vec<PendingReply> =
        (0..1_000).map(|_| bench.ask(bench.peer, 7, 100)).collect();
    let add = || requests.add(bench.peer, MessageType(7), 100, PendingReply::channel().0);
    assert_eq!(add(), Err(RequestError::TooMany { limit: 1_000 }));
    pending.pop();
    let id = add().unwrap();
    assert!(requests.refuse(bench.peer, id) && !requests.refuse(bench.peer, id));
    drop(pending);
    bench.check_ledger();
}

#[test]
fn a_queue_has_a_place_for_every_request() {
    let mut bench = Bench::new();
    let (peer, requests) = (bench.peer, Arc::clone(&bench.registry.requests));
    let replies = Replies::new(2, Arc::clone(&requests));
    let ask = |replies: &Replies| {
        let id = requests.add(peer, MessageType(7), 100, replies.reserve()?);
        requests.note_sent();
        id
    };
    let (first, second) = (ask(&replies).unwrap(), ask(&replies).unwrap());
    let full = Err(RequestError::TooMany { limit: 2 });
    assert_eq!(ask(&replies), full);
    bench.answer(peer, &[(7, second)]);
    assert_eq!(ask(&replies), full, "what is not taken keeps its place");
    assert_eq!(replies.outstanding(), 1);
    let reply = replies.try_recv().unwrap();
    assert_eq!((reply.request, reply.peer), (second, peer));
    let third = ask(&replies).unwrap();
    assert!(requests.cancel(peer, third, true) && !requests.cancel(peer, third, true));
    assert_eq!(replies.outstanding(), 1);
    bench.registry.close();
    let reply = replies.recv().unwrap();
    assert_eq!(reply.request, first);
    assert_eq!(reply.result.unwrap_err(), RequestError::Stopped);
    assert!(replies.recv().is_err(), "it finds its end");
    assert_eq!(ask(&replies), Err(RequestError::Stopped));
    let late = Replies::new(2, Arc::clone(&requests));
    assert_eq!(late.try_recv().unwrap_err(), TryRecvError::Disconnected);
    let (waiter, _receiver) = PendingReply::channel();
    let refused = requests.add(peer, MessageType(7), 100, waiter);
    assert_eq!(refused, Err(RequestError::Stopped));
    bench.check_ledger();
}

/// The loop's own thread waits for nobody, and does in order what it has put off.
#[test]
fn a_thread_that_must_not_wait_puts_off() {
    let mut bench = Bench::new();
    let peer = bench.peer;
    let (first, second) = (bench.ask(peer, 7, 100), bench.ask(peer, 7, 100));
    let requests = Arc::clone(&bench.registry.requests);
    std::thread::scope(|scope| {
        let on_loop = scope.spawn(|| {
            Slots::set_loop_thread();
            requests.with_lock(peer, || {
                bench.answer(peer, &[(7, first.id())]);
                let reason = CloseReason::Reset;
                bench.notice(Notice::Closed { peer, reason });
                assert!(first.try_recv().is_none() && second.try_recv().is_none());
            });
            assert!(bench.registry.poke.take(), "somebody has to look again");
            bench.fan_out.pump();
        });
        on_loop.join().unwrap();
    });
    assert!(first.try_recv().unwrap().is_ok());
    let closed = RequestError::Closed(CloseReason::Reset);
    assert_eq!(error_of(&second), Some(closed));
    bench.check_ledger();
}

/// What a peer sends, by the types of the frames.
#[derive(Clone, Copy, Debug)]
enum Sent {
    Plain,
    /// A question with a number of the peer's own.
    Question,
    /// The answer to a request that waits.
    Answer,
    /// An answer to nothing.
    MadeUp,
}

fn any_sent() -> impl Strategy<Value = (u16, Sent)> {
    let kind = prop_oneof![
        Just(Sent::Plain),
        Just(Sent::Question),
        Just(Sent::Answer),
        Just(Sent::MadeUp),
    ];
    (prop_oneof![4 => 1_u16..4, 1 => Just(0xFF03)], kind)
}

/// The numbers that a subscriber should have got, given that it missed some.
#[track_caller]
fn is_run_with_gaps(taken: &[u64], wanted: &[u64]) {
    let mut wanted = wanted.iter();
    for number in taken {
        assert!(wanted.any(|one| one == number), "{number} is not its");
    }
}

proptest! {
    /// Subscribers get what is not an answer, in order, and count exactly what they do not get.
    #[test]
    fn subscribers_get_exactly_the_others(
        blocks in prop::collection::vec(
            (prop::collection::vec(any_sent(), 1..12), any::<bool>(), any::<bool>()),
            1..12,
        ),
    ) {
        let mut bench = Bench::new();
        let small = SubscribeOptions::new(MessageType(1)).messages(3);
        let mut small = bench.subscribe(small);
        let lossless = SubscribeOptions::new(Types::all()).messages(3).overflow(Overflow::Pause);
        let mut lossless = bench.subscribe(lossless);
        let mut tap = bench.subscribe(SubscribeOptions::new(Types::all()));
        let (sender, own) = bounded(1_000);
        let options = SubscribeOptions::new(MessageType(2));
        let own_account = bench.registry.add(options, Outlet::Messages(sender)).unwrap();
        let (mut others, mut answers, mut made_up) = (Vec::new(), Vec::new(), 0);
        let mut pending = vec![bench.ask(bench.peer, 9, 100)];
        let (mut got_small, mut got_lossless) = ((Vec::new(), 0), Vec::new());
        for (sent, uniform, drain) in blocks {
            let mut frames = Vec::new();
            for (message_type, kind) in sent {
                let message_type = if uniform { 1 } else { message_type };
                if MessageType(message_type).is_protocol() {
                    frames.push((message_type, None));
                    continue;
                }
                let number = bench.sent + frames.iter().filter(|(one, _)| *one < 9).count() as u64;
                let correlation = match kind {
                    Sent::Plain => None,
                    Sent::Question => Some(number),
                    Sent::Answer => {
                        pending.push(bench.ask(bench.peer, message_type, 100));
                        answers.push(number);
                        pending.last().map(|pending| pending.id().correlation())
                    }
                    Sent::MadeUp => {
                        made_up += 1;
                        Some(pending[0].id().correlation())
                    }
                };
                if matches!(kind, Sent::Plain | Sent::Question) {
                    others.push((message_type, number));
                }
                frames.push((message_type, correlation));
            }
            let block = bench.block_of(&frames);
            if block.head().frames > 0 {
                bench.dispatch_block(block);
            }
            if drain {
                let (numbers, missed) = take(&mut small);
                got_small.0.extend(numbers);
                got_small.1 += missed;
                got_lossless.extend(take(&mut lossless).0);
                bench.fan_out.pump();
            }
            for subscription in [&small, &lossless, &tap] {
                balanced(subscription);
            }
        }
        while lossless.row().queued > 0 {
            got_lossless.extend(take(&mut lossless).0);
            bench.fan_out.pump();
        }
        // One more, so that what was missed at the end shows.
        let (numbers, missed) = take(&mut small);
        got_small.0.extend(numbers);
        got_small.1 += missed;
        let last = bench.sent;
        bench.dispatch(&[1]);
        others.push((1, last));
        let (numbers, missed) = take(&mut small);
        got_small.0.extend(numbers);
        got_small.1 += missed;
        got_lossless.extend(take(&mut lossless).0);

        let all: Vec<u64> = others.iter().map(|(_, number)| *number).collect();
        let of = |wanted: u16| -> Vec<u64> {
            let those = others.iter().filter(|(one, _)| *one == wanted);
            those.map(|(_, number)| *number).collect()
        };
        prop_assert_eq!(&take(&mut tap).0, &all);
        prop_assert_eq!(&got_lossless, &all);
        is_run_with_gaps(&got_small.0, &of(1));
        prop_assert_eq!(got_small.0.len() as u64 + got_small.1, of(1).len() as u64);
        prop_assert_eq!(small.row().dropped, got_small.1);
        let own: Vec<u64> = own.try_iter().map(|message| number(message.payload())).collect();
        prop_assert_eq!(own, of(2));
        prop_assert_eq!(own_account.row().taken, of(2).len() as u64);
        let got: Vec<u64> = pending[1..]
            .iter()
            .map(|pending| number(pending.try_recv().unwrap().unwrap().payload()))
            .collect();
        prop_assert_eq!(&got, &answers);
        let row = bench.registry.requests.row();
        prop_assert_eq!((row.answered, row.late), (answers.len() as u64, made_up));
        prop_assert_eq!(bench.slots.ledger.unclaimed.get(), made_up);
        bench.check_ledger();
        prop_assert_eq!(bench.fill(), Traffic::default());
    }

    /// The table against a list that is searched.
    #[test]
    fn requests_do_what_a_list_does(
        steps in prop::collection::vec((0..6_u8, 0..2_usize, any::<prop::sample::Index>(), 1..50_u64), 1..300),
    ) {
        struct Row {
            peer: PeerId,
            pending: Option<PendingReply>,
            deadline: Tick,
        }
        let mut bench = Bench::new();
        let peers = [bench.peer, bench.slots.open(1).unwrap()];
        let mut rows: Vec<Row> = Vec::new();
        let mut now = 0;
        for (step, peer, index, time) in steps {
            let peer = peers[peer];
            let waits = |row: &Row| row.pending.is_some();
            match step {
                0..=2 => {
                    let deadline = now + time;
                    let pending = Some(bench.ask(peer, 7, deadline));
                    rows.push(Row { peer, pending, deadline });
                }
                3 if rows.iter().any(waits) => {
                    let mut open: Vec<&mut Row> = rows.iter_mut().filter(|row| waits(row)).collect();
                    let at = index.index(open.len());
                    let pending = open[at].pending.take().unwrap();
                    if time < 25 {
                        bench.answer(open[at].peer, &[(7, pending.id())]);
                        prop_assert!(pending.recv().is_ok());
                    }
                }
                4 => {
                    now += time;
                    bench.notice(Notice::Expire { peer, tick: now });
                    let theirs = rows.iter().filter(|row| row.peer == peer && waits(row));
                    let next = theirs.map(|row| row.deadline).filter(|tick| *tick > now).min();
                    prop_assert_eq!(bench.slots.take_request_deadline(peer), next);
                    for row in rows.iter_mut().filter(|row| row.peer == peer) {
                        let over = row.pending.take_if(|_| row.deadline <= now);
                        let error = over.as_ref().and_then(error_of);
                        prop_assert_eq!(error, over.map(|_| RequestError::Timeout));
                    }
                }
                5 if time < 5 => {
                    let reason = CloseReason::Io;
                    bench.notice(Notice::Closed { peer, reason });
                    for row in rows.iter_mut().filter(|row| row.peer == peer) {
                        let over = row.pending.take();
                        let error = over.as_ref().and_then(error_of);
                        prop_assert_eq!(error, over.map(|_| RequestError::Closed(reason)));
                    }
                }
                _ => {}
            }
            let open = rows.iter().filter(|row| waits(row));
            prop_assert!(open.filter_map(|row| row.pending.as_ref()).all(|one| one.try_recv().is_none()));
            bench.check_ledger();
        }
        bench.registry.close();
        for pending in rows.into_iter().filter_map(|row| row.pending) {
            prop_assert_eq!(pending.recv().unwrap_err(), RequestError::Stopped);
        }
        bench.check_ledger();
    }
}
