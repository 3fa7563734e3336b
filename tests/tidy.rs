//! Habits that no compiler checks, each a test of its own, which says what to do instead.
//!
//! Reads the sources with the standard library alone. Comments and literals are blanked first, and
//! what is `cfg(test)` is left out where a rule is about the library itself.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    reason = "tests end where something is wrong"
)]

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

/// Lines of a function, from `fn` to its closing brace.
const FUNCTION_LINES_MAX: usize = 70;
/// Functions that may be longer, as `file: name`, each with its reason.
const LONG_FUNCTIONS: &[(&str, &str)] = &[];
const LINE_WIDTH_MAX: usize = 100;
/// Words that make persons of threads and peers, and how often comments of the library, and
/// documents, have them. The numbers only go down: a comment that is mended lowers the first.
const WHO_WORDS: [&str; 6] = [
    "whoever",
    "somebody",
    "nobody",
    "everybody",
    "whose",
    "whom",
];
const WHO_WORDS_MAX: usize = 172;
/// Lines of a file of the library. Those that are longer are to be split, and grow no more.
const FILE_LINES_MAX: usize = 500;
const LONG_FILES: &[(&str, usize)] = &[
    ("src/client/mod.rs", 750),
    ("src/dispatch/subscription.rs", 910),
    ("src/service.rs", 850),
];

struct Source {
    /// Relative to the crate, with slashes.
    path: String,
    text: String,
}

impl Source {
    /// The code: comments and literals blanked, lines where they were.
    fn code(&self) -> String {
        blank(&self.text)
    }

    /// The code without what is only compiled for tests.
    fn library_code(&self) -> String {
        without_tests(&self.code())
    }

    fn is_library(&self) -> bool {
        let exempt = ["src/tests/", "src/bin/"];
        let file = self.path.rsplit('/').next().unwrap_or_default();
        self.path.starts_with("src/")
            && !exempt.iter().any(|folder| self.path.starts_with(folder))
            && file != "tests.rs"
    }
}

/// All sources with one of the endings.
fn sources(endings: &[&str]) -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["src", "tests", "benches", "docs/examples"] {
        collect(&root.join(folder), &mut files);
    }
    files.sort();
    files
        .into_iter()
        .filter(|file| {
            endings
                .iter()
                .any(|ending| file.to_string_lossy().ends_with(ending))
        })
        .map(|file| Source {
            path: file
                .strip_prefix(root)
                .unwrap()
                .to_string_lossy()
                .into_owned(),
            text: fs::read_to_string(&file).unwrap_or_else(|error| panic!("{file:?}: {error}")),
        })
        .collect()
}

/// All documents, with their paths.
fn documents() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut documents = Vec::new();
    for folder in [root.to_owned(), root.join("docs")] {
        for entry in fs::read_dir(folder).unwrap() {
            let file = entry.unwrap().path();
            if file.extension().is_some_and(|ending| ending == "md") {
                let path = file.strip_prefix(root).unwrap().to_string_lossy();
                documents.push((path.into_owned(), fs::read_to_string(&file).unwrap()));
            }
        }
    }
    documents.sort();
    assert!(documents.len() > 10, "{documents:?}");
    documents
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).into_iter().flatten() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            // Another package may be built where it lies.
            if !path.ends_with("target") {
                collect(&path, files);
            }
        } else {
            files.push(path);
        }
    }
}

#[track_caller]
fn expect_none(found: &[String], instead: &str) {
    assert!(found.is_empty(), "{instead}\n  {}", found.join("\n  "));
}

// ----- reading Rust ------------------------------------------------------------------------------

/// Replaces comments and literals by spaces; line breaks stay.
fn blank(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = skip(&chars, at);
        if end == at {
            out.push(chars[at]);
            at += 1;
        } else {
            out.extend(
                chars[at..end]
                    .iter()
                    .map(|c| if *c == '\n' { '\n' } else { ' ' }),
            );
            at = end;
        }
    }
    out
}

