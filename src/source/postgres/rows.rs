//! Rows of the outbox table as events.
//!
//! Rows come by the simple protocol and so in text form, which is also how payloads are stored.

use bytes::Bytes;
use chrono::DateTime;
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

/// The event of a row that has one.
pub(super) fn event(row: &PgRow, payload_type: PayloadType) -> Result<Event, sqlx::Error> {
    let micros: Option<i64> = row.try_get("created_at")?;
    let headers: Option<&[u8]> = bytes(row, "headers")?;
    Ok(Event {
        seq: row.try_get("seq")?,
        id: row.try_get("id")?,
        event_type: row.try_get("event_type")?,
        aggregate_type: row.try_get("aggregate_type")?,
        aggregate_id: row.try_get("aggregate_id")?,
        payload: payload(row, payload_type)?,
        headers: headers.map(parse_headers).unwrap_or_default(),
        // A timestamp of infinity has no place on the wire.
        created_at: micros
            .and_then(DateTime::from_timestamp_micros)
            .unwrap_or_default(),
        flaw: None,
    })
}

fn payload(row: &PgRow, payload_type: PayloadType) -> Result<Payload, sqlx::Error> {
    let stored = |column| -> Result<Option<Bytes>, sqlx::Error> {
        Ok(bytes(row, column)?.map(Bytes::copy_from_slice))
    };
    Ok(match payload_type {
        // A payload of NULL says as much as one of JSON's null.
        PayloadType::Json => {
            Payload::Json(stored("payload")?.unwrap_or(Bytes::from_static(b"null")))
        }
        PayloadType::Text => Payload::Text(stored("payload")?.unwrap_or_default()),
        PayloadType::Binary => {
            let decoded: Option<Vec<u8>> = row.try_get("payload")?;
            Payload::Binary(decoded.unwrap_or_default().into())
        }
    })
}

/// The text of a column, whatever its type.
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
