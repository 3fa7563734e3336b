//! What a run draws before it begins: who there is, and who wants to be connected to whom.

use super::super::random::Random;
use crate::{
    frame::{Decoder, Hello},
    id::NodeId,
    peer::Rules,
};

pub(super) const PAYLOAD_SIZE_MAX: u32 = 20_000;

/// How long things take in a run, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) heartbeat: u64,
    pub(super) heartbeat_timeout: u64,
    pub(super) connect: u64,
    pub(super) reconnect_min: u64,
    pub(super) reconnect_max: u64,
    pub(super) write_stall: u64,
}

impl Times {
    pub(super) fn draw(random: &mut Random) -> Self {
        let heartbeat = random.pick(&[300, 500, 1_000]);
        Self {
            heartbeat,
            heartbeat_timeout: heartbeat * random.pick(&[2, 3]),
            connect: random.pick(&[1_000, 3_000]),
            reconnect_min: random.pick(&[20, 100]),
            reconnect_max: random.pick(&[400, 1_000, 2_000]),
            write_stall: random.pick(&[0, 10_000]),
        }
    }
}

/// One node, across its lives.
#[derive(Clone, Debug)]
pub(super) struct Who {
    pub(super) node_id: NodeId,
    pub(super) network_id: u32,
    pub(super) token: Vec<u8>,
    pub(super) accepts: Vec<Vec<u8>>,
    hello_required: bool,
}

impl Who {
    pub(super) fn requires_hello(&self) -> bool {
        self.hello_required || !self.accepts.is_empty()
    }

    fn takes(&self, token: &[u8]) -> bool {
        self.accepts.is_empty() || self.accepts.iter().any(|one| one == token)
    }

    /// Whether this node may dial the other one with HELLO.
    pub(super) fn may_dial(&self, other: &Self) -> bool {
        // An OK shows a token only where one was asked for.
        let shown: &[u8] = if other.accepts.is_empty() {
            &[]
        } else {
            &other.token
        };
        let known = !self.node_id.is_anonymous() && self.node_id == other.node_id;
        self.network_id == other.network_id
            && other.takes(&self.token)
            && self.takes(shown)
            && !known
    }

    pub(super) fn rules(&self, times: Times, seed: u64) -> Rules {
        let hello = Hello {
            network_id: self.network_id,
            node_id: self.node_id.0,
            payload_size_max: PAYLOAD_SIZE_MAX,
            token: &self.token,
            ..Hello::default()
        };
        let ok = Hello {
            token: if self.accepts.is_empty() {
                &[]
            } else {
                &self.token
            },
            ..hello.clone()
        };
        Rules {
            // Who says no HELLO may have nothing to say for a while.
            first_frame_ms: 60_000,
            frame_ms: 10_000,
            write_stall_ms: times.write_stall,
            connect_ms: times.connect,
            heartbeat_ms: times.heartbeat,
            heartbeat_timeout_ms: times.heartbeat_timeout,
            hello_required: self.requires_hello(),
            network_id: self.network_id,
            node_id: self.node_id,
            tokens: self.accepts.clone(),
            hello_payload: hello.to_payload(),
            ok_payload: ok.to_payload(),
            reconnect_min_ms: times.reconnect_min,
            reconnect_max_ms: times.reconnect_max,
            seed,
            ..Rules::lenient(Decoder::new(PAYLOAD_SIZE_MAX))
        }
    }
}

pub(super) fn draw_node_id(random: &mut Random) -> NodeId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&random.next().to_be_bytes());
    NodeId(id)
}

pub(super) fn draw_people(random: &mut Random) -> Vec<Who> {
    let count = random.pick(&[2, 3, 3, 4, 5]);
    let (strangers, anonymous) = (random.pick(&[0, 0, 200]), random.pick(&[0, 0, 300]));
    let required = random.pick(&[0, 500]);
    // Nobody asks for tokens, all for one, or each as it likes.
    let tokens = random.pick(&[0, 0, 1, 2]);
    let people = (0..count).map(|_| {
        let token = random.pick(&[b"one".as_slice(), b"two"]);
        let token = if tokens == 1 { b"one" } else { token };
        let accepts = match tokens {
            0 => Vec::new(),
            1 => vec![b"one".to_vec()],
            _ if random.chance(500) => Vec::new(),
            _ if random.chance(500) => vec![b"one".to_vec()],
            _ => vec![b"one".to_vec(), b"two".to_vec()],
        };
        Who {
            node_id: if random.chance(anonymous) {
                NodeId::ANONYMOUS
            } else {
                draw_node_id(random)
            },
            network_id: u32::from(random.chance(strangers)),
            token: token.to_vec(),
            accepts,
            hello_required: random.chance(required),
        }
    });
    people.collect()
}

/// A link that somebody asks for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish {
    pub(super) from: usize,
    /// A number of nobody's is an address where nobody listens.
    pub(super) to: usize,
    pub(super) hello: bool,
    pub(super) keep: bool,
    /// The address of nobody is tried first.
    pub(super) detour: bool,
    /// Still asked for.
    pub(super) active: bool,
}

pub(super) fn draw_wishes(random: &mut Random, people: &[Who]) -> Vec<Wish> {
    let count = people.len();
    let mut pairs = Vec::new();
    match random.below(4) {
        // A chain.
        0 => pairs.extend((1..count).map(|to| (to - 1, to))),
        // Everybody dials everybody.
        1 => pairs.extend((0..count).flat_map(|one| (0..count).map(move |two| (one, two)))),
        // All dial one, which dials some of them.
        2 => {
            pairs.extend((1..count).map(|from| (from, 0)));
            pairs.extend((1..count).filter(|_| random.chance(500)).map(|to| (0, to)));
        }
        _ => {
            for _ in 0..random.between(1, 6) {
                pairs.push((random.below(count), random.below(count)));
            }
        }
    }
    let myself = random.pick(&[0, 0, 300]);
    pairs.retain(|(from, to)| from != to || random.chance(myself));
    let twice = random.pick(&[0, 0, 300]);
    let doubles: Vec<_> = pairs
        .iter()
        .copied()
        .filter(|_| random.chance(twice))
        .collect();
    pairs.extend(doubles);
    if random.chance(200) {
        pairs.push((random.below(count), count + 7));
    }
    let plain = random.pick(&[0, 0, 300]);
    let (detours, fleeting) = (random.pick(&[0, 300]), random.pick(&[0, 0, 200]));
    let wishes = pairs.into_iter().map(|(from, to)| Wish {
        from,
        to,
        hello: !random.chance(plain),
        keep: !random.chance(fleeting),
        detour: random.chance(detours),
        active: true,
    });
    wishes.collect()
}
