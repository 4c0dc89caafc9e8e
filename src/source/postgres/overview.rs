//! What the tables say of a source, for `outbox-relay status` and for metrics: reads only, on a connection that is
//! made for it, so that the lease never waits behind a count.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::Postgres;
use super::holders::open_sql;
use super::homes::{ledgers_sql, stale_sql};
use super::link::Link;
use super::sql::{self, micros};
use crate::ledger::RangeSet;
use crate::source::SourceError;
use crate::source::bookkeeping::{Abandoned, LedgerName};
use crate::source::overview::{
    LeaseHolder, LedgerOverview, MAX_COUNTED, OldestPending, OpenTransaction, Overview, Ownership,
};

const LOOK: &str = "cannot look at the tables";
const COUNT: &str = "cannot count the dead letters";

/// As many ledgers that no relay keeps are named at a time.
const MAX_ABANDONED: usize = 100;

impl Postgres {
    pub(super) async fn look(&self) -> Result<Overview, SourceError> {
        let mut link = Link::new(self.options.clone());
        let mut overview = None;
        link.query(LOOK, self.home_sql(), |row| {
            overview = Some(home(&row)?);
            Ok(())
        })
        .await?;
        let mut overview = overview.ok_or_else(|| SourceError::Database {
            action: LOOK,
            source: "the server sent no row".into(),
        })?;
        let ledgers = &mut overview.ledgers;
        link.query(LOOK, self.ledgers_sql(), |row| {
            ledgers.push(ledger(&row)?);
            Ok(())
        })
        .await?;
        overview.dead_letters = self.letters(&mut link).await?;
        overview.open = self.open_transactions(&mut link).await?;
        link.close().await;
        Ok(overview)
    }

    pub(super) async fn look_at_owners(&self) -> Result<Ownership, SourceError> {
        let mut link = Link::new(self.options.clone());
        let sql = format!(
            "SELECT {now} AS now, lease.owner, {expires_at} AS expires_at FROM (VALUES (1)) AS one \
             LEFT JOIN (SELECT * FROM {schema}outbox_lease WHERE {key} AND owner <> '') AS lease ON true",
            now = micros("clock_timestamp()"),
            expires_at = micros("lease.expires_at"),
            schema = self.names.schema,
            key = self.key_sql(),
        );
        let mut owned = Ownership {
            at: DateTime::default(),
            lease: None,
            open: Vec::new(),
        };
        link.query(LOOK, sql, |row| {
            owned.at = time(&row, "now")?.unwrap_or_default();
            owned.lease = lease(&row)?;
            Ok(())
        })
        .await?;
        owned.open = self.open_transactions(&mut link).await?;
        link.close().await;
        Ok(owned)
    }

    async fn open_transactions(
        &self,
        link: &mut Link,
    ) -> Result<Vec<OpenTransaction>, SourceError> {
        let mut open = Vec::new();
        link.query(LOOK, open_sql(&self.names), |row| {
            open.push(OpenTransaction {
                pid: row.try_get("pid")?,
                prepared: row.try_get("gid")?,
                user: row.try_get("user_name")?,
                application: row.try_get("application")?,
                began_at: time(&row, "began_at")?,
            });
            Ok(())
        })
        .await?;
        Ok(open)
    }

    pub(super) async fn count_dead_letters(&self) -> Result<BTreeMap<String, u64>, SourceError> {
        let mut link = Link::new(self.options.clone());
        let counts = self.letters(&mut link).await?;
        link.close().await;
        Ok(counts)
    }

    pub(super) async fn find_abandoned(&self) -> Result<Vec<Abandoned>, SourceError> {
        let sql = format!(
            "SELECT relay, source, ledger.sink, {stale} AS halted FROM {ledgers} AND NOT ({key}) AND NOT EXISTS \
             (SELECT FROM {schema}outbox_lease AS lease WHERE (lease.relay, lease.source) = (home.relay, home.source) \
             AND lease.expires_at > clock_timestamp()) ORDER BY relay, source, ledger.sink LIMIT {MAX_ABANDONED}",
            stale = stale_sql(&self.names),
            ledgers = ledgers_sql(&self.names),
            key = self.key_sql(),
            schema = self.names.schema,
        );
        let mut link = Link::new(self.options.clone());
        let mut abandoned = Vec::new();
        link.query(LOOK, sql, |row| {
            abandoned.push(Abandoned {
                name: LedgerName {
                    relay: row.try_get("relay")?,
                    source: row.try_get("source")?,
                    sink: row.try_get("sink")?,
                },
                halted: row.try_get("halted")?,
            });
            Ok(())
        })
        .await?;
        link.close().await;
        Ok(abandoned)
    }

    /// By the primary key, whose first columns are these.
    pub(super) async fn find_sinks(&self) -> Result<Vec<String>, SourceError> {
        let sql = format!(
            "SELECT sink FROM {}outbox_ledger WHERE {}",
            self.names.schema,
            self.key_sql()
        );
        let mut link = Link::new(self.options.clone());
        let mut sinks = Vec::new();
        link.query(LOOK, sql, |row| {
            sinks.push(row.try_get("sink")?);
            Ok(())
        })
        .await?;
        link.close().await;
        Ok(sinks)
    }

