//! Settling: what becomes of rows that every ledger has.
//!
//! The authority is the intersection of *all* ledgers stored for the table, whatever relay, source or sink they
//! belong to, never `sent_at`: under a replay or a new sink `sent_at` is still set. A closed hole counts only once
//! its pipeline has looked into it again (`delivered - closed`); a ledger of another sequence file, or one that
//! reaches above what the sequence has come to, counts as empty.
//!
//! Each step is one transaction in one message: it locks out acquisitions (which may store new ledgers), then
//! locks the ledgers, and only then takes the snapshot that it settles by. So a ledger that a command or a new
//! sink has changed is either seen or waits, and no row that a ledger has is younger than the snapshot.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use tokio::time::Instant;

use super::dead_letters::held_sql;
use super::homes::{
    folded_sql, last_value_sql, ledgers_sql, lock_acquisitions_sql, lock_ledgers_sql, recorded_sql,
};
use super::link::Link;
use super::sql::{self, Names};
use crate::config::AfterDelivery;
use crate::ledger::{MAX_STORED_RANGES, RangeSet};
use crate::source::{LeaseId, Settled, Settler, SourceError};

const PROGRESS: &str = "cannot read what every ledger has";
const SETTLE: &str = "cannot settle events";

/// Rows looked at per step: ledgers are locked for as long as it takes.
const STEP_ROWS: u64 = 5_000;

/// Marking a row takes nothing away from a dead letter.
const NOTHING_HELD: &str = "'{}'::int8multirange";

/// How long a step waits for a lock: somebody who holds an outbox row must not keep the ledgers from being stored.
const LOCK_TIMEOUT: Duration = Duration::from_millis(500);

/// The longest pause between two looks for rows that have become too old.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(60);

/// Ranges remembered in memory at most. They only save looking twice at what the database has no room for.
const MAX_SETTLED_RANGES: usize = 10 * MAX_STORED_RANGES;

/// Settles one outbox table for one source.
#[derive(Debug)]
pub(super) struct PostgresSettler {
    link: Link,
    names: Arc<Names>,
    lease: LeaseId,
    /// The condition that selects this source's row in `outbox_source`.
    key: String,
    after_delivery: AfterDelivery,
    retention: Option<Duration>,
    /// What this session has settled, whether the database had room to remember it or not.
    settled: RangeSet,
    expire_at: Instant,
}

/// What a settler is made for.
pub(super) struct Task {
    pub(super) link: Link,
    pub(super) names: Arc<Names>,
    pub(super) lease: LeaseId,
    pub(super) key: String,
    pub(super) after_delivery: AfterDelivery,
    pub(super) retention: Option<Duration>,
}

/// What to do with rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    /// Set `sent_at` where it is not set.
    Mark,
    /// Delete.
    Delete,
    /// Delete those older than this.
    Expire(Duration),
}

/// How far settling has come.
#[derive(Debug, Default)]
struct Progress {
    /// Whether server and sequence are still those of the lease.
    unchanged: bool,
    /// What every ledger has.
    everywhere: RangeSet,
    /// The same without the rows of open dead letters, which a retry may still need.
    deletable: RangeSet,
    marked: RangeSet,
    deleted: RangeSet,
}

/// What one step did.
#[derive(Debug, Default)]
struct Step {
    rows: u64,
    /// What needs no further step.
    covered: RangeSet,
}

impl PostgresSettler {
    pub(super) fn new(task: Task) -> Self {
        Self {
            link: task.link,
            names: task.names,
            lease: task.lease,
            key: task.key,
            after_delivery: task.after_delivery,
            retention: task.retention,
            settled: RangeSet::new(),
            expire_at: Instant::now(),
        }
    }

    /// Reads how far settling has come; takes no lock and writes nothing, so that an idle source stays idle.
    async fn progress(&mut self, deletes: bool) -> Result<Progress, SourceError> {
        let recorded = |column: &str| {
            let recorded = recorded_sql(&self.names, self.lease.sequence_filenode, column);
            format!("({recorded})::text AS {column}")
        };
        let sql = format!(
            "SELECT fact.*, (fact.everywhere::int8multirange - ({held}))::text AS deletable FROM \
             (SELECT {unchanged} AS unchanged, coalesce(({everywhere})::text, '{{}}') AS everywhere, {}, {}) AS fact",
            recorded("marked"),
            recorded("deleted"),
            held = if deletes {
                held_sql(&self.names)
            } else {
                NOTHING_HELD.to_owned()
            },
            unchanged = self.names.unchanged_with_sequence(&self.lease),
            everywhere = self.everywhere_sql(),
        );
        let mut progress = Progress::default();
        self.link
            .query(PROGRESS, sql, |row| {
                progress = Progress::from_row(&row)?;
                Ok(())
            })
            .await?;
        if progress.unchanged {
            Ok(progress)
        } else {
            Err(SourceError::Changed)
        }
    }

