//! A blocking client of a service, without a thread of its own.
//!
//! For programs that talk to one service and have nothing else to wait for: tools, tests, workers.
//! A program that has many connections, or waits for other things besides, takes a service of its
//! own and [`Handle::connect`](crate::Handle::connect).
//!
//! `input` makes messages of bytes and `output` bytes of messages, both without a socket; `inbox`
//! keeps what came before it was asked for; `socket` waits. This file joins them, and holds these
//! together:
//!
//! - A read is made only when no whole frame is left in `input`, so its buffer always has space,
//!   and when the stream ends only a part of a frame can be left.
//! - Whatever waits also writes what waits to be written, PONGs included.
//! - `end` is set once. From then on nothing is read or taken apart; what waits in `inbox` is still
//!   given out.
//!
//! What this module refuses to do: connect again, and share the connection among threads.

mod error;
mod inbox;
mod input;
mod options;
mod output;
mod socket;
#[cfg(test)]
mod tests;

pub use error::ClientError;
pub use input::ClientMessage;
pub use options::ClientOptions;

use std::{
    fmt,
    io::{self, ErrorKind, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs},
    time::Duration,
};

use crate::{
    error::CloseReason,
    frame::{Bye, Frame},
    id::{MessageType, PeerIdentity, RequestId},
    limits::{
        ADDRESSES_PER_NAME_MAX, BEFORE_OK_BYTES_MAX, CLIENT_OUTPUT_BYTES_MAX,
        PAYLOAD_SIZE_MAX_CEILING,
    },
    outgoing::{Outgoing, Payload},
};
use inbox::Inbox;
use input::{Incoming, Input};
use output::Output;
use socket::{Deadline, wait};

/// A blocking connection to a service: says HELLO, sends, asks, receives.
///
/// It has no thread. Whatever it does, it does while one of its methods is called:
///
/// | what comes | what the client does when it reads it |
/// |---|---|
/// | a message | gives it out: as a message, or as the answer that is waited for |
/// | PING | answers with PONG |
/// | BYE | ends its side; gives out what came before, then says [`Closed`] |
/// | what breaks the protocol | says BYE; then the same, with [`Frame`] or [`Protocol`] |
///
/// [`Closed`]: ClientError::Closed
/// [`Frame`]: ClientError::Frame
/// [`Protocol`]: ClientError::Protocol
///
/// It reads while it waits for a message ([`recv`](Self::recv)), for an answer
/// ([`request`](Self::request)), for room to write, or for the end ([`close`](Self::close)). So a
/// client that only sends learns that the service said BYE when a write fails, or when it looks
/// (`recv_timeout(Duration::ZERO)`); and one that said HELLO and neither reads nor writes for 45 s
/// is taken for dead (see [`ClientOptions::hello`]).
///
/// # Time
///
/// A call that ends with [`Timeout`](ClientError::Timeout) has lost nothing: a frame that is partly
/// read or partly written is gone on with by the next call.
///
/// # Memory
///
/// At most, and in each case no more than what was sent or received: the part of a frame that has
/// come, twice ([`ClientOptions::max_payload`]); the messages that wait
/// ([`ClientOptions::inbox_bytes`], and one more); 64 KiB and one frame to be written. An idle
/// client holds 64 KiB. A length that the service claims reserves nothing.
///
/// # The end
///
/// Dropping the client closes the connection at once: what was pushed and not flushed is lost, and
/// what the service sent and was not read may be. [`close`](Self::close) leaves in order.
///
/// # Examples
///
/// ```
/// use std::{thread, time::Duration};
///
/// use nebnet::{Client, Config, MessageType, NetService};
///
/// let mut service = NetService::new(Config::default().listen("127.0.0.1:0".parse()?))?;
/// let mut questions = service.handle().subscribe(MessageType(7))?;
/// service.start()?;
/// let addr = service.local_addrs()[0];
/// let answering = thread::Builder::new().spawn(move || {
///     while let Ok(question) = questions.recv() {
///         service.handle().reply(&question, "hello").expect("the client reads");
///     }
/// })?;
///
/// let mut client = Client::connect(addr)?;
/// let answer = client.request((MessageType(7), "hi"), Duration::from_secs(5))?;
/// assert_eq!(answer.payload(), b"hello");
/// // Nothing came that was not received.
/// assert_eq!(client.close()?, 0);
/// # drop(answering);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Client {
    stream: TcpStream,
    /// False once a read gave less than it was offered: the next one waits first.
    readable: bool,
    input: Input,
    output: Output,
    inbox: Inbox,
    options: ClientOptions,
    /// What the OK said.
    service: Option<PeerIdentity>,
    /// This side has sent its FIN, or is not to send anything more.
    finished: bool,
    /// Writing failed. The service may have said why, which is then still to be read.
    write_error: Option<ClientError>,
    /// How the connection ended, from the reading side.
    end: Option<ClientError>,
}

