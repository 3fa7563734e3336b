//! The messages of the protocol: HELLO and OK, BYE, PING and PONG.
//!
//! A message that may not come, or not like this, is a [`Fault`]; what the peer says of itself is
//! judged here as far as no other peer need be known for it.

use std::sync::Arc;

use super::{
    greeting::HelloState,
    machine::Peer,
    parsed::{Fault, Parsed},
    rules::Rules,
    state::State,
};
use crate::{
    clock::Tick,
    error::CloseReason,
    frame::{self, Frame, Hello},
    id::{MessageType, NodeId, PeerIdentity},
    limits::PING_SIZE_MAX,
};

impl Peer {
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

    /// Takes the protocol message that comes next in `bytes`.
    pub(super) fn handle_protocol(
        &mut self,
        now: Tick,
        rules: &Rules,
        bytes: &[u8],
        parsed: &mut Parsed,
    ) {
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
}