/// Where the comment or literal that begins here ends; here, if none does.
fn skip(chars: &[char], at: usize) -> usize {
    let starts = |text: &str| {
        text.chars()
            .enumerate()
            .all(|(i, c)| chars.get(at + i) == Some(&c))
    };
    let find = |from: usize, text: &str| {
        let wanted: Vec<char> = text.chars().collect();
        let rest = chars.get(from..).unwrap_or_default();
        let position = rest
            .windows(wanted.len())
            .position(|window| window == wanted);
        position.map_or(chars.len(), |position| from + position + wanted.len())
    };
    let in_word = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
    if starts("//") {
        let rest = chars[at..].iter().position(|c| *c == '\n');
        return rest.map_or(chars.len(), |position| at + position);
    }
    if starts("/*") {
        return find(at, "*/");
    }
    if !in_word && (starts("r\"") || starts("r#") || starts("br\"") || starts("br#")) {
        let quote = at
            + chars[at..]
                .iter()
                .take_while(|c| **c == 'b' || **c == 'r')
                .count();
        let hashes = chars[quote..].iter().take_while(|c| **c == '#').count();
        if chars.get(quote + hashes) == Some(&'"') {
            return find(quote + hashes + 1, &format!("\"{}", "#".repeat(hashes)));
        }
        return at;
    }
    let escaped_until = |mut end: usize, quote: char| {
        while end < chars.len() && chars[end] != quote {
            end += if chars[end] == '\\' { 2 } else { 1 };
        }
        (end + 1).min(chars.len())
    };
    match chars[at] {
        '"' => escaped_until(at + 1, '"'),
        // A lifetime has no second quote behind its first character.
        '\'' if chars.get(at + 1) == Some(&'\\') || chars.get(at + 2) == Some(&'\'') => {
            escaped_until(at + 1, '\'')
        }
        _ => at,
    }
}

/// The end of the item that begins at `start`: behind its braces, or its semicolon.
fn end_of_item(code: &str, start: usize) -> usize {
    let mut depth = 0_usize;
    let mut brackets = 0_isize;
    for (offset, c) in code[start..].char_indices() {
        match c {
            '(' | '[' => brackets += 1,
            ')' | ']' => brackets -= 1,
            '{' => depth += 1,
            '}' => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return start + offset + 1;
                }
            }
            ';' if depth == 0 && brackets == 0 => return start + offset + 1,
            _ => {}
        }
    }
    code.len()
}

/// Blanks the items that are marked `cfg(test)`.
fn without_tests(code: &str) -> String {
    let mut out = code.to_owned();
    while let Some(start) = out.find("#[cfg(test)]") {
        let end = end_of_item(&out, start + "#[cfg(test)]".len());
        let lines: String = out[start..end].chars().filter(|c| *c == '\n').collect();
        out.replace_range(start..end, &lines);
    }
    out
}

fn is_word_char(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Positions of a whole word, with their line numbers.
fn words(code: &str, word: &str) -> Vec<(usize, usize)> {
    let whole = |at: usize| {
        !code[..at].ends_with(is_word_char) && !code[at + word.len()..].starts_with(is_word_char)
    };
    let matches = code
        .match_indices(word)
        .map(|(at, _)| at)
        .filter(|at| whole(*at));
    matches
        .map(|at| (at, 1 + code[..at].matches('\n').count()))
        .collect()
}

fn first_word(code: &str) -> String {
    code.trim_start()
        .chars()
        .take_while(|c| is_word_char(*c))
        .collect()
}

/// The first parts of the paths that stand behind `crate::`, with their line numbers.
fn crate_paths(code: &str) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    for (at, line) in words(code, "crate") {
        let Some(rest) = code[at..].strip_prefix("crate::") else {
            continue;
        };
        let Some(group) = rest.strip_prefix('{') else {
            found.push((first_word(rest), line));
            continue;
        };
        let (mut depth, mut start) = (0, true);
        for (offset, c) in group.char_indices() {
            if start && is_word_char(c) {
                found.push((first_word(&group[offset..]), line));
                start = false;
            }
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => start = true,
                _ => {}
            }
        }
    }
    found
}

// ----- ranks -------------------------------------------------------------------------------------

/// The rank of each module, as the comments between the declarations of `src/lib.rs` say.
fn ranks() -> HashMap<String, u32> {
    let text =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let (mut ranks, mut rank) = (HashMap::new(), None);
    for line in text
        .lines()
        .skip_while(|line| !line.starts_with("// Ranks:"))
    {
        if let Some(number) = line.strip_prefix("// ").and_then(|rest| rest.parse().ok()) {
            rank = Some(number);
        }
        let declared = line.trim_start_matches("pub ").strip_prefix("mod ");
        if let (Some(name), Some(rank)) = (declared.and_then(|d| d.strip_suffix(';')), rank) {
            ranks.insert(name.to_owned(), rank);
        }
    }
    ranks
}

