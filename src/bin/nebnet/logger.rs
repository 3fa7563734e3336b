//! Standard error: log lines and the status line, written by one thread.
//!
//! Whoever logs only puts a line into a bounded queue. The loop thread logs too, and must not
//! wait for a terminal that was stopped with Ctrl-S or a pipe that nobody reads. A line that
//! finds the queue full is dropped and counted, and the count is told as soon as there is room.
//!
//! The status line of a terminal is part of this because it stands where the next log line goes:
//! a log line removes it, and it is written again below.

use std::{
    io::{self, IsTerminal as _, Write},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use crossbeam_channel::{Receiver, Sender, bounded};
use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::{failure::Failure, text, time};

/// Lines that wait for the writer.
const LINES_MAX: usize = 4096;
/// Longest line in bytes, so that the queue is bounded in bytes as well.
const LINE_SIZE_MAX: usize = 4096;
/// What the end of the program waits for a standard error that is not read.
const FINISH_TIMEOUT: Duration = Duration::from_millis(500);

static WRITER: OnceLock<Writer> = OnceLock::new();

/// The sending side of the queue.
#[derive(Debug)]
struct Writer {
    items: Sender<Item>,
    /// Lines that found the queue full, and that the thread has not told yet.
    dropped: AtomicU64,
}

#[derive(Debug)]
enum Item {
    Line(String),
    Status(String),
    /// Everything before it is written; no status line is left standing.
    Finish(Sender<()>),
}

/// Starts the thread and becomes the logger of the program. Once, before anything logs.
pub(crate) fn start(level: LevelFilter) -> Result<(), Failure> {
    let (items, queue) = bounded(LINES_MAX);
    let writer = Writer {
        items,
        dropped: AtomicU64::new(0),
    };
    assert!(WRITER.set(writer).is_ok(), "the logger is started once");
    thread::Builder::new()
        .name("nebnet-log".to_owned())
        .spawn(move || write_items(&queue))
        .map_err(|error| Failure::new(format!("cannot start a thread: {error}")))?;
    if let Some(writer) = WRITER.get() {
        log::set_logger(writer)
            .map_err(|error| Failure::new(format!("cannot start the logger: {error}")))?;
        set_level(level);
    }
    Ok(())
}

/// What is logged from now on.
pub(crate) fn set_level(level: LevelFilter) {
    log::set_max_level(level);
}

/// Shows the line in place of the status line before it, or below it if this is no terminal.
pub(crate) fn status(line: String) {
    if let Some(writer) = WRITER.get() {
        // The next one comes in a second and says more.
        let _ = writer.items.try_send(Item::Status(line));
    }
}

/// Writes lines that are neither logged nor filtered, such as the stop report.
pub(crate) fn lines(text: &str) {
    let Some(writer) = WRITER.get() else { return };
    for line in text.lines() {
        // Waits for room, but not for ever: this is said at the end of the program.
        let _ = writer
            .items
            .send_timeout(Item::Line(text::escape(line).into_owned()), FINISH_TIMEOUT);
    }
}

/// Waits until what was logged is written, but not long if nobody reads standard error.
///
/// Returns whether it was; if not, whoever writes to standard error himself may wait for ever.
pub(crate) fn finish() -> bool {
    let Some(writer) = WRITER.get() else {
        return true;
    };
    let (done, finished) = bounded(1);
    writer
        .items
        .send_timeout(Item::Finish(done), FINISH_TIMEOUT)
        .is_ok()
        && finished.recv_timeout(FINISH_TIMEOUT).is_ok()
}

impl Log for Writer {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        // What a dependency has to say matters when something is wrong with it.
        let ours = metadata.target().starts_with("nebnet");
        metadata.level() <= log::max_level() && (ours || metadata.level() <= Level::Warn)
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let message = record.args().to_string();
        let message = text::escape(cut(&message));
        let line = format!("{} {:5} {message}", time::timestamp(), record.level());
        if self.items.try_send(Item::Line(line)).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn flush(&self) {
        finish();
    }
}

fn cut(message: &str) -> &str {
    let mut end = message.len().min(LINE_SIZE_MAX);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    &message[..end]
}

fn write_items(queue: &Receiver<Item>) {
    // Not locked for good: a panic elsewhere writes its message there too.
    let mut out = io::stderr();
    let mut screen = Screen {
        in_place: out.is_terminal(),
        status: String::new(),
    };
    let mut text = String::new();
    // Errors are not looked at: there is no other place to report them to.
    for item in queue {
        text.clear();
        let done = screen.render(item, &mut text);
        if let Some(dropped) = take_dropped() {
            let said = format!("{} WARN  {dropped} log lines dropped", time::timestamp());
            screen.render(Item::Line(said), &mut text);
        }
        let _ = out.write_all(text.as_bytes());
        if let Some(done) = done {
            let _ = out.flush();
            let _ = done.send(());
        }
    }
}

/// Lines lost since it was asked last, if any.
fn take_dropped() -> Option<u64> {
    let dropped = WRITER.get()?.dropped.swap(0, Ordering::Relaxed);
    (dropped > 0).then_some(dropped)
}

/// What stands on the terminal.
#[derive(Debug)]
struct Screen {
    /// Standard error is a terminal, on which a line can be written over.
    in_place: bool,
    /// The status line that stands on the last line; empty if none does. Always empty unless
    /// `in_place`.
    status: String,
}

/// Back to the first column, and clear the line.
const CLEAR: &str = "\r\x1b[K";

impl Screen {
    /// Appends what has to be written. Returns whom to tell when it is.
    fn render(&mut self, item: Item, out: &mut String) -> Option<Sender<()>> {
        if !self.status.is_empty() {
            out.push_str(CLEAR);
        }
        match item {
            Item::Line(line) => {
                out.push_str(&line);
                out.push('\n');
                out.push_str(&self.status);
                None
            }
            Item::Status(line) => {
                out.push_str(&line);
                if self.in_place {
                    self.status = line;
                } else {
                    out.push('\n');
                }
                None
            }
            Item::Finish(done) => {
                self.status.clear();
                Some(done)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(in_place: bool, items: Vec<Item>) -> String {
        let mut screen = Screen {
            in_place,
            status: String::new(),
        };
        let mut out = String::new();
        for item in items {
            screen.render(item, &mut out);
        }
        out
    }

    fn items() -> Vec<Item> {
        let (done, _) = bounded(1);
        vec![
            Item::Status("s1".to_owned()),
            Item::Line("l1".to_owned()),
            Item::Status("s2".to_owned()),
            Item::Finish(done),
            Item::Line("end".to_owned()),
        ]
    }

    #[test]
    fn a_terminal_has_one_status_line_at_its_bottom() {
        let expected = "s1\r\x1b[Kl1\ns1\r\x1b[Ks2\r\x1b[Kend\n";
        assert_eq!(written(true, items()), expected);
    }

    #[test]
    fn elsewhere_every_status_is_a_line() {
        assert_eq!(written(false, items()), "s1\nl1\ns2\nend\n");
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        let text = "\u{e9}".repeat(LINE_SIZE_MAX);
        assert_eq!(cut(&text).len(), LINE_SIZE_MAX);
        let text = format!("x{text}");
        assert_eq!(cut(&text).len(), LINE_SIZE_MAX - 1);
        assert_eq!(cut("short"), "short");
    }
}
