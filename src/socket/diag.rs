//! What the peer's system has not acknowledged of what was written: a question to the system about
//! one connection, by `sock_diag` (see sock_diag(7)).
//!
//! The system looks the connection up by its two addresses and its cookie, so that one that came
//! after it under the same addresses is never taken for it. The answer is there when the question
//! has been sent. Both together cost five system calls, too many for each message or each write.
//!
//! A connection that is over is in no table of the system any more. What it still tells is whether
//! it ended in an error; if it did not, everything up to our FIN was acknowledged, or it would not
//! be over.

use std::{io, net::SocketAddr, os::fd::OwnedFd};

use mio::net::TcpStream;
use rustix::{
    io::Errno,
    net::{
        AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send,
        socket_with, sockopt,
    },
};

use super::Unacknowledged;

/// From linux/netlink.h, linux/sock_diag.h, linux/inet_diag.h and netinet/in.h.
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const IPPROTO_TCP: u8 = 6;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// States in which our FIN is out and not acknowledged, and those in which it is.
const STATES_FIN_OUT: [u8; 3] = [4, 9, 11];
const STATES_FIN_ACKNOWLEDGED: [u8; 2] = [5, 6];

/// `struct nlmsghdr` and `struct inet_diag_req_v2`.
const HEADER_SIZE: usize = 16;
const REQUEST_SIZE: usize = HEADER_SIZE + 56;
/// In an answer: `idiag_state` and `idiag_wqueue` of `struct inet_diag_msg`.
const STATE_AT: usize = HEADER_SIZE + 1;
const WQUEUE_AT: usize = HEADER_SIZE + 60;
const ANSWER_SIZE: usize = 1024;
/// Behind that come attributes. `INET_DIAG_INFO` is `struct tcp_info`, as far as the system knows
/// it; `tcpi_notsent_bytes` in it came with Linux 4.6.
const ATTRIBUTES_AT: usize = HEADER_SIZE + 72;
const ATTRIBUTE_HEADER_SIZE: usize = 4;
const INET_DIAG_INFO: u16 = 2;
const NOTSENT_AT: usize = 144;
/// Answers to earlier questions that are passed over.
const STALE_ANSWERS_MAX: usize = 8;
/// Questions without a find, if there never was one, after which there is nothing to be found: so
/// it is in a namespace of the network that is not the process's.
const NOT_FOUND_MAX: u32 = 4;

/// A segment that the system takes although its send buffer is full: the largest that it makes.
const SEGMENT_SIZE_MAX: u64 = 512 << 10;

/// Asks the system; opened when the first question comes.
#[derive(Debug, Default)]
pub(super) struct Diag {
    state: State,
    sequence: u32,
    found: Found,
}

/// Whether connections are found at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// None yet, in so many questions.
    NotYet(u32),
    Once,
}

impl Default for Found {
    fn default() -> Self {
        Self::NotYet(0)
    }
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Unopened,
    Open(OwnedFd),
    /// There is no such thing here.
    Absent,
}

impl Diag {
    /// As [`Net::unacknowledged`](super::Net::unacknowledged).
    pub(super) fn unacknowledged(&mut self, stream: &TcpStream, last: bool) -> Unacknowledged {
        self.sequence = self.sequence.wrapping_add(1);
        let socket = match self.state.open() {
            Ok(socket) => socket,
            Err(told) => return told,
        };
        let (Ok(local), Ok(cookie)) = (stream.local_addr(), sockopt::socket_cookie(stream)) else {
            return Unacknowledged::Unknown;
        };
        let remote = match stream.peer_addr() {
            Ok(addr) => addr,
            Err(error) => return ended(stream, &error, last),
        };
        let request = request(self.sequence, local, remote, cookie);
        match ask(socket, &request, self.sequence) {
            Ok(answer) => {
                self.found = Found::Once;
                answer
            }
            // It may have ended just now.
            Err(Errno::NOENT) => match stream.peer_addr() {
                Ok(_) => self.handle_not_found(),
                Err(error) => ended(stream, &error, last),
            },
            Err(_) => Unacknowledged::Unknown,
        }
    }

    /// The system does not know of a connection that there is.
    fn handle_not_found(&mut self) -> Unacknowledged {
        match &mut self.found {
            Found::Once => Unacknowledged::Unknown,
            Found::NotYet(count) if *count + 1 < NOT_FOUND_MAX => {
                *count += 1;
                Unacknowledged::Unknown
            }
            Found::NotYet(_) => {
                self.state.give_up(Errno::NOENT);
                Unacknowledged::Never
            }
        }
    }
}

