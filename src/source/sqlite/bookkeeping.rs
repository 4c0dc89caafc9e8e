//! What commands do to ledgers.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Executor as _, Row as _};
use uuid::Uuid;

use super::link::{Connected, limited};
use super::migrate;
use super::sql::{NOW_MILLIS, ranges};
use super::starts::Marked;
use super::table::Table;
use super::{Source as _, Sqlite};
use crate::config::Start;
use crate::ledger::RangeSet;
use crate::source::SourceError;
use crate::source::bookkeeping::{Bookkeeping, LedgerEntry, LedgerName};

const LIST: &str = "cannot list the ledgers";
const DROP: &str = "cannot drop the ledger";
const RENAME: &str = "cannot rename the ledger";
const RESET: &str = "cannot reset the ledgers";

/// A row of the query by [`Sqlite::entries`]. `incarnation` is what tells a stale ledger.
fn entry(row: &SqliteRow, table: &Table) -> Result<LedgerEntry, sqlx::Error> {
    let delivered = ranges(row, "delivered")?;
    let millis: Option<i64> = row.try_get("updated_millis")?;
    Ok(LedgerEntry {
        name: LedgerName {
            relay: row.try_get("relay")?,
            source: row.try_get("source")?,
            sink: row.try_get("sink")?,
        },
        stale: !table.is_meant(row.try_get("incarnation")?, &delivered),
        delivered,
        updated_at: millis
            .and_then(DateTime::<Utc>::from_timestamp_millis)
            .unwrap_or_default(),
        holder: row.try_get("owner")?,
        changed: row.try_get("changed")?,
    })
}

