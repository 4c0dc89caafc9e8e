//! `dead-letters show`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::Serialize;

use super::selection::sources;
use crate::cli::say;
use crate::config::Config;
use crate::error::BoxError;
use crate::event::Event;
use crate::excerpt::printable;
use crate::relay;
use crate::route::{Resolution, Router};
use crate::source::dead_letters::Letter;

/// What `--json` prints. Field names are part of the interface: fields may be added, none is renamed.
#[derive(Debug, Serialize)]
struct LetterStory {
    id: i64,
    source: String,
    sink: String,
    reason: String,
    attempts: i64,
    dead_at: DateTime<Utc>,
    seq: i64,
    event_id: String,
    event_type: String,
    aggregate_type: Option<String>,
    aggregate_id: Option<String>,
    created_at: DateTime<Utc>,
    /// Where it would go by the configuration as it is now; null: nowhere, and `no_destination` says why.
    destination: Option<String>,
    no_destination: Option<String>,
    headers: BTreeMap<String, String>,
    payload_bytes: usize,
    /// Of its column: json, text or bytea.
    payload_type: &'static str,
    /// Only if it was asked for: as it is stored, a bytea as hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<String>,
}

pub(super) async fn run(
    config: &Config,
    id: i64,
    source: Option<&str>,
    payload: bool,
    json: bool,
) -> Result<(), BoxError> {
    let [source] = sources(config, source)?[..] else {
        return Err("--source: each source counts its own letters, say which".into());
    };
    let found = relay::dead_letters(config, source)?.read(id).await?;
    let Some((letter, event)) = found else {
        return Err(format!("source {source} has no dead letter {id}").into());
    };
    let story = LetterStory::of(config, source, letter, event, payload);
    if json {
        say(&serde_json::to_string_pretty(&story)?)?;
    } else {
        say(story.text().trim_end())?;
    }
    Ok(())
}

impl LetterStory {
    fn of(config: &Config, source: &str, letter: Letter, event: Event, payload: bool) -> Self {
        let (destination, no_destination) = match destination(config, &letter.sink, &event) {
            Ok(destination) => (Some(destination), None),
            Err(reason) => (None, Some(reason)),
        };
        let bytes = event.payload.as_bytes();
        let readable = || match std::str::from_utf8(bytes) {
            Ok(text) if event.payload.stored_type() != "bytea" => text.to_owned(),
            _ => hexadecimal(bytes),
        };
        Self {
            id: letter.id,
            source: source.to_owned(),
            sink: letter.sink,
            reason: letter.reason,
            attempts: letter.attempts,
            dead_at: letter.dead_at,
            seq: event.seq,
            event_id: event.id.to_string(),
            aggregate_type: event.aggregate_type,
            aggregate_id: event.aggregate_id,
            created_at: event.created_at,
            destination,
            no_destination,
            payload_bytes: bytes.len(),
            payload_type: event.payload.stored_type(),
            payload: payload.then(readable),
            event_type: event.event_type,
            headers: event.headers.into_iter().collect(),
        }
    }

    fn text(&self) -> String {
        let time = |time: DateTime<Utc>| time.to_rfc3339_opts(SecondsFormat::AutoSi, true);
        let optional = |text: &Option<String>| text.as_deref().map_or("-".into(), printable);
        let destination = match (&self.destination, &self.no_destination) {
            (Some(destination), _) => format!("{} (as configured now)", printable(destination)),
            (None, reason) => format!("none: {}", optional(reason)),
        };
        let lines = [
            ("dead letter", self.id.to_string()),
            ("source", self.source.clone()),
            ("sink", self.sink.clone()),
            ("reason", printable(&self.reason)),
            ("attempts", self.attempts.to_string()),
            ("since", time(self.dead_at)),
            ("seq", self.seq.to_string()),
            ("event id", self.event_id.clone()),
            ("event type", printable(&self.event_type)),
            ("aggregate type", optional(&self.aggregate_type)),
            ("aggregate id", optional(&self.aggregate_id)),
            ("created at", time(self.created_at)),
            ("destination", destination),
        ];
        let mut text = String::new();
        let mut add = |name: &str, value: &str| {
            // Writing to a String can't fail.
            writeln!(text, "{name:16}{value}").ok();
        };
        for (name, value) in &lines {
            add(name, value);
        }
        for (name, value) in &self.headers {
            add(
                "header",
                &format!("{}: {}", printable(name), printable(value)),
            );
        }
        let size = format!("{} bytes of {}", self.payload_bytes, self.payload_type);
        match &self.payload {
            None => add("payload", &format!("{size}; --payload prints them")),
            Some(payload) => {
                add("payload", &size);
                text.push_str(payload);
            }
        }
        text
    }
}

/// Where the sink would send the event now, or why it would not.
fn destination(config: &Config, sink: &str, event: &Event) -> Result<String, String> {
    let Some(sink) = config.sinks.get(sink) else {
        return Err("the sink is not in the configuration".to_owned());
    };
    match Router::new(sink, config.routing.as_ref()).resolve(event) {
        Ok(Resolution::Send(destination)) => Ok(destination.to_string()),
        Ok(Resolution::Skip) => Err("the routes skip it at this sink".to_owned()),
        Err(error) => Err(error.chain()),
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        // Writing to a String can't fail.
        write!(text, "{byte:02x}").ok();
    }
    text
}
