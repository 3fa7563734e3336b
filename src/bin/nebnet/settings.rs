//! Flags laid over a configuration file, judged, and turned into what `serve` needs.

use std::{
    collections::hash_map::RandomState,
    fmt,
    hash::{BuildHasher as _, Hasher as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use log::LevelFilter;
use nebnet::{
    Config, ConfigError, Dispatch, IdleStrategy, NodeId, OutboxFull, Reconfigured, Setting,
    SettingValue,
};

use crate::{
    args::{DispatchOn, LogLevel, ServeOptions, WhenFull, WhenIdle},
    config_file::{self, ConfigFile},
    failure::Failure,
    relay,
};

/// What `serve` does at a stop, and logs, if nothing else is said.
pub(crate) const DRAIN_DEFAULT: Duration = Duration::from_secs(5);
pub(crate) const LOG_LEVEL_DEFAULT: LogLevel = LogLevel::Info;
/// Options that are spelled otherwise than the library's setting: these are given once for each.
const RENAMED: [(&str, &str); 1] = [("accept_token", "accept_tokens")];

/// What `serve` runs with.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) config: Config,
    pub(crate) echo: bool,
    pub(crate) print: bool,
    pub(crate) relay: bool,
    /// Its node id was given, and not drawn.
    has_node_id: bool,
    /// Shared with the relay, which goes by it.
    pub(crate) outbox_bytes: Arc<AtomicUsize>,
    pub(crate) connect: Vec<String>,
    /// `None`: only on a terminal.
    pub(crate) stats: Option<bool>,
    pub(crate) metrics: Option<SocketAddr>,
    pub(crate) drain: Duration,
    pub(crate) log_level: LevelFilter,
}

/// Something that is wrong with the settings, and where it was said.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) origin: Origin,
    pub(crate) message: String,
}

/// Where a setting was given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A flag, which the command line spells with `-`.
    Flag,
    /// A file, and the line if it is known.
    File(PathBuf, Option<usize>),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::Flag => {}
            Origin::File(path, Some(line)) => write!(f, "{}:{line}: ", path.display())?,
            Origin::File(path, None) => write!(f, "{}: ", path.display())?,
        }
        f.write_str(&self.message)
    }
}

impl Settings {
    /// Reads the file, if there is one, and judges it together with the flags.
    ///
    /// One failure tells all problems. Only flags can make it a usage failure: what stands in the
    /// file was not typed with the command.
    pub(crate) fn load(
        flags: ServeOptions,
        path: Option<&Path>,
        drawn: NodeId,
    ) -> Result<Self, Failure> {
        let file = path.map(config_file::load).transpose()?;
        resolve(flags, file, drawn).map_err(|problems| {
            let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
            let message = lines.join("; ");
            if problems
                .iter()
                .any(|problem| problem.origin == Origin::Flag)
            {
                Failure::usage(message)
            } else {
                Failure::new(message)
            }
        })
    }
}

macro_rules! kept {
    ($old:expr, $new:expr, $kept:expr; $($name:ident),*) => {
        $(if $old.$name != $new.$name {
            $kept.push(stringify!($name));
        })*
    };
}

impl Settings {
    /// Takes over what can change while the service runs; the library has taken its part. Adds to
    /// what is said of that, in the words of the command line.
    pub(crate) fn take_live(&mut self, new: Self, changes: &mut Reconfigured) {
        let kept = &mut changes.kept;
        kept!(self, new, kept; echo, print, relay, connect, stats, metrics);
        // What goes with another setting, and was not set.
        let is_named = self.has_node_id || new.has_node_id;
        kept.retain(|name| *name != "agent" && (is_named || *name != "node_id"));
        if self.drain != new.drain {
            changes.changed.push("drain");
        }
        if self.log_level != new.log_level {
            changes.changed.push("log_level");
        }
        changes.changed.retain(|name| *name != "dispatch_bytes");
        for name in changes.changed.iter_mut().chain(&mut changes.kept) {
            *name = match *name {
                "tcp_user_timeout" => "the TCP user timeout that goes with write_stall_timeout",
                name => option_of(name),
            };
        }
        let outbox_bytes = new.outbox_bytes.load(Ordering::Relaxed);
        self.outbox_bytes.store(outbox_bytes, Ordering::Relaxed);
        (self.drain, self.log_level) = (new.drain, new.log_level);
    }
}

