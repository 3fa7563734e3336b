//! What every peer is held to, and how settings make it.

use std::{
    collections::hash_map::RandomState,
    hash::{BuildHasher as _, Hasher as _},
};

use subtle::{Choice, ConstantTimeEq};

use crate::{
    clock::ticks_of_timeout,
    config::Config,
    frame::{Decoder, Hello},
    id::NodeId,
    limits::{DRAIN_MS, TOKEN_SIZE_MAX},
};

/// What every peer of a service is held to: its settings, as a loop needs them. Times are in
/// milliseconds; zero is off.
#[derive(Debug)]
pub(crate) struct Rules {
    pub(crate) decoder: Decoder,
    pub(crate) first_frame_ms: u64,
    pub(crate) frame_ms: u64,
    pub(crate) idle_ms: u64,
    pub(crate) write_stall_ms: u64,
    pub(crate) drain_ms: u64,
    /// For a connection that we make, and then for its OK.
    pub(crate) connect_ms: u64,
    /// Silence after which a PING is sent, and after which the peer is dead.
    pub(crate) heartbeat_ms: u64,
    pub(crate) heartbeat_timeout_ms: u64,
    pub(crate) hello_required: bool,
    /// Our own frames of the protocol carry a checksum.
    pub(crate) checksums: bool,
    pub(crate) network_id: u32,
    pub(crate) node_id: NodeId,
    /// What a peer has to show one of; none is needed if there is none.
    pub(crate) tokens: Vec<Vec<u8>>,
    /// The payloads of our HELLO and of our OK.
    pub(crate) hello_payload: Vec<u8>,
    pub(crate) ok_payload: Vec<u8>,
    /// Pauses of links: the first, and the longest. The seed is what they are drawn from.
    pub(crate) reconnect_min_ms: u64,
    pub(crate) reconnect_max_ms: u64,
    pub(crate) seed: u64,
}

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
        // A peer that need not show a token is not shown ours.
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

impl Rules {
    /// No deadlines and nothing required.
    #[cfg(any(test, fuzzing, feature = "workbench"))]
    pub(crate) fn lenient(decoder: Decoder) -> Self {
        Self {
            decoder,
            first_frame_ms: 0,
            frame_ms: 0,
            idle_ms: 0,
            write_stall_ms: 0,
            drain_ms: 1_000,
            connect_ms: 5_000,
            heartbeat_ms: 0,
            heartbeat_timeout_ms: 0,
            hello_required: false,
            checksums: false,
            network_id: 0,
            node_id: NodeId::ANONYMOUS,
            tokens: Vec::new(),
            hello_payload: Hello::default().to_payload(),
            ok_payload: Hello::default().to_payload(),
            reconnect_min_ms: 100,
            reconnect_max_ms: 30_000,
            seed: 1,
        }
    }

    /// Whether a token is one of ours. Takes as long for a wrong one as for a right one, whatever
    /// their lengths.
    pub(super) fn accepts_token(&self, token: &[u8]) -> bool {
        let shown = padded(token);
        let accepted = self.tokens.iter().map(|one| padded(one).ct_eq(&shown));
        accepted.fold(Choice::from(0), |all, one| all | one).into()
    }
}

/// A token and its length, in a form that has the same size for all.
fn padded(token: &[u8]) -> [u8; TOKEN_SIZE_MAX + 1] {
    let mut out = [0; TOKEN_SIZE_MAX + 1];
    let size = token.len().min(TOKEN_SIZE_MAX);
    out[..size].copy_from_slice(&token[..size]);
    out[TOKEN_SIZE_MAX] = u8::try_from(size).unwrap_or(u8::MAX);
    out
}
