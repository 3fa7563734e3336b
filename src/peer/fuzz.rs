//! What fuzzers call: one peer's machine, with everything that can happen to it as operations.
//!
//! The machine is driven as `peers` drives it. Besides what each step asserts, bytes are judged
//! once more in one piece, what was written is decoded again, and in the end a close ends.

use std::io::IoSlice;

use super::{Dial, Fault, Parsed, Peer, Rules, State, Told, Verdict};
use crate::{
    clock::Tick,
    error::CloseReason,
    frame::{self, Decoder, Frame, Hello, encode_whole},
    id::{LinkId, MessageType, PeerId},
    ledger::Traffic,
    limits::{BEFORE_OK_BYTES_MAX, LINGER_MS, PING_SIZE_MAX},
    policy::Priority,
    script::Script,
    slots::Segment,
};

/// Operations of one life, whatever the script says.
const OPS_MAX: usize = 1000;
/// Types of application messages that we send, for each priority.
const TYPES: u16 = 4;
const NETWORK: u32 = 7;
const TOKEN: &[u8] = b"token";

/// One life of a connection.
pub(crate) fn peer(data: &[u8]) {
    let mut script = Script::new(data);
    let mut machine = Machine::new(&mut script);
    for _ in 0..OPS_MAX {
        if machine.gone || script.is_empty() {
            break;
        }
        machine.step(&mut script);
        machine.check();
    }
    machine.check_in_one_piece();
    machine.close_and_end();
    machine.check_wire();
}

/// The peer, and what surrounds it.
struct Machine {
    rules: Rules,
    peer: Peer,
    dial: Option<Dial>,
    now: Tick,
    /// How far the time of receiving is behind.
    lag: Tick,
    paused: bool,
    /// The peer may be sent to.
    admitted: bool,
    /// The next introduction is that of a node which is connected already.
    duplicate: bool,
    was_duplicate: bool,
    /// What the other side has sent and we have not read, and whether its FIN is behind that.
    incoming: Vec<u8>,
    fin: bool,
    /// What was parsed, and what came of it.
    received: Vec<u8>,
    parsed: Traffic,
    fault: Option<Fault>,
    released: Traffic,
    /// Application frames accepted, by priority.
    sent: [Vec<Vec<u8>>; Priority::COUNT],
    /// What the other side has got, and what the outbox says of it.
    wire: Vec<u8>,
    written: Traffic,
    /// A BYE of the peer came before ours was due.
    bye_was_first: bool,
    fin_sent: bool,
    gone: bool,
}

impl Machine {
    fn new(script: &mut Script<'_>) -> Self {
        let rules = rules(script);
        let addr = ([10, 0, 0, 1], 1).into();
        let (id, now) = (PeerId::new(0, 0, 1), 1_000);
        let dial = script.flag().then(|| Dial {
            link: LinkId(1),
            timeout_ms: 70,
            hello: script.flag(),
            checksums: false,
        });
        let peer = match dial {
            Some(dial) => Peer::dialling(id, addr, dial, now),
            None => Peer::new(id, addr, now, &rules),
        };
        Self {
            admitted: dial.is_none() && !rules.hello_required,
            rules,
            peer,
            dial,
            now,
            lag: 0,
            paused: false,
            duplicate: false,
            was_duplicate: false,
            incoming: Vec::new(),
            fin: false,
            received: Vec::new(),
            parsed: Traffic::default(),
            fault: None,
            released: Traffic::default(),
            sent: Default::default(),
            wire: Vec::new(),
            written: Traffic::default(),
            bye_was_first: false,
            fin_sent: false,
            gone: false,
        }
    }

    fn receiving(&self) -> Tick {
        self.now - self.lag
    }

