//! What `status --json` prints. Field names are part of the interface: fields may be added, none is renamed.
//!
//! Ages and times are by each source's own database.

use std::collections::BTreeSet;

use chrono::{DateTime, TimeDelta, Utc};
use futures::future::join_all;
use serde::Serialize;

use crate::config::Config;
use crate::error::chain;
use crate::relay;
use crate::source::bookkeeping::Abandoned;
use crate::source::overview::{LedgerOverview, OldestPending, OpenTransaction, Overview};
use crate::source::{Source, SourceError};

/// All that there is to say.
#[derive(Debug, Serialize)]
pub(super) struct Survey {
    /// This program's version.
    pub(super) version: &'static str,
    /// The relay's name: leases and ledgers are kept under it.
    pub(super) relay: String,
    /// Every configured source, by name.
    pub(super) sources: Vec<SourceStatus>,
}

/// A source.
#[derive(Debug, Default, Serialize)]
pub(super) struct SourceStatus {
    /// Its name.
    pub(super) source: String,
    /// Whether its database answers.
    pub(super) reachable: bool,
    /// Why it isn't reachable, or what is wrong with its tables; null if nothing is.
    pub(super) error: Option<String>,
    /// The outbox table; null, as all that follows is, if nothing could be read.
    pub(super) table: Option<String>,
    /// The `seq` drawn last, also by transactions that are open or were rolled back; 0: none yet.
    pub(super) last_value: Option<i64>,
    /// Whether the ledgers speak of another sequence than the table's: nothing is published until
    /// `outbox-relay ledger reset`.
    pub(super) sequence_changed: Option<bool>,
    /// Who has the lease, or had it last; null if nobody ever had it.
    pub(super) lease: Option<LeaseStatus>,
    /// Ledgers on the table that no relay keeps, of another name or source: what they lack is never settled. Null if
    /// that could not be read.
    pub(super) abandoned_ledgers: Option<Vec<AbandonedLedger>>,
    /// Transactions that have written to the table and not ended, oldest first: what they have drawn shows when they
    /// commit.
    pub(super) open_transactions: Option<Vec<OpenTransactionStatus>>,
    /// Configured sinks, and others that have left a ledger or dead letters; by name.
    pub(super) sinks: Vec<SinkStatus>,
}

/// A ledger that no relay keeps.
#[derive(Debug, Serialize)]
pub(super) struct AbandonedLedger {
    /// The relay that kept it.
    pub(super) relay: String,
    /// The source's name there.
    pub(super) source: String,
    /// The sink's.
    pub(super) sink: String,
    /// Whether it speaks of another sequence than the table's: that relay is halted until `outbox-relay ledger reset`.
    pub(super) halted: bool,
}

/// A transaction that may own holes.
#[derive(Debug, Serialize)]
pub(super) struct OpenTransactionStatus {
    /// Which one it is, in words.
    pub(super) who: String,
    /// Its backend; null if it is prepared.
    pub(super) pid: Option<i32>,
    /// Seconds since it began; null if the relay's user may not know.
    pub(super) age_seconds: Option<f64>,
}

/// A lease.
#[derive(Debug, Serialize)]
pub(super) struct LeaseStatus {
    /// The process.
    pub(super) owner: String,
    /// Whether it holds the lease now: a relay runs, or died less than ten seconds ago.
    pub(super) held: bool,
    /// Seconds until the lease ends unless it is renewed; negative: it has ended; null: it was given up.
    pub(super) expires_in_seconds: Option<f64>,
}

/// A sink of a source.
#[derive(Debug, Serialize)]
pub(super) struct SinkStatus {
    /// Its name.
    pub(super) sink: String,
    /// Whether the configuration has it, fed by this source.
    pub(super) configured: bool,
    /// Its ledger; null if none is stored.
    pub(super) ledger: Option<LedgerStatus>,
    /// Dead letters that stand in the table.
    pub(super) dead_letters: u64,
}

