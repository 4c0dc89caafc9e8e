//! Rows of the outbox table as events.
//!
//! Rows come by the simple protocol and so in text form, which is also how payloads are stored.

use std::borrow::Cow;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::{ColumnIndex, Row as _, ValueRef as _};

use crate::event::{Event, Payload};
use crate::source::headers::parse_headers;

/// The type of the payload column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PayloadType {
    Json,
    Text,
    Binary,
}

/// A column of an event: its place in a row of the reader's, for looking it up by name would cost more than reading
/// it, and its name.
#[derive(Clone, Copy)]
struct Column(usize, &'static str);

const SEQ: Column = Column(3, "seq");
const ID: Column = Column(4, "id");
const EVENT_TYPE: Column = Column(5, "event_type");
const AGGREGATE_TYPE: Column = Column(6, "aggregate_type");
const AGGREGATE_ID: Column = Column(7, "aggregate_id");
const PAYLOAD: Column = Column(8, "payload");
const HEADERS: Column = Column(9, "headers");
const CREATED: Column = Column(10, "created_at");

/// What a row of the reader's has: three facts, then an event's columns, either of them NULL throughout.
pub(super) const NO_FACTS: &str = "NULL, NULL, NULL";
/// See [`NO_FACTS`].
pub(super) const NO_EVENT: &str = "NULL AS seq, NULL AS id, NULL AS event_type, NULL AS aggregate_type, \
    NULL AS aggregate_id, NULL AS payload, NULL AS headers, NULL AS created_at";

/// A time as the server's own microseconds, in sixteen digits: exact, and of all that the server can make of a time the
/// cheapest by far. A time without a zone is taken for UTC, which is the time zone of our sessions.
pub(super) const CREATED_AT: &str = "encode(timestamptz_send(created_at), 'hex')";

/// Whether a row of the reader's has an event, and not the facts.
pub(super) fn has_event(row: &PgRow) -> Result<bool, sqlx::Error> {
    Ok(!row.try_get_raw(SEQ.0)?.is_null())
}

/// The event of a row that has one. What can't be read of it is its [`Event::flaw`] and is replaced: a row
/// that some writer got wrong must not stop the table.
pub(super) fn event(row: &PgRow, payload_type: PayloadType) -> Result<Event, sqlx::Error> {
    let mut flaws = Vec::new();
    let event_type = text(row, EVENT_TYPE, &mut flaws)?;
    let aggregate_type = text(row, AGGREGATE_TYPE, &mut flaws)?;
    let aggregate_id = text(row, AGGREGATE_ID, &mut flaws)?;
    let headers = text(row, HEADERS, &mut flaws)?;
    let created_at = created_at(row, &mut flaws)?;
    Ok(Event {
        seq: row.try_get(SEQ.0)?,
        id: row.try_get(ID.0)?,
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
fn text(
    row: &PgRow,
    Column(place, name): Column,
    flaws: &mut Vec<String>,
) -> Result<Option<String>, sqlx::Error> {
    let text = lossy(row, place)?;
    if matches!(text, Some(Cow::Owned(_))) {
        flaws.push(format!("{name} is not UTF-8"));
    }
    Ok(text.map(Cow::into_owned))
}

/// The same, owned where it had to be changed: a database in the encoding SQL_ASCII takes and gives any bytes.
pub(super) fn lossy(
    row: &PgRow,
    column: impl ColumnIndex<PgRow> + ToString,
) -> Result<Option<Cow<'_, str>>, sqlx::Error> {
    Ok(bytes(row, column)?.map(String::from_utf8_lossy))
}

/// See [`CREATED_AT`].
fn created_at(row: &PgRow, flaws: &mut Vec<String>) -> Result<DateTime<Utc>, sqlx::Error> {
    /// 2000-01-01, from which the server counts, in microseconds since 1970.
    const EPOCH: i64 = 946_684_800_000_000;
    let Some(digits) = lossy(row, CREATED.0)? else {
        // In an adopted table it may be NULL.
        return Ok(DateTime::default());
    };
    let time = u64::from_str_radix(&digits, 16)
        .ok()
        .and_then(|micros| micros.cast_signed().checked_add(EPOCH))
        .and_then(DateTime::from_timestamp_micros);
    if time.is_none() {
        flaws.push(format!("{} is infinite or beyond all calendars", CREATED.1));
    }
    Ok(time.unwrap_or_default())
}

fn payload(row: &PgRow, payload_type: PayloadType) -> Result<Payload, sqlx::Error> {
    let stored = || -> Result<Option<Bytes>, sqlx::Error> {
        Ok(bytes(row, PAYLOAD.0)?.map(Bytes::copy_from_slice))
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
            let decoded: Option<Vec<u8>> = row.try_get(PAYLOAD.0)?;
            Payload::Binary(decoded.unwrap_or_default().into())
        }
    })
}

/// The bytes of a column's text, whatever its type.
fn bytes(
    row: &PgRow,
    column: impl ColumnIndex<PgRow> + ToString,
) -> Result<Option<&[u8]>, sqlx::Error> {
    let value = row.try_get_raw(&column)?;
    if value.is_null() {
        return Ok(None);
    }
    value
        .as_bytes()
        .map(Some)
        .map_err(|source| sqlx::Error::ColumnDecode {
            index: column.to_string(),
            source,
        })
}
