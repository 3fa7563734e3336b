//! What is asked of a server: one file for each way to measure.

mod broadcast;
mod flow;
mod idle;
mod meter;
mod paced;
mod round_trip;

use crate::cell::Cell;
use crate::sample::{Absent, Sample, Times};
use crate::servers::{Kind, Order, Server};
use std::time::{Duration, Instant};
use std::{fmt, thread};

/// One sort of load, in several cells.
pub(crate) struct Workload {
    pub(crate) name: &'static str,
    /// What is sent, for the heading.
    pub(crate) about: &'static str,
    /// The cells of a whole run.
    pub(crate) cells: &'static [&'static str],
    /// What a cell's name consists of, and what the rest of the cell is.
    letters: &'static str,
    base: Cell,
    /// The first is what kinds are ordered by.
    pub(crate) columns: &'static [Column],
    order: fn(&Cell) -> Order,
    pub(crate) measure: fn(&Kind, &Cell, Times) -> Result<Sample, Absent>,
}

/// One figure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Column {
    pub(crate) name: &'static str,
    pub(crate) more_is_better: bool,
}

const fn more(name: &'static str) -> Column {
    Column {
        name,
        more_is_better: true,
    }
}

const fn less(name: &'static str) -> Column {
    Column {
        name,
        more_is_better: false,
    }
}

pub(crate) static WORKLOADS: [Workload; 8] = [
    flow::INGEST,
    flow::VARIED,
    flow::FAN_OUT,
    flow::MIXED,
    round_trip::ROUND_TRIP,
    idle::IDLE,
    broadcast::BROADCAST,
    paced::PACED,
];

pub(crate) fn find(name: &str) -> Option<&'static Workload> {
    WORKLOADS.iter().find(|workload| workload.name == name)
}

impl Workload {
    pub(crate) fn cell(&self, name: &str) -> Option<Cell> {
        Cell::from_name(name, self.letters, self.base)
    }

    /// Whether a kind takes part in a cell.
    pub(crate) fn suits(&self, kind: &Kind, cell: &str) -> bool {
        self.cell(cell)
            .is_some_and(|cell| (kind.does)(&(self.order)(&cell)))
    }

    pub(crate) fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }
}

impl fmt::Debug for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workload")
            .field("name", &self.name)
            .finish()
    }
}

fn start(kind: &Kind, order: &Order) -> Result<Server, Absent> {
    (kind.start)(order).map_err(Absent::Unavailable)
}

/// Waits until a server has accepted so many connections; false if it does not in time.
fn wait_for_connections(server: &Server, count: usize) -> bool {
    let started = Instant::now();
    while (server.connections)() < count as u64 {
        if started.elapsed() > Duration::from_secs(30) {
            return false;
        }
        thread::sleep(Duration::from_micros(200));
    }
    true
}
