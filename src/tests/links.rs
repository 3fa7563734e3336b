//! Links and heartbeats, step by step: one table of peers, without sockets and in virtual time.
//!
//! The test plays the network and the other side.

mod names;

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, IoSlice},
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use crate::{
    clock::{Clock, Now, Tick},
    dial::{NewLink, Source},
    error::{CloseReason, DialError, SendError},
    event::Event,
    frame::{Bye, Decoder, Frame, Hello, encode_whole},
    id::{LinkId, MessageType, NodeId, PeerId},
    ledger::{Ledger, Traffic},
    limits::{AUTH_DELAY_MS, BEFORE_OK_BYTES_MAX, LINK_HEALTHY_MS, LINKS_MAX, TIMERS_PER_TURN},
    peer::Rules,
    peers::{Action, PeerLimits, Peers},
    slots::{OutFrame, OutboxLimits, Slots},
    socket::{Ready, Unacknowledged},
};

const LINK: LinkId = LinkId(7);
/// The drain time of lenient rules.
const DRAIN_MS: u64 = 1_000;
const APP: MessageType = MessageType(1);

/// The table under test, and what it asked for.
struct Rig {
    slots: Arc<Slots>,
    peers: Peers,
    now: Tick,
    start: Instant,
    connects: Vec<(PeerId, SocketAddr)>,
    closes: Vec<(u32, bool)>,
    events: VecDeque<Event>,
}

fn addr(number: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, number], 1))
}

fn node(number: u8) -> NodeId {
    NodeId([number; 16])
}

/// The rules of node 5.
fn rules() -> Rules {
    let hello = Hello {
        node_id: node(5).0,
        ..Hello::default()
    };
    Rules {
        node_id: node(5),
        connect_ms: 1_000,
        hello_payload: hello.to_payload(),
        ok_payload: hello.to_payload(),
        ..Rules::lenient(Decoder::new(100_000))
    }
}

/// The same, where peers have to show a token.
fn strict_rules() -> Rules {
    Rules {
        tokens: vec![b"open".to_vec(), b"sesame".to_vec()],
        hello_required: true,
        ..rules()
    }
}

fn encoded(message_type: MessageType, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_whole(&Frame::new(message_type, payload), &mut bytes);
    bytes
}

fn introduction(message_type: MessageType, id: NodeId, token: &[u8]) -> Vec<u8> {
    let hello = Hello {
        node_id: id.0,
        token,
        ..Hello::default()
    };
    encoded(message_type, &hello.to_payload())
}

fn hello(number: u8) -> Vec<u8> {
    introduction(MessageType::HELLO, node(number), b"")
}

fn ok(number: u8) -> Vec<u8> {
    introduction(MessageType::OK, node(number), b"")
}

fn bye(reason: CloseReason) -> Vec<u8> {
    let code = reason.wire_code().unwrap();
    encoded(MessageType::BYE, &Bye { code, text: "x" }.to_payload())
}

fn app(number: u8) -> Vec<u8> {
    encoded(APP, &[number])
}

fn link_to(addrs: &[SocketAddr]) -> NewLink {
    NewLink {
        id: LINK,
        source: Source::Addrs(addrs.to_vec()),
        keep: false,
        hello: true,
        checksums: false,
        timeout_ms: None,
    }
}

impl Rig {
    fn new(rules: Rules) -> Self {
        let ledger = Arc::new(Ledger::new(64 << 20, Traffic::new(1_000, 1 << 20)));
        let limits = OutboxLimits {
            bytes: 1 << 20,
            messages: 1_000,
            payload_size: 100_000,
        };
        let clock = Clock::start();
        let slots = Arc::new(Slots::new(0, 200 + LINKS_MAX, limits, ledger, clock));
        slots.event_subscribers.store(1, Ordering::Relaxed);
        let limits = PeerLimits {
            peers: 100,
            peers_per_origin: 0,
            pending: 0,
        };
        Self {
            peers: Peers::new(Arc::clone(&slots), rules, limits, 0),
            slots,
            now: 0,
            start: clock.now().instant,
            connects: Vec::new(),
            closes: Vec::new(),
            events: VecDeque::new(),
        }
    }

    /// Asks for a link, and takes it that the network begins to connect.
    fn connect(&mut self, link: NewLink) {
        self.slots.links.fetch_add(1, Ordering::Relaxed);
        self.peers.handle_connect(self.now, link);
        self.settle();
    }

    fn links(&self) -> usize {
        self.slots.links.load(Ordering::Relaxed)
    }

    /// Takes what the table asks for.
    fn settle(&mut self) {
        while let Some(action) = self.peers.common.lists.poll_action() {
            match action {
                Action::Connect(id, addr) => self.connects.push((id, addr)),
                Action::LookConnected(id) => self.peers.handle_connected(self.now, id),
                Action::Look { id, last } => {
                    let told = Unacknowledged::Bytes(0);
                    self.peers.handle_unacknowledged(self.now, id, last, told);
                }
                Action::Shutdown(_) => {}
                Action::Settle(id) => self.peers.handle_settled(self.now, id, 0),
                Action::Close { index, abort } => self.closes.push((index, abort)),
            }
        }
        while let Some(event) = self.peers.common.told.poll_event() {
            self.events.push_back(*event);
        }
        self.peers.check(self.now);
    }

    /// Lets time go on, and timers fire.
    fn advance(&mut self, ms: u64) {
        let until = self.now + ms;
        while let Some(next) = self
            .peers
            .common
            .deadlines
            .wheel
            .next_expiry()
            .filter(|tick| *tick <= until)
        {
            self.now = self.now.max(next);
            self.fire();
        }
        self.now = until;
        self.fire();
    }

    fn fire(&mut self) {
        let mut allowance = TIMERS_PER_TURN;
        while self.peers.poll_timer(self.now, &mut allowance).is_some() {}
        self.peers.begin_turn(self.now);
        self.settle();
    }

