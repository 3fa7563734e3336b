//! nebnet beside its peers and beside the limits of the machine, all in one run.
//!
//! `cargo bench --bench compare -- --json FILE --svg FILE` measures everything, in about fifteen
//! minutes. `--workloads`, `--cells` and `--kinds` choose parts, `--rounds`, `--seconds` and
//! `--warm-up` how long. The method is in `docs/benchmarks.md`.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    reason = "a measuring program: it reads the clock, sleeps, and may end with a panic"
)]

mod bars;
mod cell;
mod chart;
mod json;
#[path = "../load/mod.rs"]
mod load;
mod options;
mod sample;
mod servers;
mod summary;
mod table;
mod workloads;

use options::Options;
use std::fs;
use std::process::ExitCode;
use summary::Summary;
use table::{Row, Table};
use workloads::Workload;

/// Rounds in which disturbed samples are taken again.
const EXTRA_ROUNDS: usize = 2;

fn main() -> ExitCode {
    load::raise_descriptor_limit();
    if load::run_if_child() {
        return ExitCode::SUCCESS;
    }
    sample::run_if_child();
    let options = match Options::from_args() {
        Ok(options) => options,
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::from(2);
        }
    };
    let mut tables = Vec::new();
    for (workload, cell) in &options.cells {
        let table = measure(workload, cell, &options);
        println!("{}", table.to_text());
        tables.push(table);
    }
    let judged = bars::judge(&tables);
    print!("{}", bars::to_text(&judged));
    if let Some(file) = &options.json {
        fs::write(file, json::of(&tables, &judged, &options)).unwrap();
    }
    if let Some(file) = &options.svg {
        fs::write(file, chart::of(&tables)).unwrap();
    }
    let summary = Summary::of(&tables, &judged);
    print!("{}", summary.to_text());
    summary.exit_code()
}

/// Takes every kind in turn, round by round, each time with a fresh server and a fresh client.
/// Odd rounds go backwards, so that a drift of the machine does not favour a place in the list.
///
/// Up to [`EXTRA_ROUNDS`] follow for those that other programs have disturbed. At once would often
/// be too early: what disturbs lasts for seconds.
fn measure(workload: &'static Workload, cell: &str, options: &Options) -> Table {
    let suited = options.kinds.iter();
    let suited = suited.filter(|kind| workload.suits(kind, cell));
    let mut rows: Vec<_> = suited.map(|kind| Row::new(kind)).collect();
    for round in 0..options.rounds + EXTRA_ROUNDS {
        let mut order: Vec<_> = (0..rows.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for index in order {
            let row = &mut rows[index];
            if row.wants(round, options.rounds) {
                row.add(sample::take(workload, cell, row.kind, options.times));
            }
        }
    }
    Table {
        workload,
        cell: cell.to_owned(),
        rows,
    }
}
