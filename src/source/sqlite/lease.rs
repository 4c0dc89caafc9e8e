//! The lease: who is the active relay for a source.
//!
//! A row with an end by the database's clock. Its token fences off everybody before: whoever acquires stamps it on
//! every ledger of the source before reading them ([`acquisition`](super::acquisition)), and every flush names it.

use sqlx::{AssertSqlSafe, Executor as _};
use tokio::time::Instant;
use uuid::Uuid;

use super::Sqlite;
use super::acquisition::{Acquisition, Obstacle};
use super::holding::{Evidence, Holding};
use super::link::limited;
use super::sql::NOW_MILLIS;
use crate::source::{Grant, LEASE_TTL, LeaseId, SinkStart, SourceError};

const ACQUIRE: &str = "cannot acquire the lease";
const RENEW: &str = "cannot renew the lease";
const RELEASE: &str = "cannot release the lease";

impl Sqlite {
    pub(super) async fn try_acquire(
        &self,
        sinks: &[SinkStart],
    ) -> Result<Option<Grant>, SourceError> {
        let mut link = self.link.lock().await;
        let asked_at = Instant::now();
        let mut connected = link.checkout(ACQUIRE).await?;
        let mut acquisition = Acquisition {
            source: self,
            token: Uuid::new_v4(),
            sequence_filenode: connected.file.number(),
            connection: &mut connected.connection,
            evidence: Evidence::default(),
            marked: self.marked.lock().await.take(),
        };
        let outcome = limited(ACQUIRE, async {
            // A standby asks every second: it must not take the writers' lock for that.
            if acquisition.is_held().await? {
                return Ok(Err(Obstacle::Held));
            }
            acquisition.connection.execute("BEGIN IMMEDIATE").await?;
            let outcome = acquisition.run(sinks, asked_at).await?;
            let end = if outcome.is_ok() {
                "COMMIT"
            } else {
                "ROLLBACK"
            };
            acquisition.connection.execute(end).await?;
            Ok(outcome)
        })
        .await?;
        let evidence = acquisition.evidence;
        link.give_back(connected);
        match outcome {
            Ok(grant) => {
                self.hold(Holding::new(
                    &self.names,
                    (&self.relay, &self.name),
                    &grant.lease,
                    evidence,
                ));
                Ok(Some(grant))
            }
            Err(Obstacle::Held) => Ok(None),
            Err(Obstacle::Refused(reason)) => Err(SourceError::Refused(reason)),
        }
    }

    pub(super) async fn try_renew(&self, lease: &LeaseId) -> Result<bool, SourceError> {
        let sql = format!(
            "UPDATE outbox_lease SET expires_at = {NOW_MILLIS} + ?, changes = changes + 1 \
             WHERE relay = ? AND source = ? AND token = ? AND changes >= ? AND EXISTS \
             (SELECT 1 FROM outbox_incarnation WHERE table_name = ? AND incarnation = ?) RETURNING changes"
        );
        let holding = self.holding(lease);
        let mut link = self.link.lock().await;
        let mut connected = match link.checkout(RENEW).await {
            Err(SourceError::Changed) => return Ok(false),
            connected => connected?,
        };
        if connected.file.number() != lease.sequence_filenode {
            return Ok(false);
        }
        let query = sqlx::query_scalar(AssertSqlSafe(sql)).bind(ttl_millis());
        let query = query.bind(&self.relay).bind(&self.name);
        let query = query.bind(lease.token.to_string());
        let query = query.bind(holding.evidence().changes);
        let query = query.bind(&self.names.plain).bind(&lease.incarnation);
        let renewed = query.fetch_optional(&mut connected.connection);
        let renewed: Option<i64> = limited(RENEW, renewed).await?;
        link.give_back(connected);
        if let Some(changes) = renewed {
            holding.raised(changes);
        }
        Ok(renewed.is_some())
    }

    pub(super) async fn try_release(&self, lease: &LeaseId) -> Result<(), SourceError> {
        let sql =
            "UPDATE outbox_lease SET expires_at = 0 WHERE relay = ? AND source = ? AND token = ?";
        let mut link = self.link.lock().await;
        let mut connected = link.checkout(RELEASE).await?;
        let query = sqlx::query(sql).bind(&self.relay).bind(&self.name);
        let query = query.bind(lease.token.to_string());
        limited(RELEASE, query.execute(&mut connected.connection)).await?;
        link.give_back(connected);
        link.close().await;
        Ok(())
    }
}

/// What an acquisition or a renewal adds to the clock.
pub(super) fn ttl_millis() -> i64 {
    i64::try_from(LEASE_TTL.as_millis()).unwrap_or(i64::MAX)
}
