//! One acquisition, inside its transaction: the lease is claimed, what the ledgers speak of is looked at, missing ledgers
//! are stored, and a fresh token is stamped on all of them.

use std::collections::BTreeSet;

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Row as _};
use tokio::time::Instant;
use uuid::Uuid;

use super::homes::{VOID, folded_sql, highest_sql, last_value_sql, recorded_sql};
use super::starts::{Starts, start_of};
use super::{INCARNATION, Postgres, sql};
use crate::config;
use crate::source::{Grant, LEASE_TTL, LeaseId, SinkStart, StoredLedger};

/// Why an acquisition was rolled back.
pub(super) enum Obstacle {
    /// Another relay holds the lease.
    Held,
    /// Nothing can be promised.
    Refused(String),
    /// The sequence has been set back below what a ledger of the table has.
    SetBack(String),
}

/// The sequence as it is now.
struct Sequence {
    name: String,
    filenode: i64,
    last_value: i64,
}

/// One attempt to take the lease, or to join under it, inside its transaction.
pub(super) struct Acquisition<'a> {
    pub(super) source: &'a Postgres,
    pub(super) connection: &'a mut PgConnection,
    /// What was looked up before.
    pub(super) starts: &'a Starts,
}

impl Acquisition<'_> {
    pub(super) async fn run(
        &mut self,
        sinks: &[SinkStart],
        asked_at: Instant,
    ) -> Result<Result<Grant, Obstacle>, sqlx::Error> {
        let token = Uuid::new_v4();
        let Some(incarnation) = self.claim(token).await? else {
            return Ok(Err(Obstacle::Held));
        };
        let sequence = self.sequence_now().await?;
        if let Some(obstacle) = self.guard(&sequence).await? {
            return Ok(Err(obstacle));
        }
        // A sink that gets no ledger stands for itself alone: it joins, or is refused when it does.
        self.store_missing(sinks, token, &incarnation, &sequence)
            .await?;
        let stamped = self.stamp(token, sequence.filenode).await?;
        let wanted = |ledger: &StoredLedger| sinks.iter().any(|start| start.sink == ledger.sink);
        let (ledgers, strangers): (Vec<_>, Vec<_>) = stamped.into_iter().partition(wanted);
        Ok(Ok(Grant {
            lease: LeaseId {
                token,
                incarnation,
                sequence_filenode: sequence.filenode,
            },
            asked_at,
            ledgers,
            strangers: strangers.into_iter().map(|ledger| ledger.sink).collect(),
        }))
    }

    /// Claims the lease row if its time is up, or if it is this process's own from a session before.
    async fn claim(&mut self, token: Uuid) -> Result<Option<String>, sqlx::Error> {
        let schema = &self.source.names.schema;
        let insert = format!(
            "INSERT INTO {schema}outbox_lease (relay, source, owner, token, expires_at, incarnation) \
             VALUES ($1, $2, '', $3, '-infinity', '') ON CONFLICT DO NOTHING"
        );
        let claim = format!(
            "UPDATE {schema}outbox_lease SET owner = $3, token = $4, incarnation = {INCARNATION}, \
             expires_at = clock_timestamp() + make_interval(secs => $5) WHERE (relay, source) IN \
             (SELECT relay, source FROM {schema}outbox_lease WHERE relay = $1 AND source = $2 \
             AND (expires_at < clock_timestamp() OR owner = $3) FOR UPDATE SKIP LOCKED) \
             RETURNING incarnation"
        );
        let (relay, name) = (&self.source.relay, &self.source.name);
        let query = sqlx::query(AssertSqlSafe(insert)).persistent(false);
        query
            .bind(relay)
            .bind(name)
            .bind(Uuid::nil())
            .execute(&mut *self.connection)
            .await?;
        let query = sqlx::query(AssertSqlSafe(claim)).persistent(false);
        let query = query
            .bind(relay)
            .bind(name)
            .bind(&self.source.owner)
            .bind(token);
        let query = query.bind(LEASE_TTL.as_secs_f64());
        let Some(row) = query.fetch_optional(&mut *self.connection).await? else {
            return Ok(None);
        };
        let mark = format!(
            "INSERT INTO {schema}outbox_incarnation (relay, source, token) VALUES ($1, $2, $3) \
             ON CONFLICT (relay, source) DO UPDATE SET token = excluded.token"
        );
        let query = sqlx::query(AssertSqlSafe(mark)).persistent(false);
        let query = query.bind(relay).bind(name).bind(token);
        query.execute(&mut *self.connection).await?;
        row.try_get("incarnation").map(Some)
    }

    /// Whether the lease is still the one given; if so, nobody takes it over before this transaction ends. Fails if
    /// somebody has its row for longer than a renewal takes: it may be who takes it over, and waits for our locks.
    pub(super) async fn still_holds(&mut self, lease: &LeaseId) -> Result<bool, sqlx::Error> {
        let limit = sqlx::raw_sql("SET LOCAL lock_timeout = '500ms'");
        limit.execute(&mut *self.connection).await?;
        let sql = format!(
            "SELECT token FROM {}outbox_lease WHERE {} AND token = '{}' AND {} FOR SHARE",
            self.source.names.schema,
            self.source.key_sql(),
            lease.token,
            self.source.names.unchanged_with_sequence(lease),
        );
        let query = sqlx::raw_sql(AssertSqlSafe(sql));
        let row = query.fetch_optional(&mut *self.connection).await?;
        Ok(row.is_some())
    }

    async fn sequence_now(&mut self) -> Result<Sequence, sqlx::Error> {
        let sql = format!(
            "SELECT pg_relation_filenode(sequence)::int8 AS filenode, sequence::text AS name, \
             {last_value} AS last_value FROM (SELECT {own} AS sequence) AS own",
            last_value = sql::last_value("sequence"),
            own = self.source.names.sequence(),
        );
        let row = self.one(sql).await?;
        Ok(Sequence {
            name: row.try_get("name")?,
            filenode: row.try_get("filenode")?,
            last_value: row.try_get("last_value")?,
        })
    }

    /// Records what table the ledgers speak of, unless that is known, and what it is called now.
    async fn record_home(&mut self, sequence: &Sequence) -> Result<(), sqlx::Error> {
        let names = &self.source.names;
        let (schema, qualified, oid) = (&names.schema, names.qualified(), names.oid());
        // The insert also waits for whoever is settling, and locks settling out until new ledgers are stored.
        let record = format!(
            "INSERT INTO {schema}outbox_source (relay, source, table_name, table_oid, sequence_filenode) \
             VALUES ($1, $2, {qualified}, {oid}, $3::int8::oid) ON CONFLICT (relay, source) DO NOTHING"
        );
        let query = sqlx::query(AssertSqlSafe(record)).persistent(false);
        let query = query.bind(&self.source.relay).bind(&self.source.name);
        let query = query.bind(sequence.filenode);
        query.execute(&mut *self.connection).await?;
        // Everybody's: it may be restored, and known by its name alone, before the others look.
        let rename = format!(
            "UPDATE {schema}outbox_source SET table_name = {qualified} \
             WHERE table_oid = {oid} AND table_name <> {qualified}"
        );
        let query = sqlx::raw_sql(AssertSqlSafe(rename));
        query.execute(&mut *self.connection).await?;
        Ok(())
    }

    /// Whether `seq` still counts the events that the ledgers speak of. If it started anew, new events would
    /// count as delivered.
    async fn guard(&mut self, sequence: &Sequence) -> Result<Option<Obstacle>, sqlx::Error> {
        self.record_home(sequence).await?;
        let names = &self.source.names;
        let row = self
            .one(format!(
                "SELECT sequence_filenode::int8 AS filenode, table_name, {qualified} AS qualified, \
                 table_oid = {oid} AS same_table, {highest} AS highest, {last_value} AS last_value \
                 FROM {schema}outbox_source WHERE {key}",
                qualified = names.qualified(),
                oid = names.oid(),
                highest = highest_sql(names),
                last_value = last_value_sql(names),
                schema = names.schema,
                key = self.source.key_sql(),
            ))
            .await?;
        let filenode: i64 = row.try_get("filenode")?;
        let table: String = row.try_get("table_name")?;
        let qualified: String = row.try_get("qualified")?;
        let highest: Option<i64> = row.try_get("highest")?;
        let last_value: i64 = row.try_get("last_value")?;
        let source = &self.source.name;
        let hint = format!(
            "new events would count as delivered. Look at the table, then run \
             `outbox-relay ledger reset --source {source}`"
        );
        let refused = |reason: String| Ok(Some(Obstacle::Refused(format!("{reason}: {hint}"))));
        if !row.try_get::<bool, _>("same_table")? {
            return refused(if table == qualified {
                format!(
                    "the table {table} was made anew since the ledgers of source {source} were stored"
                )
            } else {
                format!(
                    "the ledgers of source {source} speak of the table {table}, not of {qualified}"
                )
            });
        }
        let name = &sequence.name;
        if filenode == VOID {
            return refused(format!(
                "the sequence {name} was set back below what the ledgers of its table have, or they were reset by \
                 another relay"
            ));
        }
        if filenode != sequence.filenode {
            return refused(format!(
                "the sequence {name} is not the one that the ledgers of source {source} speak of (TRUNCATE … \
                 RESTART IDENTITY, or dump and restore)"
            ));
        }
        Ok(highest.filter(|highest| *highest > last_value).map(|highest| {
            Obstacle::SetBack(format!(
                "the ledgers of the table {qualified} reach up to {highest}, but its sequence {name} has only come \
                 to {last_value}: {hint}"
            ))
        }))
    }

    /// Stores the ledger of a sink that joins, if it has none and that can be; returns what to do about it if not.
    pub(super) async fn store_joining(
        &mut self,
        sink: &SinkStart,
        lease: &LeaseId,
    ) -> Result<Option<String>, sqlx::Error> {
        let sequence = self.sequence_now().await?;
        let sinks = std::slice::from_ref(sink);
        self.store_missing(sinks, lease.token, &lease.incarnation, &sequence)
            .await
    }

    /// Stores ledgers for sinks that have none, before their first read. A sink that must say where it starts and
    /// doesn't gets none: returns what to do about it. Nor does one whose start is still to be looked up while others
    /// have theirs.
    async fn store_missing(
        &mut self,
        sinks: &[SinkStart],
        token: Uuid,
        incarnation: &str,
        sequence: &Sequence,
    ) -> Result<Option<String>, sqlx::Error> {
        let (schema, key) = (&self.source.names.schema, self.source.key_sql());
        let sql = format!("SELECT sink FROM {schema}outbox_ledger WHERE {key}");
        let rows = sqlx::raw_sql(AssertSqlSafe(sql))
            .fetch_all(&mut *self.connection)
            .await?;
        let mut stored = BTreeSet::new();
        for row in rows {
            stored.insert(row.try_get::<String, _>("sink")?);
        }
        let mut refusal = None;
        for start in sinks.iter().filter(|start| !stored.contains(&start.sink)) {
            let sink = &start.sink;
            let Some(start) = start_of(start, !stored.is_empty()) else {
                refusal = Some(format!(
                    "the sink {sink} joins source {} which has ledgers already: say where it starts by \
                     sinks.{sink}.start = \"latest\", \"unsettled\" or \"earliest\"",
                    self.source.name
                ));
                continue;
            };
            let Sequence {
                filenode,
                last_value,
                ..
            } = *sequence;
            let starts = self.starts;
            let delivered = match starts.delivered(start, incarnation, filenode, last_value) {
                Some(looked_up) => format!("'{looked_up}'::int8multirange"),
                None if !stored.is_empty() && self.source.is_looked_up(start) => continue,
                // Somebody has dropped the last ledger since: it is looked up here and now.
                None => self.source.delivered_at_start(start),
            };
            self.store(sink, token, &delivered).await?;
            if start == config::Start::Unsettled && self.source.names.columns.sent_at.is_some() {
                self.record_marked(sink).await?;
            }
        }
        Ok(refusal)
    }

    async fn store(&mut self, sink: &str, token: Uuid, delivered: &str) -> Result<(), sqlx::Error> {
        let sql = format!(
            "INSERT INTO {}outbox_ledger (relay, source, sink, token, delivered) \
             VALUES ($1, $2, $3, $4, ({delivered}))",
            self.source.names.schema,
        );
        let query = sqlx::query(AssertSqlSafe(sql)).persistent(false);
        let query = query.bind(&self.source.relay).bind(&self.source.name);
        let query = query.bind(sink).bind(token);
        query.execute(&mut *self.connection).await?;
        Ok(())
    }

    /// What a ledger has that was just stored to start at the oldest row without `sent_at` is marked, then: a
    /// large table need not be looked through for what is left to mark.
    async fn record_marked(&mut self, sink: &str) -> Result<(), sqlx::Error> {
        let schema = &self.source.names.schema;
        let sql = format!(
            "UPDATE {schema}outbox_source AS home SET marked = {folded} FROM {schema}outbox_ledger AS ledger \
             WHERE (home.relay, home.source) = ($1, $2) \
             AND (ledger.relay, ledger.source, ledger.sink) = ($1, $2, $3)",
            folded = folded_sql("home.marked + ledger.delivered"),
        );
        let query = sqlx::query(AssertSqlSafe(sql)).persistent(false);
        let query = query.bind(&self.source.relay).bind(&self.source.name);
        query.bind(sink).execute(&mut *self.connection).await?;
        Ok(())
    }

    /// Stamps the token on every ledger of the source and only then reads them. Rows that were deleted need
    /// nothing more of any ledger; without them their gaps would be holes to it.
    async fn stamp(
        &mut self,
        token: Uuid,
        filenode: i64,
    ) -> Result<Vec<StoredLedger>, sqlx::Error> {
        let sql = format!(
            "UPDATE {}outbox_ledger SET token = '{token}' WHERE {} \
             RETURNING sink, (delivered + ({}))::text AS delivered, closed::text",
            self.source.names.schema,
            self.source.key_sql(),
            recorded_sql(&self.source.names, filenode, "deleted"),
        );
        let rows = sqlx::raw_sql(AssertSqlSafe(sql))
            .fetch_all(&mut *self.connection)
            .await?;
        rows.iter().map(stored_ledger).collect()
    }

    async fn one(&mut self, sql: String) -> Result<PgRow, sqlx::Error> {
        sqlx::raw_sql(AssertSqlSafe(sql))
            .fetch_one(&mut *self.connection)
            .await
    }
}

/// The ledger in a row.
pub(super) fn stored_ledger(row: &PgRow) -> Result<StoredLedger, sqlx::Error> {
    Ok(StoredLedger {
        sink: row.try_get("sink")?,
        delivered: sql::ranges(row, "delivered")?,
        closed: sql::ranges(row, "closed")?,
    })
}
