//! Settings that change in the middle of a run.

use std::{sync::Arc, time::Duration};

use crossbeam_channel::{Sender, bounded};

use super::random::Random;
use crate::{
    config::Config, handle::Command, ledger::Traffic, peer::Rules, peers::PeerLimits,
    slots::OutboxLimits,
};

/// What a run began with.
#[derive(Debug)]
pub(super) struct Settings {
    first: Config,
    has_changed: bool,
}

impl Settings {
    pub(super) fn new(
        rules: &Rules,
        limits: PeerLimits,
        outbox: OutboxLimits,
        budget: usize,
        capacity: Traffic,
    ) -> Self {
        let ms = Duration::from_millis;
        let size = |bytes: u64| usize::try_from(bytes).unwrap();
        let first = Config::default()
            .max_payload(outbox.payload_size)
            .outbox_bytes(size(outbox.bytes))
            .outbox_messages(size(outbox.messages))
            .memory_budget(budget)
            .dispatch_bytes(size(capacity.bytes))
            .max_peers(limits.peers)
            .max_peers_per_addr(limits.peers_per_origin)
            .max_pending(limits.pending)
            .require_hello(rules.hello_required)
            .first_frame_timeout(ms(rules.first_frame_ms))
            .frame_timeout(ms(rules.frame_ms))
            .idle_timeout(ms(rules.idle_ms))
            .write_stall_timeout(ms(rules.write_stall_ms))
            .heartbeat(ms(rules.heartbeat_ms), ms(rules.heartbeat_timeout_ms));
        Self {
            first,
            has_changed: false,
        }
    }

    /// Has the loop change to others.
    pub(super) fn change(&mut self, random: &mut Random, commands: &Sender<Command>) {
        let mut time = |values: &[u64]| Duration::from_millis(random.pick(values));
        let next = self
            .first
            .clone()
            .first_frame_timeout(time(&[0, 50, 5_000]))
            .frame_timeout(time(&[0, 50, 10_000]))
            .idle_timeout(time(&[0, 0, 70, 3_000]))
            .write_stall_timeout(time(&[0, 100, 10_000]))
            .heartbeat(time(&[0, 60, 1_000]), time(&[0, 2_000]))
            .max_peers_per_addr(random.pick(&[0, 0, 2]))
            .max_pending(random.pick(&[0, 0, 1, 4]))
            .max_peers(random.between(1, self.first.max_peers));
        self.has_changed |= send(&next, commands);
    }

    /// Those of the beginning, if there were others since.
    pub(super) fn restore(&mut self, commands: &Sender<Command>) {
        if self.has_changed {
            assert!(send(&self.first, commands), "the loop takes its commands");
        }
    }
}

/// Whether there is room for the command.
fn send(config: &Config, commands: &Sender<Command>) -> bool {
    let command = Command::Reconfigure(Arc::new(config.clone()), bounded(1).0);
    commands.try_send(command).is_ok()
}