/// Joins flags and file, and judges the result as a whole. `drawn` is who the service is if it
/// needs to be somebody and nothing says who.
///
/// # Errors
///
/// Every problem, those of the file in the order of its lines.
pub(crate) fn resolve(
    flags: ServeOptions,
    file: Option<ConfigFile>,
    drawn: NodeId,
) -> Result<Settings, Vec<Problem>> {
    let given = names_of(&flags);
    let mut file = file.unwrap_or_default();
    let mut problems = std::mem::take(&mut file.problems);
    let options = overlay(flags, std::mem::take(&mut file.options));
    let config = config_of(&options, drawn);
    for error in config.problems() {
        let settings = settings_of(&error);
        let origin = if settings.iter().any(|setting| given.contains(setting)) {
            Origin::Flag
        } else {
            file.origin(&settings)
        };
        problems.push(Problem {
            origin,
            message: error.to_string(),
        });
    }
    if !problems.is_empty() {
        problems.sort_by_key(|problem| match problem.origin {
            Origin::Flag => None,
            Origin::File(_, line) => Some(line.unwrap_or(usize::MAX)),
        });
        return Err(problems);
    }
    let outbox_bytes = options.outbox_bytes.unwrap_or_else(|| {
        let budget = options.memory_budget.unwrap_or(usize::MAX);
        size_of("outbox_bytes").min(quarter_of(budget))
    });
    Ok(Settings {
        config,
        echo: options.echo.unwrap_or(false),
        print: options.print.unwrap_or(false),
        relay: options.relay.unwrap_or(false),
        has_node_id: options.node_id.is_some(),
        outbox_bytes: Arc::new(outbox_bytes.into()),
        connect: options.connect.unwrap_or_default(),
        stats: options.stats,
        metrics: options.metrics,
        drain: options.drain.unwrap_or(DRAIN_DEFAULT),
        log_level: options.log_level.unwrap_or(LOG_LEVEL_DEFAULT).filter(),
    })
}

macro_rules! options {
    (plain: $($plain:ident),*; other: $($other:ident),*) => {
        /// The first that is given wins.
        fn overlay(flags: ServeOptions, file: ServeOptions) -> ServeOptions {
            ServeOptions {
                $($plain: flags.$plain.or(file.$plain),)*
                $($other: flags.$other.or(file.$other),)*
            }
        }

        /// The options that are given, as the configuration file spells them.
        fn names_of(options: &ServeOptions) -> Vec<&'static str> {
            let plain = [$((stringify!($plain), options.$plain.is_some())),*];
            let other = [$((stringify!($other), options.$other.is_some())),*];
            let given = plain.into_iter().chain(other).filter(|(_, is_given)| *is_given);
            given.map(|(name, _)| name).collect()
        }

        /// The library's settings that are given. What is not stays at the library's default.
        fn plain_of(options: &ServeOptions) -> Config {
            let mut config = Config::default();
            $(if let Some(value) = &options.$plain {
                config = config.$plain(value.to_owned());
            })*
            config
        }
    };
}

// Every option: those that are a setting of the library as they are, and those that are more, or
// none.
options!(
    plain: shards, max_payload, max_peers, max_peers_per_addr, max_pending, checksums,
        require_checksums, first_frame_timeout, frame_timeout, idle_timeout, write_stall_timeout,
        notsent_lowat, outbox_bytes, outbox_messages, memory_budget, require_hello, network_id,
        node_id, token, connect_timeout, thread_name, loop_cpus, dispatcher_cpus;
    other: listen, echo, connect, relay, print, stats, metrics, outbox_full, accept_token,
        heartbeat_interval, heartbeat_timeout, drain, dispatch, idle, log_level
);

/// The library's setting that an option is about, if it is about one.
pub(crate) fn setting_of(option: &str) -> Option<&'static Setting> {
    let renamed = RENAMED.iter().find(|(from, _)| *from == option);
    let name = renamed.map_or(option, |(_, to)| to);
    Config::settings()
        .iter()
        .find(|setting| setting.name() == name)
}

