//! Where new ledgers start. To find out, a table may have to be gone through from end to end: that is done before the
//! lease is taken, or beside it, and never inside the transaction that stores a ledger.

use std::time::Duration;

use sqlx::Row as _;

use super::link::Link;
use super::sql;
use super::{INCARNATION, Postgres};
use crate::config::Start;
use crate::ledger::RangeSet;
use crate::source::{SinkStart, SourceError};

const LOOK: &str = "cannot see which ledgers there are";
const LOOK_UP: &str = "cannot look up where new ledgers start";

/// How long one look-up may take: a billion rows in the cache, or some hundred gigabytes of disk.
const LIMIT: Duration = Duration::from_secs(3_600);

/// A server that is told to looks from time to time whether its client still waits: a relay that is stopped leaves
/// nothing behind. Where the platform can't tell, the limit ends it.
const LIMITS: &str = "SET LOCAL statement_timeout = '1h'; DO $$BEGIN PERFORM \
    set_config('client_connection_check_interval', '5s', true); EXCEPTION WHEN OTHERS THEN NULL; END$$; ";

/// What new ledgers count as delivered, as it was looked up.
#[derive(Debug, Default)]
pub(super) struct Starts(Vec<LookedUp>);

#[derive(Debug)]
struct LookedUp {
    start: Start,
    delivered: RangeSet,
    incarnation: String,
    sequence_filenode: i64,
}

impl Starts {
    /// What a ledger of this start has, if that was looked up on this server and by this sequence, and the sequence was
    /// not set back since.
    pub(super) fn delivered(
        &self,
        start: Start,
        incarnation: &str,
        sequence_filenode: i64,
        last_value: i64,
    ) -> Option<&RangeSet> {
        let found = self.0.iter().find(|looked_up| looked_up.start == start)?;
        let fits = found.incarnation == incarnation
            && found.sequence_filenode == sequence_filenode
            && found
                .delivered
                .end()
                .is_none_or(|end| end <= last_value + 1);
        fits.then_some(&found.delivered)
    }
}

/// Where the ledger of a sink starts if the source has ledgers (`any_stored`) or none; `None`: it has to say so.
pub(super) fn start_of(sink: &SinkStart, any_stored: bool) -> Option<Start> {
    match sink.start {
        None if !any_stored => Some(Start::Unsettled),
        start => start,
    }
}

/// The starts of those `sinks` that are not `stored`.
fn missing(sinks: &[SinkStart], stored: &[String]) -> Vec<Start> {
    let missing = sinks.iter().filter(|start| !stored.contains(&start.sink));
    missing
        .filter_map(|sink| start_of(sink, !stored.is_empty()))
        .collect()
}

impl Postgres {
    /// Looks up the starts of the ledgers that `sinks` lack, unless another relay has the lease, which stores them, or
    /// some have a ledger: these don't wait, and the others join by themselves.
    pub(super) async fn starts_before_lease(
        &self,
        sinks: &[SinkStart],
    ) -> Result<Starts, SourceError> {
        let (held, stored) = self.standing(&mut *self.link.lock().await).await?;
        if held || !stored.is_empty() {
            return Ok(Starts::default());
        }
        self.look_up(&missing(sinks, &stored)).await
    }

    /// The same for a sink that joins: on its pipeline's thread, and so by a connection that ends there.
    pub(super) async fn start_beside_lease(&self, sink: &SinkStart) -> Result<Starts, SourceError> {
        let mut link = Link::new(self.options.clone());
        let (_, stored) = self.standing(&mut link).await?;
        link.close().await;
        self.look_up(&missing(std::slice::from_ref(sink), &stored))
            .await
    }

    /// Whether another relay has the lease, and which sinks have a ledger.
    async fn standing(&self, link: &mut Link) -> Result<(bool, Vec<String>), SourceError> {
        let sql = format!(
            "SELECT EXISTS (SELECT FROM {schema}outbox_lease WHERE {key} AND owner <> {owner} \
             AND expires_at > clock_timestamp()) AS held, \
             ARRAY(SELECT sink FROM {schema}outbox_ledger WHERE {key})::text[] AS stored",
            schema = self.names.schema,
            key = self.key_sql(),
            owner = sql::literal(&self.owner),
        );
        let (mut held, mut stored) = (true, Vec::<String>::new());
        link.query(LOOK, sql, |row| {
            (held, stored) = (row.try_get("held")?, row.try_get("stored")?);
            Ok(())
        })
        .await?;
        Ok((held, stored))
    }

    /// On a connection of its own, one after the other.
    pub(super) async fn look_up(&self, starts: &[Start]) -> Result<Starts, SourceError> {
        let mut found = Starts::default();
        let mut link = Link::new(self.options.clone());
        for &start in starts {
            if !self.is_looked_up(start) || found.0.iter().any(|known| known.start == start) {
                continue;
            }
            tracing::info!(
                source = self.name,
                ?start,
                "the table is gone through for where a new ledger starts"
            );
            let sql = format!(
                "{LIMITS}SELECT ({})::text AS delivered, {INCARNATION} AS incarnation, \
                 pg_relation_filenode({})::int8 AS sequence_filenode",
                self.delivered_at_start(start),
                self.names.sequence(),
            );
            link.query_within(LIMIT, LOOK_UP, sql, |row| {
                found.0.push(LookedUp {
                    start,
                    delivered: sql::ranges(&row, "delivered")?,
                    incarnation: row.try_get("incarnation")?,
                    sequence_filenode: row.try_get("sequence_filenode")?,
                });
                Ok(())
            })
            .await?;
        }
        link.close().await;
        Ok(found)
    }

    /// Whether the table tells where it is.
    pub(super) fn is_looked_up(&self, start: Start) -> bool {
        match start {
            Start::Earliest => false,
            Start::Latest => true,
            Start::Unsettled => self.names.columns.sent_at.is_some(),
        }
    }

    /// What a new ledger counts as delivered: only rows that are visible now, never holes.
    pub(super) fn delivered_at_start(&self, start: Start) -> String {
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
            (Start::Latest, _) => visible("true".into()),
            (Start::Unsettled, Some(sent_at)) => visible(format!(
                "{seq} < coalesce((SELECT min({seq}) FROM {table} WHERE {sent_at} IS NULL), \
                 9223372036854775807)"
            )),
            (Start::Earliest, _) | (Start::Unsettled, None) => "SELECT '{}'::int8multirange".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_looked_up_counts_on_its_server_and_its_sequence_only() {
        let starts = Starts(vec![LookedUp {
            start: Start::Latest,
            delivered: std::iter::once((1, 11)).collect(),
            incarnation: "here".into(),
            sequence_filenode: 7,
        }]);
        let found = |start, incarnation, filenode, last_value| {
            let found = starts.delivered(start, incarnation, filenode, last_value);
            found.is_some()
        };
        assert!(found(Start::Latest, "here", 7, 10));
        assert!(!found(Start::Unsettled, "here", 7, 10));
        assert!(!found(Start::Latest, "elsewhere", 7, 10));
        assert!(!found(Start::Latest, "here", 8, 10));
        assert!(!found(Start::Latest, "here", 7, 9), "it was set back");
    }
}
