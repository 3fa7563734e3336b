//! How many instructions the core takes for what it does most, beside the counts that are kept.
//!
//! `cargo run --release -p instructions` compares and fails where something
//! has become dearer. Behind it, `-- --write` keeps the new counts, `-- scan turn` counts only the
//! scenes whose names begin like that, and with `-- --strict` it is a failure as well that there
//! was nothing to judge by: no valgrind, counts that were kept with another compiler, or none.
//!
//! Time on a shared machine varies by a third; these counts hardly vary. A scene runs in one
//! thread, in a process of its own under callgrind, which counts only while it is inside of
//! [`scene::counted_run`]. What other programs do at the same time cannot matter: instructions
//! that wait are no more instructions.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "a measuring program, which may end with a panic"
)]

mod kept;
mod scene;
mod valgrind;

use kept::Kept;
use nebnet::workbench::{Entry, SCENES};
use std::env;
use std::process::ExitCode;

/// What a count may grow by before it is a failure.
///
/// This is not for noise: most runs of one binary are equal, on a busy machine too, and the others
/// differ by 0.3 % in one scene. It is for changes that have nothing to do with a scene and move it
/// all the same, because the compiler then inlines or allocates registers differently: 0.3 % for
/// other features of the crate, 2.8 % for another kind of build. So one instruction more for each
/// message shows in a scan or a walk, a dozen in a send, and in a whole turn what costs a hundred
/// and more.
const TOLERANCE: f64 = 0.03;

fn main() -> ExitCode {
    if scene::run_if_child() {
        return ExitCode::SUCCESS;
    }
    let mut args: Vec<_> = env::args().skip(1).collect();
    let mut take = |name: &str| {
        let before = args.len();
        args.retain(|arg| arg != name);
        args.len() < before
    };
    let (writes, is_strict) = (take("--write"), take("--strict"));
    let known = |arg: &String| SCENES.iter().any(|entry| entry.name.starts_with(arg));
    if let Some(unknown) = args.iter().find(|arg| !known(arg)) {
        eprintln!("{unknown}: no such scene; arguments: --write --strict SCENE...");
        return ExitCode::from(2);
    }
    let chosen: Vec<_> = SCENES
        .iter()
        .filter(|entry| args.is_empty() || args.iter().any(|arg| entry.name.starts_with(arg)))
        .collect();
    let outcome = match valgrind::version() {
        Some(version) => compare(&chosen, &version, writes),
        None if writes => Outcome::Refused("nothing to keep: valgrind is not installed".to_owned()),
        None => Outcome::NotJudged("valgrind is not installed".to_owned()),
    };
    match outcome {
        Outcome::Judged { dearer: 0 } => ExitCode::SUCCESS,
        Outcome::Judged { dearer } => {
            let percent = TOLERANCE * 100.0;
            println!("{dearer} became dearer by more than {percent:.0} %");
            ExitCode::FAILURE
        }
        Outcome::NotJudged(reason) => {
            println!("NOT JUDGED: {reason}");
            ExitCode::from(u8::from(is_strict))
        }
        Outcome::Refused(reason) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    }
}

enum Outcome {
    Judged {
        dearer: usize,
    },
    /// Nothing, or not all.
    NotJudged(String),
    Refused(String),
}

fn compare(chosen: &[&'static Entry], valgrind: &str, writes: bool) -> Outcome {
    let mut kept = Kept::read();
    let made_with = kept::made_with(valgrind);
    let is_comparable = kept.made_with == made_with;
    if writes && !is_comparable && chosen.len() < SCENES.len() {
        return Outcome::Refused("the others were kept with another compiler".into());
    }
    let (mut dearer, mut new) = (0, 0);
    println!(
        "{:<16} {:>12} {:>12} {:>8}  instructions, {} runs",
        "scene",
        "kept",
        "now",
        "",
        scene::RUNS
    );
    for entry in chosen {
        let now = valgrind::count(entry);
        let before = kept.counts.insert(entry.name.to_owned(), now);
        let each = now as f64 / (f64::from(scene::RUNS) * entry.units as f64);
        let Some(before) = before else {
            new += 1;
            println!(
                "{:<16} {:>12} {now:>12} {:>8}  {each:.1} a {}",
                entry.name, "-", "new", entry.unit
            );
            continue;
        };
        let change = now as f64 / before as f64 - 1.0;
        let remark = if change < -TOLERANCE {
            "  cheaper: keep it with --write"
        } else if change > TOLERANCE && is_comparable {
            dearer += 1;
            "  DEARER"
        } else {
            ""
        };
        let percent = format!("{:+.2}%", change * 100.0);
        println!(
            "{:<16} {before:>12} {now:>12} {percent:>8}  {each:.1} a {}{remark}",
            entry.name, entry.unit
        );
    }
    if writes {
        kept.made_with = made_with;
        let is_scene = |name: &str| SCENES.iter().any(|entry| entry.name == name);
        kept.counts.retain(|name, _| is_scene(name));
        kept.write();
        Outcome::Judged { dearer: 0 }
    } else if !is_comparable {
        let Kept {
            made_with: then, ..
        } = kept;
        Outcome::NotJudged(format!(
            "the kept counts were made with {then}, these with {made_with}"
        ))
    } else if new > 0 && dearer == 0 {
        Outcome::NotJudged(format!("{new} of these are not kept yet"))
    } else {
        Outcome::Judged { dearer }
    }
}
