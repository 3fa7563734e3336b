//! Whole turns of the loop, with the dispatcher inline and a network that costs nothing.

use std::{cell::RefCell, fmt, rc::Rc, sync::Arc};

use crossbeam_channel::{Sender, bounded};

use super::{
    MESSAGE_TYPE, PAYLOAD_SIZE_MAX, Scene,
    fan_out::{subscribe, take_all},
    frames_of, slots_for,
    tape::{Tape, Wire},
};
use crate::{
    block::MessageRef,
    clock::Now,
    dispatch::{FanOut, QueueBounds, Registry, Requests, SubscribeOptions, Subscription},
    event_loop::{EventLoop, Sink},
    frame::{Decoder, Frame, encode_whole},
    handle::Command,
    id::ListenerId,
    idle::IdleStrategy,
    inline::Replier,
    peer::Rules,
    peers::{HandlerOptions, Handlers, PeerLimits, Peers},
    policy::Priority,
    slots::{OutFrame, Slots},
};

/// Turns in which the connection is accepted and comes to rest.
const TURNS_AT_START: usize = 4;

/// A read of a block full of 16-byte payloads, delivered, and taken by the subscriber.
pub(super) fn bulk() -> Box<dyn Scene> {
    Box::new(Incoming {
        stage: Stage::new(false),
        bytes: frames_of(16, 1),
    })
}

/// The same with one message of 64 bytes.
pub(super) fn one() -> Box<dyn Scene> {
    Box::new(Incoming {
        stage: Stage::new(false),
        bytes: one_frame(),
    })
}

/// One message of 64 bytes, which a handler on the loop answers.
pub(super) fn answer() -> Box<dyn Scene> {
    Box::new(Incoming {
        stage: Stage::new(true),
        bytes: one_frame(),
    })
}

/// One message of 64 bytes that another thread sends.
pub(super) fn send() -> Box<dyn Scene> {
    Box::new(Outgoing(Stage::new(false)))
}

fn one_frame() -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_whole(&Frame::new(MESSAGE_TYPE, &[b'.'; 64]), &mut bytes);
    bytes
}

#[derive(Debug)]
struct Incoming {
    stage: Stage,
    bytes: Vec<u8>,
}

impl Scene for Incoming {
    fn prepare(&mut self) {
        self.stage.wire.borrow_mut().bring(&self.bytes);
    }

    fn run(&mut self) {
        self.stage.turn();
        take_all(&mut self.stage.subscription);
        // What was let go of may have rung, and the read has to find the end.
        self.stage.turn();
    }
}

#[derive(Debug)]
struct Outgoing(Stage);

impl Scene for Outgoing {
    fn run(&mut self) {
        let peer = self.0.wire.borrow().peer.expect("it is connected");
        let message = OutFrame {
            frame: Frame::new(MESSAGE_TYPE, &[b'.'; 64]),
            owned: None,
        };
        let sent = self.0.slots.send_as(peer, Priority::Normal, message);
        sent.expect("there is room");
        self.0.turn();
    }
}

/// A loop with one connection and one subscriber.
struct Stage {
    slots: Arc<Slots>,
    wire: Rc<RefCell<Wire>>,
    event_loop: EventLoop<Tape>,
    subscription: Subscription,
    /// The time, which stands still.
    now: Now,
    _commands: Sender<Command>,
}

impl Stage {
    fn new(handled: bool) -> Self {
        let slots = slots_for(2);
        let registry = Arc::new(Registry::new(16));
        let options = SubscribeOptions::new(MESSAGE_TYPE);
        let subscription = subscribe(&registry, &slots, options);
        let bounds = QueueBounds::new(Arc::clone(&slots.ledger));
        let fan_out = FanOut::new(Arc::clone(&registry), Arc::clone(&slots), bounds.clone());
        let sink = Sink::Inline {
            fan_out: Box::new(fan_out),
            bounds,
            on_tick: Box::new(|| {}),
        };
        let rules = Rules {
            first_frame_ms: 10_000,
            frame_ms: 10_000,
            write_stall_ms: 10_000,
            ..Rules::lenient(Decoder::new(PAYLOAD_SIZE_MAX))
        };
        let limits = PeerLimits {
            peers: 1,
            peers_per_origin: 0,
            pending: 0,
        };
        let mut peers = Peers::new(Arc::clone(&slots), rules, limits, 0);
        if handled {
            peers.common.handling.set_handlers(echo(&slots));
        }
        let wire = Rc::default();
        let (commands, receiver) = bounded(1);
        let now = slots.clock.now();
        let event_loop = EventLoop::new(
            Tape(Rc::clone(&wire)),
            vec![ListenerId(0)],
            peers,
            Arc::clone(&slots),
            sink,
            Arc::clone(registry.poke(0)),
            receiver,
            Arc::default(),
            Arc::default(),
            IdleStrategy::Block,
            now.tick,
        );
        let mut stage = Self {
            slots,
            wire,
            event_loop,
            subscription,
            now,
            _commands: commands,
        };
        (0..TURNS_AT_START).for_each(|_| stage.turn());
        stage
    }

    fn turn(&mut self) {
        self.event_loop
            .poll(self.now)
            .expect("a tape does not fail");
        self.event_loop.turn(self.now);
    }
}

impl fmt::Debug for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stage").finish_non_exhaustive()
    }
}

fn echo(slots: &Slots) -> Handlers {
    let mut handlers = Handlers::new(Arc::clone(&slots.ledger), Arc::new(Requests::new(1)));
    let echo = |message: MessageRef<'_>, replier: &mut Replier<'_>| {
        replier.reply(message.payload()).expect("there is room");
    };
    handlers
        .add(HandlerOptions::new(MESSAGE_TYPE), Box::new(echo))
        .expect("it is the first");
    handlers
}
