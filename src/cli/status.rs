//! `status`: what every source and every ledger is up to, from the database, so that it works while no relay runs.

mod survey;
mod table;

use clap::Args as ClapArgs;

use self::survey::Survey;
use super::look::Look;
use super::say;
use crate::config::Config;
use crate::error::BoxError;

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    /// Print JSON, for programs: the field names stay as they are.
    #[arg(long)]
    json: bool,
}

/// A source could not be reached, or is not as it must be.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct SourcesFailed(String);

pub(super) async fn run(config: &Config, args: &Args) -> Result<(), BoxError> {
    let survey = Survey::of(config).await;
    if args.json {
        say(&serde_json::to_string_pretty(&survey)?)?;
    } else {
        say(table::text(&survey, Look::of(&std::io::stdout())).trim_end())?;
    }
    let failed: Vec<&str> = survey.failed().collect();
    if failed.is_empty() {
        return Ok(());
    }
    let names = failed.join(", ");
    Err(SourcesFailed(format!("no complete answer from {names}, see above")).into())
}