impl State {
    fn open(&mut self) -> Result<&OwnedFd, Unacknowledged> {
        if matches!(self, Self::Unopened) {
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let (family, protocol) = (AddressFamily::NETLINK, Some(netlink::SOCK_DIAG));
            match socket_with(family, SocketType::DGRAM, flags, protocol) {
                Ok(socket) => *self = Self::Open(socket),
                // Of these there may be some again.
                Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {}
                Err(error) => self.give_up(error),
            }
        }
        match self {
            Self::Open(socket) => Ok(socket),
            Self::Unopened => Err(Unacknowledged::Unknown),
            Self::Absent => Err(Unacknowledged::Never),
        }
    }

    fn give_up(&mut self, error: Errno) {
        *self = Self::Absent;
        let error = io::Error::from(error);
        log::info!("the system does not tell what peers acknowledge: {error}");
    }
}

/// Of a connection that has no peer any more.
fn ended(stream: &TcpStream, error: &io::Error, last: bool) -> Unacknowledged {
    // The error is the next read's, if there is one: to look at it takes it away.
    if !last || error.kind() != io::ErrorKind::NotConnected {
        return Unacknowledged::Unknown;
    }
    let failed = !matches!(stream.take_error(), Ok(None));
    let buffer = sockopt::socket_send_buffer_size(stream).unwrap_or(usize::MAX / 4) as u64;
    Unacknowledged::Ended {
        failed,
        // Where memory is short, the system makes the buffer half as large as what is in it.
        at_most: 2 * buffer + SEGMENT_SIZE_MAX,
    }
}

fn request(sequence: u32, local: SocketAddr, remote: SocketAddr, cookie: u64) -> Vec<u8> {
    let mut request = Vec::with_capacity(REQUEST_SIZE);
    let size = u32::try_from(REQUEST_SIZE).unwrap_or(0);
    request.extend(size.to_ne_bytes());
    request.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    request.extend(NLM_F_REQUEST.to_ne_bytes());
    request.extend(sequence.to_ne_bytes());
    request.extend([0; 4]);
    let family = if local.is_ipv4() { AF_INET } else { AF_INET6 };
    let attributes = 1 << (INET_DIAG_INFO - 1);
    request.extend([family, IPPROTO_TCP, attributes, 0]);
    request.extend(u32::MAX.to_ne_bytes());
    request.extend(local.port().to_be_bytes());
    request.extend(remote.port().to_be_bytes());
    for addr in [local, remote] {
        let mut bytes = [0; 16];
        match addr {
            SocketAddr::V4(addr) => bytes[..4].copy_from_slice(&addr.ip().octets()),
            SocketAddr::V6(addr) => bytes = addr.ip().octets(),
        }
        request.extend(bytes);
    }
    let interface = match remote {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(addr) => addr.scope_id(),
    };
    request.extend(interface.to_ne_bytes());
    // The lower half comes first, whatever the order of bytes is.
    let [low, high] = [cookie & u64::from(u32::MAX), cookie >> 32];
    for half in [low, high] {
        request.extend(u32::try_from(half).unwrap_or(0).to_ne_bytes());
    }
    debug_assert_eq!(request.len(), REQUEST_SIZE);
    request
}

fn ask(socket: &OwnedFd, request: &[u8], sequence: u32) -> Result<Unacknowledged, Errno> {
    send(socket, request, SendFlags::DONTWAIT)?;
    let mut answer = [0; ANSWER_SIZE];
    for _ in 0..STALE_ANSWERS_MAX {
        let (count, _) = recv(socket, &mut answer[..], RecvFlags::DONTWAIT)?;
        let answer = &answer[..count];
        if number_at(answer, 8) == Some(sequence) {
            return read(answer);
        }
    }
    Err(Errno::AGAIN)
}

fn read(answer: &[u8]) -> Result<Unacknowledged, Errno> {
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok());
    match kind.map(u16::from_ne_bytes) {
        Some(SOCK_DIAG_BY_FAMILY) => {}
        Some(NLMSG_ERROR) => {
            let code = number_at(answer, HEADER_SIZE).unwrap_or(0);
            let code = i32::from_ne_bytes(code.to_ne_bytes());
            return Err(Errno::from_raw_os_error(code.wrapping_neg()));
        }
        _ => return Err(Errno::PROTO),
    }
    let (Some(state), Some(queued)) = (answer.get(STATE_AT), number_at(answer, WQUEUE_AT)) else {
        return Err(Errno::PROTO);
    };
    let bytes = if STATES_FIN_ACKNOWLEDGED.contains(state) {
        0
    } else if STATES_FIN_OUT.contains(state) {
        // The FIN counts as a byte.
        u64::from(queued).saturating_sub(1)
    } else {
        queued.into()
    };
    Ok(if bytes > 0 && not_sent(answer) > 0 {
        Unacknowledged::Unsent(bytes)
    } else {
        Unacknowledged::Bytes(bytes)
    })
}

