//! `emit`: insert events, for trying out.

use std::time::Duration;

use clap::Args as ClapArgs;
use tokio::time::MissedTickBehavior;

use super::progress::Progress;
use super::{named, say};
use crate::config::{Config, SourceKind};
use crate::enqueue::NewEvent;
use crate::error::{BoxError, chain};
use crate::source::{EventWriter, SourceError};

#[derive(Debug, ClapArgs)]
pub(super) struct Args {
    /// The event's type.
    #[arg(default_value = "PickMade")]
    event_type: String,

    /// The source to insert into; may be left out if there is only one.
    #[arg(long)]
    source: Option<String>,

    /// The ordering key (aggregate_id).
    #[arg(long, conflicts_with = "keys")]
    key: Option<String>,

    /// Spread the events over this many keys: key-0, key-1 …
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    keys: Option<u64>,

    /// The kind of aggregate.
    #[arg(long)]
    aggregate_type: Option<String>,

    /// The payload, JSON; `{number}` in it becomes the number of the event.
    #[arg(long, default_value = r#"{"n":{number}}"#)]
    payload: String,

    /// A header.
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = parse_header)]
    headers: Vec<(String, String)>,

    /// How many events.
    #[arg(long, default_value_t = 1)]
    count: u64,

    /// Events per second; as fast as they go if left out.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: Option<u32>,
}

pub(super) fn parse_header(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("a header is NAME=VALUE".to_owned()),
    }
}

pub(super) async fn run(config: &Config, args: &Args) -> Result<(), BoxError> {
    emit(writer(kind(config, args.source.as_deref())?)?, args).await
}

fn kind<'a>(config: &'a Config, source: Option<&str>) -> Result<&'a SourceKind, BoxError> {
    if let Some(name) = source {
        return Ok(&named(config, name)?.kind);
    }
    let mut sources = config.sources.values();
    match (sources.next(), sources.next()) {
        (Some(only), None) => Ok(&only.kind),
        _ => {
            let names: Vec<&str> = config.sources.keys().map(String::as_str).collect();
            Err(format!("--source: say which one of {}", names.join(", ")).into())
        }
    }
}

fn writer(kind: &SourceKind) -> Result<Box<dyn EventWriter>, SourceError> {
    match kind {
        #[cfg(feature = "postgres")]
        SourceKind::Postgres(postgres) => {
            Ok(Box::new(crate::source::postgres::Writer::new(postgres)?))
        }
        #[cfg(feature = "sqlite")]
        SourceKind::Sqlite(sqlite) => Ok(Box::new(crate::source::sqlite::Writer::new(sqlite))),
        #[allow(unreachable_patterns)] // by the features of the build
        kind => Err(kind.not_built()),
    }
}

/// A column of type json takes nothing else; others may.
fn explained(error: SourceError, payload: &str) -> BoxError {
    match serde_json::from_str::<serde::de::IgnoredAny>(payload) {
        Err(flaw) if matches!(error, SourceError::Database { .. }) => {
            format!("{}; --payload is no JSON: {flaw}", chain(&error)).into()
        }
        _ => error.into(),
    }
}

async fn emit(mut writer: Box<dyn EventWriter>, args: &Args) -> Result<(), BoxError> {
    let mut ticks = args.rate.map(|rate| {
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / rate);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        ticks
    });
    let progress = Progress::of(args.count, "events");
    for number in 1..=args.count {
        if let Some(ticks) = &mut ticks {
            ticks.tick().await;
        }
        let key = args
            .keys
            .map(|keys| format!("key-{}", number % keys.max(1)));
        let event = NewEvent {
            event_type: args.event_type.clone(),
            aggregate_type: args.aggregate_type.clone(),
            aggregate_id: args.key.clone().or(key),
            payload: args.payload.replace("{number}", &number.to_string()),
            headers: args.headers.clone(),
        };
        let id = match writer.write(&event).await {
            Ok(id) => id,
            Err(error) => return Err(explained(error, &event.payload)),
        };
        progress.step();
        if args.count == 1 {
            say(&id.to_string())?;
        }
    }
    drop(progress);
    if args.count != 1 {
        say(&format!("{} events", args.count))?;
    }
    Ok(())
}
