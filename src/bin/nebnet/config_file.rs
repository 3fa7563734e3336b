//! The configuration file: TOML, with the flag names as keys (`_` for `-`).
//!
//! Reading does not stop at the first problem. A line that is no TOML spoils itself, an unknown
//! key or a wrong value spoils its setting, and all of them are told with their lines.

use std::{
    collections::BTreeMap,
    fs::File,
    io::Read as _,
    ops::Range,
    path::{Path, PathBuf},
};

use clap::ValueEnum;
use toml::de::{DeTable, DeValue};

use crate::{
    args::ServeOptions,
    failure::Failure,
    settings::{Origin, Problem},
    units,
};

/// No configuration is longer; a larger file is the wrong one.
const FILE_SIZE_MAX: u64 = 1 << 20;

/// What a file says.
#[derive(Debug, Default)]
pub(crate) struct ConfigFile {
    path: PathBuf,
    pub(crate) options: ServeOptions,
    pub(crate) problems: Vec<Problem>,
    /// The line of each key that is a setting.
    lines: BTreeMap<String, usize>,
}

/// Reads a file. What is wrong inside it becomes [`ConfigFile::problems`].
pub(crate) fn load(path: &Path) -> Result<ConfigFile, Failure> {
    let shown = path.display();
    let fail = |error| Failure::new(format!("cannot read {shown}: {error}"));
    let mut text = String::new();
    let file = File::open(path).map_err(fail)?;
    file.take(FILE_SIZE_MAX + 1)
        .read_to_string(&mut text)
        .map_err(fail)?;
    if text.len() as u64 > FILE_SIZE_MAX {
        return Err(Failure::new(format!(
            "cannot read {shown}: it is above {FILE_SIZE_MAX} bytes"
        )));
    }
    Ok(ConfigFile::parse(path, &text))
}

impl ConfigFile {
    /// Reads the text of the file at `path`.
    pub(crate) fn parse(path: &Path, text: &str) -> Self {
        let (table, errors) = DeTable::parse_recoverable(text);
        let mut file = Self {
            path: path.to_owned(),
            ..Self::default()
        };
        let mut broken = Vec::new();
        for error in errors {
            let line = error.span().map(|span| line_of(text, &span));
            // What the parser says next about the same line is a consequence.
            if line.is_some_and(|line| broken.contains(&line)) {
                continue;
            }
            broken.extend(line);
            // One problem is one line, and the parser may say more than that.
            let message = error.message().lines().collect::<Vec<_>>().join(", ");
            file.problem(line, message);
        }
        for (key, value) in table.get_ref() {
            let line = line_of(text, &key.span());
            // The parser goes on with a guess, about which nothing needs to be said.
            if broken.contains(&line) {
                continue;
            }
            let name: &str = key.get_ref();
            match set(&mut file.options, name, value.get_ref()) {
                Ok(()) => {
                    file.lines.insert(name.to_owned(), line);
                }
                Err(message) => file.problem(Some(line), message),
            }
        }
        file
    }

    /// Where the first of the settings stands that is in the file; without one, the file alone.
    ///
    /// Without a file, everything that was given is a flag.
    pub(crate) fn origin(&self, settings: &[&str]) -> Origin {
        if self.path.as_os_str().is_empty() {
            return Origin::Flag;
        }
        let line = settings
            .iter()
            .find_map(|setting| self.lines.get(*setting))
            .copied();
        Origin::File(self.path.clone(), line)
    }

    fn problem(&mut self, line: Option<usize>, message: String) {
        self.problems.push(Problem {
            origin: Origin::File(self.path.clone(), line),
            message,
        });
    }
}

