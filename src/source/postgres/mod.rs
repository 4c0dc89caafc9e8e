//! The PostgreSQL source.
//!
//! Every statement that runs often stands on its own: no session state, no named prepared statement, so that a
//! pooler in transaction mode is as good as a direct connection (with `mode = "poll"`).

mod acquisition;
mod adopt;
#[doc(hidden)]
pub mod bench;
mod bookkeeping;
mod columns;
mod dead_letters;
mod doorbell;
mod holders;
mod holes;
mod homes;
mod inspect;
mod lease;
mod link;
mod migrate;
mod overview;
mod reader;
mod replay;
mod rows;
mod settle;
mod sql;
mod starts;
mod store;
mod transaction;
mod trigger;
mod writer;

use std::collections::BTreeMap;
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use tokio::sync::Mutex;
use uuid::Uuid;

use self::doorbell::Doorbell;
use self::inspect::Facts;
use self::link::Link;
use self::settle::PostgresSettler;
use self::sql::Names;
use self::starts::Starts;
use super::bell::Bell;
use super::bookkeeping::Abandoned;
use super::overview::{Overview, Ownership};
use super::settling::Agenda;
use super::{
    Grant, LeaseId, LedgerStore, Reader, Settler, SinkStart, Source, SourceError, StoredLedger,
};
use crate::config;
use crate::ledger::RangeSet;

pub use self::adopt::{Adoption, Choices, InvalidPublished, Published};
pub use self::migrate::{migrate, printed};
pub use self::writer::Writer;

/// The server that answers: its system identifier, its timeline, and when it was started. Everything remembered
/// about a source belongs to one of these.
const INCARNATION: &str = "((SELECT system_identifier::text FROM pg_control_system()) || '/' \
    || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) || '/' \
    || extract(epoch FROM pg_postmaster_start_time())::text)";

/// An outbox table in PostgreSQL.
#[derive(Debug)]
pub struct Postgres {
    relay: String,
    name: String,
    /// This process, for the lease: no other has the same.
    owner: String,
    names: Arc<Names>,
    columns: config::Columns,
    mode: config::Mode,
    poll_interval: Duration,
    wait_for_flush: bool,
    after_delivery: config::AfterDelivery,
    retention: Option<Duration>,
    options: PgConnectOptions,
    /// For the lease. Readers and ledger stores have connections of their own.
    link: Mutex<Link>,
    facts: Mutex<Option<Arc<Facts>>>,
    /// For the next acquisition.
    starts: Mutex<Starts>,
}

impl Postgres {
    /// A source by its configuration. Nothing is connected yet.
    ///
    /// # Errors
    /// If the URL can't be read.
    pub fn new(
        relay: &config::Relay,
        source: &config::Source,
        postgres: &config::Postgres,
    ) -> Result<Self, SourceError> {
        let options = connect_options(postgres, &relay.name)?;
        Ok(Self {
            relay: relay.name.clone(),
            name: source.name.clone(),
            owner: format!("{}-{}", std::process::id(), Uuid::new_v4().simple()),
            names: Arc::new(Names::new(&postgres.table, &postgres.columns)),
            columns: postgres.columns.clone(),
            mode: postgres.mode,
            poll_interval: source.poll_interval,
            wait_for_flush: postgres.wait_for_flush,
            after_delivery: source.after_delivery,
            // With `delete` there is nothing left to grow old.
            retention: source
                .retention
                .filter(|_| source.after_delivery != config::AfterDelivery::Delete),
            link: Mutex::new(Link::new(options.clone())),
            options,
            facts: Mutex::new(None),
            starts: Mutex::default(),
        })
    }

    /// Whether no row is ever marked or deleted.
    fn keeps_everything(&self) -> bool {
        self.after_delivery == config::AfterDelivery::Keep && self.retention.is_none()
    }

    /// The condition that selects this source's row in the relay's tables.
    fn key_sql(&self) -> String {
        format!(
            "relay = {} AND source = {}",
            sql::literal(&self.relay),
            sql::literal(&self.name)
        )
    }

    /// What the last inspection found, or a new one.
    async fn inspected(&self) -> Result<Arc<Facts>, SourceError> {
        if let Some(facts) = &*self.facts.lock().await {
            return Ok(Arc::clone(facts));
        }
        self.inspect_now().await
    }

