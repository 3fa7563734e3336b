//! The counts in the tree.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::process::Command;

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/kept.txt");
const MADE_WITH: &str = "# made with ";

/// What was counted when it was last kept.
#[derive(Debug, Default)]
pub(crate) struct Kept {
    /// Whatever else decides about counts: under another one they are shown, and not judged.
    pub(crate) made_with: String,
    pub(crate) counts: BTreeMap<String, u64>,
}

impl Kept {
    pub(crate) fn read() -> Self {
        let mut kept = Self::default();
        for line in fs::read_to_string(FILE).unwrap_or_default().lines() {
            if let Some(made_with) = line.strip_prefix(MADE_WITH) {
                kept.made_with = made_with.to_owned();
            } else if let Some((name, count)) = line.split_once(' ') {
                if let Ok(count) = count.trim().parse() {
                    kept.counts.insert(name.to_owned(), count);
                }
            }
        }
        kept
    }

    pub(crate) fn write(&self) {
        let mut text = format!(
            "# Instructions of 50 runs of each scene; see benches/instructions/main.rs.\n\
             {MADE_WITH}{}\n",
            self.made_with
        );
        for (name, count) in &self.counts {
            writeln!(text, "{name:<16} {count:>12}").unwrap();
        }
        fs::write(FILE, text).unwrap();
    }
}

/// The compiler, the C library, valgrind, and what sort of processor there is.
pub(crate) fn made_with(valgrind: &str) -> String {
    let compiler = output("rustc", "--version");
    let library = output("getconf", "GNU_LIBC_VERSION");
    let processor = std::env::consts::ARCH;
    format!("{compiler}, {library}, {valgrind}, {processor}")
}

fn output(program: &str, argument: &str) -> String {
    match Command::new(program).arg(argument).output() {
        Ok(output) => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        Err(_) => format!("unknown {program}"),
    }
}
