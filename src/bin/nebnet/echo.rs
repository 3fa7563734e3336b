//! `serve --echo`: every message goes back to its sender.
//!
//! Nothing is lost here: the subscription pauses its peers instead of dropping, and the credit of
//! a peer bounds what was read from it together with what waits for it, so the outbox has room
//! for every answer. A peer that does not take its answers is not read further, and no other waits.

use std::time::Duration;

use nebnet::{Batch, Handle, Outgoing, OutgoingBatch, SendError, Subscription};

use crate::{
    time,
    worker::{Summary, WorkerError},
};

/// What a batch waits for room. Credit makes room before a message is read, so this passes only
/// if the service's byte budget is used up; it bounds what one peer can take from the others.
const FULL_TIMEOUT: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
struct Echo {
    echoed: u64,
    /// Answers whose peer had left, or had to.
    undeliverable: u64,
}

pub(crate) fn run(mut messages: Subscription, handle: &Handle) -> Result<Summary, WorkerError> {
    let mut echo = Echo::default();
    let mut answers = OutgoingBatch::new();
    while let Ok(batch) = messages.recv_batch() {
        // What came as a message can go as one, so nothing is refused here.
        let pushed = (&batch)
            .into_iter()
            .try_for_each(|message| answers.push_reply(message, message.payload()));
        let sent = pushed.and_then(|()| handle.send_batch(batch.peer(), &mut answers));
        match sent {
            Ok(()) => echo.echoed += batch.len() as u64,
            Err(error) if error.is_full() => echo.send_singly(&batch, handle),
            Err(error) => echo.lost(&batch, error),
        }
        answers.clear();
    }
    let Echo {
        echoed,
        undeliverable,
    } = echo;
    Ok(format!(
        "{echoed} messages returned, {undeliverable} undeliverable"
    ))
}

impl Echo {
    /// A batch goes out whole or not at all; message by message, it can go as room appears.
    ///
    /// An answer without room ends the connection: what the peer got so far is then complete up to
    /// a point that it can see, while a gap in the middle would be a silent loss.
    fn send_singly(&mut self, batch: &Batch, handle: &Handle) {
        let peer = batch.peer();
        let deadline = time::now() + FULL_TIMEOUT;
        for (index, message) in batch.iter().enumerate() {
            let mut answer = Outgoing::new(message.message_type(), message.payload())
                .checksum(message.checksum());
            if let Some(correlation) = message.correlation() {
                answer = answer.correlation(correlation);
            }
            let left = deadline.saturating_duration_since(time::now());
            match handle.send_timeout(peer, answer, left) {
                Ok(()) => self.echoed += 1,
                Err(rejected) => {
                    let lost = batch.len() - index;
                    self.undeliverable += lost as u64;
                    let error = rejected.error;
                    if error.is_full() && handle.close(peer) {
                        log::warn!("peer {peer} is closed: no room for {lost} answers");
                    } else {
                        log::debug!("peer {peer}: {lost} answers undeliverable: {error}");
                    }
                    return;
                }
            }
        }
    }

    fn lost(&mut self, batch: &Batch, error: SendError) {
        self.undeliverable += batch.len() as u64;
        log::debug!(
            "peer {}: {} answers undeliverable: {error}",
            batch.peer(),
            batch.len()
        );
    }
}
