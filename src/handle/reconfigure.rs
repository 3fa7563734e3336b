//! New settings for a service that runs.
//!
//! All is judged before anything changes. What changes then is the same for all loops, and each
//! takes it as a command, between two turns.

use std::{
    sync::{Arc, PoisonError, TryLockError},
    time::Duration,
};

use crossbeam_channel::{Receiver, bounded};

use super::{ANSWER_TIMEOUT, Command, Handle, Shard};
use crate::{
    config::{Config, Reconfigured},
    error::ReconfigureError,
    host::{Host, dispatch_bytes_within},
    ledger::ServiceState,
    slots::never_waits,
};

/// What a service was told to do last, and what it does.
#[derive(Debug)]
pub(crate) struct Settings {
    asked: Config,
    /// The same within what the process may have.
    running: Config,
    /// Peers that the tables have places for.
    places: usize,
    /// What the host left to the budget at the start.
    budget_max: usize,
}

impl Settings {
    pub(crate) fn new(asked: Config, running: Config, budget_max: Option<usize>) -> Self {
        Self {
            places: asked.max_peers,
            budget_max: budget_max.unwrap_or(usize::MAX),
            asked,
            running,
        }
    }

    /// What others come to.
    fn judge(&self, new: &Config) -> Result<(Self, Reconfigured), ReconfigureError> {
        new.validate().map_err(ReconfigureError::Config)?;
        let (asked, told) = self.asked.changed_to(new, self.places);
        // What cannot change may contradict what does.
        asked.validate().map_err(ReconfigureError::Config)?;
        let mut running = asked.clone();
        if asked.memory_budget == self.asked.memory_budget {
            // It may have been lowered for the host's sake.
            running.memory_budget = self.running.memory_budget;
            running.dispatch_bytes = match asked.dispatch_bytes {
                same if same == self.asked.dispatch_bytes => self.running.dispatch_bytes,
                other => other.min(running.memory_budget),
            };
        } else {
            let fits = Host::this().allows(&asked);
            fits.map_err(ReconfigureError::Memory)?;
            let budget = asked.memory_budget.min(self.budget_max);
            if budget < asked.memory_budget {
                running.memory_budget = budget;
                running.dispatch_bytes = asked.dispatch_bytes.min(dispatch_bytes_within(budget));
            }
        }
        running.validate().map_err(ReconfigureError::Config)?;
        let settings = Self {
            asked,
            running,
            ..*self
        };
        Ok((settings, told))
    }

    fn warn_if_lowered(&self) {
        let (from, to) = (self.asked.memory_budget, self.running.memory_budget);
        if to < from {
            log::warn!(
                "memory_budget is lowered from {from} to {to} bytes, half of what the host's \
                 limits left at the start"
            );
        }
    }
}

