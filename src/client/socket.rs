//! The connection's socket: reads and writes that never wait, and the one wait there is.

use std::{
    io,
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::sockopt,
};

use super::error::ClientError;
use crate::{
    clock::Clock,
    limits::{KEEPALIVE_IDLE_S, KEEPALIVE_INTERVAL_S, KEEPALIVE_PROBES, TCP_USER_TIMEOUT_MS},
};

/// The shortest timeout that the system takes for a connection.
const CONNECT_TIMEOUT_MIN: Duration = Duration::from_millis(1);

/// When to stop waiting; `None` is never.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline(Option<Instant>);

impl Deadline {
    /// A time that lies beyond what the clock can tell is never.
    pub(super) fn after(timeout: Option<Duration>) -> Self {
        Self(timeout.and_then(|timeout| Clock::instant().checked_add(timeout)))
    }

    fn remaining(self) -> Option<Duration> {
        self.0
            .map(|at| at.saturating_duration_since(Clock::instant()))
    }
}

/// Connects to one address. `None` leaves the time to the system, which takes two minutes.
pub(super) fn connect(addr: SocketAddr, timeout: Option<Duration>) -> io::Result<TcpStream> {
    match timeout {
        Some(timeout) => TcpStream::connect_timeout(&addr, timeout.max(CONNECT_TIMEOUT_MIN)),
        None => TcpStream::connect(addr),
    }
}

/// Lets small messages go out at once, a host that is gone be noticed as a service does, and no
/// read or write wait.
pub(super) fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(KEEPALIVE_IDLE_S))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(KEEPALIVE_INTERVAL_S))?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
    let timeout_ms = u32::try_from(TCP_USER_TIMEOUT_MS).unwrap_or(u32::MAX);
    sockopt::set_tcp_user_timeout(stream, timeout_ms)?;
    stream.set_nonblocking(true)
}

/// Waits until the stream can be read, or written, as far as asked for, or has failed. Gives
/// whether a read has something to tell.
pub(super) fn wait(
    stream: &TcpStream,
    reads: bool,
    writes: bool,
    deadline: Deadline,
) -> Result<bool, ClientError> {
    let mut interest = PollFlags::empty();
    interest.set(PollFlags::IN, reads);
    interest.set(PollFlags::OUT, writes);
    loop {
        let remaining = deadline.remaining();
        // What the system cannot express is longer than anything lasts.
        let remaining = remaining.and_then(|time| Timespec::try_from(time).ok());
        let mut fds = [PollFd::new(stream, interest)];
        match poll(&mut fds, remaining.as_ref()) {
            Ok(0) => return Err(ClientError::Timeout),
            Ok(_) => {
                let told = PollFlags::IN | PollFlags::HUP | PollFlags::ERR;
                return Ok(fds[0].revents().intersects(told));
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(ClientError::io(&error.into())),
        }
    }
}