fn module_of(path: &str) -> &str {
    let rest = path.trim_start_matches("src/");
    rest.split(['/', '.']).next().unwrap_or(rest)
}

#[test]
fn modules_import_from_lower_ranks_only() {
    let ranks = ranks();
    assert!(
        ranks.len() > 10,
        "the rank table of src/lib.rs was not understood: {ranks:?}"
    );
    let mut found = Vec::new();
    for source in sources(&[".rs"]) {
        if !source.is_library() || source.path == "src/lib.rs" {
            continue;
        }
        let module = module_of(&source.path);
        let Some(rank) = ranks.get(module) else {
            found.push(format!(
                "{}: {module} has no rank in src/lib.rs",
                source.path
            ));
            continue;
        };
        for (name, line) in crate_paths(&source.library_code()) {
            let place = format!("{}:{line}", source.path);
            match ranks.get(&name) {
                Some(_) if name == module => {}
                Some(other) if other < rank => {}
                Some(other) => found.push(format!(
                    "{place}: {module} (rank {rank}) imports {name} (rank {other})"
                )),
                None => found.push(format!("{place}: crate::{name} is not a module")),
            }
        }
    }
    expect_none(
        &found,
        "a module imports from modules of lower rank, by their path: move the shared part down, or \
         pass it as an argument",
    );
}

#[test]
fn nobody_reaches_past_its_module_by_super() {
    let mut found = Vec::new();
    for source in sources(&[".rs"]) {
        if !source.is_library() || source.path == "src/lib.rs" {
            continue;
        }
        let code = source.library_code();
        let is_top = source.path.ends_with("/mod.rs") || source.path.matches('/').count() == 1;
        for (at, line) in words(&code, "super") {
            let twice = code[at..].starts_with("super::super");
            // `pub(super)` of a top module is the crate, and says so better.
            if is_top || twice {
                found.push(format!("{}:{line}", source.path));
            }
        }
    }
    expect_none(
        &found,
        "`super` stays within a module: say `crate::` to leave it",
    );
}

#[test]
fn every_module_is_declared_with_a_rank() {
    let ranks = ranks();
    let sources = sources(&[".rs"]);
    let modules = sources.iter().filter(|source| source.is_library());
    let missing: Vec<String> = ranks
        .keys()
        // The simulator sees everything, so it has no rank.
        .filter(|name| *name != "tests")
        .filter(|name| {
            !modules
                .clone()
                .any(|source| module_of(&source.path) == **name)
        })
        .cloned()
        .collect();
    expect_none(
        &missing,
        "remove these modules from src/lib.rs, or add their files",
    );
}

// ----- the rest ----------------------------------------------------------------------------------

const SOURCES: &[&str] = &[".rs", ".py", ".toml"];

#[test]
fn lines_are_at_most_100_wide() {
    let mut found = Vec::new();
    for source in sources(SOURCES) {
        for (number, line) in (1..).zip(source.text.lines()) {
            if line.chars().count() > LINE_WIDTH_MAX {
                found.push(format!("{}:{number}", source.path));
            }
        }
    }
    expect_none(&found, "break these lines at 100 columns");
}

/// How many words of a text make persons of things. Names with such a part are words of their own.
fn count_who_words(text: &str) -> usize {
    let words = text.split(|c: char| !is_word_char(c));
    let found = words.filter(|word| WHO_WORDS.contains(&word.to_lowercase().as_str()));
    found.count()
}

#[test]
fn the_subject_of_a_comment_is_the_thing() {
    let mut count = 0;
    for source in sources(&[".rs"]).iter().filter(|one| one.is_library()) {
        for line in source.text.lines() {
            let comment = line.split_once("//").map_or("", |(_, comment)| comment);
            count += count_who_words(comment);
        }
    }
    assert!(
        count <= WHO_WORDS_MAX,
        "{count} of {WHO_WORDS_MAX}: name the loop, the peer, the subscriber, the thread"
    );
}

#[test]
fn the_subject_of_a_document_is_the_thing() {
    let mut found = Vec::new();
    for (path, text) in documents() {
        for (number, line) in (1..).zip(text.lines()) {
            if count_who_words(line) > 0 {
                found.push(format!("{path}:{number}"));
            }
        }
    }
    expect_none(
        &found,
        "name the loop, the peer, the subscriber, the application",
    );
}

