//! One peer, without I/O: bytes in, bytes out, time as an argument.
//!
//! A [`Peer`] takes received bytes ([`handle_bytes`](Peer::handle_bytes)), tells which of them are
//! whole frames, answers the protocol's own messages, and judges its deadlines
//! ([`next_deadline`](Peer::next_deadline), [`judge`](Peer::judge)). What it wants to write is in
//! its [`Outbox`]. It knows no other peer, no socket and no subscriber.
//!
//! Deadlines about receiving stand still while we do not read: that of this peer alone, by
//! [`set_reading`](Peer::set_reading), that of everybody by a time of receiving that lags behind.
//! The methods that take bytes get the time of receiving; all others get the time.

mod counts;
mod discard;
mod dormant;
mod ending;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod greeting;
mod input_times;
mod rules;
mod sent;
mod stall;
mod state;
#[cfg(test)]
mod tests;
mod writes;

use std::{fmt, net::SocketAddr, sync::Arc};

use counts::Counts;
pub(crate) use dormant::{Dormant, Tally, Untouched};
use ending::Ending;
use greeting::Greeting;
pub(crate) use greeting::HelloState;
use input_times::InputTimes;
use sent::Sent;
pub(crate) use stall::Told;
pub(crate) use state::{Bye, State};

use subtle::{Choice, ConstantTimeEq};

use crate::{
    clock::Tick,
    error::{CloseReason, FrameError},
    frame::{self, Decoder, Frame, Hello, Scan, ScanEnd},
    id::{LinkId, MessageType, NodeId, PeerId, PeerIdentity},
    ledger::Traffic,
    limits::{
        AUTH_DELAY_MS, BEFORE_OK_BYTES_MAX, CONFIRM_LOOK_MS, HALF_CLOSE_GRACE_MS,
        LENGTH_BEFORE_HELLO_MAX, LINGER_MS, PING_SIZE_MAX, TOKEN_SIZE_MAX,
    },
    outbox::Outbox,
};

/// What every peer of a service is held to: its settings, as a loop needs them. Times are in
/// milliseconds; zero is off.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) decoder: Decoder,
    pub(crate) first_frame_ms: u64,
    pub(crate) frame_ms: u64,
    pub(crate) idle_ms: u64,
    pub(crate) write_stall_ms: u64,
    pub(crate) drain_ms: u64,
    /// For a connection that we make, and then for its OK.
    pub(crate) connect_ms: u64,
    /// Silence after which a PING is sent, and after which the peer is dead.
    pub(crate) heartbeat_ms: u64,
    pub(crate) heartbeat_timeout_ms: u64,
    pub(crate) hello_required: bool,
    /// Our own frames of the protocol carry a checksum.
    pub(crate) checksums: bool,
    pub(crate) network_id: u32,
    pub(crate) node_id: NodeId,
    /// What a peer has to show one of; none is needed if there is none.
    pub(crate) tokens: Vec<Vec<u8>>,
    /// The payloads of our HELLO and of our OK.
    pub(crate) hello_payload: Vec<u8>,
    pub(crate) ok_payload: Vec<u8>,
    /// Pauses of links: the first, and the longest. The seed is what they are drawn from.
    pub(crate) reconnect_min_ms: u64,
    pub(crate) reconnect_max_ms: u64,
    pub(crate) seed: u64,
}

impl Rules {
    /// No deadlines and nothing required.
    #[cfg(any(test, fuzzing, feature = "workbench"))]
    pub(crate) fn lenient(decoder: Decoder) -> Self {
        Self {
            decoder,
            first_frame_ms: 0,
            frame_ms: 0,
            idle_ms: 0,
            write_stall_ms: 0,
            drain_ms: 1_000,
            connect_ms: 5_000,
            heartbeat_ms: 0,
            heartbeat_timeout_ms: 0,
            hello_required: false,
            checksums: false,
            network_id: 0,
            node_id: NodeId::ANONYMOUS,
            tokens: Vec::new(),
            hello_payload: Hello::default().to_payload(),
            ok_payload: Hello::default().to_payload(),
            reconnect_min_ms: 100,
            reconnect_max_ms: 30_000,
            seed: 1,
        }
    }

    /// Whether a token is one of ours. Takes as long for a wrong one as for a right one, whatever
    /// their lengths.
    fn accepts_token(&self, token: &[u8]) -> bool {
        let shown = padded(token);
        let accepted = self.tokens.iter().map(|one| padded(one).ct_eq(&shown));
        accepted.fold(Choice::from(0), |all, one| all | one).into()
    }
}

/// A token and its length, in a form that has the same size for all.
fn padded(token: &[u8]) -> [u8; TOKEN_SIZE_MAX + 1] {
    let mut out = [0; TOKEN_SIZE_MAX + 1];
    let size = token.len().min(TOKEN_SIZE_MAX);
    out[..size].copy_from_slice(&token[..size]);
    out[TOKEN_SIZE_MAX] = u8::try_from(size).unwrap_or(u8::MAX);
    out
}

/// One connection.
///
/// It has more methods than others because it is the only writer of its [`State`], by which most of
/// them branch; what does not depend on the state is with the parts that it is made of.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) id: PeerId,
    pub(crate) addr: SocketAddr,
    /// The link that made the connection, if it was we who connected.
    pub(crate) link: Option<LinkId>,
    state: State,
    pub(crate) opened: Tick,
    /// When the last byte moved, in either direction.
    pub(crate) moved: Tick,
    times: InputTimes,
    /// What became of what was written, since the connection was dormant.
    sent: Option<Box<Sent>>,
    pub(crate) greeting: Greeting,
    pub(crate) ending: Ending,
    /// The beginning of an unfinished frame.
    pub(crate) carry: Vec<u8>,
    pub(crate) outbox: Outbox,
    /// The PONG that waits; a newer PING replaces it.
    pong: Option<Box<[u8]>>,
    pub(crate) counts: Counts,
}

