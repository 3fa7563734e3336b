//! `serve --metrics`: GET over HTTP, one page per path and one request per connection.
//!
//! A scraper asks every few seconds, so this is made small and bounded rather than fast: at most
//! [`WORKERS`] connections are served at once and [`WAITING_MAX`] wait, others are closed. A
//! client has [`REQUEST_TIMEOUT`] for its request of at most [`REQUEST_SIZE_MAX`] bytes, and
//! [`ANSWER_TIMEOUT`] to take the answer, so slow ones delay the others only if there are as many
//! of them as workers, and only by these times.
//!
//! What it refuses to do: keep connections open, bodies in requests, TLS.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, Sender, bounded};
use nebnet::Handle;

use crate::{
    failure::Failure,
    pages::{self, Page},
    time,
};

const WORKERS: usize = 4;
/// Connections that are accepted and wait for a worker.
const WAITING_MAX: usize = 16;
const REQUEST_SIZE_MAX: usize = 8 << 10;
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// What is read after the answer, so that unread input does not become a reset that destroys it.
const LINGER_SIZE_MAX: usize = 64 << 10;
const LINGER_TIMEOUT: Duration = Duration::from_millis(200);
/// Pause after an accept that failed, which is mostly for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A bound endpoint that does not serve yet, so that a wrong address stops the start early.
#[derive(Debug)]
pub(crate) struct Endpoint {
    listener: TcpListener,
    addr: SocketAddr,
}

impl Endpoint {
    pub(crate) fn bind(addr: SocketAddr) -> Result<Self, Failure> {
        TcpListener::bind(addr)
            .and_then(|listener| {
                Ok(Self {
                    addr: listener.local_addr()?,
                    listener,
                })
            })
            .map_err(|error| Failure::new(format!("cannot serve metrics on {addr}: {error}")))
    }

    /// The address, with the port that the system picked.
    pub(crate) const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Serves until the program ends.
    pub(crate) fn start(self, handle: &Handle) -> Result<(), Failure> {
        let fail = |error| Failure::new(format!("cannot start a thread: {error}"));
        let (sender, waiting) = bounded(WAITING_MAX);
        for index in 0..WORKERS {
            let (handle, waiting) = (handle.clone(), waiting.clone());
            thread::Builder::new()
                .name(format!("nebnet-http-{index}"))
                .spawn(move || answer_all(&waiting, &handle))
                .map_err(fail)?;
        }
        thread::Builder::new()
            .name("nebnet-http".to_owned())
            .spawn(move || accept_all(&self.listener, &sender))
            .map(drop)
            .map_err(fail)
    }
}

fn accept_all(listener: &TcpListener, waiting: &Sender<TcpStream>) {
    loop {
        match listener.accept() {
            // A full queue closes the connection: the scraper comes again.
            Ok((stream, _)) => drop(waiting.try_send(stream)),
            Err(error) => {
                log::debug!("metrics: cannot accept: {error}");
                time::sleep(ACCEPT_PAUSE);
            }
        }
    }
}

fn answer_all(waiting: &Receiver<TcpStream>, handle: &Handle) {
    for stream in waiting {
        if let Err(error) = answer(stream, handle) {
            log::debug!("metrics: a request was not answered: {error}");
        }
    }
}

fn answer(mut stream: TcpStream, handle: &Handle) -> io::Result<()> {
    let page = match read_head(&mut stream)? {
        Some(head) => page_for(&head, handle),
        None => Page::text(431, "request too long"),
    };
    let mut bytes = format!(
        "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n{}\r\n",
        page.status_line(),
        page.content_type,
        page.body.len(),
        if page.status == 405 {
            "Allow: GET\r\n"
        } else {
            ""
        },
    )
    .into_bytes();
    bytes.extend_from_slice(page.body.as_bytes());
    write_all(&mut stream, &bytes, time::now() + ANSWER_TIMEOUT)?;
    stream.shutdown(Shutdown::Write)?;
    linger(&mut stream);
    Ok(())
}

fn page_for(head: &[u8], handle: &Handle) -> Page {
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let mut words = std::str::from_utf8(line).unwrap_or_default().split(' ');
    let (method, target, version) = (words.next(), words.next(), words.next());
    match (method, target, version) {
        (Some("GET"), Some(target), Some("HTTP/1.0" | "HTTP/1.1")) => {
            let path = target.split('?').next().unwrap_or_default();
            pages::page(path, handle)
        }
        (Some(_), Some(_), Some("HTTP/1.0" | "HTTP/1.1")) => Page::text(405, "GET only"),
        _ => Page::text(400, "not an HTTP/1.1 request"),
    }
}

/// The request up to its empty line; `None` if that is not within its size.
fn read_head(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let deadline = time::now() + REQUEST_TIMEOUT;
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        if head.len() > REQUEST_SIZE_MAX {
            return Ok(None);
        }
        stream.set_read_timeout(Some(remaining(deadline)?))?;
        match stream.read(&mut piece) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(size) => head.extend_from_slice(&piece[..size]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Some(head))
}

fn write_all(stream: &mut TcpStream, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
    while !bytes.is_empty() {
        stream.set_write_timeout(Some(remaining(deadline)?))?;
        match stream.write(bytes) {
            Ok(size) => bytes = bytes.get(size..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads what the client still sends until it closes, for a short while.
fn linger(stream: &mut TcpStream) {
    let deadline = time::now() + LINGER_TIMEOUT;
    let mut piece = [0; 4096];
    let mut size = 0;
    while size < LINGER_SIZE_MAX {
        let Ok(timeout) = remaining(deadline) else {
            return;
        };
        if stream.set_read_timeout(Some(timeout)).is_err() {
            return;
        }
        match stream.read(&mut piece) {
            Ok(0) | Err(_) => return,
            Ok(count) => size += count,
        }
    }
}

/// Time until the deadline. Never zero, which a socket would take for no timeout at all.
fn remaining(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(time::now());
    if left.is_zero() {
        Err(ErrorKind::TimedOut.into())
    } else {
        Ok(left)
    }
}
