//! What fuzzers call: any settings at all.

use std::time::Duration;

use super::Config;
use crate::{error::ConfigError, script::Script};

/// Settings of any values, in any order: what is wrong with them is said once and is true, and if
/// nothing is, they are what the documentation allows.
pub(crate) fn config(data: &[u8]) {
    let mut script = Script::new(data);
    let mut config = Config::default();
    for _ in 0..64 {
        if script.is_empty() {
            break;
        }
        config = set(config, &mut script);
    }
    let problems = config.problems();
    assert_eq!(config.validate().err(), problems.first().cloned());
    assert_eq!(problems.is_empty(), is_legal(&config), "{config:?}");
    for problem in &problems {
        match *problem {
            ConfigError::OutOfRange {
                value, min, max, ..
            }
            | ConfigError::ElementOutOfRange {
                value, min, max, ..
            } => assert!(min <= max && !(min..=max).contains(&value)),
            ConfigError::Exceeds { value, limit, .. } => assert!(value > limit),
        }
        let text = problem.to_string();
        assert!(!text.is_empty() && !text.contains('\n'));
    }
    // A second look finds the same.
    assert_eq!(config.clone().problems(), problems);
}

/// What the documentation of each setting says, in the order of the settings.
fn is_legal(config: &Config) -> bool {
    let budget = config.memory_budget;
    let year = Duration::from_secs(365 * 24 * 3600);
    let timeouts = [
        config.first_frame_timeout,
        config.frame_timeout,
        config.idle_timeout,
        config.write_stall_timeout,
        config.tcp_user_timeout,
        config.connect_timeout,
        config.reconnect_min,
        config.reconnect_max,
        config.heartbeat_interval,
        config.heartbeat_timeout,
    ];
    let at_least_a_tick = [
        config.connect_timeout,
        config.reconnect_min,
        config.reconnect_max,
    ];
    let is_off = config.heartbeat_timeout.is_zero();
    let tokens = &config.accept_tokens;
    config.listen.len() <= 64
        && (1..=64).contains(&config.shards)
        && (1..=256 << 20).contains(&config.max_payload)
        && config.max_payload as usize <= budget
        && (1..=(1 << 24) - 8192).contains(&config.max_peers)
        && config.max_pending <= (1 << 24) - 8192
        && timeouts.iter().all(|timeout| *timeout <= year)
        && at_least_a_tick.iter().all(|timeout| !timeout.is_zero())
        && ticks(config.reconnect_min) <= ticks(config.reconnect_max)
        && (is_off || ticks(config.heartbeat_interval) <= ticks(config.heartbeat_timeout))
        && config.send_buffer < 1 << 30
        && config.recv_buffer < 1 << 30
        && config.notsent_lowat < 1 << 30
        && (64 << 10..=budget).contains(&config.outbox_bytes)
        && (1..=1 << 22).contains(&config.outbox_messages)
        && (1 << 20..=usize::MAX / 4).contains(&budget)
        && (1..=1 << 22).contains(&config.max_requests)
        && config.token.size() <= 255
        && tokens.len() <= 16
        && tokens.iter().all(|token| (1..=255).contains(&token.size()))
        && (1..=1 << 22).contains(&config.dispatch_messages)
        && (64 << 10..=budget).contains(&config.dispatch_bytes)
}

fn ticks(duration: Duration) -> u128 {
    duration.as_nanos().div_ceil(1_000_000)
}

fn set(config: Config, script: &mut Script<'_>) -> Config {
    match script.below(27) {
        0 => config.listen(([127, 0, 0, 1], u16::from(script.byte())).into()),
        1 => config.listen_nowhere(),
        2 => config.max_payload(u32::try_from(count(script)).unwrap_or(u32::MAX)),
        3 => config.max_peers(count(script)),
        4 => config.max_peers_per_addr(count(script)),
        5 => config.first_frame_timeout(time(script)),
        6 => config.frame_timeout(time(script)),
        7 => config.idle_timeout(time(script)),
        8 => config.write_stall_timeout(time(script)),
        9 => config.tcp_user_timeout(time(script)),
        10 => config.connect_timeout(time(script)),
        11 => config.reconnect(time(script), time(script)),
        12 => config.heartbeat(time(script), time(script)),
        13 => config.socket_buffers(count(script), count(script)),
        14 => config.outbox_bytes(count(script)),
        15 => config.outbox_messages(count(script)),
        16 => config.memory_budget(count(script)),
        17 => config.max_requests(count(script)),
        18 => config.dispatch_messages(count(script)),
        19 => config.dispatch_bytes(count(script)),
        20 => config.token(token(script)),
        21 => {
            let count = script.below(20);
            config.accept_tokens((0..count).map(|_| token(script)))
        }
        22 => config.node_id([script.byte(); 16]),
        23 => config.max_pending(count(script)),
        24 => config.checksums(script.below(2) == 1),
        25 => config.notsent_lowat(count(script)),
        _ => config.agent(String::from_utf8_lossy(token(script))),
    }
}

/// Any number, or one at the edge of a power of two.
fn count(script: &mut Script<'_>) -> usize {
    let number = match script.below(4) {
        0 => (1_u64 << script.below(64)).wrapping_add(u64::from(script.byte())),
        1 => (1_u64 << script.below(64)).wrapping_sub(u64::from(script.byte())),
        _ => script.number(),
    };
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn time(script: &mut Script<'_>) -> Duration {
    match script.below(8) {
        0 => Duration::MAX,
        1 => Duration::from_nanos(script.number()),
        2 => Duration::from_secs(script.number()),
        3 => Duration::from_secs(365 * 24 * 3600) + Duration::from_nanos(u64::from(script.byte())),
        _ => Duration::from_millis(script.number()),
    }
}

fn token<'a>(script: &mut Script<'a>) -> &'a [u8] {
    let size = usize::from(script.byte()) + script.below(3);
    script.take(size)
}
