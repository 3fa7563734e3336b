//! Address space that the C library's allocator takes for nothing.
//!
//! It reserves 64 MiB for nearly every thread. Where the address space is limited (`RLIMIT_AS`),
//! five threads have used up 320 MiB before the first message, and the allocation that then fails
//! aborts the process. How many reserves there are is read once, before `main`, from the
//! environment; so the program sets it and starts itself again.

use std::{env, os::unix::process::CommandExt as _, process::Command};

use rustix::process::{Resource, getrlimit};

const VARIABLE: &str = "MALLOC_ARENA_MAX";
/// The loops allocate most, and with a reserve of their own they do not wait for the others.
const ARENAS: &str = "2";

/// Starts the program again with few reserves if the address space is limited and nothing is set.
/// The process stays the same one. Where that is not possible, all goes on as it is: the library
/// has counted the reserves.
pub(crate) fn limit() {
    let is_limited = getrlimit(Resource::As).current.is_some();
    let tunables = env::var("GLIBC_TUNABLES").unwrap_or_default();
    if !is_limited || env::var_os(VARIABLE).is_some() || tunables.contains("arena_max") {
        return;
    }
    let Ok(program) = env::current_exe() else {
        return;
    };
    let mut args = env::args_os();
    let mut command = Command::new(program);
    if let Some(name) = args.next() {
        command.arg0(name);
    }
    // Comes back only if it fails.
    let _ = command.args(args).env(VARIABLE, ARENAS).exec();
}
