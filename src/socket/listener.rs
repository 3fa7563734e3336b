//! Listening sockets.
//!
//! Options are set on the listener: Linux gives them to every connection it accepts, which saves
//! half a dozen system calls per connection.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use rustix::net::{self, AddressFamily, SocketFlags, SocketType, ipproto, sockopt};

use crate::limits::{
    KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_PROBES, LISTEN_BACKLOG, TCP_USER_TIMEOUT_MS,
};

/// Options of a listener and the connections that it accepts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ListenOptions {
    /// In milliseconds; zero leaves the system's default.
    pub(crate) tcp_user_timeout_ms: u32,
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
    pub(crate) fn bind(addr: SocketAddr, options: ListenOptions) -> io::Result<Self> {
        let family = if addr.is_ipv4() {
            AddressFamily::INET
        } else {
            AddressFamily::INET6
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        sockopt::set_tcp_nodelay(&socket, true)?;
        sockopt::set_socket_keepalive(&socket, true)?;
        sockopt::set_tcp_keepidle(&socket, Duration::from_secs(KEEPALIVE_IDLE_S))?;
        sockopt::set_tcp_keepintvl(&socket, Duration::from_secs(KEEPALIVE_INTERVAL_S))?;
        sockopt::set_tcp_keepcnt(&socket, KEEPALIVE_PROBES)?;
        if options.tcp_user_timeout_ms > 0 {
            sockopt::set_tcp_user_timeout(&socket, options.tcp_user_timeout_ms)?;
        }
        net::bind(&socket, &addr)?;
        net::listen(&socket, LISTEN_BACKLOG)?;
        let socket = TcpListener::from(socket);
        let addr = socket.local_addr()?;
        Ok(Self {
            socket: mio::net::TcpListener::from_std(socket),
            addr,
        })
    }
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self {
            tcp_user_timeout_ms: u32::try_from(TCP_USER_TIMEOUT_MS).unwrap_or(0),
        }
    }
}
