//! `migrate`: create the tables, adopt one that is there, or print the SQL of either.

#[cfg(feature = "postgres")]
use std::time::Duration;

use clap::Args as ClapArgs;

use super::{named, say};
use crate::config::{Config, Source, SourceKind};
use crate::error::BoxError;
use crate::source::SourceError;
#[cfg(feature = "postgres")]
use crate::source::postgres::{Adoption, Choices, Published};

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    /// Print the SQL, with the privileges that each role needs, and change nothing.
    #[arg(long)]
    print: bool,

    /// Only this source.
    #[arg(long, value_name = "NAME")]
    source: Option<String>,

    /// Make an outbox table that is there already one that can be relayed: number its rows, add what it lacks.
    /// Writers wait meanwhile, and need no change.
    #[cfg(feature = "postgres")]
    #[arg(long)]
    adopt: bool,

    /// With --adopt: which rows without sent_at were published before. Needed if the table doesn't say it.
    #[cfg(feature = "postgres")]
    #[arg(long, value_name = "TIME|none|all", requires = "adopt")]
    published_before: Option<Published>,

    /// With --adopt: how long an attempt to lock the table may last, and writers queue up behind it. More where
    /// transactions are longer.
    #[cfg(feature = "postgres")]
    #[arg(long, value_name = "SECONDS", requires = "adopt", default_value_t = 2,
          value_parser = clap::value_parser!(u64).range(1..=60))]
    lock_wait: u64,
}

pub(super) async fn run(config: &Config, args: &Args) -> Result<(), BoxError> {
    #[cfg(feature = "postgres")]
    if args.adopt {
        return adopt(config, args).await;
    }
    let chosen = chosen(config, args)?;
    let are_several = chosen.len() > 1;
    for source in chosen {
        if args.print {
            if are_several {
                say(&format!("-- source {}", source.name))?;
            }
            say(&printed(&source.kind)?)?;
            continue;
        }
        for line in migrate(source).await? {
            say(&format!("{}: {line}", source.name))?;
        }
    }
    Ok(())
}

/// Creates what is missing in every source, and logs what was done.
pub(super) async fn migrate_all(config: &Config) -> Result<(), BoxError> {
    for source in config.sources.values() {
        for line in migrate(source).await? {
            tracing::info!(source = source.name, "{line}");
        }
    }
    Ok(())
}

/// The sources that are meant.
fn chosen<'a>(config: &'a Config, args: &Args) -> Result<Vec<&'a Source>, BoxError> {
    let Some(name) = &args.source else {
        return Ok(config.sources.values().collect());
    };
    Ok(vec![named(config, name)?])
}

async fn migrate(source: &Source) -> Result<Vec<String>, SourceError> {
    match &source.kind {
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

#[cfg(feature = "postgres")]
async fn adopt(config: &Config, args: &Args) -> Result<(), BoxError> {
    let [source] = chosen(config, args)?[..] else {
        return Err("--adopt: there are several sources, say which by --source NAME".into());
    };
    let SourceKind::Postgres(postgres) = &source.kind else {
        return Err(format!(
            "--adopt: the source {} is no PostgreSQL database: `outbox-relay migrate` creates its table, and an \
             application's own can't be adopted",
            source.name
        )
        .into());
    };
    let choices = Choices {
        published: args.published_before,
        lock_wait: Duration::from_secs(args.lock_wait),
    };
    let planned = Adoption::plan(config, source, postgres, choices).await?;
    let Some(mut adoption) = planned else {
        let line = "already adopted: its rows and its ledgers stay as they are";
        if args.print {
            return Ok(say(&format!("-- {line}"))?);
        }
        say(&format!("{}: {line}", source.name))?;
        for line in migrate(source).await? {
            say(&format!("{}: {line}", source.name))?;
        }
        return Ok(());
    };
    if args.print {
        return print(&adoption);
    }
    let tell = |lines: Vec<String>| -> Result<(), BoxError> {
        for line in lines {
            say(&format!("{}: {line}", source.name))?;
        }
        Ok(())
    };
    tell(adoption.announcement())?;
    tell(vec![adoption.estimate().await?])?;
    tell(adoption.run().await?)?;
    tell(adoption.advice())?;
    say(&format!("\n{}", adoption.grants()))?;
    Ok(())
}

/// All of it as SQL, what is to be known as comments.
#[cfg(feature = "postgres")]
fn print(adoption: &Adoption) -> Result<(), BoxError> {
    for line in adoption.announcement() {
        say(&format!("-- {line}"))?;
    }
    say(&format!("\n{}", adoption.script()))?;
    for line in adoption.advice() {
        say(&format!("-- {line}"))?;
    }
    say(&format!("\n{}", adoption.grants()))?;
    Ok(())
}
