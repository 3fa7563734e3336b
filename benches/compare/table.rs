//! From samples to a table.

use crate::sample::{Absent, Sample};
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
    pub(crate) absent: Option<Absent>,
}

/// Why the figures of a row are not judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flaw {
    /// There are none, which is nobody's fault.
    Unavailable,
    Failed,
    Lost,
    /// No sample was quiet.
    Busy,
}

impl Flaw {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Unavailable => "not here",
            Self::Failed => "failed",
            Self::Lost => "lost messages",
            Self::Busy => "busy",
        }
    }
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

    pub(crate) fn add(&mut self, sample: Result<Sample, Absent>) {
        match sample {
            Ok(sample) => self.samples.push(sample),
            Err(absent) => self.absent = Some(absent),
        }
    }

    /// Whether a sample is to be taken in a round: after the rounds asked for, where some were
    /// disturbed. Never again where one was missing or wrong, which spoils the row.
    pub(crate) fn wants(&self, round: usize, rounds: usize) -> bool {
        let is_spoiled = self.absent.is_some() || !self.is_verified();
        !is_spoiled && (round < rounds || self.quiet_count() < rounds)
    }

    fn quiet_count(&self) -> usize {
        let quiet = self.samples.iter().filter(|sample| !sample.is_disturbed);
        quiet.count()
    }

    /// The samples that nothing disturbed, or all where there are none.
    fn counted(&self) -> impl Iterator<Item = &Sample> {
        let takes_all = self.quiet_count() == 0;
        let samples = self.samples.iter();
        samples.filter(move |sample| takes_all || !sample.is_disturbed)
    }

    /// To be shown, whatever it is worth; `None` if there is nothing.
    pub(crate) fn column(&self, column: usize) -> Option<Spread> {
        let values = self.counted().map(|sample| sample.values[column]);
        Spread::of(values).filter(|_| self.absent.is_none())
    }

    /// What can be judged.
    pub(crate) fn judged(&self, column: usize) -> Result<Spread, Flaw> {
        match self.flaw() {
            Some(flaw) => Err(flaw),
            None => self.column(column).ok_or(Flaw::Failed),
        }
    }

    pub(crate) fn flaw(&self) -> Option<Flaw> {
        match self.absent {
            Some(Absent::Unavailable(_)) => Some(Flaw::Unavailable),
            Some(Absent::Failed(_)) => Some(Flaw::Failed),
            None if !self.is_verified() => Some(Flaw::Lost),
            None if self.quiet_count() == 0 => Some(Flaw::Busy),
            None => None,
        }
    }

    fn median(&self, value: impl Fn(&Sample) -> f64) -> f64 {
        Spread::of(self.counted().map(value)).map_or(0.0, |spread| spread.median)
    }

    fn remark(&self) -> String {
        let disturbed = self.samples.len() - self.quiet_count();
        match self.flaw() {
            Some(Flaw::Lost) => "  MESSAGES LOST".to_owned(),
            Some(Flaw::Busy) => "  BUSY MACHINE".to_owned(),
            _ if disturbed > 0 => format!("  {disturbed} disturbed, left out"),
            _ => String::new(),
        }
    }

    pub(crate) fn is_verified(&self) -> bool {
        self.samples.iter().all(|sample| sample.verified)
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
        if let Some(absent) = &row.absent {
            return format!(" {}", absent.reason());
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
        text + &row.remark()
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
