//! `nebnet send`: a plain client of a service, and so of anything that speaks the wire format.
//!
//! Three threads share a connection, so that no two sides wait for each other: the source makes
//! frames, the writer writes them, the reader takes answers all the while. The main thread only
//! watches them and the time, and leaves when it is clear how the sending ended; a source that
//! waits for standard input is then left behind.

mod reader;
mod source;
mod writer;

use std::{
    fmt, io,
    net::{SocketAddr, TcpStream, ToSocketAddrs as _},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use nebnet::{
    AddressError, CloseReason, MessageType,
    frame::{Frame, Hello},
};

use crate::{args::SendArgs, failure::Failure, print, text, time, units::PAYLOAD_SIZE_MAX};
use reader::{End, How};

/// Protocol messages; docs/wire.md lists them.
const HELLO: MessageType = MessageType(0xFF00);
const OK: MessageType = MessageType(0xFF01);
const BYE: MessageType = MessageType(0xFF02);
const PING: MessageType = MessageType(0xFF03);
const PONG: MessageType = MessageType(0xFF04);

/// Once one direction of the connection has ended, how long the other has to say why.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_secs(1);

/// What the threads tell the main thread.
#[derive(Debug)]
enum Event {
    /// The OK came.
    Greeted,
    /// The source has made all its messages, or could not.
    Produced(Result<(), String>),
    /// Everything is written and the direction is closed, or it broke.
    Written(Result<(), String>),
    /// The reader has ended.
    Ended(End),
}

/// What the threads share.
#[derive(Debug)]
struct Shared {
    start: Instant,
    timeout: Duration,
    /// When the connection last moved, in milliseconds since `start`.
    progress_ms: AtomicU64,
    /// The reader waits for standard output, so it is not the service that is slow.
    printing: AtomicBool,
    /// Messages that the source has made.
    produced: AtomicU64,
    /// `produced` will not change any more.
    complete: AtomicBool,
}

impl Shared {
    fn new(timeout: Duration) -> Self {
        Self {
            start: time::now(),
            timeout,
            progress_ms: AtomicU64::new(0),
            printing: AtomicBool::new(false),
            produced: AtomicU64::new(0),
            complete: AtomicBool::new(false),
        }
    }

    fn progress(&self) {
        let elapsed = time::now().duration_since(self.start).as_millis();
        let elapsed = u64::try_from(elapsed).unwrap_or(u64::MAX);
        self.progress_ms.store(elapsed, Ordering::Relaxed);
    }

    /// How long the connection may still stand still; `None` if that is over. A timeout of zero
    /// never is.
    fn patience(&self) -> Option<Duration> {
        if self.timeout.is_zero() || self.printing.load(Ordering::Relaxed) {
            return Some(LAST_WORDS_TIMEOUT);
        }
        let last = Duration::from_millis(self.progress_ms.load(Ordering::Relaxed));
        let still = time::now().duration_since(self.start).saturating_sub(last);
        self.timeout
            .checked_sub(still)
            .filter(|left| !left.is_zero())
    }
}

pub(crate) fn run(args: SendArgs) -> Result<(), Failure> {
    let addr = args.addr.clone();
    // All that can fail without the service, so that it never sees a client that cannot go on.
    let payload = source::Payload::load(&args)?;
    let hello = args.hello.then(|| hello_frame(&args)).transpose()?;
    let out = args.replies.then(print::stdout_file).transpose();
    let out = out.map_err(|error| Failure::new(reader::output_failed(&error)))?;
    let stream = connect(&addr, args.timeout)?;
    let shared = Arc::new(Shared::new(args.timeout));
    // Each thread says at most two things.
    let (events, said) = bounded(8);
    let (pongs, waiting_pongs) = bounded(1);
    let (frames, waiting_frames) = bounded(1);

    let failed = |error: io::Error| Failure::new(format!("{addr}: {error}"));
    let input = stream.try_clone().map_err(failed)?;
    let reader = reader::Reader::new(input, &args, out, Arc::clone(&shared), pongs);
    spawn("reader", &events, move |events| {
        Event::Ended(reader.run(events))
    })?;
    let writer = writer::Writer::new(stream, Arc::clone(&shared)).map_err(failed)?;
    spawn("writer", &events, move |_| {
        Event::Written(writer.run(&waiting_frames, &waiting_pongs))
    })?;

    let mut watch = Watch {
        addr: &addr,
        shared: &shared,
        said: &said,
        seen: Seen::default(),
    };
    if let Some(hello) = hello {
        // No message before the OK: the service may still refuse.
        let sent = frames.send(hello);
        if sent.is_ok() {
            watch.until_greeted()?;
        }
    }
    let replies = args.replies;
    let source_shared = Arc::clone(&shared);
    spawn("source", &events, move |_| {
        Event::Produced(source::run(&args, &payload, &source_shared, &frames))
    })?;
    watch.until_ended()?;
    watch.judge(replies)
}

/// Tries every address of the name. The timeout is for each of them.
fn connect(addr: &str, timeout: Duration) -> Result<TcpStream, Failure> {
    let fail = |error| Failure::new(format!("cannot connect to {addr}: {error}"));
    let mut last = None;
    let candidates = match nebnet::parse_address(addr) {
        Ok(addr) => vec![addr],
        Err(AddressError::Malformed) => look_up(addr, timeout)?,
        Err(error) => {
            let reason = text::chain(&error);
            return Err(Failure::new(format!("cannot connect to {addr}: {reason}")));
        }
    };
    for candidate in candidates {
        let connected = if timeout.is_zero() {
            TcpStream::connect(candidate)
        } else {
            TcpStream::connect_timeout(&candidate, timeout)
        };
        match connected {
            Ok(stream) => {
                stream.set_nodelay(true).map_err(fail)?;
                return Ok(stream);
            }
            Err(error) => last = Some(error),
        }
    }
    Err(last.map_or_else(
        || Failure::new(format!("cannot connect to {addr}: no address")),
        fail,
    ))
}

/// The addresses of a name. The system's lookup cannot be interrupted, so a thread does it, and is
/// left behind if it takes too long.
fn look_up(addr: &str, timeout: Duration) -> Result<Vec<SocketAddr>, Failure> {
    let fail =
        |error: &dyn fmt::Display| Failure::new(format!("cannot connect to {addr}: {error}"));
    let (found, answer) = bounded(1);
    let name = addr.to_owned();
    let find = move || {
        let addrs = name.to_socket_addrs().map(Iterator::collect);
        let _ = found.send(addrs);
    };
    let thread = thread::Builder::new().name("nebnet-resolve".to_owned());
    thread.spawn(find).map_err(|error| fail(&error))?;
    let answer = if timeout.is_zero() {
        answer.recv().map_err(|error| fail(&error))?
    } else {
        let late = || format!("the name was not resolved within {timeout:?}");
        answer.recv_timeout(timeout).map_err(|_| fail(&late()))?
    };
    answer.map_err(|error: io::Error| fail(&error))
}

fn hello_frame(args: &SendArgs) -> Result<Vec<u8>, Failure> {
    let agent = concat!("nebnet-send/", env!("CARGO_PKG_VERSION"));
    let hello = Hello {
        network_id: args.network_id,
        payload_size_max: PAYLOAD_SIZE_MAX,
        agent,
        token: args.token.as_deref().unwrap_or("").as_bytes(),
        ..Hello::default()
    };
    let mut frame = Vec::new();
    Frame::new(HELLO, &hello.to_payload())
        .with_checksum(args.checksum)
        .encode(&mut frame)
        .map_err(|error| Failure::new(error.to_string()))?;
    Ok(frame)
}

/// Starts a thread whose last word is an event.
fn spawn(
    name: &str,
    events: &Sender<Event>,
    work: impl FnOnce(&Sender<Event>) -> Event + Send + 'static,
) -> Result<(), Failure> {
    let events = events.clone();
    thread::Builder::new()
        .name(format!("nebnet-{name}"))
        .spawn(move || {
            let last = work(&events);
            // No thread listens if the main thread knows enough already.
            let _ = events.send(last);
        })
        .map(drop)
        .map_err(|error| Failure::new(format!("cannot start a thread: {error}")))
}

/// What the main thread has heard.
#[derive(Debug, Default)]
struct Seen {
    greeted: bool,
    produced: Option<Result<(), String>>,
    written: Option<Result<(), String>>,
    end: Option<End>,
}

impl Seen {
    fn take(&mut self, event: Event) {
        match event {
            Event::Greeted => self.greeted = true,
            Event::Produced(result) => self.produced = Some(result),
            Event::Written(result) => self.written = Some(result),
            Event::Ended(end) => self.end = Some(end),
        }
    }

    /// Whether nothing more can be said that matters.
    ///
    /// The writer only ends well when the source has ended, which then has still to say how.
    fn is_complete(&self) -> bool {
        match (&self.produced, &self.written) {
            (Some(Err(_)), _) => true,
            (None, Some(Ok(()))) | (_, None) => false,
            (Some(Ok(())), Some(Ok(()))) | (_, Some(Err(_))) => self.end.is_some(),
        }
    }
}

/// The main thread, watching the others.
#[derive(Debug)]
struct Watch<'a> {
    addr: &'a str,
    shared: &'a Shared,
    said: &'a Receiver<Event>,
    seen: Seen,
}

