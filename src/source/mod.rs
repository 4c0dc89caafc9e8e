//! Sources: a database with an outbox table, the leases and the ledgers kept beside it.
//!
//! This module is the contract between a source and the pipelines that it feeds. The pipelines know nothing of
//! SQL; a source knows nothing of brokers.

pub mod bell;
pub mod bookkeeping;
pub mod dead_letters;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) mod headers;
pub mod overview;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod replay;
#[cfg(any(feature = "postgres", feature = "sqlite"))]
mod settling;
#[cfg(feature = "sqlite")]
pub mod sqlite;
mod writer;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use tokio::time::Instant;
use uuid::Uuid;

use self::bell::Bell;
use self::bookkeeping::Abandoned;
use self::overview::{Overview, Ownership};
use crate::config;
use crate::error::BoxError;
use crate::event::Event;
use crate::ledger::RangeSet;

pub use self::writer::EventWriter;

/// How long a lease lasts, by the database's clock, unless it is renewed.
pub const LEASE_TTL: Duration = Duration::from_secs(10);

/// How often a lease is renewed.
pub const LEASE_RENEWAL: Duration = Duration::from_secs(3);

/// How long before its lease ends a relay that could not renew it stops publishing: time for what is in flight
/// to land.
pub const LEASE_MARGIN: Duration = Duration::from_secs(2);

/// How often a standby tries to take the lease.
pub const STANDBY_INTERVAL: Duration = Duration::from_secs(1);

/// A database with an outbox table.
#[async_trait]
pub trait Source: Send + Sync + std::fmt::Debug {
    /// Checks that the tables are there, of the version this relay knows, and such that the relay can keep its
    /// promises on them.
    async fn inspect(&self) -> Result<(), SourceError>;

    /// Does what may take long before the next [`Source::acquire`], which must not: finds out where ledgers that
    /// `sinks` lack start, in a large table. Writes nothing, and may be dropped half-way. At once if another relay has
    /// the lease, or a sink has its ledger.
    async fn prepare(&self, _sinks: &[SinkStart]) -> Result<(), SourceError> {
        Ok(())
    }

    /// Takes the lease if nobody has it, and stamps a fresh token on every ledger of the source before reading
    /// them. Ledgers that `sinks` lack are stored first, but for those of sinks that must say where they start and
    /// don't, or whose start takes long to find out while others have theirs: these [join](Source::join), or are
    /// refused, by themselves. `None` if another relay has the lease.
    async fn acquire(&self, sinks: &[SinkStart]) -> Result<Option<Grant>, SourceError>;

    /// Prolongs the lease. `Ok(false)`: it has another token, or the server another incarnation.
    async fn renew(&self, lease: &LeaseId) -> Result<bool, SourceError>;

    /// Gives the lease up, so that a standby need not wait for its end.
    async fn release(&self, lease: &LeaseId) -> Result<(), SourceError>;

    /// Has a sink join, or join again, under a lease that is held: it is new, ran with other settings until now, or
    /// somebody else has written to its ledger or dropped it. Stores its ledger if there is none, as
    /// [`Source::acquire`] does, stamps the token on it and reads it. `None` if the lease is no longer ours.
    ///
    /// # Errors
    /// [`SourceError::Refused`] if it has no ledger, others have, and `sink` doesn't say where it starts.
    async fn join(
        &self,
        lease: &LeaseId,
        sink: &SinkStart,
    ) -> Result<Option<StoredLedger>, SourceError>;

    /// A reader of what `delivered` lacks. It connects at its first read.
    async fn reader(
        &self,
        lease: &LeaseId,
        delivered: &RangeSet,
    ) -> Result<Box<dyn Reader>, SourceError>;

    /// What wakes idle pipelines, for one holding of the lease; `None` if they are to poll. The future rings for
    /// ever; dropping it silences the bell.
    fn doorbell(&self) -> Option<(Bell, BoxFuture<'static, ()>)> {
        None
    }

    /// What the database says of the source and its ledgers, without taking part; the tables need not be fit for
    /// anything else. `None`: this kind of source can't tell.
    async fn overview(&self) -> Result<Option<Overview>, SourceError> {
        Ok(None)
    }

