//! The receiving end of the peers: subscriber threads behind bounded crossbeam channels.
//!
//! A reader whose subscriber is behind waits in `send`, worker and all. In a program with one
//! subscriber no reader could do better, and it is cheaper than the permits of an asynchronous
//! channel.

use super::Order;
use crate::load::{MESSAGE_TYPE, Tally};
use bytes::Bytes;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::iter;
use std::sync::Arc;
use std::thread;

/// Messages in a batch at most: of 64, 256 and 1024 the best.
pub(super) const BATCH_MESSAGES: usize = 1024;
/// Places in the queue to a subscriber that answers.
const QUESTIONS: usize = 1024;

/// A typed message, as nebnet hands it over.
#[derive(Clone, Debug)]
pub(super) struct Message {
    message_type: u16,
    /// Without the length.
    frame: Bytes,
}

impl Message {
    pub(super) fn new(frame: Bytes) -> Self {
        let (head, _) = frame.split_first_chunk::<4>().unwrap();
        let [high, low, flags, version] = *head;
        assert!(flags == 0 && version == 1, "a frame of another kind");
        Self {
            message_type: u16::from_be_bytes([high, low]),
            frame,
        }
    }

    /// What its answer consists of, but for the length.
    pub(super) fn frame(&self) -> &[u8] {
        &self.frame
    }

    fn payload(&self) -> &[u8] {
        &self.frame[4..]
    }
}

/// Messages that go together.
pub(super) type Batch = Arc<Vec<Message>>;

/// The queues to all subscribers.
#[derive(Debug)]
pub(super) struct Queues<T> {
    queues: Vec<Sender<T>>,
    types: usize,
}

impl<T: Send + 'static> Queues<T> {
    fn start(order: &Order, places: usize, take: fn(&Tally, T)) -> (Self, Vec<Arc<Tally>>) {
        let subscriber = |_| {
            let (queue, items): (_, Receiver<T>) = bounded(places);
            let tally = Arc::new(Tally::default());
            let counts = Arc::clone(&tally);
            thread::spawn(move || items.iter().for_each(|item| take(&counts, item)));
            (queue, tally)
        };
        let (queues, tallies) = (0..order.subscribers).map(subscriber).unzip();
        let types = order.types;
        (Self { queues, types }, tallies)
    }

    /// Where the subscriber of a type stands, if there are several types; `None` if there is no
    /// subscriber to that type.
    fn place(&self, message_type: u16) -> Option<usize> {
        let offset = usize::from(message_type.checked_sub(MESSAGE_TYPE)?);
        (offset < self.types).then(|| offset % self.queues.len())
    }
}

impl Queues<Message> {
    /// Subscribers that are given one message at a time.
    pub(super) fn of_messages(order: &Order) -> (Self, Vec<Arc<Tally>>) {
        Self::start(order, order.queue_messages, |tally, message| {
            tally.take(iter::once(message.payload()));
        })
    }

    pub(super) fn send(&self, message: Message) {
        let Some(place) = self.place(message.message_type) else {
            return;
        };
        if self.types > 1 {
            self.queues[place].send(message).unwrap();
            return;
        }
        let (last, others) = self.queues.split_last().unwrap();
        for queue in others {
            queue.send(message.clone()).unwrap();
        }
        last.send(message).unwrap();
    }
}

impl Queues<Batch> {
    /// Subscribers that are given a batch at a time.
    pub(super) fn of_batches(order: &Order) -> (Self, Vec<Arc<Tally>>) {
        let batch_messages = BATCH_MESSAGES.min(super::BUFFER_SIZE / order.frame_size);
        let places = order.queue_messages / batch_messages.max(1);
        Self::start(order, places.max(1), |tally, batch: Batch| {
            tally.take(batch.iter().map(Message::payload));
        })
    }

    pub(super) fn send(&self, messages: Vec<Message>) {
        if self.types > 1 {
            return self.send_parts(messages);
        }
        let subscribed = |message: &Message| message.message_type == MESSAGE_TYPE;
        assert!(messages.iter().all(subscribed), "there is one type");
        let batch = Arc::new(messages);
        for queue in &self.queues {
            queue.send(Arc::clone(&batch)).unwrap();
        }
    }

    fn send_parts(&self, messages: Vec<Message>) {
        let mut parts = vec![Vec::new(); self.queues.len()];
        for message in messages {
            if let Some(place) = self.place(message.message_type) {
                parts[place].push(message);
            }
        }
        for (queue, part) in self.queues.iter().zip(parts) {
            if !part.is_empty() {
                queue.send(Arc::new(part)).unwrap();
            }
        }
    }
}

/// One subscriber that answers what comes through the queue returned.
pub(super) fn answering<T: Send + 'static>(
    mut answer: impl FnMut(T) + Send + 'static,
) -> Sender<T> {
    let (queue, items): (_, Receiver<T>) = bounded(QUESTIONS);
    thread::spawn(move || items.iter().for_each(&mut answer));
    queue
}
