//! `completions`: what a shell needs to complete this program's command line.

use std::io::Write as _;

use clap::{Args as ClapArgs, CommandFactory as _};
use clap_complete::Shell;

use super::Cli;
use crate::error::BoxError;

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    /// The shell.
    shell: Shell,
}

pub(super) fn run(args: &Args) -> Result<(), BoxError> {
    let mut script = Vec::new();
    let mut command = Cli::command();
    let name = command.get_name().to_owned();
    // Into memory first: it panics where it can't write, to a pager that was left, say.
    clap_complete::generate(args.shell, &mut command, name, &mut script);
    std::io::stdout().write_all(&script)?;
    Ok(())
}