/// What [`Peer::handle_bytes`] made of the bytes.
#[derive(Debug, Default)]
pub(crate) struct Parsed {
    /// Bytes of whole frames; the rest is to be offered again together with what follows it.
    pub(crate) consumed: usize,
    /// Application frames among them, and their bytes.
    pub(crate) frames: u32,
    pub(crate) bytes: usize,
    /// The type of all application frames, if they share one.
    pub(crate) message_type: Option<MessageType>,
    mixed: bool,
    /// Their size, if they are alike; see [`Scan::frame_size`].
    pub(crate) frame_size: Option<usize>,
    /// Whether any of them has a correlation number.
    pub(crate) has_correlation: bool,
    /// Whether frames of the protocol lie between them.
    pub(crate) has_protocol: bool,
    /// What was wrong with the frame behind them.
    pub(crate) fault: Option<Fault>,
    /// The peer said who it is.
    pub(crate) introduced: bool,
    /// The peer said BYE.
    pub(crate) said_bye: bool,
}

impl Parsed {
    /// The application's.
    pub(crate) fn traffic(&self) -> Traffic {
        Traffic::new(u64::from(self.frames), self.bytes as u64)
    }

    fn add_run(&mut self, run: &Scan) {
        if run.frames == 0 {
            return;
        }
        self.bytes += run.bytes;
        let is_first = self.frames == 0;
        let same = is_first || self.message_type == run.message_type;
        self.mixed |= !same || run.message_type.is_none();
        self.message_type = run.message_type.filter(|_| !self.mixed);
        let alike = !self.mixed && (is_first || self.frame_size == run.frame_size);
        self.frame_size = run.frame_size.filter(|_| alike);
        self.frames += run.frames;
    }
}

/// How a connection is to be made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dial {
    pub(crate) link: LinkId,
    pub(crate) timeout_ms: u64,
    pub(crate) hello: bool,
    pub(crate) checksums: bool,
}

/// How a peer broke the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Frame(FrameError),
    /// A protocol message that may not come, or not like this.
    Message(CloseReason, &'static str),
}

impl Fault {
    pub(crate) fn reason(self) -> CloseReason {
        match self {
            Self::Frame(error) => error.into(),
            Self::Message(reason, _) => reason,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frame(error) => error.fmt(f),
            Self::Message(_, text) => f.write_str(text),
        }
    }
}

/// What a deadline that passed asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// To close in order.
    Close(CloseReason),
    /// To cut off.
    Abort(CloseReason),
    /// To close in order without what is queued: the peer reads no more, or not in time.
    Abandon(CloseReason),
    /// A connection that we make was not made in time.
    GiveUp,
    /// To ask what its system has acknowledged.
    Look,
    /// To ask for a sign of life.
    Ping,
    /// A closing connection has lingered long enough.
    Done,
    /// To look whether it is drained.
    CheckDrained,
}

impl Peer {
    /// A connection that was accepted.
    pub(crate) fn new(id: PeerId, addr: SocketAddr, now: Tick, rules: &Rules) -> Self {
        let hello = if rules.hello_required {
            HelloState::Required
        } else {
            HelloState::Optional
        };
        let mut peer = Self::with_hello(id, addr, now, hello);
        peer.greeting.checksums = rules.checksums;
        peer
    }

    fn with_hello(id: PeerId, addr: SocketAddr, now: Tick, hello: HelloState) -> Self {
        Self {
            id,
            addr,
            link: None,
            state: State::Open,
            opened: now,
            moved: now,
            times: InputTimes::new(now),
            sent: None,
            greeting: Greeting::new(hello),
            ending: Ending::default(),
            carry: Vec::new(),
            outbox: Outbox::default(),
            pong: None,
            counts: Counts::default(),
        }
    }

    /// A connection that we make.
    pub(crate) fn dialling(id: PeerId, addr: SocketAddr, dial: Dial, now: Tick) -> Self {
        let hello = if dial.hello {
            HelloState::Awaited
        } else {
            HelloState::Never
        };
        let mut peer = Self::with_hello(id, addr, now, hello);
        peer.link = Some(dial.link);
        peer.state = State::Connecting {
            deadline: now.saturating_add(dial.timeout_ms),
        };
        peer.times.first_frame_since = None;
        peer.greeting.checksums = dial.checksums;
        peer
    }

    /// The connection is made. True if the peer may be sent to at once, because it is not to be
    /// greeted.
    pub(crate) fn handle_connected(
        &mut self,
        now: Tick,
        receiving: Tick,
        rules: &Rules,
        timeout_ms: u64,
    ) -> bool {
        self.opened = now;
        self.greeting.checksums |= rules.checksums;
        self.handle_moved(now, receiving);
        self.handle_heard(receiving);
        if self.greeting.hello == HelloState::Never {
            self.set_state(now, State::Open);
            return true;
        }
        self.insert_control(&Frame::new(MessageType::HELLO, &rules.hello_payload));
        let deadline = now.saturating_add(timeout_ms);
        self.set_state(now, State::Greeting { deadline });
        false
    }

    /// The peer that introduced itself is welcome: HELLO is answered, OK opens the connection. Not
    /// to be called while the connection is being closed.
    pub(crate) fn accept_introduction(&mut self, now: Tick, rules: &Rules) {
        match self.state {
            State::Greeting { .. } => self.set_state(now, State::Open),
            State::Connecting { .. }
            | State::Open
            | State::Refused { .. }
            | State::HalfClosed { .. }
            | State::Stopping { .. }
            | State::Draining { .. }
            | State::Lingering { .. } => {
                self.insert_control(&Frame::new(MessageType::OK, &rules.ok_payload));
            }
        }
    }

