//! What commands do to dead letters.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Row as _};

use super::homes::same_table_sql;
use super::sql::{self, Names};
use super::{Postgres, sql::quoted};
use crate::event::{Event, Payload};
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
const LETTER: &str =
    "id, sink, seq, event_type, aggregate_id, reason, attempts::int8 AS attempts, dead_at";

/// The condition that selects the letters of this source by the first two parameters.
const OWN: &str = "(relay, source) = ($1, $2)";

/// The `seq` whose rows are not deleted, as an `int8multirange`: those of open letters of the table, whoever's they
/// are. By the index on `seq`.
pub(super) fn held_sql(names: &Names) -> String {
    format!(
        "SELECT coalesce(range_agg(CASE WHEN place > {MAX_HELD_LETTERS} THEN int8range(seq, NULL) \
         ELSE int8range(seq, seq, '[]') END), '{{}}') FROM (SELECT seq, row_number() OVER (ORDER BY seq) AS place \
         FROM (SELECT letter.seq FROM {schema}outbox_dead_letter AS letter \
         JOIN {schema}outbox_source AS home USING (relay, source) WHERE {same_table} \
         ORDER BY letter.seq LIMIT {limit}) AS lowest) AS open",
        schema = names.schema,
        same_table = same_table_sql(names),
        limit = MAX_HELD_LETTERS + 1,
    )
}

impl Postgres {
    fn letters_table(&self) -> String {
        format!("{}outbox_dead_letter", self.names.schema)
    }

    async fn page_in(
        &self,
        connection: &mut PgConnection,
        which: &Selection,
        span: Span,
        limit: usize,
    ) -> Result<Vec<Letter>, sqlx::Error> {
        let sql = format!(
            "SELECT {LETTER} FROM {table} WHERE {OWN} AND id > $3 AND id <= $4 \
             AND ($5::text IS NULL OR sink = $5) AND ($6::int8[] IS NULL OR id = ANY ($6)) \
             AND ($7::float8 IS NULL OR dead_at < now() - make_interval(secs => $7)) \
             AND ($8::float8 IS NULL OR dead_at >= now() - make_interval(secs => $8)) ORDER BY id LIMIT $9",
            table = self.letters_table(),
        );
        let query = sqlx::query(AssertSqlSafe(sql)).persistent(false);
        let query = query.bind(&self.relay).bind(&self.name);
        let query = query.bind(span.after).bind(span.through).bind(&which.sink);
        let query = query.bind(Some(&which.ids).filter(|ids| !ids.is_empty()));
        let query = query.bind(which.older_than.as_ref().map(Duration::as_secs_f64));
        let query = query.bind(which.newer_than.as_ref().map(Duration::as_secs_f64));
        let query = query.bind(i64::try_from(limit).unwrap_or(i64::MAX));
        let rows = query.fetch_all(connection).await?;
        rows.iter().map(letter).collect()
    }

    async fn read_in(
        &self,
        connection: &mut PgConnection,
        id: i64,
    ) -> Result<Option<(Letter, Event)>, sqlx::Error> {
        let sql = format!(
            "SELECT {LETTER}, event_id, aggregate_type, payload, payload_type, headers::text AS headers, created_at \
             FROM {table} WHERE {OWN} AND id = $3",
            table = self.letters_table(),
        );
        let query = sqlx::query(AssertSqlSafe(sql)).persistent(false);
        let query = query.bind(&self.relay).bind(&self.name).bind(id);
        let row = query.fetch_optional(connection).await?;
        row.map(|row| Ok((letter(&row)?, event(&row)?))).transpose()
    }

    /// The ledger is locked first, as a flush does: from here to the commit neither a flush nor a step of settling
    /// comes in between.
    async fn retry_in(
        &self,
        connection: &mut PgConnection,
        sink: &str,
        ids: &[i64],
    ) -> Result<Retry, sqlx::Error> {
        let ledger = format!("{}outbox_ledger", self.names.schema);
        let by_name = "(relay, source, sink) = ($1, $2, $3)";
        let sql =
            format!("SELECT delivered::text AS delivered FROM {ledger} WHERE {by_name} FOR UPDATE");
        let query = sqlx::query(AssertSqlSafe(sql)).persistent(false);
        let query = query.bind(&self.relay).bind(&self.name).bind(sink);
        let Some(row) = query.fetch_optional(&mut *connection).await? else {
            return Ok(Retry::NoLedger);
        };
        let mut delivered = sql::ranges(&row, "delivered")?;
        let removed = self.remove_with_row(connection, sink, ids).await?;
        if !take_out(&mut delivered, &removed) {
            return Ok(Retry::Full);
        }
        let sql = format!(
            "UPDATE {ledger} SET delivered = $4::text::int8multirange, token = gen_random_uuid() WHERE {by_name}"
        );
        if !removed.is_empty() {
            let query = sqlx::query(AssertSqlSafe(sql)).persistent(false);
            let query = query.bind(&self.relay).bind(&self.name).bind(sink);
            query
                .bind(delivered.to_string())
                .execute(&mut *connection)
                .await?;
        }
        let sql = format!(
            "SELECT count(*) FROM {table} WHERE {by_name} AND id = ANY ($4)",
            table = self.letters_table()
        );
        let query = sqlx::query_scalar::<_, i64>(AssertSqlSafe(sql)).persistent(false);
        let query = query.bind(&self.relay).bind(&self.name).bind(sink);
        let gone = query.bind(ids).fetch_one(connection).await?;
        Ok(Retry::Done {
            retried: removed.len() as u64,
            gone: gone.unsigned_abs(),
        })
    }

