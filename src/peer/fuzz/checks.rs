//! What is asserted of the machine, step by step and at the end of its life.

use super::{Machine, TYPES, draws::encoded};
use crate::{
    frame::{self, Decoder, Frame},
    id::MessageType,
    ledger::Traffic,
    limits::{BEFORE_OK_BYTES_MAX, PING_SIZE_MAX},
    peer::{Parsed, Peer, State},
};

impl Machine {
    pub(super) fn check(&self) {
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
    pub(super) fn check_parsed(&self, bytes: &[u8], parsed: &Parsed) {
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
    pub(super) fn check_in_one_piece(&self) {
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
    pub(super) fn check_wire(&self) {
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
