//! The configuration file belongs to the command line, which is no library: its modules are taken
//! in as they are.

#![no_main]
#![allow(
    dead_code,
    reason = "the command line uses what the reader of its file does not"
)]

#[path = "../../../src/bin/nebnet/args.rs"]
mod args;
#[path = "../../../src/bin/nebnet/config_file.rs"]
mod config_file;
#[path = "../../../src/bin/nebnet/failure.rs"]
mod failure;
#[path = "../../../src/bin/nebnet/relay.rs"]
mod relay;
#[path = "../../../src/bin/nebnet/settings.rs"]
mod settings;
#[path = "../../../src/bin/nebnet/text.rs"]
mod text;
#[path = "../../../src/bin/nebnet/units.rs"]
mod units;
#[path = "../../../src/bin/nebnet/worker.rs"]
mod worker;

libfuzzer_sys::fuzz_target!(|data: &[u8]| config_file::fuzz(data));
