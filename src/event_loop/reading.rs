//! Reading: one peer after the other, until nothing is left or something has to wait.

use super::state::{EventLoop, stream_of};
use crate::{
    clock::Now,
    id::PeerId,
    limits::{BLOCK_COPIED_MAX, READ_PER_TURN_BYTES},
    socket::Net,
};

impl<N: Net> EventLoop<N> {
    pub(super) fn read_peers(&mut self, now: Now) {
        while !self.waits_for_dispatch() {
            let unparsed = self.peers.common.input.has_pieces_of();
            let Some(id) = unparsed.or_else(|| self.peers.poll_read()) else {
                break;
            };
            if unparsed.is_some() {
                self.parse_pieces(now);
            } else {
                self.read_peer(now, id);
            }
            if self.peers.common.handling.take_answered() {
                // Answers of a handler need not wait for the other peers' turn.
                self.write_peer(now, id);
            }
            self.run_actions(now);
        }
    }

    fn read_peer(&mut self, now: Now, id: PeerId) {
        let mut left = READ_PER_TURN_BYTES;
        while left > 0 && !self.waits_for_dispatch() {
            let Some(mut buffer) = self.peers.prepare_read(now.tick, id) else {
                return;
            };
            let Some(stream) = stream_of(&mut self.streams, id) else {
                return;
            };
            // The allowance is looked at between reads: one that it cut short would be taken for
            // the end of the input.
            let result = match buffer.slices() {
                Some((mut slices, count)) => self.net.read_vectored(stream, &mut slices[..count]),
                None => self.net.read(stream, &mut buffer.bytes, buffer.limit),
            };
            let count = *result.as_ref().unwrap_or(&0);
            self.moved += count;
            left = left.saturating_sub(count);
            let block = self.peers.handle_read(now, id, buffer, result);
            self.hand_over(now, block);
            self.parse_pieces(now);
            if count > BLOCK_COPIED_MAX {
                self.read_ahead.limit(|| self.peers.common.input.is_ahead());
            }
            if count == 0 {
                break;
            }
        }
        self.peers.continue_reading(id);
    }

    /// Parses what a vectored read brought, as far as it can be handed over.
    fn parse_pieces(&mut self, now: Now) {
        while self.peers.common.input.has_pieces_of().is_some() && !self.waits_for_dispatch() {
            let block = self.peers.handle_piece(now);
            self.hand_over(now, block);
        }
    }
}
