//! One message to all connections.

use super::meter::Meter;
use super::{Workload, less, start, wait_for_connections};
use crate::cell::{Cell, PLAIN};
use crate::load::{HEADER_SIZE, Load, Spec, clock, payload};
use crate::sample::{Absent, Sample, Times};
use crate::servers::{Kind, Order, Role};
use std::thread;
use std::time::{Duration, Instant};

pub(super) const BROADCAST: Workload = Workload {
    name: "broadcast",
    about: "one message of 256 bytes to c connections: the call, and until the last has it",
    cells: &["c1000"],
    letters: "c",
    base: Cell {
        payload: 256,
        ..PLAIN
    },
    columns: &[less("last has it, us"), less("call, ns each")],
    order,
    measure,
};

const WARM_UP_ROUNDS: usize = 3;
const ROUNDS: usize = 15;
/// For everybody to have gone to sleep between two rounds.
const PAUSE: Duration = Duration::from_millis(10);

fn order(cell: &Cell) -> Order {
    Order {
        idle_connections: cell.connections,
        ..Order::new(Role::Broadcast, HEADER_SIZE + cell.payload)
    }
}

fn measure(kind: &Kind, cell: &Cell, _: Times) -> Result<Sample, Absent> {
    let mut server = start(kind, &order(cell))?;
    let spec = Spec::receive(server.addr, cell.connections, cell.payload);
    let mut load = Load::start(spec.framing(kind.framing));
    if !wait_for_connections(&server, cell.connections) {
        return Err(Absent::Failed(
            "it did not accept all connections".to_owned(),
        ));
    }
    let broadcast = server.broadcast.as_mut().unwrap();
    let mut verified = true;
    let (mut lasts, mut calls) = (Vec::new(), Vec::new());
    let (mut meter, mut client) = (Meter::start(), Duration::ZERO);
    for round in 0..WARM_UP_ROUNDS + ROUNDS {
        if round == WARM_UP_ROUNDS {
            (lasts, calls) = Default::default();
            (meter, client) = (Meter::start(), Duration::ZERO);
        }
        // The client compares what comes with the same, after it has looked at the clock.
        let payload = payload(round as u64 + 1, cell.payload);
        load.go(1);
        thread::sleep(PAUSE);
        let (begin, called) = (clock(), Instant::now());
        broadcast(&payload);
        calls.push(called.elapsed().as_nanos() as f64 / cell.connections as f64);
        let report = load.report();
        lasts.push((report.wall - begin).as_nanos() as f64 / 1e3);
        client += report.cpu;
        verified &= report.connections == cell.connections as u64;
    }
    let spent = meter.stop();
    thread::sleep(PAUSE);
    load.go(0);
    let right = load.report().connections;
    verified &= right == cell.connections as u64;
    if !verified {
        let Kind { name, .. } = kind;
        eprintln!(
            "{name}: {right} of {} have received every message once and in order",
            cell.connections
        );
    }
    let client_cores = client.as_secs_f64() / spent.seconds;
    Ok(spent.sample(vec![median(lasts), median(calls)], client_cores, verified))
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
