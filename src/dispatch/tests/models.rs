//! Models of what subscribers, whoever asks and the fan-out agree on; see `src/tests/models.rs`.

use loom::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use super::{
    super::{
        account::Account,
        mixed::Content,
        queue::{DispatchQueue, Item},
        requests::Answer,
        subscription::{BatchDelivery, Place},
        *,
    },
    Bench, take,
};
use crate::{
    block::{BlockRef, Message},
    error::{CloseReason, RequestError},
    event::Event,
    frame::Frame,
    id::{MessageType, PeerId},
    ledger::Traffic,
    sync::model::{Bell, explore},
    timers::TimerHub,
};
use std::sync::Arc;

fn outlet() -> Outlet {
    Outlet::Deliveries(channel::queue().0, None)
}

fn options() -> SubscribeOptions {
    SubscribeOptions::new(MessageType(1))
}

fn batch(delivery: Delivery) -> BatchDelivery {
    match delivery.0 {
        Content::Batch(batch) => batch,
        Content::Extra(extra) => panic!("{extra:?} among messages alone"),
    }
}

/// Whoever sleeps is woken by what comes after its last look.
#[test]
fn a_receiver_that_parks_is_woken() {
    explore(Some(3), || {
        let (sender, mut receiver) = channel::queue();
        let sender = thread::spawn(move || {
            sender.put(1).unwrap();
            sender.wake();
            sender.try_send(2).unwrap();
            sender
        });
        assert_eq!(receiver.recv(), Ok(1));
        assert_eq!(receiver.recv(), Ok(2));
        drop(sender.join().unwrap());
    });
}

/// A list and its version belong together, and whoever has subscribed is in the list that the next
/// block is offered to.
#[test]
fn subscribing_takes_effect_from_the_next_block_on() {
    explore(Some(3), || {
        let registry = Arc::new(Registry::new(1));
        let subscribed = Arc::new(AtomicUsize::new(0));
        let subscribers = [(); 2].map(|()| {
            let (registry, subscribed) = (Arc::clone(&registry), Arc::clone(&subscribed));
            thread::spawn(move || {
                registry.add(options(), outlet()).unwrap();
                subscribed.fetch_add(1, Ordering::Release);
            })
        });
        let (mut version, mut list) = (0, Vec::new());
        for _ in 0..2 {
            let before = subscribed.load(Ordering::Acquire);
            // As `FanOut::refresh` does it.
            if version != registry.version() {
                (version, list) = registry.subscribers().unwrap();
                assert_eq!(version, list.len() as u64);
            }
            assert!(list.len() >= before);
        }
        for subscriber in subscribers {
            subscriber.join().unwrap();
        }
    });
}

/// Events are made from the moment on at which somebody has subscribed to them.
#[test]
fn no_event_is_left_unmade_for_who_has_subscribed() {
    explore(Some(3), || {
        let Bench {
            slots,
            registry,
            bounds,
            mut fan_out,
            peer,
            ..
        } = Bench::new();
        let subscribed = Arc::new(AtomicUsize::new(0));
        let subscriber = thread::spawn({
            let (slots, subscribed) = (Arc::clone(&slots), Arc::clone(&subscribed));
            move || {
                let events = EventSubscription::new(EventOptions::new(), registry, slots);
                subscribed.store(1, Ordering::Release);
                events.unwrap()
            }
        });
        let mut owed = 0;
        for _ in 0..2 {
            owed += subscribed.load(Ordering::Acquire);
            // As `Told::emit` does it.
            if slots.event_subscribers.load(Ordering::Relaxed) > 0 {
                let event = Box::new(Event::Resumed { peer });
                let item = Item::Event(event.clone());
                bounds.raise(&item);
                fan_out.dispatch_event(event);
            }
        }
        let events = subscriber.join().unwrap();
        let got = std::iter::from_fn(|| events.try_recv().ok()).count();
        assert!(got >= owed);
    });
}

/// A full subscriber that takes makes the dispatcher deliver what waits for it.
#[test]
fn what_is_parked_is_delivered_when_there_is_room() {
    explore(Some(2), || {
        let mut bench = Bench::new();
        let wake = Arc::new(Bell::default());
        let woken = Arc::clone(&wake);
        bench.registry.poke(0).set_wake(move || woken.ring());
        let options = options().messages(1).overflow(OverflowPolicy::Pause);
        let mut subscription = bench.subscribe(options);
        bench.dispatch(&[1]);
        let block = bench.block(&[1]);
        let subscriber = thread::spawn(move || {
            drop(subscription.try_recv_batch().unwrap());
            subscription
        });
        bench.dispatch_block(block);
        while bench.slots.is_parked(bench.peer) {
            if bench.registry.poke(0).take() {
                bench.fan_out.pump();
            } else {
                wake.wait();
            }
        }
        let mut subscription = subscriber.join().unwrap();
        assert!(subscription.try_recv_batch().is_ok());
    });
}

