//! Payloads of the protocol's own messages: HELLO and OK, and BYE. PING and PONG carry plain bytes.

use std::{error::Error, fmt};

use byteorder::{ByteOrder, NetworkEndian};

use super::Frame;
use crate::{error::CloseReason, id::MessageType};

const MAGIC: [u8; 4] = *b"NEBN";
/// The version of the protocol that HELLO speaks of.
const PROTOCOL_VERSION: u16 = 1;
/// Bytes of a HELLO up to the agent's length.
const HELLO_FIXED_SIZE: usize = 32;

/// The payload of HELLO, and of OK which answers it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello<'a> {
    /// Version of the protocol; 1.
    pub protocol_version: u16,
    /// Peers of different networks refuse each other.
    pub network_id: u32,
    /// Who the sender is; zero is anonymous.
    pub node_id: [u8; 16],
    /// The longest payload in bytes that the sender accepts.
    pub payload_size_max: u32,
    /// Name and version of the sender's program, at most 255 bytes.
    pub agent: &'a str,
    /// What proves the sender's right to connect, at most 255 bytes; travels in clear.
    pub token: &'a [u8],
}

impl<'a> Hello<'a> {
    /// Reads a payload. Bytes behind the token are ignored.
    ///
    /// # Errors
    ///
    /// [`MalformedPayload`] if it is too short, does not begin with the magic, or the agent is not
    /// UTF-8.
    pub fn parse(payload: &'a [u8]) -> Result<Self, MalformedPayload> {
        let fixed = payload.get(..HELLO_FIXED_SIZE).ok_or(MalformedPayload {
            what: "HELLO is shorter than 32 bytes",
        })?;
        if fixed[..4] != MAGIC {
            return Err(MalformedPayload {
                what: "HELLO does not begin with NEBN",
            });
        }
        let mut node_id = [0; 16];
        node_id.copy_from_slice(&fixed[12..28]);
        let rest = &payload[HELLO_FIXED_SIZE..];
        let (agent, rest) = take_short(rest).ok_or(MalformedPayload {
            what: "HELLO ends inside its agent",
        })?;
        let (token, _) = take_short(rest).ok_or(MalformedPayload {
            what: "HELLO ends inside its token",
        })?;
        let agent = std::str::from_utf8(agent).map_err(|_| MalformedPayload {
            what: "agent of HELLO is not UTF-8",
        })?;
        Ok(Self {
            protocol_version: NetworkEndian::read_u16(&fixed[4..6]),
            network_id: NetworkEndian::read_u32(&fixed[8..12]),
            node_id,
            payload_size_max: NetworkEndian::read_u32(&fixed[28..32]),
            agent,
            token,
        })
    }

    /// The payload. Agent and token are cut to 255 bytes.
    #[must_use]
    pub fn to_payload(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HELLO_FIXED_SIZE + 2 + self.agent.len());
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&self.protocol_version.to_be_bytes());
        out.extend_from_slice(&0_u16.to_be_bytes());
        out.extend_from_slice(&self.network_id.to_be_bytes());
        out.extend_from_slice(&self.node_id);
        out.extend_from_slice(&self.payload_size_max.to_be_bytes());
        push_short(&mut out, cut_text(self.agent).as_bytes());
        push_short(&mut out, self.token);
        out
    }

    /// Whether the sender speaks this version of the protocol.
    #[must_use]
    pub const fn is_current_version(&self) -> bool {
        self.protocol_version == PROTOCOL_VERSION
    }
}

impl Default for Hello<'_> {
    /// An anonymous HELLO of network 0 that accepts payloads up to the default of 1 MiB.
    fn default() -> Self {
        Self {
            protocol_version: PROTOCOL_VERSION,
            network_id: 0,
            node_id: [0; 16],
            payload_size_max: crate::limits::PAYLOAD_SIZE_MAX_DEFAULT,
            agent: "",
            token: &[],
        }
    }
}

/// The payload of BYE: why the sender closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bye<'a> {
    /// The reason's code; see [`CloseReason::from_wire_code`].
    pub code: u16,
    /// The reason in words, at most 255 bytes.
    pub text: &'a str,
}

impl<'a> Bye<'a> {
    /// Reads a payload. Bytes behind the text are ignored.
    ///
    /// # Errors
    ///
    /// [`MalformedPayload`] if it is too short or the text is not UTF-8.
    pub fn parse(payload: &'a [u8]) -> Result<Self, MalformedPayload> {
        let (code, rest) = payload.split_at_checked(2).ok_or(MalformedPayload {
            what: "BYE is shorter than 3 bytes",
        })?;
        let (text, _) = take_short(rest).ok_or(MalformedPayload {
            what: "BYE ends inside its text",
        })?;
        let text = std::str::from_utf8(text).map_err(|_| MalformedPayload {
            what: "text of BYE is not UTF-8",
        })?;
        Ok(Self {
            code: NetworkEndian::read_u16(code),
            text,
        })
    }

    /// The payload. The text is cut to 255 bytes.
    #[must_use]
    pub fn to_payload(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(3 + self.text.len());
        out.extend_from_slice(&self.code.to_be_bytes());
        push_short(&mut out, cut_text(self.text).as_bytes());
        out
    }
}

/// The whole BYE frame for a reason; `None` for a reason that the wire does not know.
pub(crate) fn bye_frame(reason: CloseReason, text: &str, checksum: bool) -> Option<Vec<u8>> {
    let payload = Bye {
        code: reason.wire_code()?,
        text,
    }
    .to_payload();
    let mut out = Vec::new();
    let frame = Frame {
        checksum,
        ..Frame::new(MessageType::BYE, &payload)
    };
    super::encode_whole(&frame, &mut out);
    Some(out)
}

/// A protocol message whose payload is not what its type says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedPayload {
    what: &'static str,
}

impl fmt::Display for MalformedPayload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what)
    }
}

impl Error for MalformedPayload {}

/// A field that is preceded by its length in one byte, and what follows it.
fn take_short(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (&size, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(size))
}

fn push_short(out: &mut Vec<u8>, field: &[u8]) {
    let size = u8::try_from(field.len()).unwrap_or(u8::MAX);
    out.push(size);
    out.extend_from_slice(&field[..usize::from(size)]);
}

/// The longest prefix of whole characters that fits a length byte.
fn cut_text(text: &str) -> &str {
    let mut end = text.len().min(usize::from(u8::MAX));
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