    /// Parses `bytes`: the carried beginning of a frame and what was read behind it. `receiving` is
    /// the time of receiving.
    ///
    /// Frames in front of a bad one count; at a bad one, or after a BYE, parsing ends and the state
    /// says so. It also ends when the peer has introduced itself: whoever knows the other peers
    /// judges that, sets `introduced` back, and calls again with the same `parsed`. To be called
    /// while the state takes input.
    pub(crate) fn handle_bytes(
        &mut self,
        now: Tick,
        receiving: Tick,
        rules: &Rules,
        bytes: &[u8],
        parsed: &mut Parsed,
    ) {
        debug_assert!(self.takes_messages(), "bytes in state {:?}", self.state);
        if let Some(before) = self.greeting.before_ok.take() {
            *parsed = *before;
        }
        while self.takes_messages() && parsed.fault.is_none() {
            let rest = &bytes[parsed.consumed..];
            let end = if self.greeting.hello == HelloState::Required {
                first_frame(rules, rest)
            } else {
                let scan = rules.decoder.scan(rest);
                parsed.consumed += scan.bytes;
                parsed.add_run(&scan);
                parsed.has_correlation |= scan.has_correlation;
                scan.end
            };
            match end {
                ScanEnd::Incomplete => break,
                ScanEnd::Error(error) => parsed.fault = Some(Fault::Frame(error)),
                ScanEnd::Protocol => self.handle_protocol(now, rules, bytes, parsed),
            }
            if parsed.introduced {
                return;
            }
        }
        if self.greeting.hello == HelloState::Awaited {
            self.wait_for_ok(bytes, parsed);
        }
        self.finish_bytes(receiving, bytes, parsed);
    }

    /// Messages that came before the OK are nobody's yet: they wait in front of it.
    fn wait_for_ok(&mut self, bytes: &[u8], parsed: &mut Parsed) {
        let before = std::mem::take(parsed);
        parsed.fault = before.fault;
        if !self.state.takes_input() || before.fault.is_some() {
            return;
        }
        if bytes.len() > BEFORE_OK_BYTES_MAX {
            let text = "64 KiB came before the OK to our HELLO";
            let fault = Fault::Message(CloseReason::BadProtocolMessage, text);
            parsed.fault = Some(fault);
        } else if before.consumed > 0 {
            self.greeting.before_ok = Some(Box::new(before));
        }
    }

    fn finish_bytes(&mut self, receiving: Tick, bytes: &[u8], parsed: &Parsed) {
        if parsed.frames > 0 || parsed.has_protocol {
            self.times.first_frame_since = None;
        }
        let unfinished = self.state.takes_input() && parsed.consumed < bytes.len();
        if !unfinished {
            self.times.frame_since = None;
        } else if parsed.consumed > 0 || self.times.frame_since.is_none() {
            self.times.frame_since = Some(receiving);
        }
        self.counts.inbound.add(parsed.traffic());
    }

    /// Takes the protocol message that comes next in `bytes`.
    fn handle_protocol(&mut self, now: Tick, rules: &Rules, bytes: &[u8], parsed: &mut Parsed) {
        let decoded = rules.decoder.decode(&bytes[parsed.consumed..]);
        let Ok(Some((frame, size))) = decoded else {
            debug_assert!(false, "the scan has found a whole frame, not {decoded:?}");
            return;
        };
        if let Err(fault) = self.handle_message(now, rules, &frame, parsed) {
            parsed.fault = Some(fault);
            return;
        }
        parsed.consumed += size;
        parsed.has_protocol = true;
    }

    fn handle_message(
        &mut self,
        now: Tick,
        rules: &Rules,
        frame: &Frame<'_>,
        parsed: &mut Parsed,
    ) -> Result<(), Fault> {
        let wrong = |text| Err(Fault::Message(CloseReason::BadProtocolMessage, text));
        if self.greeting.hello == HelloState::Required && frame.message_type != MessageType::HELLO {
            let text = "the first frame is not HELLO, which is required";
            return Err(Fault::Message(CloseReason::HelloRequired, text));
        }
        match (frame.message_type, self.greeting.hello) {
            (MessageType::HELLO, HelloState::Optional | HelloState::Required) => {
                self.handle_introduction(rules, frame.payload)?;
                parsed.introduced = true;
            }
            (MessageType::HELLO, _) if self.link.is_none() => return wrong("second HELLO"),
            (MessageType::HELLO, _) => return wrong("HELLO from a peer that we connected to"),
            (MessageType::OK, HelloState::Awaited) => {
                self.handle_introduction(rules, frame.payload)?;
                parsed.introduced = true;
            }
            (MessageType::OK, _) => return wrong("OK without our HELLO"),
            (MessageType::BYE, _) => match frame::Bye::parse(frame.payload) {
                Ok(bye) => {
                    self.ending.bye_received = Some(bye.code);
                    parsed.said_bye = true;
                    if !std::mem::take(&mut self.ending.reads_on) {
                        self.handle_end(now, CloseReason::PeerBye);
                    }
                }
                Err(_) => return wrong("malformed BYE"),
            },
            (MessageType::PING, _) if frame.payload.len() > PING_SIZE_MAX => {
                return wrong("PING is longer than 64 bytes");
            }
            (MessageType::PING, _) if self.is_closing() => {}
            (MessageType::PING, _) => self.pong = Some(frame.payload.into()),
            (MessageType::PONG, _) => {}
            _ => return wrong("unknown protocol message"),
        }
        Ok(())
    }

