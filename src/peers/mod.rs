//! All peers of a loop, without I/O.
//!
//! [`Peers`] joins the peers with their slots, their timers and the pool of blocks, and decides who
//! may read and write. It is told what happened (`handle_*`) and asked what to do next (`poll_*`);
//! the event loop does the system calls in between. A turn goes like this: `begin_turn`, then for
//! each peer that `poll_read` names `prepare_read` and `handle_read`, then for each that
//! `poll_write` names `fill_slices` and `handle_written`, then `poll_timer` until it gives none,
//! and `lists.poll_action` whenever something may have been closed.
//!
//! A connection on which nothing is under way is dormant: a short form of it is in the table; what
//! asks for it to change it finds it made whole.
//!
//! # Files by rank
//!
//! A file uses those of lower ranks only, also by the methods that it calls. What a loop knows is
//! with its owners, each of which says in its head what it keeps. The steps of one connection are
//! methods of `Common` and take it as an argument; a method of `Peers` looks it up, once, or is
//! about several.
//!
//! | rank | files | what they are |
//! |---|---|---|
//! | 0 | `connection`, `read_buffer`, `node_registry`, `losses`, `stop` | parts of owners |
//! | 1 | `census`, `table`, `turn_lists`, `deadlines`, `vectored_read`, `handlers` | owners |
//! | 2 | `told`, `input`, `pressure`, `admission`, `links`, `nodes`, `ended` | owners |
//! | 2 | `acknowledgement` | an owner |
//! | 3 | `state` | [`Peers`]: the table, and `Common`: the owners |
//! | 4 | `pausing`, `output`, `requests`, `asking`, `admitting` | steps that close no connection |
//! | 5 | `closing` | steps that may close the connection |
//! | 5 | `doubles` | two services with one node id |
//! | 6 | `dialling` | attempts of links |
//! | 7 | `names`, `ends` | addresses of links; the end of a connection, and [`Peers::on`] |
//! | 8 | `accepting`, `introduction`, `expiry`, `looks`, `writing`, `eviction` | events of one |
//! | 9 | `reading`, `linking` | reads, which may introduce a peer; links as they are asked for |
//! | 10 | `stopping`, `reconfigure`, `cut`, `rows` | what is about all connections |
//! | 11 | `turn` | what is done when |
//!
//! Who may be read and written, [`TurnLists`](turn_lists::TurnLists) says; how timers follow
//! deadlines, [`Deadlines`](deadlines::Deadlines).

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
