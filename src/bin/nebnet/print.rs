//! `serve --print`: one line per message on standard output.
//!
//! Nothing is lost here: while standard output takes no more, the subscription fills, and then
//! pauses the peers that send.

use std::{
    fs::File,
    io::{self, BufWriter, ErrorKind, Write},
    os::fd::AsFd as _,
    thread,
    time::Duration,
};

use crossbeam_channel::{Receiver, bounded};
use nebnet::{Batch, Subscription, TryRecvError};
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};

use crate::{
    failure::Failure,
    text, time,
    worker::{Summary, WorkerError},
};

const BUFFER_SIZE: usize = 64 << 10;
/// A line stays in the buffer no longer than this, even if there is always a next one.
const FLUSH_INTERVAL: Duration = Duration::from_millis(100);

pub(crate) fn run(messages: Subscription) -> Result<Summary, WorkerError> {
    match stdout_file().and_then(|out| print_all(messages, out)) {
        Ok(count) => Ok(format!("{count} messages printed")),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(WorkerError::OutputClosed),
        Err(error) => Err(WorkerError::Failed(format!(
            "cannot write to standard output: {error}"
        ))),
    }
}

/// Yields once when nobody can read standard output any more, also while nothing is printed.
pub(crate) fn watch_stdout() -> Result<Receiver<()>, Failure> {
    let (sender, receiver) = bounded(1);
    thread::Builder::new()
        .name("nebnet-stdout".to_owned())
        .spawn(move || {
            let stdout = io::stdout();
            // No event is asked for: a closed pipe is told in any case, and a file never closes.
            let mut fds = [PollFd::new(&stdout, PollFlags::empty())];
            let closed = loop {
                match poll(&mut fds, None) {
                    Err(Errno::INTR) => {}
                    result => break result.is_ok(),
                }
            };
            if closed {
                let _ = sender.try_send(());
            } else {
                // What cannot be watched is found closed by the next line. Until then there is
                // nothing to say, and dropping the sender would be taken for a word.
                std::mem::forget(sender);
            }
        })
        .map_err(|error| Failure::new(format!("cannot start a thread: {error}")))?;
    Ok(receiver)
}

/// Standard output without the line buffer that the library puts in front of it.
pub(crate) fn stdout_file() -> io::Result<File> {
    io::stdout().as_fd().try_clone_to_owned().map(File::from)
}

fn print_all(mut messages: Subscription, out: File) -> io::Result<u64> {
    let mut out = BufWriter::with_capacity(BUFFER_SIZE, out);
    let mut flushed = time::now();
    let mut count: u64 = 0;
    loop {
        let batch = match messages.try_recv_batch() {
            Ok(batch) => batch,
            Err(TryRecvError::Empty) => {
                out.flush()?;
                flushed = time::now();
                match messages.recv_batch() {
                    Ok(batch) => batch,
                    Err(_) => break,
                }
            }
            Err(TryRecvError::Disconnected) => break,
        };
        print_batch(&batch, &mut out)?;
        count += batch.len() as u64;
        if time::now().duration_since(flushed) >= FLUSH_INTERVAL {
            out.flush()?;
            flushed = time::now();
        }
    }
    out.flush()?;
    Ok(count)
}

fn print_batch(batch: &Batch, out: &mut impl Write) -> io::Result<()> {
    for message in batch {
        let message_type = message.message_type().0;
        text::write_message(out, message.peer(), message_type, message.payload())?;
    }
    Ok(())
}
