//! A socket that keeps a ledger: what a client wrote and read, in whole application messages, so
//! that it can be held against what a service says of the same connection.

use std::{
    collections::HashMap,
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    ops::Deref,
    os::fd::{AsFd, BorrowedFd},
    sync::{Arc, LazyLock, Mutex, MutexGuard},
    time::Instant,
};

use nebnet::{CloseReason, ClosedRow};

/// Counts the frames of a stream without keeping their bytes.
#[derive(Clone, Debug, Default)]
struct Scanner {
    head: Vec<u8>,
    /// Of the frame whose head is complete, what is still to come.
    left: u64,
    messages: u64,
    /// Nothing can be said of what follows a length that is none.
    broken: bool,
}

impl Scanner {
    fn scan(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.broken {
            if self.head.len() < 8 {
                let count = bytes.len().min(8 - self.head.len());
                let (head, rest) = bytes.split_at(count);
                self.head.extend_from_slice(head);
                bytes = rest;
                let Ok(head) = <[u8; 8]>::try_from(&*self.head) else {
                    return;
                };
                let [a, b, c, d, ..] = head;
                let length = u64::from(u32::from_be_bytes([a, b, c, d]));
                self.broken = length < 4;
                self.left = length.saturating_sub(4);
            }
            let count = self.left.min(bytes.len() as u64);
            self.left -= count;
            bytes = &bytes[usize::try_from(count).unwrap()..];
            if self.left == 0 && !self.broken {
                self.messages += u64::from(self.head[4] != 0xFF);
                self.head.clear();
            }
        }
    }

    fn is_between_frames(&self) -> bool {
        self.head.is_empty() && !self.broken
    }
}

/// What went through a connection, as its client sees it.
#[derive(Debug, Default)]
struct Account {
    /// While a write is under way, as if all of it went.
    written: Scanner,
    read: Scanner,
    /// The service's FIN was read.
    fin: bool,
}

/// The client's address and the service's.
type Ends = (SocketAddr, SocketAddr);

/// Accounts of all clients of this process, and when they began. Where both addresses were used
/// more than once, nothing is said of them.
static ACCOUNTS: LazyLock<Mutex<HashMap<Ends, Begun>>> = LazyLock::new(Mutex::default);

type Begun = (Instant, Option<Shared>);

/// Where a service listens, and since when: others may have had its addresses before.
#[derive(Debug)]
pub struct Listens {
    pub addrs: Vec<SocketAddr>,
    pub since: Instant,
}

type Shared = Arc<Mutex<Account>>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A test that failed elsewhere is told of there.
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// A client's socket; its clones share one account.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    account: Shared,
}

impl Wire {
    pub fn new(stream: TcpStream) -> Self {
        let account = Shared::default();
        if let (Ok(own), Ok(service)) = (stream.local_addr(), stream.peer_addr()) {
            lock(&ACCOUNTS)
                .entry((own, service))
                .and_modify(|one| *one = (Instant::now(), None))
                .or_insert_with(|| (Instant::now(), Some(Arc::clone(&account))));
        }
        Self { stream, account }
    }

    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            stream: self.stream.try_clone()?,
            account: Arc::clone(&self.account),
        })
    }

    /// Application messages that were written as a whole, and read as a whole.
    pub fn messages(&self) -> (u64, u64) {
        let account = lock(&self.account);
        (account.written.messages, account.read.messages)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let before = {
            let mut account = lock(&self.account);
            let before = account.written.clone();
            account.written.scan(bytes);
            before
        };
        let result = self.stream.write(bytes);
        let count = *result.as_ref().unwrap_or(&0);
        if count < bytes.len() {
            let mut account = lock(&self.account);
            account.written = before;
            account.written.scan(&bytes[..count]);
        }
        result
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Wire {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(bytes)?;
        let mut account = lock(&self.account);
        account.read.scan(&bytes[..count]);
        account.fin |= count == 0 && !bytes.is_empty();
        Ok(count)
    }
}

impl Deref for Wire {
    type Target = TcpStream;

    fn deref(&self) -> &TcpStream {
        &self.stream
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Whether a client of this process connected from this address to one of those of a service.
pub fn is_client(addr: SocketAddr, service: &Listens) -> bool {
    let accounts = lock(&ACCOUNTS);
    service.addrs.iter().any(|to| {
        let began = accounts.get(&(addr, *to)).map(|(began, _)| *began);
        began.is_some_and(|began| began >= service.since)
    })
}

/// Holds what a service that listens on these addresses says of a connection that ended against
/// what its client says, if it is one of this process.
#[track_caller]
pub fn check_row(row: &ClosedRow, service: &Listens) {
    let accounts = lock(&ACCOUNTS);
    let mut found = service
        .addrs
        .iter()
        .filter_map(|to| accounts.get(&(row.addr, *to)))
        .filter(|(began, _)| *began >= service.since);
    let Some((_, Some(account))) = found.next().cloned() else {
        return;
    };
    drop(accounts);
    let account = lock(&account);
    let (written, read) = (account.written.messages, account.read.messages);
    let (sent, got) = (row.outbound.messages, super::arrived(row).messages);
    assert!(read <= sent, "the client read {read}: {row:?}");
    assert!(got <= written, "the client wrote {written}: {row:?}");
    if account.fin && account.read.is_between_frames() {
        assert_eq!(read, sent, "messages were lost before the FIN: {row:?}");
    }
    // The service has read the client's FIN, and all that stood before it.
    let heard_all = [CloseReason::PeerClosed, CloseReason::EofInFrame];
    if heard_all.contains(&row.reason) {
        assert_eq!(got, written, "messages were lost before its FIN: {row:?}");
    }
}
