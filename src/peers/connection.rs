//! What the table knows of a peer besides the peer itself.

use std::net::{IpAddr, SocketAddr};

use crate::{
    block::BlockPool,
    clock::Tick,
    error::{CloseReason, DialError},
    event::PauseCause,
    frame,
    id::PeerId,
    ledger::{PauseCounters, Traffic},
    limits::{BLOCK_SIZE, CARRY_TRUSTED_MAX},
    peer::{Peer, Rules, State},
    slots::Flow,
    socket::Ready,
    wheel::TimerPlace,
};

/// One connection with its place in the lists of the loop.
///
/// Most of its fields are marks that stand alone, each with the condition under which it holds; a
/// struct around some of them would give them a name that says less. `is_inactive` names them all.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) peer: Peer,
    /// What the kernel said, until the call that would block.
    pub(super) ready: Ready,
    /// True exactly when the peer is in the read list, or in the write list.
    pub(super) in_read_list: bool,
    pub(super) in_write_list: bool,
    /// The last read brought about as much as it could.
    pub(super) in_bulk: bool,
    /// The size of its last frame that was put together.
    pub(super) proven: usize,
    /// Why the peer is not being read.
    pub(super) pause: Option<Pause>,
    /// What is told of the pause.
    pub(super) report: Report,
    /// The one timer of the peer: never later than its earliest deadline.
    pub(super) timer: Option<TimerPlace>,
    /// The earliest deadline of a request that waits for the peer's answer, as far as it is known.
    pub(super) request_deadline: Option<Tick>,
    /// It has passed, and was put off because there was something to read.
    pub(super) request_put_off: bool,
    /// Bytes charged to the budget for the unfinished frame.
    pub(super) carry_charge: usize,
    pub(super) standing: Standing,
    /// Why the connection could not be made, if that is known better than by a reason.
    pub(super) dial_error: Option<DialError>,
    /// The slot's tail was not emptied, for want of room in the outbox.
    pub(super) has_more: bool,
    /// `Congested` was told, and `Writable` not yet.
    pub(super) congested: bool,
    /// It is in the list of those that wait for the budget to have room for what is sent to them.
    pub(super) in_refused_list: bool,
    /// It is in the list of those whose watermarks are to be looked at later.
    pub(super) in_due_list: bool,
    /// Its `Connected` was told, so that its `Closed` is due.
    pub(super) told_connected: bool,
    /// The drain is over, or a write stall that is judged by what our system takes, and the socket
    /// is tried a last time.
    pub(super) write_tried: bool,
    /// Its node is claimed for it among all loops.
    pub(super) listed: bool,
    /// It owes us its first frame, or HELLO, and counts as such.
    pub(super) pending: bool,
    /// The connection broke while it was written; unread input is taken first.
    pub(super) broken: Option<CloseReason>,
    /// A call has failed, so that the system has told of the error and does not tell again.
    pub(super) failed: bool,
    /// Set when it waits for its slot to be given back; nothing else happens to it.
    pub(super) leaving: Option<Leaving>,
}

/// What a connection counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    /// It was refused at the door, and does not count as a peer.
    Refused,
    /// It came to us.
    Accepted,
    /// We make it; it is not a connection yet.
    Dialling,
    /// We made it.
    Dialled,
}

/// How it leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Leaving {
    pub(super) reason: CloseReason,
    pub(super) abort: bool,
}

/// Why a peer is not being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pause {
    /// Its credit is used up.
    Credit,
    /// A subscriber that it sent to is full.
    Parked,
    /// The service's budget is short.
    Budget,
    /// It is closing.
    Closing,
}

/// How far subscribers of events know that a peer is not being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// It is read, or nobody is to know.
    Nothing,
    /// It is to be told at this tick, if it is still so.
    Due(Tick),
    /// It was told, so that the end of it is due.
    Told,
}

impl Pause {
    /// What subscribers of events are told.
    pub(super) fn cause(self) -> Option<PauseCause> {
        match self {
            Self::Credit => Some(PauseCause::Credit),
            Self::Parked => Some(PauseCause::Subscriber),
            Self::Budget => Some(PauseCause::Budget),
            Self::Closing => None,
        }
    }

    /// Counts one that begins.
    pub(super) fn count(self, counters: &PauseCounters) {
        match self {
            Self::Credit => counters.credit.add(1),
            Self::Parked => counters.subscriber.add(1),
            Self::Budget => counters.budget.add(1),
            // It is not for want of anything.
            Self::Closing => {}
        }
    }
}

