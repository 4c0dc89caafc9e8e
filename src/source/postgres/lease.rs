//! The lease: who is the active relay for a source.
//!
//! A row with an end, not a session lock, so that it works through a pooler in transaction mode. Its token fences
//! off everybody before: whoever acquires stamps it on every ledger of the source before reading them, and every
//! flush names it.

use std::collections::BTreeSet;

use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Executor as _, Row as _};
use tokio::time::Instant;
use uuid::Uuid;

use super::homes::{
    VOID, folded_sql, highest_sql, last_value_sql, lock_acquisitions_sql, recorded_sql, void_sql,
};
use super::link::{BEGIN, Link, limited};
use super::{INCARNATION, Postgres, sql};
use crate::config;
use crate::source::{Grant, LEASE_TTL, LeaseId, SinkStart, SourceError, StoredLedger};

const ACQUIRE: &str = "cannot acquire the lease";
const RENEW: &str = "cannot renew the lease";
const RELEASE: &str = "cannot release the lease";
const JOIN: &str = "cannot store the ledger of a sink that joins";
const RECLAIM: &str = "cannot read the ledger";

/// Why an acquisition was rolled back.
enum Obstacle {
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
}

/// One attempt to take the lease, inside its transaction.
struct Acquisition<'a> {
    source: &'a Postgres,
    connection: &'a mut PgConnection,
}

impl Postgres {
    pub(super) async fn try_acquire(
        &self,
        sinks: &[SinkStart],
    ) -> Result<Option<Grant>, SourceError> {
        let mut link = self.link.lock().await;
        let asked_at = Instant::now();
        let mut connection = link.checkout(ACQUIRE).await?;
        let outcome = limited(ACQUIRE, async {
            connection.execute(BEGIN).await?;
            let mut acquisition = Acquisition {
                source: self,
                connection: &mut connection,
            };
            let outcome = acquisition.run(sinks, asked_at).await?;
            let end = if outcome.is_ok() {
                "COMMIT"
            } else {
                "ROLLBACK"
            };
            connection.execute(end).await?;
            Ok(outcome)
        })
        .await?;
        link.give_back(connection);
        match outcome {
            Ok(grant) => Ok(Some(grant)),
            Err(Obstacle::Held) => Ok(None),
            Err(Obstacle::Refused(reason)) => Err(SourceError::Refused(reason)),
            Err(Obstacle::SetBack(reason)) => {
                // It stays so: in a moment the sequence may have come as far again.
                let sql = void_sql(&self.names, &highest_sql(&self.names));
                link.query(ACQUIRE, sql, |_| Ok(())).await?;
                Err(SourceError::Refused(reason))
            }
        }
    }

    pub(super) async fn try_renew(&self, lease: &LeaseId) -> Result<bool, SourceError> {
        let sql = format!(
            "UPDATE {schema}outbox_lease SET expires_at = clock_timestamp() + interval '{ttl} seconds' \
             WHERE {key} AND token = '{token}' AND {unchanged} RETURNING token",
            schema = self.names.schema,
            ttl = LEASE_TTL.as_secs(),
            key = self.key_sql(),
            token = lease.token,
            unchanged = self.names.unchanged(lease),
        );
        let mut renewed = false;
        let mut link = self.link.lock().await;
        link.query(RENEW, sql, |_| {
            renewed = true;
            Ok(())
        })
        .await?;
        Ok(renewed)
    }

    pub(super) async fn try_release(&self, lease: &LeaseId) -> Result<(), SourceError> {
        let sql = format!(
            "UPDATE {}outbox_lease SET expires_at = '-infinity' WHERE {} AND token = '{}'",
            self.names.schema,
            self.key_sql(),
            lease.token,
        );
        let mut link = self.link.lock().await;
        link.query(RELEASE, sql, |_| Ok(())).await?;
        link.close().await;
        Ok(())
    }

    pub(super) async fn try_join(
        &self,
        lease: &LeaseId,
        sink: &SinkStart,
    ) -> Result<Option<StoredLedger>, SourceError> {
        // It mostly has one: it ran until now, with other settings.
        if let Some(ledger) = self.try_reclaim(lease, &sink.sink).await? {
            return Ok(Some(ledger));
        }
        // On a connection of its own: looking through a large table must not hold up the renewals.
        let mut link = Link::new(self.options.clone());
        let mut connection = link.checkout(JOIN).await?;
        let refusal = limited(JOIN, async {
            connection.execute(BEGIN).await?;
            let lock = lock_acquisitions_sql(&self.names);
            connection.execute(AssertSqlSafe(lock)).await?;
            let mut acquisition = Acquisition {
                source: self,
                connection: &mut connection,
            };
            let refusal = acquisition
                .store_missing(std::slice::from_ref(sink), lease.token)
                .await?;
            // Only now, so that the lease can be renewed until here: whoever takes it over stamps this ledger too.
            let ours = acquisition.still_holds(lease).await?;
            let end = if ours { "COMMIT" } else { "ROLLBACK" };
            connection.execute(end).await?;
            Ok(refusal.filter(|_| ours))
        })
        .await?;
        link.give_back(connection);
        link.close().await;
        match refusal {
            None => self.try_reclaim(lease, &sink.sink).await,
            Some(reason) => Err(SourceError::Refused(reason)),
        }
    }

