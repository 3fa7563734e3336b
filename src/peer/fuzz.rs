//! What fuzzers call: one peer's machine, with everything that can happen to it as operations.
//!
//! The machine is driven as `peers` drives it. Besides what each step asserts, bytes are judged
//! once more in one piece, what was written is decoded again, and in the end a close ends.

mod checks;
mod closing;
mod draws;

use std::io::IoSlice;

use super::{Dial, Fault, Parsed, Peer, Rules, State, Told, Verdict};
use crate::{
    clock::Tick,
    error::CloseReason,
    frame::Frame,
    id::{LinkId, MessageType, PeerId},
    ledger::Traffic,
    limits::LINGER_MS,
    policy::Priority,
    script::Script,
    slots::Segment,
};

use draws::{encoded, introduction, message, protocol_message, rules};

/// Operations of one life, whatever the script says.
const OPS_MAX: usize = 1000;

/// Types of application messages that we send, for each priority.
const TYPES: u16 = 4;

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
}
