//! Reading: forward rows and holes in one statement and so in one snapshot, merged by `seq`, limited as a whole.
//!
//! If the limit applied to one side, or the sides were read one after the other, a transaction that was held
//! open and its successor on the same key could be delivered in the wrong order.

mod answer;
mod statement;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sqlx::Row as _;
use sqlx::postgres::{PgConnectOptions, PgRow};
use tokio::time::Instant;

use self::answer::Rows;
use super::holders::{holder, holders_sql};
use super::holes::{Holes, MAX_HOLES, Question};
use super::homes::void_sql;
use super::inspect::Facts;
use super::link::{Link, is_undefined_table};
use super::sql::{self, Names};
use crate::ledger::RangeSet;
use crate::sabotage::{self, Sabotage};
use crate::source::{Batch, Fetched, LeaseId, Reader, SourceError};

const READ: &str = "cannot read the outbox table";
const LOOK_AGAIN: &str = "cannot look once more into closed holes";
const COUNT: &str = "cannot see how far the outbox table has come";
const LIST: &str = "cannot look into pg_locks";
const FLUSH_WAL: &str = "cannot wait for the WAL to be flushed";

/// How long a reader that has holes waits at most: their evidence is gathered once a second.
const HOLE_WAIT: Duration = Duration::from_secs(1);

/// Rows of the first read, before anything is known of their size.
const FIRST_LIMIT: usize = 64;

/// How often the warning about too many holes is repeated.
const WARN_INTERVAL: Duration = Duration::from_secs(60);

/// Reads one source for one pipeline.
#[derive(Debug)]
pub(super) struct PostgresReader {
    link: Link,
    names: Arc<Names>,
    facts: Arc<Facts>,
    lease: LeaseId,
    /// The highest `seq` seen, by a read or by the ledger.
    cursor: i64,
    holes: Holes,
    /// The connection that the evidence about them was gathered on.
    evidence_of: Option<u64>,
    idle_wait: Duration,
    wait_for_flush: bool,
    /// Weight of a row as it was seen lately: keeps reads from fetching what must be thrown away.
    row_weight: Option<usize>,
    warned_at: Option<Instant>,
}

/// What a reader is made for.
pub(super) struct Task<'a> {
    pub(super) options: PgConnectOptions,
    pub(super) names: Arc<Names>,
    pub(super) facts: Arc<Facts>,
    pub(super) lease: LeaseId,
    pub(super) delivered: &'a RangeSet,
    pub(super) idle_wait: Duration,
    pub(super) wait_for_flush: bool,
}

impl PostgresReader {
    pub(super) fn new(task: Task<'_>) -> Self {
        /// `seq` is drawn from a sequence that starts at 1.
        const FIRST_SEQ: i64 = 1;
        Self {
            link: Link::planning_once(task.options),
            names: task.names,
            facts: task.facts,
            lease: task.lease,
            cursor: task.delivered.end().map_or(FIRST_SEQ, |end| end) - 1,
            holes: Holes::new(&task.delivered.gaps_from(FIRST_SEQ)),
            evidence_of: None,
            idle_wait: task.idle_wait,
            wait_for_flush: task.wait_for_flush,
            row_weight: None,
            warned_at: None,
        }
    }

    /// Steps 2 and 3 of a hole's evidence.
    async fn list_holders(&mut self) -> Result<(), SourceError> {
        let mut holders = Vec::new();
        let mut unchanged = false;
        let sql = holders_sql(&self.names, &self.facts_sql());
        self.link
            .query(LIST, sql, |row| {
                unchanged = row
                    .try_get::<Option<bool>, _>("unchanged")?
                    .unwrap_or(false);
                holders.extend(holder(&row)?);
                Ok(())
            })
            .await?;
        if !unchanged {
            return Err(self.changed().await?);
        }
        self.holes.listed(holders, Instant::now());
        Ok(())
    }

