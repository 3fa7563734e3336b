//! SIGTERM and SIGINT: the first asks the service to stop, the second stops the program.

use std::{process, thread};

use crossbeam_channel::{Receiver, bounded};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};

use crate::failure::Failure;

/// Exit code after a second signal; what shells report for SIGINT.
const EXIT_AT_ONCE: i32 = 130;

/// Yields the first signal. From now on the program does not end by a signal's default action.
///
/// The second ends the program from the thread that receives it, because the main thread is then
/// inside the drain, and nobody waits for anything any more, not even for standard error.
pub(crate) fn watch() -> Result<Receiver<i32>, Failure> {
    let fail = |error| Failure::new(format!("cannot handle signals: {error}"));
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(fail)?;
    let (sender, receiver) = bounded(1);
    thread::Builder::new()
        .name("nebnet-signals".to_owned())
        .spawn(move || {
            let mut asked = false;
            for signal in signals.forever() {
                if asked {
                    process::exit(EXIT_AT_ONCE);
                }
                asked = true;
                // The main thread looks at it as soon as the service has started.
                let _ = sender.try_send(signal);
            }
        })
        .map_err(fail)?;
    Ok(receiver)
}
