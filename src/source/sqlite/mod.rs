//! The SQLite source: an outbox in a file, for services that keep their data in one.
//!
//! It keeps the same promises as the PostgreSQL source with less machinery, for two reasons:
//!
//! - **There are no holes.** One connection at a time may write, from its first write to its commit or rollback,
//!   and `AUTOINCREMENT` draws `seq` within that time: numbers of a rolled-back transaction or savepoint are drawn
//!   again. So the order of commits is the order of `seq`, and what a reader sees is always everything up to some
//!   `seq`. A number below a visible one that has no row never gets one: its row was deleted, and it is closed at
//!   once. A trigger keeps writers from choosing numbers that were drawn before.
//! - **There is no server.** Lease and ledger are written under `BEGIN IMMEDIATE`, so that nothing changes between
//!   a look and a write, and everybody's clock is the same machine's.
//!
//! The file is in WAL mode, so that reading never holds up a writer. What can change is the file: another may be
//! put in its place, or an older copy restored into it. It is known by a random name inside
//! ([`LeaseId::incarnation`]), by its inode, and by a counter that only goes up (`holding.rs`).
//!
//! Writers with `synchronous = NORMAL` can lose their last commits when the machine (not the process) crashes:
//! such an event may have been published. Those who mind use `FULL`.

mod acquisition;
mod bookkeeping;
mod dead_letters;
mod holding;
mod inspect;
mod joining;
mod lease;
mod link;
mod migrate;
mod overview;
mod reader;
mod replay;
mod rows;
mod settle;
mod settled;
mod shape;
mod sql;
mod starts;
mod store;
mod table;
#[cfg(test)]
mod tests;
mod transaction;
mod writer;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::PoisonError;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Mutex;
use uuid::Uuid;

use self::holding::{Evidence, Holding};
use self::link::Link;
use self::settle::SqliteSettler;
use self::sql::Names;
use self::starts::Marked;
use super::overview::{Overview, Ownership};
use super::settling::Agenda;
use super::{
    Grant, LeaseId, LedgerStore, Reader, Settler, SinkStart, Source, SourceError, StoredLedger,
};
use crate::config;
use crate::ledger::RangeSet;

pub use self::migrate::{migrate, printed};
pub use self::writer::Writer;

/// An outbox table in a SQLite file.
#[derive(Debug)]
pub struct Sqlite {
    relay: String,
    name: String,
    /// This process, for the lease: no other has the same.
    owner: String,
    path: PathBuf,
    names: Names,
    poll_interval: Duration,
    after_delivery: config::AfterDelivery,
    retention: Option<Duration>,
    /// For the lease. Readers and ledger stores have connections of their own.
    link: Mutex<Link>,
    /// What was looked up for the next holding of the lease.
    marked: Mutex<Option<Marked>>,
    /// The newest holding of the lease.
    newest_holding: std::sync::Mutex<Option<Holding>>,
}

impl Sqlite {
    /// A source by its configuration. Nothing is opened yet.
    #[must_use]
    pub fn new(relay: &config::Relay, source: &config::Source, sqlite: &config::Sqlite) -> Self {
        Self {
            relay: relay.name.clone(),
            name: source.name.clone(),
            owner: format!("{}-{}", std::process::id(), Uuid::new_v4().simple()),
            path: sqlite.path.clone(),
            names: Names::new(&sqlite.table),
            poll_interval: source.poll_interval,
            after_delivery: source.after_delivery,
            retention: source.retention,
            link: Mutex::new(Link::new(&sqlite.path)),
            marked: Mutex::new(None),
            newest_holding: std::sync::Mutex::new(None),
        }
    }

    /// Whether rows are neither marked nor deleted.
    fn keeps_everything(&self) -> bool {
        self.after_delivery == config::AfterDelivery::Keep && self.retention.is_none()
    }

    /// The lease was taken.
    fn hold(&self, holding: Holding) {
        *self.lock_holding() = Some(holding);
    }

    /// The holding that `lease` names. Nothing is known of one that is over: it is fenced off by its token.
    fn holding(&self, lease: &LeaseId) -> Holding {
        let newest = self.lock_holding().clone();
        newest
            .filter(|holding| holding.lease == *lease)
            .unwrap_or_else(|| {
                let own = (self.relay.as_str(), self.name.as_str());
                Holding::new(&self.names, own, lease, Evidence::default())
            })
    }

    fn lock_holding(&self) -> std::sync::MutexGuard<'_, Option<Holding>> {
        // Nothing panics while it is held.
        self.newest_holding
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Source for Sqlite {
    async fn inspect(&self) -> Result<(), SourceError> {
        let mut link = self.link.lock().await;
        // A session begins with the file that is there now.
        link.close().await;
        inspect::inspect(&mut link, &self.names).await
    }

    async fn prepare(&self, sinks: &[SinkStart]) -> Result<(), SourceError> {
        let marked = self.marked_before_lease(sinks).await?;
        *self.marked.lock().await = marked;
        Ok(())
    }

    async fn acquire(&self, sinks: &[SinkStart]) -> Result<Option<Grant>, SourceError> {
        self.try_acquire(sinks).await
    }

    async fn renew(&self, lease: &LeaseId) -> Result<bool, SourceError> {
        self.try_renew(lease).await
    }

    async fn release(&self, lease: &LeaseId) -> Result<(), SourceError> {
        self.try_release(lease).await
    }

    async fn join(
        &self,
        lease: &LeaseId,
        sink: &SinkStart,
    ) -> Result<Option<StoredLedger>, SourceError> {
        self.try_join(lease, sink).await
    }

    async fn reader(
        &self,
        lease: &LeaseId,
        delivered: &RangeSet,
    ) -> Result<Box<dyn Reader>, SourceError> {
        Ok(Box::new(reader::SqliteReader::new(
            Link::new(&self.path),
            self.holding(lease),
            delivered,
            self.poll_interval,
        )))
    }

    async fn settler(&self, lease: &LeaseId) -> Result<Option<Box<dyn Settler>>, SourceError> {
        if self.keeps_everything() {
            return Ok(None);
        }
        let task = settle::Task {
            names: self.names.clone(),
            relay: self.relay.clone(),
            source: self.name.clone(),
            lease: lease.clone(),
        };
        let agenda = Agenda::new(self.after_delivery, self.retention);
        let settler = SqliteSettler::new(Link::new(&self.path), task, agenda);
        Ok(Some(Box::new(settler)))
    }

    async fn overview(&self) -> Result<Option<Overview>, SourceError> {
        self.look().await.map(Some)
    }

    async fn ownership(&self) -> Result<Option<Ownership>, SourceError> {
        self.look_at_owners().await.map(Some)
    }

    async fn dead_letters(&self) -> Result<Option<BTreeMap<String, u64>>, SourceError> {
        self.count_dead_letters().await.map(Some)
    }

    async fn settling_sinks(&self) -> Result<Vec<String>, SourceError> {
        if self.keeps_everything() {
            return Ok(Vec::new());
        }
        self.find_sinks().await
    }

    fn ledger_store(&self, lease: &LeaseId, sink: &str) -> Box<dyn LedgerStore> {
        Box::new(store::SqliteLedgerStore {
            link: Link::new(&self.path),
            holding: self.holding(lease),
            sink: sink.to_owned(),
        })
    }
}
