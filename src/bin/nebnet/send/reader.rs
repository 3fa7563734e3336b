//! Takes what the service sends: answers, and the protocol's own messages.

use std::{
    fs::File,
    io::{self, BufWriter, ErrorKind, Read as _, Write as _},
    net::TcpStream,
    sync::{Arc, atomic::Ordering},
};

use crossbeam_channel::Sender;
use nebnet::frame::{Bye, Decoder, Frame, Hello};

use super::{BYE, Event, OK, PING, PONG, Shared};
use crate::{args::SendArgs, text, units::PAYLOAD_SIZE_MAX};

/// Room offered to one read. The buffer grows with what has come, not with what a length claims.
const READ_SIZE: usize = 64 << 10;

/// How the reader ended.
#[derive(Debug)]
pub(super) struct End {
    /// Application messages that came.
    pub(super) answers: u64,
    pub(super) how: How,
}

#[derive(Debug)]
pub(super) enum How {
    /// The service closed its direction between two messages.
    Eof,
    /// The service said why it closes.
    Bye { code: u16, text: String },
    /// Anything else; the message says all.
    Broken(String),
}

pub(super) struct Reader {
    stream: TcpStream,
    addr: String,
    network_id: u32,
    shared: Arc<Shared>,
    pongs: Sender<Vec<u8>>,
    /// Where answers are printed, if they are.
    out: Option<BufWriter<File>>,
    answers: u64,
    greeted: bool,
}

impl Reader {
    pub(super) fn new(
        stream: TcpStream,
        args: &SendArgs,
        out: Option<File>,
        shared: Arc<Shared>,
        pongs: Sender<Vec<u8>>,
    ) -> Self {
        Self {
            stream,
            addr: args.addr.clone(),
            network_id: args.network_id,
            shared,
            pongs,
            out: out.map(|out| BufWriter::with_capacity(READ_SIZE, out)),
            answers: 0,
            // Without a HELLO there is nothing that an OK could answer.
            greeted: !args.hello,
        }
    }

    pub(super) fn run(mut self, events: &Sender<Event>) -> End {
        let how = self.read_all(events).unwrap_or_else(|how| how);
        let how = match self.flush() {
            Ok(()) => how,
            Err(broken) => broken,
        };
        End {
            answers: self.answers,
            how,
        }
    }

    fn read_all(&mut self, events: &Sender<Event>) -> Result<How, How> {
        let decoder = Decoder::new(PAYLOAD_SIZE_MAX);
        let mut buffer = Vec::new();
        loop {
            // Whatever is printed shows while the next bytes are awaited.
            self.flush()?;
            let answers = self.answers;
            if !self.read_more(&mut buffer)? {
                let rest = buffer.len();
                return if rest == 0 {
                    Ok(How::Eof)
                } else {
                    Err(self.broken(&format!(
                        "closed inside a message ({rest} bytes of it came)"
                    )))
                };
            }
            let mut frames = decoder.frames(&buffer);
            for frame in frames.by_ref() {
                let frame = frame.map_err(|error| self.broken(&error.to_string()))?;
                self.handle_frame(&frame, events)?;
            }
            let consumed = frames.consumed();
            buffer.drain(..consumed);
            // A service that only pings keeps the connection, but answers nothing.
            if self.answers > answers || !buffer.is_empty() {
                self.shared.progress();
            }
        }
    }

    /// Appends what has come; false at the end of the stream.
    fn read_more(&mut self, buffer: &mut Vec<u8>) -> Result<bool, How> {
        let start = buffer.len();
        buffer.resize(start + READ_SIZE, 0);
        let size = loop {
            match self.stream.read(&mut buffer[start..]) {
                Ok(size) => break size,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.broken(&format!("connection broke: {error}"))),
            }
        };
        buffer.truncate(start + size);
        Ok(size > 0)
    }

    fn handle_frame(&mut self, frame: &Frame<'_>, events: &Sender<Event>) -> Result<(), How> {
        match frame.message_type {
            message_type if !message_type.is_protocol() => self.handle_answer(frame),
            OK => self.handle_ok(frame, events),
            BYE => Err(match Bye::parse(frame.payload) {
                Ok(bye) => How::Bye {
                    code: bye.code,
                    text: bye.text.to_owned(),
                },
                Err(error) => self.broken(&error.to_string()),
            }),
            PING => {
                let mut pong = Vec::new();
                let answer = Frame::new(PONG, frame.payload).with_checksum(frame.checksum);
                answer
                    .encode(&mut pong)
                    .map_err(|error| self.broken(&error.to_string()))?;
                // One PONG that waits is enough to show that this side lives.
                let _ = self.pongs.try_send(pong);
                Ok(())
            }
            // Protocol messages of a later version are skipped.
            _ => Ok(()),
        }
    }

    fn handle_ok(&mut self, frame: &Frame<'_>, events: &Sender<Event>) -> Result<(), How> {
        let ok = Hello::parse(frame.payload).map_err(|error| self.broken(&error.to_string()))?;
        if ok.network_id != self.network_id {
            let message = format!("is of network {}, not {}", ok.network_id, self.network_id);
            return Err(self.broken(&message));
        }
        if !self.greeted {
            self.greeted = true;
            let _ = events.send(Event::Greeted);
        }
        Ok(())
    }

    fn handle_answer(&mut self, frame: &Frame<'_>) -> Result<(), How> {
        self.answers += 1;
        let Some(out) = &mut self.out else {
            return Ok(());
        };
        // No more answers are shown than messages went out, once it is known how many do.
        if self.shared.complete.load(Ordering::Acquire)
            && self.answers > self.shared.produced.load(Ordering::Acquire)
        {
            return Ok(());
        }
        self.shared.printing.store(true, Ordering::Relaxed);
        let written = text::write_message(out, &self.addr, frame.message_type.0, frame.payload);
        self.shared.printing.store(false, Ordering::Relaxed);
        self.shared.progress();
        written.map_err(|error| How::Broken(output_failed(&error)))
    }

    fn flush(&mut self) -> Result<(), How> {
        let Some(out) = &mut self.out else {
            return Ok(());
        };
        if out.buffer().is_empty() {
            return Ok(());
        }
        self.shared.printing.store(true, Ordering::Relaxed);
        let flushed = out.flush();
        self.shared.printing.store(false, Ordering::Relaxed);
        self.shared.progress();
        flushed.map_err(|error| How::Broken(output_failed(&error)))
    }

    fn broken(&self, what: &str) -> How {
        How::Broken(format!("{}: {what}", self.addr))
    }
}

pub(super) fn output_failed(error: &io::Error) -> String {
    format!("cannot write to standard output: {error}")
}