    fn step(&mut self, script: &mut Script<'_>) {
        match script.below(18) {
            0 => {
                let size = script.below(64);
                self.arrive(script.take(size));
            }
            1 => self.arrive(&message(script)),
            2 => self.arrive(&introduction(script)),
            3 => self.arrive(&protocol_message(script)),
            4 => self.read(script.below(40) + 1),
            5 | 6 => self.read(usize::MAX),
            7 => self.write(usize::from(script.byte())),
            8 => self.write(usize::MAX),
            9 => self.send(script),
            10 => self.pass(Tick::from(script.byte())),
            11 => self.pass(script.number() >> 20),
            12 => {
                self.paused = !self.paused;
                self.peer.set_reading(self.receiving(), !self.paused);
            }
            13 => self.fin = true,
            14 => self.ask_close(script.pick(CloseReason::ALL)),
            15 => self.stop(Tick::from(script.byte())),
            16 => self.release(u64::from(script.byte())),
            _ => match script.below(4) {
                // Nobody is read meanwhile.
                0 => {
                    let ms = Tick::from(script.byte());
                    self.lag += ms;
                    self.pass(ms);
                }
                1 => self.duplicate = !self.duplicate,
                _ => self.connect(),
            },
        }
    }

    // ----- the other side --------------------------------------------------------------------

    /// Bytes come, unless the FIN came before.
    fn arrive(&mut self, bytes: &[u8]) {
        if !self.fin {
            self.incoming.extend_from_slice(bytes);
        }
    }

    fn connect(&mut self) {
        if !matches!(self.peer.state(), State::Connecting { .. }) {
            return;
        }
        let timeout_ms = self.dial.map_or(0, |dial| dial.timeout_ms);
        self.admitted |=
            self.peer
                .handle_connected(self.now, self.now - self.lag, &self.rules, timeout_ms);
    }

    // ----- reading ---------------------------------------------------------------------------

    fn read(&mut self, size: usize) {
        let reads = self.peer.takes_messages() && !self.paused;
        if !(reads || self.peer.discards()) {
            return;
        }
        let size = size.min(self.incoming.len());
        let piece: Vec<u8> = self.incoming.drain(..size).collect();
        if piece.is_empty() {
            if self.fin && !self.peer.ending.eof {
                self.handle_eof();
            }
            return;
        }
        self.peer.handle_moved(self.now, self.receiving());
        self.peer.handle_heard(self.receiving());
        if self.peer.takes_messages() {
            self.handle_piece(&piece);
        } else {
            let before = self.peer.discarded();
            self.peer.discard(&self.rules, &piece);
            let most = before.bytes + piece.len() as u64;
            assert!(self.peer.discarded().bytes <= most);
        }
    }

    fn handle_eof(&mut self) {
        let (carries, waits) = (!self.peer.carry.is_empty(), self.peer.waits_for_ok());
        let partial = self.peer.handle_eof(self.now, &self.rules);
        assert!(partial == carries || (waits && carries));
        if matches!(self.peer.state(), State::Lingering { .. }) {
            self.gone = true;
        }
        self.check_drained();
        self.end_greeting();
    }

    fn handle_piece(&mut self, piece: &[u8]) {
        self.received.extend_from_slice(piece);
        let mut bytes = std::mem::take(&mut self.peer.carry);
        bytes.extend_from_slice(piece);
        let parsed = self.parse(&bytes);
        self.check_parsed(&bytes, &parsed);
        let rest = &bytes[parsed.consumed..];
        if self.peer.takes_messages() && parsed.fault.is_none() {
            self.peer.carry = rest.to_vec();
        } else {
            self.peer.discard(&self.rules, rest);
        }
        self.parsed.add(parsed.traffic());
        if parsed.frames > 0 {
            let all = Traffic::new(u64::from(parsed.frames), parsed.consumed as u64);
            self.peer.counts.read.add(all);
        }
        if let Some(fault) = parsed.fault {
            self.handle_fault(fault);
        }
        if parsed.said_bye {
            self.handle_bye();
        }
        self.check_drained();
        self.end_greeting();
    }

    fn parse(&mut self, bytes: &[u8]) -> Parsed {
        let mut parsed = Parsed::default();
        loop {
            let receiving = self.receiving();
            self.peer
                .handle_bytes(self.now, receiving, &self.rules, bytes, &mut parsed);
            if !std::mem::take(&mut parsed.introduced) {
                return parsed;
            }
            if std::mem::take(&mut self.duplicate) {
                self.was_duplicate = true;
                parsed.fault = Some(Fault::Message(CloseReason::DuplicateNode, ""));
            } else if self.peer.state().takes_input() {
                self.peer.accept_introduction(self.now, &self.rules);
                self.admitted = true;
            }
        }
    }

