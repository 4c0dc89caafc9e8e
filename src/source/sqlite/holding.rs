//! One holding of the lease: what a task of it remembers, and how it sees that the file is still the one of it.
//!
//! A file that is put in place of another is known by its inode (`link.rs`), a table that was made anew by its
//! incarnation. A backup that is restored *into* the file keeps both, the lease and its token too: cursor and ledger
//! in memory are then ahead of the rows, and numbers are drawn a second time. So the holder raises a counter at each
//! renewal and each flush, and every exchange compares the counter with the highest one that was written: a lower one
//! is an older file. What came between two of them is told by the newest event read: a row with its `seq` has its id.

use std::sync::{Arc, Mutex, PoisonError};

use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Row as _};
use uuid::Uuid;

use super::rows;
use super::sql::Names;
use super::table::{Table, last_value_sql};
use crate::source::LeaseId;

/// Names a holding, and knows what it must find. Clones share what they learn.
#[derive(Debug, Clone)]
pub(super) struct Holding {
    pub(super) names: Names,
    pub(super) relay: String,
    pub(super) source: String,
    pub(super) lease: LeaseId,
    evidence: Arc<Mutex<Evidence>>,
}

/// What was seen in transactions that have ended. A transaction that begins afterwards must find as much.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Evidence {
    /// The highest `outbox_lease.changes`.
    pub(super) changes: i64,
    /// The newest event that was read.
    pub(super) newest: Option<Newest>,
}

/// An event, by its place and its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Newest {
    pub(super) seq: i64,
    /// Nil if the row has no readable one.
    pub(super) id: Uuid,
}

impl Holding {
    pub(super) fn new(
        names: &Names,
        (relay, source): (&str, &str),
        lease: &LeaseId,
        evidence: Evidence,
    ) -> Self {
        Self {
            names: names.clone(),
            relay: relay.to_owned(),
            source: source.to_owned(),
            lease: lease.clone(),
            evidence: Arc::new(Mutex::new(evidence)),
        }
    }

    /// What the next transaction must find. To be asked before it begins: others go on meanwhile.
    pub(super) fn evidence(&self) -> Evidence {
        *self.lock()
    }

    /// A transaction that raised the counter to `changes` was committed.
    pub(super) fn raised(&self, changes: i64) {
        let mut evidence = self.lock();
        evidence.changes = evidence.changes.max(changes);
    }

    /// An event was read.
    pub(super) fn has_read(&self, event: Newest) {
        let mut evidence = self.lock();
        if evidence.newest.is_none_or(|newest| newest.seq < event.seq) {
            evidence.newest = Some(event);
        }
    }

    /// The table, inside a transaction that began after `evidence` was asked for; `None` if the file or the table is
    /// no longer the one of the lease.
    pub(super) async fn table(
        &self,
        connection: &mut SqliteConnection,
        evidence: Evidence,
    ) -> Result<Option<Table>, sqlx::Error> {
        let sql = format!(
            "SELECT incarnation, {last_value} AS last_value, \
             (SELECT changes FROM outbox_lease WHERE relay = ? AND source = ?) AS changes, \
             (SELECT id FROM {table} WHERE seq = ?) AS newest_id FROM outbox_incarnation WHERE table_name = ?",
            last_value = last_value_sql(&self.names),
            table = self.names.table,
        );
        let query = sqlx::query(AssertSqlSafe(sql));
        let query = query.bind(&self.relay).bind(&self.source);
        let query = query.bind(evidence.newest.map(|newest| newest.seq));
        let query = query.bind(&self.names.plain);
        let Some(row) = query.fetch_optional(connection).await? else {
            return Ok(None);
        };
        let table = Table {
            incarnation: row.try_get("incarnation")?,
            last_value: row.try_get("last_value")?,
        };
        let changes: Option<i64> = row.try_get("changes")?;
        let newest_id: Option<Vec<u8>> = row.try_get_unchecked("newest_id")?;
        let is_same = table.incarnation == self.lease.incarnation
            && changes.is_some_and(|changes| changes >= evidence.changes)
            && evidence
                .newest
                .is_none_or(|newest| newest.stands_in(&table, newest_id.as_deref()));
        Ok(is_same.then_some(table))
    }

    /// Raises the counter, and keeps what was read last, inside a transaction; `None`: the lease is no longer ours.
    pub(super) async fn raise(
        &self,
        connection: &mut SqliteConnection,
        newest: Option<Newest>,
    ) -> Result<Option<i64>, sqlx::Error> {
        let sql = "UPDATE outbox_lease SET changes = changes + 1, newest_seq = ?, newest_id = ? \
             WHERE relay = ? AND source = ? AND token = ? RETURNING changes";
        let query = sqlx::query_scalar(sql).bind(newest.map(|newest| newest.seq));
        let query = query.bind(newest.map(|newest| newest.id.to_string()));
        let query = query.bind(&self.relay).bind(&self.source);
        let query = query.bind(self.lease.token.to_string());
        query.fetch_optional(connection).await
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Evidence> {
        // Nothing panics while it is held.
        self.evidence.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Newest {
    /// Whether the table can be the one that it was read from. `id` is that of the row which has its `seq` now;
    /// `None`: the row was deleted.
    pub(super) fn stands_in(self, table: &Table, id: Option<&[u8]>) -> bool {
        self.seq <= table.last_value
            && id.is_none_or(|id| rows::stored_id(id).unwrap_or_default() == self.id)
    }
}
