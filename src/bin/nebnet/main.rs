//! The command line of nebnet: `serve` runs a service, `send` speaks to one, `check` reads a
//! configuration.
//!
//! Everything here stands on the public API of the library. Exit codes: 0 done, 1 failed with one
//! line on standard error, 2 wrong usage, 130 stopped by a second signal.

mod arenas;
mod args;
mod check;
mod config_file;
mod echo;
mod exposition;
mod failure;
mod help;
mod http;
mod links;
mod logger;
mod pages;
mod print;
mod prometheus;
mod relay;
mod reload;
mod send;
mod serve;
mod settings;
mod signals;
mod stats;
mod tap;
mod text;
mod time;
mod units;
mod worker;

use std::process::ExitCode;

fn main() -> ExitCode {
    // Prints help, version and usage errors itself, with exit code 0 or 2.
    let args = help::parse();
    let result = match args.command {
        args::Command::Serve(serve) => {
            arenas::limit();
            serve::run(serve)
        }
        args::Command::Send(send) => send::run(send),
        args::Command::Check(check) => check::run(&check),
    };
    // Behind every log line, and over a status line that stands on the terminal.
    let readable = logger::finish();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if readable {
                failure.show();
            }
            failure.exit_code()
        }
    }
}
