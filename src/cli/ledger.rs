//! `ledger`: what the sinks have, and what becomes of what is left of them.

use chrono::SecondsFormat;
use clap::{Args as ClapArgs, Subcommand, ValueEnum};

use super::columns::{Side, aligned};
use super::look::Look;
use super::say;
use crate::config::{Config, Start, parse_name};
use crate::error::BoxError;
use crate::relay;
use crate::source::bookkeeping::{Bookkeeping, LedgerEntry, LedgerName};

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Every ledger stored for the tables of the configured sources: an event is settled when all have it.
    List,
    /// Drop the ledger of a sink that is gone for good. Its dead letters stay.
    Drop {
        #[command(flatten)]
        which: Which,
        /// Even if the configuration still has the sink: it then starts as a new one.
        #[arg(long)]
        force: bool,
    },
    /// Give a ledger, with its dead letters, to a sink of another name.
    Rename {
        #[command(flatten)]
        which: Which,
        /// The sink's new name.
        #[arg(long, value_name = "NAME", value_parser = parse_name)]
        to: String,
        /// Even while a relay runs.
        #[arg(long)]
        force: bool,
    },
    /// Start every ledger of a source anew: after TRUNCATE … RESTART IDENTITY, setval, a restore, or a change of the
    /// table. Other relays on the table are halted until theirs are reset, too.
    Reset {
        /// The source.
        #[arg(long, value_name = "NAME")]
        source: String,
        /// Where they start.
        #[arg(long, value_enum, default_value_t = From::Unsettled)]
        start: From,
        /// Even while a relay runs: what it has in flight may be published twice.
        #[arg(long)]
        force: bool,
    },
}

/// Names a ledger.
#[derive(Debug, ClapArgs)]
struct Which {
    /// The sink.
    #[arg(long, value_name = "NAME")]
    sink: String,
    /// The source; needed if the sink has several ledgers.
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// The relay, if it is not the configured one.
    #[arg(long, value_name = "NAME")]
    relay: Option<String>,
}

/// Where ledgers start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum From {
    /// At the first row: everything in the table is delivered, what was delivered before once more.
    Earliest,
    /// At the oldest row without sent_at.
    Unsettled,
    /// After what is in the table, which counts as delivered.
    Latest,
}

/// The bookkeeping of a configured source, and what it lists.
struct Shelf {
    bookkeeping: Box<dyn Bookkeeping>,
    entries: Vec<LedgerEntry>,
}

pub(super) async fn run(config: &Config, args: &Args) -> Result<(), BoxError> {
    match &args.command {
        Command::List => list(config, &shelves(config).await?),
        Command::Drop { which, force } => drop_ledger(config, which, *force).await,
        Command::Rename { which, to, force } => rename(config, which, to, *force).await,
        Command::Reset {
            source,
            start,
            force,
        } => reset(config, source, *start, *force).await,
    }
}

/// What every configured source lists. A table that two of them share is shown once.
async fn shelves(config: &Config) -> Result<Vec<Shelf>, BoxError> {
    let mut shelves: Vec<Shelf> = Vec::new();
    for name in config.sources.keys() {
        let bookkeeping = relay::bookkeeping(config, name)?;
        let mut entries = bookkeeping.list().await?;
        let seen = |entry: &LedgerEntry| shelves.iter().any(|shelf| shelf.entries.contains(entry));
        entries.retain(|entry| !seen(entry));
        shelves.push(Shelf {
            bookkeeping,
            entries,
        });
    }
    Ok(shelves)
}

fn list(config: &Config, shelves: &[Shelf]) -> Result<(), BoxError> {
    let header = [
        "RELAY",
        "SOURCE",
        "SINK",
        "UNDELIVERED FROM",
        "RANGES",
        "STORED",
        "HELD BY",
        "NOTE",
    ];
    let mut lines = vec![header.map(str::to_owned)];
    let entries = shelves.iter().flat_map(|shelf| &shelf.entries);
    lines.extend(entries.map(|entry| line(config, entry)));
    for line in aligned(Look::of(&std::io::stdout()), [Side::Left; 8], &lines) {
        say(&line)?;
    }
    Ok(())
}

fn line(config: &Config, entry: &LedgerEntry) -> [String; 8] {
    let LedgerName {
        relay,
        source,
        sink,
    } = &entry.name;
    let note = if entry.stale {
        "of another sequence, nothing is settled: ledger reset"
    } else if *relay == config.relay.name && !is_configured(config, &entry.name) {
        "no sink in the configuration, holds the table back: ledger drop or rename"
    } else if !is_configured(config, &entry.name) && entry.holder.is_none() {
        "no relay keeps it, holds the table back: ledger drop if it is gone for good"
    } else if entry.changed {
        "changed, is about to be read anew"
    } else {
        ""
    };
    [
        relay.clone(),
        source.clone(),
        sink.clone(),
        entry.delivered.lowest_missing(1).to_string(),
        entry.delivered.len().to_string(),
        entry.updated_at.to_rfc3339_opts(SecondsFormat::Secs, true),
        entry.holder.clone().unwrap_or_else(|| "-".into()),
        note.to_owned(),
    ]
}

fn is_configured(config: &Config, ledger: &LedgerName) -> bool {
    ledger.relay == config.relay.name && config.feeds(&ledger.source, &ledger.sink)
}

