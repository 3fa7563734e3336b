//! What is concluded from what a peer's system has acknowledged.

use std::io::{self, IoSlice};

use super::{super::*, one_peer_that};
use crate::{
    clock::Clock,
    frame::Frame,
    id::MessageType,
    policy::{OutboxFull, Priority},
    slots::OutFrame,
    socket::Unacknowledged,
};

const STALL_MS: u64 = 1_000;

/// A peer for which more waits than its system ever takes.
fn waiting() -> (Peers, PeerId) {
    let (slots, mut peers, id) = one_peer_that(OutboxFull::Refuse, Clock::start(), 64 << 20);
    peers.rules.write_stall_ms = STALL_MS;
    for _ in 0..100 {
        let message = OutFrame {
            frame: Frame::new(MessageType(1), &[0; 900]),
            owned: None,
        };
        slots.send_as(id, Priority::Normal, message).unwrap();
    }
    peers.begin_turn(0);
    (peers, id)
}

/// Writes as much as our system takes.
fn write(peers: &mut Peers, now: Tick, id: PeerId, takes: usize) {
    peers.handle_ready(id, Ready::WRITE);
    let mut slices = [IoSlice::new(&[]); 4];
    let filled = peers.fill_slices(id, &mut slices, 1 << 20);
    let offered = slices[..filled].iter().map(|slice| slice.len()).sum();
    let result = if takes > 0 {
        Ok(takes)
    } else {
        Err(io::ErrorKind::WouldBlock.into())
    };
    peers.handle_written(now, id, offered, result);
}

/// When it is cut off, of which the system says `told` at a tick; our own takes a byte each 20 ms.
fn cut_off_at(told: impl Fn(Tick, u64) -> Unacknowledged, until: Tick) -> Option<Tick> {
    let (mut peers, id) = waiting();
    let mut written = 0;
    for now in 0..until {
        peers.begin_turn(now);
        if now % 20 == 0 {
            write(&mut peers, now, id, 1);
            written += 1;
        }
        let mut budget = TIMERS_PER_TURN;
        assert_eq!(peers.poll_timer(now, &mut budget), None);
        while let Some(action) = peers.poll_action() {
            match action {
                Action::Look { id, .. } => {
                    peers.handle_unacknowledged(now, id, told(now, written));
                }
                Action::Close { abort, .. } => {
                    assert!(abort);
                    assert_eq!(peers.closed_rows()[0].reason, CloseReason::SlowPeer);
                    return Some(now);
                }
                Action::Connect(..) | Action::LookConnected(_) | Action::Shutdown(_) => {
                    panic!("{action:?}");
                }
            }
        }
        peers.check(now);
    }
    None
}

/// Our system's buffer may take more for as long as it likes.
#[test]
fn what_our_system_takes_for_a_peer_is_not_its_progress() {
    for last in [0, 1, 99, 555, 2_500] {
        // A byte each 25 ms is acknowledged, up to the last.
        let told =
            |now: Tick, written| Unacknowledged::Bytes((1_000_000 + written) - now.min(last) / 25);
        let end = cut_off_at(told, 20_000).unwrap();
        let acknowledged_at = last / 25 * 25;
        let after = acknowledged_at + STALL_MS..=acknowledged_at + STALL_MS * 12 / 10;
        assert!(after.contains(&end), "{last}: {end}");
    }
}

#[test]
fn a_byte_acknowledged_within_each_timeout_is_enough() {
    let told = |now, written| Unacknowledged::Bytes(1_000_000 + written - now / STALL_MS);
    assert_eq!(cut_off_at(told, 20_000), None);
}

#[test]
fn where_nothing_is_told_what_our_system_takes_counts() {
    for told in [Unacknowledged::Unknown, Unacknowledged::Never] {
        assert_eq!(cut_off_at(|_, _| told, 5_000), None);
    }
}
