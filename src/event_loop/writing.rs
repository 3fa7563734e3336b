//! Writing: one peer after the other, as far as the system takes it.

use std::io::IoSlice;

use super::state::{EventLoop, stream_of};
use crate::{
    clock::Now,
    id::PeerId,
    limits::{SLICES_FEW, SLICES_PER_WRITE, WRITE_PER_TURN_BYTES},
    socket::Net,
};

impl<N: Net> EventLoop<N> {
    pub(super) fn write_peers(&mut self, now: Now) {
        // What was sent while this turn read goes out with it.
        self.peers.poll_late_output(now.tick);
        while let Some(id) = self.peers.poll_write() {
            self.write_peer(now, id);
            self.run_actions(now);
        }
    }

    pub(super) fn write_peer(&mut self, now: Now, id: PeerId) {
        let mut left = WRITE_PER_TURN_BYTES;
        while left > 0 {
            let taken = if self.peers.offers_few(id) {
                self.write_slices::<SLICES_FEW>(now, id, left)
            } else {
                self.write_slices::<SLICES_PER_WRITE>(now, id, left)
            };
            let Some(taken) = taken else {
                return;
            };
            left = left.saturating_sub(taken);
        }
    }

    /// Offers up to `SLICES` slices to the kernel. `None` if there is nothing to offer, or not all
    /// of it was taken.
    fn write_slices<const SLICES: usize>(
        &mut self,
        now: Now,
        id: PeerId,
        left: usize,
    ) -> Option<usize> {
        let stream = stream_of(&mut self.streams, id)?;
        let mut slices = [IoSlice::new(&[]); SLICES];
        let filled = self.peers.fill_slices(id, &mut slices, left);
        if filled == 0 {
            return None;
        }
        let slices = &slices[..filled];
        let offered = slices.iter().map(|slice| slice.len()).sum();
        let result = self.net.write(stream, slices);
        let taken = self.peers.handle_written(now.tick, id, offered, result);
        self.moved += taken;
        (taken == offered).then_some(taken)
    }
}