/// A ledger as it is stored: a running relay is ahead of it by what was acknowledged since the last flush.
#[derive(Debug, Serialize)]
pub(super) struct LedgerStatus {
    /// The lowest `seq` that it lacks, whether or not there is an event.
    pub(super) lowest_undelivered: i64,
    /// The highest `seq` that it has; null if it has none.
    pub(super) highest_delivered: Option<i64>,
    /// How many ranges it is made of: one if everything up to the highest is delivered.
    pub(super) ranges: usize,
    /// Events in the table that it lacks.
    pub(super) pending: u64,
    /// Whether `pending` is all of them; false: counting stopped there.
    pub(super) pending_is_exact: bool,
    /// How many `seq` were drawn that it lacks and that no event shows: of open transactions, or of rolled-back ones
    /// that no relay has proven so yet. Null if the pending were not all counted.
    pub(super) holes: Option<u64>,
    /// The lowest of the pending; null if there is none.
    pub(super) oldest_pending: Option<OldestStatus>,
    /// When it was last stored.
    pub(super) last_flush: DateTime<Utc>,
    /// Seconds since then.
    pub(super) last_flush_seconds: f64,
}

/// The pending event of the lowest `seq`.
#[derive(Debug, Serialize)]
pub(super) struct OldestStatus {
    /// Its `seq`.
    pub(super) seq: i64,
    /// When it was created; null if the row says infinity.
    pub(super) created_at: Option<DateTime<Utc>>,
    /// Seconds since then.
    pub(super) age_seconds: Option<f64>,
}

impl Survey {
    /// Asks every configured source, all at the same time: one that doesn't answer keeps no other waiting.
    pub(super) async fn of(config: &Config) -> Self {
        let names = config.sources.keys();
        Self {
            version: env!("CARGO_PKG_VERSION"),
            relay: config.relay.name.clone(),
            sources: join_all(names.map(|name| SourceStatus::of(config, name))).await,
        }
    }

    /// The sources that something is wrong with.
    pub(super) fn failed(&self) -> impl Iterator<Item = &str> {
        let failed = self.sources.iter().filter(|source| source.error.is_some());
        failed.map(|source| source.source.as_str())
    }
}

impl SourceStatus {
    async fn of(config: &Config, name: &str) -> Self {
        let failed = |error: &SourceError| Self {
            source: name.to_owned(),
            reachable: !matches!(error, SourceError::Database { .. }),
            error: Some(chain(error)),
            ..Self::default()
        };
        let source = match relay::open(config, name) {
            Ok(source) => source,
            Err(error) => return failed(&error),
        };
        let unfit = match source.inspect().await {
            Err(error @ SourceError::Database { .. }) => return failed(&error),
            // The ledgers may be there all the same.
            inspected => inspected.err(),
        };
        match (source.overview().await, unfit) {
            (Ok(Some(overview)), unfit) => Self {
                error: unfit.map(|error| chain(&error)),
                abandoned_ledgers: abandoned(&*source).await,
                ..Self::reached(config, name, &overview)
            },
            (_, Some(error)) | (Err(error), None) => failed(&error),
            (Ok(None), None) => Self {
                source: name.to_owned(),
                reachable: true,
                error: Some("this kind of source can't tell its status yet".into()),
                ..Self::default()
            },
        }
    }

    fn reached(config: &Config, name: &str, overview: &Overview) -> Self {
        let lease = overview.lease.as_ref().map(|lease| LeaseStatus {
            owner: lease.owner.clone(),
            held: lease.holds_at(overview.at),
            expires_in_seconds: lease.expires_at.map(|end| seconds(end - overview.at)),
        });
        Self {
            source: name.to_owned(),
            reachable: true,
            error: None,
            table: Some(overview.table.clone()),
            last_value: Some(overview.last_value),
            sequence_changed: Some(overview.sequence_changed),
            lease,
            abandoned_ledgers: None,
            open_transactions: Some(
                overview
                    .open
                    .iter()
                    .map(|open| open_status(open, overview.at))
                    .collect(),
            ),
            sinks: sinks(config, name, overview),
        }
    }
}