    /// The connection of the latest attempt is made.
    fn made(&mut self) -> PeerId {
        let (id, _) = *self.connects.last().unwrap();
        self.peers.handle_ready(id, Ready::WRITE);
        self.settle();
        // There is nothing to read yet.
        self.read_once(id, Err(ErrorKind::WouldBlock));
        id
    }

    fn refuse(&mut self) {
        let (id, _) = *self.connects.last().unwrap();
        let error = io::Error::from(ErrorKind::ConnectionRefused);
        self.peers.handle_dial_failed(self.now, id, &error);
        self.settle();
    }

    fn accept(&mut self) -> PeerId {
        let id = self.peers.handle_accepted(self.now, addr(200)).unwrap();
        self.settle();
        id
    }

    /// Bytes come from a peer. Returns the payloads of what is to be dispatched.
    fn read(&mut self, id: PeerId, bytes: &[u8]) -> Vec<u8> {
        let pieces = bytes.chunks(4_000);
        pieces
            .flat_map(|piece| self.read_once(id, Ok(piece)))
            .collect()
    }

    /// The peer's FIN.
    fn finish(&mut self, id: PeerId) {
        self.read_once(id, Ok(b""));
    }

    fn reset(&mut self, id: PeerId) {
        self.read_once(id, Err(ErrorKind::ConnectionReset));
    }

    fn read_once(&mut self, id: PeerId, result: Result<&[u8], ErrorKind>) -> Vec<u8> {
        self.peers.handle_ready(id, Ready::READ);
        let mut payloads = Vec::new();
        if let Some(mut buffer) = self.peers.prepare_read(self.now, id) {
            let result = result.map_err(io::Error::from);
            let result = result.map(|bytes| {
                buffer.bytes.extend_from_slice(bytes);
                bytes.len()
            });
            let now = Now {
                tick: self.now,
                instant: self.start + Duration::from_millis(self.now),
            };
            let block = self.peers.handle_read(now, id, buffer, result);
            let bytes = block.as_ref().map_or(&b""[..], |block| block.bytes());
            let frames = Decoder::new(100_000);
            let frames = frames.frames(bytes).map(Result::unwrap);
            let messages = frames.filter(|frame| frame.message_type == APP);
            payloads.extend(messages.map(|frame| frame.payload[0]));
        }
        self.peers.begin_turn(self.now);
        while self.peers.poll_read().is_some() {}
        self.settle();
        payloads
    }

    /// What is written to a peer: types and payloads.
    fn written(&mut self, id: PeerId) -> Vec<(MessageType, Vec<u8>)> {
        let mut wire = Vec::new();
        self.peers.begin_turn(self.now);
        self.peers.handle_ready(id, Ready::WRITE);
        loop {
            let mut slices = [IoSlice::new(&[]); 8];
            let filled = self.peers.fill_slices(id, &mut slices, 1 << 20);
            let bytes: Vec<u8> = slices[..filled]
                .iter()
                .flat_map(|one| one.to_vec())
                .collect();
            if bytes.is_empty() {
                break;
            }
            let size = bytes.len();
            wire.extend(bytes);
            self.peers.handle_written(self.now, id, size, Ok(size));
        }
        // The others keep what they have.
        let mut others = Vec::new();
        while let Some(other) = self.peers.poll_write() {
            others.push(other);
        }
        for other in others {
            self.peers.handle_ready(other, Ready::WRITE);
        }
        self.settle();
        let decoder = Decoder::new(100_000);
        let frames = decoder.frames(&wire).map(Result::unwrap);
        frames
            .map(|frame| (frame.message_type, frame.payload.to_vec()))
            .collect()
    }

    fn written_types(&mut self, id: PeerId) -> Vec<MessageType> {
        self.written(id).into_iter().map(|one| one.0).collect()
    }

    /// The reason in the BYE that is written.
    #[track_caller]
    fn bye_code(&mut self, id: PeerId) -> CloseReason {
        let written = self.written(id);
        let bye = written.iter().find(|one| one.0 == MessageType::BYE);
        let payload = &bye.expect("a BYE").1;
        CloseReason::from_wire_code(Bye::parse(payload).unwrap().code).unwrap()
    }

    /// A link of ours is up, to the node.
    fn link_up(&mut self, link: NewLink, number: u8) -> PeerId {
        self.connect(link);
        let id = self.made();
        assert_eq!(self.written_types(id), [MessageType::HELLO]);
        self.read(id, &ok(number));
        assert!(self.peers.open().contains(&id));
        id
    }

    fn send(&self, id: PeerId, payload: &[u8]) -> Result<(), SendError> {
        let frame = Frame::new(APP, payload);
        self.slots.send(id, OutFrame { frame, owned: None })
    }

    fn next_event(&mut self) -> Event {
        self.events.pop_front().expect("an event")
    }

    /// The error, and the time to the next attempt.
    #[track_caller]
    fn dial_failed(&mut self) -> (DialError, u32, Option<Duration>) {
        let event = self.next_event();
        let Event::DialFailed {
            link,
            error,
            attempts,
            retry_in,
            ..
        } = event
        else {
            panic!("{event:?}");
        };
        assert_eq!(link, LINK);
        (error, attempts, retry_in)
    }

    #[track_caller]
    fn closed_reason(&mut self) -> CloseReason {
        let event = self.next_event();
        let Event::Closed(row) = event else {
            panic!("{event:?}");
        };
        row.reason
    }
}

// ----- connecting --------------------------------------------------------------------------------

