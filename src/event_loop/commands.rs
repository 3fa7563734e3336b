//! What other threads ask of the loop, and the lists and cuts that it makes bit by bit.

use std::time::Duration;

use super::state::EventLoop;
use crate::{
    balance::{CutMarker, LoopCut},
    block::BlockRef,
    clock::Now,
    handle::Command,
    limits::{COMMANDS_PER_TURN, CUTS_WAITING_MAX, ROW_WALKS_MAX},
    peers::{CutWalk, RowWalk},
    socket::Net,
};

impl<N: Net> EventLoop<N> {
    pub(super) fn handle_commands(&mut self, now: Now) {
        for _ in 0..COMMANDS_PER_TURN.min(self.commands.len()) {
            let Ok(command) = self.commands.try_recv() else {
                return;
            };
            match command {
                // The caller may have given up waiting.
                Command::Peers(answer) if self.row_walks.len() < ROW_WALKS_MAX => {
                    self.row_walks.push_back((RowWalk::default(), answer));
                }
                Command::Peers(answer) => drop(answer),
                Command::Connect(link) => self.peers.handle_connect(now.tick, *link),
                Command::Disconnect(link) => self.peers.handle_disconnect(now.tick, link),
                Command::Resolved(link, addrs) => {
                    self.peers.handle_resolved(now.tick, link, addrs);
                }
                Command::Listen(id, listener, answer) => {
                    let result = self.add_listener(id, *listener);
                    if let Err(error) = &result {
                        log::warn!("listener {id} cannot be added: {error}");
                    }
                    drop(answer.try_send(result));
                }
                Command::Unlisten(id, answer) => drop(answer.try_send(self.remove_listener(id))),
                Command::Closed(answer) => drop(answer.try_send(self.peers.common.ended.rows())),
                Command::Cut(answer) if self.cuts.len() < CUTS_WAITING_MAX => {
                    self.cuts.push_back((CutWalk::default(), answer));
                }
                Command::Cut(answer) => drop(answer.try_send(None)),
                Command::Reconfigure(config, answer) => {
                    self.peers.reconfigure(now.tick, &config);
                    let _ = answer.try_send(());
                }
            }
        }
    }

    /// Whether something is being made bit by bit, a bit in each turn.
    pub(super) fn has_walks(&self) -> bool {
        !(self.cuts.is_empty() && self.row_walks.is_empty())
    }

    /// Makes some more rows of a list of connections, and hands it over after the last.
    pub(super) fn continue_rows(&mut self, now: Now) {
        let Some((walk, _)) = self.row_walks.front_mut() else {
            return;
        };
        if self.peers.continue_rows(now.tick, walk) {
            if let Some((walk, answer)) = self.row_walks.pop_front() {
                // The caller may have given up waiting.
                drop(answer.try_send(walk.into_rows()));
            }
        }
    }

    /// Looks at some more peers. After the last, reads what the loop counts, and sends it on behind
    /// everything that was handed over.
    pub(super) fn continue_cut(&mut self, now: Now) {
        let walked = self.cuts.front_mut();
        let walked = walked.map(|(walk, _)| self.peers.continue_cut(walk));
        let Some(Ok(true) | Err(_)) = walked else {
            return;
        };
        let Some((walk, answer)) = self.cuts.pop_front() else {
            return;
        };
        if walked.is_some_and(|walked| walked.is_err()) {
            // The asking thread may have given up waiting.
            drop(answer.try_send(None));
            return;
        }
        let uptime = Duration::from_millis(now.tick);
        let handlers = self.peers.common.handling.rows();
        let waiting = self.waiting.as_ref().map(BlockRef::traffic);
        let at_loop = Box::new(LoopCut {
            shot: self.slots.ledger.snapshot_of_loop(uptime, handlers),
            waiting: waiting.unwrap_or_default(),
            peers: self.peers.finish_cut(walk),
        });
        self.sink.push_cut(CutMarker { at_loop, answer });
    }
}
