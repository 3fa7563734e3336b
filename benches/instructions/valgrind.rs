//! The counting.

use crate::scene::SCENE_VARIABLE;
use nebnet::workbench::Entry;
use std::env;
use std::process::Command;

/// Has the C library copy and compare in the one way that every x86-64 processor can. Which it
/// takes by itself depends on the processor, and moves a scene by up to 5 %.
const TUNABLES: (&str, &str) = (
    "GLIBC_TUNABLES",
    "glibc.cpu.hwcaps=-AVX_Fast_Unaligned_Load,-AVX512VL,-AVX2,-BMI2,-ERMS,-FSRM,-SSSE3",
);

/// Of the valgrind that is installed.
pub(crate) fn version() -> Option<String> {
    let output = Command::new("valgrind").arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    output.status.success().then_some(text)
}

/// Instructions of all counted runs.
pub(crate) fn count(entry: &Entry) -> u64 {
    let output = Command::new("valgrind")
        .args([
            "--tool=callgrind",
            "--callgrind-out-file=/dev/null",
            "--collect-atstart=no",
            "--toggle-collect=*counted_run*",
        ])
        .arg(env::current_exe().unwrap())
        // What else the environment holds would move the stack.
        .env_clear()
        .env(TUNABLES.0, TUNABLES.1)
        .env(SCENE_VARIABLE, entry.name)
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    let collected = log.lines().find_map(|line| line.split_once("Collected :"));
    let count = collected.and_then(|(_, count)| count.trim().parse().ok());
    match count {
        Some(count @ 1..) if output.status.success() => count,
        _ => panic!("{} under callgrind: {}\n{log}", entry.name, output.status),
    }
}
