//! One connection of the metrics port: a request, its answer, and the wait for the client's end.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::Shutdown,
    time::{Duration, Instant},
};

use mio::net::TcpStream;

use super::request::{self, HEAD_SIZE_MAX};
use crate::pages::Page;

/// From the first moment of the connection to the end of its request.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);
/// For the client to take its answer.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// What is read after the answer, so that unread input does not become a reset that destroys it.
const LINGER_SIZE_MAX: usize = 64 << 10;
const LINGER_TIMEOUT: Duration = Duration::from_millis(200);
/// Written to one client before the others have their turn.
const TURN_SIZE_MAX: usize = 256 << 10;

/// Where a connection is.
///
/// ```text
///   Asking --> Answering --> Lingering --> closed
/// ```
///
/// Each step has a deadline, and each may be cut short by an error or the end of the stream.
#[derive(Debug)]
enum State {
    /// The request is not whole. Never holds more than [`HEAD_SIZE_MAX`].
    Asking {
        head: Vec<u8>,
    },
    Answering {
        answer: Vec<u8>,
        sent: usize,
    },
    /// Everything is written, and our direction closed.
    Lingering {
        size: usize,
    },
}

/// A step of the way, without what belongs to it. In the order in which connections are given up
/// for others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    Asking,
    Lingering,
    Answering,
}

/// What a turn came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing can be done before the system says so.
    Waits,
    /// The others have their turn first.
    Again,
    Done,
}

#[derive(Debug)]
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    state: State,
    /// When the state began.
    pub(super) since: Instant,
    pub(super) deadline: Instant,
    /// The system said that something can be done, and nothing was found to be in the way yet.
    pub(super) is_ready: bool,
}

impl Connection {
    pub(super) fn new(stream: TcpStream, now: Instant) -> Self {
        Self {
            stream,
            state: State::Asking { head: Vec::new() },
            since: now,
            deadline: now + REQUEST_TIMEOUT,
            is_ready: true,
        }
    }

    pub(super) const fn step(&self) -> Step {
        match self.state {
            State::Asking { .. } => Step::Asking,
            State::Answering { .. } => Step::Answering,
            State::Lingering { .. } => Step::Lingering,
        }
    }

    /// Bytes of the answer that are held for the client.
    pub(super) fn held(&self) -> usize {
        match &self.state {
            State::Answering { answer, .. } => answer.capacity(),
            State::Asking { .. } | State::Lingering { .. } => 0,
        }
    }

    /// Reads the request as far as it is there; the page's path, or the status of an answer without
    /// one, once it is.
    pub(super) fn read_request(&mut self) -> io::Result<Option<Result<String, u16>>> {
        let State::Asking { head } = &mut self.state else {
            return Ok(None);
        };
        let mut piece = [0; HEAD_SIZE_MAX];
        loop {
            let room = HEAD_SIZE_MAX - head.len();
            match self.stream.read(&mut piece[..room]) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(size) => head.extend_from_slice(&piece[..size]),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) => return Err(error),
            }
            match request::parse(head) {
                Ok(None) => {}
                Ok(Some(path)) => return Ok(Some(Ok(path))),
                Err(status) => return Ok(Some(Err(status))),
            }
        }
    }

    /// Gives the answer. Only behind a request.
    pub(super) fn answer(&mut self, now: Instant, page: &Page) {
        let State::Asking { head } = &self.state else {
            return;
        };
        let allow = if page.status == 405 {
            "Allow: GET, HEAD\r\n"
        } else {
            ""
        };
        let mut answer = format!(
            "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\n{allow}\
             Connection: close\r\n\r\n",
            page.status_line(),
            page.content_type,
            page.body.len(),
        )
        .into_bytes();
        if !request::wants_head_alone(head) {
            answer.extend_from_slice(page.body.as_bytes());
        }
        self.state = State::Answering { answer, sent: 0 };
        self.since = now;
        self.deadline = now + ANSWER_TIMEOUT;
    }

    /// Goes on with the answer and what follows it.
    pub(super) fn go_on(&mut self, now: Instant) -> io::Result<Turn> {
        if let State::Answering { answer, sent } = &mut self.state {
            let end = answer.len().min(*sent + TURN_SIZE_MAX);
            while *sent < end {
                match self.stream.write(&answer[*sent..end]) {
                    Ok(0) => return Err(ErrorKind::WriteZero.into()),
                    Ok(size) => *sent += size,
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Turn::Waits),
                    Err(error) => return Err(error),
                }
            }
            if *sent < answer.len() {
                return Ok(Turn::Again);
            }
            self.stream.shutdown(Shutdown::Write)?;
            self.state = State::Lingering { size: 0 };
            self.since = now;
            self.deadline = now + LINGER_TIMEOUT;
        }
        self.linger()
    }

    /// Throws away what the client still sends.
    fn linger(&mut self) -> io::Result<Turn> {
        let State::Lingering { size } = &mut self.state else {
            return Ok(Turn::Waits);
        };
        let mut piece = [0; 4096];
        while *size < LINGER_SIZE_MAX {
            match self.stream.read(&mut piece) {
                Ok(0) => return Ok(Turn::Done),
                Ok(count) => *size += count,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Turn::Waits),
                Err(error) => return Err(error),
            }
        }
        Ok(Turn::Done)
    }
}
