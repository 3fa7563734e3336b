//! The arguments.

use crate::sample::Times;
use crate::servers::{self, Kind};
use crate::workloads::{self, WORKLOADS, Workload};
use std::env;
use std::path::PathBuf;
use std::time::Duration;

const USAGE: &str = "arguments: --workloads ingest,... --cells c16p16,... --kinds nebnet,... \
                     --rounds N --seconds S --warm-up S --json FILE --svg FILE";

#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) cells: Vec<(&'static Workload, String)>,
    pub(crate) kinds: Vec<&'static Kind>,
    pub(crate) rounds: usize,
    pub(crate) times: Times,
    pub(crate) json: Option<PathBuf>,
    pub(crate) svg: Option<PathBuf>,
}

impl Options {
    /// Without `--bench`, which cargo adds for `cargo bench` alone, this is a quick trial.
    pub(crate) fn from_args() -> Result<Self, String> {
        let mut options = Self {
            cells: Vec::new(),
            kinds: servers::KINDS.iter().collect(),
            rounds: 5,
            times: Times {
                warm_up: Duration::from_millis(100),
                time: Duration::from_millis(300),
            },
            json: None,
            svg: None,
        };
        let mut args: Vec<_> = env::args().skip(1).collect();
        let is_trial = match args.iter().position(|arg| arg == "--bench") {
            Some(at) => {
                args.remove(at);
                false
            }
            None => true,
        };
        if is_trial {
            options.rounds = 1;
            options.times.time = Duration::from_millis(20);
        }
        let mut workloads: Vec<&Workload> = WORKLOADS.iter().collect();
        let mut cells = None;
        let mut args = args.into_iter();
        while let Some(name) = args.next() {
            let value = args
                .next()
                .ok_or_else(|| format!("{name}: no value; {USAGE}"))?;
            let known = match &*name {
                "--workloads" => list(&value, workloads::find).map(|some| workloads = some),
                "--cells" => list(&value, |cell| Some(cell.to_owned())).map(|some| {
                    cells = Some(some);
                }),
                _ => options.set(&name, &value),
            };
            known.ok_or_else(|| format!("{name} {value}: {USAGE}"))?;
        }
        options.cells = choose(&workloads, cells, is_trial)?;
        Ok(options)
    }

    fn set(&mut self, name: &str, value: &str) -> Option<()> {
        let seconds = || {
            let seconds = value.parse().ok()?;
            Duration::try_from_secs_f64(seconds).ok()
        };
        match name {
            "--kinds" => self.kinds = list(value, servers::find)?,
            "--rounds" => self.rounds = value.parse().ok().filter(|rounds| *rounds > 0)?,
            "--seconds" => self.times.time = seconds()?,
            "--warm-up" => self.times.warm_up = seconds()?,
            "--json" => self.json = Some(value.into()),
            "--svg" => self.svg = Some(value.into()),
            _ => return None,
        }
        Some(())
    }
}

fn list<T>(value: &str, one: impl FnMut(&str) -> Option<T>) -> Option<Vec<T>> {
    value.split(',').map(one).collect()
}

/// A cell that was asked for is taken in every workload whose cells are named like that.
fn choose(
    workloads: &[&'static Workload],
    cells: Option<Vec<String>>,
    is_trial: bool,
) -> Result<Vec<(&'static Workload, String)>, String> {
    let Some(cells) = cells else {
        let count = if is_trial { 1 } else { usize::MAX };
        let all = workloads.iter().flat_map(|workload| {
            let cells = workload.cells.iter().take(count);
            cells.map(|cell| (*workload, (*cell).to_owned()))
        });
        return Ok(all.collect());
    };
    let mut chosen = Vec::new();
    for workload in workloads {
        let known = cells.iter().filter(|cell| workload.cell(cell).is_some());
        chosen.extend(known.map(|cell| (*workload, cell.clone())));
    }
    for cell in cells {
        if chosen.iter().all(|(_, known)| *known != cell) {
            return Err(format!("--cells {cell}: no such cell; {USAGE}"));
        }
    }
    Ok(chosen)
}
