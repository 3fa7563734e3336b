//! tokio with the codec of `tokio-util`, two worker threads, one task for each connection.
//!
//! The hand-over is a bounded crossbeam channel in both kinds. A task whose subscriber is behind
//! waits in `send`, worker and all: there is one subscriber, so no task could do better, and it is
//! cheaper than the permits of tokio's own channel.

use super::{Kind, Server};
use crate::load::{MESSAGE_TYPE, Tally};
use crossbeam_channel::{Receiver, Sender, bounded};
use futures_util::StreamExt;
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio_util::bytes::BytesMut;
use tokio_util::codec::{FramedRead, LengthDelimitedCodec};

/// One channel operation for each message: what most programs do.
pub(super) const MESSAGE: Kind = Kind {
    name: "tokio-message",
    reads_numbers: true,
    start: |order| {
        start(order.queue_messages, read_messages, |tally, messages| {
            for message in messages {
                tally.take(std::iter::once(message.payload()));
            }
        })
    },
};

/// One channel operation for whatever is there: `ready_chunks`.
pub(super) const BATCH: Kind = Kind {
    name: "tokio-batch",
    reads_numbers: true,
    start: |order| {
        let batch_messages = BATCH_MESSAGES.min(BUFFER_SIZE / order.frame_size).max(1);
        let queue_batches = (order.queue_messages / batch_messages).max(1);
        start(queue_batches, read_batches, |tally, batches| {
            for batch in batches {
                tally.take(batch.iter().map(Message::payload));
            }
        })
    },
};

const WORKERS: usize = 2;
/// Messages in a batch at most: of 64, 256 and 1024 the best.
const BATCH_MESSAGES: usize = 1024;
/// Bytes that the codec asks for at once: more than twice as fast at 4096 bytes of payload as the
/// default of 8 KiB, and no worse anywhere.
const BUFFER_SIZE: usize = 64 * 1024;

/// A typed message, as nebnet hands it over: the codec has taken the length off.
#[derive(Debug)]
struct Message {
    message_type: u16,
    frame: BytesMut,
}

impl Message {
    fn new(frame: BytesMut) -> Self {
        let (head, _) = frame.split_first_chunk::<4>().unwrap();
        let [high, low, flags, version] = *head;
        assert!(flags == 0 && version == 1, "a frame of another kind");
        Self {
            message_type: u16::from_be_bytes([high, low]),
            frame,
        }
    }

    /// The whole subscriber table: one type, one subscriber.
    fn is_subscribed(&self) -> bool {
        self.message_type == MESSAGE_TYPE
    }

    fn payload(&self) -> &[u8] {
        &self.frame[4..]
    }
}

type Frames = FramedRead<TcpStream, LengthDelimitedCodec>;

async fn read_messages(mut frames: Frames, queue: Sender<Message>) {
    while let Some(Ok(frame)) = frames.next().await {
        let message = Message::new(frame);
        if message.is_subscribed() && queue.send(message).is_err() {
            return;
        }
    }
}

async fn read_batches(frames: Frames, queue: Sender<Vec<Message>>) {
    let mut chunks = frames.ready_chunks(BATCH_MESSAGES);
    while let Some(chunk) = chunks.next().await {
        let messages = chunk.into_iter().map_while(Result::ok).map(Message::new);
        let batch = messages.filter(Message::is_subscribed).collect();
        if queue.send(batch).is_err() {
            return;
        }
    }
}

fn start<T: Send + 'static, F: Future<Output = ()> + Send + 'static>(
    queue_capacity: usize,
    read: impl Fn(Frames, Sender<T>) -> F + Send + 'static,
    subscribe: impl FnOnce(&Tally, Receiver<T>) + Send + 'static,
) -> Server {
    let tally = Arc::new(Tally::default());
    let (queue, messages) = bounded(queue_capacity);
    let subscriber = thread::spawn({
        let tally = Arc::clone(&tally);
        move || subscribe(&tally, messages)
    });
    let runtime = Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .enable_io()
        .build()
        .unwrap();
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
    let addr = listener.local_addr().unwrap();
    runtime.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let codec = LengthDelimitedCodec::new();
            let frames = FramedRead::with_capacity(stream, codec, BUFFER_SIZE);
            tokio::spawn(read(frames, queue.clone()));
        }
    });
    Server::new(addr, tally, move || {
        runtime.shutdown_timeout(Duration::from_secs(5));
        subscriber.join().unwrap();
    })
}
