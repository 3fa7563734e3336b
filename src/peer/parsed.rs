//! What the input of one read is found to be: whole frames, messages of the protocol, a fault.

use std::fmt;

use crate::{
    error::{CloseReason, FrameError},
    frame::Scan,
    id::MessageType,
    ledger::Traffic,
};

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
    pub(super) mixed: bool,
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

    pub(super) fn add_run(&mut self, run: &Scan) {
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
