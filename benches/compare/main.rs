//! nebnet beside its peers and beside the limits of the machine, all in one run.
//!
//! `cargo bench --bench compare -- --cells c16p16,c1p256 --kinds nebnet,tokio-batch --rounds 7
//! --seconds 1 --json FILE`; every argument is optional. The method is in `docs/benchmarks.md`.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    reason = "a measuring program: it reads the clock, sleeps, and may end with a panic"
)]

#[path = "../load/mod.rs"]
mod load;
mod options;
mod servers;
mod table;
mod workloads;

use options::Options;
use std::fs;
use std::process::ExitCode;
use table::Row;
use workloads::ingest::Cell;

fn main() -> ExitCode {
    if load::run_if_child() {
        return ExitCode::SUCCESS;
    }
    let options = match Options::from_args() {
        Ok(options) => options,
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::from(2);
        }
    };
    let mut tables = Vec::new();
    for cell in &options.cells {
        let table = measure(cell, &options);
        println!("{}", table.to_text());
        tables.push(table);
    }
    if let Some(file) = &options.json {
        fs::write(file, table::to_json(&tables, &options)).unwrap();
    }
    if tables.iter().all(table::Table::is_verified) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Takes every kind in turn, round by round, each time with a fresh server and a fresh client.
/// Odd rounds go backwards, so that a drift of the machine does not favour a place in the list.
fn measure(cell: &Cell, options: &Options) -> table::Table {
    let mut rows: Vec<_> = options
        .kinds
        .iter()
        .map(|kind| Row::new(kind.name))
        .collect();
    for round in 0..options.rounds {
        let mut order: Vec<_> = (0..rows.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let sample = workloads::ingest::measure_quietly(options.kinds[index], cell, options);
            rows[index].samples.push(sample);
        }
    }
    table::Table { cell: *cell, rows }
}