/// Whoever dispatches a block, the loop or the dispatcher: all come, in their order.
#[test]
fn what_the_loop_dispatches_itself_overtakes_nothing() {
    const BLOCKS: u64 = 3;
    // Counted over all runs, outside of the model.
    let by_loop: Arc<[std::sync::atomic::AtomicU64; 3]> = Arc::default();
    let runs = Arc::clone(&by_loop);
    explore(Some(2), move || {
        let mut bench = Bench::new();
        let mut subscription = bench.subscribe(options());
        let mut blocks: Vec<_> = (0..BLOCKS).map(|_| bench.block(&[1])).collect();
        let (registry, slots) = (Arc::clone(&bench.registry), Arc::clone(&bench.slots));
        let (mut queue, mut items) = DispatchQueue::new(Arc::clone(&slots.ledger));
        let direct = queue.make_direct(FanOut::new(registry, slots, queue.bounds().clone()));
        let dispatcher = thread::spawn(move || {
            // As `Worker::run` does it; a poke is the end here.
            direct.visit(FanOut::pump);
            while let Item::Block(block) = items.recv().unwrap() {
                direct.handle(|fan_out| fan_out.dispatch(block));
            }
        });
        // As the loop does it: a block of bulk is the dispatcher's, others are if they have to be.
        queue.push(Item::Block(blocks.remove(0))).unwrap();
        let mut direct = 0;
        for block in blocks {
            match queue.dispatch(block, true) {
                Ok(()) => direct += 1,
                Err(block) => queue.push(Item::Block(block)).unwrap(),
            }
        }
        queue.push_item(Item::Poke).unwrap();
        dispatcher.join().unwrap();
        runs[direct].fetch_add(1, Ordering::Relaxed);
        let (numbers, missed) = take(&mut subscription);
        assert_eq!((numbers, missed), ((0..BLOCKS).collect(), 0));
        assert_eq!(bench.fill(), Traffic::default());
        assert_eq!(bench.slots.ledger.dispatched.get(), BLOCKS);
    });
    let runs = [0, 1, 2].map(|direct| by_loop[direct].load(Ordering::Relaxed));
    println!("blocks that the loop dispatched itself, by runs: {runs:?}");
    assert!(runs.iter().all(|count| *count > 0), "{runs:?}");
}

/// What the loop has dispatched is woken for by it, or by the dispatcher that has the fan-out.
#[test]
fn whoever_dispatches_late_the_receiver_is_woken() {
    let asked: Arc<[std::sync::atomic::AtomicU64; 2]> = Arc::default();
    let runs = Arc::clone(&asked);
    explore(Some(2), move || {
        let mut bench = Bench::new();
        let (outlet, mut receiver) = Outlet::queue(&options());
        bench.registry.add(options(), outlet).unwrap();
        let block = bench.block(&[1]);
        let (registry, slots) = (Arc::clone(&bench.registry), Arc::clone(&bench.slots));
        let poke = Arc::clone(registry.poke(0));
        let (mut queue, mut items) = DispatchQueue::new(Arc::clone(&slots.ledger));
        poke.set_wake(queue.waker());
        let direct = queue.make_direct(FanOut::new(registry, slots, queue.bounds().clone()));
        direct.visit(FanOut::refresh);
        let dispatcher = thread::spawn({
            let poke = Arc::clone(&poke);
            move || {
                // As `Worker::run` does it; an event is the end here. It looks around first.
                direct.visit(FanOut::wake_receivers);
                loop {
                    match items.recv().unwrap() {
                        Item::Block(block) => direct.handle(|fan_out| fan_out.dispatch(block)),
                        Item::Poke => {}
                        Item::Event(_) | Item::Timer(_) | Item::Notice(_) | Item::Cut(_) => break,
                    }
                    if poke.take() {
                        direct.visit(FanOut::wake_receivers);
                    }
                }
            }
        });
        let subscriber = thread::spawn(move || batch(receiver.recv().unwrap()).count());
        // As the loop does it.
        let direct = match queue.dispatch(block, false) {
            Ok(()) => {
                let alone = queue.wake_receivers();
                if !alone {
                    poke.poke();
                }
                Some(alone)
            }
            Err(block) => {
                queue.push(Item::Block(block)).unwrap();
                None
            }
        };
        if let Some(alone) = direct {
            runs[usize::from(alone)].fetch_add(1, Ordering::Relaxed);
        }
        assert_eq!(subscriber.join().unwrap(), 1);
        let event = Box::new(Event::Resumed { peer: bench.peer });
        queue.push_item(Item::Event(event)).unwrap();
        dispatcher.join().unwrap();
    });
    let runs = [0, 1].map(|alone| asked[alone].load(Ordering::Relaxed));
    println!("announced by the dispatcher, by the loop: {runs:?}");
    assert!(runs.iter().all(|count| *count > 0), "{runs:?}");
}

