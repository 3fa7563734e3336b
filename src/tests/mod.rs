//! The simulator: the real loop on a network, a clock and threads that are all drawn from a seed.
//!
//! A run draws its own sizes and rates first, so that rare mixes happen. `NEBNET_SEEDS=n` runs
//! more seeds than the suite does; `NEBNET_SEED=n cargo test sim_one_seed` runs one of them again.
//! With `NEBNET_PEERS=n` each run has so many peers.

mod agenda;
mod alarms;
mod askers;
mod clients;
mod corpus;
mod links;
mod mesh;
#[cfg(nebnet_loom)]
mod models;
mod names;
mod random;
mod run;
mod settings;
mod subscribers;
mod turns;
mod watchers;
mod world;

use std::{
    cell::Cell,
    io::{self, IoSliceMut},
};

use run::{Run, Size};

use crate::limits::BLOCK_SIZE;

thread_local! {
    /// Reads on this thread that brought more than one block takes.
    static LARGE_READS: Cell<u64> = const { Cell::new(0) };
}

/// Says the seed if the run panics.
struct Say(u64);

impl Drop for Say {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Self(seed) = self;
            if let Some(peers) = seed_from("NEBNET_PEERS") {
                eprint!("NEBNET_PEERS={peers} ");
            }
            eprintln!("NEBNET_SEED={seed} cargo test sim_one_seed");
        }
    }
}

/// A vectored read by one into a vector, which is told how much there is room for.
fn read_vectored(
    slices: &mut [IoSliceMut<'_>],
    read: impl FnOnce(usize, &mut Vec<u8>) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut bytes = Vec::new();
    let count = read(slices.iter().map(|slice| slice.len()).sum(), &mut bytes)?;
    fill(&bytes, slices);
    Ok(count)
}

/// What a vectored read does with the bytes that came.
pub(crate) fn fill(bytes: &[u8], slices: &mut [IoSliceMut<'_>]) {
    LARGE_READS.set(LARGE_READS.get() + u64::from(bytes.len() > BLOCK_SIZE));
    let mut rest = bytes;
    for slice in slices {
        let (part, behind) = rest.split_at(slice.len().min(rest.len()));
        slice[..part.len()].copy_from_slice(part);
        rest = behind;
    }
}

/// Returns how many cuts of the ledger were looked at.
fn run_seed(seed: u64) -> usize {
    let say = Say(seed);
    let (.., cuts) = Run::new(seed, size()).run();
    drop(say);
    cuts
}

/// The size that the environment asks for.
fn size() -> Size {
    let peers = seed_from("NEBNET_PEERS").and_then(|peers| usize::try_from(peers).ok());
    peers.map_or(Size::Drawn, Size::Peers)
}

fn seed_from(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn sim_many_seeds() {
    let first = seed_from("NEBNET_SEED_FIRST").unwrap_or(1);
    let count = seed_from("NEBNET_SEEDS").unwrap_or(300);
    let cuts: usize = (first..first + count).map(run_seed).sum();
    println!(
        "{cuts} cuts of the ledger, {} large reads",
        LARGE_READS.get()
    );
    // Each run takes fifty steps at least, and begins a cut in every fifth or so.
    assert!(cuts as u64 >= count, "{cuts} cuts came through");
}

/// The process stands still for up to half a minute, while every timeout is a few seconds. No
/// peer whose bytes were there in time is closed for that.
#[test]
fn sim_healthy_peers_stay_over_jumps_of_time() {
    let first = seed_from("NEBNET_SEED_FIRST").unwrap_or(1);
    for seed in first..first + seed_from("NEBNET_SEEDS").unwrap_or(40) {
        let say = Say(seed);
        Run::with_stops(seed).run();
        drop(say);
    }
}

/// Peers send more at once than a read brings, so that reads go into several blocks, and others
/// stop them in the middle.
#[test]
fn sim_of_bulk() {
    let first = seed_from("NEBNET_SEED_FIRST").unwrap_or(1);
    let before = LARGE_READS.get();
    for seed in first..first + seed_from("NEBNET_SEEDS").unwrap_or(60) {
        let say = Say(seed);
        Run::new(seed, Size::Bulk).run();
        drop(say);
    }
    println!("{} large reads", LARGE_READS.get() - before);
    assert!(LARGE_READS.get() > before, "bulk is read block by block");
}

#[test]
fn sim_one_seed() {
    if let Some(seed) = seed_from("NEBNET_SEED") {
        run_seed(seed);
        Run::with_stops(seed).run();
        Run::new(seed, Size::Bulk).run();
    }
}

/// The same seed gives the same run.
#[test]
fn sim_is_deterministic() {
    let run = || Run::new(4711, Size::Drawn).run();
    assert_eq!(run(), run());
}

/// A write fails while its peer can still be read: what it was to write waits uncharged no longer.
#[test]
fn sim_of_a_write_that_fails_with_answers_left() {
    let say = Say(236_464);
    Run::new(236_464, Size::Drawn).run();
    drop(say);
}

/// A run of many peers: a table that grows, turns that leave much over, limits that are met.
#[test]
fn sim_of_many_peers() {
    let say = Say(12);
    Run::new(12, Size::Peers(300)).run();
    drop(say);
}
