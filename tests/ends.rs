//! How connections end, and that nothing is lost with them that is not named: a stop, a close, a
//! BYE, a FIN, a protocol error and a node that comes again, seen from both sides.
#![allow(
    missing_docs,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::wildcard_enum_match_arm,
    reason = "tests wait by the clock, and end where something is wrong"
)]

mod util;

#[path = "ends/clients.rs"]
mod clients;
#[path = "ends/pauses.rs"]
mod pauses;
#[path = "ends/rolling.rs"]
mod rolling;
#[path = "ends/services.rs"]
mod services;
#[path = "ends/world.rs"]
mod world;
