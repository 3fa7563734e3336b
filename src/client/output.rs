//! What is to be written: whole frames, of which the first may be partly written.

use super::error::ClientError;
use crate::{
    frame::{Frame, encode_whole},
    id::MessageType,
    limits::{CLIENT_OUTPUT_KEPT, PAYLOAD_SIZE_MAX_CEILING},
};

/// Frames in the order in which they go out, and the PONG that goes behind them.
///
/// The client asks for what is [`unwritten`](Self::unwritten), writes some of it, and says how much
/// it [`wrote`](Self::wrote).
#[derive(Debug, Default)]
pub(super) struct Output {
    bytes: Vec<u8>,
    /// Bytes at the start that the system took.
    written: usize,
    /// The answer to the last PING, if it is not among the bytes yet. There is at most one, so a
    /// service that sends PINGs and does not read cannot make this side hold more.
    pong: Option<Vec<u8>>,
}

impl Output {
    /// Appends a frame whose payload is not above 256 MiB.
    pub(super) fn push(&mut self, frame: &Frame<'_>) {
        debug_assert!(frame.payload.len() <= PAYLOAD_SIZE_MAX_CEILING as usize);
        encode_whole(frame, &mut self.bytes);
    }

    /// Lets this PONG be the one that goes out next.
    pub(super) fn set_pong(&mut self, payload: &[u8], checksum: bool) {
        let mut pong = Vec::new();
        encode_whole(
            &Frame::new(MessageType::PONG, payload).with_checksum(checksum),
            &mut pong,
        );
        self.pong = Some(pong);
    }

    /// What is to be written next; empty if nothing is.
    pub(super) fn unwritten(&mut self) -> &[u8] {
        if self.written == self.bytes.len() {
            self.written = 0;
            self.bytes.clear();
            self.bytes.shrink_to(CLIENT_OUTPUT_KEPT);
            if let Some(pong) = self.pong.take() {
                self.bytes.extend_from_slice(&pong);
            }
        }
        self.bytes.get(self.written..).unwrap_or_default()
    }

    /// The system took so many bytes of it.
    pub(super) fn wrote(&mut self, count: usize) {
        self.written += count;
        debug_assert!(self.written <= self.bytes.len(), "more than there was");
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.bytes.capacity()
    }

    /// Bytes that are not written yet.
    pub(super) fn size(&self) -> usize {
        let pong = self.pong.as_ref().map_or(0, Vec::len);
        self.bytes.len() - self.written + pong
    }
}

/// Whether an application may send this to a peer that accepts such payloads.
pub(super) fn judge(message_type: MessageType, size: usize, limit: u32) -> Result<(), ClientError> {
    if message_type.is_protocol() {
        return Err(ClientError::ReservedType { message_type });
    }
    if size > limit as usize {
        return Err(ClientError::TooLarge { size, limit });
    }
    Ok(())
}
