//! A network of one connection that brings what it is told to, and takes everything.

use std::{
    cell::RefCell,
    io::{self, IoSlice, IoSliceMut},
    net::{Ipv4Addr, SocketAddr},
    rc::Rc,
    time::Duration,
};

use crate::{
    id::PeerId,
    socket::{AcceptFault, Event, Listener, Net, Ready, Unacknowledged},
};

/// The wire; whoever holds it puts bytes on it.
#[derive(Debug, Default)]
pub(super) struct Wire {
    /// What the next read brings; nothing is no bytes yet.
    pub(super) incoming: Vec<u8>,
    /// Bytes written so far.
    pub(super) written: usize,
    pub(super) peer: Option<PeerId>,
    accepted: bool,
    /// Events of the next poll.
    ready: Option<Ready>,
}

impl Wire {
    pub(super) fn bring(&mut self, bytes: &[u8]) {
        self.incoming.extend_from_slice(bytes);
        self.ready = Some(Ready::READ);
    }
}

#[derive(Debug)]
pub(super) struct Tape(pub(super) Rc<RefCell<Wire>>);

impl Net for Tape {
    type Stream = ();

    fn poll(&mut self, events: &mut Vec<Event>, _: Option<Duration>) -> io::Result<bool> {
        let mut wire = self.0.borrow_mut();
        let ready = wire.ready.take().zip(wire.peer);
        events.extend(ready.map(|(ready, peer)| Event::Peer(peer, ready)));
        Ok(false)
    }

    fn accept(&mut self, _: usize) -> Result<((), SocketAddr), AcceptFault> {
        let mut wire = self.0.borrow_mut();
        if std::mem::replace(&mut wire.accepted, true) {
            return Err(AcceptFault::WouldBlock);
        }
        Ok(((), SocketAddr::from((Ipv4Addr::LOCALHOST, 1))))
    }

    fn register(&mut self, (): &mut (), peer: PeerId) -> io::Result<()> {
        let mut wire = self.0.borrow_mut();
        wire.peer = Some(peer);
        wire.ready = Some(Ready::WRITE);
        Ok(())
    }

    fn connect(&mut self, _: SocketAddr, _: PeerId) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn is_connected(&mut self, (): &mut ()) -> io::Result<bool> {
        Ok(true)
    }

    fn read(&mut self, (): &mut (), buffer: &mut Vec<u8>, limit: usize) -> io::Result<usize> {
        let mut wire = self.0.borrow_mut();
        let size = wire.incoming.len().min(limit);
        if size == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        buffer.extend(wire.incoming.drain(..size));
        Ok(size)
    }

    fn read_vectored(&mut self, (): &mut (), slices: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let mut wire = self.0.borrow_mut();
        let mut count = 0;
        for slice in slices {
            let size = slice.len().min(wire.incoming.len() - count);
            slice[..size].copy_from_slice(&wire.incoming[count..count + size]);
            count += size;
        }
        if count == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        wire.incoming.drain(..count);
        Ok(count)
    }

    fn write(&mut self, (): &mut (), slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let size = slices.iter().map(|slice| slice.len()).sum();
        self.0.borrow_mut().written += size;
        Ok(size)
    }

    fn unacknowledged(&mut self, (): &(), _: bool) -> Unacknowledged {
        Unacknowledged::Bytes(0)
    }

    fn shutdown(&mut self, (): &mut ()) -> io::Result<()> {
        Ok(())
    }

    fn unread(&mut self, (): &mut ()) -> u64 {
        0
    }

    fn close(&mut self, (): (), _: bool) {}

    fn add_listener(&mut self, _: usize, _: Listener) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn remove_listener(&mut self, _: usize) {}

    fn close_listeners(&mut self) {}
}
