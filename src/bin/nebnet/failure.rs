//! How a command ends when it does not succeed: one line, and the exit code that goes with it.

use std::{
    fmt,
    io::{self, Write as _},
    process::ExitCode,
};

use crate::text;

/// Why a command failed.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: Kind,
    message: String,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Failed,
    Usage,
}

impl Failure {
    /// The command could not do what was asked: exit code 1.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self {
            kind: Kind::Failed,
            message: message.into(),
        }
    }

    /// What was asked makes no sense: exit code 2.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self {
            kind: Kind::Usage,
            message: message.into(),
        }
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// Writes the line. What it quotes may come from the network, so control characters are
    /// escaped, which also keeps it one line.
    pub(crate) fn show(&self) {
        // Without standard error there is nobody to tell; the exit code still says it.
        let _ = writeln!(io::stderr(), "{self}");
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        match self.kind {
            Kind::Failed => ExitCode::from(1),
            Kind::Usage => ExitCode::from(2),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nebnet: {}", text::escape(&self.message))
    }
}
