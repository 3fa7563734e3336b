//! What the service sent: bytes to messages, without socket and clock.
//!
//! The client asks for [`space`](Input::space), reads into it, says how much
//! [`came`](Input::came), and takes what that made whole with [`next`](Input::next) until
//! there is nothing more. How the bytes were cut on their way changes nothing, errors and positions
//! included.
//!
//! What this file refuses to do: answer. It says that a PING came; to write the PONG is the
//! client's.
//!
//! Invariants: `start <= end <= buffer.len() <= size_max`, and a whole frame at `start` is taken
//! out before more is read, so that there is always space.

use std::fmt;

use super::error::ClientError;
use crate::{
    frame::{Bye, Decoder, Frame, Hello},
    id::{MessageType, NodeId, PeerIdentity},
    limits::{CLIENT_READ_SIZE, FRAME_OVERHEAD_MAX, PING_SIZE_MAX},
};

/// A message that a [`Client`](crate::Client) received.
///
/// It owns its payload, and nothing besides: it may be kept for as long as wanted.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientMessage {
    message_type: MessageType,
    correlation: Option<u64>,
    checksum: bool,
    payload: Vec<u8>,
}

impl ClientMessage {
    fn of(frame: &Frame<'_>) -> Self {
        Self {
            message_type: frame.message_type,
            correlation: frame.correlation,
            checksum: frame.checksum,
            payload: frame.payload.to_vec(),
        }
    }

    /// Its type: one of the application's.
    #[must_use]
    pub const fn message_type(&self) -> MessageType {
        self.message_type
    }

    /// Its correlation number, if it has one: that of a question which it answers, or one that an
    /// answer has to carry ([`Client::reply`](crate::Client::reply)).
    #[must_use]
    pub const fn correlation(&self) -> Option<u64> {
        self.correlation
    }

    /// Whether it came with a CRC-32C, which was verified.
    #[must_use]
    pub const fn checksum(&self) -> bool {
        self.checksum
    }

    /// What the other side sent.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// The payload, without a copy.
    #[must_use]
    pub fn into_payload(self) -> Vec<u8> {
        self.payload
    }

    /// What it counts for in the bound of messages that wait, so that empty ones count as well.
    pub(super) fn cost(&self) -> usize {
        size_of::<Self>() + self.payload.len()
    }
}

impl fmt::Debug for ClientMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientMessage")
            .field("message_type", &self.message_type)
            .field("correlation", &self.correlation)
            .field("checksum", &self.checksum)
            .field("size", &self.payload.len())
            .finish()
    }
}

/// What became whole.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    Message(ClientMessage),
    /// The OK to our HELLO: who the service is.
    Ok(PeerIdentity),
    /// Asks for a PONG with the same payload.
    Ping {
        payload: Vec<u8>,
        checksum: bool,
    },
    /// The last frame of the service.
    Bye {
        code: u16,
        text: String,
    },
}

/// Whether an OK may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Greeting {
    /// HELLO was not said, or is answered.
    Done,
    /// The OK has to be of this network.
    Awaited { network_id: u32 },
}

/// Bytes that came and are not taken apart yet.
#[derive(Debug)]
pub(super) struct Input {
    decoder: Decoder,
    /// All of it is initialised; what came lies in `start..end`.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    size_max: usize,
    /// Bytes of the connection before `start`: where the next frame begins, for errors.
    position: u64,
    greeting: Greeting,
}

impl Input {
    /// `awaited_network` is there if HELLO is said.
    pub(super) fn new(
        payload_size_max: u32,
        checksums_required: bool,
        awaited_network: Option<u32>,
    ) -> Self {
        let frame_size_max = FRAME_OVERHEAD_MAX + payload_size_max as usize;
        Self {
            decoder: Decoder::new(payload_size_max).with_checksums_required(checksums_required),
            buffer: vec![0; CLIENT_READ_SIZE],
            start: 0,
            end: 0,
            size_max: frame_size_max.max(CLIENT_READ_SIZE),
            position: 0,
            greeting: awaited_network.map_or(Greeting::Done, |network_id| Greeting::Awaited {
                network_id,
            }),
        }
    }

