//! SIGHUP: reads again what files say, judges it, and then changes all of it or nothing.
//!
//! What cannot change while the service runs stays, and one line names it.

use std::path::PathBuf;

use nebnet::{Handle, NodeId, Reconfigured};

use crate::{
    args::ServeOptions,
    failure::Failure,
    logger,
    settings::{Settings, random_node_id},
    text,
};

/// What `serve` was started with and runs with.
#[derive(Debug)]
pub(crate) struct Running {
    flags: ServeOptions,
    file: Option<PathBuf>,
    /// Who the service is if nothing else says so.
    drawn: NodeId,
    pub(crate) settings: Settings,
}

impl Running {
    pub(crate) fn load(flags: ServeOptions, file: Option<PathBuf>) -> Result<Self, Failure> {
        let drawn = random_node_id();
        let settings = Settings::load(flags.clone(), file.as_deref(), drawn)?;
        Ok(Self {
            flags,
            file,
            drawn,
            settings,
        })
    }

    /// Reads the file again; flags still win. Says what came of it.
    pub(crate) fn reload(&mut self, handle: &Handle) {
        let Some(file) = &self.file else {
            log::info!("nothing to reload: there is no --config");
            return;
        };
        let shown = file.display().to_string();
        match self.try_reload(handle) {
            Ok((changes, level)) => {
                // With the one of both levels that shows more: who turns the log down or up is
                // told.
                logger::set_level(level.max(self.settings.log_level));
                say(&shown, &changes);
                logger::set_level(self.settings.log_level);
            }
            Err(failure) => log::error!("not reloaded, nothing has changed: {}", failure.message()),
        }
    }

    /// Returns what changed, and the level before that.
    fn try_reload(&mut self, handle: &Handle) -> Result<(Reconfigured, log::LevelFilter), Failure> {
        let flags = self.flags.clone();
        // A pipe has been read, and would say that nothing is set.
        if let Some(file) = self
            .file
            .as_deref()
            .filter(|file| file.exists() && !file.is_file())
        {
            let shown = file.display();
            return Err(Failure::new(format!("{shown} is not a regular file")));
        }
        let new = Settings::load(flags, self.file.as_deref(), self.drawn)?;
        // Whatever else is read again has to be judged before this, which is the first step that
        // changes something, and the last that can fail.
        let mut changes = handle
            .reconfigure(&new.config)
            .map_err(|error| Failure::new(text::chain(&error)))?;
        let level = self.settings.log_level;
        self.settings.take_live(new, &mut changes);
        Ok((changes, level))
    }
}

fn say(file: &str, changes: &Reconfigured) {
    if changes.changed.is_empty() {
        log::info!("reloaded {file}: nothing has changed");
    } else {
        log::info!("reloaded {file}: {}", changes.changed.join(", "));
    }
    if !changes.kept.is_empty() {
        log::warn!("{file}: only a restart changes {}", changes.kept.join(", "));
    }
}
