//! What nebnet is to reach, beside what it did.

use crate::servers::Class;
use crate::table::{Flaw, REFERENCE, Row, Table, figure};
use std::fmt::Write;
use std::iter;

/// What a figure is divided by.
#[derive(Clone, Copy, Debug)]
enum Rival {
    /// The best of the peers; for the stretch, io_uring is one of them.
    Peers,
    /// One kind.
    Kind(&'static str),
    /// Nothing: the figure itself is judged.
    Nobody,
}

/// A figure of some cells, with what it is to be at least, or at most where less is better.
#[derive(Clone, Copy, Debug)]
struct Bar {
    workload: &'static str,
    cells: &'static [&'static str],
    column: &'static str,
    ours: &'static str,
    rival: Rival,
    bar: f64,
    stretch: f64,
}

const fn bar(
    workload: &'static str,
    cells: &'static [&'static str],
    column: &'static str,
    bar: f64,
    stretch: f64,
) -> Bar {
    Bar {
        workload,
        cells,
        column,
        ours: REFERENCE,
        rival: Rival::Peers,
        bar,
        stretch,
    }
}

const fn of_walk(cells: &'static [&'static str], least: f64, stretch: f64) -> Bar {
    Bar {
        rival: Rival::Kind("limit-walk"),
        ..bar("ingest", cells, "M msg/s", least, stretch)
    }
}

const IDLE_BESIDE: &[&str] = &["i256", "i5000"];
const PACES: &[&str] = &["r1000", "r10000", "r50000"];
const IDLE: &[&str] = &["n1000", "n5000", "n10000"];
const SMALL: &[&str] = &["c1p16", "c16p16", "c1p256", "c16p256"];

/// The same for two loops, which are as many as the runtimes beside them have workers.
const fn of_loops(bar: Bar) -> Bar {
    Bar {
        ours: "nebnet-loops",
        ..bar
    }
}

static BARS: [Bar; 28] = [
    bar(
        "ingest",
        &["c1p16", "c16p16", "c256p16"],
        "M msg/s",
        2.7,
        4.0,
    ),
    bar("ingest", &["c1p256", "c16p256"], "M msg/s", 2.2, 3.0),
    bar("ingest", &["c1p4096", "c16p4096"], "M msg/s", 1.0, 1.3),
    of_walk(&["c256p256", "c256p4096"], 0.9, 1.0),
    of_walk(&["c16p16"], 0.3, 0.5),
    of_walk(&["c16p256"], 0.7, 0.9),
    of_walk(&["c16p4096"], 0.65, 0.85),
    bar("ingest", SMALL, "CPU s/M", 0.4, 0.25),
    of_loops(bar("ingest", &["c16p256"], "M msg/s", 2.2, 3.0)),
    of_loops(bar("ingest", &["c16p4096"], "M msg/s", 1.0, 1.3)),
    of_loops(of_walk(&["c256p256", "c256p4096"], 0.9, 1.0)),
    of_loops(bar("ingest", &["c16p256"], "CPU s/M", 0.4, 0.25)),
    bar("fan-out", &["s1"], "M msg/s", 3.5, 4.5),
    bar("fan-out", &["s8"], "M msg/s", 2.0, 3.5),
    bar("fan-out", &["s64"], "M msg/s", 1.2, 1.7),
    bar("mixed", &["t64s8"], "M msg/s", 2.5, 3.5),
    bar("round-trip", &["i0"], "p50 us", 0.5, 0.37),
    bar("round-trip", &["i0"], "p99 us", 0.7, 0.4),
    bar("round-trip", &["i0"], "p99.9 us", 0.9, 0.5),
    bar("round-trip", IDLE_BESIDE, "p50 us", 0.6, 0.37),
    bar("round-trip", IDLE_BESIDE, "p99 us", 0.8, 0.4),
    bar("round-trip", IDLE_BESIDE, "p99.9 us", 1.0, 0.5),
    Bar {
        ours: "nebnet-handler",
        rival: Rival::Kind("floor"),
        ..bar("round-trip", &["i0"], "p50 us", 1.1, 0.8)
    },
    bar("round-trip", &["i0"], "CPU us", 1.0, 0.9),
    Bar {
        rival: Rival::Nobody,
        ..bar("idle", &["n5000"], "KiB each", 0.5, 0.25)
    },
    bar("idle", IDLE, "k conn/s", 0.85, 1.0),
    bar("paced", PACES, "CPU % of a core", 1.2, 1.0),
    // No bar was set for it; ahead is what it is to be.
    bar("broadcast", &["c1000"], "last has it, us", 1.0, 0.5),
];