    /// Who has the lease, and which open transactions may own holes, on a connection made for it. `None`: this kind of
    /// source can't tell.
    async fn ownership(&self) -> Result<Option<Ownership>, SourceError> {
        Ok(None)
    }

    /// How many dead letters stand in the table, by sink; a sink without any is left out. `None`: this kind of
    /// source can't tell.
    async fn dead_letters(&self) -> Result<Option<BTreeMap<String, u64>>, SourceError> {
        Ok(None)
    }

    /// Ledgers of the table that no relay keeps at the moment, other than those of this relay's source: what they lack
    /// is not settled. Some of them, if there are many; none if nothing is settled anyway.
    async fn abandoned(&self) -> Result<Vec<Abandoned>, SourceError> {
        Ok(Vec::new())
    }

    /// Sinks whose ledgers, stored for this source, decide what is settled, in the configuration or not; none if nothing
    /// is settled anyway.
    async fn settling_sinks(&self) -> Result<Vec<String>, SourceError> {
        Ok(Vec::new())
    }

    /// What settles delivered rows as the configuration says. `None`: this source keeps every row as it is.
    async fn settler(&self, _lease: &LeaseId) -> Result<Option<Box<dyn Settler>>, SourceError> {
        Ok(None)
    }

    /// A store for the ledger of `sink`.
    fn ledger_store(&self, lease: &LeaseId, sink: &str) -> Box<dyn LedgerStore>;
}

/// Reads events in the order of `seq`, each one once, as soon as it is visible.
#[async_trait]
pub trait Reader: Send {
    /// The next events: at most `limit` of them, and no more than fit into `bytes`, but at least one if there
    /// is one. After an error nothing that was not returned counts as read.
    async fn read(&mut self, limit: usize, bytes: usize) -> Result<Batch, SourceError>;

    /// Events that were read before, once more, in the order of `seq`; those that don't fit into `bytes` are
    /// left out at the end, never the first. Rows that are gone are named by [`Fetched::gone`].
    async fn fetch(&mut self, seqs: &[i64], bytes: usize) -> Result<Fetched, SourceError>;

    /// Looks once more into holes that were closed, and returns the rows found there after all: their holes are
    /// open again, so that the next read shows them. A source without holes finds nothing.
    async fn look_again(&mut self, _closed: &RangeSet) -> Result<RangeSet, SourceError> {
        Ok(RangeSet::new())
    }

    /// How many events are still to be read at most, as [`Batch::unread`], without reading them: asked every few
    /// seconds while there is no room for more.
    async fn unread(&mut self) -> Result<u64, SourceError>;

    /// How long an idle pipeline waits at most before it reads again, even if no bell rings.
    fn idle_wait(&self) -> Duration;

    /// Ranges of `seq` below the highest seen that are neither seen nor closed.
    fn holes(&self) -> usize;
}

/// What one read found.
#[derive(Debug, Default)]
pub struct Batch {
    /// Events in the order of `seq`.
    pub events: Vec<Arc<Event>>,
    /// Holes that were proven dead: they need nothing more.
    pub closed: RangeSet,
    /// Whether the read was cut off by a limit, so that the next one finds more at once.
    pub more: bool,
    /// At most this many events are still to be read.
    pub unread: u64,
}

/// What [`Reader::fetch`] found.
#[derive(Debug, Default)]
pub struct Fetched {
    /// Events in the order of `seq`.
    pub events: Vec<Arc<Event>>,
    /// Rows that somebody has deleted although no ledger has them.
    pub gone: Vec<i64>,
}

/// Stores the ledger of one pipeline, fenced by the lease's token.
#[async_trait]
pub trait LedgerStore: Send {
    /// Stores the ledger and, in the same transaction, dead letters.
    ///
    /// # Errors
    /// [`SourceError::Fenced`] if the token on the ledger, or the incarnation of the server, is another: nothing
    /// was written.
    async fn flush(&mut self, flush: &Flush) -> Result<(), SourceError>;

    /// Whether the ledger is still the one that was read: a command may have changed it while there was nothing to
    /// store. Writes nothing.
    ///
    /// # Errors
    /// [`SourceError::Fenced`] as by [`LedgerStore::flush`].
    async fn still_ours(&mut self) -> Result<(), SourceError>;
}

