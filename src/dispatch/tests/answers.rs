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
    let result = pending.try_recv();
    result
        .map(|answer| assert!(answer.is_none(), "no answer"))
        .err()
}

#[test]
fn an_answer_resolves_its_request_and_no_other() {
    let mut bench = Bench::new();
    let (peer, other) = (bench.peer, bench.slots.open(1).unwrap());
    let mut tap = bench.subscribe(SubscribeOptions::new(TypeFilter::all()));
    let (first, second) = (bench.ask(peer, 7, 100), bench.ask(peer, 7, 100));
    // Of another peer, and of another type.
    bench.answer(other, &[(7, first.id())]);
    bench.answer(peer, &[(8, first.id())]);
    assert!(first.try_recv().unwrap().is_none());
    bench.answer(peer, &[(7, second.id()), (7, first.id()), (7, first.id())]);
    let answers = [&second, &first].map(|pending| pending.try_recv().unwrap().unwrap());
    let numbers = [2, 3].map(u64::to_be_bytes);
    assert_eq!(
        answers.each_ref().map(|answer| answer.payload()),
        numbers.each_ref()
    );
    assert_eq!(error_of(&first), Some(RequestError::Taken));
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
    let mut tap = bench.subscribe(SubscribeOptions::new(TypeFilter::all()));
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
    assert!(pending[0].try_recv().unwrap().is_some());
    assert_eq!(error_of(&pending[1]), Some(RequestError::Timeout));
    assert!(pending[2].try_recv().unwrap().is_none());
    // The loop is told when to look again.
    assert_eq!(bench.slots.take_request_deadline(peer), Some(50));
    assert_eq!(bench.slots.take_request_deadline(peer), None);
    bench.answer(peer, &[(7, pending[3].id()), (7, pending[1].id())]);
    let reason = CloseReason::PeerClosed;
    bench.notice(Notice::Closed { peer, reason });
    assert!(pending[3].try_recv().unwrap().is_some());
    assert_eq!(error_of(&pending[2]), Some(RequestError::Closed(reason)));
    assert_eq!(bench.registry.requests.row().late, 1);
    bench.check_ledger();
}

#[test]
fn many_time_out_a_part_at_a_time() {
    let mut bench = Bench::new();
    let peer = bench.peer;
    let _pending: Vec<PendingReply> = (0..2_000).map(|_| bench.ask(peer, 7, 50)).collect();
    let notice = Notice::Expire { peer, tick: 50 };
    bench.notice(notice);
    assert_eq!(bench.registry.requests.row().outstanding, 2_000 - 1_024);
    assert_eq!(bench.slots.take_request_deadline(peer), Some(50));
    bench.notice(notice);
    assert_eq!(bench.registry.requests.row().timed_out, 2_000);
    assert_eq!(bench.slots.take_request_deadline(peer), None);
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
        (0..2_000).map(|_| bench.ask(bench.peer, 7, 100)).collect();
    let add = || requests.add(bench.peer, MessageType(7), 100, PendingReply::channel().0);
    assert_eq!(add(), Err(RequestError::TooMany { limit: 2_000 }));
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
    let ask = |replies: &Replies| requests.add(peer, MessageType(7), 100, replies.reserve()?);
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
                assert!(
                    first.try_recv().unwrap().is_none() && second.try_recv().unwrap().is_none()
                );
            });
            assert!(bench.registry.poke(0).take(), "somebody has to look again");
            bench.fan_out.pump();
        });
        on_loop.join().unwrap();
    });
    assert!(first.try_recv().unwrap().is_some());
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

/// Everything that was sent so far, by what should become of it.
struct Mix {
    bench: Bench,
    /// Types and numbers of the messages that are no answers.
    others: Vec<(u16, u64)>,
    answers: Vec<u64>,
    made_up: u64,
    /// The first is never answered.
    pending: Vec<PendingReply>,
}

impl Mix {
    fn new() -> Self {
        let bench = Bench::new();
        let pending = vec![bench.ask(bench.peer, 9, 100)];
        Self {
            bench,
            others: Vec::new(),
            answers: Vec::new(),
            made_up: 0,
            pending,
        }
    }

    fn dispatch(&mut self, sent: &[(u16, Sent)]) {
        let (mut frames, mut number) = (Vec::new(), self.bench.sent);
        for (message_type, kind) in sent.iter().copied() {
            if MessageType(message_type).is_protocol() {
                frames.push((message_type, None));
                continue;
            }
            let correlation = match kind {
                Sent::Plain => None,
                Sent::Question => Some(number),
                Sent::Answer => {
                    let pending = self.bench.ask(self.bench.peer, message_type, 100);
                    let id = pending.id();
                    self.pending.push(pending);
                    self.answers.push(number);
                    Some(id.correlation())
                }
                Sent::MadeUp => {
                    self.made_up += 1;
                    Some(self.pending[0].id().correlation())
                }
            };
            if matches!(kind, Sent::Plain | Sent::Question) {
                self.others.push((message_type, number));
            }
            frames.push((message_type, correlation));
            number += 1;
        }
        let block = self.bench.block_of(&frames);
        if block.head().frames > 0 {
            self.bench.dispatch_block(block);
        }
    }