/// The option that sets a setting of the library.
fn option_of(setting: &'static str) -> &'static str {
    let renamed = RENAMED.iter().find(|(_, to)| *to == setting);
    renamed.map_or(setting, |(from, _)| from)
}

/// The default of a setting that is a number.
fn default_of(setting: &str) -> u64 {
    match setting_of(setting).map(Setting::default) {
        Some(SettingValue::Number(number)) => number,
        other => unreachable!("{setting} is no number: {other:?}"),
    }
}

fn size_of(setting: &str) -> usize {
    usize::try_from(default_of(setting)).unwrap_or(usize::MAX)
}

fn time_of(setting: &str) -> Duration {
    Duration::from_millis(default_of(setting))
}

/// The library's settings.
fn config_of(options: &ServeOptions, drawn: NodeId) -> Config {
    let mut config = plain_of(options);
    for addr in options.listen.iter().flatten() {
        config = config.listen(*addr);
    }
    config = identity_of(config, options, drawn);
    let (interval, timeout) = (options.heartbeat_interval, options.heartbeat_timeout);
    if interval.is_some() || timeout.is_some() {
        config = config.heartbeat(
            interval.unwrap_or_else(|| time_of("heartbeat_interval")),
            timeout.unwrap_or_else(|| time_of("heartbeat_timeout")),
        );
    }
    if let Some(timeout) = options.write_stall_timeout {
        // The kernel gives a connection up after this time too, so it must not come before a longer
        // write stall, or instead of none.
        config = config.tcp_user_timeout(if timeout.is_zero() {
            timeout
        } else {
            timeout.max(time_of("tcp_user_timeout"))
        });
    }
    if let Some(budget) = options.memory_budget {
        config = within_budget(config, budget, options);
    }
    config = match options.idle {
        Some(WhenIdle::Block) => config.idle(IdleStrategy::Block),
        Some(WhenIdle::Spin) => config.idle(IdleStrategy::Spin),
        Some(WhenIdle::Poll) | None => config,
    };
    if let Some(policy) = options.outbox_full {
        config = config.outbox_full(match policy {
            WhenFull::Refuse => OutboxFull::Refuse,
            WhenFull::Close => OutboxFull::Close,
            WhenFull::DropOldest => OutboxFull::DropOldest,
        });
    }
    match options.dispatch {
        Some(DispatchOn::Thread) => config.dispatch(Dispatch::Thread),
        Some(DispatchOn::Inline) => config.dispatch(Dispatch::Inline),
        None => config,
    }
}

/// Who the service is, and what it shows and asks for.
///
/// A service that connects to others gets an id if it has none, so that two that connect to each
/// other notice, and a relay can tell services from their clients.
fn identity_of(mut config: Config, options: &ServeOptions, drawn: NodeId) -> Config {
    let needs_id = options.connect.is_some() || options.relay == Some(true);
    if options.node_id.is_none() && needs_id {
        config = config.node_id(drawn);
    }
    if options.relay == Some(true) {
        config = config.agent(relay::AGENT);
    }
    match &options.accept_token {
        Some(tokens) => config.accept_tokens(tokens.iter().map(String::as_bytes)),
        None => config,
    }
}

/// The standard library seeds its hashers from the system.
pub(crate) fn random_node_id() -> NodeId {
    let mut bytes = [0; 16];
    for half in bytes.chunks_mut(8) {
        half.copy_from_slice(&RandomState::new().build_hasher().finish().to_be_bytes());
    }
    NodeId(bytes)
}

/// Lowers with the budget what was not given and has to lie within it: a budget below these
/// defaults is no contradiction, since nothing asked for them.
///
/// Both get at most a quarter, the share that the dispatch queue has by default, so that neither
/// one peer nor the queue can use a small budget up alone.
fn within_budget(config: Config, budget: usize, options: &ServeOptions) -> Config {
    let quarter = quarter_of(budget);
    let config = config.dispatch_bytes(size_of("dispatch_bytes").min(quarter));
    if options.outbox_bytes.is_some() {
        return config;
    }
    config.outbox_bytes(size_of("outbox_bytes").min(quarter))
}

/// A quarter of the budget, or the least that a bound in bytes may be.
fn quarter_of(budget: usize) -> usize {
    let min = setting_of("outbox_bytes").map_or(0, Setting::min);
    (budget / 4).max(usize::try_from(min).unwrap_or(usize::MAX))
}

/// The settings that an error is about, the one to change first.
fn settings_of(error: &ConfigError) -> Vec<&'static str> {
    match error {
        ConfigError::OutOfRange { setting, .. }
        | ConfigError::ElementOutOfRange { setting, .. } => vec![option_of(setting)],
        ConfigError::Exceeds { setting, bound, .. } => vec![setting, bound],
        // A later version of the library may judge more.
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_the_file() {
        let flags = ServeOptions {
            max_peers: Some(5),
            ..ServeOptions::default()
        };
        let file = ConfigFile::parse(Path::new("f"), "max_peers = 6\nmax_payload = \"2M\"\n");
        let settings = resolve(flags, Some(file), NodeId::ANONYMOUS).unwrap();
        assert_eq!(
            settings.config,
            Config::default().max_peers(5).max_payload(2 << 20)
        );
        assert_eq!(settings.drain, Duration::from_secs(5));
        assert_eq!(settings.log_level, LevelFilter::Info);
    }

    #[test]
    fn a_small_budget_needs_nothing_else() {
        for budget in [1 << 20, 3 << 20, 32 << 20, 512 << 20] {
            let flags = ServeOptions {
                memory_budget: Some(budget),
                ..ServeOptions::default()
            };
            assert!(resolve(flags, None, NodeId::ANONYMOUS).is_ok(), "{budget}");
        }
        let flags = ServeOptions {
            memory_budget: Some(1 << 20),
            outbox_bytes: Some(2 << 20),
            ..ServeOptions::default()
        };
        assert_eq!(
            resolve(flags, None, NodeId::ANONYMOUS).unwrap_err().len(),
            1
        );
    }

    #[test]
    fn a_problem_names_where_the_setting_was_given() {
        let flags = ServeOptions {
            max_peers: Some(0),
            ..ServeOptions::default()
        };
        let file = ConfigFile::parse(Path::new("f"), "\noutbox_bytes = 1\nwrong = 1\n");
        let problems = resolve(flags, Some(file), NodeId::ANONYMOUS).unwrap_err();
        let lines: Vec<_> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[0].starts_with("max_peers is 0"), "{lines:?}");
        assert!(lines[1].starts_with("f:2: outbox_bytes is 1 "), "{lines:?}");
        assert!(
            lines[2].starts_with("f:3: unknown setting `wrong`"),
            "{lines:?}"
        );
    }
}
