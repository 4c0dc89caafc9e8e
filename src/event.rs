//! An event: one row of the outbox table, as the rest of the program sees it.
//!
//! Owns the row's shape. Knows nothing of brokers, envelopes or databases.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use uuid::Uuid;

/// One committed row of the outbox table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Position in the outbox: unique per table and never reused. Ledgers are sets of these.
    pub seq: i64,
    /// Identity of the event, the same in every delivery: what brokers and consumers deduplicate by.
    pub id: Uuid,
    /// What happened, for example `PickMade`. Routes match on it.
    pub event_type: String,
    /// The kind of thing it happened to, if the writer says so.
    pub aggregate_type: Option<String>,
    /// The ordering key. Events without one are not ordered.
    pub aggregate_id: Option<String>,
    /// The payload, byte for byte as it is stored.
    pub payload: Payload,
    /// Headers that travel with the message (`traceparent`, for example), in the order of their names.
    pub headers: Vec<(String, String)>,
    /// When the writer's transaction began, by the database's clock.
    pub created_at: DateTime<Utc>,
    /// Why no message can be made of the row, in words for an operator; what could not be read of it stands above
    /// as well as it can. Such an event becomes a dead letter. `None` as it should be.
    pub flaw: Option<String>,
}

/// A payload as stored, with what its column promises about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// From a `json` or `jsonb` column: the database has checked that it is JSON.
    Json(Bytes),
    /// From a `text` column: UTF-8, perhaps JSON.
    Text(Bytes),
    /// From a `bytea` column: anything.
    Binary(Bytes),
}

impl Payload {
    /// The stored bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        match self {
            Self::Json(bytes) | Self::Text(bytes) | Self::Binary(bytes) => bytes,
        }
    }

    /// The word for its column's type, which stands beside it in the dead letters.
    #[must_use]
    pub fn stored_type(&self) -> &'static str {
        match self {
            Self::Json(_) => "json",
            Self::Text(_) => "text",
            Self::Binary(_) => "bytea",
        }
    }

    /// The payload of a dead letter, by [`Payload::stored_type`].
    #[must_use]
    pub fn of_stored(stored_type: &str, bytes: Bytes) -> Self {
        match stored_type {
            "json" => Self::Json(bytes),
            "text" => Self::Text(bytes),
            _ => Self::Binary(bytes),
        }
    }
}

impl Event {
    /// About how much memory the event holds, in bytes: what counts against `max_in_flight_bytes`. On its way to a
    /// broker it is there twice, as a row and as the message made of it.
    #[must_use]
    pub fn weight(&self) -> usize {
        /// The struct itself, its allocations' headers and its place in the queues.
        const OVERHEAD: usize = 256;
        let headers: usize = self.headers.iter().map(|(k, v)| k.len() + v.len()).sum();
        OVERHEAD
            + 2 * (self.payload.as_bytes().len() + headers)
            + self.event_type.len()
            + self.aggregate_type.as_ref().map_or(0, String::len)
            + self.aggregate_id.as_ref().map_or(0, String::len)
    }
}
