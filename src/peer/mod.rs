//! One peer, without I/O: bytes in, bytes out, time as an argument.
//!
//! A [`Peer`] takes received bytes ([`handle_bytes`](Peer::handle_bytes)), tells which of them are
//! whole frames, answers the protocol's own messages, and judges its deadlines
//! ([`next_deadline`](Peer::next_deadline), [`judge`](Peer::judge)). What it wants to write is in
//! its [`Outbox`](crate::outbox::Outbox). It knows no other peer, no socket and no subscriber.
//!
//! Deadlines about receiving stand still while we do not read: that of this peer alone, by
//! [`set_reading`](Peer::set_reading), that of all by a time of receiving that lags behind.
//! The methods that take bytes get the time of receiving; all others get the time.
//!
//! The files, each of which imports from earlier ones only: what a peer is made of, which is
//! `state`, `input_times`, `rules`, `counts`, `discard`, `ending`, `writes`, `stall`, `sent`,
//! `parsed` and `greeting`; `machine`, the peer itself and the only writer of its state; `output`;
//! `closing`; `deadlines`; `protocol`, the messages of the protocol; `input`; `dormant`; `fuzz`.

mod closing;
mod counts;
mod deadlines;
mod discard;
mod dormant;
mod ending;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod greeting;
mod input;
mod input_times;
mod machine;
mod output;
mod parsed;
mod protocol;
mod rules;
mod sent;
mod stall;
mod state;
#[cfg(test)]
mod tests;
mod writes;

pub(crate) use deadlines::Verdict;
pub(crate) use dormant::{Dormant, Tally, Untouched};
pub(crate) use greeting::HelloState;
pub(crate) use machine::{Dial, Peer};
pub(crate) use parsed::{Fault, Parsed};
pub(crate) use rules::Rules;
pub(crate) use stall::Told;
pub(crate) use state::State;
