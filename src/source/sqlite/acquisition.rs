//! One attempt to take the lease, inside its transaction: whose the row is, whether the ledgers can be believed, and
//! which ledgers there are.

use std::collections::BTreeSet;

use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Row as _};
use tokio::time::Instant;
use uuid::Uuid;

use super::Sqlite;
use super::holding::{Evidence, Newest};
use super::lease::ttl_millis;
use super::rows::stored_id;
use super::settled::Record;
use super::sql::{NOW_MILLIS, ranges};
use super::starts::{Marked, start_of};
use super::table::Table;
use crate::config::Start;
use crate::source::{Grant, LeaseId, SinkStart, StoredLedger};

/// Why an acquisition was rolled back.
pub(super) enum Obstacle {
    /// Another relay holds the lease.
    Held,
    /// Nothing can be promised.
    Refused(String),
}

/// One attempt to take the lease, inside its transaction.
pub(super) struct Acquisition<'a> {
    pub(super) source: &'a Sqlite,
    pub(super) connection: &'a mut SqliteConnection,
    pub(super) token: Uuid,
    pub(super) sequence_filenode: i64,
    /// What the file says of the holding before.
    pub(super) evidence: Evidence,
    /// What was looked up of the table before.
    pub(super) marked: Option<Marked>,
}