    /// A HELLO, or the OK to ours: the two have one form.
    fn handle_introduction(&mut self, rules: &Rules, payload: &[u8]) -> Result<(), Fault> {
        let fault = |reason, text| Err(Fault::Message(reason, text));
        let Ok(hello) = Hello::parse(payload) else {
            return fault(CloseReason::BadProtocolMessage, "malformed HELLO or OK");
        };
        if !hello.is_current_version() {
            let text = "HELLO or OK speaks of another protocol version";
            return fault(CloseReason::HelloMismatch, text);
        }
        if hello.network_id != rules.network_id {
            let text = "HELLO or OK names another network";
            return fault(CloseReason::HelloMismatch, text);
        }
        let authenticated = rules.accepts_token(hello.token);
        if !rules.tokens.is_empty() && !authenticated {
            return fault(CloseReason::AuthFailed, "HELLO or OK shows a wrong token");
        }
        self.greeting.hello = HelloState::Said;
        self.greeting.identity = Some(Arc::new(PeerIdentity {
            node_id: NodeId(hello.node_id),
            agent: hello.agent.to_owned(),
            payload_size_max: hello.payload_size_max,
            authenticated,
        }));
        Ok(())
    }

    /// Who the peer says it is.
    pub(crate) fn node_id(&self) -> NodeId {
        self.greeting
            .identity
            .as_ref()
            .map_or(NodeId::ANONYMOUS, |identity| identity.node_id)
    }

    /// Whether it showed a token that we accept.
    pub(crate) fn is_authenticated(&self) -> bool {
        let identity = self.greeting.identity.as_ref();
        identity.is_some_and(|identity| identity.authenticated)
    }

    /// Bytes came, which prove life.
    pub(crate) fn handle_heard(&mut self, receiving: Tick) {
        self.times.heard_since = receiving;
        self.times.pinged = None;
    }

    /// Asks the peer for a sign of life.
    pub(crate) fn ping(&mut self, receiving: Tick) {
        let first = self.times.pinged.map_or(receiving, |(first, _)| first);
        self.times.ping_waits |= self.times.pinged.is_none();
        self.times.pinged = Some((first, receiving));
        // What waits there is as good as a second PING: the peer takes neither.
        if !self.outbox.has_control() {
            self.insert_control(&Frame::new(MessageType::PING, &[]));
        }
    }

    /// The peer took bytes. If its PING waits behind them, it cannot have answered, but is alive.
    pub(crate) fn handle_taken(&mut self, receiving: Tick) {
        if !self.times.ping_waits {
            return;
        }
        self.times.ping_waits = self.outbox.has_control_behind();
        if self.times.ping_waits {
            self.handle_heard(receiving);
        }
    }

    /// Bytes moved, in either direction.
    pub(crate) fn handle_moved(&mut self, now: Tick, receiving: Tick) {
        self.moved = now;
        self.times.idle_since = receiving;
    }

    /// The peer's FIN. A frame that it cut off is never delivered; true says that there was one.
    pub(crate) fn handle_eof(&mut self, now: Tick, rules: &Rules) -> bool {
        self.ending.eof = true;
        let partial = self.has_partial_frame();
        if self.waits_for_ok() {
            self.discard_carry(rules);
        }
        self.carry = Vec::new();
        if self.state.takes_input() {
            let reason = if partial {
                CloseReason::EofInFrame
            } else {
                CloseReason::PeerClosed
            };
            self.handle_end(now, reason);
            return partial;
        }
        std::mem::take(&mut self.ending.reads_on) && partial
    }

    /// Whether messages wait for the OK, which no subscriber gets without it.
    pub(crate) fn waits_for_ok(&self) -> bool {
        self.greeting.before_ok.is_some()
    }

    /// Whether the carried bytes end in the beginning of a frame.
    pub(crate) fn has_partial_frame(&self) -> bool {
        let whole = self
            .greeting
            .before_ok
            .as_ref()
            .map_or(0, |before| before.consumed);
        self.carry.len() > whole
    }

    /// The peer sends nothing more.
    fn handle_end(&mut self, now: Tick, reason: CloseReason) {
        self.times.frame_since = None;
        self.times.first_frame_since = None;
        self.set_state(
            now,
            State::HalfClosed {
                reason,
                drained_since: None,
                deadline: None,
            },
        );
    }

    /// Bounds how long what is queued for a peer that said BYE may take.
    pub(crate) fn limit_half_closed(&mut self, now: Tick, drain_ms: u64) {
        if let State::HalfClosed {
            reason,
            drained_since,
            deadline: None,
        } = self.state
        {
            let deadline = Some(now.saturating_add(drain_ms));
            self.set_state(
                now,
                State::HalfClosed {
                    reason,
                    drained_since,
                    deadline,
                },
            );
        }
    }

    /// Says whether we read, which the deadlines about receiving depend on.
    pub(crate) fn set_reading(&mut self, receiving: Tick, reading: bool) {
        match (reading, self.times.paused_since) {
            (false, None) => self.times.paused_since = Some(receiving),
            (true, Some(since)) => {
                let shift = receiving.saturating_sub(since);
                self.times.paused_since = None;
                self.times.shift(shift);
                if let State::Greeting { deadline } = &mut self.state {
                    *deadline = deadline.saturating_add(shift);
                }
            }
            (true, None) | (false, Some(_)) => {}
        }
    }

    /// The outbox waits for the socket.
    pub(crate) fn handle_write_blocked(&mut self, now: Tick) {
        self.sent.get_or_insert_default().handle_blocked(now);
    }

    /// Our system took so many bytes, of which `written` are the application's.
    pub(crate) fn handle_written(&mut self, now: Tick, bytes: usize, written: Traffic) {
        self.counts.outbound.add(written);
        let sent = self.sent.get_or_insert_default();
        sent.handle_taken(now, bytes, written);
    }

