//! What fuzzers found worth keeping, and random variants of it, through the same entry functions.
//!
//! `tests/fuzz` has the fuzzers and the corpus; `NEBNET_FUZZ=n` tries n variants of each target.

use std::{fs, path::Path};

use super::{random::Random, seed_from};

/// A function that takes any bytes and asserts what has to hold for them.
type Entry = fn(&[u8]);

const TARGETS: [(&str, Entry); 5] = [
    ("config", crate::config::fuzz::config),
    ("decode", crate::frame::fuzz::decode),
    ("peer", crate::peer::fuzz::peer),
    ("protocol", crate::frame::fuzz::protocol),
    ("wheel", crate::wheel::model::wheel),
];

/// Variants of each target in the ordinary test suite.
const VARIANTS: u64 = 300;
/// Bytes of the longest variant.
const VARIANT_SIZE_MAX: usize = 4096;

/// The files of a target, by name. None in the published package, which has no corpus.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz");
    if !root.exists() {
        return Vec::new();
    }
    let folder = root.join("corpus").join(target);
    let mut files: Vec<(String, Vec<u8>)> = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.display().to_string(), fs::read(path).unwrap()))
        .collect();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    files.sort();
    files
}

/// Says the input if an entry function panics.
struct Say<'a> {
    target: &'a str,
    name: &'a str,
    input: &'a [u8],
}

impl Drop for Say<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Say {
                target,
                name,
                input,
            } = self;
            eprintln!("{target}, {name}: {input:02x?}");
        }
    }
}

fn run(target: &str, entry: Entry, name: &str, input: &[u8]) {
    let say = Say {
        target,
        name,
        input,
    };
    entry(input);
    drop(say);
}

#[test]
fn the_corpus_holds() {
    for (target, entry) in TARGETS {
        for (name, input) in corpus(target) {
            run(target, entry, &name, &input);
        }
    }
}

/// A driver without feedback, for where there is no fuzzer: what it tries is drawn from one seed.
#[test]
fn variants_of_the_corpus_hold() {
    let count = seed_from("NEBNET_FUZZ").unwrap_or(VARIANTS);
    for (target, entry) in TARGETS {
        let mut random = Random::new(seed_from("NEBNET_SEED").unwrap_or(1));
        let mut files = corpus(target);
        files.push(("nothing".to_owned(), Vec::new()));
        for _ in 0..count {
            let (name, input) = &files[random.below(files.len())];
            let (_, other) = &files[random.below(files.len())];
            run(target, entry, name, &variant(input, other, &mut random));
        }
    }
}

/// A few changes: bytes written over, put in, taken out, or taken from another input.
fn variant(input: &[u8], other: &[u8], random: &mut Random) -> Vec<u8> {
    let mut bytes = input.to_vec();
    for _ in 0..random.between(1, 6) {
        let at = random.below(bytes.len() + 1);
        let size = random.below(9);
        let end = (at + size).min(bytes.len());
        match random.below(6) {
            0 => bytes[at..end].fill_with(|| random.byte()),
            1 => bytes[at..end]
                .iter_mut()
                .for_each(|byte| *byte ^= 1 << random.below(8)),
            2 => drop(bytes.splice(at..at, (0..size).map(|_| random.byte()))),
            3 => drop(bytes.drain(at..end)),
            4 => {
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
            _ => {
                let from = random.below(other.len() + 1);
                let to = other.len().min(from + random.below(200));
                bytes.splice(at..end, other[from..to].iter().copied());
            }
        }
    }
    bytes.truncate(VARIANT_SIZE_MAX);
    bytes
}
