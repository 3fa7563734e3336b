//! The real network: mio's poll, and system calls on its streams.

use std::{
    fs::File,
    io::{self, IoSlice, IoSliceMut},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use mio::{Events, Interest, Poll, Token, Waker, net::TcpStream};
use rustix::{
    buffer::spare_capacity,
    io::Errno,
    net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, sockopt},
    process::{Resource, Rlimit, getrlimit, setrlimit},
};

use super::{
    AcceptFault, Event, Listener, Net, Ready, SocketOptions, Unacknowledged, diag::Diag, listener,
};
use crate::{
    id::PeerId,
    limits::{EVENTS_PER_POLL, LISTENERS_MAX},
};

/// The waker's token. Peers have their id as a token, whose index never has all bits set.
const TOKEN_WAKER: Token = Token(usize::MAX);
/// The first listener's token; the others follow.
const TOKEN_LISTENERS: usize = usize::MAX - LISTENERS_MAX;

const _: () = assert!(usize::BITS == 64, "a peer's id has to fit a token");

/// mio's poll with the listeners, and a spare descriptor.
pub(crate) struct Sockets {
    poll: Poll,
    events: Events,
    listeners: Vec<Option<Listener>>,
    options: SocketOptions,
    diag: Diag,
    /// Given up for a moment when descriptors run out, to accept and close the connection that
    /// waits: its peer learns at once, instead of waiting in a queue that nobody serves.
    spare: Option<File>,
}

impl Sockets {
    pub(crate) fn new(listeners: Vec<Listener>, options: SocketOptions) -> io::Result<Self> {
        let mut sockets = Self {
            poll: Poll::new()?,
            events: Events::with_capacity(EVENTS_PER_POLL),
            listeners: Vec::new(),
            options,
            diag: Diag::default(),
            spare: open_spare(),
        };
        for (index, listener) in listeners.into_iter().enumerate() {
            sockets.add_listener(index, listener)?;
        }
        Ok(sockets)
    }

    /// What ends a poll from another thread.
    pub(crate) fn waker(&self) -> io::Result<impl Fn() + Send + Sync + 'static> {
        let waker = Arc::new(Waker::new(self.poll.registry(), TOKEN_WAKER)?);
        // An eventfd that is full is one that will wake: there is nothing to do about an error.
        Ok(move || drop(waker.wake()))
    }
}

impl Net for Sockets {
    type Stream = TcpStream;

    fn poll(&mut self, events: &mut Vec<Event>, timeout: Option<Duration>) -> io::Result<bool> {
        let mut timeout = timeout;
        // A process that was stopped and continued is told so, and not what came meanwhile. That is
        // to be seen before time is judged, so it is looked at again, without waiting.
        while let Err(error) = self.poll.poll(&mut self.events, timeout) {
            if error.kind() != io::ErrorKind::Interrupted {
                return Err(error);
            }
            timeout = Some(Duration::ZERO);
        }
        let mut count = 0;
        for event in &self.events {
            count += 1;
            match event.token() {
                TOKEN_WAKER => {}
                Token(token) if token >= TOKEN_LISTENERS => {
                    events.push(Event::Listener(token - TOKEN_LISTENERS));
                }
                Token(token) => {
                    let peer = PeerId::from_bits(token as u64);
                    events.push(Event::Peer(peer, readiness(event)));
                }
            }
        }
        Ok(count == EVENTS_PER_POLL)
    }

    fn accept(&mut self, listener: usize) -> Result<(TcpStream, SocketAddr), AcceptFault> {
        let Some(Some(listener)) = self.listeners.get(listener) else {
            return Err(AcceptFault::WouldBlock);
        };
        if self.spare.is_none() {
            self.spare = open_spare();
        }
        let error = match listener.socket.accept() {
            Ok(accepted) => return Ok(accepted),
            Err(error) => error,
        };
        let is_out = Errno::from_io_error(&error) == Some(Errno::MFILE);
        if !(is_out && self.spare.take().is_some()) {
            return Err(AcceptFault::of(error));
        }
        // Another process may have taken the connection, or another thread the descriptor.
        let is_closed = listener.socket.accept().map(drop).is_ok();
        self.spare = open_spare();
        Err(if is_closed {
            AcceptFault::TurnedAway(error)
        } else {
            AcceptFault::Exhausted(error)
        })
    }

    fn register(&mut self, stream: &mut TcpStream, peer: PeerId) -> io::Result<()> {
        let token = Token(usize::try_from(peer.to_bits()).unwrap_or(usize::MAX));
        let interest = Interest::READABLE | Interest::WRITABLE | Interest::PRIORITY;
        self.poll.registry().register(stream, token, interest)
    }

