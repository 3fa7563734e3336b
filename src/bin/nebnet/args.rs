//! What can be asked on the command line.
//!
//! [`ServeOptions`] is also what a configuration file is read into: every setting is an `Option`,
//! so that flags can be laid over the file.

use std::{ffi::OsStr, net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Arg, Parser, Subcommand, ValueEnum, builder::TypedValueParser, error::ErrorKind};
use log::LevelFilter;
use nebnet::{MessageType, NodeId};

use crate::units;

/// A TCP message core: typed, length-prefixed messages between peers and subscribers
#[derive(Debug, Parser)]
#[command(name = "nebnet", version, arg_required_else_help = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a service
    Serve(Box<ServeArgs>),
    /// Send messages to a service and wait for the end of the connection
    Send(SendArgs),
    /// Say every problem of a configuration file
    Check(CheckArgs),
}

/// What the values of options look like.
const FORMS: &str = "DURATION: a whole number with ms, s, m or h; 0 = off. \
    SIZE: bytes, or with K, M or G (powers of 1024).";

#[derive(Debug, clap::Args)]
#[command(after_help = FORMS)]
pub(crate) struct ServeArgs {
    /// Read settings from a TOML file; flags win over it; SIGHUP reads it again
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) options: ServeOptions,
}

/// The settings of `serve`. Of those that the library has, `--help` gets default and range from its
/// table.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct ServeOptions {
    /// Address to listen on; may be given more than once; port 0 picks a free port
    #[arg(long, value_name = "ADDR", value_parser = units::address)]
    pub(crate) listen: Option<Vec<SocketAddr>>,
    /// Loops that share the connections, each with two threads of its own
    #[arg(long, value_name = "N", value_parser = units::count)]
    pub(crate) shards: Option<usize>,
    /// Send every message back to its sender
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_parser = units::boolean)]
    pub(crate) echo: Option<bool>,
    /// Service to stay connected to, HOST:PORT; may be given more than once
    #[arg(long, value_name = "ADDR", value_parser = units::target)]
    pub(crate) connect: Option<Vec<String>>,
    /// Pass every message on to all peers but its sender
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_parser = units::boolean)]
    pub(crate) relay: Option<bool>,
    /// Print one line per message: peer, type, length, text or hex, payload
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_parser = units::boolean)]
    pub(crate) print: Option<bool>,
    /// Show a status line a second on standard error [default: only on a terminal]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_parser = units::boolean)]
    pub(crate) stats: Option<bool>,
    /// Serve metrics over HTTP on this address
    #[arg(long, value_name = "ADDR", value_parser = units::address)]
    pub(crate) metrics: Option<SocketAddr>,
    /// Longest payload that is accepted
    #[arg(long, value_name = "SIZE", value_parser = units::size_u32)]
    pub(crate) max_payload: Option<u32>,
    /// Most peers
    #[arg(long, value_name = "N", value_parser = units::count)]
    pub(crate) max_peers: Option<usize>,
    /// Most peers of one address
    #[arg(long, value_name = "N", value_parser = units::count)]
    pub(crate) max_peers_per_addr: Option<usize>,
    /// Most peers that have not sent a first whole message
    #[arg(long, value_name = "N", value_parser = units::count)]
    pub(crate) max_pending: Option<usize>,
    /// Time in which a peer has to send its first message
    #[arg(long, value_name = "DURATION", value_parser = units::duration)]
    pub(crate) first_frame_timeout: Option<Duration>,
    /// Time in which a message has to become whole
    #[arg(long, value_name = "DURATION", value_parser = units::duration)]
    pub(crate) frame_timeout: Option<Duration>,
    /// Silence in both directions after which a peer is closed
    #[arg(long, value_name = "DURATION", value_parser = units::duration)]
    pub(crate) idle_timeout: Option<Duration>,
    /// Time in which a peer has to acknowledge some of what waits for it
    #[arg(long, value_name = "DURATION", value_parser = units::duration)]
    pub(crate) write_stall_timeout: Option<Duration>,
    /// Bytes that the system takes for a peer before it sends them
    #[arg(long, value_name = "SIZE", value_parser = units::size_usize)]
    pub(crate) notsent_lowat: Option<usize>,
    /// Most bytes that wait for one peer
    #[arg(long, value_name = "SIZE", value_parser = units::size_usize)]
    pub(crate) outbox_bytes: Option<usize>,
    /// Most messages that wait for one peer
    #[arg(long, value_name = "N", value_parser = units::count)]
    pub(crate) outbox_messages: Option<usize>,
    /// What happens when neither takes a message more
    #[arg(long, value_enum, value_name = "POLICY")]
    pub(crate) outbox_full: Option<WhenFull>,
    /// Bytes that all queues together may hold
    #[arg(long, value_name = "SIZE", value_parser = units::size_usize)]
    pub(crate) memory_budget: Option<usize>,
    /// Send everything with a checksum
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_parser = units::boolean)]
    pub(crate) checksums: Option<bool>,
    /// Refuse peers that send anything without a checksum
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_parser = units::boolean)]
    pub(crate) require_checksums: Option<bool>,
    /// Refuse peers whose first message is not HELLO
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true,
          default_missing_value = "true", value_parser = units::boolean)]
    pub(crate) require_hello: Option<bool>,
    /// Network that a HELLO has to name
    #[arg(long, value_name = "N", value_parser = units::id_u32)]
    pub(crate) network_id: Option<u32>,
    /// Who this service is: 32 hexadecimal digits; of several connections to one node one stays
    /// [default: anonymous; with --connect or --relay a random one]
    #[arg(long, value_name = "HEX", value_parser = units::node_id)]
    pub(crate) node_id: Option<NodeId>,
    /// Token that is shown to the services that are connected to, in clear
    #[arg(long, value_name = "TOKEN", value_parser = Secret)]
    pub(crate) token: Option<String>,
    /// Token that a peer has to show; may be given more than once; implies --require-hello
    #[arg(long, value_name = "TOKEN", value_parser = Secret)]
    pub(crate) accept_token: Option<Vec<String>>,
    /// Time in which a connection has to be made, and then answered
    #[arg(long, value_name = "DURATION", value_parser = units::duration)]
    pub(crate) connect_timeout: Option<Duration>,
    /// Silence after which a peer that said HELLO is asked for a sign of life
    #[arg(long, value_name = "DURATION", value_parser = units::duration)]
    pub(crate) heartbeat_interval: Option<Duration>,
    /// Silence after which such a peer is taken for dead
    #[arg(long, value_name = "DURATION", value_parser = units::duration)]
    pub(crate) heartbeat_timeout: Option<Duration>,
    /// Time to finish what is queued when the service stops
    #[arg(long, value_name = "DURATION", value_parser = units::duration)]
    pub(crate) drain: Option<Duration>,
    /// Where messages are handed to subscribers
    #[arg(long, value_enum, value_name = "WHERE")]
    pub(crate) dispatch: Option<DispatchOn>,
    /// What threads do while there is nothing to do
    #[arg(long, value_enum, value_name = "HOW")]
    pub(crate) idle: Option<WhenIdle>,
    /// What the names of the threads begin with
    #[arg(long, value_name = "PREFIX")]
    pub(crate) thread_name: Option<String>,
    /// Processors that the loops run on, with commas between them [default: the system decides]
    #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = units::count)]
    pub(crate) loop_cpus: Option<Vec<usize>>,
    /// The same for the dispatchers
    #[arg(long, value_name = "N,...", value_delimiter = ',', value_parser = units::count)]
    pub(crate) dispatcher_cpus: Option<Vec<usize>>,
    /// What is logged on standard error
    #[arg(long, value_enum, value_name = "LEVEL")]
    pub(crate) log_level: Option<LogLevel>,
}

