//! The lease: who is the active relay for a source.
//!
//! A row with an end, not a session lock, so that it works through a pooler in transaction mode. Its token fences
//! off everybody before: whoever acquires stamps it on every ledger of the source before reading them, and every
//! flush names it.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor as _};
use tokio::time::Instant;

use super::acquisition::{Acquisition, Obstacle, stored_ledger};
use super::homes::{highest_sql, lock_acquisitions_sql, recorded_sql, void_sql};
use super::link::Link;
use super::{Postgres, sql};
use crate::source::{Grant, LEASE_TTL, LeaseId, SinkStart, SourceError, StoredLedger};

const ACQUIRE: &str = "cannot acquire the lease";
const RENEW: &str = "cannot renew the lease";
const RELEASE: &str = "cannot release the lease";
const JOIN: &str = "cannot store the ledger of a sink that joins";
const RECLAIM: &str = "cannot read the ledger";

impl Postgres {
    pub(super) async fn try_acquire(
        &self,
        sinks: &[SinkStart],
    ) -> Result<Option<Grant>, SourceError> {
        let starts = std::mem::take(&mut *self.starts.lock().await);
        let work = async |connection: &mut PgConnection| {
            let mut acquisition = Acquisition {
                source: self,
                connection,
                starts: &starts,
            };
            // Before the statement that takes it is sent, for the server counts from later. Waiting for the connection
            // takes nothing away.
            let asked_at = Instant::now();
            acquisition.run(sinks, asked_at).await
        };
        let outcome = self.in_transaction(ACQUIRE, work, Result::is_ok).await?;
        match outcome {
            Ok(grant) => Ok(Some(grant)),
            Err(Obstacle::Held) => Ok(None),
            Err(Obstacle::Refused(reason)) => Err(SourceError::Refused(reason)),
            Err(Obstacle::SetBack(reason)) => {
                // It stays so: in a moment the sequence may have come as far again.
                let sql = void_sql(&self.names, &highest_sql(&self.names));
                let mut link = self.link.lock().await;
                link.query(ACQUIRE, sql, |_| Ok(())).await?;
                Err(SourceError::Refused(reason))
            }
        }
    }

    pub(super) async fn try_renew(&self, lease: &LeaseId) -> Result<bool, SourceError> {
        let sql = format!(
            "UPDATE {schema}outbox_lease SET expires_at = clock_timestamp() + interval '{ttl} seconds' \
             WHERE {key} AND token = '{token}' AND {unchanged} RETURNING token",
            schema = self.names.schema,
            ttl = LEASE_TTL.as_secs(),
            key = self.key_sql(),
            token = lease.token,
            unchanged = self.names.unchanged(lease),
        );
        let mut renewed = false;
        let mut link = self.link.lock().await;
        link.query(RENEW, sql, |_| {
            renewed = true;
            Ok(())
        })
        .await?;
        Ok(renewed)
    }

    pub(super) async fn try_release(&self, lease: &LeaseId) -> Result<(), SourceError> {
        let sql = format!(
            "UPDATE {}outbox_lease SET expires_at = '-infinity' WHERE {} AND token = '{}'",
            self.names.schema,
            self.key_sql(),
            lease.token,
        );
        let mut link = self.link.lock().await;
        link.query(RELEASE, sql, |_| Ok(())).await?;
        link.close().await;
        Ok(())
    }

    pub(super) async fn try_join(
        &self,
        lease: &LeaseId,
        sink: &SinkStart,
    ) -> Result<Option<StoredLedger>, SourceError> {
        // It mostly has one: it ran until now, with other settings.
        if let Some(ledger) = self.try_reclaim(lease, &sink.sink).await? {
            return Ok(Some(ledger));
        }
        let starts = self.start_beside_lease(sink).await?;
        // On a connection of its own: the renewals don't wait behind it.
        let mut link = Link::new(self.options.clone());
        let work = async |connection: &mut PgConnection| {
            let lock = lock_acquisitions_sql(&self.names);
            connection.execute(AssertSqlSafe(lock)).await?;
            let mut acquisition = Acquisition {
                source: self,
                connection,
                starts: &starts,
            };
            let refusal = acquisition.store_joining(sink, lease).await?;
            // Only now, so that the lease can be renewed until here: whoever takes it over stamps this ledger too.
            let ours = acquisition.still_holds(lease).await?;
            Ok((ours, refusal))
        };
        let (ours, refusal) = link.in_transaction(JOIN, work, |(ours, _)| *ours).await?;
        link.close().await;
        match refusal.filter(|_| ours) {
            None => self.try_reclaim(lease, &sink.sink).await,
            Some(reason) => Err(SourceError::Refused(reason)),
        }
    }

    /// Stamps the token on a ledger that is there, and reads it; `None` if it isn't, or the lease is no longer ours.
    /// Fails if somebody has the ledger locked for long: the renewals don't wait behind it.
    async fn try_reclaim(
        &self,
        lease: &LeaseId,
        sink: &str,
    ) -> Result<Option<StoredLedger>, SourceError> {
        // The lease row is locked before the ledger is stamped: whoever takes the lease over afterwards stamps
        // its own token over this one. A ledger that is void since is nobody's: the next acquisition says so.
        let sql = format!(
            "SET LOCAL lock_timeout = '1s'; WITH lease AS (SELECT token FROM {schema}outbox_lease WHERE {key} AND token = '{token}' \
             AND {unchanged} FOR UPDATE) \
             UPDATE {schema}outbox_ledger AS ledger SET token = lease.token FROM lease WHERE {key} \
             AND sink = {sink} AND EXISTS (SELECT FROM {schema}outbox_source WHERE {key} \
             AND sequence_filenode::int8 = {filenode}) RETURNING ledger.sink, (ledger.delivered + ({deleted}))::text AS delivered, \
             ledger.closed::text",
            deleted = recorded_sql(&self.names, lease.sequence_filenode, "deleted"),
            schema = self.names.schema,
            key = self.key_sql(),
            token = lease.token,
            unchanged = self.names.unchanged(lease),
            filenode = lease.sequence_filenode,
            sink = sql::literal(sink),
        );
        let mut ledger = None;
        let mut link = Link::new(self.options.clone());
        link.query(RECLAIM, sql, |row| {
            ledger = Some(stored_ledger(&row)?);
            Ok(())
        })
        .await?;
        link.close().await;
        Ok(ledger)
    }
}
