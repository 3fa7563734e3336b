//! The table of settings: one row for each field of [`Config`], from which everything follows that
//! is the same for all of them.
//!
//! [`Config::problems`] judges ranges by it, [`Handle::reconfigure`](crate::Handle::reconfigure)
//! takes what is live by it, and the command line gets the ranges and defaults of its options from
//! it. What relates two settings is no row: rules are in `problems.rs`.
//!
//! A default stands in [`Config::default`] alone; a row reads it there.

use std::{fmt, net::SocketAddr, time::Duration};

use super::{Config, Dispatch, Token};
use crate::{
    clock::ticks_of_timeout,
    id::NodeId,
    idle::IdleStrategy,
    limits::{self, BLOCK_SIZE, CPUS_MAX, LISTENERS_MAX, PEERS_MAX_CEILING, SHARDS_MAX},
    policy::OutboxFull,
};

/// What there is to know of one setting of a service, whatever it is set to.
///
/// [`Config::settings`] has one of these for each setting. A server with a configuration format, a
/// help text or a settings page of its own takes names, ranges and defaults from there, so that
/// they are those of the library. The value is set by the method of [`Config`] that has the
/// setting's name; `reconnect_min` and `reconnect_max` are set by one method, and so are
/// `heartbeat_interval` and `heartbeat_timeout`, and `send_buffer` and `recv_buffer`.
///
/// # Examples
///
/// ```
/// use nebnet::{Config, SettingValue};
///
/// let named = |name| Config::settings().iter().find(|setting| setting.name() == name);
/// let setting = named("idle_timeout").ok_or("no such setting")?;
/// assert_eq!((setting.unit(), setting.min(), setting.max()), ("ms", 0, Some(31_536_000_000)));
/// assert!(setting.zero_is_off() && setting.is_live());
/// assert_eq!(setting.default(), SettingValue::Number(0));
///
/// // A page of help.
/// for setting in Config::settings() {
///     println!("{} [default: {}]", setting.name(), setting.default());
/// }
/// # Ok::<(), &str>(())
/// ```
#[derive(Clone, Debug)]
pub struct Setting {
    name: &'static str,
    range: Range,
    is_live: bool,
    value: fn(&Config) -> SettingValue,
    differs: fn(&Config, &Config) -> bool,
    take: fn(&mut Config, &Config),
}

impl Setting {
    /// The name, as [`ConfigError`](crate::ConfigError) and
    /// [`Reconfigured`](crate::Reconfigured) have it, and the key in a configuration file.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The unit of [`min`](Self::min), [`max`](Self::max) and of a number that is the value:
    /// `bytes` (of a text its length), `ms`, or what there are several of, such as `addresses`;
    /// empty where the setting is named for what it counts, and where it is no number.
    #[must_use]
    pub fn unit(&self) -> &'static str {
        self.range.unit
    }

    /// The smallest value allowed, in the [unit](Self::unit). Zero for what is no number.
    #[must_use]
    pub fn min(&self) -> u64 {
        self.range.min
    }

    /// The largest value allowed, in the [unit](Self::unit); none where the setting has no bound of
    /// its own, as where another setting bounds it, and for what is no number.
    #[must_use]
    pub fn max(&self) -> Option<u64> {
        Some(self.range.max).filter(|max| *max < UNBOUNDED)
    }

    /// Whether zero is no value like others: it switches off what the setting is about, or leaves
    /// it to the system. Methods that take a duration take `None` for it, too.
    #[must_use]
    pub fn zero_is_off(&self) -> bool {
        self.range.zero_is_off
    }

    /// Whether [`Handle::reconfigure`](crate::Handle::reconfigure) takes the setting while the
    /// service runs; `max_peers` it takes up to what that was at the start.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.is_live
    }

    /// The value in [`Config::default`].
    #[must_use]
    pub fn default(&self) -> SettingValue {
        self.value(&Config::default())
    }

    /// The value in these settings. Of tokens it is how long they are, or how many there are.
    #[must_use]
    pub fn value(&self, config: &Config) -> SettingValue {
        (self.value)(config)
    }

    pub(super) fn differs(&self, one: &Config, other: &Config) -> bool {
        (self.differs)(one, other)
    }

    /// Sets it to what it is in other settings.
    pub(super) fn take(&self, to: &mut Config, from: &Config) {
        (self.take)(to, from);
    }

    /// The smallest and the largest value allowed.
    pub(super) fn bounds(&self) -> (u64, u64) {
        (self.range.min, self.range.max)
    }
}

/// What a setting is set to; see [`Setting::value`].
///
/// `Display` writes it as a configuration file has it, a number without its unit, and a list with
/// commas.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SettingValue {
    /// A number, in the setting's unit.
    Number(u64),
    /// Something that is on or off.
    Switch(bool),
    /// A text, or one of several words.
    Text(String),
    /// Several of a kind.
    List(Vec<String>),
}