#[test]
fn addresses_are_tried_in_order_and_the_last_error_is_told() {
    let mut rig = Rig::new(rules());
    rig.connect(link_to(&[addr(1), addr(2), addr(3)]));
    rig.refuse();
    assert!(rig.events.is_empty(), "two addresses are left");
    // The second never answers.
    rig.advance(999);
    assert_eq!(rig.connects.len(), 2);
    rig.advance(1);
    rig.refuse();
    let tried: Vec<SocketAddr> = rig.connects.iter().map(|one| one.1).collect();
    assert_eq!(tried, [addr(1), addr(2), addr(3)]);
    let (error, attempts, retry_in) = rig.dial_failed();
    let kind = ErrorKind::ConnectionRefused;
    assert_eq!(
        error,
        DialError::Connect {
            kind,
            os_error: None
        }
    );
    // Not kept, the link ends with its first failure.
    assert_eq!((attempts, retry_in, rig.links()), (1, None, 0));
    assert_eq!(rig.slots.ledger.dials_failed.get(), 1);
    assert!(rig.peers.is_empty());
}

#[test]
fn a_connection_has_its_time_and_then_the_ok() {
    let mut rig = Rig::new(rules());
    rig.connect(link_to(&[addr(1)]));
    rig.advance(1_000);
    assert_eq!(rig.dial_failed().0, DialError::Timeout);
    assert_eq!(rig.slots.ledger.dialled.get(), 0);

    let mut rig = Rig::new(rules());
    rig.connect(link_to(&[addr(1)]));
    rig.advance(900);
    let id = rig.made();
    assert_eq!(rig.written_types(id), [MessageType::HELLO]);
    rig.advance(999);
    assert!(rig.events.is_empty());
    rig.advance(1);
    assert_eq!(rig.bye_code(id), CloseReason::FirstFrameTimeout);
    rig.finish(id);
    let error = DialError::Handshake {
        reason: CloseReason::FirstFrameTimeout,
        bye_received: None,
    };
    assert_eq!(rig.dial_failed().0, error);
    assert!(rig.events.is_empty(), "nobody was told of a connection");
}

#[test]
fn a_bye_instead_of_the_ok_is_the_reason_of_the_failure() {
    let mut rig = Rig::new(rules());
    rig.connect(link_to(&[addr(1)]));
    let id = rig.made();
    let bytes = [app(1), bye(CloseReason::AuthFailed)].concat();
    assert!(rig.read(id, &bytes).is_empty());
    let types = rig.written_types(id);
    assert!(!types.contains(&MessageType::BYE), "BYE in answer to BYE");
    rig.finish(id);
    let error = DialError::Handshake {
        reason: CloseReason::PeerBye,
        bye_received: CloseReason::AuthFailed.wire_code(),
    };
    assert_eq!(rig.dial_failed().0, error);
    assert!(rig.events.is_empty() && rig.links() == 0);
}

#[test]
fn nothing_but_hello_and_pong_goes_out_before_the_ok() {
    let mut rig = Rig::new(rules());
    rig.connect(link_to(&[addr(1)]));
    let id = rig.made();
    assert_eq!(rig.send(id, b"x"), Err(SendError::NotConnected));
    assert_eq!(rig.written_types(id), [MessageType::HELLO]);
    rig.read(id, &encoded(MessageType::PING, b"?"));
    assert_eq!(rig.written(id), [(MessageType::PONG, b"?".to_vec())]);
    assert_eq!(rig.send(id, b"x"), Err(SendError::NotConnected));
    rig.read(id, &ok(1));
    assert_eq!(rig.send(id, b"x"), Ok(()));
    assert_eq!(rig.written_types(id), [APP]);
}

#[test]
fn messages_before_the_ok_come_after_connected_and_in_order() {
    let mut rig = Rig::new(rules());
    rig.connect(link_to(&[addr(1)]));
    let id = rig.made();
    let bytes = [app(1), app(2), ok(1), app(3), app(4)].concat();
    // However the bytes are cut.
    let (head, tail) = bytes.split_at(app(1).len() + 3);
    assert!(rig.read(id, head).is_empty() && rig.events.is_empty());
    assert_eq!(rig.read(id, tail), [1, 2, 3, 4]);
    let peer = rig.next_event();
    assert!(matches!(peer, Event::Connected { peer, link: Some(LINK), .. } if peer == id));
    assert!(matches!(rig.next_event(), Event::Hello { .. }));
    let row = rig.peers.rows(rig.now).remove(0);
    assert_eq!(row.inbound.messages, 4);
}

/// They are whole messages that no subscriber gets, and no beginning of a frame.
#[test]
fn messages_before_an_ok_that_never_comes_are_discarded_and_counted() {
    let ends: [fn(&mut Rig, PeerId); 2] = [Rig::finish, Rig::reset];
    for end in ends {
        for cut in [0, 5] {
            let mut rig = Rig::new(rules());
            rig.connect(link_to(&[addr(1)]));
            let id = rig.made();
            assert_eq!(rig.written_types(id), [MessageType::HELLO]);
            let bytes = [&app(1)[..], &app(2), &app(3)[..cut]].concat();
            assert!(rig.read(id, &bytes).is_empty());
            end(&mut rig, id);
            rig.written_types(id);
            let row = rig.peers.newest_closed().next().expect("it has ended");
            assert_ne!((row.reason, cut), (CloseReason::EofInFrame, 0));
            let all = Traffic::new(2, bytes.len() as u64);
            assert_eq!(row.discarded_after_close, all);
            let ledger = &rig.slots.ledger;
            assert_eq!(ledger.discarded_after_close.get(), all);
            assert_eq!(ledger.partial_frames.get(), u64::from(cut > 0));
        }
    }
}

/// The bytes before the OK are kept and looked at again with every read; a PING among them is
/// answered once.
#[test]
fn a_ping_before_the_ok_is_answered_once() {
    let mut rig = Rig::new(rules());
    rig.connect(link_to(&[addr(1)]));
    let id = rig.made();
    assert_eq!(rig.written_types(id), [MessageType::HELLO]);
    rig.read(id, &encoded(MessageType::PING, b"1"));
    assert_eq!(rig.written_types(id), [MessageType::PONG]);
    rig.read(id, &app(1));
    rig.read(id, &app(2)[..5]);
    assert_eq!(rig.written_types(id), []);
    let bytes = [&app(2)[5..], &ok(1)].concat();
    assert_eq!(rig.read(id, &bytes), [1, 2]);
    assert_eq!(rig.written_types(id), []);
}

