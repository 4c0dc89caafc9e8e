//! Where new ledgers start. The oldest row without `sent_at` may lie behind millions that have it: they are gone
//! through before the lease is taken, or beside it, and without the writers' lock. Under the lock only rows above are
//! looked at, which are those that were marked meanwhile.

use std::time::Duration;

use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Row as _};

use super::Sqlite;
use super::link::{Link, limited, limited_to};
use super::sql::NOW_MILLIS;
use super::table::{Table, last_value_sql};
use crate::config::Start;
use crate::ledger::RangeSet;
use crate::source::{SinkStart, SourceError};

const LOOK: &str = "cannot see which ledgers there are";
const LOOK_UP: &str = "cannot look up where new ledgers start";

/// How long one look-up may take: some hundred gigabytes of disk.
const LIMIT: Duration = Duration::from_secs(3_600);

/// Up to where all rows were marked when they were looked at. That stays so: new rows come above, and a mark that is
/// taken off afterwards is one that is taken off from what a ledger has delivered.
#[derive(Debug, Clone)]
pub(super) struct Marked {
    below: i64,
    incarnation: String,
    file: i64,
}

impl Marked {
    /// Whether it was this table, in this file, and its sequence was not set back since.
    pub(super) fn is_of(&self, table: &Table, file: i64) -> bool {
        self.incarnation == table.incarnation
            && self.file == file
            && self.below <= table.last_value + 1
    }
}

/// Where the ledger of a sink starts if the source has ledgers (`any_stored`) or none; `None`: it has to say so.
pub(super) fn start_of(sink: &SinkStart, any_stored: bool) -> Option<Start> {
    match sink.start {
        None if !any_stored => Some(Start::Unsettled),
        start => start,
    }
}

impl Sqlite {
    /// Looks up what ledgers that `sinks` lack need, unless another relay has the lease, which stores them, or some have
    /// a ledger: these don't wait, and the others join by themselves.
    pub(super) async fn marked_before_lease(
        &self,
        sinks: &[SinkStart],
    ) -> Result<Option<Marked>, SourceError> {
        let starts_there = |sink| start_of(sink, false) == Some(Start::Unsettled);
        if !sinks.iter().any(starts_there) {
            return Ok(None);
        }
        match self.standing().await? {
            (false, false) => self.look_up_marked().await,
            _ => Ok(None),
        }
    }

    /// The same for a sink that joins.
    pub(super) async fn marked_beside_lease(
        &self,
        sink: &SinkStart,
    ) -> Result<Option<Marked>, SourceError> {
        let (_, any_stored) = self.standing().await?;
        match start_of(sink, any_stored) {
            Some(Start::Unsettled) => self.look_up_marked().await,
            _ => Ok(None),
        }
    }

    /// Whether another relay has the lease, and whether a sink has a ledger.
    async fn standing(&self) -> Result<(bool, bool), SourceError> {
        let sql = format!(
            "SELECT EXISTS (SELECT 1 FROM outbox_lease WHERE relay = ?1 AND source = ?2 AND owner <> ?3 \
             AND expires_at >= {NOW_MILLIS}), \
             EXISTS (SELECT 1 FROM outbox_ledger WHERE relay = ?1 AND source = ?2)"
        );
        let mut link = self.link.lock().await;
        let mut connected = link.checkout(LOOK).await?;
        let query = sqlx::query_as(AssertSqlSafe(sql));
        let query = query.bind(&self.relay).bind(&self.name).bind(&self.owner);
        let standing = limited(LOOK, query.fetch_one(&mut connected.connection)).await?;
        link.give_back(connected);
        Ok(standing)
    }

    /// On a connection of its own: a lease is renewed meanwhile. `None`: there is no such table any more.
    pub(super) async fn look_up_marked(&self) -> Result<Option<Marked>, SourceError> {
        let sql = format!(
            "SELECT incarnation, coalesce({}, {} + 1) AS below FROM outbox_incarnation WHERE table_name = ?",
            self.oldest_unmarked_sql(""),
            last_value_sql(&self.names),
        );
        tracing::info!(
            source = self.name,
            "the table is gone through for where a new ledger starts"
        );
        let mut link = Link::new(&self.path);
        let mut connected = link.checkout(LOOK_UP).await?;
        let file = connected.file.number();
        let query = sqlx::query(AssertSqlSafe(sql)).bind(&self.names.plain);
        let marked = limited_to(LIMIT, LOOK_UP, async {
            let row = query.fetch_optional(&mut connected.connection).await?;
            let marked = row.map(|row| {
                Ok(Marked {
                    below: row.try_get("below")?,
                    incarnation: row.try_get("incarnation")?,
                    file,
                })
            });
            marked.transpose()
        })
        .await?;
        link.give_back(connected);
        link.close().await;
        Ok(marked)
    }

    /// What a new ledger counts as delivered: everything below its first event, for nothing comes late here. `marked`
    /// is of this table.
    pub(super) async fn delivered_at_start(
        &self,
        connection: &mut SqliteConnection,
        start: Start,
        table: &Table,
        marked: Option<&Marked>,
    ) -> Result<RangeSet, sqlx::Error> {
        let first = match start {
            Start::Earliest => 1,
            Start::Latest => table.last_value + 1,
            Start::Unsettled => {
                let sql = format!("SELECT {}", self.oldest_unmarked_sql("AND seq >= ?"));
                let oldest = sqlx::query_scalar::<_, Option<i64>>(AssertSqlSafe(sql));
                let oldest = oldest.bind(marked.map_or(i64::MIN, |marked| marked.below));
                let oldest = oldest.fetch_one(connection).await?;
                oldest.unwrap_or(table.last_value + 1)
            }
        };
        Ok(std::iter::once((1, first)).collect())
    }

    /// By the primary key, from the lowest row on.
    fn oldest_unmarked_sql(&self, further: &str) -> String {
        format!(
            "(SELECT seq FROM {} WHERE sent_at IS NULL {further} ORDER BY seq LIMIT 1)",
            self.names.table
        )
    }
}
