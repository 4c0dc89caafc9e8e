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
use tokio::time::Instant;

use super::link::{Link, limited};
use super::settled::{Progress, Record};
use super::sql::Names;
use crate::config::AfterDelivery;
use crate::ledger::{MAX_STORED_RANGES, RangeSet};
use crate::source::{LeaseId, Settled, Settler, SourceError};

const SETTLE: &str = "cannot settle events";

/// Rows looked at per step: writers wait for as long as it takes.
const STEP_ROWS: usize = 5_000;

/// The longest pause between two looks for rows that have become too old.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(60);

/// Ranges remembered in memory at most. They only save looking twice at what the file has no room for.
const MAX_SETTLED_RANGES: usize = 10 * MAX_STORED_RANGES;

/// Settles one outbox table for one source.
#[derive(Debug)]
pub(super) struct SqliteSettler {
    link: Link,
    task: Task,
    /// What this session has settled, whether the file had room to remember it or not.
    settled: RangeSet,
    expire_at: Instant,
}

/// What a settler is made for.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) names: Names,
    pub(super) relay: String,
    pub(super) source: String,
    pub(super) lease: LeaseId,
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

/// What one step did.
#[derive(Debug, Default)]
struct Step {
    rows: u64,
    /// What needs no further step.
    covered: RangeSet,
    /// Whether there is something left.
    more: bool,
}

impl SqliteSettler {
    pub(super) fn new(link: Link, task: Task) -> Self {
        Self {
            link,
            task,
            settled: RangeSet::new(),
            expire_at: Instant::now(),
        }
    }

    /// `None`: the table is no longer that of the lease.
    async fn run(
        &mut self,
        connection: &mut SqliteConnection,
        action: Option<Action>,
        expiry: Option<Duration>,
    ) -> Result<Option<Settled>, sqlx::Error> {
        // A look without the writers' lock first, so that an idle source stays idle.
        let Some(progress) = self.task.progress(connection).await? else {
            return Ok(None);
        };
        let mut done = Settled::default();
        if let Some(action) = action
            && !self.pending(action, &progress).is_empty()
        {
            let Some(step) = self.step(connection, action).await? else {
                return Ok(None);
            };
            if self.settled.len() > MAX_SETTLED_RANGES {
                self.settled = RangeSet::new();
            }
            self.settled.extend(&step.covered);
            match action {
                Action::Mark => done.marked = step.rows,
                Action::Delete | Action::Expire(_) => done.deleted = step.rows,
            }
            done.more |= step.more;
        }
        if let Some(retention) = expiry {
            let Some(step) = self.expire(connection, retention, &progress).await? else {
                return Ok(None);
            };
            done.expired = step.rows;
            done.more |= step.more;
        }
        Ok(Some(done))
    }

    /// Deletes the lowest rows that are too old. Rows come in the order of `seq`, and so nearly in that of their
    /// age: it ends where a step finds none.
    async fn expire(
        &mut self,
        connection: &mut SqliteConnection,
        retention: Duration,
        progress: &Progress,
    ) -> Result<Option<Step>, sqlx::Error> {
        let action = Action::Expire(retention);
        let mut step = Step::default();
        if !self.pending(action, progress).is_empty() {
            match self.step(connection, action).await? {
                Some(taken) => step = taken,
                None => return Ok(None),
            }
        }
        step.more &= step.rows > 0;
        if !step.more {
            self.expire_at = Instant::now() + EXPIRY_INTERVAL.min(retention / 10);
        }
        Ok(Some(step))
    }

    /// What every ledger has and nobody has settled.
    fn pending(&self, action: Action, progress: &Progress) -> RangeSet {
        let mut pending = progress.everywhere.clone();
        pending.subtract(&progress.deleted);
        match action {
            Action::Mark => {
                pending.subtract(&progress.marked);
                pending.subtract(&self.settled);
            }
            Action::Delete => {
                pending.subtract(&progress.held);
                pending.subtract(&self.settled);
            }
            Action::Expire(_) => pending.subtract(&progress.held),
        }
        pending
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
        let pending = self.pending(action, &progress);
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
        Progress::of(connection, &self.names, &self.lease).await
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
        let action = match self.task.after_delivery {
            AfterDelivery::Mark => Some(Action::Mark),
            AfterDelivery::Delete => Some(Action::Delete),
            AfterDelivery::Keep => None,
        };
        let retention = self.task.retention;
        let expiry = retention.filter(|_| Instant::now() >= self.expire_at);
        if action.is_none() && expiry.is_none() {
            return Ok(Settled::default());
        }
        let mut connected = self.link.checkout(SETTLE).await?;
        if connected.file.number() != self.task.lease.sequence_filenode {
            return Err(SourceError::Changed);
        }
        let run = self.run(&mut connected.connection, action, expiry);
        let done = limited(SETTLE, run).await?;
        self.link.give_back(connected);
        done.ok_or(SourceError::Changed)
    }
}