impl Handle {
    /// Changes the settings of the service while it runs: all of those that can change, or nothing.
    ///
    /// The new settings are judged as those of a new service are, together with what cannot change:
    /// [`Reconfigured::kept`] names what differs of that, and it stays as it is. All others hold
    /// for every peer, those that are connected included, as soon as this returns:
    ///
    /// - a deadline is counted from where it began; one that has passed by its new length ends the
    ///   connection as it would have;
    /// - a bound that is lower than what there is refuses what is new, and ends nothing;
    /// - a HELLO is judged by the tokens, and by whether it is required, from then on; who was let
    ///   in stays.
    ///
    /// Can change: [`max_peers`](Config::max_peers) (up to what it was at the start),
    /// `max_peers_per_addr`, `max_pending`, `outbox_bytes`, `outbox_messages`, `memory_budget`,
    /// `dispatch_bytes`, all timeouts but `tcp_user_timeout`, `heartbeat`, `reconnect`,
    /// `require_hello`, `require_checksums`, `token` and `accept_tokens`. A `memory_budget` above
    /// what the host's limits left at the start is lowered to that, with a warning, as it is there.
    ///
    /// Waits for the loops, up to five seconds; on a thread of theirs it does not, and the change
    /// comes with their next turn, as it comes with the start before that.
    ///
    /// # Errors
    ///
    /// See [`ReconfigureError`]; then nothing has changed.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use nebnet::{Config, NetService};
    ///
    /// let config = Config::default().listen("127.0.0.1:0".parse()?);
    /// let mut service = NetService::new(config.clone())?;
    /// service.start()?;
    /// let stricter = config.idle_timeout(Duration::from_secs(60)).shards(2);
    /// let told = service.handle().reconfigure(&stricter)?;
    /// assert_eq!(told.changed, ["idle_timeout"]);
    /// assert_eq!(told.kept, ["shards"]);
    /// # service.stop(Duration::ZERO);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn reconfigure(&self, config: &Config) -> Result<Reconfigured, ReconfigureError> {
        let shared = &self.shared;
        let mut settings = match shared.settings.try_lock() {
            Ok(settings) => settings,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // A change that waits for this very loop would be waited for.
            Err(TryLockError::WouldBlock) if never_waits() => return Err(ReconfigureError::Busy),
            Err(TryLockError::WouldBlock) => shared
                .settings
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        };
        if self.has_ended() {
            return Err(ReconfigureError::Stopped);
        }
        let (next, told) = settings.judge(config)?;
        if told.changed.contains(&"memory_budget") {
            next.warn_if_lowered();
        }
        let running = Arc::new(next.running.clone());
        // Each loop empties its queue in a turn, so there is room for all, or there will be.
        let waits = shared.state.get() != ServiceState::New && !never_waits();
        let is_full = shared.shards.iter().any(|shard| shard.commands.is_full());
        if is_full && !waits {
            return Err(ReconfigureError::Busy);
        }
        let patience = if waits {
            ANSWER_TIMEOUT
        } else {
            Duration::ZERO
        };
        let mut answers = Vec::new();
        for shard in &shared.shards {
            let (answer, answered) = bounded(1);
            let command = Command::Reconfigure(Arc::clone(&running), answer);
            // A loop that takes nothing for so long is one that never will.
            if shard.commands.send_timeout(command, patience).is_err() {
                take_back(answers, &settings.running);
                return Err(ReconfigureError::Busy);
            }
            shard.slots.doorbell.ring();
            answers.push((shard, answered));
        }
        *settings = next;
        let deadline = shared.clock.elapsed() + ANSWER_TIMEOUT;
        for (shard, answered) in answers.into_iter().filter(|_| waits) {
            // One that does not answer has it in its queue.
            let _: Option<()> = shard.answer(&answered, shared.clock, deadline);
        }
        Ok(told)
    }
}

/// Gives the former settings back to loops that were given new ones, behind those. As they had room
/// for these, they take commands.
fn take_back(told: Vec<(&Shard, Receiver<()>)>, former: &Config) {
    let former = Arc::new(former.clone());
    for (shard, _) in told {
        let command = Command::Reconfigure(Arc::clone(&former), bounded(1).0);
        if shard
            .commands
            .send_timeout(command, ANSWER_TIMEOUT)
            .is_err()
        {
            log::error!("a loop takes no commands, and runs with settings that were refused");
        }
        shard.slots.doorbell.ring();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;

    fn settings(budget: usize, budget_max: Option<usize>) -> Settings {
        let asked = Config::default().memory_budget(budget);
        Settings::new(asked.clone(), asked, budget_max)
    }

    /// A change may ask for no more than a start gets.
    #[test]
    fn a_budget_is_kept_to_what_the_host_left_at_the_start() {
        let wanted = Config::default().memory_budget(200 * MIB);
        let settings_of = |budget_max| settings(100 * MIB, budget_max).judge(&wanted).unwrap().0;
        let free = settings_of(None);
        assert_eq!(free.running, free.asked);
        assert_eq!(free.running.memory_budget, 200 * MIB);
        let kept = settings_of(Some(128 * MIB));
        assert_eq!(kept.asked.memory_budget, 200 * MIB);
        assert_eq!(kept.running.memory_budget, 128 * MIB);
        assert_eq!(kept.running.dispatch_bytes, 32 * MIB);
        // Where nothing else is asked for it stays so, and a smaller one is as it is asked for.
        let (again, told) = kept
            .judge(&wanted.idle_timeout(Duration::from_secs(9)))
            .unwrap();
        assert_eq!(told.changed, ["idle_timeout"]);
        assert_eq!(again.running.memory_budget, 128 * MIB);
        let less = Config::default().memory_budget(120 * MIB);
        let less = kept.judge(&less).unwrap().0;
        assert_eq!(less.running, less.asked);
        // What no longer fits is refused.
        let outbox = Config::default()
            .memory_budget(200 * MIB)
            .outbox_bytes(150 * MIB);
        let refused = settings(100 * MIB, Some(128 * MIB))
            .judge(&outbox)
            .unwrap_err();
        assert!(matches!(refused, ReconfigureError::Config(_)), "{refused}");
    }
}