/// A subscriber that may sleep over what it was not told of.
struct Untold {
    bench: Bench,
    account: Arc<Account>,
    subscriber: thread::JoinHandle<u64>,
    /// Rung by the subscriber for each delivery.
    taken: Arc<Bell>,
}

impl Untold {
    /// The subscriber takes until it has so many messages.
    fn new(options: SubscribeOptions, expected: u64) -> Self {
        let bench = Bench::new();
        let (outlet, mut receiver) = Outlet::queue(&options);
        let account = bench.registry.add(options, outlet).unwrap();
        let taken = Arc::new(Bell::default());
        let subscriber = thread::spawn({
            let taken = Arc::clone(&taken);
            move || {
                let mut got = 0;
                while got < expected {
                    let mut delivery = batch(receiver.recv().unwrap());
                    delivery.set_place(Place::Taken);
                    got += u64::from(delivery.count());
                    taken.ring();
                }
                got
            }
        });
        Self {
            bench,
            account,
            subscriber,
            taken,
        }
    }

    fn block(&mut self, count: usize) -> BlockRef {
        self.bench.block(&vec![1; count])
    }

    /// Waits until nothing is left in the queue; nobody is told of anything meanwhile.
    fn wait_until_taken(&self) {
        while self.account.fill().messages > 0 {
            self.taken.wait();
        }
    }

    fn dispatch_without_wake(&mut self, count: usize) {
        let block = self.block(count);
        self.bench.bounds.raise_block(&block);
        self.bench.fan_out.dispatch_without_wake(block);
    }
}

/// An event that stood before a batch which gave way is told before what came behind it, and so is
/// one that stood before what the subscriber has taken out of the queue and not opened yet.
#[test]
fn what_is_ahead_of_a_queue_is_told_in_its_order() {
    explore(Some(3), || {
        let mut bench = Bench::new();
        let options = options().messages(1).overflow(OverflowPolicy::DropOldest);
        let (registry, slots) = (&bench.registry, &bench.slots);
        let inbox = Subscription::subscribe(
            options.with_events(),
            registry,
            slots,
            &Arc::new(TimerHub::default()),
        );
        let mut inbox = inbox.unwrap();
        let block = |bench: &mut Bench| bench.block(&[1]);
        let blocks = [block(&mut bench), block(&mut bench)];
        let dispatcher = thread::spawn(move || {
            for (number, block) in (0..).zip(blocks) {
                let peer = PeerId::new(0, 1, number);
                let item = Item::Event(Box::new(Event::Resumed { peer }));
                bench.bounds.raise(&item);
                let Item::Event(event) = item else { return };
                bench.fan_out.dispatch_event(event);
                bench.dispatch_block(block);
            }
        });
        let mut told = Vec::new();
        let mut note = |received: Received| {
            told.push(match received {
                Received::Batch(batch) => {
                    let payload = batch.iter().next().unwrap().payload().to_vec();
                    2 * u64::from_be_bytes(payload.try_into().unwrap()) + 1
                }
                Received::Event(event) => 2 * u64::from(event.peer().unwrap().generation()),
                Received::Timer(fired) => panic!("{fired:?}"),
            });
        };
        // As `select!` does it, and as `recv_any` does.
        if let Ok(delivery) = inbox.receiver().try_recv() {
            inbox.open(delivery).for_each(&mut note);
        }
        if let Ok(received) = inbox.try_recv_any() {
            note(received);
        }
        dispatcher.join().unwrap();
        while let Ok(received) = inbox.try_recv_any() {
            note(received);
        }
        assert!(told.is_sorted(), "{told:?}");
        assert!(told.contains(&0) && told.contains(&2), "{told:?}");
        // The newest may give way to who has the list just then, and is counted.
        let batches = told.iter().filter(|one| *one % 2 == 1).count() as u64;
        let (row, events) = (inbox.row(), inbox.event_row().unwrap());
        assert_eq!(
            (row.taken, row.taken + row.dropped),
            (batches, 2),
            "{told:?}"
        );
        assert_eq!((events.taken, events.dropped), (2, 0));
    });
}

