//! What a run is worth.

use crate::bars::Judged;
use crate::table::{Flaw, Table};
use std::fmt::Write;
use std::process::ExitCode;

/// Something failed, or a message was lost.
const EXIT_FAILED: u8 = 1;
/// Nothing failed, but there are bars that were not judged.
const EXIT_NOT_JUDGED: u8 = 3;

#[derive(Debug)]
pub(crate) struct Summary {
    /// All rows, and those with a flaw: where, who and which.
    rows: usize,
    flaws: Vec<(String, Flaw)>,
    bars: usize,
    met: usize,
    not_judged: usize,
}

impl Summary {
    pub(crate) fn of(tables: &[Table], judged: &[Judged]) -> Self {
        let mut flaws = Vec::new();
        for table in tables {
            for row in &table.rows {
                let name = format!("{} {} {}", table.workload.name, table.cell, row.kind.name);
                flaws.extend(row.flaw().map(|flaw| (name, flaw)));
            }
        }
        let bars = || judged.iter().map(|row| &row.bar);
        Self {
            rows: tables.iter().map(|table| table.rows.len()).sum(),
            flaws,
            bars: judged.len(),
            met: bars().flatten().filter(|bar| bar.is_met).count(),
            not_judged: bars().filter(|bar| bar.is_err()).count(),
        }
    }

    fn named(&self, flaw: Flaw) -> Vec<&str> {
        let flaws = self.flaws.iter().filter(|(_, other)| *other == flaw);
        flaws.map(|(name, _)| &**name).collect()
    }

    pub(crate) fn to_text(&self) -> String {
        let mut text = format!("\n{} rows", self.rows);
        for flaw in [Flaw::Failed, Flaw::Lost, Flaw::Busy, Flaw::Unavailable] {
            write!(text, ", {} {}", self.named(flaw).len(), flaw.word()).unwrap();
        }
        let missed = self.bars - self.met - self.not_judged;
        writeln!(
            text,
            "\n{} bars, {} met, {missed} missed, {} not judged",
            self.bars, self.met, self.not_judged
        )
        .unwrap();
        for flaw in [Flaw::Failed, Flaw::Lost, Flaw::Busy] {
            for name in self.named(flaw) {
                writeln!(text, "{}: {name}", flaw.word()).unwrap();
            }
        }
        text
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        let is_failure = |(_, flaw): &(String, Flaw)| matches!(flaw, Flaw::Failed | Flaw::Lost);
        if self.flaws.iter().any(is_failure) {
            ExitCode::from(EXIT_FAILED)
        } else if self.not_judged > 0 {
            ExitCode::from(EXIT_NOT_JUDGED)
        } else {
            ExitCode::SUCCESS
        }
    }
}
