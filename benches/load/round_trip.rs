//! The client that sends one message, waits for its answer, and times that.

use super::child::connect;
use super::wire::{encode, frame_size};
use super::{Framing, Report, Spec, cpu_time, number};
use rustix::net::sockopt;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Instant;

/// Round trips remembered at most; later ones are made and not remembered.
const SAMPLES_MAX: usize = 4 << 20;

/// One connection with blocking reads and writes.
#[derive(Debug)]
pub(super) struct RoundTrip {
    stream: TcpStream,
    spec: Spec,
    number: u64,
    samples_ns: Vec<u64>,
}

impl RoundTrip {
    pub(super) fn connect(spec: Spec) -> Self {
        let stream = connect(spec.addr);
        Self {
            stream,
            spec,
            number: 0,
            samples_ns: Vec::new(),
        }
    }

    pub(super) fn run(&mut self, count: u64) -> Report {
        let (wall, cpu) = (Instant::now(), cpu_time());
        let mut sum = 0;
        let mut frame = Vec::new();
        let size = frame_size(self.spec.framing, self.spec.payload);
        let mut answer = vec![0; size];
        for _ in 0..count {
            self.number += 1;
            sum += self.number;
            frame.clear();
            encode(&mut frame, self.number, &self.spec);
            let sent = Instant::now();
            self.stream.write_all(&frame).unwrap();
            if self.spec.framing == Framing::Varint {
                // message-io writes length and message apart and leaves Nagle's algorithm on: its
                // answers would wait for an acknowledgement that comes after 40 ms.
                sockopt::set_tcp_quickack(&self.stream, true).unwrap();
            }
            self.stream.read_exact(&mut answer).unwrap();
            let nanoseconds = sent.elapsed().as_nanos() as u64;
            assert_eq!(
                number(&answer[size - self.spec.payload..]),
                self.number,
                "another message's answer"
            );
            if self.samples_ns.len() < SAMPLES_MAX {
                self.samples_ns.push(nanoseconds);
            }
        }
        let (wall, cpu) = (wall.elapsed(), cpu_time() - cpu);
        Report {
            messages: count,
            sum,
            wall,
            cpu,
            ..Report::default()
        }
    }

    pub(super) fn clear(&mut self) -> Report {
        self.samples_ns.clear();
        Report::default()
    }

    pub(super) fn stats(&mut self) -> Report {
        self.samples_ns.sort_unstable();
        let rank = |per_mille: usize| {
            let index = self.samples_ns.len() * per_mille / 1000;
            self.samples_ns.get(index).copied().unwrap_or_default()
        };
        let messages = self.samples_ns.len() as u64;
        Report {
            messages,
            p50: rank(500),
            p99: rank(990),
            p999: rank(999),
            ..Report::default()
        }
    }
}