    fn connect(&mut self, addr: SocketAddr, peer: PeerId) -> io::Result<TcpStream> {
        let mut stream = TcpStream::from_std(listener::begin_connect(addr, self.options)?);
        self.register(&mut stream, peer)?;
        Ok(stream)
    }

    fn is_connected(&mut self, stream: &mut TcpStream) -> io::Result<bool> {
        listener::finish_connect(stream)
    }

    fn read(
        &mut self,
        stream: &mut TcpStream,
        buffer: &mut Vec<u8>,
        limit: usize,
    ) -> io::Result<usize> {
        let spare = buffer.capacity() - buffer.len();
        if spare <= limit {
            return retry(|| {
                rustix::net::recv(&*stream, spare_capacity(buffer), RecvFlags::empty())
            })
            .map(|(count, _)| count);
        }
        // Only near a limit is the space cleared first; unlimited reads go into it as it is.
        let start = buffer.len();
        buffer.resize(start + limit, 0);
        let result =
            retry(|| rustix::net::recv(&*stream, &mut buffer[start..], RecvFlags::empty()));
        let count = result.as_ref().map_or(0, |(count, _)| *count);
        buffer.truncate(start + count);
        result.map(|(count, _)| count)
    }

    fn read_vectored(
        &mut self,
        stream: &mut TcpStream,
        slices: &mut [IoSliceMut<'_>],
    ) -> io::Result<usize> {
        retry(|| rustix::io::readv(&*stream, slices))
    }

    fn write(&mut self, stream: &mut TcpStream, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match slices {
            [] => Ok(0),
            [slice] => retry(|| rustix::net::send(&*stream, slice, SendFlags::NOSIGNAL)),
            slices => retry(|| {
                let mut control = SendAncillaryBuffer::default();
                rustix::net::sendmsg(&*stream, slices, &mut control, SendFlags::NOSIGNAL)
            }),
        }
    }

    fn unacknowledged(&mut self, stream: &TcpStream, last: bool) -> Unacknowledged {
        self.diag.unacknowledged(stream, last)
    }

    fn shutdown(&mut self, stream: &mut TcpStream) -> io::Result<()> {
        Ok(rustix::net::shutdown(&*stream, Shutdown::Write)?)
    }

    fn unread(&mut self, stream: &mut TcpStream) -> u64 {
        rustix::io::ioctl_fionread(&*stream).unwrap_or(0)
    }

    fn close(&mut self, stream: TcpStream, abort: bool) {
        if abort {
            // A connection that cannot be set up for a RST is closed all the same.
            let _ = sockopt::set_socket_linger(&stream, Some(Duration::ZERO));
        }
        drop(stream);
    }

    fn add_listener(&mut self, index: usize, mut listener: Listener) -> io::Result<()> {
        if index >= LISTENERS_MAX {
            return Err(io::Error::other("there are 64 listeners already"));
        }
        let token = Token(TOKEN_LISTENERS + index);
        self.poll
            .registry()
            .register(&mut listener.socket, token, Interest::READABLE)?;
        if self.listeners.len() <= index {
            self.listeners.resize_with(index + 1, || None);
        }
        self.listeners[index] = Some(listener);
        Ok(())
    }

    fn remove_listener(&mut self, index: usize) {
        if let Some(place) = self.listeners.get_mut(index) {
            *place = None;
        }
    }

    fn close_listeners(&mut self) {
        self.listeners.clear();
    }
}

/// Raises the soft limit of descriptors to the hard one and returns how many may be open.
pub(crate) fn raise_descriptor_limit() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current == limit.maximum {
        return limit.current;
    }
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    }
}

fn open_spare() -> Option<File> {
    File::open("/dev/null").ok()
}

fn retry<T>(mut call: impl FnMut() -> rustix::io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(Errno::INTR) => {}
            result => return result.map_err(io::Error::from),
        }
    }
}

fn readiness(event: &mio::event::Event) -> Ready {
    let mut ready = Ready::default();
    if event.is_readable() {
        ready.set(Ready::READ);
    }
    if event.is_writable() {
        ready.set(Ready::WRITE);
    }
    if event.is_read_closed() {
        ready.set(Ready::READ | Ready::READ_CLOSED);
    }
    if event.is_priority() {
        ready.set(Ready::READ | Ready::URGENT);
    }
    if event.is_error() || (event.is_read_closed() && event.is_write_closed()) {
        ready.set(Ready::READ | Ready::WRITE | Ready::ERROR);
    }
    ready
}

impl std::fmt::Debug for Sockets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sockets")
            .field("listeners", &self.listeners)
            .finish_non_exhaustive()
    }
}
