//! What may be settled, by all ledgers of the table, and what was.

use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Row as _};

use super::dead_letters::held;
use super::sql::{Names, ranges};
use super::table::Table;
use crate::ledger::{MAX_STORED_RANGES, RangeSet};
use crate::source::LeaseId;
use crate::source::settling::Progress;

/// The column of `outbox_source` that remembers what was settled, so that who takes over need not look at it again.
#[derive(Debug, Clone, Copy)]
pub(super) enum Record {
    Marked,
    Deleted,
}

/// How far settling has come; `None`: the table is no longer that of the lease.
pub(super) async fn progress(
    connection: &mut SqliteConnection,
    names: &Names,
    lease: &LeaseId,
) -> Result<Option<Progress>, sqlx::Error> {
    let table = Table::now(connection, names).await?;
    let Some(table) = table.filter(|table| table.incarnation == lease.incarnation) else {
        return Ok(None);
    };
    let everywhere = everywhere(connection, names, &table).await?;
    let mut deletable = everywhere.clone();
    deletable.subtract(&held(connection, names).await?);
    let mut progress = Progress {
        everywhere,
        deletable,
        ..Progress::default()
    };
    let recorded =
        "SELECT marked, deleted FROM outbox_source WHERE table_name = ? AND incarnation = ?";
    let recorded = sqlx::query(recorded).bind(&names.plain);
    let recorded = recorded.bind(&table.incarnation);
    for row in recorded.fetch_all(connection).await? {
        progress.marked.extend(&ranges(&row, "marked")?);
        progress.deleted.extend(&ranges(&row, "deleted")?);
    }
    Ok(Some(progress))
}

impl Record {
    /// Adds `ranges` to what the row of this relay and source remembers, as far as there is room.
    pub(super) async fn add(
        self,
        connection: &mut SqliteConnection,
        (relay, source): (&str, &str),
        added: &RangeSet,
    ) -> Result<(), sqlx::Error> {
        let column = match self {
            Self::Marked => "marked",
            Self::Deleted => "deleted",
        };
        let sql = format!("SELECT {column} FROM outbox_source WHERE relay = ? AND source = ?");
        let query = sqlx::query(AssertSqlSafe(sql)).bind(relay).bind(source);
        let row = query.fetch_one(&mut *connection).await?;
        let mut recorded = ranges(&row, column)?;
        recorded.extend(added);
        let sql = format!("UPDATE outbox_source SET {column} = ? WHERE relay = ? AND source = ?");
        let query = sqlx::query(AssertSqlSafe(sql)).bind(recorded.stored(MAX_STORED_RANGES).text);
        query.bind(relay).bind(source).execute(connection).await?;
        Ok(())
    }
}

/// What every ledger of the table has; nothing if there is no ledger.
async fn everywhere(
    connection: &mut SqliteConnection,
    names: &Names,
    table: &Table,
) -> Result<RangeSet, sqlx::Error> {
    let sql = "SELECT home.incarnation, delivered, closed FROM outbox_source AS home \
         JOIN outbox_ledger USING (relay, source) WHERE home.table_name = ?";
    let ledgers = sqlx::query(sql).bind(&names.plain);
    let mut everywhere: Option<RangeSet> = None;
    for row in ledgers.fetch_all(connection).await? {
        let has = settled_by(&row, table)?;
        everywhere = Some(match everywhere {
            Some(mut common) => {
                let mut lacking = common.clone();
                lacking.subtract(&has);
                common.subtract(&lacking);
                common
            }
            None => has,
        });
    }
    Ok(everywhere.unwrap_or_default())
}

/// What one ledger lets go of.
fn settled_by(row: &SqliteRow, table: &Table) -> Result<RangeSet, sqlx::Error> {
    let mut delivered = ranges(row, "delivered")?;
    if !table.is_meant(row.try_get("incarnation")?, &delivered) {
        return Ok(RangeSet::new());
    }
    delivered.subtract(&ranges(row, "closed")?);
    Ok(delivered)
}