    fn handle_fault(&mut self, fault: Fault) {
        self.fault = Some(fault);
        let (now, reason) = (self.now, fault.reason());
        if !self.peer.state().takes_input() {
            self.peer.end_reading_on(&self.rules);
        } else if reason == CloseReason::AuthFailed && self.dial.is_none() {
            self.peer.begin_refusal(now, &self.rules, reason);
        } else {
            self.peer
                .begin_stop(now, &self.rules, reason, LINGER_MS, false);
        }
    }

    fn handle_bye(&mut self) {
        let code = self.peer.ending.bye_received.expect("it was just said");
        let State::HalfClosed { reason, .. } = self.peer.state() else {
            return;
        };
        if CloseReason::from_wire_code(code).is_some_and(CloseReason::reads_on) {
            self.peer.limit_half_closed(self.now, self.rules.drain_ms);
        } else {
            self.bye_was_first = true;
            self.peer.begin_abandon(self.now, &self.rules, reason);
            self.after_output();
        }
    }

    /// A peer that we dialled and that left before its OK has nothing to wait for.
    fn end_greeting(&mut self) {
        if let State::HalfClosed { reason, .. } = self.peer.state() {
            if self.dial.is_some() && !self.admitted {
                self.begin_close(reason, LINGER_MS);
            }
        }
    }

    // ----- writing ---------------------------------------------------------------------------

    fn write(&mut self, size: usize) {
        if matches!(self.peer.state(), State::Connecting { .. }) {
            return;
        }
        self.peer.queue_pong();
        let mut slices = [IoSlice::new(&[]); 4];
        let offered_max = self.peer.offered_max().min(4_000);
        let filled = self.peer.outbox.fill_slices(&mut slices, offered_max);
        let offered: Vec<u8> = slices[..filled]
            .iter()
            .flat_map(|slice| slice.iter().copied())
            .collect();
        assert!(offered.len() <= 4_000);
        assert_eq!(offered.is_empty(), !self.peer.has_output());
        let taken = size.min(offered.len());
        self.wire.extend_from_slice(&offered[..taken]);
        let written = &mut self.written;
        self.peer.outbox.handle_written(taken, |_, traffic| {
            written.add(traffic);
        });
        if taken > 0 {
            self.peer.handle_moved(self.now, self.receiving());
            self.peer
                .handle_written(self.now, taken, Traffic::default());
        }
        if taken < offered.len() {
            self.peer.handle_write_blocked(self.now);
        }
        self.after_output();
    }

    fn after_output(&mut self) {
        if self.peer.is_written_out() {
            self.peer.handle_all_written();
            let before = self.peer.ending.bye_received.is_some();
            if self.peer.finish_drain(self.now, "why") {
                assert!(!self.peer.has_output());
                self.bye_was_first |= before;
                self.fin_sent = true;
                self.gone |= self.peer.begin_linger(self.now);
            }
        }
        self.check_drained();
    }

    fn send(&mut self, script: &mut Script<'_>) {
        if !self.admitted || self.peer.is_closing() {
            return;
        }
        let (priority, inline) = (script.pick(&Priority::ALL), script.flag());
        let priority = if inline { Priority::Normal } else { priority };
        let ordinal = priority.ordinal();
        let first = [0, TYPES, 2 * TYPES][ordinal];
        let number = first + u16::from(script.byte()) % TYPES;
        // The last is more than is offered at a time while several priorities wait.
        let size = match script.byte() {
            255 => 17_000,
            size @ 240.. => 1_000 * usize::from(size - 239),
            size => usize::from(size),
        };
        let payload = vec![script.byte(); size];
        let frame = Frame::new(MessageType(number), &payload).with_checksum(script.flag());
        if inline {
            self.peer
                .outbox
                .push_inline(self.now, Priority::Normal, &frame);
        } else {
            let mut segment = Segment::default();
            assert!(segment.try_append(&frame));
            self.peer.outbox.push(self.now, priority, segment);
        }
        self.sent[ordinal].push(encoded(&frame));
    }

    fn release(&mut self, share: u64) {
        let left = self.peer.in_flight(self.released);
        let part = |left: u64| left * share / 255;
        self.released
            .add(Traffic::new(part(left.messages), part(left.bytes)));
        self.check_drained();
    }

    // ----- time and ends ---------------------------------------------------------------------

    fn pass(&mut self, ms: Tick) {
        self.now += ms;
        self.judge();
    }