    /// Nothing waits for the socket any more.
    pub(crate) fn handle_all_written(&mut self) {
        if let Some(sent) = &mut self.sent {
            sent.handle_all_written();
        }
    }

    /// The peer's system is asked what it has not acknowledged.
    pub(crate) fn handle_asked(&mut self, now: Tick) {
        if let Some(sent) = &mut self.sent {
            sent.handle_asked(now);
        }
    }

    /// What it has not acknowledged, if that is told. True if it has stalled for too long.
    pub(crate) fn handle_told(&mut self, now: Tick, told: Option<Told>, rules: &Rules) -> bool {
        let may_stall = self.may_stall();
        let sent = self.sent.as_mut();
        sent.is_some_and(|sent| sent.handle_told(now, told, rules.write_stall_ms)) && may_stall
    }

    /// The system will not tell what is acknowledged.
    pub(crate) fn handle_untold(&mut self, now: Tick) {
        if let Some(sent) = &mut self.sent {
            sent.handle_untold(now);
        }
    }

    /// Whether the outbox waits for the socket.
    pub(crate) fn is_blocked(&self) -> bool {
        self.sent.as_ref().is_some_and(|sent| sent.is_blocked())
    }

    /// Whether a stall may end it. Once the other side has ended its own, or ours has been told to
    /// end, what our system has taken has the time that the state gives.
    fn may_stall(&self) -> bool {
        match self.state {
            State::Open | State::Stopping { .. } => true,
            State::Connecting { .. }
            | State::Greeting { .. }
            | State::Refused { .. }
            | State::HalfClosed { .. }
            | State::Draining { .. }
            | State::Lingering { .. } => self.is_blocked(),
        }
    }

    /// Whether bytes were written that may not be acknowledged, and with `of_messages` the
    /// application's among them.
    pub(crate) fn is_unsure(&self, of_messages: bool) -> bool {
        let sent = self.sent.as_ref();
        sent.is_some_and(|sent| {
            !sent.writes.is_empty() && (!of_messages || sent.writes.has_messages())
        })
    }

    /// What is not acknowledged at the end, at most, if that is told.
    pub(crate) fn handle_last_told(&mut self, told: Option<u64>) {
        let all = self.counts.outbound;
        if let Some(sent) = &mut self.sent {
            sent.unconfirmed = told.map(|bytes| sent.writes.unconfirmed(bytes, all));
        }
    }

    /// What of the application's may not have reached the peer, once the last is told; `None` if
    /// that is not known.
    pub(crate) fn unconfirmed(&self) -> Option<Traffic> {
        let sent = self.sent.as_ref();
        sent.map_or_else(|| Some(Traffic::default()), |sent| sent.unconfirmed)
    }

    /// Moves the PONG that waits into the outbox.
    ///
    /// Not behind another frame of the protocol that waits there: a peer that reads little and asks
    /// much must not make us queue an answer for every write.
    pub(crate) fn queue_pong(&mut self) {
        if self.outbox.has_control() {
            return;
        }
        if let Some(payload) = self.pong.take() {
            self.insert_control(&Frame::new(MessageType::PONG, &payload));
        }
    }

    /// Whether a write could make progress.
    pub(crate) fn has_output(&self) -> bool {
        !self.is_written_out() || self.pong.is_some()
    }

    /// Whether all of the outbox was written that is to be.
    pub(crate) fn is_written_out(&self) -> bool {
        self.outbox.is_empty() || (self.ending.abandoned && self.outbox.frame_left() == 0)
    }

    /// Bytes to offer to the socket at most.
    pub(crate) fn offered_max(&self) -> usize {
        if self.ending.abandoned {
            self.outbox.frame_left()
        } else {
            usize::MAX
        }
    }

    /// Begins an orderly close: what is queued goes out, then BYE and FIN. Input goes on to be
    /// taken in if it was meant to be in spite of the close, and is discarded otherwise.
    pub(crate) fn begin_drain(
        &mut self,
        now: Tick,
        rules: &Rules,
        reason: CloseReason,
        drain_ms: u64,
    ) {
        let says = reason.wire_code().is_some() && self.ending.bye_received.is_none();
        let bye = if says { Bye::Due } else { Bye::Never };
        self.pong = None;
        self.times.frame_since = None;
        self.times.first_frame_since = None;
        if !self.ending.reads_on {
            self.discard_carry(rules);
        }
        let deadline = now.saturating_add(drain_ms);
        self.set_state(
            now,
            State::Draining {
                reason,
                deadline,
                bye,
            },
        );
    }

    /// Begins to close without what is queued: the peer reads no more. The frame that has begun is
    /// finished, so that what it got are whole frames, and FIN follows.
    pub(crate) fn begin_abandon(&mut self, now: Tick, rules: &Rules, reason: CloseReason) {
        debug_assert!(
            self.ending.bye_received.is_some(),
            "it said that it reads no more"
        );
        self.ending.abandoned = true;
        self.begin_drain(now, rules, reason, LINGER_MS);
    }

    /// Nothing that still comes is wanted.
    pub(crate) fn end_reading_on(&mut self, rules: &Rules) {
        self.ending.reads_on = false;
        self.discard_carry(rules);
    }

