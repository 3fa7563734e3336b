//! The arguments.

use crate::servers::{self, Kind};
use crate::workloads::ingest::Cell;
use std::env;
use std::path::PathBuf;
use std::time::Duration;

const USAGE: &str = "arguments: --cells c16p16,... --kinds nebnet,... --rounds N --seconds S \
                     --warm-up S --json FILE";

#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) cells: Vec<Cell>,
    pub(crate) kinds: Vec<&'static Kind>,
    pub(crate) rounds: usize,
    /// Length of one measurement; what comes before it is not counted.
    pub(crate) time: Duration,
    pub(crate) warm_up: Duration,
    pub(crate) json: Option<PathBuf>,
}

impl Options {
    /// Without `--bench`, which cargo adds for `cargo bench` alone, this is a quick trial.
    pub(crate) fn from_args() -> Result<Self, String> {
        let mut options = Self {
            cells: Cell::all(),
            kinds: servers::KINDS.iter().collect(),
            rounds: 5,
            time: Duration::from_millis(500),
            warm_up: Duration::from_millis(150),
            json: None,
        };
        let mut args: Vec<_> = env::args().skip(1).collect();
        if let Some(at) = args.iter().position(|arg| arg == "--bench") {
            args.remove(at);
        } else {
            options.cells.truncate(1);
            (options.rounds, options.time) = (1, Duration::from_millis(20));
        }
        let mut args = args.into_iter();
        while let Some(name) = args.next() {
            let value = args
                .next()
                .ok_or_else(|| format!("{name}: no value; {USAGE}"))?;
            options
                .set(&name, &value)
                .ok_or_else(|| format!("{name} {value}: {USAGE}"))?;
        }
        Ok(options)
    }

    fn set(&mut self, name: &str, value: &str) -> Option<()> {
        let seconds = || {
            let seconds = value.parse().ok()?;
            Duration::try_from_secs_f64(seconds).ok()
        };
        match name {
            "--cells" => {
                self.cells = value
                    .split(',')
                    .map(Cell::from_name)
                    .collect::<Option<_>>()?
            }
            "--kinds" => self.kinds = value.split(',').map(servers::find).collect::<Option<_>>()?,
            "--rounds" => self.rounds = value.parse().ok().filter(|rounds| *rounds > 0)?,
            "--seconds" => self.time = seconds()?,
            "--warm-up" => self.warm_up = seconds()?,
            "--json" => self.json = Some(value.into()),
            _ => return None,
        }
        Some(())
    }
}