/// The one ledger that is meant.
fn find<'a>(
    config: &Config,
    shelves: &'a [Shelf],
    which: &Which,
) -> Result<(&'a dyn Bookkeeping, &'a LedgerEntry), BoxError> {
    let relay = which.relay.as_ref().unwrap_or(&config.relay.name);
    let meant = |name: &LedgerName| {
        name.sink == which.sink
            && name.relay == *relay
            && which
                .source
                .as_ref()
                .is_none_or(|source| *source == name.source)
    };
    let mut found = shelves.iter().flat_map(|shelf| {
        let entries = shelf.entries.iter().filter(|entry| meant(&entry.name));
        entries.map(|entry| (&*shelf.bookkeeping, entry))
    });
    let Some(first) = found.next() else {
        return Err(format!(
            "the relay {relay} has no ledger of a sink {}: see `outbox-relay ledger list`",
            which.sink
        )
        .into());
    };
    match found.next() {
        None => Ok(first),
        Some(_) => Err(format!(
            "--source: the sink {} has several ledgers, say which; see `outbox-relay ledger list`",
            which.sink
        )
        .into()),
    }
}

async fn drop_ledger(config: &Config, which: &Which, force: bool) -> Result<(), BoxError> {
    let shelves = shelves(config).await?;
    let (bookkeeping, entry) = find(config, &shelves, which)?;
    let LedgerName {
        relay,
        source,
        sink,
    } = &entry.name;
    if is_configured(config, &entry.name) && !force {
        return Err(format!(
            "the configuration still has the sink {sink}, which would start anew: take it out of the \
             configuration first, or use --force"
        )
        .into());
    }
    if *relay != config.relay.name && !force {
        refuse_live(entry)?;
    }
    if !bookkeeping.drop_ledger(&entry.name).await? {
        return Err("the ledger is gone already".into());
    }
    say(&format!(
        "the ledger of sink {sink} (relay {relay}, source {source}) was dropped; it lacked events from seq {} on",
        entry.delivered.lowest_missing(1)
    ))?;
    Ok(())
}

async fn rename(config: &Config, which: &Which, to: &str, force: bool) -> Result<(), BoxError> {
    let shelves = shelves(config).await?;
    let (bookkeeping, entry) = find(config, &shelves, which)?;
    let new = LedgerName {
        sink: to.to_owned(),
        ..entry.name.clone()
    };
    let mut entries = shelves.iter().flat_map(|shelf| &shelf.entries);
    if entries.any(|entry| entry.name == new) {
        return Err(format!("the sink {to} has a ledger already: drop one of the two").into());
    }
    if !force {
        refuse_live(entry)?;
    }
    if !bookkeeping.rename(&entry.name, to).await? {
        return Err("the ledger is gone already".into());
    }
    say(&format!(
        "the ledger of sink {} (relay {}, source {}) is now that of sink {to}",
        entry.name.sink, entry.name.relay, entry.name.source
    ))?;
    Ok(())
}

async fn reset(config: &Config, source: &str, start: From, force: bool) -> Result<(), BoxError> {
    let bookkeeping = relay::bookkeeping(config, source)?;
    let own =
        |entry: &LedgerEntry| entry.name.relay == config.relay.name && entry.name.source == source;
    if !force {
        refuse_if_live(&bookkeeping.list().await?, own)?;
    }
    let start = match start {
        From::Earliest => Start::Earliest,
        From::Unsettled => Start::Unsettled,
        From::Latest => Start::Latest,
    };
    let ledgers = bookkeeping.reset(start).await?;
    if ledgers.is_empty() {
        say(&format!(
            "source {source} has no ledgers; the next run stores them"
        ))?;
    }
    for (sink, delivered) in ledgers {
        say(&format!(
            "the ledger of sink {sink} starts anew: events from seq {} on are delivered",
            delivered.lowest_missing(1)
        ))?;
    }
    let entries = bookkeeping.list().await?;
    for entry in entries.iter().filter(|entry| entry.stale && !own(entry)) {
        say(&format!(
            "note: the ledger of sink {} (relay {}, source {}) speaks of the same table and of numbers that are \
             drawn again; its relay is halted, and nothing is settled, until `outbox-relay ledger reset` by its \
             configuration, or `ledger drop`",
            entry.name.sink, entry.name.relay, entry.name.source
        ))?;
    }
    Ok(())
}

/// Refuses to reset ledgers under a relay that runs: the source's own, and those of others that the reset makes stale.
fn refuse_if_live(
    entries: &[LedgerEntry],
    own: impl Fn(&LedgerEntry) -> bool,
) -> Result<(), BoxError> {
    let known = entries.iter().any(|entry| own(entry) && entry.stale);
    let concerned = |entry: &&LedgerEntry| own(entry) || !known && !entry.stale;
    entries.iter().filter(concerned).try_for_each(refuse_live)
}

/// Refuses to change a ledger under a relay that runs.
fn refuse_live(entry: &LedgerEntry) -> Result<(), BoxError> {
    match &entry.holder {
        None => Ok(()),
        Some(holder) => Err(format!(
            "the process {holder} holds the lease of source {} (relay {}): stop it, or wait 10 s if it is gone, \
             or use --force",
            entry.name.source, entry.name.relay
        )
        .into()),
    }
}