/// Settles rows that every ledger has: marks or deletes them, and deletes those that are older than the retention.
#[async_trait]
pub trait Settler: Send {
    /// One bounded step: a few thousand of the lowest rows that *every* ledger stored for the table has, whatever
    /// relay or sink it belongs to, as the ledgers are at that moment; a closed hole counts only once it is no
    /// longer among a ledger's `closed`. What was deleted is recorded, so that its gap is no hole to a ledger that
    /// starts later. It must be safe against a ledger that is changed or added meanwhile, and against a lease that
    /// was lost: only the ledgers decide.
    ///
    /// # Errors
    /// [`SourceError::Changed`] if the server or the sequence is another than that of the lease: nothing was done.
    async fn settle(&mut self) -> Result<Settled, SourceError>;
}

/// What one step of a [`Settler`] did.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Settled {
    /// Rows marked as sent.
    pub marked: u64,
    /// Rows deleted after delivery.
    pub deleted: u64,
    /// Rows deleted because of their age.
    pub expired: u64,
    /// Whether another step has more to do at once.
    pub more: bool,
}

/// What a flush writes.
#[derive(Debug, Default)]
pub struct Flush {
    /// What needs nothing more, as an `int8multirange` literal.
    pub delivered: String,
    /// Holes closed and not yet looked at once more, as an `int8multirange` literal.
    pub closed: String,
    /// Refused events.
    pub dead_letters: Vec<DeadLetter>,
}

/// An event that the broker refused for good.
#[derive(Debug, Clone)]
pub struct DeadLetter {
    /// The event.
    pub event: Arc<Event>,
    /// Why, in words.
    pub reason: String,
    /// How many attempts were refused.
    pub attempts: u32,
}

/// Where the ledger of a configured sink starts if it isn't stored yet.
#[derive(Debug, Clone)]
pub struct SinkStart {
    /// The sink's name.
    pub sink: String,
    /// What the configuration says; `None` is allowed for the first ledgers of a source only.
    pub start: Option<config::Start>,
}

/// Names one holding of a lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseId {
    /// Fresh and random for each acquisition.
    pub token: Uuid,
    /// The server that gave it: system identifier, timeline and start of the postmaster.
    pub incarnation: String,
    /// The file of the sequence that `seq` is drawn from.
    pub sequence_filenode: i64,
}

/// A lease that was taken, with the ledgers as they were stored.
#[derive(Debug)]
pub struct Grant {
    /// Which holding it is.
    pub lease: LeaseId,
    /// When the statement that took it was sent: the lease lasts at least [`LEASE_TTL`] from then.
    pub asked_at: Instant,
    /// One per sink that was asked for and has a ledger.
    pub ledgers: Vec<StoredLedger>,
    /// Sinks that have a ledger here and are not in the configuration.
    pub strangers: Vec<String>,
}

/// A ledger as it is stored.
#[derive(Debug, Clone)]
pub struct StoredLedger {
    /// The sink's name.
    pub sink: String,
    /// What needs nothing more.
    pub delivered: RangeSet,
    /// Holes closed and not yet looked at once more.
    pub closed: RangeSet,
}

impl config::SourceKind {
    /// The error of a command that needs a kind of source which this build lacks.
    #[must_use]
    pub fn not_built(&self) -> SourceError {
        let feature = match self {
            Self::Postgres(_) => "postgres",
            Self::Sqlite(_) => "sqlite",
        };
        SourceError::Refused(format!(
            "this build has no source of type {feature}: build it with the feature `{feature}`"
        ))
    }
}

/// What went wrong with a source, and so what becomes of the session.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The database can't be reached, or a statement failed: tried again with backoff.
    #[error("{action}")]
    Database {
        /// What was tried.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: BoxError,
    },
    /// The ledger or the lease has another token: all memory of the pipeline is dropped.
    #[error("the ledger is no longer held by this relay")]
    Fenced,
    /// The server is another one than before, or its sequence is: all memory of the source is dropped.
    #[error(
        "the database server, its timeline or the outbox sequence is no longer the one of this session"
    )]
    Changed,
    /// The tables are missing or of another version: the relay ends and says how to go on.
    #[error("{0}")]
    Migrate(String),
    /// The tables are such that nothing can be promised: the source stops until an operator has acted.
    #[error("{0}")]
    Refused(String),
}
