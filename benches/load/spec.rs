//! What a client is to do, as it is handed over in the environment.

use std::net::SocketAddr;

/// Which client this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Writes pre-encoded frames over all connections as fast as they are taken.
    Flood,
    /// Sends a message and waits for its answer, on one connection.
    RoundTrip,
    /// Reads what it is sent, on all connections.
    Receive,
    /// Opens its connections and keeps them.
    Idle,
    /// Asks to be fed, and never reads.
    Never,
    /// Asks to be fed, and reads 1 KiB each 50 ms.
    Trickle,
    /// Asks to be fed, and by turns reads nothing and everything.
    Pausing,
}

/// The client's order: `mode=flood,addr=127.0.0.1:1,connections=16,payload=16`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spec {
    pub(crate) mode: Mode,
    pub(crate) addr: SocketAddr,
    pub(crate) connections: usize,
    /// Bytes of payload in a message: at least 8, which carry its number.
    pub(crate) payload: usize,
}

impl Spec {
    pub(crate) fn flood(addr: SocketAddr, connections: usize, payload: usize) -> Self {
        Self {
            mode: Mode::Flood,
            addr,
            connections,
            payload,
        }
    }

    pub(crate) fn round_trip(addr: SocketAddr, payload: usize) -> Self {
        Self {
            mode: Mode::RoundTrip,
            addr,
            connections: 1,
            payload,
        }
    }

    pub(crate) fn receive(addr: SocketAddr, connections: usize, payload: usize) -> Self {
        Self {
            mode: Mode::Receive,
            addr,
            connections,
            payload,
        }
    }

    pub(crate) fn idle(addr: SocketAddr, connections: usize) -> Self {
        Self {
            mode: Mode::Idle,
            addr,
            connections,
            payload: 8,
        }
    }

    /// Clients that ask to be fed.
    pub(crate) fn taking(mode: Mode, addr: SocketAddr, connections: usize) -> Self {
        Self {
            mode,
            ..Self::idle(addr, connections)
        }
    }

    pub(crate) fn to_text(self) -> String {
        let mode = match self.mode {
            Mode::Flood => "flood",
            Mode::RoundTrip => "round-trip",
            Mode::Receive => "receive",
            Mode::Idle => "idle",
            Mode::Never => "never",
            Mode::Trickle => "trickle",
            Mode::Pausing => "pausing",
        };
        let Self {
            addr,
            connections,
            payload,
            ..
        } = self;
        format!("mode={mode},addr={addr},connections={connections},payload={payload}")
    }

    pub(crate) fn from_text(text: &str) -> Self {
        let value = |key: &str| {
            let mut pairs = text.split(',').filter_map(|pair| pair.split_once('='));
            pairs
                .find(|(name, _)| *name == key)
                .map(|(_, value)| value)
                .unwrap()
        };
        let mode = match value("mode") {
            "flood" => Mode::Flood,
            "round-trip" => Mode::RoundTrip,
            "receive" => Mode::Receive,
            "idle" => Mode::Idle,
            "never" => Mode::Never,
            "trickle" => Mode::Trickle,
            "pausing" => Mode::Pausing,
            other => panic!("unknown mode {other}"),
        };
        Self {
            mode,
            addr: value("addr").parse().unwrap(),
            connections: value("connections").parse().unwrap(),
            payload: value("payload").parse().unwrap(),
        }
    }
}
