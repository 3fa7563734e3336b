//! What the threads of a service are called, and on which processors they run.

use std::{cell::Cell, io, thread};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::{
    error::StartError,
    idle::IdleStrategy,
    limits::{CPU_MAX, THREAD_NAME_SIZE_MAX},
};

const _: () = assert!(CPU_MAX < CpuSet::MAX_CPU);

thread_local! {
    static IS_DISPATCHER: Cell<bool> = const { Cell::new(false) };
}

/// Whether the calling thread is a dispatcher's: it waits for nothing that it would bring itself.
pub(crate) fn is_dispatcher() -> bool {
    IS_DISPATCHER.get()
}

/// The calling thread is a dispatcher's from now on.
pub(crate) fn set_dispatcher() {
    IS_DISPATCHER.set(true);
}

/// One kind of thread: the loops, or the dispatchers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crew<'a> {
    /// What the names of all threads of the service begin with.
    pub(crate) prefix: &'a str,
    /// What these do.
    pub(crate) role: &'static str,
    /// The setting that says where they run, for errors.
    pub(crate) setting: &'static str,
    /// Where each of them runs; too few are used again from the first on, and without any the
    /// system decides.
    pub(crate) cpus: &'a [usize],
}

impl Crew<'_> {
    /// What the thread at `index` is called.
    pub(crate) fn name(&self, index: usize) -> String {
        let (prefix, role) = (self.prefix, self.role);
        match index {
            0 => format!("{prefix}-{role}"),
            // The system shows 15 bytes of a name.
            _ => format!("{prefix}-{}-{index}", role.get(..4).unwrap_or(role)),
        }
    }

    /// Where the thread at `index` runs.
    pub(crate) fn cpu(&self, index: usize) -> Option<usize> {
        let count = self.cpus.len().max(1);
        self.cpus.get(index % count).copied()
    }

    /// Tries each of the processors, on a thread that ends again.
    pub(crate) fn try_cpus(&self) -> Result<(), StartError> {
        if self.cpus.is_empty() {
            return Ok(());
        }
        let cpus = self.cpus.to_vec();
        let attempt = move || {
            let failed = |cpu: usize| run_on(cpu).err().map(|source| (cpu, source));
            cpus.into_iter().find_map(failed)
        };
        let thread = thread::Builder::new()
            .name(self.name(0))
            .spawn(attempt)
            .map_err(StartError::Thread)?;
        // Nothing in there panics.
        match thread.join().unwrap_or(None) {
            None => Ok(()),
            Some((cpu, source)) => Err(StartError::Cpu {
                setting: self.setting,
                cpu,
                source,
            }),
        }
    }
}

/// Has the calling thread run on one processor alone.
pub(crate) fn run_on(cpu: usize) -> io::Result<()> {
    if cpu > CPU_MAX {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(sched_setaffinity(None, &set)?)
}

/// Says once that threads which never sleep have to share processors. `places` has, for each
/// thread of the service, the processor that it is to run on.
pub(crate) fn warn_if_crowded(idle: IdleStrategy, places: &[Option<usize>]) {
    let allowed = sched_getaffinity(None).map_or_else(
        |_| thread::available_parallelism().map_or(1, usize::from),
        |set| set.count() as usize,
    );
    if let Some(warning) = crowded(idle, places, allowed) {
        log::warn!("{warning}");
    }
}

/// The warning, if there is a reason for it; `allowed` processors are there for threads that have
/// no place of its own.
fn crowded(idle: IdleStrategy, places: &[Option<usize>], allowed: usize) -> Option<String> {
    if idle != IdleStrategy::Spin {
        return None;
    }
    let mut own: Vec<usize> = places.iter().copied().flatten().collect();
    own.sort_unstable();
    own.dedup();
    // A thread without a place finds one beside the others, if there is one.
    let free = places.iter().filter(|place| place.is_none()).count();
    let all = allowed.max(own.len());
    let (threads, cpus) = (places.len(), (own.len() + free).min(all));
    if cpus >= threads && all > 1 {
        return None;
    }
    let (threads, cpus) = (counted(threads, "thread"), counted(cpus, "processor"));
    Some(format!(
        "idle strategy Spin: {threads} that never sleep on {cpus}, which they take from each other \
         and from everything else; Poll or Block would be faster"
    ))
}

fn counted(count: usize, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

/// Linux shows 15 bytes of a name: the longest prefix leaves room for "-loop".
const _: () = assert!(THREAD_NAME_SIZE_MAX + "-loop".len() == 15);

#[cfg(test)]
mod tests {
    use super::*;

    fn crew(cpus: &[usize]) -> Crew<'_> {
        Crew {
            prefix: "nebnet",
            role: "loop",
            setting: "loop_cpus",
            cpus,
        }
    }

    #[test]
    fn each_thread_has_a_name_and_its_place() {
        let crew = crew(&[3, 5]);
        assert_eq!(crew.name(0), "nebnet-loop");
        assert_eq!(crew.name(2), "nebnet-loop-2");
        let places: Vec<_> = (0..5).map(|index| crew.cpu(index)).collect();
        assert_eq!(places, [Some(3), Some(5), Some(3), Some(5), Some(3)]);
        let anywhere = Crew { cpus: &[], ..crew };
        assert_eq!(anywhere.cpu(7), None);
    }

    #[test]
    fn a_processor_that_is_not_there_is_told() {
        let allowed = sched_getaffinity(None).unwrap();
        let first = (0..=CPU_MAX).find(|cpu| allowed.is_set(*cpu)).unwrap();
        assert!(crew(&[first]).try_cpus().is_ok());
        // No machine has that many.
        let error = crew(&[first, CPU_MAX]).try_cpus().unwrap_err();
        let StartError::Cpu { setting, cpu, .. } = error else {
            panic!("{error}");
        };
        assert_eq!((setting, cpu), ("loop_cpus", CPU_MAX));
        let now = sched_getaffinity(None).unwrap();
        assert_eq!(now, allowed, "whoever asks stays where it was");
    }

    #[test]
    fn a_thread_runs_where_it_was_told() {
        let allowed = sched_getaffinity(None).unwrap();
        let last = (0..=CPU_MAX).rfind(|cpu| allowed.is_set(*cpu)).unwrap();
        let thread = thread::Builder::new().name("placed".to_owned());
        let place = thread.spawn(move || {
            run_on(last).unwrap();
            sched_getaffinity(None).unwrap()
        });
        let place = place.unwrap().join().unwrap();
        assert_eq!((place.count(), place.is_set(last)), (1, true));
        assert!(run_on(usize::MAX).is_err());
    }

    #[test]
    fn spinning_threads_want_a_processor_each() {
        let spin = IdleStrategy::Spin;
        let (free, on) = ([None, None], |cpu| Some(cpu));
        assert_eq!(crowded(IdleStrategy::default(), &free, 1), None);
        assert_eq!(crowded(spin, &free, 2), None);
        assert_eq!(crowded(spin, &[on(0), on(1)], 4), None);
        assert_eq!(crowded(spin, &[on(0), None], 2), None);
        assert_eq!(crowded(spin, &[on(0)], 2), None);
        let warning = crowded(spin, &free, 1).unwrap();
        assert!(
            warning.contains("2 threads that never sleep on 1 processor,"),
            "{warning}"
        );
        assert!(crowded(spin, &[on(1), on(1)], 4).is_some());
        assert!(crowded(spin, &[None], 1).is_some(), "nobody else gets on");
        assert!(crowded(spin, &[None; 4], 3).is_some());
    }
}
