//! Rows of the outbox table as events.

use bytes::Bytes;
use chrono::{DateTime, NaiveDateTime, Utc};
use sqlx::sqlite::SqliteRow;
use sqlx::{Row as _, ValueRef as _};
use uuid::Uuid;

use crate::event::{Event, Payload};
use crate::source::headers::parse_headers;

/// What an event is made of. Beside the time as written stands what SQLite takes it for.
pub(super) const COLUMNS: &str = "seq, id, event_type, aggregate_type, aggregate_id, \
    typeof(payload) AS payload_type, payload, headers, CAST(created_at AS TEXT) AS created_at, \
    CAST(round(unixepoch(created_at, 'subsec') * 1000) AS INTEGER) AS created_millis";

/// The event of a row of [`COLUMNS`].
pub(super) fn event(row: &SqliteRow) -> Result<Event, sqlx::Error> {
    let seq: i64 = row.try_get("seq")?;
    decoded(seq, row).map_err(|error| {
        sqlx::Error::Decode(format!("the row with seq {seq} can't be read: {error}").into())
    })
}

fn decoded(seq: i64, row: &SqliteRow) -> Result<Event, sqlx::Error> {
    let headers: Option<Vec<u8>> = row.try_get("headers")?;
    let payload: Bytes = row.try_get::<Vec<u8>, _>("payload")?.into();
    let payload_type: String = row.try_get("payload_type")?;
    Ok(Event {
        seq,
        id: id(row)?,
        event_type: row.try_get("event_type")?,
        aggregate_type: row.try_get("aggregate_type")?,
        aggregate_id: row.try_get("aggregate_id")?,
        payload: if payload_type == "blob" {
            Payload::Binary(payload)
        } else {
            Payload::Text(payload)
        },
        headers: headers.as_deref().map(parse_headers).unwrap_or_default(),
        created_at: created_at(row)?,
    })
}

/// A UUID as text, or as its 16 bytes.
fn id(row: &SqliteRow) -> Result<Uuid, sqlx::Error> {
    let bytes: Vec<u8> = row.try_get("id")?;
    Uuid::from_slice(&bytes)
        .or_else(|_| Uuid::try_parse_ascii(&bytes))
        .map_err(|error| sqlx::Error::ColumnDecode {
            index: "id".to_owned(),
            source: error.into(),
        })
}

/// The time as it was written if that can be read, for it may be finer than the milliseconds that SQLite keeps.
fn created_at(row: &SqliteRow) -> Result<DateTime<Utc>, sqlx::Error> {
    let raw = row.try_get_raw("created_at")?;
    let text: String = if raw.is_null() {
        String::new()
    } else {
        row.try_get("created_at")?
    };
    let millis: Option<i64> = row.try_get("created_millis")?;
    let written = parse_time(&text).or_else(|| DateTime::from_timestamp_millis(millis?));
    written.ok_or_else(|| sqlx::Error::ColumnDecode {
        index: "created_at".to_owned(),
        source: "it is no time".into(),
    })
}

fn parse_time(text: &str) -> Option<DateTime<Utc>> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(time.to_utc());
    }
    let time = NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f");
    time.ok().map(|time| time.and_utc())
}
