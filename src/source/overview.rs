//! What a source's database says of itself and its ledgers, whether or not a relay runs.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use crate::ledger::RangeSet;

/// How many pending events of one ledger are counted. Counting goes through the index, row by row: so many take some
/// ten milliseconds, and nobody acts otherwise on one more.
pub const MAX_COUNTED: u64 = 100_000;

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
    /// Every ledger that is stored for this relay and source, configured or not, by sink.
    pub ledgers: Vec<LedgerOverview>,
    /// Dead letters by sink, also of sinks that have no ledger any more. A sink without any is left out.
    pub dead_letters: BTreeMap<String, u64>,
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
