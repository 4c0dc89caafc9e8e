//! What operators are told of dead letters, by commands and over HTTP alike.

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::config::Config;
use crate::source::dead_letters::{Letter, MAX_RETRY_RANGES, Retry};

/// A letter in a list. Field names are part of the interface: fields may be added, none is renamed.
#[derive(Debug, Serialize)]
pub(crate) struct LetterLine {
    pub(crate) id: i64,
    pub(crate) source: String,
    pub(crate) sink: String,
    pub(crate) seq: i64,
    pub(crate) event_type: String,
    /// Null: the event has no key.
    pub(crate) aggregate_id: Option<String>,
    pub(crate) attempts: i64,
    pub(crate) dead_at: DateTime<Utc>,
    pub(crate) reason: String,
}

/// Why letters are not retried.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NotRetried(String);

impl LetterLine {
    pub(crate) fn of(source: &str, letter: Letter) -> Self {
        Self {
            id: letter.id,
            source: source.to_owned(),
            sink: letter.sink,
            seq: letter.seq,
            event_type: letter.event_type,
            aggregate_id: letter.aggregate_id,
            attempts: letter.attempts,
            dead_at: letter.dead_at,
            reason: letter.reason,
        }
    }
}

/// Refuses to put events into a ledger that nobody delivers from.
pub(crate) fn check_delivered(config: &Config, source: &str, sink: &str) -> Result<(), NotRetried> {
    if config.feeds(source, sink) {
        return Ok(());
    }
    Err(NotRetried(format!(
        "source {source} feeds no sink {sink} in the configuration, so that nobody would deliver its dead letters: \
         select others, discard them, or give them to another sink by `outbox-relay ledger rename`"
    )))
}

/// How many letters are to be delivered again, and how many stay because their rows are gone.
pub(crate) fn retried(outcome: Retry, source: &str, sink: &str) -> Result<(u64, u64), NotRetried> {
    match outcome {
        Retry::Done { retried, gone } => Ok((retried, gone)),
        Retry::NoLedger => Err(NotRetried(format!(
            "the sink {sink} has no ledger for source {source} yet: run the relay once"
        ))),
        Retry::Full => Err(NotRetried(format!(
            "the ledger of sink {sink} would have more than {MAX_RETRY_RANGES} gaps: let the relay deliver what was \
             retried so far, then retry the rest"
        ))),
    }
}