    /// By the index of the unique key, whose first columns are these.
    async fn letters(&self, link: &mut Link) -> Result<BTreeMap<String, u64>, SourceError> {
        let sql = format!(
            "SELECT sink, count(*) AS letters FROM {}outbox_dead_letter WHERE {} GROUP BY sink",
            self.names.schema,
            self.key_sql()
        );
        let mut counts = BTreeMap::new();
        link.query(COUNT, sql, |row| {
            counts.insert(row.try_get("sink")?, unsigned(row.try_get("letters")?));
            Ok(())
        })
        .await?;
        Ok(counts)
    }

    /// The sequence and the lease, one row each by their keys.
    fn home_sql(&self) -> String {
        format!(
            "SELECT {now} AS now, to_regclass({table})::text AS table_name, own.last_value, \
             home.sequence_filenode::int8 <> own.filenode AS changed, lease.owner, {expires_at} AS expires_at \
             FROM (SELECT {last_value} AS last_value, \
             pg_relation_filenode(sequence)::int8 AS filenode \
             FROM (SELECT {sequence} AS sequence OFFSET 0) AS named OFFSET 0) AS own \
             LEFT JOIN (SELECT * FROM {schema}outbox_source WHERE {key}) AS home ON true \
             LEFT JOIN (SELECT * FROM {schema}outbox_lease WHERE {key} AND owner <> '') AS lease ON true",
            now = micros("clock_timestamp()"),
            table = self.names.table_literal(),
            last_value = sql::last_value("sequence"),
            expires_at = micros("lease.expires_at"),
            sequence = self.names.sequence(),
            schema = self.names.schema,
            key = self.key_sql(),
        )
    }

    /// Each ledger with what it lacks: every gap of the ledger, of which there are a thousand at most, is an index
    /// scan of its own on the primary key.
    fn ledgers_sql(&self) -> String {
        let created_at = sql::quoted(&self.columns.created_at);
        format!(
            "SELECT ledger.sink, ledger.delivered::text AS delivered, {stored_at} AS stored_at, \
             counted.events, oldest.seq, {created_at} AS created_at \
             FROM {schema}outbox_ledger AS ledger \
             CROSS JOIN LATERAL (SELECT count(*) AS events FROM (SELECT FROM {gaps} CROSS JOIN LATERAL \
             ({counted}) AS event LIMIT {limit}) AS pending) AS counted \
             LEFT JOIN LATERAL (SELECT event.* FROM {gaps} CROSS JOIN LATERAL ({first}) AS event \
             ORDER BY event.seq LIMIT 1) AS oldest ON true \
             WHERE {key} ORDER BY ledger.sink",
            stored_at = micros("ledger.updated_at"),
            created_at = micros("oldest.created_at"),
            schema = self.names.schema,
            gaps = "unnest('{(,)}'::int8multirange - ledger.delivered) AS gap",
            counted = self.in_gap_sql("", LIMIT),
            first = self.in_gap_sql(&format!(", {created_at} AS created_at"), 1),
            limit = LIMIT,
            key = self.key_sql(),
        )
    }

    fn in_gap_sql(&self, further: &str, limit: u64) -> String {
        let (table, seq) = (&self.names.table, &self.names.columns.seq);
        format!(
            "SELECT {seq} AS seq{further} FROM {table} WHERE {seq} >= coalesce(lower(gap), {first}) \
             AND {seq} < coalesce(upper(gap), {end}) ORDER BY {seq} LIMIT {limit}",
            first = i64::MIN + 1,
            end = i64::MAX,
        )
    }
}

/// One more than is counted tells whether there are more.
const LIMIT: u64 = MAX_COUNTED + 1;

fn home(row: &PgRow) -> Result<Overview, sqlx::Error> {
    Ok(Overview {
        at: time(row, "now")?.unwrap_or_default(),
        table: row.try_get("table_name")?,
        last_value: row.try_get("last_value")?,
        sequence_changed: row.try_get::<Option<bool>, _>("changed")?.unwrap_or(false),
        lease: lease(row)?,
        open: Vec::new(),
        ledgers: Vec::new(),
        dead_letters: BTreeMap::new(),
    })
}

fn lease(row: &PgRow) -> Result<Option<LeaseHolder>, sqlx::Error> {
    let owner: Option<String> = row.try_get("owner")?;
    let expires_at = time(row, "expires_at")?;
    Ok(owner.map(|owner| LeaseHolder { owner, expires_at }))
}

fn ledger(row: &PgRow) -> Result<LedgerOverview, sqlx::Error> {
    let delivered: String = row.try_get("delivered")?;
    let delivered =
        RangeSet::parse(&delivered).map_err(|error| sqlx::Error::Decode(error.into()))?;
    let pending = unsigned(row.try_get("events")?);
    let oldest: Option<i64> = row.try_get("seq")?;
    let created_at = time(row, "created_at")?;
    Ok(LedgerOverview {
        sink: row.try_get("sink")?,
        delivered,
        stored_at: time(row, "stored_at")?.unwrap_or_default(),
        pending: pending.min(MAX_COUNTED),
        uncounted: pending > MAX_COUNTED,
        oldest: oldest.map(|seq| OldestPending { seq, created_at }),
    })
}

fn time(row: &PgRow, column: &str) -> Result<Option<DateTime<Utc>>, sqlx::Error> {
    let micros: Option<i64> = row.try_get(column)?;
    Ok(micros.and_then(DateTime::from_timestamp_micros))
}

/// A count is never negative.
fn unsigned(count: i64) -> u64 {
    count.unsigned_abs()
}
