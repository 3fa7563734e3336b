//! `serve --metrics`: GET and HEAD over HTTP, one page per path and one request per connection.
//!
//! One thread serves all connections as they become ready, so a client that says nothing, or takes
//! nothing, delays no other. Everything is bounded:
//!
//! - at most [`CONNECTIONS_MAX`] connections; one more closes the oldest that has not asked, and
//!   where all have, the one that is longest at it;
//! - a request has 8 KiB and 3 s, an answer 10 s to be taken;
//! - answers that are not taken hold at most [`ANSWERS_SIZE_MAX`] bytes, and one page: beyond, the
//!   one that waits longest is closed before the next page is made.
//!
//! What it refuses to do: keep connections open, bodies in requests, TLS.

mod connection;
mod request;
#[cfg(test)]
mod tests;

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    panic::{self, AssertUnwindSafe},
    thread,
    time::{Duration, Instant},
};

use mio::{Events, Interest, Poll, Token, net::TcpListener};
use nebnet::Handle;
use slab::Slab;

use crate::{
    failure::Failure,
    pages::{self, Page},
    time,
};
use connection::{Connection, Step, Turn};

/// Within the 64 descriptors that the service leaves to what is no peer.
const CONNECTIONS_MAX: usize = 32;
const ANSWERS_SIZE_MAX: usize = 32 << 20;
/// Connections taken before those that are there have their turn.
const ACCEPTS_PER_TURN: usize = CONNECTIONS_MAX;
/// Pause after an accept that failed, which is mostly for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const LISTENER: Token = Token(usize::MAX);

/// A bound endpoint that does not serve yet, so that a wrong address stops the start early.
#[derive(Debug)]
pub(crate) struct Endpoint {
    listener: std::net::TcpListener,
    addr: SocketAddr,
}

impl Endpoint {
    pub(crate) fn bind(addr: SocketAddr) -> Result<Self, Failure> {
        std::net::TcpListener::bind(addr)
            .and_then(|listener| {
                Ok(Self {
                    addr: listener.local_addr()?,
                    listener,
                })
            })
            .map_err(|error| Failure::new(format!("cannot serve metrics on {addr}: {error}")))
    }

    /// The address, with the port that the system picked.
    pub(crate) const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Serves until the program ends.
    pub(crate) fn start(self, handle: &Handle) -> Result<(), Failure> {
        let fail = |error| Failure::new(format!("cannot serve metrics: {error}"));
        let handle = handle.clone();
        let pages = move |path: &str| pages::page(path, &handle);
        let mut server = Server::new(self.listener, pages).map_err(fail)?;
        thread::Builder::new()
            .name("nebnet-http".to_owned())
            .spawn(move || server.run())
            .map(drop)
            .map_err(fail)
    }
}

/// All connections, and the pages that they ask for.
struct Server<P> {
    poll: Poll,
    events: Events,
    listener: TcpListener,
    /// When to accept again, if a connection may wait.
    accept_at: Option<Instant>,
    connections: Slab<Connection>,
    pages: P,
}

