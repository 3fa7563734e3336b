//! Holds the options of `docs/command-line.md` against those of the program.
//!
//! `UPDATE=1 cargo test --all-features --bin nebnet` writes the table anew. Names, defaults and
//! ranges come from the program, and so do values that are a number or one of several words; other
//! values, and what an option is for, are the words of the document. An option that is new there
//! begins with those of its help.

use std::{collections::HashMap, env, fs, path::Path};

use nebnet::Setting;

use super::*;

const DOCUMENT: &str = "docs/command-line.md";
const RENEW: &str = "UPDATE=1 cargo test --all-features --bin nebnet";
const START: &str = "<!-- Renewed by `UPDATE=1 cargo test --all-features --bin nebnet` -->\n";
const END: &str = "<!-- Until here. -->\n";
const HEAD: &str = "| option | value | default | range | |\n|---|---|---|---|---|\n";

#[test]
fn the_table_of_options_is_that_of_the_program() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(DOCUMENT);
    let text = fs::read_to_string(&path).unwrap();
    let (before, rest) = text.split_once(START).unwrap();
    let (table, after) = rest.split_once(END).unwrap();
    let renewed = renewed(table);
    if env::var_os("UPDATE").is_some() {
        fs::write(path, [before, START, &renewed, END, after].concat()).unwrap();
        return;
    }
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    let (kept, renewed) = (lines(table), lines(&renewed));
    let gone = kept.iter().filter(|line| !renewed.contains(line));
    let new = renewed.iter().filter(|line| !kept.contains(line));
    let gone = gone.map(|line| format!("- {line}"));
    let changes: Vec<_> = gone.chain(new.map(|line| format!("+ {line}"))).collect();
    let text = changes.join("\n");
    assert!(
        kept == renewed,
        "{DOCUMENT} is not what `{RENEW}` writes:\n{text}"
    );
}

/// Each setting that an option has is one of the library's, and the other way round but for those
/// that the command line decides itself.
#[test]
fn options_and_settings_are_the_same_ones() {
    let serve = serve();
    let options: Vec<_> = serve
        .get_arguments()
        .map(|arg| arg.get_id().as_str())
        .collect();
    let settings = options.iter().filter_map(|option| setting_of(option));
    let named: Vec<_> = settings.map(Setting::name).collect();
    let without: Vec<_> = nebnet::Config::settings()
        .iter()
        .map(Setting::name)
        .filter(|name| !named.contains(name))
        .collect();
    let expected = [
        "tcp_user_timeout",
        "reconnect_min",
        "reconnect_max",
        "send_buffer",
        "recv_buffer",
        "max_requests",
        "agent",
        "dispatch_messages",
        "dispatch_bytes",
    ];
    assert_eq!(without, expected);
}

/// What SIGHUP changes is what the library can change, and what the command line does itself.
#[test]
fn the_document_names_what_can_change_while_running() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(DOCUMENT);
    let text = fs::read_to_string(path).unwrap();
    let list = text.split_once("From then on these hold").unwrap().1;
    let (list, _) = list.split_once("A bound that is lower").unwrap();
    assert!(list.contains("every timeout"), "{list}");
    let mut named: Vec<_> = list.split('`').skip(1).step_by(2).collect();
    named.sort_unstable();
    let serve = serve();
    let options = serve.get_arguments().map(|arg| arg.get_id().as_str());
    let mut expected: Vec<_> = options
        .filter(|option| match setting_of(option) {
            Some(setting) => setting.is_live() && setting.unit() != "ms",
            None => ["drain", "log_level"].contains(option),
        })
        .collect();
    expected.sort_unstable();
    assert_eq!(named, expected, "in {DOCUMENT}");
}

/// What values may be, whatever they are for, is what the library allows.
#[test]
fn the_longest_values_are_those_of_the_library() {
    let max = |option| setting_of(option).and_then(Setting::max);
    assert_eq!(max("max_payload"), Some(units::PAYLOAD_SIZE_MAX.into()));
    let longest = max("connect_timeout").unwrap();
    assert!(units::duration(&format!("{longest}ms")).is_ok());
    assert!(units::duration(&format!("{}ms", longest + 1)).is_err());
    let longest = usize::try_from(max("token").unwrap()).unwrap();
    assert!(units::token(&"t".repeat(longest)).is_ok());
    assert!(units::token(&"t".repeat(longest + 1)).is_err());
}

/// A default of the table is something that the option takes.
#[test]
fn a_default_can_be_given() {
    for arg in serve().get_arguments() {
        let Some(default) = default_of(arg) else {
            continue;
        };
        let text = default.trim_end_matches(" = off");
        let flag = arg.get_long().unwrap();
        let given = ["nebnet", "serve", &format!("--{flag}={text}")];
        let read = command().try_get_matches_from(given);
        assert!(read.is_ok(), "--{flag}={text}: {read:?}");
    }
}

fn serve() -> Command {
    command().find_subcommand("serve").unwrap().clone()
}

/// The table of what the program takes, with the words of a table that there was.
fn renewed(table: &str) -> String {
    let mut words = HashMap::new();
    for line in table.lines() {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
        words.insert(cells[0].to_owned(), cells);
    }
    let mut renewed = HEAD.to_owned();
    for arg in serve().get_arguments() {
        let option = format!("`--{}`", arg.get_long().unwrap());
        let help = arg.get_help().unwrap().to_string();
        let (help, notes) = help.split_once(" [").unwrap_or((&help, ""));
        let kept = words.get(&option);
        let kept = |at: usize, new: &str| -> String {
            kept.and_then(|cells| cells.get(at))
                .map_or(new, |cell| cell)
                .to_owned()
        };
        let name = kind_of(&arg.clone()).to_owned();
        let value = value_of(arg).unwrap_or_else(|| kept(1, &name));
        let default = note(notes, "default: ").unwrap_or_else(|| {
            let is_switch = name == "BOOL";
            if is_switch {
                "off".to_owned()
            } else {
                kept(2, "none")
            }
        });
        let range = note(notes, "range: ").unwrap_or_default();
        let row = [option, value, default, range, kept(4, help)];
        let row = row.map(|cell| {
            if cell.is_empty() {
                cell
            } else {
                format!(" {cell} ")
            }
        });
        // An empty cell is a blank.
        let row = row.map(|cell| {
            if cell.is_empty() {
                " ".to_owned()
            } else {
                cell
            }
        });
        renewed.push_str(&format!("|{}|\n", row.join("|")));
    }
    renewed
}

/// What stands in brackets behind a word, with options as code.
fn note(notes: &str, word: &str) -> Option<String> {
    let (text, _) = notes.split_once(word)?.1.split_once(']')?;
    let words = text.split(' ').map(|word| {
        if word.starts_with("--") {
            format!("`{word}`")
        } else {
            word.to_owned()
        }
    });
    Some(words.collect::<Vec<_>>().join(" "))
}

/// What an option takes, where that is no word of its own.
fn value_of(arg: &Arg) -> Option<String> {
    let words = arg.get_possible_values();
    if !words.is_empty() {
        let words: Vec<_> = words
            .iter()
            .map(|one| format!("`{}`", one.get_name()))
            .collect();
        return Some(words.join(", "));
    }
    let name = match kind_of(arg) {
        "BOOL" => "",
        "N" => "number",
        "SIZE" => "size",
        "DURATION" => "duration",
        _ => return None,
    };
    Some(name.to_owned())
}
