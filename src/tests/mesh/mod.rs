//! The second simulator: several real loops that dial each other over a network in memory.
//!
//! Each run draws who wants to be connected to whom, and how; then hosts die and come back, pairs
//! are cut off, loops stand still, connections break. Once all that has ended, everybody who wants
//! to be connected and may be is connected, once. `NEBNET_SEEDS=n` runs more seeds than the suite
//! does; `NEBNET_SEED=n cargo test mesh_one_seed` runs one of them again.

mod machine;
mod net;
mod plan;
mod run;

use run::Run;

use super::seed_from;

/// Says the seed if the run panics.
struct Say(u64);

impl Drop for Say {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("NEBNET_SEED={} cargo test mesh_one_seed", self.0);
        }
    }
}

fn run_seed(seed: u64) -> run::Tally {
    let say = Say(seed);
    let tally = Run::new(seed).run();
    drop(say);
    tally
}

#[test]
fn mesh_many_seeds() {
    let first = seed_from("NEBNET_SEED_FIRST").unwrap_or(1);
    let count = seed_from("NEBNET_SEEDS").unwrap_or(60);
    let mut all = run::Tally::default();
    for seed in first..first + count {
        all.add(&run_seed(seed));
    }
    // What never happens is not tested.
    println!("{all:?}");
    if count >= 60 {
        assert!(all.sums > 0 && all.pairs > 0 && all.cuts_noticed > 0 && all.pauses_survived > 0);
    }
}

#[test]
fn mesh_one_seed() {
    if let Some(seed) = seed_from("NEBNET_SEED") {
        println!("{:?}", run_seed(seed));
    }
}

/// The same seed gives the same run.
#[test]
fn mesh_is_deterministic() {
    assert_eq!(run_seed(4711), run_seed(4711));
}
