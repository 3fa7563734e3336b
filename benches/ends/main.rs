//! How connections end in real time: promises of time, measured 200 times each, and a rolling
//! restart under load.
//!
//! Each promise is a ratio of the time that passed to the time that was set, or a time; the suite
//! holds the same rules exactly, in virtual time. A machine that has nothing else to do is assumed.
//!
//!     cargo bench --bench ends
//!     cargo bench --bench ends -- --runs 20 stall backlog
//!     cargo bench --bench ends -- rolling
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::wildcard_enum_match_arm,
    reason = "a measuring program: it reads the clock and may end with a panic"
)]

mod promises;
#[path = "../../tests/ends/rolling.rs"]
mod rolling;
#[path = "../../tests/util/mod.rs"]
mod util;

use std::{env, process, time::Duration};

use promises::Promise;

const USAGE: &str = "arguments: [--runs N] [NAME ...], names as the table has them, or `rolling`";

fn main() {
    let Some((runs, names)) = arguments() else {
        eprintln!("{USAGE}");
        process::exit(2);
    };
    let is_asked = |name: &str| names.is_empty() || names.iter().any(|one| name.starts_with(one));
    let chosen: Vec<&Promise> = promises::ALL
        .iter()
        .filter(|one| is_asked(one.name))
        .collect();
    let mut kept = true;
    if !chosen.is_empty() {
        println!("{runs} runs of each");
        println!(
            "{:<14} {:>9} {:>9} {:>9} {:>9}  promised",
            "", "min", "p50", "p99", "max"
        );
    }
    for promise in chosen {
        let mut measured = Vec::new();
        while measured.len() < runs {
            measured.extend((promise.measure)(runs - measured.len()));
        }
        kept &= promise.tell(&mut measured);
    }
    if is_asked("rolling") {
        kept &= roll();
    }
    if !kept {
        println!("some promises were not kept");
        process::exit(1);
    }
}

/// How many runs, and of what.
fn arguments() -> Option<(usize, Vec<String>)> {
    let (mut runs, mut names) = (200, Vec::new());
    let mut arguments = env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match &*argument {
            // What cargo adds.
            "--bench" => {}
            "--runs" => runs = arguments.next()?.parse().ok().filter(|runs| *runs > 0)?,
            name if name.starts_with('-') => return None,
            name => names.push(name.to_owned()),
        }
    }
    let known = |name: &&String| {
        let mut all = promises::ALL.iter().map(|one| one.name).chain(["rolling"]);
        all.any(|one| one.starts_with(&**name))
    };
    (names.iter().filter(known).count() == names.len()).then_some((runs, names))
}

/// Ten clients of 20,000 messages a second each; the server is stopped and started ten times.
fn roll() -> bool {
    let plan = rolling::Plan {
        clients: 10,
        rate: 20_000,
        restarts: 10,
        runs_for: Duration::from_secs(1),
    };
    println!("rolling restart: {plan:?}");
    let outcome = rolling::run(plan);
    println!(
        "{:<8} {:>12} {:>12} {:>12} {:>10} {:>12} {:>6} {:>12}",
        "client",
        "accepted",
        "written",
        "received",
        "discarded",
        "unconfirmed",
        "lost",
        "connections"
    );
    let mut kept = true;
    for (number, row) in (1..).zip(&outcome.rows) {
        let (client, servers) = (&row.client, &row.servers);
        let unconfirmed = client
            .unconfirmed
            .map_or_else(|| "unknown".to_owned(), |one| one.messages.to_string());
        println!(
            "{number:<8} {:>12} {:>12} {:>12} {:>10} {unconfirmed:>12} {:>6} {:>12}",
            row.accepted,
            client.written.messages,
            servers.received.messages,
            servers.discarded.messages,
            row.lost,
            row.connections
        );
        let got = servers.received.messages + servers.discarded.messages;
        kept &= row.lost == 0 && got == client.written.messages && unconfirmed == "0";
    }
    let longest = outcome.stops.iter().max().copied().unwrap_or_default();
    println!("{} stops, the longest {longest:.1?}", outcome.stops.len());
    kept
}