impl Sqlite {
    async fn entries(
        &self,
        connection: &mut SqliteConnection,
    ) -> Result<Vec<LedgerEntry>, sqlx::Error> {
        let table = Table::now(connection, &self.names).await?;
        let table = table.ok_or(sqlx::Error::RowNotFound)?;
        let sql = format!(
            "SELECT ledger.relay, ledger.source, ledger.sink, ledger.delivered, home.incarnation, lease.owner, \
             CAST(round(unixepoch(ledger.updated_at, 'subsec') * 1000) AS INTEGER) AS updated_millis, \
             coalesce(lease.token <> ledger.token, 0) AS changed \
             FROM outbox_source AS home JOIN outbox_ledger AS ledger USING (relay, source) \
             LEFT JOIN outbox_lease AS lease ON lease.relay = ledger.relay AND lease.source = ledger.source \
             AND lease.expires_at >= {NOW_MILLIS} \
             WHERE home.table_name = ? ORDER BY ledger.relay, ledger.source, ledger.sink"
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(&self.names.plain);
        let rows = query.fetch_all(connection).await?;
        rows.iter().map(|row| entry(row, &table)).collect()
    }

    /// Runs `statements` about one ledger in one transaction; the first says whether it is there, the others follow
    /// only if it is. Each is given the names of relay, source and sink as ?1 to ?3, and `further` as ?4.
    async fn change(
        &self,
        action: &'static str,
        ledger: &LedgerName,
        statements: &[&'static str],
        further: &str,
    ) -> Result<bool, SourceError> {
        let work = async |connection: &mut SqliteConnection| {
            let mut there = false;
            for (index, statement) in statements.iter().enumerate() {
                let query = sqlx::query(*statement)
                    .bind(&ledger.relay)
                    .bind(&ledger.source);
                let query = query.bind(&ledger.sink).bind(further);
                let done = query.execute(&mut *connection).await?;
                there |= index == 0 && done.rows_affected() > 0;
                if !there {
                    break;
                }
            }
            Ok(there)
        };
        self.in_transaction(action, work, |_| true).await
    }

    async fn reset_in(
        &self,
        connected: &mut Connected,
        start: Start,
        marked: Option<&Marked>,
    ) -> Result<Vec<(String, RangeSet)>, sqlx::Error> {
        let file = connected.file.number();
        let connection = &mut connected.connection;
        connection.execute("BEGIN IMMEDIATE").await?;
        let table = self.told_apart(connection).await?;
        let marked = marked.filter(|marked| marked.is_of(&table, file));
        let delivered = self.delivered_at_start(connection, start, &table, marked);
        let delivered = delivered.await?;
        // What starts at the oldest row without sent_at has nothing but marked rows below it.
        let marked = if start == Start::Unsettled {
            delivered.clone()
        } else {
            RangeSet::new()
        };
        let sql = "UPDATE outbox_source SET table_name = ?, incarnation = ?, deleted = '{}', marked = ? \
             WHERE relay = ? AND source = ?";
        let query = sqlx::query(sql).bind(&self.names.plain);
        let query = query.bind(&table.incarnation).bind(marked.to_string());
        let query = query.bind(&self.relay).bind(&self.name);
        query.execute(&mut *connection).await?;
        let sql = "UPDATE outbox_lease SET newest_seq = NULL, newest_id = NULL WHERE relay = ? AND source = ?";
        let query = sqlx::query(sql).bind(&self.relay).bind(&self.name);
        query.execute(&mut *connection).await?;
        let sql = "UPDATE outbox_ledger SET delivered = ?, closed = '{}', token = ?, \
             updated_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now') WHERE relay = ? AND source = ? RETURNING sink";
        let query = sqlx::query_scalar(sql).bind(delivered.to_string());
        let query = query.bind(Uuid::new_v4().to_string());
        let query = query.bind(&self.relay).bind(&self.name);
        let mut sinks: Vec<String> = query.fetch_all(&mut *connection).await?;
        connection.execute("COMMIT").await?;
        sinks.sort_unstable();
        let started = sinks.into_iter().map(|sink| (sink, delivered.clone()));
        Ok(started.collect())
    }

    /// The table, by a new incarnation if it counts anew: ledgers of other relays that still speak of what was
    /// drawn before must not be taken for ledgers of this table once it has come as far as they reach.
    async fn told_apart(&self, connection: &mut SqliteConnection) -> Result<Table, sqlx::Error> {
        let mut table = Table::now(connection, &self.names).await?;
        let sql = "SELECT delivered FROM outbox_source AS home JOIN outbox_ledger USING (relay, source) \
             WHERE home.table_name = ? AND home.incarnation = ?";
        if let Some(known) = &table {
            let query = sqlx::query(sql).bind(&self.names.plain);
            let rows = query.bind(&known.incarnation).fetch_all(&mut *connection);
            for row in rows.await? {
                if !known.is_meant(&known.incarnation, &ranges(&row, "delivered")?) {
                    let sql = migrate::incarnation_sql(&self.names);
                    connection.execute(AssertSqlSafe(sql)).await?;
                    table = Table::now(connection, &self.names).await?;
                    break;
                }
            }
        }
        table.ok_or(sqlx::Error::RowNotFound)
    }
}

#[async_trait]
impl Bookkeeping for Sqlite {
    async fn list(&self) -> Result<Vec<LedgerEntry>, SourceError> {
        self.inspect().await?;
        let mut link = self.link.lock().await;
        let mut connected = link.checkout(LIST).await?;
        let connection = &mut connected.connection;
        let entries = limited(LIST, async {
            connection.execute("BEGIN").await?;
            let entries = self.entries(connection).await?;
            connection.execute("COMMIT").await?;
            Ok(entries)
        })
        .await?;
        link.give_back(connected);
        Ok(entries)
    }

    async fn drop_ledger(&self, ledger: &LedgerName) -> Result<bool, SourceError> {
        let delete = "DELETE FROM outbox_ledger WHERE relay = ?1 AND source = ?2 AND sink = ?3";
        self.change(DROP, ledger, &[delete], "").await
    }

    async fn rename(&self, ledger: &LedgerName, to: &str) -> Result<bool, SourceError> {
        let statements = [
            "UPDATE outbox_ledger SET sink = ?4, token = lower(hex(randomblob(16))) \
             WHERE relay = ?1 AND source = ?2 AND sink = ?3",
            "UPDATE outbox_dead_letter SET sink = ?4 WHERE relay = ?1 AND source = ?2 AND sink = ?3",
        ];
        self.change(RENAME, ledger, &statements, to).await
    }

    async fn reset(&self, start: Start) -> Result<Vec<(String, RangeSet)>, SourceError> {
        // Inspected anew: the table may be another by now.
        self.inspect().await?;
        let marked = match start {
            Start::Unsettled => self.look_up_marked().await?,
            Start::Earliest | Start::Latest => None,
        };
        let mut link = self.link.lock().await;
        let mut connected = link.checkout(RESET).await?;
        let reset = self.reset_in(&mut connected, start, marked.as_ref());
        let ledgers = limited(RESET, reset).await?;
        link.give_back(connected);
        Ok(ledgers)
    }
}