impl SettingValue {
    /// What a range is about: the number, or the length.
    pub(super) fn amount(&self) -> u64 {
        match self {
            Self::Number(number) => *number,
            Self::Switch(is_on) => u64::from(*is_on),
            Self::Text(text) => text.len() as u64,
            Self::List(list) => list.len() as u64,
        }
    }
}

impl fmt::Display for SettingValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Switch(is_on) => is_on.fmt(f),
            Self::Text(text) => f.write_str(text),
            Self::List(list) => f.write_str(&list.join(",")),
        }
    }
}

// ----- rows --------------------------------------------------------------------------------------

/// A range above this is no bound: what it is compared with is 64 bits, or a size of memory.
pub(super) const UNBOUNDED: u64 = u64::MAX / 4;

#[derive(Clone, Copy, Debug)]
struct Range {
    unit: &'static str,
    min: u64,
    max: u64,
    zero_is_off: bool,
}

impl Range {
    const fn new(unit: &'static str, min: u64, max: u64) -> Self {
        Self {
            unit,
            min,
            max,
            zero_is_off: false,
        }
    }

    /// Zero is off.
    const fn or_off(self) -> Self {
        Self {
            min: 0,
            zero_is_off: true,
            ..self
        }
    }
}

const BYTES: &str = "bytes";
/// Any value of the type.
const ANY: Range = Range::new("", 0, u64::MAX);
const PEERS: Range = Range::new("", 1, PEERS_MAX_CEILING as u64);
const MESSAGES: Range = Range::new("", 1, limits::QUEUE_MESSAGES_MAX_CEILING as u64);
const REQUESTS: Range = Range::new("", 1, limits::REQUESTS_MAX_CEILING as u64);
const PAYLOAD: Range = Range::new(BYTES, 1, limits::PAYLOAD_SIZE_MAX_CEILING as u64);
/// Bounded by the memory budget.
const QUEUED: Range = Range::new(BYTES, BLOCK_SIZE as u64, u64::MAX);
const BUDGET: Range = Range::new(BYTES, limits::MEMORY_BUDGET_MIN as u64, UNBOUNDED);
/// The kernel takes the size of a buffer as an `int`, and doubles it.
const BUFFER: Range = Range::new(BYTES, 0, i32::MAX as u64 / 2).or_off();
const TOKEN: Range = Range::new(BYTES, 0, limits::TOKEN_SIZE_MAX as u64);
const NAME: Range = Range::new(BYTES, 1, limits::THREAD_NAME_SIZE_MAX as u64);
const TIME: Range = Range::new("ms", 1, limits::TIMEOUT_MS_CEILING);
const CPUS: Range = Range::new("processors", 0, CPUS_MAX as u64);

/// Names rows after fields, in their order, with range and whether they change while a service
/// runs. Fields that are no setting come first.
macro_rules! settings {
    (no_setting: $($other:ident),*; $($name:ident: $range:expr, $change:ident;)*) => {
        impl Config {
            /// All settings, with what there is to know of each: name, unit, range, default, and
            /// whether it can change while a service runs. See [`Setting`].
            #[must_use]
            pub fn settings() -> &'static [Setting] {
                // All fields, so that a new one has to have a row.
                const _: fn(Config) = |Config { $($name: _,)* $($other: _,)* }| ();
                static SETTINGS: &[Setting] = &[$(Setting {
                    name: stringify!($name),
                    range: $range,
                    is_live: change::$change,
                    value: |config| Value::value(&config.$name),
                    differs: |one, other| one.$name != other.$name,
                    take: |to, from| to.$name.clone_from(&from.$name),
                },)*];
                SETTINGS
            }
        }
    };
}

mod change {
    #![expect(non_upper_case_globals, reason = "words of the table")]

    /// What the service holds its peers to from now on.
    pub(super) const live: bool = true;
    /// What its sockets, threads and tables were made with.
    pub(super) const fixed: bool = false;
}