/// What was taken and not sent; zero where that is not told.
fn not_sent(answer: &[u8]) -> u32 {
    let mut rest = answer.get(ATTRIBUTES_AT..).unwrap_or(&[]);
    while let Some(&[a, b, c, d]) = rest.first_chunk() {
        let (size, kind) = (u16::from_ne_bytes([a, b]), u16::from_ne_bytes([c, d]));
        let size = usize::from(size).max(ATTRIBUTE_HEADER_SIZE);
        if kind == INET_DIAG_INFO {
            let attribute = &rest[..size.min(rest.len())];
            return number_at(attribute, ATTRIBUTE_HEADER_SIZE + NOTSENT_AT).unwrap_or(0);
        }
        rest = rest.get(size.next_multiple_of(4)..).unwrap_or(&[]);
    }
    0
}

fn number_at(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(u32::from_ne_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use std::{io::Read as _, net::TcpListener, time::Duration};

    use rustix::net::Shutdown;

    use super::*;

    /// An accepted stream, and the client's.
    fn pair(addr: &str) -> (TcpStream, std::net::TcpStream) {
        let listener = TcpListener::bind(addr).unwrap();
        let mut addr = listener.local_addr().unwrap();
        if addr.is_ipv6() && addr.ip().is_unspecified() {
            addr.set_ip("127.0.0.1".parse().unwrap());
        }
        let client = std::net::TcpStream::connect(addr).unwrap();
        let (stream, _) = listener.accept().unwrap();
        stream.set_nonblocking(true).unwrap();
        (TcpStream::from_std(stream), client)
    }

    fn write_until_full(stream: &TcpStream) -> u64 {
        let bytes = [7; 64 << 10];
        let mut written = 0;
        while let Ok(count) = send(stream, &bytes, SendFlags::NOSIGNAL) {
            written += count as u64;
        }
        written
    }

    /// Waits for an answer; each ends a test that hangs after a minute.
    #[track_caller]
    fn wait_for(what: &str, mut answer: impl FnMut() -> Option<Unacknowledged>) {
        let mut last = None;
        for _ in 0..60_000 {
            last = answer();
            if last.is_none() {
                return;
            }
            std::thread::park_timeout(Duration::from_millis(1));
        }
        panic!("{what}: {last:?}");
    }

    fn is_acknowledged(diag: &mut Diag, stream: &TcpStream, last: bool) -> Option<Unacknowledged> {
        let told = diag.unacknowledged(stream, last);
        (told != Unacknowledged::Bytes(0)).then_some(told)
    }

    #[test]
    fn the_system_tells_what_was_not_acknowledged() {
        for addr in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
            let mut diag = Diag::default();
            let (stream, mut client) = pair(addr);
            assert_eq!(
                diag.unacknowledged(&stream, false),
                Unacknowledged::Bytes(0)
            );
            let written = write_until_full(&stream);
            let told = diag.unacknowledged(&stream, false);
            let Unacknowledged::Unsent(waits) = told else {
                panic!("{addr}: {told:?}");
            };
            assert!(
                0 < waits && waits <= written,
                "{addr}: {waits} of {written}"
            );
            rustix::net::shutdown(&stream, Shutdown::Write).unwrap();
            io::copy(&mut client.by_ref().take(written), &mut io::sink()).unwrap();
            // The FIN is not counted, whether it is acknowledged or not.
            wait_for(addr, || is_acknowledged(&mut diag, &stream, false));
        }
    }

    #[test]
    fn what_a_reset_destroys_is_bounded_and_an_end_in_order_leaves_nothing() {
        let mut diag = Diag::default();
        let (stream, client) = pair("127.0.0.1:0");
        let written = write_until_full(&stream);
        // It has unread input.
        drop(client);
        let mut told = Unacknowledged::Unknown;
        wait_for("a reset", || {
            told = diag.unacknowledged(&stream, true);
            (!matches!(told, Unacknowledged::Ended { .. })).then_some(told)
        });
        let Unacknowledged::Ended { failed, at_most } = told else {
            panic!("{told:?}");
        };
        assert!(failed && 0 < at_most, "{told:?} of {written}");

        let (stream, client) = pair("127.0.0.1:0");
        drop(client);
        let mut buffer = [0; 1];
        wait_for("the peer's FIN", || {
            let end = recv(&stream, &mut buffer[..], RecvFlags::DONTWAIT);
            end.is_err().then_some(Unacknowledged::Unknown)
        });
        rustix::net::shutdown(&stream, Shutdown::Write).unwrap();
        wait_for("an end in order", || {
            let told = diag.unacknowledged(&stream, true);
            let is_over = matches!(told, Unacknowledged::Ended { failed: false, .. });
            (!is_over).then_some(told)
        });
    }

    /// Asked in between, the error is still there for who reads.
    #[test]
    fn a_question_does_not_take_an_error_away() {
        let mut diag = Diag::default();
        let (stream, client) = pair("127.0.0.1:0");
        sockopt::set_socket_linger(&client, Some(Duration::ZERO)).unwrap();
        drop(client);
        wait_for("a reset", || {
            let told = diag.unacknowledged(&stream, false);
            (told != Unacknowledged::Unknown).then_some(told)
        });
        let error = recv(&stream, &mut [0; 1][..], RecvFlags::DONTWAIT).unwrap_err();
        assert_eq!(error, Errno::CONNRESET);
    }

    #[test]
    fn answers_of_any_length_are_read_without_a_panic() {
        let mut answer = vec![0; ANSWER_SIZE];
        answer[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
        answer[WQUEUE_AT..WQUEUE_AT + 4].copy_from_slice(&77_u32.to_ne_bytes());
        for (state, told) in [(1, 77), (8, 77), (4, 76), (9, 76), (11, 76), (5, 0), (6, 0)] {
            answer[STATE_AT] = state;
            assert_eq!(read(&answer), Ok(Unacknowledged::Bytes(told)), "{state}");
        }
        answer[STATE_AT] = 1;
        let info = u16::try_from(ATTRIBUTE_HEADER_SIZE + NOTSENT_AT + 8).unwrap();
        // One of an odd length comes before it.
        for (at, [size, kind]) in [(0, [5, 8]), (8, [info, INET_DIAG_INFO])] {
            let at = ATTRIBUTES_AT + at;
            answer[at..at + 2].copy_from_slice(&size.to_ne_bytes());
            answer[at + 2..at + 4].copy_from_slice(&kind.to_ne_bytes());
        }
        let end = ATTRIBUTES_AT + 8 + ATTRIBUTE_HEADER_SIZE + NOTSENT_AT + 4;
        answer[end - 4..end].copy_from_slice(&1_u32.to_ne_bytes());
        for size in WQUEUE_AT + 4..=ANSWER_SIZE {
            let told = if size < end {
                Unacknowledged::Bytes(77)
            } else {
                Unacknowledged::Unsent(77)
            };
            assert_eq!(read(&answer[..size]), Ok(told), "{size}");
        }
        for size in 0..WQUEUE_AT + 4 {
            assert_eq!(read(&answer[..size]), Err(Errno::PROTO), "{size}");
        }
        answer[4..6].copy_from_slice(&NLMSG_ERROR.to_ne_bytes());
        let code = Errno::NOENT.raw_os_error().wrapping_neg();
        answer[HEADER_SIZE..HEADER_SIZE + 4].copy_from_slice(&code.to_ne_bytes());
        assert_eq!(read(&answer), Err(Errno::NOENT));
    }

    /// As in another namespace of the network: there are connections, and none is ever found.
    #[test]
    fn what_never_finds_a_connection_gives_up() {
        let mut diag = Diag::default();
        assert!(diag.state.open().is_ok());
        for _ in 1..NOT_FOUND_MAX {
            assert_eq!(diag.handle_not_found(), Unacknowledged::Unknown);
        }
        assert_eq!(diag.handle_not_found(), Unacknowledged::Never);
        assert_eq!(diag.state.open().err(), Some(Unacknowledged::Never));
        let (stream, _client) = pair("127.0.0.1:0");
        assert_eq!(diag.unacknowledged(&stream, true), Unacknowledged::Never);
        let mut diag = Diag::default();
        assert_eq!(diag.unacknowledged(&stream, true), Unacknowledged::Bytes(0));
        for _ in 0..2 * NOT_FOUND_MAX {
            assert_eq!(diag.handle_not_found(), Unacknowledged::Unknown);
        }
    }
}
