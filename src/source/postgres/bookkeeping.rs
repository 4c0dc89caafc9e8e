//! What commands do to ledgers.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Executor as _, Row as _};
use uuid::Uuid;

use super::homes::{
    VOID, folded_sql, highest_sql, last_value_sql, ledgers_sql, lock_acquisitions_sql,
    same_sequence_sql, same_table_sql, stale_sql,
};
use super::starts::Starts;
use super::{INCARNATION, Postgres, sql};
use crate::config::Start;
use crate::ledger::RangeSet;
use crate::source::SourceError;
use crate::source::bookkeeping::{Bookkeeping, LedgerEntry, LedgerName};

const LIST: &str = "cannot list the ledgers";
const DROP: &str = "cannot drop the ledger";
const RENAME: &str = "cannot rename the ledger";
const RESET: &str = "cannot reset the ledgers";

/// The condition that selects a ledger by the first three parameters.
const BY_NAME: &str = "(relay, source, sink) = ($1, $2, $3)";

impl Postgres {
    /// Runs statements about one ledger in one transaction; the first says whether it is there, the others follow
    /// only if it is. Names are bound, for they may be what another relay has stored.
    async fn change(
        &self,
        action: &'static str,
        ledger: &LedgerName,
        statements: &[String],
        further: &[&str],
    ) -> Result<bool, SourceError> {
        let work = async |connection: &mut PgConnection| {
            let mut there = false;
            for (index, statement) in statements.iter().enumerate() {
                let query = sqlx::query(AssertSqlSafe(statement.clone())).persistent(false);
                let query = query.bind(&ledger.relay).bind(&ledger.source);
                let query = further
                    .iter()
                    .fold(query.bind(&ledger.sink), |q, p| q.bind(*p));
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
        connection: &mut PgConnection,
        start: Start,
        starts: &Starts,
    ) -> Result<Vec<(String, RangeSet)>, sqlx::Error> {
        // No acquisition may read half of it, and nothing may be settled by what is void.
        let lock = lock_acquisitions_sql(&self.names);
        connection.execute(AssertSqlSafe(lock)).await?;
        let sql = format!(
            "SELECT {INCARNATION} AS incarnation, pg_relation_filenode({sequence})::int8 AS filenode, \
             {last_value} AS last_value",
            sequence = self.names.sequence(),
            last_value = last_value_sql(&self.names),
        );
        let query = sqlx::raw_sql(AssertSqlSafe(sql));
        let now = query.fetch_one(&mut *connection).await?;
        let delivered = starts.delivered(
            start,
            now.try_get("incarnation")?,
            now.try_get("filenode")?,
            now.try_get("last_value")?,
        );
        let delivered = match delivered {
            Some(looked_up) => format!("'{looked_up}'::int8multirange"),
            None => self.delivered_at_start(start),
        };
        let sql = self.reset_sql(start, &delivered);
        let query = sqlx::query(AssertSqlSafe(sql)).persistent(false);
        let query = query.bind(&self.relay).bind(&self.name);
        let rows = query
            .bind(Uuid::new_v4())
            .fetch_all(&mut *connection)
            .await?;
        let started = |row: &PgRow| Ok((row.try_get("sink")?, sql::ranges(row, "delivered")?));
        rows.iter().map(started).collect()
    }

    fn reset_sql(&self, start: Start, delivered: &str) -> String {
        // What starts at the oldest row without sent_at has nothing but marked rows below it.
        let marked = if start == Start::Unsettled && self.names.columns.sent_at.is_some() {
            folded_sql("start.delivered")
        } else {
            "'{}'".to_owned()
        };
        // Numbers are drawn a second time: that is what a reset is for, as far as anybody can tell, unless somebody
        // else has found out before and made all ledgers void. What others have recorded is worth no more then.
        // Whoever read before must find another source, or would take what starts anew here as set back, too.
        format!(
            "WITH start AS MATERIALIZED (SELECT ({delivered}) AS delivered), \
             known AS MATERIALIZED (SELECT coalesce({last_value} < {highest}, false) OR EXISTS \
             (SELECT FROM {schema}outbox_source AS home WHERE (relay, source) = ($1, $2) \
             AND {same_table} AND {same_sequence}) AS anew), \
             voided AS (UPDATE {schema}outbox_source AS home SET sequence_filenode = {VOID} FROM known \
             WHERE known.anew AND {same_table} AND {same_sequence} AND (relay, source) <> ($1, $2) \
             RETURNING home.relay, home.source), \
             fenced AS (UPDATE {schema}outbox_ledger AS theirs SET token = gen_random_uuid() FROM voided \
             WHERE (theirs.relay, theirs.source) = (voided.relay, voided.source)), \
             forgotten AS (UPDATE {schema}outbox_incarnation AS mark SET token = gen_random_uuid() \
             WHERE (relay, source) = ($1, $2) OR (relay, source) IN (SELECT home.relay, home.source \
             FROM {schema}outbox_source AS home, known WHERE {same_table} AND (known.anew OR NOT {same_sequence}))), \
             own AS (UPDATE {schema}outbox_source SET table_name = {qualified}, table_oid = {oid}, \
             sequence_filenode = pg_relation_filenode({sequence}), deleted = '{{}}', \
             marked = {marked} FROM start WHERE (relay, source) = ($1, $2)) \
             UPDATE {schema}outbox_ledger AS ledger SET delivered = start.delivered, closed = '{{}}', \
             token = $3, updated_at = now() FROM start WHERE (relay, source) = ($1, $2) \
             RETURNING sink, ledger.delivered::text AS delivered",
            last_value = last_value_sql(&self.names),
            highest = highest_sql(&self.names),
            same_table = same_table_sql(&self.names),
            same_sequence = same_sequence_sql(&self.names),
            schema = self.names.schema,
            qualified = self.names.qualified(),
            oid = self.names.oid(),
            sequence = self.names.sequence(),
        )
    }
}

#[async_trait]
impl Bookkeeping for Postgres {
    async fn list(&self) -> Result<Vec<LedgerEntry>, SourceError> {
        self.inspected().await?;
        let ledgers = ledgers_sql(&self.names);
        let sql = format!(
            "SELECT entry.*, lease.owner, coalesce(lease.token <> entry.token, false) AS changed FROM \
             (SELECT relay, source, ledger.sink, ledger.token, ledger.delivered::text AS delivered, \
             (extract(epoch FROM ledger.updated_at) * 1000000)::int8 AS updated_at, \
             {stale} AS stale \
             FROM {ledgers}) AS entry \
             LEFT JOIN {schema}outbox_lease AS lease ON (lease.relay, lease.source) = (entry.relay, entry.source) \
             AND lease.expires_at > clock_timestamp() ORDER BY entry.relay, entry.source, entry.sink",
            stale = stale_sql(&self.names),
            schema = self.names.schema,
        );
        let mut entries = Vec::new();
        let mut link = self.link.lock().await;
        link.query(LIST, sql, |row| {
            entries.push(entry(&row)?);
            Ok(())
        })
        .await?;
        Ok(entries)
    }

    async fn drop_ledger(&self, ledger: &LedgerName) -> Result<bool, SourceError> {
        let schema = &self.names.schema;
        let delete = format!("DELETE FROM {schema}outbox_ledger WHERE {BY_NAME}");
        self.change(DROP, ledger, &[delete], &[]).await
    }

    async fn rename(&self, ledger: &LedgerName, to: &str) -> Result<bool, SourceError> {
        let schema = &self.names.schema;
        let statements = [
            format!(
                "UPDATE {schema}outbox_ledger SET sink = $4, token = gen_random_uuid() WHERE {BY_NAME}"
            ),
            format!("UPDATE {schema}outbox_dead_letter SET sink = $4 WHERE {BY_NAME}"),
        ];
        self.change(RENAME, ledger, &statements, &[to]).await
    }

    async fn reset(&self, start: Start) -> Result<Vec<(String, RangeSet)>, SourceError> {
        // Inspected anew: the table may be another by now.
        self.inspect_now().await?;
        // Before anything is locked: the table may be large.
        let starts = self.look_up(&[start]).await?;
        let work = async |on: &mut PgConnection| self.reset_in(on, start, &starts).await;
        self.in_transaction(RESET, work, |_| true).await
    }
}

fn entry(row: &PgRow) -> Result<LedgerEntry, sqlx::Error> {
    let micros: i64 = row.try_get("updated_at")?;
    Ok(LedgerEntry {
        name: LedgerName {
            relay: row.try_get("relay")?,
            source: row.try_get("source")?,
            sink: row.try_get("sink")?,
        },
        delivered: sql::ranges(row, "delivered")?,
        updated_at: DateTime::<Utc>::from_timestamp_micros(micros).unwrap_or_default(),
        holder: row.try_get("owner")?,
        changed: row.try_get("changed")?,
        stale: row.try_get("stale")?,
    })
}
