//! The configuration file: TOML, with the flag names as keys (`_` for `-`).
//!
//! Reading does not stop at the first problem. A line that is no TOML spoils itself, an unknown
//! key or a wrong value spoils its setting, and all of them are told with their lines.

use std::{
    collections::BTreeMap,
    error::Error as _,
    fs::File,
    io::Read as _,
    ops::Range,
    path::{Path, PathBuf},
};

use clap::{
    ArgAction, Args as _, Command, FromArgMatches as _,
    error::{ContextKind, ContextValue},
};
use toml::de::{DeTable, DeValue};

use crate::{
    args::ServeOptions,
    failure::Failure,
    settings::{Origin, Problem},
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
///
/// The value goes the way of the flag's, so that a key takes exactly what its flag takes.
fn set(options: &mut ServeOptions, key: &str, value: &DeValue<'_>) -> Result<(), String> {
    let flag = key.replace('_', "-");
    let command = ServeOptions::augment_args(Command::new("serve").no_binary_name(true));
    let arg = command
        .get_arguments()
        .find(|arg| arg.get_long() == Some(&*flag));
    let Some(arg) = arg.filter(|_| !key.contains('-')) else {
        return Err(unknown(key, arg.is_some()));
    };
    let is_list = matches!(arg.get_action(), ArgAction::Append);
    let texts = texts_of(value, is_list).map_err(|message| format!("{key}: {message}"))?;
    let mut wrong = Vec::new();
    // One at a time, so that of several wrong ones each is named.
    for text in &texts {
        let given = command
            .clone()
            .try_get_matches_from([format!("--{flag}={text}")]);
        wrong.extend(given.err().map(|error| reason_of(&error)));
    }
    if !wrong.is_empty() {
        return Err(format!("{key}: {}", wrong.join(", ")));
    }
    let given = texts.iter().map(|text| format!("--{flag}={text}"));
    command
        .try_get_matches_from(given)
        .and_then(|matches| options.update_from_arg_matches(&matches))
        .map_err(|error| format!("{key}: {}", reason_of(&error)))
}

/// Every flag of `serve` is a key, except the one that names the file.
fn unknown(key: &str, is_flag: bool) -> String {
    if key == "config" {
        return "unknown setting `config`: a file cannot name another one".to_owned();
    }
    if is_flag {
        let spelled = key.replace('-', "_");
        return format!("unknown setting `{key}`: it is spelled `{spelled}` here");
    }
    format!("unknown setting `{key}`")
}

/// What the command line would be given: a string is text as it is, and a setting that may be
/// repeated takes an array.
fn texts_of(value: &DeValue<'_>, is_list: bool) -> Result<Vec<String>, String> {
    if let (true, DeValue::Array(values)) = (is_list, value) {
        if values.is_empty() {
            return Err("the array is empty".to_owned());
        }
        return values.iter().map(|one| text_of(one.get_ref())).collect();
    }
    text_of(value).map(|text| vec![text])
}

fn text_of(value: &DeValue<'_>) -> Result<String, String> {
    match value {
        DeValue::String(text) => Ok(text.clone().into_owned()),
        DeValue::Boolean(value) => Ok(value.to_string()),
        DeValue::Integer(integer) => Ok(
            match u64::from_str_radix(integer.as_str(), integer.radix()) {
                Ok(number) => number.to_string(),
                // Negative or too large, which the parser of the value says in its own words.
                Err(_) => integer.to_string(),
            },
        ),
        DeValue::Float(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => {
            Err(format!(
                "{} instead of a string, a whole number, true or false",
                kind(value)
            ))
        }
    }
}

/// What is wrong with a value, without what the command line says around it.
fn reason_of(error: &clap::Error) -> String {
    if let Some(source) = error.source() {
        return source.to_string();
    }
    let value = error.get(ContextKind::InvalidValue);
    match (value, error.get(ContextKind::ValidValue)) {
        (Some(ContextValue::String(value)), Some(ContextValue::Strings(names))) => {
            format!("`{value}` is not one of {}", names.join(", "))
        }
        _ => {
            // A parser that says its own line, because the value is not to be repeated.
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            line.rsplit_once("': ")
                .map_or(line, |(_, reason)| reason)
                .to_owned()
        }
    }
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
    match crate::settings::resolve(
        ServeOptions::default(),
        Some(read()),
        nebnet::NodeId::ANONYMOUS,
    ) {
        Ok(settings) => {
            assert_eq!((first.len(), settings.config.problems().len()), (0, 0));
        }
        Err(problems) => assert!(said(&problems).len() >= first.len().max(1)),
    }
}

#[cfg(test)]
mod tests;
