//! Settling: what becomes of rows that every ledger has.
//!
//! The authority is the intersection of *all* ledgers stored for the table, whatever relay, source or sink they
//! belong to, never `sent_at`: under a replay or a new sink `sent_at` is still set. A ledger of another table, or of
//! one that has begun to count anew, counts as empty.
//!
//! Each step is one transaction that begins with the writers' lock: while it decides and changes rows, nobody
//! stores a ledger. There are no holes here, so a number below the last one drawn that has no row needs nothing.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Executor as _};

use super::link::{Link, limited};
use super::settled::{Record, progress};
use super::sql::Names;
use crate::ledger::RangeSet;
use crate::source::settling::{Action, Agenda, Progress, Step};
use crate::source::{LeaseId, Settled, Settler, SourceError};

const SETTLE: &str = "cannot settle events";

/// Rows looked at per step: writers wait for as long as it takes.
const STEP_ROWS: usize = 5_000;

/// Settles one outbox table for one source.
#[derive(Debug)]
pub(super) struct SqliteSettler {
    link: Link,
    task: Task,
    agenda: Agenda,
}

/// What a settler is made for.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) names: Names,
    pub(super) relay: String,
    pub(super) source: String,
    pub(super) lease: LeaseId,
}

impl SqliteSettler {
    pub(super) fn new(link: Link, task: Task, agenda: Agenda) -> Self {
        Self { link, task, agenda }
    }

    /// `None`: the table is no longer that of the lease.
    async fn run(
        &mut self,
        connection: &mut SqliteConnection,
        actions: Vec<Action>,
    ) -> Result<Option<Settled>, sqlx::Error> {
        // A look without the writers' lock first, so that an idle source stays idle.
        let Some(progress) = self.task.progress(connection).await? else {
            return Ok(None);
        };
        let mut done = Settled::default();
        for action in actions {
            let mut step = Step::default();
            if !self.agenda.pending(action, &progress).is_empty() {
                match self.step(connection, action).await? {
                    Some(taken) => step = taken,
                    None => return Ok(None),
                }
            }
            self.agenda.has_done(action, &step, &mut done);
        }
        Ok(Some(done))
    }

    /// One transaction. `None`: the table is no longer that of the lease, and nothing was done.
    async fn step(
        &self,
        connection: &mut SqliteConnection,
        action: Action,
    ) -> Result<Option<Step>, sqlx::Error> {
        connection.execute("BEGIN IMMEDIATE").await?;
        let Some(progress) = self.task.progress(connection).await? else {
            connection.execute("ROLLBACK").await?;
            return Ok(None);
        };
        let pending = self.agenda.pending(action, &progress);
        let step = self.task.settle_lowest(connection, action, pending).await?;
        connection.execute("COMMIT").await?;
        Ok(Some(step))
    }
}

impl Task {
    /// `None`: the table is no longer that of the lease.
    async fn progress(
        &self,
        connection: &mut SqliteConnection,
    ) -> Result<Option<Progress>, sqlx::Error> {
        progress(connection, &self.names, &self.lease).await
    }

    /// Settles the lowest of `pending`, inside a transaction.
    async fn settle_lowest(
        &self,
        connection: &mut SqliteConnection,
        action: Action,
        mut pending: RangeSet,
    ) -> Result<Step, sqlx::Error> {
        let mut step = Step::default();
        let Some((first, _)) = pending.iter().next() else {
            return Ok(step);
        };
        let lowest = self.lowest_row(connection, first).await?;
        let lowest = lowest.unwrap_or(i64::MAX);
        // What has no row any more, however much it is, takes no step of its own.
        step.covered = pending.clone();
        step.covered.remove_range(lowest, i64::MAX);
        pending.remove_range(i64::MIN, lowest);
        let numbers = pending.iter().flat_map(|(first, end)| first..end);
        let numbers: Vec<i64> = numbers.take(STEP_ROWS).collect();
        match action {
            Action::Mark | Action::Delete => {
                step.rows = self.change(connection, action, &numbers).await?;
                numbers.iter().for_each(|seq| step.covered.insert(*seq));
            }
            Action::Expire(age) => {
                let expired = self.delete_old(connection, age, &numbers).await?;
                step.rows = expired.len() as u64;
                expired.iter().for_each(|seq| step.covered.insert(*seq));
            }
        }
        pending.subtract(&step.covered);
        step.more = !pending.is_empty();
        if !step.covered.is_empty() {
            let column = match action {
                Action::Mark => Record::Marked,
                Action::Delete | Action::Expire(_) => Record::Deleted,
            };
            column
                .add(connection, (&self.relay, &self.source), &step.covered)
                .await?;
        }
        Ok(step)
    }

    /// The lowest row from `first` on, by the primary key.
    async fn lowest_row(
        &self,
        connection: &mut SqliteConnection,
        first: i64,
    ) -> Result<Option<i64>, sqlx::Error> {
        let sql = format!("SELECT min(seq) FROM {} WHERE seq >= ?", self.names.table);
        let query = sqlx::query_scalar(AssertSqlSafe(sql)).bind(first);
        query.fetch_one(connection).await
    }

    /// Marks or deletes those of `numbers` that have a row, each found by the primary key.
    async fn change(
        &self,
        connection: &mut SqliteConnection,
        action: Action,
        numbers: &[i64],
    ) -> Result<u64, sqlx::Error> {
        let table = &self.names.table;
        let sql = if action == Action::Mark {
            format!(
                "UPDATE {table} SET sent_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now') \
                 WHERE seq IN (SELECT value FROM json_each(?)) AND sent_at IS NULL"
            )
        } else {
            format!("DELETE FROM {table} WHERE seq IN (SELECT value FROM json_each(?))")
        };
        let query = sqlx::query(AssertSqlSafe(sql)).bind(format!("{numbers:?}"));
        Ok(query.execute(connection).await?.rows_affected())
    }

    /// Deletes the rows among `numbers` that are older than `age`, and names them.
    async fn delete_old(
        &self,
        connection: &mut SqliteConnection,
        age: Duration,
        numbers: &[i64],
    ) -> Result<Vec<i64>, sqlx::Error> {
        let sql = format!(
            "DELETE FROM {} WHERE seq IN (SELECT value FROM json_each(?)) \
             AND unixepoch(created_at, 'subsec') < unixepoch('subsec') - ? RETURNING seq",
            self.names.table
        );
        let query = sqlx::query_scalar(AssertSqlSafe(sql)).bind(format!("{numbers:?}"));
        query.bind(age.as_secs_f64()).fetch_all(connection).await
    }
}

#[async_trait]
impl Settler for SqliteSettler {
    async fn settle(&mut self) -> Result<Settled, SourceError> {
        let actions = self.agenda.due();
        if actions.is_empty() {
            return Ok(Settled::default());
        }
        let mut connected = self.link.checkout(SETTLE).await?;
        if connected.file.number() != self.task.lease.sequence_filenode {
            return Err(SourceError::Changed);
        }
        let run = self.run(&mut connected.connection, actions);
        let done = limited(SETTLE, run).await?;
        self.link.give_back(connected);
        done.ok_or(SourceError::Changed)
    }
}
