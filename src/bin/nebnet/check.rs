//! `nebnet check FILE`: every problem of a configuration file, without starting anything.

use std::io::{self, Write as _};

use nebnet::NodeId;

use crate::{
    args::{CheckArgs, ServeOptions},
    config_file,
    failure::Failure,
    settings, text,
};

/// Problems go to standard output, one a line with its place, since they are what was asked for.
pub(crate) fn run(args: &CheckArgs) -> Result<(), Failure> {
    let shown = args.file.display();
    let file = config_file::load(&args.file)?;
    let mut out = io::stdout().lock();
    let written = match settings::resolve(ServeOptions::default(), Some(file), NodeId::ANONYMOUS) {
        Ok(_) => writeln!(out, "{shown}: ok").map(|()| 0),
        Err(problems) => problems
            .iter()
            .try_for_each(|problem| writeln!(out, "{}", text::escape(&problem.to_string())))
            .map(|()| problems.len()),
    };
    match written.and_then(|count| out.flush().map(|()| count)) {
        Ok(0) => Ok(()),
        Ok(1) => Err(Failure::new(format!("{shown} has a problem"))),
        Ok(count) => Err(Failure::new(format!("{shown} has {count} problems"))),
        Err(error) => Err(Failure::new(format!(
            "cannot write to standard output: {error}"
        ))),
    }
}
