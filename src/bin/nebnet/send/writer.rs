//! Writes frames, and PONGs between them.

use std::{
    io::{self, ErrorKind, Write as _},
    net::{Shutdown, TcpStream},
    sync::Arc,
    time::Duration,
};

use crossbeam_channel::{Receiver, never, select};

use super::Shared;

/// How often a blocked write looks at the time.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

pub(super) struct Writer {
    stream: TcpStream,
    shared: Arc<Shared>,
}

impl Writer {
    pub(super) fn new(stream: TcpStream, shared: Arc<Shared>) -> io::Result<Self> {
        stream.set_write_timeout(Some(LOOK_INTERVAL))?;
        Ok(Self { stream, shared })
    }

    /// Writes until the source ends, then closes this direction.
    ///
    /// Both queues carry whole frames, so a PONG never comes into the middle of one.
    pub(super) fn run(
        mut self,
        frames: &Receiver<Vec<u8>>,
        pongs: &Receiver<Vec<u8>>,
    ) -> Result<(), String> {
        let mut pongs = pongs.clone();
        loop {
            let bytes = select! {
                recv(frames) -> frame => match frame {
                    Ok(frame) => frame,
                    Err(_) => break,
                },
                recv(pongs) -> pong => match pong {
                    Ok(pong) => pong,
                    Err(_) => {
                        // The reader has ended; the connection may still take what is left.
                        pongs = never();
                        continue;
                    }
                },
            };
            self.write_all(&bytes)?;
        }
        self.stream
            .shutdown(Shutdown::Write)
            .map_err(|error| error.to_string())
    }

    fn write_all(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        self.shared.progress();
        while !bytes.is_empty() {
            match self.stream.write(bytes) {
                Ok(size) => {
                    self.shared.progress();
                    bytes = bytes.get(size..).unwrap_or_default();
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if timed_out(&error) => {
                    if self.shared.patience().is_none() {
                        return Err(format!("took nothing for {:?}", self.shared.timeout));
                    }
                }
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(())
    }
}

/// Systems differ in which of the two a socket's timeout is.
fn timed_out(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
