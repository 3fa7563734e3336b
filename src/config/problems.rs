//! Judges settings: each by the range that the table has for it, and those that bound each other by
//! rules.

use super::Config;
use crate::{clock::ticks_of_timeout, error::ConfigError, limits};

impl Config {
    /// Whether a service can be made of the settings.
    ///
    /// # Errors
    ///
    /// The first of the [`problems`](Self::problems).
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.problems().into_iter().next().map_or(Ok(()), Err)
    }

    /// Everything that is wrong with the settings: what is outside of its range
    /// ([`settings`](Self::settings)), elements of lists that are, and settings that contradict
    /// each other.
    #[must_use]
    pub fn problems(&self) -> Vec<ConfigError> {
        let mut problems = Vec::new();
        for setting in Self::settings() {
            let (value, (min, max)) = (setting.value(self).amount(), setting.bounds());
            if !(min..=max).contains(&value) {
                problems.push(ConfigError::OutOfRange {
                    setting: setting.name(),
                    value,
                    min,
                    max,
                    unit: setting.unit(),
                });
            }
        }
        self.note_elements(&mut problems);
        self.note_contradictions(&mut problems);
        problems
    }

    /// The highest processor of a list, and tokens that are too long or empty.
    fn note_elements(&self, problems: &mut Vec<ConfigError>) {
        let token_size_max = limits::TOKEN_SIZE_MAX as u64;
        let tokens = self.accept_tokens.iter();
        let tokens = tokens.map(|one| ("accept_tokens", one.size(), 1, token_size_max, "bytes"));
        let lists = [
            ("loop_cpus", &self.loop_cpus),
            ("dispatcher_cpus", &self.dispatcher_cpus),
        ];
        let cpus = lists.into_iter().filter_map(|(setting, cpus)| {
            let highest = *cpus.iter().max()? as u64;
            Some((setting, highest, 0, limits::CPU_MAX as u64, ""))
        });
        for (setting, value, min, max, unit) in cpus.chain(tokens) {
            if !(min..=max).contains(&value) {
                problems.push(ConfigError::ElementOutOfRange {
                    setting,
                    value,
                    min,
                    max,
                    unit,
                });
            }
        }
    }

    /// Settings that are above others which bound them.
    fn note_contradictions(&self, problems: &mut Vec<ConfigError>) {
        let ms = ticks_of_timeout;
        let (interval, timeout) = (ms(self.heartbeat_interval), ms(self.heartbeat_timeout));
        // Without a timeout any interval goes.
        let timeout = if timeout == 0 { u64::MAX } else { timeout };
        let (pause_min, pause_max) = (ms(self.reconnect_min), ms(self.reconnect_max));
        let budget = ("memory_budget", self.memory_budget as u64, "bytes");
        let payload = u64::from(self.max_payload);
        let rules = [
            (
                "reconnect_min",
                pause_min,
                ("reconnect_max", pause_max, "ms"),
            ),
            (
                "heartbeat_interval",
                interval,
                ("heartbeat_timeout", timeout, "ms"),
            ),
            ("max_payload", payload, budget),
            ("outbox_bytes", self.outbox_bytes as u64, budget),
            ("dispatch_bytes", self.dispatch_bytes as u64, budget),
        ];
        for (setting, value, (bound, limit, unit)) in rules {
            if value > limit {
                problems.push(ConfigError::Exceeds {
                    setting,
                    value,
                    bound,
                    limit,
                    unit,
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_default_is_valid() {
        assert_eq!(Config::default().problems(), []);
    }

    #[test]
    fn every_limit_and_one_past_it() {
        let ok = |config: Config| assert_eq!(config.problems(), [], "{config:?}");
        let bad = |config: Config| assert_eq!(config.problems().len(), 1, "{config:?}");
        let base = Config::default;
        ok(base().max_payload(1));
        bad(base().max_payload(0));
        ok(base().max_payload(256 << 20));
        assert!(
            base().max_payload((256 << 20) + 1).problems().len() == 2,
            "range and budget"
        );
        ok(base().shards(64));
        bad(base().shards(65));
        bad(base().shards(0));
        ok(base().max_peers((1 << 24) - 8192));
        bad(base().max_peers((1 << 24) - 8191));
        bad(base().max_peers(0));
        ok(base().max_pending(0));
        bad(base().max_pending(1 << 24));
        bad(base().outbox_bytes((64 << 10) - 1));
        ok(base().outbox_bytes(64 << 10));
        bad(base().outbox_messages(0));
        ok(base().max_requests(1 << 22));
        bad(base().max_requests((1 << 22) + 1));
        bad(base().max_requests(0));
        ok(base().notsent_lowat(0));
        ok(base().notsent_lowat((1 << 30) - 1));
        bad(base().notsent_lowat(1 << 30));
        bad(base().idle_timeout(Duration::MAX));
        ok(base().thread_name("ten letter"));
        bad(base().thread_name("ten letters"));
        bad(base().thread_name("\0"));
        ok(base().loop_cpus([0, 1023]).dispatcher_cpus([1023; 256]));
        bad(base().loop_cpus([0, 1024]));
        bad(base().dispatcher_cpus([0; 257]));
        bad(base()
            .memory_budget(4 << 20)
            .dispatch_bytes(4 << 20)
            .outbox_bytes((4 << 20) + 1));
        ok(base().memory_budget(4 << 20).dispatch_bytes(4 << 20));
    }

    #[test]
    fn a_problem_reads_as_a_sentence() {
        let token = vec![0; 256];
        let base = Config::default;
        for (config, said) in [
            (base().shards(65), "shards is 65, allowed are 1 to 64"),
            (
                base().max_peers(0),
                "max_peers is 0, allowed are 1 to 16769024",
            ),
            (
                base().outbox_messages(0),
                "outbox_messages is 0, allowed are 1 to 4194304",
            ),
            (
                base().outbox_bytes(1),
                "outbox_bytes is 1 byte, allowed are 65536 and more",
            ),
            (
                base().thread_name("ten letters"),
                "thread_name is 11 bytes, allowed are 1 to 10",
            ),
            (
                base().accept_tokens(vec!["x"; 17]),
                "accept_tokens has 17 tokens, allowed are 0 to 16",
            ),
            (
                base().accept_tokens([token.clone()]),
                "one of accept_tokens is 256 bytes, allowed are 1 to 255",
            ),
            (
                base().token(token),
                "token is 256 bytes, allowed are 0 to 255",
            ),
            (
                base().loop_cpus([0; 257]),
                "loop_cpus has 257 processors, allowed are 0 to 256",
            ),
            (
                base().loop_cpus([0, 1024]),
                "one of loop_cpus is 1024, allowed are 0 to 1023",
            ),
            (
                base().heartbeat(Duration::from_secs(2), Duration::from_secs(1)),
                "heartbeat_interval is 2000 ms, above heartbeat_timeout of 1000 ms",
            ),
        ] {
            assert_eq!(config.problems()[0].to_string(), said);
        }
        let addr = "127.0.0.1:1".parse().unwrap();
        let config = (0..65).fold(base(), |config, _| config.listen(addr));
        let said = "listen has 65 addresses, allowed are 0 to 64";
        assert_eq!(config.problems()[0].to_string(), said);
    }

    #[test]
    fn every_problem_is_told() {
        let config = Config::default()
            .max_payload(0)
            .max_peers(0)
            .outbox_messages(0);
        assert_eq!(config.problems().len(), 3);
    }
}
