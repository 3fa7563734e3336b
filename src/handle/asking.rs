//! Questions that only the loops can answer.

use std::{sync::atomic::Ordering, time::Duration};

use crossbeam_channel::{Receiver, Sender, bounded};

use super::{ANSWER_TIMEOUT, Command, Handle, Shard};
use crate::{
    balance::{Balance, Cut},
    error::QueryError,
    ledger::{ClosedRow, PeerRow, ServiceState},
    limits::{CLOSED_ROWS_MAX, CUT_PAUSE_MAX_US, CUT_PAUSE_MIN_US},
    slots::never_waits,
    threads::is_dispatcher,
};

impl Handle {
    /// The connections now; none before the start and after the stop. Asks the loops, and waits up
    /// to 5 s for their answers. A loop makes 512 rows in a turn, so the rows of more connections
    /// are not of one moment.
    ///
    /// # Errors
    ///
    /// [`QueryError::Timeout`]; [`QueryError::OwnThread`] in an inline handler and in a metrics
    /// callback with [`Dispatch::Inline`](crate::Dispatch::Inline).
    pub fn peers(&self) -> Result<Vec<PeerRow>, QueryError> {
        self.rows(Command::Peers)
    }

    /// The last 1,024 connections that ended, the latest last; those that different loops ended in
    /// the same millisecond are in no order. None before the start and after the stop: a
    /// [`StopReport`](crate::StopReport) has what the stop ended. Connections that were turned away
    /// without a place (64 beyond the limit of peers have one, to be told why) are counted and have
    /// no row.
    ///
    /// # Errors
    ///
    /// As [`peers`](Self::peers).
    pub fn recently_closed(&self) -> Result<Vec<ClosedRow>, QueryError> {
        let mut rows = self.rows(Command::Closed)?;
        if self.shared.shards.len() > 1 {
            rows.sort_by_key(|row: &ClosedRow| row.closed_at);
            rows.drain(..rows.len().saturating_sub(CLOSED_ROWS_MAX));
        }
        Ok(rows)
    }

