//! Everything measured, with the machine.

use crate::bars::{Judged, Verdict};
use crate::options::Options;
use crate::sample::Sample;
use crate::table::{Row, Table};
use std::{fs, thread};

pub(crate) fn of(tables: &[Table], judged: &[Judged], options: &Options) -> String {
    let cores = thread::available_parallelism().map_or(0, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!(
        "{{\n  \"kernel\": {},\n  \"cores\": {cores},\n  \"rounds\": {},\n  \
         \"seconds\": {},\n  \"cells\": [\n{}\n  ],\n  \"bars\": [\n{}\n  ]\n}}\n",
        string(kernel.trim()),
        options.rounds,
        options.times.time.as_secs_f64(),
        join(tables.iter().map(of_table), ",\n"),
        join(judged.iter().map(of_judged), ",\n"),
    )
}

fn of_table(table: &Table) -> String {
    let workload = table.workload;
    format!(
        "    {{\"workload\": {}, \"cell\": {}, \"about\": {}, \"kinds\": [\n{}\n    ]}}",
        string(workload.name),
        string(&table.cell),
        string(workload.about),
        join(table.rows.iter().map(|row| of_row(table, row)), ",\n"),
    )
}

fn of_row(table: &Table, row: &Row) -> String {
    let list = |value: &dyn Fn(&Sample) -> f64| {
        let values = row.samples.iter().map(value);
        join(values.map(|value| format!("{value:.4}")), ", ")
    };
    let columns = table.workload.columns.iter().enumerate();
    let columns = columns.map(|(index, column)| {
        let values = list(&|sample| sample.values[index]);
        let median = row.column(index).map_or(0.0, |spread| spread.median);
        format!(
            "{}: {{\"median\": {median:.4}, \"samples\": [{values}]}}",
            string(column.name)
        )
    });
    let cores = [
        ("client cores", list(&|sample| sample.client_cores)),
        ("server cores", list(&|sample| sample.server_cores)),
        ("other cores", list(&|sample| sample.other_cores)),
    ];
    let cores = cores.map(|(name, values)| format!("{}: [{values}]", string(name)));
    let absent = row.absent.iter();
    let absent = absent.map(|absent| format!("\"absent\": {}", string(absent.reason())));
    let flaw = row.flaw().into_iter();
    let flaw = flaw.map(|flaw| format!("\"flaw\": {}", string(flaw.word())));
    let disturbed = row
        .samples
        .iter()
        .map(|sample| sample.is_disturbed.to_string());
    let head = [
        format!("\"kind\": {}", string(row.kind.name)),
        format!("\"verified\": {}", row.is_verified()),
        format!("\"disturbed\": [{}]", join(disturbed, ", ")),
    ];
    let head = head.into_iter().chain(absent).chain(flaw);
    let fields = head.chain(columns).chain(cores);
    format!("      {{{}}}", join(fields, ", "))
}

fn of_judged(judged: &Judged) -> String {
    let verdict = |name: &str, wanted: f64, verdict: &Result<Verdict, String>| {
        let outcome = match verdict {
            Ok(Verdict { ratio, is_met }) => {
                format!("\"ratio\": {ratio:.4}, \"is_met\": {is_met}")
            }
            Err(reason) => format!("\"not judged\": {}", string(reason)),
        };
        format!("{}: {{\"wanted\": {wanted}, {outcome}}}", string(name))
    };
    let rival = judged.rival.iter().flat_map(|(name, value)| {
        let name = format!("\"rival\": {}", string(name));
        [name, format!("\"rival value\": {value:.4}")]
    });
    let head = [
        format!("\"place\": {}", string(&judged.place)),
        format!("\"figure\": {}", string(judged.column)),
        format!("\"of\": {}", string(judged.ours)),
    ];
    let value = judged.value.iter();
    let value = value.map(|value| format!("\"value\": {value:.4}"));
    let verdicts = [
        verdict("bar", judged.wanted.0, &judged.bar),
        verdict("stretch", judged.wanted.1, &judged.stretch),
    ];
    let fields = head.into_iter().chain(value).chain(rival).chain(verdicts);
    format!("    {{{}}}", join(fields, ", "))
}

fn join(items: impl Iterator<Item = String>, between: &str) -> String {
    items.collect::<Vec<_>>().join(between)
}

/// Rust writes what JSON reads, as long as all of it can be printed.
fn string(text: &str) -> String {
    format!("{text:?}")
}