/// Gives one setting its value, or says what is wrong with it.
fn set(options: &mut ServeOptions, key: &str, value: &DeValue<'_>) -> Result<(), String> {
    let result = match key {
        "listen" => list(value, units::address).map(|read| options.listen = Some(read)),
        "echo" => boolean(value).map(|read| options.echo = Some(read)),
        "connect" => list(value, units::target).map(|read| options.connect = Some(read)),
        "relay" => boolean(value).map(|read| options.relay = Some(read)),
        "print" => boolean(value).map(|read| options.print = Some(read)),
        "stats" => boolean(value).map(|read| options.stats = Some(read)),
        "metrics" => scalar(value, units::address).map(|read| options.metrics = Some(read)),
        "max_payload" => {
            scalar(value, units::size_u32).map(|read| options.max_payload = Some(read))
        }
        "shards" => scalar(value, units::count).map(|read| options.shards = Some(read)),
        "max_peers" => scalar(value, units::count).map(|read| options.max_peers = Some(read)),
        "max_peers_per_addr" => {
            scalar(value, units::count).map(|read| options.max_peers_per_addr = Some(read))
        }
        "max_pending" => scalar(value, units::count).map(|read| options.max_pending = Some(read)),
        "checksums" => boolean(value).map(|read| options.checksums = Some(read)),
        "require_checksums" => boolean(value).map(|read| options.require_checksums = Some(read)),
        "first_frame_timeout" => {
            scalar(value, units::duration).map(|read| options.first_frame_timeout = Some(read))
        }
        "frame_timeout" => {
            scalar(value, units::duration).map(|read| options.frame_timeout = Some(read))
        }
        "idle_timeout" => {
            scalar(value, units::duration).map(|read| options.idle_timeout = Some(read))
        }
        "write_stall_timeout" => {
            scalar(value, units::duration).map(|read| options.write_stall_timeout = Some(read))
        }
        "outbox_bytes" => {
            scalar(value, units::size_usize).map(|read| options.outbox_bytes = Some(read))
        }
        "outbox_messages" => {
            scalar(value, units::count).map(|read| options.outbox_messages = Some(read))
        }
        "outbox_full" => scalar(value, choice).map(|read| options.outbox_full = Some(read)),
        "memory_budget" => {
            scalar(value, units::size_usize).map(|read| options.memory_budget = Some(read))
        }
        "require_hello" => boolean(value).map(|read| options.require_hello = Some(read)),
        "network_id" => scalar(value, units::id_u32).map(|read| options.network_id = Some(read)),
        "node_id" => scalar(value, units::node_id).map(|read| options.node_id = Some(read)),
        "token" => scalar(value, units::token).map(|read| options.token = Some(read)),
        "accept_token" => list(value, units::token).map(|read| options.accept_token = Some(read)),
        "connect_timeout" => {
            scalar(value, units::duration).map(|read| options.connect_timeout = Some(read))
        }
        "heartbeat_interval" => {
            scalar(value, units::duration).map(|read| options.heartbeat_interval = Some(read))
        }
        "heartbeat_timeout" => {
            scalar(value, units::duration).map(|read| options.heartbeat_timeout = Some(read))
        }
        "drain" => scalar(value, units::duration).map(|read| options.drain = Some(read)),
        "dispatch" => scalar(value, choice).map(|read| options.dispatch = Some(read)),
        "idle" => scalar(value, choice).map(|read| options.idle = Some(read)),
        "thread_name" => {
            scalar(value, |text| Ok(text.to_owned())).map(|read| options.thread_name = Some(read))
        }
        "loop_cpus" => list(value, units::count).map(|read| options.loop_cpus = Some(read)),
        "dispatcher_cpus" => {
            list(value, units::count).map(|read| options.dispatcher_cpus = Some(read))
        }
        "log_level" => scalar(value, choice).map(|read| options.log_level = Some(read)),
        _ => return Err(unknown(key)),
    };
    result.map_err(|message| format!("{key}: {message}"))
}

