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
    address::lacks_interface,
    error::{AddressError, ListenError},
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
        if lacks_interface(&addr) {
            // The system would only say that an argument is invalid.
            let error = AddressError::NoInterface;
            return Err(io::Error::new(io::ErrorKind::InvalidInput, error));
        }
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

/// Adds to "address already in use" which other listener of the service is in the way, if one is.
pub(crate) fn name_conflict(
    error: io::Error,
    wanted: SocketAddr,
    bound: &[SocketAddr],
) -> io::Error {
    let is_taken = error.kind() == io::ErrorKind::AddrInUse;
    let by = bound
        .iter()
        .find_map(|by| Some((by, conflict(wanted, *by)?)));
    match by.filter(|_| is_taken) {
        Some((by, how)) => {
            let text = format!("{error}: {by}, which this service listens on, {how}");
            io::Error::new(error.kind(), text)
        }
        None => error,
    }
}

/// How one address stands in the way of another that is bound later.
fn conflict(wanted: SocketAddr, bound: SocketAddr) -> Option<&'static str> {
    if wanted.port() != bound.port() {
        return None;
    }
    // An address of IPv6 that stands for one of IPv4 is that one.
    let (new, old) = (wanted.ip().to_canonical(), bound.ip().to_canonical());
    let (is_any, was_any) = (new.is_unspecified(), old.is_unspecified());
    match (new.is_ipv4(), old.is_ipv4()) {
        _ if new == old => Some("is the same"),
        (true, false) if was_any => Some("takes IPv4 as well"),
        (false, true) if is_any => Some("is part of it, since [::] takes IPv4 as well"),
        (one, other) if one == other && was_any => Some("covers it"),
        (one, other) if one == other && is_any => Some("is part of it"),
        _ => None,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_conflict_of_two_listeners_is_named() {
        for (bound, wanted, how) in [
            ("[::]:1", "0.0.0.0:1", "takes IPv4 as well"),
            ("[::]:1", "127.0.0.1:1", "takes IPv4 as well"),
            ("[::]:1", "[::1]:1", "covers it"),
            ("0.0.0.0:1", "127.0.0.1:1", "covers it"),
            ("127.0.0.1:1", "0.0.0.0:1", "is part of it"),
            (
                "0.0.0.0:1",
                "[::]:1",
                "is part of it, since [::] takes IPv4 as well",
            ),
            ("127.0.0.1:1", "127.0.0.1:1", "is the same"),
            ("127.0.0.1:1", "[::ffff:127.0.0.1]:1", "is the same"),
            ("[::]:1", "0.0.0.0:2", ""),
            ("[::1]:1", "127.0.0.1:1", ""),
            ("127.0.0.2:1", "127.0.0.1:1", ""),
        ] {
            let (bound, wanted) = (bound.parse().unwrap(), wanted.parse().unwrap());
            let error = || io::Error::from(Errno::ADDRINUSE);
            let said = name_conflict(error(), wanted, &[bound]).to_string();
            let more = format!(": {bound}, which this service listens on, {how}");
            let expected = if how.is_empty() { "" } else { &more };
            assert_eq!(said, format!("{}{expected}", error()), "{bound} {wanted}");
        }
        // Another error has nothing to do with them.
        let addr = "127.0.0.1:1".parse().unwrap();
        let error = name_conflict(Errno::ACCESS.into(), addr, &[addr]);
        assert!(!error.to_string().contains("listens on"), "{error}");
    }

    /// Every conflict that is named is one to the system (unless `net.ipv6.bindv6only` is set).
    #[test]
    fn the_system_sees_the_same_conflicts() {
        let bind = |ip: &str, port: u16| {
            let ip: std::net::IpAddr = ip.parse().unwrap();
            Listener::bind((ip, port).into(), SocketOptions::default())
        };
        let ips = ["127.0.0.1", "0.0.0.0", "::1", "::", "::ffff:127.0.0.1"];
        for (old, new) in ips
            .iter()
            .flat_map(|old| ips.iter().map(move |new| (old, new)))
        {
            // Where there is no IPv6, nothing is in its way.
            let Ok(first) = bind(old, 0) else { continue };
            let wanted = SocketAddr::new(new.parse().unwrap(), first.addr.port());
            if conflict(wanted, first.addr).is_some() {
                let error = bind(new, first.addr.port()).map(drop).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{old} {new}");
            }
        }
    }
}
