//! Holds the documents against the code: what they show, name and link to exists.
#![allow(missing_docs, reason = "tests say what they check by their names")]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use nebnet::frame::Decoder;

/// Documents that are read; those that do not exist are passed over.
const DOCUMENTS: [&str; 13] = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "docs/architecture.md",
    "docs/benchmarks.md",
    "docs/command-line.md",
    "docs/decisions.md",
    "docs/failures.md",
    "docs/ledger.md",
    "docs/memory.md",
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

/// Without a binary to run by default, `cargo run` does nothing where there are several.
#[test]
fn the_command_line_is_what_runs_by_default() {
    let manifest = read("Cargo.toml");
    let binaries = targets(&manifest, "bin");
    // What lies in src/bin is declared, or would be found by cargo.
    assert!(manifest.contains("\nautobins = false\n"));
    assert!(binaries.contains("nebnet"));
    assert!(
        binaries.len() == 1 || manifest.contains("\ndefault-run = \"nebnet\"\n"),
        "of several binaries cargo has to be told which is meant"
    );
}

#[test]
fn every_command_names_what_there_is() {
    let manifest = read("Cargo.toml");
    let mut sources = String::new();
    for folder in ["src", "tests"] {
        collect(&root().join(folder), &mut sources);
    }
    let names = names(&sources);
    let (mut found, mut count) = (Vec::new(), 0);
    for document in DOCUMENTS {
        let text = fs::read_to_string(root().join(document)).unwrap_or_default();
        for command in commands(&text) {
            count += 1;
            if let Err(error) = judge(&command, &manifest, &names) {
                found.push(format!(
                    "{document}: `cargo {}`: {error}",
                    command.join(" ")
                ));
            }
        }
    }
    assert!(found.is_empty(), "no such command:\n{}", found.join("\n"));
    assert!(count > 40, "{count} commands were found");
}

