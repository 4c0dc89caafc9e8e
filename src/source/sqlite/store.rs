//! Storing a ledger: one UPDATE of one row, fenced by token and incarnation.

use async_trait::async_trait;
use chrono::SecondsFormat;
use sqlx::Executor as _;
use sqlx::sqlite::SqliteConnection;

use super::link::{Link, limited};
use super::sql::Names;
use crate::source::headers::headers_json;
use crate::source::{DeadLetter, Flush, LeaseId, LedgerStore, SourceError};

const FLUSH: &str = "cannot store the ledger";
const LOOK: &str = "cannot look at the ledger";

/// Stores the ledger of one sink.
#[derive(Debug)]
pub(super) struct SqliteLedgerStore {
    pub(super) link: Link,
    pub(super) names: Names,
    pub(super) relay: String,
    pub(super) source: String,
    pub(super) sink: String,
    pub(super) lease: LeaseId,
}

impl SqliteLedgerStore {
    /// Whether the ledger was still ours, and so was written.
    async fn update(
        &self,
        connection: &mut SqliteConnection,
        flush: &Flush,
    ) -> Result<bool, sqlx::Error> {
        let sql = "UPDATE outbox_ledger SET delivered = ?, closed = ?, \
             updated_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now') \
             WHERE relay = ? AND source = ? AND sink = ? AND token = ? AND EXISTS \
             (SELECT 1 FROM outbox_incarnation WHERE table_name = ? AND incarnation = ?)";
        let query = sqlx::query(sql).bind(&flush.delivered).bind(&flush.closed);
        let query = query.bind(&self.relay).bind(&self.source).bind(&self.sink);
        let query = query.bind(self.lease.token.to_string());
        let query = query.bind(&self.names.plain).bind(&self.lease.incarnation);
        Ok(query.execute(connection).await?.rows_affected() > 0)
    }

    async fn insert(
        &self,
        connection: &mut SqliteConnection,
        letter: &DeadLetter,
    ) -> Result<(), sqlx::Error> {
        // A crash between this and the next flush can bring the same event here again.
        let sql = "INSERT INTO outbox_dead_letter (relay, source, sink, seq, event_id, event_type, \
             aggregate_type, aggregate_id, payload, payload_type, headers, created_at, reason, attempts) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) \
             ON CONFLICT (relay, source, sink, seq, event_id) DO UPDATE SET reason = excluded.reason, \
             attempts = excluded.attempts, dead_at = excluded.dead_at";
        let event = &letter.event;
        let payload_type = event.payload.stored_type();
        let created_at = event
            .created_at
            .to_rfc3339_opts(SecondsFormat::AutoSi, true);
        let query = sqlx::query(sql).bind(&self.relay).bind(&self.source);
        let query = query.bind(&self.sink).bind(event.seq);
        let query = query.bind(event.id.to_string()).bind(&event.event_type);
        let query = query.bind(&event.aggregate_type).bind(&event.aggregate_id);
        let query = query
            .bind(event.payload.as_bytes().as_ref())
            .bind(payload_type);
        let query = query.bind(headers_json(&event.headers)).bind(created_at);
        let query = query.bind(&letter.reason).bind(letter.attempts);
        query.execute(connection).await?;
        Ok(())
    }

    /// The ledger and its dead letters, all or nothing.
    async fn transaction(
        &self,
        connection: &mut SqliteConnection,
        flush: &Flush,
    ) -> Result<bool, sqlx::Error> {
        connection.execute("BEGIN IMMEDIATE").await?;
        let updated = self.update(connection, flush).await?;
        if updated {
            for letter in &flush.dead_letters {
                self.insert(connection, letter).await?;
            }
        }
        connection.execute("COMMIT").await?;
        Ok(updated)
    }
}

#[async_trait]
impl LedgerStore for SqliteLedgerStore {
    async fn flush(&mut self, flush: &Flush) -> Result<(), SourceError> {
        let mut connected = self.link.checkout(FLUSH).await?;
        if connected.file.number() != self.lease.sequence_filenode {
            return Err(SourceError::Changed);
        }
        let connection = &mut connected.connection;
        let updated = limited(FLUSH, self.transaction(connection, flush)).await?;
        self.link.give_back(connected);
        if updated {
            Ok(())
        } else {
            Err(SourceError::Fenced)
        }
    }

    async fn still_ours(&mut self) -> Result<(), SourceError> {
        let mut connected = self.link.checkout(LOOK).await?;
        if connected.file.number() != self.lease.sequence_filenode {
            return Err(SourceError::Changed);
        }
        let sql = "SELECT EXISTS (SELECT 1 FROM outbox_ledger \
             WHERE relay = ? AND source = ? AND sink = ? AND token = ?) \
             AND EXISTS (SELECT 1 FROM outbox_incarnation WHERE table_name = ? AND incarnation = ?)";
        let query = sqlx::query_scalar::<_, bool>(sql).bind(&self.relay);
        let query = query.bind(&self.source).bind(&self.sink);
        let query = query.bind(self.lease.token.to_string());
        let query = query.bind(&self.names.plain).bind(&self.lease.incarnation);
        let ours = limited(LOOK, query.fetch_one(&mut connected.connection)).await?;
        self.link.give_back(connected);
        if ours {
            Ok(())
        } else {
            Err(SourceError::Fenced)
        }
    }
}
