//! tokio with the codec of `tokio-util`, two worker threads, one task for each connection.

use super::subscribers::{BATCH_MESSAGES, Message, Queues, answering};
use super::{Accepted, BUFFER_SIZE, Class, Kind, Role, Server, listener};
use crate::load::{Framing, MESSAGE_TYPE, Tally};
use bytes::{BufMut, Bytes, BytesMut};
use crossbeam_channel::Sender;
use futures_util::StreamExt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio_util::codec::{FramedRead, LengthDelimitedCodec};

/// One channel operation for each message: what most programs do.
pub(super) const MESSAGE: Kind = Kind {
    name: "tokio-message",
    class: Class::Peer,
    framing: Framing::Fixed,
    reads_numbers: true,
    does: |_| true,
    start: |order| {
        Ok(match order.role {
            Role::Count => start_counting(Queues::of_messages(order), read_messages),
            Role::Echo => start_answering(),
            Role::Broadcast => start_broadcasting(),
        })
    },
};

/// One channel operation for whatever is there: `ready_chunks`.
pub(super) const BATCH: Kind = Kind {
    name: "tokio-batch",
    does: |order| order.role == Role::Count,
    start: |order| Ok(start_counting(Queues::of_batches(order), read_batches)),
    ..MESSAGE
};

const WORKERS: usize = 2;
/// Answers that wait for the task that writes them.
const ANSWERS: usize = 1024;

type Frames<R> = FramedRead<R, LengthDelimitedCodec>;

/// Asks for more bytes at once than the codec's 8 KiB: more than twice as fast at 4096 bytes of
/// payload, and no worse anywhere.
fn frames<R: AsyncRead>(reader: R) -> Frames<R> {
    FramedRead::with_capacity(reader, LengthDelimitedCodec::new(), BUFFER_SIZE)
}

async fn read_messages(stream: TcpStream, queues: Arc<Queues<Message>>) {
    let mut frames = frames(stream);
    while let Some(Ok(frame)) = frames.next().await {
        queues.send(Message::new(frame.freeze()));
    }
}

async fn read_batches(stream: TcpStream, queues: Arc<Queues<super::subscribers::Batch>>) {
    let mut chunks = frames(stream).ready_chunks(BATCH_MESSAGES);
    while let Some(chunk) = chunks.next().await {
        let frames = chunk.into_iter().map_while(Result::ok);
        queues.send(frames.map(|frame| Message::new(frame.freeze())).collect());
    }
}

fn start_counting<T: Send + 'static, F: Future<Output = ()> + Send + 'static>(
    (queues, tallies): (Queues<T>, Vec<Arc<Tally>>),
    read: fn(TcpStream, Arc<Queues<T>>) -> F,
) -> Server {
    let (queues, accepted) = (Arc::new(queues), Accepted::default());
    let addr = serve(accepted.clone(), move |stream| {
        tokio::spawn(read(stream, Arc::clone(&queues)));
    });
    Server::new(addr, &accepted, tallies)
}

/// A question, and the way to the task that writes the answer.
type Question = (Message, mpsc::Sender<Bytes>);

fn start_answering() -> Server {
    let queue = answering(|(question, answers): Question| {
        answers.try_send(encode(question.frame())).unwrap();
    });
    let accepted = Accepted::default();
    let addr = serve(accepted.clone(), move |stream| {
        let (reader, writer) = stream.into_split();
        let (answers, outgoing) = mpsc::channel(ANSWERS);
        tokio::spawn(ask(frames(reader), answers, queue.clone()));
        tokio::spawn(write(writer, outgoing));
    });
    Server::new(addr, &accepted, Vec::new())
}

async fn ask<R: AsyncRead + Unpin>(
    mut frames: Frames<R>,
    answers: mpsc::Sender<Bytes>,
    queue: Sender<Question>,
) {
    while let Some(Ok(frame)) = frames.next().await {
        let question = Message::new(frame.freeze());
        queue.send((question, answers.clone())).unwrap();
    }
}

fn start_broadcasting() -> Server {
    let accepted = Accepted::default();
    let all: Arc<Mutex<Vec<mpsc::Sender<Bytes>>>> = Arc::default();
    let writers = Arc::clone(&all);
    let addr = serve(accepted.clone(), move |stream| {
        let (answers, outgoing) = mpsc::channel(ANSWERS);
        writers.lock().unwrap().push(answers);
        tokio::spawn(write(stream, outgoing));
    });
    Server::new(addr, &accepted, Vec::new()).with_broadcast(move |payload| {
        let mut frame = MESSAGE_TYPE.to_be_bytes().to_vec();
        frame.extend_from_slice(&[0, 1]);
        frame.extend_from_slice(payload);
        let bytes = encode(&frame);
        for writer in &*all.lock().unwrap() {
            writer.try_send(bytes.clone()).unwrap();
        }
    })
}

async fn write(mut writer: impl AsyncWrite + Unpin, mut outgoing: mpsc::Receiver<Bytes>) {
    while let Some(bytes) = outgoing.recv().await {
        if writer.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

/// Puts the length before what follows it.
fn encode(frame: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(size_of::<u32>() + frame.len());
    bytes.put_u32(frame.len() as u32);
    bytes.put_slice(frame);
    bytes.freeze()
}

/// Accepts on a runtime that lives as long as the process.
fn serve(accepted: Accepted, connect: impl Fn(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = listener();
    listener.set_nonblocking(true).unwrap();
    let addr = listener.local_addr().unwrap();
    let runtime: &'static Runtime = Box::leak(Box::new(
        Builder::new_multi_thread()
            .worker_threads(WORKERS)
            .enable_io()
            .build()
            .unwrap(),
    ));
    runtime.spawn(async move {
        let listener = TcpListener::from_std(listener).unwrap();
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            connect(stream);
            accepted.add();
        }
    });
    addr
}