/// One bar in one cell.
#[derive(Clone, Debug)]
pub(crate) struct Judged {
    pub(crate) place: String,
    pub(crate) column: &'static str,
    pub(crate) ours: &'static str,
    /// `None` where there is no figure to rely on.
    pub(crate) value: Option<f64>,
    /// The best of those it is compared with that have a figure.
    pub(crate) rival: Option<(&'static str, f64)>,
    /// The error says whose figures are missing.
    pub(crate) bar: Result<Verdict, String>,
    pub(crate) stretch: Result<Verdict, String>,
    /// Who would count for the stretch, and cannot run here.
    pub(crate) unavailable: Option<&'static str>,
    /// What the bar and the stretch ask for.
    pub(crate) wanted: (f64, f64),
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Verdict {
    pub(crate) ratio: f64,
    pub(crate) is_met: bool,
}

impl Verdict {
    fn word(self) -> &'static str {
        if self.is_met { "ok" } else { "missed" }
    }
}

/// Every bar for which something was measured.
pub(crate) fn judge(tables: &[Table]) -> Vec<Judged> {
    let of_table = |table| BARS.iter().filter_map(move |bar| bar.judge(table));
    tables.iter().flat_map(of_table).collect()
}

impl Bar {
    /// `None` where this cell has no such bar, or nobody was asked for that it compares.
    fn judge(&self, table: &Table) -> Option<Judged> {
        let workload = table.workload;
        if workload.name != self.workload || !self.cells.contains(&&*table.cell) {
            return None;
        }
        let column = workload.column(self.column)?;
        let ours = table.row(self.ours)?;
        let peers = self.rivals(table, &[Class::Peer]);
        let all = self.rivals(table, &[Class::Peer, Class::Beside]);
        if peers.is_empty() && !matches!(self.rival, Rival::Nobody) {
            return None;
        }
        let is_away = |row: &&&Row| row.flaw() == Some(Flaw::Unavailable);
        Some(Judged {
            place: format!("{} {}", workload.name, table.cell),
            column: self.column,
            ours: self.ours,
            value: ours.judged(column).ok().map(|spread| spread.median),
            rival: best(&peers, workload.columns[column].more_is_better, column),
            bar: verdict(table, ours, &peers, column, self.bar),
            stretch: verdict(table, ours, &all, column, self.stretch),
            unavailable: all.iter().find(is_away).map(|row| row.kind.name),
            wanted: (self.bar, self.stretch),
        })
    }

    fn rivals<'a>(&self, table: &'a Table, classes: &[Class]) -> Vec<&'a Row> {
        let is_rival = |row: &&Row| match self.rival {
            Rival::Peers => classes.contains(&row.kind.class),
            Rival::Kind(name) => row.kind.name == name,
            Rival::Nobody => false,
        };
        table.rows.iter().filter(is_rival).collect()
    }
}

/// Judged only if everybody has figures: who has none might have been the best.
fn verdict(
    table: &Table,
    ours: &Row,
    rivals: &[&Row],
    column: usize,
    wanted: f64,
) -> Result<Verdict, String> {
    let flaws = [Flaw::Failed, Flaw::Lost, Flaw::Busy].map(|flaw| {
        let rows = iter::once(&ours).chain(rivals);
        let rows = rows.filter(|row| row.flaw() == Some(flaw));
        let names: Vec<_> = rows.map(|row| row.kind.name).collect();
        (!names.is_empty()).then(|| format!("{} {}", names.join(", "), flaw.word()))
    });
    let flaws: Vec<_> = flaws.into_iter().flatten().collect();
    if !flaws.is_empty() {
        return Err(flaws.join("; "));
    }
    let more = table.workload.columns[column].more_is_better;
    let value = ours.judged(column).map_err(|flaw| flaw.word().to_owned())?;
    let ratio = value.median / best(rivals, more, column).map_or(1.0, |(_, rival)| rival);
    let is_met = if more {
        ratio >= wanted
    } else {
        ratio <= wanted
    };
    Ok(Verdict { ratio, is_met })
}

fn best(rivals: &[&Row], more: bool, column: usize) -> Option<(&'static str, f64)> {
    let figures = rivals.iter().filter_map(|row| {
        let median = row.judged(column).ok()?.median;
        Some((row.kind.name, median))
    });
    if more {
        figures.max_by(|one, other| one.1.total_cmp(&other.1))
    } else {
        figures.min_by(|one, other| one.1.total_cmp(&other.1))
    }
}

pub(crate) fn to_text(judged: &[Judged]) -> String {
    let mut text = format!(
        "{:<20} {:<16} {:>14} {:>9}   {:<22} {:>6}  {:<13} {}\n",
        "bars", "figure", "of", "", "by", "ratio", "bar", "stretch",
    );
    for row in judged {
        let rival = row
            .rival
            .map(|(name, value)| format!("{name} {}", figure(value)));
        writeln!(
            text,
            "{:<20} {:<16} {:>14} {:>9}   {:<22} {}",
            row.place,
            row.column,
            row.ours,
            row.value.map_or_else(|| "-".to_owned(), figure),
            rival.unwrap_or_default(),
            row.verdicts(),
        )
        .unwrap();
    }
    text
}

impl Judged {
    fn verdicts(&self) -> String {
        let bar = match &self.bar {
            Ok(bar) => bar,
            Err(reason) => return format!("{:>6}  not judged: {reason}", "-"),
        };
        let ours = format!("{} {}", self.wanted.0, bar.word());
        let mut stretch = match &self.stretch {
            Ok(stretch) => format!("{} {}", self.wanted.1, stretch.word()),
            Err(reason) => format!("{} not judged: {reason}", self.wanted.1),
        };
        match (&self.stretch, self.unavailable) {
            (_, Some(name)) => write!(stretch, ", without {name}").unwrap(),
            (Ok(verdict), None) if verdict.ratio != bar.ratio => {
                write!(stretch, ", with io_uring {:.2}", verdict.ratio).unwrap();
            }
            _ => {}
        }
        format!("{:>6.2}  {ours:<13} {stretch}", bar.ratio)
    }
}
