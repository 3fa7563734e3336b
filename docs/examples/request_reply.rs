//! Asking peers: one question and its answer, one without an answer, and the same question to all
//! peers with the answers in one queue.
//!
//! Whatever happens, a request ends: by its answer, its timeout, or the end of the connection. No
//! subscriber sees an answer, so a service may ask the type that it also serves.

use std::error::Error;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nebnet::frame::{Decoder, Frame};
use nebnet::{Config, MessageType, NetService, Outgoing, RequestError};

const SQUARE: MessageType = MessageType(7);
const PEERS: usize = 4;
const TIMEOUT: Duration = Duration::from_secs(5);

fn main() -> Result<(), Box<dyn Error>> {
    let mut service = NetService::new(Config::default().listen("127.0.0.1:0".parse()?))?;
    service.start()?;
    let addr = service.local_addrs()[0];
    let peers = (0..PEERS).map(|_| spawn_peer(addr));
    let peers = peers.collect::<Result<Vec<_>, _>>()?;
    while service.snapshot().peers < PEERS as u64 {
        thread::yield_now();
    }
    let handle = service.handle();
    let connected = handle.peers();

    // One question. The thread may do something else before it looks for the answer.
    let first = connected[0].peer;
    let pending = service.request(first, SQUARE, &12_u64.to_be_bytes(), TIMEOUT)?;
    let answer = number(pending.recv()?.payload())?;
    println!("{first} says that 12 squared is {answer}");
    assert_eq!(answer, 144);

    // The peers keep quiet about nothing, so time is over.
    let pending = service.request(first, SQUARE, b"", Duration::from_millis(50))?;
    match pending.recv() {
        Err(RequestError::Timeout) => println!("{first} has no answer to nothing"),
        other => return Err(format!("expected a timeout, not {other:?}").into()),
    }

    // A question for each, and all answers in one queue, which also says who did not answer.
    let replies = service.replies(PEERS);
    for (row, value) in connected.iter().zip(1_u64..) {
        let payload = value.to_be_bytes();
        let question = Outgoing::new(SQUARE, &payload).checksum(true);
        handle.request_to(&replies, row.peer, &question, TIMEOUT)?;
    }
    let mut sum = 0;
    for _ in 0..PEERS {
        let reply = replies.recv()?;
        let square = number(reply.result?.payload())?;
        println!("{} says {square}", reply.peer);
        sum += square;
    }
    assert_eq!(sum, 1 + 4 + 9 + 16);

    let report = service.stop(Duration::from_secs(5));
    let requests = report.snapshot.requests;
    println!("{requests:?}");
    assert_eq!((requests.sent, requests.answered), (6, 5));
    for peer in peers {
        peer.join().map_err(|_| "a peer panicked")??;
    }
    Ok(())
}

/// A peer on a thread of its own: connects, and answers until the service says BYE.
fn spawn_peer(addr: SocketAddr) -> std::io::Result<JoinHandle<std::io::Result<()>>> {
    let mut stream = TcpStream::connect(addr)?;
    thread::Builder::new()
        .name("peer".to_owned())
        .spawn(move || {
            let (mut bytes, mut read) = (Vec::new(), [0; 4096]);
            loop {
                let count = stream.read(&mut read)?;
                if count == 0 {
                    return Ok(());
                }
                bytes.extend_from_slice(&read[..count]);
                let mut frames = Decoder::new(1 << 20).frames(&bytes);
                for frame in &mut frames {
                    let question = frame.map_err(|_| ErrorKind::InvalidData)?;
                    let Ok(value) = number(question.payload) else {
                        continue;
                    };
                    // The answer has the type and the correlation number of the question.
                    let mut answer = Vec::new();
                    let payload = (value * value).to_be_bytes();
                    let frame = Frame {
                        payload: &payload,
                        ..question
                    };
                    frame
                        .encode(&mut answer)
                        .map_err(|_| ErrorKind::InvalidData)?;
                    stream.write_all(&answer)?;
                }
                let consumed = frames.consumed();
                bytes.drain(..consumed);
            }
        })
}

fn number(payload: &[u8]) -> Result<u64, Box<dyn Error>> {
    Ok(u64::from_be_bytes(payload.try_into()?))
}