    /// The numbers of the messages of a type that are no answers.
    fn of(&self, wanted: u16) -> Vec<u64> {
        let those = self.others.iter().filter(|(one, _)| *one == wanted);
        those.map(|(_, number)| *number).collect()
    }

    fn all(&self) -> Vec<u64> {
        self.others.iter().map(|(_, number)| *number).collect()
    }

    #[track_caller]
    fn check_requests(&self) {
        let results = self.pending[1..].iter().map(PendingReply::try_recv);
        let got: Vec<u64> = results
            .map(|result| number(result.unwrap().unwrap().payload()))
            .collect();
        assert_eq!(got, self.answers);
        let row = self.bench.registry.requests.row();
        let answered = self.answers.len() as u64;
        assert_eq!((row.answered, row.late), (answered, self.made_up));
        assert_eq!(self.bench.slots.ledger.unclaimed.get(), self.made_up);
        assert_eq!(self.bench.fill(), Traffic::default());
        self.bench.check_ledger();
    }
}

/// What a subscriber took so far, and how much it missed.
#[derive(Default)]
struct Got {
    numbers: Vec<u64>,
    missed: u64,
}

impl Got {
    fn take(&mut self, subscription: &mut Subscription) {
        let (numbers, missed) = take(subscription);
        self.numbers.extend(numbers);
        self.missed += missed;
        balanced(subscription);
    }

    /// All in order, apart from those that it missed.
    #[track_caller]
    fn check(&self, wanted: &[u64]) {
        let mut rest = wanted.iter();
        for number in &self.numbers {
            assert!(rest.any(|one| one == number), "{number} is not its");
        }
        let count = self.numbers.len() as u64 + self.missed;
        assert_eq!(count, wanted.len() as u64);
    }
}

proptest! {
    /// Subscribers get what is not an answer, in order, and count exactly what they do not get.
    #[test]
    fn subscribers_get_exactly_the_others(
        blocks in prop::collection::vec(
            (prop::collection::vec(any_sent(), 1..30), any::<bool>(), any::<bool>()),
            1..12,
        ),
    ) {
        let mut mix = Mix::new();
        let small = SubscribeOptions::new(MessageType(1)).messages(3);
        let mut small = mix.bench.subscribe(small);
        let options = SubscribeOptions::new(TypeFilter::all()).messages(3);
        let lossless = options.overflow(OverflowPolicy::Pause);
        let mut lossless = mix.bench.subscribe(lossless);
        let mut tap = mix.bench.subscribe(SubscribeOptions::new(TypeFilter::all()));
        let (sender, own) = bounded(1_000);
        let options = SubscribeOptions::new(MessageType(2));
        let account = mix.bench.registry.add(options, Outlet::Messages(sender)).unwrap();
        let (mut got_small, mut got_lossless) = (Got::default(), Got::default());
        for (mut sent, uniform, drain) in blocks {
            if uniform {
                sent.iter_mut().for_each(|one| one.0 = 1);
            }
            mix.dispatch(&sent);
            if drain {
                got_small.take(&mut small);
                got_lossless.take(&mut lossless);
                mix.bench.fan_out.pump();
            }
            balanced(&tap);
        }
        while lossless.row().queued > 0 {
            got_lossless.take(&mut lossless);
            mix.bench.fan_out.pump();
        }
        // One more, so that what was missed at the end shows.
        got_small.take(&mut small);
        mix.dispatch(&[(1, Sent::Plain)]);
        got_small.take(&mut small);
        got_lossless.take(&mut lossless);

        prop_assert_eq!(&take(&mut tap).0, &mix.all());
        got_small.check(&mix.of(1));
        prop_assert_eq!(small.row().dropped, got_small.missed);
        got_lossless.check(&mix.all());
        prop_assert_eq!(got_lossless.missed, 0);
        let own: Vec<u64> = own.try_iter().map(|message| number(message.payload())).collect();
        prop_assert_eq!(&own, &mix.of(2));
        prop_assert_eq!(account.row().taken, own.len() as u64);
        mix.check_requests();
    }

    /// The table against a list that is searched.
    #[test]
    fn requests_do_what_a_list_does(
        steps in prop::collection::vec(
            (0..6_u8, 0..2_usize, any::<prop::sample::Index>(), 1..50_u64),
            1..300,
        ),
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
                    let open = rows.iter_mut().filter(|row| waits(row));
                    let mut open: Vec<&mut Row> = open.collect();
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
            let mut open = rows.iter().filter_map(|row| row.pending.as_ref());
            prop_assert!(open.all(|one| one.try_recv().unwrap().is_none()));
            bench.check_ledger();
        }
        bench.registry.close();
        for pending in rows.into_iter().filter_map(|row| row.pending) {
            prop_assert_eq!(pending.recv().unwrap_err(), RequestError::Stopped);
        }
        bench.check_ledger();
    }
}
