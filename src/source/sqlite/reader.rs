//! Reading: what the ledger lacks below its end, then what came after, in the order of `seq`.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::TryStreamExt as _;
use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Executor as _};

use super::holding::{Holding, Newest};
use super::link::{Link, limited};
use super::rows;
use super::sql::Names;
use crate::event::Event;
use crate::ledger::RangeSet;
use crate::source::{Batch, Fetched, Reader, SourceError};

const READ: &str = "cannot read the outbox table";

/// The lowest number that `AUTOINCREMENT` draws.
const FIRST_SEQ: i64 = 1;

/// Reads one source for one pipeline.
#[derive(Debug)]
pub(super) struct SqliteReader {
    link: Link,
    holding: Holding,
    /// What lies below the end of the ledger that the relay began with, is not in it, and was not read yet.
    gaps: RangeSet,
    /// Everything up to here was read or is in `gaps`.
    cursor: i64,
    poll_interval: Duration,
}

/// The rows of one read, from one snapshot, cut off where they exceed the bytes.
#[derive(Default)]
struct Rows {
    events: Vec<Arc<Event>>,
    weight: usize,
    cut_off: bool,
    /// The highest `seq` that was drawn.
    last_value: i64,
}

impl SqliteReader {
    pub(super) fn new(
        link: Link,
        holding: Holding,
        delivered: &RangeSet,
        poll_interval: Duration,
    ) -> Self {
        Self {
            link,
            holding,
            gaps: delivered.gaps_from(FIRST_SEQ),
            cursor: delivered.end().unwrap_or(FIRST_SEQ) - 1,
            poll_interval,
        }
    }

    /// Runs one read transaction on the lease's own file and table.
    async fn query(&mut self, wanted: Wanted<'_>, bytes: usize) -> Result<Rows, SourceError> {
        let mut connected = self.link.checkout(READ).await?;
        let holding = &self.holding;
        if connected.file.number() != holding.lease.sequence_filenode {
            return Err(SourceError::Changed);
        }
        let connection = &mut connected.connection;
        let evidence = holding.evidence();
        let rows = limited(READ, async {
            // One snapshot for everything below. It ends at once: an open one keeps the log from being reused.
            connection.execute("BEGIN").await?;
            let mut rows = None;
            if let Some(table) = holding.table(connection, evidence).await? {
                let mut found = wanted.rows(connection, &holding.names, bytes).await?;
                found.last_value = table.last_value;
                rows = Some(found);
            }
            connection.execute("COMMIT").await?;
            Ok(rows)
        })
        .await?;
        self.link.give_back(connected);
        let rows = rows.ok_or(SourceError::Changed)?;
        if let Some(event) = rows.events.last() {
            let (seq, id) = (event.seq, event.id);
            self.holding.has_read(Newest { seq, id });
        }
        Ok(rows)
    }

    /// Takes the rows of a read in. A number that has no row in a snapshot which shows, or has drawn, a higher one
    /// never gets one.
    fn observe(&mut self, rows: Rows) -> Batch {
        let last = rows.events.last().map(|event| event.seq);
        // Everything below was looked at.
        let end = match last {
            Some(last) if rows.cut_off => last + 1,
            _ => rows.last_value + 1,
        };
        let below: Vec<_> = self
            .gaps
            .iter()
            .map(|(first, past)| (first, past.min(end)))
            .collect();
        let mut closed: RangeSet = below.into_iter().collect();
        closed.insert_range(self.cursor + 1, end);
        self.gaps.remove_range(i64::MIN, end);
        self.cursor = self.cursor.max(end - 1);
        for event in &rows.events {
            closed.remove_range(event.seq, event.seq + 1);
        }
        Batch {
            unread: self.unread_up_to(rows.last_value),
            more: rows.cut_off,
            events: rows.events,
            closed,
        }
    }

    fn unread_up_to(&self, last_value: i64) -> u64 {
        let gaps = self.gaps.iter().map(|(first, past)| past.abs_diff(first));
        last_value.abs_diff(self.cursor.min(last_value)) + gaps.sum::<u64>()
    }
}

