//! The client that sends so many messages a second and no more.

use super::child::connect;
use super::wire::{frame_size, sum_round, whole_frames};
use super::{Report, Spec, cpu_time};
use std::io::Write;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

/// Different messages.
const FRAMES: usize = 1024;

/// Blocking connections that take turns, and what they send.
#[derive(Debug)]
pub(super) struct Paced {
    streams: Vec<TcpStream>,
    frames: Vec<u8>,
    frame_size: usize,
    rate: u64,
    /// Since the beginning; the next message's place in `frames` follows from it.
    sent: u64,
}

impl Paced {
    pub(super) fn connect(spec: Spec) -> Self {
        Self {
            streams: (0..spec.connections).map(|_| connect(spec.addr)).collect(),
            frames: whole_frames(&spec, FRAMES),
            frame_size: frame_size(spec.framing, spec.payload),
            rate: spec.rate,
            sent: 0,
        }
    }

    /// Writes each message when it is due. What fell due while it slept goes out at once, but each
    /// message with a call of its own.
    pub(super) fn send_for(&mut self, time: Duration) -> Report {
        let (start, cpu, first) = (Instant::now(), cpu_time(), self.sent);
        let interval = Duration::from_secs(1) / self.rate as u32;
        loop {
            let elapsed = start.elapsed().min(time);
            let due = (elapsed.as_nanos() / interval.as_nanos()) as u64;
            while self.sent - first < due {
                self.send_one();
            }
            if elapsed == time {
                break;
            }
            let next = interval * (due + 1) as u32;
            thread::sleep(next.saturating_sub(start.elapsed()));
        }
        Report {
            messages: self.sent - first,
            sum: sum_round(FRAMES as u64, self.sent) - sum_round(FRAMES as u64, first),
            wall: start.elapsed(),
            cpu: cpu_time() - cpu,
            ..Report::default()
        }
    }

    fn send_one(&mut self) {
        let stream = self.sent as usize % self.streams.len();
        let at = self.sent as usize % FRAMES * self.frame_size;
        self.streams[stream]
            .write_all(&self.frames[at..at + self.frame_size])
            .unwrap();
        self.sent += 1;
    }
}
