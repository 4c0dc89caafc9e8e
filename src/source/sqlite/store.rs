//! Storing a ledger: one UPDATE of one row, fenced by the token and by what tells that the file is the same.

use async_trait::async_trait;
use chrono::SecondsFormat;
use sqlx::Executor as _;
use sqlx::sqlite::SqliteConnection;

use super::holding::Holding;
use super::link::{Link, limited};
use crate::source::headers::headers_json;
use crate::source::{DeadLetter, Flush, LedgerStore, SourceError};

const FLUSH: &str = "cannot store the ledger";
const LOOK: &str = "cannot look at the ledger";

/// Stores the ledger of one sink.
#[derive(Debug)]
pub(super) struct SqliteLedgerStore {
    pub(super) link: Link,
    pub(super) holding: Holding,
    pub(super) sink: String,
}

/// What became of a transaction.
enum Outcome {
    /// It was committed, with the counter at this.
    Stored { changes: i64 },
    /// Nothing was written: the ledger has another token.
    Fenced,
    /// Nothing was written: the file is no longer the one of the lease.
    Changed,
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
             WHERE relay = ? AND source = ? AND sink = ? AND token = ?";
        let query = sqlx::query(sql).bind(&flush.delivered).bind(&flush.closed);
        let query = query.bind(&self.holding.relay).bind(&self.holding.source);
        let query = query.bind(&self.sink);
        let query = query.bind(self.holding.lease.token.to_string());
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
        let query = sqlx::query(sql).bind(&self.holding.relay);
        let query = query.bind(&self.holding.source).bind(&self.sink);
        let query = query.bind(event.seq);
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

    /// The ledger, its dead letters and the counter, all or nothing.
    async fn transaction(
        &self,
        connection: &mut SqliteConnection,
        flush: &Flush,
    ) -> Result<Outcome, sqlx::Error> {
        let evidence = self.holding.evidence();
        connection.execute("BEGIN IMMEDIATE").await?;
        let outcome = if self.holding.table(connection, evidence).await?.is_none() {
            Outcome::Changed
        } else if !self.update(connection, flush).await? {
            Outcome::Fenced
        } else {
            for letter in &flush.dead_letters {
                self.insert(connection, letter).await?;
            }
            match self.holding.raise(connection, evidence.newest).await? {
                Some(changes) => Outcome::Stored { changes },
                None => Outcome::Fenced,
            }
        };
        let end = match outcome {
            Outcome::Stored { .. } => "COMMIT",
            Outcome::Fenced | Outcome::Changed => "ROLLBACK",
        };
        connection.execute(end).await?;
        Ok(outcome)
    }

    /// Whether the ledger has our token; `None`: the file is no longer the one of the lease.
    async fn look(&self, connection: &mut SqliteConnection) -> Result<Option<bool>, sqlx::Error> {
        let sql = "SELECT EXISTS (SELECT 1 FROM outbox_ledger \
             WHERE relay = ? AND source = ? AND sink = ? AND token = ?)";
        let query = sqlx::query_scalar::<_, bool>(sql).bind(&self.holding.relay);
        let query = query.bind(&self.holding.source).bind(&self.sink);
        let query = query.bind(self.holding.lease.token.to_string());
        let evidence = self.holding.evidence();
        connection.execute("BEGIN").await?;
        let mut ours = None;
        if self.holding.table(connection, evidence).await?.is_some() {
            ours = Some(query.fetch_one(&mut *connection).await?);
        }
        connection.execute("COMMIT").await?;
        Ok(ours)
    }
}

#[async_trait]
impl LedgerStore for SqliteLedgerStore {
    async fn flush(&mut self, flush: &Flush) -> Result<(), SourceError> {
        let mut connected = self.link.checkout(FLUSH).await?;
        if connected.file.number() != self.holding.lease.sequence_filenode {
            return Err(SourceError::Changed);
        }
        let connection = &mut connected.connection;
        let outcome = limited(FLUSH, self.transaction(connection, flush)).await?;
        self.link.give_back(connected);
        match outcome {
            Outcome::Stored { changes } => {
                self.holding.raised(changes);
                Ok(())
            }
            Outcome::Fenced => Err(SourceError::Fenced),
            Outcome::Changed => Err(SourceError::Changed),
        }
    }

    async fn still_ours(&mut self) -> Result<(), SourceError> {
        let mut connected = self.link.checkout(LOOK).await?;
        if connected.file.number() != self.holding.lease.sequence_filenode {
            return Err(SourceError::Changed);
        }
        let ours = limited(LOOK, self.look(&mut connected.connection)).await?;
        self.link.give_back(connected);
        match ours {
            Some(true) => Ok(()),
            Some(false) => Err(SourceError::Fenced),
            None => Err(SourceError::Changed),
        }
    }
}
