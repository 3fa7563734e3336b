//! What is concluded from what a peer's system has acknowledged.

use std::io::{self, IoSlice};

use super::{super::*, one_peer_that};
use crate::{
    clock::{Clock, Tick},
    error::CloseReason,
    frame::Frame,
    id::{MessageType, PeerId},
    ledger::Traffic,
    limits::TIMERS_PER_TURN,
    policy::{OutboxFull, Priority},
    slots::OutFrame,
    socket::{Ready, Unacknowledged},
};

const STALL_MS: u64 = 1_000;

/// A peer for which more waits than its system ever takes.
fn waiting() -> (Peers, PeerId) {
    let (slots, mut peers, id) = one_peer_that(OutboxFull::Refuse, Clock::start(), 64 << 20);
    peers.common.rules.write_stall_ms = STALL_MS;
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

fn read_nothing(peers: &mut Peers, id: PeerId, error: io::ErrorKind) {
    let buffer = peers.prepare_read(0, id).unwrap();
    let now = Clock::start().now();
    let read = peers.handle_read(now, id, buffer, Err(error.into()));
    assert!(read.is_none());
}

/// What our system takes at first.
const TAKEN: u64 = 50_000;

/// When it is cut off, of which the system says `told` at a tick; our own takes a byte each 20 ms.
fn cut_off_at(told: impl Fn(Tick, u64) -> Unacknowledged, until: Tick) -> Option<Tick> {
    let (mut peers, id) = waiting();
    write(&mut peers, 0, id, usize::try_from(TAKEN).unwrap());
    let mut written = TAKEN;
    for now in 0..until {
        peers.begin_turn(now);
        if now % 20 == 0 {
            write(&mut peers, now, id, 1);
            written += 1;
        }
        let mut allowance = TIMERS_PER_TURN;
        assert_eq!(peers.poll_timer(now, &mut allowance), None);
        while let Some(action) = peers.common.lists.poll_action() {
            match action {
                Action::Look { id, last } => {
                    peers.handle_unacknowledged(now, id, last, told(now, written));
                }
                Action::Settle(id) => peers.handle_settled(now, id, 0),
                Action::Close { abort, .. } => {
                    assert!(abort);
                    assert_eq!(peers.common.ended.rows()[0].reason, CloseReason::SlowPeer);
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
        let told = |now: Tick, written: u64| Unacknowledged::Bytes(written - now.min(last) / 25);
        let end = cut_off_at(told, 20_000).unwrap();
        let acknowledged_at = last / 25 * 25;
        let after = acknowledged_at + STALL_MS..=acknowledged_at + STALL_MS * 12 / 10;
        assert!(after.contains(&end), "{last}: {end}");
    }
}

#[test]
fn a_byte_acknowledged_within_each_timeout_is_enough() {
    let told = |now, written: u64| Unacknowledged::Bytes(written - now / STALL_MS);
    assert_eq!(cut_off_at(told, 20_000), None);
}

#[test]
fn where_nothing_is_told_what_our_system_takes_counts() {
    for told in [Unacknowledged::Unknown, Unacknowledged::Never] {
        assert_eq!(cut_off_at(|_, _| told, 5_000), None);
    }
}

/// A peer to which three calls wrote ten messages each, and that leaves.
fn leaving(failed: bool) -> (Peers, PeerId) {
    let (mut peers, id) = waiting();
    for now in 1..=3 {
        write(&mut peers, now, id, 9_080);
    }
    if failed {
        read_nothing(&mut peers, id, io::ErrorKind::ConnectionReset);
    } else {
        peers.leave(4, id, CloseReason::SlowPeer, true);
    }
    peers.settle_all(4);
    assert_eq!(
        peers.common.lists.poll_action(),
        Some(Action::Look { id, last: true })
    );
    assert!(
        peers.common.ended.rows().is_empty(),
        "it waits for the answer"
    );
    (peers, id)
}

#[test]
fn what_was_not_acknowledged_is_told_with_the_end() {
    let ended = |failed, at_most| Unacknowledged::Ended { failed, at_most };
    let messages = |messages, bytes| Some(Traffic::new(messages, bytes));
    for (failed, told, unconfirmed) in [
        (false, Unacknowledged::Bytes(0), messages(0, 0)),
        (false, Unacknowledged::Bytes(1), messages(10, 1)),
        (false, Unacknowledged::Bytes(9_080), messages(10, 9_080)),
        (false, Unacknowledged::Bytes(9_081), messages(20, 9_081)),
        (false, Unacknowledged::Bytes(1 << 31), messages(30, 27_240)),
        // Nothing failed, so everything was acknowledged.
        (false, ended(false, 1 << 20), messages(0, 0)),
        (false, ended(true, 1 << 20), messages(30, 27_240)),
        (false, ended(true, 9_000), messages(10, 9_000)),
        // A call was told of the error, and the last look is not.
        (true, ended(false, 1 << 20), messages(30, 27_240)),
        (true, Unacknowledged::Bytes(7), messages(10, 7)),
        (false, Unacknowledged::Unknown, None),
        (false, Unacknowledged::Never, None),
    ] {
        let (mut peers, id) = leaving(failed);
        peers.handle_unacknowledged(5, id, true, told);
        let row = peers.common.ended.rows().remove(0);
        assert_eq!(row.unconfirmed, unconfirmed, "{failed} {told:?}");
        let ledger = &peers.common.slots.ledger;
        assert_eq!(ledger.unconfirmed.get(), unconfirmed.unwrap_or_default());
        let unknown = u64::from(unconfirmed.is_none());
        assert_eq!(ledger.unconfirmed_unknown.get(), unknown);
    }
}

/// A look that was asked for before the end may be answered after it, and not know what the last
/// one will.
#[test]
fn a_look_from_before_the_end_does_not_stand_for_the_last() {
    let (mut peers, id) = leaving(true);
    peers.handle_unacknowledged(5, id, false, Unacknowledged::Unknown);
    assert!(
        peers.common.ended.rows().is_empty(),
        "it waits for the last"
    );
    peers.handle_unacknowledged(5, id, true, Unacknowledged::Bytes(7));
    let unconfirmed = peers.common.ended.rows()[0].unconfirmed;
    assert_eq!(unconfirmed, Some(Traffic::new(10, 7)));
}

/// What a look has seen acknowledged is not asked for again, and where nothing was written, or
/// nothing is told, no peer is asked.
#[test]
fn an_end_waits_for_an_answer_only_if_there_is_a_question() {
    let close = |id: PeerId| {
        Some(Action::Close {
            index: id.index(),
            abort: true,
        })
    };
    for told in [Unacknowledged::Bytes(0), Unacknowledged::Never] {
        let (mut peers, id) = waiting();
        write(&mut peers, 1, id, 9_080);
        peers.handle_unacknowledged(2, id, false, told);
        while peers.common.lists.poll_action().is_some() {}
        peers.leave(3, id, CloseReason::SlowPeer, true);
        peers.settle_all(3);
        assert_eq!(peers.common.lists.poll_action(), close(id));
        let known = told != Unacknowledged::Never;
        let unconfirmed = known.then(Traffic::default);
        assert_eq!(peers.common.ended.rows()[0].unconfirmed, unconfirmed);
    }
    let (mut peers, id) = waiting();
    peers.leave(1, id, CloseReason::SlowPeer, true);
    peers.settle_all(1);
    assert_eq!(peers.common.lists.poll_action(), close(id));
    assert_eq!(
        peers.common.ended.rows()[0].unconfirmed,
        Some(Traffic::default())
    );
}

/// A connection does not become dormant before its system has acknowledged everything; where
/// nothing is told, that is not waited for.
#[test]
fn a_connection_becomes_dormant_when_everything_is_acknowledged() {
    for tells in [true, false] {
        let (slots, mut peers, id) = one_peer_that(OutboxFull::Refuse, Clock::start(), 64 << 20);
        let message = OutFrame {
            frame: Frame::new(MessageType(1), &[0; 900]),
            owned: None,
        };
        slots.send_as(id, Priority::Normal, message).unwrap();
        peers.begin_turn(0);
        write(&mut peers, 0, id, 908);
        read_nothing(&mut peers, id, io::ErrorKind::WouldBlock);
        while peers.poll_write().or_else(|| peers.poll_read()).is_some() {}
        let answers = if tells {
            vec![
                Unacknowledged::Unknown,
                Unacknowledged::Bytes(7),
                Unacknowledged::Bytes(0),
            ]
        } else {
            vec![Unacknowledged::Never]
        };
        for (second, told) in (2..).zip(answers) {
            assert!(!peers.connections.is_inactive(id), "{told:?}");
            let now = second * 1_000;
            peers.handle_metrics_tick(now);
            assert!(peers.has_work());
            peers.begin_turn(now);
            assert_eq!(
                peers.common.lists.poll_action(),
                Some(Action::Look { id, last: false })
            );
            peers.handle_unacknowledged(now, id, false, told);
            // It may have been asked to write, which it has nothing for.
            peers.begin_turn(now);
        }
        assert!(peers.connections.is_inactive(id));
        assert!(!peers.has_work());
    }
}

/// The system tells of an error once: to the last read, if no call met it before.
#[test]
fn an_error_that_the_last_read_meets_is_not_forgotten() {
    for (error, unconfirmed) in [
        (io::ErrorKind::ConnectionReset, Traffic::new(10, 9_080)),
        (io::ErrorKind::WouldBlock, Traffic::default()),
    ] {
        let (mut peers, id) = waiting();
        write(&mut peers, 1, id, 9_080);
        peers.leave(2, id, CloseReason::SlowPeer, true);
        peers.handle_last_input(id, |_, _| Err(error.into()));
        peers.settle_all(2);
        assert_eq!(
            peers.common.lists.poll_action(),
            Some(Action::Look { id, last: true })
        );
        let (failed, at_most) = (false, 1 << 20);
        let told = Unacknowledged::Ended { failed, at_most };
        peers.handle_unacknowledged(2, id, true, told);
        assert_eq!(peers.common.ended.rows()[0].unconfirmed, Some(unconfirmed));
    }
}