#[test]
fn no_more_than_64_kib_may_come_before_the_ok() {
    let mut rig = Rig::new(rules());
    rig.connect(link_to(&[addr(1)]));
    let id = rig.made();
    let one = encoded(APP, &[9; 1_016]);
    let bytes = one.repeat(BEFORE_OK_BYTES_MAX / one.len());
    assert_eq!(bytes.len(), BEFORE_OK_BYTES_MAX);
    assert!(rig.read(id, &bytes).is_empty());
    assert!(rig.events.is_empty());
    assert!(rig.read(id, &app(1)).is_empty());
    assert_eq!(rig.bye_code(id), CloseReason::BadProtocolMessage);

    let mut rig = Rig::new(rules());
    rig.connect(link_to(&[addr(1)]));
    let id = rig.made();
    rig.read(id, &bytes);
    let taken = rig.read(id, &ok(1));
    assert_eq!(taken.len(), BEFORE_OK_BYTES_MAX / one.len());
}

#[test]
fn a_second_ok_and_a_hello_of_the_dialled_side_break_the_protocol() {
    for wrong in [ok(1), hello(1)] {
        let mut rig = Rig::new(rules());
        let id = rig.link_up(link_to(&[addr(1)]), 1);
        rig.read(id, &wrong);
        assert_eq!(rig.bye_code(id), CloseReason::BadProtocolMessage);
    }
    let mut rig = Rig::new(rules());
    rig.connect(link_to(&[addr(1)]));
    let id = rig.made();
    rig.read(id, &hello(1));
    assert_eq!(rig.bye_code(id), CloseReason::BadProtocolMessage);
}

#[test]
fn without_hello_a_link_is_up_at_once() {
    let mut rig = Rig::new(rules());
    rig.connect(NewLink {
        hello: false,
        ..link_to(&[addr(1)])
    });
    let id = rig.made();
    assert!(matches!(rig.next_event(), Event::Connected { .. }));
    assert_eq!(rig.send(id, b"x"), Ok(()));
    assert_eq!(rig.written_types(id), [APP]);
    rig.read(id, &ok(1));
    assert_eq!(rig.bye_code(id), CloseReason::BadProtocolMessage);
}

// ----- pauses ------------------------------------------------------------------------------------

#[test]
fn pauses_are_drawn_below_a_bound_that_doubles() {
    let mut rig = Rig::new(rules());
    rig.connect(NewLink {
        keep: true,
        ..link_to(&[addr(1)])
    });
    let mut drawn = Vec::new();
    for failure in 1..=200 {
        rig.refuse();
        let (_, attempts, retry_in) = rig.dial_failed();
        assert_eq!(attempts, failure);
        let pause = u64::try_from(retry_in.unwrap().as_millis()).unwrap();
        let bound = (100 << u64::from(failure - 1).min(20)).min(30_000);
        assert!((1..=bound).contains(&pause), "{pause} of {bound} ms");
        drawn.push(pause);
        rig.advance(pause - 1);
        assert_eq!(rig.connects.len(), drawn.len(), "not before its time");
        rig.advance(1);
        assert_eq!(rig.connects.len(), drawn.len() + 1);
    }
    // All of the range is drawn from, and all of it alike.
    let late = &drawn[10..];
    let mean = late.iter().sum::<u64>() / late.len() as u64;
    assert!((12_000..18_000).contains(&mean), "{mean} ms on average");
    assert!(late.iter().any(|pause| *pause < 3_000));
    assert!(late.iter().any(|pause| *pause > 27_000));
    assert_eq!(rig.links(), 1);
}

#[test]
fn a_link_that_was_up_for_long_begins_with_the_first_pause() {
    let mut rig = Rig::new(rules());
    rig.connect(NewLink {
        keep: true,
        ..link_to(&[addr(1)])
    });
    for _ in 0..8 {
        rig.refuse();
        let retry_in = rig.dial_failed().2.unwrap();
        rig.advance(u64::try_from(retry_in.as_millis()).unwrap());
    }
    for (up_ms, attempts_behind) in [(LINK_HEALTHY_MS - 1, 10), (LINK_HEALTHY_MS, 1)] {
        let id = rig.made();
        rig.read(id, &ok(1));
        rig.advance(up_ms);
        rig.reset(id);
        rig.events.clear();
        let made = rig.connects.len();
        while rig.connects.len() == made {
            rig.advance(1);
        }
        rig.refuse();
        assert_eq!(rig.dial_failed().1, attempts_behind);
        while rig.connects.len() == made + 1 {
            rig.advance(1);
        }
    }
}

// ----- giving up ---------------------------------------------------------------------------------

/// A rig whose link is in each of its states, and what is told when it is given up.
fn link_states() -> Vec<(&'static str, Rig)> {
    let kept = || NewLink {
        keep: true,
        ..link_to(&[addr(1), addr(2)])
    };
    let mut states = Vec::new();
    for name in [
        "connecting",
        "greeting",
        "up",
        "closing",
        "waiting",
        "covered",
    ] {
        let mut rig = Rig::new(rules());
        rig.connect(kept());
        match name {
            "connecting" => {}
            "waiting" => {
                rig.refuse();
                rig.refuse();
            }
            _ => {
                let id = rig.made();
                if name != "greeting" {
                    rig.read(id, &ok(1));
                }
                if name == "closing" {
                    rig.read(id, b"\0\0\0\0");
                }
                if name == "covered" {
                    rig.reset(id);
                    let other = rig.accept();
                    rig.read(other, &hello(1));
                    rig.advance(200);
                    rig.written(other);
                }
            }
        }
        rig.events.clear();
        states.push((name, rig));
    }
    states
}

