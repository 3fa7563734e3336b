//! What the host allows the process, and settings that fit it.
//!
//! A process that asks for more memory than a resource limit allows is aborted by its allocator,
//! and one that touches more than its control group has is killed; neither leaves a report. So the
//! byte budget is kept to half of what the tightest limit leaves when the service is made. The
//! other half is for what no budget counts: stacks, the allocator's reserves and fragments, kernel
//! buffers of sockets (which a control group is charged for), and the embedder.
//!
//! All is read from files below a root, which tests choose.

mod cgroup;

use std::{env, fmt, fs, num::NonZero, path::PathBuf, thread};

use rustix::process::{Resource, getrlimit};

use crate::{
    config::{Config, Dispatch},
    error::{ConfigError, MemoryError, StartError},
    limits::{BLOCK_SIZE, MEMORY_BUDGET_LOWERED_MIN},
};

/// Stack of a thread, as the standard library makes it.
const STACK_BYTES: u64 = 2 << 20;
/// Address space that the C library's allocator reserves for a thread, at its first allocation.
const ARENA_BYTES: u64 = 64 << 20;

/// A limit on memory, and what is used of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ceiling {
    /// Where it was read.
    pub(crate) origin: String,
    /// Bytes.
    pub(crate) limit: u64,
    /// Bytes that are used already, or will be as soon as the threads run.
    pub(crate) used: u64,
}

/// Where limits are read.
#[derive(Debug)]
pub(crate) struct Host {
    root: PathBuf,
    address_space: Option<u64>,
    data: Option<u64>,
    /// Arenas that the C library may make, the first of which reserves nothing.
    arenas: u64,
}

/// A budget that the host does not allow in full.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Lowered {
    /// Bytes that were asked for.
    pub(crate) from: usize,
    /// Bytes that it is.
    pub(crate) to: usize,
    pub(crate) ceiling: Ceiling,
}

impl Host {
    /// The host that the process runs on.
    pub(crate) fn this() -> Self {
        let arenas = env::var("MALLOC_ARENA_MAX");
        let arenas = arenas.ok().and_then(|text| text.parse().ok());
        Self {
            root: PathBuf::from("/"),
            address_space: getrlimit(Resource::As).current,
            data: getrlimit(Resource::Data).current,
            arenas: arenas.unwrap_or_else(arenas_by_default).max(1),
        }
    }

    /// Lowers the budget of a configuration, and what has to lie within it and was not asked for,
    /// to what the host leaves. `None` if it fits as it is.
    pub(crate) fn fit(&self, config: &mut Config) -> Result<Option<Lowered>, MemoryError> {
        let ceilings = self.ceilings(config);
        let (from, asked) = (config.memory_budget, config.memory_budget as u64);
        if config.memory_budget_is_set {
            is_within(&ceilings, asked)?;
        }
        let tightest = ceilings.into_iter().min_by_key(Ceiling::left);
        let Some(ceiling) = tightest.filter(|one| one.budget_max() < asked) else {
            return Ok(None);
        };
        let budget = ceiling.budget_max();
        let to = usize::try_from(budget).unwrap_or(from);
        if to < MEMORY_BUDGET_LOWERED_MIN {
            return Err(MemoryError::TooLittle {
                budget,
                min: MEMORY_BUDGET_LOWERED_MIN as u64,
                limit: ceiling.limit,
                used: ceiling.used,
                origin: ceiling.origin,
            });
        }
        config.memory_budget = to;
        // The same share that it has of the default budget. A smaller queue only stops reading
        // earlier, so it is no loss where its size was chosen.
        config.dispatch_bytes = config.dispatch_bytes.min(dispatch_bytes_within(to));
        if let Some(ConfigError::Exceeds { setting, value, .. }) =
            config.problems().into_iter().next()
        {
            return Err(MemoryError::DoesNotFit {
                setting,
                value,
                budget,
                limit: ceiling.limit,
                used: ceiling.used,
                origin: ceiling.origin,
            });
        }
        Ok(Some(Lowered { from, to, ceiling }))
    }

