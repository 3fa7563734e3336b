//! What an error of `accept` means for the listener.

use std::io;

use rustix::io::Errno;

/// Why no connection was accepted.
#[derive(Debug)]
pub(crate) enum AcceptFault {
    /// None waits.
    WouldBlock,
    /// This one is gone; the next may be there. Linux also passes network errors of a connection
    /// that is being made through `accept`.
    Skip(io::Error),
    /// The process or the system ran out of something. Waiting helps, trying again does not, and
    /// no new edge will come for the connections that wait.
    Exhausted(io::Error),
    /// Likewise; the connection that waited was accepted all the same, and closed at once.
    TurnedAway(io::Error),
    /// The listener will never work again.
    Dead(io::Error),
}

impl AcceptFault {
    pub(crate) fn of(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::WouldBlock {
            return Self::WouldBlock;
        }
        match Errno::from_io_error(&error) {
            Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                Self::Exhausted(error)
            }
            Some(
                Errno::BADF
                | Errno::INVAL
                | Errno::NOTSOCK
                | Errno::OPNOTSUPP
                | Errno::FAULT
                | Errno::NOTCONN,
            ) => Self::Dead(error),
            // ECONNABORTED, EINTR, EPERM (a firewall), EPROTO, ENETDOWN, EHOSTUNREACH and the like:
            // see accept(2), "Error handling". Unknown ones are taken as the connection's fault
            // too. Some stay for as long as a rule of the system does: a whole budget of them makes
            // the listener pause.
            Some(_) | None => Self::Skip(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_errno_of_accept_has_its_place() {
        let fault = |errno: Errno| AcceptFault::of(errno.into());
        assert!(matches!(fault(Errno::AGAIN), AcceptFault::WouldBlock));
        for errno in [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM] {
            assert!(
                matches!(fault(errno), AcceptFault::Exhausted(_)),
                "{errno:?}"
            );
        }
        for errno in [
            Errno::BADF,
            Errno::INVAL,
            Errno::NOTSOCK,
            Errno::OPNOTSUPP,
            Errno::FAULT,
        ] {
            assert!(matches!(fault(errno), AcceptFault::Dead(_)), "{errno:?}");
        }
        for errno in [
            Errno::CONNABORTED,
            Errno::INTR,
            Errno::PERM,
            Errno::PROTO,
            Errno::NETDOWN,
            Errno::NOPROTOOPT,
            Errno::HOSTDOWN,
            Errno::NONET,
            Errno::HOSTUNREACH,
            Errno::NETUNREACH,
            Errno::TIMEDOUT,
        ] {
            assert!(matches!(fault(errno), AcceptFault::Skip(_)), "{errno:?}");
        }
    }
}
