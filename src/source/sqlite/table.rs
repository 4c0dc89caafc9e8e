//! The outbox table as it is now, and whether a ledger speaks of it.

use sqlx::Row as _;
use sqlx::sqlite::SqliteConnection;

use super::sql::Names;
use crate::ledger::RangeSet;

/// The outbox table as it is now.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) incarnation: String,
    /// The highest `seq` that was drawn.
    pub(super) last_value: i64,
}

impl Table {
    /// Looks at the table; `None` if it has no incarnation.
    pub(super) async fn now(
        connection: &mut SqliteConnection,
        names: &Names,
    ) -> Result<Option<Self>, sqlx::Error> {
        let sql = "SELECT incarnation, coalesce((SELECT seq FROM sqlite_sequence \
             WHERE name = ?1 COLLATE NOCASE), 0) AS last_value \
             FROM outbox_incarnation WHERE table_name = ?1";
        let row = sqlx::query(sql).bind(&names.plain);
        let row = row.fetch_optional(connection).await?;
        row.map(|row| {
            Ok(Self {
                incarnation: row.try_get("incarnation")?,
                last_value: row.try_get("last_value")?,
            })
        })
        .transpose()
    }

    /// Whether a ledger that was written of `incarnation` and has `delivered` can be one of this table: what it
    /// has was drawn. Of any other, new events could count as delivered.
    pub(super) fn is_meant(&self, incarnation: &str, delivered: &RangeSet) -> bool {
        incarnation == self.incarnation
            && delivered.end().is_none_or(|end| end - 1 <= self.last_value)
    }
}
