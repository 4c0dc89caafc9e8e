//! What commands may do to ledgers, from outside the relay that keeps them.

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::SourceError;
use crate::config::Start;
use crate::ledger::RangeSet;

/// The ledgers of one outbox table, whoever keeps them. Each change stamps a fresh token, so that a relay that runs
/// drops what it remembers at its next flush and reads the ledger anew.
#[async_trait]
pub trait Bookkeeping: Send + Sync {
    /// All ledgers stored for the table: these decide together what is settled.
    async fn list(&self) -> Result<Vec<LedgerEntry>, SourceError>;

    /// Drops a ledger; its dead letters stay. `Ok(false)`: there is none of this name.
    async fn drop_ledger(&self, ledger: &LedgerName) -> Result<bool, SourceError>;

    /// Gives a ledger, and its dead letters, to another sink. `Ok(false)`: there is none of this name.
    ///
    /// # Errors
    /// Among others, if the other sink has a ledger.
    async fn rename(&self, ledger: &LedgerName, to: &str) -> Result<bool, SourceError>;

    /// Starts every ledger of the configured source anew on the table and the sequence as they are now; what was
    /// recorded of settled rows is forgotten. Returns the ledgers as they start.
    ///
    /// Ledgers that other relays keep on the table become [stale](LedgerEntry::stale), for they speak of numbers that
    /// are drawn a second time, unless that was known before: then those that are not stale were reset since.
    async fn reset(&self, start: Start) -> Result<Vec<(String, RangeSet)>, SourceError>;
}

/// Names one ledger.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LedgerName {
    /// The relay's name.
    pub relay: String,
    /// The source's name in that relay's configuration.
    pub source: String,
    /// The sink's.
    pub sink: String,
}

/// A ledger that no relay keeps at the moment.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Abandoned {
    /// Whose it is.
    pub name: LedgerName,
    /// Whether it is [stale](LedgerEntry::stale): its relay may run, and is halted until it is reset.
    pub halted: bool,
}

/// A stored ledger, as a command shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerEntry {
    /// Whose it is.
    pub name: LedgerName,
    /// What needs nothing more.
    pub delivered: RangeSet,
    /// When it was last stored.
    pub updated_at: DateTime<Utc>,
    /// The process that holds the lease of its source now.
    pub holder: Option<String>,
    /// Whether that process still has to read it anew: somebody has changed it.
    pub changed: bool,
    /// Whether it speaks of another sequence than the table's: it counts as empty until it is reset.
    pub stale: bool,
}
