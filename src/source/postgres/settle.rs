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

use super::dead_letters::held_sql;
use super::homes::{
    folded_sql, last_value_sql, ledgers_sql, lock_acquisitions_sql, lock_ledgers_sql, recorded_sql,
};
use super::link::Link;
use super::sql::{self, Names};
use crate::ledger::RangeSet;
use crate::source::settling::{Action, Agenda, Progress, Step};
use crate::source::{LeaseId, Settled, Settler, SourceError};

const PROGRESS: &str = "cannot read what every ledger has";
const SETTLE: &str = "cannot settle events";

/// Rows looked at per step: ledgers are locked for as long as it takes.
const STEP_ROWS: u64 = 5_000;

/// Marking a row takes nothing away from a dead letter.
const NOTHING_HELD: &str = "'{}'::int8multirange";

/// How long a step waits for a lock: somebody who holds an outbox row must not keep the ledgers from being stored.
const LOCK_TIMEOUT: Duration = Duration::from_millis(500);

/// Settles one outbox table for one source.
#[derive(Debug)]
pub(super) struct PostgresSettler {
    pub(super) link: Link,
    pub(super) names: Arc<Names>,
    pub(super) lease: LeaseId,
    /// The condition that selects this source's row in `outbox_source`.
    pub(super) key: String,
    pub(super) agenda: Agenda,
}

impl PostgresSettler {
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
        let mut progress = None;
        self.link
            .query(PROGRESS, sql, |row| {
                progress = progress_of(&row)?;
                Ok(())
            })
            .await?;
        progress.ok_or(SourceError::Changed)
    }

    /// Settles the lowest of `pending`.
    async fn step(&mut self, action: Action, mut pending: RangeSet) -> Result<Step, SourceError> {
        let window = pending.lowest(STEP_ROWS);
        let mut step = Step::default();
        let sql = self.step_sql(action, &window);
        self.link
            .query(SETTLE, sql, |row| {
                step.rows = row.try_get::<i64, _>("settled")?.unsigned_abs();
                step.covered = sql::ranges(&row, "covered")?;
                Ok(())
            })
            .await?;
        pending.subtract(&step.covered);
        // A step that covers nothing has found everything too young, or the ledgers changed.
        step.more = !step.covered.is_empty() && !pending.is_empty();
        Ok(step)
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
        // What is too young is left: then only what lies between a row that went and the one before it is done.
        let done = if matches!(action, Action::Expire(_)) {
            "coalesce((SELECT range_agg(span) FROM (SELECT wanted, \
             int8range(lag(seq) OVER (ORDER BY seq), seq, '(]') AS span FROM found) AS between WHERE wanted), '{}')"
        } else {
            "int8multirange(int8range(NULL, (SELECT max(seq) FROM found), '(]'))"
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
             covered AS MATERIALIZED (SELECT allowed.ranges * ({done} + CASE WHEN (SELECT count(*) FROM found) < {STEP_ROWS} \
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
        let actions = self.agenda.due();
        if actions.is_empty() {
            return Ok(done);
        }
        let deletes = actions.iter().any(|action| *action != Action::Mark);
        let progress = self.progress(deletes).await?;
        for action in actions {
            let pending = self.agenda.pending(action, &progress);
            let step = if pending.is_empty() {
                Step::default()
            } else {
                self.step(action, pending).await?
            };
            self.agenda.has_done(action, &step, &mut done);
        }
        Ok(done)
    }
}

/// `None`: server or sequence are no longer those of the lease.
fn progress_of(row: &PgRow) -> Result<Option<Progress>, sqlx::Error> {
    // NULL where the sequence is gone.
    let unchanged: Option<bool> = row.try_get("unchanged")?;
    let progress = Progress {
        everywhere: sql::ranges(row, "everywhere")?,
        deletable: sql::ranges(row, "deletable")?,
        marked: sql::ranges(row, "marked")?,
        deleted: sql::ranges(row, "deleted")?,
    };
    Ok(unchanged.unwrap_or(false).then_some(progress))
}
