//! Rows of the outbox table as events.
//!
//! The table that `migrate` makes refuses nearly everything that could not be published; SQLite itself takes any bytes
//! as text and any type in any column. A row that can't be read stops nobody: it becomes an event with a
//! [flaw](Event::flaw), and so a dead letter.

use bytes::Bytes;
use chrono::{DateTime, Datelike as _, NaiveDateTime, Utc};
use sqlx::Row as _;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use crate::event::{Event, Payload};
use crate::source::headers::parse_headers;

/// What an event is made of. Beside the time as written stands what SQLite takes it for.
pub(super) const COLUMNS: &str = "seq, id, event_type, aggregate_type, aggregate_id, \
    typeof(payload) AS payload_type, payload, headers, typeof(created_at) AS created_type, created_at, \
    CAST(round(unixepoch(created_at, 'subsec') * 1000) AS INTEGER) AS created_millis";

/// What selections go by: some of [`COLUMNS`].
pub(super) const SELECTABLE: &str = "seq, event_type, aggregate_id, typeof(created_at) AS created_type, created_at, \
    CAST(round(unixepoch(created_at, 'subsec') * 1000) AS INTEGER) AS created_millis";

/// The event of a row of [`COLUMNS`].
pub(super) fn event(row: &SqliteRow) -> Result<Event, sqlx::Error> {
    let mut flaws = Vec::new();
    let event_type = text(row, "event_type", &mut flaws)?.unwrap_or_else(|| {
        flaws.push("event_type is NULL".to_owned());
        String::new()
    });
    let mut event = Event {
        seq: row.try_get("seq")?,
        id: id(row, &mut flaws)?,
        event_type,
        aggregate_type: text(row, "aggregate_type", &mut flaws)?,
        aggregate_id: text(row, "aggregate_id", &mut flaws)?,
        payload: payload(row, &mut flaws)?,
        headers: text(row, "headers", &mut flaws)?
            .map(|json| parse_headers(json.as_bytes()))
            .unwrap_or_default(),
        created_at: created_at(row, &mut flaws)?,
        flaw: None,
    };
    if !flaws.is_empty() {
        event.flaw = Some(format!("the row can't be read: {}", flaws.join(", ")));
    }
    Ok(event)
}

/// The id of an event as it is stored: a UUID as text, or as its 16 bytes. `None`: it is none.
pub(super) fn stored_id(bytes: &[u8]) -> Option<Uuid> {
    Uuid::from_slice(bytes)
        .or_else(|_| Uuid::try_parse_ascii(bytes))
        .ok()
}

/// The bytes of a value of whatever type. Of text these may be any.
fn bytes(row: &SqliteRow, column: &str) -> Result<Option<Vec<u8>>, sqlx::Error> {
    row.try_get_unchecked(column)
}

/// A column as text; what is not UTF-8 is replaced and noted.
pub(super) fn text(
    row: &SqliteRow,
    column: &str,
    flaws: &mut Vec<String>,
) -> Result<Option<String>, sqlx::Error> {
    let Some(bytes) = bytes(row, column)? else {
        return Ok(None);
    };
    Ok(Some(String::from_utf8(bytes).unwrap_or_else(|error| {
        flaws.push(format!("{column} is not UTF-8"));
        String::from_utf8_lossy(error.as_bytes()).into_owned()
    })))
}

/// The nil UUID in place of what is none: dead letters need one.
fn id(row: &SqliteRow, flaws: &mut Vec<String>) -> Result<Uuid, sqlx::Error> {
    let id = bytes(row, "id")?.and_then(|bytes| stored_id(&bytes));
    Ok(id.unwrap_or_else(|| {
        flaws.push("id is no UUID".to_owned());
        Uuid::nil()
    }))
}

/// Whether text is UTF-8 is for the envelope to say: the format `raw` takes any bytes.
fn payload(row: &SqliteRow, flaws: &mut Vec<String>) -> Result<Payload, sqlx::Error> {
    let Some(stored) = bytes(row, "payload")?.map(Bytes::from) else {
        flaws.push("payload is NULL".to_owned());
        return Ok(Payload::Text(Bytes::new()));
    };
    let payload_type: String = row.try_get("payload_type")?;
    Ok(if payload_type == "blob" {
        Payload::Binary(stored)
    } else {
        Payload::Text(stored)
    })
}

/// The time as it was written if that can be read, for it may be finer than the milliseconds that SQLite keeps. The
/// Unix epoch in place of what is no time.
pub(super) fn created_at(
    row: &SqliteRow,
    flaws: &mut Vec<String>,
) -> Result<DateTime<Utc>, sqlx::Error> {
    let created_type: String = row.try_get("created_type")?;
    let written = bytes(row, "created_at")?.and_then(|bytes| String::from_utf8(bytes).ok());
    let millis: Option<i64> = row.try_get("created_millis")?;
    let time = written
        .filter(|text| created_type == "text" && is_fixed(text))
        .and_then(|text| parse_time(&text).or_else(|| DateTime::from_timestamp_millis(millis?)))
        // What RFC 3339, and with it every envelope, has a spelling for.
        .filter(|time| (0..=9999).contains(&time.year()));
    Ok(time.unwrap_or_else(|| {
        flaws.push("created_at is no time as text between the years 0 and 9999".to_owned());
        DateTime::UNIX_EPOCH
    }))
}

/// Whether it says the same at each read: SQLite takes words such as `now` for a time, too.
fn is_fixed(text: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_digit())
}

fn parse_time(text: &str) -> Option<DateTime<Utc>> {
    if let Ok(time) = DateTime::parse_from_rfc3339(text) {
        return Some(time.to_utc());
    }
    let time = NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f");
    time.ok().map(|time| time.and_utc())
}
