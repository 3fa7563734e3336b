//! SIGTERM and SIGINT: the first asks the service to stop, the second stops the program. SIGHUP
//! asks for one reload, and never ends anything.

use std::{process, thread};

use crossbeam_channel::{Receiver, bounded};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

use crate::failure::Failure;

/// Exit code after a second signal; what shells report for SIGINT.
const EXIT_AT_ONCE: i32 = 130;

/// Signals that are caught and wait to be told.
pub(crate) struct Caught(Signals);

/// What the program was asked for.
#[derive(Debug)]
pub(crate) struct Asked {
    /// Yields the first signal to stop.
    pub(crate) stop: Receiver<()>,
    /// Yields once for all signals to reload that came since it did so last.
    pub(crate) reload: Receiver<()>,
}

/// From now on the program does not end by a signal's default action. No thread is needed for that.
pub(crate) fn catch() -> Result<Caught, Failure> {
    let signals = Signals::new([SIGTERM, SIGINT, SIGHUP]);
    signals
        .map(Caught)
        .map_err(|error| Failure::new(format!("cannot handle signals: {error}")))
}

impl Caught {
    /// Tells the signals, those that were caught before included.
    ///
    /// The second to stop ends the program from the thread that receives it, because the main
    /// thread is then inside the drain, and nobody waits for anything any more, not even for
    /// standard error.
    pub(crate) fn watch(mut self) -> Result<Asked, Failure> {
        let ((stop, stop_asked), (reload, reload_asked)) = (bounded(1), bounded(1));
        thread::Builder::new()
            .name("nebnet-signals".to_owned())
            .spawn(move || {
                let mut stops = false;
                for signal in self.0.forever() {
                    match (signal, stops) {
                        (SIGHUP, true) => log::info!("not reloaded: the service stops"),
                        (SIGHUP, false) => drop(reload.try_send(())),
                        (_, true) => process::exit(EXIT_AT_ONCE),
                        (_, false) => {
                            stops = true;
                            // The main thread looks at it as soon as the service has started.
                            let _ = stop.try_send(());
                        }
                    }
                }
            })
            .map_err(|error| Failure::new(format!("cannot handle signals: {error}")))?;
        Ok(Asked {
            stop: stop_asked,
            reload: reload_asked,
        })
    }
}
