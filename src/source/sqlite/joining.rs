//! Ledgers under a lease that is held: of a sink that joins, and of one whose ledger somebody else has changed.

use sqlx::Executor as _;

use super::Sqlite;
use super::acquisition::{Acquisition, stored_ledger};
use super::holding::Evidence;
use super::link::limited;
use super::table::Table;
use crate::source::{LeaseId, SinkStart, SourceError, StoredLedger};

const JOIN: &str = "cannot store the ledger of a sink that joins";
const RECLAIM: &str = "cannot read the ledger";

impl Sqlite {
    pub(super) async fn try_join(
        &self,
        lease: &LeaseId,
        sink: &SinkStart,
    ) -> Result<Option<StoredLedger>, SourceError> {
        // It mostly has one: it ran until now, with other settings.
        if let Some(ledger) = self.try_reclaim(lease, &sink.sink).await? {
            return Ok(Some(ledger));
        }
        let marked = self.marked_beside_lease(sink).await?;
        let mut link = self.link.lock().await;
        let mut connected = link.checkout(JOIN).await?;
        let mut acquisition = Acquisition {
            source: self,
            token: lease.token,
            sequence_filenode: connected.file.number(),
            connection: &mut connected.connection,
            evidence: Evidence::default(),
            marked,
        };
        let refusal = limited(JOIN, async {
            acquisition.connection.execute("BEGIN IMMEDIATE").await?;
            let mut refusal = None;
            if acquisition.still_holds(lease).await? {
                let table = Table::now(acquisition.connection, &self.names).await?;
                let table = table.ok_or(sqlx::Error::RowNotFound)?;
                refusal = acquisition
                    .store_missing(std::slice::from_ref(sink), &table, true)
                    .await?;
            }
            acquisition.connection.execute("COMMIT").await?;
            Ok(refusal)
        })
        .await?;
        link.give_back(connected);
        drop(link);
        match refusal {
            None => self.try_reclaim(lease, &sink.sink).await,
            Some(reason) => Err(SourceError::Refused(reason)),
        }
    }

    pub(super) async fn try_reclaim(
        &self,
        lease: &LeaseId,
        sink: &str,
    ) -> Result<Option<StoredLedger>, SourceError> {
        // One statement, and nobody else writes meanwhile.
        let sql = "UPDATE outbox_ledger SET token = ?1 WHERE relay = ?2 AND source = ?3 AND sink = ?4 \
             AND EXISTS (SELECT 1 FROM outbox_lease WHERE relay = ?2 AND source = ?3 AND token = ?1) \
             AND EXISTS (SELECT 1 FROM outbox_incarnation WHERE table_name = ?5 AND incarnation = ?6) \
             RETURNING sink, delivered, closed";
        let mut link = self.link.lock().await;
        let mut connected = link.checkout(RECLAIM).await?;
        if connected.file.number() != lease.sequence_filenode {
            return Ok(None);
        }
        let query = sqlx::query(sql).bind(lease.token.to_string());
        let query = query.bind(&self.relay).bind(&self.name).bind(sink);
        let query = query.bind(&self.names.plain).bind(&lease.incarnation);
        let reclaimed = limited(RECLAIM, async {
            let rows = query.fetch_all(&mut connected.connection).await?;
            rows.first().map(stored_ledger).transpose()
        })
        .await?;
        link.give_back(connected);
        Ok(reclaimed)
    }
}