    /// Begins to close as soon as what was read until now is released, after half of the time given
    /// at the latest. What had half-closed the connection stays the reason. What still comes is
    /// taken in if it `reads_on`, and else discarded.
    pub(crate) fn begin_stop(
        &mut self,
        now: Tick,
        rules: &Rules,
        reason: CloseReason,
        drain_ms: u64,
        reads_on: bool,
    ) {
        let reason = match self.state {
            State::HalfClosed { reason, .. } => reason,
            State::Connecting { .. }
            | State::Greeting { .. }
            | State::Open
            | State::Refused { .. }
            | State::Stopping { .. }
            | State::Draining { .. }
            | State::Lingering { .. } => reason,
        };
        self.times.frame_since = None;
        self.times.first_frame_since = None;
        self.ending.reads_on = reads_on && !self.ending.eof && self.ending.bye_received.is_none();
        if !self.ending.reads_on {
            self.discard_carry(rules);
        }
        self.set_state(
            now,
            State::Stopping {
                reason,
                mark: self.counts.read,
                answers: None,
                bye_due: now.saturating_add(drain_ms / 2),
                deadline: now.saturating_add(drain_ms),
            },
        );
    }

    /// Counts bytes that came and that no subscriber gets.
    pub(crate) fn discard(&mut self, rules: &Rules, bytes: &[u8]) {
        if !bytes.is_empty() {
            let discarded = self.ending.discarded.get_or_insert_default();
            discarded.add(bytes, rules.decoder.length_max());
        }
    }

    /// Counts the beginning of a frame that was to be kept.
    pub(crate) fn discard_carry(&mut self, rules: &Rules) {
        self.greeting.before_ok = None;
        let carry = std::mem::take(&mut self.carry);
        self.discard(rules, &carry);
    }

    /// Counts bytes that came and were not looked at.
    pub(crate) fn discard_unseen(&mut self, bytes: u64) {
        if bytes > 0 {
            self.ending
                .discarded
                .get_or_insert_default()
                .add_unseen(bytes);
        }
    }

    /// What comes from now on cannot be parsed.
    pub(crate) fn lose_framing(&mut self) {
        self.ending.discarded.get_or_insert_default().lose_framing();
    }

    /// Input that came while we closed and that no subscriber got.
    pub(crate) fn discarded(&self) -> Traffic {
        let discarded = self.ending.discarded.as_ref();
        discarded.map_or_else(Traffic::default, |discarded| discarded.sum())
    }

    /// To be called when the outbox is empty: queues the BYE that is due. True when there is
    /// nothing left to write and the FIN is due.
    pub(crate) fn finish_drain(&mut self, now: Tick, text: &str) -> bool {
        let State::Draining {
            reason,
            deadline,
            bye,
        } = self.state
        else {
            return false;
        };
        match bye {
            Bye::Due => {
                if let Some(frame) = frame::bye_frame(reason, text, self.greeting.checksums) {
                    self.outbox.insert_control(frame);
                }
                self.set_state(
                    now,
                    State::Draining {
                        reason,
                        deadline,
                        bye: Bye::Queued,
                    },
                );
                false
            }
            Bye::Never | Bye::Queued => true,
        }
    }

    /// The FIN is out. True if the peer's was there before, so that nothing is left to wait for.
    pub(crate) fn begin_linger(&mut self, now: Tick) -> bool {
        let State::Draining {
            reason, deadline, ..
        } = self.state
        else {
            unreachable!(
                "a FIN is sent at the end of draining, not in {:?}",
                self.state
            );
        };
        let briefly = now.saturating_add(LINGER_MS);
        // A peer that is not at fault has the rest of the drain time to end its side, and its
        // system to take what was written. The FIN behind a BYE is read only after ours.
        let is_not_at_fault =
            reason.reads_on() || reason == CloseReason::PeerBye || self.ending.eof;
        let deadline = if is_not_at_fault {
            deadline.max(briefly)
        } else {
            briefly
        };
        let look_at = None;
        self.set_state(
            now,
            State::Lingering {
                reason,
                deadline,
                look_at,
            },
        );
        self.ending.eof
    }

    /// Both FINs are there, and the peer's system may not have everything. False if that is not to
    /// be waited for any longer.
    pub(crate) fn await_confirmation(&mut self, now: Tick) -> bool {
        match self.state {
            State::Lingering {
                reason, deadline, ..
            } if self.ending.eof && now < deadline => {
                let look_at = Some(now.saturating_add(CONFIRM_LOOK_MS));
                self.set_state(
                    now,
                    State::Lingering {
                        reason,
                        deadline,
                        look_at,
                    },
                );
                true
            }
            State::Connecting { .. }
            | State::Greeting { .. }
            | State::Open
            | State::Refused { .. }
            | State::HalfClosed { .. }
            | State::Stopping { .. }
            | State::Draining { .. }
            | State::Lingering { .. } => false,
        }
    }

    /// Whether it is over but for what the peer's system may not have.
    pub(crate) fn is_ended(&self) -> bool {
        self.ending.eof && matches!(self.state, State::Lingering { .. })
    }

    /// Whether it is drained: nothing is in flight and nothing waits; called when that may have
    /// changed. `None`: not yet; `Some` is the reason to drain for, now that it is.
    pub(crate) fn judge_drained(
        &mut self,
        now: Tick,
        released: Traffic,
        queued: Traffic,
    ) -> Option<CloseReason> {
        match self.state {
            State::HalfClosed {
                reason,
                drained_since,
                deadline,
            } => {
                let in_flight = self.in_flight(released).bytes > 0;
                let queued = queued.messages > 0 || self.has_output();
                let drained_since = (!in_flight && !queued).then_some(drained_since.unwrap_or(now));
                self.set_state(
                    now,
                    State::HalfClosed {
                        reason,
                        drained_since,
                        deadline,
                    },
                );
                drained_since
                    .filter(|since| now - since >= self.grace_ms())
                    .map(|_| reason)
            }
            State::Stopping {
                reason,
                mark,
                answers,
                bye_due,
                deadline,
            } => {
                if self.unreleased_mark(released).is_some() {
                    return None;
                }
                let written = self.counts.outbound.messages;
                let answers = answers.unwrap_or(written + queued.messages);
                self.set_state(
                    now,
                    State::Stopping {
                        reason,
                        mark,
                        answers: Some(answers),
                        bye_due,
                        deadline,
                    },
                );
                (written >= answers || queued.messages == 0).then_some(reason)
            }
            State::Connecting { .. }
            | State::Greeting { .. }
            | State::Open
            | State::Refused { .. }
            | State::Draining { .. }
            | State::Lingering { .. } => None,
        }
    }

