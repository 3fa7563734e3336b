//! Judges settings: each by itself, and those that bound each other.

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

    /// Everything that is wrong with the settings.
    #[must_use]
    pub fn problems(&self) -> Vec<ConfigError> {
        let mut problems = Vec::new();
        let block = limits::BLOCK_SIZE as u64;
        let budget = self.memory_budget as u64;
        let queue = limits::QUEUE_MESSAGES_MAX_CEILING as u64;
        let token_size = limits::TOKEN_SIZE_MAX as u64;
        let tokens = self.accept_tokens.len() as u64;
        let buffer = u64::from(i32::MAX.unsigned_abs()) / 2;
        let ranges = [
            (
                "listen",
                self.listen.len() as u64,
                0,
                limits::LISTENERS_MAX as u64,
                "addresses",
            ),
            (
                "shards",
                self.shards as u64,
                1,
                limits::SHARDS_MAX as u64,
                "",
            ),
            (
                "max_payload",
                u64::from(self.max_payload),
                1,
                u64::from(limits::PAYLOAD_SIZE_MAX_CEILING),
                "bytes",
            ),
            (
                "max_peers",
                self.max_peers as u64,
                1,
                limits::PEERS_MAX_CEILING as u64,
                "",
            ),
            (
                "max_pending",
                self.max_pending as u64,
                0,
                limits::PEERS_MAX_CEILING as u64,
                "",
            ),
            (
                "outbox_bytes",
                self.outbox_bytes as u64,
                block,
                u64::MAX,
                "bytes",
            ),
            ("outbox_messages", self.outbox_messages as u64, 1, queue, ""),
            (
                "memory_budget",
                budget,
                limits::MEMORY_BUDGET_MIN as u64,
                u64::MAX / 4,
                "bytes",
            ),
            (
                "max_requests",
                self.max_requests as u64,
                1,
                limits::REQUESTS_MAX_CEILING as u64,
                "",
            ),
            (
                "dispatch_messages",
                self.dispatch_messages as u64,
                1,
                queue,
                "",
            ),
            (
                "dispatch_bytes",
                self.dispatch_bytes as u64,
                block,
                u64::MAX,
                "bytes",
            ),
            ("token", self.token.size(), 0, token_size, "bytes"),
            (
                "accept_tokens",
                tokens,
                0,
                limits::TOKENS_MAX as u64,
                "tokens",
            ),
            (
                "thread_name",
                self.thread_name.len() as u64,
                1,
                limits::THREAD_NAME_SIZE_MAX as u64,
                "bytes",
            ),
            ("send_buffer", self.send_buffer as u64, 0, buffer, "bytes"),
            ("recv_buffer", self.recv_buffer as u64, 0, buffer, "bytes"),
            (
                "notsent_lowat",
                self.notsent_lowat as u64,
                0,
                buffer,
                "bytes",
            ),
        ];
        for (setting, value, min, max, unit) in ranges {
            if !(min..=max).contains(&value) {
                problems.push(ConfigError::OutOfRange {
                    setting,
                    value,
                    min,
                    max,
                    unit,
                });
            }
        }
        self.note_cpus(&mut problems);
        for token in &self.accept_tokens {
            let (value, setting) = (token.size(), "accept_tokens");
            if !(1..=token_size).contains(&value) {
                problems.push(ConfigError::ElementOutOfRange {
                    setting,
                    value,
                    min: 1,
                    max: token_size,
                    unit: "bytes",
                });
            }
        }
        let timeouts = [
            ("first_frame_timeout", self.first_frame_timeout, 0),
            ("frame_timeout", self.frame_timeout, 0),
            ("idle_timeout", self.idle_timeout, 0),
            ("write_stall_timeout", self.write_stall_timeout, 0),
            ("tcp_user_timeout", self.tcp_user_timeout, 0),
            ("connect_timeout", self.connect_timeout, 1),
            ("reconnect_min", self.reconnect_min, 1),
            ("reconnect_max", self.reconnect_max, 1),
            ("heartbeat_interval", self.heartbeat_interval, 0),
            ("heartbeat_timeout", self.heartbeat_timeout, 0),
        ];
        for (setting, timeout, min) in timeouts {
            let (value, max) = (ticks_of_timeout(timeout), limits::TIMEOUT_MS_CEILING);
            if !(min..=max).contains(&value) {
                let unit = "ms";
                problems.push(ConfigError::OutOfRange {
                    setting,
                    value,
                    min,
                    max,
                    unit,
                });
            }
        }
        let ms = ticks_of_timeout;
        let mut orders = vec![("reconnect_min", ms(self.reconnect_min), "reconnect_max")];
        if !self.heartbeat_timeout.is_zero() {
            let interval = ms(self.heartbeat_interval);
            orders.push(("heartbeat_interval", interval, "heartbeat_timeout"));
        }
        for (setting, value, bound) in orders {
            let limit = match bound {
                "reconnect_max" => ms(self.reconnect_max),
                _ => ms(self.heartbeat_timeout),
            };
            if value > limit {
                let unit = "ms";
                problems.push(ConfigError::Exceeds {
                    setting,
                    value,
                    bound,
                    limit,
                    unit,
                });
            }
        }
        let bounds = [
            ("max_payload", u64::from(self.max_payload)),
            ("outbox_bytes", self.outbox_bytes as u64),
            ("dispatch_bytes", self.dispatch_bytes as u64),
        ];
        for (setting, value) in bounds {
            if value > budget {
                let (bound, limit, unit) = ("memory_budget", budget, "bytes");
                problems.push(ConfigError::Exceeds {
                    setting,
                    value,
                    bound,
                    limit,
                    unit,
                });
            }
        }
        problems
    }

    fn note_cpus(&self, problems: &mut Vec<ConfigError>) {
        let lists = [
            ("loop_cpus", &self.loop_cpus),
            ("dispatcher_cpus", &self.dispatcher_cpus),
        ];
        for (setting, cpus) in lists {
            let (value, max) = (cpus.len() as u64, limits::CPUS_MAX as u64);
            if value > max {
                problems.push(ConfigError::OutOfRange {
                    setting,
                    value,
                    min: 0,
                    max,
                    unit: "processors",
                });
            }
            let highest = cpus.iter().max().copied().unwrap_or(0) as u64;
            if highest > limits::CPU_MAX as u64 {
                problems.push(ConfigError::ElementOutOfRange {
                    setting,
                    value: highest,
                    min: 0,
                    max: limits::CPU_MAX as u64,
                    unit: "",
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
