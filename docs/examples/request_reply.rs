//! Asking peers: one question and its answer, one without an answer, and the same question to all
//! peers with the answers in one queue.
//!
//! Whatever happens, a request ends: by its answer, its timeout, or the end of the connection. No
//! subscriber sees an answer, so a service may ask the type that it also serves.

use std::error::Error;
use std::net::SocketAddr;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nebnet::{
    Client, ClientError, CloseReason, Config, MessageType, NetService, Outgoing, RequestError,
};

const SQUARE: MessageType = MessageType(7);
const PEERS: usize = 4;
const TIMEOUT: Duration = Duration::from_secs(5);

fn main() -> Result<(), Box<dyn Error>> {
    let mut service = NetService::new(Config::default().listen("127.0.0.1:0".parse()?))?;
    service.start()?;
    let addr = service.local_addrs()[0];
    let peers = (0..PEERS).map(|_| spawn_peer(addr));
    let peers = peers.collect::<Result<Vec<_>, _>>()?;
    let handle = service.handle();
    let connected = handle.peers()?;

    // One question. The thread may do something else before it looks for the answer.
    let first = connected[0].peer;
    let pending =
        service
            .handle()
            .request(first, (SQUARE, 12_u64.to_be_bytes().to_vec()), TIMEOUT)?;
    let answer = number(pending.recv()?.payload())?;
    println!("{first} says that 12 squared is {answer}");
    assert_eq!(answer, 144);

    // The peers keep quiet about nothing, so time is over.
    let pending = service
        .handle()
        .request(first, (SQUARE, b""), Duration::from_millis(50))?;
    match pending.recv() {
        Err(RequestError::Timeout) => println!("{first} has no answer to nothing"),
        other => return Err(format!("expected a timeout, not {other:?}").into()),
    }

    // A question for each, and all answers in one queue, which also says who did not answer.
    let replies = service.handle().replies(PEERS);
    for (row, value) in connected.iter().zip(1_u64..) {
        let payload = value.to_be_bytes().to_vec();
        let question = Outgoing::new(SQUARE, payload).checksum(true);
        handle.request_to(&replies, row.peer, question, TIMEOUT)?;
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
fn spawn_peer(addr: SocketAddr) -> Result<JoinHandle<Result<(), ClientError>>, Box<dyn Error>> {
    let mut client = Client::connect(addr)?;
    let thread = thread::Builder::new().name("peer".to_owned());
    let answering = thread.spawn(move || {
        loop {
            let question = match client.recv() {
                Ok(question) => question,
                Err(error) if error.reason() == Some(CloseReason::Shutdown) => return Ok(()),
                Err(error) => return Err(error),
            };
            if let Ok(value) = number(question.payload()) {
                // The answer has the type and the correlation number of the question.
                client.reply(&question, &(value * value).to_be_bytes())?;
            }
        }
    })?;
    Ok(answering)
}

fn number(payload: &[u8]) -> Result<u64, Box<dyn Error>> {
    Ok(u64::from_be_bytes(payload.try_into()?))
}
