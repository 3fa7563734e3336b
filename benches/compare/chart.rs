//! The chart: a panel for each of some cells, a bar for each kind.
//!
//! Written by hand, without a background of its own. The colours follow the reader's scheme, and
//! those without a scheme are readable on white and on black.

use crate::servers::Class;
use crate::table::{Flaw, Row, Spread, Table, figure};
use std::fmt::Write;

/// What is shown: workload, cell, column, and the title above it.
const PANELS: [(&str, &str, &str, &str); 12] = [
    (
        "ingest",
        "c16p16",
        "M msg/s",
        "16 connections, 16 bytes: million messages/s",
    ),
    (
        "ingest",
        "c16p256",
        "M msg/s",
        "16 connections, 256 bytes: million messages/s",
    ),
    (
        "ingest",
        "c16p4096",
        "M msg/s",
        "16 connections, 4096 bytes: million messages/s",
    ),
    (
        "ingest",
        "c256p4096",
        "M msg/s",
        "256 connections, 4096 bytes: million messages/s",
    ),
    (
        "fan-out",
        "s8",
        "M msg/s",
        "To 8 subscribers: million deliveries/s",
    ),
    (
        "mixed",
        "t64s8",
        "M msg/s",
        "64 types over 8 subscribers: million messages/s",
    ),
    (
        "ingest",
        "c16p16",
        "CPU s/M",
        "Processor seconds per million messages, 16 bytes",
    ),
    (
        "round-trip",
        "i0",
        "p50 us",
        "Round trip, median: microseconds",
    ),
    (
        "round-trip",
        "i0",
        "p99 us",
        "Round trip, 99th percentile: microseconds",
    ),
    (
        "idle",
        "n5000",
        "KiB each",
        "Memory of an idle connection: KiB",
    ),
    (
        "paced",
        "r50000",
        "CPU % of a core",
        "At 50,000 messages a second: % of a core",
    ),
    (
        "broadcast",
        "c1000",
        "last has it, us",
        "To 1,000 connections, until the last has it: us",
    ),
];

const COLUMN_WIDTH: usize = 480;
const MARGIN: usize = 16;
const ROW_HEIGHT: usize = 17;
/// Above the bars of a panel, for its title.
const TITLE_HEIGHT: usize = 28;
/// Left of the bars, for the names.
const NAMES_WIDTH: usize = 104;
const BARS_WIDTH: usize = 270;

const STYLE: &str = "\
    text { font: 12px system-ui, sans-serif; fill: #6e7781 }\n\
    .title { font-weight: 600 }\n\
    .ours { fill: #2f81f7 } .peer { fill: #9a8c7c } .beside { fill: #b0a392 }\n\
    .limit { fill: none; stroke: #8b949e; stroke-dasharray: 3 2 }\n\
    .range { stroke: #6e7781; stroke-width: 1 }\n\
    @media (prefers-color-scheme: light) { text { fill: #1f2328 } .ours { fill: #0969da } }\n\
    @media (prefers-color-scheme: dark) { text { fill: #e6edf3 } .ours { fill: #4493f8 } }\n";

/// A cell and a figure of it.
struct Panel<'a> {
    title: &'static str,
    more_is_better: bool,
    bars: Vec<(&'a Row, Result<Spread, Flaw>)>,
}

impl Panel<'_> {
    fn height(&self) -> usize {
        TITLE_HEIGHT + self.bars.len() * ROW_HEIGHT + MARGIN
    }

    fn draw(&self, svg: &mut String, left: usize, top: usize) {
        let hint = if self.more_is_better { "more" } else { "less" };
        writeln!(
            svg,
            "<text class=\"title\" x=\"{left}\" y=\"{}\">{} <tspan font-weight=\"400\">\
             ({hint} is better)</tspan></text>",
            top + MARGIN,
            self.title,
        )
        .unwrap();
        let spreads = self.bars.iter().filter_map(|(_, spread)| spread.ok());
        let longest = spreads.map(|spread| spread.max);
        let scale = BARS_WIDTH as f64 / longest.fold(f64::MIN_POSITIVE, f64::max);
        for (index, (row, spread)) in self.bars.iter().enumerate() {
            let top = top + TITLE_HEIGHT + index * ROW_HEIGHT;
            match spread {
                Ok(spread) => draw_bar(svg, row, *spread, scale, (left, top)),
                Err(flaw) => draw_flaw(svg, row, *flaw, (left, top)),
            }
        }
    }
}

/// A row without a figure says why, so that nobody is missing without a word.
fn draw_flaw(svg: &mut String, row: &Row, flaw: Flaw, (left, top): (usize, usize)) {
    let (start, base) = (left + NAMES_WIDTH, top + 12);
    writeln!(
        svg,
        "<text x=\"{}\" y=\"{base}\" text-anchor=\"end\">{}</text>\
         <text x=\"{start}\" y=\"{base}\">{}</text>",
        start - 6,
        row.kind.name,
        flaw.word(),
    )
    .unwrap();
}

fn draw_bar(svg: &mut String, row: &Row, spread: Spread, scale: f64, (left, top): (usize, usize)) {
    let class = match row.kind.class {
        Class::Ours => "ours",
        Class::Peer => "peer",
        Class::Beside => "beside",
        Class::Limit => "limit",
    };
    let start = left + NAMES_WIDTH;
    let at = |value: f64| start as f64 + value * scale;
    let (base, middle) = (top + 12, top + 8);
    writeln!(
        svg,
        "<text x=\"{}\" y=\"{base}\" text-anchor=\"end\">{}</text>\
         <rect class=\"{class}\" x=\"{start}\" y=\"{}\" width=\"{:.1}\" height=\"11\"/>\
         <line class=\"range\" x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{middle}\" y2=\"{middle}\"/>\
         <text x=\"{:.1}\" y=\"{base}\">{}</text>",
        start - 6,
        row.kind.name,
        top + 3,
        spread.median * scale,
        at(spread.min),
        at(spread.max),
        at(spread.max) + 6.0,
        figure(spread.median),
    )
    .unwrap();
}

/// What was measured of [`PANELS`], in two columns.
pub(crate) fn of(tables: &[Table]) -> String {
    let panels: Vec<_> = PANELS
        .iter()
        .filter_map(|panel| find(tables, *panel))
        .collect();
    let (mut body, mut bottoms) = (String::new(), [0; 2]);
    for panel in &panels {
        let column = usize::from(bottoms[1] < bottoms[0]);
        panel.draw(&mut body, MARGIN + column * COLUMN_WIDTH, bottoms[column]);
        bottoms[column] += panel.height();
    }
    let (width, height) = (2 * COLUMN_WIDTH, bottoms[0].max(bottoms[1]));
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         width=\"{width}\" height=\"{height}\" role=\"img\">\n\
         <title>nebnet beside its peers: medians, with lines from the least to the most</title>\n\
         <style>\n{STYLE}</style>\n{body}</svg>\n"
    )
}

fn find<'a>(
    tables: &'a [Table],
    (workload, cell, column, title): (&str, &str, &str, &'static str),
) -> Option<Panel<'a>> {
    let mut tables = tables.iter();
    let table = tables.find(|table| table.workload.name == workload && table.cell == cell)?;
    let column = table.workload.column(column)?;
    let bars = table.rows.iter();
    let bars = bars.filter(|row| row.flaw() != Some(Flaw::Unavailable));
    let bars = bars.map(|row| (row, row.judged(column)));
    Some(Panel {
        title,
        more_is_better: table.workload.columns[column].more_is_better,
        bars: bars.collect(),
    })
}