/// Every flag of `serve` is a key, except the one that names the file.
fn unknown(key: &str) -> String {
    if key == "config" {
        return "unknown setting `config`: a file cannot name another one".to_owned();
    }
    let spelled = key.replace('-', "_");
    if spelled != key && set_exists(&spelled) {
        return format!("unknown setting `{key}`: it is spelled `{spelled}` here");
    }
    format!("unknown setting `{key}`")
}

fn set_exists(key: &str) -> bool {
    // No setting takes a table, so the only other answer is that the key is unknown.
    let refused = set(
        &mut ServeOptions::default(),
        key,
        &DeValue::Table(DeTable::new()),
    );
    refused.is_err_and(|message| !message.starts_with("unknown"))
}

/// One value, or an array of at least one.
fn list<T>(
    value: &DeValue<'_>,
    parse: impl Fn(&str) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    let DeValue::Array(array) = value else {
        return scalar(value, parse).map(|one| vec![one]);
    };
    let (read, wrong): (Vec<_>, Vec<_>) = array
        .iter()
        .map(|value| scalar(value.get_ref(), &parse))
        .partition(Result::is_ok);
    let wrong: Vec<_> = wrong.into_iter().filter_map(Result::err).collect();
    if !wrong.is_empty() {
        return Err(wrong.join(", "));
    }
    if read.is_empty() {
        return Err("the array is empty".to_owned());
    }
    Ok(read.into_iter().flatten().collect())
}

fn boolean(value: &DeValue<'_>) -> Result<bool, String> {
    match value {
        DeValue::Boolean(value) => Ok(*value),
        DeValue::String(_)
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Datetime(_)
        | DeValue::Array(_)
        | DeValue::Table(_) => Err(format!("{} instead of true or false", kind(value))),
    }
}

/// A value that the flag of the same name would take: the text of a string or of an integer.
fn scalar<T>(
    value: &DeValue<'_>,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<T, String> {
    match value {
        DeValue::String(text) => parse(text),
        DeValue::Integer(integer) => match u64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(number) => parse(&number.to_string()),
            // Negative or too large, which the parser of the value says in its own words.
            Err(_) => parse(&integer.to_string()),
        },
        DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_)
        | DeValue::Array(_)
        | DeValue::Table(_) => Err(format!(
            "{} instead of a string or a whole number",
            kind(value)
        )),
    }
}

fn choice<T: ValueEnum>(text: &str) -> Result<T, String> {
    T::from_str(text, false).map_err(|_| {
        let names: Vec<_> = T::value_variants()
            .iter()
            .filter_map(|variant| variant.to_possible_value())
            .map(|value| value.get_name().to_owned())
            .collect();
        format!("`{text}` is not one of {}", names.join(", "))
    })
}

