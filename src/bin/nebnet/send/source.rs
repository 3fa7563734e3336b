//! Where the messages come from: a text, a file, filler, or the lines of standard input.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Read},
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use crossbeam_channel::Sender;
use nebnet::frame::Frame;
use rustix::fs::{self, FileType};

use super::Shared;
use crate::{args::SendArgs, failure::Failure, time, units::PAYLOAD_SIZE_MAX};

/// Frames are handed to the writer in pieces of about this size.
const PIECE_SIZE: usize = 64 << 10;
const INPUT_BUFFER_SIZE: usize = 64 << 10;
/// What `--size` fills a payload with: text, so that it can be printed.
const FILLER: &[u8] = b"0123456789abcdef";

/// What is sent.
#[derive(Debug)]
pub(super) enum Payload {
    /// The same each time.
    Whole(Vec<u8>),
    /// Each line of standard input.
    Lines,
}

impl Payload {
    /// Reads what does not come bit by bit.
    pub(super) fn load(args: &SendArgs) -> Result<Self, Failure> {
        if let Some(text) = &args.text {
            return Ok(Self::Whole(text.clone().into_bytes()));
        }
        if let Some(size) = args.size {
            let filler = FILLER.iter().copied().cycle();
            return Ok(Self::Whole(filler.take(size).collect()));
        }
        if let Some(path) = &args.file {
            let payload = File::open(path).and_then(read_whole).map_err(|error| {
                Failure::new(format!("cannot read {}: {error}", path.display()))
            })?;
            return Ok(Self::Whole(payload));
        }
        // The one thing that can stand there and never gives a line.
        let is_folder =
            fs::fstat(io::stdin()).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_dir());
        if is_folder {
            let message = "cannot read standard input: it is a directory";
            return Err(Failure::new(message));
        }
        Ok(Self::Lines)
    }
}

/// Makes every message, and ends early without an error if the writer is gone: the reason is its
/// to tell.
pub(super) fn run(
    args: &SendArgs,
    payload: &Payload,
    shared: &Shared,
    out: &Sender<Vec<u8>>,
) -> Result<(), String> {
    let mut source = Source::new(args, payload, shared, out);
    let result = source.produce();
    shared.complete.store(true, Ordering::Release);
    match result {
        Ok(()) | Err(Stop::WriterGone) => Ok(()),
        Err(Stop::Failed(message)) => Err(message),
    }
}

/// Why the source stops early.
enum Stop {
    WriterGone,
    Failed(String),
}

struct Source<'a> {
    args: &'a SendArgs,
    payload: &'a Payload,
    shared: &'a Shared,
    out: &'a Sender<Vec<u8>>,
    /// Whole frames that the writer has not been given yet.
    piece: Vec<u8>,
    pace: Option<Pace>,
}

impl<'a> Source<'a> {
    fn new(
        args: &'a SendArgs,
        payload: &'a Payload,
        shared: &'a Shared,
        out: &'a Sender<Vec<u8>>,
    ) -> Self {
        let pace = args.rate.map(|rate| Pace {
            start: time::now(),
            rate,
            count: 0,
        });
        Self {
            args,
            payload,
            shared,
            out,
            piece: Vec::new(),
            pace,
        }
    }

    fn produce(&mut self) -> Result<(), Stop> {
        match self.payload {
            Payload::Whole(payload) => self.repeat(payload)?,
            Payload::Lines => self.lines(BufReader::with_capacity(
                INPUT_BUFFER_SIZE,
                io::stdin().lock(),
            ))?,
        }
        self.flush()
    }

    /// Each line without its newline; other bytes, a carriage return too, are part of it.
    fn lines(&mut self, mut input: BufReader<impl Read>) -> Result<(), Stop> {
        let fail = |error| Stop::Failed(format!("cannot read standard input: {error}"));
        let line_max = u64::from(PAYLOAD_SIZE_MAX) + 1;
        let mut line = Vec::new();
        let mut number: u64 = 0;
        loop {
            // A line that is not there yet may be long in coming, so what is made goes out.
            if !input.buffer().contains(&b'\n') {
                self.flush()?;
            }
            line.clear();
            if input
                .by_ref()
                .take(line_max)
                .read_until(b'\n', &mut line)
                .map_err(fail)?
                == 0
            {
                return Ok(());
            }
            number += 1;
            if line.last() == Some(&b'\n') {
                line.pop();
            } else if line.len() as u64 == line_max {
                let message = format!("line {number} is above {PAYLOAD_SIZE_MAX} bytes");
                return Err(Stop::Failed(message));
            }
            self.repeat(&line)?;
        }
    }

    fn repeat(&mut self, payload: &[u8]) -> Result<(), Stop> {
        (0..self.args.count).try_for_each(|_| self.message(payload))
    }

    fn message(&mut self, payload: &[u8]) -> Result<(), Stop> {
        if let Some(wait) = self.pace.as_mut().and_then(Pace::next_wait) {
            self.flush()?;
            time::sleep(wait);
        }
        let frame = Frame::new(self.args.message_type, payload).with_checksum(self.args.checksum);
        frame
            .encode(&mut self.piece)
            .map_err(|error| Stop::Failed(error.to_string()))?;
        // Before it is written, so that its answer finds it counted.
        self.shared.produced.fetch_add(1, Ordering::Release);
        if self.piece.len() >= PIECE_SIZE {
            self.flush()
        } else {
            Ok(())
        }
    }

    fn flush(&mut self) -> Result<(), Stop> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let next = Vec::with_capacity(PIECE_SIZE + PIECE_SIZE / 4);
        let piece = std::mem::replace(&mut self.piece, next);
        self.out.send(piece).map_err(|_| Stop::WriterGone)
    }
}

/// When each message is due, counted from the first, so that lateness does not add up.
struct Pace {
    start: Instant,
    rate: f64,
    count: u64,
}

impl Pace {
    /// How long to wait before the next message; `None` if it is due.
    fn next_wait(&mut self) -> Option<Duration> {
        let due = Duration::try_from_secs_f64(self.count as f64 / self.rate).ok()?;
        self.count += 1;
        let wait = due.saturating_sub(time::now().duration_since(self.start));
        (!wait.is_zero()).then_some(wait)
    }
}

fn read_whole(file: File) -> io::Result<Vec<u8>> {
    let mut payload = Vec::new();
    file.take(u64::from(PAYLOAD_SIZE_MAX) + 1)
        .read_to_end(&mut payload)?;
    if payload.len() > PAYLOAD_SIZE_MAX as usize {
        return Err(io::Error::other(format!(
            "it is above {PAYLOAD_SIZE_MAX} bytes"
        )));
    }
    Ok(payload)
}