    /// A deadline that has passed asks for something, and nothing is asked for before one has.
    fn judge(&mut self) {
        let deadline = self.peer.next_deadline(&self.rules, self.lag);
        let due = deadline.is_some_and(|tick| tick <= self.now);
        let verdict = self.peer.judge(self.now, &self.rules, self.lag);
        let looks = matches!(verdict, Some(Verdict::CheckDrained));
        assert!(
            looks || due == verdict.is_some(),
            "{verdict:?}, {deadline:?}"
        );
        match verdict {
            None => {}
            Some(Verdict::Ping) => self.peer.ping(self.receiving()),
            Some(Verdict::Close(reason)) => {
                self.check_deadline(reason);
                self.begin_close(reason, LINGER_MS);
            }
            Some(Verdict::Abandon(reason)) => {
                self.bye_was_first = true;
                self.peer.begin_abandon(self.now, &self.rules, reason);
                self.after_output();
            }
            Some(Verdict::Abort(_) | Verdict::GiveUp | Verdict::Done) => self.gone = true,
            Some(Verdict::CheckDrained) => self.check_drained(),
            Some(Verdict::Look) => {
                // It acknowledges some of it, or nothing is told.
                let told = (self.now % 5 > 0).then_some(Told {
                    unacknowledged: self.now % 97,
                    unsent: self.now % 3 == 0,
                });
                self.gone |= self.peer.handle_told(self.now, told, &self.rules);
            }
        }
    }

    /// No deadline is early.
    fn check_deadline(&self, reason: CloseReason) {
        let (age, idle) = (self.now - self.peer.opened, self.now - self.peer.moved);
        let limits = [
            (CloseReason::IdleTimeout, idle, self.rules.idle_ms),
            (CloseReason::FrameTimeout, age, self.rules.frame_ms),
            (
                CloseReason::HeartbeatTimeout,
                age,
                self.rules.heartbeat_timeout_ms,
            ),
        ];
        for (timeout, passed, limit) in limits {
            assert!(reason != timeout || passed > limit);
        }
    }

    fn check_drained(&mut self) {
        if self.gone {
            return;
        }
        let queued = self.peer.outbox.count_unwritten();
        let reason = self.peer.judge_drained(self.now, self.released, queued);
        if let Some(reason) = reason {
            let stops = matches!(self.peer.state(), State::Stopping { .. });
            assert!(!self.peer.has_output() || stops);
            let drain_ms = self.rules.drain_ms;
            self.begin_close(reason, drain_ms);
        }
    }

    fn ask_close(&mut self, reason: CloseReason) {
        if matches!(self.peer.state(), State::Connecting { .. }) {
            self.gone = true;
        } else {
            self.begin_close(reason, 300);
        }
    }

    fn begin_close(&mut self, reason: CloseReason, drain_ms: u64) {
        if self.peer.is_closing() {
            return;
        }
        self.bye_was_first |= self.peer.ending.bye_received.is_some();
        self.peer
            .begin_drain(self.now, &self.rules, reason, drain_ms);
        self.after_output();
    }

    fn stop(&mut self, ms: Tick) {
        self.rules.drain_ms = ms;
        match self.peer.state() {
            State::Open | State::HalfClosed { .. } => {
                let reason = CloseReason::Shutdown;
                self.peer
                    .begin_stop(self.now, &self.rules, reason, ms, true);
                self.check_drained();
            }
            State::Refused { reason, .. } => self.begin_close(reason, LINGER_MS),
            State::Connecting { .. }
            | State::Greeting { .. }
            | State::Stopping { .. }
            | State::Draining { .. }
            | State::Lingering { .. } => {}
        }
    }

    /// Whatever happened, a close ends once everything is taken or time is over.
    fn close_and_end(&mut self) {
        if !self.gone {
            self.ask_close(CloseReason::AppClosed);
        }
        for _ in 0..10 {
            while !self.gone && self.peer.has_output() {
                self.write(usize::MAX);
            }
            if self.gone {
                return;
            }
            assert!(self.fin_sent, "what is written is followed by a FIN");
            let deadline = self.peer.next_deadline(&self.rules, self.lag);
            let deadline = deadline.expect("a closing connection has a deadline");
            self.now = self.now.max(deadline);
            self.judge();
        }
        panic!("{:?} does not end", self.peer.state());
    }
}

// ----- what is asserted ----------------------------------------------------------------------

