//! Messages on their way out: from a sender through a slot and an outbox to what is written.

use std::{fmt, hint::black_box, io::IoSlice, sync::Arc};

use super::{MESSAGE_TYPE, Scene, open_slot, slots_for};
use crate::{
    clock::Tick,
    frame::Frame,
    id::PeerId,
    ledger::Traffic,
    limits::SLICES_PER_WRITE,
    outbox::Outbox,
    policy::Priority,
    slots::{OutFrame, OutFrames, Recipients, SharedFrame, Slots, Sums, Take},
};

/// Messages of 64 bytes that are sent to one peer.
pub(super) const MESSAGES: u64 = 500;
/// Peers of a broadcast.
pub(super) const PEERS: u64 = 100;

const NOW: Tick = 1;

/// The sender's side, one message at a time.
pub(super) fn send() -> Box<dyn Scene> {
    Box::new(Send(Links::new(1)))
}

/// The same as one batch, which is filled as well.
pub(super) fn send_batch() -> Box<dyn Scene> {
    Box::new(SendBatch(Links::new(1), OutFrames::default()))
}

/// The loop's side, until all is written.
pub(super) fn write() -> Box<dyn Scene> {
    Box::new(Write(Links::new(1)))
}

/// Both sides of a broadcast.
pub(super) fn broadcast() -> Box<dyn Scene> {
    Box::new(Broadcast(Links::new(PEERS)))
}

#[derive(Debug)]
struct Send(Links);

impl Scene for Send {
    fn prepare(&mut self) {
        self.0.write();
    }

    fn run(&mut self) {
        self.0.send();
    }
}

#[derive(Debug)]
struct SendBatch(Links, OutFrames);

impl Scene for SendBatch {
    fn prepare(&mut self) {
        self.0.write();
    }

    fn run(&mut self) {
        let Self(links, batch) = self;
        for _ in 0..MESSAGES {
            batch.push(&frame());
        }
        let peer = links.peers[0].id;
        let sent = links.slots.send_batch(peer, Priority::Normal, batch);
        sent.expect("there is room");
    }
}

#[derive(Debug)]
struct Write(Links);

impl Scene for Write {
    fn prepare(&mut self) {
        self.0.send();
    }

    fn run(&mut self) {
        self.0.write();
    }
}

#[derive(Debug)]
struct Broadcast(Links);

impl Scene for Broadcast {
    fn run(&mut self) {
        let shared = SharedFrame::new(&frame(), Priority::Normal);
        let report = self.0.slots.broadcast(Ok(&shared), Recipients::All);
        assert_eq!(report.sent.len(), self.0.peers.len(), "all have room");
        self.0.write();
    }
}

fn frame() -> Frame<'static> {
    Frame::new(MESSAGE_TYPE, black_box(&[b'.'; 64]))
}

/// Peers as far as they are sent to.
struct Links {
    slots: Arc<Slots>,
    peers: Vec<Link>,
}

#[derive(Debug)]
struct Link {
    id: PeerId,
    outbox: Outbox,
    sums: Sums,
}

impl Links {
    fn new(peers: u64) -> Self {
        let slots = slots_for(usize::try_from(peers).unwrap_or(usize::MAX));
        let peers = (0..u32::try_from(peers).unwrap_or(u32::MAX))
            .map(|index| Link {
                id: open_slot(&slots, index),
                outbox: Outbox::default(),
                sums: Sums::default(),
            })
            .collect();
        Self { slots, peers }
    }

    fn send(&mut self) {
        let peer = self.peers[0].id;
        for _ in 0..MESSAGES {
            let message = OutFrame {
                frame: frame(),
                owned: None,
            };
            let sent = self.slots.send_as(peer, Priority::Normal, message);
            sent.expect("there is room");
        }
    }

    /// What the loop does for every slot that is marked dirty; the kernel takes all at once.
    fn write(&mut self) {
        while let Some(index) = self.slots.poll_dirty() {
            let Link { id, outbox, sums } = &mut self.peers[index as usize];
            let all = Take::Beside(Default::default());
            let taken = self
                .slots
                .take_tail(NOW, *id, *sums, all, |priority, segment| {
                    outbox.push(NOW, priority, segment);
                });
            sums.add(taken.expect("nobody holds the lock").sums);
            let mut written = Traffic::default();
            while !outbox.is_empty() {
                let mut slices = [IoSlice::new(&[]); SLICES_PER_WRITE];
                let count = outbox.fill_slices(&mut slices, usize::MAX);
                let size = slices[..count].iter().map(|slice| slice.len()).sum();
                outbox.handle_written(size, |_, traffic| written.add(traffic));
            }
            self.slots.add_written(*id, written);
        }
    }
}

impl fmt::Debug for Links {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Links").finish_non_exhaustive()
    }
}