    /// Removes letters whose event still has its row, and returns the `seq` of those. A row of another event with
    /// the same `seq` belongs to a table that has started anew.
    async fn remove_with_row(
        &self,
        connection: &mut PgConnection,
        sink: &str,
        ids: &[i64],
    ) -> Result<Vec<i64>, sqlx::Error> {
        let sql = format!(
            "DELETE FROM {letters} AS letter USING {table} AS event \
             WHERE (letter.relay, letter.source, letter.sink) = ($1, $2, $3) AND letter.id = ANY ($4) \
             AND event.{seq} = letter.seq AND event.{id}::uuid = letter.event_id RETURNING letter.seq",
            letters = self.letters_table(),
            table = self.names.table,
            seq = self.names.columns.seq,
            id = quoted(&self.columns.id),
        );
        let query = sqlx::query_scalar(AssertSqlSafe(sql)).persistent(false);
        let query = query.bind(&self.relay).bind(&self.name).bind(sink);
        query.bind(ids).fetch_all(connection).await
    }

    async fn discard_in(
        &self,
        connection: &mut PgConnection,
        sink: &str,
        ids: &[i64],
    ) -> Result<u64, sqlx::Error> {
        let sql = format!(
            "DELETE FROM {} WHERE {OWN} AND sink = $3 AND id = ANY ($4)",
            self.letters_table()
        );
        let query = sqlx::query(AssertSqlSafe(sql)).persistent(false);
        let query = query.bind(&self.relay).bind(&self.name).bind(sink);
        Ok(query.bind(ids).execute(connection).await?.rows_affected())
    }
}

#[async_trait]
impl DeadLetters for Postgres {
    async fn last_id(&self) -> Result<i64, SourceError> {
        self.inspected().await?;
        let sql = format!(
            "SELECT coalesce(max(id), 0) AS id FROM {}",
            self.letters_table()
        );
        let mut last = 0;
        let mut link = self.link.lock().await;
        link.query(LIST, sql, |row| {
            last = row.try_get("id")?;
            Ok(())
        })
        .await?;
        Ok(last)
    }

    async fn page(&self, which: &Selection, span: Span, limit: usize) -> Result<Page, SourceError> {
        let work = async |on: &mut PgConnection| self.page_in(on, which, span, limit).await;
        let letters = self.in_transaction(LIST, work, |_| true).await?;
        Ok(Page::of(letters, limit, which))
    }

    async fn read(&self, id: i64) -> Result<Option<(Letter, Event)>, SourceError> {
        self.inspected().await?;
        let work = async |on: &mut PgConnection| self.read_in(on, id).await;
        self.in_transaction(READ, work, |_| true).await
    }

    async fn retry(&self, sink: &str, ids: &[i64]) -> Result<Retry, SourceError> {
        let work = async |on: &mut PgConnection| self.retry_in(on, sink, ids).await;
        self.in_transaction(RETRY, work, Retry::is_done).await
    }

    async fn discard(&self, sink: &str, ids: &[i64]) -> Result<u64, SourceError> {
        let work = async |on: &mut PgConnection| self.discard_in(on, sink, ids).await;
        self.in_transaction(DISCARD, work, |_| true).await
    }
}

fn letter(row: &PgRow) -> Result<Letter, sqlx::Error> {
    Ok(Letter {
        id: row.try_get("id")?,
        sink: row.try_get("sink")?,
        seq: row.try_get("seq")?,
        event_type: row.try_get("event_type")?,
        aggregate_id: row.try_get("aggregate_id")?,
        reason: row.try_get("reason")?,
        attempts: row.try_get("attempts")?,
        dead_at: row.try_get("dead_at")?,
    })
}

/// The event as it was when it was refused.
fn event(row: &PgRow) -> Result<Event, sqlx::Error> {
    let headers: String = row.try_get("headers")?;
    let payload: Bytes = row.try_get::<Vec<u8>, _>("payload")?.into();
    let payload_type: String = row.try_get("payload_type")?;
    Ok(Event {
        seq: row.try_get("seq")?,
        id: row.try_get("event_id")?,
        event_type: row.try_get("event_type")?,
        aggregate_type: row.try_get("aggregate_type")?,
        aggregate_id: row.try_get("aggregate_id")?,
        payload: Payload::of_stored(&payload_type, payload),
        headers: parse_headers(headers.as_bytes()),
        created_at: row.try_get("created_at")?,
        flaw: None,
    })
}
