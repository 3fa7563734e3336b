//! Listening sockets, and those that connect.
//!
//! Options are set on the listener: Linux gives them to every connection it accepts, which saves
//! half a dozen system calls per connection.

use std::{
    io,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use rustix::{
    io::Errno,
    net::{self, AddressFamily, SocketFlags, SocketType, ipproto, sockopt},
};
use socket2::SockRef;

use super::kind::expect_listening;
use crate::{
    error::ListenError,
    limits::{
        KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_PROBES, LISTEN_BACKLOG,
        TCP_USER_TIMEOUT_MS,
    },
};

/// Options of a listener and the connections that it accepts, and of those that we make.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SocketOptions {
    /// In milliseconds; zero leaves the system's default.
    pub(crate) tcp_user_timeout_ms: u32,
    /// Sizes of the kernel's buffers in bytes; zero leaves them to the system.
    pub(crate) send_buffer: usize,
    pub(crate) recv_buffer: usize,
    /// `TCP_NOTSENT_LOWAT` in bytes; zero leaves what the system takes ahead to the system.
    pub(crate) notsent_lowat: u32,
}

/// A socket that listens.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(super) socket: mio::net::TcpListener,
    pub(crate) addr: SocketAddr,
}

impl Listener {
    /// Binds and listens. `SO_REUSEADDR` is set, so that a restart need not wait for connections of
    /// the last run to expire; a port that somebody listens on is refused all the same.
    pub(crate) fn bind(addr: SocketAddr, options: SocketOptions) -> io::Result<Self> {
        let socket = make_socket(addr)?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        options.apply(&socket)?;
        net::bind(&socket, &addr)?;
        net::listen(&socket, LISTEN_BACKLOG)?;
        Self::from_socket(TcpListener::from(socket))
    }

    /// Binds and listens once for each shard, on one port; the kernel spreads the connections.
    ///
    /// The first socket is bound as one that shares its port with nobody, so that a port which
    /// somebody listens on is refused, even if that is a service with several shards too.
    pub(crate) fn bind_each(
        addr: SocketAddr,
        options: SocketOptions,
        shards: usize,
    ) -> io::Result<Vec<Self>> {
        if shards == 1 {
            return Ok(vec![Self::bind(addr, options)?]);
        }
        let (mut addr, mut listeners) = (addr, Vec::new());
        for shard in 0..shards {
            let socket = make_socket(addr)?;
            sockopt::set_socket_reuseaddr(&socket, true)?;
            options.apply(&socket)?;
            if shard > 0 {
                sockopt::set_socket_reuseport(&socket, true)?;
            }
            net::bind(&socket, &addr)?;
            sockopt::set_socket_reuseport(&socket, true)?;
            net::listen(&socket, LISTEN_BACKLOG)?;
            let listener = Self::from_socket(TcpListener::from(socket))?;
            addr = listener.addr;
            listeners.push(listener);
        }
        Ok(listeners)
    }

    /// Takes a listening socket over for each shard: it is one queue of connections, and whoever
    /// comes first takes the next.
    pub(crate) fn adopt_each(
        socket: TcpListener,
        options: SocketOptions,
        shards: usize,
    ) -> Result<Vec<Self>, ListenError> {
        expect_listening(&socket)?;
        let others = (1..shards).map(|_| socket.try_clone());
        let others: Vec<TcpListener> =
            others.collect::<io::Result<_>>().map_err(ListenError::Io)?;
        let all = std::iter::once(socket).chain(others);
        let adopted = all.map(|socket| Self::adopt(socket, options));
        adopted.collect::<io::Result<_>>().map_err(ListenError::Io)
    }

    /// Takes over a socket that listens already. Its backlog stays what it is.
    fn adopt(socket: TcpListener, options: SocketOptions) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        options.apply(&socket)?;
        Self::from_socket(socket)
    }

    fn from_socket(socket: TcpListener) -> io::Result<Self> {
        let addr = socket.local_addr()?;
        Ok(Self {
            socket: mio::net::TcpListener::from_std(socket),
            addr,
        })
    }
}

impl SocketOptions {
    fn apply(self, socket: impl AsFd) -> io::Result<()> {
        sockopt::set_tcp_nodelay(&socket, true)?;
        sockopt::set_socket_keepalive(&socket, true)?;
        sockopt::set_tcp_keepidle(&socket, Duration::from_secs(KEEPALIVE_IDLE_S))?;
        sockopt::set_tcp_keepintvl(&socket, Duration::from_secs(KEEPALIVE_INTERVAL_S))?;
        sockopt::set_tcp_keepcnt(&socket, KEEPALIVE_PROBES)?;
        if self.tcp_user_timeout_ms > 0 {
            sockopt::set_tcp_user_timeout(&socket, self.tcp_user_timeout_ms)?;
        }
        if self.notsent_lowat > 0 {
            SockRef::from(&socket).set_tcp_notsent_lowat(self.notsent_lowat)?;
        }
        // Before the connection is made, since the window's scale is agreed on then.
        if self.send_buffer > 0 {
            sockopt::set_socket_send_buffer_size(&socket, self.send_buffer)?;
        }
        if self.recv_buffer > 0 {
            sockopt::set_socket_recv_buffer_size(&socket, self.recv_buffer)?;
        }
        Ok(())
    }
}

/// Begins to connect. The socket is writable once the connection is made, or has failed.
pub(super) fn begin_connect(addr: SocketAddr, options: SocketOptions) -> io::Result<TcpStream> {
    let socket = make_socket(addr)?;
    options.apply(&socket)?;
    match net::connect(&socket, &addr) {
        Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => Ok(TcpStream::from(socket)),
        Err(error) => Err(error.into()),
    }
}

/// Whether a connection that was begun is made.
pub(super) fn finish_connect(stream: &mio::net::TcpStream) -> io::Result<bool> {
    if let Some(error) = stream.take_error()? {
        return Err(error);
    }
    match stream.peer_addr() {
        // A port of ours that nobody listens on can be the one that the system chose for this end:
        // the socket is then connected to itself.
        Ok(addr) if stream.local_addr()? == addr => Err(Errno::CONNREFUSED.into()),
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
        Err(error) => Err(error),
    }
}

fn make_socket(addr: SocketAddr) -> io::Result<OwnedFd> {
    let family = if addr.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    Ok(socket)
}

impl Default for SocketOptions {
    fn default() -> Self {
        Self {
            tcp_user_timeout_ms: u32::try_from(TCP_USER_TIMEOUT_MS).unwrap_or(0),
            send_buffer: 0,
            recv_buffer: 0,
            notsent_lowat: 0,
        }
    }
}