#[test]
fn files_are_short() {
    let mut found = Vec::new();
    for source in sources(&[".rs"]).iter().filter(|one| one.is_library()) {
        let known = LONG_FILES.iter().find(|(path, _)| *path == source.path);
        let most = known.map_or(FILE_LINES_MAX, |(_, most)| *most);
        let lines = source.text.lines().count();
        if lines > most {
            found.push(format!("{}: {lines} lines of {most}", source.path));
        }
    }
    expect_none(&found, "split these files: one noun each");
}

#[test]
fn sources_are_ascii() {
    let mut found = Vec::new();
    for source in sources(SOURCES) {
        for (number, line) in (1..).zip(source.text.lines()) {
            if let Some(c) = line.chars().find(|c| !c.is_ascii()) {
                found.push(format!("{}:{number}: {}", source.path, c.escape_unicode()));
            }
        }
    }
    expect_none(
        &found,
        "write ASCII, or an escape such as \\u{e9} in a literal",
    );
}

#[test]
fn lines_end_without_blanks_and_files_with_a_line_break() {
    let mut found = Vec::new();
    for source in sources(SOURCES) {
        for (number, line) in (1..).zip(source.text.lines()) {
            if line != line.trim_end() || line.contains('\t') {
                found.push(format!("{}:{number}", source.path));
            }
        }
        if !source.text.ends_with('\n') && !source.text.is_empty() {
            found.push(format!("{}: no line break at the end", source.path));
        }
    }
    expect_none(
        &found,
        "remove blanks at ends of lines and tabs; end files with a line break",
    );
}

#[test]
fn nothing_is_left_to_be_done() {
    // Put together here, so that this file does not find itself.
    let marks = [
        concat!("FIX", "ME"),
        concat!("TO", "DO"),
        concat!("XX", "X"),
    ];
    let macros = [
        concat!("dbg", "!"),
        concat!("todo", "!"),
        concat!("unimplemented", "!"),
    ];
    let mut found = Vec::new();
    for source in sources(SOURCES) {
        for (number, line) in (1..).zip(source.text.lines()) {
            let marked = marks.iter().any(|mark| !words(line, mark).is_empty());
            if marked || macros.iter().any(|name| line.contains(name)) {
                found.push(format!("{}:{number}: {}", source.path, line.trim()));
            }
        }
    }
    expect_none(&found, "do it, or write it down in docs/decisions.md");
}

#[test]
fn functions_fit_a_screen() {
    let mut found = Vec::new();
    let mut allowed: Vec<&str> = LONG_FUNCTIONS.iter().map(|(name, _)| *name).collect();
    for source in sources(&[".rs"]) {
        // A function of the simulator may list all that a run draws.
        if !source.path.starts_with("src/") || source.path.starts_with("src/tests/") {
            continue;
        }
        let code = source.code();
        for (at, line) in words(&code, "fn") {
            let name = first_word(&code[at + 2..]);
            let lines = code[at..end_of_item(&code, at)].matches('\n').count() + 1;
            if name.is_empty() || lines <= FUNCTION_LINES_MAX {
                continue;
            }
            let place = format!("{}: {name}", source.path);
            match allowed.iter().position(|allowed| **allowed == place) {
                Some(position) => drop(allowed.remove(position)),
                None => found.push(format!("{place} (line {line}) has {lines} lines")),
            }
        }
    }
    expect_none(
        &found,
        "split these functions into ones of at most 70 lines: the parent branches, helpers do the \
         straight-line work",
    );
    let short: Vec<String> = allowed.into_iter().map(str::to_owned).collect();
    expect_none(
        &short,
        "these have become short or are gone: remove them from LONG_FUNCTIONS",
    );
}

/// Every use of a word in the library, outside of the places that may.
fn uses(word: &str, may: impl Fn(&str) -> bool) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources(&[".rs"]) {
        if source.is_library() && !may(&source.path) {
            for (_, line) in words(&source.library_code(), word) {
                found.push(format!("{}:{line}", source.path));
            }
        }
    }
    found
}

#[test]
fn only_the_socket_module_names_mio() {
    let found = uses("mio", |path| path.starts_with("src/socket/"));
    expect_none(
        &found,
        "go through the `Net` trait of src/socket: the simulator has no mio",
    );
}

#[test]
fn only_the_clock_reads_the_clock() {
    let clock = |path: &str| path == "src/clock.rs";
    let mut found = uses("Instant::now", clock);
    found.extend(uses("SystemTime", |_| false));
    expect_none(
        &found,
        "take the time as an argument, or ask src/clock.rs for it",
    );
}

