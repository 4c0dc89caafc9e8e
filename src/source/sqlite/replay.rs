//! Replay: reading what may be replayed, and taking it out of a ledger.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Row as _};
use uuid::Uuid;

use super::Sqlite;
use super::link::limited;
use super::rows;
use super::sql::ranges;
use crate::ledger::RangeSet;
use crate::source::SourceError;
use crate::source::replay::{Candidate, Replays, TakenBack, take_out};

const READ: &str = "cannot read what may be replayed";
const TAKE_BACK: &str = "cannot take events out of the ledger";

/// The condition that selects a ledger by the first three parameters.
const BY_NAME: &str = "relay = ?1 AND source = ?2 AND sink = ?3";

impl Sqlite {
    /// Inside a transaction that has the writers' lock: neither a flush nor a step of settling comes in between.
    async fn take_back_in(
        &self,
        connection: &mut SqliteConnection,
        sink: &str,
        events: &RangeSet,
    ) -> Result<TakenBack, sqlx::Error> {
        let sql = format!("SELECT delivered, closed FROM outbox_ledger WHERE {BY_NAME}");
        let query = sqlx::query(AssertSqlSafe(sql)).bind(&self.relay);
        let query = query.bind(&self.name).bind(sink);
        let Some(row) = query.fetch_optional(&mut *connection).await? else {
            return Ok(TakenBack::NoLedger);
        };
        let mut delivered = ranges(&row, "delivered")?;
        if !take_out(&mut delivered, &ranges(&row, "closed")?, events) {
            return Ok(TakenBack::Full);
        }
        let sql = format!("UPDATE outbox_ledger SET delivered = ?4, token = ?5 WHERE {BY_NAME}");
        let query = sqlx::query(AssertSqlSafe(sql)).bind(&self.relay);
        let query = query.bind(&self.name).bind(sink);
        let query = query.bind(delivered.to_string());
        let query = query.bind(Uuid::new_v4().to_string());
        query.execute(connection).await?;
        Ok(TakenBack::Done)
    }
}

#[async_trait]
impl Replays for Sqlite {
    async fn rows(
        &self,
        sink: &str,
        after: i64,
        through: i64,
        limit: usize,
    ) -> Result<Vec<Candidate>, SourceError> {
        // By the primary key; letters by the index on their seq.
        let sql = format!(
            "SELECT {}, EXISTS (SELECT 1 FROM outbox_dead_letter AS letter WHERE {BY_NAME} \
             AND letter.seq = event.seq) AS is_dead FROM {} AS event \
             WHERE seq > ?4 AND seq <= ?5 ORDER BY seq LIMIT ?6",
            rows::SELECTABLE,
            self.names.table,
        );
        let mut link = self.link.lock().await;
        let mut connected = link.checkout(READ).await?;
        let query = sqlx::query(AssertSqlSafe(sql)).bind(&self.relay);
        let query = query.bind(&self.name).bind(sink).bind(after);
        let query = query
            .bind(through)
            .bind(i64::try_from(limit).unwrap_or(i64::MAX));
        let candidates = limited(READ, async {
            let rows = query.fetch_all(&mut connected.connection).await?;
            rows.iter().map(candidate).collect()
        })
        .await?;
        link.give_back(connected);
        Ok(candidates)
    }

    async fn take_back(&self, sink: &str, events: &RangeSet) -> Result<TakenBack, SourceError> {
        let work = async |on: &mut SqliteConnection| self.take_back_in(on, sink, events).await;
        self.in_transaction(TAKE_BACK, work, TakenBack::is_done)
            .await
    }
}

/// A row as its event would be: what can't be read of it is replaced alike.
fn candidate(row: &SqliteRow) -> Result<Candidate, sqlx::Error> {
    let mut flaws = Vec::new();
    let created_at: DateTime<Utc> = rows::created_at(row, &mut flaws)?;
    Ok(Candidate {
        seq: row.try_get("seq")?,
        created_at: flaws.is_empty().then_some(created_at),
        event_type: rows::text(row, "event_type", &mut flaws)?.unwrap_or_default(),
        aggregate_id: rows::text(row, "aggregate_id", &mut flaws)?,
        is_dead: row.try_get("is_dead")?,
    })
}
