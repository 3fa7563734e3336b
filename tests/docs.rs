//! Holds the documents against the code: what they show, name and link to exists.
#![allow(missing_docs, reason = "tests say what they check by their names")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use nebnet::frame::Decoder;

/// Documents that are read; those that do not exist are passed over.
const DOCUMENTS: [&str; 10] = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "docs/architecture.md",
    "docs/benchmarks.md",
    "docs/command-line.md",
    "docs/decisions.md",
    "docs/testing.md",
    "docs/wire.md",
];

#[test]
fn the_program_of_the_readme_is_the_first_example() {
    let example = read("docs/examples/first.rs");
    let (_, program) = example
        .split_once("\n\n")
        .expect("a doc line and a program");
    let block = format!("```rust\n{program}```");
    assert!(
        read("README.md").contains(&block),
        "copy docs/examples/first.rs without its first line into the README"
    );
}

#[test]
fn the_test_command_of_the_readme_is_the_one_of_the_gate() {
    let command = "cargo test --all-features";
    assert!(read("README.md").contains(&format!("    {command}\n")));
    // The gate is not part of the published package.
    if let Ok(gate) = fs::read_to_string(root().join(".ci/run")) {
        assert!(gate.contains(&format!("\n{command} ")));
    }
}

#[test]
fn every_example_is_declared_and_mentioned() {
    let manifest = read("Cargo.toml");
    let readme = read("README.md");
    for entry in fs::read_dir(root().join("docs/examples")).expect("the folder of examples") {
        let name = entry.expect("an entry").file_name();
        let name = name.to_str().expect("an ASCII name");
        let path = format!("docs/examples/{name}");
        if name.ends_with(".rs") {
            let declared = manifest.contains(&format!("path = \"{path}\""));
            assert!(declared, "declare {path} as an [[example]] in Cargo.toml");
        }
        assert!(readme.contains(&path), "mention {path} in the README");
    }
}

#[test]
fn every_link_leads_somewhere() {
    for document in DOCUMENTS {
        let Ok(text) = fs::read_to_string(root().join(document)) else {
            continue;
        };
        for link in links(&text) {
            if link.starts_with("http") {
                continue;
            }
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            let file = match path {
                "" => root().join(document),
                path => root().join(document).parent().expect("a folder").join(path),
            };
            assert!(file.exists(), "{document} links to {link}");
            if !anchor.is_empty() {
                let target = fs::read_to_string(&file).expect("a text");
                let found = target.lines().any(|line| slug(line) == anchor);
                assert!(
                    found,
                    "{document} links to {link}, which has no such heading"
                );
            }
        }
    }
}

#[test]
fn every_frame_of_the_wire_document_is_one() {
    let text = read("docs/wire.md");
    let mut frames = 0;
    for line in text.lines() {
        let session = ["> ", "< "]
            .into_iter()
            .find_map(|prefix| line.strip_prefix(prefix));
        let vector = line
            .strip_prefix("| ")
            .and_then(|row| row.split('`').nth_back(1));
        let Some(hex) = session.or(vector) else {
            continue;
        };
        let Some(bytes) = bytes_of(hex) else { continue };
        let (_, size) = Decoder::new(1 << 20)
            .decode(&bytes)
            .unwrap_or_else(|error| panic!("{line}: {error}"))
            .unwrap_or_else(|| panic!("{line}: not whole"));
        assert_eq!(size, bytes.len(), "{line}");
        frames += 1;
    }
    assert_eq!(frames, 11, "the vectors and the sessions of docs/wire.md");
}

#[test]
fn every_close_reason_of_the_wire_has_its_row() {
    let text = read("docs/wire.md");
    for reason in nebnet::CloseReason::ALL {
        if let Some(code) = reason.wire_code() {
            let row = format!("\n| {code} | {reason:?} |");
            assert!(
                text.contains(&row),
                "add a row for {code}, {reason:?}, to docs/wire.md"
            );
        }
    }
}

/// Rows of the catalogue begin with a number; their last cell names tests in backticks.
#[test]
fn every_test_that_the_catalogue_names_exists() {
    let mut sources = String::new();
    for folder in ["src", "tests"] {
        collect(&root().join(folder), &mut sources);
    }
    let after_attribute = sources.split("#[test]").skip(1);
    let tests: BTreeSet<&str> = after_attribute
        .filter_map(|rest| rest.split_once("fn ")?.1.split('(').next())
        .collect();
    let mut cases = 0;
    for line in read("docs/testing.md").lines() {
        let cells: Vec<&str> = line.split(" | ").collect();
        let number = cells[0]
            .strip_prefix("| ")
            .and_then(|cell| cell.parse::<u32>().ok());
        let (Some(number), Some(last)) = (number, cells.last()) else {
            continue;
        };
        cases += 1;
        assert_eq!(number, cases, "the catalogue is in order and without gaps");
        for name in last.split('`').skip(1).step_by(2) {
            let found = tests.contains(name);
            assert!(
                found,
                "case {number} of docs/testing.md names {name}, which is no test"
            );
        }
    }
    assert_eq!(cases, 122);
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[track_caller]
fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All Rust sources in a folder, one behind the other.
fn collect(folder: &Path, out: &mut String) {
    for entry in fs::read_dir(folder).expect("a folder of sources") {
        let path: PathBuf = entry.expect("an entry").path();
        if path.is_dir() {
            collect(&path, out);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            out.push_str(&fs::read_to_string(&path).expect("a source"));
        }
    }
}

/// Targets of the links in a text.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next())
}

/// The anchor of a heading; nothing for a line that is none.
fn slug(line: &str) -> String {
    let Some(title) = line.strip_prefix('#') else {
        return String::new();
    };
    let title = title.trim_start_matches('#').trim().to_lowercase();
    let kept = title
        .chars()
        .filter(|one| one.is_alphanumeric() || " -_".contains(*one));
    kept.map(|one| if one == ' ' { '-' } else { one }).collect()
}

/// Bytes of hexadecimal digits with spaces between the fields; nothing for anything else.
fn bytes_of(hex: &str) -> Option<Vec<u8>> {
    let digits: String = hex.split_whitespace().collect();
    let is_frame = digits.len() >= 16 && digits.len() % 2 == 0;
    if !is_frame || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).ok())
        .collect()
}
