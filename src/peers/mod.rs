//! All peers of a loop, without I/O.
//!
//! [`Peers`] joins the peers with their slots, their timers and the pool of blocks, and decides who
//! may read and write. It is told what happened (`handle_*`) and asked what to do next (`poll_*`);
//! the event loop does the system calls in between. A turn goes like this: `begin_turn`, then for
//! each peer that `poll_read` names `prepare_read` and `handle_read`, then for each that
//! `poll_write` names `fill_slices` and `handle_written`, then `poll_timer` until it gives none,
//! and `poll_action` whenever something may have been closed.
//!
//! A connection on which nothing is under way is dormant: a short form of it is in the
//! [`Table`]; what asks for it to change it finds it made whole.
//!
//! Invariants:
//! - a peer whose input is ready and that is not paused is in the read list; one that has output
//!   and may write is in the write list (so no edge is lost)
//! - a connection's timer is never later than its peer's next deadline
//! - the connections that count for the limit of peers are those that were not refused

mod accepting;
mod acknowledgement;
mod admission;
mod admitting;
mod asking;
mod census;
mod closing;
mod connection;
mod cut;
mod deadlines;
mod dialling;
mod doubles;
mod ended;
mod ends;
mod eviction;
mod expiry;
mod handlers;
mod input;
mod introduction;
mod linking;
mod links;
mod looks;
mod losses;
mod names;
mod node_registry;
mod nodes;
mod output;
mod pausing;
mod pressure;
mod read_buffer;
mod reading;
mod reconfigure;
mod requests;
mod rows;
mod state;
mod stop;
mod stopping;
mod table;
#[cfg(test)]
mod tests;
mod told;
mod turn;
mod turn_lists;
mod vectored_read;
mod writing;

pub(crate) use census::{Census, PeerLimits};
pub(crate) use cut::CutWalk;
pub(crate) use deadlines::Timer;
pub use handlers::HandlerOptions;
pub(crate) use handlers::Handlers;
pub(crate) use node_registry::NodeRegistry;
pub(crate) use rows::RowWalk;
pub(crate) use state::Peers;
pub(crate) use stop::Stop;
pub(crate) use turn_lists::Action;