settings! {
    no_setting: listen_is_default, memory_budget_is_set;
    listen: Range::new("addresses", 0, LISTENERS_MAX as u64), fixed;
    shards: Range::new("", 1, SHARDS_MAX as u64), fixed;
    max_payload: PAYLOAD, fixed;
    max_peers: PEERS, live;
    max_peers_per_addr: ANY.or_off(), live;
    max_pending: PEERS.or_off(), live;
    checksums: ANY, fixed;
    require_checksums: ANY, live;
    first_frame_timeout: TIME.or_off(), live;
    frame_timeout: TIME.or_off(), live;
    idle_timeout: TIME.or_off(), live;
    write_stall_timeout: TIME.or_off(), live;
    tcp_user_timeout: TIME.or_off(), fixed;
    connect_timeout: TIME, live;
    reconnect_min: TIME, live;
    reconnect_max: TIME, live;
    heartbeat_interval: TIME.or_off(), live;
    heartbeat_timeout: TIME.or_off(), live;
    send_buffer: BUFFER, fixed;
    recv_buffer: BUFFER, fixed;
    notsent_lowat: BUFFER, fixed;
    outbox_bytes: QUEUED, live;
    outbox_messages: MESSAGES, live;
    outbox_full: ANY, fixed;
    memory_budget: BUDGET, live;
    max_requests: REQUESTS, fixed;
    require_hello: ANY, live;
    network_id: Range::new("", 0, u32::MAX as u64), fixed;
    node_id: ANY, fixed;
    token: TOKEN, live;
    accept_tokens: Range::new("tokens", 0, limits::TOKENS_MAX as u64), live;
    agent: Range::new(BYTES, 0, u64::MAX), fixed;
    dispatch: ANY, fixed;
    dispatch_messages: MESSAGES, fixed;
    dispatch_bytes: QUEUED, live;
    idle: ANY, fixed;
    thread_name: NAME, fixed;
    loop_cpus: CPUS, fixed;
    dispatcher_cpus: CPUS, fixed;
}

/// Reads a field of [`Config`].
trait Value {
    fn value(&self) -> SettingValue;
}

impl Value for bool {
    fn value(&self) -> SettingValue {
        SettingValue::Switch(*self)
    }
}

impl Value for u32 {
    fn value(&self) -> SettingValue {
        SettingValue::Number((*self).into())
    }
}

impl Value for usize {
    fn value(&self) -> SettingValue {
        SettingValue::Number(*self as u64)
    }
}

impl Value for Duration {
    fn value(&self) -> SettingValue {
        SettingValue::Number(ticks_of_timeout(*self))
    }
}

impl Value for String {
    fn value(&self) -> SettingValue {
        SettingValue::Text(self.clone())
    }
}

impl Value for NodeId {
    fn value(&self) -> SettingValue {
        SettingValue::Text(self.to_string())
    }
}

/// Never shown.
impl Value for Token {
    fn value(&self) -> SettingValue {
        SettingValue::Number(self.size())
    }
}

impl Value for Vec<Token> {
    fn value(&self) -> SettingValue {
        SettingValue::Number(self.len() as u64)
    }
}

impl Value for Vec<SocketAddr> {
    fn value(&self) -> SettingValue {
        SettingValue::List(self.iter().map(ToString::to_string).collect())
    }
}

impl Value for Vec<usize> {
    fn value(&self) -> SettingValue {
        SettingValue::List(self.iter().map(ToString::to_string).collect())
    }
}

impl Value for OutboxFull {
    fn value(&self) -> SettingValue {
        let word = match self {
            Self::Refuse => "refuse",
            Self::Close => "close",
            Self::DropOldest => "drop-oldest",
        };
        SettingValue::Text(word.to_owned())
    }
}

impl Value for Dispatch {
    fn value(&self) -> SettingValue {
        let word = match self {
            Self::Thread => "thread",
            Self::Inline => "inline",
        };
        SettingValue::Text(word.to_owned())
    }
}

impl Value for IdleStrategy {
    fn value(&self) -> SettingValue {
        let word = match self {
            Self::Block => "block",
            Self::Poll { .. } => "poll",
            Self::Spin => "spin",
        };
        SettingValue::Text(word.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_default_is_within_its_range_or_off() {
        for setting in Config::settings() {
            let (name, amount) = (setting.name(), setting.default().amount());
            let max = setting.max().unwrap_or(u64::MAX);
            assert!((setting.min()..=max).contains(&amount), "{name}");
            assert!(!setting.zero_is_off() || setting.min() == 0, "{name}");
        }
    }

    #[test]
    fn a_row_reads_takes_and_compares_its_field() {
        let old = Config::default();
        let set = old
            .clone()
            .idle_timeout(Duration::from_micros(1500))
            .token("secret")
            .loop_cpus([3, 1]);
        let mut taken = old.clone();
        let mut shown = Vec::new();
        for setting in Config::settings() {
            if setting.differs(&old, &set) {
                setting.take(&mut taken, &set);
                shown.push((setting.name(), setting.value(&set).to_string()));
            }
        }
        let expected = [("idle_timeout", "2"), ("token", "6"), ("loop_cpus", "3,1")];
        let expected = expected.map(|(name, value)| (name, value.to_owned()));
        assert_eq!((taken, shown), (set, expected.to_vec()));
    }
}
