//! What `--help` says of defaults and ranges, which are those of the library: the help of an option
//! says in words what it is for, and gets the rest from the table of settings.

use clap::{Arg, ArgMatches, Command, CommandFactory as _, FromArgMatches as _, ValueEnum as _};
use nebnet::SettingValue;

use crate::{
    args::Args,
    settings::{DRAIN_DEFAULT, LOG_LEVEL_DEFAULT, setting_of},
    units,
};

/// Reads the arguments of the program. Prints help, version and usage errors, and ends with exit
/// code 0 or 2.
pub(crate) fn parse() -> Args {
    let read = |matches: ArgMatches| Args::from_arg_matches(&matches);
    read(command().get_matches()).unwrap_or_else(|error| error.format(&mut command()).exit())
}

fn command() -> Command {
    Args::command().mut_subcommand("serve", |serve| serve.mut_args(complete))
}

/// Adds what the table says of an option to its help.
fn complete(arg: Arg) -> Arg {
    let default = default_of(&arg).map(|text| format!(" [default: {text}]"));
    let range = range_of(&arg).map(|text| format!(" [range: {text}]"));
    let notes = [default, range].map(Option::unwrap_or_default).concat();
    let Some(help) = arg.get_help().filter(|_| !notes.is_empty()) else {
        return arg;
    };
    let help = format!("{help}{notes}");
    arg.help(help)
}

/// The default as the option is given it. None where nothing is what is not given: no list, no
/// token, no switch; and where the help has words for it.
fn default_of(arg: &Arg) -> Option<String> {
    match arg.get_id().as_str() {
        "drain" => {
            let ms = u64::try_from(DRAIN_DEFAULT.as_millis()).ok()?;
            return Some(units::duration_text(ms));
        }
        "log_level" => {
            let value = LOG_LEVEL_DEFAULT.to_possible_value()?;
            return Some(value.get_name().to_owned());
        }
        _ => {}
    }
    let setting = setting_of(arg.get_id().as_str())?;
    let kind = kind_of(arg);
    // An id that is all zero stands for none.
    if matches!(kind, "TOKEN" | "HEX" | "BOOL") {
        return None;
    }
    let default = setting.default();
    let SettingValue::Number(number) = default else {
        return Some(default.to_string()).filter(|text| !text.is_empty());
    };
    if number == 0 && setting.zero_is_off() {
        return Some("0 = off".to_owned());
    }
    Some(number_text(number, kind))
}

/// The range of the setting. None for durations that may be anything: what `DURATION` stands for
/// says that they may be off.
fn range_of(arg: &Arg) -> Option<String> {
    let setting = setting_of(arg.get_id().as_str())?;
    let kind = kind_of(arg);
    if kind == "DURATION" && setting.zero_is_off() {
        return None;
    }
    let unit = match (setting.unit(), kind) {
        ("" | "ms", _) | ("bytes", "SIZE") => String::new(),
        (unit, _) => format!(" {unit}"),
    };
    let text = |number| number_text(number, kind);
    let said = match (setting.min(), setting.max()) {
        (0, None) => None,
        // A bound such as 1G - 1.
        (0, Some(max)) if kind == "SIZE" && max % 2 == 1 => {
            Some(format!("below {}{unit}", text(max + 1)))
        }
        (0, Some(max)) => Some(format!("up to {}{unit}", text(max))),
        (min, None) => Some(format!("from {}{unit}", text(min))),
        (min, Some(max)) => Some(format!("{} to {}{unit}", text(min), text(max))),
    };
    let is_off = setting.zero_is_off() && setting.default() != SettingValue::Number(0);
    let off = is_off.then(|| "0 = off".to_owned());
    let parts: Vec<_> = said.into_iter().chain(off).collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// What the value is called: `SIZE`, `N`.
fn kind_of(arg: &Arg) -> &str {
    let names = arg.get_value_names().unwrap_or_default();
    names.first().map_or("", |name| name.as_str())
}

fn number_text(number: u64, kind: &str) -> String {
    match kind {
        "SIZE" => units::size_text(number),
        "DURATION" => units::duration_text(number),
        _ => number.to_string(),
    }
}

#[cfg(test)]
mod tests;