impl Acquisition<'_> {
    /// Whether another relay has the lease, as far as a look can tell.
    pub(super) async fn is_held(&mut self) -> Result<bool, sqlx::Error> {
        let sql = format!(
            "SELECT EXISTS (SELECT 1 FROM outbox_lease WHERE relay = ? AND source = ? \
             AND owner <> ? AND expires_at >= {NOW_MILLIS})"
        );
        let query = sqlx::query_scalar(AssertSqlSafe(sql));
        let query = query.bind(&self.source.relay).bind(&self.source.name);
        let query = query.bind(&self.source.owner);
        query.fetch_one(&mut *self.connection).await
    }

    /// Whether the lease, the table and the file are still the ones given. Nobody else writes meanwhile.
    pub(super) async fn still_holds(&mut self, lease: &LeaseId) -> Result<bool, sqlx::Error> {
        let sql = "SELECT EXISTS (SELECT 1 FROM outbox_lease WHERE relay = ? AND source = ? AND token = ?) \
             AND EXISTS (SELECT 1 FROM outbox_incarnation WHERE table_name = ? AND incarnation = ?)";
        let query = sqlx::query_scalar(sql).bind(&self.source.relay);
        let query = query.bind(&self.source.name).bind(lease.token.to_string());
        let query = query
            .bind(&self.source.names.plain)
            .bind(&lease.incarnation);
        let held: bool = query.fetch_one(&mut *self.connection).await?;
        Ok(held && self.sequence_filenode == lease.sequence_filenode)
    }

    pub(super) async fn run(
        &mut self,
        sinks: &[SinkStart],
        asked_at: Instant,
    ) -> Result<Result<Grant, Obstacle>, sqlx::Error> {
        let table = Table::now(self.connection, &self.source.names).await?;
        let table = table.ok_or(sqlx::Error::RowNotFound)?;
        if !self.claim(&table).await? {
            return Ok(Err(Obstacle::Held));
        }
        if let Some(reason) = self.guard_identity(&table).await? {
            return Ok(Err(Obstacle::Refused(reason)));
        }
        // A sink that gets no ledger stands for itself alone: it is refused when it joins.
        self.store_missing(sinks, &table, false).await?;
        let stamped = self.stamp().await?;
        if let Some(reason) = self.guard_sequence(&table, &stamped) {
            return Ok(Err(Obstacle::Refused(reason)));
        }
        if let Some(reason) = self.guard_newest(&table, &stamped).await? {
            return Ok(Err(Obstacle::Refused(reason)));
        }
        let wanted = |ledger: &StoredLedger| sinks.iter().any(|start| start.sink == ledger.sink);
        let (ledgers, strangers): (Vec<_>, Vec<_>) = stamped.into_iter().partition(wanted);
        Ok(Ok(Grant {
            lease: LeaseId {
                token: self.token,
                incarnation: table.incarnation,
                sequence_filenode: self.sequence_filenode,
            },
            asked_at,
            ledgers,
            strangers: strangers.into_iter().map(|ledger| ledger.sink).collect(),
        }))
    }

    /// Claims the lease row if its time is up, or if it is this process's own from a session before.
    async fn claim(&mut self, table: &Table) -> Result<bool, sqlx::Error> {
        let sql = format!(
            "INSERT INTO outbox_lease (relay, source, owner, token, expires_at, incarnation, changes) \
             VALUES (?, ?, ?, ?, {NOW_MILLIS} + ?, ?, 1) ON CONFLICT (relay, source) DO UPDATE SET \
             owner = excluded.owner, token = excluded.token, expires_at = excluded.expires_at, \
             incarnation = excluded.incarnation, changes = outbox_lease.changes + 1 \
             WHERE outbox_lease.expires_at < {NOW_MILLIS} OR outbox_lease.owner = excluded.owner \
             RETURNING changes, newest_seq, newest_id"
        );
        let query = sqlx::query(AssertSqlSafe(sql));
        let query = query.bind(&self.source.relay).bind(&self.source.name);
        let query = query.bind(&self.source.owner).bind(self.token.to_string());
        let query = query.bind(ttl_millis()).bind(&table.incarnation);
        let Some(row) = query.fetch_optional(&mut *self.connection).await? else {
            return Ok(false);
        };
        let newest_seq: Option<i64> = row.try_get("newest_seq")?;
        let newest_id: Option<String> = row.try_get("newest_id")?;
        self.evidence = Evidence {
            changes: row.try_get("changes")?,
            newest: newest_seq.map(|seq| Newest {
                seq,
                id: newest_id
                    .and_then(|id| stored_id(id.as_bytes()))
                    .unwrap_or_default(),
            }),
        };
        Ok(true)
    }

    /// Whether the table is the one that the ledgers speak of. In another, new events could count as delivered.
    async fn guard_identity(&mut self, table: &Table) -> Result<Option<String>, sqlx::Error> {
        let (relay, source) = (&self.source.relay, &self.source.name);
        let record = "INSERT OR IGNORE INTO outbox_source (relay, source, table_name, incarnation) \
             VALUES (?, ?, ?, ?)";
        let query = sqlx::query(record).bind(relay).bind(source);
        let query = query
            .bind(&self.source.names.plain)
            .bind(&table.incarnation);
        query.execute(&mut *self.connection).await?;
        let known =
            "SELECT table_name, incarnation FROM outbox_source WHERE relay = ? AND source = ?";
        let query = sqlx::query(known).bind(relay).bind(source);
        let row = query.fetch_one(&mut *self.connection).await?;
        let known_table: String = row.try_get("table_name")?;
        let known_incarnation: String = row.try_get("incarnation")?;
        let now = &self.source.names.plain;
        if !known_table.eq_ignore_ascii_case(now) {
            return Ok(Some(format!(
                "the ledgers of source {source} speak of the table {known_table}, not of {now}: {}",
                self.hint()
            )));
        }
        Ok((known_incarnation != table.incarnation).then(|| {
            format!(
                "the table {now} was made anew since the ledgers of source {source} were written: {}",
                self.hint()
            )
        }))
    }

    fn guard_sequence(&self, table: &Table, ledgers: &[StoredLedger]) -> Option<String> {
        let ends = ledgers.iter().filter_map(|ledger| ledger.delivered.end());
        let highest = ends.max()? - 1;
        let last_value = table.last_value;
        (highest > last_value).then(|| {
            format!(
                "the ledgers of source {} reach up to {highest}, but seq has only come to {last_value}: {}",
                self.source.name,
                self.hint()
            )
        })
    }

    /// Whether the newest event that the holding before has read is still the one of its `seq`: a sequence that was
    /// set back may have come past it by now. One that nobody has delivered tells nothing.
    async fn guard_newest(
        &mut self,
        table: &Table,
        ledgers: &[StoredLedger],
    ) -> Result<Option<String>, sqlx::Error> {
        let Some(newest) = self.evidence.newest else {
            return Ok(None);
        };
        let sql = format!("SELECT id FROM {} WHERE seq = ?", self.source.names.table);
        let query = sqlx::query(AssertSqlSafe(sql)).bind(newest.seq);
        let row = query.fetch_optional(&mut *self.connection).await?;
        let id: Option<Vec<u8>> = row.map(|row| row.try_get_unchecked("id")).transpose()?;
        if newest.stands_in(table, id.as_deref()) {
            return Ok(None);
        }
        self.evidence.newest = None;
        let counts = ledgers
            .iter()
            .any(|ledger| ledger.delivered.contains(newest.seq));
        Ok(counts.then(|| {
            format!(
                "the event with seq {} is another than the one that source {} has delivered: seq was drawn a \
                 second time, and {}",
                newest.seq,
                self.source.name,
                self.hint()
            )
        }))
    }

    fn hint(&self) -> String {
        format!(
            "new events would count as delivered. Look at the table, then run \
             `outbox-relay ledger reset --source {}`",
            self.source.name
        )
    }

    /// Stores ledgers for sinks that have none, before their first read. A sink that must say where it starts and
    /// doesn't gets none: returns what to do about it. Nor does one, while others have theirs, for which the table has
    /// to be gone through first, unless it `joins` by itself.
    pub(super) async fn store_missing(
        &mut self,
        sinks: &[SinkStart],
        table: &Table,
        joins: bool,
    ) -> Result<Option<String>, sqlx::Error> {
        let (relay, source) = (&self.source.relay, &self.source.name);
        let stored =
            sqlx::query_scalar("SELECT sink FROM outbox_ledger WHERE relay = ? AND source = ?");
        let stored = stored.bind(relay).bind(source);
        let stored: BTreeSet<String> = stored
            .fetch_all(&mut *self.connection)
            .await?
            .into_iter()
            .collect();
        let mut refusal = None;
        let marked = self.marked.as_ref();
        let marked = marked.filter(|marked| marked.is_of(table, self.sequence_filenode));
        for joining in sinks.iter().filter(|start| !stored.contains(&start.sink)) {
            let sink = &joining.sink;
            let Some(start) = start_of(joining, !stored.is_empty()) else {
                refusal = Some(format!(
                    "the sink {sink} joins source {source} which has ledgers already: say where it starts \
                     by sinks.{sink}.start = \"latest\", \"unsettled\" or \"earliest\""
                ));
                continue;
            };
            if start == Start::Unsettled && !stored.is_empty() && !joins {
                continue;
            }
            let delivered = self
                .source
                .delivered_at_start(self.connection, start, table, marked);
            let delivered = delivered.await?;
            let sql = "INSERT INTO outbox_ledger (relay, source, sink, token, delivered) VALUES (?, ?, ?, ?, ?)";
            let query = sqlx::query(sql).bind(relay).bind(source).bind(sink);
            let query = query
                .bind(self.token.to_string())
                .bind(delivered.to_string());
            query.execute(&mut *self.connection).await?;
            // Nothing but marked rows lies below the oldest row without sent_at.
            if start == Start::Unsettled {
                let home = (relay.as_str(), source.as_str());
                Record::Marked
                    .add(self.connection, home, &delivered)
                    .await?;
            }
        }
        Ok(refusal)
    }

    /// Stamps the token on every ledger of the source and only then reads them.
    async fn stamp(&mut self) -> Result<Vec<StoredLedger>, sqlx::Error> {
        let sql = "UPDATE outbox_ledger SET token = ? WHERE relay = ? AND source = ? \
             RETURNING sink, delivered, closed";
        let query = sqlx::query(sql).bind(self.token.to_string());
        let query = query.bind(&self.source.relay).bind(&self.source.name);
        let rows = query.fetch_all(&mut *self.connection).await?;
        rows.iter().map(stored_ledger).collect()
    }
}

pub(super) fn stored_ledger(row: &SqliteRow) -> Result<StoredLedger, sqlx::Error> {
    Ok(StoredLedger {
        sink: row.try_get("sink")?,
        delivered: ranges(row, "delivered")?,
        closed: ranges(row, "closed")?,
    })
}
