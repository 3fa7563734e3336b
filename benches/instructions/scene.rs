//! The process in which a scene runs.

use nebnet::workbench::{Entry, SCENES, Scene};
use std::env;

/// Set in the environment of that process, and only there.
pub(crate) const SCENE_VARIABLE: &str = "NEBNET_SCENE";
/// Runs that are counted.
pub(crate) const RUNS: u32 = 50;
/// Runs before them, in which storage grows to its size and finds its place in pools.
const WARM_UP_RUNS: u32 = 20;

/// Runs a scene if this process was started for that, and says so.
pub(crate) fn run_if_child() -> bool {
    let Ok(name) = env::var(SCENE_VARIABLE) else {
        return false;
    };
    let entry = SCENES.iter().find(|entry| entry.name == name).unwrap();
    run(entry, RUNS);
    true
}

pub(crate) fn run(entry: &Entry, runs: u32) {
    let mut scene = (entry.make)();
    for _ in 0..WARM_UP_RUNS {
        scene.prepare();
        scene.run();
    }
    for _ in 0..runs {
        scene.prepare();
        counted_run(&mut *scene);
    }
}

/// Callgrind counts while it is in here. The name has to be found in the binary, so this is a call
/// that stays one.
#[inline(never)]
pub(crate) fn counted_run(scene: &mut dyn Scene) {
    scene.run();
}