    /// Settles the lowest of `pending`; returns what it did and whether there is more.
    async fn step(
        &mut self,
        action: Action,
        pending: &RangeSet,
    ) -> Result<(Step, bool), SourceError> {
        let window = pending.lowest(STEP_ROWS);
        let mut step = Step::default();
        let sql = self.step_sql(action, &window);
        self.link
            .query(SETTLE, sql, |row| {
                step = Step::from_row(&row)?;
                Ok(())
            })
            .await?;
        let mut rest = pending.clone();
        rest.subtract(&step.covered);
        // A step that covers nothing has found everything too young, or the ledgers changed.
        let more = !step.covered.is_empty() && !rest.is_empty();
        Ok((step, more))
    }

    async fn settle_delivered(
        &mut self,
        action: Action,
        progress: &Progress,
        done: &mut Settled,
    ) -> Result<(), SourceError> {
        let mut pending = if action == Action::Mark {
            progress.everywhere.clone()
        } else {
            progress.deletable.clone()
        };
        pending.subtract(&progress.deleted);
        if action == Action::Mark {
            pending.subtract(&progress.marked);
        }
        pending.subtract(&self.settled);
        if pending.is_empty() {
            return Ok(());
        }
        let (step, more) = self.step(action, &pending).await?;
        if self.settled.len() > MAX_SETTLED_RANGES {
            self.settled = RangeSet::new();
        }
        self.settled.extend(&step.covered);
        match action {
            Action::Mark => done.marked = step.rows,
            Action::Delete | Action::Expire(_) => done.deleted = step.rows,
        }
        done.more |= more;
        Ok(())
    }

    /// Deletes the lowest rows that are too old. Rows come in the order of `seq`, and so nearly in that of their
    /// age: it ends where a step finds none.
    async fn expire(
        &mut self,
        retention: Duration,
        progress: &Progress,
        done: &mut Settled,
    ) -> Result<(), SourceError> {
        let mut pending = progress.deletable.clone();
        pending.subtract(&progress.deleted);
        let mut more = false;
        if !pending.is_empty() {
            let (step, left) = self.step(Action::Expire(retention), &pending).await?;
            done.expired = step.rows;
            more = left && step.rows > 0;
        }
        if !more {
            self.expire_at = Instant::now() + EXPIRY_INTERVAL.min(retention / 10);
        }
        done.more |= more;
        Ok(())
    }

    /// What every ledger of the table has; NULL if there is none.
    fn everywhere_sql(&self) -> String {
        format!(
            "SELECT range_intersect_agg(CASE WHEN home.sequence_filenode::int8 = {filenode} \
             AND NOT coalesce(upper(ledger.delivered) - 1 > {last_value}, false) \
             THEN ledger.delivered - ledger.closed ELSE '{{}}'::int8multirange END) FROM {ledgers}",
            filenode = self.lease.sequence_filenode,
            last_value = last_value_sql(&self.names),
            ledgers = ledgers_sql(&self.names),
        )
    }

    /// One transaction. Whatever plan the statistics of an empty or a bloated queue suggest, the table is read by
    /// its primary key, and rows are changed by where they lie.
    fn step_sql(&self, action: Action, window: &RangeSet) -> String {
        format!(
            "SET TRANSACTION ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = {lock}; \
             SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; \
             SET LOCAL synchronous_commit = off; \
             {lock_acquisitions}; {lock_ledgers}; {settle}",
            lock = LOCK_TIMEOUT.as_millis(),
            lock_acquisitions = lock_acquisitions_sql(&self.names),
            lock_ledgers = lock_ledgers_sql(&self.names),
            settle = self.settle_sql(action, window),
        )
    }

