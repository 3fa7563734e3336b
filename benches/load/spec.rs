//! What a client is to do, as it is handed over in the environment.

use std::net::SocketAddr;

/// How a client tells frames apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Framing {
    /// nebnet's: four bytes of length.
    #[default]
    Fixed,
    /// message-io's: a length of one to three bytes, seven bits in each. Type, flags and version
    /// follow as in the other, so that both carry the same.
    Varint,
}

/// Which client this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Writes pre-encoded frames over all connections as fast as they are taken.
    Flood,
    /// Writes a given number of messages a second, each with a call of its own.
    Paced,
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

/// The client's order, `mode=flood,addr=127.0.0.1:1,connections=16,payload=16` and so on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spec {
    pub(crate) mode: Mode,
    pub(crate) addr: SocketAddr,
    pub(crate) connections: usize,
    /// Bytes of payload in a message: at least 8, which carry its number.
    pub(crate) payload: usize,
    pub(crate) framing: Framing,
    /// How many types the messages have, one after the other.
    pub(crate) types: usize,
    /// Whether payloads are as long as `payload` says on average only.
    pub(crate) varied: bool,
    /// Messages a second, of one that is paced.
    pub(crate) rate: u64,
}

impl Spec {
    fn new(mode: Mode, addr: SocketAddr, connections: usize, payload: usize) -> Self {
        Self {
            mode,
            addr,
            connections,
            payload,
            framing: Framing::Fixed,
            types: 1,
            varied: false,
            rate: 0,
        }
    }

    pub(crate) fn flood(addr: SocketAddr, connections: usize, payload: usize) -> Self {
        Self::new(Mode::Flood, addr, connections, payload)
    }

    pub(crate) fn paced(addr: SocketAddr, connections: usize, payload: usize, rate: u64) -> Self {
        Self {
            rate,
            ..Self::new(Mode::Paced, addr, connections, payload)
        }
    }

    pub(crate) fn round_trip(addr: SocketAddr, payload: usize) -> Self {
        Self::new(Mode::RoundTrip, addr, 1, payload)
    }

    pub(crate) fn receive(addr: SocketAddr, connections: usize, payload: usize) -> Self {
        Self::new(Mode::Receive, addr, connections, payload)
    }

    pub(crate) fn idle(addr: SocketAddr, connections: usize) -> Self {
        Self::new(Mode::Idle, addr, connections, 8)
    }

    /// Clients that ask to be fed.
    pub(crate) fn taking(mode: Mode, addr: SocketAddr, connections: usize) -> Self {
        Self::new(mode, addr, connections, 8)
    }

    pub(crate) fn framing(self, framing: Framing) -> Self {
        Self { framing, ..self }
    }

    pub(crate) fn types(self, types: usize) -> Self {
        Self { types, ..self }
    }

    pub(crate) fn varied(self, varied: bool) -> Self {
        Self { varied, ..self }
    }

    pub(crate) fn to_text(self) -> String {
        let mode = match self.mode {
            Mode::Flood => "flood",
            Mode::Paced => "paced",
            Mode::RoundTrip => "round-trip",
            Mode::Receive => "receive",
            Mode::Idle => "idle",
            Mode::Never => "never",
            Mode::Trickle => "trickle",
            Mode::Pausing => "pausing",
        };
        let framing = match self.framing {
            Framing::Fixed => "fixed",
            Framing::Varint => "varint",
        };
        let Self {
            addr,
            connections,
            payload,
            types,
            varied,
            rate,
            ..
        } = self;
        format!(
            "mode={mode},addr={addr},connections={connections},payload={payload},\
             framing={framing},types={types},varied={varied},rate={rate}"
        )
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
            "paced" => Mode::Paced,
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
            framing: match value("framing") {
                "varint" => Framing::Varint,
                _ => Framing::Fixed,
            },
            types: value("types").parse().unwrap(),
            varied: value("varied").parse().unwrap(),
            rate: value("rate").parse().unwrap(),
        }
    }
}
