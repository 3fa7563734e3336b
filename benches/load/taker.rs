//! Clients that ask to be fed and take what comes badly, or well.

use super::child::connect;
use super::{FEED_TYPE, Mode, Spec};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

/// What a slow reader takes, and how often.
const TRICKLE_BYTES: usize = 1024;
const TRICKLE_PAUSE: Duration = Duration::from_millis(50);
/// How long a pausing reader takes nothing.
const PAUSE: Duration = Duration::from_millis(1500);

/// Connections that have asked to be fed; dropping them closes them.
#[derive(Debug)]
pub(super) struct Takers {
    streams: Vec<TcpStream>,
}

impl Takers {
    pub(super) fn connect(spec: Spec) -> Self {
        let frame = [0, 0, 0, 4, (FEED_TYPE >> 8) as u8, FEED_TYPE as u8, 0, 1];
        let streams: Vec<TcpStream> = (0..spec.connections)
            .map(|_| {
                let mut stream = connect(spec.addr);
                stream.write_all(&frame).unwrap();
                stream
            })
            .collect();
        for stream in &streams {
            let stream = stream.try_clone().unwrap();
            match spec.mode {
                Mode::Trickle => drop(thread::spawn(move || trickle(stream))),
                Mode::Pausing => drop(thread::spawn(move || pause_and_take(stream))),
                Mode::Never
                | Mode::Receive
                | Mode::Idle
                | Mode::Flood
                | Mode::Paced
                | Mode::RoundTrip => {}
            }
        }
        Self { streams }
    }

    pub(super) fn len(&self) -> usize {
        self.streams.len()
    }
}

fn trickle(mut stream: TcpStream) {
    let mut buffer = [0; TRICKLE_BYTES];
    while let Ok(1..) = stream.read(&mut buffer) {
        thread::sleep(TRICKLE_PAUSE);
    }
}

fn pause_and_take(mut stream: TcpStream) {
    let mut buffer = vec![0; 256 << 10];
    loop {
        thread::sleep(PAUSE);
        let until = Instant::now() + PAUSE;
        stream.set_read_timeout(Some(PAUSE)).unwrap();
        while Instant::now() < until {
            match stream.read(&mut buffer) {
                Ok(1..) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Ok(0) | Err(_) => return,
            }
        }
    }
}