#[test]
fn nothing_is_unsafe() {
    let mut found = Vec::new();
    for source in sources(&[".rs"]) {
        for (_, line) in words(&source.code(), "unsafe") {
            found.push(format!("{}:{line}", source.path));
        }
    }
    expect_none(
        &found,
        "the crate forbids it: use a safe wrapper such as rustix or mio",
    );
}

#[test]
fn no_channel_is_unbounded() {
    let counted = |path: &str| path == "src/sync.rs";
    let found = uses("unbounded", counted);
    expect_none(
        &found,
        "every queue has a bound: crossbeam_channel::bounded, or sync::counted with a count",
    );
}

/// A line that is written once in a while stands for others, and says for how many.
#[test]
fn what_is_logged_once_in_a_while_says_how_much_was_not() {
    let mut found = Vec::new();
    for source in sources(&[".rs"]) {
        if !source.is_library() || source.path == "src/log_limiter.rs" {
            continue;
        }
        let code: String = source.library_code().split_whitespace().collect();
        // The one that asks for the others is no line itself.
        let asked = code.matches("log_limiter.allow(").count()
            + code.matches(".limit_log(").count()
            - code.matches("fnlimit_log(").count();
        let said = source.text.matches("{suppressed}").count();
        if asked != said {
            found.push(format!("{}: {asked} lines, {said} say so", source.path));
        }
    }
    expect_none(&found, "end the line with `{suppressed}`");
}

/// The fuzz targets are a package of their own, which no other command builds: a module that the
/// command line has grown would be missed there only when somebody fuzzes.
#[test]
fn the_fuzz_target_of_the_configuration_file_has_every_module_that_it_needs() {
    const PROGRAM: &str = "src/bin/nebnet/";
    let sources = sources(&[".rs"]);
    let target = "tests/fuzz/fuzz_targets/config_file.rs";
    let Some(target) = sources.iter().find(|source| source.path == target) else {
        // Not part of the published package.
        return;
    };
    let taken: Vec<&str> = target
        .text
        .lines()
        .filter_map(|line| line.strip_prefix("mod ")?.strip_suffix(';'))
        .collect();
    assert!(taken.len() > 5, "not understood: {taken:?}");
    let mut found = Vec::new();
    for source in &sources {
        let module = source.path.strip_prefix(PROGRAM);
        let module = module.and_then(|file| file.split(['/', '.']).next());
        if !module.is_some_and(|module| taken.contains(&module)) {
            continue;
        }
        for (name, line) in crate_paths(&source.library_code()) {
            if !taken.contains(&&*name) {
                found.push(format!("{}:{line}: crate::{name}", source.path));
            }
        }
    }
    expect_none(&found, "take these modules into tests/fuzz as well");
}

// ----- the reader itself -------------------------------------------------------------------------

#[test]
fn comments_and_literals_are_blanked() {
    let code = blank("a // b\n\"c // \\\" d\" e 'f' '\\'' r#\"g\"h\"# 'i: &'j k /* l */ m");
    let left: String = code.split_whitespace().collect();
    assert_eq!(left, "ae'i:&'jkm");
    assert_eq!(blank("\"\n\""), " \n ");
}

#[test]
fn paths_are_found_in_groups() {
    let code = "use crate::{a::B, c::{d, e}, f}; crate::g::h(); pub(crate) fn i() {}";
    let names: Vec<String> = crate_paths(code)
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(names, ["a", "c", "f", "g"]);
}

#[test]
fn items_for_tests_are_left_out() {
    let code = "a\n#[cfg(test)]\nmod tests {\n { b } }\nc #[cfg(test)] mod tests; d";
    let left: String = without_tests(code).split_whitespace().collect();
    assert_eq!(left, "acd");
    assert_eq!(
        without_tests(code).matches('\n').count(),
        code.matches('\n').count()
    );
}

/// A program is stopped without an argument, a service with one: its deadline.
#[test]
fn tests_stop_services_where_the_sums_are_held_against_each_other() {
    let mut found = Vec::new();
    for source in sources(&[".rs"]) {
        if !source.path.starts_with("tests/") || source.path.starts_with("tests/util/") {
            continue;
        }
        for (line, text) in source.code().lines().enumerate() {
            if text.contains(".stop(") && !text.contains(".stop()") {
                found.push(format!("{}:{}", source.path, line + 1));
            }
        }
    }
    expect_none(
        &found,
        "stop a service by util::stop_within, or by what is built on it",
    );
}