const fn kind(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// Lines count from 1, as editors do.
fn line_of(text: &str, span: &Range<usize>) -> usize {
    let before = text.as_bytes().get(..span.start).unwrap_or(text.as_bytes());
    1 + before.iter().filter(|byte| **byte == b'\n').count()
}

/// What fuzzers call: any text is read to its end, and what is wrong with it is told in lines.
#[cfg(any(test, fuzzing))]
pub(crate) fn fuzz(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let read = || ConfigFile::parse(Path::new("f"), &text);
    let lines = 1 + text.matches('\n').count();
    let said = |problems: &[Problem]| -> Vec<String> {
        for problem in problems {
            let Origin::File(_, line) = &problem.origin else {
                panic!("{problem:?} was not given as a flag");
            };
            assert!(line.is_none_or(|line| (1..=lines).contains(&line)));
            assert!(!problem.message.is_empty());
        }
        problems.iter().map(ToString::to_string).collect()
    };
    let first = said(&read().problems);
    assert_eq!(said(&read().problems), first);
    match crate::settings::resolve(ServeOptions::default(), Some(read())) {
        Ok(settings) => {
            assert_eq!((first.len(), settings.config.problems().len()), (0, 0));
        }
        Err(problems) => assert!(said(&problems).len() >= first.len().max(1)),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn problems(text: &str) -> Vec<String> {
        let file = ConfigFile::parse(Path::new("f"), text);
        file.problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_setting_can_be_given() {
        let text = r#"
            listen = ["127.0.0.1:1", "[::1]:2"]
            shards = 4
            echo = true
            print = false
            stats = false
            metrics = "127.0.0.1:3"
            max_payload = "2M"
            max_peers = 1_000
            max_peers_per_addr = 3
            max_pending = 9
            checksums = true
            require_checksums = true
            first_frame_timeout = "1s"
            frame_timeout = "500ms"
            idle_timeout = 0
            write_stall_timeout = "1m"
            outbox_bytes = 0x10_0000
            outbox_messages = 10
            outbox_full = "drop-oldest"
            memory_budget = "1G"
            require_hello = true
            network_id = 7
            drain = "2s"
            dispatch = "inline"
            log_level = "debug"
            idle = "block"
            thread_name = "core"
            loop_cpus = [0, 1]
            dispatcher_cpus = 2
        "#;
        let file = ConfigFile::parse(Path::new("f"), text);
        assert_eq!(problems(text), Vec::<String>::new());
        assert_eq!(file.options.listen.map(|listen| listen.len()), Some(2));
        assert_eq!(file.options.max_payload, Some(2 << 20));
        assert_eq!(file.options.shards, Some(4));
        assert_eq!(file.options.max_peers, Some(1000));
        assert_eq!(file.options.idle_timeout, Some(Duration::ZERO));
        assert_eq!(file.options.frame_timeout, Some(Duration::from_millis(500)));
        assert_eq!(file.options.outbox_bytes, Some(1 << 20));
        assert_eq!(file.options.loop_cpus, Some(vec![0, 1]));
        assert_eq!(file.options.dispatcher_cpus, Some(vec![2]));
        assert_eq!(file.lines.len(), 29);
        assert_eq!(file.lines["listen"], 2);
    }

    #[test]
    fn one_address_needs_no_list() {
        let file = ConfigFile::parse(Path::new("f"), "listen = \"127.0.0.1:1\"");
        assert_eq!(file.options.listen.map(|listen| listen.len()), Some(1));
    }

    #[test]
    fn all_problems_are_told_with_their_lines() {
        let found = problems(concat!(
            "max-peers = 1\n",
            "echo = \"yes\"\n",
            "drain = 5\n",
            "max_payload = 1.5\n",
            "listen = [\"a\", \"b\"]\n",
            "max_peers = = 3\n",
            "colour = \"red\"\n",
            "[serve]\n",
            "x = 1\n",
        ));
        let expected = [
            "f:1: unknown setting `max-peers`: it is spelled `max_peers` here",
            "f:2: echo: a string instead of true or false",
            "f:3: drain: `5` has no unit",
            "f:4: max_payload: a number with a fraction instead of",
            "f:5: listen: `a` is no address",
            "f:6: ",
            "f:7: unknown setting `colour`",
            "f:8: unknown setting `serve`",
        ];
        assert_eq!(found.len(), expected.len(), "{found:#?}");
        for start in expected {
            assert!(
                found.iter().any(|line| line.starts_with(start)),
                "{start}: {found:#?}"
            );
        }
    }

    #[test]
    fn negative_and_huge_numbers_are_refused() {
        assert!(problems("max_peers = -1")[0].contains("`-1` is no number"));
        assert!(problems("max_peers = 99999999999999999999").len() == 1);
        assert!(problems("network_id = 4294967296")[0].contains("not in range"));
    }
    /// Everything that fuzzers found worth keeping.
    #[test]
    fn the_corpus_of_the_configuration_file_is_read() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus/config_file");
        // The published package has no corpus.
        let Ok(entries) = std::fs::read_dir(folder) else {
            return;
        };
        for entry in entries {
            let path = entry.unwrap().path();
            println!("{}", path.display());
            fuzz(&std::fs::read(path).unwrap());
        }
    }
}
