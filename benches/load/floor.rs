//! What a round trip costs without a service: one thread that reads and writes back.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

/// Echoes the bytes of one connection, whatever they are; dropping it ends its thread.
#[derive(Debug)]
pub(crate) struct Floor {
    pub(crate) addr: SocketAddr,
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Floor {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let addr = listener.local_addr().unwrap();
        let ended = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&ended);
        let thread = thread::spawn(move || echo(&listener, &flag));
        Self {
            addr,
            ended,
            thread: Some(thread),
        }
    }
}

impl Drop for Floor {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

/// Never sleeps: reads until something is there, and lets others run in between.
fn echo(listener: &TcpListener, ended: &AtomicBool) {
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_nonblocking(true).unwrap();
    let mut bytes = [0; 4096];
    while !ended.load(Ordering::Relaxed) {
        match stream.read(&mut bytes) {
            Ok(0) => return,
            Ok(count) => stream.write_all(&bytes[..count]).unwrap(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => thread::yield_now(),
            // The client was ended.
            Err(_) => return,
        }
    }
}