    /// The largest budget that the host leaves to a service that is about to be made; `None` where
    /// nothing limits it.
    pub(crate) fn budget_max(&self, config: &Config) -> Option<usize> {
        let all = self.ceilings(config).into_iter();
        let most = all.map(|one| one.budget_max()).min()?;
        Some(usize::try_from(most).unwrap_or(usize::MAX))
    }

    /// Whether a service that runs may be asked for the budget: one beyond a whole limit is
    /// refused. What it uses now says little of what it will, so what it may have was
    /// [found](Self::budget_max) before.
    pub(crate) fn allows(&self, config: &Config) -> Result<(), MemoryError> {
        is_within(&self.ceilings(config), config.memory_budget as u64)
    }

    /// Every limit that there is.
    fn ceilings(&self, config: &Config) -> Vec<Ceiling> {
        let loops = config.shards as u64;
        let dispatchers = match config.dispatch {
            Dispatch::Thread => loops,
            Dispatch::Inline => 0,
        };
        let threads = loops + dispatchers;
        // What the loops allocate is what the budget counts, and any one of them may hold all of
        // it: so one reserve is used for that, and the others are as good as lost.
        let reserves = threads.saturating_sub(1).min(self.arenas - 1) * ARENA_BYTES;
        let stacks = threads * STACK_BYTES;
        let resources = [
            (
                "RLIMIT_AS",
                self.address_space,
                "VmSize:",
                stacks + reserves,
            ),
            ("RLIMIT_DATA", self.data, "VmData:", stacks),
        ];
        let status = || fs::read_to_string(self.root.join("proc/self/status")).unwrap_or_default();
        let limited = resources
            .into_iter()
            .filter_map(|(origin, limit, field, coming)| {
                let used = status_bytes(&status(), field).unwrap_or(0);
                Some(Ceiling {
                    origin: origin.to_owned(),
                    limit: limit?,
                    used: used + coming,
                })
            });
        let mut all: Vec<Ceiling> = limited.collect();
        all.extend(cgroup::ceilings(&self.root));
        all
    }
}

/// The most that the dispatch queue may have of a budget that was lowered.
pub(crate) fn dispatch_bytes_within(budget: usize) -> usize {
    (budget / 4).max(BLOCK_SIZE)
}

/// Arenas that the C library makes at most where it is not told otherwise (`mallopt(3)`).
fn arenas_by_default() -> u64 {
    let cores = thread::available_parallelism().map_or(1, NonZero::get);
    8 * cores as u64
}

fn is_within(ceilings: &[Ceiling], budget: u64) -> Result<(), MemoryError> {
    let Some(ceiling) = ceilings.iter().find(|one| budget > one.limit) else {
        return Ok(());
    };
    Err(MemoryError::AboveLimit {
        budget,
        limit: ceiling.limit,
        origin: ceiling.origin.clone(),
    })
}

impl fmt::Display for Lowered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ceiling {
            origin,
            limit,
            used,
        } = &self.ceiling;
        let (from, to) = (self.from, self.to);
        write!(
            f,
            "memory_budget is lowered from {from} to {to} bytes, half of what {origin} "
        )?;
        write!(f, "leaves: {limit} bytes, {used} of them in use")
    }
}

impl Ceiling {
    /// Bytes that are not used.
    fn left(&self) -> u64 {
        self.limit.saturating_sub(self.used)
    }

    fn budget_max(&self) -> u64 {
        self.left() / 2
    }
}

/// A field of `/proc/self/status`, which is in KiB.
fn status_bytes(status: &str, field: &str) -> Option<u64> {
    let mut lines = status.lines();
    let value = lines.find_map(|line| line.strip_prefix(field))?;
    let kibibytes: u64 = value.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes.saturating_mul(1024))
}

impl From<MemoryError> for StartError {
    fn from(error: MemoryError) -> Self {
        Self::Memory(error)
    }
}

#[cfg(test)]
mod tests;
