//! Storing a ledger: one UPDATE of one row, fenced by token and incarnation.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor as _};

use super::link::{BEGIN, Link, limited};
use super::sql::{self, Names};
use crate::sabotage::{self, Sabotage};
use crate::source::headers::{headers_json, without_nul};
use crate::source::{DeadLetter, Flush, LeaseId, LedgerStore, SourceError};

const FLUSH: &str = "cannot store the ledger";
const LOOK: &str = "cannot look at the ledger";

/// Stores the ledger of one sink.
#[derive(Debug)]
pub(super) struct PostgresLedgerStore {
    pub(super) link: Link,
    pub(super) names: Arc<Names>,
    pub(super) relay: String,
    pub(super) source: String,
    pub(super) sink: String,
    pub(super) lease: LeaseId,
}

impl PostgresLedgerStore {
    /// The token stands on the ledger's own row: only there is the condition looked at again after the wait for
    /// a lock, so that a relay which was fenced off meanwhile writes nothing.
    fn update_sql(&self, flush: &Flush) -> String {
        format!(
            "UPDATE {schema}outbox_ledger SET delivered = '{delivered}'::int8multirange, \
             closed = '{closed}'::int8multirange, updated_at = now() \
             WHERE relay = {relay} AND source = {source} AND sink = {sink} \
             AND {fence} RETURNING sink",
            schema = self.names.schema,
            delivered = flush.delivered,
            closed = flush.closed,
            relay = sql::literal(&self.relay),
            source = sql::literal(&self.source),
            sink = sql::literal(&self.sink),
            fence = self.fence(),
        )
    }

    fn fence(&self) -> String {
        if sabotage::is_on(Sabotage::NoFence) {
            return "true".to_owned();
        }
        let unchanged = self.names.unchanged(&self.lease);
        format!("token = '{}' AND {unchanged}", self.lease.token)
    }

    fn still_ours_sql(&self) -> String {
        format!(
            "SELECT sink FROM {schema}outbox_ledger WHERE relay = {relay} AND source = {source} AND sink = {sink} \
             AND {fence}",
            schema = self.names.schema,
            relay = sql::literal(&self.relay),
            source = sql::literal(&self.source),
            sink = sql::literal(&self.sink),
            fence = self.fence(),
        )
    }

    async fn flush_with_dead_letters(
        &self,
        connection: &mut PgConnection,
        flush: &Flush,
    ) -> Result<bool, sqlx::Error> {
        connection.execute(BEGIN).await?;
        let update = sqlx::raw_sql(AssertSqlSafe(self.update_sql(flush)));
        let updated = update.fetch_optional(&mut *connection).await?.is_some();
        if updated {
            for letter in &flush.dead_letters {
                self.insert(connection, letter).await?;
            }
        }
        connection.execute("COMMIT").await?;
        Ok(updated)
    }

    async fn insert(
        &self,
        connection: &mut PgConnection,
        letter: &DeadLetter,
    ) -> Result<(), sqlx::Error> {
        // A crash between this and the next flush can bring the same event here again.
        let sql = format!(
            "INSERT INTO {}outbox_dead_letter (relay, source, sink, seq, event_id, event_type, \
             aggregate_type, aggregate_id, payload, payload_type, headers, created_at, reason, attempts) \
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11::text::jsonb, $12, $13, $14) \
             ON CONFLICT (relay, source, sink, seq, event_id) DO UPDATE SET reason = excluded.reason, \
             attempts = excluded.attempts, dead_at = excluded.dead_at",
            self.names.schema
        );
        let event = &letter.event;
        let payload_type = event.payload.stored_type();
        let headers = headers_json(&event.headers);
        let reason = without_nul(&letter.reason);
        let query = sqlx::query(AssertSqlSafe(sql)).persistent(false);
        let query = query
            .bind(&self.relay)
            .bind(&self.source)
            .bind(&self.sink)
            .bind(event.seq);
        let query = query
            .bind(event.id)
            .bind(&event.event_type)
            .bind(&event.aggregate_type);
        let query = query
            .bind(&event.aggregate_id)
            .bind(event.payload.as_bytes().as_ref());
        let query = query
            .bind(payload_type)
            .bind(headers)
            .bind(event.created_at)
            .bind(reason);
        let attempts = i32::try_from(letter.attempts).unwrap_or(i32::MAX);
        query.bind(attempts).execute(connection).await?;
        Ok(())
    }
}

#[async_trait]
impl LedgerStore for PostgresLedgerStore {
    async fn flush(&mut self, flush: &Flush) -> Result<(), SourceError> {
        let mut updated = false;
        if flush.dead_letters.is_empty() {
            let sql = self.update_sql(flush);
            self.link
                .query(FLUSH, sql, |_| {
                    updated = true;
                    Ok(())
                })
                .await?;
        } else {
            let mut connection = self.link.checkout(FLUSH).await?;
            updated = limited(FLUSH, self.flush_with_dead_letters(&mut connection, flush)).await?;
            self.link.give_back(connection);
        }
        if updated {
            Ok(())
        } else {
            Err(SourceError::Fenced)
        }
    }

    async fn still_ours(&mut self) -> Result<(), SourceError> {
        let mut ours = false;
        let sql = self.still_ours_sql();
        self.link
            .query(LOOK, sql, |_| {
                ours = true;
                Ok(())
            })
            .await?;
        if ours {
            Ok(())
        } else {
            Err(SourceError::Fenced)
        }
    }
}