impl Connection {
    pub(super) fn new(peer: Peer, standing: Standing) -> Box<Self> {
        Box::new(Self {
            peer,
            // Nobody has to wait for the first edge to write, except for a connection that is not
            // made yet: there it says that it is.
            ready: if standing == Standing::Dialling {
                Ready::default()
            } else {
                Ready::WRITE
            },
            in_read_list: false,
            in_write_list: false,
            in_bulk: false,
            proven: 0,
            pause: None,
            report: Report::Nothing,
            timer: None,
            request_deadline: None,
            request_put_off: false,
            carry_charge: 0,
            standing,
            dial_error: None,
            has_more: false,
            congested: false,
            in_refused_list: false,
            in_due_list: false,
            told_connected: false,
            write_tried: false,
            listed: false,
            pending: false,
            broken: None,
            failed: false,
            leaving: None,
        })
    }

    pub(super) fn id(&self) -> PeerId {
        self.peer.id
    }

    /// Whether nothing is under way that the table's short forms know nothing of. Every field is
    /// named, so that a new one cannot be forgotten.
    pub(super) fn is_inactive(&self) -> bool {
        let Self {
            peer,
            ready,
            in_read_list,
            in_write_list,
            // Found out again by the next large read, or frame.
            in_bulk: _,
            proven: _,
            pause,
            report,
            timer: _,
            request_deadline,
            request_put_off,
            carry_charge,
            standing,
            dial_error,
            has_more,
            congested,
            in_refused_list,
            in_due_list,
            told_connected: _,
            write_tried,
            listed,
            pending: _,
            broken,
            failed,
            leaving,
        } = self;
        let lists = [in_read_list, in_write_list, in_refused_list, in_due_list];
        let marks = [request_put_off, has_more, congested, write_tried, listed];
        *ready == Ready::WRITE
            && matches!(standing, Standing::Accepted | Standing::Dialled)
            && lists.iter().chain(&marks).all(|mark| !**mark)
            && pause.is_none()
            && *report == Report::Nothing
            && request_deadline.is_none()
            && *carry_charge == 0
            && dial_error.is_none()
            && broken.is_none()
            && !failed
            && leaving.is_none()
            && peer.is_inactive()
    }

    /// Makes room for so many bytes more of an unfinished frame. It grows with what came, not with
    /// what was announced; only a peer that has just sent a frame so long is trusted with all of
    /// the next one at once, up to 1 MiB, and to what may be charged ahead of it.
    pub(super) fn grow_carry(&mut self, room: usize, pool: &mut BlockPool, ahead_max: usize) {
        let carry = &mut self.peer.carry;
        let carried = carry.len();
        if carry.capacity() - carried >= room {
            return;
        }
        let needed = frame::frame_size_at(carry).unwrap_or(0);
        let is_proven = needed > BLOCK_SIZE && needed <= CARRY_TRUSTED_MAX.min(self.proven);
        // What is used again may be a quarter larger.
        if is_proven && needed > carried && needed + needed / 4 <= ahead_max {
            let mut storage = pool.take_long(needed);
            storage.extend_from_slice(carry);
            *carry = storage;
            return;
        }
        let doubled = 2 * carried;
        let target = if needed > doubled {
            doubled
        } else {
            needed.max(doubled.min(BLOCK_SIZE))
        };
        carry.reserve_exact((target - carried).max(room));
    }

    /// What counts against the credit of the peer.
    #[inline]
    pub(super) fn used(&self, flow: Flow) -> Traffic {
        let mut used = flow.queued;
        used.add(self.peer.in_flight(flow.released));
        used.bytes += self.peer.carry.len() as u64;
        used
    }

    /// Whether nothing of it is in flight or queued but the frame that it has begun.
    pub(super) fn holds_one_frame(&self, flow: Flow) -> bool {
        let nothing = Traffic::default();
        self.peer.in_flight(flow.released) == nothing && flow.queued == nothing
    }

    /// How much of its drain time is left to a connection that is being finished, by us or by a BYE
    /// of its peer.
    pub(super) fn drain_ms(&self, now: Tick) -> Option<u64> {
        match self.peer.state() {
            State::Stopping { deadline, .. }
            | State::HalfClosed {
                deadline: Some(deadline),
                ..
            } => Some(deadline.saturating_sub(now)),
            State::Connecting { .. }
            | State::Greeting { .. }
            | State::Open
            | State::Refused { .. }
            | State::HalfClosed { deadline: None, .. }
            | State::Draining { .. }
            | State::Lingering { .. } => None,
        }
    }

