//! What a source's database says of itself and its ledgers, whether or not a relay runs.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use crate::excerpt::printable;
use crate::ledger::RangeSet;

/// How many pending events of one ledger are counted. Counting goes through the index, row by row: so many take some
/// ten milliseconds, and nobody acts otherwise on one more.
pub const MAX_COUNTED: u64 = 100_000;

/// How many open transactions are named.
pub const MAX_OPEN: usize = 20;

/// A source as its database describes it, by the database's clock.
#[derive(Debug, Clone, PartialEq)]
pub struct Overview {
    /// When this was asked.
    pub at: DateTime<Utc>,
    /// The outbox table.
    pub table: String,
    /// The `seq` drawn last, also by transactions that are open or were rolled back; 0: none yet.
    pub last_value: i64,
    /// Whether the ledgers speak of another sequence than the table's: nothing is published until they are reset.
    pub sequence_changed: bool,
    /// Who had the lease last; `None` if nobody ever had it.
    pub lease: Option<LeaseHolder>,
    /// Transactions that may own what has a `seq` and doesn't show, oldest first, [`MAX_OPEN`] at most.
    pub open: Vec<OpenTransaction>,
    /// Every ledger that is stored for this relay and source, configured or not, by sink.
    pub ledgers: Vec<LedgerOverview>,
    /// Dead letters by sink, also of sinks that have no ledger any more. A sink without any is left out.
    pub dead_letters: BTreeMap<String, u64>,
}

/// Who has a source, and who may own its holes, by the database's clock: what costs the same however full its table is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ownership {
    /// When this was asked.
    pub at: DateTime<Utc>,
    /// Who had the lease last; `None` if nobody ever had it.
    pub lease: Option<LeaseHolder>,
    /// As [`Overview::open`].
    pub open: Vec<OpenTransaction>,
}

/// A transaction that has written to the outbox table, or is about to, and has not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenTransaction {
    /// Its backend; `None`: it is prepared, and waits for its second phase.
    pub pid: Option<i32>,
    /// The name of a prepared transaction.
    pub prepared: Option<String>,
    /// Who runs it.
    pub user: Option<String>,
    /// What its connection calls itself.
    pub application: Option<String>,
    /// When it began; `None`: this relay's user may not know (`pg_read_all_stats`).
    pub began_at: Option<DateTime<Utc>>,
}

/// Who has the lease, or had it last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseHolder {
    /// The process.
    pub owner: String,
    /// Until when, unless it is renewed; `None` if it was given up.
    pub expires_at: Option<DateTime<Utc>>,
}

/// A stored ledger against the rows of the table.
#[derive(Debug, Clone, PartialEq)]
pub struct LedgerOverview {
    /// The sink's name.
    pub sink: String,
    /// What needs nothing more. A running relay is ahead of this by what was acknowledged since.
    pub delivered: RangeSet,
    /// When it was last stored.
    pub stored_at: DateTime<Utc>,
    /// Visible rows that the ledger lacks, up to [`MAX_COUNTED`].
    pub pending: u64,
    /// Whether there are more than that.
    pub uncounted: bool,
    /// The lowest of them.
    pub oldest: Option<OldestPending>,
}

/// The pending event of the lowest `seq`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OldestPending {
    /// Its place in the table.
    pub seq: i64,
    /// When it was written; `None` if the row says infinity.
    pub created_at: Option<DateTime<Utc>>,
}

impl std::fmt::Display for OpenTransaction {
    /// What tells an operator which one it is.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.pid, &self.prepared) {
            (Some(pid), _) => write!(f, "backend {pid}")?,
            (None, Some(name)) => write!(f, "prepared transaction {}", printable(name))?,
            (None, None) => write!(f, "a prepared transaction")?,
        }
        let application = self.application.as_deref().filter(|name| !name.is_empty());
        let about: Vec<String> = [
            application.map(printable),
            self.user
                .as_ref()
                .map(|user| format!("user {}", printable(user))),
        ]
        .into_iter()
        .flatten()
        .collect();
        if about.is_empty() {
            return Ok(());
        }
        write!(f, " ({})", about.join(", "))
    }
}

impl LeaseHolder {
    /// Whether the lease was held at this time.
    #[must_use]
    pub fn holds_at(&self, at: DateTime<Utc>) -> bool {
        self.expires_at.is_some_and(|expires_at| expires_at > at)
    }
}

impl LedgerOverview {
    /// The lowest `seq` that the ledger lacks, whether or not there is a row.
    #[must_use]
    pub fn lowest_undelivered(&self) -> i64 {
        self.delivered.lowest_missing(1)
    }

    /// How many `seq` up to the one drawn last have no visible row and are not in the ledger: of open transactions, or
    /// of rolled-back ones that no relay has proven so yet. `None` if the pending rows were not all counted.
    #[must_use]
    pub fn holes(&self, last_value: i64) -> Option<u64> {
        let end = last_value.saturating_add(1);
        let lacking = |(first, after): (i64, i64)| first.max(1).abs_diff(after.min(end));
        let has = self
            .delivered
            .iter()
            .filter(|(first, after)| *first < end && *after > 1);
        let has: u64 = has.map(lacking).sum();
        let drawn = last_value.max(0).unsigned_abs();
        (!self.uncounted).then(|| drawn.saturating_sub(has).saturating_sub(self.pending))
    }

    /// The highest `seq` that the ledger has.
    #[must_use]
    pub fn highest_delivered(&self) -> Option<i64> {
        self.delivered.end().map(|end| end - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_says_where_it_is_up_to() {
        for (delivered, lowest, highest) in [
            ("{}", 1, None),
            ("{[1,5)}", 5, Some(4)),
            ("{[3,5)}", 1, Some(4)),
            ("{[1,5),[7,8)}", 5, Some(7)),
        ] {
            let ledger = LedgerOverview {
                sink: "s".into(),
                delivered: RangeSet::parse(delivered).expect("a multirange"),
                stored_at: DateTime::default(),
                pending: 0,
                uncounted: false,
                oldest: None,
            };
            let found = (ledger.lowest_undelivered(), ledger.highest_delivered());
            assert_eq!(found, (lowest, highest), "{delivered}");
        }
    }

    #[test]
    fn what_was_drawn_and_neither_delivered_nor_visible_is_a_hole() {
        for (delivered, last_value, pending, holes) in [
            ("{}", 0, 0, 0),
            ("{}", 5, 2, 3),
            ("{[1,5)}", 4, 0, 0),
            ("{[-9,3),[4,6)}", 7, 1, 2),
            ("{[1,9)}", 4, 1, 0),
        ] {
            let mut ledger = LedgerOverview {
                sink: "s".into(),
                delivered: RangeSet::parse(delivered).expect("a multirange"),
                stored_at: DateTime::default(),
                pending,
                uncounted: false,
                oldest: None,
            };
            assert_eq!(
                ledger.holes(last_value),
                Some(holes),
                "{delivered} of {last_value}"
            );
            ledger.uncounted = true;
            assert_eq!(ledger.holes(last_value), None);
        }
    }

    #[test]
    fn a_lease_ends() {
        let at = DateTime::from_timestamp_micros(1_000_000);
        let holder = |expires_at| LeaseHolder {
            owner: "o".into(),
            expires_at,
        };
        let now = at.expect("a time");
        assert!(!holder(at).holds_at(now));
        assert!(holder(at.map(|at| at + chrono::TimeDelta::seconds(1))).holds_at(now));
        assert!(!holder(None).holds_at(now));
    }
}
