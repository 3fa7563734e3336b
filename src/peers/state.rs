//! All that a loop knows of its connections: the [`Table`] of them, and what they have in common.
//!
//! The two are apart so that a connection is looked up once, and its steps take it as an argument
//! with [`Common`] beside it.

use std::{io, sync::Arc};

use rustix::io::Errno;

use super::{
    acknowledgement::Acknowledgement,
    admission::Admission,
    census::{Census, PeerLimits},
    connection::{Connection, Credit},
    deadlines::Deadlines,
    ended::Ended,
    handlers::Handling,
    input::Input,
    links::Links,
    losses::LossLog,
    node_registry::NodeRegistry,
    nodes::Nodes,
    pressure::Pressure,
    table::Table,
    told::Told,
    turn_lists::TurnLists,
};
use crate::{
    block::BlockPool, clock::Tick, error::CloseReason, ledger::TypeMap, peer::Rules, slots::Slots,
};

/// The connections of a loop.
///
/// It has more methods than others because they are the door: one for each thing that the event
/// loop says (`handle_*`) or asks (`poll_*`), most of them a look-up of the connection and one call
/// of [`Common`]. Those that are not are about several connections.
#[derive(Debug)]
pub(crate) struct Peers {
    pub(super) connections: Table,
    pub(crate) common: Common,
}

/// What the connections of a loop have in common, each part with its owner.
///
/// Its own methods are the steps of one connection, which need several of the parts. They are many
/// because they call each other: a step that reads may end in one that closes. So they are methods
/// of one type and stand in files by what they are about, with ranks; what one owner can do by
/// itself is a method of that owner.
#[derive(Debug)]
pub(crate) struct Common {
    pub(super) slots: Arc<Slots>,
    pub(super) rules: Rules,
    pub(super) credit: Credit,
    pub(super) type_map: TypeMap,
    pub(crate) lists: TurnLists,
    pub(crate) deadlines: Deadlines,
    pub(crate) told: Told,
    pub(crate) ended: Ended,
    pub(crate) input: Input,
    pub(crate) handling: Handling,
    pub(super) pressure: Pressure,
    pub(super) admission: Admission,
    pub(super) links: Links,
    pub(super) nodes: Nodes,
    pub(super) acknowledgement: Acknowledgement,
}

impl Peers {
    pub(crate) fn new(slots: Arc<Slots>, rules: Rules, limits: PeerLimits, now: Tick) -> Self {
        let outbox = slots.limits();
        let common = Common {
            credit: Credit {
                bytes: outbox.bytes,
                messages: outbox.messages,
            },
            type_map: TypeMap::default(),
            lists: TurnLists::default(),
            deadlines: Deadlines::new(now),
            told: Told::new(Arc::clone(&slots)),
            ended: Ended::default(),
            input: Input::new(BlockPool::new(Arc::clone(&slots))),
            handling: Handling::default(),
            pressure: Pressure::default(),
            admission: Admission::new(limits),
            links: Links::new(rules.seed),
            nodes: Nodes::default(),
            acknowledgement: Acknowledgement::default(),
            slots: Arc::clone(&slots),
            rules,
        };
        Self {
            connections: Table::new(slots),
            common,
        }
    }

    /// The same table beside those of other loops.
    pub(crate) fn shared_with(
        mut self,
        census: Arc<Census>,
        node_registry: Option<Arc<NodeRegistry>>,
    ) -> Self {
        self.common.ended.losses = LossLog::new(Arc::clone(&census.loss_lines));
        self.common.admission.census = census;
        self.common.nodes.registry = node_registry;
        self
    }
}

impl Common {
    /// Makes sure that the peer's timer is not later than its next deadline.
    pub(super) fn arm(&mut self, now: Tick, connection: &mut Connection) {
        self.deadlines.arm(now, connection, &self.rules);
    }
}

/// What the failure of a call says of a connection.
pub(super) fn io_reason(error: &io::Error) -> CloseReason {
    let kind = error.kind();
    let reset = matches!(
        kind,
        io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionAborted
    );
    // Keepalive and TCP_USER_TIMEOUT end in ETIMEDOUT, or in what a router said last.
    let stale = matches!(
        kind,
        io::ErrorKind::TimedOut
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::NetworkDown
    );
    if reset {
        CloseReason::Reset
    } else if stale || Errno::from_io_error(error) == Some(Errno::HOSTDOWN) {
        CloseReason::Stale
    } else {
        CloseReason::Io
    }
}