    /// Where to read to; never empty once [`next`](Self::next) has given `None`.
    ///
    /// The buffer grows with what has come and not with what a length field says: it is at most
    /// twice as large as the part of a frame that is there, or has its first size.
    pub(super) fn space(&mut self) -> &mut [u8] {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
            if self.end > self.buffer.len() / 2 {
                let size = (2 * self.buffer.len()).min(self.size_max);
                self.buffer.resize(size, 0);
            }
        }
        &mut self.buffer[self.end..]
    }

    /// So many bytes were read into the space.
    pub(super) fn came(&mut self, count: usize) {
        self.end += count;
        debug_assert!(
            self.end <= self.buffer.len(),
            "more came than there is space"
        );
    }

    /// The next thing that is whole, or `None` if more has to come. Frames that mean nothing to a
    /// client are passed over.
    ///
    /// After an error, and after a BYE, nothing is to be asked for any more.
    pub(super) fn next(&mut self) -> Result<Option<Incoming>, ClientError> {
        loop {
            let at = self.position;
            let bytes = self.buffer.get(self.start..self.end).unwrap_or_default();
            let decoded = self.decoder.decode(bytes);
            let (frame, size) = match decoded {
                Ok(Some(found)) => found,
                Ok(None) => return Ok(None),
                Err(error) => return Err(ClientError::Frame { error, at }),
            };
            let incoming = judge(&frame, &mut self.greeting);
            self.start += size;
            self.position += size as u64;
            match incoming {
                Ok(None) => {}
                Ok(Some(incoming)) => return Ok(Some(incoming)),
                Err(what) => return Err(ClientError::Protocol { what, at }),
            }
        }
    }

    /// Where the next frame begins: bytes that the service sent before it.
    pub(super) const fn position(&self) -> u64 {
        self.position
    }

    /// What it means that nothing comes any more.
    pub(super) fn at_end(&self) -> ClientError {
        match self.end - self.start {
            0 => ClientError::EndOfStream,
            size => ClientError::CutOff {
                size,
                at: self.position,
            },
        }
    }
}

/// What a frame of the service means; `Err` says how it breaks the protocol.
fn judge(frame: &Frame<'_>, greeting: &mut Greeting) -> Result<Option<Incoming>, String> {
    match frame.message_type {
        message_type if !message_type.is_protocol() => {
            Ok(Some(Incoming::Message(ClientMessage::of(frame))))
        }
        MessageType::HELLO => Err("HELLO came from the side that was connected to".to_owned()),
        MessageType::OK => judge_ok(frame, greeting).map(Some),
        MessageType::BYE => match Bye::parse(frame.payload) {
            Ok(bye) => Ok(Some(Incoming::Bye {
                code: bye.code,
                text: bye.text.to_owned(),
            })),
            Err(error) => Err(error.to_string()),
        },
        MessageType::PING if frame.payload.len() > PING_SIZE_MAX => {
            let size = frame.payload.len();
            Err(format!(
                "PING of {size} bytes is above the limit of {PING_SIZE_MAX}"
            ))
        }
        MessageType::PING => Ok(Some(Incoming::Ping {
            payload: frame.payload.to_vec(),
            checksum: frame.checksum,
        })),
        // A PONG that was not asked for, and what a later version of the protocol may say.
        _ => Ok(None),
    }
}

fn judge_ok(frame: &Frame<'_>, greeting: &mut Greeting) -> Result<Incoming, String> {
    let Greeting::Awaited { network_id } = *greeting else {
        return Err("OK came without a HELLO that it answers".to_owned());
    };
    let ok = Hello::parse(frame.payload).map_err(|error| error.to_string())?;
    if !ok.is_current_version() {
        let version = ok.protocol_version;
        return Err(format!("OK is of protocol version {version} and not 1"));
    }
    if ok.network_id != network_id {
        let other = ok.network_id;
        return Err(format!("OK is of network {other} and not {network_id}"));
    }
    *greeting = Greeting::Done;
    Ok(Incoming::Ok(PeerIdentity {
        node_id: NodeId(ok.node_id),
        agent: ok.agent.to_owned(),
        payload_size_max: ok.payload_size_max,
        authenticated: false,
    }))
}