    pub(super) async fn try_reclaim(
        &self,
        lease: &LeaseId,
        sink: &str,
    ) -> Result<Option<StoredLedger>, SourceError> {
        // The lease row is locked before the ledger is stamped: whoever takes the lease over afterwards stamps
        // its own token over this one. A ledger that is void since is nobody's: the next acquisition says so.
        let sql = format!(
            "WITH lease AS (SELECT token FROM {schema}outbox_lease WHERE {key} AND token = '{token}' \
             AND {unchanged} FOR UPDATE) \
             UPDATE {schema}outbox_ledger AS ledger SET token = lease.token FROM lease WHERE {key} \
             AND sink = {sink} AND EXISTS (SELECT FROM {schema}outbox_source WHERE {key} \
             AND sequence_filenode::int8 = {filenode}) RETURNING ledger.sink, (ledger.delivered + ({deleted}))::text AS delivered, \
             ledger.closed::text",
            deleted = recorded_sql(&self.names, lease.sequence_filenode, "deleted"),
            schema = self.names.schema,
            key = self.key_sql(),
            token = lease.token,
            unchanged = self.names.unchanged(lease),
            filenode = lease.sequence_filenode,
            sink = sql::literal(sink),
        );
        let mut ledger = None;
        let mut link = self.link.lock().await;
        link.query(RECLAIM, sql, |row| {
            ledger = Some(stored_ledger(&row)?);
            Ok(())
        })
        .await?;
        Ok(ledger)
    }

    /// What a new ledger counts as delivered: only rows that are visible now, never holes.
    pub(super) fn delivered_at_start(&self, start: config::Start) -> String {
        let (table, columns) = (&self.names.table, &self.names.columns);
        let seq = &columns.seq;
        let visible = |condition: String| {
            format!(
                "SELECT coalesce(range_agg(int8range(first, last + 1)), '{{}}') FROM \
                 (SELECT min(seq) AS first, max(seq) AS last FROM (SELECT {seq} AS seq, \
                 {seq} - row_number() OVER (ORDER BY {seq}) AS island FROM {table} WHERE {condition}) AS row \
                 GROUP BY island) AS islands"
            )
        };
        match (start, &columns.sent_at) {
            (config::Start::Latest, _) => visible("true".into()),
            (config::Start::Unsettled, Some(sent_at)) => visible(format!(
                "{seq} < coalesce((SELECT min({seq}) FROM {table} WHERE {sent_at} IS NULL), \
                 9223372036854775807)"
            )),
            (config::Start::Earliest, _) | (config::Start::Unsettled, None) => {
                "SELECT '{}'::int8multirange".into()
            }
        }
    }
}

impl Acquisition<'_> {
    async fn run(
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
        // A sink that gets no ledger stands for itself alone: it is refused when it joins.
        self.store_missing(sinks, token).await?;
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

    /// Whether the lease is still the one given; if so, nobody takes it over before this transaction ends.
    async fn still_holds(&mut self, lease: &LeaseId) -> Result<bool, sqlx::Error> {
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
            "SELECT pg_relation_filenode(sequence)::int8 AS filenode, sequence::text AS name \
             FROM (SELECT {} AS sequence) AS own",
            self.source.names.sequence()
        );
        let row = self.one(sql).await?;
        Ok(Sequence {
            name: row.try_get("name")?,
            filenode: row.try_get("filenode")?,
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

    /// Stores ledgers for sinks that have none, before their first read. A sink that must say where it starts and
    /// doesn't gets none: returns what to do about it.
    async fn store_missing(
        &mut self,
        sinks: &[SinkStart],
        token: Uuid,
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
        for SinkStart { sink, start } in sinks.iter().filter(|start| !stored.contains(&start.sink))
        {
            let start = match start {
                Some(start) => *start,
                None if stored.is_empty() => config::Start::Unsettled,
                None => {
                    refusal = Some(format!(
                        "the sink {sink} joins source {} which has ledgers already: say where it starts by \
                         sinks.{sink}.start = \"latest\", \"unsettled\" or \"earliest\"",
                        self.source.name
                    ));
                    continue;
                }
            };
            let sql = format!(
                "INSERT INTO {schema}outbox_ledger (relay, source, sink, token, delivered) \
                 VALUES ($1, $2, $3, $4, ({}))",
                self.source.delivered_at_start(start)
            );
            let query = sqlx::query(AssertSqlSafe(sql)).persistent(false);
            let query = query.bind(&self.source.relay).bind(&self.source.name);
            query
                .bind(sink)
                .bind(token)
                .execute(&mut *self.connection)
                .await?;
            if start == config::Start::Unsettled && self.source.names.columns.sent_at.is_some() {
                self.record_marked(sink).await?;
            }
        }
        Ok(refusal)
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

fn stored_ledger(row: &PgRow) -> Result<StoredLedger, sqlx::Error> {
    Ok(StoredLedger {
        sink: row.try_get("sink")?,
        delivered: sql::ranges(row, "delivered")?,
        closed: sql::ranges(row, "closed")?,
    })
}
