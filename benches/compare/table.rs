//! From samples to a table.

use crate::sample::Sample;
use crate::servers::Kind;
use crate::workloads::Workload;
use std::fmt::Write;

/// The kind that the others are divided by.
pub(crate) const REFERENCE: &str = "nebnet";

/// All samples of one kind in one cell.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) kind: &'static Kind,
    pub(crate) samples: Vec<Sample>,
    /// Why there are none, or not all.
    pub(crate) absent: Option<String>,
}

/// The middle of some values, and how far they reach.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    pub(crate) min: f64,
    pub(crate) median: f64,
    pub(crate) max: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<_> = values.collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let (min, max) = (*values.first()?, *values.last()?);
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Some(Self { min, median, max })
    }
}

impl Row {
    pub(crate) fn new(kind: &'static Kind) -> Self {
        Self {
            kind,
            samples: Vec::new(),
            absent: None,
        }
    }

    /// `None` if there is no sample that can be relied on.
    pub(crate) fn column(&self, column: usize) -> Option<Spread> {
        let values = self.samples.iter().map(|sample| sample.values[column]);
        Spread::of(values).filter(|_| self.absent.is_none())
    }

    fn median(&self, value: impl Fn(&Sample) -> f64) -> f64 {
        Spread::of(self.samples.iter().map(value)).map_or(0.0, |spread| spread.median)
    }

    fn remark(&self) -> &'static str {
        let disturbed = self.samples.iter().filter(|sample| sample.is_disturbed());
        if !self.is_verified() {
            "  MESSAGES LOST"
        } else if disturbed.count() > self.samples.len() / 2 {
            "  BUSY MACHINE"
        } else {
            ""
        }
    }

    pub(crate) fn is_verified(&self) -> bool {
        self.samples.iter().all(|sample| sample.verified)
    }

    /// Whether a kind that was to be measured could not be, for a reason of its own.
    fn has_failed(&self) -> bool {
        let reason = self.absent.as_ref();
        reason.is_some_and(|reason| !reason.contains("here"))
    }
}

/// All kinds in one cell.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) workload: &'static Workload,
    pub(crate) cell: String,
    pub(crate) rows: Vec<Row>,
}

impl Table {
    /// Whether no message was lost, and nothing of ours failed.
    pub(crate) fn is_verified(&self) -> bool {
        let ours = |row: &Row| row.kind.name.starts_with(REFERENCE);
        self.rows
            .iter()
            .all(|row| row.is_verified() && !(ours(row) && row.has_failed()))
    }

    pub(crate) fn row(&self, kind: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.kind.name == kind)
    }

    pub(crate) fn to_text(&self) -> String {
        let Workload {
            name,
            about,
            columns,
            ..
        } = self.workload;
        let mut text = format!("{name} {}: {about}\n{:<16}", self.cell, "");
        for (index, column) in columns.iter().enumerate() {
            write!(text, " {:>15}", column.name).unwrap();
            if index == 0 {
                write!(text, " {:>19} {:>9}", "min..max", "of nebnet").unwrap();
            }
        }
        writeln!(text, " {:>7} {:>7} {:>7}", "client", "server", "others").unwrap();
        for row in &self.rows {
            writeln!(text, "{:<16}{}", row.kind.name, self.row_text(row)).unwrap();
        }
        text
    }

    fn row_text(&self, row: &Row) -> String {
        let mut text = String::new();
        if let Some(reason) = &row.absent {
            return format!(" {reason}");
        }
        for index in 0..self.workload.columns.len() {
            let Some(Spread { min, median, max }) = row.column(index) else {
                continue;
            };
            write!(text, " {:>15}", figure(median)).unwrap();
            if index == 0 {
                let range = format!("{}..{}", figure(min), figure(max));
                let whole = self.row(REFERENCE).and_then(|row| row.column(0));
                let ratio = whole.map_or_else(
                    || "-".into(),
                    |whole| format!("{:.2}", median / whole.median),
                );
                write!(text, " {range:>19} {ratio:>9}").unwrap();
            }
        }
        let cores = [
            row.median(|sample| sample.client_cores),
            row.median(|sample| sample.server_cores),
            row.median(|sample| sample.other_cores),
        ];
        for cores in cores {
            write!(text, " {cores:>7.2}").unwrap();
        }
        text + row.remark()
    }
}

/// Three digits that count.
pub(crate) fn figure(value: f64) -> String {
    let decimals = match value.abs() {
        100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        0.1.. => 3,
        _ => 4,
    };
    format!("{value:.decimals$}")
}
