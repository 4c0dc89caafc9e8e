//! What commands may do to dead letters, from outside the relay that stores them.

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::SourceError;
use crate::event::Event;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
use crate::ledger::RangeSet;
use crate::route::Pattern;

/// Open dead letters whose rows are held back one by one from being deleted. From the next one's row on nothing is
/// deleted at all: looking at more of them at every step would cost more than the rows do.
pub const MAX_HELD_LETTERS: usize = 10_000;

/// Ranges that a retry may leave in a stored ledger. Each letter takes one `seq` out of it, and who takes the ledger
/// over looks each gap up in every read until it has been read.
pub const MAX_RETRY_RANGES: usize = 20_000;

/// The dead letters of one source of one relay. While a letter stands, its row in the outbox table is not deleted,
/// neither after delivery nor by age: a retry delivers the row.
#[async_trait]
pub trait DeadLetters: Send + Sync {
    /// The highest id that was given out so far; 0: none. Letters that come later, those of a retry that is refused
    /// once more among them, are above it.
    async fn last_id(&self) -> Result<i64, SourceError>;

    /// The next letters by id, `limit` of them are looked at.
    async fn page(&self, which: &Selection, span: Span, limit: usize) -> Result<Page, SourceError>;

    /// A letter with its event. `None`: there is none of this id.
    async fn read(&self, id: i64) -> Result<Option<(Letter, Event)>, SourceError>;

    /// Removes letters of a sink and takes their `seq` out of its ledger, which gets a fresh token, in one
    /// transaction. A relay that runs reads the ledger anew within about a second and delivers them, to this sink
    /// only; otherwise the next one does. Letters whose row is gone stay.
    async fn retry(&self, sink: &str, ids: &[i64]) -> Result<Retry, SourceError>;

    /// Removes letters of a sink for good; returns how many there were.
    async fn discard(&self, sink: &str, ids: &[i64]) -> Result<u64, SourceError>;
}

/// Which letters are meant: those that satisfy everything that is given.
#[derive(Debug, Clone, Default)]
pub struct Selection {
    /// These; empty: all.
    pub ids: Vec<i64>,
    /// Those of this sink.
    pub sink: Option<String>,
    /// Those whose event type one of these matches; empty: all.
    pub event_types: Vec<Pattern>,
    /// Those that became dead letters longer ago than this, by the database's clock.
    pub older_than: Option<Duration>,
    /// Those that became dead letters since.
    pub newer_than: Option<Duration>,
}

/// Where to look: ids above the first, up to and including the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The last id that was looked at.
    pub after: i64,
    /// The last id to look at.
    pub through: i64,
}

/// Some of the selected letters.
#[derive(Debug, Default)]
pub struct Page {
    /// In the order of their ids.
    pub letters: Vec<Letter>,
    /// Up to which id this page has looked; `None`: that was all.
    pub looked_through: Option<i64>,
}

/// A dead letter without its event's content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    /// Its name in the table.
    pub id: i64,
    /// The sink whose broker refused it.
    pub sink: String,
    /// The event's place in the outbox.
    pub seq: i64,
    /// The event's type.
    pub event_type: String,
    /// The event's ordering key.
    pub aggregate_id: Option<String>,
    /// Why it was refused, in words.
    pub reason: String,
    /// How many attempts were refused.
    pub attempts: i64,
    /// When it became a dead letter.
    pub dead_at: DateTime<Utc>,
}

/// What became of letters that were to be retried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// They are to be delivered again.
    Done {
        /// So many.
        retried: u64,
        /// So many stay, for their rows are no longer in the outbox table.
        gone: u64,
    },
    /// Nothing was done: the sink has no ledger.
    NoLedger,
    /// Nothing was done: the ledger would have more than [`MAX_RETRY_RANGES`].
    Full,
}

impl Retry {
    /// Whether anything was done, and is to stay.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(super) fn is_done(&self) -> bool {
        matches!(self, Self::Done { .. })
    }
}

/// Takes the `seq` of removed letters out of what a ledger has delivered. False: it would have more than
/// [`MAX_RETRY_RANGES`], and nothing of it is to be stored.
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(super) fn take_out(delivered: &mut RangeSet, seqs: &[i64]) -> bool {
    for seq in seqs {
        delivered.remove_range(*seq, seq + 1);
    }
    delivered.len() <= MAX_RETRY_RANGES
}

impl Selection {
    /// Whether it selects by the event's type.
    #[must_use]
    pub fn takes(&self, event_type: &str) -> bool {
        self.event_types.is_empty() || self.event_types.iter().any(|p| p.matches(event_type))
    }
}

impl Page {
    /// A page of the rows that were looked at, in the order of their ids; as many as `limit` mean that there may
    /// be more.
    #[must_use]
    pub fn of(looked_at: Vec<Letter>, limit: usize, which: &Selection) -> Self {
        let last = looked_at.last().map(|letter| letter.id);
        Self {
            looked_through: last.filter(|_| looked_at.len() >= limit),
            letters: looked_at
                .into_iter()
                .filter(|letter| which.takes(&letter.event_type))
                .collect(),
        }
    }
}