    async fn inspect_now(&self) -> Result<Arc<Facts>, SourceError> {
        let mut link = self.link.lock().await;
        let facts = inspect::inspect(&mut link, &self.names, &self.columns, self.mode).await?;
        let facts = Arc::new(facts);
        *self.facts.lock().await = Some(Arc::clone(&facts));
        Ok(facts)
    }
}

#[async_trait]
impl Source for Postgres {
    async fn inspect(&self) -> Result<(), SourceError> {
        self.inspect_now().await.map(drop)
    }

    async fn prepare(&self, sinks: &[SinkStart]) -> Result<(), SourceError> {
        let starts = self.starts_before_lease(sinks).await?;
        *self.starts.lock().await = starts;
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
        // Of the inspection before the lease. A connection that is made here would end with the pipeline's thread, and
        // the one of `link` is everybody's.
        let facts = self.facts.lock().await.clone();
        Ok(Box::new(reader::PostgresReader::new(reader::Task {
            options: self.options.clone(),
            names: Arc::clone(&self.names),
            facts: facts.ok_or(SourceError::Changed)?,
            lease: lease.clone(),
            delivered,
            idle_wait: match self.mode {
                config::Mode::Poll => self.poll_interval,
                config::Mode::Notify { fallback } => fallback,
            },
            wait_for_flush: self.wait_for_flush,
        })))
    }

    fn doorbell(&self) -> Option<(Bell, BoxFuture<'static, ()>)> {
        if self.mode == config::Mode::Poll {
            return None;
        }
        let (bell, ringer) = Bell::new(self.poll_interval);
        let options = self.options.clone();
        let doorbell = Doorbell::new(
            options,
            &self.names,
            ringer,
            &self.relay,
            &self.name,
            self.poll_interval,
        );
        Some((bell, Box::pin(doorbell.ring())))
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

    async fn abandoned(&self) -> Result<Vec<Abandoned>, SourceError> {
        if self.keeps_everything() {
            return Ok(Vec::new());
        }
        self.find_abandoned().await
    }

    async fn settling_sinks(&self) -> Result<Vec<String>, SourceError> {
        if self.keeps_everything() {
            return Ok(Vec::new());
        }
        self.find_sinks().await
    }

    async fn settler(&self, lease: &LeaseId) -> Result<Option<Box<dyn Settler>>, SourceError> {
        if self.keeps_everything() {
            return Ok(None);
        }
        Ok(Some(Box::new(PostgresSettler {
            link: Link::new(self.options.clone()),
            names: Arc::clone(&self.names),
            lease: lease.clone(),
            key: self.key_sql(),
            agenda: Agenda::new(self.after_delivery, self.retention),
        })))
    }

    fn ledger_store(&self, lease: &LeaseId, sink: &str) -> Box<dyn LedgerStore> {
        Box::new(store::PostgresLedgerStore {
            link: Link::new(self.options.clone()),
            names: Arc::clone(&self.names),
            relay: self.relay.clone(),
            source: self.name.clone(),
            sink: sink.to_owned(),
            lease: lease.clone(),
        })
    }
}

/// How to connect: by the URL, with the TLS files of the configuration.
fn connect_options(
    postgres: &config::Postgres,
    purpose: &str,
) -> Result<PgConnectOptions, SourceError> {
    let url = postgres.url.expose();
    let options = PgConnectOptions::from_str(url).map_err(|error| {
        // The error may quote the URL, which may hold a password.
        SourceError::Refused(match error {
            sqlx::Error::Configuration(_) => "the URL of the source can't be read".to_owned(),
            other => format!("the URL of the source can't be used: {other}"),
        })
    })?;
    // A pooler refuses start-up parameters that it doesn't know.
    let mut options = options
        .extra_float_digits(None)
        .application_name(&format!("outbox-relay {purpose}"))
        .disable_statement_logging();
    if let Some(tls) = &postgres.tls {
        if let Some(ca) = &tls.ca {
            options = options.ssl_root_cert(ca);
            if !url.contains("sslmode=") {
                options = options.ssl_mode(PgSslMode::VerifyFull);
            }
        }
        if let Some((certificate, key)) = &tls.client {
            options = options.ssl_client_cert(certificate).ssl_client_key(key);
        }
    }
    Ok(options)
}
