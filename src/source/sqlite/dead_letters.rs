//! What commands do to dead letters.

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Row as _};
use uuid::Uuid;

use super::link::limited;
use super::sql::{Names, ranges};
use super::{Source as _, Sqlite};
use crate::event::{Event, Payload};
use crate::ledger::RangeSet;
use crate::source::SourceError;
use crate::source::dead_letters::{
    DeadLetters, Letter, MAX_HELD_LETTERS, Page, Retry, Selection, Span, take_out,
};
use crate::source::headers::parse_headers;

const LIST: &str = "cannot list the dead letters";
const READ: &str = "cannot read the dead letter";
const RETRY: &str = "cannot retry dead letters";
const DISCARD: &str = "cannot discard dead letters";

/// What a [`Letter`] is made of.
const LETTER: &str = "id, sink, seq, event_type, aggregate_id, reason, attempts, \
     CAST(round(unixepoch(dead_at, 'subsec') * 1000) AS INTEGER) AS dead_millis";

/// The condition that selects a ledger or the letters of a sink by the first three parameters.
const BY_NAME: &str = "relay = ?1 AND source = ?2 AND sink = ?3";

/// The `seq` whose rows are not deleted: those of open letters of the table, whoever's they are. By the index on
/// `seq`.
pub(super) async fn held(
    connection: &mut SqliteConnection,
    names: &Names,
) -> Result<RangeSet, sqlx::Error> {
    let sql = "SELECT letter.seq FROM outbox_dead_letter AS letter \
         JOIN outbox_source AS home USING (relay, source) WHERE home.table_name = ? ORDER BY letter.seq LIMIT ?";
    let limit = i64::try_from(MAX_HELD_LETTERS + 1).unwrap_or(i64::MAX);
    let query = sqlx::query_scalar(sql).bind(&names.plain).bind(limit);
    let seqs: Vec<i64> = query.fetch_all(connection).await?;
    let mut held: RangeSet = seqs.iter().map(|seq| (*seq, seq + 1)).collect();
    if let Some(first_uncounted) = seqs.get(MAX_HELD_LETTERS) {
        held.insert_range(*first_uncounted, i64::MAX);
    }
    Ok(held)
}

impl Sqlite {
    async fn page_in(
        &self,
        connection: &mut SqliteConnection,
        which: &Selection,
        span: Span,
        limit: usize,
    ) -> Result<Vec<Letter>, sqlx::Error> {
        let sql = format!(
            "SELECT {LETTER} FROM outbox_dead_letter WHERE relay = ? AND source = ? AND id > ? AND id <= ? \
             AND sink = coalesce(?, sink) AND (?6 IS NULL OR id IN (SELECT value FROM json_each(?6))) \
             AND (?7 IS NULL OR unixepoch(dead_at, 'subsec') < unixepoch('subsec') - ?7) \
             AND (?8 IS NULL OR unixepoch(dead_at, 'subsec') >= unixepoch('subsec') - ?8) ORDER BY id LIMIT ?9"
        );
        let ids = (!which.ids.is_empty()).then(|| format!("{:?}", which.ids));
        let query = sqlx::query(AssertSqlSafe(sql));
        let query = query.bind(&self.relay).bind(&self.name);
        let query = query.bind(span.after).bind(span.through);
        let query = query.bind(&which.sink).bind(ids);
        let query = query.bind(which.older_than.map(|age| age.as_secs_f64()));
        let query = query.bind(which.newer_than.map(|age| age.as_secs_f64()));
        let query = query.bind(i64::try_from(limit).unwrap_or(i64::MAX));
        let rows = query.fetch_all(connection).await?;
        rows.iter().map(letter).collect()
    }

