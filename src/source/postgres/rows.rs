//! Rows of the outbox table as events.
//!
//! Rows come by the simple protocol and so in text form, which is also how payloads are stored.

use std::borrow::Cow;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::{Row as _, ValueRef as _};

use crate::event::{Event, Payload};
use crate::source::headers::parse_headers;

/// The type of the payload column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PayloadType {
    Json,
    Text,
    Binary,
}

/// The time of a row whose time no `DateTime` can hold, as the reader's statement tells it: nor can it hold this one.
pub(super) const NO_TIME: i64 = i64::MIN;

/// The event of a row that has one. What can't be read of it is its [`Event::flaw`] and is replaced: a row
/// that some writer got wrong must not stop the table.
pub(super) fn event(row: &PgRow, payload_type: PayloadType) -> Result<Event, sqlx::Error> {
    let mut flaws = Vec::new();
    let event_type = text(row, "event_type", &mut flaws)?;
    let aggregate_type = text(row, "aggregate_type", &mut flaws)?;
    let aggregate_id = text(row, "aggregate_id", &mut flaws)?;
    let headers = text(row, "headers", &mut flaws)?;
    let created_at = created_at(row, &mut flaws)?;
    Ok(Event {
        seq: row.try_get("seq")?,
        id: row.try_get("id")?,
        event_type: event_type.unwrap_or_default(),
        aggregate_type,
        aggregate_id,
        payload: payload(row, payload_type)?,
        headers: headers.map_or_else(Vec::new, |json| parse_headers(json.as_bytes())),
        created_at,
        flaw: (!flaws.is_empty()).then(|| format!("the row can't be read: {}", flaws.join(", "))),
    })
}

/// Text as the program takes it.
fn text(row: &PgRow, column: &str, flaws: &mut Vec<String>) -> Result<Option<String>, sqlx::Error> {
    let text = lossy(row, column)?;
    if matches!(text, Some(Cow::Owned(_))) {
        flaws.push(format!("{column} is not UTF-8"));
    }
    Ok(text.map(Cow::into_owned))
}

/// The same, owned where it had to be changed: a database in the encoding SQL_ASCII takes and gives any bytes.
pub(super) fn lossy<'r>(row: &'r PgRow, column: &str) -> Result<Option<Cow<'r, str>>, sqlx::Error> {
    Ok(bytes(row, column)?.map(String::from_utf8_lossy))
}

fn created_at(row: &PgRow, flaws: &mut Vec<String>) -> Result<DateTime<Utc>, sqlx::Error> {
    let micros: Option<i64> = row.try_get("created_at")?;
    let time = micros.and_then(DateTime::from_timestamp_micros);
    if micros.is_some() && time.is_none() {
        flaws.push("created_at is infinite or beyond all calendars".to_owned());
    }
    // In an adopted table it may be NULL.
    Ok(time.unwrap_or_default())
}

fn payload(row: &PgRow, payload_type: PayloadType) -> Result<Payload, sqlx::Error> {
    let stored = || -> Result<Option<Bytes>, sqlx::Error> {
        Ok(bytes(row, "payload")?.map(Bytes::copy_from_slice))
    };
    Ok(match payload_type {
        PayloadType::Json => match stored()? {
            // A payload of NULL says as much as one of JSON's null.
            None => Payload::Json(Bytes::from_static(b"null")),
            Some(json) if std::str::from_utf8(&json).is_ok() => Payload::Json(json),
            // JSON to the database only, where that is in the encoding SQL_ASCII: a format decides what it takes.
            Some(bytes) => Payload::Text(bytes),
        },
        PayloadType::Text => Payload::Text(stored()?.unwrap_or_default()),
        PayloadType::Binary => {
            let decoded: Option<Vec<u8>> = row.try_get("payload")?;
            Payload::Binary(decoded.unwrap_or_default().into())
        }
    })
}

/// The bytes of a column's text, whatever its type.
fn bytes<'r>(row: &'r PgRow, column: &str) -> Result<Option<&'r [u8]>, sqlx::Error> {
    let value = row.try_get_raw(column)?;
    if value.is_null() {
        return Ok(None);
    }
    value
        .as_bytes()
        .map(Some)
        .map_err(|source| sqlx::Error::ColumnDecode {
            index: column.into(),
            source,
        })
}
