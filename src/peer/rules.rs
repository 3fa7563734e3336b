//! The rules that settings make.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher as _, Hasher as _},
};

use super::Rules;
use crate::{
    clock::ticks_of_timeout,
    config::Config,
    frame::{Decoder, Hello},
    limits::DRAIN_MS,
};

impl Rules {
    pub(crate) fn of(config: &Config) -> Self {
        let hello = Hello {
            network_id: config.network_id,
            node_id: config.node_id.0,
            payload_size_max: config.max_payload,
            agent: &config.agent,
            token: config.token.bytes(),
            ..Hello::default()
        };
        // Whoever need not show a token is not shown ours.
        let checks_tokens = !config.accept_tokens.is_empty();
        let ok = Hello {
            token: if checks_tokens { hello.token } else { &[] },
            ..hello.clone()
        };
        Self {
            decoder: Decoder::new(config.max_payload)
                .with_checksums_required(config.require_checksums),
            first_frame_ms: ticks_of_timeout(config.first_frame_timeout),
            frame_ms: ticks_of_timeout(config.frame_timeout),
            idle_ms: ticks_of_timeout(config.idle_timeout),
            write_stall_ms: ticks_of_timeout(config.write_stall_timeout),
            drain_ms: DRAIN_MS,
            connect_ms: ticks_of_timeout(config.connect_timeout),
            heartbeat_ms: ticks_of_timeout(config.heartbeat_interval),
            heartbeat_timeout_ms: ticks_of_timeout(config.heartbeat_timeout),
            hello_required: config.require_hello || checks_tokens,
            checksums: config.checksums,
            network_id: config.network_id,
            node_id: config.node_id,
            tokens: config
                .accept_tokens
                .iter()
                .map(|token| token.bytes().to_vec())
                .collect(),
            hello_payload: hello.to_payload(),
            ok_payload: ok.to_payload(),
            reconnect_min_ms: ticks_of_timeout(config.reconnect_min),
            reconnect_max_ms: ticks_of_timeout(config.reconnect_max),
            // The standard library seeds its hashers from the system.
            seed: RandomState::new().build_hasher().finish(),
        }
    }

    /// The rules of other settings. How long a connection may drain stays: a stop may have set it.
    pub(crate) fn change_to(&mut self, config: &Config) {
        *self = Self {
            drain_ms: self.drain_ms,
            seed: self.seed,
            ..Self::of(config)
        };
    }
}