    /// Asks with the limit that is `usual`, or with less where memory has no room for that.
    async fn query(
        &mut self,
        question: &Question,
        (limit, usual): (usize, usize),
        bytes: usize,
    ) -> Result<Rows, SourceError> {
        let mut rows = Rows::default();
        let payload = self.facts.payload;
        let take = |row: PgRow| rows.take(&row, payload, bytes);
        let is_usual = limit == usual && *question == Question::All && !self.is_full();
        // A message that begins with a setting of its own is no statement to execute.
        let is_alone = self.facts.encoding_sql().is_empty();
        if is_usual && is_alone && self.link.plans_once(READ).await? {
            let (read, arguments) = self.prepared_read(limit);
            self.link.execute(READ, read, &arguments, take).await?;
        } else {
            let sql = self.read_sql(question, limit);
            self.link.query(READ, sql, take).await?;
        }
        Ok(rows)
    }

    /// Whether there are so many holes that reading forward stops.
    fn is_full(&self) -> bool {
        self.holes.len() >= MAX_HOLES
    }

    /// Takes the rows of a read in: moves the cursor, opens new holes, splits and closes old ones.
    fn observe(&mut self, rows: Rows, limit: usize, asked_all: bool) -> Batch {
        let now = Instant::now();
        let more = rows.cut_off || rows.events.len() >= limit;
        for event in &rows.events {
            if event.seq > self.cursor {
                if !sabotage::is_on(Sabotage::NoHoles) {
                    self.holes.open_range(self.cursor + 1, event.seq, Some(now));
                }
                self.cursor = event.seq;
            } else {
                self.holes.shown(event.seq);
            }
        }
        let covered = match (asked_all, more) {
            (false, _) => i64::MIN,
            (true, false) => i64::MAX,
            (true, true) => rows.events.last().map_or(i64::MIN, |event| event.seq),
        };
        let closed = self.holes.covered(covered, now);
        if !rows.events.is_empty() {
            self.row_weight = Some(rows.weight.div_ceil(rows.events.len()));
        }
        Batch {
            more,
            // After a read of all, what is beyond the last row has not committed, and may have been rolled back.
            unread: if more || self.is_full() {
                self.unread_up_to(rows.last_value)
            } else {
                0
            },
            events: rows.events,
            closed,
        }
    }

    /// At most: what was rolled back is counted, too.
    fn unread_up_to(&self, last_value: i64) -> u64 {
        last_value.abs_diff(self.cursor.min(last_value))
    }

    /// How many rows of the size seen lately fit, twice over, so that a change of size is found out.
    fn affordable(&self, limit: usize, bytes: usize) -> usize {
        let fitting = match self.row_weight {
            Some(weight) => (bytes / weight.max(1)).saturating_mul(2),
            None => FIRST_LIMIT,
        };
        fitting.clamp(1, limit.max(1))
    }

    /// A visible commit may not be on disk yet if its writer has `synchronous_commit = off`. Our own commit is,
    /// and the WAL is flushed in order.
    async fn flush_wal(&mut self) -> Result<(), SourceError> {
        let sql = "SET LOCAL synchronous_commit = on; \
                   SELECT pg_logical_emit_message(true, 'outbox-relay', '')";
        self.link.query(FLUSH_WAL, sql.into(), |_| Ok(())).await
    }

    /// The source is another. If its sequence was set back, the database is told: the stored ledgers may not reach as
    /// far as the cursor, and nobody would notice again.
    async fn changed(&mut self) -> Result<SourceError, SourceError> {
        let highest = format!(
            "{cursor} AND {unchanged}",
            cursor = self.cursor,
            unchanged = self.names.unchanged_with_sequence(&self.lease),
        );
        let sql = void_sql(&self.names, &highest);
        self.link.query(READ, sql, |_| Ok(())).await?;
        Ok(SourceError::Changed)
    }

    fn warn_if_full(&mut self) {
        let now = Instant::now();
        if !self.is_full() || self.warned_at.is_some_and(|at| now - at < WARN_INTERVAL) {
            return;
        }
        self.warned_at = Some(now);
        let suspects = self.holes.suspects().iter();
        let suspects: Vec<String> = suspects
            .map(|holder| match holder.pid {
                Some(pid) => format!("backend {pid}"),
                None => format!("prepared transaction {}", holder.virtual_xid),
            })
            .collect();
        tracing::warn!(
            holes = self.holes.len(),
            held_by = suspects.join(", "),
            "reading forward stops until open transactions on the outbox table end"
        );
    }