    async fn read_in(
        &self,
        connection: &mut SqliteConnection,
        id: i64,
    ) -> Result<Option<(Letter, Event)>, sqlx::Error> {
        let sql = format!(
            "SELECT {LETTER}, event_id, aggregate_type, payload, payload_type, headers, created_at \
             FROM outbox_dead_letter WHERE relay = ? AND source = ? AND id = ?"
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(&self.relay);
        let row = query.bind(&self.name).bind(id);
        let row = row.fetch_optional(connection).await?;
        row.map(|row| Ok((letter(&row)?, event(&row)?))).transpose()
    }

    /// Inside a transaction that has the writers' lock: neither a flush nor a step of settling comes in between.
    async fn retry_in(
        &self,
        connection: &mut SqliteConnection,
        sink: &str,
        ids: &[i64],
    ) -> Result<Retry, sqlx::Error> {
        let sql = format!("SELECT delivered FROM outbox_ledger WHERE {BY_NAME}");
        let query = sqlx::query(AssertSqlSafe(sql)).bind(&self.relay);
        let query = query.bind(&self.name).bind(sink);
        let Some(row) = query.fetch_optional(&mut *connection).await? else {
            return Ok(Retry::NoLedger);
        };
        let mut delivered = ranges(&row, "delivered")?;
        let removed = self.remove_with_row(connection, sink, ids).await?;
        if !take_out(&mut delivered, &removed) {
            return Ok(Retry::Full);
        }
        if !removed.is_empty() {
            let sql =
                format!("UPDATE outbox_ledger SET delivered = ?4, token = ?5 WHERE {BY_NAME}");
            let query = sqlx::query(AssertSqlSafe(sql)).bind(&self.relay);
            let query = query.bind(&self.name).bind(sink);
            let query = query.bind(delivered.to_string());
            let query = query.bind(Uuid::new_v4().to_string());
            query.execute(&mut *connection).await?;
        }
        let sql = format!(
            "SELECT count(*) FROM outbox_dead_letter WHERE {BY_NAME} \
             AND id IN (SELECT value FROM json_each(?4))"
        );
        let query = sqlx::query_scalar::<_, i64>(AssertSqlSafe(sql)).bind(&self.relay);
        let query = query.bind(&self.name).bind(sink).bind(format!("{ids:?}"));
        let gone = query.fetch_one(connection).await?;
        Ok(Retry::Done {
            retried: removed.len() as u64,
            gone: gone.unsigned_abs(),
        })
    }

    /// Removes letters whose event still has its row, and returns the `seq` of those. A row of another event with
    /// the same `seq` belongs to a table that has started anew; where no id could be read, the nil UUID stands for it.
    /// Rows have their id as text or as 16 bytes.
    async fn remove_with_row(
        &self,
        connection: &mut SqliteConnection,
        sink: &str,
        ids: &[i64],
    ) -> Result<Vec<i64>, sqlx::Error> {
        let sql = format!(
            "DELETE FROM outbox_dead_letter AS letter WHERE {BY_NAME} \
             AND id IN (SELECT value FROM json_each(?4)) AND EXISTS (SELECT 1 FROM {table} AS event \
             WHERE event.seq = letter.seq AND (letter.event_id = '{nil}' OR replace(letter.event_id, '-', '') = \
             CASE typeof(event.id) WHEN 'blob' THEN lower(hex(event.id)) \
             ELSE lower(replace(event.id, '-', '')) END)) RETURNING seq",
            table = self.names.table,
            nil = Uuid::nil(),
        );
        let query = sqlx::query_scalar(AssertSqlSafe(sql)).bind(&self.relay);
        let query = query.bind(&self.name).bind(sink).bind(format!("{ids:?}"));
        query.fetch_all(connection).await
    }
}

#[async_trait]
impl DeadLetters for Sqlite {
    async fn last_id(&self) -> Result<i64, SourceError> {
        self.inspect().await?;
        let sql = "SELECT coalesce(max(id), 0) FROM outbox_dead_letter";
        let mut link = self.link.lock().await;
        let mut connected = link.checkout(LIST).await?;
        let last = sqlx::query_scalar(sql).fetch_one(&mut connected.connection);
        let last = limited(LIST, last).await?;
        link.give_back(connected);
        Ok(last)
    }

    async fn page(&self, which: &Selection, span: Span, limit: usize) -> Result<Page, SourceError> {
        let mut link = self.link.lock().await;
        let mut connected = link.checkout(LIST).await?;
        let letters = self.page_in(&mut connected.connection, which, span, limit);
        let letters = limited(LIST, letters).await?;
        link.give_back(connected);
        Ok(Page::of(letters, limit, which))
    }

    async fn read(&self, id: i64) -> Result<Option<(Letter, Event)>, SourceError> {
        self.inspect().await?;
        let mut link = self.link.lock().await;
        let mut connected = link.checkout(READ).await?;
        let letter = limited(READ, self.read_in(&mut connected.connection, id)).await?;
        link.give_back(connected);
        Ok(letter)
    }

    async fn retry(&self, sink: &str, ids: &[i64]) -> Result<Retry, SourceError> {
        let work = async |on: &mut SqliteConnection| self.retry_in(on, sink, ids).await;
        self.in_transaction(RETRY, work, Retry::is_done).await
    }

    async fn discard(&self, sink: &str, ids: &[i64]) -> Result<u64, SourceError> {
        let sql = "DELETE FROM outbox_dead_letter WHERE relay = ? AND source = ? AND sink = ? \
             AND id IN (SELECT value FROM json_each(?))";
        let mut link = self.link.lock().await;
        let mut connected = link.checkout(DISCARD).await?;
        let query = sqlx::query(sql).bind(&self.relay).bind(&self.name);
        let query = query.bind(sink).bind(format!("{ids:?}"));
        let done = limited(DISCARD, query.execute(&mut connected.connection)).await?;
        link.give_back(connected);
        Ok(done.rows_affected())
    }
}

fn letter(row: &SqliteRow) -> Result<Letter, sqlx::Error> {
    let millis: Option<i64> = row.try_get("dead_millis")?;
    Ok(Letter {
        id: row.try_get("id")?,
        sink: row.try_get("sink")?,
        seq: row.try_get("seq")?,
        event_type: row.try_get("event_type")?,
        aggregate_id: row.try_get("aggregate_id")?,
        reason: row.try_get("reason")?,
        attempts: row.try_get("attempts")?,
        dead_at: millis
            .and_then(DateTime::<Utc>::from_timestamp_millis)
            .unwrap_or_default(),
    })
}

/// The event as it was when it was refused.
fn event(row: &SqliteRow) -> Result<Event, sqlx::Error> {
    let headers: String = row.try_get("headers")?;
    let payload: Bytes = row.try_get::<Vec<u8>, _>("payload")?.into();
    let payload_type: String = row.try_get("payload_type")?;
    let id: String = row.try_get("event_id")?;
    let created_at: String = row.try_get("created_at")?;
    let unreadable =
        |what: &str| sqlx::Error::Decode(format!("the column {what} can't be read").into());
    Ok(Event {
        seq: row.try_get("seq")?,
        id: Uuid::parse_str(&id).map_err(|_| unreadable("event_id"))?,
        event_type: row.try_get("event_type")?,
        aggregate_type: row.try_get("aggregate_type")?,
        aggregate_id: row.try_get("aggregate_id")?,
        payload: Payload::of_stored(&payload_type, payload),
        headers: parse_headers(headers.as_bytes()),
        created_at: DateTime::parse_from_rfc3339(&created_at)
            .map_err(|_| unreadable("created_at"))?
            .to_utc(),
        flaw: None,
    })
}