#[test]
fn a_link_can_be_given_up_in_every_state() {
    for (name, mut rig) in link_states() {
        let connects = rig.connects.len();
        rig.peers.handle_disconnect(rig.now, LINK);
        rig.settle();
        assert_eq!(rig.links(), 0, "{name}");
        if name == "up" {
            let id = rig.connects.last().unwrap().0;
            assert_eq!(rig.bye_code(id), CloseReason::AppClosed);
            rig.finish(id);
            assert_eq!(rig.closed_reason(), CloseReason::AppClosed);
        }
        rig.advance(100_000);
        assert_eq!(
            rig.connects.len(),
            connects,
            "{name}: nothing connects any more"
        );
        let failures = rig.events.iter();
        let failed = failures.filter(|event| matches!(event, Event::DialFailed { .. }));
        assert_eq!(
            failed.count(),
            0,
            "{name}: nothing comes of a link that was given up"
        );
        assert_eq!(rig.peers.len_all(), u64::from(name == "covered"), "{name}");
    }
}

#[test]
fn a_stop_ends_links_in_every_state() {
    for (name, mut rig) in link_states() {
        let connects = rig.connects.len();
        rig.peers.begin_stop(rig.now, rig.now + 2_000);
        rig.settle();
        assert_eq!(rig.links(), 0, "{name}");
        let late = NewLink {
            id: LinkId(8),
            ..link_to(&[addr(1)])
        };
        rig.connect(late);
        assert_eq!((rig.links(), rig.connects.len()), (0, connects), "{name}");
        let ids = rig.peers.rows(rig.now);
        for row in ids {
            rig.written(row.peer);
        }
        rig.advance(3_000);
        assert!(rig.peers.is_empty(), "{name}");
        assert_eq!(rig.connects.len(), connects, "{name}");
    }
}

/// The loop fails: it cuts everybody off, and connects to nobody again.
#[test]
fn nobody_is_connected_to_again_by_a_loop_that_ends() {
    for (name, mut rig) in link_states() {
        let connects = rig.connects.len();
        rig.peers.abort_all(rig.now, CloseReason::Internal);
        rig.settle();
        assert!(rig.peers.is_empty(), "{name}");
        assert_eq!((rig.links(), rig.connects.len()), (0, connects), "{name}");
        rig.advance(100_000);
        assert_eq!(rig.connects.len(), connects, "{name}");
    }
}

/// Ids can be made of numbers, so a close may be asked for before anybody was told of the peer.
#[test]
fn a_close_before_the_connection_is_made_ends_the_link() {
    let mut rig = Rig::new(rules());
    rig.connect(NewLink {
        keep: true,
        ..link_to(&[addr(1), addr(2)])
    });
    let id = rig.connects[0].0;
    assert!(rig.slots.ask_close(id));
    rig.fire();
    rig.advance(100_000);
    assert!(rig.peers.is_empty() && rig.events.is_empty());
    assert_eq!((rig.links(), rig.connects.len()), (0, 1));
}

#[test]
fn the_close_of_its_connection_ends_a_link() {
    let mut rig = Rig::new(rules());
    let id = rig.link_up(
        NewLink {
            keep: true,
            ..link_to(&[addr(1)])
        },
        1,
    );
    assert!(rig.slots.ask_close(id));
    assert_eq!(rig.bye_code(id), CloseReason::AppClosed);
    assert_eq!(rig.links(), 0);
    rig.advance(100_000);
    assert_eq!(rig.connects.len(), 1);
}

/// The application asks for the close when the connection is on its way out for another reason.
#[test]
fn a_close_that_comes_late_ends_a_link_all_the_same() {
    let mut rig = Rig::new(rules());
    let link = NewLink {
        keep: true,
        ..link_to(&[addr(1)])
    };
    let id = rig.link_up(link, 1);
    rig.read(id, b"GET / HTTP/1.1\r\n");
    assert_eq!(rig.bye_code(id), CloseReason::FrameTooLong);
    assert!(rig.slots.ask_close(id));
    rig.finish(id);
    rig.advance(100_000);
    assert_eq!((rig.links(), rig.connects.len()), (0, 1));
}

/// The handshake is under way, and is ended in order: who was dialled learns why.
#[test]
fn a_stop_says_bye_to_whoever_is_being_greeted() {
    let mut rig = Rig::new(rules());
    rig.connect(link_to(&[addr(1)]));
    let id = rig.made();
    rig.written(id);
    rig.peers.begin_stop(rig.now, rig.now + 2_000);
    rig.settle();
    assert_eq!(rig.bye_code(id), CloseReason::Shutdown);
    rig.finish(id);
    assert!(rig.peers.is_empty());
    assert_eq!(rig.closes.last(), Some(&(id.index(), false)));
}

/// The other side has a connection of ours that it likes better, and does not say who it is: that
/// is told once, tried rarely, and at once when a connection that may be it has ended.
#[test]
fn a_link_that_is_refused_as_a_double_is_quiet() {
    let mut rig = Rig::new(rules());
    let other = rig.accept();
    rig.read(other, &hello(1));
    rig.written(other);
    rig.events.clear();
    rig.connect(NewLink {
        keep: true,
        ..link_to(&[addr(1)])
    });
    let refused = |rig: &mut Rig| {
        let id = rig.made();
        rig.written(id);
        rig.read(id, &bye(CloseReason::DuplicateNode));
        rig.finish(id);
    };
    refused(&mut rig);
    assert_eq!(rig.dial_failed().1, 1);
    for _ in 0..2_000 {
        let before = rig.connects.len();
        rig.advance(100);
        if rig.connects.len() > before {
            refused(&mut rig);
        }
    }
    assert_eq!(rig.events, []);
    let attempts = rig.connects.len();
    assert!(
        (5..40).contains(&attempts),
        "{attempts} in 200 s, with pauses of up to 30 s"
    );
    let before = rig.connects.len();
    rig.reset(other);
    rig.advance(101);
    assert_eq!(rig.connects.len(), before + 1);
}