    async fn try_read(&mut self, limit: usize, bytes: usize) -> Result<Batch, SourceError> {
        // Evidence counts on one connection only, whichever statement made it anew.
        if self.evidence_of.is_none() || self.link.generation() != self.evidence_of {
            self.holes.forget_evidence();
        }
        if self.holes.wants_listing(Instant::now()) {
            self.list_holders().await?;
        }
        let (usual, limit) = (limit, self.affordable(limit, bytes));
        let mut question = self.holes.question();
        let mut rows = self.query(&question, (limit, usual), bytes).await?;
        if rows.ended {
            question = Question::All;
            rows = self.query(&question, (limit, usual), bytes).await?;
        }
        if !rows.unchanged {
            return Err(self.changed().await?);
        }
        self.evidence_of = self.link.generation();
        if self.wait_for_flush && !rows.events.is_empty() {
            self.flush_wal().await?;
        }
        let batch = self.observe(rows, limit, question == Question::All);
        self.warn_if_full();
        Ok(batch)
    }
}

#[async_trait]
impl Reader for PostgresReader {
    async fn read(&mut self, limit: usize, bytes: usize) -> Result<Batch, SourceError> {
        let result = self.try_read(limit, bytes).await;
        match result {
            Err(error) if is_undefined_table(&error) => Err(SourceError::Changed),
            result => result,
        }
    }

    async fn fetch(&mut self, seqs: &[i64], bytes: usize) -> Result<Fetched, SourceError> {
        let names = &self.names;
        let wanted = sql::int8_array(seqs.iter().copied());
        let rows = format!(
            "SELECT {event} FROM {table} WHERE {seq} = ANY ({wanted}) ORDER BY seq",
            event = names.columns.event,
            table = names.table,
            seq = names.columns.seq,
        );
        let sql = self.framed(&rows, "false", &self.cursor.to_string());
        let mut rows = Rows::default();
        let payload = self.facts.payload;
        self.link
            .query(READ, sql, |row| rows.take(&row, payload, bytes))
            .await?;
        if !rows.unchanged {
            return Err(self.changed().await?);
        }
        let covered = if rows.cut_off {
            rows.events.last().map_or(i64::MIN, |e| e.seq)
        } else {
            i64::MAX
        };
        let found = |seq: &i64| {
            rows.events
                .binary_search_by_key(seq, |event| event.seq)
                .is_ok()
        };
        let gone = seqs
            .iter()
            .copied()
            .filter(|seq| *seq <= covered && !found(seq))
            .collect();
        Ok(Fetched {
            events: rows.events,
            gone,
        })
    }

    async fn look_again(&mut self, closed: &RangeSet) -> Result<RangeSet, SourceError> {
        let mut unchanged = false;
        let mut late = RangeSet::new();
        let sql = self.look_again_sql(closed);
        self.link
            .query(LOOK_AGAIN, sql, |row| {
                unchanged = row
                    .try_get::<Option<bool>, _>("unchanged")?
                    .unwrap_or(false);
                if let Some(seq) = row.try_get("seq")? {
                    late.insert(seq);
                }
                Ok(())
            })
            .await?;
        if !unchanged {
            return Err(SourceError::Changed);
        }
        for (first, end) in late.iter() {
            self.holes.open_range(first, end, None);
        }
        Ok(late)
    }

    async fn unread(&mut self) -> Result<u64, SourceError> {
        let facts = self.facts_sql();
        let mut answer = (false, 0);
        self.link
            .query(COUNT, facts, |row| {
                // NULL where the sequence is gone.
                let unchanged: Option<bool> = row.try_get("unchanged")?;
                answer = (unchanged.unwrap_or(false), row.try_get("last_value")?);
                Ok(())
            })
            .await?;
        match answer {
            (true, last_value) => Ok(self.unread_up_to(last_value)),
            (false, _) => Err(self.changed().await?),
        }
    }

    fn idle_wait(&self) -> Duration {
        if self.holes.len() == 0 {
            self.idle_wait
        } else {
            self.idle_wait.min(HOLE_WAIT)
        }
    }

    fn holes(&self) -> usize {
        self.holes.len()
    }
}
