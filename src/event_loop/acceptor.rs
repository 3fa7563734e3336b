//! Listeners: connections that come in, the pauses after a fault, and listeners that come and go.

use std::{io, net::SocketAddr};

use super::state::{Accepting, EventLoop, Phase};
use crate::{
    clock::Now,
    error::CloseReason,
    id::ListenerId,
    limits::{ACCEPT_BACKOFF_MAX_MS, ACCEPT_BACKOFF_MIN_MS, ACCEPTS_PER_TURN},
    log_limiter::Subject,
    peers::Timer,
    socket::{AcceptFault, Listener, Net},
};

impl<N: Net> EventLoop<N> {
    pub(super) fn accept_all(&mut self, now: Now) {
        for index in 0..self.listeners.len() {
            if self.listeners[index] != Accepting::Ready {
                continue;
            }
            let mut skipped = 0;
            for _ in 0..ACCEPTS_PER_TURN {
                // A new peer is told of, so none comes while that finds no room.
                if self.peers.common.told.has_events() {
                    return;
                }
                match self.net.accept(index) {
                    Ok((stream, addr)) => {
                        self.backoffs[index] = ACCEPT_BACKOFF_MIN_MS;
                        self.handle_accepted(now, stream, addr);
                    }
                    Err(mut fault) => {
                        if let AcceptFault::Skip(error) = fault {
                            skipped += 1;
                            // A rule that lets no peer in is not one connection's fault: nothing
                            // gets better by trying again at once.
                            fault = if skipped < ACCEPTS_PER_TURN {
                                AcceptFault::Skip(error)
                            } else {
                                AcceptFault::Exhausted(error)
                            };
                        }
                        self.handle_accept_fault(now, index, fault);
                        if self.listeners[index] != Accepting::Ready {
                            break;
                        }
                    }
                }
            }
        }
    }

    fn handle_accepted(&mut self, now: Now, mut stream: N::Stream, addr: SocketAddr) {
        let Some(id) = self.peers.handle_accepted(now.tick, addr) else {
            self.net.close(stream, false);
            return;
        };
        let registered = self.net.register(&mut stream, id);
        self.keep_stream(id, stream);
        if let Err(error) = registered {
            let subject = Subject::Address(addr.ip());
            if let Some(suppressed) = self.log_limiter.allow(now.tick, "cannot register", subject) {
                log::warn!("peer {id} at {addr} cannot be registered: {error}{suppressed}");
            }
            self.peers.handle_failed(now.tick, id, CloseReason::Io);
        }
        self.run_actions(now);
    }

    fn handle_accept_fault(&mut self, now: Now, index: usize, fault: AcceptFault) {
        let ledger = &self.slots.ledger;
        match fault {
            AcceptFault::WouldBlock => self.listeners[index] = Accepting::Idle,
            AcceptFault::Skip(_) => ledger.accept_errors.add(1),
            AcceptFault::TurnedAway(error) => {
                self.peers.note_turned_away();
                self.handle_accept_fault(now, index, AcceptFault::Exhausted(error));
            }
            AcceptFault::Exhausted(error) => {
                ledger.accept_errors.add(1);
                let pause = self.backoffs[index];
                self.backoffs[index] = (pause * 2).min(ACCEPT_BACKOFF_MAX_MS);
                let subject = Subject::Listener(index);
                if let Some(suppressed) = self.log_limiter.allow(now.tick, "cannot accept", subject)
                {
                    log::warn!("cannot accept for {pause} ms: {error}{suppressed}");
                }
                self.listeners[index] = Accepting::Paused;
                self.peers
                    .common
                    .deadlines
                    .wheel
                    .insert(now.tick + pause, Timer::Accept(index));
            }
            AcceptFault::Dead(error) => {
                ledger.accept_errors.add(1);
                log::error!("listener {index} is dead: {error}");
                self.listeners[index] = Accepting::Closed;
            }
        }
    }

    /// Finds the listener a place, and says whether it was taken in.
    pub(super) fn add_listener(&mut self, id: ListenerId, listener: Listener) -> io::Result<()> {
        if self.phase != Phase::Running {
            return Err(io::Error::other("the service stops"));
        }
        let vacant = self.listener_ids.iter().position(Option::is_none);
        let index = vacant.unwrap_or(self.listeners.len());
        self.net.add_listener(index, listener)?;
        if index == self.listeners.len() {
            self.listeners.push(Accepting::Closed);
            self.listener_ids.push(None);
            self.backoffs.push(ACCEPT_BACKOFF_MIN_MS);
        }
        self.listeners[index] = Accepting::Ready;
        self.listener_ids[index] = Some(id);
        self.backoffs[index] = ACCEPT_BACKOFF_MIN_MS;
        Ok(())
    }

    pub(super) fn remove_listener(&mut self, id: ListenerId) -> bool {
        let place = self.listener_ids.iter().position(|one| *one == Some(id));
        let Some(index) = place else { return false };
        self.listener_ids[index] = None;
        self.listeners[index] = Accepting::Closed;
        self.net.remove_listener(index);
        true
    }
}

const _: () = assert!(ACCEPT_BACKOFF_MIN_MS <= ACCEPT_BACKOFF_MAX_MS);
