//! Listeners that come and go while the service runs.

use std::{
    net::{SocketAddr, TcpListener},
    sync::atomic::Ordering,
};

use crossbeam_channel::bounded;

use super::{ANSWER_TIMEOUT, Command, Handle, ListenerInfo, asking::of_those_that_run};
use crate::{
    error::{ListenError, QueryError},
    id::ListenerId,
    ledger::ServiceState,
    slots::never_waits,
    socket::Listener,
};

impl Handle {
    /// Listens on one more address; port 0 picks a free one, which the answer names. Before the
    /// start of the service connections wait for it.
    ///
    /// # Errors
    ///
    /// See [`ListenError`]; there may be 64 listeners.
    pub fn listen(&self, addr: SocketAddr) -> Result<ListenerInfo, ListenError> {
        let (options, shards) = (self.shared.socket_options, self.shared.shards.len());
        let listeners = Listener::bind_each(addr, options, shards);
        self.add_listeners(listeners.map_err(ListenError::Io)?)
    }

    /// Takes over a socket that listens already: one that a supervisor has opened, or that survived
    /// a restart. Its options are set as for the others; its backlog stays what it is.
    ///
    /// With several [`shards`](crate::Config::shards) all of them accept from this one socket, and
    /// its connections go to whichever loop comes first rather than evenly to all. The descriptor
    /// is duplicated for each.
    ///
    /// # Errors
    ///
    /// [`ListenError::NotListening`] if the descriptor is anything but a TCP socket that listens,
    /// and the others of [`ListenError`]. The descriptor is closed then.
    pub fn listen_from(&self, socket: TcpListener) -> Result<ListenerInfo, ListenError> {
        let (options, shards) = (self.shared.socket_options, self.shared.shards.len());
        let listeners = Listener::adopt_each(socket, options, shards);
        self.add_listeners(listeners?)
    }

    /// Closes a listener; connections that it has accepted stay. `Ok(false)` if there is none of
    /// this id.
    ///
    /// # Errors
    ///
    /// See [`QueryError`]. After [`QueryError::Timeout`] it is closed as soon as the loop comes to
    /// it.
    pub fn unlisten(&self, listener: ListenerId) -> Result<bool, QueryError> {
        let closed = self.ask_all(|answer| Command::Unlisten(listener, answer));
        Ok(of_those_that_run(closed)?.contains(&true))
    }

    /// Gives each loop its listener; there is one for each.
    pub(super) fn add_listeners(
        &self,
        listeners: Vec<Listener>,
    ) -> Result<ListenerInfo, ListenError> {
        let shared = &self.shared;
        let id = ListenerId(shared.next_listener.fetch_add(1, Ordering::Relaxed));
        if self.has_ended() {
            return Err(ListenError::Stopped);
        }
        let addr = listeners.first().ok_or(ListenError::Busy)?.addr;
        // There is no answer before the start, nor one of the loop to itself.
        let waits = shared.state.get() != ServiceState::New && !never_waits();
        let deadline = shared.clock.elapsed() + ANSWER_TIMEOUT;
        let mut answers = Vec::new();
        let mut result = Ok(ListenerInfo { id, addr });
        for (shard, listener) in shared.shards.iter().zip(listeners) {
            let (answer, answered) = bounded(1);
            let command = Command::Listen(id, Box::new(listener), answer);
            match shard.try_command(command) {
                Ok(()) => answers.push((shard, answered)),
                Err(()) => result = Err(ListenError::Busy),
            }
        }
        for (shard, answered) in answers.into_iter().filter(|_| waits) {
            let answer = shard.answer(&answered, shared.clock, deadline);
            match answer {
                Some(Ok(())) => {}
                Some(Err(error)) => result = Err(ListenError::Io(error)),
                None => result = Err(ListenError::Busy),
            }
        }
        if result.is_err() {
            // The loops that took a listener give it up again.
            for shard in &shared.shards {
                let _ = shard.try_command(Command::Unlisten(id, bounded(1).0));
            }
        }
        result
    }
}