/// Nobody here is the connection that the other side would rather keep, so another service has our
/// node id. A peer that has not said who it is, and a link that has not been answered, may be it.
#[test]
fn a_link_that_is_refused_for_a_connection_of_others_says_so() {
    let refused = |rig: &mut Rig| {
        let id = rig.made();
        rig.written(id);
        rig.read(id, &bye(CloseReason::DuplicateNode));
        rig.finish(id);
        rig.dial_failed().0
    };
    let mut rig = Rig::new(rules());
    rig.accept();
    rig.events.clear();
    rig.connect(link_to(&[addr(1)]));
    assert_eq!(refused(&mut rig), DialError::NodeIdTaken);
    rig.connect(NewLink {
        id: LinkId(8),
        ..link_to(&[addr(2)])
    });
    let greeting = rig.made();
    rig.connect(link_to(&[addr(1)]));
    let expected = DialError::Handshake {
        reason: CloseReason::PeerBye,
        bye_received: CloseReason::DuplicateNode.wire_code(),
    };
    assert_eq!(refused(&mut rig), expected);
    // The peer is the other link's by then.
    rig.read(greeting, &ok(2));
    rig.reset(greeting);
    rig.events.clear();
    rig.connect(link_to(&[addr(1)]));
    assert_eq!(refused(&mut rig), DialError::NodeIdTaken);
}

// ----- several connections of one node -----------------------------------------------------------

/// A link of ours is up and the node dials us, or the other way round. Node 5 is us.
#[test]
fn of_two_that_dial_each_other_the_smaller_ones_connection_stays() {
    for (number, ours_stays) in [(3, false), (9, true)] {
        let mut rig = Rig::new(rules());
        let ours = rig.link_up(link_to(&[addr(1)]), number);
        let theirs = rig.accept();
        rig.read(theirs, &hello(number));
        let (stays, goes) = if ours_stays {
            (ours, theirs)
        } else {
            (theirs, ours)
        };
        assert_eq!(rig.bye_code(goes), CloseReason::DuplicateNode, "{number}");
        assert_eq!(rig.peers.introduced(), [(stays, node(number))]);
        assert_eq!(rig.send(stays, b"x"), Ok(()));

        let mut rig = Rig::new(rules());
        let theirs = rig.accept();
        rig.read(theirs, &hello(number));
        rig.written(theirs);
        rig.connect(link_to(&[addr(1)]));
        let ours = rig.made();
        rig.read(ours, &ok(number));
        let (stays, goes) = if ours_stays {
            (ours, theirs)
        } else {
            (theirs, ours)
        };
        assert_eq!(rig.bye_code(goes), CloseReason::DuplicateNode, "{number}");
        assert_eq!(rig.peers.introduced(), [(stays, node(number))]);
    }
}

/// A link of ours is up to node 3, whose own connection stays.
fn giving_way() -> (Rig, PeerId, PeerId) {
    let mut rig = Rig::new(rules());
    let goes = rig.link_up(link_to(&[addr(1)]), 3);
    // The beginning of a frame was there before.
    assert!(rig.read(goes, &app(9)[..5]).is_empty());
    let stays = rig.accept();
    rig.read(stays, &hello(3));
    assert_eq!(rig.peers.introduced(), [(stays, node(3))]);
    (rig, goes, stays)
}

/// The node has written messages before it knew that another connection stays, and counts them as
/// written: they are delivered, until its own BYE or FIN.
#[test]
fn whoever_gives_way_takes_what_was_on_its_way() {
    let ping = encoded(MessageType::PING, b"?");
    for (fin_is_out, says_bye) in [(false, false), (false, true), (true, false), (true, true)] {
        let (mut rig, goes, stays) = giving_way();
        if fin_is_out {
            assert_eq!(rig.bye_code(goes), CloseReason::DuplicateNode);
        }
        assert_eq!(rig.send(goes, b"x"), Err(SendError::Closing));
        let came = [&app(9)[5..], &app(1), &ping, &app(2)].concat();
        assert_eq!(rig.read(goes, &came), [9, 1, 2]);
        if says_bye {
            let last = [app(3), bye(CloseReason::Shutdown), app(4)].concat();
            assert_eq!(rig.read(goes, &last), [3]);
            assert!(rig.read(goes, &app(5)).is_empty());
        }
        // Nothing is written behind the BYE: no PONG either.
        let rest = rig.written_types(goes);
        assert_eq!(rest.is_empty(), fin_is_out, "{rest:?}");
        assert!(rest.iter().all(|kind| *kind == MessageType::BYE));
        rig.finish(goes);
        assert_eq!(rig.closes, [(goes.index(), false)]);
        let row = rig.peers.common.ended.rows().remove(0);
        assert_eq!(row.reason, CloseReason::DuplicateNode);
        assert_eq!(row.inbound.messages, 3 + u64::from(says_bye));
        assert_eq!(rig.peers.introduced(), [(stays, node(3))]);
    }
}

#[test]
fn whoever_gives_way_does_not_wait_for_ever() {
    for bad in [&b""[..], b"\0\0\0\x01", &hello(3), &ok(3)] {
        let (mut rig, goes, _) = giving_way();
        assert_eq!(rig.bye_code(goes), CloseReason::DuplicateNode);
        let came = [&app(9)[5..], bad, &app(8)[..7]].concat();
        assert_eq!(rig.read(goes, &came), [9]);
        if !bad.is_empty() {
            assert!(rig.read(goes, &app(1)).is_empty(), "behind {bad:?}");
        }
        rig.advance(DRAIN_MS - 1);
        assert!(rig.closes.is_empty());
        rig.advance(2);
        assert_eq!(rig.closes, [(goes.index(), false)]);
        let ledger = &rig.slots.ledger;
        assert_eq!(ledger.partial_frames.get(), u64::from(bad.is_empty()));
    }
}

