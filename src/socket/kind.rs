//! What a descriptor is that came from outside, in words.
//!
//! A `TcpListener` may be made of any descriptor, so its type says nothing. A socket that does not
//! listen takes every option and every registration without an error, and never has a connection.

use std::{
    net::SocketAddr,
    os::fd::{AsFd, AsRawFd, BorrowedFd},
};

use rustix::{
    fs::{FileType, fstat},
    io::Errno,
    net::{AddressFamily, SocketType, getpeername, getsockname, ipproto, sockopt},
};

use crate::error::ListenError;

/// `IPPROTO_MPTCP`. It has most options of TCP, but not `TCP_USER_TIMEOUT`.
const MPTCP: u32 = 262;

/// Accepts a TCP socket that listens, and says of anything else what it is.
pub(super) fn expect_listening(socket: impl AsFd) -> Result<(), ListenError> {
    let socket = socket.as_fd();
    let found = match sockopt::socket_domain(socket) {
        Ok(family) => describe_socket(socket, family),
        Err(Errno::NOTSOCK) => Some(describe_file(socket)),
        Err(Errno::BADF) => Some("not open".to_owned()),
        Err(error) => return Err(ListenError::Io(error.into())),
    };
    let descriptor = socket.as_raw_fd();
    found.map_or(Ok(()), |found| {
        Err(ListenError::NotListening { descriptor, found })
    })
}

/// `None` for a TCP socket that listens.
fn describe_socket(socket: BorrowedFd<'_>, family: AddressFamily) -> Option<String> {
    if family == AddressFamily::UNIX {
        return Some("a Unix socket".to_owned());
    }
    if family != AddressFamily::INET && family != AddressFamily::INET6 {
        return Some(format!("a socket of family {}", family.as_raw()));
    }
    // Neither can fail of a socket that has just told its family.
    let kind = sockopt::socket_type(socket).unwrap_or(SocketType::STREAM);
    let protocol = sockopt::socket_protocol(socket).ok().flatten();
    if kind == SocketType::DGRAM && protocol == Some(ipproto::UDP) {
        return Some("a UDP socket".to_owned());
    }
    if kind == SocketType::RAW {
        return Some("a raw socket".to_owned());
    }
    match protocol {
        Some(ipproto::TCP) => describe_tcp(socket),
        Some(other) if other.as_raw().get() == MPTCP => Some("an MPTCP socket".to_owned()),
        Some(other) => Some(format!("a socket of protocol {}", other.as_raw())),
        None => Some("a socket of no protocol".to_owned()),
    }
}

fn describe_tcp(socket: BorrowedFd<'_>) -> Option<String> {
    if sockopt::socket_acceptconn(socket) == Ok(true) {
        return None;
    }
    let peer = getpeername(socket).ok().flatten();
    if let Some(Ok(peer)) = peer.map(SocketAddr::try_from) {
        return Some(format!("a TCP socket that is connected to {peer}"));
    }
    let bound = getsockname(socket).ok();
    let bound = bound.and_then(|addr| SocketAddr::try_from(addr).ok());
    let bound = bound.filter(|addr| addr.port() > 0);
    Some(bound.map_or_else(
        || "a TCP socket that is not bound".to_owned(),
        |addr| format!("a TCP socket that is bound to {addr} and does not listen"),
    ))
}

fn describe_file(file: BorrowedFd<'_>) -> String {
    let kind = fstat(file).map(|stat| FileType::from_raw_mode(stat.st_mode));
    let word = match kind {
        Ok(FileType::RegularFile) => "a file",
        Ok(FileType::Directory) => "a directory",
        Ok(FileType::Fifo) => "a pipe",
        Ok(FileType::CharacterDevice) => "a character device",
        Ok(FileType::BlockDevice) => "a block device",
        Ok(FileType::Symlink | FileType::Socket | FileType::Unknown) | Err(_) => "no socket",
    };
    word.to_owned()
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        net::{TcpListener, TcpStream, UdpSocket},
        os::{fd::OwnedFd, unix::net::UnixListener},
    };

    use rustix::net::{SocketFlags, bind, socket_with};

    use super::*;

    fn found(socket: impl Into<OwnedFd>) -> String {
        let socket = socket.into();
        match expect_listening(&socket) {
            Ok(()) => String::new(),
            Err(ListenError::NotListening { descriptor, found }) => {
                assert_eq!(descriptor, socket.as_raw_fd());
                found
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn tcp() -> OwnedFd {
        let (family, kind) = (AddressFamily::INET, SocketType::STREAM);
        socket_with(family, kind, SocketFlags::CLOEXEC, Some(ipproto::TCP)).unwrap()
    }

    #[test]
    fn what_listens_is_taken_and_all_else_is_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let there = listener.local_addr().unwrap();
        let connected = TcpStream::connect(there).unwrap();
        let text = format!("a TCP socket that is connected to {there}");
        assert_eq!(found(connected), text);
        assert_eq!(found(listener), "");
        assert_eq!(found(TcpListener::bind("[::1]:0").unwrap()), "");
        let bound = tcp();
        bind(&bound, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let text = found(bound);
        assert!(
            text.starts_with("a TCP socket that is bound to 127.0.0.1:"),
            "{text}"
        );
        assert!(text.ends_with(" and does not listen"), "{text}");
        assert_eq!(found(tcp()), "a TCP socket that is not bound");
        assert_eq!(
            found(UdpSocket::bind("127.0.0.1:0").unwrap()),
            "a UDP socket"
        );
        let path = std::env::temp_dir().join(format!("nebnet-kind-{}", std::process::id()));
        let unix = UnixListener::bind(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(found(unix), "a Unix socket");
        let file = File::open(env!("CARGO_MANIFEST_PATH")).unwrap();
        assert_eq!(found(file), "a file");
        assert_eq!(found(File::open("/").unwrap()), "a directory");
        assert_eq!(
            found(File::open("/dev/null").unwrap()),
            "a character device"
        );
        assert_eq!(found(std::io::pipe().unwrap().0), "a pipe");
    }
}