    /// Why it closes.
    pub(super) fn closing_reason(&self) -> CloseReason {
        match self.peer.state() {
            State::Draining { reason, .. }
            | State::Lingering { reason, .. }
            | State::Stopping { reason, .. }
            | State::Refused { reason, .. }
            | State::HalfClosed { reason, .. } => reason,
            State::Connecting { .. } | State::Greeting { .. } | State::Open => {
                CloseReason::Internal
            }
        }
    }

    /// The earliest deadline of the connection itself; `lag` as for `Peer::next_deadline`.
    #[inline]
    pub(super) fn own_deadline(&self, rules: &Rules, lag: Tick) -> Option<Tick> {
        let deadline = self.peer.next_deadline(rules, lag);
        deadline.into_iter().chain(self.report_due()).min()
    }

    /// When to look at the requests of the peer.
    #[inline]
    pub(super) fn request_deadline_from(&self, now: Tick) -> Option<Tick> {
        self.request_deadline.map(|deadline| deadline.max(now + 1))
    }

    /// When it is to be told that the peer is not being read.
    pub(super) fn report_due(&self) -> Option<Tick> {
        match self.report {
            Report::Due(due) if self.pause.is_some_and(|pause| pause != Pause::Closing) => {
                Some(due)
            }
            Report::Due(_) | Report::Nothing | Report::Told => None,
        }
    }
}

/// The two bounds of a peer's credit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Credit {
    pub(super) bytes: u64,
    pub(super) messages: u64,
}

impl Credit {
    /// Bytes that may be read when `used` is in flight or queued, so that neither bound can be
    /// passed whatever the bytes turn out to be. The first `frame_left` bytes belong to a frame
    /// that has begun.
    pub(super) fn allowance(self, used: Traffic, frame_left: u64) -> u64 {
        let messages_left = self.messages.saturating_sub(used.messages);
        if messages_left == 0 {
            return 0;
        }
        // The smallest frame is a header.
        let smallest = crate::limits::HEADER_SIZE as u64;
        let by_messages = (messages_left - 1)
            .saturating_mul(smallest)
            .saturating_add(smallest);
        let by_messages = by_messages.max(frame_left + (messages_left - 1) * smallest);
        self.bytes.saturating_sub(used.bytes).min(by_messages)
    }

    /// Below this allowance a peer pauses rather than being read in small pieces.
    pub(super) fn allowance_min(self) -> u64 {
        let block = BLOCK_SIZE as u64;
        let smallest = crate::limits::HEADER_SIZE as u64;
        block
            .min(self.bytes / 4)
            .min(self.messages * smallest / 4)
            .max(1)
    }

    /// Whether `used` is at most half of both bounds.
    pub(super) fn is_half_free(self, used: Traffic) -> bool {
        used.bytes <= self.bytes / 2 && used.messages <= self.messages / 2
    }
}

/// What connections of one origin are counted by: an IPv4 address, or an IPv6 /64. An IPv4 address
/// in IPv6 clothes is the IPv4 address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Origin([u8; 16]);

impl Origin {
    pub(super) fn of(addr: SocketAddr) -> Self {
        match addr.ip().to_canonical() {
            IpAddr::V4(ip) => Self(ip.to_ipv6_mapped().octets()),
            IpAddr::V6(ip) => {
                let mut octets = ip.octets();
                octets[8..].fill(0);
                Self(octets)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_addresses_or_networks() {
        let of = |text: &str| Origin::of(text.parse().unwrap());
        assert_eq!(of("10.0.0.1:1"), of("10.0.0.1:2"));
        assert_eq!(of("10.0.0.1:1"), of("[::ffff:10.0.0.1]:1"));
        assert_ne!(of("10.0.0.1:1"), of("10.0.0.2:1"));
        assert_eq!(of("[2001:db8::1]:1"), of("[2001:db8::ffff:2]:1"));
        assert_ne!(of("[2001:db8::1]:1"), of("[2001:db8:0:1::1]:1"));
    }

    #[test]
    fn an_allowance_never_passes_a_bound() {
        let credit = Credit {
            bytes: 1000,
            messages: 10,
        };
        assert_eq!(credit.allowance(Traffic::default(), 0), 80);
        assert_eq!(credit.allowance(Traffic::new(9, 0), 0), 8);
        assert_eq!(credit.allowance(Traffic::new(10, 0), 0), 0);
        assert_eq!(credit.allowance(Traffic::new(9, 0), 500), 500);
        assert_eq!(credit.allowance(Traffic::new(9, 600), 500), 400);
        assert_eq!(credit.allowance(Traffic::new(0, 1000), 0), 0);
        assert!(credit.is_half_free(Traffic::new(5, 500)));
        assert!(!credit.is_half_free(Traffic::new(5, 501)));
    }
}