#[test]
fn of_two_that_a_node_dialled_the_older_stays() {
    let mut rig = Rig::new(rules());
    let older = rig.accept();
    rig.read(older, &hello(3));
    let newer = rig.accept();
    assert_eq!(rig.read(newer, &[app(1), hello(3), app(2)].concat()), [1]);
    assert_eq!(rig.bye_code(newer), CloseReason::DuplicateNode);
    assert_eq!(rig.peers.introduced(), [(older, node(3))]);
}

#[test]
fn of_two_with_tokens_the_newer_stays() {
    let mut rig = Rig::new(strict_rules());
    let older = rig.accept();
    rig.read(older, &introduction(MessageType::HELLO, node(3), b"open"));
    let newer = rig.accept();
    rig.read(newer, &introduction(MessageType::HELLO, node(3), b"sesame"));
    assert_eq!(rig.bye_code(older), CloseReason::DuplicateNode);
    assert_eq!(rig.peers.introduced(), [(newer, node(3))]);
}

/// A node that says OK to a second link has judged: it does not know the first connection, or gave
/// it up. If both sides judged, each could keep another one.
#[test]
fn of_two_links_of_ours_the_one_with_the_later_ok_stays() {
    let mut rig = Rig::new(rules());
    let older = rig.link_up(link_to(&[addr(1)]), 3);
    let second = NewLink {
        id: LinkId(8),
        ..link_to(&[addr(2)])
    };
    let newer = rig.link_up(second, 3);
    assert_eq!(rig.bye_code(older), CloseReason::DuplicateNode);
    assert_eq!(rig.peers.introduced(), [(newer, node(3))]);
}

/// Nobody there can tell one anonymous node from another.
#[test]
fn of_two_links_of_an_anonymous_node_the_older_stays() {
    let mut rig = Rig::new(Rules {
        node_id: NodeId::ANONYMOUS,
        ..rules()
    });
    let older = rig.link_up(link_to(&[addr(1)]), 3);
    let second = NewLink {
        id: LinkId(8),
        ..link_to(&[addr(2)])
    };
    rig.connect(second);
    let newer = rig.made();
    assert!(
        rig.read(newer, &[app(1), ok(3), app(2)].concat())
            .is_empty()
    );
    assert_eq!(rig.bye_code(newer), CloseReason::DuplicateNode);
    assert_eq!(rig.peers.introduced(), [(older, node(3))]);
}

/// The node has said BYE, or sent its FIN: what it dials then is its new connection.
#[test]
fn a_connection_that_its_node_has_ended_is_in_nobodys_way() {
    for says_bye in [true, false] {
        let mut rig = Rig::new(rules());
        let older = rig.accept();
        rig.read(older, &hello(3));
        if says_bye {
            rig.read(older, &bye(CloseReason::Shutdown));
        } else {
            rig.finish(older);
        }
        let newer = rig.accept();
        rig.read(newer, &hello(3));
        assert_eq!(rig.peers.introduced(), [(newer, node(3))]);
        assert_eq!(rig.written_types(newer), [MessageType::OK]);
    }
}

/// Messages that came before an OK which is refused are of a peer that nobody was told of.
#[test]
fn what_a_node_reads_no_more_is_not_sent_to() {
    let mut rig = Rig::new(rules());
    let id = rig.accept();
    rig.read(id, &hello(9));
    assert_eq!(rig.send(id, b"waits"), Ok(()));
    rig.read(id, &bye(CloseReason::DuplicateNode));
    assert_eq!(rig.send(id, b"late"), Err(SendError::Closing));
    let types = rig.written_types(id);
    assert_eq!(types, [MessageType::OK, APP], "and no BYE in answer to one");
    rig.events.clear();
    rig.finish(id);
    assert_eq!(rig.closed_reason(), CloseReason::PeerBye);
}

#[test]
fn nothing_is_delivered_of_a_link_that_is_refused_at_its_ok() {
    let mut rig = Rig::new(rules());
    let theirs = rig.accept();
    rig.read(theirs, &hello(3));
    rig.connect(link_to(&[addr(1)]));
    let ours = rig.made();
    rig.events.clear();
    let delivered = rig.read(ours, &[app(1), app(2), ok(3), app(3)].concat());
    assert!(delivered.is_empty() && rig.events.is_empty());
    assert_eq!(rig.slots.ledger.inbound.get().messages, 0);
}

#[test]
fn our_own_node_is_refused_on_both_sides() {
    let mut rig = Rig::new(rules());
    let id = rig.accept();
    rig.read(id, &hello(5));
    assert_eq!(rig.bye_code(id), CloseReason::DuplicateNode);
    rig.connect(link_to(&[addr(1)]));
    let id = rig.made();
    rig.read(id, &ok(5));
    assert_eq!(rig.bye_code(id), CloseReason::DuplicateNode);
    assert!(rig.peers.introduced().is_empty());
}

/// While another connection of the node is up, its link does not dial; when that one ends, it does
/// after the first pause. It knows the node although its own connection was refused.
#[test]
fn a_link_waits_for_the_other_connection_of_its_node() {
    let mut rig = Rig::new(rules());
    let theirs = rig.accept();
    rig.read(theirs, &hello(3));
    rig.connect(NewLink {
        keep: true,
        ..link_to(&[addr(1)])
    });
    let ours = rig.made();
    rig.read(ours, &ok(3));
    assert_eq!(rig.bye_code(ours), CloseReason::DuplicateNode);
    rig.finish(ours);
    rig.advance(600_000);
    assert_eq!(rig.connects.len(), 1, "the node is connected");
    rig.reset(theirs);
    rig.advance(100);
    assert_eq!(rig.connects.len(), 2);
    let ours = rig.made();
    rig.read(ours, &ok(3));
    assert_eq!(rig.peers.introduced(), [(ours, node(3))]);
}

// ----- tokens ------------------------------------------------------------------------------------

