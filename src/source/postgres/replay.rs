//! Replay: reading what may be replayed, and taking it out of a ledger.

use std::borrow::Cow;

use async_trait::async_trait;
use chrono::DateTime;
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Row as _};

use super::Postgres;
use super::rows;
use super::sql::{self, quoted};
use crate::ledger::RangeSet;
use crate::source::SourceError;
use crate::source::replay::{Candidate, Replays, TakenBack, take_out};

const READ: &str = "cannot read what may be replayed";
const TAKE_BACK: &str = "cannot take events out of the ledger";

impl Postgres {
    /// One page of rows by the primary key; letters by their unique key.
    fn rows_sql(&self, sink: &str, after: i64, through: i64, limit: usize) -> String {
        let columns = &self.names.columns;
        let key = self.columns.aggregate_id.as_deref().map(quoted);
        format!(
            "SELECT event.{seq} AS seq, {event_type} AS event_type, ({key})::text AS aggregate_id, \
             {created_at} AS created_at, \
             EXISTS (SELECT FROM {schema}outbox_dead_letter AS letter WHERE {own} AND letter.sink = {sink} \
             AND letter.seq = event.{seq}) AS is_dead \
             FROM {table} AS event WHERE event.{seq} > {after} AND event.{seq} <= {through} \
             ORDER BY event.{seq} LIMIT {limit}",
            seq = columns.seq,
            event_type = quoted(&self.columns.event_type),
            key = key.as_deref().unwrap_or("NULL"),
            created_at = sql::micros(&columns.created_at),
            schema = self.names.schema,
            own = self.key_sql(),
            sink = sql::literal(sink),
            table = self.names.table,
        )
    }

    /// The ledger is locked first, as a flush does: from here to the commit neither a flush nor a step of settling
    /// comes in between. A row that was deleted before is recorded as such, and whoever reads the ledger knows.
    async fn take_back_in(
        &self,
        connection: &mut PgConnection,
        sink: &str,
        events: &RangeSet,
    ) -> Result<TakenBack, sqlx::Error> {
        let ledger = format!("{}outbox_ledger", self.names.schema);
        let by_name = "(relay, source, sink) = ($1, $2, $3)";
        let sql = format!(
            "SELECT delivered::text AS delivered, closed::text AS closed FROM {ledger} WHERE {by_name} FOR UPDATE"
        );
        let query = sqlx::query(AssertSqlSafe(sql)).persistent(false);
        let query = query.bind(&self.relay).bind(&self.name).bind(sink);
        let Some(row) = query.fetch_optional(&mut *connection).await? else {
            return Ok(TakenBack::NoLedger);
        };
        let mut delivered = sql::ranges(&row, "delivered")?;
        if !take_out(&mut delivered, &sql::ranges(&row, "closed")?, events) {
            return Ok(TakenBack::Full);
        }
        let sql = format!(
            "UPDATE {ledger} SET delivered = $4::text::int8multirange, token = gen_random_uuid() WHERE {by_name}"
        );
        let query = sqlx::query(AssertSqlSafe(sql)).persistent(false);
        let query = query.bind(&self.relay).bind(&self.name).bind(sink);
        let query = query.bind(delivered.to_string());
        query.execute(connection).await?;
        Ok(TakenBack::Done)
    }
}

#[async_trait]
impl Replays for Postgres {
    async fn rows(
        &self,
        sink: &str,
        after: i64,
        through: i64,
        limit: usize,
    ) -> Result<Vec<Candidate>, SourceError> {
        let mut candidates = Vec::new();
        let facts = self.inspected().await?;
        let sql = facts.encoding_sql().to_owned() + &self.rows_sql(sink, after, through, limit);
        let mut link = self.link.lock().await;
        link.query(READ, sql, |row| {
            candidates.push(candidate(&row)?);
            Ok(())
        })
        .await?;
        Ok(candidates)
    }

    async fn take_back(&self, sink: &str, events: &RangeSet) -> Result<TakenBack, SourceError> {
        let work = async |on: &mut PgConnection| self.take_back_in(on, sink, events).await;
        self.in_transaction(TAKE_BACK, work, TakenBack::is_done)
            .await
    }
}

fn candidate(row: &PgRow) -> Result<Candidate, sqlx::Error> {
    let micros: Option<i64> = row.try_get("created_at")?;
    let text = |column| Ok::<_, sqlx::Error>(rows::lossy(row, column)?.map(Cow::into_owned));
    Ok(Candidate {
        seq: row.try_get("seq")?,
        event_type: text("event_type")?.unwrap_or_default(),
        aggregate_id: text("aggregate_id")?,
        created_at: micros.and_then(DateTime::from_timestamp_micros),
        is_dead: row.try_get("is_dead")?,
    })
}