/// Which rows a read is after.
enum Wanted<'a> {
    /// Those in the gaps and behind the cursor, so many at most.
    Next {
        gaps: &'a RangeSet,
        cursor: i64,
        limit: usize,
    },
    /// These.
    Again(&'a [i64]),
}

impl Wanted<'_> {
    async fn rows(
        &self,
        connection: &mut SqliteConnection,
        names: &Names,
        bytes: usize,
    ) -> Result<Rows, sqlx::Error> {
        let mut rows = Rows::default();
        match self {
            Self::Next {
                gaps,
                cursor,
                limit,
            } => {
                // Range by range, each an index scan of the primary key that stops when enough was found.
                let ranges = gaps.iter().chain(std::iter::once((cursor + 1, i64::MAX)));
                for (first, end) in ranges {
                    let room = limit.saturating_sub(rows.events.len());
                    rows.add_range(connection, names, (first, end), room, bytes)
                        .await?;
                    rows.cut_off |= rows.events.len() >= *limit;
                    if rows.cut_off {
                        break;
                    }
                }
            }
            Self::Again(seqs) => {
                let sql = format!(
                    "SELECT {} FROM {} WHERE seq IN (SELECT value FROM json_each(?)) ORDER BY seq",
                    rows::COLUMNS,
                    names.table
                );
                let query = sqlx::query(AssertSqlSafe(sql)).bind(format!("{seqs:?}"));
                rows.add(query.fetch(connection), bytes).await?;
            }
        }
        Ok(rows)
    }
}

impl Rows {
    async fn add_range(
        &mut self,
        connection: &mut SqliteConnection,
        names: &Names,
        (first, end): (i64, i64),
        limit: usize,
        bytes: usize,
    ) -> Result<(), sqlx::Error> {
        let sql = format!(
            "SELECT {} FROM {} WHERE seq >= ? AND seq < ? ORDER BY seq LIMIT ?",
            rows::COLUMNS,
            names.table
        );
        let query = sqlx::query(AssertSqlSafe(sql)).bind(first).bind(end);
        let query = query.bind(i64::try_from(limit).unwrap_or(i64::MAX));
        self.add(query.fetch(connection), bytes).await
    }

    /// Takes rows as they arrive, up to the one that no longer fits into `bytes`; the first is always taken. The
    /// statement ends with the stream.
    async fn add(
        &mut self,
        mut stream: impl futures::Stream<Item = Result<sqlx::sqlite::SqliteRow, sqlx::Error>> + Unpin,
        bytes: usize,
    ) -> Result<(), sqlx::Error> {
        while let Some(row) = stream.try_next().await? {
            let event = rows::event(&row)?;
            let weight = event.weight();
            if !self.events.is_empty() && self.weight + weight > bytes {
                self.cut_off = true;
                break;
            }
            self.weight += weight;
            self.events.push(Arc::new(event));
        }
        Ok(())
    }
}

#[async_trait]
impl Reader for SqliteReader {
    async fn read(&mut self, limit: usize, bytes: usize) -> Result<Batch, SourceError> {
        let gaps = self.gaps.clone();
        let wanted = Wanted::Next {
            gaps: &gaps,
            cursor: self.cursor,
            limit: limit.max(1),
        };
        let rows = self.query(wanted, bytes).await?;
        // Numbers that are drawn a second time would count as delivered: the lease is taken anew, and refused.
        if rows.last_value < self.cursor {
            return Err(SourceError::Changed);
        }
        Ok(self.observe(rows))
    }

    async fn fetch(&mut self, seqs: &[i64], bytes: usize) -> Result<Fetched, SourceError> {
        let rows = self.query(Wanted::Again(seqs), bytes).await?;
        let covered = match rows.events.last() {
            Some(last) if rows.cut_off => last.seq,
            _ => i64::MAX,
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

    async fn unread(&mut self) -> Result<u64, SourceError> {
        let rows = self.query(Wanted::Again(&[]), 0).await?;
        Ok(self.unread_up_to(rows.last_value))
    }

    fn idle_wait(&self) -> Duration {
        self.poll_interval
    }

    fn holes(&self) -> usize {
        0
    }
}