impl Machine {
    fn check(&self) {
        let peer = &self.peer;
        assert!(peer.carry.is_empty() || peer.takes_messages());
        assert_eq!(peer.counts.inbound, self.parsed);
        assert!(self.released.bytes <= peer.counts.read.bytes);
        assert!(peer.counts.read.messages == self.parsed.messages);
        if self.fin_sent {
            assert!(matches!(peer.state(), State::Lingering { .. }) && !peer.has_output());
        }
        assert!(self.admitted || self.sent.iter().all(Vec::is_empty));
        let _ = peer.next_deadline(&self.rules, self.lag);
    }

    /// What was parsed is whole frames, counted once, up to the first that is wrong.
    fn check_parsed(&self, bytes: &[u8], parsed: &Parsed) {
        let consumed = &bytes[..parsed.consumed];
        let decoder = self.rules.decoder;
        let mut frames = decoder.frames(consumed);
        let all: Vec<Frame<'_>> = frames.by_ref().map_while(Result::ok).collect();
        assert_eq!(frames.consumed(), consumed.len());
        let (control, messages): (Vec<&Frame<'_>>, Vec<&Frame<'_>>) = all
            .iter()
            .partition(|frame| frame.message_type.is_protocol());
        let sizes = messages.iter().map(|frame| frame.encoded_size() as u64);
        let traffic = Traffic::new(messages.len() as u64, sizes.sum());
        assert_eq!(parsed.traffic(), traffic);
        assert_eq!(!control.is_empty(), parsed.has_protocol);
        let correlated = messages.iter().any(|frame| frame.correlation.is_some());
        assert_eq!(correlated, parsed.has_correlation);
        let first = messages.first().map(|frame| frame.message_type);
        let same = messages
            .iter()
            .all(|frame| Some(frame.message_type) == first);
        assert_eq!(parsed.message_type, first.filter(|_| same));
        if self.peer.state().takes_input() && parsed.fault.is_none() {
            let unfinished = parsed.consumed < bytes.len();
            assert_eq!(self.peer.times.frame_since.is_some(), unfinished);
        }
    }

    /// The same bytes in one piece, to another peer, come to the same.
    fn check_in_one_piece(&self) {
        let greets = self.dial.is_some_and(|dial| dial.hello);
        let limited = greets && self.received.len() > BEFORE_OK_BYTES_MAX;
        if self.was_duplicate || limited || self.received.is_empty() {
            return;
        }
        let (id, addr) = (self.peer.id, self.peer.addr);
        let mut other = match self.dial {
            Some(dial) => {
                let mut other = Peer::dialling(id, addr, dial, 0);
                other.handle_connected(0, 0, &self.rules, dial.timeout_ms);
                other
            }
            None => Peer::new(id, addr, 0, &self.rules),
        };
        let mut parsed = Parsed::default();
        loop {
            other.handle_bytes(0, 0, &self.rules, &self.received, &mut parsed);
            if !std::mem::take(&mut parsed.introduced) {
                break;
            }
            other.accept_introduction(0, &self.rules);
        }
        let traffic = parsed.traffic();
        assert_eq!((traffic, parsed.fault), (self.parsed, self.fault));
        assert_eq!(other.ending.bye_received, self.peer.ending.bye_received);
        assert_eq!(other.greeting.identity, self.peer.greeting.identity);
        assert_eq!(other.greeting.hello, self.peer.greeting.hello);
    }