    /// What all loops list; nothing, if they do not run.
    pub(super) fn rows<T>(
        &self,
        question: impl Fn(Sender<Vec<T>>) -> Command,
    ) -> Result<Vec<T>, QueryError> {
        match of_those_that_run(self.ask_all(question)) {
            Ok(rows) => Ok(rows.into_iter().flatten().collect()),
            Err(QueryError::NotRunning) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Holds the sums of the ledger against each other, also while the service runs: the terms are
    /// those of a **consistent cut**, and have to add up exactly.
    ///
    /// What is promised: for every sum, all terms are read as if at one moment. Different sums may
    /// be of moments that lie a little apart, but no message is seen in one that has not come about
    /// in another: what the dispatcher has dispatched is just what the loop had received. What has
    /// not arrived (in a socket, in a send that has not returned) is in none of them.
    ///
    /// What it costs while it is not asked: one atomic addition for each batch that a subscriber
    /// takes, and nothing for a message. A call costs the loop a lock and 200 bytes for each
    /// connection, and a look at each piece of output that waits for it: of up to 1,024 of these in
    /// one turn, whatever waits; a connection of many small pieces may pass that, up to 2^17. Then,
    /// in one turn, four additions for each connection, of up to 65,536
    /// ([`Balance::peers_left_out`] says who was not looked at). One cut ends in a turn, so others
    /// that ask wait for theirs. The marker waits its turn behind what is queued for dispatch.
    ///
    /// On a machine of two shared cores a call took 12 to 40 us (the first up to 150) with eight
    /// connections, whether nothing waited for them or 196,608 messages did, and 1.4 to 12 ms with
    /// 9,000.
    ///
    /// Waits up to 5 s for the answers, and tries again while a thread is in the middle of
    /// something, after pauses that grow from 50 us to 20 ms. If there is no answer, or this is a
    /// thread of a service, which would wait for itself (the loop's in an inline handler, the
    /// dispatcher's in a metrics callback), the counters are read one after the other:
    /// [`Balance::is_cut`] is then false, and so is [`Balance::is_exact`]. That is also so after a
    /// failure, until the threads have ended ([`NetService::ended`](crate::NetService::ended)).
    /// Before the start and after the stop, the counters stand still.
    #[must_use]
    pub fn balance(&self) -> Balance {
        let started = self.shared.clock.elapsed();
        let mut pause = Duration::from_micros(CUT_PAUSE_MIN_US);
        while !is_dispatcher() {
            let cuts: Result<Vec<_>, _> = self.ask_all(Command::Cut).into_iter().collect();
            let Ok(cuts) = cuts else { break };
            if let Some(cuts) = cuts.into_iter().collect::<Option<Vec<Cut>>>() {
                return Balance::of(cuts);
            }
            if self.shared.clock.elapsed().saturating_sub(started) > ANSWER_TIMEOUT {
                break;
            }
            // Another thread was in the middle of something.
            rest(pause);
            pause = (2 * pause).min(Duration::from_micros(CUT_PAUSE_MAX_US));
        }
        let is_still = || self.shared.threads.load(Ordering::Acquire) == 0;
        let was_still = is_still();
        let shot = self.shared.snapshot();
        // A service that failed is not over before its threads are.
        if was_still && is_still() {
            shot.balance()
        } else {
            Balance::torn(&shot)
        }
    }

    /// Each loop's answer to a question.
    pub(super) fn ask_all<T>(
        &self,
        question: impl Fn(Sender<T>) -> Command,
    ) -> Vec<Result<T, QueryError>> {
        let shared = &self.shared;
        let no_answer = |error| shared.shards.iter().map(|_| Err(error)).collect();
        match shared.state.get() {
            ServiceState::Running | ServiceState::Stopping => {}
            ServiceState::New | ServiceState::Stopped | ServiceState::Failed => {
                return no_answer(QueryError::NotRunning);
            }
        }
        if never_waits() {
            return no_answer(QueryError::OwnThread);
        }
        let deadline = shared.clock.elapsed() + ANSWER_TIMEOUT;
        let ask = |shard: &'_ Shard| {
            let (sender, receiver) = bounded(1);
            // A full queue is empty after the loop's next turn.
            let sent = shard
                .commands
                .send_timeout(question(sender), ANSWER_TIMEOUT);
            sent.ok()?;
            shard.slots.doorbell.ring();
            Some(receiver)
        };
        let asked: Vec<Option<Receiver<T>>> = shared.shards.iter().map(ask).collect();
        let answers = shared.shards.iter().zip(asked);
        answers
            .map(|(shard, asked)| {
                let answer = asked.and_then(|one| shard.answer(&one, shared.clock, deadline));
                answer.ok_or_else(|| match shard.slots.has_ended() {
                    true => QueryError::NotRunning,
                    false => QueryError::Timeout,
                })
            })
            .collect()
    }
}

/// The answers, without those of loops that have ended, which have nothing to tell; at a stop one
/// ends before the other. An error, if a loop that runs gave none, or none runs.
pub(super) fn of_those_that_run<T>(
    answers: Vec<Result<T, QueryError>>,
) -> Result<Vec<T>, QueryError> {
    let running = answers
        .into_iter()
        .filter(|answer| !matches!(answer, Err(QueryError::NotRunning)));
    let given: Vec<T> = running.collect::<Result<_, _>>()?;
    if given.is_empty() {
        return Err(QueryError::NotRunning);
    }
    Ok(given)
}

/// Lets a thread of the embedder wait that has to ask again.
#[expect(
    clippy::disallowed_methods,
    reason = "no thread of the service comes here"
)]
fn rest(pause: Duration) {
    std::thread::sleep(pause);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loop_that_has_ended_hides_no_other() {
        let (ended, late) = (QueryError::NotRunning, QueryError::Timeout);
        assert_eq!(of_those_that_run(vec![Err(ended), Ok(1)]), Ok(vec![1]));
        assert_eq!(of_those_that_run(vec![Ok(1), Ok(2)]), Ok(vec![1, 2]));
        assert_eq!(of_those_that_run::<u8>(vec![Err(ended); 2]), Err(ended));
        assert_eq!(of_those_that_run(vec![Ok(1), Err(late)]), Err(late));
        assert_eq!(
            of_those_that_run::<u8>(vec![Err(ended), Err(late)]),
            Err(late)
        );
    }
}
