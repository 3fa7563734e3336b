//! The command line, run as a program: every option, every exit code.
//!
//! Services listen on port 0 and say where. Nothing here sleeps to be right: a test waits for a
//! line, for bytes or for an exit, and a watchdog kills a program that lets it wait too long.
#![cfg(feature = "cli")]
#![expect(
    clippy::unwrap_used,
    reason = "clippy sees tests only in functions that are marked so"
)]

#[path = "cli/harness.rs"]
mod harness;
#[path = "cli/ledgers.rs"]
mod ledgers;
#[path = "cli/limits.rs"]
mod limits;
#[path = "cli/links.rs"]
mod links;
#[path = "cli/mesh.rs"]
mod mesh;
#[path = "cli/metrics.rs"]
mod metrics;
#[path = "cli/relay.rs"]
mod relay;
#[path = "cli/reload.rs"]
mod reload;
#[path = "cli/send.rs"]
mod send;
#[path = "cli/serve.rs"]
mod serve;
#[path = "cli/settings.rs"]
mod settings;
#[path = "cli/stop.rs"]
mod stop;
#[path = "cli/triangle.rs"]
mod triangle;