    /// What the other side got: whole frames in the order of sending, each kind where it may be.
    fn check_wire(&self) {
        let mut frames = Decoder::new(1 << 20).frames(&self.wire);
        let all: Vec<Frame<'_>> = frames
            .by_ref()
            .map(|frame| frame.expect("we send frames"))
            .collect();
        let of = |message_type| {
            let same = move |frame: &&Frame<'_>| frame.message_type == message_type;
            all.iter().filter(same).collect::<Vec<_>>()
        };
        assert!(of(MessageType::HELLO).len() <= usize::from(self.dial.is_some()));
        assert!(of(MessageType::OK).len() <= usize::from(self.dial.is_none()));
        let pongs = of(MessageType::PONG);
        let pings = self
            .rules
            .decoder
            .frames(&self.received)
            .map_while(Result::ok);
        let pings = pings.filter(|frame| frame.message_type == MessageType::PING);
        assert!(pongs.len() <= pings.count());
        assert!(pongs.iter().all(|pong| pong.payload.len() <= PING_SIZE_MAX));
        let byes = of(MessageType::BYE);
        assert!(byes.len() <= usize::from(!self.bye_was_first));
        if !byes.is_empty() {
            assert_eq!(
                all.last().map(|last| last.message_type),
                Some(MessageType::BYE)
            );
            assert!(frame::Bye::parse(byes[0].payload).is_ok());
        }
        if self.fin_sent {
            assert_eq!(frames.consumed(), self.wire.len(), "a FIN inside a frame");
        }
        for (ordinal, sent) in self.sent.iter().enumerate() {
            let got = all.iter().filter(|frame| {
                let number = frame.message_type.0;
                usize::from(number / TYPES) == ordinal && !frame.message_type.is_protocol()
            });
            let got: Vec<Vec<u8>> = got.map(encoded).collect();
            assert!(sent.starts_with(&got), "out of order");
            assert!(
                !self.fin_sent || self.peer.ending.abandoned || sent.len() == got.len(),
                "lost before a FIN"
            );
        }
        let whole = all.iter().filter(|frame| !frame.message_type.is_protocol());
        assert_eq!(self.written.messages, whole.count() as u64);
        let mut sum = self.peer.outbox.count_unwritten();
        sum.add(self.written);
        let sent = self.sent.iter().flatten();
        let expected = sent.fold(Traffic::default(), |mut sum, frame| {
            sum.add(Traffic::new(1, frame.len() as u64));
            sum
        });
        assert_eq!(sum, expected);
    }
}

// ----- what the script draws -----------------------------------------------------------------

fn rules(script: &mut Script<'_>) -> Rules {
    let (heartbeat_ms, heartbeat_timeout_ms) = script.pick(&[(0, 0), (30, 0), (30, 90)]);
    let tokens = if script.below(4) == 0 {
        vec![b"other".to_vec(), TOKEN.to_vec()]
    } else {
        Vec::new()
    };
    Rules {
        first_frame_ms: script.pick(&[0, 100]),
        frame_ms: script.pick(&[0, 50]),
        idle_ms: script.pick(&[0, 80]),
        write_stall_ms: script.pick(&[0, 200]),
        heartbeat_ms,
        heartbeat_timeout_ms,
        hello_required: script.flag() || !tokens.is_empty(),
        network_id: NETWORK,
        tokens,
        ..Rules::lenient(Decoder::new(script.pick(&[40, 5_000])))
    }
}

fn encoded(frame: &Frame<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_whole(frame, &mut bytes);
    bytes
}

fn message(script: &mut Script<'_>) -> Vec<u8> {
    let payload = vec![script.byte(); script.below(60)];
    let frame = Frame::new(MessageType(script.pick(&[1, 1, 2])), &payload);
    let frame = frame.with_checksum(script.flag());
    if script.flag() {
        encoded(&frame.with_correlation(script.number()))
    } else {
        encoded(&frame)
    }
}

fn introduction(script: &mut Script<'_>) -> Vec<u8> {
    let hello = Hello {
        protocol_version: script.pick(&[1, 1, 1, 2]),
        network_id: script.pick(&[NETWORK, NETWORK, NETWORK, 8]),
        node_id: [script.byte(); 16],
        agent: script.pick(&["", "fuzz/1"]),
        token: script.pick(&[TOKEN, TOKEN, b"wrong"]),
        ..Hello::default()
    };
    let message_type = script.pick(&[MessageType::HELLO, MessageType::OK]);
    encoded(&Frame::new(message_type, &hello.to_payload()))
}

fn protocol_message(script: &mut Script<'_>) -> Vec<u8> {
    let size = script.below(70);
    let payload = script.take(size);
    match script.below(5) {
        0 | 1 => encoded(&Frame::new(MessageType::PING, payload)),
        2 => encoded(&Frame::new(MessageType::PONG, payload)),
        3 => {
            let (code, text) = (u16::from(script.byte()), "");
            let payload = frame::Bye { code, text }.to_payload();
            encoded(&Frame::new(MessageType::BYE, &payload))
        }
        _ => encoded(&Frame::new(
            MessageType(0xFF00 | u16::from(script.byte())),
            payload,
        )),
    }
}
