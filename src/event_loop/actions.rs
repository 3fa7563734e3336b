//! What the peers want done with their sockets, which they do not know.

use std::net::SocketAddr;

use super::state::{EventLoop, stream_of};
use crate::{clock::Now, id::PeerId, peers::Action, socket::Net};

impl<N: Net> EventLoop<N> {
    pub(super) fn run_actions(&mut self, now: Now) {
        self.push_waiting(now);
        self.push_notices();
        while let Some(action) = self.peers.common.lists.poll_action() {
            match action {
                Action::Connect(id, addr) => self.connect(now, id, addr),
                Action::LookConnected(id) => self.look_connected(now, id),
                Action::Look { id, last } => {
                    if let Some(stream) = stream_of(&mut self.streams, id) {
                        let told = self.net.unacknowledged(stream, last);
                        self.peers.handle_unacknowledged(now.tick, id, last, told);
                    }
                    // Of an end it is told now: nothing is read while an event waits.
                    self.push_waiting(now);
                    self.push_notices();
                }
                Action::Shutdown(id) => {
                    if let Some(stream) = stream_of(&mut self.streams, id) {
                        // The peer may have reset the connection; reading will tell.
                        let _ = self.net.shutdown(stream);
                    }
                }
                Action::Settle(id) => {
                    self.settle(now, id);
                    // Its end is told now: nothing is read while an event waits.
                    self.push_waiting(now);
                    self.push_notices();
                }
                Action::Close { index, abort } => {
                    let place = self.streams.get_mut(index as usize);
                    if let Some(stream) = place.and_then(Option::take) {
                        self.net.close(stream, abort);
                    }
                }
            }
        }
    }

    /// Looks what is left unread of a connection before it is closed.
    fn settle(&mut self, now: Now, id: PeerId) {
        let mut unread = 0;
        if let Some(stream) = stream_of(&mut self.streams, id) {
            let net = &mut self.net;
            self.peers
                .handle_last_input(id, |buffer, limit| net.read_last(stream, buffer, limit));
            unread = net.unread(stream);
        }
        self.peers.handle_settled(now.tick, id, unread);
    }

    fn connect(&mut self, now: Now, id: PeerId, addr: SocketAddr) {
        match self.net.connect(addr, id) {
            Ok(stream) => self.keep_stream(id, stream),
            Err(error) => self.peers.handle_dial_failed(now.tick, id, &error),
        }
    }

    fn look_connected(&mut self, now: Now, id: PeerId) {
        let Some(stream) = stream_of(&mut self.streams, id) else {
            return;
        };
        match self.net.is_connected(stream) {
            Ok(true) => self.peers.handle_connected(now.tick, id),
            Ok(false) => {}
            Err(error) => self.peers.handle_dial_failed(now.tick, id, &error),
        }
    }

    pub(super) fn keep_stream(&mut self, id: PeerId, stream: N::Stream) {
        let index = id.index() as usize;
        if self.streams.len() <= index {
            self.streams.resize_with(index + 1, || None);
        }
        debug_assert!(
            self.streams[index].is_none(),
            "the slot's last connection was closed"
        );
        self.streams[index] = Some(stream);
    }
}