impl Watch<'_> {
    /// Waits for the OK. If the connection ends instead, [`judge`](Self::judge) says why.
    fn until_greeted(&mut self) -> Result<(), Failure> {
        while !self.seen.greeted && self.seen.end.is_none() {
            self.hear_in_time("no OK came in answer to HELLO")?;
        }
        if self.seen.end.is_some() {
            self.judge(false)
        } else {
            Ok(())
        }
    }

    /// Waits until both directions have ended, or one has and the other does not say why.
    fn until_ended(&mut self) -> Result<(), Failure> {
        while !self.seen.is_complete() {
            let seen = &self.seen;
            if seen.end.is_some() || matches!(seen.written, Some(Err(_))) {
                // What has ended does not come back, but the other half may know more about it.
                match self.said.recv_timeout(LAST_WORDS_TIMEOUT) {
                    Ok(event) => self.seen.take(event),
                    Err(_) => return Ok(()),
                }
            } else if seen.written.is_some() {
                self.hear_in_time("the connection did not end after the last message")?;
            } else {
                // The writer keeps the time while there is something to write.
                match self.said.recv() {
                    Ok(event) => self.seen.take(event),
                    Err(_) => return Ok(()),
                }
                // The wait for the end begins when this direction is closed.
                self.shared.progress();
            }
        }
        Ok(())
    }

    fn hear_in_time(&mut self, what: &str) -> Result<(), Failure> {
        let Some(patience) = self.shared.patience() else {
            let timeout = self.shared.timeout;
            return Err(Failure::new(format!(
                "{}: {what} within {timeout:?}",
                self.addr
            )));
        };
        match self.said.recv_timeout(patience) {
            Ok(event) => self.seen.take(event),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Failure::new(format!("{}: the client broke off", self.addr)));
            }
        }
        Ok(())
    }

    /// How the sending ended. The causes that explain others come first.
    fn judge(&mut self, replies: bool) -> Result<(), Failure> {
        let addr = self.addr;
        if let Some(Err(message)) = &self.seen.produced {
            return Err(Failure::new(message.clone()));
        }
        let sent = self.shared.produced.load(Ordering::Relaxed);
        let all_sent = matches!(
            (&self.seen.produced, &self.seen.written),
            (Some(Ok(())), Some(Ok(())))
        );
        let answers = self.seen.end.as_ref().map_or(0, |end| end.answers);
        let done = all_sent && (!replies || answers >= sent);
        let ended = match self.seen.end.take().map(|end| end.how) {
            Some(How::Broken(message)) => return Err(Failure::new(message)),
            Some(How::Bye { code, text }) => {
                let reason = CloseReason::from_wire_code(code);
                let name = reason.map_or("unknown reason", CloseReason::name);
                let mut said = format!("BYE {name} ({code})");
                // Most services have nothing to add to the name.
                if !text.is_empty() && text != name {
                    said = format!("{said}: {text}");
                }
                // A service that stops, or closes what it is done with, is not in error.
                let harmless =
                    matches!(reason, Some(CloseReason::Shutdown | CloseReason::AppClosed));
                if !harmless {
                    return Err(Failure::new(format!(
                        "{addr} closed the connection: {said}"
                    )));
                }
                format!("said {said}")
            }
            Some(How::Eof) => "closed the connection".to_owned(),
            None => match &self.seen.written {
                Some(Err(message)) => return Err(Failure::new(format!("{addr}: {message}"))),
                Some(Ok(())) | None => "gave no answer".to_owned(),
            },
        };
        if done {
            return Ok(());
        }
        Err(Failure::new(if !all_sent {
            format!("{addr}: {ended} before everything was sent")
        } else {
            format!("{addr}: {ended} after {answers} of {sent} answers")
        }))
    }
}
