//! What becomes of `--connect`: a line for each link that comes, goes, or cannot be made.

use nebnet::{Event, EventSubscription};

use crate::worker::{Summary, WorkerError};

/// A service that is not there is tried again and again; after the first failures in a row only
/// every so many are worth a line.
const FAILURES_SAID: u32 = 3;
const FAILURES_PER_LINE: u32 = 100;

pub(crate) fn run(events: &EventSubscription) -> Result<Summary, WorkerError> {
    let (mut connected, mut lost) = (0_u64, 0_u64);
    while let Ok(event) = events.recv() {
        match event {
            Event::Connected {
                peer,
                addr,
                link: Some(link),
            } => {
                connected += 1;
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
            } if attempts <= FAILURES_SAID || attempts % FAILURES_PER_LINE == 0 => {
                let addr = addr.map_or_else(String::new, |addr| format!(" to {addr}"));
                log::warn!("link {link}{addr} cannot be made: {error} (attempt {attempts})");
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
