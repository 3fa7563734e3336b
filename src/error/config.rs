//! Settings that cannot be used, or not on this host.

use std::{error::Error, fmt};

/// A value of a [`Config`](crate::Config) that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ConfigError {
    /// A number is outside of its range.
    OutOfRange {
        /// The setting, as the configuration file spells it.
        setting: &'static str,
        /// The value given, in the setting's unit.
        value: u64,
        /// The smallest value allowed.
        min: u64,
        /// The largest value allowed.
        max: u64,
        /// The unit of all three; empty where the setting is named for what it counts.
        unit: &'static str,
    },
    /// One of a setting's values is outside of its range.
    ElementOutOfRange {
        /// The setting, which takes several values.
        setting: &'static str,
        /// The one that is wrong, or its size.
        value: u64,
        /// The smallest value allowed.
        min: u64,
        /// The largest value allowed.
        max: u64,
        /// The unit of all three; empty where they are plain numbers.
        unit: &'static str,
    },
    /// Two settings contradict each other: the first has to be at most the second.
    Exceeds {
        /// The setting that is too large.
        setting: &'static str,
        /// Its value.
        value: u64,
        /// The setting that bounds it.
        bound: &'static str,
        /// The bound's value.
        limit: u64,
        /// The unit of both.
        unit: &'static str,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::OutOfRange {
                setting,
                value,
                min,
                max,
                unit,
            } => {
                let value = Amount { value, unit };
                // What a size or a time is, a list has.
                let verb = match unit {
                    "" | "bytes" | "ms" => "is",
                    _ => "has",
                };
                write!(f, "{setting} {verb} {value}, {}", Allowed { min, max })
            }
            Self::ElementOutOfRange {
                setting,
                value,
                min,
                max,
                unit,
            } => {
                let value = Amount { value, unit };
                let allowed = Allowed { min, max };
                write!(f, "one of {setting} is {value}, {allowed}")
            }
            Self::Exceeds {
                setting,
                value,
                bound,
                limit,
                unit,
            } => {
                let value = Amount { value, unit };
                let limit = Amount { value: limit, unit };
                write!(f, "{setting} is {value}, above {bound} of {limit}")
            }
        }
    }
}

/// A number with its unit.
struct Amount {
    value: u64,
    unit: &'static str,
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.value, self.unit) {
            (value, "") => write!(f, "{value}"),
            (1, "bytes") => f.write_str("1 byte"),
            (value, unit) => write!(f, "{value} {unit}"),
        }
    }
}

/// A range. An end that no machine reaches is left out.
struct Allowed {
    min: u64,
    max: u64,
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { min, max } = self;
        if *max >= u64::MAX / 4 {
            write!(f, "allowed are {min} and more")
        } else {
            write!(f, "allowed are {min} to {max}")
        }
    }
}

impl Error for ConfigError {}

/// How a memory limit of the host leaves too little for the settings; see
/// [`Config::memory_budget`](crate::Config::memory_budget). All numbers are bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MemoryError {
    /// A budget was asked for that is above a whole limit.
    AboveLimit {
        /// The budget.
        budget: u64,
        /// The limit.
        limit: u64,
        /// Where it was read.
        origin: String,
    },
    /// The budget would be lowered to less than a service can do with.
    TooLittle {
        /// The budget that there would be.
        budget: u64,
        /// The least that it may be lowered to.
        min: u64,
        /// The limit.
        limit: u64,
        /// What is used of it.
        used: u64,
        /// Where it was read.
        origin: String,
    },
    /// A setting that has to lie within the budget is above the lowered one.
    DoesNotFit {
        /// The setting, as the configuration file spells it.
        setting: &'static str,
        /// Its value.
        value: u64,
        /// The lowered budget.
        budget: u64,
        /// The limit.
        limit: u64,
        /// What is used of it.
        used: u64,
        /// Where it was read.
        origin: String,
    },
}

impl fmt::Display for MemoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (limit, used, origin) = match self {
            Self::AboveLimit {
                budget,
                limit,
                origin,
            } => {
                return write!(
                    f,
                    "memory_budget is {budget} bytes, above the whole limit of {limit} bytes in \
                     {origin}"
                );
            }
            Self::TooLittle {
                budget,
                min,
                limit,
                used,
                origin,
            } => {
                let text = "the memory budget would be";
                write!(f, "{text} {budget} bytes, below {min}: it")?;
                (limit, used, origin)
            }
            Self::DoesNotFit {
                setting,
                value,
                budget,
                limit,
                used,
                origin,
            } => {
                let text = "above the memory budget of";
                write!(
                    f,
                    "{setting} is {value} bytes, {text} {budget} bytes, which"
                )?;
                (limit, used, origin)
            }
        };
        let text = "is half of what";
        write!(
            f,
            " {text} {origin} leaves: {limit} bytes, {used} of them in use"
        )
    }
}

impl Error for MemoryError {}

/// Why [`Handle::reconfigure`](crate::Handle::reconfigure) changed nothing.
#[derive(Debug)]
#[non_exhaustive]
pub enum ReconfigureError {
    /// The settings are wrong, or contradict one that cannot change while the service runs.
    Config(ConfigError),
    /// The host's limits on memory leave too little for the budget.
    Memory(MemoryError),
    /// Another change is under way, or a loop takes no commands. It may be tried again.
    Busy,
    /// The service has stopped or failed.
    Stopped,
}

impl fmt::Display for ReconfigureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => error.fmt(f),
            Self::Memory(error) => error.fmt(f),
            Self::Busy => f.write_str("the service is busy with another change"),
            Self::Stopped => f.write_str("the service has stopped"),
        }
    }
}

impl Error for ReconfigureError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Config(error) => error.source(),
            Self::Memory(error) => error.source(),
            Self::Busy | Self::Stopped => None,
        }
    }
}
