//! `dead-letters`: what brokers refused, and what becomes of it.

mod act;
mod list;
mod selection;
mod show;

use clap::{ArgGroup, Args as ClapArgs, Subcommand};

use self::act::Act;
use self::selection::Which;
use crate::config::Config;
use crate::error::BoxError;

/// How many letters are listed unless told otherwise: more than anybody reads.
const LIST_LIMIT: u64 = 1_000;

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// One line for each, oldest first.
    List {
        #[command(flatten)]
        which: Which,
        /// How many at most.
        #[arg(long, value_name = "N", default_value_t = LIST_LIMIT, value_parser = clap::value_parser!(u64).range(1..))]
        limit: u64,
        /// Print JSON, for programs: the field names stay as they are.
        #[arg(long)]
        json: bool,
    },
    /// All about one: why it was refused, its event, where it would go now.
    Show {
        /// Its id, as `list` has it.
        id: i64,
        /// The source; needed if the configuration has several.
        #[arg(long, value_name = "NAME")]
        source: Option<String>,
        /// Print the payload, too.
        #[arg(long)]
        payload: bool,
        /// Print JSON, for programs: the field names stay as they are.
        #[arg(long)]
        json: bool,
    },
    /// Have them delivered again, to the sink that refused them only: by a relay that runs within about a second, or
    /// by the next one.
    #[command(group = ArgGroup::new("selection").required(true).multiple(true).args(selection::GIVEN))]
    Retry {
        #[command(flatten)]
        which: Which,
        /// Say what would be retried, and change nothing.
        #[arg(long)]
        dry_run: bool,
    },
    /// Throw them away for good. What becomes of their rows is up to `after_delivery` and `retention`.
    #[command(group = ArgGroup::new("selection").required(true).multiple(true).args(selection::GIVEN))]
    Discard {
        #[command(flatten)]
        which: Which,
        /// Say what would be discarded, and change nothing.
        #[arg(long)]
        dry_run: bool,
    },
}

pub(super) async fn run(config: &Config, args: &Args) -> Result<(), BoxError> {
    match &args.command {
        Command::List { which, limit, json } => list::run(config, which, *limit, *json).await,
        Command::Show {
            id,
            source,
            payload,
            json,
        } => show::run(config, *id, source.as_deref(), *payload, *json).await,
        Command::Retry { which, dry_run } => act::run(config, which, Act::Retry, *dry_run).await,
        Command::Discard { which, dry_run } => {
            act::run(config, which, Act::Discard, *dry_run).await
        }
    }
}