    /// `found`: the lowest rows of the window, the ranges one after the other by the primary key. `covered`: up to
    /// which `seq`, or between which rows, nothing is left to do.
    fn settle_sql(&self, action: Action, window: &RangeSet) -> String {
        let Names { table, columns, .. } = &*self.names;
        let seq = &columns.seq;
        let delete = format!("DELETE FROM {table}");
        let (wanted, change, column) = match action {
            Action::Mark => {
                // The configuration refuses `mark` without a column; without one this is no SQL.
                let sent_at = columns.sent_at.as_deref().unwrap_or_default();
                let mark = format!("UPDATE {table} SET {sent_at} = now()");
                (format!("{sent_at} IS NULL"), mark, "marked")
            }
            Action::Delete => ("true".into(), delete, "deleted"),
            Action::Expire(age) => (
                // Reads alike for both types of timestamp, one without a zone being in UTC.
                format!(
                    "extract(epoch FROM {}) < extract(epoch FROM now()) - {}",
                    columns.created_at,
                    age.as_secs_f64()
                ),
                delete,
                "deleted",
            ),
        };
        let handled = if matches!(action, Action::Expire(_)) {
            "wanted"
        } else {
            "true"
        };
        format!(
            "WITH allowed AS MATERIALIZED (SELECT '{window}'::int8multirange \
             * coalesce(({everywhere}), '{{}}') - ({held}) AS ranges WHERE {unchanged}), \
             found AS MATERIALIZED (SELECT event.* FROM (SELECT lower(span) AS first, upper(span) AS past \
             FROM allowed, unnest(allowed.ranges) AS span) AS range CROSS JOIN LATERAL \
             (SELECT {seq} AS seq, ctid AS place, {wanted} AS wanted FROM {table} \
             WHERE {seq} >= range.first AND {seq} < range.past ORDER BY {seq} LIMIT {STEP_ROWS}) AS event \
             ORDER BY seq LIMIT {STEP_ROWS}), \
             changed AS ({change} WHERE ctid = ANY (ARRAY(SELECT place FROM found WHERE wanted)) RETURNING 1), \
             between AS (SELECT {handled} AS handled, \
             int8range(lag(seq) OVER (ORDER BY seq), seq, '(]') AS span FROM found), \
             covered AS MATERIALIZED (SELECT allowed.ranges * (coalesce((SELECT range_agg(span) FROM between \
             WHERE handled), '{{}}') + CASE WHEN (SELECT count(*) FROM found) < {STEP_ROWS} \
             THEN int8multirange(int8range((SELECT max(seq) FROM found), NULL, '()')) \
             ELSE '{{}}' END) AS ranges FROM allowed), \
             recorded AS (UPDATE {schema}outbox_source AS home SET {column} = {folded} FROM covered \
             WHERE {key} AND NOT isempty(covered.ranges)) \
             SELECT (SELECT count(*) FROM changed) AS settled, \
             coalesce((SELECT ranges::text FROM covered), '{{}}') AS covered",
            everywhere = self.everywhere_sql(),
            held = if action == Action::Mark {
                NOTHING_HELD.to_owned()
            } else {
                held_sql(&self.names)
            },
            unchanged = self.names.unchanged_with_sequence(&self.lease),
            schema = self.names.schema,
            folded = folded_sql(&format!("home.{column} + covered.ranges")),
            key = self.key,
        )
    }
}

#[async_trait]
impl Settler for PostgresSettler {
    async fn settle(&mut self) -> Result<Settled, SourceError> {
        let mut done = Settled::default();
        let action = match self.after_delivery {
            AfterDelivery::Mark => Some(Action::Mark),
            AfterDelivery::Delete => Some(Action::Delete),
            AfterDelivery::Keep => None,
        };
        let expiry = self.retention.filter(|_| Instant::now() >= self.expire_at);
        if action.is_none() && expiry.is_none() {
            return Ok(done);
        }
        let deletes = expiry.is_some() || action == Some(Action::Delete);
        let progress = self.progress(deletes).await?;
        if let Some(action) = action {
            self.settle_delivered(action, &progress, &mut done).await?;
        }
        if let Some(retention) = expiry {
            self.expire(retention, &progress, &mut done).await?;
        }
        Ok(done)
    }
}

impl Progress {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            // NULL where the sequence is gone.
            unchanged: row
                .try_get::<Option<bool>, _>("unchanged")?
                .unwrap_or(false),
            everywhere: sql::ranges(row, "everywhere")?,
            deletable: sql::ranges(row, "deletable")?,
            marked: sql::ranges(row, "marked")?,
            deleted: sql::ranges(row, "deleted")?,
        })
    }
}

impl Step {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            rows: row.try_get::<i64, _>("settled")?.unsigned_abs(),
            covered: sql::ranges(row, "covered")?,
        })
    }
}