/// Reads a token. What was given is not repeated where it is wrong: a terminal is logged, or looked
/// at by others.
#[derive(Clone, Copy, Debug)]
struct Secret;

impl TypedValueParser for Secret {
    type Value = String;

    fn parse_ref(
        &self,
        command: &clap::Command,
        arg: Option<&Arg>,
        value: &OsStr,
    ) -> Result<String, clap::Error> {
        let text = value
            .to_str()
            .ok_or_else(|| "the token is not UTF-8".to_owned());
        text.and_then(units::token).map_err(|problem| {
            let arg = arg.map(ToString::to_string).unwrap_or_default();
            let message = format!("invalid value for '{arg}': {problem}");
            clap::Error::raw(ErrorKind::ValueValidation, message).with_cmd(command)
        })
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum DispatchOn {
    /// On a thread of their own
    Thread,
    /// On the loop thread: one hand-off less
    Inline,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum WhenIdle {
    /// Sleep
    Block,
    /// Look again for a while where that pays, then sleep
    Poll,
    /// Look again all the time
    Spin,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum WhenFull {
    /// The message is not sent
    Refuse,
    /// The peer is closed
    Close,
    /// The oldest messages that wait make room
    DropOldest,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum LogLevel {
    Off,
    Error,
    Warn,
    Info,
    /// Also every connection
    Debug,
    Trace,
}

impl LogLevel {
    pub(crate) const fn filter(self) -> LevelFilter {
        match self {
            Self::Off => LevelFilter::Off,
            Self::Error => LevelFilter::Error,
            Self::Warn => LevelFilter::Warn,
            Self::Info => LevelFilter::Info,
            Self::Debug => LevelFilter::Debug,
            Self::Trace => LevelFilter::Trace,
        }
    }
}

#[derive(Debug, clap::Args)]
pub(crate) struct CheckArgs {
    /// The configuration file
    pub(crate) file: PathBuf,
}

#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("payload").multiple(false), after_help = FORMS)]
pub(crate) struct SendArgs {
    /// Service to send to: HOST:PORT
    #[arg(value_name = "ADDR", value_parser = units::target)]
    pub(crate) addr: String,
    /// Type of the messages: 0 to 65279 (0xfeff)
    #[arg(long = "type", value_name = "N", value_parser = units::message_type)]
    pub(crate) message_type: MessageType,
    /// Send this text; without --text, --file and --size each line of standard input is a message
    #[arg(long, value_name = "S", group = "payload", allow_hyphen_values = true)]
    pub(crate) text: Option<String>,
    /// Send the whole file as one message
    #[arg(long, value_name = "F", group = "payload")]
    pub(crate) file: Option<PathBuf>,
    /// Send a message of this many bytes of filler
    #[arg(long, value_name = "SIZE", group = "payload", value_parser = units::payload_size)]
    pub(crate) size: Option<usize>,
    /// Send every message this many times
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: u64,
    /// Messages a second [default: as fast as they are taken]
    #[arg(long, value_name = "R", value_parser = units::rate)]
    pub(crate) rate: Option<f64>,
    /// Add a CRC-32C to every message
    #[arg(long)]
    pub(crate) checksum: bool,
    /// Say HELLO, and wait for the OK before the first message
    #[arg(long)]
    pub(crate) hello: bool,
    /// Network that the HELLO names
    #[arg(long, value_name = "N", default_value_t = 0, requires = "hello",
          value_parser = units::id_u32)]
    pub(crate) network_id: u32,
    /// Token that the HELLO shows, in clear
    #[arg(long, value_name = "TOKEN", requires = "hello", value_parser = Secret)]
    pub(crate) token: Option<String>,
    /// Longest time without progress: connecting, sending, and waiting for the answers; 0 = off
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = units::duration)]
    pub(crate) timeout: Duration,
    /// Print as many answers as messages went out, in the format of `serve --print`
    #[arg(long)]
    pub(crate) replies: bool,
}
