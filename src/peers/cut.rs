//! The loop's part of a cut of the ledger: what its peers add up to.
//!
//! What is read of one peer is of one moment, and so are the sums over all of them; the rows need
//! not be of the same moment as each other. So the walk over the peers, which takes a lock of each
//! and looks at all segments that wait for it, goes on from turn to turn, and only the sums are
//! taken at its end in one piece, which is four additions for a peer.

use super::state::Peers;
use crate::{
    balance::{PeerCut, PeerSums, PeersCut, SumsOverPeers},
    ledger::Traffic,
    limits::{CUT_LOOKS_PER_TURN, CUT_PEERS_MAX, CUT_SEGMENTS_MAX, CUT_TRIES_MAX},
    slots::Contended,
};

/// A walk over all peers, which begins with the first.
#[derive(Debug, Default)]
pub(crate) struct CutWalk {
    /// The index to go on with.
    next: usize,
    /// Turns in which somebody held the lock of that slot.
    tries: usize,
    rows: Vec<PeerCut>,
    left_out: u64,
}

impl Peers {
    /// Goes on with a walk, as far as it may go in one turn. Returns whether that was all of it;
    /// fails if somebody held a slot in turn after turn.
    ///
    /// A turn costs a lock for each of up to `CUT_LOOKS_PER_TURN` peers, or as many looks at
    /// segments that wait for them; one peer may pass that, up to `CUT_SEGMENTS_MAX`. Whoever has
    /// more is left out.
    pub(crate) fn continue_cut(&self, walk: &mut CutWalk) -> Result<bool, Contended> {
        // No index is beyond that.
        let end = self.connections.index_end();
        let mut looks = 0;
        while walk.next < end && looks < CUT_LOOKS_PER_TURN {
            looks += 1;
            if let Some((id, connection)) = self.connections.id_at(walk.next) {
                let outbox = connection.map(|connection| &connection.peer.outbox);
                let segments = outbox.map_or(0, |outbox| outbox.segment_count());
                if segments > CUT_SEGMENTS_MAX {
                    walk.left_out += 1;
                } else {
                    let Ok((sums, unseen)) = self.common.slots.look(id) else {
                        walk.tries += 1;
                        let goes_on = walk.tries < CUT_TRIES_MAX;
                        return goes_on.then_some(false).ok_or(Contended);
                    };
                    let tally = self.connections.tally(id);
                    let mut accepted = sums.accepted;
                    accepted.add(tally.answered);
                    walk.rows.push(PeerCut {
                        id,
                        accepted,
                        written: tally.outbound,
                        overflowed: sums.overflowed,
                        unseen,
                        outbox: outbox.map_or_else(Traffic::default, |outbox| outbox.waiting()),
                    });
                    looks += segments;
                }
            }
            walk.next += 1;
            walk.tries = 0;
        }
        Ok(walk.next >= end)
    }

    /// Ends a walk with the sums over all peers that there are now.
    pub(crate) fn finish_cut(&self, walk: CutWalk) -> PeersCut {
        let CutWalk { rows, left_out, .. } = walk;
        if self.connections.len() > CUT_PEERS_MAX {
            return PeersCut {
                sums: None,
                peers: rows,
                left_out: self.connections.len() as u64,
            };
        }
        let mut live = PeerSums::default();
        for (id, _) in self.connections.ids() {
            let tally = self.connections.tally(id);
            live.inbound.add(tally.inbound);
            live.written.add(tally.outbound);
            live.accepted.add(tally.accepted);
            live.accepted.add(tally.answered);
        }
        PeersCut {
            sums: Some(SumsOverPeers {
                live,
                gone: self.common.ended.gone,
            }),
            peers: rows,
            left_out,
        }
    }
}