impl Client {
    /// Connects by the default options: says HELLO, and waits for the service's OK.
    ///
    /// # Errors
    ///
    /// As [`connect_with`](Self::connect_with).
    pub fn connect(addr: impl ToSocketAddrs) -> Result<Self, ClientError> {
        Self::connect_with(addr, ClientOptions::new())
    }

    /// Connects. Of several addresses the first one that can be connected to is used; at most 16
    /// are tried. A link-local address with its interface is read by
    /// [`parse_address`](crate::parse_address).
    ///
    /// Unless [`ClientOptions::hello`] is off, the client is returned when the service's OK has
    /// come; messages that came before it are received first.
    ///
    /// # Errors
    ///
    /// [`BadOption`](ClientError::BadOption); [`Resolve`](ClientError::Resolve) or
    /// [`Connect`](ClientError::Connect), if no address can be connected to;
    /// [`Refused`](ClientError::Refused), if the service answered with a BYE: with its reason;
    /// [`HelloTimeout`](ClientError::HelloTimeout); or what
    /// [`recv`](Self::recv) says of a connection that ended.
    pub fn connect_with(
        addr: impl ToSocketAddrs,
        options: ClientOptions,
    ) -> Result<Self, ClientError> {
        options.check()?;
        let resolve = |message| ClientError::Resolve { message };
        let addrs = addr
            .to_socket_addrs()
            .map_err(|error| resolve(error.to_string()))?;
        let mut failed = resolve("the name has no address".to_owned());
        for addr in addrs.take(ADDRESSES_PER_NAME_MAX) {
            match socket::connect(addr, options.connect_timeout) {
                Ok(stream) => return Self::from_stream(stream, options),
                Err(error) => failed = ClientError::connect(addr, &error),
            }
        }
        Err(failed)
    }

    /// A client on a connection that was made elsewhere: bound to an address, or with buffers of
    /// another size. The stream becomes non-blocking.
    ///
    /// # Errors
    ///
    /// As [`connect_with`](Self::connect_with).
    pub fn from_stream(stream: TcpStream, options: ClientOptions) -> Result<Self, ClientError> {
        options.check()?;
        socket::prepare(&stream).map_err(|error| ClientError::io(&error))?;
        let network = options.hello.then_some(options.network_id);
        let mut client = Self {
            stream,
            readable: false,
            input: Input::new(options.max_payload, options.require_checksums, network),
            output: Output::default(),
            inbox: Inbox::new(options.inbox_bytes),
            options,
            service: None,
            finished: false,
            write_error: None,
            end: None,
        };
        if client.options.hello {
            client.greet().map_err(ClientError::while_greeting)?;
        }
        Ok(client)
    }

    // ----- sending -------------------------------------------------------------------------------

