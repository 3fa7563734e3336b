//! The parts of a cut: what the loop has read, what the dispatcher has, and the marker in between.

use crossbeam_channel::Sender;

use crate::{
    id::PeerId,
    ledger::{
        DepartedRow, EventSubscriberRow, RequestRow, Snapshot, SubscriberRow, Traffic, TypeTraffic,
    },
};

/// What the loop and the dispatcher have read.
#[derive(Debug)]
pub(crate) struct Cut {
    pub(crate) at_loop: Box<LoopCut>,
    pub(crate) behind: DispatchCut,
}

impl Cut {
    /// The counters of one shard, those of its dispatcher filled in.
    pub(super) fn into_parts(self) -> (Snapshot, PeersCut) {
        let Self { at_loop, behind } = self;
        let LoopCut { shot, peers, .. } = *at_loop;
        let DispatchCut {
            dispatched,
            claimed,
            unclaimed,
            types,
            requests,
            subscribers,
            ..
        } = behind;
        let shot = Snapshot {
            dispatched,
            claimed,
            unclaimed,
            // The loop has filled in its own.
            types: TypeTraffic::merge(shot.types.into_iter().chain(types)),
            requests,
            subscribers: subscribers.rows,
            event_subscribers: subscribers.events,
            departed: subscribers.departed,
            ..shot
        };
        (shot, peers)
    }
}

/// What the loop has read. In `shot`, what the dispatcher counts is still to be filled in.
#[derive(Debug)]
pub(crate) struct LoopCut {
    pub(crate) shot: Snapshot,
    /// Messages that are parsed and not handed over.
    pub(crate) waiting: Traffic,
    pub(crate) peers: PeersCut,
}

/// Sums over peers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PeerSums {
    pub(crate) inbound: Traffic,
    pub(crate) written: Traffic,
    pub(crate) lost: Traffic,
    /// As far as the loop has seen it.
    pub(crate) accepted: Traffic,
}

impl PeerSums {
    pub(super) fn add(&mut self, other: Self) {
        self.inbound.add(other.inbound);
        self.written.add(other.written);
        self.lost.add(other.lost);
        self.accepted.add(other.accepted);
    }
}

/// Of connections that are open, and of all that have ended.
#[derive(Debug)]
pub(crate) struct SumsOverPeers {
    pub(crate) live: PeerSums,
    pub(crate) gone: PeerSums,
}

#[derive(Debug)]
pub(crate) struct PeersCut {
    /// `None` if there are too many to be summed up in one turn.
    pub(crate) sums: Option<SumsOverPeers>,
    /// Each of a moment of its own.
    pub(crate) peers: Vec<PeerCut>,
    pub(crate) left_out: u64,
}

impl PeersCut {
    pub(super) fn add(&mut self, other: Self) {
        self.sums = self.sums.take().zip(other.sums).map(|(mut sums, others)| {
            sums.live.add(others.live);
            sums.gone.add(others.gone);
            sums
        });
        self.peers.extend(other.peers);
        self.left_out += other.left_out;
    }
}

/// What was accepted for a peer and what became of it, senders included.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PeerCut {
    pub(crate) id: PeerId,
    pub(crate) accepted: Traffic,
    pub(crate) written: Traffic,
    pub(crate) overflowed: Traffic,
    pub(crate) unseen: Traffic,
    pub(crate) outbox: Traffic,
}

/// What the dispatcher has read.
#[derive(Debug)]
pub(crate) struct DispatchCut {
    pub(crate) dispatched: u64,
    pub(crate) claimed: u64,
    pub(crate) unclaimed: u64,
    /// Answers to our requests that are dispatched, and neither claimed nor unclaimed yet.
    pub(crate) put_off: u64,
    pub(crate) types: Vec<TypeTraffic>,
    pub(crate) requests: RequestRow,
    pub(crate) subscribers: SubscribersCut,
}

#[derive(Debug, Default)]
pub(crate) struct SubscribersCut {
    pub(crate) rows: Vec<SubscriberRow>,
    pub(crate) events: Vec<EventSubscriberRow>,
    pub(crate) departed: DepartedRow,
}

/// A cut under way from the loop to the dispatcher, and what it is for. `None` is the answer if
/// a thread was in the middle of something; it is to be tried again.
#[derive(Debug)]
pub(crate) struct CutMarker {
    pub(crate) at_loop: Box<LoopCut>,
    pub(crate) answer: CutAnswer,
}

/// What a cut is for.
pub(crate) type CutAnswer = Sender<Option<Cut>>;

impl CutMarker {
    /// The dispatcher has come to the marker.
    pub(crate) fn finish(self, behind: Option<DispatchCut>) {
        let Self { at_loop, answer } = self;
        // The asking thread may have given up waiting.
        drop(answer.try_send(behind.map(|behind| Cut { at_loop, behind })));
    }
}