/// What does not fit beside something that nobody was told of is left to the dispatcher, and what
/// is in the way is taken without another word. Once it is, nothing is dropped.
#[test]
fn nothing_is_dropped_for_want_of_being_told() {
    let late: Arc<[std::sync::atomic::AtomicU64; 2]> = Arc::default();
    let runs = Arc::clone(&late);
    explore(Some(2), move || {
        // A quarter of the bound may be there untold, and the next block passes the bound.
        let mut untold = Untold::new(options().messages(4), 5);
        let (registry, slots) = (&untold.bench.registry, &untold.bench.slots);
        let (registry, slots) = (Arc::clone(registry), Arc::clone(slots));
        let (mut queue, items) = DispatchQueue::new(Arc::clone(&slots.ledger));
        let direct = queue.make_direct(FanOut::new(registry, slots, queue.bounds().clone()));
        let (short, long) = (untold.block(1), untold.block(4));
        assert!(queue.dispatch(short, false).is_ok());
        let directly = queue.dispatch(long, false);
        runs[usize::from(directly.is_ok())].fetch_add(1, Ordering::Relaxed);
        if let Err(long) = directly {
            queue.push(Item::Block(long)).unwrap();
            untold.wait_until_taken();
            // As the dispatcher does it.
            while let Ok(Item::Block(block)) = items.try_recv() {
                direct.handle(|fan_out| fan_out.dispatch_without_wake(block));
            }
        }
        assert!(queue.wake_receivers());
        assert_eq!(untold.subscriber.join().unwrap(), 5);
        assert_eq!(untold.account.row().dropped, 0);
    });
    let runs = [0, 1].map(|direct| late[direct].load(Ordering::Relaxed));
    println!("left to the dispatcher, dispatched by the loop: {runs:?}");
    assert!(runs.iter().all(|count| *count > 0), "{runs:?}");
}

/// Nobody sleeps for good over what fills more than a part of its queue.
#[test]
fn a_part_full_sleeper_is_woken_at_once() {
    explore(Some(2), || {
        let mut untold = Untold::new(options().messages(4), 4);
        for _ in 0..2 {
            untold.dispatch_without_wake(2);
            untold.wait_until_taken();
        }
        assert_eq!(untold.subscriber.join().unwrap(), 4);
        assert_eq!(untold.account.row().dropped, 0);
    });
}

const PEER: fn() -> PeerId = || PeerId::new(0, 0, 1);

type Told = crossbeam_channel::Receiver<Result<Message, RequestError>>;

/// A request that waits.
fn ask(requests: &Requests) -> Option<(crate::id::RequestId, Told)> {
    let (waiter, told) = PendingReply::channel();
    let id = requests.add(PEER(), MessageType(1), 5, waiter).ok()?;
    Some((id, told))
}

/// Whoever takes a request out of the table tells of it, and nobody else.
#[test]
fn a_request_is_resolved_once() {
    explore(Some(3), || {
        let requests = Arc::new(Requests::new(1));
        let (id, told) = ask(&requests).unwrap();
        let dispatcher = thread::spawn({
            let requests = Arc::clone(&requests);
            move || {
                let mut answers = [Answer {
                    at: 0,
                    id,
                    message_type: MessageType(1),
                    request: None,
                }];
                requests.claim(PEER(), &mut answers, true).unwrap();
                let [answer] = answers;
                if let Some(request) = answer.request {
                    let frame = Frame::new(MessageType(1), b"");
                    let received = crate::clock::Clock::start().now().instant;
                    let message = Message::copy_of(PEER(), &frame, received);
                    requests.resolve(PEER(), id, request, Ok(message));
                }
            }
        });
        let closer = thread::spawn({
            let requests = Arc::clone(&requests);
            move || {
                requests.expire(PEER(), 5, true).unwrap();
                let reason = CloseReason::PeerClosed;
                requests.close_peer(PEER(), reason, true).unwrap();
            }
        });
        let cancelled = requests.cancel(PEER(), id, true);
        dispatcher.join().unwrap();
        closer.join().unwrap();
        requests.check();
        assert_eq!(told.len() + usize::from(cancelled), 1);
    });
}

/// A request beside the end of the service: it is refused, or told of the end.
#[test]
fn no_request_outlives_the_service() {
    explore(None, || {
        let requests = Arc::new(Requests::new(1));
        let asker = thread::spawn({
            let requests = Arc::clone(&requests);
            move || ask(&requests)
        });
        requests.end();
        if let Some((_, told)) = asker.join().unwrap() {
            assert!(told.try_recv().unwrap().is_err());
        }
        requests.check();
        assert_eq!(requests.row().outstanding, 0);
    });
}