    /// Sends a message: returns when the system has taken all of it. A
    /// [`Priority`](crate::Priority) has no effect: what a client sends goes out as it comes.
    ///
    /// Waits while the service takes nothing, for the write timeout at most, and reads ahead
    /// meanwhile, so that two sides which both write do not wait for each other.
    ///
    /// # Errors
    ///
    /// [`Timeout`](ClientError::Timeout): the message is taken and partly written, or not at all;
    /// [`flush`](Self::flush) and every call that waits go on with it, so it is not to be sent
    /// again.
    ///
    /// [`ReservedType`](ClientError::ReservedType), [`TooLarge`](ClientError::TooLarge),
    /// [`OutputFull`](ClientError::OutputFull) or [`Finished`](ClientError::Finished): it was not
    /// taken.
    ///
    /// An error that [is the end](ClientError::is_end): how much of it went out is not known. If
    /// the service said BYE, the error is that, [`Closed`](ClientError::Closed).
    pub fn send<'a>(&mut self, message: impl Into<Outgoing<'a>>) -> Result<(), ClientError> {
        self.push(message)?;
        self.flush()
    }

    /// Takes a message to be sent with others, in one write: by [`flush`](Self::flush), by the next
    /// call that sends or waits, or once 64 KiB have been pushed.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send), but [`Timeout`](ClientError::Timeout); the message was not taken.
    pub fn push<'a>(&mut self, message: impl Into<Outgoing<'a>>) -> Result<(), ClientError> {
        self.push_frame(&message.into().frame())
    }

    /// Answers a message: with its type, its correlation number, and a checksum if it had one.
    ///
    /// # Errors
    ///
    /// As [`send`](Self::send).
    pub fn reply<'a>(
        &mut self,
        question: &ClientMessage,
        payload: impl Into<Payload<'a>>,
    ) -> Result<(), ClientError> {
        self.push_reply(question, payload)?;
        self.flush()
    }

    /// As [`reply`](Self::reply), to be sent with others, as by [`push`](Self::push).
    ///
    /// # Errors
    ///
    /// As [`push`](Self::push).
    pub fn push_reply<'a>(
        &mut self,
        question: &ClientMessage,
        payload: impl Into<Payload<'a>>,
    ) -> Result<(), ClientError> {
        let payload = payload.into();
        let frame = Frame {
            message_type: question.message_type(),
            correlation: question.correlation(),
            checksum: question.checksum(),
            payload: payload.as_slice(),
        };
        self.push_frame(&frame)
    }

    /// Writes what was pushed.
    ///
    /// # Errors
    ///
    /// [`Timeout`](ClientError::Timeout), if the service took no byte for the write timeout: the
    /// rest is still there. [`Finished`](ClientError::Finished). An error that [is the
    /// end](ClientError::is_end): how much went out is not known.
    pub fn flush(&mut self) -> Result<(), ClientError> {
        let mut deadline = Deadline::after(self.options.write_timeout);
        loop {
            if self.write_some() {
                deadline = Deadline::after(self.options.write_timeout);
            }
            self.check_writable()?;
            if self.output.size() == 0 {
                return Ok(());
            }
            let reads = !self.inbox.is_full();
            self.readable |= wait(&self.stream, reads, true, deadline)?;
            self.read_ahead();
        }
    }

    /// Ends this side of the connection: nothing more can be sent, and what the service answers is
    /// received until [`EndOfStream`](ClientError::EndOfStream). The service ends its side a
    /// quarter of a second after its subscribers have released what the client sent and the answers
    /// are written.
    ///
    /// # Errors
    ///
    /// As [`flush`](Self::flush), which comes first.
    pub fn finish(&mut self) -> Result<(), ClientError> {
        self.flush()?;
        self.end_side();
        Ok(())
    }

    // ----- asking --------------------------------------------------------------------------------

    /// Asks, and waits for the answer: the message that carries the question's correlation number.
    /// What comes before it waits for [`recv`](Self::recv), in order, up to
    /// [`ClientOptions::inbox_bytes`].
    ///
    /// A question without an answer is given up: if the answer comes later, it is thrown away and
    /// counted by [`late_replies`](Self::late_replies). To go on waiting instead, take
    /// [`push_request`](Self::push_request) and [`recv_reply`](Self::recv_reply).
    ///
    /// # Errors
    ///
    /// [`Timeout`](ClientError::Timeout): no answer in this time, that of writing included.
    /// [`InboxFull`](ClientError::InboxFull): so much else came that the answer was not reached.
    /// Otherwise as [`push_request`](Self::push_request) and [`recv_reply`](Self::recv_reply).
    pub fn request<'a>(
        &mut self,
        message: impl Into<Outgoing<'a>>,
        timeout: Duration,
    ) -> Result<ClientMessage, ClientError> {
        let id = self.push_request(message)?;
        let answer = self.recv_reply(id, timeout);
        if answer.is_err() {
            self.inbox.give_up(id);
        }
        answer
    }

    /// Takes a question to be sent as by [`push`](Self::push). Its answer is waited for by
    /// [`recv_reply`](Self::recv_reply), or comes to [`recv`](Self::recv) as any message does. So
    /// many questions can be asked before the first answer is waited for.
    ///
    /// # Errors
    ///
    /// As [`push`](Self::push); [`TooManyRequests`](ClientError::TooManyRequests), if 65,536 are
    /// open.
    pub fn push_request<'a>(
        &mut self,
        message: impl Into<Outgoing<'a>>,
    ) -> Result<RequestId, ClientError> {
        let id = self.inbox.ask()?;
        let message = message.into();
        let question = message.frame().with_correlation(id.0);
        let pushed = self.push_frame(&question);
        if pushed.is_err() {
            self.inbox.give_up(id);
        }
        pushed.map(|()| id)
    }

    /// Waits for the answer to a question, and writes what was pushed. Answers may be waited for in
    /// any order.
    ///
    /// # Errors
    ///
    /// [`UnknownRequest`](ClientError::UnknownRequest), if the answer was given out before.
    /// [`Timeout`](ClientError::Timeout) and [`InboxFull`](ClientError::InboxFull): the question
    /// stays open. Otherwise as [`recv`](Self::recv).
    pub fn recv_reply(
        &mut self,
        id: RequestId,
        timeout: Duration,
    ) -> Result<ClientMessage, ClientError> {
        if let Some(answer) = self.inbox.take(id)? {
            return Ok(answer);
        }
        let deadline = Deadline::after(Some(timeout));
        loop {
            if self.inbox.is_full() {
                return Err(self.inbox.full());
            }
            match self.next_message() {
                Some(message) if message.correlation() == Some(id.0) => {
                    return Ok(self.inbox.hand_out(message));
                }
                Some(message) => self.inbox.keep(message),
                None => self.read_more(deadline)?,
            }
        }
    }

    // ----- receiving -----------------------------------------------------------------------------

    /// The next message, in the order in which they came; those first that came while an answer, or
    /// room to write, was waited for. Writes what was pushed, and waits for the
    /// [read timeout](ClientOptions::read_timeout) at most.
    ///
    /// # Errors
    ///
    /// [`Timeout`](ClientError::Timeout). Or, when everything that came was given out, the end:
    /// [`Closed`](ClientError::Closed), if the service said BYE;
    /// [`EndOfStream`](ClientError::EndOfStream) or [`CutOff`](ClientError::CutOff), if it ended
    /// without one; [`Frame`](ClientError::Frame) or [`Protocol`](ClientError::Protocol), if it
    /// broke the protocol; [`Io`](ClientError::Io).
    pub fn recv(&mut self) -> Result<ClientMessage, ClientError> {
        self.recv_until(Deadline::after(self.options.read_timeout))
    }

    /// As [`recv`](Self::recv), for this time at most. A time of zero takes what is there.
    ///
    /// # Errors
    ///
    /// As [`recv`](Self::recv).
    pub fn recv_timeout(&mut self, timeout: Duration) -> Result<ClientMessage, ClientError> {
        self.recv_until(Deadline::after(Some(timeout)))
    }

    /// Leaves in order: writes what was pushed, says BYE (`AppClosed`), and reads until the service
    /// ends its side. Gives how many messages were not received: those that waited, and those that
    /// came meanwhile.
    ///
    /// The service ends its side a quarter of a second after its subscribers have released what the
    /// client sent and the answers are written, and after 5 s at most. The
    /// [close timeout](ClientOptions::close_timeout) bounds the wait.
    ///
    /// # Errors
    ///
    /// [`Timeout`](ClientError::Timeout), and how else the connection ended if it was by neither
    /// BYE nor FIN. It is closed in any case.
    pub fn close(mut self) -> Result<u64, ClientError> {
        if !self.finished && self.end.is_none() {
            self.push_bye(CloseReason::AppClosed);
            // If it ended meanwhile, the reason is read below.
            match self.flush() {
                Err(error) if !error.is_end() => return Err(error),
                Err(_) | Ok(()) => self.end_side(),
            }
        }
        let deadline = Deadline::after(self.options.close_timeout);
        let mut unread = self.inbox.len() as u64;
        loop {
            if self.next_message().is_some() {
                unread += 1;
                continue;
            }
            match self.read_more(deadline) {
                Ok(()) => {}
                Err(ClientError::EndOfStream | ClientError::Closed { .. }) => return Ok(unread),
                Err(error) => return Err(error),
            }
        }
    }

    // ----- looking -------------------------------------------------------------------------------

    /// Who the service is, and the longest payload that it accepts, as its OK said; `None` without
    /// HELLO.
    #[must_use]
    pub const fn service(&self) -> Option<&PeerIdentity> {
        self.service.as_ref()
    }

    /// Bytes that were taken to be sent and that the system has not taken yet.
    #[must_use]
    pub fn unwritten(&self) -> usize {
        self.output.size()
    }

    /// Answers that came when their question had been given up.
    #[must_use]
    pub fn late_replies(&self) -> u64 {
        self.inbox.late_replies()
    }

    /// The address of this side.
    ///
    /// # Errors
    ///
    /// What the system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.stream.local_addr()
    }

    /// The address of the service.
    ///
    /// # Errors
    ///
    /// What the system says; if the connection has failed, that it is not connected.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.stream.peer_addr()
    }

    // ----- inside --------------------------------------------------------------------------------

    /// Says HELLO and waits for the OK.
    fn greet(&mut self) -> Result<(), ClientError> {
        let payload = self.options.hello_payload();
        let hello = Frame::new(MessageType::HELLO, &payload);
        self.output
            .push(&hello.with_checksum(self.options.checksums));
        let deadline = Deadline::after(self.options.connect_timeout);
        while self.service.is_none() {
            match self.next_message() {
                Some(message) => self.inbox.keep(message),
                None if self.service.is_some() => {}
                None => self.read_more(deadline)?,
            }
            if self.service.is_none() && self.inbox.size() > BEFORE_OK_BYTES_MAX {
                let size = self.inbox.size();
                self.fail(ClientError::Protocol {
                    what: format!(
                        "messages of {size} bytes before the OK are above the limit of \
                         {BEFORE_OK_BYTES_MAX}"
                    ),
                    at: self.input.position(),
                });
            }
        }
        Ok(())
    }

    fn recv_until(&mut self, deadline: Deadline) -> Result<ClientMessage, ClientError> {
        if let Some(message) = self.inbox.pop() {
            return Ok(message);
        }
        loop {
            if let Some(message) = self.next_message() {
                return Ok(self.inbox.hand_out(message));
            }
            self.read_more(deadline)?;
        }
    }

    fn push_frame(&mut self, frame: &Frame<'_>) -> Result<(), ClientError> {
        self.check_writable()?;
        let limit = self
            .service
            .as_ref()
            .map_or(PAYLOAD_SIZE_MAX_CEILING, |service| {
                service.payload_size_max.min(PAYLOAD_SIZE_MAX_CEILING)
            });
        output::judge(frame.message_type, frame.payload.len(), limit)?;
        if self.output.size() >= CLIENT_OUTPUT_BYTES_MAX {
            match self.flush() {
                Err(ClientError::Timeout) => {
                    return Err(ClientError::OutputFull {
                        size: self.output.size(),
                        limit: CLIENT_OUTPUT_BYTES_MAX,
                    });
                }
                result => result?,
            }
        }
        let checksum = frame.checksum || self.options.checksums;
        self.output.push(&frame.with_checksum(checksum));
        Ok(())
    }

    fn push_bye(&mut self, reason: CloseReason) {
        let Some(code) = reason.wire_code() else {
            return;
        };
        let payload = Bye { code, text: "" }.to_payload();
        let bye = Frame::new(MessageType::BYE, &payload);
        self.output.push(&bye.with_checksum(self.options.checksums));
    }

    /// Nothing more is sent.
    fn end_side(&mut self) {
        self.finished = true;
        // It fails if the connection has ended, which is what was wanted.
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Whether a message may be sent. The reason of a write that failed is looked for in what came.
    fn check_writable(&mut self) -> Result<(), ClientError> {
        if self.write_error.is_some() && self.end.is_none() {
            self.readable = true;
            self.read_ahead();
        }
        match self.end.as_ref().or(self.write_error.as_ref()) {
            Some(error) => Err(error.clone()),
            None if self.finished => Err(ClientError::Finished),
            None => Ok(()),
        }
    }

    /// Writes what the system takes at once. Gives whether it took anything.
    fn write_some(&mut self) -> bool {
        let mut any = false;
        while self.write_error.is_none() && !self.finished {
            let unwritten = self.output.unwritten();
            if unwritten.is_empty() {
                break;
            }
            match self.stream.write(unwritten) {
                Ok(count) => {
                    self.output.wrote(count);
                    any = true;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => self.write_error = Some(ClientError::io(&error)),
            }
        }
        any
    }

    /// Waits until something came, and writes meanwhile. Fails with the end, once that is known.
    fn read_more(&mut self, deadline: Deadline) -> Result<(), ClientError> {
        loop {
            if let Some(end) = &self.end {
                return Err(end.clone());
            }
            self.write_some();
            if self.readable && self.read_some() {
                return Ok(());
            }
            let writes = self.output.size() > 0 && self.write_error.is_none() && !self.finished;
            self.readable |= wait(&self.stream, true, writes, deadline)?;
        }
    }

    /// Keeps what came for later, as far as it may and without waiting.
    fn read_ahead(&mut self) {
        while !self.inbox.is_full() {
            match self.next_message() {
                Some(message) => self.inbox.keep(message),
                None if self.end.is_none() && self.readable && self.read_some() => {}
                None => return,
            }
        }
    }

    /// Reads once. Gives whether something came, the end included. No whole frame may be left.
    fn read_some(&mut self) -> bool {
        loop {
            let space = self.input.space();
            let offered = space.len();
            match self.stream.read(space) {
                Ok(0) => self.end = Some(self.input.at_end()),
                Ok(count) => {
                    self.readable = count == offered;
                    self.input.came(count);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.readable = false;
                    return false;
                }
                Err(error) => self.end = Some(ClientError::io(&error)),
            }
            return true;
        }
    }

    /// The next message of those that came whole. Does what the protocol's own frames ask for.
    fn next_message(&mut self) -> Option<ClientMessage> {
        while self.end.is_none() {
            match self.input.next() {
                Ok(None) => break,
                Ok(Some(Incoming::Message(message))) => {
                    if self.inbox.accepts(&message) {
                        return Some(message);
                    }
                }
                Ok(Some(Incoming::Ok(service))) => self.service = Some(service),
                Ok(Some(Incoming::Ping { payload, checksum })) => {
                    if !self.finished {
                        let checksum = checksum || self.options.checksums;
                        self.output.set_pong(&payload, checksum);
                    }
                }
                Ok(Some(Incoming::Bye { code, text })) => {
                    self.end = Some(ClientError::closed(code, text));
                    // What was pushed before is the service's if it still reads; then it waits for
                    // our end.
                    self.write_some();
                    self.end_side();
                }
                Err(error) => self.fail(error),
            }
        }
        None
    }

    /// The service broke the protocol: it is told so, if it takes that at once.
    fn fail(&mut self, error: ClientError) {
        if !self.finished {
            let reason = if let ClientError::Frame { error, .. } = &error {
                CloseReason::from(*error)
            } else {
                CloseReason::BadProtocolMessage
            };
            self.push_bye(reason);
            self.write_some();
            self.end_side();
        }
        self.end = Some(error);
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("peer_addr", &self.stream.peer_addr().ok())
            .field("service", &self.service)
            .field("unwritten", &self.output.size())
            .field("waiting", &self.inbox.len())
            .field("finished", &self.finished)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}
