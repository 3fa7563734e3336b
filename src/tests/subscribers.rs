//! Subscribers of all tempers, and the check of what they get.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{
    clients::{ECHO_BELOW, UNASKED},
    random::Random,
    watchers::Watchers,
    world::{Backoff, World},
};
use crate::{
    block::MessageRef,
    clock::{Clock, Tick},
    dispatch::{
        Batch, EndReason, Outlet, OverflowPolicy, Registry, SubscribeOptions, Subscription,
        TypeFilter,
    },
    error::{SendError, TryRecvError},
    frame::Frame,
    id::{MessageType, PeerId},
    idle::IdleStrategy,
    policy::Priority,
    slots::{OutFrame, OutFrames, Recipients, SharedFrame},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Temper {
    Drains,
    Slow,
    /// Takes nothing until faults are healed.
    NeverDrains,
    /// Leaves in the middle.
    Leaves,
}

#[derive(Debug)]
pub(super) struct Subscriber {
    pub(super) temper: Temper,
    pub(super) echo: bool,
    pub(super) next_at: Tick,
    pub(super) backoff: Backoff,
    subscription: Option<Subscription>,
    types: TypeFilter,
    /// Nothing may be missing: it pauses, and was there from the start.
    lossless: bool,
    held: Vec<Batch>,
    missed: u64,
    taken: u64,
    gaps: bool,
    /// It closes peers whose messages do not fit.
    pub(super) closes: bool,
}

impl Subscriber {
    /// Subscribes; `whole` says that nothing was dispatched before.
    pub(super) fn new(
        registry: &std::sync::Arc<Registry>,
        random: &mut Random,
        whole: bool,
    ) -> Self {
        let types = match random.below(4) {
            0 => TypeFilter::all(),
            1 => TypeFilter::from(MessageType(0)),
            2 => TypeFilter::from(MessageType(1)..=MessageType(5)),
            _ => TypeFilter::from([MessageType(0), MessageType(3)].as_slice()),
        };
        let overflow = random.pick(&[
            OverflowPolicy::Pause,
            OverflowPolicy::Pause,
            OverflowPolicy::DropNewest,
            OverflowPolicy::DropOldest,
            OverflowPolicy::Close,
            OverflowPolicy::Unsubscribe,
        ]);
        let temper = random.pick(&[
            Temper::Drains,
            Temper::Drains,
            Temper::Slow,
            Temper::NeverDrains,
            Temper::Leaves,
        ]);
        let messages = random.pick(&[1, 3, 50, 1000]);
        let bytes = random.pick(&[1, 2_000, 100_000, 1 << 20]);
        Self::with(
            registry,
            types,
            overflow,
            temper,
            (messages, bytes),
            false,
            whole,
        )
    }

    /// Answers every message of the lower types.
    pub(super) fn echo(registry: &std::sync::Arc<Registry>, random: &mut Random) -> Self {
        let types = TypeFilter::from(MessageType(0)..=MessageType(ECHO_BELOW - 1));
        let temper = random.pick(&[Temper::Drains, Temper::Slow]);
        let bounds = (
            random.pick(&[1, 7, 300]),
            random.pick(&[100, 10_000, 1 << 20]),
        );
        Self::with(
            registry,
            types,
            OverflowPolicy::Pause,
            temper,
            bounds,
            true,
            true,
        )
    }

    fn with(
        registry: &std::sync::Arc<Registry>,
        types: TypeFilter,
        overflow: OverflowPolicy,
        temper: Temper,
        (messages, bytes): (usize, usize),
        echo: bool,
        whole: bool,
    ) -> Self {
        let options = SubscribeOptions::new(types.clone())
            .messages(messages)
            .bytes(bytes)
            .overflow(overflow);
        let (outlet, receiver) = Outlet::queue(&options);
        let account = registry.add(options, outlet).unwrap();
        Self {
            temper,
            echo,
            next_at: 0,
            backoff: Backoff::default(),
            subscription: Some(Subscription::new(
                receiver,
                account,
                std::sync::Arc::clone(registry),
                IdleStrategy::Block,
                Clock::start(),
            )),
            types,
            lossless: whole && overflow == OverflowPolicy::Pause,
            held: Vec::new(),
            missed: 0,
            taken: 0,
            gaps: overflow != OverflowPolicy::Pause,
            closes: overflow == OverflowPolicy::Close,
        }
    }

    pub(super) fn act(world: &mut World, index: usize) {
        let slow = world.random.below(60) as u64;
        let leaves = world.random.chance(10);
        let unasked = world.random.chance(world.unasked);
        let healed = world.healed;
        // Of many, what is still to come is enough.
        if unasked && !(healed && world.many) {
            send_unasked(world);
        }
        let one = &mut world.subscribers[index];
        let pause = match one.temper {
            _ if healed => 5,
            Temper::Drains => slow % 3,
            Temper::Slow => slow,
            Temper::NeverDrains => 50,
            Temper::Leaves if leaves => {
                one.held.clear();
                one.subscription = None;
                world.work += 1;
                50
            }
            Temper::Leaves => slow,
        };
        one.next_at = world.now + pause.max(1);
        if one.temper == Temper::NeverDrains && !healed {
            return;
        }
        let count = if healed {
            1000
        } else {
            world.random.between(1, 5)
        };
        let keep = if healed {
            0
        } else {
            world.random.pick(&[0, 0, 1, 3])
        };
        Self::drain(world, index, count, keep);
    }

    /// Takes batches, and keeps some of them. Returns whether the queue is at its end.
    pub(super) fn drain(world: &mut World, index: usize, count: usize, keep: usize) -> bool {
        for _ in 0..count {
            let one = &mut world.subscribers[index];
            let Some(subscription) = &mut one.subscription else {
                return true;
            };
            match subscription.try_recv_batch() {
                Ok(batch) => {
                    world.work += 1;
                    one.missed += batch.missed();
                    one.taken += batch.len() as u64;
                    assert!(one.gaps || batch.missed() == 0);
                    let (peer, count) = (batch.peer(), batch.len());
                    let end = one.missed + one.taken;
                    let numbers = end - count as u64..end;
                    world.say(|| format!("subscriber {index} takes {count} of {peer}"));
                    check_batch(world, index, &batch);
                    Watchers::check_batch(world, peer, index, numbers);
                    if world.subscribers[index].echo {
                        echo(world, &batch);
                    }
                    world.subscribers[index].held.push(batch);
                }
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => {
                    one.held.clear();
                    return true;
                }
            }
            let held = &mut world.subscribers[index].held;
            while held.len() > keep {
                held.remove(0);
            }
        }
        if keep == 0 {
            let held = &mut world.subscribers[index].held;
            world.work += u64::from(!held.is_empty());
            held.clear();
        }
        false
    }

    /// How many messages it holds, of whom.
    pub(super) fn held(&self) -> impl Iterator<Item = (PeerId, u64)> {
        let mut held = BTreeMap::new();
        for batch in &self.held {
            *held.entry(batch.peer()).or_default() += batch.len() as u64;
        }
        held.into_iter()
    }

    /// How many messages it was offered.
    pub(super) fn matched(&self) -> u64 {
        let subscription = self.subscription.as_ref();
        subscription.map_or(0, |subscription| subscription.row().matched)
    }

    /// The sums of the subscriber's row.
    pub(super) fn check(&self) {
        let Some(subscription) = &self.subscription else {
            return;
        };
        let row = subscription.row();
        let ended = subscription.end_reason() == Some(EndReason::Overflow);
        assert_eq!(ended, row.overflowed, "{row:?}");
        let sum = row.taken + row.dropped + row.discarded + row.queued + row.parked;
        assert_eq!(row.matched, sum, "{row:?}");
        assert_eq!(row.taken, self.taken, "{row:?}");
        assert!(self.missed <= row.dropped, "{row:?}");
        assert_eq!(row.discarded, 0, "{row:?}");
        assert!(self.gaps || row.dropped == 0, "{row:?}");
    }

    /// The sums at the end of a stop, which may have discarded what waited.
    pub(super) fn check_end(&self) {
        let Some(subscription) = &self.subscription else {
            return;
        };
        let row = subscription.row();
        assert_eq!(
            row.matched,
            row.taken + row.dropped + row.discarded,
            "{row:?}"
        );
    }

    /// Whether nothing waits for it.
    pub(super) fn is_drained(&self) -> bool {
        self.subscription.as_ref().is_none_or(|subscription| {
            let row = subscription.row();
            row.queued == 0 && row.parked == 0 && self.held.is_empty()
        })
    }

    pub(super) fn leave(&mut self) {
        self.held.clear();
        self.subscription = None;
    }
}

/// Everything is what the client sent, in its order, and without gaps where none may be.
fn check_batch(world: &mut World, index: usize, batch: &Batch) {
    let conn = world.conn_of(batch.peer());
    let (one, handled) = (&world.subscribers[index], world.handled);
    let conn = &mut world.conns[conn];
    if conn.subscribers_at.len() <= index {
        conn.subscribers_at.resize(index + 1, 0);
    }
    assert!(!batch.is_empty());
    let mut count = 0;
    for message in batch {
        count += 1;
        let at = &mut conn.subscribers_at[index];
        loop {
            let sent = conn.log.get(*at).expect("no more than was sent");
            *at += 1;
            let elsewhere = handled == Some(sent.message_type);
            if elsewhere || !one.types.contains(sent.message_type) {
                continue;
            }
            let same = sent.message_type == message.message_type()
                && sent.payload == message.payload()
                && sent.correlation == message.correlation()
                && sent.checksum == message.checksum();
            if same {
                break;
            }
            assert!(!one.lossless, "{message:?} instead of {sent:?}");
        }
    }
    assert_eq!(count, batch.len());
}

fn send(world: &World, message: &MessageRef<'_>) -> Result<(), SendError> {
    let frame = Frame {
        message_type: message.message_type(),
        correlation: message.correlation(),
        checksum: message.checksum(),
        payload: message.payload(),
    };
    let frame = world.slots.dress(frame);
    let owned = (frame.payload.len() > 4096).then(|| Bytes::copy_from_slice(frame.payload));
    world.slots.send(message.peer(), OutFrame { frame, owned })
}

/// An echo was refused: where it may be, the peer is known to miss one.
pub(super) fn note_refused(world: &mut World, peer: PeerId, error: SendError) {
    let conn = world.conn_of(peer);
    match error {
        SendError::Full | SendError::OverBudget => {
            let budget = &world.slots.ledger.budget;
            let short = budget.used() * 4 >= budget.limit() * 2;
            // An echo may be longer than its question by a checksum.
            let dressed = world.slots.dress(Frame::new(UNASKED, b"")).checksum;
            assert!(
                short || world.sends_more() || dressed,
                "an echo found no room: {:?}",
                world.slots.queued(peer)
            );
            world.conns[conn].echo_lossy = true;
        }
        SendError::Closing | SendError::NotConnected => world.conns[conn].echo_lossy = true,
        SendError::TooLarge { .. } | SendError::ReservedType(_) => panic!("{error}"),
    }
}

fn echo(world: &mut World, batch: &Batch) {
    for message in batch {
        if let Err(error) = send(world, &message) {
            note_refused(world, message.peer(), error);
        }
        // It may be dropped for what nobody asked for, or because echoes are longer than questions.
        let dressed = world.slots.dress(Frame::new(UNASKED, b"")).checksum;
        if world.slots.may_overflow() && (world.sends_more() || dressed) {
            let conn = world.conn_of(message.peer());
            world.conns[conn].echo_lossy = true;
        }
    }
}

fn send_unasked(world: &mut World) {
    if world.registered.is_empty() {
        return;
    }
    let at = world.random.below(world.registered.len());
    let id = world.registered[at];
    if world.random.chance(30) {
        world.slots.ask_close(id);
        return;
    }
    let size = world.random.pick(&[0, 10, 300, 5_000]);
    let payload = vec![9; size.min(world.payload_max)];
    let frame = world.slots.dress(Frame::new(UNASKED, &payload));
    let owned = (size > 4096).then(|| Bytes::copy_from_slice(&payload));
    let priority = world.random.pick(&Priority::ALL);
    match world.random.below(4) {
        0 => {
            let shared = SharedFrame::new(&frame, priority);
            let to = Recipients::AllBut(id);
            let report = world.slots.broadcast(Ok(&shared), to);
            assert!(!report.sent.contains(&id));
        }
        1 => {
            let mut batch = OutFrames::default();
            let bare = Frame::new(UNASKED, &payload);
            (0..3).for_each(|_| batch.push(&bare));
            let _ = world.slots.send_batch(id, priority, &mut batch);
        }
        _ => {
            let message = OutFrame { frame, owned };
            let _ = world.slots.send_as(id, priority, message);
        }
    }
}
