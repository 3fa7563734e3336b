//! Connections that say nothing: what each costs, and how fast they come.

use super::meter::Meter;
use super::{Workload, less, more, start, wait_for_connections};
use crate::cell::{Cell, PLAIN};
use crate::load::{HEADER_SIZE, Load, Spec, clock};
use crate::sample::{Absent, Sample, Times};
use crate::servers::{Kind, Order, Role};
use std::time::Duration;
use std::{fs, thread};

pub(super) const IDLE: Workload = Workload {
    name: "idle",
    about: "n connections that send nothing: memory of each, and how fast they are accepted",
    cells: &["n1000", "n5000", "n10000"],
    letters: "n",
    base: PLAIN,
    columns: &[less("KiB each"), more("k conn/s")],
    order,
    measure,
};

/// For a server to have finished what it does at its start, or behind a burst of connections.
const PAUSE: Duration = Duration::from_millis(50);

fn order(cell: &Cell) -> Order {
    Order {
        idle_connections: cell.idle,
        ..Order::new(Role::Count, HEADER_SIZE + cell.payload)
    }
}

fn measure(kind: &Kind, cell: &Cell, _: Times) -> Result<Sample, Absent> {
    let server = start(kind, &order(cell))?;
    thread::sleep(PAUSE);
    let memory = resident_size();
    let meter = Meter::start();
    let mut load = Load::start(Spec::idle(server.addr, cell.idle));
    let verified = wait_for_connections(&server, cell.idle);
    let (end, spent) = (clock(), meter.stop());
    let client = load.since();
    let seconds = (end - client.wall).as_secs_f64();
    thread::sleep(PAUSE);
    let growth = resident_size().saturating_sub(memory);

    let values = vec![
        growth as f64 / 1024.0 / cell.idle as f64,
        cell.idle as f64 / seconds / 1e3,
    ];
    let client_cores = client.cpu.as_secs_f64() / spent.seconds;
    Ok(spent.sample(values, client_cores, verified))
}

/// Bytes of this process that are in memory.
fn resident_size() -> u64 {
    let pages = fs::read_to_string("/proc/self/statm").unwrap();
    let resident: u64 = pages.split(' ').nth(1).unwrap().parse().unwrap();
    resident * rustix::param::page_size() as u64
}
