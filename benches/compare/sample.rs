//! One measurement of one server, taken in a process of its own.
//!
//! So no server finds memory, threads or timers that another has left, what is resident is its
//! own, and one that hangs or panics ends nothing but its sample. The process is this program
//! started again, with [`ORDER_VARIABLE`] set; it prints its sample as one line and ends.

use crate::servers::{self, Kind};
use crate::workloads::{self, Workload};
use std::io::Read;
use std::process::{Command, Stdio, exit};
use std::time::{Duration, Instant};
use std::{env, thread};

/// Set in the environment of the measuring process, and only there.
const ORDER_VARIABLE: &str = "NEBNET_SAMPLE";
/// What its line begins with where it has no sample.
const UNAVAILABLE: &str = "unavailable: ";
const FAILED: &str = "failed: ";
/// A process that has not ended by then is ended.
const TIMEOUT: Duration = Duration::from_secs(40);

/// Why there is no sample.
#[derive(Clone, Debug)]
pub(crate) enum Absent {
    /// The kind cannot run on this machine.
    Unavailable(String),
    /// It can, and did not get through.
    Failed(String),
}

impl Absent {
    pub(crate) fn reason(&self) -> &str {
        let (Self::Unavailable(reason) | Self::Failed(reason)) = self;
        reason
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Sample {
    /// One for each column of the workload.
    pub(crate) values: Vec<f64>,
    /// Processor seconds per second: at 1.0 the client, which has one thread, is the limit.
    pub(crate) client_cores: f64,
    pub(crate) server_cores: f64,
    /// What neither of the two spent: other programs on this machine, and other machines on its
    /// host.
    pub(crate) other_cores: f64,
    /// Other programs took part of the machine.
    pub(crate) is_disturbed: bool,
    /// Every message sent was taken, none twice.
    pub(crate) verified: bool,
}

impl Sample {
    fn to_text(&self) -> String {
        let values = self.values.iter().map(f64::to_string);
        format!(
            "{} {} {} {} {} {}",
            self.verified,
            self.is_disturbed,
            self.client_cores,
            self.server_cores,
            self.other_cores,
            values.collect::<Vec<_>>().join(" "),
        )
    }

    fn from_text(text: &str) -> Option<Self> {
        let (verified, rest) = text.split_once(' ')?;
        let (is_disturbed, numbers) = rest.split_once(' ')?;
        let numbers = numbers.split_whitespace().map(|word| word.parse().ok());
        let numbers: Vec<f64> = numbers.collect::<Option<_>>()?;
        let (&[client_cores, server_cores, other_cores], values) = numbers.split_first_chunk()?;
        Some(Self {
            values: values.to_vec(),
            client_cores,
            server_cores,
            other_cores,
            is_disturbed: is_disturbed.parse().ok()?,
            verified: verified.parse().ok()?,
        })
    }
}

/// Length of one measurement; what comes before it is not counted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) warm_up: Duration,
    pub(crate) time: Duration,
}

/// Measures once.
pub(crate) fn take(
    workload: &Workload,
    cell: &str,
    kind: &Kind,
    times: Times,
) -> Result<Sample, Absent> {
    let order = [
        workload.name,
        cell,
        kind.name,
        &times.warm_up.as_millis().to_string(),
        &times.time.as_millis().to_string(),
    ];
    let mut child = Command::new(env::current_exe().unwrap())
        .env(ORDER_VARIABLE, order.join(" "))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if started.elapsed() > TIMEOUT {
            child.kill().unwrap();
            child.wait().unwrap();
            return Err(Absent::Failed("it did not come to an end".to_owned()));
        }
        thread::sleep(Duration::from_millis(5));
    };
    let mut text = String::new();
    child.stdout.unwrap().read_to_string(&mut text).unwrap();
    let text = text.trim_end();
    if let Some(reason) = text.strip_prefix(UNAVAILABLE) {
        return Err(Absent::Unavailable(reason.to_owned()));
    }
    if let Some(reason) = text.strip_prefix(FAILED) {
        return Err(Absent::Failed(reason.to_owned()));
    }
    Sample::from_text(text).ok_or_else(|| Absent::Failed(format!("it failed: {status}")))
}

/// Takes a sample and ends, if this process was started for that.
pub(crate) fn run_if_child() {
    let Ok(text) = env::var(ORDER_VARIABLE) else {
        return;
    };
    let words: Vec<_> = text.split(' ').collect();
    let &[workload, cell, kind, warm_up, time] = &*words else {
        panic!("{ORDER_VARIABLE}={text}");
    };
    let millis = |text: &str| Duration::from_millis(text.parse().unwrap());
    let times = Times {
        warm_up: millis(warm_up),
        time: millis(time),
    };
    let workload = workloads::find(workload).unwrap();
    let cell = workload.cell(cell).unwrap();
    // A server that falls over in a thread of its own is not to be waited for.
    let panics = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        panics(info);
        exit(101);
    }));
    match (workload.measure)(servers::find(kind).unwrap(), &cell, times) {
        Ok(sample) => println!("{}", sample.to_text()),
        Err(Absent::Unavailable(reason)) => println!("{UNAVAILABLE}{reason}"),
        Err(Absent::Failed(reason)) => println!("{FAILED}{reason}"),
    }
    exit(0);
}
