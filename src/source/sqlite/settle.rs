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
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Executor as _, Row as _};
use tokio::time::Instant;

use super::dead_letters::held;
use super::link::{Link, limited};
use super::sql::{Names, ranges};
use super::table::Table;
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

/// How far settling has come.
#[derive(Debug, Default)]
struct Progress {
    /// What every ledger has.
    everywhere: RangeSet,
    /// The rows of open dead letters, which a retry may still need.
    held: RangeSet,
    marked: RangeSet,
    deleted: RangeSet,
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

/// The column of `outbox_source` that remembers what was settled, so that who takes over need not look at it again.
#[derive(Debug, Clone, Copy)]
pub(super) enum Record {
    Marked,
    Deleted,
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
        let table = Table::now(connection, &self.names).await?;
        let Some(table) = table.filter(|table| table.incarnation == self.lease.incarnation) else {
            return Ok(None);
        };
        let mut progress = Progress {
            everywhere: everywhere(connection, &self.names, &table).await?,
            held: held(connection, &self.names).await?,
            ..Progress::default()
        };
        let recorded =
            "SELECT marked, deleted FROM outbox_source WHERE table_name = ? AND incarnation = ?";
        let recorded = sqlx::query(recorded).bind(&self.names.plain);
        let recorded = recorded.bind(&table.incarnation);
        for row in recorded.fetch_all(connection).await? {
            progress.marked.extend(&ranges(&row, "marked")?);
            progress.deleted.extend(&ranges(&row, "deleted")?);
        }
        Ok(Some(progress))
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

impl Record {
    /// Adds `ranges` to what the row of this relay and source remembers, as far as there is room.
    pub(super) async fn add(
        self,
        connection: &mut SqliteConnection,
        (relay, source): (&str, &str),
        added: &RangeSet,
    ) -> Result<(), sqlx::Error> {
        let column = match self {
            Self::Marked => "marked",
            Self::Deleted => "deleted",
        };
        let sql = format!("SELECT {column} FROM outbox_source WHERE relay = ? AND source = ?");
        let query = sqlx::query(AssertSqlSafe(sql)).bind(relay).bind(source);
        let row = query.fetch_one(&mut *connection).await?;
        let mut recorded = ranges(&row, column)?;
        recorded.extend(added);
        let sql = format!("UPDATE outbox_source SET {column} = ? WHERE relay = ? AND source = ?");
        let query = sqlx::query(AssertSqlSafe(sql)).bind(recorded.stored(MAX_STORED_RANGES).text);
        query.bind(relay).bind(source).execute(connection).await?;
        Ok(())
    }
}

/// What every ledger of the table has; nothing if there is no ledger.
async fn everywhere(
    connection: &mut SqliteConnection,
    names: &Names,
    table: &Table,
) -> Result<RangeSet, sqlx::Error> {
    let sql = "SELECT home.incarnation, delivered, closed FROM outbox_source AS home \
         JOIN outbox_ledger USING (relay, source) WHERE home.table_name = ?";
    let ledgers = sqlx::query(sql).bind(&names.plain);
    let mut everywhere: Option<RangeSet> = None;
    for row in ledgers.fetch_all(connection).await? {
        let has = settled_by(&row, table)?;
        everywhere = Some(match everywhere {
            Some(mut common) => {
                let mut lacking = common.clone();
                lacking.subtract(&has);
                common.subtract(&lacking);
                common
            }
            None => has,
        });
    }
    Ok(everywhere.unwrap_or_default())
}

/// What one ledger lets go of.
fn settled_by(row: &SqliteRow, table: &Table) -> Result<RangeSet, sqlx::Error> {
    let mut delivered = ranges(row, "delivered")?;
    if !table.is_meant(row.try_get("incarnation")?, &delivered) {
        return Ok(RangeSet::new());
    }
    delivered.subtract(&ranges(row, "closed")?);
    Ok(delivered)
}
