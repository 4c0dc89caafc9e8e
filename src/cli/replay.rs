//! `replay`: what a sink was sent is sent to it once more.

use chrono::{DateTime, Utc};
use clap::{ArgGroup, Args as ClapArgs};

use super::progress::Progress;
use super::{number_of, say};
use crate::config::Config;
use crate::error::BoxError;
use crate::relay;
use crate::route::Pattern;
use crate::source::bookkeeping::LedgerEntry;
use crate::source::dead_letters::MAX_RETRY_RANGES;
use crate::source::replay::{Choice, Replays, STEP, Selection, TakenBack};

/// The options that select something; one of them at least must be given.
const GIVEN: [&str; 6] = [
    "from_seq",
    "to_seq",
    "from_time",
    "to_time",
    "keys",
    "event_types",
];

#[derive(Debug, ClapArgs)]
#[command(group = ArgGroup::new("selection").required(true).multiple(true).args(GIVEN))]
pub(super) struct Args {
    /// The sink. No other is sent anything.
    #[arg(long, value_name = "NAME")]
    sink: String,
    /// The source; needed if several feed the sink.
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Events from this seq on; 1 means all.
    #[arg(long, value_name = "SEQ")]
    from_seq: Option<i64>,
    /// Events up to and including this seq.
    #[arg(long, value_name = "SEQ")]
    to_seq: Option<i64>,
    /// Events written at this time or later, such as 2024-01-31T12:00:00Z.
    #[arg(long, value_name = "TIME", value_parser = time)]
    from_time: Option<DateTime<Utc>>,
    /// Events written before this time.
    #[arg(long, value_name = "TIME", value_parser = time)]
    to_time: Option<DateTime<Utc>>,
    /// Events with this ordering key (aggregate id); may be repeated.
    #[arg(long = "key", value_name = "KEY")]
    keys: Vec<String>,
    /// Events of this type, exact or with `*`, as routes have it; may be repeated.
    #[arg(long = "type", value_name = "PATTERN", value_parser = Pattern::parse)]
    event_types: Vec<Pattern>,
    /// Say how many would be replayed, and change nothing.
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn run(config: &Config, args: &Args) -> Result<(), BoxError> {
    let source = source(config, args)?;
    let ledger = ledger(config, source, &args.sink).await?;
    let outbox = relay::replays(config, source)?;
    let which = args.selection();
    let choice = choose(&*outbox, args, &which, &ledger).await?;
    let to_do = !args.dry_run && choice.events > 0;
    let outcome = if to_do {
        outbox.take_back(&args.sink, &choice.ranges).await?
    } else {
        TakenBack::Done
    };
    match outcome {
        TakenBack::Done => tell(args, source, &choice),
        TakenBack::NoLedger => Err(format!(
            "the ledger of sink {} was dropped meanwhile, and nothing was changed",
            args.sink
        )
        .into()),
        TakenBack::Full => Err(format!(
            "the ledger of sink {} would have more than {MAX_RETRY_RANGES} gaps: let the relay deliver what was \
             replayed or retried so far, then run this again, or select less",
            args.sink
        )
        .into()),
    }
}

/// Looks through the rows, page by page; no lock is held meanwhile.
async fn choose(
    outbox: &dyn Replays,
    args: &Args,
    which: &Selection,
    ledger: &LedgerEntry,
) -> Result<Choice, BoxError> {
    let mut choice = Choice::default();
    let (first, through) = which.span(&ledger.delivered);
    let mut after = first.saturating_sub(1);
    let progress = Progress::of(
        through.saturating_sub(after).max(0).unsigned_abs(),
        "seq looked at",
    );
    while after < through {
        let rows = outbox.rows(&args.sink, after, through, STEP).await?;
        for row in &rows {
            if !choice.see(row, which, &ledger.delivered) {
                return Ok(choice);
            }
        }
        match rows.last() {
            Some(last) if rows.len() >= STEP => {
                progress.steps(last.seq.abs_diff(after));
                after = last.seq;
            }
            _ => break,
        }
    }
    Ok(choice)
}

fn tell(args: &Args, source: &str, choice: &Choice) -> Result<(), BoxError> {
    let events = number_of(choice.events, "event");
    let what = if args.dry_run {
        "would be delivered again"
    } else {
        "to be delivered again"
    };
    say(&format!(
        "sink {} (source {source}): {events} {what}",
        args.sink
    ))?;
    if choice.undelivered > 0 {
        say(&format!(
            "{} that are selected were not delivered yet, and will be anyway",
            choice.undelivered
        ))?;
    }
    if choice.dead > 0 {
        say(&format!(
            "{} that are selected stand in the sink's dead letters, and stay there: see `outbox-relay dead-letters retry`",
            choice.dead
        ))?;
    }
    match choice.left_from {
        None => Ok(()),
        Some(seq) => Err(format!(
            "events from seq {seq} on were left out, for what is selected is too scattered to be replayed at once: run \
             this again with --from-seq {seq} when the relay has delivered these"
        )
        .into()),
    }
}

/// The one source that is meant.
fn source<'a>(config: &'a Config, args: &'a Args) -> Result<&'a str, BoxError> {
    let Some(sink) = config.sinks.get(&args.sink) else {
        return Err(format!(
            "--sink: there is no sink {} in the configuration, so that nobody would deliver its events, only {}",
            args.sink,
            config.sinks.keys().cloned().collect::<Vec<_>>().join(", ")
        )
        .into());
    };
    match (&args.source, sink.inputs.as_slice()) {
        (Some(source), _) if !sink.is_fed_by(source) => Err(format!(
            "--source: source {source} feeds no sink {} in the configuration, so that nobody would deliver its events",
            args.sink
        )
        .into()),
        (Some(source), _) | (None, [source]) => Ok(source),
        (None, _) => Err(format!(
            "--source: several sources feed the sink {}, say which",
            args.sink
        )
        .into()),
    }
}

/// The ledger of the sink, if it speaks of the table as it is.
async fn ledger(config: &Config, source: &str, sink: &str) -> Result<LedgerEntry, BoxError> {
    let entries = relay::bookkeeping(config, source)?.list().await?;
    let own = |entry: &LedgerEntry| {
        entry.name.relay == config.relay.name
            && entry.name.source == source
            && entry.name.sink == sink
    };
    let Some(entry) = entries.into_iter().find(own) else {
        return Err(format!(
            "the sink {sink} has no ledger for source {source} yet, so that nothing was delivered to it"
        )
        .into());
    };
    if entry.stale {
        return Err(format!(
            "the ledger of sink {sink} speaks of another sequence than the table's: look at the table, then run \
             `outbox-relay ledger reset --source {source}`"
        )
        .into());
    }
    Ok(entry)
}

impl Args {
    fn selection(&self) -> Selection {
        Selection {
            from_seq: self.from_seq,
            to_seq: self.to_seq,
            from_time: self.from_time,
            to_time: self.to_time,
            keys: self.keys.clone(),
            event_types: self.event_types.clone(),
        }
    }
}

fn time(text: &str) -> Result<DateTime<Utc>, String> {
    DateTime::parse_from_rfc3339(text)
        .map(|time| time.to_utc())
        .map_err(|error| {
            format!("{text:?} is no time such as 2024-01-31T12:00:00Z or 2024-01-31T13:00:00+01:00: {error}")
        })
}