#[test]
fn wrong_commands_are_found() {
    let manifest = read("Cargo.toml");
    let names = BTreeSet::from(["sim_one_seed", "tests"]);
    let judge = |text: &str| {
        let all = commands(text);
        assert_eq!(all.len(), 1, "{text}");
        judge(&all[0], &manifest, &names).is_ok()
    };
    for right in [
        "cargo run --features cli -- serve --anything",
        "`cargo bench --bench frame` and --bench nothing",
        "A=1 cargo test --lib tests::sim_one",
        "cargo run --bin nebnet --features cli",
        "cargo run --release -p instructions -- --write",
    ] {
        assert!(judge(right), "{right}");
    }
    for wrong in [
        "cargo run -- serve",
        "cargo run --features cli,tls -- serve",
        "cargo run --bin nebnet --features workbench",
        "cargo run -p nothing",
        "cargo run --example nothing",
        "cargo bench --bench nothing",
        "cargo test --test nothing",
        "cargo test --test cli",
        "cargo test --lib tests::other",
    ] {
        assert!(!judge(wrong), "{wrong}");
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

/// Files move, and what leads to them has to follow.
#[test]
fn every_file_that_is_named_exists() {
    let mut missing = Vec::new();
    for document in DOCUMENTS {
        let text = fs::read_to_string(root().join(document)).unwrap_or_default();
        for name in text.split('`').skip(1).step_by(2) {
            let is_path = name.contains('/') && name.rsplit('.').next().is_some_and(is_ending);
            let is_one = name
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "/._-".contains(c));
            if is_path && is_one && !root().join(name).exists() {
                missing.push(format!("{document}: {name}"));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:?}");
}

fn is_ending(ending: &str) -> bool {
    ["md", "py", "rs", "toml", "txt"].contains(&ending)
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

/// Documents for those that use the crate name nothing else; the others speak of its inside, too.
#[test]
fn what_documents_name_of_the_api_exists() {
    let api = read("docs/public-api.txt");
    let (mut found, mut count) = (Vec::new(), 0);
    for document in [
        "README.md",
        "docs/failures.md",
        "docs/ledger.md",
        "docs/wire.md",
    ] {
        let text = read(document);
        for code in text.split('`').skip(1).step_by(2) {
            let name = code.split('(').next().unwrap_or_default();
            let Some((owner, item)) = name.split_once("::") else {
                continue;
            };
            let is_type = owner.starts_with(|c: char| c.is_ascii_uppercase());
            if !is_type || item.is_empty() || item.contains(|c: char| !is_word(c)) {
                continue;
            }
            count += 1;
            let ends = |rest: &str| !rest.starts_with(is_word);
            let is_there = [format!("{owner}::{item}"), format!("{owner}.{item}")]
                .iter()
                .any(|name| api.split(name.as_str()).skip(1).any(ends));
            if !is_there {
                found.push(format!("{document}: {name}"));
            }
        }
    }
    assert!(found.is_empty(), "no such items:\n{}", found.join("\n"));
    assert!(count > 20, "{count} names were found");
}

/// Lines of a decision, its heading not counted.
const DECISION_LINES_MAX: usize = 8;
const LINE_WIDTH_MAX: usize = 115;

#[test]
fn a_decision_has_at_most_eight_lines() {
    let text = read("docs/decisions.md");
    let entries: Vec<&str> = text.split("\n### ").skip(1).collect();
    assert!(entries.len() > 50, "{} decisions were found", entries.len());
    let mut found = Vec::new();
    for entry in entries {
        let own = entry.split("\n## ").next().unwrap_or_default();
        let mut lines = own.lines();
        let heading = lines.next().unwrap_or_default();
        let lines = lines.filter(|line| !line.trim().is_empty()).count();
        if lines > DECISION_LINES_MAX {
            found.push(format!("{heading}: {lines} lines"));
        }
    }
    assert!(
        found.is_empty(),
        "keep the decision, its reason, one figure and what would change it; series belong to \
         docs/benchmarks.md:\n{}",
        found.join("\n")
    );
    assert_width("docs/decisions.md", &text);
}

/// Four screens.
const ARCHITECTURE_LINES_MAX: usize = 240;

#[test]
fn the_architecture_fits_on_four_screens() {
    let text = read("docs/architecture.md");
    let lines = text.lines().count();
    assert!(
        lines <= ARCHITECTURE_LINES_MAX,
        "{lines} lines: what one module is about belongs to its first comment"
    );
    assert_width("docs/architecture.md", &text);
}

/// The cells of a row of a table; none for a line that is no row.
fn cells(line: &str) -> Vec<&str> {
    let row = line
        .strip_prefix("| ")
        .and_then(|row| row.strip_suffix(" |"));
    row.map_or_else(Vec::new, |row| row.split(" | ").collect())
}

/// What a text has in backticks.
fn code_of(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn the_stops_of_a_payload_are_in_the_code() {
    let (mut found, mut count) = (Vec::new(), 0);
    for line in read("docs/architecture.md").lines() {
        let [file, functions, _] = cells(line)[..] else {
            continue;
        };
        let file = file.trim_matches('`');
        if !file.starts_with("src/") {
            continue;
        }
        let source = read(file);
        for name in code_of(functions) {
            count += 1;
            let is_there = ["(", "<"]
                .iter()
                .any(|end| source.contains(&format!("fn {name}{end}")));
            if !is_there {
                found.push(format!("{file}: {name}"));
            }
        }
    }
    assert!(found.is_empty(), "no such functions:\n{}", found.join("\n"));
    assert!(count > 40, "{count} functions were found");
}

#[test]
fn the_ranks_of_the_architecture_are_those_of_the_code() {
    let (mut declared, mut rank) = (BTreeSet::new(), None);
    let source = read("src/lib.rs");
    for line in source
        .lines()
        .skip_while(|line| !line.starts_with("// Ranks:"))
    {
        let number = line.strip_prefix("// ");
        rank = number.and_then(|number| number.parse().ok()).or(rank);
        let module = line.trim_start_matches("pub ").strip_prefix("mod ");
        if let (Some(rank), Some(name)) = (rank, module.and_then(|name| name.strip_suffix(';'))) {
            declared.insert((rank, name));
        }
    }
    // They see everything.
    declared.retain(|(_, name)| !["tests", "workbench"].contains(name));
    let text = read("docs/architecture.md");
    let mut shown = BTreeSet::new();
    for line in text.lines() {
        if let [number, modules, _] = cells(line)[..] {
            if let Ok(rank) = number.parse::<u32>() {
                shown.extend(code_of(modules).map(|name| (rank, name)));
            }
        }
    }
    assert_eq!(shown, declared);
}

#[track_caller]
fn assert_width(document: &str, text: &str) {
    for (number, line) in (1..).zip(text.lines()) {
        let width = line.chars().count();
        assert!(width <= LINE_WIDTH_MAX, "{document}:{number}: {width}");
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
    assert_eq!(cases, 130);
}

// ----- commands ----------------------------------------------------------------------------------

/// The commands of a text that run something of this package: the words behind `cargo`, up to those
/// that are for the program.
fn commands(text: &str) -> Vec<Vec<&str>> {
    let all = text.split("cargo ").skip(1);
    let commands = all.map(|rest| {
        let end = rest.find(['`', '\n']).unwrap_or(rest.len());
        let words = rest[..end].split_whitespace();
        words.take_while(|word| *word != "--").collect()
    });
    let runs = |words: &Vec<&str>| {
        let first = words.first().copied().unwrap_or_default();
        ["run", "bench", "test", "fuzz"].contains(&first)
    };
    commands.filter(runs).collect()
}

/// Whether what a command names exists, with the features that it needs.
fn judge(words: &[&str], manifest: &str, names: &BTreeSet<&str>) -> Result<(), String> {
    if words.starts_with(&["fuzz", "run"]) {
        let target = *words.last().expect("two words at least");
        // The fuzzers are not part of the published package.
        let fuzz = fs::read_to_string(root().join("tests/fuzz/Cargo.toml"));
        return fuzz.map_or(Ok(()), |fuzz| {
            exists(targets(&fuzz, "bin").contains(target), target)
        });
    }
    let (mut features, mut needed) = (BTreeSet::new(), BTreeSet::new());
    let mut is_named = false;
    let mut rest = words[1..].iter();
    while let Some(word) = rest.next() {
        let mut value = || rest.next().copied().unwrap_or_default();
        match *word {
            "--all-features" => features.extend(section(manifest, "[features]")),
            "--features" => features.extend(value().split(',')),
            "--target-dir" => drop(value()),
            // The other package is not part of the published one.
            "-p" => {
                exists(value() == "instructions", "such package")?;
                is_named = true;
            }
            "--test" => {
                let name = value();
                let text = fs::read_to_string(root().join(format!("tests/{name}.rs")));
                exists(text.is_ok(), name)?;
                let text = text.unwrap_or_default();
                let condition = text.split("#![cfg(feature = \"").nth(1);
                needed.extend(condition.and_then(|rest| Some(rest.split('"').next()?.to_owned())));
            }
            "--bin" | "--bench" | "--example" => {
                let (kind, name) = (&word[2..], value());
                exists(targets(manifest, kind).contains(name), name)?;
                needed.extend(required_features(manifest, kind, name));
                is_named = true;
            }
            "--release" | "--lib" | "--doc" => {}
            option if option.starts_with('-') => return Err(format!("what is {option}?")),
            filter if words[0] == "test" => {
                for part in filter.split("::").filter(|part| !part.is_empty()) {
                    exists(names.iter().any(|name| name.contains(part)), part)?;
                }
            }
            word => return Err(format!("what is {word}?")),
        }
    }
    if words[0] == "run" && !is_named {
        needed.extend(required_features(manifest, "bin", "nebnet"));
    }
    let known: BTreeSet<&str> = section(manifest, "[features]").collect();
    for feature in &features {
        exists(known.contains(feature), feature)?;
    }
    let missing = needed.iter().find(|one| !features.contains(one.as_str()));
    missing.map_or(Ok(()), |one| Err(format!("it needs --features {one}")))
}

fn exists(is_there: bool, name: &str) -> Result<(), String> {
    if is_there {
        Ok(())
    } else {
        Err(format!("there is no {name}"))
    }
}

/// The keys of a section of a manifest.
fn section<'a>(manifest: &'a str, heading: &str) -> impl Iterator<Item = &'a str> {
    let lines = manifest.lines().skip_while(move |line| *line != heading);
    let lines: Vec<&str> = lines
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .collect();
    lines
        .into_iter()
        .filter_map(|line| line.split_once(" = ").map(|(key, _)| key))
}

/// The declarations of a kind of target, each as its text.
fn declarations<'a>(manifest: &'a str, kind: &str) -> impl Iterator<Item = &'a str> {
    let all = manifest.split("\n[");
    let heading = format!("[{kind}]]\n");
    let of_kind: Vec<&str> = all.filter(|text| text.starts_with(&heading)).collect();
    of_kind.into_iter()
}

fn name_of(declaration: &str) -> Option<&str> {
    declaration.split("\nname = \"").nth(1)?.split('"').next()
}

fn targets<'a>(manifest: &'a str, kind: &str) -> BTreeSet<&'a str> {
    declarations(manifest, kind).filter_map(name_of).collect()
}

fn required_features(manifest: &str, kind: &str, name: &str) -> Vec<String> {
    let mut all = declarations(manifest, kind).filter(|text| name_of(text) == Some(name));
    let list = all
        .next()
        .and_then(|text| text.split("\nrequired-features = [").nth(1));
    let list = list
        .and_then(|rest| rest.split(']').next())
        .unwrap_or_default();
    list.split('"')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

/// The functions and modules of sources.
fn names(sources: &str) -> BTreeSet<&str> {
    let after = |keyword| sources.split(keyword).skip(1);
    let names = after("fn ").chain(after("mod "));
    names
        .filter_map(|rest| rest.split(|one| !is_word(one)).next())
        .collect()
}

fn is_word(one: char) -> bool {
    one.is_alphanumeric() || one == '_'
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