    /// How long a half-closed connection waits for late answers. There are none for a peer that
    /// said BYE and never asked.
    fn grace_ms(&self) -> u64 {
        let may_be_answered =
            self.ending.bye_received.is_none() || self.counts.inbound.messages > 0;
        if may_be_answered {
            HALF_CLOSE_GRACE_MS
        } else {
            0
        }
    }

    /// What was read and not yet released by everybody.
    pub(crate) fn in_flight(&self, released: Traffic) -> Traffic {
        debug_assert!(
            released.bytes <= self.counts.read.bytes
                && released.messages <= self.counts.read.messages
        );
        Traffic::new(
            self.counts.read.messages.saturating_sub(released.messages),
            self.counts.read.bytes.saturating_sub(released.bytes),
        )
    }

    /// What is still to be released before a stop goes on.
    pub(crate) fn unreleased_mark(&self, released: Traffic) -> Option<Traffic> {
        match self.state {
            State::Stopping { mark, .. } => {
                let is_missing = released.bytes < mark.bytes || released.messages < mark.messages;
                is_missing.then_some(mark)
            }
            State::Connecting { .. }
            | State::Greeting { .. }
            | State::Open
            | State::Refused { .. }
            | State::HalfClosed { .. }
            | State::Draining { .. }
            | State::Lingering { .. } => None,
        }
    }

    /// The next tick at which [`judge`](Self::judge) may have something to say.
    ///
    /// `lag` is how far the time of receiving is behind: nobody was read meanwhile.
    pub(crate) fn next_deadline(&self, rules: &Rules, lag: Tick) -> Option<Tick> {
        let after = |since: Option<Tick>, limit: u64| {
            since
                .filter(|_| limit > 0)
                .map(|since| end_of(since, limit))
        };
        let stall = self.stall_deadline(rules);
        let receiving = self.times.paused_since.is_none();
        let ends = match self.state {
            State::Open | State::Greeting { .. } if !receiving => [None; 4],
            State::Open => [
                after(self.times.first_frame_since, rules.first_frame_ms),
                after(self.times.frame_since, rules.frame_ms),
                after(Some(self.times.idle_since), rules.idle_ms),
                self.heartbeat(rules).map(|(tick, _)| tick),
            ]
            .map(|deadline| deadline.map(|tick| tick.saturating_add(lag))),
            State::HalfClosed {
                drained_since,
                deadline,
                ..
            } => {
                let grace = drained_since.map(|since| end_of(since, self.grace_ms()));
                [grace, deadline, None, None]
            }
            State::Stopping { bye_due, .. } => [Some(bye_due), None, None, None],
            State::Connecting { deadline }
            | State::Greeting { deadline }
            | State::Refused { deadline, .. }
            | State::Draining { deadline, .. } => [Some(deadline), None, None, None],
            State::Lingering {
                deadline, look_at, ..
            } => [Some(deadline), look_at, None, None],
        };
        ends.into_iter().chain([stall]).flatten().min()
    }

    /// What the deadlines that passed ask for; `lag` as for [`next_deadline`](Self::next_deadline).
    pub(crate) fn judge(&self, now: Tick, rules: &Rules, lag: Tick) -> Option<Verdict> {
        let expired = |since: Option<Tick>, limit: u64, now: Tick| {
            since.is_some_and(|since| limit > 0 && now >= end_of(since, limit))
        };
        let passed = |since, limit| expired(since, limit, now.saturating_sub(lag));
        if self.stall_deadline(rules).is_some_and(|end| now >= end) {
            return Some(
                if self
                    .sent
                    .as_ref()
                    .is_some_and(|sent| sent.is_judged_by_taken())
                {
                    Verdict::Abort(CloseReason::SlowPeer)
                } else {
                    Verdict::Look
                },
            );
        }
        match self.state {
            State::Open if self.times.paused_since.is_some() => None,
            State::Open => {
                if passed(self.times.first_frame_since, rules.first_frame_ms) {
                    Some(Verdict::Close(CloseReason::FirstFrameTimeout))
                } else if passed(self.times.frame_since, rules.frame_ms) {
                    Some(Verdict::Close(CloseReason::FrameTimeout))
                } else if passed(Some(self.times.idle_since), rules.idle_ms) {
                    Some(Verdict::Close(CloseReason::IdleTimeout))
                } else {
                    let (tick, verdict) = self.heartbeat(rules)?;
                    (now.saturating_sub(lag) >= tick).then_some(verdict)
                }
            }
            State::Connecting { deadline } => (now >= deadline).then_some(Verdict::GiveUp),
            State::Greeting { .. } if self.times.paused_since.is_some() => None,
            State::Greeting { deadline } if now >= deadline => {
                Some(Verdict::Close(CloseReason::FirstFrameTimeout))
            }
            State::Greeting { .. } => None,
            State::Refused { reason, deadline } => {
                (now >= deadline).then_some(Verdict::Close(reason))
            }
            State::HalfClosed {
                reason, deadline, ..
            } if deadline.is_some_and(|deadline| now >= deadline) => Some(Verdict::Abandon(reason)),
            State::HalfClosed { .. } => Some(Verdict::CheckDrained),
            State::Stopping {
                reason, bye_due, ..
            } => (now >= bye_due).then_some(Verdict::Close(reason)),
            State::Draining {
                reason, deadline, ..
            } if now >= deadline => Some(Verdict::Abort(reason)),
            State::Draining { .. } => None,
            State::Lingering { deadline, .. } if now >= deadline => Some(Verdict::Done),
            State::Lingering { look_at, .. } => look_at
                .is_some_and(|look_at| now >= look_at)
                .then_some(Verdict::Look),
        }
    }

