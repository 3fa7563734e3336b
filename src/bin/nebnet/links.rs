//! What becomes of `--connect`: a line for each link that comes, goes, or cannot be made.

use std::collections::HashMap;

use nebnet::{CloseReason, DialError, Event, EventSubscription, LinkId};

use crate::worker::{Summary, WorkerError};

/// A service that is not there is tried again and again; after the first failures in a row of one
/// kind only every so many are worth a line.
const FAILURES_SAID: u32 = 3;
const FAILURES_PER_LINE: u32 = 100;

/// What a link that is not up failed of the last time, and how often in a row.
#[derive(Debug, Default)]
struct Failure {
    what: String,
    count: u32,
}

impl Failure {
    /// Whether this one is worth a line.
    fn is_news(&mut self, what: &str) -> bool {
        if self.what != what {
            what.clone_into(&mut self.what);
            self.count = 0;
        }
        self.count += 1;
        self.count <= FAILURES_SAID || self.count % FAILURES_PER_LINE == 0
    }
}

/// Whether an attempt came to nothing because the two are connected already, as happens to one of
/// two services that connect to each other.
fn is_duplicate(error: &DialError) -> bool {
    let DialError::Handshake {
        reason,
        bye_received,
    } = error
    else {
        return false;
    };
    let duplicate = CloseReason::DuplicateNode;
    *reason == duplicate || *bye_received == duplicate.wire_code()
}

/// `targets` is whom the links are to connect to, as the options say it.
pub(crate) fn run(
    events: &EventSubscription,
    targets: &HashMap<LinkId, String>,
) -> Result<Summary, WorkerError> {
    let (mut connected, mut lost) = (0_u64, 0_u64);
    let mut failures = HashMap::<LinkId, Failure>::new();
    while let Ok(event) = events.recv() {
        match event {
            Event::Connected {
                peer,
                addr,
                link: Some(link),
            } => {
                connected += 1;
                failures.remove(&link);
                log::info!("link {link} to {addr} is up: peer {peer}");
            }
            Event::Closed(row) => {
                let Some(link) = row.link else { continue };
                lost += row.lost.messages;
                log::info!(
                    "link {link} to {} is down: {}, {} messages lost",
                    row.addr,
                    row.reason,
                    row.lost.messages
                );
            }
            Event::DialFailed {
                link,
                addr,
                error,
                attempts,
                ..
            } => {
                let addr = addr.map(|addr| addr.to_string());
                // A name that has no address stands for itself.
                let addr = addr.or_else(|| targets.get(&link).cloned());
                let addr = addr.map_or_else(String::new, |addr| format!(" to {addr}"));
                let what = error.to_string();
                let failure = failures.entry(link).or_default();
                let is_news = failure.is_news(&what);
                if is_duplicate(&error) {
                    if failure.count == 1 {
                        log::info!("link {link}{addr} is not needed: another connection is up");
                    }
                } else if error == DialError::ResolveTimeout {
                    // The library has its own line, for this cannot be seen where an address is
                    // known.
                } else if is_news {
                    log::warn!("link {link}{addr} cannot be made: {what} (attempt {attempts})");
                }
            }
            // Peers that came by themselves, and whatever else is told of one.
            Event::Connected { .. }
            | Event::Hello { .. }
            | Event::Paused { .. }
            | Event::Resumed { .. }
            | Event::Congested { .. }
            | Event::Writable { .. }
            | _ => {}
        }
    }
    Ok(format!(
        "{connected} connections made, {lost} messages lost with them"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_said_three_times_and_then_seldom() {
        let mut failure = Failure::default();
        let news: Vec<_> = (1..=300).filter(|_| failure.is_news("refused")).collect();
        assert_eq!(news, [1, 2, 3, 100, 200, 300]);
        assert!(failure.is_news("another"));
        assert!(failure.is_news("refused"));
    }
}