#[test]
fn whatever_is_wrong_with_a_token_is_told_late_and_alike() {
    let mut told = Vec::new();
    for token in [&b""[..], b"opem", b"open ", b"sesam", &[b'x'; 255]] {
        let mut rig = Rig::new(strict_rules());
        let id = rig.accept();
        let bytes = introduction(MessageType::HELLO, node(3), token);
        assert!(rig.read(id, &[bytes, app(1)].concat()).is_empty());
        rig.advance(AUTH_DELAY_MS);
        assert_eq!(rig.written(id), []);
        rig.advance(1);
        told.push(rig.written(id));
        assert!(rig.events.is_empty());
    }
    let code = CloseReason::AuthFailed.wire_code().unwrap();
    assert_eq!(told[0].len(), 1);
    assert_eq!(Bye::parse(&told[0][0].1).unwrap().code, code);
    assert!(told.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn an_ok_has_to_show_a_token_where_one_is_asked_for() {
    for (token, welcome) in [(&b"open"[..], true), (b"", false), (b"opens", false)] {
        let mut rig = Rig::new(strict_rules());
        rig.connect(link_to(&[addr(1)]));
        let id = rig.made();
        rig.read(id, &introduction(MessageType::OK, node(3), token));
        assert_eq!(rig.peers.open().contains(&id), welcome);
        if !welcome {
            assert_eq!(rig.bye_code(id), CloseReason::AuthFailed);
        }
    }
}

// ----- heartbeats --------------------------------------------------------------------------------

fn beating_rules() -> Rules {
    Rules {
        heartbeat_ms: 1_000,
        heartbeat_timeout_ms: 3_000,
        ..rules()
    }
}

fn introduced(rig: &mut Rig) -> PeerId {
    let id = rig.accept();
    rig.read(id, &hello(3));
    assert_eq!(rig.written_types(id), [MessageType::OK]);
    rig.events.clear();
    id
}

#[test]
fn silence_is_asked_about_and_then_ends_the_connection() {
    let mut rig = Rig::new(beating_rules());
    let id = introduced(&mut rig);
    rig.advance(1_000);
    assert_eq!(rig.written_types(id), []);
    rig.advance(1);
    assert_eq!(rig.written(id), [(MessageType::PING, Vec::new())]);
    rig.advance(1_001);
    assert_eq!(rig.written_types(id), [MessageType::PING]);
    rig.advance(998);
    assert!(rig.peers.open().contains(&id));
    rig.advance(2);
    assert!(!rig.peers.open().contains(&id));
    assert_eq!(rig.bye_code(id), CloseReason::HeartbeatTimeout);
    rig.advance(500);
    assert_eq!(rig.closed_reason(), CloseReason::HeartbeatTimeout);
}

#[test]
fn every_byte_is_a_sign_of_life() {
    let slow = app(1);
    let signs = [encoded(MessageType::PONG, b""), app(1), slow[..3].to_vec()];
    for sign in signs {
        let mut rig = Rig::new(beating_rules());
        let id = introduced(&mut rig);
        rig.advance(2_900);
        assert_eq!(rig.written_types(id), [MessageType::PING]);
        rig.read(id, &sign);
        rig.advance(1_000);
        assert_eq!(rig.written_types(id), []);
        rig.advance(1_900);
        assert!(rig.peers.open().contains(&id));
        assert_eq!(rig.written_types(id), [MessageType::PING]);
    }
}

/// A long message is on its way over a slow line, and the PING waits for its end: the peer cannot
/// answer, and is alive as long as it takes bytes.
#[test]
fn who_takes_what_lies_before_the_ping_is_alive() {
    let mut rig = Rig::new(beating_rules());
    let id = introduced(&mut rig);
    rig.send(id, &[7; 60_000]).unwrap();
    rig.peers.begin_turn(0);
    for _ in 0..12 {
        rig.peers.handle_ready(id, Ready::WRITE);
        while rig.peers.poll_write().is_some() {}
        let mut slices = [IoSlice::new(&[]); 8];
        let filled = rig.peers.fill_slices(id, &mut slices, 200);
        assert_eq!(filled, 1);
        rig.peers.handle_written(rig.now, id, 200, Ok(100));
        rig.advance(1_100);
        assert!(rig.peers.open().contains(&id));
    }
    rig.advance(3_000);
    assert!(!rig.peers.open().contains(&id));
}

#[test]
fn nobody_is_asked_who_has_not_said_hello() {
    let mut rig = Rig::new(beating_rules());
    let id = rig.accept();
    rig.read(id, &app(1));
    rig.advance(100_000);
    assert_eq!(rig.written_types(id), []);
    assert!(rig.peers.open().contains(&id));
}

#[test]
fn while_nobody_is_read_nobody_dies() {
    let mut rig = Rig::new(beating_rules());
    let id = introduced(&mut rig);
    rig.advance(1_500);
    assert_eq!(rig.written_types(id), [MessageType::PING]);
    rig.peers.set_stalled(rig.now, true);
    rig.advance(60_000);
    assert!(rig.peers.open().contains(&id));
    rig.peers.set_stalled(rig.now, false);
    rig.advance(1_400);
    assert!(rig.peers.open().contains(&id));
    rig.advance(200);
    assert!(!rig.peers.open().contains(&id));
}

/// A loop that was itself stopped asks before it judges, and what came meanwhile counts.
#[test]
fn after_a_pause_of_the_process_peers_are_asked_first() {
    let mut rig = Rig::new(beating_rules());
    let id = introduced(&mut rig);
    rig.now += 60_000;
    rig.fire();
    assert_eq!(rig.written_types(id), [MessageType::PING]);
    rig.advance(1_990);
    assert!(rig.peers.open().contains(&id));
    rig.advance(20);
    assert!(!rig.peers.open().contains(&id));

    let mut rig = Rig::new(beating_rules());
    let id = introduced(&mut rig);
    rig.advance(1_001);
    assert_eq!(rig.written_types(id), [MessageType::PING]);
    // The PONG is there when the process goes on, and is read before the timers.
    rig.now += 60_000;
    rig.read(id, &encoded(MessageType::PONG, b""));
    rig.fire();
    assert!(rig.peers.open().contains(&id));
}