async fn abandoned(source: &dyn Source) -> Option<Vec<AbandonedLedger>> {
    let ledgers = source.abandoned().await.ok()?.into_iter();
    let entry = |ledger: Abandoned| AbandonedLedger {
        relay: ledger.name.relay,
        source: ledger.name.source,
        sink: ledger.name.sink,
        halted: ledger.halted,
    };
    Some(ledgers.map(entry).collect())
}

fn sinks(config: &Config, source: &str, overview: &Overview) -> Vec<SinkStatus> {
    let configured: BTreeSet<&str> = config
        .fed_by(source)
        .map(|sink| sink.name.as_str())
        .collect();
    let stored = overview.ledgers.iter().map(|ledger| ledger.sink.as_str());
    let dead = overview.dead_letters.keys().map(String::as_str);
    let names: BTreeSet<&str> = configured
        .iter()
        .copied()
        .chain(stored)
        .chain(dead)
        .collect();
    let status = |name: &str| {
        let mut ledgers = overview.ledgers.iter();
        let ledger = ledgers.find(|ledger| ledger.sink == name);
        SinkStatus {
            sink: name.to_owned(),
            configured: configured.contains(name),
            ledger: ledger.map(|ledger| ledger_status(ledger, overview)),
            dead_letters: overview.dead_letters.get(name).copied().unwrap_or(0),
        }
    };
    names.into_iter().map(status).collect()
}

fn open_status(open: &OpenTransaction, at: DateTime<Utc>) -> OpenTransactionStatus {
    OpenTransactionStatus {
        who: open.to_string(),
        pid: open.pid,
        age_seconds: open
            .began_at
            .map(|began_at| seconds(at - began_at).max(0.0)),
    }
}

fn ledger_status(ledger: &LedgerOverview, overview: &Overview) -> LedgerStatus {
    let at = overview.at;
    let oldest = |oldest: &OldestPending| OldestStatus {
        seq: oldest.seq,
        created_at: oldest.created_at,
        age_seconds: oldest.created_at.map(|created_at| seconds(at - created_at)),
    };
    LedgerStatus {
        lowest_undelivered: ledger.lowest_undelivered(),
        highest_delivered: ledger.highest_delivered(),
        ranges: ledger.delivered.len(),
        pending: ledger.pending,
        pending_is_exact: !ledger.uncounted,
        holes: ledger.holes(overview.last_value),
        oldest_pending: ledger.oldest.as_ref().map(oldest),
        last_flush: ledger.stored_at,
        last_flush_seconds: seconds(at - ledger.stored_at),
    }
}

/// To the millisecond.
#[allow(clippy::cast_precision_loss)] // exact for any age that can be
fn seconds(span: TimeDelta) -> f64 {
    span.num_milliseconds() as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{documented_fields, fields};

    #[test]
    fn its_fields_have_the_documented_names() {
        let ledger = LedgerStatus {
            lowest_undelivered: 1,
            highest_delivered: None,
            ranges: 0,
            pending: 1,
            pending_is_exact: true,
            holes: None,
            oldest_pending: Some(OldestStatus {
                seq: 1,
                created_at: None,
                age_seconds: None,
            }),
            last_flush: DateTime::default(),
            last_flush_seconds: 0.0,
        };
        let source = SourceStatus {
            lease: Some(LeaseStatus {
                owner: "app-1".to_owned(),
                held: true,
                expires_in_seconds: None,
            }),
            abandoned_ledgers: Some(vec![AbandonedLedger {
                relay: "former".to_owned(),
                source: "app".to_owned(),
                sink: "out".to_owned(),
                halted: true,
            }]),
            open_transactions: Some(vec![OpenTransactionStatus {
                who: "backend 7".to_owned(),
                pid: Some(7),
                age_seconds: None,
            }]),
            sinks: vec![SinkStatus {
                sink: "out".to_owned(),
                configured: true,
                ledger: Some(ledger),
                dead_letters: 0,
            }],
            ..SourceStatus::default()
        };
        let survey = Survey {
            version: "1",
            relay: "main".to_owned(),
            sources: vec![source],
        };
        let json = serde_json::to_value(&survey).expect("JSON");
        let documented = documented_fields("## What the database has: outbox-relay status --json");
        assert_eq!(fields(&json), documented);
    }
}