    fn stall_deadline(&self, rules: &Rules) -> Option<Tick> {
        let sent = self.sent.as_ref().filter(|_| self.may_stall())?;
        sent.next_deadline(rules.write_stall_ms)
    }

    /// When the peer is to be asked for a sign of life, or is dead; and which of the two.
    ///
    /// A peer is dead after the whole time of silence, and not before a PING had its part of that
    /// to be answered in: after a pause of the whole process, the peer is asked first.
    fn heartbeat(&self, rules: &Rules) -> Option<(Tick, Verdict)> {
        if self.greeting.hello != HelloState::Said || rules.heartbeat_ms == 0 {
            return None;
        }
        let last = self
            .times
            .pinged
            .map_or(self.times.heard_since, |(_, last)| last);
        let ping = end_of(last, rules.heartbeat_ms);
        let dead = self.times.pinged.filter(|_| rules.heartbeat_timeout_ms > 0);
        let dead = dead.map(|(first, _)| {
            let answer_ms = rules
                .heartbeat_timeout_ms
                .saturating_sub(rules.heartbeat_ms);
            let silence = end_of(self.times.heard_since, rules.heartbeat_timeout_ms);
            silence.max(end_of(first, answer_ms))
        });
        match dead {
            Some(dead) if dead <= ping => {
                Some((dead, Verdict::Close(CloseReason::HeartbeatTimeout)))
            }
            Some(_) | None => Some((ping, Verdict::Ping)),
        }
    }

    /// The peer's token is wrong: it is not read any more, and learns of it a little later.
    pub(crate) fn begin_refusal(&mut self, now: Tick, rules: &Rules, reason: CloseReason) {
        self.discard_carry(rules);
        self.times.frame_since = None;
        self.times.first_frame_since = None;
        // `now` was rounded down, and who guesses is not to be answered early.
        let deadline = now.saturating_add(AUTH_DELAY_MS + 1);
        self.set_state(now, State::Refused { reason, deadline });
    }

    /// Whether a first whole frame came, or none is waited for.
    pub(crate) fn has_spoken(&self) -> bool {
        self.times.first_frame_since.is_none()
    }

    pub(crate) fn state(&self) -> State {
        self.state
    }

    /// Whether it is closing, and over at this tick at the latest.
    pub(crate) fn ends_until(&self, tick: Tick) -> bool {
        match self.state {
            State::Draining { deadline, .. } | State::Lingering { deadline, .. } => {
                deadline <= tick
            }
            State::Connecting { .. }
            | State::Greeting { .. }
            | State::Open
            | State::Refused { .. }
            | State::HalfClosed { .. }
            | State::Stopping { .. } => false,
        }
    }

    /// Whether frames of the peer are taken in.
    pub(crate) fn takes_messages(&self) -> bool {
        self.state.takes_input() || self.ending.reads_on
    }

    /// Whether bytes of the peer are read only to be counted.
    pub(crate) fn discards(&self) -> bool {
        let closes = match self.state {
            State::Connecting { .. }
            | State::Greeting { .. }
            | State::Open
            | State::Refused { .. }
            | State::HalfClosed { .. } => false,
            State::Stopping { .. } | State::Draining { .. } | State::Lingering { .. } => true,
        };
        closes && !self.ending.reads_on
    }

    /// Whether the connection is on its way to be closed.
    pub(crate) fn is_closing(&self) -> bool {
        match self.state {
            State::Connecting { .. }
            | State::Greeting { .. }
            | State::Open
            | State::Refused { .. }
            | State::HalfClosed { .. }
            | State::Stopping { .. } => false,
            State::Draining { .. } | State::Lingering { .. } => true,
        }
    }

    /// Size of the frame that the carried bytes begin, if they tell it.
    pub(crate) fn carried_frame_size(&self) -> Option<usize> {
        frame::frame_size_at(&self.carry)
    }

    fn insert_control(&mut self, frame: &Frame<'_>) {
        let frame = &Frame {
            checksum: self.greeting.checksums,
            ..*frame
        };
        let mut bytes = Vec::with_capacity(frame.encoded_size());
        frame::encode_whole(frame, &mut bytes);
        self.outbox.insert_control(bytes);
    }

    /// The only writer of the state.
    fn set_state(&mut self, now: Tick, next: State) {
        assert!(
            self.state.may_become(next),
            "{:?} cannot become {next:?}",
            self.state
        );
        if self.state.name() != next.name() {
            log::trace!(
                "peer {}: {} => {} at {now}",
                self.id,
                self.state.name(),
                next.name()
            );
        }
        self.state = next;
    }
}

/// The first tick at which `limit` ticks have certainly passed: `since` was rounded down.
fn end_of(since: Tick, limit: u64) -> Tick {
    since.saturating_add(limit).saturating_add(1)
}

/// Judges the one frame that may come while HELLO is required.
fn first_frame(rules: &Rules, bytes: &[u8]) -> ScanEnd {
    match rules
        .decoder
        .with_length_max(LENGTH_BEFORE_HELLO_MAX)
        .decode(bytes)
    {
        Err(error) => ScanEnd::Error(error),
        Ok(None) => ScanEnd::Incomplete,
        // Whatever it is, the switch for protocol messages decides.
        Ok(Some(_)) => ScanEnd::Protocol,
    }
}
