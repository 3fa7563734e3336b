//! Input: bytes that came and are parsed, those that are carried to the next read, and the FIN.

use super::{
    greeting::HelloState,
    machine::Peer,
    parsed::{Fault, Parsed},
    rules::Rules,
};
use crate::{
    clock::Tick,
    error::CloseReason,
    frame::{self, ScanEnd},
    limits::{BEFORE_OK_BYTES_MAX, LENGTH_BEFORE_HELLO_MAX},
};

impl Peer {
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

    /// Messages that came before the OK are not delivered yet: they wait in front of it.
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

    /// Size of the frame that the carried bytes begin, if they tell it.
    pub(crate) fn carried_frame_size(&self) -> Option<usize> {
        frame::frame_size_at(&self.carry)
    }
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
