//! From samples to a table and to JSON.

use crate::options::Options;
use crate::workloads::ingest::{Cell, Sample};
use std::fmt::Write;
use std::fs;

/// The kind that the others are divided by.
const REFERENCE: &str = "nebnet";

/// All samples of one kind in one cell.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) samples: Vec<Sample>,
}

impl Row {
    pub(crate) fn new(name: &'static str) -> Self {
        Self {
            name,
            samples: Vec::new(),
        }
    }

    fn sorted(&self, value: impl Fn(&Sample) -> f64) -> Vec<f64> {
        let mut values: Vec<_> = self.samples.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        values
    }

    fn median(&self, value: impl Fn(&Sample) -> f64) -> f64 {
        let values = self.sorted(value);
        let middle = values.len() / 2;
        if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        }
    }

    fn rate(&self) -> f64 {
        self.median(|sample| sample.rate)
    }

    fn rate_range(&self) -> (f64, f64) {
        let rates = self.sorted(|sample| sample.rate);
        (rates[0], rates[rates.len() - 1])
    }

    fn remark(&self) -> &'static str {
        let disturbed = self
            .samples
            .iter()
            .filter(|sample| sample.is_disturbed())
            .count();
        if !self.is_verified() {
            "  MESSAGES LOST"
        } else if disturbed > self.samples.len() / 2 {
            "  BUSY MACHINE"
        } else {
            ""
        }
    }

    fn is_verified(&self) -> bool {
        self.samples.iter().all(|sample| sample.verified)
    }
}

/// All kinds in one cell.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) cell: Cell,
    pub(crate) rows: Vec<Row>,
}

impl Table {
    pub(crate) fn is_verified(&self) -> bool {
        self.rows.iter().all(Row::is_verified)
    }

    pub(crate) fn to_text(&self) -> String {
        let Cell {
            connections,
            payload,
        } = self.cell;
        let mut text = format!(
            "{}: {connections} connections, {payload} bytes of payload\n\
             {:<16} {:>8} {:>18} {:>9} {:>7} {:>7} {:>7} {:>7} {:>7}\n",
            self.cell.name(),
            "",
            "M msg/s",
            "min..max",
            "of nebnet",
            "MB/s",
            "client",
            "server",
            "others",
            "ns/msg",
        );
        for row in &self.rows {
            let rate = row.rate();
            let (min, max) = row.rate_range();
            let range = format!("{:.2}..{:.2}", min / 1e6, max / 1e6);
            let ratio = self
                .reference()
                .map_or_else(|| "-".into(), |whole| format!("{:.2}", rate / whole));
            let server_cores = row.median(|sample| sample.server_cores);
            writeln!(
                text,
                "{:<16} {:>8.2} {range:>18} {ratio:>9} {:>7.0} {:>7.2} {server_cores:>7.2} \
                 {:>7.2} {:>7.1}{}",
                row.name,
                rate / 1e6,
                rate * self.cell.frame_size() as f64 / 1e6,
                row.median(|sample| sample.client_cores),
                row.median(|sample| sample.other_cores),
                row.median(|sample| sample.server_cores / sample.rate) * 1e9,
                row.remark(),
            )
            .unwrap();
        }
        text
    }

    fn reference(&self) -> Option<f64> {
        self.rows
            .iter()
            .find(|row| row.name == REFERENCE)
            .map(Row::rate)
    }

    fn to_json(&self) -> String {
        let rows = self.rows.iter().map(|row| {
            let list = |value: fn(&Sample) -> f64| {
                let values = row
                    .samples
                    .iter()
                    .map(|sample| format!("{:.3}", value(sample)));
                values.collect::<Vec<_>>().join(", ")
            };
            let (min, max) = row.rate_range();
            format!(
                "      {{\"kind\": \"{}\", \"median\": {:.0}, \"min\": {min:.0}, \
                 \"max\": {max:.0}, \
                 \"verified\": {}, \"rates\": [{}], \"client_cores\": [{}], \
                 \"server_cores\": [{}], \"other_cores\": [{}]}}",
                row.name,
                row.rate(),
                row.is_verified(),
                list(|sample| sample.rate.round()),
                list(|sample| sample.client_cores),
                list(|sample| sample.server_cores),
                list(|sample| sample.other_cores),
            )
        });
        format!(
            "    {{\"workload\": \"ingest\", \"cell\": \"{}\", \"connections\": {}, \
             \"payload\": {}, \"kinds\": [\n{}\n    ]}}",
            self.cell.name(),
            self.cell.connections,
            self.cell.payload,
            rows.collect::<Vec<_>>().join(",\n"),
        )
    }
}

/// Everything measured, with the machine; rates in messages a second.
pub(crate) fn to_json(tables: &[Table], options: &Options) -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let tables: Vec<_> = tables.iter().map(Table::to_json).collect();
    format!(
        "{{\n  \"kernel\": \"{}\",\n  \"cores\": {cores},\n  \"rounds\": {},\n  \
         \"seconds\": {},\n  \"cells\": [\n{}\n  ]\n}}\n",
        kernel.trim(),
        options.rounds,
        options.time.as_secs_f64(),
        tables.join(",\n"),
    )
}