impl<P: FnMut(&str) -> Page> Server<P> {
    fn new(listener: std::net::TcpListener, pages: P) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let mut listener = TcpListener::from_std(listener);
        let poll = Poll::new()?;
        let interest = Interest::READABLE;
        poll.registry()
            .register(&mut listener, LISTENER, interest)?;
        Ok(Self {
            poll,
            events: Events::with_capacity(2 * CONNECTIONS_MAX),
            listener,
            accept_at: None,
            connections: Slab::with_capacity(CONNECTIONS_MAX),
            pages,
        })
    }

    fn run(&mut self) {
        loop {
            let timeout = self.timeout(time::now());
            if let Err(error) = self.turn(timeout) {
                // Nothing that a client does leads here, and another wait may go better.
                log::warn!("metrics: cannot wait for clients: {error}");
                time::sleep(ACCEPT_PAUSE);
            }
        }
    }

    /// One wait, and what follows from it.
    fn turn(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        match self.poll.poll(&mut self.events, timeout) {
            Err(error) if error.kind() == ErrorKind::Interrupted => return Ok(()),
            result => result?,
        }
        let now = time::now();
        for event in &self.events {
            if event.token() == LISTENER {
                self.accept_at = Some(now);
            } else if let Some(connection) = self.connections.get_mut(event.token().0) {
                connection.is_ready = true;
            }
        }
        if self.accept_at.is_some_and(|at| at <= now) {
            self.accept_at = self.accept(now);
        }
        for index in 0..CONNECTIONS_MAX {
            self.serve(index, now);
        }
        Ok(())
    }

    /// Until when there is nothing to do without an event.
    fn timeout(&self, now: Instant) -> Option<Duration> {
        let connections = self.connections.iter().map(|(_, connection)| connection);
        let deadlines = connections.map(|one| if one.is_ready { now } else { one.deadline });
        let earliest = deadlines.chain(self.accept_at).min()?;
        Some(earliest.saturating_duration_since(now))
    }

    /// Takes new clients. Returns when to look again, if not when the next one comes.
    fn accept(&mut self, now: Instant) -> Option<Instant> {
        for _ in 0..ACCEPTS_PER_TURN {
            match self.listener.accept() {
                Ok((stream, _)) => match self.add(Connection::new(stream, now)) {
                    // What it asks for is mostly there, and spares it from being closed for the
                    // next one.
                    Ok(index) => self.serve(index, now),
                    Err(error) => log::debug!("metrics: cannot take a connection: {error}"),
                },
                Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => {
                    log::debug!("metrics: cannot accept: {error}");
                    return Some(now + ACCEPT_PAUSE);
                }
            }
        }
        Some(now)
    }

    /// Makes room for a connection, if need be. There are places up to [`CONNECTIONS_MAX`].
    fn add(&mut self, connection: Connection) -> io::Result<usize> {
        if self.connections.len() == CONNECTIONS_MAX {
            let key = |(_, one): &(usize, &Connection)| (one.step(), one.since);
            if let Some((index, _)) = self.connections.iter().min_by_key(key) {
                self.close(index, "another one came");
            }
        }
        let index = self.connections.insert(connection);
        let stream = &mut self.connections[index].stream;
        let interest = Interest::READABLE | Interest::WRITABLE;
        let registry = self.poll.registry();
        if let Err(error) = registry.register(stream, Token(index), interest) {
            self.connections.remove(index);
            return Err(error);
        }
        Ok(index)
    }

    /// Gives a connection its turn, and closes it when its time is over.
    fn serve(&mut self, index: usize, now: Instant) {
        let Some(connection) = self.connections.get_mut(index) else {
            return;
        };
        if connection.is_ready {
            match self.go_on(index, now) {
                Ok(Turn::Done) => {
                    self.connections.remove(index);
                    return;
                }
                Ok(turn) => self.connections[index].is_ready = turn == Turn::Again,
                Err(error) => return self.close(index, &error.to_string()),
            }
        }
        if self.connections[index].deadline <= now {
            self.close(index, "its time is over");
        }
    }

    fn go_on(&mut self, index: usize, now: Instant) -> io::Result<Turn> {
        let connection = &mut self.connections[index];
        if let Some(asked) = connection.read_request()? {
            let page = match asked {
                Ok(path) => {
                    self.make_room();
                    self.page(&path)
                }
                Err(status) => refusal(status),
            };
            self.connections[index].answer(now, &page);
        }
        self.connections[index].go_on(now)
    }

    /// A page that cannot be made is no reason to make no other.
    fn page(&mut self, path: &str) -> Page {
        let pages = &mut self.pages;
        panic::catch_unwind(AssertUnwindSafe(|| pages(path)))
            .unwrap_or_else(|_| Page::text(500, "this page failed"))
    }

    /// Closes those that have long not taken their answers, as far as the memory is needed.
    fn make_room(&mut self) {
        loop {
            let connections = self.connections.iter();
            let held: usize = connections.map(|(_, one)| one.held()).sum();
            if held <= ANSWERS_SIZE_MAX {
                return;
            }
            let connections = self.connections.iter();
            let slow = connections.filter(|(_, one)| one.step() == Step::Answering);
            let Some((index, _)) = slow.min_by_key(|(_, one)| one.since) else {
                return;
            };
            self.close(index, "it takes its answer too slowly");
        }
    }

    fn close(&mut self, index: usize, why: &str) {
        let connection = self.connections.remove(index);
        let step = connection.step();
        log::debug!("metrics: a connection is closed while {step:?}: {why}");
    }
}

/// The answer to what is no request for a page.
fn refusal(status: u16) -> Page {
    let text = match status {
        405 => "GET and HEAD only",
        431 => "request too long",
        505 => "HTTP/1.0 and HTTP/1.1 only",
        _ => "not an HTTP request for a page",
    };
    Page::text(status, text)
}
