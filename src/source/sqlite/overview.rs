//! What the tables say of a source, for `outbox-relay status` and for metrics: reads only, on a connection that is
//! made for it, so that the lease never waits behind a count.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Executor as _, Row as _};

use super::Sqlite;
use super::link::{Link, limited};
use super::sql::{NOW_MILLIS, ranges};
use super::table::Table;
use crate::ledger::RangeSet;
use crate::source::SourceError;
use crate::source::overview::{
    LeaseHolder, LedgerOverview, MAX_COUNTED, OldestPending, Overview, Ownership,
};

const LOOK: &str = "cannot look at the tables";
const COUNT: &str = "cannot count the dead letters";

impl Sqlite {
    pub(super) async fn look(&self) -> Result<Overview, SourceError> {
        let mut link = Link::new(&self.path);
        let mut connected = link.checkout(LOOK).await?;
        let connection = &mut connected.connection;
        let overview = limited(LOOK, async {
            // One snapshot for everything; writers go on meanwhile.
            connection.execute("BEGIN").await?;
            let overview = self.look_in(connection).await?;
            connection.execute("COMMIT").await?;
            Ok(overview)
        })
        .await?;
        link.give_back(connected);
        link.close().await;
        Ok(overview)
    }

    pub(super) async fn look_at_owners(&self) -> Result<Ownership, SourceError> {
        let mut link = Link::new(&self.path);
        let mut connected = link.checkout(LOOK).await?;
        let sql = format!(
            "SELECT {NOW_MILLIS} AS now, lease.owner, lease.expires_at FROM (SELECT 1) \
             LEFT JOIN outbox_lease AS lease ON lease.relay = ?1 AND lease.source = ?2"
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(&self.relay);
        let query = query.bind(&self.name).fetch_one(&mut connected.connection);
        let row = limited(LOOK, query).await?;
        link.give_back(connected);
        link.close().await;
        let owned = || -> Result<Ownership, sqlx::Error> {
            Ok(Ownership {
                at: time(&row, "now")?.unwrap_or_default(),
                lease: lease(&row)?,
                open: Vec::new(),
            })
        };
        owned().map_err(|error| SourceError::Database {
            action: LOOK,
            source: error.into(),
        })
    }

    pub(super) async fn count_dead_letters(&self) -> Result<BTreeMap<String, u64>, SourceError> {
        let mut link = Link::new(&self.path);
        let mut connected = link.checkout(COUNT).await?;
        let counts = limited(COUNT, self.letters(&mut connected.connection)).await?;
        link.give_back(connected);
        link.close().await;
        Ok(counts)
    }

    pub(super) async fn find_sinks(&self) -> Result<Vec<String>, SourceError> {
        let mut link = Link::new(&self.path);
        let mut connected = link.checkout(LOOK).await?;
        let sql = "SELECT sink FROM outbox_ledger WHERE relay = ? AND source = ?";
        let query = sqlx::query_scalar(sql).bind(&self.relay).bind(&self.name);
        let sinks = limited(LOOK, query.fetch_all(&mut connected.connection)).await?;
        link.give_back(connected);
        link.close().await;
        Ok(sinks)
    }

    async fn look_in(&self, connection: &mut SqliteConnection) -> Result<Overview, sqlx::Error> {
        let table = Table::now(connection, &self.names).await?;
        let table = table.ok_or(sqlx::Error::RowNotFound)?;
        let sql = format!(
            "SELECT {NOW_MILLIS} AS now, lease.owner, lease.expires_at, home.incarnation FROM (SELECT 1) \
             LEFT JOIN outbox_source AS home ON home.relay = ?1 AND home.source = ?2 \
             LEFT JOIN outbox_lease AS lease ON lease.relay = ?1 AND lease.source = ?2"
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(&self.relay);
        let home = query.bind(&self.name).fetch_one(&mut *connection).await?;
        let known: Option<String> = home.try_get("incarnation")?;
        let mut ledgers = Vec::new();
        for row in self.ledgers(connection).await? {
            ledgers.push(self.ledger(connection, &row).await?);
        }
        let is_meant = |ledger: &LedgerOverview| {
            let known = known.as_deref().unwrap_or(&table.incarnation);
            table.is_meant(known, &ledger.delivered)
        };
        Ok(Overview {
            at: time(&home, "now")?.unwrap_or_default(),
            table: self.names.plain.clone(),
            last_value: table.last_value,
            sequence_changed: !ledgers.iter().all(is_meant),
            lease: lease(&home)?,
            // One writer at a time: no transaction draws a `seq` and shows later than the next.
            open: Vec::new(),
            ledgers,
            dead_letters: self.letters(connection).await?,
        })
    }

    async fn ledgers(
        &self,
        connection: &mut SqliteConnection,
    ) -> Result<Vec<SqliteRow>, sqlx::Error> {
        let sql = "SELECT sink, delivered, CAST(round(unixepoch(updated_at, 'subsec') * 1000) AS INTEGER) AS stored \
             FROM outbox_ledger WHERE relay = ? AND source = ? ORDER BY sink";
        let query = sqlx::query(sql).bind(&self.relay).bind(&self.name);
        query.fetch_all(connection).await
    }

    /// A ledger with what it lacks: every gap of it, of which there are a thousand as a rule, is an index scan of
    /// its own on the primary key.
    async fn ledger(
        &self,
        connection: &mut SqliteConnection,
        row: &SqliteRow,
    ) -> Result<LedgerOverview, sqlx::Error> {
        let delivered = ranges(row, "delivered")?;
        let mut pending = 0;
        let mut oldest = None;
        for (first, end) in gaps(&delivered) {
            if oldest.is_none() {
                oldest = self.oldest_in(connection, first, end).await?;
            }
            // One more than is counted tells whether there are more.
            let limit = (MAX_COUNTED + 1).saturating_sub(pending);
            pending += self.count_in(connection, (first, end), limit).await?;
            if pending > MAX_COUNTED {
                break;
            }
        }
        Ok(LedgerOverview {
            sink: row.try_get("sink")?,
            delivered,
            stored_at: time(row, "stored")?.unwrap_or_default(),
            pending: pending.min(MAX_COUNTED),
            uncounted: pending > MAX_COUNTED,
            oldest,
        })
    }

    async fn count_in(
        &self,
        connection: &mut SqliteConnection,
        (first, end): (i64, i64),
        limit: u64,
    ) -> Result<u64, sqlx::Error> {
        let sql = format!(
            "SELECT count(*) FROM (SELECT 1 FROM {} WHERE seq >= ? AND seq < ? LIMIT ?)",
            self.names.table
        );
        let query = sqlx::query_scalar::<_, i64>(AssertSqlSafe(sql));
        let query = query.bind(first).bind(end);
        let query = query.bind(i64::try_from(limit).unwrap_or(i64::MAX));
        Ok(query.fetch_one(connection).await?.unsigned_abs())
    }

    async fn oldest_in(
        &self,
        connection: &mut SqliteConnection,
        first: i64,
        end: i64,
    ) -> Result<Option<OldestPending>, sqlx::Error> {
        let sql = format!(
            "SELECT seq, CAST(round(unixepoch(created_at, 'subsec') * 1000) AS INTEGER) AS created \
             FROM {} WHERE seq >= ? AND seq < ? ORDER BY seq LIMIT 1",
            self.names.table
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(first).bind(end);
        let row = query.fetch_optional(connection).await?;
        row.map(|row| {
            Ok(OldestPending {
                seq: row.try_get("seq")?,
                created_at: time(&row, "created")?,
            })
        })
        .transpose()
    }

    /// By the index of the unique key, whose first columns are these.
    async fn letters(
        &self,
        connection: &mut SqliteConnection,
    ) -> Result<BTreeMap<String, u64>, sqlx::Error> {
        let sql = "SELECT sink, count(*) AS letters FROM outbox_dead_letter \
                   WHERE relay = ? AND source = ? GROUP BY sink";
        let query = sqlx::query(sql).bind(&self.relay).bind(&self.name);
        let mut counts = BTreeMap::new();
        for row in query.fetch_all(connection).await? {
            let letters: i64 = row.try_get("letters")?;
            counts.insert(row.try_get("sink")?, letters.unsigned_abs());
        }
        Ok(counts)
    }
}

/// What a ledger lacks, from the lowest `seq` up.
fn gaps(delivered: &RangeSet) -> Vec<(i64, i64)> {
    let mut gaps: Vec<_> = delivered.gaps_from(1).iter().collect();
    gaps.push((delivered.end().unwrap_or(1), i64::MAX));
    gaps
}

/// Who has the lease, or had it last; one that was given up has ended at the beginning of time.
fn lease(home: &SqliteRow) -> Result<Option<LeaseHolder>, sqlx::Error> {
    let owner: Option<String> = home.try_get("owner")?;
    let expires_at = time(home, "expires_at")?.filter(|end| *end > DateTime::UNIX_EPOCH);
    Ok(owner.map(|owner| LeaseHolder { owner, expires_at }))
}

/// A time as milliseconds of Unix time.
fn time(row: &SqliteRow, column: &str) -> Result<Option<DateTime<Utc>>, sqlx::Error> {
    let millis: Option<i64> = row.try_get(column)?;
    Ok(millis.and_then(DateTime::from_timestamp_millis))
}
