//! The outbox table as it is now, and whether a ledger speaks of it.

use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Row as _};

use super::sql::Names;
use crate::ledger::RangeSet;

/// The outbox table as it is now.
#[derive(Debug)]
pub(super) struct Table {
    pub(super) incarnation: String,
    /// The highest `seq` that was drawn: the next one is above it.
    pub(super) last_value: i64,
}

impl Table {
    /// Looks at the table; `None` if it has no incarnation.
    pub(super) async fn now(
        connection: &mut SqliteConnection,
        names: &Names,
    ) -> Result<Option<Self>, sqlx::Error> {
        let sql = format!(
            "SELECT incarnation, {last_value} AS last_value FROM outbox_incarnation WHERE table_name = ?",
            last_value = last_value_sql(names),
        );
        let row = sqlx::query(AssertSqlSafe(sql)).bind(&names.plain);
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

/// The highest `seq` that was drawn. `AUTOINCREMENT` goes on behind the highest row, too, if somebody has emptied
/// `sqlite_sequence`.
pub(super) fn last_value_sql(names: &Names) -> String {
    format!(
        "max(coalesce((SELECT seq FROM sqlite_sequence WHERE name = {name} COLLATE NOCASE), 0), \
         coalesce((SELECT max(seq) FROM {table}), 0))",
        name = super::sql::literal(&names.plain),
        table = names.table,
    )
}
