//! `migrate`: create the tables, or print their SQL.

use clap::Args as ClapArgs;

use super::say;
use crate::config::{Config, SourceKind};
use crate::error::BoxError;
use crate::source::SourceError;

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    /// Print the SQL, with the privileges that each role needs, and change nothing.
    #[arg(long)]
    print: bool,
}

pub(super) async fn run(config: &Config, args: &Args) -> Result<(), BoxError> {
    if args.print {
        for source in config.sources.values() {
            say(&printed(&source.kind)?)?;
        }
        return Ok(());
    }
    for (source, line) in migrate_all(config).await? {
        say(&format!("{source}: {line}"))?;
    }
    Ok(())
}

/// Creates what is missing in every source; returns what was done, by source.
pub(super) async fn migrate_all(config: &Config) -> Result<Vec<(String, String)>, BoxError> {
    let mut done = Vec::new();
    for (name, source) in &config.sources {
        for line in migrate(&source.kind).await? {
            tracing::info!(source = name, "{line}");
            done.push((name.clone(), line));
        }
    }
    Ok(done)
}

async fn migrate(kind: &SourceKind) -> Result<Vec<String>, SourceError> {
    match kind {
        #[cfg(feature = "postgres")]
        SourceKind::Postgres(postgres) => crate::source::postgres::migrate(postgres).await,
        #[cfg(feature = "sqlite")]
        SourceKind::Sqlite(sqlite) => crate::source::sqlite::migrate(sqlite).await,
        #[allow(unreachable_patterns)] // by the features of the build
        kind => Err(kind.not_built()),
    }
}

fn printed(kind: &SourceKind) -> Result<String, SourceError> {
    match kind {
        #[cfg(feature = "postgres")]
        SourceKind::Postgres(postgres) => Ok(crate::source::postgres::printed(postgres)),
        #[cfg(feature = "sqlite")]
        SourceKind::Sqlite(sqlite) => Ok(crate::source::sqlite::printed(sqlite)),
        #[allow(unreachable_patterns)] // by the features of the build
        kind => Err(kind.not_built()),
    }
}
